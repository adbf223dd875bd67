//! The kernel's table of mounts.

use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Type, such as `fuse.gavel`.
    pub kind: String,
}

/// All mounts at `dir` or below it, in the order in which they were made.
pub fn under(dir: &Path) -> Vec<Mount> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = table.lines().filter_map(|line| {
        // proc_pid_mountinfo(5). The paths of tests have no character that is escaped there.
        let (front, back) = line.split_once(" - ")?;
        let point = PathBuf::from(front.split(' ').nth(4)?);
        Some(Mount { point, kind: back.split(' ').next()?.to_owned() })
    });
    mounts.filter(|mount| mount.point.starts_with(dir)).collect()
}

/// Takes off all mounts at `dir` or below it, used or not.
pub fn take_off(dir: &Path) {
    for mount in under(dir).iter().rev() {
        if let Err(error) = unmount(&mount.point, UnmountFlags::DETACH) {
            eprintln!("{}: cannot unmount: {error}", mount.point.display());
        }
    }
}
