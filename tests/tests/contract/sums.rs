//! Point 5: sums are fixed to the bit, and so the backends agree.

use keysieve::{Backend, SelectConfig};
use keysieve_tests::device::{Device, check_same, step_shape};
use keysieve_tests::oracle::Shape;
use keysieve_tests::strategies::LoopCase;
use proptest::test_runner::TestCaseResult;

use crate::whole::Whole;

/// 5: a table entry fuses, in eight partial sums; a score does not, in order.
pub(crate) fn sums_are_fixed(device: &Device) -> TestCaseResult {
    let mut shape = Whole::small(1, SelectConfig::default()).shape;
    shape = Shape {
        batch: 1,
        num_kv_heads: 1,
        group_size: 1,
        num_subvectors: 1,
        bits: 1,
        ..shape
    };

    // Components 0 and 8 share a partial sum. Fused, the square's last bit survives the difference.
    shape.head_dim = 9;
    let x = 1.0 + 1.0 / 4096.0;
    let mut query = [0.0; 9];
    (query[0], query[8]) = (-(1.0 + 1.0 / 2048.0), x);
    let mut centroids = [0.0; 18];
    (centroids[0], centroids[8]) = (1.0, x);
    let fused = [2f32.powi(-24), 0.0];
    device.check(&fused, |stages| {
        stages.lut(&step_shape(&shape), &centroids, &query)
    })?;

    // Pairs first: each 1 is lost beside its 1e8, and the 3s lie in the other half. One after the
    // other the sum would be 13, exactly it would be 14.
    shape.head_dim = 8;
    let query = [1e8, 1.0, -1e8, 1.0, 3.0, 3.0, 3.0, 3.0];
    let mut centroids = [0.0; 16];
    centroids[..8].fill(1.0);
    let paired = [12.0, 0.0];
    device.check(&paired, |stages| {
        stages.lut(&step_shape(&shape), &centroids, &query)
    })
}

/// 5: lists of one backend are lists of the other.
pub(crate) fn backends_agree(device: &Device, case: LoopCase) -> TestCaseResult {
    let whole = Whole::new(&case);
    let (here, on_cpu) = (whole.lists(&device.backend)?, whole.lists(&Backend::Cpu)?);
    for (here, on_cpu) in here.iter().zip(&on_cpu) {
        check_same("cpu backend", here, on_cpu)?;
    }
    Ok(())
}
