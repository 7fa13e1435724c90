//! Files of keys and queries, of every dtype.

use keysieve::{Keys, Queries};
use keysieve_tests::device::{check_same, fail};
use keysieve_tests::strategies::Fill;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::archive::{archive, f32_bytes, parse_kv};

/// The f32 of half-precision bits, from the format's definition.
fn half_value(bits: u16, exponent_bits: u32) -> f64 {
    let mantissa_bits = 15 - exponent_bits;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = i32::from(bits >> mantissa_bits & ((1 << exponent_bits) - 1));
    let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / 2f64.powi(mantissa_bits as i32);
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    sign * match exponent {
        e if e == (1 << exponent_bits) - 1 => {
            if mantissa == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        0 => mantissa * 2f64.powi(1 - bias),
        e => (1.0 + mantissa) * 2f64.powi(e - bias),
    }
}

pub(crate) fn half_floats_widen(bits: u16) -> TestCaseResult {
    for (dtype, exponent_bits) in [("F16", 5), ("BF16", 8)] {
        let bytes = archive(
            &[],
            &[
                ("keys", dtype, vec![1, 1, 1], bits.to_le_bytes().to_vec()),
                ("queries", dtype, vec![1, 1, 1], bits.to_le_bytes().to_vec()),
            ],
        );
        let kv = parse_kv(&bytes).map_err(fail)?;
        let expected = half_value(bits, exponent_bits) as f32;
        check_same("format", kv.keys().data, &[expected])?;
        check_same("format", kv.queries().data, &[expected])?;
    }
    Ok(())
}

pub(crate) fn kv_is_read(fill: Fill) -> TestCaseResult {
    let (keys, queries) = (fill.floats(2 * 5 * 4), fill.floats(4 * 3 * 4));
    for leading in [vec![], vec![1]] {
        let with_batch = |shape: [usize; 3]| [leading.as_slice(), &shape].concat();
        let bytes = archive(
            &[],
            &[
                ("queries", "F32", with_batch([4, 3, 4]), f32_bytes(&queries)),
                ("unknown", "I64", vec![1], vec![0; 8]),
                ("keys", "F32", with_batch([2, 5, 4]), f32_bytes(&keys)),
            ],
        );
        let kv = parse_kv(&bytes).map_err(fail)?;
        let Keys {
            data,
            batch,
            num_kv_heads,
            tokens,
            head_dim,
        } = kv.keys();
        check_same("file", data, &keys)?;
        prop_assert_eq!([batch, num_kv_heads, tokens, head_dim], [1, 2, 5, 4]);
        let Queries {
            data,
            batch,
            num_qo_heads,
            num_queries,
            head_dim,
        } = kv.queries();
        check_same("file", data, &queries)?;
        prop_assert_eq!([batch, num_qo_heads, num_queries, head_dim], [1, 4, 3, 4]);
    }
    Ok(())
}
