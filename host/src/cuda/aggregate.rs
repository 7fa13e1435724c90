//! The aggregation of query heads' scores: its buffers and its launches.

use gpu_kernels::aggregate::{Aggregate, CHUNK, LANES, PER_HEAD, SOFTMAX, SoftmaxMax, SoftmaxSum};
use gpu_kernels::collectives::SUM_WORDS;
use gpu_kernels::step::StepShape;

use super::buffer::Buffer;
use super::enqueue::Enqueuer;
use super::launch::{Grid, launch};
use crate::config::softmax_scale;
use crate::error::Result;

/// What the aggregation works in, and its result; all empty where every head has its list.
#[derive(Debug)]
pub(super) struct AggregateBuffers {
    maxima: Buffer<u32>,
    sums: Buffer<f32>,
    pub(super) aggregates: Buffer<f32>,
}

impl AggregateBuffers {
    pub(super) fn new(shape: &StepShape, batch: usize) -> Result<Self> {
        let rows = batch * shape.rows_per_batch() as usize;
        let chunks = match shape.aggregation {
            SOFTMAX => rows * num_chunks(shape),
            _ => 0,
        };
        let lists = match shape.aggregation {
            PER_HEAD => 0,
            _ => batch * shape.of_lists().rows_per_batch() as usize,
        };
        Ok(AggregateBuffers {
            maxima: Buffer::new(chunks)?,
            sums: Buffer::new(chunks)?,
            aggregates: Buffer::new(lists * shape.code_capacity as usize)?,
        })
    }
}

fn num_chunks(shape: &StepShape) -> usize {
    shape.code_capacity.div_ceil(CHUNK) as usize
}

#[allow(clippy::missing_safety_doc)] // the one contract of the type
impl Enqueuer<'_> {
    /// Nothing where every head has its list.
    pub(super) unsafe fn aggregate(
        &self,
        scores: &Buffer<f32>,
        buffers: &AggregateBuffers,
    ) -> Result<usize> {
        let shape = *self.shape;
        if shape.aggregation == PER_HEAD {
            return Ok(0);
        }
        let (scores, sequences) = (scores.input(), self.sequences.input());
        let scale = softmax_scale(&shape);
        let chunks = num_chunks(&shape);
        let mut launches = 0;
        if shape.aggregation == SOFTMAX {
            let by_chunk = Grid(self.rows(), chunks);
            let args = SoftmaxMax {
                scores,
                sequences,
                maxima: buffers.maxima.output(),
                shape,
            };
            // SAFETY: the caller's, see the type.
            unsafe { launch(self.device, self.stream, by_chunk, SUM_WORDS, &args)? };
            let args = SoftmaxSum {
                scores,
                sequences,
                maxima: buffers.maxima.input(),
                sums: buffers.sums.output(),
                scale,
                shape,
            };
            let words = SUM_WORDS + LANES as u32;
            // SAFETY: as above.
            unsafe { launch(self.device, self.stream, by_chunk, words, &args)? };
            launches += 2;
        }
        let args = Aggregate {
            scores,
            sequences,
            maxima: buffers.maxima.input(),
            sums: buffers.sums.input(),
            aggregates: buffers.aggregates.output(),
            scale,
            shape,
        };
        let heads = shape.num_qo_heads / shape.num_kv_heads;
        let lists = self.sequences.len() as u32 * shape.of_lists().rows_per_batch();
        let words = SUM_WORDS + LANES as u32 + 2 * heads;
        let grid = Grid(lists as usize, chunks);
        // SAFETY: as above.
        unsafe { launch(self.device, self.stream, grid, words, &args)? };
        Ok(launches + 1)
    }
}
