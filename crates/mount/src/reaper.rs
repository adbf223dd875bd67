//! The end of a daemon that was killed and cannot die.
//!
//! A thread that makes the kernel forget waits in there for the lock of a page or of a directory, and no signal ends that. Whoever
//! holds the lock may be waiting for an answer of this very daemon. Killed in that moment, its other threads are gone, and nobody answers; the one that waits
//! is left, and with it all that the process has open: the kernel gives no request up, programs in the mount hang, and
//! the data directory stays locked. So another process is told when the thread ends that has started it, and ends the connections.
//!
//! ```text
//!   running ──that thread has ended──> dying ──all have──> gone
//!                                        └──not within GRACE──> connections aborted ──> gone
//! ```

use crate::table;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// How long a process may take to end behind one of its threads. It takes milliseconds.
const GRACE: Duration = Duration::from_secs(1);
/// Where the kernel lets connections be aborted, also by the user who has mounted; on most systems.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// What a descriptor of `/dev/fuse` says of itself (Linux 6.17): its connection, which is the minor number of the filesystem's device.
const CONNECTION: &str = "fuse_connection:";

/// A daemon that is watched.
#[derive(Debug)]
pub struct Watched {
    pid: Pid,
    process: OwnedFd,
}

impl Watched {
    /// Begins to watch a process.
    ///
    /// # Errors
    /// There is none, or it cannot be watched.
    pub fn new(pid: Pid) -> io::Result<Watched> {
        Ok(Watched { pid, process: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// To be called when a thread of it has ended: sees the process off. If it was killed and cannot end, its connections to the kernel are aborted: programs in
    /// its mounts get errors instead of waiting for ever, and it ends. Gives which those were.
    ///
    /// # Errors
    /// It cannot be looked at, or a connection not be aborted.
    pub fn see_off(self) -> io::Result<BTreeSet<u32>> {
        if has_ended(&self.process, Some(GRACE))? {
            return Ok(BTreeSet::new());
        }
        let connections = connections(self.pid)?;
        connections.iter().try_for_each(|connection| abort(*connection))?;
        has_ended(&self.process, None)?;
        Ok(connections)
    }
}

/// Waits, for `timeout` at most. True if it has.
fn has_ended(process: &OwnedFd, timeout: Option<Duration>) -> io::Result<bool> {
    let timeout =
        timeout.map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() });
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], timeout.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// What a process has open. The threads that are left have it all; the first one, which has ended, has nothing.
fn connections(process: Pid) -> io::Result<BTreeSet<u32>> {
    let mut connections = BTreeSet::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // Threads and descriptors may go while they are looked at.
        let Ok(descriptors) = std::fs::read_dir(thread?.path().join("fdinfo")) else { continue };
        let said = descriptors.flatten().filter_map(|descriptor| std::fs::read_to_string(descriptor.path()).ok());
        connections.extend(said.filter_map(|said| connection(&said)));
    }
    Ok(connections)
}

fn connection(fdinfo: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| line.strip_prefix(CONNECTION))?.trim().parse().ok()
}

fn abort(connection: u32) -> io::Result<()> {
    match std::fs::write(Path::new(CONNECTIONS).join(connection.to_string()).join("abort"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        written => return written,
    }
    let device = format!("0:{connection}");
    let mount = table::mounts()?.into_iter().find(|mount| mount.is_ours() && mount.device == device);
    let Some(mount) = mount else {
        let cause = format!("connection {connection} has no mount of Gavel here, and {CONNECTIONS} is not mounted");
        return Err(io::Error::new(io::ErrorKind::NotFound, cause));
    };
    match unmount(&mount.point, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        // It is in use, and aborted all the same.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_says_which_connection_it_is() {
        assert_eq!(connection("pos:\t0\nflags:\t02100002\nmnt_id:\t24\nino:\t90\nfuse_connection:\t39\n"), Some(39));
        assert_eq!(connection("pos:\t0\nflags:\t02100002\n"), None);
    }
}
