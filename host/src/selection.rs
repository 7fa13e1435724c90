//! [`Selection`]: the result of a step.

use gpu_kernels::step::StepShape;

/// The positions that every (batch, query head, query) attends to.
///
/// A row's list is strictly ascending, `lengths` says how long it is, and the rest of its stride is
/// -1. Buffers are made once by the selector and written again by every step.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    pub(crate) batch: usize,
    pub(crate) num_qo_heads: usize,
    pub(crate) num_queries: usize,
    /// Tokens of the context at the step.
    pub(crate) seq_len: usize,
    pub(crate) list_stride: usize,
    pub(crate) has_weights: bool,
    pub(crate) weights_stride: usize,
    pub(crate) positions: Vec<i32>,
    pub(crate) lengths: Vec<i32>,
    pub(crate) weights: Vec<f32>,
}

impl Selection {
    pub(crate) fn new(shape: &StepShape, batch: usize, has_weights: bool) -> Self {
        let rows = batch * shape.rows_per_batch() as usize;
        Selection {
            batch,
            num_qo_heads: shape.num_qo_heads as usize,
            num_queries: shape.num_queries as usize,
            seq_len: 0,
            list_stride: shape.list_stride as usize,
            has_weights,
            weights_stride: shape.weights_stride as usize,
            positions: vec![-1; rows * shape.list_stride as usize],
            lengths: vec![0; rows],
            weights: vec![0.0; rows * shape.weights_stride as usize],
        }
    }

    /// `[batch, num_qo_heads, num_queries]`.
    pub fn shape(&self) -> [usize; 3] {
        [self.batch, self.num_qo_heads, self.num_queries]
    }

    /// Tokens of the context at the step.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Positions of one row, ascending, without the padding.
    pub fn positions(&self, batch: usize, head: usize, query: usize) -> &[i32] {
        let row = self.row(batch, head, query);
        let start = row * self.list_stride;
        &self.positions[start..start + self.lengths[row] as usize]
    }

    /// All lists with their padding, `[batch, num_qo_heads, num_queries, list_stride]`.
    pub fn padded_positions(&self) -> &[i32] {
        &self.positions
    }

    /// Positions a row has room for.
    pub fn list_stride(&self) -> usize {
        self.list_stride
    }

    /// Lengths of the lists, `[batch, num_qo_heads, num_queries]`.
    pub fn lengths(&self) -> &[i32] {
        &self.lengths
    }

    /// Dense weights of one row, `[seq_len]`: 1.0 at listed positions, 0.0 elsewhere; `None` when
    /// the configuration did not ask for them.
    pub fn weights(&self, batch: usize, head: usize, query: usize) -> Option<&[f32]> {
        let start = self.row(batch, head, query) * self.weights_stride;
        self.has_weights
            .then(|| &self.weights[start..start + self.seq_len])
    }

    fn row(&self, batch: usize, head: usize, query: usize) -> usize {
        assert!(batch < self.batch && head < self.num_qo_heads && query < self.num_queries);
        (batch * self.num_qo_heads + head) * self.num_queries + query
    }
}
