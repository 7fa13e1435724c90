//! Point 2: the total order of scores.

use keysieve_tests::device::{Device, fail, lens_u32, step_shape};
use keysieve_tests::oracle::Shape;
use keysieve_tests::shapes::one_row;
use keysieve_tests::strategies::{Budget, StepCase, step_cases};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

pub(crate) fn stage_cases() -> impl Strategy<Value = StepCase> {
    step_cases(Budget {
        elements: 1 << 13,
        components: false,
    })
}

/// 2: no candidate left out stands before one taken, by the order's own words.
pub(crate) fn total_order(device: &Device, case: StepCase) -> TestCaseResult {
    let shape = &case.shape;
    let scores = case.floats.floats(shape.num_rows() * shape.code_capacity);
    let seq_lens = lens_u32(&case.seq_lens);
    let heavy = device
        .stages()
        .top_k(&step_shape(shape), &seq_lens, &scores)
        .map_err(fail)?;
    for (row, (batch, _)) in shape.rows().into_iter().enumerate() {
        let seq_len = case.seq_lens[batch];
        let taken = &heavy[row * shape.heavy..][..shape.heavy_k(seq_len)];
        let mut is_taken = vec![false; seq_len];
        taken.iter().for_each(|&p| is_taken[p as usize] = true);
        let candidates = || (0..seq_len).filter(|&p| shape.is_candidate(p, seq_len));
        let score = |p: usize| scores[row * shape.code_capacity + p - shape.init_offset];
        let before = |p: usize, q: usize| match (score(p), score(q)) {
            (a, b) if a.is_nan() && b.is_nan() => p < q,
            (a, b) if a.is_nan() || b.is_nan() => b.is_nan(),
            (a, b) => a > b || (a == b && p < q),
        };
        let last_taken = candidates()
            .filter(|&p| is_taken[p])
            .reduce(|last, p| if before(last, p) { p } else { last });
        let Some(last_taken) = last_taken else {
            continue;
        };
        for p in candidates().filter(|&p| !is_taken[p]) {
            let (left, kept) = (score(p), score(last_taken));
            prop_assert!(
                before(last_taken, p),
                "{p}: {left:?} left, {last_taken}: {kept:?} taken"
            );
        }
    }
    Ok(())
}

pub(crate) fn total_order_of_specials(device: &Device) -> TestCaseResult {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    // By the order: 4 (inf), 7 (1), 1 (-0), 3 (+0), 6 (-inf), 0, 2, 5 (NaN).
    let scores = [nan, -0.0, -nan, 0.0, inf, nan, -inf, 1.0];
    let order = [4, 7, 1, 3, 6, 0, 2, 5];
    for heavy in 0..=8 {
        let shape = Shape {
            list_stride: 8,
            ..one_row(8, heavy)
        };
        let mut expected = order[..heavy].to_vec();
        expected.sort();
        device.check(&expected, |stages| {
            stages.top_k(&step_shape(&shape), &[8], &scores)
        })?;
    }
    Ok(())
}
