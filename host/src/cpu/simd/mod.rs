//! Vectors: one small trait, `Isa`, a file for each instruction set behind it, and the choice of one
//! at run time.
//!
//! An algorithm is written once, generic over `Isa`, and stamped into every instruction set by
//! `on_each_isa!`. A value of an instruction set's type holds `fearless_simd`'s token, the proof that
//! this processor has it, and `fearless_simd::kernel!` lets only its holder into code compiled with
//! those features, where intrinsics on values are safe. Arrays become vectors by `bytemuck`'s casts. So
//! nothing here is `unsafe`, and the compiler is told to refuse it.
//!
//! All results are the same bits on every instruction set: float operations are lane by lane, each
//! rounded as in scalar code, and nothing is added across lanes.

/// Stamps methods whose bodies are intrinsics on values, for a type whose field 0 is the token of
/// `$level`.
macro_rules! intrinsics {
    ($level:ident: $(
        $(#[$attribute:meta])*
        $vis:vis fn $name:ident($self:ident $(, $arg:ident: $type:ty)*) $(-> $result:ty)? {
            $($body:tt)*
        }
    )*) => {$(
        $(#[$attribute])*
        #[inline(always)]
        $vis fn $name($self $(, $arg: $type)*) $(-> $result)? {
            fearless_simd::kernel! {
                #[inline(always)]
                fn kernel(_token: $level $(, $arg: $type)*) $(-> $result)? {
                    $($body)*
                }
            }
            kernel($self.0 $(, $arg)*)
        }
    )*};
}

mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// The environment variable that forces an instruction set.
pub const VARIABLE: &str = "KEYSIEVE_SIMD";

/// Names that [`VARIABLE`] can have, each available on some processor: "avx2" from Haswell and Zen on,
/// "avx512" from Ice Lake and Zen 4 on.
pub const NAMES: [&str; 4] = ["portable", "avx2", "avx512", "neon"];

/// Floats of a [`Isa::Floats`], on every instruction set.
pub(crate) const FLOATS: usize = 16;
/// Bytes of a block, on every instruction set.
pub(crate) const BYTES: usize = 64;

/// Floats at the alignment of the widest vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct FloatLanes(pub(crate) [f32; FLOATS]);

/// Bytes at the alignment of the widest vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct ByteLanes(pub(crate) [u8; BYTES]);

/// 32-bit integers, or pairs of 16-bit ones, at the alignment of the widest vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct IntLanes(pub(crate) [i32; FLOATS]);

/// An instruction set that this processor has.
#[derive(Debug, Clone, Copy)]
pub struct Simd(pub(crate) Kind);

impl PartialEq for Simd {
    fn eq(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.0) == std::mem::discriminant(&other.0)
    }
}

impl Eq for Simd {}

/// Which one it is; the values inside are the proof that it is there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Portable(portable::Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Simd {
    /// The one this process works with: what `KEYSIEVE_SIMD` says, else the fastest there is. The
    /// variable is read once.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `KEYSIEVE_SIMD` when it has no value of [`NAMES`], or the name of an
    /// instruction set that this processor lacks.
    pub fn chosen() -> Result<Self> {
        static CHOSEN: OnceLock<Result<Simd>> = OnceLock::new();
        CHOSEN
            .get_or_init(|| match std::env::var_os(VARIABLE) {
                Some(name) => Self::named(&name.to_string_lossy()),
                None => Ok(*Self::available().last().expect("portable is everywhere")),
            })
            .clone()
    }

    /// The instruction set of that name.
    ///
    /// # Errors
    /// As [`Simd::chosen`].
    pub fn named(name: &str) -> Result<Self> {
        let available = Self::available();
        if let Some(&simd) = available.iter().find(|simd| simd.name() == name) {
            return Ok(simd);
        }
        let names = |names: &[&str]| names.join(", ");
        let expected = if NAMES.contains(&name) {
            let have: Vec<_> = available.iter().map(|simd| simd.name()).collect();
            format!("one that this processor has: {}", names(&have))
        } else {
            format!("one of {}", names(&NAMES))
        };
        Err(Error::invalid(VARIABLE, name, expected))
    }

    /// Every instruction set this processor has, the slowest first.
    pub fn available() -> Vec<Self> {
        let kinds = [
            Some(Kind::Portable(portable::Portable)),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(Kind::Avx2),
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::detect().map(Kind::Avx512),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::detect().map(Kind::Neon),
        ];
        kinds.into_iter().flatten().map(Simd).collect()
    }

    /// Its name in [`VARIABLE`].
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => "neon",
        }
    }
}

/// Vectors of one instruction set. Every method is lane by lane.
pub(crate) trait Isa: Copy {
    /// [`FLOATS`] floats.
    type Floats: Copy;
    /// [`FLOATS`] 32-bit integers.
    type Ints: Copy;
    /// One part of a block of [`BYTES`] bytes.
    type Bytes: Copy;
    /// A 16-bit sum for each lane of [`Isa::Bytes`], in whatever order.
    type Sums: Copy;
    /// Parts of a block, a divisor of [`BYTES`].
    const PARTS: usize;
    /// Keys whose sums with one [`Isa::Floats`] of centroids fit the registers.
    const KEYS_PER_TILE: usize;

    /// This one among all.
    fn simd(self) -> Simd;

    fn splat(self, x: f32) -> Self::Floats;
    fn load(self, from: &[f32; FLOATS]) -> Self::Floats;
    fn store(self, x: Self::Floats, to: &mut [f32; FLOATS]);
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Bit `i` says whether `a[i] >= b[i]`; NaN is neither.
    fn at_least(self, a: Self::Floats, b: Self::Floats) -> u16;
    /// (value, index) where `value` is larger than `best.0`, or the first number to come where that is
    /// NaN; else `best`.
    fn larger(
        self,
        best: (Self::Floats, Self::Floats),
        value: Self::Floats,
        index: Self::Floats,
    ) -> (Self::Floats, Self::Floats);

    fn splat_int(self, x: i32) -> Self::Ints;
    fn load_ints(self, from: &IntLanes) -> Self::Ints;
    fn store_ints(self, x: Self::Ints, to: &mut IntLanes);
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn min_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn max_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// `sums` and the inner product of two pairs of 16-bit integers, of which none is -2^15; wrapping.
    fn add_products(self, sums: Self::Ints, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// `x` with its lowest byte replaced by `byte`, 0 to 255.
    fn with_low_byte(self, x: Self::Ints, byte: Self::Ints) -> Self::Ints;
    /// Bit `i` says whether `a[i] > b[i]`.
    fn exceeds(self, a: Self::Ints, b: Self::Ints) -> u16;

    /// Part `part` of a block.
    fn load_bytes(self, from: &[u8; BYTES], part: usize) -> Self::Bytes;
    fn zero_sums(self) -> Self::Sums;
    /// Each lane's sum and byte; at most `i16::MAX`.
    fn add_widened(self, sums: Self::Sums, x: Self::Bytes) -> Self::Sums;
    /// Bit `i` says whether the part's lane `i` is at most `limit`, itself at most `i16::MAX`.
    fn at_most(self, sums: Self::Sums, limit: u16) -> u64;
    /// Stores part `part` of a block's sums.
    fn store_sums(self, sums: Self::Sums, to: &mut [u16; BYTES], part: usize);
    fn low_nibbles(self, x: Self::Bytes) -> Self::Bytes;
    fn high_nibbles(self, x: Self::Bytes) -> Self::Bytes;
    /// `table[x[i]]` of a table of `ROWS` x 16 entries, ROWS being 1, 2, 4, 8 or 16; every `x[i]` is an
    /// entry's index.
    fn look_up<const ROWS: usize>(self, table: &[[u8; 16]; ROWS], x: Self::Bytes) -> Self::Bytes;
}

/// Stamps `fn name(simd, args)` for a generic `fn generic<I: Isa>(isa, args)` into every instruction
/// set. The generic function must be `#[inline(always)]`, as it is compiled with the features of the
/// stamped one it is inlined into.
macro_rules! on_each_isa {
    (
        $(#[$attribute:meta])*
        $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $generic:path;
    ) => {
        $(#[$attribute])*
        // Slices and numbers, as many as the algorithm needs.
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(simd: $crate::cpu::simd::Simd, $($arg: $type),*) $(-> $result)? {
            use $crate::cpu::simd::Kind;
            #[cfg(target_arch = "x86_64")]
            fearless_simd::kernel! {
                fn avx2(token: Avx2, $($arg: $type),*) $(-> $result)? {
                    $generic($crate::cpu::simd::Avx2(token), $($arg),*)
                }
            }
            #[cfg(target_arch = "x86_64")]
            fearless_simd::kernel! {
                fn avx512(token: Avx512, $($arg: $type),*) $(-> $result)? {
                    $generic($crate::cpu::simd::Avx512(token), $($arg),*)
                }
            }
            match simd.0 {
                Kind::Portable(isa) => $generic(isa, $($arg),*),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2(isa) => avx2(isa.0, $($arg),*),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512(isa) => avx512(isa.0, $($arg),*),
                // Part of the target itself: no other features to compile with.
                #[cfg(target_arch = "aarch64")]
                Kind::Neon(isa) => $generic(isa, $($arg),*),
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use on_each_isa;

#[cfg(test)]
mod tests;
