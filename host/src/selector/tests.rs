//! The bounds of a step's size, which are too large to be tried by making one.

use super::*;

/// The shape of steps of `num_queries` queries of one head that list `heavy` positions.
fn shape(num_queries: usize, heavy: usize) -> Result<StepShape> {
    let extent = Extent {
        batch: 1,
        num_kv_heads: 1,
        head_dim: 8,
        capacity: 100,
        code_capacity: 100,
    };
    let config = SelectConfig {
        sink: 0,
        window: 0,
        heavy,
        short_context: false,
        ..SelectConfig::default()
    };
    shape_of(&extent, &PqConfig::default(), &config, 1, num_queries)
}

#[test]
fn rows_are_fewer_than_2_to_the_31() {
    let most = i32::MAX as usize;
    assert_eq!(shape(most, 1).unwrap().num_queries, i32::MAX as u32);
    let refused = shape(most + 1, 1).unwrap_err().to_string();
    assert!(refused.contains("2^31 rows"), "{refused}");
}

#[test]
fn lists_have_at_most_2_to_the_32_positions() {
    assert_eq!(shape(1 << 22, 1 << 10).unwrap().list_stride, 1 << 10);
    for (num_queries, heavy) in [((1 << 22) + 1, 1 << 10), (1 << 22, (1 << 10) + 1)] {
        let refused = shape(num_queries, heavy).unwrap_err().to_string();
        assert!(refused.contains("4294967296 in all"), "{refused}");
    }
}

#[test]
fn a_selector_says_what_it_was_made_with_and_where_it_works() {
    let parts = crate::index::IndexParts {
        config: PqConfig {
            init_offset: 0,
            ..PqConfig::default()
        },
        batch: 1,
        num_kv_heads: 1,
        head_dim: 8,
        num_codes: 3,
        centroids: vec![0.5; 64 * 8],
        augmentation: None,
        codes: vec![1; 6],
    };
    let index = KeyIndex::from_parts(parts, 5).unwrap();
    let config = SelectConfig {
        heavy: 7,
        ..SelectConfig::default()
    };
    let mut selector = Selector::new(&Backend::Cpu, index, config, 2, 1).unwrap();
    assert_eq!(selector.config(), &config);
    assert_eq!(
        selector.cpu_step().map(|step| step.index().seq_len()),
        Some(3)
    );
    assert!(selector.cuda_step().is_none());
}
