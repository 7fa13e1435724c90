//! The file of keys and queries.

use std::path::Path;

use super::archive::{Archive, Tensor};
use crate::config::{MAX_HEAD_DIM, MAX_TOKENS};
use crate::error::{Error, Result};
use crate::tensor::{Keys, Queries};

/// Keys and queries of one layer, widened to f32 (which holds f16 and bf16 exactly).
///
/// NaN and infinities are kept: what may not be there is the business of who uses them.
#[derive(Debug, Clone, PartialEq)]
pub struct KvFile {
    keys: Vec<f32>,
    keys_shape: [usize; 4],
    queries: Vec<f32>,
    queries_shape: [usize; 4],
}

impl KvFile {
    /// Reads `path`, which errors call `argument` (`--kv`).
    ///
    /// `keys` [num_kv_heads, tokens, head_dim] and `queries` [num_qo_heads, num_queries, head_dim],
    /// each f16, bf16 or f32, both with or both without a leading batch.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be read or is no whole safetensors file;
    /// [`Error::Invalid`] for a missing tensor, another dtype or rank, a dimension of zero, more than
    /// 2^24 tokens or 256 components, or shapes that do not fit each other.
    pub fn read(argument: &str, path: &Path) -> Result<Self> {
        Self::parse(argument, path, &super::read_whole(argument, path)?)
    }

    /// [`KvFile::read`] from `bytes`, the content of a file of the name `path`.
    ///
    /// # Errors
    /// As [`KvFile::read`].
    pub fn parse(argument: &str, path: &Path, bytes: &[u8]) -> Result<Self> {
        let archive = Archive::parse(argument, path, bytes)?;
        let keys = archive.tensor("keys")?;
        let queries = archive.tensor("queries")?;
        let keys_shape = with_batch(&keys, "[(batch,) num_kv_heads, tokens, head_dim]")?;
        let queries_shape = with_batch(&queries, "[(batch,) num_qo_heads, num_queries, head_dim]")?;
        check_shapes(argument, keys_shape, queries_shape)?;
        Ok(KvFile {
            keys: keys.floats()?,
            keys_shape,
            queries: queries.floats()?,
            queries_shape,
        })
    }

    /// The keys, `[batch, num_kv_heads, tokens, head_dim]`.
    pub fn keys(&self) -> Keys<'_> {
        let [batch, num_kv_heads, tokens, head_dim] = self.keys_shape;
        Keys {
            data: &self.keys,
            batch,
            num_kv_heads,
            tokens,
            head_dim,
        }
    }

    /// The queries, `[batch, num_qo_heads, num_queries, head_dim]`.
    pub fn queries(&self) -> Queries<'_> {
        let [batch, num_qo_heads, num_queries, head_dim] = self.queries_shape;
        Queries {
            data: &self.queries,
            batch,
            num_qo_heads,
            num_queries,
            head_dim,
        }
    }
}

fn with_batch(tensor: &Tensor<'_>, axes: &str) -> Result<[usize; 4]> {
    let expected = format!("{axes}, none of them 0");
    if tensor.shape.len() == 4 {
        tensor.dims::<4>(&expected)
    } else {
        let [heads, rows, head_dim] = tensor.dims::<3>(&expected)?;
        Ok([1, heads, rows, head_dim])
    }
}

fn check_shapes(argument: &str, keys: [usize; 4], queries: [usize; 4]) -> Result<()> {
    let [batch, num_kv_heads, tokens, head_dim] = keys;
    let refuse = |tensor: &str, got: String, expected: String| {
        let name = format!("{argument}: {tensor}");
        Err(Error::invalid(name, got, expected))
    };
    if tokens > MAX_TOKENS {
        let expected = format!("at most {MAX_TOKENS}");
        return refuse("keys", format!("{tokens} tokens"), expected);
    }
    if head_dim > MAX_HEAD_DIM {
        let expected = format!("at most {MAX_HEAD_DIM}");
        return refuse("keys", format!("head_dim {head_dim}"), expected);
    }
    if queries[0] != batch {
        let expected = format!("{batch}, as the keys have");
        return refuse("queries", format!("batch {}", queries[0]), expected);
    }
    if !queries[1].is_multiple_of(num_kv_heads) {
        let expected = format!("a multiple of the keys' {num_kv_heads}");
        return refuse("queries", format!("{} heads", queries[1]), expected);
    }
    if queries[3] != head_dim {
        let expected = format!("{head_dim}, as the keys have");
        return refuse("queries", format!("head_dim {}", queries[3]), expected);
    }
    Ok(())
}
