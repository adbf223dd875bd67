//! `symlink` and `readlink`.

use super::Answer;
use super::make::{New, make};
use crate::tree::{Tree, damaged};
use crate::{FsError, Reply, Stop, name};
use gavel_types::{Key, ObjectId};
use gavel_wire::Kind;

pub(super) fn symlink(tree: &Tree<'_>, parent: ObjectId, name: &[u8], target: &[u8]) -> Result<Answer, Stop> {
    name::check(name)?;
    name::check_target(target)?;
    let directory = tree.vacant(parent, name)?;
    let size = target.len() as u64;
    let new = New { parent, name, kind: Kind::Symlink, mode: 0o777, umask: 0, rdev: 0, size };
    let (object, mut changes) = make(tree, &directory, &new)?;
    changes.put_target(object, target);
    Answer::write(changes, Reply::Object(object))
}

/// Depends on the target alone, which never changes.
pub(super) fn readlink(tree: &Tree<'_>, object: ObjectId) -> Result<Answer, Stop> {
    match tree.target(object)? {
        Some(target) => Answer::read(Reply::Bytes(target)),
        None if tree.firm(object)?.kind == Kind::Symlink => Err(damaged(&Key::target(tree.volume(), object))),
        None => Err(FsError::Invalid.into()),
    }
}
