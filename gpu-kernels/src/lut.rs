//! The lookup table: the inner product of a query's sub-vectors with every centroid.

use crate::float::fma;
use crate::kernel::{In, Out};
use crate::step::{SequenceParams, StepShape};

/// Partial sums of a [`table_entry`].
pub const LANES: usize = 8;

/// One table entry, `sum(q[i] * c[i])` over `sub_dim` components, in one fixed order:
///
/// component `i` is added to partial sum `i % 8` by a fused multiply-add, in ascending order from
/// +0.0; then the eight partial sums are added as `((0+1)+(2+3)) + ((4+5)+(6+7))`, each addition
/// rounded. Two, four or eight threads may share an entry without changing it.
#[inline(always)]
pub fn table_entry(sub_dim: usize, q: impl Fn(usize) -> f32, c: impl Fn(usize) -> f32) -> f32 {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = partial_sums::<LANES>(0, sub_dim, q, c);
    ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
}

/// Partial sums `first..first + N` of a [`table_entry`].
#[inline(always)]
pub fn partial_sums<const N: usize>(
    first: usize,
    sub_dim: usize,
    q: impl Fn(usize) -> f32,
    c: impl Fn(usize) -> f32,
) -> [f32; N] {
    let mut sums = [0.0f32; N];
    let whole = sub_dim / LANES * LANES;
    let mut i = first;
    while i < whole {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum = fma(q(i + lane), c(i + lane), *sum);
        }
        i += LANES;
    }
    for (lane, sum) in sums.iter_mut().enumerate() {
        if i + lane < sub_dim {
            *sum = fma(q(i + lane), c(i + lane), *sum);
        }
    }
    sums
}

kernel! {
    /// Builds every row's table, one thread an entry.
    ///
    /// Grid: (rows, blocks over the entries of a table). `centroids` `[groups, m, 2^bits, sub_dim]`,
    /// `queries` `[rows, head_dim]`, `sequences` `[batch]`, `tables` `[rows, m, 2^bits]`; where no sequence
    /// is, none is built.
    pub fn lut as Lut(
        centroids: In<f32>, queries: In<f32>, sequences: In<SequenceParams>, tables: Out<f32>,
        shape: StepShape,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use crate::device::thread;

        let row = thread::block_idx_x();
        let table_len = shape.table_len();
        let entry = thread::block_idx_y() * thread::block_dim_x() + thread::thread_idx_x();
        // SAFETY: one for each sequence.
        let seq_len = unsafe { sequences.get(shape.batch_of_row(row) as usize) }.seq_len;
        if entry >= table_len || seq_len == 0 {
            return;
        }
        let sub_dim = shape.sub_dim() as usize;
        let query_at = row as usize * shape.head_dim as usize
            + (entry >> shape.bits) as usize * sub_dim;
        let centroid_at =
            (shape.group_of_row(row) as usize * table_len as usize + entry as usize) * sub_dim;
        // SAFETY: entry < table_len, so both sub-vectors and the entry lie inside their buffers;
        // each thread has its own entry.
        unsafe {
            let value = table_entry(
                sub_dim,
                |i| queries.get(query_at + i),
                |i| centroids.get(centroid_at + i),
            );
            tables.set(row as usize * table_len as usize + entry as usize, value);
        }
    }
}
