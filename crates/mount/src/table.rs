//! The mounts of this machine: which are ours, which are dead, and how they go away.
//!
//! A daemon that is killed leaves its mount behind: the directory is still covered, and everything under it answers
//! ENOTCONN. Nobody but root, or the user who mounted it, can take it away; [`Mounted::new`](crate::Mounted::new)
//! does when it mounts there again, and [`unmount_path`] on demand.

use crate::device;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What `/proc/self/mountinfo` calls the type of our mounts.
pub const FILESYSTEM_TYPE: &str = "fuse.gavel";
const TABLE: &str = "/proc/self/mountinfo";

/// One mount of this machine, as the mount namespace of this process sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountEntry {
    /// Unique among the mounts there are; reused later.
    pub id: u64,
    /// `major:minor` of the filesystem; one filesystem can be mounted in several places.
    pub device: String,
    /// The directory that it covers.
    pub point: PathBuf,
    /// The type, such as `ext4` or `fuse.gavel`.
    pub fs_type: String,
    /// What is mounted, such as a device or a cluster's name.
    pub source: String,
}

impl MountEntry {
    /// Is it a mount of Gavel, of this or another daemon?
    pub fn is_ours(&self) -> bool {
        self.fs_type == FILESYSTEM_TYPE
    }

    /// Is its daemon gone? May wait as long as a daemon that is there takes to answer.
    pub fn is_dead(&self) -> bool {
        // The one question that the kernel never answers from what it keeps.
        rustix::fs::statvfs(&self.point).is_err_and(|errno| matches!(errno, Errno::NOTCONN | Errno::CONNABORTED))
    }
}

/// How an unmount ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmounted {
    /// The mount is gone.
    Clean,
    /// The directory is free, but programs still have files of the mount open or work in it: it ends with the last.
    Busy,
    /// There was no mount any more.
    Already,
}

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Nothing is mounted at this very path.
    #[error("{}: nothing is mounted here", path.display())]
    NotMounted {
        /// The path.
        path: PathBuf,
    },
    /// Something else is mounted there.
    #[error("{}: this is a mount of type {fs_type}, not one of Gavel\nHint: `umount {}` unmounts anything", path.display(), path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What it is.
        fs_type: String,
    },
    /// Programs use it.
    #[error("{}: busy: programs have files open or work in it\nHint: `fuser -vm {}` names them; unmounting lazily frees the directory now and ends the mount with the last of them", path.display(), path.display())]
    Busy {
        /// The path.
        path: PathBuf,
    },
    /// The list of mounts cannot be read.
    #[error("{TABLE}: {cause}")]
    Table {
        /// Why.
        #[from]
        cause: io::Error,
    },
    /// The kernel or `fusermount3` refuses.
    #[error("{}: cannot unmount: {cause}", path.display())]
    Refused {
        /// The path.
        path: PathBuf,
        /// What was said.
        cause: String,
    },
}

/// All mounts, in the order in which they were made: of two on one directory, the later one is seen.
///
/// # Errors
/// If the kernel's table cannot be read.
pub fn mounts() -> io::Result<Vec<MountEntry>> {
    let table = std::fs::read(TABLE)?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// Mounts of Gavel below `dir` (or on it) whose daemon is gone.
///
/// # Errors
/// If the kernel's table cannot be read.
pub fn stale_mounts_under(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let below = mounts()?.into_iter().filter(|mount| mount.is_ours() && mount.point.starts_with(dir));
    Ok(below.filter(MountEntry::is_dead).map(|mount| mount.point).collect())
}

/// The mount that is seen at this very path, if one is.
///
/// # Errors
/// If the kernel's table cannot be read.
pub fn mount_at(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(mounts()?.into_iter().rfind(|mount| mount.point == path))
}

/// Unmounts a mount of Gavel, whether its daemon is there or not. `lazy`: also one that is in use; its directory is
/// free then, and what programs have open of it goes on until they close it (or fails, if the daemon is gone).
///
/// # Errors
/// [`UnmountError`]: the mount is still there.
pub fn unmount_path(path: &Path, lazy: bool) -> Result<Unmounted, UnmountError> {
    let path = place(path).map_err(|cause| UnmountError::Refused { path: path.into(), cause: cause.to_string() })?;
    match mount_at(&path)? {
        None => Err(UnmountError::NotMounted { path }),
        Some(mount) if !mount.is_ours() => Err(UnmountError::NotOurs { path, fs_type: mount.fs_type }),
        Some(_) => match detach(&path, false) {
            Err(UnmountError::Busy { .. }) if lazy => detach(&path, true).map(|()| Unmounted::Busy),
            other => other.map(|()| Unmounted::Clean),
        },
    }
}

/// Takes the mount at `path` off.
pub(crate) fn detach(path: &Path, lazy: bool) -> Result<(), UnmountError> {
    let flags = if lazy { UnmountFlags::DETACH | UnmountFlags::NOFOLLOW } else { UnmountFlags::NOFOLLOW };
    match unmount(path, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(UnmountError::Busy { path: path.into() }),
        Err(Errno::PERM) => device::detach_by_helper(path, lazy),
        Err(errno) => Err(UnmountError::Refused { path: path.into(), cause: errno.to_string() }),
    }
}

/// The path as the kernel's table has it: absolute, and without symlinks. A dead mount cannot be looked at itself,
/// but what is above it can.
pub(crate) fn place(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            let path = std::path::absolute(path)?;
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Err(error),
            }
        }
        other => other,
    }
}

/// One line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`): id, parent, device, root, point, options, any number
/// of tags, a dash, type, source, options. A line of another form is passed over.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = text(fields.nth(1)?);
    let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    fields.find(|field| *field == b"-")?;
    Some(MountEntry { id, device, point, fs_type: text(fields.next()?), source: text(fields.next()?) })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        rest = match behind.split_at_checked(3).and_then(|(digits, behind)| Some((octal(digits)?, behind))) {
            Some((byte, behind)) if first == b'\\' => {
                bytes.push(byte);
                behind
            }
            _ => {
                bytes.push(first);
                behind
            }
        };
    }
    bytes
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0u8, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(digit - b'0'),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_read_with_their_escapes() {
        let line =
            br"514 29 0:71 / /mnt/my\040files\134x rw,nodev shared:7 master:1 - fuse.gavel home\011c rw,user_id=0";
        let mount = parse(line).expect("a line of the form");
        assert_eq!(mount.id, 514);
        assert_eq!(mount.device, "0:71");
        assert_eq!(mount.point, Path::new("/mnt/my files\\x"));
        assert_eq!(mount.source, "home\tc");
        assert!(mount.is_ours());
        let bare = parse(b"22 1 8:1 / / rw - ext4 /dev/root rw").expect("a line without tags");
        assert_eq!((bare.point.as_path(), bare.fs_type.as_str()), (Path::new("/"), "ext4"));
    }

    #[test]
    fn lines_of_another_form_are_passed_over() {
        for line in ["", "x 1 8:1 / / rw - ext4 a rw", "22 1 8:1 / / rw ext4 /dev/root rw", "22 1 8:1 / / rw -"] {
            assert_eq!(parse(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(unescape(br"a\4"), br"a\4");
        assert_eq!(unescape(br"\777\08z"), br"\777\08z", "no octal number of a byte");
    }

    #[test]
    fn nothing_and_strangers_are_not_unmounted() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(matches!(unmount_path(dir.path(), true), Err(UnmountError::NotMounted { .. })));
        assert!(matches!(unmount_path(Path::new("/proc"), true), Err(UnmountError::NotOurs { .. })));
        assert!(matches!(unmount_path(&dir.path().join("none"), true), Err(UnmountError::Refused { .. })));
    }
}
