//! One list for the query heads that share keys.

use gpu_kernels::aggregate::{
    CHUNK, MAX, SOFTMAX, exponential, largest, mean, num_chunks, softmax_sum_of, tree_sum,
};
use gpu_kernels::order::order_key;
use gpu_kernels::step::StepShape;

use super::top_k::candidate_codes;
use crate::config::softmax_scale;

/// Writes the candidates' entries of `aggregates` `[code_capacity]` from the scores `[code_capacity]` of
/// each of `heads` query heads. `rows` is room to work in: for each head its largest score and its sum.
pub(crate) fn aggregate<'a>(
    shape: &StepShape,
    seq_len: u32,
    heads: usize,
    scores: impl Fn(usize) -> &'a [f32],
    rows: &mut Vec<(f32, f32)>,
    aggregates: &mut [f32],
) {
    let candidates = candidate_codes(shape, seq_len);
    let scale = softmax_scale(shape);
    rows.clear();
    if shape.aggregation == SOFTMAX {
        rows.extend((0..heads).map(|head| max_and_sum(shape, seq_len, scores(head), scale)));
    }
    for code in candidates {
        let score = |head: usize| scores(head)[code];
        aggregates[code] = match shape.aggregation {
            SOFTMAX => softmax_sum_of(heads, score, scale, |head| rows[head]),
            MAX => largest(heads, score),
            _ => mean(heads, score),
        };
    }
}

/// A row's largest score and its sum of exponentials, chunk by chunk.
fn max_and_sum(shape: &StepShape, seq_len: u32, scores: &[f32], scale: f32) -> (f32, f32) {
    let scores = &scores[candidate_codes(shape, seq_len)];
    let better = |a: f32, b: f32| {
        if order_key(b) > order_key(a) { b } else { a }
    };
    let max = scores.iter().copied().fold(f32::NAN, better);
    let chunks = num_chunks(&shape.regions(seq_len)) as usize;
    let sum = tree_sum(chunks, |chunk| {
        let Some(scores) = scores.chunks(CHUNK as usize).nth(chunk) else {
            return Some(0.0);
        };
        let number = |i: usize| {
            let score: f32 = scores[i];
            (!score.is_nan()).then(|| exponential(score, max, scale))
        };
        Some(tree_sum(scores.len(), number))
    });
    (max, sum)
}
