//! Codes: encodes keys with their group's centroids.

use gpu_kernels::codebook::{augmented_component, squared_norm};
use rayon::prelude::*;

use super::centroid_lanes::{CentroidLanes, nearest_centroids};
use super::fixed_point::{FixedCentroids, FixedPoints, nearest_of_many};
use super::simd::{Isa, Simd, on_each_isa};
use crate::config::MAX_HEAD_DIM;
use crate::tensor::Keys;

/// Multiply-adds of a call that are worth waking other threads for, about 20 us of one.
const PARALLEL_WORK: usize = 1 << 19;

/// Keys of a group from which on fixed point is worth preparing the centroids for.
const MANY_KEYS: usize = 256;

/// What keys are encoded with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoder<'a> {
    /// The instruction set.
    pub(crate) simd: Simd,
    /// Sub-vectors of a key.
    pub(crate) m: usize,
    /// The centroids of each (group, sub-vector), augmented if there are phis.
    pub(crate) lanes: &'a [CentroidLanes],
    /// The phi of each (group, sub-vector), with the metric `ip`.
    pub(crate) phis: Option<&'a [f32]>,
}

impl Encoder<'_> {
    /// That of one group.
    pub(crate) fn group(&self, group: usize) -> Self {
        let of_group = group * self.m..(group + 1) * self.m;
        Encoder {
            lanes: &self.lanes[of_group.clone()],
            phis: self.phis.map(|phis| &phis[of_group]),
            ..*self
        }
    }

    /// Multiply-adds that `tokens` keys take in each of those sub-vectors.
    fn work(&self, tokens: usize) -> usize {
        let of_one = self.lanes.first().map_or(0, CentroidLanes::work);
        of_one
            .saturating_mul(self.lanes.len())
            .saturating_mul(tokens)
    }
}

/// Writes the codes of `keys` into `codes` `[groups, code_capacity, m]` from key `first` of every group
/// on.
pub(crate) fn append(encoder: Encoder<'_>, keys: Keys<'_>, first: usize, codes: &mut [u8]) {
    if keys.tokens == 0 {
        return;
    }
    let m = encoder.m;
    let groups = encoder.lanes.len() / m;
    let stride = codes.len() / groups;
    let encode_group = |(group, codes): (usize, &mut [u8])| {
        let codes = &mut codes[first * m..(first + keys.tokens) * m];
        let keys_of_group = keys.group(group);
        encode(encoder.group(group), keys_of_group, keys.head_dim, codes);
    };
    if encoder.work(keys.tokens) < PARALLEL_WORK {
        let groups = codes.chunks_mut(stride).enumerate();
        groups.for_each(encode_group);
    } else {
        let groups = codes.par_chunks_mut(stride).enumerate();
        groups.for_each(encode_group);
    }
}

/// Codes `[tokens, m]` of `keys` `[tokens, head_dim]` of one group.
pub(crate) fn encode(encoder: Encoder<'_>, keys: &[f32], head_dim: usize, codes: &mut [u8]) {
    /// Keys of one parallel task.
    const KEYS_PER_TASK: usize = 512;
    let m = encoder.m;
    let sub_dim = head_dim / m;
    let is_many = encoder.phis.is_none() && codes.len() / m >= MANY_KEYS;
    let fixed_centroids: Vec<FixedCentroids> = encoder
        .lanes
        .iter()
        .take(if is_many { m } else { 0 })
        .map(|lanes| {
            let mut centroids = vec![0.0; lanes.num_centroids() * sub_dim];
            lanes.to_centroids(&mut centroids);
            FixedCentroids::new(&centroids, sub_dim)
        })
        .collect();
    let encode_some = |(codes, keys): (&mut [u8], &[f32])| {
        for (subvector, lanes) in encoder.lanes.iter().enumerate() {
            let codes = &mut codes[subvector..];
            match encoder.phis {
                None if is_many => {
                    let points = &keys[subvector * sub_dim..];
                    let mut fixed = FixedPoints::new(encoder.simd, points, head_dim, sub_dim);
                    let centroids = (&fixed_centroids[subvector], lanes);
                    nearest_of_many(
                        encoder.simd,
                        &mut fixed,
                        centroids,
                        points,
                        head_dim,
                        codes,
                        m,
                    );
                }
                None => {
                    let points = &keys[subvector * sub_dim..];
                    nearest_centroids(encoder.simd, lanes, points, head_dim, codes, m, &mut []);
                }
                Some(phis) => {
                    let place = (subvector, phis[subvector]);
                    encode_augmented(encoder.simd, lanes, keys, head_dim, place, codes, m);
                }
            }
        }
    };
    if encoder.work(codes.len() / m) < PARALLEL_WORK {
        let tasks = codes.chunks_mut(KEYS_PER_TASK * m);
        tasks
            .zip(keys.chunks(KEYS_PER_TASK * head_dim))
            .for_each(encode_some);
    } else {
        let tasks = codes.par_chunks_mut(KEYS_PER_TASK * m);
        tasks
            .zip(keys.par_chunks(KEYS_PER_TASK * head_dim))
            .for_each(encode_some);
    }
}

/// The codes of one sub-vector, `place` with its phi, of `keys` `[n, head_dim]`; `codes[i * m]` is key i's.
fn encode_augmented(
    simd: Simd,
    lanes: &CentroidLanes,
    keys: &[f32],
    head_dim: usize,
    (subvector, phi): (usize, f32),
    codes: &mut [u8],
    m: usize,
) {
    /// Keys that are augmented at a time, on the stack: a step allocates nothing.
    const KEYS: usize = 12;
    let sub_dim = head_dim / m;
    let mut room = [0.0; KEYS * (MAX_HEAD_DIM + 1)];
    for (keys, codes) in keys.chunks(KEYS * head_dim).zip(codes.chunks_mut(KEYS * m)) {
        let n = keys.len() / head_dim;
        let points = &mut room[..n * (sub_dim + 1)];
        for (point, key) in points
            .chunks_exact_mut(sub_dim + 1)
            .zip(keys.chunks(head_dim))
        {
            point[..sub_dim].copy_from_slice(&key[subvector * sub_dim..][..sub_dim]);
        }
        augment(simd, points, sub_dim, phi);
        nearest_centroids(simd, lanes, points, sub_dim + 1, codes, m, &mut []);
    }
}

on_each_isa! {
    /// Sets the last component of each of `points` `[n, sub_dim + 1]`.
    pub(crate) fn augment(points: &mut [f32], sub_dim: usize, phi: f32) = augment_on;
}

#[inline(always)]
fn augment_on<I: Isa>(_isa: I, points: &mut [f32], sub_dim: usize, phi: f32) {
    for point in points.chunks_exact_mut(sub_dim + 1) {
        point[sub_dim] = augmented_component(phi, squared_norm(sub_dim, |i| point[i]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of three sub-vectors with 20 centroids of 5 components, each in two vectors of 16.
    #[test]
    fn work_is_counted_in_multiply_adds() {
        let lanes = vec![CentroidLanes::new(&[0.0; 100], 5); 3];
        let encoder = Encoder {
            simd: Simd::available()[0],
            m: 3,
            lanes: &lanes,
            phis: None,
        };
        assert_eq!(encoder.work(7), 3 * 7 * 32 * 5);
        assert_eq!(encoder.work(usize::MAX), usize::MAX);
    }
}
