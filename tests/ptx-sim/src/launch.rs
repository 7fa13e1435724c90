//! A grid: its clusters in an order drawn from the seed, a few of them at a time.

use crate::cluster::{Cluster, Outside};
use crate::error::{LaunchError, Violation, ViolationKind};
use crate::memory::{Init, Memory, Region};
use crate::module::{Kernel, Module};
use crate::random::Random;

/// One argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg<'a> {
    /// A parameter of four bytes.
    U32(u32),
    /// A parameter of eight bytes; the address of an allocation is one.
    U64(u64),
    /// A float.
    F32(f32),
    /// A parameter that is an array of bytes: a struct passed by value.
    Bytes(&'a [u8]),
}

/// How to launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Launch<'a> {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster, along x.
    pub cluster: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Arguments, in order.
    pub args: &'a [Arg<'a>],
    /// Chooses the schedule.
    pub seed: u64,
    /// Instructions of all warps together, at most.
    pub step_limit: u64,
}

impl Default for Launch<'_> {
    /// One thread, no shared memory, schedule 0, at most 10^9 steps.
    fn default() -> Self {
        Launch {
            grid: [1; 3],
            block: [1; 3],
            cluster: 1,
            shared_bytes: 0,
            args: &[],
            seed: 0,
            step_limit: 1_000_000_000,
        }
    }
}

/// What a launch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Instructions, each counted once for every lane that executed it.
    pub lane_instructions: u64,
    /// Instructions of warps.
    pub warp_instructions: u64,
}

/// The sizes of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: u32,
    pub(crate) dynamic_shared: u32,
}

impl Geometry {
    pub(crate) fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    pub(crate) fn warps_per_block(&self) -> u32 {
        self.threads().div_ceil(32)
    }
}

/// Shared memory that a block can have on the largest chips.
const MAX_SHARED: u64 = 227 * 1024;

/// Blocks of a grid: their order is drawn before the first of them runs.
const MAX_BLOCKS: u128 = 1 << 26;

/// Whether a launch fits its kernel, without running it.
///
/// # Errors
/// As [`launch`] before it runs.
pub fn check_launch(module: &Module, kernel: &str, launch: &Launch<'_>) -> Result<(), LaunchError> {
    params_of(module, kernel, launch).map(|_| ())
}

fn params_of<'a>(
    module: &'a Module,
    kernel: &str,
    launch: &Launch<'_>,
) -> Result<(&'a Kernel, Region), LaunchError> {
    let no_kernel = || LaunchError::NoKernel(kernel.to_owned());
    let kernel = module.kernels.get(kernel).ok_or_else(no_kernel)?;
    let params = check(kernel, launch).map_err(|message| LaunchError::BadLaunch {
        kernel: kernel.name.clone(),
        message,
    })?;
    Ok((kernel, params))
}

/// Runs a kernel to its end, or to the first rule it breaks.
///
/// # Errors
/// A kernel, sizes or arguments that do not fit; or the violation.
pub fn launch(
    module: &Module,
    kernel: &str,
    launch: &Launch<'_>,
    memory: &mut Memory,
) -> Result<Stats, LaunchError> {
    let (kernel, mut params) = params_of(module, kernel, launch)?;
    memory.begin_launch();
    let variables: Vec<u64> = module
        .variables
        .iter()
        .map(|variable| {
            let address = memory.alloc(variable.size as usize, Init::Zero);
            if let Some((region, _)) = memory.find_mut(address) {
                region.data[..variable.data.len()].copy_from_slice(&variable.data);
            }
            address
        })
        .collect();
    let geometry = Geometry {
        grid: launch.grid,
        block: launch.block,
        cluster: launch.cluster,
        dynamic_shared: launch.shared_bytes,
    };
    let outside = Outside {
        kernel,
        geometry: &geometry,
        variables: &variables,
        params: &mut params,
        memory,
    };
    let result = run(outside, launch.seed, launch.step_limit);
    for address in variables {
        memory.free(address);
    }
    Ok(result?)
}

fn run(mut outside: Outside<'_>, seed: u64, limit: u64) -> Result<Stats, Box<Violation>> {
    let mut random = Random::new(seed);
    let [x, y, z] = outside.geometry.grid;
    let num_clusters = (x / outside.geometry.cluster) as usize * y as usize * z as usize;
    let mut order: Vec<usize> = (0..num_clusters).collect();
    random.shuffle(&mut order);
    // A chip runs some clusters side by side and the others after them.
    let side_by_side = 1 + random.below(3);
    let mut running: Vec<Cluster> = Vec::new();
    let mut stats = Stats::default();
    loop {
        while running.len() < side_by_side
            && let Some(index) = order.pop()
        {
            running.push(Cluster::new(outside.kernel, outside.geometry, index));
        }
        if running.is_empty() {
            return Ok(stats);
        }
        let at = random.below(running.len());
        let cluster = &mut running[at];
        stats.warp_instructions += cluster.step(&mut outside, &mut random)?;
        if stats.warp_instructions > limit {
            return Err(cluster.stopped(&outside, ViolationKind::StepLimit));
        }
        if cluster.is_done() {
            stats.lane_instructions += cluster.lane_instructions();
            running.swap_remove(at);
        }
    }
}

/// Checks a launch against the kernel; its parameters as the kernel reads them.
fn check(kernel: &Kernel, launch: &Launch<'_>) -> Result<Region, String> {
    let threads = launch.block.iter().try_fold(1u32, |n, &d| n.checked_mul(d));
    let threads = threads.filter(|n| (1..=1024).contains(n));
    let threads = threads.ok_or(format!("a block of {:?} threads", launch.block))?;
    if let Some(most) = kernel.max_threads
        && threads > most
    {
        return Err(format!("{threads} threads, the kernel allows {most}"));
    }
    if launch.grid.contains(&0) || launch.grid[1].max(launch.grid[2]) > 65_535 {
        return Err(format!("a grid of {:?} blocks", launch.grid));
    }
    let blocks: u128 = launch.grid.iter().map(|&d| u128::from(d)).product();
    if blocks > MAX_BLOCKS {
        return Err(format!(
            "{blocks} blocks, at most {MAX_BLOCKS} are simulated"
        ));
    }
    if !(1..=16).contains(&launch.cluster) || !launch.grid[0].is_multiple_of(launch.cluster) {
        let (cluster, x) = (launch.cluster, launch.grid[0]);
        return Err(format!(
            "clusters of {cluster} in a grid of {x} blocks along x"
        ));
    }
    if let Some(cluster) = kernel.cluster
        && cluster != launch.cluster
    {
        let came = launch.cluster;
        return Err(format!("clusters of {came}, the kernel wants {cluster}"));
    }
    let shared = kernel.static_shared + u64::from(launch.shared_bytes);
    if shared > MAX_SHARED {
        return Err(format!(
            "{shared} bytes of shared memory, at most {MAX_SHARED}"
        ));
    }
    if launch.args.len() != kernel.params.len() {
        let (came, wanted) = (launch.args.len(), kernel.params.len());
        return Err(format!("{came} arguments, the kernel has {wanted}"));
    }
    let mut bytes = Vec::new();
    for (i, (arg, &(offset, size))) in launch.args.iter().zip(&kernel.params).enumerate() {
        let arg = match arg {
            Arg::U32(value) => value.to_le_bytes().to_vec(),
            Arg::U64(value) => value.to_le_bytes().to_vec(),
            Arg::F32(value) => value.to_le_bytes().to_vec(),
            Arg::Bytes(bytes) => bytes.to_vec(),
        };
        if arg.len() as u64 != size {
            let came = arg.len();
            return Err(format!(
                "argument {i} has {came} bytes, the parameter {size}"
            ));
        }
        bytes.resize(offset as usize, 0);
        bytes.extend(arg);
    }
    Ok(Region::new(bytes.len(), Init::Bytes(&bytes)))
}
