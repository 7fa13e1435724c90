//! New keys of a step: their way to the device, their codes, and what else they change.

use std::mem;
use std::ops::Range;

use super::step::{Stale, Step};
use crate::error::{Error, Result};
use crate::tensor::{Component, Keys, Queries};

/// Keys of a group from which on tiles of them pay: a quarter of one.
const MANY_TOKENS: usize = 32;

impl Step {
    pub(crate) fn append(&mut self, keys: Keys<'_>) -> Result<()> {
        self.check_append(&keys)?;
        self.enter_own_stream()?;
        if keys.tokens == 0 {
            return Ok(());
        }
        self.refresh()?;
        self.is_uploaded = false;
        self.enqueue_append(&keys)
            .and_then(|()| self.synchronize())
            .inspect_err(|_| self.stale = Stale::Everything)?;
        self.seq_len += keys.tokens;
        Ok(())
    }

    /// Copies one new key for each (batch, head), `[batch, num_kv_heads, 1, head_dim]`, and the
    /// step's queries to the device, for [`Step::enqueue`] or [`Step::replay`]. They stay for later
    /// steps, until an append, a select or an upload that fails takes their place. Both may be of half precision.
    ///
    /// # Errors
    /// As `KeyIndex::append` for the key; [`Error::Invalid`] for queries of another length; what the
    /// driver answers.
    pub fn upload<K: Component, Q: Component>(
        &mut self,
        new_keys: Keys<'_, K>,
        queries: Queries<'_, Q>,
    ) -> Result<()> {
        let mut room = mem::take(&mut self.room);
        let new_keys = new_keys.widen(&mut room.keys);
        let uploaded = self.upload_wide(new_keys, queries.widen(&mut room.queries));
        self.room = room;
        uploaded
    }

    fn upload_wide(&mut self, new_keys: Keys<'_>, queries: Queries<'_>) -> Result<()> {
        if new_keys.tokens != 1 {
            return Err(Error::invalid("keys: tokens", new_keys.tokens, 1));
        }
        self.check_append(&new_keys)?;
        let expected = self.batch * self.shape.rows_per_batch() as usize * self.head_dim();
        if queries.data.len() != expected {
            return Err(Error::invalid(
                "queries",
                format!("{} elements", queries.data.len()),
                expected,
            ));
        }
        self.enter_own_stream()?;
        self.is_uploaded = false;
        self.upload_keys(&new_keys, 0..1)?;
        self.queries.write(0, queries.data, &self.stream)?;
        self.is_uploaded = true;
        Ok(())
    }

    fn check_append(&self, keys: &Keys<'_>) -> Result<()> {
        self.origin.check_append_at(keys, self.seq_len)
    }

    pub(super) fn check_room(&self) -> Result<()> {
        if self.seq_len < self.origin.capacity() {
            return Ok(());
        }
        Err(Error::Capacity {
            seq_len: self.seq_len,
            additional: 1,
            capacity: self.origin.capacity(),
        })
    }

    pub(super) fn check_uploaded(&self) -> Result<()> {
        if self.is_uploaded {
            return Ok(());
        }
        Err(Error::invalid(
            "step",
            "no keys and queries on the device",
            "an upload before a step",
        ))
    }

    /// Copies tokens `range` of `keys` to the front of `new_keys`, `[groups, range.len(), head_dim]`.
    fn upload_keys(&mut self, keys: &Keys<'_>, range: Range<usize>) -> Result<()> {
        let len = range.len() * keys.head_dim;
        if range.len() == keys.tokens {
            return self.new_keys.write(0, keys.data, &self.stream);
        }
        for group in 0..self.origin.groups() {
            let key_data = &keys.group(group)[range.start * keys.head_dim..][..len];
            self.new_keys.write(group * len, key_data, &self.stream)?;
        }
        Ok(())
    }

    /// Encodes the keys, advances the lengths and counts the new tuples.
    fn enqueue_append(&mut self, keys: &Keys<'_>) -> Result<()> {
        self.write_sequences()?;
        let mut done = 0;
        while done < keys.tokens {
            let tokens = self.new_keys_room.min(keys.tokens - done);
            self.upload_keys(keys, done..done + tokens)?;
            if tokens < MANY_TOKENS {
                self.enqueue_codes(done, tokens)?;
            } else {
                self.enqueue_many_codes(done, tokens)?;
            }
            done += tokens;
        }
        self.enqueue_advance(keys.tokens)?;
        self.stale = Stale::Counts;
        self.refresh()
    }

    pub(super) fn enqueue_codes(&mut self, first_token: usize, new_tokens: usize) -> Result<()> {
        // SAFETY: the buffers were made for this shape and live as long as the stream; the keys are
        // uploaded.
        self.launches += unsafe {
            self.enqueuer()
                .codes(&self.codes_buffers(), first_token, new_tokens)?
        };
        Ok(())
    }

    /// [`Step::enqueue_codes`] for many keys behind the host's length, by tiles of keys and centroids.
    fn enqueue_many_codes(&mut self, first_token: usize, new_tokens: usize) -> Result<()> {
        let num_codes = self.seq_len - self.origin.config().init_offset;
        // SAFETY: as above; the keys fit behind those that are there.
        self.launches += unsafe {
            let buffers = self.codes_buffers();
            self.enqueuer()
                .many_codes(&buffers, num_codes + first_token, new_tokens)?
        };
        Ok(())
    }

    pub(super) fn enqueue_advance(&mut self, new_tokens: usize) -> Result<()> {
        // SAFETY: there is one length for each sequence.
        self.launches += unsafe { self.enqueuer().advance(&self.seq_lens, new_tokens)? };
        Ok(())
    }
}
