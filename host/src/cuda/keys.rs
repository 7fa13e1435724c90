//! Keys in device memory, as a key-value cache lays them out.

use gpu_kernels::kmeans::{ALL_FINITE, KMeansShape};

use super::buffer::Buffer;
use super::device::Device;
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::tensor::KeySlice;

/// The type of a key's components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl KeyDtype {
    /// Bytes of a component.
    pub fn bytes(self) -> usize {
        match self {
            KeyDtype::F32 => 4,
            KeyDtype::F16 | KeyDtype::Bf16 => 2,
        }
    }
}

/// Where keys lie in device memory: key (batch, head, token) begins `batch * strides[0] + head * strides[1] + token *
/// strides[2]` components behind the address, its components side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKeys {
    pub(super) address: u64,
    pub(super) dtype: KeyDtype,
    pub(super) batch: usize,
    pub(super) num_kv_heads: usize,
    pub(super) tokens: usize,
    pub(super) head_dim: usize,
    pub(super) strides: [usize; 3],
}

impl DeviceKeys {
    /// Keys of `shape` `[batch, num_kv_heads, tokens, head_dim]` at a device address, with the `strides` of batch, head and
    /// token in components. Memory laid out `[batch, tokens, num_kv_heads, head_dim]` has the strides
    /// `[tokens * num_kv_heads * head_dim, head_dim, num_kv_heads * head_dim]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address that is 0 or not a multiple of a component's size, and for keys whose last
    /// component would lie 2^63 bytes or more behind it.
    pub fn new(
        address: u64,
        dtype: KeyDtype,
        shape: [usize; 4],
        strides: [usize; 3],
    ) -> Result<Self> {
        if address == 0 || !address.is_multiple_of(dtype.bytes() as u64) {
            return Err(Error::invalid(
                "keys: address",
                format!("{address:#x}"),
                format!("a device address that {} divides", dtype.bytes()),
            ));
        }
        let [batch, num_kv_heads, tokens, head_dim] = shape;
        let lasts = [batch, num_kv_heads, tokens].map(|len| len.saturating_sub(1) as u128);
        let reach = lasts.iter().zip(strides).map(|(&last, s)| last * s as u128);
        let end = reach.sum::<u128>() + head_dim as u128;
        if end * dtype.bytes() as u128 >= 1 << 63 {
            return Err(Error::invalid(
                "keys: strides",
                format!("{strides:?} for shape {shape:?}"),
                "keys within 2^63 bytes",
            ));
        }
        Ok(DeviceKeys {
            address,
            dtype,
            batch,
            num_kv_heads,
            tokens,
            head_dim,
            strides,
        })
    }

    /// `[batch, num_kv_heads, tokens, head_dim]`.
    pub fn shape(&self) -> [usize; 4] {
        [self.batch, self.num_kv_heads, self.tokens, self.head_dim]
    }

    /// The first component that is not finite, in the order of (batch, head, token, component), as an error:
    /// `not_finite` `[problems]` has each problem's first one.
    pub(super) fn check_survey(&self, shape: &KMeansShape, not_finite: &[u32]) -> Result<()> {
        let (m, sub_dim) = (shape.num_subvectors as usize, shape.sub_dim as usize);
        for (group, firsts) in not_finite.chunks(m).enumerate() {
            let firsts = firsts.iter().enumerate();
            let places = firsts.filter(|(_, first)| **first != ALL_FINITE);
            let place = places.map(|(subvector, &first)| {
                let (token, i) = (first as usize / sub_dim, first as usize % sub_dim);
                (token, subvector * sub_dim + i)
            });
            if let Some((token, component)) = place.min() {
                return Err(Error::NotFinite {
                    batch: group / self.num_kv_heads,
                    head: group % self.num_kv_heads,
                    token,
                    component,
                    value: "NaN or an infinity".into(),
                });
            }
        }
        Ok(())
    }
}

/// A copy of keys in device memory of its own.
#[derive(Debug)]
pub struct KeyBuffer {
    bytes: Buffer<u8>,
    dtype: KeyDtype,
    len: usize,
    // Last: the memory goes before its context.
    device: Device,
}

impl KeyBuffer {
    /// Copies `keys` to the device and waits.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn new(device: &Device, keys: KeySlice<'_>) -> Result<Self> {
        device.enter()?;
        let (dtype, len, bytes): (_, _, &[u8]) = match keys {
            KeySlice::F32(keys) => (KeyDtype::F32, keys.len(), bytemuck::cast_slice(keys)),
            KeySlice::F16(keys) => (KeyDtype::F16, keys.len(), bytemuck::cast_slice(keys)),
            KeySlice::Bf16(keys) => (KeyDtype::Bf16, keys.len(), bytemuck::cast_slice(keys)),
        };
        let stream = Stream::new()?;
        let bytes = Buffer::from_slice(bytes, &stream)?;
        stream.synchronize()?;
        Ok(KeyBuffer {
            bytes,
            dtype,
            len,
            device: device.clone(),
        })
    }

    /// Where the keys lie.
    pub fn address(&self) -> u64 {
        self.bytes.address()
    }

    /// The keys as [`DeviceKeys::new`] describes them.
    ///
    /// # Errors
    /// As there; [`Error::Invalid`] for keys that reach beyond the buffer.
    pub fn keys(&self, shape: [usize; 4], strides: [usize; 3]) -> Result<DeviceKeys> {
        let keys = DeviceKeys::new(self.bytes.address(), self.dtype, shape, strides)?;
        let lasts = [keys.batch, keys.num_kv_heads, keys.tokens].map(|len| len.saturating_sub(1));
        let reach = lasts
            .iter()
            .zip(strides)
            .map(|(last, stride)| last * stride);
        let end = reach.sum::<usize>() + keys.head_dim;
        if end > self.len {
            return Err(Error::invalid(
                "keys",
                format!("{} components", self.len),
                format!("the {end} of shape {shape:?} with strides {strides:?}"),
            ));
        }
        Ok(keys)
    }
}

impl Drop for KeyBuffer {
    fn drop(&mut self) {
        self.device.enter_to_free();
    }
}
