//! The command line of keysieve.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
