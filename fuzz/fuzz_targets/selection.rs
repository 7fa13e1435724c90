#![no_main]

use keysieve_tests::fuzz;

#[global_allocator]
static ALLOCATOR: fuzz::memory::Metered = fuzz::memory::Metered;

libfuzzer_sys::fuzz_target!(
    init: fuzz::stay_on_this_thread(),
    |bytes: &[u8]| (fuzz::target("selection").run)(bytes)
);
