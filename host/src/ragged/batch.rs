//! The sequences of a ragged batch as the host knows them, and whether a call may change them.

use gpu_kernels::step::{SequenceParams, StepShape};

use super::config::{RaggedConfig, SequenceConfig};
use crate::error::{Error, Result};
use crate::index::{IndexParts, KeyIndex, Provenance};
use crate::selection::Selection;
use crate::selector::{Extent, shape_of};
use crate::tensor::{Keys, Queries};

/// Which slots have which sequences, and whose pages are whose. Where a backend has a part in a change, the method
/// named `check_` changes nothing, and the other cannot fail and is called once that part is done.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) config: RaggedConfig,
    /// With room for the largest of each region.
    pub(crate) shape: StepShape,
    /// `[batch]`; all zero where no sequence is.
    pub(crate) sequences: Vec<SequenceParams>,
    /// `[batch, pages_per_sequence]`.
    pub(crate) page_table: Vec<u32>,
    /// Pages that each sequence has.
    pub(super) num_pages: Vec<usize>,
    /// The sequence whose codes lie in a page, `[num_pages]` if codes have pages.
    pub(super) owners: Vec<Option<usize>>,
    /// Centroids of each sequence, without codes.
    origins: Vec<Option<IndexParts>>,
    /// What is known of each sequence's codebooks.
    provenances: Vec<Provenance>,
}

impl Batch {
    pub(crate) fn new(config: &RaggedConfig) -> Result<Self> {
        config.validate()?;
        let extent = Extent {
            batch: config.batch,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            capacity: config.capacity,
            // A sequence may begin to be quantised at 0. The same on every backend, and a round number.
            code_capacity: config.capacity.next_multiple_of(16),
        };
        let (heads, queries) = (config.num_qo_heads, config.num_queries);
        let mut shape = shape_of(&extent, &config.pq, &config.select, heads, queries)?;
        let mut num_code_pages = 0;
        if let Some(paging) = &config.paging {
            shape.pages_per_sequence = config.pages_per_sequence() as u32;
            if paging.codes {
                shape.page_bits = paging.page_size.ilog2();
                num_code_pages = paging.num_pages;
            }
        }
        Ok(Batch {
            config: *config,
            shape,
            sequences: vec![SequenceParams::default(); config.batch],
            page_table: vec![0; config.batch * config.pages_per_sequence()],
            num_pages: vec![0; config.batch],
            owners: vec![None; num_code_pages],
            origins: vec![None; config.batch],
            provenances: vec![Provenance::default(); config.batch],
        })
    }

    /// A selection to write to.
    pub(crate) fn selection(&self) -> Selection {
        let config = &self.config;
        let mut selection = Selection::new(&self.shape, config.batch, &config.select);
        selection.sequences = vec![SequenceParams::default(); config.batch];
        selection
    }

    /// log2 of a page's positions where indices are slots, else 0.
    pub(crate) fn index_page_bits(&self) -> u32 {
        let slots = self
            .config
            .select
            .indices
            .is_some_and(|indices| indices.slots);
        let paging = self.config.paging.filter(|_| slots);
        paging.map_or(0, |paging| paging.page_size.ilog2())
    }

    fn check_slot(&self, slot: usize) -> Result<()> {
        if slot < self.config.batch {
            return Ok(());
        }
        let expected = format!("below the batch of {}", self.config.batch);
        Err(Error::invalid("slot", slot, expected))
    }

    pub(super) fn check_occupied(&self, slot: usize) -> Result<()> {
        self.check_slot(slot)?;
        if self.origins[slot].is_some() {
            return Ok(());
        }
        let got = format!("{slot}, where no sequence is");
        Err(Error::invalid("slot", got, "a sequence's"))
    }

    /// A sequence's regions, with its own `init_offset`, as parameters of `seq_len` tokens.
    fn check_regions(
        &self,
        config: &SequenceConfig,
        init_offset: usize,
        seq_len: usize,
    ) -> Result<SequenceParams> {
        let most = &self.config.select;
        for (argument, got, most) in [
            ("sink", config.sink, most.sink),
            ("window", config.window, most.window),
            ("heavy", config.heavy, most.heavy),
            ("init_offset", init_offset, self.config.pq.init_offset),
        ] {
            if got > most {
                let expected = format!("at most the batch's {most}");
                return Err(Error::invalid(argument, got, expected));
            }
        }
        let own = crate::SelectConfig {
            heavy: config.heavy,
            ..*most
        };
        let pq = crate::PqConfig {
            init_offset,
            ..self.config.pq
        };
        let limit = own.short_context_limit(&pq, self.config.num_queries);
        Ok(SequenceParams {
            seq_len: seq_len as u32,
            init_offset: init_offset as u32,
            sink: config.sink as u32,
            window: config.window as u32,
            heavy: config.heavy as u32,
            short_context_limit: limit as u32,
            new_tokens: 0,
            reserved: 0,
        })
    }

    /// The parameters of `index` as the sequence of a slot with those pages.
    pub(crate) fn check_insert(
        &self,
        slot: usize,
        index: &KeyIndex,
        config: &SequenceConfig,
        pages: &[u32],
    ) -> Result<SequenceParams> {
        self.check_slot(slot)?;
        if self.origins[slot].is_some() {
            let got = format!("{slot}, where a sequence is");
            return Err(Error::invalid("slot", got, "an empty one"));
        }
        let (own, of_index) = (&self.config, index.config());
        for (argument, got, expected) in [
            ("batch", index.batch(), 1),
            ("num_kv_heads", index.num_kv_heads(), own.num_kv_heads),
            ("head_dim", index.head_dim(), own.head_dim),
            (
                "num_subvectors",
                of_index.num_subvectors,
                own.pq.num_subvectors,
            ),
            ("bits", of_index.bits as usize, own.pq.bits as usize),
        ] {
            if got != expected {
                return Err(Error::invalid(format!("index: {argument}"), got, expected));
            }
        }
        let (got, expected) = (of_index.metric.name(), own.pq.metric.name());
        if got != expected {
            return Err(Error::invalid("index: metric", got, expected));
        }
        if index.seq_len() > own.capacity {
            return Err(Error::Capacity {
                seq_len: 0,
                additional: index.seq_len(),
                capacity: own.capacity,
            });
        }
        let params = self.check_regions(config, of_index.init_offset, index.seq_len())?;
        self.check_pages(slot, 0, of_index.init_offset, pages)?;
        let room = self.room(pages.len());
        if index.seq_len() > room {
            let got = format!("{} for {} tokens", pages.len(), index.seq_len());
            return Err(Error::invalid("pages", got, "a page for every token"));
        }
        Ok(params)
    }

    /// After [`Batch::check_insert`].
    pub(crate) fn insert(
        &mut self,
        slot: usize,
        index: &KeyIndex,
        params: SequenceParams,
        pages: &[u32],
    ) {
        self.sequences[slot] = params;
        self.origins[slot] = Some(IndexParts {
            config: *index.config(),
            batch: 1,
            num_kv_heads: index.num_kv_heads(),
            head_dim: index.head_dim(),
            num_codes: 0,
            centroids: index.centroids().to_vec(),
            augmentation: index.augmentation().cloned(),
            codes: Vec::new(),
        });
        self.provenances[slot] = index.provenance();
        self.take_pages(slot, pages);
    }

    /// Empties a slot; its pages are nobody's.
    pub(crate) fn remove(&mut self, slot: usize) -> Result<()> {
        self.check_occupied(slot)?;
        self.clear(slot);
        Ok(())
    }

    /// [`Batch::remove`] of a slot where a sequence is, or was about to be.
    pub(crate) fn clear(&mut self, slot: usize) {
        self.sequences[slot] = SequenceParams::default();
        self.origins[slot] = None;
        self.num_pages[slot] = 0;
        for owner in &mut self.owners {
            *owner = owner.filter(|&owner| owner != slot);
        }
    }

    /// Gives a sequence other regions.
    pub(crate) fn configure(&mut self, slot: usize, config: &SequenceConfig) -> Result<()> {
        self.check_occupied(slot)?;
        let own = &self.sequences[slot];
        let (init_offset, seq_len) = (own.init_offset as usize, own.seq_len as usize);
        self.sequences[slot] = self.check_regions(config, init_offset, seq_len)?;
        Ok(())
    }

    /// Takes the last tokens of a sequence away.
    pub(crate) fn truncate(&mut self, slot: usize, seq_len: usize) -> Result<()> {
        self.check_occupied(slot)?;
        let own = &mut self.sequences[slot];
        let range = own.init_offset as usize..=own.seq_len as usize;
        if !range.contains(&seq_len) {
            let expected = format!("{} to {}", range.start(), range.end());
            return Err(Error::invalid("seq_len", seq_len, expected));
        }
        own.seq_len = seq_len as u32;
        Ok(())
    }

    /// Whether the sequences that `appends` names can take a key each of `keys`
    /// `[batch, num_kv_heads, 1, head_dim]`, whose other keys are not looked at.
    pub(crate) fn check_append(&self, keys: &Keys<'_>, appends: &[bool]) -> Result<()> {
        let own = &self.config;
        for (argument, got, expected) in [
            ("batch", keys.batch, own.batch),
            ("num_kv_heads", keys.num_kv_heads, own.num_kv_heads),
            ("tokens", keys.tokens, 1),
            ("head_dim", keys.head_dim, own.head_dim),
        ] {
            if got != expected {
                return Err(Error::invalid(format!("keys: {argument}"), got, expected));
            }
        }
        keys.check_len()?;
        self.check_room(appends)?;
        let of_sequence = own.num_kv_heads * own.head_dim;
        for slot in (0..own.batch).filter(|&slot| appends[slot]) {
            let keys = Keys {
                data: &keys.data[slot * of_sequence..][..of_sequence],
                batch: 1,
                ..*keys
            };
            keys.check_finite().map_err(|error| match error {
                Error::NotFinite {
                    head,
                    token,
                    component,
                    value,
                    ..
                } => Error::NotFinite {
                    batch: slot,
                    head,
                    token,
                    component,
                    value,
                },
                other => other,
            })?;
        }
        Ok(())
    }

    /// Whether the sequences that `appends` names have room for a key each.
    pub(crate) fn check_room(&self, appends: &[bool]) -> Result<()> {
        if appends.len() != self.config.batch {
            let got = format!("{} elements", appends.len());
            return Err(Error::invalid("appends", got, self.config.batch));
        }
        for slot in (0..self.config.batch).filter(|&slot| appends[slot]) {
            if self.origins[slot].is_none() {
                let got = format!("slot {slot}, where no sequence is");
                return Err(Error::invalid("appends", got, "slots of sequences"));
            }
            let seq_len = self.sequences[slot].seq_len as usize;
            let capacity = self.room(self.num_pages[slot]);
            if seq_len >= capacity {
                return Err(Error::Capacity {
                    seq_len,
                    additional: 1,
                    capacity,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn check_queries(&self, queries: &Queries<'_>) -> Result<()> {
        queries.check_len()?;
        let own = &self.config;
        for (argument, got, expected) in [
            ("batch", queries.batch, own.batch),
            ("num_qo_heads", queries.num_qo_heads, own.num_qo_heads),
            ("num_queries", queries.num_queries, own.num_queries),
            ("head_dim", queries.head_dim, own.head_dim),
        ] {
            if got != expected {
                return Err(Error::invalid(
                    format!("queries: {argument}"),
                    got,
                    expected,
                ));
            }
        }
        Ok(())
    }

    /// Makes the sequences that `appends` names a token longer.
    pub(crate) fn advance(&mut self, appends: &[bool]) {
        for (sequence, &appends) in self.sequences.iter_mut().zip(appends) {
            sequence.seq_len += u32::from(appends);
        }
    }

    /// The index of a slot, given where all codes are.
    pub(crate) fn to_index(&self, slot: usize, codes: &[u8]) -> Result<KeyIndex> {
        self.check_occupied(slot)?;
        let parts = self.origins[slot].as_ref().expect("it is occupied");
        let m = self.config.pq.num_subvectors;
        let sequence = &self.sequences[slot];
        let num_codes = (sequence.seq_len - sequence.init_offset) as usize;
        let mut of_slot = vec![0; self.config.num_kv_heads * num_codes * m];
        for (head, key, at, len) in self.runs(slot) {
            of_slot[(head * num_codes + key) * m..][..len * m]
                .copy_from_slice(&codes[at * m..][..len * m]);
        }
        let parts = IndexParts {
            num_codes,
            codes: of_slot,
            ..parts.clone()
        };
        let index = KeyIndex::from_parts(parts, self.config.capacity)?;
        Ok(index.with_provenance(self.provenances[slot]))
    }
}
