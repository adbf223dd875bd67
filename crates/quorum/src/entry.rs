//! Entries and positions of the log, and what a restart brings back.

use bytes::Bytes;
use gavel_types::{LogIndex, NodeId, Term};
use raft::eraftpb;
use std::fmt;

/// What a log entry holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// The owner's bytes; empty for the entry by which a new leader opens its term.
    Data,
    /// A change of members. Passed through; nothing proposes or applies one yet.
    Membership,
}

impl EntryKind {
    /// The byte that stands for the kind in messages and on disk.
    pub fn to_byte(self) -> u8 {
        match self {
            EntryKind::Data => 0,
            EntryKind::Membership => 1,
        }
    }

    /// The kind that `byte` stands for, if any.
    pub fn from_byte(byte: u8) -> Option<EntryKind> {
        match byte {
            0 => Some(EntryKind::Data),
            1 => Some(EntryKind::Membership),
            _ => None,
        }
    }
}

/// One entry of the log. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Position; the first entry of a log is 1.
    pub index: LogIndex,
    /// Term of the leader that appended it.
    pub term: Term,
    /// What `data` is.
    pub kind: EntryKind,
    /// At most [`gavel_types::limits::ENTRY_BYTES_MAX`] bytes.
    pub data: Bytes,
}

impl LogEntry {
    /// Whether this is the empty entry by which a leader opened its term.
    pub fn is_noop(&self) -> bool {
        self.kind == EntryKind::Data && self.data.is_empty()
    }

    /// The entry's position.
    pub fn mark(&self) -> LogMark {
        LogMark { index: self.index, term: self.term }
    }

    /// What the entry costs in memory, in bytes: its data and a flat charge for the rest.
    pub(crate) fn cost(&self) -> u64 {
        self.data.len() as u64 + ENTRY_OVERHEAD_BYTES
    }

    pub(crate) fn to_raft(&self) -> eraftpb::Entry {
        let mut entry = eraftpb::Entry::default();
        entry.set_entry_type(match self.kind {
            EntryKind::Data => eraftpb::EntryType::EntryNormal,
            EntryKind::Membership => eraftpb::EntryType::EntryConfChangeV2,
        });
        entry.index = self.index.0;
        entry.term = self.term.0;
        entry.data = raft_bytes(self.data.clone());
        entry
    }

    pub(crate) fn from_raft(mut entry: eraftpb::Entry) -> LogEntry {
        let kind = match entry.get_entry_type() {
            eraftpb::EntryType::EntryNormal => EntryKind::Data,
            eraftpb::EntryType::EntryConfChange | eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Membership,
        };
        LogEntry { index: LogIndex(entry.index), term: Term(entry.term), kind, data: our_bytes(entry.take_data()) }
    }
}

impl fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogEntry({}@{} {:?} {} bytes)", self.index, self.term, self.kind, self.data.len())
    }
}

/// Charged for an entry beside its data: the entry itself, its slot and the header of its allocation.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 = 96;

/// The byte fields of raft-rs' messages are `Vec<u8>` with its prost codec and `Bytes` with its protobuf
/// codec; these two functions are all that depends on which one was built.
#[allow(clippy::useless_conversion)]
pub(crate) fn raft_bytes<T: From<Bytes>>(bytes: Bytes) -> T {
    bytes.into()
}

/// See [`raft_bytes`].
pub(crate) fn our_bytes(bytes: impl Into<Bytes>) -> Bytes {
    bytes.into()
}

/// A position in the log together with the term of the entry there; (0, 0) is before the first entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LogMark {
    /// The position.
    pub index: LogIndex,
    /// The term of the entry at the position.
    pub term: Term,
}

/// What a replica must not forget beside its entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// Whom the replica voted for in that term.
    pub vote: Option<NodeId>,
    /// Entries up to here are known to be committed. Only a hint: an older value is safe.
    pub commit: LogIndex,
}

/// What a replica's disks hold at start. The default is a replica that has never run.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The last durable hard state.
    pub hard_state: HardState,
    /// The log starts after this position.
    pub compacted: LogMark,
    /// The durable entries, contiguous from `compacted`.
    pub entries: Vec<LogEntry>,
    /// The last entry whose effects are durable in the owner's store. It may lie past the end of the log
    /// (a snapshot was installed and the log did not hear of it any more); it may not lie before its start.
    pub applied: LogMark,
}
