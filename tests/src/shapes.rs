//! The smallest shape, and what the library is told of a shape.

use keysieve::{Aggregation, Augmentation, IndexParts, Metric, PqConfig, SelectConfig};

use crate::oracle::{self, Shape};
use crate::strategies::{Fill, LoopCase};

/// One query of one head over `keys` candidates, of one component and one bit; nothing is listed
/// but the heavy ones.
pub fn one_row(keys: usize, heavy: usize) -> Shape {
    Shape {
        batch: 1,
        num_kv_heads: 1,
        group_size: 1,
        num_queries: 1,
        head_dim: 1,
        num_subvectors: 1,
        bits: 1,
        init_offset: 0,
        code_capacity: keys,
        sink: 0,
        window: 0,
        heavy,
        short_context: false,
        list_stride: 1,
        weights_stride: 0,
        ..Shape::default()
    }
}

/// The oracle's augmentation as the library's.
pub fn library_augmentation(augmentation: oracle::Augmentation) -> Augmentation {
    let oracle::Augmentation { phis, components } = augmentation;
    Augmentation { phis, components }
}

/// The library's augmentation as the oracle's.
pub fn oracle_augmentation(augmentation: Augmentation) -> oracle::Augmentation {
    let Augmentation { phis, components } = augmentation;
    oracle::Augmentation { phis, components }
}

/// The format of that shape.
pub fn pq_config(shape: &Shape) -> PqConfig {
    PqConfig {
        num_subvectors: shape.num_subvectors,
        bits: shape.bits,
        init_offset: shape.init_offset,
        metric: Metric::L2,
    }
}

/// The regions of that shape.
pub fn select_config(shape: &Shape, weights: bool) -> SelectConfig {
    SelectConfig {
        sink: shape.sink,
        window: shape.window,
        heavy: shape.heavy,
        short_context: shape.short_context,
        weights,
        causal: shape.causal,
        aggregation: aggregation(shape.aggregation),
        scores: shape.scores_stride > 0,
        indices: None,
    }
}

/// The library's name of it.
pub fn aggregation(aggregation: oracle::Aggregation) -> Aggregation {
    match aggregation {
        oracle::Aggregation::PerHead => Aggregation::PerHead,
        oracle::Aggregation::Softmax => Aggregation::SoftmaxSum,
        oracle::Aggregation::Max => Aggregation::Max,
        oracle::Aggregation::Mean => Aggregation::Mean,
    }
}

/// The case's index before its first append, with those centroids.
pub fn index_parts(case: &LoopCase, centroids: Fill) -> IndexParts {
    let shape = &case.shape;
    let codes_len = shape.groups() * case.num_codes * shape.num_subvectors;
    let augmentation = case.augmentation.map(|fill| fill.augmentation(shape));
    IndexParts {
        config: PqConfig {
            metric: match augmentation {
                None => Metric::L2,
                Some(_) => Metric::Ip,
            },
            ..pq_config(shape)
        },
        batch: shape.batch,
        num_kv_heads: shape.num_kv_heads,
        head_dim: shape.head_dim,
        num_codes: case.num_codes,
        centroids: centroids.floats(shape.centroids_len()),
        augmentation: augmentation.map(library_augmentation),
        codes: case.codes.codes(codes_len, shape.bits),
    }
}
