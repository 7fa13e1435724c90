//! Buffers in global memory, as kernels get them.

use crate::kernel::{In, Out};

impl<T: Copy> In<T> {
    /// Element `i`.
    ///
    /// # Safety
    /// `i` lies inside the buffer that the launch passed, and the element was written before it.
    #[inline(always)]
    pub unsafe fn get(&self, i: usize) -> T {
        // SAFETY: the caller promises an initialised element of a live buffer.
        unsafe { self.as_ptr().add(i).read() }
    }
}

impl<T: Copy> Out<T> {
    /// Element `i`, written by an earlier kernel of the stream or before a barrier of this block.
    ///
    /// # Safety
    /// `i` lies inside the buffer that the launch passed, the element was written, and no thread
    /// writes it before the next barrier.
    #[inline(always)]
    pub unsafe fn get(&self, i: usize) -> T {
        // SAFETY: the caller promises an initialised element of a live buffer.
        unsafe { self.as_mut_ptr().add(i).read() }
    }

    /// Writes element `i`.
    ///
    /// # Safety
    /// `i` lies inside the buffer that the launch passed, and no other thread of the grid reads or
    /// writes the element before the kernel's end (or, within the block, the next barrier).
    #[inline(always)]
    pub unsafe fn set(&self, i: usize, value: T) {
        // SAFETY: the caller promises an element of a live buffer that is this thread's.
        unsafe { self.as_mut_ptr().add(i).write(value) }
    }
}
