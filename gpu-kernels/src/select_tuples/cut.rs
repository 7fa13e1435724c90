//! The cut of a row, from the scores and the counts of its tuples.

use super::table::Range;
use super::{MAX_RANKED, NUM_BINS, Place, THREADS, layout};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{block, thread};
use crate::kernel::Out;
use crate::order::{order_key, score_of_key};
use crate::step::StepShape;
use crate::tuple_counts::{NUM_TUPLES, code_of_tuple};

/// Neighbouring tuples that a thread has.
pub(super) const PER_THREAD: usize = (NUM_TUPLES / THREADS) as usize;

/// What one thread tells the block: words of `layout::FIGURES`.
pub(super) mod figure {
    /// The bin in which the best candidates end.
    pub(crate) const BIN: u32 = 0;
    /// How many of that bin's candidates are taken.
    pub(crate) const NEED: u32 = 1;
    /// Tuples in that bin.
    pub(crate) const NUM_RANKED: u32 = 2;
    /// Order key of the last candidate taken.
    pub(crate) const CUT_KEY: u32 = 3;
    /// How many candidates with that key are taken.
    pub(crate) const TIES: u32 = 4;
    /// Candidates above the cut in the blocks before.
    pub(crate) const ABOVE_BEFORE: u32 = 5;
    /// Candidates with the cut's key in the blocks before.
    pub(crate) const TIES_BEFORE: u32 = 6;
}

/// Which candidates are taken: all with a larger score than `score`, and the first `ties` with an equal
/// one, in the order of [`crate::order`].
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub(super) score: f32,
    pub(super) ties: u32,
}

impl Cut {
    #[inline(always)]
    fn new(key: u32, ties: u32) -> Self {
        Cut {
            score: score_of_key(key),
            ties,
        }
    }
}

/// How many candidates have each of a thread's tuples.
#[derive(Clone, Copy)]
pub(super) struct Counts([u32; PER_THREAD]);

/// A thread's tuples, from `first` on.
pub(super) struct Tuples {
    pub(super) scores: [f32; PER_THREAD],
    counts: [u32; PER_THREAD],
    bins: [u32; PER_THREAD],
}

/// Repeats a block for each of a thread's tuples, with the index as a constant: an array that a loop
/// indexes would lie in local memory.
macro_rules! each_tuple {
    ($i:ident, $body:block) => {
        each_tuple!(@ $i, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $body:block, $($literal:literal)*) => {
        $({
            const $i: usize = $literal;
            $body
        })*
    };
}
pub(super) use each_tuple;

/// The first of the thread's tuples.
#[inline(always)]
pub(super) fn first_tuple() -> u32 {
    PER_THREAD as u32 * thread::thread_idx_x()
}

/// Eight neighbouring counts.
///
/// # Safety
/// They are written, and `at` is a multiple of four words.
#[inline(always)]
pub(super) unsafe fn load_counts(counts: Out<u32>, at: usize) -> [u32; PER_THREAD] {
    // SAFETY: the caller's.
    let ([a, b, c, d], [e, f, g, h]) = unsafe { (counts.get4(at), counts.get4(at + 4)) };
    [a, b, c, d, e, f, g, h]
}

impl Counts {
    /// Loads the counts of the thread's tuples.
    ///
    /// # Safety
    /// The buffers are as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn load(place: &Place, seq_len: u32, tuple_counts: Out<u32>) -> Self {
        let half = (2 * place.group + seq_len % 2) as usize;
        // SAFETY: the half that no block of this step writes.
        Counts(unsafe {
            load_counts(
                tuple_counts.from(half * NUM_TUPLES as usize),
                first_tuple() as usize,
            )
        })
    }

    /// The counts before block `end / keys_per_block` of keys, if the candidates end where it begins, for later
    /// steps.
    ///
    /// # Safety
    /// No other block of the grid has the group's, and the buffers are as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn keep(&self, place: &Place, end: u32, prefixes: Out<u32>) {
        let block = end >> place.keys_log2;
        if end != block << place.keys_log2 || block >= place.num_blocks {
            return;
        }
        let block = (place.group * place.num_blocks + block) as usize;
        let at = block * NUM_TUPLES as usize + first_tuple() as usize;
        let [a, b, c, d, e, f, g, h] = self.0;
        // SAFETY: each thread has its own eight words.
        unsafe {
            prefixes.set4(at, [a, b, c, d]);
            prefixes.set4(at + 4, [e, f, g, h]);
        }
    }
}

impl Tuples {
    /// Scores the thread's tuples and counts their candidates in the histogram.
    ///
    /// # Safety
    /// The table is built and the histogram clear, a barrier ago.
    #[inline(always)]
    pub(super) unsafe fn count(shape: &StepShape, counts: Counts, range: Range) -> Self {
        let Counts(counts) = counts;
        let first = first_tuple();
        let table = dynamic_shared_mem::<f32>(layout::TABLE);
        // Eight neighbouring tuples differ in the first code alone: codes have at least three bits. What
        // has more bits than the format's tuples has no candidates.
        let codes = code_of_tuple(first, 0, shape.bits);
        // SAFETY: codes of the format are entries of the table, and eight neighbours are aligned.
        let ([a, b, c, d], [e, f, g, h]) = unsafe { (table.get4(codes), table.get4(codes + 4)) };
        let mut scores = [a, b, c, d, e, f, g, h];
        let mut subvector = 1;
        while subvector < shape.num_subvectors {
            let code = code_of_tuple(first, subvector, shape.bits);
            // SAFETY: as above.
            let entry = unsafe { table.get((subvector << shape.bits) + code) };
            each_tuple!(I, {
                scores[I] += entry;
            });
            subvector += 1;
        }
        let bins = dynamic_shared_mem::<u32>(layout::BINS);
        let mut tuples = Tuples {
            scores,
            counts,
            bins: [0; PER_THREAD],
        };
        each_tuple!(I, {
            let bin = range.bin(tuples.scores[I]);
            // SAFETY: until the barrier the bins are only added to.
            unsafe { bins.atomic_add(bin, tuples.counts[I]) };
            // Where a tuple has no candidates, no bin.
            tuples.bins[I] = if tuples.counts[I] > 0 { bin } else { NUM_BINS };
        });
        tuples
    }

    /// Finds the cut for the `heavy_k` best candidates.
    ///
    /// # Safety
    /// Every thread of the block is here, and has counted; `heavy_k` is at least 1 and at most the number
    /// of candidates.
    #[inline(always)]
    pub(super) unsafe fn find_cut(&self, heavy_k: u32) -> Cut {
        let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
        let ranked = dynamic_shared_mem::<u32>(layout::RANKED);
        // SAFETY: all branches are the same in the whole block: they depend on figures that one thread
        // wrote a barrier ago.
        unsafe {
            thread::sync_threads();
            choose_bin(heavy_k);

            let bin = figures.get(figure::BIN);
            let mut any = false;
            each_tuple!(I, {
                any |= self.bins[I] == bin;
            });
            if any {
                each_tuple!(I, {
                    if self.bins[I] == bin {
                        let slot = figures.atomic_fetch_add(figure::NUM_RANKED, 1);
                        if slot < MAX_RANKED {
                            ranked.set(slot, order_key(self.scores[I]));
                            ranked.set(MAX_RANKED + slot, self.counts[I]);
                        }
                    }
                });
            }
            thread::sync_threads();
            let num_ranked = figures.get(figure::NUM_RANKED);
            if num_ranked <= MAX_RANKED {
                rank(num_ranked, figures.get(figure::NEED))
            } else {
                self.bisect(heavy_k)
            }
        }
    }

    /// The cut among any number of tuples: bit by bit, the largest order key that at least `heavy_k`
    /// candidates reach.
    ///
    /// # Safety
    /// As [`Tuples::find_cut`].
    #[inline(always)]
    unsafe fn bisect(&self, heavy_k: u32) -> Cut {
        let sums = dynamic_shared_mem::<u32>(layout::SUMS);
        let mut key = 0;
        let mut bit = thread::opaque(1 << 31);
        // SAFETY: every thread is here, as in every round: the block's sum is the same for all.
        unsafe {
            // The last round counts those above.
            loop {
                let least = if bit != 0 { key | bit } else { key + 1 };
                let mut sum = 0;
                each_tuple!(I, {
                    if order_key(self.scores[I]) >= least {
                        sum += self.counts[I];
                    }
                });
                let sum = block::sum(sum, sums);
                if bit == 0 {
                    return Cut::new(key, heavy_k - sum);
                }
                if sum >= heavy_k {
                    key |= bit;
                }
                bit >>= 1;
            }
        }
    }
}

/// Chooses the bin in which the `heavy_k` best end, and how many of it are taken: `figure::BIN`, `NEED`.
///
/// # Safety
/// Every thread of the block is here, and has waited since the last count.
#[inline(always)]
unsafe fn choose_bin(heavy_k: u32) {
    let bins = dynamic_shared_mem::<u32>(layout::BINS);
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    // Thread 0 has the highest bins: the candidates taken first come first in the sum.
    let first = NUM_BINS - 4 * (thread::thread_idx_x() + 1);
    // SAFETY: 512 threads x 4 bins.
    unsafe {
        // Four names rather than an array: an array that a loop indexes has an address, in local memory.
        let [c0, c1, c2, c3] = bins.get4(first);
        let sum = c0 + c1 + c2 + c3;
        let (through, _) = block::inclusive_sum_once(sum, dynamic_shared_mem(layout::SUMS));
        let before = through - sum;
        // The sums ascend, so this holds for one thread.
        if before < heavy_k && heavy_k <= through {
            let (mut bin, mut count, mut taken) = (first + 3, c3, before);
            if heavy_k > taken + count {
                (bin, count, taken) = (first + 2, c2, taken + c3);
            }
            if heavy_k > taken + count {
                (bin, count, taken) = (first + 1, c1, taken + c2);
            }
            if heavy_k > taken + count {
                (bin, taken) = (first, taken + c1);
            }
            figures.set(figure::BIN, bin);
            figures.set(figure::NEED, heavy_k - taken);
        }
        thread::sync_threads();
    }
}

/// The cut in a boundary bin of `num_ranked` tuples, a thread each, of whose candidates `need` are taken.
///
/// # Safety
/// Every thread of the block is here, and has waited since the tuples were listed.
#[inline(always)]
unsafe fn rank(num_ranked: u32, need: u32) -> Cut {
    let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
    let ranked = dynamic_shared_mem::<u32>(layout::RANKED);
    let t = thread::thread_idx_x();
    // SAFETY: entries below num_ranked are written, and stay. Of the tuples with the cut's key one
    // thread writes the figures: the first's.
    unsafe {
        if t < num_ranked {
            let key = ranked.get(t);
            let (mut better, mut equal, mut is_first) = (0, 0, true);
            let mut i = 0;
            while i < num_ranked {
                let (other, count) = (ranked.get(i), ranked.get(MAX_RANKED + i));
                better += if other > key { count } else { 0 };
                equal += if other == key { count } else { 0 };
                is_first &= other != key || i >= t;
                i += 1;
            }
            if is_first && better < need && need <= better + equal {
                figures.set(figure::CUT_KEY, key);
                figures.set(figure::TIES, need - better);
            }
        }
        thread::sync_threads();
        Cut::new(figures.get(figure::CUT_KEY), figures.get(figure::TIES))
    }
}

const _: () = assert!(PER_THREAD == 8 && MAX_RANKED <= THREADS);
