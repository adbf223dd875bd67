//! Records: what a key's value can be.

use gavel_types::{BlobId, Class, Key, NodeId, ObjectId, SessionId, Tid, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The kind of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; its target is a record of its own.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// The half of an object's attributes that operations depend on: a change of it collides with them.
/// [`Guard::Firm`](crate::Guard::Firm) guards just this half.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Firm {
    /// What the object is; never changes.
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky (12 bits: 0o7777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device, in the kernel's 32-bit encoding; 0 for others.
    pub rdev: u32,
    /// The directory that holds a directory; the object's own id for a root; [`ObjectId::VOLUME`] for what is not a
    /// directory, and for a directory that has been removed.
    pub parent: ObjectId,
    /// When the object was made.
    pub birth: Timestamp,
    /// Which of the volume's policies says how long its past is kept.
    pub class: Class,
}

/// The attributes of an object: the firm half, and the counters and times that merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attr {
    /// What operations depend on.
    pub firm: Firm,
    /// Number of names; for a directory 2 plus its subdirectories.
    pub nlink: u32,
    /// Length in bytes; for a symlink that of its target; for a directory the number of its names.
    pub size: u64,
    /// Bytes of the file that extents hold (for `st_blocks`); kept by the commit rule.
    pub allocated: u64,
    /// Last access, as set by hand or at creation: reading does not change it.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the object.
    pub ctime: Timestamp,
}

/// One name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dirent {
    /// The object that has this name.
    pub object: ObjectId,
    /// Its kind, so that listing needs no second look-up.
    pub kind: Kind,
}

/// Where a run of bytes is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Content {
    /// Here. Shared: a version is copied several times on its way from a write to a replica's records.
    Inline(#[serde(with = "crate::codec::as_bytes")] Arc<[u8]>),
    /// In a blob, from `offset` on.
    Blob {
        /// The blob's name.
        id: BlobId,
        /// Length of the whole blob.
        blob_len: u32,
        /// Where the run starts in it.
        offset: u32,
    },
    /// Nowhere: allocated, reads as zeros.
    Zeros,
}

/// A run of a file's bytes. Its key holds the offset behind its last byte. What no extent covers is a hole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// Length in bytes, at least 1; for [`Content::Inline`] the number of its bytes.
    pub len: u64,
    /// The bytes.
    pub content: Content,
}

impl Extent {
    /// The part of this extent from `from` to `to` (both relative to its start, `from < to <= len`).
    pub fn slice(&self, from: u64, to: u64) -> Extent {
        assert!(from < to && to <= self.len, "slice {from}..{to} of an extent of {}", self.len);
        let content = match &self.content {
            Content::Inline(bytes) => Content::Inline(bytes[from as usize..to as usize].into()),
            Content::Blob { id, blob_len, offset } => {
                Content::Blob { id: *id, blob_len: *blob_len, offset: offset + from as u32 }
            }
            Content::Zeros => Content::Zeros,
        };
        Extent { len: to - from, content }
    }
}

/// An object whose last name is gone, which these sessions may still hold open. When the last one has
/// released it or has ended, the object's records end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Orphan {
    /// Who may hold it open.
    pub holders: Vec<SessionId>,
}

/// Who made a commit, as the commit's key has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Committed {
    /// Through which node.
    pub node: NodeId,
    /// For which user.
    pub uid: u32,
    /// What for, if somebody said so.
    pub note: Box<str>,
    /// The transactions that staged what it adopted: what they wrote is told as done by this one.
    pub staged: Vec<Tid>,
}

/// Which state of its source a mirror is, as of where this is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Boundary {
    /// The last state of the source that the mirror has had.
    pub source: Tid,
    /// As of when it has had it.
    pub local: Tid,
    /// The state that the step leads to which is under way; [`Tid::MAX`] if that leads back to `source`; `source` if none is.
    pub to: Tid,
    /// The step that ended at `source` was one transaction of the source: there was no state between.
    pub single: bool,
}

impl Boundary {
    /// Is what is there half of a step?
    pub fn is_within_step(&self) -> bool {
        self.to != self.source
    }
}

/// A record's value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// Attributes of an object.
    Attr(Attr),
    /// A name in a directory.
    Dirent(Dirent),
    /// A run of bytes.
    Extent(Extent),
    /// The value of an extended attribute.
    Xattr(#[serde(with = "crate::codec::as_bytes")] Box<[u8]>),
    /// The target of a symlink.
    Target(#[serde(with = "crate::codec::as_bytes")] Box<[u8]>),
    /// An object without a name.
    Orphan(Orphan),
    /// Who made a commit.
    Commit(Committed),
    /// Nothing is there, though a clone would inherit something. Views never show it.
    Gone,
    /// Which state of its source a mirror is.
    Boundary(Boundary),
}

/// One version of a record: immutable from its create Tid on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// The transaction that wrote it.
    pub create: Tid,
    /// The transaction that last changed more than counters and times: at most `create`.
    pub firm: Tid,
    /// The value.
    pub record: Record,
}

impl Version {
    /// The blob that it names, if its bytes are in one.
    pub fn blob(&self) -> Option<BlobId> {
        self.record.blob()
    }
}

impl Record {
    /// The blob that it names, if its bytes are in one.
    pub fn blob(&self) -> Option<BlobId> {
        match self {
            Record::Extent(Extent { content: Content::Blob { id, .. }, .. }) => Some(*id),
            _ => None,
        }
    }

    /// The bytes of a file or of a program that it carries itself.
    pub fn carried_bytes(&self) -> usize {
        match self {
            Record::Extent(Extent { content: Content::Inline(bytes), .. }) => bytes.len(),
            Record::Xattr(bytes) | Record::Target(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// The object that it names, if it is a name.
    pub fn names(&self) -> Option<ObjectId> {
        match self {
            Record::Dirent(dirent) => Some(dirent.object),
            _ => None,
        }
    }
}

/// One key's step from one version to the next (or to none), made by one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The transaction.
    pub tid: Tid,
    /// The record.
    pub key: Key,
    /// The version that ends here; none if there was none.
    pub old: Option<Version>,
    /// The version that begins here (with `create == tid`); none if the record was deleted.
    pub new: Option<Version>,
}

/// A row that goes, or is written anew, because no state shows it any more that can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Removal {
    /// The version of `key` that ended at `delete`.
    Ended {
        /// The record.
        key: Key,
        /// When the version ended.
        delete: Tid,
    },
    /// The live version of `key`: of a record that is no part of any state.
    Live {
        /// The record.
        key: Key,
    },
    /// That `tid` changed `key`.
    Change {
        /// The transaction.
        tid: Tid,
        /// The record.
        key: Key,
    },
    /// That `tid` made a version of `key`: it is known as the end of the one before only.
    Made {
        /// The transaction.
        tid: Tid,
        /// The record.
        key: Key,
    },
    /// That the version of `key` which `create` made names a blob.
    Name {
        /// The blob.
        blob: BlobId,
        /// The record.
        key: Key,
        /// The transaction.
        create: Tid,
    },
    /// That the version of the name `key` which `create` made is one of an object.
    Place {
        /// The object.
        object: ObjectId,
        /// The name.
        key: Key,
        /// The transaction.
        create: Tid,
    },
}
