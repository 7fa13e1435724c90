//! Steps on a caller's arrays in device memory and on a stream of the caller's, which may be captured into
//! a graph of the caller's.
//!
//! Nothing is allocated, copied to the host or waited for. Keys are not asked whether they are finite.

use cust::sys;
use gpu_kernels::gather::Gather;
use gpu_kernels::kernel::In;

pub use super::array::DeviceArray;
use super::buffer::Buffer;
use super::device::Device;
use super::error::OrDriverError;
use super::launch::{Grid, launch};
use super::out::OutLists;
use super::step::{Stale, Step};
use crate::error::{Error, Result};

/// Threads of a block, and blocks at most.
pub(super) const THREADS: usize = 256;
pub(super) const MAX_BLOCKS: usize = 1024;

impl Device {
    /// Waits for everything that was enqueued on `stream`, and whether it went well.
    ///
    /// # Safety
    /// `stream` is a stream of the device's primary context, or its null stream.
    ///
    /// # Errors
    /// What the driver answers.
    pub unsafe fn wait_for(&self, stream: sys::CUstream) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's.
        unsafe { sys::cuStreamSynchronize(stream) }.or_driver_error()
    }
}

/// Whether what is enqueued on a stream goes into a graph.
pub(super) unsafe fn is_captured(stream: sys::CUstream) -> Result<bool> {
    let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    // SAFETY: the caller's stream is alive; the out-pointer is valid.
    unsafe { sys::cuStreamIsCapturing(stream, &raw mut status) }.or_driver_error()?;
    Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// They share one safety contract: arrays describe memory of the primary context of [`Step::device`] that is written in
/// the order of `stream`; `stream` is a stream of that context, or its null stream; and it is not destroyed before a later
/// call on another stream, or one that reads or waits, has succeeded, or the step is dropped.
///
/// On a stream that is being captured nothing is done now, and [`Step::seq_len`] stays. The graph does the step at each of
/// its launches, which the step is to be told of by [`Step::replayed`], each before it is launched. There is no order between
/// what was enqueued before the capture and in it: wait before the first launch.
#[allow(clippy::missing_safety_doc)] // the one contract above
impl Step {
    /// Lists what `queries` `[batch, num_qo_heads, num_queries, head_dim]` attend to, into
    /// [`Step::device_buffers`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for another shape, or for a captured stream where the step has something to put right first (a
    /// variant was set, a call failed); what the driver answers.
    pub unsafe fn select_on(&mut self, queries: &DeviceArray, stream: sys::CUstream) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.select_into(queries, None, stream) }
    }

    /// [`Step::select_on`] that also writes the lists to arrays of the caller's, in the order of the stream.
    ///
    /// # Errors
    /// As [`Step::select_on`]; [`Error::Invalid`] for arrays of other lengths than the step's lists.
    pub unsafe fn select_into(
        &mut self,
        queries: &DeviceArray,
        lists: Option<&OutLists>,
        stream: sys::CUstream,
    ) -> Result<()> {
        queries.check_shape("queries", self.queries_shape())?;
        // SAFETY: the caller's.
        let captured = unsafe { self.pass_to_caller(stream, lists, self.seq_len)? };
        self.on(captured, |step, captured| {
            // SAFETY: the caller's.
            unsafe { step.gather((queries, &step.queries), None)? };
            if !captured {
                step.listed_len = None;
            }
            step.enqueue_lists()?;
            if let Some(lists) = lists {
                // SAFETY: the caller's; they fit.
                unsafe { step.enqueue_lists_to(lists)? };
            }
            if !captured {
                step.listed_len = Some(step.seq_len);
            }
            Ok(())
        })
    }

    /// One decode step: encodes `new_keys` `[batch, num_kv_heads, 1, head_dim]`, advances the lengths and lists as
    /// [`Step::select_on`].
    ///
    /// # Errors
    /// As [`Step::select_on`]; [`Error::Capacity`] when there is no room for another token.
    pub unsafe fn step_on(
        &mut self,
        new_keys: &DeviceArray,
        queries: &DeviceArray,
        stream: sys::CUstream,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.step_into(new_keys, queries, None, stream) }
    }

    /// [`Step::step_on`] that also writes the lists to arrays of the caller's, in the order of the stream.
    ///
    /// # Errors
    /// As [`Step::step_on`]; [`Error::Invalid`] for arrays of other lengths than the step's lists.
    pub unsafe fn step_into(
        &mut self,
        new_keys: &DeviceArray,
        queries: &DeviceArray,
        lists: Option<&OutLists>,
        stream: sys::CUstream,
    ) -> Result<()> {
        queries.check_shape("queries", self.queries_shape())?;
        let [batch, heads, head_dim] = self.keys_shape();
        new_keys.check_shape("keys", [batch, heads, 1, head_dim])?;
        self.check_room()?;
        // SAFETY: the caller's.
        let captured = unsafe { self.pass_to_caller(stream, lists, self.seq_len + 1)? };
        self.on(captured, |step, captured| {
            // SAFETY: the caller's.
            unsafe { step.gather((new_keys, &step.new_keys), Some((queries, &step.queries)))? };
            let enqueue = |step: &mut Self| {
                step.enqueue_step(&mut |_| Ok(()))?;
                // SAFETY: the caller's; they fit.
                lists.map_or(Ok(()), |lists| unsafe { step.enqueue_lists_to(lists) })
            };
            match captured {
                true => enqueue(step),
                false => step.step_once(enqueue),
            }
        })
    }

    /// Encodes keys `[batch, num_kv_heads, tokens, head_dim]` and adds them to the context.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another shape or a captured stream, [`Error::Capacity`] when they do not fit; what the driver
    /// answers.
    pub unsafe fn append_on(&mut self, keys: &DeviceArray, stream: sys::CUstream) -> Result<()> {
        let [batch, heads, head_dim] = self.keys_shape();
        let tokens = keys.shape()[2];
        keys.check_shape("keys", [batch, heads, tokens, head_dim])?;
        let capacity = self.origin.capacity();
        if tokens > capacity - self.seq_len {
            return Err(Error::Capacity {
                seq_len: self.seq_len,
                additional: tokens,
                capacity,
            });
        }
        if tokens == 0 {
            return Ok(());
        }
        self.device.enter()?;
        // SAFETY: the caller's.
        if unsafe { is_captured(stream)? } {
            let expected = "one that is not captured: step_on appends there";
            return Err(Error::invalid("stream", "a captured one", expected));
        }
        self.refresh()?;
        // Lengths are written on the step's own stream.
        self.turn.pass_to(self.stream.as_inner())?;
        self.write_sequences()?;
        self.turn.pass_to(stream)?;
        self.is_uploaded = false;
        let result = (|| {
            let mut done = 0;
            while done < tokens {
                let now = self.new_keys_room.min(tokens - done);
                let keys = keys.slice(done..done + now);
                // SAFETY: the caller's.
                unsafe { self.gather((&keys, &self.new_keys), None)? };
                self.enqueue_codes(done, now)?;
                done += now;
            }
            self.enqueue_advance(tokens)?;
            self.enqueue_tuple_counts()
        })();
        result.inspect_err(|_: &Error| self.stale = Stale::Everything)?;
        self.seq_len += tokens;
        Ok(())
    }

    /// Says that a graph with a captured [`Step::step_on`] is about to be launched `steps` times on `stream`, which later calls
    /// then come behind.
    ///
    /// # Errors
    /// [`Error::Capacity`] when there is no room for that many tokens: the graph must not be launched.
    pub unsafe fn replayed(&mut self, steps: usize, stream: sys::CUstream) -> Result<()> {
        let capacity = self.origin.capacity();
        if steps > capacity - self.seq_len {
            return Err(Error::Capacity {
                seq_len: self.seq_len,
                additional: steps,
                capacity,
            });
        }
        self.device.enter()?;
        self.turn.pass_to(stream)?;
        self.seq_len += steps;
        self.listed_len = Some(self.seq_len);
        Ok(())
    }

    /// Lets `stream` wait for the step's work so far, before the caller reads [`Step::device_buffers`] there. The host does
    /// not wait. A captured stream waits for nothing: what it reads, the same capture writes.
    ///
    /// # Errors
    /// What the driver answers.
    pub unsafe fn hand_over_to(&self, stream: sys::CUstream) -> Result<()> {
        self.device.enter()?;
        // SAFETY: the caller's.
        if unsafe { is_captured(stream)? } {
            return Ok(());
        }
        // What was enqueued before stays where it is: later work comes behind it there.
        let latest = self.turn.stream();
        self.turn.pass_to(stream)?;
        self.turn.lend_to(latest);
        Ok(())
    }

    /// The context's length at the step whose lists are on the device, if there are any.
    pub fn listed_len(&self) -> Option<usize> {
        self.listed_len
    }

    fn queries_shape(&self) -> [usize; 4] {
        let heads = self.shape.num_qo_heads as usize;
        let queries = self.shape.num_queries as usize;
        [self.batch, heads, queries, self.head_dim()]
    }

    fn keys_shape(&self) -> [usize; 3] {
        [self.batch, self.origin.num_kv_heads(), self.head_dim()]
    }

    /// Makes the caller's stream the one that launches go to, if what is listed at `seq_len` tokens fits `lists`. Some where
    /// it is captured: then the stream that had the turn before.
    unsafe fn pass_to_caller(
        &mut self,
        stream: sys::CUstream,
        lists: Option<&OutLists>,
        seq_len: usize,
    ) -> Result<Option<sys::CUstream>> {
        self.device.enter()?;
        // SAFETY: the caller's.
        let is_captured = unsafe { is_captured(stream)? };
        if let Some(lists) = lists {
            self.check_lists(lists, seq_len, is_captured)?;
        }
        if !is_captured {
            self.refresh()?;
            self.turn.pass_to(stream)?;
            return Ok(None);
        }
        if self.stale != Stale::Nothing {
            return Err(Error::invalid(
                "stream",
                "a captured one, with lengths to be put right first",
                "a select or step on a stream that is not captured before",
            ));
        }
        Ok(Some(self.turn.lend_to(stream)))
    }

    /// Enqueues on the caller's stream; behind a capture the turn goes back to where it was.
    fn on(
        &mut self,
        captured: Option<sys::CUstream>,
        enqueue: impl FnOnce(&mut Self, bool) -> Result<()>,
    ) -> Result<()> {
        if captured.is_none() {
            self.is_uploaded = false;
        }
        let result = enqueue(self, captured.is_some());
        if let Some(latest) = captured {
            self.turn.lend_to(latest);
        }
        result
    }

    /// Brings one array together, or two by the same launch.
    unsafe fn gather(
        &self,
        (array, to): (&DeviceArray, &Buffer<f32>),
        other: Option<(&DeviceArray, &Buffer<f32>)>,
    ) -> Result<()> {
        let shape = array.gather_shape();
        assert!(shape.len as usize <= to.len());
        let (other_array, other_to) = other.unwrap_or((array, to));
        let mut other_shape = other_array.gather_shape();
        assert!(other_shape.len as usize <= other_to.len());
        if other.is_none() {
            other_shape.len = 0;
        }
        let args = Gather {
            source: In::from_address(array.address()),
            gathered: to.output(),
            other: In::from_address(other_array.address()),
            other_gathered: other_to.output(),
            shape,
            other_shape,
        };
        let len = (shape.len + other_shape.len) as usize;
        let grid = Grid(len.div_ceil(THREADS).min(MAX_BLOCKS), 1);
        // SAFETY: the arrays are the caller's promise, and the buffers are long enough.
        unsafe { launch(&self.device, self.turn.stream(), grid, 0, &args) }
    }
}
