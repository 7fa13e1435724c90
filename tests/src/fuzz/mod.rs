//! What must hold for any bytes whatever: the bodies of the fuzz targets.
//!
//! `fuzz/` gives each [`Target`] a binary for cargo-fuzz; the test `fuzz` runs the same functions over
//! the targets' seeds and the committed corpus, so that a body that no longer compiles or holds is
//! seen without cargo-fuzz. A body panics when the library does wrong.

pub mod memory;

mod configuration;
mod index;
mod kv;
mod parts;
mod selection;
mod work;

use keysieve::Error;

/// One thing to be fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which its binary and its folder of the corpus have too.
    pub name: &'static str,
    /// Takes any bytes, and panics when something does not hold.
    pub run: fn(&[u8]),
    /// Inputs to start from, which reach what random bytes do not.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 4] = [
    Target {
        name: "kv",
        run: kv::run,
        seeds: kv::seeds,
    },
    Target {
        name: "index",
        run: index::run,
        seeds: index::seeds,
    },
    Target {
        name: "selection",
        run: selection::run,
        seeds: selection::seeds,
    },
    Target {
        name: "configuration",
        run: configuration::run,
        seeds: configuration::seeds,
    },
];

/// The target of that name.
///
/// # Panics
/// When there is none.
pub fn target(name: &str) -> Target {
    let found = TARGETS.into_iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("{name} is no fuzz target"))
}

/// Makes the calling thread rayon's only one: a fuzzer watches the thread that it calls a target on.
///
/// # Panics
/// When rayon has already been used.
pub fn stay_on_this_thread() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread();
    pool.build_global().expect("rayon is not in use yet");
}

/// Fails unless the error's message is one line that begins with one of `names`.
#[track_caller]
fn check_message(error: &Error, names: &[&str]) {
    let message = error.to_string();
    assert!(
        !message.contains(['\n', '\r']),
        "more than a line: {message:?}"
    );
    assert!(
        names.iter().any(|name| message.starts_with(name)),
        "names none of {names:?}: {message}"
    );
}
