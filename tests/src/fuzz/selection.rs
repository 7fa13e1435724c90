//! Selection files, which are only written: read as another program reads them.

use std::fs;
use std::path::Path;

use arbitrary::{Result, Unstructured};
use keysieve::config::MAX_LIST_POSITIONS;
use keysieve::files::selection::stride;
use keysieve::{Backend, KeyIndex, PqConfig, Queries, SelectConfig, Selection, Selector};
use safetensors::{Dtype, SafeTensors};

use super::parts::{any_pq, any_select, any_size, floats, small_index, small_select};
use super::{check_message, work};
use crate::archive::f32_bytes;
use crate::strategies::Random;

/// What a refused selection file may be blamed on.
const NAMES: [&str; 7] = [
    "bits",
    "heavy",
    "init_offset",
    "num_subvectors",
    "selection",
    "sink",
    "window",
];

/// Longest lists that are written.
const MAX_STRIDE: usize = 1 << 10;

/// Makes an index, a configuration and queries of `bytes`; what is selected from them must be in
/// the file, whose bytes are always the same. Asked to be saved with another configuration, it is
/// refused or a whole file all the same.
pub(super) fn run(bytes: &[u8]) {
    // An input always has enough bytes: zeros follow.
    case(&mut Unstructured::new(bytes)).expect("Unstructured never ends");
}

/// Bytes without meaning: a fuzzer learns it.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    let lens = [0, 16, 64, 256, 512, 512, 512, 1024];
    let bytes = lens.map(|len| (0..len).map(|_| random.bits() as u8).collect());
    bytes.into()
}

fn case(u: &mut Unstructured<'_>) -> Result<()> {
    let config = small_select(u)?;
    let parts = small_index(u)?;
    let pq = parts.config;
    let heads = parts.num_kv_heads * u.int_in_range(1..=2)?;
    let num_queries = u.int_in_range(1..=2)?;
    let (other_config, other_pq) = (any_select(u)?, any_pq(u)?);
    check_stride(u)?;

    let shape = [parts.batch, heads, num_queries, parts.head_dim];
    let data = floats(u, shape.iter().product())?;
    let queries = Queries::new(&data, shape).expect("the data are of that shape");
    let capacity = pq.init_offset + parts.num_codes + 1;
    let index = KeyIndex::from_parts(parts, capacity).expect("the parts fit each other");
    let mut selector = Selector::new(&Backend::Cpu, index.clone(), config, heads, num_queries)
        .expect("the configuration fits the index");
    let selection = selector.select(queries).expect("the queries fit");

    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let [first, second, other] = ["a", "b", "c"].map(|name| folder.path().join(name));
    for path in [&first, &second] {
        selection
            .save(path, &config, &pq)
            .expect("a selection can be saved");
    }
    let read = |path: &Path| fs::read(path).expect("what was saved can be read");
    let bytes = read(&first);
    assert_eq!(bytes, read(&second));
    check_file(&bytes, selection, &config, &pq);

    work::select_and_append(index, config, queries);

    let rows = shape[..3].iter().product();
    let padded = stride(
        &other_config,
        &other_pq,
        num_queries,
        selection.seq_len(),
        rows,
    );
    if padded.is_ok_and(|stride| stride > MAX_STRIDE) {
        // Padding is what the caller asked for.
        return Ok(());
    }
    match selection.save(&other, &other_config, &other_pq) {
        Ok(()) => check_file(&read(&other), selection, &other_config, &other_pq),
        Err(error) => {
            check_message(&error, &NAMES);
            assert!(!other.exists(), "{error}, and a file is there");
        }
    }
    Ok(())
}

/// The rule of the file's stride, for any numbers.
fn check_stride(u: &mut Unstructured<'_>) -> Result<()> {
    let (config, pq) = (any_select(u)?, any_pq(u)?);
    let [num_queries, seq_len, rows] = [any_size(u)?, any_size(u)?, any_size(u)?];
    match stride(&config, &pq, num_queries, seq_len, rows) {
        Ok(stride) => assert!(rows as u128 * stride as u128 <= MAX_LIST_POSITIONS as u128),
        Err(error) => check_message(&error, &NAMES),
    }
    Ok(())
}

/// Fails unless `bytes` hold `selection` in the format of the README.
fn check_file(bytes: &[u8], selection: &Selection, config: &SelectConfig, pq: &PqConfig) {
    let (_, header) = SafeTensors::read_metadata(bytes).expect("it is a safetensors file");
    let metadata = header.metadata().clone().expect("it has metadata");
    let expected = [
        ("seq_len", selection.seq_len()),
        ("sink", config.sink),
        ("heavy", config.heavy),
        ("window", config.window),
    ];
    for (key, value) in expected {
        assert_eq!(metadata.get(key), Some(&value.to_string()), "{key}");
    }

    let tensors = SafeTensors::deserialize(bytes).expect("it is a safetensors file");
    let [batch, heads, queries] = selection.shape();
    let (seq_len, rows) = (selection.seq_len(), batch * heads * queries);
    let limit = config.heavy + pq.init_offset + queries + (1 << pq.bits);
    // An empty context is listed whole with the rule and without.
    let stride = match seq_len == 0 || config.short_context && seq_len <= limit {
        true => seq_len,
        false => config.sink + config.heavy + config.window,
    };
    let (mut positions, mut weights) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let (head, query) = (row / queries, row % queries);
        let (batch, head) = (head / heads, head % heads);
        let mut list = selection.positions(batch, head, query).to_vec();
        assert!(list.len() <= stride, "{} of {stride} positions", list.len());
        list.resize(stride, -1);
        positions.extend(list);
        weights.extend_from_slice(selection.weights(batch, head, query).unwrap_or(&[]));
    }
    let ints = |values: &[i32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    let check = |name: &str, dtype: Dtype, shape: &[usize], data: Vec<u8>| {
        let tensor = tensors.tensor(name).expect("the tensor is there");
        assert_eq!(tensor.dtype(), dtype, "{name}");
        assert_eq!(tensor.shape(), shape, "{name}");
        assert_eq!(tensor.data(), data, "{name}");
    };
    let shape = [batch, heads, queries, stride];
    check("positions", Dtype::I32, &shape, ints(&positions));
    check(
        "lengths",
        Dtype::I32,
        &shape[..3],
        ints(selection.lengths()),
    );
    let has_weights = selection.weights(0, 0, 0).is_some();
    assert_eq!(tensors.len(), 2 + usize::from(has_weights));
    if has_weights {
        let shape = [batch, heads, queries, seq_len];
        check("weights", Dtype::F32, &shape, f32_bytes(&weights));
    }
}
