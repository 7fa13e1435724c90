//! The points of k-means and the centroids that they belong to.

use gpu_kernels::codebook::{beyond_mean, half_norm};
use rayon::prelude::*;

use super::centroid_lanes::{CentroidLanes, nearest_centroids};
use super::fixed_point::{FixedCentroids, FixedPoints, nearest_of_many};
use super::simd::{Isa, Simd, on_each_isa};

/// Points of one parallel task. Fixed, so that results do not depend on the number of threads.
pub(super) const POINTS_PER_TASK: usize = 256;
/// Tasks whose points have sums of their own.
const TASKS_PER_PART: usize = 8;
const POINTS_PER_PART: usize = POINTS_PER_TASK * TASKS_PER_PART;
/// Components of the points that are summed at a time.
const COLUMNS: usize = 32;

/// Which centroid each point belongs to.
pub(super) struct Assignment<'a> {
    simd: Simd,
    /// `[n, sub_dim]`.
    points: &'a [f32],
    sub_dim: usize,
    fixed: Vec<FixedPoints>,
    /// `[n]`.
    pub(super) codes: Vec<u8>,
    /// Those that the codes are of.
    lanes: CentroidLanes,
    /// So many of the first points take part.
    active: usize,
    parts: Vec<Sums>,
    /// Whether points may be taken away from sums: what that leaves of one far longer than others would be longer than
    /// these.
    may_take_away: bool,
}

impl<'a> Assignment<'a> {
    pub(super) fn new(simd: Simd, points: &'a [f32], sub_dim: usize, num_centroids: usize) -> Self {
        let fixed: Vec<FixedPoints> = points
            .par_chunks(POINTS_PER_TASK * sub_dim)
            .map(|points| FixedPoints::new(simd, points, sub_dim, sub_dim))
            .collect();
        let norms = fixed.iter().map(FixedPoints::norm);
        let (least, largest) = norms.fold((f64::INFINITY, 0.0f64), |(least, largest), norm| {
            (least.min(norm), largest.max(norm))
        });
        let num_points = points.len() / sub_dim;
        let num_parts = num_points.div_ceil(POINTS_PER_PART);
        Assignment {
            simd,
            points,
            sub_dim,
            fixed,
            codes: vec![0; num_points],
            active: 0,
            lanes: CentroidLanes::new(&[], sub_dim),
            parts: std::iter::repeat_with(|| Sums::new(num_centroids, sub_dim))
                .take(num_parts)
                .collect(),
            may_take_away: largest <= 65_536.0 * least,
        }
    }

    /// To other centroids, the first `active` points, whole tasks or all; and their sums, if they are wanted: anew (true), or
    /// of what is another centroid's since the last time.
    pub(super) fn update(&mut self, centroids: &[f32], active: usize, sums: Option<bool>) {
        let (simd, sub_dim) = (self.simd, self.sub_dim);
        self.lanes = CentroidLanes::new(centroids, sub_dim);
        let fixed_centroids = FixedCentroids::new(centroids, sub_dim);
        let centroids = (&fixed_centroids, &self.lanes);
        let may_take_away = self.may_take_away;
        self.active = active;
        // One parallel loop for both: what a thread that has been put to sleep keeps the others waiting for at the end of
        // one is most of the time on a busy machine.
        self.codes[..active]
            .par_chunks_mut(POINTS_PER_PART)
            .zip(self.points[..active * sub_dim].par_chunks(POINTS_PER_PART * sub_dim))
            .zip(self.fixed.par_chunks_mut(TASKS_PER_PART))
            .zip(&mut self.parts)
            .for_each(|(((codes, points), fixed), part)| {
                codes
                    .par_chunks_mut(POINTS_PER_TASK)
                    .zip(points.par_chunks(POINTS_PER_TASK * sub_dim))
                    .zip(fixed)
                    .for_each(|((codes, points), fixed)| {
                        nearest_of_many(simd, fixed, centroids, points, sub_dim, codes, 1);
                    });
                if let Some(anew) = sums {
                    part.follow(simd, points, codes, anew || !may_take_away);
                }
            });
    }

    /// Sums anew.
    pub(super) fn sum_anew(&mut self) {
        let (simd, sub_dim) = (self.simd, self.sub_dim);
        self.codes[..self.active]
            .par_chunks(POINTS_PER_PART)
            .zip(self.points[..self.active * sub_dim].par_chunks(POINTS_PER_PART * sub_dim))
            .zip(&mut self.parts)
            .for_each(|((codes, points), sums)| sums.follow(simd, points, codes, true));
    }

    /// Each active point's squared distance to its centroid.
    fn squared_distances(&self) -> Vec<f32> {
        let (simd, sub_dim) = (self.simd, self.sub_dim);
        let mut distances = vec![0.0; self.active];
        distances
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(self.points.par_chunks(POINTS_PER_TASK * sub_dim))
            .for_each(|(affinities, points)| {
                let codes = &mut [0; POINTS_PER_TASK];
                nearest_centroids(simd, &self.lanes, points, sub_dim, codes, 1, affinities);
                for (affinity, point) in affinities.iter_mut().zip(points.chunks_exact(sub_dim)) {
                    *affinity = (2.0 * (half_norm(point) - *affinity)).max(0.0);
                }
            });
        distances
    }

    /// Moves every centroid to the mean of its points, and beyond that by `beyond` times its way; and every centroid
    /// without points to the point farthest from its own centroid (each to another one), unless no point is away from
    /// its centroid; whether one was. By the sums of the last update.
    pub(super) fn move_to_means(&self, centroids: &mut [f32], beyond: f32) -> bool {
        let sub_dim = self.sub_dim;
        let num_centroids = centroids.len() / sub_dim;
        let Sums { sums, counts, .. } = self.sums(num_centroids);
        for (code, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let centroid = &mut centroids[code * sub_dim..][..sub_dim];
            let blocks = centroid.chunks_mut(COLUMNS).enumerate();
            for (block, components) in blocks {
                let sums = &sums[block * num_centroids + code];
                for (component, sum) in components.iter_mut().zip(sums) {
                    let mean = (sum / f64::from(count)) as f32;
                    *component = beyond_mean(mean, *component, beyond);
                }
            }
        }

        let num_empty = counts.iter().filter(|&&count| count == 0).count();
        if num_empty == 0 {
            return false;
        }
        let distances = self.squared_distances();
        let mut farthest: Vec<usize> = (0..distances.len()).collect();
        let by_distance =
            |a: &usize, b: &usize| distances[*b].total_cmp(&distances[*a]).then(a.cmp(b));
        if num_empty < farthest.len() {
            farthest.select_nth_unstable_by(num_empty, by_distance);
            farthest.truncate(num_empty);
        }
        farthest.sort_unstable_by(by_distance);
        let empty = (0..num_centroids).filter(|&code| counts[code] == 0);
        let mut has_new = false;
        for (code, n) in empty.zip(farthest) {
            if distances[n] > 0.0 {
                has_new = true;
                centroids[code * sub_dim..(code + 1) * sub_dim]
                    .copy_from_slice(&self.points[n * sub_dim..][..sub_dim]);
            }
        }
        has_new
    }

    /// The sums of all parts' points, in the order of the parts.
    fn sums(&self, num_centroids: usize) -> Sums {
        let mut all = Sums::new(num_centroids, self.sub_dim);
        for part in &self.parts {
            let (all_sums, sums) = (all.sums.as_flattened_mut(), part.sums.as_flattened());
            let sums = all_sums.iter_mut().zip(sums);
            sums.for_each(|(all, part)| *all += part);
            let counts = all.counts.iter_mut().zip(&part.counts);
            counts.for_each(|(all, part)| *all += part);
        }
        all
    }
}

/// Of each centroid the sums of some points.
struct Sums {
    /// `[ceil(sub_dim / COLUMNS), num_centroids]`: so few columns at a time that they stay in the first cache.
    sums: Vec<[f64; COLUMNS]>,
    /// `[num_centroids]`.
    counts: Vec<u32>,
    /// The codes that the points are counted with.
    codes: Vec<u8>,
}

impl Sums {
    fn new(num_centroids: usize, sub_dim: usize) -> Self {
        Sums {
            sums: vec![[0.0; COLUMNS]; num_centroids * sub_dim.div_ceil(COLUMNS)],
            counts: vec![0; num_centroids],
            codes: Vec::new(),
        }
    }

    /// Of these points: those of the last call with other codes, and perhaps more behind them. What is summed in which order
    /// depends on the codes alone.
    fn follow(&mut self, simd: Simd, points: &[f32], codes: &[u8], anew: bool) {
        if anew {
            self.sums.fill([0.0; COLUMNS]);
            self.counts.fill(0);
            self.codes.clear();
        }
        let sub_dim = points.len() / codes.len();
        let tasks = codes
            .chunks(POINTS_PER_TASK)
            .zip(points.chunks(POINTS_PER_TASK * sub_dim));
        for (task, (codes, points)) in tasks.enumerate() {
            let first = task * POINTS_PER_TASK;
            let before = self.codes.get(first..first + codes.len());
            let counts = &mut self.counts;
            add_points(simd, points, codes, before, &mut self.sums, counts);
        }
        self.codes.clear();
        self.codes.extend_from_slice(codes);
    }
}

on_each_isa! {
    /// Adds every point to its code's sums, as [`Sums`] has them, and counts it; takes it away from those of the code
    /// `before`, where that is given and not the same.
    fn add_points(
        points: &[f32],
        codes: &[u8],
        before: Option<&[u8]>,
        sums: &mut [[f64; COLUMNS]],
        counts: &mut [u32],
    ) = add_points_on;
}

#[inline(always)]
fn add_points_on<I: Isa>(
    _isa: I,
    points: &[f32],
    codes: &[u8],
    before: Option<&[u8]>,
    sums: &mut [[f64; COLUMNS]],
    counts: &mut [u32],
) {
    let sub_dim = points.len() / codes.len();
    // The code that each point is taken away from, if any.
    let from = |i: usize| before.map(|before| usize::from(before[i]));
    for (i, &code) in codes.iter().enumerate() {
        counts[usize::from(code)] += 1;
        if let Some(from) = from(i) {
            counts[from] -= 1;
        }
    }
    for (block, sums) in sums.chunks_exact_mut(counts.len()).enumerate() {
        for (i, (point, &code)) in points.chunks_exact(sub_dim).zip(codes).enumerate() {
            let (from, to) = (from(i), usize::from(code));
            if from == Some(to) {
                continue;
            }
            let x = &point[block * COLUMNS..];
            if let Some(from) = from {
                combine(&mut sums[from], x, |sum, x| sum - x);
            }
            combine(&mut sums[to], x, |sum, x| sum + x);
        }
    }
}

/// Each sum with a component of `x`, of which the last block has fewer than columns.
#[inline(always)]
fn combine(sums: &mut [f64; COLUMNS], x: &[f32], with: impl Fn(f64, f64) -> f64) {
    match x.first_chunk::<COLUMNS>() {
        // A number of them that the compiler knows.
        Some(x) => {
            for k in 0..COLUMNS {
                sums[k] = with(sums[k], f64::from(x[k]));
            }
        }
        None => {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum = with(*sum, f64::from(x));
            }
        }
    }
}
