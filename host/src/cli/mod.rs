//! The commands. Each is a file here with its `Args` and its `run`.
//!
//! A command that fails has written nothing and says so in one line on stderr: bad input with exit
//! status 2, a GPU that stopped working or answered wrong with 1.

mod options;
mod report;

mod bench;
mod demo;
mod doctor;
mod eval;
mod select;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keysieve::Error;

/// Choose which cached keys to attend to, by product quantisation, on CPU and GPU.
///
/// Without a command it runs the demo.
#[derive(Debug, Parser)]
#[command(name = "keysieve", version)]
struct Cli {
    /// No progress bars and no notes on stderr; errors are still said.
    #[arg(long, global = true)]
    quiet: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Train(train::Args),
    Select(select::Args),
    Eval(eval::Args),
    Bench(bench::Args),
    Doctor(doctor::Args),
}

/// Runs the command of this process's arguments.
pub(crate) fn main() -> ExitCode {
    let cli = match parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            // Help or version. A reader that has gone away wants no more of it.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            report::error(&usage_error(&error));
            return ExitCode::from(2);
        }
    };
    match run(&cli) {
        Ok(status) => status,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&options::in_options(&error));
            ExitCode::from(exit_status(&error))
        }
    }
}

fn parse(mut args: Vec<OsString>) -> Result<Cli, clap::Error> {
    let cli = Cli::try_parse_from(&args)?;
    if cli.command.is_some() {
        return Ok(cli);
    }
    args.push("demo".into());
    Cli::try_parse_from(args)
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    let quiet = cli.quiet;
    match &cli.command {
        Some(Command::Demo(args)) => demo::run(args, quiet).map(done),
        Some(Command::Train(args)) => train::run(args, quiet).map(done),
        Some(Command::Select(args)) => select::run(args, quiet).map(done),
        Some(Command::Eval(args)) => eval::run(args, quiet).map(done),
        Some(Command::Bench(args)) => bench::run(args, quiet).map(done),
        Some(Command::Doctor(args)) => doctor::run(args),
        None => unreachable!("parse gives every call a command"),
    }
}

/// What clap has to say, without its hints: the first paragraph, which names argument and value.
fn usage_error(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines = text.lines().map(str::trim);
    let paragraph: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    paragraph.join(" ")
}

fn exit_status(error: &anyhow::Error) -> u8 {
    if error.is::<bench::Mismatch>() {
        return 1;
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Driver { .. } | Error::DeviceLost { .. }) => 1,
        _ => 2,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_the_demo() {
        let cli = parse(vec!["keysieve".into(), "--quiet".into()]).unwrap();
        assert!(cli.quiet && matches!(cli.command, Some(Command::Demo(_))));
    }
}
