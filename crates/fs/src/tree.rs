//! Guarded reads of the tree: what operations ask of the view, in their own words.
//!
//! | question | depends on |
//! |---|---|
//! | [`Tree::attr`] | all attributes: counters and times too |
//! | [`Tree::firm`] | kind, mode, owner, parent |
//! | [`Tree::dirent`] | the name being just this, or not there |
//! | [`Tree::directory`], [`Tree::vacant`] | the directory being one that can take names, the name not being there |

use crate::{Cx, FsError, Stop};
use gavel_types::limits::DEPTH_MAX;
use gavel_types::{Key, KeyRange, ObjectId, VolumeId};
use gavel_wire::{Attr, Dirent, Firm, Guard, Kind, Record, Recorder, View, ViewError};

/// The tree as one operation sees it; it remembers what was asked.
pub(crate) struct Tree<'v> {
    recorder: Recorder<'v>,
    /// What the operation runs in.
    pub(crate) cx: Cx,
}

impl<'v> Tree<'v> {
    pub(crate) fn new(view: &'v dyn View, cx: &Cx) -> Tree<'v> {
        Tree { recorder: Recorder::new(view), cx: *cx }
    }

    pub(crate) fn volume(&self) -> VolumeId {
        self.cx.volume
    }

    /// The view itself, for reads that are guarded otherwise ([`Tree::depend_on`]) or that nothing depends on.
    pub(crate) fn unguarded(&self) -> &'v dyn View {
        self.recorder.unguarded()
    }

    /// What was asked.
    pub(crate) fn into_guards(self) -> Vec<Guard> {
        self.recorder.into_guards()
    }

    /// The operation depends on everything in `range`, whether there or not.
    pub(crate) fn depend_on(&self, range: &KeyRange) -> Result<(), Stop> {
        // A scan that asks for nothing records the whole range and reads none of it.
        self.recorder.scan(range, 0)?;
        Ok(())
    }

    /// All attributes of an object that the caller knows by its id.
    pub(crate) fn attr(&self, object: ObjectId) -> Result<Attr, Stop> {
        self.recorder.attr(self.volume(), object)?.ok_or(FsError::Stale.into())
    }

    /// All attributes of an object that a name leads to: it must be there.
    pub(crate) fn named_attr(&self, object: ObjectId) -> Result<Attr, Stop> {
        let found = self.recorder.attr(self.volume(), object)?;
        found.ok_or_else(|| damaged(&Key::attr(self.volume(), object)))
    }

    /// The firm attributes of an object that the caller knows by its id.
    pub(crate) fn firm(&self, object: ObjectId) -> Result<Firm, Stop> {
        self.recorder.firm(self.volume(), object)?.ok_or(FsError::Stale.into())
    }

    /// A directory in which names are looked for or made: it is there, and has not been removed.
    pub(crate) fn directory(&self, object: ObjectId) -> Result<Firm, Stop> {
        let firm = self.recorder.firm(self.volume(), object)?.ok_or(FsError::NotFound)?;
        if firm.kind != Kind::Directory {
            return Err(FsError::NotDirectory.into());
        }
        if is_removed(&firm) {
            return Err(FsError::NotFound.into());
        }
        Ok(firm)
    }

    /// What `name` names in `parent`. A name that is there shows that the directory is, too.
    pub(crate) fn dirent(&self, parent: ObjectId, name: &[u8]) -> Result<Option<Dirent>, Stop> {
        let key = Key::dirent(self.volume(), parent, name);
        match self.recorder.get(&key)? {
            None => Ok(None),
            Some(Record::Dirent(dirent)) => Ok(Some(dirent)),
            Some(_) => Err(damaged(&key)),
        }
    }

    /// What `name` names in `parent`, which must be something.
    pub(crate) fn present(&self, parent: ObjectId, name: &[u8]) -> Result<Dirent, Stop> {
        match self.dirent(parent, name)? {
            Some(dirent) => Ok(dirent),
            None => self.directory(parent).and(Err(FsError::NotFound.into())),
        }
    }

    /// The directory `parent`, in which `name` must be free.
    pub(crate) fn vacant(&self, parent: ObjectId, name: &[u8]) -> Result<Firm, Stop> {
        match self.dirent(parent, name)? {
            Some(_) => Err(FsError::Exists.into()),
            None => self.directory(parent),
        }
    }

    /// Has the directory no names?
    pub(crate) fn is_empty_directory(&self, object: ObjectId) -> Result<bool, Stop> {
        Ok(self.recorder.is_empty(&KeyRange::dirents(self.volume(), object))?)
    }

    /// The value of an extended attribute.
    pub(crate) fn xattr(&self, object: ObjectId, name: &[u8]) -> Result<Option<Box<[u8]>>, Stop> {
        let key = Key::xattr(self.volume(), object, name);
        match self.recorder.get(&key)? {
            None => Ok(None),
            Some(Record::Xattr(value)) => Ok(Some(value)),
            Some(_) => Err(damaged(&key)),
        }
    }

    /// The target of a symlink.
    pub(crate) fn target(&self, object: ObjectId) -> Result<Option<Box<[u8]>>, Stop> {
        let key = Key::target(self.volume(), object);
        match self.recorder.get(&key)? {
            None => Ok(None),
            Some(Record::Target(target)) => Ok(Some(target)),
            Some(_) => Err(damaged(&key)),
        }
    }

    /// Does the object still have a name? Unlike the link count in its attributes, this depends on nothing else.
    pub(crate) fn has_name(&self, object: ObjectId) -> Result<bool, Stop> {
        Ok(self.recorder.get(&Key::orphan(self.volume(), object))?.is_none())
    }

    /// Refuses if `directory` is `object` or lies below it: `object` can't move there.
    ///
    /// Depends on the parent of each directory on the way up, so that of two moves that would together make a
    /// loop the second one is refused.
    pub(crate) fn refuse_at_or_below(&self, directory: ObjectId, object: ObjectId) -> Result<(), Stop> {
        let mut at = directory;
        for _ in 0..DEPTH_MAX {
            if at == object {
                return Err(FsError::Invalid.into());
            }
            if at == ObjectId::ROOT {
                return Ok(());
            }
            at = self.directory(at)?.parent;
        }
        Err(FsError::TooDeep.into())
    }
}

/// Has this directory lost its name? (It may still be open somewhere.)
///
/// `rmdir` clears the parent, which is part of the firm half: so an operation that makes a name in a directory needs
/// no more than the firm guard on it.
pub(crate) fn is_removed(directory: &Firm) -> bool {
    directory.parent == ObjectId::VOLUME
}

/// Only regular files hold bytes.
pub(crate) fn regular(kind: Kind) -> Result<(), FsError> {
    match kind {
        Kind::File => Ok(()),
        Kind::Directory => Err(FsError::IsDirectory),
        _ => Err(FsError::Invalid),
    }
}

/// The record at `key` can't be what was written.
pub(crate) fn damaged(key: &Key) -> Stop {
    ViewError::Damaged { what: format!("{key:?}") }.into()
}
