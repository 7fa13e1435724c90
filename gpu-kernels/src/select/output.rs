//! The heavy entries of the list, ascending, and the weights.

use core::ops::Range;

use super::survivors::{Cut, List};
use super::{KEYS_PER_WORD, Place, Plan, THREADS, layout};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{block, thread};
use crate::kernel::Out;
use crate::step::{Regions, StepShape};
use crate::weights::LISTED;

/// Bits of the sixteen keys from position `position` on that are listed whatever their scores.
#[inline(always)]
pub(super) fn fixed_bits(regions: &Regions, position: u32) -> u32 {
    let below = |bound: u32| (1 << bound.saturating_sub(position).min(KEYS_PER_WORD)) - 1;
    let seq_end = below(regions.seq_len);
    if regions.list_all {
        seq_end
    } else {
        below(regions.sink_end) | (seq_end & !below(regions.window_start))
    }
}

/// Leaves in the block's share of the weights those that do not depend on scores: others that the last step
/// set are cleared, and the row's last block sets anew what it takes. The words `but` are left alone.
///
/// # Safety
/// The buffers are as the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn settle(
    shape: &StepShape,
    regions: &Regions,
    place: &Place,
    but: Range<u32>,
    listed: Out<u16>,
    weights: Out<f32>,
) {
    let num_words = shape.code_capacity / KEYS_PER_WORD;
    let mut word = place.block * THREADS + thread::thread_idx_x();
    while word < num_words {
        if !but.contains(&word) {
            let fixed = fixed_bits(regions, shape.init_offset + word * KEYS_PER_WORD);
            // SAFETY: the word and the weights of its keys are this thread's until the block takes its ticket.
            unsafe { change(shape, place, word, fixed, listed, weights) };
        }
        word += place.num_blocks * THREADS;
    }
}

/// Makes the keys of word `word` with a weight those of `wanted`.
///
/// # Safety
/// The buffers are as the kernel's documentation says; the word and the weights of its keys are this thread's.
#[inline(always)]
pub(super) unsafe fn change(
    shape: &StepShape,
    place: &Place,
    word: u32,
    wanted: u32,
    listed: Out<u16>,
    weights: Out<f32>,
) {
    let row = place.row as usize;
    let at = row * (shape.code_capacity / KEYS_PER_WORD) as usize + word as usize;
    let weights_at =
        row * shape.weights_stride as usize + (shape.init_offset + word * KEYS_PER_WORD) as usize;
    // SAFETY: the caller's.
    unsafe {
        let mut changed = u32::from(listed.get_relaxed(at)) ^ wanted;
        if changed != 0 {
            listed.set_relaxed(at, wanted as u16);
        }
        while changed != 0 {
            let i = changed.trailing_zeros();
            changed &= changed - 1;
            let weight = if wanted >> i & 1 == 1 { LISTED } else { 0.0 };
            weights.set_relaxed(weights_at + i as usize, weight);
        }
    }
}

/// Writes the positions of the keys that the cut takes, ascending, and their weights.
///
/// The table's memory becomes a bitmap of the keys, of as many at a time as it has bits.
///
/// # Safety
/// Every thread of the block is here, which has the row's last ticket, behind a barrier since the list was
/// written; the buffers are as the kernel's documentation says.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn write_heavy(
    shape: &StepShape,
    regions: &Regions,
    place: &Place,
    plan: &Plan,
    list: &List,
    count: u32,
    cut: &Cut,
    positions: Out<i32>,
    listed: Out<u16>,
    weights: Out<f32>,
) {
    let bitmap = dynamic_shared_mem::<u32>(layout::TABLE);
    let t = thread::thread_idx_x();
    let num_words = shape.code_capacity.div_ceil(32);
    let heavy_at = place.row as usize * shape.list_stride as usize + regions.sink_end as usize;
    let mut before = 0;
    let mut first_word = 0;
    // SAFETY: the loop is the same in the whole block; barriers stand between clearing, setting, reading and the next clearing.
    // Slots count the keys taken before, heavy_k in all, so each entry of the list is written once.
    unsafe {
        while first_word < thread::opaque(num_words) {
            let words = (num_words - first_word).min(plan.table_words);
            let mut i = t;
            while i < words {
                bitmap.set(i, 0);
                i += THREADS;
            }
            thread::sync_threads();
            let mut i = t;
            while i < count {
                let (key, key_place) = list.get(i);
                let bit = key_place.wrapping_sub(first_word * 32);
                if cut.takes(key, key_place) && bit < words * 32 {
                    bitmap.atomic_or(bit / 32, 1 << (bit % 32));
                }
                i += THREADS;
            }
            thread::sync_threads();

            let per_thread = words.div_ceil(THREADS);
            let start = (t * per_thread).min(words);
            let end = (start + per_thread).min(words);
            let mut taken = 0;
            for i in start..end {
                taken += bitmap.get(i).count_ones();
            }
            let (through, all_taken) =
                block::inclusive_sum(taken, dynamic_shared_mem(layout::SUMS));
            if taken != 0 {
                let mut slot = heavy_at + (before + through - taken) as usize;
                for i in start..end {
                    let bits = bitmap.get(i);
                    let key = (first_word + i) * 32;
                    let position = shape.init_offset + key;
                    let mut rest = bits;
                    while rest != 0 {
                        let heavy = position + rest.trailing_zeros();
                        rest &= rest - 1;
                        positions.set(slot, heavy as i32);
                        slot += 1;
                        if shape.weights_stride != 0 {
                            let row_at = place.row as usize * shape.weights_stride as usize;
                            weights.set_relaxed(row_at + heavy as usize, LISTED);
                        }
                    }
                    if shape.weights_stride != 0 && bits != 0 {
                        let row_words = (shape.code_capacity / KEYS_PER_WORD) as usize;
                        let word_at =
                            place.row as usize * row_words + (key / KEYS_PER_WORD) as usize;
                        for half in 0..2 {
                            let bits = bits >> (half * KEYS_PER_WORD) & 0xffff;
                            if bits != 0 {
                                let fixed = fixed_bits(regions, position + half * KEYS_PER_WORD);
                                let word = (bits | fixed) as u16;
                                listed.set_relaxed(word_at + half as usize, word);
                            }
                        }
                    }
                }
            }
            before += all_taken;
            first_word += words;
            // The next keys' bits take the place of those that threads still write.
            thread::sync_threads();
        }
    }
}
