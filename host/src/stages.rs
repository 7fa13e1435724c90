//! One stage at a time, on either backend: for tests, for measurements, and for research.
//!
//! Buffers are made for every call. A server wants a [`Selector`](crate::Selector), which makes them once.

use gpu_kernels::step::StepShape;

use crate::error::Result;
use crate::index::Augmentation;

/// The stages of a step over host slices, in data-flow order. All slices are row-major; `rows`,
/// `groups` and `batch` follow from `seq_lens.len()` and the shape.
///
/// Slices must have the lengths the shape implies; they are checked by assertion.
pub trait Stages {
    /// Codes `[groups, code_capacity, m]` after encoding `new_keys` `[groups, new_tokens, head_dim]`
    /// at each sequence's length `seq_lens` `[batch]` into a copy of `codes`. `centroids`
    /// `[groups, m, 2^bits, sub_dim]`, augmented with the metric `ip`.
    fn codes(
        &self,
        shape: &StepShape,
        centroids: &[f32],
        augmentation: Option<&Augmentation>,
        seq_lens: &[u32],
        new_keys: &[f32],
        codes: &[u8],
    ) -> Result<Vec<u8>>;

    /// Tables `[rows, m, 2^bits]` of `queries` `[rows, head_dim]`.
    fn lut(&self, shape: &StepShape, centroids: &[f32], queries: &[f32]) -> Result<Vec<f32>>;

    /// Scores `[rows, code_capacity]`; 0 where a code is no candidate. `tables` `[rows, m, 2^bits]`,
    /// `codes` `[groups, code_capacity, m]`.
    fn scores(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        tables: &[f32],
        codes: &[u8],
    ) -> Result<Vec<f32>>;

    /// Aggregates `[batch, num_kv_heads, num_queries, code_capacity]` of `scores` `[rows, code_capacity]`, by
    /// the shape's rule; 0 where a code is no candidate.
    fn aggregate(&self, shape: &StepShape, seq_lens: &[u32], scores: &[f32]) -> Result<Vec<f32>>;

    /// Heavy positions `[rows, heavy]`, ascending, of `scores` `[rows, code_capacity]`; -1 behind
    /// the row's heavy_k.
    fn top_k(&self, shape: &StepShape, seq_lens: &[u32], scores: &[f32]) -> Result<Vec<i32>>;

    /// Lists `[rows, list_stride]` and lengths `[rows]` from `heavy_positions` `[rows, heavy]`.
    fn index_list(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        heavy_positions: &[i32],
    ) -> Result<(Vec<i32>, Vec<i32>)>;

    /// Weights `[rows, weights_stride]` from lists and lengths.
    fn weights(&self, shape: &StepShape, positions: &[i32], lengths: &[i32]) -> Result<Vec<f32>>;
}
