//! cust linked against this crate, in a process that finds no driver.

use std::env;

use cust::error::CudaError;
use cust::{CudaApiVersion, CudaFlags, device::Device};
use keysieve_libcuda::{availability, last_error, lost};

#[test]
fn cust_answers_errors_that_can_be_shown() {
    // SAFETY: the only test of this binary; nothing reads the environment meanwhile.
    unsafe { env::set_var("KEYSIEVE_LIBCUDA", "/nonexistent/libcuda.so.1") };

    assert_eq!(cust::init(CudaFlags::empty()), Err(CudaError::NoDevice));
    let error = last_error().unwrap();
    assert_eq!((error.function, error.code), ("cuInit", 100));

    assert!(CudaApiVersion::get().is_err());
    assert!(Device::num_devices().is_err());
    assert!(cust::quick_init().is_err());
    assert_eq!(lost(), None);

    let error = last_error();
    let shown = CudaError::NoDevice.to_string();
    assert!(shown.contains("no CUDA driver"), "{shown}");
    assert_eq!(last_error(), error, "showing an error is not a failure");

    assert!(availability().unwrap_err().contains("/nonexistent/"));
}
