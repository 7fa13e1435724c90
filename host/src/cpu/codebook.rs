//! Training: Lloyd's k-means for every (batch, head, sub-vector), and centroids laid out for vectors.

use gpu_kernels::codebook::{Nearest, affinities, half_norm};
use multiversion::multiversion;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::config::{PqConfig, TrainConfig};
use crate::tensor::Keys;

/// Centroids taken together. 16 is what the compiler keeps in vector registers; with 32 it spills, at a
/// quarter of the speed.
pub(crate) const LANES: usize = 16;

/// Points of one parallel task. Fixed, so that results do not depend on the number of threads.
const POINTS_PER_TASK: usize = 1024;

/// The centroids of one sub-vector, laid out so that [`LANES`] of them are read side by side.
///
/// `components` is `[ceil(num_centroids / LANES), sub_dim, LANES]`; the last block is padded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CentroidLanes {
    num_centroids: usize,
    sub_dim: usize,
    half_norms: Vec<f32>,
    components: Vec<f32>,
}

impl CentroidLanes {
    /// From `centroids` `[num_centroids, sub_dim]`.
    pub(crate) fn new(centroids: &[f32], sub_dim: usize) -> Self {
        let num_centroids = centroids.len() / sub_dim;
        let blocks = num_centroids.div_ceil(LANES);
        let mut lanes = CentroidLanes {
            num_centroids,
            sub_dim,
            half_norms: vec![0.0; blocks * LANES],
            components: vec![0.0; blocks * LANES * sub_dim],
        };
        lanes.set(centroids);
        lanes
    }

    /// Other centroids of the same shape.
    fn set(&mut self, centroids: &[f32]) {
        for (index, centroid) in centroids.chunks_exact(self.sub_dim).enumerate() {
            let (block, lane) = (index / LANES, index % LANES);
            self.half_norms[index] = half_norm(centroid);
            for (i, &component) in centroid.iter().enumerate() {
                self.components[(block * self.sub_dim + i) * LANES + lane] = component;
            }
        }
    }

    /// Half squared norms, `[num_centroids]`.
    pub(crate) fn half_norms(&self) -> &[f32] {
        &self.half_norms[..self.num_centroids]
    }
}

/// The code of each point and its affinity to that centroid, for `points` `[n, sub_dim]`, of which
/// consecutive ones start `stride` elements apart.
#[multiversion(targets("x86_64+avx2+fma"))]
pub(crate) fn nearest_centroids(
    lanes: &CentroidLanes,
    points: &[f32],
    stride: usize,
    mut found: impl FnMut(usize, u8, f32),
) {
    let sub_dim = lanes.sub_dim;
    for (n, point) in points.chunks(stride).enumerate() {
        let point = &point[..sub_dim];
        let mut nearest = Nearest::NONE;
        let mut best = 0.0;
        let blocks = lanes.components.chunks_exact(sub_dim * LANES);
        for (block, components) in blocks.enumerate() {
            let first = block * LANES;
            let half_norms = &lanes.half_norms[first..first + LANES];
            let values = affinities::<LANES>(
                sub_dim,
                |lane| half_norms[lane],
                |i| point[i],
                |i, lane| components[i * LANES + lane],
            );
            let in_use = LANES.min(lanes.num_centroids - first);
            for (lane, &value) in values[..in_use].iter().enumerate() {
                let candidate = Nearest::new(value, (first + lane) as u32);
                if candidate > nearest {
                    nearest = candidate;
                    best = value;
                }
            }
        }
        found(n, nearest.index() as u8, best);
    }
}

/// Trains the codebooks of all groups: `[batch, num_kv_heads, m, 2^bits, sub_dim]`.
///
/// Keys from `init_offset` on take part. Each sub-vector has its own stream of random numbers, and
/// every sum is taken in the order of the keys, so the result depends on the seed alone.
pub(crate) fn train(
    config: &PqConfig,
    training: &TrainConfig,
    keys: Keys<'_>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Vec<f32> {
    let m = config.num_subvectors;
    let sub_dim = config.sub_dim(keys.head_dim);
    let num_problems = keys.batch * keys.num_kv_heads * m;
    let done = std::sync::atomic::AtomicUsize::new(0);
    let mut centroids = vec![0.0; num_problems * config.num_centroids() * sub_dim];
    centroids
        .par_chunks_mut(config.num_centroids() * sub_dim)
        .enumerate()
        .for_each(|(problem, centroids)| {
            let (group, subvector) = (problem / m, problem % m);
            let points: Vec<f32> = keys.group(group)[config.init_offset * keys.head_dim..]
                .chunks_exact(keys.head_dim)
                .flat_map(|key| &key[subvector * sub_dim..(subvector + 1) * sub_dim])
                .copied()
                .collect();
            let mut rng = ChaCha8Rng::seed_from_u64(training.seed);
            rng.set_stream(problem as u64);
            k_means(&points, sub_dim, training.iterations, &mut rng, centroids);
            let done = 1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            progress(done, num_problems);
        });
    centroids
}

/// Lloyd's algorithm from a k-means++ start, for `points` `[n, sub_dim]`, n at least 1, into
/// `centroids` `[num_centroids, sub_dim]`.
fn k_means(
    points: &[f32],
    sub_dim: usize,
    iterations: usize,
    rng: &mut impl Rng,
    centroids: &mut [f32],
) {
    plus_plus_start(points, sub_dim, rng, centroids);
    let n = points.len() / sub_dim;
    let mut assignments = vec![Assignment::default(); n];
    let mut previous = vec![Assignment::default(); n];
    let mut lanes = CentroidLanes::new(centroids, sub_dim);
    for iteration in 0..iterations {
        assign(points, sub_dim, &lanes, &mut assignments);
        let settled = assignments
            .iter()
            .zip(&previous)
            .all(|(a, b)| a.code == b.code);
        if iteration > 0 && settled {
            break;
        }
        move_to_means(points, sub_dim, &assignments, centroids);
        lanes.set(centroids);
        std::mem::swap(&mut assignments, &mut previous);
    }
}

/// Where a point belongs, and how far from there it is.
#[derive(Debug, Clone, Copy, Default)]
struct Assignment {
    code: u8,
    squared_distance: f32,
}

fn assign(points: &[f32], sub_dim: usize, lanes: &CentroidLanes, assignments: &mut [Assignment]) {
    assignments
        .par_chunks_mut(POINTS_PER_TASK)
        .zip(points.par_chunks(POINTS_PER_TASK * sub_dim))
        .for_each(|(assignments, points)| {
            nearest_centroids(lanes, points, sub_dim, |n, code, affinity| {
                let point = &points[n * sub_dim..(n + 1) * sub_dim];
                let squared_distance = (2.0 * (half_norm(point) - affinity)).max(0.0);
                assignments[n] = Assignment {
                    code,
                    squared_distance,
                };
            });
        });
}

/// Moves every centroid to the mean of its points, and every centroid without points to the point
/// farthest from its own centroid (each to another one), unless no point is away from its centroid.
fn move_to_means(
    points: &[f32],
    sub_dim: usize,
    assignments: &[Assignment],
    centroids: &mut [f32],
) {
    let num_centroids = centroids.len() / sub_dim;
    let mut sums = vec![0.0f64; centroids.len()];
    let mut counts = vec![0u64; num_centroids];
    for (point, assignment) in points.chunks_exact(sub_dim).zip(assignments) {
        let code = usize::from(assignment.code);
        counts[code] += 1;
        let sum = &mut sums[code * sub_dim..(code + 1) * sub_dim];
        for (sum, &x) in sum.iter_mut().zip(point) {
            *sum += f64::from(x);
        }
    }
    for (code, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
        for i in code * sub_dim..(code + 1) * sub_dim {
            centroids[i] = (sums[i] / count as f64) as f32;
        }
    }

    let num_empty = counts.iter().filter(|&&count| count == 0).count();
    if num_empty == 0 {
        return;
    }
    let mut farthest: Vec<usize> = (0..assignments.len()).collect();
    let by_distance = |a: &usize, b: &usize| {
        let distance = |n: usize| assignments[n].squared_distance;
        distance(*b).total_cmp(&distance(*a)).then(a.cmp(b))
    };
    if num_empty < farthest.len() {
        farthest.select_nth_unstable_by(num_empty, by_distance);
        farthest.truncate(num_empty);
    }
    farthest.sort_unstable_by(by_distance);
    let empty = (0..num_centroids).filter(|&code| counts[code] == 0);
    for (code, n) in empty.zip(farthest) {
        if assignments[n].squared_distance > 0.0 {
            centroids[code * sub_dim..(code + 1) * sub_dim]
                .copy_from_slice(&points[n * sub_dim..(n + 1) * sub_dim]);
        }
    }
}

/// k-means++ (Arthur and Vassilvitskii 2007): each next centroid is a point drawn with probability
/// proportional to its squared distance from the nearest centroid so far.
fn plus_plus_start(points: &[f32], sub_dim: usize, rng: &mut impl Rng, centroids: &mut [f32]) {
    let n = points.len() / sub_dim;
    let point = |i: usize| &points[i * sub_dim..(i + 1) * sub_dim];
    let mut distances = vec![f32::INFINITY; n];
    let mut next = rng.random_range(0..n);
    for centroid in centroids.chunks_exact_mut(sub_dim) {
        centroid.copy_from_slice(point(next));
        distances
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(points.par_chunks(POINTS_PER_TASK * sub_dim))
            .for_each(|(distances, points)| lower_distances(centroid, points, distances));

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

/// Lowers each point's squared distance to that from `centroid` where that is nearer.
#[multiversion(targets("x86_64+avx2+fma"))]
fn lower_distances(centroid: &[f32], points: &[f32], distances: &mut [f32]) {
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
