//! The command of a `gavel txn run`, in a mount namespace of its own. `gavel txn run` starts this; nobody else has to.

use super::which::ask_txn;
use crate::output::print_error;
use anyhow::{Context, ensure};
use clap::Args;
use gavel_runtime::host::txn::TxnAsk;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::Signal;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Gavel itself could not do it.
pub const FAILED: u8 = 125;
/// The command is there, and can't be run; as shells say it.
const CANNOT_RUN: u8 = 126;
/// There is no such command; as shells say it.
const NO_COMMAND: u8 = 127;

/// Covers each mount of a volume with that of a transaction, in a mount namespace of its own, and becomes the command.
#[derive(Args)]
pub struct Enter {
    /// The daemon's socket
    #[arg(long)]
    socket: PathBuf,
    /// The transaction
    #[arg(long)]
    id: String,
    /// Where it is mounted
    #[arg(long)]
    place: PathBuf,
    /// What it is to cover
    #[arg(long)]
    over: Vec<PathBuf>,
    /// Who runs it
    #[arg(long)]
    parent: u32,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Enter {
    /// Does not return, unless it can't be done.
    pub fn run(self) -> ExitCode {
        if let Err(error) = self.prepare() {
            print_error(&error);
            return ExitCode::from(FAILED);
        }
        let error = Command::new(&self.command[0]).args(&self.command[1..]).exec();
        eprintln!("error: {}: {error}", self.command[0].display());
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        ExitCode::from(if missing { NO_COMMAND } else { CANNOT_RUN })
    }

    fn prepare(&self) -> anyhow::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tying the command to its run")?;
        let parent = rustix::process::getppid().map(|parent| parent.as_raw_pid() as u32);
        ensure!(parent == Some(self.parent), "the run that this belongs to is gone");
        let here = std::env::current_dir().context("where is this?")?;
        own_namespace().context("a mount namespace of its own")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("keeping mounts to itself")?;
        ask_txn(&self.socket, TxnAsk::Entered { id: self.id.clone(), pid: std::process::id() })?;
        for over in &self.over {
            let bound = mount(Some(&self.place), over, None::<&str>, MsFlags::MS_BIND, None::<&str>);
            bound.with_context(|| format!("covering {}", over.display()))?;
        }
        // The same directory, as the transaction has it.
        std::env::set_current_dir(&here).with_context(|| format!("{}: in the transaction", here.display()))
    }
}

fn own_namespace() -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(unshare(CloneFlags::CLONE_NEWNS)?);
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    std::fs::write("/proc/self/setgroups", "deny").context("/proc/self/setgroups")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).context("/proc/self/uid_map")?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).context("/proc/self/gid_map")
}
