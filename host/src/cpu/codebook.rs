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
const POINTS_PER_TASK: usize = 256;
/// Tasks whose points have sums of their own.
const TASKS_PER_PART: usize = 8;
/// Components of the points that are summed at a time.
const COLUMNS: usize = 32;
/// Points from which on the start and the first iterations see a sample of them.
const LARGE: usize = 8192;
/// That sample, and a smaller one: the points of one in so many tasks,
const SAMPLED: [usize; 2] = [2, 4];
/// if these are so many for each centroid.
const SAMPLED_PER_CENTROID: usize = 64;
/// The last iterations, which see all points, and those before them, which see the larger sample.
const LAST_ITERATIONS: [usize; 2] = [3, 4];
/// How much farther than to the mean of its points a centroid goes, of many points and but for the first time and the last.
const BEYOND: f32 = 0.7;

/// Codebooks of all groups, and the keys' codes.
pub(crate) struct Trained {
    /// `[batch, num_kv_heads, m, 2^bits, sub_dim]`, rounded as was asked for.
    pub(crate) centroids: Vec<f32>,
    /// What the metric adds to them.
    pub(crate) augmentation: Option<Augmentation>,
    /// Of the keys that took part, `[batch, num_kv_heads, keys, m]`, with these centroids.
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
    let samples = sampled_tasks(points.len() / sub_dim, centroids.len() / sub_dim);
    let every = samples[0].max(samples[1]);
    plus_plus_start(simd, points, sub_dim, every, &mut rng, centroids);
}

/// One in how many tasks has the points of the samples; 1: no sample.
fn sampled_tasks(num_points: usize, num_centroids: usize) -> [usize; 2] {
    SAMPLED.map(|every| {
        let are_enough = num_points / every >= num_centroids * SAMPLED_PER_CENTROID;
        if num_points >= LARGE && are_enough {
            every
        } else {
            1
        }
    })
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
    let num_centroids = centroids.len() / sub_dim;
    let [larger, smaller] = sampled_tasks(points.len() / sub_dim, num_centroids);
    let is_large = larger > 1;
    let mut assignment = Assignment::new(simd, points, sub_dim, num_centroids);
    let every_of = |iteration: usize| match training.iterations - iteration {
        left if left <= LAST_ITERATIONS[0] => 1,
        left if left <= LAST_ITERATIONS[0] + LAST_ITERATIONS[1] => larger,
        _ => larger.max(smaller),
    };
    let mut previous = Vec::new();
    // By how much centroids went beyond the means, where they did.
    let mut beyond = 0.0;
    for iteration in 0..training.iterations {
        let every = every_of(iteration);
        let is_anew = iteration == 0 || every != every_of(iteration - 1);
        assignment.update(centroids, every);
        if every > 1 {
            let beyond = if iteration == 0 { 0.0 } else { BEYOND };
            assignment.move_to_means(centroids, beyond, is_anew);
            continue;
        }
        let is_same = assignment.codes == previous;
        if is_same && beyond == 0.0 {
            break;
        }
        previous.clone_from(&assignment.codes);
        let before = centroids.to_vec();
        let goes_on = is_large && !is_same && iteration + 1 < training.iterations;
        beyond = if goes_on { BEYOND } else { 0.0 };
        let has_new = assignment.move_to_means(centroids, beyond, is_anew || !goes_on);
        if !goes_on && !has_new && has_settled(&before, centroids, training.tolerance) {
            break;
        }
    }
    for centroid in centroids.chunks_exact_mut(sub_dim) {
        for component in &mut centroid[..rounded] {
            *component = training.centroids.round(*component);
        }
    }
    assignment.update(centroids, 1);
    assignment.codes
}

/// Which centroid each point belongs to.
struct Assignment<'a> {
    simd: Simd,
    /// `[n, sub_dim]`.
    points: &'a [f32],
    sub_dim: usize,
    fixed: Vec<FixedPoints>,
    codes: Vec<u8>,
    /// Those that the codes are of, but of the points that were left out.
    lanes: CentroidLanes,
    /// One in so many tasks was not left out.
    every: usize,
    parts: Vec<Sums>,
}

impl<'a> Assignment<'a> {
    fn new(simd: Simd, points: &'a [f32], sub_dim: usize, num_centroids: usize) -> Self {
        let fixed = points
            .par_chunks(POINTS_PER_TASK * sub_dim)
            .map(|points| FixedPoints::new(simd, points, sub_dim, sub_dim));
        let num_points = points.len() / sub_dim;
        Assignment {
            simd,
            points,
            sub_dim,
            fixed: fixed.collect(),
            codes: vec![0; num_points],
            lanes: CentroidLanes::new(&[], sub_dim),
            every: 1,
            parts: (0..num_points.div_ceil(POINTS_PER_TASK * TASKS_PER_PART))
                .map(|_| Sums::new(num_centroids, sub_dim))
                .collect(),
        }
    }

    /// To other centroids, of the points of one in `every` tasks, a divisor of [`TASKS_PER_PART`].
    fn update(&mut self, centroids: &[f32], every: usize) {
        let (simd, sub_dim) = (self.simd, self.sub_dim);
        let fixed_centroids;
        (self.lanes, fixed_centroids) = rayon::join(
            || CentroidLanes::new(centroids, sub_dim),
            || FixedCentroids::new(centroids, sub_dim),
        );
        self.every = every;
        let centroids = (&fixed_centroids, &self.lanes);
        self.codes
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(self.points.par_chunks(POINTS_PER_TASK * sub_dim))
            .zip(&mut self.fixed)
            .step_by(every)
            .for_each(|((codes, points), fixed)| {
                nearest_of_many(simd, fixed, centroids, points, sub_dim, codes, 1);
            });
    }

    /// Each point's squared distance to its centroid, 0 of those that were left out.
    fn squared_distances(&self) -> Vec<f32> {
        let (simd, sub_dim) = (self.simd, self.sub_dim);
        let mut distances = vec![0.0; self.codes.len()];
        distances
            .par_chunks_mut(POINTS_PER_TASK)
            .zip(self.points.par_chunks(POINTS_PER_TASK * sub_dim))
            .step_by(self.every)
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
    /// its centroid; whether one was. Sums are taken `anew`, or only of what is another centroid's since the last time.
    fn move_to_means(&mut self, centroids: &mut [f32], beyond: f32, anew: bool) -> bool {
        let sub_dim = self.sub_dim;
        let num_centroids = centroids.len() / sub_dim;
        let Sums { sums, counts, .. } = self.sums(num_centroids, anew);
        for (code, &count) in counts.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let centroid = &mut centroids[code * sub_dim..][..sub_dim];
            let blocks = centroid.chunks_mut(COLUMNS).enumerate();
            for (block, components) in blocks {
                let sums = &sums[block * num_centroids + code];
                for (component, sum) in components.iter_mut().zip(sums) {
                    let mean = (sum / f64::from(count)) as f32;
                    let there = mean + beyond * (mean - *component);
                    *component = if there.is_finite() { there } else { mean };
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
    fn sums(&mut self, num_centroids: usize, anew: bool) -> Sums {
        let (simd, sub_dim, every) = (self.simd, self.sub_dim, self.every);
        let points_per_part = POINTS_PER_TASK * TASKS_PER_PART;
        self.codes
            .par_chunks(points_per_part)
            .zip(self.points.par_chunks(points_per_part * sub_dim))
            .zip(&mut self.parts)
            .for_each(|((codes, points), sums)| sums.follow(simd, points, codes, every, anew));
        let mut all = Sums::new(num_centroids, sub_dim);
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

    /// Of the points of one in `every` tasks with other codes. What is summed in which order depends on the codes alone.
    fn follow(&mut self, simd: Simd, points: &[f32], codes: &[u8], every: usize, anew: bool) {
        if anew {
            self.sums.fill([0.0; COLUMNS]);
            self.counts.fill(0);
        }
        let sub_dim = points.len() / codes.len();
        let tasks = codes
            .chunks(POINTS_PER_TASK)
            .zip(points.chunks(POINTS_PER_TASK * sub_dim));
        for (task, (codes, points)) in tasks.enumerate().step_by(every) {
            let before = match anew {
                true => None,
                false => Some(&self.codes[task * POINTS_PER_TASK..][..codes.len()]),
            };
            let counts = &mut self.counts;
            add_points(simd, points, codes, before, &mut self.sums, counts);
        }
        self.codes.clear();
        self.codes.extend_from_slice(codes);
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
            let point = &point[block * COLUMNS..];
            if let Some(x) = point.first_chunk::<COLUMNS>() {
                if let Some(from) = from {
                    for k in 0..COLUMNS {
                        sums[from][k] -= f64::from(x[k]);
                    }
                }
                for k in 0..COLUMNS {
                    sums[to][k] += f64::from(x[k]);
                }
            } else {
                for (k, &x) in point.iter().enumerate() {
                    if let Some(from) = from {
                        sums[from][k] -= f64::from(x);
                    }
                    sums[to][k] += f64::from(x);
                }
            }
        }
    }
}
