//! The n-th smallest or largest of many numbers by halving what it can be: nothing is moved, and one look at
//! all of them is a loop that the compiler makes vectors of.

use crate::cpu::simd::{Isa, Simd, on_each_isa};

/// The smallest number that at least `n` of the `parts`' numbers do not exceed. There are as many, and `n` of
/// them are at most `largest`.
pub(super) fn nth_smallest<'a>(
    simd: Simd,
    parts: impl Iterator<Item = &'a [u16]> + Clone,
    n: usize,
    largest: u16,
) -> u16 {
    let (mut low, mut high) = (0, largest);
    while low < high {
        let middle = low + (high - low) / 2;
        let count: usize = parts.clone().map(|part| at_most(simd, part, middle)).sum();
        if count >= n {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// The largest number that at least `n` of `keys` reach, and how many are larger. There are as many.
pub(super) fn nth_largest(simd: Simd, keys: &[u32], n: usize) -> (u32, usize) {
    let (mut low, mut high) = bounds(simd, keys);
    let mut larger = 0;
    while low < high {
        // Above low, so that each round ends nearer.
        let middle = high - (high - low) / 2;
        let count = at_least(simd, keys, middle);
        if count >= n {
            low = middle;
        } else {
            high = middle - 1;
            larger = count;
        }
    }
    (low, larger)
}

on_each_isa! {
    /// How many of `values` are at most `limit`.
    fn at_most(values: &[u16], limit: u16) -> usize = at_most_on;
}

#[inline(always)]
fn at_most_on<I: Isa>(_isa: I, values: &[u16], limit: u16) -> usize {
    // Few enough for 16-bit counters.
    let chunks = values.chunks(1 << 14).map(|chunk| {
        let mut count = 0u16;
        for &value in chunk {
            count += u16::from(value <= limit);
        }
        usize::from(count)
    });
    chunks.sum()
}

on_each_isa! {
    /// How many of `keys` are at least `limit`; there are fewer than 2^32.
    fn at_least(keys: &[u32], limit: u32) -> usize = at_least_on;
}

#[inline(always)]
fn at_least_on<I: Isa>(_isa: I, keys: &[u32], limit: u32) -> usize {
    let mut count = 0u32;
    for &key in keys {
        count += u32::from(key >= limit);
    }
    count as usize
}

on_each_isa! {
    /// The smallest and the largest of `keys`.
    fn bounds(keys: &[u32]) -> (u32, u32) = bounds_on;
}

#[inline(always)]
fn bounds_on<I: Isa>(_isa: I, keys: &[u32]) -> (u32, u32) {
    let (mut smallest, mut largest) = (u32::MAX, 0);
    for &key in keys {
        smallest = smallest.min(key);
        largest = largest.max(key);
    }
    (smallest, largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of about `bits` bits, many of them equal where that is few.
    fn numbers(len: usize, seed: u32, bits: u32) -> Vec<u32> {
        let mut state = seed | 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> (32 - bits)
        };
        (0..len).map(next).collect()
    }

    #[test]
    fn every_nth_is_that_of_a_sorted_list() {
        for simd in Simd::available() {
            for (len, bits) in [(1, 8), (2, 1), (37, 3), (64, 15), (301, 12), (20_000, 15)] {
                let values: Vec<u16> = numbers(len, 3, bits).iter().map(|&x| x as u16).collect();
                let mut sorted = values.clone();
                sorted.sort_unstable();
                for n in [1, 2, len / 3, len - 1, len] {
                    let n = n.clamp(1, len);
                    let halves = || [&values[..len / 2], &values[len / 2..]].into_iter();
                    assert_eq!(
                        nth_smallest(simd, halves(), n, i16::MAX as u16),
                        sorted[n - 1]
                    );
                    assert_eq!(
                        nth_smallest(simd, halves(), n, sorted[n - 1]),
                        sorted[n - 1]
                    );
                }
            }
            for (len, bits) in [(1, 32), (2, 1), (37, 3), (301, 32)] {
                let keys = numbers(len, 5, bits);
                let mut sorted = keys.clone();
                sorted.sort_unstable_by(|a, b| b.cmp(a));
                for n in 1..=len {
                    let larger = keys.iter().filter(|&&key| key > sorted[n - 1]).count();
                    assert_eq!(nth_largest(simd, &keys, n), (sorted[n - 1], larger));
                }
            }
        }
    }
}
