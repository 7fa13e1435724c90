//! One fault: what the library makes of it, and of everything after it.

use std::time::{Duration, Instant};

use keysieve::cuda::Variant;
use keysieve::{Backend, Error};
use keysieve_tests::sim_driver::{KINDS, SimDriver};

use crate::scenario::{Op, World};

/// How often each call on a lost context is made; the fastest counts, so that a machine under load
/// fails nothing.
const ROUNDS: usize = 3;
/// The longest that a call on a lost context may take.
const AT_ONCE: Duration = Duration::from_millis(5);

/// A call that fails.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// Its number, from 1.
    pub(crate) n: u64,
    /// What it answers.
    pub(crate) code: u32,
    /// Whether every later call on the context answers that too.
    pub(crate) stays: bool,
}

/// What came of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The function that failed.
    pub(crate) call: String,
    /// Whether an error came back; else nothing was amiss.
    pub(crate) returned: bool,
    /// The slowest of the calls on the context that was lost.
    pub(crate) slowest: Duration,
}

/// A scenario on one GPU in one variant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) driver: &'a SimDriver,
    pub(crate) ordinal: u32,
    pub(crate) variant: Variant,
    pub(crate) ops: &'a [Op],
}

impl Setting<'_> {
    /// Runs the scenario without a fault: the calls of each op.
    pub(crate) fn calls(&self) -> Result<Vec<(Op, String)>, String> {
        self.driver.restart_calls();
        let mut world = World::new(self.ordinal, self.variant, self.ops);
        let mut calls = Vec::new();
        for &op in self.ops {
            let answer = world.run(op).map_err(|why| format!("{op:?}: {why}"))?;
            answer.map_err(|error| format!("{op:?} without a fault: {error}"))?;
            let names = self.driver.call_names();
            calls.extend(names.into_iter().skip(calls.len()).map(|name| (op, name)));
        }
        self.check_books()?;
        Ok(calls)
    }

    /// Runs the scenario with a fault.
    pub(crate) fn run(&self, fault: Fault) -> Result<Outcome, String> {
        let is_fatal = keysieve_libcuda::is_fatal(fault.code);
        let faults_before = self.driver.num_faults();
        self.driver.restart_calls();
        self.driver.fail_call(fault.n, fault.code, fault.stays);
        let mut world = World::new(self.ordinal, self.variant, self.ops);
        let mut outcome = None;
        for &op in self.ops {
            let here = |why: String| format!("{op:?}: {why}");
            let answer = world.run(op).map_err(here)?;
            if self.driver.num_faults() == faults_before || outcome.is_some() {
                answer.map_err(|error| here(format!("fails, but not by the fault: {error}")))?;
                continue;
            }
            let call = self.call(fault.n);
            match &answer {
                Ok(()) => check_absorbed(&call),
                // What did not matter in the failed call does in the next, if that fails too.
                Err(error) if fault.stays && check_absorbed(&call).is_ok() => {
                    check_error(op, error, None, fault.code)
                }
                Err(error) => check_error(op, error, Some(&call), fault.code),
            }
            .map_err(here)?;
            world.check_unchanged().map_err(here)?;
            let slowest = if is_fatal {
                self.check_lost(&mut world, &call, fault.code)
            } else if fault.stays {
                check_all_fail(&mut world, fault.code)
            } else {
                Ok(Duration::ZERO)
            };
            let returned = answer.is_err();
            let slowest = slowest.map_err(here)?;
            outcome = Some(Outcome {
                call,
                returned,
                slowest,
            });
            if is_fatal || fault.stays {
                if op != Op::Drop {
                    world
                        .run(Op::Drop)
                        .map_err(here)?
                        .map_err(|e| here(e.to_string()))?;
                }
                break;
            }
            if returned {
                // The same call again, after a select or at once: both must find what was before.
                if fault.code.is_multiple_of(2) {
                    world.check_usable().map_err(here)?;
                }
                let again = world.run(op).map_err(|why| here(format!("again: {why}")))?;
                again.map_err(|error| here(format!("once more: {error}")))?;
                // What comes after has nothing more to tell, but whether codes and lists are right.
                world.check_usable().map_err(here)?;
                for last in world.last() {
                    let answer = world.run(last).map_err(here)?;
                    answer.map_err(|error| here(format!("then {last:?}: {error}")))?;
                }
                break;
            }
        }
        let outcome = outcome.ok_or("no such call")?;
        self.check_books()?;
        if is_fatal {
            check_lost_for_ever(self.ordinal, &outcome.call, fault.code)?;
        } else if fault.stays {
            self.check_new_context()?;
        }
        Ok(outcome)
    }

    fn call(&self, n: u64) -> String {
        let mut names = self.driver.call_names();
        names.swap_remove(n as usize - 1)
    }

    /// Whether everything was freed, and by the library.
    fn check_books(&self) -> Result<(), String> {
        for kind in KINDS {
            let (live, orphans) = (self.driver.live(kind), self.driver.orphans(kind));
            if (live, orphans) != (0, 0) {
                return Err(format!(
                    "leak: {live} of {kind:?} alive, {orphans} not freed"
                ));
            }
        }
        Ok(())
    }

    /// Whether every call says that the context is lost, at once and without asking the driver.
    fn check_lost(&self, world: &mut World, call: &str, code: u32) -> Result<Duration, String> {
        let calls_before = self.driver.num_calls();
        let mut slowest = Duration::ZERO;
        for op in world.possible() {
            let mut fastest = Duration::MAX;
            for _ in 0..ROUNDS {
                let start = Instant::now();
                let error = world.error_of(op)?;
                fastest = fastest.min(start.elapsed());
                check_is_lost(&error, call, code).map_err(|why| format!("later {op:?}: {why}"))?;
            }
            slowest = slowest.max(fastest);
        }
        world.check_unchanged()?;
        let asked = self.driver.num_calls() - calls_before;
        if asked > 0 {
            return Err(format!("{asked} driver calls on a lost context"));
        }
        if slowest > AT_ONCE {
            return Err(format!("a call on a lost context takes {slowest:?}"));
        }
        Ok(slowest)
    }

    /// Whether the next one who opens the GPU can use it.
    fn check_new_context(&self) -> Result<(), String> {
        let mut world = World::new(self.ordinal, self.variant, self.ops);
        for op in [Op::Open, Op::New, Op::Select, Op::Drop] {
            let answer = world.run(op)?;
            answer.map_err(|error| format!("{op:?} on a new context: {error}"))?;
        }
        self.check_books()
    }
}

/// An op succeeds all the same if the failed call frees something, or makes a context current that is
/// made current once more.
fn check_absorbed(call: &str) -> Result<(), String> {
    let frees = ["Destroy", "Free", "Release", "Unload"];
    if call == "cuCtxSetCurrent" || frees.iter().any(|verb| call.contains(verb)) {
        return Ok(());
    }
    Err(format!("{call} failed, and nobody says so"))
}

/// Whether the error is the one that the documentation names, with the driver's code, and its call
/// where that is known.
fn check_error(op: Op, error: &Error, call: Option<&str>, code: u32) -> Result<(), String> {
    let is_call = |named: &str| call.is_none_or(|call| named.contains(call));
    let is_fatal = keysieve_libcuda::is_fatal(code);
    let is_right = match error {
        Error::NoDevice { reason } => {
            !is_fatal && op == Op::Open && is_call(reason) && reason.contains(&format!("({code})"))
        }
        Error::Driver {
            call, code: got, ..
        } => !is_fatal && op != Op::Open && is_call(call) && *got == code,
        Error::DeviceLost {
            call, code: got, ..
        } => is_fatal && is_call(call) && *got == code,
        _ => false,
    };
    if is_right {
        return Ok(());
    }
    Err(format!(
        "{call:?} answered {code}, and the error is: {error:?}"
    ))
}

fn check_is_lost(error: &Error, call: &str, code: u32) -> Result<(), String> {
    match error {
        Error::DeviceLost {
            call: named,
            code: got,
            ..
        } if named == call && *got == code && keysieve_libcuda::is_fatal(code) => Ok(()),
        _ => Err(format!(
            "{call} answered {code}, and the error is: {error:?}"
        )),
    }
}

/// Whether every call on a context that answers nothing else gives a typed error, and changes nothing.
fn check_all_fail(world: &mut World, code: u32) -> Result<Duration, String> {
    let mut slowest = Duration::ZERO;
    // All but opening: a fault before there is a context leaves none that answers so.
    for op in world.possible().into_iter().skip(1) {
        let start = Instant::now();
        let error = world.error_of(op)?;
        slowest = slowest.max(start.elapsed());
        match error {
            Error::Driver { code: got, .. } if got == code => {}
            // Nothing uploaded, or nothing listed, since the calls for that failed.
            Error::Invalid { argument, .. } if argument == "step" => {}
            other => return Err(format!("later {op:?}: {other:?}")),
        }
        world.check_unchanged()?;
    }
    Ok(slowest)
}

/// Whether also those who come later are told, or fall back to the CPU.
fn check_lost_for_ever(ordinal: u32, call: &str, code: u32) -> Result<(), String> {
    match keysieve::cuda::Device::open(ordinal) {
        Ok(_) => return Err("a GPU is opened after its context was lost".into()),
        Err(error) => check_is_lost(&error, call, code)?,
    }
    let auto = Backend::auto();
    match (auto.backend, auto.why_not_cuda) {
        (Backend::Cpu, Some(error)) => check_is_lost(&error, call, code),
        other => Err(format!("after a lost context auto gives {other:?}")),
    }
}
