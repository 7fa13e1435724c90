//! Modules and their kernels: loaded once for each text, whatever contexts load it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ptx_sim::{KernelInfo, Module, Stats};

use crate::code::{Answer, INVALID_PTX, NO_BINARY_FOR_GPU, UNSUPPORTED_PTX_VERSION};
use crate::machine::Chip;

/// The CUDA version of this driver, as `cuDriverGetVersion` has it.
pub(crate) const DRIVER_VERSION: i32 = 12_080;
/// The newest PTX that a driver of that version compiles.
const PTX_VERSION: (u32, u32) = (8, 7);

/// A file's kernels and how often they ran.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) module: Module,
    /// The file's `.target`, as 10 x major + minor.
    target: u32,
    counts: HashMap<String, Count>,
}

#[derive(Debug, Default)]
struct Count {
    launches: AtomicU64,
    lane_instructions: AtomicU64,
}

static IMAGES: Mutex<Vec<(String, Arc<Image>)>> = Mutex::new(Vec::new());

impl Image {
    /// Loads PTX for a chip.
    pub(crate) fn load(text: &str, chip: &Chip) -> Answer<Arc<Image>> {
        let version = directive(text, ".version").and_then(|version| {
            let (major, minor) = version.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let target = directive(text, ".target")
            .and_then(|target| target.strip_prefix("sm_"))
            .and_then(|target| target.trim_end_matches(['a', ',']).parse().ok());
        let (Some(version), Some(target)) = (version, target) else {
            eprintln!("simulated GPU: PTX without .version and .target");
            return Err(INVALID_PTX);
        };
        if version > PTX_VERSION {
            return Err(UNSUPPORTED_PTX_VERSION);
        }
        if target > chip.compute_capability {
            return Err(NO_BINARY_FOR_GPU);
        }
        let mut images = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, image)) = images.iter().find(|(known, _)| known == text) {
            return Ok(image.clone());
        }
        let module = Module::parse(text).map_err(|error| {
            eprintln!("simulated GPU: {error}");
            INVALID_PTX
        })?;
        let names = module.kernels().into_iter().map(str::to_owned);
        let counts = names.map(|name| (name, Count::default())).collect();
        let image = Arc::new(Image {
            module,
            target,
            counts,
        });
        images.push((text.to_owned(), image.clone()));
        Ok(image)
    }

    /// What the file says of a kernel.
    pub(crate) fn kernel(&self, name: &str) -> Option<KernelInfo> {
        self.module.kernel(name)
    }

    /// Counts a launch.
    pub(crate) fn count(&self, kernel: &str, stats: &Stats) {
        if let Some(count) = self.counts.get(kernel) {
            count.launches.fetch_add(1, Ordering::Relaxed);
            let instructions = stats.lane_instructions;
            count
                .lane_instructions
                .fetch_add(instructions, Ordering::Relaxed);
        }
    }
}

/// The first word behind a directive.
fn directive<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(name))?;
    line.split_whitespace().next()
}

/// See [`crate::control::sim_driver_kernels`].
pub(crate) fn summary() -> String {
    let images = IMAGES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut summary = String::new();
    for (_, image) in images.iter() {
        for name in image.module.kernels() {
            let (Some(info), Some(count)) = (image.kernel(name), image.counts.get(name)) else {
                continue;
            };
            summary += &format!(
                "{} {name} {} {} {} {}",
                image.target,
                count.launches.load(Ordering::Relaxed),
                count.lane_instructions.load(Ordering::Relaxed),
                info.num_instructions,
                info.unexecuted.len()
            );
            for line in &info.unexecuted {
                summary += &format!(" {line}");
            }
            summary.push('\n');
        }
    }
    summary
}
