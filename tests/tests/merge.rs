//! Lists of 2, 4 and 8 shards of one context, each selected on its own, against the list of the whole.

use std::ops::Range;
use std::process::ExitCode;

use keysieve::{
    Error, IndexParts, KeyIndex, PqConfig, SelectConfig, Selection, Selector, merge_selections,
    shard_config,
};
use keysieve_tests::device::{Device, Suite, fail};
use keysieve_tests::oracle::{Aggregation, Shape};
use keysieve_tests::shapes::{index_parts, select_config};
use keysieve_tests::steps::queries;
use keysieve_tests::strategies::{Budget, LoopCase, Random, any_loop_cases};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.property(
        "shards_give_the_list_of_the_whole",
        cases,
        shards_give_the_list_of_the_whole,
    );
    suite.alone("shards_that_do_not_fit", shards_that_do_not_fit);
    suite.run()
}

fn cases() -> impl Strategy<Value = (LoopCase, u32, u64)> {
    let case = any_loop_cases(Budget {
        elements: 1 << 13,
        components: true,
    });
    (case, 1..=3u32, any::<u64>()).prop_map(|(mut case, log_shards, cuts)| {
        if case.shape.aggregation == Aggregation::Softmax {
            case.shape.aggregation = Aggregation::Mean;
        }
        case.shape.scores_stride = case.shape.heavy;
        (case, log_shards, cuts)
    })
}

/// Some positions where a context is cut, in order.
fn cuts(seq_len: usize, num_shards: usize, seed: u64) -> Vec<Range<usize>> {
    let mut random = Random::new(seed);
    let mut ends: Vec<usize> = (1..num_shards).map(|_| random.below(seq_len + 1)).collect();
    ends.push(seq_len);
    ends.sort_unstable();
    let starts = std::iter::once(0).chain(ends.clone());
    starts
        .zip(ends.clone())
        .map(|(start, end)| start..end)
        .collect()
}

/// The part of an index that holds positions `range`.
fn shard_parts(whole: &IndexParts, range: &Range<usize>) -> IndexParts {
    let init_offset = whole.config.init_offset;
    let codes = |position: usize| position.saturating_sub(init_offset);
    let (first, end) = (codes(range.start), codes(range.end));
    let m = whole.config.num_subvectors;
    let of_group = |group: usize| &whole.codes[group * whole.num_codes * m..];
    let groups = 0..whole.batch * whole.num_kv_heads;
    IndexParts {
        config: PqConfig {
            init_offset: init_offset.min(range.end).saturating_sub(range.start),
            ..whole.config
        },
        num_codes: end - first,
        codes: groups
            .flat_map(|group| &of_group(group)[first * m..end * m])
            .copied()
            .collect(),
        ..whole.clone()
    }
}

fn select(
    device: &Device,
    shape: &Shape,
    parts: IndexParts,
    config: SelectConfig,
    query: &[f32],
) -> Result<Selection, TestCaseError> {
    let capacity = parts.config.init_offset + parts.num_codes;
    let index = KeyIndex::from_parts(parts, capacity).map_err(fail)?;
    let (heads, num_queries) = (shape.num_qo_heads(), shape.num_queries);
    let selector = Selector::new(&device.backend, index, config, heads, num_queries);
    let mut selector = selector.map_err(fail)?;
    let selection = selector.select(queries(shape, query).map_err(fail)?);
    selection.map_err(fail).cloned()
}

fn shards_give_the_list_of_the_whole(
    device: &Device,
    (case, log_shards, seed): (LoopCase, u32, u64),
) -> TestCaseResult {
    let whole = index_parts(&case, case.centroids);
    let pq = whole.config;
    let seq_len = pq.init_offset + case.num_codes;
    let mut config = select_config(&case.shape, case.weights && seq_len > 0);
    let ranges = cuts(seq_len, 1 << log_shards, seed);
    let mut shape = case.shape;
    let own_config = |config: &SelectConfig, range: &Range<usize>| {
        shard_config(config, &pq, case.shape.num_queries, seq_len, range.clone())
    };
    if ranges
        .iter()
        .any(|range| own_config(&config, range).is_err())
    {
        // The windows of causal queries begin on both sides of a cut: nothing else is refused.
        prop_assert!(config.causal && case.shape.num_queries > 1);
        (config.causal, shape.causal) = (false, false);
    }
    let query = case.queries.floats(shape.num_rows() * shape.head_dim);
    let mut shards = Vec::new();
    for range in &ranges {
        let config = own_config(&config, range).map_err(fail)?;
        let parts = shard_parts(&whole, range);
        shards.push(select(device, &shape, parts, config, &query)?);
    }
    let shards: Vec<&Selection> = shards.iter().collect();
    let merged = merge_selections(&shards, &pq, &config).map_err(fail)?;
    let expected = select(device, &shape, whole.clone(), config, &query)?;
    prop_assert!(merged == expected, "merged from {:?}", ranges);
    Ok(())
}

fn shards_that_do_not_fit() -> TestCaseResult {
    let device = Device::open("cpu").map_err(fail)?;
    let shape = Shape {
        num_queries: 2,
        ..keysieve_tests::shapes::one_row(100, 8)
    };
    let parts = IndexParts {
        config: keysieve_tests::shapes::pq_config(&shape),
        batch: 1,
        num_kv_heads: 1,
        head_dim: 1,
        num_codes: 100,
        centroids: vec![-1.0, 1.0],
        augmentation: None,
        codes: vec![1; 100],
    };
    let pq = parts.config;
    let with = |config: SelectConfig| select(&device, &shape, parts.clone(), config, &[1.0, 2.0]);
    let config = SelectConfig {
        sink: 0,
        window: 10,
        heavy: 8,
        scores: true,
        short_context: false,
        ..SelectConfig::default()
    };
    let refused = |shards: &[&Selection], config: &SelectConfig| match merge_selections(
        shards, &pq, config,
    ) {
        Err(Error::Invalid { argument, .. }) => argument,
        other => format!("{other:?}"),
    };
    let whole = with(config)?;
    prop_assert!(merge_selections(&[&whole], &pq, &config) == Ok(whole.clone()));
    prop_assert_eq!(refused(&[], &config), "shards");
    // Two of them: the first one's candidates end where its window begins, though others follow.
    prop_assert_eq!(refused(&[&whole, &whole], &config), "shards: 0");
    let no_scores = with(SelectConfig {
        scores: false,
        ..config
    })?;
    prop_assert_eq!(refused(&[&no_scores], &config), "shards: 0");
    let more = SelectConfig { heavy: 9, ..config };
    prop_assert_eq!(refused(&[&whole], &more), "shards: 0");
    let softmax = SelectConfig {
        aggregation: keysieve::Aggregation::SoftmaxSum,
        ..config
    };
    prop_assert_eq!(refused(&[&whole], &softmax), "aggregation");
    let max = SelectConfig {
        aggregation: keysieve::Aggregation::Max,
        ..config
    };
    prop_assert_eq!(refused(&[&whole], &max), "shards: 0");

    let refused = |config: &SelectConfig, range| match shard_config(config, &pq, 2, 100, range) {
        Err(Error::Invalid { argument, .. }) => argument,
        other => format!("{other:?}"),
    };
    prop_assert_eq!(refused(&config, 50..101), "range");
    prop_assert_eq!(refused(&softmax, 50..100), "aggregation");
    let causal = SelectConfig {
        causal: true,
        window: 10,
        ..config
    };
    let three = |range| shard_config(&causal, &pq, 3, 100, range).is_ok();
    prop_assert!(three(0..88) && !three(0..89) && three(0..90));
    Ok(())
}
