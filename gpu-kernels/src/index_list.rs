//! The index list: sink, heavy and window positions of a row, ascending.

use crate::kernel::{In, Out};
use crate::step::{SequenceParams, StepShape};

/// Writes what of a row's list does not depend on scores: sink, window, padding and the length; in a context
/// that is listed whole, everything. Block `block` of `num_blocks` writes its share.
///
/// # Safety
/// Every thread of the block is here; the buffers are as [`IndexList`] says; the entries between sink and
/// window are others' to write.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub(crate) unsafe fn write_fixed(
    shape: &StepShape,
    regions: &crate::step::Regions,
    row: u32,
    block: u32,
    num_blocks: u32,
    positions: Out<i32>,
    lengths: Out<i32>,
) {
    use crate::device::thread;

    let heavy_k = regions.heavy_k(shape.heavy);
    let list_len = regions.list_len(heavy_k);
    let row_at = row as usize * shape.list_stride as usize;
    let heavy = regions.sink_end..regions.sink_end + heavy_k;
    let mut i = block * thread::block_dim_x() + thread::thread_idx_x();
    while i < shape.list_stride {
        if regions.list_all || !heavy.contains(&i) {
            let position = if i < list_len {
                regions.list_entry(i, heavy_k, |_| -1)
            } else {
                -1
            };
            // SAFETY: i < list_stride, and each thread of the row has its own entries.
            unsafe { positions.set(row_at + i as usize, position) };
        }
        i += num_blocks * thread::block_dim_x();
    }
    if block == 0 && thread::thread_idx_x() == 0 {
        // SAFETY: one length for each row, written by this thread alone.
        unsafe { lengths.set(row as usize, list_len as i32) };
    }
}

kernel! {
    /// Writes every row's list, padded with -1, and its length.
    ///
    /// Grid: rows. `heavy_positions` `[rows, heavy]` ascending, `sequences` `[batch]`,
    /// `positions` `[rows, list_stride]`, `lengths` `[rows]`.
    pub fn index_list as IndexList(
        heavy_positions: In<i32>, sequences: In<SequenceParams>, positions: Out<i32>,
        lengths: Out<i32>, shape: StepShape,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use crate::device::thread;
        use crate::step::row_view;

        let row = thread::block_idx_x();
        // SAFETY: one for each sequence.
        let (own, regions) = unsafe { row_view(&shape, sequences, row) };
        let heavy_k = regions.heavy_k(own.heavy);
        let list_len = regions.list_len(heavy_k);
        let mut i = thread::thread_idx_x();
        while i < shape.list_stride {
            let position = if i < list_len {
                // SAFETY: top-k wrote the row's first heavy_k positions.
                regions.list_entry(i, heavy_k, |k| unsafe {
                    heavy_positions.get(row as usize * shape.heavy as usize + k as usize)
                })
            } else {
                -1
            };
            // SAFETY: i < list_stride, and each thread has its own entries.
            unsafe { positions.set(row as usize * shape.list_stride as usize + i as usize, position) };
            i += thread::block_dim_x();
        }
        if thread::thread_idx_x() == 0 {
            // SAFETY: one length for each row, written by this thread alone.
            unsafe { lengths.set(row as usize, list_len as i32) };
        }
    }
}
