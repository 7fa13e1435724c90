//! Tables: one query's inner products with every centroid of its group.

use gpu_kernels::lut::LANES;

use super::centroid_lanes::CentroidLanes;
use super::simd::{FLOATS, FloatLanes, Isa, on_each_isa};

on_each_isa! {
    /// Writes `table` `[m, 2^bits]` for `query` `[head_dim]` and the centroids of each of the m
    /// sub-vectors.
    pub(crate) fn lut(lanes: &[CentroidLanes], query: &[f32], table: &mut [f32]) = lut_on;
}

/// `gpu_kernels::lut::table_entry` of [`FLOATS`] centroids at a time: its eight partial sums one after
/// the other, each added where the tree wants it.
#[inline(always)]
fn lut_on<I: Isa>(isa: I, lanes: &[CentroidLanes], query: &[f32], table: &mut [f32]) {
    let mut entries = table;
    let mut queries = query;
    for lanes in lanes {
        let (query, behind) = queries.split_at(lanes.sub_dim());
        queries = behind;
        let (table, behind) = entries.split_at_mut(lanes.num_centroids());
        entries = behind;
        for (table, components) in table.chunks_mut(FLOATS).zip(lanes.blocks()) {
            let four = isa.add(
                two_partial_sums(isa, query, components, 0),
                two_partial_sums(isa, query, components, 2),
            );
            let other_four = isa.add(
                two_partial_sums(isa, query, components, 4),
                two_partial_sums(isa, query, components, 6),
            );
            let sums = isa.add(four, other_four);
            let mut values = [0.0; FLOATS];
            isa.store(sums, &mut values);
            table.copy_from_slice(&values[..table.len()]);
        }
    }
}

/// Partial sums `first` and `first + 1`, added.
#[inline(always)]
fn two_partial_sums<I: Isa>(
    isa: I,
    query: &[f32],
    components: &[FloatLanes],
    first: usize,
) -> I::Floats {
    let components = &components[..query.len()];
    let mut sums = [isa.splat(0.0); 2];
    let mut i = first;
    while i + 1 < query.len() {
        sums[0] = isa.fma(isa.splat(query[i]), isa.load(&components[i].0), sums[0]);
        let (x, c) = (query[i + 1], &components[i + 1].0);
        sums[1] = isa.fma(isa.splat(x), isa.load(c), sums[1]);
        i += LANES;
    }
    if i < query.len() {
        sums[0] = isa.fma(isa.splat(query[i]), isa.load(&components[i].0), sums[0]);
    }
    isa.add(sums[0], sums[1])
}
