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
/// both `ranks` `[code_capacity]` are room to work in. Returns heavy_k.
pub(crate) fn top_k(
    shape: &StepShape,
    seq_len: u32,
    scores: &[f32],
    ranks: &mut [Vec<u64>; 2],
    heavy_positions: &mut [i32],
) -> u32 {
    let candidates = candidate_codes(shape, seq_len);
    let heavy_k = shape.regions(seq_len).heavy_k(shape.heavy);
    let first = shape.init_offset + candidates.start as u32;
    let [ranks, room] = ranks;
    let ranks = &mut ranks[..candidates.len()];
    for (i, (rank_of, &score)) in ranks.iter_mut().zip(&scores[candidates]).enumerate() {
        *rank_of = rank(score, first + i as u32);
    }
    take_best(ranks, room, &mut heavy_positions[..heavy_k as usize]);
    heavy_k
}

/// Writes the positions of the `positions.len()` largest of `ranks`, which come by ascending position.
/// `room` is as long as `ranks` or longer.
pub(crate) fn take_best(ranks: &[u64], room: &mut [u64], positions: &mut [i32]) {
    let taken = positions.len();
    let Some(last) = taken.checked_sub(1) else {
        return;
    };
    let room = &mut room[..ranks.len()];
    room.copy_from_slice(ranks);
    let (_, &mut worst, _) = room.select_nth_unstable_by(last, |a, b| b.cmp(a));
    let mut best = ranks.iter().filter(|&&rank| rank >= worst);
    for position in positions {
        // Ranks differ, so `taken` of them are no smaller than the `taken`-th.
        let &rank = best.next().expect("there are as many ranks");
        *position = rank_position(rank) as i32;
    }
}
