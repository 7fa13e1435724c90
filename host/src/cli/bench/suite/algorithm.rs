//! The rest of the algorithm beside dense decode steps: each part checked against the CPU, then timed.

use std::time::Instant;

use anyhow::ensure;
use keysieve::cuda::timing::Stopwatch;
use keysieve::cuda::{Device, KeyBuffer, KeySlice, train};
use keysieve::{
    Aggregation, Backend, IndexParts, KeyIndex, Keys, Paging, PqConfig, Queries, RaggedConfig,
    RaggedSelector, SelectConfig, Selector, SequenceConfig, Start, TrainConfig,
};

use super::super::check;
use super::super::cpu::us;
use super::super::cuda::step_of;
use super::super::data::Data;
use super::super::plan::REPLAYS;
use super::super::progress::Progress;
use super::super::shape::Shape;
use super::super::stats::Stats;

/// Times that each part is measured, after one that is not.
const RUNS: usize = 5;
/// Sequences of the ragged batch.
const SEQUENCES: usize = 8;
/// Tokens of the training that the CPU repeats: all of them would take it minutes.
const CHECKED_TOKENS: usize = 2048;

/// A part's figure in microseconds.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) measured: Stats,
    pub(super) target_us: Option<f64>,
    pub(super) meaning: &'static str,
}

/// Measures every part on keys of `reference`'s shape; grouped, ragged and paged steps with a quarter of its
/// key-value heads.
pub(super) fn measure(
    reference: &Shape,
    seed: u64,
    device: &Device,
    progress: &Progress,
) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let trained = Shape {
        tokens: reference.tokens - reference.init_offset,
        init_offset: 0,
        ..reference.clone()
    };
    let data = Data {
        shape: &trained,
        seed,
    };
    progress.phase("training", 2);
    for (num_subvectors, bits, target_us) in [(2, 6, 6e3), (8, 8, 25e3)] {
        let pq = PqConfig {
            num_subvectors,
            bits,
            init_offset: 0,
            ..PqConfig::default()
        };
        parts.push(training(&data, &pq, target_us, device)?);
        progress.advance(1);
    }
    let data = Data {
        shape: reference,
        seed,
    };
    parts.push(prefill(&data, device, progress)?);

    let grouped = Shape {
        num_kv_heads: (reference.num_kv_heads / 4).max(1),
        weights: false,
        ..reference.clone()
    };
    let data = Data {
        shape: &grouped,
        seed,
    };
    let (tokens, capacity) = (grouped.tokens - 1, grouped.tokens + (RUNS + 1) * REPLAYS);
    let index = data.index(tokens, capacity, progress)?;
    progress.phase("grouped, ragged, paged", 5);
    for (name, aggregation) in [
        ("grouped-max", Aggregation::Max),
        ("grouped-softmax", Aggregation::SoftmaxSum),
    ] {
        parts.push(aggregated(name, aggregation, &data, &index, device)?);
        progress.advance(1);
    }
    for (name, paging) in [("ragged", false), ("paged", true)] {
        parts.push(ragged(name, paging, &data, &index, device)?);
        progress.advance(1);
    }
    Ok(parts)
}

/// Ten iterations of k-means on keys in device memory.
fn training(
    data: &Data<'_>,
    pq: &PqConfig,
    target_us: f64,
    device: &Device,
) -> anyhow::Result<Part> {
    let config = |iterations| TrainConfig {
        iterations,
        start: Start::Sampled,
        ..TrainConfig::default()
    };
    let trained = |tokens: usize, iterations, keys: &[f32]| -> keysieve::Result<(f64, KeyIndex)> {
        let shape = data.shape;
        let buffer = KeyBuffer::new(device, KeySlice::F32(keys))?;
        let extent = [shape.batch, shape.num_kv_heads, tokens, shape.head_dim];
        let head_stride = tokens * shape.head_dim;
        let strides = [
            shape.num_kv_heads * head_stride,
            head_stride,
            shape.head_dim,
        ];
        let on_device = buffer.keys(extent, strides)?;
        let start = Instant::now();
        // SAFETY: the buffer outlives the call, and nothing writes it.
        let index = unsafe { train::train(device, pq, &config(iterations), &on_device, tokens)? };
        Ok((us(start.elapsed()), index))
    };
    let checked = CHECKED_TOKENS.min(data.shape.tokens);
    let keys = data.keys(0..checked);
    let (_, on_gpu) = trained(checked, 10, &keys)?;
    let on_cpu = KeyIndex::train(pq, &config(10), data.as_keys(&keys, checked)?, checked)?;
    let (got, expected) = (on_gpu.training_error(), on_cpu.training_error());
    let is_as_good = got
        .zip(expected)
        .is_some_and(|(got, expected)| (got - expected).abs() <= 1e-3 * expected);
    ensure!(
        is_as_good,
        "training: an error of {got:?} on the GPU, {expected:?} on the CPU"
    );

    let tokens = data.shape.tokens;
    let keys = data.keys(0..tokens);
    let mut first = None;
    let mut times = Vec::new();
    for run in 0..=RUNS {
        let (none, _) = trained(tokens, 0, &keys)?;
        let (ten, index) = trained(tokens, 10, &keys)?;
        let centroids = index.centroids().to_vec();
        let first = first.get_or_insert_with(|| centroids.clone());
        ensure!(*first == centroids, "training: two runs differ");
        if run > 0 {
            times.push(ten - none);
        }
    }
    Ok(Part {
        name: format!("train-m{}-b{}", pq.num_subvectors, pq.bits),
        measured: Stats::of(&times),
        target_us: Some(target_us),
        meaning: "10 iterations: wall clock of training with them less without",
    })
}

/// Keys of a whole prompt appended from host memory.
fn prefill(data: &Data<'_>, device: &Device, progress: &Progress) -> anyhow::Result<Part> {
    let shape = data.shape;
    let (first, tokens) = (shape.init_offset, shape.tokens - shape.init_offset);
    let empty = data.index(first, shape.tokens, progress)?;
    let data_of_all = data.keys(first..shape.tokens);
    let keys = data.as_keys(&data_of_all, tokens)?;
    let mut expected = empty.clone();
    expected.append(keys)?;
    let backend = Backend::Cuda(device.clone());
    let select = SelectConfig {
        weights: false,
        ..shape.select()
    };
    let mut selector = Selector::new(&backend, empty, select, shape.num_qo_heads, 1)?;
    let mut times = Vec::new();
    for run in 0..=RUNS {
        let start = Instant::now();
        selector.append(keys)?;
        let time = us(start.elapsed());
        if run == 0 {
            check::same_codes(&selector.to_index()?, &expected)?;
        } else {
            times.push(time);
        }
        step_of(&mut selector).rewind(tokens)?;
    }
    Ok(Part {
        name: "prefill-encode".into(),
        measured: Stats::of(&times),
        target_us: None,
        meaning: "wall clock: f32 keys from host memory, uploaded and encoded",
    })
}

/// Steps that list for key-value heads.
fn aggregated(
    name: &str,
    aggregation: Aggregation,
    data: &Data<'_>,
    index: &KeyIndex,
    device: &Device,
) -> anyhow::Result<Part> {
    let shape = data.shape;
    let select = SelectConfig {
        aggregation,
        ..shape.select()
    };
    let selector =
        |backend: &Backend| Selector::new(backend, index.clone(), select, shape.num_qo_heads, 1);
    let (mut on_gpu, mut on_cpu) = (
        selector(&Backend::Cuda(device.clone()))?,
        selector(&Backend::Cpu)?,
    );
    let token = index.seq_len();
    let (keys, queries) = (data.keys(token..token + 1), data.queries(0));
    let (keys, queries) = (data.as_keys(&keys, 1)?, data.as_queries(&queries)?);
    on_cpu.append(keys)?;
    let expected = on_cpu.select(queries)?;
    let graph = step_of(&mut on_gpu).capture()?;
    step_of(&mut on_gpu).upload(keys, queries)?;
    step_of(&mut on_gpu).replay(&graph)?;
    check::same(name, on_gpu.read()?, expected)?;

    let watch = Stopwatch::new(device)?;
    let step = step_of(&mut on_gpu);
    let mut times = Vec::new();
    for run in 0..=RUNS {
        let time = watch.time(step, |step| {
            (0..REPLAYS).try_for_each(|_| step.replay(&graph))
        })?;
        step.rewind(REPLAYS)?;
        if run > 0 {
            times.push(time / REPLAYS as f64);
        }
    }
    Ok(Part {
        name: name.into(),
        measured: Stats::of(&times),
        target_us: None,
        meaning: "GPU time a replay of 200 in a row, a list for each key-value head",
    })
}

/// A batch of sequences from an eighth of the context to all of it, all but one of which append.
fn ragged(
    name: &str,
    is_paged: bool,
    data: &Data<'_>,
    index: &KeyIndex,
    device: &Device,
) -> anyhow::Result<Part> {
    const PAGE_SIZE: usize = 64;
    let shape = data.shape;
    let capacity = index.capacity();
    let pages = capacity.div_ceil(PAGE_SIZE);
    let config = RaggedConfig {
        batch: SEQUENCES,
        num_kv_heads: shape.num_kv_heads,
        num_qo_heads: shape.num_qo_heads,
        num_queries: 1,
        head_dim: shape.head_dim,
        capacity,
        pq: *index.config(),
        select: shape.select(),
        paging: is_paged.then_some(Paging {
            page_size: PAGE_SIZE,
            num_pages: SEQUENCES * pages,
            codes: true,
        }),
    };
    let all = index.to_parts();
    let m = shape.num_subvectors;
    let mut selectors = [Backend::Cuda(device.clone()), Backend::Cpu]
        .map(|backend| RaggedSelector::new(&backend, &config));
    let mut seq_lens = Vec::new();
    for slot in 0..SEQUENCES {
        let num_codes = (all.num_codes * (slot + 1) / SEQUENCES).max(1);
        let codes = all.codes.chunks(all.num_codes * m);
        let codes = codes.flat_map(|codes| &codes[..num_codes * m]).copied();
        let parts = IndexParts {
            num_codes,
            codes: codes.collect(),
            ..all.clone()
        };
        let sequence = KeyIndex::from_parts(parts, shape.init_offset + num_codes)?;
        // Every eighth page of the pool: neighbours lie apart.
        let pages = (0..pages).map(|page| (page * SEQUENCES + slot) as u32);
        let pages: Vec<u32> = pages.take(if is_paged { usize::MAX } else { 0 }).collect();
        let regions = SequenceConfig::from(&config.select);
        for selector in &mut selectors {
            let selector = selector.as_mut().map_err(|error| error.clone())?;
            selector.insert(slot, &sequence, &regions, &pages)?;
        }
        seq_lens.push(sequence.seq_len());
    }
    let [on_gpu, on_cpu] = selectors;
    let (mut on_gpu, mut on_cpu) = (on_gpu?, on_cpu?);
    let mut appends = [true; SEQUENCES];
    appends[SEQUENCES / 2] = false;
    let keys = data.keys(0..SEQUENCES);
    let queries: Vec<f32> = (0..SEQUENCES).flat_map(|step| data.queries(step)).collect();
    let keys = Keys::new(&keys, [SEQUENCES, shape.num_kv_heads, 1, shape.head_dim])?;
    let queries = Queries::new(&queries, [SEQUENCES, shape.num_qo_heads, 1, shape.head_dim])?;
    let expected = on_cpu.step(keys, &appends, queries)?;
    check::same(name, on_gpu.step(keys, &appends, queries)?, expected)?;

    let mut times = Vec::new();
    for run in 0..=RUNS {
        let step = on_gpu.cuda_step().expect("a GPU's");
        step.upload(keys, &appends, queries)?;
        step.synchronize()?;
        let start = Instant::now();
        for _ in 0..REPLAYS {
            step.replay(&appends)?;
        }
        step.synchronize()?;
        let time = us(start.elapsed()) / REPLAYS as f64;
        if run > 0 {
            times.push(time);
        }
        for (slot, &seq_len) in seq_lens.iter().enumerate() {
            on_gpu.truncate(slot, seq_len)?;
        }
    }
    Ok(Part {
        name: name.into(),
        measured: Stats::of(&times),
        target_us: None,
        meaning: "wall clock a replay of 200 in a row: 8 sequences, 1/8 to all of the context, 7 append",
    })
}
