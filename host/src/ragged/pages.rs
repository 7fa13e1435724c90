//! Where the codes of a ragged batch lie, and whose pages are whose.

use super::batch::Batch;
use crate::error::{Error, Result};

impl Batch {
    /// Elements of all codes.
    pub(crate) fn codes_len(&self) -> usize {
        let keys = match &self.config.paging {
            Some(paging) if paging.codes => paging.num_pages * paging.page_size,
            _ => self.config.batch * self.shape.code_capacity as usize,
        };
        keys * self.config.num_kv_heads * self.config.pq.num_subvectors
    }

    /// Where the key at `position` of a head of `slot` stands among all keys with codes. The sequence's pages
    /// are in the table.
    pub(crate) fn key_at(&self, slot: usize, head: usize, position: u32) -> usize {
        let group = (slot * self.config.num_kv_heads + head) as u32;
        let init_offset = self.sequences[slot].init_offset;
        let page = |i: usize| self.page_table[i];
        self.shape.key_at(group, position, init_offset, page)
    }

    /// Stretches of a sequence's codes that lie in one piece: (head, first key of the sequence, where that
    /// stands among all, keys).
    pub(crate) fn runs(&self, slot: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let sequence = self.sequences[slot];
        let page_size = if self.shape.page_bits > 0 {
            1 << self.shape.page_bits
        } else {
            u32::MAX
        };
        let heads = 0..self.config.num_kv_heads;
        heads.flat_map(move |head| {
            let mut next = sequence.init_offset;
            std::iter::from_fn(move || {
                if next >= sequence.seq_len {
                    return None;
                }
                let first = next;
                let behind_page = (first / page_size + 1).saturating_mul(page_size);
                next = behind_page.min(sequence.seq_len);
                let key = (first - sequence.init_offset) as usize;
                let at = self.key_at(slot, head, first);
                Some((head, key, at, (next - first) as usize))
            })
        })
    }

    /// Tokens that a sequence of so many pages has room for.
    pub(super) fn room(&self, num_pages: usize) -> usize {
        let capacity = self.config.capacity;
        let paging = self.config.paging.as_ref();
        paging.map_or(capacity, |paging| {
            capacity.min(num_pages * paging.page_size)
        })
    }

    /// Whether a slot with `before` pages may have those too.
    pub(super) fn check_pages(
        &self,
        slot: usize,
        before: usize,
        init_offset: usize,
        pages: &[u32],
    ) -> Result<()> {
        let most = self.config.pages_per_sequence() - before;
        if pages.len() > most {
            let expected = format!("at most {most}");
            return Err(Error::invalid("pages", pages.len(), expected));
        }
        let Some(paging) = &self.config.paging else {
            return Ok(());
        };
        let has_codes =
            |i: usize| paging.codes && (before + i + 1) * paging.page_size > init_offset;
        for (i, &page) in pages.iter().enumerate() {
            if page as usize >= paging.num_pages {
                let expected = format!("below num_pages {}", paging.num_pages);
                return Err(Error::invalid("pages", page, expected));
            }
            if !has_codes(i) {
                continue;
            }
            let owner = self.owners[page as usize];
            let twice = (0..i).any(|other| pages[other] == page && has_codes(other));
            if owner.is_some() || twice {
                let owner = owner.unwrap_or(slot);
                let got = format!("{page}, where slot {owner} has codes");
                return Err(Error::invalid("pages", got, "pages of its own"));
            }
        }
        Ok(())
    }

    pub(super) fn take_pages(&mut self, slot: usize, pages: &[u32]) {
        let before = self.num_pages[slot];
        let stride = self.config.pages_per_sequence();
        self.page_table[slot * stride + before..][..pages.len()].copy_from_slice(pages);
        self.num_pages[slot] += pages.len();
        if let Some(paging) = self.config.paging.filter(|paging| paging.codes) {
            let init_offset = self.sequences[slot].init_offset as usize;
            for (i, &page) in pages.iter().enumerate() {
                if (before + i + 1) * paging.page_size > init_offset {
                    self.owners[page as usize] = Some(slot);
                }
            }
        }
    }

    pub(crate) fn check_add_pages(&self, slot: usize, pages: &[u32]) -> Result<()> {
        self.check_occupied(slot)?;
        let init_offset = self.sequences[slot].init_offset as usize;
        self.check_pages(slot, self.num_pages[slot], init_offset, pages)
    }

    /// After [`Batch::check_add_pages`].
    pub(crate) fn add_pages(&mut self, slot: usize, pages: &[u32]) {
        self.take_pages(slot, pages);
    }
}
