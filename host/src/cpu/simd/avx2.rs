//! AVX2 with fused multiply-add: floats in pairs of 256-bit registers, bytes in two parts of a block.

use std::arch::x86_64::*;

use super::{BYTES, FLOATS, IntLanes, Isa, Kind, Simd};

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

impl Isa for Avx2 {
    type Floats = [__m256; 2];
    type Ints = [__m256i; 2];
    type Bytes = __m256i;
    /// Of each pair of lanes: the sum of both as one 16-bit number, and the sum of the upper ones.
    type Sums = [__m256i; 2];
    const PARTS: usize = 2;
    // 12 sums, two centroid registers and a broadcast: 15 of 16 registers.
    const KEYS_PER_TILE: usize = 6;

    #[inline(always)]
    fn simd(self) -> Simd {
        Simd(Kind::Avx2(self))
    }

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
    fn splat_int(self, x: i32) -> Self::Ints {
        // SAFETY: `self` is the proof that the processor has AVX2.
        unsafe { [_mm256_set1_epi32(x); 2] }
    }

    #[inline(always)]
    fn load_ints(self, from: &IntLanes) -> Self::Ints {
        let from = from.0.as_ptr();
        // SAFETY: as above; both halves are inside the array, which is aligned.
        unsafe {
            [
                _mm256_load_si256(from.cast()),
                _mm256_load_si256(from.add(8).cast()),
            ]
        }
    }

    #[inline(always)]
    fn store_ints(self, x: Self::Ints, to: &mut IntLanes) {
        let to = to.0.as_mut_ptr();
        // SAFETY: as above.
        unsafe {
            _mm256_store_si256(to.cast(), x[0]);
            _mm256_store_si256(to.add(8).cast(), x[1]);
        }
    }

    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        halves!(_mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn min_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        halves!(_mm256_min_epi32(a, b))
    }

    #[inline(always)]
    fn max_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        halves!(_mm256_max_epi32(a, b))
    }

    #[inline(always)]
    fn add_products(self, sums: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        self.add_ints(sums, halves!(_mm256_madd_epi16(a, b)))
    }

    #[inline(always)]
    fn with_low_byte(self, x: Self::Ints, byte: Self::Ints) -> Self::Ints {
        let upper = self.splat_int(!255);
        let upper = halves!(_mm256_and_si256(x, upper));
        halves!(_mm256_or_si256(upper, byte))
    }

    #[inline(always)]
    fn exceeds(self, a: Self::Ints, b: Self::Ints) -> u16 {
        let above = halves!(_mm256_cmpgt_epi32(a, b));
        // SAFETY: `self` is the proof that the processor has AVX2.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_castsi256_ps(above[0]));
            let high = _mm256_movemask_ps(_mm256_castsi256_ps(above[1]));
            low as u16 | ((high as u16) << 8)
        }
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; BYTES], part: usize) -> Self::Bytes {
        let from: &[u8; 32] = &from.as_chunks().0[part];
        // SAFETY: as above; 32 bytes are read.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        // SAFETY: as above.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn add_widened(self, sums: Self::Sums, x: Self::Bytes) -> Self::Sums {
        // SAFETY: as above.
        unsafe {
            [
                _mm256_add_epi16(sums[0], x),
                _mm256_add_epi16(sums[1], _mm256_srli_epi16::<8>(x)),
            ]
        }
    }

    #[inline(always)]
    fn at_most(self, sums: Self::Sums, limit: u16) -> u64 {
        // SAFETY: as above.
        unsafe {
            let limit = _mm256_set1_epi16(limit as i16);
            let [even, odd] = even_and_odd(sums);
            let even = _mm256_cmpgt_epi16(even, limit);
            let odd = _mm256_cmpgt_epi16(odd, limit);
            let upper = _mm256_set1_epi16(-256);
            let above = _mm256_blendv_epi8(even, odd, upper);
            u64::from(!(_mm256_movemask_epi8(above) as u32))
        }
    }

    #[inline(always)]
    fn store_sums(self, sums: Self::Sums, to: &mut [u16; BYTES], part: usize) {
        let to: &mut [u16; 32] = &mut to.as_chunks_mut().0[part];
        let to = to.as_mut_ptr();
        // SAFETY: as above; 32 numbers are written.
        unsafe {
            let [even, odd] = even_and_odd(sums);
            // Lanes 0 to 7 and 16 to 23, 8 to 15 and 24 to 31.
            let low = _mm256_unpacklo_epi16(even, odd);
            let high = _mm256_unpackhi_epi16(even, odd);
            let first = _mm256_permute2x128_si256::<0x20>(low, high);
            let second = _mm256_permute2x128_si256::<0x31>(low, high);
            _mm256_storeu_si256(to.cast(), first);
            _mm256_storeu_si256(to.add(16).cast(), second);
        }
    }

    #[inline(always)]
    fn low_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        // SAFETY: `self` is the proof that the processor has AVX2.
        unsafe { _mm256_and_si256(x, _mm256_set1_epi8(15)) }
    }

    #[inline(always)]
    fn high_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        // SAFETY: as above.
        self.low_nibbles(unsafe { _mm256_srli_epi16::<4>(x) })
    }

    /// A shuffle for each row of 16, then a tree of choices by the index's bits 4 to 7, each moved to
    /// where the choice looks for it, the byte's top.
    #[inline(always)]
    fn look_up<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: Self::Bytes) -> Self::Bytes {
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

/// The sums of the even and of the odd lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn even_and_odd([both, odd]: [__m256i; 2]) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe { [_mm256_sub_epi16(both, _mm256_slli_epi16::<8>(odd)), odd] }
}
