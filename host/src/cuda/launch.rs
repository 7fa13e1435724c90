//! From a kernel's typed argument list to the driver.

use std::ptr;

use cust::sys;
use gpu_kernels::kernel::KernelArgs;
use keysieve_libcuda::functions::cuLaunchKernelEx;
use keysieve_libcuda::launch::{LaunchAttribute, LaunchConfig};

use super::device::Device;
use super::error::OrDriverError;
use crate::error::Result;

/// Blocks along x and y. A grid with no blocks launches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid(pub(super) usize, pub(super) usize);

/// The largest grid along y.
pub(super) const MAX_GRID_Y: usize = 65_535;

/// Launches a kernel with `shared_words` 4-byte words of dynamic shared memory.
///
/// # Safety
/// `stream` is alive. The buffers in `args` have the elements that the kernel's documentation says its
/// shape implies, and live until the kernel is done.
pub(super) unsafe fn launch<K: KernelArgs>(
    device: &Device,
    stream: sys::CUstream,
    grid: Grid,
    shared_words: u32,
    args: &K,
) -> Result<()> {
    if grid.0 == 0 || grid.1 == 0 {
        return Ok(());
    }
    args.with_pointers(|pointers| {
        // SAFETY: the pointers are to arguments of the kernel's own types, in order: `kernel!` made
        // the list and the entry point from one declaration. The rest is the caller's promise.
        unsafe {
            sys::cuLaunchKernel(
                device.function::<K>(),
                grid.0 as u32,
                grid.1 as u32,
                1,
                K::INFO.threads,
                1,
                1,
                shared_words * 4,
                stream,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
        .or_driver_error()
    })
}

/// Launches a kernel in clusters of `cluster` blocks, along x, a divisor of the grid.
///
/// # Safety
/// As [`launch`].
pub(super) unsafe fn launch_clusters<K: KernelArgs>(
    device: &Device,
    stream: sys::CUstream,
    grid: usize,
    cluster: u32,
    shared_words: u32,
    args: &K,
) -> Result<()> {
    if grid == 0 {
        return Ok(());
    }
    let attributes = [LaunchAttribute::cluster_dimension([cluster, 1, 1])];
    let config = LaunchConfig {
        shared_mem_bytes: shared_words * 4,
        stream: stream.cast(),
        attributes: attributes.as_ptr(),
        num_attributes: attributes.len() as u32,
        ..LaunchConfig::new([grid as u32, 1, 1], [K::INFO.threads, 1, 1])
    };
    args.with_pointers(|pointers| {
        // SAFETY: as in `launch`; configuration and attributes live through the call.
        let code = unsafe {
            cuLaunchKernelEx(
                &raw const config,
                device.function::<K>().cast(),
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        code.or_driver_error()
    })
}
