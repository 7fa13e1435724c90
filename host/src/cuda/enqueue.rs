//! Each stage's launches: the grid that covers the shape, whatever the lengths on the device are.

use cust::sys;
use gpu_kernels::codes::{Advance, Codes};
use gpu_kernels::collectives::SUM_WORDS;
use gpu_kernels::heavy_scores::HeavyScores;
use gpu_kernels::index_list::IndexList;
use gpu_kernels::indices::Indices as IndicesArgs;
use gpu_kernels::kernel::{In, Out};
use gpu_kernels::kmeans::{self, KMeansAssign, KMeansShape};
use gpu_kernels::lut::Lut;
use gpu_kernels::scores::{self, Scores};
use gpu_kernels::step::StepShape;
use gpu_kernels::top_k::{self, TopKCount, TopKDigit, TopKGather, TopKHistogram};
use gpu_kernels::weights::{self, Weights};

use super::buffer::Buffer;
use super::buffers::blocks;
pub(super) use super::buffers::{
    AugmentationBuffers, CodesBuffers, IndexBuffers, ListBuffers, TopKBuffers,
};
use super::device::Device;
use super::launch::{Grid, MAX_GRID_Y, launch};
use super::sequences::Sequences;
use crate::error::Result;

/// Threads of every kernel's block.
const THREADS: usize = 256;

/// Enqueues stages of one shape on one stream. Each method returns how many operations it enqueued.
///
/// They share one safety contract: the buffers have the lengths that the kernels' documentation
/// gives for `shape` and `batch`, hold what earlier stages write, and live until the stream is done;
/// the stream is alive.
#[derive(Clone, Copy)]
pub(super) struct Enqueuer<'a> {
    pub(super) device: &'a Device,
    pub(super) stream: sys::CUstream,
    /// Of query heads; the stages behind the aggregation have [`StepShape::of_lists`].
    pub(super) shape: &'a StepShape,
    pub(super) sequences: &'a Sequences,
}

#[allow(clippy::missing_safety_doc)] // the one contract above
impl Enqueuer<'_> {
    pub(super) unsafe fn codes(
        &self,
        buffers: &CodesBuffers<'_>,
        first_token: usize,
        new_tokens: usize,
    ) -> Result<usize> {
        let warps_per_block = THREADS / 32;
        let tasks = new_tokens * self.shape.num_subvectors as usize;
        let grid = Grid(
            self.sequences.len() * self.shape.num_kv_heads as usize,
            tasks.div_ceil(warps_per_block).min(MAX_GRID_Y),
        );
        // Without augmentation these are not read.
        let [phis, components] = match buffers.augmentation {
            None => [buffers.half_norms.input(); 2],
            Some(added) => [added.phis.input(), added.components.input()],
        };
        let args = Codes {
            centroids: buffers.centroids.input(),
            half_norms: buffers.half_norms.input(),
            phis,
            components,
            new_keys: buffers.new_keys.input(),
            sequences: self.sequences.input(),
            page_table: self.sequences.page_table.input(),
            codes: buffers.codes.output(),
            is_augmented: buffers.augmentation.is_some().into(),
            first_token: first_token as u32,
            new_tokens: new_tokens as u32,
            shape: *self.shape,
        };
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, grid, 0, &args)? };
        Ok(1)
    }

    /// Encodes `[groups, new_tokens]` keys as keys `first_code..` of each group's codes in one piece, with the
    /// kernel that training encodes with.
    pub(super) unsafe fn many_codes(
        &self,
        buffers: &CodesBuffers<'_>,
        first_code: usize,
        new_tokens: usize,
    ) -> Result<usize> {
        let step = self.shape;
        let head_stride = u64::from(step.head_dim) * new_tokens as u64;
        let mut shape = KMeansShape {
            batch_stride: head_stride * u64::from(step.num_kv_heads),
            head_stride,
            token_stride: step.head_dim.into(),
            dtype: kmeans::F32,
            num_kv_heads: step.num_kv_heads,
            num_subvectors: step.num_subvectors,
            sub_dim: step.sub_dim(),
            bits: step.bits,
            is_augmented: buffers.augmentation.is_some().into(),
            first_token: 0,
            num_points: new_tokens as u32,
            first_problem: 0,
            num_blocks: 1,
        };
        shape.num_blocks = shape.num_tiles().min(MAX_GRID_Y as u32);
        let [phis, components] = match buffers.augmentation {
            None => [buffers.half_norms.input(); 2],
            Some(added) => [added.phis.input(), added.components.input()],
        };
        let unused = buffers.half_norms.address();
        let args = KMeansAssign {
            keys: In::from_address(buffers.new_keys.address()),
            centroids: buffers.centroids.input(),
            half_norms: buffers.half_norms.input(),
            phis,
            components,
            // Encoding touches none of these.
            order: In::from_address(unused),
            is_done: In::from_address(unused),
            sums: Out::from_address(unused),
            counts: Out::from_address(unused),
            farthest: Out::from_address(unused),
            codes: buffers.codes.output(),
            encodes: 1,
            sums_are_shared: 0,
            first_code: first_code as u32,
            code_capacity: step.code_capacity,
            shape,
        };
        let problems = self.sequences.len() * (step.num_kv_heads * step.num_subvectors) as usize;
        let grid = Grid(problems, shape.num_blocks as usize);
        let words = kmeans::layout::words(&shape, false);
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, grid, words, &args)? };
        Ok(1)
    }

    pub(super) unsafe fn advance(
        &self,
        seq_lens: &Buffer<u32>,
        new_tokens: usize,
    ) -> Result<usize> {
        let args = Advance {
            seq_lens: seq_lens.output(),
            sequences: self.sequences.output(),
            new_tokens: new_tokens as u32,
            rows: seq_lens.len() as u32,
            batch: self.sequences.len() as u32,
        };
        let grid = Grid(
            seq_lens.len().max(self.sequences.len()).div_ceil(THREADS),
            1,
        );
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, grid, 0, &args)? };
        Ok(1)
    }

    pub(super) unsafe fn lut(
        &self,
        centroids: &Buffer<f32>,
        queries: &Buffer<f32>,
        tables: &Buffer<f32>,
    ) -> Result<usize> {
        let args = Lut {
            centroids: centroids.input(),
            queries: queries.input(),
            sequences: self.sequences.input(),
            tables: tables.output(),
            shape: *self.shape,
        };
        let grid = self.rows_by(self.shape.table_len(), THREADS as u32);
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, grid, 0, &args)? };
        Ok(1)
    }

    pub(super) unsafe fn scores(
        &self,
        tables: &Buffer<f32>,
        codes: &Buffer<u8>,
        scores: &Buffer<f32>,
    ) -> Result<usize> {
        let args = Scores {
            tables: tables.input(),
            codes: codes.input(),
            sequences: self.sequences.input(),
            page_table: self.sequences.page_table.input(),
            scores: scores.output(),
            shape: *self.shape,
        };
        let grid = self.rows_by(self.shape.code_capacity, scores::KEYS_PER_BLOCK);
        let table = self.shape.table_len();
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, grid, table, &args)? };
        Ok(1)
    }

    pub(super) unsafe fn top_k(
        &self,
        scores: &Buffer<f32>,
        buffers: &TopKBuffers,
    ) -> Result<usize> {
        let shape = *self.shape;
        let (scores, sequences) = (scores.input(), self.sequences.input());
        let cuts = buffers.cuts.input();
        let by_block = self.rows_by(shape.code_capacity, top_k::KEYS_PER_BLOCK);
        let (device, stream) = (self.device, self.stream);
        if shape.heavy == 0 || shape.code_capacity == 0 {
            return Ok(0);
        }
        // Every digit leaves the histograms clear; but a step that failed half-way may not have.
        buffers.histograms.clear(stream)?;
        for digit in 0..top_k::NUM_DIGITS {
            let args = TopKHistogram {
                scores,
                sequences,
                cuts,
                histograms: buffers.histograms.output(),
                digit,
                shape,
            };
            // SAFETY: the caller's, see the type.
            unsafe { launch(device, stream, by_block, top_k::NUM_BINS, &args)? };
            let args = TopKDigit {
                sequences,
                histograms: buffers.histograms.output(),
                cuts: buffers.cuts.output(),
                digit,
                shape,
            };
            let words = SUM_WORDS + top_k::CUT_WORDS;
            // SAFETY: as above.
            unsafe { launch(device, stream, Grid(self.rows(), 1), words, &args)? };
        }
        let args = TopKCount {
            scores,
            sequences,
            cuts,
            counts: buffers.counts.output(),
            shape,
        };
        // SAFETY: as above.
        unsafe { launch(device, stream, by_block, SUM_WORDS, &args)? };
        let args = TopKGather {
            scores,
            sequences,
            cuts,
            counts: buffers.counts.input(),
            heavy_positions: buffers.heavy_positions.output(),
            shape,
        };
        // SAFETY: as above.
        unsafe { launch(device, stream, by_block, SUM_WORDS, &args)? };
        Ok(3 + 2 * top_k::NUM_DIGITS as usize)
    }

    pub(super) unsafe fn index_list(
        &self,
        top_k: &TopKBuffers,
        list: &ListBuffers,
    ) -> Result<usize> {
        let args = IndexList {
            heavy_positions: top_k.heavy_positions.input(),
            sequences: self.sequences.input(),
            positions: list.positions.output(),
            lengths: list.lengths.output(),
            shape: *self.shape,
        };
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, Grid(self.rows(), 1), 0, &args)? };
        Ok(1)
    }

    pub(super) unsafe fn indices(
        &self,
        list: &ListBuffers,
        indices: &IndexBuffers,
    ) -> Result<usize> {
        let Some(is_wide) = indices.is_wide else {
            return Ok(0);
        };
        let args = IndicesArgs {
            positions: list.positions.input(),
            page_table: self.sequences.page_table.input(),
            narrow: indices.narrow.output(),
            wide: indices.wide.output(),
            is_wide: is_wide.into(),
            page_bits: indices.page_bits,
            shape: *self.shape,
        };
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, Grid(self.rows(), 1), 0, &args)? };
        Ok(1)
    }

    pub(super) unsafe fn heavy_scores(
        &self,
        scores: &Buffer<f32>,
        top_k: &TopKBuffers,
        list: &ListBuffers,
    ) -> Result<usize> {
        if self.shape.scores_stride == 0 {
            return Ok(0);
        }
        let args = HeavyScores {
            scores: scores.input(),
            heavy_positions: top_k.heavy_positions.input(),
            sequences: self.sequences.input(),
            positions: list.heavy_positions.output(),
            heavy_scores: list.heavy_scores.output(),
            shape: *self.shape,
        };
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, Grid(self.rows(), 1), 0, &args)? };
        Ok(1)
    }

    pub(super) unsafe fn weights(&self, list: &ListBuffers) -> Result<usize> {
        if self.shape.weights_stride == 0 {
            return Ok(0);
        }
        let args = Weights {
            positions: list.positions.input(),
            lengths: list.lengths.input(),
            sequences: self.sequences.input(),
            weights: list.weights.output(),
            shape: *self.shape,
        };
        let grid = self.rows_by(self.shape.weights_stride, weights::POSITIONS_PER_BLOCK);
        // SAFETY: the caller's, see the type.
        unsafe { launch(self.device, self.stream, grid, 0, &args)? };
        Ok(1)
    }

    pub(super) fn rows(&self) -> usize {
        self.sequences.len() * self.shape.rows_per_batch() as usize
    }

    fn rows_by(&self, len: u32, len_per_block: u32) -> Grid {
        Grid(self.rows(), blocks(len, len_per_block))
    }
}
