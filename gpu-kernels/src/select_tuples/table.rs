//! The row's table in shared memory, and the range of the scores it can give.

use super::{NUM_BINS, THREADS, layout};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{thread, warp};
use crate::float::fma;
use crate::kernel::In;
use crate::lut::{LANES, partial_sums};
use crate::order::{order_key, score_of_key};
use crate::scores::score;
use crate::step::StepShape;

/// Threads that share an entry, each with two of its eight partial sums.
const THREADS_PER_ENTRY: u32 = 4;

/// A linear map of scores to bins, non-decreasing in the score, whatever rounding does. Where the range
/// is not finite, or empty, all scores go to bin 0.
#[derive(Clone, Copy)]
pub(super) struct Range {
    lowest: f32,
    bins_per_unit: f32,
}

impl Range {
    /// The bin of a score.
    #[inline(always)]
    pub(super) fn bin(&self, score: f32) -> u32 {
        let bin = (score - self.lowest) * self.bins_per_unit;
        crate::device::float::to_u32(bin).min(NUM_BINS - 1)
    }
}

/// Builds the table and clears what the later parts count in.
///
/// # Safety
/// Every thread of the block is here; the buffers are as the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn build(
    shape: &StepShape,
    row: u32,
    centroids: In<f32>,
    queries: In<f32>,
) -> Range {
    let mins = dynamic_shared_mem::<u32>(layout::MINS);
    let maxs = dynamic_shared_mem::<u32>(layout::MAXS);
    let table = dynamic_shared_mem::<f32>(layout::TABLE);
    // SAFETY: each thread has its own words; the barrier stands before their use.
    unsafe {
        clear();
        thread::sync_threads();
    }

    let table_len = shape.table_len();
    let sub_dim = shape.sub_dim() as usize;
    let group = shape.group_of_row(row);
    let part = thread::thread_idx_x() % THREADS_PER_ENTRY;
    let mut first = 0;
    while first < table_len {
        let entry = first + thread::thread_idx_x() / THREADS_PER_ENTRY;
        let in_use = entry < table_len;
        let entry = entry.min(table_len - 1);
        let subvector = entry >> shape.bits;
        let query_at = row as usize * shape.head_dim as usize + subvector as usize * sub_dim;
        let centroid_at = (group as usize * table_len as usize + entry as usize) * sub_dim;
        // SAFETY: the entry is the table's, so the reads are inside the buffers. All threads of the
        // block run this loop alike, so warps are whole at the shuffles.
        unsafe {
            let [a, b] = two_sums(
                2 * part as usize,
                sub_dim,
                queries,
                query_at,
                centroids,
                centroid_at,
            );
            // ((0+1)+(2+3)) + ((4+5)+(6+7)): this thread's pair, the neighbour's, the other half's.
            let pair = a + b;
            let half = pair + f32::from_bits(warp::warp_shuffle_xor(pair.to_bits(), 1));
            let value = half + f32::from_bits(warp::warp_shuffle_xor(half.to_bits(), 2));
            if in_use && part == 0 {
                table.set(entry, value);
            }
            let key = order_key(value);
            if shape.bits >= 3 {
                // A warp's eight entries are of one sub-vector.
                let least = warp::reduce_min(if in_use { key } else { u32::MAX });
                let most = warp::reduce_max(if in_use { key } else { 0 });
                if warp::lane_id() == 0 {
                    mins.atomic_min(subvector, least);
                    maxs.atomic_max(subvector, most);
                }
            } else if in_use && part == 0 {
                mins.atomic_min(subvector, key);
                maxs.atomic_max(subvector, key);
            }
        }
        first += THREADS / THREADS_PER_ENTRY;
    }
    // SAFETY: every thread of the block is here.
    unsafe { thread::sync_threads() };

    let m = shape.num_subvectors as usize;
    // SAFETY: both arrays have a word for each sub-vector, and the barrier is passed.
    let (lowest, highest) = unsafe {
        (
            score(m, |j| score_of_key(mins.get(j as u32))),
            score(m, |j| score_of_key(maxs.get(j as u32))),
        )
    };
    let width = highest - lowest;
    Range {
        lowest,
        bins_per_unit: if width > 0.0 && width < f32::INFINITY {
            NUM_BINS as f32 / width
        } else {
            0.0
        },
    }
}

/// Partial sums `first` and `first + 1` of a table entry, as [`partial_sums`] has them: where components
/// are aligned, the loads of 64 are under way before the first is used.
///
/// # Safety
/// `sub_dim` components of both buffers from the given places on are there; `first` is even.
#[inline(always)]
unsafe fn two_sums(
    first: usize,
    sub_dim: usize,
    queries: In<f32>,
    query_at: usize,
    centroids: In<f32>,
    centroid_at: usize,
) -> [f32; 2] {
    /// Iterations whose loads are issued together.
    const BATCH: usize = 8;
    if sub_dim % LANES != 0 {
        // SAFETY: the caller's.
        return unsafe {
            partial_sums::<2>(
                first,
                sub_dim,
                |i| queries.get(query_at + i),
                |i| centroids.get(centroid_at + i),
            )
        };
    }
    let (mut a, mut b) = (0.0f32, 0.0f32);
    let mut i = first;
    while i + (BATCH - 1) * LANES < sub_dim {
        macro_rules! batch {
            ($($k:literal)*) => {
                // SAFETY: the caller's; the places are even, as sub-vectors are multiples of eight.
                let loaded = unsafe {
                    [$((queries.get2(query_at + i + $k * LANES), centroids.get2(centroid_at + i + $k * LANES))),*]
                };
                $(
                    let (q, c) = loaded[$k];
                    a = fma(q[0], c[0], a);
                    b = fma(q[1], c[1], b);
                )*
            };
        }
        batch!(0 1 2 3 4 5 6 7);
        i += BATCH * LANES;
    }
    while i < sub_dim {
        // SAFETY: as above.
        let (q, c) = unsafe { (queries.get2(query_at + i), centroids.get2(centroid_at + i)) };
        a = fma(q[0], c[0], a);
        b = fma(q[1], c[1], b);
        i += LANES;
    }
    [a, b]
}

/// # Safety
/// A barrier follows before anything else is done with the words.
#[inline(always)]
unsafe fn clear() {
    let t = thread::thread_idx_x();
    // SAFETY: the launch gives the block the layout; each thread has its own words.
    unsafe {
        // 512 threads x 4 = 2048 bins.
        dynamic_shared_mem::<u32>(layout::BINS).set4(4 * t, [0; 4]);
        if t < crate::config::MAX_SUBVECTORS {
            dynamic_shared_mem::<u32>(layout::MINS).set(t, u32::MAX);
            dynamic_shared_mem::<u32>(layout::MAXS).set(t, 0);
        }
        if t < layout::NUM_FIGURES {
            dynamic_shared_mem::<u32>(layout::FIGURES).set(t, 0);
        }
    }
}

const _: () = assert!(THREADS * 4 == NUM_BINS);
