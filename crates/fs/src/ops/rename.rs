//! `rename`: an object changes its name, its directory, or both; or two change places.
//!
//! A directory that moves below another gets a new parent. No directory may come to lie below itself: the way from
//! its new parent up to the root is followed, and depended on. Take two moves, `a` into `b` and `b` into `a`, seen
//! as of one view: the first one changes the parent of `a`, on which the second one depends.

use super::Answer;
use crate::changes::{CHANGED, Changes};
use crate::operation::RenameMode;
use crate::tree::Tree;
use crate::{FsError, Reply, Stop, name};
use gavel_types::{ObjectId, Timestamp};
use gavel_wire::{Dirent, Kind};

/// A name in a directory.
type Place<'a> = (ObjectId, &'a [u8]);

pub(super) fn rename(tree: &Tree<'_>, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<Answer, Stop> {
    name::check(from.1)?;
    name::check(to.1)?;
    let source = tree.present(from.0, from.1)?;
    let target = match tree.dirent(to.0, to.1)? {
        Some(target) => Some(target),
        None if to.0 == from.0 => None,
        None => tree.directory(to.0).map(|_| None)?,
    };
    match (mode, target) {
        (RenameMode::NoReplace, Some(_)) => Err(FsError::Exists.into()),
        (RenameMode::Exchange, None) => Err(FsError::NotFound.into()),
        // Two names of one object: rename(2) leaves both.
        (_, Some(target)) if target.object == source.object => Answer::read(Reply::Empty),
        (RenameMode::Exchange, Some(target)) => exchange(tree, from, to, source, target),
        (RenameMode::Replace | RenameMode::NoReplace, target) => replace(tree, from, to, source, target),
    }
}

fn replace(
    tree: &Tree<'_>,
    from: Place<'_>,
    to: Place<'_>,
    source: Dirent,
    target: Option<Dirent>,
) -> Result<Answer, Stop> {
    let mut changes = Changes::new(tree.volume());
    changes.delete_dirent(from.0, from.1);
    changes.put_dirent(to.0, to.1, source);
    relocate(tree, &mut changes, source, from.0, to.0)?;
    if let Some(target) = target {
        displace(tree, &mut changes, source, target)?;
    }
    let moved = subdirectories(source);
    let (lost, names) = target.map_or((0, 1), |target| (subdirectories(target), 0));
    if from.0 == to.0 {
        changes.adjust_names(from.0, names - 1, -lost);
    } else {
        changes.adjust_names(from.0, -1, -moved);
        changes.adjust_names(to.0, names, moved - lost);
    }
    Answer::write(changes, Reply::Empty)
}

fn exchange(tree: &Tree<'_>, a: Place<'_>, b: Place<'_>, at_a: Dirent, at_b: Dirent) -> Result<Answer, Stop> {
    let mut changes = Changes::new(tree.volume());
    changes.put_dirent(a.0, a.1, at_b);
    changes.put_dirent(b.0, b.1, at_a);
    relocate(tree, &mut changes, at_a, a.0, b.0)?;
    relocate(tree, &mut changes, at_b, b.0, a.0)?;
    if a.0 == b.0 {
        changes.adjust_names(a.0, 0, 0);
    } else {
        let gained = subdirectories(at_b) - subdirectories(at_a);
        changes.adjust_names(a.0, 0, gained);
        changes.adjust_names(b.0, 0, -gained);
    }
    Answer::write(changes, Reply::Empty)
}

/// What an object that gets a name in `to` instead of one in `from` knows of that.
fn relocate(tree: &Tree<'_>, changes: &mut Changes, moved: Dirent, from: ObjectId, to: ObjectId) -> Result<(), Stop> {
    if moved.kind == Kind::Directory && from != to {
        tree.refuse_at_or_below(to, moved.object)?;
        let mut attr = tree.named_attr(moved.object)?;
        attr.firm.parent = to;
        attr.ctime = Timestamp::COMMIT;
        changes.put_attr(moved.object, attr);
    } else {
        changes.adjust(moved.object, CHANGED);
    }
    Ok(())
}

/// What had the new name loses it.
fn displace(tree: &Tree<'_>, changes: &mut Changes, source: Dirent, target: Dirent) -> Result<(), Stop> {
    match (source.kind == Kind::Directory, target.kind == Kind::Directory) {
        (true, false) => return Err(FsError::NotDirectory.into()),
        (false, true) => return Err(FsError::IsDirectory.into()),
        (false, false) => {
            let attr = tree.named_attr(target.object)?;
            changes.drop_link(target.object, &attr);
        }
        (true, true) => {
            if !tree.is_empty_directory(target.object)? {
                return Err(FsError::NotEmpty.into());
            }
            let attr = tree.named_attr(target.object)?;
            changes.remove_directory(target.object, attr);
        }
    }
    Ok(())
}

/// How much an entry adds to its directory's link count.
fn subdirectories(dirent: Dirent) -> i32 {
    i32::from(dirent.kind == Kind::Directory)
}
