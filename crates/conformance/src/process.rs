//! Processes, by number.

use crate::wait;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::Duration;

/// How long a killed process may take to be gone: the kernel may have its disk writes to finish.
const GONE: Duration = Duration::from_secs(20);

/// Is there such a process, and is it more than its exit status? A killed process closes its files only with its last
/// thread, when its first one may have been a zombie for a while.
pub fn is_alive(pid: u32) -> bool {
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X') || threads() > 1)
}

/// Has SIGSTOP reached it?
pub fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// The state letter of `proc_pid_stat(5)`: what follows the name, which may have any bytes in it.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Sends a signal.
///
/// # Errors
/// If there is no such process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process number")?;
    kill_process(raw, signal).with_context(|| format!("signal {signal:?} to process {pid}"))
}

/// Kills a process and waits until it is gone.
///
/// # Errors
/// If it was not there, or does not go.
pub fn kill(pid: u32) -> Result<()> {
    signal(pid, Signal::KILL)?;
    wait::until(&format!("process {pid} is gone"), GONE, || !is_alive(pid))
}

/// The processes that have an argument which is `dir` or a path below it; never this one.
pub fn mentioning(dir: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id() && mentions(*pid, dir)).collect()
}

fn mentions(pid: u32, dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| Path::new(std::ffi::OsStr::from_bytes(word)).starts_with(dir))
}
