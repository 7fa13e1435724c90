//! The index list: sink, heavy and window positions, ascending.

use gpu_kernels::step::StepShape;

/// Writes `positions` `[list_stride]`, padded with -1, from the ascending `heavy_positions`
/// `[heavy]`; returns the list's length.
pub(crate) fn index_list(
    shape: &StepShape,
    seq_len: u32,
    heavy_positions: &[i32],
    positions: &mut [i32],
) -> i32 {
    let regions = shape.regions(seq_len);
    let heavy_k = regions.heavy_k(shape.heavy);
    let list_len = regions.list_len(heavy_k);
    let (list, padding) = positions.split_at_mut(list_len as usize);
    for (i, position) in list.iter_mut().enumerate() {
        *position = regions.list_entry(i as u32, heavy_k, |k| heavy_positions[k as usize]);
    }
    padding.fill(-1);
    list_len as i32
}
