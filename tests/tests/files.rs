//! Files: what is saved is what is loaded, and no file whatever makes the library panic.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::slice::from_ref;

use keysieve::files::KvFile;
use keysieve::{
    Error, IndexParts, KeyIndex, Keys, Metric, PqConfig, Queries, SelectConfig, Selector,
};
use keysieve_tests::device::{Device, Suite, check_same, fail};
use keysieve_tests::strategies::{Budget, FINITE, Fill, LoopCase, fills, loop_cases};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};
use safetensors::{Dtype, SafeTensors};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property_alone(
        "index_survives_saving_and_loading",
        index_cases,
        index_survives,
    );
    suite.property(
        "selection_file_holds_the_selection",
        selection_cases,
        selection_is_saved,
    );
    suite.property_alone("kv_of_every_dtype_is_read", || fills(FINITE), kv_is_read);
    suite.property_alone("half_floats_widen_exactly", any::<u16>, half_floats_widen);
    suite.alone("another_programs_index_is_accepted", another_programs_index);
    suite.alone("every_truncation_is_refused", every_truncation_is_refused);
    suite.property_alone("no_bytes_make_it_panic", broken_cases, no_bytes_panic);
    suite.property_alone("no_header_makes_it_panic", header_cases, no_header_panics);
    suite.alone("wrong_tensors_are_named", wrong_tensors_are_named);
    suite.alone("wrong_metadata_is_named", wrong_metadata_is_named);
    suite.alone("unreadable_and_unwritable_paths_are_named", bad_paths);
    suite.alone("a_failed_save_leaves_everything_as_it_was", failed_save);
    suite.run()
}

/// A folder that goes when the case is done.
fn folder() -> Result<tempfile::TempDir, TestCaseError> {
    tempfile::tempdir().map_err(fail)
}

/// A safetensors file, byte by byte: `[header length, header, data]`.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// A tensor for [`archive`]: its name, dtype, shape and bytes.
type Tensor<'a> = (&'a str, &'a str, Vec<usize>, Vec<u8>);

/// The file of those tensors and metadata.
fn archive(metadata: &[(&str, &str)], tensors: &[Tensor<'_>]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    let pairs: Vec<String> = metadata
        .iter()
        .map(|(k, v)| format!("{k:?}:{v:?}"))
        .collect();
    entries.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        entries.push(format!(
            "{name:?}:{{\"dtype\":{dtype:?},\"shape\":{shape:?},\"data_offsets\":{offsets:?}}}"
        ));
        data.extend(bytes);
    }
    file(&format!("{{{}}}", entries.join(",")), &data)
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

const METADATA: [(&str, &str); 4] = [
    ("num_subvectors", "2"),
    ("bits", "1"),
    ("init_offset", "3"),
    ("metric", "l2"),
];

/// Tensors of an index of `[1 batch, 2 heads, 2 sub-vectors, 2 centroids, 3 components]`, 4 codes.
fn index_tensors() -> [Tensor<'static>; 2] {
    let centroids: Vec<f32> = (0..24).map(|i| i as f32).collect();
    [
        (
            "centroids",
            "F32",
            vec![1, 2, 2, 2, 3],
            f32_bytes(&centroids),
        ),
        ("codes", "U8", vec![1, 2, 4, 2], [0, 1, 1, 0].repeat(4)),
    ]
}

/// Tensors of `[2 kv heads, 5 tokens, 4 components]` and `[4 query heads, 1 query]`.
fn kv_tensors() -> [Tensor<'static>; 2] {
    [
        ("keys", "F32", vec![2, 5, 4], f32_bytes(&[1.5; 40])),
        ("queries", "F32", vec![4, 1, 4], f32_bytes(&[-2.0; 16])),
    ]
}

fn parse_kv(bytes: &[u8]) -> keysieve::Result<KvFile> {
    KvFile::parse("--kv", Path::new("some.safetensors"), bytes)
}

fn load_index(bytes: &[u8]) -> Result<keysieve::Result<KeyIndex>, TestCaseError> {
    let folder = folder()?;
    let path = folder.path().join("index.safetensors");
    fs::write(&path, bytes).map_err(fail)?;
    Ok(KeyIndex::load(&path, None))
}

fn index_cases() -> impl Strategy<Value = (LoopCase, Fill)> {
    (
        loop_cases(Budget {
            elements: 1 << 12,
            components: true,
        }),
        fills(FINITE),
    )
}

fn selection_cases() -> impl Strategy<Value = LoopCase> {
    loop_cases(Budget {
        elements: 1 << 12,
        components: true,
    })
}

fn index_of(case: &LoopCase, centroids: Fill) -> keysieve::Result<KeyIndex> {
    let shape = &case.shape;
    let codes_len = shape.groups() * case.num_codes * shape.num_subvectors;
    KeyIndex::from_parts(
        IndexParts {
            config: PqConfig {
                num_subvectors: shape.num_subvectors,
                bits: shape.bits,
                init_offset: shape.init_offset,
                metric: Metric::L2,
            },
            batch: shape.batch,
            num_kv_heads: shape.num_kv_heads,
            head_dim: shape.head_dim,
            num_codes: case.num_codes,
            centroids: centroids.floats(shape.centroids_len()),
            codes: case.codes.codes(codes_len, shape.bits),
        },
        shape.init_offset + shape.code_capacity,
    )
}

fn index_survives((case, centroids): (LoopCase, Fill)) -> TestCaseResult {
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
    prop_assert_eq!(codes.dtype(), Dtype::U8);
    prop_assert_eq!(codes.shape(), [batch, heads, case.num_codes, m]);
    prop_assert_eq!(codes.data(), index.to_parts().codes);
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(fail)?;
    let expected: HashMap<String, String> = [
        ("num_subvectors", m.to_string()),
        ("bits", shape.bits.to_string()),
        ("init_offset", shape.init_offset.to_string()),
        ("metric", "l2".to_string()),
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

fn selection_is_saved(device: &Device, case: LoopCase) -> TestCaseResult {
    let shape = &case.shape;
    let index = index_of(&case, case.centroids).map_err(fail)?;
    let (pq, seq_len) = (*index.config(), index.seq_len());
    let config = SelectConfig {
        sink: shape.sink,
        window: shape.window,
        heavy: shape.heavy,
        short_context: shape.short_context,
        weights: case.weights && seq_len > 0,
    };
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

/// The f32 of half-precision bits, from the format's definition.
fn half_value(bits: u16, exponent_bits: u32) -> f64 {
    let mantissa_bits = 15 - exponent_bits;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = i32::from(bits >> mantissa_bits & ((1 << exponent_bits) - 1));
    let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / 2f64.powi(mantissa_bits as i32);
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    sign * match exponent {
        e if e == (1 << exponent_bits) - 1 => {
            if mantissa == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        0 => mantissa * 2f64.powi(1 - bias),
        e => (1.0 + mantissa) * 2f64.powi(e - bias),
    }
}

fn half_floats_widen(bits: u16) -> TestCaseResult {
    for (dtype, exponent_bits) in [("F16", 5), ("BF16", 8)] {
        let bytes = archive(
            &[],
            &[
                ("keys", dtype, vec![1, 1, 1], bits.to_le_bytes().to_vec()),
                ("queries", dtype, vec![1, 1, 1], bits.to_le_bytes().to_vec()),
            ],
        );
        let kv = parse_kv(&bytes).map_err(fail)?;
        let expected = half_value(bits, exponent_bits) as f32;
        check_same("format", kv.keys().data, &[expected])?;
        check_same("format", kv.queries().data, &[expected])?;
    }
    Ok(())
}

fn kv_is_read(fill: Fill) -> TestCaseResult {
    let (keys, queries) = (fill.floats(2 * 5 * 4), fill.floats(4 * 3 * 4));
    for leading in [vec![], vec![1]] {
        let with_batch = |shape: [usize; 3]| [leading.as_slice(), &shape].concat();
        let bytes = archive(
            &[],
            &[
                ("queries", "F32", with_batch([4, 3, 4]), f32_bytes(&queries)),
                ("unknown", "I64", vec![1], vec![0; 8]),
                ("keys", "F32", with_batch([2, 5, 4]), f32_bytes(&keys)),
            ],
        );
        let kv = parse_kv(&bytes).map_err(fail)?;
        let Keys {
            data,
            batch,
            num_kv_heads,
            tokens,
            head_dim,
        } = kv.keys();
        check_same("file", data, &keys)?;
        prop_assert_eq!([batch, num_kv_heads, tokens, head_dim], [1, 2, 5, 4]);
        let Queries {
            data,
            batch,
            num_qo_heads,
            num_queries,
            head_dim,
        } = kv.queries();
        check_same("file", data, &queries)?;
        prop_assert_eq!([batch, num_qo_heads, num_queries, head_dim], [1, 4, 3, 4]);
    }
    Ok(())
}

fn another_programs_index() -> TestCaseResult {
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

fn every_truncation_is_refused() -> TestCaseResult {
    let whole = archive(&METADATA, &index_tensors());
    prop_assert!(load_index(&whole)?.is_ok());
    for len in 0..whole.len() {
        let refused = load_index(&whole[..len])?;
        prop_assert!(
            matches!(refused, Err(Error::File { .. })),
            "{len} bytes: {refused:?}"
        );
    }
    let whole = archive(&[], &kv_tensors());
    prop_assert!(parse_kv(&whole).is_ok());
    for len in 0..whole.len() {
        let refused = parse_kv(&whole[..len]);
        prop_assert!(
            matches!(refused, Err(Error::File { .. })),
            "{len} bytes: {refused:?}"
        );
    }
    Ok(())
}

/// (Whether an index, places and what is written there, bytes cut from or added to the end.)
type Broken = (bool, Vec<(prop::sample::Index, u8)>, i8);

fn broken_cases() -> impl Strategy<Value = Broken> {
    let places = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (any::<bool>(), places, any::<i8>())
}

/// One line, and the name of the argument in front.
fn check_error(argument: &str, error: &Error) -> TestCaseResult {
    let message = error.to_string();
    prop_assert!(!message.contains('\n'), "{message:?}");
    // What the file itself lacks room for is named by the argument that says how much there is.
    let named = message.starts_with(argument) || message.starts_with("capacity");
    prop_assert!(named, "{message:?}");
    Ok(())
}

/// Whatever this file is, it is read or refused; panics fail the case.
fn read_or_refuse(is_index: bool, bytes: &[u8]) -> TestCaseResult {
    if is_index {
        if let Err(error) = load_index(bytes)? {
            check_error("index", &error)?;
        }
    } else if let Err(error) = parse_kv(bytes) {
        check_error("--kv", &error)?;
    }
    Ok(())
}

fn no_bytes_panic((is_index, places, change): Broken) -> TestCaseResult {
    let mut bytes = if is_index {
        archive(&METADATA, &index_tensors())
    } else {
        archive(&[], &kv_tensors())
    };
    for (place, byte) in places {
        let at = place.index(bytes.len());
        bytes[at] = byte;
    }
    bytes.resize((bytes.len() as i64 + i64::from(change)) as usize, 0);
    read_or_refuse(is_index, &bytes)
}

/// Shapes, offsets and numbers in the metadata, any of them absurd.
#[derive(Debug, Clone)]
struct Header {
    is_index: bool,
    shapes: [Vec<u64>; 2],
    offsets: [u64; 4],
    numbers: [u64; 3],
    data_len: usize,
}

fn header_cases() -> impl Strategy<Value = Header> {
    let number = || {
        prop_oneof![
            3 => 0..10u64,
            1 => prop::sample::select(vec![
                255u64, 256, 257, 1 << 24, (1 << 24) + 1, 1 << 32, 1 << 62, 1 << 63, u64::MAX,
            ]),
            1 => any::<u64>(),
        ]
    };
    let shape = || prop::collection::vec(number(), 0..7);
    let offsets = [number(), number(), number(), number()];
    (
        any::<bool>(),
        [shape(), shape()],
        offsets,
        [number(), number(), number()],
        0..300usize,
    )
        .prop_map(|(is_index, shapes, offsets, numbers, data_len)| Header {
            is_index,
            shapes,
            offsets,
            numbers,
            data_len,
        })
}

fn no_header_panics(case: Header) -> TestCaseResult {
    let names = if case.is_index {
        ["centroids", "codes"]
    } else {
        ["keys", "queries"]
    };
    let dtypes = if case.is_index {
        ["F32", "U8"]
    } else {
        ["F32", "BF16"]
    };
    let [m, bits, init_offset] = case.numbers;
    let header = |offsets: &[u64; 4]| {
        let tensor = |i: usize| {
            let (shape, offsets) = (&case.shapes[i], &offsets[2 * i..2 * i + 2]);
            let (name, dtype) = (names[i], dtypes[i]);
            format!(
                "{name:?}:{{\"dtype\":{dtype:?},\"shape\":{shape:?},\"data_offsets\":{offsets:?}}}"
            )
        };
        format!(
            "{{\"__metadata__\":{{\"num_subvectors\":\"{m}\",\"bits\":\"{bits}\",\
             \"init_offset\":\"{init_offset}\",\"metric\":\"l2\"}},{},{}}}",
            tensor(0),
            tensor(1)
        )
    };
    read_or_refuse(
        case.is_index,
        &file(&header(&case.offsets), &vec![0; case.data_len]),
    )?;

    // Once more with offsets that fit the shapes, where memory could hold them.
    let size = |i: usize, element: u64| {
        let shape = case.shapes[i].iter();
        shape
            .copied()
            .try_fold(element, |bytes: u64, n| bytes.checked_mul(n))
    };
    let sizes = (size(0, 4), size(1, if case.is_index { 1 } else { 2 }));
    if let (Some(first @ 0..100_000), Some(second @ 0..100_000)) = sizes {
        let data = vec![0; (first + second) as usize];
        let fitting = header(&[0, first, first, first + second]);
        read_or_refuse(case.is_index, &file(&fitting, &data))?;
    }
    Ok(())
}

/// Whether reading is refused with an error whose text begins so.
fn refused<T>(begins: &str, result: keysieve::Result<T>) -> TestCaseResult {
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

fn wrong_tensors_are_named() -> TestCaseResult {
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

fn wrong_metadata_is_named() -> TestCaseResult {
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

fn bad_paths() -> TestCaseResult {
    let folder = folder()?;
    let missing = folder.path().join("missing");
    refused("index: got", KeyIndex::load(&missing, None))?;
    refused("index: got", KeyIndex::load(folder.path(), None))?;
    refused("--kv: got", KvFile::read("--kv", &missing))?;
    refused("--kv: got", KvFile::read("--kv", folder.path()))?;

    let index = load_index(&archive(&METADATA, &index_tensors()))?.map_err(fail)?;
    for path in [
        missing.join("index"),
        folder.path().to_path_buf(),
        PathBuf::new(),
        "/".into(),
    ] {
        let saved = index.save(&path);
        let action_is_written = matches!(
            &saved,
            Err(Error::File {
                action: "written",
                ..
            })
        );
        prop_assert!(action_is_written, "{saved:?} for {path:?}");
    }
    prop_assert_eq!(fs::read_dir(folder.path()).map_err(fail)?.count(), 0);
    Ok(())
}

/// A file that is there keeps its content until the new one is whole.
fn failed_save() -> TestCaseResult {
    let folder = folder()?;
    let path = folder.path().join("index");
    let index = load_index(&archive(&METADATA, &index_tensors()))?.map_err(fail)?;
    fs::write(&path, "before").map_err(fail)?;
    let failed = keysieve::files::write_whole("index", &path, |writer| {
        use std::io::Write;
        writer.write_all(&[7; 3 << 20])?;
        Err(std::io::Error::other("the disk is full"))
    });
    refused("index: got", failed)?;
    prop_assert_eq!(fs::read(&path).map_err(fail)?, b"before");
    prop_assert_eq!(fs::read_dir(folder.path()).map_err(fail)?.count(), 1);

    index.save(&path).map_err(fail)?;
    prop_assert!(KeyIndex::load(&path, None).map_err(fail)? == index);
    prop_assert_eq!(fs::read_dir(folder.path()).map_err(fail)?.count(), 1);
    Ok(())
}
