//! Copies of what a step listed, in device memory of their own and without gaps.

use cust::sys;
use gpu_kernels::gather::{Gather, GatherShape};
use gpu_kernels::kernel::{In, Out};
use gpu_kernels::kmeans;

use super::buffer::Buffer;
use super::caller::{MAX_BLOCKS, THREADS, is_captured};
use super::device::Device;
use super::event::Event;
use super::launch::{Grid, launch};
use super::step::Step;
use super::stream::Stream;
use crate::error::{Error, Result};

/// Rows of words of 32 bits in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRows {
    /// Where the first row begins; a multiple of 4.
    pub address: u64,
    /// How many there are.
    pub rows: usize,
    /// Words of a row.
    pub words: usize,
    /// Words from one row to the next.
    pub stride: usize,
}

/// A copy of rows in device memory of its own, one behind the other.
#[derive(Debug)]
pub struct RowsCopy {
    words: Buffer<u32>,
    copied: Event,
    // Last: the memory goes before its context.
    device: Device,
}

impl Step {
    /// Copies rows of [`Step::device_buffers`] behind the step's work so far and before its later work. `reader` is a
    /// stream that then waits for the copy; the host does not. Allocates.
    ///
    /// # Safety
    /// The rows lie inside the buffers, and `reader` is a stream of the primary context of [`Step::device`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for 2^32 words or more, and for a `reader` that is captured; what the driver answers.
    pub unsafe fn copy_rows(
        &self,
        rows: &DeviceRows,
        reader: Option<sys::CUstream>,
    ) -> Result<RowsCopy> {
        // SAFETY: the caller's.
        unsafe { RowsCopy::new(&self.device, rows, self.turn.stream(), reader) }
    }
}

impl RowsCopy {
    /// Copies in the order of `stream`.
    ///
    /// # Safety
    /// As [`Step::copy_rows`]; `stream` is a stream of that context too.
    unsafe fn new(
        device: &Device,
        rows: &DeviceRows,
        stream: sys::CUstream,
        reader: Option<sys::CUstream>,
    ) -> Result<Self> {
        let len = rows.rows.checked_mul(rows.words);
        let Some(len) = len.filter(|&len| u32::try_from(len).is_ok()) else {
            let got = format!("{} rows of {} words", rows.rows, rows.words);
            return Err(Error::invalid("copy", got, "fewer than 2^32 words"));
        };
        device.enter()?;
        // Before anything is allocated, which would end the capture.
        // SAFETY: the caller's.
        unsafe { check_not_captured(reader)? };
        let copy = RowsCopy {
            words: Buffer::new(len)?,
            copied: Event::without_time()?,
            device: device.clone(),
        };
        if len > 0 {
            // SAFETY: the caller's; the copy is as long as the rows.
            unsafe { copy.enqueue(rows, stream)? };
        }
        copy.copied.record(stream)?;
        reader.map_or(Ok(()), |reader| copy.copied.hold(reader))?;
        Ok(copy)
    }

    /// A load and a store of an `f32` change no bit, whatever the words are.
    unsafe fn enqueue(&self, rows: &DeviceRows, stream: sys::CUstream) -> Result<()> {
        let shape = GatherShape {
            strides: [0, 0, rows.stride as u64, 1],
            lens: [1, 1, rows.rows as u32, rows.words as u32],
            len: self.words.len() as u32,
            dtype: kmeans::F32,
        };
        let (source, gathered) = (
            In::from_address(rows.address),
            Out::from_address(self.address()),
        );
        let args = Gather {
            source,
            gathered,
            other: source,
            other_gathered: gathered,
            shape,
            other_shape: GatherShape { len: 0, ..shape },
        };
        let grid = Grid(self.words.len().div_ceil(THREADS).min(MAX_BLOCKS), 1);
        // SAFETY: the caller's.
        unsafe { launch(&self.device, stream, grid, 0, &args) }
    }

    /// Where the first word lies.
    pub fn address(&self) -> u64 {
        self.words.address()
    }

    /// Lets `stream` wait for the copy, before the caller reads it there. The host does not wait.
    ///
    /// # Safety
    /// `stream` is a stream of the device's primary context.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a captured one; what the driver answers.
    pub unsafe fn hand_over_to(&self, stream: sys::CUstream) -> Result<()> {
        self.device.enter()?;
        // SAFETY: the caller's.
        unsafe { check_not_captured(Some(stream))? };
        self.copied.hold(stream)
    }

    /// Another copy, as [`Step::copy_rows`] makes them.
    ///
    /// # Safety
    /// `reader` is a stream of the device's primary context, and nobody writes this copy until the other is made.
    ///
    /// # Errors
    /// As [`Step::copy_rows`].
    pub unsafe fn to_copy(&self, reader: Option<sys::CUstream>) -> Result<Self> {
        self.device.enter()?;
        // SAFETY: the caller's.
        unsafe { check_not_captured(reader)? };
        let rows = DeviceRows {
            address: self.address(),
            rows: 1,
            words: self.words.len(),
            stride: self.words.len(),
        };
        // What is enqueued is done, also when the stream is gone.
        let stream = Stream::new()?;
        self.copied.hold(stream.as_inner())?;
        // SAFETY: the rows are this copy.
        unsafe { RowsCopy::new(&self.device, &rows, stream.as_inner(), reader) }
    }
}

impl Drop for RowsCopy {
    fn drop(&mut self) {
        self.device.enter_to_free();
    }
}

unsafe fn check_not_captured(stream: Option<sys::CUstream>) -> Result<()> {
    let Some(stream) = stream else { return Ok(()) };
    // SAFETY: the caller's.
    match unsafe { is_captured(stream)? } {
        false => Ok(()),
        true => Err(Error::invalid(
            "stream",
            "a captured one",
            "one that is not captured: a copy is made now",
        )),
    }
}
