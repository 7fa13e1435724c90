//! The fused step for large tables: all stages in one launch, several blocks a row.
//!
//! ```text
//! table      each block builds the whole table, two threads an entry            lut
//! scan       each block scores its share of the keys and keeps the survivors:   scores
//!            keys that may still be among the best `heavy_k` of the share
//! filter     for many codes a key: bounds of all scores, which leave few keys    scores
//!            to score
//! survivors  the list of them; when it is long, a histogram of it raises the    top_k
//!            cut that a key must pass
//! exchange   blocks leave their survivors in global memory; the one that takes
//!            the row's last ticket goes on with all of them, no block waits
//! output     the exact cut among the survivors, a bit for each key taken, and    index_list, weights
//!            the bits in order
//! append     the block with the group's first ticket encodes the new key         codes
//! ```
//!
//! A key below the cut costs its score and one comparison, and takes no memory: rows of any length
//! stream through. Nothing is decided here that the stages' own functions do not decide: this adds
//! thread mapping. That the cut is exact never depends on the scores: where a histogram cannot tell
//! survivors apart, the digits of their ranks do.

#[cfg(target_arch = "nvptx64")]
mod exchange;
#[cfg(target_arch = "nvptx64")]
mod filter;
#[cfg(target_arch = "nvptx64")]
mod output;
#[cfg(target_arch = "nvptx64")]
mod scan;
#[cfg(target_arch = "nvptx64")]
mod survivors;
#[cfg(target_arch = "nvptx64")]
mod table;

use crate::kernel::{In, Out};
use crate::step::StepShape;

/// Threads of a block; one block fills a multiprocessor.
pub const THREADS: u32 = 1024;
/// Bins of the histogram of survivors.
pub const NUM_BINS: u32 = 2048;
/// Largest boundary bin that is ranked entry by entry: one thread each.
pub const MAX_RANKED: u32 = THREADS;
/// Entries of the table for each sub-vector, whatever the number of bits: any byte is an index.
pub const TABLE_STRIDE: u32 = 256;
/// Most keys that a block scores at a time.
pub const MAX_TURN_KEYS: u32 = THREADS * 8;
/// Words of the filter's table for each four sub-vectors: one a bank for each code.
pub const DEFICIT_WORDS: u32 = 32 * TABLE_STRIDE;
/// Keys that share a word of `listed`.
pub const KEYS_PER_WORD: u32 = 16;

/// How a launch shares out its work and its memory; see [`Plan::new`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Blocks of a row.
    pub num_blocks: u32,
    /// Survivors that a block has room for.
    pub list_capacity: u32,
    /// Survivors that a block may leave for the row's last one.
    pub exchange_capacity: u32,
    /// Words of the table, which become the bitmap of the keys taken.
    pub table_words: u32,
    /// Where the filter's deficits of keys begin, in words behind the list's first; 0 where there is no filter. Before
    /// them is its table, whose memory becomes the list's.
    pub deficits_at: u32,
    /// Words of the deficits.
    pub deficits_words: u32,
}

impl Plan {
    /// For `num_blocks` blocks a row and at most `max_words` words of shared memory; none where a list of
    /// survivors does not fit.
    ///
    /// A block's list has room for its best `heavy` and for whatever it scores at a time, and the row's
    /// last block has room for all that are left for it. With `filters` the scores are bounded first; none where there
    /// is no room for that, or other than 8 or 16 sub-vectors. With a filter the window must be at least 2.
    pub fn new(
        num_subvectors: u32,
        head_dim: u32,
        heavy: u32,
        num_blocks: u32,
        code_capacity: u32,
        filters: bool,
        max_words: u32,
    ) -> Option<Self> {
        /// More than this a block has no use for.
        const LONGEST_LIST: u32 = 1 << 14;

        let table_words = num_subvectors * TABLE_STRIDE;
        let room = max_words.checked_sub(layout::list(table_words))?;
        if filters && !matches!(num_subvectors, 8 | 16) {
            return None;
        }
        // A share begins at a multiple of 16 keys, and ends at one.
        let share = code_capacity.div_ceil(num_blocks).next_multiple_of(16) + 16;
        let deficits_words = if filters { share / 2 } else { 0 };
        let list_capacity = (room.checked_sub(deficits_words)? / 2).min(LONGEST_LIST) / 4 * 4;
        let exchange_capacity = (2 * heavy + 768).min(list_capacity / num_blocks);
        let deficits_at = if filters {
            (num_subvectors / 4 * DEFICIT_WORDS).max(2 * list_capacity)
        } else {
            0
        };
        let fits = heavy + MAX_TURN_KEYS <= list_capacity
            && heavy <= exchange_capacity
            && head_dim <= list_capacity
            && deficits_at + deficits_words <= room;
        fits.then_some(Plan {
            num_blocks,
            list_capacity,
            exchange_capacity,
            table_words,
            deficits_at,
            deficits_words,
        })
    }

    /// Whether it is for [`SelectSurvivorsFiltered`].
    #[inline(always)]
    pub fn has_filter(&self) -> bool {
        self.deficits_at != 0
    }

    /// Words of shared memory of a block.
    #[inline(always)]
    pub fn shared_words(&self) -> u32 {
        let list = match self.deficits_at {
            0 => 2 * self.list_capacity,
            at => at + self.deficits_words,
        };
        layout::list(self.table_words) + list
    }
}

/// Where things lie in a block's shared memory, in words.
pub mod layout {
    use super::{MAX_RANKED, NUM_BINS};
    use crate::collectives::SUM_WORDS;

    /// Scratch of block sums.
    pub const SUMS: u32 = 0;
    /// Figures that one thread tells the block.
    pub const FIGURES: u32 = SUMS + SUM_WORDS;
    /// Words of [`FIGURES`].
    pub const NUM_FIGURES: u32 = 16;
    /// The histogram.
    pub const BINS: u32 = FIGURES + NUM_FIGURES;
    /// Entries of the boundary bin: keys, then places.
    pub const RANKED: u32 = BINS + NUM_BINS;
    /// The table.
    pub const TABLE: u32 = RANKED + 2 * MAX_RANKED;

    /// The survivors: keys, then places. Before the first of them, the query.
    #[inline(always)]
    pub fn list(table_words: u32) -> u32 {
        TABLE + table_words
    }
}

/// Declares a kernel of this step, whose blocks have a filter if `$filters`.
macro_rules! select_kernel {
    ($(#[$doc:meta])* $name:ident as $Args:ident, $filters:literal) => {
        kernel! {
            $(#[$doc])*
            ///
            /// Grid: `rows * plan.num_blocks` blocks. Dynamic shared memory: [`Plan::shared_words`].
            /// `code_capacity` is a multiple of 16. With `new_tokens` 1, `window` is at least 1: the new key is
            /// no candidate of its own step.
            ///
            /// `centroids` `[groups, m, 2^bits, sub_dim]`, `half_norms` `[groups, m, 2^bits]`,
            /// `new_keys` `[groups, 1, head_dim]`, `queries` `[rows, head_dim]`, `seq_lens` `[rows]`,
            /// `codes` `[groups, code_capacity, m]`, `exchange`
            /// `[rows, num_blocks, exchange_capacity]`, of which nothing is kept between steps; `tickets`
            /// `[rows, 1 + num_blocks]`, 0 before the first step; `positions` `[rows, list_stride]`, `lengths`
            /// `[rows]`, `listed` `[rows, code_capacity / 16]`: bit `i % 16` of word `i / 16` tells whether key
            /// `i` has a weight since the last step; `weights` `[rows, weights_stride]`.
            pub fn $name as $Args(
                centroids: In<f32>, half_norms: In<f32>, new_keys: In<f32>, queries: In<f32>,
                seq_lens: Out<u32>, codes: Out<u8>, exchange: Out<u64>, tickets: Out<u32>,
                positions: Out<i32>, lengths: Out<i32>, listed: Out<u16>, weights: Out<f32>,
                new_tokens: u32, plan: Plan, shape: StepShape,
            );
            threads = THREADS;
            barriers = counts::barriers($filters);
            shuffles = counts::warp($filters);
            min_blocks = 1; cluster = 0; cluster_barriers = 0;
            {
                use crate::device::thread;
                use crate::{index_list, weights as weights_stage};
                use survivors::{List, figure, figures};

                // Computed anew for each part: kept from the kernel's beginning to its end, what follows from them
                // would cost more registers than there are.
                let place = || Place::new(&plan);
                // SAFETY: one length for each row, which the row's last block advances when all have read it. All
                // conditions around barriers are the same in the whole block.
                unsafe {
                    let seq_len = if $filters {
                        // One thread keeps it while the table is made: there is no register for it.
                        if thread::thread_idx_x() == 0 {
                            let seq_len = seq_lens.get_relaxed(place().row as usize);
                            figures().set(figure::SEQ_LEN, seq_len + new_tokens);
                        }
                        table::build(&shape, place().row, &plan, centroids, queries, || [0u32; 4]);
                        figures().get(figure::SEQ_LEN)
                    } else {
                        seq_lens.get_relaxed(place().row as usize) + new_tokens
                    };
                    let regions = || shape.regions(thread::opaque(seq_len));
                    let scan = || scan::Scan::new(&shape, &regions(), &place(), codes);
                    let words = if $filters {
                        [0; 4]
                    } else {
                        table::build(&shape, place().row, &plan, centroids, queries, || {
                            scan().prefetch()
                        })
                    };

                    let list = List::new(&plan);
                    let heavy_k = regions().heavy_k(shape.heavy);
                    let found = if $filters {
                        let heavy_k = || regions().heavy_k(shape.heavy);
                        match filter::run(scan, &list, &plan, shape.bits, heavy_k) {
                            Some(found) => found,
                            None => {
                                let words = scan().prefetch();
                                scan::Scan::run::<$filters>(scan, &list, &plan, heavy_k(), words)
                            }
                        }
                    } else {
                        scan::Scan::run::<$filters>(scan, &list, &plan, heavy_k, words)
                    };

                    let (place, regions) = (place(), regions());
                    index_list::write_fixed(
                        &shape, &regions, place.row, place.block, plan.num_blocks, positions, lengths,
                    );
                    weights_stage::write_before_codes(
                        &shape, &regions, place.row, place.block, plan.num_blocks, weights,
                    );
                    if shape.weights_stride != 0 {
                        output::settle(&shape, &regions, &place, listed, weights);
                    }

                    let mut ticket = 0;
                    if plan.num_blocks > 1 {
                        exchange::publish(&list, &found, &place, &plan, exchange, tickets);
                        ticket = exchange::take_ticket(&place, tickets);
                    }
                    if ticket == plan.num_blocks - 1 {
                        let found = if plan.num_blocks > 1 {
                            exchange::gather(&list, &place, &plan, exchange, tickets)
                        } else {
                            found
                        };
                        let heavy_k = regions.heavy_k(shape.heavy);
                        if !regions.list_all && heavy_k > 0 {
                            let cut = list.cut(&found, heavy_k);
                            let regions = shape.regions(thread::opaque(seq_len));
                            output::write_heavy(
                                &shape, &regions, &place, &plan, &list, found.count, &cut, positions,
                                listed, weights,
                            );
                        }
                        if thread::thread_idx_x() == 0 {
                            tickets.set_relaxed(place.tickets_at(), 0);
                            seq_lens.set_relaxed(place.row as usize, seq_len);
                        }
                    }
                    if new_tokens == 1 && ticket == 0 && place.row % shape.rows_per_group() == 0 {
                        append(&shape, place.row, seq_len - 1, centroids, half_norms, new_keys, codes);
                    }
                }
            }
        }
    };
}

select_kernel! {
    /// One whole step: appends `new_tokens` (0 or 1) keys a group, advances the lengths, selects.
    select_survivors as SelectSurvivors, false
}

select_kernel! {
    /// [`SelectSurvivors`] for plans that have a filter: 8 or 16 sub-vectors and a `window` of at least 2.
    select_survivors_filtered as SelectSurvivorsFiltered, true
}

/// Which part of which row a block has.
#[cfg(target_arch = "nvptx64")]
#[derive(Clone, Copy)]
struct Place {
    row: u32,
    block: u32,
    num_blocks: u32,
}

#[cfg(target_arch = "nvptx64")]
impl Place {
    #[inline(always)]
    fn new(plan: &Plan) -> Self {
        use crate::device::thread;

        let block = thread::opaque(thread::block_idx_x());
        Place {
            row: block / plan.num_blocks,
            block: block % plan.num_blocks,
            num_blocks: plan.num_blocks,
        }
    }

    /// The row's ticket; the blocks' counts follow.
    #[inline(always)]
    fn tickets_at(&self) -> usize {
        self.row as usize * (1 + self.num_blocks as usize)
    }
}

/// Encodes the group's new key at `position`, a warp a sub-vector.
///
/// # Safety
/// Every thread of the block is here; the buffers are as the kernel's documentation says; no other
/// block of the grid writes or reads the key's codes.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
unsafe fn append(
    shape: &StepShape,
    row: u32,
    position: u32,
    centroids: In<f32>,
    half_norms: In<f32>,
    new_keys: In<f32>,
    key_codes: Out<u8>,
) {
    use crate::codes;
    use crate::device::warp;

    let group = shape.group_of_row(row);
    let mut subvector = warp::warp_id();
    while subvector < shape.num_subvectors {
        let key_at = (group * shape.head_dim + subvector * shape.sub_dim()) as usize;
        // SAFETY: `subvector` is the same in all lanes of a warp; the rest is the caller's promise.
        unsafe {
            let code = codes::encode(
                shape, group, subvector, centroids, half_norms, new_keys, key_at,
            );
            if warp::lane_id() == 0 {
                codes::store(shape, group, position, subvector, code, key_codes);
            }
        }
        subvector += THREADS / 32;
    }
}

/// Collectives of the kernel: the sums of its parts'.
#[cfg(not(target_arch = "nvptx64"))]
mod counts {
    use crate::collectives::{
        INCLUSIVE_SUM_BARRIERS, INCLUSIVE_SUM_ONCE_BARRIERS, INCLUSIVE_SUM_SHUFFLES,
        REDUCE_MAX_U64, SYNC_THREADS, WARP as ONE,
    };

    // table: the query and the end, in four forms for whole vectors and one for any; a shuffle an entry,
    // of which a thread has 8, 4, 2, 1 and 1 at a time.
    const TABLE_BARRIERS: u32 = 5 * SYNC_THREADS + SYNC_THREADS;
    const TABLE_WARP: u32 = (8 + 4 + 2 + 1 + 1) * ONE;
    // survivors::claim of n: n ballots and a shuffle.
    const fn claim(n: u32) -> u32 {
        n * ONE + ONE
    }
    // survivors: choosing a bin is a block sum and a barrier.
    const CHOOSE_BARRIERS: u32 = INCLUSIVE_SUM_ONCE_BARRIERS + SYNC_THREADS;
    const CHOOSE_WARP: u32 = INCLUSIVE_SUM_SHUFFLES;
    // A histogram: clear, range, count, choose.
    const HISTOGRAM_BARRIERS: u32 = 3 * SYNC_THREADS + CHOOSE_BARRIERS;
    const HISTOGRAM_WARP: u32 = 2 * ONE + CHOOSE_WARP;
    // Digits, in a loop: clear, count, choose.
    const DIGITS_BARRIERS: u32 = 2 * SYNC_THREADS + CHOOSE_BARRIERS;
    const DIGITS_WARP: u32 = CHOOSE_WARP;
    // Tightening: a histogram, then the least key of the bins kept, or digits.
    const TIGHTEN_BARRIERS: u32 = HISTOGRAM_BARRIERS + SYNC_THREADS + DIGITS_BARRIERS;
    const TIGHTEN_WARP: u32 = HISTOGRAM_WARP + ONE + DIGITS_WARP;
    const COMPACT_BARRIERS: u32 = 3 * SYNC_THREADS;
    const COMPACT_WARP: u32 = claim(1);
    // The exact cut: a histogram, then the ranks of a bin, or digits.
    const CUT_BARRIERS: u32 = HISTOGRAM_BARRIERS + 2 * SYNC_THREADS + DIGITS_BARRIERS;
    const CUT_WARP: u32 = HISTOGRAM_WARP + DIGITS_WARP;
    // scan: claims for 4 x 2, 2 x 2, 2, 1 and 1 keys at a time; the clear and two barriers a chunk.
    const SCAN_BARRIERS: u32 = 3 * SYNC_THREADS + TIGHTEN_BARRIERS + COMPACT_BARRIERS;
    const SCAN_WARP: u32 = 4 * claim(2) + 2 * claim(2) + claim(2) + claim(1) + claim(1);
    const FILTERED_SCAN_WARP: u32 = claim(2) + claim(1);
    // filter: the extremes, the table, the deficits, the smallest of them, the list, its scores, and tightening it; the
    // extremes' two, the table's rows, two block sums.
    const FILTER_BARRIERS: u32 = 3 * SYNC_THREADS
        + INCLUSIVE_SUM_ONCE_BARRIERS
        + SYNC_THREADS
        + INCLUSIVE_SUM_BARRIERS
        + 2 * SYNC_THREADS
        + TIGHTEN_BARRIERS;
    const FILTER_WARP: u32 = 2 * ONE + 8 * ONE + 2 * INCLUSIVE_SUM_SHUFFLES + TIGHTEN_WARP;
    // exchange: the counter and the last entry left; the ticket; the last entry gathered.
    const EXCHANGE_BARRIERS: u32 = 2 * SYNC_THREADS + SYNC_THREADS + SYNC_THREADS;
    const EXCHANGE_WARP: u32 = claim(1) + claim(4);
    // output: clear and set the bitmap, a block sum.
    const OUTPUT_BARRIERS: u32 = 2 * SYNC_THREADS + INCLUSIVE_SUM_BARRIERS;
    const OUTPUT_WARP: u32 = INCLUSIVE_SUM_SHUFFLES;
    const APPEND_WARP: u32 = REDUCE_MAX_U64;

    pub(super) const fn barriers(filters: bool) -> u32 {
        let filter = if filters { FILTER_BARRIERS } else { 0 };
        TABLE_BARRIERS + filter + SCAN_BARRIERS + EXCHANGE_BARRIERS + CUT_BARRIERS + OUTPUT_BARRIERS
    }

    pub(super) const fn warp(filters: bool) -> u32 {
        let scan = if filters {
            FILTER_WARP + FILTERED_SCAN_WARP
        } else {
            SCAN_WARP
        };
        TABLE_WARP
            + scan
            + TIGHTEN_WARP
            + COMPACT_WARP
            + EXCHANGE_WARP
            + CUT_WARP
            + OUTPUT_WARP
            + APPEND_WARP
    }
}
