//! Scores: each backend against the oracle.

use std::process::ExitCode;

use keysieve_tests::checks;
use keysieve_tests::device::{Device, FAST, Suite, step_shape};
use keysieve_tests::oracle::Shape;
use keysieve_tests::shapes::one_row;
use keysieve_tests::strategies::{Budget, Fill, StepCase, any_step_cases};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("scores_match_oracle", cases, checks::scores);
    suite.on_each_device("sums_round_in_sub_vector_order", sums_round_in_order);
    suite.on_devices(&FAST, "a_million_keys", a_million_keys);
    suite.run()
}

fn cases() -> impl Strategy<Value = StepCase> {
    any_step_cases(Budget {
        elements: 1 << 16,
        components: false,
    })
}

fn plain(num_subvectors: usize, bits: u32, keys: usize) -> Shape {
    Shape {
        head_dim: num_subvectors,
        num_subvectors,
        bits,
        ..one_row(keys, 1)
    }
}

/// Numbers whose sum is different in any other order or precision.
fn sums_round_in_order(device: &Device) -> TestCaseResult {
    let tables = [1e8, 0.0, 3.0, 0.0, -1e8, 0.0, 5.0, 0.0];
    // Beside 1e8 the 3 is lost, and the 5 comes after 1e8 is gone.
    let expected = [5.0];
    device.check(&expected, |stages| {
        stages.scores(&step_shape(&plain(4, 1, 1)), &[1], &tables, &[0, 0, 0, 0])
    })?;
    // A lone -0.0 is not added to +0.0, and two of them stay negative.
    for m in [1, 2] {
        device.check(&[-0.0], |stages| {
            stages.scores(
                &step_shape(&plain(m, 1, 1)),
                &[1],
                &vec![-0.0; 2 * m],
                &vec![1; m],
            )
        })?;
    }
    Ok(())
}

fn a_million_keys(device: &Device) -> TestCaseResult {
    let keys = (1 << 20) + 33;
    let fill = Fill::usual(1);
    checks::scores(
        device,
        StepCase {
            shape: plain(3, 8, keys),
            seq_lens: vec![keys - 1],
            floats: fill,
            codes: fill,
        },
    )
}
