//! Codes: encodes keys with their group's centroids.

use rayon::prelude::*;

use super::codebook::{CentroidLanes, nearest_centroids};
use crate::tensor::Keys;

/// Writes the codes of `keys` into `codes` `[groups, code_capacity, m]` from key `first` of every group
/// on, given the centroids of every (group, sub-vector).
pub(crate) fn append(
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
    codes
        .par_chunks_mut(stride)
        .zip(lanes.par_chunks(m))
        .enumerate()
        .for_each(|(group, (codes, lanes))| {
            let codes = &mut codes[first * m..(first + keys.tokens) * m];
            encode(lanes, keys.group(group), keys.head_dim, codes);
        });
}

/// Codes `[tokens, m]` of `keys` `[tokens, head_dim]`, given the centroids of each sub-vector.
pub(crate) fn encode(lanes: &[CentroidLanes], keys: &[f32], head_dim: usize, codes: &mut [u8]) {
    /// Keys of one parallel task.
    const KEYS_PER_TASK: usize = 512;
    let m = lanes.len();
    let sub_dim = head_dim / m;
    codes
        .par_chunks_mut(KEYS_PER_TASK * m)
        .zip(keys.par_chunks(KEYS_PER_TASK * head_dim))
        .for_each(|(codes, keys)| {
            for (subvector, lanes) in lanes.iter().enumerate() {
                let points = &keys[subvector * sub_dim..];
                nearest_centroids(lanes, points, head_dim, |n, code, _| {
                    codes[n * m + subvector] = code;
                });
            }
        });
}
