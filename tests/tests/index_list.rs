//! Index lists: each backend against a mark for every position.

use std::process::ExitCode;

use keysieve_tests::device::{Device, Suite, check_list, fail, lens_u32, step_shape};
use keysieve_tests::oracle;
use keysieve_tests::strategies::{Budget, StepCase, step_cases};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("index_lists_match_oracle", cases, index_lists_match_oracle);
    suite.property(
        "lists_ascend_and_are_padded",
        cases,
        lists_ascend_and_are_padded,
    );
    suite.run()
}

fn cases() -> impl Strategy<Value = StepCase> {
    step_cases(Budget {
        elements: 1 << 16,
        components: false,
    })
}

/// Heavy positions of random scores; what is behind a row's heavy_k would be seen if it were read.
fn heavy_positions(case: &StepCase) -> Vec<i32> {
    let shape = &case.shape;
    let scores = case.floats.floats(shape.num_rows() * shape.code_capacity);
    let mut heavy = oracle::top_k(shape, &case.seq_lens, &scores);
    heavy
        .iter_mut()
        .filter(|p| **p < 0)
        .for_each(|p| *p = 0x5ee_5ee);
    heavy
}

fn index_lists_match_oracle(device: &Device, case: StepCase) -> TestCaseResult {
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

/// Said of the backend's own answer, without the oracle's.
fn lists_ascend_and_are_padded(device: &Device, case: StepCase) -> TestCaseResult {
    let heavy = heavy_positions(&case);
    let (shape, seq_lens) = (step_shape(&case.shape), lens_u32(&case.seq_lens));
    let (lists, lengths) = device
        .stages()
        .index_list(&shape, &seq_lens, &heavy)
        .map_err(fail)?;
    for (row, (batch, _)) in case.shape.rows().into_iter().enumerate() {
        let list = &lists[row * case.shape.list_stride..][..case.shape.list_stride];
        check_list(list, lengths[row], case.seq_lens[batch])?;
    }
    Ok(())
}
