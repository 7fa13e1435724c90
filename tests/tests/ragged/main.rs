//! Ragged batches: sequences that come, go and differ, in pages or not, in one graph; on every device.

mod dtypes;
mod errors;

use std::process::ExitCode;

use keysieve_tests::device::{Device, Suite};
use keysieve_tests::ragged::{self, RaggedCase, ragged_cases};
use keysieve_tests::strategies::Budget;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("sequences_stand_alone", cases, sequences_stand_alone);
    suite.on_each_device("errors_change_nothing", errors::bad_calls);
    suite.on_each_device("bad_configurations", errors::bad_configurations);
    suite.on_each_device("metrics_are_not_mixed", errors::another_metric);
    suite.on_each_device("halves_are_their_numbers", dtypes::halves);
    suite.run()
}

fn cases() -> impl Strategy<Value = RaggedCase> {
    ragged_cases(Budget {
        elements: 1 << 15,
        components: true,
    })
}

fn sequences_stand_alone(device: &Device, case: RaggedCase) -> TestCaseResult {
    ragged::run(device, &case)
}
