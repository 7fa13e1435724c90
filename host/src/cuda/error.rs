//! From the driver's answers to [`Error`].

use std::ffi::c_int;

use cust::error::CudaResult;
use cust::sys::CUresult;

use crate::error::{Error, Result};

/// Results of driver calls, with the failed function and its raw code put back.
pub(super) trait OrDriverError<T> {
    /// The value, or what the driver answered last on this thread.
    fn or_driver_error(self) -> Result<T>;
}

impl<T> OrDriverError<T> for CudaResult<T> {
    fn or_driver_error(self) -> Result<T> {
        self.map_err(|error| last_error(error as u32, &error))
    }
}

impl OrDriverError<()> for CUresult {
    fn or_driver_error(self) -> Result<()> {
        match self {
            CUresult::CUDA_SUCCESS => Ok(()),
            code => Err(last_error(code as u32, &code)),
        }
    }
}

/// The raw result of a function that cust_raw does not have.
impl OrDriverError<()> for c_int {
    fn or_driver_error(self) -> Result<()> {
        match self {
            0 => Ok(()),
            code => Err(last_error(code as u32, &code)),
        }
    }
}

fn last_error(code: u32, name: &dyn std::fmt::Debug) -> Error {
    match keysieve_libcuda::take_last_error() {
        Some(error) => typed(error),
        // Not a driver call's: cust itself refused.
        None => Error::Driver {
            call: "cust".into(),
            code,
            name: format!("{name:?}"),
        },
    }
}

/// The error of every call on a context that is lost.
pub(super) fn lost() -> Option<Error> {
    keysieve_libcuda::lost().map(typed)
}

fn typed(error: keysieve_libcuda::DriverError) -> Error {
    let (call, code, name) = (error.function.into(), error.code, error.name().into());
    if keysieve_libcuda::is_fatal(code) {
        Error::DeviceLost { call, code, name }
    } else {
        Error::Driver { call, code, name }
    }
}
