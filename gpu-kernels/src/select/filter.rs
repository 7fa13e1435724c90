//! The survivors of a block's share, found by what keys lack of the largest sum, in 8 bits an entry.
//!
//! With `M_j` the largest entry of sub-vector j's table and `t_j` a key's, an entry's *deficit* is
//! `floor((M_j - t_j) * scale)`, at most 255, and a key's the sum of its m entries'. Let `T` be the `wanted`-th
//! smallest deficit of the share. A key with a deficit above `T + m` is worse than each of those up to `T`, as the CPU's
//! filter proves (`host/src/cpu/step/filter.rs`, whose scales these are, with more room for rounding). All other keys
//! are scored exactly.
//!
//! Shared memory has the deficits once for each bank: a lane finds those of any code in its own bank, so that no
//! two lanes of a warp wait for each other, and four sub-vectors' in one word, which a load of a byte
//! takes apart. Where they lie follows from code and bank by one permutation of bytes.

use super::scan::Scan;
use super::survivors::{Cut, Found, List, figure, figures};
use super::{Plan, TABLE_STRIDE, THREADS, layout};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{block, bytes, float, thread, warp};
use crate::order::{order_key, score_of_key};
use crate::scores;

/// Deficits are below this: those of 16 sub-vectors add up to 4080 at most.
const NUM_DEFICITS: u32 = 4 * THREADS;
/// Of a key that is no candidate.
pub(super) const NO_CANDIDATE: u32 = 0xffff;
/// Words that a thread looks through at a time, with the deficits of two keys each.
const WORDS: u32 = 16;

/// How often each deficit occurs; lies where the survivors' histogram and the boundary bin will.
#[inline(always)]
pub(super) fn counts() -> SharedArray<u32> {
    dynamic_shared_mem(layout::BINS)
}

/// The deficits of the share's keys, two a word.
#[inline(always)]
pub(super) fn deficits(plan: &Plan) -> SharedArray<u32> {
    dynamic_shared_mem(layout::list(plan.table_words) + plan.deficits_at)
}

/// Leaves in the list all keys of the share that may be among the `wanted` best, or returns `None` where the filter is not
/// made for the share: all keys are wanted, or a score is not finite, or too many keys are alike.
///
/// # Safety
/// As [`Scan::run`].
#[inline(always)]
pub(super) unsafe fn run(
    scan: impl Fn() -> Scan,
    list: &List,
    plan: &Plan,
    bits: u32,
    words: [u32; 4],
    wanted: impl Fn() -> u32,
) -> Option<Found> {
    let m = || thread::opaque(plan.table_words) / TABLE_STRIDE;
    // SAFETY: the caller's. All conditions around barriers are the same in the whole block; each thread has
    // its own words between two of them, or only adds.
    unsafe {
        let num_keys = {
            let scan = scan();
            if plan.deficits_at == 0 || wanted() == 0 || scan.keys_per_vector == 0 {
                0
            } else {
                scan.end - scan.start
            }
        };
        if num_keys <= wanted() {
            return None;
        }
        look_at_table(m(), bits);
        thread::sync_threads();
        let scale = scale(m())?;
        build_table(plan, m(), bits, scale);
        thread::sync_threads();
        {
            let scan = scan();
            match scan.keys_per_vector {
                2 => add_up::<8, 2>(&scan, words, |first, a, b| {
                    deficits(plan).set(first / 2, a | b << 16);
                }),
                _ => {
                    add_up::<16, 2>(&scan, words, |first, a, _| deficits(plan).set_u16(first, a));
                    // The last word's other half.
                    let end = scan.end - scan.first_key;
                    if end % 2 == 1 && thread::thread_idx_x() == 0 {
                        deficits(plan).set_u16(end, NO_CANDIDATE);
                    }
                }
            }
        }
        thread::sync_threads();
        let limit = smallest(wanted(), |first| counts().get4(first)) + m();
        let count = list_up_to(&scan(), list, plan, limit)?;
        {
            let scan = scan();
            match scan.keys_per_vector {
                2 => score::<8>(&scan, list, count),
                _ => score::<16>(&scan, list, count),
            }
        }
        thread::sync_threads();
        let found = Found {
            count,
            live: count,
            cut: Cut::ALL,
        };
        if plan.num_blocks > 1 && count > plan.exchange_capacity {
            return Some(list.tighten(&found, wanted(), plan.exchange_capacity));
        }
        Some(found)
    }
}

/// The largest and the smallest entry of each sub-vector, a warp each; infinities where there is NaN. Clears the counts.
///
/// # Safety
/// As [`run`]; a barrier follows.
#[inline(always)]
pub(super) unsafe fn look_at_table(m: u32, bits: u32) {
    let table = dynamic_shared_mem::<f32>(layout::TABLE);
    let extremes = dynamic_shared_mem::<f32>(layout::SUMS);
    let subvector = warp::warp_id();
    // SAFETY: the caller's; the condition is the same in a whole warp, and m at most half of the block's warps.
    unsafe {
        for i in 0..NUM_DEFICITS / THREADS {
            counts().set(thread::thread_idx_x() + i * THREADS, 0);
        }
        if subvector < m {
            let (mut least, mut largest) = (u32::MAX, 0);
            let mut code = warp::lane_id();
            while code < 1 << bits {
                let key = order_key(table.get(subvector * TABLE_STRIDE + code));
                least = least.min(key);
                largest = largest.max(key);
                code += 32;
            }
            let (least, largest) = (warp::reduce_min(least), warp::reduce_max(largest));
            if warp::lane_id() == 0 {
                // NaN's key is 0.
                let [low, high] = if least == 0 {
                    [f32::INFINITY; 2]
                } else {
                    [score_of_key(least), score_of_key(largest)]
                };
                extremes.set(2 * subvector, low);
                extremes.set(2 * subvector + 1, high);
            }
        }
    }
}

/// The finest scale for which the bound holds and no deficit is cut off; none where a score may not be finite.
///
/// # Safety
/// As [`run`], behind [`look_at_table`].
#[inline(always)]
pub(super) unsafe fn scale(m: u32) -> Option<f32> {
    let extremes = dynamic_shared_mem::<f32>(layout::SUMS);
    let (mut sum, mut widest) = (0.0f32, 0.0f32);
    let mut subvector = 0;
    while subvector < m {
        // SAFETY: the caller's.
        let [low, high] = unsafe { extremes.get2(2 * subvector) };
        sum += low.abs() + high.abs();
        widest = widest.max(high - low);
        subvector += 1;
    }
    // 2 * E * scale <= 0.9, with E = m * 2^-24 * sum * 1.0001, and 1 % for the roundings here.
    let finest = 0.89 * (1u32 << 23) as f32 / (m as f32 * sum);
    let scale = (254.9 / widest).min(finest).min(f32::MAX);
    (sum < f32::MAX / 4.0).then_some(scale)
}

/// The largest sum that the table's entries may have, about.
///
/// # Safety
/// As [`run`], behind [`look_at_table`] and a barrier.
#[inline(always)]
#[cfg(clusters)]
pub(super) unsafe fn largest_sum(m: u32) -> f32 {
    let extremes = dynamic_shared_mem::<f32>(layout::SUMS);
    let (mut sum, mut subvector) = (0.0, 0);
    while subvector < m {
        // SAFETY: the caller's.
        sum += unsafe { extremes.get(2 * subvector + 1) };
        subvector += 1;
    }
    sum
}

/// The table of deficits, a word for each of 32 banks: those of sub-vectors 8h + 4g to 8h + 4g + 3 for code c are bytes
/// of word `[h, c, g, bank]`, so that a code is the second byte of an offset whose first one says the bank.
///
/// # Safety
/// As [`run`]; a barrier follows.
#[inline(always)]
pub(super) unsafe fn build_table(plan: &Plan, m: u32, bits: u32, scale: f32) {
    let table = dynamic_shared_mem::<f32>(layout::TABLE);
    let extremes = dynamic_shared_mem::<f32>(layout::SUMS);
    let banks = dynamic_shared_mem::<u32>(layout::list(plan.table_words));
    let lane = warp::lane_id();
    let mut first = warp::warp_id() * 32;
    // SAFETY: the caller's. The loop is the same in a whole warp; a row of words is one warp's.
    unsafe {
        while first < thread::opaque(m / 4 * TABLE_STRIDE) {
            let (group, code) = ((first + lane) / TABLE_STRIDE, (first + lane) % TABLE_STRIDE);
            let mut word = 0;
            if code < 1 << bits {
                for k in 0..4 {
                    let subvector = 4 * group + k;
                    let entry = table.get(subvector * TABLE_STRIDE + code);
                    let largest = extremes.get(2 * subvector + 1);
                    word |= float::to_u32((largest - entry) * scale).min(255) << (8 * k);
                }
            }
            let (group, code) = (first / TABLE_STRIDE, first % TABLE_STRIDE);
            let rows_at = (group / 2 * TABLE_STRIDE + code) * 64 + group % 2 * 32;
            macro_rules! rows {
                ($($k:literal)*) => {
                    $({
                        let row = 4 * $k + lane / 8;
                        let of_row = warp::warp_shuffle_idx(word, row);
                        banks.set4(rows_at + row * 64 + lane % 8 * 4, [of_row; 4]);
                    })*
                };
            }
            rows!(0 1 2 3 4 5 6 7);
            first += THREADS;
        }
    }
}

/// Adds up the deficits of all keys of the share, which have `M` codes, and counts them. `V` (2 or 4) vectors of a thread
/// are under way at once. `keep` is told the place of a vector's first key, counted from the first vector's, and the
/// deficits of its keys.
///
/// # Safety
/// As [`run`]; `words` are the first vector's, and the share has a candidate.
#[inline(always)]
pub(super) unsafe fn add_up<const M: usize, const V: u32>(
    scan: &Scan,
    words: [u32; 4],
    keep: impl Fn(u32, u32, u32),
) {
    let keys = 16 / M as u32;
    let turns = (scan.end - scan.first_key).div_ceil(THREADS * keys);
    // SAFETY: the caller's; a vector is loaded within the share.
    unsafe {
        // By turns: a vector that was handed on would be waited for.
        let (mut a, mut b) = (words, scan.load(keys, 1));
        let (mut c, mut d) = if V == 4 {
            (scan.load(keys, 2), scan.load(keys, 3))
        } else {
            ([0; 4], [0; 4])
        };
        let mut turn = 0;
        while turn < thread::opaque(turns) {
            macro_rules! turn {
                ($words:ident, $i:literal) => {
                    if $i < V {
                        add_up_turn::<M>(scan, turn + $i, $words, &keep);
                        $words = scan.load(keys, turn + V + $i);
                    }
                };
            }
            turn!(a, 0);
            turn!(b, 1);
            turn!(c, 2);
            turn!(d, 3);
            turn += V;
        }
    }
}

/// One vector of [`add_up`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_up_turn<const M: usize>(
    scan: &Scan,
    turn: u32,
    words: [u32; 4],
    keep: &impl Fn(u32, u32, u32),
) {
    let keys = 16 / M as u32;
    let banks = dynamic_shared_mem::<u32>(layout::list(M as u32 * TABLE_STRIDE));
    let own_bank = 4 * warp::lane_id();
    // Candidates, counted from the first vector's first key.
    let (start, num) = (scan.start - scan.first_key, scan.end - scan.start);
    let first = (turn * THREADS + thread::thread_idx_x()) * keys;
    // SAFETY: the caller's.
    unsafe {
        if keys == 1 && first.wrapping_sub(start) >= num {
            if first < start {
                keep(first, NO_CANDIDATE, NO_CANDIDATE);
            }
            return;
        }
        if first >= start + num {
            return;
        }
        let (mut first_deficit, mut second_deficit) = (NO_CANDIDATE, NO_CANDIDATE);
        macro_rules! key {
            ($deficit:ident, $i:literal: $($j:literal)*) => {
                if $i < keys as usize {
                    let mut sum = 0;
                    $(if $j < M {
                        let byte = $i * M + $j;
                        // The code above the bank.
                        let selector = 0x5504 | (byte as u32 % 4) << 4;
                        let row = bytes::permute(words[byte / 4 % 4], own_bank, selector);
                        let column = $j / 8 * 65_536 + $j / 4 % 2 * 128 + $j % 4;
                        sum += banks.get_u8(row + (banks.address() + column));
                    })*
                    let place = first + $i;
                    if keys == 1 || place.wrapping_sub(start) < num {
                        $deficit = sum;
                        counts().atomic_add(sum, 1);
                    }
                }
            };
        }
        key!(first_deficit, 0: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        key!(second_deficit, 1: 0 1 2 3 4 5 6 7);
        keep(first, first_deficit, second_deficit);
    }
}

/// The `wanted`-th smallest deficit, where `counted` tells how often four neighbouring ones occur.
///
/// # Safety
/// As [`run`], behind [`add_up`] and a barrier; so many are counted.
#[inline(always)]
pub(super) unsafe fn smallest(wanted: u32, counted: impl Fn(u32) -> [u32; 4]) -> u32 {
    let first = 4 * thread::thread_idx_x();
    // SAFETY: the caller's; the sums ascend, so one thread sets the figure.
    unsafe {
        let counted = counted(first);
        let all = counted[0] + counted[1] + counted[2] + counted[3];
        let (through, _) = block::inclusive_sum_once(all, dynamic_shared_mem(layout::SUMS));
        let mut before = through - all;
        if before < wanted && wanted <= through {
            let mut deficit = first;
            for k in 0..3 {
                // As long as no sum has reached it.
                before += counted[k];
                deficit += u32::from(before < wanted);
            }
            figures().set(figure::BIN, deficit);
        }
        thread::sync_threads();
        figures().get(figure::BIN)
    }
}

/// Lists the places of all keys whose deficit is at most `limit`; returns how many they are, or `None` if the list is
/// too short.
///
/// # Safety
/// As [`run`], behind [`add_up`] and a barrier.
#[inline(always)]
unsafe fn list_up_to(scan: &Scan, list: &List, plan: &Plan, limit: u32) -> Option<u32> {
    let deficits = deficits(plan);
    let num_words = (scan.end - scan.first_key).div_ceil(2);
    let (mut first, mut count) = (0, 0);
    // SAFETY: the caller's. Slots count the keys before, so each entry is written once.
    unsafe {
        while first < thread::opaque(num_words) {
            thread::no_unroll();
            let at = first + thread::thread_idx_x();
            let mut pass = 0u32;
            for k in 0..WORDS {
                let at = at + k * THREADS;
                if at < num_words {
                    let word = deficits.get(at);
                    pass |= u32::from(word & 0xffff <= limit) << (2 * k);
                    pass |= u32::from(word >> 16 <= limit) << (2 * k + 1);
                }
            }
            let passed = pass.count_ones();
            let (through, all) = block::inclusive_sum(passed, dynamic_shared_mem(layout::SUMS));
            if count + all > list.capacity {
                return None;
            }
            let mut slot = count + through - passed;
            while pass != 0 {
                let bit = pass.trailing_zeros();
                pass &= pass - 1;
                let key = scan.first_key + 2 * (at + bit / 2 * THREADS) + bit % 2;
                list.set(slot, 0, key);
                slot += 1;
            }
            count += all;
            first += WORDS * THREADS;
        }
        thread::sync_threads();
    }
    Some(count)
}

/// Scores the keys of the list, which have `M` codes.
///
/// # Safety
/// As [`run`], behind [`list_up_to`]; a barrier follows.
#[inline(always)]
unsafe fn score<const M: usize>(scan: &Scan, list: &List, count: u32) {
    let mut i = thread::thread_idx_x();
    while i < count {
        thread::no_unroll();
        // SAFETY: the caller's.
        unsafe {
            let (_, key) = list.get(i);
            list.set(i, score_key::<M>(scan, key), key);
        }
        i += THREADS;
    }
}

/// The order key of the score of `key`, which has `M` codes.
///
/// # Safety
/// As [`run`], behind the table; `key` is a candidate of the share.
#[inline(always)]
pub(super) unsafe fn score_key<const M: usize>(scan: &Scan, key: u32) -> u32 {
    let keys = 16 / M as u32;
    // SAFETY: the caller's; a candidate's codes are written.
    unsafe {
        let words = scan.load_at(key / keys * keys);
        let own = if key % keys == 1 {
            [words[2], words[3], 0, 0]
        } else {
            words
        };
        order_key(scores::score(M, |j| {
            let code = own[j / 4] >> (8 * (j % 4)) & 0xff;
            scan.table.get(j as u32 * TABLE_STRIDE + code)
        }))
    }
}
