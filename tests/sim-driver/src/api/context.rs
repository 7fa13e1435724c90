//! Primary contexts and the current one.

use std::ffi::{c_int, c_uint};
use std::ptr;

use super::{Handle, driver_functions, put};
use crate::code::{INVALID_CONTEXT, INVALID_VALUE};
use crate::machine;
use crate::work::Until;

driver_functions! {
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) {
        let gpu = machine::gpu(device)?;
        if context.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the caller's condition.
        unsafe { put(context, gpu.retain()? as Handle) }?
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        machine::gpu(device)?.release()?
    }

    fn cuDevicePrimaryCtxReset_v2(device: c_int) {
        machine::gpu(device)?.reset()?
    }

    /// Takes any flags, and ignores them.
    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) {
        machine::gpu(device)?;
    }

    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) {
        let active_now = machine::gpu(device)?.is_active();
        // SAFETY: the caller's condition.
        unsafe {
            put(flags, 0)?;
            put(active, c_int::from(active_now))?;
        }
    }

    fn cuCtxSetCurrent(context: Handle) {
        machine::set_current(context as usize)?
    }

    fn cuCtxGetCurrent(context: *mut Handle) {
        // SAFETY: the caller's condition.
        unsafe { put(context, machine::current_handle() as Handle) }?
    }

    fn cuCtxGetDevice(device: *mut c_int) {
        // SAFETY: the caller's condition.
        unsafe { put(device, machine::current()?.ordinal) }?
    }

    fn cuCtxGetApiVersion(context: Handle, version: *mut c_uint) {
        let context = match context as usize {
            0 => machine::current_handle(),
            handle => handle,
        };
        machine::context(context).map_err(|_| INVALID_CONTEXT)?;
        // SAFETY: the caller's condition.
        unsafe { put(version, 3020) }?
    }

    fn cuCtxGetFlags(flags: *mut c_uint) {
        machine::on_current(|_| Ok(()))?;
        // SAFETY: the caller's condition.
        unsafe { put(flags, 0) }?
    }

    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        machine::on_current(|_| Ok(()))?;
        // SAFETY: null or valid, as the caller answers for.
        unsafe {
            if !ptr::eq(least, ptr::null()) {
                least.write(0);
            }
            if !ptr::eq(greatest, ptr::null()) {
                greatest.write(-5);
            }
        }
    }

    fn cuCtxSynchronize() {
        machine::on_current(|state| {
            state.not_while_capturing()?;
            state.run(&Until::All)
        })?
    }
}
