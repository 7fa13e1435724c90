//! Calls that fail name the argument and change nothing.

use keysieve::{
    Backend, Error, IndexConfig, IndexParts, KeyIndex, Keys, Metric, Paging, PqConfig, Queries,
    RaggedConfig, RaggedSelector, Result, SelectConfig, SequenceConfig,
};
use keysieve_tests::device::{Device, fail, names};
use keysieve_tests::strategies::Fill;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

pub(crate) const CONFIG: RaggedConfig = RaggedConfig {
    batch: 3,
    num_kv_heads: 2,
    num_qo_heads: 4,
    num_queries: 1,
    head_dim: 8,
    capacity: 100,
    pq: PqConfig {
        num_subvectors: 2,
        bits: 3,
        init_offset: 20,
        metric: Metric::L2,
    },
    select: SelectConfig {
        sink: 4,
        window: 4,
        heavy: 8,
        short_context: false,
        weights: true,
        causal: false,
        aggregation: keysieve::Aggregation::PerHead,
        scores: false,
        indices: Some(IndexConfig {
            wide: true,
            slots: true,
        }),
    },
    paging: Some(Paging {
        page_size: 16,
        num_pages: 12,
        codes: true,
    }),
};

const REGIONS: SequenceConfig = SequenceConfig {
    sink: 4,
    window: 4,
    heavy: 8,
};

/// An index of one sequence in the batch's format, changed.
fn index(num_codes: usize, change: impl FnOnce(&mut IndexParts)) -> Result<KeyIndex> {
    let mut parts = IndexParts {
        config: CONFIG.pq,
        batch: 1,
        num_kv_heads: 2,
        head_dim: 8,
        num_codes,
        centroids: Vec::new(),
        augmentation: None,
        codes: Vec::new(),
    };
    change(&mut parts);
    let groups = parts.batch * parts.num_kv_heads;
    let len = groups * parts.config.num_centroids() * parts.head_dim;
    parts.centroids = Fill::usual(1).floats(len);
    let len = groups * num_codes * parts.config.num_subvectors;
    parts.codes = Fill::usual(2).codes(len, parts.config.bits);
    let seq_len = parts.config.init_offset + num_codes;
    KeyIndex::from_parts(parts, seq_len)
}

/// Sequences in slots 0 and 2, with room in their pages for 4 and 15 tokens more.
pub(crate) fn selector(backend: &Backend) -> Result<RaggedSelector> {
    let mut selector = RaggedSelector::new(backend, &CONFIG)?;
    selector.insert(0, &index(40, |_| ())?, &REGIONS, &[3, 1, 7, 0])?;
    selector.insert(2, &index(61, |_| ())?, &REGIONS, &[2, 4, 5, 6, 8, 9])?;
    Ok(selector)
}

pub(crate) fn bad_calls(device: &Device) -> TestCaseResult {
    let mut selector = selector(&device.backend).map_err(fail)?;
    let data = Fill::usual(3).floats(4096);
    let keys = |shape: [usize; 4]| Keys::new(&data[..shape.iter().product()], shape).map_err(fail);
    let queries =
        |shape: [usize; 4]| Queries::new(&data[..shape.iter().product()], shape).map_err(fail);
    let (key, query) = (keys([3, 2, 1, 8])?, queries([3, 4, 1, 8])?);
    let before = selector.select(query).map_err(fail)?.clone();
    let codes = |selector: &RaggedSelector| -> Result<_> {
        Ok([0, 2].map(|slot| selector.to_index(slot).map(|index| index.to_parts())))
    };
    let codes_before = codes(&selector).map_err(fail)?;

    let good = index(10, |_| ()).map_err(fail)?;
    let pages = [10, 11];
    let mut insert = |index: &KeyIndex, regions: SequenceConfig, pages: &[u32]| {
        selector.insert(1, index, &regions, pages)
    };
    let other = |change: fn(&mut IndexParts)| index(10, change).map_err(fail);
    names(
        "index: batch",
        insert(&other(|parts| parts.batch = 2)?, REGIONS, &pages),
    )?;
    names(
        "num_kv_heads",
        insert(&other(|parts| parts.num_kv_heads = 1)?, REGIONS, &pages),
    )?;
    names(
        "head_dim",
        insert(&other(|parts| parts.head_dim = 4)?, REGIONS, &pages),
    )?;
    let bits = other(|parts| parts.config.bits = 2)?;
    names("bits", insert(&bits, REGIONS, &pages))?;
    let subvectors = other(|parts| parts.config.num_subvectors = 4)?;
    names("num_subvectors", insert(&subvectors, REGIONS, &pages))?;
    let offset = other(|parts| parts.config.init_offset = 21)?;
    names("init_offset", insert(&offset, REGIONS, &pages))?;
    names(
        "sink",
        insert(&good, SequenceConfig { sink: 5, ..REGIONS }, &pages),
    )?;
    names(
        "window",
        insert(
            &good,
            SequenceConfig {
                window: 5,
                ..REGIONS
            },
            &pages,
        ),
    )?;
    names(
        "heavy",
        insert(
            &good,
            SequenceConfig {
                heavy: 9,
                ..REGIONS
            },
            &pages,
        ),
    )?;
    names("pages", insert(&good, REGIONS, &[10]))?;
    names("pages", insert(&good, REGIONS, &[10, 12]))?;
    names("pages", insert(&good, REGIONS, &[10, 9]))?;
    names("pages", insert(&good, REGIONS, &[10, 11, 11]))?;
    names("pages", insert(&good, REGIONS, &[10; 8]))?;
    let long = index(81, |_| ()).map_err(fail)?;
    let expected = Error::Capacity {
        seq_len: 0,
        additional: 101,
        capacity: 100,
    };
    prop_assert_eq!(insert(&long, REGIONS, &pages), Err(expected));
    names("slot", selector.insert(0, &good, &REGIONS, &pages))?;
    names("slot", selector.insert(3, &good, &REGIONS, &pages))?;
    names("slot", selector.remove(1))?;
    names("slot", selector.remove(usize::MAX))?;
    names("slot", selector.configure(1, &REGIONS))?;
    names(
        "heavy",
        selector.configure(
            0,
            &SequenceConfig {
                heavy: 9,
                ..REGIONS
            },
        ),
    )?;
    names("slot", selector.add_pages(1, &pages))?;
    names("pages", selector.add_pages(0, &[8]))?;
    names("pages", selector.add_pages(0, &[10, 10]))?;
    names("pages", selector.add_pages(2, &[10, 11]))?;
    names("slot", selector.truncate(1, 20))?;
    names("seq_len", selector.truncate(0, 61))?;
    names("seq_len", selector.truncate(0, 19))?;
    names("slot", selector.to_index(1))?;

    let mut step =
        |keys, appends: &[bool], queries| selector.step(keys, appends, queries).map(drop);
    let all = [true, false, true];
    names("appends", step(key, &[true; 2], query))?;
    names("appends", step(key, &[true; 3], query))?;
    names("keys: batch", step(keys([2, 2, 1, 8])?, &all, query))?;
    names("keys: num_kv_heads", step(keys([3, 1, 1, 8])?, &all, query))?;
    names("keys: tokens", step(keys([3, 2, 2, 8])?, &all, query))?;
    names("keys: head_dim", step(keys([3, 2, 1, 4])?, &all, query))?;
    names("queries: batch", step(key, &all, queries([2, 4, 1, 8])?))?;
    names(
        "queries: num_qo_heads",
        step(key, &all, queries([3, 2, 1, 8])?),
    )?;
    names(
        "queries: num_queries",
        step(key, &all, queries([3, 4, 2, 8])?),
    )?;
    names("queries: head_dim", step(key, &all, queries([3, 4, 1, 4])?))?;
    let mut not_finite = data[..48].to_vec();
    not_finite[32 + 9] = f32::INFINITY;
    let not_finite = Keys::new(&not_finite, [3, 2, 1, 8]).map_err(fail)?;
    let expected = Error::NotFinite {
        batch: 2,
        head: 1,
        token: 0,
        component: 1,
        value: "inf".into(),
    };
    prop_assert_eq!(step(not_finite, &all, query), Err(expected));

    prop_assert!(selector.seq_lens().eq([60, 0, 81]));
    prop_assert!(codes(&selector).map_err(fail)? == codes_before);
    prop_assert!(selector.select(query).map_err(fail)? == &before);
    // What was refused before is no matter where nobody looks: the key of a sequence that does not append.
    let only_first = [true, false, false];
    selector
        .step(not_finite, &only_first, query)
        .map_err(fail)?;
    prop_assert!(selector.seq_lens().eq([61, 0, 81]));

    // To the end of the pages, then of what a sequence may have.
    for seq_len in 61..64 {
        prop_assert_eq!(selector.seq_lens().next(), Some(seq_len));
        selector.append(key, &only_first).map_err(fail)?;
    }
    let full = |seq_len, capacity| {
        Err(Error::Capacity {
            seq_len,
            additional: 1,
            capacity,
        })
    };
    prop_assert_eq!(selector.append(key, &all), full(64, 64));
    prop_assert!(selector.seq_lens().eq([64, 0, 81]));
    selector.add_pages(0, &[10, 11]).map_err(fail)?;
    for _ in 64..96 {
        selector.append(key, &only_first).map_err(fail)?;
    }
    prop_assert_eq!(selector.append(key, &only_first), full(96, 96));
    // Pages of a sequence that is gone are free again.
    selector.remove(2).map_err(fail)?;
    selector.add_pages(0, &[9]).map_err(fail)?;
    for _ in 96..100 {
        selector.append(key, &only_first).map_err(fail)?;
    }
    prop_assert_eq!(selector.append(key, &only_first), full(100, 100));
    Ok(())
}

/// Configurations that cannot be.
pub(crate) fn bad_configurations(device: &Device) -> TestCaseResult {
    let made = |change: fn(&mut RaggedConfig)| {
        let mut config = CONFIG;
        change(&mut config);
        RaggedSelector::new(&device.backend, &config).map(drop)
    };
    made(|_| ()).map_err(fail)?;
    fn paging(config: &mut RaggedConfig) -> &mut Paging {
        config.paging.get_or_insert(Paging {
            page_size: 16,
            num_pages: 12,
            codes: true,
        })
    }
    names("batch", made(|config| config.batch = 0))?;
    names("batch", made(|config| config.batch = usize::MAX))?;
    names("num_kv_heads", made(|config| config.num_kv_heads = 0))?;
    names("num_qo_heads", made(|config| config.num_qo_heads = 3))?;
    names("num_queries", made(|config| config.num_queries = 0))?;
    names("queries", made(|config| config.num_queries = usize::MAX))?;
    names("head_dim", made(|config| config.head_dim = 0))?;
    names("num_subvectors", made(|config| config.head_dim = 9))?;
    names("bits", made(|config| config.pq.bits = 9))?;
    names("capacity", made(|config| config.capacity = 0))?;
    names("capacity", made(|config| config.capacity = 19))?;
    names("capacity", made(|config| config.capacity = (1 << 24) + 1))?;
    names("heavy", made(|config| config.select.heavy = 4097))?;
    names("page_size", made(|config| paging(config).page_size = 8))?;
    names("page_size", made(|config| paging(config).page_size = 48))?;
    names("page_size", made(|config| paging(config).page_size = 512))?;
    names("num_pages", made(|config| paging(config).num_pages = 0))?;
    names(
        "num_pages",
        made(|config| paging(config).num_pages = (1 << 27) + 1),
    )?;
    names("indices", made(|config| config.paging = None))
}

/// Metrics are not mixed.
pub(crate) fn another_metric(device: &Device) -> TestCaseResult {
    let config = RaggedConfig {
        pq: PqConfig {
            metric: Metric::Ip,
            ..CONFIG.pq
        },
        ..CONFIG
    };
    let mut selector = RaggedSelector::new(&device.backend, &config).map_err(fail)?;
    let index = index(10, |_| ()).map_err(fail)?;
    names("metric", selector.insert(0, &index, &REGIONS, &[1, 2]))?;
    prop_assert!(selector.seq_lens().eq([0; 3]));
    Ok(())
}
