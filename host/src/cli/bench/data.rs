//! Made-up keys and queries. Every number is computed from the seed and its place alone, so any key
//! can be made again and none needs to be kept.

use std::ops::Range;

use keysieve::{IndexParts, KeyIndex, Keys, Queries};
use rayon::prelude::*;

use super::progress::Progress;
use super::shape::Shape;

/// What is drawn; each kind has numbers of its own.
#[derive(Clone, Copy)]
enum Kind {
    Mean,
    Key,
    Query,
    Centroid,
}

/// Keys around a mean of each head's own, with every component roughly normal; queries normal around
/// zero. Centroids are components of sampled keys: no training, which would take minutes and change
/// no time that is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data<'a> {
    pub(super) shape: &'a Shape,
    pub(super) seed: u64,
}

impl Data<'_> {
    /// An index of the first `tokens` positions with room for `capacity`.
    pub(super) fn index(
        &self,
        tokens: usize,
        capacity: usize,
        progress: &Progress,
    ) -> keysieve::Result<KeyIndex> {
        /// Components made at a time.
        const CHUNK: usize = 1 << 24;
        let shape = self.shape;
        let mut index = KeyIndex::from_parts(
            IndexParts {
                config: shape.pq(),
                batch: shape.batch,
                num_kv_heads: shape.num_kv_heads,
                head_dim: shape.head_dim,
                num_codes: 0,
                centroids: self.centroids(),
                augmentation: None,
                codes: Vec::new(),
            },
            capacity,
        )?;
        let chunk = (CHUNK / (shape.groups() * shape.head_dim)).max(1);
        progress.phase("encoding keys", tokens - shape.init_offset);
        while index.seq_len() < tokens {
            let first = index.seq_len();
            let end = tokens.min(first + chunk);
            index.append(self.as_keys(&self.keys(first..end), end - first)?)?;
            progress.advance(end - first);
        }
        Ok(index)
    }

    /// Keys of positions `tokens`, `[batch, num_kv_heads, tokens.len(), head_dim]`.
    pub(super) fn keys(&self, tokens: Range<usize>) -> Vec<f32> {
        let head_dim = self.shape.head_dim;
        let mut keys = vec![0.0; self.shape.groups() * tokens.len() * head_dim];
        let of_token = keys.par_chunks_mut(head_dim).enumerate();
        of_token.for_each(|(at, key)| {
            let (group, token) = (at / tokens.len(), tokens.start + at % tokens.len());
            self.key(group, token, key);
        });
        keys
    }

    fn key(&self, group: usize, token: usize, key: &mut [f32]) {
        let first = (token * self.shape.groups() + group) * key.len();
        for (i, component) in key.iter_mut().enumerate() {
            let mean = self.normal(Kind::Mean, group * self.shape.head_dim + i);
            *component = mean + self.normal(Kind::Key, first + i);
        }
    }

    /// The queries of step `step`, `[batch, num_qo_heads, 1, head_dim]`.
    pub(super) fn queries(&self, step: usize) -> Vec<f32> {
        let len = self.shape.rows() * self.shape.head_dim;
        (step * len..(step + 1) * len)
            .map(|at| self.normal(Kind::Query, at))
            .collect()
    }

    /// `[batch, num_kv_heads, m, 2^bits, sub_dim]`.
    fn centroids(&self) -> Vec<f32> {
        let shape = self.shape;
        let (sub_dim, m) = (shape.sub_dim(), shape.num_subvectors);
        let num_keys = (shape.tokens - shape.init_offset) as u64;
        let mut centroids = vec![0.0; shape.groups() * m * (sub_dim << shape.bits)];
        let of_centroid = centroids.par_chunks_mut(sub_dim).enumerate();
        of_centroid.for_each(|(at, centroid)| {
            let problem = at >> shape.bits;
            let (group, subvector) = (problem / m, problem % m);
            let token = shape.init_offset + (self.bits(Kind::Centroid, at) % num_keys) as usize;
            let mut key = vec![0.0; shape.head_dim];
            self.key(group, token, &mut key);
            centroid.copy_from_slice(&key[subvector * sub_dim..(subvector + 1) * sub_dim]);
        });
        centroids
    }

    /// One key for each head, as the library takes them.
    pub(super) fn as_keys<'a>(&self, data: &'a [f32], tokens: usize) -> keysieve::Result<Keys<'a>> {
        let shape = self.shape;
        Keys::new(
            data,
            [shape.batch, shape.num_kv_heads, tokens, shape.head_dim],
        )
    }

    /// One query for each head, as the library takes them.
    pub(super) fn as_queries<'a>(&self, data: &'a [f32]) -> keysieve::Result<Queries<'a>> {
        let shape = self.shape;
        Queries::new(data, [shape.batch, shape.num_qo_heads, 1, shape.head_dim])
    }

    /// Mean 0, variance 1: the sum of four uniform numbers, which is normal enough here and cheap.
    fn normal(&self, kind: Kind, at: usize) -> f32 {
        let bits = self.bits(kind, at);
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65_536.0 - 2.0) * 3.0f32.sqrt()
    }

    /// The finaliser of SplitMix64 (Steele, Lea and Flood 2014) over the number's place.
    fn bits(&self, kind: Kind, at: usize) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |x: u64| {
            let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        };
        let start = mix(self.seed.wrapping_add((kind as u64 + 1).wrapping_mul(STEP)));
        mix(start.wrapping_add((at as u64 + 1).wrapping_mul(STEP)))
    }
}
