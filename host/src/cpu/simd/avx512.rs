//! AVX-512 as Ice Lake has it: 512-bit registers, and permutations of bytes (VBMI), which keep whole byte
//! tables in registers.

use std::arch::x86_64::*;

use bytemuck::cast;

use super::{BYTES, FLOATS, IntLanes, Isa, Kind, Simd};

/// A processor with the AVX-512 of Ice Lake, VBMI among it, and all of AVX2's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(pub(crate) fearless_simd::x86::Avx512);

/// Of each pair of lanes: the sum of both as one 16-bit number, and the sum of the upper ones.
type Sums = [__m512i; 2];

/// The sums of the even and of the odd lanes.
#[inline]
#[target_feature(enable = "avx512bw")]
fn even_and_odd([both, odd]: Sums) -> [__m512i; 2] {
    [_mm512_sub_epi16(both, _mm512_slli_epi16::<8>(odd)), odd]
}

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        fearless_simd::Level::new().as_avx512().map(Avx512)
    }

    intrinsics! { Avx512:
        /// `row[x[i]]`; every `x[i]` is at most 15.
        fn shuffle(self, row: &[u8; 16], x: __m512i) -> __m512i {
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(cast(*row)), x)
        }

        /// `table[x[i]]`; every `x[i]` is at most 63.
        fn permute(self, table: &[[u8; 16]; 4], x: __m512i) -> __m512i {
            _mm512_permutexvar_epi8(x, cast(*table))
        }

        /// `table[x[i] & 127]`.
        fn permute_two(self, table: &[[[u8; 16]; 4]; 2], x: __m512i) -> __m512i {
            _mm512_permutex2var_epi8(cast(table[0]), x, cast(table[1]))
        }

        /// Which bytes have one of `bits`.
        fn have(self, x: __m512i, bits: i8) -> __mmask64 {
            _mm512_test_epi8_mask(x, _mm512_set1_epi8(bits))
        }

        /// Which bytes are at least 128.
        fn have_top(self, x: __m512i) -> __mmask64 {
            _mm512_movepi8_mask(x)
        }

        /// `b` where `take`, else `a`.
        fn choose(self, take: __mmask64, a: __m512i, b: __m512i) -> __m512i {
            _mm512_mask_blend_epi8(take, a, b)
        }
    }
}

impl Isa for Avx512 {
    type Floats = __m512;
    type Ints = __m512i;
    type Bytes = __m512i;
    type Sums = Sums;
    const PARTS: usize = 1;
    // Enough sums to hide the latency of two multiply-adds a cycle, with half the registers free.
    const KEYS_PER_TILE: usize = 12;

    #[inline(always)]
    fn simd(self) -> Simd {
        Simd(Kind::Avx512(self))
    }

    intrinsics! { Avx512:
        fn splat(self, x: f32) -> __m512 {
            _mm512_set1_ps(x)
        }

        fn load(self, from: &[f32; FLOATS]) -> __m512 {
            cast(*from)
        }

        fn store(self, x: __m512, to: &mut [f32; FLOATS]) {
            *to = cast(x);
        }

        fn add(self, a: __m512, b: __m512) -> __m512 {
            _mm512_add_ps(a, b)
        }

        fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }

        fn at_least(self, a: __m512, b: __m512) -> u16 {
            _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b)
        }

        fn larger(
            self,
            best: (__m512, __m512),
            value: __m512,
            index: __m512
        ) -> (__m512, __m512) {
            // "Not at most" is true of NaN in `best` too.
            let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(value, value);
            let take = _mm512_mask_cmp_ps_mask::<_CMP_NLE_UQ>(is_number, value, best.0);
            (
                _mm512_mask_blend_ps(take, best.0, value),
                _mm512_mask_blend_ps(take, best.1, index),
            )
        }

        fn splat_int(self, x: i32) -> __m512i {
            _mm512_set1_epi32(x)
        }

        fn load_ints(self, from: &IntLanes) -> __m512i {
            cast(from.0)
        }

        fn store_ints(self, x: __m512i, to: &mut IntLanes) {
            to.0 = cast(x);
        }

        fn add_ints(self, a: __m512i, b: __m512i) -> __m512i {
            _mm512_add_epi32(a, b)
        }

        fn min_ints(self, a: __m512i, b: __m512i) -> __m512i {
            _mm512_min_epi32(a, b)
        }

        fn max_ints(self, a: __m512i, b: __m512i) -> __m512i {
            _mm512_max_epi32(a, b)
        }

        fn add_products(self, sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
            _mm512_add_epi32(sums, _mm512_madd_epi16(a, b))
        }

        fn with_low_byte(self, x: __m512i, byte: __m512i) -> __m512i {
            _mm512_or_si512(_mm512_and_si512(x, _mm512_set1_epi32(!255)), byte)
        }

        fn exceeds(self, a: __m512i, b: __m512i) -> u16 {
            _mm512_cmpgt_epi32_mask(a, b)
        }

        fn load_bytes(self, from: &[u8; BYTES], _part: usize) -> __m512i {
            cast(*from)
        }

        fn zero_sums(self) -> Sums {
            [_mm512_setzero_si512(); 2]
        }

        fn add_widened(self, sums: Sums, x: __m512i) -> Sums {
            [
                _mm512_add_epi16(sums[0], x),
                _mm512_add_epi16(sums[1], _mm512_srli_epi16::<8>(x)),
            ]
        }

        fn at_most(self, sums: Sums, limit: u16) -> u64 {
            let limit = _mm512_set1_epi16(limit as i16);
            let [even, odd] = even_and_odd(sums);
            let even = u64::from(_mm512_cmple_epi16_mask(even, limit));
            let odd = u64::from(_mm512_cmple_epi16_mask(odd, limit));
            let every_second = 0x5555_5555_5555_5555;
            _pdep_u64(even, every_second) | _pdep_u64(odd, every_second << 1)
        }

        fn store_sums(self, sums: Sums, to: &mut [u16; BYTES], _part: usize) {
            let [even, odd] = even_and_odd(sums);
            // Each has four quarters of eight lanes, of every second quarter of the block.
            let low = _mm512_unpacklo_epi16(even, odd);
            let high = _mm512_unpackhi_epi16(even, odd);
            let first = cast([0u64, 1, 8, 9, 2, 3, 10, 11]);
            let second = cast([4u64, 5, 12, 13, 6, 7, 14, 15]);
            let first = _mm512_permutex2var_epi64(low, first, high);
            let second = _mm512_permutex2var_epi64(low, second, high);
            *to = cast([first, second]);
        }

        fn low_nibbles(self, x: __m512i) -> __m512i {
            _mm512_and_si512(x, _mm512_set1_epi8(15))
        }

        fn high_nibbles(self, x: __m512i) -> __m512i {
            _mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15))
        }
    }

    /// Up to 32 entries by shuffles of 16 and a choice, more by permutations of 64 and 128.
    #[inline(always)]
    fn look_up<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: Self::Bytes) -> Self::Bytes {
        let (parts, _) = table.as_chunks::<4>();
        let (pairs, _) = parts.as_chunks::<2>();
        match ROWS {
            1 => self.shuffle(&table[0], x),
            2 => {
                let (take, low) = (self.have(x, 16), self.low_nibbles(x));
                let (first, second) = (self.shuffle(&table[0], low), self.shuffle(&table[1], low));
                self.choose(take, first, second)
            }
            4 => self.permute(&parts[0], x),
            8 => self.permute_two(&pairs[0], x),
            16 => {
                // Before the permutations, which wait for it otherwise.
                let take = self.have_top(x);
                let (first, second) = (
                    self.permute_two(&pairs[0], x),
                    self.permute_two(&pairs[1], x),
                );
                self.choose(take, first, second)
            }
            _ => unreachable!("a table has 2^bits entries"),
        }
    }
}
