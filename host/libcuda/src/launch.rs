//! The argument structures of `cuLaunchKernelEx`, which `cust_raw` does not have.

use std::ffi::{c_uint, c_void};
use std::ptr;

/// `CUlaunchConfig`: a grid, a block and further attributes of one launch.
///
/// Read by [`cuLaunchKernelEx`](crate::functions::cuLaunchKernelEx) and
/// [`cuOccupancyMaxActiveClusters`](crate::functions::cuOccupancyMaxActiveClusters).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LaunchConfig {
    /// Blocks of the grid in x, y, z.
    pub grid: [c_uint; 3],
    /// Threads of a block in x, y, z.
    pub block: [c_uint; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_mem_bytes: c_uint,
    /// The `CUstream`.
    pub stream: *mut c_void,
    /// `num_attributes` attributes; may be null when there are none.
    pub attributes: *const LaunchAttribute,
    /// Length of `attributes`.
    pub num_attributes: c_uint,
}

impl LaunchConfig {
    /// A launch without attributes and without dynamic shared memory, on the default stream.
    pub fn new(grid: [c_uint; 3], block: [c_uint; 3]) -> Self {
        Self {
            grid,
            block,
            shared_mem_bytes: 0,
            stream: ptr::null_mut(),
            attributes: ptr::null(),
            num_attributes: 0,
        }
    }
}

/// `CUlaunchAttribute`: an id and a value of 64 bytes whose meaning follows from the id.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LaunchAttribute {
    id: c_uint,
    padding: [u8; 4],
    value: [u64; 8],
}

impl LaunchAttribute {
    /// Blocks of a cluster in x, y, z (`CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION`, Hopper and later).
    pub fn cluster_dimension([x, y, z]: [c_uint; 3]) -> Self {
        Self::with_words(4, [x, y, z])
    }

    /// All blocks resident at once, so that the grid can be synchronised
    /// (`CU_LAUNCH_ATTRIBUTE_COOPERATIVE`).
    pub fn cooperative() -> Self {
        Self::with_words(2, [1, 0, 0])
    }

    /// The kernel may start before its predecessor in the stream has ended
    /// (`CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`, Hopper and later).
    pub fn programmatic_stream_serialization() -> Self {
        Self::with_words(6, [1, 0, 0])
    }

    fn with_words(id: c_uint, words: [c_uint; 3]) -> Self {
        let mut value = [0; 8];
        value[0] = pair(words[0], words[1]);
        value[1] = pair(words[2], 0);
        Self {
            id,
            padding: [0; 4],
            value,
        }
    }
}

/// The u64 that holds `first` and then `second` in memory, as two consecutive C integers.
fn pair(first: c_uint, second: c_uint) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn layouts_are_those_of_cuda_h() {
        assert_eq!(size_of::<LaunchConfig>(), 56);
        assert_eq!(offset_of!(LaunchConfig, stream), 32);
        assert_eq!(offset_of!(LaunchConfig, num_attributes), 48);
        assert_eq!(size_of::<LaunchAttribute>(), 72);
        assert_eq!(offset_of!(LaunchAttribute, value), 8);
    }

    #[test]
    fn words_lie_in_memory_in_order() {
        let value = LaunchAttribute::cluster_dimension([4, 2, 1]).value;
        let bytes: Vec<u8> = value.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let word = |i: usize| c_uint::from_ne_bytes(bytes[4 * i..][..4].try_into().unwrap());
        assert_eq!([word(0), word(1), word(2), word(3)], [4, 2, 1, 0]);
    }
}
