//! The effects that the state machine wants.

use crate::entry::{HardState, LogEntry, LogMark};
use bytes::Bytes;
use gavel_types::{LogIndex, NodeId, Term};

/// What a replica is to its group at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Follows a leader, or waits to hear of one.
    Follower,
    /// Asks for votes (or asks whether asking would succeed).
    Candidate,
    /// Orders the log.
    Leader,
}

/// The replica's role after it changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleChange {
    /// What this replica is now.
    pub role: Role,
    /// Who leads, as far as this replica knows.
    pub leader: Option<NodeId>,
    /// In which term.
    pub term: Term,
}

/// A write to the log's disk. Writes must become durable in the order in which they were given.
#[derive(Clone, Debug)]
pub struct Persist {
    /// Give it to `Quorum::on_persisted` when this and all earlier writes are durable.
    pub ticket: u64,
    /// The new hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// The log restarts after this position: everything stored before is void. Applies before `append`.
    pub snapshot: Option<LogMark>,
    /// Entries, contiguous; whatever the log holds from the first one's index on is replaced.
    pub append: Vec<LogEntry>,
    /// Others wait for this to be durable. If false (only the commit index moved) it may be written without
    /// a sync, and `on_persisted` need not be called for it.
    pub must_sync: bool,
}

/// A snapshot that a leader sent because this replica is behind the leader's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingSnapshot {
    /// Who sent it, and has the records.
    pub from: NodeId,
    /// The position that the records must be brought to.
    pub mark: LogMark,
    /// What the leader's owner offered with it.
    pub data: Bytes,
}

/// Everything to do after an input. Sending need not wait for persisting: what has to wait is kept back
/// inside until `Quorum::on_persisted`.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// Messages to send; losing, delaying, doubling and reordering them is tolerated.
    pub send: Vec<(NodeId, Vec<u8>)>,
    /// A write to the log's disk.
    pub persist: Option<Persist>,
    /// Entries to apply, in order; each is handed out once.
    pub committed: Vec<LogEntry>,
    /// Confirmed reads: the view must have applied the index before it answers the ticket.
    pub reads: Vec<(u64, LogIndex)>,
    /// Reads that will not be confirmed: leadership was lost, or confirmation took too long.
    pub failed_reads: Vec<u64>,
    /// A snapshot arrived: bring the records to its position, durably, then call `Quorum::install_snapshot`, or
    /// `Quorum::drop_snapshot` if that fails. No entry is handed out in between.
    pub pending_snapshot: Option<PendingSnapshot>,
    /// Role, leader or term changed.
    pub role: Option<RoleChange>,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.send.is_empty()
            && self.persist.is_none()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.failed_reads.is_empty()
            && self.pending_snapshot.is_none()
            && self.role.is_none()
    }
}
