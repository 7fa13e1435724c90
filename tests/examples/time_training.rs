//! Times training on the first GPU: walls of whole calls, codes brought to the host included, with 10 iterations and with
//! none. Their difference is the iterations; a call without any is survey, start, encoding and copies. Before that the mean
//! error must be within 0.1 % of the CPU's.

use std::time::Instant;

use half::f16;
use keysieve::cuda::{Device, KeyBuffer, KeySlice, train};
use keysieve::{KeyIndex, Keys, PqConfig, Start, TrainConfig};
use keysieve_tests::strategies::Random;

fn main() -> anyhow::Result<()> {
    let shape = [1, 32, 31_872, 128];
    let device = Device::open(0)?;
    let mut random = Random::new(1);
    let len = shape.iter().product();
    let data: Vec<f16> = (0..len).map(|_| f16::from_f32(random.unit())).collect();
    let buffer = KeyBuffer::new(&device, KeySlice::F16(&data))?;
    let keys = buffer.keys(shape, [32 * 31_872 * 128, 31_872 * 128, 128])?;
    println!("{}: {shape:?} of f16", device.name());
    for (num_subvectors, bits) in [(2, 6), (8, 8)] {
        let pq = PqConfig {
            num_subvectors,
            bits,
            init_offset: 0,
            ..PqConfig::default()
        };
        let training = |iterations| TrainConfig {
            iterations,
            start: Start::Sampled,
            ..TrainConfig::default()
        };
        let on_cpu = KeyIndex::train(&pq, &training(10), Keys::new(&data, shape)?, shape[2])?;
        // SAFETY: the buffer outlives the call, and nothing writes it.
        let on_gpu = unsafe { train::train(&device, &pq, &training(10), &keys, shape[2])? };
        let error = |index: &KeyIndex| index.training_error().unwrap_or(f64::NAN);
        let ratio = error(&on_gpu) / error(&on_cpu);
        anyhow::ensure!(
            (ratio - 1.0).abs() < 1e-3,
            "the error is {ratio} of the CPU's"
        );
        let median = |iterations| -> anyhow::Result<f64> {
            let training = training(iterations);
            let mut walls = Vec::new();
            let mut first = None;
            for _ in 0..8 {
                let begun = Instant::now();
                // SAFETY: the buffer outlives the call, and nothing writes it.
                let index = unsafe { train::train(&device, &pq, &training, &keys, shape[2])? };
                walls.push(begun.elapsed().as_secs_f64() * 1e3);
                let first = first.get_or_insert_with(|| index.clone());
                anyhow::ensure!(*first == index, "two runs differ");
            }
            walls.sort_by(f64::total_cmp);
            Ok(walls[walls.len() / 2])
        };
        let (none, ten) = (median(0)?, median(10)?);
        println!(
            "m={num_subvectors} bits={bits}: {ten:.1} ms, without iterations {none:.1} ms, 10 iterations {:.1} ms; \
             error {:.6}, {ratio:.6} of the CPU's",
            ten - none,
            error(&on_gpu)
        );
    }
    Ok(())
}
