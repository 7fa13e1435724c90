//! Training: determinism, progress, and data that leave clusters empty.

use std::process::ExitCode;
use std::sync::OnceLock;

use keysieve::{Error, KeyIndex, Keys, Metric, PqConfig, TrainConfig};
use keysieve_tests::device::{Suite, check_same, fail};
use keysieve_tests::kmeans;
use keysieve_tests::oracle::{self, Shape, augmented, distance_f64, inner_product_f64};
use keysieve_tests::shapes::{one_row, oracle_augmentation, pq_config};
use keysieve_tests::strategies::{FINITE, Fill, Palette, Random, fills};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;
use rayon::{ThreadPool, ThreadPoolBuilder};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property_alone(
        "seed_decides_on_any_threads",
        any_keys,
        seed_decides_on_any_threads,
    );
    suite.property_alone(
        "centroids_are_finite_and_codes_nearest",
        any_keys,
        centroids_are_finite,
    );
    suite.property_alone(
        "inertia_never_increases",
        usual_keys,
        inertia_never_increases,
    );
    suite.property_alone(
        "few_distinct_keys_are_met_exactly",
        few_keys,
        few_are_met_exactly,
    );
    suite.property_alone(
        "not_finite_is_refused_by_its_place",
        any_keys,
        not_finite_is_refused,
    );
    suite.alone("many_keys_on_any_threads", many_keys_on_any_threads);
    suite.alone("samples_cost_no_inertia", samples_cost_no_inertia);
    suite.alone(
        "other_seeds_give_other_centroids",
        other_seeds_give_other_centroids,
    );
    suite.alone(
        "every_cluster_has_keys_after_training",
        every_cluster_has_keys,
    );
    suite.run()
}

/// Vectors of one length.
type Vectors = Vec<Vec<f32>>;

/// Keys to train on.
#[derive(Debug, Clone)]
struct TrainCase {
    shape: Shape,
    tokens: usize,
    metric: Metric,
    training: TrainConfig,
    fill: Fill,
}

impl TrainCase {
    fn data(&self) -> Vec<f32> {
        self.fill
            .floats(self.shape.groups() * self.tokens * self.shape.head_dim)
    }

    fn train_with(&self, data: &[f32], training: TrainConfig) -> keysieve::Result<KeyIndex> {
        let shape = &self.shape;
        let keys = [shape.batch, shape.num_kv_heads, self.tokens, shape.head_dim];
        let keys = Keys::new(data, keys)?;
        let pq = PqConfig {
            metric: self.metric,
            ..pq_config(shape)
        };
        KeyIndex::train(&pq, &training, keys, self.tokens)
    }

    fn train(&self) -> keysieve::Result<KeyIndex> {
        self.train_with(&self.data(), self.training)
    }

    /// Points `[tokens - init_offset, sub_dim]` and centroids `[2^bits, sub_dim]` of each codebook, augmented
    /// with the metric `ip`.
    fn codebooks(&self, data: &[f32], index: &KeyIndex) -> Vec<(Vectors, Vectors)> {
        let shape = &self.shape;
        let sub_dim = shape.sub_dim();
        let added = index.augmentation();
        let mut phis = added.into_iter().flat_map(|added| &added.phis);
        let mut components = added.into_iter().flat_map(|added| &added.components);
        let mut centroids = index.centroids().chunks(sub_dim).map(|centroid| {
            let components = components.next().into_iter();
            centroid.iter().chain(components).copied().collect()
        });
        let mut codebooks = Vec::new();
        for group in data.chunks(self.tokens * shape.head_dim) {
            let keys = group.chunks(shape.head_dim).skip(shape.init_offset);
            for subvector in 0..shape.num_subvectors {
                let phi = phis.next();
                let part = |key: &[f32]| {
                    let x = &key[subvector * sub_dim..][..sub_dim];
                    phi.map_or(x.to_vec(), |&phi| augmented(x, phi))
                };
                let points = keys.clone().map(part).collect();
                codebooks.push((
                    points,
                    centroids.by_ref().take(shape.num_centroids()).collect(),
                ));
            }
        }
        codebooks
    }

    /// The sum over all points of the squared distance to the nearest centroid, in f64.
    fn inertia(&self, data: &[f32], index: &KeyIndex) -> f64 {
        let nearest = |point: &[f32], centroids: &[Vec<f32>]| {
            let distances = centroids.iter().map(|c| distance_f64(point, c));
            distances.fold(f64::INFINITY, f64::min)
        };
        let codebooks = self.codebooks(data, index);
        codebooks
            .iter()
            .flat_map(|(points, c)| points.iter().map(|p| nearest(p, c)))
            .sum()
    }
}

fn train_cases(palettes: &'static [Palette]) -> impl Strategy<Value = TrainCase> {
    let metric = select(vec![Metric::L2, Metric::Ip]);
    let format = (
        select(vec![1usize, 2, 3, 4]),
        select(vec![1usize, 2, 7, 8, 9, 16]),
        1..=8u32,
    );
    let tokens = prop_oneof![
        1..=8usize,
        1..=300usize,
        select(vec![1usize, 32, 33, 256, 257])
    ];
    let training = (metric, 0..5usize, any::<u64>());
    let heads = (1..=2usize, 1..=2usize);
    (heads, format, 0..4usize, tokens, training, fills(palettes)).prop_map(
        |((batch, num_kv_heads), (m, sub_dim, bits), init_offset, tokens, training, fill)| {
            TrainCase {
                shape: Shape {
                    batch,
                    num_kv_heads,
                    head_dim: m * sub_dim,
                    num_subvectors: m,
                    bits,
                    init_offset,
                    ..one_row(tokens, 1)
                },
                tokens: init_offset + tokens,
                metric: training.0,
                training: TrainConfig {
                    iterations: training.1,
                    seed: training.2,
                    ..TrainConfig::default()
                },
                fill,
            }
        },
    )
}

fn any_keys() -> impl Strategy<Value = TrainCase> {
    train_cases(FINITE)
}

fn usual_keys() -> impl Strategy<Value = TrainCase> {
    train_cases(&[Palette::Usual, Palette::FewDistinct])
}

/// At most as many distinct keys as centroids.
fn few_keys() -> impl Strategy<Value = (TrainCase, usize)> {
    (usual_keys(), 1..=256usize)
}

fn pools() -> &'static [ThreadPool] {
    static POOLS: OnceLock<Vec<ThreadPool>> = OnceLock::new();
    POOLS.get_or_init(|| {
        let pool = |n| {
            ThreadPoolBuilder::new()
                .num_threads(n)
                .build()
                .expect("threads start")
        };
        [1, 2, 5].map(pool).into()
    })
}

fn same_on_all_pools(case: &TrainCase) -> TestCaseResult {
    let [one, more @ ..] = pools() else {
        unreachable!("there are three pools")
    };
    let expected = one.install(|| case.train()).map_err(fail)?;
    for pool in more {
        let got = pool.install(|| case.train()).map_err(fail)?;
        let threads = pool.current_num_threads();
        check_same("one thread", got.centroids(), expected.centroids())?;
        prop_assert!(got == expected, "codes differ on {} threads", threads);
    }
    Ok(())
}

fn seed_decides_on_any_threads(case: TrainCase) -> TestCaseResult {
    same_on_all_pools(&case)
}

/// Enough keys for several tasks of every thread.
fn many_keys_on_any_threads() -> TestCaseResult {
    same_on_all_pools(&many_keys(3))
}

fn many_keys(seed: u64) -> TrainCase {
    TrainCase {
        shape: Shape {
            head_dim: 16,
            num_subvectors: 2,
            bits: 5,
            ..one_row(9000, 1)
        },
        tokens: 9000,
        metric: Metric::L2,
        training: TrainConfig {
            iterations: 4,
            seed,
            ..TrainConfig::default()
        },
        fill: Fill::usual(1),
    }
}

/// Of many keys the first iterations see a sample: against as many plain iterations over all keys.
fn samples_cost_no_inertia() -> TestCaseResult {
    for period in [1, 512] {
        samples_cost_nothing(period)?;
    }
    Ok(())
}

/// Keys that differ by where in a period they are: documents of one length.
fn samples_cost_nothing(period: usize) -> TestCaseResult {
    let mut ratios = Vec::new();
    for seed in 0..4 {
        let case = many_keys(seed);
        let training = TrainConfig {
            iterations: 10,
            ..case.training
        };
        let start = TrainConfig {
            iterations: 0,
            ..training
        };
        let mut data = case.data();
        for (i, x) in data.iter_mut().enumerate() {
            let (token, component) = (i / case.shape.head_dim, i % case.shape.head_dim);
            let at = (token % period) as f32 / period as f32;
            *x += 2.0 * (at * (component + 1) as f32).sin();
        }
        let got = case.inertia(&data, &case.train_with(&data, training).map_err(fail)?);
        let index = case.train_with(&data, start).map_err(fail)?;
        let mut expected = 0.0;
        for (points, mut centroids) in case.codebooks(&data, &index) {
            for _ in 0..training.iterations {
                kmeans::iteration(&points, &mut centroids);
            }
            expected += kmeans::iteration(&points, &mut centroids);
        }
        ratios.push(got / expected);
    }
    // Each finds another local minimum.
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    prop_assert!(
        mean < 1.001,
        "period {}: {:?} of plain iterations' inertia",
        period,
        ratios
    );
    prop_assert!(ratios.iter().all(|&ratio| ratio < 1.01), "{:?}", ratios);
    Ok(())
}

fn other_seeds_give_other_centroids() -> TestCaseResult {
    let a = many_keys(0).train().map_err(fail)?;
    let b = many_keys(1).train().map_err(fail)?;
    prop_assert_ne!(a.centroids(), b.centroids());
    Ok(())
}

fn every_cluster_has_keys() -> TestCaseResult {
    let index = many_keys(0).train().map_err(fail)?;
    for subvector in 0..2 {
        let codes = index.to_parts().codes;
        let mut used = [false; 32];
        codes
            .chunks(2)
            .for_each(|key| used[usize::from(key[subvector])] = true);
        prop_assert_eq!(used, [true; 32]);
    }
    Ok(())
}

fn centroids_are_finite(case: TrainCase) -> TestCaseResult {
    let data = case.data();
    let index = case.train().map_err(fail)?;
    prop_assert!(index.centroids().iter().all(|c| c.is_finite()));

    let shape = Shape {
        code_capacity: index.num_codes(),
        ..case.shape
    };
    let keys = [shape.batch, shape.num_kv_heads, case.tokens, shape.head_dim];
    let quantised = Keys::new(&data, keys)
        .map_err(fail)?
        .copy_tokens(shape.init_offset..case.tokens);
    let seq_lens = vec![shape.init_offset; shape.batch];
    let parts = index.to_parts();
    let blank = vec![0; parts.codes.len()];
    let added = parts.augmentation.map(oracle_augmentation);
    if let Some(added) = &added {
        // All that were trained on have squared norm phi, and one of them needed nothing for that.
        for ((points, _), &phi) in case.codebooks(&data, &index).iter().zip(&added.phis) {
            let norm = |x: &[f32]| inner_product_f64(x, x);
            let sub_dim = shape.sub_dim();
            let norms = points.iter().map(|x| norm(&x[..sub_dim]));
            let expected = norms.fold(0.0, f64::max).min(f64::from(f32::MAX));
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b + 1e-30;
            prop_assert!(near(phi.into(), expected), "phi {}, {}", phi, expected);
            for x in points.iter().filter(|x| norm(&x[..sub_dim]) <= expected) {
                prop_assert!(near(norm(x), expected), "{:?} has not phi {}", x, phi);
            }
        }
    }
    let (added, centroids) = (added.as_ref(), &parts.centroids);
    let expected = oracle::codes(&shape, centroids, added, &seq_lens, &quantised, &blank);
    check_same("oracle", &parts.codes, &expected)
}

fn inertia_never_increases(case: TrainCase) -> TestCaseResult {
    let data = case.data();
    let mut before = f64::INFINITY;
    for iterations in 0..6 {
        let training = TrainConfig {
            iterations,
            ..case.training
        };
        let inertia = case.inertia(&data, &case.train_with(&data, training).map_err(fail)?);
        // Assignments are made in f32: a point may go to a centroid that is farther by an ulp or so.
        let tolerance = 1e-5 * inertia + 1e-6 * data.len() as f64;
        prop_assert!(
            inertia <= before + tolerance,
            "{} after {} iterations, {} before",
            inertia,
            iterations,
            before
        );
        before = inertia;
    }
    Ok(())
}

/// With as many centroids as distinct keys none is left without its own, empty clusters or not.
fn few_are_met_exactly((case, distinct): (TrainCase, usize)) -> TestCaseResult {
    let shape = &case.shape;
    let distinct = distinct.min(shape.num_centroids());
    // Components are small whole numbers: distances are exact, and so are means of equal keys.
    let mut random = Random::new(case.fill.seed);
    let choices: Vec<f32> = (0..distinct * shape.head_dim)
        .map(|_| random.below(9) as f32)
        .collect();
    let data: Vec<f32> = (0..shape.groups() * case.tokens)
        .flat_map(|_| &choices[random.below(distinct) * shape.head_dim..][..shape.head_dim])
        .copied()
        .collect();
    let index = case.train_with(&data, case.training).map_err(fail)?;
    prop_assert!(index.centroids().iter().all(|c| c.is_finite()));
    prop_assert_eq!(case.inertia(&data, &index), 0.0);
    Ok(())
}

fn not_finite_is_refused(case: TrainCase) -> TestCaseResult {
    let mut data = case.data();
    let mut random = Random::new(case.fill.seed);
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let mut places = [random.below(data.len()), random.below(data.len())];
    places.sort();
    // The first is written last: both may have the same place.
    data[places[1]] = bad[random.below(3)];
    data[places[0]] = bad[random.below(3)];
    let (row, component) = (
        places[0] / case.shape.head_dim,
        places[0] % case.shape.head_dim,
    );
    let (group, token) = (row / case.tokens, row % case.tokens);
    let expected = Error::NotFinite {
        batch: group / case.shape.num_kv_heads,
        head: group % case.shape.num_kv_heads,
        token,
        component,
        value: data[places[0]].to_string(),
    };
    prop_assert_eq!(case.train_with(&data, case.training).err(), Some(expected));
    Ok(())
}
