//! Dense weights: 1.0 at every listed position, 0.0 at the others.

use gpu_kernels::weights::LISTED;

/// Writes `weights` `[weights_stride]` from a list without its padding.
pub(crate) fn weights(list: &[i32], weights: &mut [f32]) {
    weights.fill(0.0);
    mark(list, weights, LISTED);
}

/// [`mark`] where weights are wanted.
pub(crate) fn mark_if_any(list: &[i32], weights: &mut [f32], weight: f32) {
    if !weights.is_empty() {
        mark(list, weights, weight);
    }
}

/// Makes every listed position's weight `weight`. A step takes its last list's marks away and sets the
/// new list's, instead of writing every weight.
pub(crate) fn mark(list: &[i32], weights: &mut [f32], weight: f32) {
    for &position in list {
        weights[position as usize] = weight;
    }
}
