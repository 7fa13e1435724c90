//! Which tuples are taken: a table of two bits each in shared memory, and how many of the row's
//! candidates that are come before the block.

use super::cut::{Cut, PER_THREAD, Tuples, each_tuple, figure, first_tuple, load_counts};
use super::{Place, layout};
use crate::device::shared::dynamic_shared_mem;
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
pub(super) unsafe fn write(tuples: &Tuples, cut: &Cut, counts_before: [u32; PER_THREAD]) -> Before {
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
        members.set4(4 * thread::thread_idx_x(), [word; 4]);
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

/// A word whose lowest two bits are the tuple's, given twice the tuple; the others are any. What `twice`
/// has in its upper half does not matter.
///
/// # Safety
/// [`write`] is done, and the tuple is below [`NUM_TUPLES`].
#[inline(always)]
pub(super) unsafe fn of_tuple(twice: u32) -> u32 {
    const OFFSETS: u32 = 2 * NUM_TUPLES - 1 & !31;
    let members = dynamic_shared_mem::<u32>(layout::MEMBERS);
    // A word has sixteen tuples, and eight copies of it are 32 bytes.
    let at = (twice & OFFSETS) | (warp::lane_id() % layout::MEMBER_COPIES * 4);
    // SAFETY: the caller's. Turned by as many bits as the tuple's are up: modulo 32, in one instruction.
    unsafe { members.get_at(at) }.rotate_right(twice)
}

const _: () = assert!(layout::MEMBER_COPIES == 8 && PER_THREAD == 8);
