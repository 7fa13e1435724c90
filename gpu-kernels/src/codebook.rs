//! Centroids: how near a key is to one.
//!
//! # Inner product as distance
//!
//! With the metric `ip` every sub-vector x of a key gets one component more, `sqrt(phi - |x|^2)`, where phi
//! is the largest squared norm among the keys of its group that were trained on. All of those then have
//! squared norm phi, so that the nearest of several by Euclidean distance is the one with the largest inner
//! product (Bachrach et al. 2014; the public PQCache indexers train so). Centroids have the component too. A query
//! would have 0 there: tables and scores are those of the first `sub_dim` components.

use crate::float::{fma, sqrt};
use crate::order::{rank, rank_position};

/// The squared norm of `n` components, summed in their order with one fused multiply-add each.
#[inline(always)]
pub fn squared_norm(n: usize, x: impl Fn(usize) -> f32) -> f32 {
    let mut sum = 0.0;
    for i in 0..n {
        sum = fma(x(i), x(i), sum);
    }
    sum
}

/// Half the squared norm of a centroid, `sum(c[i]^2) / 2`, see [`squared_norm`]. Computed once per
/// codebook; with the metric `ip` the centroid's last component is the one that augments it.
#[inline(always)]
pub fn half_norm(centroid: &[f32]) -> f32 {
    0.5 * squared_norm(centroid.len(), |i| centroid[i])
}

/// phi of several sub-vectors, of which `largest` is the largest [`squared_norm`]: that, or the largest
/// number where it overflows.
#[inline(always)]
pub fn phi(largest: f32) -> f32 {
    largest.min(f32::MAX)
}

/// The component that augments a sub-vector of that [`squared_norm`]: `sqrt(max(phi - |x|^2, 0))`. A key that
/// came after training may be longer than all that were trained on; its component is 0. So is one that is
/// not comparable (NaN).
#[inline(always)]
pub fn augmented_component(phi: f32, squared_norm: f32) -> f32 {
    let rest = phi - squared_norm;
    if rest > 0.0 { sqrt(rest) } else { 0.0 }
}

/// Where a component of a centroid goes: to the `mean`, and beyond it by `beyond` times its way from `before`, if there are
/// numbers so far away.
#[inline(always)]
pub fn beyond_mean(mean: f32, before: f32, beyond: f32) -> f32 {
    let there = mean + beyond * (mean - before);
    if there.is_finite() { there } else { mean }
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
