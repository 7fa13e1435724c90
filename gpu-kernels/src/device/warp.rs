//! What the 32 threads of a warp do together. All functions take part with the full warp.

unsafe extern "C" {
    #[link_name = "llvm.nvvm.shfl.sync.bfly.i32"]
    fn shfl_bfly(mask: u32, value: u32, lane_mask: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.up.i32"]
    fn shfl_up(mask: u32, value: u32, delta: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.idx.i32"]
    fn shfl_idx(mask: u32, value: u32, lane: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.vote.ballot.sync"]
    fn vote_ballot(mask: u32, predicate: bool) -> u32;
    #[link_name = "llvm.nvvm.bar.warp.sync"]
    fn bar_warp_sync(mask: u32);
    #[link_name = "llvm.nvvm.redux.sync.umin"]
    fn redux_min(value: u32, mask: u32) -> u32;
    #[link_name = "llvm.nvvm.redux.sync.umax"]
    fn redux_max(value: u32, mask: u32) -> u32;
    #[link_name = "llvm.nvvm.redux.sync.add"]
    fn redux_add(value: u32, mask: u32) -> u32;
}

const FULL_MASK: u32 = u32::MAX;

/// Index of the thread in its warp (blocks here are one-dimensional).
#[inline(always)]
pub fn lane_id() -> u32 {
    super::thread::thread_idx_x() % 32
}

/// Index of the warp in its block.
#[inline(always)]
pub fn warp_id() -> u32 {
    super::thread::thread_idx_x() / 32
}

/// `value` of lane `lane_id() ^ lane_mask`.
///
/// # Safety
/// All 32 lanes reach this call together.
#[inline(always)]
pub unsafe fn warp_shuffle_xor(value: u32, lane_mask: u32) -> u32 {
    // SAFETY: the caller promises convergence; clamp 31 keeps the source inside the warp.
    unsafe { shfl_bfly(FULL_MASK, value, lane_mask, 31) }
}

/// `value` of lane `lane_id() - delta`; the first `delta` lanes get their own.
///
/// # Safety
/// All 32 lanes reach this call together.
#[inline(always)]
pub unsafe fn warp_shuffle_up(value: u32, delta: u32) -> u32 {
    // SAFETY: the caller promises convergence; clamp 0 makes out-of-range lanes keep their own.
    unsafe { shfl_up(FULL_MASK, value, delta, 0) }
}

/// `value` of lane `lane % 32`.
///
/// # Safety
/// All 32 lanes reach this call together.
#[inline(always)]
pub unsafe fn warp_shuffle_idx(value: u32, lane: u32) -> u32 {
    // SAFETY: the caller promises convergence; clamp 31 keeps the source inside the warp.
    unsafe { shfl_idx(FULL_MASK, value, lane, 31) }
}

/// A bit for each lane whose `predicate` holds, in every lane.
///
/// # Safety
/// All 32 lanes reach this call together.
#[inline(always)]
pub unsafe fn ballot(predicate: bool) -> u32 {
    // SAFETY: the caller promises convergence.
    unsafe { vote_ballot(FULL_MASK, predicate) }
}

/// Waits for the other lanes, and sees what they wrote before.
///
/// # Safety
/// All 32 lanes reach this call.
#[inline(always)]
pub unsafe fn sync() {
    // SAFETY: the caller's.
    unsafe { bar_warp_sync(FULL_MASK) }
}

/// The smallest `value` of the warp, in every lane.
///
/// # Safety
/// All 32 lanes reach this call together.
#[inline(always)]
pub unsafe fn reduce_min(value: u32) -> u32 {
    // SAFETY: the caller promises convergence.
    unsafe { redux_min(value, FULL_MASK) }
}

/// The largest `value` of the warp, in every lane.
///
/// # Safety
/// All 32 lanes reach this call together.
#[inline(always)]
pub unsafe fn reduce_max(value: u32) -> u32 {
    // SAFETY: the caller promises convergence.
    unsafe { redux_max(value, FULL_MASK) }
}

/// The sum of `value` over the warp, in every lane.
///
/// # Safety
/// All 32 lanes reach this call together.
#[inline(always)]
pub unsafe fn reduce_add(value: u32) -> u32 {
    // SAFETY: the caller promises convergence.
    unsafe { redux_add(value, FULL_MASK) }
}

/// The largest `value` of the warp, in every lane.
///
/// # Safety
/// All 32 lanes reach this call together.
#[inline(always)]
pub unsafe fn reduce_max_u64(mut value: u64) -> u64 {
    // Five steps, written out: a loop would leave it to the optimiser how often a shuffle stands
    // in the PTX, which `cargo xtask check-ptx` counts.
    macro_rules! step {
        ($lane_mask:literal) => {
            // SAFETY: the caller promises convergence.
            let (low, high) = unsafe {
                (
                    warp_shuffle_xor(value as u32, $lane_mask),
                    warp_shuffle_xor((value >> 32) as u32, $lane_mask),
                )
            };
            value = value.max(u64::from(high) << 32 | u64::from(low));
        };
    }
    step!(16);
    step!(8);
    step!(4);
    step!(2);
    step!(1);
    value
}

/// The sum of `value` over this lane and those before it.
///
/// # Safety
/// All 32 lanes reach this call together.
#[inline(always)]
pub unsafe fn inclusive_sum(mut value: u32) -> u32 {
    macro_rules! step {
        ($delta:literal) => {
            // SAFETY: the caller promises convergence.
            let below = unsafe { warp_shuffle_up(value, $delta) };
            if lane_id() >= $delta {
                value += below;
            }
        };
    }
    step!(1);
    step!(2);
    step!(4);
    step!(8);
    step!(16);
    value
}
