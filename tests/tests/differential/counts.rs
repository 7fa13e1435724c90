//! How many cases of what there were.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use keysieve_tests::sim_driver::KernelRuns;

use crate::cases::Case;

/// How often progress is printed.
const PROGRESS: Duration = Duration::from_secs(30);

/// Counts of a run.
#[derive(Debug)]
pub(crate) struct Counts {
    start: Instant,
    told: Instant,
    pub(crate) cases: u64,
    /// Cases times schedules.
    pub(crate) runs: u64,
    pub(crate) hostile: u64,
    by_kind: BTreeMap<String, (u64, Duration)>,
    by_hostility: BTreeMap<&'static str, u64>,
}

impl Counts {
    pub(crate) fn new() -> Self {
        Counts {
            start: Instant::now(),
            told: Instant::now(),
            cases: 0,
            runs: 0,
            hostile: 0,
            by_kind: BTreeMap::new(),
            by_hostility: BTreeMap::new(),
        }
    }

    /// Counts a case that passed, and prints now and then how far the run is.
    pub(crate) fn add(&mut self, device: &str, case: &Case, what: &str, runs: u64, took: Duration) {
        self.cases += 1;
        self.runs += runs;
        let kind = self.by_kind.entry(format!("{device} {what}")).or_default();
        kind.0 += 1;
        kind.1 += took;
        let hostilities = case.hostilities();
        self.hostile += u64::from(!hostilities.is_empty());
        for hostility in hostilities {
            *self.by_hostility.entry(hostility).or_default() += 1;
        }
        if self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            let (cases, seconds) = (self.cases, self.start.elapsed().as_secs());
            eprintln!("{cases} cases, {} runs, {seconds} s, all equal", self.runs);
        }
    }

    /// What was counted.
    pub(crate) fn table(&self, name: &str, seed: u64) -> String {
        let mut table = String::new();
        let seconds = self.start.elapsed().as_secs_f64();
        let (cases, runs, hostile) = (self.cases, self.runs, self.hostile);
        let _ = writeln!(
            table,
            "{name}: {cases} cases, {hostile} of them hostile; {runs} runs with their schedules; all equal; {seconds:.0} s, seed {seed}"
        );
        let _ = writeln!(table, "    cases  ms a case");
        for (kind, (num, took)) in &self.by_kind {
            let each = took.as_secs_f64() * 1e3 / *num as f64;
            let _ = writeln!(table, "{num:>9}  {each:>9.1}  {kind}");
        }
        for (kind, num) in &self.by_hostility {
            let _ = writeln!(table, "{num:>9}             {kind}");
        }
        table
    }
}

/// What every kernel of every file did, and how much of it was never executed.
pub(crate) fn kernel_table(runs: &[KernelRuns]) -> String {
    let mut table = String::from(
        " launches  million lane-instructions  instructions  never executed  kernel\n",
    );
    for kernel in runs {
        let _ = writeln!(
            table,
            "{:>9}  {:>25}  {:>12}  {:>14}  sm_{} {}",
            kernel.launches,
            kernel.lane_instructions / 1_000_000,
            kernel.num_instructions,
            kernel.unexecuted.len(),
            kernel.target,
            kernel.name
        );
    }
    table
}
