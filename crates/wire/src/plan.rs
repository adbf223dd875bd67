//! Plans and guards: what an operation wants to write, and what it read.

use crate::record::{Content, Record};
use gavel_types::{BlobId, Key, KeyRange, ObjectId, Tid, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};

/// What an operation read and therefore depends on. All are judged at commit time, against the state
/// just before the commit. Those that carry a Tid fail if what they name was written after it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Guard {
    /// The record exists, and is the version that was visible at `at`.
    Unchanged {
        /// The record.
        key: Key,
        /// As of when it was read.
        at: Tid,
    },
    /// The attributes exist, and their firm half is what was visible at `at`.
    Firm {
        /// The attributes.
        key: Key,
        /// As of when they were read.
        at: Tid,
    },
    /// Nothing lives in the range.
    Empty {
        /// The range.
        range: KeyRange,
    },
    /// Nothing in the range was written or deleted after `at`.
    Stable {
        /// The range.
        range: KeyRange,
        /// As of when it was read.
        at: Tid,
    },
}

/// A change of an object's counters and times that merges with others, whatever their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AttrDelta {
    /// Added to the number of links.
    pub nlink: i32,
    /// Added to the size (directories count their names so).
    pub size: i64,
    /// The size is at least this afterwards.
    pub size_min: u64,
    /// The new time of access, if any.
    pub atime: Option<Timestamp>,
    /// The new time of content change, if any. Commit times only move forward.
    pub mtime: Option<Timestamp>,
    /// The new time of change, if any. Commit times only move forward.
    pub ctime: Option<Timestamp>,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mutation {
    /// The record has this value. Times that are [`Timestamp::COMMIT`] take the commit's. The `allocated` of
    /// attributes is kept as it is, whatever the plan says: the commit rule counts it.
    Put {
        /// The record's key.
        key: Key,
        /// Its value; of the kind that the key's domain holds.
        record: Record,
    },
    /// The record ends. Nothing happens if there is none.
    Delete {
        /// The record's key.
        key: Key,
    },
    /// Merges into an object's attributes. Nothing happens if there are none.
    Adjust {
        /// The volume.
        volume: VolumeId,
        /// The object.
        object: ObjectId,
        /// The change.
        delta: AttrDelta,
    },
    /// Cuts the bytes from `start` up to and without `end` out of a file's extents: covered extents end,
    /// those that reach over are trimmed, as they are when the commit is applied.
    Carve {
        /// The volume.
        volume: VolumeId,
        /// The file.
        object: ObjectId,
        /// First byte.
        start: u64,
        /// Behind the last byte.
        end: u64,
    },
    /// The object has lost its last name: every session open now may hold it open.
    Orphan {
        /// The volume.
        volume: VolumeId,
        /// The object.
        object: ObjectId,
    },
    /// Writes behind the end that the file has when the commit is applied, and makes it so much longer. Nothing happens if there are no attributes.
    Append {
        /// The volume.
        volume: VolumeId,
        /// The file.
        object: ObjectId,
        /// Number of bytes.
        len: u64,
        /// The bytes.
        content: Content,
    },
}

/// For whom a commit is made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Author {
    /// The user.
    pub uid: u32,
    /// What for, in [`NOTE_BYTES_MAX`](gavel_types::limits::NOTE_BYTES_MAX) bytes at most; usually nothing.
    pub note: Box<str>,
}

impl Author {
    /// The user, without a note.
    pub fn user(uid: u32) -> Author {
        Author { uid, note: "".into() }
    }
}

/// The mutations of one operation, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// What to write; a later one sees the earlier ones.
    pub mutations: Vec<Mutation>,
}

impl Plan {
    /// The blobs that it names, some more than once.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> {
        self.mutations.iter().filter_map(|mutation| match mutation {
            Mutation::Put { record, .. } => record.blob(),
            Mutation::Append { content: Content::Blob { id, .. }, .. } => Some(*id),
            _ => None,
        })
    }

    /// The times that would be the commit's are those of `tid` instead: who answers before the commit has to name them.
    pub fn settle_times(&mut self, tid: Tid) {
        let settle = |time: &mut Timestamp| *time = time.resolve(tid);
        for mutation in &mut self.mutations {
            match mutation {
                Mutation::Put { record: Record::Attr(attr), .. } => {
                    [&mut attr.firm.birth, &mut attr.atime, &mut attr.mtime, &mut attr.ctime]
                        .into_iter()
                        .for_each(settle);
                }
                Mutation::Adjust { delta, .. } => {
                    [&mut delta.atime, &mut delta.mtime, &mut delta.ctime].into_iter().flatten().for_each(settle);
                }
                _ => {}
            }
        }
    }
}
