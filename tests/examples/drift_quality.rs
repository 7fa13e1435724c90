//! What retraining is worth, by the drift: codebooks trained on the first part of a context, whose other keys are as
//! the file has them, moved by a fixed vector, or another head's. The table in docs/quality.md.
//!
//!     cargo run --release -p keysieve-tests --example drift_quality -- KV [HEADS]

use std::path::PathBuf;

use anyhow::Context;
use keysieve::files::KvFile;
use keysieve::quality::Quality;
use keysieve::{Backend, KeyIndex, Keys, PqConfig, Queries, SelectConfig, Selector, TrainConfig};

/// What the keys behind the first part are.
#[derive(Debug, Clone, Copy)]
enum Later {
    /// Those of the file, moved by so many root mean squares of a component in a direction that is fixed for each head.
    Moved(f32),
    /// So many thousandths of them are those of the next head, at the same positions.
    OtherHead(usize),
}

impl Later {
    const ALL: [Later; 7] = [
        Later::Moved(0.0),
        Later::Moved(0.25),
        Later::Moved(0.5),
        Later::Moved(1.0),
        Later::OtherHead(50),
        Later::OtherHead(200),
        Later::OtherHead(1000),
    ];

    fn name(self) -> String {
        match self {
            Later::Moved(0.0) => "as they are".into(),
            Later::Moved(by) => format!("moved by {by} rms"),
            Later::OtherHead(part) => format!("{} % another head's", part as f32 / 10.0),
        }
    }

    /// The keys with those from `first` on changed.
    fn keys(self, keys: Keys<'_>, first: usize) -> Vec<f32> {
        let mut data = keys.data.to_vec();
        let (tokens, dim, heads) = (keys.tokens, keys.head_dim, keys.num_kv_heads);
        let squares = keys.data.iter().map(|&x| f64::from(x) * f64::from(x));
        let rms = (squares.sum::<f64>() / keys.data.len() as f64).sqrt() as f32;
        for (row, key) in data.chunks_exact_mut(dim).enumerate() {
            let (head, token) = (row / tokens, row % tokens);
            if token < first {
                continue;
            }
            match self {
                Later::Moved(by) => {
                    for (i, x) in key.iter_mut().enumerate() {
                        // +1 or -1 by a hash.
                        let hash = (head * dim + i).wrapping_mul(0x9e37_79b9) >> 16;
                        *x += if hash.is_multiple_of(2) {
                            by * rms
                        } else {
                            -by * rms
                        };
                    }
                }
                // 619 has no factor in common with 1000: tokens of either kind lie among each other.
                Later::OtherHead(part) if token * 619 % 1000 < part => {
                    key.copy_from_slice(keys.key(0, (head + 1) % heads, token));
                }
                Later::OtherHead(_) => (),
            }
        }
        data
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().context("which KV file?")?);
    let heads = arguments.next().map(|heads| heads.parse::<usize>());
    let kv = KvFile::read("KV", &path)?;
    let (keys, queries) = (kv.keys(), kv.queries());
    let heads = heads.transpose()?.unwrap_or(keys.num_kv_heads);
    anyhow::ensure!(
        keys.batch == 1 && keys.num_kv_heads == queries.num_qo_heads && heads <= keys.num_kv_heads,
        "a KV file of one sequence with a query head for each key head is needed, of {heads} heads at least"
    );
    let shape = [1, heads, keys.tokens, keys.head_dim];
    let of_keys = heads * keys.tokens * keys.head_dim;
    let keys = Keys::new(&keys.data[..of_keys], shape)?;
    let of_queries = heads * queries.num_queries * queries.head_dim;
    let queries_shape = [1, heads, queries.num_queries, queries.head_dim];
    let queries = Queries::new(&queries.data[..of_queries], queries_shape)?;
    let first = keys.tokens / 4;
    println!("codebooks of the first {first} of {} keys\n", keys.tokens);
    println!("| m | bits | later keys | drift | recall | retrained | mass ratio | retrained |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (num_subvectors, bits) in [(2, 6), (4, 8)] {
        let pq = PqConfig {
            num_subvectors,
            bits,
            ..PqConfig::default()
        };
        let training = TrainConfig::default();
        for later in Later::ALL {
            let data = later.keys(keys, first);
            let keys = Keys::new(&data, shape)?;
            let head = keys.copy_tokens(0..first);
            let tail = keys.copy_tokens(first..keys.tokens);
            let [batch, heads, tokens, dim] = shape;
            let head = Keys::new(&head, [batch, heads, first, dim])?;
            let tail = Keys::new(&tail, [batch, heads, tokens - first, dim])?;
            let mut index = KeyIndex::train(&pq, &training, head, tokens)?;
            index.append(tail)?;
            let drift = index
                .drift(tail, first)?
                .context("the keys are not all alike")?;
            let again = index.retrain_on(&Backend::Cpu, &training, keys, tokens)?;
            let (stale, fresh) = (
                measure(index, keys, queries)?,
                measure(again, keys, queries)?,
            );
            println!(
                "| {num_subvectors} | {bits} | {} | {drift:.2} | {:.3} | {:.3} | {:.3} | {:.3} |",
                later.name(),
                stale.recall,
                fresh.recall,
                stale.mass_ratio,
                fresh.mass_ratio
            );
        }
    }
    Ok(())
}

fn measure(index: KeyIndex, keys: Keys<'_>, queries: Queries<'_>) -> keysieve::Result<Quality> {
    let (pq, select) = (*index.config(), SelectConfig::default());
    let (heads, num_queries) = (queries.num_qo_heads, queries.num_queries);
    let mut selector = Selector::new(&Backend::Cpu, index, select, heads, num_queries)?;
    Quality::measure(keys, queries, &pq, &select, selector.select(queries)?)
}
