//! Steps on the CPU, by the wall clock.

use std::time::{Duration, Instant};

use keysieve::{Backend, KeyIndex, Selector};
use rayon::prelude::*;

use super::check;
use super::data::Data;
use super::memory;
use super::plan::Plan;
use super::progress::Progress;
use super::report::Measured;
use super::stats::{Stats, median};
use super::trace::{Trace, Track};

/// Stages in the order of their times.
const STAGES: [&str; 6] = ["codes", "lut", "scores", "top_k", "index_list", "weights"];

/// Steps whose stages go into the trace.
const TRACED_STEPS: usize = 4;

/// Appends one key to each head and selects, [`check::STEPS`] times, each step's codes, lists and
/// weights being those of the plain loop; some of the keys encoded before are looked at too.
pub(super) fn check(
    plan: &Plan,
    data: &Data<'_>,
    selector: &mut Selector,
    mut after_step: impl FnMut(&mut Selector, usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for step in 0..check::STEPS {
        let token = selector.seq_len();
        let (keys, queries) = (data.keys(token..token + 1), data.queries(step));
        let queries = data.as_queries(&queries)?;
        selector.append(data.as_keys(&keys, 1)?)?;
        selector.select(queries)?;
        let index = selector.cpu_step().expect("a CPU's").index();
        let mut tokens = vec![token];
        if step == 0 {
            let first = plan.shape.init_offset;
            tokens.extend((0..8).map(|i| first + (token - first) * i / 8));
        }
        check::codes(data, index, &tokens)?;
        // The selector lends either its index or its selection.
        let index = index.clone();
        check::selection(plan.shape, &index, queries, selector.selection())?;
        after_step(selector, step)?;
    }
    Ok(())
}

pub(super) fn measure(
    plan: &Plan,
    data: &Data<'_>,
    index: KeyIndex,
    trace: &mut Trace,
    progress: &Progress,
) -> anyhow::Result<Measured> {
    let shape = plan.shape;
    let (heads, select) = (shape.num_qo_heads, shape.select());
    let mut selector = Selector::new(&Backend::Cpu, index, select, heads, 1)?;
    progress.phase("checking", check::STEPS);
    let checking = Instant::now();
    check(plan, data, &mut selector, |_, _| {
        progress.advance(1);
        Ok(())
    })?;
    trace.host("check", checking);

    progress.phase("measuring", plan.warmup + plan.runs);
    let mut steps = Vec::with_capacity(plan.runs);
    let mut stages = vec![Vec::with_capacity(plan.runs); STAGES.len()];
    for run in 0..plan.warmup + plan.runs {
        let token = selector.seq_len();
        let (keys, queries) = (data.keys(token..token + 1), data.queries(run));
        let (keys, queries) = (data.as_keys(&keys, 1)?, data.as_queries(&queries)?);

        let start = Instant::now();
        selector.append(keys)?;
        let appended = Instant::now();
        selector.select(queries)?;
        let end = Instant::now();

        progress.advance(1);
        if run < plan.warmup {
            continue;
        }
        steps.push(us(end - start));
        let times = worker_times(&mut selector);
        stages[0].push(us(appended - start));
        for (i, stage) in stages[1..].iter_mut().enumerate() {
            stage.push(times.iter().map(|times| times[i]).sum::<f64>() / times.len() as f64);
        }
        if run - plan.warmup < TRACED_STEPS {
            trace.add(Track::Host, "encode", trace.us(start), us(appended - start));
            trace.add(
                Track::Host,
                "select",
                trace.us(appended),
                us(end - appended),
            );
            trace_workers(trace, appended, &times);
        }
    }

    let copying = Instant::now();
    let copy_bandwidth = copy_bandwidth();
    trace.host("copy bandwidth", copying);
    Ok(Measured {
        step: Stats::of(&steps),
        step_meaning: "wall clock: encode one new key per head, select".into(),
        torch: None,
        others: Vec::new(),
        stages: STAGES
            .into_iter()
            .zip(stages)
            .map(|(name, us)| (name, median(us)))
            .collect(),
        stages_note: "codes: wall clock; the others: mean over the workers of each one's rows; \
                      medians over the runs"
            .into(),
        launches: 0,
        graph_nodes: None,
        bytes: shape.cpu_bytes(),
        copy_bandwidth,
        driver_version: None,
        checked: format!(
            "{} steps: codes, lists and weights equal those of a plain loop",
            check::STEPS
        ),
    })
}

/// Each worker's times of the last select, in the order of [`STAGES`] without the first.
fn worker_times(selector: &mut Selector) -> Vec<[f64; 5]> {
    let step = selector.cpu_step().expect("a CPU's");
    step.stage_times()
        .map(|t| [t.lut, t.scores, t.top_k, t.index_list, t.weights].map(us))
        .collect()
}

/// A worker takes turns with the stages, row by row; the picture shows the sums one after another.
fn trace_workers(trace: &mut Trace, start: Instant, times: &[[f64; 5]]) {
    for (worker, times) in times.iter().enumerate() {
        let mut at = trace.us(start);
        for (name, &time) in STAGES[1..].iter().zip(times) {
            trace.add(Track::Worker(worker), name, at, time);
            at += time;
        }
    }
}

/// Copies a large array with every thread; the median rate of bytes read plus bytes written a second.
fn copy_bandwidth() -> f64 {
    const RUNS: usize = 5;
    const CHUNK: usize = 1 << 20;
    let room = memory::available().unwrap_or(f64::INFINITY) / 8.0;
    let bytes = room.min(f64::from(1u32 << 29)) as usize;
    let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
    let mut rates = Vec::with_capacity(RUNS);
    // One more: the first touches the memory.
    for run in 0..=RUNS {
        let start = Instant::now();
        let chunks = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
        chunks.for_each(|(to, from)| to.copy_from_slice(from));
        if run > 0 {
            rates.push(2.0 * bytes as f64 / start.elapsed().as_secs_f64());
        }
        std::hint::black_box(&mut to);
    }
    median(rates)
}

pub(super) fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
