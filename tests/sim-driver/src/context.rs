//! What a context holds: memory, modules, streams, events, graphs.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use ptx_sim::{Init, KernelInfo, Memory};

use crate::code::{Answer, Code, INVALID_HANDLE, INVALID_VALUE, OUT_OF_MEMORY};
use crate::control::Kind;
use crate::kernels::Image;
use crate::machine::{Chip, TOTAL_MEMORY};
use crate::work::{Op, Stream, Ticket};

/// A primary context.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) handle: usize,
    pub(crate) ordinal: c_int,
    state: Mutex<State>,
}

/// Everything in a context.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) chip: Chip,
    /// What every call answers since the context is lost.
    pub(crate) lost: Option<Code>,
    pub(crate) memory: Memory,
    /// Sizes of the allocations.
    pub(crate) allocations: BTreeMap<u64, usize>,
    pub(crate) host_allocations: BTreeMap<usize, Vec<u64>>,
    pub(crate) modules: BTreeMap<usize, Arc<Image>>,
    pub(crate) functions: BTreeMap<usize, Function>,
    /// The one with handle 0 is always there.
    pub(crate) streams: BTreeMap<usize, Stream>,
    pub(crate) events: BTreeMap<usize, Event>,
    pub(crate) captures: BTreeMap<usize, Capture>,
    pub(crate) graphs: BTreeMap<usize, Graph>,
    pub(crate) graph_execs: BTreeMap<usize, Arc<[Op]>>,
    pub(crate) schedule: Schedule,
}

/// A kernel of a loaded module.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) module: usize,
    pub(crate) image: Arc<Image>,
    pub(crate) name: Arc<str>,
    pub(crate) info: Arc<KernelInfo>,
    /// Dynamic shared memory that a block may have.
    pub(crate) max_dynamic_shared: i32,
    /// Clusters of more than eight blocks.
    pub(crate) large_clusters: bool,
}

/// An event.
#[derive(Debug, Default)]
pub(crate) struct Event {
    /// The last time it was recorded.
    pub(crate) ticket: Option<Arc<Ticket>>,
    /// The capture in which it was recorded.
    pub(crate) capture: Option<usize>,
}

/// Work that a stream collects instead of doing it.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) origin: usize,
    pub(crate) mode: u32,
    pub(crate) thread: ThreadId,
    pub(crate) ops: Vec<Op>,
    pub(crate) broken: bool,
}

/// A graph: its operations, in the order of their capture, and their nodes' handles.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) ops: Arc<[Op]>,
    pub(crate) nodes: Vec<usize>,
}

/// Schedules: a seed, and how many numbers have been drawn.
#[derive(Debug)]
pub(crate) struct Schedule {
    seed: u64,
    drawn: u64,
}

impl Schedule {
    /// The next number: a launch's seed, or a choice among streams. SplitMix64.
    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn += 1;
        let z = self
            .seed
            .wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A handle that no other object has, and that is no address of one.
pub(crate) fn new_handle() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    1 << 44 | NEXT.fetch_add(1, Ordering::Relaxed) << 4
}

/// Allocations that a context can have.
const MAX_ALLOCATIONS: usize = 4096;

impl Context {
    pub(crate) fn new(handle: usize, chip: Chip, ordinal: c_int, seed: u64) -> Self {
        let state = State {
            chip,
            lost: None,
            // No two GPUs share an address.
            memory: Memory::behind((ordinal as u64 + 1) * 2 * MAX_ALLOCATIONS as u64),
            allocations: BTreeMap::new(),
            host_allocations: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            streams: BTreeMap::from([(0, Stream::new(0, 0))]),
            events: BTreeMap::new(),
            captures: BTreeMap::new(),
            graphs: BTreeMap::new(),
            graph_execs: BTreeMap::new(),
            schedule: Schedule { seed, drawn: 0 },
        };
        Context {
            handle,
            ordinal,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(crate) fn live(&self, kind: Kind) -> u64 {
        let num = match kind {
            Kind::Context => 0,
            Kind::Module => self.modules.len(),
            Kind::Stream => self.streams.len() - 1,
            Kind::Event => self.events.len(),
            Kind::Graph => self.graphs.len(),
            Kind::GraphExec => self.graph_execs.len(),
            Kind::Allocation => self.allocations.len(),
            Kind::HostAllocation => self.host_allocations.len(),
        };
        num as u64
    }

    /// From now on every call answers `code`, and no work is done.
    pub(crate) fn lose(&mut self, code: Code) {
        self.lost.get_or_insert(code);
        self.give_up_work();
    }

    pub(crate) fn set_seed(&mut self, seed: u64) {
        self.schedule = Schedule { seed, drawn: 0 };
    }

    pub(crate) fn free_bytes(&self) -> usize {
        TOTAL_MEMORY - self.allocations.values().sum::<usize>()
    }

    pub(crate) fn allocate(&mut self, bytes: usize) -> Answer<u64> {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if bytes > self.free_bytes() || self.allocations.len() >= MAX_ALLOCATIONS {
            return Err(OUT_OF_MEMORY);
        }
        let address = self.memory.alloc(bytes, Init::Uninit);
        self.allocations.insert(address, bytes);
        Ok(address)
    }

    pub(crate) fn free(&mut self, address: u64) -> Answer {
        self.allocations.remove(&address).ok_or(INVALID_VALUE)?;
        self.memory.free(address).ok_or(INVALID_VALUE)?;
        Ok(())
    }

    pub(crate) fn function(&mut self, handle: usize) -> Answer<&mut Function> {
        self.functions.get_mut(&handle).ok_or(INVALID_HANDLE)
    }

    pub(crate) fn event(&mut self, handle: usize) -> Answer<&mut Event> {
        self.events.get_mut(&handle).ok_or(INVALID_HANDLE)
    }
}
