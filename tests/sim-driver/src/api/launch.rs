//! Launches and occupancy.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use ptx_sim::check_launch;

use super::{Handle, driver_functions, put};
use crate::code::{
    Answer, COOPERATIVE_LAUNCH_TOO_LARGE, INVALID_CLUSTER_SIZE, INVALID_VALUE,
    LAUNCH_OUT_OF_RESOURCES, NOT_SUPPORTED,
};
use crate::context::{Function, State};
use crate::machine::{self, Chip, RESERVED_SHARED};
use crate::work::{KernelOp, Op};

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Debug)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_mem_bytes: c_uint,
    stream: Handle,
    attributes: *const LaunchAttribute,
    num_attributes: c_uint,
}

/// `CUlaunchAttribute`.
#[repr(C)]
#[derive(Debug)]
pub struct LaunchAttribute {
    id: c_uint,
    padding: [u8; 4],
    value: [u64; 8],
}

driver_functions! {
    fn cuLaunchKernel(
        function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint,
        block_y: c_uint, block_z: c_uint, shared_bytes: c_uint, stream: Handle,
        params: *mut *mut c_void, extra: *mut *mut c_void,
    ) {
        let sizes = Sizes {
            grid: [grid_x, grid_y, grid_z],
            block: [block_x, block_y, block_z],
            shared_bytes,
            cluster: None,
            cooperative: false,
        };
        // SAFETY: the caller's condition.
        unsafe { launch(function, &sizes, stream, params, extra) }?
    }

    fn cuLaunchKernelEx(
        config: *const LaunchConfig, function: Handle, params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        // SAFETY: the caller's condition.
        let (sizes, stream) = unsafe { sizes_of(config) }?;
        // SAFETY: as above.
        unsafe { launch(function, &sizes, stream, params, extra) }?
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        num_blocks: *mut c_int, function: Handle, block_size: c_int, dynamic_shared: usize,
    ) {
        let found = machine::on_current(|state| {
            let chip = state.chip;
            let threads = u32::try_from(block_size).map_err(|_| INVALID_VALUE)?;
            occupancy(&chip, state.function(function as usize)?, threads, dynamic_shared)
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(num_blocks, found) }?
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: *mut usize, function: Handle, num_blocks: c_int, _block_size: c_int,
    ) {
        let found = machine::on_current(|state| {
            let chip = state.chip;
            let function = state.function(function as usize)?;
            if num_blocks < 1 {
                return Err(INVALID_VALUE);
            }
            let each = chip.shared_per_multiprocessor / num_blocks - RESERVED_SHARED;
            let each = each.min(chip.shared_per_block) - function.info.shared_bytes as i32;
            Ok(each.max(0) as usize)
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(bytes, found) }?
    }

    fn cuOccupancyMaxActiveClusters(
        num_clusters: *mut c_int, function: Handle, config: *const LaunchConfig,
    ) {
        // SAFETY: the caller's condition.
        let (sizes, _) = unsafe { sizes_of(config) }?;
        let found = machine::on_current(|state| {
            let chip = state.chip;
            let function = state.function(function as usize)?;
            let cluster = sizes.cluster_of(&chip, function)? as c_int;
            if chip.cluster_neighbours == 0 {
                return Err(INVALID_CLUSTER_SIZE);
            }
            let threads = sizes.block.iter().product();
            let blocks = occupancy(&chip, function, threads, sizes.shared_bytes as usize)?;
            let together = blocks * chip.cluster_neighbours / cluster;
            Ok(together * (chip.num_multiprocessors / chip.cluster_neighbours))
        })?;
        // SAFETY: the caller's condition.
        unsafe { put(num_clusters, found) }?
    }
}

/// The sizes of a launch, as they came.
#[derive(Debug)]
struct Sizes {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    cluster: Option<[u32; 3]>,
    cooperative: bool,
}

/// # Safety
/// `config` is null or valid with its attributes.
unsafe fn sizes_of(config: *const LaunchConfig) -> Answer<(Sizes, Handle)> {
    // SAFETY: the caller's condition.
    let config = unsafe { config.as_ref() }.ok_or(INVALID_VALUE)?;
    let mut sizes = Sizes {
        grid: config.grid,
        block: config.block,
        shared_bytes: config.shared_mem_bytes,
        cluster: None,
        cooperative: false,
    };
    for i in 0..config.num_attributes as usize {
        // SAFETY: there are that many attributes.
        let attribute = unsafe { &*config.attributes.add(i) };
        let word = |i: usize| (attribute.value[i / 2] >> (32 * (i % 2))) as u32;
        match attribute.id {
            2 => sizes.cooperative = word(0) != 0,
            4 => sizes.cluster = Some([word(0), word(1), word(2)]),
            // A policy for caches or scheduling, a priority; leave to start early, which is not taken.
            0 | 1 | 3 | 5 | 6 | 8 => {}
            _ => return Err(NOT_SUPPORTED),
        }
    }
    Ok((sizes, config.stream))
}

impl Sizes {
    /// Blocks of a cluster, all along x.
    fn cluster_of(&self, chip: &Chip, function: &Function) -> Answer<u32> {
        let cluster = match self.cluster {
            None => return Ok(function.info.cluster.unwrap_or(1)),
            Some([x, 1, 1]) if x > 0 => x,
            // The simulator has clusters along x alone.
            Some([_, _, _]) => return Err(NOT_SUPPORTED),
        };
        if chip.cluster_neighbours == 0 && cluster > 1 {
            return Err(NOT_SUPPORTED);
        }
        let most = if function.large_clusters { 16 } else { 8 };
        if cluster > most {
            return Err(INVALID_CLUSTER_SIZE);
        }
        Ok(cluster)
    }
}

/// # Safety
/// `params` points to as many arguments as the kernel has, of its types.
unsafe fn launch(
    function: Handle,
    sizes: &Sizes,
    stream: Handle,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Answer {
    if !extra.is_null() {
        return Err(NOT_SUPPORTED);
    }
    machine::on_current(|state| {
        let chip = state.chip;
        let function = state.function(function as usize)?.clone();
        let cluster = sizes.cluster_of(&chip, &function)?;
        if params.is_null() && !function.info.param_sizes.is_empty() {
            return Err(INVALID_VALUE);
        }
        let param = |(i, &size): (usize, &usize)| {
            // SAFETY: the caller's condition.
            unsafe { std::slice::from_raw_parts((*params.add(i)).cast::<u8>(), size) }.to_vec()
        };
        let params = function.info.param_sizes.iter().enumerate().map(param);
        let op = KernelOp {
            params: params.collect(),
            grid: sizes.grid,
            block: sizes.block,
            cluster,
            shared_bytes: sizes.shared_bytes,
            function,
        };
        state.check_sizes(&op, sizes.cooperative)?;
        state.enqueue(stream as usize, Op::Kernel(Arc::new(op)))
    })
}

impl State {
    fn check_sizes(&self, op: &KernelOp, cooperative: bool) -> Answer {
        let function = &op.function;
        let threads = op.block.iter().try_fold(1u32, |n, &d| n.checked_mul(d));
        let threads = threads.ok_or(INVALID_VALUE)?;
        if op.shared_bytes as i64 > i64::from(function.max_dynamic_shared) {
            return Err(INVALID_VALUE);
        }
        if function.info.max_threads.is_some_and(|most| threads > most) {
            return Err(INVALID_VALUE);
        }
        let checked = op.with_launch(0, |launch| {
            check_launch(&function.image.module, &function.name, launch)
        });
        checked.map_err(|error| {
            eprintln!("simulated GPU: {error}");
            INVALID_VALUE
        })?;
        let blocks = occupancy(&self.chip, function, threads, op.shared_bytes as usize)?;
        if blocks == 0 {
            return Err(LAUNCH_OUT_OF_RESOURCES);
        }
        let grid: u64 = op.grid.iter().map(|&d| u64::from(d)).product();
        if cooperative && grid > (blocks * self.chip.num_multiprocessors) as u64 {
            return Err(COOPERATIVE_LAUNCH_TOO_LARGE);
        }
        Ok(())
    }
}

/// Blocks that a multiprocessor can hold, as far as threads and shared memory say.
fn occupancy(chip: &Chip, function: &Function, threads: u32, shared: usize) -> Answer<c_int> {
    if threads == 0 || threads > 1024 {
        return Err(INVALID_VALUE);
    }
    let warps = threads.div_ceil(32) as c_int;
    let shared = shared + function.info.shared_bytes + RESERVED_SHARED as usize;
    let by_shared = chip.shared_per_multiprocessor as usize / shared;
    Ok((64 / warps).min(32).min(by_shared as c_int))
}
