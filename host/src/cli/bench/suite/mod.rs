//! `keysieve bench --suite`: every named shape on the GPU, beside its target.
//!
//! ```text
//! rows      each shape: checked, then timed
//! algorithm training, prefill, and steps that are not dense
//! reference what else the reference shape is held to: a cold cache, the host's share
//! report    one table, and JSON
//! ```

mod algorithm;
mod reference;
mod report;
mod rows;

use std::time::SystemTime;

use keysieve::Backend;
use keysieve::cuda::timing;

use self::report::Suite;
use super::Args;
use super::cuda::COPY_BYTES;
use super::on_each::on_each;
use super::progress::Progress;
use super::report::date;
use super::shape::SHAPES;
use crate::cli;

pub(super) fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let device = args.backend.open_gpu()?;
    let backend = Backend::Cuda(device.clone());
    let torch = args.torch(&SHAPES[0], &backend)?;
    let progress = Progress::new(quiet);
    let copy_bytes = COPY_BYTES.min(timing::free_memory(&device)? / 4);
    let copy_bandwidth = timing::copy_bandwidth(&device, copy_bytes, 10)?;

    let mut rows = Vec::new();
    let mut reference = None;
    on_each(&SHAPES, args, &backend, &progress, |plan, data, index| {
        let (row, bench) = rows::measure(plan, data, &device, index, &progress)?;
        rows.push(row);
        if reference.is_none() {
            reference = Some(reference::measure(
                bench, plan, data, &device, index, &progress,
            )?);
        }
        Ok(())
    })?;
    let parts = algorithm::measure(&SHAPES[0], args.seed, &device, &progress)?;
    let suite = Suite {
        device: device.name().to_owned(),
        driver_version: device.driver_version(),
        compute_capability: device.compute_capability(),
        num_multiprocessors: device.num_multiprocessors(),
        host: Backend::Cpu.device_name(),
        date: date(SystemTime::now()),
        copy_bandwidth,
        seed: args.seed,
        warmup: args.warmup,
        runs: args.runs,
        rows,
        reference: reference.expect("the reference is the first of the shapes"),
        parts,
        torch,
    };
    cli::report::give(&suite.text(), args.json.as_deref(), &suite.json())
}
