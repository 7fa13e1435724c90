//! Training and steps on the CPU, timed for `faiss_cpu.py` to stand beside FAISS.
//!
//! `cpu_steps KV M BITS HEAVY THREADS RUNS`: trains an index on the keys of a KV file, takes `RUNS` steps,
//! each one query of every head, and prints one line of JSON. Lists are all heavy keys: no sink, no
//! window. `cpu_steps train KV M BITS ITERATIONS THREADS RUNS` times the training alone. In place of a
//! file, `31872x128` stands for so many normally distributed keys of so many components.

use std::time::Instant;

use keysieve::cpu::simd::Simd;
use keysieve::files::KvFile;
use keysieve::{Backend, KeyIndex, Keys, PqConfig, Queries, SelectConfig, Selector, TrainConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Steps whose list is checked, each before it is timed.
const CHECKED: usize = 2;

/// Anything that goes wrong, from any thread.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let training_alone = args.first().is_some_and(|arg| arg == "train");
    if training_alone {
        args.remove(0);
    }
    let [kv, m, bits, number, threads, runs] = &args[..] else {
        return Err("cpu_steps [train] KV M BITS HEAVY|ITERATIONS THREADS RUNS".into());
    };
    let (number, runs): (usize, usize) = (number.parse()?, runs.parse()?);
    let pq = PqConfig {
        num_subvectors: m.parse()?,
        bits: bits.parse()?,
        init_offset: 0,
        ..PqConfig::default()
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.parse()?)
        .build()?;
    let random = kv.split_once('x').and_then(|(tokens, head_dim)| {
        let (tokens, head_dim) = (tokens.parse().ok()?, head_dim.parse().ok()?);
        Some((
            tokens,
            head_dim,
            normal(tokens * head_dim, 0),
            normal(QUERIES * head_dim, 1),
        ))
    });
    let file = match random {
        Some(_) => None,
        None => Some(KvFile::read("KV", kv.as_ref())?),
    };
    let (keys, queries) = match (&random, &file) {
        (Some((tokens, head_dim, keys, queries)), _) => (
            Keys::new(keys, [1, 1, *tokens, *head_dim])?,
            Queries::new(queries, [1, 1, QUERIES, *head_dim])?,
        ),
        (None, file) => {
            let file = file.as_ref().expect("read above");
            (file.keys(), file.queries())
        }
    };
    pool.install(|| match training_alone {
        true => train(keys, &pq, number, runs),
        false => steps(keys, queries, &pq, number, runs),
    })
}

/// Queries of a head that is made up.
const QUERIES: usize = 64;

/// `len` numbers of nearly a normal distribution: each the sum of twelve uniform ones.
fn normal(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len)
        .map(|_| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0)
        .collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn train(keys: Keys<'_>, pq: &PqConfig, iterations: usize, runs: usize) -> Result<(), Failure> {
    let mut times = Vec::new();
    let mut inertias = Vec::new();
    for seed in 0..runs as u64 {
        let training = TrainConfig {
            iterations,
            seed,
            ..TrainConfig::default()
        };
        let start = Instant::now();
        let index = KeyIndex::train(pq, &training, keys, keys.tokens)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        inertias.push(inertia(keys, &index));
    }
    println!(
        r#"{{"simd": "{}", "ms": {}, "least": {}, "inertia": {}}}"#,
        Simd::chosen()?.name(),
        median(times.clone()),
        times.into_iter().fold(f64::INFINITY, f64::min),
        median(inertias)
    );
    Ok(())
}

/// The sum of all keys' squared distances to what their codes stand for.
fn inertia(keys: Keys<'_>, index: &KeyIndex) -> f64 {
    let (m, sub_dim) = (
        index.config().num_subvectors,
        index.config().sub_dim(index.head_dim()),
    );
    let parts = index.to_parts();
    let sub_vectors = keys.data.chunks(sub_dim).zip(&parts.codes);
    let distance = |(i, (x, &code)): (usize, (&[f32], &u8))| -> f64 {
        let at = ((i % m) << index.config().bits) + usize::from(code);
        let centroid = &parts.centroids[at * sub_dim..][..sub_dim];
        let differences = x.iter().zip(centroid).map(|(x, c)| f64::from(x - c));
        differences.map(|d| d * d).sum()
    };
    sub_vectors.enumerate().map(distance).sum()
}

fn steps(
    keys: Keys<'_>,
    queries: Queries<'_>,
    pq: &PqConfig,
    heavy: usize,
    runs: usize,
) -> Result<(), Failure> {
    let training = TrainConfig {
        iterations: 4,
        seed: 0,
        ..TrainConfig::default()
    };
    let index = KeyIndex::train(pq, &training, keys, keys.tokens)?;
    let select = SelectConfig {
        sink: 0,
        window: 0,
        heavy,
        short_context: false,
        weights: false,
        ..SelectConfig::default()
    };
    let heads = keys.num_kv_heads;
    let mut selector = Selector::new(&Backend::Cpu, index, select, heads, 1)?;
    let mut times = Vec::new();
    for run in 0..runs {
        let query = (0..heads)
            .flat_map(|head| queries.query(0, head, run % queries.num_queries))
            .copied()
            .collect::<Vec<f32>>();
        if run < CHECKED {
            let selection = selector.select(Queries::new(&query, [1, heads, 1, keys.head_dim])?)?;
            let got = selection.positions(0, 0, 0).to_vec();
            if got != plain_list(&selector.to_index()?, &query[..keys.head_dim], heavy) {
                return Err("the list is not that of a plain loop: nothing was timed".into());
            }
        }
        let query = Queries::new(&query, [1, heads, 1, keys.head_dim])?;
        let start = Instant::now();
        selector.select(query)?;
        times.push(start.elapsed().as_secs_f64() * 1e6 / heads as f64);
    }
    let step = selector.cpu_step().expect("a CPU's");
    let stages = step.stage_times().next().unwrap_or_default();
    println!(
        r#"{{"simd": "{}", "us": {:.2}, "least": {:.2}, "stages": "{stages:?}"}}"#,
        Simd::chosen()?.name(),
        median(times.clone()),
        times.into_iter().fold(f64::INFINITY, f64::min),
    );
    Ok(())
}

/// The first head's best keys by a plain loop over the contract, which shares no code with the library.
fn plain_list(index: &KeyIndex, query: &[f32], heavy: usize) -> Vec<i32> {
    let (m, bits) = (index.config().num_subvectors, index.config().bits);
    let sub_dim = index.config().sub_dim(index.head_dim());
    let entry = |subvector: usize, code: u8| {
        let at = (subvector << bits) + usize::from(code);
        let centroid = &index.centroids()[at * sub_dim..][..sub_dim];
        let query = &query[subvector * sub_dim..];
        let mut sums = [0.0f32; 8];
        for (i, c) in centroid.iter().enumerate() {
            sums[i % 8] = query[i].mul_add(*c, sums[i % 8]);
        }
        let pairs = [0, 2, 4, 6].map(|i| sums[i] + sums[i + 1]);
        (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])
    };
    let codes = index.padded_codes().chunks(m).take(index.num_codes());
    let mut scored: Vec<(f32, i32)> = codes
        .zip(0..)
        .map(|(codes, position)| {
            let entries = codes.iter().enumerate().map(|(j, &code)| entry(j, code));
            (
                entries.reduce(|sum, entry| sum + entry).unwrap_or(0.0),
                position,
            )
        })
        .collect();
    // 0.0 is added so that -0.0 equals +0.0.
    scored.sort_by(|a, b| (b.0 + 0.0).total_cmp(&(a.0 + 0.0)).then(a.1.cmp(&b.1)));
    let mut list: Vec<i32> = scored.iter().take(heavy).map(|&(_, p)| p).collect();
    list.sort_unstable();
    list
}
