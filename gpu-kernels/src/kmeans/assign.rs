//! Each point's nearest centroid, and the sums of every centroid's points.
//!
//! A block takes a tile of 128 points and 64 centroids at a time, a slice of 32 components of both in shared memory;
//! a thread has the affinities of 4 points and 8 centroids in registers, each one chain of fused multiply-adds in the
//! order of the components, as [`crate::codebook::affinities`] has it.

use super::KMeansShape;
use crate::kernel::{In, Out};

/// Centroids that are compared at a time.
const CHUNK: u32 = 64;
/// Components in shared memory at a time.
const SLICE: u32 = 32;
/// Words from one component of the tile's points to the next; a multiple of 4 that is none of 8.
const POINT_STRIDE: u32 = super::TILE + 4;
/// Words from one component of the chunk's centroids to the next.
const CENTROID_STRIDE: u32 = CHUNK + 4;
/// Threads that share a point.
const SHARES: u32 = 8;

/// Where things lie in a block's shared memory, in words.
pub mod layout {
    use super::{CENTROID_STRIDE, KMeansShape, POINT_STRIDE, SHARES, SLICE};
    use crate::kmeans::TILE;

    /// A slice of the points, `[component, point]`.
    pub const POINTS: u32 = 0;
    /// A slice of the centroids, `[component, centroid]`.
    pub const CENTROIDS: u32 = POINTS + SLICE * POINT_STRIDE;
    /// The component that augments each point.
    pub const AUGMENTED: u32 = CENTROIDS + SLICE * CENTROID_STRIDE;
    /// The largest affinity that each share of a point found, then its centroid.
    pub const BEST: u32 = AUGMENTED + TILE;
    /// The points' codes.
    pub const CODES: u32 = BEST + 2 * SHARES * TILE;
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
    threads = 256; barriers = 6 * crate::collectives::SYNC_THREADS; shuffles = 0;
    min_blocks = 3; cluster = 0; cluster_barriers = 0;
    {
        use super::{TILE, component};
        use crate::codebook::{Nearest, accumulate, augmented_component};
        use crate::device::shared::dynamic_shared_mem;
        use crate::device::thread::{self, sync_threads};
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
            let augmented = dynamic_shared_mem::<f32>(layout::AUGMENTED);
            let best = dynamic_shared_mem::<f32>(layout::BEST);
            let best_index = dynamic_shared_mem::<u32>(layout::BEST + SHARES * TILE);
            let tile_codes = dynamic_shared_mem::<u32>(layout::CODES);
            let shared_sums = dynamic_shared_mem::<u32>(layout::SUMS);
            let is_shared = sums_are_shared != 0;
            let sums_words = if is_shared { 2 * shape.sums_len() } else { 0 };
            let shared_counts = dynamic_shared_mem::<u32>(layout::SUMS + sums_words);
            let part = (local_problem * shape.num_blocks + block) as usize;
            let global_sums = sums.from(part * shape.sums_len() as usize);

            if sums_wanted {
                let mut i = t;
                while i < shape.sums_len() {
                    if is_shared {
                        shared_sums.set_f64(i, 0.0);
                    } else {
                        global_sums.set(i as usize, 0.0);
                    }
                    i += 256;
                }
                if t < num_centroids {
                    shared_counts.set(t, 0);
                }
            }

            // Four points and twice four centroids of a thread; a warp has 32 points and 32 centroids.
            let warp = t / 32;
            let points_at = 4 * (t % 8 + 8 * (warp % 4));
            let share = t / 8 % 4 + 4 * (warp / 4);
            let centroids_at = 4 * share;
            let first_centroid = (problem << shape.bits) as usize;
            let first_element = shape.first_element(problem);
            let mut farthest_rank = 0;

            let mut tile = shape.first_tile(block);
            let end_tile = shape.first_tile(block + 1);
            while tile < end_tile {
                let first_point = tile * TILE;
                let num_points = TILE.min(shape.num_points - first_point);
                let tile_element = first_element + u64::from(first_point) * shape.token_stride;
                let mut nearest = Nearest::NONE;
                let mut norm = 0.0;

                let mut chunk = 0;
                while chunk < num_centroids {
                    let mut sums = [[0.0f32; 8]; 4];
                    for q in 0..8 {
                        let index = chunk + centroids_at + (q as u32 % 4) + 32 * (q as u32 / 4);
                        let minus_half_norm = if index < num_centroids {
                            -half_norms.get(first_centroid + index as usize)
                        } else {
                            0.0
                        };
                        for p in 0..4 {
                            sums[p][q] = minus_half_norm;
                        }
                    }
                    let mut first = 0;
                    while first < sub_dim {
                        let len = SLICE.min(sub_dim - first);
                        let (lane, row) = (t % 32, t / 32);
                        sync_threads();
                        // The points' only slice stays where it is.
                        if chunk == 0 || sub_dim > SLICE {
                            let mut at = tile_element
                                + u64::from(row) * shape.token_stride
                                + u64::from(first + lane);
                            let mut point = row;
                            while point < thread::opaque(TILE) {
                                for i in 0..4 {
                                    let point = point + 8 * i;
                                    let x = if lane < len && point < num_points {
                                        component(keys, shape.dtype, at)
                                    } else {
                                        0.0
                                    };
                                    points.set(lane * POINT_STRIDE + point, x);
                                    at += 8 * shape.token_stride;
                                }
                                point += 32;
                            }
                        }
                        let mut index = row;
                        while index < thread::opaque(CHUNK) {
                            for i in 0..4 {
                                let index = index + 8 * i;
                                let c = if lane < len && chunk + index < num_centroids {
                                    let at = first_centroid + (chunk + index) as usize;
                                    centroids.get(at * sub_dim as usize + (first + lane) as usize)
                                } else {
                                    0.0
                                };
                                slice.set(lane * CENTROID_STRIDE + index, c);
                            }
                            index += 32;
                        }
                        sync_threads();
                        if chunk == 0 && t < TILE {
                            // As `squared_norm`.
                            let mut i = 0;
                            while i < len {
                                let x = points.get(i * POINT_STRIDE + t);
                                norm = fma(x, x, norm);
                                i += 1;
                            }
                        }
                        let mut i = 0;
                        while i < len {
                            let x = points.get4(i * POINT_STRIDE + points_at);
                            let c = slice.get4(i * CENTROID_STRIDE + centroids_at);
                            let d = slice.get4(i * CENTROID_STRIDE + 32 + centroids_at);
                            let c = [c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]];
                            for p in 0..4 {
                                accumulate(&mut sums[p], 1, |_| x[p], |_, q| c[q]);
                            }
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
                        for q in 0..8 {
                            let index = chunk + centroids_at + (q as u32 % 4) + 32 * (q as u32 / 4);
                            let c = if index < num_centroids {
                                components.get(first_centroid + index as usize)
                            } else {
                                0.0
                            };
                            for p in 0..4 {
                                sums[p][q] = fma(x[p], c, sums[p][q]);
                            }
                        }
                    }

                    // The first of the largest of this thread's centroids. A maximum passes NaN over, and is
                    // NaN only where all are; then the first is the nearest.
                    for p in 0..4 {
                        let first = chunk + centroids_at;
                        let (mut largest, mut index) = (f32::NAN, first);
                        for q in 0..8 {
                            let other = first + (q as u32 % 4) + 32 * (q as u32 / 4);
                            if other < num_centroids {
                                let larger = largest.max(sums[p][q]);
                                if larger != largest {
                                    index = other;
                                }
                                largest = larger;
                            }
                        }
                        if largest.is_nan() {
                            index = first;
                        }
                        best.set(share * TILE + points_at + p as u32, largest);
                        best_index.set(share * TILE + points_at + p as u32, index);
                    }
                    sync_threads();
                    if t < TILE {
                        let mut share = 0;
                        while share < SHARES {
                            let index = best_index.get(share * TILE + t);
                            if index < num_centroids {
                                let affinity = best.get(share * TILE + t);
                                nearest = nearest.better(Nearest::new(affinity, index));
                            }
                            share += 1;
                        }
                    }
                    chunk += CHUNK;
                }

                if t < TILE {
                    let code = if t < num_points { nearest.index() } else { u32::MAX };
                    tile_codes.set(t, code);
                    let point = first_point + t;
                    if t < num_points && sums_wanted {
                        let affinity = score_of_key((nearest.to_bits() >> 32) as u32);
                        let distance = 2.0 * (0.5 * norm - affinity);
                        if distance > 0.0 {
                            let rank = rank(distance, point);
                            if rank > farthest_rank {
                                farthest_rank = rank;
                            }
                        }
                    } else if t < num_points {
                        let (group, subvector) =
                            (problem / shape.num_subvectors, problem % shape.num_subvectors);
                        let key = group as usize * code_capacity as usize
                            + (first_code + point) as usize;
                        let at = key * shape.num_subvectors as usize + subvector as usize;
                        codes.set(at, code as u8);
                    }
                }

                if sums_wanted {
                    sync_threads();
                    // A warp adds up 32 components of the codes of one class: each sum has one lane, which
                    // takes the points in their order.
                    let columns = point_dim.div_ceil(32);
                    let side_by_side = columns.min(8);
                    let classes = 8 / side_by_side;
                    let class = warp / side_by_side;
                    let mut column = warp % side_by_side;
                    while class < classes && column < columns {
                        let i = column * 32 + t % 32;
                        let is_component = i < sub_dim;
                        let mut point = 0;
                        while point < num_points {
                            // Loads of several points are under way before the first is added.
                            let mut codes = [u32::MAX; 4];
                            let mut xs = [0.0f32; 4];
                            for k in 0..4 {
                                let p = point + k as u32;
                                codes[k] = tile_codes.get(p);
                                let is_mine = codes[k] != u32::MAX && codes[k] % classes == class;
                                if !is_mine {
                                    codes[k] = u32::MAX;
                                } else if is_component {
                                    let at = tile_element
                                        + u64::from(p) * shape.token_stride
                                        + u64::from(i);
                                    xs[k] = component(keys, shape.dtype, at);
                                } else if i < point_dim {
                                    xs[k] = augmented.get(p);
                                }
                            }
                            for k in 0..4 {
                                if codes[k] != u32::MAX {
                                    let at = codes[k] * point_dim + i;
                                    if i < point_dim {
                                        let x = f64::from(xs[k]);
                                        if is_shared {
                                            shared_sums.set_f64(at, shared_sums.get_f64(at) + x);
                                        } else {
                                            let at = at as usize;
                                            global_sums.set(at, global_sums.get(at) + x);
                                        }
                                    }
                                    if i == 0 {
                                        let count = shared_counts.get(codes[k]);
                                        shared_counts.set(codes[k], count + 1);
                                    }
                                }
                            }
                            point += 4;
                        }
                        column += side_by_side;
                    }
                }
                tile += 1;
            }

            if sums_wanted {
                sync_threads();
                let mut i = t;
                while is_shared && i < shape.sums_len() {
                    global_sums.set(i as usize, shared_sums.get_f64(i));
                    i += 256;
                }
                if t < num_centroids {
                    counts.set(part * num_centroids as usize + t as usize, shared_counts.get(t));
                }
                if t < TILE {
                    farthest.set(part * TILE as usize + t as usize, farthest_rank);
                }
            }
        }
    }
}
