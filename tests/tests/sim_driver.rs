//! The simulated libcuda: a step on it is the CPU's, faults and leaks are counted, violations reported.
//!
//! One test, because a process has one driver, and the counts are the process's.

use cust::launch;
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use keysieve::cuda::Device;
use keysieve::{
    Backend, Error, IndexParts, KeyIndex, Keys, PqConfig, Queries, SelectConfig, Selection,
    Selector,
};
use keysieve_tests::sim_driver::{KINDS, Kind, SimDriver};
use keysieve_tests::strategies::Fill;

const HEAD_DIM: usize = 8;
const TOKENS: usize = 500;

fn index() -> KeyIndex {
    let config = PqConfig {
        num_subvectors: 2,
        bits: 4,
        init_offset: 0,
        ..PqConfig::default()
    };
    let parts = IndexParts {
        config,
        batch: 1,
        num_kv_heads: 2,
        head_dim: HEAD_DIM,
        num_codes: TOKENS,
        centroids: Fill::usual(1).floats(2 * 16 * HEAD_DIM),
        augmentation: None,
        codes: Fill::usual(2).codes(2 * TOKENS * 2, 4),
    };
    KeyIndex::from_parts(parts, TOKENS + 10).unwrap()
}

fn selector(backend: &Backend) -> keysieve::Result<Selector> {
    let config = SelectConfig {
        sink: 4,
        window: 8,
        heavy: 50,
        short_context: false,
        weights: true,
        ..SelectConfig::default()
    };
    Selector::new(backend, index(), config, 4, 1)
}

fn step(selector: &mut Selector) -> keysieve::Result<Selection> {
    let keys = Fill::usual(3).floats(2 * HEAD_DIM);
    let queries = Fill::usual(4).floats(4 * HEAD_DIM);
    selector.append(Keys::new(&keys, [1, 2, 1, HEAD_DIM])?)?;
    Ok(selector
        .select(Queries::new(&queries, [1, 4, 1, HEAD_DIM])?)?
        .clone())
}

/// A kernel that reads what nobody wrote.
const READS_UNWRITTEN: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry reads_unwritten(.param .u64 data) {
    .reg .b64 %address;
    .reg .b32 %value;
    ld.param.u64 %address, [data];
    ld.global.u32 %value, [%address];
    st.global.u32 [%address], %value;
    ret;
}";

#[test]
fn the_simulated_driver_runs_the_host_code() {
    // SAFETY: the only test of this binary, and its first call.
    let driver = unsafe { SimDriver::install() };
    let expected = step(&mut selector(&Backend::Cpu).unwrap()).unwrap();

    // Both files, every variant, the same lists; everything is freed.
    for (ordinal, file) in [(0, "keysieve_sm90.ptx"), (1, "keysieve_sm80.ptx")] {
        let device = Device::open(ordinal).unwrap();
        assert_eq!(device.ptx_file().name, file);
        let backend = Backend::Cuda(device);
        let variants = selector(&backend).unwrap().cuda_step().unwrap().variants();
        for (seed, variant) in variants.into_iter().enumerate() {
            driver.set_seed(ordinal, seed as u64);
            let mut selector = selector(&backend).unwrap();
            selector.cuda_step().unwrap().set_variant(variant).unwrap();
            assert!(step(&mut selector).unwrap() == expected, "{variant:?}");
        }
        let contexts = driver.live(Kind::Context);
        assert_eq!((contexts, driver.live(Kind::Stream)), (1, 0));
        assert_eq!(driver.live(Kind::Allocation), 0);
    }
    for kind in KINDS {
        assert_eq!(
            (driver.live(kind), driver.orphans(kind)),
            (0, 0),
            "{kind:?}"
        );
    }
    let run = driver.kernels();
    assert!(
        run.iter()
            .any(|k| k.target == 80 && k.name == "scores" && k.launches > 0)
    );
    assert!(run.iter().all(|k| k.unexecuted.len() <= k.num_instructions));

    // A call that fails once, and the same again.
    let device = Device::open(0).unwrap();
    let backend = Backend::Cuda(device.clone());
    driver.restart_calls();
    drop(selector(&backend).unwrap());
    let names = driver.call_names();
    let first = names.iter().position(|name| name == "cuMemAlloc_v2");
    driver.fail_call(1 + first.unwrap() as u64, 2, false);
    let error = selector(&backend).unwrap_err();
    assert!(matches!(error, Error::Driver { code: 2, .. }), "{error}");
    assert_eq!(driver.num_faults(), 1);
    assert_eq!(driver.live(Kind::Allocation) + driver.live(Kind::Stream), 0);
    assert!(step(&mut selector(&backend).unwrap()).unwrap() == expected);

    // A violation that is answered once.
    assert_eq!(driver.num_violations(), 0);
    driver.violations_stay(false);
    let stream = Stream::new(StreamFlags::DEFAULT, None).unwrap();
    let run = || {
        let module = Module::from_ptx(READS_UNWRITTEN, &[]).unwrap();
        // SAFETY: the kernel writes before anyone reads it, or is caught.
        let data = unsafe { cust::memory::DeviceBuffer::<u32>::uninitialized(1) }.unwrap();
        let stream = &stream;
        // SAFETY: the argument is the kernel's.
        unsafe { launch!(module.reads_unwritten<<<1, 1, 0, stream>>>(data.as_device_ptr())) }
            .unwrap();
        stream.synchronize()
    };
    assert!(run().is_err());
    let report = driver.take_report();
    let expected_report = "read of memory never written: kernel reads_unwritten, line 9, ";
    assert!(report.starts_with(expected_report), "{report}");
    assert_eq!(driver.take_report(), "");
    assert!(step(&mut selector(&backend).unwrap()).unwrap() == expected);

    // One that loses the context: every later call answers it, and nothing panics.
    driver.violations_stay(true);
    assert!(run().is_err());
    assert_eq!(driver.num_violations(), 2);
    let calls = driver.num_calls();
    let lost = selector(&backend).unwrap_err();
    assert!(
        matches!(lost, Error::DeviceLost { code: 719, .. }),
        "{lost}"
    );
    assert_eq!(driver.num_calls(), calls, "a lost context is asked");
}
