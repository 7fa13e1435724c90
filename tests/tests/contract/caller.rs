//! Steps on arrays and streams of the caller's, plain and captured by the caller, against the CPU.

use std::ptr;

use cust::stream::{Stream, StreamFlags};
use cust::sys;
use half::{bf16, f16};
use keysieve::cuda::{
    Device as Gpu, DeviceArray, KeyBuffer, KeyDtype, KeySlice, OutArray, OutLists,
};
use keysieve::{Backend, Error, Keys, Queries, SelectConfig, Selection};
use keysieve_tests::device::{Device, fail, names};
use keysieve_tests::strategies::Fill;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};

use crate::graph::one_of_each_kind;
use crate::whole::Whole;

/// Components of `[a, b, c, d]` in device memory in another type and order of the axes, every second element of the
/// last one: what a caller's tensor may be. Also the values as they are there.
fn scattered(
    gpu: &Gpu,
    data: &[f32],
    shape: [usize; 4],
    dtype: KeyDtype,
) -> Result<(KeyBuffer, DeviceArray, Vec<f32>), TestCaseError> {
    let [a, b, c, d] = shape;
    // Memory has the order [a, c, b, 2 d].
    let strides = [c * b * 2 * d, 2 * d, b * 2 * d, 2];
    let mut memory = vec![f32::NAN; 2 * data.len()];
    let mut rounded = Vec::new();
    for (i, &x) in data.iter().enumerate() {
        let at = [i / (b * c * d), i / (c * d) % b, i / d % c, i % d];
        let places = at.iter().zip(strides).map(|(n, stride)| n * stride);
        memory[places.sum::<usize>()] = x;
        rounded.push(match dtype {
            KeyDtype::F32 => x,
            KeyDtype::F16 => f16::from_f32(x).to_f32(),
            KeyDtype::Bf16 => bf16::from_f32(x).to_f32(),
        });
    }
    let f16s: Vec<_> = memory.iter().map(|&x| f16::from_f32(x)).collect();
    let bf16s: Vec<_> = memory.iter().map(|&x| bf16::from_f32(x)).collect();
    let slice = match dtype {
        KeyDtype::F32 => KeySlice::F32(&memory),
        KeyDtype::F16 => KeySlice::F16(&f16s),
        KeyDtype::Bf16 => KeySlice::Bf16(&bf16s),
    };
    assert_eq!(a * b * c * d, data.len());
    let buffer = KeyBuffer::new(gpu, slice).map_err(fail)?;
    let array = DeviceArray::new("array", buffer.address(), dtype, shape, strides);
    Ok((buffer, array.map_err(fail)?, rounded))
}

/// Arrays of the caller's for a step's lists.
struct Outs {
    positions: KeyBuffer,
    lengths: KeyBuffer,
    weights: KeyBuffer,
    is_wide: bool,
    /// Elements of each.
    lens: [usize; 3],
}

impl Outs {
    /// For rows of lists, with room for `width` weights each.
    fn new(
        gpu: &Gpu,
        is_wide: bool,
        rows: usize,
        stride: usize,
        width: usize,
    ) -> keysieve::Result<Self> {
        let lens = [rows * stride, rows, rows * width];
        let words = if is_wide { 2 } else { 1 };
        let room = |len| KeyBuffer::new(gpu, KeySlice::F32(&vec![f32::NAN; len]));
        Ok(Outs {
            positions: room(words * lens[0])?,
            lengths: room(words * lens[1])?,
            weights: room(lens[2])?,
            is_wide,
            lens,
        })
    }

    fn lists(&self) -> keysieve::Result<OutLists> {
        let array =
            |buffer: &KeyBuffer, is_wide, len| OutArray::new("out", buffer.address(), is_wide, len);
        Ok(OutLists {
            positions: array(&self.positions, self.is_wide, self.lens[0])?,
            lengths: array(&self.lengths, self.is_wide, self.lens[1])?,
            weights: Some(array(&self.weights, false, self.lens[2])?),
        })
    }

    fn integers(&self, buffer: &KeyBuffer, len: usize) -> Vec<i64> {
        let words = read(buffer, if self.is_wide { 2 * len } else { len });
        match self.is_wide {
            false => words.into_iter().map(|word| (word as i32).into()).collect(),
            true => words
                .chunks_exact(2)
                .map(|word| (u64::from(word[1]) << 32 | u64::from(word[0])) as i64)
                .collect(),
        }
    }

    /// Whether the arrays, whose streams are done, have what `expected` lists.
    fn check(&self, expected: &Selection) -> TestCaseResult {
        let wide = |list: &[i32]| -> Vec<i64> { list.iter().map(|&p| p.into()).collect() };
        let got = self.integers(&self.positions, self.lens[0]);
        prop_assert_eq!(got, wide(expected.padded_positions()));
        let got = self.integers(&self.lengths, self.lens[1]);
        prop_assert_eq!(got, wide(expected.lengths()));
        let got = read(&self.weights, self.lens[2]);
        let width = self.lens[2] / self.lens[1];
        for (row, got) in got.chunks_exact(width).enumerate() {
            let heads = expected.shape()[1];
            let expected = expected.weights(row / heads, row % heads, 0);
            let expected = expected.ok_or_else(|| fail("no weights"))?;
            let got = got[..expected.len()]
                .iter()
                .map(|&word| f32::from_bits(word));
            prop_assert!(got.eq(expected.iter().copied()), "weights of row {row}");
        }
        Ok(())
    }
}

/// 32-bit words of device memory.
fn read(buffer: &KeyBuffer, len: usize) -> Vec<u32> {
    let mut words = vec![0u32; len];
    // SAFETY: the buffer is at least as long, and its context is current.
    let code =
        unsafe { sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), buffer.address(), 4 * len) };
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
    words
}

const DTYPES: [KeyDtype; 3] = [KeyDtype::F32, KeyDtype::F16, KeyDtype::Bf16];

/// 7, on the GPU: select, step and append on a caller's stream and arrays of any type and strides are the CPU's; so is a
/// graph that the caller captures a step into.
pub(crate) fn a_callers_arrays_and_stream(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 2,
        window: 3,
        heavy: 5,
        short_context: false,
        weights: true,
        ..SelectConfig::default()
    };
    let whole = Whole::small(20, config);
    let Backend::Cuda(gpu) = &device.backend else {
        return Err(fail("no GPU"));
    };
    let spare = 40;
    let mut selector = whole.selector(&device.backend, spare)?;
    for (n, variant) in one_of_each_kind(&mut selector)?.into_iter().enumerate() {
        let stream = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(fail)?;
        let other = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(fail)?;
        let mut expected = whole.selector(&Backend::Cpu, spare)?;
        let step = selector.cuda_step().ok_or_else(|| fail("no GPU step"))?;
        step.set_variant(variant).map_err(fail)?;
        // On a simulated GPU each variant has a type of its own: a step takes most of a second there.
        for (i, dtype) in DTYPES.into_iter().enumerate() {
            if device.is_simulated() && i != n % DTYPES.len() {
                continue;
            }
            let seed = 10 * i as u64;
            let case = format!("{variant:?}, {dtype:?}");
            let shape = [2, 4, 1, 8];
            let (_queries, queries, data) =
                scattered(gpu, &Fill::usual(seed).floats(64), shape, dtype)?;
            let on_host = Queries::new(&data, shape).map_err(fail)?;
            let shape = [2, 2, 1, 8];
            let (_key, key, key_data) =
                scattered(gpu, &Fill::usual(seed + 1).floats(32), shape, dtype)?;
            let key_on_host = Keys::new(&key_data, shape).map_err(fail)?;
            let shape = [2, 2, 3, 8];
            let (_keys, keys, keys_data) =
                scattered(gpu, &Fill::usual(seed + 2).floats(96), shape, dtype)?;
            let keys_on_host = Keys::new(&keys_data, shape).map_err(fail)?;

            let step = selector.cuda_step().ok_or_else(|| fail("no GPU step"))?;
            // Lists also go to arrays of the caller's: weights as long as the context, then of the whole room.
            let (buffers, seq_len) = (step.device_buffers(), step.seq_len());
            let (stride, room) = (buffers.list_stride, buffers.weights_stride);
            let out = |width| Outs::new(gpu, (i + n) % 2 == 1, 8, stride, width).map_err(fail);
            let (seen, padded) = (out(seq_len)?, out(room)?);
            let lists = seen.lists().map_err(fail)?;
            // SAFETY: arrays and streams are this device's, and outlive the reads.
            unsafe { step.select_into(&queries, Some(&lists), stream.as_inner()) }.map_err(fail)?;
            let wanted = expected.select(on_host).map_err(fail)?;
            prop_assert!(selector.read().map_err(fail)? == wanted, "{case}: select");
            seen.check(wanted)?;

            let step = selector.cuda_step().ok_or_else(|| fail("no GPU step"))?;
            let lists = padded.lists().map_err(fail)?;
            // SAFETY: as above.
            unsafe { step.step_into(&key, &queries, Some(&lists), other.as_inner()) }
                .map_err(fail)?;
            expected.append(key_on_host).map_err(fail)?;
            let wanted = expected.select(on_host).map_err(fail)?;
            prop_assert!(selector.read().map_err(fail)? == wanted, "{case}: step");
            padded.check(wanted)?;

            let step = selector.cuda_step().ok_or_else(|| fail("no GPU step"))?;
            // SAFETY: as above.
            unsafe { step.append_on(&keys, stream.as_inner()) }.map_err(fail)?;
            // SAFETY: as above.
            unsafe { step.select_on(&queries, other.as_inner()) }.map_err(fail)?;
            expected.append(keys_on_host).map_err(fail)?;
            let wanted = expected.select(on_host).map_err(fail)?;
            prop_assert!(selector.read().map_err(fail)? == wanted, "{case}: append");

            // The caller's own graph of a step, launched twice.
            let step = selector.cuda_step().ok_or_else(|| fail("no GPU step"))?;
            let seq_len = step.seq_len();
            // SAFETY: as above.
            let graph = captured(&stream, || unsafe {
                step.step_into(&key, &queries, Some(&lists), stream.as_inner())
            })?;
            prop_assert_eq!(step.seq_len(), seq_len, "a capture made a step");
            for launch in 0..2 {
                let step = selector.cuda_step().ok_or_else(|| fail("no GPU step"))?;
                // SAFETY: as above.
                unsafe { step.replayed(1, stream.as_inner()) }.map_err(fail)?;
                graph.launch(&stream)?;
                expected.append(key_on_host).map_err(fail)?;
                let wanted = expected.select(on_host).map_err(fail)?;
                let read = selector.read().map_err(fail)?;
                prop_assert!(read == wanted, "{case}: launch {launch}");
                padded.check(wanted)?;
            }
        }
        let indices = (
            selector.to_index().map_err(fail)?,
            expected.to_index().map_err(fail)?,
        );
        prop_assert!(indices.0 == indices.1, "{variant:?}: codes differ");
        let step = selector.cuda_step().ok_or_else(|| fail("no GPU step"))?;
        if n == 0 {
            refusals(gpu, step, &stream)?;
        }
        let steps = step.seq_len() - whole.seq_len();
        step.rewind(steps).map_err(fail)?;
    }
    Ok(())
}

/// What cannot be is refused, and changes nothing.
fn refusals(gpu: &Gpu, step: &mut keysieve::cuda::step::Step, stream: &Stream) -> TestCaseResult {
    let invalid = |result: keysieve::Result<()>| matches!(result, Err(Error::Invalid { .. }));
    let seq_len = step.seq_len();
    let (_buffer, array, _) = scattered(gpu, &[1.0; 96], [2, 2, 3, 8], KeyDtype::F32)?;
    // SAFETY: as in the caller.
    unsafe {
        let stream = stream.as_inner();
        prop_assert!(invalid(step.select_on(&array, stream)));
        prop_assert!(invalid(step.step_on(&array, &array, stream)));
        let full = matches!(step.replayed(1000, stream), Err(Error::Capacity { .. }));
        prop_assert!(full);
    }
    let buffers = step.device_buffers();
    let (stride, room) = (buffers.list_stride, buffers.weights_stride);
    let (_queries, queries, _) = scattered(gpu, &[1.0; 64], [2, 4, 1, 8], KeyDtype::F16)?;
    let mut named = |argument: &str, outs: Outs, in_graph: bool| {
        let lists = outs.lists().map_err(fail)?;
        // SAFETY: as above.
        let mut select = || unsafe { step.select_into(&queries, Some(&lists), stream.as_inner()) };
        let result = match in_graph {
            false => select(),
            true => {
                let mut result = Ok(());
                captured(stream, || {
                    result = select();
                    Ok(())
                })?;
                result
            }
        };
        names(argument, result)
    };
    let outs = |rows, stride, width| Outs::new(gpu, false, rows, stride, width).map_err(fail);
    named("out: positions", outs(8, stride + 1, room)?, false)?;
    named("out: lengths", outs(4, 2 * stride, 2 * room)?, false)?;
    named("out: weights", outs(8, stride, seq_len + 1)?, false)?;
    // In a graph the context grows.
    named("out: weights", outs(8, stride, seq_len)?, true)?;
    prop_assert!(
        OutArray::new("out", 4, true, 1).is_err() && OutArray::new("out", 0, false, 1).is_err()
    );
    let new = |address, shape| DeviceArray::new("a", address, KeyDtype::F32, shape, [1; 4]);
    prop_assert!(new(2, [1; 4]).is_err() && new(0, [1; 4]).is_err());
    prop_assert!(new(4, [1 << 16, 1 << 16, 1, 1]).is_err());
    prop_assert_eq!(step.seq_len(), seq_len);
    Ok(())
}

/// A graph of the caller's.
struct Captured(sys::CUgraphExec, sys::CUgraph);

fn captured(
    stream: &Stream,
    enqueue: impl FnOnce() -> keysieve::Result<()>,
) -> Result<Captured, TestCaseError> {
    let ok = |code| assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let mut graph = Captured(ptr::null_mut(), ptr::null_mut());
    // SAFETY: the stream is alive, the out-pointers are valid.
    unsafe {
        ok(sys::cuStreamBeginCapture_v2(stream.as_inner(), mode));
        let enqueued = enqueue();
        ok(sys::cuStreamEndCapture(stream.as_inner(), &raw mut graph.1));
        enqueued.map_err(fail)?;
        let (exec, null) = (&raw mut graph.0, ptr::null_mut());
        ok(sys::cuGraphInstantiate_v2(
            exec,
            graph.1,
            null,
            ptr::null_mut(),
            0,
        ));
    }
    Ok(graph)
}

impl Captured {
    fn launch(&self, stream: &Stream) -> TestCaseResult {
        // SAFETY: the graph, its step and the stream are alive.
        let code = unsafe { sys::cuGraphLaunch(self.0, stream.as_inner()) };
        prop_assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
        Ok(())
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: the handles are this value's own.
        unsafe {
            let _ = sys::cuGraphExecDestroy(self.0);
            let _ = sys::cuGraphDestroy(self.1);
        }
    }
}
