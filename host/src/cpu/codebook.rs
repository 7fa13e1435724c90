//! Training: Lloyd's k-means for every (batch, head, sub-vector).

use std::borrow::Cow;

use gpu_kernels::codebook::{phi, squared_norm};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::assignment::Assignment;
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
/// The samples: one in so many blocks of points, if these are so many points for each centroid.
const SAMPLED: [usize; 2] = [4, 2];
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
            let samples = samples(&points, point_dim, config.num_centroids(), training.seed);
            match first {
                Some(lanes) => lanes[problem].to_centroids(centroids),
                None => start(
                    simd, training, problem, &points, &samples, point_dim, centroids,
                ),
            }
            let dims = (point_dim, sub_dim);
            let codes = lloyd(simd, &points, &samples, dims, training, centroids);
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
    samples: &[Vec<f32>],
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
    let points = samples.first().map_or(points, |sample| sample);
    plus_plus_start(simd, points, sub_dim, &mut rng, centroids);
}

/// The samples of many points, the smaller first; none of few. Of each so many blocks one is drawn by lot: what comes again
/// at a distance, as positions in documents of one length, is in none of them more than in the points.
fn samples(points: &[f32], sub_dim: usize, num_centroids: usize, seed: u64) -> Vec<Vec<f32>> {
    let num_points = points.len() / sub_dim;
    let are_enough = |every: &usize| {
        num_points >= LARGE && num_points / every >= num_centroids * SAMPLED_PER_CENTROID
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let block = POINTS_PER_BLOCK * sub_dim;
    let sample = |every| {
        let mut sample = Vec::with_capacity((num_points / every + POINTS_PER_BLOCK) * sub_dim);
        for blocks in points.chunks(every * block) {
            let drawn = rng.random_range(0..every);
            sample.extend_from_slice(blocks.chunks(block).nth(drawn).unwrap_or(&[]));
        }
        sample
    };
    SAMPLED.into_iter().filter(are_enough).map(sample).collect()
}

/// Lloyd's algorithm for `points` `[n, sub_dim]`, n at least 1, on `centroids` `[num_centroids, sub_dim]`, of which the
/// first `rounded` components are rounded in the end; the points' codes with them.
fn lloyd(
    simd: Simd,
    points: &[f32],
    samples: &[Vec<f32>],
    (sub_dim, rounded): (usize, usize),
    training: &TrainConfig,
    centroids: &mut [f32],
) -> Vec<u8> {
    let num_centroids = centroids.len() / sub_dim;
    let is_large = !samples.is_empty();
    let mut iterations = training.iterations;
    if let Some(larger) = samples.last() {
        let of_samples = iterations.saturating_sub(LAST_ITERATIONS[0]);
        let of_smaller = of_samples.saturating_sub(LAST_ITERATIONS[1]);
        iterations -= of_samples;
        let mut is_first = true;
        let phases = [(&samples[0], of_smaller), (larger, of_samples - of_smaller)];
        for (sample, iterations) in phases.into_iter().filter(|&(_, iterations)| iterations > 0) {
            let mut assignment = Assignment::new(simd, sample, sub_dim, num_centroids);
            for iteration in 0..iterations {
                assignment.update(centroids, Some(iteration == 0));
                assignment.move_to_means(centroids, if is_first { 0.0 } else { BEYOND });
                is_first = false;
            }
        }
    }
    let mut assignment = Assignment::new(simd, points, sub_dim, num_centroids);
    let mut previous = Vec::new();
    // By how much centroids went beyond the means, where they did.
    let mut beyond = 0.0;
    for iteration in 0..iterations {
        let may_be_last = !is_large || iteration + 1 == iterations;
        let is_anew = may_be_last || iteration == 0;
        assignment.update(centroids, Some(is_anew));
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
        beyond = if goes_on { BEYOND } else { 0.0 };
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
    assignment.update(centroids, None);
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
