//! The sums of every centroid's points in a tile.

use super::layout::{self, POINT_STRIDE};
use super::stage::BlockPlace;
use crate::device::shared::{SharedArray, dynamic_shared_mem};
use crate::device::thread::{self, sync_threads};
use crate::device::warp;
use crate::kernel::{In, Out};
use crate::kmeans::{KMeansShape, ORDER_BLOCK, TILE, component_of};

/// Adds the tile's points to their centroids' sums, which are in shared memory (`is_shared`) or else in `global_sums`.
/// Contains one barrier and eight votes.
///
/// # Safety
/// Every thread of the block is here, behind a barrier, with the same arguments. The tile's codes, its augmenting components and, if
/// `points_stay`, its points are in shared memory.
#[inline(always)]
pub(super) unsafe fn add_tile<const DTYPE: u32>(
    shape: &KMeansShape,
    keys: In<u8>,
    order: In<u32>,
    [problem, tile]: [u32; 2],
    points_stay: bool,
    is_shared: bool,
    global_sums: impl Fn() -> Out<f64>,
) {
    let (sub_dim, point_dim) = (shape.sub_dim, shape.point_dim());
    let t = thread::opaque(thread::thread_idx_x());
    let (lane, warp) = (t % 32, t / 32);
    let augmented = dynamic_shared_mem::<f32>(layout::AUGMENTED);
    let tile_codes = dynamic_shared_mem::<u32>(layout::CODES);
    let shared_sums = dynamic_shared_mem::<u32>(layout::SUMS);
    // SAFETY: the caller's; a warp has lists and centroids of its own.
    unsafe {
        // A warp adds up the points of every eighth centroid in their order. Where a point is short, half of
        // the warp does so for every sixteenth.
        let are_in_shared = points_stay && is_shared;
        let groups = if are_in_shared && point_dim <= 16 {
            2
        } else {
            1
        };
        let lists = dynamic_shared_mem::<u32>(layout::NEAREST + warp * 2 * TILE);
        let mut lens = [0u32; 2];
        macro_rules! list {
            ($quarter:literal, $group:literal) => {
                let point = 32 * $quarter + lane;
                let code = tile_codes.get(point);
                let class = code & (8 * groups - 1);
                let is_mine =
                    code != u32::MAX && $group < groups && class == warp * groups + $group;
                let mine = warp::ballot(is_mine);
                if is_mine {
                    let before = (mine & ((1 << lane) - 1)).count_ones();
                    lists.set($group * TILE + lens[$group] + before, code << 8 | point);
                }
                lens[$group] += mine.count_ones();
            };
        }
        list!(0, 0);
        list!(0, 1);
        list!(1, 0);
        list!(1, 1);
        list!(2, 0);
        list!(2, 1);
        list!(3, 0);
        list!(3, 1);
        sync_threads();
        if are_in_shared {
            let lanes = 32 / groups;
            let (group, i) = (lane / lanes, lane % lanes);
            let list = dynamic_shared_mem(layout::NEAREST + (2 * warp + group) * TILE);
            let len = if group == 0 { lens[0] } else { lens[1] };
            if point_dim <= 32 {
                add_points::<1>(shape, list, len, i);
            } else {
                add_points::<2>(shape, list, len, i);
            }
        } else {
            let first = shape.first_element(thread::opaque(problem));
            let mut k = 0;
            while k < lens[0] {
                let entry = lists.get(k);
                let (code, point) = (entry >> 8, entry & 0xff);
                let block = point / ORDER_BLOCK;
                let place = BlockPlace::new(shape, order, true, first, [tile, block]);
                let mut i = lane;
                while i < point_dim {
                    let x = if i == sub_dim {
                        augmented.get(point)
                    } else {
                        let at = place.element(shape, point % ORDER_BLOCK);
                        component_of::<DTYPE>(keys, at + u64::from(i))
                    };
                    let at = code * point_dim + i;
                    if is_shared {
                        let sum = shared_sums.get_f64(at) + f64::from(x);
                        shared_sums.set_f64(at, sum);
                    } else {
                        let at = at as usize;
                        let sum = global_sums().get(at) + f64::from(x);
                        global_sums().set(at, sum);
                    }
                    i += 32;
                }
                k += 1;
            }
        }
    }
}

/// Adds the points of a list to the sums of their centroids: `W` components of this lane at a time, the first `i` and
/// each 32 further.
///
/// An entry of the list is a code, then 8 bits of the point. Two points at a time: the second's sum is read before
/// the first's is written, so where both have one code it goes on from there.
///
/// # Safety
/// The tile's points, the list of `len` and all sums are in shared memory, and no other lane has these components of these
/// centroids.
#[inline(always)]
unsafe fn add_points<const W: usize>(
    shape: &KMeansShape,
    list: SharedArray<u32>,
    len: u32,
    i: u32,
) {
    let point_dim = shape.point_dim();
    let sums = dynamic_shared_mem::<u32>(layout::SUMS);
    let mut i = i;
    while i < point_dim {
        let places: [u32; W] = core::array::from_fn(|w| {
            let i = i + 32 * w as u32;
            if i == shape.sub_dim {
                layout::AUGMENTED
            } else {
                layout::POINTS + i * POINT_STRIDE
            }
        });
        let mut k = 0;
        // SAFETY: the caller's; the list has an even number of words.
        unsafe {
            let mut next = list.get2(0);
            while k < len {
                let [entry, other] = next;
                k += 2;
                next = list.get2(if k < len { k } else { 0 });
                let is_pair = k <= len;
                let other = if is_pair { other } else { entry };
                for w in 0..W {
                    let i = i + 32 * w as u32;
                    if w == 0 || i < point_dim {
                        let points = dynamic_shared_mem::<f32>(places[w]);
                        let x = points.get(entry & 0xff);
                        // Negative zero changes no sum.
                        let y = if is_pair {
                            points.get(other & 0xff)
                        } else {
                            -0.0
                        };
                        let at = (entry >> 8) * point_dim + i;
                        let other_at = (other >> 8) * point_dim + i;
                        let (sum, other_sum) = (sums.get_f64(at), sums.get_f64(other_at));
                        let sum = sum + f64::from(x);
                        let other_sum = if at == other_at { sum } else { other_sum };
                        sums.set_f64(at, sum);
                        sums.set_f64(other_at, other_sum + f64::from(y));
                    }
                }
            }
        }
        i += 32 * W as u32;
    }
}
