//! The source of threaded.ptx and whole.ptx: a condition that is asked again behind a barrier. Not
//! compiled by the tests: both files are what rustc 1.96.0 with LLVM 22 wrote for nvptx64-nvidia-cuda with
//! the flags of `cargo xtask build-ptx` for sm_80, threaded.ptx without
//! `-Zmir-enable-passes=-JumpThreading`.
#![no_std]
#![feature(abi_ptx, stdarch_nvptx)]

use core::arch::nvptx::{_syncthreads, _thread_idx_x};

#[unsafe(no_mangle)]
pub unsafe extern "ptx-kernel" fn reversed(data: *mut u32, reversed: *mut u32, n: u32) {
    unsafe {
        let t = _thread_idx_x() as u32;
        if t < n {
            data.add(t as usize).write(t);
        }
        _syncthreads();
        if t < n {
            reversed
                .add(t as usize)
                .write(data.add((n - 1 - t) as usize).read());
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
