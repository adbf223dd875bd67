//! Which daemon is asked, about which volume, and about which path in it: found out from a path in a mount.

use crate::output::hinted;
use anyhow::Context;
use gavel_mount::CONTROL_XATTR;
use gavel_mount::table::MountEntry;
use gavel_runtime::host::control::{Reply, Request, ask};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a daemon may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do if a daemon can't be asked.
pub const ASK_HINT: &str =
    "its owner, or root, may ask a daemon; without that, `ls name@@2h` and the like work for everybody";

/// A path in a mount, and the daemon behind it.
pub struct Target {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The volume.
    pub volume: u32,
    /// The path within the volume, without a slash at either end; nothing is the root.
    pub path: Vec<u8>,
}

impl Target {
    /// Finds out about `path`, which need not be there (any more), but must be in a mount of Gavel. Symlinks are followed, but for the last name.
    ///
    /// # Errors
    /// If the path is in no mount of Gavel.
    pub fn of(path: &Path) -> anyhow::Result<Target> {
        let absolute = std::path::absolute(path).with_context(|| path.display().to_string())?;
        let mounts = gavel_mount::table::mounts().context("reading which mounts there are")?;
        let (existing, gone) = existing(&absolute, &mounts);
        let not_ours = || {
            let hint =
                "name a file or directory in a mount, such as /srv/shared/report; `gavel status` says what is mounted";
            hinted(format!("{}: not in a mount of Gavel", path.display()), hint)
        };
        let within = mounts.iter().filter(|mount| existing.starts_with(&mount.point));
        let innermost = within.max_by_key(|mount| mount.point.as_os_str().len());
        let mount = innermost.filter(|mount| mount.is_ours()).ok_or_else(not_ours)?;
        if let Some(transaction) = crate::command::txn::of_mount(&mount.point) {
            let hint =
                "a transaction has no history yet; ask outside of it, or `gavel txn diff` for what it has changed";
            return Err(hinted(format!("{}: in transaction {}", path.display(), transaction.id), hint));
        }
        let (volume, socket) = control(&mount.point).ok_or_else(not_ours)?;
        let inside = existing.strip_prefix(&mount.point).unwrap_or(Path::new(""));
        // To join nothing would add a slash.
        let path = if gone.as_os_str().is_empty() { inside.to_owned() } else { inside.join(gone) };
        let path = path.into_os_string().into_vec();
        Ok(Target { socket, volume, path })
    }

    /// Asks the daemon. What it could not do is an error.
    ///
    /// # Errors
    /// What it said, or why it could not be asked.
    pub fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        match ask(&self.socket, request, PATIENCE) {
            Ok(Reply::Error(error)) => Err(anyhow::anyhow!("{error}")),
            Ok(reply) => Ok(reply),
            Err(error) => Err(hinted(error.to_string(), ASK_HINT)),
        }
    }
}

/// Refuses a path of a past state, for what is done to the present; `instead` says what to do.
///
/// # Errors
/// If it is one.
pub fn refuse_past(path: &Path, instead: &str) -> anyhow::Result<()> {
    // What every mount gives inode numbers of the past alone (`docs/protocols/mount.md`).
    const PAST_BIT: u64 = 1 << 63;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.ino() & PAST_BIT != 0 && Target::of(path).is_ok() => {
            Err(hinted(format!("{}: this is a past state, which stays what it is", path.display()), instead))
        }
        _ => Ok(()),
    }
}

/// What of a path is there, with symlinks resolved but for the last name, and the rest. A mount is there, also if its node can say nothing of what is in it
/// because there is no quorum.
fn existing(path: &Path, mounts: &[MountEntry]) -> (PathBuf, PathBuf) {
    let is_ours = |found: &Path| mounts.iter().any(|mount| mount.is_ours() && mount.point == found);
    let mut gone: Vec<OsString> = Vec::new();
    let mut here = path.to_owned();
    loop {
        // The last name is not followed, if it is a symlink: it is what is asked about.
        let found = match (here.parent(), here.file_name()) {
            (Some(parent), Some(name)) if gone.is_empty() && here.symlink_metadata().is_ok() => {
                parent.canonicalize().map(|parent| parent.join(name))
            }
            _ => here.canonicalize(),
        };
        let named = || Some(here.parent()?.canonicalize().ok()?.join(here.file_name()?)).filter(|named| is_ours(named));
        if let Some(found) = found.ok().or_else(named) {
            return (found, gone.into_iter().rev().collect());
        }
        match (here.parent(), here.file_name()) {
            (Some(parent), Some(name)) => {
                gone.push(name.to_owned());
                here = parent.to_owned();
            }
            _ => return (PathBuf::from("/"), gone.into_iter().rev().collect()),
        }
    }
}

/// Volume and socket, as a mount says them.
pub fn control(mount: &Path) -> Option<(u32, PathBuf)> {
    let mut value = [0; 4096];
    let len = rustix::fs::getxattr(mount, CONTROL_XATTR, &mut value).ok()?;
    let value = value.get(..len)?;
    let space = value.iter().position(|byte| *byte == b' ')?;
    let volume = std::str::from_utf8(&value[..space]).ok()?.parse().ok()?;
    Some((volume, PathBuf::from(std::ffi::OsStr::from_bytes(&value[space + 1..]))))
}
