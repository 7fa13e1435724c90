//! The bounds themselves are allowed, what is behind them is not.

use super::*;

#[test]
fn a_format_may_reach_its_bounds() {
    let usual = PqConfig::default();
    for (num_subvectors, bits, init_offset, head_dim) in [
        (1, 1, 0, 1),
        (64, 8, MAX_TOKENS, 64),
        (2, 8, 128, MAX_HEAD_DIM),
    ] {
        let config = PqConfig {
            num_subvectors,
            bits,
            init_offset,
            ..usual
        };
        assert_eq!(config.validate(head_dim), Ok(()));
    }
    let init_offset = MAX_TOKENS + 1;
    assert!(
        PqConfig {
            init_offset,
            ..usual
        }
        .validate(64)
        .is_err()
    );
    assert!(usual.validate(MAX_HEAD_DIM + 2).is_err());
}

#[test]
fn regions_may_reach_their_bounds() {
    let usual = SelectConfig::default();
    let most = SelectConfig {
        sink: MAX_TOKENS,
        window: MAX_TOKENS,
        heavy: MAX_HEAVY,
        ..usual
    };
    assert_eq!(most.validate(), Ok(()));
    let (sink, heavy) = (MAX_TOKENS + 1, MAX_HEAVY + 1);
    assert!(SelectConfig { sink, ..usual }.validate().is_err());
    assert!(
        SelectConfig {
            window: sink,
            ..usual
        }
        .validate()
        .is_err()
    );
    assert!(SelectConfig { heavy, ..usual }.validate().is_err());
}

#[test]
fn a_tolerance_is_finite_and_not_negative() {
    let with = |tolerance| {
        let usual = TrainConfig::default();
        TrainConfig { tolerance, ..usual }.validate().is_ok()
    };
    assert!([0.0, 1e-4, f32::MAX].into_iter().all(with));
    assert!(![-1e-4, f32::INFINITY, f32::NAN].into_iter().any(with));
}

#[test]
fn centroids_are_rounded_to_the_nearest_and_stay_finite() {
    for (dtype, rounded) in [
        (CentroidDtype::F32, [1.000_976_6, -1e30, f32::MAX, f32::MIN]),
        (
            CentroidDtype::F16,
            [1.000_976_6, -65504.0, 65504.0, -65504.0],
        ),
        (
            CentroidDtype::Bf16,
            [1.0, -1.000_255_55e30, 3.389_531_4e38, -3.389_531_4e38],
        ),
    ] {
        let values = [1.000_976_6, -1e30, f32::MAX, f32::MIN];
        assert_eq!(values.map(|value| dtype.round(value)), rounded, "{dtype:?}");
    }
}

#[test]
fn starts_and_metrics_have_names() {
    let names = [Start::PlusPlus, Start::Sampled].map(Start::name);
    assert_eq!(names, ["plus-plus", "sampled"]);
    for metric in [Metric::L2, Metric::Ip] {
        assert_eq!(Metric::from_name(metric.name()), Ok(metric));
    }
}

#[test]
fn a_softmax_is_of_scores_by_the_root_of_the_head_dim() {
    let head_dim = 64;
    let shape = StepShape {
        head_dim,
        ..StepShape::default()
    };
    assert_eq!(softmax_scale(&shape), 0.125);
}
