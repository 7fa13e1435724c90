//! A step captured once and replayed for every token.

use std::ptr;

use cust::sys;

use super::device::Device;
use super::error::OrDriverError;
use super::heuristics::Variant;
use crate::error::Result;

/// The launches of one step as a CUDA graph. Made by `Step::capture`, replayed by `Step::replay` or
/// `Step::replay_on`.
#[derive(Debug)]
pub struct StepGraph {
    step_id: u64,
    variant: Variant,
    executable: sys::CUgraphExec,
    num_nodes: usize,
    // Last: the graph goes before its context.
    device: Device,
}

// SAFETY: a handle that the driver lets any thread use; replays need `&mut Step`, so two threads never
// launch it at once.
unsafe impl Send for StepGraph {}

impl StepGraph {
    /// Captures what `enqueue` launches on `stream`, for the step of that id in that variant.
    pub(super) fn capture(
        (step_id, variant): (u64, Variant),
        device: Device,
        stream: &sys::CUstream,
        enqueue: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        unsafe { sys::cuStreamBeginCapture_v2(*stream, mode) }.or_driver_error()?;
        let enqueued = enqueue();
        let mut graph = Graph(ptr::null_mut());
        // The capture is ended also when a launch failed: the stream must be usable again.
        // SAFETY: the stream is alive and capturing, the out-pointer is valid.
        let ended = unsafe { sys::cuStreamEndCapture(*stream, &raw mut graph.0) }.or_driver_error();
        if ended.is_err() {
            // Once more: a stream that still captures would capture all later work. The graph is dropped.
            // SAFETY: as above.
            let _ = unsafe { sys::cuStreamEndCapture(*stream, &raw mut graph.0) };
        }
        enqueued?;
        ended?;

        let mut num_nodes = 0;
        // SAFETY: the graph is alive; a null array asks for the number alone.
        unsafe { sys::cuGraphGetNodes(graph.0, ptr::null_mut(), &raw mut num_nodes) }
            .or_driver_error()?;
        let mut executable = ptr::null_mut();
        // SAFETY: the graph is alive and the out-pointer valid; no log is asked for.
        unsafe {
            sys::cuGraphInstantiate_v2(
                &raw mut executable,
                graph.0,
                ptr::null_mut(),
                ptr::null_mut(),
                0,
            )
        }
        .or_driver_error()?;
        Ok(StepGraph {
            step_id,
            variant,
            executable,
            num_nodes,
            device,
        })
    }

    /// # Safety
    /// The step that it was captured from is alive, and so is `stream`.
    pub(super) unsafe fn launch(&self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: the graph is alive; the rest is the caller's promise.
        unsafe { sys::cuGraphLaunch(self.executable, stream) }.or_driver_error()
    }

    /// Kernel launches and memory operations of one replay.
    pub fn num_nodes(&self) -> usize {
        self.num_nodes
    }

    pub(super) fn step_id(&self) -> u64 {
        self.step_id
    }

    /// How it runs the step.
    pub fn variant(&self) -> Variant {
        self.variant
    }
}

impl Drop for StepGraph {
    fn drop(&mut self) {
        self.device.enter_to_free();
        // SAFETY: the handle is this value's own. A failure here has nobody to report to.
        let _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
    }
}

/// A captured graph, until it is instantiated.
struct Graph(sys::CUgraph);

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the handle is this value's own. A failure here has nobody to report to.
            let _ = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}
