//! The row's table in shared memory, and the range of the scores it can give.

use super::{LANES, NUM_BINS, Place, Staging, THREADS, VECTORS, layout};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{thread, warp};
use crate::float::fma;
use crate::kernel::In;
use crate::order::{order_key, score_of_key};
use crate::scores::score;
use crate::step::StepShape;

/// Threads that share an entry, each with two of its eight partial sums.
const THREADS_PER_ENTRY: u32 = LANES / 2;

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

/// The group's centroids and the row's query on their way to shared memory: whole lines are loaded, whatever
/// thread needs them.
pub(super) struct Staged {
    vectors: [[f32; 4]; VECTORS as usize],
    component: f32,
}

impl Staged {
    /// Begins to load.
    ///
    /// # Safety
    /// The buffers are as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn load(
        shape: &StepShape,
        place: &Place,
        staging: &Staging,
        centroids: In<f32>,
        queries: In<f32>,
    ) -> Self {
        let mut staged = Staged {
            vectors: [[0.0; 4]; VECTORS as usize],
            component: 0.0,
        };
        if staging.fits == 1 {
            let t = thread::thread_idx_x();
            let len = shape.table_len() << staging.sub_dim_log2;
            let centroids = centroids.from(place.group as usize * len as usize + 4 * t as usize);
            macro_rules! load {
                ($($k:literal)*) => {
                    $(if 4 * (t + $k * THREADS) < len {
                        // SAFETY: inside the group's centroids, which are a multiple of four components.
                        staged.vectors[$k] = unsafe { centroids.get4($k * 4 * THREADS as usize) };
                    })*
                };
            }
            load!(0 1 2 3);
            if t < shape.head_dim {
                // SAFETY: inside the row's query.
                staged.component =
                    unsafe { queries.get((place.row * shape.head_dim) as usize + t as usize) };
            }
        }
        staged
    }

    /// Writes what was loaded to shared memory.
    ///
    /// # Safety
    /// A barrier follows before it is read.
    #[inline(always)]
    pub(super) unsafe fn store(&self, shape: &StepShape, staging: &Staging) {
        if staging.fits == 0 {
            return;
        }
        let t = thread::thread_idx_x();
        let log2 = staging.sub_dim_log2;
        let len = shape.table_len() << log2;
        let centroids = dynamic_shared_mem::<f32>(layout::CENTROIDS);
        let query = dynamic_shared_mem::<f32>(layout::QUERY);
        let component_of = |at: u32| at & ((1 << log2) - 1);
        macro_rules! store {
            ($($k:literal)*) => {
                $({
                    let at = 4 * (t + $k * THREADS);
                    if at < len {
                        let to = (at >> log2) * staging.stride + component_of(at);
                        // SAFETY: each thread has its own words, and there is room.
                        unsafe { centroids.set4(to, self.vectors[$k]) };
                    }
                })*
            };
        }
        store!(0 1 2 3);
        if t < shape.head_dim {
            let component = component_of(t);
            let pair = (t >> log2) * (LANES / 2) + component % LANES / 2;
            let to = pair * staging.query_stride + component / LANES * 2 + component % 2;
            // SAFETY: as above.
            unsafe { query.set(to, self.component) };
        }
    }
}

/// Two partial sums of an entry, as [`partial_sums`](crate::lut::partial_sums) has them.
///
/// # Safety
/// [`Staged::store`] was a barrier ago, and the centroids are staged; the entry is the table's.
#[inline(always)]
unsafe fn staged_sums(shape: &StepShape, staging: &Staging, entry: u32, pair: u32) -> [f32; 2] {
    let centroids = dynamic_shared_mem::<f32>(layout::CENTROIDS);
    let query = dynamic_shared_mem::<f32>(layout::QUERY);
    let mut centroid_at = entry * staging.stride + 2 * pair;
    let mut query_at = ((entry >> shape.bits) * (LANES / 2) + pair) * staging.query_stride;
    let mut rounds = 1u32 << staging.sub_dim_log2 >> LANES.ilog2();
    let (mut a, mut b) = (0.0f32, 0.0f32);
    // SAFETY: components of the entry and of its sub-vector.
    unsafe {
        // Four rounds at a time; only short sub-vectors have fewer.
        while rounds >= 4 {
            let [q0, q1, q2, q3] = query.get4(query_at);
            let [q4, q5, q6, q7] = query.get4(query_at + 4);
            let [c0, c1] = centroids.get2(centroid_at);
            let [c2, c3] = centroids.get2(centroid_at + LANES);
            let [c4, c5] = centroids.get2(centroid_at + 2 * LANES);
            let [c6, c7] = centroids.get2(centroid_at + 3 * LANES);
            (a, b) = (fma(q0, c0, a), fma(q1, c1, b));
            (a, b) = (fma(q2, c2, a), fma(q3, c3, b));
            (a, b) = (fma(q4, c4, a), fma(q5, c5, b));
            (a, b) = (fma(q6, c6, a), fma(q7, c7, b));
            query_at += 8;
            centroid_at += 4 * LANES;
            rounds -= 4;
        }
        while rounds > 0 {
            let ([q0, q1], [c0, c1]) = (query.get2(query_at), centroids.get2(centroid_at));
            (a, b) = (fma(q0, c0, a), fma(q1, c1, b));
            query_at += 2;
            centroid_at += LANES;
            rounds -= 1;
        }
    }
    [a, b]
}

/// The same from global memory.
///
/// # Safety
/// The buffers are as the kernel's documentation says, and the entry is the table's.
#[inline(always)]
unsafe fn unstaged_sums(
    shape: &StepShape,
    place: &Place,
    entry: u32,
    pair: u32,
    centroids: In<f32>,
    queries: In<f32>,
) -> [f32; 2] {
    let (lane, sub_dim) = (2 * pair as usize, place.sub_dim as usize);
    let queries = queries
        .from(place.row as usize * shape.head_dim as usize)
        .from((entry >> shape.bits) as usize * sub_dim);
    let centroids = centroids
        .from((place.group as usize * shape.table_len() as usize + entry as usize) * sub_dim);
    let (mut a, mut b) = (0.0f32, 0.0f32);
    let mut at = lane;
    // SAFETY: below sub_dim; places are even, so with an even sub_dim pairs are aligned.
    unsafe {
        // Loads of three rounds are under way together.
        while sub_dim % 2 == 0 && at + 2 * LANES as usize + 2 <= sub_dim {
            macro_rules! rounds {
                ($($k:literal $q:ident)*) => {
                    $(
                        let i = at + $k * LANES as usize;
                        let $q = (queries.get2(i), centroids.get2(i));
                    )*
                    $(
                        let (q, c) = $q;
                        (a, b) = (fma(q[0], c[0], a), fma(q[1], c[1], b));
                    )*
                };
            }
            rounds!(0 q0 1 q1 2 q2);
            at += 3 * LANES as usize;
        }
        while at < sub_dim {
            a = fma(queries.get(at), centroids.get(at), a);
            if at + 1 < sub_dim {
                b = fma(queries.get(at + 1), centroids.get(at + 1), b);
            }
            at += LANES as usize;
        }
    }
    [a, b]
}

/// Builds the table.
///
/// # Safety
/// Every thread of the block is here; [`clear`] and [`Staged::store`] were a barrier ago; the buffers are as
/// the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn build(
    shape: &StepShape,
    place: &Place,
    staging: &Staging,
    centroids: In<f32>,
    queries: In<f32>,
) -> Range {
    let mins = dynamic_shared_mem::<u32>(layout::MINS);
    let maxs = dynamic_shared_mem::<u32>(layout::MAXS);
    let table = dynamic_shared_mem::<f32>(layout::TABLE);
    let table_len = shape.table_len();
    let t = thread::thread_idx_x();
    let pair = t % THREADS_PER_ENTRY;
    let mut first = 0;
    loop {
        let entry = first + t / THREADS_PER_ENTRY;
        let in_use = entry < table_len;
        let entry = entry.min(table_len - 1);
        // SAFETY: all threads of the block run this loop alike, so warps are whole at the shuffles.
        unsafe {
            let [a, b] = if staging.fits == 1 {
                staged_sums(shape, staging, entry, pair)
            } else {
                unstaged_sums(shape, place, entry, pair, centroids, queries)
            };
            // ((0+1)+(2+3)) + ((4+5)+(6+7)): this thread's pair, the neighbour's, the other half's.
            let sum = a + b;
            let half = sum + f32::from_bits(warp::warp_shuffle_xor(sum.to_bits(), 1));
            let value = half + f32::from_bits(warp::warp_shuffle_xor(half.to_bits(), 2));
            if in_use && pair == 0 {
                table.set(entry, value);
            }
            // A warp's eight entries are of one sub-vector: codes have at least three bits.
            let key = order_key(value);
            let least = warp::reduce_min(if in_use { key } else { u32::MAX });
            let most = warp::reduce_max(if in_use { key } else { 0 });
            if warp::lane_id() == 0 {
                mins.atomic_min(entry >> shape.bits, least);
                maxs.atomic_max(entry >> shape.bits, most);
            }
        }
        first += THREADS / THREADS_PER_ENTRY;
        if first >= table_len {
            break;
        }
    }
    // SAFETY: every thread of the block is here.
    unsafe { thread::sync_threads() };

    let m = shape.num_subvectors as usize;
    // SAFETY: both arrays have a word for each sub-vector, and the barrier is passed.
    let (lowest, highest) = unsafe {
        if m == 2 {
            // The loop below, without its overhead.
            let sum = |[first, second]: [u32; 2]| score_of_key(first) + score_of_key(second);
            (sum(mins.get2(0)), sum(maxs.get2(0)))
        } else {
            (
                score(m, |j| score_of_key(mins.get(j as u32))),
                score(m, |j| score_of_key(maxs.get(j as u32))),
            )
        }
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
            dynamic_shared_mem::<u32>(layout::BEST).set(t, 0);
            dynamic_shared_mem::<u32>(layout::BEST_INDEX).set(t, u32::MAX);
        }
    }
}

const _: () = assert!(THREADS * 4 == NUM_BINS);
