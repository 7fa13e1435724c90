//! Events: points in a stream's work.

use std::ptr;

use cust::sys;

use super::error::OrDriverError;
use crate::error::Result;

/// A point in a stream's work. cust's own takes a `Stream`, and a step that enqueues lends out none;
/// so the raw handle is recorded instead.
#[derive(Debug)]
pub(super) struct Event(sys::CUevent);

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// One that keeps the time. The context is current.
    pub(super) fn new() -> Result<Self> {
        Self::with_flags(sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// One that only orders streams. The context is current.
    pub(super) fn without_time() -> Result<Self> {
        Self::with_flags(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    fn with_flags(flags: sys::CUevent_flags) -> Result<Self> {
        let mut event = ptr::null_mut();
        // SAFETY: the out-pointer is valid.
        unsafe { sys::cuEventCreate(&raw mut event, flags as u32) }.or_driver_error()?;
        Ok(Event(event))
    }

    pub(super) fn record(&self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: every caller's stream outlives the call.
        unsafe { sys::cuEventRecord(self.0, stream) }.or_driver_error()
    }

    /// Lets later work of `stream` wait for what was recorded; the host does not wait.
    pub(super) fn hold(&self, stream: sys::CUstream) -> Result<()> {
        // SAFETY: the event is alive; every caller's stream outlives the call.
        unsafe { sys::cuStreamWaitEvent(stream, self.0, 0) }.or_driver_error()
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        // SAFETY: the event is alive.
        unsafe { sys::cuEventSynchronize(self.0) }.or_driver_error()
    }

    /// Microseconds from `earlier` to this event, both completed.
    pub(super) fn us_since(&self, earlier: &Event) -> Result<f64> {
        let mut milliseconds = 0.0;
        // SAFETY: the out-pointer is valid and both events are alive.
        unsafe { sys::cuEventElapsedTime(&raw mut milliseconds, earlier.0, self.0) }
            .or_driver_error()?;
        Ok(f64::from(milliseconds) * 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own. A failure here has nobody to report to.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}
