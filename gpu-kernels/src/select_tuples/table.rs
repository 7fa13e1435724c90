//! The row's table in shared memory, and the range of the scores it can give.

use super::{NUM_BINS, Place, THREADS, layout};
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
/// Rounds of partial sums whose components are loaded together.
const BATCH: usize = 8;

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

/// A thread's part of a table entry: where its components are, and the first of them.
pub(super) struct Part {
    entry: u32,
    in_use: bool,
    queries: In<f32>,
    centroids: In<f32>,
    first: [([f32; 2], [f32; 2]); BATCH],
}

/// Whether the first components are loaded by [`Part::load`].
#[inline(always)]
fn has_batch(sub_dim: u32) -> bool {
    sub_dim % LANES as u32 == 0 && sub_dim >= (BATCH * LANES) as u32
}

impl Part {
    /// The thread's part in round `round`, whose loads are under way.
    ///
    /// # Safety
    /// The buffers are as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn load(
        shape: &StepShape,
        place: &Place,
        round: u32,
        centroids: In<f32>,
        queries: In<f32>,
    ) -> Self {
        let table_len = shape.table_len();
        let sub_dim = place.sub_dim;
        let t = thread::thread_idx_x();
        let entry = round * (THREADS / THREADS_PER_ENTRY) + t / THREADS_PER_ENTRY;
        let in_use = entry < table_len;
        let entry = entry.min(table_len - 1);
        let lane = 2 * (t % THREADS_PER_ENTRY);
        // The row's query and the group's centroids, from the thread's first component of each.
        let queries = queries
            .from(place.row as usize * shape.head_dim as usize)
            .from(((entry >> shape.bits) * sub_dim + lane) as usize);
        let centroids = centroids
            .from(place.group as usize * (table_len * sub_dim) as usize)
            .from((entry * sub_dim + lane) as usize);
        let mut first = [([0.0; 2], [0.0; 2]); BATCH];
        if has_batch(sub_dim) {
            macro_rules! load {
                ($($k:literal)*) => {
                    $(
                        // SAFETY: the entry is the table's, and has that many components; places are
                        // even, as sub-vectors are multiples of eight.
                        first[$k] = unsafe { (queries.get2($k * LANES), centroids.get2($k * LANES)) };
                    )*
                };
            }
            load!(0 1 2 3 4 5 6 7);
        }
        Part {
            entry,
            in_use,
            queries,
            centroids,
            first,
        }
    }

    /// The two partial sums, as [`partial_sums`] has them.
    ///
    /// # Safety
    /// As [`Part::load`].
    #[inline(always)]
    unsafe fn sums(&self, sub_dim: u32) -> [f32; 2] {
        let sub_dim = sub_dim as usize;
        let lane = 2 * (thread::thread_idx_x() % THREADS_PER_ENTRY) as usize;
        if sub_dim % LANES != 0 {
            // SAFETY: the caller's: component `lane + i` of the sub-vector is element `i`.
            return unsafe {
                partial_sums::<2>(
                    lane,
                    sub_dim,
                    |i| self.queries.get(i - lane),
                    |i| self.centroids.get(i - lane),
                )
            };
        }
        let (mut a, mut b) = (0.0f32, 0.0f32);
        let mut done = 0;
        if has_batch(sub_dim as u32) {
            macro_rules! add {
                ($($k:literal)*) => {
                    $(
                        let (q, c) = self.first[$k];
                        a = fma(q[0], c[0], a);
                        b = fma(q[1], c[1], b);
                    )*
                };
            }
            add!(0 1 2 3 4 5 6 7);
            done = BATCH * LANES;
        }
        while done < sub_dim {
            // SAFETY: as above.
            let (q, c) = unsafe { (self.queries.get2(done), self.centroids.get2(done)) };
            a = fma(q[0], c[0], a);
            b = fma(q[1], c[1], b);
            done += LANES;
        }
        [a, b]
    }
}

/// Builds the table, the thread's part of the first round being loaded.
///
/// # Safety
/// Every thread of the block is here, and [`clear`] was a barrier ago; the buffers are as the kernel's
/// documentation says.
#[inline(always)]
pub(super) unsafe fn build(
    shape: &StepShape,
    place: &Place,
    mut part: Part,
    centroids: In<f32>,
    queries: In<f32>,
) -> Range {
    let mins = dynamic_shared_mem::<u32>(layout::MINS);
    let maxs = dynamic_shared_mem::<u32>(layout::MAXS);
    let table = dynamic_shared_mem::<f32>(layout::TABLE);
    let mut round = 0;
    loop {
        // SAFETY: all threads of the block run this loop alike, so warps are whole at the shuffles.
        unsafe {
            let [a, b] = part.sums(place.sub_dim);
            // ((0+1)+(2+3)) + ((4+5)+(6+7)): this thread's pair, the neighbour's, the other half's.
            let pair = a + b;
            let half = pair + f32::from_bits(warp::warp_shuffle_xor(pair.to_bits(), 1));
            let value = half + f32::from_bits(warp::warp_shuffle_xor(half.to_bits(), 2));
            if part.in_use && thread::thread_idx_x() % THREADS_PER_ENTRY == 0 {
                table.set(part.entry, value);
            }
            // A warp's eight entries are of one sub-vector: codes have at least three bits.
            let key = order_key(value);
            let least = warp::reduce_min(if part.in_use { key } else { u32::MAX });
            let most = warp::reduce_max(if part.in_use { key } else { 0 });
            if warp::lane_id() == 0 {
                mins.atomic_min(part.entry >> shape.bits, least);
                maxs.atomic_max(part.entry >> shape.bits, most);
            }
            round += 1;
            if round * (THREADS / THREADS_PER_ENTRY) >= shape.table_len() {
                break;
            }
            part = Part::load(shape, place, round, centroids, queries);
        }
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

/// Clears what the step counts in.
///
/// # Safety
/// A barrier follows before anything else is done with the words.
#[inline(always)]
pub(super) unsafe fn clear() {
    let t = thread::thread_idx_x();
    // SAFETY: the launch gives the block the layout; each thread has its own words.
    unsafe {
        // 512 threads x 4 = 2048 bins.
        dynamic_shared_mem::<u32>(layout::BINS).set4(4 * t, [0; 4]);
        if t < layout::NUM_SMALL {
            dynamic_shared_mem::<u32>(layout::MINS).set(t, u32::MAX);
            dynamic_shared_mem::<u32>(layout::MAXS).set(t, 0);
            dynamic_shared_mem::<u32>(layout::FIGURES).set(t, 0);
        }
    }
}

const _: () = assert!(THREADS * 4 == NUM_BINS);
