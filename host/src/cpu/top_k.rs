//! Top-k: the first candidates in the total order, by ascending position.

use gpu_kernels::order::{rank, rank_position};
use gpu_kernels::step::StepShape;

/// The candidates as a range of codes.
pub(crate) fn candidate_codes(shape: &StepShape, seq_len: u32) -> std::ops::Range<usize> {
    let regions = shape.regions(seq_len);
    let start = (regions.candidates_start - shape.init_offset).min(shape.code_capacity);
    let end = (regions.candidates_end - shape.init_offset).min(shape.code_capacity);
    start as usize..end as usize
}

/// Writes the first heavy_k entries of `heavy_positions` `[heavy]` from `scores` `[code_capacity]`;
/// `ranks` `[code_capacity]` is room to work in. Returns heavy_k.
pub(crate) fn top_k(
    shape: &StepShape,
    seq_len: u32,
    scores: &[f32],
    ranks: &mut [u64],
    heavy_positions: &mut [i32],
) -> u32 {
    let candidates = candidate_codes(shape, seq_len);
    let heavy_k = shape.regions(seq_len).heavy_k(shape.heavy);
    let (first, taken) = (candidates.start as u32, heavy_k as usize);
    if taken == 0 {
        return 0;
    }
    let ranks = &mut ranks[..candidates.len()];
    for (i, (rank_of, &score)) in ranks.iter_mut().zip(&scores[candidates]).enumerate() {
        *rank_of = rank(score, shape.init_offset + first + i as u32);
    }
    if taken < ranks.len() {
        ranks.select_nth_unstable_by(taken, |a, b| b.cmp(a));
    }
    let heavy_positions = &mut heavy_positions[..taken];
    for (position, &rank) in heavy_positions.iter_mut().zip(ranks.iter()) {
        *position = rank_position(rank) as i32;
    }
    heavy_positions.sort_unstable();
    heavy_k
}
