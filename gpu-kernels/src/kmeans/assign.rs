//! Each point's nearest centroid, and the sums of every centroid's points.
//!
//! A block takes a tile of 128 points and 64 centroids at a time, up to 64 components of both in shared memory;
//! a thread has the affinities of 4 points and 8 centroids in registers, each one chain of fused multiply-adds in the
//! order of the components, as [`crate::codebook::affinities`] has it. Points and centroids lie component by
//! component there, so that a thread reads four neighbours at once. Centroids of up to 64 rows of 64 stay for all tiles.

use super::KMeansShape;
use crate::kernel::{In, Out};

/// Centroids that are compared at a time.
const CHUNK: u32 = 64;
/// Components in shared memory at a time.
const SLICE: u32 = 64;
/// Words from one component of the tile's points to the next; a multiple of 4 that is none of 8.
const POINT_STRIDE: u32 = super::TILE + 4;
/// Words from one component of a chunk's centroids to the next.
const CENTROID_STRIDE: u32 = CHUNK + 4;
/// Threads that share a point.
const SHARES: u32 = 8;
/// Most centroids of a problem.
const MAX_CENTROIDS: u32 = 256;

/// Where things lie in a block's shared memory, in words.
pub mod layout {
    use super::{CENTROID_STRIDE, KMeansShape, MAX_CENTROIDS, POINT_STRIDE, SHARES, SLICE};
    use crate::kmeans::TILE;

    /// A slice of the points, `[component, point]`.
    pub const POINTS: u32 = 0;
    /// Centroids, `[chunk, component, centroid]`: all of them, or a slice of one chunk.
    pub const CENTROIDS: u32 = POINTS + SLICE * POINT_STRIDE;
    /// What the affinities begin with, and negative infinity behind the last centroid.
    pub const MINUS_HALF_NORMS: u32 = CENTROIDS + SLICE * CENTROID_STRIDE;
    /// The component that augments each centroid, and 0 behind the last.
    pub const COMPONENTS: u32 = MINUS_HALF_NORMS + MAX_CENTROIDS;
    /// The component that augments each point.
    pub const AUGMENTED: u32 = COMPONENTS + MAX_CENTROIDS;
    /// The nearest centroid that each share of a point found, 64 bits.
    pub const NEAREST: u32 = AUGMENTED + TILE;
    /// The points' codes.
    pub const CODES: u32 = NEAREST + 2 * SHARES * TILE;
    /// Sums of f64, `[2^bits, point_dim]`, then counts.
    pub const SUMS: u32 = CODES + TILE;

    /// Words of a block that keeps its sums there, or has none in shared memory.
    #[inline(always)]
    pub fn words(shape: &KMeansShape, sums_are_shared: bool) -> u32 {
        let sums = if sums_are_shared {
            2 * shape.sums_len()
        } else {
            0
        };
        SUMS + sums + shape.num_centroids()
    }
}

/// Loads `columns` columns a warp, the first `first_column`, and stores them component by component, `N` at a time.
///
/// A lane has one component of 32. Those of a quarter of the warp take the columns of each four in turned order: so
/// its words go to 32 banks.
///
/// # Safety
/// The columns and `len` components are the block's, and nobody reads them before the next barrier.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
unsafe fn stage<const N: usize>(
    to: crate::device::shared::SharedArray<f32>,
    stride: u32,
    [first_column, columns]: [u32; 2],
    len: u32,
    load: impl Fn(u32, u32) -> f32,
) {
    use crate::device::thread;

    // Computed anew each time: kept, the columns' places would take all registers. One turn at a time, or its loads
    // would take them too.
    let lane = thread::opaque(thread::thread_idx_x()) % 32;
    let mut component = lane;
    while component < thread::opaque(len) {
        thread::no_unroll();
        let mut done = 0;
        while done < thread::opaque(columns) {
            thread::no_unroll();
            let first = first_column + done;
            let column = |k: usize| {
                let place = first + k as u32;
                place & !3 | (place + lane / 8) & 3
            };
            let loaded: [f32; N] = core::array::from_fn(|k| load(column(k), component));
            for k in 0..N {
                // SAFETY: the caller's.
                unsafe { to.set(component * stride + column(k), loaded[k]) };
            }
            done += N as u32;
        }
        component += 32;
    }
}

kernel! {
    /// Assigns the points of a block to centroids. Grid: (problems, num_blocks). Dynamic shared memory:
    /// [`layout::words`].
    ///
    /// `centroids` `[problems, 2^bits, sub_dim]`, `half_norms` `[problems, 2^bits]`, and if the shape is augmented
    /// `phis` `[problems]` and `components` `[problems, 2^bits]`.
    ///
    /// With `encodes` 1 it writes `codes` `[groups, code_capacity, m]` from key `first_code` on, and nothing else.
    /// With 0 it writes what each block found, numbered from the grid's first problem: `sums`
    /// `[problems, num_blocks, 2^bits, point_dim]`, `counts` `[problems, num_blocks, 2^bits]`, `farthest`
    /// `[problems, num_blocks, 128]`: of every 128th point the one farthest from its centroid, as the rank of
    /// (squared distance, point), or 0; problems whose `is_done` is 1 are left out. With `sums_are_shared` 0 a block's sums
    /// are kept in `sums` from the beginning.
    pub fn kmeans_assign as KMeansAssign(
        keys: In<u8>, centroids: In<f32>, half_norms: In<f32>, phis: In<f32>, components: In<f32>,
        is_done: In<u32>, sums: Out<f64>, counts: Out<u32>, farthest: Out<u64>, codes: Out<u8>,
        encodes: u32, sums_are_shared: u32, first_code: u32, code_capacity: u32, shape: KMeansShape,
    );
    threads = 256; barriers = 3 * 10 * crate::collectives::SYNC_THREADS;
    shuffles = 3 * 8 * crate::collectives::WARP;
    min_blocks = 2; cluster = 0; cluster_barriers = 0;
    {
        use super::{BF16, F16, F32};

        macro_rules! assign {
            ($dtype:expr) => {
                // SAFETY: the launch's promises are the kernel's; all threads of the grid take the same arm.
                unsafe {
                    assign::<{ $dtype }>(
                        keys, centroids, half_norms, phis, components, is_done, sums, counts, farthest,
                        codes, encodes, sums_are_shared, first_code, code_capacity, &shape,
                    )
                }
            };
        }
        // A kernel for each type: loads of three at once would take all registers.
        match shape.dtype {
            F32 => assign!(F32),
            F16 => assign!(F16),
            _ => assign!(BF16),
        }
    }
}

/// The kernel for keys of one type.
///
/// # Safety
/// Every thread of the block is here; the buffers are as the kernel's documentation says.
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn assign<const DTYPE: u32>(
    keys: In<u8>,
    centroids: In<f32>,
    half_norms: In<f32>,
    phis: In<f32>,
    components: In<f32>,
    is_done: In<u32>,
    sums: Out<f64>,
    counts: Out<u32>,
    farthest: Out<u64>,
    codes: Out<u8>,
    encodes: u32,
    sums_are_shared: u32,
    first_code: u32,
    code_capacity: u32,
    shape: &KMeansShape,
) {
    use super::{TILE, component_of};
    use crate::codebook::{Nearest, accumulate, augmented_component};
    use crate::device::shared::dynamic_shared_mem;
    use crate::device::thread::{self, sync_threads};
    use crate::device::warp;
    use crate::float::fma;
    use crate::order::{rank, score_of_key};

    let t = thread::thread_idx_x();
    let local_problem = thread::block_idx_x();
    let problem = shape.first_problem + local_problem;
    let block = thread::block_idx_y();
    let (sub_dim, point_dim) = (shape.sub_dim, shape.point_dim());
    let num_centroids = shape.num_centroids();
    // SAFETY: shared memory is as `layout` says, written before it is read with a barrier between; all
    // conditions around barriers are the same in the whole block. Points lie inside the keys, arrays have a
    // part for every problem and block, and each element one thread that writes it.
    unsafe {
        let sums_wanted = encodes == 0;
        if sums_wanted && is_done.get(problem as usize) != 0 {
            return;
        }
        let points = dynamic_shared_mem::<f32>(layout::POINTS);
        let slice = dynamic_shared_mem::<f32>(layout::CENTROIDS);
        let minus_half_norms = dynamic_shared_mem::<f32>(layout::MINUS_HALF_NORMS);
        let augmenting = dynamic_shared_mem::<f32>(layout::COMPONENTS);
        let augmented = dynamic_shared_mem::<f32>(layout::AUGMENTED);
        let found = dynamic_shared_mem::<u32>(layout::NEAREST);
        let tile_codes = dynamic_shared_mem::<u32>(layout::CODES);
        let shared_sums = dynamic_shared_mem::<u32>(layout::SUMS);
        let is_shared = sums_are_shared != 0;
        let sums_words = if is_shared { 2 * shape.sums_len() } else { 0 };
        let shared_counts = dynamic_shared_mem::<u32>(layout::SUMS + sums_words);
        let part = (local_problem * shape.num_blocks + block) as usize;
        // What follows is found anew where it is used: kept, it would take registers from the affinities.
        let global_sums = || {
            let part = thread::opaque(part as u32) as usize;
            sums.from(part * shape.sums_len() as usize)
        };
        let first_centroid = (problem << shape.bits) as usize;

        if sums_wanted {
            let mut i = t;
            while i < shape.sums_len() {
                if is_shared {
                    shared_sums.set_f64(i, 0.0);
                } else {
                    global_sums().set(i as usize, 0.0);
                }
                i += 256;
            }
            if t < num_centroids {
                shared_counts.set(t, 0);
            }
        }
        let (mut half_norm, mut c) = (f32::INFINITY, 0.0);
        if t < num_centroids {
            half_norm = half_norms.get(first_centroid + t as usize);
            if shape.is_augmented != 0 {
                c = components.get(first_centroid + t as usize);
            }
        }
        minus_half_norms.set(t, -half_norm);
        augmenting.set(t, c);

        // Four points and twice four centroids of a thread; a warp has 32 points and 32 centroids.
        let (lane, warp) = (t % 32, t / 32);
        let points_at = 4 * (t % 8 + 8 * (warp % 4));
        let share = t / 8 % 4 + 4 * (warp / 4);
        let centroids_at = 4 * share;
        let mut farthest_rank = 0;

        macro_rules! stage_points {
            ($at_once:literal, $tile:expr, $first:expr, $len:expr) => {
                stage::<$at_once>(points, POINT_STRIDE, [16 * warp, 16], $len, |point, i| {
                    let (element, num_points) = $tile;
                    // What lies behind the last point has no code.
                    let point = u64::from(point.min(num_points - 1));
                    let at = element + point * shape.token_stride;
                    component_of::<DTYPE>(keys, at + u64::from($first + i))
                })
            };
        }
        macro_rules! stage_centroids {
            ($at_once:literal, $rows:expr, $chunk:expr, $first:expr, $len:expr) => {
                stage::<$at_once>(
                    dynamic_shared_mem(layout::CENTROIDS + $rows * CENTROID_STRIDE),
                    CENTROID_STRIDE,
                    [8 * warp, 8],
                    $len,
                    |column, i| {
                        // Behind the last one nothing is compared.
                        let centroid = ($chunk + column).min(num_centroids - 1) as usize;
                        let at = (first_centroid + centroid) * sub_dim as usize;
                        centroids.get(at + ($first + i) as usize)
                    },
                )
            };
        }
        let points_stay = sub_dim <= SLICE;
        let centroids_stay = num_centroids.div_ceil(CHUNK) * sub_dim <= SLICE;
        if centroids_stay {
            let mut chunk = 0;
            while chunk < num_centroids {
                stage_centroids!(8, chunk / CHUNK * sub_dim, chunk, 0, sub_dim);
                chunk += CHUNK;
            }
        }

        sync_threads();

        let mut tile = shape.first_tile(block);
        let end_tile = shape.first_tile(block + 1);
        while tile < end_tile {
            let first_point = tile * TILE;
            let num_points = TILE.min(shape.num_points - first_point);
            let tile_element = shape.first_element(thread::opaque(problem))
                + u64::from(first_point) * shape.token_stride;
            if points_stay {
                sync_threads();
                stage_points!(16, (tile_element, num_points), 0, sub_dim);
                sync_threads();
            }
            let mut norm = 0.0;
            // The first of the largest affinities of this thread. A maximum passes NaN over, and is NaN only
            // where all are; then the first centroid is the nearest.
            let mut largest = [f32::NAN; 4];
            let mut indices = [centroids_at; 4];

            let mut chunk = 0;
            while chunk < num_centroids {
                let low = minus_half_norms.get4(chunk + centroids_at);
                let high = minus_half_norms.get4(chunk + 32 + centroids_at);
                let minus_half_norm = [
                    low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3],
                ];
                let mut sums = [minus_half_norm; 4];
                let mut first = 0;
                while first < sub_dim {
                    let len = SLICE.min(sub_dim - first);
                    if !points_stay || !centroids_stay {
                        sync_threads();
                        if !points_stay {
                            stage_points!(2, (tile_element, num_points), first, len);
                        }
                        if !centroids_stay {
                            stage_centroids!(2, 0, chunk, first, len);
                        }
                        sync_threads();
                    }
                    if chunk == 0 && t < TILE {
                        // As `squared_norm`.
                        let mut i = 0;
                        while i < len {
                            let x = points.get(i * POINT_STRIDE + t);
                            norm = fma(x, x, norm);
                            i += 1;
                        }
                    }
                    let row = if centroids_stay {
                        chunk / CHUNK * sub_dim
                    } else {
                        0
                    };
                    let mut x_at = points_at;
                    let mut c_at = row * CENTROID_STRIDE + centroids_at;
                    let mut take = |n: usize| {
                        for i in 0..n as u32 {
                            let x = points.get4(x_at + i * POINT_STRIDE);
                            let c = slice.get4(c_at + i * CENTROID_STRIDE);
                            let d = slice.get4(c_at + i * CENTROID_STRIDE + 32);
                            let c = [c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]];
                            for p in 0..4 {
                                accumulate(&mut sums[p], 1, |_| x[p], |_, q| c[q]);
                            }
                        }
                        x_at += n as u32 * POINT_STRIDE;
                        c_at += n as u32 * CENTROID_STRIDE;
                    };
                    let mut i = 0;
                    while i + 4 <= len {
                        take(4);
                        i += 4;
                    }
                    while i < len {
                        take(1);
                        i += 1;
                    }
                    first += SLICE;
                }
                if shape.is_augmented != 0 {
                    if chunk == 0 && t < TILE {
                        let x = augmented_component(phis.get(problem as usize), norm);
                        augmented.set(t, x);
                        norm = fma(x, x, norm);
                    }
                    sync_threads();
                    let x = augmented.get4(points_at);
                    let low = augmenting.get4(chunk + centroids_at);
                    let high = augmenting.get4(chunk + 32 + centroids_at);
                    let c = [
                        low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3],
                    ];
                    for p in 0..4 {
                        accumulate(&mut sums[p], 1, |_| x[p], |_, q| c[q]);
                    }
                }

                for p in 0..4 {
                    for q in 0..8 {
                        let larger = largest[p].max(sums[p][q]);
                        if larger != largest[p] {
                            indices[p] =
                                chunk + centroids_at + (q as u32 % 4) + 32 * (q as u32 / 4);
                        }
                        largest[p] = larger;
                    }
                }
                chunk += CHUNK;
            }
            let found_at = thread::opaque(share) * TILE + points_at;
            for p in 0..4 {
                // What lies behind the last centroid is nearest only where all others are NaN.
                let nearest = if !largest[p].is_nan() && indices[p] < num_centroids {
                    Nearest::new(largest[p], indices[p])
                } else if centroids_at < num_centroids {
                    Nearest::new(f32::NAN, centroids_at)
                } else {
                    Nearest::NONE
                };
                found.set_u64(found_at + p as u32, nearest.to_bits());
            }
            sync_threads();

            let t = thread::opaque(t);
            if t < TILE {
                let mut nearest = Nearest::NONE;
                for share in 0..SHARES {
                    nearest = nearest.better(Nearest::from_bits(found.get_u64(share * TILE + t)));
                }
                let code = if t < num_points {
                    nearest.index()
                } else {
                    u32::MAX
                };
                tile_codes.set(t, code);
                let point = first_point + t;
                if t < num_points && sums_wanted {
                    shared_counts.atomic_add(code, 1);
                    let affinity = score_of_key((nearest.to_bits() >> 32) as u32);
                    let distance = 2.0 * (0.5 * norm - affinity);
                    if distance > 0.0 {
                        let rank = rank(distance, point);
                        if rank > farthest_rank {
                            farthest_rank = rank;
                        }
                    }
                } else if t < num_points {
                    let (group, subvector) = (
                        problem / shape.num_subvectors,
                        problem % shape.num_subvectors,
                    );
                    let key =
                        group as usize * code_capacity as usize + (first_code + point) as usize;
                    let at = key * shape.num_subvectors as usize + subvector as usize;
                    codes.set(at, code as u8);
                }
            }

            if sums_wanted {
                sync_threads();
                // A warp adds up the points of every eighth centroid in their order. Where a point is short, half of
                // the warp does so for every sixteenth.
                let are_in_shared = points_stay && is_shared;
                let groups = if are_in_shared && point_dim <= 16 {
                    2
                } else {
                    1
                };
                let lane = thread::opaque(lane);
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
                    let mut k = 0;
                    while k < lens[0] {
                        let entry = lists.get(k);
                        let (code, point) = (entry >> 8, entry & 0xff);
                        let mut i = lane;
                        while i < point_dim {
                            let x = if i == sub_dim {
                                augmented.get(point)
                            } else {
                                let at = tile_element
                                    + u64::from(point) * shape.token_stride
                                    + u64::from(i);
                                component_of::<DTYPE>(keys, at)
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
            tile += 1;
        }

        if sums_wanted {
            sync_threads();
            let mut i = t;
            while is_shared && i < shape.sums_len() {
                global_sums().set(i as usize, shared_sums.get_f64(i));
                i += 256;
            }
            if t < num_centroids {
                counts.set(
                    part * num_centroids as usize + t as usize,
                    shared_counts.get(t),
                );
            }
            if t < TILE {
                farthest.set(part * TILE as usize + t as usize, farthest_rank);
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
#[cfg(target_arch = "nvptx64")]
#[inline(always)]
unsafe fn add_points<const W: usize>(
    shape: &KMeansShape,
    list: crate::device::shared::SharedArray<u32>,
    len: u32,
    i: u32,
) {
    use crate::device::shared::dynamic_shared_mem;

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
