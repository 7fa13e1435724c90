//! AVX-512: 512-bit registers, with whole byte tables in registers where VBMI permutes bytes.

use std::arch::x86_64::*;

use super::{BYTES, FLOATS, IntLanes, Isa, Kind, Simd};

/// A processor with AVX-512 F, BW, VL and DQ and all of AVX2's; `VBMI` says whether byte permutations
/// are there too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512<const VBMI: bool>(());

impl<const VBMI: bool> Avx512<VBMI> {
    pub(super) fn detect() -> Option<Self> {
        let has = super::Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && (!VBMI || is_x86_feature_detected!("avx512vbmi"));
        has.then_some(Avx512(()))
    }

    /// [`Isa::look_up`] by shuffles of 16 entries and choices by the index's upper bits.
    #[inline(always)]
    fn by_shuffles<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: __m512i) -> __m512i {
        // SAFETY: `self` is the proof that the processor has AVX-512 F and BW; a row is 16 bytes.
        unsafe {
            let low = if ROWS == 1 {
                x
            } else {
                _mm512_and_si512(x, _mm512_set1_epi8(15))
            };
            let bit4 = _mm512_test_epi8_mask(x, _mm512_set1_epi8(16));
            let bit5 = _mm512_test_epi8_mask(x, _mm512_set1_epi8(32));
            let bit6 = _mm512_test_epi8_mask(x, _mm512_set1_epi8(64));
            // Macros, not closures: those would be compiled without AVX-512.
            macro_rules! row {
                ($i:expr) => {{
                    let row = _mm_loadu_si128(table[$i].as_ptr().cast());
                    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(row), low)
                }};
            }
            macro_rules! two {
                ($i:expr) => {
                    _mm512_mask_blend_epi8(bit4, row!($i), row!($i + 1))
                };
            }
            macro_rules! four {
                ($i:expr) => {
                    _mm512_mask_blend_epi8(bit5, two!($i), two!($i + 2))
                };
            }
            macro_rules! eight {
                ($i:expr) => {
                    _mm512_mask_blend_epi8(bit6, four!($i), four!($i + 4))
                };
            }
            match ROWS {
                1 => row!(0),
                2 => two!(0),
                4 => four!(0),
                8 => eight!(0),
                16 => _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), eight!(0), eight!(8)),
                _ => unreachable!("a table has 2^bits entries"),
            }
        }
    }

    /// [`Isa::look_up`] by permutations of 64 and 128 entries.
    ///
    /// # Safety
    /// The processor has VBMI.
    #[inline(always)]
    unsafe fn by_permutations<const ROWS: usize>(
        self,
        table: &[[u8; 16]; ROWS],
        x: __m512i,
    ) -> __m512i {
        let table = table.as_flattened().as_ptr();
        // SAFETY: the caller's promise; tables of 4, 8 and 16 rows have 64, 128 and 256 bytes.
        unsafe {
            // Macros, not closures: those would be compiled without AVX-512.
            macro_rules! part {
                ($i:expr) => {
                    _mm512_loadu_si512(table.add(64 * $i).cast())
                };
            }
            macro_rules! two {
                ($i:expr) => {
                    _mm512_permutex2var_epi8(part!($i), x, part!($i + 1))
                };
            }
            match ROWS {
                4 => _mm512_permutexvar_epi8(x, part!(0)),
                8 => two!(0),
                16 => _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), two!(0), two!(2)),
                _ => unreachable!("smaller tables are shuffled"),
            }
        }
    }
}

impl<const VBMI: bool> Isa for Avx512<VBMI> {
    type Floats = __m512;
    type Ints = __m512i;
    type Bytes = __m512i;
    /// Of each pair of lanes: the sum of both as one 16-bit number, and the sum of the upper ones.
    type Sums = [__m512i; 2];
    const PARTS: usize = 1;
    // Enough sums to hide the latency of two multiply-adds a cycle, with half the registers free.
    const KEYS_PER_TILE: usize = 12;

    #[inline(always)]
    fn simd(self) -> Simd {
        Simd(if VBMI {
            Kind::Avx512Vbmi(Avx512(()))
        } else {
            Kind::Avx512(Avx512(()))
        })
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        // SAFETY: `self` is the proof that the processor has AVX-512 F.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; FLOATS]) -> Self::Floats {
        // SAFETY: as above; 16 floats are read.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, x: Self::Floats, to: &mut [f32; FLOATS]) {
        // SAFETY: as above; 16 floats are written.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: `self` is the proof that the processor has AVX-512 F.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn at_least(self, a: Self::Floats, b: Self::Floats) -> u16 {
        // SAFETY: as above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b) }
    }

    #[inline(always)]
    fn larger(
        self,
        best: (Self::Floats, Self::Floats),
        value: Self::Floats,
        index: Self::Floats,
    ) -> (Self::Floats, Self::Floats) {
        // SAFETY: as above.
        unsafe {
            // "Not at most" is true of NaN in `best` too.
            let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(value, value);
            let take = _mm512_mask_cmp_ps_mask::<_CMP_NLE_UQ>(is_number, value, best.0);
            (
                _mm512_mask_blend_ps(take, best.0, value),
                _mm512_mask_blend_ps(take, best.1, index),
            )
        }
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Self::Ints {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    fn load_ints(self, from: &IntLanes) -> Self::Ints {
        // SAFETY: as above; 16 integers are read, and aligned.
        unsafe { _mm512_load_si512(from.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_ints(self, x: Self::Ints, to: &mut IntLanes) {
        // SAFETY: as above; 16 integers are written, and aligned.
        unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), x) }
    }

    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: as above.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn min_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: as above.
        unsafe { _mm512_min_epi32(a, b) }
    }

    #[inline(always)]
    fn max_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: as above.
        unsafe { _mm512_max_epi32(a, b) }
    }

    #[inline(always)]
    fn add_products(self, sums: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: `self` is the proof that the processor has AVX-512 BW.
        unsafe { _mm512_add_epi32(sums, _mm512_madd_epi16(a, b)) }
    }

    #[inline(always)]
    fn with_low_byte(self, x: Self::Ints, byte: Self::Ints) -> Self::Ints {
        // SAFETY: as above.
        unsafe { _mm512_or_si512(_mm512_and_si512(x, _mm512_set1_epi32(!255)), byte) }
    }

    #[inline(always)]
    fn exceeds(self, a: Self::Ints, b: Self::Ints) -> u16 {
        // SAFETY: as above.
        unsafe { _mm512_cmpgt_epi32_mask(a, b) }
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; BYTES], _part: usize) -> Self::Bytes {
        // SAFETY: as above; 64 bytes are read.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        // SAFETY: as above.
        unsafe { [_mm512_setzero_si512(); 2] }
    }

    #[inline(always)]
    fn add_widened(self, sums: Self::Sums, x: Self::Bytes) -> Self::Sums {
        // SAFETY: `self` is the proof that the processor has AVX-512 BW.
        unsafe {
            [
                _mm512_add_epi16(sums[0], x),
                _mm512_add_epi16(sums[1], _mm512_srli_epi16::<8>(x)),
            ]
        }
    }

    #[inline(always)]
    fn at_most(self, sums: Self::Sums, limit: u16) -> u64 {
        // SAFETY: as above; and the processor has BMI2.
        unsafe {
            let limit = _mm512_set1_epi16(limit as i16);
            let [even, odd] = even_and_odd(sums);
            let even = u64::from(_mm512_cmple_epi16_mask(even, limit));
            let odd = u64::from(_mm512_cmple_epi16_mask(odd, limit));
            let every_second = 0x5555_5555_5555_5555;
            _pdep_u64(even, every_second) | _pdep_u64(odd, every_second << 1)
        }
    }

    #[inline(always)]
    fn store_sums(self, sums: Self::Sums, to: &mut [u16; BYTES], _part: usize) {
        let to = to.as_mut_ptr();
        // SAFETY: as above; 64 numbers are written.
        unsafe {
            let [even, odd] = even_and_odd(sums);
            // Each has four quarters of eight lanes, of every second quarter of the block.
            let low = _mm512_unpacklo_epi16(even, odd);
            let high = _mm512_unpackhi_epi16(even, odd);
            let quarters = [0u64, 1, 8, 9, 2, 3, 10, 11].map(|x| x as i64);
            let first = _mm512_loadu_si512(quarters.as_ptr().cast());
            let quarters = [4u64, 5, 12, 13, 6, 7, 14, 15].map(|x| x as i64);
            let second = _mm512_loadu_si512(quarters.as_ptr().cast());
            let first = _mm512_permutex2var_epi64(low, first, high);
            let second = _mm512_permutex2var_epi64(low, second, high);
            _mm512_storeu_si512(to.cast(), first);
            _mm512_storeu_si512(to.add(32).cast(), second);
        }
    }

    #[inline(always)]
    fn low_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        // SAFETY: as above.
        unsafe { _mm512_and_si512(x, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    fn high_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        // SAFETY: as above.
        self.low_nibbles(unsafe { _mm512_srli_epi16::<4>(x) })
    }

    #[inline(always)]
    fn look_up<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: Self::Bytes) -> Self::Bytes {
        if VBMI && ROWS >= 4 {
            // SAFETY: a value of this type exists only where VBMI was detected.
            unsafe { self.by_permutations(table, x) }
        } else {
            self.by_shuffles(table, x)
        }
    }
}

/// The sums of the even and of the odd lanes.
///
/// # Safety
/// The processor has AVX-512 BW.
#[inline(always)]
unsafe fn even_and_odd([both, odd]: [__m512i; 2]) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    unsafe { [_mm512_sub_epi16(both, _mm512_slli_epi16::<8>(odd)), odd] }
}
