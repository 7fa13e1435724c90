//! [`Selection`]: the result of a step.

use gpu_kernels::step::{Regions, SequenceParams, StepShape};

use crate::config::SelectConfig;

/// The positions that every (batch, query head, query) attends to, or every (batch, key-value head, query)
/// where scores are aggregated.
///
/// A row's list is strictly ascending, `lengths` says how long it is, and the rest of its stride is
/// -1. Buffers are made once by the selector and written again by every step.
#[derive(Debug, Clone)]
pub struct Selection {
    pub(crate) batch: usize,
    pub(crate) num_qo_heads: usize,
    pub(crate) num_queries: usize,
    /// Tokens of the context at the step, of the longest if each sequence has its own.
    pub(crate) seq_len: usize,
    /// Of a batch whose sequences have lengths and regions of their own, `[batch]`; else empty.
    pub(crate) sequences: Vec<SequenceParams>,
    /// The lists as indices, `[rows, list_stride]`, if something else than the positions is wanted.
    pub(crate) indices: Option<Indices>,
    pub(crate) list_stride: usize,
    pub(crate) has_weights: bool,
    pub(crate) weights_stride: usize,
    pub(crate) positions: Vec<i32>,
    pub(crate) lengths: Vec<i32>,
    pub(crate) weights: Vec<f32>,
    pub(crate) has_scores: bool,
    /// The shape of the step, of lists.
    pub(crate) shape: StepShape,
    /// `[rows, heavy]` where scores were asked for, ascending.
    pub(crate) heavy_positions: Vec<i32>,
    /// `[rows, heavy]`.
    pub(crate) heavy_scores: Vec<f32>,
}

/// The lists as whoever reads them wants them: positions or cache slots, of 32 or 64 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Indices {
    /// Of 32 bits.
    I32(Vec<i32>),
    /// Of 64 bits.
    I64(Vec<i64>),
}

/// Whether they list the same; of scores, one NaN is as good as another.
impl PartialEq for Selection {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        self.shape() == other.shape()
            && self.seq_len == other.seq_len
            && (0..self.batch).all(|batch| self.seq_len_of(batch) == other.seq_len_of(batch))
            && self.indices == other.indices
            && self.list_stride == other.list_stride
            && self.positions == other.positions
            && self.lengths == other.lengths
            && self.has_weights == other.has_weights
            && self.weights_stride == other.weights_stride
            && self
                .rows()
                .all(|row| self.weights_of_row(row) == other.weights_of_row(row))
            && self.has_scores == other.has_scores
            && self
                .rows()
                .all(|row| self.heavy_of_row(row).0 == other.heavy_of_row(row).0)
            && self.rows().all(|row| {
                let scores = self.heavy_of_row(row).1.iter();
                scores.zip(other.heavy_of_row(row).1).all(same)
            })
    }
}

impl Selection {
    /// One to write to, of steps of that shape, which `config` asks for.
    pub(crate) fn new(shape: &StepShape, batch: usize, config: &SelectConfig) -> Self {
        let shape = &shape.of_lists();
        let rows = batch * shape.rows_per_batch() as usize;
        let len = rows * shape.list_stride as usize;
        Selection {
            has_scores: config.scores,
            shape: *shape,
            heavy_positions: vec![-1; rows * shape.scores_stride as usize],
            heavy_scores: vec![0.0; rows * shape.scores_stride as usize],
            batch,
            num_qo_heads: shape.num_qo_heads as usize,
            num_queries: shape.num_queries as usize,
            seq_len: 0,
            sequences: Vec::new(),
            indices: config.indices.map(|indices| match indices.wide {
                true => Indices::I64(vec![-1; len]),
                false => Indices::I32(vec![-1; len]),
            }),
            list_stride: shape.list_stride as usize,
            has_weights: config.weights,
            weights_stride: shape.weights_stride as usize,
            positions: vec![-1; len],
            lengths: vec![0; rows],
            weights: vec![0.0; rows * shape.weights_stride as usize],
        }
    }

    /// `[batch, num_qo_heads, num_queries]`; with [`Aggregation`](crate::Aggregation), `num_kv_heads` in
    /// their place.
    pub fn shape(&self) -> [usize; 3] {
        [self.batch, self.num_qo_heads, self.num_queries]
    }

    /// Tokens of the context at the step; of the longest where sequences have lengths of their own.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Tokens of one sequence at the step.
    pub fn seq_len_of(&self, batch: usize) -> usize {
        assert!(batch < self.batch);
        let own = self.sequences.get(batch);
        own.map_or(self.seq_len, |sequence| sequence.seq_len as usize)
    }

    /// All lists with their padding of -1, `[batch, num_qo_heads, num_queries, list_stride]`, as cache slots or
    /// integers of 64 bits; `None` when the configuration asked for neither.
    pub fn indices(&self) -> Option<&Indices> {
        self.indices.as_ref()
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

    /// Dense weights of one row, `[seq_len]` of its sequence: 1.0 at listed positions, 0.0 elsewhere; `None` when
    /// the configuration did not ask for them.
    pub fn weights(&self, batch: usize, head: usize, query: usize) -> Option<&[f32]> {
        let row = self.row(batch, head, query);
        self.has_weights.then(|| self.weights_of_row(row))
    }

    /// Dense weights of all rows, `[batch, num_qo_heads, num_queries, stride]`, of which the first `seq_len` of
    /// each row count; `None` when the configuration did not ask for them.
    pub fn padded_weights(&self) -> Option<&[f32]> {
        self.has_weights.then_some(&self.weights[..])
    }

    /// A copy whose rows of weights are as long as the context (the longest, in a batch of several), without room for
    /// a longer one.
    pub fn to_compact(&self) -> Selection {
        let width = if self.has_weights { self.seq_len } else { 0 };
        let rows = self.weights.chunks(self.weights_stride.max(1));
        Selection {
            batch: self.batch,
            num_qo_heads: self.num_qo_heads,
            num_queries: self.num_queries,
            seq_len: self.seq_len,
            sequences: self.sequences.clone(),
            indices: self.indices.clone(),
            list_stride: self.list_stride,
            has_weights: self.has_weights,
            weights_stride: width,
            positions: self.positions.clone(),
            lengths: self.lengths.clone(),
            weights: rows.flat_map(|row| &row[..width]).copied().collect(),
            has_scores: self.has_scores,
            shape: StepShape {
                weights_stride: width as u32,
                ..self.shape
            },
            heavy_positions: self.heavy_positions.clone(),
            heavy_scores: self.heavy_scores.clone(),
        }
    }

    /// Heavy positions of one row, ascending, and the score of each; `None` when the configuration did not
    /// ask for scores. A context that is listed whole has them too.
    pub fn heavy(&self, batch: usize, head: usize, query: usize) -> Option<(&[i32], &[f32])> {
        let row = self.row(batch, head, query);
        self.has_scores.then(|| self.heavy_of_row(row))
    }

    /// Says what sequences a ragged step was of.
    pub(crate) fn set_sequences(&mut self, sequences: &[SequenceParams]) {
        self.sequences.copy_from_slice(sequences);
        let longest = sequences.iter().map(|sequence| sequence.seq_len).max();
        self.seq_len = longest.unwrap_or(0) as usize;
    }

    fn rows(&self) -> std::ops::Range<usize> {
        0..self.lengths.len()
    }

    /// Weights of a row's context; empty without weights.
    fn weights_of_row(&self, row: usize) -> &[f32] {
        if self.weights_stride == 0 {
            return &[];
        }
        let batch = self.shape.batch_of_row(row as u32) as usize;
        &self.weights[row * self.weights_stride..][..self.seq_len_of(batch)]
    }

    /// How the context of a row is divided.
    pub(crate) fn regions(&self, row: usize) -> Regions {
        let (own, seq_len) = self.of_row(row);
        own.regions(own.visible(row as u32, seq_len))
    }

    /// The shape with a row's own regions, and its sequence's length.
    fn of_row(&self, row: usize) -> (StepShape, u32) {
        let batch = self.shape.batch_of_row(row as u32) as usize;
        match self.sequences.get(batch) {
            None => (self.shape, self.seq_len as u32),
            Some(sequence) => (self.shape.with(sequence), sequence.seq_len),
        }
    }

    pub(crate) fn heavy_of_row(&self, row: usize) -> (&[i32], &[f32]) {
        let stride = self.shape.scores_stride as usize;
        // No stride, no scores; else it is the shape's `heavy`, and a sequence's is no larger.
        let heavy = self.of_row(row).0.heavy.min(stride as u32);
        let heavy_k = self.regions(row).heavy_k(heavy) as usize;
        let range = row * stride..row * stride + heavy_k;
        (
            &self.heavy_positions[range.clone()],
            &self.heavy_scores[range],
        )
    }

    fn row(&self, batch: usize, head: usize, query: usize) -> usize {
        assert!(batch < self.batch && head < self.num_qo_heads && query < self.num_queries);
        (batch * self.num_qo_heads + head) * self.num_queries + query
    }
}

#[cfg(test)]
mod tests;
