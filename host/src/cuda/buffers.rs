//! The stages' buffers.

use gpu_kernels::step::StepShape;
use gpu_kernels::top_k;

use super::buffer::Buffer;
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::index::Augmentation;
use crate::selection::{Indices, Selection};

/// What the encoding of new keys reads and writes.
pub(super) struct CodesBuffers<'a> {
    pub(super) centroids: &'a Buffer<f32>,
    pub(super) half_norms: &'a Buffer<f32>,
    pub(super) augmentation: Option<&'a AugmentationBuffers>,
    pub(super) new_keys: &'a Buffer<f32>,
    pub(super) seq_lens: &'a Buffer<u32>,
    pub(super) codes: &'a Buffer<u8>,
}

/// What the metric `ip` adds to centroids.
#[derive(Debug)]
pub(super) struct AugmentationBuffers {
    pub(super) phis: Buffer<f32>,
    pub(super) components: Buffer<f32>,
}

impl AugmentationBuffers {
    /// For so many phis and components, which [`AugmentationBuffers::write`] brings.
    pub(super) fn new(num_phis: usize, num_components: usize) -> Result<Self> {
        Ok(AugmentationBuffers {
            phis: Buffer::new(num_phis)?,
            components: Buffer::new(num_components)?,
        })
    }

    /// Writes those of sequence `sequence`, where every one has as many, in stream order.
    pub(super) fn write(
        &mut self,
        sequence: usize,
        augmentation: &Augmentation,
        stream: &Stream,
    ) -> Result<()> {
        let Augmentation { phis, components } = augmentation;
        self.phis.write(sequence * phis.len(), phis, stream)?;
        let first = sequence * components.len();
        self.components.write(first, components, stream)
    }

    pub(super) fn from_host(augmentation: &Augmentation, stream: &Stream) -> Result<Self> {
        Ok(AugmentationBuffers {
            phis: Buffer::from_slice(&augmentation.phis, stream)?,
            components: Buffer::from_slice(&augmentation.components, stream)?,
        })
    }
}

/// What top-k works in, and its result.
#[derive(Debug)]
pub(super) struct TopKBuffers {
    pub(super) histograms: Buffer<u32>,
    pub(super) cuts: Buffer<u32>,
    pub(super) counts: Buffer<u32>,
    pub(super) heavy_positions: Buffer<i32>,
}

impl TopKBuffers {
    pub(super) fn new(shape: &StepShape, rows: usize) -> Result<Self> {
        let blocks = blocks(shape.code_capacity, top_k::KEYS_PER_BLOCK);
        Ok(TopKBuffers {
            histograms: Buffer::new(rows * top_k::NUM_BINS as usize)?,
            cuts: Buffer::new(rows * top_k::CUT_WORDS as usize)?,
            counts: Buffer::new(rows * blocks)?,
            heavy_positions: Buffer::new(rows * shape.heavy as usize)?,
        })
    }
}

/// A step's result on the device.
#[derive(Debug)]
pub(super) struct ListBuffers {
    pub(super) positions: Buffer<i32>,
    pub(super) lengths: Buffer<i32>,
    pub(super) weights: Buffer<f32>,
    pub(super) heavy_positions: Buffer<i32>,
    pub(super) heavy_scores: Buffer<f32>,
}

impl ListBuffers {
    pub(super) fn new(shape: &StepShape, rows: usize) -> Result<Self> {
        Ok(ListBuffers {
            positions: Buffer::new(rows * shape.list_stride as usize)?,
            lengths: Buffer::new(rows)?,
            weights: Buffer::new(rows * shape.weights_stride as usize)?,
            heavy_positions: Buffer::new(rows * shape.scores_stride as usize)?,
            heavy_scores: Buffer::new(rows * shape.scores_stride as usize)?,
        })
    }

    /// Enqueues the copies to the host; the caller synchronises, whatever comes back.
    fn read(&self, selection: &mut Selection, stream: &Stream) -> Result<()> {
        // SAFETY: the caller synchronises before it lets go of the selection.
        unsafe {
            self.positions.read(&mut selection.positions, stream)?;
            self.lengths.read(&mut selection.lengths, stream)?;
            self.weights.read(&mut selection.weights, stream)?;
            self.heavy_positions
                .read(&mut selection.heavy_positions, stream)?;
            self.heavy_scores.read(&mut selection.heavy_scores, stream)
        }
    }
}

/// A step's lists as indices, where those are wanted: `[rows, list_stride]` of one of the two.
#[derive(Debug)]
pub(super) struct IndexBuffers {
    /// Whether they have 64 bits.
    pub(super) is_wide: Option<bool>,
    /// log2 of the positions of a page where they are slots, else 0.
    pub(super) page_bits: u32,
    pub(super) narrow: Buffer<i32>,
    pub(super) wide: Buffer<i64>,
}

impl IndexBuffers {
    /// For what `selection` has.
    pub(super) fn new(selection: &Selection, page_bits: u32) -> Result<Self> {
        let (narrow, wide) = match &selection.indices {
            None => (0, 0),
            Some(Indices::I32(indices)) => (indices.len(), 0),
            Some(Indices::I64(indices)) => (0, indices.len()),
        };
        let indices = selection.indices.as_ref();
        Ok(IndexBuffers {
            is_wide: indices.map(|indices| matches!(indices, Indices::I64(_))),
            page_bits,
            narrow: Buffer::new(narrow)?,
            wide: Buffer::new(wide)?,
        })
    }

    /// Where they are, if there are any.
    pub(super) fn address(&self) -> Option<u64> {
        self.is_wide.map(|is_wide| match is_wide {
            true => self.wide.address(),
            false => self.narrow.address(),
        })
    }

    /// As [`ListBuffers::read`].
    fn read(&self, selection: &mut Selection, stream: &Stream) -> Result<()> {
        match &mut selection.indices {
            None => Ok(()),
            // SAFETY: the caller synchronises before it lets go of the selection.
            Some(Indices::I32(indices)) => unsafe { self.narrow.read(indices, stream) },
            // SAFETY: as above.
            Some(Indices::I64(indices)) => unsafe { self.wide.read(indices, stream) },
        }
    }
}

/// [`ListBuffers::read`] and [`IndexBuffers::read`]; the caller synchronises, whatever comes back.
pub(super) fn read_lists(
    list: &ListBuffers,
    indices: &IndexBuffers,
    selection: &mut Selection,
    stream: &Stream,
) -> Result<()> {
    list.read(selection, stream)?;
    indices.read(selection, stream)
}

/// What a read gets before anything was listed.
pub(super) fn nothing_listed() -> Error {
    Error::invalid(
        "step",
        "no lists on the device",
        "a step enqueued before a read",
    )
}

/// Blocks of so many entries each that cover `len`.
pub(super) fn blocks(len: u32, len_per_block: u32) -> usize {
    len.div_ceil(len_per_block) as usize
}
