//! The GPUs of the machine, their primary contexts, and each thread's current one.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::code::{
    Answer, CONTEXT_IS_DESTROYED, Code, INVALID_CONTEXT, INVALID_DEVICE, NOT_INITIALIZED,
};
use crate::context::{Context, State};
use crate::control::{self, KINDS, Kind};

/// What chips of a compute capability have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chip {
    /// 10 x major + minor.
    pub(crate) compute_capability: u32,
    pub(crate) num_multiprocessors: i32,
    /// Shared memory of a multiprocessor, and the most that a block can ask for.
    pub(crate) shared_per_multiprocessor: i32,
    pub(crate) shared_per_block: i32,
    pub(crate) l2_bytes: i32,
    pub(crate) bus_bits: i32,
    /// Multiprocessors among which a cluster can lie; 0 where there are no clusters.
    pub(crate) cluster_neighbours: i32,
}

/// As the CUDA C++ Programming Guide tabulates compute capability 9.0, the rest as an H100 SXM.
const HOPPER: Chip = Chip {
    compute_capability: 90,
    num_multiprocessors: 132,
    shared_per_multiprocessor: 228 << 10,
    shared_per_block: 227 << 10,
    l2_bytes: 50 << 20,
    bus_bits: 5120,
    cluster_neighbours: 16,
};

/// As above for 8.0 and an A100.
const AMPERE: Chip = Chip {
    compute_capability: 80,
    num_multiprocessors: 108,
    shared_per_multiprocessor: 164 << 10,
    shared_per_block: 163 << 10,
    l2_bytes: 40 << 20,
    bus_bits: 5120,
    cluster_neighbours: 0,
};

/// Shared memory of a block that the system takes.
pub(crate) const RESERVED_SHARED: i32 = 1024;
/// Device memory of every chip. Far less than real ones have: it is the host's.
pub(crate) const TOTAL_MEMORY: usize = 4 << 30;

/// One GPU.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) chip: Chip,
    pub(crate) ordinal: c_int,
    primary: Mutex<Option<Primary>>,
    seed: AtomicU64,
}

#[derive(Debug)]
struct Primary {
    context: Arc<Context>,
    retained: u64,
}

thread_local! {
    /// The handles of current contexts, the current one last; 0 for none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

static INITIALISED: AtomicBool = AtomicBool::new(false);

fn gpus() -> &'static [Gpu] {
    static GPUS: OnceLock<Vec<Gpu>> = OnceLock::new();
    GPUS.get_or_init(|| {
        let list = std::env::var("KEYSIEVE_SIM_DEVICES").unwrap_or_else(|_| "90,80".into());
        let names = list.split(',').map(str::trim).filter(|s| !s.is_empty());
        let chips = names.map(|name| match name {
            "90" => HOPPER,
            "80" => AMPERE,
            other => panic!("KEYSIEVE_SIM_DEVICES: got {other}, expected 80 or 90"),
        });
        chips
            .enumerate()
            .map(|(ordinal, chip)| Gpu {
                chip,
                ordinal: ordinal as c_int,
                primary: Mutex::default(),
                seed: AtomicU64::new(0),
            })
            .collect()
    })
}

impl Gpu {
    fn primary(&self) -> MutexGuard<'_, Option<Primary>> {
        self.primary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The primary context's handle, made if there is none.
    pub(crate) fn retain(&self) -> Answer<usize> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let mut primary = self.primary();
        let primary = primary.get_or_insert_with(|| {
            // No address of any other object.
            let handle = 1 << 40 | NEXT.fetch_add(1, Ordering::Relaxed) << 4;
            let seed = self.seed.load(Ordering::Relaxed);
            Primary {
                context: Arc::new(Context::new(handle, self.chip, self.ordinal, seed)),
                retained: 0,
            }
        });
        if let Some(code) = primary.context.state().lost {
            return Err(code);
        }
        primary.retained += 1;
        Ok(primary.context.handle)
    }

    pub(crate) fn release(&self) -> Answer {
        let mut slot = self.primary();
        let primary = slot.as_mut().ok_or(INVALID_CONTEXT)?;
        primary.retained -= 1;
        let lost = primary.context.state().lost;
        if primary.retained == 0 {
            tear_down(slot.take());
        }
        lost.map_or(Ok(()), Err)
    }

    pub(crate) fn reset(&self) -> Answer {
        tear_down(self.primary().take());
        Ok(())
    }

    pub(crate) fn is_active(&self) -> bool {
        self.primary().is_some()
    }
}

/// Everything that a context holds goes with it.
fn tear_down(primary: Option<Primary>) {
    let Some(primary) = primary else { return };
    let state = primary.context.state();
    for kind in KINDS {
        control::orphan(kind, state.live(kind));
    }
}

/// What `cuInit` does.
pub(crate) fn initialise() {
    INITIALISED.store(true, Ordering::Relaxed);
}

/// How many GPUs there are.
pub(crate) fn num_gpus() -> Answer<usize> {
    if !INITIALISED.load(Ordering::Relaxed) {
        return Err(NOT_INITIALIZED);
    }
    Ok(gpus().len())
}

/// The GPU of that number.
pub(crate) fn gpu(ordinal: c_int) -> Answer<&'static Gpu> {
    num_gpus()?;
    let index = usize::try_from(ordinal).map_err(|_| INVALID_DEVICE)?;
    gpus().get(index).ok_or(INVALID_DEVICE)
}

fn contexts() -> impl Iterator<Item = Arc<Context>> {
    gpus()
        .iter()
        .filter_map(|gpu| Some(gpu.primary().as_ref()?.context.clone()))
}

/// The context with that handle.
pub(crate) fn context(handle: usize) -> Answer<Arc<Context>> {
    let found = contexts().find(|context| context.handle == handle);
    found.ok_or(CONTEXT_IS_DESTROYED)
}

/// The handle of this thread's current context; 0 for none.
pub(crate) fn current_handle() -> usize {
    CURRENT.get()
}

/// Makes a context current on this thread, or with 0 none.
pub(crate) fn set_current(handle: usize) -> Answer {
    if handle != 0 {
        context(handle)?;
    }
    CURRENT.set(handle);
    Ok(())
}

/// This thread's current context.
pub(crate) fn current() -> Answer<Arc<Context>> {
    match CURRENT.get() {
        0 => Err(INVALID_CONTEXT),
        handle => context(handle),
    }
}

/// Runs `call` on the current context, unless that is lost.
pub(crate) fn on_current<T>(call: impl FnOnce(&mut State) -> Answer<T>) -> Answer<T> {
    let context = current()?;
    let mut state = context.state();
    match state.lost {
        Some(code) => Err(code),
        None => call(&mut state),
    }
}

/// Runs a call that frees something on the current context, also on a lost one, which answers so.
pub(crate) fn freeing(call: impl FnOnce(&mut State) -> Answer) -> Answer {
    let context = current()?;
    let mut state = context.state();
    let answer = call(&mut state);
    state.lost.map_or(answer, Err)
}

/// Loses every context that there is.
pub(crate) fn lose_all(code: Code) {
    for context in contexts() {
        context.state().lose(code);
    }
}

pub(crate) fn live(kind: Kind) -> u64 {
    if kind == Kind::Context {
        let primaries = gpus().iter().map(Gpu::primary);
        return primaries
            .map(|p| p.as_ref().map_or(0, |p| p.retained))
            .sum();
    }
    contexts().map(|context| context.state().live(kind)).sum()
}

pub(crate) fn set_seed(device: c_int, seed: u64) {
    let Some(gpu) = usize::try_from(device).ok().and_then(|i| gpus().get(i)) else {
        return;
    };
    gpu.seed.store(seed, Ordering::Relaxed);
    if let Some(primary) = gpu.primary().as_ref() {
        primary.context.state().set_seed(seed);
    }
}
