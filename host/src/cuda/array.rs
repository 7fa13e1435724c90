//! Arrays of the caller's in device memory, of any type and strides.

use gpu_kernels::gather::GatherShape;
use gpu_kernels::kmeans;

use super::keys::KeyDtype;
use crate::error::{Error, Result};

/// An array of four axes in device memory, with a stride for each in components: component (i, j, k, l) lies
/// `i * strides[0] + j * strides[1] + k * strides[2] + l * strides[3]` components behind the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceArray {
    address: u64,
    dtype: KeyDtype,
    shape: [usize; 4],
    strides: [usize; 4],
}

impl DeviceArray {
    /// An array of `shape` at a device address, with the strides of its axes in components. `argument` is what an
    /// error calls it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that is 0 or not a multiple of a component's size, for 2^32 components or more, and
    /// for an array that would reach 2^63 bytes.
    pub fn new(
        argument: &str,
        address: u64,
        dtype: KeyDtype,
        shape: [usize; 4],
        strides: [usize; 4],
    ) -> Result<Self> {
        let len = shape.iter().try_fold(1usize, |n, &len| n.checked_mul(len));
        if len.is_none_or(|len| len > u32::MAX as usize) {
            return Err(Error::invalid(
                argument,
                format!("shape {shape:?}"),
                "fewer than 2^32 components",
            ));
        }
        let is_empty = len == Some(0);
        if !is_empty && (address == 0 || !address.is_multiple_of(dtype.bytes() as u64)) {
            return Err(Error::invalid(
                format!("{argument}: address"),
                format!("{address:#x}"),
                format!("a device address that {} divides", dtype.bytes()),
            ));
        }
        let lasts = shape.map(|len| len.saturating_sub(1) as u128);
        let reach: u128 = lasts.iter().zip(strides).map(|(&n, s)| n * s as u128).sum();
        if reach * dtype.bytes() as u128 >= 1 << 63 {
            return Err(Error::invalid(
                format!("{argument}: strides"),
                format!("{strides:?} for shape {shape:?}"),
                "an array within 2^63 bytes",
            ));
        }
        Ok(DeviceArray {
            address,
            dtype,
            shape,
            strides,
        })
    }

    /// Its axes' lengths.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Without the first `first` indices of the third axis, at most all.
    pub fn from_token(&self, first: usize) -> Self {
        self.slice(first.min(self.shape[2])..self.shape[2])
    }

    /// Indices `range` of the third axis.
    pub(super) fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let offset = range.start * self.strides[2] * self.dtype.bytes();
        let [a, b, _, d] = self.shape;
        DeviceArray {
            address: self.address + offset as u64,
            shape: [a, b, range.len(), d],
            ..*self
        }
    }

    pub(super) fn check_shape(&self, argument: &str, expected: [usize; 4]) -> Result<()> {
        if self.shape == expected {
            return Ok(());
        }
        Err(Error::invalid(
            argument,
            format!("shape {:?}", self.shape),
            format!("{expected:?}, as the step has"),
        ))
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Where its components lie, as a kernel is told.
    pub(super) fn gather_shape(&self) -> GatherShape {
        GatherShape {
            strides: self.strides.map(|stride| stride as u64),
            lens: self.shape.map(|len| len as u32),
            len: self.shape.iter().product::<usize>() as u32,
            dtype: match self.dtype {
                KeyDtype::F32 => kmeans::F32,
                KeyDtype::F16 => kmeans::F16,
                KeyDtype::Bf16 => kmeans::BF16,
            },
        }
    }
}
