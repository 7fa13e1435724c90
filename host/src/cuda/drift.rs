//! How well codebooks fit keys: measured where the keys lie.

use gpu_kernels::kmeans::KMeansShape;
use gpu_kernels::quantisation_error::{LANES, QuantisationError, mean};

use super::buffer::Buffer;
use super::device::Device;
use super::keys::{DeviceKeys, KeyBuffer};
use super::launch::{Grid, launch};
use super::step::Step;
use super::stream::Stream;
use crate::error::Result;
use crate::tensor::{Component, Keys};

/// The mean squared distance of keys from the centroids of their codes, those from key `first_code` on of each
/// group's `code_capacity`. Waits for it.
///
/// # Safety
/// `keys` are written, and so are the codes of `shape`'s points and the centroids of its problems; nothing writes them
/// meanwhile.
pub(super) unsafe fn quantisation_error(
    device: &Device,
    stream: &Stream,
    keys: &DeviceKeys,
    shape: KMeansShape,
    (centroids, codes): (&Buffer<f32>, &Buffer<u8>),
    (first_code, code_capacity): (usize, usize),
) -> Result<f64> {
    let groups = keys.batch * keys.num_kv_heads;
    let problems = groups * shape.num_subvectors as usize;
    let sums: Buffer<f64> = Buffer::new(problems * LANES)?;
    let args = QuantisationError {
        keys: keys.input(),
        centroids: centroids.input(),
        codes: codes.input(),
        sums: sums.output(),
        first_code: first_code as u32,
        code_capacity: code_capacity as u32,
        shape,
    };
    // SAFETY: there are LANES sums for each problem; the rest is the caller's promise.
    unsafe { launch(device, stream.as_inner(), Grid(problems, 1), 0, &args)? };
    let sums = sums.to_vec(stream)?;
    Ok(mean(sums.into_iter(), groups * shape.num_points as usize))
}

impl Step {
    /// [`KeyIndex::drift`](crate::KeyIndex::drift) of keys in device memory, those of positions `position..`: nothing
    /// but a few sums comes to the host. Waits for it.
    ///
    /// # Safety
    /// `keys` describes memory of the device's primary context that is written, and nothing writes it before this
    /// returns.
    ///
    /// # Errors
    /// As there; what the driver answers.
    pub unsafe fn drift_of(&self, keys: &DeviceKeys, position: usize) -> Result<Option<f64>> {
        let origin = &self.origin;
        let first_code = origin.check_error_of_shape(keys.shape(), position, 0, self.seq_len)?;
        self.enter_own_stream()?;
        let shape = KMeansShape {
            first_token: 0,
            num_points: keys.tokens as u32,
            ..keys.kmeans_shape(origin.config())
        };
        let arrays = (&self.centroids, &self.codes);
        let place = (first_code, self.shape.code_capacity as usize);
        // SAFETY: positions below `seq_len` have codes; the keys are the caller's promise.
        let error =
            unsafe { quantisation_error(&self.device, &self.stream, keys, shape, arrays, place)? };
        Ok(origin.drift_of(error))
    }

    pub(crate) fn drift<T: Component>(
        &self,
        keys: Keys<'_, T>,
        position: usize,
    ) -> Result<Option<f64>> {
        keys.check_len()?;
        let shape = [keys.batch, keys.num_kv_heads, keys.tokens, keys.head_dim];
        let origin = &self.origin;
        origin.check_error_of_shape(shape, position, 0, self.seq_len)?;
        let buffer = KeyBuffer::new(&self.device, T::slice(keys.data))?;
        let head_stride = keys.tokens * keys.head_dim;
        let strides = [keys.num_kv_heads * head_stride, head_stride, keys.head_dim];
        // SAFETY: the buffer lives until the call returns, and is written by nobody else.
        unsafe { self.drift_of(&buffer.keys(shape, strides)?, position) }
    }
}
