//! The total order of (score, position): what "the best keys" means, everywhere.

/// The integer key of a score: a larger key is a better score.
///
/// Numbers keep their order, -0.0 and +0.0 share one key, and NaN of either sign has key 0,
/// below negative infinity's.
#[inline(always)]
pub fn order_key(score: f32) -> u32 {
    const SIGN: u32 = 1 << 31;
    if score.is_nan() {
        return 0;
    }
    // Adding +0.0 turns -0.0 into +0.0 and changes nothing else.
    let bits = (score + 0.0).to_bits();
    if bits & SIGN != 0 { !bits } else { bits | SIGN }
}

/// A score with that key: the one that went in, but +0.0 for both zeros and some NaN for NaN.
#[inline(always)]
pub fn score_of_key(key: u32) -> f32 {
    const SIGN: u32 = 1 << 31;
    if key == 0 {
        return f32::NAN;
    }
    f32::from_bits(if key & SIGN != 0 { key ^ SIGN } else { !key })
}

/// The [`rank`] of a score with key `key`.
#[inline(always)]
pub fn rank_of_key(key: u32, position: u32) -> u64 {
    (u64::from(key) << 32) | u64::from(!position)
}

/// One integer for the total order of (score descending, position ascending): the larger comes
/// first. Two candidates never share a rank, as positions differ.
#[inline(always)]
pub fn rank(score: f32, position: u32) -> u64 {
    rank_of_key(order_key(score), position)
}

/// The position that went into a [`rank`].
#[inline(always)]
pub fn rank_position(rank: u64) -> u32 {
    !(rank as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_order_of_numbers() {
        let ascending = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -f32::MIN_POSITIVE,
            -1e-45,
            0.0,
            1e-45,
            f32::MIN_POSITIVE,
            1.0,
            f32::MAX,
            f32::INFINITY,
        ];
        for score in ascending {
            assert_eq!(score_of_key(order_key(score)).to_bits(), score.to_bits());
        }
        assert!(score_of_key(order_key(f32::NAN)).is_nan());
        for pair in ascending.windows(2) {
            assert!(order_key(pair[0]) < order_key(pair[1]), "{pair:?}");
        }
        assert_eq!(order_key(-0.0), order_key(0.0));
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
            assert_eq!(order_key(nan), 0);
        }
    }

    #[test]
    fn rank_prefers_score_then_smaller_position() {
        assert!(rank(2.0, 9) > rank(1.0, 0));
        assert!(rank(1.0, 3) > rank(1.0, 4));
        assert!(rank(-0.0, 3) > rank(0.0, 4));
        assert_eq!(rank_position(rank(-7.5, 123)), 123);
    }
}
