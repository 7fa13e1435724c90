//! Steps by tuples whose blocks have several tiles of keys: every number of pieces that a warp looks up between two
//! barriers, one chunk and several, blocks that the context has not reached, every format.

use std::process::ExitCode;

use gpu_kernels::select_tuples::{KEYS_PER_CHUNK, KEYS_PER_PIECE, KEYS_PER_TILE};
use keysieve::cuda::Variant;
use keysieve_tests::device::{CUDA, Device, Suite, fail};
use keysieve_tests::oracle::Shape;
use keysieve_tests::shapes::one_row;
use keysieve_tests::steps::{STEPS, variant_of};
use keysieve_tests::strategies::{Fill, LoopCase, Palette};
use proptest::test_runner::TestCaseResult;

const TILE: usize = KEYS_PER_TILE as usize;
const CHUNK: usize = KEYS_PER_CHUNK as usize;

/// Sub-vectors, bits and components of a key.
type Format = (usize, u32, usize);

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for device in CUDA {
        suite.on_device(device, "reference_format", reference_format);
        suite.on_device(device, "two_codes", two_codes);
        suite.on_device(device, "other_numbers_of_codes", other_numbers_of_codes);
        suite.on_device(device, "no_candidates", no_candidates);
    }
    suite.run()
}

/// The format that has kernels of its own.
fn reference_format(device: &Device) -> TestCaseResult {
    all_lengths(device, &[(2, 6, 128)])
}

/// Codes that are loaded sixteen keys at a time.
fn two_codes(device: &Device) -> TestCaseResult {
    all_lengths(device, &[(2, 3, 8), (2, 4, 16), (2, 5, 32), (2, 6, 8)])
}

/// Codes that are loaded one by one.
fn other_numbers_of_codes(device: &Device) -> TestCaseResult {
    all_lengths(device, &[(1, 8, 16), (3, 4, 12), (4, 3, 8), (1, 3, 4)])
}

/// Contexts that end before the candidates' place, and just behind it: no block may look at the codes of the new key.
fn no_candidates(device: &Device) -> TestCaseResult {
    for format in [(2, 6, 128), (2, 4, 16)] {
        for sink in [0, 1, 20] {
            for num_codes in [0, 1, 15, 31, 32, 51, 52] {
                for window in [16, 32] {
                    let spare = if num_codes % 2 == 0 { 0 } else { 2 * TILE };
                    let mut case = case(format, num_codes, spare, 4);
                    (case.shape.init_offset, case.shape.sink) = (0, sink);
                    case.shape.window = window;
                    let by_graph = sink == 1;
                    variant_of(device, &case, false, by_graph, |variants| {
                        let is_by_tuples =
                            |variant: &&Variant| matches!(variant, Variant::Tuples(_));
                        variants.iter().find(is_by_tuples).copied()
                    })
                    .map_err(|error| {
                        fail(format!(
                            "{format:?}, {num_codes} codes, sink {sink}, window {window}: {error}"
                        ))
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// Lengths of contexts at which a block begins to do something else; with the ways of `formats` by turns.
fn all_lengths(device: &Device, formats: &[Format]) -> TestCaseResult {
    let piece = KEYS_PER_PIECE as usize;
    let lengths = [
        // One tile of two.
        TILE - STEPS,
        TILE - 1,
        TILE,
        // One piece of a second tile; two; more than two, than four, than eight tiles.
        TILE + piece / 2,
        2 * TILE - STEPS,
        2 * TILE,
        3 * TILE + 5 * piece + 3,
        4 * TILE + 1,
        7 * TILE - piece,
        8 * TILE - 1,
        11 * TILE + 3 * piece + 7,
        // A chunk that is full; a second of a key or two, of a tile, of more.
        CHUNK - STEPS,
        CHUNK - 1,
        CHUNK,
        CHUNK + TILE - piece,
        CHUNK + 2 * TILE - STEPS,
        CHUNK + 9 * TILE,
        // A third.
        2 * CHUNK + piece + 7,
    ];
    for (i, &num_codes) in lengths.iter().enumerate() {
        let format = formats[i % formats.len()];
        // The context ends in the last block; long before it; or just there.
        let spare = [0, 5 * TILE, 2 * TILE][i % 3];
        for tiles_per_block in [2, 4, 8, 16, 32, 64] {
            let case = case(format, num_codes, spare, i + tiles_per_block as usize);
            if case.shape.code_capacity <= TILE * tiles_per_block as usize / 2 {
                continue;
            }
            let by_graph = (i + tiles_per_block as usize / 2).is_multiple_of(2);
            let wide = i % 2 == 1;
            let has_these = |variant: &Variant| matches!(variant, Variant::Tuples(blocks) if blocks.tiles_per_block == tiles_per_block);
            variant_of(device, &case, wide, by_graph, |variants| {
                variants.iter().copied().find(has_these)
            })
            .map_err(|error| {
                fail(format!(
                    "{format:?}, {num_codes} codes and room for {spare} more, {tiles_per_block} tiles a block: {error}"
                ))
            })?;
        }
    }
    Ok(())
}

/// One row, sinks and a window of its own, and a lot or little to list.
fn case(format: Format, num_codes: usize, spare: usize, seed: usize) -> LoopCase {
    let (num_subvectors, bits, head_dim) = format;
    let code_capacity = num_codes + STEPS + spare;
    let shape = Shape {
        num_subvectors,
        bits,
        head_dim,
        init_offset: seed % 3,
        sink: [0, 5, 700][seed % 3],
        // Narrower than sixteen keys, codes are not loaded early.
        window: [32, 2, 600, 17][seed % 4],
        ..one_row(code_capacity, [128, 4096, 3000][seed % 3])
    };
    let palettes = [Palette::Usual, Palette::FewDistinct, Palette::Strewn];
    let fill = |seed: usize, palette| Fill {
        seed: seed as u64,
        palette,
    };
    LoopCase {
        shape,
        num_codes,
        appends: Vec::new(),
        weights: seed % 4 != 1,
        centroids: fill(seed, palettes[seed % 3]),
        augmentation: None,
        codes: fill(
            seed + 1,
            [Palette::Usual, Palette::FewDistinct][seed / 2 % 2],
        ),
        keys: Fill::usual(seed as u64 + 2),
        queries: fill(seed + 3, palettes[seed / 3 % 3]),
    }
}
