//! The nearest centroids to many points by 16-bit integers: a filter, which leaves to the exact search the points
//! that it is in doubt about.
//!
//! # The bound
//!
//! Of a point x and a centroid c of d components, X = s x and C = t c are rounded to integers, X + e = s x and
//! C + g = t c, where s and t are powers of two, so that scaling rounds nothing. Let A = x . c - |c|^2 / 2, let
//! f be what the contract computes for it (`gpu_kernels::codebook::affinities`), and I = X . C - H where H is s t |c|^2 / 2
//! rounded to an integer. Then
//!
//! - s t A - I = e . (t c) + X . g + (H - s t |c|^2 / 2). A component of e is at most 1/2, so |e| <= sqrt(d) / 2;
//!   |X| <= s |x| + |e|; |g| is known. So |s t A - I| <= sqrt(d) / 2 t |c| + |X| |g| + 1.
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
//! 257, |e| and |g| are below 9: |X| and |C|, and with them every component, are below 2^15 - 7. So |X . C| <
//! 2^30 and H <= 2^29 + 1, and |I| < 3 * 2^29, less than a 32-bit integer holds by 2^29; sums on the way may wrap.
//! The margin is below 2^21.

use super::bounds::Bounds;
use super::centroid_lanes::{CentroidLanes, nearest_centroids, nearest_centroids_of_some};
use super::simd::{FLOATS, IntLanes, Isa, Simd, on_each_isa};

/// Points whose sums are kept at a time, of [`FLOATS`] centroids each.
const POINTS_PER_TILE: usize = 4;
/// Norms in fixed point.
const LARGEST_NORM: f64 = ((1 << 15) - 16) as f64;
/// A sum where the last block of centroids is padded: less than any centroid's.
const PADDING: i32 = -3 << 29;
/// Components of an [`IntLanes`].
const COMPONENTS: usize = 2 * FLOATS;

/// Points in fixed point, a row of components each, two in an integer.
#[derive(Debug)]
pub(crate) struct FixedPoints {
    pub(super) num_points: usize,
    /// `[num_points, ceil(sub_dim / COMPONENTS)]`, padded to whole tiles.
    rows: Vec<IntLanes>,
    row_len: usize,
    /// `[num_points]`, as they came.
    pub(super) squared_norms: Vec<f32>,
    /// None where norms are too large for the bound, or most points were in doubt the last time.
    scale: Option<Scale>,
}

/// How numbers were scaled, and the largest norm of what was.
#[derive(Debug, Clone, Copy)]
struct Scale {
    factor: f64,
    norm: f64,
}

impl Scale {
    /// The largest power of two that scales `norm` to at most [`LARGEST_NORM`]; none for a norm beyond 2^50 or NaN.
    fn new(norm: f64) -> Option<Self> {
        const LARGEST: f64 = (1u64 << 60) as f64;
        if norm.is_nan() || norm > (1u64 << 50) as f64 {
            return None;
        }
        let mut factor = LARGEST;
        while factor * norm > LARGEST_NORM {
            factor *= 0.5;
        }
        Some(Scale { factor, norm })
    }
}

impl FixedPoints {
    /// From `points` of `sub_dim` components, of which consecutive ones start `stride` elements apart.
    pub(crate) fn new(simd: Simd, points: &[f32], stride: usize, sub_dim: usize) -> Self {
        let num_points = points.len().div_ceil(stride);
        let row_len = sub_dim.div_ceil(COMPONENTS);
        let mut squared_norms = vec![0.0; num_points];
        let largest = set_squared_norms(simd, points, stride, sub_dim, &mut squared_norms);
        // Far more than these sums are off by.
        let scale = Scale::new(largest.sqrt() * (1.0 + 1e-9));
        let mut rows = Vec::new();
        if let Some(scale) = scale {
            let padded = num_points.next_multiple_of(POINTS_PER_TILE);
            rows.resize(padded * row_len, IntLanes([0; FLOATS]));
            let factor = scale.factor as f32;
            fill(simd, points, stride, sub_dim, factor, &mut rows);
        }
        FixedPoints {
            num_points,
            rows,
            row_len,
            squared_norms,
            scale,
        }
    }

    /// Point `i`'s components.
    #[inline(always)]
    pub(super) fn row(&self, i: usize) -> &[IntLanes] {
        &self.rows[i * self.row_len..][..self.row_len]
    }
}

on_each_isa! {
    /// Squared norms of `points` of `sub_dim` components each `stride` elements, and the largest; NaN where one is.
    fn set_squared_norms(points: &[f32], stride: usize, sub_dim: usize, to: &mut [f32]) -> f64
        = set_squared_norms_on;
}

#[inline(always)]
fn set_squared_norms_on<I: Isa>(
    _isa: I,
    points: &[f32],
    stride: usize,
    sub_dim: usize,
    to: &mut [f32],
) -> f64 {
    let mut largest = 0.0f64;
    for (point, to) in points.chunks(stride).zip(to) {
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
        let sum = sums.iter().sum();
        *to = sum as f32;
        largest = larger_or_nan(largest, sum);
    }
    largest
}

on_each_isa! {
    /// Rounds points times `factor`, at most 2^15 then, into rows as [`FixedPoints`] has them.
    fn fill(points: &[f32], stride: usize, sub_dim: usize, factor: f32, rows: &mut [IntLanes]) = fill_on;
}

#[inline(always)]
fn fill_on<I: Isa>(
    _isa: I,
    points: &[f32],
    stride: usize,
    sub_dim: usize,
    factor: f32,
    rows: &mut [IntLanes],
) {
    let points = points.chunks(stride);
    for (point, row) in points.zip(rows.chunks_exact_mut(sub_dim.div_ceil(COMPONENTS))) {
        for (row, x) in row.iter_mut().zip(point[..sub_dim].chunks(COMPONENTS)) {
            if let Ok(x) = <&[f32; COMPONENTS]>::try_from(x) {
                let (twos, _) = x.as_chunks::<2>();
                for i in 0..FLOATS {
                    row.0[i] = (rounded(twos[i][0] * factor) & 0xffff)
                        | (rounded(twos[i][1] * factor) << 16);
                }
            } else {
                for (i, &x) in x.iter().enumerate() {
                    row.0[i / 2] |= (rounded(x * factor) & 0xffff) << (16 * (i % 2));
                }
            }
        }
    }
}

/// The nearest integer to `x`, at most 2^15, in the lowest 16 bits: at 3 * 2^22 floats are integers, whose lowest bits are
/// those of what was added.
#[inline(always)]
pub(super) fn rounded(x: f32) -> i32 {
    const ROUNDS: f32 = (3 << 22) as f32;
    (x + ROUNDS).to_bits() as i32
}

/// Centroids in fixed point.
#[derive(Debug)]
pub(crate) struct FixedCentroids {
    sub_dim: usize,
    /// As [`FixedPoints`] has them.
    rows: Vec<IntLanes>,
    /// The pairs of components of each block of [`FLOATS`] centroids side by side, `[ceil(sub_dim / 2)]`.
    lanes: Vec<IntLanes>,
    /// `[num_centroids]`.
    half_squared_norms: Vec<f64>,
    /// The largest norm of what rounding took away, times the scale.
    rest: f64,
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
        let (pairs, row_len) = (sub_dim.div_ceil(2), sub_dim.div_ceil(COMPONENTS));
        let blocks = half_squared_norms.len().div_ceil(FLOATS);
        let zero = IntLanes([0; FLOATS]);
        let mut fixed = FixedCentroids {
            sub_dim,
            rows: vec![zero; half_squared_norms.len() * row_len],
            lanes: vec![zero; blocks * pairs],
            half_squared_norms,
            rest: 0.0,
            scale: Scale::new((2.0 * largest).sqrt() * (1.0 + 1e-9)),
        };
        let Some(Scale { factor, .. }) = fixed.scale else {
            return fixed;
        };
        for (index, centroid) in centroids.chunks_exact(sub_dim).enumerate() {
            let row = &mut fixed.rows[index * row_len..][..row_len];
            for (i, &c) in centroid.iter().enumerate() {
                let integer = rounded(c * factor as f32) & 0xffff;
                row[i / COMPONENTS].0[i / 2 % FLOATS] |= integer << (16 * (i % 2));
            }
            let scaled = |c: f32| f64::from(c) * factor;
            let rest = centroid
                .iter()
                .map(|&c| scaled(c) - scaled(c).round_ties_even());
            fixed.rest = fixed.rest.max(squares(rest).sqrt());
            let lanes = &mut fixed.lanes[index / FLOATS * pairs..][..pairs];
            for (pair, lanes) in lanes.iter_mut().enumerate() {
                lanes.0[index % FLOATS] = row[pair / FLOATS].0[pair % FLOATS];
            }
        }
        fixed
    }

    pub(super) fn num_centroids(&self) -> usize {
        self.half_squared_norms.len()
    }

    /// Pairs of components.
    pub(super) fn pairs(&self) -> usize {
        self.sub_dim.div_ceil(2)
    }

    /// Centroid `index`'s components.
    #[inline(always)]
    pub(super) fn row(&self, index: usize) -> &[IntLanes] {
        let row_len = self.sub_dim.div_ceil(COMPONENTS);
        &self.rows[index * row_len..][..row_len]
    }
}

fn squares(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum()
}

fn larger_or_nan(a: f64, b: f64) -> f64 {
    if a >= b || a.is_nan() { a } else { b }
}

/// What some points and the centroids have in common.
#[derive(Debug)]
pub(super) struct Filter {
    /// Each centroid's sum before the first component; the last block is padded.
    pub(super) starts: Vec<IntLanes>,
    /// A best sum that exceeds all others by more belongs to the nearest centroid.
    pub(super) margin: i32,
    /// The product of both scales.
    pub(super) factor: f64,
    /// The sum of both largest norms.
    pub(super) reach: f64,
}

impl Filter {
    /// None where the bound does not hold.
    pub(super) fn new(points: &FixedPoints, centroids: &FixedCentroids) -> Option<Self> {
        let (points, scale) = (points.scale?, centroids.scale?);
        let factor = points.factor * scale.factor;
        let d = centroids.sub_dim as f64;
        let rounded = d.sqrt() / 2.0;
        let of_integers = rounded * scale.factor * scale.norm
            + (points.factor * points.norm + rounded) * centroids.rest
            + 1.0;
        let of_contract = 2.0
            * (d + 1.0)
            * 2f64.powi(-24)
            * (points.norm * scale.norm + scale.norm * scale.norm / 2.0)
            * factor
            + 1.0;
        let of_index = 255.0;
        // Far more than these numbers are off by.
        let margin = 2.0 * (of_integers + of_contract + of_index) * (1.0 + 1e-6) + 1.0;
        let mut starts =
            vec![IntLanes([PADDING; FLOATS]); centroids.num_centroids().div_ceil(FLOATS)];
        for (index, half) in centroids.half_squared_norms.iter().enumerate() {
            starts[index / FLOATS].0[index % FLOATS] = -(half * factor).round() as i32;
        }
        Some(Filter {
            starts,
            margin: margin as i32 + 1,
            factor,
            reach: points.norm + scale.norm,
        })
    }
}

/// [`nearest_centroids`] of many points, the same codes: `fixed` are these points, and both of `centroids` the same.
pub(crate) fn nearest_of_many(
    simd: Simd,
    fixed: &mut FixedPoints,
    centroids: (&FixedCentroids, &CentroidLanes),
    points: &[f32],
    stride: usize,
    codes: &mut [u8],
    code_stride: usize,
) {
    let filter = Filter::new(fixed, centroids.0);
    let find = |fixed: &FixedPoints, filter: &Filter, codes: &mut [u8], in_doubt: &mut Vec<u32>| {
        scan(
            simd,
            fixed,
            centroids.0,
            filter,
            None,
            codes,
            code_stride,
            in_doubt,
        );
    };
    filtered(
        simd,
        fixed,
        filter,
        centroids.1,
        points,
        stride,
        codes,
        code_stride,
        find,
    );
}

/// Calls `find`, which adds the points it is in doubt about to a list, and searches exactly for those; for all without
/// a filter.
#[allow(clippy::too_many_arguments)]
pub(super) fn filtered(
    simd: Simd,
    fixed: &mut FixedPoints,
    filter: Option<Filter>,
    lanes: &CentroidLanes,
    points: &[f32],
    stride: usize,
    codes: &mut [u8],
    code_stride: usize,
    find: impl FnOnce(&FixedPoints, &Filter, &mut [u8], &mut Vec<u32>),
) {
    let Some(filter) = filter else {
        return nearest_centroids(simd, lanes, points, stride, codes, code_stride, &mut []);
    };
    let mut in_doubt = Vec::new();
    find(fixed, &filter, codes, &mut in_doubt);
    nearest_centroids_of_some(simd, lanes, points, stride, &in_doubt, codes, code_stride);
    if in_doubt.len() > fixed.num_points / 2 {
        fixed.scale = None;
    }
}

on_each_isa! {
    /// Each point's best code, right but for the points whose indices are added to `in_doubt`. Sets `bounds` where there are
    /// any.
    pub(super) fn scan(
        points: &FixedPoints,
        centroids: &FixedCentroids,
        filter: &Filter,
        bounds: Option<&mut Bounds>,
        codes: &mut [u8],
        code_stride: usize,
        in_doubt: &mut Vec<u32>,
    ) = scan_on;
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn scan_on<I: Isa>(
    isa: I,
    points: &FixedPoints,
    centroids: &FixedCentroids,
    filter: &Filter,
    mut bounds: Option<&mut Bounds>,
    codes: &mut [u8],
    code_stride: usize,
    in_doubt: &mut Vec<u32>,
) {
    const BLOCKS: usize = 256 / FLOATS;
    let mut all = [[IntLanes([0; FLOATS]); BLOCKS]; POINTS_PER_TILE];
    let of_tile = POINTS_PER_TILE * points.row_len;
    for (tile, rows) in points.rows.chunks_exact(of_tile).enumerate() {
        let rows: [&[IntLanes]; POINTS_PER_TILE] =
            std::array::from_fn(|k| &rows[k * points.row_len..][..points.row_len]);
        let mut best = [isa.splat_int(i32::MIN); POINTS_PER_TILE];
        let mut second = best;
        let blocks = centroids.lanes.chunks_exact(centroids.pairs());
        for (block, (lanes, starts)) in blocks.zip(&filter.starts).enumerate() {
            let mut sums = [isa.load_ints(starts); POINTS_PER_TILE];
            for (part, lanes) in lanes.chunks(FLOATS).enumerate() {
                let x: [&[i32; FLOATS]; POINTS_PER_TILE] =
                    std::array::from_fn(|k| &rows[k][part].0);
                for i in 0..lanes.len().min(FLOATS) {
                    let c = isa.load_ints(&lanes[i]);
                    for k in 0..POINTS_PER_TILE {
                        sums[k] = isa.add_products(sums[k], isa.splat_int(x[k][i]), c);
                    }
                }
            }
            let indices = std::array::from_fn(|lane| (block * FLOATS + lane) as i32);
            let indices = isa.load_ints(&IntLanes(indices));
            for k in 0..POINTS_PER_TILE {
                if bounds.is_some() {
                    isa.store_ints(sums[k], &mut all[k][block % BLOCKS]);
                }
                let sum = isa.with_low_byte(sums[k], indices);
                second[k] = isa.max_ints(second[k], isa.min_ints(best[k], sum));
                best[k] = isa.max_ints(best[k], sum);
            }
        }
        for k in 0..POINTS_PER_TILE.min(points.num_points - tile * POINTS_PER_TILE) {
            let i = tile * POINTS_PER_TILE + k;
            let (best, second) = isa.two_largest(best[k], second[k]);
            codes[i * code_stride] = best as u8;
            if best <= second.saturating_add(filter.margin) {
                in_doubt.push(i as u32);
            }
            if let Some(bounds) = bounds.as_deref_mut() {
                bounds.set(i, points.squared_norms[i], best, &all[k]);
            }
        }
    }
}
