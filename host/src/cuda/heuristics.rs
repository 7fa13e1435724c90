//! Which variant of the step fits a shape.

use gpu_kernels::select::{Filter, Plan};
use gpu_kernels::step::StepShape;
use gpu_kernels::{select_tuples, tuple_counts};

use super::device::Device;

/// A way to run a step. All give the same lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// One kernel for each stage: any shape, any chip.
    Staged,
    /// One launch for any format: each block of a row keeps those of its keys that may be among the best,
    /// and the one that finishes last goes on with all of them. Any length.
    Survivors(Plan),
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

/// Blocks of a row that keeps survivors: numbers that are tried.
const NUM_BLOCKS: [u32; 9] = [1, 2, 3, 4, 6, 8, 12, 16, 32];

/// Most blocks of a row: what is kept for each takes 16 KiB a group.
const MAX_TUPLE_BLOCKS: u32 = 64;

impl Variant {
    /// The variant to use for `rows` rows of `shape` on `device`: the one with the least
    /// estimated time, or one kernel for each stage where no other fits.
    pub fn choose(device: &Device, shape: &StepShape, rows: usize) -> Self {
        let estimate = |variant: &Variant| match *variant {
            Variant::Staged => f64::INFINITY,
            Variant::Survivors(plan) => estimate(device, shape, rows, plan),
            Variant::Tuples(blocks) => estimate_tuples(device, rows, blocks),
        };
        Self::fitting(device, shape)
            .min_by(|a, b| estimate(a).total_cmp(&estimate(b)))
            .unwrap_or(Variant::Staged)
    }

    /// Every variant that can run `shape` on `device`.
    pub fn fitting(device: &Device, shape: &StepShape) -> impl Iterator<Item = Self> {
        std::iter::once(Variant::Staged)
            .chain(plans(device, shape).map(Variant::Survivors))
            .chain(tuple_blocks(shape).map(Variant::Tuples))
    }
}

/// The ways to share a row's keys out to blocks that keep survivors, the fewest blocks first.
pub(super) fn plans(device: &Device, shape: &StepShape) -> impl Iterator<Item = Plan> + use<> {
    let words = (device.max_shared_bytes() / 4) as u32;
    let device = device.clone();
    let shape = *shape;
    // Without a window the new key is a candidate of its own step, and other rows of its group would
    // need its codes.
    let fits = shape.window > 0 && shape.code_capacity > 0 && !shape.needs_stages();
    NUM_BLOCKS
        .into_iter()
        .filter(move |_| fits)
        .flat_map(move |num_blocks| {
            let filters = [Filter::None, Filter::OfBlock, Filter::OfCluster];
            let has_clusters = device.resident_clusters(num_blocks) > 0;
            filters
                .into_iter()
                .filter(move |&filter| filter != Filter::OfCluster || has_clusters)
                .filter_map(move |filter| Plan::new(&shape, num_blocks, filter, words))
        })
}

/// The ways to share a row's keys out to blocks, the most blocks first.
pub(super) fn tuple_blocks(shape: &StepShape) -> impl Iterator<Item = TupleBlocks> + use<> {
    let fits = tuple_counts::fits(shape.num_subvectors, shape.bits)
        && shape.window >= tuple_counts::MIN_WINDOW
        && shape.code_capacity > 0
        && !shape.needs_stages();
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

/// Microseconds of a step by survivors, roughly: a share for each block, one for the exchange, and one for
/// each look into the table, of which a multiprocessor makes 32 in 3.5 cycles, or in 1.2 with a filter, whose table
/// takes time of its own; as often as blocks do not fit the chip at once.
fn estimate(device: &Device, shape: &StepShape, rows: usize, plan: Plan) -> f64 {
    let waves = if plan.is_clustered() {
        rows.div_ceil(device.resident_clusters(plan.num_blocks))
    } else {
        (rows * plan.num_blocks as usize).div_ceil(device.num_multiprocessors() as usize)
    };
    let keys = shape.code_capacity.div_ceil(plan.num_blocks);
    let looks = f64::from(keys) * f64::from(shape.num_subvectors);
    let exchange = if plan.num_blocks > 1 { 2.0 } else { 0.0 };
    let of_block = if plan.is_clustered() {
        6.0 + 0.2 * f64::from(shape.num_subvectors / 4) + 2.2e-5 * looks
    } else if plan.has_filter() {
        7.0 + 0.2 * f64::from(shape.num_subvectors / 4) + 2.2e-5 * looks
    } else {
        6.0 + 6.3e-5 * looks
    };
    waves as f64 * of_block + exchange
}
