//! Tuple counts: how many candidates have each combination of codes.
//!
//! A small format has few combinations: 2 sub-vectors of 6 bits have 4096, whatever the context's
//! length. All keys with the same *tuple* of codes have the same score, so the cut of a row follows
//! from the tuples' scores and counts, without a look at the keys. The counts grow with the context, by one
//! candidate a step.
//!
//! What is kept for each group:
//!
//! - `counts` `[2, NUM_TUPLES]`. A step that makes the context `seq_len` long reads half `seq_len % 2`,
//!   which has the candidates of that length. Meanwhile it brings the other half up to `seq_len + 1`: the
//!   two candidates that are new there have left the window, or leave it next. So no step writes what it
//!   reads.
//! - `counted` `[2]`: behind the last candidate in each half, as an index of codes.
//! - `prefixes` `[num_blocks, NUM_TUPLES]`: the counts before each block of keys, for blocks that begin
//!   behind the first candidate. Written when the candidates' end reaches the block's first key, and read
//!   in the steps after, when it is beyond.

use crate::kernel::{In, Out};
use crate::step::StepShape;

/// Most bits of a tuple.
pub const MAX_TUPLE_BITS: u32 = 12;
/// Room for a group's tuples. Those that the format lacks have no candidates.
pub const NUM_TUPLES: u32 = 1 << MAX_TUPLE_BITS;
/// What `counted` holds before anything is counted.
pub const NOT_COUNTED: u32 = u32::MAX;

/// Smallest window: the candidates of the next step must have their codes in this.
pub const MIN_WINDOW: u32 = 2;
/// Fewest bits of a code: eight neighbouring tuples differ in their first code alone.
pub const MIN_BITS: u32 = 3;

/// Whether the tuples of a format are few enough to be counted.
pub fn fits(num_subvectors: u32, bits: u32) -> bool {
    bits >= MIN_BITS && num_subvectors * bits <= MAX_TUPLE_BITS
}

/// The tuple of a key with code `code(j)` for sub-vector `j`.
#[inline(always)]
pub fn tuple(num_subvectors: u32, bits: u32, code: impl Fn(u32) -> u32) -> u32 {
    let mut tuple = 0;
    let mut subvector = 0;
    while subvector < num_subvectors {
        tuple |= code(subvector) << (subvector * bits);
        subvector += 1;
    }
    tuple
}

/// The code of sub-vector `subvector` in a tuple.
#[inline(always)]
pub fn code_of_tuple(tuple: u32, subvector: u32, bits: u32) -> u32 {
    (tuple >> (subvector * bits)) & ((1 << bits) - 1)
}

/// Where the candidates of a context of `seq_len` tokens begin and end, as indices of codes.
#[inline(always)]
pub fn candidates(shape: &StepShape, seq_len: u32) -> (u32, u32) {
    let regions = shape.regions(seq_len);
    let end = (regions.candidates_end - shape.init_offset).min(shape.code_capacity);
    let start = (regions.candidates_start - shape.init_offset).min(end);
    (start, end)
}

/// The tuple of key `key` of a group, code by code.
///
/// # Safety
/// The key's codes are written, and nobody writes them before the kernel's end.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
pub(crate) unsafe fn tuple_of_key(shape: &StepShape, codes: In<u8>, group: u32, key: u32) -> u32 {
    let m = shape.num_subvectors;
    let at = (group as usize * shape.code_capacity as usize + key as usize) * m as usize;
    // SAFETY: the caller's.
    tuple(m, shape.bits, |j| unsafe {
        u32::from(codes.get(at + j as usize))
    })
}

kernel! {
    /// Counts both halves for lengths that came about otherwise than by steps: what is new since the
    /// last count, or everything when the context has become shorter.
    ///
    /// Grid: groups. Dynamic shared memory: [`NUM_TUPLES`] words. `codes` `[groups, code_capacity, m]`,
    /// `seq_lens` `[rows]`, the others as the module says with a leading `[groups]`.
    pub fn tuple_counts as TupleCounts(
        codes: In<u8>, seq_lens: In<u32>, counts: Out<u32>, counted: Out<u32>, prefixes: Out<u32>,
        keys_per_block: u32, num_blocks: u32, shape: StepShape,
    );
    threads = 512; barriers = 4 * crate::collectives::SYNC_THREADS; shuffles = 0;
    {
        use crate::device::{shared, thread};

        let (group, t) = (thread::block_idx_x(), thread::thread_idx_x());
        let tally = shared::dynamic_shared_mem::<u32>(0);
        // SAFETY: one length for each row.
        let seq_len = unsafe { seq_lens.get((group * shape.rows_per_group()) as usize) };
        // SAFETY: the buffers and the shared memory are this block's, each thread has its own words between
        // barriers, and all conditions around these are the same in the whole block.
        unsafe {
            let mut half = 0;
            while half < thread::opaque(2) {
                let at_half = 2 * group as usize + half as usize;
                let counts = counts.from(at_half * NUM_TUPLES as usize);
                let (start, end) = candidates(&shape, seq_len + u32::from(seq_len % 2 != half));
                let (start, end) = (thread::opaque(start), thread::opaque(end));
                let counted_before = counted.get(at_half);
                let afresh = counted_before > end;
                let mut i = t;
                while i < NUM_TUPLES {
                    tally.set(i, if afresh { 0 } else { counts.get(i as usize) });
                    i += thread::block_dim_x();
                }
                thread::sync_threads();

                let mut at = if afresh { start } else { counted_before.max(start) };
                // Stops at the first key of each block of keys, to keep what was counted before it: also
                // where the count begins there, as a step that brings a half so far leaves that to the next.
                loop {
                    let block = at / keys_per_block;
                    if at > start && at % keys_per_block == 0 && block < num_blocks {
                        let prefix_at = (group * num_blocks + block) as usize * NUM_TUPLES as usize;
                        let mut i = t;
                        while i < NUM_TUPLES {
                            prefixes.set(prefix_at + i as usize, tally.get(i));
                            i += thread::block_dim_x();
                        }
                    }
                    if at >= end {
                        break;
                    }
                    thread::sync_threads();
                    let stop = end.min((block + 1) * keys_per_block);
                    let mut key = at + t;
                    while key < stop {
                        tally.atomic_add(tuple_of_key(&shape, codes, group, key), 1);
                        key += thread::block_dim_x();
                    }
                    thread::sync_threads();
                    at = stop;
                }
                let mut i = t;
                while i < NUM_TUPLES {
                    counts.set(i as usize, tally.get(i));
                    i += thread::block_dim_x();
                }
                thread::sync_threads();
                // Every thread has read it, a barrier ago.
                if t == 0 {
                    counted.set(at_half, end);
                }
                half += 1;
            }
        }
    }
}
