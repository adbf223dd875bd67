//! The processes of a transaction: all that are in the mount namespace which its command was given.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::path::Path;
use std::time::Duration;

/// How often it is looked whether one is left: each round kills what the last one has not seen.
const ROUNDS_MAX: u32 = 1000;
/// How long after one round the next one comes.
const PAUSE: Duration = Duration::from_millis(1);

/// Says which mount namespace a process is in; none if that can't be seen.
pub fn of(process: &str) -> Option<u64> {
    let link = std::fs::read_link(Path::new("/proc").join(process).join("ns/mnt")).ok()?;
    link.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok()
}

/// Is it a namespace of its own: neither the daemon's nor that of the machine's first process?
pub fn is_apart(namespace: u64) -> bool {
    of("self").is_some_and(|own| own != namespace) && of("1") != Some(namespace)
}

/// Kills every process in the namespace; returns when none is left.
pub fn end(namespace: u64) {
    if !is_apart(namespace) {
        return;
    }
    for _ in 0..ROUNDS_MAX {
        let Ok(processes) = std::fs::read_dir("/proc") else { return };
        let mut any = false;
        for process in processes.flatten() {
            let name = process.file_name();
            let Some(name) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
                continue;
            };
            if of(name) != Some(namespace) {
                continue;
            }
            any = true;
            let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else { continue };
            // The number may be another process's by now: looked at once more when it is held.
            if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
                && of(name) == Some(namespace)
            {
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
        }
        if !any {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    tracing::error!(namespace, "processes of a transaction do not end");
}
