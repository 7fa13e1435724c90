//! What a step costs: terms, and microseconds for one of each.
//!
//! The terms are written down here, by hand. What one of each takes is measured: `keysieve bench --tune`
//! times every variant, and `cargo xtask heuristics`, which compiles this file too, fits `table.rs` to that.
//! A new kernel is a new [`Kernel`] with its terms, and a row of the table once it is measured.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What a step has to do, however it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// (sequence, query head) pairs.
    pub rows: u32,
    /// Keys of a row that there is room for.
    pub keys: u32,
    /// Codes of a key.
    pub num_subvectors: u32,
    /// Components of all centroids of a group: head_dim x 2^bits.
    pub components: u32,
    /// Keys that are chosen by their scores.
    pub heavy: u32,
    /// Whether dense weights are written.
    pub has_weights: bool,
}

/// How it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The kernel of the step.
    pub kernel: Kernel,
    /// Blocks of a row.
    pub num_blocks: u32,
    /// Keys of a block.
    pub keys_per_block: u32,
    /// Rows that the chip works on at once where a row's blocks are a cluster; 0 where they are not.
    #[serde(default)]
    pub rows_at_once: u32,
}

/// A step's kernel, as far as costs differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kernel {
    /// One kernel for each stage.
    Staged,
    /// `select_survivors`.
    Survivors,
    /// `select_survivors_filtered`.
    Filtered,
    /// `select_survivors_clustered`.
    Clustered,
    /// `select_tuples`.
    Tuples,
    /// `select_tuples_reference`, for blocks of one tile.
    TuplesReference,
    /// `select_tuples_reference_long`, for others.
    TuplesReferenceLong,
}

/// What one of each of a kernel's terms takes, in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Costs {
    /// The kernel.
    pub kernel: Kernel,
    /// For keys of so many codes; for all others without.
    pub num_subvectors: Option<u32>,
    /// In the order of [`Way::terms`].
    pub us: Cow<'static, [f64]>,
}

impl Kernel {
    /// All of them.
    pub const ALL: [Kernel; 7] = [
        Kernel::Staged,
        Kernel::Survivors,
        Kernel::Filtered,
        Kernel::Clustered,
        Kernel::Tuples,
        Kernel::TuplesReference,
        Kernel::TuplesReferenceLong,
    ];

    /// Its name here and in files of measurements.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Staged => "staged",
            Kernel::Survivors => "survivors",
            Kernel::Filtered => "filtered",
            Kernel::Clustered => "clustered",
            Kernel::Tuples => "tuples",
            Kernel::TuplesReference => "tuples_reference",
            Kernel::TuplesReferenceLong => "tuples_reference_long",
        }
    }

    /// Whether its code for some numbers of sub-vectors is not that for others.
    pub fn differs_by_subvectors(self) -> bool {
        matches!(
            self,
            Kernel::Survivors | Kernel::Filtered | Kernel::Clustered
        )
    }
}

impl Way {
    /// Names and amounts of what a step by this way costs on a chip of `multiprocessors`: thousands of keys and
    /// of looks into the table, and the like, one after the other on the multiprocessor that has most.
    pub fn terms(&self, load: &Load, multiprocessors: u32) -> Vec<(&'static str, f64)> {
        let of_all = |blocks_of_row: u32| {
            let blocks = u64::from(load.rows) * u64::from(blocks_of_row);
            blocks.div_ceil(u64::from(multiprocessors)) as f64
        };
        let blocks = of_all(self.num_blocks);
        let keys = f64::from(self.keys_per_block) / 1024.0;
        let codes = f64::from(load.num_subvectors);
        let table = f64::from(load.components) / 1024.0;
        let heavy = f64::from(load.heavy) / 1024.0;
        let weighed = if load.has_weights { keys } else { 0.0 };
        match self.kernel {
            // Many small kernels, which fill the chip with whatever rows there are.
            Kernel::Staged => {
                let rows = f64::from(load.rows) / f64::from(multiprocessors);
                vec![
                    ("launches", 1.0),
                    ("row", rows),
                    ("table", rows * table),
                    ("keys", rows * keys),
                    ("looks", rows * keys * codes),
                    ("weights", rows * weighed),
                    ("heavy", rows * heavy),
                ]
            }
            // A block fills a multiprocessor; the last one of a row goes on with what all have left.
            Kernel::Survivors | Kernel::Filtered => {
                let last = if self.num_blocks > 1 { of_all(1) } else { 0.0 };
                let shares = last * f64::from(self.num_blocks);
                vec![
                    ("launch", 1.0),
                    ("block", blocks),
                    ("table", blocks * table),
                    ("keys", blocks * keys),
                    ("looks", blocks * keys * codes),
                    ("weights", blocks * weighed),
                    ("heavy", blocks * heavy),
                    ("exchange", last),
                    ("exchanged", shares),
                    ("exchanged heavy", shares * heavy),
                ]
            }
            // All blocks of a row are there at once, or none of them.
            Kernel::Clustered => {
                let waves = f64::from(load.rows.div_ceil(self.rows_at_once.max(1)));
                vec![
                    ("launch", 1.0),
                    ("wave", waves),
                    ("table", waves * table / f64::from(self.num_blocks)),
                    ("keys", waves * keys),
                    ("looks", waves * keys * codes),
                    ("weights", waves * weighed),
                    ("heavy", waves * heavy),
                    ("exchanged", waves * f64::from(self.num_blocks)),
                ]
            }
            // Two blocks share a multiprocessor, so that each waits in the other's shadow.
            Kernel::Tuples | Kernel::TuplesReference | Kernel::TuplesReferenceLong => {
                let sharing = blocks - 1.0;
                let waiting = (blocks / 2.0).ceil() - 1.0;
                // What all blocks together ask of the caches, whatever multiprocessor they are on.
                let rows = f64::from(load.rows) / f64::from(multiprocessors);
                let all = rows * f64::from(self.num_blocks);
                vec![
                    ("launch", 1.0),
                    ("keys", keys),
                    ("sharing block", sharing),
                    ("sharing keys", sharing * keys),
                    ("waiting block", waiting),
                    ("waiting keys", waiting * keys),
                    ("table", blocks * table),
                    ("weights", blocks * weighed),
                    ("heavy", heavy),
                    ("all blocks", all),
                    ("all keys", all * keys),
                ]
            }
        }
    }

    /// Microseconds of a step by this way; infinity where the kernel is not in the table.
    ///
    /// # Panics
    /// If a row of the table does not have the kernel's terms.
    pub fn microseconds(&self, load: &Load, multiprocessors: u32, table: &[Costs]) -> f64 {
        let mut of_kernel = table.iter().filter(|costs| costs.kernel == self.kernel);
        // Rows for one number of sub-vectors come before those for all.
        let costs = of_kernel.find(|costs| {
            let only = costs.num_subvectors;
            only.is_none_or(|only| only == load.num_subvectors)
        });
        let Some(costs) = costs else {
            return f64::INFINITY;
        };
        let terms = self.terms(load, multiprocessors);
        assert_eq!(terms.len(), costs.us.len(), "{:?}", self.kernel);
        let terms = terms.iter().zip(costs.us.iter());
        terms.map(|((_, amount), us)| amount * us).sum()
    }
}
