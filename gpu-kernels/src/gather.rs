//! A caller's keys and queries, in their own type and strides, brought together as a step reads them.

use crate::kernel::{In, Out};

/// Where the components of an array of four axes lie, in elements.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatherShape {
    /// Elements from one index of each axis to the next.
    pub strides: [u64; 4],
    /// Lengths of the axes, none of them 0.
    pub lens: [u32; 4],
    /// Components in all, the product of `lens`.
    pub len: u32,
    /// Their type: [`crate::kmeans::F32`], [`crate::kmeans::F16`] or [`crate::kmeans::BF16`].
    pub dtype: u32,
}

impl GatherShape {
    /// Where component `i` of the row-major order lies.
    #[inline(always)]
    pub fn element(&self, i: u32) -> u64 {
        let [_, b, c, d] = self.lens;
        let (i, last) = (i / d, i % d);
        let (i, third) = (i / c, i % c);
        let (first, second) = (i / b, i % b);
        u64::from(first) * self.strides[0]
            + u64::from(second) * self.strides[1]
            + u64::from(third) * self.strides[2]
            + u64::from(last) * self.strides[3]
    }
}

kernel! {
    /// Writes `gathered` `[len]` and `other_gathered` `[other_shape.len]`, the components of `source` and `other` in
    /// row-major order. Where `other_shape.len` is 0 there is no other.
    ///
    /// Grid: (blocks).
    pub fn gather as Gather(
        source: In<u8>, gathered: Out<f32>, other: In<u8>, other_gathered: Out<f32>,
        shape: GatherShape, other_shape: GatherShape,
    );
    threads = 256; barriers = 0; shuffles = 0;
    {
        use crate::device::thread;
        use crate::kmeans::component;

        let mut i = thread::block_idx_x() * thread::block_dim_x() + thread::thread_idx_x();
        while i < shape.len {
            // SAFETY: i < len, so the component is the array's, and each thread has its own.
            unsafe { gathered.set(i as usize, component(source, shape.dtype, shape.element(i))) };
            i += thread::grid_dim_x() * thread::block_dim_x();
        }
        let mut i = i - shape.len;
        while i < other_shape.len {
            // SAFETY: as above.
            unsafe {
                let value = component(other, other_shape.dtype, other_shape.element(i));
                other_gathered.set(i as usize, value);
            }
            i += thread::grid_dim_x() * thread::block_dim_x();
        }
    }
}
