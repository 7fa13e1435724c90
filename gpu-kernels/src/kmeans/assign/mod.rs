//! Each point's nearest centroid, and the sums of every centroid's points.
//!
//! A block takes a tile of 128 points and 64 centroids at a time, up to 64 components of both in shared memory;
//! a thread has the affinities of 4 points and 8 centroids in registers, each one chain of fused multiply-adds in the
//! order of the components, as [`crate::codebook::affinities`] has it. Points and centroids lie component by
//! component there, so that a thread reads four neighbours at once. Centroids of up to 64 rows of 64 stay for all tiles.
//!
//! Training takes points in an order of blocks of 16, so that samples are the first of it. A warp stages one such block of a
//! tile: it looks up where that lies, and keys are never copied.

pub mod layout;
#[cfg(target_arch = "nvptx64")]
mod stage;
#[cfg(target_arch = "nvptx64")]
mod sums;

use super::KMeansShape;
use crate::kernel::{In, Out};

kernel! {
    /// Assigns the points of a block to centroids. Grid: (problems, num_blocks). Dynamic shared memory:
    /// [`layout::words`].
    ///
    /// `centroids` `[problems, 2^bits, sub_dim]`, `half_norms` `[problems, 2^bits]`, and if the shape is augmented
    /// `phis` `[problems]` and `components` `[problems, 2^bits]`.
    ///
    /// Points are numbered by their positions in `order` `[ceil(all points / 16)]`: which block of 16 points comes where; all but
    /// the last have 16. `shape.num_points` may be fewer than all: the first ones.
    ///
    /// With `encodes` 1 it reads no `order`, takes points as they lie, and writes `codes` `[groups, code_capacity, m]` from key `first_code` on, and nothing else.
    /// With 0 it writes what each block found, numbered from the grid's first problem: `sums`
    /// `[problems, num_blocks, 2^bits, point_dim]`, `counts` `[problems, num_blocks, 2^bits]`, `farthest`
    /// `[problems, num_blocks, 128]`: of every 128th point the one farthest from its centroid, as the rank of
    /// (squared distance, position in the order), or 0; problems whose `is_done` is 1 are left out. With `sums_are_shared` 0 a block's sums
    /// are kept in `sums` from the beginning.
    pub fn kmeans_assign as KMeansAssign(
        keys: In<u8>, order: In<u32>, centroids: In<f32>, half_norms: In<f32>, phis: In<f32>,
        components: In<f32>, is_done: In<u32>, sums: Out<f64>, counts: Out<u32>, farthest: Out<u64>, codes: Out<u8>,
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
                        keys, order, centroids, half_norms, phis, components, is_done, sums, counts,
                        farthest, codes, encodes, sums_are_shared, first_code, code_capacity, &shape,
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
    order: In<u32>,
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
    use layout::{CENTROID_STRIDE, CHUNK, POINT_STRIDE, SHARES, SLICE};
    use stage::{BlockPlace, stage};

    use super::{ORDER_BLOCK, TILE, component_of};
    use crate::codebook::{Nearest, accumulate, augmented_component};
    use crate::device::shared::dynamic_shared_mem;
    use crate::device::thread::{self, sync_threads};
    use crate::float::fma;
    use crate::order::{rank, score_of_key};

    let t = thread::thread_idx_x();
    let local_problem = thread::block_idx_x();
    let problem = shape.first_problem + local_problem;
    let block = thread::block_idx_y();
    let sub_dim = shape.sub_dim;
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
        let warp = t / 32;
        let points_at = 4 * (t % 8 + 8 * (warp % 4));
        let share = t / 8 % 4 + 4 * (warp / 4);
        let centroids_at = 4 * share;
        let mut farthest_rank = 0;

        macro_rules! stage_points {
            ($at_once:literal, $tile:expr, $first:expr, $len:expr) => {
                let warp = thread::opaque(thread::thread_idx_x()) / 32;
                let first = shape.first_element(thread::opaque(problem));
                let place = BlockPlace::new(shape, order, sums_wanted, first, [$tile, warp]);
                let columns = [ORDER_BLOCK * warp, ORDER_BLOCK];
                stage::<$at_once>(points, POINT_STRIDE, columns, $len, |point, i| {
                    let at = place.element(shape, point % ORDER_BLOCK);
                    component_of::<DTYPE>(keys, at + u64::from($first + i))
                })
            };
        }
        macro_rules! stage_centroids {
            ($at_once:literal, $rows:expr, $chunk:expr, $first:expr, $len:expr) => {
                let warp = thread::opaque(thread::thread_idx_x()) / 32;
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
            if points_stay {
                sync_threads();
                stage_points!(16, tile, 0, sub_dim);
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
                            stage_points!(2, tile, first, len);
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
                let place = [problem, tile];
                sums::add_tile::<DTYPE>(
                    shape,
                    keys,
                    order,
                    place,
                    points_stay,
                    is_shared,
                    global_sums,
                );
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
