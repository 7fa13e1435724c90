//! Floating-point rules of PTX that differ from Rust's, comparisons and conversions.

use std::ops::{Add, Div, Mul, Sub};

use half::{bf16, f16};

use crate::alu::{Kind, Row, Ty};

/// A floating-point type of PTX arithmetic.
pub(crate) trait Float:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    const BITS: u32;
    const ONE: Self;
    const ZERO: Self;
    fn get(bits: u64) -> Self;
    fn bits(self) -> u64;
    /// The bits, with every NaN the one that arithmetic gives.
    fn canonical(self) -> u64;
    fn flushed(self) -> Self;
    fn fma(self, b: Self, c: Self) -> Self;
    fn sqrt(self) -> Self;
    fn nan(self) -> bool;
    fn negative(self) -> bool;

    /// `.sat`: clamped to 0..=1, NaN to 0.
    fn saturated(self) -> Self {
        if self > Self::ONE {
            Self::ONE
        } else if self > Self::ZERO {
            self
        } else {
            // NaN and -0 too.
            Self::ZERO
        }
    }
}

macro_rules! float {
    ($t:ty, $u:ty, $nan:expr) => {
        impl Float for $t {
            const BITS: u32 = <$u>::BITS;
            const ONE: Self = 1.0;
            const ZERO: Self = 0.0;
            #[inline(always)]
            fn get(bits: u64) -> Self {
                <$t>::from_bits(bits as $u)
            }
            #[inline(always)]
            fn bits(self) -> u64 {
                u64::from(self.to_bits())
            }
            #[inline(always)]
            fn canonical(self) -> u64 {
                if self.is_nan() { $nan } else { self.bits() }
            }
            fn flushed(self) -> Self {
                if self.is_subnormal() {
                    (0.0 as $t).copysign(self)
                } else {
                    self
                }
            }
            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                self.mul_add(b, c)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            #[inline(always)]
            fn nan(self) -> bool {
                self.is_nan()
            }
            #[inline(always)]
            fn negative(self) -> bool {
                self.is_sign_negative()
            }
        }
    };
}
float!(f32, u32, 0x7fff_ffff);
float!(f64, u64, 0x7fff_ffff_ffff_ffff);

/// The smaller; of a number and a NaN the number, unless `nan` is asked for; -0 is below +0.
#[inline(always)]
pub(crate) fn min<T: Float>(a: T, b: T, nan: bool) -> T {
    match (a.nan(), b.nan()) {
        (true, _) => {
            if nan {
                a
            } else {
                b
            }
        }
        (_, true) => {
            if nan {
                b
            } else {
                a
            }
        }
        _ => {
            if a < b || (a == b && a.negative()) {
                a
            } else {
                b
            }
        }
    }
}

/// The larger, by the same rules.
#[inline(always)]
pub(crate) fn max<T: Float>(a: T, b: T, nan: bool) -> T {
    match (a.nan(), b.nan()) {
        (true, _) => {
            if nan {
                a
            } else {
                b
            }
        }
        (_, true) => {
            if nan {
                b
            } else {
                a
            }
        }
        _ => {
            if a > b || (a == b && !a.negative()) {
                a
            } else {
                b
            }
        }
    }
}

/// How `setp` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// True also of NaN.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// The lanes in which a comparison of numbers holds, NaN not among them.
#[inline(always)]
fn ordered<T: Copy + PartialOrd>(cmp: Cmp, a: &Row, b: &Row, get: impl Fn(u64) -> T) -> u32 {
    match cmp {
        Cmp::Eq | Cmp::Equ => each(a, b, |a, b| get(a) == get(b)),
        Cmp::Ne | Cmp::Neu => each(a, b, |a, b| get(a) != get(b)),
        Cmp::Lt | Cmp::Ltu => each(a, b, |a, b| get(a) < get(b)),
        Cmp::Le | Cmp::Leu => each(a, b, |a, b| get(a) <= get(b)),
        Cmp::Gt | Cmp::Gtu => each(a, b, |a, b| get(a) > get(b)),
        Cmp::Ge | Cmp::Geu => each(a, b, |a, b| get(a) >= get(b)),
        Cmp::Num => u32::MAX,
        Cmp::Nan => 0,
    }
}

#[inline(always)]
fn each(a: &Row, b: &Row, holds: impl Fn(u64, u64) -> bool) -> u32 {
    let mut lanes = 0;
    for i in 0..32 {
        lanes |= u32::from(holds(a[i], b[i])) << i;
    }
    lanes
}

#[inline(always)]
fn compare_floats<T: Float>(cmp: Cmp, a: &Row, b: &Row, ftz: bool) -> u32 {
    let of_nan = matches!(
        cmp,
        Cmp::Equ | Cmp::Neu | Cmp::Ltu | Cmp::Leu | Cmp::Gtu | Cmp::Geu | Cmp::Nan
    );
    let unordered = each(a, b, |a, b| T::get(a).nan() | T::get(b).nan());
    let ordered = if ftz {
        ordered(cmp, a, b, |x| T::get(x).flushed())
    } else {
        ordered(cmp, a, b, T::get)
    };
    (ordered & !unordered) | if of_nan { unordered } else { 0 }
}

/// The lanes in which `setp` holds.
#[inline(always)]
pub(crate) fn compare(cmp: Cmp, ty: Ty, ftz: bool, a: &Row, b: &Row) -> u32 {
    // Narrower numbers compare as their bits do at the upper end.
    let up = 64 - ty.bits;
    match (ty.kind, ty.bits) {
        (Kind::Float, 64) => compare_floats::<f64>(cmp, a, b, ftz),
        (Kind::Float, _) => compare_floats::<f32>(cmp, a, b, ftz),
        (Kind::Signed, _) => ordered(cmp, a, b, |x| (x << up) as i64),
        _ => ordered(cmp, a, b, |x| x << up),
    }
}

/// The low `bits` bits as a signed number.
#[inline(always)]
pub(crate) fn sign_extend(x: u64, bits: u32) -> i64 {
    ((x << (64 - bits)) as i64) >> (64 - bits)
}

/// Rounding to an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// None was given, or `.rn`: to the nearest number of the type.
    Nearest,
    Rni,
    Rzi,
    Rmi,
    Rpi,
}

/// A `cvt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conversion {
    pub(crate) to: Ty,
    pub(crate) from: Ty,
    pub(crate) round: Round,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    /// Width of the register, to which narrower results are extended.
    pub(crate) register_bits: u32,
}

/// All lanes of `cvt`.
#[inline(always)]
pub(crate) fn convert_row(c: Conversion, row: &Row) -> Row {
    let is_integer = |ty: Ty| matches!(ty.kind, Kind::Bits | Kind::Unsigned | Kind::Signed);
    if !is_integer(c.from) || c.sat || !(is_integer(c.to) || c.to == F32) {
        return row.map(|x| convert(c, x));
    }
    // What kernels do all the time: one integer to another, or to an f32.
    let mask = |bits: u32| u64::MAX >> (64 - bits);
    let (from, to) = (mask(c.from.bits), mask(c.to.bits));
    let value = match c.from.kind {
        Kind::Signed => row.map(|x| sign_extend(x, c.from.bits) as u64),
        _ => row.map(|x| x & from),
    };
    if c.to == F32 {
        return match c.from.kind {
            Kind::Signed => value.map(|x| (x as i64 as f32).canonical()),
            _ => value.map(|x| (x as f32).canonical()),
        };
    }
    match c.to.kind {
        Kind::Signed => {
            let register = mask(c.register_bits);
            value.map(|x| sign_extend(x & to, c.to.bits) as u64 & register)
        }
        _ => value.map(|x| x & to),
    }
}

const F32: Ty = Ty {
    kind: Kind::Float,
    bits: 32,
};

/// One lane of `cvt`.
fn convert(c: Conversion, x: u64) -> u64 {
    let mask = |bits: u32| u64::MAX >> (64 - bits);
    let from_float = matches!(c.from.kind, Kind::Float | Kind::BFloat);
    let to_float = matches!(c.to.kind, Kind::Float | Kind::BFloat);
    if to_float {
        // Every f16, bf16 and f32 is an f64 too; integers are rounded once, below.
        let value = if from_float {
            let value = float_value(c.from, x);
            if c.ftz && c.from.bits == 32 {
                f64::from((value as f32).flushed())
            } else {
                value
            }
        } else {
            return integer_to_float(c, x);
        };
        return float_bits(c, rounded(value, c.round));
    }
    if from_float {
        let value = float_value(c.from, x);
        let value = if c.ftz {
            f64::from((value as f32).flushed())
        } else {
            value
        };
        let bits = c.to.bits;
        if value.is_nan() {
            let zero = c.from.bits != 64 && bits != 64;
            return if zero { 0 } else { 1 << (bits - 1) };
        }
        let value = rounded(value, c.round);
        let (low, high) = range(c.to);
        // `as` saturates, which is what PTX asks for.
        return ((value as i128).clamp(low, high) as u64) & mask(c.register_bits);
    }
    let value = integer(c.from, x);
    let value = if c.sat {
        let (low, high) = range(c.to);
        value.clamp(low, high)
    } else {
        value
    };
    let low = value as u64 & mask(c.to.bits);
    if c.to.kind == Kind::Signed {
        sign_extend(low, c.to.bits) as u64 & mask(c.register_bits)
    } else {
        low
    }
}

fn integer(ty: Ty, x: u64) -> i128 {
    match ty.kind {
        Kind::Signed => i128::from(sign_extend(x, ty.bits)),
        _ => i128::from(x & (u64::MAX >> (64 - ty.bits))),
    }
}

fn range(ty: Ty) -> (i128, i128) {
    match ty.kind {
        Kind::Signed => (-(1 << (ty.bits - 1)), (1 << (ty.bits - 1)) - 1),
        _ => (0, (1 << ty.bits) - 1),
    }
}

fn float_value(ty: Ty, x: u64) -> f64 {
    match (ty.kind, ty.bits) {
        (Kind::BFloat, _) => bf16::from_bits(x as u16).to_f64(),
        (_, 16) => f16::from_bits(x as u16).to_f64(),
        (_, 32) => f64::from(f32::get(x)),
        _ => f64::get(x),
    }
}

fn rounded(value: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => value,
        Round::Rni => value.round_ties_even(),
        Round::Rzi => value.trunc(),
        Round::Rmi => value.floor(),
        Round::Rpi => value.ceil(),
    }
}

fn float_bits(c: Conversion, value: f64) -> u64 {
    let value = if c.sat { value.saturated() } else { value };
    let narrow = value as f32;
    let narrow = if c.ftz { narrow.flushed() } else { narrow };
    match (c.to.kind, c.to.bits) {
        (_, 16) if value.is_nan() => 0x7fff,
        (Kind::BFloat, _) => u64::from(bf16::from_f64(value).to_bits()),
        (_, 16) => u64::from(f16::from_f64(value).to_bits()),
        (_, 32) => narrow.canonical(),
        _ => value.canonical(),
    }
}

fn integer_to_float(c: Conversion, x: u64) -> u64 {
    let value = integer(c.from, x);
    match c.to.bits {
        32 => {
            let value = value as f32;
            let value = if c.sat { value.saturated() } else { value };
            value.canonical()
        }
        64 => (value as f64).canonical(),
        // 64-bit integers past 2^53 are infinite as f16 either way.
        _ => float_bits(c, value as f64),
    }
}
