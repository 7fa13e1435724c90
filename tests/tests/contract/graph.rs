//! Point 7, on the GPU: a captured step serves a context that grows.

use keysieve::{Backend, Error, Keys, Queries, SelectConfig};
use keysieve_tests::device::{Device, fail};
use keysieve_tests::strategies::Fill;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::whole::Whole;

/// 7, on the GPU: a graph captured once gives what fresh steps give, while the context grows from
/// below the short-context limit to its capacity, and ends there with an error.
pub(crate) fn a_graph_outlives_growth(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 2,
        window: 3,
        heavy: 5,
        short_context: true,
        weights: true,
    };
    let whole = Whole::small(10, config);
    let spare = 40;
    let mut replayed = whole.selector(&device.backend, spare)?;
    let mut stepped = whole.selector(&Backend::Cpu, spare)?;
    let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
    let graph = step.capture().map_err(fail)?;
    for i in 0..spare as u64 {
        let new_keys = Fill::usual(100 + i).floats(4 * 8);
        let new_keys = Keys::new(&new_keys, [2, 2, 1, 8]).map_err(fail)?;
        let data = Fill::usual(200 + i).floats(8 * 8);
        let queries = Queries {
            data: &data,
            ..whole.queries()
        };
        let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
        step.upload(new_keys, queries).map_err(fail)?;
        step.replay(&graph).map_err(fail)?;
        stepped.append(new_keys).map_err(fail)?;
        let expected = stepped.select(queries).map_err(fail)?;
        prop_assert!(replayed.read().map_err(fail)? == expected, "replay {}", i);
    }
    let step = replayed.cuda_step().ok_or_else(|| fail("no GPU step"))?;
    let full = matches!(step.replay(&graph), Err(Error::Capacity { .. }));
    prop_assert!(full, "a step was taken past the capacity");
    prop_assert!(replayed.to_index().map_err(fail)? == stepped.to_index().map_err(fail)?);
    Ok(())
}
