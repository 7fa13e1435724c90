//! `keysieve bench --variants` and `--tune`: every variant of the step, checked and timed, on one shape or many.
//!
//! ```text
//! grid    the shapes that the choice among variants is fitted to
//! report  one table, and JSON
//! ```

mod grid;
mod report;

use std::time::SystemTime;

use keysieve::cuda::heuristics::{Load, Way};
use keysieve::cuda::{Device, Variant};
use keysieve::{Backend, KeyIndex, Selection, Selector};
use serde::Serialize;

pub(super) use self::grid::grid;
use self::report::Report;
use super::cuda::{Bench, step_of};
use super::data::Data;
use super::on_each::on_each;
use super::plan::Plan;
use super::progress::Progress;
use super::report::date;
use super::shape::Shape;
use super::stats::median;
use super::{Args, check, cpu};
use crate::cli;

/// Times that the replays of a variant are timed; the median counts.
const REPEATS: usize = 3;

/// Codes of an index in bytes, up to which every variant's are compared: fetching more takes longer than all
/// that is timed.
const COMPARED_CODES: usize = 1 << 24;

/// A shape's variants.
#[derive(Debug)]
struct Measured {
    shape: Shape,
    load: Load,
    /// Of `variants`, the one that is chosen without these measurements.
    chosen: usize,
    variants: Vec<Timed>,
}

/// A variant's time.
#[derive(Debug, Serialize)]
struct Timed {
    #[serde(flatten)]
    way: Way,
    /// GPU time of a replay in microseconds.
    us: f64,
}

impl Measured {
    fn best(&self) -> &Timed {
        let variants = self.variants.iter();
        let best = variants.min_by(|a, b| a.us.total_cmp(&b.us));
        best.expect("one kernel for each stage fits every shape")
    }

    fn chosen(&self) -> &Timed {
        &self.variants[self.chosen]
    }
}

pub(super) fn run(shapes: &[Shape], args: &Args, quiet: bool) -> anyhow::Result<()> {
    let device = args.backend.open_gpu()?;
    let backend = Backend::Cuda(device.clone());
    let progress = Progress::new(quiet);
    let mut measured = Vec::with_capacity(shapes.len());
    on_each(shapes, args, &backend, &progress, |plan, data, index| {
        measured.push(measure(plan, data, &device, index, &progress)?);
        Ok(())
    })?;
    drop(progress);
    let report = Report {
        device: device.name().to_owned(),
        driver_version: device.driver_version(),
        compute_capability: device.compute_capability(),
        num_multiprocessors: device.num_multiprocessors(),
        date: date(SystemTime::now()),
        seed: args.seed,
        warmup: args.warmup,
        runs: args.runs,
        shapes: measured,
    };
    cli::report::give(&report.text(), args.json.as_deref(), &report.json())
}

fn measure(
    plan: &Plan<'_>,
    data: &Data<'_>,
    device: &Device,
    index: &KeyIndex,
    progress: &Progress,
) -> anyhow::Result<Measured> {
    let mut bench = Bench::new(plan, device, index.clone(), progress)?;
    let step = step_of(&mut bench.selector);
    let (load, chosen, variants) = (step.load(), step.variant(), step.variants());
    let expected = Expected::new(plan, data, index)?;
    progress.phase("variants", variants.len());
    let mut timed = Vec::with_capacity(variants.len());
    for &variant in &variants {
        bench.set_variant(variant)?;
        expected.check(plan, data, &mut bench, variant)?;
        let way = step_of(&mut bench.selector).way();
        let us = time(plan, &mut bench)?;
        timed.push(Timed { way, us });
        progress.advance(1);
    }
    let chosen = variants.iter().position(|&variant| variant == chosen);
    Ok(Measured {
        shape: plan.shape.clone(),
        load,
        chosen: chosen.expect("what is chosen fits"),
        variants: timed,
    })
}

fn time(plan: &Plan<'_>, bench: &mut Bench<'_>) -> keysieve::Result<f64> {
    if plan.warmup > 0 {
        bench.replays(plan.warmup)?;
    }
    let mut times = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let (of_gpu, _) = bench.replays(plan.runs)?;
        times.push(of_gpu);
    }
    Ok(median(times))
}

/// What every variant must give.
struct Expected {
    /// Of each of [`check::STEPS`] steps, by the CPU, which the plain loop agrees with.
    selections: Vec<Selection>,
    index: KeyIndex,
}

impl Expected {
    fn new(plan: &Plan<'_>, data: &Data<'_>, index: &KeyIndex) -> anyhow::Result<Self> {
        let (heads, select) = (plan.shape.num_qo_heads, plan.shape.select());
        let mut on_cpu = Selector::new(&Backend::Cpu, index.clone(), select, heads, 1)?;
        let mut selections = Vec::with_capacity(check::STEPS);
        cpu::check(plan, data, &mut on_cpu, |on_cpu, _| {
            selections.push(on_cpu.selection().clone());
            Ok(())
        })?;
        Ok(Expected {
            selections,
            index: on_cpu.to_index()?,
        })
    }

    /// Replays as many steps of `variant`, which is the bench's, and takes them back.
    fn check(
        &self,
        plan: &Plan<'_>,
        data: &Data<'_>,
        bench: &mut Bench<'_>,
        variant: Variant,
    ) -> anyhow::Result<()> {
        for (step, expected) in self.selections.iter().enumerate() {
            let token = plan.tokens + step;
            let (keys, queries) = (data.keys(token..token + 1), data.queries(step));
            let (keys, queries) = (data.as_keys(&keys, 1)?, data.as_queries(&queries)?);
            let on_gpu = step_of(&mut bench.selector);
            on_gpu.upload(keys, queries)?;
            on_gpu.replay(&bench.graph)?;
            check::same(&format!("{variant:?}"), bench.selector.read()?, expected)?;
        }
        if self.index.padded_codes().len() <= COMPARED_CODES {
            check::same_codes(&bench.selector.to_index()?, &self.index)?;
        }
        step_of(&mut bench.selector).rewind(check::STEPS)?;
        Ok(())
    }
}
