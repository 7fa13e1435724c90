//! Codes: encodes keys with their group's centroids.

use rayon::prelude::*;

use super::centroid_lanes::{CentroidLanes, nearest_centroids};
use super::simd::Simd;
use crate::tensor::Keys;

/// Multiply-adds of a call that are worth waking other threads for, about 20 us of one.
const PARALLEL_WORK: usize = 1 << 19;

/// Writes the codes of `keys` into `codes` `[groups, code_capacity, m]` from key `first` of every group
/// on, given the centroids of every (group, sub-vector).
pub(crate) fn append(
    simd: Simd,
    m: usize,
    lanes: &[CentroidLanes],
    keys: Keys<'_>,
    first: usize,
    codes: &mut [u8],
) {
    if keys.tokens == 0 {
        return;
    }
    let groups = lanes.len() / m;
    let stride = codes.len() / groups;
    let encode_group = |(group, (codes, lanes)): (usize, (&mut [u8], &[CentroidLanes]))| {
        let codes = &mut codes[first * m..(first + keys.tokens) * m];
        encode(simd, lanes, keys.group(group), keys.head_dim, codes);
    };
    if work(lanes, keys.tokens) < PARALLEL_WORK {
        let groups = codes.chunks_mut(stride).zip(lanes.chunks(m));
        groups.enumerate().for_each(encode_group);
    } else {
        let groups = codes.par_chunks_mut(stride).zip(lanes.par_chunks(m));
        groups.enumerate().for_each(encode_group);
    }
}

/// Multiply-adds that `tokens` keys take in each of those sub-vectors.
fn work(lanes: &[CentroidLanes], tokens: usize) -> usize {
    let of_one = lanes.first().map_or(0, CentroidLanes::work);
    of_one.saturating_mul(lanes.len()).saturating_mul(tokens)
}

/// Codes `[tokens, m]` of `keys` `[tokens, head_dim]`, given the centroids of each sub-vector.
pub(crate) fn encode(
    simd: Simd,
    lanes: &[CentroidLanes],
    keys: &[f32],
    head_dim: usize,
    codes: &mut [u8],
) {
    /// Keys of one parallel task.
    const KEYS_PER_TASK: usize = 512;
    let m = lanes.len();
    let sub_dim = head_dim / m;
    let encode_some = |(codes, keys): (&mut [u8], &[f32])| {
        for (subvector, lanes) in lanes.iter().enumerate() {
            let points = &keys[subvector * sub_dim..];
            let codes = &mut codes[subvector..];
            nearest_centroids(simd, lanes, points, head_dim, codes, m, &mut []);
        }
    };
    if work(lanes, codes.len() / m) < PARALLEL_WORK {
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
