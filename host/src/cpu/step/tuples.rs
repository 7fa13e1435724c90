//! Formats of few code tuples: the keys of each tuple in a list, so that a step costs the number of
//! tuples and not the number of keys.
//!
//! All keys of one tuple have one score. The best tuples are found by their scores and how many
//! candidates they have; of the tuples that tie at the cut the first positions are taken.

use gpu_kernels::order::{order_key, score_of_key};
use gpu_kernels::step::StepShape;

use super::bitmap::Bitmap;
use crate::cpu::simd::{FLOATS, Isa, Simd, on_each_isa};

/// Bits of a key's codes up to which tuples are listed.
pub(super) const MAX_BITS: u32 = 12;

/// Codes in one chunk of a list.
const CHUNK: usize = 7;

/// No chunk.
const NONE: u32 = u32::MAX;

/// Part of a tuple's list: 32 bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct Chunk {
    codes: [u32; CHUNK],
    next: u32,
}

/// A tuple's first and last chunk.
#[derive(Debug, Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

/// One group's candidates by tuple. A tuple's number is its codes one after the other, the first on
/// top; its list ascends.
#[derive(Debug)]
pub(super) struct Tuples {
    counts: Vec<u32>,
    lists: Vec<List>,
    chunks: Vec<Chunk>,
    /// Codes that were listed; those before the first candidate count as listed.
    end: usize,
}

/// What one thread needs to choose among tuples.
#[derive(Debug)]
pub(super) struct Room {
    scores: Vec<f32>,
    /// (order key, tuple) of the tuples looked at.
    picked: Vec<u64>,
    taken: Bitmap,
    tied: Bitmap,
}

impl Room {
    pub(super) fn new(shape: &StepShape) -> Self {
        let tuples = num_tuples(shape);
        let codes = shape.code_capacity as usize;
        Room {
            scores: vec![0.0; tuples.next_multiple_of(FLOATS)],
            picked: Vec::with_capacity(tuples),
            taken: Bitmap::new(codes),
            tied: Bitmap::new(codes),
        }
    }
}

/// Tuples of a format.
pub(super) fn num_tuples(shape: &StepShape) -> usize {
    1 << (shape.num_subvectors * shape.bits)
}

/// The number of a key's tuple.
#[inline(always)]
fn tuple_of(bits: u32, codes: &[u8]) -> usize {
    let tuple = codes
        .iter()
        .fold(0, |tuple, &code| (tuple << bits) | u32::from(code));
    tuple as usize
}

impl Tuples {
    pub(super) fn new(shape: &StepShape) -> Self {
        let (tuples, capacity) = (num_tuples(shape), shape.code_capacity as usize);
        Tuples {
            counts: vec![0; tuples.next_multiple_of(FLOATS)],
            lists: vec![
                List {
                    first: NONE,
                    last: NONE
                };
                tuples
            ],
            // Every list may have one chunk that is not full.
            chunks: Vec::with_capacity(capacity / CHUNK + tuples.min(capacity)),
            end: 0,
        }
    }

    /// Lists candidates `candidates` of `codes` `[code_capacity, m]` that are not listed yet.
    pub(super) fn append(
        &mut self,
        shape: &StepShape,
        codes: &[u8],
        candidates: std::ops::Range<usize>,
    ) {
        let m = shape.num_subvectors as usize;
        for code in self.end.max(candidates.start)..candidates.end {
            let tuple = tuple_of(shape.bits, &codes[code * m..(code + 1) * m]);
            self.push(tuple, code as u32);
            self.end = code + 1;
        }
    }

    fn push(&mut self, tuple: usize, code: u32) {
        let at = self.counts[tuple] as usize % CHUNK;
        self.counts[tuple] += 1;
        let list = &mut self.lists[tuple];
        if at == 0 {
            let new = self.chunks.len() as u32;
            // The room was made at the start: nothing is allocated here.
            debug_assert!(self.chunks.len() < self.chunks.capacity());
            self.chunks.push(Chunk {
                codes: [0; CHUNK],
                next: NONE,
            });
            if list.first == NONE {
                list.first = new;
            } else {
                self.chunks[list.last as usize].next = new;
            }
            list.last = new;
        }
        self.chunks[list.last as usize].codes[at] = code;
    }

    /// Puts the first `count` codes of a tuple into `to`.
    fn take(&self, tuple: usize, mut count: usize, to: &mut Bitmap) {
        let mut chunk = self.lists[tuple].first;
        while count > 0 {
            let Chunk { codes, next } = &self.chunks[chunk as usize];
            let here = count.min(CHUNK);
            codes[..here].iter().for_each(|&code| to.insert(code));
            count -= here;
            chunk = *next;
        }
    }

    /// Computes the score of every tuple from `table` `[m, 2^bits]`.
    pub(super) fn score(&self, simd: Simd, shape: &StepShape, table: &[f32], room: &mut Room) {
        scores(simd, shape.bits, table, &mut room.scores);
    }

    /// Writes the positions of the `heavy_positions.len()` best candidates, ascending, after
    /// [`Tuples::score`]. There are at least as many candidates.
    pub(super) fn top_k(
        &self,
        simd: Simd,
        shape: &StepShape,
        codes: &[u8],
        candidates: std::ops::Range<usize>,
        room: &mut Room,
        heavy_positions: &mut [i32],
    ) {
        let Room {
            scores,
            picked,
            taken,
            tied,
        } = room;
        let heavy_k = heavy_positions.len();
        let mut sample = Sample::of(shape, codes, candidates, scores);
        loop {
            let floor = sample.floor(heavy_k);
            picked.clear();
            if pick(simd, scores, &self.counts, floor, picked) >= heavy_k {
                break;
            }
            // At the latest when every tuple is looked at, all candidates are.
            sample.lower();
        }
        picked.sort_unstable_by(|a, b| b.cmp(a));

        let mut left = heavy_k;
        let mut ties = picked.as_slice();
        while left > 0 {
            let key = ties[0] >> 32;
            let num_ties = ties.iter().take_while(|&tuple| tuple >> 32 == key).count();
            let (equal, worse) = ties.split_at(num_ties);
            ties = worse;
            let counts = equal
                .iter()
                .map(|&tuple| self.counts[tuple as u32 as usize]);
            let count: u32 = counts.sum();
            if count as usize <= left || num_ties == 1 {
                for &tuple in equal {
                    let tuple = tuple as u32 as usize;
                    let count = left.min(self.counts[tuple] as usize);
                    self.take(tuple, count, taken);
                    left -= count;
                }
            } else {
                // The first positions of several lists.
                for &tuple in equal {
                    let tuple = tuple as u32 as usize;
                    self.take(tuple, self.counts[tuple] as usize, tied);
                }
                tied.move_smallest(left, taken);
                left = 0;
            }
        }
        taken.drain(shape.init_offset, heavy_positions);
    }
}

/// A guess at how good a tuple must be, from the scores of some candidates.
struct Sample {
    /// Order keys.
    keys: [u32; Self::SIZE],
    len: usize,
    num_candidates: usize,
    /// Factor by which more candidates are looked at than are thought to be needed; 0 for all.
    widening: usize,
}

impl Sample {
    const SIZE: usize = 256;

    /// Up to [`Sample::SIZE`] candidates at even distances; there is at least one.
    fn of(
        shape: &StepShape,
        codes: &[u8],
        candidates: std::ops::Range<usize>,
        scores: &[f32],
    ) -> Self {
        let m = shape.num_subvectors as usize;
        let len = Self::SIZE.min(candidates.len());
        let step = candidates.len() / len;
        let mut keys = [0; Self::SIZE];
        for (i, key) in keys[..len].iter_mut().enumerate() {
            let code = candidates.start + i * step;
            *key = order_key(scores[tuple_of(shape.bits, &codes[code * m..(code + 1) * m])]);
        }
        Sample {
            keys,
            len,
            num_candidates: candidates.len(),
            widening: 1,
        }
    }

    /// A score that `heavy_k` candidates probably reach; `None` for one that all do.
    fn floor(&mut self, heavy_k: usize) -> Option<f32> {
        let rank = super::row::sample_rank(heavy_k, self.num_candidates, self.len) * self.widening;
        let keys = &mut self.keys[..self.len];
        if self.widening == 0 || rank >= keys.len() {
            return None;
        }
        let (_, &mut key, _) = keys.select_nth_unstable_by(rank, |a, b| b.cmp(a));
        // NaN comes after every number: whoever takes it takes all.
        Some(score_of_key(key)).filter(|score| !score.is_nan())
    }

    /// The guess was too high.
    fn lower(&mut self) {
        self.widening = if self.widening == 1 { 4 } else { 0 };
    }
}

on_each_isa! {
    /// Scores `[2^(m * bits)]` of all tuples from `table` `[m, 2^bits]`, as
    /// `gpu_kernels::scores::score` adds them.
    fn scores(bits: u32, table: &[f32], scores: &mut [f32]) = scores_on;
}

#[inline(always)]
fn scores_on<I: Isa>(isa: I, bits: u32, table: &[f32], scores: &mut [f32]) {
    let num_centroids = 1 << bits;
    let (first, more) = table.split_at(num_centroids);
    scores[..num_centroids].copy_from_slice(first);
    let mut len = num_centroids;
    for entries in more.chunks_exact(num_centroids) {
        // From the back: what is read has not been overwritten.
        for prefix in (0..len).rev() {
            let sum = scores[prefix];
            let to = &mut scores[prefix << bits..][..num_centroids];
            if num_centroids < FLOATS {
                for (to, entry) in to.iter_mut().zip(entries) {
                    *to = sum + entry;
                }
            } else {
                let sum = isa.splat(sum);
                let (to, _) = to.as_chunks_mut::<FLOATS>();
                let (entries, _) = entries.as_chunks::<FLOATS>();
                for (to, entries) in to.iter_mut().zip(entries) {
                    isa.store(isa.add(sum, isa.load(entries)), to);
                }
            }
        }
        len <<= bits;
    }
}

on_each_isa! {
    /// Appends (order key, tuple) of the tuples that have candidates and reach `floor` to `picked`;
    /// returns how many candidates they have.
    fn pick(
        scores: &[f32],
        counts: &[u32],
        floor: Option<f32>,
        picked: &mut Vec<u64>,
    ) -> usize = pick_on;
}

#[inline(always)]
fn pick_on<I: Isa>(
    isa: I,
    scores: &[f32],
    counts: &[u32],
    floor: Option<f32>,
    picked: &mut Vec<u64>,
) -> usize {
    let mut candidates = 0;
    let (blocks, _) = scores.as_chunks::<FLOATS>();
    for (i, block) in blocks.iter().enumerate() {
        let mut mask = match floor {
            Some(floor) => isa.at_least(isa.load(block), isa.splat(floor)),
            None => u16::MAX,
        };
        while mask != 0 {
            let lane = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            let tuple = i * FLOATS + lane;
            let count = counts[tuple];
            if count > 0 {
                candidates += count as usize;
                picked.push((u64::from(order_key(block[lane])) << 32) | tuple as u64);
            }
        }
    }
    candidates
}

#[cfg(test)]
mod tests;
