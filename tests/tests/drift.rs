//! The drift figure: the same on every backend, near what f64 gives, and kept with the index.

use std::process::ExitCode;

use keysieve::{
    Backend, Error, KeyIndex, Keys, Metric, PqConfig, RaggedConfig, RaggedSelector, SelectConfig,
    Selector, SequenceConfig, Start, TrainConfig,
};
use keysieve_tests::device::{Device, Suite, fail};
use keysieve_tests::oracle::distance_f64;
use keysieve_tests::strategies::Random;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("drift_is_the_mean_error", cases, drift_is_the_mean_error);
    suite.on_each_device("drift_tells_when_keys_change", drift_tells_when_keys_change);
    suite.run()
}

/// An index to train, and what is appended to it.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    num_kv_heads: usize,
    num_subvectors: usize,
    sub_dim: usize,
    bits: u32,
    init_offset: usize,
    points: usize,
    appended: usize,
    metric: Metric,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1..=2usize, 1..=3usize, 1..=5usize, 1..=12usize, 1..=4u32);
    let tokens = (0..=9usize, 1..=400usize, 1..=300usize);
    (sizes, tokens, any::<bool>(), any::<u64>()).prop_map(|(sizes, tokens, is_ip, seed)| Case {
        batch: sizes.0,
        num_kv_heads: sizes.1,
        num_subvectors: sizes.2,
        sub_dim: sizes.3,
        bits: sizes.4,
        init_offset: tokens.0,
        points: tokens.1,
        appended: tokens.2,
        metric: if is_ip { Metric::Ip } else { Metric::L2 },
        seed,
    })
}

fn floats(random: &mut Random, len: usize, scale: f32) -> Vec<f32> {
    (0..len).map(|_| random.unit() * scale).collect()
}

/// The mean squared distance of `keys`, the first of which has code `first`, in f64.
fn error_f64(index: &KeyIndex, keys: &Keys<'_>, first: usize, skip: usize) -> f64 {
    let parts = index.to_parts();
    let (m, config) = (parts.config.num_subvectors, parts.config);
    let sub_dim = config.sub_dim(parts.head_dim);
    let (mut sum, mut num) = (0.0, 0);
    for group in 0..index.groups() {
        for token in skip..keys.tokens {
            let key = &keys.group(group)[token * keys.head_dim..][..keys.head_dim];
            let code_at = (group * parts.num_codes + first + token - skip) * m;
            for j in 0..m {
                let code = usize::from(parts.codes[code_at + j]);
                let at = ((group * m + j) * config.num_centroids() + code) * sub_dim;
                let centroid = &parts.centroids[at..at + sub_dim];
                sum += distance_f64(&key[j * sub_dim..][..sub_dim], centroid);
            }
            num += 1;
        }
    }
    sum / f64::from(num)
}

fn is_near(got: f64, expected: f64) -> bool {
    (got - expected).abs() <= 1e-5 * expected.abs() + 1e-12
}

fn drift_is_the_mean_error(device: &Device, case: Case) -> TestCaseResult {
    let head_dim = case.num_subvectors * case.sub_dim;
    let tokens = case.init_offset + case.points;
    let mut random = Random::new(case.seed);
    let shape = |tokens| [case.batch, case.num_kv_heads, tokens, head_dim];
    let len = |tokens| shape(tokens).iter().product();
    let first = floats(&mut random, len(tokens), 1.0);
    let later = floats(&mut random, len(case.appended), 2.0);
    let first = Keys::new(&first, shape(tokens)).map_err(fail)?;
    let later = Keys::new(&later, shape(case.appended)).map_err(fail)?;
    let pq = PqConfig {
        num_subvectors: case.num_subvectors,
        bits: case.bits,
        init_offset: case.init_offset,
        metric: case.metric,
    };
    let training = TrainConfig {
        iterations: 2,
        seed: case.seed,
        start: Start::Sampled,
        ..TrainConfig::default()
    };
    let capacity = tokens + case.appended;
    let index =
        KeyIndex::train_on(&device.backend, &pq, &training, first, capacity).map_err(fail)?;
    let error = index
        .training_error()
        .ok_or_else(|| fail("no training error"))?;
    let expected = error_f64(&index, &first, 0, case.init_offset);
    prop_assert!(is_near(error, expected), "{} for {}", error, expected);

    let selector = |backend: &Backend| -> keysieve::Result<Selector> {
        let config = SelectConfig::default();
        let mut selector = Selector::new(backend, index.clone(), config, case.num_kv_heads, 1)?;
        selector.append(later)?;
        Ok(selector)
    };
    let on_device = selector(&device.backend).map_err(fail)?;
    let drift = on_device.drift(later, tokens).map_err(fail)?;
    let on_cpu = selector(&Backend::Cpu).map_err(fail)?;
    prop_assert_eq!(drift, on_cpu.drift(later, tokens).map_err(fail)?);
    let grown = on_device.to_index().map_err(fail)?;
    prop_assert_eq!(grown.training_error(), Some(error));
    prop_assert_eq!(drift, grown.drift(later, tokens).map_err(fail)?);
    let expected = error_f64(&grown, &later, case.points, 0);
    match drift {
        None => prop_assert_eq!(error, 0.0),
        Some(drift) => prop_assert!(
            is_near(drift * error, expected),
            "{} times {}",
            drift,
            error
        ),
    }
    Ok(())
}

/// Keys as those trained on drift by little, others by much; until training again.
fn drift_tells_when_keys_change(device: &Device) -> TestCaseResult {
    let (tokens, recent) = (600, 300);
    let mut random = Random::new(1);
    let pq = PqConfig {
        num_subvectors: 2,
        bits: 4,
        init_offset: 0,
        metric: Metric::L2,
    };
    let training = TrainConfig {
        start: Start::Sampled,
        ..TrainConfig::default()
    };
    // Two heads of keys around few points, which move.
    let mut around = |centre: f32, tokens: usize| -> Vec<f32> {
        let near = |_| centre * (random.below(8) as f32) + 0.3 * random.unit();
        (0..2 * tokens * 8).map(near).collect()
    };
    let (first, same, moved) = (
        around(1.0, tokens),
        around(1.0, recent),
        around(1.7, recent),
    );
    let first = Keys::new(&first, [1, 2, tokens, 8]).map_err(fail)?;
    let capacity = tokens + 2 * recent;
    let index =
        KeyIndex::train_on(&device.backend, &pq, &training, first, capacity).map_err(fail)?;
    let mut selector =
        Selector::new(&device.backend, index, SelectConfig::default(), 2, 1).map_err(fail)?;
    let (same, moved) = (
        Keys::new(&same, [1, 2, recent, 8]).map_err(fail)?,
        Keys::new(&moved, [1, 2, recent, 8]).map_err(fail)?,
    );
    selector.append(same).map_err(fail)?;
    selector.append(moved).map_err(fail)?;
    let drift = |keys, position| selector.drift(keys, position).map_err(fail);
    let (little, much) = (drift(same, tokens)?, drift(moved, tokens + recent)?);
    prop_assert!(
        little.is_some_and(|drift| (0.8..1.25).contains(&drift)),
        "{:?}",
        little
    );
    prop_assert!(much.is_some_and(|drift| drift > 2.0), "{:?}", much);

    // A sequence of a ragged batch drifts as one alone.
    let config = RaggedConfig {
        batch: 2,
        num_kv_heads: 2,
        num_qo_heads: 2,
        num_queries: 1,
        head_dim: 8,
        capacity,
        pq,
        select: SelectConfig::default(),
        paging: None,
    };
    let mut ragged = RaggedSelector::new(&device.backend, &config).map_err(fail)?;
    let index = selector.to_index().map_err(fail)?;
    let regions = SequenceConfig::from(&config.select);
    ragged.insert(1, &index, &regions, &[]).map_err(fail)?;
    let of_slot = ragged.drift(1, moved, tokens + recent).map_err(fail)?;
    prop_assert_eq!(of_slot, much);
    prop_assert!(ragged.drift(0, moved, 0).is_err());

    // Trained again on what is recent, the same keys drift no more.
    let again = index
        .retrain_on(&device.backend, &training, moved, recent)
        .map_err(fail)?;
    let little = again.drift(moved, 0).map_err(fail)?;
    prop_assert_eq!(little, Some(1.0));

    // Bad calls.
    for (keys, position) in [(same, tokens + recent + 1), (same, usize::MAX)] {
        let error = selector.drift(keys, position);
        let is_named = matches!(error, Err(Error::Invalid { argument, .. }) if argument == "keys");
        prop_assert!(is_named);
    }
    let other = Keys {
        num_kv_heads: 1,
        batch: 2,
        ..same
    };
    prop_assert!(selector.drift(other, tokens).is_err());
    let none = Keys::new(&[0.0; 0], [1, 2, 0, 8]).map_err(fail)?;
    prop_assert!(selector.drift(none, tokens).is_err());
    let mut parts = KeyIndex::from_parts(index.to_parts(), capacity).map_err(fail)?;
    prop_assert_eq!(parts.drift(same, tokens).map_err(fail)?, None);
    prop_assert!(parts.set_training_error(Some(-1.0)).is_err());
    prop_assert!(parts.set_training_error(Some(f64::NAN)).is_err());
    prop_assert_eq!(parts.training_error(), None);

    // In a file too.
    let file = tempfile::NamedTempFile::new().map_err(fail)?;
    index.save(file.path()).map_err(fail)?;
    let loaded = KeyIndex::load(file.path(), Some(capacity)).map_err(fail)?;
    prop_assert_eq!(loaded.training_error(), index.training_error());
    Ok(())
}
