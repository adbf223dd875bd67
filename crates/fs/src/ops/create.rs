//! `create`: opens a regular file by name, making it if it is not there.

use super::Answer;
use super::make::{New, make};
use super::setattr;
use crate::changes::Changes;
use crate::tree::Tree;
use crate::{FsError, Reply, Stop, name, privileges};
use gavel_types::ObjectId;
use gavel_wire::{Dirent, Kind};

pub(super) fn create(
    tree: &Tree<'_>,
    parent: ObjectId,
    name: &[u8],
    (mode, umask): (u16, u16),
    exclusive: bool,
    truncate: bool,
) -> Result<Answer, Stop> {
    name::check(name)?;
    match tree.dirent(parent, name)? {
        Some(_) if exclusive => Err(FsError::Exists.into()),
        Some(found) => open_found(tree, found, truncate),
        None => {
            let directory = tree.directory(parent)?;
            let new = New { parent, name, kind: Kind::File, mode: mode & 0o7777, umask, rdev: 0, size: 0 };
            let (object, changes) = make(tree, &directory, &new)?;
            Answer::write(changes, Reply::Created { object, created: true })
        }
    }
}

/// The kernel asks only for names that it takes to be free: somebody else was faster.
fn open_found(tree: &Tree<'_>, found: Dirent, truncate: bool) -> Result<Answer, Stop> {
    let object = found.object;
    match found.kind {
        Kind::File => {}
        Kind::Directory => return Err(FsError::IsDirectory.into()),
        // The kernel itself follows symlinks and opens devices: upon this error it looks the name up again.
        _ => return Err(FsError::Stale.into()),
    }
    let reply = Reply::Created { object, created: false };
    if !truncate {
        return Answer::read(reply);
    }
    let attr = tree.named_attr(object)?;
    if let Some(part) = setattr::truncate_partly(tree, object, &attr, 0)? {
        return Ok(part);
    }
    let mut changes = Changes::new(tree.volume());
    let truncated = setattr::truncate(&mut changes, object, attr, 0, privileges::taken_from(tree.cx.caller));
    changes.put_attr(object, truncated);
    Answer::write(changes, reply)
}
