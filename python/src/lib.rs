//! The native module of the Python package `keysieve`: arrays come in and go out by DLPack, the interpreter
//! is released while the library works.
//!
//! What a user sees is `python/keysieve`; nothing here is called otherwise.

mod config;
mod cuda;
mod dlpack;
mod errors;
mod host;
mod index;
mod inputs;
mod integers;
mod selection;
mod state;
mod stepper;

use keysieve::Backend;
use keysieve::cuda::{Device, doctor};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use errors::{Class, raised};

/// The backend of that name.
fn backend(name: &str) -> PyResult<Backend> {
    let ordinal = match name {
        "auto" => return Ok(Backend::auto().backend),
        "cpu" => return Ok(Backend::Cpu),
        "cuda" => Some(0),
        _ => name
            .strip_prefix("cuda:")
            .and_then(|text| text.parse().ok()),
    };
    match ordinal {
        Some(ordinal) => Device::open(ordinal).map(Backend::Cuda).map_err(raised),
        None => Err(Class::InvalidArgument.error("device", name, "auto, cpu, cuda or cuda:N")),
    }
}

/// The driver's handle of a stream as DLPack numbers them: 1 is the legacy default stream, 2 the
/// thread's own.
fn stream_handle(number: i64) -> PyResult<usize> {
    match usize::try_from(number) {
        Ok(0) | Err(_) => {
            let expected = "a stream as DLPack numbers them, 1 for the default one";
            Err(Class::InvalidArgument.error("stream", number, expected))
        }
        Ok(handle) => Ok(handle),
    }
}

/// What works here: the CPU in words, the GPU's report or the reason why there is none.
#[pyfunction(name = "doctor")]
fn run_doctor(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let found = py.detach(doctor::doctor);
    let report = PyDict::new(py);
    report.set_item("version", env!("CARGO_PKG_VERSION"))?;
    report.set_item("cpu", Backend::Cpu.device_name())?;
    let cuda = PyDict::new(py);
    match found {
        Ok(found) => {
            cuda.set_item("works", true)?;
            cuda.set_item("device", found.device)?;
            cuda.set_item("driver_version", found.driver_version)?;
            let capability = found.compute_capability;
            cuda.set_item("compute_capability", (capability / 10, capability % 10))?;
            cuda.set_item("num_multiprocessors", found.num_multiprocessors)?;
            cuda.set_item("kernels", found.ptx_file.name)?;
        }
        Err(error) => {
            cuda.set_item("works", false)?;
            cuda.set_item("reason", error.to_string())?;
        }
    }
    report.set_item("cuda", cuda)?;
    Ok(report)
}

#[pymodule(name = "_native")]
mod native {
    #[pymodule_export]
    use super::config::check_config;
    #[pymodule_export]
    use super::dlpack::Array;
    #[pymodule_export]
    use super::index::Index;
    #[pymodule_export]
    use super::run_doctor;
    #[pymodule_export]
    use super::selection::{Selected, merge_selections, shard_config};
    #[pymodule_export]
    use super::stepper::Stepper;

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
