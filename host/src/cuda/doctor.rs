//! What is there, what is missing, and whether a kernel runs.

use gpu_kernels::step::StepShape;

use super::device::{Device, PtxFile};
use super::stages::CudaStages;
use crate::cpu::CpuStages;
use crate::error::{Error, Result};
use crate::stages::Stages as _;

/// The CUDA backend's state of health.
#[derive(Debug, Clone)]
pub struct Report {
    /// The GPU's name.
    pub device: String,
    /// CUDA version of the driver, (major, minor).
    pub driver_version: (u32, u32),
    /// 10 x major + minor.
    pub compute_capability: u32,
    /// Streaming multiprocessors.
    pub num_multiprocessors: u32,
    /// The PTX file chosen.
    pub ptx_file: PtxFile,
}

/// Opens the first GPU, loads the kernels and runs one of them against the CPU.
///
/// # Errors
/// [`Error::NoDevice`] with the reason when there is nothing to run on; [`Error::Driver`] or
/// [`Error::DeviceLost`] when the kernel does not run; [`Error::Invalid`] when it gives another answer
/// than the CPU.
pub fn doctor() -> Result<Report> {
    let device = Device::open(0)?;
    self_test(&device)?;
    Ok(Report {
        device: device.name().to_owned(),
        driver_version: device.driver_version(),
        compute_capability: device.compute_capability(),
        num_multiprocessors: device.num_multiprocessors(),
        ptx_file: device.ptx_file(),
    })
}

/// Runs the table kernel on a small shape; every bit must be the CPU's.
fn self_test(device: &Device) -> Result<()> {
    let shape = StepShape {
        num_kv_heads: 1,
        num_qo_heads: 2,
        num_queries: 3,
        head_dim: 36,
        num_subvectors: 2,
        bits: 6,
        init_offset: 0,
        code_capacity: 0,
        sink: 0,
        window: 0,
        heavy: 0,
        short_context_limit: 0,
        list_stride: 1,
        weights_stride: 0,
        ..StepShape::default()
    };
    // Any numbers whose products do not round to nothing.
    let numbers = |n: u32| (0..n).map(|i| (i * 7919 % 1009) as f32 / 503.0 - 1.0);
    let centroids: Vec<f32> = numbers(shape.table_len() * shape.sub_dim()).collect();
    let queries: Vec<f32> = numbers(shape.rows_per_batch() * shape.head_dim).collect();
    let expected = CpuStages.lut(&shape, &centroids, &queries)?;
    let got = CudaStages::new(device)?.lut(&shape, &centroids, &queries)?;
    let differing = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
    match got.iter().zip(&expected).position(differing) {
        None => Ok(()),
        Some(at) => Err(Error::invalid(
            "self-test: table",
            format!("{} at entry {at}", got[at]),
            expected[at],
        )),
    }
}
