//! Point 1: which positions heavy keys are chosen from.

use keysieve_tests::device::Device;
use keysieve_tests::strategies::LoopCase;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::whole::Whole;

/// 1: heavy keys are candidates, and as many as there are up to `heavy`.
pub(crate) fn candidates(device: &Device, case: LoopCase) -> TestCaseResult {
    let mut whole = Whole::new(&case);
    whole.config.short_context = false;
    let (shape, seq_len) = (whole.shape, whole.seq_len());
    let is_candidate = |p: usize| {
        p >= shape.init_offset.max(shape.sink) && (p as i64) < seq_len as i64 - shape.window as i64
    };
    let num_candidates = (0..seq_len).filter(|&p| is_candidate(p)).count();
    for list in whole.lists(&device.backend)? {
        let always = |p: usize| p < shape.sink || p + shape.window >= seq_len;
        let heavy: Vec<usize> = list
            .iter()
            .map(|&p| p as usize)
            .filter(|&p| !always(p))
            .collect();
        prop_assert!(
            heavy.iter().all(|&p| is_candidate(p)),
            "{:?} of {}",
            heavy,
            seq_len
        );
        prop_assert_eq!(heavy.len(), shape.heavy.min(num_candidates));
    }
    Ok(())
}
