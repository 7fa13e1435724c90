//! The committed kernels, simulated, against the CPU backend: equal bit for bit, on hostile shapes
//! and values, each case under a schedule of its own.
//!
//! `PROPTEST_CASES` says how many cases a stage gets.

mod sim;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use gpu_kernels::aggregate::{PER_HEAD, SOFTMAX};
use gpu_kernels::select::{Filter, KEYS_PER_WORD, MAX_TURN_KEYS, Plan};
use gpu_kernels::step::StepShape;
use keysieve::cpu::CpuStages;
use keysieve::stages::Stages;
use keysieve_tests::device::{check_same, fail, lens_u32, step_shape};
use keysieve_tests::oracle::Shape;
use keysieve_tests::shapes::library_augmentation;
use keysieve_tests::strategies::{
    Budget, EncodeCase, Fill, Palette, Random, StepCase, any_step_cases, encode_cases,
};
use libtest_mimic::{Arguments, Failed, Trial};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};
use ptx_sim::Module;
use sim::SimStages;

static CASES: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for file in sim::FILES {
        let mut stage = |name: &str, body: fn(&'static str, u32) -> Result<(), Failed>, cases| {
            trials.push(Trial::test(format!("{file}::{name}"), move || {
                body(file, cases)
            }));
        };
        stage("lut", lut, 150);
        stage("scores", scores, 150);
        stage("codes", codes, 150);
        stage("aggregate", aggregate, 100);
        stage("top_k", top_k, 200);
        stage("index_list", index_list, 200);
        stage("weights", weights, 150);
        stage("advance", advance, 50);
        if sim::text(file).contains(".entry select_survivors(") {
            stage("select_survivors", select_survivors, 100);
            stage("select_survivors_long", select_survivors_long, 20);
            stage("select_survivors_very_long", select_survivors_very_long, 8);
            stage("select_survivors_filtered", select_survivors_filtered, 40);
        }
        if sim::text(file).contains(".entry select_survivors_clustered(") {
            stage("select_survivors_clustered", select_survivors_clustered, 80);
            let name = "select_survivors_clustered_very_long";
            stage(name, select_survivors_clustered_very_long, 6);
        }
        trials.push(Trial::test(
            format!("{file}::a_barrier_taken_away_is_missed"),
            move || a_barrier_taken_away_is_missed(file),
        ));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let instructions = sim::lane_instructions() / 1_000_000;
    println!(
        "{} cases, {} launches, {instructions} million lane-instructions\n",
        CASES.load(Ordering::Relaxed),
        sim::num_launches(),
    );
    conclusion.exit_code()
}

/// Runs a property on `cases` cases from a fixed seed, or as many as the environment says.
fn property<S: Strategy>(
    cases: u32,
    strategy: S,
    body: impl Fn(S::Value) -> TestCaseResult,
) -> Result<(), Failed> {
    let from_environment = std::env::var("PROPTEST_CASES").ok();
    let cases = from_environment
        .and_then(|n| n.parse().ok())
        .unwrap_or(cases);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let counted = |case| {
        CASES.fetch_add(1, Ordering::Relaxed);
        body(case)
    };
    runner
        .run(&strategy, counted)
        .map_err(|error| Failed::from(error.to_string()))
}

fn step(components: bool) -> impl Strategy<Value = (StepCase, u64)> {
    let budget = Budget {
        elements: 1 << 12,
        components,
    };
    (any_step_cases(budget), any::<u64>())
}

fn lut(file: &'static str, cases: u32) -> Result<(), Failed> {
    property(cases, step(true), |(case, seed)| {
        let shape = &case.shape;
        let centroids = case.floats.floats(shape.centroids_len());
        let queries = case.codes.floats(shape.num_rows() * shape.head_dim);
        let shape = step_shape(shape);
        let got = SimStages::new(file, seed).lut(&shape, &centroids, &queries);
        let expected = CpuStages.lut(&shape, &centroids, &queries).map_err(fail)?;
        check_same("cpu", &got.map_err(fail)?, &expected)
    })
}

fn scores(file: &'static str, cases: u32) -> Result<(), Failed> {
    property(cases, step(false), |(case, seed)| {
        let shape = &case.shape;
        let lens = lens_u32(&case.seq_lens);
        let table = shape.num_subvectors * shape.num_centroids();
        let tables = case.floats.floats(shape.num_rows() * table);
        let codes = shape.groups() * shape.code_capacity * shape.num_subvectors;
        let codes = case.codes.codes(codes, shape.bits);
        let shape = step_shape(shape);
        let got = SimStages::new(file, seed).scores(&shape, &lens, &tables, &codes);
        let expected = CpuStages.scores(&shape, &lens, &tables, &codes);
        check_same("cpu", &got.map_err(fail)?, &expected.map_err(fail)?)
    })
}

fn codes(file: &'static str, cases: u32) -> Result<(), Failed> {
    let strategy = (encode_cases(1 << 12), any::<u64>());
    property(cases, strategy, |(case, seed): (EncodeCase, u64)| {
        let shape = &case.shape;
        let centroids = case.centroids.floats(shape.centroids_len());
        let mut keys = case
            .keys
            .floats(shape.groups() * case.new_tokens * shape.head_dim);
        let mut random = Random::new(seed);
        if case.keys_are_centroids {
            for key in keys.chunks_mut(shape.sub_dim()) {
                let at = random.below(centroids.len() / shape.sub_dim()) * shape.sub_dim();
                key.copy_from_slice(&centroids[at..at + shape.sub_dim()]);
            }
        }
        let codes = (0..shape.groups() * shape.code_capacity * shape.num_subvectors)
            .map(|_| random.below(shape.num_centroids()) as u8);
        let codes: Vec<u8> = codes.collect();
        let lens = lens_u32(&case.seq_lens);
        let added = case.augmentation;
        let added = added.map(|fill| library_augmentation(fill.augmentation(shape)));
        let added = added.as_ref();
        let shape = step_shape(shape);
        let sim = SimStages::new(file, seed);
        let got = sim.codes(&shape, &centroids, added, &lens, &keys, &codes);
        let expected = CpuStages.codes(&shape, &centroids, added, &lens, &keys, &codes);
        check_same("cpu", &got.map_err(fail)?, &expected.map_err(fail)?)
    })
}

fn top_k(file: &'static str, cases: u32) -> Result<(), Failed> {
    property(cases, step(false), |(case, seed)| {
        let scores = case
            .floats
            .floats(case.shape.num_rows() * case.shape.code_capacity);
        let lens = lens_u32(&case.seq_lens);
        let shape = step_shape(&case.shape);
        let got = SimStages::new(file, seed).top_k(&shape, &lens, &scores);
        let expected = CpuStages.top_k(&shape, &lens, &scores).map_err(fail)?;
        check_same("cpu", &got.map_err(fail)?, &expected)
    })
}

fn aggregate(file: &'static str, cases: u32) -> Result<(), Failed> {
    property(cases, step(false), |(case, seed)| {
        let mut shape = step_shape(&case.shape);
        if shape.aggregation == PER_HEAD {
            shape.aggregation = SOFTMAX;
        }
        let scores = case
            .floats
            .floats(case.shape.num_rows() * case.shape.code_capacity);
        let lens = lens_u32(&case.seq_lens);
        let got = SimStages::new(file, seed).aggregate(&shape, &lens, &scores);
        let expected = CpuStages.aggregate(&shape, &lens, &scores).map_err(fail)?;
        check_same("cpu", &got.map_err(fail)?, &expected)
    })
}

/// Lists as the stages before make them.
fn heavy_positions(case: &StepCase) -> Result<Vec<i32>, TestCaseError> {
    let shape = &case.shape;
    let scores = case.floats.floats(shape.num_rows() * shape.code_capacity);
    let lens = lens_u32(&case.seq_lens);
    CpuStages
        .top_k(&step_shape(shape), &lens, &scores)
        .map_err(fail)
}

fn index_list(file: &'static str, cases: u32) -> Result<(), Failed> {
    property(cases, step(false), |(case, seed)| {
        let heavy = heavy_positions(&case)?;
        let lens = lens_u32(&case.seq_lens);
        let shape = step_shape(&case.shape);
        let got = SimStages::new(file, seed).index_list(&shape, &lens, &heavy);
        let (positions, lengths) = got.map_err(fail)?;
        let expected = CpuStages.index_list(&shape, &lens, &heavy).map_err(fail)?;
        check_same("cpu", &positions, &expected.0)?;
        check_same("cpu", &lengths, &expected.1)
    })
}

fn weights(file: &'static str, cases: u32) -> Result<(), Failed> {
    property(cases, step(false), |(case, seed)| {
        let heavy = heavy_positions(&case)?;
        let lens = lens_u32(&case.seq_lens);
        let shape = step_shape(&case.shape);
        let (positions, lengths) = CpuStages.index_list(&shape, &lens, &heavy).map_err(fail)?;
        let got = SimStages::new(file, seed).weights(&shape, &positions, &lengths);
        let expected = CpuStages.weights(&shape, &positions, &lengths);
        check_same("cpu", &got.map_err(fail)?, &expected.map_err(fail)?)
    })
}

fn advance(file: &'static str, cases: u32) -> Result<(), Failed> {
    let lens = proptest::collection::vec(any::<u32>(), 1..700);
    let most = prop_oneof![Just(u32::MAX), 0..1000u32];
    let strategy = (lens, 0..1000u32, most, any::<u64>());
    property(cases, strategy, |(lens, new_tokens, most, seed)| {
        let got = SimStages::new(file, seed).advance(&lens, new_tokens, most);
        let (rows, sequences) = got.map_err(fail)?;
        let longer = |by: u32| lens.iter().map(move |len| len.wrapping_add(by));
        let expected: Vec<i32> = longer(new_tokens).map(|len| len as i32).collect();
        check_same("addition", &rows, &expected)?;
        prop_assert!(sequences.into_iter().eq(longer(new_tokens.min(most))));
        Ok(())
    })
}

/// The fused step against the stages, with and without a new key, in rows of one block and of several,
/// with lists of survivors from the shortest on.
fn select_survivors(file: &'static str, cases: u32) -> Result<(), Failed> {
    select_cases(file, cases, step(true), plan)
}

/// The same on rows that a block scores in many turns, so that cuts rise and lists are compacted.
fn select_survivors_long(file: &'static str, cases: u32) -> Result<(), Failed> {
    select_cases(file, cases, long_step(), plan)
}

/// The same on rows whose bitmap of keys taken is made in several parts, of more words than a block has threads.
fn select_survivors_very_long(file: &'static str, cases: u32) -> Result<(), Failed> {
    select_cases(
        file,
        cases,
        step_of(Just(8), 1..3usize, 66_000..140_000),
        plan,
    )
}

/// The same for formats that have a filter; half of the plans do.
fn select_survivors_filtered(file: &'static str, cases: u32) -> Result<(), Failed> {
    let steps = prop_oneof![step(true), long_step()];
    let has_filter = |(case, _): &(StepCase, u64)| matches!(case.shape.num_subvectors, 8 | 16);
    let steps = steps.prop_filter("a format with a filter", has_filter);
    select_cases(file, cases, steps, plan)
}

/// The same with a row's blocks as a cluster.
fn select_survivors_clustered(file: &'static str, cases: u32) -> Result<(), Failed> {
    let long = step_of(select(&[8usize, 16]), select(&[8usize, 16]), 5000..50_000);
    clustered_cases(file, cases, prop_oneof![2 => step(true), 1 => long])
}

/// The same on rows of which a thread writes several words of the bitmap.
fn select_survivors_clustered_very_long(file: &'static str, cases: u32) -> Result<(), Failed> {
    let steps = step_of(Just(8), select(&[8usize, 16]), 66_000..140_000);
    clustered_cases(file, cases, steps)
}

fn clustered_cases(
    file: &'static str,
    cases: u32,
    steps: impl Strategy<Value = (StepCase, u64)>,
) -> Result<(), Failed> {
    let is_clustered = |(case, _): &(StepCase, u64)| {
        let shape = &case.shape;
        matches!(shape.num_subvectors, 8 | 16)
            && matches!(shape.head_dim / shape.num_subvectors, 8 | 16 | 32 | 64)
            && shape.bits >= 4
            && shape.window >= 2
    };
    let steps = steps.prop_filter("a format with a filter", is_clustered);
    select_cases(file, cases, steps, |shape, num_blocks, random| {
        let mut plans = (2..=num_blocks + 1).rev();
        let plan = plans.find_map(|n| new_plan(shape, n, Filter::OfCluster));
        shorter(plan.expect("heavy is small"), shape, random)
    })
}

fn select_cases(
    file: &'static str,
    cases: u32,
    steps: impl Strategy<Value = (StepCase, u64)>,
    plan: impl Fn(&StepShape, u32, &mut Random) -> Plan,
) -> Result<(), Failed> {
    let strategy = (steps, 1..6u32, any::<bool>());
    property(cases, strategy, |((case, seed), num_blocks, appends)| {
        let mut shape = case.shape;
        // What the kernel asks for.
        (shape.causal, shape.aggregation) = Default::default();
        shape.code_capacity = shape.code_capacity.max(1).next_multiple_of(16);
        shape.list_stride += 1 - shape.window.min(1);
        shape.window = shape.window.max(1);
        if shape.weights_stride > 0 {
            shape.weights_stride = shape.init_offset + shape.code_capacity;
        }
        let new = u32::from(appends);
        let before = lens_u32(&case.seq_lens);
        let before: Vec<u32> = before.iter().map(|len| len.saturating_sub(new)).collect();
        let after: Vec<u32> = before.iter().map(|len| len + new).collect();

        let centroids = case.floats.floats(shape.centroids_len());
        let queries = case.codes.floats(shape.num_rows() * shape.head_dim);
        let new_keys = shape.groups() * shape.head_dim * new as usize;
        let new_keys = case.floats.floats(new_keys);
        let codes = shape.groups() * shape.code_capacity * shape.num_subvectors;
        let codes = case.codes.codes(codes, shape.bits);
        let rows_per_batch = shape.num_rows() / shape.batch;
        let shape = step_shape(&shape);
        let inputs = sim::StepInputs {
            centroids: &centroids,
            queries: &queries,
            new_keys: &new_keys,
            seq_lens: &before,
            codes: &codes,
        };
        let mut random = Random::new(seed);
        let plan = plan(&shape, num_blocks, &mut random);
        let words = (shape.code_capacity / KEYS_PER_WORD) as usize;
        let words = if shape.weights_stride == 0 { 0 } else { words };
        let num_rows = before.len() * rows_per_batch;
        // Some bits of the last step, none behind the last weight.
        let listed = (0..words * num_rows).map(|_| random.below(1 << 16) as u16);
        let listed: Vec<u16> = listed.collect();
        let got = SimStages::new(file, seed).select_survivors(&shape, plan, &inputs, &listed);
        let got = got.map_err(fail)?;

        let tables = CpuStages.lut(&shape, &centroids, &queries).map_err(fail)?;
        let scores = CpuStages.scores(&shape, &after, &tables, &codes);
        let heavy = CpuStages.top_k(&shape, &after, &scores.map_err(fail)?);
        let list = CpuStages.index_list(&shape, &after, &heavy.map_err(fail)?);
        let (positions, lengths) = list.map_err(fail)?;
        let weights = CpuStages.weights(&shape, &positions, &lengths);
        check_same("positions", &got.positions, &positions)?;
        check_same("lengths", &got.lengths, &lengths)?;
        check_same("weights", &got.weights, &weights.map_err(fail)?)?;
        check_same("weights", &got.weights, &weights_again(&shape, &got))?;
        if got
            .tickets
            .chunks(1 + plan.num_blocks as usize)
            .any(|row| row[0] != 0)
        {
            return Err(fail("tickets are left"));
        }
        let codes = CpuStages.codes(&shape, &centroids, None, &before, &new_keys, &codes);
        check_same("codes", &got.codes, &codes.map_err(fail)?)?;
        let lens = after
            .iter()
            .flat_map(|&len| vec![len as i32; rows_per_batch]);
        check_same(
            "lengths of contexts",
            &got.seq_lens,
            &lens.collect::<Vec<_>>(),
        )
    })
}

/// One row of up to 50,000 keys, of every number of codes that has its own loop.
fn long_step() -> impl Strategy<Value = (StepCase, u64)> {
    step_of(select(&[2usize, 3, 4, 8, 16, 32]), 1..3usize, 5000..50_000)
}

/// One row of so many keys, with sub-vectors of so many components.
fn step_of(
    subvectors: impl Strategy<Value = usize>,
    sub_dims: impl Strategy<Value = usize>,
    keys: std::ops::Range<usize>,
) -> impl Strategy<Value = (StepCase, u64)> {
    let palettes = select(&[
        Palette::Usual,
        Palette::FewDistinct,
        Palette::AllEqual,
        Palette::Close,
        Palette::Ramp,
        Palette::Strewn,
        Palette::Special,
    ]);
    let format = (subvectors, 1..9u32, sub_dims);
    let heavy = prop_oneof![1..200usize, 200..3000usize];
    let fills = (palettes.clone(), palettes, any::<u64>(), any::<u64>());
    (format, heavy, keys, 1..40usize, fills).prop_map(
        |((m, bits, sub_dim), heavy, keys, window, (floats, codes, code_seed, seed))| {
            let init_offset = window / 3;
            let seq_len = init_offset + keys;
            let shape = Shape {
                batch: 1,
                num_kv_heads: 1,
                group_size: 1,
                num_queries: 1,
                head_dim: m * sub_dim,
                num_subvectors: m,
                bits,
                init_offset,
                code_capacity: keys + window,
                sink: init_offset + window / 5,
                window,
                heavy,
                short_context: false,
                list_stride: init_offset + 2 * window + heavy,
                weights_stride: seq_len + window,
                ..Shape::default()
            };
            let case = StepCase {
                shape,
                seq_lens: vec![seq_len],
                floats: Fill {
                    seed,
                    palette: floats,
                },
                codes: Fill {
                    seed: code_seed,
                    palette: codes,
                },
            };
            (case, seed)
        },
    )
}

/// A plan for at most so many blocks a row.
fn plan(shape: &StepShape, num_blocks: u32, random: &mut Random) -> Plan {
    let filter = [Filter::None, Filter::OfBlock][random.below(2)];
    let plans = (1..=num_blocks)
        .rev()
        .flat_map(|n| [(n, filter), (n, Filter::None)]);
    let mut plans = plans.filter_map(|(n, filter)| new_plan(shape, n, filter));
    shorter(plans.next().expect("heavy is small"), shape, random)
}

fn new_plan(shape: &StepShape, num_blocks: u32, filter: Filter) -> Option<Plan> {
    Plan::new(shape, num_blocks, filter, 227 * 1024 / 4)
}

/// With the least list of survivors that a launch may have, or a longer one.
fn shorter(plan: Plan, shape: &StepShape, random: &mut Random) -> Plan {
    let heavy = shape.heavy;
    let num_blocks = plan.num_blocks;
    let least = (heavy + MAX_TURN_KEYS)
        .max(num_blocks * heavy)
        .max(shape.head_dim);
    let spare = plan.list_capacity - least;
    let list_capacity = least + [0, spare / 64, spare][random.below(3)];
    let list_capacity = list_capacity.next_multiple_of(4).min(plan.list_capacity);
    let most = plan.exchange_capacity.min(list_capacity / num_blocks);
    let exchange_capacity = [heavy.max(1).min(most), most][random.below(2)];
    Plan {
        list_capacity,
        exchange_capacity,
        ..plan
    }
}

/// The weights of which the step's `listed` tells; those without codes as they are.
fn weights_again(shape: &StepShape, got: &sim::StepOutputs) -> Vec<f32> {
    let mut weights = sim::weights_of(shape, &got.listed);
    let without = shape.init_offset.min(shape.weights_stride) as usize;
    if shape.weights_stride > 0 {
        let stride = shape.weights_stride as usize;
        for (row, got) in weights.chunks_mut(stride).zip(got.weights.chunks(stride)) {
            row[..without].copy_from_slice(&got[..without]);
        }
    }
    weights
}

/// Kernels with barriers, and how many of them order nothing: the last barrier of a block's sum keeps
/// its scratch memory for the next sum, and after the last sum there is none.
const IDLE_BARRIERS: [(&str, usize); 6] = [
    ("scores", 0),
    ("top_k_histogram", 0),
    ("top_k_digit", 1),
    ("top_k_count", 1),
    ("top_k_gather", 1),
    ("weights", 0),
];

/// Takes the barriers out of the file, one after the other: the checks must notice.
fn a_barrier_taken_away_is_missed(file: &'static str) -> Result<(), Failed> {
    let lines: Vec<&str> = sim::text(file).lines().collect();
    for (kernel, num_idle) in IDLE_BARRIERS {
        let entry = format!(".entry {kernel}(");
        let starts = lines.iter().position(|line| line.contains(&entry));
        let start = starts.ok_or_else(|| format!("no kernel {kernel}"))?;
        let end = lines[start..].iter().position(|line| *line == "}");
        let end = start + end.ok_or("an entry without end")?;
        let barriers = (start..end).filter(|&at| lines[at].trim().starts_with("bar.sync"));
        let mut unnoticed = Vec::new();
        for at in barriers {
            let mut lines = lines.clone();
            lines[at] = "";
            let module = Module::parse(&lines.join("\n")).map_err(|error| error.to_string())?;
            if breaks_no_rule(&module, at as u64) {
                unnoticed.push(at + 1);
            }
        }
        if unnoticed.len() > num_idle {
            return Err(format!("{kernel}: barriers of lines {unnoticed:?}").into());
        }
    }
    Ok(())
}

/// Runs all kernels with barriers once, on rows for which several warps have several rounds.
fn breaks_no_rule(module: &Module, seed: u64) -> bool {
    const KEYS: u32 = 6000;
    let shape = one_row(KEYS, 700);
    let fill = Fill {
        seed,
        palette: Palette::FewDistinct,
    };
    let floats = fill.floats(KEYS as usize);
    let codes = fill.codes(KEYS as usize, shape.bits);
    // Not in the places that the threads that list them have cleared.
    let positions: Vec<i32> = (0..700).map(|i| 8 * i).collect();
    let stages = SimStages::of(module, seed);
    let table = &floats[..shape.table_len() as usize];
    stages.run_top_k(&shape, &[KEYS], &floats).is_ok()
        && stages.run_scores(&shape, &[KEYS], table, &codes).is_ok()
        && stages.run_weights(&shape, &positions, &[700]).is_ok()
}

fn one_row(keys: u32, heavy: u32) -> StepShape {
    StepShape {
        num_kv_heads: 1,
        num_qo_heads: 1,
        num_queries: 1,
        head_dim: 1,
        num_subvectors: 1,
        bits: 8,
        init_offset: 0,
        code_capacity: keys,
        sink: 0,
        window: 0,
        heavy,
        short_context_limit: 0,
        list_stride: heavy,
        weights_stride: keys,
        ..StepShape::default()
    }
}
