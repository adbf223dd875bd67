//! `setattr`: chmod, chown, truncate and utimes, or several of them at once.
//!
//! Who may do it is the kernel's to decide; here is what ext4 does once that is settled. Setting times alone merges with
//! what others do to the object. All else replaces the attributes and depends on all of them, times and counters
//! too.

use super::Answer;
use crate::acl::{self, Acl};
use crate::changes::{CHANGED, Changes};
use crate::operation::{SetAttr, SetTime};
use crate::privileges::{self, CAPABILITIES};
use crate::tree::{Tree, damaged, regular};
use crate::{FsError, Reply, Stop, extents};
use gavel_types::limits::FILE_BYTES_MAX;
use gavel_types::{Key, ObjectId, Timestamp};
use gavel_wire::{Attr, AttrDelta, Kind};

pub(super) fn setattr(tree: &Tree<'_>, object: ObjectId, set: &SetAttr) -> Result<Answer, Stop> {
    let (atime, mtime) = (set.atime.map(resolve).transpose()?, set.mtime.map(resolve).transpose()?);
    let mut changes = Changes::new(tree.volume());
    if only_times(set) {
        tree.firm(object)?;
        changes.adjust(object, AttrDelta { atime, mtime, ..CHANGED });
    } else {
        let mut attr = tree.attr(object)?;
        if let Some(size) = set.size {
            regular(attr.firm.kind)?;
            if size > FILE_BYTES_MAX {
                return Err(FsError::TooLarge.into());
            }
            if let Some(part) = truncate_partly(tree, object, &attr, size)? {
                return Ok(part);
            }
            attr = truncate(&mut changes, object, attr, size, set.kill_suidgid);
        } else if set.kill_suidgid && attr.firm.kind != Kind::Directory {
            attr.firm.mode = privileges::after_write(attr.firm.mode);
        }
        if let Some(mode) = set.mode {
            attr.firm.mode = chmod(tree, &mut changes, object, &attr, mode & 0o7777)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            attr = chown(tree, &mut changes, object, attr, set)?;
        }
        attr.atime = atime.unwrap_or(attr.atime);
        attr.mtime = mtime.unwrap_or(attr.mtime);
        attr.ctime = Timestamp::COMMIT;
        changes.put_attr(object, attr);
    }
    Answer::write(changes, Reply::Object(object))
}

fn only_times(set: &SetAttr) -> bool {
    let others = SetAttr { atime: None, mtime: None, ..*set };
    others == SetAttr::default()
}

/// Cuts a regular file that has too many extents behind `size` for one plan to a size between. None if one plan will do.
pub(super) fn truncate_partly(
    tree: &Tree<'_>,
    object: ObjectId,
    attr: &Attr,
    size: u64,
) -> Result<Option<Answer>, Stop> {
    let cut = extents::cut_of_one_plan(tree, object, attr.size, size)?;
    if cut <= size {
        return Ok(None);
    }
    let mut changes = Changes::new(tree.volume());
    let attr = truncate(&mut changes, object, *attr, cut, false);
    changes.put_attr(object, attr);
    Answer::write(changes, Reply::Partly).map(Some)
}

/// Cuts a regular file to `size`, or makes it longer by a hole. Answers with its attributes after that.
pub(super) fn truncate(changes: &mut Changes, object: ObjectId, mut attr: Attr, size: u64, kill: bool) -> Attr {
    if size <= attr.size {
        // Room that was reserved behind the end goes, too. Where the file grows, such room becomes part of it.
        changes.carve_tail(object, size);
    }
    changes.delete_xattr(object, CAPABILITIES);
    if kill {
        attr.firm.mode = privileges::after_write(attr.firm.mode);
    }
    attr.size = size;
    attr.mtime = Timestamp::COMMIT;
    attr.ctime = Timestamp::COMMIT;
    attr
}

/// The mode behind a chmod. An access ACL follows.
fn chmod(tree: &Tree<'_>, changes: &mut Changes, object: ObjectId, attr: &Attr, mode: u16) -> Result<u16, Stop> {
    if attr.firm.kind == Kind::Symlink {
        return Err(FsError::NotSupported.into());
    }
    if let Some(value) = tree.xattr(object, acl::ACCESS)? {
        match Acl::parse(&value) {
            Ok(Some(acl)) => changes.put_acl(object, acl::ACCESS, &acl.with_mode(mode)),
            _ => return Err(damaged(&Key::xattr(tree.volume(), object, acl::ACCESS))),
        }
    }
    Ok(mode)
}

/// The attributes behind a chown.
fn chown(
    tree: &Tree<'_>,
    changes: &mut Changes,
    object: ObjectId,
    mut attr: Attr,
    set: &SetAttr,
) -> Result<Attr, Stop> {
    // All ones means "leave it" in chown(2), so nobody can have it.
    if set.uid == Some(u32::MAX) || set.gid == Some(u32::MAX) {
        return Err(FsError::Invalid.into());
    }
    attr.firm.mode = privileges::after_chown(attr.firm.kind, attr.firm.mode, attr.firm.gid, tree.cx.caller);
    if attr.firm.kind == Kind::File {
        changes.delete_xattr(object, CAPABILITIES);
    }
    attr.firm.uid = set.uid.unwrap_or(attr.firm.uid);
    attr.firm.gid = set.gid.unwrap_or(attr.firm.gid);
    Ok(attr)
}

/// A time to set, as it goes into a plan.
fn resolve(time: SetTime) -> Result<Timestamp, FsError> {
    match time {
        SetTime::Now => Ok(Timestamp::COMMIT),
        SetTime::At(time) if time.nanos < 1_000_000_000 => Ok(time),
        SetTime::At(_) => Err(FsError::Invalid),
    }
}
