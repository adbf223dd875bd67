//! `gavel dev`: a throw-away cluster on this machine.

mod cluster;
mod down;
mod status;
mod up;

use clap::Subcommand;
use std::process::ExitCode;

/// A throw-away cluster on this machine: everything in one directory, the mounts at DIR/mnt/1 to DIR/mnt/N.
#[derive(Subcommand)]
pub enum Dev {
    /// Start the cluster (make it first if it is not there); returns when all mounts work
    Up(up::Up),
    /// Stop the cluster and remove it, with everything in it
    Down(down::Down),
    /// Say how its nodes are
    Status(status::DevStatus),
}

impl Dev {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Dev::Up(up) => up.run(),
            Dev::Down(down) => down.run(),
            Dev::Status(status) => status.run(),
        }
    }
}
