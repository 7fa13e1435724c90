//! Floating-point instructions.

use core::arch::asm;

/// `value` rounded towards zero, clamped to what a u32 holds; NaN gives 0. One instruction, where
/// `as u32` takes several.
#[inline(always)]
pub fn to_u32(value: f32) -> u32 {
    let result: u32;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("cvt.rzi.u32.f32 {}, {};", out(reg32) result, in(reg32) value,
             options(pure, nomem, nostack, preserves_flags))
    };
    result
}

/// `fma.rn.f32`.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    core::intrinsics::fmaf32(a, b, c)
}

/// `sqrt.rn.f32`.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    let result: f32;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("sqrt.rn.f32 {}, {};", out(reg32) result, in(reg32) x,
             options(pure, nomem, nostack, preserves_flags))
    };
    result
}

/// The number that these bits of IEEE half precision stand for.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let result: f32;
    // SAFETY: arithmetic on registers.
    unsafe {
        asm!("cvt.f32.f16 {}, {};", out(reg32) result, in(reg16) bits,
             options(pure, nomem, nostack, preserves_flags))
    };
    result
}
