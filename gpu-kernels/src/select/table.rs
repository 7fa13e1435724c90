//! The row's table in shared memory.

use super::{Plan, TABLE_STRIDE, THREADS, layout};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{thread, warp};
use crate::float::fma;
use crate::kernel::In;
use crate::lut::{LANES, partial_sums};
use crate::step::StepShape;

/// Threads that share an entry, each with four of its eight partial sums: components that lie side by
/// side, so that a load has four of them.
const THREADS_PER_ENTRY: u32 = 2;
/// Entries that the block builds at a time.
const ENTRIES: u32 = THREADS / THREADS_PER_ENTRY;
/// Loads of a thread that are under way at once.
const LOADS: usize = 8;

/// What the builders share.
struct Builder {
    table_len: u32,
    bits: u32,
    sub_dim: usize,
    /// Where the group's centroids begin.
    centroids_at: usize,
    centroids: In<f32>,
    query: SharedArray<f32>,
}

/// Builds the table. `meanwhile` is called while the first centroids are loaded.
///
/// # Safety
/// Every thread of the block is here; the buffers are as the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn build<R>(
    shape: &StepShape,
    row: u32,
    plan: &Plan,
    centroids: In<f32>,
    queries: In<f32>,
    meanwhile: impl Fn() -> R,
) -> R {
    let group = shape.group_of_row(row) as usize;
    let builder = Builder {
        table_len: shape.table_len(),
        bits: shape.bits,
        sub_dim: shape.sub_dim() as usize,
        centroids_at: group * shape.table_len() as usize * shape.sub_dim() as usize,
        centroids,
        query: dynamic_shared_mem(layout::list(plan.table_words)),
    };
    // SAFETY: the list has room for the query, and is not in use yet; each thread has its own words. Every
    // thread of the block is here, and takes the same arm.
    unsafe {
        let t = thread::thread_idx_x();
        // Most queries have a component a thread at most: its load is under way before the centroids'.
        let query_at = |i: u32| row as usize * shape.head_dim as usize + i as usize;
        let first = if t < shape.head_dim {
            queries.get(query_at(t))
        } else {
            0.0
        };
        let load_query = || {
            if t < shape.head_dim {
                builder.query.set(t, first);
            }
            let mut i = t + THREADS;
            while i < thread::opaque(shape.head_dim) {
                builder.query.set(i, queries.get(query_at(i)));
                i += THREADS;
            }
        };
        let result = match builder.sub_dim {
            8 => builder.vectors::<1, R>(load_query, meanwhile),
            16 => builder.vectors::<2, R>(load_query, meanwhile),
            32 => builder.vectors::<4, R>(load_query, meanwhile),
            64 => builder.vectors::<8, R>(load_query, meanwhile),
            _ => builder.any(load_query, meanwhile),
        };
        thread::sync_threads();
        result
    }
}

impl Builder {
    /// The entry of this thread in part `i` of the turn that begins with entry `first`.
    #[inline(always)]
    fn entry(&self, first: u32, i: usize) -> u32 {
        first + i as u32 * ENTRIES + thread::thread_idx_x() / THREADS_PER_ENTRY
    }

    /// Sub-vectors of `8 * V` components.
    ///
    /// # Safety
    /// As [`build`].
    #[inline(always)]
    unsafe fn vectors<const V: usize, R>(
        &self,
        load_query: impl Fn(),
        meanwhile: impl Fn() -> R,
    ) -> R {
        let part = (thread::thread_idx_x() % THREADS_PER_ENTRY) as usize;
        // SAFETY: the entry is the table's, so the reads are inside the buffer; sub-vectors are multiples
        // of 8 components long, so the vectors are aligned.
        let load = |first: u32| -> [[f32; 4]; LOADS] {
            core::array::from_fn(|k| {
                let entry = self.entry(first, k / V).min(self.table_len - 1) as usize;
                let at = self.centroids_at + entry * (LANES * V) + k % V * LANES + 4 * part;
                unsafe { self.centroids.get4(at) }
            })
        };
        let step = (LOADS / V) as u32 * ENTRIES;
        let mut first = 0;
        let mut loaded = load(first);
        let result = meanwhile();
        load_query();
        // SAFETY: every thread of the block is here, and stays through the loop: its bounds are the
        // block's, so warps are whole at the shuffles.
        unsafe {
            thread::sync_threads();
            loop {
                macro_rules! entries {
                    ($($i:literal)*) => {
                        $(if $i * V < LOADS {
                            let entry = self.entry(first, $i);
                            let subvector = (entry.min(self.table_len - 1)) >> self.bits;
                            let mut sums = [0.0f32; 4];
                            for j in 0..V {
                                let at = subvector * (LANES * V) as u32 + (j * LANES + 4 * part) as u32;
                                let q = self.query.get4(at);
                                let c = loaded[($i * V + j) % LOADS];
                                for (lane, sum) in sums.iter_mut().enumerate() {
                                    *sum = fma(q[lane], c[lane], *sum);
                                }
                            }
                            self.finish(entry, sums);
                        })*
                    };
                }
                entries!(0 1 2 3 4 5 6 7);
                first += step;
                if first >= self.table_len {
                    break;
                }
                loaded = load(first);
            }
        }
        result
    }

    /// Sub-vectors of any length.
    ///
    /// # Safety
    /// As [`build`].
    #[inline(always)]
    unsafe fn any<R>(&self, load_query: impl Fn(), meanwhile: impl Fn() -> R) -> R {
        let part = (thread::thread_idx_x() % THREADS_PER_ENTRY) as usize;
        let result = meanwhile();
        load_query();
        // SAFETY: as in `vectors`.
        unsafe {
            thread::sync_threads();
            let mut first = 0;
            while first < self.table_len {
                let entry = self.entry(first, 0);
                let in_table = entry.min(self.table_len - 1);
                let query_at = (in_table >> self.bits) * self.sub_dim as u32;
                let centroid_at = self.centroids_at + in_table as usize * self.sub_dim;
                let sums = partial_sums::<4>(
                    4 * part,
                    self.sub_dim,
                    |i| self.query.get(query_at + i as u32),
                    |i| self.centroids.get(centroid_at + i),
                );
                self.finish(entry, sums);
                first += ENTRIES;
            }
        }
        result
    }

    /// Adds the two threads' partial sums of an entry as the tree does, and keeps it.
    ///
    /// # Safety
    /// All lanes of the warp are here; the table has the shape's words.
    #[inline(always)]
    unsafe fn finish(&self, entry: u32, [s0, s1, s2, s3]: [f32; 4]) {
        // ((0+1)+(2+3)) + ((4+5)+(6+7)): this thread's four, the neighbour's.
        let half = (s0 + s1) + (s2 + s3);
        // SAFETY: the caller's; an entry is written by one thread.
        unsafe {
            let other = f32::from_bits(warp::warp_shuffle_xor(half.to_bits(), 1));
            if entry < self.table_len && thread::thread_idx_x() % THREADS_PER_ENTRY == 0 {
                let code = entry & ((1 << self.bits) - 1);
                let table = dynamic_shared_mem::<f32>(layout::TABLE);
                table.set((entry >> self.bits) * TABLE_STRIDE + code, half + other);
            }
        }
    }
}
