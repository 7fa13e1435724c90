//! The bytes of words.

use core::arch::asm;

/// Four of the eight bytes of `low` and `high`, whose numbers are the digits of `selector`: `low`'s are 0 to 3.
#[inline(always)]
pub fn permute(low: u32, high: u32, selector: u32) -> u32 {
    let result: u32;
    // SAFETY: computes a word from words.
    unsafe {
        asm!("prmt.b32 {}, {}, {}, {};", out(reg32) result, in(reg32) low, in(reg32) high,
             in(reg32) selector, options(pure, nomem, nostack, preserves_flags))
    };
    result
}
