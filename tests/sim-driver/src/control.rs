//! The functions for tests: faults, counts, schedules, reports.
//!
//! They are C functions of the library, found in it by name like the driver's own. None of them counts
//! as a call.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::code::{Answer, Code};
use crate::{kernels, machine};

/// Kinds of what a program makes and must free, by the number that [`sim_driver_live`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// Times that a primary context was retained.
    Context = 0,
    /// Modules.
    Module = 1,
    /// Streams.
    Stream = 2,
    /// Events.
    Event = 3,
    /// Graphs.
    Graph = 4,
    /// Instantiated graphs.
    GraphExec = 5,
    /// Device allocations.
    Allocation = 6,
    /// Page-locked host allocations.
    HostAllocation = 7,
}

pub(crate) const KINDS: [Kind; 8] = [
    Kind::Context,
    Kind::Module,
    Kind::Stream,
    Kind::Event,
    Kind::Graph,
    Kind::GraphExec,
    Kind::Allocation,
    Kind::HostAllocation,
];

/// The n-th call from now answers a code.
#[derive(Debug, Clone, Copy)]
struct Fault {
    at: u64,
    code: c_int,
    stays: bool,
}

#[derive(Debug)]
struct Calls {
    num: u64,
    /// The calls since [`sim_driver_restart_calls`]; `None` until its first call.
    names: Option<Vec<&'static CStr>>,
    fault: Option<Fault>,
    num_faults: u64,
}

static CALLS: Mutex<Calls> = Mutex::new(Calls {
    num: 0,
    names: None,
    fault: None,
    num_faults: 0,
});

/// What died with its context, by kind.
static ORPHANS: [AtomicU64; KINDS.len()] = [const { AtomicU64::new(0) }; KINDS.len()];
static STAY: AtomicBool = AtomicBool::new(true);
static REPORTS: Mutex<Reports> = Mutex::new(Reports {
    text: String::new(),
    num: 0,
});

#[derive(Debug)]
struct Reports {
    text: String,
    num: u64,
}

fn calls() -> MutexGuard<'static, Calls> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reports() -> MutexGuard<'static, Reports> {
    REPORTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a call, and answers it unless it is to fail.
///
/// A call that fails has no effect; but what a freeing function was given counts as freed, since the
/// program can do no more.
pub(crate) fn answer(name: &'static CStr, call: impl FnOnce() -> Answer) -> c_int {
    let fault = {
        let mut calls = calls();
        calls.num += 1;
        if let Some(names) = &mut calls.names {
            names.push(name);
        }
        let now = calls.num;
        let fault = calls.fault.take_if(|fault| fault.at == now);
        calls.num_faults += u64::from(fault.is_some());
        fault
    };
    let Some(fault) = fault else {
        return call().map_or_else(|code| code.0, |()| 0);
    };
    if frees(name) {
        let _ = call();
    }
    if fault.stays {
        machine::lose_all(Code(fault.code));
    }
    fault.code
}

fn frees(name: &CStr) -> bool {
    let name = name.to_bytes();
    let verbs: [&[u8]; 4] = [b"Destroy", b"Free", b"Release", b"Unload"];
    verbs
        .iter()
        .any(|verb| name.windows(verb.len()).any(|part| part == *verb))
}

/// Counts what died with its context.
pub(crate) fn orphan(kind: Kind, num: u64) {
    ORPHANS[kind as usize].fetch_add(num, Ordering::Relaxed);
}

/// Keeps a violation's report, and prints it unless tests go on after it and ask for it.
pub(crate) fn report(text: &str) {
    if violations_stay() {
        eprintln!("simulated GPU: {text}");
    }
    let mut reports = reports();
    reports.num += 1;
    reports.text += text;
    reports.text.push('\n');
}

/// Whether a violation is repeated by every later call.
pub(crate) fn violations_stay() -> bool {
    STAY.load(Ordering::Relaxed)
}

/// Makes call number `n` from now (the next one is 1) answer `code` without effect, once; 0 for none.
/// With `stays` other than 0 every later call on a context answers it too.
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_fail_call(n: u64, code: c_int, stays: c_int) {
    let mut calls = calls();
    calls.fault = (n > 0).then_some(Fault {
        at: calls.num + n,
        code,
        stays: stays != 0,
    });
}

/// Faults that calls were answered with.
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_num_faults() -> u64 {
    calls().num_faults
}

/// Forgets the calls so far and writes down the names of those to come.
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_restart_calls() {
    let mut calls = calls();
    calls.names = Some(Vec::new());
    let num = std::mem::take(&mut calls.num);
    if let Some(fault) = &mut calls.fault {
        fault.at -= num;
    }
}

/// Calls of driver functions, of this process or since [`sim_driver_restart_calls`].
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_num_calls() -> u64 {
    calls().num
}

/// The function that call `index` since [`sim_driver_restart_calls`] was to, from 0; null for none.
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_call_name(index: u64) -> *const c_char {
    let calls = calls();
    let names = calls.names.as_deref().unwrap_or_default();
    let name = names.get(usize::try_from(index).unwrap_or(usize::MAX));
    name.map_or(std::ptr::null(), |name| name.as_ptr())
}

/// How many of that [`Kind`] are alive in this process; 0 for another number.
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_live(kind: c_int) -> u64 {
    let kind = KINDS.into_iter().find(|k| *k as c_int == kind);
    kind.map_or(0, machine::live)
}

/// How many of that [`Kind`] were not freed before their context was; 0 for another number.
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_orphans(kind: c_int) -> u64 {
    let counter = usize::try_from(kind).ok().and_then(|i| ORPHANS.get(i));
    counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
}

/// Chooses the schedules of the GPU `device`, from its next launch on.
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_set_seed(device: c_int, seed: u64) {
    machine::set_seed(device, seed);
}

/// Whether a violation loses its context, as on a GPU (the default). With 0 it is answered once, with
/// `CUDA_ERROR_UNKNOWN`, and the process goes on.
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_violations_stay(stay: c_int) {
    STAY.store(stay != 0, Ordering::Relaxed);
}

/// Violations so far.
#[unsafe(no_mangle)]
pub extern "C" fn sim_driver_num_violations() -> u64 {
    reports().num
}

/// Copies the reports since the last call, a line each, to `text` and forgets them; their length in
/// bytes. Where that exceeds `capacity` nothing is copied or forgotten.
///
/// # Safety
/// `text` has room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sim_driver_take_report(text: *mut u8, capacity: usize) -> usize {
    let mut reports = reports();
    let len = reports.text.len();
    if len <= capacity {
        // SAFETY: the caller made room.
        unsafe { text.copy_from_nonoverlapping(reports.text.as_ptr(), len) };
        reports.text.clear();
    }
    len
}

/// Copies what kernels did so far to `text`, a line for each kernel of each module that was loaded: the
/// module's target, the kernel's name, its launches, their lane-instructions, the kernel's instructions,
/// how many of those were never executed, and those's lines, separated by spaces. Gives the text's
/// length in bytes; where that exceeds `capacity` nothing is copied.
///
/// # Safety
/// `text` has room for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sim_driver_kernels(text: *mut u8, capacity: usize) -> usize {
    let summary = kernels::summary();
    if summary.len() <= capacity {
        // SAFETY: the caller made room.
        unsafe { text.copy_from_nonoverlapping(summary.as_ptr(), summary.len()) };
    }
    summary.len()
}
