//! Arrays of the caller's in device memory that a step writes its lists to, behind its own.

use gpu_kernels::gather::{Gather, GatherShape};
use gpu_kernels::indices::Indices;
use gpu_kernels::kernel::{In, Out};
use gpu_kernels::kmeans;
use gpu_kernels::step::StepShape;

use super::caller::{MAX_BLOCKS, THREADS};
use super::launch::{Grid, launch};
use super::step::Step;
use crate::error::{Error, Result};

/// A row-major array without gaps in device memory, of elements of 4 or 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutArray {
    address: u64,
    is_wide: bool,
    len: usize,
}

impl OutArray {
    /// `len` elements of 8 bytes if `is_wide`, else of 4, at a device address. `argument` is what an error calls it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that is 0 or not a multiple of an element's size.
    pub fn new(argument: &str, address: u64, is_wide: bool, len: usize) -> Result<Self> {
        let bytes = if is_wide { 8 } else { 4 };
        if len > 0 && (address == 0 || !address.is_multiple_of(bytes)) {
            return Err(Error::invalid(
                format!("{argument}: address"),
                format!("{address:#x}"),
                format!("a device address that {bytes} divides"),
            ));
        }
        Ok(OutArray {
            address,
            is_wide,
            len,
        })
    }
}

/// Where a step writes its lists beside [`Step::device_buffers`], whose `list_stride` and `weights_stride` these have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutLists {
    /// Integers of 32 or 64 bits, `[batch, num_qo_heads, num_queries, list_stride]`, ascending, then -1.
    pub positions: OutArray,
    /// Integers of 32 or 64 bits, `[batch, num_qo_heads, num_queries]`.
    pub lengths: OutArray,
    /// `f32` `[batch, num_qo_heads, num_queries, width]`, if the selector was made with weights. `width` is the context's
    /// length at the step, or `weights_stride`: the latter on a stream that is captured, as the context grows there.
    pub weights: Option<OutArray>,
}

impl Step {
    /// Whether the lists of a step at which the context has `seq_len` tokens fit the arrays.
    pub(super) fn check_lists(
        &self,
        lists: &OutLists,
        seq_len: usize,
        is_captured: bool,
    ) -> Result<()> {
        let shape = self.shape.of_lists();
        let rows = self.batch * shape.rows_per_batch() as usize;
        let stride = shape.list_stride as usize;
        for (argument, array, expected) in [
            ("out: positions", &lists.positions, rows * stride),
            ("out: lengths", &lists.lengths, rows),
        ] {
            if array.len != expected {
                let got = format!("{} elements", array.len);
                return Err(Error::invalid(argument, got, expected));
            }
        }
        let Some(weights) = &lists.weights else {
            return Ok(());
        };
        let stride = shape.weights_stride as usize;
        let (got, expected) = match (stride, is_captured) {
            (0, _) => ("an array".into(), "none, as the step has no weights".into()),
            _ if weights.is_wide => ("elements of 8 bytes".into(), "float32".into()),
            (_, true) if weights.len != rows * stride => (
                format!("{} elements on a captured stream", weights.len),
                format!("{}, for the whole capacity", rows * stride),
            ),
            _ if ![rows * seq_len, rows * stride].contains(&weights.len) => (
                format!("{} elements", weights.len),
                format!("{} or {}", rows * seq_len, rows * stride),
            ),
            _ if weights.len > u32::MAX as usize => {
                let got = format!("{} elements", weights.len);
                (got, "fewer than 2^32".to_owned())
            }
            _ => return Ok(()),
        };
        Err(Error::invalid("out: weights", got, expected))
    }

    /// Writes the lists that were enqueued last, on the stream whose turn it is.
    ///
    /// # Safety
    /// The arrays are the caller's in device memory, and [`Step::check_lists`] found that they fit.
    pub(super) unsafe fn enqueue_lists_to(&mut self, lists: &OutLists) -> Result<()> {
        let shape = self.shape.of_lists();
        let of_lengths = StepShape {
            list_stride: 1,
            ..shape
        };
        // A length is an entry that is not -1, and has no page.
        for (from, to, shape) in [
            (&self.list.positions, &lists.positions, shape),
            (&self.list.lengths, &lists.lengths, of_lengths),
        ] {
            if to.len == 0 {
                continue;
            }
            let args = Indices {
                positions: from.input(),
                page_table: self.sequences.page_table.input(),
                narrow: Out::from_address(to.address),
                wide: Out::from_address(to.address),
                is_wide: to.is_wide.into(),
                page_bits: 0,
                shape,
            };
            let grid = Grid(self.list.lengths.len(), 1);
            // SAFETY: the step's own lists, and the caller's promise.
            unsafe { launch(&self.device, self.turn.stream(), grid, 0, &args)? };
            self.launches += 1;
        }
        match lists.weights.filter(|weights| weights.len > 0) {
            // SAFETY: the caller's.
            Some(weights) => unsafe { self.enqueue_weights_to(&weights) },
            None => Ok(()),
        }
    }

    /// The first components of each row of weights.
    unsafe fn enqueue_weights_to(&mut self, weights: &OutArray) -> Result<()> {
        let rows = self.list.lengths.len();
        let shape = GatherShape {
            strides: [0, 0, self.shape.weights_stride.into(), 1],
            lens: [1, 1, rows as u32, (weights.len / rows) as u32],
            len: weights.len as u32,
            dtype: kmeans::F32,
        };
        let source = In::from_address(self.list.weights.address());
        let args = Gather {
            source,
            gathered: Out::from_address(weights.address),
            other: source,
            other_gathered: Out::from_address(weights.address),
            shape,
            other_shape: GatherShape { len: 0, ..shape },
        };
        let grid = Grid(weights.len.div_ceil(THREADS).min(MAX_BLOCKS), 1);
        // SAFETY: the step's own weights, and the caller's promise.
        unsafe { launch(&self.device, self.turn.stream(), grid, 0, &args)? };
        self.launches += 1;
        Ok(())
    }
}
