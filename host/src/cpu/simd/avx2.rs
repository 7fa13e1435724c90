//! AVX2 with fused multiply-add: floats in pairs of 256-bit registers, bytes in two parts of a block.

use std::arch::x86_64::*;

use bytemuck::cast;

use super::{BYTES, FLOATS, IntLanes, Isa, Kind, Simd};

/// A processor with AVX2, FMA, BMI, LZCNT and POPCNT.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(pub(crate) fearless_simd::x86::Avx2);

type Floats = [__m256; 2];
type Ints = [__m256i; 2];
/// Of each pair of lanes: the sum of both as one 16-bit number, and the sum of the upper ones.
type Sums = [__m256i; 2];

/// An intrinsic on each half of its operands.
macro_rules! halves {
    ($intrinsic:ident($($x:expr),*)) => {
        [$intrinsic($($x[0]),*), $intrinsic($($x[1]),*)]
    };
}

/// The sums of the even and of the odd lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn even_and_odd([both, odd]: Sums) -> [__m256i; 2] {
    [_mm256_sub_epi16(both, _mm256_slli_epi16::<8>(odd)), odd]
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        fearless_simd::Level::new().as_avx2().map(Avx2)
    }

    intrinsics! { Avx2:
        /// `row[x[i]]`; every `x[i]` is at most 15.
        fn shuffle(self, row: &[u8; 16], x: __m256i) -> __m256i {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(cast(*row)), x)
        }

        /// `b` where the top bit of a byte of `by` is set, else `a`.
        fn choose(self, a: __m256i, b: __m256i, by: __m256i) -> __m256i {
            _mm256_blendv_epi8(a, b, by)
        }

        /// `x` with bit 4, 5 and 6 of each byte moved to its top.
        fn bits_at_top(self, x: __m256i) -> [__m256i; 3] {
            [
                _mm256_slli_epi16::<3>(x),
                _mm256_slli_epi16::<2>(x),
                _mm256_slli_epi16::<1>(x),
            ]
        }
    }
}

impl Isa for Avx2 {
    type Floats = Floats;
    type Ints = Ints;
    type Bytes = __m256i;
    type Sums = Sums;
    const PARTS: usize = 2;
    // 12 sums, two centroid registers and a broadcast: 15 of 16 registers.
    const KEYS_PER_TILE: usize = 6;

    #[inline(always)]
    fn simd(self) -> Simd {
        Simd(Kind::Avx2(self))
    }

    intrinsics! { Avx2:
        fn splat(self, x: f32) -> Floats {
            [_mm256_set1_ps(x); 2]
        }

        fn load(self, from: &[f32; FLOATS]) -> Floats {
            cast(*from)
        }

        fn store(self, x: Floats, to: &mut [f32; FLOATS]) {
            *to = cast(x);
        }

        fn add(self, a: Floats, b: Floats) -> Floats {
            halves!(_mm256_add_ps(a, b))
        }

        fn fma(self, a: Floats, b: Floats, c: Floats) -> Floats {
            halves!(_mm256_fmadd_ps(a, b, c))
        }

        fn at_least(self, a: Floats, b: Floats) -> u16 {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[0], b[0]));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[1], b[1]));
            low as u16 | ((high as u16) << 8)
        }

        fn larger(
            self,
            best: (Floats, Floats),
            value: Floats,
            index: Floats
        ) -> (Floats, Floats) {
            let (mut values, mut indices) = best;
            for i in 0..2 {
                // "Not at most" is true of NaN in `values` too.
                let beats = _mm256_cmp_ps::<_CMP_NLE_UQ>(value[i], values[i]);
                let is_number = _mm256_cmp_ps::<_CMP_ORD_Q>(value[i], value[i]);
                let take = _mm256_and_ps(beats, is_number);
                values[i] = _mm256_blendv_ps(values[i], value[i], take);
                indices[i] = _mm256_blendv_ps(indices[i], index[i], take);
            }
            (values, indices)
        }

        fn splat_int(self, x: i32) -> Ints {
            [_mm256_set1_epi32(x); 2]
        }

        fn load_ints(self, from: &IntLanes) -> Ints {
            cast(from.0)
        }

        fn store_ints(self, x: Ints, to: &mut IntLanes) {
            to.0 = cast(x);
        }

        fn add_ints(self, a: Ints, b: Ints) -> Ints {
            halves!(_mm256_add_epi32(a, b))
        }

        fn min_ints(self, a: Ints, b: Ints) -> Ints {
            halves!(_mm256_min_epi32(a, b))
        }

        fn max_ints(self, a: Ints, b: Ints) -> Ints {
            halves!(_mm256_max_epi32(a, b))
        }

        fn add_products(self, sums: Ints, a: Ints, b: Ints) -> Ints {
            let products = halves!(_mm256_madd_epi16(a, b));
            halves!(_mm256_add_epi32(sums, products))
        }

        fn with_low_byte(self, x: Ints, byte: Ints) -> Ints {
            let upper = [_mm256_set1_epi32(!255); 2];
            let upper = halves!(_mm256_and_si256(x, upper));
            halves!(_mm256_or_si256(upper, byte))
        }

        fn exceeds(self, a: Ints, b: Ints) -> u16 {
            let above = halves!(_mm256_cmpgt_epi32(a, b));
            let low = _mm256_movemask_ps(_mm256_castsi256_ps(above[0]));
            let high = _mm256_movemask_ps(_mm256_castsi256_ps(above[1]));
            low as u16 | ((high as u16) << 8)
        }

        fn load_bytes(self, from: &[u8; BYTES], part: usize) -> __m256i {
            let from: &[u8; 32] = &from.as_chunks().0[part];
            cast(*from)
        }

        fn zero_sums(self) -> Sums {
            [_mm256_setzero_si256(); 2]
        }

        fn add_widened(self, sums: Sums, x: __m256i) -> Sums {
            [
                _mm256_add_epi16(sums[0], x),
                _mm256_add_epi16(sums[1], _mm256_srli_epi16::<8>(x)),
            ]
        }

        fn at_most(self, sums: Sums, limit: u16) -> u64 {
            let limit = _mm256_set1_epi16(limit as i16);
            let [even, odd] = even_and_odd(sums);
            let even = _mm256_cmpgt_epi16(even, limit);
            let odd = _mm256_cmpgt_epi16(odd, limit);
            let upper = _mm256_set1_epi16(-256);
            let above = _mm256_blendv_epi8(even, odd, upper);
            u64::from(!(_mm256_movemask_epi8(above) as u32))
        }

        fn store_sums(self, sums: Sums, to: &mut [u16; BYTES], part: usize) {
            let to: &mut [u16; 32] = &mut to.as_chunks_mut().0[part];
            let [even, odd] = even_and_odd(sums);
            // Lanes 0 to 7 and 16 to 23, 8 to 15 and 24 to 31.
            let low = _mm256_unpacklo_epi16(even, odd);
            let high = _mm256_unpackhi_epi16(even, odd);
            let first = _mm256_permute2x128_si256::<0x20>(low, high);
            let second = _mm256_permute2x128_si256::<0x31>(low, high);
            *to = cast([first, second]);
        }

        fn low_nibbles(self, x: __m256i) -> __m256i {
            _mm256_and_si256(x, _mm256_set1_epi8(15))
        }

        fn high_nibbles(self, x: __m256i) -> __m256i {
            _mm256_and_si256(_mm256_srli_epi16::<4>(x), _mm256_set1_epi8(15))
        }
    }

    /// A shuffle for each row of 16, then a tree of choices by the index's bits 4 to 7, each moved to
    /// where the choice looks for it, the byte's top.
    #[inline(always)]
    fn look_up<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: Self::Bytes) -> Self::Bytes {
        let low = if ROWS == 1 { x } else { self.low_nibbles(x) };
        let [bit4, bit5, bit6] = self.bits_at_top(x);
        // Macros, not closures: those would be compiled without AVX2.
        macro_rules! row {
            ($i:expr) => {
                self.shuffle(&table[$i], low)
            };
        }
        macro_rules! two {
            ($i:expr) => {
                self.choose(row!($i), row!($i + 1), bit4)
            };
        }
        macro_rules! four {
            ($i:expr) => {
                self.choose(two!($i), two!($i + 2), bit5)
            };
        }
        macro_rules! eight {
            ($i:expr) => {
                self.choose(four!($i), four!($i + 4), bit6)
            };
        }
        match ROWS {
            1 => row!(0),
            2 => two!(0),
            4 => four!(0),
            8 => eight!(0),
            16 => self.choose(eight!(0), eight!(8), x),
            _ => unreachable!("a table has 2^bits entries"),
        }
    }
}
