//! Which tuples are taken: a table of two bits each in shared memory, and how many of the row's
//! candidates that are come before the block.

use super::cut::{Cut, PER_THREAD, Tuples, each_tuple, figure};
use super::{Place, layout};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{thread, warp};
use crate::kernel::Out;
use crate::step::StepShape;
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

/// Writes the table of members and sums up what comes before the block.
///
/// # Safety
/// Every thread of the block is here; candidates start at `start`, before the block's last key; the buffers
/// are as the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn write(
    shape: &StepShape,
    place: &Place,
    tuples: &Tuples,
    cut: &Cut,
    start: u32,
    prefixes: Out<u32>,
) -> Before {
    let members = dynamic_shared_mem::<u32>(layout::MEMBERS);
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    let mut counts_before = [0; PER_THREAD];
    if place.first_key() > start {
        let block = shape.group_of_row(place.row) * place.num_blocks + place.block;
        let at = block as usize * NUM_TUPLES as usize + tuples.first as usize;
        // SAFETY: a step before wrote them, when the candidates' end came to the block.
        let ([a, b, c, d], [e, f, g, h]) = unsafe { (prefixes.get4(at), prefixes.get4(at + 4)) };
        counts_before = [a, b, c, d, e, f, g, h];
    }
    let (mut bits, mut above, mut ties) = (0, 0, 0);
    each_tuple!(I, {
        let key = tuples.order_key(I);
        if key > cut.key {
            bits |= ABOVE << (2 * I);
            above += counts_before[I];
        } else if key == cut.key {
            bits |= TIE << (2 * I);
            ties += counts_before[I];
        }
    });
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
        let mut copy = 4 * is_odd;
        while copy < layout::MEMBER_COPIES {
            members.set4(tuples.first / 16 * layout::MEMBER_COPIES + copy, [word; 4]);
            copy += 8;
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

/// The two bits of a tuple.
///
/// # Safety
/// [`write`] is done, and the tuple is below [`NUM_TUPLES`].
#[inline(always)]
pub(super) unsafe fn of_tuple(tuple: u32) -> u32 {
    let members = dynamic_shared_mem::<u32>(layout::MEMBERS);
    let copy = warp::lane_id() % layout::MEMBER_COPIES;
    // SAFETY: the caller's.
    let word = unsafe { members.get((tuple / 16) * layout::MEMBER_COPIES + copy) };
    word >> (tuple % 16 * 2) & (ABOVE | TIE)
}

const _: () = assert!(layout::MEMBER_COPIES % 8 == 0);
