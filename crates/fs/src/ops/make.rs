//! `mknod` and `mkdir`, and what all operations that make an object share.
//!
//! Two of them with different names in one directory do not collide: each depends on the directory's firm half, on its
//! default ACL, and on its own name being free; the directory's counters merge.
//!
//! The kernel (since 6.0) takes set-group-id from the mode of an executable that a stranger to the directory's group
//! makes in a set-group-id directory, before it asks: that is not done again here, where supplementary groups are unknown.

use super::Answer;
use crate::acl::{self, Acl};
use crate::changes::Changes;
use crate::privileges::SGID;
use crate::tree::{Tree, damaged};
use crate::{FsError, Reply, Stop, name};
use gavel_types::{Key, ObjectId, Timestamp};
use gavel_wire::{Attr, Dirent, Firm, Kind};

/// What is to be made.
pub(super) struct New<'a> {
    pub(super) parent: ObjectId,
    pub(super) name: &'a [u8],
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) umask: u16,
    pub(super) rdev: u32,
    pub(super) size: u64,
}

pub(super) fn mknod(
    tree: &Tree<'_>,
    parent: ObjectId,
    name: &[u8],
    kind: Kind,
    (mode, umask): (u16, u16),
    rdev: u32,
) -> Result<Answer, Stop> {
    name::check(name)?;
    let rdev = match kind {
        Kind::File | Kind::Fifo | Kind::Socket => 0,
        Kind::CharDevice | Kind::BlockDevice => rdev,
        Kind::Directory | Kind::Symlink => return Err(FsError::Invalid.into()),
    };
    let directory = tree.vacant(parent, name)?;
    let new = New { parent, name, kind, mode: mode & 0o7777, umask, rdev, size: 0 };
    let (object, changes) = make(tree, &directory, &new)?;
    Answer::write(changes, Reply::Object(object))
}

pub(super) fn mkdir(tree: &Tree<'_>, parent: ObjectId, name: &[u8], (mode, umask): (u16, u16)) -> Result<Answer, Stop> {
    name::check(name)?;
    let directory = tree.vacant(parent, name)?;
    // mkdir(2) takes the permissions and the sticky bit from the caller; set-group-id comes from the parent.
    let new = New { parent, name, kind: Kind::Directory, mode: mode & 0o1777, umask, rdev: 0, size: 0 };
    let (object, changes) = make(tree, &directory, &new)?;
    Answer::write(changes, Reply::Object(object))
}

/// Makes an object in `directory` (the firm half of `new.parent`, in which the name is free).
pub(super) fn make(tree: &Tree<'_>, directory: &Firm, new: &New<'_>) -> Result<(ObjectId, Changes), Stop> {
    let inherited = if new.kind == Kind::Symlink { None } else { default_acl(tree, new.parent)? };
    let object = tree.cx.fresh.ok_or(Stop::NeedObjectId)?;
    let mut changes = Changes::new(tree.volume());
    let mut attr = fresh_attr(tree, directory, new);
    match &inherited {
        None => attr.firm.mode &= !(new.umask & 0o777),
        Some(default) => {
            let (mode, access) = default.inherit(attr.firm.mode);
            attr.firm.mode = mode;
            if let Some(access) = access {
                changes.put_acl(object, acl::ACCESS, &access);
            }
            if new.kind == Kind::Directory {
                changes.put_acl(object, acl::DEFAULT, default);
            }
        }
    }
    changes.put_attr(object, attr);
    changes.put_dirent(new.parent, new.name, Dirent { object, kind: new.kind });
    changes.adjust_names(new.parent, 1, i32::from(new.kind == Kind::Directory));
    Ok((object, changes))
}

fn fresh_attr(tree: &Tree<'_>, directory: &Firm, new: &New<'_>) -> Attr {
    let now = Timestamp::COMMIT;
    let is_directory = new.kind == Kind::Directory;
    let takes_group = directory.mode & SGID != 0;
    let firm = Firm {
        kind: new.kind,
        mode: if is_directory && takes_group { new.mode | SGID } else { new.mode },
        uid: tree.cx.caller.uid,
        gid: if takes_group { directory.gid } else { tree.cx.caller.gid },
        rdev: new.rdev,
        parent: if is_directory { new.parent } else { ObjectId::VOLUME },
        birth: now,
        class: directory.class,
    };
    let nlink = if is_directory { 2 } else { 1 };
    Attr { firm, nlink, size: new.size, allocated: 0, atime: now, mtime: now, ctime: now }
}

fn default_acl(tree: &Tree<'_>, directory: ObjectId) -> Result<Option<Acl>, Stop> {
    let Some(value) = tree.xattr(directory, acl::DEFAULT)? else { return Ok(None) };
    Acl::parse(&value).map_err(|_| damaged(&Key::xattr(tree.volume(), directory, acl::DEFAULT)))
}
