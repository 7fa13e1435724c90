//! Dense weights: 1.0 at every listed position of a row, 0.0 at the others.

use crate::kernel::{In, Out};
use crate::step::{SequenceParams, StepShape};

/// The weight of a listed position.
pub const LISTED: f32 = 1.0;

/// Positions that one block fills.
pub const POSITIONS_PER_BLOCK: u32 = 4096;

/// The number of list entries below `bound`: `list` ascends over its `len` entries.
#[inline(always)]
pub fn entries_below(bound: u32, len: u32, list: impl Fn(u32) -> i32) -> u32 {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if (list(middle) as u32) < bound {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Writes the weights of the positions of a row that have no codes, its first `init_offset`. Block `block` of
/// `num_blocks` writes its share.
///
/// # Safety
/// Every thread of the block is here; `weights` is as [`Weights`] says, or `weights_stride` is 0.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub(crate) unsafe fn write_before_codes(
    shape: &StepShape,
    regions: &crate::step::Regions,
    row: u32,
    block: u32,
    num_blocks: u32,
    weights: Out<f32>,
) {
    use crate::device::thread;

    let row_at = row as usize * shape.weights_stride as usize;
    let mut position = block * thread::block_dim_x() + thread::thread_idx_x();
    while position < shape.init_offset.min(shape.weights_stride) {
        let listed = position < regions.seq_len
            && (regions.list_all
                || position < regions.sink_end
                || position >= regions.window_start);
        let weight = if listed { LISTED } else { 0.0 };
        // SAFETY: inside the row; each thread of the row has its own.
        unsafe { weights.set(row_at + position as usize, weight) };
        position += num_blocks * thread::block_dim_x();
    }
}

kernel! {
    /// Fills every row's weights from its list, each block a stretch of positions; none where no sequence is.
    ///
    /// Grid: (rows, blocks over weights_stride by [`POSITIONS_PER_BLOCK`]).
    /// `positions` `[rows, list_stride]`, `lengths` `[rows]`, `sequences` `[batch]`,
    /// `weights` `[rows, weights_stride]`.
    pub fn weights as Weights(
        positions: In<i32>, lengths: In<i32>, sequences: In<SequenceParams>, weights: Out<f32>,
        shape: StepShape,
    );
    threads = 256; barriers = crate::collectives::SYNC_THREADS; shuffles = 0;
    {
        use crate::device::thread;

        let batch = shape.batch_of_row(thread::block_idx_x()) as usize;
        // SAFETY: one for each sequence.
        if unsafe { sequences.get(batch) }.seq_len == 0 {
            return; // the whole block together
        }
        let row = thread::block_idx_x() as usize;
        let first = thread::block_idx_y() * POSITIONS_PER_BLOCK;
        let end = (first + POSITIONS_PER_BLOCK).min(shape.weights_stride);
        let weights_at = row * shape.weights_stride as usize;
        let list_at = row * shape.list_stride as usize;

        let mut position = first + thread::thread_idx_x();
        while position < end {
            // SAFETY: position < weights_stride, and each thread has its own until the barrier.
            unsafe { weights.set(weights_at + position as usize, 0.0) };
            position += thread::block_dim_x();
        }
        // SAFETY: the return above is uniform over the block.
        unsafe { thread::sync_threads() };

        // SAFETY: the list is written; i < its length, which is at most list_stride.
        let entry = |i: u32| unsafe { positions.get(list_at + i as usize) };
        // SAFETY: one length for each row.
        let list_len = unsafe { lengths.get(row) } as u32;
        let last = entries_below(end, list_len, entry);
        let mut i = entries_below(first, list_len, entry) + thread::thread_idx_x();
        while i < last {
            // SAFETY: the entry lies in first..end, which only this block writes, and the list has
            // no duplicates.
            unsafe { weights.set(weights_at + entry(i) as usize, LISTED) };
            i += thread::block_dim_x();
        }
    }
}
