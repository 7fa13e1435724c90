//! Arithmetic of all lanes at once: one function of rows for each instruction, as the PTX ISA
//! defines it.

use crate::float::{self, Float};

/// A register of a warp: one number for each lane, in the low bits.
pub(crate) type Row = [u64; 32];

/// How a number is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bits,
    Unsigned,
    Signed,
    Float,
    BFloat,
}

/// A type of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ty {
    pub(crate) kind: Kind,
    pub(crate) bits: u32,
}

/// What an arithmetic instruction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alu {
    Add,
    AddSat,
    Sub,
    SubSat,
    MulLo,
    MulHi,
    MulWide,
    MadLo,
    MadHi,
    MadWide,
    Sad,
    Div,
    Rem,
    Abs,
    Neg,
    Min,
    Max,
    MinNan,
    MaxNan,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Shl,
    Shr,
    Popc,
    Clz,
    Brev,
    Bfind,
    BfindShift,
    Bfe,
    Bfi,
    Prmt,
    /// `dp2a` of unsigned halves and bytes.
    Dot2 {
        high: bool,
    },
    Lop3,
    ShfLeft {
        wrap: bool,
    },
    ShfRight {
        wrap: bool,
    },
    Mul,
    Fma,
    Rcp,
    Sqrt,
    Copysign,
}

/// Modifiers of floating-point instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FloatMods {
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
}

/// The result of every lane, active or not; `None` for a function that the type does not have.
#[inline(always)]
pub(crate) fn eval(f: Alu, ty: Ty, mods: FloatMods, s: [&Row; 4]) -> Option<Row> {
    match (f, ty.kind, ty.bits) {
        // Without modifiers the loops have no branch.
        (_, Kind::Float, 32) if mods == FloatMods::default() => floats::<f32, true>(f, mods, s),
        (_, Kind::Float, 32) => floats::<f32, false>(f, mods, s),
        (_, Kind::Float, 64) => floats::<f64, false>(f, mods, s),
        (_, Kind::Float | Kind::BFloat, _) => None,
        (_, Kind::Signed, 16) => ints::<i16>(f, s),
        (_, Kind::Signed, 32) => ints::<i32>(f, s),
        (_, Kind::Signed, 64) => ints::<i64>(f, s),
        (_, _, 16) => ints::<u16>(f, s),
        (_, _, 32) => ints::<u32>(f, s),
        (_, _, 64) => ints::<u64>(f, s),
        _ => None,
    }
}

/// Whether [`eval`] knows it.
pub(crate) fn is_known(f: Alu, ty: Ty, mods: FloatMods) -> bool {
    eval(f, ty, mods, [&[0; 32]; 4]).is_some()
}

// All inlined into the warp's loop, which is compiled once more for newer processors: see `Warp::run`.
#[inline(always)]
fn one(s: [&Row; 4], f: impl Fn(u64) -> u64) -> Row {
    let mut out = [0; 32];
    for (out, a) in out.iter_mut().zip(s[0]) {
        *out = f(*a);
    }
    out
}

#[inline(always)]
fn two(s: [&Row; 4], f: impl Fn(u64, u64) -> u64) -> Row {
    let mut out = [0; 32];
    for (i, out) in out.iter_mut().enumerate() {
        *out = f(s[0][i], s[1][i]);
    }
    out
}

#[inline(always)]
fn three(s: [&Row; 4], f: impl Fn(u64, u64, u64) -> u64) -> Row {
    let mut out = [0; 32];
    for (i, out) in out.iter_mut().enumerate() {
        *out = f(s[0][i], s[1][i], s[2][i]);
    }
    out
}

/// An integer type of PTX.
trait Int: Copy + Ord {
    const BITS: u32;
    const SIGNED: bool;
    fn get(row: u64) -> Self;
    fn put(self) -> u64;
    /// Exact, and wide enough for a product and an addend.
    fn wide(self) -> i128;
    /// The low bits.
    fn narrow(wide: i128) -> Self;
    fn div(self, by: Self) -> Self;
    fn rem(self, by: Self) -> Self;
    fn clamp_wide(wide: i128) -> Self;
}

macro_rules! int {
    ($($t:ty, $unsigned:ty, $signed:expr);*) => {$(
        impl Int for $t {
            const BITS: u32 = <$t>::BITS;
            const SIGNED: bool = $signed;
            #[inline(always)]
            fn get(row: u64) -> Self { row as $t }
            #[inline(always)]
            fn put(self) -> u64 { self as $unsigned as u64 }
            #[inline(always)]
            fn wide(self) -> i128 { self as i128 }
            #[inline(always)]
            fn narrow(wide: i128) -> Self { wide as $t }
            // Division by zero is reported before a row is computed; idle lanes may hold anything.
            fn div(self, by: Self) -> Self { if by == 0 { 0 } else { self.wrapping_div(by) } }
            fn rem(self, by: Self) -> Self { if by == 0 { 0 } else { self.wrapping_rem(by) } }
            fn clamp_wide(wide: i128) -> Self {
                wide.clamp(<$t>::MIN as i128, <$t>::MAX as i128) as $t
            }
        }
    )*};
}
int!(u16, u16, false; u32, u32, false; u64, u64, false; i16, u16, true; i32, u32, true; i64, u64, true);

#[inline(always)]
fn ints<T: Int>(f: Alu, s: [&Row; 4]) -> Option<Row> {
    let mask = u64::MAX >> (64 - T::BITS);
    let wide = |x: u64| T::get(x).wide();
    let put = |x: i128| T::narrow(x).put();
    Some(match f {
        Alu::Add => two(s, |a, b| a.wrapping_add(b) & mask),
        Alu::AddSat => two(s, |a, b| T::clamp_wide(wide(a) + wide(b)).put()),
        Alu::Sub => two(s, |a, b| a.wrapping_sub(b) & mask),
        Alu::SubSat => two(s, |a, b| T::clamp_wide(wide(a) - wide(b)).put()),
        Alu::MulLo => two(s, |a, b| a.wrapping_mul(b) & mask),
        Alu::MadLo => three(s, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & mask),
        Alu::MulHi if T::BITS <= 32 => two(s, |a, b| high_half::<T>(a, b) & mask),
        Alu::MadHi if T::BITS <= 32 => {
            three(s, |a, b, c| high_half::<T>(a, b).wrapping_add(c) & mask)
        }
        // Products of two u64 do not fit i128 but wrap to the right bits, which is all that counts.
        Alu::MulHi => two(s, |a, b| put(high::<T>(wide(a), wide(b)))),
        Alu::MadHi => three(s, |a, b, c| put(high::<T>(wide(a), wide(b)) + wide(c))),
        // mul.wide doubles the width: types of 16 and 32 bits only.
        Alu::MulWide => two(s, |a, b| product::<T>(a, b) & double(T::BITS)),
        Alu::MadWide => three(s, |a, b, c| {
            product::<T>(a, b).wrapping_add(c) & double(T::BITS)
        }),
        Alu::Sad => three(s, |a, b, c| put((wide(a) - wide(b)).abs() + wide(c))),
        Alu::Div => two(s, |a, b| T::get(a).div(T::get(b)).put()),
        Alu::Rem => two(s, |a, b| T::get(a).rem(T::get(b)).put()),
        Alu::Abs => one(s, |a| put(wide(a).abs())),
        Alu::Neg => one(s, |a| a.wrapping_neg() & mask),
        Alu::Min => two(s, |a, b| T::get(a).min(T::get(b)).put()),
        Alu::Max => two(s, |a, b| T::get(a).max(T::get(b)).put()),
        Alu::And => two(s, |a, b| a & b & mask),
        Alu::Or => two(s, |a, b| (a | b) & mask),
        Alu::Xor => two(s, |a, b| (a ^ b) & mask),
        Alu::Not => one(s, |a| !a & mask),
        Alu::Cnot => one(s, |a| u64::from(a & mask == 0)),
        // Shifts beyond the width are clamped to it.
        Alu::Shl => two(s, |a, b| {
            let by = b as u32;
            if by >= T::BITS { 0 } else { (a << by) & mask }
        }),
        Alu::Shr if T::SIGNED => two(s, |a, b| {
            (float::sign_extend(a, T::BITS) >> (b as u32).min(T::BITS - 1)) as u64 & mask
        }),
        Alu::Shr => two(s, |a, b| {
            let by = b as u32;
            if by >= T::BITS { 0 } else { (a & mask) >> by }
        }),
        Alu::Popc => one(s, |a| u64::from((a & mask).count_ones())),
        Alu::Clz => one(s, |a| {
            u64::from((a & mask).leading_zeros() - (64 - T::BITS))
        }),
        Alu::Brev => one(s, |a| (a & mask).reverse_bits() >> (64 - T::BITS)),
        Alu::Bfind => one(s, |a| u64::from(bfind::<T>(a))),
        Alu::BfindShift => one(s, |a| {
            let found = bfind::<T>(a);
            u64::from(if found == u32::MAX {
                found
            } else {
                T::BITS - 1 - found
            })
        }),
        Alu::Bfe => three(s, bfe::<T>),
        Alu::Bfi => {
            let mut out = [0; 32];
            for (i, out) in out.iter_mut().enumerate() {
                let (pos, len) = (s[2][i] as u32 & 255, s[3][i] as u32 & 255);
                let field = ones(len).checked_shl(pos).unwrap_or(0) & mask;
                let moved = s[0][i].checked_shl(pos).unwrap_or(0);
                *out = (s[1][i] & mask & !field) | (moved & field);
            }
            out
        }
        Alu::Prmt => three(s, prmt),
        Alu::Dot2 { high } => three(s, |a, b, c| dot2(a, b, c, high)),
        Alu::Lop3 => {
            let mut out = [0; 32];
            for (i, out) in out.iter_mut().enumerate() {
                *out = lop3(s[0][i], s[1][i], s[2][i], s[3][i]) & mask;
            }
            out
        }
        Alu::ShfLeft { wrap } => three(s, |a, b, c| {
            ((b << 32 | a & 0xffff_ffff) << funnel(c, wrap)) >> 32
        }),
        Alu::ShfRight { wrap } => three(s, |a, b, c| {
            ((b << 32 | a & 0xffff_ffff) >> funnel(c, wrap)) & 0xffff_ffff
        }),
        _ => return None,
    })
}

fn high<T: Int>(a: i128, b: i128) -> i128 {
    // Two u64 may exceed i128; as u128 they fit.
    if T::SIGNED {
        (a * b) >> T::BITS
    } else {
        ((a as u128 * b as u128) >> T::BITS) as i128
    }
}

/// The product's low 64 bits: of types of 16 and 32 bits all of it.
#[inline(always)]
fn product<T: Int>(a: u64, b: u64) -> u64 {
    let whole = |x| {
        if T::SIGNED {
            float::sign_extend(x, T::BITS) as u64
        } else {
            x & (u64::MAX >> (64 - T::BITS))
        }
    };
    whole(a).wrapping_mul(whole(b))
}

/// The upper half of a product of a type of 16 or 32 bits, and the bits behind it.
#[inline(always)]
fn high_half<T: Int>(a: u64, b: u64) -> u64 {
    let product = product::<T>(a, b);
    if T::SIGNED {
        (product as i64 >> T::BITS) as u64
    } else {
        product >> T::BITS
    }
}

fn double(bits: u32) -> u64 {
    u64::MAX >> (64 - 2 * bits.min(32))
}

fn funnel(by: u64, wrap: bool) -> u32 {
    if wrap {
        by as u32 & 31
    } else {
        (by as u32).min(32)
    }
}

fn ones(len: u32) -> u64 {
    1u64.checked_shl(len).map_or(u64::MAX, |bit| bit - 1)
}

fn bfind<T: Int>(a: u64) -> u32 {
    let value = T::get(a).wide();
    let magnitude = if value < 0 { !value } else { value };
    match magnitude {
        0 => u32::MAX,
        m => 127 - m.leading_zeros(),
    }
}

fn bfe<T: Int>(a: u64, pos: u64, len: u64) -> u64 {
    let (pos, len) = (pos as u32 & 255, len as u32 & 255);
    let mask = ones(T::BITS);
    let msb = T::BITS - 1;
    let sign = T::SIGNED && len > 0 && (a >> (pos + len - 1).min(msb)) & 1 == 1;
    let field = (a & mask).checked_shr(pos).unwrap_or(0) & ones(len);
    // Bits behind the field, and behind the number's end, repeat the sign.
    let have = len.min(T::BITS.saturating_sub(pos));
    if sign {
        (field | !ones(have)) & mask
    } else {
        field
    }
}

fn prmt(a: u64, b: u64, selectors: u64) -> u64 {
    let bytes = ((b & 0xffff_ffff) << 32) | (a & 0xffff_ffff);
    let mut out = 0;
    for i in 0..4 {
        let selector = (selectors >> (4 * i)) & 15;
        let mut byte = (bytes >> (8 * (selector & 7))) & 255;
        if selector & 8 != 0 {
            byte = if byte & 128 != 0 { 255 } else { 0 };
        }
        out |= byte << (8 * i);
    }
    out
}

/// `c` and the products of the halves of `a` with two neighbouring bytes of `b`.
fn dot2(a: u64, b: u64, c: u64, high: bool) -> u64 {
    let first = if high { 2 } else { 0 };
    let product = |i: u64| ((a >> (16 * i)) & 0xffff) * ((b >> (8 * (first + i))) & 255);
    (c + product(0) + product(1)) & 0xffff_ffff
}

fn lop3(a: u64, b: u64, c: u64, table: u64) -> u64 {
    (0..8)
        .filter(|row| (table >> row) & 1 == 1)
        .fold(0, |out, row| {
            let pick = |x: u64, bit: u64| if row & bit != 0 { x } else { !x };
            out | (pick(a, 4) & pick(b, 2) & pick(c, 1))
        })
}

#[inline(always)]
fn floats<T: Float, const PLAIN: bool>(f: Alu, mods: FloatMods, s: [&Row; 4]) -> Option<Row> {
    let get = |bits: u64| {
        let x = T::get(bits);
        if !PLAIN && mods.ftz { x.flushed() } else { x }
    };
    let put = |x: T| {
        let x = if !PLAIN && mods.ftz { x.flushed() } else { x };
        let x = if !PLAIN && mods.sat { x.saturated() } else { x };
        x.canonical()
    };
    // Sign operations work on the bits alone: a NaN keeps its payload.
    let sign = 1u64 << (T::BITS - 1);
    Some(match f {
        Alu::Add => two(s, |a, b| put(get(a) + get(b))),
        Alu::Sub => two(s, |a, b| put(get(a) - get(b))),
        Alu::Mul => two(s, |a, b| put(get(a) * get(b))),
        Alu::Div => two(s, |a, b| put(get(a) / get(b))),
        Alu::Fma => three(s, |a, b, c| put(get(a).fma(get(b), get(c)))),
        Alu::Rcp => one(s, |a| put(T::ONE / get(a))),
        Alu::Sqrt => one(s, |a| put(get(a).sqrt())),
        Alu::Neg => one(s, |a| get(a).bits() ^ sign),
        Alu::Abs => one(s, |a| get(a).bits() & !sign),
        Alu::Copysign => two(s, |a, b| (b & !sign) | (a & sign)),
        Alu::Min => two(s, |a, b| put(float::min(get(a), get(b), false))),
        Alu::Max => two(s, |a, b| put(float::max(get(a), get(b), false))),
        Alu::MinNan => two(s, |a, b| put(float::min(get(a), get(b), true))),
        Alu::MaxNan => two(s, |a, b| put(float::max(get(a), get(b), true))),
        _ => return None,
    })
}
