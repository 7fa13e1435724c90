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

#[cfg(all(target_arch = "nvptx64", clusters))]
mod clustered;
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
/// Most blocks of a cluster.
pub const MAX_CLUSTER: u32 = 8;
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
    /// 1: the blocks of a row are a cluster.
    pub is_clustered: u32,
}

/// Whether the scores of keys are bounded before they are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// They are not: [`SelectSurvivors`].
    None,
    /// Each block bounds those of its share: [`SelectSurvivorsFiltered`].
    OfBlock,
    /// The blocks of a row are a cluster, and bound theirs together: [`SelectSurvivorsClustered`].
    OfCluster,
}

impl Plan {
    /// For `num_blocks` blocks a row and at most `max_words` words of shared memory; none where a list of
    /// survivors does not fit.
    ///
    /// A block's list has room for its best `heavy` and for whatever it scores at a time, and the row's
    /// last block has room for all that are left for it. With a filter there must be room for that as well, 8 or 16
    /// sub-vectors, and a window of 2 at least; for a cluster 2 to [`MAX_CLUSTER`] blocks, 4 bits, and sub-vectors of 8, 16, 32
    /// or 64 components.
    pub fn new(shape: &StepShape, num_blocks: u32, filter: Filter, max_words: u32) -> Option<Self> {
        /// More than this a block has no use for.
        const LONGEST_LIST: u32 = 1 << 14;

        let (m, heavy) = (shape.num_subvectors, shape.heavy);
        let table_words = m * TABLE_STRIDE;
        let room = max_words.checked_sub(layout::list(table_words))?;
        let has_filter = filter != Filter::None;
        if has_filter && !(matches!(m, 8 | 16) && shape.window >= 2) {
            return None;
        }
        // A share begins at a multiple of 16 keys, and ends at one.
        let share = shape
            .code_capacity
            .div_ceil(num_blocks)
            .next_multiple_of(16)
            + 16;
        let deficits_words = match filter {
            Filter::None => 0,
            Filter::OfBlock => share / 2,
            Filter::OfCluster => share / 4,
        };
        let list_capacity = (room.checked_sub(deficits_words)? / 2).min(LONGEST_LIST) / 4 * 4;
        let exchange_capacity = (2 * heavy + 768).min(list_capacity / num_blocks);
        let deficits_at = if has_filter {
            (m / 4 * DEFICIT_WORDS).max(2 * list_capacity)
        } else {
            0
        };
        let mut fits = heavy + MAX_TURN_KEYS <= list_capacity
            && heavy <= exchange_capacity
            && shape.head_dim <= list_capacity
            && deficits_at + deficits_words <= room;
        if filter == Filter::OfCluster {
            let entries = shape.table_len() / 8 + 2 * shape.head_dim;
            fits &= (2..=MAX_CLUSTER).contains(&num_blocks)
                && shape.bits >= 4
                && matches!(shape.sub_dim(), 8 | 16 | 32 | 64)
                && entries <= deficits_at
                && cluster_layout::bitmap(num_blocks) + share.div_ceil(32) <= deficits_at;
        }
        fits.then_some(Plan {
            num_blocks,
            list_capacity,
            exchange_capacity,
            table_words,
            deficits_at,
            deficits_words,
            is_clustered: u32::from(filter == Filter::OfCluster),
        })
    }

    /// Whether scores are bounded first: [`SelectSurvivorsFiltered`] and [`SelectSurvivorsClustered`].
    #[inline(always)]
    pub fn has_filter(&self) -> bool {
        self.deficits_at != 0
    }

    /// Whether it is for [`SelectSurvivorsClustered`].
    #[inline(always)]
    pub fn is_clustered(&self) -> bool {
        self.is_clustered != 0
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
    /// The share of the keys.
    pub const SHARE: u32 = FIGURES + NUM_FIGURES;
    /// Words of [`SHARE`].
    pub const SHARE_WORDS: u32 = 8;
    /// The histogram.
    pub const BINS: u32 = SHARE + SHARE_WORDS;
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

/// Where things lie in the memory of a clustered block's list, in words, when the filter's table there has served.
pub mod cluster_layout {
    use super::{MAX_CLUSTER, THREADS};

    /// Before the filter's table: the query, the new key, and the nearest centroids to parts of it, two words each.
    pub const QUERY: u32 = 0;

    /// Doubtful keys that a block has room for of each of `num_blocks`.
    #[inline(always)]
    pub fn max_doubtful(num_blocks: u32) -> u32 {
        if num_blocks > 4 { 1024 } else { 2048 }
    }

    /// Ranks of the doubtful keys of each block of the row, two words each.
    pub const RANKS: u32 = 0;

    /// Places of this block's doubtful keys.
    #[inline(always)]
    pub fn places(num_blocks: u32) -> u32 {
        RANKS + 2 * num_blocks * max_doubtful(num_blocks)
    }

    /// What each block tells the others: words of [`DOUBTFUL`] and [`SURE`].
    #[inline(always)]
    pub fn told(num_blocks: u32) -> u32 {
        places(num_blocks) + max_doubtful(num_blocks)
    }

    /// Doubtful keys of each block.
    pub const DOUBTFUL: u32 = 0;
    /// Keys that each block takes whatever the ranks.
    pub const SURE: u32 = DOUBTFUL + MAX_CLUSTER;

    /// Bins of the doubtful keys' scores, one a thread.
    #[inline(always)]
    pub fn bins(num_blocks: u32) -> u32 {
        told(num_blocks) + 2 * MAX_CLUSTER
    }

    /// A bit for each key of the share that is taken.
    #[inline(always)]
    pub fn bitmap(num_blocks: u32) -> u32 {
        bins(num_blocks) + THREADS
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
                        0
                    } else {
                        seq_lens.get_relaxed(place().row as usize) + new_tokens
                    };
                    let seq_len = || {
                        if $filters {
                            figures().get(figure::SEQ_LEN)
                        } else {
                            thread::opaque(seq_len)
                        }
                    };
                    let regions = || {
                        let init_offset = thread::opaque(shape.init_offset);
                        StepShape { init_offset, ..shape }.regions(seq_len())
                    };
                    // Worked out once: there are no registers to keep it in.
                    let prefetch = || {
                        let shape = StepShape {
                            num_kv_heads: thread::opaque(shape.num_kv_heads),
                            ..shape
                        };
                        let scan = scan::Scan::new(&shape, &regions(), &place(), codes);
                        if thread::thread_idx_x() == 0 {
                            scan.keep_for_block();
                        }
                        scan.prefetch()
                    };
                    let words = if $filters {
                        let words = prefetch();
                        thread::sync_threads();
                        words
                    } else {
                        table::build(&shape, place().row, &plan, centroids, queries, prefetch)
                    };
                    let scan = || scan::Scan::kept(&shape, codes);

                    let list = List::new(&plan);
                    let heavy_k = regions().heavy_k(shape.heavy);
                    let found = if $filters {
                        let heavy_k = || regions().heavy_k(shape.heavy);
                        match filter::run(scan, &list, &plan, shape.bits, words, heavy_k) {
                            Some(found) => found,
                            None => {
                                let words = scan().prefetch();
                                scan::Scan::run::<$filters>(scan, &list, &plan, heavy_k(), words)
                            }
                        }
                    } else {
                        scan::Scan::run::<$filters>(scan, &list, &plan, heavy_k, words)
                    };

                    {
                        let (place, regions) = (place(), regions());
                        index_list::write_fixed(
                            &shape, &regions, place.row, place.block, plan.num_blocks, positions,
                            lengths,
                        );
                        weights_stage::write_before_codes(
                            &shape, &regions, place.row, place.block, plan.num_blocks, weights,
                        );
                        if shape.weights_stride != 0 {
                            output::settle(&shape, &regions, &place, 0..0, listed, weights);
                        }
                    }
                    let ticket = finish_by_last_block(
                        &shape, seq_len, place, &plan, &list, found, exchange, tickets, seq_lens,
                        positions, listed, weights,
                    );
                    let row = place().row;
                    // Anew, too.
                    let num_kv_heads = thread::opaque(shape.num_kv_heads);
                    let rows_per_group = shape.rows_per_batch() / num_kv_heads;
                    if new_tokens == 1 && ticket == 0 && row % rows_per_group == 0 {
                        append(&shape, row, seq_len() - 1, centroids, half_norms, new_keys, codes);
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

#[cfg(any(not(target_arch = "nvptx64"), clusters))]
kernel! {
    /// [`SelectSurvivorsFiltered`] with the blocks of a row as a cluster, for plans of [`Filter::OfCluster`].
    ///
    /// Grid, shared memory and arguments as there; nothing is left in `exchange` and `tickets` but where deficits do
    /// not tell which keys to take.
    pub fn select_survivors_clustered as SelectSurvivorsClustered(
        centroids: In<f32>, half_norms: In<f32>, new_keys: In<f32>, queries: In<f32>,
        seq_lens: Out<u32>, codes: Out<u8>, exchange: Out<u64>, tickets: Out<u32>,
        positions: Out<i32>, lengths: Out<i32>, listed: Out<u16>, weights: Out<f32>,
        new_tokens: u32, plan: Plan, shape: StepShape,
    );
    threads = THREADS;
    barriers = counts::CLUSTERED_BARRIERS;
    shuffles = counts::CLUSTERED_WARP;
    min_blocks = 1; cluster = crate::kernel::ANY_CLUSTER; cluster_barriers = counts::CLUSTER_BARRIERS;
    {
        use crate::device::{cluster, thread};
        use crate::{index_list, weights as weights_stage};
        use survivors::{List, figure, figures};

        let place = || Place {
            row: cluster::idx_x(),
            block: cluster::block_rank(),
            num_blocks: plan.num_blocks,
        };
        // SAFETY: one length for each row, which one of its blocks advances when all have read it. All conditions
        // around barriers are the same in the whole block, those around barriers of the cluster in all of it.
        unsafe {
            // Nothing is handed to a block that has not begun.
            cluster::arrive_relaxed();
            if thread::thread_idx_x() == 0 {
                let seq_len = seq_lens.get_relaxed(place().row as usize);
                figures().set(figure::SEQ_LEN, seq_len + new_tokens);
            }
            let group = || shape.group_of_row(place().row);
            let appends = || new_tokens == 1 && place().row % shape.rows_per_group() == 0;
            cluster::wait();
            clustered::table::build(
                &shape, place().row, group(), &plan, appends(), centroids, half_norms, new_keys,
                queries,
            );
            cluster::arrive();
            let seq_len = || figures().get(figure::SEQ_LEN);
            let regions = || shape.regions(seq_len());
            let (words, wanted) = {
                let regions = regions();
                let scan = scan::Scan::new(&shape, &regions, &place(), codes);
                let wanted = clustered::wanted(&shape, &regions, &scan);
                if thread::thread_idx_x() == 0 {
                    scan.keep_for_block();
                    figures().set(clustered::figure::WANTED, wanted);
                }
                (scan.prefetch(), wanted)
            };
            let scan = || scan::Scan::kept(&shape, codes);
            {
                let (place, regions) = (place(), regions());
                index_list::write_fixed(
                    &shape, &regions, place.row, place.block, plan.num_blocks, positions, lengths,
                );
                weights_stage::write_before_codes(
                    &shape, &regions, place.row, place.block, plan.num_blocks, weights,
                );
                if shape.weights_stride != 0 {
                    let candidates = clustered::output::candidate_words(&shape, &regions);
                    output::settle(&shape, &regions, &place, candidates, listed, weights);
                }
            }
            cluster::wait();
            if appends() {
                clustered::table::write_codes(&shape, group(), &plan, seq_len() - 1, codes);
            }
            let taken = if wanted == 0 {
                thread::sync_threads();
                None
            } else {
                clustered::run(scan, &plan, shape.bits, words)
            };
            match taken {
                Some(taken) => {
                    clustered::output::write_heavy(
                        &shape, &regions(), &place(), &plan, scan().end, &taken, positions, listed,
                        weights,
                    );
                    if place().block == 0 && thread::thread_idx_x() == 0 {
                        seq_lens.set_relaxed(place().row as usize, seq_len());
                    }
                }
                None => {
                    if shape.weights_stride != 0 {
                        output::settle(&shape, &regions(), &place(), 0..0, listed, weights);
                    }
                    let list = List::new(&plan);
                    let heavy_k = regions().heavy_k(shape.heavy);
                    let words = scan().prefetch();
                    let found = scan::Scan::run::<true>(scan, &list, &plan, heavy_k, words);
                    finish_by_last_block(
                        &shape, seq_len, place, &plan, &list, found, exchange, tickets, seq_lens,
                        positions, listed, weights,
                    );
                }
            }
        }
    }
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

/// Leaves the block's survivors for the row's last block, and, as that one, takes the best of all, writes their part of
/// the list and their weights, and advances the row's length. Returns the block's ticket.
///
/// # Safety
/// Every thread of the block is here, behind a barrier since the list was written; the buffers are as the kernel's
/// documentation says, and the weights are settled.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn finish_by_last_block(
    shape: &StepShape,
    seq_len: impl Fn() -> u32,
    place: impl Fn() -> Place,
    plan: &Plan,
    list: &survivors::List,
    found: survivors::Found,
    exchange: Out<u64>,
    tickets: Out<u32>,
    seq_lens: Out<u32>,
    positions: Out<i32>,
    listed: Out<u16>,
    weights: Out<f32>,
) -> u32 {
    use crate::device::thread;

    // SAFETY: the caller's. All conditions around barriers are the same in the whole block.
    unsafe {
        let mut ticket = 0;
        if plan.num_blocks > 1 {
            exchange::publish(list, &found, &place(), plan, exchange, tickets);
            ticket = exchange::take_ticket(&place(), tickets);
        }
        if ticket == plan.num_blocks - 1 {
            let found = if plan.num_blocks > 1 {
                exchange::gather(list, &place(), plan, exchange, tickets)
            } else {
                found
            };
            let regions = || {
                let init_offset = thread::opaque(shape.init_offset);
                StepShape {
                    init_offset,
                    ..*shape
                }
                .regions(seq_len())
            };
            let heavy_k = || regions().heavy_k(shape.heavy);
            if !regions().list_all && heavy_k() > 0 {
                let cut = list.cut(&found, heavy_k());
                output::write_heavy(
                    shape,
                    &regions(),
                    &place(),
                    plan,
                    list,
                    found.count,
                    &cut,
                    positions,
                    listed,
                    weights,
                );
            }
            if thread::thread_idx_x() == 0 {
                tickets.set_relaxed(place().tickets_at(), 0);
                seq_lens.set_relaxed(place().row as usize, seq_len());
            }
        }
        ticket
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
        CLUSTER_SYNC, INCLUSIVE_SUM_BARRIERS, INCLUSIVE_SUM_ONCE_BARRIERS, INCLUSIVE_SUM_SHUFFLES,
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
    // filter: the share, the extremes, the table, the deficits, the smallest of them, the list, its scores, and tightening it; the
    // extremes' two, the table's rows, two block sums.
    const FILTER_BARRIERS: u32 = 4 * SYNC_THREADS
        + INCLUSIVE_SUM_ONCE_BARRIERS
        + SYNC_THREADS
        + INCLUSIVE_SUM_BARRIERS
        + 2 * SYNC_THREADS
        + TIGHTEN_BARRIERS;
    const FILTER_WARP: u32 = 2 * ONE + 8 * ONE + 2 * INCLUSIVE_SUM_SHUFFLES + TIGHTEN_WARP;
    // exchange: the counter and the last entry left; the ticket; the last entry gathered.
    const EXCHANGE_BARRIERS: u32 = 2 * SYNC_THREADS + SYNC_THREADS + SYNC_THREADS;
    const EXCHANGE_WARP: u32 = claim(1) + claim(4);
    // output: clear, set and leave the bitmap, a block sum.
    const OUTPUT_BARRIERS: u32 = 3 * SYNC_THREADS + INCLUSIVE_SUM_BARRIERS;
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

    // clustered: before the table; the table, the counts and the doubtful keys' ranks, each handed around.
    pub(super) const CLUSTER_BARRIERS: u32 = 4 * CLUSTER_SYNC;
    // The query, in four forms; the share, the extremes, the filter's table; the threshold; the doubtful keys; their bins, the bin
    // chosen, what is in it, the cut; those taken; the sum over the bitmap. Then what blocks that go on without deficits do.
    pub(super) const CLUSTERED_BARRIERS: u32 = 4 * SYNC_THREADS
        + 3 * SYNC_THREADS
        + INCLUSIVE_SUM_ONCE_BARRIERS
        + SYNC_THREADS
        + SYNC_THREADS
        + SYNC_THREADS
        + INCLUSIVE_SUM_ONCE_BARRIERS
        + 3 * SYNC_THREADS
        + SYNC_THREADS
        + INCLUSIVE_SUM_ONCE_BARRIERS
        + SCAN_BARRIERS
        + EXCHANGE_BARRIERS
        + CUT_BARRIERS
        + OUTPUT_BARRIERS;
    // In four forms: an entry's shuffle, a new key's two for each eight components, and the
    // two that choose the nearest of a warp's; the nearest of a sub-vector's; the extremes' two, the table's rows; three block sums and two of warps.
    pub(super) const CLUSTERED_WARP: u32 = (4 * 3 + 2 * (1 + 2 + 4 + 8)) * ONE
        + REDUCE_MAX_U64
        + 2 * ONE
        + 8 * ONE
        + 3 * INCLUSIVE_SUM_SHUFFLES
        + 2 * ONE
        + FILTERED_SCAN_WARP
        + TIGHTEN_WARP
        + COMPACT_WARP
        + EXCHANGE_WARP
        + CUT_WARP
        + OUTPUT_WARP;
}
