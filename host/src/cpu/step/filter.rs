//! Tables of 8-bit deficits: a bound on every score, exact enough to exclude most candidates.
//!
//! With `M_j` the largest entry of sub-vector j's table and `t_j` a key's, the key lacks
//! `D = sum(M_j - t_j)` of the largest sum. An entry's deficit is `floor((M_j - t_j) * scale)`, at most
//! 255, and a key's the sum of its m entries', at most 255. So a deficit `Q` below 255 says
//! `Q - delta <= D * scale < Q + m + delta`, delta for the rounding of the products, each below
//! 256 * 2^-22; and `Q - delta <= D * scale` holds for 255 as well.
//!
//! Let heavy_k keys have deficits of at most `T < 255`. Then the heavy_k-th best score is more than
//! `sum(M_j) - (T + m + delta) / scale - E`, where `E = (m - 1) * 2^-24 * sum(max |t_j|) * 1.0001` bounds
//! the rounding errors of a score (Higham 2002, section 4.2). A key at least as good has
//! `D * scale < T + m + delta + 2 * E * scale`, and a deficit below
//! `T + m + 2 * delta + 2 * E * scale`: at most `T + m` as long as the last two are at most 1. That is
//! the slack of [`Filter::slack`]; [`Filter::build`] chooses no scale for which it would not hold.

use gpu_kernels::step::StepShape;

use super::blocks::MAX_DEFICIT;
use crate::cpu::simd::{Simd, on_each_isa};

/// A row's tables of deficits.
#[derive(Debug)]
pub(super) struct Filter {
    /// `[m, max(1, 2^bits / 16)]` rows of 16 entries, with one row more where codes are in pairs.
    pub(super) rows: Vec<[u8; 16]>,
    /// The largest and the smallest entry of each sub-vector.
    extremes: Vec<[f32; 2]>,
    bits: u32,
}

impl Filter {
    pub(super) fn new(shape: &StepShape) -> Self {
        let m = shape.num_subvectors as usize;
        let rows = (m.next_multiple_of(2) << shape.bits.max(4)) / 16;
        Filter {
            rows: vec![[0; 16]; rows],
            extremes: vec![[0.0; 2]; m],
            bits: shape.bits,
        }
    }

    /// How much more than the heavy_k-th smallest deficit one of the best keys can have: m.
    pub(super) fn slack(&self) -> u8 {
        self.extremes.len() as u8
    }

    /// Looks at the entries of `table` `[m, 2^bits]`; returns whether scores can be bounded: every sum
    /// of absolute entries is finite.
    pub(super) fn look_at(&mut self, simd: Simd, table: &[f32]) -> bool {
        extremes(simd, table, &mut self.extremes);
        self.sum_of_absolutes() < f64::from(f32::MAX) / 2.0
    }

    fn sum_of_absolutes(&self) -> f64 {
        let largest = |&[max, min]: &[f32; 2]| f64::from(max.abs()) + f64::from(min.abs());
        self.extremes.iter().map(largest).sum()
    }

    /// The largest sum, and the range down to the smallest.
    fn sum_and_range(&self) -> (f64, f64) {
        self.extremes
            .iter()
            .fold((0.0, 0.0), |(sum, range), &[max, min]| {
                let (max, min) = (f64::from(max), f64::from(min));
                (sum + max, range + (max - min))
            })
    }

    /// Makes the deficits fine enough to tell scores from `worst` on apart; `None` for all scores. After
    /// [`Filter::look_at`] said yes.
    pub(super) fn build(&mut self, simd: Simd, table: &[f32], worst: Option<f32>) {
        let m = self.extremes.len() as f64;
        let (sum, range) = self.sum_and_range();
        // A score's rounding may put it above the largest sum.
        let range = worst.map_or(range, |worst| (sum - f64::from(worst)).clamp(0.0, range));
        let usable = f64::from(MAX_DEFICIT - self.slack());
        // 2 * E * scale <= 0.9, which leaves 0.1 for 2 * delta <= m * 2^-13.
        let finest = 0.9 / (2.0 * m * self.sum_of_absolutes() * 1.0001 / f64::from(1u32 << 24));
        let scale = (usable / range).min(finest);
        // Entries that are all alike, or denormal: any scale is right that is a number.
        let scale = (scale as f32).min(f32::MAX);
        deficits(
            simd,
            table,
            &self.extremes,
            scale,
            self.bits,
            &mut self.rows,
        );
    }
}

on_each_isa! {
    /// The largest and smallest entry of each sub-vector; an infinity where there is NaN.
    fn extremes(table: &[f32], extremes: &mut [[f32; 2]]) = extremes_on;
}

#[inline(always)]
fn extremes_on<I>(_isa: I, table: &[f32], extremes: &mut [[f32; 2]]) {
    let num_centroids = table.len() / extremes.len();
    for (entries, extremes) in table.chunks_exact(num_centroids).zip(extremes) {
        // As many at a time as the widest vectors hold.
        let (mut max, mut min) = ([f32::NEG_INFINITY; 16], [f32::INFINITY; 16]);
        let mut nan = [false; 16];
        let mut look_at = |entries: &[f32]| {
            for (i, &x) in entries.iter().enumerate() {
                max[i] = if x > max[i] { x } else { max[i] };
                min[i] = if x < min[i] { x } else { min[i] };
                nan[i] |= x.is_nan();
            }
        };
        let (blocks, rest) = entries.as_chunks::<16>();
        blocks.iter().for_each(|block| look_at(block));
        look_at(rest);
        *extremes = if nan.contains(&true) {
            [f32::INFINITY; 2]
        } else {
            [
                max.into_iter().fold(f32::NEG_INFINITY, f32::max),
                min.into_iter().fold(f32::INFINITY, f32::min),
            ]
        };
    }
}

on_each_isa! {
    /// Writes every entry's deficit.
    fn deficits(
        table: &[f32],
        extremes: &[[f32; 2]],
        scale: f32,
        bits: u32,
        rows: &mut [[u8; 16]],
    ) = deficits_on;
}

#[inline(always)]
fn deficits_on<I>(
    _isa: I,
    table: &[f32],
    extremes: &[[f32; 2]],
    scale: f32,
    bits: u32,
    rows: &mut [[u8; 16]],
) {
    // The conversion truncates, which is the floor, and saturates; no difference is negative or NaN.
    let deficit = |max: f32, entry: f32| ((max - entry) * scale).min(255.0) as i32 as u8;
    let num_centroids = 1 << bits;
    let rows_each = (num_centroids / 16).max(1);
    let subvectors = table.chunks_exact(num_centroids).zip(extremes);
    for ((entries, &[max, _]), rows) in subvectors.zip(rows.chunks_exact_mut(rows_each)) {
        for (row, entries) in rows.iter_mut().zip(entries.chunks(16)) {
            match entries.as_array::<16>() {
                Some(entries) => *row = entries.map(|entry| deficit(max, entry)),
                None => {
                    for (to, &entry) in row.iter_mut().zip(entries) {
                        *to = deficit(max, entry);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(m: u32, bits: u32) -> StepShape {
        StepShape {
            num_kv_heads: 1,
            num_qo_heads: 1,
            num_queries: 1,
            head_dim: m,
            num_subvectors: m,
            bits,
            init_offset: 0,
            code_capacity: 0,
            sink: 0,
            window: 0,
            heavy: 1,
            short_context_limit: 0,
            list_stride: 1,
            weights_stride: 0,
            ..StepShape::default()
        }
    }

    /// Numbers in -1..1 without a pattern that matters, times `size`.
    fn numbers(len: usize, seed: u32, size: f32) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            size * ((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
        };
        (0..len).map(|_| next()).collect()
    }

    /// What the module's first lines claim, for keys of random codes: of two keys the better one's
    /// deficit is at most the other's and m, whatever sizes the entries have and the scale was made for.
    #[test]
    fn a_better_key_lacks_at_most_the_slack_more() {
        for simd in Simd::available() {
            for (m, bits) in [(1, 8), (2, 7), (7, 3), (8, 8), (16, 4), (64, 5)] {
                for (seed, size) in [(1, 1.0), (2, 1e30), (3, 1e-38), (4, 1e-44), (5, 0.0)] {
                    let mut table = numbers(m << bits, seed, size);
                    // One sub-vector towers over the others, so that rounding matters.
                    table[..1 << bits]
                        .iter_mut()
                        .for_each(|x| *x = *x * 1000.0 + 1e7 * size);
                    let mut filter = Filter::new(&shape(m as u32, bits));
                    assert!(filter.look_at(simd, &table));
                    let codes: Vec<usize> = numbers(200 * m, 9, (1 << bits) as f32 / 2.0)
                        .iter()
                        .map(|x| ((x + (1 << bits) as f32 / 2.0) as usize).min((1 << bits) - 1))
                        .collect();
                    let score = |key: &[usize]| {
                        gpu_kernels::scores::score(m, |j| table[(j << bits) + key[j]])
                    };
                    let mut scores: Vec<f32> = codes.chunks(m).map(score).collect();
                    scores.sort_by(f32::total_cmp);
                    for worst in [
                        None,
                        Some(scores[100]),
                        Some(scores[190]),
                        Some(scores[199]),
                    ] {
                        filter.build(simd, &table, worst);
                        let entry = |j: usize, code: usize| {
                            let rows = (1usize << bits).div_ceil(16);
                            u32::from(filter.rows[j * rows + code / 16][code % 16])
                        };
                        let deficit = |key: &[usize]| {
                            let entries = key.iter().enumerate().map(|(j, &code)| entry(j, code));
                            entries.sum::<u32>().min(255)
                        };
                        let mut keys: Vec<(f32, u32)> = codes
                            .chunks(m)
                            .map(|key| (score(key), deficit(key)))
                            .collect();
                        keys.sort_by(|a, b| b.0.total_cmp(&a.0));
                        // Of all better keys the largest deficit is the one to hold.
                        let mut largest = 0;
                        for (score, deficit) in keys {
                            largest = largest.max(deficit);
                            if deficit <= u32::from(MAX_DEFICIT - filter.slack()) {
                                assert!(
                                    largest <= deficit + u32::from(filter.slack()),
                                    "m={m} bits={bits} size={size} {worst:?}: {score}"
                                );
                            } else {
                                assert!(
                                    worst.is_some(),
                                    "the worst score has a deficit of its own"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_bounded_is_said() {
        for simd in Simd::available() {
            let mut filter = Filter::new(&shape(2, 5));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
                for at in [0, 17, 31, 32, 63] {
                    let mut table = vec![1.0; 64];
                    assert!(filter.look_at(simd, &table));
                    table[at] = bad;
                    assert!(!filter.look_at(simd, &table), "{bad} at {at}");
                }
            }
        }
    }
}
