//! The shapes that are measured.

use keysieve::config::{MAX_BITS, MAX_HEAD_DIM, MAX_HEAVY, MAX_SUBVECTORS, MAX_TOKENS};
use keysieve::{Error, PqConfig, SelectConfig};
use serde::Serialize;

use crate::cli::options::whole;

/// Sequences and heads beyond this are a slip of the finger.
const MAX_BATCH: usize = 1 << 16;

/// One step's workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) batch: usize,
    pub(super) num_qo_heads: usize,
    pub(super) num_kv_heads: usize,
    /// Positions of the context, the step's new one included.
    pub(super) tokens: usize,
    pub(super) head_dim: usize,
    pub(super) num_subvectors: usize,
    pub(super) bits: u32,
    pub(super) init_offset: usize,
    pub(super) sink: usize,
    pub(super) window: usize,
    pub(super) heavy: usize,
    pub(super) weights: bool,
}

/// The reference workload; the others differ from it.
pub(super) const REFERENCE: Shape = Shape {
    name: "reference",
    batch: 1,
    num_qo_heads: 32,
    num_kv_heads: 32,
    tokens: 32_000,
    head_dim: 128,
    num_subvectors: 2,
    bits: 6,
    init_offset: 128,
    sink: 128,
    window: 128,
    heavy: 128,
    weights: true,
};

/// The loads that the project is measured by.
pub(super) const SHAPES: [Shape; 8] = [
    REFERENCE,
    Shape {
        name: "tokens-131072",
        tokens: 131_072,
        heavy: 1024,
        ..REFERENCE
    },
    Shape {
        name: "tokens-524288",
        tokens: 524_288,
        heavy: 2048,
        ..REFERENCE
    },
    Shape {
        name: "tokens-524288-lists",
        tokens: 524_288,
        heavy: 2048,
        weights: false,
        ..REFERENCE
    },
    Shape {
        name: "subvectors-8",
        num_subvectors: 8,
        bits: 8,
        ..REFERENCE
    },
    Shape {
        name: "subvectors-16",
        tokens: 131_072,
        num_subvectors: 16,
        bits: 8,
        heavy: 1024,
        ..REFERENCE
    },
    Shape {
        name: "grouped-heads",
        batch: 8,
        num_kv_heads: 8,
        tokens: 32_768,
        heavy: 256,
        weights: false,
        ..REFERENCE
    },
    Shape {
        name: "batch-64",
        batch: 64,
        num_qo_heads: 8,
        num_kv_heads: 8,
        tokens: 8192,
        weights: false,
        ..REFERENCE
    },
];

/// A named shape, and what is different from it.
#[derive(Debug, clap::Args)]
pub(super) struct ShapeArgs {
    /// The load measured; the options below change it
    #[arg(long, value_name = "NAME", default_value = REFERENCE.name,
          value_parser = SHAPES.map(|shape| shape.name))]
    shape: String,
    /// Sequences
    #[arg(long, value_name = "N", value_parser = whole(1, MAX_BATCH))]
    batch: Option<usize>,
    /// Query heads
    #[arg(long, value_name = "N", value_parser = whole(1, MAX_BATCH))]
    heads: Option<usize>,
    /// Key heads, a divisor of the query heads; --heads alone sets both
    #[arg(long, value_name = "N", value_parser = whole(1, MAX_BATCH))]
    kv_heads: Option<usize>,
    /// Positions of the context, the step's new one included
    #[arg(long, value_name = "N", value_parser = whole(1, MAX_TOKENS))]
    tokens: Option<usize>,
    /// Components of a key
    #[arg(long, value_name = "N", value_parser = whole(1, MAX_HEAD_DIM))]
    head_dim: Option<usize>,
    /// Sub-vectors a key is cut into, a divisor of head_dim
    #[arg(long, value_name = "M", value_parser = whole(1, MAX_SUBVECTORS))]
    subvectors: Option<usize>,
    /// Bits of a code
    #[arg(long, value_name = "BITS", value_parser = whole(1, MAX_BITS as usize))]
    bits: Option<usize>,
    /// First quantised position; --sink alone sets it too
    #[arg(long, value_name = "POSITION", value_parser = whole(0, MAX_TOKENS))]
    init_offset: Option<usize>,
    /// First positions, always listed
    #[arg(long, value_name = "N", value_parser = whole(0, MAX_TOKENS))]
    sink: Option<usize>,
    /// Last positions, always listed
    #[arg(long, value_name = "N", value_parser = whole(0, MAX_TOKENS))]
    window: Option<usize>,
    /// Best-scoring positions between them
    #[arg(long, value_name = "N", value_parser = whole(0, MAX_HEAVY))]
    heavy: Option<usize>,
    /// Write dense weights too
    #[arg(long)]
    weights: bool,
    /// Write the lists alone
    #[arg(long, conflicts_with = "weights")]
    no_weights: bool,
}

impl ShapeArgs {
    /// The shape asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming an option, for sizes that do not fit each other.
    pub(super) fn shape(&self) -> keysieve::Result<Shape> {
        let named = SHAPES.into_iter().find(|shape| shape.name == self.shape);
        let named = named.expect("clap accepts the names of SHAPES alone");
        let num_qo_heads = self.heads.unwrap_or(named.num_qo_heads);
        let shape = Shape {
            name: named.name,
            batch: self.batch.unwrap_or(named.batch),
            num_qo_heads,
            num_kv_heads: match (self.kv_heads, self.heads) {
                (Some(heads), _) => heads,
                (None, Some(heads)) => heads,
                (None, None) => named.num_kv_heads,
            },
            tokens: self.tokens.unwrap_or(named.tokens),
            head_dim: self.head_dim.unwrap_or(named.head_dim),
            num_subvectors: self.subvectors.unwrap_or(named.num_subvectors),
            bits: self.bits.map_or(named.bits, |bits| bits as u32),
            init_offset: self.init_offset.or(self.sink).unwrap_or(named.init_offset),
            sink: self.sink.unwrap_or(named.sink),
            window: self.window.unwrap_or(named.window),
            heavy: self.heavy.unwrap_or(named.heavy),
            weights: (named.weights || self.weights) && !self.no_weights,
        };
        let changed = Shape {
            name: "custom",
            ..shape.clone()
        };
        let shape = if shape == named { shape } else { changed };
        shape.check()?;
        Ok(shape)
    }
}

impl Shape {
    /// The GPU time of a step that a named shape is to take on an H200, in microseconds.
    pub(super) fn target_us(&self) -> Option<f64> {
        let target = match self.name {
            "reference" => 5.0,
            "tokens-131072" => 10.0,
            "tokens-524288" => 32.0,
            "tokens-524288-lists" => 14.0,
            "subvectors-8" => 9.0,
            "subvectors-16" => 45.0,
            "grouped-heads" | "batch-64" => 16.0,
            _ => return None,
        };
        Some(target)
    }

    pub(super) fn check(&self) -> keysieve::Result<()> {
        if !self.num_qo_heads.is_multiple_of(self.num_kv_heads) {
            let expected = format!("a divisor of the {} query heads", self.num_qo_heads);
            return Err(Error::invalid("--kv-heads", self.num_kv_heads, expected));
        }
        if !self.head_dim.is_multiple_of(self.num_subvectors) {
            let expected = format!("a divisor of head_dim {}", self.head_dim);
            return Err(Error::invalid(
                "--subvectors",
                self.num_subvectors,
                expected,
            ));
        }
        if self.tokens <= self.init_offset {
            let expected = format!("more than init_offset {}", self.init_offset);
            return Err(Error::invalid("--tokens", self.tokens, expected));
        }
        Ok(())
    }

    /// Whether both shapes are measured on one index.
    pub(super) fn has_keys_of(&self, other: &Shape) -> bool {
        let with_keys_of_other = Shape {
            name: other.name,
            num_qo_heads: other.num_qo_heads,
            sink: other.sink,
            window: other.window,
            heavy: other.heavy,
            weights: other.weights,
            ..self.clone()
        };
        with_keys_of_other == *other
    }

    /// (batch, key head) pairs.
    pub(super) fn groups(&self) -> usize {
        self.batch * self.num_kv_heads
    }

    /// (batch, query head) pairs: a step has one query for each.
    pub(super) fn rows(&self) -> usize {
        self.batch * self.num_qo_heads
    }

    /// Components of a sub-vector.
    pub(super) fn sub_dim(&self) -> usize {
        self.head_dim / self.num_subvectors
    }

    pub(super) fn pq(&self) -> PqConfig {
        PqConfig {
            num_subvectors: self.num_subvectors,
            bits: self.bits,
            init_offset: self.init_offset,
            ..PqConfig::default()
        }
    }

    pub(super) fn select(&self) -> SelectConfig {
        SelectConfig {
            sink: self.sink,
            window: self.window,
            heavy: self.heavy,
            weights: self.weights,
            ..SelectConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_shapes_are_sound() {
        for (i, shape) in SHAPES.iter().enumerate() {
            shape.check().unwrap();
            assert!(SHAPES[..i].iter().all(|other| other.name != shape.name));
            assert!(shape.target_us().is_some(), "{}", shape.name);
        }
    }

    #[test]
    fn one_index_serves_shapes_of_the_same_keys_alone() {
        let named = |name: &str| SHAPES.iter().find(|shape| shape.name == name).unwrap();
        let large = named("tokens-524288");
        assert!(named("tokens-524288-lists").has_keys_of(large));
        for (shape, other) in SHAPES.iter().zip(&SHAPES[1..]) {
            assert_eq!(other.has_keys_of(shape), shape.name == large.name);
        }
        assert_eq!(SHAPES[0].name, "reference");
    }
}
