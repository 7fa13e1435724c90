//! Which tuples are taken: a table of two bits each in shared memory, and how many of the row's
//! candidates that are come before the block.

use super::cut::{Cut, PER_THREAD, Tuples, each_tuple, figure, first_tuple, load_counts};
use super::layout::{FEW_COPIES, MANY_COPIES};
use super::{KEYS_PER_CHUNK, MAX_HEAVY, Place, layout};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{thread, warp};
use crate::kernel::Out;
use crate::tuple_counts::NUM_TUPLES;

/// The bit of a tuple above the cut.
pub(super) const ABOVE: u32 = 1;
/// The bit of a tuple with the cut's order key.
pub(super) const TIE: u32 = 2;

/// What comes before the block's keys in the list's order, and how many ties are taken in all.
#[derive(Clone, Copy)]
pub(super) struct Before {
    /// Candidates above the cut.
    pub(super) above: u32,
    /// Candidates with the cut's order key.
    pub(super) ties: u32,
    /// How many of those the list takes.
    pub(super) ties_taken: u32,
}

/// From which bit on ties are counted in a word that counts candidates above the cut too: there are fewer than
/// [`MAX_HEAVY`] of these, and of ties as many as a chunk has keys.
pub(super) const TIES_AT: u32 = 14;
const _: () = assert!(MAX_HEAVY < 1 << TIES_AT && KEYS_PER_CHUNK >> (u32::BITS - TIES_AT) == 0);

impl Before {
    /// Adds counts: of candidates above the cut, and from bit [`TIES_AT`] on of ties.
    #[inline(always)]
    pub(super) fn add(&mut self, counts: u32) {
        self.above += counts & ((1 << TIES_AT) - 1);
        self.ties += counts >> TIES_AT;
    }
}

/// The counts of the thread's tuples in the blocks before: those of another step's making, so that their
/// loads need not wait for anything of this one.
///
/// # Safety
/// Candidates start at `start`, and the block has some; the buffers are as the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn counts_before(
    place: &Place,
    start: u32,
    prefixes: Out<u32>,
) -> [u32; PER_THREAD] {
    if place.first_key() <= start {
        return [0; PER_THREAD];
    }
    let block = (place.group * place.num_blocks + place.block) as usize;
    // SAFETY: a step before wrote them, when the candidates' end came to the block.
    unsafe {
        load_counts(
            prefixes.from(block * NUM_TUPLES as usize),
            first_tuple() as usize,
        )
    }
}

/// Writes the table of members and sums up what comes before the block.
///
/// # Safety
/// Every thread of the block is here.
#[inline(always)]
pub(super) unsafe fn write(
    place: &Place,
    tuples: &Tuples,
    cut: &Cut,
    counts_before: [u32; PER_THREAD],
) -> Before {
    let members = dynamic_shared_mem::<u32>(layout::MEMBERS);
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    let (mut bits, mut above, mut ties) = (0, 0, 0);
    macro_rules! compare {
        ($is_above:expr, $is_tie:expr) => {
            each_tuple!(I, {
                let score = tuples.scores[I];
                if $is_above(score) {
                    bits |= ABOVE << (2 * I);
                    above += counts_before[I];
                }
                if $is_tie(score) {
                    bits |= TIE << (2 * I);
                    ties += counts_before[I];
                }
            })
        };
    }
    // The order of `order`: zeros of both signs tie, and NaNs do, below every number.
    if cut.score.is_nan() {
        compare!(|score: f32| !score.is_nan(), |score: f32| score.is_nan());
    } else {
        compare!(|score: f32| score > cut.score, |score: f32| score
            == cut.score);
    }
    // SAFETY: every lane is here; two neighbours make a word of sixteen tuples, and each writes a half of its
    // copies; figures are added to until the barrier.
    unsafe {
        let other = warp::warp_shuffle_xor(bits, 1);
        let is_odd = thread::thread_idx_x() % 2;
        let word = if is_odd == 0 {
            bits | other << 16
        } else {
            other | bits << 16
        };
        let pair = thread::thread_idx_x() / 2;
        if place.has_one_tile {
            members.set4(FEW_COPIES * pair + FEW_COPIES / 2 * is_odd, [word; 4]);
        } else {
            // Neighbouring pairs of threads begin at different copies, for the banks' sake.
            let half = MANY_COPIES * pair + MANY_COPIES / 2 * is_odd;
            macro_rules! copies {
                ($($k:literal)*) => {
                    $(
                        let copy = 4 * (pair + $k) % (MANY_COPIES / 2);
                        members.set4(half + copy, [word; 4]);
                    )*
                };
            }
            copies!(0 1 2 3);
        }
        let (above, ties) = (warp::reduce_add(above), warp::reduce_add(ties));
        if warp::lane_id() == 0 && above | ties != 0 {
            figures.atomic_add(figure::ABOVE_BEFORE, above);
            figures.atomic_add(figure::TIES_BEFORE, ties);
        }
        thread::sync_threads();
        Before {
            above: figures.get(figure::ABOVE_BEFORE),
            ties: figures.get(figure::TIES_BEFORE),
            ties_taken: cut.ties,
        }
    }
}

/// Where a lane finds tuples' bits in a table of `COPIES`.
#[derive(Clone, Copy)]
pub(super) struct Table<const COPIES: u32> {
    /// Where the lane's copy begins in shared memory.
    pub(super) address: u32,
}

impl<const COPIES: u32> Table<COPIES> {
    /// Bytes of shared memory for a tuple: a word and its copies are of sixteen.
    pub(super) const BYTES: u32 = 4 * COPIES / 16;

    /// The one that [`write`] writes.
    #[inline(always)]
    pub(super) fn new() -> Self {
        let members = dynamic_shared_mem::<u32>(layout::MEMBERS);
        Table {
            address: members.address() + 4 * (warp::lane_id() % COPIES),
        }
    }

    /// A word whose lowest two bits are the tuple's; the others are any.
    ///
    /// # Safety
    /// [`write`] is done, and the tuple is below [`NUM_TUPLES`].
    #[inline(always)]
    pub(super) unsafe fn of_tuple(self, tuple: u32) -> u32 {
        // SAFETY: the caller's.
        unsafe { bits_at(self.address + Self::BYTES * (tuple / 16 * 16), 2 * tuple) }
    }
}

/// A word whose lowest two bits are a tuple's, given where in shared memory its word is and twice the tuple; the
/// others are any.
///
/// # Safety
/// [`write`] is done, and the word is of the table.
#[inline(always)]
pub(super) unsafe fn bits_at(address: u32, twice: u32) -> u32 {
    // SAFETY: the caller's. Turned by as many bits as the tuple's are up: modulo 32, in one instruction.
    unsafe { SharedArray::<u32>::at(address).get(0) }.rotate_right(twice)
}

const _: () = assert!(PER_THREAD == 8);
