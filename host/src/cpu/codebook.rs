//! Training: Lloyd's k-means for every (batch, head, sub-vector).

use gpu_kernels::codebook::{half_norm, phi, squared_norm};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::centroid_lanes::{CentroidLanes, nearest_centroids};
use super::codes::augment;
use super::simd::{Isa, Simd, on_each_isa};
use crate::codebook_start::sampled;
use crate::config::{PqConfig, Start, TrainConfig};
use crate::index::Augmentation;
use crate::tensor::Keys;

/// Points of one parallel task. Fixed, so that results do not depend on the number of threads.
const POINTS_PER_TASK: usize = 1024;

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
            let mut points = Vec::with_capacity(group_keys.len() / keys.head_dim * point_dim);
            for key in group_keys.chunks_exact(keys.head_dim) {
                points.extend_from_slice(&key[subvector * sub_dim..(subvector + 1) * sub_dim]);
                points.resize(points.len() + point_dim - sub_dim, 0.0);
            }
            if config.is_augmented() {
                *phi = largest_phi(simd, &points, sub_dim);
                augment(simd, &mut points, sub_dim, *phi);
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
    let mut assignments = Assignments::new(n);
    let mut previous = vec![0; n];
    let mut before = centroids.to_vec();
    let mut lanes = CentroidLanes::new(centroids, sub_dim);
    for iteration in 0..training.iterations {
        assign(simd, points, &lanes, &mut assignments);
        if iteration > 0 && assignments.codes == previous {
            break;
        }
        before.copy_from_slice(centroids);
        let has_new = move_to_means(simd, points, sub_dim, &assignments, centroids);
        lanes.set(centroids);
        std::mem::swap(&mut assignments.codes, &mut previous);
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

/// Where each point belongs, and its affinity to the centroid there.
struct Assignments {
    codes: Vec<u8>,
    affinities: Vec<f32>,
}

impl Assignments {
    fn new(n: usize) -> Self {
        Assignments {
            codes: vec![0; n],
            affinities: vec![0.0; n],
        }
    }

    /// Each point's squared distance to its centroid.
    fn squared_distances(&self, points: &[f32], sub_dim: usize) -> Vec<f32> {
        let points = points.chunks_exact(sub_dim).zip(&self.affinities);
        points
            .map(|(point, affinity)| (2.0 * (half_norm(point) - affinity)).max(0.0))
            .collect()
    }
}

fn assign(simd: Simd, points: &[f32], lanes: &CentroidLanes, assignments: &mut Assignments) {
    let sub_dim = lanes.sub_dim();
    assignments
        .codes
        .par_chunks_mut(POINTS_PER_TASK)
        .zip(assignments.affinities.par_chunks_mut(POINTS_PER_TASK))
        .zip(points.par_chunks(POINTS_PER_TASK * sub_dim))
        .for_each(|((codes, affinities), points)| {
            nearest_centroids(simd, lanes, points, sub_dim, codes, 1, affinities);
        });
}

/// Moves every centroid to the mean of its points, and every centroid without points to the point
/// farthest from its own centroid (each to another one), unless no point is away from its centroid; whether one was.
fn move_to_means(
    simd: Simd,
    points: &[f32],
    sub_dim: usize,
    assignments: &Assignments,
    centroids: &mut [f32],
) -> bool {
    /// Components of one parallel task. Every sum is taken in the order of the points, by one task.
    const COMPONENTS_PER_TASK: usize = 16;
    let num_centroids = centroids.len() / sub_dim;
    let mut counts = vec![0u64; num_centroids];
    for &code in &assignments.codes {
        counts[usize::from(code)] += 1;
    }
    let sums: Vec<Vec<f64>> = (0..sub_dim)
        .into_par_iter()
        .step_by(COMPONENTS_PER_TASK)
        .map(|first| {
            let columns = first..sub_dim.min(first + COMPONENTS_PER_TASK);
            let mut sums = vec![0.0; num_centroids * columns.len()];
            sum_columns(
                simd,
                points,
                sub_dim,
                columns,
                &assignments.codes,
                &mut sums,
            );
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
    let distances = assignments.squared_distances(points, sub_dim);
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
    for (point, &code) in points.chunks_exact(sub_dim).zip(codes) {
        let sums = &mut sums[usize::from(code) * len..][..len];
        for (sum, &x) in sums.iter_mut().zip(&point[columns.clone()]) {
            *sum += f64::from(x);
        }
    }
}

/// k-means++ (Arthur and Vassilvitskii 2007): each next centroid is a point drawn with probability
/// proportional to its squared distance from the nearest centroid so far.
fn plus_plus_start(
    simd: Simd,
    points: &[f32],
    sub_dim: usize,
    rng: &mut impl Rng,
    centroids: &mut [f32],
) {
    let n = points.len() / sub_dim;
    let point = |i: usize| &points[i * sub_dim..(i + 1) * sub_dim];
    let mut distances = vec![f32::INFINITY; n];
    let mut next = rng.random_range(0..n);
    for centroid in centroids.chunks_exact_mut(sub_dim) {
        centroid.copy_from_slice(point(next));
        distances
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(points.par_chunks(POINTS_PER_TASK * sub_dim))
            .for_each(|(distances, points)| lower_distances(simd, centroid, points, distances));

        let total: f64 = distances.iter().map(|&d| f64::from(d)).sum();
        next = if total > 0.0 && total.is_finite() {
            let mut left = rng.random::<f64>() * total;
            let drawn = distances.iter().position(|&d| {
                left -= f64::from(d);
                d > 0.0 && left <= 0.0
            });
            // Rounding may leave a little: then the last point that can be drawn is.
            drawn.or_else(|| distances.iter().rposition(|&d| d > 0.0))
        } else {
            None
        }
        .unwrap_or_else(|| rng.random_range(0..n));
    }
}

on_each_isa! {
    /// Lowers each point's squared distance to that from `centroid` where that is nearer.
    fn lower_distances(centroid: &[f32], points: &[f32], distances: &mut [f32])
        = lower_distances_on;
}

#[inline(always)]
fn lower_distances_on<I: Isa>(_isa: I, centroid: &[f32], points: &[f32], distances: &mut [f32]) {
    for (point, distance) in points.chunks_exact(centroid.len()).zip(distances) {
        // Eight sums, which the compiler keeps in one register.
        let mut sums = [0.0f32; 8];
        let (xs, x_rest) = point.as_chunks::<8>();
        let (cs, c_rest) = centroid.as_chunks::<8>();
        for (x, c) in xs.iter().zip(cs) {
            for i in 0..8 {
                let difference = x[i] - c[i];
                sums[i] += difference * difference;
            }
        }
        for (x, c) in x_rest.iter().zip(c_rest) {
            sums[0] += (x - c) * (x - c);
        }
        *distance = distance.min(sums.iter().sum());
    }
}
