//! The cut of a row: the rank of the last candidate taken, found by the cluster together.

use super::{MAX_RANKED, THREADS, keys::Keys, layout};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{block, cluster, thread, warp};
use crate::order::rank_of_key;
use crate::top_k::{self, NUM_DIGITS};

/// What one thread tells the block or the cluster: words of `layout::FIGURES`.
mod figure {
    /// Chosen bin of a fold.
    pub(super) const BIN: u32 = 0;
    /// Candidates still to be taken in it.
    pub(super) const NEED: u32 = 1;
    /// Candidates in it.
    pub(super) const COUNT: u32 = 2;
    /// This block's candidates in the boundary bin.
    pub(super) const OWN: u32 = 3;
    /// This block's candidates above it.
    pub(super) const ABOVE: u32 = 4;
    /// Key of the last candidate taken.
    pub(super) const CUT_KEY: u32 = 5;
    /// Its position.
    pub(super) const CUT_POSITION: u32 = 6;
    /// Candidates of lower blocks taken from the boundary bin.
    pub(super) const BEFORE: u32 = 7;
    /// This block's candidates with the cut's key.
    pub(super) const TIES: u32 = 8;
    /// This block's candidates of the boundary bin above the cut's key.
    pub(super) const BEYOND: u32 = 9;
}

/// Which candidates are taken.
pub(super) struct Cut {
    /// All with a larger key are.
    key: u32,
    /// Those with an equal key are that have a position below this.
    end: u32,
    /// How many lower blocks of the cluster have.
    pub(super) before: u32,
}

/// Finds the cut for the `heavy_k` best candidates.
///
/// # Safety
/// Every thread of the cluster is here, and has waited since the keys were counted.
#[inline(always)]
pub(super) unsafe fn find(keys: &Keys, heavy_k: u32) -> Cut {
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    let own = dynamic_shared_mem::<u32>(layout::OWN);
    // SAFETY: all branches are the same in the whole cluster: they depend on sums over it. Figures are
    // written and read with barriers between, lists by the threads that got the slots.
    unsafe {
        fold(heavy_k, super::NUM_BINS);
        let (bin, need) = (figures.get(figure::BIN), figures.get(figure::NEED));
        let count = figures.get(figure::COUNT);

        let mut above = 0;
        if need > 0 {
            let bound = keys.range.key_bound(bin);
            for i in keys.start..keys.end {
                let key = keys.order_key(i);
                if key < bound {
                    continue;
                }
                let key_bin = keys.range.bin_of_key(key);
                above += u32::from(key_bin > bin);
                if key_bin == bin && count <= MAX_RANKED {
                    let slot = figures.atomic_fetch_add(figure::OWN, 1);
                    own.set(slot, key);
                    own.set(MAX_RANKED + slot, keys.position + i);
                }
            }
        }
        let above = warp::reduce_add(above);
        if warp::lane_id() == 0 {
            figures.atomic_add(figure::ABOVE, above);
        }
        cluster::sync();

        if need == 0 {
            // Nothing is taken.
            Cut {
                key: u32::MAX,
                end: 0,
                before: 0,
            }
        } else if count <= MAX_RANKED {
            find_ranked(need)
        } else {
            find_by_digits(keys, bin, need)
        }
    }
}

/// Folds the histogram over the cluster and chooses the bin in which the `wanted` best end.
/// The blocks' `figure::BIN`, `NEED` and `COUNT` say which, how many of it are taken, and of how many.
///
/// # Safety
/// Every thread of the cluster is here, and has waited since the last count.
#[inline(always)]
unsafe fn fold(wanted: u32, none: u32) {
    let (rank, num_blocks) = (cluster::block_rank(), cluster::num_blocks());
    let bins = dynamic_shared_mem::<u32>(layout::BINS);
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    // Thread 0 has the highest bins: the candidates taken first come first in the sum.
    let first = super::NUM_BINS - 4 * (thread::thread_idx_x() + 1);
    // SAFETY: 512 threads x 4 bins; no block changes its histogram before the next cluster barrier.
    unsafe {
        // Four names rather than an array: an array that a loop indexes has an address, in local memory.
        let [mut c0, mut c1, mut c2, mut c3] = bins.get4(first);
        let mut step = 1;
        while step < num_blocks {
            // Every block begins with another neighbour.
            let other = rank + step;
            let other = if other < num_blocks {
                other
            } else {
                other - num_blocks
            };
            let [o0, o1, o2, o3] = cluster::remote(bins, other).get4(first);
            (c0, c1, c2, c3) = (c0 + o0, c1 + o1, c2 + o2, c3 + o3);
            step += 1;
        }
        if thread::thread_idx_x() == 0 {
            figures.set(figure::BIN, none);
            figures.set(figure::NEED, 0);
            figures.set(figure::COUNT, 0);
        }
        let sum = c0 + c1 + c2 + c3;
        let (through, _) = block::inclusive_sum(sum, dynamic_shared_mem(layout::SUMS));
        let before = through - sum;
        // The sums ascend, so this holds for one thread at most.
        if before < wanted && wanted <= through {
            let (mut bin, mut count, mut taken) = (first + 3, c3, before);
            if wanted > taken + count {
                (bin, count, taken) = (first + 2, c2, taken + c3);
            }
            if wanted > taken + count {
                (bin, count, taken) = (first + 1, c1, taken + c2);
            }
            if wanted > taken + count {
                (bin, count, taken) = (first, c0, taken + c1);
            }
            figures.set(figure::BIN, bin);
            figures.set(figure::NEED, wanted - taken);
            figures.set(figure::COUNT, count);
        }
        thread::sync_threads();
    }
}

/// The cut in a boundary bin of at most [`MAX_RANKED`] candidates: every block ranks all of them, one
/// thread each.
///
/// # Safety
/// Every thread of the cluster is here, and has waited since the lists were written.
#[inline(always)]
unsafe fn find_ranked(need: u32) -> Cut {
    let (rank, num_blocks) = (cluster::block_rank(), cluster::num_blocks());
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    let own = dynamic_shared_mem::<u32>(layout::OWN);
    let all = dynamic_shared_mem::<u32>(layout::ALL);
    let t = thread::thread_idx_x();
    // SAFETY: lists stay as they are until the cluster's last barrier; a thread has its own slot.
    unsafe {
        let mut total = 0;
        let mut in_lower_block = false;
        let (mut key, mut position) = (0, 0);
        let mut other = 0;
        while other < num_blocks {
            let len = cluster::remote(figures, other).get(figure::OWN);
            if t >= total && t < total + len {
                let list = cluster::remote(own, other);
                key = list.get(t - total);
                position = list.get(MAX_RANKED + t - total);
                in_lower_block = other < rank;
            }
            total += len;
            other += 1;
        }
        if t < total {
            all.set(t, key);
            all.set(MAX_RANKED + t, position);
        }
        thread::sync_threads();

        let mine = rank_of_key(key, position);
        let mut better = 0;
        if t < total {
            let mut i = 0;
            while i < total {
                let other = rank_of_key(all.get(i), all.get(MAX_RANKED + i));
                better += u32::from(other > mine);
                i += 1;
            }
            if better + 1 == need {
                figures.set(figure::CUT_KEY, key);
                figures.set(figure::CUT_POSITION, position);
            }
        }
        let lower = warp::reduce_add(u32::from(t < total && better < need && in_lower_block));
        if warp::lane_id() == 0 {
            figures.atomic_add(figure::BEFORE, lower);
        }
        thread::sync_threads();
        Cut {
            key: figures.get(figure::CUT_KEY),
            end: figures.get(figure::CUT_POSITION) + 1,
            before: in_lower_blocks(figure::ABOVE) + figures.get(figure::BEFORE),
        }
    }
}

/// The cut in a boundary bin of any size: radix digits of the order key, then ties by position.
///
/// # Safety
/// Every thread of the cluster is here, and nobody reads histograms any more.
#[inline(always)]
unsafe fn find_by_digits(keys: &Keys, bin: u32, need: u32) -> Cut {
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    let bins = dynamic_shared_mem::<u32>(layout::BINS);
    let sums: SharedArray<u32> = dynamic_shared_mem(layout::SUMS);
    let mut cut = top_k::Cut { key: 0, ties: need };
    let mut digit = 0;
    // SAFETY: every round is the same in the whole cluster; histograms are cleared, counted and folded
    // with barriers between.
    unsafe {
        while digit < thread::opaque(NUM_DIGITS) {
            bins.set4(4 * thread::thread_idx_x(), [0; 4]);
            thread::sync_threads();
            for i in keys.start..keys.end {
                let key = keys.order_key(i);
                let value = (key >> top_k::digit_shift(digit)) & (top_k::digit_bins(digit) - 1);
                let counts = cut.agrees_before(digit, key) & (keys.range.bin_of_key(key) == bin);
                bins.atomic_add(value, u32::from(counts));
            }
            cluster::sync();
            fold(cut.ties, 0);
            cut.key |= figures.get(figure::BIN) << top_k::digit_shift(digit);
            cut.ties = figures.get(figure::NEED);
            // Nobody clears a histogram that another still reads.
            cluster::sync();
            digit += 1;
        }

        let (mut ties, mut beyond) = (0, 0);
        for i in keys.start..keys.end {
            let key = keys.order_key(i);
            ties += u32::from(key == cut.key);
            beyond += u32::from(key > cut.key && keys.range.bin_of_key(key) == bin);
        }
        let (block_ties, block_beyond) = (warp::reduce_add(ties), warp::reduce_add(beyond));
        if warp::lane_id() == 0 {
            figures.atomic_add(figure::TIES, block_ties);
            figures.atomic_add(figure::BEYOND, block_beyond);
        }
        cluster::sync();
        let ties_before = in_lower_blocks(figure::TIES);

        // Where the last tie taken is here, one thread says its position; else all ties or none are.
        let (through, block_ties) = block::inclusive_sum(ties, sums);
        let mut tie = ties_before + through - ties;
        for i in keys.start..keys.end {
            if keys.order_key(i) == cut.key {
                tie += 1;
                if tie == cut.ties {
                    figures.set(figure::CUT_POSITION, keys.position + i);
                }
            }
        }
        thread::sync_threads();
        let end = if ties_before >= cut.ties {
            0
        } else if ties_before + block_ties < cut.ties {
            u32::MAX
        } else {
            figures.get(figure::CUT_POSITION) + 1
        };
        Cut {
            key: cut.key,
            end,
            before: in_lower_blocks(figure::ABOVE)
                + in_lower_blocks(figure::BEYOND)
                + ties_before.min(cut.ties),
        }
    }
}

/// The sum of figure `which` over the blocks before this one.
///
/// # Safety
/// All blocks' figures are written, a cluster barrier ago, and stay until the next.
#[inline(always)]
unsafe fn in_lower_blocks(which: u32) -> u32 {
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    let mut sum = 0;
    let mut other = 0;
    while other < cluster::block_rank() {
        // SAFETY: the caller's.
        sum += unsafe { cluster::remote(figures, other).get(which) };
        other += 1;
    }
    sum
}

impl Cut {
    /// Whether the cut takes candidate `i` of a thread.
    ///
    /// # Safety
    /// As [`Keys::order_key`].
    #[inline(always)]
    pub(super) unsafe fn takes(&self, keys: &Keys, i: u32) -> bool {
        // SAFETY: the caller's.
        let key = unsafe { keys.order_key(i) };
        key > self.key || (key == self.key && keys.position + i < self.end)
    }
}

// One vector of the histogram for each thread, one thread for each ranked entry.
const _: () = assert!(THREADS * 4 == super::NUM_BINS && MAX_RANKED <= THREADS);
