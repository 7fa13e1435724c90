//! A library to name in `KEYSIEVE_LIBCUDA`: a driver with one device, no work and chosen failures.
//!
//! Functions succeed and hand out a handle that nothing looks into, until [`fake_driver_fail`]
//! picks one to fail. What is not defined here is missing, as in a driver that is too old.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;

static FAILURE: Mutex<(String, c_int)> = Mutex::new((String::new(), 0));

/// From now on the driver function `name` returns `code`, and every other one succeeds.
///
/// # Safety
///
/// `name` ends in NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_driver_fail(name: *const c_char, code: c_int) {
    // SAFETY: the caller's condition.
    let name = unsafe { CStr::from_ptr(name) };
    *FAILURE.lock().unwrap() = (name.to_string_lossy().into_owned(), code);
}

fn answer(function: &str) -> c_int {
    match &*FAILURE.lock().unwrap() {
        (name, code) if name == function => *code,
        _ => 0,
    }
}

macro_rules! fakes {
    ($(fn $name:ident($($out:ident: $kind:ty),*; $($ignored:ty),*);)*) => {$(
        /// Answers as chosen; a pointer for a result receives a handle.
        ///
        /// # Safety
        ///
        /// That pointer is valid.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn $name($($out: *mut $kind,)* $(_: $ignored),*) -> c_int {
            let code = answer(stringify!($name));
            $(if code == 0 {
                // SAFETY: the caller's condition.
                unsafe { *$out = 0x1000 as $kind };
            })*
            code
        }
    )*};
}

type Handle = *mut c_void;

fakes! {
    fn cuInit(; c_uint);
    fn cuDeviceGet(device: c_int; c_int);
    fn cuDevicePrimaryCtxRetain(context: Handle; c_int);
    fn cuDevicePrimaryCtxRelease_v2(; c_int);
    fn cuCtxSetCurrent(; Handle);
    fn cuModuleLoadDataEx(module: Handle; *const c_void, c_uint, *mut c_uint, *mut Handle);
    fn cuModuleUnload(; Handle);
    fn cuStreamCreateWithPriority(stream: Handle; c_uint, c_int);
    fn cuStreamDestroy_v2(; Handle);
    fn cuStreamSynchronize(; Handle);
    fn cuEventCreate(event: Handle; c_uint);
    fn cuEventDestroy_v2(; Handle);
    fn cuEventQuery(; Handle);
}
