//! A GPU context that dies: reported as lost, at once and for ever, and nothing panics.
//!
//! A binary of its own, because the process's context is gone afterwards. Not for a memory checker,
//! which would report the planted fault.

use std::process::ExitCode;

use cust::launch;
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use keysieve::cuda::CudaStages;
use keysieve::{
    Backend, Error, IndexParts, KeyIndex, Keys, PqConfig, Queries, SelectConfig, Selector,
};
use keysieve_tests::device::{Device, Suite, fail};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    // One of them in a process, whose driver it is.
    suite.on_devices(
        &["cuda", "sim90"],
        "contract_8_a_lost_context_is_reported_and_nothing_panics",
        lost_context,
    );
    suite.run()
}

/// A kernel that writes to an address that is nobody's.
const WILD_WRITE: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry wild_write() {
    .reg .b64 %address;
    .reg .b32 %value;
    mov.u64 %address, 16;
    mov.u32 %value, 1;
    st.global.u32 [%address], %value;
    ret;
}";

fn lost_context(device: &Device) -> TestCaseResult {
    device.lose_contexts();
    let pq = PqConfig {
        num_subvectors: 1,
        bits: 1,
        init_offset: 0,
        ..PqConfig::default()
    };
    let index = KeyIndex::from_parts(
        IndexParts {
            config: pq,
            batch: 1,
            num_kv_heads: 1,
            head_dim: 2,
            num_codes: 40,
            centroids: vec![0.0, 1.0, 1.0, 0.0],
            augmentation: None,
            codes: vec![1; 40],
        },
        50,
    )
    .map_err(fail)?;
    let config = SelectConfig {
        sink: 2,
        window: 2,
        heavy: 4,
        short_context: false,
        weights: true,
        ..SelectConfig::default()
    };
    let mut selector = Selector::new(&device.backend, index, config, 1, 1).map_err(fail)?;
    let query = Queries::new(&[1.0, 2.0], [1, 1, 1, 2]).map_err(fail)?;
    let key = Keys::new(&[1.0, 2.0], [1, 1, 1, 2]).map_err(fail)?;
    selector.select(query).map_err(fail)?;
    let graph = selector
        .cuda_step()
        .ok_or_else(|| fail("no CUDA step"))?
        .capture()
        .map_err(fail)?;

    // The driver's primary context is the one that keysieve uses: a fault here is its fault.
    let module = Module::from_ptx(WILD_WRITE, &[]).map_err(fail)?;
    let stream = Stream::new(StreamFlags::DEFAULT, None).map_err(fail)?;
    // SAFETY: the kernel has no arguments; its illegal write is the point.
    let launched = unsafe { launch!(module.wild_write<<<1, 1, 0, stream>>>()) };
    launched.map_err(fail)?;
    prop_assert!(stream.synchronize().is_err(), "the wild write went through");

    let lost = |result: Result<(), Error>| match result {
        Err(Error::DeviceLost { .. }) => Ok(()),
        other => Err(fail(format!("expected DeviceLost, got {other:?}"))),
    };
    for _ in 0..3 {
        lost(selector.select(query).map(|_| ()))?;
        lost(selector.append(key))?;
        lost(selector.to_index().map(|_| ()))?;
        let step = selector.cuda_step().ok_or_else(|| fail("no CUDA step"))?;
        lost(step.replay(&graph))?;
        lost(step.upload(key, query))?;
        lost(step.synchronize())?;
        lost(step.capture().map(|_| ()))?;
        lost(Backend::cuda().map(|_| ()))?;
        if let Backend::Cuda(gpu) = &device.backend {
            lost(CudaStages::new(gpu).map(|_| ()))?;
        }
    }
    drop(graph);
    drop(selector);
    Ok(())
}
