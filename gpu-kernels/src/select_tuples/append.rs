//! What a step leaves to the next: the new keys' codes and the candidates' counts. A warp each.

use super::THREADS;
use crate::codes;
use crate::device::{thread, warp};
use crate::kernel::{In, Out};
use crate::step::StepShape;
use crate::tuple_counts;

/// Encodes a sub-vector of a group's new key, or brings a group's counts up to date: one task a warp.
///
/// # Safety
/// The whole block is here; the buffers are as the kernel's documentation says.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn run(
    shape: &StepShape,
    rows_per_group: u32,
    num_blocks: u32,
    keys_per_block: u32,
    centroids: In<f32>,
    half_norms: In<f32>,
    new_keys: In<f32>,
    seq_lens: Out<u32>,
    codes: Out<u8>,
    counts: Out<u32>,
    counted: Out<u32>,
    prefixes: Out<u32>,
) {
    let m = shape.num_subvectors;
    let num_rows = thread::grid_dim_x();
    let task = thread::block_idx_x() * (THREADS / 32) + warp::warp_id();
    if task >= num_rows / rows_per_group * (m + 1) {
        return; // the whole warp together
    }
    let (group, subvector) = (task / (m + 1), task % (m + 1));
    let seq_len_at = (num_rows * num_blocks + task) as usize;
    let lane = warp::lane_id();
    // SAFETY: the copy is this task's, of which lane 0 reads and writes it; all lanes are here.
    let position = unsafe {
        let seq_len = if lane == 0 {
            seq_lens.get(seq_len_at)
        } else {
            0
        };
        let position = warp::warp_shuffle_idx(seq_len, 0);
        if lane == 0 {
            seq_lens.set(seq_len_at, position + 1);
        }
        position
    };
    if subvector == m {
        // SAFETY: all lanes are here, and the group's counts are this task's alone.
        unsafe {
            tuple_counts::advance(
                shape,
                group,
                position + 1,
                codes.as_input(),
                counts,
                counted,
                prefixes,
                keys_per_block,
                num_blocks,
            );
        }
        return;
    }
    // SAFETY: all lanes are here; nobody else writes the code, or reads it in this step.
    unsafe {
        let key_at = (group * shape.head_dim + subvector * shape.sub_dim()) as usize;
        let code = codes::encode(
            shape, group, subvector, centroids, half_norms, new_keys, key_at,
        );
        codes::store(shape, group, position, subvector, code, codes);
    }
}
