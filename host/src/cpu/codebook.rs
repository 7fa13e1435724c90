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
/// Components of one parallel task. Every sum is taken in the order of the points, by one task.
const COMPONENTS_PER_TASK: usize = 16;

/// Trains the codebooks of all groups: centroids `[batch, num_kv_heads, m, 2^bits, sub_dim]` and what the
/// metric adds to them.
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
) -> (Vec<f32>, Option<Augmentation>) {
    let m = config.num_subvectors;
    let sub_dim = config.sub_dim(keys.head_dim);
    let point_dim = sub_dim + usize::from(config.is_augmented());
    let num_problems = keys.batch * keys.num_kv_heads * m;
    let done = std::sync::atomic::AtomicUsize::new(0);
    let mut phis = vec![0.0; num_problems];
    let mut centroids = vec![0.0; num_problems * config.num_centroids() * point_dim];
    centroids
        .par_chunks_mut(config.num_centroids() * point_dim)
        .zip(&mut phis)
        .enumerate()
        .for_each(|(problem, (centroids, phi))| {
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
            lloyd(simd, &points, point_dim, training, centroids);
            let done = 1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            progress(done, num_problems);
        });
    if !config.is_augmented() {
        return (centroids, None);
    }
    let of_each = || centroids.chunks_exact(point_dim);
    let components = of_each().map(|centroid| centroid[sub_dim]).collect();
    let plain = of_each().flat_map(|centroid| &centroid[..sub_dim]);
    (
        plain.copied().collect(),
        Some(Augmentation { phis, components }),
    )
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

/// Lloyd's algorithm for `points` `[n, sub_dim]`, n at least 1, on `centroids` `[num_centroids, sub_dim]`.
fn lloyd(
    simd: Simd,
    points: &[f32],
    sub_dim: usize,
    training: &TrainConfig,
    centroids: &mut [f32],
) {
    let n = points.len() / sub_dim;
    let mut fixed: Vec<FixedPoints> = points
        .par_chunks(POINTS_PER_TASK * sub_dim)
        .map(|points| FixedPoints::new(simd, points, sub_dim, sub_dim))
        .collect();
    let (mut codes, mut previous) = (vec![0; n], vec![0; n]);
    let mut before = centroids.to_vec();
    let mut lanes = CentroidLanes::new(centroids, sub_dim);
    for iteration in 0..training.iterations {
        let fixed_centroids = FixedCentroids::new(centroids, sub_dim);
        codes
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(points.par_chunks(POINTS_PER_TASK * sub_dim))
            .zip(&mut fixed)
            .for_each(|((codes, points), fixed)| {
                let centroids = (&fixed_centroids, &lanes);
                nearest_of_many(simd, fixed, centroids, points, sub_dim, codes, 1);
            });
        if iteration > 0 && codes == previous {
            break;
        }
        before.copy_from_slice(centroids);
        let has_new = move_to_means(simd, points, &lanes, &codes, centroids);
        lanes.set(centroids);
        std::mem::swap(&mut codes, &mut previous);
        if !has_new && has_settled(&before, centroids, training.tolerance) {
            break;
        }
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

/// Each point's squared distance to its centroid.
fn squared_distances(simd: Simd, points: &[f32], lanes: &CentroidLanes) -> Vec<f32> {
    let sub_dim = lanes.sub_dim();
    let mut distances = vec![0.0; points.len() / sub_dim];
    distances
        .par_chunks_mut(POINTS_PER_TASK)
        .zip(points.par_chunks(POINTS_PER_TASK * sub_dim))
        .for_each(|(affinities, points)| {
            let mut codes = [0; POINTS_PER_TASK];
            nearest_centroids(simd, lanes, points, sub_dim, &mut codes, 1, affinities);
            for (affinity, point) in affinities.iter_mut().zip(points.chunks_exact(sub_dim)) {
                *affinity = (2.0 * (half_norm(point) - *affinity)).max(0.0);
            }
        });
    distances
}

/// Moves every centroid to the mean of its points, and every centroid without points to the point
/// farthest from its own centroid (each to another one), unless no point is away from its centroid; whether one was.
/// `codes` are the points' with the centroids of `lanes`.
fn move_to_means(
    simd: Simd,
    points: &[f32],
    lanes: &CentroidLanes,
    codes: &[u8],
    centroids: &mut [f32],
) -> bool {
    let sub_dim = lanes.sub_dim();
    let num_centroids = centroids.len() / sub_dim;
    let mut counts = vec![0u64; num_centroids];
    for &code in codes {
        counts[usize::from(code)] += 1;
    }
    let sums: Vec<Vec<f64>> = (0..sub_dim)
        .into_par_iter()
        .step_by(COMPONENTS_PER_TASK)
        .map(|first| {
            let columns = first..sub_dim.min(first + COMPONENTS_PER_TASK);
            let mut sums = vec![0.0; num_centroids * columns.len()];
            sum_columns(simd, points, sub_dim, columns, codes, &mut sums);
            sums
        })
        .collect();
    for (code, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
        let centroid = &mut centroids[code * sub_dim..(code + 1) * sub_dim];
        for (centroid, sums) in centroid.chunks_mut(COMPONENTS_PER_TASK).zip(&sums) {
            let len = centroid.len();
            for (component, sum) in centroid.iter_mut().zip(&sums[code * len..]) {
                *component = (sum / count as f64) as f32;
            }
        }
    }

    let num_empty = counts.iter().filter(|&&count| count == 0).count();
    if num_empty == 0 {
        return false;
    }
    let distances = squared_distances(simd, points, lanes);
    let mut farthest: Vec<usize> = (0..distances.len()).collect();
    let by_distance = |a: &usize, b: &usize| distances[*b].total_cmp(&distances[*a]).then(a.cmp(b));
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
                .copy_from_slice(&points[n * sub_dim..(n + 1) * sub_dim]);
        }
    }
    has_new
}

on_each_isa! {
    /// Adds those components of every point to its code's sums `[num_centroids, columns.len()]`.
    fn sum_columns(
        points: &[f32],
        sub_dim: usize,
        columns: std::ops::Range<usize>,
        codes: &[u8],
        sums: &mut [f64],
    ) = sum_columns_on;
}

#[inline(always)]
fn sum_columns_on<I: Isa>(
    _isa: I,
    points: &[f32],
    sub_dim: usize,
    columns: std::ops::Range<usize>,
    codes: &[u8],
    sums: &mut [f64],
) {
    let len = columns.len();
    // The usual task keeps a point's components in registers.
    if let (COMPONENTS_PER_TASK, (sums, [])) = (len, sums.as_chunks_mut::<COMPONENTS_PER_TASK>()) {
        for (point, &code) in points.chunks_exact(sub_dim).zip(codes) {
            let point = &point[columns.start..].as_chunks::<COMPONENTS_PER_TASK>().0[0];
            let sums = &mut sums[usize::from(code)];
            for i in 0..COMPONENTS_PER_TASK {
                sums[i] += f64::from(point[i]);
            }
        }
        return;
    }
    for (point, &code) in points.chunks_exact(sub_dim).zip(codes) {
        let sums = &mut sums[usize::from(code) * len..][..len];
        for (sum, &x) in sums.iter_mut().zip(&point[columns.clone()]) {
            *sum += f64::from(x);
        }
    }
}
