//! The whole: a decode loop of appends and steps, the CPU's selector against the oracle, the GPU's
//! against the CPU's and the oracle.

use std::process::ExitCode;

use keysieve::{
    Backend, IndexParts, KeyIndex, Keys, Metric, PqConfig, SelectConfig, Selector, TrainConfig,
};
use keysieve_tests::device::{CUDA, Device, Suite, check_same, fail};
use keysieve_tests::oracle::{Aggregation, Context, Shape};
use keysieve_tests::shapes::{index_parts, one_row, pq_config, select_config};
use keysieve_tests::steps::{check_against_oracle, keys, queries};
use keysieve_tests::strategies::{Budget, Fill, LoopCase, Palette, any_loop_cases};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use rayon::ThreadPoolBuilder;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property(
        "decode_loop_matches_oracle",
        cases,
        decode_loop_matches_oracle,
    );
    suite.on_each_device(
        "reference_shape_after_training",
        reference_shape_after_training,
    );
    for device in CUDA {
        suite.device_property(
            device,
            "every_variant_gives_the_cpu_steps",
            cases,
            every_variant_gives_the_cpu_steps,
        );
    }
    suite.on_device(
        "cpu",
        "every_table_size_on_any_threads",
        every_table_size_on_any_threads,
    );
    suite.on_device("cpu", "rows_on_any_threads", rows_on_any_threads);
    suite.on_each_device("one_append_or_many_give_the_same", one_append_or_many);
    suite.run()
}

fn cases() -> impl Strategy<Value = LoopCase> {
    any_loop_cases(Budget {
        elements: 1 << 16,
        components: true,
    })
}

fn decode_loop_matches_oracle(device: &Device, case: LoopCase) -> TestCaseResult {
    let shape = &case.shape;
    let m = shape.num_subvectors;
    let capacity = shape.init_offset + shape.code_capacity;
    let parts = index_parts(&case, case.centroids);
    let index = KeyIndex::from_parts(parts.clone(), capacity).map_err(fail)?;

    let mut padded_codes = vec![0; shape.groups() * shape.code_capacity * m];
    for group in 0..shape.groups() {
        let used = case.num_codes * m;
        padded_codes[group * shape.code_capacity * m..][..used]
            .copy_from_slice(&parts.codes[group * used..][..used]);
    }
    let mut oracle = Context {
        shape: *shape,
        centroids: parts.centroids,
        augmentation: case.augmentation.map(|fill| fill.augmentation(shape)),
        codes: padded_codes,
        seq_len: shape.init_offset + case.num_codes,
    };

    // No position, no weight to ask for.
    let weights = case.weights && capacity > 0;
    let config = select_config(shape, weights);
    let selector = |backend: &Backend| {
        Selector::new(
            backend,
            index.clone(),
            config,
            shape.num_qo_heads(),
            shape.num_queries,
        )
    };
    let mut on_device = selector(&device.backend).map_err(fail)?;
    let mut on_cpu = device
        .is_cuda()
        .then(|| selector(&Backend::Cpu))
        .transpose()
        .map_err(fail)?;

    for (step, tokens) in std::iter::once(0)
        .chain(case.appends.iter().copied())
        .enumerate()
    {
        let fill = |fill: Fill, len| {
            Fill {
                seed: fill.seed ^ step as u64,
                ..fill
            }
            .floats(len)
        };
        let new_keys = fill(case.keys, shape.groups() * tokens * shape.head_dim);
        let step_queries = fill(case.queries, shape.num_rows() * shape.head_dim);

        oracle.append(&new_keys);
        let expected = oracle.select(&step_queries);
        let new_keys = keys(shape, &new_keys, tokens).map_err(fail)?;
        let step_queries = queries(shape, &step_queries).map_err(fail)?;
        on_device.append(new_keys).map_err(fail)?;
        prop_assert_eq!(on_device.seq_len(), oracle.seq_len);
        let got = on_device.select(step_queries).map_err(fail)?;
        check_against_oracle(shape, oracle.seq_len, weights, got, &expected)?;
        if let Some(on_cpu) = &mut on_cpu {
            on_cpu.append(new_keys).map_err(fail)?;
            let by_cpu = on_cpu.select(step_queries).map_err(fail)?;
            prop_assert!(
                got == by_cpu,
                "step {}: the backends' selections differ",
                step
            );
        }
    }
    let (index, groups) = (on_device.to_index().map_err(fail)?, shape.groups());
    let used = index.num_codes() * m;
    for group in 0..groups {
        let expected = &oracle.codes[group * shape.code_capacity * m..][..used];
        check_same(
            "oracle",
            &index.to_parts().codes[group * used..][..used],
            expected,
        )?;
    }
    Ok(())
}

/// Steps by launches and by graph, each of which appends a key, in every variant that fits.
fn every_variant_gives_the_cpu_steps(device: &Device, case: LoopCase) -> TestCaseResult {
    const STEPS: usize = 2;
    let shape = &case.shape;
    let capacity = shape.init_offset + case.num_codes + STEPS;
    let index = KeyIndex::from_parts(index_parts(&case, case.centroids), capacity);
    let index = index.map_err(fail)?;
    let config = select_config(shape, case.weights);
    let selector = |backend: &Backend| {
        let heads = shape.num_qo_heads();
        Selector::new(backend, index.clone(), config, heads, shape.num_queries)
    };

    let mut on_cpu = selector(&Backend::Cpu).map_err(fail)?;
    let mut inputs = Vec::new();
    let mut expected = Vec::new();
    for step in 0..STEPS as u64 {
        let fill = |fill: Fill, len| {
            let seed = fill.seed ^ (step + 100);
            Fill { seed, ..fill }.floats(len)
        };
        let new_keys = fill(case.keys, shape.groups() * shape.head_dim);
        let step_queries = fill(case.queries, shape.num_rows() * shape.head_dim);
        let key = keys(shape, &new_keys, 1).map_err(fail)?;
        on_cpu.append(key).map_err(fail)?;
        let step_queries_view = queries(shape, &step_queries).map_err(fail)?;
        expected.push(on_cpu.select(step_queries_view).map_err(fail)?.clone());
        inputs.push((new_keys, step_queries));
    }

    let mut on_gpu = selector(&device.backend).map_err(fail)?;
    let variants = on_gpu.cuda_step().ok_or_else(|| fail("no GPU"))?.variants();
    for variant in variants {
        for by_graph in [false, true] {
            let step = on_gpu.cuda_step().ok_or_else(|| fail("no GPU"))?;
            step.set_variant(variant).map_err(fail)?;
            let graph = step.capture().map_err(fail)?;
            for (i, (new_keys, step_queries)) in inputs.iter().enumerate() {
                let step = on_gpu.cuda_step().ok_or_else(|| fail("no GPU"))?;
                let key = keys(shape, new_keys, 1).map_err(fail)?;
                let step_queries = queries(shape, step_queries).map_err(fail)?;
                step.upload(key, step_queries).map_err(fail)?;
                let enqueued = if by_graph {
                    step.replay(&graph)
                } else {
                    step.enqueue(&mut |_| Ok(()))
                };
                enqueued.map_err(fail)?;
                prop_assert!(
                    on_gpu.read().map_err(fail)? == &expected[i],
                    "{:?}, graph {}, step {}",
                    variant,
                    by_graph,
                    i
                );
                // Once more without appending.
                prop_assert!(on_gpu.select(step_queries).map_err(fail)? == &expected[i]);
            }
            prop_assert!(
                // Not whole indices: centroids may be NaN, which equals nothing.
                on_gpu.to_index().map_err(fail)?.to_parts().codes
                    == on_cpu.to_index().map_err(fail)?.to_parts().codes,
                "{:?}: codes differ",
                variant
            );
            let step = on_gpu.cuda_step().ok_or_else(|| fail("no GPU"))?;
            step.rewind(STEPS).map_err(fail)?;
        }
    }
    Ok(())
}

/// The reference workload's format and regions on fewer tokens and heads, trained and grown.
fn reference_shape_after_training(device: &Device) -> TestCaseResult {
    let (tokens, appended) = (3000, 5);
    let shape = Shape {
        batch: 1,
        num_kv_heads: 2,
        group_size: 2,
        num_queries: 1,
        head_dim: 128,
        num_subvectors: 2,
        bits: 6,
        init_offset: 128,
        code_capacity: tokens + appended - 128,
        sink: 128,
        window: 128,
        heavy: 128,
        short_context: true,
        list_stride: 384,
        weights_stride: tokens + appended,
        ..Shape::default()
    };
    let usual = |seed, len| Fill::usual(seed).floats(len);
    let data = usual(1, shape.groups() * tokens * shape.head_dim);
    let training = TrainConfig {
        iterations: 2,
        seed: 5,
        ..TrainConfig::default()
    };
    let first_keys = keys(&shape, &data, tokens).map_err(fail)?;
    let index = KeyIndex::train(&pq_config(&shape), &training, first_keys, tokens + appended)
        .map_err(fail)?;
    let mut oracle = Context {
        shape,
        centroids: index.centroids().to_vec(),
        augmentation: None,
        codes: vec![0; shape.groups() * shape.code_capacity * shape.num_subvectors],
        seq_len: 128,
    };
    oracle.append(&first_keys.copy_tokens(128..tokens));

    let config = select_config(&shape, true);
    let mut selector =
        Selector::new(&device.backend, index, config, shape.num_qo_heads(), 1).map_err(fail)?;
    for step in 0..appended as u64 {
        let new_keys = usual(100 + step, shape.groups() * shape.head_dim);
        let step_queries = usual(200 + step, shape.num_rows() * shape.head_dim);
        oracle.append(&new_keys);
        selector
            .append(keys(&shape, &new_keys, 1).map_err(fail)?)
            .map_err(fail)?;
        let expected = oracle.select(&step_queries);
        let step_queries = queries(&shape, &step_queries).map_err(fail)?;
        let got = selector.select(step_queries).map_err(fail)?;
        check_against_oracle(&shape, oracle.seq_len, true, got, &expected)?;
        prop_assert_eq!(got.lengths(), [384; 4]);
    }
    Ok(())
}

/// 2,500 tokens at once, more than one launch takes, against the same tokens in uneven calls.
fn one_append_or_many(device: &Device) -> TestCaseResult {
    let config = PqConfig {
        num_subvectors: 4,
        bits: 8,
        init_offset: 3,
        metric: Metric::L2,
    };
    let usual = |seed, len| Fill::usual(seed).floats(len);
    let index = KeyIndex::from_parts(
        IndexParts {
            config,
            batch: 1,
            num_kv_heads: 2,
            head_dim: 16,
            num_codes: 0,
            centroids: usual(1, 2 * 256 * 16),
            augmentation: None,
            codes: Vec::new(),
        },
        2503,
    )
    .map_err(fail)?;
    let data = usual(2, 2 * 2500 * 16);
    let all = Keys::new(&data, [1, 2, 2500, 16]).map_err(fail)?;
    let grown = |ends: &[usize]| -> keysieve::Result<KeyIndex> {
        let select = SelectConfig {
            short_context: false,
            ..SelectConfig::default()
        };
        let mut selector = Selector::new(&device.backend, index.clone(), select, 2, 1)?;
        let mut start = 0;
        for &end in ends {
            let part = all.copy_tokens(start..end);
            selector.append(Keys::new(&part, [1, 2, end - start, 16])?)?;
            start = end;
        }
        selector.to_index()
    };
    let at_once = grown(&[2500]).map_err(fail)?;
    prop_assert_eq!(at_once.seq_len(), 2503);
    prop_assert!(at_once == grown(&[1, 1, 33, 1058, 2082, 2500]).map_err(fail)?);
    let mut on_cpu = index.clone();
    on_cpu.append(all).map_err(fail)?;
    prop_assert!(at_once == on_cpu, "codes differ from the cpu backend's");
    Ok(())
}

/// One row of 40,000 keys, which several threads share, in formats of every table size and both ways to
/// hold codes, with values that are usual, that tie, and that no bound can tell apart.
fn every_table_size_on_any_threads(device: &Device) -> TestCaseResult {
    let keys = 40_000;
    let formats = [
        (2, 6),
        (3, 4),
        (12, 1),
        (1, 8),
        (13, 1),
        (5, 3),
        (4, 4),
        (3, 5),
        (5, 6),
        (2, 7),
        (2, 8),
        (64, 2),
    ];
    let palettes = [
        Palette::Usual,
        Palette::FewDistinct,
        Palette::AllEqual,
        Palette::Close,
        Palette::Denormal,
        Palette::Huge,
        Palette::Strewn,
    ];
    for (i, (m, bits)) in formats.into_iter().enumerate() {
        for (j, palette) in palettes.into_iter().enumerate() {
            let heavy = [1, 128, 4096][(i + j) % 3];
            let shape = Shape {
                head_dim: m,
                num_subvectors: m,
                bits,
                sink: 70,
                window: 33,
                list_stride: 70 + heavy + 33,
                weights_stride: keys,
                ..one_row(keys, heavy)
            };
            let fill = |seed| Fill { seed, palette };
            let codes = Fill::usual(3).codes(keys * m, bits);
            let oracle = Context {
                shape,
                centroids: fill(1).floats(shape.centroids_len()),
                augmentation: None,
                codes: codes.clone(),
                seq_len: keys,
            };
            let query = fill(2).floats(m);
            let expected = oracle.select(&query);
            let index = KeyIndex::from_parts(
                IndexParts {
                    config: pq_config(&shape),
                    batch: 1,
                    num_kv_heads: 1,
                    head_dim: m,
                    num_codes: keys,
                    centroids: oracle.centroids,
                    augmentation: None,
                    codes,
                },
                keys,
            )
            .map_err(fail)?;
            for threads in [1, 3] {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                let backend = device.backend.clone();
                pool.map_err(fail)?.install(|| {
                    let config = select_config(&shape, false);
                    let mut selector =
                        Selector::new(&backend, index.clone(), config, 1, 1).map_err(fail)?;
                    let got = selector
                        .select(queries(&shape, &query).map_err(fail)?)
                        .map_err(fail)?;
                    check_against_oracle(&shape, keys, false, got, &expected).map_err(|error| {
                        fail(format!(
                            "m={m} bits={bits} {palette:?}, {threads} threads: {error}"
                        ))
                    })
                })?;
            }
        }
    }
    Ok(())
}

/// 36 rows that threads share, by each of the ways, with keys that are encoded for each of several heads.
fn rows_on_any_threads(_: &Device) -> TestCaseResult {
    let per_head = Aggregation::PerHead;
    for (head_dim, m, bits, causal, aggregation) in [
        (16, 2, 6, false, per_head),
        (16, 4, 5, false, per_head),
        (256, 1, 5, true, per_head),
        (16, 4, 5, false, Aggregation::Max),
    ] {
        let keys_before = 1000;
        let shape = Shape {
            batch: 3,
            num_kv_heads: 2,
            group_size: 2,
            num_queries: 3,
            head_dim,
            num_subvectors: m,
            bits,
            init_offset: 5,
            code_capacity: keys_before + 40,
            sink: 7,
            window: 11,
            heavy: 50,
            list_stride: 68,
            weights_stride: keys_before + 45,
            causal,
            aggregation,
            ..Shape::default()
        };
        let case = LoopCase {
            shape,
            num_codes: keys_before,
            appends: vec![40],
            weights: true,
            centroids: Fill::usual(1),
            augmentation: Some(Fill::usual(2)),
            codes: Fill::usual(3),
            keys: Fill::usual(4),
            queries: Fill::usual(5),
        };
        for threads in [1, 3] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build();
            // A device stays on its thread.
            let run = || {
                let device = Device::open("cpu").map_err(fail)?;
                decode_loop_matches_oracle(&device, case.clone())
            };
            pool.map_err(fail)?.install(run).map_err(|error| {
                fail(format!(
                    "m={m} bits={bits} causal={causal} {aggregation:?}, {threads} threads: {error}"
                ))
            })?;
        }
    }
    Ok(())
}
