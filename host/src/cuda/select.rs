//! The fused step for large tables: its buffers and its launch.

use gpu_kernels::select::{
    KEYS_PER_WORD, Plan, SelectSurvivors, SelectSurvivorsClustered, SelectSurvivorsFiltered,
};
use gpu_kernels::step::StepShape;

use super::buffer::Buffer;
use super::enqueue::{CodesBuffers, Enqueuer, ListBuffers};
use super::launch::{Grid, launch, launch_clusters};
use super::stream::Stream;
use crate::error::Result;

/// What blocks of a row leave for each other, and which keys have a weight.
#[derive(Debug)]
pub(super) struct SelectBuffers {
    exchange: Buffer<u64>,
    /// Something is written everywhere in the exchange.
    is_defined: bool,
    tickets: Buffer<u32>,
    listed: Buffer<u16>,
}

impl SelectBuffers {
    /// For any of `plans`. [`SelectBuffers::forget`] comes before the first step.
    pub(super) fn new(
        shape: &StepShape,
        rows: usize,
        plans: impl Iterator<Item = Plan>,
    ) -> Result<Self> {
        let plans: Vec<Plan> = plans.collect();
        let largest = |of: fn(&Plan) -> u32| plans.iter().map(of).max().unwrap_or(0) as usize;
        // A row's only block leaves nothing.
        let entries = largest(|plan| match plan.num_blocks {
            1 => 0,
            blocks => blocks * plan.exchange_capacity,
        });
        let has_weights = !plans.is_empty() && shape.weights_stride > 0;
        let words = (shape.code_capacity / KEYS_PER_WORD) as usize;
        Ok(SelectBuffers {
            exchange: Buffer::new(rows * entries)?,
            is_defined: false,
            tickets: Buffer::new(rows * largest(|plan| 1 + plan.num_blocks))?,
            listed: Buffer::new(if has_weights { rows * words } else { 0 })?,
        })
    }

    /// Forgets which weights are set, and what a step that failed may have left.
    pub(super) fn forget(&mut self, weights: &Buffer<f32>, stream: &Stream) -> Result<()> {
        self.tickets.clear(stream.as_inner())?;
        // The last block loads a whole room at once, and leaves aside what no block has left there.
        if !self.is_defined {
            self.exchange.clear(stream.as_inner())?;
            self.is_defined = true;
        }
        self.listed.clear(stream.as_inner())?;
        weights.clear(stream.as_inner())
    }
}

#[allow(clippy::missing_safety_doc)] // the one contract of the type
impl Enqueuer<'_> {
    /// A whole step in one launch.
    pub(super) unsafe fn select_survivors(
        &self,
        buffers: &CodesBuffers<'_>,
        queries: &Buffer<f32>,
        select: &SelectBuffers,
        list: &ListBuffers,
        new_tokens: usize,
        plan: Plan,
    ) -> Result<usize> {
        let grid = Grid(self.rows() * plan.num_blocks as usize, 1);
        macro_rules! launch_kernel {
            ($Args:ident, $launch:expr) => {{
                let args = $Args {
                    centroids: buffers.centroids.input(),
                    half_norms: buffers.half_norms.input(),
                    new_keys: buffers.new_keys.input(),
                    queries: queries.input(),
                    seq_lens: buffers.seq_lens.output(),
                    codes: buffers.codes.output(),
                    exchange: select.exchange.output(),
                    tickets: select.tickets.output(),
                    positions: list.positions.output(),
                    lengths: list.lengths.output(),
                    listed: select.listed.output(),
                    weights: list.weights.output(),
                    new_tokens: new_tokens as u32,
                    plan,
                    shape: *self.shape,
                };
                let words = plan.shared_words();
                // SAFETY: the caller's, see the type; the plan was made for this shape.
                unsafe { $launch(words, &args)? };
            }};
        }
        let (device, stream, cluster) = (self.device, self.stream, plan.num_blocks);
        if plan.is_clustered() {
            launch_kernel!(SelectSurvivorsClustered, |words, args| launch_clusters(
                device, stream, grid.0, cluster, words, args
            ));
        } else if plan.has_filter() {
            launch_kernel!(SelectSurvivorsFiltered, |words, args| launch(
                device, stream, grid, words, args
            ));
        } else {
            launch_kernel!(SelectSurvivors, |words, args| launch(
                device, stream, grid, words, args
            ));
        }
        Ok(1)
    }
}
