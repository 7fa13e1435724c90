//! The survivors of a block or of a row, and the cut that a key must pass to be one.

use super::{MAX_RANKED, NUM_BINS, Plan, THREADS, layout};
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::{block, float, thread, warp};
use crate::order::{order_key, rank_of_key, score_of_key};

/// What one thread tells the block: words of `layout::FIGURES`.
pub(super) mod figure {
    /// Entries of the list.
    pub(in super::super) const COUNT: u32 = 0;
    /// Entries left for the row's last block.
    pub(in super::super) const PUBLISHED: u32 = 1;
    /// This block's ticket.
    pub(in super::super) const TICKET: u32 = 2;
    /// Least order key of a number in the list.
    pub(super) const LEAST: u32 = 3;
    /// Largest order key in the list.
    pub(super) const LARGEST: u32 = 4;
    /// Least order key of the bins kept.
    pub(super) const LEAST_KEPT: u32 = 5;
    /// Entries of the boundary bin found so far.
    pub(in super::super) const NUM_RANKED: u32 = 6;
    /// Chosen bin.
    pub(in super::super) const BIN: u32 = 7;
    /// Entries in bins above it.
    pub(super) const ABOVE: u32 = 8;
    /// Entries in it.
    pub(super) const INSIDE: u32 = 9;
    /// Key of the last entry taken.
    pub(super) const CUT_KEY: u32 = 10;
    /// Its place.
    pub(super) const CUT_PLACE: u32 = 11;
    /// Tokens of the row, the new one included.
    pub(in super::super) const SEQ_LEN: u32 = 12;
}

/// Digits of a rank have this many bits: one for each bin.
const DIGIT_BITS: u32 = NUM_BINS.ilog2();

/// Which keys pass: those with a larger order key, and those with an equal one at a place below `end`.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    key: u32,
    end: u32,
}

impl Cut {
    /// All pass.
    pub(super) const ALL: Cut = Cut {
        key: 0,
        end: u32::MAX,
    };

    /// Whether the key at `place` passes.
    #[inline(always)]
    pub(super) fn takes(&self, key: u32, place: u32) -> bool {
        key > self.key || (key == self.key && place < self.end)
    }

    /// What scores pass at places behind all that the cut was made of.
    #[inline(always)]
    pub(super) fn bound(&self) -> Bound {
        // Of equal keys at later places none passes a cut that divides them.
        let key = if self.end == u32::MAX {
            self.key
        } else {
            // No number has a key between NaN's and negative infinity's.
            (self.key + 1).max(order_key(f32::NEG_INFINITY))
        };
        Bound {
            least: score_of_key(key),
            all: key == 0,
        }
    }
}

/// A [`Cut`] for scores.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    least: f32,
    /// NaN passes too.
    all: bool,
}

impl Bound {
    /// Whether the score passes.
    #[inline(always)]
    pub(super) fn takes(&self, score: f32) -> bool {
        (score >= self.least) | self.all
    }
}

/// A list as it was left: `live` of `count` entries pass the cut.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) count: u32,
    pub(super) live: u32,
    pub(super) cut: Cut,
}

/// Survivors: order keys and places, in any order.
#[derive(Clone, Copy)]
pub(super) struct List {
    keys: SharedArray<u32>,
    places: SharedArray<u32>,
    pub(super) capacity: u32,
}

/// A linear map of scores to bins, non-decreasing in the score, whatever rounding does. Where the range
/// is not finite, or empty, all scores go to bin 0.
#[derive(Clone, Copy)]
struct Range {
    lowest: f32,
    bins_per_unit: f32,
}

impl Range {
    #[inline(always)]
    fn new(lowest: f32, highest: f32) -> Self {
        let width = highest - lowest;
        Range {
            lowest,
            bins_per_unit: if width > 0.0 && width < f32::INFINITY {
                NUM_BINS as f32 / width
            } else {
                0.0
            },
        }
    }

    /// The bin of the score with that order key; NaN's is 0.
    #[inline(always)]
    fn bin(&self, key: u32) -> u32 {
        let bin = (score_of_key(key) - self.lowest) * self.bins_per_unit;
        float::to_u32(bin).min(NUM_BINS - 1)
    }
}

/// The bin in which the wanted best end.
#[derive(Clone, Copy)]
struct Chosen {
    bin: u32,
    above: u32,
    inside: u32,
}

#[inline(always)]
pub(super) fn figures() -> SharedArray<u32> {
    dynamic_shared_mem(layout::FIGURES)
}

#[inline(always)]
fn bins() -> SharedArray<u32> {
    dynamic_shared_mem(layout::BINS)
}

/// A slot of `counter` for each of a thread's `N` (at most 8) entries that is kept, if the warp keeps any.
/// The slots of others mean nothing.
///
/// # Safety
/// All lanes of the warp are here; the counter is only added to between two barriers.
#[inline(always)]
pub(super) unsafe fn claim<const N: usize>(counter: u32, keep: [bool; N]) -> Option<[u32; N]> {
    // SAFETY: the caller's.
    unsafe {
        let mut kept = [0u32; N];
        let mut total = 0;
        macro_rules! each {
            ($do:ident) => {
                $do!(0);
                $do!(1);
                $do!(2);
                $do!(3);
                $do!(4);
                $do!(5);
                $do!(6);
                $do!(7);
            };
        }
        macro_rules! vote {
            ($i:literal) => {
                if $i < N {
                    kept[$i % N] = warp::ballot(keep[$i % N]);
                    total += kept[$i % N].count_ones();
                }
            };
        }
        each!(vote);
        if total == 0 {
            return None;
        }
        let lane = warp::lane_id();
        let mut first = 0;
        if lane == 0 {
            first = figures().atomic_fetch_add(counter, total);
        }
        let mut first = warp::warp_shuffle_idx(first, 0);
        let below = (1u32 << lane) - 1;
        let mut slots = [0; N];
        for i in 0..N {
            slots[i] = first + (kept[i] & below).count_ones();
            first += kept[i].count_ones();
        }
        Some(slots)
    }
}

impl List {
    #[inline(always)]
    pub(super) fn new(plan: &Plan) -> Self {
        let at = layout::list(plan.table_words);
        List {
            keys: dynamic_shared_mem(at),
            places: dynamic_shared_mem(at + plan.list_capacity),
            capacity: plan.list_capacity,
        }
    }

    /// Key and place of entry `i`.
    ///
    /// # Safety
    /// The entry is written, a barrier ago.
    #[inline(always)]
    pub(super) unsafe fn get(&self, i: u32) -> (u32, u32) {
        // SAFETY: the caller's.
        unsafe { (self.keys.get(i), self.places.get(i)) }
    }

    /// # Safety
    /// `i` is below the capacity and claimed by this thread.
    #[inline(always)]
    pub(super) unsafe fn set(&self, i: u32, key: u32, place: u32) {
        // SAFETY: the caller's.
        unsafe {
            self.keys.set(i, key);
            self.places.set(i, place);
        }
    }

    /// Calls `each` with key and place of this thread's share of those entries that pass the cut.
    ///
    /// # Safety
    /// The entries are written, a barrier ago.
    #[inline(always)]
    unsafe fn for_live(&self, found: &Found, mut each: impl FnMut(u32, u32)) {
        let mut i = thread::thread_idx_x();
        while i < found.count {
            // SAFETY: the caller's.
            let (key, place) = unsafe { self.get(i) };
            if found.cut.takes(key, place) {
                each(key, place);
            }
            i += THREADS;
        }
    }

    /// Raises the cut so that the `wanted` best pass, and `limit` (at least `wanted`) at most.
    ///
    /// # Safety
    /// Every thread of the block is here, behind a barrier since the last entry; more than `wanted` entries
    /// pass the cut.
    #[inline(always)]
    pub(super) unsafe fn tighten(&self, found: &Found, wanted: u32, limit: u32) -> Found {
        // SAFETY: the caller's; the choice is the same in all threads, so all take the same arm.
        unsafe {
            let (range, chosen) = self.histogram(found, wanted);
            let kept = chosen.above + chosen.inside;
            if kept <= limit {
                let mut least = u32::MAX;
                self.for_live(found, |key, _| {
                    if range.bin(key) >= chosen.bin {
                        least = least.min(key);
                    }
                });
                let least = warp::reduce_min(least);
                if warp::lane_id() == 0 {
                    figures().atomic_min(figure::LEAST_KEPT, least);
                }
                thread::sync_threads();
                let key = figures().get(figure::LEAST_KEPT);
                return Found {
                    count: found.count,
                    live: kept,
                    cut: Cut { key, ..Cut::ALL },
                };
            }
            Found {
                count: found.count,
                live: wanted,
                cut: self.digits(found, wanted),
            }
        }
    }

    /// The cut that exactly the `wanted` best entries pass, if more do now.
    ///
    /// # Safety
    /// Every thread of the block is here, behind a barrier since the last entry.
    #[inline(always)]
    pub(super) unsafe fn cut(&self, found: &Found, wanted: u32) -> Cut {
        if found.live <= wanted {
            return found.cut;
        }
        let ranked = dynamic_shared_mem::<u32>(layout::RANKED);
        // SAFETY: the caller's; the choice is the same in all threads, so all take the same arm.
        unsafe {
            let (range, chosen) = self.histogram(found, wanted);
            if chosen.inside > MAX_RANKED {
                return self.digits(found, wanted);
            }
            self.for_live(found, |key, place| {
                if range.bin(key) == chosen.bin {
                    let slot = figures().atomic_fetch_add(figure::NUM_RANKED, 1);
                    ranked.set(slot, key);
                    ranked.set(MAX_RANKED + slot, place);
                }
            });
            thread::sync_threads();
            let t = thread::thread_idx_x();
            if t < chosen.inside {
                let (key, place) = (ranked.get(t), ranked.get(MAX_RANKED + t));
                let mine = rank_of_key(key, place);
                let mut better = chosen.above;
                let mut i = 0;
                while i < chosen.inside {
                    let other = rank_of_key(ranked.get(i), ranked.get(MAX_RANKED + i));
                    better += u32::from(other > mine);
                    i += 1;
                }
                if better + 1 == wanted {
                    figures().set(figure::CUT_KEY, key);
                    figures().set(figure::CUT_PLACE, place);
                }
            }
            thread::sync_threads();
            Cut {
                key: figures().get(figure::CUT_KEY),
                end: figures().get(figure::CUT_PLACE) + 1,
            }
        }
    }

    /// Counts the entries that pass in bins between the least and the largest score, and chooses the bin in
    /// which the `wanted` best end.
    ///
    /// # Safety
    /// As [`List::tighten`].
    #[inline(always)]
    unsafe fn histogram(&self, found: &Found, wanted: u32) -> (Range, Chosen) {
        // SAFETY: each thread has its own words; barriers stand between clearing, counting and reading.
        unsafe {
            clear_bins();
            if thread::thread_idx_x() == 0 {
                figures().set(figure::LEAST, u32::MAX);
                figures().set(figure::LARGEST, 0);
                figures().set(figure::LEAST_KEPT, u32::MAX);
                figures().set(figure::NUM_RANKED, 0);
            }
            thread::sync_threads();
            let (mut least, mut largest) = (u32::MAX, 0);
            self.for_live(found, |key, _| {
                // NaN's key is 0, which becomes the largest.
                least = least.min(key.wrapping_sub(1));
                largest = largest.max(key);
            });
            let (least, largest) = (warp::reduce_min(least), warp::reduce_max(largest));
            if warp::lane_id() == 0 {
                figures().atomic_min(figure::LEAST, least);
                figures().atomic_max(figure::LARGEST, largest);
            }
            thread::sync_threads();
            let range = Range::new(
                score_of_key(figures().get(figure::LEAST).wrapping_add(1)),
                score_of_key(figures().get(figure::LARGEST)),
            );
            self.for_live(found, |key, _| bins().atomic_add(range.bin(key), 1));
            thread::sync_threads();
            (range, choose(wanted))
        }
    }

    /// The cut that exactly the `wanted` best of those that pass now do, digit by digit of their ranks.
    ///
    /// # Safety
    /// As [`List::tighten`].
    #[inline(always)]
    unsafe fn digits(&self, found: &Found, wanted: u32) -> Cut {
        let mut low = u64::BITS;
        let (mut prefix, mut need) = (0u64, wanted);
        // SAFETY: the loop is the same in all threads of the block: it depends on sums over it.
        unsafe {
            while low > thread::opaque(0) {
                let high = low;
                low = high.saturating_sub(DIGIT_BITS);
                let mask = (1u32 << (high - low)) - 1;
                clear_bins();
                thread::sync_threads();
                self.for_live(found, |key, place| {
                    let rank = rank_of_key(key, place);
                    if high == u64::BITS || rank >> high == prefix {
                        bins().atomic_add((rank >> low) as u32 & mask, 1);
                    }
                });
                thread::sync_threads();
                let chosen = choose(need);
                prefix = prefix << (high - low) | u64::from(chosen.bin);
                need -= chosen.above;
                if need == chosen.inside {
                    break;
                }
            }
        }
        let rank = prefix << low;
        Cut {
            key: (rank >> 32) as u32,
            end: (!(rank as u32)).saturating_add(1),
        }
    }

    /// Moves the entries that pass to the front.
    ///
    /// # Safety
    /// As [`List::tighten`].
    #[inline(always)]
    pub(super) unsafe fn compact(&self, found: &Found) -> Found {
        // SAFETY: every thread of the block is here. Entries only move to places whose entries were read
        // before a barrier.
        unsafe {
            thread::sync_threads();
            if thread::thread_idx_x() == 0 {
                figures().set(figure::COUNT, 0);
            }
            let mut first = 0;
            while first < thread::opaque(found.count) {
                let i = first + thread::thread_idx_x();
                let (key, place) = if i < found.count {
                    self.get(i)
                } else {
                    (0, u32::MAX)
                };
                thread::sync_threads();
                let keep = i < found.count && found.cut.takes(key, place);
                if let Some([slot]) = claim(figure::COUNT, [keep])
                    && keep
                {
                    self.set(slot, key, place);
                }
                first += THREADS;
            }
            thread::sync_threads();
            Found {
                count: found.live,
                ..*found
            }
        }
    }
}

/// # Safety
/// Nobody uses the bins since the last barrier, nor before the next.
#[inline(always)]
unsafe fn clear_bins() {
    let t = thread::thread_idx_x();
    // SAFETY: the caller's; each thread has its own words.
    unsafe {
        bins().set(t, 0);
        bins().set(t + THREADS, 0);
    }
}

/// The bin in which the `wanted` best end.
///
/// # Safety
/// Every thread of the block is here, behind a barrier since the last count; at least `wanted` (not 0) are
/// counted.
#[inline(always)]
unsafe fn choose(wanted: u32) -> Chosen {
    let figures = figures();
    // Thread 0 has the highest bins: those taken first come first in the sum.
    let first = NUM_BINS - 2 * (thread::thread_idx_x() + 1);
    // SAFETY: 1024 threads x 2 bins.
    unsafe {
        let (low, high) = (bins().get(first), bins().get(first + 1));
        let (through, _) = block::inclusive_sum_once(low + high, dynamic_shared_mem(layout::SUMS));
        let before = through - low - high;
        // The sums ascend, so this holds for one thread.
        if before < wanted && wanted <= through {
            let (bin, above, inside) = if wanted <= before + high {
                (first + 1, before, high)
            } else {
                (first, before + high, low)
            };
            figures.set(figure::BIN, bin);
            figures.set(figure::ABOVE, above);
            figures.set(figure::INSIDE, inside);
        }
        thread::sync_threads();
        Chosen {
            bin: figures.get(figure::BIN),
            above: figures.get(figure::ABOVE),
            inside: figures.get(figure::INSIDE),
        }
    }
}

// Two bins for each thread, one thread for each ranked entry.
const _: () = assert!(2 * THREADS == NUM_BINS && MAX_RANKED <= THREADS);
