//! Plain arrays: what every processor has, and what the others are compared with.

use super::{BYTES, FLOATS, IntLanes, Isa, Kind, Simd};

/// Loops over arrays, which the compiler may turn into the target's basic vectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip<T: Copy, const N: usize>(a: [T; N], b: [T; N], f: impl Fn(T, T) -> T) -> [T; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Isa for Portable {
    type Floats = [f32; FLOATS];
    type Ints = [i32; FLOATS];
    type Bytes = [u8; BYTES];
    type Sums = [u16; BYTES];
    const PARTS: usize = 1;
    const KEYS_PER_TILE: usize = 1;

    #[inline(always)]
    fn simd(self) -> Simd {
        Simd(Kind::Portable(self))
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        [x; FLOATS]
    }

    #[inline(always)]
    fn load(self, from: &[f32; FLOATS]) -> Self::Floats {
        *from
    }

    #[inline(always)]
    fn store(self, x: Self::Floats, to: &mut [f32; FLOATS]) {
        *to = x;
    }

    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|i| gpu_kernels::float::fma(a[i], b[i], c[i]))
    }

    #[inline(always)]
    fn at_least(self, a: Self::Floats, b: Self::Floats) -> u16 {
        (0..FLOATS).fold(0, |mask, i| mask | (u16::from(a[i] >= b[i]) << i))
    }

    #[inline(always)]
    fn larger(
        self,
        best: (Self::Floats, Self::Floats),
        value: Self::Floats,
        index: Self::Floats,
    ) -> (Self::Floats, Self::Floats) {
        let (mut values, mut indices) = best;
        for i in 0..FLOATS {
            if value[i] > values[i] || (values[i].is_nan() && !value[i].is_nan()) {
                (values[i], indices[i]) = (value[i], index[i]);
            }
        }
        (values, indices)
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Self::Ints {
        [x; FLOATS]
    }

    #[inline(always)]
    fn load_ints(self, from: &IntLanes) -> Self::Ints {
        from.0
    }

    #[inline(always)]
    fn store_ints(self, x: Self::Ints, to: &mut IntLanes) {
        to.0 = x;
    }

    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        zip(a, b, i32::wrapping_add)
    }

    #[inline(always)]
    fn min_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        zip(a, b, i32::min)
    }

    #[inline(always)]
    fn max_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        zip(a, b, i32::max)
    }

    #[inline(always)]
    fn add_products(self, sums: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        let low = |x: i32| i32::from(x as i16);
        let products = zip(a, b, |a, b| {
            (low(a) * low(b)).wrapping_add((a >> 16) * (b >> 16))
        });
        self.add_ints(sums, products)
    }

    #[inline(always)]
    fn with_low_byte(self, x: Self::Ints, byte: Self::Ints) -> Self::Ints {
        zip(x, byte, |x, byte| (x & !255) | byte)
    }

    #[inline(always)]
    fn exceeds(self, a: Self::Ints, b: Self::Ints) -> u16 {
        (0..FLOATS).fold(0, |mask, i| mask | (u16::from(a[i] > b[i]) << i))
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; BYTES], _part: usize) -> Self::Bytes {
        *from
    }

    #[inline(always)]
    fn zero_sums(self) -> Self::Sums {
        [0; BYTES]
    }

    #[inline(always)]
    fn add_widened(self, sums: Self::Sums, x: Self::Bytes) -> Self::Sums {
        zip(sums, x.map(u16::from), u16::wrapping_add)
    }

    #[inline(always)]
    fn at_most(self, sums: Self::Sums, limit: u16) -> u64 {
        (0..BYTES).fold(0, |mask, i| mask | (u64::from(sums[i] <= limit) << i))
    }

    #[inline(always)]
    fn store_sums(self, sums: Self::Sums, to: &mut [u16; BYTES], _part: usize) {
        *to = sums;
    }

    #[inline(always)]
    fn low_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        x.map(|x| x & 15)
    }

    #[inline(always)]
    fn high_nibbles(self, x: Self::Bytes) -> Self::Bytes {
        x.map(|x| x >> 4)
    }

    #[inline(always)]
    fn look_up<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: Self::Bytes) -> Self::Bytes {
        let table = table.as_flattened();
        // The mask changes no index; it tells the compiler that every one is inside.
        x.map(|x| table[usize::from(x) & (16 * ROWS - 1)])
    }
}
