//! What is asked of the keys before training, and the first centroids.

use super::KMeansShape;
use crate::kernel::{In, Out};

kernel! {
    /// Raises `phis` `[problems]`, 0 before, to the bits of the largest squared norm among a problem's points if
    /// the shape is augmented, and lowers `not_finite` `[problems]`, [`super::ALL_FINITE`] before, to
    /// `point * sub_dim + component` of the first component that is not finite.
    ///
    /// Grid: (problems, blocks).
    pub fn kmeans_survey as KMeansSurvey(
        keys: In<u8>, phis: Out<u32>, not_finite: Out<u32>, shape: KMeansShape,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use super::component;
        use crate::codebook::phi;
        use crate::device::thread;
        use crate::float::fma;

        let problem = shape.first_problem + thread::block_idx_x();
        let first = shape.first_element(problem);
        let stride = thread::grid_dim_y() * thread::block_dim_x();
        let start = thread::block_idx_y() * thread::block_dim_x() + thread::thread_idx_x();
        let mut bad = u32::MAX;
        // SAFETY: points and components lie inside the keys; each problem has its words.
        unsafe {
            if shape.is_augmented != 0 {
                let mut largest = 0.0f32;
                let mut point = start;
                while point < shape.num_points {
                    let row = first + u64::from(point) * shape.token_stride;
                    let mut norm = 0.0;
                    let mut i = 0;
                    // As `squared_norm`.
                    while i < shape.sub_dim {
                        let x = component(keys, shape.dtype, row + u64::from(i));
                        norm = fma(x, x, norm);
                        if !x.is_finite() {
                            bad = bad.min(point * shape.sub_dim + i);
                        }
                        i += 1;
                    }
                    largest = largest.max(norm);
                    point += stride;
                }
                // Numbers that are not negative are in the order of their bits.
                phis.atomic_max(problem as usize, phi(largest).to_bits());
            } else {
                // Neighbouring threads take neighbouring components.
                let len = u64::from(shape.num_points) * u64::from(shape.sub_dim);
                let mut at = u64::from(start);
                while at < len {
                    let point = at as u32 / shape.sub_dim;
                    let i = at as u32 % shape.sub_dim;
                    let row = first + u64::from(point) * shape.token_stride;
                    if !component(keys, shape.dtype, row + u64::from(i)).is_finite() {
                        bad = bad.min(at as u32);
                    }
                    at += u64::from(stride);
                }
            }
            if bad != u32::MAX {
                not_finite.atomic_min(problem as usize, bad);
            }
        }
    }
}

kernel! {
    /// Sets the problem's centroids to the points `samples` `[problems, 2^bits]`: `centroids`
    /// `[problems, 2^bits, sub_dim]`, `half_norms` and, if the shape is augmented, `components`
    /// `[problems, 2^bits]`.
    ///
    /// Grid: (problems, 1).
    pub fn kmeans_start as KMeansStart(
        keys: In<u8>, samples: In<u32>, phis: In<f32>, centroids: Out<f32>, components: Out<f32>,
        half_norms: Out<f32>, shape: KMeansShape,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use super::component;
        use crate::codebook::augmented_component;
        use crate::device::thread;
        use crate::float::fma;

        let problem = shape.first_problem + thread::block_idx_x();
        let first = shape.first_element(problem);
        let mut code = thread::thread_idx_x();
        while code < shape.num_centroids() {
            let at = (problem << shape.bits) as usize + code as usize;
            // SAFETY: each thread has centroids of its own; samples are points.
            unsafe {
                let row = first + u64::from(samples.get(at)) * shape.token_stride;
                let mut norm = 0.0;
                let mut i = 0;
                while i < shape.sub_dim {
                    let x = component(keys, shape.dtype, row + u64::from(i));
                    centroids.set(at * shape.sub_dim as usize + i as usize, x);
                    norm = fma(x, x, norm);
                    i += 1;
                }
                if shape.is_augmented != 0 {
                    let x = augmented_component(phis.get(problem as usize), norm);
                    components.set(at, x);
                    norm = fma(x, x, norm);
                }
                half_norms.set(at, 0.5 * norm);
            }
            code += thread::block_dim_x();
        }
    }
}
