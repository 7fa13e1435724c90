//! The CUDA driver's functions, resolved at run time instead of at link time.
//!
//! `cust` declares its driver functions `extern "C"` and expects a linker to find them in libcuda.
//! This crate *defines* those symbols. Each definition is a trampoline:
//!
//! ```text
//! cust::Stream::synchronize          (declared in cust_raw, defined here)
//!   -> cuStreamSynchronize           functions.rs: one line of a list
//!   -> the driver's own function     library.rs: opened once, looked up once
//!   -> the answer is written down    error.rs: last_error(), lost()
//! ```
//!
//! A binary with this crate in it needs no toolkit to build and starts on a machine without a
//! driver. Name the crate once in whatever links `cust`, or the linker will not see it:
//!
//! ```
//! use keysieve_libcuda as _;
//! ```
//!
//! # What a call returns
//!
//! | situation | returned |
//! | --- | --- |
//! | the driver answered | its code, or 999 where `cust_raw` has no such code (see below) |
//! | libcuda cannot be opened | 100, `CUDA_ERROR_NO_DEVICE`; [`availability`] says why |
//! | libcuda lacks this function | 801, `CUDA_ERROR_NOT_SUPPORTED`: the driver is too old |
//!
//! Out-parameters are left alone when the driver was not reached. Nothing here panics.
//!
//! `cust_raw` declares the result as a Rust enum of the codes of CUDA 11.4, and a value outside an
//! enum is undefined behaviour. Codes added since (226, 721, 912, ...) therefore reach the caller
//! as 999, `CUDA_ERROR_UNKNOWN`; [`last_error`] keeps the true one.
//!
//! `cuGetErrorName` and `cuGetErrorString` are the exception: without a driver they answer from a
//! table in this crate, since the `Display` of cust's error calls them and `to_string` panics when
//! they fail.
//!
//! # Another library
//!
//! `KEYSIEVE_LIBCUDA` holds the path of a library to open instead of `libcuda.so.1`. It is there
//! for tests that inject a fake driver. It is read once, at the first driver call.

mod codes;
mod error;
pub mod functions;
pub mod launch;
mod library;

pub use error::{DriverError, is_fatal, last_error, lost, take_last_error};
pub use library::availability;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_every_function_answers_no_device() {
        library::tests::use_no_driver();
        functions::tests::call_each_with_zeros(|function, code, written| {
            assert_eq!(code, 100, "{function}");
            assert_eq!(
                written,
                Some(DriverError {
                    function,
                    code: 100
                })
            );
        });
        assert_eq!(lost(), None, "a missing driver is not a lost context");
    }

    #[test]
    fn without_a_driver_availability_says_what_was_tried() {
        library::tests::use_no_driver();
        let why = availability().unwrap_err();
        assert!(why.contains(library::tests::ABSENT), "{why}");
        assert!(!why.ends_with("dlopen failed"), "no reason in: {why}");
    }
}
