//! `keysieve eval`: how good the lists are, of one format or of many.

mod plot;
mod sweep;

use std::fmt::Write;
use std::path::PathBuf;

use keysieve::AutoBackend;
use keysieve::files::KvFile;
use keysieve::quality::Quality;
use serde_json::{Value, json};

use super::options::{BackendArgs, PqArgs, SelectArgs};
use super::{report, select, train};

/// Measure recall and attention mass on a file of keys and queries
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keys and queries, safetensors
    #[arg(long, value_name = "KV")]
    kv: PathBuf,
    #[command(flatten)]
    pq: PqArgs,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Write the figures as JSON too; `-` prints JSON instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure both metrics with 2 to 16 sub-vectors of 4, 6 and 8 bits
    #[arg(long, conflicts_with_all = ["subvectors", "bits", "metric"])]
    sweep: bool,
    /// Draw the sweep's figures against bytes per key
    #[arg(long, value_name = "FILE", requires = "sweep")]
    svg: Option<PathBuf>,
}

pub(super) fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    report::check_json(args.json.as_deref())?;
    if args.sweep {
        return sweep::run(args, quiet);
    }
    let kv = KvFile::read("--kv", &args.kv)?;
    let (keys, queries) = (kv.keys(), kv.queries());
    let opened = args.backend.open()?;
    let (pq, config) = (args.pq.config(), args.select.config());
    let index = train::index(&pq, &args.pq.training(), keys, keys.tokens, quiet)?;
    let packed_bytes = index.packed_bytes_per_key();
    let mut selector = select::selector(&opened, index, keys, queries, config)?;
    let selection = selector.select(queries)?;
    let quality = Quality::measure(keys, queries, &pq, &config, selection)?;

    let [_, heads, num_queries] = selection.shape();
    let (low, high) = quality.head_recall_range();
    let mut text = heading(args, &kv, &opened);
    writeln!(
        text,
        "   m  bits  metric  bytes/key  recall  heads min-max    mass  exact mass   ratio"
    )?;
    writeln!(
        text,
        "{:4}  {:4}  {:>6}  {:9}  {:6.3}  {low:.3} - {high:.3}  {:6.3}      {:6.3}  {:6.3}",
        pq.num_subvectors,
        pq.bits,
        pq.metric.name(),
        packed_bytes,
        quality.recall,
        quality.mass,
        quality.exact_mass,
        quality.mass_ratio,
    )?;
    writeln!(
        text,
        "\nBy chance recall would be {:.3}; sink and window alone have mass {:.3}.",
        quality.chance_recall, quality.fixed_mass
    )?;

    let mut value = json!({
        "shape": {
            "batch": keys.batch,
            "num_kv_heads": keys.num_kv_heads,
            "num_qo_heads": heads,
            "num_queries": num_queries,
            "tokens": keys.tokens,
            "head_dim": keys.head_dim,
        },
        "num_subvectors": pq.num_subvectors,
        "bits": pq.bits,
        "metric": pq.metric.name(),
        "init_offset": pq.init_offset,
        "iterations": args.pq.training().iterations,
        "seed": args.pq.training().seed,
        "sink": config.sink,
        "heavy": config.heavy,
        "window": config.window,
        "bytes_per_key": packed_bytes,
        "quality": report::quality_json(&quality),
    });
    extend(&mut value, report::backend_json(&opened));
    report::give(&text, args.json.as_deref(), &value)
}

/// What is measured, and where.
fn heading(args: &Args, kv: &KvFile, opened: &AutoBackend) -> String {
    let (keys, queries, select) = (kv.keys(), kv.queries(), args.select.config());
    format!(
        "{}: batch {}, {} key heads x {} tokens x {} components, {} query heads x {} queries\n\
         sink {}, heavy {}, window {}, init_offset {}; on {}\n\n",
        args.kv.display(),
        keys.batch,
        keys.num_kv_heads,
        keys.tokens,
        keys.head_dim,
        queries.num_qo_heads,
        queries.num_queries,
        select.sink,
        select.heavy,
        select.window,
        args.pq.config().init_offset,
        report::backend(opened)
    )
}

/// Adds fields to a JSON object.
pub(super) fn extend<const N: usize>(value: &mut Value, fields: [(&'static str, Value); N]) {
    for (name, field) in fields {
        value[name] = field;
    }
}
