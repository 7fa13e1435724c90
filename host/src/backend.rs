//! Where steps run.

use crate::cuda::Device;
use crate::error::{Error, Result};

/// A place to run steps. Both give the same lists, bit for bit.
#[derive(Debug, Clone)]
pub enum Backend {
    /// This machine's processors, through rayon's current thread pool.
    Cpu,
    /// An NVIDIA GPU of compute capability 8.0 or later.
    Cuda(Device),
}

/// What [`Backend::auto`] picked.
#[derive(Debug)]
pub struct AutoBackend {
    /// The backend.
    pub backend: Backend,
    /// Why it is not the GPU, when it is not.
    pub why_not_cuda: Option<Error>,
}

impl Backend {
    /// The GPU when one answers, else the CPU with the reason.
    pub fn auto() -> AutoBackend {
        match Backend::cuda() {
            Ok(backend) => AutoBackend {
                backend,
                why_not_cuda: None,
            },
            Err(error) => AutoBackend {
                backend: Backend::Cpu,
                why_not_cuda: Some(error),
            },
        }
    }

    /// The first GPU. libcuda is opened here, at run time.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when no driver or no usable GPU is there.
    pub fn cuda() -> Result<Self> {
        Device::open(0).map(Backend::Cuda)
    }

    /// `cpu` or `cuda`.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Cpu => "cpu",
            Backend::Cuda(_) => "cuda",
        }
    }

    /// The device in words, as a report would print it.
    pub fn device_name(&self) -> String {
        match self {
            Backend::Cpu => format!("CPU, {} threads", rayon::current_num_threads()),
            Backend::Cuda(device) => device.name().to_owned(),
        }
    }
}
