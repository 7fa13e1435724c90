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

/// `sum` and the products of the two halves of `halves` with the two lower bytes of `bytes`, wrapping.
#[inline(always)]
pub fn dot2_low(halves: u32, bytes: u32, sum: u32) -> u32 {
    let result: u32;
    // SAFETY: computes a word from words.
    unsafe {
        asm!("dp2a.lo.u32.u32 {}, {}, {}, {};", out(reg32) result, in(reg32) halves, in(reg32) bytes,
             in(reg32) sum, options(pure, nomem, nostack, preserves_flags))
    };
    result
}

/// [`dot2_low`] with the two upper bytes.
#[inline(always)]
pub fn dot2_high(halves: u32, bytes: u32, sum: u32) -> u32 {
    let result: u32;
    // SAFETY: computes a word from words.
    unsafe {
        asm!("dp2a.hi.u32.u32 {}, {}, {}, {};", out(reg32) result, in(reg32) halves, in(reg32) bytes,
             in(reg32) sum, options(pure, nomem, nostack, preserves_flags))
    };
    result
}
