//! The driver and its devices.

use std::ffi::{c_char, c_int, c_uint};

use super::{driver_functions, put};
use crate::code::INVALID_VALUE;
use crate::kernels::DRIVER_VERSION;
use crate::machine::{self, Chip, RESERVED_SHARED, TOTAL_MEMORY};

driver_functions! {
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        machine::initialise();
    }

    fn cuDriverGetVersion(version: *mut c_int) {
        // SAFETY: the caller's condition.
        unsafe { put(version, DRIVER_VERSION) }?
    }

    fn cuDeviceGetCount(count: *mut c_int) {
        // SAFETY: the caller's condition.
        unsafe { put(count, machine::num_gpus()? as c_int) }?
    }

    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        machine::gpu(ordinal)?;
        // SAFETY: the caller's condition.
        unsafe { put(device, ordinal) }?
    }

    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) {
        let capability = machine::gpu(device)?.chip.compute_capability;
        let text = format!("simulated sm_{capability}");
        let len = usize::try_from(len).map_err(|_| INVALID_VALUE)?;
        if name.is_null() || len == 0 {
            return Err(INVALID_VALUE);
        }
        let shown = &text.as_bytes()[..text.len().min(len - 1)];
        // SAFETY: the caller made room for `len` bytes.
        unsafe {
            name.cast::<u8>().copy_from_nonoverlapping(shown.as_ptr(), shown.len());
            name.add(shown.len()).write(0);
        }
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        machine::gpu(device)?;
        // SAFETY: the caller's condition.
        unsafe { put(bytes, TOTAL_MEMORY) }?
    }

    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) {
        let chip = &machine::gpu(device)?.chip;
        let attribute = attribute_of(chip, attribute).ok_or(INVALID_VALUE)?;
        // SAFETY: the caller's condition.
        unsafe { put(value, attribute) }?
    }
}

/// A `CUdevice_attribute`, by its number in `cuda.h`.
fn attribute_of(chip: &Chip, attribute: c_uint) -> Option<c_int> {
    Some(match attribute {
        // Threads of a block, in all and along each axis; blocks of a grid along each axis.
        1..=3 => 1024,
        4 => 64,
        5 => c_int::MAX,
        6 | 7 => 65_535,
        // Shared memory of a block unasked, constant memory, threads of a warp.
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        // Registers of a block and of a multiprocessor.
        12 | 82 => 65_536,
        // Clock rates of cores and memory, in kHz.
        13 => 1_980_000,
        36 => 2_619_000,
        16 => chip.num_multiprocessors,
        // Time limit, integrated, mapped host memory, compute mode, kernels side by side, ECC.
        17 | 18 | 20 => 0,
        19 | 31 | 32 => 1,
        // PCI bus, device, domain.
        33 | 34 | 50 => 0,
        37 => chip.bus_bits,
        38 => chip.l2_bytes,
        39 => 2048,
        40 => 3,
        // Unified addressing, stream priorities, managed memory.
        41 | 78 => 1,
        83 => 0,
        75 => chip.compute_capability as c_int / 10,
        76 => chip.compute_capability as c_int % 10,
        81 => chip.shared_per_multiprocessor,
        97 => chip.shared_per_block,
        // Cooperative launches, blocks of a multiprocessor, memory pools, clusters.
        95 | 115 => 1,
        106 => 32,
        111 => RESERVED_SHARED,
        120 => c_int::from(chip.cluster_neighbours > 0),
        _ => return None,
    })
}
