//! A step captured and replayed, on the step's own stream or on one of the caller's.

use cust::sys;

use super::graph::StepGraph;
use super::step::{Stale, Step};
use crate::error::{Error, Result};

/// Addresses in device memory, and what is there. They stay the same as long as the step lives.
///
/// Inputs are written before a step is enqueued, results read behind it, on the stream that replays it
/// or in an order with it that the caller sees to. Results are the step's to write: it changes only
/// what differs from the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceBuffers {
    /// Input: `f32` `[batch, num_qo_heads, num_queries, head_dim]`.
    pub queries: u64,
    /// Input: `f32` `[batch, num_kv_heads, head_dim]`, the key of the position that the step appends.
    /// Finite: on the device nothing checks that.
    pub new_keys: u64,
    /// Result: `i32` `[batch, num_qo_heads, num_queries, list_stride]`, ascending, then -1.
    pub positions: u64,
    /// Result: `i32` `[batch, num_qo_heads, num_queries]`, positions of each list.
    pub lengths: u64,
    /// Result, if the selector was made with weights: `f32`
    /// `[batch, num_qo_heads, num_queries, weights_stride]`, 1 at listed positions, 0 at others of the
    /// context; unspecified behind it.
    pub weights: Option<u64>,
    /// Result, if the configuration asks for it: the lists as `i32` or `i64`.
    pub indices: Option<u64>,
    /// Elements from one list to the next.
    pub list_stride: usize,
    /// Elements from one row of weights to the next; 0 without weights.
    pub weights_stride: usize,
}

impl Step {
    /// Captures the launches of [`Step::enqueue`] into a graph. It stays valid while the context grows,
    /// up to the index's capacity.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn capture(&mut self) -> Result<StepGraph> {
        self.device.enter()?;
        let of = (self.id, self.variant);
        let launches = self.launches;
        let device = self.device.clone();
        let stream = self.stream.as_inner();
        let latest = self.turn.lend_to(stream);
        let graph = StepGraph::capture(of, device, &stream, || self.enqueue_step(&mut |_| Ok(())));
        self.turn.lend_to(latest);
        self.launches = launches;
        graph
    }

    /// Enqueues a captured step on what was uploaded; nothing is allocated, copied or waited for.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the graph was captured from another step or nothing is uploaded,
    /// [`Error::Capacity`] when there is no room for another token; what the driver answers.
    pub fn replay(&mut self, graph: &StepGraph) -> Result<()> {
        self.check_graph(graph)?;
        self.check_room()?;
        self.device.enter()?;
        self.check_uploaded()?;
        let stream = self.stream.as_inner();
        // SAFETY: the step's own stream, which lives as long as the step; inputs are uploaded.
        unsafe { self.replay_on(graph, stream) }
    }

    /// As [`Step::replay`], on a stream of the caller's: behind what the caller enqueued there, and on
    /// queries and new keys that were uploaded or that the caller's kernels write at
    /// [`Step::device_buffers`].
    ///
    /// Where the last replay was on another stream, this one waits for it on the device; the host never
    /// waits. All other calls come behind the replay as behind [`Step::replay`]; but what is enqueued
    /// on [`Step::stream`] without the step does not.
    ///
    /// # Safety
    /// - `stream` is a stream of the primary context of [`Step::device`], or its null stream, and
    ///   nothing captures it.
    /// - It is not destroyed before a later call that uploads, enqueues, reads or waits
    ///   ([`Step::synchronize`] for one), or a replay on another stream, has succeeded, or the step is
    ///   dropped.
    /// - Queries and new keys are on the device, or will be in the order of the stream.
    ///
    /// # Errors
    /// As [`Step::replay`], but for inputs.
    pub unsafe fn replay_on(&mut self, graph: &StepGraph, stream: sys::CUstream) -> Result<()> {
        self.check_graph(graph)?;
        self.check_room()?;
        self.device.enter()?;
        let before = std::mem::replace(&mut self.variant, graph.variant());
        if self.variant != before {
            self.stale = Stale::Everything;
        }
        self.refresh()
            .and_then(|()| self.turn.pass_to(stream))
            // SAFETY: the caller's stream is alive, and the buffers are this step's.
            .and_then(|()| self.step_once(|_| unsafe { graph.launch(stream) }))
            .inspect_err(|_| {
                if self.variant != before {
                    self.variant = before;
                    self.stale = Stale::Everything;
                }
            })
    }

    fn check_graph(&self, graph: &StepGraph) -> Result<()> {
        if graph.step_id() == self.id {
            return Ok(());
        }
        Err(Error::invalid(
            "graph",
            "one captured from another step",
            "one captured from this step",
        ))
    }

    /// Where kernels of the caller's put a step's inputs and find its results.
    pub fn device_buffers(&self) -> DeviceBuffers {
        DeviceBuffers {
            queries: self.queries.address(),
            new_keys: self.new_keys.address(),
            positions: self.list.positions.address(),
            lengths: self.list.lengths.address(),
            weights: (self.shape.weights_stride > 0).then(|| self.list.weights.address()),
            indices: self.indices.address(),
            list_stride: self.shape.list_stride as usize,
            weights_stride: self.shape.weights_stride as usize,
        }
    }
}
