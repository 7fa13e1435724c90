//! Borrowed keys and queries with their shapes.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Keys, `[batch, num_kv_heads, tokens, head_dim]`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// The components.
    pub data: &'a [f32],
    /// Sequences.
    pub batch: usize,
    /// Key-value heads.
    pub num_kv_heads: usize,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Components of one key.
    pub head_dim: usize,
}

/// Queries, `[batch, num_qo_heads, num_queries, head_dim]`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// The components.
    pub data: &'a [f32],
    /// Sequences.
    pub batch: usize,
    /// Query heads; a multiple of the key-value heads they are used with.
    pub num_qo_heads: usize,
    /// Queries of each head.
    pub num_queries: usize,
    /// Components of one query.
    pub head_dim: usize,
}

impl<'a> Keys<'a> {
    /// Keys of the given shape `[batch, num_kv_heads, tokens, head_dim]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `data` has another length than the shape says.
    pub fn new(data: &'a [f32], shape: [usize; 4]) -> Result<Self> {
        check_len("keys", data.len(), shape)?;
        let [batch, num_kv_heads, tokens, head_dim] = shape;
        Ok(Keys {
            data,
            batch,
            num_kv_heads,
            tokens,
            head_dim,
        })
    }

    /// One token's key of one head, `[head_dim]`.
    pub fn key(&self, batch: usize, head: usize, token: usize) -> &'a [f32] {
        let start = ((batch * self.num_kv_heads + head) * self.tokens + token) * self.head_dim;
        &self.data[start..start + self.head_dim]
    }

    /// All keys of one head, `[tokens, head_dim]`; `group` is `batch * num_kv_heads + head`.
    pub fn group(&self, group: usize) -> &'a [f32] {
        let len = self.tokens * self.head_dim;
        &self.data[group * len..(group + 1) * len]
    }

    /// A copy of tokens `range` of every head, `[batch, num_kv_heads, range.len(), head_dim]`.
    pub fn copy_tokens(&self, range: std::ops::Range<usize>) -> Vec<f32> {
        let (start, end) = (range.start * self.head_dim, range.end * self.head_dim);
        (0..self.batch * self.num_kv_heads)
            .flat_map(|group| &self.group(group)[start..end])
            .copied()
            .collect()
    }

    /// Whether `data` has the length that the shape says: fields are public, so [`Keys::new`] may
    /// have been passed by.
    pub(crate) fn check_len(&self) -> Result<()> {
        let shape = [self.batch, self.num_kv_heads, self.tokens, self.head_dim];
        check_len("keys", self.data.len(), shape)
    }

    /// The first component that is not finite, as an error.
    pub(crate) fn check_finite(&self) -> Result<()> {
        /// Components that are looked at without a branch, and of one parallel task.
        const AT_A_TIME: usize = 1 << 16;
        let all_finite = |part: &[f32]| part.iter().fold(true, |all, x| all & x.is_finite());
        let is_finite = match self.data.len() {
            0..=AT_A_TIME => all_finite(self.data),
            _ => self.data.par_chunks(AT_A_TIME).all(all_finite),
        };
        if is_finite {
            return Ok(());
        }
        let not_finite = self.data.iter().position(|x| !x.is_finite());
        let at = not_finite.expect("one is not");
        let (row, component) = (at / self.head_dim, at % self.head_dim);
        let (group, token) = (row / self.tokens, row % self.tokens);
        Err(Error::NotFinite {
            batch: group / self.num_kv_heads,
            head: group % self.num_kv_heads,
            token,
            component,
            value: self.data[at].to_string(),
        })
    }
}

impl<'a> Queries<'a> {
    /// Queries of the given shape `[batch, num_qo_heads, num_queries, head_dim]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `data` has another length than the shape says.
    pub fn new(data: &'a [f32], shape: [usize; 4]) -> Result<Self> {
        check_len("queries", data.len(), shape)?;
        let [batch, num_qo_heads, num_queries, head_dim] = shape;
        Ok(Queries {
            data,
            batch,
            num_qo_heads,
            num_queries,
            head_dim,
        })
    }

    /// Whether `data` has the length that the shape says.
    pub(crate) fn check_len(&self) -> Result<()> {
        let shape = [
            self.batch,
            self.num_qo_heads,
            self.num_queries,
            self.head_dim,
        ];
        check_len("queries", self.data.len(), shape)
    }

    /// One query, `[head_dim]`.
    pub fn query(&self, batch: usize, head: usize, query: usize) -> &'a [f32] {
        let row = (batch * self.num_qo_heads + head) * self.num_queries + query;
        &self.data[row * self.head_dim..(row + 1) * self.head_dim]
    }
}

fn check_len(argument: &str, len: usize, shape: [usize; 4]) -> Result<()> {
    let expected = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if expected == Some(len) {
        return Ok(());
    }
    Err(Error::invalid(
        argument,
        format!("{len} elements"),
        format!("those of shape {shape:?}"),
    ))
}
