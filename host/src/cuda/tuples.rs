//! The fused step for small formats: its buffers and its launches.

use gpu_kernels::select_tuples::{
    KEYS_PER_THREAD, KEYS_PER_TILE, REFERENCE_FORMAT, SelectTuples, SelectTuplesReference,
    SelectTuplesReferenceLong, Staging,
};
use gpu_kernels::step::StepShape;
use gpu_kernels::tuple_counts::{NOT_COUNTED, NUM_TUPLES, TupleCounts};

use super::buffer::Buffer;
use super::enqueue::{CodesBuffers, Enqueuer, ListBuffers};
use super::heuristics::TupleBlocks;
use super::launch::{Grid, launch};
use super::stream::Stream;
use crate::config::MAX_HEAVY;
use crate::error::Result;

// A kernel's counts have so many bits.
const _: () = assert!(MAX_HEAVY <= gpu_kernels::select_tuples::MAX_HEAVY as usize);

/// How often each tuple of codes occurs, and which keys have a weight: see `gpu_kernels::tuple_counts`.
#[derive(Debug)]
pub(super) struct TupleBuffers {
    counts: Buffer<u32>,
    counted: Buffer<u32>,
    prefixes: Buffer<u32>,
    listed: Buffer<u16>,
    groups: usize,
}

impl TupleBuffers {
    /// For up to `max_blocks` blocks a row. Nothing is counted yet.
    pub(super) fn new(
        shape: &StepShape,
        groups: usize,
        rows: usize,
        max_blocks: usize,
    ) -> Result<Self> {
        let groups = if max_blocks == 0 { 0 } else { groups };
        let has_weights = max_blocks > 0 && shape.weights_stride > 0;
        let words = (shape.code_capacity / KEYS_PER_THREAD) as usize;
        Ok(TupleBuffers {
            counts: Buffer::new(groups * 2 * NUM_TUPLES as usize)?,
            counted: Buffer::new(groups * 2)?,
            prefixes: Buffer::new(groups * max_blocks * NUM_TUPLES as usize)?,
            listed: Buffer::new(if has_weights { rows * words } else { 0 })?,
            groups,
        })
    }

    /// Forgets what was counted, and which weights are set.
    pub(super) fn forget(&mut self, weights: &Buffer<f32>, stream: &Stream) -> Result<()> {
        self.counted
            .write(0, &vec![NOT_COUNTED; 2 * self.groups], stream)?;
        self.listed.clear(stream.as_inner())?;
        weights.clear(stream.as_inner())
    }
}

/// Copies of sequence lengths that a step in `blocks` blocks a row reads.
pub(super) fn num_lens(groups: usize, rows: usize, blocks: usize) -> usize {
    rows * blocks.max(1) + groups
}

/// Whether the shape's format is the one that a kernel of its own has.
fn is_reference_format(shape: &StepShape) -> bool {
    (shape.num_subvectors, shape.bits, shape.head_dim) == REFERENCE_FORMAT
}

/// Which kernel runs a step of tuples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TupleKernel {
    /// `select_tuples`.
    Any,
    /// `select_tuples_reference`, for blocks of one tile.
    Reference,
    /// `select_tuples_reference_long`.
    ReferenceLong,
}

impl TupleKernel {
    pub(super) fn of(shape: &StepShape, blocks: TupleBlocks) -> Self {
        match (is_reference_format(shape), blocks.tiles_log2()) {
            (false, _) => TupleKernel::Any,
            (true, 0) => TupleKernel::Reference,
            (true, _) => TupleKernel::ReferenceLong,
        }
    }
}

#[allow(clippy::missing_safety_doc)] // the one contract of the type
impl Enqueuer<'_> {
    /// Counts what is new, or everything anew.
    pub(super) unsafe fn tuple_counts(
        &self,
        codes: &Buffer<u8>,
        seq_lens: &Buffer<u32>,
        buffers: &TupleBuffers,
        blocks: TupleBlocks,
    ) -> Result<usize> {
        let args = TupleCounts {
            codes: codes.input(),
            seq_lens: seq_lens.input(),
            counts: buffers.counts.output(),
            counted: buffers.counted.output(),
            prefixes: buffers.prefixes.output(),
            keys_per_block: blocks.tiles_per_block * KEYS_PER_TILE,
            num_blocks: blocks.num_blocks,
            shape: *self.shape,
        };
        let grid = Grid(buffers.groups, 1);
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, grid, NUM_TUPLES, &args)? };
        Ok(1)
    }

    /// A whole step in one launch.
    pub(super) unsafe fn select_tuples(
        &self,
        buffers: &CodesBuffers<'_>,
        queries: &Buffer<f32>,
        tuples: &TupleBuffers,
        list: &ListBuffers,
        new_tokens: usize,
        blocks: TupleBlocks,
    ) -> Result<usize> {
        // New keys are encoded by blocks apart where all are on the chip at once, else by blocks that have the
        // centroids already.
        let num_blocks = self.rows() * blocks.num_blocks as usize;
        let fit = 2 * self.device.num_multiprocessors() as usize;
        let encodes_apart = new_tokens == 1 && num_blocks + tuples.groups <= fit;
        let grid = Grid(
            self.rows(),
            blocks.num_blocks as usize + usize::from(encodes_apart),
        );
        let has_weights = self.shape.weights_stride != 0;
        let words = blocks.shared_words(self.device, has_weights);
        // The same arguments for all kernels, each of which is a type.
        macro_rules! launch_kernel {
            ($Args:ident) => {{
                let args = $Args {
                    centroids: buffers.centroids.input(),
                    queries: queries.input(),
                    seq_lens: buffers.seq_lens.output(),
                    rows: self.rows() as u32,
                    rows_per_group: self.shape.rows_per_group(),
                    num_blocks: blocks.num_blocks,
                    tiles_log2: blocks.tiles_log2(),
                    new_tokens: new_tokens as u32,
                    encodes_apart: encodes_apart.into(),
                    tuple_counts: tuples.counts.output(),
                    shape: *self.shape,
                    staging: Staging::new(self.shape),
                    positions: list.positions.output(),
                    lengths: list.lengths.output(),
                    weights: list.weights.output(),
                    codes: buffers.codes.output(),
                    listed: tuples.listed.output(),
                    chunk_tiles: blocks.chunk_tiles(self.device, has_weights),
                    prefixes: tuples.prefixes.output(),
                    counted: tuples.counted.output(),
                    half_norms: buffers.half_norms.input(),
                    new_keys: buffers.new_keys.input(),
                };
                // SAFETY: the caller's, see the type; the variant was chosen for this shape.
                unsafe { launch(self.device, self.stream, grid, words, &args)? }
            }};
        }
        match TupleKernel::of(self.shape, blocks) {
            TupleKernel::Any => launch_kernel!(SelectTuples),
            TupleKernel::Reference => launch_kernel!(SelectTuplesReference),
            TupleKernel::ReferenceLong => launch_kernel!(SelectTuplesReferenceLong),
        }
        Ok(1)
    }
}
