//! Indices: a list's positions as whoever reads it wants them: as slots of a paged cache, as 64-bit integers.

use crate::kernel::{In, Out};
use crate::step::StepShape;

/// The slot of a position in a cache of pages of `2^page_bits` positions, given the sequence's page table:
/// `page_table[position / page_size] * page_size + position % page_size`. Without pages (`page_bits` 0) the
/// position, and -1, which pads a list, stays -1.
#[inline(always)]
pub fn index_of(position: i32, page_bits: u32, page: impl FnOnce(usize) -> u32) -> i64 {
    if position < 0 || page_bits == 0 {
        return i64::from(position);
    }
    let position = position as u32;
    let in_page = position & ((1 << page_bits) - 1);
    (i64::from(page((position >> page_bits) as usize)) << page_bits) + i64::from(in_page)
}

kernel! {
    /// Writes every list's indices, [`index_of`] each entry, padding included.
    ///
    /// Grid: rows of lists. `positions` `[rows, list_stride]`, `page_table` `[batch, pages_per_sequence]` (read
    /// if `page_bits` is not 0), and with `is_wide` 0 `narrow`, else `wide`, `[rows, list_stride]`; the other
    /// is not written.
    pub fn indices as Indices(
        positions: In<i32>, page_table: In<u32>, narrow: Out<i32>, wide: Out<i64>, is_wide: u32,
        page_bits: u32, shape: StepShape,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use crate::device::thread;

        let row = thread::block_idx_x();
        let first_page = (shape.batch_of_row(row) * shape.pages_per_sequence) as usize;
        let mut i = thread::thread_idx_x();
        while i < shape.list_stride {
            let at = row as usize * shape.list_stride as usize + i as usize;
            // SAFETY: the list is written, listed positions have their pages in the table, and each thread has
            // its own entries.
            unsafe {
                let page = |page: usize| page_table.get(first_page + page);
                let index = index_of(positions.get(at), page_bits, page);
                if is_wide != 0 {
                    wide.set(at, index);
                } else {
                    narrow.set(at, index as i32);
                }
            }
            i += thread::block_dim_x();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_a_position_or_its_slot() {
        let pages = [7u32, 0, u32::MAX >> 4];
        let slot = |position| index_of(position, 4, |page| pages[page]);
        assert_eq!(slot(0), 7 * 16);
        assert_eq!(slot(15), 7 * 16 + 15);
        assert_eq!(slot(16), 0);
        assert_eq!(slot(47), (i64::from(u32::MAX >> 4) << 4) + 15);
        assert_eq!(slot(-1), -1);
        assert_eq!(index_of(12345, 0, |_| unreachable!()), 12345);
    }
}
