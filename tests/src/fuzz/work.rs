//! An accepted index at work: saved, selected from, grown.

use std::fs;
use std::path::Path;

use keysieve::config::MAX_TOKENS;
use keysieve::{Backend, KeyIndex, Keys, Queries, SelectConfig, Selector};

use crate::oracle::{Context, Shape};
use crate::shapes::oracle_augmentation;

/// Rows times positions times sub-vectors up to which the oracle is asked too.
const ORACLE_WORK: usize = 1 << 14;

/// Saved and loaded, an index is the same; saved again, the bytes are.
pub(super) fn survives(index: &KeyIndex) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("index");
    let saved = |index: &KeyIndex| {
        index.save(&path).expect("an index can be saved");
        fs::read(&path).expect("what was saved can be read")
    };
    let bytes = saved(index);
    let capacity = Some(index.capacity());
    let loaded = KeyIndex::parse(Path::new("index"), &bytes, capacity);
    let loaded = loaded.expect("what was saved can be loaded");
    assert!(loaded == *index, "the loaded index differs");
    assert_eq!(saved(&loaded), bytes);
}

/// `queries` select from the index, before and after a key is appended, and list what the oracle lists.
pub(super) fn use_index(mut index: KeyIndex, queries: Queries<'_>) {
    let capacity = MAX_TOKENS.min(index.seq_len() + 1);
    index
        .reserve(capacity)
        .expect("there may be so many tokens");
    let rows = queries.batch * queries.num_qo_heads * queries.num_queries;
    // A long context listed whole, or all its weights, would be as long as the file says that it is.
    let short = capacity * rows <= ORACLE_WORK;
    let config = SelectConfig {
        sink: 2,
        window: 3,
        heavy: 4,
        short_context: short && queries.num_queries.is_multiple_of(2),
        weights: short,
        ..SelectConfig::default()
    };
    select_and_append(index, config, queries);
}

/// Selects with `config`, appends a key if there is room, and selects again.
pub(super) fn select_and_append(index: KeyIndex, config: SelectConfig, queries: Queries<'_>) {
    let parts = index.to_parts();
    let shape = Shape {
        batch: parts.batch,
        num_kv_heads: parts.num_kv_heads,
        group_size: queries.num_qo_heads / parts.num_kv_heads,
        num_queries: queries.num_queries,
        head_dim: parts.head_dim,
        num_subvectors: parts.config.num_subvectors,
        bits: parts.config.bits,
        init_offset: parts.config.init_offset,
        code_capacity: index.code_capacity(),
        sink: config.sink,
        window: config.window,
        heavy: config.heavy,
        short_context: config.short_context,
        list_stride: 0,
        weights_stride: index.capacity(),
        ..Shape::default()
    };
    let mut context = Context {
        centroids: parts.centroids,
        augmentation: parts.augmentation.map(oracle_augmentation),
        codes: index.padded_codes().to_vec(),
        seq_len: index.seq_len(),
        shape,
    };
    let has_room = index.seq_len() < index.capacity();
    let (heads, num_queries) = (queries.num_qo_heads, queries.num_queries);
    let mut selector = Selector::new(&Backend::Cpu, index, config, heads, num_queries)
        .expect("the configuration fits the index");
    check_step(&mut selector, &mut context, queries);
    if has_room {
        let len = shape.groups() * shape.head_dim;
        let data: Vec<f32> = context
            .centroids
            .iter()
            .copied()
            .cycle()
            .take(len)
            .collect();
        let keys = Keys::new(&data, [shape.batch, shape.num_kv_heads, 1, shape.head_dim]);
        let finite = data.iter().all(|x| x.is_finite());
        let appended = selector.append(keys.expect("the data are of that shape"));
        assert_eq!(appended.is_ok(), finite);
        if finite {
            context.append(&data);
        }
        check_step(&mut selector, &mut context, queries);
    }
}

/// One step: lists that hold together, and where that is quick the oracle's.
fn check_step(selector: &mut Selector, context: &mut Context, queries: Queries<'_>) {
    let has_weights = selector.config().weights;
    let selection = selector.select(queries).expect("the queries fit");
    let stride = selection.list_stride();
    assert_eq!(selection.seq_len(), context.seq_len);
    for (list, &len) in selection
        .padded_positions()
        .chunks(stride)
        .zip(selection.lengths())
    {
        let (listed, padding) = list.split_at(len as usize);
        assert!(listed.is_sorted_by(|a, b| a < b), "{listed:?}");
        assert!(
            listed
                .iter()
                .all(|&p| 0 <= p && (p as usize) < context.seq_len)
        );
        assert!(padding.iter().all(|&p| p == -1));
    }
    let shape = &mut context.shape;
    let row = (context.seq_len + shape.num_centroids()) * shape.num_subvectors
        + shape.num_centroids() * shape.head_dim;
    if shape.num_rows() * row > ORACLE_WORK {
        return;
    }
    shape.list_stride = stride;
    let expected = context.select(queries.data);
    assert_eq!(selection.padded_positions(), expected.positions);
    assert_eq!(selection.lengths(), expected.lengths);
    let shape = &context.shape;
    if !has_weights {
        return;
    }
    for (row, weights) in expected.weights.chunks(shape.weights_stride).enumerate() {
        let (head, query) = (row / shape.num_queries, row % shape.num_queries);
        let (batch, head) = (head / shape.num_qo_heads(), head % shape.num_qo_heads());
        let got = selection.weights(batch, head, query);
        assert_eq!(got, Some(&weights[..context.seq_len]));
    }
}
