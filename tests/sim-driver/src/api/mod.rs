//! The driver's functions, with the signatures of `cuda.h`; handles are pointers, enums integers.
//!
//! All of them share one safety contract, the driver's own: pointers are valid for what is read and
//! written through them, and the memory of an asynchronous copy stays as it is until that is done.

mod context;
mod device;
mod graph;
mod launch;
mod memory;
mod module;
mod stream;

pub use context::*;
pub use device::*;
pub use graph::*;
pub use launch::*;
pub use memory::*;
pub use module::*;
pub use stream::*;

use std::ffi::c_void;

use crate::code::{Answer, INVALID_VALUE};

/// `CUcontext`, `CUmodule`, `CUfunction`, `CUstream`, `CUevent`, `CUgraph`, ...
pub type Handle = *mut c_void;

/// Defines driver functions. A body is what the function does when it is not made to fail; it answers
/// success unless it returns an error before.
macro_rules! driver_functions {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        #[doc = concat!("`", stringify!($name), "` on simulated GPUs.")]
        ///
        /// # Safety
        /// See [the module](crate::api).
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> std::ffi::c_int {
            const NAME: &std::ffi::CStr =
                match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => unreachable!(),
                };
            $crate::control::answer(NAME, || { $body; #[allow(unreachable_code)] Ok(()) })
        }
    )*};
}
use driver_functions;

/// Writes a result, if there is a place for it.
///
/// # Safety
/// `place` is null or valid.
unsafe fn put<T>(place: *mut T, value: T) -> Answer {
    if place.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller's condition.
    unsafe { place.write(value) };
    Ok(())
}
