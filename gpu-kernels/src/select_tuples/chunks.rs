//! The list and the weights of a block that has several tiles: chunk by chunk, of up to sixteen tiles.
//!
//! A warp looks its share of a chunk's keys up and leaves the members' bits in shared memory, a word for each sixteen
//! keys, and beside it which of them had a weight. Then its lanes take them from there, each the same number of neighbouring
//! words: so the places of all its keys in the list follow from one block sum. Few words have a member at all, and only
//! those are looked at.

use super::keys::{Codes, Keys, Share, is_loaded_early, look_up_pairs};
use super::layout::MANY_COPIES;
use super::members::Before;
use super::output::{Output, count, take_one};
use super::{KEYS_PER_PIECE, KEYS_PER_THREAD, KEYS_PER_TILE, layout};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{block, thread, warp};

/// What the lanes of a warp tell each other, a word for each sixteen keys of a share.
struct Exchange {
    /// Members' bits; once the list is written a bit for each key that is taken.
    bits: SharedArray<u32>,
    /// Which keys had a weight after the last step, a bit each; not there without weights.
    listed: SharedArray<u32>,
}

/// Where the word of sixteen keys is in an exchange, by its number in the share: with a gap behind each piece, so that lanes
/// meet in few banks both where they look keys up and where they take them.
#[inline(always)]
fn place_of(word: u32) -> u32 {
    word + word / 32
}

impl Output<'_> {
    /// Where the warp's lanes tell each other.
    #[inline(always)]
    fn exchange(&self) -> Exchange {
        // Worked out at each use: what is kept all the while costs registers.
        let warp = thread::opaque(thread::thread_idx_x()) / 32;
        let words = layout::PIECE_WORDS * self.place.chunk_tiles;
        let of_each = words << u32::from(self.shape.weights_stride != 0);
        let mut first = layout::BITS + of_each * warp;
        // ptxas spills a register of the one kernel without this, and of the others with it.
        if !self.place.is_reference {
            first = thread::opaque(first);
        }
        Exchange {
            bits: dynamic_shared_mem(first),
            listed: dynamic_shared_mem(first + words),
        }
    }

    /// [`Output::write`] of a block that has several tiles.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(super) unsafe fn write_chunks(&self, before: Option<Before>, keys: Keys) {
        let Some(mut before_chunk) = before else {
            // SAFETY: the caller's.
            return unsafe { self.write_none(&keys) };
        };
        let has_weights = self.shape.weights_stride != 0;
        let chunk_tiles = self.place.chunk_tiles;
        let mut chunk_first = self.place.first_key();
        let (mut share, mut codes) = (keys.share, keys.first_codes);
        let mut scratch = layout::SUMS;
        loop {
            chunk_first += KEYS_PER_TILE * chunk_tiles;
            let is_last = chunk_first >= keys.end;
            // SAFETY: every lane is here, and members are written.
            let found = unsafe {
                self.look_up_share(&keys, share, &mut codes);
                warp::sync();
                self.found(&keys, share)
            };
            let counts = self.count(share, found);
            // SAFETY: every thread is here: the loop is the same in the whole block. The scratch was last used
            // two rounds ago.
            let (through, total) =
                unsafe { block::inclusive_sum_once(counts, dynamic_shared_mem(scratch)) };
            let mut before = before_chunk;
            before.add(through - counts);
            self.take(share, found, before);
            // SAFETY: every lane is here. What a lane has left is read by others, or overwritten for the next chunk.
            unsafe { warp::sync() };
            if has_weights {
                self.write_share_weights(&keys, share);
            }
            if is_last {
                break;
            }
            share = Share::new(chunk_first, keys.end, chunk_tiles);
            let first = share.first_looked_up(0);
            let is_loaded = is_loaded_early(self.shape) && first < keys.candidates.1;
            // SAFETY: the keys are among the capacity, as some are candidates.
            unsafe { keys.load_if(is_loaded, first, &mut codes) };
            before_chunk.add(total);
            scratch ^= layout::SUMS ^ layout::OTHER_SUMS;
        }
    }

    /// [`Output::write`] of a block none of whose keys is taken.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn write_none(&self, keys: &Keys) {
        if self.shape.weights_stride == 0 {
            return;
        }
        let warp = thread::opaque(thread::thread_idx_x()) / 32;
        let mut piece = self.place.first_key() + warp * KEYS_PER_PIECE;
        while piece < keys.end {
            let first = piece + warp::lane_id() * KEYS_PER_THREAD;
            // SAFETY: the keys are this thread's.
            unsafe {
                let was_listed = keys.listed(self.shape, first);
                self.write_weights(keys, first, 0, was_listed);
            }
            piece += KEYS_PER_TILE;
        }
    }

    /// Looks a share's keys up; `codes` are of its first piece. The bits of keys that are no candidates are any.
    ///
    /// # Safety
    /// Every lane of the warp is here, and members are written.
    #[inline(always)]
    unsafe fn look_up_share(&self, keys: &Keys, share: Share, codes: &mut Codes) {
        let shape = self.shape;
        let has_weights = shape.weights_stride != 0;
        let Exchange { bits, listed } = self.exchange();
        let lane = warp::lane_id();
        // Counted on from here: places that are worked out ahead cost registers.
        let mut first = thread::opaque(share.first_looked_up(0));
        let pieces = share.pieces;
        if !is_loaded_early(shape) {
            let mut piece = 0;
            while piece < pieces {
                // SAFETY: the words are this lane's until all have written.
                unsafe {
                    let found = keys.look_up_each::<MANY_COPIES>(shape, first);
                    bits.set(layout::PIECE_WORDS * piece + lane, found);
                    if has_weights {
                        let was_listed = keys.listed(shape, first);
                        listed.set(layout::PIECE_WORDS * piece + lane, was_listed);
                    }
                }
                first += KEYS_PER_PIECE;
                piece += 1;
            }
            return;
        }
        // Codes behind the last candidate and words behind the capacity are not there; those of another warp are not needed.
        let codes_end = keys.candidates.1.min(share.end());
        let listed_end = if has_weights {
            shape.code_capacity.min(share.end())
        } else {
            0
        };
        let mut second_codes = [[0; 4]; 2];
        let (mut was_listed, mut second_was_listed) = (0, 0);
        // SAFETY: as just said.
        unsafe {
            let second = first + KEYS_PER_PIECE;
            keys.load_if(second < codes_end, second, &mut second_codes);
            if has_weights {
                keys.load_listed_if(shape, first < listed_end, first, &mut was_listed);
                keys.load_listed_if(shape, second < listed_end, second, &mut second_was_listed);
            }
        }
        let mut at = lane;
        let end = layout::PIECE_WORDS * pieces;
        // Two pieces ahead, by turns: codes that were handed from one variable to the other would be waited for.
        macro_rules! look_up {
            ($codes:expr, $was_listed:ident) => {
                let ahead = first + 2 * KEYS_PER_PIECE;
                // SAFETY: as above, and the words are this lane's until all have written.
                unsafe {
                    bits.set(at, look_up_pairs::<MANY_COPIES>(shape, $codes));
                    keys.load_if(ahead < codes_end, ahead, $codes);
                    if has_weights {
                        listed.set(at, u32::from($was_listed));
                        keys.load_listed_if(shape, ahead < listed_end, ahead, &mut $was_listed);
                    }
                }
                first += KEYS_PER_PIECE;
                at += layout::PIECE_WORDS;
                if at >= end {
                    return;
                }
            };
        }
        loop {
            look_up!(codes, was_listed);
            look_up!(&mut second_codes, second_was_listed);
        }
    }

    /// The words that the lane takes, of up to four; of more which have a member, a bit each. Takes the bits of keys that are
    /// no candidates away.
    ///
    /// # Safety
    /// Every lane has left its words.
    #[inline(always)]
    unsafe fn found(&self, keys: &Keys, share: Share) -> [u32; 4] {
        let bits = self.exchange().bits;
        let first_word = share.first_word_taken();
        let pieces = share.pieces;
        let first = share.first_taken();
        let (start, end) = keys.candidates;
        // SAFETY: the words are this lane's.
        unsafe {
            if first < start || first + KEYS_PER_THREAD * pieces > end {
                let mut word = 0;
                while word < pieces {
                    let candidates = keys.candidates_twice(first + KEYS_PER_THREAD * word);
                    let at = place_of(first_word + word);
                    bits.set(at, bits.get(at) & candidates);
                    word += 1;
                }
            }
            let get = |word: u32| bits.get(place_of(first_word + word));
            if pieces <= 4 {
                let get = |word: u32| if word < pieces { get(word) } else { 0 };
                return [get(0), get(1), get(2), get(3)];
            }
            let mut members = 0;
            let mut word = 0;
            while word < pieces {
                members |= u32::from(get(word) != 0) << word;
                word += 1;
            }
            [members, 0, 0, 0]
        }
    }

    /// How many of the lane's keys are above the cut, and how many tie, as [`count`] has it.
    #[inline(always)]
    fn count(&self, share: Share, found: [u32; 4]) -> u32 {
        if share.pieces <= 4 {
            let [a, b, c, d] = found.map(count);
            return a + b + c + d;
        }
        let bits = self.exchange().bits;
        let mut members = found[0];
        let mut counts = 0;
        while members != 0 {
            let word = members.trailing_zeros();
            members &= members - 1;
            // SAFETY: the word is this lane's.
            counts += count(unsafe { bits.get(place_of(share.first_word_taken() + word)) });
        }
        counts
    }

    /// Writes the positions of the lane's keys, and with weights leaves which are taken.
    #[inline(always)]
    fn take(&self, share: Share, found: [u32; 4], mut before: Before) {
        let bits = self.exchange().bits;
        let has_weights = self.shape.weights_stride != 0;
        let first_word = share.first_word_taken();
        let write = self.write_position(share.first_taken());
        if share.pieces <= 4 {
            let taken = take_of_four(found, &mut before, write);
            if has_weights {
                let mut word = 0;
                while word < share.pieces {
                    let of_word = (taken >> (word * KEYS_PER_THREAD)) as u32 & 0xffff;
                    // SAFETY: the word is this lane's.
                    unsafe { bits.set(place_of(first_word + word), of_word) };
                    word += 1;
                }
            }
            return;
        }
        let mut members = found[0];
        let (mut rest, mut word, mut taken) = (0u32, 0, 0);
        // The lanes of a warp go through their keys together, whichever of the words they are in.
        while rest | members != 0 {
            if rest == 0 {
                word = members.trailing_zeros();
                members &= members - 1;
                // SAFETY: the word is this lane's.
                rest = unsafe { bits.get(place_of(first_word + word)) };
                taken = 0;
            }
            let bit = rest.trailing_zeros();
            rest &= rest - 1;
            let key = KEYS_PER_THREAD * word + bit / 2;
            let is_taken = take_one(bit, key, &mut before, &write);
            taken |= u32::from(is_taken) << (bit / 2);
            if has_weights && rest == 0 {
                // SAFETY: the word is this lane's.
                unsafe { bits.set(place_of(first_word + word), taken) };
            }
        }
    }

    /// Writes a share's weights that are not what they were.
    #[inline(always)]
    fn write_share_weights(&self, keys: &Keys, share: Share) {
        let Exchange { bits, listed } = self.exchange();
        let (shape, regions) = (self.shape, self.regions);
        let mut first = share.first_looked_up(0);
        let mut at = warp::lane_id();
        while at < layout::PIECE_WORDS * share.pieces && first < shape.code_capacity {
            let position = shape.init_offset + first;
            let is_between = position >= regions.sink_end
                && position + KEYS_PER_THREAD <= regions.window_start
                && !regions.list_all;
            // SAFETY: the keys are this lane's, all lanes have left their words, and the keys are in the capacity.
            unsafe {
                let (taken, was_listed) = (bits.get(at), listed.get(at));
                if is_between {
                    self.write_changed(keys, first, taken, was_listed);
                } else {
                    self.write_weights(keys, first, taken, was_listed);
                }
            }
            first += KEYS_PER_PIECE;
            at += layout::PIECE_WORDS;
        }
    }
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
        let key = first + bit / 2;
        taken |= u64::from(take_one(bit, key, before, &write)) << key;
    }
    taken
}
