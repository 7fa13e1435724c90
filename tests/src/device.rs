//! The devices a test body runs on, and the suite that stamps bodies into them.
//!
//! [`Suite::property`] and [`Suite::on_each_device`] make one trial for each device
//! (`cpu::top_k_matches_oracle`, `cuda::top_k_matches_oracle`). Without a GPU the `cuda` trials are
//! reported as ignored, never as passed; `KEYSIEVE_REQUIRE_GPU=1` turns that into failures.
//!
//! Cases come from a fixed seed, `KEYSIEVE_TEST_SEED` (a number) chooses another; `PROPTEST_CASES`
//! says how many there are.

use std::fmt::Debug;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use gpu_kernels::step::StepShape;
use keysieve::cpu::CpuStages;
use keysieve::cuda::CudaStages;
use keysieve::stages::Stages;
use keysieve::{Backend, Error};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prop_assert;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestCaseResult, TestError};
use proptest::test_runner::{TestRng, TestRunner};

use crate::oracle::Shape;

/// A backend under test.
pub struct Device {
    /// What a [`keysieve::Selector`] is made with.
    pub backend: Backend,
    stages: Box<dyn Stages>,
}

/// The devices' names, which trials begin with.
pub const DEVICES: [&str; 2] = ["cpu", "cuda"];

impl Device {
    /// Opens the device of that name.
    ///
    /// # Errors
    /// Why it does not answer.
    pub fn open(name: &str) -> Result<Self, Error> {
        if name == "cpu" {
            return Ok(Device {
                backend: Backend::Cpu,
                stages: Box::new(CpuStages),
            });
        }
        let device = gpu()?;
        let stages = Box::new(CudaStages::new(&device)?);
        Ok(Device {
            backend: Backend::Cuda(device),
            stages,
        })
    }

    /// The stages, one at a time.
    pub fn stages(&self) -> &dyn Stages {
        &*self.stages
    }

    /// Whether this is the GPU.
    pub fn is_cuda(&self) -> bool {
        matches!(self.backend, Backend::Cuda(_))
    }

    /// Checks a stage's answer against the oracle's, and on the GPU against the CPU backend's too,
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
    }
}

/// Lengths as the backends are told them.
pub fn lens_u32(seq_lens: &[usize]) -> Vec<u32> {
    seq_lens.iter().map(|&len| len as u32).collect()
}

/// The trials of one test binary.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
    said_why: bool,
}

impl Suite {
    /// No trials yet.
    pub fn new() -> Self {
        Suite::default()
    }

    /// A property of every device: one trial for each, all on the same cases.
    pub fn property<S: Strategy + 'static>(
        &mut self,
        name: &str,
        cases: fn() -> S,
        body: fn(&Device, S::Value) -> TestCaseResult,
    ) {
        for device_name in DEVICES {
            self.device_property(device_name, name, cases, body);
        }
    }

    /// A property of the one device.
    pub fn device_property<S: Strategy + 'static>(
        &mut self,
        device: &'static str,
        name: &str,
        cases: fn() -> S,
        body: fn(&Device, S::Value) -> TestCaseResult,
    ) {
        self.device_trial(device, name, move |trial, device| {
            run_cases(trial, &cases(), |case| body(device, case))
        });
    }

    /// A test of every device: one trial for each.
    pub fn on_each_device(&mut self, name: &str, body: fn(&Device) -> TestCaseResult) {
        for device_name in DEVICES {
            self.device_trial(device_name, name, move |_, device| {
                body(device).map_err(|error| error.to_string().into())
            });
        }
    }

    /// A test of the one device.
    pub fn on_device(
        &mut self,
        device: &'static str,
        name: &str,
        body: fn(&Device) -> TestCaseResult,
    ) {
        self.device_trial(device, name, move |_, device| {
            body(device).map_err(|error| error.to_string().into())
        });
    }

    /// A property that no device is needed for.
    pub fn property_alone<S: Strategy + 'static>(
        &mut self,
        name: &'static str,
        cases: fn() -> S,
        body: fn(S::Value) -> TestCaseResult,
    ) {
        self.trials
            .push(Trial::test(name, move || run_cases(name, &cases(), body)));
    }

    /// A test that no device is needed for.
    pub fn alone(&mut self, name: &str, body: fn() -> TestCaseResult) {
        let body = move || body().map_err(|error| Failed::from(error.to_string()));
        self.trials.push(Trial::test(name, body));
    }

    /// Runs the trials that the command line asks for.
    pub fn run(self) -> ExitCode {
        libtest_mimic::run(&Arguments::from_args(), self.trials).exit_code()
    }

    fn device_trial(
        &mut self,
        device: &'static str,
        name: &str,
        body: impl Fn(&str, &Device) -> Result<(), Failed> + Send + 'static,
    ) {
        let trial = format!("{device}::{name}");
        let required = std::env::var("KEYSIEVE_REQUIRE_GPU").is_ok_and(|value| value == "1");
        let missing = (device == "cuda").then(|| gpu().err()).flatten();
        if let Some(reason) = &missing
            && !self.said_why
        {
            eprintln!(
                "cuda trials are {}: {reason}",
                if required { "failing" } else { "ignored" }
            );
            self.said_why = true;
        }
        let trial_name = trial.clone();
        let run = move || {
            let device = Device::open(device).map_err(|error| Failed::from(error.to_string()))?;
            body(&trial_name, &device)
        };
        self.trials
            .push(Trial::test(trial, run).with_ignored_flag(missing.is_some() && !required));
    }
}

/// The seed of all cases.
fn seed() -> u64 {
    let seed = std::env::var("KEYSIEVE_TEST_SEED").ok();
    seed.map_or(0x6b65_7973_6965_7665, |seed| {
        seed.parse()
            .expect("KEYSIEVE_TEST_SEED is a number below 2^64")
    })
}

/// Runs a property over its cases and prints how many there were; a failing case is shrunk and
/// printed with the seed.
fn run_cases<S: Strategy>(
    trial: &str,
    cases: &S,
    body: impl Fn(S::Value) -> TestCaseResult,
) -> Result<(), Failed> {
    let seed = seed();
    let mut seed_bytes = [0; 32];
    seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes);
    // Regression files would be named after this file, whatever the trial.
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let num_run = AtomicU32::new(0);
    let result = runner.run(cases, |case| {
        num_run.fetch_add(1, Ordering::Relaxed);
        body(case)
    });
    match result {
        Ok(()) => {
            eprintln!("{trial}: {} cases, seed {seed}", num_run.into_inner());
            Ok(())
        }
        Err(TestError::Fail(reason, case)) => Err(format!(
            "{reason}\nKEYSIEVE_TEST_SEED={seed} finds it, shrunk to:\n{case:#?}"
        )
        .into()),
        Err(TestError::Abort(reason)) => Err(format!("gave up: {reason}").into()),
    }
}
