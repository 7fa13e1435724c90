//! How well the codebooks fit keys that came after training.

use gpu_kernels::quantisation_error::{LANES, mean};
use rayon::prelude::*;

use super::{KeyIndex, check_same};
use crate::cpu::quantisation_error::squared_distances;
use crate::error::{Error, Result};
use crate::tensor::{Component, Keys};

impl KeyIndex {
    /// The mean quantisation error of keys that the index holds: the squared distance of a key from the centroids
    /// that its codes name, over all (batch, head, token). `keys` `[batch, num_kv_heads, tokens, head_dim]` are those
    /// of positions `position..`, of which the first `skip` are left out; each has codes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another batch, head count or `head_dim` than the index has, for no key, or keys
    /// at positions that have no codes.
    pub(super) fn quantisation_error(
        &self,
        keys: Keys<'_>,
        position: usize,
        skip: usize,
    ) -> Result<f64> {
        /// Keys of one parallel task.
        const KEYS_PER_TASK: usize = 1024;
        let first_code = self.check_error_of(&keys, position, skip)?;
        let m = self.config.num_subvectors;
        let sub_dim = self.config.sub_dim(self.head_dim);
        let (of_codebook, code_stride) = (
            self.config.num_centroids() * sub_dim,
            m * self.code_capacity(),
        );
        let sums = (0..self.groups() * m).into_par_iter().map(|codebook| {
            let (group, subvector) = (codebook / m, codebook % m);
            let centroids = &self.centroids[codebook * of_codebook..][..of_codebook];
            let codes = &self.codes[group * code_stride + first_code * m..];
            let keys = &keys.group(group)[skip * self.head_dim..];
            let mut distances = vec![0.0; keys.len() / self.head_dim];
            distances
                .par_chunks_mut(KEYS_PER_TASK)
                .zip(keys.par_chunks(KEYS_PER_TASK * self.head_dim))
                .zip(codes.par_chunks(KEYS_PER_TASK * m))
                .for_each(|((distances, keys), codes)| {
                    let (points, codes) = (&keys[subvector * sub_dim..], &codes[subvector..]);
                    let stride = self.head_dim;
                    squared_distances(
                        self.simd, points, stride, centroids, sub_dim, codes, m, distances,
                    );
                });
            let mut sums = [0.0; LANES];
            for (i, &distance) in distances.iter().enumerate() {
                sums[i % LANES] += f64::from(distance);
            }
            sums
        });
        let sums: Vec<[f64; LANES]> = sums.collect();
        let num_keys = self.groups() * (keys.tokens - skip);
        Ok(mean(sums.into_iter().flatten(), num_keys))
    }

    /// The first code of those keys.
    pub(crate) fn check_error_of(
        &self,
        keys: &Keys<'_>,
        position: usize,
        skip: usize,
    ) -> Result<usize> {
        keys.check_len()?;
        let shape = [keys.batch, keys.num_kv_heads, keys.tokens, keys.head_dim];
        self.check_error_of_shape(shape, position, skip, self.seq_len)
    }

    /// [`KeyIndex::check_error_of`] for an index like this one that holds `seq_len` tokens.
    pub(crate) fn check_error_of_shape(
        &self,
        [batch, num_kv_heads, tokens, head_dim]: [usize; 4],
        position: usize,
        skip: usize,
        seq_len: usize,
    ) -> Result<usize> {
        check_same("batch", batch, self.batch)?;
        check_same("num_kv_heads", num_kv_heads, self.num_kv_heads)?;
        check_same("head_dim", head_dim, self.head_dim)?;
        let first = position.saturating_add(skip);
        let end = position.saturating_add(tokens);
        if tokens <= skip || first < self.config.init_offset || end > seq_len {
            return Err(Error::invalid(
                "keys",
                format!("{tokens} tokens from position {position} on"),
                format!(
                    "at least one, of positions {}..{seq_len}, which have codes",
                    self.config.init_offset
                ),
            ));
        }
        Ok(first - self.config.init_offset)
    }

    /// The mean quantisation error of the keys that the codebooks were trained on; `None` for an index of parts, or of
    /// a file that does not say.
    pub fn training_error(&self) -> Option<f64> {
        self.provenance.training_error
    }

    /// Says what the codebooks' training error was, for an index made of parts.
    ///
    /// # Errors
    /// [`Error::Invalid`] for NaN or a negative number.
    pub fn set_training_error(&mut self, error: Option<f64>) -> Result<()> {
        match error {
            Some(error) if error.is_nan() || error < 0.0 => Err(Error::invalid(
                "training_error",
                error,
                "a number from 0 on",
            )),
            _ => {
                self.provenance.training_error = error;
                Ok(())
            }
        }
    }

    /// How much worse than at training the codebooks fit recent keys: the mean squared distance of `keys`
    /// `[batch, num_kv_heads, tokens, head_dim]`, those of positions `position..`, from the centroids that their codes
    /// name, over the same of the keys trained on. `None` where the training error is not known or 0.
    ///
    /// Keys of the kind trained on are not at 1 but above it, as centroids fit their own keys best: in docs/quality.md at
    /// 1.05 where 126 keys were trained on for each centroid, at 1.2 with 32, at 1.5 with 14, at 2.5 with 3.5.
    ///
    /// **When to retrain.** Note the drift of the first keys that come after training, 1,024 and more: fewer say little. Ask
    /// now and then with a window of recent keys as long; where that has grown by a fifth, [`KeyIndex::retrain_on`] from
    /// the present centroids. The figure is a mean, and coarse: where all keys moved together, twice the first drift
    /// cost 4 to 20 % of the recall that retraining has; where one key in twenty was of another kind, a quarter more
    /// cost 23 to 48 %.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another batch, head count or `head_dim` than the index has, for no key, or keys
    /// at positions that have no codes.
    pub fn drift<T: Component>(&self, keys: Keys<'_, T>, position: usize) -> Result<Option<f64>> {
        let mut room = Vec::new();
        let error = self.quantisation_error(keys.widen(&mut room), position, 0)?;
        Ok(self.drift_of(error))
    }

    /// The drift of keys with that mean error.
    pub(crate) fn drift_of(&self, error: f64) -> Option<f64> {
        let training_error = self
            .provenance
            .training_error
            .filter(|&error| error > 0.0)?;
        Some(error / training_error)
    }
}
