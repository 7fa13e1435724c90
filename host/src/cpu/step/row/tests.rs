//! Which way a row's heavy keys are found, and how much is left to do on it: lists alone would not tell.

use super::*;
use crate::config::{Metric, PqConfig, SelectConfig};
use crate::cpu::step::Step;
use crate::index::IndexParts;
use crate::selection::Selection;
use crate::selector::step_shape;

/// Numbers in -1..1 without a pattern that matters.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A step on one row of `keys` candidates, after it has listed the best `heavy`; the first sub-vector's entries
/// are `wide` times as large as the others'.
fn step(m: usize, bits: u32, keys: usize, heavy: usize, wide: f32) -> Step {
    let codes = numbers(keys * m, 2).into_iter();
    let mut centroids = numbers(m << bits, 1);
    centroids[..1 << bits].iter_mut().for_each(|x| *x *= wide);
    let parts = IndexParts {
        config: PqConfig {
            num_subvectors: m,
            bits,
            init_offset: 0,
            metric: Metric::L2,
        },
        batch: 1,
        num_kv_heads: 1,
        head_dim: m,
        num_codes: keys,
        centroids,
        augmentation: None,
        codes: codes
            .map(|x| ((x + 1.0) / 2.0 * (1 << bits) as f32) as u8)
            .collect(),
    };
    let index = KeyIndex::from_parts(parts, keys).unwrap();
    let config = SelectConfig {
        sink: 0,
        window: 0,
        heavy,
        short_context: false,
        ..SelectConfig::default()
    };
    let shape = step_shape(&index, &config, 1, 1).unwrap();
    let mut selection = Selection::new(&shape, 1, &config);
    let mut step = Step::new(index, shape);
    let query = vec![1.0; m];
    step.select(Queries::new(&query, [1, 1, 1, m]).unwrap(), &mut selection);
    assert_eq!(selection.lengths(), [heavy.min(keys) as i32]);
    step
}

#[test]
fn each_way_begins_where_it_pays() {
    let way = |step: &Step| {
        let worker = &step.workers[0];
        if worker.table.iter().all(|&entry| entry == 0.0) {
            "none"
        } else if worker.scores.iter().any(|&score| score != 0.0) {
            "plain"
        } else if worker.parts.iter().any(|part| !part.deficits().is_empty()) {
            "filter"
        } else {
            "tuples"
        }
    };
    for (m, bits, keys, expected) in [
        // All of them are listed.
        (2, 3, 4, "none"),
        (4, 4, 4, "none"),
        // An eighth of 64 tuples, or of 4,096.
        (2, 3, 7, "plain"),
        (2, 3, 8, "tuples"),
        (2, 6, 511, "plain"),
        (2, 6, 512, "tuples"),
        (4, 4, 511, "plain"),
        (4, 4, 512, "filter"),
    ] {
        assert_eq!(
            way(&step(m, bits, keys, 4, 1.0)),
            expected,
            "{keys} keys, {m} x {bits} bits"
        );
    }
}

/// The expected place, three deviations and two.
#[test]
fn a_sample_is_looked_at_a_little_further_than_expected() {
    for (heavy_k, num_candidates, len, rank) in [
        (100, 1600, 256, 16 + 12 + 2),
        (1, 4, 256, 64 + 24 + 2),
        (4096, 65536, 4096, 256 + 48 + 2),
        (0, 100, 64, 2),
    ] {
        assert_eq!(sample_rank(heavy_k, num_candidates, len), rank);
    }
}

/// Candidates kept by the scan and candidates scored, of 20,000.
#[test]
fn a_bound_leaves_few_candidates() {
    for (m, bits, heavy, wide, most_kept, most_scored) in [
        (8, 8, 100, 1.0, 450, 40),
        (8, 8, 100, 30.0, 320, 80),
        (16, 4, 100, 1.0, 350, 64),
        (16, 4, 1, 100.0, 64, 8),
        (64, 5, 1000, 1.0, 2000, 500),
    ] {
        let step = step(m, bits, 20_000, heavy, wide);
        let worker = &step.workers[0];
        let kept = worker.parts.iter().map(|part| part.deficits().len());
        // An order key of a number is not 0.
        let scored = worker.doubtful[1].iter().filter(|&&key| key != 0);
        let (kept, scored) = (kept.sum::<usize>(), scored.count());
        let what = format!("{m} x {bits} bits, {heavy} of {wide}: {kept} kept, {scored} scored");
        assert!(
            heavy <= kept && kept <= most_kept && scored <= most_scored,
            "{what}"
        );
    }
}

#[test]
fn each_stage_is_timed() {
    for (m, bits, keys) in [(2, 6, 20_000), (8, 8, 20_000), (8, 8, 500)] {
        let step = step(m, bits, keys, 100, 1.0);
        let times: Vec<StageTimes> = step.stage_times().collect();
        assert_eq!(times.len(), 1);
        let StageTimes {
            lut,
            scores,
            top_k,
            index_list,
            weights,
        } = times[0];
        for time in [lut, scores, top_k, index_list] {
            assert!(!time.is_zero(), "{:?}", times[0]);
        }
        assert!(weights.is_zero(), "none were asked for");
    }
}

/// A scan must have kept every key that could be as good as the `heavy_k`-th, and that one's deficit must be exact.
#[test]
fn a_scan_says_when_it_kept_too_little() {
    let (m, bits, keys, heavy) = (8, 8, 20_000, 100);
    let mut step = step(m, bits, keys, heavy, 1.0);
    let Groups::Blocks(blocks) = &step.groups else {
        panic!("a format of blocks");
    };
    let row = Row {
        shape: &step.shape,
        simd: step.index.simd(),
        seq_len: keys as u32,
        codes: group_codes(&step.shape, &step.index, 0),
    };
    let worker = &mut step.workers[0];
    let table = worker.table.clone();
    worker.filter.build(row.simd, &table);
    let slack = worker.filter.slack();
    let scan = |worker: &mut Worker, cut| worker.scan(row, &blocks[0], heavy, cut);
    let nth = scan(worker, NO_CUT).expect("every deficit is exact and kept");
    assert_eq!(scan(worker, nth + slack), Some(nth));
    for cut in [nth + slack - 1, nth, nth - 1, 0] {
        assert_eq!(scan(worker, cut), None, "{cut}, where {nth} is needed");
    }
    // So fine that only deficits far below that of the `heavy`-th are exact.
    assert!(worker.filter.refine(row.simd, &table, 0));
    assert!(worker.filter.refine(row.simd, &table, 0));
    assert_eq!(scan(worker, NO_CUT), None);
}

#[test]
fn a_cut_is_the_samples_deficit_a_little_further_than_expected_and_the_slack() {
    let (keys, heavy) = (20_000, 100);
    let mut step = step(8, 8, keys, heavy, 1.0);
    let Groups::Blocks(blocks) = &step.groups else {
        panic!("a format of blocks");
    };
    let row = Row {
        shape: &step.shape,
        simd: step.index.simd(),
        seq_len: keys as u32,
        codes: group_codes(&step.shape, &step.index, 0),
    };
    let worker = &mut step.workers[0];
    let cut = worker.sampled_cut(row, &blocks[0], heavy);
    let mut sample = [[0; BYTES]; Blocks::SAMPLE];
    let len = blocks[0].sample(row.simd, &worker.filter, 0..keys, &mut sample);
    let deficits = &mut sample.as_flattened_mut()[..len];
    deficits.sort_unstable();
    let rank = sample_rank(heavy, keys, len);
    assert_eq!(cut, deficits[rank] + worker.filter.slack());
    // A sample that is too small for as many promises nothing.
    assert_eq!(worker.sampled_cut(row, &blocks[0], keys), NO_CUT);
}

/// Where there are fewer candidates than a list may have, its scores end with them.
#[test]
fn behind_the_last_score_is_padding() {
    let codes = vec![0, 1, 1, 0, 1, 1];
    let parts = IndexParts {
        config: PqConfig {
            num_subvectors: 2,
            bits: 1,
            init_offset: 0,
            metric: Metric::L2,
        },
        batch: 1,
        num_kv_heads: 1,
        head_dim: 2,
        num_codes: 3,
        centroids: vec![1.0, 2.0, 10.0, 20.0],
        augmentation: None,
        codes,
    };
    let config = SelectConfig {
        sink: 0,
        window: 0,
        heavy: 5,
        short_context: false,
        scores: true,
        ..SelectConfig::default()
    };
    let index = KeyIndex::from_parts(parts, 3).unwrap();
    let shape = step_shape(&index, &config, 1, 1).unwrap();
    let mut selection = Selection::new(&shape, 1, &config);
    selection.heavy_positions.fill(7);
    let query = Queries::new(&[1.0, 1.0], [1, 1, 1, 2]).unwrap();
    Step::new(index, shape).select(query, &mut selection);
    assert_eq!(selection.heavy_positions, [0, 1, 2, -1, -1]);
    assert_eq!(selection.heavy_scores, [21.0, 12.0, 22.0, 0.0, 0.0]);
}
