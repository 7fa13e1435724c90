//! Tables of 8-bit deficits: a bound on every score, exact enough to exclude most candidates.
//!
//! With `M_j` the largest entry of sub-vector j's table and `t_j` a key's, the key lacks
//! `D = sum(M_j - t_j)` of the largest sum. An entry's deficit is `floor((M_j - t_j) * scale)`, at most
//! [`MAX_ENTRY`], and a key's the sum `Q` of its m entries'. With delta for the rounding of the products,
//! each below 256 * 2^-22, `Q - delta <= D * scale` always holds. While no entry was cut off at
//! [`MAX_ENTRY`], `D * scale < Q + m + delta` holds too: always where the scale leaves room for the
//! widest table, else where `Q` is below [`MAX_ENTRY`]. [`Filter::largest`] is the largest `Q` for
//! which it holds; such a key's deficit is said to be exact.
//!
//! Let x have an exact deficit `Q`, and let y's score be at least as good. A score differs from
//! `sum(M_j) - D` by at most `E = (m - 1) * 2^-24 * sum(max |t_j|) * 1.0001` (rounding errors of a sum:
//! Higham 2002, section 4.2), so y has `D * scale < Q + m + delta + 2 * E * scale`, and a deficit below
//! `Q + m + 2 * delta + 2 * E * scale`: at most `Q + m` as long as the last two are at most 1. That is
//! the slack of [`Filter::slack`]; [`Filter::build`] chooses no scale for which it would not hold.
//!
//! Let now `T` be exact and the heavy_k-th smallest deficit.
//!
//! - A key with `Q > T + m` is worse than each of the heavy_k keys up to `T`: it is not listed.
//! - A key with `Q + m < T` has fewer than heavy_k keys as good as itself, for those have deficits below
//!   `T`: it is listed, whatever its score.
//!
//! Only the keys between have to be scored.

use gpu_kernels::step::StepShape;

use crate::cpu::simd::{Simd, on_each_isa};

/// An entry's largest deficit.
const MAX_ENTRY: u8 = u8::MAX;

/// A row's tables of deficits.
#[derive(Debug)]
pub(super) struct Filter {
    /// `[m, max(1, 2^bits / 16)]` rows of 16 entries, with one row more where codes are in pairs.
    pub(super) rows: Vec<[u8; 16]>,
    /// The largest and the smallest entry of each sub-vector.
    extremes: Vec<[f32; 2]>,
    pub(super) bits: u32,
    scale: f32,
    /// The largest exact deficit.
    pub(super) largest: u16,
}

impl Filter {
    pub(super) fn new(shape: &StepShape) -> Self {
        let m = shape.num_subvectors as usize;
        let rows = (m.next_multiple_of(2) << shape.bits.max(4)) / 16;
        Filter {
            rows: vec![[0; 16]; rows],
            extremes: vec![[0.0; 2]; m],
            bits: shape.bits,
            scale: 0.0,
            largest: 0,
        }
    }

    /// How much larger than a key's exact deficit that of a key as good can be: m.
    pub(super) fn slack(&self) -> u16 {
        self.extremes.len() as u16
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

    /// The finest scale for which the slack holds: 2 * E * scale <= 0.9, which leaves 0.1 for
    /// 2 * delta <= m * 2^-13.
    fn finest(&self) -> f64 {
        let m = self.extremes.len() as f64;
        0.9 / (2.0 * m * self.sum_of_absolutes() * 1.0001 / f64::from(1u32 << 24))
    }

    /// The scale at which the widest table just fits: every deficit is exact.
    fn widest(&self) -> f64 {
        let range = |&[max, min]: &[f32; 2]| f64::from(max) - f64::from(min);
        let widest = self.extremes.iter().map(range).fold(0.0, f64::max);
        f64::from(MAX_ENTRY) / widest
    }

    /// Makes the deficits, all of them exact. After [`Filter::look_at`] said yes.
    pub(super) fn build(&mut self, simd: Simd, table: &[f32]) {
        self.build_at(simd, table, self.widest());
    }

    /// Makes the deficits so much finer that those up to `reach` just stay exact; returns whether that
    /// makes a difference. After [`Filter::build`].
    pub(super) fn refine(&mut self, simd: Simd, table: &[f32], reach: u16) -> bool {
        let slack = f64::from(self.slack());
        // A key with that deficit lacks less than `reach + slack + 1` at this scale, and has at most
        // the room left at the next.
        let room = f64::from(MAX_ENTRY - 1) - slack;
        let finer = f64::from(self.scale) * room / (f64::from(reach) + slack + 1.0);
        if finer.min(self.finest()) < 1.5 * f64::from(self.scale) {
            return false;
        }
        self.build_at(simd, table, finer);
        true
    }

    fn build_at(&mut self, simd: Simd, table: &[f32], scale: f64) {
        let scale = scale.min(self.finest());
        self.largest = if scale <= self.widest() {
            i16::MAX as u16
        } else {
            u16::from(MAX_ENTRY) - 1
        };
        // Entries that are all alike, or denormal: any scale is right that is a number.
        self.scale = (scale as f32).min(f32::MAX);
        deficits(
            simd,
            table,
            &self.extremes,
            self.scale,
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
    let deficit =
        |max: f32, entry: f32| ((max - entry) * scale).min(f32::from(MAX_ENTRY)) as i32 as u8;
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
    use crate::cpu::step::test_data;

    fn shape(m: u32, bits: u32) -> StepShape {
        test_data::shape(m, bits, 0)
    }

    /// Numbers in -1..1 without a pattern that matters, times `size`.
    fn numbers(len: usize, seed: u32, size: f32) -> Vec<f32> {
        test_data::words(len, seed)
            .map(|word| size * ((word >> 8) as f32 / (1 << 23) as f32 - 1.0))
            .collect()
    }

    /// What the module's first lines claim, for keys of random codes: of two keys the better one's
    /// deficit is at most the other's and m, whatever sizes the entries have and however fine the scale.
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
                    for reach in [None, Some(60), Some(20), Some(0)] {
                        filter.build(simd, &table);
                        if let Some(reach) = reach
                            && !filter.refine(simd, &table, reach)
                        {
                            continue;
                        }
                        let entry = |j: usize, code: usize| {
                            let rows = (1usize << bits).div_ceil(16);
                            u16::from(filter.rows[j * rows + code / 16][code % 16])
                        };
                        let deficit = |key: &[usize]| -> u16 {
                            key.iter()
                                .enumerate()
                                .map(|(j, &code)| entry(j, code))
                                .sum()
                        };
                        let mut keys: Vec<(f32, u16)> = codes
                            .chunks(m)
                            .map(|key| (score(key), deficit(key)))
                            .collect();
                        keys.sort_by(|a, b| b.0.total_cmp(&a.0));
                        // Of all better keys the largest deficit is the one to hold.
                        let mut largest = 0;
                        for (score, deficit) in keys {
                            largest = largest.max(deficit);
                            if deficit <= filter.largest {
                                assert!(
                                    largest <= deficit + filter.slack(),
                                    "m={m} bits={bits} size={size} {reach:?}: {score}"
                                );
                            } else {
                                assert!(reach.is_some(), "at first every deficit is exact");
                            }
                        }
                    }
                }
            }
        }
    }

    /// At first the widest table just fits; then what lies up to `reach` just stays exact; never is a scale finer
    /// than the rounding of a score allows.
    #[test]
    fn scales_are_as_fine_as_the_bound_allows() {
        for simd in Simd::available() {
            let mut filter = Filter::new(&shape(2, 4));
            // Ranges of 4 and 1.
            let mut table = vec![0.0; 32];
            (table[3], table[9]) = (3.0, -1.0);
            table[16..].fill(5.0);
            table[20] = 6.0;
            assert!(filter.look_at(simd, &table));
            assert_eq!(filter.extremes, [[3.0, -1.0], [6.0, 5.0]]);
            filter.build(simd, &table);
            assert_eq!((filter.scale, filter.largest), (255.0 / 4.0, 32767));
            let mut deficits = [[191; 16], [63; 16]];
            (deficits[0][3], deficits[0][9], deficits[1][4]) = (0, 255, 0);
            assert_eq!(filter.rows, deficits);

            // Of 254, the two roundings are left; a scale less than 1.5 times as fine is not worth it.
            assert!(!filter.refine(simd, &table, 166));
            assert_eq!((filter.scale, filter.largest), (63.75, 32767));
            assert!(filter.refine(simd, &table, 165));
            assert_eq!((filter.scale, filter.largest), (63.75 * 1.5, 254));
            filter.build(simd, &table);
            assert!(filter.refine(simd, &table, 3));
            assert_eq!((filter.scale, filter.largest), (63.75 * 42.0, 254));
            (deficits[0], deficits[1]) = ([255; 16], [255; 16]);
            (deficits[0][3], deficits[1][4]) = (0, 0);
            assert_eq!(filter.rows, deficits);

            // Entries of 2^20 that differ by half: 2 * E is 2 * m * 2^-24 * (2^21 + 1.5), roughly.
            table[..16].fill(1_048_576.0);
            table[5] = 1_048_576.5;
            table[16..].fill(0.0);
            table[16] = -1.0;
            assert!(filter.look_at(simd, &table));
            filter.build(simd, &table);
            let finest = 0.9 / (4.0 * 2_097_153.5 * 1.0001 / 16_777_216.0);
            assert_eq!((filter.scale, filter.largest), (finest as f32, 32767));
            assert!(!filter.refine(simd, &table, 0));
        }
    }

    /// `[m, 2^bits / 16]` rows of 16, and one more behind an odd number of pairs' halves.
    #[test]
    fn rows_are_as_many_as_the_tables_need() {
        for (m, bits, rows) in [(1, 1, 2), (2, 4, 2), (3, 2, 4), (4, 5, 8), (2, 8, 32)] {
            assert_eq!(Filter::new(&shape(m, bits)).rows.len(), rows);
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
