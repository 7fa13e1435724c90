//! `keysieve demo`: a decode loop on real keys, from training to a list that a person can read.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keysieve::files::KvFile;
use keysieve::quality::Quality;
use keysieve::{Keys, PqConfig, Queries, SelectConfig, Selection, Selector};
use serde_json::json;

use super::options::{BackendArgs, PqArgs, SelectArgs, cut_to};
use super::{eval, report, train};

/// Measured keys and queries; data/README.md says where they come from.
const SAMPLE: &[u8] = include_bytes!("../../data/sample_kv.safetensors");

/// Keys that are appended one by one.
const STEPS: usize = 64;

/// Run a decode loop on a bundled sample of real attention keys
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pq: PqArgs,
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    backend: BackendArgs,
    /// Write the figures as JSON too; `-` prints JSON instead of the text
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(super) fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    report::check_json(args.json.as_deref())?;
    let kv = KvFile::parse("sample", Path::new("sample_kv.safetensors"), SAMPLE)?;
    let keys = kv.keys();
    let trained = keys.tokens - STEPS;
    let prefill = keys.copy_tokens(0..trained);
    let prefill = Keys {
        data: &prefill,
        tokens: trained,
        ..keys
    };

    let opened = args.backend.open()?;
    let start = Instant::now();
    let index = train::index(
        &args.pq.config(),
        &args.pq.training(),
        prefill,
        keys.tokens,
        quiet,
    )?;
    let training_time = start.elapsed();
    let packed_bytes = index.packed_bytes_per_key();
    let (pq, config) = (args.pq.config(), args.select.config());
    let heads = kv.queries().num_qo_heads;
    let cut = cut_to(config, keys.tokens);
    let mut selector = Selector::new(&opened.backend, index, cut, heads, 1)?;
    let decoded = decode(&mut selector, &kv, &pq, &config)?;

    let quality = &decoded.quality;
    let (low, high) = quality.head_recall_range();
    let (tokens, head_dim) = (keys.tokens, keys.head_dim);
    let m = pq.num_subvectors;
    let mut text = String::new();
    writeln!(
        text,
        "keysieve on a bundled sample of real attention keys\n"
    )?;
    writeln!(text, "backend         {}", report::backend(&opened))?;
    writeln!(
        text,
        "keys            {} heads x {tokens} tokens x {head_dim} components",
        keys.num_kv_heads
    )?;
    writeln!(
        text,
        "codebook        {m} sub-vectors x {} centroids, trained on {trained} tokens in {}",
        pq.num_centroids(),
        report::duration(training_time)
    )?;
    writeln!(
        text,
        "bytes per key   {packed_bytes} packed, {m} as stored; {} as f16 key",
        2 * head_dim
    )?;
    writeln!(
        text,
        "decode loop     {STEPS} steps; each appends one key and lists sink {} + heavy {} + window {}",
        config.sink, config.heavy, config.window
    )?;
    writeln!(
        text,
        "time per step   {} median ({} to append, {} to select)",
        report::duration(median(
            decoded.times.iter().map(|step| step.append + step.select)
        )),
        report::duration(median(decoded.times.iter().map(|step| step.append))),
        report::duration(median(decoded.times.iter().map(|step| step.select))),
    )?;
    writeln!(
        text,
        "recall          {:.3} of the heavy keys that exact inner products give (heads {low:.3} to {high:.3}; by chance {:.3})",
        quality.recall, quality.chance_recall
    )?;
    writeln!(
        text,
        "attention mass  {:.3} of the exact softmax; {:.3} with exact heavy keys, {:.3} with sink and window alone",
        quality.mass, quality.exact_mass, quality.fixed_mass
    )?;
    write!(text, "\n{}", one_list(selector.selection(), &config))?;

    let times = |time: fn(&StepTime) -> Duration| {
        median(decoded.times.iter().map(time)).as_secs_f64() * 1e6
    };
    let mut value = json!({
        "shape": {
            "num_heads": keys.num_kv_heads,
            "tokens": tokens,
            "head_dim": head_dim,
        },
        "num_subvectors": m,
        "bits": pq.bits,
        "init_offset": pq.init_offset,
        "sink": config.sink,
        "heavy": config.heavy,
        "window": config.window,
        "bytes_per_key": { "packed": packed_bytes, "stored": m, "f16_key": 2 * head_dim },
        "training_s": training_time.as_secs_f64(),
        "steps": STEPS,
        "step_us": {
            "median": times(|step| step.append + step.select),
            "append": times(|step| step.append),
            "select": times(|step| step.select),
        },
        "quality": report::quality_json(quality),
        "positions": selector.selection().positions(0, 0, 0),
    });
    eval::extend(&mut value, report::backend_json(&opened));
    report::give(&text, args.json.as_deref(), &value)
}

struct StepTime {
    append: Duration,
    select: Duration,
}

struct Decoded {
    times: Vec<StepTime>,
    quality: Quality,
}

/// The last [`STEPS`] tokens arrive one by one, each with a query; the sample has fewer queries than
/// that, so they are used in turn.
fn decode(
    selector: &mut Selector,
    kv: &KvFile,
    pq: &PqConfig,
    config: &SelectConfig,
) -> keysieve::Result<Decoded> {
    let (keys, queries) = (kv.keys(), kv.queries());
    let mut times = Vec::with_capacity(STEPS);
    let mut qualities = Vec::with_capacity(STEPS);
    for step in 0..STEPS {
        let token = keys.tokens - STEPS + step;
        let key = keys.copy_tokens(token..token + 1);
        let key = Keys {
            data: &key,
            tokens: 1,
            ..keys
        };
        let turn = step % queries.num_queries;
        let query: Vec<f32> = (0..queries.num_qo_heads)
            .flat_map(|head| queries.query(0, head, turn))
            .copied()
            .collect();
        let query = Queries {
            data: &query,
            num_queries: 1,
            ..queries
        };

        let start = Instant::now();
        selector.append(key)?;
        let append = start.elapsed();
        let start = Instant::now();
        let selection = selector.select(query)?;
        let select = start.elapsed();
        times.push(StepTime { append, select });
        qualities.push(Quality::measure(keys, query, pq, config, selection)?);
    }
    let quality = Quality::mean(&qualities).expect("there are steps");
    Ok(Decoded { times, quality })
}

/// The list of the first head, by its three parts.
fn one_list(selection: &Selection, config: &SelectConfig) -> String {
    let list = selection.positions(0, 0, 0);
    let seq_len = selection.seq_len();
    let summary = format!(
        "Head 0 in the last step attends to {} of {seq_len} positions:\n",
        list.len()
    );
    if list.len() == seq_len {
        return format!("{summary}  all     {}\n", report::range(list));
    }
    let sink_end = config.sink.min(seq_len);
    let window_start = seq_len.saturating_sub(config.window).max(sink_end);
    let (sink, rest) = list.split_at(list.partition_point(|&p| (p as usize) < sink_end));
    let (heavy, window) = rest.split_at(rest.partition_point(|&p| (p as usize) < window_start));
    let heavy = match heavy {
        [] => "none".into(),
        heavy => report::wrapped(heavy, 10),
    };
    format!(
        "{summary}  sink    {}\n  heavy   {heavy}\n  window  {}\n",
        report::range(sink),
        report::range(window),
    )
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times[times.len() / 2]
}
