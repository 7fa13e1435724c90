//! From the blocks of a row to the one that finishes last.

use super::survivors::{Cut, Found, List, claim, figure, figures};
use super::{Place, Plan, THREADS};
use crate::device::thread;
use crate::kernel::Out;

/// Leaves the block's survivors, `exchange_capacity` at most, in global memory.
///
/// # Safety
/// Every thread of the block is here, behind a barrier since the last entry; the buffers are as the kernel's
/// documentation says.
#[inline(always)]
pub(super) unsafe fn publish(
    list: &List,
    found: &Found,
    place: &Place,
    plan: &Plan,
    exchange: Out<u64>,
    tickets: Out<u32>,
) {
    let first = exchange_at(place, plan, place.block);
    // SAFETY: the loop is the same in the whole block, and no more entries pass than there is room for; a
    // slot is claimed by one thread.
    unsafe {
        if thread::thread_idx_x() == 0 {
            figures().set(figure::PUBLISHED, 0);
            tickets.set_relaxed(place.tickets_at() + 1 + place.block as usize, found.live);
        }
        thread::sync_threads();
        let mut i = 0;
        while i < thread::opaque(found.count) {
            let at = i + thread::thread_idx_x();
            let (key, key_place) = if at < found.count {
                list.get(at)
            } else {
                (0, u32::MAX)
            };
            let keep = at < found.count && found.cut.takes(key, key_place);
            if let Some([slot]) = claim(figure::PUBLISHED, [keep])
                && keep
            {
                let entry = u64::from(key) << 32 | u64::from(key_place);
                exchange.set_relaxed(first + slot as usize, entry);
            }
            i += THREADS;
        }
        thread::sync_threads();
    }
}

/// The block's ticket: of a row's blocks the last gets `num_blocks - 1`, and sees what the others left.
///
/// # Safety
/// As [`publish`], which is done.
#[inline(always)]
pub(super) unsafe fn take_ticket(place: &Place, tickets: Out<u32>) -> u32 {
    // SAFETY: the figure is written by one thread, with barriers before and behind.
    unsafe {
        if thread::thread_idx_x() == 0 {
            let ticket = tickets.take_ticket(place.tickets_at());
            figures().set(figure::TICKET, ticket);
            figures().set(figure::COUNT, 0);
        }
        thread::sync_threads();
        figures().get(figure::TICKET)
    }
}

/// Lists what all blocks of the row have left.
///
/// # Safety
/// Every thread of the block is here, which has the row's last ticket.
#[inline(always)]
pub(super) unsafe fn gather(
    list: &List,
    place: &Place,
    plan: &Plan,
    exchange: Out<u64>,
    tickets: Out<u32>,
) -> Found {
    /// Entries of a thread that are loaded at once.
    const AT_ONCE: usize = 4;

    let room = plan.num_blocks * plan.exchange_capacity;
    let first = exchange_at(place, plan, 0);
    let mut i = thread::thread_idx_x();
    // SAFETY: the loop is the same in the whole warp. Entries are read whether or not they are among those
    // that a block has left, whose number is loaded at the same time.
    unsafe {
        while i - thread::thread_idx_x() < thread::opaque(room) {
            let at = |k: usize| i + k as u32 * THREADS;
            let loaded: [(u64, u32); AT_ONCE] = core::array::from_fn(|k| {
                let at = at(k).min(room - 1);
                let block = (at / plan.exchange_capacity) as usize;
                (
                    exchange.get_relaxed(first + at as usize),
                    tickets.get_relaxed(place.tickets_at() + 1 + block),
                )
            });
            let keep: [bool; AT_ONCE] = core::array::from_fn(|k| {
                at(k) < room && at(k) % plan.exchange_capacity < loaded[k].1
            });
            if let Some(slots) = claim(figure::COUNT, keep) {
                for k in 0..AT_ONCE {
                    if keep[k] {
                        let entry = loaded[k].0;
                        list.set(slots[k], (entry >> 32) as u32, entry as u32);
                    }
                }
            }
            i += AT_ONCE as u32 * THREADS;
        }
        thread::sync_threads();
        let count = figures().get(figure::COUNT);
        Found {
            count,
            live: count,
            cut: Cut::ALL,
        }
    }
}

/// The first entry that a block of the row may leave.
#[inline(always)]
fn exchange_at(place: &Place, plan: &Plan, block: u32) -> usize {
    (place.row * place.num_blocks + block) as usize * plan.exchange_capacity as usize
}
