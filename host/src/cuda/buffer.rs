//! Arrays in device memory.

use std::ffi::c_void;

use cust::memory::{DeviceBuffer, DeviceCopy};
use cust::sys;
use gpu_kernels::kernel::{In, Out};

use super::error::OrDriverError;
use super::stream::Stream;
use crate::error::Result;

/// `len` elements in device memory, allocated once.
#[derive(Debug)]
pub(super) struct Buffer<T: DeviceCopy> {
    memory: DeviceBuffer<T>,
    len: usize,
}

impl<T: DeviceCopy> Buffer<T> {
    /// An uninitialised array; its readers follow its writers.
    pub(super) fn new(len: usize) -> Result<Self> {
        // The driver has no allocations of 0 bytes.
        // SAFETY: kernels and copies write an element before anything reads it.
        let memory = unsafe { DeviceBuffer::uninitialized(len.max(1)) }.or_driver_error()?;
        Ok(Buffer { memory, len })
    }

    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A copy of `data`.
    pub(super) fn from_slice(data: &[T], stream: &Stream) -> Result<Self> {
        let mut buffer = Buffer::new(data.len())?;
        buffer.write(0, data, stream)?;
        Ok(buffer)
    }

    /// Copies `data` to elements `start..` in stream order; `data` may be reused on return.
    pub(super) fn write(&mut self, start: usize, data: &[T], stream: &Stream) -> Result<()> {
        assert!(start + data.len() <= self.len);
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside the buffer. From pageable memory the driver has taken its
        // copy when the call returns.
        unsafe {
            sys::cuMemcpyHtoDAsync_v2(
                self.address() + (start * size_of::<T>()) as u64,
                data.as_ptr().cast::<c_void>(),
                size_of_val(data),
                stream.as_inner(),
            )
        }
        .or_driver_error()
    }

    /// Copies the first elements to `data` in stream order; they are there once the stream is
    /// synchronised.
    ///
    /// # Safety
    /// `data` stays alive and untouched until then.
    pub(super) unsafe fn read(&self, data: &mut [T], stream: &Stream) -> Result<()> {
        assert!(data.len() <= self.len);
        if data.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies inside the buffer; the caller keeps `data`.
        unsafe {
            sys::cuMemcpyDtoHAsync_v2(
                data.as_mut_ptr().cast::<c_void>(),
                self.address(),
                size_of_val(data),
                stream.as_inner(),
            )
        }
        .or_driver_error()
    }

    /// All elements, after everything that was enqueued.
    pub(super) fn to_vec(&self, stream: &Stream) -> Result<Vec<T>>
    where
        T: Default,
    {
        let mut data = vec![T::default(); self.len];
        // SAFETY: `data` lives on until the stream is synchronised below.
        unsafe { self.read(&mut data, stream)? };
        let Err(error) = stream.synchronize() else {
            return Ok(data);
        };
        if stream.synchronize().is_err() {
            // The copy may still come, and nothing tells when it is done.
            std::mem::forget(data);
        }
        Err(error)
    }

    /// Sets all bytes to zero in stream order.
    pub(super) fn clear(&self, stream: sys::CUstream) -> Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        let bytes = self.len * size_of::<T>();
        // SAFETY: the range is the buffer; every caller's stream outlives the call.
        unsafe { sys::cuMemsetD8Async(self.address(), 0, bytes, stream) }.or_driver_error()
    }

    /// For a kernel to read.
    pub(super) fn input(&self) -> In<T> {
        In::from_address(self.address())
    }

    /// For a kernel to write.
    pub(super) fn output(&self) -> Out<T> {
        Out::from_address(self.address())
    }

    /// Where it begins in device memory.
    pub(super) fn address(&self) -> u64 {
        self.memory.as_device_ptr().as_raw()
    }
}
