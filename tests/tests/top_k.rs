//! Top-k: each backend against a full sort.

use std::process::ExitCode;

use keysieve_tests::checks;
use keysieve_tests::device::{Device, FAST, Suite, lens_u32, step_shape};
use keysieve_tests::oracle::{self, Shape};
use keysieve_tests::shapes::one_row;
use keysieve_tests::strategies::{
    Budget, Fill, Palette, Random, SPECIAL_BITS, StepCase, any_step_cases,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property("top_k_matches_oracle", cases, checks::top_k);
    suite.on_each_device("every_heavy_around_a_tie", every_heavy_around_a_tie);
    suite.on_each_device("heavy_4096_of_all_special_scores", heavy_4096_of_specials);
    suite.on_devices(&FAST, "the_largest_context", the_largest_context);
    suite.run()
}

fn cases() -> impl Strategy<Value = StepCase> {
    any_step_cases(Budget {
        elements: 1 << 17,
        components: false,
    })
}

fn check(device: &Device, shape: &Shape, seq_lens: &[usize], scores: &[f32]) -> TestCaseResult {
    let expected = oracle::top_k(shape, seq_lens, scores);
    device.check(&expected, |stages| {
        stages.top_k(&step_shape(shape), &lens_u32(seq_lens), scores)
    })
}

/// Scores of one row, all of them candidates'.
fn check_row(device: &Device, heavy: usize, scores: &[f32]) -> TestCaseResult {
    let keys = scores.len();
    check(device, &one_row(keys, heavy), &[keys], scores)
}

/// Zeros of both signs tie, and lie between better and worse scores: every cut through them.
fn every_heavy_around_a_tie(device: &Device) -> TestCaseResult {
    let mut random = Random::new(7);
    let scores: Vec<f32> = (0..300)
        .map(|_| [1.0, 0.0, -0.0, -1.0, f32::NAN][random.below(5)])
        .collect();
    for heavy in 0..=scores.len() + 1 {
        check_row(device, heavy, &scores)?;
    }
    Ok(())
}

fn heavy_4096_of_specials(device: &Device) -> TestCaseResult {
    let mut random = Random::new(11);
    let scores: Vec<f32> = (0..20_000)
        .map(|_| f32::from_bits(SPECIAL_BITS[random.below(SPECIAL_BITS.len())]))
        .collect();
    for heavy in [4095, 4096] {
        check_row(device, heavy, &scores)?;
    }
    Ok(())
}

/// 2^24 keys, with many ties and with few.
fn the_largest_context(device: &Device) -> TestCaseResult {
    let keys = 1 << 24;
    for palette in [Palette::FewDistinct, Palette::AnyBits] {
        let scores = Fill { seed: 3, palette }.floats(keys);
        check_row(device, 4096, &scores)?;
    }
    Ok(())
}
