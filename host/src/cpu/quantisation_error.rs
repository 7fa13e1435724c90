//! How far keys are from the centroids of their codes.

use gpu_kernels::float::fma;
use gpu_kernels::quantisation_error::squared_distance;

use super::simd::{Isa, on_each_isa};

on_each_isa! {
    /// The squared distance of each sub-vector from its code's centroid, of `points` `[n, sub_dim]` of which
    /// consecutive ones start `stride` elements apart, and `centroids` `[num_centroids, sub_dim]`; `codes[i * code_stride]`
    /// is point i's.
    pub(crate) fn squared_distances(
        points: &[f32],
        stride: usize,
        centroids: &[f32],
        sub_dim: usize,
        codes: &[u8],
        code_stride: usize,
        distances: &mut [f32],
    ) = squared_distances_on;
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn squared_distances_on<I: Isa>(
    _isa: I,
    points: &[f32],
    stride: usize,
    centroids: &[f32],
    sub_dim: usize,
    codes: &[u8],
    code_stride: usize,
    distances: &mut [f32],
) {
    /// Points whose sums, each a chain, are taken side by side.
    const POINTS: usize = 8;
    let point = |i: usize| &points[i * stride..][..sub_dim];
    let centroid =
        |i: usize| &centroids[usize::from(codes[i * code_stride]) * sub_dim..][..sub_dim];
    let (eights, rest) = distances.as_chunks_mut::<POINTS>();
    for (block, distances) in eights.iter_mut().enumerate() {
        let first = block * POINTS;
        let x: [&[f32]; POINTS] = std::array::from_fn(|k| point(first + k));
        let c: [&[f32]; POINTS] = std::array::from_fn(|k| centroid(first + k));
        *distances = [0.0; POINTS];
        for i in 0..sub_dim {
            for k in 0..POINTS {
                // As `squared_distance`.
                let difference = x[k][i] - c[k][i];
                distances[k] = fma(difference, difference, distances[k]);
            }
        }
    }
    let first = eights.len() * POINTS;
    for (i, distance) in rest.iter_mut().enumerate() {
        let (x, c) = (point(first + i), centroid(first + i));
        *distance = squared_distance(sub_dim, |i| x[i], |i| c[i]);
    }
}
