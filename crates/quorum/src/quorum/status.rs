//! What can be seen from outside.

use super::Quorum;
use crate::entry::LogMark;
use crate::ready::RoleChange;
use gavel_types::{LogIndex, NodeId};
use raft::ProgressState;

/// How a leader deals with a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerState {
    /// Finds out where the peer's log ends.
    Probe,
    /// Sends entries without waiting.
    Replicate,
    /// Waits for the peer to install a snapshot.
    Snapshot,
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer.
    pub id: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// Its log is known to be durable and the same up to here.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// How it is dealt with.
    pub state: PeerState,
    /// Heard of within the last election timeout.
    pub recently_active: bool,
}

/// What a replica knows of itself and its group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Role, leader and term.
    pub role: RoleChange,
    /// Entries up to here are known to be committed.
    pub commit: LogIndex,
    /// The owner has applied up to here.
    pub applied: LogIndex,
    /// The log starts after this position.
    pub compacted: LogMark,
    /// The last entry; it need not be durable yet.
    pub last: LogIndex,
    /// Memory that entries take, in bytes.
    pub window_bytes: u64,
    /// Reads that wait to be confirmed.
    pub reads_waiting: usize,
    /// The other members, by id; empty unless this node leads.
    pub peers: Vec<PeerStatus>,
}

impl Quorum {
    /// The present state, for people and for tests.
    pub fn status(&self) -> Status {
        let core = self.core();
        Status {
            id: self.config.id,
            role: self.role_now(),
            commit: LogIndex(core.raft_log.committed),
            applied: self.applied,
            compacted: self.raft.store().compacted(),
            last: LogIndex(core.raft_log.last_index()),
            window_bytes: self.raft.store().bytes(),
            reads_waiting: self.reads.count(),
            peers: if self.leads() { self.peers() } else { Vec::new() },
        }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let known = self.core().prs().iter().filter(|(id, _)| **id != self.config.id.0);
        let mut peers: Vec<PeerStatus> = known
            .map(|(&id, progress)| PeerStatus {
                id: NodeId(id),
                voter: self.config.voters.contains(&NodeId(id)),
                matched: LogIndex(progress.matched),
                next: LogIndex(progress.next_idx),
                state: match progress.state {
                    ProgressState::Probe => PeerState::Probe,
                    ProgressState::Replicate => PeerState::Replicate,
                    ProgressState::Snapshot => PeerState::Snapshot,
                },
                recently_active: progress.recent_active,
            })
            .collect();
        peers.sort_by_key(|peer| peer.id);
        peers
    }
}
