//! NEON, which every aarch64 processor has: four 128-bit registers at a time.

use std::arch::aarch64::*;

use bytemuck::cast;

use super::{BYTES, FLOATS, IntLanes, Isa, Kind, Simd};

/// An aarch64 processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(pub(crate) fearless_simd::aarch64::Neon);

type Floats = [float32x4_t; 4];
type Ints = [int32x4_t; 4];
type Bytes = [uint8x16_t; 4];
type Sums = [uint16x8_t; 8];

/// An intrinsic on each quarter of its operands.
macro_rules! quarters {
    ($intrinsic:ident($($x:expr),*)) => {
        [
            $intrinsic($($x[0]),*),
            $intrinsic($($x[1]),*),
            $intrinsic($($x[2]),*),
            $intrinsic($($x[3]),*),
        ]
    };
}

/// Bit `i` says whether lane `i`, all ones or all zeros, is set.
#[inline]
#[target_feature(enable = "neon")]
fn bits(lanes: [uint32x4_t; 4]) -> u16 {
    let bits: uint32x4_t = cast([1u32, 2, 4, 8]);
    lanes.iter().enumerate().fold(0, |mask, (i, &lanes)| {
        mask | ((vaddvq_u32(vandq_u32(lanes, bits)) as u16) << (4 * i))
    })
}

/// `sums` and the inner product of two pairs of 16-bit integers in each lane.
#[inline]
#[target_feature(enable = "neon")]
fn add_products_of_quarter(sums: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
    let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
    let high = vmull_high_s16(a, b);
    vaddq_s32(sums, vpaddq_s32(low, high))
}

/// All ones where `value` is larger than `best`, or a number where `best` is NaN.
#[inline]
#[target_feature(enable = "neon")]
fn beats(best: float32x4_t, value: float32x4_t) -> uint32x4_t {
    // Not at most, which is true of NaN in `best` too; and a number.
    vbicq_u32(vceqq_f32(value, value), vcleq_f32(value, best))
}

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        fearless_simd::Level::new().as_neon().map(Neon)
    }

    // An index behind a table's end gives 0 (tbl) or leaves the lane (tbx).
    intrinsics! { Neon:
        /// `row[x[i]]`.
        fn in_row(self, row: &[u8; 16], x: Bytes) -> Bytes {
            let row = [cast(*row); 4];
            quarters!(vqtbl1q_u8(row, x))
        }

        /// `rows[x[i]]`.
        fn in_two(self, rows: &[[u8; 16]; 2], x: Bytes) -> Bytes {
            let rows = [uint8x16x2_t(cast(rows[0]), cast(rows[1])); 4];
            quarters!(vqtbl2q_u8(rows, x))
        }

        /// `rows[x[i]]` where that is an entry.
        fn in_four(self, rows: &[[u8; 16]; 4], x: Bytes) -> Bytes {
            let [a, b, c, d] = cast::<_, Bytes>(*rows);
            let rows = [uint8x16x4_t(a, b, c, d); 4];
            quarters!(vqtbl4q_u8(rows, x))
        }

        /// `rows[x[i] - first]` where that is an entry, else `found[i]`.
        fn or_in_four(self, found: Bytes, rows: &[[u8; 16]; 4], x: Bytes, first: u8) -> Bytes {
            let [a, b, c, d] = cast::<_, Bytes>(*rows);
            let rows = [uint8x16x4_t(a, b, c, d); 4];
            // Below the table's start it wraps to an index behind its end.
            let first = [vdupq_n_u8(first); 4];
            let x = quarters!(vsubq_u8(x, first));
            quarters!(vqtbx4q_u8(found, rows, x))
        }
    }
}

impl Isa for Neon {
    type Floats = Floats;
    type Ints = Ints;
    type Bytes = Bytes;
    type Sums = Sums;
    const PARTS: usize = 1;
    // 16 sums, four centroid registers and a broadcast: 21 of 32 registers.
    const KEYS_PER_TILE: usize = 4;

    #[inline(always)]
    fn simd(self) -> Simd {
        Simd(Kind::Neon(self))
    }

    intrinsics! { Neon:
        fn splat(self, x: f32) -> Floats {
            [vdupq_n_f32(x); 4]
        }

        fn load(self, from: &[f32; FLOATS]) -> Floats {
            cast(*from)
        }

        fn store(self, x: Floats, to: &mut [f32; FLOATS]) {
            *to = cast(x);
        }

        fn add(self, a: Floats, b: Floats) -> Floats {
            quarters!(vaddq_f32(a, b))
        }

        fn fma(self, a: Floats, b: Floats, c: Floats) -> Floats {
            quarters!(vfmaq_f32(c, a, b))
        }

        fn at_least(self, a: Floats, b: Floats) -> u16 {
            bits(quarters!(vcgeq_f32(a, b)))
        }

        fn larger(
            self,
            best: (Floats, Floats),
            value: Floats,
            index: Floats
        ) -> (Floats, Floats) {
            let (values, indices) = best;
            let take = quarters!(beats(values, value));
            (
                quarters!(vbslq_f32(take, value, values)),
                quarters!(vbslq_f32(take, index, indices)),
            )
        }

        fn splat_int(self, x: i32) -> Ints {
            [vdupq_n_s32(x); 4]
        }

        fn load_ints(self, from: &IntLanes) -> Ints {
            cast(from.0)
        }

        fn store_ints(self, x: Ints, to: &mut IntLanes) {
            to.0 = cast(x);
        }

        fn add_ints(self, a: Ints, b: Ints) -> Ints {
            quarters!(vaddq_s32(a, b))
        }

        fn min_ints(self, a: Ints, b: Ints) -> Ints {
            quarters!(vminq_s32(a, b))
        }

        fn max_ints(self, a: Ints, b: Ints) -> Ints {
            quarters!(vmaxq_s32(a, b))
        }

        fn add_products(self, sums: Ints, a: Ints, b: Ints) -> Ints {
            quarters!(add_products_of_quarter(sums, a, b))
        }

        fn with_low_byte(self, x: Ints, byte: Ints) -> Ints {
            let upper = [vdupq_n_s32(!255); 4];
            let upper = quarters!(vandq_s32(x, upper));
            quarters!(vorrq_s32(upper, byte))
        }

        fn exceeds(self, a: Ints, b: Ints) -> u16 {
            bits(quarters!(vcgtq_s32(a, b)))
        }

        fn load_bytes(self, from: &[u8; BYTES], _part: usize) -> Bytes {
            cast(*from)
        }

        fn zero_sums(self) -> Sums {
            [vdupq_n_u16(0); 8]
        }

        fn add_widened(self, sums: Sums, x: Bytes) -> Sums {
            let mut sums = sums;
            for i in 0..4 {
                sums[2 * i] = vaddw_u8(sums[2 * i], vget_low_u8(x[i]));
                sums[2 * i + 1] = vaddw_high_u8(sums[2 * i + 1], x[i]);
            }
            sums
        }

        fn at_most(self, sums: Sums, limit: u16) -> u64 {
            let bits: uint8x16_t = cast([1u8, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128]);
            let limit = vdupq_n_u16(limit);
            let mut quarters = [bits; 4];
            for (i, quarter) in quarters.iter_mut().enumerate() {
                let low = vmovn_u16(vcleq_u16(sums[2 * i], limit));
                let both = vmovn_high_u16(low, vcleq_u16(sums[2 * i + 1], limit));
                *quarter = vandq_u8(both, bits);
            }
            // Three rounds of sums of neighbours put eight lanes' bits into each byte.
            let [a, b, c, d] = quarters;
            let sums = vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d));
            vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)))
        }

        fn store_sums(self, sums: Sums, to: &mut [u16; BYTES], _part: usize) {
            *to = cast(sums);
        }

        fn low_nibbles(self, x: Bytes) -> Bytes {
            let mask = [vdupq_n_u8(15); 4];
            quarters!(vandq_u8(x, mask))
        }

        fn high_nibbles(self, x: Bytes) -> Bytes {
            x.map(|x| vshrq_n_u8::<4>(x))
        }
    }

    #[inline(always)]
    fn look_up<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: Self::Bytes) -> Self::Bytes {
        let (fours, _) = table.as_chunks::<4>();
        match ROWS {
            1 => self.in_row(&table[0], x),
            2 => self.in_two(&[table[0], table[1]], x),
            _ => {
                let mut found = self.in_four(&fours[0], x);
                for (i, four) in fours.iter().enumerate().skip(1) {
                    found = self.or_in_four(found, four, x, 64 * i as u8);
                }
                found
            }
        }
    }
}
