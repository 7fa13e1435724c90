//! Aggregates: each backend against the oracle, and the softmax against f64.

use std::process::ExitCode;

use gpu_kernels::aggregate::exp_of_negative;
use keysieve_tests::device::{Device, FAST, Suite};
use keysieve_tests::oracle::{Aggregation, Shape, softmax};
use keysieve_tests::shapes::one_row;
use keysieve_tests::strategies::{Budget, Fill, Palette, StepCase, any_step_cases};
use keysieve_tests::{checks, oracle};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("aggregates_match_oracle", cases, checks::aggregate);
    suite.on_each_device("values_that_are_no_numbers", values_that_are_no_numbers);
    suite.on_devices(&FAST, "a_million_keys", a_million_keys);
    suite.alone("exponentials_are_near_f64", exponentials_are_near_f64);
    suite.alone("a_softmax_is_near_f64", a_softmax_is_near_f64);
    suite.run()
}

fn cases() -> impl Strategy<Value = StepCase> {
    any_step_cases(Budget {
        elements: 1 << 16,
        components: false,
    })
}

fn of_heads(keys: usize, heads: usize, aggregation: Aggregation) -> Shape {
    Shape {
        group_size: heads,
        aggregation,
        ..one_row(keys, 1)
    }
}

fn values_that_are_no_numbers(device: &Device) -> TestCaseResult {
    use keysieve_tests::device::{lens_u32, step_shape};
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let check = |aggregation, scores: &[f32], expected: &[f32]| {
        let shape = of_heads(expected.len(), scores.len() / expected.len(), aggregation);
        let lens = [expected.len()];
        device.check(expected, |stages| {
            stages.aggregate(&step_shape(&shape), &lens_u32(&lens), scores)
        })
    };
    use Aggregation::{Max, Mean, Softmax};
    // Infinities share the weight among them, whichever is the largest score.
    check(Softmax, &[inf, 1.0, inf, -inf], &[0.5, 0.0, 0.5, 0.0])?;
    check(Softmax, &[-inf, -inf], &[0.5, 0.5])?;
    // NaN is left out of its head's sum and comes last.
    check(Softmax, &[nan, 2.0, 2.0], &[nan, 0.5, 0.5])?;
    check(Softmax, &[nan, nan], &[nan, nan])?;
    check(Softmax, &[nan, 3.0, 1.0, 1.0], &[nan, 1.5])?;
    // A difference that overflows.
    check(Softmax, &[f32::MAX, f32::MIN], &[1.0, 0.0])?;
    check(Max, &[nan, 1.0, 2.0, nan], &[2.0, 1.0])?;
    check(Max, &[nan, -0.0, nan, 0.0], &[nan, -0.0])?;
    check(Mean, &[nan, 1.0, 2.0, 2.0], &[nan, 1.5])?;
    check(Mean, &[inf, f32::MAX, -inf, f32::MAX], &[nan, inf])
}

/// Many chunks, more than one for each partial sum.
fn a_million_keys(device: &Device) -> TestCaseResult {
    let keys = (1 << 20) + 33;
    checks::aggregate(
        device,
        StepCase {
            shape: of_heads(keys, 2, Aggregation::Softmax),
            seq_lens: vec![keys - 1],
            floats: Fill::usual(1),
            codes: Fill::usual(1),
        },
    )
}

fn exponentials_are_near_f64() -> TestCaseResult {
    for i in 0..=870_000 {
        let x = -1e-4 * i as f32;
        let (got, exact) = (exp_of_negative(x), f64::from(x).exp());
        let error = (f64::from(got) / exact - 1.0).abs();
        // Half a unit in the last place is 2^-24.
        prop_assert!(
            error < 1.5 / f64::from(1 << 24),
            "exp({x}) = {got}, {exact}"
        );
        prop_assert_eq!(got.to_bits(), oracle::exp(x).to_bits());
    }
    for (x, expected) in [
        (0.0, 1.0),
        (-0.0, 1.0),
        (-87.5, 0.0),
        (f32::NEG_INFINITY, 0.0),
    ] {
        prop_assert_eq!(exp_of_negative(x), expected);
    }
    prop_assert!(exp_of_negative(f32::NAN).is_nan());
    Ok(())
}

fn a_softmax_is_near_f64() -> TestCaseResult {
    for palette in [Palette::Usual, Palette::Ramp, Palette::FewDistinct] {
        let scores = Fill { seed: 3, palette }.floats(5000);
        let exponential = |&score: &f32| (f64::from(score) / 8.0).exp();
        let sum: f64 = scores.iter().map(exponential).sum();
        for (got, score) in softmax(&scores, 64).into_iter().zip(&scores) {
            let exact = exponential(score) / sum;
            prop_assert!((f64::from(got) - exact).abs() <= 1e-5 * exact + 1e-37);
        }
    }
    Ok(())
}
