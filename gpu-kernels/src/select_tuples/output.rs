//! The list and the weights of a block: where its keys belong. A block of several tiles goes through them as `chunks` says.

use super::keys::Keys;
use super::layout::FEW_COPIES;
use super::members::{Before, TIES_AT};
use super::{KEYS_PER_THREAD, Place, layout};
use crate::device::block;
use crate::device::shared::dynamic_shared_mem;
use crate::kernel::Out;
use crate::step::{Regions, StepShape};
use crate::weights::LISTED;

/// Bits of the members of a thread's keys that are above the cut.
const ABOVE_BITS: u32 = 0x5555_5555;
/// Bits of those with the cut's order key.
const TIE_BITS: u32 = 0xaaaa_aaaa;
/// Where a block's keys go.
pub(super) struct Output<'a> {
    pub(super) shape: &'a StepShape,
    pub(super) regions: &'a Regions,
    pub(super) place: &'a Place,
    /// Of all rows.
    pub(super) positions: Out<i32>,
    /// Of all rows.
    pub(super) weights: Out<f32>,
}

impl Output<'_> {
    /// Writes the heavy positions of the block's keys, and the weights that differ from the last step's. With
    /// no `before` none of the block's keys is taken.
    ///
    /// # Safety
    /// Every thread of the block is here; the buffers are as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn write(&self, before: Option<Before>, keys: Keys) {
        // SAFETY: the caller's; all threads of the block go one way.
        unsafe {
            if self.place.has_one_tile {
                self.write_tile(before, keys);
            } else {
                self.write_chunks(before, keys);
            }
        }
    }

    /// [`Output::write`] of a block that has one tile: sixteen keys a thread.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn write_tile(&self, before: Option<Before>, keys: Keys) {
        let first = keys.share.first_looked_up(0);
        // SAFETY: every thread is here; members are written if there is something before; the keys are this
        // thread's.
        unsafe {
            // Long before it is needed.
            let was_listed = keys.listed(self.shape, first);
            let mut taken = 0;
            if let Some(mut before) = before {
                let bits = keys.look_up::<FEW_COPIES>(self.shape, first, &keys.first_codes);
                let counts = count(bits);
                let (through, _) =
                    block::inclusive_sum_once(counts, dynamic_shared_mem(layout::SUMS));
                before.add(through - counts);
                taken = take(bits, &mut before, self.write_position(first));
            }
            self.write_weights(&keys, first, taken, was_listed);
        }
    }

    /// Writes the positions of keys that are counted from `first` on, at their places among the row's heavy
    /// ones.
    #[inline(always)]
    pub(super) fn write_position(&self, first: u32) -> impl Fn(u32, u32) {
        let first_slot = self.place.row as usize * self.shape.list_stride as usize
            + self.regions.sink_end as usize;
        let positions = self.positions.from(first_slot);
        let position = self.shape.init_offset + first;
        // SAFETY: places count the candidates taken before, heavy_k in all: each entry is written once.
        move |i, slot| unsafe { positions.set(slot as usize, (position + i) as i32) }
    }

    /// Writes the weights of the thread's sixteen keys from `first` on that are not what they were.
    ///
    /// # Safety
    /// The keys are this thread's, and the buffers as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn write_weights(
        &self,
        keys: &Keys,
        first: u32,
        taken: u32,
        was_listed: u32,
    ) {
        let (shape, regions) = (self.shape, self.regions);
        if shape.weights_stride == 0 || first >= shape.code_capacity {
            return;
        }
        let position = shape.init_offset + first;
        let seq_end = below(regions.seq_len, position);
        let now = if regions.list_all {
            seq_end
        } else {
            let window = seq_end & !below(regions.window_start, position);
            taken | below(regions.sink_end, position) | window
        };
        // SAFETY: the caller's.
        unsafe { self.write_changed(keys, first, now, was_listed) };
    }

    /// [`Output::write_weights`] with what has a weight `now`.
    ///
    /// # Safety
    /// As there, and the keys are among the capacity.
    #[inline(always)]
    pub(super) unsafe fn write_changed(&self, keys: &Keys, first: u32, now: u32, was_listed: u32) {
        let shape = self.shape;
        let row_at = self.place.row as usize * shape.weights_stride as usize;
        let position = shape.init_offset + first;
        // SAFETY: the word is this thread's, and so are the weights of its keys.
        unsafe {
            let mut changed = was_listed ^ now;
            if changed != 0 {
                keys.set_listed(shape, first, now);
            }
            while changed != 0 {
                let i = changed.trailing_zeros();
                changed &= changed - 1;
                let weight = if now >> i & 1 == 1 { LISTED } else { 0.0 };
                self.weights.set(row_at + (position + i) as usize, weight);
            }
        }
    }
}

/// How many of sixteen keys are above the cut, and from bit [`TIES_AT`] on how many tie with it.
#[inline(always)]
pub(super) fn count(bits: u32) -> u32 {
    (bits & ABOVE_BITS).count_ones() | (bits & TIE_BITS).count_ones() << TIES_AT
}

/// Takes the key whose lowest bit is bit `bit` of members' bits, if it is one of those taken, and calls `write` with the key
/// and its place among the heavy ones. Whether it is.
#[inline(always)]
pub(super) fn take_one(bit: u32, i: u32, before: &mut Before, write: &impl Fn(u32, u32)) -> bool {
    let is_tie = bit % 2 == 1;
    let is_taken = !is_tie || before.ties < before.ties_taken;
    if is_taken {
        write(i, before.above + before.ties.min(before.ties_taken));
    }
    before.above += u32::from(!is_tie);
    before.ties += u32::from(is_tie);
    is_taken
}

/// Goes through members' bits in order and calls `write` with each key taken and its place among the
/// heavy ones. A bit for each key taken.
#[inline(always)]
fn take(bits: u32, before: &mut Before, write: impl Fn(u32, u32)) -> u32 {
    let (mut rest, mut taken) = (bits, 0);
    while rest != 0 {
        let bit = rest.trailing_zeros();
        rest &= rest - 1;
        taken |= u32::from(take_one(bit, bit / 2, before, &write)) << (bit / 2);
    }
    taken
}

/// A bit for each of sixteen numbers from `first` on that is below `bound`.
#[inline(always)]
fn below(bound: u32, first: u32) -> u32 {
    (1 << bound.saturating_sub(first).min(KEYS_PER_THREAD)) - 1
}
