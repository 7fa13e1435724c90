//! Training: Lloyd's k-means for every (batch, head, sub-vector).

use std::borrow::Cow;

use gpu_kernels::codebook::{phi, squared_norm};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::assignment::{Assignment, POINTS_PER_TASK};
use super::centroid_lanes::CentroidLanes;
use super::codes::augment;
use super::plus_plus::plus_plus_start;
use super::simd::{Isa, Simd, on_each_isa};
use crate::codebook_plan::{POINTS_PER_BLOCK, POINTS_PER_SAMPLE_PART, Plan, Stop};
use crate::codebook_start::sampled;
use crate::config::{PqConfig, Start, TrainConfig};
use crate::index::Augmentation;
use crate::tensor::Keys;

// Samples are whole tasks.
const _: () = assert!(POINTS_PER_SAMPLE_PART.is_multiple_of(POINTS_PER_TASK));

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
            let plan = Plan::new(num_points, config.num_centroids(), training);
            let order = plan.samples.as_ref().map(|samples| &samples.order[..]);
            if let Some(order) = order {
                points = Cow::Owned(to_front(order, &points, point_dim));
            }
            if first.is_none() && training.start == Start::PlusPlus {
                let of_sample = plan.start_points() * point_dim;
                let mut rng = ChaCha8Rng::seed_from_u64(training.seed);
                rng.set_stream(problem as u64);
                let points = &points[..of_sample];
                plus_plus_start(simd, points, point_dim, &mut rng, centroids);
            }
            let dims = (point_dim, sub_dim);
            let codes = lloyd(simd, &points, &plan, dims, training, centroids);
            let codes = match order {
                Some(order) => back(order, &codes),
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

/// `points` `[n, sub_dim]` in the order of the samples.
fn to_front(order: &[u32], points: &[f32], sub_dim: usize) -> Vec<f32> {
    let len = POINTS_PER_BLOCK * sub_dim;
    let blocks = order.iter().map(|&block| {
        let rest = &points[block as usize * len..];
        &rest[..rest.len().min(len)]
    });
    let mut moved = Vec::with_capacity(points.len());
    blocks.for_each(|block| moved.extend_from_slice(block));
    moved
}

/// Codes in the points' own order.
fn back(order: &[u32], codes: &[u8]) -> Vec<u8> {
    let mut back = vec![0; codes.len()];
    for (codes, &block) in codes.chunks(POINTS_PER_BLOCK).zip(order) {
        back[block as usize * POINTS_PER_BLOCK..][..codes.len()].copy_from_slice(codes);
    }
    back
}

/// Lloyd's algorithm for `points` `[n, sub_dim]`, n at least 1, in the plan's order, on `centroids`
/// `[num_centroids, sub_dim]`, of which the first `rounded` components are rounded in the end; the points' codes with them.
fn lloyd(
    simd: Simd,
    points: &[f32],
    plan: &Plan,
    (sub_dim, rounded): (usize, usize),
    training: &TrainConfig,
    centroids: &mut [f32],
) -> Vec<u8> {
    let num_points = points.len() / sub_dim;
    let mut assignment = Assignment::new(simd, points, sub_dim, centroids.len() / sub_dim);
    let mut previous = Vec::new();
    // Whether centroids went beyond the means the last time that all points were seen.
    let mut went_beyond = false;
    for (iteration, step) in plan.iterations().enumerate() {
        let is_anew = step.stop == Stop::Settled || iteration == 0;
        assignment.update(centroids, step.num_points, Some(is_anew));
        if step.stop == Stop::Never {
            assignment.move_to_means(centroids, step.beyond);
            continue;
        }
        let is_same = assignment.codes == previous;
        if is_same && !went_beyond {
            break;
        }
        previous.clone_from(&assignment.codes);
        let before = centroids.to_vec();
        let goes_on = step.stop == Stop::SameCodes && !is_same;
        if !goes_on && !is_anew {
            assignment.sum_anew();
        }
        let beyond = if goes_on { step.beyond } else { 0.0 };
        went_beyond = beyond != 0.0;
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
    use rand::RngExt;

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
