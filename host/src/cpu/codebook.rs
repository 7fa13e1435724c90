//! Training: Lloyd's k-means for every (batch, head, sub-vector).

use std::borrow::Cow;

use gpu_kernels::codebook::{half_norm, phi, squared_norm};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::centroid_lanes::{CentroidLanes, nearest_centroids};
use super::codes::augment;
use super::fixed_point::{FixedCentroids, FixedPoints, nearest_of_many};
use super::plus_plus::plus_plus_start;
use super::simd::{Isa, Simd, on_each_isa};
use crate::codebook_start::sampled;
use crate::config::{PqConfig, Start, TrainConfig};
use crate::index::Augmentation;
use crate::tensor::Keys;

/// Points of one parallel task. Fixed, so that results do not depend on the number of threads.
const POINTS_PER_TASK: usize = 1024;
/// Points from which on the first iterations see a sample of them.
const LARGE: usize = 8192;
/// Every so manieth point is in the sample,
const SAMPLED: usize = 2;
/// if it has so many for each centroid.
const SAMPLED_PER_CENTROID: usize = 64;
/// The last iterations, which see all points.
const ITERATIONS_ON_ALL: usize = 3;
/// How much farther than to the mean of its points a centroid goes, of many points and but for the first and the last time.
const BEYOND: f32 = 0.7;

/// Codebooks of all groups, and the keys' codes.
pub(crate) struct Trained {
    /// `[batch, num_kv_heads, m, 2^bits, sub_dim]`, rounded as was asked for.
    pub(crate) centroids: Vec<f32>,
    /// What the metric adds to them.
    pub(crate) augmentation: Option<Augmentation>,
    /// Of the keys that took part, `[batch, num_kv_heads, keys, m]`.
    pub(crate) codes: Vec<u8>,
}

/// Trains the codebooks of all groups.
///
/// Keys from `init_offset` on take part. Each sub-vector has its own stream of random numbers, and
/// every sum is taken in the order of the keys, so the result depends on the seed alone. `first` has the centroids to
/// begin with, of each (group, sub-vector), in place of the seed's.
pub(crate) fn train(
    simd: Simd,
    config: &PqConfig,
    training: &TrainConfig,
    keys: Keys<'_>,
    first: Option<&[CentroidLanes]>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Trained {
    let m = config.num_subvectors;
    let sub_dim = config.sub_dim(keys.head_dim);
    let point_dim = sub_dim + usize::from(config.is_augmented());
    let num_problems = keys.batch * keys.num_kv_heads * m;
    let done = std::sync::atomic::AtomicUsize::new(0);
    let mut phis = vec![0.0; num_problems];
    let mut centroids = vec![0.0; num_problems * config.num_centroids() * point_dim];
    let codes: Vec<Vec<u8>> = centroids
        .par_chunks_mut(config.num_centroids() * point_dim)
        .zip(&mut phis)
        .enumerate()
        .map(|(problem, (centroids, phi))| {
            let (group, subvector) = (problem / m, problem % m);
            let group_keys = &keys.group(group)[config.init_offset * keys.head_dim..];
            let mut points = Cow::Borrowed(group_keys);
            if point_dim != keys.head_dim {
                let mut parts = Vec::with_capacity(group_keys.len() / keys.head_dim * point_dim);
                for key in group_keys.chunks_exact(keys.head_dim) {
                    parts.extend_from_slice(&key[subvector * sub_dim..(subvector + 1) * sub_dim]);
                    parts.resize(parts.len() + point_dim - sub_dim, 0.0);
                }
                points = Cow::Owned(parts);
            }
            if config.is_augmented() {
                let points = points.to_mut();
                *phi = largest_phi(simd, points, sub_dim);
                augment(simd, points, sub_dim, *phi);
            }
            match first {
                Some(lanes) => lanes[problem].to_centroids(centroids),
                None => start(simd, training, problem, &points, point_dim, centroids),
            }
            let codes = lloyd(simd, &points, point_dim, sub_dim, training, centroids);
            let done = 1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            progress(done, num_problems);
            codes
        })
        .collect();
    let codes = interleaved(codes, m);
    if !config.is_augmented() {
        return Trained {
            centroids,
            augmentation: None,
            codes,
        };
    }
    let of_each = || centroids.chunks_exact(point_dim);
    let components = of_each().map(|centroid| centroid[sub_dim]).collect();
    let plain = of_each().flat_map(|centroid| &centroid[..sub_dim]);
    Trained {
        centroids: plain.copied().collect(),
        augmentation: Some(Augmentation { phis, components }),
        codes,
    }
}

/// The codes `[groups, n, m]` of each (group, sub-vector).
fn interleaved(mut codes: Vec<Vec<u8>>, m: usize) -> Vec<u8> {
    if let [_] = codes[..] {
        return codes.remove(0);
    }
    let groups = codes.chunks_exact(m);
    let keys = groups.flat_map(|codes| (0..codes[0].len()).map(move |key| (codes, key)));
    keys.flat_map(|(codes, key)| codes.iter().map(move |codes| codes[key]))
        .collect()
}

on_each_isa! {
    /// The phi of `points` `[n, sub_dim + 1]`, whose last components do not count.
    fn largest_phi(points: &[f32], sub_dim: usize) -> f32 = largest_phi_on;
}

#[inline(always)]
fn largest_phi_on<I: Isa>(_isa: I, points: &[f32], sub_dim: usize) -> f32 {
    let norms = points
        .chunks_exact(sub_dim + 1)
        .map(|point| squared_norm(sub_dim, |i| point[i]));
    phi(norms.fold(0.0, f32::max))
}

/// The first centroids of codebook `problem`, `[num_centroids, sub_dim]`.
fn start(
    simd: Simd,
    training: &TrainConfig,
    problem: usize,
    points: &[f32],
    sub_dim: usize,
    centroids: &mut [f32],
) {
    if training.start == Start::Sampled {
        let (n, num_centroids) = (points.len() / sub_dim, centroids.len() / sub_dim);
        let samples = sampled(training.seed, problem, n, num_centroids);
        for (centroid, point) in centroids.chunks_exact_mut(sub_dim).zip(samples) {
            centroid.copy_from_slice(&points[point as usize * sub_dim..][..sub_dim]);
        }
        return;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(training.seed);
    rng.set_stream(problem as u64);
    plus_plus_start(simd, points, sub_dim, &mut rng, centroids);
}

/// Lloyd's algorithm for `points` `[n, sub_dim]`, n at least 1, on `centroids` `[num_centroids, sub_dim]`, of which the
/// first `rounded` components are rounded in the end; the points' codes with them.
///
/// Of many points the first iterations see every [`SAMPLED`]th.
fn lloyd(
    simd: Simd,
    points: &[f32],
    sub_dim: usize,
    rounded: usize,
    training: &TrainConfig,
    centroids: &mut [f32],
) -> Vec<u8> {
    let n = points.len() / sub_dim;
    let num_centroids = centroids.len() / sub_dim;
    let is_large = n >= LARGE && n / SAMPLED >= num_centroids * SAMPLED_PER_CENTROID;
    let of_sample = match is_large {
        true => training.iterations.saturating_sub(ITERATIONS_ON_ALL),
        false => 0,
    };
    let on_all = training.iterations - of_sample;
    if of_sample > 0 {
        let mut sample = Assignment::new(simd, points, SAMPLED * sub_dim, sub_dim);
        for iteration in 0..of_sample {
            sample.update(centroids);
            sample.move_to_means(centroids, if iteration == 0 { 0.0 } else { BEYOND });
        }
    }

    let mut assignment = Assignment::new(simd, points, sub_dim, sub_dim);
    let mut previous = Vec::new();
    let mut beyond = 0.0;
    for iteration in 0..on_all {
        assignment.update(centroids);
        let is_same = assignment.codes == previous;
        if is_same && beyond == 0.0 {
            break;
        }
        previous.clone_from(&assignment.codes);
        let before = centroids.to_vec();
        let is_last = is_same || iteration + 1 == on_all;
        beyond = if is_large && !is_last { BEYOND } else { 0.0 };
        let has_new = assignment.move_to_means(centroids, beyond);
        if !has_new && beyond == 0.0 && has_settled(&before, centroids, training.tolerance) {
            break;
        }
    }
    for centroid in centroids.chunks_exact_mut(sub_dim) {
        for component in &mut centroid[..rounded] {
            *component = training.centroids.round(*component);
        }
    }
    assignment.update(centroids);
    assignment.codes
}

/// Which centroid each point belongs to.
struct Assignment<'a> {
    simd: Simd,
    /// Of `sub_dim` components, consecutive ones `stride` elements apart.
    points: &'a [f32],
    stride: usize,
    sub_dim: usize,
    fixed: Vec<FixedPoints>,
    codes: Vec<u8>,
    /// Those that the codes are of.
    lanes: CentroidLanes,
}

impl<'a> Assignment<'a> {
    fn new(simd: Simd, points: &'a [f32], stride: usize, sub_dim: usize) -> Self {
        let fixed = points
            .par_chunks(POINTS_PER_TASK * stride)
            .map(|points| FixedPoints::new(simd, points, stride, sub_dim));
        Assignment {
            simd,
            points,
            stride,
            sub_dim,
            fixed: fixed.collect(),
            codes: vec![0; points.len().div_ceil(stride)],
            lanes: CentroidLanes::new(&[], sub_dim),
        }
    }

    /// To other centroids.
    fn update(&mut self, centroids: &[f32]) {
        let (simd, stride, sub_dim) = (self.simd, self.stride, self.sub_dim);
        self.lanes = CentroidLanes::new(centroids, sub_dim);
        let fixed_centroids = FixedCentroids::new(centroids, sub_dim);
        let centroids = (&fixed_centroids, &self.lanes);
        self.codes
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(self.points.par_chunks(POINTS_PER_TASK * stride))
            .zip(&mut self.fixed)
            .for_each(|((codes, points), fixed)| {
                nearest_of_many(simd, fixed, centroids, points, stride, codes, 1);
            });
    }

    /// Each point's squared distance to its centroid.
    fn squared_distances(&self) -> Vec<f32> {
        let (simd, stride, sub_dim) = (self.simd, self.stride, self.sub_dim);
        let mut distances = vec![0.0; self.codes.len()];
        distances
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(self.points.par_chunks(POINTS_PER_TASK * stride))
            .for_each(|(affinities, points)| {
                let codes = &mut [0; POINTS_PER_TASK];
                nearest_centroids(simd, &self.lanes, points, stride, codes, 1, affinities);
                for (affinity, point) in affinities.iter_mut().zip(points.chunks(stride)) {
                    *affinity = (2.0 * (half_norm(&point[..sub_dim]) - *affinity)).max(0.0);
                }
            });
        distances
    }

    /// Moves every centroid to the mean of its points, and beyond that by `beyond` times its way; and every centroid
    /// without points to the point farthest from its own centroid (each to another one), unless no point is away from
    /// its centroid; whether one was.
    fn move_to_means(&self, centroids: &mut [f32], beyond: f32) -> bool {
        let sub_dim = self.sub_dim;
        let num_centroids = centroids.len() / sub_dim;
        let (sums, counts) = self.sums(num_centroids);
        let codes = centroids
            .chunks_exact_mut(sub_dim)
            .zip(sums.chunks_exact(sub_dim));
        for ((centroid, sums), &count) in codes.zip(&counts).filter(|&(_, &count)| count > 0) {
            for (component, sum) in centroid.iter_mut().zip(sums) {
                let mean = (sum / f64::from(count)) as f32;
                let there = mean + beyond * (mean - *component);
                *component = if there.is_finite() { there } else { mean };
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
                    .copy_from_slice(&self.points[n * self.stride..][..sub_dim]);
            }
        }
        has_new
    }

    /// Of each centroid the sums of its points, `[num_centroids, sub_dim]`, and their number. The sums of some points are
    /// taken in their order, and then added in theirs: how many that are depends on the shape alone.
    fn sums(&self, num_centroids: usize) -> (Vec<f64>, Vec<u32>) {
        let (simd, stride, sub_dim) = (self.simd, self.stride, self.sub_dim);
        let len = num_centroids * sub_dim;
        // There are far fewer sums than components of points.
        let points_per_task = POINTS_PER_TASK.max(8 * num_centroids);
        let parts: Vec<(Vec<f64>, Vec<u32>)> = self
            .codes
            .par_chunks(points_per_task)
            .zip(self.points.par_chunks(points_per_task * stride))
            .map(|(codes, points)| {
                let (mut sums, mut counts) = (vec![0.0; len], vec![0; num_centroids]);
                add_points(simd, points, stride, codes, &mut sums, &mut counts);
                (sums, counts)
            })
            .collect();
        let mut parts = parts.into_iter();
        let (mut sums, mut counts) = parts.next().expect("there are points");
        for (more_sums, more_counts) in parts {
            sums.iter_mut()
                .zip(more_sums)
                .for_each(|(sum, more)| *sum += more);
            counts
                .iter_mut()
                .zip(more_counts)
                .for_each(|(count, more)| *count += more);
        }
        (sums, counts)
    }
}

/// Whether centroids have moved no more than the tolerance allows.
fn has_settled(before: &[f32], after: &[f32], tolerance: f32) -> bool {
    let (mut shift, mut norm) = (0.0, 0.0);
    for (&before, &after) in before.iter().zip(after) {
        let (before, after) = (f64::from(before), f64::from(after));
        shift += (after - before) * (after - before);
        norm += after * after;
    }
    shift <= f64::from(tolerance) * norm
}

on_each_isa! {
    /// Adds every point to its code's sums `[num_centroids, sub_dim]` and counts it.
    fn add_points(points: &[f32], stride: usize, codes: &[u8], sums: &mut [f64], counts: &mut [u32])
        = add_points_on;
}

#[inline(always)]
fn add_points_on<I: Isa>(
    _isa: I,
    points: &[f32],
    stride: usize,
    codes: &[u8],
    sums: &mut [f64],
    counts: &mut [u32],
) {
    let sub_dim = sums.len() / counts.len();
    for (point, &code) in points.chunks(stride).zip(codes) {
        let code = usize::from(code);
        counts[code] += 1;
        let sums = &mut sums[code * sub_dim..][..sub_dim];
        for (sum, &x) in sums.iter_mut().zip(&point[..sub_dim]) {
            *sum += f64::from(x);
        }
    }
}
