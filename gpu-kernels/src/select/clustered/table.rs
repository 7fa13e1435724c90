//! The table of a row's cluster, and the new key's codes: each block makes its sub-vectors' part.

use super::{at, shared};
use crate::codebook::Nearest;
use crate::codes;
use crate::device::cluster::{self, remote};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{thread, warp};
use crate::float::fma;
use crate::kernel::{In, Out};
use crate::lut::LANES;
use crate::order::{order_key, rank_of_key};
use crate::select::{Plan, TABLE_STRIDE, THREADS, layout};
use crate::step::StepShape;

/// Threads that share an entry of the table.
const THREADS_PER_ENTRY: u32 = 2;
/// Entries of a block at a time.
const ENTRIES: u32 = THREADS / THREADS_PER_ENTRY;
/// Entries of a warp.
const ENTRIES_PER_WARP: u32 = 32 / THREADS_PER_ENTRY;

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
pub(in super::super) unsafe fn build(
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

/// [`build`] for sub-vectors of `8 * V` components.
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
/// As [`build`], whose barrier is behind; no other block of the grid writes or reads the codes.
#[inline(always)]
pub(in super::super) unsafe fn write_codes(
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
