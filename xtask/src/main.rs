//! Development tasks of keysieve: run `cargo xtask` for the list.

mod workspace;

mod device_compiler;
mod ptx_text;
mod ptxas;

mod build_ptx;
mod check_ptx;

mod ci;
mod device_bundle;
mod heuristics;
mod least_squares;
mod python;
mod soak;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks of keysieve")]
struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Compile gpu-kernels to host/ptx/*.ptx
    BuildPtx {
        /// Compile nothing; fail when a committed file is older than the kernel sources
        #[arg(long, conflicts_with = "verify")]
        check: bool,
        /// Compile into the target folder; fail when the committed bytes differ
        #[arg(long)]
        verify: bool,
    },
    /// Assemble host/ptx/*.ptx with ptxas; check registers, spills and convergent operations
    CheckPtx,
    /// Fit the choice among variants of the step to docs/results/h200-variants.json; print where it loses most
    Heuristics {
        /// Write nothing; fail when the committed table is another
        #[arg(long)]
        check: bool,
    },
    /// Everything that must pass before a change is merged, in order
    Ci,
    /// Install the Python package into the target folder and run its tests
    Python,
    /// Run many differential cases on simulated GPUs: before a release, for an hour
    Soak(soak::Options),
    /// Gather stripped tests and binary for a GPU machine that has no Rust
    DeviceBundle {
        /// Files to put into the bundle's data folder
        #[arg(long, num_args = 1.., value_name = "FILE")]
        data: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        None => Cli::command().print_help().map_err(Into::into),
        Some(Task::BuildPtx { check: true, .. }) => build_ptx::check_hashes(),
        Some(Task::BuildPtx { verify: true, .. }) => build_ptx::verify(),
        Some(Task::BuildPtx { .. }) => build_ptx::build(),
        Some(Task::CheckPtx) => check_ptx::run(),
        Some(Task::Heuristics { check }) => heuristics::run(check),
        Some(Task::Ci) => ci::run(),
        Some(Task::Python) => python::run(),
        Some(Task::Soak(options)) => soak::run(&options),
        Some(Task::DeviceBundle { data }) => device_bundle::run(&data),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A failed check is no bug of xtask: RUST_BACKTRACE must not bury its message.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
