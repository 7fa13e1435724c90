//! Integer arrays of a caller's: codes that come, lists that go.

use pyo3::prelude::*;

use crate::dlpack::{Dtype, Tensor};
use crate::errors::Class;

/// Calls `visit` with the address of each element in row-major order.
fn for_each_address(tensor: &Tensor, mut visit: impl FnMut(usize)) {
    if tensor.len() == 0 {
        return;
    }
    let bytes = tensor.dtype.bytes() as isize;
    let mut at = vec![0; tensor.shape.len()];
    let mut address = tensor.address;
    loop {
        visit(address);
        let mut axis = tensor.shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            at[axis] += 1;
            let stride = tensor.strides[axis] * bytes;
            if at[axis] < tensor.shape[axis] {
                address = address.wrapping_add_signed(stride);
                break;
            }
            address = address.wrapping_add_signed(-stride * (tensor.shape[axis] as isize - 1));
            at[axis] = 0;
        }
    }
}

/// The codes of a host array of an integer type, row-major.
pub(crate) fn to_codes(argument: &str, tensor: &Tensor) -> PyResult<Vec<u8>> {
    if !tensor.device.is_host() {
        return Err(Class::InvalidArgument.error(argument, tensor.device.name(), "cpu"));
    }
    let mut codes = Vec::with_capacity(tensor.len());
    let mut wrong = None;
    let read: fn(usize) -> i64 = match tensor.dtype {
        // SAFETY: an element of an array of that type on the host, which is borrowed.
        Dtype::U8 => |at| i64::from(unsafe { *(at as *const u8) }),
        // SAFETY: as above.
        Dtype::I32 => |at| i64::from(unsafe { (at as *const i32).read_unaligned() }),
        // SAFETY: as above.
        Dtype::I64 => |at| unsafe { (at as *const i64).read_unaligned() },
        other => {
            let expected = "uint8, int32 or int64";
            return Err(Class::InvalidType.error(argument, other.name(), expected));
        }
    };
    for_each_address(tensor, |address| match u8::try_from(read(address)) {
        Ok(code) => codes.push(code),
        Err(_) => wrong = Some(read(address)),
    });
    match wrong {
        None => Ok(codes),
        Some(code) => Err(Class::InvalidArgument.error(argument, code, "codes from 0 to 255")),
    }
}

/// Writes `values` to the elements of a host array of 4 or 8 bytes each, row-major: `float32` as they
/// are, integers of either width.
///
/// # Safety
/// The array is writable, of as many elements as there are values, and nobody else uses it meanwhile.
pub(crate) unsafe fn write_integers(tensor: &Tensor, values: impl Iterator<Item = i32>) {
    let mut values = values;
    for_each_address(tensor, |address| {
        let Some(value) = values.next() else { return };
        // SAFETY: the caller's; the type is the array's.
        unsafe {
            match tensor.dtype {
                Dtype::I64 => (address as *mut i64).write_unaligned(i64::from(value)),
                _ => (address as *mut i32).write_unaligned(value),
            }
        }
    });
}

/// Writes `values` to the elements of a host array of `float32`, row-major.
///
/// # Safety
/// As [`write_integers`].
pub(crate) unsafe fn write_floats(tensor: &Tensor, values: impl Iterator<Item = f32>) {
    let mut values = values;
    for_each_address(tensor, |address| {
        let Some(value) = values.next() else { return };
        // SAFETY: the caller's; the type is the array's.
        unsafe { (address as *mut f32).write_unaligned(value) };
    });
}
