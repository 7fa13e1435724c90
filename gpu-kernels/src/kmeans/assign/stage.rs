//! Points and centroids from global to shared memory, component by component.

use crate::device::shared::SharedArray;
use crate::device::thread;
use crate::kernel::In;
use crate::kmeans::{KMeansShape, ORDER_BLOCK, TILE};

/// Where the points of one block of the order lie.
#[derive(Clone, Copy)]
pub(super) struct BlockPlace {
    /// The first component of the first point.
    element: u64,
    /// The last point of the block that takes part.
    last: u32,
}

impl BlockPlace {
    /// Block `block` of `tile`; the last one where the tile has fewer. `first`: the element at which the problem's points begin.
    ///
    /// # Safety
    /// `order` has a word for each block if points are `ordered`.
    #[inline(always)]
    pub(super) unsafe fn new(
        shape: &KMeansShape,
        order: In<u32>,
        ordered: bool,
        first: u64,
        [tile, block]: [u32; 2],
    ) -> Self {
        let last = shape.num_points - 1;
        let mut block = (tile * (TILE / ORDER_BLOCK) + block).min(last / ORDER_BLOCK);
        let last = last - block * ORDER_BLOCK;
        if ordered {
            // SAFETY: the caller's.
            block = unsafe { order.get(block as usize) };
        }
        let element = first + u64::from(block * ORDER_BLOCK) * shape.token_stride;
        BlockPlace { element, last }
    }

    /// The first component of the block's point `i`. What lies behind the last point has no code: there it is the last.
    #[inline(always)]
    pub(super) fn element(&self, shape: &KMeansShape, i: u32) -> u64 {
        self.element + u64::from(i.min(self.last)) * shape.token_stride
    }
}

/// Loads `columns` columns a warp, the first `first_column`, and stores them component by component, `N` at a time.
///
/// A lane has one component of 32. Those of a quarter of the warp take the columns of each four in turned order: so
/// its words go to 32 banks.
///
/// # Safety
/// The columns and `len` components are the block's, and nobody reads them before the next barrier.
#[inline(always)]
pub(super) unsafe fn stage<const N: usize>(
    to: SharedArray<f32>,
    stride: u32,
    [first_column, columns]: [u32; 2],
    len: u32,
    load: impl Fn(u32, u32) -> f32,
) {
    // Computed anew each time: kept, the columns' places would take all registers. One turn at a time, or its loads
    // would take them too.
    let lane = thread::opaque(thread::thread_idx_x()) % 32;
    let mut component = lane;
    while component < thread::opaque(len) {
        thread::no_unroll();
        let mut done = 0;
        while done < thread::opaque(columns) {
            thread::no_unroll();
            let first = first_column + done;
            let column = |k: usize| {
                let place = first + k as u32;
                place & !3 | (place + lane / 8) & 3
            };
            let loaded: [f32; N] = core::array::from_fn(|k| load(column(k), component));
            for k in 0..N {
                // SAFETY: the caller's.
                unsafe { to.set(component * stride + column(k), loaded[k]) };
            }
            done += N as u32;
        }
        component += 32;
    }
}
