//! `gavel reaper`: the process that a daemon has beside it, in case it is killed and cannot end (`gavel_mount::reaper`).

use anyhow::Context;
use clap::Args;
use gavel_mount::reaper::Watched;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use tokio::signal::unix::{SignalKind, signal};

/// Watches over the daemon that has started it.
#[derive(Args)]
pub struct Reaper {
    /// The daemon
    pid: i32,
}

impl Reaper {
    /// # Errors
    /// The daemon cannot be watched, or does not end though it was killed.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let daemon = Pid::from_raw(self.pid).context("no process has this number")?;
        let watched = Watched::new(daemon).with_context(|| format!("watching process {daemon}"))?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("watching for signals")?;
        if !runtime.block_on(thread_ended(daemon))? {
            return Ok(ExitCode::SUCCESS);
        }
        let aborted = watched.see_off().with_context(|| format!("process {daemon} was killed and does not end"))?;
        if !aborted.is_empty() {
            eprintln!(
                "gavel reaper: process {daemon} was killed and could not end: aborted its connections {aborted:?}"
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Waits for the end of the thread of `daemon` that has started this process. False if another process has the daemon's number by now.
async fn thread_ended(daemon: Pid) -> anyhow::Result<bool> {
    // What is sent to all processes of a service is not for this one, which ends behind the daemon.
    let _terminated = signal(SignalKind::terminate()).context("watching for signals")?;
    let mut ended = signal(SignalKind::user_defined1()).context("watching for signals")?;
    set_parent_process_death_signal(Some(Signal::USR1)).context("tying the reaper to its daemon")?;
    let is_child = getppid() == Some(daemon);
    if is_child {
        ended.recv().await;
    }
    Ok(is_child)
}

/// Starts the reaper of this process; called by its first thread. Without one it works as well, but may need help to end when it is killed.
pub fn start() {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("gavel").arg("reaper").arg(std::process::id().to_string());
    // What a terminal sends to the daemon's group is not for its reaper, which ends behind it.
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn();
    if let Err(error) = spawned {
        tracing::warn!("no process watches over this one: {error}");
    }
}
