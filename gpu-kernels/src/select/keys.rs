//! Scores of a thread's neighbouring keys, kept in shared memory; and the new key's codes.

use super::{THREADS, layout, table::Range};
use crate::codes;
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{cluster, thread, warp};
use crate::kernel::{In, Out};
use crate::order::order_key;
use crate::scores;
use crate::step::{Regions, StepShape};

/// A thread's keys: `keys_per_thread` neighbours, of which those from `start` to `end` are candidates.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    array: SharedArray<u32>,
    /// Keys of every thread.
    pub(super) per_thread: u32,
    /// The first candidate.
    pub(super) start: u32,
    /// Behind the last candidate; at least `start`.
    pub(super) end: u32,
    /// The first key, as an index of codes.
    pub(super) first: u32,
    /// The first key's position.
    pub(super) position: u32,
    /// How scores are binned.
    pub(super) range: Range,
}

impl Keys {
    /// This thread's keys.
    #[inline(always)]
    pub(super) fn new(shape: &StepShape, regions: &Regions, per_thread: u32, range: Range) -> Self {
        let first = (cluster::block_rank() * THREADS + thread::thread_idx_x()) * per_thread;
        let end = (regions.candidates_end - shape.init_offset).min(shape.code_capacity);
        let start = (regions.candidates_start - shape.init_offset).min(end);
        Keys {
            array: dynamic_shared_mem(layout::keys(shape.table_len())),
            per_thread,
            start: thread::opaque(start.saturating_sub(first).min(per_thread)),
            end: thread::opaque(end.saturating_sub(first).min(per_thread)),
            first,
            position: shape.init_offset + first,
            range,
        }
    }

    /// The order key of key `i`; of one that is no candidate, any.
    ///
    /// # Safety
    /// `i < per_thread`, and [`score`] is done.
    #[inline(always)]
    pub(super) unsafe fn order_key(&self, i: u32) -> u32 {
        // SAFETY: this thread wrote the word, and nobody else does.
        unsafe { self.array.get(i * THREADS + thread::thread_idx_x()) }
    }

    /// Keeps the score of key `i`, and counts it if it is a candidate's.
    ///
    /// # Safety
    /// `i < per_thread`; the histogram is only added to until the next barrier.
    #[inline(always)]
    unsafe fn take(&self, i: u32, score: f32) {
        // SAFETY: the caller's.
        unsafe {
            self.set(i, order_key(score));
            if i.wrapping_sub(self.start) < self.end - self.start {
                dynamic_shared_mem::<u32>(layout::BINS).atomic_add(self.range.bin(score), 1);
            }
        }
    }

    /// Thread beside thread, so that a warp's accesses never meet in a bank.
    ///
    /// # Safety
    /// `i < per_thread`.
    #[inline(always)]
    unsafe fn set(&self, i: u32, order_key: u32) {
        // SAFETY: the launch gives the block room for them; the word is this thread's.
        unsafe {
            self.array
                .set(i * THREADS + thread::thread_idx_x(), order_key)
        };
    }
}

/// Scores the thread's keys and counts the candidates among them in the histogram over the range.
///
/// # Safety
/// The table is built and the histogram clear, a barrier ago; the buffers are as the kernel's documentation says.
#[inline(always)]
pub(super) unsafe fn score(
    shape: &StepShape,
    regions: &Regions,
    row: u32,
    per_thread: u32,
    codes: Out<u8>,
    range: Range,
) -> Keys {
    let keys = Keys::new(shape, regions, per_thread, range);
    for i in (0..keys.start).chain(keys.end..per_thread) {
        // SAFETY: i < per_thread. Not scored, but read where sixteen are at once.
        unsafe { keys.set(i, 0) };
    }
    let m = shape.num_subvectors as usize;
    let first = keys.first as usize;
    let at = (shape.group_of_row(row) as usize * shape.code_capacity as usize + first) * m;
    // SAFETY: capacity is a multiple of 16 keys and per_thread of 8, so vectors of 16 codes are aligned where a key has two or more, and those
    // that hold a candidate's lie inside the capacity.
    unsafe {
        match m {
            2 => score_all::<2>(shape, codes, at, &keys),
            4 => score_all::<4>(shape, codes, at, &keys),
            8 => score_all::<8>(shape, codes, at, &keys),
            16 => score_all::<16>(shape, codes, at, &keys),
            _ => score_any(shape, codes, at, &keys),
        }
    }
    keys
}

/// Scores the candidates of `M` codes each, 16 codes at a time.
///
/// # Safety
/// As [`score`]; byte `at` is the first key's.
#[inline(always)]
unsafe fn score_all<const M: usize>(shape: &StepShape, codes: Out<u8>, at: usize, keys: &Keys) {
    let keys_per_vector = 16 / M as u32;
    let copies = layout::copies(shape.table_len());
    let bank = if copies == 1 { 0 } else { warp::lane_id() };
    let shift = if copies == 1 { 0 } else { 5 };
    let table = dynamic_shared_mem::<f32>(layout::TABLE);
    let mut vector = keys.start / keys_per_vector;
    while vector * keys_per_vector < keys.end {
        // SAFETY: the caller's. Other keys in the vector may be written at this moment, by the cluster
        // that appends to the group: their scores are never read.
        let words = unsafe { codes.get16(at + 16 * vector as usize) };
        macro_rules! key {
            ($($first_byte:literal)*) => {
                $(if $first_byte % M == 0 {
                    let sum = scores::score(M, |j| {
                        let byte = $first_byte + j;
                        let code = words[byte / 4 % 4] >> (8 * (byte % 4)) & 0xff;
                        // The code of a key that is no candidate may be any byte.
                        let entry = ((j as u32) << shape.bits) + (code & (shape.num_centroids() - 1));
                        // SAFETY: the entry is the table's.
                        unsafe { table.get((entry << shift) + bank) }
                    });
                    // SAFETY: per_thread is a multiple of the keys of a vector.
                    unsafe { keys.take(vector * keys_per_vector + ($first_byte / M) as u32, sum) };
                })*
            };
        }
        key!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        vector += 1;
    }
}

/// Scores the candidates of any number of codes, byte by byte.
///
/// # Safety
/// As [`score`].
#[inline(always)]
unsafe fn score_any(shape: &StepShape, codes: Out<u8>, at: usize, keys: &Keys) {
    let copies = layout::copies(shape.table_len());
    let bank = if copies == 1 { 0 } else { warp::lane_id() };
    let table = dynamic_shared_mem::<f32>(layout::TABLE);
    let m = shape.num_subvectors as usize;
    for i in keys.start..keys.end {
        let sum = scores::score(m, |j| {
            // SAFETY: a candidate's codes are written and below 2^bits.
            unsafe {
                let code = u32::from(codes.get(at + i as usize * m + j));
                table.get((((j as u32) << shape.bits) + code) * copies + bank)
            }
        });
        // SAFETY: i < per_thread.
        unsafe { keys.take(i, sum) };
    }
}

/// Encodes the group's new key at position `position`.
///
/// # Safety
/// Every thread of the block is here; the buffers are as the kernel's documentation says; no other
/// block of the grid writes or reads the key's codes.
#[inline(always)]
pub(super) unsafe fn append(
    shape: &StepShape,
    position: u32,
    centroids: In<f32>,
    half_norms: In<f32>,
    new_keys: In<f32>,
    key_codes: Out<u8>,
) {
    let group = shape.group_of_row(super::row());
    let m = shape.num_subvectors;
    let mut subvector = warp::warp_id();
    while subvector < m {
        let key_at = (group * shape.head_dim + subvector * shape.sub_dim()) as usize;
        // SAFETY: `subvector` is the same in all lanes of a warp; the rest is the caller's promise.
        let code = unsafe {
            codes::encode(
                shape, group, subvector, centroids, half_norms, new_keys, key_at,
            )
        };
        // Keys before init_offset have no codes, and none is written past the capacity.
        let in_range =
            position >= shape.init_offset && position - shape.init_offset < shape.code_capacity;
        if warp::lane_id() == 0 && in_range {
            let key = group as usize * shape.code_capacity as usize
                + (position - shape.init_offset) as usize;
            // SAFETY: inside the group's room; no other warp has this sub-vector.
            unsafe { key_codes.set(key * m as usize + subvector as usize, code) };
        }
        subvector += THREADS / 32;
    }
}
