//! The devices a test body runs on, and the [`Suite`] that stamps bodies into them.
//!
//! | device | what runs | where |
//! | --- | --- | --- |
//! | `cpu` | the CPU backend | everywhere |
//! | `cuda` | the CUDA backend on the first GPU | where one answers; else its trials are ignored |
//! | `sim90`, `sim80` | the CUDA backend on a simulated GPU, each with a PTX file of its own | everywhere |
//!
//! A process has one driver: where a GPU answers, each `sim` trial runs in a process of its own.

mod driver;
mod suite;

pub use suite::{Suite, seed};

use std::fmt::Debug;
use std::sync::OnceLock;

use gpu_kernels::step::StepShape;
use keysieve::cpu::CpuStages;
use keysieve::cuda::CudaStages;
use keysieve::stages::Stages;
use keysieve::{Backend, Error};
use proptest::prop_assert;
use proptest::test_runner::{TestCaseError, TestCaseResult};

use self::driver::SimGpu;
use crate::oracle::Shape;
use crate::sim_driver::{KernelRuns, SimDriver};

/// A backend under test.
pub struct Device {
    /// What a [`keysieve::Selector`] is made with.
    pub backend: Backend,
    stages: Box<dyn Stages>,
    // Last: the GPU is another's as soon as it is let go.
    sim: Option<SimGpu>,
}

/// The devices' names, which trials begin with.
pub const DEVICES: [&str; 4] = ["cpu", "cuda", "sim90", "sim80"];
/// Those that run the CUDA backend.
pub const CUDA: [&str; 3] = ["cuda", "sim90", "sim80"];
/// Those where large arrays are no matter of minutes.
pub const FAST: [&str; 2] = ["cpu", "cuda"];

impl Device {
    /// Whether it is a simulated GPU, on which a step takes most of a second.
    pub fn is_simulated(&self) -> bool {
        self.sim.is_some()
    }

    /// Opens the device of that name.
    ///
    /// # Errors
    /// Why it does not answer.
    pub fn open(name: &str) -> Result<Self, Error> {
        if name == "cpu" {
            return Ok(Device {
                backend: Backend::Cpu,
                stages: Box::new(CpuStages),
                sim: None,
            });
        }
        let sim = name.strip_prefix("sim").map(SimGpu::take);
        let device = match &sim {
            Some(sim) => keysieve::cuda::Device::open(sim.ordinal)?,
            None => gpu()?,
        };
        let stages = Box::new(CudaStages::new(&device)?);
        Ok(Device {
            backend: Backend::Cuda(device),
            stages,
            sim,
        })
    }

    /// Chooses the schedules of a simulated GPU; others have none to choose.
    pub fn set_schedule(&self, seed: u64) {
        if let Some(sim) = &self.sim {
            sim.driver().set_seed(sim.ordinal, seed);
        }
    }

    /// Lets a simulated GPU lose its context as a real one does, and with it the process's. Until this
    /// is called it answers a violation once and goes on.
    pub fn lose_contexts(&self) {
        if let Some(sim) = &self.sim {
            sim.driver().violations_stay(true);
        }
    }

    /// What a simulated GPU had to report since the last call, a line each.
    pub fn take_report(&self) -> String {
        self.sim
            .as_ref()
            .map_or(String::new(), |sim| sim.driver().take_report())
    }

    /// What kernels did on all simulated GPUs of this process.
    pub fn kernel_runs() -> Vec<KernelRuns> {
        driver::simulated().map_or(Vec::new(), SimDriver::kernels)
    }

    /// The stages, one at a time.
    pub fn stages(&self) -> &dyn Stages {
        &*self.stages
    }

    /// Whether this is the CUDA backend.
    pub fn is_cuda(&self) -> bool {
        matches!(self.backend, Backend::Cuda(_))
    }

    /// Checks a stage's answer against the oracle's, and the CUDA backend's against the CPU's too,
    /// bit for bit.
    pub fn check<T: SameBits>(
        &self,
        expected: &[T],
        stage: impl Fn(&dyn Stages) -> keysieve::Result<Vec<T>>,
    ) -> TestCaseResult {
        let got = stage(&*self.stages).map_err(fail)?;
        check_same("oracle", &got, expected)?;
        if self.is_cuda() {
            check_same("cpu backend", &got, &stage(&CpuStages).map_err(fail)?)?;
        }
        Ok(())
    }
}

/// The first GPU, opened once for all trials.
fn gpu() -> Result<keysieve::cuda::Device, Error> {
    static GPU: OnceLock<Result<keysieve::cuda::Device, Error>> = OnceLock::new();
    GPU.get_or_init(|| keysieve::cuda::Device::open(0)).clone()
}

/// Equality as the contract means it: bit patterns, except that one NaN is as good as another.
pub trait SameBits: Copy + Debug {
    /// Whether the two are the same.
    fn same(self, other: Self) -> bool;
}

impl SameBits for f32 {
    fn same(self, other: Self) -> bool {
        self.to_bits() == other.to_bits() || (self.is_nan() && other.is_nan())
    }
}

impl SameBits for i32 {
    fn same(self, other: Self) -> bool {
        self == other
    }
}

impl SameBits for u8 {
    fn same(self, other: Self) -> bool {
        self == other
    }
}

/// Fails with the first element in which `got` differs from what `whose` answer is.
pub fn check_same<T: SameBits>(whose: &str, got: &[T], expected: &[T]) -> TestCaseResult {
    if got.len() != expected.len() {
        let lens = (got.len(), expected.len());
        return Err(fail(format!("{} elements, {whose} has {}", lens.0, lens.1)));
    }
    match (0..got.len()).find(|&i| !got[i].same(expected[i])) {
        None => Ok(()),
        Some(i) => Err(fail(format!(
            "element {i} of {}: got {:?}, {whose} has {:?}",
            got.len(),
            got[i],
            expected[i]
        ))),
    }
}

/// Fails unless the first `len` of `list` ascend inside the context and the others are padding.
pub fn check_list(list: &[i32], len: i32, seq_len: usize) -> TestCaseResult {
    let (listed, padding) = list.split_at(len as usize);
    prop_assert!(
        listed.windows(2).all(|pair| pair[0] < pair[1]),
        "{:?}",
        listed
    );
    prop_assert!(listed.iter().all(|&p| 0 <= p && (p as usize) < seq_len));
    prop_assert!(padding.iter().all(|&p| p == -1));
    Ok(())
}

/// A case's failure, from anything printable.
pub fn fail(reason: impl ToString) -> TestCaseError {
    TestCaseError::fail(reason.to_string())
}

/// Whether a call fails with an error that names that argument.
#[track_caller]
pub fn names<T>(argument: &str, result: keysieve::Result<T>) -> TestCaseResult {
    let place = std::panic::Location::caller();
    match result {
        Err(Error::Invalid {
            argument: named, ..
        }) if named.contains(argument) => Ok(()),
        Err(other) => Err(fail(format!(
            "{place}: expected {argument} to be named, got: {other}"
        ))),
        Ok(_) => Err(fail(format!(
            "{place}: expected an error that names {argument}, got none"
        ))),
    }
}

/// The shape as the backends are told it.
pub fn step_shape(shape: &Shape) -> StepShape {
    StepShape {
        num_kv_heads: shape.num_kv_heads as u32,
        num_qo_heads: shape.num_qo_heads() as u32,
        num_queries: shape.num_queries as u32,
        head_dim: shape.head_dim as u32,
        num_subvectors: shape.num_subvectors as u32,
        bits: shape.bits,
        init_offset: shape.init_offset as u32,
        code_capacity: shape.code_capacity as u32,
        sink: shape.sink as u32,
        window: shape.window as u32,
        heavy: shape.heavy as u32,
        short_context_limit: shape.short_context_limit() as u32,
        list_stride: shape.list_stride as u32,
        weights_stride: shape.weights_stride as u32,
        causal: u32::from(shape.causal),
        aggregation: shape.aggregation as u32,
        scores_stride: shape.scores_stride as u32,
        ..StepShape::default()
    }
}

/// Lengths as the backends are told them.
pub fn lens_u32(seq_lens: &[usize]) -> Vec<u32> {
    seq_lens.iter().map(|&len| len as u32).collect()
}
