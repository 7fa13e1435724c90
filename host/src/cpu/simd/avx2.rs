//! AVX2 with fused multiply-add: pairs of 256-bit registers.

use std::arch::x86_64::*;

use super::{BYTES, FLOATS, Isa};

/// A processor with AVX2, FMA, BMI, LZCNT and POPCNT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        has.then_some(Avx2(()))
    }
}

/// An intrinsic on each half of its operands.
macro_rules! halves {
    ($intrinsic:ident($($x:expr),*)) => {
        // SAFETY: `self` is the proof that the processor has AVX2 and FMA.
        unsafe { [$intrinsic($($x[0]),*), $intrinsic($($x[1]),*)] }
    };
}

impl Avx2 {
    /// One half of [`Isa::look_up`]: a shuffle for each row of 16, then a tree of choices by the
    /// index's bits 4 to 7, each moved to where the choice looks for it, the byte's top.
    #[inline(always)]
    fn look_up_half<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: __m256i) -> __m256i {
        // SAFETY: `self` is the proof that the processor has AVX2; a row is 16 bytes.
        unsafe {
            let low = if ROWS == 1 {
                x
            } else {
                _mm256_and_si256(x, _mm256_set1_epi8(15))
            };
            let bit4 = _mm256_slli_epi16::<3>(x);
            let bit5 = _mm256_slli_epi16::<2>(x);
            let bit6 = _mm256_slli_epi16::<1>(x);
            // Macros, not closures: those would be compiled without AVX2.
            macro_rules! row {
                ($i:expr) => {{
                    let row = _mm_loadu_si128(table[$i].as_ptr().cast());
                    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(row), low)
                }};
            }
            macro_rules! two {
                ($i:expr) => {
                    _mm256_blendv_epi8(row!($i), row!($i + 1), bit4)
                };
            }
            macro_rules! four {
                ($i:expr) => {
                    _mm256_blendv_epi8(two!($i), two!($i + 2), bit5)
                };
            }
            macro_rules! eight {
                ($i:expr) => {
                    _mm256_blendv_epi8(four!($i), four!($i + 4), bit6)
                };
            }
            match ROWS {
                1 => row!(0),
                2 => two!(0),
                4 => four!(0),
                8 => eight!(0),
                16 => _mm256_blendv_epi8(eight!(0), eight!(8), x),
                _ => unreachable!("a table has 2^bits entries"),
            }
        }
    }
}

impl Isa for Avx2 {
    type Floats = [__m256; 2];
    type Bytes = [__m256i; 2];
    // 12 sums, two centroid registers and a broadcast: 15 of 16 registers.
    const KEYS_PER_TILE: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        // SAFETY: `self` is the proof that the processor has AVX2.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; FLOATS]) -> Self::Floats {
        let from = from.as_ptr();
        // SAFETY: as above; both halves are inside the array.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    fn store(self, x: Self::Floats, to: &mut [f32; FLOATS]) {
        let to = to.as_mut_ptr();
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(to, x[0]);
            _mm256_storeu_ps(to.add(8), x[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        halves!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        halves!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn at_least(self, a: Self::Floats, b: Self::Floats) -> u16 {
        // SAFETY: `self` is the proof that the processor has AVX2.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[0], b[0]));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[1], b[1]));
            low as u16 | ((high as u16) << 8)
        }
    }

    #[inline(always)]
    fn larger(
        self,
        best: (Self::Floats, Self::Floats),
        value: Self::Floats,
        index: Self::Floats,
    ) -> (Self::Floats, Self::Floats) {
        let (mut values, mut indices) = best;
        for i in 0..2 {
            // SAFETY: `self` is the proof that the processor has AVX2.
            unsafe {
                // "Not at most" is true of NaN in `values` too.
                let beats = _mm256_cmp_ps::<_CMP_NLE_UQ>(value[i], values[i]);
                let is_number = _mm256_cmp_ps::<_CMP_ORD_Q>(value[i], value[i]);
                let take = _mm256_and_ps(beats, is_number);
                values[i] = _mm256_blendv_ps(values[i], value[i], take);
                indices[i] = _mm256_blendv_ps(indices[i], index[i], take);
            }
        }
        (values, indices)
    }

    #[inline(always)]
    fn zero_bytes(self) -> Self::Bytes {
        // SAFETY: `self` is the proof that the processor has AVX2.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; BYTES]) -> Self::Bytes {
        let from = from.as_ptr();
        // SAFETY: as above; both halves are inside the array.
        unsafe {
            [
                _mm256_loadu_si256(from.cast()),
                _mm256_loadu_si256(from.add(32).cast()),
            ]
        }
    }

    #[inline(always)]
    fn store_bytes(self, x: Self::Bytes, to: &mut [u8; BYTES]) {
        let to = to.as_mut_ptr();
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_si256(to.cast(), x[0]);
            _mm256_storeu_si256(to.add(32).cast(), x[1]);
        }
    }

    #[inline(always)]
    fn add_saturating(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        halves!(_mm256_adds_epu8(a, b))
    }

    #[inline(always)]
    fn at_most(self, x: Self::Bytes, limit: u8) -> u64 {
        // SAFETY: `self` is the proof that the processor has AVX2.
        unsafe {
            let limit = _mm256_set1_epi8(limit as i8);
            let low = _mm256_cmpeq_epi8(_mm256_min_epu8(x[0], limit), x[0]);
            let high = _mm256_cmpeq_epi8(_mm256_min_epu8(x[1], limit), x[1]);
            let high = u64::from(_mm256_movemask_epi8(high) as u32);
            u64::from(_mm256_movemask_epi8(low) as u32) | (high << 32)
        }
    }

    #[inline(always)]
    fn low_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        // SAFETY: `self` is the proof that the processor has AVX2.
        let mask = unsafe { [_mm256_set1_epi8(15); 2] };
        halves!(_mm256_and_si256(x, mask))
    }

    #[inline(always)]
    fn high_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        // SAFETY: `self` is the proof that the processor has AVX2.
        let shifted = unsafe { [_mm256_srli_epi16::<4>(x[0]), _mm256_srli_epi16::<4>(x[1])] };
        self.low_nibbles(shifted)
    }

    #[inline(always)]
    fn look_up<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: Self::Bytes) -> Self::Bytes {
        [
            self.look_up_half(table, x[0]),
            self.look_up_half(table, x[1]),
        ]
    }
}
