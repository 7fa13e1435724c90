//! Configurations: those that the command line takes, and those that a caller can build.

use arbitrary::{Result, Unstructured};
use clap::Parser;
use keysieve::config::{MAX_HEAD_DIM, MAX_HEAVY, MAX_LIST_POSITIONS, MAX_SUBVECTORS, MAX_TOKENS};
use keysieve::{
    Backend, Error, IndexParts, KeyIndex, Keys, PqConfig, Queries, SelectConfig, Selector,
    TrainConfig,
};

use super::parts::{any_pq, any_select, any_size, floats, small_index};
use super::{check_message, work};
use crate::strategies::{Fill, Random};

/// The command line's own options.
#[path = "../../../host/src/cli/options.rs"]
#[expect(dead_code, reason = "no backend is opened here, and no file named")]
mod options;

/// Every option that several commands share.
#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    pq: options::PqArgs,
    #[command(flatten)]
    select: options::SelectArgs,
    #[command(flatten)]
    backend: options::BackendArgs,
}

/// Most positions and codes of a case: beyond, memory is what a caller asked for.
const MAX_CASE: usize = 1 << 14;

/// Text is a command line; other bytes are numbers of a caller. Either is refused by name exactly
/// where the documented bounds are, or trains, selects and appends.
pub(super) fn run(bytes: &[u8]) {
    match bytes.split_first() {
        Some((b'-', _)) => command_line(&String::from_utf8_lossy(bytes)),
        Some((_, rest)) => caller(&mut Unstructured::new(rest)).expect("Unstructured never ends"),
        None => command_line(""),
    }
}

/// Command lines around every bound, and bytes without meaning.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let lines = [
        "--subvectors 4 --bits 8 --iterations 3 --seed 7 --init-offset 0",
        "--subvectors=64 --bits=1 --heavy=4096 --sink=0 --window=0",
        "--heavy 0 --sink 16777216 --window 16777216 --no-short-context",
        "--seed 18446744073709551615 --init-offset 16777216 --backend cpu",
        "--bits 9 --subvectors 65",
        "--heavy 4097",
        "--sink -1 --window 1.5",
        "--backend tpu --bits 4 --bits 4",
        "--help",
    ];
    let mut random = Random::new(2);
    let lens = [16, 64, 256, 512, 512, 1024];
    let bytes = lens.map(|len| (0..len).map(|_| random.bits() as u8).collect());
    let lines = lines.map(|line| line.as_bytes().to_vec());
    lines.into_iter().chain(bytes).collect()
}

fn command_line(text: &str) {
    let words = || text.split_ascii_whitespace();
    let parsed = CommandLine::try_parse_from(std::iter::once("keysieve").chain(words()));
    let options = match parsed {
        Ok(options) => options,
        Err(error) => return assert!(!error.render().to_string().is_empty()),
    };
    let (pq, training) = (options.pq.config(), options.pq.training());
    let select = options.select.config();
    let default = (
        PqConfig::default(),
        TrainConfig::default(),
        SelectConfig::default(),
    );
    let number = |name: &str, default: u64| {
        let mut words = words();
        let given = words.find_map(|word| match word.strip_prefix(name)? {
            "" => Some(words_after(text, name)),
            value => value.strip_prefix('='),
        });
        given.map_or(default, |value| {
            value.parse().expect("an accepted number is one")
        })
    };
    assert_eq!(
        pq.num_subvectors as u64,
        number("--subvectors", default.0.num_subvectors as u64)
    );
    assert_eq!(u64::from(pq.bits), number("--bits", default.0.bits.into()));
    assert_eq!(
        pq.init_offset as u64,
        number("--init-offset", default.0.init_offset as u64)
    );
    assert_eq!(
        training.iterations as u64,
        number("--iterations", default.1.iterations as u64)
    );
    assert_eq!(training.seed, number("--seed", default.1.seed));
    assert_eq!(select.sink as u64, number("--sink", default.2.sink as u64));
    assert_eq!(
        select.window as u64,
        number("--window", default.2.window as u64)
    );
    assert_eq!(
        select.heavy as u64,
        number("--heavy", default.2.heavy as u64)
    );
    assert_eq!(
        select.short_context,
        !words().any(|word| word == "--no-short-context")
    );
    assert!(!select.weights);

    select
        .validate()
        .expect("the options have the bounds of the library");
    for head_dim in [1, 7, 8, 64, 96, 256] {
        match pq.validate(head_dim) {
            Ok(()) => train_and_select(pq, training, select, head_dim),
            Err(error) => {
                assert!(!head_dim.is_multiple_of(pq.num_subvectors), "{error}");
                let message = options::in_options(&error.into());
                assert!(message.starts_with("--subvectors: got "), "{message}");
            }
        }
    }
}

/// The word that follows `name`.
fn words_after<'a>(text: &'a str, name: &str) -> &'a str {
    let mut words = text
        .split_ascii_whitespace()
        .skip_while(|&word| word != name);
    words.nth(1).expect("an accepted option has a value")
}

/// Trains an index on a few keys and selects from it, as `keysieve train` and `select` do.
fn train_and_select(pq: PqConfig, training: TrainConfig, select: SelectConfig, head_dim: usize) {
    let tokens = 10;
    if pq.init_offset > MAX_CASE {
        return;
    }
    let training = TrainConfig {
        iterations: training.iterations.min(2),
        ..training
    };
    let tokens = pq.init_offset + tokens;
    let data = Fill::usual(training.seed).floats(tokens.min(64) * head_dim);
    let len = tokens * head_dim;
    let data: Vec<f32> = data.into_iter().cycle().take(len).collect();
    let keys = Keys::new(&data, [1, 1, tokens, head_dim]).expect("the data are of that shape");
    let index = KeyIndex::train(&pq, &training, keys, tokens + 1).expect("the keys are finite");
    work::survives(&index);
    let queries = Queries::new(&data[..2 * head_dim], [1, 2, 1, head_dim]);
    let select = options::cut_to(select, tokens + 1);
    work::select_and_append(index, select, queries.expect("the data are of that shape"));
}

fn caller(u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=3)? {
        0 => validations(u),
        1 => trainings(u),
        2 => parts(u),
        _ => steps(u),
    }
}

/// The documented bounds of a format and of a selection.
fn validations(u: &mut Unstructured<'_>) -> Result<()> {
    let (pq, select, head_dim) = (any_pq(u)?, any_select(u)?, any_size(u)?);
    match pq.validate(head_dim) {
        Ok(()) => assert!(is_format(&pq, head_dim)),
        Err(error) => {
            assert!(!is_format(&pq, head_dim), "{error}");
            let names = ["bits", "num_subvectors", "head_dim", "init_offset"];
            check_message(&error, &names);
        }
    }
    let in_bounds = select.heavy <= MAX_HEAVY && select.sink.max(select.window) <= MAX_TOKENS;
    match select.validate() {
        Ok(()) => assert!(in_bounds),
        Err(error) => {
            assert!(!in_bounds, "{error}");
            check_message(&error, &["heavy", "sink", "window"]);
        }
    }
    Ok(())
}

fn is_format(pq: &PqConfig, head_dim: usize) -> bool {
    (1..=8).contains(&pq.bits)
        && (1..=MAX_SUBVECTORS).contains(&pq.num_subvectors)
        && (1..=MAX_HEAD_DIM).contains(&head_dim)
        && head_dim.is_multiple_of(pq.num_subvectors)
        && pq.init_offset <= MAX_TOKENS
}

/// Keys that may be of another shape than they say, and may not be finite.
fn trainings(u: &mut Unstructured<'_>) -> Result<()> {
    let pq = any_pq(u)?;
    let training = TrainConfig {
        iterations: u.int_in_range(0..=3)?,
        seed: u.arbitrary()?,
        ..TrainConfig::default()
    };
    let shape = [any_size(u)?, any_size(u)?, any_size(u)?, any_size(u)?];
    let len = shape.iter().try_fold(1usize, |len, &n| len.checked_mul(n));
    let fits = len.filter(|&len| len <= MAX_CASE && u.ratio(9, 10).unwrap_or(true));
    let data = floats(u, fits.unwrap_or(3))?;
    let [batch, num_kv_heads, tokens, head_dim] = shape;
    let keys = Keys {
        data: &data,
        batch,
        num_kv_heads,
        tokens,
        head_dim,
    };
    let capacity = any_size(u)?;
    // Room is what the caller asks for, if the call is good.
    let capacity = if capacity > MAX_CASE && capacity <= MAX_TOKENS {
        tokens
    } else {
        capacity
    };
    let good = is_format(&pq, head_dim)
        && len == Some(data.len())
        && batch * num_kv_heads > 0
        && tokens > pq.init_offset
        && (tokens..=MAX_TOKENS).contains(&capacity);
    let finite = data.iter().all(|x| x.is_finite());
    match KeyIndex::train(&pq, &training, keys, capacity) {
        Ok(index) => {
            assert!(good && finite);
            work::survives(&index);
            let shape = [batch, num_kv_heads, 1, head_dim];
            let data: Vec<f32> = data
                .iter()
                .rev()
                .copied()
                .cycle()
                .take(batch * num_kv_heads * head_dim)
                .collect();
            let queries = Queries::new(&data, shape).expect("the data are of that shape");
            work::use_index(index, queries);
        }
        Err(error) => {
            assert!(!good || !finite, "{error}");
            let names = [
                "bits",
                "num_subvectors",
                "head_dim",
                "init_offset",
                "keys",
                "capacity",
            ];
            check_message(&error, &names);
        }
    }
    Ok(())
}

/// Parts that may not fit each other.
fn parts(u: &mut Unstructured<'_>) -> Result<()> {
    let mut parts = small_index(u)?;
    let mut codes_fit = true;
    match u.int_in_range(0..=8)? {
        0 => parts.config.num_subvectors = any_size(u)?,
        1 => parts.config.bits = any_size(u)? as u32,
        2 => parts.config.init_offset = any_size(u)?,
        3 => parts.batch = any_size(u)?,
        4 => parts.num_kv_heads = any_size(u)?,
        5 => parts.head_dim = any_size(u)?,
        6 => parts.num_codes = any_size(u)?,
        7 => {
            if let Some(code) = parts.codes.last_mut() {
                *code = u.arbitrary()?;
            }
        }
        _ => parts
            .centroids
            .truncate(u.int_in_range(0..=parts.centroids.len())?),
    }
    let IndexParts {
        config,
        batch,
        num_kv_heads,
        head_dim,
        num_codes,
        ..
    } = parts;
    let good = is_format(&config, head_dim) && {
        codes_fit &= parts
            .codes
            .iter()
            .all(|&code| u32::from(code) >> config.bits == 0);
        let groups = batch as u128 * num_kv_heads as u128;
        let m = config.num_subvectors as u128;
        groups > 0
            && num_codes <= MAX_TOKENS - config.init_offset
            && parts.centroids.len() as u128 == (groups * head_dim as u128) << config.bits
            && parts.codes.len() as u128 == groups * num_codes as u128 * m
    };
    let capacity = config.init_offset.saturating_add(num_codes);
    match KeyIndex::from_parts(parts.clone(), capacity) {
        Ok(index) => {
            assert!(good && codes_fit);
            assert_eq!(index.capacity(), capacity);
            let again = index.to_parts();
            assert_eq!(again.codes, parts.codes);
            assert_eq!(bits(&again.centroids), bits(&parts.centroids));
            let shape = [batch, num_kv_heads, 1, head_dim];
            let data = floats(u, shape.iter().product())?;
            let queries = Queries::new(&data, shape).expect("the data are of that shape");
            work::use_index(index, queries);
        }
        Err(error) => {
            assert!(!good || !codes_fit, "{error}");
            let names = [
                "bits",
                "num_subvectors",
                "head_dim",
                "init_offset",
                "capacity",
                "index",
                "centroids",
                "codes",
            ];
            check_message(&error, &names);
        }
    }
    Ok(())
}

/// Selectors of any numbers of heads and queries, and queries and keys that may not fit them.
fn steps(u: &mut Unstructured<'_>) -> Result<()> {
    let parts = small_index(u)?;
    let select = any_select(u)?;
    let [heads, num_queries, spare] = [any_size(u)?, any_size(u)?, u.int_in_range(0..=3)?];
    let seq_len = parts.config.init_offset + parts.num_codes;
    let (batch, num_kv_heads, head_dim) = (parts.batch, parts.num_kv_heads, parts.head_dim);
    let index = KeyIndex::from_parts(parts, seq_len + spare).expect("the parts fit each other");
    let rows = [heads, num_queries]
        .iter()
        .fold(batch as u128, |rows, &n| rows.saturating_mul(n as u128));
    let listed = [select.sink, select.window, select.heavy]
        .iter()
        .map(|&n| n as u128)
        .sum::<u128>();
    let good = select.validate().is_ok() && rows > 0 && heads % num_kv_heads == 0 && rows < 1 << 31;
    // An upper bound: short contexts may be listed whole.
    let positions = rows.saturating_mul(listed + seq_len as u128 + 3);
    if good
        && positions > MAX_CASE as u128
        && rows.saturating_mul(listed) <= MAX_LIST_POSITIONS as u128
    {
        return Ok(());
    }
    let mut selector = match Selector::new(&Backend::Cpu, index, select, heads, num_queries) {
        Ok(selector) => selector,
        Err(error) => {
            assert!(!good || positions > MAX_CASE as u128, "{error}");
            return {
                check_message(&error, &["heavy", "sink", "window", "queries"]);
                Ok(())
            };
        }
    };
    assert!(good);
    let before = selector.selection().clone();
    let fitting = [batch, heads, num_queries, head_dim];
    let shape = changed(u, fitting)?;
    let data = floats(u, fitting.iter().product())?;
    let [batch, num_qo_heads, queries, dim] = shape;
    let queries = Queries {
        data: &data,
        batch,
        num_qo_heads,
        num_queries: queries,
        head_dim: dim,
    };
    match selector.select(queries).map(drop) {
        Ok(()) => assert_eq!(shape, fitting),
        Err(error) => {
            assert_ne!(shape, fitting, "{error}");
            check_message(&error, &["queries"]);
            assert_eq!(*selector.selection(), before);
        }
    }

    let fitting = [fitting[0], num_kv_heads, u.int_in_range(0..=4)?, head_dim];
    let shape = changed(u, fitting)?;
    let data = floats(u, fitting.iter().product())?;
    let [batch, num_kv_heads, tokens, head_dim] = shape;
    let keys = Keys {
        data: &data,
        batch,
        num_kv_heads,
        tokens,
        head_dim,
    };
    let finite = data.iter().all(|x| x.is_finite());
    match selector.append(keys) {
        Ok(()) => {
            assert!(shape == fitting && tokens <= spare && finite);
            assert_eq!(selector.seq_len(), seq_len + tokens);
        }
        Err(error) => {
            let capacity = matches!(error, Error::Capacity { .. }) && tokens > spare;
            assert!(shape != fitting || capacity || !finite, "{error}");
            check_message(&error, &["keys"]);
            assert_eq!(selector.seq_len(), seq_len);
        }
    }
    Ok(())
}

/// The shape, or one that differs in one of its numbers.
fn changed(u: &mut Unstructured<'_>, mut shape: [usize; 4]) -> Result<[usize; 4]> {
    if u.ratio(1, 3)? {
        shape[u.int_in_range(0..=3usize)?] = any_size(u)?;
    }
    Ok(shape)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
