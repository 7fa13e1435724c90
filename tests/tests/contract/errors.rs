//! Point 8: errors name the argument, and change nothing.

use keysieve::{
    Augmentation, Error, IndexParts, KeyIndex, Keys, Metric, PqConfig, Queries, SelectConfig,
    Selector, TrainConfig,
};
use keysieve_tests::device::{Device, fail, names};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::whole::Whole;

/// 8: calls of a selector that fail leave index, length and last selection as they were.
pub(crate) fn bad_calls(device: &Device) -> TestCaseResult {
    let whole = Whole::small(
        30,
        SelectConfig {
            heavy: 6,
            ..SelectConfig::default()
        },
    );
    let mut selector = whole.selector(&device.backend, 2)?;
    selector.select(whole.queries()).map_err(fail)?;
    let index = selector.to_index().map_err(fail)?;
    let selection = selector.selection().clone();

    let data = vec![1.0; 4096];
    let keys = |shape: [usize; 4]| Keys::new(&data[..shape.iter().product()], shape).map_err(fail);
    let queries =
        |shape: [usize; 4]| Queries::new(&data[..shape.iter().product()], shape).map_err(fail);

    names("batch", selector.append(keys([1, 2, 1, 8])?))?;
    names("num_kv_heads", selector.append(keys([2, 1, 1, 8])?))?;
    names("head_dim", selector.append(keys([2, 2, 1, 4])?))?;
    let too_many = selector.append(keys([2, 2, 3, 8])?);
    let expected = Error::Capacity {
        seq_len: 34,
        additional: 3,
        capacity: 36,
    };
    prop_assert_eq!(too_many, Err(expected));
    let mut not_finite = vec![1.0; 4 * 8];
    (not_finite[17], not_finite[31]) = (f32::NEG_INFINITY, f32::NAN);
    let got = selector.append(Keys::new(&not_finite, [2, 2, 1, 8]).map_err(fail)?);
    let expected = Error::NotFinite {
        batch: 1,
        head: 0,
        token: 0,
        component: 1,
        value: "-inf".into(),
    };
    prop_assert_eq!(got, Err(expected));

    names("batch", selector.select(queries([1, 4, 1, 8])?).map(drop))?;
    names(
        "num_qo_heads",
        selector.select(queries([2, 2, 1, 8])?).map(drop),
    )?;
    names(
        "num_queries",
        selector.select(queries([2, 4, 2, 8])?).map(drop),
    )?;
    names(
        "head_dim",
        selector.select(queries([2, 4, 1, 4])?).map(drop),
    )?;

    // Fields are public: data may be shorter or longer than they say.
    for len in [0, 31, 33] {
        let lying = Keys {
            data: &data[..len],
            ..keys([2, 2, 1, 8])?
        };
        names("keys", selector.append(lying))?;
    }
    for len in [0, 63, 65] {
        let lying = Queries {
            data: &data[..len],
            ..whole.queries()
        };
        names("queries", selector.select(lying).map(drop))?;
    }

    prop_assert_eq!(selector.seq_len(), 34);
    prop_assert!(
        selector.to_index().map_err(fail)? == index,
        "the index changed"
    );
    prop_assert!(selector.selection() == &selection, "the selection changed");
    let again = selector.select(whole.queries()).map_err(fail)?;
    prop_assert!(again == &selection, "a step after the failed calls differs");

    // Making one.
    let make = |config: SelectConfig, heads, queries| {
        Selector::new(&device.backend, index.clone(), config, heads, queries).map(drop)
    };
    let config = SelectConfig::default();
    names(
        "heavy",
        make(
            SelectConfig {
                heavy: 4097,
                ..config
            },
            4,
            1,
        ),
    )?;
    names(
        "sink",
        make(
            SelectConfig {
                sink: (1 << 24) + 1,
                ..config
            },
            4,
            1,
        ),
    )?;
    names(
        "window",
        make(
            SelectConfig {
                window: usize::MAX,
                ..config
            },
            4,
            1,
        ),
    )?;
    names("num_qo_heads", make(config, 0, 1))?;
    names("num_qo_heads", make(config, 3, 1))?;
    names("num_queries", make(config, 4, 0))?;
    names("queries", make(config, 1 << 40, 1))?;
    names("queries", make(config, 1 << 40, 1 << 40))?;
    // Allowed: nothing heavy, a window and a sink longer than the context.
    make(
        SelectConfig {
            heavy: 0,
            sink: 1000,
            window: 1000,
            ..config
        },
        4,
        1,
    )
    .map_err(fail)
}

/// 8: what needs no device.
pub(crate) fn bad_arguments() -> TestCaseResult {
    let data = vec![1.0; 2 * 40 * 8];
    names("keys", Keys::new(&data, [1, 2, 40, 9]))?;
    names("keys", Keys::new(&data, [usize::MAX, 2, 40, 8]))?;
    names("queries", Queries::new(&data, [1, 2, 40, 7]))?;
    names("metric", Metric::from_name("cosine"))?;

    let keys = Keys::new(&data, [1, 2, 40, 8]).map_err(fail)?;
    let pq = PqConfig {
        num_subvectors: 2,
        bits: 3,
        init_offset: 4,
        metric: Metric::L2,
    };
    let train = |pq: PqConfig, keys, capacity| {
        KeyIndex::train(&pq, &TrainConfig::default(), keys, capacity).map(drop)
    };
    names("bits", train(PqConfig { bits: 0, ..pq }, keys, 40))?;
    names("bits", train(PqConfig { bits: 9, ..pq }, keys, 40))?;
    names(
        "bits",
        train(
            PqConfig {
                bits: u32::MAX,
                ..pq
            },
            keys,
            40,
        ),
    )?;
    for num_subvectors in [0, 3, 16, 65, usize::MAX] {
        names(
            "num_subvectors",
            train(
                PqConfig {
                    num_subvectors,
                    ..pq
                },
                keys,
                40,
            ),
        )?;
    }
    names(
        "init_offset",
        train(
            PqConfig {
                init_offset: (1 << 24) + 1,
                ..pq
            },
            keys,
            40,
        ),
    )?;
    names(
        "keys",
        train(
            PqConfig {
                init_offset: 40,
                ..pq
            },
            keys,
            40,
        ),
    )?;
    names("capacity", train(pq, keys, 39))?;
    names("capacity", train(pq, keys, (1 << 24) + 1))?;
    names(
        "keys",
        train(
            pq,
            Keys {
                data: &data[1..],
                ..keys
            },
            40,
        ),
    )?;
    let wide = vec![1.0; 5 * 257];
    names(
        "head_dim",
        train(pq, Keys::new(&wide, [1, 1, 5, 257]).map_err(fail)?, 40),
    )?;
    names(
        "head_dim",
        train(pq, Keys::new(&[], [1, 1, 5, 0]).map_err(fail)?, 40),
    )?;
    names(
        "keys",
        train(pq, Keys::new(&[], [0, 2, 40, 8]).map_err(fail)?, 40),
    )?;

    let parts = Whole::small(30, SelectConfig::default()).parts;
    let from = |change: fn(&mut IndexParts), capacity| {
        let mut parts = parts.clone();
        change(&mut parts);
        KeyIndex::from_parts(parts, capacity).map(drop)
    };
    from(|_| (), 34).map_err(fail)?;
    names("capacity", from(|_| (), 33))?;
    names("capacity", from(|_| (), usize::MAX))?;
    names("bits", from(|parts| parts.config.bits = 9, 34))?;
    names("head_dim", from(|parts| parts.head_dim = 0, 34))?;
    names("index", from(|parts| parts.batch = 0, 34))?;
    names("centroids", from(|parts| parts.centroids.truncate(1), 34))?;
    names("centroids", from(|parts| parts.centroids.push(1.0), 34))?;
    names("codes", from(|parts| parts.codes.truncate(1), 34))?;
    names("codes", from(|parts| parts.codes[7] = 16, 34))?;
    names("", from(|parts| parts.num_codes = usize::MAX, 34))?;
    names("", from(|parts| parts.batch = usize::MAX, 34))?;
    names("", from(|parts| parts.num_kv_heads = usize::MAX / 2, 34))?;

    // What a metric adds, and what it does not.
    names(
        "augmentation",
        from(|parts| parts.config.metric = Metric::Ip, 34),
    )?;
    fn augmented(parts: &mut IndexParts) -> &mut Augmentation {
        let num_codebooks = parts.batch * parts.num_kv_heads * parts.config.num_subvectors;
        parts.config.metric = Metric::Ip;
        parts.augmentation.insert(Augmentation {
            phis: vec![1.0; num_codebooks],
            components: vec![0.5; num_codebooks * parts.config.num_centroids()],
        })
    }
    from(
        |parts| {
            augmented(parts);
        },
        34,
    )
    .map_err(fail)?;
    names("phis", from(|parts| augmented(parts).phis.push(1.0), 34))?;
    names(
        "components",
        from(|parts| augmented(parts).components.truncate(1), 34),
    )?;
    for phi in [-1.0, f32::NAN, f32::INFINITY] {
        let mut parts = parts.clone();
        augmented(&mut parts).phis[1] = phi;
        names("phis", KeyIndex::from_parts(parts, 34))?;
    }
    names(
        "augmentation",
        from(
            |parts| {
                augmented(parts);
                parts.config.metric = Metric::L2;
            },
            34,
        ),
    )?;

    let mut index = KeyIndex::from_parts(parts.clone(), 40).map_err(fail)?;
    let before = index.clone();
    names("capacity", index.reserve((1 << 24) + 1))?;
    names(
        "head_dim",
        index.append(Keys::new(&data[..32], [2, 2, 2, 4]).map_err(fail)?),
    )?;
    prop_assert!(index == before, "the index changed");
    Ok(())
}
