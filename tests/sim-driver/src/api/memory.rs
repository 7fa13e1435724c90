//! Allocations, copies and fills.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;

use super::{Handle, driver_functions, put};
use crate::code::{Answer, INVALID_VALUE};
use crate::context::State;
use crate::machine::{self, TOTAL_MEMORY};
use crate::work::{HostPointer, Op, Until};

driver_functions! {
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        if address.is_null() {
            return Err(INVALID_VALUE);
        }
        let allocated = machine::on_current(|state| {
            state.not_while_capturing()?;
            state.allocate(bytes)
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(address, allocated) }?
    }

    /// Waits for all work before, as GPUs' drivers do.
    fn cuMemFree_v2(address: u64) {
        if address == 0 {
            return Ok(());
        }
        machine::freeing(|state| {
            let done = state.not_while_capturing().and_then(|()| state.run(&Until::All));
            state.free(address)?;
            done
        })?
    }

    /// Allocates at once.
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Handle) {
        if address.is_null() {
            return Err(INVALID_VALUE);
        }
        let allocated = machine::on_current(|state| {
            state.stream(stream as usize)?;
            state.not_while_capturing()?;
            state.allocate(bytes)
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(address, allocated) }?
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        machine::freeing(|state| {
            if !state.allocations.contains_key(&address) {
                return Err(INVALID_VALUE);
            }
            if state.lost.is_some() {
                return state.free(address);
            }
            state.enqueue(stream as usize, Op::Free(address))
        })?
    }

    fn cuMemAllocHost_v2(address: *mut *mut c_void, bytes: usize) {
        // SAFETY: the caller's condition.
        unsafe { allocate_host(address, bytes) }?
    }

    /// Ignores the flags: all of the host's memory is everyone's here.
    fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        // SAFETY: the caller's condition.
        unsafe { allocate_host(address, bytes) }?
    }

    fn cuMemFreeHost(address: *mut c_void) {
        machine::freeing(|state| {
            let done = state.run(&Until::All);
            state.host_allocations.remove(&(address as usize)).ok_or(INVALID_VALUE)?;
            done
        })?
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let free_bytes = machine::on_current(|state| Ok(state.free_bytes()))?;
        // SAFETY: the caller's condition.
        unsafe {
            put(free, free_bytes)?;
            put(total, TOTAL_MEMORY)?;
        }
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, len: usize) {
        // SAFETY: the caller's condition.
        let data = unsafe { host_bytes(from, len) }?;
        machine::on_current(|state| state.do_now(to, len, Op::Upload { to, data }))?
    }

    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, len: usize) {
        let op = Op::Download { to: HostPointer(to), from, len };
        machine::on_current(|state| state.do_now(from, len, op))?
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, len: usize) {
        machine::on_current(|state| {
            state.check(from, len)?;
            state.do_now(to, len, Op::Copy { to, from, len })
        })?
    }

    /// Takes its copy of pageable memory at once, and reads page-locked memory when it is its turn.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, len: usize, stream: Handle) {
        machine::on_current(|state| {
            state.check(to, len)?;
            let captures = state.stream(stream as usize)?.capture.is_some();
            let op = if captures || state.is_page_locked(from) {
                Op::UploadFrom { to, from: HostPointer(from.cast_mut()), len }
            } else {
                // SAFETY: the caller's condition.
                let data = unsafe { host_bytes(from, len) }?;
                Op::Upload { to, data }
            };
            state.enqueue(stream as usize, op)
        })?
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, len: usize, stream: Handle) {
        machine::on_current(|state| {
            state.check(from, len)?;
            state.enqueue(stream as usize, Op::Download { to: HostPointer(to), from, len })
        })?
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, len: usize, stream: Handle) {
        machine::on_current(|state| {
            state.check(to, len)?;
            state.check(from, len)?;
            state.enqueue(stream as usize, Op::Copy { to, from, len })
        })?
    }

    fn cuMemsetD8_v2(to: u64, value: u8, num: usize) {
        fill(to, &[value], num, None)?
    }

    fn cuMemsetD16_v2(to: u64, value: u16, num: usize) {
        fill(to, &value.to_le_bytes(), num, None)?
    }

    fn cuMemsetD32_v2(to: u64, value: c_uint, num: usize) {
        fill(to, &value.to_le_bytes(), num, None)?
    }

    fn cuMemsetD8Async(to: u64, value: u8, num: usize, stream: Handle) {
        fill(to, &[value], num, Some(stream))?
    }

    fn cuMemsetD16Async(to: u64, value: u16, num: usize, stream: Handle) {
        fill(to, &value.to_le_bytes(), num, Some(stream))?
    }

    fn cuMemsetD32Async(to: u64, value: c_uint, num: usize, stream: Handle) {
        fill(to, &value.to_le_bytes(), num, Some(stream))?
    }
}

/// Writes `num` copies of `value`, at once or in a stream.
fn fill(to: u64, value: &[u8], num: usize, stream: Option<Handle>) -> Answer {
    let len = num.checked_mul(value.len()).ok_or(INVALID_VALUE)?;
    if !to.is_multiple_of(value.len() as u64) {
        return Err(INVALID_VALUE);
    }
    machine::on_current(|state| {
        state.check(to, len)?;
        let data = Arc::from(value.repeat(num));
        let op = Op::Fill { to, data };
        match stream {
            Some(stream) => state.enqueue(stream as usize, op),
            None => state.do_now(to, len, op),
        }
    })
}

/// # Safety
/// `from` is null or valid for `len` bytes.
unsafe fn host_bytes(from: *const c_void, len: usize) -> Answer<Arc<[u8]>> {
    if from.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's condition.
    Ok(Arc::from(unsafe {
        std::slice::from_raw_parts(from.cast::<u8>(), len)
    }))
}

/// # Safety
/// `address` is null or valid.
unsafe fn allocate_host(address: *mut *mut c_void, bytes: usize) -> Answer {
    if bytes == 0 || address.is_null() {
        return Err(INVALID_VALUE);
    }
    let allocated = machine::on_current(|state| {
        state.not_while_capturing()?;
        let mut memory = vec![0u64; bytes.div_ceil(8)];
        let address = memory.as_mut_ptr() as usize;
        state.host_allocations.insert(address, memory);
        Ok(address)
    })?;
    // SAFETY: the caller's condition.
    unsafe { put(address, allocated as *mut c_void) }
}

impl State {
    /// Does a copy or fill of the default stream, which waits for the blocking streams.
    fn do_now(&mut self, address: u64, len: usize, op: Op) -> Answer {
        self.not_while_capturing()?;
        self.check(address, len)?;
        self.enqueue(0, op)?;
        self.run(&Until::Stream(0))
    }

    fn is_page_locked(&self, address: *const c_void) -> bool {
        let address = address as usize;
        let before = self.host_allocations.range(..=address).next_back();
        before.is_some_and(|(start, memory)| address < start + 8 * memory.len())
    }
}
