//! The row's table in shared memory, and the range of the scores it can give.

use super::{THREADS, layout};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{thread, warp};
use crate::kernel::In;
use crate::lut::partial_sums;
use crate::order::{order_key, score_of_key};
use crate::scores::score;
use crate::step::StepShape;

/// Threads that share an entry, each with two of its eight partial sums.
const THREADS_PER_ENTRY: u32 = 4;

/// A linear map of scores to bins. Non-decreasing in the score, whatever rounding does; where the
/// range is not finite, or empty, all scores go to bin 0.
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
        crate::device::float::to_u32(bin).min(super::NUM_BINS - 1)
    }

    /// The bin of the score with order key `key`: zeros of both signs have one, as NaNs have.
    #[inline(always)]
    pub(super) fn bin_of_key(&self, key: u32) -> u32 {
        self.bin(score_of_key(key))
    }

    /// An order key that no score in bin `bin` or above lies below; cheap to compare with, and most
    /// keys lie below it.
    ///
    /// A score in bin b is at least `lowest + (b - 1/2) / bins_per_unit`: the two roundings of [`Range::bin`]
    /// move it by less than half a bin of 2048. What the bound's own roundings may add to its
    /// `b - 1` is less than 2^-20 of the numbers it is made of, which is taken off again.
    #[inline(always)]
    pub(super) fn key_bound(&self, bin: u32) -> u32 {
        if bin == 0 || self.bins_per_unit == 0.0 {
            return 0;
        }
        let offset = (bin - 1) as f32 / self.bins_per_unit;
        let slack = (self.lowest.abs() + offset) * (1.0 / (1 << 20) as f32);
        order_key(self.lowest + offset - slack)
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
    // SAFETY: each thread has its own words; the barrier stands before their use.
    unsafe {
        clear(mins, maxs);
        thread::sync_threads();
    }

    let table_len = shape.table_len();
    let copies = layout::copies(table_len);
    let table = dynamic_shared_mem::<f32>(layout::TABLE);
    let sub_dim = shape.sub_dim() as usize;
    let (group, part) = (
        shape.group_of_row(row),
        thread::thread_idx_x() % THREADS_PER_ENTRY,
    );
    let mut first = 0;
    while first < table_len {
        let entry = first + thread::thread_idx_x() / THREADS_PER_ENTRY;
        let in_use = entry < table_len;
        let entry = entry.min(table_len - 1);
        let subvector = entry >> shape.bits;
        let query_at = row as usize * shape.head_dim as usize + subvector as usize * sub_dim;
        let centroid_at = (group as usize * table_len as usize + entry as usize) * sub_dim;
        // SAFETY: the entry is the table's, so the reads are inside the buffers. All threads of the
        // block run this loop alike, so warps are whole at the shuffles. An entry's copies are shared
        // out to its four threads.
        unsafe {
            let [a, b] = partial_sums::<2>(
                2 * part as usize,
                sub_dim,
                |i| queries.get(query_at + i),
                |i| centroids.get(centroid_at + i),
            );
            // ((0+1)+(2+3)) + ((4+5)+(6+7)): this thread's pair, the neighbour's, the other half's.
            let pair = a + b;
            let half = pair + f32::from_bits(warp::warp_shuffle_xor(pair.to_bits(), 1));
            let value = half + f32::from_bits(warp::warp_shuffle_xor(half.to_bits(), 2));
            if in_use {
                if copies == 1 {
                    if part == 0 {
                        table.set(entry, value);
                    }
                } else {
                    let at = entry * 32 + part * 8;
                    table.set4(at, [value; 4]);
                    table.set4(at + 4, [value; 4]);
                }
            }
            let key = order_key(value);
            if shape.bits >= 3 {
                // A warp's eight entries are of one sub-vector.
                let (least, most) = (
                    warp::reduce_min(if in_use { key } else { u32::MAX }),
                    warp::reduce_max(if in_use { key } else { 0 }),
                );
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
            super::NUM_BINS as f32 / width
        } else {
            0.0
        },
    }
}

/// # Safety
/// A barrier follows before anything else is done with the words.
#[inline(always)]
unsafe fn clear(mins: SharedArray<u32>, maxs: SharedArray<u32>) {
    let t = thread::thread_idx_x();
    let bins = dynamic_shared_mem::<u32>(layout::BINS);
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    // SAFETY: the launch gives the block the layout; each thread has its own words.
    unsafe {
        // 512 threads x 4 = 2048 bins.
        bins.set4(4 * t, [0; 4]);
        if t < crate::config::MAX_SUBVECTORS {
            mins.set(t, u32::MAX);
            maxs.set(t, 0);
        }
        if t < layout::NUM_FIGURES {
            figures.set(t, 0);
        }
    }
}
