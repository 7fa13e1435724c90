//! What most of the contract's tests start from: a whole index, its queries and its selector.

use keysieve::{Backend, IndexParts, KeyIndex, Queries, SelectConfig, Selector};
use keysieve_tests::device::fail;
use keysieve_tests::oracle::Shape;
use keysieve_tests::shapes::{index_parts, select_config};
use keysieve_tests::strategies::{Budget, Fill, LoopCase, loop_cases};
use proptest::strategy::Strategy;
use proptest::test_runner::TestCaseError;

pub(crate) fn whole_cases() -> impl Strategy<Value = LoopCase> {
    loop_cases(Budget {
        elements: 1 << 13,
        components: true,
    })
}

/// An index and its queries, made from a case without its appends.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    pub(crate) shape: Shape,
    pub(crate) parts: IndexParts,
    pub(crate) queries: Vec<f32>,
    pub(crate) config: SelectConfig,
}

impl Whole {
    pub(crate) fn new(case: &LoopCase) -> Self {
        let shape = case.shape;
        Whole {
            shape,
            parts: index_parts(case, case.centroids),
            queries: case.queries.floats(shape.num_rows() * shape.head_dim),
            config: select_config(&shape, false),
        }
    }

    /// A small one of ordinary numbers: `[2 batch, 2 kv heads, 2 query heads each, 1 query]`.
    pub(crate) fn small(num_codes: usize, config: SelectConfig) -> Self {
        let shape = Shape {
            batch: 2,
            num_kv_heads: 2,
            group_size: 2,
            num_queries: 1,
            head_dim: 8,
            num_subvectors: 2,
            bits: 4,
            init_offset: 4,
            code_capacity: num_codes,
            sink: config.sink,
            window: config.window,
            heavy: config.heavy,
            short_context: config.short_context,
            list_stride: 1,
            weights_stride: 0,
            ..Shape::default()
        };
        let case = LoopCase {
            shape,
            num_codes,
            appends: Vec::new(),
            weights: false,
            centroids: Fill::usual(1),
            augmentation: None,
            codes: Fill::usual(2),
            keys: Fill::usual(3),
            queries: Fill::usual(4),
        };
        Whole {
            config,
            ..Whole::new(&case)
        }
    }

    pub(crate) fn seq_len(&self) -> usize {
        self.shape.init_offset + self.parts.num_codes
    }

    pub(crate) fn selector(
        &self,
        backend: &Backend,
        spare: usize,
    ) -> Result<Selector, TestCaseError> {
        let index = KeyIndex::from_parts(self.parts.clone(), self.seq_len() + spare);
        let (heads, queries) = (self.shape.num_qo_heads(), self.shape.num_queries);
        Selector::new(backend, index.map_err(fail)?, self.config, heads, queries).map_err(fail)
    }

    pub(crate) fn queries(&self) -> Queries<'_> {
        Queries {
            data: &self.queries,
            batch: self.shape.batch,
            num_qo_heads: self.shape.num_qo_heads(),
            num_queries: self.shape.num_queries,
            head_dim: self.shape.head_dim,
        }
    }

    /// Every row's list, without padding.
    pub(crate) fn lists(&self, backend: &Backend) -> Result<Vec<Vec<i32>>, TestCaseError> {
        let mut selector = self.selector(backend, 0)?;
        let selection = selector.select(self.queries()).map_err(fail)?;
        let stride = selection.list_stride();
        let lists = selection
            .padded_positions()
            .chunks(stride)
            .zip(selection.lengths());
        Ok(lists
            .map(|(list, &len)| list[..len as usize].to_vec())
            .collect())
    }
}
