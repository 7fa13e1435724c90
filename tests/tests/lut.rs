//! Lookup tables: each backend against the oracle, and the oracle against plain inner products.

use std::process::ExitCode;

use keysieve_tests::checks;
use keysieve_tests::device::{Suite, fail};
use keysieve_tests::oracle;
use keysieve_tests::strategies::{Budget, EVERY, Fill, Palette, StepCase, any_step_cases, fills};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("lut_matches_oracle", cases, checks::lut);
    suite.property_alone(
        "oracle::table_entry_is_an_inner_product",
        || {
            (
                fills(&[Palette::Usual, Palette::FewDistinct, Palette::Close]),
                1..=256usize,
            )
        },
        table_entry_is_an_inner_product,
    );
    suite.property_alone(
        "oracle::table_entry_follows_ieee_for_any_bits",
        || (fills(EVERY), 1..=256usize),
        table_entry_follows_ieee_for_any_bits,
    );
    suite.run()
}

fn cases() -> impl Strategy<Value = StepCase> {
    any_step_cases(Budget {
        elements: 1 << 17,
        components: true,
    })
}

/// The formula means what it says: for moderate numbers it is within the rounding errors of
/// `sub_dim` fused steps and three additions.
fn table_entry_is_an_inner_product((fill, len): (Fill, usize)) -> TestCaseResult {
    let values = fill.floats(2 * len);
    let (q, c) = values.split_at(len);
    let got = f64::from(oracle::table_entry(q, c));
    let exact = oracle::inner_product_f64(q, c);
    let roundings = (len.div_ceil(8) + 3) as f64 * f64::from(f32::EPSILON / 2.0);
    // Each rounding multiplies by at most 1 + u; the last term covers products that underflow.
    let bound = 1.01 * roundings * oracle::absolute_products_f64(q, c) + len as f64 * 1e-45;
    prop_assert!(
        (got - exact).abs() <= bound,
        "{got} is not within {bound:e} of {exact}"
    );
    Ok(())
}

/// A NaN or an infinity among the factors never gives a finite entry.
fn table_entry_follows_ieee_for_any_bits((fill, len): (Fill, usize)) -> TestCaseResult {
    let values = fill.floats(2 * len);
    let (q, c) = values.split_at(len);
    let entry = oracle::table_entry(q, c);
    if values.iter().any(|x| x.is_nan()) && !entry.is_nan() {
        return Err(fail(format!("{entry} from NaN")));
    }
    if values.iter().any(|x| x.is_infinite()) && entry.is_finite() {
        return Err(fail(format!("{entry} from an infinity")));
    }
    Ok(())
}
