//! The keys of a block: which of them a warp has, their codes, and what the table of members says of them.

use super::members::{self, Table};
use super::{KEYS_PER_PIECE, KEYS_PER_THREAD, KEYS_PER_TILE, Place};
use crate::device::{bytes, thread, warp};
use crate::kernel::{In, Out};
use crate::step::{Regions, StepShape};
use crate::tuple_counts::tuple;

/// Codes of sixteen keys, two a key.
pub(super) type Codes = [[u32; 4]; 2];

/// A warp's part of the keys that a block looks up between two barriers: pieces of [`KEYS_PER_PIECE`] keys, side by side.
///
/// Lane `i` looks up sixteen keys of each piece, the `i`-th, so that a warp's loads are of whole lines. Then it
/// takes the `i`-th of 32 equal parts of all pieces: a list's places are worked out once for all.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// The first key.
    first: u32,
    pub(super) pieces: u32,
}

impl Share {
    /// Of the keys from `first` on of a block whose keys end at `end`: of at most `chunk_tiles` tiles.
    #[inline(always)]
    pub(super) fn new(first: u32, end: u32, chunk_tiles: u32) -> Self {
        let last = end.saturating_sub(first).saturating_sub(1);
        let pieces = (last / KEYS_PER_TILE + 1).min(chunk_tiles);
        // Worked out at each use, as a register less is kept.
        let warp = thread::opaque(thread::thread_idx_x()) / 32;
        Share {
            first: first + warp * KEYS_PER_PIECE * pieces,
            pieces,
        }
    }

    /// Behind the last key.
    #[inline(always)]
    pub(super) fn end(&self) -> u32 {
        self.first + KEYS_PER_PIECE * self.pieces
    }

    /// The first of the sixteen keys that the lane looks up in piece `piece`.
    #[inline(always)]
    pub(super) fn first_looked_up(&self, piece: u32) -> u32 {
        self.first + piece * KEYS_PER_PIECE + warp::lane_id() * KEYS_PER_THREAD
    }

    /// The first of the keys that the lane takes.
    #[inline(always)]
    pub(super) fn first_taken(&self) -> u32 {
        self.first + KEYS_PER_THREAD * self.first_word_taken()
    }

    /// The first of the words of sixteen keys that the lane takes, counted from the share's; there are as many as pieces.
    #[inline(always)]
    pub(super) fn first_word_taken(&self) -> u32 {
        warp::lane_id() * self.pieces
    }
}

/// The keys of a block.
pub(super) struct Keys {
    /// The group's codes.
    codes: In<u8>,
    /// All rows'.
    listed: Out<u16>,
    row: u32,
    /// Where candidates start and end; both 0 where there are none, as regions may then lie behind the context, and the new
    /// key's codes before them.
    pub(super) candidates: (u32, u32),
    /// Behind the block's last key that is in the context.
    pub(super) end: u32,
    /// What the warp looks up first.
    pub(super) share: Share,
    /// Its first piece's codes, where they are loaded early.
    pub(super) first_codes: Codes,
}

impl Keys {
    /// The block's; what the thread looks up first is being loaded.
    ///
    /// # Safety
    /// The buffers are as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn new(
        shape: &StepShape,
        regions: &Regions,
        place: &Place,
        candidates: (u32, u32),
        codes: In<u8>,
        listed: Out<u16>,
    ) -> Self {
        let group_len = shape.code_capacity as usize * shape.num_subvectors as usize;
        let end = place.first_key() + (1 << place.keys_log2);
        let end = end.min(regions.seq_len.saturating_sub(shape.init_offset));
        let (start, candidates_end) = candidates;
        let candidates = if start < candidates_end {
            candidates
        } else {
            (0, 0)
        };
        let mut keys = Keys {
            codes: codes.from(place.group as usize * group_len),
            listed,
            row: place.row,
            candidates,
            end,
            share: Share::new(place.first_key(), end, place.chunk_tiles),
            first_codes: [[0; 4]; 2],
        };
        let mut codes = [[0; 4]; 2];
        let first = keys.share.first_looked_up(0);
        // SAFETY: the caller's.
        unsafe {
            keys.load_if(
                is_loaded_early(shape) && first < candidates.1,
                first,
                &mut codes,
            )
        };
        keys.first_codes = codes;
        keys
    }

    /// Loads the codes of the sixteen keys from `first` on into `to`, if `condition` holds.
    ///
    /// # Safety
    /// As [`Keys::new`]; if `condition` holds, [`is_loaded_early`], and the first of the keys is before the last candidate.
    #[inline(always)]
    pub(super) unsafe fn load_if(&self, condition: bool, first: u32, to: &mut Codes) {
        // SAFETY: the capacity is a multiple of sixteen keys, so vectors are aligned and inside it.
        unsafe { self.codes.get32_if(condition, 2 * first as usize, to) };
    }

    /// [`Keys::listed`], into `to`, if `condition` holds.
    ///
    /// # Safety
    /// As there; if `condition` holds, there are weights, and the keys are among the capacity.
    #[inline(always)]
    pub(super) unsafe fn load_listed_if(
        &self,
        shape: &StepShape,
        condition: bool,
        first: u32,
        to: &mut u16,
    ) {
        // SAFETY: a word for each sixteen keys of the capacity.
        unsafe {
            self.listed
                .get_if(condition, self.listed_at(shape, first), to)
        };
    }

    /// Which of the sixteen keys from `first` on had a weight after the last step, a bit each.
    ///
    /// # Safety
    /// As [`Keys::new`]; the keys are this thread's.
    #[inline(always)]
    pub(super) unsafe fn listed(&self, shape: &StepShape, first: u32) -> u32 {
        if shape.weights_stride == 0 || first >= shape.code_capacity {
            return 0;
        }
        // SAFETY: a word for each sixteen keys of the capacity.
        u32::from(unsafe { self.listed.get(self.listed_at(shape, first)) })
    }

    /// Leaves for the next step which of the sixteen keys from `first` on have a weight.
    ///
    /// # Safety
    /// As [`Keys::new`]; the keys are this thread's, and among the capacity.
    #[inline(always)]
    pub(super) unsafe fn set_listed(&self, shape: &StepShape, first: u32, listed: u32) {
        // SAFETY: as in `listed`.
        unsafe { self.listed.set(self.listed_at(shape, first), listed as u16) };
    }

    /// Where the word of the sixteen keys from `first` on is.
    #[inline(always)]
    fn listed_at(&self, shape: &StepShape, first: u32) -> usize {
        // Worked out at each use: a place that is kept all the while costs registers.
        let row = thread::opaque(self.row) as usize;
        row * (shape.code_capacity / KEYS_PER_THREAD) as usize + (first / KEYS_PER_THREAD) as usize
    }

    /// The members' bits of the candidates among the sixteen keys from `first` on, whose codes are `loaded`.
    ///
    /// # Safety
    /// The table of members is written, in `COPIES`.
    #[inline(always)]
    pub(super) unsafe fn look_up<const COPIES: u32>(
        &self,
        shape: &StepShape,
        first: u32,
        loaded: &Codes,
    ) -> u32 {
        let (start, end) = self.candidates;
        let behind = first + KEYS_PER_THREAD;
        if first >= end || behind <= start {
            return 0;
        }
        if !is_loaded_early(shape) {
            // SAFETY: the caller's.
            return unsafe { self.look_up_each::<COPIES>(shape, first) };
        }
        // SAFETY: the caller's.
        let bits = unsafe { look_up_pairs::<COPIES>(shape, loaded) };
        if first >= start && behind <= end {
            return bits;
        }
        bits & self.candidates_twice(first)
    }

    /// Two bits for each of the sixteen keys from `first` on that is a candidate.
    #[inline(always)]
    pub(super) fn candidates_twice(&self, first: u32) -> u32 {
        let (start, end) = self.candidates;
        below_twice(end, first) & !below_twice(start, first)
    }

    /// [`Keys::look_up`] key by key and code by code.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(super) unsafe fn look_up_each<const COPIES: u32>(
        &self,
        shape: &StepShape,
        first: u32,
    ) -> u32 {
        let table = Table::<COPIES>::new();
        let m = shape.num_subvectors;
        let (start, end) = self.candidates;
        let mut bits = 0;
        let mut key = first.max(start);
        while key < end.min(first + KEYS_PER_THREAD) {
            let at = (key * m) as usize;
            // SAFETY: a candidate's codes are written and below 2^bits.
            let member = unsafe {
                let tuple = tuple(m, shape.bits, |j| {
                    u32::from(self.codes.get(at + j as usize))
                });
                table.of_tuple(tuple)
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
pub(super) fn is_loaded_early(shape: &StepShape) -> bool {
    shape.num_subvectors == 2 && shape.window >= KEYS_PER_THREAD
}

/// The members' bits of sixteen keys of two codes each; those of keys that are no candidates are any.
///
/// # Safety
/// The table of members is written, in `COPIES`.
#[inline(always)]
pub(super) unsafe fn look_up_pairs<const COPIES: u32>(shape: &StepShape, loaded: &Codes) -> u32 {
    let table = Table::<COPIES>::new();
    // What a code adds to its tuple, by sub-vector, and so to where the tuple's word and bits are.
    let tuple = 1 | 1 << (16 + shape.bits);
    // A word has sixteen tuples, which the first code's lowest four bits tell apart, or its three and the
    // second's lowest. What is no code of the format, behind the candidates, must not lead out of the table.
    let code = (1 << shape.bits) - 1;
    let of_word = if shape.bits < 4 {
        (code & !1) << 8
    } else {
        code << 8 | code & 0xf0
    };
    let of_words = of_word << 16 | of_word;
    let mut bits = 0u32;
    macro_rules! word {
        ($($word:literal)*) => {
            $({
                let codes = loaded[$word / 4][$word % 4];
                let words = codes & of_words;
                // SAFETY: with codes below 2^bits, which `of_words` sees to, the words are of the table.
                unsafe {
                    let at = bytes::dot2_low(Table::<COPIES>::BYTES * tuple, words, table.address);
                    let turn = bytes::dot2_low(2 * tuple, codes, 0);
                    bits = bits >> 2 | members::bits_at(at, turn) << 30;
                    let at = bytes::dot2_high(Table::<COPIES>::BYTES * tuple, words, table.address);
                    let turn = bytes::dot2_high(2 * tuple, codes, 0);
                    bits = bits >> 2 | members::bits_at(at, turn) << 30;
                }
            })*
        };
    }
    word!(0 1 2 3 4 5 6 7);
    bits
}

/// Two bits for each of sixteen numbers from `first` on that is below `bound`.
#[inline(always)]
fn below_twice(bound: u32, first: u32) -> u32 {
    let bits = 2 * bound.saturating_sub(first).min(KEYS_PER_THREAD);
    ((1u64 << bits) - 1) as u32
}
