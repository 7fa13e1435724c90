//! Scores: the sum of a key's table entries.

use gpu_kernels::scores::score;
use gpu_kernels::step::StepShape;

/// Writes the candidates' entries of `scores` `[code_capacity]` from `table` `[m, 2^bits]` and
/// `codes` `[code_capacity, m]`.
pub(crate) fn scores(
    shape: &StepShape,
    seq_len: u32,
    table: &[f32],
    codes: &[u8],
    scores: &mut [f32],
) {
    let candidates = super::top_k::candidate_codes(shape, seq_len);
    let m = shape.num_subvectors as usize;
    let codes = &codes[candidates.start * m..candidates.end * m];
    for (codes, out) in codes.chunks_exact(m).zip(&mut scores[candidates]) {
        *out = score(m, |j| table[(j << shape.bits) + usize::from(codes[j])]);
    }
}
