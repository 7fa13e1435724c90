//! Which centroids may have become a point's nearest since the last iteration of k-means (Elkan 2003): only for those
//! is an affinity computed again.
//!
//! # The bound
//!
//! A point's *reference* is at least its distance from the centroid it belonged to the last time. Of every centroid j
//! a byte is known, its gap: the distance from j is at least reference + (gap - 1) units. Gap 0 of a point without a
//! reference (minus infinity) says nothing. When the centroids have moved, the distance from j has shrunk by no more than j has
//! moved; and the reference is that of the point's own centroid, computed anew. So the gap of j is now less by j's way,
//! rounded up, and more by what the reference has fallen, rounded down. Where it is still at least 1, j is at least as far as
//! the new reference.
//!
//! Distances are from integers, |x - c|^2 = |x|^2 - 2 A. With the filter's names, s t A is I up to half of its margin;
//! for the reference all of the margin is added on top, so that a centroid as far away as that has an affinity which the
//! contract, too, computes as smaller than the own centroid's. Numbers are f32: with D the sum of the largest norms of
//! points and centroids, |x|^2, 2 A and |x - c|^2 are at most D^2 each, and what is computed from them, up to the square
//! root, off by less than 2^-20 D^2, which is part of the slack. A unit is D / 2048. The difference of two roots in units
//! is off by less than 2^-10; gaps leave a whole unit for that, and every fall of the reference is counted
//! 2^-10 less.
//!
//! A centroid whose byte is set from its sum may be nearer than the reference, but by no more than the slack makes. Where
//! that is more than a unit (points that lie on a centroid), the point is left without a reference.

use super::centroid_lanes::CentroidLanes;
use super::fixed_point::{Filter, FixedCentroids, FixedPoints, filtered, rounded, scan};
use super::simd::{BYTES, ByteLanes, FLOATS, IntLanes, Isa, Simd, on_each_isa};

/// More than a difference of two distances, in units, is off by.
const ROUNDING: f32 = 1.0 / 1024.0;

/// A task's points, and what is known of their distances.
#[derive(Debug)]
pub(crate) struct Followed {
    points: FixedPoints,
    bounds: Option<Bounds>,
}

/// Centroids that have moved.
#[derive(Debug)]
pub(crate) struct Moved<'a> {
    pub(crate) fixed: &'a FixedCentroids,
    pub(crate) lanes: &'a CentroidLanes,
    /// How far each has moved since the last call; empty the first time.
    pub(crate) ways: &'a [f64],
    /// Whether there will be another call.
    pub(crate) goes_on: bool,
}

impl Moved<'_> {
    /// How far centroids `[num_centroids, sub_dim]` have moved, rounded up.
    pub(crate) fn ways(before: &[f32], after: &[f32], sub_dim: usize) -> Vec<f64> {
        let centroids = before
            .chunks_exact(sub_dim)
            .zip(after.chunks_exact(sub_dim));
        let way = |(before, after): (&[f32], &[f32])| {
            let components = before.iter().zip(after);
            let squares = components.map(|(&b, &a)| (f64::from(a) - f64::from(b)).powi(2));
            squares.sum::<f64>().sqrt() * (1.0 + 1e-9)
        };
        centroids.map(way).collect()
    }
}

impl Followed {
    /// `points` `[n, sub_dim]`.
    pub(crate) fn new(simd: Simd, points: &[f32], sub_dim: usize) -> Self {
        Followed {
            points: FixedPoints::new(simd, points, sub_dim, sub_dim),
            bounds: None,
        }
    }

    /// The code of each of these points, as [`nearest_centroids`](super::centroid_lanes::nearest_centroids) finds it. `codes`
    /// are those of the last call.
    pub(crate) fn assign(
        &mut self,
        simd: Simd,
        points: &[f32],
        centroids: &Moved<'_>,
        codes: &mut [u8],
    ) {
        let fixed = centroids.fixed;
        let sub_dim = centroids.lanes.sub_dim();
        let filter = Filter::new(&self.points, fixed);
        let mut bounds = self.bounds.take().filter(|_| filter.is_some());
        let find =
            |points: &FixedPoints, filter: &Filter, codes: &mut [u8], in_doubt: &mut Vec<u32>| {
                let few = bounds.as_mut().and_then(|bounds| {
                    let ways = bounds.in_units(centroids.ways);
                    bounds.few_are_near(fixed, &ways).then_some((bounds, ways))
                });
                if let Some((bounds, ways)) = few {
                    bounds.distances = Distances::new(filter, bounds.distances.per_unit);
                    follow(simd, points, fixed, filter, &ways, bounds, codes, in_doubt);
                    return;
                }
                // The first ways are long: nothing would be left of bounds.
                let is_useful = centroids.goes_on && !centroids.ways.is_empty();
                bounds = is_useful
                    .then(|| Bounds::new(filter, points.num_points, fixed.num_centroids()));
                scan(
                    simd,
                    points,
                    fixed,
                    filter,
                    bounds.as_mut(),
                    codes,
                    1,
                    in_doubt,
                );
            };
        filtered(
            simd,
            &mut self.points,
            filter,
            centroids.lanes,
            points,
            sub_dim,
            codes,
            1,
            find,
        );
        self.bounds = bounds;
    }
}

/// What is known of points' distances.
#[derive(Debug)]
pub(super) struct Bounds {
    distances: Distances,
    /// Blocks of a point's gaps.
    blocks: usize,
    /// `[num_points, blocks]`.
    gaps: Vec<ByteLanes>,
    /// `[num_points]`.
    references: Vec<f32>,
}

impl Bounds {
    fn new(filter: &Filter, num_points: usize, num_centroids: usize) -> Self {
        let blocks = num_centroids.div_ceil(BYTES);
        Bounds {
            distances: Distances::new(filter, (2048.0 / filter.reach.max(1e-18)) as f32),
            blocks,
            gaps: vec![ByteLanes([0; BYTES]); num_points * blocks],
            references: vec![f32::NEG_INFINITY; num_points],
        }
    }

    /// Lengths in units, rounded up, as a row of gaps has them.
    fn in_units(&self, ways: &[f64]) -> Vec<ByteLanes> {
        let mut units = vec![ByteLanes([0; BYTES]); self.blocks];
        for (way, to) in ways
            .iter()
            .zip(units.iter_mut().flat_map(|units| &mut units.0))
        {
            *to = (way * f64::from(self.distances.per_unit) * (1.0 + 1e-9)).ceil() as u8;
        }
        units
    }

    /// Whether so few centroids may have come near that it is quicker to look at each of them alone.
    fn few_are_near(&self, centroids: &FixedCentroids, ways: &[ByteLanes]) -> bool {
        /// One point of so many is looked at.
        const EACH: usize = 16;
        let num_centroids = centroids.num_centroids();
        let ways = ways.iter().flat_map(|ways| &ways.0);
        let (mut near, mut points) = (0, 0);
        let gaps = self.gaps.chunks_exact(self.blocks).zip(&self.references);
        for (gaps, reference) in gaps.step_by(EACH) {
            let gaps = gaps.iter().flat_map(|gaps| &gaps.0).zip(ways.clone());
            near += match reference.is_finite() {
                true => gaps
                    .take(num_centroids)
                    .filter(|(gap, way)| gap <= way)
                    .count(),
                false => num_centroids,
            };
            points += 1;
        }
        // Measured, in cycles: about 10 for a centroid alone and 40 for a point.
        let of_all = num_centroids * (1 + centroids.pairs() / 8);
        10 * near + 40 * points < of_all * points
    }

    /// Sets point `i`'s from the sums of all centroids.
    #[inline(always)]
    pub(super) fn set(&mut self, i: usize, squared_norm: f32, best: i32, sums: &[IntLanes]) {
        let distances = self.distances;
        let reference = distances.at_most(squared_norm, best);
        let gaps = &mut self.gaps[i * self.blocks..][..self.blocks];
        for (gaps, sums) in gaps.iter_mut().zip(sums.chunks_exact(BYTES / FLOATS)) {
            let gaps = gaps.0.as_chunks_mut::<FLOATS>().0;
            for (gaps, sums) in gaps.iter_mut().zip(sums) {
                for lane in 0..FLOATS {
                    gaps[lane] = distances.gap(squared_norm, sums.0[lane], reference);
                }
            }
        }
        self.references[i] = distances.checked(squared_norm, best, reference);
    }
}

/// From sums to distances.
#[derive(Debug, Clone, Copy)]
struct Distances {
    per_unit: f32,
    /// 2 / (s t), a power of two.
    per_sum: f32,
    /// What a squared distance may be off by.
    slack: f32,
}

impl Distances {
    #[inline(always)]
    fn new(filter: &Filter, per_unit: f32) -> Self {
        let slack = 2.0 * f64::from(filter.margin) / filter.factor
            + 2f64.powi(-20) * filter.reach * filter.reach;
        Distances {
            per_unit,
            per_sum: (2.0 / filter.factor) as f32,
            slack: (slack * (1.0 + 1e-6)) as f32,
        }
    }

    /// No smaller than the distance.
    #[inline(always)]
    fn at_most(self, squared_norm: f32, sum: i32) -> f32 {
        (squared_norm - sum as f32 * self.per_sum + self.slack)
            .max(0.0)
            .sqrt()
    }

    /// No larger than the distance.
    #[inline(always)]
    fn at_least(self, squared_norm: f32, sum: i32) -> f32 {
        (squared_norm - sum as f32 * self.per_sum - self.slack)
            .max(0.0)
            .sqrt()
    }

    /// The gap of the centroid with that sum.
    #[inline(always)]
    fn gap(self, squared_norm: f32, sum: i32, reference: f32) -> u8 {
        let units = (self.at_least(squared_norm, sum) - reference) * self.per_unit;
        // Rounded down, and by one for some whole numbers.
        rounded(units.clamp(0.0, 255.0) - 0.5) as u8
    }

    /// The reference, or none where the centroid with the largest sum may be nearer by more than a unit.
    #[inline(always)]
    fn checked(self, squared_norm: f32, best: i32, reference: f32) -> f32 {
        let units = (reference - self.at_least(squared_norm, best)) * self.per_unit;
        if units <= 1.0 - ROUNDING {
            reference
        } else {
            f32::NEG_INFINITY
        }
    }

    /// Whole units that a reference has fallen, at most 255 either way.
    #[inline(always)]
    fn fall(self, from: f32, to: f32) -> i32 {
        let units = (from - to) * self.per_unit - ROUNDING;
        units.floor().clamp(-255.0, 255.0) as i32
    }
}

on_each_isa! {
    /// Each point's best code, right but for the points whose indices are added to `in_doubt`. `codes` are those of the
    /// last call, and so are `bounds`; `ways` says how far centroids have moved since, in units.
    fn follow(
        points: &FixedPoints,
        centroids: &FixedCentroids,
        filter: &Filter,
        ways: &[ByteLanes],
        bounds: &mut Bounds,
        codes: &mut [u8],
        in_doubt: &mut Vec<u32>,
    ) = follow_on;
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn follow_on<I: Isa>(
    isa: I,
    points: &FixedPoints,
    centroids: &FixedCentroids,
    filter: &Filter,
    ways: &[ByteLanes],
    bounds: &mut Bounds,
    codes: &mut [u8],
    in_doubt: &mut Vec<u32>,
) {
    let distances = bounds.distances;
    let starts = filter.starts.iter().flat_map(|starts| starts.0);
    let mut start_of = [0; 256];
    start_of
        .iter_mut()
        .zip(starts)
        .for_each(|(to, start)| *to = start);
    let start_of = |index: usize| start_of[index & 255];
    let mut looked_at = [(0u8, 0i32); 256];
    let all_gaps = bounds.gaps.chunks_exact_mut(bounds.blocks);
    let of_points = all_gaps.zip(&mut bounds.references).zip(codes);
    for (i, ((gaps, reference), code)) in of_points.enumerate() {
        let (row, squared_norm) = (points.row(i), points.squared_norms[i]);
        let own = usize::from(*code);
        let own_sum = affinity(isa, row, centroids.row(own), start_of(own));
        let now = distances.at_most(squared_norm, own_sum);
        let fall = distances.fall(*reference, now);
        let (more, less) = (fall.max(0) as u8, (-fall).max(0) as u8);
        let (mut best, mut best_sum, mut second) = (own, own_sum, i32::MIN);
        let mut num = 0;
        for (block, (gaps, ways)) in gaps.iter_mut().zip(ways).enumerate() {
            for (gap, way) in gaps.0.iter_mut().zip(&ways.0) {
                *gap = gap
                    .saturating_add(more)
                    .saturating_sub(less)
                    .saturating_sub(*way);
            }
            let first = block * BYTES;
            let mut near = 0;
            for part in 0..I::PARTS {
                near |= isa.are_zero(isa.load_bytes(&gaps.0, part)) << (part * (BYTES / I::PARTS));
            }
            if own / BYTES == block {
                near &= !(1 << (own % BYTES));
            }
            // Behind the last centroid.
            if let Some(behind @ 1..) = (first + BYTES).checked_sub(centroids.num_centroids()) {
                near &= u64::MAX >> behind;
            }
            while near != 0 {
                let index = first + near.trailing_zeros() as usize;
                near &= near - 1;
                let sum = affinity(isa, row, centroids.row(index), start_of(index));
                looked_at[num & 255] = (index as u8, sum);
                num += 1;
                second = second.max(best_sum.min(sum));
                if sum > best_sum {
                    (best, best_sum) = (index, sum);
                }
            }
        }
        if best_sum <= second.saturating_add(filter.margin) {
            in_doubt.push(i as u32);
        }
        *reference = now;
        if best != own {
            *code = best as u8;
            *reference = distances.at_most(squared_norm, best_sum);
            let fall = distances.fall(now, *reference).max(0) as u8;
            for gap in gaps.iter_mut().flat_map(|gaps| &mut gaps.0) {
                *gap = gap.saturating_add(fall);
            }
            looked_at[num & 255] = (own as u8, own_sum);
            num += 1;
        }
        for &(index, sum) in &looked_at[..num.min(256)] {
            let index = usize::from(index);
            gaps[index / BYTES].0[index % BYTES] = distances.gap(squared_norm, sum, *reference);
        }
        *reference = distances.checked(squared_norm, best_sum, *reference);
    }
}

/// A centroid's sum, as the scan has it.
#[inline(always)]
fn affinity<I: Isa>(isa: I, point: &[IntLanes], centroid: &[IntLanes], start: i32) -> i32 {
    let mut sums = isa.splat_int(0);
    for (x, c) in point.iter().zip(centroid) {
        sums = isa.add_products(sums, isa.load_ints(x), isa.load_ints(c));
    }
    start.wrapping_add(isa.sum_of_ints(sums))
}
