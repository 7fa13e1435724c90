//! Points 3 and 4: how positions are listed, and when all of them are.

use keysieve::{Keys, SelectConfig};
use keysieve_tests::device::{Device, check_list, fail};
use keysieve_tests::strategies::LoopCase;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::whole::Whole;

/// 3: whatever overlaps, lists ascend, stay inside the context and are padded with -1.
pub(crate) fn list_ascends(device: &Device, case: LoopCase) -> TestCaseResult {
    let whole = Whole::new(&case);
    let mut selector = whole.selector(&device.backend, 0)?;
    let selection = selector.select(whole.queries()).map_err(fail)?;
    let lists = selection.padded_positions().chunks(selection.list_stride());
    for (list, &len) in lists.zip(selection.lengths()) {
        check_list(list, len, whole.seq_len())?;
    }
    Ok(())
}

/// 4: up to `heavy + init_offset + num_queries + 2^bits` positions all are listed, then not, and
/// not at all with the rule off.
pub(crate) fn short_contexts(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 2,
        window: 3,
        heavy: 5,
        short_context: true,
        weights: false,
        ..SelectConfig::default()
    };
    // heavy 5 + init_offset 4 + 1 query + 16 centroids.
    let limit = 26;
    let at_limit = Whole::small(limit - 4, config);
    let all: Vec<i32> = (0..limit as i32).collect();
    for list in at_limit.lists(&device.backend)? {
        prop_assert_eq!(&list, &all);
    }
    let mut off = at_limit.clone();
    off.config.short_context = false;
    for list in off.lists(&device.backend)? {
        prop_assert_eq!(list.len(), 2 + 5 + 3);
    }
    // The same selector, grown beyond the limit.
    let mut selector = at_limit.selector(&device.backend, 1)?;
    let new_keys = [0.5; 4 * 8];
    selector
        .append(Keys::new(&new_keys, [2, 2, 1, 8]).map_err(fail)?)
        .map_err(fail)?;
    let grown = selector.select(at_limit.queries()).map_err(fail)?;
    prop_assert_eq!(grown.lengths(), [2 + 5 + 3; 8]);
    Ok(())
}
