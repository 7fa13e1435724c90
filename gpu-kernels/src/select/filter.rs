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
//! takes apart.

use super::scan::Scan;
use super::survivors::{Cut, Found, List, figure, figures};
use super::{DEFICIT_WORDS, Plan, TABLE_STRIDE, THREADS, layout};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{block, float, thread, warp};
use crate::order::{order_key, score_of_key};
use crate::scores;

/// Deficits are below this: those of 16 sub-vectors add up to 4080 at most.
const NUM_DEFICITS: u32 = 4 * THREADS;
/// Of a key that is no candidate.
const NO_CANDIDATE: u32 = 0xffff;
/// Words that a thread looks through at a time, with the deficits of two keys each.
const WORDS: u32 = 16;

/// How often each deficit occurs; lies where the survivors' histogram and the boundary bin will.
#[inline(always)]
fn counts() -> SharedArray<u32> {
    dynamic_shared_mem(layout::BINS)
}

/// The deficits of the share's keys, two a word.
#[inline(always)]
fn deficits(plan: &Plan) -> SharedArray<u32> {
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
        // They are on their way while the tables are made.
        let words = scan().prefetch();
        look_at_table(m(), bits);
        thread::sync_threads();
        let scale = scale(m())?;
        build_table(plan, m(), bits, scale);
        thread::sync_threads();
        {
            let scan = scan();
            match scan.keys_per_vector {
                2 => add_up::<8>(&scan, plan, words),
                _ => add_up::<16>(&scan, plan, words),
            }
        }
        thread::sync_threads();
        let limit = smallest(wanted()) + m();
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
unsafe fn look_at_table(m: u32, bits: u32) {
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
unsafe fn scale(m: u32) -> Option<f32> {
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

/// The table of deficits, a word for each of 32 banks: those of sub-vectors 4g to 4g + 3 for code c are bytes of word
/// `[g, c, bank]`.
///
/// # Safety
/// As [`run`]; a barrier follows.
#[inline(always)]
unsafe fn build_table(plan: &Plan, m: u32, bits: u32, scale: f32) {
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
            macro_rules! rows {
                ($($k:literal)*) => {
                    $({
                        let row = 4 * $k + lane / 8;
                        let of_row = warp::warp_shuffle_idx(word, row);
                        banks.set4((first + row) * 32 + lane % 8 * 4, [of_row; 4]);
                    })*
                };
            }
            rows!(0 1 2 3 4 5 6 7);
            first += THREADS;
        }
    }
}

/// Adds up the deficits of all keys of the share, which have `M` codes, and counts them.
///
/// # Safety
/// As [`run`]; `words` are the first vector's.
#[inline(always)]
unsafe fn add_up<const M: usize>(scan: &Scan, plan: &Plan, words: [u32; 4]) {
    let keys = 16 / M as u32;
    let end = scan.end - scan.first_key;
    let turns = end.div_ceil(THREADS * keys);
    // SAFETY: the caller's; a vector is loaded within the share.
    unsafe {
        // Two by turns: a vector that was handed on would be waited for.
        let (mut even, mut odd) = (words, scan.load(keys, 1));
        let mut turn = 0;
        while turn < thread::opaque(turns) {
            add_up_turn::<M>(scan, plan, turn, even);
            even = scan.load(keys, turn + 2);
            add_up_turn::<M>(scan, plan, turn + 1, odd);
            odd = scan.load(keys, turn + 3);
            turn += 2;
        }
        // The last word's other half.
        if keys == 1 && end % 2 == 1 && thread::thread_idx_x() == 0 {
            deficits(plan).set_u16(end, NO_CANDIDATE);
        }
    }
}

/// One vector of [`add_up`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_up_turn<const M: usize>(scan: &Scan, plan: &Plan, turn: u32, words: [u32; 4]) {
    let keys = 16 / M as u32;
    let banks = dynamic_shared_mem::<u32>(layout::list(plan.table_words));
    let own_bank = 4 * warp::lane_id();
    let deficits = deficits(plan);
    // Candidates, counted from the first vector's first key.
    let (start, num) = (scan.start - scan.first_key, scan.end - scan.start);
    let first = (turn * THREADS + thread::thread_idx_x()) * keys;
    if first >= start + num {
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        let mut found = [NO_CANDIDATE; 2];
        for i in 0..keys as usize {
            let mut sum = 0;
            for j in 0..M {
                let byte = i * M + j;
                let code = words[byte / 4] >> (8 * (byte % 4)) & 0xff;
                let at = (j / 4) as u32 * (4 * DEFICIT_WORDS) + (j % 4) as u32;
                sum += banks.get_u8(banks.address() + at + (code << 7 | own_bank));
            }
            let place = first + i as u32;
            if place.wrapping_sub(start) < num {
                found[i] = sum;
                counts().atomic_add(sum, 1);
            }
        }
        if keys == 1 {
            deficits.set_u16(first, found[0]);
        } else {
            deficits.set(first / 2, found[0] | found[1] << 16);
        }
    }
}

/// The `wanted`-th smallest deficit.
///
/// # Safety
/// As [`run`], behind [`add_up`] and a barrier; so many are counted.
#[inline(always)]
unsafe fn smallest(wanted: u32) -> u32 {
    let first = 4 * thread::thread_idx_x();
    // SAFETY: the caller's; the sums ascend, so one thread sets the figure.
    unsafe {
        let counted = counts().get4(first);
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
    let keys = 16 / M as u32;
    let mut i = thread::thread_idx_x();
    while i < count {
        thread::no_unroll();
        // SAFETY: the caller's; a candidate's codes are written.
        unsafe {
            let (_, key) = list.get(i);
            let words = scan.load_at(key / keys * keys);
            let part = key % keys;
            let own = if part == 1 {
                [words[2], words[3], 0, 0]
            } else {
                words
            };
            let score = scores::score(M, |j| {
                let code = own[j / 4] >> (8 * (j % 4)) & 0xff;
                scan.table.get(j as u32 * TABLE_STRIDE + code)
            });
            list.set(i, order_key(score), key);
        }
        i += THREADS;
    }
}
