//! The trials of one test binary.
//!
//! [`Suite::property`] and [`Suite::on_each_device`] make one trial for each device
//! (`cpu::top_k_matches_oracle`, `sim90::top_k_matches_oracle`). Without a GPU the `cuda` trials are
//! reported as ignored, never as passed; `KEYSIEVE_REQUIRE_GPU=1` turns that into failures.
//!
//! Cases come from a fixed seed, `KEYSIEVE_TEST_SEED` (a number) chooses another; `PROPTEST_CASES`
//! says how many there are, a simulated GPU takes a few of them.

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};

use keysieve::Error;
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prelude::any;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestError};
use proptest::test_runner::{TestRng, TestRunner};

use super::driver::{self, is_simulated};
use super::{DEVICES, Device, gpu};
use crate::sim_driver::{DEVICES_VARIABLE, PATH_VARIABLE, SimDriver};

/// One in so many of a property's cases is run on a simulated GPU: these are as large as a GPU's.
/// `tests/differential` has many that are small.
const SIMULATED_SHARE: u32 = 32;

/// The trials of one test binary.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
    said_why: bool,
}

impl Suite {
    /// No trials yet.
    ///
    /// To be called first in `main`: it may set the environment, for which there must be no other
    /// threads.
    pub fn new() -> Self {
        // SAFETY: see above.
        unsafe { driver::choose() };
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
            let cases = (cases(), any::<u64>().no_shrink());
            let share = if device.sim.is_some() {
                SIMULATED_SHARE
            } else {
                1
            };
            let ran = run_cases(trial, &cases, share, |(case, schedule)| {
                device.set_schedule(schedule);
                body(device, case)
            });
            ran.map_err(|failed| with_report(device, failed))
        });
    }

    /// A test of every device: one trial for each.
    pub fn on_each_device(&mut self, name: &str, body: fn(&Device) -> TestCaseResult) {
        self.on_devices(&DEVICES, name, body);
    }

    /// A test of some devices: one trial for each.
    pub fn on_devices(
        &mut self,
        devices: &[&'static str],
        name: &str,
        body: fn(&Device) -> TestCaseResult,
    ) {
        for device_name in devices {
            self.on_device(device_name, name, body);
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
            let failed = |error: proptest::test_runner::TestCaseError| {
                with_report(device, error.to_string().into())
            };
            body(device).map_err(failed)
        });
    }

    /// A test that opens simulated GPUs itself.
    pub fn on_simulated(&mut self, name: &str, body: fn() -> TestCaseResult) {
        let trial = format!("sim::{name}");
        let trial_name = trial.clone();
        let run = move || {
            if !is_simulated() {
                return in_own_process(&trial_name);
            }
            body().map_err(|error| Failed::from(error.to_string()))
        };
        self.trials.push(Trial::test(trial, run));
    }

    /// A property that no device is needed for.
    pub fn property_alone<S: Strategy + 'static>(
        &mut self,
        name: &'static str,
        cases: fn() -> S,
        body: fn(S::Value) -> TestCaseResult,
    ) {
        self.trials.push(Trial::test(name, move || {
            run_cases(name, &cases(), 1, body)
        }));
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
        let trial_name = trial.clone();
        if device.starts_with("sim") && !is_simulated() {
            let run = move || in_own_process(&trial_name);
            self.trials.push(Trial::test(trial, run));
            return;
        }
        let required = std::env::var("KEYSIEVE_REQUIRE_GPU").is_ok_and(|value| value == "1");
        let missing = (device == "cuda").then(no_gpu).flatten();
        if let Some(reason) = &missing
            && !self.said_why
        {
            eprintln!(
                "cuda trials are {}: {reason}",
                if required { "failing" } else { "ignored" }
            );
            self.said_why = true;
        }
        let ignored = missing.is_some() && !required;
        let run = move || {
            if let Some(reason) = missing {
                return Err(reason.into());
            }
            let device = Device::open(device).map_err(|error| Failed::from(error.to_string()))?;
            body(&trial_name, &device)
        };
        self.trials
            .push(Trial::test(trial, run).with_ignored_flag(ignored));
    }
}

/// Why there is no GPU.
fn no_gpu() -> Option<String> {
    if is_simulated() {
        return Some("no GPU answers; this process has a simulated one".into());
    }
    gpu().err().as_ref().map(Error::to_string)
}

/// Runs one trial in a process whose driver is the simulated one.
fn in_own_process(trial: &str) -> Result<(), Failed> {
    let this = std::env::current_exe().map_err(|error| Failed::from(error.to_string()))?;
    let output = Command::new(this)
        .args(["--exact", trial, "--test-threads", "1"])
        .env(PATH_VARIABLE, SimDriver::path())
        .env(DEVICES_VARIABLE, SimDriver::enough_devices())
        .env_remove("KEYSIEVE_REQUIRE_GPU")
        .output()
        .map_err(|error| Failed::from(error.to_string()))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    eprint!("{stderr}");
    if output.status.success() {
        print!("{stdout}");
        return Ok(());
    }
    Err(format!("{stdout}{stderr}").into())
}

fn with_report(device: &Device, failed: Failed) -> Failed {
    let report = device.take_report();
    let message = failed.message().unwrap_or_default();
    format!("{message}\n{report}").into()
}

/// The seed of all cases: `KEYSIEVE_TEST_SEED`, or a fixed one.
pub fn seed() -> u64 {
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
    share: u32,
    body: impl Fn(S::Value) -> TestCaseResult,
) -> Result<(), Failed> {
    let seed = seed();
    let mut seed_bytes = [0; 32];
    seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes);
    // Regression files would be named after this file, whatever the trial.
    let all = Config::default();
    let config = Config {
        failure_persistence: None,
        cases: all.cases.div_ceil(share),
        ..all
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
