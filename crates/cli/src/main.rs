//! The `gavel` command: one file for each subcommand under [`command`]; what they print in [`output`].
//!
//! Exit status: 0 done; 1 it could not be done (the reason and a hint are on standard error); 2 the command line makes no
//! sense; 3 a node that was running has failed.

mod command;
mod mounter;
mod output;
mod past;
mod target;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    output::end_quietly_on_a_closed_pipe();
    let line = command::CommandLine::parse();
    match command::run(line) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(&error);
            ExitCode::from(1)
        }
    }
}
