//! Training: Lloyd's k-means for every (batch, head, sub-vector).

use std::borrow::Cow;

use gpu_kernels::codebook::{half_norm, phi, squared_norm};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::bounds::{Followed, Moved};
use super::centroid_lanes::{CentroidLanes, nearest_centroids};
use super::codes::augment;
use super::fixed_point::FixedCentroids;
use super::plus_plus::plus_plus_start;
use super::simd::{Isa, Simd, on_each_isa};
use crate::codebook_start::sampled;
use crate::config::{PqConfig, Start, TrainConfig};
use crate::index::Augmentation;
use crate::tensor::Keys;

/// Points of one parallel task. Fixed, so that results do not depend on the number of threads.
const POINTS_PER_TASK: usize = 1024;

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
fn lloyd(
    simd: Simd,
    points: &[f32],
    sub_dim: usize,
    rounded: usize,
    training: &TrainConfig,
    centroids: &mut [f32],
) -> Vec<u8> {
    let mut assignment = Assignment::new(simd, points, sub_dim);
    let mut previous = Vec::new();
    for _ in 0..training.iterations {
        assignment.update(centroids, true);
        if assignment.codes == previous {
            break;
        }
        previous.clone_from(&assignment.codes);
        let has_new = move_to_means(&assignment, centroids);
        if !has_new && has_settled(&assignment.centroids, centroids, training.tolerance) {
            break;
        }
    }
    for centroid in centroids.chunks_exact_mut(sub_dim) {
        for component in &mut centroid[..rounded] {
            *component = training.centroids.round(*component);
        }
    }
    assignment.update(centroids, false);
    assignment.codes
}

/// Which centroid each point belongs to.
struct Assignment<'a> {
    simd: Simd,
    /// `[n, sub_dim]`.
    points: &'a [f32],
    sub_dim: usize,
    tasks: Vec<Followed>,
    codes: Vec<u8>,
    /// Those that the codes are of; none before the first update.
    centroids: Vec<f32>,
    lanes: CentroidLanes,
}

impl<'a> Assignment<'a> {
    fn new(simd: Simd, points: &'a [f32], sub_dim: usize) -> Self {
        let tasks = points.par_chunks(POINTS_PER_TASK * sub_dim);
        Assignment {
            simd,
            points,
            sub_dim,
            tasks: tasks
                .map(|points| Followed::new(simd, points, sub_dim))
                .collect(),
            codes: vec![0; points.len() / sub_dim],
            centroids: Vec::new(),
            lanes: CentroidLanes::new(&[], sub_dim),
        }
    }

    /// To other centroids; `goes_on`: not for the last time.
    fn update(&mut self, centroids: &[f32], goes_on: bool) {
        let (simd, sub_dim) = (self.simd, self.sub_dim);
        self.lanes = CentroidLanes::new(centroids, sub_dim);
        let moved = Moved {
            fixed: &FixedCentroids::new(centroids, sub_dim),
            lanes: &self.lanes,
            ways: &Moved::ways(&self.centroids, centroids, sub_dim),
            goes_on,
        };
        self.codes
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(self.points.par_chunks(POINTS_PER_TASK * sub_dim))
            .zip(&mut self.tasks)
            .for_each(|((codes, points), task)| task.assign(simd, points, &moved, codes));
        self.centroids.clear();
        self.centroids.extend_from_slice(centroids);
    }

    /// Each point's squared distance to its centroid.
    fn squared_distances(&self) -> Vec<f32> {
        let (simd, sub_dim) = (self.simd, self.sub_dim);
        let mut distances = vec![0.0; self.codes.len()];
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

/// Moves every centroid to the mean of its points, and every centroid without points to the point
/// farthest from its own centroid (each to another one), unless no point is away from its centroid; whether one was.
fn move_to_means(assignment: &Assignment<'_>, centroids: &mut [f32]) -> bool {
    let &Assignment {
        simd,
        points,
        sub_dim,
        ref codes,
        ..
    } = assignment;
    let num_centroids = centroids.len() / sub_dim;
    let mut counts = vec![0usize; num_centroids];
    for &code in codes {
        counts[usize::from(code)] += 1;
    }
    // The points of each centroid behind one another, in their order.
    let mut ends = vec![0; num_centroids];
    for code in 1..num_centroids {
        ends[code] = ends[code - 1] + counts[code - 1];
    }
    let mut sorted = vec![0u32; codes.len()];
    for (point, &code) in codes.iter().enumerate() {
        let end = &mut ends[usize::from(code)];
        sorted[*end] = point as u32;
        *end += 1;
    }
    centroids
        .par_chunks_exact_mut(sub_dim)
        .zip(&ends)
        .zip(&counts)
        .filter(|&(_, &count)| count > 0)
        .for_each(|((centroid, &end), &count)| {
            set_mean(simd, points, &sorted[end - count..end], centroid);
        });

    let num_empty = counts.iter().filter(|&&count| count == 0).count();
    if num_empty == 0 {
        return false;
    }
    let distances = assignment.squared_distances();
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
    /// Sets a centroid to the mean of those of `points` that `some` has the indices of, at least one.
    fn set_mean(points: &[f32], some: &[u32], centroid: &mut [f32]) = set_mean_on;
}

#[inline(always)]
fn set_mean_on<I: Isa>(_isa: I, points: &[f32], some: &[u32], centroid: &mut [f32]) {
    /// Sums that the compiler keeps in registers.
    const SUMS: usize = 32;
    let sub_dim = centroid.len();
    let count = some.len() as f64;
    let (parts, rest) = centroid.as_chunks_mut::<SUMS>();
    let start_of_rest = parts.len() * SUMS;
    for (part, centroid) in parts.iter_mut().enumerate() {
        let mut sums = [0.0f64; SUMS];
        for &point in some {
            let x = &points[point as usize * sub_dim + part * SUMS..][..SUMS];
            for i in 0..SUMS {
                sums[i] += f64::from(x[i]);
            }
        }
        *centroid = sums.map(|sum| (sum / count) as f32);
    }
    let mut sums = [0.0f64; SUMS];
    let sums = &mut sums[..rest.len()];
    for &point in some {
        let x = &points[point as usize * sub_dim + start_of_rest..][..rest.len()];
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum += f64::from(x);
        }
    }
    for (component, sum) in rest.iter_mut().zip(sums) {
        *component = (*sum / count) as f32;
    }
}
