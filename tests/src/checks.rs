//! Each stage of a case on a device against the oracle, and on the CUDA backend against the CPU's.

use proptest::test_runner::TestCaseResult;

use crate::device::{Device, lens_u32, step_shape};
use crate::oracle::{self, Aggregation};
use crate::shapes::library_augmentation;
use crate::strategies::{EncodeCase, Random, StepCase};

/// New keys' codes; those that were there before must stay.
pub fn codes(device: &Device, case: EncodeCase) -> TestCaseResult {
    let shape = &case.shape;
    let centroids = case.centroids.floats(shape.centroids_len());
    let mut keys = case
        .keys
        .floats(shape.groups() * case.new_tokens * shape.head_dim);
    if case.keys_are_centroids {
        let mut random = Random::new(case.keys.seed);
        for key in keys.chunks_mut(shape.sub_dim()) {
            let at = random.below(centroids.len() / shape.sub_dim()) * shape.sub_dim();
            key.copy_from_slice(&centroids[at..at + shape.sub_dim()]);
        }
    }
    // What is there already must stay: not one code before, between or behind may change.
    let mut random = Random::new(!case.keys.seed);
    let codes: Vec<u8> = (0..shape.groups() * shape.code_capacity * shape.num_subvectors)
        .map(|_| random.below(shape.num_centroids()) as u8)
        .collect();
    let augmentation = case.augmentation.map(|fill| fill.augmentation(shape));
    let lens = &case.seq_lens;
    let added = augmentation.as_ref();
    let expected = oracle::codes(shape, &centroids, added, lens, &keys, &codes);
    let added = augmentation.map(library_augmentation);
    device.check(&expected, |stages| {
        stages.codes(
            &step_shape(shape),
            &centroids,
            added.as_ref(),
            &lens_u32(&case.seq_lens),
            &keys,
            &codes,
        )
    })
}

/// Queries' tables.
pub fn lut(device: &Device, case: StepCase) -> TestCaseResult {
    let shape = &case.shape;
    let centroids = case.floats.floats(shape.centroids_len());
    let queries = case.codes.floats(shape.num_rows() * shape.head_dim);
    let expected = oracle::lut(shape, &centroids, &queries);
    device.check(&expected, |stages| {
        stages.lut(&step_shape(shape), &centroids, &queries)
    })
}

/// Scores of codes.
pub fn scores(device: &Device, case: StepCase) -> TestCaseResult {
    let shape = &case.shape;
    let table_len = shape.num_subvectors * shape.num_centroids();
    let tables = case.floats.floats(shape.num_rows() * table_len);
    let codes_len = shape.groups() * shape.code_capacity * shape.num_subvectors;
    let codes = case.codes.codes(codes_len, shape.bits);
    let expected = oracle::scores(shape, &case.seq_lens, &tables, &codes);
    device.check(&expected, |stages| {
        stages.scores(
            &step_shape(shape),
            &lens_u32(&case.seq_lens),
            &tables,
            &codes,
        )
    })
}

/// Aggregates of scores; of shapes that have lists for each query head, their softmax.
pub fn aggregate(device: &Device, case: StepCase) -> TestCaseResult {
    let mut shape = case.shape;
    if shape.aggregation == Aggregation::PerHead {
        shape.aggregation = Aggregation::Softmax;
    }
    let scores = case.floats.floats(shape.num_rows() * shape.code_capacity);
    let expected = oracle::aggregate(&shape, &case.seq_lens, &scores);
    device.check(&expected, |stages| {
        stages.aggregate(&step_shape(&shape), &lens_u32(&case.seq_lens), &scores)
    })
}

/// Heavy positions of scores.
pub fn top_k(device: &Device, case: StepCase) -> TestCaseResult {
    let shape = &case.shape;
    let mut scores = case.floats.floats(shape.num_rows() * shape.code_capacity);
    // Scores of codes that are no candidates would win, were they looked at.
    for (row, (batch, _)) in shape.rows().into_iter().enumerate() {
        for key in 0..shape.code_capacity {
            if !shape.is_candidate(
                shape.init_offset + key,
                shape.visible(row, case.seq_lens[batch]),
            ) {
                scores[row * shape.code_capacity + key] = f32::INFINITY;
            }
        }
    }
    let expected = oracle::top_k(shape, &case.seq_lens, &scores);
    device.check(&expected, |stages| {
        stages.top_k(&step_shape(shape), &lens_u32(&case.seq_lens), &scores)
    })
}

/// Heavy positions of random scores; what is behind a row's heavy_k would be seen if it were read.
pub fn heavy_positions(case: &StepCase) -> Vec<i32> {
    let shape = &case.shape;
    let scores = case.floats.floats(shape.num_rows() * shape.code_capacity);
    let mut heavy = oracle::top_k(shape, &case.seq_lens, &scores);
    heavy
        .iter_mut()
        .filter(|p| **p < 0)
        .for_each(|p| *p = 0x5ee_5ee);
    heavy
}

/// Lists of sink, heavy positions and window, and their lengths.
pub fn index_list(device: &Device, case: StepCase) -> TestCaseResult {
    let heavy = heavy_positions(&case);
    let (lists, lengths) = oracle::index_list(&case.shape, &case.seq_lens, &heavy);
    let (shape, seq_lens) = (step_shape(&case.shape), lens_u32(&case.seq_lens));
    device.check(&lists, |stages| {
        Ok(stages.index_list(&shape, &seq_lens, &heavy)?.0)
    })?;
    device.check(&lengths, |stages| {
        Ok(stages.index_list(&shape, &seq_lens, &heavy)?.1)
    })
}

/// Dense weights of lists as a step makes them.
pub fn weights(device: &Device, case: StepCase) -> TestCaseResult {
    let shape = &case.shape;
    let scores = case.floats.floats(shape.num_rows() * shape.code_capacity);
    let heavy = oracle::top_k(shape, &case.seq_lens, &scores);
    let (lists, lengths) = oracle::index_list(shape, &case.seq_lens, &heavy);
    weights_of(device, &case, &lists, &lengths)
}

/// Dense weights of given lists.
pub fn weights_of(
    device: &Device,
    case: &StepCase,
    lists: &[i32],
    lengths: &[i32],
) -> TestCaseResult {
    let expected = oracle::weights(&case.shape, lists, lengths);
    let shape = step_shape(&case.shape);
    device.check(&expected, |stages| stages.weights(&shape, lists, lengths))
}
