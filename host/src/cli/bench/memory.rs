//! Whether a shape fits into memory, before anything of it is made.

use std::fs;

use keysieve::{Backend, Error, cuda};

use super::shape::Shape;

/// Refuses a shape whose steps, with room for `capacity` tokens, need more memory than is free on
/// the host or on the device.
///
/// # Errors
/// [`Error::Invalid`] naming the options that make it large; on a GPU also what the driver answers.
pub(super) fn check(shape: &Shape, capacity: usize, backend: &Backend) -> keysieve::Result<()> {
    let on_device = matches!(backend, Backend::Cuda(_));
    let host = host_bytes(shape, capacity, on_device);
    refuse("the host", host, available().unwrap_or(f64::INFINITY))?;
    // The estimate may be of any size, so the system is asked too; what is reserved is not touched.
    if Vec::<u8>::new().try_reserve_exact(host as usize).is_err() {
        refuse("the host", host, 0.0)?;
    }
    if let Backend::Cuda(device) = backend {
        let free = cuda::timing::free_memory(device)? as f64;
        refuse("the device", device_bytes(shape, capacity), free)?;
    }
    Ok(())
}

fn refuse(place: &str, needed: f64, free: f64) -> keysieve::Result<()> {
    const GIB: f64 = (1u64 << 30) as f64;
    // The rest of the machine wants to live too.
    if needed <= 0.9 * free {
        return Ok(());
    }
    Err(Error::invalid(
        "--batch, --heads, --tokens",
        format!("about {:.1} GiB of buffers", needed / GIB),
        format!("at most the {:.1} GiB free on {place}", 0.9 * free / GIB),
    ))
}

/// In floating point: no size overflows it.
struct Sizes {
    codes: f64,
    centroids: f64,
    lists: f64,
    weights: f64,
    scores: f64,
    tables: f64,
}

fn sizes(shape: &Shape, capacity: usize) -> Sizes {
    let (rows, groups, room) = (shape.rows() as f64, shape.groups() as f64, capacity as f64);
    let select = shape.select();
    let stride = (shape.sink + shape.window + shape.heavy)
        .max(select.short_context_limit(&shape.pq(), 1).min(capacity));
    Sizes {
        codes: groups * room * shape.num_subvectors as f64,
        // Lanes are padded to 32 centroids.
        centroids: groups * (shape.head_dim << shape.bits.max(5)) as f64 * 4.0,
        lists: rows * stride as f64 * 4.0,
        weights: if shape.weights {
            rows * room * 4.0
        } else {
            0.0
        },
        scores: rows * room * 4.0,
        tables: rows * (shape.num_subvectors << shape.bits) as f64 * 4.0,
    }
}

fn host_bytes(shape: &Shape, capacity: usize, on_device: bool) -> f64 {
    let sizes = sizes(shape, capacity);
    let threads = rayon::current_num_threads() as f64;
    // Scores and ranks of every worker, and the plain loop's own.
    let workers = threads * capacity as f64 * (12.0 + 20.0);
    // Keys are encoded by the chunk, one token of every head at least; queries are as many.
    let keys = 4.0 * (shape.head_dim * (shape.groups() + 2 * shape.rows())) as f64;
    let chunk = keys + f64::from(1u32 << 27);
    // The index and a copy while a step is checked; with a GPU the origin of the device's index too,
    // and both read back.
    let copies = if on_device { 6.0 } else { 2.0 };
    let selections = if on_device { 2.0 } else { 1.0 };
    let results = sizes.lists + sizes.weights;
    copies * (sizes.codes + 2.0 * sizes.centroids) + selections * results + workers + chunk
}

fn device_bytes(shape: &Shape, capacity: usize) -> f64 {
    let sizes = sizes(shape, capacity);
    // Histograms, cuts, counts and the driver's own.
    let top_k = shape.rows() as f64 * 16_384.0 + f64::from(1u32 << 28);
    sizes.codes
        + sizes.centroids * 2.0
        + 2.0 * sizes.lists
        + sizes.weights
        + sizes.scores
        + sizes.tables
        + top_k
}

/// Bytes that this process may still take, where the system says.
pub(super) fn available() -> Option<f64> {
    let number = |path: &str| -> Option<f64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
    let control_group = || {
        let limit = number("/sys/fs/cgroup/memory.max")?;
        Some(limit - number("/sys/fs/cgroup/memory.current")?)
    };
    let system = || {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text
            .lines()
            .find(|line| line.starts_with("MemAvailable:"))?;
        let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kilobytes * 1024.0)
    };
    match (system(), control_group()) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
