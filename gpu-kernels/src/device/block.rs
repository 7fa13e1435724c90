//! What the threads of a block do together.

use super::shared::SharedArray;
use super::thread::sync_threads;
use super::warp;

/// The sum of `value` over this thread and those before it in the block, and over the whole block.
///
/// # Safety
/// Every thread of the block reaches this call; the block is whole warps, at most 32;
/// `scratch` has [`SUM_WORDS`](crate::collectives::SUM_WORDS) words that nothing else uses from the barrier before this call
/// to the barrier after it.
#[inline(always)]
pub unsafe fn inclusive_sum(value: u32, scratch: SharedArray<u32>) -> (u32, u32) {
    // SAFETY: the caller's. The next call may write `scratch` as soon as it begins.
    unsafe {
        let sums = inclusive_sum_once(value, scratch);
        sync_threads();
        sums
    }
}

/// [`inclusive_sum`] that leaves it to the caller to wait before `scratch` is used again.
///
/// # Safety
/// As [`inclusive_sum`].
#[inline(always)]
pub unsafe fn inclusive_sum_once(value: u32, scratch: SharedArray<u32>) -> (u32, u32) {
    // SAFETY: every lane of every warp is here, as the caller promises; word `warp_id` is written by
    // the warp's last lane alone, and read after the barrier.
    unsafe {
        let within_warp = warp::inclusive_sum(value);
        if warp::lane_id() == 31 {
            scratch.set(warp::warp_id(), within_warp);
        }
        sync_threads();
        // Every warp adds up the warps' sums for itself, a lane each.
        let lane = warp::lane_id();
        let in_use = lane < super::thread::block_dim_x() / 32;
        let sum = if in_use { scratch.get(lane) } else { 0 };
        let before = warp::reduce_add(if lane < warp::warp_id() { sum } else { 0 });
        let total = warp::reduce_add(sum);
        (before + within_warp, total)
    }
}

/// The sum of `value` over the block.
///
/// # Safety
/// As [`inclusive_sum`].
#[inline(always)]
pub unsafe fn sum(value: u32, scratch: SharedArray<u32>) -> u32 {
    // SAFETY: as in `inclusive_sum_once`; word `warp_id` is written by the warp's lane 0 alone.
    unsafe {
        let within_warp = warp::reduce_add(value);
        if warp::lane_id() == 0 {
            scratch.set(warp::warp_id(), within_warp);
        }
        sync_threads();
        let lane = warp::lane_id();
        let in_use = lane < super::thread::block_dim_x() / 32;
        let total = warp::reduce_add(if in_use { scratch.get(lane) } else { 0 });
        sync_threads();
        total
    }
}

/// The largest `value` of the block.
///
/// # Safety
/// As [`inclusive_sum`].
#[inline(always)]
pub unsafe fn max(value: u32, scratch: SharedArray<u32>) -> u32 {
    // SAFETY: as in `sum`.
    unsafe {
        let within_warp = warp::reduce_max(value);
        if warp::lane_id() == 0 {
            scratch.set(warp::warp_id(), within_warp);
        }
        sync_threads();
        let lane = warp::lane_id();
        let in_use = lane < super::thread::block_dim_x() / 32;
        let largest = warp::reduce_max(if in_use { scratch.get(lane) } else { 0 });
        sync_threads();
        largest
    }
}

/// The threads' values added as [`crate::aggregate::tree_sum`] adds its lanes.
///
/// # Safety
/// Every thread of the block reaches this call; the block has [`LANES`](crate::aggregate::LANES) threads;
/// `scratch` has a word for each, which nothing else uses from the barrier before this call to the one at
/// its end.
#[inline(always)]
pub unsafe fn tree_sum(value: f32, scratch: SharedArray<f32>) -> f32 {
    let thread = super::thread::thread_idx_x();
    // SAFETY: every thread has its own word, and reads another's behind a barrier.
    unsafe {
        scratch.set(thread, value);
        let mut half = super::thread::opaque(crate::aggregate::LANES as u32 / 2);
        while half > 0 {
            sync_threads();
            if thread < half {
                scratch.set(thread, scratch.get(thread) + scratch.get(thread + half));
            }
            half /= 2;
        }
        sync_threads();
        let total = scratch.get(0);
        sync_threads();
        total
    }
}
