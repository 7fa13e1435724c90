//! `soak`: the differential cases of `tests/differential`, as many as a release deserves.

use anyhow::Result;

use crate::workspace;

/// How long to go on.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Cases to run
    #[arg(long, default_value_t = 1_000_000)]
    cases: u64,
    /// Stop after so many minutes, and say how many cases there were
    #[arg(long)]
    minutes: Option<u64>,
    /// Seed of cases and schedules; by default the time of day
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the cases in release mode; a mismatch is an error, and printed with the seed that repeats it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut command = workspace::cargo();
    command
        .args("test --release -p keysieve-tests --test differential --".split(' '))
        .args(["--exact", "sim::many_cases"])
        .env("KEYSIEVE_CASES", options.cases.to_string())
        .env("KEYSIEVE_TEST_SEED", seed(options).to_string());
    if let Some(minutes) = options.minutes {
        command.env("KEYSIEVE_MINUTES", minutes.to_string());
    }
    workspace::run(&mut command)
}

fn seed(options: &Options) -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_secs());
    options.seed.unwrap_or(now)
}
