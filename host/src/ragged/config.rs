//! What a ragged batch is made of.

use crate::config::{MAX_TOKENS, PqConfig, SelectConfig};
use crate::error::{Error, Result};

/// The sizes of a batch whose sequences come, go and differ: the most of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaggedConfig {
    /// Sequences there is room for.
    pub batch: usize,
    /// Key-value heads of a sequence.
    pub num_kv_heads: usize,
    /// Query heads of a sequence, a multiple of `num_kv_heads`.
    pub num_qo_heads: usize,
    /// Queries of a head in a step.
    pub num_queries: usize,
    /// Components of a key.
    pub head_dim: usize,
    /// Tokens of a sequence there is room for.
    pub capacity: usize,
    /// The format of every sequence's codes; a sequence's own `init_offset` may be smaller.
    pub pq: PqConfig,
    /// What a step lists; a sequence's own `sink`, `window` and `heavy` may be smaller.
    pub select: SelectConfig,
    /// Pages of a cache, if there are any.
    pub paging: Option<Paging>,
}

/// Pages: position `p` of a sequence lies in page `page_table[p / page_size]` of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// Positions of a page, a power of two from 16 to 256.
    pub page_size: usize,
    /// Pages of the pool.
    pub num_pages: usize,
    /// Codes lie in pages of a pool too, `[num_pages, num_kv_heads, page_size, m]`; else every sequence has room
    /// of its own for as many as `capacity`.
    pub codes: bool,
}

/// What one sequence lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceConfig {
    /// First positions, always listed.
    pub sink: usize,
    /// Last positions, always listed.
    pub window: usize,
    /// Best-scoring candidates listed.
    pub heavy: usize,
}

impl From<&SelectConfig> for SequenceConfig {
    fn from(select: &SelectConfig) -> Self {
        SequenceConfig {
            sink: select.sink,
            window: select.window,
            heavy: select.heavy,
        }
    }
}

impl RaggedConfig {
    /// Checks the configuration.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming what is outside its bounds.
    pub fn validate(&self) -> Result<()> {
        self.pq.validate(self.head_dim)?;
        self.select.validate()?;
        // So many that no product of sizes overflows.
        for (argument, value, most) in [
            ("batch", self.batch, 1 << 16),
            ("num_kv_heads", self.num_kv_heads, 1 << 12),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::invalid(argument, value, format!("1 to {most}")));
            }
        }
        let least = self.pq.init_offset.max(1);
        if !(least..=MAX_TOKENS).contains(&self.capacity) {
            let expected = format!("{least} to {MAX_TOKENS}");
            return Err(Error::invalid("capacity", self.capacity, expected));
        }
        if let Some(paging) = &self.paging {
            let size = paging.page_size;
            if !size.is_power_of_two() || !(16..=256).contains(&size) {
                let expected = "a power of two from 16 to 256";
                return Err(Error::invalid("page_size", size, expected));
            }
            // Slots are numbers of 31 bits.
            let most = (1 << 31) / size;
            if !(1..=most).contains(&paging.num_pages) {
                let expected = format!("1 to {most}");
                return Err(Error::invalid("num_pages", paging.num_pages, expected));
            }
        }
        match self.paging {
            None => self.select.check_no_slots(),
            Some(_) => Ok(()),
        }
    }

    /// Pages of the longest sequence, 0 without pages.
    pub fn pages_per_sequence(&self) -> usize {
        let paging = self.paging.as_ref();
        paging.map_or(0, |paging| self.capacity.div_ceil(paging.page_size))
    }
}
