//! Scores of the block's share of the keys, and which of them survive.

use core::ops::Range;

use super::survivors::{Bound, Cut, Found, List, claim, figure, figures};
use super::{Place, Plan, TABLE_STRIDE, THREADS, layout};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::thread;
use crate::kernel::Out;
use crate::order::order_key;
use crate::scores;
use crate::step::{Regions, StepShape};

/// Codes that are loaded at once.
const VECTOR: u32 = 16;
/// A share's first key is a multiple of this.
const ALIGNMENT: u32 = 16;
/// Keys that a block scores, at least, before it first raises the cut.
const FIRST_KEYS: u32 = 2048;

/// The row's candidates that have codes, as indices of codes.
#[inline(always)]
pub(super) fn candidates(shape: &StepShape, regions: &Regions) -> Range<u32> {
    let end = (regions.candidates_end - shape.init_offset).min(shape.code_capacity);
    (regions.candidates_start - shape.init_offset).min(end)..end
}

/// The block's share of the candidates, sixteen codes a vector; keys are indices of codes.
pub(super) struct Scan {
    codes: Out<u8>,
    /// The group's first code.
    codes_at: usize,
    num_subvectors: u32,
    /// The first key of the block's first vector.
    pub(super) first_key: u32,
    /// Candidates of the share.
    pub(super) start: u32,
    pub(super) end: u32,
    /// Sixteen codes at a time are those of this many keys; 0: codes are read one by one.
    pub(super) keys_per_vector: u32,
    pub(super) table: SharedArray<f32>,
}

impl Scan {
    #[inline(always)]
    pub(super) fn new(shape: &StepShape, regions: &Regions, place: &Place, codes: Out<u8>) -> Self {
        let m = shape.num_subvectors;
        let Range { start, end } = candidates(shape, regions);
        let all_first = start / ALIGNMENT * ALIGNMENT;
        let share = (end - all_first)
            .div_ceil(place.num_blocks)
            .next_multiple_of(ALIGNMENT);
        let first = (all_first + place.block * share).min(end);
        let share_end = (first + share).min(end);
        let keys_per_vector = if matches!(m, 2 | 4 | 8 | 16) {
            VECTOR / m
        } else {
            0
        };
        // The new key, which another block may write at this moment, is `window` behind the last candidate.
        let alone = shape.window >= keys_per_vector;
        Scan {
            codes,
            codes_at: shape.group_of_row(place.row) as usize
                * shape.code_capacity as usize
                * m as usize,
            num_subvectors: m,
            first_key: first / ALIGNMENT * ALIGNMENT,
            start: start.max(first).min(share_end),
            end: share_end,
            keys_per_vector: if alone { keys_per_vector } else { 0 },
            table: dynamic_shared_mem(layout::TABLE),
        }
    }

    /// Keeps it for [`Scan::kept`].
    ///
    /// # Safety
    /// One thread of the block calls it, behind a barrier since the last use of these words.
    #[inline(always)]
    pub(super) unsafe fn keep_for_block(&self) {
        let share = dynamic_shared_mem::<u32>(layout::SHARE);
        let words = [self.start, self.end, self.first_key, self.keys_per_vector];
        // SAFETY: the caller's.
        unsafe {
            share.set4(0, words);
            share.set_u64(2, self.codes_at as u64);
        }
    }

    /// The share that one thread has worked out for the block.
    ///
    /// # Safety
    /// Behind a barrier since [`Scan::keep_for_block`].
    #[inline(always)]
    pub(super) unsafe fn kept(shape: &StepShape, codes: Out<u8>) -> Self {
        let share = dynamic_shared_mem::<u32>(layout::SHARE);
        // SAFETY: the caller's.
        let ([start, end, first_key, keys_per_vector], codes_at) =
            unsafe { (share.get4(0), share.get_u64(2)) };
        Scan {
            codes,
            codes_at: codes_at as usize,
            num_subvectors: shape.num_subvectors,
            first_key,
            start,
            end,
            keys_per_vector,
            table: dynamic_shared_mem(layout::TABLE),
        }
    }

    /// The first sixteen codes of this thread.
    #[inline(always)]
    pub(super) fn prefetch(&self) -> [u32; 4] {
        if self.keys_per_vector == 0 || self.start == self.end {
            return [0; 4];
        }
        // SAFETY: the share has a candidate.
        unsafe { self.load(self.keys_per_vector, 0) }
    }

    /// This thread's sixteen codes of turn `turn`; behind the last candidate, the last ones.
    ///
    /// # Safety
    /// The share has a candidate; the buffer is as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn load(&self, keys_per_vector: u32, turn: u32) -> [u32; 4] {
        let key = self.first_key + (turn * THREADS + thread::thread_idx_x()) * keys_per_vector;
        let key = key.min((self.end - 1) / keys_per_vector * keys_per_vector);
        // SAFETY: the caller's.
        unsafe { self.load_at(key) }
    }

    /// The sixteen codes that begin with those of `key`.
    ///
    /// # Safety
    /// As [`Scan::load`]; the key is one of the share that begins a vector.
    #[inline(always)]
    pub(super) unsafe fn load_at(&self, key: u32) -> [u32; 4] {
        let at = self.codes_at + key as usize * self.num_subvectors as usize;
        // SAFETY: capacity is a multiple of 16 keys, so the vector is inside it and aligned; it has a
        // candidate, and not the new key.
        unsafe { self.codes.get16(at) }
    }

    /// Scores the share, and leaves in the list all keys of it that may be among the `wanted` best.
    /// `scan` makes the share anew for each stretch of turns: kept, it would cost too many registers.
    ///
    /// The list has room for the keys of a turn beside those. As many keys are scored without a look at
    /// its length as it has room for; then a histogram of it raises the cut, and if what is to come may not
    /// fit, it is compacted.
    ///
    /// # Safety
    /// Every thread of the block is here, behind a barrier since the table was built; `words` are the
    /// prefetched, and `FILTERS` is the kernel's.
    #[inline(always)]
    pub(super) unsafe fn run<const FILTERS: bool>(
        scan: impl Fn() -> Self,
        list: &List,
        plan: &Plan,
        wanted: u32,
        mut words: [u32; 4],
    ) -> Found {
        let (turn_keys, turns) = {
            let scan = scan();
            let turn_keys = THREADS * scan.keys_per_vector.max(1);
            let turns = if wanted == 0 || scan.start == scan.end {
                0
            } else {
                (scan.end - scan.first_key).div_ceil(turn_keys)
            };
            (turn_keys, turns)
        };
        let mut found = Found {
            count: 0,
            live: 0,
            cut: Cut::ALL,
        };
        let first_turns = (4 * wanted).max(FIRST_KEYS).div_ceil(turn_keys);
        let mut done = 0;
        // SAFETY: the loop is the same in the whole block: it depends on sums over it.
        unsafe {
            if thread::thread_idx_x() == 0 {
                figures().set(figure::COUNT, 0);
            }
            thread::sync_threads();
            while done < thread::opaque(turns) {
                let mut chunk = (turns - done).min((list.capacity - found.count) / turn_keys);
                if done == 0 {
                    chunk = chunk.min(first_turns);
                }
                words = scan().turns::<FILTERS>(list, done, chunk, words, found.cut.bound());
                done += chunk;
                thread::sync_threads();
                let count = figures().get(figure::COUNT);
                found.live += count - found.count;
                found.count = count;
                // Nobody adds to the list before all have read how long it is.
                thread::sync_threads();
                // A single block goes on with its list as it is.
                let most = if done < turns {
                    wanted.max((list.capacity - turn_keys) / 2)
                } else if plan.num_blocks == 1 {
                    u32::MAX
                } else {
                    plan.exchange_capacity
                };
                if found.live > wanted && (done < turns || found.live > most) {
                    found = list.tighten(&found, wanted, most);
                }
                if (turns - done) * turn_keys > list.capacity - found.count {
                    found = list.compact(&found);
                }
            }
        }
        found
    }

    /// Scores `num` turns from `first` on.
    ///
    /// # Safety
    /// As [`Scan::run`]; the list has room for all their keys.
    #[inline(always)]
    unsafe fn turns<const FILTERS: bool>(
        &self,
        list: &List,
        first: u32,
        num: u32,
        words: [u32; 4],
        bound: Bound,
    ) -> [u32; 4] {
        // SAFETY: the caller's; all threads of the block take the same arm.
        unsafe {
            if FILTERS {
                return if self.keys_per_vector == 2 {
                    self.vector_turns::<8, 2>(list, first, num, words, bound)
                } else {
                    self.vector_turns::<16, 1>(list, first, num, words, bound)
                };
            }
            match self.keys_per_vector {
                8 => self.vector_turns::<2, 2>(list, first, num, words, bound),
                4 => self.vector_turns::<4, 2>(list, first, num, words, bound),
                2 => self.vector_turns::<8, 2>(list, first, num, words, bound),
                1 => self.vector_turns::<16, 1>(list, first, num, words, bound),
                _ => {
                    self.single_turns(list, first, num, bound);
                    words
                }
            }
        }
    }

    /// [`Scan::turns`] of keys with `M` codes, up to sixteen, of which `N` are kept at once.
    ///
    /// # Safety
    /// As [`Scan::turns`].
    #[inline(always)]
    unsafe fn vector_turns<const M: usize, const N: usize>(
        &self,
        list: &List,
        first: u32,
        num: u32,
        mut words: [u32; 4],
        bound: Bound,
    ) -> [u32; 4] {
        let mut turn = first;
        while turn < thread::opaque(first + num) {
            // SAFETY: the loop is the same in the whole block; a candidate's codes are written.
            unsafe {
                let keys_per_vector = VECTOR / M as u32;
                let next = self.load(keys_per_vector, turn + 1);
                let first_key =
                    self.first_key + (turn * THREADS + thread::thread_idx_x()) * keys_per_vector;
                macro_rules! part {
                    ($first:expr) => {
                        if $first < 16 / M {
                            let scored: [f32; N] = core::array::from_fn(|i| {
                                scores::score(M, |j| {
                                    let byte = ($first + i) * M + j;
                                    let code = words[byte / 4 % 4] >> (8 * (byte % 4)) & 0xff;
                                    self.table.get(j as u32 * TABLE_STRIDE + code)
                                })
                            });
                            self.keep(list, first_key + $first as u32, scored, bound);
                        }
                    };
                }
                part!(0);
                part!(N);
                part!(2 * N);
                part!(3 * N);
                words = next;
            }
            turn += 1;
        }
        words
    }

    /// [`Scan::turns`] of keys with any number of codes, a key a thread.
    ///
    /// # Safety
    /// As [`Scan::turns`].
    #[inline(always)]
    unsafe fn single_turns(&self, list: &List, first: u32, num: u32, bound: Bound) {
        let m = self.num_subvectors as usize;
        let mut turn = first;
        while turn < thread::opaque(first + num) {
            let key = self.first_key + turn * THREADS + thread::thread_idx_x();
            // SAFETY: the loop is the same in the whole block; a candidate's codes are written.
            unsafe {
                let mut scored = 0.0;
                if key >= self.start && key < self.end {
                    let at = self.codes_at + key as usize * m;
                    if m % VECTOR as usize == 0 {
                        scored = self.long_score(at, m);
                    } else {
                        scored = scores::score(m, |j| {
                            let code = u32::from(self.codes.get(at + j));
                            self.table.get(j as u32 * TABLE_STRIDE + code)
                        });
                    }
                }
                self.keep(list, key, [scored], bound);
            }
            turn += 1;
        }
    }

    /// The score of a key whose codes are several vectors, the first at byte `at`.
    ///
    /// # Safety
    /// The key is a candidate.
    #[inline(always)]
    unsafe fn long_score(&self, at: usize, m: usize) -> f32 {
        // Negative zero changes no sum.
        let mut sum = -0.0;
        let mut vector = 0;
        while vector < m / VECTOR as usize {
            // SAFETY: the key's codes begin at a multiple of their number, which is one of 16.
            let words = unsafe { self.codes.get16(at + vector * VECTOR as usize) };
            let first = (vector as u32 * VECTOR) * TABLE_STRIDE;
            for byte in 0..VECTOR as usize {
                let code = words[byte / 4] >> (8 * (byte % 4)) & 0xff;
                // SAFETY: a candidate's codes are the table's.
                sum += unsafe { self.table.get(first + byte as u32 * TABLE_STRIDE + code) };
            }
            vector += 1;
        }
        sum
    }

    /// Lists those of a thread's `N` neighbouring keys that are candidates and pass.
    ///
    /// # Safety
    /// All lanes of the warp are here; the list has room.
    #[inline(always)]
    unsafe fn keep<const N: usize>(
        &self,
        list: &List,
        first_key: u32,
        scored: [f32; N],
        bound: Bound,
    ) {
        let (start, len) = (self.start, self.end - self.start);
        let keep: [bool; N] = core::array::from_fn(|i| {
            let is_candidate = (first_key + i as u32).wrapping_sub(start) < len;
            is_candidate & bound.takes(scored[i])
        });
        // SAFETY: the caller's.
        if let Some(slots) = unsafe { claim(figure::COUNT, keep) } {
            for i in 0..N {
                if keep[i] {
                    // SAFETY: the slot is this key's.
                    unsafe { list.set(slots[i], order_key(scored[i]), first_key + i as u32) };
                }
            }
        }
    }
}
