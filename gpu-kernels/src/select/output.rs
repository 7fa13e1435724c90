//! The list and the weights: every thread writes where its keys belong.

use super::cut::Cut;
use super::{KEYS_PER_TILE, THREADS, keys::Keys, layout};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{block, cluster, thread, warp};
use crate::kernel::Out;
use crate::step::{Regions, StepShape};
use crate::weights::LISTED;

/// Writes the row's list, its length and its weights.
///
/// # Safety
/// Every thread of the block is here; the buffers are as the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn write(
    shape: &StepShape,
    regions: &Regions,
    keys: &Keys,
    cut: &Cut,
    positions: Out<i32>,
    lengths: Out<i32>,
    weights: Out<f32>,
) {
    // SAFETY: the caller's.
    unsafe {
        write_heavy(shape, regions, keys, cut, positions);
        write_fixed(shape, regions, positions, lengths);
        if shape.weights_stride != 0 {
            write_weights(shape, regions, keys, cut, weights);
        }
    }
}

/// Sink, window, padding and the length; in a context that is listed whole, everything.
///
/// # Safety
/// As [`write`].
#[inline(always)]
unsafe fn write_fixed(
    shape: &StepShape,
    regions: &Regions,
    positions: Out<i32>,
    lengths: Out<i32>,
) {
    let row = super::row();
    let (rank, num_blocks) = (cluster::block_rank(), cluster::num_blocks());
    let heavy_k = regions.heavy_k(shape.heavy);
    let list_len = regions.list_len(heavy_k);
    let row_at = row as usize * shape.list_stride as usize;
    let heavy = regions.sink_end..regions.sink_end + heavy_k;
    let mut i = rank * THREADS + thread::thread_idx_x();
    while i < shape.list_stride {
        if regions.list_all || !heavy.contains(&i) {
            let position = if i < list_len {
                regions.list_entry(i, heavy_k, |_| -1)
            } else {
                -1
            };
            // SAFETY: i < list_stride, and each thread of the cluster has its own entries; heavy
            // entries are written by the threads that have the keys.
            unsafe { positions.set(row_at + i as usize, position) };
        }
        i += num_blocks * THREADS;
    }
    if rank == 0 && thread::thread_idx_x() == 0 {
        // SAFETY: one length for each row, written by this thread alone.
        unsafe { lengths.set(row as usize, list_len as i32) };
    }
}

/// # Safety
/// As [`write`].
#[inline(always)]
unsafe fn write_heavy(
    shape: &StepShape,
    regions: &Regions,
    keys: &Keys,
    cut: &Cut,
    positions: Out<i32>,
) {
    // SAFETY: every thread of the block is here; only candidates are asked for; slots count the
    // candidates taken before a thread's, heavy_k in all, so each entry of the list is written once.
    unsafe {
        let mut count = 0;
        for i in keys.start..keys.end {
            count += u32::from(cut.takes(keys, i));
        }
        let (through, _) = block::inclusive_sum(count, dynamic_shared_mem(layout::SUMS));
        if !regions.list_all && count > 0 {
            let row_at = super::row() as usize * shape.list_stride as usize;
            let mut slot = regions.sink_end + cut.before + through - count;
            for i in keys.start..keys.end {
                if cut.takes(keys, i) {
                    positions.set(row_at + slot as usize, (keys.position + i) as i32);
                    slot += 1;
                }
            }
        }
    }
}

/// # Safety
/// As [`write`].
#[inline(always)]
unsafe fn write_weights(
    shape: &StepShape,
    regions: &Regions,
    keys: &Keys,
    cut: &Cut,
    weights: Out<f32>,
) {
    let row_at = super::row() as usize * shape.weights_stride as usize;
    let weight = |listed: bool| if listed { LISTED } else { 0.0 };
    let fixed = |position: u32| {
        position < regions.seq_len
            && (regions.list_all || position < regions.sink_end || position >= regions.window_start)
    };

    // Positions without codes: the first init_offset, a share for each block.
    let mut position = cluster::block_rank() * THREADS + thread::thread_idx_x();
    while position < shape.init_offset.min(shape.weights_stride) {
        // SAFETY: inside the row; each thread of the cluster has its own.
        unsafe { weights.set(row_at + position as usize, weight(fixed(position))) };
        position += cluster::num_blocks() * THREADS;
    }

    // A tile of a thread's keys at a time, a bit for each that is listed, for whatever reason. They are
    // stored by fours, two lanes side by side: a lane's bits come from the thread whose keys they are.
    let lane = warp::lane_id();
    let warp_first = keys.first - lane * keys.per_thread;
    let aligned = (row_at + shape.init_offset as usize) % 4 == 0;
    let end = shape.weights_stride.saturating_sub(shape.init_offset);
    let mut tile = 0;
    while tile < keys.per_thread {
        // Bits of the tile's positions below a bound, or of its keys.
        let below =
            |bound: u32, first: u32| (1u32 << bound.saturating_sub(first).min(KEYS_PER_TILE)) - 1;
        let position = keys.position + tile;
        let mut listed = 0;
        if !regions.list_all {
            let candidates = below(keys.end, tile) & !below(keys.start, tile);
            for i in 0..KEYS_PER_TILE {
                // SAFETY: every key of the thread has a word; others than candidates are masked.
                listed |= u32::from(unsafe { cut.takes(keys, tile + i) }) << i;
            }
            listed &= candidates;
            listed |= below(regions.sink_end, position);
            listed |= below(regions.seq_len, position) & !below(regions.window_start, position);
        } else {
            listed |= below(regions.seq_len, position);
        }
        macro_rules! step {
            ($s:literal) => {
                let source = $s * 16 + lane / 2;
                // SAFETY: every thread of the block is here: `per_thread` is the same in all.
                let bits = unsafe { warp::warp_shuffle_idx(listed, source) } >> (lane % 2 * 4);
                let code = warp_first + source * keys.per_thread + tile + lane % 2 * 4;
                let at = row_at + (shape.init_offset + code) as usize;
                let bit = |i: u32| weight(bits >> i & 1 == 1);
                let values = [bit(0), bit(1), bit(2), bit(3)];
                if aligned && code + 4 <= end {
                    // SAFETY: inside the row and aligned; each thread has its own four.
                    unsafe { weights.set4(at, values) };
                } else {
                    let mut i = 0;
                    while i < 4 && code + i < end {
                        // SAFETY: inside the row; each thread has its own four.
                        unsafe { weights.set(at + i as usize, bit(i)) };
                        i += 1;
                    }
                }
            };
        }
        step!(0);
        step!(1);
        tile += KEYS_PER_TILE;
    }
}
