//! The nearest centroids to many points by 16-bit integers: a filter, which leaves the exact search the points
//! that it is in doubt about.
//!
//! # The bound
//!
//! Of a point x and a centroid c of d components, X = s x and C = t c are rounded to integers, X + e = s x and
//! C + g = t c; s and t are floats. Let A = x . c - |c|^2 / 2, let f be what the contract computes for it
//! (`gpu_kernels::codebook::affinities`), and I = X . C - H where H is s t |c|^2 / 2 rounded to an integer. Then
//!
//! - s t A - I = e . (t c) + X . g + (H - s t |c|^2 / 2), and |X| <= s |x| + |e|. So |s t A - I| <= |e| t |c| +
//!   (s |x| + |e|) |g| + 1. |g| is computed in f64; |e| from what is rounded, the products of f32, which are off by
//!   less than 2^-24 s |x| < 2^-9.
//! - |f - A| <= 2 (d + 1) u (|x| |c| + |c|^2 / 2) + 2^-140 with u = 2^-24: the half norm and the affinity are sums of d
//!   fused multiply-adds each (Higham 2002, 3.1), whose results below 2^-126 are off by 2^-150 at most. As
//!   s and t are at most 2^60, the last term is less than 1 in units of s t.
//! - The lowest byte of I gives way to the centroid's index: 255 at most.
//!
//! If I of the best centroid exceeds that of every other by more than twice the sum of these, the contract's affinity is
//! the largest there too, and alone. Else the point is in doubt.
//!
//! # No overflow
//!
//! s and t are chosen so that s |x| and t |c| are at most 2^15 - 16 for all points of a task and all centroids. With d <=
//! 257, |e| and |g| are below 9 (a component's is 1/2 and a little): |X| and |C|, and with them every component, are
//! below 2^15 - 7. So |X . C| < 2^30. A centroid may be longer than all of the points: then H is taken as 3 * 2^28, less than
//! it is, so that I is too large. Such a centroid cannot seem farther than it is, and a point that it seems the nearest to is in
//! doubt. So |I| < 7 * 2^28, and with a margin of at most 2^27 no sum overflows that is compared; those on the way
//! may wrap.

use super::centroid_lanes::{CentroidLanes, nearest_centroids, nearest_centroids_of_some};
use super::simd::{FLOATS, IntLanes, Isa, Simd, on_each_isa};
use crate::config::MAX_HEAD_DIM;

/// Centroids whose sums are kept at a time.
const CENTROIDS_PER_TILE: usize = 4;
/// Norms in fixed point.
const LARGEST_NORM: f64 = ((1 << 15) - 16) as f64;
/// A sum before the first component at least.
const LEAST_START: i32 = -3 << 28;
/// What takes a sum's place where the last tile is padded: less than any centroid's.
const PADDING: i32 = -15 << 27;
const LARGEST_MARGIN: f64 = (1 << 27) as f64;

/// Points in fixed point: of each block of [`FLOATS`] points, `[ceil(sub_dim / 2)]` lanes of two components.
#[derive(Debug)]
pub(crate) struct FixedPoints {
    num_points: usize,
    pairs: usize,
    lanes: Vec<IntLanes>,
    /// None where norms are too large for the bound, or most points were in doubt the last time.
    scale: Option<Scale>,
}

/// How numbers were scaled, the largest norm of what was, and of what rounding took away then.
#[derive(Debug, Clone, Copy)]
struct Scale {
    factor: f32,
    norm: f64,
    rest: f64,
}

impl Scale {
    /// That makes `norm` [`LARGEST_NORM`]; none for a norm beyond 2^50 or NaN.
    fn new(norm: f64) -> Option<Self> {
        const LARGEST: f32 = (1u64 << 60) as f32;
        let is_small = norm <= (1u64 << 50) as f64;
        is_small.then(|| Scale {
            factor: ((LARGEST_NORM / norm) as f32).min(LARGEST),
            norm,
            rest: 0.0,
        })
    }
}

impl FixedPoints {
    /// From `points` of `sub_dim` components, of which consecutive ones start `stride` elements apart.
    pub(crate) fn new(simd: Simd, points: &[f32], stride: usize, sub_dim: usize) -> Self {
        let num_points = points.len().div_ceil(stride);
        let pairs = sub_dim.div_ceil(2);
        let mut scale = Scale::new(largest_norm(simd, points, stride, sub_dim));
        let mut lanes = Vec::new();
        if let Some(scale) = &mut scale {
            lanes.resize(num_points.div_ceil(FLOATS) * pairs, IntLanes([0; FLOATS]));
            let rest = fill(simd, points, stride, sub_dim, scale.factor, &mut lanes);
            // The product of a component and the factor was rounded too; and more than the sum of squares is off by.
            scale.rest = f64::from(rest).sqrt() * (1.0 + 1e-4) + 2f64.powi(-9);
        }
        FixedPoints {
            num_points,
            pairs,
            lanes,
            scale,
        }
    }

    /// The largest norm, infinite where it is too large for the bound.
    pub(super) fn norm(&self) -> f64 {
        self.scale.map_or(f64::INFINITY, |scale| scale.norm)
    }
}

on_each_isa! {
    /// The largest norm of `points` of `sub_dim` components each `stride` elements; NaN where one is.
    fn largest_norm(points: &[f32], stride: usize, sub_dim: usize) -> f64 = largest_norm_on;
}

#[inline(always)]
fn largest_norm_on<I: Isa>(_isa: I, points: &[f32], stride: usize, sub_dim: usize) -> f64 {
    let mut largest = 0.0f64;
    for point in points.chunks(stride) {
        // Sums that the compiler keeps in registers.
        let mut sums = [0.0f64; 8];
        let (eights, rest) = point[..sub_dim].as_chunks::<8>();
        for x in eights {
            for i in 0..8 {
                sums[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        for &x in rest {
            sums[0] += f64::from(x) * f64::from(x);
        }
        let sum = sums.iter().sum::<f64>();
        largest = larger_or_nan(largest, sum);
    }
    // Far more than these sums are off by.
    largest.sqrt() * (1.0 + 1e-9)
}

on_each_isa! {
    /// Rounds points times `factor`, at most 2^15 then, into lanes as [`FixedPoints`] has them; the largest squared norm of
    /// what rounding took away.
    fn fill(points: &[f32], stride: usize, sub_dim: usize, factor: f32, lanes: &mut [IntLanes]) -> f32
        = fill_on;
}

#[inline(always)]
fn fill_on<I: Isa>(
    _isa: I,
    points: &[f32],
    stride: usize,
    sub_dim: usize,
    factor: f32,
    lanes: &mut [IntLanes],
) -> f32 {
    // Whole eights, with room for the component that augments a point.
    let mut row = [0i32; MAX_HEAD_DIM + 8];
    let pairs = sub_dim.div_ceil(2);
    let mut largest = 0.0f32;
    for (block, lanes) in lanes.chunks_exact_mut(pairs).enumerate() {
        let points = points.chunks(stride).skip(block * FLOATS).take(FLOATS);
        for (lane, point) in points.enumerate() {
            let mut sums = [0.0f32; 8];
            let integers = row.as_chunks_mut::<8>().0;
            for (integers, x) in integers.iter_mut().zip(point[..sub_dim].chunks(8)) {
                let mut eight = [0.0; 8];
                match x.first_chunk::<8>() {
                    Some(x) => eight = *x,
                    None => eight[..x.len()].copy_from_slice(x),
                }
                for i in 0..8 {
                    let x = eight[i] * factor;
                    integers[i] = rounded(x);
                    let rest = x - f32::from(integers[i] as i16);
                    sums[i] += rest * rest;
                }
            }
            largest = largest.max(sums.iter().sum());
            let twos = row.as_chunks::<2>().0;
            for (lanes, two) in lanes.iter_mut().zip(twos) {
                lanes.0[lane] = (two[0] & 0xffff) | (two[1] << 16);
            }
        }
    }
    largest
}

/// The nearest integer to `x`, at most 2^15, in the lowest 16 bits: at 3 * 2^22 floats are integers, whose lowest bits are
/// those of what was added.
#[inline(always)]
fn rounded(x: f32) -> i32 {
    const ROUNDS: f32 = (3 << 22) as f32;
    (x + ROUNDS).to_bits() as i32
}

/// Centroids in fixed point: of each tile `[ceil(sub_dim / 2)]` pairs of components of all its centroids.
#[derive(Debug)]
pub(crate) struct FixedCentroids {
    sub_dim: usize,
    pairs: Vec<[i32; CENTROIDS_PER_TILE]>,
    /// `[num_centroids]`.
    half_squared_norms: Vec<f64>,
    scale: Option<Scale>,
}

impl FixedCentroids {
    /// From `centroids` `[num_centroids, sub_dim]`.
    pub(crate) fn new(centroids: &[f32], sub_dim: usize) -> Self {
        let half_squared_norms: Vec<f64> = centroids
            .chunks_exact(sub_dim)
            .map(|centroid| squares(centroid.iter().map(|&c| f64::from(c))) / 2.0)
            .collect();
        let largest = half_squared_norms.iter().copied().fold(0.0, larger_or_nan);
        let num_pairs = sub_dim.div_ceil(2);
        let tiles = half_squared_norms.len().div_ceil(CENTROIDS_PER_TILE);
        let mut fixed = FixedCentroids {
            sub_dim,
            pairs: vec![[0; CENTROIDS_PER_TILE]; tiles * num_pairs],
            half_squared_norms,
            scale: Scale::new((2.0 * largest).sqrt() * (1.0 + 1e-9)),
        };
        let Some(Scale { factor, rest, .. }) = &mut fixed.scale else {
            return fixed;
        };
        for (index, centroid) in centroids.chunks_exact(sub_dim).enumerate() {
            let (tile, lane) = (index / CENTROIDS_PER_TILE, index % CENTROIDS_PER_TILE);
            let pairs = &mut fixed.pairs[tile * num_pairs..][..num_pairs];
            let mut squares = 0.0;
            for (i, &c) in centroid.iter().enumerate() {
                let integer = rounded(c * *factor);
                pairs[i / 2][lane] |= (integer & 0xffff) << (16 * (i % 2));
                // Exactly.
                let c = f64::from(c) * f64::from(*factor) - f64::from(integer as i16);
                squares += c * c;
            }
            *rest = rest.max(squares.sqrt());
        }
        fixed
    }
}

fn squares(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum()
}

fn larger_or_nan(a: f64, b: f64) -> f64 {
    if a >= b || a.is_nan() { a } else { b }
}

/// What a task's points and the centroids have in common.
struct Filter {
    /// Each centroid's sum before the first component, padded.
    starts: Vec<[i32; CENTROIDS_PER_TILE]>,
    /// A best sum that exceeds all others by more belongs to the nearest centroid,
    margin: i32,
    /// but for these centroids, whose sums are larger than they should be; empty where there are none.
    too_large: Vec<bool>,
}

impl Filter {
    fn new(points: Scale, centroids: &FixedCentroids) -> Option<Self> {
        let scale = centroids.scale?;
        let (s, t) = (f64::from(points.factor), f64::from(scale.factor));
        let factor = s * t;
        let d = centroids.sub_dim as f64;
        let of_integers =
            points.rest * t * scale.norm + (s * points.norm + points.rest) * scale.rest + 1.0;
        let of_contract = 2.0
            * (d + 1.0)
            * 2f64.powi(-24)
            * (points.norm * scale.norm + scale.norm * scale.norm / 2.0)
            * factor
            + 1.0;
        let of_index = 255.0;
        // Far more than these numbers are off by.
        let margin = 2.0 * (of_integers + of_contract + of_index) * (1.0 + 1e-6) + 1.0;
        if margin > LARGEST_MARGIN {
            return None;
        }
        let start = |half: &f64| -(half * factor).round();
        let halves = &centroids.half_squared_norms;
        let starts = halves.chunks(CENTROIDS_PER_TILE).map(|halves| {
            let mut starts = [PADDING; CENTROIDS_PER_TILE];
            for (to, half) in starts.iter_mut().zip(halves) {
                *to = (start(half) as i32).max(LEAST_START);
            }
            starts
        });
        let is_too_large = |half: &f64| start(half) < f64::from(LEAST_START);
        let too_large = match halves.iter().any(is_too_large) {
            true => halves.iter().map(is_too_large).collect(),
            false => Vec::new(),
        };
        Some(Filter {
            starts: starts.collect(),
            margin: margin as i32 + 1,
            too_large,
        })
    }
}

impl Filter {
    /// Bit `i` says whether lane `i` found one of [`Filter::too_large`].
    #[cold]
    fn seem_nearest_to_too_large(&self, found: &IntLanes) -> u16 {
        let are_too_large = found.0.map(|sum| self.too_large[usize::from(sum as u8)]);
        (0..FLOATS).fold(0, |mask, i| mask | (u16::from(are_too_large[i]) << i))
    }
}

/// [`nearest_centroids`] of many points, the same codes: `fixed` are these points, and both of `centroids` the same.
pub(crate) fn nearest_of_many(
    simd: Simd,
    fixed: &mut FixedPoints,
    (fixed_centroids, lanes): (&FixedCentroids, &CentroidLanes),
    points: &[f32],
    stride: usize,
    codes: &mut [u8],
    code_stride: usize,
) {
    let filter = fixed.scale.and_then(|s| Filter::new(s, fixed_centroids));
    let Some(filter) = filter else {
        return nearest_centroids(simd, lanes, points, stride, codes, code_stride, &mut []);
    };
    let mut in_doubt = Vec::new();
    scan(
        simd,
        fixed,
        fixed_centroids,
        &filter,
        codes,
        code_stride,
        &mut in_doubt,
    );
    nearest_centroids_of_some(simd, lanes, points, stride, &in_doubt, codes, code_stride);
    if in_doubt.len() > fixed.num_points / 2 {
        fixed.scale = None;
    }
}

on_each_isa! {
    /// Each point's best code, right but for the points whose indices are added to `in_doubt`.
    fn scan(
        points: &FixedPoints,
        centroids: &FixedCentroids,
        filter: &Filter,
        codes: &mut [u8],
        code_stride: usize,
        in_doubt: &mut Vec<u32>,
    ) = scan_on;
}

#[inline(always)]
fn scan_on<I: Isa>(
    isa: I,
    points: &FixedPoints,
    centroids: &FixedCentroids,
    filter: &Filter,
    codes: &mut [u8],
    code_stride: usize,
    in_doubt: &mut Vec<u32>,
) {
    let pairs = points.pairs;
    for (block, x) in points.lanes.chunks_exact(pairs).enumerate() {
        let mut best = isa.splat_int(i32::MIN);
        let mut second = best;
        let tiles = centroids.pairs.chunks_exact(pairs).zip(&filter.starts);
        for (tile, (c, starts)) in tiles.enumerate() {
            let mut sums = [best; CENTROIDS_PER_TILE];
            for j in 0..CENTROIDS_PER_TILE {
                sums[j] = isa.splat_int(starts[j]);
            }
            for (x, c) in x.iter().zip(c) {
                let x = isa.load_ints(x);
                for j in 0..CENTROIDS_PER_TILE {
                    sums[j] = isa.add_products(sums[j], x, isa.splat_int(c[j]));
                }
            }
            for (j, &sum) in sums.iter().enumerate() {
                let index = isa.splat_int((tile * CENTROIDS_PER_TILE + j) as i32);
                let sum = isa.with_low_byte(sum, index);
                second = isa.max_ints(second, isa.min_ints(best, sum));
                best = isa.max_ints(best, sum);
            }
        }
        let others = isa.add_ints(second, isa.splat_int(filter.margin));
        let mut certain = isa.exceeds(best, others);
        let mut found = IntLanes([0; FLOATS]);
        isa.store_ints(best, &mut found);
        let first = block * FLOATS;
        let in_block = FLOATS.min(points.num_points - first);
        for (lane, sum) in found.0[..in_block].iter().enumerate() {
            codes[(first + lane) * code_stride] = *sum as u8;
        }
        if !filter.too_large.is_empty() {
            certain &= !filter.seem_nearest_to_too_large(&found);
        }
        let mut rest = u32::from(!certain) & ((1 << in_block) - 1);
        while rest != 0 {
            in_doubt.push((first as u32) + rest.trailing_zeros());
            rest &= rest - 1;
        }
    }
}

#[cfg(test)]
mod tests;
