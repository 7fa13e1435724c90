//! The danger that ARCHITECTURE.md tells of: rustc's jump threading duplicates a barrier that stands
//! between two questions of one condition. The simulator must see it in what rustc really wrote.

use ptx_sim::{Arg, Init, Launch, LaunchError, Memory, Module, ViolationKind, launch};

const THREADED: &str = include_str!("jump_threading/threaded.ptx");
const WHOLE: &str = include_str!("jump_threading/whole.ptx");

const SEEDS: u64 = 32;

/// Launches one block of 64 threads of which `n` pass the condition; what `reversed` then holds.
fn reversed(text: &str, n: u32, seed: u64) -> Result<Vec<u32>, LaunchError> {
    let module = Module::parse(text).unwrap();
    let mut memory = Memory::new();
    let data = memory.alloc(256, Init::Uninit);
    let reversed = memory.alloc(256, Init::Zero);
    let launched = Launch {
        grid: [1, 1, 1],
        block: [64, 1, 1],
        args: &[Arg::U64(data), Arg::U64(reversed), Arg::U32(n)],
        seed,
        step_limit: 100_000,
        ..Launch::default()
    };
    launch(&module, "reversed", &launched, &mut memory)?;
    let bytes = memory.bytes(reversed).unwrap();
    let words = bytes.as_chunks::<4>().0.iter();
    Ok(words.map(|&word| u32::from_le_bytes(word)).collect())
}

#[test]
fn a_duplicated_barrier_is_caught() {
    // 20 cuts the first warp, 50 the second.
    for n in [1, 20, 31, 33, 50, 63] {
        for seed in 0..SEEDS {
            match reversed(THREADED, n, seed) {
                Err(LaunchError::Violation(violation)) => {
                    assert_eq!(
                        violation.kind,
                        ViolationKind::DivergentCollective,
                        "{violation}"
                    );
                    let line = THREADED.lines().nth(violation.line as usize - 1).unwrap();
                    assert!(line.contains("bar.sync"), "{violation}: {line}");
                    assert_eq!(violation.thread[0] / 32, n / 32, "{violation}");
                }
                other => panic!("{n} of 64 threads, seed {seed}: not caught: {other:?}"),
            }
        }
    }
}

#[test]
fn the_barrier_left_whole_passes() {
    for n in [0, 1, 20, 31, 32, 33, 50, 63, 64] {
        for seed in 0..SEEDS {
            let got = reversed(WHOLE, n, seed).unwrap_or_else(|error| panic!("{n}: {error}"));
            let mut expected: Vec<u32> = (0..n).rev().collect();
            expected.resize(64, 0);
            assert_eq!(got, expected, "{n} of 64 threads, seed {seed}");
        }
    }
}
