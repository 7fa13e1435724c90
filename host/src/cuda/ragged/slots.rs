//! Sequences that come to the device, and come back.

use super::RaggedStep;
use crate::error::Result;
use crate::index::KeyIndex;
use crate::ragged::SequenceConfig;

impl RaggedStep {
    pub(crate) fn insert(
        &mut self,
        slot: usize,
        index: &KeyIndex,
        config: &SequenceConfig,
        pages: &[u32],
    ) -> Result<()> {
        let params = self.batch.check_insert(slot, index, config, pages)?;
        self.enter_own_stream()?;
        // The slot is empty: without it everything is as before.
        self.batch.insert(slot, index, params, pages);
        self.is_stale = true;
        self.write_sequence(slot, index)
            .inspect_err(|_| self.batch.clear(slot))
    }

    fn write_sequence(&mut self, slot: usize, index: &KeyIndex) -> Result<()> {
        let stream = &self.stream;
        let centroids = index.centroids();
        self.centroids
            .write(slot * centroids.len(), centroids, stream)?;
        let half_norms = index.half_norms();
        self.half_norms
            .write(slot * half_norms.len(), &half_norms, stream)?;
        if let (Some(buffers), Some(added)) = (&mut self.augmentation, index.augmentation()) {
            buffers.write(slot, added, stream)?;
        }
        let m = self.batch.config.pq.num_subvectors;
        let (stride, codes) = (index.code_capacity() * m, index.padded_codes());
        for (head, key, at, len) in self.batch.runs(slot) {
            let codes = &codes[head * stride + key * m..][..len * m];
            self.codes.write(at * m, codes, stream)?;
        }
        self.write_pages(slot)
    }

    fn write_pages(&mut self, slot: usize) -> Result<()> {
        let stride = self.batch.config.pages_per_sequence();
        let pages = &self.batch.page_table[slot * stride..][..stride];
        self.sequences
            .page_table
            .write(slot * stride, pages, &self.stream)
    }

    pub(crate) fn add_pages(&mut self, slot: usize, pages: &[u32]) -> Result<()> {
        self.batch.check_add_pages(slot, pages)?;
        self.enter_own_stream()?;
        let before = self.batch.clone();
        self.batch.add_pages(slot, pages);
        // Entries behind a sequence's pages are read by nobody.
        self.write_pages(slot).inspect_err(|_| self.batch = before)
    }

    pub(crate) fn to_index(&self, slot: usize) -> Result<KeyIndex> {
        self.enter_own_stream()?;
        let codes = self.codes.to_vec(&self.stream)?;
        self.batch.to_index(slot, &codes)
    }
}
