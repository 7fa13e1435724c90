//! Keys and queries of a caller's, as the library takes them.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};
use pyo3::prelude::*;

use crate::dlpack::{Dtype, Imported, Tensor};
use crate::errors::Class;

/// A borrowed array of four axes of half, bfloat16 or single precision.
pub(crate) struct Input {
    pub(crate) array: Imported,
    pub(crate) shape: [usize; 4],
}

impl Input {
    /// `axes` is what errors call the shape.
    pub(crate) fn new(
        argument: &str,
        object: &Bound<'_, PyAny>,
        axes: &str,
        stream: Option<i64>,
    ) -> PyResult<Self> {
        let array = Imported::new(argument, object, stream)?;
        let tensor = &array.tensor;
        if ![Dtype::F32, Dtype::F16, Dtype::BF16].contains(&tensor.dtype) {
            let expected = "float32, float16 or bfloat16";
            return Err(Class::InvalidType.error(argument, tensor.dtype.name(), expected));
        }
        let Ok(shape) = <[usize; 4]>::try_from(&tensor.shape[..]) else {
            let got = format!("shape {:?}", tensor.shape);
            return Err(Class::InvalidArgument.error(argument, got, axes));
        };
        Ok(Input { array, shape })
    }

    /// That the array lies on the host.
    pub(crate) fn on_host(self, argument: &str) -> PyResult<Self> {
        let device = self.array.tensor.device;
        match device.is_host() {
            true => Ok(self),
            false => Err(Class::InvalidArgument.error(argument, device.name(), "cpu")),
        }
    }
}

/// The elements of a host array, row-major in single precision: where they lie if they are so
/// already, else a copy. `tokens` is a range of the third axis.
///
/// # Safety
/// The array lies on the host, its owner lives on, and nobody writes it.
pub(crate) unsafe fn to_f32(tensor: &Tensor, tokens: Range<usize>) -> Cow<'static, [f32]> {
    let mut tensor = tensor.clone();
    let stride = tensor.strides[2] * tensor.dtype.bytes() as isize;
    tensor.address = tensor
        .address
        .wrapping_add_signed(stride.wrapping_mul(tokens.start as isize));
    tensor.shape[2] = tokens.len();
    let aligned = tensor.address.is_multiple_of(align_of::<f32>());
    if tensor.len() == 0 {
        return Cow::Owned(Vec::new());
    }
    if tensor.dtype == Dtype::F32 && tensor.is_contiguous() && aligned {
        // SAFETY: the caller's, and the elements follow each other.
        return Cow::Borrowed(unsafe {
            std::slice::from_raw_parts(tensor.address as *const f32, tensor.len())
        });
    }
    let mut elements = Vec::with_capacity(tensor.len());
    // SAFETY: the caller's; the type is the array's.
    unsafe {
        match tensor.dtype {
            Dtype::F16 => gather(&tensor, &mut elements, f16::to_f32),
            Dtype::BF16 => gather(&tensor, &mut elements, bf16::to_f32),
            _ => gather(&tensor, &mut elements, |element: f32| element),
        }
    }
    Cow::Owned(elements)
}

unsafe fn gather<T: Copy>(tensor: &Tensor, elements: &mut Vec<f32>, to_f32: impl Fn(T) -> f32) {
    let first = tensor.address as *const T;
    let (shape, strides) = (&tensor.shape, &tensor.strides);
    for i in 0..shape[0] {
        for j in 0..shape[1] {
            for k in 0..shape[2] {
                let places = [i, j, k].into_iter().zip(strides);
                let row: isize = places.map(|(at, stride)| at as isize * stride).sum();
                for l in 0..shape[3] {
                    // SAFETY: an element of the array.
                    let element =
                        unsafe { first.offset(row + l as isize * strides[3]).read_unaligned() };
                    elements.push(to_f32(element));
                }
            }
        }
    }
}

/// The elements of a host array of so many axes, copied.
pub(crate) fn floats(
    argument: &str,
    object: &Bound<'_, PyAny>,
    axes: usize,
) -> PyResult<(Vec<usize>, Vec<f32>)> {
    let array = Imported::new(argument, object, None)?;
    let tensor = &array.tensor;
    if !tensor.device.is_host() {
        return Err(Class::InvalidArgument.error(argument, tensor.device.name(), "cpu"));
    }
    if ![Dtype::F32, Dtype::F16, Dtype::BF16].contains(&tensor.dtype) {
        let expected = "float32, float16 or bfloat16";
        return Err(Class::InvalidType.error(argument, tensor.dtype.name(), expected));
    }
    if tensor.shape.len() != axes {
        let got = format!("shape {:?}", tensor.shape);
        return Err(Class::InvalidArgument.error(argument, got, format!("{axes} axes")));
    }
    let shape = tensor.shape.clone();
    // Four axes at a time.
    let (outer, inner) = match axes {
        5 => (shape[0], 1),
        _ => (1, 0),
    };
    let mut elements = Vec::with_capacity(tensor.len());
    for i in 0..outer {
        let offset = i as isize * tensor.strides[0] * tensor.dtype.bytes() as isize;
        let mut part = Tensor {
            address: tensor
                .address
                .wrapping_add_signed(if inner == 1 { offset } else { 0 }),
            shape: shape[inner..].to_vec(),
            strides: tensor.strides[inner..].to_vec(),
            ..tensor.clone()
        };
        while part.shape.len() < 4 {
            part.shape.insert(0, 1);
            part.strides.insert(0, 0);
        }
        // SAFETY: the array is borrowed until this call returns.
        let copied = unsafe { to_f32(&part, 0..part.shape[2]) };
        elements.extend_from_slice(&copied);
    }
    Ok((shape, elements))
}
