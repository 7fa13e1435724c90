//! `ptx-sim run`: one kernel of a PTX file, under one schedule or many.
//!
//! Exits with 0 and a count of lane-instructions when the kernel breaks no rule, with 1 and a report
//! when it does, with 2 on bad usage or an opcode that is not known.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use ptx_sim::{Arg, Init, Launch, LaunchError, Memory, Module, launch};

/// Runs PTX kernels without a GPU, and checks them while they run.
#[derive(Debug, Parser)]
#[command(name = "ptx-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one kernel.
    Run(Run),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The PTX file.
    file: PathBuf,
    /// The kernel's name.
    #[arg(long)]
    kernel: String,
    /// Blocks: X[,Y,Z].
    #[arg(long)]
    grid: Dim,
    /// Threads of a block: X[,Y,Z].
    #[arg(long)]
    block: Dim,
    /// Blocks of a cluster, along x.
    #[arg(long, default_value_t = 1)]
    cluster: u32,
    /// Bytes of dynamic shared memory.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// Schedules to try, each on fresh memory.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    schedules: u64,
    /// The first schedule's seed; the others follow it.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Instructions of all warps, after which a kernel counts as endless.
    #[arg(long, default_value_t = 1_000_000_000)]
    step_limit: u64,
    /// The next argument: u32:7, u64:7, f32:1.5, or buf:BYTES:zero|uninit|iota, which is the address
    /// of a new allocation of at most 4 GiB.
    #[arg(long = "arg")]
    args: Vec<Argument>,
}

/// X, X,Y or X,Y,Z.
#[derive(Debug, Clone, Copy)]
struct Dim([u32; 3]);

impl FromStr for Dim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut dim = [1; 3];
        for (i, part) in text.split(',').enumerate() {
            let place = dim.get_mut(i).ok_or("more than three dimensions")?;
            let number: u32 = part.parse().map_err(|_| format!("no number: `{part}`"))?;
            *place = number;
        }
        Ok(Dim(dim))
    }
}

/// An argument as the command line gives it.
#[derive(Debug, Clone, Copy)]
enum Argument {
    U32(u32),
    U64(u64),
    F32(f32),
    Buffer(usize, Init<'static>),
}

impl FromStr for Argument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("no argument: `{text}`");
        let (kind, value) = text.split_once(':').ok_or_else(wrong)?;
        match kind {
            "u32" => value.parse().map(Argument::U32).map_err(|_| wrong()),
            "u64" => value.parse().map(Argument::U64).map_err(|_| wrong()),
            "f32" => value.parse().map(Argument::F32).map_err(|_| wrong()),
            "buf" => {
                let (bytes, init) = value.split_once(':').ok_or_else(wrong)?;
                let init = match init {
                    "zero" => Init::Zero,
                    "uninit" => Init::Uninit,
                    "iota" => Init::Iota,
                    _ => return Err(wrong()),
                };
                let bytes: u64 = bytes.parse().map_err(|_| wrong())?;
                match usize::try_from(bytes) {
                    Ok(len) if bytes <= MAX_BUFFER => Ok(Argument::Buffer(len, init)),
                    _ => Err(format!("{bytes} bytes, at most {MAX_BUFFER}")),
                }
            }
            _ => Err(wrong()),
        }
    }
}

/// Bytes of an allocation: it is the host's memory.
const MAX_BUFFER: u64 = 4 << 30;

fn main() -> ExitCode {
    // clap itself exits with 2 on bad usage.
    let Command::Run(options) = Cli::parse().command;
    match run(&options) {
        Ok(lane_instructions) => {
            println!("clean: {lane_instructions} lane-instructions");
            ExitCode::SUCCESS
        }
        Err(Failure::Violation(report)) => {
            println!("{report}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

enum Failure {
    Violation(String),
    Usage(String),
}

fn run(options: &Run) -> Result<u64, Failure> {
    let usage = |error: &dyn std::fmt::Display| {
        Failure::Usage(format!("{}: {error}", options.file.display()))
    };
    let text = std::fs::read_to_string(&options.file).map_err(|error| usage(&error))?;
    let module = Module::parse(&text).map_err(|error| usage(&error))?;
    let mut lane_instructions = 0;
    for schedule in 0..options.schedules {
        let seed = options.seed.wrapping_add(schedule);
        let mut memory = Memory::new();
        let args = options.args.iter().map(|argument| match *argument {
            Argument::U32(value) => Arg::U32(value),
            Argument::U64(value) => Arg::U64(value),
            Argument::F32(value) => Arg::F32(value),
            Argument::Buffer(bytes, init) => Arg::U64(memory.alloc(bytes, init)),
        });
        let args: Vec<Arg<'_>> = args.collect();
        let launched = Launch {
            grid: options.grid.0,
            block: options.block.0,
            cluster: options.cluster,
            shared_bytes: options.shared,
            args: &args,
            seed,
            step_limit: options.step_limit,
        };
        match launch(&module, &options.kernel, &launched, &mut memory) {
            Ok(stats) => lane_instructions += stats.lane_instructions,
            Err(LaunchError::Violation(violation)) => {
                let again = format!("schedule of --seed {seed}");
                return Err(Failure::Violation(format!("{violation}\n{again}")));
            }
            Err(error) => return Err(usage(&error)),
        }
    }
    Ok(lane_instructions)
}
