//! What a step leaves to the next: the new keys' codes and the candidates' counts.

use super::{Place, Staging, layout};
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

/// Takes the group's new key and half norms to shared memory.
///
/// # Safety
/// The buffers are as the kernel's documentation says; a barrier follows before the words are read.
#[inline(always)]
pub(super) unsafe fn stage(
    shape: &StepShape,
    place: &Place,
    half_norms: In<f32>,
    new_keys: In<f32>,
) {
    let (t, table_len) = (thread::thread_idx_x(), shape.table_len());
    // SAFETY: inside the group's; each thread has its own words.
    unsafe {
        if t < shape.head_dim {
            let at = (place.group * shape.head_dim + t) as usize;
            dynamic_shared_mem::<f32>(layout::NEW_KEY).set(t, new_keys.get(at));
        }
        if t < table_len {
            let at = (place.group * table_len + t) as usize;
            dynamic_shared_mem::<f32>(layout::HALF_NORMS).set(t, half_norms.get(at));
        }
    }
}

/// Encodes the group's new key at `position`, a thread for each centroid.
///
/// # Safety
/// The whole block is here, behind a barrier since [`stage`] and
/// [`Staged::store`](super::table::Staged::store); the buffers are as the kernel's documentation says;
/// nobody else reads or writes the key's codes in this step.
#[inline(always)]
pub(super) unsafe fn encode(
    shape: &StepShape,
    place: &Place,
    position: u32,
    staging: &Staging,
    centroids: In<f32>,
    codes: Out<u8>,
) {
    let (t, table_len, sub_dim) = (thread::thread_idx_x(), shape.table_len(), place.sub_dim);
    let new_key = dynamic_shared_mem::<f32>(layout::NEW_KEY);
    let half_norms = dynamic_shared_mem::<f32>(layout::HALF_NORMS);
    let best = dynamic_shared_mem::<u32>(layout::BEST);
    let best_index = dynamic_shared_mem::<u32>(layout::BEST_INDEX);
    let subvector = t >> shape.bits;
    let mut key = 0;
    // SAFETY: all conditions around barriers are the same in the whole block; a thread's centroid is the
    // table's.
    unsafe {
        if t < table_len {
            let mut sums = [-half_norms.get(t)];
            let key_at = subvector * sub_dim;
            if staging.fits == 1 {
                let staged_centroids = dynamic_shared_mem::<f32>(layout::CENTROIDS);
                let centroid_at = t * staging.stride;
                let mut done = 0;
                while done < sub_dim {
                    let x = new_key.get4(key_at + done);
                    let y = new_key.get4(key_at + done + 4);
                    let c = staged_centroids.get4(centroid_at + done);
                    let d = staged_centroids.get4(centroid_at + done + 4);
                    accumulate(&mut sums, 4, |i| x[i], |i, _| c[i]);
                    accumulate(&mut sums, 4, |i| y[i], |i, _| d[i]);
                    done += 8;
                }
            } else {
                let centroids =
                    centroids.from((place.group * table_len + t) as usize * sub_dim as usize);
                let x = |i: usize| new_key.get(key_at + i as u32);
                accumulate(&mut sums, sub_dim as usize, x, |i, _| centroids.get(i));
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
            codes::store(
                shape,
                place.group,
                position,
                t,
                best_index.get(t) as u8,
                codes,
            );
        }
    }
}
