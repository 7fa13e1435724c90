//! Shapes and codes of the unit tests beside this.

use gpu_kernels::step::StepShape;

/// One row of keys of `m` sub-vectors with a component each, and room for `capacity` of them.
pub(super) fn shape(m: u32, bits: u32, capacity: u32) -> StepShape {
    StepShape {
        num_kv_heads: 1,
        num_qo_heads: 1,
        num_queries: 1,
        head_dim: m,
        num_subvectors: m,
        bits,
        code_capacity: capacity,
        list_stride: 1,
        ..StepShape::default()
    }
}

/// `len` words without a pattern that matters in their upper bits.
pub(super) fn words(len: usize, seed: u32) -> impl Iterator<Item = u32> {
    let mut state = seed | 1;
    (0..len).map(move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    })
}

/// Numbers below 2^bits without a pattern that matters.
pub(super) fn numbers(len: usize, seed: u32, bits: u32) -> impl Iterator<Item = u8> {
    words(len, seed).map(move |word| (word >> (32 - bits)) as u8)
}
