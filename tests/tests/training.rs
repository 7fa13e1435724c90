//! Training on a GPU: against training on the CPU from the same start, and against itself.

use std::process::ExitCode;

use half::{bf16, f16};
use keysieve::cuda::{DeviceKeys, KeyBuffer, KeyDtype, KeySlice, train};
use keysieve::{
    Backend, CentroidDtype, Error, KeyIndex, Keys, Metric, PqConfig, Queries, SelectConfig,
    Selector, Start, TrainConfig,
};
use keysieve_tests::device::{CUDA, Device, Suite, check_same, fail};
use keysieve_tests::oracle::{augmented, distance_f64};
use keysieve_tests::strategies::{FINITE, Fill, Palette, Random, fills};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestCaseError, TestCaseResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    for device in CUDA {
        suite.device_property(device, "inertia_is_the_cpus", cases, inertia_is_the_cpus);
        suite.device_property(device, "codes_are_nearest", any_cases, codes_are_nearest);
        suite.device_property(
            device,
            "few_are_met_exactly",
            few_cases,
            few_are_met_exactly,
        );
    }
    suite.on_devices(&CUDA, "every_dtype_and_layout", every_dtype_and_layout);
    suite.on_devices(&CUDA, "large_codebooks", large_codebooks);
    suite.on_devices(&CUDA, "bad_input_is_named", bad_input_is_named);
    suite.on_each_device("samples_are_the_cpus", samples_are_the_cpus);
    suite.on_each_device("tolerance_of_samples", tolerance_of_samples);
    suite.on_each_device("empty_clusters_of_samples", empty_clusters_of_samples);
    suite.on_each_device("a_warm_start_goes_on", a_warm_start_goes_on);
    suite.on_each_device("tolerance_stops_early", tolerance_stops_early);
    suite.on_each_device("centroids_are_rounded", centroids_are_rounded);
    suite.run()
}

/// Keys to train on.
#[derive(Debug, Clone)]
struct Case {
    shape: [usize; 4],
    pq: PqConfig,
    iterations: usize,
    seed: u64,
    fill: Fill,
}

impl Case {
    fn training(&self) -> TrainConfig {
        TrainConfig {
            iterations: self.iterations,
            seed: self.seed,
            start: Start::Sampled,
            ..TrainConfig::default()
        }
    }

    fn data(&self) -> Vec<f32> {
        self.fill.floats(self.shape.iter().product())
    }

    fn train(&self, backend: &Backend, data: &[f32]) -> Result<KeyIndex, TestCaseError> {
        let keys = Keys::new(data, self.shape).map_err(fail)?;
        let capacity = self.shape[2];
        KeyIndex::train_on(backend, &self.pq, &self.training(), keys, capacity).map_err(fail)
    }
}

fn cases_of(palettes: &'static [Palette], tokens: usize) -> impl Strategy<Value = Case> {
    let metric = select(vec![Metric::L2, Metric::Ip]);
    let format = (
        select(vec![1usize, 2, 3, 4]),
        select(vec![1usize, 2, 8, 9, 31, 32, 33, 40, 64]),
        1..=7u32,
    );
    let heads = (1..=2usize, 1..=2usize);
    let tokens = prop_oneof![1..=tokens, select(vec![1usize, 127, 128, 129, 256, 257])];
    let training = (0..4usize, any::<u64>(), fills(palettes));
    (metric, format, heads, 0..4usize, tokens, training).prop_map(
        |(metric, (m, sub_dim, bits), (batch, heads), init_offset, tokens, training)| {
            let (iterations, seed, fill) = training;
            Case {
                shape: [batch, heads, init_offset + tokens, m * sub_dim],
                pq: PqConfig {
                    num_subvectors: m,
                    bits,
                    init_offset,
                    metric,
                },
                iterations,
                seed,
                fill,
            }
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    cases_of(&[Palette::Usual], 700)
}

fn any_cases() -> impl Strategy<Value = Case> {
    cases_of(FINITE, 300)
}

fn few_cases() -> impl Strategy<Value = (Case, usize)> {
    (cases_of(&[Palette::Usual], 100), 1..=64usize)
}

/// The sum over all points of the squared distance to the nearest centroid, in f64, augmented with the metric `ip`.
fn inertia(index: &KeyIndex, data: &[f32], tokens: usize) -> f64 {
    let (pq, head_dim) = (index.config(), index.head_dim());
    let (m, sub_dim) = (pq.num_subvectors, pq.sub_dim(head_dim));
    let added = index.augmentation();
    let mut sum = 0.0;
    for (group, keys) in data.chunks(tokens * head_dim).enumerate() {
        for subvector in 0..m {
            let problem = group * m + subvector;
            let first = problem * pq.num_centroids();
            let centroids: Vec<Vec<f32>> = (first..first + pq.num_centroids())
                .map(|at| {
                    let mut centroid = index.centroids()[at * sub_dim..][..sub_dim].to_vec();
                    centroid.extend(added.map(|added| added.components[at]));
                    centroid
                })
                .collect();
            for key in keys.chunks(head_dim).skip(pq.init_offset) {
                let x = &key[subvector * sub_dim..][..sub_dim];
                let x = added.map_or(x.to_vec(), |added| augmented(x, added.phis[problem]));
                let distances = centroids.iter().map(|c| distance_f64(&x, c));
                sum += distances.fold(f64::INFINITY, f64::min);
            }
        }
    }
    sum
}

/// The same start, and sums in f64: as good as the CPU's, and the same on every run.
fn inertia_is_the_cpus(device: &Device, case: Case) -> TestCaseResult {
    let data = case.data();
    let on_gpu = case.train(&device.backend, &data)?;
    let on_cpu = case.train(&Backend::Cpu, &data)?;
    let tokens = case.shape[2];
    let (got, expected) = (
        inertia(&on_gpu, &data, tokens),
        inertia(&on_cpu, &data, tokens),
    );
    // Where a cluster is empty the backends choose another far point; with as many centroids as keys that is
    // most of them.
    let is_roomy = tokens - case.pq.init_offset >= 8 * case.pq.num_centroids();
    if is_roomy || case.iterations == 0 {
        let near = 1e-3 * expected + 1e-9 * data.len() as f64;
        prop_assert!(
            (got - expected).abs() <= near,
            "{} is not {}",
            got,
            expected
        );
    } else {
        prop_assert!(
            got <= 1.5 * expected + 1e-2 * data.len() as f64,
            "{} {}",
            got,
            expected
        );
    }
    if case.iterations == 0 {
        check_same("cpu", on_gpu.centroids(), on_cpu.centroids())?;
        prop_assert!(on_gpu == on_cpu, "codes differ from the same centroids");
    }
    let again = case.train(&device.backend, &data)?;
    prop_assert!(on_gpu == again, "two runs differ");
    Ok(())
}

/// Whatever finite numbers come: finite centroids, and the codes that the CPU gives keys with them.
fn codes_are_nearest(device: &Device, case: Case) -> TestCaseResult {
    let data = case.data();
    let index = case.train(&device.backend, &data)?;
    prop_assert!(index.centroids().iter().all(|c| c.is_finite()));
    let mut parts = index.to_parts();
    parts.num_codes = 0;
    let codes = std::mem::take(&mut parts.codes);
    let mut on_cpu = KeyIndex::from_parts(parts, case.shape[2]).map_err(fail)?;
    let [batch, heads, tokens, head_dim] = case.shape;
    let keys = Keys::new(&data, case.shape).map_err(fail)?;
    let quantised = keys.copy_tokens(case.pq.init_offset..tokens);
    let shape = [batch, heads, tokens - case.pq.init_offset, head_dim];
    on_cpu
        .append(Keys::new(&quantised, shape).map_err(fail)?)
        .map_err(fail)?;
    check_same("cpu", &codes, &on_cpu.to_parts().codes)?;
    // What the parts do not say.
    on_cpu
        .set_training_error(index.training_error())
        .map_err(fail)?;
    prop_assert!(index == on_cpu);
    Ok(())
}

/// With as many centroids as distinct keys none is left without its own, given the iterations.
fn few_are_met_exactly(device: &Device, (mut case, distinct): (Case, usize)) -> TestCaseResult {
    let [.., tokens, head_dim] = case.shape;
    case.iterations = 2;
    case.pq.bits = case.pq.bits.min(5);
    let distinct = distinct.min(case.pq.num_centroids());
    let mut random = Random::new(case.fill.seed);
    let choices: Vec<f32> = (0..distinct * head_dim)
        .map(|_| random.below(9) as f32)
        .collect();
    let keys = case.shape.iter().product::<usize>() / head_dim;
    let data: Vec<f32> = (0..keys)
        .flat_map(|_| &choices[random.below(distinct) * head_dim..][..head_dim])
        .copied()
        .collect();
    let before = Case {
        iterations: 0,
        ..case.clone()
    };
    let first = inertia(&before.train(&device.backend, &data)?, &data, tokens);
    let last = inertia(&case.train(&device.backend, &data)?, &data, tokens);
    prop_assert!(last <= first, "{} after {}", last, first);
    // Each iteration gives some empty clusters keys of their own.
    prop_assert!(first == 0.0 || last < first, "{} after {}", last, first);
    Ok(())
}

/// The same values in every type and order of axes give the same index.
fn every_dtype_and_layout(device: &Device) -> TestCaseResult {
    let Backend::Cuda(gpu) = &device.backend else {
        return Err(fail("no GPU"));
    };
    let [batch, heads, tokens, head_dim] = [2, 2, 40, 6];
    let mut random = Random::new(5);
    // Few bits: exact in all three.
    let data: Vec<f32> = (0..batch * heads * tokens * head_dim)
        .map(|_| random.below(64) as f32 / 8.0 - 4.0)
        .collect();
    let shape = [batch, heads, tokens, head_dim];
    let pq = PqConfig {
        num_subvectors: 2,
        bits: 3,
        init_offset: 7,
        metric: Metric::L2,
    };
    for metric in [Metric::L2, Metric::Ip] {
        let case = Case {
            shape,
            pq: PqConfig { metric, ..pq },
            iterations: 2,
            seed: 9,
            fill: Fill::usual(0),
        };
        let expected = case.train(&device.backend, &data)?;
        let same = |keys: KeySlice<'_>, strides| -> TestCaseResult {
            let buffer = KeyBuffer::new(gpu, keys).map_err(fail)?;
            let keys = buffer.keys(shape, strides).map_err(fail)?;
            // SAFETY: the buffer outlives the call, and nothing writes it.
            let got = unsafe { train::train(gpu, &case.pq, &case.training(), &keys, tokens) };
            prop_assert!(got.map_err(fail)? == expected, "{:?} {:?}", keys, metric);
            Ok(())
        };
        // [batch, tokens, heads, head_dim], with a gap behind each token.
        let token_stride = heads * head_dim + 5;
        let mut by_token = vec![0.0; batch * tokens * token_stride];
        for (row, key) in data.chunks(head_dim).enumerate() {
            let (group, token) = (row / tokens, row % tokens);
            let (batch, head) = (group / heads, group % heads);
            let at = (batch * tokens + token) * token_stride + head * head_dim;
            by_token[at..at + head_dim].copy_from_slice(key);
        }
        let by_head_strides = [heads * tokens * head_dim, tokens * head_dim, head_dim];
        let by_token_strides = [tokens * token_stride, head_dim, token_stride];
        for (data, strides) in [(&data, by_head_strides), (&by_token, by_token_strides)] {
            let halves: Vec<f16> = data.iter().map(|&x| f16::from_f32(x)).collect();
            let brains: Vec<bf16> = data.iter().map(|&x| bf16::from_f32(x)).collect();
            same(KeySlice::F32(data), strides)?;
            same(KeySlice::F16(&halves), strides)?;
            same(KeySlice::Bf16(&brains), strides)?;
        }
    }
    Ok(())
}

/// Centroids whose sums no shared memory holds, in several chunks and slices.
fn large_codebooks(device: &Device) -> TestCaseResult {
    for metric in [Metric::L2, Metric::Ip] {
        let case = Case {
            shape: [1, 1, 130, 256],
            pq: PqConfig {
                num_subvectors: 1,
                bits: 8,
                init_offset: 0,
                metric,
            },
            iterations: 1,
            seed: 1,
            fill: Fill::usual(2),
        };
        codes_are_nearest(device, case)?;
    }
    Ok(())
}

fn bad_input_is_named(device: &Device) -> TestCaseResult {
    let Backend::Cuda(gpu) = &device.backend else {
        return Err(fail("no GPU"));
    };
    let shape = [2, 2, 40, 8];
    let mut data = Fill::usual(1).floats(2 * 2 * 40 * 8);
    let pq = PqConfig {
        bits: 3,
        init_offset: 4,
        ..PqConfig::default()
    };
    let sampled = TrainConfig {
        start: Start::Sampled,
        ..TrainConfig::default()
    };
    let names = |argument: &str, result: keysieve::Result<KeyIndex>| match result {
        Err(Error::Invalid {
            argument: named, ..
        }) if named.contains(argument) => Ok(()),
        other => Err(fail(format!("{argument}: {:?}", other.map(drop)))),
    };
    {
        let keys = Keys::new(&data, shape).map_err(fail)?;
        let train_on = |pq: &PqConfig, training: &TrainConfig, keys, capacity| {
            KeyIndex::train_on(&device.backend, pq, training, keys, capacity)
        };
        names("start", train_on(&pq, &TrainConfig::default(), keys, 40))?;
        for tolerance in [-1.0, f32::NAN, f32::INFINITY] {
            names(
                "tolerance",
                train_on(
                    &pq,
                    &TrainConfig {
                        tolerance,
                        ..sampled
                    },
                    keys,
                    40,
                ),
            )?;
        }
        names("capacity", train_on(&pq, &sampled, keys, 39))?;
        names(
            "bits",
            train_on(&PqConfig { bits: 9, ..pq }, &sampled, keys, 40),
        )?;
        let late = PqConfig {
            init_offset: 40,
            ..pq
        };
        names("keys", train_on(&late, &sampled, keys, 40))?;
        let lying = Keys {
            data: &data[1..],
            ..keys
        };
        names("keys", train_on(&pq, &sampled, lying, 40))?;
        let index = train_on(&pq, &sampled, keys, 40).map_err(fail)?;
        let other = Keys::new(&data, [1, 4, 40, 8]).map_err(fail)?;
        names(
            "batch",
            index.retrain_on(&device.backend, &sampled, other, 40),
        )?;
    }
    let buffer = KeyBuffer::new(gpu, KeySlice::F32(&data)).map_err(fail)?;
    let named = |argument: &str, result: keysieve::Result<DeviceKeys>| match result {
        Err(Error::Invalid {
            argument: named, ..
        }) if named.contains(argument) => Ok(()),
        other => Err(fail(format!("{argument}: {other:?}"))),
    };
    let strides = [640, 320, 8];
    named("keys", buffer.keys(shape, [640, 321, 8]))?;
    named("address", DeviceKeys::new(0, KeyDtype::F32, shape, strides))?;
    named("address", DeviceKeys::new(6, KeyDtype::F32, shape, strides))?;
    let far = [usize::MAX, 320, 8];
    named("strides", DeviceKeys::new(8, KeyDtype::F16, shape, far))?;

    // The first component that is not finite, also where it is not quantised, found on either side.
    for (place, token, component) in [(640 + 320 + 2 * 8 + 5, 2, 5), (640 + 320 + 39 * 8, 39, 0)] {
        data[place] = f32::NEG_INFINITY;
        data[place + 8 * 39 - 8 * token..]
            .iter_mut()
            .skip(8)
            .for_each(|x| *x = f32::NAN);
        let buffer = KeyBuffer::new(gpu, KeySlice::F32(&data)).map_err(fail)?;
        let on_device = buffer.keys(shape, strides).map_err(fail)?;
        // SAFETY: the buffer outlives the call, and nothing writes it.
        let by_gpu = unsafe { train::train(gpu, &pq, &sampled, &on_device, 40) };
        let keys = Keys::new(&data, shape).map_err(fail)?;
        for got in [
            by_gpu,
            KeyIndex::train_on(&device.backend, &pq, &sampled, keys, 40),
        ] {
            let Err(Error::NotFinite {
                batch,
                head,
                token: t,
                component: c,
                ..
            }) = got
            else {
                return Err(fail("infinity was accepted"));
            };
            prop_assert_eq!([batch, head, t, c], [1, 1, token, component]);
        }
        data[place] = 1.0;
    }
    Ok(())
}

/// Enough keys for samples, the last block of them a short one.
fn many_keys(metric: Metric, num_subvectors: usize, sub_dim: usize, bits: u32) -> Case {
    Case {
        shape: [1, 1, 8192 + 16 * 4 + 16 + 5 + 3, num_subvectors * sub_dim],
        pq: PqConfig {
            num_subvectors,
            bits,
            init_offset: 3,
            metric,
        },
        iterations: 0,
        seed: 11,
        fill: Fill::usual(3),
    }
}

/// Every iteration sees the points that it sees on the CPU, and moves centroids as far: where a sum is rounded differently
/// they differ by that, and another sample would give quite other ones.
fn samples_are_the_cpus(device: &Device) -> TestCaseResult {
    for (metric, m, sub_dim, bits, iterations) in [
        // The larger sample alone, as the smaller has too few points for so many centroids; then both; then none.
        (Metric::L2, 1, 3, 6, 9),
        (Metric::L2, 2, 4, 4, 8),
        (Metric::Ip, 1, 2, 4, 10),
        (Metric::Ip, 1, 5, 4, 4),
        (Metric::L2, 1, 3, 4, 3),
        (Metric::L2, 1, 3, 4, 1),
        (Metric::L2, 1, 2, 7, 2),
        // Twice as many keys, and centroids in two chunks.
        (Metric::L2, 1, 2, 7, 4),
        // Points that do not stay in shared memory.
        (Metric::L2, 1, 66, 2, 8),
    ] {
        let mut case = Case {
            iterations,
            ..many_keys(metric, m, sub_dim, bits)
        };
        let has_chunks = bits == 7 && iterations == 4;
        if has_chunks {
            case.shape[2] *= 2;
        }
        let mut data = case.data();
        // Keys that drift: a sample of the first ones is not like all.
        for (token, key) in data.chunks_mut(m * sub_dim).enumerate() {
            key[0] += token as f32 / 4096.0;
        }
        let on_gpu = case.train(&device.backend, &data)?;
        let on_cpu = case.train(&Backend::Cpu, &data)?;
        check_near("centroids", on_gpu.centroids(), on_cpu.centroids())?;
        let (gpu, cpu) = (on_gpu.to_parts(), on_cpu.to_parts());
        let differ = gpu.codes.iter().zip(&cpu.codes).filter(|(a, b)| a != b);
        let differ = differ.count();
        prop_assert!(differ <= gpu.codes.len() / 1000, "{} codes differ", differ);
        if let (Some(gpu), Some(cpu)) = (gpu.augmentation, cpu.augmentation) {
            check_near("components", &gpu.components, &cpu.components)?;
        }
        let tokens = case.shape[2];
        let got = inertia(&on_gpu, &data, tokens);
        let expected = inertia(&on_cpu, &data, tokens);
        prop_assert!((got / expected - 1.0).abs() < 1e-3, "{} {}", got, expected);
        if !has_chunks {
            let again = case.train(&device.backend, &data)?;
            prop_assert!(on_gpu == again, "two runs differ");
        }
    }
    Ok(())
}

fn check_near(what: &str, got: &[f32], expected: &[f32]) -> TestCaseResult {
    let pairs = got.iter().zip(expected);
    let far = pairs.filter(|&(&a, &b)| (a - b).abs() > 1e-4 * b.abs().max(1.0));
    let far = far.count();
    prop_assert!(far == 0, "{} of {} {} differ", far, got.len(), what);
    Ok(())
}

/// No iteration before the last stops within the tolerance, as centroids were on their way beyond the means.
fn tolerance_of_samples(device: &Device) -> TestCaseResult {
    let case = many_keys(Metric::L2, 1, 3, 4);
    let data = case.data();
    let keys = Keys::new(&data, case.shape).map_err(fail)?;
    let with = |tolerance| {
        let training = TrainConfig {
            iterations: 8,
            tolerance,
            ..case.training()
        };
        KeyIndex::train_on(&device.backend, &case.pq, &training, keys, case.shape[2]).map_err(fail)
    };
    prop_assert!(with(1e30)? == with(0.0)?);
    Ok(())
}

/// Clusters that are empty in a sample get points of it: with as many centroids as distinct keys all are met, at the latest
/// when all points are seen.
fn empty_clusters_of_samples(device: &Device) -> TestCaseResult {
    let case = Case {
        iterations: 9,
        ..many_keys(Metric::L2, 1, 4, 4)
    };
    let mut random = Random::new(5);
    let choices: Vec<f32> = (0..16 * 4).map(|_| random.below(1000) as f32).collect();
    // A few keys have the last choice, in one block alone, where no tile of a sample has its first points.
    let data: Vec<f32> = (0..case.shape[2])
        .flat_map(|token| {
            let choice = if token / 16 == 300 {
                15
            } else {
                random.below(15)
            };
            &choices[choice * 4..][..4]
        })
        .copied()
        .collect();
    let (on_gpu, on_cpu) = (
        case.train(&device.backend, &data)?,
        case.train(&Backend::Cpu, &data)?,
    );
    let tokens = case.shape[2];
    prop_assert_eq!(inertia(&on_cpu, &data, tokens), 0.0);
    prop_assert_eq!(inertia(&on_gpu, &data, tokens), 0.0);
    let again = case.train(&device.backend, &data)?;
    prop_assert!(on_gpu == again, "two runs differ");
    Ok(())
}

/// Two trainings of 2 iterations, the second from the first's centroids, are one of 4.
fn a_warm_start_goes_on(device: &Device) -> TestCaseResult {
    for metric in [Metric::L2, Metric::Ip] {
        let case = |iterations| Case {
            shape: [1, 2, 200, 8],
            pq: PqConfig {
                num_subvectors: 2,
                bits: 4,
                init_offset: 3,
                metric,
            },
            iterations,
            seed: 3,
            fill: Fill::usual(7),
        };
        let data = case(0).data();
        let keys = Keys::new(&data, case(0).shape).map_err(fail)?;
        let two = case(2).train(&device.backend, &data)?;
        let four = case(4).train(&device.backend, &data)?;
        let on = two
            .retrain_on(&device.backend, &case(2).training(), keys, 200)
            .map_err(fail)?;
        prop_assert!(on == four && on != two, "{:?}", metric);
    }
    Ok(())
}

fn tolerance_stops_early(device: &Device) -> TestCaseResult {
    let case = |iterations| Case {
        shape: [1, 1, 200, 4],
        pq: PqConfig {
            num_subvectors: 1,
            bits: 4,
            init_offset: 0,
            metric: Metric::L2,
        },
        iterations,
        seed: 3,
        fill: Fill::usual(8),
    };
    let data = case(0).data();
    let keys = Keys::new(&data, case(0).shape).map_err(fail)?;
    let with = |iterations, tolerance| {
        let training = TrainConfig {
            tolerance,
            ..case(iterations).training()
        };
        KeyIndex::train_on(&device.backend, &case(0).pq, &training, keys, 200).map_err(fail)
    };
    // The first step is within a huge tolerance, none but the last within 0.
    prop_assert!(with(9, 1e30)? == with(1, 0.0)?);
    prop_assert!(with(9, 0.0)? != with(1, 0.0)?);
    let settled = with(60, 0.0)?;
    prop_assert!(settled == with(90, 0.0)?);
    Ok(())
}

/// Centroids rounded at training: keys are encoded by the rounded ones, both backends list by them, and a file holds
/// them in their own type.
fn centroids_are_rounded(device: &Device) -> TestCaseResult {
    let (tokens, appended) = (200, 40);
    let mut sizes = Vec::new();
    for metric in [Metric::L2, Metric::Ip] {
        for dtype in CentroidDtype::ALL {
            let pq = PqConfig {
                num_subvectors: 3,
                bits: 4,
                init_offset: 2,
                metric,
            };
            let training = TrainConfig {
                iterations: 2,
                start: Start::Sampled,
                centroids: dtype,
                ..TrainConfig::default()
            };
            // Among them some that f16 has no number for.
            let mut data = Fill::usual(7).floats(2 * tokens * 12);
            data[2 * 12..]
                .iter_mut()
                .step_by(97)
                .for_each(|x| *x *= 1e5);
            let keys = Keys::new(&data, [1, 2, tokens, 12]).map_err(fail)?;
            let capacity = tokens + appended;
            let trained = KeyIndex::train_on(&device.backend, &pq, &training, keys, capacity)
                .map_err(fail)?;
            prop_assert_eq!(trained.centroid_dtype(), dtype);
            let expected = |&c: &f32| match dtype {
                CentroidDtype::F16 => f16::from_f32(c).to_f32() == c && c.is_finite(),
                CentroidDtype::Bf16 => bf16::from_f32(c).to_f32() == c && c.is_finite(),
                _ => c.is_finite(),
            };
            prop_assert!(trained.centroids().iter().all(expected));

            // The codes are those that the rounded centroids give.
            let mut parts = trained.to_parts();
            (parts.num_codes, parts.codes) = (0, Vec::new());
            let mut again = KeyIndex::from_parts(parts, capacity).map_err(fail)?;
            let quantised = keys.copy_tokens(2..tokens);
            let quantised = Keys::new(&quantised, [1, 2, tokens - 2, 12]).map_err(fail)?;
            again.append(quantised).map_err(fail)?;
            check_same(
                "rounded",
                &trained.to_parts().codes,
                &again.to_parts().codes,
            )?;

            let file = tempfile::NamedTempFile::new().map_err(fail)?;
            trained.save(file.path()).map_err(fail)?;
            sizes.push(std::fs::metadata(file.path()).map_err(fail)?.len());
            let loaded = KeyIndex::load(file.path(), Some(capacity)).map_err(fail)?;
            prop_assert!(loaded == trained, "{:?}: a file changes the index", dtype);

            let new_keys = Fill::usual(8).floats(2 * appended * 12);
            let new_keys = Keys::new(&new_keys, [1, 2, appended, 12]).map_err(fail)?;
            let queries = Fill::usual(9).floats(4 * 12);
            let queries = Queries::new(&queries, [1, 4, 1, 12]).map_err(fail)?;
            let select = SelectConfig {
                sink: 2,
                window: 5,
                heavy: 9,
                ..SelectConfig::default()
            };
            let grown = |backend: &Backend| -> keysieve::Result<_> {
                let mut selector = Selector::new(backend, loaded.clone(), select, 4, 1)?;
                selector.append(new_keys)?;
                selector.select(queries)?;
                Ok((selector.to_index()?, selector.selection().clone()))
            };
            let (on_device, on_cpu) = (grown(&device.backend), grown(&Backend::Cpu));
            prop_assert!(on_device.map_err(fail)? == on_cpu.map_err(fail)?);
        }
    }
    // Two heads, 3 sub-vectors, 16 centroids of 4 components, two bytes less each.
    let less = 2 * 3 * 16 * 4 * 2;
    for sizes in sizes.chunks(3) {
        prop_assert!(sizes[0] > sizes[1] + less - 64 && sizes[0] > sizes[2] + less - 64);
    }
    // What is no such number is none.
    let parts = KeyIndex::train(
        &PqConfig {
            num_subvectors: 1,
            bits: 1,
            init_offset: 0,
            metric: Metric::L2,
        },
        &TrainConfig::default(),
        Keys::new(&[0.1, 0.3], [1, 1, 2, 1]).map_err(fail)?,
        2,
    );
    let mut index = parts.map_err(fail)?;
    let refused = index.set_centroid_dtype(CentroidDtype::F16);
    let is_named =
        matches!(refused, Err(Error::Invalid { argument, .. }) if argument == "centroids");
    prop_assert!(is_named);
    prop_assert_eq!(index.centroid_dtype(), CentroidDtype::F32);
    Ok(())
}
