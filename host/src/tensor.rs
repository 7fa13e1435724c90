//! Borrowed keys and queries with their shapes, of a type that a cache has.

use std::fmt::{Debug, Display};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use rayon::prelude::*;

use crate::error::{Error, Result};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A type of components: `f32`, [`half::f16`] or [`half::bf16`]. Each has its numbers in `f32` exactly, and
/// everything is computed in `f32`: a list is the one that the same numbers in `f32` give.
pub trait Component: sealed::Sealed + Copy + Debug + Display + Send + Sync + 'static {
    /// The components in `f32`: as they are, or in `room`, which grows where it is too small.
    fn widen<'a>(data: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32];

    /// The components by the name of their type.
    fn slice(data: &[Self]) -> KeySlice<'_>;

    /// Neither NaN nor an infinity.
    fn is_finite(self) -> bool;
}

impl Component for f32 {
    fn widen<'a>(data: &'a [Self], _: &'a mut Vec<f32>) -> &'a [f32] {
        data
    }

    fn slice(data: &[Self]) -> KeySlice<'_> {
        KeySlice::F32(data)
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Component for f16 {
    fn widen<'a>(data: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32] {
        room.resize(data.len(), 0.0);
        data.convert_to_f32_slice(room);
        room
    }

    fn slice(data: &[Self]) -> KeySlice<'_> {
        KeySlice::F16(data)
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Component for bf16 {
    fn widen<'a>(data: &'a [Self], room: &'a mut Vec<f32>) -> &'a [f32] {
        room.resize(data.len(), 0.0);
        data.convert_to_f32_slice(room);
        room
    }

    fn slice(data: &[Self]) -> KeySlice<'_> {
        KeySlice::Bf16(data)
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

/// Components on the host in one of the types that a cache has.
#[derive(Debug, Clone, Copy)]
pub enum KeySlice<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

/// Where keys and queries of another type are widened to `f32`.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) keys: Vec<f32>,
    pub(crate) queries: Vec<f32>,
}

impl Room {
    /// For so many components of a step's keys and queries; longer ones make it grow.
    pub(crate) fn new(of_keys: usize, of_queries: usize) -> Self {
        Room {
            keys: Vec::with_capacity(of_keys),
            queries: Vec::with_capacity(of_queries),
        }
    }
}

/// Keys, `[batch, num_kv_heads, tokens, head_dim]`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a, T = f32> {
    /// The components.
    pub data: &'a [T],
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
pub struct Queries<'a, T = f32> {
    /// The components.
    pub data: &'a [T],
    /// Sequences.
    pub batch: usize,
    /// Query heads; a multiple of the key-value heads they are used with.
    pub num_qo_heads: usize,
    /// Queries of each head.
    pub num_queries: usize,
    /// Components of one query.
    pub head_dim: usize,
}

impl<'a, T: Component> Keys<'a, T> {
    /// Keys of the given shape `[batch, num_kv_heads, tokens, head_dim]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `data` has another length than the shape says.
    pub fn new(data: &'a [T], shape: [usize; 4]) -> Result<Self> {
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
    pub fn key(&self, batch: usize, head: usize, token: usize) -> &'a [T] {
        let start = ((batch * self.num_kv_heads + head) * self.tokens + token) * self.head_dim;
        &self.data[start..start + self.head_dim]
    }

    /// All keys of one head, `[tokens, head_dim]`; `group` is `batch * num_kv_heads + head`.
    pub fn group(&self, group: usize) -> &'a [T] {
        let len = self.tokens * self.head_dim;
        &self.data[group * len..(group + 1) * len]
    }

    /// A copy of tokens `range` of every head, `[batch, num_kv_heads, range.len(), head_dim]`.
    pub fn copy_tokens(&self, range: std::ops::Range<usize>) -> Vec<T> {
        let (start, end) = (range.start * self.head_dim, range.end * self.head_dim);
        (0..self.batch * self.num_kv_heads)
            .flat_map(|group| &self.group(group)[start..end])
            .copied()
            .collect()
    }

    /// The keys in `f32`, in `room` where they are of another type.
    pub(crate) fn widen<'r>(&self, room: &'r mut Vec<f32>) -> Keys<'r>
    where
        'a: 'r,
    {
        Keys {
            data: T::widen(self.data, room),
            batch: self.batch,
            num_kv_heads: self.num_kv_heads,
            tokens: self.tokens,
            head_dim: self.head_dim,
        }
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
        let all_finite = |part: &[T]| part.iter().fold(true, |all, x| all & x.is_finite());
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

impl<'a, T: Component> Queries<'a, T> {
    /// Queries of the given shape `[batch, num_qo_heads, num_queries, head_dim]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `data` has another length than the shape says.
    pub fn new(data: &'a [T], shape: [usize; 4]) -> Result<Self> {
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

    /// The queries in `f32`, in `room` where they are of another type.
    pub(crate) fn widen<'r>(&self, room: &'r mut Vec<f32>) -> Queries<'r>
    where
        'a: 'r,
    {
        Queries {
            data: T::widen(self.data, room),
            batch: self.batch,
            num_qo_heads: self.num_qo_heads,
            num_queries: self.num_queries,
            head_dim: self.head_dim,
        }
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
    pub fn query(&self, batch: usize, head: usize, query: usize) -> &'a [T] {
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
