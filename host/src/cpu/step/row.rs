//! One row: which way its heavy keys are found, and the room for it.

use std::time::Instant;

use gpu_kernels::order::order_key;
use gpu_kernels::step::StepShape;
use rayon::prelude::*;

use super::StageTimes;
use super::blocks::{Blocks, Found, Search};
use super::filter::Filter;
use super::nth::{nth_largest, nth_smallest};
use super::tuples::{self, Tuples};
use crate::cpu::simd::{BYTES, Simd};
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
    sample: [[u16; BYTES]; Blocks::SAMPLE],
    parts: Vec<Found>,
    /// Codes and order keys of the candidates that a bound neither lists nor excludes.
    doubtful: [Vec<u32>; 2],
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
            // One more, which a candidate that is not listed overwrites.
            heavy_positions: vec![0; shape.heavy as usize + 1],
            tuples: of_tuples.then(|| tuples::Room::new(shape)),
            filter: Filter::new(shape),
            sample: [[0; BYTES]; Blocks::SAMPLE],
            parts: (0..parts)
                .map(|_| Found::new(capacity.div_ceil(parts).next_multiple_of(64)))
                .collect(),
            doubtful: if of_tuples {
                [Vec::new(), Vec::new()]
            } else {
                [vec![0; capacity + BATCH], vec![0; capacity + BATCH]]
            },
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
        let length = index_list::index_list(
            shape,
            seq_len,
            &self.heavy_positions[..shape.heavy as usize],
            positions,
        );
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
            &mut self.heavy_positions[..shape.heavy as usize],
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

    /// A bound of every candidate's score, and the scores of those that it leaves in doubt.
    fn by_filter(&mut self, row: Row<'_>, blocks: &Blocks, heavy_k: usize) {
        let start = Instant::now();
        if !self.filter.look_at(row.simd, &self.table) {
            return self.plain(row);
        }
        self.filter.build(row.simd, &self.table);
        let mut cut = self.sampled_cut(row, blocks, heavy_k);
        // A table much wider than what the best keys lack: finer deficits tell more of them apart.
        for _ in 0..3 {
            let reach = cut.saturating_sub(self.filter.slack());
            if !self.filter.refine(row.simd, &self.table, reach) {
                break;
            }
            cut = self.sampled_cut(row, blocks, heavy_k);
        }
        let nth = self.scan(row, blocks, heavy_k, cut).unwrap_or_else(|| {
            // The sample promised too much: exact deficits, and all of them.
            self.filter.build(row.simd, &self.table);
            self.scan(row, blocks, heavy_k, NO_CUT)
                .expect("every deficit is exact and kept")
        });
        let middle = Instant::now();
        self.list(row, heavy_k, nth);
        self.times.scores += middle - start;
        self.times.top_k += middle.elapsed();
    }

    /// A deficit that those of the best `heavy_k` candidates probably do not exceed.
    fn sampled_cut(&mut self, row: Row<'_>, blocks: &Blocks, heavy_k: usize) -> u16 {
        let candidates = top_k::candidate_codes(row.shape, row.seq_len);
        let num_candidates = candidates.len();
        let len = blocks.sample(row.simd, &self.filter, candidates, &mut self.sample);
        let nth = sample_rank(heavy_k, num_candidates, len);
        if nth >= len {
            return NO_CUT;
        }
        let sample = std::iter::once(&self.sample.as_flattened()[..len]);
        nth_smallest(row.simd, sample, nth + 1, NO_CUT) + self.filter.slack()
    }

    /// Scans all candidates for deficits up to `cut`; the `heavy_k`-th smallest, `None` if it is not known
    /// that everything is kept that it needs.
    fn scan(&mut self, row: Row<'_>, blocks: &Blocks, heavy_k: usize, cut: u16) -> Option<u16> {
        let Row { shape, simd, .. } = row;
        let filter = &self.filter;
        let search = Search {
            heavy_k,
            slack: filter.slack(),
            largest: filter.largest,
            cut,
        };
        let candidates = top_k::candidate_codes(shape, row.seq_len);
        let per_part = candidates.len().div_ceil(self.parts.len());
        let scan_part = |(i, found): (usize, &mut Found)| {
            let end = candidates.end.min(candidates.start + (i + 1) * per_part);
            let start = end.min(candidates.start + i * per_part);
            found.start(search);
            if start < end {
                blocks.scan(simd, filter, start..end, found);
            }
        };
        if let [part] = &mut self.parts[..] {
            scan_part((0, part));
        } else {
            self.parts.par_iter_mut().enumerate().for_each(scan_part);
        }
        let deficits = self.parts.iter().map(Found::deficits);
        if deficits.clone().map(<[u16]>::len).sum::<usize>() < heavy_k {
            return None;
        }
        let nth = nth_smallest(simd, deficits, heavy_k, cut);
        (nth <= filter.largest && nth + filter.slack() <= cut).then_some(nth)
    }

    /// Lists the best of those found, `nth` being the `heavy_k`-th smallest deficit.
    fn list(&mut self, row: Row<'_>, heavy_k: usize, nth: u16) {
        let slack = self.filter.slack();
        let is_sure = |deficit: u16| deficit + slack < nth;
        let is_doubtful = |deficit: u16| !is_sure(deficit) & (deficit <= nth + slack);
        let [codes, keys] = &mut self.doubtful;
        let (mut num_sure, mut len) = (0, 0);
        for (code, deficit) in self.parts.iter().flat_map(Found::iter) {
            codes[len] = code;
            len += usize::from(is_doubtful(deficit));
            num_sure += usize::from(is_sure(deficit));
        }
        score_keys(row, &self.table, &mut codes[..], len, keys);
        let (least, larger) = nth_largest(row.simd, &keys[..len], heavy_k - num_sure);

        let mut ties = heavy_k - num_sure - larger;
        let first = row.shape.init_offset;
        let (mut listed, mut next) = (0, 0);
        // Who is listed cannot be predicted: no branch on it. Behind the last key is room.
        for (code, deficit) in self.parts.iter().flat_map(Found::iter) {
            let doubtful = is_doubtful(deficit);
            let key = keys[next];
            next += usize::from(doubtful);
            let ties_here = doubtful & (key == least) & (ties > 0);
            ties -= usize::from(ties_here);
            self.heavy_positions[listed] = (first + code) as i32;
            listed += usize::from(is_sure(deficit) | (doubtful & (key > least)) | ties_here);
        }
        debug_assert_eq!(listed, heavy_k);
    }
}

/// A cut that keeps every deficit.
const NO_CUT: u16 = i16::MAX as u16;

/// Writes the order keys of the scores of the first `len` of `codes`; both have room for a batch more.
fn score_keys(row: Row<'_>, table: &[f32], codes: &mut [u32], len: usize, keys: &mut [u32]) {
    // Any code will do to fill the last batch.
    codes[len..len + BATCH].fill(0);
    let batches = len.div_ceil(BATCH);
    let (codes, _) = codes.as_chunks::<BATCH>();
    let (keys, _) = keys.as_chunks_mut::<BATCH>();
    let batches = codes.iter().zip(keys).take(batches);
    match row.shape.bits {
        1 => score_batches::<2>(row, table, batches),
        2 => score_batches::<4>(row, table, batches),
        3 => score_batches::<8>(row, table, batches),
        4 => score_batches::<16>(row, table, batches),
        5 => score_batches::<32>(row, table, batches),
        6 => score_batches::<64>(row, table, batches),
        7 => score_batches::<128>(row, table, batches),
        _ => score_batches::<256>(row, table, batches),
    }
}

/// Keys scored side by side, so that no sum waits for its own last addition.
const BATCH: usize = 8;

/// `gpu_kernels::scores::score` of several keys at a time, with tables of `CENTROIDS` entries.
fn score_batches<'a, const CENTROIDS: usize>(
    row: Row<'_>,
    table: &[f32],
    batches: impl Iterator<Item = (&'a [u32; BATCH], &'a mut [u32; BATCH])>,
) {
    let m = row.shape.num_subvectors as usize;
    let (entries, _) = table.as_chunks::<CENTROIDS>();
    let (first, others) = entries.split_first().expect("a key has a sub-vector");
    // The mask changes no code; it tells the compiler that every one is inside.
    let entry = |entries: &[f32; CENTROIDS], code: u8| entries[usize::from(code) % CENTROIDS];
    for (codes, keys) in batches {
        // One key after the other: the processor overlaps the sums of several, and the compiler would
        // pack those of a loop over keys into vectors, lane by lane.
        for (key, &code) in keys.iter_mut().zip(codes) {
            let row = &row.codes[code as usize * m..][..m];
            let mut sum = entry(first, row[0]);
            for (entries, &code) in others.iter().zip(&row[1..]) {
                sum += entry(entries, code);
            }
            *key = order_key(sum);
        }
    }
}

#[cfg(test)]
mod tests;
