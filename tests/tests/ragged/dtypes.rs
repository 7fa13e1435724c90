//! Keys and queries of half precision in a ragged batch.

use half::{bf16, f16};
use keysieve::tensor::Component;
use keysieve::{Keys, Queries, RaggedSelector};
use keysieve_tests::device::{Device, fail};
use keysieve_tests::strategies::Fill;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::errors::{CONFIG, selector};

/// Steps, appends and selects of keys and queries of half precision are those of their numbers in f32.
pub(crate) fn halves(device: &Device) -> TestCaseResult {
    check(device, f16::from_f32, f16::to_f32)?;
    check(device, bf16::from_f32, bf16::to_f32)
}

fn check<T: Component>(
    device: &Device,
    from_f32: fn(f32) -> T,
    to_f32: fn(T) -> f32,
) -> TestCaseResult {
    let mut got = selector(&device.backend).map_err(fail)?;
    let mut expected = selector(&device.backend).map_err(fail)?;
    let appends = [true, false, true];
    let keys_shape = [CONFIG.batch, CONFIG.num_kv_heads, 1, CONFIG.head_dim];
    let queries_shape = [CONFIG.batch, CONFIG.num_qo_heads, 1, CONFIG.head_dim];
    for seed in 0..4 {
        let data = |seed, shape: [usize; 4]| -> (Vec<T>, Vec<f32>) {
            let data = Fill::usual(seed).floats(shape.iter().product());
            let halves: Vec<T> = data.into_iter().map(from_f32).collect();
            let wide = halves.iter().map(|&x| to_f32(x)).collect();
            (halves, wide)
        };
        let (keys, wide_keys) = data(2 * seed, keys_shape);
        let (queries, wide_queries) = data(2 * seed + 1, queries_shape);
        let keys = Keys::new(&keys, keys_shape).map_err(fail)?;
        let queries = Queries::new(&queries, queries_shape).map_err(fail)?;
        let wide_keys = Keys::new(&wide_keys, keys_shape).map_err(fail)?;
        let wide_queries = Queries::new(&wide_queries, queries_shape).map_err(fail)?;
        if seed == 0 {
            got.step(keys, &appends, wide_queries).map_err(fail)?;
            expected
                .step(wide_keys, &appends, wide_queries)
                .map_err(fail)?;
        } else if let Some(step) = got.cuda_step().filter(|_| seed == 3) {
            step.upload(keys, &appends, queries).map_err(fail)?;
            step.replay(&appends).map_err(fail)?;
            got.read().map_err(fail)?;
            expected
                .step(wide_keys, &appends, wide_queries)
                .map_err(fail)?;
        } else {
            got.append(keys, &appends).map_err(fail)?;
            got.select(queries).map_err(fail)?;
            expected.append(wide_keys, &appends).map_err(fail)?;
            expected.select(wide_queries).map_err(fail)?;
        }
        prop_assert!(!got.selection().positions(2, 0, 0).is_empty());
        prop_assert!(got.selection() == expected.selection(), "step {seed}");
    }
    let codes =
        |selector: &RaggedSelector| selector.to_index(2).map(|index| index.to_parts().codes);
    prop_assert_eq!(codes(&got).map_err(fail)?, codes(&expected).map_err(fail)?);
    Ok(())
}
