//! Steps of a ragged batch on the CPU: stage by stage.

use super::staged::{self, Context, Worker};
use crate::cpu::centroid_lanes::CentroidLanes;
use crate::cpu::codes::{self, Encoder};
use crate::cpu::indices::indices;
use crate::cpu::simd::Simd;
use crate::error::Result;
use crate::index::KeyIndex;
use crate::ragged::{Batch, RaggedConfig, SequenceConfig};
use crate::selection::Selection;
use crate::tensor::{Keys, Queries};

/// The sequences of a batch with the room that its steps work in.
#[derive(Debug)]
pub(crate) struct RaggedStep {
    batch: Batch,
    simd: Simd,
    /// Of each (group, sub-vector), for tables.
    lanes: Vec<CentroidLanes>,
    /// The same as keys are compared with them, if that is different.
    augmented_lanes: Vec<CentroidLanes>,
    /// `[groups, m]`, with the metric `ip`.
    phis: Vec<f32>,
    /// `[groups, code_capacity, m]`, or pages of them.
    codes: Vec<u8>,
    workers: Vec<Worker>,
}

impl RaggedStep {
    pub(crate) fn new(config: &RaggedConfig) -> Result<Self> {
        let simd = Simd::chosen()?;
        let batch = Batch::new(config)?;
        let shape = batch.shape;
        let num_codebooks = config.batch * config.num_kv_heads * config.pq.num_subvectors;
        let nothing = CentroidLanes::new(&[], config.pq.sub_dim(config.head_dim));
        let augmented = if config.pq.is_augmented() {
            num_codebooks
        } else {
            0
        };
        let rows = config.batch * shape.of_lists().rows_per_batch() as usize;
        Ok(RaggedStep {
            simd,
            lanes: vec![nothing.clone(); num_codebooks],
            augmented_lanes: vec![nothing; augmented],
            phis: vec![0.0; augmented],
            codes: vec![0; batch.codes_len()],
            workers: Worker::for_each_thread(&shape, rows),
            batch,
        })
    }

    pub(crate) fn batch(&self) -> &Batch {
        &self.batch
    }

    /// For changes in which the backend has no part.
    pub(crate) fn batch_mut(&mut self) -> &mut Batch {
        &mut self.batch
    }

    pub(crate) fn insert(
        &mut self,
        slot: usize,
        index: &KeyIndex,
        config: &SequenceConfig,
        pages: &[u32],
    ) -> Result<()> {
        let params = self.batch.check_insert(slot, index, config, pages)?;
        self.batch.insert(slot, index, params, pages);
        let (m, heads) = (
            self.batch.config.pq.num_subvectors,
            self.batch.config.num_kv_heads,
        );
        let codebooks = slot * heads * m..(slot + 1) * heads * m;
        self.lanes[codebooks.clone()].clone_from_slice(index.lanes());
        if let Some(added) = index.augmentation() {
            self.augmented_lanes[codebooks.clone()].clone_from_slice(index.search_lanes());
            self.phis[codebooks].copy_from_slice(&added.phis);
        }
        let (stride, codes) = (index.code_capacity() * m, index.padded_codes());
        for (head, key, at, len) in self.batch.runs(slot) {
            self.codes[at * m..][..len * m]
                .copy_from_slice(&codes[head * stride + key * m..][..len * m]);
        }
        Ok(())
    }

    pub(crate) fn add_pages(&mut self, slot: usize, pages: &[u32]) -> Result<()> {
        self.batch.check_add_pages(slot, pages)?;
        self.batch.add_pages(slot, pages);
        Ok(())
    }

    pub(crate) fn append(&mut self, keys: Keys<'_>, appends: &[bool]) -> Result<()> {
        self.batch.check_append(&keys, appends)?;
        let RaggedStep { batch, codes, .. } = self;
        let (m, heads) = (batch.config.pq.num_subvectors, batch.config.num_kv_heads);
        let is_augmented = !self.augmented_lanes.is_empty();
        let encoder = Encoder {
            simd: self.simd,
            m,
            lanes: match is_augmented {
                false => &self.lanes,
                true => &self.augmented_lanes,
            },
            phis: is_augmented.then_some(&self.phis[..]),
        };
        for slot in (0..appends.len()).filter(|&slot| appends[slot]) {
            let position = batch.sequences[slot].seq_len;
            for head in 0..heads {
                let group = slot * heads + head;
                let at = batch.key_at(slot, head, position);
                let of_key = &mut codes[at * m..][..m];
                codes::encode(
                    encoder.group(group),
                    keys.group(group),
                    keys.head_dim,
                    of_key,
                );
            }
        }
        batch.advance(appends);
        Ok(())
    }

    pub(crate) fn select(&mut self, queries: Queries<'_>, selection: &mut Selection) -> Result<()> {
        self.batch.check_queries(&queries)?;
        selection.set_sequences(&self.batch.sequences);
        let context = Context {
            shape: &self.batch.shape,
            sequences: &self.batch.sequences,
            lanes: &self.lanes,
            simd: self.simd,
            codes: &self.codes,
            page_table: &self.batch.page_table,
        };
        staged::select(context, &mut self.workers, queries, selection);
        let batch = &self.batch;
        let pages = batch.config.pages_per_sequence();
        indices(selection, batch.index_page_bits(), &batch.page_table, pages);
        Ok(())
    }

    pub(crate) fn to_index(&self, slot: usize) -> Result<KeyIndex> {
        self.batch.to_index(slot, &self.codes)
    }
}
