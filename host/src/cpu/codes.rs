//! Codes: encodes keys with their group's centroids.

use rayon::prelude::*;

use super::codebook::{CentroidLanes, nearest_centroids};
use crate::index::KeyIndex;
use crate::tensor::Keys;

/// Encodes `keys` into the room behind the index's codes; its length stays as it is.
pub(crate) fn append(index: &mut KeyIndex, keys: Keys<'_>) {
    let config = *index.config();
    let (seq_len, code_stride) = (
        index.seq_len(),
        index.code_capacity() * config.num_subvectors,
    );
    if keys.tokens == 0 {
        return;
    }
    let (codes, lanes) = index.codes_and_lanes();
    let first = (seq_len - config.init_offset) * config.num_subvectors;
    let new_len = keys.tokens * config.num_subvectors;
    codes
        .par_chunks_mut(code_stride)
        .zip(lanes.par_chunks(config.num_subvectors))
        .enumerate()
        .for_each(|(group, (codes, lanes))| {
            encode(
                lanes,
                keys.group(group),
                keys.head_dim,
                &mut codes[first..first + new_len],
            );
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
