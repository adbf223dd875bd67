//! What the repository runs on itself.
//!
//! - [`check`]: the house's own rules, which the compiler cannot enforce: who may depend on whom, what pure rooms may
//!   not call, no paths of somebody's machine, file lengths, a reason for each dependency, links that lead somewhere
//! - [`bench`](mod@bench): the workloads of `docs/benchmarks.md`, in any number of directories
//! - [`passthrough`]: a FUSE filesystem that hands everything to a directory: the floor that the benchmark compares with
//!
//! What this crate is not: part of Gavel. Nothing depends on it, and it depends on none of the rooms; it sees the
//! cluster the way a user does, through its command line and its mounts.

mod bench;
mod check;
mod passthrough;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Checks and benchmarks that the repository runs on itself")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run the house's own checks on the repository; exit status 1 when something is found
    Check(check::CheckArguments),
    /// Run the workloads of docs/benchmarks.md and print how directories compare
    Bench(bench::BenchArguments),
    /// Serve a directory through FUSE with as little in between as possible, until SIGTERM or unmount
    Passthrough(passthrough::PassthroughArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Check(arguments) => check::run(&arguments),
        Task::Bench(arguments) => bench::run(arguments),
        Task::Passthrough(arguments) => passthrough::run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::from(2)
    })
}
