//! Point 7, on the GPU: a captured step serves a context that grows.

use std::ffi::c_void;

use cust::stream::{Stream, StreamFlags};
use cust::sys;
use keysieve::cuda::{DeviceBuffers, Variant};
use keysieve::{Backend, Error, Keys, Queries, SelectConfig, Selection, Selector};
use keysieve_tests::device::{Device, fail};
use keysieve_tests::strategies::Fill;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};

use crate::whole::Whole;

/// 7, on the GPU: a graph captured once gives what fresh steps give, while the context grows from
/// below the short-context limit to its capacity, and ends there with an error.
pub(crate) fn a_graph_outlives_growth(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 2,
        window: 3,
        heavy: 5,
        short_context: true,
        weights: true,
        ..SelectConfig::default()
    };
    let whole = Whole::small(10, config);
    let spare = 40;
    let mut replayed = whole.selector(&device.backend, spare)?;
    let mut stepped = whole.selector(&Backend::Cpu, spare)?;
    let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
    let graph = step.capture().map_err(fail)?;
    for i in 0..spare as u64 {
        let new_keys = Fill::usual(100 + i).floats(4 * 8);
        let new_keys = Keys::new(&new_keys, [2, 2, 1, 8]).map_err(fail)?;
        let data = Fill::usual(200 + i).floats(8 * 8);
        let queries = Queries {
            data: &data,
            ..whole.queries()
        };
        let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
        step.upload(new_keys, queries).map_err(fail)?;
        step.replay(&graph).map_err(fail)?;
        stepped.append(new_keys).map_err(fail)?;
        let expected = stepped.select(queries).map_err(fail)?;
        prop_assert!(replayed.read().map_err(fail)? == expected, "replay {}", i);
    }
    let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
    let full = matches!(step.replay(&graph), Err(Error::Capacity { .. }));
    prop_assert!(full, "a step was taken past the capacity");
    prop_assert!(replayed.to_index().map_err(fail)? == stepped.to_index().map_err(fail)?);
    Ok(())
}

/// What a step left on the device.
#[derive(Debug)]
struct Results {
    positions: Vec<i32>,
    lengths: Vec<i32>,
}

impl Results {
    /// Enqueues the copies; they are there once the stream is synchronised.
    fn enqueue(buffers: &DeviceBuffers, rows: usize, stream: &Stream) -> Self {
        let mut results = Results {
            positions: vec![-2; rows * buffers.list_stride],
            lengths: vec![-2; rows],
        };
        let copies = [
            (&mut results.positions, buffers.positions),
            (&mut results.lengths, buffers.lengths),
        ];
        for (to, from) in copies {
            // SAFETY: the vectors' memory stays where it is until the stream is synchronised.
            let code = unsafe {
                let len = size_of_val(&to[..]);
                sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, len, stream.as_inner())
            };
            assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
        }
        results
    }

    fn are(&self, expected: &Selection) -> bool {
        self.positions == expected.padded_positions() && self.lengths == expected.lengths()
    }
}

fn enqueue_upload(to: u64, data: &[f32], stream: &Stream) {
    // SAFETY: the buffer has as many elements, and from pageable memory a copy is taken at once.
    let code = unsafe {
        let from = data.as_ptr().cast::<c_void>();
        sys::cuMemcpyHtoDAsync_v2(to, from, size_of_val(data), stream.as_inner())
    };
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
}

/// A variant of each kind, the one with the most blocks of a row: the others differ in their grids alone.
pub(crate) fn one_of_each_kind(selector: &mut Selector) -> Result<Vec<Variant>, TestCaseError> {
    let step = selector.cuda_step().ok_or_else(|| fail("no GPU step"))?;
    let mut variants = step.variants();
    variants.reverse();
    variants.dedup_by_key(|variant| std::mem::discriminant(variant));
    if variants.len() != 3 {
        return Err(fail(format!("{variants:?} are not of three kinds")));
    }
    Ok(variants)
}

/// 7, on the GPU: replays on two streams of the caller's by turns, nobody waiting in between, and every
/// other call behind a replay on one of them, give what the CPU gives in every kind of variant.
pub(crate) fn replays_on_streams_by_turns(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 2,
        window: 3,
        heavy: 5,
        short_context: false,
        weights: true,
        ..SelectConfig::default()
    };
    let whole = Whole::small(20, config);
    const ROUNDS: u64 = 2;
    let spare = 4 * ROUNDS as usize + 4;
    let rows = 2 * 4;
    let mut replayed = whole.selector(&device.backend, spare)?;
    let variants = one_of_each_kind(&mut replayed)?;
    let stream = || Stream::new(StreamFlags::NON_BLOCKING, None).map_err(fail);
    for variant in variants {
        let mut stepped = whole.selector(&Backend::Cpu, spare)?;
        let (one, other) = (stream()?, stream()?);
        let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
        step.set_variant(variant).map_err(fail)?;
        let graph = step.capture().map_err(fail)?;
        let buffers = step.device_buffers();
        let mut expected = Vec::new();
        let mut results = Vec::new();
        let mut last = None;
        for i in 0..ROUNDS {
            let keys_data = Fill::usual(100 + i).floats(4 * 8);
            let keys = Keys::new(&keys_data, [2, 2, 1, 8]).map_err(fail)?;
            let data = Fill::usual(200 + i).floats(rows * 8);
            let queries = Queries {
                data: &data,
                ..whole.queries()
            };
            // From the step's own stream to the one, to the other, and back; then inputs that are
            // written on the stream itself.
            step.upload(keys, queries).map_err(fail)?;
            for stream in [&one, &other, &one, &one] {
                enqueue_if_same(last, stream, || {
                    enqueue_upload(buffers.new_keys, &keys_data, stream);
                    enqueue_upload(buffers.queries, &data, stream);
                });
                // SAFETY: the streams are this context's and outlive the step's work.
                unsafe { step.replay_on(&graph, stream.as_inner()) }.map_err(fail)?;
                results.push(Results::enqueue(&buffers, rows, stream));
                last = Some(stream.as_inner());
                stepped.append(keys).map_err(fail)?;
                expected.push(stepped.select(queries).map_err(fail)?.clone());
            }
        }
        // Waits for both streams' work.
        prop_assert!(Some(replayed.read().map_err(fail)?) == expected.last());
        for (i, (results, expected)) in results.iter().zip(&expected).enumerate() {
            prop_assert!(results.are(expected), "{:?}, replay {}", variant, i);
        }

        // Every other call behind a replay that nobody waited for.
        let keys_data = Fill::usual(300).floats(4 * 8);
        let keys = Keys::new(&keys_data, [2, 2, 1, 8]).map_err(fail)?;
        let data = Fill::usual(301).floats(rows * 8);
        let queries = Queries {
            data: &data,
            ..whole.queries()
        };
        for (call, stream) in [&one, &other, &one].into_iter().enumerate() {
            let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
            step.upload(keys, queries).map_err(fail)?;
            // SAFETY: as above.
            unsafe { step.replay_on(&graph, stream.as_inner()) }.map_err(fail)?;
            stepped.append(keys).map_err(fail)?;
            match call {
                0 => {
                    replayed.append(keys).map_err(fail)?;
                    stepped.append(keys).map_err(fail)?;
                }
                1 => step.rewind(0).map_err(fail)?,
                _ => prop_assert!(
                    replayed.to_index().map_err(fail)? == stepped.to_index().map_err(fail)?
                ),
            }
            let expected = stepped.select(queries).map_err(fail)?;
            prop_assert!(
                replayed.select(queries).map_err(fail)? == expected,
                "{:?}, call {}",
                variant,
                call
            );
        }
        let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
        step.rewind(spare).map_err(fail)?;
    }
    Ok(())
}

/// 7, on a GPU: four contexts alike, on four streams at once, a thousand replays each that nobody waits for:
/// all give what the CPU gives, in every kind of variant.
pub(crate) fn four_streams_at_once(device: &Device) -> TestCaseResult {
    const REPLAYS: usize = 1000;
    /// Replays from one look at the results to the next.
    const STRIDE: usize = 100;
    let config = SelectConfig {
        sink: 2,
        window: 3,
        heavy: 50,
        short_context: false,
        weights: true,
        ..SelectConfig::default()
    };
    let whole = Whole::small(20_000, config);
    let rows = 2 * 4;
    let keys_data = Fill::usual(100).floats(4 * 8);
    let keys = Keys::new(&keys_data, [2, 2, 1, 8]).map_err(fail)?;

    let mut stepped = whole.selector(&Backend::Cpu, REPLAYS)?;
    let mut expected = Vec::new();
    for i in 1..=REPLAYS {
        stepped.append(keys).map_err(fail)?;
        if i % STRIDE == 0 {
            expected.push(stepped.select(whole.queries()).map_err(fail)?.clone());
        }
    }

    let mut selectors = (0..4)
        .map(|_| whole.selector(&device.backend, REPLAYS))
        .collect::<Result<Vec<_>, _>>()?;
    for variant in one_of_each_kind(&mut selectors[0])? {
        let mut lanes = Vec::new();
        for selector in &mut selectors {
            let step = selector.cuda_step().ok_or_else(|| fail("no GPU step"))?;
            step.set_variant(variant).map_err(fail)?;
            step.upload(keys, whole.queries()).map_err(fail)?;
            let graph = step.capture().map_err(fail)?;
            let stream = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(fail)?;
            lanes.push((step, graph, stream, Vec::new()));
        }
        for i in 1..=REPLAYS {
            for (step, graph, stream, results) in &mut lanes {
                // SAFETY: the streams are this context's and outlive the step's work.
                unsafe { step.replay_on(graph, stream.as_inner()) }.map_err(fail)?;
                if i % STRIDE == 0 {
                    results.push(Results::enqueue(&step.device_buffers(), rows, stream));
                }
            }
        }
        for (lane, (step, _, stream, results)) in lanes.iter_mut().enumerate() {
            stream.synchronize().map_err(fail)?;
            prop_assert_eq!(results.len(), expected.len());
            for (i, (results, expected)) in results.iter().zip(&expected).enumerate() {
                prop_assert!(
                    results.are(expected),
                    "{:?}, stream {}, look {}",
                    variant,
                    lane,
                    i
                );
            }
            step.rewind(REPLAYS).map_err(fail)?;
        }
    }
    Ok(())
}

/// Only work of the same stream is in order with the last replay without the caller's doing.
fn enqueue_if_same(last: Option<sys::CUstream>, stream: &Stream, enqueue: impl FnOnce()) {
    if last == Some(stream.as_inner()) {
        enqueue();
    }
}
