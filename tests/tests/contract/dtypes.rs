//! Point 5: keys and queries of half precision are their numbers in f32, and positions of 64 bits those of 32.

use half::{bf16, f16};
use keysieve::tensor::Component;
use keysieve::{Backend, Error, IndexConfig, Indices, Keys, Queries, SelectConfig};
use keysieve_tests::device::{Device, fail, names};
use keysieve_tests::strategies::{Fill, LoopCase};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};

use crate::whole::{Whole, whole_cases};

/// A type of half precision.
trait Half: Component {
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Half for f16 {
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

impl Half for bf16 {
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }

    fn to_f32(self) -> f32 {
        self.to_f32()
    }
}

/// Numbers of both types; keys are to be finite.
fn in_both<T: Half>(data: &[f32], finite: bool) -> (Vec<T>, Vec<f32>) {
    let most = if finite { 60_000.0 } else { f32::INFINITY };
    let halves: Vec<T> = data
        .iter()
        .map(|x| T::from_f32(x.clamp(-most, most)))
        .collect();
    let wide = halves.iter().map(|x| x.to_f32()).collect();
    (halves, wide)
}

pub(crate) fn cases() -> impl Strategy<Value = (LoopCase, bool, usize)> {
    (whole_cases(), any::<bool>(), any::<usize>())
}

/// 5: on every device, in one of the variants that fit.
pub(crate) fn halves_are_their_numbers(
    device: &Device,
    (case, brain, pick): (LoopCase, bool, usize),
) -> TestCaseResult {
    match brain {
        true => check::<bf16>(device, &case, pick),
        false => check::<f16>(device, &case, pick),
    }
}

fn check<T: Half>(device: &Device, case: &LoopCase, pick: usize) -> TestCaseResult {
    let shape = &case.shape;
    let mut whole = Whole::new(case);
    whole.config.weights = case.weights;
    let spare = 2;
    let mut expected = whole.selector(&Backend::Cpu, spare)?;
    whole.config.indices = Some(IndexConfig::WIDE);
    let mut got = whole.selector(&device.backend, spare)?;
    if let Some(step) = got.cuda_step() {
        let variants = step.variants();
        step.set_variant(variants[pick % variants.len()])
            .map_err(fail)?;
    }
    let keys_shape = [shape.batch, shape.num_kv_heads, 1, shape.head_dim];
    let [batch, heads, queries] = [shape.batch, shape.num_qo_heads(), shape.num_queries];
    let queries_shape = [batch, heads, queries, shape.head_dim];
    for step in 0..=spare as u64 {
        let fill = |fill: Fill, shape: [usize; 4]| {
            let seed = fill.seed ^ step;
            Fill { seed, ..fill }.floats(shape.iter().product())
        };
        let (half_keys, wide_keys) = in_both::<T>(&fill(case.keys, keys_shape), true);
        let half_keys = Keys::new(&half_keys, keys_shape).map_err(fail)?;
        let wide_keys = Keys::new(&wide_keys, keys_shape).map_err(fail)?;
        let (halves, wide) = in_both::<T>(&fill(case.queries, queries_shape), false);
        let halves = Queries::new(&halves, queries_shape).map_err(fail)?;
        if step > 0 {
            expected.append(wide_keys).map_err(fail)?;
        }
        // The last step of a GPU is of what was uploaded.
        let got = match got.cuda_step() {
            Some(on_gpu) if step == spare as u64 => {
                on_gpu.upload(half_keys, halves).map_err(fail)?;
                on_gpu.enqueue(&mut |_| Ok(())).map_err(fail)?;
                got.read()
            }
            _ => {
                if step > 0 {
                    got.append(half_keys).map_err(fail)?;
                }
                got.select(halves)
            }
        };
        let expected = expected.select(Queries::new(&wide, queries_shape).map_err(fail)?);
        let (got, expected) = (got.map_err(fail)?, expected.map_err(fail)?);
        prop_assert_eq!(got.padded_positions(), expected.padded_positions());
        prop_assert_eq!(got.lengths(), expected.lengths());
        for (batch, head, query) in rows([batch, heads, queries]) {
            prop_assert_eq!(
                got.weights(batch, head, query),
                expected.weights(batch, head, query)
            );
        }
        let wide = expected.padded_positions().iter().map(|&p| p.into());
        prop_assert_eq!(got.indices(), Some(&Indices::I64(wide.collect())));
        prop_assert_eq!(expected.indices(), None);
    }
    let codes =
        [got, expected].map(|selector| selector.to_index().map(|index| index.to_parts().codes));
    let [got, expected] = codes;
    prop_assert_eq!(got.map_err(fail)?, expected.map_err(fail)?);
    Ok(())
}

fn rows([batch, heads, queries]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..batch * heads * queries)
        .map(move |row| (row / queries / heads, row / queries % heads, row % queries))
}

/// 8: what cannot be is named in every type, and changes nothing.
pub(crate) fn bad_halves(device: &Device) -> TestCaseResult {
    bad::<f16>(device)?;
    bad::<bf16>(device)
}

fn bad<T: Half>(device: &Device) -> TestCaseResult {
    let slots = IndexConfig {
        wide: false,
        slots: true,
    };
    let config = |indices| SelectConfig {
        heavy: 6,
        indices,
        ..SelectConfig::default()
    };
    let whole = Whole::small(30, config(Some(slots)));
    match whole.selector(&device.backend, 2) {
        Err(TestCaseError::Fail(reason)) => {
            prop_assert!(reason.message().contains("indices: got slots"))
        }
        _ => return Err(fail("slots without pages are not refused")),
    }
    let whole = Whole::small(30, config(Some(IndexConfig::WIDE)));
    let mut selector = whole.selector(&device.backend, 2)?;
    selector.select(whole.queries()).map_err(fail)?;
    let before = selector.selection().clone();

    let mut data = vec![T::from_f32(1.0); 64];
    let queries = |shape: [usize; 4]| Queries::new(&data[..shape.iter().product()], shape);
    names(
        "head_dim",
        selector
            .select(queries([2, 4, 1, 4]).map_err(fail)?)
            .map(drop),
    )?;
    names("queries", Queries::new(&data, [2, 4, 1, 4]).map(drop))?;
    let ones = data.clone();
    let lying = Queries {
        data: &ones[..63],
        ..queries([2, 4, 1, 8]).map_err(fail)?
    };
    names("queries", selector.select(lying).map(drop))?;
    let keys = Keys::new(&data[..96 / 2], [2, 2, 3, 4]).map_err(fail)?;
    names("head_dim", selector.append(keys))?;
    data[17] = T::from_f32(f32::NEG_INFINITY);
    let got = selector.append(Keys::new(&data[..32], [2, 2, 1, 8]).map_err(fail)?);
    let expected = Error::NotFinite {
        batch: 1,
        head: 0,
        token: 0,
        component: 1,
        value: "-inf".into(),
    };
    prop_assert_eq!(&got, &Err(expected));
    if let Some(step) = selector.cuda_step() {
        let keys = Keys::new(&data[..32], [2, 2, 1, 8]).map_err(fail)?;
        prop_assert_eq!(step.upload(keys, whole.queries()), got);
        let keys = Keys::new(&data[32..], [2, 2, 1, 8]).map_err(fail)?;
        names("queries", step.upload(keys, lying))?;
        names("step", step.enqueue(&mut |_| Ok(())))?;
    }
    prop_assert_eq!(selector.seq_len(), 34);
    prop_assert!(selector.selection() == &before, "the selection changed");
    Ok(())
}
