//! What the reference shape is held to beside its GPU time.

use keysieve::KeyIndex;
use keysieve::cuda::{Device, timing};

use super::super::check;
use super::super::cuda::{Bench, REPLAY_RUNS, step_of};
use super::super::data::Data;
use super::super::plan::{Plan, REPLAYS};
use super::super::progress::Progress;
use super::super::stats::Stats;

/// Copies of the step's buffers: as many as a model has layers. Together they are several times the
/// L2 cache.
pub(super) const COPIES: usize = 32;

/// Targets: a step on a cold cache in steps on a warm one, and microseconds of the host.
pub(super) const COLD_TARGET: f64 = 1.5;
pub(super) const WAITED_TARGET_US: f64 = 12.0;
pub(super) const ISSUE_TARGET_US: f64 = 3.0;
pub(super) const LAUNCHES_TARGET: usize = 1;

/// Figures of the reference shape in microseconds.
#[derive(Debug)]
pub(super) struct Reference {
    /// GPU time a replay, where [`COPIES`] steps take turns.
    pub(super) cold: Stats,
    /// Wall clock of one replay, launched and waited for.
    pub(super) waited: Stats,
}

/// Measures with `bench`, whose step is checked, and with copies of it, checked against it.
pub(super) fn measure(
    mut bench: Bench<'_>,
    plan: &Plan<'_>,
    data: &Data<'_>,
    device: &Device,
    index: &KeyIndex,
    progress: &Progress,
) -> anyhow::Result<Reference> {
    let waited = Stats::of(&bench.waited()?);
    let cold = Stats::of(&cold(&mut bench, plan, data, device, index, progress)?);
    Ok(Reference { cold, waited })
}

fn cold(
    bench: &mut Bench<'_>,
    plan: &Plan<'_>,
    data: &Data<'_>,
    device: &Device,
    index: &KeyIndex,
    progress: &Progress,
) -> anyhow::Result<Vec<f64>> {
    let (keys, queries) = (data.keys(plan.tokens..plan.tokens + 1), data.queries(0));
    let (keys, queries) = (data.as_keys(&keys, 1)?, data.as_queries(&queries)?);
    let take_step = |bench: &mut Bench<'_>| -> anyhow::Result<()> {
        let step = step_of(&mut bench.selector);
        step.upload(keys, queries)?;
        step.replay(&bench.graph)?;
        bench.selector.read()?;
        step_of(&mut bench.selector).rewind(1)?;
        Ok(())
    };
    take_step(bench)?;
    progress.phase("cold cache", COPIES + REPLAY_RUNS);
    let mut copies = Vec::with_capacity(COPIES);
    for _ in 0..COPIES {
        let mut copy = Bench::new(plan, device, index.clone(), progress)?;
        take_step(&mut copy)?;
        let expected = bench.selector.selection();
        check::same("a copy's step", copy.selector.selection(), expected)?;
        copies.push(copy);
        progress.advance(1);
    }
    let rounds = REPLAYS.div_ceil(COPIES);
    let mut times = Vec::with_capacity(REPLAY_RUNS);
    for _ in 0..REPLAY_RUNS {
        let mut steps: Vec<_> = copies
            .iter_mut()
            .map(|copy| (step_of(&mut copy.selector), &copy.graph))
            .collect();
        times.push(timing::in_rotation(device, &mut steps, rounds)?);
        for (step, _) in steps {
            step.rewind(rounds + 1)?;
        }
        progress.advance(1);
    }
    Ok(times)
}
