//! Extended attributes, and the access control lists among them.
//!
//! Setting two attributes of one object does not collide. Who may see or set what is the kernel's to decide, but for
//! what it leaves to filesystems: `trusted.*` is not listed for ordinary users.

use super::Answer;
use crate::acl::{self, Acl};
use crate::changes::{CHANGED, Changes};
use crate::operation::XattrMode;
use crate::privileges;
use crate::tree::{Tree, damaged};
use crate::{FsError, Reply, Stop};
use gavel_types::limits::{XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use gavel_types::{KeyParts, KeyRange, ObjectId, Timestamp};
use gavel_wire::{Firm, Kind};

/// Attributes held in memory at a time: with the largest values, 1 MiB.
const PAGE: usize = 16;
/// From so many bytes of names on, a new name depends on there being no other new one. Below, names can come
/// concurrently, and what they add together stays far from the limit.
const LIST_BYTES_GUARDED: usize = XATTR_LIST_BYTES_MAX / 2;

/// Which family an attribute belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Space {
    User,
    /// `trusted.*` and `security.*`: any object can have them.
    Privileged,
    AccessAcl,
    DefaultAcl,
}

impl Space {
    fn is_acl(self) -> bool {
        matches!(self, Space::AccessAcl | Space::DefaultAcl)
    }
}

fn space(name: &[u8]) -> Result<Space, FsError> {
    if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX || name.contains(&0) {
        return Err(FsError::Invalid);
    }
    let (prefix, space) = match name {
        acl::ACCESS => return Ok(Space::AccessAcl),
        acl::DEFAULT => return Ok(Space::DefaultAcl),
        _ if name.starts_with(b"user.") => (&b"user."[..], Space::User),
        _ if name.starts_with(b"trusted.") => (&b"trusted."[..], Space::Privileged),
        _ if name.starts_with(b"security.") => (&b"security."[..], Space::Privileged),
        _ => return Err(FsError::NotSupported),
    };
    if name.len() == prefix.len() { Err(FsError::Invalid) } else { Ok(space) }
}

/// Depends on the attribute alone; if it is not there, on what the object is, too.
pub(super) fn getxattr(tree: &Tree<'_>, object: ObjectId, name: &[u8]) -> Result<Answer, Stop> {
    let space = space(name)?;
    match tree.xattr(object, name)? {
        Some(value) => Answer::read(Reply::Bytes(value)),
        None => {
            refuse_acl_of_symlink(space, &tree.firm(object)?)?;
            Err(FsError::NoAttribute.into())
        }
    }
}

pub(super) fn setxattr(
    tree: &Tree<'_>,
    object: ObjectId,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> Result<Answer, Stop> {
    let space = space(name)?;
    if value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(FsError::AttributeTooLarge.into());
    }
    let firm = tree.firm(object)?;
    check_settable(space, &firm)?;
    if space.is_acl() {
        return set_acl(tree, object, &firm, space, Acl::parse(value)?);
    }
    match mode {
        XattrMode::Set => {}
        XattrMode::Create if tree.xattr(object, name)?.is_some() => return Err(FsError::Exists.into()),
        XattrMode::Replace if tree.xattr(object, name)?.is_none() => return Err(FsError::NoAttribute.into()),
        XattrMode::Create | XattrMode::Replace => {}
    }
    check_list(tree, object, name)?;
    let mut changes = Changes::new(tree.volume());
    changes.put_xattr(object, name, value);
    changes.adjust(object, CHANGED);
    Answer::write(changes, Reply::Empty)
}

pub(super) fn removexattr(tree: &Tree<'_>, object: ObjectId, name: &[u8]) -> Result<Answer, Stop> {
    let space = space(name)?;
    let firm = tree.firm(object)?;
    check_settable(space, &firm)?;
    if space.is_acl() {
        return set_acl(tree, object, &firm, space, None);
    }
    if tree.xattr(object, name)?.is_none() {
        return Err(FsError::NoAttribute.into());
    }
    let mut changes = Changes::new(tree.volume());
    changes.delete_xattr(object, name);
    changes.adjust(object, CHANGED);
    Answer::write(changes, Reply::Empty)
}

pub(super) fn listxattr(tree: &Tree<'_>, object: ObjectId) -> Result<Answer, Stop> {
    tree.firm(object)?;
    tree.depend_on(&KeyRange::xattrs(tree.volume(), object))?;
    let mut list = Vec::new();
    for name in names(tree, object)? {
        if tree.cx.caller.uid == 0 || !name.starts_with(b"trusted.") {
            list.extend_from_slice(&name);
            list.push(0);
        }
    }
    Answer::read(Reply::Bytes(list.into_boxed_slice()))
}

fn refuse_acl_of_symlink(space: Space, firm: &Firm) -> Result<(), FsError> {
    if space.is_acl() && firm.kind == Kind::Symlink { Err(FsError::NotSupported) } else { Ok(()) }
}

fn check_settable(space: Space, firm: &Firm) -> Result<(), FsError> {
    refuse_acl_of_symlink(space, firm)?;
    match (space, firm.kind) {
        // On others the permission bits say who may use the device, not who may fill it with attributes.
        (Space::User, Kind::File | Kind::Directory) => Ok(()),
        (Space::User, _) => Err(FsError::NotPermitted),
        _ => Ok(()),
    }
}

/// Sets an ACL, or takes it away. As in the VFS, it does not matter whether there was one.
fn set_acl(tree: &Tree<'_>, object: ObjectId, firm: &Firm, space: Space, acl: Option<Acl>) -> Result<Answer, Stop> {
    let mut changes = Changes::new(tree.volume());
    match (space, acl) {
        (Space::AccessAcl, Some(acl)) => set_access_acl(tree, &mut changes, object, firm, &acl)?,
        (_, Some(_)) if firm.kind != Kind::Directory => return Err(FsError::AccessDenied.into()),
        (_, Some(acl)) => {
            changes.put_acl(object, acl::DEFAULT, &acl);
            changes.adjust(object, CHANGED);
        }
        (_, None) => {
            let name = if space == Space::AccessAcl { acl::ACCESS } else { acl::DEFAULT };
            if tree.xattr(object, name)?.is_none() {
                return Answer::read(Reply::Empty);
            }
            changes.delete_xattr(object, name);
            changes.adjust(object, CHANGED);
        }
    }
    Answer::write(changes, Reply::Empty)
}

/// The mode follows the access ACL. One that says no more than the mode is not kept.
fn set_access_acl(
    tree: &Tree<'_>,
    changes: &mut Changes,
    object: ObjectId,
    firm: &Firm,
    acl: &Acl,
) -> Result<(), Stop> {
    if acl.is_equivalent_to_mode() {
        changes.delete_xattr(object, acl::ACCESS);
    } else {
        changes.put_acl(object, acl::ACCESS, acl);
    }
    let mode = firm.mode & !0o777 | acl.mode_bits();
    let mode = privileges::after_set_acl(mode, firm.gid, tree.cx.caller);
    if mode == firm.mode {
        changes.adjust(object, CHANGED);
    } else {
        let mut attr = tree.attr(object)?;
        attr.firm.mode = mode;
        attr.ctime = Timestamp::COMMIT;
        changes.put_attr(object, attr);
    }
    Ok(())
}

/// Is there room for `name` in the list of names?
fn check_list(tree: &Tree<'_>, object: ObjectId, name: &[u8]) -> Result<(), Stop> {
    let others = names(tree, object)?;
    let bytes: usize = others.iter().filter(|other| ***other != *name).map(|other| other.len() + 1).sum();
    let bytes = bytes + name.len() + 1;
    if bytes > LIST_BYTES_GUARDED {
        tree.depend_on(&KeyRange::xattrs(tree.volume(), object))?;
    }
    if bytes > XATTR_LIST_BYTES_MAX { Err(FsError::AttributeTooLarge.into()) } else { Ok(()) }
}

/// The names of all attributes, in order. Not guarded.
fn names(tree: &Tree<'_>, object: ObjectId) -> Result<Vec<Box<[u8]>>, Stop> {
    let mut names: Vec<Box<[u8]>> = Vec::new();
    let mut range = KeyRange::xattrs(tree.volume(), object);
    loop {
        let page = tree.unguarded().scan(&range, PAGE)?;
        for (key, _) in &page {
            match key.parts() {
                KeyParts::Xattr { name } => names.push(name.into()),
                _ => return Err(damaged(key)),
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => range.start = KeyRange::one(last).end,
            _ => return Ok(names),
        }
    }
}
