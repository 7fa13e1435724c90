//! A step's launches: which kernels, in which order.

use gpu_kernels::aggregate::PER_HEAD;

use super::aggregate::AggregateBuffers;
use super::buffer::Buffer;
use super::enqueue::{CodesBuffers, Enqueuer, ListBuffers, TopKBuffers};
use super::heuristics::Variant;
use super::step::{Stale, Step};
use crate::error::Result;

/// What the stages of a select read, work in and write.
pub(super) struct StageBuffers<'a> {
    pub(super) centroids: &'a Buffer<f32>,
    pub(super) codes: &'a Buffer<u8>,
    pub(super) queries: &'a Buffer<f32>,
    pub(super) tables: &'a Buffer<f32>,
    pub(super) scores: &'a Buffer<f32>,
    pub(super) aggregate: &'a AggregateBuffers,
    pub(super) top_k: &'a TopKBuffers,
    pub(super) list: &'a ListBuffers,
}

impl Enqueuer<'_> {
    /// A select by one kernel a stage.
    ///
    /// # Safety
    /// That of the type.
    pub(super) unsafe fn stages(
        &self,
        buffers: &StageBuffers<'_>,
        before: &mut dyn FnMut(&'static str) -> Result<()>,
    ) -> Result<usize> {
        let shape = self.shape.of_lists();
        let of_lists = Enqueuer {
            shape: &shape,
            ..*self
        };
        let mut launches = 0;
        // SAFETY: the caller's; each stage's inputs are written by those before it.
        unsafe {
            before("lut")?;
            launches += self.lut(buffers.centroids, buffers.queries, buffers.tables)?;
            before("scores")?;
            launches += self.scores(buffers.tables, buffers.codes, buffers.scores)?;
            let mut scores = buffers.scores;
            if shape.aggregation != PER_HEAD {
                before("aggregate")?;
                launches += self.aggregate(scores, buffers.aggregate)?;
                scores = &buffers.aggregate.aggregates;
            }
            before("top_k")?;
            launches += of_lists.top_k(scores, buffers.top_k)?;
            launches += of_lists.heavy_scores(scores, buffers.top_k, buffers.list)?;
            before("index_list")?;
            launches += of_lists.index_list(buffers.top_k, buffers.list)?;
            before("weights")?;
            launches += of_lists.weights(buffers.list)?;
        }
        Ok(launches)
    }
}

impl Step {
    pub(super) fn enqueue_step(
        &mut self,
        before: &mut dyn FnMut(&'static str) -> Result<()>,
    ) -> Result<()> {
        // The fused kernels encode by the centroids alone.
        if self.variant != Variant::Staged && self.augmentation.is_none() {
            before("select")?;
            self.enqueue_fused(1)?;
            return self.enqueue_indices();
        }
        before("codes")?;
        self.enqueue_codes(0, 1)?;
        self.enqueue_advance(1)?;
        if self.variant == Variant::Staged {
            self.enqueue_select(before)?;
            return self.enqueue_indices();
        }
        self.enqueue_tuple_counts()?;
        before("select")?;
        self.enqueue_fused(0)?;
        self.enqueue_indices()
    }

    /// The lists of the queries on the device.
    pub(super) fn enqueue_lists(&mut self) -> Result<()> {
        match self.variant {
            Variant::Staged => self.enqueue_select(&mut |_| Ok(()))?,
            _ => self.enqueue_fused(0)?,
        }
        self.enqueue_indices()
    }

    fn enqueue_indices(&mut self) -> Result<()> {
        let shape = self.shape.of_lists();
        let of_lists = Enqueuer {
            shape: &shape,
            ..self.enqueuer()
        };
        // SAFETY: all buffers were made for this shape and this batch, and live as long as the stream.
        self.launches += unsafe { of_lists.indices(&self.list, &self.indices)? };
        Ok(())
    }

    /// Makes one step by what `enqueue` launches.
    pub(super) fn step_once(
        &mut self,
        enqueue: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.listed_len = None;
        // The lengths may have advanced when a later launch fails.
        enqueue(self).inspect_err(|_| self.stale = Stale::Everything)?;
        self.seq_len += 1;
        self.listed_len = Some(self.seq_len);
        Ok(())
    }

    /// The whole step in one launch, after appending `new_tokens` (0 or 1) keys.
    pub(super) fn enqueue_fused(&mut self, new_tokens: usize) -> Result<()> {
        let (enqueuer, buffers) = (self.enqueuer(), self.codes_buffers());
        // SAFETY: all buffers were made for this shape and this batch, and live as long as the stream;
        // the variant is one that fits the shape, and its counts are made.
        let launches = unsafe {
            match self.variant {
                Variant::Survivors(plan) => enqueuer.select_survivors(
                    &buffers,
                    &self.queries,
                    &self.select,
                    &self.list,
                    new_tokens,
                    plan,
                )?,
                Variant::Tuples(blocks) => enqueuer.select_tuples(
                    &buffers,
                    &self.queries,
                    &self.tuples,
                    &self.list,
                    new_tokens,
                    blocks,
                )?,
                Variant::Staged => unreachable!("a staged step is not enqueued as one launch"),
            }
        };
        self.launches += launches;
        Ok(())
    }

    /// Counts the tuples of keys that came otherwise than by fused steps, if the variant counts any.
    pub(super) fn enqueue_tuple_counts(&mut self) -> Result<()> {
        if let Variant::Tuples(blocks) = self.variant {
            let (codes, seq_lens) = (&self.codes, &self.seq_lens);
            // SAFETY: the buffers were made for this shape and batch, and live as long as the stream; codes
            // and lengths are written.
            self.launches += unsafe {
                self.enqueuer()
                    .tuple_counts(codes, seq_lens, &self.tuples, blocks)?
            };
        }
        Ok(())
    }

    pub(super) fn enqueue_select(
        &mut self,
        before: &mut dyn FnMut(&'static str) -> Result<()>,
    ) -> Result<()> {
        let buffers = StageBuffers {
            centroids: &self.centroids,
            codes: &self.codes,
            queries: &self.queries,
            tables: &self.tables,
            scores: &self.scores,
            aggregate: &self.aggregate,
            top_k: &self.top_k,
            list: &self.list,
        };
        // SAFETY: all buffers were made for this shape and this batch, and live as long as the stream.
        self.launches += unsafe { self.enqueuer().stages(&buffers, before)? };
        Ok(())
    }

    pub(super) fn codes_buffers(&self) -> CodesBuffers<'_> {
        CodesBuffers {
            centroids: &self.centroids,
            half_norms: &self.half_norms,
            augmentation: self.augmentation.as_ref(),
            new_keys: &self.new_keys,
            seq_lens: &self.seq_lens,
            codes: &self.codes,
        }
    }

    /// Launches go to the stream whose turn it is.
    pub(super) fn enqueuer(&self) -> Enqueuer<'_> {
        Enqueuer {
            device: &self.device,
            stream: self.turn.stream(),
            shape: &self.shape,
            sequences: &self.sequences,
        }
    }
}
