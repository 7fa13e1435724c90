//! The list and the weights: every thread looks its keys up and writes where they belong.

use super::keys::{Codes, Keys, Share};
use super::layout::{FEW_COPIES, MANY_COPIES};
use super::members::Before;
use super::{KEYS_PER_CHUNK, KEYS_PER_THREAD, KEYS_PER_TILE, Place, layout};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{block, thread, warp};
use crate::kernel::Out;
use crate::step::{Regions, StepShape};
use crate::weights::LISTED;

/// Bits of the members of a thread's keys that are above the cut.
const ABOVE_BITS: u32 = 0x5555_5555;
/// Bits of those with the cut's order key.
const TIE_BITS: u32 = 0xaaaa_aaaa;
/// Words of `layout::BITS` that a warp has: one for each lane and piece.
const BITS_PER_WARP: u32 = KEYS_PER_CHUNK / KEYS_PER_TILE * 32;

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
                taken = take(bits, &mut before, self.write_position(first)) as u32;
            }
            self.write_weights(&keys, first, taken, was_listed);
        }
    }

    /// [`Output::write`] of a block that has several tiles: chunk by chunk.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn write_chunks(&self, before: Option<Before>, keys: Keys) {
        let is_needed = before.is_some();
        let mut before_chunk = before.unwrap_or(Before::NOTHING);
        let mut share = keys.share;
        let (mut codes, mut second_codes) = (keys.first_codes, [[0; 4]; 2]);
        // SAFETY: what is no candidate's is not loaded, and the block has the others.
        unsafe { keys.load(self.shape, share.first_looked_up(1), &mut second_codes) };
        let mut chunk_first = self.place.first_key();
        let mut scratch = layout::SUMS;
        loop {
            let pieces_log2 = share.pieces_log2;
            // Long before it is needed.
            // SAFETY: the keys are this thread's.
            let was_listed = unsafe { self.all_listed(&keys, share.first_taken(), pieces_log2) };
            chunk_first += KEYS_PER_CHUNK;
            let is_last = chunk_first >= keys.end;
            // Worked out at each use: what is kept all the while costs registers.
            let next = || Share::new(thread::opaque(chunk_first), keys.end);
            // SAFETY: every lane is here; members are written if they are needed.
            let words = unsafe {
                self.look_up_share(&keys, is_needed, share, next, &mut codes, &mut second_codes);
                words_of(pieces_log2)
            };
            let counts = words.map(count);
            let counts = counts[0] + counts[1] + counts[2] + counts[3];
            // SAFETY: every thread is here: the loop is the same in the whole block. The scratch was last used
            // two rounds ago.
            let (through, total) =
                unsafe { block::inclusive_sum_once(counts, dynamic_shared_mem(scratch)) };
            let mut before = before_chunk;
            before.add(through - counts);
            let first = share.first_taken();
            let taken = take_of_four(words, &mut before, self.write_position(first));
            // Only now: whoever puts them together waits for them.
            let [a, b, c, d] = was_listed.map(thread::opaque);
            let was_listed = u64::from(a | b << 16) | u64::from(c | d << 16) << 32;
            let mut word = 0;
            while self.shape.weights_stride != 0 && word < 1 << pieces_log2 {
                let of_word = |bits: u64| (bits >> (word * KEYS_PER_THREAD)) as u32 & 0xffff;
                let first = first + word * KEYS_PER_THREAD;
                // SAFETY: the sixteen keys are this thread's.
                unsafe { self.write_weights(&keys, first, of_word(taken), of_word(was_listed)) };
                word += 1;
            }
            if is_last {
                break;
            }
            share = next();
            before_chunk.add(total);
            scratch ^= layout::SUMS ^ layout::OTHER_SUMS;
        }
    }

    /// Looks a share's keys up and leaves the members' bits in shared memory, a word for each piece and lane.
    ///
    /// `codes` are of the share's first piece, `second_codes` of its second; afterwards of the first two of
    /// `next`.
    ///
    /// # Safety
    /// Every lane of the warp is here, and members are written if they are needed.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn look_up_share(
        &self,
        keys: &Keys,
        is_needed: bool,
        share: Share,
        next: impl Fn() -> Share,
        codes: &mut Codes,
        second_codes: &mut Codes,
    ) {
        let words = dynamic_shared_mem::<u32>(layout::BITS);
        let mut piece = 0;
        // Two pieces ahead, by turns: codes that were handed from one variable to the other would be waited for.
        macro_rules! look_up {
            ($codes:ident) => {
                let first = share.first_looked_up(piece);
                let following = if piece + 2 < share.pieces() {
                    share.first_looked_up(piece + 2)
                } else {
                    next().first_looked_up(piece + 2 - share.pieces())
                };
                // SAFETY: what is no candidate's is not loaded, and the block has the others; members are
                // written if one is needed; the word is this lane's until all have written.
                unsafe {
                    let mut bits = 0;
                    if is_needed {
                        bits = keys.look_up::<MANY_COPIES>(self.shape, first, $codes);
                    }
                    keys.load(self.shape, following, $codes);
                    // Worked out at each use: a place that is kept all the while costs registers.
                    let thread = thread::opaque(thread::thread_idx_x());
                    words.set(thread / 32 * BITS_PER_WARP + thread % 32 + 32 * piece, bits);
                }
                piece += 1;
                if piece == share.pieces() {
                    return;
                }
            };
        }
        loop {
            look_up!(codes);
            look_up!(second_codes);
        }
    }

    /// Which of the keys from `first` on had a weight after the last step: a bit each, of sixteen keys a word, and
    /// `2^pieces_log2` words.
    ///
    /// # Safety
    /// The keys are this thread's.
    #[inline(always)]
    unsafe fn all_listed(&self, keys: &Keys, first: u32, pieces_log2: u32) -> [u32; 4] {
        let word = |i: u32| {
            if i >> pieces_log2 != 0 {
                return 0;
            }
            // SAFETY: the caller's.
            unsafe { keys.listed(self.shape, first + i * KEYS_PER_THREAD) }
        };
        if self.shape.weights_stride == 0 {
            return [0; 4];
        }
        [word(0), word(1), word(2), word(3)]
    }

    /// Writes the positions of keys that are counted from `first` on, at their places among the row's heavy
    /// ones.
    #[inline(always)]
    fn write_position(&self, first: u32) -> impl Fn(u32, u32) {
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
    unsafe fn write_weights(&self, keys: &Keys, first: u32, taken: u32, was_listed: u32) {
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
        let row_at = self.place.row as usize * shape.weights_stride as usize;
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

/// The members' bits of the keys that the lane takes, sixteen a word, of 2 or 4 pieces that the warp has looked up, or
/// of one.
///
/// # Safety
/// Every lane of the warp is here, and has written the bits of the pieces.
#[inline(always)]
unsafe fn words_of(pieces_log2: u32) -> [u32; 4] {
    let words = dynamic_shared_mem::<u32>(layout::BITS);
    // Worked out at each use, as `Output::look_up_share` does.
    let thread = thread::opaque(thread::thread_idx_x());
    let at = thread / 32 * BITS_PER_WARP + ((thread % 32) << pieces_log2);
    // SAFETY: the branches are the same in the whole block, and the caller's.
    unsafe {
        // Before the next chunk's bits are written there is a barrier of the block.
        warp::sync();
        if pieces_log2 == 2 {
            return words.get4(at);
        }
        if pieces_log2 == 1 {
            let [a, b] = words.get2(at);
            return [a, b, 0, 0];
        }
        [words.get(at), 0, 0, 0]
    }
}

/// How many of sixteen keys are above the cut, and behind sixteen bits how many tie with it.
#[inline(always)]
fn count(bits: u32) -> u32 {
    (bits & ABOVE_BITS).count_ones() | (bits & TIE_BITS).count_ones() << 16
}

/// Takes the key whose lowest bit is bit `bit` of members' bits, if it is one of those taken, and calls `write` with the key
/// and its place among the heavy ones. The key's bit, or none.
#[inline(always)]
fn take_one(bit: u32, i: u32, before: &mut Before, write: &impl Fn(u32, u32)) -> u64 {
    let is_tie = bit % 2 == 1;
    let mut taken = 0;
    if !is_tie || before.ties < before.ties_taken {
        write(i, before.above + before.ties.min(before.ties_taken));
        taken = 1 << i;
    }
    before.above += u32::from(!is_tie);
    before.ties += u32::from(is_tie);
    taken
}

/// Goes through members' bits in order and calls `write` with each key taken and its place among the
/// heavy ones. A bit for each key taken.
#[inline(always)]
fn take(bits: u32, before: &mut Before, write: impl Fn(u32, u32)) -> u64 {
    let (mut rest, mut taken) = (bits, 0);
    while rest != 0 {
        let bit = rest.trailing_zeros();
        rest &= rest - 1;
        taken |= take_one(bit, bit / 2, before, &write);
    }
    taken
}

/// [`take`] of four words. The lanes of a warp go through theirs together, whichever of the words they are in.
#[inline(always)]
fn take_of_four(words: [u32; 4], before: &mut Before, write: impl Fn(u32, u32)) -> u64 {
    let [mut a, mut b, mut c, mut d] = words;
    let mut taken = 0;
    while a | b | c | d != 0 {
        let in_front = a | b != 0;
        let (even, odd) = if in_front { (a, b) } else { (c, d) };
        let is_even = even != 0;
        let word = if is_even { even } else { odd };
        let first = if in_front { 0 } else { 32 } + if is_even { 0 } else { 16 };
        let bit = word.trailing_zeros();
        let rest = word & (word - 1);
        match (in_front, is_even) {
            (true, true) => a = rest,
            (true, false) => b = rest,
            (false, true) => c = rest,
            (false, false) => d = rest,
        }
        taken |= take_one(bit, first + bit / 2, before, &write);
    }
    taken
}

/// A bit for each of sixteen numbers from `first` on that is below `bound`.
#[inline(always)]
fn below(bound: u32, first: u32) -> u32 {
    (1 << bound.saturating_sub(first).min(KEYS_PER_THREAD)) - 1
}
