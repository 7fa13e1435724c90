//! Training: Lloyd's k-means for every (batch, head, sub-vector).

use std::borrow::Cow;

use gpu_kernels::codebook::{phi, squared_norm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::assignment::{Assignment, POINTS_PER_TASK};
use super::centroid_lanes::CentroidLanes;
use super::codes::augment;
use super::plus_plus::plus_plus_start;
use super::simd::{Isa, Simd, on_each_isa};
use crate::codebook_start::sampled;
use crate::config::{PqConfig, Start, TrainConfig};
use crate::index::Augmentation;
use crate::tensor::Keys;

/// Points from which on the start and the first iterations see samples of them.
const LARGE: usize = 8192;
/// The samples: one in so many blocks of points, if these are so many points for each centroid, and one more.
const SAMPLED: usize = 4;
const POINTS_PER_BLOCK: usize = 16;
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
/// every sum has an order that codes and shape decide, so the result depends on the seed alone. `first` has the centroids to
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
            if m > 1 || config.is_augmented() {
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
            let num_points = points.len() / point_dim;
            match first {
                Some(lanes) => lanes[problem].to_centroids(centroids),
                // As on a GPU: of the points in their own order.
                None if training.start == Start::Sampled => {
                    sampled_start(training.seed, problem, &points, point_dim, centroids);
                }
                None => (),
            }
            let samples = Samples::new(num_points, config.num_centroids(), training.seed);
            if let Some(samples) = &samples {
                points = Cow::Owned(samples.to_front(&points, point_dim));
            }
            let ends = samples.as_ref().map(|samples| samples.ends);
            if first.is_none() && training.start == Start::PlusPlus {
                let of_sample = ends.map_or(num_points, |ends| ends[0]) * point_dim;
                let mut rng = ChaCha8Rng::seed_from_u64(training.seed);
                rng.set_stream(problem as u64);
                let points = &points[..of_sample];
                plus_plus_start(simd, points, point_dim, &mut rng, centroids);
            }
            let dims = (point_dim, sub_dim);
            let codes = lloyd(simd, &points, ends, dims, training, centroids);
            let codes = match &samples {
                Some(samples) => samples.back(&codes),
                None => codes,
            };
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

/// The first centroids of codebook `problem`, `[num_centroids, sub_dim]`: points drawn by lot.
fn sampled_start(seed: u64, problem: usize, points: &[f32], sub_dim: usize, centroids: &mut [f32]) {
    let (n, num_centroids) = (points.len() / sub_dim, centroids.len() / sub_dim);
    let samples = sampled(seed, problem, n, num_centroids);
    for (centroid, point) in centroids.chunks_exact_mut(sub_dim).zip(samples) {
        centroid.copy_from_slice(&points[point as usize * sub_dim..][..sub_dim]);
    }
}

/// Samples of many points, brought to the front. Of each so many blocks one is drawn by lot: what comes again at a distance,
/// as positions in documents of one length, is in no sample more than in all points.
struct Samples {
    /// The blocks in their new order, of which the last alone may have fewer points.
    blocks: Vec<u32>,
    /// Where the smaller and the larger sample end, in points.
    ends: [usize; 2],
}

impl Samples {
    /// None for few points.
    fn new(num_points: usize, num_centroids: usize, seed: u64) -> Option<Self> {
        let are_enough = |points: usize| points >= num_centroids * SAMPLED_PER_CENTROID;
        if num_points < LARGE || !are_enough(2 * num_points / SAMPLED) {
            return None;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let whole = num_points / (SAMPLED * POINTS_PER_BLOCK);
        let mut blocks = vec![0; whole * SAMPLED];
        for group in 0..whole {
            let mut of_group: [u32; SAMPLED] =
                std::array::from_fn(|i| (group * SAMPLED + i) as u32);
            for i in 0..2 {
                of_group.swap(i, rng.random_range(i..SAMPLED));
                blocks[i * whole + group] = of_group[i];
            }
            let behind = 2 * whole + group * (SAMPLED - 2);
            blocks[behind..behind + SAMPLED - 2].copy_from_slice(&of_group[2..]);
        }
        let first = blocks.len() as u32;
        blocks.extend(first..num_points.div_ceil(POINTS_PER_BLOCK) as u32);
        let tasks = |points: usize| points / POINTS_PER_TASK * POINTS_PER_TASK;
        let [one, two] = [1, 2].map(|n| tasks(n * whole * POINTS_PER_BLOCK));
        let smaller = if are_enough(one) { one } else { two };
        Some(Samples {
            blocks,
            ends: [smaller, two],
        })
    }

    /// `points` `[n, sub_dim]` in the new order.
    fn to_front(&self, points: &[f32], sub_dim: usize) -> Vec<f32> {
        let len = POINTS_PER_BLOCK * sub_dim;
        let blocks = self.blocks.iter().map(|&block| {
            let rest = &points[block as usize * len..];
            &rest[..rest.len().min(len)]
        });
        let mut moved = Vec::with_capacity(points.len());
        blocks.for_each(|block| moved.extend_from_slice(block));
        moved
    }

    /// Codes in the points' own order.
    fn back(&self, codes: &[u8]) -> Vec<u8> {
        let mut back = vec![0; codes.len()];
        for (codes, &block) in codes.chunks(POINTS_PER_BLOCK).zip(&self.blocks) {
            back[block as usize * POINTS_PER_BLOCK..][..codes.len()].copy_from_slice(codes);
        }
        back
    }
}

/// Lloyd's algorithm for `points` `[n, sub_dim]`, n at least 1, on `centroids` `[num_centroids, sub_dim]`, of which the
/// first `rounded` components are rounded in the end; the points' codes with them. `ends`: of the samples in front, if any.
fn lloyd(
    simd: Simd,
    points: &[f32],
    ends: Option<[usize; 2]>,
    (sub_dim, rounded): (usize, usize),
    training: &TrainConfig,
    centroids: &mut [f32],
) -> Vec<u8> {
    let num_points = points.len() / sub_dim;
    let is_large = ends.is_some();
    let mut assignment = Assignment::new(simd, points, sub_dim, centroids.len() / sub_dim);
    let active_in = |iteration: usize| match (ends, training.iterations - iteration) {
        (Some(_), left) if left <= LAST_ITERATIONS[0] => num_points,
        (Some(ends), left) if left <= LAST_ITERATIONS[0] + LAST_ITERATIONS[1] => ends[1],
        (Some(ends), _) => ends[0],
        (None, _) => num_points,
    };
    let mut previous = Vec::new();
    // By how much centroids went beyond the means, where they did.
    let mut beyond = 0.0;
    for iteration in 0..training.iterations {
        let active = active_in(iteration);
        let may_be_last = !is_large || iteration + 1 == training.iterations;
        let is_anew = may_be_last || iteration == 0;
        assignment.update(centroids, active, Some(is_anew));
        if active < num_points {
            let beyond = if iteration == 0 { 0.0 } else { BEYOND };
            assignment.move_to_means(centroids, beyond);
            continue;
        }
        let is_same = assignment.codes == previous;
        if is_same && beyond == 0.0 {
            break;
        }
        previous.clone_from(&assignment.codes);
        let before = centroids.to_vec();
        let goes_on = !may_be_last && !is_same;
        if !goes_on && !is_anew {
            assignment.sum_anew();
        }
        beyond = if goes_on && iteration > 0 {
            BEYOND
        } else {
            0.0
        };
        let has_new = assignment.move_to_means(centroids, beyond);
        if !goes_on && !has_new && has_settled(&before, centroids, training.tolerance) {
            break;
        }
    }
    for centroid in centroids.chunks_exact_mut(sub_dim) {
        for component in &mut centroid[..rounded] {
            *component = training.centroids.round(*component);
        }
    }
    assignment.update(centroids, num_points, None);
    assignment.codes
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough keys for samples, by every instruction set; by any number of threads is the integration tests' matter.
    #[test]
    fn every_instruction_set_finds_the_same_centroids() {
        let (tokens, sub_dim) = (8500, 5);
        let config = PqConfig {
            num_subvectors: 1,
            bits: 4,
            init_offset: 0,
            ..PqConfig::default()
        };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let data: Vec<f32> = (0..tokens * sub_dim)
            .map(|_| rng.random::<f32>() - 0.5)
            .collect();
        let keys = Keys::new(&data, [1, 1, tokens, sub_dim]).unwrap();
        let trained = Simd::available().into_iter().map(|simd| {
            let training = TrainConfig::default();
            train(simd, &config, &training, keys, None, &|_, _| ())
        });
        let trained: Vec<Trained> = trained.collect();
        for other in &trained[1..] {
            assert_eq!(other.centroids, trained[0].centroids);
            assert_eq!(other.codes, trained[0].codes);
        }
    }
}
