//! The contract's eight points, each a test by its number, on every device where it makes sense.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use keysieve::{
    Backend, Error, IndexParts, KeyIndex, Keys, Metric, PqConfig, Queries, SelectConfig, Selector,
    TrainConfig,
};
use keysieve_tests::device::{Device, Suite, check_same, fail, lens_u32, step_shape};
use keysieve_tests::oracle::Shape;
use keysieve_tests::strategies::{
    Budget, Fill, LoopCase, Palette, StepCase, loop_cases, step_cases,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use rayon::ThreadPoolBuilder;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("contract_1_candidates", whole_cases, candidates);
    suite.property("contract_2_total_order", stage_cases, total_order);
    suite.on_each_device(
        "contract_2_total_order_of_special_scores",
        total_order_of_specials,
    );
    suite.property(
        "contract_3_list_ascends_without_duplicates",
        whole_cases,
        list_ascends,
    );
    suite.on_each_device("contract_4_short_contexts_are_listed_whole", short_contexts);
    suite.on_each_device("contract_5_sums_are_fixed", sums_are_fixed);
    suite.property(
        "contract_5_backends_give_equal_lists",
        whole_cases,
        backends_agree,
    );
    suite.property("contract_6_rows_stand_alone", whole_cases, rows_stand_alone);
    suite.on_each_device(
        "contract_6_runs_and_threads_change_nothing",
        runs_and_threads,
    );
    suite.on_device(
        "cpu",
        "contract_7_a_step_allocates_nothing",
        a_step_allocates_nothing,
    );
    suite.on_device(
        "cuda",
        "contract_7_a_graph_outlives_growth",
        a_graph_outlives_growth,
    );
    suite.on_each_device(
        "contract_8_errors_name_the_argument_and_change_nothing",
        bad_calls,
    );
    suite.alone("contract_8_bad_arguments_are_named", bad_arguments);
    suite.run()
}

fn whole_cases() -> impl Strategy<Value = LoopCase> {
    loop_cases(Budget {
        elements: 1 << 13,
        components: true,
    })
}

fn stage_cases() -> impl Strategy<Value = StepCase> {
    step_cases(Budget {
        elements: 1 << 13,
        components: false,
    })
}

/// An index and its queries, made from a case without its appends.
#[derive(Debug, Clone)]
struct Whole {
    shape: Shape,
    parts: IndexParts,
    queries: Vec<f32>,
    config: SelectConfig,
}

impl Whole {
    fn new(case: &LoopCase) -> Self {
        let shape = case.shape;
        let codes_len = shape.groups() * case.num_codes * shape.num_subvectors;
        Whole {
            shape,
            parts: IndexParts {
                config: PqConfig {
                    num_subvectors: shape.num_subvectors,
                    bits: shape.bits,
                    init_offset: shape.init_offset,
                    metric: Metric::L2,
                },
                batch: shape.batch,
                num_kv_heads: shape.num_kv_heads,
                head_dim: shape.head_dim,
                num_codes: case.num_codes,
                centroids: case.centroids.floats(shape.centroids_len()),
                codes: case.codes.codes(codes_len, shape.bits),
            },
            queries: case.queries.floats(shape.num_rows() * shape.head_dim),
            config: SelectConfig {
                sink: shape.sink,
                window: shape.window,
                heavy: shape.heavy,
                short_context: shape.short_context,
                weights: false,
            },
        }
    }

    /// A small one of ordinary numbers: `[2 batch, 2 kv heads, 2 query heads each, 1 query]`.
    fn small(num_codes: usize, config: SelectConfig) -> Self {
        let shape = Shape {
            batch: 2,
            num_kv_heads: 2,
            group_size: 2,
            num_queries: 1,
            head_dim: 8,
            num_subvectors: 2,
            bits: 4,
            init_offset: 4,
            code_capacity: num_codes,
            sink: config.sink,
            window: config.window,
            heavy: config.heavy,
            short_context: config.short_context,
            list_stride: 1,
            weights_stride: 0,
        };
        let fill = |seed| Fill {
            seed,
            palette: Palette::Usual,
        };
        let case = LoopCase {
            shape,
            num_codes,
            appends: Vec::new(),
            weights: false,
            centroids: fill(1),
            codes: fill(2),
            keys: fill(3),
            queries: fill(4),
        };
        Whole {
            config,
            ..Whole::new(&case)
        }
    }

    fn seq_len(&self) -> usize {
        self.shape.init_offset + self.parts.num_codes
    }

    fn selector(&self, backend: &Backend, spare: usize) -> Result<Selector, TestCaseError> {
        let index = KeyIndex::from_parts(self.parts.clone(), self.seq_len() + spare);
        let (heads, queries) = (self.shape.num_qo_heads(), self.shape.num_queries);
        Selector::new(backend, index.map_err(fail)?, self.config, heads, queries).map_err(fail)
    }

    fn queries(&self) -> Queries<'_> {
        Queries {
            data: &self.queries,
            batch: self.shape.batch,
            num_qo_heads: self.shape.num_qo_heads(),
            num_queries: self.shape.num_queries,
            head_dim: self.shape.head_dim,
        }
    }

    /// Every row's list, without padding.
    fn lists(&self, backend: &Backend) -> Result<Vec<Vec<i32>>, TestCaseError> {
        let mut selector = self.selector(backend, 0)?;
        let selection = selector.select(self.queries()).map_err(fail)?;
        let stride = selection.list_stride();
        let lists = selection
            .padded_positions()
            .chunks(stride)
            .zip(selection.lengths());
        Ok(lists
            .map(|(list, &len)| list[..len as usize].to_vec())
            .collect())
    }

    /// Only the rows of one (batch, kv head), its query heads and their queries.
    fn only_group(&self, group: usize) -> Whole {
        let part =
            |len: usize| group * len / self.shape.groups()..(group + 1) * len / self.shape.groups();
        let parts = &self.parts;
        Whole {
            shape: Shape {
                batch: 1,
                num_kv_heads: 1,
                ..self.shape
            },
            parts: IndexParts {
                batch: 1,
                num_kv_heads: 1,
                centroids: parts.centroids[part(parts.centroids.len())].to_vec(),
                codes: parts.codes[part(parts.codes.len())].to_vec(),
                ..parts.clone()
            },
            queries: self.queries[part(self.queries.len())].to_vec(),
            config: self.config,
        }
    }

    /// Only one row: one query of one query head.
    fn only_row(&self, row: usize) -> Whole {
        let rows_per_group = self.shape.group_size * self.shape.num_queries;
        let mut alone = self.only_group(row / rows_per_group);
        alone.shape.group_size = 1;
        alone.shape.num_queries = 1;
        alone.queries = self.queries[row * self.shape.head_dim..][..self.shape.head_dim].to_vec();
        alone
    }
}

/// 1: heavy keys are candidates, and as many as there are up to `heavy`.
fn candidates(device: &Device, case: LoopCase) -> TestCaseResult {
    let mut whole = Whole::new(&case);
    whole.config.short_context = false;
    let (shape, seq_len) = (whole.shape, whole.seq_len());
    let is_candidate = |p: usize| {
        p >= shape.init_offset.max(shape.sink) && (p as i64) < seq_len as i64 - shape.window as i64
    };
    let num_candidates = (0..seq_len).filter(|&p| is_candidate(p)).count();
    for list in whole.lists(&device.backend)? {
        let always = |p: usize| p < shape.sink || p + shape.window >= seq_len;
        let heavy: Vec<usize> = list
            .iter()
            .map(|&p| p as usize)
            .filter(|&p| !always(p))
            .collect();
        prop_assert!(
            heavy.iter().all(|&p| is_candidate(p)),
            "{:?} of {}",
            heavy,
            seq_len
        );
        prop_assert_eq!(heavy.len(), shape.heavy.min(num_candidates));
    }
    Ok(())
}

/// 2: no candidate left out stands before one taken, by the order's own words.
fn total_order(device: &Device, case: StepCase) -> TestCaseResult {
    let shape = &case.shape;
    let scores = case.floats.floats(shape.num_rows() * shape.code_capacity);
    let seq_lens = lens_u32(&case.seq_lens);
    let heavy = device
        .stages()
        .top_k(&step_shape(shape), &seq_lens, &scores)
        .map_err(fail)?;
    for (row, (batch, _)) in shape.rows().into_iter().enumerate() {
        let seq_len = case.seq_lens[batch];
        let taken = &heavy[row * shape.heavy..][..shape.heavy_k(seq_len)];
        let mut is_taken = vec![false; seq_len];
        taken.iter().for_each(|&p| is_taken[p as usize] = true);
        let candidates = || (0..seq_len).filter(|&p| shape.is_candidate(p, seq_len));
        let score = |p: usize| scores[row * shape.code_capacity + p - shape.init_offset];
        let before = |p: usize, q: usize| match (score(p), score(q)) {
            (a, b) if a.is_nan() && b.is_nan() => p < q,
            (a, b) if a.is_nan() || b.is_nan() => b.is_nan(),
            (a, b) => a > b || (a == b && p < q),
        };
        let last_taken = candidates()
            .filter(|&p| is_taken[p])
            .reduce(|last, p| if before(last, p) { p } else { last });
        let Some(last_taken) = last_taken else {
            continue;
        };
        for p in candidates().filter(|&p| !is_taken[p]) {
            let (left, kept) = (score(p), score(last_taken));
            prop_assert!(
                before(last_taken, p),
                "{p}: {left:?} left, {last_taken}: {kept:?} taken"
            );
        }
    }
    Ok(())
}

fn total_order_of_specials(device: &Device) -> TestCaseResult {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    // By the order: 4 (inf), 7 (1), 1 (-0), 3 (+0), 6 (-inf), 0, 2, 5 (NaN).
    let scores = [nan, -0.0, -nan, 0.0, inf, nan, -inf, 1.0];
    let order = [4, 7, 1, 3, 6, 0, 2, 5];
    for heavy in 0..=8 {
        let shape = Shape {
            batch: 1,
            num_kv_heads: 1,
            group_size: 1,
            num_queries: 1,
            head_dim: 1,
            num_subvectors: 1,
            bits: 1,
            init_offset: 0,
            code_capacity: 8,
            sink: 0,
            window: 0,
            heavy,
            short_context: false,
            list_stride: 8,
            weights_stride: 0,
        };
        let mut expected = order[..heavy].to_vec();
        expected.sort();
        device.check(&expected, |stages| {
            stages.top_k(&step_shape(&shape), &[8], &scores)
        })?;
    }
    Ok(())
}

/// 3: whatever overlaps, lists ascend, stay inside the context and are padded with -1.
fn list_ascends(device: &Device, case: LoopCase) -> TestCaseResult {
    let whole = Whole::new(&case);
    let mut selector = whole.selector(&device.backend, 0)?;
    let selection = selector.select(whole.queries()).map_err(fail)?;
    let lists = selection.padded_positions().chunks(selection.list_stride());
    for (list, &len) in lists.zip(selection.lengths()) {
        let (listed, padding) = list.split_at(len as usize);
        prop_assert!(
            listed.windows(2).all(|pair| pair[0] < pair[1]),
            "{:?}",
            listed
        );
        prop_assert!(
            listed
                .iter()
                .all(|&p| 0 <= p && (p as usize) < whole.seq_len())
        );
        prop_assert!(padding.iter().all(|&p| p == -1));
    }
    Ok(())
}

/// 4: up to `heavy + init_offset + num_queries + 2^bits` positions all are listed, then not, and
/// not at all with the rule off.
fn short_contexts(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 2,
        window: 3,
        heavy: 5,
        short_context: true,
        weights: false,
    };
    // heavy 5 + init_offset 4 + 1 query + 16 centroids.
    let limit = 26;
    let at_limit = Whole::small(limit - 4, config);
    let all: Vec<i32> = (0..limit as i32).collect();
    for list in at_limit.lists(&device.backend)? {
        prop_assert_eq!(&list, &all);
    }
    let mut off = at_limit.clone();
    off.config.short_context = false;
    for list in off.lists(&device.backend)? {
        prop_assert_eq!(list.len(), 2 + 5 + 3);
    }
    // The same selector, grown beyond the limit.
    let mut selector = at_limit.selector(&device.backend, 1)?;
    let new_keys = [0.5; 4 * 8];
    selector
        .append(Keys::new(&new_keys, [2, 2, 1, 8]).map_err(fail)?)
        .map_err(fail)?;
    let grown = selector.select(at_limit.queries()).map_err(fail)?;
    prop_assert_eq!(grown.lengths(), [2 + 5 + 3; 8]);
    Ok(())
}

/// 5: a table entry fuses, in eight partial sums; a score does not, in order.
fn sums_are_fixed(device: &Device) -> TestCaseResult {
    let mut shape = Whole::small(1, SelectConfig::default()).shape;
    shape = Shape {
        batch: 1,
        num_kv_heads: 1,
        group_size: 1,
        num_subvectors: 1,
        bits: 1,
        ..shape
    };

    // Components 0 and 8 share a partial sum. Fused, the square's last bit survives the difference.
    shape.head_dim = 9;
    let x = 1.0 + 1.0 / 4096.0;
    let mut query = [0.0; 9];
    (query[0], query[8]) = (-(1.0 + 1.0 / 2048.0), x);
    let mut centroids = [0.0; 18];
    (centroids[0], centroids[8]) = (1.0, x);
    let fused = [2f32.powi(-24), 0.0];
    device.check(&fused, |stages| {
        stages.lut(&step_shape(&shape), &centroids, &query)
    })?;

    // Pairs first: each 1 is lost beside its 1e8, and the 3s lie in the other half. One after the
    // other the sum would be 13, exactly it would be 14.
    shape.head_dim = 8;
    let query = [1e8, 1.0, -1e8, 1.0, 3.0, 3.0, 3.0, 3.0];
    let mut centroids = [0.0; 16];
    centroids[..8].fill(1.0);
    let paired = [12.0, 0.0];
    device.check(&paired, |stages| {
        stages.lut(&step_shape(&shape), &centroids, &query)
    })
}

/// 5: lists of one backend are lists of the other.
fn backends_agree(device: &Device, case: LoopCase) -> TestCaseResult {
    let whole = Whole::new(&case);
    let (here, on_cpu) = (whole.lists(&device.backend)?, whole.lists(&Backend::Cpu)?);
    for (here, on_cpu) in here.iter().zip(&on_cpu) {
        check_same("cpu backend", here, on_cpu)?;
    }
    Ok(())
}

/// 6: each row alone gets the list it got among the others.
fn rows_stand_alone(device: &Device, case: LoopCase) -> TestCaseResult {
    let whole = Whole::new(&case);
    let among_others = whole.lists(&device.backend)?;
    let rows_per_group = whole.shape.group_size * whole.shape.num_queries;
    for (group, expected) in among_others.chunks(rows_per_group).enumerate() {
        let alone = whole.only_group(group).lists(&device.backend)?;
        prop_assert_eq!(&alone, expected, "group {}", group);
    }
    // One query instead of several changes the short-context rule by what the rule says.
    let mut no_rule = whole.clone();
    no_rule.config.short_context = false;
    for (row, expected) in no_rule.lists(&device.backend)?.into_iter().enumerate() {
        let alone = no_rule.only_row(row).lists(&device.backend)?;
        prop_assert_eq!(&alone, &[expected], "row {}", row);
    }
    Ok(())
}

/// 6: the same step again, and on other numbers of threads.
fn runs_and_threads(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 4,
        window: 16,
        heavy: 300,
        short_context: false,
        weights: true,
    };
    let whole = Whole::small(5000, config);
    let mut selector = whole.selector(&device.backend, 0)?;
    let first = selector.select(whole.queries()).map_err(fail)?.clone();
    for _ in 0..20 {
        prop_assert!(selector.select(whole.queries()).map_err(fail)? == &first);
    }
    let backend = &device.backend;
    for num_threads in [1, 2, 3, 8] {
        let pool = ThreadPoolBuilder::new()
            .num_threads(num_threads)
            .build()
            .map_err(fail)?;
        pool.install(|| -> TestCaseResult {
            let mut selector = whole.selector(backend, 0)?;
            prop_assert!(selector.select(whole.queries()).map_err(fail)? == &first);
            Ok(())
        })?;
    }
    Ok(())
}

/// Counts what the threads that asked for it allocate.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing,
// as the thread-local is constant-initialised and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(usize::from(COUNTED.get()), Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(usize::from(COUNTED.get()), Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// 7, on the CPU: after the first step, neither `append` nor `select` allocates, on any thread of
/// the pool they run in.
fn a_step_allocates_nothing(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 4,
        window: 16,
        heavy: 64,
        short_context: true,
        weights: true,
    };
    let whole = Whole::small(3000, config);
    let new_keys = Fill {
        seed: 9,
        palette: Palette::Usual,
    }
    .floats(4 * 8);
    let new_keys = Keys::new(&new_keys, [2, 2, 1, 8]).map_err(fail)?;
    let backend = &device.backend;
    for num_threads in [1, 3] {
        let pool = ThreadPoolBuilder::new()
            .num_threads(num_threads)
            .build()
            .map_err(fail)?;
        // A thread's first look for work makes its place in rayon's queues; by now each has looked.
        pool.broadcast(|_| COUNTED.set(true));
        // Inside the pool from the start: coming in from outside is rayon's business, and may allocate.
        pool.install(|| -> TestCaseResult {
            let mut selector = whole.selector(backend, 20)?;
            for step in 0..20 {
                let before = ALLOCATIONS.load(Ordering::SeqCst);
                selector.append(new_keys).map_err(fail)?;
                let after_append = ALLOCATIONS.load(Ordering::SeqCst);
                selector.select(whole.queries()).map_err(fail)?;
                let after_select = ALLOCATIONS.load(Ordering::SeqCst);
                // The first steps also make room in rayon's own queues.
                if step >= 3 {
                    prop_assert_eq!(after_append - before, 0, "append, {} threads", num_threads);
                    prop_assert_eq!(
                        after_select - after_append,
                        0,
                        "select, {} threads",
                        num_threads
                    );
                }
            }
            // The counter counts: this allocates.
            let before = ALLOCATIONS.load(Ordering::SeqCst);
            std::hint::black_box(vec![1u8; 100]);
            prop_assert!(ALLOCATIONS.load(Ordering::SeqCst) > before);
            Ok(())
        })?;
        // A thread that ends tidies up rayon's queues, which may allocate during the next pool's steps.
        pool.broadcast(|_| COUNTED.set(false));
    }
    Ok(())
}

/// 7, on the GPU: a graph captured once gives what fresh steps give, while the context grows from
/// below the short-context limit to its capacity, and ends there with an error.
fn a_graph_outlives_growth(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 2,
        window: 3,
        heavy: 5,
        short_context: true,
        weights: true,
    };
    let whole = Whole::small(10, config);
    let spare = 40;
    let mut replayed = whole.selector(&device.backend, spare)?;
    let mut stepped = whole.selector(&Backend::Cpu, spare)?;
    let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
    let graph = step.capture().map_err(fail)?;
    for i in 0..spare as u64 {
        let new_keys = Fill {
            seed: 100 + i,
            palette: Palette::Usual,
        }
        .floats(4 * 8);
        let new_keys = Keys::new(&new_keys, [2, 2, 1, 8]).map_err(fail)?;
        let data = Fill {
            seed: 200 + i,
            palette: Palette::Usual,
        }
        .floats(8 * 8);
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

/// Whether the error names that argument.
#[track_caller]
fn names<T>(argument: &str, result: keysieve::Result<T>) -> TestCaseResult {
    let place = std::panic::Location::caller();
    match result {
        Err(Error::Invalid {
            argument: named, ..
        }) if named.contains(argument) => Ok(()),
        Err(other) => Err(fail(format!(
            "{place}: expected {argument} to be named, got: {other}"
        ))),
        Ok(_) => Err(fail(format!(
            "{place}: expected an error that names {argument}, got none"
        ))),
    }
}

/// 8: calls of a selector that fail leave index, length and last selection as they were.
fn bad_calls(device: &Device) -> TestCaseResult {
    let whole = Whole::small(
        30,
        SelectConfig {
            heavy: 6,
            ..SelectConfig::default()
        },
    );
    let mut selector = whole.selector(&device.backend, 2)?;
    selector.select(whole.queries()).map_err(fail)?;
    let index = selector.to_index().map_err(fail)?;
    let selection = selector.selection().clone();

    let data = vec![1.0; 4096];
    let keys = |shape: [usize; 4]| Keys::new(&data[..shape.iter().product()], shape).map_err(fail);
    let queries =
        |shape: [usize; 4]| Queries::new(&data[..shape.iter().product()], shape).map_err(fail);

    names("batch", selector.append(keys([1, 2, 1, 8])?))?;
    names("num_kv_heads", selector.append(keys([2, 1, 1, 8])?))?;
    names("head_dim", selector.append(keys([2, 2, 1, 4])?))?;
    let too_many = selector.append(keys([2, 2, 3, 8])?);
    let expected = Error::Capacity {
        seq_len: 34,
        additional: 3,
        capacity: 36,
    };
    prop_assert_eq!(too_many, Err(expected));
    let mut not_finite = vec![1.0; 4 * 8];
    (not_finite[17], not_finite[31]) = (f32::NEG_INFINITY, f32::NAN);
    let got = selector.append(Keys::new(&not_finite, [2, 2, 1, 8]).map_err(fail)?);
    let expected = Error::NotFinite {
        batch: 1,
        head: 0,
        token: 0,
        component: 1,
        value: "-inf".into(),
    };
    prop_assert_eq!(got, Err(expected));

    names("batch", selector.select(queries([1, 4, 1, 8])?).map(drop))?;
    names(
        "num_qo_heads",
        selector.select(queries([2, 2, 1, 8])?).map(drop),
    )?;
    names(
        "num_queries",
        selector.select(queries([2, 4, 2, 8])?).map(drop),
    )?;
    names(
        "head_dim",
        selector.select(queries([2, 4, 1, 4])?).map(drop),
    )?;

    // Fields are public: data may be shorter or longer than they say.
    for len in [0, 31, 33] {
        let lying = Keys {
            data: &data[..len],
            ..keys([2, 2, 1, 8])?
        };
        names("keys", selector.append(lying))?;
    }
    for len in [0, 63, 65] {
        let lying = Queries {
            data: &data[..len],
            ..whole.queries()
        };
        names("queries", selector.select(lying).map(drop))?;
    }

    prop_assert_eq!(selector.seq_len(), 34);
    prop_assert!(
        selector.to_index().map_err(fail)? == index,
        "the index changed"
    );
    prop_assert!(selector.selection() == &selection, "the selection changed");
    let again = selector.select(whole.queries()).map_err(fail)?;
    prop_assert!(again == &selection, "a step after the failed calls differs");

    // Making one.
    let make = |config: SelectConfig, heads, queries| {
        Selector::new(&device.backend, index.clone(), config, heads, queries).map(drop)
    };
    let config = SelectConfig::default();
    names(
        "heavy",
        make(
            SelectConfig {
                heavy: 4097,
                ..config
            },
            4,
            1,
        ),
    )?;
    names(
        "sink",
        make(
            SelectConfig {
                sink: (1 << 24) + 1,
                ..config
            },
            4,
            1,
        ),
    )?;
    names(
        "window",
        make(
            SelectConfig {
                window: usize::MAX,
                ..config
            },
            4,
            1,
        ),
    )?;
    names("num_qo_heads", make(config, 0, 1))?;
    names("num_qo_heads", make(config, 3, 1))?;
    names("num_queries", make(config, 4, 0))?;
    names("queries", make(config, 1 << 40, 1))?;
    names("queries", make(config, 1 << 40, 1 << 40))?;
    // Allowed: nothing heavy, a window and a sink longer than the context.
    make(
        SelectConfig {
            heavy: 0,
            sink: 1000,
            window: 1000,
            ..config
        },
        4,
        1,
    )
    .map_err(fail)
}

/// 8: what needs no device.
fn bad_arguments() -> TestCaseResult {
    let data = vec![1.0; 2 * 40 * 8];
    names("keys", Keys::new(&data, [1, 2, 40, 9]))?;
    names("keys", Keys::new(&data, [usize::MAX, 2, 40, 8]))?;
    names("queries", Queries::new(&data, [1, 2, 40, 7]))?;
    names("metric", Metric::from_name("cosine"))?;

    let keys = Keys::new(&data, [1, 2, 40, 8]).map_err(fail)?;
    let pq = PqConfig {
        num_subvectors: 2,
        bits: 3,
        init_offset: 4,
        metric: Metric::L2,
    };
    let train = |pq: PqConfig, keys, capacity| {
        KeyIndex::train(&pq, &TrainConfig::default(), keys, capacity).map(drop)
    };
    names("bits", train(PqConfig { bits: 0, ..pq }, keys, 40))?;
    names("bits", train(PqConfig { bits: 9, ..pq }, keys, 40))?;
    names(
        "bits",
        train(
            PqConfig {
                bits: u32::MAX,
                ..pq
            },
            keys,
            40,
        ),
    )?;
    for num_subvectors in [0, 3, 16, 65, usize::MAX] {
        names(
            "num_subvectors",
            train(
                PqConfig {
                    num_subvectors,
                    ..pq
                },
                keys,
                40,
            ),
        )?;
    }
    names(
        "init_offset",
        train(
            PqConfig {
                init_offset: (1 << 24) + 1,
                ..pq
            },
            keys,
            40,
        ),
    )?;
    names(
        "keys",
        train(
            PqConfig {
                init_offset: 40,
                ..pq
            },
            keys,
            40,
        ),
    )?;
    names("capacity", train(pq, keys, 39))?;
    names("capacity", train(pq, keys, (1 << 24) + 1))?;
    names(
        "keys",
        train(
            pq,
            Keys {
                data: &data[1..],
                ..keys
            },
            40,
        ),
    )?;
    let wide = vec![1.0; 5 * 257];
    names(
        "head_dim",
        train(pq, Keys::new(&wide, [1, 1, 5, 257]).map_err(fail)?, 40),
    )?;
    names(
        "head_dim",
        train(pq, Keys::new(&[], [1, 1, 5, 0]).map_err(fail)?, 40),
    )?;
    names(
        "keys",
        train(pq, Keys::new(&[], [0, 2, 40, 8]).map_err(fail)?, 40),
    )?;

    let parts = Whole::small(30, SelectConfig::default()).parts;
    let from = |change: fn(&mut IndexParts), capacity| {
        let mut parts = parts.clone();
        change(&mut parts);
        KeyIndex::from_parts(parts, capacity).map(drop)
    };
    from(|_| (), 34).map_err(fail)?;
    names("capacity", from(|_| (), 33))?;
    names("capacity", from(|_| (), usize::MAX))?;
    names("bits", from(|parts| parts.config.bits = 9, 34))?;
    names("head_dim", from(|parts| parts.head_dim = 0, 34))?;
    names("index", from(|parts| parts.batch = 0, 34))?;
    names("centroids", from(|parts| parts.centroids.truncate(1), 34))?;
    names("centroids", from(|parts| parts.centroids.push(1.0), 34))?;
    names("codes", from(|parts| parts.codes.truncate(1), 34))?;
    names("codes", from(|parts| parts.codes[7] = 16, 34))?;
    names("", from(|parts| parts.num_codes = usize::MAX, 34))?;
    names("", from(|parts| parts.batch = usize::MAX, 34))?;
    names("", from(|parts| parts.num_kv_heads = usize::MAX / 2, 34))?;

    let mut index = KeyIndex::from_parts(parts.clone(), 40).map_err(fail)?;
    let before = index.clone();
    names("capacity", index.reserve((1 << 24) + 1))?;
    names(
        "head_dim",
        index.append(Keys::new(&data[..32], [2, 2, 2, 4]).map_err(fail)?),
    )?;
    prop_assert!(index == before, "the index changed");
    Ok(())
}
