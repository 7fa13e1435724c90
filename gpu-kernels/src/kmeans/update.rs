//! Centroids from the sums of their points.

use super::KMeansShape;
use crate::kernel::{In, Out};

/// Threads of a block.
const THREADS: u32 = 1024;
/// Words of a block's shared memory: counts, their reciprocals, then twice 64 bits for each thread.
pub const UPDATE_WORDS: u32 = 256 + 2 * 256 + 4 * THREADS;

kernel! {
    /// Moves every centroid to the mean of its points and beyond it by `beyond` times its way, see
    /// [`beyond_mean`](crate::codebook::beyond_mean), and every centroid without points to one of those farthest from
    /// their own, each to another; then the half norms. With `may_stop` 1 `is_done` becomes 1 where the squared shifts of all
    /// components, added up, are at most `tolerance` times the squared norms.
    ///
    /// Grid: (problems, 1). Dynamic shared memory: [`UPDATE_WORDS`]. Arrays as `kmeans_assign` has them.
    pub fn kmeans_update as KMeansUpdate(
        keys: In<u8>, order: In<u32>, phis: In<f32>, sums: In<f64>, counts: In<u32>,
        farthest: Out<u64>, centroids: Out<f32>, components: Out<f32>, half_norms: Out<f32>,
        is_done: Out<u32>, beyond: f32, may_stop: u32, tolerance: f32, shape: KMeansShape,
    );
    threads = THREADS; barriers = 7 * crate::collectives::SYNC_THREADS; shuffles = 0;
    min_blocks = 1; cluster = 0; cluster_barriers = 0;
    {
        /// Loads of a thread that are under way at once.
        const LOADS: usize = 4;

        use super::{ORDER_BLOCK, TILE, component};
        use crate::codebook::{augmented_component, beyond_mean};
        use crate::device::shared::dynamic_shared_mem;
        use crate::device::thread::{self, sync_threads};
        use crate::float::fma;
        use crate::order::rank_position;

        let t = thread::thread_idx_x();
        let local_problem = thread::block_idx_x();
        let problem = shape.first_problem + local_problem;
        let (sub_dim, point_dim) = (shape.sub_dim, shape.point_dim());
        let num_centroids = shape.num_centroids();
        let first_centroid = (problem << shape.bits) as usize;
        // SAFETY: as in `kmeans_assign`; the block alone has this problem.
        unsafe {
            if is_done.get(problem as usize) != 0 {
                return;
            }
            let totals = dynamic_shared_mem::<u32>(0);
            let reciprocals = dynamic_shared_mem::<u32>(256);
            let words = dynamic_shared_mem::<u32>(256 + 2 * 256);
            let part = local_problem as usize * shape.num_blocks as usize;
            let centroid_at = |code: u32| (first_centroid + code as usize) * sub_dim as usize;
            if t < num_centroids {
                let mut total = 0;
                let mut block = 0;
                while block < shape.num_blocks {
                    total += counts.get((part + block as usize) * num_centroids as usize + t as usize);
                    block += 1;
                }
                totals.set(t, total);
                // One division for all of a centroid's components: f64 has bits to spare.
                reciprocals.set_f64(t, 1.0 / f64::from(total));
            }
            sync_threads();

            let (mut shift, mut norm) = (0.0f64, 0.0f64);
            let mut at = t;
            while at < shape.sums_len() {
                let (code, i) = (at / point_dim, at % point_dim);
                let place = if i < sub_dim {
                    centroids.from(centroid_at(code) + i as usize)
                } else {
                    components.from(first_centroid + code as usize)
                };
                let before = place.get(0);
                let mut after = before;
                let total = totals.get(code);
                if total > 0 {
                    let mut sum = 0.0f64;
                    let mut block = 0;
                    while block < shape.num_blocks {
                        let of_blocks: [f64; LOADS] = core::array::from_fn(|k| {
                            let block = (block + k as u32).min(shape.num_blocks - 1);
                            let of_block = (part + block as usize) * shape.sums_len() as usize;
                            sums.get(of_block + at as usize)
                        });
                        for k in 0..LOADS {
                            if block + (k as u32) < shape.num_blocks {
                                sum += of_blocks[k];
                            }
                        }
                        block += LOADS as u32;
                    }
                    let mean = (sum * reciprocals.get_f64(code)) as f32;
                    after = beyond_mean(mean, before, beyond);
                    place.set(0, after);
                }
                let by = f64::from(after) - f64::from(before);
                shift += by * by;
                norm += f64::from(after) * f64::from(after);
                at += THREADS;
            }
            // In the same order whatever the schedule: a warp's worth of threads each add up every 32nd, then one all.
            let (shifts, norms) = (words, dynamic_shared_mem::<u32>(256 + 2 * 256 + 2 * THREADS));
            shifts.set_f64(t, shift);
            norms.set_f64(t, norm);
            sync_threads();
            let mut num = THREADS / 32;
            let mut step = 32;
            let mut goes_on = false;
            while num > thread::opaque(0) {
                // First 32 threads with 32 words each, then one with the 32 sums.
                let (mut shift, mut norm) = (0.0f64, 0.0f64);
                if t < step {
                    let mut i = 0;
                    while i < num {
                        shift += shifts.get_f64(t + i * step);
                        norm += norms.get_f64(t + i * step);
                        i += 1;
                    }
                }
                sync_threads();
                if t < step {
                    shifts.set_f64(t, shift);
                    norms.set_f64(t, norm);
                    goes_on = shift > f64::from(tolerance) * norm;
                }
                sync_threads();
                (num, step) = if step == 32 { (32, 1) } else { (0, 1) };
            }

            let num_candidates = (shape.num_blocks * TILE) as usize;
            let candidates = farthest.from(part * TILE as usize);
            let mut code = 0;
            while code < num_centroids {
                if totals.get(code) == 0 {
                    let (mut best, mut best_at) = (0, 0);
                    let mut i = t as usize;
                    while i < num_candidates {
                        let rank = candidates.get(i);
                        if rank > best {
                            (best, best_at) = (rank, i);
                        }
                        i += THREADS as usize;
                    }
                    words.set_u64(t, best);
                    sync_threads();
                    let mut chosen = 0;
                    let mut other = 0;
                    while other < THREADS {
                        chosen = words.get_u64(other).max(chosen);
                        other += 1;
                    }
                    if chosen != 0 {
                        // Ranks differ, as points do.
                        if chosen == best {
                            candidates.set(best_at, 0);
                        }
                        let position = rank_position(chosen);
                        let block = order.get((position / ORDER_BLOCK) as usize);
                        let point = block * ORDER_BLOCK + position % ORDER_BLOCK;
                        let row = shape.first_element(problem)
                            + u64::from(point) * shape.token_stride;
                        if t < sub_dim {
                            let x = component(keys, shape.dtype, row + u64::from(t));
                            centroids.set(centroid_at(code) + t as usize, x);
                        }
                        if t == 0 && shape.is_augmented != 0 {
                            let mut norm = 0.0;
                            let mut i = 0;
                            while i < sub_dim {
                                let x = component(keys, shape.dtype, row + u64::from(i));
                                norm = fma(x, x, norm);
                                i += 1;
                            }
                            let x = augmented_component(phis.get(problem as usize), norm);
                            components.set(first_centroid + code as usize, x);
                        }
                        goes_on = true;
                    }
                    sync_threads();
                }
                code += 1;
            }

            sync_threads();
            if t < num_centroids {
                // As `half_norm`.
                let mut norm = 0.0;
                let mut i = 0;
                while i < sub_dim {
                    let at = centroid_at(t);
                    let cs: [f32; LOADS] = core::array::from_fn(|k| {
                        centroids.get(at + (i + k as u32).min(sub_dim - 1) as usize)
                    });
                    for k in 0..LOADS {
                        if i + (k as u32) < sub_dim {
                            norm = fma(cs[k], cs[k], norm);
                        }
                    }
                    i += LOADS as u32;
                }
                if shape.is_augmented != 0 {
                    let c = components.get(first_centroid + t as usize);
                    norm = fma(c, c, norm);
                }
                half_norms.set(first_centroid + t as usize, 0.5 * norm);
            }
            if t == 0 {
                is_done.set(problem as usize, u32::from(may_stop != 0 && !goes_on));
            }
        }
    }
}
