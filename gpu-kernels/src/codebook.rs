//! Centroids: how near a key is to one.

use crate::float::fma;
use crate::order::{rank, rank_position};

/// Half the squared norm of a centroid, `sum(c[i]^2) / 2`, summed in the order of the components
/// with one fused multiply-add each. Computed once per codebook.
#[inline(always)]
pub fn half_norm(centroid: &[f32]) -> f32 {
    let mut sum = 0.0;
    for &c in centroid {
        sum = fma(c, c, sum);
    }
    0.5 * sum
}

/// How near a sub-vector is to each of `W` centroids, larger being nearer: `x . c - |c|^2 / 2`.
///
/// As `|x - c|^2 = |x|^2 - 2 (x . c - |c|^2 / 2)`, the largest affinity is the smallest Euclidean
/// distance. Each sum starts from `-half_norm(lane)` and takes the components in order, one fused
/// multiply-add each. `x(i)` is the sub-vector's component `i`, `c(i, lane)` that of centroid `lane`:
/// a device thread takes one centroid at a time, a processor as many as its vectors hold.
#[inline(always)]
pub fn affinities<const W: usize>(
    sub_dim: usize,
    half_norm: impl Fn(usize) -> f32,
    x: impl Fn(usize) -> f32,
    c: impl Fn(usize, usize) -> f32,
) -> [f32; W] {
    let mut sums = [0.0; W];
    for (lane, sum) in sums.iter_mut().enumerate() {
        *sum = -half_norm(lane);
    }
    accumulate(&mut sums, sub_dim, x, c);
    sums
}

/// Takes the next `n` components into the sums of [`affinities`].
#[inline(always)]
pub fn accumulate<const W: usize>(
    sums: &mut [f32; W],
    n: usize,
    x: impl Fn(usize) -> f32,
    c: impl Fn(usize, usize) -> f32,
) {
    for i in 0..n {
        let x = x(i);
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum = fma(x, c(i, lane), *sum);
        }
    }
}

/// The best of several affinities so far: the total order of (affinity descending, centroid
/// ascending), so equally near centroids give the lower index, and NaN is never nearer than a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Nearest(u64);

impl Nearest {
    /// Before any centroid was looked at; every centroid is better.
    pub const NONE: Nearest = Nearest(0);

    /// Centroid `index` at `affinity`.
    #[inline(always)]
    pub fn new(affinity: f32, index: u32) -> Self {
        Nearest(rank(affinity, index))
    }

    /// The better of two.
    #[inline(always)]
    pub fn better(self, other: Self) -> Self {
        if other.0 > self.0 { other } else { self }
    }

    /// The centroid's index.
    #[inline(always)]
    pub fn index(self) -> u32 {
        rank_position(self.0)
    }

    /// As an integer that orders alike.
    #[inline(always)]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Back from [`Nearest::to_bits`].
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        Nearest(bits)
    }
}
