//! What the CPU makes of what the GPU did.

use keysieve::cuda::Variant;
use keysieve::{Backend, KeyIndex, Selection, Selector};

use super::{QO_HEADS, SELECT, keys, keys_data, pq, queries, queries_data};

/// What the CPU makes of the ops that succeeded.
pub(super) struct Mirror {
    pub(super) selector: Selector,
    /// By how many tokens the context has grown: which keys come next.
    pub(super) grown: usize,
    /// Of the last step on the GPU, to be read.
    pub(super) listed: Selection,
    /// Of the last select or read.
    pub(super) seen: Selection,
    /// How the GPU runs steps.
    pub(super) variant: Option<Variant>,
}

impl Mirror {
    pub(super) fn select(&mut self) {
        self.select_with(&queries_data(self.grown));
    }

    pub(super) fn select_with(&mut self, data: &[f32]) {
        let selected = self.selector.select(queries(data));
        self.listed = selected.expect("the CPU has no driver").clone();
    }

    pub(super) fn append(&mut self, tokens: usize) {
        self.append_with(&keys_data(self.grown, tokens), tokens);
    }

    pub(super) fn append_with(&mut self, data: &[f32], tokens: usize) {
        let appended = self.selector.append(keys(data, tokens));
        appended.expect("the CPU has no driver");
        self.grown += tokens;
    }

    pub(super) fn rewind(&mut self) {
        self.grown -= 1;
        let index = self.selector.to_index().expect("the CPU has no driver");
        let capacity = index.capacity();
        let training_error = index.training_error();
        let mut parts = index.to_parts();
        let stride = parts.num_codes * pq().num_subvectors;
        parts.num_codes -= 1;
        let groups = parts.codes.chunks(stride);
        let kept = groups.flat_map(|codes| &codes[..stride - pq().num_subvectors]);
        parts.codes = kept.copied().collect();
        let mut index = KeyIndex::from_parts(parts, capacity).expect("one token less");
        index
            .set_training_error(training_error)
            .expect("it was one");
        let selector = Selector::new(&Backend::Cpu, index, SELECT, QO_HEADS, 1);
        self.selector = selector.expect("the CPU has no driver");
    }
}
