//! A GPU with its context and the kernels loaded.

use std::sync::Arc;

use cust::context::{Context, CurrentContext};
use cust::device::DeviceAttribute;
use cust::module::Module;
use cust::sys;
use gpu_kernels::kernel::KernelArgs;
use gpu_kernels::kmeans::KMeansAssign;
use gpu_kernels::scores::Scores;
use gpu_kernels::select::{
    MAX_CLUSTER, SelectSurvivors, SelectSurvivorsClustered, SelectSurvivorsFiltered,
};
use gpu_kernels::select_tuples::{SelectTuples, SelectTuplesReference, SelectTuplesReferenceLong};
use gpu_kernels::table::KERNELS;
use keysieve_libcuda::functions::cuOccupancyMaxActiveClusters;
use keysieve_libcuda::launch::{LaunchAttribute, LaunchConfig};

use super::error::{OrDriverError, lost};
use crate::config::{MAX_BITS, MAX_SUBVECTORS};
use crate::error::{Error, Result};

/// A PTX file of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PtxFile {
    /// Its name under `host/ptx`.
    pub name: &'static str,
    /// The lowest compute capability it runs on, as 10 x major + minor.
    pub compute_capability: u32,
    text: &'static str,
}

impl PtxFile {
    /// Whether it has the kernels that work in clusters of blocks.
    pub fn has_clusters(&self) -> bool {
        self.compute_capability >= 90
    }
}

/// The PTX files, the most capable first.
pub const PTX_FILES: [PtxFile; 2] = [
    PtxFile {
        name: "keysieve_sm90.ptx",
        compute_capability: 90,
        text: include_str!("../../ptx/keysieve_sm90.ptx"),
    },
    PtxFile {
        name: "keysieve_sm80.ptx",
        compute_capability: 80,
        text: include_str!("../../ptx/keysieve_sm80.ptx"),
    },
];

/// A GPU, opened once: its primary context and the kernels. Clones share it.
#[derive(Debug, Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ordinal: u32,
    name: String,
    driver_version: (u32, u32),
    compute_capability: u32,
    num_multiprocessors: u32,
    max_shared_bytes: usize,
    /// Clusters of so many blocks, each with a multiprocessor for itself, that the GPU holds at once.
    resident_clusters: [usize; MAX_CLUSTER as usize + 1],
    ptx_file: PtxFile,
    functions: Functions,
    // Fields drop in order: the module before the context that holds it.
    _module: Module,
    context: Context,
}

impl Inner {
    fn make_current_to_free(&self) {
        let make_current = || CurrentContext::set_current(&self.context);
        // Once more: what is not freed now is never freed. A failure has nobody to report to.
        let _ = make_current().or_else(|_| make_current());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.make_current_to_free();
    }
}

/// The kernels' handles, in the order of [`KERNELS`].
#[derive(Debug)]
struct Functions([sys::CUfunction; KERNELS.len()]);

// SAFETY: handles of a loaded module, which the driver lets any thread use.
unsafe impl Send for Functions {}
// SAFETY: as above; they are never written after loading.
unsafe impl Sync for Functions {}

impl Device {
    /// Opens GPU `ordinal`: libcuda first, if this is the process's first use of it.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when there is no driver, no such GPU, or one that no PTX file fits;
    /// [`Error::DeviceLost`] when this process has lost its context before.
    pub fn open(ordinal: u32) -> Result<Self> {
        if let Some(error) = lost() {
            return Err(error);
        }
        keysieve_libcuda::availability().map_err(no_device)?;
        Self::open_with_driver(ordinal).map_err(|error| match error {
            Error::Driver { call, code, name } => {
                no_device(format!("{call} answered {name} ({code})"))
            }
            other => other,
        })
    }

    fn open_with_driver(ordinal: u32) -> Result<Self> {
        cust::init(cust::CudaFlags::empty()).or_driver_error()?;
        let num_devices = cust::device::Device::num_devices().or_driver_error()?;
        if ordinal >= num_devices {
            return Err(no_device(format!(
                "device {ordinal} of {num_devices} is asked for"
            )));
        }
        let device = cust::device::Device::get_device(ordinal).or_driver_error()?;
        let attribute = |which| {
            let value = device.get_attribute(which).or_driver_error()?;
            Ok::<_, Error>(value as u32)
        };
        let compute_capability = 10 * attribute(DeviceAttribute::ComputeCapabilityMajor)?
            + attribute(DeviceAttribute::ComputeCapabilityMinor)?;
        let name = device.name().or_driver_error()?;
        let ptx_file = PTX_FILES
            .into_iter()
            .find(|file| file.compute_capability <= compute_capability)
            .ok_or_else(|| {
                no_device(format!(
                    "{name} has compute capability {}.{}, below 8.0",
                    compute_capability / 10,
                    compute_capability % 10
                ))
            })?;
        let version = cust::CudaApiVersion::get().or_driver_error()?;

        let context = Context::new(device).or_driver_error()?;
        CurrentContext::set_current(&context).or_driver_error()?;
        let module = Module::from_ptx(ptx_file.text, &[]).or_driver_error()?;
        let mut functions = [std::ptr::null_mut(); KERNELS.len()];
        let loaded = KERNELS
            .iter()
            .map(|kernel| kernel.cluster == 0 || ptx_file.has_clusters());
        for ((handle, kernel), loaded) in functions.iter_mut().zip(KERNELS).zip(loaded) {
            if !loaded {
                continue;
            }
            *handle = module.get_function(kernel.name).or_driver_error()?.to_raw();
        }
        let mut device = Device {
            inner: Arc::new(Inner {
                ordinal,
                name,
                driver_version: (version.major() as u32, version.minor() as u32),
                compute_capability,
                num_multiprocessors: attribute(DeviceAttribute::MultiprocessorCount)?,
                max_shared_bytes: max_shared_bytes(ordinal)?,
                resident_clusters: Default::default(),
                ptx_file,
                functions: Functions(functions),
                _module: module,
                context,
            }),
        };
        // More than a kernel may have unasked: the largest table; and whatever a fused step can use.
        let largest_table = (MAX_SUBVECTORS << MAX_BITS) * size_of::<f32>();
        device.allow_shared_bytes::<Scores>(largest_table)?;
        device.allow_shared_bytes::<SelectSurvivors>(device.inner.max_shared_bytes)?;
        device.allow_shared_bytes::<SelectSurvivorsFiltered>(device.inner.max_shared_bytes)?;
        if ptx_file.has_clusters() {
            device.allow_shared_bytes::<SelectSurvivorsClustered>(device.inner.max_shared_bytes)?;
            let mut resident_clusters = [0; MAX_CLUSTER as usize + 1];
            for (cluster, resident) in resident_clusters.iter_mut().enumerate().skip(2) {
                *resident = device.count_clusters::<SelectSurvivorsClustered>(cluster as u32)?;
            }
            let inner = Arc::get_mut(&mut device.inner);
            inner.expect("nobody else has it yet").resident_clusters = resident_clusters;
        }
        device.allow_shared_bytes::<SelectTuples>(device.inner.max_shared_bytes)?;
        device.allow_shared_bytes::<SelectTuplesReference>(device.inner.max_shared_bytes)?;
        device.allow_shared_bytes::<SelectTuplesReferenceLong>(device.inner.max_shared_bytes)?;
        device.allow_shared_bytes::<KMeansAssign>(device.inner.max_shared_bytes)?;
        Ok(device)
    }

    fn allow_shared_bytes<K: KernelArgs>(&self, bytes: usize) -> Result<()> {
        // SAFETY: the handle is a kernel's of the loaded module.
        unsafe {
            sys::cuFuncSetAttribute(
                self.function::<K>(),
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                bytes as i32,
            )
        }
        .or_driver_error()
    }

    /// Clusters of `cluster` blocks of a kernel with all the shared memory that a block can have that the GPU holds at
    /// once.
    fn count_clusters<K: KernelArgs>(&self, cluster: u32) -> Result<usize> {
        let attributes = [LaunchAttribute::cluster_dimension([cluster, 1, 1])];
        let config = LaunchConfig {
            shared_mem_bytes: self.inner.max_shared_bytes as u32,
            attributes: attributes.as_ptr(),
            num_attributes: attributes.len() as u32,
            ..LaunchConfig::new([cluster, 1, 1], [K::INFO.threads, 1, 1])
        };
        let mut resident = 0;
        // SAFETY: the handle is a kernel's of the loaded module; the pointers are valid.
        let code = unsafe {
            cuOccupancyMaxActiveClusters(
                &raw mut resident,
                self.function::<K>().cast(),
                &raw const config,
            )
        };
        code.or_driver_error()?;
        Ok(resident as usize)
    }

    /// Makes the context current on this thread. Every public call on the backend begins so.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] at once when the context is lost.
    pub(super) fn enter(&self) -> Result<()> {
        if let Some(error) = lost() {
            return Err(error);
        }
        CurrentContext::set_current(&self.inner.context).or_driver_error()
    }

    /// Makes the context current on this thread, be it lost or not, for a `Drop` that frees: the
    /// thread may have another context, or none, and freeing without one leaks.
    pub(super) fn enter_to_free(&self) {
        self.inner.make_current_to_free();
    }

    pub(super) fn function<K: KernelArgs>(&self) -> sys::CUfunction {
        let index = const { kernel_index(K::INFO.name) };
        self.inner.functions.0[index]
    }

    /// Which GPU it is, as the driver counts them.
    pub fn ordinal(&self) -> u32 {
        self.inner.ordinal
    }

    /// The GPU's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The CUDA version of the driver, as (major, minor).
    pub fn driver_version(&self) -> (u32, u32) {
        self.inner.driver_version
    }

    /// The compute capability, as 10 x major + minor.
    pub fn compute_capability(&self) -> u32 {
        self.inner.compute_capability
    }

    /// Streaming multiprocessors.
    pub fn num_multiprocessors(&self) -> u32 {
        self.inner.num_multiprocessors
    }

    /// Shared memory that a block can have, in bytes.
    pub fn max_shared_bytes(&self) -> usize {
        self.inner.max_shared_bytes
    }

    /// Clusters of `cluster` blocks, each with a multiprocessor for itself, that the GPU holds at once; 0 where it has no
    /// clusters, or none of that size.
    pub fn resident_clusters(&self, cluster: u32) -> usize {
        let resident = self.inner.resident_clusters.get(cluster as usize);
        resident.copied().unwrap_or(0)
    }

    /// The PTX file whose kernels are loaded.
    pub fn ptx_file(&self) -> PtxFile {
        self.inner.ptx_file
    }
}

/// cust's list of attributes ends before this one.
fn max_shared_bytes(ordinal: u32) -> Result<usize> {
    let which = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    let mut bytes = 0;
    // SAFETY: the driver is initialised and the device exists; the out-pointer is valid.
    unsafe { sys::cuDeviceGetAttribute(&raw mut bytes, which, ordinal as sys::CUdevice) }
        .or_driver_error()?;
    Ok(bytes as usize)
}

fn no_device(reason: impl ToString) -> Error {
    Error::NoDevice {
        reason: reason.to_string(),
    }
}

/// The place of a kernel in [`KERNELS`]; a kernel that is not listed there does not compile.
const fn kernel_index(name: &str) -> usize {
    let mut index = 0;
    while index < KERNELS.len() {
        if same(KERNELS[index].name.as_bytes(), name.as_bytes()) {
            return index;
        }
        index += 1;
    }
    panic!("the kernel is not in gpu_kernels::table::KERNELS")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}
