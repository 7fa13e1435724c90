//! DLPack: arrays of other libraries, and this one's results for them.
//!
//! The structs are those of the DLPack specification 1.0; a capsule without a version has the older
//! struct, which every library still reads.

mod export;
mod import;

use std::ffi::{CStr, c_void};

use pyo3::prelude::*;

pub(crate) use self::export::{Array, Handover, owned};
pub(crate) use self::import::Imported;
use crate::errors::Class;

pub(crate) const CPU: i32 = 1;
pub(crate) const CUDA: i32 = 2;
const CUDA_HOST: i32 = 3;
const CUDA_MANAGED: i32 = 13;

const PLAIN: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";

/// A flag of a versioned tensor.
const READ_ONLY: u64 = 1;
/// Likewise: the consumer's alone.
const IS_COPIED: u64 = 2;

/// `DLDevice`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) kind: i32,
    pub(crate) ordinal: i32,
}

impl Device {
    /// Whether the processor reads the memory.
    pub(crate) fn is_host(self) -> bool {
        matches!(self.kind, CPU | CUDA_HOST)
    }

    /// Whether a GPU reads the memory in the order of a stream.
    pub(crate) fn is_cuda(self) -> bool {
        matches!(self.kind, CUDA | CUDA_MANAGED)
    }

    pub(crate) fn name(self) -> String {
        match self.kind {
            CPU | CUDA_HOST => "cpu".into(),
            CUDA | CUDA_MANAGED => format!("cuda:{}", self.ordinal),
            kind => format!("DLPack device type {kind}"),
        }
    }
}

/// `DLDataType`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dtype {
    code: u8,
    bits: u8,
    lanes: u16,
}

impl Dtype {
    const fn new(code: u8, bits: u8) -> Self {
        Dtype {
            code,
            bits,
            lanes: 1,
        }
    }

    pub(crate) const I32: Dtype = Dtype::new(0, 32);
    pub(crate) const I64: Dtype = Dtype::new(0, 64);
    pub(crate) const U8: Dtype = Dtype::new(1, 8);
    pub(crate) const F16: Dtype = Dtype::new(2, 16);
    pub(crate) const F32: Dtype = Dtype::new(2, 32);
    pub(crate) const BF16: Dtype = Dtype::new(4, 16);

    pub(crate) fn bytes(self) -> usize {
        usize::from(self.bits) / 8
    }

    pub(crate) fn name(self) -> String {
        let kind = match self.code {
            0 => "int",
            1 => "uint",
            2 => "float",
            4 => "bfloat",
            5 => "complex",
            6 => return "bool".into(),
            code => return format!("DLPack type {code} of {} bits", self.bits),
        };
        format!("{kind}{}", self.bits)
    }

    /// numpy's code of the type.
    fn typestr(self) -> Option<&'static str> {
        match self {
            Dtype::I32 => Some("<i4"),
            Dtype::I64 => Some("<i8"),
            Dtype::U8 => Some("|u1"),
            Dtype::F32 => Some("<f4"),
            _ => None,
        }
    }
}

/// `DLTensor`.
#[repr(C)]
struct RawTensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: Dtype,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensor`.
#[repr(C)]
struct Managed {
    tensor: RawTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: RawTensor,
}

/// Where an array's elements lie, in elements of its type.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) address: usize,
    pub(crate) dtype: Dtype,
    pub(crate) device: Device,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<isize>,
}

impl Tensor {
    fn from_raw(argument: &str, raw: &RawTensor) -> PyResult<Self> {
        let ndim = usize::try_from(raw.ndim).unwrap_or(0);
        // SAFETY: a DLTensor has `ndim` lengths and, unless the pointer is null, as many strides.
        let (shape, strides) = unsafe {
            let list = |start: *mut i64| match start.is_null() || ndim == 0 {
                true => Vec::new(),
                false => std::slice::from_raw_parts(start, ndim).to_vec(),
            };
            (list(raw.shape), list(raw.strides))
        };
        if shape.len() != ndim || shape.iter().any(|&len| len < 0) {
            let expected = "a DLPack tensor with a shape";
            return Err(Class::InvalidArgument.error(argument, format!("{shape:?}"), expected));
        }
        let shape: Vec<usize> = shape.iter().map(|&len| len as usize).collect();
        let strides = match strides.is_empty() {
            true => contiguous(&shape),
            false => strides.iter().map(|&stride| stride as isize).collect(),
        };
        Ok(Tensor {
            address: raw.data as usize + raw.byte_offset as usize,
            dtype: raw.dtype,
            device: raw.device,
            shape,
            strides,
        })
    }

    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether elements follow each other in row-major order. The stride of an axis of one element
    /// does not matter.
    pub(crate) fn is_contiguous(&self) -> bool {
        let axes = self.shape.iter().zip(&self.strides);
        let mut expected = axes.zip(contiguous(&self.shape));
        self.len() == 0
            || expected.all(|((&len, &stride), expected)| len == 1 || stride == expected)
    }
}

/// Row-major strides of a shape, in elements.
pub(crate) fn contiguous(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as isize;
    }
    strides
}
