//! The scan against the definition of a deficit, key by key.

use super::*;
use crate::cpu::step::test_data::{numbers, shape};

/// A filter of a usual table, blocks of `keys` usual codes, and each key's deficit.
fn made(simd: Simd, m: usize, bits: u32, keys: usize) -> (Filter, Blocks, Vec<u16>) {
    let shape = shape(m as u32, bits, keys as u32);
    let table: Vec<f32> = numbers(m << bits, 3, 8).map(f32::from).collect();
    let mut filter = Filter::new(&shape);
    assert!(filter.look_at(simd, &table));
    filter.build(simd, &table);
    let codes: Vec<u8> = numbers(keys * m, 5, bits).collect();
    let mut blocks = Blocks::new(&shape);
    blocks.append(&shape, &codes, 0..keys);
    let rows = (1usize << bits).div_ceil(16);
    let entry = |(j, &code): (usize, &u8)| {
        u16::from(filter.rows[j * rows + usize::from(code) / 16][usize::from(code) % 16])
    };
    let deficits = codes
        .chunks(m)
        .map(|key| key.iter().enumerate().map(entry).sum());
    let deficits = deficits.collect();
    (filter, blocks, deficits)
}

const FORMATS: [(usize, u32); 7] = [(13, 1), (5, 3), (4, 4), (3, 5), (3, 6), (2, 7), (2, 8)];

/// With a cut that never changes: exactly the keys up to it, ascending, inside the range.
#[test]
fn a_scan_finds_the_keys_up_to_the_cut() {
    for simd in Simd::available() {
        for (m, bits) in FORMATS {
            let keys = 1000;
            let (filter, blocks, deficits) = made(simd, m, bits, keys);
            let mut sorted = deficits.clone();
            sorted.sort_unstable();
            for (candidates, rank) in [
                (0..1000, 300),
                (64..128, 0),
                (65..129, 900),
                (3..5, 999),
                (700..763, 500),
            ] {
                let cut = sorted[rank];
                let mut found = Found::new(keys.next_multiple_of(64));
                found.start(Search {
                    heavy_k: keys,
                    slack: filter.slack(),
                    largest: filter.largest,
                    cut,
                });
                blocks.scan(simd, &filter, candidates.clone(), &mut found);
                let is_found = |&code: &usize| deficits[code] <= cut;
                let expected: Vec<(u32, u16)> = candidates
                    .filter(is_found)
                    .map(|code| (code as u32, deficits[code]))
                    .collect();
                assert_eq!(
                    found.iter().collect::<Vec<_>>(),
                    expected,
                    "m={m} bits={bits}"
                );
            }
        }
    }
}

/// Whole blocks at even distances, a 32nd of all, at least one and at most 64.
#[test]
fn a_sample_is_of_whole_blocks_at_even_distances() {
    let simd = Simd::available()[0];
    for (m, bits) in [(4, 4), (3, 5)] {
        let (filter, blocks, deficits) = made(simd, m, bits, 140_000);
        for (candidates, len, step) in [
            (0..10_000, 4, 39),
            (64..10_000, 4, 38),
            (1..129, 1, 1),
            (1..127, 0, 0),
            (63..8192 + 64, 4, 32),
            (0..140_000, 64, 34),
        ] {
            let mut sample = [[0; BYTES]; Blocks::SAMPLE];
            let first = usize::next_multiple_of(candidates.start, BYTES);
            assert_eq!(
                blocks.sample(simd, &filter, candidates, &mut sample),
                len * BYTES
            );
            for (i, sample) in sample[..len].iter().enumerate() {
                assert_eq!(sample[..], deficits[first + i * step * BYTES..][..BYTES]);
            }
        }
    }
}

/// Those found first make the scan ask for more of the others.
#[test]
fn a_cut_falls_while_the_scan_goes_on() {
    for simd in Simd::available() {
        let (m, bits, keys, heavy_k) = (8, 8, 20_000, 50);
        let (filter, blocks, deficits) = made(simd, m, bits, keys);
        let mut found = Found::new(keys.next_multiple_of(64));
        let slack = filter.slack();
        let cut = i16::MAX as u16;
        found.start(Search {
            heavy_k,
            slack,
            largest: filter.largest,
            cut,
        });
        blocks.scan(simd, &filter, 0..keys, &mut found);
        let mut sorted = deficits.clone();
        sorted.sort_unstable();
        let needed = sorted[heavy_k - 1] + slack;
        let kept = |code: &usize| deficits[*code] <= needed;
        let listed: Vec<usize> = found.iter().map(|(code, _)| code as usize).collect();
        assert!((0..keys).filter(kept).all(|code| listed.contains(&code)));
        // How often and how far the cut falls decides it, the same on every instruction set.
        assert_eq!(listed.len(), 711);
    }
}
