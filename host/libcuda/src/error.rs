//! What the driver answered: the last error of this thread, and whether a context was lost.

use std::cell::Cell;
use std::error::Error;
use std::ffi::c_int;
use std::fmt;
use std::sync::OnceLock;

use crate::codes::{self, CONTEXT_IS_DESTROYED, NOT_READY, SUCCESS, UNKNOWN};

/// A driver call that failed, with the code exactly as the driver gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DriverError {
    /// The driver function, such as `cuLaunchKernel`.
    pub function: &'static str,
    /// The raw `CUresult`.
    pub code: u32,
}

impl DriverError {
    /// The name of the code in `cuda.h`, or `"unlisted CUresult"` for one newer than this crate.
    pub fn name(&self) -> &'static str {
        codes::find(self.code).map_or("unlisted CUresult", |code| code.name())
    }

    /// What the code means, in one phrase.
    pub fn description(&self) -> &'static str {
        codes::find(self.code).map_or("a code newer than this program", |code| code.description())
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, code } = self;
        let (name, description) = (self.name(), self.description());
        write!(f, "{function}: {name} ({code}): {description}")
    }
}

impl Error for DriverError {}

thread_local! {
    static LAST: Cell<Option<DriverError>> = const { Cell::new(None) };
}

static LOST: OnceLock<DriverError> = OnceLock::new();

/// The most recent failed driver call of this thread.
///
/// A call that succeeds leaves it, as with `errno`; so does `CUDA_ERROR_NOT_READY`, the ordinary
/// answer to a query. Read it right after a failed call: what `Drop` frees later may fail too.
pub fn last_error() -> Option<DriverError> {
    LAST.get()
}

/// [`last_error`], and forgets it.
pub fn take_last_error() -> Option<DriverError> {
    LAST.take()
}

/// The first failed call of this process that took a context with it ([`is_fatal`]).
///
/// The driver repeats such an error in every later call, so work must go to another process; there
/// is no way back to `None`. `CUDA_ERROR_CONTEXT_IS_DESTROYED` does not count when a function that
/// frees something reports it: that is an object dropped after its context.
pub fn lost() -> Option<DriverError> {
    LOST.get().copied()
}

/// Whether `code` means that the context it came from can no longer be used.
///
/// These are the codes after which `cuda.h` asks for the process, or at least the context, to be
/// given up, plus uncorrectable hardware errors. `CUDA_ERROR_DEVICE_UNAVAILABLE` (46) is not among
/// them, it says that no context could be made; nor is `CUDA_ERROR_UNKNOWN` (999).
pub fn is_fatal(code: u32) -> bool {
    matches!(
        code,
        214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 810 | 911
    )
}

/// Writes a driver function's answer down and gives back the code to return from it.
#[inline]
pub(crate) fn answer(function: &'static str, code: c_int) -> c_int {
    if code == SUCCESS as c_int {
        return code;
    }
    record(function, code as u32) as c_int
}

#[cold]
fn record(function: &'static str, code: u32) -> u32 {
    if code == NOT_READY {
        return code;
    }
    let error = DriverError { function, code };
    LAST.set(Some(error));
    if is_fatal(code) && !(code == CONTEXT_IS_DESTROYED && frees(function)) {
        // Only the first one tells what happened; the driver repeats it from then on.
        let _ = LOST.set(error);
    }
    if codes::fits_cust(code) {
        code
    } else {
        UNKNOWN
    }
}

fn frees(function: &str) -> bool {
    ["Destroy", "Free", "Release", "Unload"]
        .iter()
        .any(|verb| function.contains(verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stays_until_it_is_taken() {
        assert_eq!(answer("cuMemAlloc_v2", 2), 2);
        assert_eq!(answer("cuInit", 0), 0);
        assert_eq!(answer("cuEventQuery", 600), 600);
        let error = last_error().unwrap();
        assert_eq!((error.function, error.code), ("cuMemAlloc_v2", 2));
        assert_eq!(take_last_error(), Some(error));
        assert_eq!(last_error(), None);
    }

    #[test]
    fn errors_of_other_threads_are_not_seen() {
        take_last_error();
        std::thread::spawn(|| answer("cuInit", 3)).join().unwrap();
        assert_eq!(last_error(), None);
    }

    #[test]
    fn codes_unknown_to_cust_are_folded_but_kept() {
        assert_eq!(answer("cuLaunchKernelEx", 912), 999);
        assert_eq!(last_error().unwrap().code, 912);
        assert_eq!(answer("cuInit", 4321), 999);
        assert_eq!(answer("cuInit", -1), 999);
        assert_eq!(last_error().unwrap().name(), "unlisted CUresult");
        assert_eq!(answer("cuLaunchKernel", 720), 720);
    }

    #[test]
    fn errors_are_shown_with_function_name_and_code() {
        let error = DriverError {
            function: "cuModuleLoadDataEx",
            code: 222,
        };
        let shown = error.to_string();
        assert!(
            shown.starts_with("cuModuleLoadDataEx: CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222): ")
        );
    }

    #[test]
    fn fatal_codes_are_those_that_end_a_context() {
        for code in [700, 702, 709, 710, 714, 719, 721, 214, 220, 226, 810, 911] {
            assert!(is_fatal(code), "{code}");
        }
        for code in [0, 1, 2, 4, 46, 100, 600, 701, 708, 713, 720, 801, 912, 999] {
            assert!(!is_fatal(code), "{code}");
        }
    }

    #[test]
    fn freeing_functions_are_told_by_their_names() {
        for function in ["cuMemFree_v2", "cuStreamDestroy_v2", "cuModuleUnload"] {
            assert!(frees(function), "{function}");
        }
        assert!(frees("cuDevicePrimaryCtxRelease_v2"));
        assert!(!frees("cuStreamSynchronize"));
    }
}
