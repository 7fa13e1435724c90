//! A row whose blocks are a cluster: each learns the row's cut, and writes its own part of the list.
//!
//! ```text
//! table      each block builds its sub-vectors' entries, hands them to the others, and       lut, codes
//!            finds the new key's codes from the same centroids
//! deficits   of the share's keys, counted (see `filter`), and kept in 8 bits; each block     scores
//!            adds up the counts of all
//! doubtful   with T the heavy_k-th smallest deficit of the row: a key is taken whose
//!            deficit is below T - m, and one above T + m is not; those between are scored
//!            exactly, and handed to all blocks
//! cut        each block finds the best of the row's doubtful keys                            top_k
//! output     a bit for each key taken, and the bits in order, from where the blocks before   index_list, weights
//!            end
//! ```
//!
//! That a key with a deficit below T - m is taken follows from the filter's bound, applied the other way round: it is
//! better than every key whose deficit is T or more, and fewer than heavy_k have less.

pub(super) mod output;
pub(super) mod table;

mod doubtful;

use self::doubtful::ScoreBins;
use super::filter::{self, counts};
use super::scan::{Scan, candidates};
use super::survivors::figures;
use super::{Plan, TABLE_STRIDE, THREADS, cluster_layout as at, layout};
use crate::bytes;
use crate::device::cluster::{self, remote};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{block, thread, warp};
use crate::step::{Regions, StepShape};

/// What threads tell their block: words of `layout::FIGURES`, beside those of `survivors` that lie between.
pub(super) mod figure {
    /// Keys that the block surely takes.
    pub(super) const SURE: u32 = 0;
    /// Its doubtful keys.
    pub(super) const DOUBTFUL: u32 = 1;
    /// Doubtful keys that the blocks before it take.
    pub(super) const BEFORE: u32 = 2;
    /// Those in the cut's bin, found so far.
    pub(super) const IN_BIN: u32 = 3;
    /// The cut's bin.
    pub(super) const BIN: u32 = 4;
    /// Doubtful keys in better bins.
    pub(super) const ABOVE: u32 = 5;
    /// Those in the cut's bin.
    pub(super) const INSIDE: u32 = 6;
    /// The rank of the last key taken: two words, by their half.
    pub(super) const CUT_HALF: u32 = 5;
    /// Keys that the row wants, or 0 where deficits do not tell which.
    pub(in super::super) const WANTED: u32 = 13;
}

/// Bins of the doubtful keys' scores: one a thread.
const NUM_BINS: u32 = THREADS;
/// Deficits of a load of [`divide`].
const KEYS_PER_LOAD: u32 = 16;
/// The largest deficit as it is kept, which never passes.
const LAST: u32 = 255;

/// What a block has found: which keys of its share are taken, and how many the blocks before it take.
pub(super) struct Taken {
    /// Words of the bitmap.
    num_words: u32,
    first_key: u32,
    /// Keys that are taken before this thread's.
    before: u32,
}

/// A part of the list's memory, see [`cluster_layout`](at).
#[inline(always)]
fn shared(plan: &Plan, at: u32) -> SharedArray<u32> {
    dynamic_shared_mem(layout::list(plan.table_words) + at)
}

/// Which keys of the share are among the row's best, or `None` for all blocks of the row where deficits do not tell: a
/// score is not finite, or too many keys are doubtful or alike.
///
/// # Safety
/// Every thread of the cluster is here, behind the barrier that follows [`table::build`]; the buffers are as the kernel's
/// documentation says.
#[inline(always)]
pub(super) unsafe fn run(
    scan: impl Fn() -> Scan,
    plan: &Plan,
    bits: u32,
    words: [u32; 4],
) -> Option<Taken> {
    let m = || thread::opaque(plan.table_words) / TABLE_STRIDE;
    // SAFETY: one thread has set it, a barrier before the first use.
    let wanted = || unsafe { figures().get(figure::WANTED) };
    // SAFETY: the caller's. All conditions around barriers of the cluster are the same in it, and all around others in
    // the block; each thread has its own words between two of them, or only adds.
    unsafe {
        filter::look_at_table(m(), bits);
        thread::sync_threads();
        let scale = filter::scale(m())?;
        let top = filter::largest_sum(m());
        filter::build_table(plan, m(), bits, scale);
        thread::sync_threads();
        {
            let scan = scan();
            if scan.start < scan.end {
                let deficits = || filter::deficits(plan);
                match scan.keys_per_vector {
                    2 => filter::add_up::<8, 4>(&scan, words, |first, a, b| {
                        deficits().set_u16(first / 2, kept(a, 8) | kept(b, 8) << 8);
                    }),
                    _ => filter::add_up::<16, 4>(&scan, words, |first, a, _| {
                        deficits().set_u8(first, kept(a, 16));
                    }),
                }
                // The last load's other bytes.
                let end = (scan.end - scan.first_key).next_multiple_of(scan.keys_per_vector);
                let rest = end + thread::thread_idx_x();
                if rest < end.next_multiple_of(KEYS_PER_LOAD) {
                    deficits().set_u8(rest, LAST);
                }
            }
        }
        // All counts are there, and nobody needs the filter's table any more.
        cluster::sync();
        clear(plan, num_words(&scan()));
        let threshold = filter::smallest(wanted(), |first| counts_of_row(plan, m(), first));
        let bounds = Bounds::new(threshold, m())?;
        divide(&scan(), plan, &bounds);
        thread::sync_threads();
        doubtful::score(&scan(), plan);
        cluster::sync();
        let most = doubtful::most_of_a_block(plan);
        if most > at::max_doubtful(plan.num_blocks) {
            return None;
        }
        let cut = doubtful::cut(plan, wanted(), most, &bounds.score_bins(top, scale))?;
        let before = doubtful::take(&scan(), plan, most, cut);
        let num_words = num_words(&scan());
        let bitmap = shared(plan, at::bitmap(plan.num_blocks));
        let mut taken = 0;
        for i in output::words_of_thread(num_words) {
            taken += bitmap.get(i).count_ones();
        }
        let (through, _) = block::inclusive_sum_once(taken, dynamic_shared_mem(layout::SUMS));
        Some(Taken {
            num_words,
            first_key: scan().first_key,
            before: before + figures().get(figure::BEFORE) + through - taken,
        })
    }
}

/// Keys that the row wants by their scores, or 0 where deficits do not tell which.
#[inline(always)]
pub(super) fn wanted(shape: &StepShape, regions: &Regions, scan: &Scan) -> u32 {
    let candidates = candidates(shape, regions);
    let heavy_k = regions.heavy_k(shape.heavy);
    let wants_all = heavy_k >= candidates.end - candidates.start;
    if regions.list_all || scan.keys_per_vector == 0 || wants_all {
        0
    } else {
        heavy_k
    }
}

/// Words of the bitmap of the share's keys.
#[inline(always)]
fn num_words(scan: &Scan) -> u32 {
    if scan.start < scan.end {
        (scan.end - scan.first_key).div_ceil(32)
    } else {
        0
    }
}

/// log2 of the deficits that are one when kept: those of `m` sub-vectors are below `256 * m`.
#[inline(always)]
fn shift(m: u32) -> u32 {
    m.ilog2()
}

/// A deficit as it is kept. That of no candidate and the largest become [`LAST`].
#[inline(always)]
fn kept(deficit: u32, m: u32) -> u32 {
    (deficit >> shift(m)).min(LAST)
}

/// Which keys are taken for sure and which are doubtful, by their deficits as they are kept.
#[derive(Clone, Copy)]
struct Bounds {
    m: u32,
    /// Below it all are taken.
    low: u32,
    /// Above it none is.
    high: u32,
}

impl Bounds {
    /// None where a key may be doubtful that is kept as [`LAST`].
    #[inline(always)]
    fn new(threshold: u32, m: u32) -> Option<Self> {
        let high = kept(threshold + m, m);
        (high < LAST).then_some(Bounds {
            m,
            low: kept(threshold.saturating_sub(m), m),
            high,
        })
    }

    /// Where the scores of doubtful keys lie, about, below the largest sum `top`.
    #[inline(always)]
    fn score_bins(&self, top: f32, scale: f32) -> ScoreBins {
        let (least, most) = (self.low << shift(self.m), (self.high + 1) << shift(self.m));
        // A deficit is up to m less than what it stands for.
        let width = (most - least + self.m) as f32 / scale;
        ScoreBins {
            lowest: top - (most + self.m) as f32 / scale,
            bins_per_unit: NUM_BINS as f32 / width,
        }
    }
}

/// Clears the bitmap, the bins, and the figures that are counted up.
///
/// # Safety
/// As [`run`]; a barrier follows.
#[inline(always)]
unsafe fn clear(plan: &Plan, num_words: u32) {
    let t = thread::thread_idx_x();
    let bitmap = shared(plan, at::bitmap(plan.num_blocks));
    let mut i = t;
    // SAFETY: the caller's; each thread has its own words.
    unsafe {
        while i < num_words {
            thread::no_unroll();
            bitmap.set(i, 0);
            i += THREADS;
        }
        shared(plan, at::bins(plan.num_blocks)).set(t, 0);
        if t == 0 {
            figures().set(figure::SURE, 0);
            figures().set(figure::DOUBTFUL, 0);
            figures().set(figure::BEFORE, 0);
            figures().set(figure::IN_BIN, 0);
        }
    }
}

/// How often deficits `first` to `first + 3` of `m` sub-vectors occur among the row's candidates.
#[inline(always)]
fn counts_of_row(plan: &Plan, m: u32, first: u32) -> [u32; 4] {
    let mut sums = [0; 4];
    if first <= 255 * m {
        let mut i = 0;
        while i < plan.num_blocks {
            // Every block begins with itself.
            let rank = cluster::block_rank() + i;
            let rank = rank.min(rank.wrapping_sub(plan.num_blocks));
            // SAFETY: behind the barrier of the cluster that follows counting, and before the next.
            let [a, b, c, d] = unsafe { remote(counts(), rank).get4(first) };
            sums = [sums[0] + a, sums[1] + b, sums[2] + c, sums[3] + d];
            i += 1;
        }
    }
    sums
}

/// Takes the keys of the share that are sure, and lists the doubtful ones, as many as there is room for.
///
/// # Safety
/// As [`run`], behind [`clear`] and a barrier; one follows.
#[inline(always)]
unsafe fn divide(scan: &Scan, plan: &Plan, bounds: &Bounds) {
    let deficits = filter::deficits(plan);
    let bitmap = shared(plan, at::bitmap(plan.num_blocks));
    let places = shared(plan, at::places(plan.num_blocks));
    let limits = bounds.high * 0x0101_0101;
    let num_words = if scan.start < scan.end {
        (scan.end - scan.first_key).div_ceil(KEYS_PER_LOAD) * (KEYS_PER_LOAD / 4)
    } else {
        0
    };
    let mut num_sure = 0;
    let mut first = 4 * thread::thread_idx_x();
    // SAFETY: the caller's; slots are claimed by one thread.
    unsafe {
        while first < num_words {
            thread::no_unroll();
            let [a, b, c, d] = deficits
                .get4(first)
                .map(|word| bytes::at_most(word, limits) >> 7);
            // Byte i of word w is bit 8 * i + w.
            let mut passing = a | b << 1 | c << 2 | d << 3;
            while passing != 0 {
                thread::no_unroll();
                let bit = passing.trailing_zeros();
                passing &= passing - 1;
                let key = 4 * (first + bit % 8) + bit / 8;
                if deficits.get_u8(deficits.address() + key) < bounds.low {
                    bitmap.atomic_or(key / 32, 1 << (key % 32));
                    num_sure += 1;
                } else {
                    let slot = figures().atomic_fetch_add(figure::DOUBTFUL, 1);
                    if slot < at::max_doubtful(plan.num_blocks) {
                        places.set(slot, scan.first_key + key);
                    }
                }
            }
            first += 4 * THREADS;
        }
        let num_sure = warp::reduce_add(num_sure);
        if warp::lane_id() == 0 && num_sure != 0 {
            figures().atomic_add(figure::SURE, num_sure);
        }
    }
}
