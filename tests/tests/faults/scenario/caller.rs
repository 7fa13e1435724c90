//! Steps on arrays and a stream of the caller's, plain and in a graph of the caller's.

use std::ptr;

use cust::stream::{Stream, StreamFlags};
use cust::sys;
use keysieve::cuda::{
    Device, DeviceArray, DeviceRows, KeyBuffer, KeyDtype, KeySlice, OutArray, OutLists, RowsCopy,
};
use keysieve::{Error, Selection};

use super::{HEAD_DIM, KV_HEADS, Mirror, Op, QO_HEADS, World, keys_data, queries_data};

/// What the caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallerOp {
    /// A stream: no call of the library's.
    Stream,
    Arrays,
    Select,
    Step,
    Append,
    /// A step into a graph of the caller's.
    Capture,
    /// Says that the graph is launched, and launches it.
    Replay,
    /// Whether the caller's arrays have the lists: no call of the library's.
    Look,
    /// Lets another stream wait for the lists.
    HandOver,
    /// A copy of the weights, and one of that.
    Copy,
}

pub(super) const OPS: [Op; 18] = [
    Op::Open,
    Op::New,
    Op::SetVariant,
    Op::Caller(CallerOp::Stream),
    Op::Caller(CallerOp::Arrays),
    Op::Caller(CallerOp::Select),
    Op::Caller(CallerOp::Look),
    Op::Caller(CallerOp::Append),
    Op::Caller(CallerOp::Step),
    Op::Caller(CallerOp::HandOver),
    Op::Caller(CallerOp::Copy),
    Op::Caller(CallerOp::Look),
    Op::Caller(CallerOp::Capture),
    Op::Caller(CallerOp::Replay),
    Op::Caller(CallerOp::Look),
    Op::Read,
    Op::Drift,
    Op::Drop,
];

/// What calls the driver once there are arrays.
pub(super) const POSSIBLE: [CallerOp; 6] = [
    CallerOp::Arrays,
    CallerOp::Select,
    CallerOp::Step,
    CallerOp::Append,
    CallerOp::HandOver,
    CallerOp::Copy,
];

/// The library's own calls.
pub(super) fn is_target(op: Op, call: &str) -> bool {
    let callers = [
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cuGraphInstantiate_v2",
        "cuGraphLaunch",
    ];
    match op {
        Op::Drift => true,
        Op::Caller(CallerOp::Stream | CallerOp::Look) => false,
        Op::Caller(_) => !callers.contains(&call),
        _ => false,
    }
}

/// Tokens that [`CallerOp::Append`] adds.
const APPENDED: usize = 2;

pub(super) struct Caller {
    arrays: Option<Arrays>,
    graph: Option<Graph>,
    /// With the weights that were listed when it was made.
    copy: Option<(RowsCopy, Vec<f32>)>,
    // Last: the device's context is let go after it.
    stream: Stream,
}

impl Caller {
    pub(super) fn has_arrays(&self) -> bool {
        self.arrays.is_some()
    }
}

struct Arrays {
    queries: KeyBuffer,
    /// For a step, and for an append.
    keys: [KeyBuffer; 2],
    positions: KeyBuffer,
    lengths: KeyBuffer,
    weights: KeyBuffer,
    /// Elements of each of the last three.
    lens: [usize; 3],
}

/// A graph of the caller's.
struct Graph(sys::CUgraphExec, sys::CUgraph);

// SAFETY: the handles are of no thread, and are this value's alone.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the handles are this value's own, or null.
        unsafe {
            if !self.0.is_null() {
                let _ = sys::cuGraphExecDestroy(self.0);
            }
            let _ = sys::cuGraphDestroy(self.1);
        }
    }
}

impl Arrays {
    fn new(device: &Device, list_stride: usize, capacity: usize) -> Result<Self, Error> {
        let lens = [QO_HEADS * list_stride, QO_HEADS, QO_HEADS * capacity];
        let buffer = |data: &[f32]| KeyBuffer::new(device, KeySlice::F32(data));
        Ok(Arrays {
            queries: buffer(&queries_data(0))?,
            keys: [buffer(&keys_data(0, 1))?, buffer(&keys_data(0, APPENDED))?],
            // Integers of 64 bits.
            positions: buffer(&vec![0.5; 2 * lens[0]])?,
            lengths: buffer(&vec![0.5; 2 * lens[1]])?,
            weights: buffer(&vec![0.5; lens[2]])?,
            lens,
        })
    }

    fn queries(&self) -> DeviceArray {
        array(&self.queries, [1, QO_HEADS, 1, HEAD_DIM])
    }

    fn keys(&self, tokens: usize) -> DeviceArray {
        let buffer = &self.keys[usize::from(tokens > 1)];
        array(buffer, [1, KV_HEADS, tokens, HEAD_DIM])
    }

    fn lists(&self) -> OutLists {
        let out = |buffer: &KeyBuffer, is_wide, len| {
            OutArray::new("out", buffer.address(), is_wide, len)
                .expect("an address of the driver's")
        };
        OutLists {
            positions: out(&self.positions, true, self.lens[0]),
            lengths: out(&self.lengths, true, self.lens[1]),
            weights: Some(out(&self.weights, false, self.lens[2])),
        }
    }

    /// Whether they have the lists of `expected`.
    fn check(&self, expected: &Selection) -> Result<(), String> {
        let same = |buffer: &KeyBuffer, expected: &[i32]| {
            let words = read(buffer.address(), 2 * expected.len());
            let got = words
                .chunks_exact(2)
                .map(|word| (u64::from(word[1]) << 32 | u64::from(word[0])) as i64);
            got.eq(expected.iter().map(|&p| i64::from(p)))
        };
        if !same(&self.positions, expected.padded_positions())
            || !same(&self.lengths, expected.lengths())
        {
            return Err("the caller's arrays do not have the lists".into());
        }
        let weights = read(self.weights.address(), self.lens[2]);
        let capacity = self.lens[2] / QO_HEADS;
        for (head, row) in weights.chunks_exact(capacity).enumerate() {
            let expected = expected.weights(0, head, 0).unwrap_or_default();
            let got = row[..expected.len()]
                .iter()
                .map(|&word| f32::from_bits(word));
            if !got.eq(expected.iter().copied()) {
                return Err("the caller's arrays do not have the weights".into());
            }
        }
        Ok(())
    }
}

fn array(buffer: &KeyBuffer, shape: [usize; 4]) -> DeviceArray {
    let [_, b, c, d] = shape;
    let strides = [b * c * d, c * d, d, 1];
    DeviceArray::new("array", buffer.address(), KeyDtype::F32, shape, strides)
        .expect("an address of the driver's")
}

/// 32-bit words of device memory that has as many.
pub(super) fn read(address: sys::CUdeviceptr, len: usize) -> Vec<u32> {
    let mut words = vec![0u32; len];
    // SAFETY: there is room for as many; the driver checks the address.
    let code = unsafe { sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), address, 4 * len) };
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
    words
}

impl World {
    pub(super) fn run_caller(&mut self, op: CallerOp) -> Result<Result<(), Error>, String> {
        if op == CallerOp::Stream {
            let stream = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(|e| e.to_string())?;
            self.caller = Some(Caller {
                arrays: None,
                graph: None,
                copy: None,
                stream,
            });
            return Ok(Ok(()));
        }
        let selector = self.selector.as_mut().expect("made before");
        let step = selector.cuda_step().expect("a step on a GPU");
        let caller = self.caller.as_mut().expect("made before");
        let stream = caller.stream.as_inner();
        if op == CallerOp::Arrays {
            let buffers = step.device_buffers();
            let made = Arrays::new(step.device(), buffers.list_stride, buffers.weights_stride);
            return Ok(made.map(|made| caller.arrays = Some(made)));
        }
        let arrays = caller.arrays.as_ref().expect("made before");
        let (queries, lists) = (arrays.queries(), arrays.lists());
        // SAFETY: arrays and stream are the device's, and outlive the step's last call.
        Ok(unsafe {
            match op {
                CallerOp::Select => step.select_into(&queries, Some(&lists), stream),
                CallerOp::Step => step.step_into(&arrays.keys(1), &queries, Some(&lists), stream),
                CallerOp::Append => step.append_on(&arrays.keys(APPENDED), stream),
                CallerOp::HandOver => step.hand_over_to(ptr::null_mut()),
                CallerOp::Capture => {
                    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
                    ok(sys::cuStreamBeginCapture_v2(stream, mode))?;
                    let key = arrays.keys(1);
                    let enqueued = step.step_into(&key, &queries, Some(&lists), stream);
                    let mut graph = Graph(ptr::null_mut(), ptr::null_mut());
                    let ended = ok(sys::cuStreamEndCapture(stream, &raw mut graph.1));
                    if enqueued.is_ok() {
                        ended?;
                        let (exec, null) = (&raw mut graph.0, ptr::null_mut());
                        ok(sys::cuGraphInstantiate_v2(
                            exec,
                            graph.1,
                            null,
                            ptr::null_mut(),
                            0,
                        ))?;
                        caller.graph = Some(graph);
                    }
                    enqueued
                }
                CallerOp::Replay => {
                    let graph = caller.graph.as_ref().expect("captured before");
                    let said = step.replayed(1, stream);
                    if said.is_ok() {
                        ok(sys::cuGraphLaunch(graph.0, stream))?;
                    }
                    said
                }
                CallerOp::Look => {
                    ok(sys::cuStreamSynchronize(stream))?;
                    arrays.check(&self.mirror.listed)?;
                    if let Some((copy, expected)) = &caller.copy {
                        let words = read(copy.address(), expected.len());
                        let got = words.into_iter().map(f32::from_bits);
                        if !got.eq(expected.iter().copied()) {
                            return Err("the copy does not have the weights".into());
                        }
                    }
                    Ok(())
                }
                CallerOp::Copy => {
                    let buffers = step.device_buffers();
                    let rows = DeviceRows {
                        address: buffers.weights.expect("they are asked for"),
                        rows: QO_HEADS,
                        words: self.mirror.listed.seq_len(),
                        stride: buffers.weights_stride,
                    };
                    let made = step
                        .copy_rows(&rows, None)
                        .and_then(|copy| copy.to_copy(Some(stream)));
                    made.map(|copy| {
                        let listed = &self.mirror.listed;
                        let rows = (0..QO_HEADS).flat_map(|head| listed.weights(0, head, 0));
                        caller.copy = Some((copy, rows.flatten().copied().collect()));
                    })
                }
                CallerOp::Stream | CallerOp::Arrays => unreachable!("done above"),
            }
        })
    }
}

pub(super) fn ok(code: sys::CUresult) -> Result<(), String> {
    match code {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(format!("the caller's own call answered {code:?}")),
    }
}

impl Mirror {
    pub(super) fn caller_op(&mut self, op: CallerOp) {
        match op {
            CallerOp::Select => self.select_with(&queries_data(0)),
            CallerOp::Step | CallerOp::Replay => {
                self.append_with(&keys_data(0, 1), 1);
                self.select_with(&queries_data(0));
            }
            CallerOp::Append => self.append_with(&keys_data(0, APPENDED), APPENDED),
            _ => {}
        }
    }
}
