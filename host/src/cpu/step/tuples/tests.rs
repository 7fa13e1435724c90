//! The guess at how good a tuple must be, which changes how many are looked at and not what is listed.

use super::*;
use crate::cpu::step::test_data::{numbers, shape};

/// Codes `[len]` below 2^bits without a pattern that matters.
fn codes(len: usize, bits: u32) -> Vec<u8> {
    numbers(len, 7, bits).collect()
}

#[test]
fn a_sample_is_of_candidates_at_even_distances() {
    let shape = shape(2, 3, 3000);
    let codes = codes(3000 * 2, 3);
    let scores: Vec<f32> = (0..64u8).map(|tuple| f32::from(tuple) - 20.5).collect();
    for (candidates, len, step) in [
        (100..2000, 256, 7),
        (11..211, 200, 1),
        (5..517, 256, 2),
        (5..516, 256, 1),
    ] {
        let sample = Sample::of(&shape, &codes, candidates.clone(), &scores);
        let key = |i: usize| {
            let code = candidates.start + i * step;
            order_key(scores[usize::from(codes[2 * code]) * 8 + usize::from(codes[2 * code + 1])])
        };
        let keys: Vec<u32> = (0..len).map(key).collect();
        assert_eq!(&sample.keys[..sample.len], keys);
        assert_eq!(sample.num_candidates, candidates.len());
    }
}

#[test]
fn a_floor_is_the_samples_score_a_little_further_than_expected() {
    // 256 of 1,600 candidates: the 100th best is expected in place 16, and looked for in place 30.
    let scores: Vec<f32> = (0..256u16).map(|i| f32::from(i) - 100.5).collect();
    let sample = |nan: usize| Sample {
        keys: std::array::from_fn(|i| {
            order_key(if i < nan {
                f32::NAN
            } else {
                scores[i * 77 % 256]
            })
        }),
        len: 256,
        num_candidates: 1600,
        widening: 1,
    };
    let mut usual = sample(0);
    assert_eq!(usual.floor(100), Some(scores[255 - 30]));
    usual.lower();
    assert_eq!(usual.floor(100), Some(scores[255 - 120]));
    usual.lower();
    assert_eq!(usual.floor(100), None);

    // Behind the last of them no score is known: 192 + 41 + 2 places are, 4 times as many are not.
    let mut many = sample(0);
    assert_eq!(many.floor(1200), Some(scores[255 - 235]));
    many.lower();
    assert_eq!(many.floor(1200), None);
    assert_eq!(sample(0).floor(1600), None);
    // NaN comes last: where it is reached, every tuple is looked at.
    let least = |from: usize| {
        (from..256)
            .map(|i| scores[i * 77 % 256])
            .fold(f32::MAX, f32::min)
    };
    assert_eq!(sample(225).floor(100), Some(least(225)));
    assert_eq!(sample(226).floor(100), None);
}

/// What the tuples that are looked at come to, of 4,096 tuples and 20,000 candidates.
#[test]
fn few_tuples_are_looked_at() {
    for simd in Simd::available() {
        let (keys, heavy) = (20_000, 100);
        let shape = shape(2, 6, keys as u32);
        let codes = codes(keys * 2, 6);
        let mut tuples = Tuples::new(&shape);
        tuples.append(&shape, &codes, 0..keys);
        assert_eq!(tuples.counts.iter().sum::<u32>(), keys as u32);
        let table: Vec<f32> = (0..128u16).map(|i| f32::from(i * 37 % 64)).collect();
        let mut room = Room::new(&shape);
        let mut positions = vec![0; heavy];
        tuples.score(simd, &shape, &table, &mut room);
        tuples.top_k(simd, &shape, &codes, 0..keys, &mut room, &mut positions);
        let picked = room.picked.len();
        assert!(picked <= 200, "{picked}");
    }
}

#[test]
fn tuples_without_candidates_are_not_looked_at() {
    for simd in Simd::available() {
        let shape = shape(2, 6, 20);
        let mut tuples = Tuples::new(&shape);
        tuples.append(&shape, &codes(40, 6), 0..20);
        let mut picked = Vec::new();
        let scores = vec![1.0; 4096];
        let candidates = pick(simd, &scores, &tuples.counts, None, &mut picked);
        let counts = picked
            .iter()
            .map(|&tuple| tuples.counts[tuple as u32 as usize]);
        assert_eq!((candidates, counts.clone().sum::<u32>()), (20, 20));
        assert!(counts.clone().all(|count| count > 0));
    }
}
