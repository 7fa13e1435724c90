//! Index lists: each backend against a mark for every position.

use std::process::ExitCode;

use keysieve_tests::checks;
use keysieve_tests::device::{Device, Suite, check_list, fail, lens_u32, step_shape};
use keysieve_tests::strategies::{Budget, StepCase, any_step_cases};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("index_lists_match_oracle", cases, checks::index_list);
    suite.property(
        "lists_ascend_and_are_padded",
        cases,
        lists_ascend_and_are_padded,
    );
    suite.run()
}

fn cases() -> impl Strategy<Value = StepCase> {
    any_step_cases(Budget {
        elements: 1 << 16,
        components: false,
    })
}

/// Said of the backend's own answer, without the oracle's.
fn lists_ascend_and_are_padded(device: &Device, case: StepCase) -> TestCaseResult {
    let heavy = checks::heavy_positions(&case);
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
