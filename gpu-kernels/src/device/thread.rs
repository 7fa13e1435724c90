//! Where a thread is, and the block barrier.

use core::arch::nvptx;

/// Index of the thread in its block.
#[inline(always)]
pub fn thread_idx_x() -> u32 {
    // SAFETY: reads a special register.
    unsafe { nvptx::_thread_idx_x() as u32 }
}

/// `value`, about which the optimiser knows nothing: for loops around barriers that it must not unroll.
#[inline(always)]
pub fn opaque(value: u32) -> u32 {
    let result: u32;
    // SAFETY: moves a register.
    unsafe {
        core::arch::asm!("mov.u32 {}, {};", out(reg32) result, in(reg32) value,
                         options(nomem, nostack, preserves_flags))
    };
    result
}

/// At the beginning of a loop's body: the assembler must not unroll it, whose registers are few.
#[inline(always)]
pub fn no_unroll() {
    // SAFETY: no instruction.
    unsafe {
        core::arch::asm!(
            ".pragma \"nounroll\";",
            options(nomem, nostack, preserves_flags)
        )
    };
}

/// Threads of a block.
#[inline(always)]
pub fn block_dim_x() -> u32 {
    // SAFETY: reads a special register.
    unsafe { nvptx::_block_dim_x() as u32 }
}

/// Index of the block along x.
#[inline(always)]
pub fn block_idx_x() -> u32 {
    // SAFETY: reads a special register.
    unsafe { nvptx::_block_idx_x() as u32 }
}

/// Index of the block along y.
#[inline(always)]
pub fn block_idx_y() -> u32 {
    // SAFETY: reads a special register.
    unsafe { nvptx::_block_idx_y() as u32 }
}

/// Blocks of the grid along x.
#[inline(always)]
pub fn grid_dim_x() -> u32 {
    // SAFETY: reads a special register.
    unsafe { nvptx::_grid_dim_x() as u32 }
}

/// Blocks of the grid along y.
#[inline(always)]
pub fn grid_dim_y() -> u32 {
    // SAFETY: reads a special register.
    unsafe { nvptx::_grid_dim_y() as u32 }
}

/// Waits for all threads of the block, and makes their shared and global writes visible to it.
///
/// # Safety
/// Every thread of the block reaches this call, or none does.
#[inline(always)]
pub unsafe fn sync_threads() {
    // SAFETY: the caller promises uniform arrival.
    unsafe { nvptx::_syncthreads() }
}
