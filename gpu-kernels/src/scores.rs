//! Scores: one f32 for each cached key, the sum of its codes' table entries.

use crate::kernel::{In, Out};
use crate::step::{SequenceParams, StepShape};

/// A key's score: its table entries added in sub-vector order, each addition rounded.
#[inline(always)]
pub fn score(num_subvectors: usize, entry: impl Fn(usize) -> f32) -> f32 {
    let mut sum = entry(0);
    for subvector in 1..num_subvectors {
        sum += entry(subvector);
    }
    sum
}

/// Keys that one block scores.
pub const KEYS_PER_BLOCK: u32 = 2048;

kernel! {
    /// Scores every candidate, one thread a key at a time.
    ///
    /// Grid: (rows, blocks over code_capacity by [`KEYS_PER_BLOCK`]). Dynamic shared memory: the
    /// row's table. `tables` `[rows, m, 2^bits]`, `codes` `[groups, code_capacity, m]`
    /// or pages of them ([`StepShape::key_at`]), `sequences` `[batch]`,
    /// `page_table` `[batch, pages_per_sequence]` where the shape has pages,
    /// `scores` `[rows, code_capacity]`; scores of codes that are no candidates are left as they were.
    pub fn scores as Scores(
        tables: In<f32>, codes: In<u8>, sequences: In<SequenceParams>, page_table: In<u32>,
        scores: Out<f32>, shape: StepShape,
    );
    threads = 256; barriers = crate::collectives::SYNC_THREADS; shuffles = 0;
    {
        use crate::device::{shared, thread};
        use crate::step::row_view;

        let row = thread::block_idx_x();
        // SAFETY: one for each sequence.
        let (own, regions) = unsafe { row_view(&shape, sequences, row) };
        let first = (regions.candidates_start - own.init_offset)
            .max(thread::block_idx_y() * KEYS_PER_BLOCK);
        let end = (regions.candidates_end - own.init_offset)
            .min((thread::block_idx_y() + 1) * KEYS_PER_BLOCK)
            .min(shape.code_capacity);
        if first >= end {
            return; // the whole block together
        }

        let table_len = shape.table_len();
        let table = shared::dynamic_shared_mem::<f32>(0);
        let mut entry = thread::thread_idx_x();
        while entry < table_len {
            // SAFETY: the launch gives the block table_len words; each thread has its own entries.
            unsafe {
                table.set(entry, tables.get(row as usize * table_len as usize + entry as usize));
            }
            entry += thread::block_dim_x();
        }
        // SAFETY: the return above is uniform over the block.
        unsafe { thread::sync_threads() };

        let group = shape.group_of_row(row);
        let capacity = shape.code_capacity as usize;
        let m = shape.num_subvectors as usize;
        let mut key = first + thread::thread_idx_x();
        while key < end {
            // SAFETY: a candidate's page is in the table.
            let page = |i: usize| unsafe { page_table.get(i) };
            let position = key + own.init_offset;
            let codes_at = shape.key_at(group, position, own.init_offset, page) * m;
            // SAFETY: key < code_capacity, a code is below 2^bits, the table is written and the
            // barrier passed; each thread has its own keys.
            unsafe {
                let sum = score(m, |j| {
                    let code = u32::from(codes.get(codes_at + j));
                    table.get(((j as u32) << shape.bits) + code)
                });
                scores.set(row as usize * capacity + key as usize, sum);
            }
            key += thread::block_dim_x();
        }
    }
}
