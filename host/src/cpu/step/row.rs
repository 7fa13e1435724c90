//! One row: which way its heavy keys are found, and the room for it.

use std::time::Instant;

use gpu_kernels::order::rank;
use gpu_kernels::step::StepShape;
use rayon::prelude::*;

use super::StageTimes;
use super::blocks::{Blocks, Found, cut};
use super::filter::Filter;
use super::tuples::{self, Tuples};
use crate::cpu::simd::Simd;
use crate::cpu::{index_list, lut, scores, top_k};
use crate::index::KeyIndex;
use crate::tensor::Queries;

/// Candidates from which a bound pays.
const MIN_FILTERED: usize = 512;

/// Candidates that one thread takes, where several share a row.
const CANDIDATES_PER_PART: usize = 16384;

/// What steps keep of each group beside its row-major codes.
#[derive(Debug)]
pub(super) enum Groups {
    Tuples(Vec<Tuples>),
    Blocks(Vec<Blocks>),
}

impl Groups {
    /// Nothing of `num_groups` groups yet.
    pub(super) fn new(shape: &StepShape, num_groups: usize) -> Self {
        if shape.num_subvectors * shape.bits <= tuples::MAX_BITS {
            Groups::Tuples((0..num_groups).map(|_| Tuples::new(shape)).collect())
        } else {
            Groups::Blocks((0..num_groups).map(|_| Blocks::new(shape)).collect())
        }
    }

    /// Takes over the codes that the index has from `before` on.
    pub(super) fn append(&mut self, shape: &StepShape, index: &KeyIndex, before: usize) {
        let new = before..index.num_codes();
        let codes_of = |group: usize| group_codes(shape, index, group);
        let candidates = top_k::candidate_codes(shape, index.seq_len() as u32);
        match self {
            Groups::Tuples(groups) => each(groups, new.len(), |group, tuples| {
                tuples.append(shape, codes_of(group), candidates.clone());
            }),
            Groups::Blocks(groups) => each(groups, new.len(), |group, blocks| {
                blocks.append(shape, codes_of(group), new.clone());
            }),
        }
    }
}

/// Calls `append` for every group, on all threads where each has many keys to take over.
fn each<T: Send>(groups: &mut [T], keys: usize, append: impl Fn(usize, &mut T) + Sync) {
    if keys < 256 {
        for (i, group) in groups.iter_mut().enumerate() {
            append(i, group);
        }
    } else {
        let groups = groups.par_iter_mut().enumerate();
        groups.for_each(|(i, group)| append(i, group));
    }
}

fn group_codes<'a>(shape: &StepShape, index: &'a KeyIndex, group: usize) -> &'a [u8] {
    let len = shape.code_capacity as usize * shape.num_subvectors as usize;
    &index.padded_codes()[group * len..(group + 1) * len]
}

/// Where the `heavy_k`-th best of `num_candidates` stands in a sample of `len`, and a little further: three
/// deviations, so that the sample's score there is almost surely not better.
pub(super) fn sample_rank(heavy_k: usize, num_candidates: usize, len: usize) -> usize {
    let expected = (heavy_k * len) as f32 / num_candidates as f32;
    (expected + 3.0 * expected.sqrt() + 2.0) as usize
}

/// What one thread needs for one row at a time.
#[derive(Debug)]
pub(super) struct Worker {
    table: Vec<f32>,
    scores: Vec<f32>,
    ranks: [Vec<u64>; 2],
    heavy_positions: Vec<i32>,
    tuples: Option<tuples::Room>,
    filter: Filter,
    parts: Vec<Found>,
    pub(super) times: StageTimes,
}

/// A row's part of an index.
#[derive(Clone, Copy)]
struct Row<'a> {
    shape: &'a StepShape,
    simd: Simd,
    seq_len: u32,
    codes: &'a [u8],
}

impl Worker {
    /// Room for rows that `threads` threads share.
    pub(super) fn new(shape: &StepShape, threads: usize) -> Self {
        let capacity = shape.code_capacity as usize;
        let of_tuples = shape.num_subvectors * shape.bits <= tuples::MAX_BITS;
        let parts = if of_tuples {
            0
        } else {
            threads.min(capacity.div_ceil(CANDIDATES_PER_PART)).max(1)
        };
        Worker {
            table: vec![0.0; shape.table_len() as usize],
            scores: vec![0.0; capacity],
            ranks: [vec![0; capacity], vec![0; capacity]],
            heavy_positions: vec![0; shape.heavy as usize],
            tuples: of_tuples.then(|| tuples::Room::new(shape)),
            filter: Filter::new(shape),
            parts: (0..parts)
                .map(|_| Found::new(capacity.div_ceil(parts).next_multiple_of(64)))
                .collect(),
            times: StageTimes::default(),
        }
    }

    /// Lists one row; returns the list's length.
    #[allow(clippy::too_many_arguments)] // the parts of a step, borrowed apart
    pub(super) fn row(
        &mut self,
        index: &KeyIndex,
        shape: &StepShape,
        groups: &Groups,
        seq_len: u32,
        queries: Queries<'_>,
        row: usize,
        positions: &mut [i32],
    ) -> i32 {
        let group = shape.group_of_row(row as u32) as usize;
        let regions = shape.regions(seq_len);
        let candidates = top_k::candidate_codes(shape, seq_len);
        let heavy_k = regions.heavy_k(shape.heavy) as usize;
        let start = Instant::now();
        if regions.list_all || heavy_k == 0 {
            // Not one heavy position is looked at.
        } else if heavy_k == candidates.len() {
            let first = regions.candidates_start;
            for (i, position) in self.heavy_positions[..heavy_k].iter_mut().enumerate() {
                *position = (first + i as u32) as i32;
            }
        } else {
            let m = shape.num_subvectors as usize;
            let lanes = &index.lanes()[group * m..(group + 1) * m];
            let query = &queries.data[row * queries.head_dim..(row + 1) * queries.head_dim];
            lut::lut(index.simd(), lanes, query, &mut self.table);
            self.times.lut += start.elapsed();
            let row = Row {
                shape,
                simd: index.simd(),
                seq_len,
                codes: group_codes(shape, index, group),
            };
            match groups {
                Groups::Tuples(groups) if candidates.len() >= tuples::num_tuples(shape) / 8 => {
                    self.by_tuples(row, &groups[group], heavy_k);
                }
                Groups::Blocks(groups) if candidates.len() >= MIN_FILTERED => {
                    self.by_filter(row, &groups[group], heavy_k);
                }
                _ => self.plain(row),
            }
        }
        let before = Instant::now();
        let length = index_list::index_list(shape, seq_len, &self.heavy_positions, positions);
        self.times.index_list += before.elapsed();
        length
    }

    /// Every candidate's score, and the best of them.
    fn plain(&mut self, row: Row<'_>) {
        let Row { shape, seq_len, .. } = row;
        let start = Instant::now();
        scores::scores(shape, seq_len, &self.table, row.codes, &mut self.scores);
        let middle = Instant::now();
        top_k::top_k(
            shape,
            seq_len,
            &self.scores,
            &mut self.ranks,
            &mut self.heavy_positions,
        );
        self.times.scores += middle - start;
        self.times.top_k += middle.elapsed();
    }

    /// Every tuple's score, and the keys of the best of them.
    fn by_tuples(&mut self, row: Row<'_>, tuples: &Tuples, heavy_k: usize) {
        let room = self.tuples.as_mut().expect("made with the groups' tuples");
        let start = Instant::now();
        tuples.score(row.simd, row.shape, &self.table, room);
        let middle = Instant::now();
        tuples.top_k(
            row.simd,
            row.shape,
            row.codes,
            top_k::candidate_codes(row.shape, row.seq_len),
            room,
            &mut self.heavy_positions[..heavy_k],
        );
        self.times.scores += middle - start;
        self.times.top_k += middle.elapsed();
    }

    /// A bound of every candidate's score, the score of those that it leaves, and the best of them.
    fn by_filter(&mut self, row: Row<'_>, blocks: &Blocks, heavy_k: usize) {
        let start = Instant::now();
        if !self.filter.look_at(row.simd, &self.table) {
            return self.plain(row);
        }
        let worst = self.sampled_score(row, heavy_k);
        let mut cut = self.scan(row, blocks, heavy_k, worst);
        if cut.is_none() {
            // The sample promised too much: deficits that reach down to the worst score.
            cut = self.scan(row, blocks, heavy_k, None);
        }
        let cut = cut.expect("every deficit is small enough");
        let middle = Instant::now();

        let [ranks, room] = &mut self.ranks;
        let left = self.parts.iter().flat_map(|part| part.codes(cut));
        let len = exact_ranks(row, &self.table, left, ranks);
        top_k::take_best(&ranks[..len], room, &mut self.heavy_positions[..heavy_k]);
        self.times.scores += middle - start;
        self.times.top_k += middle.elapsed();
    }

    /// A score that `heavy_k` candidates probably reach, from some of them; `None` where a bound should
    /// reach down to the worst.
    fn sampled_score(&mut self, row: Row<'_>, heavy_k: usize) -> Option<f32> {
        const SIZE: usize = 256;
        let candidates = top_k::candidate_codes(row.shape, row.seq_len);
        let step = candidates.len() / SIZE;
        let nth = sample_rank(heavy_k, candidates.len(), SIZE);
        if nth >= SIZE {
            return None;
        }
        let mut sample = [0.0; SIZE];
        for (i, scores) in sample.chunks_exact_mut(BATCH).enumerate() {
            let batch = std::array::from_fn(|k| candidates.start + (i * BATCH + k) * step);
            scores.copy_from_slice(&exact_scores(row, &self.table, &batch));
        }
        // The filter saw the table: no score is NaN.
        let (_, &mut score, _) = sample.select_nth_unstable_by(nth, |a, b| b.total_cmp(a));
        Some(score)
    }

    /// Scans all candidates for scores from `worst` on; the largest deficit that one of the best can
    /// have, `None` if fewer than `heavy_k` are that good.
    fn scan(
        &mut self,
        row: Row<'_>,
        blocks: &Blocks,
        heavy_k: usize,
        worst: Option<f32>,
    ) -> Option<u8> {
        let Row { shape, simd, .. } = row;
        self.filter.build(simd, &self.table, worst);
        let (filter, slack) = (&self.filter, self.filter.slack());
        let candidates = top_k::candidate_codes(shape, row.seq_len);
        let per_part = candidates.len().div_ceil(self.parts.len());
        let scan_part = |(i, found): (usize, &mut Found)| {
            let end = candidates.end.min(candidates.start + (i + 1) * per_part);
            let start = end.min(candidates.start + i * per_part);
            found.start(heavy_k, slack);
            if start < end {
                blocks.scan(simd, shape, filter, start..end, found);
            }
        };
        if let [part] = &mut self.parts[..] {
            scan_part((0, part));
        } else {
            self.parts.par_iter_mut().enumerate().for_each(scan_part);
        }
        cut(self.parts.iter())
    }
}

/// Writes the ranks of those codes; returns how many there are.
fn exact_ranks(
    row: Row<'_>,
    table: &[f32],
    codes: impl Iterator<Item = usize>,
    ranks: &mut [u64],
) -> usize {
    let mut batch = [0; BATCH];
    let mut len = 0;
    let mut write = |batch: &[usize; BATCH], first: usize, end: usize| {
        let scores = exact_scores(row, table, batch);
        let batch = batch.iter().zip(scores);
        for (rank_of, (&code, score)) in ranks[first..end].iter_mut().zip(batch) {
            *rank_of = rank(score, row.shape.init_offset + code as u32);
        }
    };
    for code in codes {
        batch[len % BATCH] = code;
        len += 1;
        if len % BATCH == 0 {
            write(&batch, len - BATCH, len);
        }
    }
    write(&batch, len - len % BATCH, len);
    len
}

/// Keys scored side by side, so that no sum waits for its own last addition.
const BATCH: usize = 8;

/// `gpu_kernels::scores::score` of several keys.
#[inline(always)]
fn exact_scores(row: Row<'_>, table: &[f32], batch: &[usize; BATCH]) -> [f32; BATCH] {
    let m = row.shape.num_subvectors as usize;
    let keys = batch.map(|code| &row.codes[code * m..(code + 1) * m]);
    let mut entries = table.chunks_exact(1 << row.shape.bits);
    let first = entries.next().expect("a key has a sub-vector");
    let mut sums = keys.map(|key| first[usize::from(key[0])]);
    for (j, entries) in entries.enumerate() {
        for (sum, key) in sums.iter_mut().zip(keys) {
            *sum += entries[usize::from(key[j + 1])];
        }
    }
    sums
}
