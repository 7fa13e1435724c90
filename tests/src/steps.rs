//! Whole steps on a device against the oracle and the CPU backend.

use keysieve::cuda::Variant;
use keysieve::{Backend, IndexConfig, KeyIndex, Keys, Queries, SelectConfig, Selection, Selector};
use proptest::test_runner::{TestCaseError, TestCaseResult};
use proptest::{prop_assert, prop_assert_eq};

use crate::device::{Device, check_same, fail};
use crate::oracle::{Context, Selected, Shape};
use crate::shapes::{index_parts, select_config};
use crate::strategies::{Fill, LoopCase};

/// Whether `selection` lists what `expected` does, padding and weights included.
pub fn check_against_oracle(
    shape: &Shape,
    seq_len: usize,
    weights: bool,
    selection: &Selection,
    expected: &Selected,
) -> TestCaseResult {
    prop_assert_eq!(selection.seq_len(), seq_len);
    check_same("oracle", selection.lengths(), &expected.lengths)?;
    let shape = &shape.lists();
    let stride = selection.list_stride();
    for row in 0..shape.num_rows() {
        let (head, query) = (row / shape.num_queries, row % shape.num_queries);
        let (batch, head) = (head / shape.num_qo_heads(), head % shape.num_qo_heads());
        let mut list = expected.positions[row * shape.list_stride..][..shape.list_stride].to_vec();
        let len = expected.lengths[row] as usize;
        check_same(
            "oracle",
            selection.positions(batch, head, query),
            &list[..len],
        )?;
        // The selector may have chosen a longer stride than the oracle's, never a shorter list.
        list.resize(stride.max(len), -1);
        list.truncate(stride);
        check_same(
            "oracle",
            &selection.padded_positions()[row * stride..][..stride],
            &list,
        )?;
        let dense = selection.weights(batch, head, query);
        prop_assert_eq!(dense.is_some(), weights);
        if let Some(dense) = dense {
            let row_weights = &expected.weights[row * shape.weights_stride..][..seq_len];
            check_same("oracle", dense, row_weights)?;
        }
        let heavy = selection.heavy(batch, head, query);
        prop_assert_eq!(heavy.is_some(), shape.scores_stride > 0);
        if let Some((positions, scores)) = heavy {
            let heavy_k = shape.heavy_k(shape.visible(row, seq_len));
            let at = row * shape.heavy..row * shape.heavy + heavy_k;
            check_same("oracle", positions, &expected.heavy[at.clone()])?;
            check_same("oracle", scores, &expected.heavy_scores[at])?;
        }
    }
    Ok(())
}

/// New keys `[batch, num_kv_heads, tokens, head_dim]` of a shape.
pub fn keys<'a>(shape: &Shape, data: &'a [f32], tokens: usize) -> keysieve::Result<Keys<'a>> {
    Keys::new(
        data,
        [shape.batch, shape.num_kv_heads, tokens, shape.head_dim],
    )
}

/// Queries `[batch, num_qo_heads, num_queries, head_dim]` of a shape.
pub fn queries<'a>(shape: &Shape, data: &'a [f32]) -> keysieve::Result<Queries<'a>> {
    Queries::new(
        data,
        [
            shape.batch,
            shape.num_qo_heads(),
            shape.num_queries,
            shape.head_dim,
        ],
    )
}

/// Keys that the steps of a case append.
pub const STEPS: usize = 2;

/// Steps that append a key each, in one of the variants that fit and `may` be chosen, by launches or by graph; which
/// variant that was. The context ends full.
///
/// # Errors
/// The first difference from the oracle or the CPU backend, what the device answers, and if no variant may be chosen.
pub fn one_variant(
    device: &Device,
    case: &LoopCase,
    pick: usize,
    by_graph: bool,
    may: impl Fn(&Variant) -> bool,
) -> Result<Variant, TestCaseError> {
    let mut case = case.clone();
    case.shape.code_capacity = case.num_codes + STEPS;
    variant_of(device, &case, pick % 2 == 1, by_graph, |variants| {
        let variants: Vec<_> = variants.iter().copied().filter(may).collect();
        variants.get(pick % variants.len().max(1)).copied()
    })
}

/// [`one_variant`] in the variant that `choose` takes of those that fit, with room for what the shape's
/// `code_capacity` says; positions of 64 bits or 32.
///
/// # Errors
/// As there, and if `choose` takes none.
pub fn variant_of(
    device: &Device,
    case: &LoopCase,
    wide: bool,
    by_graph: bool,
    choose: impl FnOnce(&[Variant]) -> Option<Variant>,
) -> Result<Variant, TestCaseError> {
    let mut shape = case.shape;
    let capacity = shape.init_offset + shape.code_capacity;
    shape.weights_stride = capacity;
    let listed = shape.sink + shape.window + shape.heavy;
    shape.list_stride = listed.max(shape.short_context_limit().min(capacity));

    let parts = index_parts(case, case.centroids);
    let index = KeyIndex::from_parts(parts.clone(), capacity).map_err(fail)?;
    let m = shape.num_subvectors;
    let mut codes = vec![0; shape.groups() * shape.code_capacity * m];
    for group in 0..shape.groups() {
        let used = case.num_codes * m;
        codes[group * shape.code_capacity * m..][..used]
            .copy_from_slice(&parts.codes[group * used..][..used]);
    }
    let mut oracle = Context {
        shape,
        centroids: parts.centroids,
        augmentation: case.augmentation.map(|fill| fill.augmentation(&shape)),
        codes,
        seq_len: shape.init_offset + case.num_codes,
    };
    let config = SelectConfig {
        indices: wide.then_some(IndexConfig::WIDE),
        ..select_config(&shape, case.weights)
    };
    let selector = |backend: &Backend| {
        let heads = shape.num_qo_heads();
        Selector::new(backend, index.clone(), config, heads, shape.num_queries).map_err(fail)
    };
    let (mut on_cpu, mut on_device) = (selector(&Backend::Cpu)?, selector(&device.backend)?);

    let no_step = || fail("the device has no CUDA step");
    let step = on_device.cuda_step().ok_or_else(no_step)?;
    let variant = choose(&step.variants()).ok_or_else(|| fail("the variant does not fit"))?;
    step.set_variant(variant).map_err(fail)?;
    let graph = by_graph.then(|| step.capture()).transpose().map_err(fail)?;
    for i in 0..STEPS as u64 {
        let fill = |fill: Fill, len| {
            let seed = fill.seed ^ i;
            Fill { seed, ..fill }.floats(len)
        };
        let new_keys = fill(case.keys, shape.groups() * shape.head_dim);
        let step_queries = fill(case.queries, shape.num_rows() * shape.head_dim);
        oracle.append(&new_keys);
        let expected = oracle.select(&step_queries);
        let key = keys(&shape, &new_keys, 1).map_err(fail)?;
        let step_queries = queries(&shape, &step_queries).map_err(fail)?;
        on_cpu.append(key).map_err(fail)?;
        let by_cpu = on_cpu.select(step_queries).map_err(fail)?;

        let step = on_device.cuda_step().ok_or_else(no_step)?;
        step.upload(key, step_queries).map_err(fail)?;
        match &graph {
            Some(graph) => step.replay(graph),
            None => step.enqueue(&mut |_| Ok(())),
        }
        .map_err(fail)?;
        let got = on_device.read().map_err(fail)?;
        let place = |error| fail(format!("{variant:?}, graph {by_graph}, step {i}: {error}"));
        let seq_len = oracle.seq_len;
        check_against_oracle(&shape, seq_len, case.weights, got, &expected).map_err(place)?;
        prop_assert!(got == by_cpu, "{:?}: not what the CPU lists", variant);
        if !by_graph && i + 1 == STEPS as u64 {
            // Once more without a new key.
            let again = on_device.select(step_queries).map_err(fail)?;
            prop_assert!(again == by_cpu, "{:?}: differs without a new key", variant);
        }
    }
    let codes = on_device.to_index().map_err(fail)?.to_parts().codes;
    let by_cpu = on_cpu.to_index().map_err(fail)?.to_parts().codes;
    prop_assert!(codes == by_cpu, "{:?}: codes differ", variant);
    Ok(variant)
}
