//! Counts of code tuples, and those before each block of keys, however the context grows across a block's
//! edge: by steps and by appends, in every order of a few.

use std::process::ExitCode;

use keysieve::cuda::Variant;
use keysieve::{Backend, KeyIndex, Selection, Selector};
use keysieve_tests::device::{CUDA, Device, Suite, check_same, fail};
use keysieve_tests::oracle::Shape;
use keysieve_tests::shapes::{index_parts, one_row, select_config};
use keysieve_tests::steps::{keys, queries};
use keysieve_tests::strategies::{Fill, LoopCase, Palette};
use proptest::prop_assert;
use proptest::test_runner::{TestCaseError, TestCaseResult};

/// Keys of the first block: those of one tile.
const BLOCK: usize = gpu_kernels::select_tuples::KEYS_PER_TILE as usize;
const WINDOW: usize = 32;
/// More than half of the keys are listed, so that both blocks have some.
const HEAVY: usize = 4096;

/// How the context grows.
#[derive(Debug, Clone, Copy)]
enum Growth {
    /// By a step that appends a key.
    Step,
    /// By so many keys appended at once, before a select.
    Append(usize),
}

const GROWTHS: [Growth; 4] = [
    Growth::Step,
    Growth::Append(1),
    Growth::Append(2),
    Growth::Append(3),
];

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for device in CUDA {
        suite.on_device(
            device,
            "any_growth_across_a_blocks_edge",
            any_growth_across_a_blocks_edge,
        );
    }
    suite.run()
}

fn any_growth_across_a_blocks_edge(device: &Device) -> TestCaseResult {
    for candidates in BLOCK - 3..=BLOCK {
        for first in GROWTHS {
            for second in GROWTHS {
                for third in [Growth::Step, Growth::Append(1)] {
                    let growths = [first, second, third];
                    grow(device, candidates, &growths).map_err(|error| {
                        fail(format!(
                            "{candidates} candidates, then {growths:?}: {error}"
                        ))
                    })?;
                }
            }
        }
    }
    Ok(())
}

fn grow(device: &Device, candidates: usize, growths: &[Growth]) -> TestCaseResult {
    let shape = Shape {
        bits: 7,
        window: WINDOW,
        weights_stride: BLOCK + 64,
        ..one_row(BLOCK + 64, HEAVY)
    };
    let case = LoopCase {
        shape,
        num_codes: candidates + WINDOW,
        appends: Vec::new(),
        weights: true,
        centroids: Fill::usual(1),
        augmentation: None,
        codes: Fill {
            seed: candidates as u64,
            palette: Palette::FewDistinct,
        },
        keys: Fill::usual(2),
        queries: Fill::usual(3),
    };
    let index = KeyIndex::from_parts(index_parts(&case, case.centroids), BLOCK + 64);
    let index = index.map_err(fail)?;
    let config = select_config(&shape, true);
    let selector = |backend: &Backend| Selector::new(backend, index.clone(), config, 1, 1);
    let mut on_cpu = selector(&Backend::Cpu).map_err(fail)?;
    let mut on_device = selector(&device.backend).map_err(fail)?;
    let step = on_device.cuda_step().ok_or_else(|| fail("no CUDA step"))?;
    let two_blocks = step
        .variants()
        .into_iter()
        .find(|variant| matches!(variant, Variant::Tuples(blocks) if blocks.num_blocks == 2));
    step.set_variant(two_blocks.ok_or_else(|| fail("no two blocks"))?)
        .map_err(fail)?;

    for (i, growth) in growths.iter().enumerate() {
        let seed = i as u64;
        let tokens = match *growth {
            Growth::Step => 1,
            Growth::Append(tokens) => tokens,
        };
        let key_data = Fill::usual(10 + seed).floats(tokens);
        let query_data = Fill::usual(20 + seed).floats(1);
        let new_keys = || keys(&shape, &key_data, tokens).map_err(fail);
        let query = || queries(&shape, &query_data).map_err(fail);
        on_cpu.append(new_keys()?).map_err(fail)?;
        let expected = on_cpu.select(query()?).map_err(fail)?;
        let got = match growth {
            Growth::Step => {
                let step = on_device.cuda_step().ok_or_else(|| fail("no CUDA step"))?;
                step.upload(new_keys()?, query()?).map_err(fail)?;
                step.enqueue(&mut |_| Ok(())).map_err(fail)?;
                on_device.read().map_err(fail)?
            }
            Growth::Append(_) => {
                on_device.append(new_keys()?).map_err(fail)?;
                on_device.select(query()?).map_err(fail)?
            }
        };
        same(got, expected)?;
    }
    Ok(())
}

fn same(got: &Selection, expected: &Selection) -> Result<(), TestCaseError> {
    let both_blocks = expected.positions(0, 0, 0);
    prop_assert!(both_blocks.len() == HEAVY + WINDOW, "{}", both_blocks.len());
    check_same("cpu backend", got.positions(0, 0, 0), both_blocks)?;
    let weights = |selection: &Selection| selection.weights(0, 0, 0).map(<[f32]>::to_vec);
    check_same(
        "cpu backend",
        &weights(got).unwrap_or_default(),
        &weights(expected).unwrap_or_default(),
    )
}
