//! The shapes that the choice among variants is fitted to: from one row to many more than a chip has
//! multiprocessors, from short contexts to long ones, all kinds of formats. The numbers are of keys that a CPU
//! makes and encodes in two minutes.

use super::super::shape::{REFERENCE, SHAPES, Shape};

/// Codes of a key, bits of a code, components.
type Format = (usize, u32, usize);

/// Formats that the named shapes have.
const MAIN_FORMATS: [Format; 3] = [(2, 6, 128), (8, 8, 128), (16, 8, 128)];

/// Formats of every kind: few tuples, those that some kernel is made for, and those that none is.
const OTHER_FORMATS: [Format; 13] = [
    (1, 8, 128),
    (2, 4, 128),
    (3, 4, 96),
    (2, 6, 64),
    (2, 8, 128),
    (4, 6, 128),
    (4, 8, 128),
    (8, 4, 128),
    (8, 8, 64),
    (16, 4, 128),
    (16, 6, 128),
    (32, 4, 128),
    (32, 8, 128),
];

/// Sequences, query heads, key heads, tokens, heavy, weights. Those on the same keys follow each other.
type Load = (usize, usize, usize, usize, usize, bool);

const MAIN_LOADS: [Load; 20] = [
    (1, 1, 1, 32_768, 128, true),
    (1, 1, 1, 131_072, 1024, true),
    (1, 1, 1, 524_288, 2048, true),
    (1, 8, 8, 8192, 128, true),
    (1, 8, 8, 65_536, 512, true),
    (1, 8, 8, 524_288, 2048, false),
    (1, 32, 8, 131_072, 1024, false),
    (1, 32, 32, 2048, 128, true),
    (1, 32, 32, 8192, 128, true),
    (1, 32, 32, 32_000, 128, false),
    (1, 32, 32, 32_000, 1024, true),
    (1, 32, 32, 131_072, 128, false),
    (1, 32, 32, 131_072, 4096, true),
    (4, 32, 8, 32_768, 256, false),
    (4, 32, 32, 8192, 128, true),
    (8, 32, 8, 32_768, 256, false),
    (16, 32, 8, 16_384, 128, false),
    (64, 8, 8, 2048, 128, true),
    (64, 8, 8, 8192, 128, false),
    (64, 8, 8, 8192, 512, true),
];

const OTHER_LOADS: [Load; 6] = [
    (1, 1, 1, 131_072, 1024, true),
    (1, 8, 8, 16_384, 128, true),
    (1, 32, 32, 8192, 128, true),
    (1, 32, 32, 65_536, 512, true),
    (4, 32, 8, 16_384, 128, false),
    (16, 32, 8, 4096, 128, false),
];

/// All of them, the named ones first.
pub(in super::super) fn grid() -> Vec<Shape> {
    let of = |formats: &'static [Format], loads: &'static [Load]| {
        formats
            .iter()
            .flat_map(move |&format| loads.iter().map(move |&load| shape(format, load)))
    };
    let is_new = |shape: &Shape| SHAPES.iter().all(|named| !is_same(shape, named));
    let main = of(&MAIN_FORMATS, &MAIN_LOADS).filter(is_new);
    let others = of(&OTHER_FORMATS, &OTHER_LOADS);
    SHAPES.into_iter().chain(main).chain(others).collect()
}

/// Whether they differ at most in their names.
fn is_same(shape: &Shape, other: &Shape) -> bool {
    let named = Shape {
        name: other.name,
        ..shape.clone()
    };
    named == *other
}

fn shape(format: Format, load: Load) -> Shape {
    let (num_subvectors, bits, head_dim) = format;
    let (batch, num_qo_heads, num_kv_heads, tokens, heavy, weights) = load;
    Shape {
        name: "grid",
        batch,
        num_qo_heads,
        num_kv_heads,
        tokens,
        head_dim,
        num_subvectors,
        bits,
        heavy,
        weights,
        ..REFERENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_sound_and_differ() {
        let grid = grid();
        for (i, shape) in grid.iter().enumerate() {
            shape.check().unwrap();
            assert!(
                !grid[..i].iter().any(|other| is_same(shape, other)),
                "{shape:?}"
            );
        }
        let keys_made: usize = grid
            .iter()
            .enumerate()
            .filter(|&(i, shape)| i == 0 || !shape.has_keys_of(&grid[i - 1]))
            .map(|(_, shape)| shape.groups() * shape.tokens)
            .sum();
        assert!(keys_made < 160_000_000, "{keys_made}");
    }
}
