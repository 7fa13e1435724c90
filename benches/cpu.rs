//! The CPU backend's steps and training: `cargo bench -p keysieve-tests`.
//!
//! Every list is compared with the naive oracle's before a step is timed, codes and inertia before training is. `naive` is that oracle itself: the
//! plain loops that the tests hold every backend against, compiled in release.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use keysieve::{Backend, KeyIndex, Keys, PqConfig, Queries, SelectConfig, Selector, TrainConfig};
use keysieve_tests::kmeans;
use keysieve_tests::oracle::{Context, Shape};
use keysieve_tests::shapes::{one_row, pq_config, select_config};
use keysieve_tests::strategies::Fill;

/// A row of (name, heads, m, bits, heavy, candidates).
type Format = (&'static str, usize, usize, u32, usize, usize);

const FORMATS: [Format; 7] = [
    ("reference", 32, 2, 6, 128, 31_744),
    ("m=2 bits=6 k=128", 1, 2, 6, 128, 31_872),
    ("m=8 bits=8 k=128", 1, 8, 8, 128, 31_872),
    ("m=16 bits=8 k=1024", 1, 16, 8, 1024, 131_072),
    ("m=16 bits=4 k=1024", 1, 16, 4, 1024, 131_072),
    ("tiny m=2 bits=6", 1, 2, 6, 64, 256),
    ("tiny m=8 bits=8", 1, 8, 8, 64, 256),
];

/// An index of made-up codes with its queries, and the same for the oracle.
fn case((_, heads, m, bits, heavy, candidates): Format) -> (Shape, KeyIndex, Vec<f32>, Context) {
    let reference = heads > 1;
    let (sink, window) = if reference { (128, 128) } else { (0, 0) };
    let capacity = candidates + window;
    let shape = Shape {
        num_kv_heads: heads,
        head_dim: 128,
        num_subvectors: m,
        bits,
        init_offset: sink,
        code_capacity: capacity,
        sink,
        window,
        list_stride: sink + heavy + window,
        // The oracle always marks weights; so both do.
        weights_stride: sink + capacity,
        ..one_row(candidates, heavy)
    };
    let centroids = Fill::usual(1).floats(shape.centroids_len());
    let codes = Fill::usual(2).codes(heads * capacity * m, bits);
    let parts = keysieve::IndexParts {
        config: pq_config(&shape),
        batch: 1,
        num_kv_heads: heads,
        head_dim: 128,
        num_codes: capacity,
        centroids: centroids.clone(),
        augmentation: None,
        codes: codes.clone(),
    };
    let index = KeyIndex::from_parts(parts, sink + capacity).expect("the parts fit");
    let context = Context {
        shape,
        centroids,
        augmentation: None,
        codes,
        seq_len: sink + capacity,
    };
    (shape, index, Fill::usual(3).floats(heads * 128), context)
}

fn steps(criterion: &mut Criterion) {
    for format in FORMATS {
        let (shape, index, queries, context) = case(format);
        let config: SelectConfig = select_config(&shape, true);
        let heads = shape.num_kv_heads;
        let mut selector =
            Selector::new(&Backend::Cpu, index, config, heads, 1).expect("the shape fits");
        let queries_of = Queries::new(&queries, [1, heads, 1, 128]).expect("the shape fits");

        let expected = context.select(&queries);
        let selection = selector.select(queries_of).expect("the queries fit");
        assert_eq!(selection.lengths(), expected.lengths);
        for head in 0..heads {
            let list = &expected.positions[head * shape.list_stride..];
            let len = expected.lengths[head] as usize;
            assert_eq!(selection.positions(0, head, 0), &list[..len]);
        }

        let mut group = criterion.benchmark_group(format.0);
        group.sample_size(20);
        group.bench_function("keysieve", |bencher| {
            bencher
                .iter(|| black_box(selector.select(queries_of).expect("as before").lengths()[0]));
        });
        group.sample_size(10);
        group.bench_function("naive", |bencher| bencher.iter(|| context.select(&queries)));
    }
}

fn training(criterion: &mut Criterion) {
    let (tokens, sub_dim) = (31_872, 64);
    let keys = Fill::usual(1).floats(tokens * sub_dim);
    let keys = Keys::new(&keys, [1, 1, tokens, sub_dim]).expect("the shape fits");
    let pq = PqConfig {
        num_subvectors: 1,
        init_offset: 0,
        ..PqConfig::default()
    };
    let train = || KeyIndex::train(&pq, &TrainConfig::default(), keys, tokens).expect("finite");
    // Every key has the code of its nearest centroid.
    let parts = train().to_parts();
    let shape = Shape {
        head_dim: sub_dim,
        bits: 6,
        ..one_row(tokens, 1)
    };
    let codes = keysieve_tests::oracle::codes(
        &shape,
        &parts.centroids,
        None,
        &[0],
        keys.data,
        &vec![0; tokens],
    );
    assert!(codes == parts.codes, "a code is not the nearest centroid's");
    // And inertia is that of as many plain iterations from the same start.
    let start = TrainConfig {
        iterations: 0,
        ..TrainConfig::default()
    };
    let start = KeyIndex::train(&pq, &start, keys, tokens).expect("finite");
    let rows = |x: &[f32]| x.chunks(sub_dim).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let (points, mut centroids) = (rows(keys.data), rows(start.centroids()));
    for _ in 0..TrainConfig::default().iterations {
        kmeans::iteration(&points, &mut centroids);
    }
    let expected = kmeans::iteration(&points, &mut centroids);
    let got = kmeans::iteration(&points, &mut rows(&parts.centroids));
    assert!(got < 1.001 * expected, "inertia {got}, plain {expected}");

    let mut group = criterion.benchmark_group("train 31,872 x 64, 64 centroids");
    group.sample_size(10);
    group.bench_function("keysieve", |bencher| bencher.iter(train));
}

criterion_group!(cpu, steps, training);
criterion_main!(cpu);
