//! The driver of this process, and whose turn it is on a simulated GPU.

use std::env;
use std::ffi::c_int;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use libloading::Library;

use crate::sim_driver::{PATH_VARIABLE, SimDriver};

/// The simulated driver, if the process has that.
static SIMULATED: OnceLock<Option<SimDriver>> = OnceLock::new();

/// Decides for the GPU's driver or the simulated one: what the environment names, else the GPU's if a
/// GPU answers or `KEYSIEVE_REQUIRE_GPU` asks for one.
///
/// # Safety
/// Nothing reads the environment meanwhile: to be called before there are other threads.
pub(super) unsafe fn choose() {
    SIMULATED.get_or_init(|| {
        let required = env::var("KEYSIEVE_REQUIRE_GPU").is_ok_and(|value| value == "1");
        let driver = if env::var_os(PATH_VARIABLE).is_some() {
            SimDriver::installed()
        } else if required || gpu_answers() {
            None
        } else {
            // SAFETY: the caller's condition.
            Some(unsafe { SimDriver::install() })
        };
        if let Some(driver) = &driver {
            // A context that is lost is so for the process: no case would be shrunk, no trial follow.
            driver.violations_stay(false);
        }
        driver
    });
}

/// Whether the process has the simulated driver.
pub(crate) fn is_simulated() -> bool {
    simulated().is_some()
}

/// The simulated driver, if the process has it.
pub(crate) fn simulated() -> Option<&'static SimDriver> {
    SIMULATED.get().and_then(Option::as_ref)
}

/// Whether the system's libcuda finds a GPU. Asked without the library under test, which opens one
/// driver and stays with it.
fn gpu_answers() -> bool {
    // SAFETY: libcuda's initialisers ask nothing of the caller; the types are those of cuda.h.
    unsafe {
        let Ok(library) = Library::new("libcuda.so.1") else {
            return false;
        };
        let init = library.get::<unsafe extern "C" fn(u32) -> c_int>(c"cuInit");
        let count = library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"cuDeviceGetCount");
        let mut num = 0;
        let answers = match (init, count) {
            (Ok(init), Ok(count)) => init(0) == 0 && count(&raw mut num) == 0 && num > 0,
            _ => false,
        };
        // The driver does not survive being closed.
        std::mem::forget(library);
        answers
    }
}

/// A simulated GPU that is one trial's until it is dropped: work on one GPU waits for other work on it.
#[derive(Debug)]
pub(crate) struct SimGpu {
    pub(crate) ordinal: u32,
}

static TAKEN: Mutex<Vec<u32>> = Mutex::new(Vec::new());
static LET_GO: Condvar = Condvar::new();

impl SimGpu {
    /// Waits for a GPU of that compute capability.
    pub(crate) fn take(compute_capability: &str) -> Self {
        let capabilities = SimDriver::devices();
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let free = (0..).zip(&capabilities).find(|(ordinal, capability)| {
                *capability == compute_capability && !taken.contains(ordinal)
            });
            if let Some((ordinal, _)) = free {
                taken.push(ordinal);
                return SimGpu { ordinal };
            }
            taken = LET_GO.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn driver(&self) -> &'static SimDriver {
        simulated().expect("a simulated GPU belongs to the simulated driver")
    }
}

impl Drop for SimGpu {
    fn drop(&mut self) {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|&ordinal| ordinal != self.ordinal);
        LET_GO.notify_all();
    }
}
