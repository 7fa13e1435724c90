//! The row's doubtful keys: each block scores its own, and all find the best of all blocks'.

use super::{NUM_BINS, at, figure, shared};
use crate::device::cluster::{self, remote};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{block, float, thread, warp};
use crate::order::{rank_of_key, rank_position, score_of_key};
use crate::select::filter::{self, counts};
use crate::select::scan::Scan;
use crate::select::survivors::figures;
use crate::select::{Plan, THREADS, layout};

/// A linear map of scores to bins, the best first.
pub(super) struct ScoreBins {
    pub(super) lowest: f32,
    pub(super) bins_per_unit: f32,
}

impl ScoreBins {
    /// The bin of a key of that rank: not increasing in the score, whatever rounding does.
    #[inline(always)]
    fn bin(&self, rank: u64) -> u32 {
        let bin = (score_of_key((rank >> 32) as u32) - self.lowest) * self.bins_per_unit;
        NUM_BINS - 1 - float::to_u32(bin).min(NUM_BINS - 1)
    }
}

/// Scores the share's doubtful keys, and hands their ranks to all blocks of the row, with how many they are and how many
/// are surely taken.
///
/// # Safety
/// As [`run`](super::run), behind [`divide`](super::divide) and a barrier; one of the cluster follows.
#[inline(always)]
pub(super) unsafe fn score(scan: &Scan, plan: &Plan) {
    let own = cluster::block_rank();
    let t = thread::thread_idx_x();
    // SAFETY: the caller's; each thread has its own entry of each block's ranks.
    unsafe {
        let count = figures().get(figure::DOUBTFUL);
        if t < plan.num_blocks {
            let told = remote(shared(plan, at::told(plan.num_blocks)), t);
            told.set(at::DOUBTFUL + own, count);
            told.set(at::SURE + own, figures().get(figure::SURE));
        }
        let most = at::max_doubtful(plan.num_blocks);
        let mut i = t;
        while i < count.min(most) {
            thread::no_unroll();
            let key = shared(plan, at::places(plan.num_blocks)).get(i);
            let order_key = match scan.keys_per_vector {
                2 => filter::score_key::<8>(scan, key),
                _ => filter::score_key::<16>(scan, key),
            };
            let rank = rank_of_key(order_key, key);
            let ranks = shared(plan, at::RANKS);
            let mut block = 0;
            while block < plan.num_blocks {
                thread::no_unroll();
                remote(ranks, block).set_u64(own * most + i, rank);
                block += 1;
            }
            i += THREADS;
        }
    }
}

/// Calls `each` with the block and the rank of this thread's share of the row's doubtful keys, of which no block has more
/// than `most`.
///
/// # Safety
/// As [`cut`].
#[inline(always)]
unsafe fn for_each(plan: &Plan, most: u32, mut each: impl FnMut(u32, u64)) {
    let told = shared(plan, at::told(plan.num_blocks));
    let ranks = shared(plan, at::RANKS);
    let mut i = thread::thread_idx_x();
    // SAFETY: the caller's.
    unsafe {
        // Nearly always once.
        while i < most {
            thread::no_unroll();
            let mut block = 0;
            while block < plan.num_blocks {
                thread::no_unroll();
                if i < told.get(at::DOUBTFUL + block) {
                    let first = block * at::max_doubtful(plan.num_blocks);
                    each(block, ranks.get_u64(first + i));
                }
                block += 1;
            }
            i += THREADS;
        }
    }
}

/// Doubtful keys of the block that has most.
///
/// # Safety
/// As [`cut`].
#[inline(always)]
pub(super) unsafe fn most_of_a_block(plan: &Plan) -> u32 {
    let told = shared(plan, at::told(plan.num_blocks));
    let (mut most, mut block) = (0, 0);
    while block < plan.num_blocks {
        thread::no_unroll();
        // SAFETY: the caller's.
        most = most.max(unsafe { told.get(at::DOUBTFUL + block) });
        block += 1;
    }
    most
}

/// The rank of the last doubtful key among the row's `wanted` best, of which no block has more than `most`, or `None` for
/// all blocks of the row where too many are in the cut's bin.
///
/// # Safety
/// As [`run`](super::run), behind [`score`] and a barrier of the cluster.
#[inline(always)]
pub(super) unsafe fn cut(
    plan: &Plan,
    wanted: u32,
    most: u32,
    score_bins: &ScoreBins,
) -> Option<u64> {
    let t = thread::thread_idx_x();
    let told = shared(plan, at::told(plan.num_blocks));
    let bins = shared(plan, at::bins(plan.num_blocks));
    // SAFETY: the caller's. All choices are the same in all threads; barriers stand between adding and reading.
    unsafe {
        let mut need = wanted;
        let mut block = 0;
        while block < plan.num_blocks {
            thread::no_unroll();
            need -= told.get(at::SURE + block);
            block += 1;
        }
        for_each(plan, most, |_, rank| {
            bins.atomic_add(score_bins.bin(rank), 1)
        });
        thread::sync_threads();
        let inside = bins.get(t);
        let (through, _) = block::inclusive_sum_once(inside, dynamic_shared_mem(layout::SUMS));
        if through - inside < need && need <= through {
            figures().set(figure::BIN, t);
            figures().set(figure::ABOVE, through - inside);
            figures().set(figure::INSIDE, inside);
        }
        thread::sync_threads();
        let (bin, inside) = (figures().get(figure::BIN), figures().get(figure::INSIDE));
        if inside > THREADS {
            return None;
        }
        need -= figures().get(figure::ABOVE);
        // The counts have served.
        let in_bin = counts();
        for_each(plan, most, |_, rank| {
            if score_bins.bin(rank) == bin {
                let slot = figures().atomic_fetch_add(figure::IN_BIN, 1);
                in_bin.set_u64(slot, rank);
            }
        });
        thread::sync_threads();
        if t < inside {
            let mine = in_bin.get_u64(t);
            let mut better = 0;
            let mut i = 0;
            while i < inside {
                thread::no_unroll();
                better += u32::from(in_bin.get_u64(i) > mine);
                i += 1;
            }
            if better + 1 == need {
                figures().set_u64(figure::CUT_HALF, mine);
            }
        }
        thread::sync_threads();
        Some(figures().get_u64(figure::CUT_HALF))
    }
}

/// Takes the doubtful keys of the share up to rank `cut`. Returns the sure keys of the blocks before; `BEFORE` becomes the
/// number of doubtful keys that they take.
///
/// # Safety
/// As [`run`](super::run), behind [`cut`]; a barrier follows.
#[inline(always)]
pub(super) unsafe fn take(scan: &Scan, plan: &Plan, most: u32, cut: u64) -> u32 {
    let own = cluster::block_rank();
    let told = shared(plan, at::told(plan.num_blocks));
    let bitmap = shared(plan, at::bitmap(plan.num_blocks));
    let mut taken_before = 0;
    // SAFETY: the caller's.
    unsafe {
        for_each(plan, most, |block, rank| {
            if rank >= cut {
                if block == own {
                    let bit = rank_position(rank) - scan.first_key;
                    bitmap.atomic_or(bit / 32, 1 << (bit % 32));
                } else if block < own {
                    taken_before += 1;
                }
            }
        });
        let taken_before = warp::reduce_add(taken_before);
        if warp::lane_id() == 0 && taken_before != 0 {
            figures().atomic_add(figure::BEFORE, taken_before);
        }
        let mut sure_before = 0;
        let mut block = 0;
        while block < own {
            thread::no_unroll();
            sure_before += told.get(at::SURE + block);
            block += 1;
        }
        thread::sync_threads();
        sure_before
    }
}
