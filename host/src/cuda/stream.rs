//! Streams of the library's own.

use std::ffi::c_void;
use std::ptr;

use cust::sys;

use super::error::OrDriverError;
use crate::error::Result;

/// Work in its order, which the legacy default stream neither waits for nor holds up.
///
/// cust's own ignores the flag for that. A copy on the legacy stream, by anyone in the process, would then end a
/// capture that is under way here; libcuda 580 was even seen to crash.
#[derive(Debug)]
pub struct Stream(sys::CUstream);

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A new one. The context is current.
    pub(super) fn new() -> Result<Self> {
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        let mut stream = ptr::null_mut();
        // SAFETY: the out-pointer is valid.
        unsafe { sys::cuStreamCreateWithPriority(&raw mut stream, flags, 0) }.or_driver_error()?;
        Ok(Stream(stream))
    }

    /// The driver's handle.
    pub fn as_inner(&self) -> sys::CUstream {
        self.0
    }

    /// Waits for all work so far.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { sys::cuStreamSynchronize(self.0) }.or_driver_error()
    }

    /// Has the driver call `function`, once, when all work so far is done. It must not call the driver.
    pub(super) fn call(&self, function: impl FnOnce() + Send + 'static) -> Result<()> {
        unsafe extern "C" fn call<F: FnOnce()>(function: *mut c_void) {
            // SAFETY: the pointer is `call`'s box, handed over.
            unsafe { Box::from_raw(function.cast::<F>())() }
        }
        fn of<F: FnOnce()>(_: &F) -> unsafe extern "C" fn(*mut c_void) {
            call::<F>
        }
        let trampoline = of(&function);
        let function = Box::into_raw(Box::new(function));
        // SAFETY: the stream is alive; the box is the driver's until it calls.
        let called = unsafe { sys::cuLaunchHostFunc(self.0, Some(trampoline), function.cast()) };
        called.or_driver_error().inspect_err(|_| {
            // SAFETY: the driver did not take it.
            drop(unsafe { Box::from_raw(function) });
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is alive, and nobody has it any more. Where it fails, the context is gone.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.0) };
    }
}
