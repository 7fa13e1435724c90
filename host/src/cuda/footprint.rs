//! What a step's kernel takes of a multiprocessor, as the driver says.

use cust::sys;
use gpu_kernels::kernel::KernelArgs;
use gpu_kernels::select::{SelectSurvivors, SelectSurvivorsClustered, SelectSurvivorsFiltered};
use gpu_kernels::select_tuples::{SelectTuples, SelectTuplesReference, SelectTuplesReferenceLong};

use super::device::Device;
use super::error::OrDriverError;
use super::heuristics::Variant;
use super::step::Step;
use super::tuples::TupleKernel;
use crate::error::Result;

/// One kernel's needs, and how many of its blocks a multiprocessor holds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// The entry point's name.
    pub kernel: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// 32-bit registers of a thread.
    pub registers: u32,
    /// Blocks that are resident together.
    pub blocks_per_multiprocessor: u32,
}

impl Footprint {
    fn of<K: KernelArgs>(device: &Device, shared_words: u32) -> Result<Self> {
        let threads = K::INFO.threads;
        let shared_bytes = 4 * shared_words;
        let (mut registers, mut blocks) = (0, 0);
        let which = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
        // SAFETY: the handle is a kernel's of the loaded module, the out-pointer is valid.
        unsafe { sys::cuFuncGetAttribute(&raw mut registers, which, device.function::<K>()) }
            .or_driver_error()?;
        // SAFETY: as above.
        unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut blocks,
                device.function::<K>(),
                threads as i32,
                shared_bytes as usize,
            )
        }
        .or_driver_error()?;
        Ok(Footprint {
            kernel: K::INFO.name,
            threads,
            shared_bytes,
            registers: registers as u32,
            blocks_per_multiprocessor: blocks as u32,
        })
    }
}

impl Step {
    /// The footprint of the one kernel that a fused step launches; `None` where a step is one kernel
    /// for each stage.
    ///
    /// # Errors
    /// What the driver answers.
    pub fn footprint(&self) -> Result<Option<Footprint>> {
        self.device.enter()?;
        match self.variant {
            Variant::Staged => Ok(None),
            Variant::Survivors(plan) if plan.is_clustered() => {
                let words = plan.shared_words();
                Footprint::of::<SelectSurvivorsClustered>(&self.device, words).map(Some)
            }
            Variant::Survivors(plan) if plan.has_filter() => {
                let words = plan.shared_words();
                Footprint::of::<SelectSurvivorsFiltered>(&self.device, words).map(Some)
            }
            Variant::Survivors(plan) => {
                Footprint::of::<SelectSurvivors>(&self.device, plan.shared_words()).map(Some)
            }
            Variant::Tuples(blocks) => {
                let words = blocks.shared_words(&self.device, self.shape.weights_stride != 0);
                let footprint = match TupleKernel::of(&self.shape, blocks) {
                    TupleKernel::Any => Footprint::of::<SelectTuples>(&self.device, words),
                    TupleKernel::Reference => {
                        Footprint::of::<SelectTuplesReference>(&self.device, words)
                    }
                    TupleKernel::ReferenceLong => {
                        Footprint::of::<SelectTuplesReferenceLong>(&self.device, words)
                    }
                };
                footprint.map(Some)
            }
        }
    }
}
