//! `keysieve bench`: how long a step takes.
//!
//! A step encodes one new key for each head, advances the context, and selects. Before anything is
//! timed the answer is checked; a wrong one is an error and no time is printed.
//!
//! ```text
//! shape     what is measured
//! bytes     what a step of it moves
//! plan      how often, and where in the context
//! memory    whether it fits
//! data      keys and queries
//! check     the answer, by a plain loop
//! cpu cuda  the measurements
//! on_each   many shapes, one after the other
//! suite     every named shape beside its target
//! torch     the step of PyTorch, in the same run
//! variants  every variant of the step, which the choice among them is fitted to
//! stats report trace progress     what a person or a program sees of them
//! ```

mod bytes;
mod check;
mod cpu;
mod cuda;
mod data;
mod memory;
mod on_each;
mod plan;
mod progress;
mod report;
mod shape;
mod stats;
mod suite;
mod torch;
mod trace;
mod variants;

use std::path::PathBuf;
use std::time::Instant;

use keysieve::{AutoBackend, Backend, Error, files};
use serde_json::json;

pub(super) use self::check::Mismatch;
use self::data::Data;
use self::plan::Plan;
use self::progress::Progress;
use self::report::Measured;
use self::shape::{Shape, ShapeArgs};
use self::torch::Torch;
use self::trace::Trace;
use super::options::{BackendArgs, whole};

/// The CPU's context grows by one in each run, so a thousand leave it about as long as it was.
const MAX_RUNS: usize = 1000;

/// Measure a step, after checking its answer
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Measure every named shape on the GPU, beside its target
    #[arg(long, conflicts_with_all = ["ShapeArgs", "trace"])]
    suite: bool,
    /// Measure every variant of the step on the GPU, --runs of each in a row
    #[arg(long, conflicts_with_all = ["suite", "trace"])]
    variants: bool,
    /// The same on many shapes: what `cargo xtask heuristics` fits the choice to
    #[arg(long, conflicts_with_all = ["suite", "variants", "ShapeArgs", "trace"])]
    tune: bool,
    /// Measure the step of eager PyTorch and torch.topk too, by this Python
    #[arg(long, value_name = "PYTHON", conflicts_with_all = ["variants", "tune"])]
    torch: Option<String>,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Steps before the first that counts
    #[arg(long, value_name = "N", value_parser = whole(0, MAX_RUNS), default_value_t = 10)]
    warmup: usize,
    /// Steps that count
    #[arg(long, value_name = "N", value_parser = whole(1, MAX_RUNS), default_value_t = 50)]
    runs: usize,
    /// Seed of keys and queries
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Write the figures as JSON too; `-` prints JSON instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write spans as Chrome-trace JSON, which Perfetto opens
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

pub(super) fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    super::report::check_json(args.json.as_deref())?;
    if let Some(path) = &args.trace {
        files::check_target("--trace", path)?;
    }
    if args.suite {
        return suite::run(args, quiet);
    }
    if args.tune {
        return variants::run(&variants::grid(), args, quiet);
    }
    let shape = args.shape.shape()?;
    if args.variants {
        return variants::run(&[shape], args, quiet);
    }
    let opened = args.backend.open()?;
    let plan = Plan::new(&shape, args.warmup, args.runs, &opened.backend)?;
    memory::check(&shape, plan.capacity, &opened.backend)?;
    let torch = args.torch(&shape, &opened.backend)?;

    let mut trace = Trace::new();
    let mut measured = measure(&opened, &plan, args.seed, &mut trace, quiet)?;
    measured.torch = torch;
    if let Some(path) = &args.trace {
        let about = json!({
            "backend": opened.backend.name(),
            "device": opened.backend.device_name(),
            "shape": &shape,
        });
        trace.write(path, about)?;
    }
    let value = measured.json(&opened, &plan, args.seed);
    let text = measured.text(&opened, &plan, args.seed);
    super::report::give(&text, args.json.as_deref(), &value)
}

impl Args {
    /// PyTorch's figures, if they are asked for: before ours, whose minutes would be lost where it fails.
    fn torch(&self, shape: &Shape, backend: &Backend) -> keysieve::Result<Option<Torch>> {
        let Some(python) = &self.torch else {
            return Ok(None);
        };
        if matches!(backend, Backend::Cpu) {
            return Err(Error::invalid("--backend", "cpu", "cuda, with --torch"));
        }
        Torch::measure(python, shape, self.seed, self.warmup, self.runs).map(Some)
    }
}

fn measure(
    opened: &AutoBackend,
    plan: &Plan<'_>,
    seed: u64,
    trace: &mut Trace,
    quiet: bool,
) -> anyhow::Result<Measured> {
    let shape = plan.shape;
    let data = Data { shape, seed };
    let progress = Progress::new(quiet);
    let encoding = Instant::now();
    let index = data.index(plan.tokens, plan.capacity, &progress)?;
    trace.host("make and encode keys", encoding);
    match &opened.backend {
        Backend::Cpu => cpu::measure(plan, &data, index, trace, &progress),
        Backend::Cuda(device) => cuda::measure(plan, &data, device, index, trace, &progress),
    }
}
