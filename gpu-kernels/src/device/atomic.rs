//! Atomic operations on global memory.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::kernel::Out;

impl Out<u32> {
    /// Adds to element `i`; any thread of the grid may do so at once. Relaxed: only the end of the
    /// kernel orders the sum before a read.
    ///
    /// # Safety
    /// `i` lies inside the buffer that the launch passed, and during the kernel the element is only
    /// added to.
    #[inline(always)]
    pub unsafe fn atomic_add(&self, i: usize, value: u32) {
        // SAFETY: the caller promises an element of a live buffer; u32 and AtomicU32 share a layout.
        let element = unsafe { AtomicU32::from_ptr(self.as_mut_ptr().add(i)) };
        element.fetch_add(value, Ordering::Relaxed);
    }
}
