//! Locks of files, as they are asked for.

use gavel_types::{ObjectId, Seq, SessionId, VolumeId};
use serde::{Deserialize, Serialize};

/// The last byte that can be locked.
pub const LAST_BYTE: u64 = i64::MAX as u64;

/// Locks of different families do not see each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Family {
    /// Byte ranges: `fcntl`, open file descriptions among them.
    Posix,
    /// Whole files: `flock`.
    Flock,
}

/// What a lock allows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum LockKind {
    /// Others may share it.
    Read,
    /// Nobody else has one.
    Write,
}

/// What locks are taken on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LockFile {
    /// The volume.
    pub volume: VolumeId,
    /// The file.
    pub object: ObjectId,
    /// In which family.
    pub family: Family,
}

/// Bytes of a file, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Span {
    /// The first byte.
    pub first: u64,
    /// The last one, [`LAST_BYTE`] at most.
    pub last: u64,
}

impl Span {
    /// The whole file, however long it gets.
    pub const ALL: Span = Span { first: 0, last: LAST_BYTE };

    /// Is it one?
    pub fn is_sound(self) -> bool {
        self.first <= self.last && self.last <= LAST_BYTE
    }

    /// Have they a byte in common?
    pub fn overlaps(self, other: Span) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Who has a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LockOwner {
    /// The session.
    pub session: SessionId,
    /// Who on its node: the kernel's number.
    pub id: u64,
}

/// A lock: one that is held, or one that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    /// Whose.
    pub owner: LockOwner,
    /// Which bytes.
    pub span: Span,
    /// What it allows.
    pub kind: LockKind,
    /// The process, for those who ask who is in their way; it means something on its own node only.
    pub pid: u32,
}

impl Lock {
    /// Can't both be held?
    pub fn conflicts(&self, other: &Lock) -> bool {
        let exclusive = self.kind == LockKind::Write || other.kind == LockKind::Write;
        exclusive && self.owner != other.owner && self.span.overlaps(other.span)
    }
}

/// A request that waits: its session, and its number.
pub type Waiter = (SessionId, Seq);
