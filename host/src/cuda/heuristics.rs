//! Which variant of the step fits a shape.

use gpu_kernels::select::{KEYS_PER_TILE, MAX_CLUSTER, THREADS, layout};
use gpu_kernels::step::StepShape;
use gpu_kernels::{select_tuples, tuple_counts};

use super::device::Device;

/// A way to run a step. All give the same lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// One kernel for each stage: any shape, any chip.
    Staged,
    /// One launch, a cluster of blocks for each row, scores in shared memory.
    Cluster {
        /// Blocks of a cluster: 1, 2, 4 or 8.
        blocks: u32,
        /// Keys that each thread scores, a multiple of 16.
        keys_per_thread: u32,
    },
    /// One launch for formats of few bits: the cut follows from how often each tuple of codes occurs,
    /// and blocks need not wait for each other. Any chip, any length.
    Tuples(TupleBlocks),
}

/// How the keys of a row are shared out to blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TupleBlocks {
    /// Blocks of a row.
    pub num_blocks: u32,
    /// Tiles of 8192 keys that each has.
    pub tiles_per_block: u32,
}

/// Most blocks of a row: what is kept for each takes 16 KiB a group.
const MAX_TUPLE_BLOCKS: u32 = 64;

impl Variant {
    /// The variant to use for `rows` rows of `shape` on `device`: the cluster size with the least
    /// estimated time, or one kernel for each stage where no cluster's shared memory holds a row.
    pub fn choose(device: &Device, shape: &StepShape, rows: usize) -> Self {
        let estimate = |variant: &Variant| match *variant {
            Variant::Staged => f64::INFINITY,
            Variant::Cluster {
                blocks,
                keys_per_thread,
            } => estimate(device, rows * blocks as usize, keys_per_thread),
            Variant::Tuples(blocks) => estimate_tuples(device, rows, blocks),
        };
        Self::fitting(device, shape)
            .min_by(|a, b| estimate(a).total_cmp(&estimate(b)))
            .unwrap_or(Variant::Staged)
    }

    /// Every variant that can run `shape` on `device`; clusters by ascending size.
    pub fn fitting(device: &Device, shape: &StepShape) -> impl Iterator<Item = Self> {
        let words = device.max_shared_bytes() / 4;
        let shape = *shape;
        // Without a window the new key is a candidate of its own step, and other rows of its group
        // would need its codes.
        let fused = device.ptx_file().has_clusters() && shape.window > 0 && shape.code_capacity > 0;
        let clusters = (0..=MAX_CLUSTER.ilog2())
            .map(|log| 1 << log)
            .filter(move |_| fused)
            .map(move |blocks| Variant::Cluster {
                blocks,
                keys_per_thread: shape
                    .code_capacity
                    .div_ceil(blocks * THREADS)
                    .next_multiple_of(KEYS_PER_TILE),
            })
            .filter(move |variant| match variant {
                Variant::Cluster {
                    keys_per_thread, ..
                } => layout::words(shape.table_len(), *keys_per_thread) as usize <= words,
                _ => true,
            });
        std::iter::once(Variant::Staged)
            .chain(clusters)
            .chain(tuple_blocks(&shape).map(Variant::Tuples))
    }
}

/// The ways to share a row's keys out to blocks, the most blocks first.
pub(super) fn tuple_blocks(shape: &StepShape) -> impl Iterator<Item = TupleBlocks> + use<> {
    let fits = tuple_counts::fits(shape.num_subvectors, shape.bits)
        && shape.window >= tuple_counts::MIN_WINDOW
        && shape.code_capacity > 0;
    let tiles = shape.code_capacity.div_ceil(select_tuples::KEYS_PER_TILE);
    let mut previous = 0;
    (0..u32::BITS)
        .map(|log| 1 << log)
        .take_while(move |tiles_per_block| fits && tiles_per_block / 2 < tiles)
        .map(move |tiles_per_block| TupleBlocks {
            num_blocks: tiles.div_ceil(tiles_per_block),
            tiles_per_block,
        })
        .filter(move |blocks| {
            let is_new = blocks.num_blocks != previous;
            previous = blocks.num_blocks;
            is_new && blocks.num_blocks <= MAX_TUPLE_BLOCKS
        })
}

/// Microseconds of a step by tuples, roughly: a share for each block and for each tile, and more where
/// blocks share multiprocessors.
fn estimate_tuples(device: &Device, rows: usize, blocks: TupleBlocks) -> f64 {
    let num_blocks = rows * blocks.num_blocks as usize;
    let sharing = num_blocks as f64 / f64::from(device.num_multiprocessors());
    (3.0 + 0.6 * f64::from(blocks.tiles_per_block)) * sharing.max(1.0).powf(0.8)
}

/// Microseconds of a step in clusters, roughly: 20 for what every block does, 0.55 for each key of a thread, and
/// more where blocks share multiprocessors, which costs less than running them one after the other.
///
/// Fitted to the measurements in `docs/performance.md`, section 2: its choice is the fastest of all five
/// shapes measured.
fn estimate(device: &Device, num_blocks: usize, keys_per_thread: u32) -> f64 {
    let sharing = num_blocks as f64 / f64::from(device.num_multiprocessors());
    (20.0 + 0.55 * f64::from(keys_per_thread)) * sharing.max(1.0).powf(0.45)
}
