//! A whole step on the CPU: rows are shared out to the pool's threads, each with its own room.

use std::time::{Duration, Instant};

use gpu_kernels::step::StepShape;
use rayon::prelude::*;

use super::{index_list, lut, scores, top_k, weights};
use crate::error::Result;
use crate::index::KeyIndex;
use crate::selection::Selection;
use crate::tensor::{Keys, Queries};

/// An index with the room that its steps work in.
#[derive(Debug)]
pub struct Step {
    index: KeyIndex,
    shape: StepShape,
    workers: Vec<Worker>,
}

/// Time spent in each stage of a select by one worker, the sum over its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Lookup tables.
    pub lut: Duration,
    /// Scores.
    pub scores: Duration,
    /// Top-k.
    pub top_k: Duration,
    /// Index lists.
    pub index_list: Duration,
    /// Dense weights.
    pub weights: Duration,
}

/// What one thread needs for one row at a time.
#[derive(Debug)]
struct Worker {
    table: Vec<f32>,
    scores: Vec<f32>,
    ranks: Vec<u64>,
    heavy_positions: Vec<i32>,
    times: StageTimes,
}

impl Step {
    pub(crate) fn new(index: KeyIndex, shape: StepShape) -> Self {
        let rows = index.batch() * shape.rows_per_batch() as usize;
        let num_workers = rayon::current_num_threads().min(rows).max(1);
        let capacity = shape.code_capacity as usize;
        let workers = (0..num_workers)
            .map(|_| Worker {
                table: vec![0.0; shape.table_len() as usize],
                scores: vec![0.0; capacity],
                ranks: vec![0; capacity],
                heavy_positions: vec![0; shape.heavy as usize],
                times: StageTimes::default(),
            })
            .collect();
        Step {
            index,
            shape,
            workers,
        }
    }

    /// The index as it is now.
    pub fn index(&self) -> &KeyIndex {
        &self.index
    }

    /// Times of the last select, one entry a worker.
    pub fn stage_times(&self) -> impl Iterator<Item = StageTimes> + '_ {
        self.workers.iter().map(|worker| worker.times)
    }

    pub(crate) fn append(&mut self, keys: Keys<'_>) -> Result<()> {
        self.index.append(keys)
    }

    pub(crate) fn select(&mut self, queries: Queries<'_>, selection: &mut Selection) {
        let Step {
            index,
            shape,
            workers,
        } = self;
        let seq_len = index.seq_len() as u32;
        selection.seq_len = index.seq_len();

        // The same rows to the same worker every time; a row's result does not depend on its worker.
        let rows_per_worker = selection.lengths.len().div_ceil(workers.len());
        let (list_stride, weights_stride) = (selection.list_stride, selection.weights_stride);
        workers
            .par_iter_mut()
            .zip(selection.lengths.par_chunks_mut(rows_per_worker))
            .zip(
                selection
                    .positions
                    .par_chunks_mut(rows_per_worker * list_stride),
            )
            .enumerate()
            .for_each(|(i, ((worker, lengths), positions))| {
                worker.times = StageTimes::default();
                let rows = lengths
                    .iter_mut()
                    .zip(positions.chunks_exact_mut(list_stride));
                for (n, (length, positions)) in rows.enumerate() {
                    let row = i * rows_per_worker + n;
                    *length = worker.row(index, shape, seq_len, queries, row, positions);
                }
            });
        if weights_stride == 0 {
            return;
        }
        let Selection {
            positions,
            lengths,
            weights,
            ..
        } = selection;
        workers
            .par_iter_mut()
            .zip(weights.par_chunks_mut(rows_per_worker * weights_stride))
            .enumerate()
            .for_each(|(i, (worker, weights))| {
                let start = Instant::now();
                for (n, weights) in weights.chunks_exact_mut(weights_stride).enumerate() {
                    let row = i * rows_per_worker + n;
                    let list = &positions[row * list_stride..][..lengths[row] as usize];
                    weights::weights(list, weights);
                }
                worker.times.weights = start.elapsed();
            });
    }
}

impl Worker {
    /// Lists one row; returns the list's length.
    fn row(
        &mut self,
        index: &KeyIndex,
        shape: &StepShape,
        seq_len: u32,
        queries: Queries<'_>,
        row: usize,
        positions: &mut [i32],
    ) -> i32 {
        let group = shape.group_of_row(row as u32) as usize;
        let centroids_len = index.centroids().len() / index.groups();
        let centroids = &index.centroids()[group * centroids_len..(group + 1) * centroids_len];
        let codes_len = shape.code_capacity as usize * shape.num_subvectors as usize;
        let codes = &index.padded_codes()[group * codes_len..(group + 1) * codes_len];
        let query = &queries.data[row * queries.head_dim..(row + 1) * queries.head_dim];

        let start = Instant::now();
        lut::lut(shape, centroids, query, &mut self.table);
        let after_lut = Instant::now();
        scores::scores(shape, seq_len, &self.table, codes, &mut self.scores);
        let after_scores = Instant::now();
        top_k::top_k(
            shape,
            seq_len,
            &self.scores,
            &mut self.ranks,
            &mut self.heavy_positions,
        );
        let after_top_k = Instant::now();
        let length = index_list::index_list(shape, seq_len, &self.heavy_positions, positions);
        let end = Instant::now();

        self.times.lut += after_lut - start;
        self.times.scores += after_scores - after_lut;
        self.times.top_k += after_top_k - after_scores;
        self.times.index_list += end - after_top_k;
        length
    }
}
