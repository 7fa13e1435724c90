//! The fused step for small formats: all stages in one launch, no block waits for another.
//!
//! ```text
//! table     each block builds the whole table, four threads an entry          lut
//! cut       the scores of all tuples and their counts give the cut            scores, top_k
//! members   which tuples are above the cut, a table of two bits each
//! output    each thread looks its keys' tuples up; counts of those before      index_list, weights
//!           the block and the thread make the list come out ascending
//! append    further blocks encode the new keys and count the candidates        codes, tuple_counts
//! ```
//!
//! Every block of a row finds the same cut for itself: its work does not depend on the context's length,
//! and that of the keys is a look at their codes. Nothing is decided here that the stages' own functions
//! do not decide: this adds thread mapping.

#[cfg(target_arch = "nvptx64")]
mod append;
#[cfg(target_arch = "nvptx64")]
mod cut;
#[cfg(target_arch = "nvptx64")]
mod members;
#[cfg(target_arch = "nvptx64")]
mod output;
#[cfg(target_arch = "nvptx64")]
mod table;

use crate::kernel::{In, Out};
use crate::step::StepShape;

/// Threads of a block.
pub const THREADS: u32 = 512;
/// Neighbouring keys that a thread looks up at a time; a word of `listed` has a bit for each.
pub const KEYS_PER_THREAD: u32 = 16;
/// Keys that a block looks up at a time.
pub const KEYS_PER_TILE: u32 = THREADS * KEYS_PER_THREAD;
/// Bins of the histogram over the table's range.
pub const NUM_BINS: u32 = 2048;
/// Most tuples of the boundary bin that are ranked one by one: one thread each.
pub const MAX_RANKED: u32 = THREADS;

/// Where things lie in a block's shared memory, in words.
pub mod layout {
    use super::{MAX_RANKED, NUM_BINS};
    use crate::collectives::SUM_WORDS;
    use crate::tuple_counts::{MAX_TUPLE_BITS, MIN_BITS, NUM_TUPLES};

    /// Scratch of block sums.
    pub const SUMS: u32 = 0;
    /// The same, used in turns.
    pub const OTHER_SUMS: u32 = SUMS + SUM_WORDS;
    /// Figures that one thread tells the block.
    pub const FIGURES: u32 = OTHER_SUMS + SUM_WORDS;
    /// Words of [`FIGURES`], [`MINS`] and [`MAXS`] each.
    pub const NUM_SMALL: u32 = 16;
    /// Smallest order key of every sub-vector's table entries.
    pub const MINS: u32 = FIGURES + NUM_SMALL;
    /// Largest order key of every sub-vector's table entries.
    pub const MAXS: u32 = MINS + NUM_SMALL;
    /// The histogram.
    pub const BINS: u32 = MAXS + NUM_SMALL;
    /// Tuples of the boundary bin: order keys, then counts.
    pub const RANKED: u32 = BINS + NUM_BINS;
    /// The table: at most 256 entries, which 1 sub-vector of 8 bits has.
    pub const TABLE: u32 = RANKED + 2 * MAX_RANKED;
    /// Words of the table.
    pub const TABLE_WORDS: u32 = 1 << 8;
    /// Which tuples are above the cut: two bits each, in copies side by side.
    pub const MEMBERS: u32 = TABLE + TABLE_WORDS;
    /// Copies of [`MEMBERS`]: fewer lanes of a warp meet in a bank.
    pub const MEMBER_COPIES: u32 = 8;
    const STEP_WORDS: u32 = MEMBERS + NUM_TUPLES / 16 * MEMBER_COPIES;

    // Blocks that encode have the memory for themselves.
    /// Best affinity of each sub-vector, as an order key.
    pub const BEST: u32 = 0;
    /// The first centroid that has it.
    pub const BEST_INDEX: u32 = BEST + NUM_SMALL;
    /// The new key.
    pub const NEW_KEY: u32 = BEST_INDEX + NUM_SMALL;
    /// The group's centroids, where they fit.
    pub const CENTROIDS: u32 = NEW_KEY + 256;
    /// Words of [`CENTROIDS`]: 128 of 64 components and a word more each.
    pub const CENTROID_WORDS: u32 = 128 * 65;
    const ENCODE_WORDS: u32 = CENTROIDS + CENTROID_WORDS;

    /// All of it.
    pub const WORDS: u32 = if STEP_WORDS > ENCODE_WORDS {
        STEP_WORDS
    } else {
        ENCODE_WORDS
    };

    // `members` takes a tuple's copies for 32 bytes from a multiple of 32 on.
    const _: () = assert!(MEMBER_COPIES == 8 && MEMBERS.is_multiple_of(8));
    const _: () = assert!(MAX_TUPLE_BITS / MIN_BITS <= NUM_SMALL);
}

kernel! {
    /// One whole step: appends `new_tokens` (0 or 1) keys a group, advances the lengths, selects.
    ///
    /// Grid: (rows, `num_blocks`), and with a new token one more along y, whose first blocks encode a
    /// group's key each. Block y of a row has the keys from `y * tiles_per_block * KEYS_PER_TILE` on.
    /// Dynamic shared memory: [`layout::WORDS`] words. `rows_per_group` and `sub_dim` are the shape's.
    /// `code_capacity` is a multiple of 16, and `window` at least
    /// [`MIN_WINDOW`](crate::tuple_counts::MIN_WINDOW).
    ///
    /// `centroids` `[groups, m, 2^bits, sub_dim]`, `half_norms` `[groups, m, 2^bits]`,
    /// `new_keys` `[groups, 1, head_dim]`, `queries` `[rows, head_dim]`, `seq_lens`
    /// `[num_blocks, rows]` and behind them `[groups]`: each reader has its own copy and
    /// advances it; `codes` `[groups, code_capacity, m]`; `tuple_counts`, `counted` and `prefixes`
    /// as [`crate::tuple_counts`] says; `positions` `[rows, list_stride]`, `lengths` `[rows]`, `listed`
    /// `[rows, code_capacity / 16]`: bit `i % 16` of word `i / 16` tells whether key `i` has a weight
    /// since the last step; `weights` `[rows, weights_stride]`.
    pub fn select_tuples as SelectTuples(
        centroids: In<f32>, half_norms: In<f32>, new_keys: In<f32>, queries: In<f32>,
        seq_lens: Out<u32>, codes: Out<u8>, tuple_counts: Out<u32>, counted: Out<u32>,
        prefixes: Out<u32>, positions: Out<i32>, lengths: Out<i32>, listed: Out<u16>,
        weights: Out<f32>, new_tokens: u32, tiles_per_block: u32, num_blocks: u32,
        rows_per_group: u32, sub_dim: u32, shape: StepShape,
    );
    threads = THREADS;
    barriers = counts::BARRIERS;
    shuffles = counts::WARP;
    min_blocks = 2; cluster = 0; cluster_barriers = 0;
    {
        use crate::device::thread;
        use crate::tuple_counts::candidates;
        use crate::{index_list, weights as weights_stage};
        use cut::{Counts, Tuples};

        let (row, block) = (thread::block_idx_x(), thread::block_idx_y());
        let keys_per_block = tiles_per_block * KEYS_PER_TILE;
        if block == num_blocks {
            // SAFETY: the whole block is here; the rest is the caller's promise.
            unsafe {
                if row * rows_per_group < thread::grid_dim_x() {
                    append::encode(
                        &shape, sub_dim, num_blocks, centroids, half_norms, new_keys, seq_lens,
                        codes,
                    );
                }
            }
            return;
        }
        let group = if rows_per_group == 1 { row } else { row / rows_per_group };
        let is_groups_first = block == 0 && group * rows_per_group == row;
        let place = Place { row, group, block, num_blocks, keys_per_block, sub_dim };
        let seq_len_at = (block * thread::grid_dim_x() + row) as usize;
        // SAFETY: the copy of the length is this block's; it is written at the end, when all threads have
        // read it. All conditions around barriers are the same in the whole block.
        unsafe {
            // First all loads that depend on nothing, then those that depend on the length.
            let seq_len = seq_lens.get(seq_len_at) + new_tokens;
            let part = table::Part::load(&shape, &place, 0, centroids, queries);
            table::clear();
            let regions = shape.regions(seq_len);
            let (start, end) = candidates(&shape, seq_len);
            let heavy_k = regions.heavy_k(shape.heavy).min(end - start);
            let is_needed = heavy_k > 0 && place.first_key() < end;
            let counts = Counts::load(&place, seq_len, tuple_counts);
            let appends = is_groups_first && new_tokens == 1;
            index_list::write_fixed(&shape, &regions, row, block, num_blocks, positions, lengths);
            if shape.weights_stride != 0 {
                weights_stage::write_before_codes(&shape, &regions, row, block, num_blocks, weights);
            }
            thread::sync_threads();
            let range = table::build(&shape, &place, part, centroids, queries);
            let mut next_tuple = None;
            if appends {
                next_tuple = append::next_tuple(&shape, &place, seq_len, codes.as_input());
                counts.keep(&place, end, prefixes);
            }
            let codes = output::Codes::new(&shape, &place, start, end, codes.as_input());
            let mut before = None;
            if is_needed {
                let counts_before = members::counts_before(&place, start, prefixes);
                let tuples = Tuples::count(&shape, counts, range);
                let cut = tuples.find_cut(heavy_k);
                before = Some(members::write(&tuples, &cut, counts_before));
            }
            output::write_keys(
                &shape, &regions, &place, (start, end), before, codes, positions, listed, weights,
            );
            if appends {
                append::count_next(&shape, &place, seq_len, next_tuple, tuple_counts, counted);
            }
            if new_tokens == 1 && thread::thread_idx_x() == 0 {
                seq_lens.set(seq_len_at, seq_len);
            }
        }
    }
}

/// Where a block is: its row, and which of the row's keys it has.
#[cfg(target_arch = "nvptx64")]
#[derive(Clone, Copy)]
struct Place {
    row: u32,
    group: u32,
    block: u32,
    num_blocks: u32,
    keys_per_block: u32,
    sub_dim: u32,
}

#[cfg(target_arch = "nvptx64")]
impl Place {
    /// The block's first key, as an index of codes.
    #[inline(always)]
    fn first_key(&self) -> u32 {
        self.block * self.keys_per_block
    }
}

/// Collectives of the kernel: the sums of its parts'.
#[cfg(not(target_arch = "nvptx64"))]
mod counts {
    use crate::collectives::{
        INCLUSIVE_SUM_ONCE_BARRIERS, INCLUSIVE_SUM_SHUFFLES, SUM_BARRIERS, SUM_WARP, SYNC_THREADS,
        WARP as ONE,
    };

    // table: two barriers, two shuffles an entry, and a minimum and a maximum.
    const TABLE_BARRIERS: u32 = 2 * SYNC_THREADS;
    const TABLE_WARP: u32 = 4 * ONE;
    // cut: the histogram, the bin's choice, the list of its tuples; then a rank or, in a loop, a sum.
    const CHOICE_BARRIERS: u32 = INCLUSIVE_SUM_ONCE_BARRIERS + SYNC_THREADS;
    const BISECT_BARRIERS: u32 = SUM_BARRIERS;
    const CUT_BARRIERS: u32 = 3 * SYNC_THREADS + CHOICE_BARRIERS + BISECT_BARRIERS;
    const CUT_WARP: u32 = INCLUSIVE_SUM_SHUFFLES + SUM_WARP;
    // members: neighbours make a word; two sums.
    const MEMBERS_BARRIERS: u32 = SYNC_THREADS;
    const MEMBERS_WARP: u32 = 3 * ONE;
    // output: a block sum a tile.
    const OUTPUT_BARRIERS: u32 = INCLUSIVE_SUM_ONCE_BARRIERS;
    const OUTPUT_WARP: u32 = INCLUSIVE_SUM_SHUFFLES;
    // append: key and centroids; the best affinity; its first centroid.
    const APPEND_BARRIERS: u32 = 3 * SYNC_THREADS;

    pub(super) const BARRIERS: u32 =
        TABLE_BARRIERS + CUT_BARRIERS + MEMBERS_BARRIERS + OUTPUT_BARRIERS + APPEND_BARRIERS;
    pub(super) const WARP: u32 = TABLE_WARP + CUT_WARP + MEMBERS_WARP + OUTPUT_WARP;
}
