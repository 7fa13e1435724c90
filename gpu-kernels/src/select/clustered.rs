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

use super::filter::{self, counts};
use super::output::{change, fixed_bits};
use super::scan::{Scan, candidates};
use super::survivors::figures;
use super::{KEYS_PER_WORD, Place, Plan, TABLE_STRIDE, THREADS, cluster_layout as at, layout};
use crate::bytes;
use crate::codebook::Nearest;
use crate::codes;
use crate::device::cluster::{self, remote};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{block, float, thread, warp};
use crate::float::fma;
use crate::kernel::{In, Out};
use crate::lut::LANES;
use crate::order::{order_key, rank_of_key, rank_position, score_of_key};
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
/// Threads that share an entry of the table.
const THREADS_PER_ENTRY: u32 = 2;
/// Entries of a block at a time.
const ENTRIES: u32 = THREADS / THREADS_PER_ENTRY;
/// Entries of a warp.
const ENTRIES_PER_WARP: u32 = 32 / THREADS_PER_ENTRY;

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

/// The sub-vectors whose entries and codes this block makes.
#[inline(always)]
fn own_subvectors(plan: &Plan, m: u32) -> core::ops::Range<u32> {
    let rank = cluster::block_rank();
    rank * m / plan.num_blocks..(rank + 1) * m / plan.num_blocks
}

/// Builds the entries of this block's sub-vectors for all blocks of the row; of the group's new key, if `appends`,
/// finds the nearest centroids to them.
///
/// # Safety
/// Every thread of the cluster is here, and all its blocks have begun; the buffers are as the kernel's documentation
/// says. A barrier of the cluster follows.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn build_table(
    shape: &StepShape,
    row: u32,
    group: u32,
    plan: &Plan,
    appends: bool,
    centroids: In<f32>,
    half_norms: In<f32>,
    new_keys: In<f32>,
    queries: In<f32>,
) {
    macro_rules! build {
        ($V:literal) => {
            // SAFETY: the caller's; all threads of the block take the same arm.
            unsafe {
                build_vectors::<$V>(
                    shape, row, group, plan, appends, centroids, half_norms, new_keys, queries,
                )
            }
        };
    }
    match shape.sub_dim() {
        8 => build!(1),
        16 => build!(2),
        32 => build!(4),
        _ => build!(8),
    }
}

/// [`build_table`] for sub-vectors of `8 * V` components.
///
/// # Safety
/// As there.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn build_vectors<const V: usize>(
    shape: &StepShape,
    row: u32,
    group: u32,
    plan: &Plan,
    appends: bool,
    centroids: In<f32>,
    half_norms: In<f32>,
    new_keys: In<f32>,
    queries: In<f32>,
) {
    let t = thread::thread_idx_x();
    let part = t % THREADS_PER_ENTRY;
    let query = shared(plan, at::QUERY);
    let key = shared(plan, at::QUERY + shape.head_dim);
    let nearest = shared(plan, at::QUERY + 2 * shape.head_dim);
    let own = own_subvectors(plan, shape.num_subvectors);
    let (mut first, end) = (own.start << shape.bits, own.end << shape.bits);
    let first_entry = first;
    // SAFETY: the caller's. The loop is the same in the whole block; entries are the table's, and vectors are aligned, as
    // sub-vectors are multiples of 8 components long.
    unsafe {
        while first < end {
            let entry = first + t / THREADS_PER_ENTRY;
            let is_own = entry < end;
            let entry = entry.min(end - 1);
            let centroid = group * shape.table_len() + entry;
            let centroid_at = centroid as usize * (LANES * V) + 4 * part as usize;
            let c: [[f32; 4]; V] =
                core::array::from_fn(|j| centroids.get4(centroid_at + j * LANES));
            let half_norm = if appends {
                half_norms.get(centroid as usize)
            } else {
                0.0
            };
            if first == first_entry {
                let mut i = t;
                while i < shape.head_dim {
                    thread::no_unroll();
                    let component = queries.get((row * shape.head_dim + i) as usize);
                    query.set(i, component.to_bits());
                    if appends {
                        let component = new_keys.get((group * shape.head_dim + i) as usize);
                        key.set(i, component.to_bits());
                    }
                    i += THREADS;
                }
                thread::sync_threads();
            }
            let code = entry & ((1 << shape.bits) - 1);
            let first_component = (entry >> shape.bits) * (LANES * V) as u32 + 4 * part;
            let components = |of: SharedArray<u32>, j: usize| {
                of.get4(first_component + (j * LANES) as u32)
                    .map(f32::from_bits)
            };
            let mut sums = [0.0f32; 4];
            for j in 0..V {
                let q = components(query, j);
                for lane in 0..4 {
                    sums[lane] = fma(q[lane], c[j][lane], sums[lane]);
                }
            }
            // ((0+1)+(2+3)) + ((4+5)+(6+7)): this thread's four, the neighbour's.
            let half = (sums[0] + sums[1]) + (sums[2] + sums[3]);
            let other = f32::from_bits(warp::warp_shuffle_xor(half.to_bits(), 1));
            if is_own && part == 0 {
                let word = (entry >> shape.bits) * TABLE_STRIDE + code;
                hand_around(plan, word, half + other);
            }
            if appends {
                // The components in order, four here and four at the neighbour.
                let chain = |mut sum: f32, j: usize| {
                    let x = components(key, j);
                    for lane in 0..4 {
                        sum = fma(x[lane], c[j][lane], sum);
                    }
                    f32::from_bits(warp::warp_shuffle_xor(sum.to_bits(), 1))
                };
                let mut sum = -half_norm;
                for j in 0..V {
                    sum = chain(chain(sum, j), j);
                }
                // The first thread of a pair has it.
                let affinity = order_key(sum);
                let best = warp::reduce_max(if part == 0 { affinity } else { 0 });
                let holders = warp::ballot(part == 0 && affinity == best);
                if is_own && warp::lane_id() == holders.trailing_zeros() {
                    let slot = (entry - first_entry) / ENTRIES_PER_WARP;
                    nearest.set_u64(slot, rank_of_key(best, code));
                }
            }
            first += ENTRIES;
        }
    }
}

/// Entry `entry` of the table, at word `word`, for all blocks of the row.
///
/// # Safety
/// All of them have begun; the word is this thread's.
#[inline(always)]
unsafe fn hand_around(plan: &Plan, word: u32, entry: f32) {
    let table = dynamic_shared_mem::<u32>(layout::TABLE);
    let mut rank = 0;
    while rank < plan.num_blocks {
        thread::no_unroll();
        // SAFETY: the caller's.
        unsafe { remote(table, rank).set(word, entry.to_bits()) };
        rank += 1;
    }
}

/// Writes the codes of this block's sub-vectors of the group's new key at `position`, a warp each: the last ones, which
/// have least to do.
///
/// # Safety
/// As [`build_table`], whose barrier is behind; no other block of the grid writes or reads the codes.
#[inline(always)]
pub(super) unsafe fn write_codes(
    shape: &StepShape,
    group: u32,
    plan: &Plan,
    position: u32,
    key_codes: Out<u8>,
) {
    let own = own_subvectors(plan, shape.num_subvectors);
    let i = THREADS / 32 - 1 - warp::warp_id();
    if i < own.end - own.start {
        let nearest = shared(plan, at::QUERY + 2 * shape.head_dim);
        let slots = shape.num_centroids() / ENTRIES_PER_WARP;
        let lane = warp::lane_id();
        // SAFETY: the caller's; the condition is the same in a whole warp.
        unsafe {
            let mine = if lane < slots {
                nearest.get_u64(i * slots + lane)
            } else {
                Nearest::NONE.to_bits()
            };
            let nearest = Nearest::from_bits(warp::reduce_max_u64(mine));
            if lane == 0 {
                let code = nearest.index() as u8;
                codes::store(shape, group, position, own.start + i, code, key_codes);
            }
        }
    }
}

/// Which keys of the share are among the row's best, or `None` for all blocks of the row where deficits do not tell: a
/// score is not finite, or too many keys are doubtful or alike.
///
/// # Safety
/// Every thread of the cluster is here, behind the barrier that follows [`build_table`]; the buffers are as the kernel's
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
        score_doubtful(&scan(), plan);
        cluster::sync();
        let most = most_doubtful(plan);
        if most > at::max_doubtful(plan.num_blocks) {
            return None;
        }
        let cut = cut(plan, wanted(), most, &bounds.range(top, scale))?;
        let before = take(&scan(), plan, most, cut);
        let num_words = num_words(&scan());
        let bitmap = shared(plan, at::bitmap(plan.num_blocks));
        let mut taken = 0;
        for i in words_of_thread(num_words) {
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

/// The words of the bitmap that this thread writes the keys of.
#[inline(always)]
fn words_of_thread(num_words: u32) -> core::ops::Range<u32> {
    let each = num_words.div_ceil(THREADS);
    let start = (thread::thread_idx_x() * each).min(num_words);
    start..(start + each).min(num_words)
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
    fn range(&self, top: f32, scale: f32) -> Range {
        let (least, most) = (self.low << shift(self.m), (self.high + 1) << shift(self.m));
        // A deficit is up to m less than what it stands for.
        let width = (most - least + self.m) as f32 / scale;
        Range {
            lowest: top - (most + self.m) as f32 / scale,
            bins_per_unit: NUM_BINS as f32 / width,
        }
    }
}

/// A linear map of scores to bins, the best first.
struct Range {
    lowest: f32,
    bins_per_unit: f32,
}

impl Range {
    /// The bin of a key of that rank: not increasing in the score, whatever rounding does.
    #[inline(always)]
    fn bin(&self, rank: u64) -> u32 {
        let bin = (score_of_key((rank >> 32) as u32) - self.lowest) * self.bins_per_unit;
        NUM_BINS - 1 - float::to_u32(bin).min(NUM_BINS - 1)
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

/// Scores the share's doubtful keys, and hands their ranks to all blocks of the row, with how many they are and how many
/// are surely taken.
///
/// # Safety
/// As [`run`], behind [`divide`] and a barrier; one of the cluster follows.
#[inline(always)]
unsafe fn score_doubtful(scan: &Scan, plan: &Plan) {
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
unsafe fn for_doubtful(plan: &Plan, most: u32, mut each: impl FnMut(u32, u64)) {
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
unsafe fn most_doubtful(plan: &Plan) -> u32 {
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
/// As [`run`], behind [`score_doubtful`] and a barrier of the cluster.
#[inline(always)]
unsafe fn cut(plan: &Plan, wanted: u32, most: u32, range: &Range) -> Option<u64> {
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
        for_doubtful(plan, most, |_, rank| bins.atomic_add(range.bin(rank), 1));
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
        for_doubtful(plan, most, |_, rank| {
            if range.bin(rank) == bin {
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
/// As [`run`], behind [`cut`]; a barrier follows.
#[inline(always)]
unsafe fn take(scan: &Scan, plan: &Plan, most: u32, cut: u64) -> u32 {
    let own = cluster::block_rank();
    let told = shared(plan, at::told(plan.num_blocks));
    let bitmap = shared(plan, at::bitmap(plan.num_blocks));
    let mut taken_before = 0;
    // SAFETY: the caller's.
    unsafe {
        for_doubtful(plan, most, |block, rank| {
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

/// Words of `listed` that have candidates: the blocks settle those of their shares.
#[inline(always)]
pub(super) fn candidate_words(shape: &StepShape, regions: &Regions) -> core::ops::Range<u32> {
    let core::ops::Range { start, end } = candidates(shape, regions);
    if start < end {
        start / KEYS_PER_WORD..end.div_ceil(KEYS_PER_WORD)
    } else {
        0..0
    }
}

/// Writes the positions of the keys taken, and the weights of the share's keys.
///
/// # Safety
/// As [`run`], behind it; the words and weights are the thread's.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn write_heavy(
    shape: &StepShape,
    regions: &Regions,
    place: &Place,
    plan: &Plan,
    share_end: u32,
    taken: &Taken,
    positions: Out<i32>,
    listed: Out<u16>,
    weights: Out<f32>,
) {
    let bitmap = shared(plan, at::bitmap(plan.num_blocks));
    let heavy_at = place.row as usize * shape.list_stride as usize + regions.sink_end as usize;
    let mut slot = heavy_at + taken.before as usize;
    for i in words_of_thread(taken.num_words) {
        // SAFETY: the caller's; slots count the keys taken before.
        unsafe {
            let bits = bitmap.get(i);
            let key = taken.first_key + i * 32;
            let position = shape.init_offset + key;
            if shape.weights_stride != 0 {
                for half in 0..2 {
                    let first = half * KEYS_PER_WORD;
                    if key + first < share_end {
                        let fixed = fixed_bits(regions, position + first);
                        let wanted = bits >> first & 0xffff | fixed;
                        let word = (key + first) / KEYS_PER_WORD;
                        change(shape, place, word, wanted, listed, weights);
                    }
                }
            }
            let mut rest = bits;
            while rest != 0 {
                positions.set(slot, (position + rest.trailing_zeros()) as i32);
                rest &= rest - 1;
                slot += 1;
            }
        }
    }
}
