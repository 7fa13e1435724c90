//! The list and the weights of a block's share.

use super::{Taken, at, shared};
use crate::device::thread;
use crate::kernel::Out;
use crate::select::output::{change, fixed_bits};
use crate::select::scan::candidates;
use crate::select::{KEYS_PER_WORD, Place, Plan, THREADS};
use crate::step::{Regions, StepShape};

/// The words of the bitmap that this thread writes the keys of.
#[inline(always)]
pub(super) fn words_of_thread(num_words: u32) -> core::ops::Range<u32> {
    let each = num_words.div_ceil(THREADS);
    let start = (thread::thread_idx_x() * each).min(num_words);
    start..(start + each).min(num_words)
}

/// Words of `listed` that have candidates: the blocks settle those of their shares.
#[inline(always)]
pub(in super::super) fn candidate_words(
    shape: &StepShape,
    regions: &Regions,
) -> core::ops::Range<u32> {
    let core::ops::Range { start, end } = candidates(shape, regions);
    if start < end {
        start / KEYS_PER_WORD..end.div_ceil(KEYS_PER_WORD)
    } else {
        0..0
    }
}

/// Writes the positions of the keys taken, and the weights of the share's keys.
///
/// # Safety
/// As [`run`](super::run), behind it; the words and weights are the thread's.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(in super::super) unsafe fn write_heavy(
    shape: &StepShape,
    regions: &Regions,
    place: &Place,
    plan: &Plan,
    share_end: u32,
    taken: &Taken,
    positions: Out<i32>,
    listed: Out<u16>,
    weights: Out<f32>,
) {
    let bitmap = shared(plan, at::bitmap(plan.num_blocks));
    let heavy_at = place.row as usize * shape.list_stride as usize + regions.sink_end as usize;
    let mut slot = heavy_at + taken.before as usize;
    for i in words_of_thread(taken.num_words) {
        // SAFETY: the caller's; slots count the keys taken before.
        unsafe {
            let bits = bitmap.get(i);
            let key = taken.first_key + i * 32;
            let position = shape.init_offset + key;
            if shape.weights_stride != 0 {
                for half in 0..2 {
                    let first = half * KEYS_PER_WORD;
                    if key + first < share_end {
                        let fixed = fixed_bits(regions, position + first);
                        let wanted = bits >> first & 0xffff | fixed;
                        let word = (key + first) / KEYS_PER_WORD;
                        change(shape, place, word, wanted, listed, weights);
                    }
                }
            }
            let mut rest = bits;
            while rest != 0 {
                positions.set(slot, (position + rest.trailing_zeros()) as i32);
                rest &= rest - 1;
                slot += 1;
            }
        }
    }
}
