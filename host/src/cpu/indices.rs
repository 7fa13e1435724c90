//! Indices: a list's positions as cache slots, as 64-bit integers.

use gpu_kernels::indices::index_of;

use crate::selection::{Indices, Selection};

/// Writes the lists as indices, where those are wanted, padding included; slots of pages of `2^page_bits` positions
/// by `page_table` `[batch, pages]`.
pub(crate) fn indices(selection: &mut Selection, page_bits: u32, page_table: &[u32], pages: usize) {
    let Some(indices) = &mut selection.indices else {
        return;
    };
    let of_sequence = selection.positions.len() / selection.batch;
    let all = selection.positions.iter().enumerate();
    let index = |(i, &position): (usize, &i32)| {
        let first = i / of_sequence * pages;
        index_of(position, page_bits, |page| page_table[first + page])
    };
    match indices {
        Indices::I32(indices) => {
            let all = all.map(|entry| index(entry) as i32);
            indices
                .iter_mut()
                .zip(all)
                .for_each(|(to, index)| *to = index);
        }
        Indices::I64(indices) => {
            let all = all.map(index);
            indices
                .iter_mut()
                .zip(all)
                .for_each(|(to, index)| *to = index);
        }
    }
}
