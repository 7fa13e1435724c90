//! Every instruction set's vectors against plain arithmetic, lane by lane.

use super::*;

/// Numbers that vectors get wrong: NaN, infinities, zeros of both signs, denormals, extremes.
fn floats(seed: u32) -> [f32; FLOATS] {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match state >> 28 {
            0 => f32::NAN,
            1 => -f32::NAN,
            2 => f32::INFINITY,
            3 => f32::NEG_INFINITY,
            4 => 0.0,
            5 => -0.0,
            6 => f32::from_bits(state >> 9),
            7 => f32::MAX,
            _ => f32::from_bits(0x3f80_0000 | (state >> 9)) - 1.5,
        }
    })
}

fn bytes(seed: u32) -> [u8; BYTES] {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}

fn same(got: &[f32], expected: &[f32]) {
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
        assert!(same, "lane {i}: {got:?}, expected {expected:?}");
    }
}

on_each_isa! {
    fn check_floats(seed: u32) = check_floats_on;
}

#[inline(always)]
fn check_floats_on<I: Isa>(isa: I, seed: u32) {
    let [a, b, c] = [1, 2, 3].map(|i| floats(seed + i));
    let (x, y, z) = (isa.load(&a), isa.load(&b), isa.load(&c));
    let stored = |x: I::Floats| {
        let mut to = [0.0; FLOATS];
        isa.store(x, &mut to);
        to
    };
    same(&stored(isa.splat(a[0])), &[a[0]; FLOATS]);
    same(
        &stored(isa.add(x, y)),
        &std::array::from_fn::<_, FLOATS, _>(|i| a[i] + b[i]),
    );
    let fused = std::array::from_fn::<_, FLOATS, _>(|i| a[i].mul_add(b[i], c[i]));
    same(&stored(isa.fma(x, y, z)), &fused);
    let at_least = (0..FLOATS)
        .filter(|&i| a[i] >= b[i])
        .map(|i| 1 << i)
        .sum::<u16>();
    assert_eq!(isa.at_least(x, y), at_least);

    let (values, indices) = isa.larger((x, isa.splat(7.0)), y, isa.splat(9.0));
    let takes = |i: usize| b[i] > a[i] || (a[i].is_nan() && !b[i].is_nan());
    let expected = std::array::from_fn::<_, FLOATS, _>(|i| if takes(i) { b[i] } else { a[i] });
    same(&stored(values), &expected);
    let expected = std::array::from_fn::<_, FLOATS, _>(|i| if takes(i) { 9.0 } else { 7.0 });
    same(&stored(indices), &expected);
}

/// Integers whose halves are every 16-bit number but -2^15.
fn ints(seed: u32) -> IntLanes {
    let halves = floats(seed).map(|x| x.to_bits() as i32);
    let is_least = |x: i32| x as i16 == i16::MIN || (x >> 16) as i16 == i16::MIN;
    IntLanes(halves.map(|x| if is_least(x) { 0x7fff_8001 } else { x }))
}

on_each_isa! {
    fn check_ints(seed: u32) = check_ints_on;
}

#[inline(always)]
fn check_ints_on<I: Isa>(isa: I, seed: u32) {
    let [a, b, c] = [1, 2, 3].map(|i| ints(seed + i));
    let (x, y, z) = (isa.load_ints(&a), isa.load_ints(&b), isa.load_ints(&c));
    let check = |x: I::Ints, expected: fn(i32, i32, i32) -> i32| {
        let mut to = IntLanes([0; FLOATS]);
        isa.store_ints(x, &mut to);
        let expected = std::array::from_fn(|i| expected(a.0[i], b.0[i], c.0[i]));
        assert_eq!(to, IntLanes(expected));
    };
    check(isa.add_ints(x, y), |a, b, _| a.wrapping_add(b));
    check(isa.min_ints(x, y), |a, b, _| a.min(b));
    check(isa.max_ints(x, y), |a, b, _| a.max(b));
    check(isa.add_products(x, y, z), |a, b, c| {
        let product = |at: u32| i64::from((b >> at) as i16) * i64::from((c >> at) as i16);
        (i64::from(a) + product(0) + product(16)) as i32
    });
    check(isa.with_low_byte(x, isa.splat_int(171)), |a, _, _| {
        (a >> 8 << 8) + 171
    });
    let exceeds = (0..FLOATS).filter(|&i| a.0[i] > b.0[i]).map(|i| 1 << i);
    assert_eq!(isa.exceeds(x, y), exceeds.sum::<u16>());
    assert_eq!(isa.exceeds(x, x), 0);
}

on_each_isa! {
    fn check_bytes(seed: u32) = check_bytes_on;
}

#[inline(always)]
fn check_bytes_on<I: Isa>(isa: I, seed: u32) {
    let a = bytes(seed + 1);
    check_each_part(isa, |part| isa.load_bytes(&a, part), a);
    check_each_part(
        isa,
        |part| isa.low_nibbles(isa.load_bytes(&a, part)),
        a.map(|a| a % 16),
    );
    check_each_part(
        isa,
        |part| isa.high_nibbles(isa.load_bytes(&a, part)),
        a.map(|a| a / 16),
    );
    check_sums(isa, seed);
    check_look_up::<I, 1>(isa, seed, &a);
    check_look_up::<I, 2>(isa, seed, &a);
    check_look_up::<I, 4>(isa, seed, &a);
    check_look_up::<I, 8>(isa, seed, &a);
    check_look_up::<I, 16>(isa, seed, &a);
}

/// The parts of a block that `of_part` makes, against all of it.
#[inline(always)]
fn check_each_part<I: Isa>(isa: I, of_part: impl Fn(usize) -> I::Bytes, expected: [u8; BYTES]) {
    let mut sums = [0; BYTES];
    for part in 0..I::PARTS {
        isa.store_sums(
            isa.add_widened(isa.zero_sums(), of_part(part)),
            &mut sums,
            part,
        );
    }
    assert_eq!(sums, expected.map(u16::from));
}

/// Sums of up to 128 blocks, which is where they may end.
#[inline(always)]
fn check_sums<I: Isa>(isa: I, seed: u32) {
    let num_blocks = seed % 129;
    let blocks: Vec<_> = (0..num_blocks).map(|i| bytes(seed + i)).collect();
    let expected: [u16; BYTES] =
        std::array::from_fn(|i| blocks.iter().map(|block| u16::from(block[i])).sum());
    let mut stored = [0; BYTES];
    let largest = i16::MAX as u16;
    for limit in [0, 1, expected[0], expected[63], 255, 256, 12_345, largest] {
        let mut mask = 0;
        for part in 0..I::PARTS {
            let mut sums = isa.zero_sums();
            for block in &blocks {
                sums = isa.add_widened(sums, isa.load_bytes(block, part));
            }
            mask |= isa.at_most(sums, limit) << (part * (BYTES / I::PARTS));
            isa.store_sums(sums, &mut stored, part);
        }
        let lanes = (0..BYTES).filter(|&i| expected[i] <= limit);
        assert_eq!(mask, lanes.map(|i| 1 << i).sum::<u64>(), "at most {limit}");
        assert_eq!(stored, expected);
    }
}

#[inline(always)]
fn check_look_up<I: Isa, const ROWS: usize>(isa: I, seed: u32, indices: &[u8; BYTES]) {
    let rows = std::array::from_fn::<_, ROWS, _>(|i| {
        let row = bytes(seed + 100 * i as u32);
        std::array::from_fn::<_, 16, _>(|j| row[j])
    });
    let indices = indices.map(|index| (usize::from(index) % (16 * ROWS)) as u8);
    let expected = indices.map(|index| rows[usize::from(index / 16)][usize::from(index % 16)]);
    check_each_part(
        isa,
        |part| isa.look_up(&rows, isa.load_bytes(&indices, part)),
        expected,
    );
}

#[test]
fn every_instruction_set_computes_lane_by_lane() {
    for simd in Simd::available() {
        for seed in 0..2000 {
            check_floats(simd, seed);
            check_ints(simd, seed);
            check_bytes(simd, seed);
        }
    }
}

#[test]
fn the_fastest_comes_last_and_has_its_name() {
    let available = Simd::available();
    assert_eq!(available[0].name(), "portable");
    for simd in available {
        assert_eq!(Simd::named(simd.name()).unwrap(), simd);
        assert!(NAMES.contains(&simd.name()));
    }
}

#[test]
fn unknown_and_unavailable_names_are_refused() {
    let error = Simd::named("sse9").unwrap_err().to_string();
    assert_eq!(
        error,
        "KEYSIEVE_SIMD: got sse9, expected one of portable, avx2, avx512, neon"
    );
    // No processor has both.
    for name in ["avx2", "neon"] {
        if let Err(error) = Simd::named(name) {
            let text = error.to_string();
            assert!(
                text.contains("one that this processor has: portable"),
                "{text}"
            );
            return;
        }
    }
    panic!("a processor with AVX2 and NEON");
}
