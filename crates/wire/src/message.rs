//! What nodes say to each other about the log, sessions and catch-up. Bulk bytes (blobs) travel beside, not in, these.

use crate::entry::Request;
use crate::lease::Mode;
use crate::record::Version;
use bytes::Bytes;
use gavel_types::{BlobId, Key, KeyRange, LogIndex, NodeId, Seq, SessionId, Term, Tid};
use serde::{Deserialize, Serialize};

/// A message from one node to another. All may be lost, doubled or late: what must not be lost is sent again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// A message of the replicated log, in the log's own encoding.
    Log(#[serde(with = "log_bytes")] Bytes),
    /// To everybody, about once a second: what the sender's wall clock shows, in nanoseconds since the epoch. A leader
    /// whose clock is far from a majority's does not lead.
    Clock {
        /// The sender's wall clock.
        wall_ns: u64,
    },
    /// To the leader: requests of one session, in order.
    Submit(Vec<Request>),
    /// To a submitter: the leader could not take the session's requests from `expected` on; send them again from there.
    SubmitGap {
        /// The session.
        session: SessionId,
        /// The number that the leader expects next.
        expected: Seq,
    },
    /// To the leader: open a session.
    OpenSession {
        /// For whom.
        node: NodeId,
        /// Which life of that node.
        incarnation: u64,
        /// How long the session is to live without a refresh, in milliseconds.
        term_ms: u32,
        /// The last session of this life, which has ended, or is broken: nothing is answered under its leases any more.
        instead_of: Option<SessionId>,
    },
    /// To the leader: this session lives. `ticket` comes back in the answer.
    Refresh {
        /// The session.
        session: SessionId,
        /// Names the refresh.
        ticket: u64,
    },
    /// To a session's node: the refresh counted; a quorum has confirmed the leader since it arrived.
    Refreshed {
        /// The session.
        session: SessionId,
        /// The refresh.
        ticket: u64,
        /// The leader's wall clock when it answered, in nanoseconds since the epoch.
        wall_ns: u64,
    },
    /// To the leader: which index must a view have applied, so that it holds all that is committed now?
    ConfirmRead {
        /// Names the question.
        ticket: u64,
    },
    /// The answer: a quorum has confirmed the leader since the question arrived.
    ReadConfirmed {
        /// The question.
        ticket: u64,
        /// The index.
        index: LogIndex,
    },
    /// The addressee does not lead, or can't lead yet; ask whom it names, or again later.
    NotLeader {
        /// Who leads, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Asks for the commits after `after`, up to and with `upto`.
    ScanChanges {
        /// Names the scan.
        ticket: u64,
        /// The last Tid that the asker has whole.
        after: Tid,
        /// The last Tid wanted.
        upto: Tid,
        /// How many changes behind `after` the asker has already: a part of the next commit.
        skip: u64,
        /// The entry behind which the asker will stand: it is committed, which the addressee may not know yet.
        index: LogIndex,
        /// The term of that entry.
        term: Term,
        /// How many sweeps have changed the records of the state that the asker goes to: only rows that just these have
        /// gone over fit together.
        sweeps: u64,
    },
    /// Part of the answer to [`Message::ScanChanges`], in the order of Tids.
    Changes {
        /// The scan.
        ticket: u64,
        /// The changes.
        changes: Vec<ChangeRow>,
        /// True if nothing follows up to `upto`.
        done: bool,
    },
    /// The addressee can't answer the scan: it has not applied `upto` itself, other sweeps have gone over its records, or it can't
    /// read them.
    ScanRefused {
        /// The scan.
        ticket: u64,
        /// How many sweeps have changed the addressee's records.
        sweeps: u64,
    },
    /// To the node of a session that holds leases over these ranges: they are needed in this mode. To read ([`Mode::Shared`]), an
    /// exclusive lease becomes a shared one; to write, all leases there are given up. Sent again until the table shows it.
    Recall {
        /// The session.
        session: SessionId,
        /// The ranges that are needed.
        ranges: Vec<KeyRange>,
        /// To do what.
        mode: Mode,
        /// The entry that the sender's replica had applied: a holder whose replica is behind it can't know what it holds.
        at: LogIndex,
    },
    /// To the leader: the sender has stored these blobs for long, and its replica does not name them.
    Unnamed {
        /// The blobs.
        blobs: Vec<BlobId>,
    },
    /// To the node of a session that holds exclusive leases: ship what the session has answered, and tell when that is in the log. Sent again
    /// until it is answered, or the session holds none where it matters.
    Land {
        /// The session.
        session: SessionId,
        /// Names the question.
        ticket: u64,
    },
    /// The answer: all that the session had answered when it was asked has landed.
    AllLanded {
        /// The session.
        session: SessionId,
        /// The question.
        ticket: u64,
        /// Up to this entry.
        index: LogIndex,
    },
}

mod log_bytes {
    use bytes::Bytes;
    use gavel_types::as_bytes;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        as_bytes::serialize(bytes, serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        as_bytes::parse(deserializer, |bytes| Ok::<Bytes, &str>(Bytes::copy_from_slice(bytes)))
    }
}

/// One change of the change index with the version that it made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangeRow {
    /// The commit.
    pub tid: Tid,
    /// What it changed.
    pub key: Key,
    /// The version that it made; none if it deleted the record.
    pub version: Option<Version>,
}
