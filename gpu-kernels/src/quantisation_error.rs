//! How far keys are from the centroids that their codes name: what tells when to train again.

use crate::float::fma;
use crate::kernel::{In, Out};
use crate::kmeans::KMeansShape;

/// Sums of a sub-vector's codebook: key `i` is added to sum `i % 256`, in ascending order.
pub const LANES: usize = 256;

/// The squared distance of a sub-vector from its centroid: fused multiply-adds in the order of the components,
/// from +0.0.
#[inline(always)]
pub fn squared_distance(sub_dim: usize, x: impl Fn(usize) -> f32, c: impl Fn(usize) -> f32) -> f32 {
    let mut sum = 0.0;
    for i in 0..sub_dim {
        let difference = x(i) - c(i);
        sum = fma(difference, difference, sum);
    }
    sum
}

/// The mean over `num_keys` keys of their squared distances, from the sums `[codebooks, LANES]`, added in their
/// order.
pub fn mean(sums: impl Iterator<Item = f64>, num_keys: usize) -> f64 {
    sums.fold(0.0, |sum, of_lane| sum + of_lane) / num_keys as f64
}

kernel! {
    /// Adds up the squared distances of each problem's points.
    ///
    /// Grid: problems. `centroids` `[problems, 2^bits, sub_dim]`, `codes` `[groups, code_capacity, m]`, of which
    /// those from key `first_code` on are the points', `sums` `[problems, LANES]`.
    pub fn quantisation_error as QuantisationError(
        keys: In<u8>, centroids: In<f32>, codes: In<u8>, sums: Out<f64>, first_code: u32,
        code_capacity: u32, shape: KMeansShape,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use crate::device::thread;
        use crate::kmeans::component;

        let problem = thread::block_idx_x();
        let m = shape.num_subvectors;
        let (group, subvector) = (problem / m, problem % m);
        let first = shape.first_element(problem);
        let mut sum = 0.0;
        let mut point = thread::thread_idx_x();
        while point < shape.num_points {
            let key = group as usize * code_capacity as usize + (first_code + point) as usize;
            let row = first + u64::from(point) * shape.token_stride;
            // SAFETY: points lie inside the keys, their codes and centroids inside theirs.
            unsafe {
                let code = codes.get(key * m as usize + subvector as usize);
                let centroid = (problem << shape.bits) as usize + usize::from(code);
                let at = centroid * shape.sub_dim as usize;
                sum += f64::from(squared_distance(
                    shape.sub_dim as usize,
                    |i| component(keys, shape.dtype, row + i as u64),
                    |i| centroids.get(at + i),
                ));
            }
            point += LANES as u32;
        }
        let lane = problem as usize * LANES + thread::thread_idx_x() as usize;
        // SAFETY: each thread has its own.
        unsafe { sums.set(lane, sum) };
    }
}
