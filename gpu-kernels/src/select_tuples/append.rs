//! What a step leaves to the next: the new keys' codes and the candidates' counts.

use super::{Place, layout};
use crate::codebook::accumulate;
use crate::codes;
use crate::device::shared::dynamic_shared_mem;
use crate::device::thread;
use crate::kernel::{In, Out};
use crate::order::order_key;
use crate::step::StepShape;
use crate::tuple_counts::{NUM_TUPLES, candidates, tuple_of_key};

/// The candidates of the next step that the other half of the counts lacks, a thread each: their tuples.
/// Two at most, as the half has those of the step before.
///
/// # Safety
/// The buffers are as the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn next_tuple(
    shape: &StepShape,
    place: &Place,
    seq_len: u32,
    codes: In<u8>,
) -> Option<u32> {
    let key = candidates(shape, seq_len - 1).1 + thread::thread_idx_x();
    // SAFETY: the key is no longer in the window, or leaves it next: an earlier step wrote its codes.
    (key < candidates(shape, seq_len + 1).1)
        .then(|| unsafe { tuple_of_key(shape, codes, place.group, key) })
}

/// Counts them.
///
/// # Safety
/// Only one block of the grid does so for the group; the buffers are as the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn count_next(
    shape: &StepShape,
    place: &Place,
    seq_len: u32,
    tuple: Option<u32>,
    tuple_counts: Out<u32>,
    counted: Out<u32>,
) {
    let half = (2 * place.group + (seq_len + 1) % 2) as usize;
    // SAFETY: nobody reads that half in this step, and it is only added to.
    unsafe {
        if let Some(tuple) = tuple {
            tuple_counts.atomic_add(half * NUM_TUPLES as usize + tuple as usize, 1);
        }
        if thread::thread_idx_x() == 0 {
            counted.set(half, candidates(shape, seq_len + 1).1);
        }
    }
}

/// Encodes the new key of group `block_idx_x`, a thread for each centroid, and advances the block's copy of
/// the length.
///
/// # Safety
/// The whole block is here; the buffers are as the kernel's documentation says.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn encode(
    shape: &StepShape,
    sub_dim: u32,
    num_blocks: u32,
    centroids: In<f32>,
    half_norms: In<f32>,
    new_keys: In<f32>,
    seq_lens: Out<u32>,
    codes: Out<u8>,
) {
    let (group, t) = (thread::block_idx_x(), thread::thread_idx_x());
    let seq_len_at = (thread::grid_dim_x() * num_blocks + group) as usize;
    let table_len = shape.table_len();
    let centroids = centroids.from(group as usize * (table_len * sub_dim) as usize);
    let new_key = new_keys.from(group as usize * shape.head_dim as usize);
    let staged_key = dynamic_shared_mem::<f32>(layout::NEW_KEY);
    let staged = dynamic_shared_mem::<f32>(layout::CENTROIDS);
    let best = dynamic_shared_mem::<u32>(layout::BEST);
    let best_index = dynamic_shared_mem::<u32>(layout::BEST_INDEX);
    // A word more for each, so that neighbouring centroids begin in neighbouring banks.
    let stride = sub_dim + 1;
    let is_staged = table_len * stride <= layout::CENTROID_WORDS && sub_dim % 4 == 0;
    // SAFETY: all conditions around barriers are the same in the whole block. The copy of the length is
    // this block's; codes are written by it alone, and nobody reads them in this step.
    unsafe {
        let position = seq_lens.get(seq_len_at);
        if t < shape.head_dim {
            staged_key.set(t, new_key.get(t as usize));
        }
        if t < layout::NUM_SMALL {
            best.set(t, 0);
            best_index.set(t, u32::MAX);
        }
        if is_staged {
            let mut at = 4 * t;
            while at < table_len * sub_dim {
                let [a, b, c, d] = centroids.get4(at as usize);
                let to = at / sub_dim * stride + at % sub_dim;
                staged.set(to, a);
                staged.set(to + 1, b);
                staged.set(to + 2, c);
                staged.set(to + 3, d);
                at += 4 * thread::block_dim_x();
            }
        }
        thread::sync_threads();

        let subvector = t >> shape.bits;
        let mut key = 0;
        if t < table_len {
            let half_norm = half_norms
                .from(group as usize * table_len as usize)
                .get(t as usize);
            let mut sums = [-half_norm];
            let x = |i: usize| staged_key.get(subvector * sub_dim + i as u32);
            if is_staged {
                let c = |i: usize, _| staged.get(t * stride + i as u32);
                accumulate(&mut sums, sub_dim as usize, x, c);
            } else {
                let c = |i: usize, _| centroids.get((t * sub_dim) as usize + i);
                accumulate(&mut sums, sub_dim as usize, x, c);
            }
            // The nearest is the first in the order of (affinity descending, index ascending).
            key = order_key(sums[0]);
            best.atomic_max(subvector, key);
        }
        thread::sync_threads();
        if t < table_len && key == best.get(subvector) {
            best_index.atomic_min(subvector, t & (shape.num_centroids() - 1));
        }
        thread::sync_threads();
        if t < shape.num_subvectors {
            codes::store(shape, group, position, t, best_index.get(t) as u8, codes);
        }
        if t == 0 {
            seq_lens.set(seq_len_at, position + 1);
        }
    }
}
