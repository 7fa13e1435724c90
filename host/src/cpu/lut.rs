//! Tables: one query's inner products with every centroid of its group.

use gpu_kernels::lut::table_entry;
use gpu_kernels::step::StepShape;
use multiversion::multiversion;

/// Writes `table` `[m, 2^bits]` for `query` `[head_dim]` and `centroids` `[m, 2^bits, sub_dim]`.
#[multiversion(targets("x86_64+avx2+fma"))]
pub(crate) fn lut(shape: &StepShape, centroids: &[f32], query: &[f32], table: &mut [f32]) {
    let sub_dim = shape.sub_dim() as usize;
    for (index, (entry, centroid)) in table
        .iter_mut()
        .zip(centroids.chunks_exact(sub_dim))
        .enumerate()
    {
        let subvector = index >> shape.bits;
        let query = &query[subvector * sub_dim..(subvector + 1) * sub_dim];
        *entry = table_entry(sub_dim, |i| query[i], |i| centroid[i]);
    }
}
