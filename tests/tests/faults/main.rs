//! Contract point 8 by force: every driver call of opening, training, steps, graphs, ragged batches and freeing fails
//! once with each of several codes, on simulated GPUs.
//!
//! After each fault: a typed error or the documented fallback, no panic, no leak, and a state that is
//! as before the call, or reported as lost at once and for ever. A process has one driver, and a lost
//! context is lost for the process; so trials run their faults in processes of their own. The run
//! prints how many there were.

mod fault;
mod scenario;

use std::collections::BTreeMap;
use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keysieve::cuda::Variant;
use keysieve_tests::sim_driver::{PATH_VARIABLE, SimDriver};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::fault::{Fault, Outcome, Setting};
use crate::scenario::{Op, SCENARIOS};

/// What a process of this binary is to do instead of running trials.
const JOB_VARIABLE: &str = "KEYSIEVE_FAULTS_JOB";

/// Codes after which the context can be used: invalid value, out of memory, unavailable device,
/// unsupported PTX version.
const USABLE: [u32; 4] = [1, 2, 46, 222];
/// Those of the variants and scenarios whose calls are much like the first's.
const USABLE_FEW: [u32; 2] = [1, 2];
/// Codes that take the context with them: an uncorrectable memory error (the device is lost), an
/// illegal address, a failed launch.
const FATAL: [u32; 3] = [214, 700, 719];
/// As [`USABLE_FEW`].
const FATAL_FEW: [u32; 1] = [700];

/// What a driver answers that never answers anything else any more.
const ALWAYS: [u32; 1] = [2];
/// A fatal code that the driver forgets: the library must not.
const FORGOTTEN: [u32; 1] = [719];

/// The GPU of all trials, the one of compute capability 9.0, which has every variant.
const GPU: u32 = 0;

fn main() -> ExitCode {
    let job = env::var(JOB_VARIABLE).ok();
    // SAFETY: there are no other threads yet.
    unsafe { env::set_var("KEYSIEVE_SIM_DEVICES", "90,80") };
    // SAFETY: as above.
    let driver = unsafe { SimDriver::install() };
    if let Some(job) = job {
        return match Job::parse(&job).run(&driver) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }

    let mut trials = vec![Trial::test("training_calls_no_driver", move || {
        training(&driver).map_err(Failed::from)
    })];
    let of_format = |is_wide| {
        scenario::set_wide(is_wide);
        let variants = scenario::variants(GPU).into_iter().enumerate();
        variants.map(move |(i, variant)| (is_wide, i, variant))
    };
    for (is_wide, variant, name) in of_format(false).chain(of_format(true)) {
        let Some(name) = name_of(name, is_wide) else {
            continue;
        };
        let mut add = |what: &str, scenario, stays, codes: &'static [u32]| {
            let job = Job {
                is_wide,
                variant,
                scenario,
                code: 0,
                stays,
                calls: Vec::new(),
            };
            let trial = format!("{name}::{what}");
            trials.push(Trial::test(trial.clone(), move || {
                job.faults(&trial, codes).map_err(Failed::from)
            }));
        };
        let (usable, fatal): (&[u32], &[u32]) = match variant {
            0 => (&USABLE, &FATAL),
            _ => (&USABLE_FEW, &FATAL_FEW),
        };
        add("usable_after_a_fault", 0, false, usable);
        add("a_driver_that_always_fails", 0, true, &ALWAYS);
        add("a_lost_context", 0, true, fatal);
        add("a_lost_context_that_answers_again", 0, false, &FORGOTTEN);
        // Each of the others with one variant: most of their calls are the same with all.
        let others: &[(usize, &str)] = match name {
            "staged" => {
                add("usable_after_a_fault_in_a_long_append", 1, false, &USABLE);
                &[(3, "ragged"), (4, "training"), (5, "ragged_on_stream")]
            }
            "tuples" => &[(2, "caller")],
            _ => &[],
        };
        for &(scenario, what) in others {
            let (usable, fatal): (&[u32], &[u32]) = match what {
                "training" => (&USABLE, &FATAL),
                _ => (&USABLE_FEW, &FATAL_FEW),
            };
            let trial = format!("{what}_usable_after_a_fault");
            add(&trial, scenario, false, usable);
            let trial = format!("{what}_a_lost_context");
            add(&trial, scenario, true, fatal);
        }
    }
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    print!("{}", table());
    conclusion.exit_code()
}

/// What trials call the variants. Of several numbers of blocks one that is more than one: all are
/// launched alike.
fn name_of(variant: Variant, is_wide: bool) -> Option<&'static str> {
    match variant {
        // Of the wide format what the other does not have.
        Variant::Survivors(plan) if is_wide && plan.num_blocks == 2 && plan.is_clustered() => {
            Some("clustered")
        }
        _ if is_wide => None,
        Variant::Staged => Some("staged"),
        Variant::Survivors(plan) if plan.num_blocks == 2 => Some("survivors"),
        Variant::Survivors(_) => None,
        Variant::Tuples(_) => Some("tuples"),
    }
}

/// Train is the CPU's alone.
fn training(driver: &SimDriver) -> Result<(), String> {
    let calls = driver.num_calls();
    drop(scenario::index(0));
    match driver.num_calls() - calls {
        0 => Ok(()),
        more => Err(format!("{more} driver calls")),
    }
}

/// Faults of one kind in one scenario; the work of one process.
#[derive(Debug, Clone)]
struct Job {
    /// Whether keys have many codes.
    is_wide: bool,
    /// An index of the variants.
    variant: usize,
    /// Its number in [`SCENARIOS`].
    scenario: usize,
    /// 0 to list the scenario's calls.
    code: u32,
    stays: bool,
    /// The numbers of the calls that fail, each in a run of its own.
    calls: Vec<u64>,
}

impl Job {
    fn show(&self) -> String {
        let Job {
            is_wide,
            variant,
            scenario,
            code,
            stays,
            calls,
        } = self;
        let calls: Vec<_> = calls.iter().map(u64::to_string).collect();
        let (is_wide, stays, calls) = (u8::from(*is_wide), u8::from(*stays), calls.join(" "));
        format!("{is_wide} {variant} {scenario} {code} {stays} {calls}")
    }

    fn parse(text: &str) -> Self {
        let words = text.split_whitespace();
        let numbers: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
        Job {
            is_wide: numbers[0] == 1,
            variant: numbers[1] as usize,
            scenario: numbers[2] as usize,
            code: numbers[3] as u32,
            stays: numbers[4] == 1,
            calls: numbers[5..].to_vec(),
        }
    }

    /// The work itself; a line for each call or fault.
    fn run(&self, driver: &SimDriver) -> Result<(), String> {
        let scenario = &SCENARIOS[self.scenario];
        scenario::set_wide(self.is_wide);
        // What a lost context would have found does not matter.
        if scenario.ops.contains(&Op::Train) && !keysieve_libcuda::is_fatal(self.code) {
            scenario::prepare(GPU);
        }
        let setting = Setting {
            driver,
            ordinal: GPU,
            variant: scenario::variants(GPU)[self.variant],
            ops: scenario.ops,
        };
        if self.code == 0 {
            for (op, call) in setting.calls()? {
                let is_target = (scenario.is_target)(op, &call);
                println!("{} {call}", u8::from(is_target));
            }
        }
        for &n in &self.calls {
            let (code, stays) = (self.code, self.stays);
            let fault = Fault { n, code, stays };
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| setting.run(fault)))
                .unwrap_or_else(|panic| Err(format!("panic: {}", message(&*panic))));
            let outcome = outcome.map_err(|why| format!("{fault:?}: {why}"))?;
            let Outcome {
                call,
                returned,
                slowest,
            } = outcome;
            println!("{call} {} {}", u8::from(returned), slowest.as_nanos());
        }
        Ok(())
    }

    /// Does the work in a process of its own; the lines it printed, by words.
    fn in_own_process(&self) -> Result<Vec<Vec<String>>, String> {
        let this = env::current_exe().map_err(|error| error.to_string())?;
        let output = Command::new(this)
            .env(JOB_VARIABLE, self.show())
            .env(PATH_VARIABLE, SimDriver::path())
            .output()
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text
            .lines()
            .map(|line| line.split(' ').map(str::to_owned).collect());
        if output.status.success() {
            return Ok(lines.collect());
        }
        let job = self.show();
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!(
            "{JOB_VARIABLE}='{job}', {}:\n{errors}",
            output.status
        ))
    }

    /// The numbers and functions of the calls that are to fail.
    fn targets(&self) -> Result<Vec<(u64, String)>, String> {
        let lines = Job {
            code: 0,
            ..self.clone()
        }
        .in_own_process()?;
        let calls = (1..).zip(lines);
        let targets = calls.filter(|(_, line)| line[0] == "1");
        // A process for each fault: for work on a caller's arrays and ragged batches, whose calls are much like
        // the first scenario's, one of four calls will do.
        let trains = SCENARIOS[self.scenario].ops.contains(&Op::Train);
        let stride = if self.stays && self.scenario > 0 && !trains {
            4
        } else {
            1
        };
        let targets = targets.step_by(stride);
        Ok(targets
            .map(|(n, mut line)| (n, line.swap_remove(1)))
            .collect())
    }

    /// Every call with every one of the codes; each of those that lose the context in a process of its
    /// own.
    fn faults(&self, trial: &str, codes: &[u32]) -> Result<(), String> {
        let targets = self.targets()?;
        let mut tally = Tally::default();
        for &code in codes {
            let in_a_process = if keysieve_libcuda::is_fatal(code) {
                1
            } else {
                targets.len()
            };
            for targets in targets.chunks(in_a_process) {
                let job = Job {
                    code,
                    calls: targets.iter().map(|(n, _)| *n).collect(),
                    ..self.clone()
                };
                tally.add(code, targets, &job.in_own_process()?)?;
            }
        }
        tally.close(trial);
        Ok(())
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Faults by function and code.
type Faults = BTreeMap<String, BTreeMap<u32, u64>>;

/// Those of all trials.
static FAULTS: Mutex<Faults> = Mutex::new(BTreeMap::new());

/// The faults of one trial.
#[derive(Debug, Default)]
struct Tally {
    faults: Faults,
    returned: u64,
    absorbed: u64,
    slowest: Duration,
}

impl Tally {
    /// Counts what a process printed, and checks that it did what it was told.
    fn add(
        &mut self,
        code: u32,
        targets: &[(u64, String)],
        lines: &[Vec<String>],
    ) -> Result<(), String> {
        if lines.len() != targets.len() {
            return Err(format!("{} faults of {}", lines.len(), targets.len()));
        }
        for ((n, call), line) in targets.iter().zip(lines) {
            if line[0] != *call {
                return Err(format!("call {n} was {call} and now is {}", line[0]));
            }
            let of_call = self.faults.entry(call.clone()).or_default();
            *of_call.entry(code).or_default() += 1;
            if line[1] == "1" {
                self.returned += 1;
            } else {
                self.absorbed += 1;
            }
            let nanos = line[2].parse().map_err(|_| "no time")?;
            self.slowest = self.slowest.max(Duration::from_nanos(nanos));
        }
        Ok(())
    }

    /// Prints the trial's numbers, and adds them to those of all.
    fn close(self, trial: &str) {
        let (returned, absorbed) = (self.returned, self.absorbed);
        eprintln!(
            "{trial}: {} faults, {returned} returned as errors, {absorbed} without consequence; \
             slowest later call {:?}",
            returned + absorbed,
            self.slowest
        );
        let mut all = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
        for (call, codes) in self.faults {
            let of_call = all.entry(call).or_default();
            for (code, num) in codes {
                *of_call.entry(code).or_default() += num;
            }
        }
    }
}

/// All faults: a line for each function, a column for each code.
fn table() -> String {
    let faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut codes = [&USABLE[..], &FATAL].concat();
    codes.sort_unstable();
    let cells = |of: &dyn Fn(u32) -> u64| -> String {
        codes
            .iter()
            .map(|&code| format!("{:>7}", of(code)))
            .collect()
    };
    let mut text = format!("{:<28}{}\n", "faults by call and code", cells(&u64::from));
    for (call, of_call) in &*faults {
        let num = |code: u32| of_call.get(&code).copied().unwrap_or(0);
        text += &format!("{call:<28}{}\n", cells(&num));
    }
    let num = |code: u32| faults.values().filter_map(|of| of.get(&code)).sum();
    text += &format!("{:<28}{}\n", "all", cells(&num));
    let all: u64 = faults.values().flat_map(BTreeMap::values).sum();
    text + &format!("{all} faults tried\n")
}
