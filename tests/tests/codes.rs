//! Codes: each backend against the oracle, and the oracle against plain distances.

use std::process::ExitCode;

use keysieve_tests::checks;
use keysieve_tests::device::{Device, Suite, fail, step_shape};
use keysieve_tests::oracle::{self, absolute_products_f64, distance_f64};
use keysieve_tests::shapes::one_row;
use keysieve_tests::strategies::{Fill, Palette, encode_cases, fills};
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property(
        "codes_match_oracle",
        || encode_cases(1 << 19),
        checks::codes,
    );
    suite.on_each_device(
        "equally_near_centroids_give_the_lower_index",
        ties_give_the_lower_index,
    );
    suite.on_each_device("nan_is_never_nearer_than_a_number", nan_is_never_nearer);
    suite.property_alone(
        "oracle::nearest_is_nearest",
        || {
            (
                fills(&[Palette::Usual, Palette::FewDistinct]),
                1..=64usize,
                1..=64usize,
            )
        },
        nearest_is_nearest,
    );
    suite.run()
}

/// One key of one sub-vector, among `centroids` of `sub_dim` components.
fn encode(device: &Device, key: &[f32], centroids: &[f32], expected: u8) -> TestCaseResult {
    let shape = oracle::Shape {
        head_dim: key.len(),
        bits: (centroids.len() / key.len()).ilog2(),
        ..one_row(1, 1)
    };
    device.check(&[expected], |stages| {
        stages.codes(&step_shape(&shape), centroids, None, &[0], key, &[0])
    })
}

fn ties_give_the_lower_index(device: &Device) -> TestCaseResult {
    // All 256 alike; then two pairs alike, in different lanes and rounds of a warp.
    encode(device, &[3.0, 4.0], &[1.0; 512], 0)?;
    let mut centroids = vec![9.0; 256];
    for nearest in [37, 69, 200] {
        centroids[nearest] = 1.0;
    }
    encode(device, &[1.0], &centroids, 37)
}

fn nan_is_never_nearer(device: &Device) -> TestCaseResult {
    let nan = f32::NAN;
    encode(device, &[0.0], &[nan, -f32::NAN, 1e30, nan], 2)?;
    // The third is infinitely far, and that is still nearer than NaN.
    encode(device, &[1.0], &[nan, nan, f32::MAX, nan], 2)?;
    encode(device, &[nan], &[1.0, 2.0], 0)
}

/// The largest affinity is the smallest distance, up to the rounding errors of the two sums.
fn nearest_is_nearest((fill, len, count): (Fill, usize, usize)) -> TestCaseResult {
    let values = fill.floats((count + 1) * len);
    let (x, centroids) = values.split_at(len);
    let centroids: Vec<&[f32]> = centroids.chunks(len).collect();
    let chosen = centroids[usize::from(oracle::nearest(x, centroids.iter().copied()))];
    let error = |c: &[f32]| {
        let roundings = (2 * len + 1) as f64 * f64::from(f32::EPSILON / 2.0);
        // Affinity is half of what is compared, hence twice.
        2.0 * 1.01 * roundings * (absolute_products_f64(x, c) + 0.5 * absolute_products_f64(c, c))
    };
    for c in &centroids {
        let (got, other) = (distance_f64(x, chosen), distance_f64(x, c));
        if got > other + error(chosen) + error(c) + 1e-40 {
            return Err(fail(format!("distance {got} was chosen over {other}")));
        }
    }
    Ok(())
}
