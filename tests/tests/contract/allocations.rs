//! Point 7, on the CPU: a step allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::{bf16, f16};
use keysieve::{IndexConfig, Keys, Queries, SelectConfig};
use keysieve_tests::device::{Device, fail};
use keysieve_tests::strategies::Fill;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use rayon::ThreadPoolBuilder;

use crate::whole::Whole;

/// Counts what the threads that asked for it allocate.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing,
// as the thread-local is constant-initialised and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(usize::from(COUNTED.get()), Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(usize::from(COUNTED.get()), Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// 7, on the CPU: after the first step, neither `append` nor `select` allocates, on any thread of
/// the pool they run in.
pub(crate) fn a_step_allocates_nothing(device: &Device) -> TestCaseResult {
    let config = SelectConfig {
        sink: 4,
        window: 16,
        heavy: 64,
        short_context: true,
        weights: true,
        indices: Some(IndexConfig::WIDE),
        ..SelectConfig::default()
    };
    let whole = Whole::small(3000, config);
    let new_keys = Fill::usual(9).floats(4 * 8);
    let half_keys: Vec<f16> = new_keys.iter().map(|&x| f16::from_f32(x)).collect();
    let new_keys = Keys::new(&new_keys, [2, 2, 1, 8]).map_err(fail)?;
    let half_keys = Keys::new(&half_keys, [2, 2, 1, 8]).map_err(fail)?;
    let half_queries: Vec<bf16> = whole.queries.iter().map(|&x| bf16::from_f32(x)).collect();
    let half_queries = Queries::new(&half_queries, [2, 4, 1, 8]).map_err(fail)?;
    let backend = &device.backend;
    for num_threads in [1, 3] {
        let pool = ThreadPoolBuilder::new()
            .num_threads(num_threads)
            .build()
            .map_err(fail)?;
        // A thread's first look for work makes its place in rayon's queues; by now each has looked.
        pool.broadcast(|_| COUNTED.set(true));
        // Inside the pool from the start: coming in from outside is rayon's business, and may allocate.
        pool.install(|| -> TestCaseResult {
            let mut selector = whole.selector(backend, 20)?;
            for step in 0..20 {
                let before = ALLOCATIONS.load(Ordering::SeqCst);
                // In f32, or in half precision, which has room to be widened in.
                match step % 2 {
                    0 => selector.append(new_keys).map_err(fail)?,
                    _ => selector.append(half_keys).map_err(fail)?,
                }
                let after_append = ALLOCATIONS.load(Ordering::SeqCst);
                match step % 2 {
                    0 => selector.select(whole.queries()).map_err(fail)?,
                    _ => selector.select(half_queries).map_err(fail)?,
                };
                let after_select = ALLOCATIONS.load(Ordering::SeqCst);
                // The first steps also make room in rayon's own queues.
                if step >= 3 {
                    prop_assert_eq!(after_append - before, 0, "append, {} threads", num_threads);
                    prop_assert_eq!(
                        after_select - after_append,
                        0,
                        "select, {} threads",
                        num_threads
                    );
                }
            }
            // The counter counts: this allocates.
            let before = ALLOCATIONS.load(Ordering::SeqCst);
            std::hint::black_box(vec![1u8; 100]);
            prop_assert!(ALLOCATIONS.load(Ordering::SeqCst) > before);
            Ok(())
        })?;
        // A thread that ends tidies up rayon's queues, which may allocate during the next pool's steps.
        pool.broadcast(|_| COUNTED.set(false));
    }
    Ok(())
}
