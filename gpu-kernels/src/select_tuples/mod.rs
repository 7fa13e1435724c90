//! The fused step for small formats: all stages in one launch, no block waits for another.
//!
//! ```text
//! table     each block builds the whole table, four threads an entry          lut
//! cut       the scores of all tuples and their counts give the cut            scores, top_k
//! members   which tuples are above the cut, a table of two bits each
//! keys      each thread looks its keys' tuples up
//! output,   counts of those before the block and the thread make the list      index_list, weights
//! chunks    come out ascending
//! append    one block of a group encodes its new key with the centroids that   codes, tuple_counts
//!           it has in shared memory, one counts the next step's candidates
//! ```
//!
//! Every block of a row finds the same cut for itself: its work does not depend on the context's length,
//! and that of the keys is a look at their codes. Nothing is decided here that the stages' own functions
//! do not decide: this adds thread mapping.

#[cfg(target_arch = "nvptx64")]
mod append;
#[cfg(target_arch = "nvptx64")]
mod chunks;
#[cfg(target_arch = "nvptx64")]
mod cut;
#[cfg(target_arch = "nvptx64")]
mod keys;
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
/// Keys that a warp looks up at a time.
pub const KEYS_PER_PIECE: u32 = 32 * KEYS_PER_THREAD;
/// Keys that a block looks up at a time.
pub const KEYS_PER_TILE: u32 = THREADS * KEYS_PER_THREAD;
/// Tiles that a block looks up at most before it works out where in the list their keys belong.
pub const MAX_CHUNK_TILES: u32 = 16;
/// Keys of those.
pub const KEYS_PER_CHUNK: u32 = KEYS_PER_TILE * MAX_CHUNK_TILES;
/// Most heavy keys of a row.
pub const MAX_HEAVY: u32 = 4096;
/// Bins of the histogram over the table's range.
pub const NUM_BINS: u32 = 2048;
/// Vectors of four components that a thread takes to shared memory at most.
const VECTORS: u32 = 4;
/// Partial sums of a table entry.
const LANES: u32 = crate::lut::LANES as u32;
/// Most tuples of the boundary bin that are ranked one by one: one thread each.
pub const MAX_RANKED: u32 = THREADS;

/// Where things lie in a block's shared memory, in words.
pub mod layout {
    use super::{MAX_RANKED, NUM_BINS, THREADS};
    use crate::collectives::SUM_WORDS;
    use crate::tuple_counts::{MAX_TUPLE_BITS, MIN_BITS, NUM_TUPLES};

    /// Scratch of block sums.
    pub const SUMS: u32 = 0;
    /// The same, used in turns.
    pub const OTHER_SUMS: u32 = SUMS + SUM_WORDS;
    /// Figures that one thread tells the block.
    pub const FIGURES: u32 = OTHER_SUMS + SUM_WORDS;
    /// Words of [`FIGURES`], [`MINS`], [`MAXS`], [`BEST`] and [`BEST_INDEX`] each.
    pub const NUM_SMALL: u32 = 16;
    /// Smallest order key of every sub-vector's table entries.
    pub const MINS: u32 = FIGURES + NUM_SMALL;
    /// Largest order key of every sub-vector's table entries.
    pub const MAXS: u32 = MINS + NUM_SMALL;
    /// Best affinity of each of the new key's sub-vectors, as an order key.
    pub const BEST: u32 = MAXS + NUM_SMALL;
    /// The first centroid that has it.
    pub const BEST_INDEX: u32 = BEST + NUM_SMALL;
    /// The new key.
    pub const NEW_KEY: u32 = BEST_INDEX + NUM_SMALL;
    /// The half norms of the group's centroids.
    pub const HALF_NORMS: u32 = NEW_KEY + MAX_HEAD_DIM;
    /// The group's centroids.
    pub const CENTROIDS: u32 = HALF_NORMS + TABLE_WORDS;
    /// Words of [`CENTROIDS`]: 128 of 64 components and 8 words more each.
    pub const CENTROID_WORDS: u32 = 128 * 72;
    /// Which tuples are above the cut: two bits each, in copies side by side. Lies where the histogram and the
    /// rest down to [`QUERY`] were, none of which is used by then.
    pub const MEMBERS: u32 = (CENTROIDS + CENTROID_WORDS).next_multiple_of(MANY_COPIES);
    /// Copies of [`MEMBERS`] for one tile of keys: fewer lanes of a warp meet in a bank.
    pub const FEW_COPIES: u32 = 8;
    /// Copies for several: one for each lane, so that none meet.
    pub const MANY_COPIES: u32 = 32;
    /// The histogram.
    pub const BINS: u32 = MEMBERS;
    /// Tuples of the boundary bin: order keys, then counts.
    pub const RANKED: u32 = BINS + NUM_BINS;
    /// The table: at most 256 entries, which 1 sub-vector of 8 bits has.
    pub const TABLE: u32 = RANKED + 2 * MAX_RANKED;
    /// Words of the table.
    pub const TABLE_WORDS: u32 = 1 << 8;
    /// The row's query, each sub-vector's components in the order of the partial sums that take them.
    pub const QUERY: u32 = TABLE + TABLE_WORDS;
    /// Words of [`QUERY`].
    pub const QUERY_WORDS: u32 = 512;
    /// Of the keys that a block looks up before it works out their places, warp by warp: members' bits, and with weights
    /// which keys had one; sixteen keys a word.
    pub const BITS: u32 = MEMBERS + NUM_TUPLES / 16 * MANY_COPIES;

    /// Words of [`BITS`] that a warp has for each piece of its keys: one for each lane, and a gap.
    pub const PIECE_WORDS: u32 = 32 + 1;

    /// All of it, for chunks of `chunk_tiles` tiles, with weights or without.
    pub const fn words(chunk_tiles: u32, has_weights: bool) -> u32 {
        match chunk_tiles {
            1 => QUERY + QUERY_WORDS,
            _ => BITS + ((THREADS / 32 * PIECE_WORDS * chunk_tiles) << has_weights as u32),
        }
    }

    /// Largest number of components of a key.
    pub const MAX_HEAD_DIM: u32 = 256;

    // `members` writes copies four by four, two threads a word.
    const _: () = assert!(FEW_COPIES == 8 && MANY_COPIES == 32 && MEMBERS.is_multiple_of(4));
    const _: () = assert!(MEMBERS + NUM_TUPLES / 16 * FEW_COPIES <= words(1, false));
    const _: () = assert!(QUERY + QUERY_WORDS <= BITS);
    const _: () = assert!(MAX_TUPLE_BITS / MIN_BITS <= NUM_SMALL);
    // A thread each loads a component and a half norm.
    const _: () = assert!(MAX_HEAD_DIM <= THREADS && TABLE_WORDS <= THREADS);
}

/// How a block takes the group's centroids and the row's query to shared memory before it builds the table;
/// computed once, by the host.
///
/// Centroids lie there at a distance of 8 words modulo 32, so that neighbouring threads' components of
/// neighbouring entries are in different banks. Of the query the components that two neighbouring partial
/// sums take lie side by side, at an odd distance in vectors of four.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staging {
    /// Whether they fit: 0 or 1.
    pub fits: u32,
    /// log2 of a sub-vector's components, where they fit.
    pub sub_dim_log2: u32,
    /// Words from one centroid to the next.
    pub stride: u32,
    /// Words from one pair of partial sums' components of the query to the next's.
    pub query_stride: u32,
}

impl Staging {
    /// For a shape whose tuples are counted.
    pub fn new(shape: &StepShape) -> Self {
        let (table_len, sub_dim) = (shape.table_len(), shape.sub_dim());
        let stride = (sub_dim + 23) / 32 * 32 + 8;
        let query_stride = ((2 * (sub_dim / LANES)).div_ceil(4) | 1) * 4;
        let fits = sub_dim.is_power_of_two()
            && sub_dim >= LANES
            && table_len * sub_dim <= 4 * THREADS * VECTORS
            && table_len * stride <= layout::CENTROID_WORDS
            && shape.num_subvectors * LANES / 2 * query_stride <= layout::QUERY_WORDS;
        Staging {
            fits: fits.into(),
            sub_dim_log2: sub_dim.ilog2(),
            stride,
            query_stride,
        }
    }
}

/// The format whose sizes [`SelectTuplesReference`] has as constants: sub-vectors, their bits, and the
/// components of a key.
pub const REFERENCE_FORMAT: (u32, u32, u32) = (2, 6, 128);

/// Declares a kernel of this step, whose block computes with what `$pinned` makes of the shape, staging, `tiles_log2` and
/// `chunk_tiles` that it is told. `$sums` block sums place its keys.
///
/// Arguments stand in the order in which a block needs them: each line of them costs a block's first look at
/// it a wait.
macro_rules! select_tuples_kernel {
    ($(#[$doc:meta])* $name:ident as $Args:ident, $is_reference:literal, $sums:literal, $pinned:expr) => {
        kernel! {
            $(#[$doc])*
            ///
            /// Grid: (rows, `num_blocks + encodes_apart`). Block y of a row has the keys from
            /// `y << tiles_log2` tiles of [`KEYS_PER_TILE`] on; of the blocks behind, the first encode a group's
            /// key each, which otherwise the last block of the group's first row does. A block works out the places of
            /// `chunk_tiles` tiles' keys at a time, at most [`MAX_CHUNK_TILES`]. Dynamic shared
            /// memory: [`layout::words`]`(chunk_tiles, weights_stride != 0)` words. `code_capacity` is a multiple of 16, and `window` at least
            /// [`MIN_WINDOW`](crate::tuple_counts::MIN_WINDOW). `staging` and `rows_per_group` are the shape's.
            ///
            /// `centroids` `[groups, m, 2^bits, sub_dim]`, `queries` `[rows, head_dim]`, `seq_lens`
            /// `[num_blocks, rows]` and behind them `[groups]`: each block has its own copy and
            /// advances it; `tuple_counts`, `prefixes` and `counted` as [`crate::tuple_counts`] says;
            /// `positions` `[rows, list_stride]`, `lengths` `[rows]`, `weights` `[rows, weights_stride]`,
            /// `codes` `[groups, code_capacity, m]`, `listed` `[rows, code_capacity / 16]`: bit `i % 16` of
            /// word `i / 16` tells whether key `i` has a weight since the last step; `half_norms`
            /// `[groups, m, 2^bits]`, `new_keys` `[groups, 1, head_dim]`.
            pub fn $name as $Args(
                centroids: In<f32>, queries: In<f32>, seq_lens: Out<u32>, rows: u32,
                rows_per_group: u32, num_blocks: u32, tiles_log2: u32, new_tokens: u32,
                encodes_apart: u32, tuple_counts: Out<u32>, shape: StepShape, staging: Staging,
                positions: Out<i32>, lengths: Out<i32>, weights: Out<f32>, codes: Out<u8>,
                listed: Out<u16>, chunk_tiles: u32, prefixes: Out<u32>, counted: Out<u32>, half_norms: In<f32>,
                new_keys: In<f32>,
            );
            threads = THREADS;
            barriers = counts::BARRIERS + $sums * counts::PLACES_BARRIERS;
            shuffles = counts::WARP + ($sums - 1) * counts::EXCHANGE_WARP + $sums * counts::PLACES_WARP;
            min_blocks = 2; cluster = 0; cluster_barriers = 0;
            {
                let (shape, staging, [tiles_log2, chunk_tiles]) =
                    $pinned(shape, staging, [tiles_log2, chunk_tiles]);
                // SAFETY: the caller's.
                unsafe {
                    run(Step {
                        centroids, queries, seq_lens, rows, rows_per_group, num_blocks, tiles_log2,
                        chunk_tiles, new_tokens, encodes_apart, tuple_counts, shape, staging, positions, lengths,
                        weights, codes, listed, prefixes, counted, half_norms, new_keys,
                        is_reference: $is_reference,
                    })
                }
            }
        }
    };
}

select_tuples_kernel! {
    /// One whole step: appends `new_tokens` (0 or 1) keys a group, advances the lengths, selects.
    select_tuples as SelectTuples, false, 2, |shape, staging, logs| (shape, staging, logs)
}

select_tuples_kernel! {
    /// [`SelectTuples`] for [`REFERENCE_FORMAT`] and blocks of one tile, where neither a sub-vector nor a code needs
    /// arithmetic to be found.
    select_tuples_reference as SelectTuplesReference, true, 1, |shape, _staging, _logs: [u32; 2]| {
        let shape = reference_shape(shape);
        (shape, Staging::new(&shape), [0, 1])
    }
}

select_tuples_kernel! {
    /// [`SelectTuplesReference`] for blocks of any number of tiles.
    select_tuples_reference_long as SelectTuplesReferenceLong, true, 2, |shape, _staging, logs| {
        let shape = reference_shape(shape);
        (shape, Staging::new(&shape), logs)
    }
}

/// The shape with [`REFERENCE_FORMAT`]'s sizes as constants.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
fn reference_shape(shape: StepShape) -> StepShape {
    let (num_subvectors, bits, head_dim) = REFERENCE_FORMAT;
    StepShape {
        num_subvectors,
        bits,
        head_dim,
        ..shape
    }
}

/// The kernels' arguments.
#[cfg(target_arch = "nvptx64")]
struct Step {
    centroids: In<f32>,
    queries: In<f32>,
    seq_lens: Out<u32>,
    rows: u32,
    rows_per_group: u32,
    num_blocks: u32,
    tiles_log2: u32,
    chunk_tiles: u32,
    new_tokens: u32,
    encodes_apart: u32,
    tuple_counts: Out<u32>,
    shape: StepShape,
    staging: Staging,
    positions: Out<i32>,
    lengths: Out<i32>,
    weights: Out<f32>,
    codes: Out<u8>,
    listed: Out<u16>,
    prefixes: Out<u32>,
    counted: Out<u32>,
    half_norms: In<f32>,
    new_keys: In<f32>,
    /// Whether the format is [`REFERENCE_FORMAT`], known when the kernel is compiled.
    is_reference: bool,
}

/// The step of a block.
///
/// # Safety
/// As the kernels' documentation says.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
unsafe fn run(step: Step) {
    use crate::device::thread;
    use crate::tuple_counts::candidates;
    use crate::{index_list, weights as weights_stage};
    use cut::{Counts, Tuples};

    #[rustfmt::skip]
    let Step {
        centroids, queries, seq_lens, rows, rows_per_group, num_blocks, tiles_log2, chunk_tiles,
        new_tokens, encodes_apart, tuple_counts, shape, staging, positions, lengths, weights, codes, listed,
        prefixes, counted, half_norms, new_keys, is_reference,
    } = step;
    let sub_dim = shape.sub_dim();
    let (row, block) = (thread::block_idx_x(), thread::block_idx_y());
    let keys_log2 = tiles_log2 + KEYS_PER_TILE.ilog2();
    // A block apart encodes the key of the group of its number.
    let is_apart = block == num_blocks;
    if is_apart && row * rows_per_group >= rows {
        return;
    }
    let group = if is_apart || rows_per_group == 1 {
        row
    } else {
        row / rows_per_group
    };
    let is_groups_first = group * rows_per_group == row;
    let counts_next = new_tokens == 1 && block == 0 && is_groups_first;
    let encodes = is_apart
        || new_tokens == 1 && encodes_apart == 0 && block == num_blocks - 1 && is_groups_first;
    let place = Place {
        row,
        group,
        block,
        num_blocks,
        keys_log2,
        chunk_tiles,
        has_one_tile: false,
        is_reference,
        sub_dim,
    };
    let seq_len_at = (block * rows + row) as usize;
    // SAFETY: the copy of the length is this block's; it is written at the end, when all threads have
    // read it. All conditions around barriers are the same in the whole block.
    unsafe {
        // First all loads that depend on nothing, then those that depend on the length.
        let seq_len = seq_lens.get(seq_len_at) + new_tokens;
        let staged = table::Staged::load(&shape, &place, &staging, centroids, queries);
        if encodes {
            append::stage(&shape, &place, half_norms, new_keys);
        }
        table::clear();
        if !is_apart {
            let regions = shape.regions(seq_len);
            let (start, end) = candidates(&shape, seq_len);
            let heavy_k = regions.heavy_k(shape.heavy).min(end - start);
            let is_needed = heavy_k > 0 && !regions.list_all && place.first_key() < end;
            let first = shape.init_offset + place.first_key();
            let has_keys = first < seq_len;
            let place = Place {
                has_one_tile: tiles_log2 == 0 || seq_len <= first + KEYS_PER_TILE,
                ..place
            };
            let counts = Counts::load(&place, seq_len, tuple_counts);
            staged.store(&shape, &staging);
            index_list::write_fixed(&shape, &regions, row, block, num_blocks, positions, lengths);
            if shape.weights_stride != 0 {
                weights_stage::write_before_codes(
                    &shape, &regions, row, block, num_blocks, weights,
                );
            }
            thread::sync_threads();
            if tiles_log2 > 0 && !(has_keys || counts_next || encodes) {
                // The context has yet to grow into the block.
                if new_tokens == 1 && thread::thread_idx_x() == 0 {
                    seq_lens.set(seq_len_at, seq_len);
                }
                return;
            }
            let range = table::build(&shape, &place, &staging, centroids, queries);
            let mut next_tuple = None;
            if counts_next {
                next_tuple = append::next_tuple(&shape, &place, seq_len, codes.as_input());
                counts.keep(&place, end, prefixes);
            }
            let keys = keys::Keys::new(
                &shape,
                &regions,
                &place,
                (start, end),
                codes.as_input(),
                listed,
            );
            let mut before = None;
            if is_needed {
                let counts_before = members::counts_before(&place, start, prefixes);
                let tuples = Tuples::count(&shape, counts, range);
                let cut = tuples.find_cut(heavy_k);
                before = Some(members::write(&place, &tuples, &cut, counts_before));
            }
            let output = output::Output {
                shape: &shape,
                regions: &regions,
                place: &place,
                positions,
                weights,
            };
            output.write(before, keys);
            if counts_next {
                append::count_next(&shape, &place, seq_len, next_tuple, tuple_counts, counted);
            }
        } else {
            staged.store(&shape, &staging);
            thread::sync_threads();
        }
        if encodes {
            append::encode(&shape, &place, seq_len - 1, &staging, centroids, codes);
        }
        if new_tokens == 1 && thread::thread_idx_x() == 0 {
            seq_lens.set(seq_len_at, seq_len);
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
    /// log2 of the keys of a block.
    keys_log2: u32,
    /// Tiles of a chunk.
    chunk_tiles: u32,
    /// Whether those that are in the context are no more than one tile.
    has_one_tile: bool,
    /// See [`Step`].
    is_reference: bool,
    sub_dim: u32,
}

#[cfg(target_arch = "nvptx64")]
impl Place {
    /// The block's first key, as an index of codes.
    #[inline(always)]
    fn first_key(&self) -> u32 {
        self.block << self.keys_log2
    }
}

/// Collectives of the kernel: the sums of its parts'.
#[cfg(not(target_arch = "nvptx64"))]
mod counts {
    use crate::collectives::{
        INCLUSIVE_SUM_ONCE_BARRIERS, INCLUSIVE_SUM_SHUFFLES, SUM_BARRIERS, SUM_WARP, SYNC_THREADS,
        WARP as ONE,
    };

    // table: centroids staged, by either kind of block, and the table; two shuffles an entry, and a minimum and
    // a maximum.
    const TABLE_BARRIERS: u32 = 3 * SYNC_THREADS;
    const TABLE_WARP: u32 = 4 * ONE;
    // cut: the histogram, the bin's choice, the list of its tuples; then a rank or, in a loop, a sum.
    const CHOICE_BARRIERS: u32 = INCLUSIVE_SUM_ONCE_BARRIERS + SYNC_THREADS;
    const BISECT_BARRIERS: u32 = SUM_BARRIERS;
    const CUT_BARRIERS: u32 = 3 * SYNC_THREADS + CHOICE_BARRIERS + BISECT_BARRIERS;
    const CUT_WARP: u32 = INCLUSIVE_SUM_SHUFFLES + SUM_WARP;
    // members: neighbours make a word; two sums.
    const MEMBERS_BARRIERS: u32 = SYNC_THREADS;
    const MEMBERS_WARP: u32 = 3 * ONE;
    // output: a block sum of a tile or of each chunk, whose bits the lanes of a warp exchange.
    pub(super) const PLACES_BARRIERS: u32 = INCLUSIVE_SUM_ONCE_BARRIERS;
    pub(super) const PLACES_WARP: u32 = INCLUSIVE_SUM_SHUFFLES;
    pub(super) const EXCHANGE_WARP: u32 = 2 * ONE;
    // append: the best affinity; its first centroid.
    const APPEND_BARRIERS: u32 = 2 * SYNC_THREADS;

    pub(super) const BARRIERS: u32 =
        TABLE_BARRIERS + CUT_BARRIERS + MEMBERS_BARRIERS + APPEND_BARRIERS;
    pub(super) const WARP: u32 = TABLE_WARP + CUT_WARP + MEMBERS_WARP;
}
