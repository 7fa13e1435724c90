//! Index files: what is saved is what is loaded, by this program or another.

use std::collections::HashMap;
use std::fs;

use keysieve::KeyIndex;
use keysieve_tests::device::{check_same, fail};
use keysieve_tests::shapes::index_parts;
use keysieve_tests::strategies::{Budget, FINITE, Fill, LoopCase, fills, loop_cases};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use safetensors::{Dtype, SafeTensors};

use crate::archive::{METADATA, archive, f32_bytes, folder, index_tensors, load_index};

pub(crate) fn index_cases() -> impl Strategy<Value = (LoopCase, Fill)> {
    (
        loop_cases(Budget {
            elements: 1 << 12,
            components: true,
        }),
        fills(FINITE),
    )
}

pub(crate) fn index_of(case: &LoopCase, centroids: Fill) -> keysieve::Result<KeyIndex> {
    let parts = index_parts(case, centroids);
    KeyIndex::from_parts(parts, case.shape.init_offset + case.shape.code_capacity)
}

pub(crate) fn index_survives((case, centroids): (LoopCase, Fill)) -> TestCaseResult {
    let index = index_of(&case, centroids).map_err(fail)?;
    let folder = folder()?;
    let [first, second] = ["a", "b"].map(|name| folder.path().join(name));
    index.save(&first).map_err(fail)?;
    let loaded = KeyIndex::load(&first, Some(index.capacity())).map_err(fail)?;
    // Bits, not values: zeros have signs.
    check_same("saved index", loaded.centroids(), index.centroids())?;
    prop_assert!(loaded == index, "the loaded index differs");
    let tight = KeyIndex::load(&first, None).map_err(fail)?;
    prop_assert_eq!(tight.capacity(), index.seq_len());
    prop_assert!(tight.to_parts() == index.to_parts());

    loaded.save(&second).map_err(fail)?;
    prop_assert!(fs::read(&first).map_err(fail)? == fs::read(&second).map_err(fail)?);
    if index.seq_len() > 0 {
        let refused = KeyIndex::load(&first, Some(index.seq_len() - 1));
        prop_assert!(refused.is_err_and(|error| error.to_string().contains("capacity")));
    }

    // As another program reads it.
    let bytes = fs::read(&first).map_err(fail)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(fail)?;
    let (shape, pq) = (&case.shape, index.config());
    let centroids = tensors.tensor("centroids").map_err(fail)?;
    let codes = tensors.tensor("codes").map_err(fail)?;
    let (batch, heads, m) = (shape.batch, shape.num_kv_heads, shape.num_subvectors);
    prop_assert_eq!(centroids.dtype(), Dtype::F32);
    prop_assert_eq!(
        centroids.shape(),
        [batch, heads, m, pq.num_centroids(), shape.sub_dim()]
    );
    let added = index.to_parts().augmentation;
    prop_assert_eq!(added.is_some(), pq.is_augmented());
    for (name, axes, values) in [
        ("phis", 3, added.as_ref().map(|added| &added.phis)),
        (
            "augmented_components",
            4,
            added.as_ref().map(|added| &added.components),
        ),
    ] {
        let tensor = tensors.tensor(name).ok();
        prop_assert_eq!(tensor.is_some(), values.is_some());
        if let (Some(tensor), Some(values)) = (tensor, values) {
            prop_assert_eq!(tensor.dtype(), Dtype::F32);
            prop_assert_eq!(tensor.shape(), &centroids.shape()[..axes]);
            prop_assert!(tensor.data() == f32_bytes(values), "{}", name);
        }
    }
    prop_assert_eq!(codes.dtype(), Dtype::U8);
    prop_assert_eq!(codes.shape(), [batch, heads, case.num_codes, m]);
    prop_assert_eq!(codes.data(), index.to_parts().codes);
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(fail)?;
    let expected: HashMap<String, String> = [
        ("num_subvectors", m.to_string()),
        ("bits", shape.bits.to_string()),
        ("init_offset", shape.init_offset.to_string()),
        ("metric", pq.metric.name().to_string()),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into();
    for (key, value) in expected {
        let metadata = header
            .metadata()
            .as_ref()
            .and_then(|metadata| metadata.get(&key));
        prop_assert_eq!(metadata, Some(&value), "{}", key);
    }
    Ok(())
}

pub(crate) fn another_programs_index() -> TestCaseResult {
    // Other order, another tensor, more metadata.
    let [centroids, codes] = index_tensors();
    let other = ("other", "F16", vec![2], vec![0; 4]);
    let metadata = [&METADATA[..], &[("producer", "another")]].concat();
    let index = load_index(&archive(&metadata, &[codes, other, centroids]))?.map_err(fail)?;
    prop_assert_eq!(
        [index.batch(), index.num_kv_heads(), index.head_dim()],
        [1, 2, 6]
    );
    prop_assert_eq!(
        [index.num_codes(), index.seq_len(), index.capacity()],
        [4, 7, 7]
    );
    prop_assert_eq!(index.centroids()[23], 23.0);
    Ok(())
}
