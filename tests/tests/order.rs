//! The total order's integer keys, against the order of numbers itself: every half, and f32 of every
//! exponent.

use gpu_kernels::order::{order_key, rank, rank_of_key, rank_position, score_of_key};
use half::{bf16, f16};
use keysieve_tests::oracle;
use keysieve_tests::strategies::Random;

const SIGN: u32 = 1 << 31;

/// Fails unless NaN has key 0 alone, numbers' keys stand as the numbers do in f64, equal numbers
/// share a key and others do not, and a key gives its score back.
fn check_keys(scores: &[f32]) {
    let mut numbers: Vec<(f64, u32, f32)> = Vec::new();
    for &score in scores {
        let key = order_key(score);
        let back = score_of_key(key);
        if score.is_nan() {
            assert_eq!(key, 0, "{:#x}", score.to_bits());
            assert!(back.is_nan());
            continue;
        }
        assert_ne!(key, 0, "{score:?}");
        let expected = if score == 0.0 { 0 } else { score.to_bits() };
        assert_eq!(back.to_bits(), expected, "{score:?}");
        numbers.push((f64::from(score), key, score));
    }
    numbers.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
    for pair in numbers.windows(2) {
        let [(low, low_key, _), (high, high_key, _)] = [pair[0], pair[1]];
        let expected = low.partial_cmp(&high).unwrap();
        assert_eq!(low_key.cmp(&high_key), expected, "{pair:?}");
    }
}

/// Every exponent with mantissas dense at both ends, of one bit, and any; both signs; neighbours.
fn sample() -> Vec<f32> {
    let mut random = Random::new(3);
    let mut mantissas: Vec<u32> = (0..64).chain(0x7f_ffc0..0x80_0000).collect();
    mantissas.extend((0..23).flat_map(|bit| [1 << bit, (1 << bit) - 1, (1 << bit) + 1]));
    mantissas.extend((0..1000).map(|_| random.bits() as u32 & 0x7f_ffff));
    let mut scores = Vec::new();
    for exponent in 0..256u32 {
        for &mantissa in &mantissas {
            let bits = (exponent << 23) | mantissa;
            for bits in [bits, bits.wrapping_add(1), bits.wrapping_sub(1)] {
                scores.push(f32::from_bits(bits));
                scores.push(f32::from_bits(bits ^ SIGN));
            }
        }
    }
    scores
}

#[test]
fn every_half_keeps_its_place() {
    let f16s: Vec<f32> = (0..=u16::MAX)
        .map(|bits| f16::from_bits(bits).to_f32())
        .collect();
    let bf16s: Vec<f32> = (0..=u16::MAX)
        .map(|bits| bf16::from_bits(bits).to_f32())
        .collect();
    // Widened, they are what they were: 2 x 1023 and 2 x 127 NaN, two zeros, the rest distinct.
    assert_eq!(f16s.iter().filter(|score| score.is_nan()).count(), 2046);
    assert_eq!(bf16s.iter().filter(|score| score.is_nan()).count(), 254);
    for halves in [&f16s, &bf16s] {
        let mut keys: Vec<u32> = halves.iter().map(|&score| order_key(score)).collect();
        keys.sort();
        keys.dedup();
        let nans = halves.iter().filter(|score| score.is_nan()).count();
        // One key for all NaN, and one for both zeros.
        assert_eq!(keys.len(), (1 << 16) - (nans - 1) - 1);
        check_keys(halves);
    }
    check_keys(&[f16s, bf16s].concat());
}

#[test]
fn every_exponent_keeps_its_place() {
    let scores = sample();
    assert!(scores.len() > 1_000_000, "{}", scores.len());
    check_keys(&scores);
}

#[test]
fn keys_between_the_infinities_are_scores() {
    let [lowest, highest] = [f32::NEG_INFINITY, f32::INFINITY].map(order_key);
    // All 2^32 keys in strides that reach every low byte, and all around the borders.
    let strided = (0..=u32::MAX).step_by(4099);
    let around = [0, lowest, SIGN, highest].into_iter();
    let around = around
        .flat_map(|key| (0..5000).flat_map(move |by| [key.wrapping_add(by), key.wrapping_sub(by)]));
    for key in strided.chain(around) {
        let score = score_of_key(key);
        let is_number = (lowest..=highest).contains(&key);
        assert_eq!(!score.is_nan(), is_number, "{key:#x}");
        // -0.0 has the key of +0.0: its own bits are nobody's key.
        let expected = match key {
            _ if !is_number => 0,
            key if key == SIGN - 1 => SIGN,
            key => key,
        };
        assert_eq!(order_key(score), expected, "{key:#x}");
    }
}

#[test]
fn ranks_are_the_order_of_score_and_position() {
    let scores = sample();
    let mut random = Random::new(4);
    let positions = [
        0,
        1,
        2,
        31,
        32,
        (1 << 24) - 1,
        1 << 24,
        u32::MAX - 1,
        u32::MAX,
    ];
    for _ in 0..500_000 {
        let mut score = || match random.below(8) {
            0 => [
                f32::NAN,
                -f32::NAN,
                0.0,
                -0.0,
                f32::INFINITY,
                f32::NEG_INFINITY,
            ][random.below(6)],
            _ => scores[random.below(scores.len())],
        };
        let [a, mut b] = [score(), score()];
        if random.below(3) == 0 {
            b = a;
        }
        let [p, q] = [(); 2].map(|()| positions[random.below(positions.len())]);
        let expected = oracle::order((a, p as usize), (b, q as usize));
        // The larger rank stands before.
        assert_eq!(
            rank(b, q).cmp(&rank(a, p)),
            expected,
            "{a:?} at {p}, {b:?} at {q}"
        );
        assert_eq!(rank_position(rank(a, p)), p);
        assert_eq!(rank_of_key(order_key(a), p), rank(a, p));
    }
}
