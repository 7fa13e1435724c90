//! cust on a driver that fails on purpose: what is returned, what is written down, what `Drop` does.

use std::env;
use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;

use cust::context::Context;
use cust::device::Device;
use cust::error::CudaError;
use cust::event::{Event, EventFlags, EventStatus};
use cust::memory::DeviceBuffer;
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use keysieve_libcuda::{availability, last_error, lost, take_last_error};
use libloading::Library;

/// The library built from `examples/fake_driver.rs`; plain `cargo test` builds it.
fn fake_driver() -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let path = profile
        .join("examples")
        .join(libloading::library_filename("fake_driver"));
    assert!(
        path.exists(),
        "build it with `cargo build -p keysieve-libcuda --examples`"
    );
    path
}

#[test]
fn failures_are_returned_and_written_down() {
    let path = fake_driver();
    // SAFETY: the only test of this binary; nothing reads the environment meanwhile.
    unsafe { env::set_var("KEYSIEVE_LIBCUDA", &path) };
    // SAFETY: the library has no initialisers, and the function has this signature.
    let library = unsafe { Library::new(&path) }.unwrap();
    let set = unsafe {
        // SAFETY: as above.
        library.get::<unsafe extern "C" fn(*const c_char, c_int)>(c"fake_driver_fail")
    }
    .unwrap();
    // SAFETY: a `CStr` ends in NUL.
    let fail = |name: &CStr, code| unsafe { set(name.as_ptr(), code) };

    assert_eq!(availability().unwrap(), path.to_str().unwrap());
    cust::init(cust::CudaFlags::empty()).unwrap();
    let context = Context::new(Device::get_device(0).unwrap()).unwrap();
    let stream = Stream::new(StreamFlags::DEFAULT, None).unwrap();
    let event = Event::new(EventFlags::DEFAULT).unwrap();
    let module = Module::from_ptx("", &[]).unwrap();
    assert_eq!(last_error(), None);

    // A function that this driver does not have.
    assert_eq!(
        DeviceBuffer::from_slice(&[1u8]).unwrap_err(),
        CudaError::NotSupported
    );
    assert_eq!(take_last_error().unwrap().function, "cuMemAlloc_v2");

    // An ordinary answer to a query.
    fail(c"cuEventQuery", 600);
    assert_eq!(event.query().unwrap(), EventStatus::NotReady);
    assert_eq!(last_error(), None);

    // A code that cust folds, and one that its enum does not even have.
    for code in [222, 912] {
        fail(c"cuModuleLoadDataEx", code);
        let error = Module::from_ptx("", &[]).unwrap_err();
        assert_eq!(error, CudaError::UnknownError);
        assert_eq!(take_last_error().unwrap().code, code as u32);
    }

    // Objects that outlive their context are not a lost context.
    fail(c"cuEventDestroy_v2", 709);
    drop(event);
    assert_eq!(take_last_error().unwrap().code, 709);
    assert_eq!(lost(), None);

    // A lost one: the first call that reports it is kept, and dropping stays quiet.
    fail(c"cuStreamSynchronize", 700);
    assert_eq!(stream.synchronize(), Err(CudaError::IllegalAddress));
    fail(c"cuStreamDestroy_v2", 719);
    drop(stream);
    fail(c"cuModuleUnload", 700);
    drop(module);
    fail(c"cuDevicePrimaryCtxRelease_v2", 700);
    drop(context);
    let lost = lost().unwrap();
    assert_eq!((lost.function, lost.code), ("cuStreamSynchronize", 700));
}
