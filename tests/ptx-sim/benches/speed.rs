//! Lane-instructions a second on one core, all checks on.

#[allow(dead_code)] // the bench needs a part of it
#[path = "../tests/kernels/sim.rs"]
mod sim;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gpu_kernels::step::StepShape;
use keysieve::stages::Stages;
use keysieve_tests::strategies::{Fill, Palette};
use sim::SimStages;

const SHAPE: StepShape = StepShape {
    num_kv_heads: 1,
    num_qo_heads: 1,
    num_queries: 1,
    head_dim: 128,
    num_subvectors: 2,
    bits: 6,
    init_offset: 128,
    code_capacity: 16_384,
    sink: 128,
    window: 128,
    heavy: 128,
    short_context_limit: 0,
    list_stride: 512,
    weights_stride: 16_512,
    causal: 0,
    aggregation: 0,
    scores_stride: 0,
    page_bits: 0,
    pages_per_sequence: 0,
};

fn speed(criterion: &mut Criterion) {
    let keys = SHAPE.code_capacity as usize;
    let seq_lens = [SHAPE.init_offset + SHAPE.code_capacity];
    let fill = Fill {
        seed: 1,
        palette: Palette::Usual,
    };
    let tables = fill.floats(SHAPE.table_len() as usize);
    let codes = fill.codes(keys * 2, SHAPE.bits);
    let scores = fill.floats(keys);
    let queries = fill.floats(128);
    let centroids = fill.floats(128 * 64);
    let mut group = criterion.benchmark_group("lane_instructions");
    let mut bench = |name: &str, stage: &dyn Fn(&SimStages<'_>)| {
        let before = sim::lane_instructions();
        stage(&SimStages::new("sm90", 0));
        group.throughput(Throughput::Elements(sim::lane_instructions() - before));
        let mut seed = 0;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                seed += 1;
                stage(&SimStages::new("sm90", seed));
            });
        });
    };
    bench("lut", &|sim| {
        black_box(sim.lut(&SHAPE, &centroids, &queries).unwrap());
    });
    bench("scores", &|sim| {
        black_box(sim.scores(&SHAPE, &seq_lens, &tables, &codes).unwrap());
    });
    bench("top_k", &|sim| {
        black_box(sim.top_k(&SHAPE, &seq_lens, &scores).unwrap());
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = speed
}
criterion_main!(benches);
