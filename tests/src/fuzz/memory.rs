//! How much memory a call asks for: what is claimed by a file must not be allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which keeps account of each thread's bytes. A binary that runs the targets
/// makes it its `#[global_allocator]`.
pub struct Metered;

thread_local! {
    /// Bytes that this thread allocated less those that it freed.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    /// The most that `LIVE` has been.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn account(change: isize) {
    let live = LIVE.get() + change;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: every call is passed on to the system's allocator as it came; the account allocates nothing,
// as the thread-locals are constant-initialised and have no destructor.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        account(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        account(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        account(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // For a moment both may be there.
        account(new_size as isize);
        account(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// What `call` returns, and the most bytes that this thread held meanwhile beyond what it held before.
///
/// # Panics
/// When [`Metered`] is not this process's allocator: nothing would be seen.
pub fn peak_of<T>(call: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let witness = std::hint::black_box(vec![0u8; 64]);
    assert!(PEAK.get() >= before + 64, "Metered is not the allocator");
    drop(witness);
    PEAK.set(before);
    let value = call();
    (value, (PEAK.get() - before) as usize)
}

/// Most bytes that reading a file of `len` bytes may take: the values, and a header parsed into JSON
/// values, which are many times its size but real; nothing that is only claimed.
pub fn allowance(len: usize) -> usize {
    (1 << 14) + 128 * len
}
