//! The sequences of a batch on the device: lengths, regions, and where the pages of their codes are.

use gpu_kernels::kernel::{In, Out};
use gpu_kernels::step::SequenceParams;

use super::buffer::Buffer;
use super::stream::Stream;
use crate::error::Result;

/// One [`SequenceParams`] a sequence, and a page table where codes come in pages.
#[derive(Debug)]
pub(super) struct Sequences {
    params: Buffer<u32>,
    /// Room to write from.
    words: Vec<u32>,
    pub(super) page_table: Buffer<u32>,
}

impl Sequences {
    /// For `batch` sequences of `pages` pages each, 0 without pages.
    pub(super) fn new(batch: usize, pages: usize) -> Result<Self> {
        Ok(Sequences {
            params: Buffer::new(batch * SequenceParams::WORDS)?,
            words: Vec::with_capacity(batch * SequenceParams::WORDS),
            page_table: Buffer::new(batch * pages)?,
        })
    }

    /// Writes sequences `first..` in stream order.
    pub(super) fn write(
        &mut self,
        first: usize,
        sequences: impl Iterator<Item = SequenceParams>,
        stream: &Stream,
    ) -> Result<()> {
        self.words.clear();
        self.words
            .extend(sequences.flat_map(|params| params.to_words()));
        self.params
            .write(first * SequenceParams::WORDS, &self.words, stream)
    }

    /// Sequences there is room for.
    pub(super) fn len(&self) -> usize {
        self.params.len() / SequenceParams::WORDS
    }

    /// Where the first one begins in device memory.
    pub(super) fn address(&self) -> u64 {
        self.params.address()
    }

    pub(super) fn input(&self) -> In<SequenceParams> {
        In::from_address(self.address())
    }

    pub(super) fn output(&self) -> Out<SequenceParams> {
        Out::from_address(self.address())
    }
}
