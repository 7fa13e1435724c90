//! Many small cases: the committed kernels on simulated GPUs, launched by the CUDA backend itself,
//! against the oracle and the CPU backend. Lists are equal or the run fails.
//!
//! | variable | meaning | without it |
//! | --- | --- | --- |
//! | `KEYSIEVE_CASES` | cases, each under one schedule | 20,000 |
//! | `KEYSIEVE_MINUTES` | stops after so many minutes, and says how many cases there were | no limit |
//! | `KEYSIEVE_TEST_SEED` | seed of cases and schedules | a fixed one |
//! | `KEYSIEVE_FIRST_CASE` | number of the first case | 0 |
//!
//! The pinned cases are always the same, whatever the seed.

mod cases;
mod counts;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cases::{Case, cases};
use counts::Counts;
use keysieve_tests::device::{Device, Suite, fail, seed};
use keysieve_tests::strategies::Random;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};

const NUM_CASES: u64 = 20_000;
const NUM_PINNED: u64 = 200;
const NUM_SCHEDULES: u64 = 64;
const PINNED_SEED: u64 = 0x7069_6e6e_6564;
/// Cases from which on every kernel must have run.
const ENOUGH: u64 = 2000;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.on_simulated("many_cases", many_cases);
    suite.on_simulated("pinned_cases_under_many_schedules", pinned_cases);
    suite.on_device("cuda", "many_cases", many_cases_on_the_gpu);
    suite.run()
}

/// What to run.
#[derive(Debug, Clone, Copy)]
struct Plan {
    seed: u64,
    first: u64,
    num_cases: u64,
    /// Schedules of each case, or `None` for one of its own.
    num_schedules: Option<u64>,
    limit: Option<Duration>,
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}: got {value}, expected a number")))
}

fn plan() -> Plan {
    let minutes = number("KEYSIEVE_MINUTES");
    Plan {
        seed: seed(),
        first: number("KEYSIEVE_FIRST_CASE").unwrap_or(0),
        num_cases: number("KEYSIEVE_CASES").unwrap_or(NUM_CASES),
        num_schedules: None,
        limit: minutes.map(|minutes| Duration::from_secs(60 * minutes)),
    }
}

fn many_cases() -> TestCaseResult {
    let plan = plan();
    let counts = run_on(&["sim90", "sim80"], &plan)?;
    print!("{}", counts.table("many_cases", plan.seed));
    let runs = Device::kernel_runs();
    print!("{}", counts::kernel_table(&runs));
    if counts.cases >= ENOUGH {
        let idle: Vec<String> = runs
            .iter()
            // Training's kernels are no step's: the test `training` runs and compares them. `contract` does
            // so with the one that brings a caller's arrays together.
            .filter(|kernel| kernel.launches == 0)
            .filter(|kernel| !kernel.name.starts_with("kmeans_"))
            .filter(|kernel| !["quantisation_error", "gather"].contains(&kernel.name.as_str()))
            .map(|kernel| format!("{} of sm_{}", kernel.name, kernel.target))
            .collect();
        prop_assert!(idle.is_empty(), "never launched: {}", idle.join(", "));
        let (hostile, all) = (counts.hostile, counts.cases);
        prop_assert!(
            3 * hostile >= all,
            "{} of {} cases are hostile",
            hostile,
            all
        );
    }
    Ok(())
}

fn pinned_cases() -> TestCaseResult {
    let plan = Plan {
        seed: PINNED_SEED,
        first: 0,
        num_cases: NUM_PINNED,
        num_schedules: Some(NUM_SCHEDULES),
        limit: None,
    };
    let counts = run_on(&["sim90", "sim80"], &plan)?;
    print!("{}", counts.table("pinned_cases", plan.seed));
    prop_assert_eq!(counts.runs, NUM_PINNED * NUM_SCHEDULES);
    Ok(())
}

/// The same cases on a real GPU.
fn many_cases_on_the_gpu(device: &Device) -> TestCaseResult {
    let plan = plan();
    let (next, counts) = (AtomicU64::new(0), Mutex::new(Counts::new()));
    let failed = AtomicBool::new(false);
    work(&[device], &["cuda"], &plan, &next, &failed, &counts)?;
    let counts = counts.into_inner().map_err(fail)?;
    print!("{}", counts.table("many_cases", plan.seed));
    Ok(())
}

/// Runs a plan on all cores, each with GPUs of its own.
fn run_on(names: &[&'static str], plan: &Plan) -> Result<Counts, TestCaseError> {
    let (next, counts) = (AtomicU64::new(0), Mutex::new(Counts::new()));
    let failed = AtomicBool::new(false);
    let num_workers = thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<TestCaseResult> = thread::scope(|scope| {
        let workers: Vec<_> = (0..num_workers)
            .map(|_| {
                scope.spawn(|| {
                    let devices = names.iter().map(|name| Device::open(name));
                    let devices: Vec<Device> = devices.collect::<Result<_, _>>().map_err(fail)?;
                    let devices: Vec<&Device> = devices.iter().collect();
                    work(&devices, names, plan, &next, &failed, &counts)
                })
            })
            .collect();
        let ends = workers.into_iter().map(|worker| worker.join());
        ends.map(|end| end.unwrap_or_else(|_| Err(fail("a worker panicked"))))
            .collect()
    });
    results.into_iter().collect::<TestCaseResult>()?;
    counts.into_inner().map_err(fail)
}

/// Takes cases until there are no more: case `i` runs on device `i % devices.len()`.
fn work(
    devices: &[&Device],
    names: &[&'static str],
    plan: &Plan,
    next: &AtomicU64,
    failed: &AtomicBool,
    counts: &Mutex<Counts>,
) -> TestCaseResult {
    let strategy = cases();
    let start = Instant::now();
    let time_is_up = || plan.limit.is_some_and(|limit| start.elapsed() >= limit);
    while !failed.load(Ordering::Relaxed) && !time_is_up() {
        let i = next.fetch_add(1, Ordering::Relaxed);
        if i >= plan.num_cases {
            break;
        }
        let number = plan.first + i;
        let at = (number % devices.len() as u64) as usize;
        let began = Instant::now();
        let ran = run_case(devices[at], &strategy, plan, number);
        let mut counts = counts.lock().map_err(fail)?;
        match ran {
            Ok((case, what, runs)) => counts.add(names[at], &case, &what, runs, began.elapsed()),
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                return Err(fail(format!(
                    "KEYSIEVE_TEST_SEED={} KEYSIEVE_FIRST_CASE={number} KEYSIEVE_CASES=1 repeats it on {}: {error}",
                    plan.seed, names[at]
                )));
            }
        }
    }
    Ok(())
}

/// One case under its schedules; shrunk if it fails.
fn run_case(
    device: &Device,
    strategy: &impl Strategy<Value = Case>,
    plan: &Plan,
    number: u64,
) -> Result<(Case, String, u64), TestCaseError> {
    let mut random = Random::new(plan.seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut seed_bytes = [0; 32];
    for bytes in seed_bytes.chunks_exact_mut(8) {
        bytes.copy_from_slice(&random.bits().to_le_bytes());
    }
    let own_schedule = random.bits();
    let schedules = match plan.num_schedules {
        None => own_schedule..own_schedule + 1,
        Some(num) => 0..num,
    };
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed_bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let tree = strategy.new_tree(&mut runner).map_err(fail)?;
    let case = tree.current();
    let what = Mutex::new(String::new());
    let result = runner.run_one(tree, |case| {
        for schedule in schedules.clone() {
            device.set_schedule(schedule);
            let ran = case.run(device);
            let report = device.take_report();
            let place = |error| fail(format!("{error}, schedule {schedule}\n{report}"));
            let ran = ran.map_err(place)?;
            *what.lock().map_err(fail)? = ran;
        }
        Ok(())
    });
    match result {
        Ok(_) => {
            let runs = schedules.end - schedules.start;
            Ok((case, what.into_inner().map_err(fail)?, runs))
        }
        Err(TestError::Abort(reason)) => Err(fail(reason)),
        Err(TestError::Fail(reason, case)) => Err(fail(format!("{reason}shrunk to:\n{case:#?}"))),
    }
}
