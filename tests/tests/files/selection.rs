//! Selection files: what is saved is what was selected.

use std::fs;

use keysieve::{Queries, Selector};
use keysieve_tests::device::{Device, check_same, fail};
use keysieve_tests::shapes::select_config;
use keysieve_tests::strategies::{Budget, LoopCase, loop_cases};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};
use safetensors::{Dtype, SafeTensors};

use crate::archive::{f32_bytes, folder};
use crate::index::index_of;

pub(crate) fn selection_cases() -> impl Strategy<Value = LoopCase> {
    loop_cases(Budget {
        elements: 1 << 12,
        components: true,
    })
}

pub(crate) fn selection_is_saved(device: &Device, case: LoopCase) -> TestCaseResult {
    let shape = &case.shape;
    let index = index_of(&case, case.centroids).map_err(fail)?;
    let (pq, seq_len) = (*index.config(), index.seq_len());
    let config = select_config(shape, case.weights && seq_len > 0);
    let (heads, num_queries) = (shape.num_qo_heads(), shape.num_queries);
    let data = case.queries.floats(shape.num_rows() * shape.head_dim);
    let queries = Queries::new(&data, [shape.batch, heads, num_queries, shape.head_dim]);
    let mut selector =
        Selector::new(&device.backend, index, config, heads, num_queries).map_err(fail)?;
    let selection = selector.select(queries.map_err(fail)?).map_err(fail)?;

    let folder = folder()?;
    let path = folder.path().join("sel");
    selection.save(&path, &config, &pq).map_err(fail)?;
    let bytes = fs::read(&path).map_err(fail)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(fail)?;
    let ints = |name: &str| -> Result<(Vec<usize>, Vec<i32>), TestCaseError> {
        let tensor = tensors.tensor(name).map_err(fail)?;
        prop_assert_eq!(tensor.dtype(), Dtype::I32);
        let words = tensor
            .data()
            .chunks(4)
            .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok((tensor.shape().to_vec(), words.collect()))
    };
    let stride = if seq_len <= shape.short_context_limit() {
        seq_len
    } else {
        shape.sink + shape.heavy + shape.window
    };
    let (positions_shape, positions) = ints("positions")?;
    let (lengths_shape, lengths) = ints("lengths")?;
    prop_assert_eq!(positions_shape, [shape.batch, heads, num_queries, stride]);
    prop_assert_eq!(lengths_shape, [shape.batch, heads, num_queries]);
    check_same("selection", &lengths, selection.lengths())?;
    for row in 0..shape.num_rows() {
        let (head, query) = (row / num_queries, row % num_queries);
        let (batch, head) = (head / heads, head % heads);
        let mut list = selection.positions(batch, head, query).to_vec();
        list.resize(stride, -1);
        check_same("selection", &positions[row * stride..][..stride], &list)?;
    }
    prop_assert_eq!(tensors.tensor("weights").is_ok(), config.weights);
    if config.weights {
        let weights = tensors.tensor("weights").map_err(fail)?;
        prop_assert_eq!(weights.dtype(), Dtype::F32);
        prop_assert_eq!(weights.shape(), [shape.batch, heads, num_queries, seq_len]);
        for (row, bytes) in weights.data().chunks(4 * seq_len).enumerate() {
            let (head, query) = (row / num_queries, row % num_queries);
            let dense = selection.weights(head / heads, head % heads, query);
            prop_assert_eq!(bytes, f32_bytes(dense.unwrap_or_default()));
        }
    }
    Ok(())
}
