//! The index list: sink, heavy and window positions of a row, ascending.

use crate::kernel::{In, Out};
use crate::step::StepShape;

kernel! {
    /// Writes every row's list, padded with -1, and its length.
    ///
    /// Grid: rows. `heavy_positions` `[rows, heavy]` ascending, `seq_lens` `[rows]`,
    /// `positions` `[rows, list_stride]`, `lengths` `[rows]`.
    pub fn index_list as IndexList(
        heavy_positions: In<i32>, seq_lens: In<u32>, positions: Out<i32>, lengths: Out<i32>,
        shape: StepShape,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use crate::device::thread;

        let row = thread::block_idx_x();
        // SAFETY: one length for each row.
        let regions = shape.regions(unsafe { seq_lens.get(row as usize) });
        let heavy_k = regions.heavy_k(shape.heavy);
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
