//! The cut of a row, from the scores and the counts of its tuples.

use super::table::Range;
use super::{MAX_RANKED, NUM_BINS, Place, THREADS, layout};
use crate::device::shared::dynamic_shared_mem;
use crate::device::{block, thread};
use crate::kernel::{In, Out};
use crate::order::order_key;
use crate::scores::score;
use crate::step::StepShape;
use crate::tuple_counts::{self, NUM_TUPLES, candidates, code_of_tuple};

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

/// Which candidates are taken: all with a larger order key, and the first `ties` with an equal one.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    pub(super) key: u32,
    pub(super) ties: u32,
}

/// A thread's tuples, from `first` on.
pub(super) struct Tuples {
    pub(super) first: u32,
    /// Their scores.
    scores: [f32; PER_THREAD],
    /// How many candidates have them.
    counts: [u32; PER_THREAD],
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

impl Tuples {
    /// Scores the tuples and counts their candidates.
    ///
    /// # Safety
    /// The table is built, a barrier ago; the buffers are as the kernel's documentation says.
    #[inline(always)]
    pub(super) unsafe fn new(
        shape: &StepShape,
        place: &Place,
        seq_len: u32,
        codes: In<u8>,
        tuple_counts: Out<u32>,
    ) -> Self {
        let group = shape.group_of_row(place.row);
        let first = PER_THREAD as u32 * thread::thread_idx_x();
        let at = (2 * group + seq_len % 2) as usize * NUM_TUPLES as usize + first as usize;
        let (mut counts, mut scores) = ([0; PER_THREAD], [0.0; PER_THREAD]);
        // SAFETY: the half that no block of this step writes; four words each, aligned.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (tuple_counts.get4(at), tuple_counts.get4(at + 4));
            counts.clone_from(&[a, b, c, d, e, f, g, h]);
        }

        // The candidate that came since that half was counted.
        let (end, before) = (
            candidates(shape, seq_len).1,
            candidates(shape, seq_len - 1).1,
        );
        let mut newest = NUM_TUPLES;
        if end > before {
            // SAFETY: its codes were written by an earlier step: it has left the window.
            newest = unsafe { tuple_counts::tuple_of_key(shape, codes, group, end - 1) };
        }

        let table = dynamic_shared_mem::<f32>(layout::TABLE);
        each_tuple!(I, {
            let tuple = first + I as u32;
            scores[I] = score(shape.num_subvectors as usize, |j| {
                let code = code_of_tuple(tuple, j as u32, shape.bits);
                // SAFETY: a code of the format is an entry of the table.
                unsafe { table.get(((j as u32) << shape.bits) + code) }
            });
            counts[I] += u32::from(tuple == newest);
        });
        Tuples {
            first,
            scores,
            counts,
        }
    }

    /// The order key of the thread's tuple `i`.
    #[inline(always)]
    pub(super) fn order_key(&self, i: usize) -> u32 {
        order_key(self.scores[i])
    }

    /// Finds the cut for the `heavy_k` best candidates.
    ///
    /// # Safety
    /// Every thread of the block is here; `heavy_k` is at least 1 and at most the number of candidates.
    #[inline(always)]
    pub(super) unsafe fn find_cut(&self, range: Range, heavy_k: u32) -> Cut {
        let bins = dynamic_shared_mem::<u32>(layout::BINS);
        let figures = dynamic_shared_mem::<u32>(layout::FIGURES);
        let ranked = dynamic_shared_mem::<u32>(layout::RANKED);
        // SAFETY: all branches are the same in the whole block: they depend on figures that one thread
        // wrote a barrier ago.
        unsafe {
            each_tuple!(I, {
                if self.counts[I] > 0 {
                    bins.atomic_add(range.bin(self.scores[I]), self.counts[I]);
                }
            });
            thread::sync_threads();
            choose_bin(heavy_k);

            let bin = figures.get(figure::BIN);
            let need = figures.get(figure::NEED);
            each_tuple!(I, {
                if self.counts[I] > 0 && range.bin(self.scores[I]) == bin {
                    let slot = figures.atomic_fetch_add(figure::NUM_RANKED, 1);
                    if slot < MAX_RANKED {
                        ranked.set(slot, self.order_key(I));
                        ranked.set(MAX_RANKED + slot, self.counts[I]);
                    }
                }
            });
            thread::sync_threads();
            let num_ranked = figures.get(figure::NUM_RANKED);
            if num_ranked <= MAX_RANKED {
                rank(num_ranked, need)
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
            while bit != 0 {
                let mut sum = 0;
                each_tuple!(I, {
                    if self.order_key(I) >= key | bit {
                        sum += self.counts[I];
                    }
                });
                if block::sum(sum, sums) >= heavy_k {
                    key |= bit;
                }
                bit >>= 1;
            }
            let mut above = 0;
            each_tuple!(I, {
                if self.order_key(I) > key {
                    above += self.counts[I];
                }
            });
            Cut {
                key,
                ties: heavy_k - block::sum(above, sums),
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
        Cut {
            key: figures.get(figure::CUT_KEY),
            ties: figures.get(figure::TIES),
        }
    }
}

const _: () = assert!(PER_THREAD == 8 && MAX_RANKED <= THREADS);
