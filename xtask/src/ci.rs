//! `ci`: the steps of .ci/run, in order, stopping at the first that fails.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::device_compiler::DeviceCompiler;
use crate::{build_ptx, check_ptx, heuristics, python, workspace};

/// What a step came to, when it did not fail.
enum Outcome {
    Passed,
    Skipped(&'static str),
}

type Step = (&'static str, fn() -> Result<Outcome>);

const STEPS: [Step; 12] = [
    ("fmt", || cargo("fmt --all --check")),
    ("clippy", || {
        cargo("clippy --workspace --all-targets -- -D warnings")
    }),
    // Without its default feature the fuzzer's C++ is left out.
    ("fuzz targets", || {
        cargo("check --manifest-path fuzz/Cargo.toml --no-default-features --target-dir target")
    }),
    ("build-ptx --check", || passed(build_ptx::check_hashes())),
    ("build-ptx --verify", || match DeviceCompiler::find() {
        Ok(_) => passed(build_ptx::verify()),
        Err(_) => Ok(Outcome::Skipped("no device compiler")),
    }),
    ("check-ptx", || passed(check_ptx::run())),
    ("heuristics --check", || passed(heuristics::run(true))),
    ("doc", || {
        let mut command = workspace::cargo();
        command
            .args(["doc", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings");
        passed(workspace::run(&mut command))
    }),
    ("test", || cargo("test --workspace")),
    // `test` ran the fastest instruction set; the others have the same suite.
    ("test portable", || {
        // Training has one device, so its trials carry no name of one.
        for args in ["-- cpu::", "--test codebook"] {
            let mut command = workspace::cargo();
            command
                .args(["test", "--package", "keysieve-tests"])
                .args(args.split_whitespace())
                .env("KEYSIEVE_SIMD", "portable");
            workspace::run(&mut command)?;
        }
        Ok(Outcome::Passed)
    }),
    ("demo", || cargo("run --release -- demo --quiet")),
    // Behind the demo, whose build it takes over.
    ("python", || match python::is_there() {
        true => passed(python::run()),
        false => Ok(Outcome::Skipped("no Python with pip")),
    }),
];

/// Runs every step and prints how long each took.
pub(crate) fn run() -> Result<()> {
    let mut rows = vec![["step", "outcome", "seconds"].map(str::to_owned).to_vec()];
    let mut result = Ok(());
    for (name, step) in STEPS {
        println!("== {name}");
        let start = Instant::now();
        let outcome = step();
        let seconds = start.elapsed().as_secs_f64();
        let word = match &outcome {
            Ok(Outcome::Passed) => "passed".to_owned(),
            Ok(Outcome::Skipped(why)) => format!("skipped: {why}"),
            Err(_) => "FAILED".to_owned(),
        };
        println!("== {name}: {word}, {seconds:.1} s\n");
        rows.push(vec![name.to_owned(), word, format!("{seconds:.1}")]);
        if let Err(error) = outcome {
            result = Err(error).with_context(|| format!("{name} failed"));
            break;
        }
    }
    print!("{}", workspace::table(&rows));
    result
}

fn cargo(args: &str) -> Result<Outcome> {
    passed(workspace::run(
        workspace::cargo().args(args.split_whitespace()),
    ))
}

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}
