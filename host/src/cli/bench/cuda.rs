//! Steps on the GPU, by events, and what the host sees of them.

use std::time::Instant;

use keysieve::cuda::timing::{self, StageClock, Stopwatch};
use keysieve::cuda::{Device, StepGraph, Variant, step::Step};
use keysieve::{Backend, KeyIndex, Selector};

use super::check;
use super::cpu::{self, us};
use super::data::Data;
use super::plan::{Plan, REPLAYS};
use super::progress::Progress;
use super::report::{Measured, Other};
use super::stats::{Stats, median};
use super::trace::{Trace, Track};

/// Times that so many are measured.
pub(super) const REPLAY_RUNS: usize = 5;

/// Steps whose stages go into the trace.
const TRACED_STEPS: usize = 4;

/// Bytes copied to find out how fast the memory is.
pub(super) const COPY_BYTES: usize = 1 << 30;

pub(super) fn measure(
    plan: &Plan<'_>,
    data: &Data<'_>,
    device: &Device,
    index: KeyIndex,
    trace: &mut Trace,
    progress: &Progress,
) -> anyhow::Result<Measured> {
    let shape = plan.shape;
    let starting = Instant::now();
    let mut bench = Bench::new(plan, device, index.clone(), progress)?;
    trace.host("upload index, capture", starting);

    let checking = Instant::now();
    bench.check(data, index)?;
    trace.host("check", checking);

    let parts = 5 * plan.runs + 4 * plan.warmup + REPLAY_RUNS + 1;
    progress.phase("measuring", parts);
    let measuring = Instant::now();
    let step = bench.single_steps()?;
    let in_a_row = bench.replays_in_a_row()?;
    let eager =
        bench.runs(|watch, step, _| watch.time(step, |step| step.enqueue(&mut |_| Ok(()))))?;
    let (launches, stages) = bench.stages()?;
    let whole = bench.whole_from_host(data)?;
    let waited = bench.waited()?;
    trace.host("measure", measuring);
    bench.trace(data, trace)?;

    let copying = Instant::now();
    let free = timing::free_memory(device)?;
    let copy_bandwidth = timing::copy_bandwidth(device, COPY_BYTES.min(free / 4), 10)?;
    trace.host("copy bandwidth", copying);
    Ok(Measured {
        step: Stats::of(&step),
        step_meaning: "GPU time of one graph replay, by events, enqueued before it begins".into(),
        torch: None,
        others: vec![
            Other::new("graph_us", &in_a_row.gpu, "GPU time a replay of 200 in a row"),
            Other::new("launch_us", &eager, "GPU time without a graph, the host's launches included"),
            Other::new("replay_wait_us", &waited, "wall clock: replay, wait"),
            Other::new("replay_issue_us", &in_a_row.issue, "CPU time a replay of 200 in a row, to issue it"),
            Other::new("host_us", &whole, "wall clock: upload, replay, wait, read everything back"),
        ],
        stages,
        stages_note: "between events in a step without a graph, all launches enqueued before it \
                      begins; each holds the gaps between its launches and about 1 us for its event; \
                      medians over the runs"
            .into(),
        launches,
        graph_nodes: Some(bench.graph.num_nodes()),
        bytes: shape.cuda_bytes(step_of(&mut bench.selector).variant()),
        copy_bandwidth,
        driver_version: Some(device.driver_version()),
        checked: format!(
            "{} steps: codes, lists and weights on the CPU equal those of a plain loop, and those \
             on the GPU, by graph and by launches, equal the CPU's",
            check::STEPS
        ),
    })
}

/// The step on the device, whose inputs are the last ones uploaded.
pub(super) struct Bench<'a> {
    plan: &'a Plan<'a>,
    pub(super) selector: Selector,
    pub(super) graph: StepGraph,
    watch: Stopwatch,
    progress: &'a Progress,
}

/// Microseconds a replay of [`REPLAYS`] in a row.
pub(super) struct InARow {
    /// On the GPU.
    pub(super) gpu: Vec<f64>,
    /// For the host to issue it.
    pub(super) issue: Vec<f64>,
}

impl<'a> Bench<'a> {
    /// Takes the index to the device and captures a step.
    pub(super) fn new(
        plan: &'a Plan<'a>,
        device: &Device,
        index: KeyIndex,
        progress: &'a Progress,
    ) -> keysieve::Result<Self> {
        let (heads, select) = (plan.shape.num_qo_heads, plan.shape.select());
        let backend = Backend::Cuda(device.clone());
        let mut selector = Selector::new(&backend, index, select, heads, 1)?;
        let graph = step_of(&mut selector).capture()?;
        Ok(Bench {
            plan,
            selector,
            graph,
            watch: Stopwatch::new(device)?,
            progress,
        })
    }

    /// The CPU against the plain loop, and the GPU against the CPU, by a replay and by launches.
    pub(super) fn check(&mut self, data: &Data<'_>, index: KeyIndex) -> anyhow::Result<()> {
        let (plan, graph, progress) = (self.plan, &self.graph, self.progress);
        let selector = &mut self.selector;
        let (heads, select) = (plan.shape.num_qo_heads, plan.shape.select());
        progress.phase("checking", check::STEPS);
        let mut on_cpu = Selector::new(&Backend::Cpu, index, select, heads, 1)?;
        cpu::check(plan, data, &mut on_cpu, |on_cpu, step| {
            let token = on_cpu.seq_len() - 1;
            let (keys, queries) = (data.keys(token..token + 1), data.queries(step));
            let (keys, queries) = (data.as_keys(&keys, 1)?, data.as_queries(&queries)?);
            step_of(selector).upload(keys, queries)?;
            step_of(selector).replay(graph)?;
            check::same("a replay on the GPU", selector.read()?, on_cpu.selection())?;
            step_of(selector).rewind(1)?;
            step_of(selector).enqueue(&mut |_| Ok(()))?;
            check::same("a step on the GPU", selector.read()?, on_cpu.selection())?;
            progress.advance(1);
            Ok(())
        })?;
        check::same_codes(&selector.to_index()?, &on_cpu.to_index()?)?;
        step_of(selector).rewind(check::STEPS)?;
        Ok(())
    }

    /// GPU time of one replay, by events, enqueued before it begins.
    pub(super) fn single_steps(&mut self) -> keysieve::Result<Vec<f64>> {
        self.runs(|watch, step, graph| watch.time_queued(step, |step| step.replay(graph)))
    }

    /// The wall clock of one replay, launched and waited for.
    pub(super) fn waited(&mut self) -> keysieve::Result<Vec<f64>> {
        self.runs(|_, step, graph| {
            let start = Instant::now();
            step.replay(graph)?;
            step.synchronize()?;
            Ok(us(start.elapsed()))
        })
    }

    /// Microseconds of each run behind the warm-up, every one a step on the same context.
    fn runs(
        &mut self,
        mut time: impl FnMut(&Stopwatch, &mut Step, &StepGraph) -> keysieve::Result<f64>,
    ) -> keysieve::Result<Vec<f64>> {
        let mut times = Vec::with_capacity(self.plan.runs);
        for run in 0..self.plan.warmup + self.plan.runs {
            let step = step_of(&mut self.selector);
            let time = time(&self.watch, step, &self.graph)?;
            step.rewind(1)?;
            self.progress.advance(1);
            if run >= self.plan.warmup {
                times.push(time);
            }
        }
        Ok(times)
    }

    pub(super) fn replays_in_a_row(&mut self) -> keysieve::Result<InARow> {
        let (mut gpu, mut issue) = (Vec::new(), Vec::new());
        for run in 0..=REPLAY_RUNS {
            let (of_gpu, of_host) = self.replays(REPLAYS)?;
            self.progress.advance(1);
            if run > 0 {
                gpu.push(of_gpu);
                issue.push(of_host);
            }
        }
        Ok(InARow { gpu, issue })
    }

    /// GPU time of a replay of `count` in a row, and CPU time to issue it.
    pub(super) fn replays(&mut self, count: usize) -> keysieve::Result<(f64, f64)> {
        let step = step_of(&mut self.selector);
        let mut issuing = 0.0;
        let time = self.watch.time(step, |step| {
            let start = Instant::now();
            for _ in 0..count {
                step.replay(&self.graph)?;
            }
            issuing = us(start.elapsed());
            Ok(())
        })?;
        step.rewind(count)?;
        Ok((time / count as f64, issuing / count as f64))
    }

    /// Goes on with another variant of the step.
    pub(super) fn set_variant(&mut self, variant: Variant) -> keysieve::Result<()> {
        let step = step_of(&mut self.selector);
        step.set_variant(variant)?;
        self.graph = step.capture()?;
        Ok(())
    }

    /// Launches of a step, and the median time of each stage.
    fn stages(&mut self) -> keysieve::Result<(usize, Vec<(&'static str, f64)>)> {
        let step = step_of(&mut self.selector);
        let clock = StageClock::new(step)?;
        let before = step.launches();
        let mut times: Vec<(&'static str, Vec<f64>)> = Vec::new();
        for run in 0..self.plan.runs {
            let spans = clock.enqueue(step)?;
            step.rewind(1)?;
            self.progress.advance(1);
            if run == 0 {
                times = spans.iter().map(|span| (span.name, Vec::new())).collect();
            }
            for ((_, times), span) in times.iter_mut().zip(&spans) {
                times.push(span.duration_us);
            }
        }
        let launches = (step.launches() - before) / self.plan.runs;
        let medians = times.into_iter().map(|(name, times)| (name, median(times)));
        Ok((launches, medians.collect()))
    }

    /// The wall clock from keys and queries on the host to lists and weights on the host.
    fn whole_from_host(&mut self, data: &Data<'_>) -> keysieve::Result<Vec<f64>> {
        let mut times = Vec::with_capacity(self.plan.runs);
        let token = self.plan.tokens;
        let keys = data.keys(token..token + 1);
        for run in 0..self.plan.warmup + self.plan.runs {
            let queries = data.queries(run);
            let (keys, queries) = (data.as_keys(&keys, 1)?, data.as_queries(&queries)?);
            let start = Instant::now();
            let step = step_of(&mut self.selector);
            step.upload(keys, queries)?;
            step.replay(&self.graph)?;
            self.selector.read()?;
            let time = us(start.elapsed());
            step_of(&mut self.selector).rewind(1)?;
            self.progress.advance(1);
            if run >= self.plan.warmup {
                times.push(time);
            }
        }
        Ok(times)
    }

    /// A few steps as spans: by launches, with the GPU's stages, then by replays.
    fn trace(&mut self, data: &Data<'_>, trace: &mut Trace) -> keysieve::Result<()> {
        let token = self.plan.tokens;
        let keys = data.keys(token..token + 1);
        let clock = StageClock::new(step_of(&mut self.selector))?;
        let origin = trace.us(clock.origin_time());
        for run in 0..TRACED_STEPS {
            let queries = data.queries(run);
            let (keys, queries) = (data.as_keys(&keys, 1)?, data.as_queries(&queries)?);
            let step = step_of(&mut self.selector);
            trace.host_span("upload", || step.upload(keys, queries))?;
            let spans = trace.host_span("enqueue, wait", || clock.enqueue(step))?;
            for span in spans {
                let start = origin + span.start_us;
                trace.add(Track::Gpu, span.name, start, span.duration_us);
            }
            trace.host_span("read", || self.selector.read().map(drop))?;
            step_of(&mut self.selector).rewind(1)?;
        }
        for _ in 0..TRACED_STEPS {
            let step = step_of(&mut self.selector);
            trace.host_span("replay", || step.replay(&self.graph))?;
            trace.host_span("wait", || step.synchronize())?;
            trace.host_span("rewind", || step.rewind(1))?;
        }
        Ok(())
    }
}

pub(super) fn step_of(selector: &mut Selector) -> &mut Step {
    selector.cuda_step().expect("a GPU's")
}
