//! What the device has and `core` has not: every intrinsic and every line of assembly is here.
//!
//! Names follow `cuda_std`'s modules and functions where it has them, so that the kernels could move
//! to it by replacing this folder.
//!
//! Anything that a warp or a block does *together* (barriers, shuffles, votes) is an LLVM intrinsic,
//! never `asm!`: only intrinsics carry LLVM's `convergent` attribute, without which the optimiser
//! may duplicate them into divergent branches, and the GPU hangs.

pub mod atomic;
pub mod block;
pub mod bytes;
#[cfg(clusters)]
pub mod cluster;
pub mod float;
pub mod global;
pub mod shared;
pub mod thread;
pub mod warp;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::intrinsics::abort()
}
