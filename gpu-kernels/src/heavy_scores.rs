//! Scores of the heavy keys, for whoever merges the lists of several shards of one context.

use crate::kernel::{In, Out};
use crate::step::{SequenceParams, StepShape};

kernel! {
    /// Gathers every row's heavy positions and their scores; -1 and 0 behind its heavy_k.
    ///
    /// Grid: rows of lists. `scores` `[rows, code_capacity]`, `heavy_positions` `[rows, heavy]`,
    /// `sequences` `[batch]`, `positions` and `heavy_scores` `[rows, scores_stride]`.
    pub fn heavy_scores as HeavyScores(
        scores: In<f32>, heavy_positions: In<i32>, sequences: In<SequenceParams>,
        positions: Out<i32>, heavy_scores: Out<f32>, shape: StepShape,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use crate::device::thread;
        use crate::step::row_view;

        let row = thread::block_idx_x();
        // SAFETY: one for each sequence.
        let (own, regions) = unsafe { row_view(&shape, sequences, row) };
        let heavy_k = regions.heavy_k(own.heavy);
        let mut i = thread::thread_idx_x();
        while i < shape.scores_stride {
            let (mut position, mut score) = (-1, 0.0);
            if i < heavy_k {
                // SAFETY: top-k wrote the row's first heavy_k positions, whose scores are written.
                (position, score) = unsafe {
                    let at = row as usize * shape.heavy as usize + i as usize;
                    let position = heavy_positions.get(at);
                    let code = (position as u32 - own.init_offset) as usize;
                    (position, scores.get(row as usize * shape.code_capacity as usize + code))
                };
            }
            // SAFETY: i < scores_stride, and each thread has its own.
            unsafe {
                let at = row as usize * shape.scores_stride as usize + i as usize;
                positions.set(at, position);
                heavy_scores.set(at, score);
            }
            i += thread::block_dim_x();
        }
    }
}
