//! NEON, which every aarch64 processor has: four 128-bit registers at a time.

use std::arch::aarch64::*;
use std::array::from_fn;

use super::{BYTES, FLOATS, IntLanes, Isa, Kind, Simd};

/// An aarch64 processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neon(());

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

/// An intrinsic on each quarter of its operands.
macro_rules! quarters {
    ($intrinsic:ident($($x:expr),*)) => {
        // SAFETY: `self` is the proof that the processor has NEON.
        from_fn(|i| unsafe { $intrinsic($($x[i]),*) })
    };
}

impl Neon {
    /// Bit `i` says whether lane `i`, all ones or all zeros, is set.
    #[inline(always)]
    fn bits(self, lanes: [uint32x4_t; 4]) -> u16 {
        let bits = [1u32, 2, 4, 8];
        (0..4).fold(0, |mask, i| {
            // SAFETY: `self` is the proof that the processor has NEON; four words are read.
            let quarter = unsafe { vaddvq_u32(vandq_u32(lanes[i], vld1q_u32(bits.as_ptr()))) };
            mask | ((quarter as u16) << (4 * i))
        })
    }
}

impl Isa for Neon {
    type Floats = [float32x4_t; 4];
    type Ints = [int32x4_t; 4];
    type Bytes = [uint8x16_t; 4];
    type Sums = [uint16x8_t; 8];
    const PARTS: usize = 1;
    // 16 sums, four centroid registers and a broadcast: 21 of 32 registers.
    const KEYS_PER_TILE: usize = 4;

    #[inline(always)]
    fn simd(self) -> Simd {
        Simd(Kind::Neon(self))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        // SAFETY: `self` is the proof that the processor has NEON.
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; FLOATS]) -> Self::Floats {
        // SAFETY: as above; quarter i < 4 is inside the array.
        from_fn(|i| unsafe { vld1q_f32(from.as_ptr().add(4 * i)) })
    }

    #[inline(always)]
    fn store(self, x: Self::Floats, to: &mut [f32; FLOATS]) {
        for (i, x) in x.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { vst1q_f32(to.as_mut_ptr().add(4 * i), x) };
        }
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        quarters!(vaddq_f32(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        quarters!(vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn at_least(self, a: Self::Floats, b: Self::Floats) -> u16 {
        self.bits(quarters!(vcgeq_f32(a, b)))
    }

    #[inline(always)]
    fn larger(
        self,
        best: (Self::Floats, Self::Floats),
        value: Self::Floats,
        index: Self::Floats,
    ) -> (Self::Floats, Self::Floats) {
        let take: [uint32x4_t; 4] = from_fn(|i| {
            // SAFETY: `self` is the proof that the processor has NEON.
            unsafe {
                // Not at most, which is true of NaN in `best` too; and a number.
                let at_most = vcleq_f32(value[i], best.0[i]);
                vbicq_u32(vceqq_f32(value[i], value[i]), at_most)
            }
        });
        (
            quarters!(vbslq_f32(take, value, best.0)),
            quarters!(vbslq_f32(take, index, best.1)),
        )
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Self::Ints {
        // SAFETY: `self` is the proof that the processor has NEON.
        unsafe { [vdupq_n_s32(x); 4] }
    }

    #[inline(always)]
    fn load_ints(self, from: &IntLanes) -> Self::Ints {
        // SAFETY: as above; quarter i < 4 is inside the array.
        from_fn(|i| unsafe { vld1q_s32(from.0.as_ptr().add(4 * i)) })
    }

    #[inline(always)]
    fn store_ints(self, x: Self::Ints, to: &mut IntLanes) {
        for (i, x) in x.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { vst1q_s32(to.0.as_mut_ptr().add(4 * i), x) };
        }
    }

    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        quarters!(vaddq_s32(a, b))
    }

    #[inline(always)]
    fn min_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        quarters!(vminq_s32(a, b))
    }

    #[inline(always)]
    fn max_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        quarters!(vmaxq_s32(a, b))
    }

    #[inline(always)]
    fn add_products(self, sums: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        // SAFETY: `self` is the proof that the processor has NEON.
        from_fn(|i| unsafe {
            let (a, b) = (vreinterpretq_s16_s32(a[i]), vreinterpretq_s16_s32(b[i]));
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            let high = vmull_high_s16(a, b);
            vaddq_s32(sums[i], vpaddq_s32(low, high))
        })
    }

    #[inline(always)]
    fn with_low_byte(self, x: Self::Ints, byte: Self::Ints) -> Self::Ints {
        let upper = self.splat_int(!255);
        let upper: Self::Ints = quarters!(vandq_s32(x, upper));
        quarters!(vorrq_s32(upper, byte))
    }

    #[inline(always)]
    fn exceeds(self, a: Self::Ints, b: Self::Ints) -> u16 {
        self.bits(quarters!(vcgtq_s32(a, b)))
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; BYTES], _part: usize) -> Self::Bytes {
        // SAFETY: as above; quarter i < 4 is inside the array.
        from_fn(|i| unsafe { vld1q_u8(from.as_ptr().add(16 * i)) })
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        // SAFETY: `self` is the proof that the processor has NEON.
        unsafe { [vdupq_n_u16(0); 8] }
    }

    #[inline(always)]
    fn add_widened(self, sums: Self::Sums, x: Self::Bytes) -> Self::Sums {
        // SAFETY: as above.
        from_fn(|i| unsafe {
            if i % 2 == 0 {
                vaddw_u8(sums[i], vget_low_u8(x[i / 2]))
            } else {
                vaddw_high_u8(sums[i], x[i / 2])
            }
        })
    }

    #[inline(always)]
    fn at_most(self, sums: Self::Sums, limit: u16) -> u64 {
        // SAFETY: `self` is the proof that the processor has NEON; 16 bytes are read.
        unsafe {
            let bits = [1u8, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
            let bits = vld1q_u8(bits.as_ptr());
            let limit = vdupq_n_u16(limit);
            let [a, b, c, d]: [uint8x16_t; 4] = from_fn(|i| {
                let low = vmovn_u16(vcleq_u16(sums[2 * i], limit));
                vandq_u8(vmovn_high_u16(low, vcleq_u16(sums[2 * i + 1], limit)), bits)
            });
            // Three rounds of sums of neighbours put eight lanes' bits into each byte.
            let sums = vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d));
            vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)))
        }
    }

    #[inline(always)]
    fn store_sums(self, sums: Self::Sums, to: &mut [u16; BYTES], _part: usize) {
        for (i, sums) in sums.into_iter().enumerate() {
            // SAFETY: as above; eighth i < 8 is inside the array.
            unsafe { vst1q_u16(to.as_mut_ptr().add(8 * i), sums) };
        }
    }

    #[inline(always)]
    fn low_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        // SAFETY: `self` is the proof that the processor has NEON.
        x.map(|x| unsafe { vandq_u8(x, vdupq_n_u8(15)) })
    }

    #[inline(always)]
    fn high_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        // SAFETY: as above.
        x.map(|x| unsafe { vshrq_n_u8::<4>(x) })
    }

    #[inline(always)]
    fn look_up<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: Self::Bytes) -> Self::Bytes {
        // SAFETY: as above; a row is 16 bytes. An index behind a table's end gives 0 (tbl) or leaves
        // the lane (tbx), and below its start it wraps to one behind its end.
        unsafe {
            let row = |i: usize| vld1q_u8(table[i].as_ptr());
            let four = |i: usize| uint8x16x4_t(row(i), row(i + 1), row(i + 2), row(i + 3));
            match ROWS {
                1 => x.map(|x| vqtbl1q_u8(row(0), x)),
                2 => x.map(|x| vqtbl2q_u8(uint8x16x2_t(row(0), row(1)), x)),
                _ => {
                    let mut found = x.map(|x| vqtbl4q_u8(four(0), x));
                    for i in (4..ROWS).step_by(4) {
                        let entries = four(i);
                        for (found, x) in found.iter_mut().zip(x) {
                            let x = vsubq_u8(x, vdupq_n_u8(16 * i as u8));
                            *found = vqtbx4q_u8(*found, entries, x);
                        }
                    }
                    found
                }
            }
        }
    }
}
