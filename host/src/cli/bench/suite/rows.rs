//! One shape of the suite: its answer checked, then its steps timed.

use keysieve::KeyIndex;
use keysieve::cuda::{Device, Footprint, Variant};

use super::super::cuda::{Bench, REPLAY_RUNS, step_of};
use super::super::data::Data;
use super::super::plan::Plan;
use super::super::progress::Progress;
use super::super::shape::Shape;
use super::super::stats::Stats;

/// A shape's figures, in microseconds.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) shape: Shape,
    pub(super) variant: Variant,
    /// GPU time a replay, of 200 in a row.
    pub(super) in_a_row: Stats,
    /// CPU time a replay, of 200 in a row, to issue it.
    pub(super) issue: Stats,
    /// GPU time of single replays.
    pub(super) single: Stats,
    /// Kernel launches and memory operations of a replay.
    pub(super) launches: usize,
    pub(super) footprint: Option<Footprint>,
}

impl Row {
    /// GPU time of a step: the median of what 200 replays in a row give.
    pub(super) fn measured_us(&self) -> f64 {
        self.in_a_row.median
    }

    /// What that is to be.
    pub(super) fn target_us(&self) -> f64 {
        let target = self.shape.target_us();
        target.expect("the suite's shapes are named ones, which have targets")
    }

    /// The part of a step in which memory that copies `copy_bandwidth` bytes a second would move what no
    /// implementation can avoid.
    pub(super) fn share(&self, copy_bandwidth: f64) -> f64 {
        self.shape.minimum_bytes() as f64 / copy_bandwidth / (self.measured_us() * 1e-6)
    }
}

/// Checks and times a shape, and hands on the step for further measurements.
pub(super) fn measure<'a>(
    plan: &'a Plan<'a>,
    data: &Data<'_>,
    device: &Device,
    index: &KeyIndex,
    progress: &'a Progress,
) -> anyhow::Result<(Row, Bench<'a>)> {
    let mut bench = Bench::new(plan, device, index.clone(), progress)?;
    bench.check(data, index.clone())?;
    let parts = REPLAY_RUNS + 1 + plan.warmup + plan.runs;
    progress.phase(plan.shape.name, parts);
    let in_a_row = bench.replays_in_a_row()?;
    let single = bench.single_steps()?;
    let step = step_of(&mut bench.selector);
    let row = Row {
        shape: plan.shape.clone(),
        variant: step.variant(),
        in_a_row: Stats::of(&in_a_row.gpu),
        issue: Stats::of(&in_a_row.issue),
        single: Stats::of(&single),
        launches: bench.graph.num_nodes(),
        footprint: step.footprint()?,
    };
    Ok((row, bench))
}
