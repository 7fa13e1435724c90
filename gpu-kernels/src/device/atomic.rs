//! Atomic operations on global memory.

use core::arch::asm;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

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

    /// Raises element `i` to `value`; any thread of the grid may do so at once.
    ///
    /// # Safety
    /// As [`Out::atomic_add`], with raising for adding.
    #[inline(always)]
    pub unsafe fn atomic_max(&self, i: usize, value: u32) {
        // SAFETY: as in `atomic_add`.
        let element = unsafe { AtomicU32::from_ptr(self.as_mut_ptr().add(i)) };
        element.fetch_max(value, Ordering::Relaxed);
    }

    /// Lowers element `i` to `value`; any thread of the grid may do so at once.
    ///
    /// # Safety
    /// As [`Out::atomic_add`], with lowering for adding.
    #[inline(always)]
    pub unsafe fn atomic_min(&self, i: usize, value: u32) {
        // SAFETY: as in `atomic_add`.
        let element = unsafe { AtomicU32::from_ptr(self.as_mut_ptr().add(i)) };
        element.fetch_min(value, Ordering::Relaxed);
    }

    /// Adds 1 to element `i` and returns what it was. What this thread, and those that it shared a
    /// barrier with, did before is seen by whoever takes a later ticket, after it has.
    ///
    /// # Safety
    /// As [`Out::atomic_add`], but the element may also be set by the thread that takes the last one.
    #[inline(always)]
    pub unsafe fn take_ticket(&self, i: usize) -> u32 {
        fence();
        // SAFETY: as in `atomic_add`.
        let element = unsafe { AtomicU32::from_ptr(self.as_mut_ptr().add(i)) };
        let ticket = element.fetch_add(1, Ordering::Relaxed);
        fence();
        ticket
    }
}

/// Orders this thread's accesses before against those after, as all blocks of the grid see them.
#[inline(always)]
fn fence() {
    // SAFETY: orders memory accesses, and does nothing else.
    unsafe { asm!("fence.acq_rel.gpu;", options(nostack, preserves_flags)) };
}

/// Loads and stores that may meet others' in the grid: nothing is torn, and no cache keeps an old value.
macro_rules! relaxed {
    ($($T:ty: $Bits:ty, $Atomic:ty;)*) => {
        $(impl Out<$T> {
            /// Element `i`, which other blocks may write at this moment.
            ///
            /// # Safety
            /// `i` lies inside the buffer that the launch passed, the element was written, and is only
            /// accessed in this way or behind a ticket.
            #[inline(always)]
            pub unsafe fn get_relaxed(&self, i: usize) -> $T {
                // SAFETY: the caller promises an element of a live buffer; the types share a layout.
                let element = unsafe { <$Atomic>::from_ptr(self.as_mut_ptr().add(i).cast::<$Bits>()) };
                <$T>::from_ne_bytes(element.load(Ordering::Relaxed).to_ne_bytes())
            }

            /// Writes element `i`, which other blocks may access at this moment.
            ///
            /// # Safety
            /// As [`Self::get_relaxed`], but the element need not be written.
            #[inline(always)]
            pub unsafe fn set_relaxed(&self, i: usize, value: $T) {
                // SAFETY: as in `get_relaxed`.
                let element = unsafe { <$Atomic>::from_ptr(self.as_mut_ptr().add(i).cast::<$Bits>()) };
                element.store(<$Bits>::from_ne_bytes(value.to_ne_bytes()), Ordering::Relaxed);
            }
        })*
    };
}

relaxed! {
    u16: u16, AtomicU16;
    u32: u32, AtomicU32;
    u64: u64, AtomicU64;
    f32: u32, AtomicU32;
}
