//! What an index is made of: in from parts, out to them.

use super::{KeyIndex, MAX_GROUPS, Provenance, check_capacity};
use crate::config::PqConfig;
use crate::cpu::{centroid_lanes::CentroidLanes, simd::Simd};
use crate::error::{Error, Result};

/// What the metric `ip` adds to a codebook: see [`gpu_kernels::codebook`].
#[derive(Debug, Clone, PartialEq)]
pub struct Augmentation {
    /// The largest squared norm among the sub-vectors that were trained on, `[batch, num_kv_heads, m]`;
    /// finite, not negative.
    pub phis: Vec<f32>,
    /// The centroids' last components, `[batch, num_kv_heads, m, 2^bits]`.
    pub components: Vec<f32>,
}

/// What a [`KeyIndex`] is made of, as an index file stores it.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexParts {
    /// The format of codebook and codes.
    pub config: PqConfig,
    /// Sequences.
    pub batch: usize,
    /// Key-value heads.
    pub num_kv_heads: usize,
    /// Components of a key.
    pub head_dim: usize,
    /// Quantised keys of each head; the context has `init_offset` more tokens.
    pub num_codes: usize,
    /// `[batch, num_kv_heads, m, 2^bits, sub_dim]`.
    pub centroids: Vec<f32>,
    /// With the metric `ip`, and only then.
    pub augmentation: Option<Augmentation>,
    /// `[batch, num_kv_heads, num_codes, m]`.
    pub codes: Vec<u8>,
}

impl KeyIndex {
    /// An index of the given parts with room for `capacity` tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the configuration cannot be, a tensor has the wrong length or is not the
    /// metric's, a phi is negative or not finite, a code is no centroid's, the tokens exceed `capacity`, or as
    /// [`Simd::chosen`].
    pub fn from_parts(parts: IndexParts, capacity: usize) -> Result<Self> {
        let IndexParts {
            config,
            batch,
            num_kv_heads,
            head_dim,
            num_codes,
            centroids,
            augmentation,
            codes,
        } = parts;
        let simd = Simd::chosen()?;
        config.validate(head_dim)?;
        let seq_len = config.init_offset.saturating_add(num_codes);
        check_capacity(seq_len, capacity)?;
        // So many groups that their centroids could not be counted have no centroids either.
        let groups = batch.saturating_mul(num_kv_heads);
        if groups == 0 || groups > MAX_GROUPS {
            return Err(Error::invalid(
                "index",
                format!("batch {batch}, num_kv_heads {num_kv_heads}"),
                format!("at least one of each and a product of at most {MAX_GROUPS}"),
            ));
        }
        let m = config.num_subvectors;
        let expected = groups * config.table_len() * config.sub_dim(head_dim);
        if centroids.len() != expected {
            return Err(Error::invalid(
                "centroids",
                format!("{} elements", centroids.len()),
                format!("{expected}"),
            ));
        }
        check_augmentation(&config, groups, augmentation.as_ref())?;
        let expected = groups * num_codes * m;
        if codes.len() != expected {
            return Err(Error::invalid(
                "codes",
                format!("{} elements", codes.len()),
                format!("{expected}"),
            ));
        }
        if let Some(at) = codes
            .iter()
            .position(|&code| usize::from(code) >= config.num_centroids())
        {
            let (group, token) = (at / (num_codes * m), at / m % num_codes);
            return Err(Error::invalid(
                "codes",
                format!(
                    "{} at [batch {}, head {}, token {token}, sub-vector {}]",
                    codes[at],
                    group / num_kv_heads,
                    group % num_kv_heads,
                    at % m
                ),
                format!("below 2^bits = {}", config.num_centroids()),
            ));
        }

        let sub_dim = config.sub_dim(head_dim);
        let lanes = centroids
            .chunks_exact(config.num_centroids() * sub_dim)
            .map(|centroids| CentroidLanes::new(centroids, sub_dim))
            .collect();
        let augmented_lanes = match &augmentation {
            None => Vec::new(),
            Some(Augmentation { components, .. }) => centroids
                .chunks_exact(config.num_centroids() * sub_dim)
                .zip(components.chunks_exact(config.num_centroids()))
                .map(|(centroids, components)| {
                    CentroidLanes::augmented(centroids, components, sub_dim)
                })
                .collect(),
        };
        let mut index = KeyIndex {
            config,
            batch,
            num_kv_heads,
            head_dim,
            capacity: seq_len,
            seq_len,
            centroids,
            augmentation,
            lanes,
            augmented_lanes,
            simd,
            codes,
            provenance: Provenance::default(),
        };
        index.grow(capacity);
        Ok(index)
    }

    /// The parts, without the spare room.
    pub fn to_parts(&self) -> IndexParts {
        let m = self.config.num_subvectors;
        let (used, stride) = (self.num_codes() * m, self.code_capacity() * m);
        let mut codes = Vec::with_capacity(self.groups() * used);
        for group in 0..self.groups() {
            codes.extend_from_slice(&self.codes[group * stride..group * stride + used]);
        }
        IndexParts {
            config: self.config,
            batch: self.batch,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            num_codes: self.num_codes(),
            centroids: self.centroids.clone(),
            augmentation: self.augmentation.clone(),
            codes,
        }
    }
}

fn check_augmentation(
    config: &PqConfig,
    groups: usize,
    augmentation: Option<&Augmentation>,
) -> Result<()> {
    let Some(Augmentation { phis, components }) = augmentation else {
        if config.is_augmented() {
            let expected = format!("one, as metric {} has", config.metric.name());
            return Err(Error::invalid("augmentation", "none", expected));
        }
        return Ok(());
    };
    if !config.is_augmented() {
        let expected = format!("none, as metric {} has", config.metric.name());
        return Err(Error::invalid("augmentation", "one", expected));
    }
    let lens = [
        ("phis", phis.len(), groups * config.num_subvectors),
        ("components", components.len(), groups * config.table_len()),
    ];
    for (argument, got, expected) in lens {
        if got != expected {
            return Err(Error::invalid(
                format!("augmentation: {argument}"),
                format!("{got} elements"),
                expected,
            ));
        }
    }
    match phis.iter().find(|phi| !(0.0..=f32::MAX).contains(*phi)) {
        None => Ok(()),
        Some(phi) => Err(Error::invalid(
            "augmentation: phis",
            phi,
            "finite numbers that are not negative",
        )),
    }
}
