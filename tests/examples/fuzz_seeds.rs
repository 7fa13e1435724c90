//! Writes the seeds of every fuzz target to FOLDER/TARGET, for a fuzzer to start from.
//!
//!     cargo run -p keysieve-tests --example fuzz_seeds -- fuzz/work

use std::path::PathBuf;
use std::{env, fs, io};

use keysieve_tests::fuzz::TARGETS;

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("expected a folder to write to"))?;
    for target in TARGETS {
        let folder = folder.join(target.name);
        fs::create_dir_all(&folder)?;
        for (i, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{i}")), seed)?;
        }
    }
    Ok(())
}
