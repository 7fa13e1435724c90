//! Every family of instructions against Rust's arithmetic, on edge cases and random bits.

mod common;

use std::cell::RefCell;
use std::collections::HashMap;

use common::kernel;
use half::{bf16, f16};
use keysieve_tests::strategies::Random;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use ptx_sim::{Arg, Init, Launch, Memory, Module, launch};

type Inputs = [[u64; 4]; 32];

/// A kernel around `instruction`: its operands are `%d10` to `%d13`, `%r10` to `%r13` and `%h0` to
/// `%h3` (the same numbers, in 64, 32 and 16 bits); its result is `%d20`, `%r20`, `%h4` or `%p5`.
fn module(instruction: &str) -> Module {
    let result = if instruction.contains("%d20") {
        ""
    } else if instruction.contains("%r20") {
        "cvt.u64.u32 %d20, %r20;"
    } else if instruction.contains("%h4") {
        "cvt.u64.u16 %d20, %h4;"
    } else {
        "selp.b64 %d20, 1, 0, %p5;"
    };
    let text = kernel(&format!(
        "mul.wide.u32 %d4, %r0, 32;
         add.s64 %d4, %d4, %d0;
         ld.global.v4.b64 {{%d10, %d11, %d12, %d13}}, [%d4];
         cvt.u32.u64 %r10, %d10; cvt.u32.u64 %r11, %d11;
         cvt.u32.u64 %r12, %d12; cvt.u32.u64 %r13, %d13;
         cvt.u16.u64 %h0, %d10; cvt.u16.u64 %h1, %d11; cvt.u16.u64 %h2, %d12;
         setp.eq.u32 %p1, %r13, 0;
         {instruction}
         {result}
         mul.wide.u32 %d5, %r0, 8;
         add.s64 %d5, %d5, %d1;
         st.global.u64 [%d5], %d20;"
    ));
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn run(module: &Module, inputs: &Inputs) -> [u64; 32] {
    let mut memory = Memory::new();
    let bytes: Vec<u8> = inputs
        .iter()
        .flatten()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let data = memory.alloc_copy(&bytes);
    let fresh = memory.alloc(256, Init::Uninit);
    let args = [Arg::U64(data), Arg::U64(fresh)];
    let launched = Launch {
        block: [32, 1, 1],
        args: &args,
        ..Launch::default()
    };
    launch(module, "k", &launched, &mut memory).unwrap_or_else(|error| panic!("{error}"));
    let mut out = [0; 32];
    for (out, bytes) in out.iter_mut().zip(memory.bytes(fresh).unwrap().chunks(8)) {
        *out = u64::from_le_bytes(bytes.try_into().unwrap());
    }
    out
}

/// Numbers at every edge of every type, and others.
fn number() -> impl Strategy<Value = u64> {
    let f = |x: f32| u64::from(x.to_bits());
    let edges = vec![
        0,
        1,
        2,
        7,
        15,
        16,
        17,
        31,
        32,
        33,
        63,
        64,
        65,
        255,
        256,
        0x7f,
        0x80,
        0x7fff,
        0x8000,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
        u64::MAX - 1,
        f(1.0),
        f(-1.5),
        f(0.5),
        f(2.5),
        f(1e10),
        f(-1e20),
        f(f32::MAX),
        f(f32::MIN_POSITIVE),
        0x0000_0001,
        0x807f_ffff,
        f(f32::INFINITY),
        f(f32::NEG_INFINITY),
        0x7fc0_0000,
        0x7f80_0001,
        0xffff_ffff,
        0x7fff_ffff,
        1.5f64.to_bits(),
        (-2.5f64).to_bits(),
        f64::NAN.to_bits(),
        f64::INFINITY.to_bits(),
        1e300f64.to_bits(),
        5e-324f64.to_bits(),
        0x3c00,
        0x7c00,
        0x7e00,
        0xfc01,
        0x7bff,
        0x8001,
    ];
    prop_oneof![
        3 => select(edges),
        2 => any::<u64>(),
        1 => any::<u8>().prop_map(u64::from),
        2 => any::<f32>().prop_map(move |x| u64::from(x.to_bits())),
        2 => (-1000.0f32..1000.0).prop_map(move |x| u64::from(x.to_bits())),
        1 => (-1e6..1e6f64).prop_map(f64::to_bits),
    ]
}

/// A result from four operands.
type Expected<'a> = dyn Fn([u64; 4]) -> u64 + 'a;

/// Checks instructions, each with what it should give for its operands.
fn check(table: &[(&str, &Expected<'_>)]) {
    let modules: Vec<Module> = table.iter().map(|(text, _)| module(text)).collect();
    let config = ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let lanes = proptest::collection::vec([number(), number(), number(), number()], 32);
    let seen = RefCell::new(HashMap::new());
    let result = TestRunner::new_with_rng(config, rng).run(&lanes, |lanes| {
        let inputs: Inputs = lanes.try_into().unwrap();
        for (module, (text, expected)) in modules.iter().zip(table) {
            // Divisions by zero are another test's.
            let mut inputs = inputs;
            if text.starts_with("div") || text.starts_with("rem") {
                for lane in &mut inputs {
                    let wide = text.contains("64");
                    let by = &mut lane[1];
                    *by = if wide {
                        (*by).max(1)
                    } else if *by & 0xffff == 0 {
                        *by | 1
                    } else {
                        *by
                    };
                }
            }
            let got = run(module, &inputs);
            *seen.borrow_mut().entry(*text).or_insert(0) += 32;
            for lane in 0..32 {
                let want = expected(inputs[lane]);
                prop_assert_eq!(
                    got[lane],
                    want,
                    "{} of {:x?}: got {:#x}, want {:#x}",
                    text,
                    inputs[lane],
                    got[lane],
                    want
                );
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(seen.borrow().len(), table.len());
}

fn u(x: u32) -> u64 {
    u64::from(x)
}
fn i(x: i32) -> u64 {
    u64::from(x as u32)
}
fn h(x: u16) -> u64 {
    u64::from(x)
}
fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}
fn d(x: u64) -> f64 {
    f64::from_bits(x)
}
/// An f32 as arithmetic gives it: NaN has one pattern.
fn fb(x: f32) -> u64 {
    if x.is_nan() {
        0x7fff_ffff
    } else {
        u(x.to_bits())
    }
}
fn db(x: f64) -> u64 {
    if x.is_nan() {
        i64::MAX as u64
    } else {
        x.to_bits()
    }
}
fn flush(x: f32) -> f32 {
    if x.is_subnormal() {
        0.0f32.copysign(x)
    } else {
        x
    }
}

#[test]
fn integers_of_32_bits() {
    check(&[
        ("add.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u((a as u32).wrapping_add(b as u32))
        }),
        ("add.s32 %r20, %r10, -7;", &|[a, ..]| {
            u((a as u32).wrapping_sub(7))
        }),
        ("add.sat.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            i((a as i32).saturating_add(b as i32))
        }),
        ("sub.u32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u((a as u32).wrapping_sub(b as u32))
        }),
        ("sub.sat.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            i((a as i32).saturating_sub(b as i32))
        }),
        ("mul.lo.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u((a as u32).wrapping_mul(b as u32))
        }),
        ("mul.hi.u32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u(((a as u32 as u64 * b as u32 as u64) >> 32) as u32)
        }),
        ("mul.hi.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            i(((a as i32 as i64 * b as i32 as i64) >> 32) as i32)
        }),
        ("mul.wide.u32 %d20, %r10, %r11;", &|[a, b, ..]| {
            a as u32 as u64 * b as u32 as u64
        }),
        ("mul.wide.s32 %d20, %r10, %r11;", &|[a, b, ..]| {
            (a as i32 as i64 * b as i32 as i64) as u64
        }),
        ("mul.wide.s32 %d20, %r10, -4;", &|[a, ..]| {
            (a as i32 as i64 * -4) as u64
        }),
        ("mad.lo.s32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            u((a as u32).wrapping_mul(b as u32).wrapping_add(c as u32))
        }),
        ("mad.hi.u32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            u((((a as u32 as u64 * b as u32 as u64) >> 32) as u32).wrapping_add(c as u32))
        }),
        ("mad.wide.u32 %d20, %r10, %r11, %d12;", &|[a, b, c, _]| {
            (a as u32 as u64 * b as u32 as u64).wrapping_add(c)
        }),
        ("mad.wide.s32 %d20, %r10, %r11, %d12;", &|[a, b, c, _]| {
            ((a as i32 as i64 * b as i32 as i64) as u64).wrapping_add(c)
        }),
        ("sad.u32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            u((a as u32).abs_diff(b as u32).wrapping_add(c as u32))
        }),
        ("sad.s32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            u((a as i32).abs_diff(b as i32).wrapping_add(c as u32))
        }),
        ("div.u32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u(a as u32 / b as u32)
        }),
        ("div.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            i((a as i32).wrapping_div(b as i32))
        }),
        ("rem.u32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u(a as u32 % b as u32)
        }),
        ("rem.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            i((a as i32).wrapping_rem(b as i32))
        }),
        ("abs.s32 %r20, %r10;", &|[a, ..]| {
            i((a as i32).wrapping_abs())
        }),
        ("neg.s32 %r20, %r10;", &|[a, ..]| {
            i((a as i32).wrapping_neg())
        }),
        ("min.u32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u((a as u32).min(b as u32))
        }),
        ("max.u32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u((a as u32).max(b as u32))
        }),
        ("min.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            i((a as i32).min(b as i32))
        }),
        ("max.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            i((a as i32).max(b as i32))
        }),
    ]);
}

#[test]
fn integers_of_16_and_64_bits() {
    check(&[
        ("add.s64 %d20, %d10, %d11;", &|[a, b, ..]| a.wrapping_add(b)),
        ("sub.s64 %d20, %d10, %d11;", &|[a, b, ..]| a.wrapping_sub(b)),
        ("mul.lo.s64 %d20, %d10, %d11;", &|[a, b, ..]| {
            a.wrapping_mul(b)
        }),
        ("mul.hi.u64 %d20, %d10, %d11;", &|[a, b, ..]| {
            ((u128::from(a) * u128::from(b)) >> 64) as u64
        }),
        ("mul.hi.s64 %d20, %d10, %d11;", &|[a, b, ..]| {
            ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
        }),
        ("mad.lo.s64 %d20, %d10, %d11, %d12;", &|[a, b, c, _]| {
            a.wrapping_mul(b).wrapping_add(c)
        }),
        ("div.u64 %d20, %d10, %d11;", &|[a, b, ..]| a / b),
        ("rem.s64 %d20, %d10, %d11;", &|[a, b, ..]| {
            (a as i64).wrapping_rem(b as i64) as u64
        }),
        ("abs.s64 %d20, %d10;", &|[a, ..]| {
            (a as i64).wrapping_abs() as u64
        }),
        ("neg.s64 %d20, %d10;", &|[a, ..]| a.wrapping_neg()),
        ("min.u64 %d20, %d10, %d11;", &|[a, b, ..]| a.min(b)),
        ("max.u64 %d20, %d10, 1;", &|[a, ..]| a.max(1)),
        ("max.s64 %d20, %d10, %d11;", &|[a, b, ..]| {
            (a as i64).max(b as i64) as u64
        }),
        ("add.s16 %h4, %h0, %h1;", &|[a, b, ..]| {
            h((a as u16).wrapping_add(b as u16))
        }),
        ("mul.lo.u16 %h4, %h0, %h1;", &|[a, b, ..]| {
            h((a as u16).wrapping_mul(b as u16))
        }),
        ("mul.wide.u16 %r20, %h0, %h1;", &|[a, b, ..]| {
            u(a as u16 as u32 * b as u16 as u32)
        }),
        ("mul.wide.s16 %r20, %h0, %h1;", &|[a, b, ..]| {
            i(a as i16 as i32 * b as i16 as i32)
        }),
        ("min.s16 %h4, %h0, %h1;", &|[a, b, ..]| {
            h((a as i16).min(b as i16) as u16)
        }),
        ("not.b16 %h4, %h0;", &|[a, ..]| h(!(a as u16))),
        ("shr.s16 %h4, %h0, %r11;", &|[a, b, ..]| {
            h(((a as i16) >> (b as u32).min(15)) as u16)
        }),
        ("shl.b16 %h4, %h0, %r11;", &|[a, b, ..]| {
            h((a as u16).checked_shl(b as u32).unwrap_or(0))
        }),
    ]);
}

#[test]
fn bits() {
    check(&[
        ("and.b32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u(a as u32 & b as u32)
        }),
        ("or.b64 %d20, %d10, %d11;", &|[a, b, ..]| a | b),
        ("xor.b32 %r20, %r10, -2147483648;", &|[a, ..]| {
            u(a as u32 ^ 1 << 31)
        }),
        ("not.b32 %r20, %r10;", &|[a, ..]| u(!(a as u32))),
        ("cnot.b32 %r20, %r10;", &|[a, ..]| {
            u(u32::from(a as u32 == 0))
        }),
        ("shl.b32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u((a as u32).checked_shl(b as u32).unwrap_or(0))
        }),
        ("shl.b64 %d20, %d10, %r11;", &|[a, b, ..]| {
            a.checked_shl(b as u32).unwrap_or(0)
        }),
        ("shr.u32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u((a as u32).checked_shr(b as u32).unwrap_or(0))
        }),
        ("shr.s32 %r20, %r10, %r11;", &|[a, b, ..]| {
            i((a as i32) >> (b as u32).min(31))
        }),
        ("shr.u64 %d20, %d10, %r11;", &|[a, b, ..]| {
            a.checked_shr(b as u32).unwrap_or(0)
        }),
        ("shr.s64 %d20, %d10, %r11;", &|[a, b, ..]| {
            ((a as i64) >> (b as u32).min(63)) as u64
        }),
        ("shf.l.wrap.b32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            u((((b << 32) | (a & 0xffff_ffff)) << (c & 31) >> 32) as u32)
        }),
        ("shf.r.clamp.b32 %r20, %r10, %r11, %r12;", &|[
            a,
            b,
            c,
            _,
        ]| {
            u((((b << 32) | (a & 0xffff_ffff)) >> (c as u32).min(32)) as u32)
        }),
        (
            "popc.b32 %r20, %r10;",
            &|[a, ..]| u((a as u32).count_ones()),
        ),
        ("popc.b64 %r20, %d10;", &|[a, ..]| u(a.count_ones())),
        ("clz.b32 %r20, %r10;", &|[a, ..]| {
            u((a as u32).leading_zeros())
        }),
        ("clz.b64 %r20, %d10;", &|[a, ..]| u(a.leading_zeros())),
        ("brev.b32 %r20, %r10;", &|[a, ..]| {
            u((a as u32).reverse_bits())
        }),
        ("bfind.u32 %r20, %r10;", &|[a, ..]| {
            u((a as u32).checked_ilog2().unwrap_or(u32::MAX))
        }),
        ("bfind.s32 %r20, %r10;", &|[a, ..]| {
            let a = a as i32;
            let a = if a < 0 { !a } else { a } as u32;
            u(a.checked_ilog2().unwrap_or(u32::MAX))
        }),
        ("bfe.u32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            bfe(a, b, c, false)
        }),
        ("bfe.s32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            bfe(a, b, c, true)
        }),
        ("bfi.b32 %r20, %r10, %r11, %r12, %r13;", &|[a, b, c, e]| {
            let mut out = b as u32;
            for bit in 0..(e as u32 & 255).min(32) {
                let at = (c as u32 & 255) + bit;
                if at < 32 {
                    out = out & !(1 << at) | (a as u32 >> bit & 1) << at;
                }
            }
            u(out)
        }),
        ("prmt.b32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            let bytes = [(a as u32).to_le_bytes(), (b as u32).to_le_bytes()].concat();
            let pick = |i: u32| {
                let selector = c as u32 >> (4 * i) & 15;
                let byte = bytes[selector as usize & 7];
                if selector & 8 == 0 {
                    byte
                } else {
                    ((byte as i8) >> 7) as u8
                }
            };
            u(u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)]))
        }),
        ("dp2a.lo.u32.u32 %r20, %r10, %r11, %r12;", &|[
            a,
            b,
            c,
            _,
        ]| {
            let (a, b) = (a as u32, (b as u32).to_le_bytes());
            let sum = (a & 0xffff) * u32::from(b[0]) + (a >> 16) * u32::from(b[1]);
            u((c as u32).wrapping_add(sum))
        }),
        ("dp2a.hi.u32.u32 %r20, %r10, %r11, %r12;", &|[
            a,
            b,
            c,
            _,
        ]| {
            let (a, b) = (a as u32, (b as u32).to_le_bytes());
            let sum = (a & 0xffff) * u32::from(b[2]) + (a >> 16) * u32::from(b[3]);
            u((c as u32).wrapping_add(sum))
        }),
        ("lop3.b32 %r20, %r10, %r11, %r12, 0xca;", &|[a, b, c, _]| {
            u((a as u32 & b as u32) | (!(a as u32) & c as u32))
        }),
        ("lop3.b32 %r20, %r10, %r11, %r12, 0x96;", &|[a, b, c, _]| {
            u(a as u32 ^ b as u32 ^ c as u32)
        }),
        ("mov.b64 %d20, {%r10, %r11};", &|[a, b, ..]| {
            (b << 32) | (a & 0xffff_ffff)
        }),
        ("mov.b64 {%r21, %r20}, %d10;", &|[a, ..]| a >> 32),
        ("mov.b64 {_, %r20}, %d10;", &|[a, ..]| a >> 32),
        ("mov.b32 %r20, 0f3f800000;", &|_| 0x3f80_0000),
        ("selp.b32 %r20, %r10, %r11, %p1;", &|[a, b, _, c]| {
            u(if c as u32 == 0 { a } else { b } as u32)
        }),
        (
            "@%p1 mov.b32 %r20, %r10; @!%p1 mov.b32 %r20, %r11;",
            &|[a, b, _, c]| u(if c as u32 == 0 { a } else { b } as u32),
        ),
    ]);
}

/// As the ISA writes it, bit by bit.
fn bfe(a: u64, pos: u64, len: u64, signed: bool) -> u64 {
    let (a, pos, len) = (a as u32, pos as u32 & 255, len as u32 & 255);
    let sign = signed && len != 0 && a >> (pos + len - 1).min(31) & 1 == 1;
    let bit = |i: u32| {
        if i < len && pos + i <= 31 {
            a >> (pos + i) & 1 == 1
        } else {
            sign
        }
    };
    u((0..32).map(|i| u32::from(bit(i)) << i).sum())
}

#[test]
fn floats() {
    check(&[
        (
            "add.rn.f32 %r20, %r10, %r11;",
            &|[a, b, ..]| fb(f(a) + f(b)),
        ),
        ("add.f32 %r20, %r10, 0f00000000;", &|[a, ..]| fb(f(a) + 0.0)),
        ("add.rn.ftz.f32 %r20, %r10, %r11;", &|[a, b, ..]| {
            fb(flush(flush(f(a)) + flush(f(b))))
        }),
        ("add.sat.f32 %r20, %r10, %r11;", &|[a, b, ..]| {
            let sum = f(a) + f(b);
            fb(if sum.is_nan() || sum <= 0.0 {
                0.0
            } else {
                sum.min(1.0)
            })
        }),
        (
            "sub.rn.f32 %r20, %r10, %r11;",
            &|[a, b, ..]| fb(f(a) - f(b)),
        ),
        (
            "mul.rn.f32 %r20, %r10, %r11;",
            &|[a, b, ..]| fb(f(a) * f(b)),
        ),
        ("fma.rn.f32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            fb(f(a).mul_add(f(b), f(c)))
        }),
        ("mad.rn.f32 %r20, %r10, %r11, %r12;", &|[a, b, c, _]| {
            fb(f(a).mul_add(f(b), f(c)))
        }),
        (
            "div.rn.f32 %r20, %r10, %r11;",
            &|[a, b, ..]| fb(f(a) / f(b)),
        ),
        ("rcp.rn.f32 %r20, %r10;", &|[a, ..]| fb(1.0 / f(a))),
        ("sqrt.rn.f32 %r20, %r10;", &|[a, ..]| fb(f(a).sqrt())),
        ("neg.f32 %r20, %r10;", &|[a, ..]| u(a as u32 ^ 1 << 31)),
        ("abs.f32 %r20, %r10;", &|[a, ..]| u(a as u32 & !(1 << 31))),
        ("copysign.f32 %r20, %r10, %r11;", &|[a, b, ..]| {
            u(a as u32 & 1 << 31 | b as u32 & !(1 << 31))
        }),
        ("min.f32 %r20, %r10, %r11;", &|[a, b, ..]| {
            fb(smaller(f(a), f(b)))
        }),
        ("max.f32 %r20, %r10, %r11;", &|[a, b, ..]| {
            fb(-smaller(-f(a), -f(b)))
        }),
        ("min.NaN.f32 %r20, %r10, %r11;", &|[a, b, ..]| {
            if f(a).is_nan() || f(b).is_nan() {
                0x7fff_ffff
            } else {
                fb(smaller(f(a), f(b)))
            }
        }),
        ("max.NaN.f32 %r20, %r10, %r11;", &|[a, b, ..]| {
            if f(a).is_nan() || f(b).is_nan() {
                0x7fff_ffff
            } else {
                fb(-smaller(-f(a), -f(b)))
            }
        }),
        (
            "add.rn.f64 %d20, %d10, %d11;",
            &|[a, b, ..]| db(d(a) + d(b)),
        ),
        (
            "mul.rn.f64 %d20, %d10, %d11;",
            &|[a, b, ..]| db(d(a) * d(b)),
        ),
        ("fma.rn.f64 %d20, %d10, %d11, %d12;", &|[a, b, c, _]| {
            db(d(a).mul_add(d(b), d(c)))
        }),
        (
            "div.rn.f64 %d20, %d10, %d11;",
            &|[a, b, ..]| db(d(a) / d(b)),
        ),
    ]);
}

/// -0 lies below +0, and a number is preferred to NaN.
fn smaller(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a.total_cmp(&b).is_le() {
        a
    } else {
        b
    }
}

#[test]
fn comparisons() {
    let p = |x: bool| u64::from(x);
    check(&[
        ("setp.lt.u32 %p5, %r10, %r11;", &|[a, b, ..]| {
            p((a as u32) < b as u32)
        }),
        ("setp.lo.u32 %p5, %r10, 17;", &|[a, ..]| p((a as u32) < 17)),
        ("setp.ge.s32 %p5, %r10, %r11;", &|[a, b, ..]| {
            p(a as i32 >= b as i32)
        }),
        ("setp.lt.s32 %p5, %r10, -1;", &|[a, ..]| p((a as i32) < -1)),
        ("setp.eq.b32 %p5, %r10, %r11;", &|[a, b, ..]| {
            p(a as u32 == b as u32)
        }),
        ("setp.ne.b64 %p5, %d10, %d11;", &|[a, b, ..]| p(a != b)),
        ("setp.gt.u64 %p5, %d10, %d11;", &|[a, b, ..]| p(a > b)),
        ("setp.le.s64 %p5, %d10, %d11;", &|[a, b, ..]| {
            p(a as i64 <= b as i64)
        }),
        ("setp.gt.s16 %p5, %h0, %h1;", &|[a, b, ..]| {
            p(a as i16 > b as i16)
        }),
        ("setp.lt.f32 %p5, %r10, %r11;", &|[a, b, ..]| p(f(a) < f(b))),
        ("setp.ltu.f32 %p5, %r10, %r11;", &|[a, b, ..]| {
            p(!matches!(f(a).partial_cmp(&f(b)), Some(o) if o.is_ge()))
        }),
        ("setp.ne.f32 %p5, %r10, %r11;", &|[a, b, ..]| {
            p(f(a).partial_cmp(&f(b)).is_some_and(|o| o.is_ne()))
        }),
        ("setp.neu.f32 %p5, %r10, %r11;", &|[a, b, ..]| {
            p(f(a) != f(b))
        }),
        ("setp.equ.f32 %p5, %r10, %r11;", &|[a, b, ..]| {
            p(f(a) == f(b) || f(a).is_nan() || f(b).is_nan())
        }),
        ("setp.eq.ftz.f32 %p5, %r10, 0f00000000;", &|[a, ..]| {
            p(flush(f(a)) == 0.0)
        }),
        ("setp.num.f32 %p5, %r10, %r11;", &|[a, b, ..]| {
            p(!f(a).is_nan() && !f(b).is_nan())
        }),
        ("setp.nan.f32 %p5, %r10, %r10;", &|[a, ..]| p(f(a).is_nan())),
        (
            "setp.ge.f64 %p5, %d10, %d11;",
            &|[a, b, ..]| p(d(a) >= d(b)),
        ),
        ("setp.lt.and.u32 %p5, %r10, %r11, %p1;", &|[a, b, _, c]| {
            p((a as u32) < b as u32 && c as u32 == 0)
        }),
        ("setp.lt.or.u32 %p5, %r10, %r11, !%p1;", &|[a, b, _, c]| {
            p((a as u32) < b as u32 || c as u32 != 0)
        }),
        ("setp.lt.u32 %p2|%p5, %r10, %r11;", &|[a, b, ..]| {
            p(a as u32 >= b as u32)
        }),
        (
            "setp.lt.u32 %p2, %r10, %r11; xor.pred %p5, %p2, %p1;",
            &|[a, b, _, c]| p(((a as u32) < b as u32) != (c as u32 == 0)),
        ),
        ("not.pred %p5, %p1;", &|[_, _, _, c]| p(c as u32 != 0)),
        ("mov.pred %p5, %p1;", &|[_, _, _, c]| p(c as u32 == 0)),
    ]);
}

#[test]
fn conversions() {
    let half_bits = |x: f32| {
        if x.is_nan() {
            0x7fff
        } else {
            h(f16::from_f32(x).to_bits())
        }
    };
    let brain_bits = |x: f32| {
        if x.is_nan() {
            0x7fff
        } else {
            h(bf16::from_f32(x).to_bits())
        }
    };
    check(&[
        ("cvt.u64.u32 %d20, %r10;", &|[a, ..]| a as u32 as u64),
        ("cvt.s64.s32 %d20, %r10;", &|[a, ..]| a as i32 as i64 as u64),
        ("cvt.u32.u64 %r20, %d10;", &|[a, ..]| u(a as u32)),
        ("cvt.u32.u16 %r20, %h0;", &|[a, ..]| u(a as u16 as u32)),
        ("cvt.s32.s16 %r20, %h0;", &|[a, ..]| i(a as i16 as i32)),
        ("cvt.s32.s8 %r20, %r10;", &|[a, ..]| i(a as i8 as i32)),
        ("cvt.s8.s32 %r20, %r10;", &|[a, ..]| i(a as i8 as i32)),
        ("cvt.u8.u32 %r20, %r10;", &|[a, ..]| u(a as u8 as u32)),
        ("cvt.sat.u8.s32 %r20, %r10;", &|[a, ..]| {
            u((a as i32).clamp(0, 255) as u32)
        }),
        ("cvt.sat.s16.s32 %h4, %r10;", &|[a, ..]| {
            h((a as i32).clamp(-32768, 32767) as u16)
        }),
        ("cvt.rn.f32.u32 %r20, %r10;", &|[a, ..]| fb(a as u32 as f32)),
        ("cvt.rn.f32.s32 %r20, %r10;", &|[a, ..]| fb(a as i32 as f32)),
        ("cvt.rn.f32.u64 %r20, %d10;", &|[a, ..]| fb(a as f32)),
        ("cvt.rn.f64.s64 %d20, %d10;", &|[a, ..]| db(a as i64 as f64)),
        ("cvt.rzi.s32.f32 %r20, %r10;", &|[a, ..]| i(f(a) as i32)),
        ("cvt.rzi.u32.f32 %r20, %r10;", &|[a, ..]| u(f(a) as u32)),
        ("cvt.rni.s32.f32 %r20, %r10;", &|[a, ..]| {
            i(f(a).round_ties_even() as i32)
        }),
        ("cvt.rmi.s32.f32 %r20, %r10;", &|[a, ..]| {
            i(f(a).floor() as i32)
        }),
        ("cvt.rpi.s32.f32 %r20, %r10;", &|[a, ..]| {
            i(f(a).ceil() as i32)
        }),
        ("cvt.rzi.s64.f64 %d20, %d10;", &|[a, ..]| {
            if d(a).is_nan() {
                1 << 63
            } else {
                d(a) as i64 as u64
            }
        }),
        ("cvt.rni.f32.f32 %r20, %r10;", &|[a, ..]| {
            fb(f(a).round_ties_even())
        }),
        ("cvt.f64.f32 %d20, %r10;", &|[a, ..]| db(f64::from(f(a)))),
        ("cvt.rn.f32.f64 %r20, %d10;", &|[a, ..]| fb(d(a) as f32)),
        ("cvt.f32.f16 %r20, %h0;", &|[a, ..]| {
            fb(f16::from_bits(a as u16).to_f32())
        }),
        ("cvt.rn.f16.f32 %h4, %r10;", &|[a, ..]| half_bits(f(a))),
        ("cvt.f32.bf16 %r20, %h0;", &|[a, ..]| {
            fb(bf16::from_bits(a as u16).to_f32())
        }),
        ("cvt.rn.bf16.f32 %h4, %r10;", &|[a, ..]| brain_bits(f(a))),
    ]);
}

#[test]
fn loads_and_stores() {
    check(&[
        (
            "st.shared.b32 [%r2], %r10; ld.shared.b32 %r20, [%r2];",
            &|[a, ..]| u(a as u32),
        ),
        (
            "st.shared.b32 [%r2], %r10; ld.shared.s8 %r20, [%r2+3];",
            &|[a, ..]| i(i32::from((a >> 24) as i8)),
        ),
        (
            "st.shared.b32 [%r2], %r10; ld.shared.u8 %r20, [%r2+1];",
            &|[a, ..]| a >> 8 & 255,
        ),
        (
            "st.shared.b32 [%r2], %r10; ld.shared.s16 %d20, [%r2+2];",
            &|[a, ..]| (a >> 16) as i16 as i64 as u64,
        ),
        (
            "st.shared.u8 [%r2], %r10; ld.shared.u8 %h4, [%r2];",
            &|[a, ..]| a & 255,
        ),
        (
            "st.shared.v2.u16 [%r2], {%h0, %h1}; ld.shared.b32 %r20, [%r2];",
            &|[a, b, ..]| (b & 0xffff) << 16 | a & 0xffff,
        ),
        ("ld.global.nc.v2.u32 {%r20, _}, [%d4+8];", &|[_, b, ..]| {
            u(b as u32)
        }),
        ("ld.global.v4.f32 {_, _, %r20, _}, [%d4];", &|[_, b, ..]| {
            u(b as u32)
        }),
        (
            "ld.global.nc.L1::no_allocate.L2::128B.u32 %r20, [%d4+4];",
            &|[a, ..]| a >> 32,
        ),
        ("ld.volatile.global.u64 %d20, [%d4+16];", &|[_, _, c, _]| c),
        ("ld.u64 %d20, [%d4+24];", &|[_, _, _, e]| e),
        (
            "cvta.to.global.u64 %d21, %d4; ld.global.u64 %d20, [%d21];",
            &|[a, ..]| a,
        ),
    ]);
    let generic = "mul.wide.u32 %d21, %r0, 8; mov.u64 %d22, smem; add.s64 %d21, %d21, %d22;
        cvta.shared.u64 %d23, %d21; st.u64 [%d23], %d10; cvta.to.shared.u64 %d24, %d23;
        ld.shared.u64 %d20, [%d24];";
    let local = ".local .align 8 .b8 stack[16]; mov.u64 %d21, stack; cvta.local.u64 %d22, %d21;
        st.local.u64 [%d21+8], %d10; ld.u64 %d20, [%d22+8];";
    check(&[(generic, &|[a, ..]| a), (local, &|[a, ..]| a)]);
}

#[test]
fn atomics() {
    let word = |x: u64| x as u32;
    check(&[
        (
            "st.shared.u32 [%r2], %r10; atom.shared.add.u32 %r21, [%r2], %r11; ld.shared.u32 %r20, [%r2];",
            &|[a, b, ..]| u(word(a).wrapping_add(word(b))),
        ),
        (
            "st.shared.u32 [%r2], %r10; atom.shared.add.u32 %r20, [%r2], %r11;",
            &|[a, ..]| u(word(a)),
        ),
        (
            "st.shared.u32 [%r2], %r10; red.shared.min.s32 [%r2], %r11; ld.shared.u32 %r20, [%r2];",
            &|[a, b, ..]| i((a as i32).min(b as i32)),
        ),
        (
            "st.shared.u32 [%r2], %r10; red.shared.max.u32 [%r2], %r11; ld.shared.u32 %r20, [%r2];",
            &|[a, b, ..]| u(word(a).max(word(b))),
        ),
        (
            "st.shared.u32 [%r2], %r10; red.shared.and.b32 [%r2], %r11; ld.shared.u32 %r20, [%r2];",
            &|[a, b, ..]| u(word(a & b)),
        ),
        (
            "st.shared.u32 [%r2], %r10; red.shared.or.b32 [%r2], %r11; ld.shared.u32 %r20, [%r2];",
            &|[a, b, ..]| u(word(a | b)),
        ),
        (
            "st.shared.u32 [%r2], %r10; red.shared.xor.b32 [%r2], %r11; ld.shared.u32 %r20, [%r2];",
            &|[a, b, ..]| u(word(a ^ b)),
        ),
        (
            "st.shared.u32 [%r2], %r10; atom.shared.exch.b32 %r21, [%r2], %r11; ld.shared.u32 %r20, [%r2];",
            &|[_, b, ..]| u(word(b)),
        ),
        (
            "st.shared.u32 [%r2], %r10; atom.shared.cas.b32 %r21, [%r2], %r11, %r12; ld.shared.u32 %r20, [%r2];",
            &|[a, b, c, _]| u(if word(a) == word(b) { word(c) } else { word(a) }),
        ),
        (
            "st.shared.u32 [%r2], %r10; red.shared.inc.u32 [%r2], %r11; ld.shared.u32 %r20, [%r2];",
            &|[a, b, ..]| u(if word(a) >= word(b) { 0 } else { word(a) + 1 }),
        ),
        (
            "st.shared.u32 [%r2], %r10; red.shared.dec.u32 [%r2], %r11; ld.shared.u32 %r20, [%r2];",
            &|[a, b, ..]| {
                u(if word(a) == 0 || word(a) > word(b) {
                    word(b)
                } else {
                    word(a) - 1
                })
            },
        ),
        (
            "atom.global.max.u64 %d21, [%d4], %d11; ld.global.u64 %d20, [%d4];",
            &|[a, b, ..]| a.max(b),
        ),
        (
            "red.relaxed.gpu.global.add.u64 [%d4], %d11; ld.global.u64 %d20, [%d4];",
            &|[a, b, ..]| a.wrapping_add(b),
        ),
    ]);
}

/// What the lanes of a warp do together, against the same over arrays.
#[test]
fn warp_wide_operations() {
    let modules: Vec<(&str, Module)> = [
        "shfl.sync.up.b32 %r20, %r10, %r14, 0, -1;",
        "shfl.sync.down.b32 %r20, %r10, %r14, 31, -1;",
        "shfl.sync.bfly.b32 %r20, %r10, %r14, 31, -1;",
        "shfl.sync.idx.b32 %r20, %r10, %r14, 31, -1;",
        "shfl.sync.down.b32 %r20|%p5, %r10, %r14, 0x1807, -1; @%p5 xor.b32 %r20, %r20, 1;",
        "vote.sync.ballot.b32 %r20, %p1, -1;",
        "vote.sync.any.pred %p5, %p1, -1;",
        "vote.sync.all.pred %p5, %p1, -1;",
        "vote.sync.uni.pred %p5, %p1, -1;",
        "match.any.sync.b32 %r20, %r15, -1;",
        "match.all.sync.b32 %r20|%p6, %r15, -1;",
        "redux.sync.add.s32 %r20, %r10, -1;",
        "redux.sync.min.s32 %r20, %r10, -1;",
        "redux.sync.max.u32 %r20, %r10, -1;",
        "redux.sync.xor.b32 %r20, %r10, -1;",
        "bar.red.popc.u32 %r20, 0, %p1;",
        "bar.red.and.pred %p5, 0, %p1;",
        "bar.red.or.pred %p5, 0, !%p1;",
        "elect.sync _|%p5, -1;",
        "activemask.b32 %r20;",
    ]
    .into_iter()
    .map(|text| {
        // The third operand is the same in all lanes: a distance; the first's low bits to match.
        let prepared = format!(
            "shfl.sync.idx.b32 %r14, %r12, 0, 31, -1; and.b32 %r14, %r14, 31;
             and.b32 %r15, %r10, 3; {text}"
        );
        (text, module(&prepared))
    })
    .collect();
    let lane = (number(), number(), number(), 0..2u64).prop_map(|(a, b, c, e)| [a, b, c, e]);
    let lanes = proptest::collection::vec(lane, 32);
    let config = ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[5; 32]);
    let result = TestRunner::new_with_rng(config, rng).run(&lanes, |lanes| {
        let inputs: Inputs = lanes.try_into().unwrap();
        let a: Vec<u32> = inputs.iter().map(|x| x[0] as u32).collect();
        let by = inputs[0][2] as usize & 31;
        let ballot = (0..32)
            .map(|l| u32::from(inputs[l][3] == 0) << l)
            .sum::<u32>();
        for (text, module) in &modules {
            let got = run(module, &inputs);
            for lane in 0..32usize {
                let low = |value: u32| -> u32 {
                    (0..32).map(|l| u32::from(a[l] & 3 == value & 3) << l).sum()
                };
                let want = match text.split([' ', '|']).next().unwrap() {
                    "shfl.sync.up.b32" => a[if lane >= by { lane - by } else { lane }],
                    "shfl.sync.down.b32" if text.contains("0x1807") => {
                        // Segments of eight lanes.
                        let inside = lane % 8 + by < 8;
                        if inside { a[lane + by] ^ 1 } else { a[lane] }
                    }
                    "shfl.sync.down.b32" => a[if lane + by < 32 { lane + by } else { lane }],
                    "shfl.sync.bfly.b32" => a[lane ^ by],
                    "shfl.sync.idx.b32" => a[by],
                    "vote.sync.ballot.b32" => ballot,
                    "vote.sync.any.pred" => u32::from(ballot != 0),
                    "vote.sync.all.pred" | "bar.red.and.pred" => u32::from(ballot == u32::MAX),
                    "vote.sync.uni.pred" => u32::from(ballot == 0 || ballot == u32::MAX),
                    "match.any.sync.b32" => low(a[lane]),
                    "match.all.sync.b32" => {
                        if low(a[0]) == u32::MAX {
                            u32::MAX
                        } else {
                            0
                        }
                    }
                    "redux.sync.add.s32" => a.iter().fold(0u32, |x, y| x.wrapping_add(*y)),
                    "redux.sync.min.s32" => a.iter().map(|x| *x as i32).min().unwrap() as u32,
                    "redux.sync.max.u32" => *a.iter().max().unwrap(),
                    "redux.sync.xor.b32" => a.iter().fold(0, |x, y| x ^ y),
                    "bar.red.popc.u32" => ballot.count_ones(),
                    "bar.red.or.pred" => u32::from(ballot != u32::MAX),
                    "elect.sync" => u32::from(lane == 0),
                    "activemask.b32" => u32::MAX,
                    other => panic!("{other}"),
                };
                prop_assert_eq!(got[lane], u(want), "{} lane {}", text, lane);
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Loops with a trip count of their own in each lane, and lanes that leave in the middle.
#[test]
fn divergence() {
    let collatz = "
        mov.u32 %r20, 0;
        and.b32 %r3, %r10, 1023;
        max.u32 %r3, %r3, 1;
        LOOP: setp.eq.u32 %p2, %r3, 1;
        @%p2 bra DONE;
        add.u32 %r20, %r20, 1;
        and.b32 %r4, %r3, 1;
        setp.eq.u32 %p3, %r4, 0;
        @%p3 bra EVEN;
        mad.lo.u32 %r3, %r3, 3, 1;
        bra.uni LOOP;
        EVEN: shr.u32 %r3, %r3, 1;
        bra.uni LOOP;
        DONE:
        bar.warp.sync -1;";
    check(&[(collatz, &|[a, ..]| {
        let (mut x, mut steps) = ((a as u32 & 1023).max(1), 0);
        while x != 1 {
            x = if x.is_multiple_of(2) {
                x / 2
            } else {
                3 * x + 1
            };
            steps += 1;
        }
        steps
    })]);
}

/// A piece of a program on registers 20 to 39; what depends on a lane depends on its first two inputs.
enum Piece {
    Set {
        dst: usize,
        a: usize,
        b: usize,
        op: usize,
        /// A bit of the first input, and whether it must be clear.
        guard: Option<(usize, bool)>,
    },
    /// As often as the second input says.
    Loop(Vec<Piece>),
    If(usize, Vec<Piece>, Vec<Piece>),
}

type Binary = fn(u32, u32) -> u32;

const OPS: [(&str, Binary); 3] = [
    ("add.u32", u32::wrapping_add),
    ("sub.u32", u32::wrapping_sub),
    ("xor.b32", |a, b| a ^ b),
];

fn pieces(random: &mut Random, depth: usize) -> Vec<Piece> {
    let num = 2 + random.below(6);
    let piece = |_| match random.below(8) {
        0 if depth < 3 => Piece::Loop(pieces(random, depth + 1)),
        1 if depth < 3 => {
            let then = pieces(random, depth + 1);
            Piece::If(random.below(4), then, pieces(random, depth + 1))
        }
        what => Piece::Set {
            dst: 20 + random.below(20),
            a: 20 + random.below(20),
            b: 20 + random.below(20),
            op: random.below(3),
            guard: (what < 4).then(|| (random.below(4), what % 2 == 0)),
        },
    };
    (0..num).map(piece).collect()
}

fn text_of(pieces: &[Piece], depth: usize, text: &mut String) {
    for piece in pieces {
        let label = text.len();
        match piece {
            Piece::Set {
                dst,
                a,
                b,
                op,
                guard,
            } => {
                if let Some((bit, clear)) = guard {
                    let not = if *clear { "!" } else { "" };
                    *text += &format!("@{not}%p{} ", 2 + bit);
                }
                *text += &format!("{} %r{dst}, %r{a}, %r{b};\n", OPS[*op].0);
            }
            Piece::Loop(body) => {
                let count = 4 + depth;
                *text += &format!("mov.u32 %r{count}, 0;\nL{label}:\n");
                text_of(body, depth + 1, text);
                *text += &format!("add.u32 %r{count}, %r{count}, 1;\n");
                *text += &format!("setp.le.u32 %p6, %r{count}, %r3;\n@%p6 bra L{label};\n");
            }
            Piece::If(bit, then, otherwise) => {
                *text += &format!("@!%p{} bra L{label};\n", 2 + bit);
                text_of(then, depth + 1, text);
                *text += &format!("bra.uni M{label};\nL{label}:\n");
                text_of(otherwise, depth + 1, text);
                *text += &format!("M{label}:\n");
            }
        }
    }
}

fn interpret(pieces: &[Piece], [a, b]: [u32; 2], registers: &mut [u32; 40]) {
    let is_set = |bit: usize| a >> bit & 1 == 1;
    for piece in pieces {
        match piece {
            Piece::Set { guard, .. } if guard.is_some_and(|(bit, clear)| is_set(bit) == clear) => {}
            &Piece::Set { dst, a, b, op, .. } => {
                registers[dst] = OPS[op].1(registers[a], registers[b]);
            }
            Piece::Loop(body) => (0..=b & 3).for_each(|_| interpret(body, [a, b], registers)),
            Piece::If(bit, then, otherwise) => {
                let taken = if is_set(*bit) { then } else { otherwise };
                interpret(taken, [a, b], registers);
            }
        }
    }
}

/// Registers share rows where no path needs the values of both: in loops, branches and behind guards too.
#[test]
fn registers_that_share_rows() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let program = pieces(&mut random, 0);
        let results = [(); 3].map(|()| 20 + random.below(20));
        let mut text = String::from("and.b32 %r3, %r11, 3;\n");
        for bit in 0..4 {
            let one = 1 << bit;
            text += &format!(
                "and.b32 %r4, %r10, {one};\nsetp.ne.u32 %p{}, %r4, 0;\n",
                2 + bit
            );
        }
        for register in 20..40 {
            text += &format!("mad.lo.u32 %r{register}, %r10, {register}, %r11;\n");
        }
        text_of(&program, 0, &mut text);
        let [a, b, c] = results;
        text += &format!("xor.b32 %r20, %r{a}, %r{b};\nadd.u32 %r20, %r20, %r{c};");
        check(&[(&text, &|[x, y, ..]| {
            let [x, y] = [x as u32, y as u32];
            let mut registers = [0; 40];
            for (i, register) in (0..).zip(&mut registers) {
                *register = x.wrapping_mul(i).wrapping_add(y);
            }
            interpret(&program, [x, y], &mut registers);
            // The result is written before its last operand is read.
            registers[20] = registers[a] ^ registers[b];
            u(registers[20].wrapping_add(registers[c]))
        })]);
    }
}

#[test]
fn a_table_of_targets() {
    let table = "
        and.b32 %r3, %r10, 3;
        setp.ne.u32 %p2, %r3, 3;
        mov.u32 %r20, 99;
        LIST: .branchtargets A, B, A;
        @%p2 brx.idx %r3, LIST;
        bra.uni DONE;
        A: mov.u32 %r20, 10;
        B: add.u32 %r20, %r20, 1;
        DONE: bar.warp.sync -1;";
    check(&[(table, &|[a, ..]| match a & 3 {
        0 | 2 => 11,
        1 => 100,
        _ => 99,
    })]);
}

#[test]
fn special_registers_and_clusters() {
    let text = kernel(
        "mov.u32 %r3, %ctaid.x; mov.u32 %r4, %cluster_ctarank; mov.u32 %r5, %clusterid.x;
         mov.u32 %r6, %cluster_nctarank; mov.u32 %r7, %nctaid.x; mov.u32 %r8, %laneid;
         mov.u32 %r9, %lanemask_lt; popc.b32 %r9, %r9;
         setp.ne.u32 %p0, %r8, %r9; @%p0 trap;
         mad.lo.u32 %r10, %r5, %r6, %r4; setp.ne.u32 %p0, %r10, %r3; @%p0 trap;
         // Each block adds its number to its next peer's first word, and then shows its own.
         mov.u32 %r11, smem;
         setp.eq.u32 %p1, %r0, 0;
         @%p1 st.shared.u32 [%r11], 100;
         barrier.cluster.arrive.release.aligned;
         barrier.cluster.wait.acquire.aligned;
         add.u32 %r12, %r4, 1; rem.u32 %r12, %r12, %r6;
         mapa.shared::cluster.u32 %r13, %r11, %r12;
         getctarank.shared::cluster.u32 %r14, %r13;
         setp.ne.u32 %p0, %r14, %r12; @%p0 trap;
         @%p1 red.shared::cluster.add.u32 [%r13], %r3;
         mov.u64 %d4, smem; cvta.shared.u64 %d5, %d4; mapa.u64 %d6, %d5, %r12;
         @%p1 atom.add.u32 %r15, [%d6], 1000;
         barrier.cluster.arrive.aligned;
         barrier.cluster.wait.aligned;
         @%p1 ld.shared.u32 %r16, [%r11];
         mul.wide.u32 %d7, %r3, 4; add.s64 %d7, %d7, %d0;
         @%p1 st.global.u32 [%d7], %r16;",
    );
    let module = Module::parse(&text).unwrap();
    for seed in 0..20 {
        let mut memory = Memory::new();
        let data = memory.alloc(32, Init::Uninit);
        let args = [Arg::U64(data); 2];
        let launched = Launch {
            grid: [8, 1, 1],
            block: [64, 1, 1],
            cluster: 4,
            args: &args,
            seed,
            ..Launch::default()
        };
        launch(&module, "k", &launched, &mut memory).unwrap_or_else(|error| panic!("{error}"));
        let sums = memory.bytes(data).unwrap().chunks(4);
        let sums: Vec<u8> = sums
            .map(|b| (u16::from_le_bytes([b[0], b[1]]) - 1100) as u8)
            .collect();
        assert_eq!(sums, [3, 0, 1, 2, 7, 4, 5, 6]);
    }
}
