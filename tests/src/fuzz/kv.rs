//! Files of keys and queries.

use std::path::Path;

use keysieve::files::KvFile;
use keysieve::{Error, KeyIndex, Keys, PqConfig, TrainConfig};

use super::memory::{allowance, peak_of};
use super::{check_message, work};
use crate::archive::{archive, f32_bytes, file, kv_tensors};

const ARGUMENT: &str = "--kv";

/// Reads `bytes` as a file: refused in one line, or read without taking memory that is only claimed;
/// then what was read survives being written, and is trained on and selected from.
pub(super) fn run(bytes: &[u8]) {
    let (parsed, peak) = peak_of(|| KvFile::parse(ARGUMENT, Path::new("kv"), bytes));
    let allowed = allowance(bytes.len());
    assert!(peak <= allowed, "{peak} bytes, {allowed} allowed");
    let kv = match parsed {
        Ok(kv) => kv,
        Err(error) => return check_message(&error, &[ARGUMENT]),
    };
    survives(&kv);
    is_usable(&kv);
}

/// Valid files of each dtype and rank, files of special values, and files that are wrong.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let halves = |dtype: &'static str, bits: [u16; 4]| {
        let bytes = |len: usize| {
            bits.into_iter()
                .cycle()
                .take(len)
                .flat_map(u16::to_le_bytes)
        };
        archive(
            &[],
            &[
                ("keys", dtype, vec![1, 1, 6, 2], bytes(12).collect()),
                ("queries", dtype, vec![1, 2, 1, 2], bytes(4).collect()),
            ],
        )
    };
    let floats = |keys: &[f32], queries: &[f32]| {
        archive(
            &[],
            &[
                ("keys", "F32", vec![1, keys.len(), 1], f32_bytes(keys)),
                (
                    "queries",
                    "F32",
                    vec![1, queries.len(), 1],
                    f32_bytes(queries),
                ),
            ],
        )
    };
    // Small objects are the dearest thing to parse.
    let deep = format!(r#"{{"a":[{}0]}}"#, r#"{"":0},"#.repeat(400));
    vec![
        archive(&[("format", "pt")], &kv_tensors()),
        halves("F16", [0x3c00, 0x0001, 0x8000, 0xc000]),
        halves("BF16", [0x3f80, 0x0001, 0x8000, 0x7f7f]),
        floats(
            &[1.0, -2.0, 0.5, 4.0, 0.0, -0.0],
            &[f32::NAN, f32::INFINITY],
        ),
        floats(&[f32::MAX, f32::MIN, f32::MAX, 1e-45], &[-f32::MAX]),
        floats(&[1.0, f32::NAN], &[1.0]),
        file(&deep, &[0; 8]),
        file(
            r#"{"keys":{"dtype":"F16","shape":[1,4611686018427387904,2],"data_offsets":[0,8]}}"#,
            &[0; 8],
        ),
    ]
}

/// Written as f32 and read again, nothing has changed.
fn survives(kv: &KvFile) {
    let (keys, queries) = (kv.keys(), kv.queries());
    let keys_shape = [keys.batch, keys.num_kv_heads, keys.tokens, keys.head_dim];
    let queries_shape = [
        queries.batch,
        queries.num_qo_heads,
        queries.num_queries,
        queries.head_dim,
    ];
    let bytes = archive(
        &[],
        &[
            ("keys", "F32", keys_shape.to_vec(), f32_bytes(keys.data)),
            (
                "queries",
                "F32",
                queries_shape.to_vec(),
                f32_bytes(queries.data),
            ),
        ],
    );
    let again = KvFile::parse(ARGUMENT, Path::new("kv"), &bytes).expect("what was read is valid");
    let (again_keys, again_queries) = (again.keys(), again.queries());
    assert_eq!(
        keys_shape,
        [
            again_keys.batch,
            again_keys.num_kv_heads,
            again_keys.tokens,
            again_keys.head_dim
        ]
    );
    assert_eq!(
        queries_shape,
        [
            again_queries.batch,
            again_queries.num_qo_heads,
            again_queries.num_queries,
            again_queries.head_dim
        ]
    );
    assert_eq!(f32_bytes(again_keys.data), f32_bytes(keys.data));
    assert_eq!(f32_bytes(again_queries.data), f32_bytes(queries.data));
}

/// An index is trained on the keys when all are finite, and the queries select from it.
fn is_usable(kv: &KvFile) {
    let (keys, queries) = (kv.keys(), kv.queries());
    let Keys {
        tokens, head_dim, ..
    } = keys;
    let pq = PqConfig {
        num_subvectors: if head_dim % 2 == 0 && head_dim <= 128 {
            head_dim / 2
        } else {
            1
        },
        bits: 2,
        init_offset: tokens / 4,
        ..PqConfig::default()
    };
    let training = TrainConfig {
        iterations: 2,
        seed: 7,
        ..TrainConfig::default()
    };
    let index = match KeyIndex::train(&pq, &training, keys, tokens) {
        Ok(index) => index,
        Err(error @ Error::NotFinite { .. }) => {
            assert!(keys.data.iter().any(|x| !x.is_finite()), "{error}");
            return check_message(&error, &["keys"]);
        }
        Err(error) => panic!("keys that were read cannot be trained on: {error}"),
    };
    assert!(keys.data.iter().all(|x| x.is_finite()));
    work::use_index(index, queries);
}
