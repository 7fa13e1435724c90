//! Each stage alone, over slices.

use gpu_kernels::step::StepShape;
use rayon::prelude::*;

use super::centroid_lanes::CentroidLanes;
use super::simd::Simd;
use super::{aggregate, codes, index_list, lut, scores, top_k, weights};
use crate::error::Result;
use crate::index::Augmentation;
use crate::stages::Stages;

/// The CPU backend's stages.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuStages;

impl Stages for CpuStages {
    fn codes(
        &self,
        shape: &StepShape,
        centroids: &[f32],
        augmentation: Option<&Augmentation>,
        seq_lens: &[u32],
        new_keys: &[f32],
        codes: &[u8],
    ) -> Result<Vec<u8>> {
        let simd = Simd::chosen()?;
        let (m, head_dim) = (shape.num_subvectors as usize, shape.head_dim as usize);
        let groups = seq_lens.len() * shape.num_kv_heads as usize;
        let group_len = new_keys.len() / groups;
        let code_stride = shape.code_capacity as usize * m;
        let mut out = codes.to_vec();
        for group in 0..groups {
            let lanes = match augmentation {
                None => group_lanes(shape, centroids, group),
                Some(added) => augmented_lanes(shape, centroids, added, group),
            };
            let encoder = codes::Encoder {
                simd,
                m,
                lanes: &lanes,
                phis: augmentation.map(|added| &added.phis[group * m..(group + 1) * m]),
            };
            let keys = &new_keys[group * group_len..(group + 1) * group_len];
            let seq_len = seq_lens[group / shape.num_kv_heads as usize];
            // As the kernel: keys before init_offset have no codes, none is written past the capacity.
            let skip =
                (shape.init_offset.saturating_sub(seq_len) as usize).min(group_len / head_dim);
            let start = (seq_len.max(shape.init_offset) - shape.init_offset) as usize;
            let room = (shape.code_capacity as usize).saturating_sub(start);
            let tokens = (group_len / head_dim - skip).min(room);
            let out = &mut out[group * code_stride..(group + 1) * code_stride];
            codes::encode(
                encoder,
                &keys[skip * head_dim..(skip + tokens) * head_dim],
                head_dim,
                &mut out[start.min(shape.code_capacity as usize) * m..][..tokens * m],
            );
        }
        Ok(out)
    }

    fn lut(&self, shape: &StepShape, centroids: &[f32], queries: &[f32]) -> Result<Vec<f32>> {
        let (head_dim, table_len) = (shape.head_dim as usize, shape.table_len() as usize);
        let simd = Simd::chosen()?;
        let groups = (queries.len() / head_dim).div_ceil(shape.rows_per_group() as usize);
        let lanes: Vec<_> = (0..groups)
            .map(|group| group_lanes(shape, centroids, group))
            .collect();
        let mut tables = vec![0.0; queries.len() / head_dim * table_len];
        tables
            .par_chunks_mut(table_len)
            .zip(queries.par_chunks(head_dim))
            .enumerate()
            .for_each(|(row, (table, query))| {
                let group = shape.group_of_row(row as u32) as usize;
                lut::lut(simd, &lanes[group], query, table);
            });
        Ok(tables)
    }

    fn scores(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        tables: &[f32],
        codes: &[u8],
    ) -> Result<Vec<f32>> {
        let capacity = shape.code_capacity as usize;
        let group_len = capacity * shape.num_subvectors as usize;
        let mut out = vec![0.0; num_rows(shape, seq_lens) * capacity];
        if capacity == 0 {
            return Ok(out);
        }
        out.par_chunks_mut(capacity)
            .zip(tables.par_chunks(shape.table_len() as usize))
            .enumerate()
            .for_each(|(row, (out, table))| {
                let group = shape.group_of_row(row as u32) as usize;
                let codes = &codes[group * group_len..(group + 1) * group_len];
                scores::scores(shape, seq_len_of(shape, seq_lens, row), table, codes, out);
            });
        Ok(out)
    }

    fn aggregate(&self, shape: &StepShape, seq_lens: &[u32], scores: &[f32]) -> Result<Vec<f32>> {
        let capacity = shape.code_capacity as usize;
        let lists = shape.of_lists();
        let heads = (shape.num_qo_heads / shape.num_kv_heads) as usize;
        let queries = shape.num_queries as usize;
        let mut out = vec![0.0; num_rows(&lists, seq_lens) * capacity];
        if capacity == 0 {
            return Ok(out);
        }
        out.par_chunks_mut(capacity)
            .enumerate()
            .for_each(|(list, out)| {
                let seq_len = seq_len_of(&lists, seq_lens, list);
                let (group, query) = (list / queries, list % queries);
                let row = |head: usize| (group * heads + head) * queries + query;
                let scores = |head: usize| &scores[row(head) * capacity..][..capacity];
                let rows = &mut Vec::with_capacity(heads);
                aggregate::aggregate(shape, seq_len, heads, scores, rows, out);
            });
        Ok(out)
    }

    fn top_k(&self, shape: &StepShape, seq_lens: &[u32], scores: &[f32]) -> Result<Vec<i32>> {
        let (capacity, heavy) = (shape.code_capacity as usize, shape.heavy as usize);
        let mut out = vec![-1; num_rows(shape, seq_lens) * heavy];
        if heavy == 0 {
            return Ok(out);
        }
        out.par_chunks_mut(heavy)
            .enumerate()
            .for_each(|(row, out)| {
                let scores = &scores[row * capacity..(row + 1) * capacity];
                let seq_len = seq_len_of(shape, seq_lens, row);
                let mut ranks = [vec![0; capacity], vec![0; capacity]];
                top_k::top_k(shape, seq_len, scores, &mut ranks, out);
            });
        Ok(out)
    }

    fn index_list(
        &self,
        shape: &StepShape,
        seq_lens: &[u32],
        heavy_positions: &[i32],
    ) -> Result<(Vec<i32>, Vec<i32>)> {
        let (heavy, stride) = (shape.heavy as usize, shape.list_stride as usize);
        let rows = num_rows(shape, seq_lens);
        let mut positions = vec![0; rows * stride];
        let lengths = positions
            .chunks_mut(stride)
            .enumerate()
            .map(|(row, positions)| {
                let heavy_positions = &heavy_positions[row * heavy..(row + 1) * heavy];
                let seq_len = seq_len_of(shape, seq_lens, row);
                index_list::index_list(shape, seq_len, heavy_positions, positions)
            })
            .collect();
        Ok((positions, lengths))
    }

    fn weights(&self, shape: &StepShape, positions: &[i32], lengths: &[i32]) -> Result<Vec<f32>> {
        let (stride, list_stride) = (shape.weights_stride as usize, shape.list_stride as usize);
        let mut out = vec![0.0; lengths.len() * stride];
        if stride == 0 {
            return Ok(out);
        }
        for (row, out) in out.chunks_mut(stride).enumerate() {
            let list = &positions[row * list_stride..][..lengths[row] as usize];
            weights::weights(list, out);
        }
        Ok(out)
    }
}

/// The centroids of a group's sub-vectors, laid out for vectors.
fn group_lanes(shape: &StepShape, centroids: &[f32], group: usize) -> Vec<CentroidLanes> {
    let (m, sub_dim) = (shape.num_subvectors as usize, shape.sub_dim() as usize);
    let len = sub_dim << shape.bits;
    let centroids = centroids[group * m * len..].chunks_exact(len);
    centroids
        .take(m)
        .map(|centroids| CentroidLanes::new(centroids, sub_dim))
        .collect()
}

/// The same with the component that the metric `ip` adds.
fn augmented_lanes(
    shape: &StepShape,
    centroids: &[f32],
    augmentation: &Augmentation,
    group: usize,
) -> Vec<CentroidLanes> {
    let (m, sub_dim) = (shape.num_subvectors as usize, shape.sub_dim() as usize);
    let num_centroids = shape.num_centroids() as usize;
    let centroids = centroids.chunks_exact(num_centroids * sub_dim);
    centroids
        .zip(augmentation.components.chunks_exact(num_centroids))
        .skip(group * m)
        .take(m)
        .map(|(centroids, components)| CentroidLanes::augmented(centroids, components, sub_dim))
        .collect()
}

fn num_rows(shape: &StepShape, seq_lens: &[u32]) -> usize {
    seq_lens.len() * shape.rows_per_batch() as usize
}

fn seq_len_of(shape: &StepShape, seq_lens: &[u32], row: usize) -> u32 {
    shape.visible(
        row as u32,
        seq_lens[shape.batch_of_row(row as u32) as usize],
    )
}
