//! `keysieve select`: the lists of a file of queries.

use std::path::PathBuf;
use std::time::Instant;

use keysieve::files::selection::stride;
use keysieve::files::{self, KvFile};
use keysieve::{AutoBackend, Error, KeyIndex, Keys, Queries, SelectConfig, Selector};

use super::options::{BackendArgs, SelectArgs, cut_to, named};
use super::report;

/// List the keys that a file of queries attends to
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The index of the keys, safetensors
    #[arg(long, value_name = "INDEX")]
    index: PathBuf,
    /// Keys and queries, safetensors; keys the index lacks are appended first
    #[arg(long, value_name = "KV")]
    kv: PathBuf,
    /// The selection to write, safetensors
    #[arg(long, value_name = "SEL")]
    out: PathBuf,
    #[command(flatten)]
    select: SelectArgs,
    /// Write dense weights too: 1.0 at listed positions, 0.0 elsewhere
    #[arg(long)]
    weights: bool,
    #[command(flatten)]
    backend: BackendArgs,
}

pub(super) fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let index = named(KeyIndex::load(&args.index, None), "--index")?;
    let kv = KvFile::read("--kv", &args.kv)?;
    files::check_target("--out", &args.out)?;
    let select = SelectConfig {
        weights: args.weights,
        ..args.select.config()
    };
    let (pq, held) = (*index.config(), index.seq_len());
    let missing = kv.keys().tokens.saturating_sub(held);
    let opened = args.backend.open()?;
    let start = Instant::now();
    let mut selector = selector(&opened, index, kv.keys(), kv.queries(), select)?;
    let selection = selector.select(kv.queries())?;
    let elapsed = start.elapsed();
    named(selection.save(&args.out, &select, &pq), "--out")?;

    if missing > 0 {
        let note = format!("the index ended at token {held}: {missing} keys were appended first");
        report::note(quiet, &note);
    }
    let [batch, heads, queries] = selection.shape();
    let rows = batch * heads * queries;
    let listed: usize = selection.lengths().iter().map(|&n| n as usize).sum();
    report::note(
        quiet,
        &format!(
            "{} lists of {:.0} of {} positions in {} on {}; written to {}",
            rows,
            listed as f64 / rows as f64,
            selection.seq_len(),
            report::duration(elapsed),
            report::backend(&opened),
            args.out.display(),
        ),
    );
    Ok(())
}

/// A selector whose context is `keys`: those that `index` lacks are appended.
pub(super) fn selector(
    opened: &AutoBackend,
    mut index: KeyIndex,
    keys: Keys<'_>,
    queries: Queries<'_>,
    select: SelectConfig,
) -> keysieve::Result<Selector> {
    check_same("batch", keys.batch, index.batch())?;
    check_same("num_kv_heads", keys.num_kv_heads, index.num_kv_heads())?;
    check_same("head_dim", keys.head_dim, index.head_dim())?;
    let (held, tokens) = (index.seq_len(), keys.tokens);
    if held > tokens {
        let init_offset = index.config().init_offset;
        return Err(Error::invalid(
            "index: codes",
            format!(
                "{} codes a head behind init_offset {init_offset}",
                index.num_codes()
            ),
            format!("at most those of the {tokens} keys given"),
        ));
    }
    check_room(&index, tokens, queries, &select)?;
    index.reserve(tokens)?;
    let select = cut_to(select, tokens);
    let (heads, num_queries) = (queries.num_qo_heads, queries.num_queries);
    let mut selector = Selector::new(&opened.backend, index, select, heads, num_queries)?;
    if held < tokens {
        let missing = keys.copy_tokens(held..tokens);
        let missing = Keys {
            data: &missing,
            tokens: tokens - held,
            ..keys
        };
        selector
            .append(missing)
            .map_err(|error| behind(error, held))?;
    }
    Ok(selector)
}

fn check_same(axis: &str, got: usize, expected: usize) -> keysieve::Result<()> {
    if got == expected {
        return Ok(());
    }
    let name = format!("--kv: keys: {axis}");
    Err(Error::invalid(
        name,
        got,
        format!("{expected}, as the index has"),
    ))
}

/// Refuses results that memory cannot hold, by asking for it.
fn check_room(
    index: &KeyIndex,
    tokens: usize,
    queries: Queries<'_>,
    select: &SelectConfig,
) -> keysieve::Result<()> {
    let num_queries = queries.num_queries;
    let rows = queries.batch * queries.num_qo_heads * num_queries;
    stride(select, index.config(), num_queries, tokens, rows)?;
    if !select.weights {
        return Ok(());
    }
    let weights = rows.checked_mul(tokens);
    let room = weights.is_some_and(|count| Vec::<f32>::new().try_reserve_exact(count).is_ok());
    if room {
        return Ok(());
    }
    Err(Error::invalid(
        "weights",
        format!("{tokens} weights for each of {rows} lists"),
        "what fits into memory",
    ))
}

/// Counts a token from the file's first, not from the first that was appended.
fn behind(error: Error, held: usize) -> Error {
    match error {
        Error::NotFinite {
            batch,
            head,
            token,
            component,
            value,
        } => Error::NotFinite {
            batch,
            head,
            token: held + token,
            component,
            value,
        },
        other => other,
    }
}
