//! Opening libcuda, once, and looking functions up in it.

use std::env;
use std::error::Error;
use std::ffi::{CStr, OsString, c_int};
use std::sync::OnceLock;

use libloading::Library;

use crate::codes::{NO_DEVICE, NOT_SUPPORTED};

/// Path of the library to open in place of [`SONAME`]; for tests that inject a fake driver.
const PATH_VARIABLE: &str = "KEYSIEVE_LIBCUDA";

/// The name under which every driver package installs the library.
const SONAME: &str = if cfg!(windows) {
    "nvcuda.dll"
} else {
    "libcuda.so.1"
};

struct Driver {
    library: Library,
    path: String,
}

/// The opened library. It is never closed: the driver does not survive that, and function pointers
/// into it are cached.
static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();

fn driver() -> &'static Result<Driver, String> {
    DRIVER.get_or_init(|| {
        let path = env::var_os(PATH_VARIABLE)
            .filter(|path| !path.is_empty())
            .unwrap_or_else(|| OsString::from(SONAME));
        let shown = path.to_string_lossy().into_owned();
        // SAFETY: opening a library runs its initialisers. Those of libcuda ask nothing of the
        // caller; whoever sets the variable answers for another library.
        match unsafe { Library::new(&path) } {
            Ok(library) => Ok(Driver {
                library,
                path: shown,
            }),
            Err(error) => {
                // The loader's own words are in the source, often behind the path.
                let reason = error.source().unwrap_or(&error).to_string();
                let reason = reason.trim_start_matches(&format!("{shown}: "));
                Err(format!("cannot open {shown}: {reason}"))
            }
        }
    })
}

/// Opens libcuda if that has not happened yet.
///
/// Returns the path or soname that was opened. It says nothing about devices: `cuInit` does.
///
/// # Errors
///
/// A sentence with the name that was tried and the loader's reason.
///
/// ```
/// match keysieve_libcuda::availability() {
///     Ok(path) => println!("driver: {path}"),
///     Err(why) => println!("no driver: {why}"),
/// }
/// ```
pub fn availability() -> Result<&'static str, String> {
    match driver() {
        Ok(driver) => Ok(&driver.path),
        Err(why) => Err(why.clone()),
    }
}

/// Looks a function up; the error is the code that a call of it shall return.
///
/// # Safety
///
/// `F` is a function pointer type with the signature that the driver gives to `name`.
pub(crate) unsafe fn resolve<F: Copy>(name: &CStr) -> Result<F, c_int> {
    let driver = driver().as_ref().map_err(|_| NO_DEVICE as c_int)?;
    // SAFETY: the caller names the right type, and the library stays open for ever.
    match unsafe { driver.library.get::<F>(name) } {
        Ok(function) => Ok(*function),
        Err(_) => Err(NOT_SUPPORTED as c_int),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Once;

    pub(crate) const ABSENT: &str = "/nonexistent/libcuda.so.1";

    /// Makes this process one without a driver, whatever the machine has.
    pub(crate) fn use_no_driver() {
        static ONCE: Once = Once::new();
        // SAFETY: only Rust's own, locked `env` functions read the environment in these tests.
        ONCE.call_once(|| unsafe { env::set_var(PATH_VARIABLE, ABSENT) });
    }
}
