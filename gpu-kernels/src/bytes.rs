//! Four bytes of a word at a time.

/// The top bit of each byte.
const TOPS: u32 = 0x8080_8080;

/// The top bit of each byte of `word` that is at most the same byte of `limits`.
#[inline(always)]
pub fn at_most(word: u32, limits: u32) -> u32 {
    // Of two bytes with the same top bit the others decide, whose difference borrows from no neighbour.
    let others = (limits | TOPS) - (word & !TOPS);
    ((!word & limits) | (!(word ^ limits) & others)) & TOPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_bytes_is_compared_in_every_place() {
        for byte in 0..=255u8 {
            for limit in 0..=255u8 {
                // Neighbours that would lend or take.
                let word = u32::from_le_bytes([byte, 0, byte, 255]);
                let limits = u32::from_le_bytes([limit, 255, limit, 0]);
                let expected = if byte <= limit { 0x80 } else { 0 };
                assert_eq!(
                    at_most(word, limits).to_le_bytes(),
                    [expected, 0x80, expected, 0],
                    "{byte} <= {limit}"
                );
                let word = u32::from_le_bytes([255, byte, 0, byte]);
                let limits = u32::from_le_bytes([0, limit, 255, limit]);
                assert_eq!(
                    at_most(word, limits).to_le_bytes(),
                    [0, expected, 0x80, expected],
                    "{byte} <= {limit}"
                );
            }
        }
    }
}
