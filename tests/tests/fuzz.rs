//! The fuzz targets' bodies over their seeds and the committed corpus: what a fuzzer once found, and
//! everything that a body asserts, holds in every run of the tests.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use keysieve_tests::fuzz::memory::{Metered, peak_of};
use keysieve_tests::fuzz::{TARGETS, target};

#[global_allocator]
static ALLOCATOR: Metered = Metered;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz")
        .join(name)
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn replay(name: &str) {
    let target = target(name);
    let seeds = (target.seeds)().into_iter().enumerate();
    let mut inputs: Vec<_> = seeds.map(|(i, seed)| (format!("seed {i}"), seed)).collect();
    let corpus = folder("corpus").join(name);
    for file in names_in(&corpus) {
        let bytes = fs::read(corpus.join(&file)).unwrap();
        inputs.push((file, bytes));
    }
    let failed: Vec<_> = inputs
        .iter()
        .filter(|(_, bytes)| catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err())
        .map(|(input, _)| input)
        .collect();
    assert!(
        failed.is_empty(),
        "{name}: {failed:?} failed, for the reasons above"
    );
    eprintln!("{name}: {} inputs", inputs.len());
}

#[test]
fn kv() {
    replay("kv");
}

#[test]
fn index() {
    replay("index");
}

#[test]
fn selection() {
    replay("selection");
}

#[test]
fn configuration() {
    replay("configuration");
}

#[test]
fn every_target_has_a_binary_and_a_corpus() {
    let names = |suffix: &str| {
        TARGETS
            .iter()
            .map(|t| format!("{}{suffix}", t.name))
            .collect()
    };
    assert_eq!(names_in(&folder("fuzz_targets")), names(".rs"));
    assert_eq!(names_in(&folder("corpus")), names(""));
}

#[test]
fn what_is_allocated_is_seen() {
    let (len, peak) = peak_of(|| {
        drop(std::hint::black_box(vec![1u8; 1 << 20]));
        std::hint::black_box(vec![0u8; 1 << 10]).len()
    });
    assert_eq!(len, 1 << 10);
    assert!((1 << 20..1 << 21).contains(&peak), "{peak}");
}
