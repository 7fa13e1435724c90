//! Which variant of the step fits a shape.
//!
//! ```text
//! model  what a step costs by each kernel: terms
//! table  what one of each takes, measured: `cargo xtask heuristics` writes it
//! ```

mod model;
mod table;

use gpu_kernels::select::{Filter, Plan};
use gpu_kernels::step::StepShape;
use gpu_kernels::{select_tuples, tuple_counts};

use self::table::COSTS;
use super::device::Device;
use super::step::Step;
use super::tuples::TupleKernel;

pub use self::model::{Costs, Kernel, Load, Way};

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

impl TupleBlocks {
    /// log2 of the tiles of a block.
    pub(super) fn tiles_log2(self) -> u32 {
        self.tiles_per_block.ilog2()
    }

    /// Tiles whose keys' places a block works out at a time: as many as leave room for a second block on the
    /// multiprocessor, or as there is room for.
    pub(super) fn chunk_tiles(self, device: &Device, has_weights: bool) -> u32 {
        // The driver takes 1 KiB of each block's.
        let of_one = device.max_shared_bytes();
        let of_two = (of_one + 1024) / 2 - 1024;
        let most = self.tiles_per_block.min(select_tuples::MAX_CHUNK_TILES);
        let words = |tiles| select_tuples::layout::words(tiles, has_weights) as usize;
        let fitting = |bytes| (2..=most).rev().find(|&tiles| 4 * words(tiles) <= bytes);
        let tiles = fitting(of_two).or_else(|| fitting(of_one));
        tiles.unwrap_or(most.min(2))
    }

    /// Words of dynamic shared memory that a block takes.
    pub(super) fn shared_words(self, device: &Device, has_weights: bool) -> u32 {
        select_tuples::layout::words(self.chunk_tiles(device, has_weights), has_weights)
    }
}

/// Blocks of a row that keeps survivors: numbers that are tried.
const NUM_BLOCKS: [u32; 9] = [1, 2, 3, 4, 6, 8, 12, 16, 32];

/// Most blocks of a row: what is kept for each takes 16 KiB a group.
const MAX_TUPLE_BLOCKS: u32 = 64;

impl Variant {
    /// The variant to use for `rows` rows of `shape` on `device`: the one with the least
    /// estimated time, or one kernel for each stage where no other fits.
    pub fn choose(device: &Device, shape: &StepShape, rows: usize) -> Self {
        let (load, multiprocessors) = (load(shape, rows), device.num_multiprocessors());
        let microseconds = |variant: &Variant| {
            let way = variant.way(device, shape);
            way.microseconds(&load, multiprocessors, &COSTS)
        };
        Self::fitting(device, shape)
            .min_by(|a, b| microseconds(a).total_cmp(&microseconds(b)))
            .unwrap_or(Variant::Staged)
    }

    /// How it shares out the keys of a row of `shape`.
    fn way(&self, device: &Device, shape: &StepShape) -> Way {
        let keys = shape.code_capacity;
        match *self {
            Variant::Staged => Way {
                kernel: Kernel::Staged,
                num_blocks: 1,
                keys_per_block: keys,
                rows_at_once: 0,
            },
            Variant::Survivors(plan) if plan.is_clustered() => Way {
                kernel: Kernel::Clustered,
                num_blocks: plan.num_blocks,
                keys_per_block: keys.div_ceil(plan.num_blocks),
                rows_at_once: device.resident_clusters(plan.num_blocks) as u32,
            },
            Variant::Survivors(plan) => Way {
                kernel: match plan.has_filter() {
                    true => Kernel::Filtered,
                    false => Kernel::Survivors,
                },
                num_blocks: plan.num_blocks,
                keys_per_block: keys.div_ceil(plan.num_blocks),
                rows_at_once: 0,
            },
            Variant::Tuples(blocks) => Way {
                kernel: match TupleKernel::of(shape, blocks) {
                    TupleKernel::Any => Kernel::Tuples,
                    TupleKernel::Reference => Kernel::TuplesReference,
                    TupleKernel::ReferenceLong => Kernel::TuplesReferenceLong,
                },
                num_blocks: blocks.num_blocks,
                keys_per_block: blocks.tiles_per_block * select_tuples::KEYS_PER_TILE,
                rows_at_once: 0,
            },
        }
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

/// What a step for `rows` rows of `shape` has to do.
fn load(shape: &StepShape, rows: usize) -> Load {
    Load {
        rows: rows as u32,
        keys: shape.code_capacity,
        num_subvectors: shape.num_subvectors,
        components: shape.head_dim << shape.bits,
        heavy: shape.heavy,
        has_weights: shape.weights_stride > 0,
    }
}

impl Step {
    /// What each of its steps has to do, as the choice among variants sees it.
    pub fn load(&self) -> Load {
        let rows = self.batch * self.shape.rows_per_batch() as usize;
        load(&self.shape, rows)
    }

    /// How its variant does that.
    pub fn way(&self) -> Way {
        self.variant.way(&self.device, &self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_has_its_kernels_terms() {
        let load = Load {
            rows: 32,
            keys: 32_000,
            num_subvectors: 2,
            components: 8192,
            heavy: 128,
            has_weights: true,
        };
        for costs in &COSTS {
            let way = Way {
                kernel: costs.kernel,
                num_blocks: 4,
                keys_per_block: 8000,
                rows_at_once: 33,
            };
            let terms = way.terms(&load, 132);
            assert_eq!(terms.len(), costs.us.len(), "{:?}", costs.kernel);
            assert!(costs.us.iter().all(|us| us.is_finite() && *us >= 0.0));
            assert!(terms.iter().all(|(_, amount)| amount.is_finite()));
        }
        // Wherever a kernel beside those of single stages fits, one can be chosen.
        let tuples = [
            Kernel::Tuples,
            Kernel::TuplesReference,
            Kernel::TuplesReferenceLong,
        ];
        for kernel in [Kernel::Survivors].into_iter().chain(tuples) {
            let is_for_all = |costs: &Costs| costs.num_subvectors.is_none();
            let mut rows = COSTS.iter().filter(|costs| costs.kernel == kernel);
            assert!(rows.any(is_for_all), "{kernel:?}");
        }
    }
}
