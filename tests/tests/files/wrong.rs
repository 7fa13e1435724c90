//! Well-formed files with the wrong tensors or metadata: refused by name.

use std::slice::from_ref;

use keysieve_tests::device::fail;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::archive::{
    METADATA, Tensor, archive, f32_bytes, index_tensors, kv_tensors, load_index, parse_kv,
};

/// Whether reading is refused with an error whose text begins so.
pub(crate) fn refused<T>(begins: &str, result: keysieve::Result<T>) -> TestCaseResult {
    let Err(error) = result else {
        return Err(fail(format!(
            "expected an error that begins with {begins:?}, got none"
        )));
    };
    let message = error.to_string();
    prop_assert!(
        message.starts_with(begins),
        "expected {begins:?}, got {message:?}"
    );
    prop_assert!(!message.contains('\n'), "{message:?}");
    Ok(())
}

pub(crate) fn wrong_tensors_are_named() -> TestCaseResult {
    let [keys, queries] = kv_tensors();
    let kv = |tensors: &[Tensor<'_>]| parse_kv(&archive(&[], tensors));
    let zeros = |name: &'static str, dtype, shape: &[usize], size: usize| -> Tensor<'static> {
        (
            name,
            dtype,
            shape.to_vec(),
            vec![0; shape.iter().product::<usize>() * size],
        )
    };
    refused("--kv: queries: got a file without it", kv(from_ref(&keys)))?;
    refused("--kv: keys: got a file without it", kv(from_ref(&queries)))?;
    refused(
        "--kv: keys: got dtype",
        kv(&[zeros("keys", "I32", &[2, 5, 4], 4), queries.clone()]),
    )?;
    refused(
        "--kv: queries: got dtype",
        kv(&[keys.clone(), zeros("queries", "F64", &[4, 1, 4], 8)]),
    )?;
    for shape in [
        &[5, 4][..],
        &[],
        &[1, 1, 2, 5, 4],
        &[0, 5, 4],
        &[2, 0, 4],
        &[2, 5, 0],
    ] {
        refused(
            "--kv: keys: got shape",
            kv(&[zeros("keys", "F32", shape, 4), queries.clone()]),
        )?;
    }
    refused(
        "--kv: keys: got head_dim 257",
        kv(&[zeros("keys", "F32", &[2, 5, 257], 4), queries]),
    )?;
    for (shape, what) in [([3, 1, 4], "3 heads"), ([4, 1, 5], "head_dim 5")] {
        let queries = zeros("queries", "F32", &shape, 4);
        refused(
            &format!("--kv: queries: got {what}"),
            kv(&[keys.clone(), queries]),
        )?;
    }
    let batched = zeros("queries", "F32", &[2, 4, 1, 4], 4);
    refused("--kv: queries: got batch 2", kv(&[keys, batched]))?;

    let [centroids, codes] = index_tensors();
    let index = |tensors: &[Tensor<'_>]| load_index(&archive(&METADATA, tensors));
    refused(
        "index: codes: got a file without it",
        index(from_ref(&centroids))?,
    )?;
    refused(
        "index: centroids: got a file without it",
        index(from_ref(&codes))?,
    )?;
    let wide = zeros("centroids", "F64", &[1, 2, 2, 2, 3], 8);
    refused(
        "index: centroids: got dtype",
        index(&[wide, codes.clone()])?,
    )?;
    let signed = zeros("codes", "I8", &[1, 2, 4, 2], 1);
    refused(
        "index: codes: got dtype",
        index(&[centroids.clone(), signed])?,
    )?;
    for shape in [[1, 2, 2, 3, 3], [1, 2, 4, 2, 3], [1, 0, 2, 2, 3]] {
        let centroids = zeros("centroids", "F32", &shape, 4);
        refused(
            "index: centroids: got shape",
            index(&[centroids, codes.clone()])?,
        )?;
    }
    for shape in [&[2, 2, 4, 2][..], &[1, 1, 4, 2], &[1, 2, 4, 3], &[2, 4, 2]] {
        let codes = zeros("codes", "U8", shape, 1);
        refused(
            "index: codes: got shape",
            index(&[centroids.clone(), codes])?,
        )?;
    }
    let mut no_centroid = codes.clone();
    no_centroid.3[11] = 2;
    let place = "index: codes: got 2 at [batch 0, head 1, token 1, sub-vector 1]";
    refused(place, index(&[centroids.clone(), no_centroid])?)?;
    let mut not_finite = centroids;
    not_finite.3[4 * 14..4 * 15].copy_from_slice(&f32::NAN.to_le_bytes());
    let place =
        "index: centroids: got NaN at [batch 0, head 1, sub-vector 0, centroid 0, component 2]";
    refused(place, index(&[not_finite, codes])?)
}

pub(crate) fn wrong_augmentation_is_named() -> TestCaseResult {
    let [centroids, codes] = index_tensors();
    let phis = || {
        (
            "phis",
            "F32",
            vec![1, 2, 2],
            f32_bytes(&[0.0, 2.5, f32::MAX, 7.0]),
        )
    };
    let components = || {
        let values = [0.0, -1.5, 3.0, 1.0, 2.0, 5.0, 4.0, 8.0];
        (
            "augmented_components",
            "F32",
            vec![1, 2, 2, 2],
            f32_bytes(&values),
        )
    };
    let mut metadata = METADATA;
    metadata[3].1 = "ip";
    let index = |phis: Option<Tensor<'_>>, components: Option<Tensor<'_>>| {
        let tensors = [
            Some(centroids.clone()),
            phis,
            Some(codes.clone()),
            components,
        ];
        let tensors: Vec<Tensor<'_>> = tensors.into_iter().flatten().collect();
        load_index(&archive(&metadata, &tensors))
    };
    let good = index(Some(phis()), Some(components()))?.map_err(fail)?;
    let added = good.augmentation().ok_or_else(|| fail("no augmentation"))?;
    prop_assert_eq!(&added.phis, &[0.0, 2.5, f32::MAX, 7.0]);
    prop_assert_eq!(added.components[1], -1.5);

    let begins = "index: phis: got a file without it";
    refused(begins, index(None, Some(components()))?)?;
    let begins = "index: augmented_components: got a file without it";
    refused(begins, index(Some(phis()), None)?)?;
    let mut bad = phis();
    bad.2 = vec![2, 2];
    refused(
        "index: phis: got shape [2, 2]",
        index(Some(bad), Some(components()))?,
    )?;
    let mut bad = components();
    bad.2 = vec![1, 2, 4, 1];
    refused(
        "index: augmented_components: got shape",
        index(Some(phis()), Some(bad))?,
    )?;
    let mut bad = phis();
    bad.1 = "I32";
    refused(
        "index: phis: got dtype I32",
        index(Some(bad), Some(components()))?,
    )?;
    let mut bad = components();
    bad.3[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    let begins = "index: augmented_components: got NaN as element 2";
    refused(begins, index(Some(phis()), Some(bad))?)?;
    let mut bad = phis();
    bad.3[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    refused(
        "index: phis: got inf as element 1",
        index(Some(bad), Some(components()))?,
    )?;
    let mut bad = phis();
    bad.3[4..8].copy_from_slice(&(-0.5f32).to_le_bytes());
    refused(
        "index: augmentation: phis: got -0.5",
        index(Some(bad), Some(components()))?,
    )
}

pub(crate) fn wrong_metadata_is_named() -> TestCaseResult {
    for (at, (key, _)) in METADATA.iter().enumerate() {
        let mut without = METADATA.to_vec();
        without.remove(at);
        let loaded = load_index(&archive(&without, &index_tensors()))?;
        refused(&format!("index: metadata {key}"), loaded)?;
    }
    let with = |at: usize, value: &'static str| {
        let mut metadata = METADATA;
        metadata[at].1 = value;
        load_index(&archive(&metadata, &index_tensors()))
    };
    for value in ["", "two", "-1", "1.0", "99999999999999999999999"] {
        refused("index: metadata num_subvectors", with(0, value)?)?;
        refused("index: metadata bits", with(1, value)?)?;
        refused("index: metadata init_offset", with(2, value)?)?;
    }
    refused("index: num_subvectors: got 0", with(0, "0")?)?;
    refused("index: bits: got 0", with(1, "0")?)?;
    refused("index: bits: got 9", with(1, "9")?)?;
    refused("index: bits", with(1, "4294967297")?)?;
    refused("index: init_offset", with(2, "16777217")?)?;
    refused("index", with(2, "18446744073709551615")?)?;
    refused("index: metric: got cosine", with(3, "cosine")?)
}
