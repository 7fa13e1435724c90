//! Top-k: the `heavy_k` first candidates in the total order of [`crate::order`], by ascending position.
//!
//! On the device a radix select over the 32-bit [`order_key`](crate::order::order_key), several blocks a row and no block
//! waiting for another: three rounds of (histogram of a digit, choice of the digit) find the key of
//! the last candidate taken and how many equal keys are taken; then every block counts its
//! candidates above and at that key, and gathers them behind those of the blocks before it. Equal
//! keys are taken by ascending position, which is the order of the gathering itself.

use crate::kernel::{In, Out};
use crate::step::{Regions, SequenceParams, StepShape};

/// Digits of an order key, from the top: 11, 11 and 10 bits.
pub const NUM_DIGITS: u32 = 3;
/// Bins of a row's histogram.
pub const NUM_BINS: u32 = 2048;
/// Candidates that one block looks at.
pub const KEYS_PER_BLOCK: u32 = 256 * KEYS_PER_THREAD;
/// Neighbouring candidates that one thread looks at.
pub const KEYS_PER_THREAD: u32 = 16;
/// Words of [`Cut`] in a row's state.
pub const CUT_WORDS: u32 = 2;

/// Bits below digit `digit`.
#[inline(always)]
pub fn digit_shift(digit: u32) -> u32 {
    match digit {
        0 => 21,
        1 => 10,
        _ => 0,
    }
}

/// Values of digit `digit`.
#[inline(always)]
pub fn digit_bins(digit: u32) -> u32 {
    if digit == 2 { 1024 } else { 2048 }
}

/// Where a row is cut: candidates with a larger key are taken, and of those with an equal key the
/// first `ties`. During the search the digits not yet chosen are zero and `ties` counts the
/// candidates still to be taken among those that agree in the digits chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The key of the last candidate taken.
    pub key: u32,
    /// Candidates of that key that are taken.
    pub ties: u32,
}

impl Cut {
    /// Whether `key` agrees with the cut in the digits before `digit`.
    #[inline(always)]
    pub fn agrees_before(&self, digit: u32, key: u32) -> bool {
        digit == 0 || (key ^ self.key) >> digit_shift(digit - 1) == 0
    }

    /// Counts a candidate: above the cut in the upper half, at it in the lower.
    #[inline(always)]
    pub fn packed_count(&self, key: u32) -> u32 {
        (u32::from(key > self.key) << 16) | u32::from(key == self.key)
    }
}

/// The range of a group's codes that block `block` of a row looks at, empty if `first >= end`.
#[inline(always)]
pub fn block_range(shape: &StepShape, regions: &Regions, block: u32) -> (u32, u32) {
    let start = regions.candidates_start - shape.init_offset;
    let end = (regions.candidates_end - shape.init_offset).min(shape.code_capacity);
    (
        (start + block * KEYS_PER_BLOCK).min(end),
        (start + (block + 1) * KEYS_PER_BLOCK).min(end),
    )
}

/// Reads a row's cut.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
fn read_cut(cuts: In<u32>, row: u32) -> Cut {
    let at = (row * CUT_WORDS) as usize;
    // SAFETY: `top_k_digit` has written CUT_WORDS words for each row.
    unsafe {
        Cut {
            key: cuts.get(at),
            ties: cuts.get(at + 1),
        }
    }
}

kernel! {
    /// Adds the candidates that agree with the cut so far to the row's histogram of digit `digit`.
    ///
    /// Grid: (rows, blocks over code_capacity by [`KEYS_PER_BLOCK`]). Dynamic shared memory:
    /// [`NUM_BINS`] words. `scores` `[rows, code_capacity]`, `sequences` `[batch]`,
    /// `cuts` `[rows, CUT_WORDS]` (not read for digit 0), `histograms` `[rows, NUM_BINS]` all zero.
    pub fn top_k_histogram as TopKHistogram(
        scores: In<f32>, sequences: In<SequenceParams>, cuts: In<u32>, histograms: Out<u32>, digit: u32,
        shape: StepShape,
    );
    threads = 256; barriers = 2 * crate::collectives::SYNC_THREADS; shuffles = 0;
    {
        use crate::device::{shared, thread};
        use crate::order::order_key;
        use crate::step::row_view;

        let row = thread::block_idx_x();
        // SAFETY: one for each sequence.
        let (own, regions) = unsafe { row_view(&shape, sequences, row) };
        let (first, end) = block_range(&own, &regions, thread::block_idx_y());
        if first >= end {
            return; // the whole block together
        }
        let cut = if digit == 0 { Cut { key: 0, ties: 0 } } else { read_cut(cuts, row) };

        let bins = shared::dynamic_shared_mem::<u32>(0);
        let mut bin = thread::thread_idx_x();
        while bin < NUM_BINS {
            // SAFETY: the launch gives the block NUM_BINS words; each thread has its own bins.
            unsafe { bins.set(bin, 0) };
            bin += thread::block_dim_x();
        }
        // SAFETY: the return above is uniform over the block.
        unsafe { thread::sync_threads() };

        let row_at = row as usize * shape.code_capacity as usize;
        let mut candidate = first + thread::thread_idx_x();
        while candidate < end {
            // SAFETY: a candidate's score is written.
            let key = order_key(unsafe { scores.get(row_at + candidate as usize) });
            if cut.agrees_before(digit, key) {
                let value = (key >> digit_shift(digit)) & (digit_bins(digit) - 1);
                // SAFETY: value < NUM_BINS, and between the barriers bins are only added to.
                unsafe { bins.atomic_add(value, 1) };
            }
            candidate += thread::block_dim_x();
        }
        // SAFETY: as above.
        unsafe { thread::sync_threads() };

        let mut bin = thread::thread_idx_x();
        while bin < NUM_BINS {
            // SAFETY: bin < NUM_BINS, and the barrier is passed.
            let count = unsafe { bins.get(bin) };
            if count != 0 {
                // SAFETY: the row's histogram has NUM_BINS bins, which this kernel only adds to.
                unsafe { histograms.atomic_add((row * NUM_BINS + bin) as usize, count) };
            }
            bin += thread::block_dim_x();
        }
    }
}

kernel! {
    /// Chooses digit `digit` of every row's cut from its histogram, and clears the histogram.
    ///
    /// Grid: rows. Dynamic shared memory: `SUM_WORDS` + [`CUT_WORDS`] words. `sequences` `[batch]`,
    /// `histograms` `[rows, NUM_BINS]`, `cuts` `[rows, CUT_WORDS]`.
    pub fn top_k_digit as TopKDigit(
        sequences: In<SequenceParams>, histograms: Out<u32>, cuts: Out<u32>, digit: u32, shape: StepShape,
    );
    threads = 256; barriers = crate::collectives::INCLUSIVE_SUM_BARRIERS + crate::collectives::SYNC_THREADS;
    shuffles = crate::collectives::INCLUSIVE_SUM_SHUFFLES;
    {
        use crate::device::{block, shared, thread};
        use crate::step::row_view;

        const BINS_PER_THREAD: u32 = NUM_BINS / 256;
        let row = thread::block_idx_x();
        let cut_at = (row * CUT_WORDS) as usize;
        // SAFETY: one for each sequence.
        let (own, regions) = unsafe { row_view(&shape, sequences, row) };
        if regions.num_candidates() == 0 {
            return; // the whole block together: no histogram, and nobody asks for the cut
        }
        let cut = if digit == 0 {
            Cut { key: 0, ties: regions.heavy_k(own.heavy) }
        } else {
            // SAFETY: the last digit's launch wrote the row's cut; it is written again by one thread
            // behind two barriers.
            unsafe { Cut { key: cuts.get(cut_at), ties: cuts.get(cut_at + 1) } }
        };

        // Thread 0 has the highest bins: the candidates taken first come first in the sum.
        let top = NUM_BINS - 1 - thread::thread_idx_x() * BINS_PER_THREAD;
        let mut counts = [0; BINS_PER_THREAD as usize];
        let mut sum = 0;
        for (i, count) in counts.iter_mut().enumerate() {
            let at = (row * NUM_BINS + top) as usize - i;
            // SAFETY: the row has NUM_BINS bins, and each thread has its own.
            unsafe {
                *count = histograms.get(at);
                histograms.set(at, 0);
            }
            sum += *count;
        }

        let scratch = shared::dynamic_shared_mem::<u32>(0);
        let chosen = shared::dynamic_shared_mem::<u32>(crate::collectives::SUM_WORDS);
        if thread::thread_idx_x() == 0 {
            // Nothing to take: a cut above every key.
            // SAFETY: the launch gives CUT_WORDS words behind the scratch; a barrier follows.
            unsafe {
                chosen.set(0, digit_bins(digit) - 1);
                chosen.set(1, 0);
            }
        }
        // SAFETY: every thread of the block gets here; the scratch is used for nothing else.
        let (through, _) = unsafe { block::inclusive_sum(sum, scratch) };
        let mut taken = through - sum;
        for (i, &count) in counts.iter().enumerate() {
            if taken < cut.ties && cut.ties <= taken + count {
                // SAFETY: the sums ascend, so this holds for one bin of one thread.
                unsafe {
                    chosen.set(0, top - i as u32);
                    chosen.set(1, cut.ties - taken);
                }
            }
            taken += count;
        }
        // SAFETY: every thread of the block gets here.
        unsafe { thread::sync_threads() };
        if thread::thread_idx_x() == 0 {
            // SAFETY: the barrier is passed; one thread writes the row's cut.
            unsafe {
                cuts.set(cut_at, cut.key | chosen.get(0) << digit_shift(digit));
                cuts.set(cut_at + 1, chosen.get(1));
            }
        }
    }
}

kernel! {
    /// Counts every block's candidates above the cut (upper 16 bits) and at it (lower 16 bits).
    ///
    /// Grid: (rows, blocks over code_capacity by [`KEYS_PER_BLOCK`]). Dynamic shared memory:
    /// `SUM_WORDS` words. `scores` `[rows, code_capacity]`, `sequences` `[batch]`,
    /// `cuts` `[rows, CUT_WORDS]`, `counts` `[rows, blocks]`.
    pub fn top_k_count as TopKCount(
        scores: In<f32>, sequences: In<SequenceParams>, cuts: In<u32>, counts: Out<u32>, shape: StepShape,
    );
    threads = 256; barriers = crate::collectives::INCLUSIVE_SUM_BARRIERS; shuffles = crate::collectives::INCLUSIVE_SUM_SHUFFLES;
    {
        use crate::device::{block, shared, thread};
        use crate::order::order_key;
        use crate::step::row_view;

        let (row, block) = (thread::block_idx_x(), thread::block_idx_y());
        // SAFETY: one for each sequence.
        let (own, regions) = unsafe { row_view(&shape, sequences, row) };
        let (first, end) = block_range(&own, &regions, block);
        if regions.num_candidates() == 0 {
            return; // the whole block together: nobody asks for the counts
        }
        let cut = read_cut(cuts, row);
        let row_at = row as usize * shape.code_capacity as usize;

        let mut count = 0;
        let mut candidate = first + thread::thread_idx_x();
        while candidate < end {
            // SAFETY: a candidate's score is written.
            count += cut.packed_count(order_key(unsafe { scores.get(row_at + candidate as usize) }));
            candidate += thread::block_dim_x();
        }
        // SAFETY: every thread of the block gets here; the launch gives the block SUM_WORDS words.
        // Neither half overflows: a block has 4096 candidates.
        let (_, total) =
            unsafe { block::inclusive_sum(count, shared::dynamic_shared_mem::<u32>(0)) };
        if thread::thread_idx_x() == 0 {
            // SAFETY: one count for each block of the row, written by this thread alone.
            unsafe { counts.set((row * thread::grid_dim_y() + block) as usize, total) };
        }
    }
}

kernel! {
    /// Writes the positions of the candidates taken, ascending.
    ///
    /// Grid and shared memory as for `top_k_count`. `scores` `[rows, code_capacity]`,
    /// `sequences` `[batch]`, `cuts` `[rows, CUT_WORDS]`, `counts` `[rows, blocks]`,
    /// `heavy_positions` `[rows, heavy]`, of which the first heavy_k are written.
    pub fn top_k_gather as TopKGather(
        scores: In<f32>, sequences: In<SequenceParams>, cuts: In<u32>, counts: In<u32>,
        heavy_positions: Out<i32>, shape: StepShape,
    );
    threads = 256; barriers = 3 * crate::collectives::INCLUSIVE_SUM_BARRIERS; shuffles = 3 * crate::collectives::INCLUSIVE_SUM_SHUFFLES;
    {
        use crate::device::{block, shared, thread};
        use crate::order::order_key;
        use crate::step::row_view;

        let (row, block) = (thread::block_idx_x(), thread::block_idx_y());
        // SAFETY: one for each sequence.
        let (own, regions) = unsafe { row_view(&shape, sequences, row) };
        let (first, end) = block_range(&own, &regions, block);
        if first >= end {
            return; // the whole block together
        }
        let cut = read_cut(cuts, row);

        // What the blocks before this one take.
        let (mut above, mut at_cut) = (0, 0);
        let mut earlier = thread::thread_idx_x();
        while earlier < block {
            // SAFETY: `top_k_count` wrote a count for each block of the row.
            let count = unsafe { counts.get((row * thread::grid_dim_y() + earlier) as usize) };
            above += count >> 16;
            at_cut += count & 0xffff;
            earlier += thread::block_dim_x();
        }
        let scratch = shared::dynamic_shared_mem::<u32>(0);
        // SAFETY: the return above is uniform over the block, so every thread gets here; the launch
        // gives the block SUM_WORDS words, used for nothing else.
        let ((_, above), (_, at_cut)) = unsafe {
            (block::inclusive_sum(above, scratch), block::inclusive_sum(at_cut, scratch))
        };

        // What the threads before this one take: each has neighbouring candidates.
        let row_at = row as usize * shape.code_capacity as usize;
        let first = (first + thread::thread_idx_x() * KEYS_PER_THREAD).min(end);
        let end = (first + KEYS_PER_THREAD).min(end);
        let mut count = 0;
        for candidate in first..end {
            // SAFETY: a candidate's score is written.
            count += cut.packed_count(order_key(unsafe { scores.get(row_at + candidate as usize) }));
        }
        // SAFETY: every thread of the block gets here, as above.
        let (through, _) = unsafe { block::inclusive_sum(count, scratch) };
        let before = through - count;
        let mut above = above + (before >> 16);
        let mut at_cut = at_cut + (before & 0xffff);

        for candidate in first..end {
            // SAFETY: a candidate's score is written.
            let key = order_key(unsafe { scores.get(row_at + candidate as usize) });
            if key > cut.key || (key == cut.key && at_cut < cut.ties) {
                let slot = row as usize * shape.heavy as usize + (above + at_cut.min(cut.ties)) as usize;
                // SAFETY: slots count the candidates taken, heavy_k <= heavy in all, each its own.
                unsafe { heavy_positions.set(slot, (candidate + own.init_offset) as i32) };
            }
            above += u32::from(key > cut.key);
            at_cut += u32::from(key == cut.key);
        }
    }
}
