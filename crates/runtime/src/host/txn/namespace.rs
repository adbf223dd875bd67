//! The processes of a transaction: all that are in the mount namespace which its command was given.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is looked whether one is left: each round kills what the last one has not seen.
const ROUNDS_MAX: u32 = 1000;
/// How long after one round the next one comes.
const PAUSE: Duration = Duration::from_millis(1);

/// A mount namespace that is not the daemon's. It is held open: as long as it is, its number is no other one's.
#[derive(Debug)]
pub struct Namespace {
    held: File,
    number: u64,
}

fn path_of(process: &str) -> PathBuf {
    Path::new("/proc").join(process).join("ns/mnt")
}

/// Says which mount namespace a process is in; none if that can't be seen.
fn number_of(process: &str) -> Option<u64> {
    std::fs::metadata(path_of(process)).ok().map(|meta| meta.ino())
}

impl Namespace {
    /// The one that a process is in.
    ///
    /// # Errors
    /// If there is no such process, it may not be looked at, or it is in the namespace of this process or of the machine's first one.
    pub fn of(pid: u32) -> Result<Namespace, String> {
        let path = path_of(&pid.to_string());
        let held = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let number = held.metadata().map_err(|error| format!("{}: {error}", path.display()))?.ino();
        if number_of("self").is_none_or(|own| own == number) || number_of("1") == Some(number) {
            return Err(format!("process {pid} is in no mount namespace of its own"));
        }
        Ok(Namespace { held, number })
    }

    /// Kills every process in the namespace; returns when none is left.
    pub fn end(self) {
        for _ in 0..ROUNDS_MAX {
            let Ok(processes) = std::fs::read_dir("/proc") else { return };
            let mut any = false;
            for process in processes.flatten() {
                let name = process.file_name();
                let Some(name) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
                    continue;
                };
                if number_of(name) != Some(self.number) {
                    continue;
                }
                any = true;
                let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else { continue };
                // The number may be another process's by now: looked at once more when it is held.
                if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
                    && number_of(name) == Some(self.number)
                {
                    let _ = pidfd_send_signal(process, Signal::KILL);
                }
            }
            if !any {
                // Now its number may go to another one.
                drop(self.held);
                return;
            }
            std::thread::sleep(PAUSE);
        }
        tracing::error!(namespace = self.number, "processes of a transaction do not end");
    }
}
