//! Streams and what waits in them.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ptx_sim::{Arg, Launch, LaunchError, launch};

use crate::code::{
    Answer, Code, ILLEGAL_ADDRESS, INVALID_HANDLE, INVALID_VALUE, LAUNCH_FAILED,
    STREAM_CAPTURE_INVALIDATED, STREAM_CAPTURE_UNSUPPORTED, UNKNOWN, of_violation,
};
use crate::context::{Function, State};
use crate::control;

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`.
const RELAXED: u32 = 2;

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    queue: VecDeque<Op>,
    pub(crate) capture: Option<usize>,
}

/// One record of an event: when it was done.
pub(crate) type Ticket = OnceLock<Instant>;

/// A place in the program's memory, which outlives the operation as the driver's rules have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostPointer(pub(crate) *mut c_void);

// SAFETY: whoever enqueued the operation keeps the memory alive and untouched until it is done.
unsafe impl Send for HostPointer {}
// SAFETY: as above.
unsafe impl Sync for HostPointer {}

/// An operation of a stream or a graph.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Kernel(Arc<KernelOp>),
    /// Data that was taken when the operation was enqueued.
    Upload {
        to: u64,
        data: Arc<[u8]>,
    },
    /// Data that is read when the operation is done.
    UploadFrom {
        to: u64,
        from: HostPointer,
        len: usize,
    },
    Download {
        to: HostPointer,
        from: u64,
        len: usize,
    },
    Copy {
        to: u64,
        from: u64,
        len: usize,
    },
    Fill {
        to: u64,
        data: Arc<[u8]>,
    },
    Free(u64),
    Record(Arc<Ticket>),
    Wait(Arc<Ticket>),
}

/// A launch.
#[derive(Debug)]
pub(crate) struct KernelOp {
    pub(crate) function: Function,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) params: Vec<Vec<u8>>,
}

impl KernelOp {
    /// Calls `f` with the launch as the simulator is told it.
    pub(crate) fn with_launch<T>(&self, seed: u64, f: impl FnOnce(&Launch<'_>) -> T) -> T {
        let args: Vec<Arg<'_>> = self.params.iter().map(|p| Arg::Bytes(p)).collect();
        f(&Launch {
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            shared_bytes: self.shared_bytes,
            args: &args,
            seed,
            ..Launch::default()
        })
    }
}

/// What to wait for.
#[derive(Debug)]
pub(crate) enum Until {
    Stream(usize),
    Ticket(Arc<Ticket>),
    /// All streams that the default stream waits for.
    Blocking,
    All,
}

impl Stream {
    pub(crate) fn new(flags: u32, priority: i32) -> Self {
        Stream {
            flags,
            priority,
            queue: VecDeque::new(),
            capture: None,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }

    fn can_go_on(&self) -> bool {
        match self.queue.front() {
            None => false,
            Some(Op::Wait(ticket)) => ticket.get().is_some(),
            Some(_) => true,
        }
    }
}

impl State {
    /// A stream by its handle; those of the legacy and the per-thread default stream are 1 and 2.
    pub(crate) fn stream(&mut self, handle: usize) -> Answer<&mut Stream> {
        let handle = if handle <= 2 { 0 } else { handle };
        self.streams.get_mut(&handle).ok_or(INVALID_HANDLE)
    }

    /// Puts an operation behind a stream's others, or into the graph that it captures.
    pub(crate) fn enqueue(&mut self, handle: usize, op: Op) -> Answer {
        if let Some(capture) = self.stream(handle)?.capture {
            let capture = self.captures.get_mut(&capture).ok_or(INVALID_HANDLE)?;
            if capture.broken {
                return Err(STREAM_CAPTURE_INVALIDATED);
            }
            capture.ops.push(op);
            return Ok(());
        }
        // The default stream and the blocking ones wait for each other.
        if handle <= 2 {
            self.run(&Until::Blocking)?;
        } else if self.stream(handle)?.is_blocking() {
            self.run(&Until::Stream(0))?;
        }
        self.stream(handle)?.queue.push_back(op);
        Ok(())
    }

    /// Fails if this thread captures on some stream in a mode that forbids what may wait or allocate;
    /// that capture is broken then.
    pub(crate) fn not_while_capturing(&mut self) -> Answer {
        let this = std::thread::current().id();
        let captures = self.captures.values_mut();
        let mut broken = captures
            .filter(|c| c.mode != RELAXED && (c.thread == this || c.mode == 0))
            .map(|capture| capture.broken = true);
        match broken.next() {
            Some(()) => Err(STREAM_CAPTURE_UNSUPPORTED),
            None => Ok(()),
        }
    }

    /// Does what waits in streams, in an order that the seed draws, until `until`.
    pub(crate) fn run(&mut self, until: &Until) -> Answer {
        while !self.reached(until)? {
            let able: Vec<usize> = self
                .streams
                .iter()
                .filter(|(_, stream)| stream.can_go_on())
                .map(|(&handle, _)| handle)
                .collect();
            let handle = match able.len() {
                // Every record stands before its waits; so only a record that was given up is missing.
                0 => return Err(UNKNOWN),
                1 => able[0],
                n => able[(self.schedule.draw() % n as u64) as usize],
            };
            if let Some(op) = self.stream(handle)?.queue.pop_front() {
                self.execute(op)?;
            }
        }
        Ok(())
    }

    fn reached(&mut self, until: &Until) -> Answer<bool> {
        Ok(match until {
            Until::Stream(handle) => self.stream(*handle)?.is_idle(),
            Until::Ticket(ticket) => ticket.get().is_some(),
            Until::Blocking => self
                .streams
                .values()
                .all(|stream| stream.is_idle() || !stream.is_blocking()),
            Until::All => self.streams.values().all(Stream::is_idle),
        })
    }

    fn execute(&mut self, op: Op) -> Answer {
        match op {
            Op::Kernel(op) => self.launch(&op),
            Op::Upload { to, data } | Op::Fill { to, data } => {
                let done = self.memory.write(to, &data);
                done.or_else(|error| self.violation(ILLEGAL_ADDRESS, &format!("copy: {error}")))
            }
            Op::UploadFrom { to, from, len } => {
                // SAFETY: see `HostPointer`.
                let data = unsafe { std::slice::from_raw_parts(from.0.cast::<u8>(), len) };
                let done = self.memory.write(to, data);
                done.or_else(|error| self.violation(ILLEGAL_ADDRESS, &format!("copy: {error}")))
            }
            Op::Download { to, from, len } => match self.memory.read(from, len) {
                Ok(data) => {
                    // SAFETY: see `HostPointer`; `len` bytes were read.
                    unsafe {
                        to.0.cast::<u8>()
                            .copy_from_nonoverlapping(data.as_ptr(), len)
                    };
                    Ok(())
                }
                Err(error) => {
                    let code = of_violation(error.kind);
                    self.violation(code, &format!("copy to the host: {error}"))
                }
            },
            Op::Copy { to, from, len } => {
                let done = self.memory.copy(to, from, len);
                done.or_else(|error| self.violation(ILLEGAL_ADDRESS, &format!("copy: {error}")))
            }
            Op::Free(address) => self.free(address),
            Op::Record(ticket) => {
                let _ = ticket.set(Instant::now());
                Ok(())
            }
            Op::Wait(_) => Ok(()),
        }
    }

    fn launch(&mut self, op: &KernelOp) -> Answer {
        let seed = self.schedule.draw();
        let Function { image, name, .. } = &op.function;
        let memory = &mut self.memory;
        let launched = op.with_launch(seed, |args| launch(&image.module, name, args, memory));
        match launched {
            Ok(stats) => {
                image.count(name, &stats);
                Ok(())
            }
            Err(error) => {
                let code = match &error {
                    LaunchError::Violation(violation) => of_violation(violation.kind),
                    _ => LAUNCH_FAILED,
                };
                let (grid, cluster) = (op.grid, op.cluster);
                let text =
                    format!("{error} (grid {grid:?}, cluster {cluster}, schedule {seed:#018x})");
                self.violation(code, &text)
            }
        }
    }

    /// Reports what broke a rule, and answers as a GPU does, or as the tests want it.
    fn violation(&mut self, code: Code, text: &str) -> Answer {
        control::report(text);
        if control::violations_stay() {
            self.lose(code);
            Err(code)
        } else {
            self.give_up_work();
            Err(UNKNOWN)
        }
    }

    /// Empties every stream.
    pub(crate) fn give_up_work(&mut self) {
        for stream in self.streams.values_mut() {
            for op in stream.queue.drain(..) {
                if let Op::Record(ticket) = op {
                    let _ = ticket.set(Instant::now());
                }
            }
        }
    }

    /// Checks that an operation's ranges lie inside allocations, as the driver does when it is enqueued.
    pub(crate) fn check(&mut self, address: u64, len: usize) -> Answer {
        self.memory.check(address, len).map_err(|_| INVALID_VALUE)
    }
}
