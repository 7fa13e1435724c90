//! Training of an index, on either backend.

use super::{IndexParts, KeyIndex, MAX_GROUPS, Provenance, check_capacity, check_same};
use crate::backend::Backend;
use crate::config::{PqConfig, TrainConfig};
use crate::cpu::{self, simd::Simd};
use crate::cuda;
use crate::error::{Error, Result};
use crate::tensor::{Component, Keys};

impl KeyIndex {
    /// Trains a codebook for every (batch, head, sub-vector) on the keys from `init_offset` on and
    /// encodes them; room is made for `capacity` tokens in all.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a configuration or shape that cannot be, for no key behind
    /// `init_offset`, for more tokens than `capacity`, or as [`Simd::chosen`]; [`Error::NotFinite`] for NaN or infinities.
    pub fn train<T: Component>(
        config: &PqConfig,
        training: &TrainConfig,
        keys: Keys<'_, T>,
        capacity: usize,
    ) -> Result<Self> {
        Self::train_with_progress(config, training, keys, capacity, &|_, _| ())
    }

    /// [`KeyIndex::train`] that calls `progress(done, all)` as the sub-vectors' codebooks get done,
    /// from whichever thread did them.
    ///
    /// # Errors
    /// As [`KeyIndex::train`].
    pub fn train_with_progress<T: Component>(
        config: &PqConfig,
        training: &TrainConfig,
        keys: Keys<'_, T>,
        capacity: usize,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self> {
        let mut room = Vec::new();
        let keys = keys.widen(&mut room);
        Self::train_on_cpu(config, training, keys, capacity, None, progress)
    }

    /// [`KeyIndex::train`] on a backend. A GPU starts from a sample ([`Start::Sampled`](crate::Start)) and finds
    /// codebooks as good as the CPU's from the same start, not the same ones bit for bit: sums of many keys have
    /// another order there. Keys that are in device memory already: [`cuda::train::train`].
    ///
    /// # Errors
    /// As [`KeyIndex::train`]; on a GPU [`Error::Invalid`] for another start, and what the driver answers.
    pub fn train_on<T: Component>(
        backend: &Backend,
        config: &PqConfig,
        training: &TrainConfig,
        keys: Keys<'_, T>,
        capacity: usize,
    ) -> Result<Self> {
        Self::train_from(backend, config, training, keys, capacity, None)
    }

    /// An index of other keys of the same heads, whose codebooks are trained from this one's centroids in place of
    /// `training.start`: fewer iterations do where keys have drifted, but not far.
    ///
    /// # Errors
    /// As [`KeyIndex::train_on`]; [`Error::Invalid`] for another batch, head count or `head_dim` than the index has.
    pub fn retrain_on<T: Component>(
        &self,
        backend: &Backend,
        training: &TrainConfig,
        keys: Keys<'_, T>,
        capacity: usize,
    ) -> Result<Self> {
        check_same("batch", keys.batch, self.batch)?;
        check_same("num_kv_heads", keys.num_kv_heads, self.num_kv_heads)?;
        check_same("head_dim", keys.head_dim, self.head_dim)?;
        Self::train_from(backend, &self.config, training, keys, capacity, Some(self))
    }

    fn train_from<T: Component>(
        backend: &Backend,
        config: &PqConfig,
        training: &TrainConfig,
        keys: Keys<'_, T>,
        capacity: usize,
        earlier: Option<&KeyIndex>,
    ) -> Result<Self> {
        let mut room = Vec::new();
        let device = match backend {
            Backend::Cpu => {
                let progress = &|_, _| ();
                let keys = keys.widen(&mut room);
                return Self::train_on_cpu(config, training, keys, capacity, earlier, progress);
            }
            Backend::Cuda(device) => device,
        };
        keys.check_len()?;
        let shape = [keys.batch, keys.num_kv_heads, keys.tokens, keys.head_dim];
        check_training(config, shape, capacity)?;
        // Here, where a component that is not finite can be told by its value.
        keys.check_finite()?;
        let buffer = cuda::KeyBuffer::new(device, T::slice(keys.data))?;
        let head_stride = keys.tokens * keys.head_dim;
        let strides = [keys.num_kv_heads * head_stride, head_stride, keys.head_dim];
        let on_device = buffer.keys(shape, strides)?;
        // SAFETY: the buffer lives until the call returns, and is written by nobody else.
        unsafe { cuda::train::train_from(device, config, training, &on_device, capacity, earlier) }
    }

    fn train_on_cpu(
        config: &PqConfig,
        training: &TrainConfig,
        keys: Keys<'_>,
        capacity: usize,
        earlier: Option<&KeyIndex>,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self> {
        let simd = Simd::chosen()?;
        let shape = [keys.batch, keys.num_kv_heads, keys.tokens, keys.head_dim];
        check_training(config, shape, capacity)?;
        training.validate()?;
        keys.check_len()?;
        keys.check_finite()?;

        let first = earlier.map(KeyIndex::search_lanes);
        let trained = cpu::codebook::train(simd, config, training, keys, first, progress);
        let mut index = Self::from_parts(
            IndexParts {
                config: *config,
                batch: keys.batch,
                num_kv_heads: keys.num_kv_heads,
                head_dim: keys.head_dim,
                num_codes: keys.tokens - config.init_offset,
                centroids: trained.centroids,
                augmentation: trained.augmentation,
                codes: trained.codes,
            },
            capacity,
        )?;
        let error = index.quantisation_error(keys, 0, config.init_offset)?;
        index.provenance = Provenance {
            training_error: (!error.is_nan()).then_some(error),
            centroid_dtype: training.centroids,
        };
        Ok(index)
    }
}

/// Whether codebooks can be trained on keys of that shape, `[batch, num_kv_heads, tokens, head_dim]`.
pub(crate) fn check_training(config: &PqConfig, shape: [usize; 4], capacity: usize) -> Result<()> {
    let [batch, num_kv_heads, tokens, head_dim] = shape;
    config.validate(head_dim)?;
    let groups = batch.saturating_mul(num_kv_heads);
    if groups == 0 || groups > MAX_GROUPS {
        return Err(Error::invalid(
            "keys",
            format!("batch {batch}, num_kv_heads {num_kv_heads}"),
            format!("at least one of each and a product of at most {MAX_GROUPS}"),
        ));
    }
    if tokens <= config.init_offset {
        return Err(Error::invalid(
            "keys",
            format!("{tokens} tokens"),
            format!("more than init_offset {}", config.init_offset),
        ));
    }
    check_capacity(tokens, capacity)
}
