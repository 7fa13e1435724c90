//! Weights: each backend against the oracle.

use std::process::ExitCode;

use keysieve_tests::checks;
use keysieve_tests::device::{Device, Suite};
use keysieve_tests::strategies::{Budget, Random, StepCase, any_step_cases};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("weights_match_oracle", cases, checks::weights);
    suite.property(
        "weights_of_any_list_match_oracle",
        any_lists,
        weights_of_any_list,
    );
    suite.run()
}

fn cases() -> impl Strategy<Value = StepCase> {
    any_step_cases(Budget {
        elements: 1 << 16,
        components: false,
    })
}

fn any_lists() -> impl Strategy<Value = (StepCase, usize)> {
    (cases(), 1..40usize)
}

/// Ascending lists with gaps of up to `gap`, empty ones among them.
fn weights_of_any_list(device: &Device, (case, gap): (StepCase, usize)) -> TestCaseResult {
    let shape = &case.shape;
    let mut random = Random::new(case.floats.seed);
    let (mut lists, mut lengths) = (Vec::new(), Vec::new());
    for _ in 0..shape.num_rows() {
        let mut list = Vec::new();
        let mut position = random.below(gap);
        let wanted = random.below(shape.list_stride + 1);
        while list.len() < wanted && position < shape.weights_stride {
            list.push(position as i32);
            position += 1 + random.below(gap);
        }
        lengths.push(list.len() as i32);
        list.resize(shape.list_stride, -1);
        lists.extend(list);
    }
    checks::weights_of(device, &case, &lists, &lengths)
}
