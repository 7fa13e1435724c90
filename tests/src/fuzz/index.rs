//! Index files.

use std::path::Path;

use keysieve::{KeyIndex, Queries};

use super::memory::{allowance, peak_of};
use super::{check_message, work};
use crate::archive::{METADATA, archive, index_tensors};
use crate::strategies::{EVERY, Fill};

const PATH: &str = "index";

/// Reads `bytes` as a file: refused in one line, or read without taking memory that is only claimed;
/// then the index survives being saved, and selects and grows.
pub(super) fn run(bytes: &[u8]) {
    let (parsed, peak) = peak_of(|| KeyIndex::parse(Path::new(PATH), bytes, None));
    let allowed = allowance(bytes.len());
    assert!(peak <= allowed, "{peak} bytes, {allowed} allowed");
    let index = match parsed {
        Ok(index) => index,
        Err(error) => return check_message(&error, &["index"]),
    };
    assert_eq!(index.capacity(), index.seq_len());
    work::survives(&index);

    let heads = index.num_kv_heads() * 2;
    let sum = bytes
        .iter()
        .fold(0u64, |sum, &byte| sum.wrapping_mul(31) + u64::from(byte));
    let palette = EVERY[(sum % EVERY.len() as u64) as usize];
    let shape = [index.batch(), heads, 1, index.head_dim()];
    let data = Fill { seed: sum, palette }.floats(shape.iter().product());
    let queries = Queries::new(&data, shape).expect("the data are of that shape");
    work::use_index(index, queries);
}

/// A valid index, with more and with less in it, and some whose metadata are wrong.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let [centroids, codes] = index_tensors();
    let (name, dtype, ..) = codes.clone();
    let no_codes = (name, dtype, vec![1, 2, 0, 2], Vec::new());
    let with = |key: &'static str, value: &'static str| {
        let metadata = METADATA.map(|(k, v)| if k == key { (k, value) } else { (k, v) });
        archive(&metadata, &[centroids.clone(), codes.clone()])
    };
    vec![
        archive(&METADATA, &index_tensors()),
        archive(&METADATA, &[centroids.clone(), no_codes]),
        with("init_offset", "0"),
        with("init_offset", "16777212"),
        with("init_offset", "18446744073709551615"),
        with("bits", "8"),
        with("num_subvectors", "64"),
        with("metric", "cosine"),
    ]
}
