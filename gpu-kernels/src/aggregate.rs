//! One list for the query heads that share keys: their scores of each candidate become one.
//!
//! The mean and the largest of the scores need nothing else. The sum of the softmax over all candidates is
//! the rule of the PQCache paper (Zhang et al., 2024), of scores over sqrt(head_dim) as attention takes
//! them. It needs each row's largest score and the sum of all exponentials, both in chunks of [`CHUNK`]
//! candidates, which blocks of a row have to themselves; every order of additions is stated, so that both
//! backends get the same bits.

use crate::float::fma;
use crate::kernel::{In, Out};
use crate::order::order_key;
use crate::step::{Regions, SequenceParams, StepShape};

/// [`StepShape::aggregation`]: a list for every query head.
pub const PER_HEAD: u32 = 0;
/// [`StepShape::aggregation`]: the sum of the heads' softmax over all candidates.
pub const SOFTMAX: u32 = 1;
/// [`StepShape::aggregation`]: the largest of the heads' scores.
pub const MAX: u32 = 2;
/// [`StepShape::aggregation`]: the mean of the heads' scores.
pub const MEAN: u32 = 3;

/// Candidates of a chunk; the first begins with the row's first candidate.
pub const CHUNK: u32 = 1024;
/// Partial sums of a [`tree_sum`], and threads of a block.
pub const LANES: usize = 256;

/// The sum of `len` numbers, those that are `None` left out: number `i` is added to partial sum `i % 256`, in
/// ascending order from +0.0; then the upper half of the partial sums is added to the lower until one is
/// left.
pub fn tree_sum(len: usize, number: impl Fn(usize) -> Option<f32>) -> f32 {
    let mut sums = [0.0; LANES];
    for i in 0..len {
        if let Some(number) = number(i) {
            sums[i % LANES] += number;
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The exponential of a score less its row's largest, `exp((score - max) * scale)`; 1 where they are equal,
/// infinities among them. NaN gives NaN: it is left out of its row's largest score and of the sum, and makes
/// its candidate's aggregate NaN, which comes after every number.
#[inline(always)]
pub fn exponential(score: f32, max: f32, scale: f32) -> f32 {
    if score == max {
        1.0
    } else {
        exp_of_negative((score - max) * scale)
    }
}

/// The heads' shares added in the order of the heads, each addition rounded.
#[inline(always)]
pub fn sum_of_heads(num_heads: usize, share: impl Fn(usize) -> f32) -> f32 {
    let mut sum = share(0);
    for head in 1..num_heads {
        sum += share(head);
    }
    sum
}

/// The largest of the heads' scores in the order of [`order_key`], the first where several are: NaN only if
/// all are.
#[inline(always)]
pub fn largest(num_heads: usize, score: impl Fn(usize) -> f32) -> f32 {
    let mut best = score(0);
    for head in 1..num_heads {
        let score = score(head);
        if order_key(score) > order_key(best) {
            best = score;
        }
    }
    best
}

/// The mean of the heads' scores: their sum in the order of the heads, each addition rounded, over their
/// number. An overflow is infinity, and NaN stays NaN.
#[inline(always)]
pub fn mean(num_heads: usize, score: impl Fn(usize) -> f32) -> f32 {
    sum_of_heads(num_heads, score) / num_heads as f32
}

/// `e` to `x` for `x <= 0` or NaN, which stays NaN; 0 below -87, where `exp(x) < 2^-125`.
///
/// `x = n ln 2 + r` with the nearest whole `n`, ln 2 in two parts (Cody and Waite, 1980), then the Taylor
/// polynomial of degree 7 in `r`, |r| <= ln 2 / 2, whose remainder is below 2^-27, by Horner's rule with one
/// fused multiply-add a term, and a multiplication by 2^n, which is exact.
#[inline(always)]
pub fn exp_of_negative(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to a whole number, to the even one of two.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    if x < -87.0 {
        return 0.0;
    }
    let shifted = fma(x, core::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma(n, -LN_2_LOW, fma(n, -LN_2_HIGH, x));
    let mut sum = 1.0 / 5040.0;
    for term in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = fma(sum, r, term);
    }
    // The last bits of `shifted` are n, and -126 <= n <= 0: no denormal.
    let exponent = (shifted.to_bits().wrapping_sub(ROUND.to_bits())).wrapping_add(127);
    sum * f32::from_bits(exponent << 23)
}

/// Chunks of a row.
#[inline(always)]
pub fn num_chunks(regions: &Regions) -> u32 {
    regions.num_candidates().div_ceil(CHUNK)
}

/// The codes of chunk `chunk` of a row, empty if `first >= end`; `shape` has the row's own regions.
#[inline(always)]
pub fn chunk_range(shape: &StepShape, regions: &Regions, chunk: u32) -> (u32, u32) {
    let start = regions.candidates_start - shape.init_offset;
    let end = (regions.candidates_end - shape.init_offset).min(shape.code_capacity);
    (
        (start + chunk * CHUNK).min(end),
        (start + (chunk + 1) * CHUNK).min(end),
    )
}

kernel! {
    /// The order key of every chunk's largest score.
    ///
    /// Grid: (rows, chunks of code_capacity). Dynamic shared memory: `SUM_WORDS` words.
    /// `scores` `[rows, code_capacity]`, `sequences` `[batch]`, `maxima` `[rows, chunks]`.
    pub fn softmax_max as SoftmaxMax(
        scores: In<f32>, sequences: In<SequenceParams>, maxima: Out<u32>, shape: StepShape,
    );
    threads = 256; barriers = crate::collectives::MAX_BARRIERS;
    shuffles = crate::collectives::MAX_WARP;
    {
        use crate::device::{block, shared, thread};
        use crate::step::row_view;

        let (row, chunk) = (thread::block_idx_x(), thread::block_idx_y());
        // SAFETY: one for each sequence.
        let (own, regions) = unsafe { row_view(&shape, sequences, row) };
        let (first, end) = chunk_range(&own, &regions, chunk);
        if first >= end {
            return; // the whole block together
        }
        let row_at = row as usize * shape.code_capacity as usize;
        let mut largest = 0;
        let mut candidate = first + thread::thread_idx_x();
        while candidate < end {
            // SAFETY: a candidate's score is written.
            let key = order_key(unsafe { scores.get(row_at + candidate as usize) });
            largest = largest.max(key);
            candidate += thread::block_dim_x();
        }
        // SAFETY: the return above is uniform over the block; the launch gives it SUM_WORDS words.
        let largest = unsafe { block::max(largest, shared::dynamic_shared_mem::<u32>(0)) };
        if thread::thread_idx_x() == 0 {
            // SAFETY: one for each chunk of the row, written by this thread alone.
            unsafe { maxima.set((row * thread::grid_dim_y() + chunk) as usize, largest) };
        }
    }
}

/// The order key of a row's largest score from those of its chunks.
///
/// # Safety
/// Every thread of the block is here; `scratch` as [`block::max`](crate::device::block::max) needs it;
/// `maxima` has `stride` words a row, those of the row's chunks written.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
unsafe fn row_max(
    regions: &Regions,
    row: u32,
    stride: u32,
    maxima: In<u32>,
    scratch: crate::device::shared::SharedArray<u32>,
) -> f32 {
    use crate::device::{block, thread};

    let mut largest = 0;
    let mut chunk = thread::thread_idx_x();
    while chunk < num_chunks(regions).min(stride) {
        // SAFETY: the caller's.
        largest = largest.max(unsafe { maxima.get((row * stride + chunk) as usize) });
        chunk += thread::block_dim_x();
    }
    // SAFETY: the caller's.
    crate::order::score_of_key(unsafe { block::max(largest, scratch) })
}

kernel! {
    /// The [`tree_sum`] of every chunk's exponentials.
    ///
    /// Grid: (rows, chunks of code_capacity). Dynamic shared memory: `SUM_WORDS` + [`LANES`] words.
    /// `scores` `[rows, code_capacity]`, `sequences` `[batch]`, `maxima` and `sums` `[rows, chunks]`.
    pub fn softmax_sum as SoftmaxSum(
        scores: In<f32>, sequences: In<SequenceParams>, maxima: In<u32>, sums: Out<f32>, scale: f32,
        shape: StepShape,
    );
    threads = 256;
    barriers = crate::collectives::MAX_BARRIERS + crate::collectives::TREE_SUM_BARRIERS;
    shuffles = crate::collectives::MAX_WARP;
    {
        use crate::device::{block, shared, thread};
        use crate::step::row_view;

        let (row, chunk) = (thread::block_idx_x(), thread::block_idx_y());
        // SAFETY: one for each sequence.
        let (own, regions) = unsafe { row_view(&shape, sequences, row) };
        let (first, end) = chunk_range(&own, &regions, chunk);
        if first >= end {
            return; // the whole block together
        }
        let scratch = shared::dynamic_shared_mem::<u32>(0);
        let lanes = shared::dynamic_shared_mem::<f32>(crate::collectives::SUM_WORDS);
        let stride = thread::grid_dim_y();
        // SAFETY: the return above is uniform over the block; `softmax_max` wrote the row's chunks.
        let max = unsafe { row_max(&regions, row, stride, maxima, scratch) };

        let row_at = row as usize * shape.code_capacity as usize;
        let mut sum = 0.0;
        let mut candidate = first + thread::thread_idx_x();
        while candidate < end {
            // SAFETY: a candidate's score is written.
            let score = unsafe { scores.get(row_at + candidate as usize) };
            if !score.is_nan() {
                sum += exponential(score, max, scale);
            }
            candidate += thread::block_dim_x();
        }
        // SAFETY: as above; the launch gives the block LANES words behind the scratch.
        let sum = unsafe { block::tree_sum(sum, lanes) };
        if thread::thread_idx_x() == 0 {
            // SAFETY: one for each chunk of the row, written by this thread alone.
            unsafe { sums.set((row * stride + chunk) as usize, sum) };
        }
    }
}

kernel! {
    /// The aggregate of every candidate's scores.
    ///
    /// Grid: (rows of lists, chunks of code_capacity). Dynamic shared memory: `SUM_WORDS` + [`LANES`] words,
    /// and two for each query head of a key-value head. `scores` `[rows, code_capacity]`,
    /// `sequences` `[batch]`, `maxima` and `sums` `[rows, chunks]` (read for [`SOFTMAX`]),
    /// `aggregates` `[batch, num_kv_heads, num_queries, code_capacity]`.
    pub fn aggregate as Aggregate(
        scores: In<f32>, sequences: In<SequenceParams>, maxima: In<u32>, sums: In<f32>,
        aggregates: Out<f32>, scale: f32, shape: StepShape,
    );
    threads = 256;
    barriers = crate::collectives::MAX_BARRIERS + crate::collectives::TREE_SUM_BARRIERS
        + crate::collectives::SYNC_THREADS;
    shuffles = crate::collectives::MAX_WARP;
    {
        use crate::device::{block, shared, thread};
        use crate::step::row_view;

        let (list, chunk) = (thread::block_idx_x(), thread::block_idx_y());
        let num_heads = shape.num_qo_heads / shape.num_kv_heads;
        let (group, query) = (list / shape.num_queries, list % shape.num_queries);
        let row_of = |head: u32| (group * num_heads + head) * shape.num_queries + query;
        // SAFETY: one for each sequence; all rows of a list see the same.
        let (own, regions) = unsafe { row_view(&shape, sequences, row_of(0)) };
        let (first, end) = chunk_range(&own, &regions, chunk);
        if first >= end {
            return; // the whole block together
        }
        let scratch = shared::dynamic_shared_mem::<u32>(0);
        let lanes = shared::dynamic_shared_mem::<f32>(crate::collectives::SUM_WORDS);
        let rows = shared::dynamic_shared_mem::<f32>(crate::collectives::SUM_WORDS + LANES as u32);
        let stride = thread::grid_dim_y();
        if shape.aggregation == SOFTMAX {
            let mut head = thread::opaque(0);
            while head < num_heads {
                let row = row_of(head);
                let mut sum = 0.0;
                let mut i = thread::thread_idx_x();
                while i < num_chunks(&regions).min(stride) {
                    // SAFETY: `softmax_sum` wrote the row's chunks.
                    sum += unsafe { sums.get((row * stride + i) as usize) };
                    i += thread::block_dim_x();
                }
                // SAFETY: the whole block is here, heads and regions are the same in all of it; the launch
                // gives it the words; one thread writes a head's two, which are read behind a barrier.
                unsafe {
                    let max = row_max(&regions, row, stride, maxima, scratch);
                    let sum = block::tree_sum(sum, lanes);
                    if thread::thread_idx_x() == 0 {
                        rows.set(2 * head, max);
                        rows.set(2 * head + 1, sum);
                    }
                }
                head += 1;
            }
        }
        // SAFETY: the whole block is here.
        unsafe { thread::sync_threads() };

        let capacity = shape.code_capacity as usize;
        let mut candidate = first + thread::thread_idx_x();
        while candidate < end {
            let score = |head: usize| {
                let row = row_of(head as u32) as usize;
                // SAFETY: a candidate's score is written.
                unsafe { scores.get(row * capacity + candidate as usize) }
            };
            let heads = num_heads as usize;
            let value = match shape.aggregation {
                SOFTMAX => softmax_sum_of(heads, score, scale, |head| {
                    // SAFETY: written above, and the barrier is passed.
                    unsafe { (rows.get(2 * head as u32), rows.get(2 * head as u32 + 1)) }
                }),
                MAX => largest(heads, score),
                _ => mean(heads, score),
            };
            // SAFETY: each thread has its own candidates.
            unsafe { aggregates.set(list as usize * capacity + candidate as usize, value) };
            candidate += thread::block_dim_x();
        }
    }
}

/// A candidate's sum of softmax, given each head's largest score and its sum of exponentials.
#[inline(always)]
pub fn softmax_sum_of(
    num_heads: usize,
    score: impl Fn(usize) -> f32,
    scale: f32,
    row: impl Fn(usize) -> (f32, f32),
) -> f32 {
    sum_of_heads(num_heads, |head| {
        let (max, sum) = row(head);
        exponential(score(head), max, scale) / sum
    })
}
