//! The launches of a ragged step.

use super::RaggedStep;
use crate::cuda::enqueue::{CodesBuffers, Enqueuer};
use crate::cuda::launches::StageBuffers;
use crate::error::Result;

impl RaggedStep {
    fn enqueuer(&self) -> Enqueuer<'_> {
        Enqueuer {
            device: &self.device,
            stream: self.stream.as_inner(),
            shape: &self.batch.shape,
            sequences: &self.sequences,
        }
    }

    pub(super) fn enqueue_append(&self) -> Result<()> {
        let buffers = CodesBuffers {
            centroids: &self.centroids,
            half_norms: &self.half_norms,
            augmentation: self.augmentation.as_ref(),
            new_keys: &self.new_keys,
            seq_lens: &self.no_seq_lens,
            codes: &self.codes,
        };
        // SAFETY: the buffers were made for this shape and batch and live as long as the stream; sequences
        // without centroids or keys append nothing.
        unsafe {
            self.enqueuer().codes(&buffers, 0, 1)?;
            self.enqueuer().advance(&self.no_seq_lens, 1)?;
        }
        Ok(())
    }

    pub(super) fn enqueue_select(&self) -> Result<()> {
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
        let lists = self.batch.shape.of_lists();
        let of_lists = Enqueuer {
            shape: &lists,
            ..self.enqueuer()
        };
        // SAFETY: the buffers were made for this shape and batch and live as long as the stream; sequences
        // without centroids have no rows' work.
        unsafe {
            self.enqueuer().stages(&buffers, &mut |_| Ok(()))?;
            of_lists.indices(&self.list, &self.indices)?;
        }
        Ok(())
    }
}
