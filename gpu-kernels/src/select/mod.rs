//! The fused step: all stages in one launch, one cluster of blocks a row.
//!
//! ```text
//! append   every group's first cluster encodes the new key                    codes
//! table    each block builds the whole table, four threads an entry           lut
//! keys     each thread scores neighbouring keys and keeps their order keys     scores
//! cut      one histogram over the table's range, folded over the cluster; the  top_k
//!          boundary bin is ranked exactly, or by radix digits when it is large
//! output   counts before each thread make the list come out ascending          index_list, weights
//! ```
//!
//! Nothing is decided here that the stages' own functions do not decide: this adds thread mapping.
//! A context fits when its order keys fit into the cluster's shared memory, a word each.

#[cfg(clusters)]
mod cut;
#[cfg(clusters)]
mod keys;
#[cfg(clusters)]
mod output;
#[cfg(clusters)]
mod table;

#[cfg(any(clusters, not(target_arch = "nvptx64")))]
use crate::kernel::{In, Out};
#[cfg(any(clusters, not(target_arch = "nvptx64")))]
use crate::step::StepShape;

/// Threads of a block: two blocks share a multiprocessor.
pub const THREADS: u32 = 512;
/// A thread's keys are a multiple of this.
pub const KEYS_PER_TILE: u32 = 8;
/// Largest cluster that every chip with clusters can launch.
pub const MAX_CLUSTER: u32 = 8;
/// Bins of the histogram over the table's range.
pub const NUM_BINS: u32 = 2048;
/// Largest boundary bin that is ranked entry by entry: one thread each.
pub const MAX_RANKED: u32 = THREADS;

/// Where things lie in a block's shared memory, in words.
pub mod layout {
    use super::{MAX_RANKED, NUM_BINS};
    use crate::collectives::SUM_WORDS;
    use crate::config::MAX_SUBVECTORS;

    /// Scratch of block sums.
    pub const SUMS: u32 = 0;
    /// Figures that one thread tells the block, see `cut`.
    pub const FIGURES: u32 = SUMS + SUM_WORDS;
    /// Words of [`FIGURES`].
    pub const NUM_FIGURES: u32 = 16;
    /// Smallest order key of every sub-vector's table entries.
    pub const MINS: u32 = FIGURES + NUM_FIGURES;
    /// Largest order key of every sub-vector's table entries.
    pub const MAXS: u32 = MINS + MAX_SUBVECTORS;
    /// The histogram.
    pub const BINS: u32 = MAXS + MAX_SUBVECTORS;
    /// This block's entries of the boundary bin: keys, then positions.
    pub const OWN: u32 = BINS + NUM_BINS;
    /// The cluster's entries of the boundary bin: keys, then positions.
    pub const ALL: u32 = OWN + 2 * MAX_RANKED;
    /// The table, in [`copies`] copies side by side.
    pub const TABLE: u32 = ALL + 2 * MAX_RANKED;

    /// Copies of each table entry: with one for each bank, 32 gathers never meet in one.
    #[inline(always)]
    pub fn copies(table_len: u32) -> u32 {
        if table_len <= 256 { 32 } else { 1 }
    }

    /// The order keys, behind the table.
    #[inline(always)]
    pub fn keys(table_len: u32) -> u32 {
        TABLE + table_len * copies(table_len)
    }

    /// Shared memory of a block whose threads have `keys_per_thread` keys each.
    #[inline(always)]
    pub fn words(table_len: u32, keys_per_thread: u32) -> u32 {
        keys(table_len) + keys_per_thread * super::THREADS
    }
}

#[cfg(any(clusters, not(target_arch = "nvptx64")))]
kernel! {
    /// One whole step: appends `new_tokens` (0 or 1) keys a group, advances the lengths, selects.
    ///
    /// Grid: rows x cluster size, clusters of 1 to [`MAX_CLUSTER`] blocks with
    /// `code_capacity <= cluster size * THREADS * keys_per_thread`. Dynamic shared memory:
    /// [`layout::words`]. `code_capacity` is a multiple of 16, `keys_per_thread` of [`KEYS_PER_TILE`]. With `new_tokens` 1, `window` is at least 1: the new key is
    /// no candidate of its own step.
    ///
    /// `centroids` `[groups, m, 2^bits, sub_dim]`, `half_norms` `[groups, m, 2^bits]`,
    /// `new_keys` `[groups, 1, head_dim]`, `queries` `[rows, head_dim]`, `seq_lens` `[rows]`,
    /// `codes` `[groups, code_capacity, m]`, `positions` `[rows, list_stride]`, `lengths` `[rows]`,
    /// `weights` `[rows, weights_stride]`.
    pub fn select_cluster as SelectCluster(
        centroids: In<f32>, half_norms: In<f32>, new_keys: In<f32>, queries: In<f32>,
        seq_lens: Out<u32>, codes: Out<u8>, positions: Out<i32>, lengths: Out<i32>,
        weights: Out<f32>, new_tokens: u32, keys_per_thread: u32, shape: StepShape,
    );
    threads = THREADS;
    barriers = counts::BARRIERS;
    shuffles = counts::WARP;
    min_blocks = 2;
    cluster = crate::kernel::ANY_CLUSTER;
    cluster_barriers = counts::CLUSTER;
    {
        use crate::device::{cluster, thread};

        let row = row();
        // SAFETY: one length for each row; it is written at the end, when all blocks have read it.
        let seq_len = unsafe { seq_lens.get(row as usize) } + new_tokens;
        let regions = shape.regions(seq_len);

        // SAFETY: all conditions below are the same in every thread of the cluster, so each barrier
        // is reached by all or none; the buffers are as the documentation of the kernel says.
        unsafe {
            let range = table::build(&shape, row, centroids, queries);
            let keys = keys::score(&shape, &regions, row, keys_per_thread, codes, range);
            cluster::sync();
            let cut = cut::find(&keys, regions.heavy_k(shape.heavy));
            // No block reads another's memory from here on, but others may read this one's. Global
            // stores come behind this point only: a barrier would wait for those before it.
            cluster::arrive();
            let regions = shape.regions(thread::opaque(seq_len));
            let keys = keys::Keys::new(&shape, &regions, keys_per_thread, range);
            output::write(&shape, &regions, &keys, &cut, positions, lengths, weights);
            let is_groups_first = self::row() % shape.rows_per_group() == 0;
            if new_tokens == 1 && is_groups_first && cluster::block_rank() == 0 {
                keys::append(&shape, seq_len - 1, centroids, half_norms, new_keys, codes);
            }
            cluster::wait();
            if cluster::block_rank() == 0 && thread::thread_idx_x() == 0 {
                seq_lens.set(self::row() as usize, seq_len);
            }
        }
    }
}

/// The row of the block's cluster. Computed anew at each call: kept from the kernel's beginning to its
/// end, what follows from it would cost more registers than there are.
#[cfg(clusters)]
#[inline(always)]
fn row() -> u32 {
    use crate::device::{cluster, thread};

    thread::opaque(thread::block_idx_x()) / cluster::num_blocks()
}

/// Collectives of the kernel: the sums of its parts'.
#[cfg(not(target_arch = "nvptx64"))]
mod counts {
    use crate::collectives::{
        CLUSTER_SYNC, INCLUSIVE_SUM_BARRIERS, INCLUSIVE_SUM_SHUFFLES, REDUCE_MAX_U64, SYNC_THREADS,
        WARP as ONE,
    };

    // table: two barriers, two shuffles an entry, and a minimum and a maximum.
    const TABLE_BARRIERS: u32 = 2 * SYNC_THREADS;
    const TABLE_WARP: u32 = 4 * ONE;
    // cut::fold: a block sum and a barrier.
    const FOLD_BARRIERS: u32 = INCLUSIVE_SUM_BARRIERS + SYNC_THREADS;
    const FOLD_WARP: u32 = INCLUSIVE_SUM_SHUFFLES;
    // cut::find_ranked: two barriers, one sum in a warp.
    const RANKED_BARRIERS: u32 = 2 * SYNC_THREADS;
    const RANKED_WARP: u32 = ONE;
    // cut::find_by_digits: a barrier and a fold a digit, in a loop; a block sum of ties, a barrier.
    const DIGITS_BARRIERS: u32 =
        SYNC_THREADS + FOLD_BARRIERS + INCLUSIVE_SUM_BARRIERS + SYNC_THREADS;
    const DIGITS_WARP: u32 = FOLD_WARP + INCLUSIVE_SUM_SHUFFLES + 2 * ONE;
    // output: a block sum; two shuffles for the weights.
    const OUTPUT_BARRIERS: u32 = INCLUSIVE_SUM_BARRIERS;
    const OUTPUT_WARP: u32 = INCLUSIVE_SUM_SHUFFLES + 2 * ONE;
    // keys::append: one warp maximum.
    const APPEND_WARP: u32 = REDUCE_MAX_U64;
    // cut::find: one sum in a warp before the lists are exchanged.
    const FIND_WARP: u32 = ONE;

    pub(super) const BARRIERS: u32 =
        TABLE_BARRIERS + FOLD_BARRIERS + RANKED_BARRIERS + DIGITS_BARRIERS + OUTPUT_BARRIERS;
    pub(super) const WARP: u32 =
        TABLE_WARP + FOLD_WARP + FIND_WARP + RANKED_WARP + DIGITS_WARP + OUTPUT_WARP + APPEND_WARP;
    // The histogram; the lists; two a digit and one for the ties; before the end.
    pub(super) const CLUSTER: u32 = 6 * CLUSTER_SYNC;
}
