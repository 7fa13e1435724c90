//! Files cut short, overwritten or absurd: read or refused, never a panic.

use keysieve::Error;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::archive::{METADATA, archive, file, index_tensors, kv_tensors, load_index, parse_kv};

pub(crate) fn every_truncation_is_refused() -> TestCaseResult {
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
pub(crate) type Broken = (bool, Vec<(prop::sample::Index, u8)>, i8);

pub(crate) fn broken_cases() -> impl Strategy<Value = Broken> {
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

pub(crate) fn no_bytes_panic((is_index, places, change): Broken) -> TestCaseResult {
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
pub(crate) struct Header {
    is_index: bool,
    shapes: [Vec<u64>; 2],
    offsets: [u64; 4],
    numbers: [u64; 3],
    data_len: usize,
}

pub(crate) fn header_cases() -> impl Strategy<Value = Header> {
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

pub(crate) fn no_header_panics(case: Header) -> TestCaseResult {
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
