//! `keysieve bench`: how long a step takes.

/// Measure a step
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, _quiet: bool) -> anyhow::Result<()> {
    anyhow::bail!("bench: not there yet")
}
