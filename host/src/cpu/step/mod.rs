//! A whole step on the CPU: rows are shared out to the pool's threads, each with its own room.
//!
//! There are three ways to a row's heavy keys, and they give the same list: `tuples` for formats of
//! few code tuples, `filter` over transposed codes for the others, and for few candidates the plain
//! stages, one after the other.

mod bitmap;
mod blocks;
mod filter;
mod nth;
mod ragged;
mod row;
pub(crate) mod staged;
#[cfg(test)]
mod test_data;
mod tuples;

use std::time::Duration;

use gpu_kernels::step::{SequenceParams, StepShape};
use gpu_kernels::weights::LISTED;
use rayon::prelude::*;

pub(crate) use self::ragged::RaggedStep;
use self::row::{Groups, Worker};
use super::{indices, weights};
use crate::error::Result;
use crate::index::KeyIndex;
use crate::selection::Selection;
use crate::tensor::{Keys, Queries};

/// An index with the room that its steps work in.
///
/// Beside the index, which keeps every key's codes as its file does, a step needs memory of its own:
/// formats of at most 12 bits a key 4.6 bytes for each key and 200 KB for each (batch, key-value head),
/// the others m bytes a key, half of that where bits <= 4.
#[derive(Debug)]
pub struct Step {
    index: KeyIndex,
    shape: StepShape,
    groups: Groups,
    workers: Vec<Worker>,
    /// Where only the stages one after the other do what the shape asks for.
    staged: Vec<staged::Worker>,
    sequences: Vec<SequenceParams>,
}

/// Time spent in each stage of a select by one worker, the sum over its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Lookup tables.
    pub lut: Duration,
    /// Scores: of all candidates, of all code tuples, or their bounds.
    pub scores: Duration,
    /// Top-k, the exact scores of the candidates that a bound leaves included.
    pub top_k: Duration,
    /// Index lists.
    pub index_list: Duration,
    /// Dense weights.
    pub weights: Duration,
}

/// Candidates of all rows that are worth waking other threads for.
const PARALLEL_CANDIDATES: usize = 8192;

impl Step {
    pub(crate) fn new(index: KeyIndex, shape: StepShape) -> Self {
        if shape.needs_stages() {
            let rows = index.batch() * shape.of_lists().rows_per_batch() as usize;
            return Step {
                groups: Groups::new(&shape, 0),
                workers: Vec::new(),
                staged: staged::Worker::for_each_thread(&shape, rows),
                sequences: vec![SequenceParams::default(); index.batch()],
                index,
                shape,
            };
        }
        let rows = index.batch() * shape.rows_per_batch() as usize;
        let threads = rayon::current_num_threads().max(1);
        let num_workers = threads.min(rows).max(1);
        // Few rows: each is shared out by ranges of keys.
        let threads_per_row = (threads / num_workers).max(1);
        let workers = (0..num_workers)
            .map(|_| Worker::new(&shape, threads_per_row))
            .collect();
        let mut groups = Groups::new(&shape, index.groups());
        groups.append(&shape, &index, 0);
        Step {
            index,
            shape,
            groups,
            workers,
            staged: Vec::new(),
            sequences: Vec::new(),
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
        let before = self.index.num_codes();
        self.index.append(keys)?;
        if self.staged.is_empty() {
            self.groups.append(&self.shape, &self.index, before);
        }
        Ok(())
    }

    pub(crate) fn select(&mut self, queries: Queries<'_>, selection: &mut Selection) {
        self.list(queries, selection);
        indices::indices(selection, 0, &[], 0);
    }

    fn list(&mut self, queries: Queries<'_>, selection: &mut Selection) {
        let Step {
            index,
            shape,
            groups,
            workers,
            staged,
            sequences,
        } = self;
        let seq_len = index.seq_len() as u32;
        selection.seq_len = index.seq_len();
        if !staged.is_empty() {
            sequences.fill(shape.sequence(seq_len));
            let context = staged::Context {
                shape,
                sequences,
                lanes: index.lanes(),
                simd: index.simd(),
                codes: index.padded_codes(),
                page_table: &[],
            };
            return staged::select(context, staged, queries, selection);
        }

        // The same rows to the same worker every time; a row's result does not depend on its worker.
        let rows = selection.lengths.len();
        let rows_per_worker = rows.div_ceil(workers.len());
        let (list_stride, weights_stride) = (selection.list_stride, selection.weights_stride);
        let of_worker = |(i, (worker, lengths, positions, weights)): (usize, Share<'_>)| {
            worker.times = StageTimes::default();
            let lists = lengths
                .iter_mut()
                .zip(positions.chunks_exact_mut(list_stride));
            for (n, (length, positions)) in lists.enumerate() {
                let row = i * rows_per_worker + n;
                let weights = &mut weights[n * weights_stride..][..weights_stride];
                if weights_stride > 0 {
                    weights::mark(&positions[..*length as usize], weights, 0.0);
                }
                *length = worker.row(index, shape, groups, seq_len, queries, row, positions);
                if weights_stride > 0 {
                    let start = std::time::Instant::now();
                    weights::mark(&positions[..*length as usize], weights, LISTED);
                    worker.times.weights += start.elapsed();
                }
            }
        };

        let Selection {
            positions,
            lengths,
            weights,
            ..
        } = selection;
        let candidates = super::top_k::candidate_codes(shape, seq_len).len();
        if workers.len() == 1 || rows * candidates < PARALLEL_CANDIDATES {
            let mut weights = &mut weights[..];
            let shares = workers
                .iter_mut()
                .zip(lengths.chunks_mut(rows_per_worker))
                .zip(positions.chunks_mut(rows_per_worker * list_stride));
            for (i, ((worker, lengths), positions)) in shares.enumerate() {
                let (share, behind) = weights.split_at_mut(lengths.len() * weights_stride);
                weights = behind;
                of_worker((i, (worker, lengths, positions, share)));
            }
            return;
        }
        let shares = workers
            .par_iter_mut()
            .zip(lengths.par_chunks_mut(rows_per_worker))
            .zip(positions.par_chunks_mut(rows_per_worker * list_stride))
            .enumerate();
        if weights_stride == 0 {
            shares.for_each(|(i, ((worker, lengths), positions))| {
                of_worker((i, (worker, lengths, positions, &mut [])));
            });
        } else {
            shares
                .zip(weights.par_chunks_mut(rows_per_worker * weights_stride))
                .for_each(|((i, ((worker, lengths), positions)), weights)| {
                    of_worker((i, (worker, lengths, positions, weights)));
                });
        }
    }
}

/// A worker with its rows' lengths, lists and weights.
type Share<'a> = (&'a mut Worker, &'a mut [i32], &'a mut [i32], &'a mut [f32]);
