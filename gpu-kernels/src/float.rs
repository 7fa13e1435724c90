//! The floating-point operations that `core` does not have.

/// `a * b + c` with a single rounding (IEEE 754 fusedMultiplyAdd), on either backend.
///
/// Everything else in the shared arithmetic is a plain `+`, rounded by itself: neither compiler
/// contracts `a * b + c` into this, so what is fused is exactly what is written as `fma`.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(target_arch = "nvptx64")]
    {
        crate::device::float::fma(a, b, c)
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        a.mul_add(b, c)
    }
}

/// The square root, correctly rounded (IEEE 754 squareRoot), on either backend.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    #[cfg(target_arch = "nvptx64")]
    {
        crate::device::float::sqrt(x)
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        x.sqrt()
    }
}
