//! Training on the GPU.

use std::sync::OnceLock;

use keysieve::cuda::Device;
use keysieve::{Backend, Error, KeyIndex, Metric, PqConfig, Start, TrainConfig};

use super::{Op, PQ, TOKENS, keys, keys_data};

pub(super) const OPS: [Op; 3] = [Op::Open, Op::Train, Op::Drop];

/// What the GPU finds when nothing fails.
static TRAINED: OnceLock<KeyIndex> = OnceLock::new();

/// Trains before anything fails: what is found later is to be the same.
pub(crate) fn prepare(ordinal: u32) {
    TRAINED.get_or_init(|| {
        let device = Device::open(ordinal).expect("the GPU is simulated");
        train(&device).expect("nothing fails yet")
    });
}

/// With the metric that takes more arrays.
fn train(device: &Device) -> Result<KeyIndex, Error> {
    let pq = PqConfig {
        metric: Metric::Ip,
        ..PQ
    };
    let training = TrainConfig {
        iterations: 2,
        start: Start::Sampled,
        ..TrainConfig::default()
    };
    let backend = Backend::Cuda(device.clone());
    let data = keys_data(7, TOKENS);
    KeyIndex::train_on(&backend, &pq, &training, keys(&data, TOKENS), TOKENS)
}

/// Trains; the outer error says that something else was found than before.
pub(super) fn run(device: &Device) -> Result<Result<(), Error>, String> {
    match train(device) {
        Ok(trained) if TRAINED.get().is_some_and(|found| trained != *found) => {
            Err("training finds other codebooks".into())
        }
        trained => Ok(trained.map(drop)),
    }
}
