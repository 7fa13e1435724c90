//! [`KeyIndex`]: the centroids and codes of one layer's keys.

mod drift;
mod parts;
mod training;

pub use self::parts::{Augmentation, IndexParts};
pub(crate) use self::training::check_training;
use crate::config::{CentroidDtype, MAX_TOKENS, PqConfig};
use crate::cpu::{self, centroid_lanes::CentroidLanes, codes::Encoder, simd::Simd};
use crate::error::{Error, Result};
use crate::tensor::{Component, Keys};

/// Centroids and codes of one layer: for every (batch, key-value head) a codebook trained on its own
/// keys, and the codes of all its keys from position `init_offset` on.
///
/// It lives in host memory; a [`Selector`](crate::Selector) takes it to its backend.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyIndex {
    config: PqConfig,
    batch: usize,
    num_kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    seq_len: usize,
    centroids: Vec<f32>,
    augmentation: Option<Augmentation>,
    /// For tables.
    lanes: Vec<CentroidLanes>,
    /// For the search of the nearest, where that takes a component more.
    augmented_lanes: Vec<CentroidLanes>,
    simd: Simd,
    codes: Vec<u8>,
    provenance: Provenance,
}

/// What is known of how the codebooks were trained.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Provenance {
    /// The mean quantisation error of the keys that they were trained on.
    pub(crate) training_error: Option<f64>,
    /// What the centroids are rounded to.
    pub(crate) centroid_dtype: CentroidDtype,
}

/// Most (batch, key-value head) pairs of an index. Times the tokens, sub-vectors and centroids of
/// any configuration this stays far below 2^64.
const MAX_GROUPS: usize = 1 << 24;

impl KeyIndex {
    /// Encodes `keys` and adds them behind those held.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another batch, head count or `head_dim` than the index has,
    /// [`Error::NotFinite`] for NaN or infinities, [`Error::Capacity`] when they do not fit.
    pub fn append<T: Component>(&mut self, keys: Keys<'_, T>) -> Result<()> {
        let mut room = Vec::new();
        let keys = keys.widen(&mut room);
        self.check_append(&keys)?;
        let first = self.num_codes();
        let encoder = Encoder {
            simd: self.simd,
            m: self.config.num_subvectors,
            lanes: match self.augmentation {
                None => &self.lanes,
                Some(_) => &self.augmented_lanes,
            },
            phis: self.augmentation.as_ref().map(|added| &added.phis[..]),
        };
        cpu::codes::append(encoder, keys, first, &mut self.codes);
        self.seq_len += keys.tokens;
        Ok(())
    }

    fn check_append(&self, keys: &Keys<'_>) -> Result<()> {
        self.check_append_at(keys, self.seq_len)
    }

    /// Whether `keys` could be appended to an index like this one that holds `seq_len` tokens.
    pub(crate) fn check_append_at(&self, keys: &Keys<'_>, seq_len: usize) -> Result<()> {
        check_same("batch", keys.batch, self.batch)?;
        check_same("num_kv_heads", keys.num_kv_heads, self.num_kv_heads)?;
        check_same("head_dim", keys.head_dim, self.head_dim)?;
        keys.check_len()?;
        if keys.tokens > self.capacity - seq_len {
            return Err(Error::Capacity {
                seq_len,
                additional: keys.tokens,
                capacity: self.capacity,
            });
        }
        keys.check_finite()
    }

    /// Makes room for `capacity` tokens in all; less than there is changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] beyond 2^24 tokens.
    pub fn reserve(&mut self, capacity: usize) -> Result<()> {
        check_capacity(self.seq_len, capacity.max(self.seq_len))?;
        self.grow(capacity);
        Ok(())
    }

    fn grow(&mut self, capacity: usize) {
        if capacity <= self.capacity {
            return;
        }
        let m = self.config.num_subvectors;
        let old_len = self.code_capacity() * m;
        self.capacity = capacity;
        let new_len = self.code_capacity() * m;
        let mut codes = vec![0; self.groups() * new_len];
        if old_len > 0 {
            for (new, old) in codes.chunks_mut(new_len).zip(self.codes.chunks(old_len)) {
                new[..old_len].copy_from_slice(old);
            }
        }
        self.codes = codes;
    }

    /// The format of codebook and codes.
    pub fn config(&self) -> &PqConfig {
        &self.config
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Key-value heads.
    pub fn num_kv_heads(&self) -> usize {
        self.num_kv_heads
    }

    /// Components of a key.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Tokens of the context, the unquantised first `init_offset` included.
    pub fn seq_len(&self) -> usize {
        self.seq_len
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Quantised keys of each head.
    pub fn num_codes(&self) -> usize {
        self.seq_len - self.config.init_offset
    }

    /// Quantised keys of each head there is room for.
    pub fn code_capacity(&self) -> usize {
        self.capacity - self.config.init_offset
    }

    /// (batch, key-value head) pairs.
    pub fn groups(&self) -> usize {
        self.batch * self.num_kv_heads
    }

    /// Bytes of the codes of one key: one byte each, or m x bits / 8 if packed.
    pub fn packed_bytes_per_key(&self) -> f64 {
        self.config.num_subvectors as f64 * f64::from(self.config.bits) / 8.0
    }

    /// `[batch, num_kv_heads, m, 2^bits, sub_dim]`.
    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// The type that the centroids are rounded to, and that a file stores them in.
    pub fn centroid_dtype(&self) -> CentroidDtype {
        self.provenance.centroid_dtype
    }

    /// Says that the centroids, which came in parts, are numbers of that type. What augments them stays f32.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that is not.
    pub fn set_centroid_dtype(&mut self, dtype: CentroidDtype) -> Result<()> {
        let rounded = |&&value: &&f32| dtype.round(value).to_bits() == value.to_bits();
        match self.centroids.iter().find(|value| !rounded(value)) {
            None => {
                self.provenance.centroid_dtype = dtype;
                Ok(())
            }
            Some(value) => {
                let expected = format!("numbers of {dtype:?}");
                Err(Error::invalid("centroids", value, expected))
            }
        }
    }

    pub(crate) fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// The same codebooks as those that this is known of.
    pub(crate) fn with_provenance(self, provenance: Provenance) -> Self {
        KeyIndex { provenance, ..self }
    }

    /// What the metric `ip` adds to the centroids.
    pub fn augmentation(&self) -> Option<&Augmentation> {
        self.augmentation.as_ref()
    }

    /// Half squared norms of the centroids, `[batch, num_kv_heads, m, 2^bits]`, the component that augments
    /// them included.
    pub fn half_norms(&self) -> Vec<f32> {
        let lanes = match self.augmentation {
            None => &self.lanes,
            Some(_) => &self.augmented_lanes,
        };
        lanes.iter().flat_map(|lanes| lanes.half_norms()).collect()
    }

    /// The centroids of each (group, sub-vector) as keys are compared with them, augmented or not.
    pub(crate) fn search_lanes(&self) -> &[CentroidLanes] {
        match self.augmentation {
            None => &self.lanes,
            Some(_) => &self.augmented_lanes,
        }
    }

    /// The centroids of each (group, sub-vector), laid out for vectors.
    pub(crate) fn lanes(&self) -> &[CentroidLanes] {
        &self.lanes
    }

    /// The instruction set that keys are encoded with.
    pub(crate) fn simd(&self) -> Simd {
        self.simd
    }

    /// `[batch, num_kv_heads, code_capacity, m]`, of which the first `num_codes` keys count.
    pub fn padded_codes(&self) -> &[u8] {
        &self.codes
    }
}

fn check_same(argument: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::invalid(
        format!("keys: {argument}"),
        got,
        format!("{expected}, as the index has"),
    ))
}

fn check_capacity(tokens: usize, capacity: usize) -> Result<()> {
    if capacity > MAX_TOKENS {
        return Err(Error::invalid(
            "capacity",
            capacity,
            format!("at most {MAX_TOKENS}"),
        ));
    }
    if tokens > capacity {
        return Err(Error::invalid(
            "capacity",
            capacity,
            format!("at least the {tokens} tokens given"),
        ));
    }
    Ok(())
}
