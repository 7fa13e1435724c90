//! The list and the weights: every thread looks its keys up and writes where they belong.

use super::members::{self, Before};
use super::{KEYS_PER_THREAD, KEYS_PER_TILE, Place, layout};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{block, thread};
use crate::kernel::{In, Out};
use crate::step::{Regions, StepShape};
use crate::tuple_counts::tuple;
use crate::weights::LISTED;

/// Bits of the members of a thread's keys that are above the cut.
const ABOVE_BITS: u32 = 0x5555_5555;
/// Bits of those with the cut's order key.
const TIE_BITS: u32 = 0xaaaa_aaaa;

/// Writes the heavy positions of the block's keys, and the weights that differ from the last step's. With
/// no `before` none of the block's keys is taken.
///
/// # Safety
/// Every thread of the block is here; the buffers are as the kernel's documentation says.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn write_keys(
    shape: &StepShape,
    regions: &Regions,
    place: &Place,
    (start, end): (u32, u32),
    before: Option<Before>,
    mut keys: Keys,
    positions: Out<i32>,
    weights: Out<f32>,
) {
    let mut before_tile = before.unwrap_or(Before {
        above: 0,
        ties: 0,
        ties_taken: 0,
    });
    let positions = positions
        .from(place.row as usize * shape.list_stride as usize)
        .from(regions.sink_end as usize);
    let block_end = (place.first_key() + (1 << place.keys_log2))
        .min(regions.seq_len.saturating_sub(shape.init_offset));
    let mut tile_first = place.first_key();
    let mut scratch = layout::SUMS;
    loop {
        let first = tile_first + thread::thread_idx_x() * KEYS_PER_THREAD;
        // Long before it is needed.
        // SAFETY: the word is this thread's.
        let was_listed = unsafe { keys.listed(shape, first) };
        // Two bits a key, as members have.
        let candidates = below_twice(end, first) & !below_twice(start, first);
        let mut bits = 0;
        if before.is_some() && candidates != 0 {
            // SAFETY: members are written; the thread has a candidate.
            bits = unsafe { keys.look_up(shape, first) } & candidates;
        }
        tile_first += KEYS_PER_TILE;
        let is_last = tile_first >= block_end;
        if !is_last {
            // SAFETY: the block has these keys.
            keys.loaded = unsafe { keys.load(shape, first + KEYS_PER_TILE) };
        }
        let counts = (bits & ABOVE_BITS).count_ones() | (bits & TIE_BITS).count_ones() << 16;
        // SAFETY: every thread is here: the loop is the same in the whole block. The scratch was last used
        // two rounds ago.
        let (through, total) =
            unsafe { block::inclusive_sum_once(counts, dynamic_shared_mem(scratch)) };
        let before_thread = through - counts;
        let taken = take(
            bits,
            Before {
                above: before_tile.above + (before_thread & 0xffff),
                ties: before_tile.ties + (before_thread >> 16),
                ties_taken: before_tile.ties_taken,
            },
            |i, slot| {
                if !regions.list_all {
                    // SAFETY: slots count the candidates taken before, heavy_k in all: each entry is
                    // written once.
                    unsafe { positions.set(slot as usize, (shape.init_offset + first + i) as i32) };
                }
            },
        );
        if shape.weights_stride != 0 && first < shape.code_capacity {
            // SAFETY: the sixteen keys are this thread's.
            unsafe {
                write_weights(
                    shape,
                    regions,
                    place,
                    first,
                    taken,
                    was_listed,
                    keys.all_listed,
                    weights,
                )
            };
        }
        if is_last {
            break;
        }
        before_tile.above += total & 0xffff;
        before_tile.ties += total >> 16;
        scratch ^= layout::SUMS ^ layout::OTHER_SUMS;
    }
}

/// The keys of a thread. Their codes are loaded a tile ahead, where there are two a key.
pub(super) struct Keys {
    /// The group's codes.
    codes: In<u8>,
    /// The row's.
    all_listed: Out<u16>,
    /// Where candidates start and end.
    candidates: (u32, u32),
    loaded: [[u32; 4]; 2],
}

impl Keys {
    /// The block's; what the thread's first tile needs is being loaded.
    ///
    /// # Safety
    /// The buffers are as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn new(
        shape: &StepShape,
        place: &Place,
        candidates: (u32, u32),
        codes: In<u8>,
        listed: Out<u16>,
    ) -> Self {
        let group_len = shape.code_capacity as usize * shape.num_subvectors as usize;
        let row_len = (shape.code_capacity / KEYS_PER_THREAD) as usize;
        let mut keys = Keys {
            codes: codes.from(place.group as usize * group_len),
            all_listed: listed.from(place.row as usize * row_len),
            candidates,
            loaded: [[0; 4]; 2],
        };
        let first = place.first_key() + thread::thread_idx_x() * KEYS_PER_THREAD;
        // SAFETY: the caller's.
        unsafe {
            keys.loaded = keys.load(shape, first);
        }
        keys
    }

    /// The codes of the sixteen keys from `first` on, if one of them is a candidate.
    ///
    /// # Safety
    /// As [`Keys::new`].
    #[inline(always)]
    unsafe fn load(&self, shape: &StepShape, first: u32) -> [[u32; 4]; 2] {
        let (start, end) = self.candidates;
        if !is_loaded_early(shape) || first >= end || first + KEYS_PER_THREAD <= start {
            return [[0; 4]; 2];
        }
        let at = 2 * first as usize;
        // SAFETY: the capacity is a multiple of sixteen keys, so vectors are aligned and inside it.
        unsafe { [self.codes.get16(at), self.codes.get16(at + 16)] }
    }

    /// Which of the sixteen keys from `first` on had a weight after the last step, a bit each.
    ///
    /// # Safety
    /// As [`Keys::new`]; the keys are this thread's.
    #[inline(always)]
    unsafe fn listed(&self, shape: &StepShape, first: u32) -> u32 {
        if shape.weights_stride == 0 || first >= shape.code_capacity {
            return 0;
        }
        // SAFETY: a word for each sixteen keys of the capacity.
        u32::from(unsafe { self.all_listed.get((first / KEYS_PER_THREAD) as usize) })
    }

    /// The members' bits of the sixteen keys from `first` on, whose codes are loaded; those of other keys
    /// than candidates are any.
    ///
    /// # Safety
    /// Members are written, and one of the keys is a candidate.
    #[inline(always)]
    unsafe fn look_up(&self, shape: &StepShape, first: u32) -> u32 {
        let (start, end) = self.candidates;
        let mut bits = 0u32;
        if is_loaded_early(shape) {
            let second = 2 << shape.bits;
            // Two keys a word, a half each. Their tuples, twice over, are below 2^16: none runs over.
            macro_rules! word {
                ($($word:literal)*) => {
                    $({
                        let codes = self.loaded[$word / 4][$word % 4];
                        let twice = (codes << 1 & 0x01fe_01fe) + (codes >> 8 & 0x00ff_00ff) * second;
                        // SAFETY: codes are below 2^bits, so the tuples are of the format.
                        unsafe {
                            bits = bits >> 2 | members::of_tuple(twice) << 30;
                            bits = bits >> 2 | members::of_tuple(twice >> 16) << 30;
                        }
                    })*
                };
            }
            word!(0 1 2 3 4 5 6 7);
            return bits;
        }
        let m = shape.num_subvectors;
        let mut key = first.max(start);
        while key < end.min(first + KEYS_PER_THREAD) {
            let at = (key * m) as usize;
            // SAFETY: a candidate's codes are written and below 2^bits.
            let member = unsafe {
                let tuple = tuple(m, shape.bits, |j| {
                    u32::from(self.codes.get(at + j as usize))
                });
                members::of_tuple(2 * tuple)
            };
            bits |= (member & (members::ABOVE | members::TIE)) << (2 * (key - first));
            key += 1;
        }
        bits
    }
}

/// Whether sixteen keys' codes are loaded at once: two a key. The new key, which another block encodes at
/// this moment, must not be among them: it is `window` behind the last candidate.
#[inline(always)]
fn is_loaded_early(shape: &StepShape) -> bool {
    shape.num_subvectors == 2 && shape.window >= KEYS_PER_THREAD
}

/// Goes through members' bits in order and calls `write` with each key taken and its place among the
/// heavy ones. A bit for each key taken.
#[inline(always)]
fn take(bits: u32, mut before: Before, write: impl Fn(u32, u32)) -> u32 {
    let (mut rest, mut taken) = (bits, 0);
    while rest != 0 {
        let bit = rest.trailing_zeros();
        rest &= rest - 1;
        let (i, is_tie) = (bit / 2, bit % 2 == 1);
        if !is_tie || before.ties < before.ties_taken {
            write(i, before.above + before.ties.min(before.ties_taken));
            taken |= 1 << i;
        }
        before.above += u32::from(!is_tie);
        before.ties += u32::from(is_tie);
    }
    taken
}

/// Writes the weights of the thread's sixteen keys that are not what they were. `listed` is the row's.
///
/// # Safety
/// The keys are this thread's, and the buffers as the kernel's documentation says.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn write_weights(
    shape: &StepShape,
    regions: &Regions,
    place: &Place,
    first: u32,
    taken: u32,
    was_listed: u32,
    listed: Out<u16>,
    weights: Out<f32>,
) {
    let position = shape.init_offset + first;
    let seq_end = below(regions.seq_len, position);
    let now = if regions.list_all {
        seq_end
    } else {
        let window = seq_end & !below(regions.window_start, position);
        taken | below(regions.sink_end, position) | window
    };
    let row_at = place.row as usize * shape.weights_stride as usize;
    // SAFETY: the word is this thread's, and so are the weights of its keys.
    unsafe {
        let mut changed = was_listed ^ now;
        if changed != 0 {
            listed.set((first / KEYS_PER_THREAD) as usize, now as u16);
        }
        while changed != 0 {
            let i = changed.trailing_zeros();
            changed &= changed - 1;
            let weight = if now >> i & 1 == 1 { LISTED } else { 0.0 };
            weights.set(row_at + (position + i) as usize, weight);
        }
    }
}

/// A bit for each of sixteen numbers from `first` on that is below `bound`.
#[inline(always)]
fn below(bound: u32, first: u32) -> u32 {
    (1 << bound.saturating_sub(first).min(KEYS_PER_THREAD)) - 1
}

/// Two bits for each of sixteen numbers from `first` on that is below `bound`.
#[inline(always)]
fn below_twice(bound: u32, first: u32) -> u32 {
    let bits = 2 * bound.saturating_sub(first).min(KEYS_PER_THREAD);
    ((1u64 << bits) - 1) as u32
}
