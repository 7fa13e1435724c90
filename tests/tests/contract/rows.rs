//! Point 6: a row's list depends on nothing but the row.

use keysieve::{Augmentation, IndexParts, SelectConfig};
use keysieve_tests::device::{Device, fail};
use keysieve_tests::oracle::Shape;
use keysieve_tests::strategies::LoopCase;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use rayon::ThreadPoolBuilder;

use crate::whole::Whole;

impl Whole {
    /// Only the rows of one (batch, kv head), its query heads and their queries.
    fn only_group(&self, group: usize) -> Whole {
        let part =
            |len: usize| group * len / self.shape.groups()..(group + 1) * len / self.shape.groups();
        let parts = &self.parts;
        Whole {
            shape: Shape {
                batch: 1,
                num_kv_heads: 1,
                ..self.shape
            },
            parts: IndexParts {
                batch: 1,
                num_kv_heads: 1,
                centroids: parts.centroids[part(parts.centroids.len())].to_vec(),
                augmentation: parts.augmentation.as_ref().map(|added| Augmentation {
                    phis: added.phis[part(added.phis.len())].to_vec(),
                    components: added.components[part(added.components.len())].to_vec(),
                }),
                codes: parts.codes[part(parts.codes.len())].to_vec(),
                ..parts.clone()
            },
            queries: self.queries[part(self.queries.len())].to_vec(),
            config: self.config,
        }
    }

    /// Only one row: one query of one query head.
    fn only_row(&self, row: usize) -> Whole {
        let rows_per_group = self.shape.group_size * self.shape.num_queries;
        let mut alone = self.only_group(row / rows_per_group);
        alone.shape.group_size = 1;
        alone.shape.num_queries = 1;
        alone.queries = self.queries[row * self.shape.head_dim..][..self.shape.head_dim].to_vec();
        alone
    }
}

/// 6: each row alone gets the list it got among the others.
pub(crate) fn rows_stand_alone(device: &Device, case: LoopCase) -> TestCaseResult {
    let whole = Whole::new(&case);
    let among_others = whole.lists(&device.backend)?;
    let rows_per_group = whole.shape.group_size * whole.shape.num_queries;
    for (group, expected) in among_others.chunks(rows_per_group).enumerate() {
        let alone = whole.only_group(group).lists(&device.backend)?;
        prop_assert_eq!(&alone, expected, "group {}", group);
    }
    // One query instead of several changes the short-context rule by what the rule says.
    let mut no_rule = whole.clone();
    no_rule.config.short_context = false;
    for (row, expected) in no_rule.lists(&device.backend)?.into_iter().enumerate() {
        let alone = no_rule.only_row(row).lists(&device.backend)?;
        prop_assert_eq!(&alone, &[expected], "row {}", row);
    }
    Ok(())
}

/// 6: the same step again, and on other numbers of threads.
pub(crate) fn runs_and_threads(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 4,
        window: 16,
        heavy: 300,
        short_context: false,
        weights: true,
        ..SelectConfig::default()
    };
    let whole = Whole::small(5000, config);
    let mut selector = whole.selector(&device.backend, 0)?;
    let first = selector.select(whole.queries()).map_err(fail)?.clone();
    for _ in 0..20 {
        prop_assert!(selector.select(whole.queries()).map_err(fail)? == &first);
    }
    let backend = &device.backend;
    for num_threads in [1, 2, 3, 8] {
        let pool = ThreadPoolBuilder::new()
            .num_threads(num_threads)
            .build()
            .map_err(fail)?;
        pool.install(|| -> TestCaseResult {
            let mut selector = whole.selector(backend, 0)?;
            prop_assert!(selector.select(whole.queries()).map_err(fail)? == &first);
            Ok(())
        })?;
    }
    Ok(())
}
