//! `keysieve train`: a codebook and codes from a file of keys.

use std::path::PathBuf;
use std::time::Instant;

use indicatif::ProgressBar;
use keysieve::files::{self, KvFile};
use keysieve::{Error, KeyIndex, Keys, PqConfig, TrainConfig};

use super::options::{PqArgs, named};
use super::report;

/// Train an index on a file of keys
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Keys and queries, safetensors
    #[arg(long, value_name = "KV")]
    kv: PathBuf,
    /// The index to write, safetensors
    #[arg(long, value_name = "INDEX")]
    out: PathBuf,
    #[command(flatten)]
    pq: PqArgs,
}

pub(super) fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let kv = KvFile::read("--kv", &args.kv)?;
    files::check_target("--out", &args.out)?;
    let start = Instant::now();
    let (pq, training) = (args.pq.config(), args.pq.training());
    let index = index(&pq, &training, kv.keys(), kv.keys().tokens, quiet)?;
    named(index.save(&args.out), "--out")?;
    let config = index.config();
    report::note(
        quiet,
        &format!(
            "trained {} x {} codebooks of {} centroids in {}; {} holds the codes of {} keys a head, \
             {} bytes a key",
            index.groups(),
            config.num_subvectors,
            config.num_centroids(),
            report::duration(start.elapsed()),
            args.out.display(),
            index.num_codes(),
            config.num_subvectors,
        ),
    );
    Ok(())
}

/// Trains an index with room for `capacity` tokens, with a progress bar when there is a terminal.
pub(super) fn index(
    config: &PqConfig,
    training: &TrainConfig,
    keys: Keys<'_>,
    capacity: usize,
    quiet: bool,
) -> keysieve::Result<KeyIndex> {
    config.validate(keys.head_dim)?;
    if config.init_offset >= keys.tokens {
        return Err(Error::invalid(
            "init_offset",
            config.init_offset,
            format!("less than the {} tokens of the keys", keys.tokens),
        ));
    }
    let codebooks = keys.batch * keys.num_kv_heads * config.num_subvectors;
    // indicatif draws nothing when stderr is no terminal.
    let bar = match quiet {
        true => ProgressBar::hidden(),
        false => ProgressBar::new(codebooks as u64).with_message("codebooks"),
    };
    let progress = |_, _| bar.inc(1);
    let index = KeyIndex::train_with_progress(config, training, keys, capacity, &progress);
    bar.finish_and_clear();
    index
}
