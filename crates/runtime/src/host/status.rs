//! What a node says of itself, for `gavel status`.

use crate::host::node::NodeHandle;
use crate::host::volumes;
use gavel_node::Node;
use gavel_quorum::Role;
use gavel_server::Clock;
use gavel_store::engine::Engine;
use gavel_txn::{VolumeCounts, VolumePast};
use gavel_types::VolumeId;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

/// A node's view of itself and its cluster. Part of the machine-readable output: fields are only added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: u64,
    /// `leader`, `follower` or `candidate`.
    pub role: String,
    /// Who leads, if this node knows.
    pub leader: Option<u64>,
    /// The election term.
    pub term: u64,
    /// The last entry known to be committed.
    pub commit: u64,
    /// The last entry applied here.
    pub applied: u64,
    /// The last Tid applied here.
    pub tid: u64,
    /// A change scan is under way: the node was away for long, and fetches what it missed.
    pub catching_up: bool,
    /// A majority has answered lately: this node can write, and confirm reads.
    pub quorum: bool,
    /// For how many milliseconds there has been no sign of a quorum, if there has been none for long.
    pub without_quorum_ms: Option<u64>,
    /// This node's session, if it has one.
    pub session: Option<u64>,
    /// All open sessions.
    pub sessions: Vec<SessionStatus>,
    /// `trusted`, `unknown`, or how far the wall clock is ahead of the others' (negative: behind), in milliseconds.
    pub clock: String,
    /// What the leader knows of the others; empty unless this node leads.
    pub peers: Vec<PeerStatus>,
    /// The volumes.
    pub volumes: Vec<VolumeStatus>,
    /// Why the node has stopped, if it has.
    pub failure: Option<String>,
    /// Leases.
    pub leases: LeaseStatus,
    /// Locks of files.
    #[serde(default)]
    pub locks: LockStatus,
    /// What became of changes that were answered and not committed in time.
    #[serde(default)]
    pub behind: BehindStatus,
    /// What is written of transactions before their commits, of all sessions.
    #[serde(default)]
    pub staged: StagedStatus,
    /// Clients without a replica that ask this node for news of their sessions.
    #[serde(default)]
    pub clients: u64,
}

/// What a node says of parts of transactions that are written before the commit.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StagedStatus {
    /// Transactions of which something is staged.
    pub groups: u64,
    /// Those that came to nothing, and of which something is still to be removed.
    pub abandoned: u64,
}

/// What a node says of locks, of all sessions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LockStatus {
    /// Locks that are held.
    pub held: u64,
    /// Requests that wait for one.
    pub waiting: u64,
}

/// What a node says of changes that it had answered and not committed when a session of it ended.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BehindStatus {
    /// How many were lost with a session, and committed by a later one.
    pub recovered: u64,
    /// How many that were lost with a session wait to be committed.
    pub offered: u64,
    /// Conflicts that are kept: changes that could not be committed, until somebody has looked at them.
    pub conflicts: u64,
    /// Conflicts that there was no room for since the node was started.
    pub conflicts_beyond: u64,
}

/// What a node says of leases.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Ranges in the table, of all sessions.
    pub ranges: u64,
    /// For how many milliseconds from now on this node may answer without asking; none if it may not.
    pub may_answer_ms: Option<u64>,
    /// Reads that were answered here, without a message.
    pub reads_leased: u64,
    /// Reads that had to be confirmed by the quorum.
    pub reads_confirmed: u64,
    /// Changes that wait until others have given up their leases.
    pub blocked: u64,
    /// Changes that were answered here before they were committed.
    #[serde(default)]
    pub answered_behind: u64,
    /// Of these, how many are not committed yet.
    #[serde(default)]
    pub pending: u64,
    /// Bytes of these.
    #[serde(default)]
    pub pending_bytes: u64,
    /// How many were lost, since the daemon started.
    #[serde(default)]
    pub lost: u64,
}

/// An open session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The session.
    pub id: u64,
    /// Its node.
    pub node: u64,
    /// How many requests it has made.
    pub requests: u64,
    /// How many ranges it holds leases over.
    pub leases: u64,
    /// How long it lives without being heard of, in milliseconds.
    #[serde(default)]
    pub term_ms: u32,
    /// How many ranges it holds exclusively.
    #[serde(default)]
    pub exclusive: u64,
    /// How many operations of this node wait for what it holds.
    #[serde(default)]
    pub waited_for: u64,
}

/// A peer, as its leader knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The peer.
    pub node: u64,
    /// Its log is durable up to this entry.
    pub matched: u64,
    /// Heard of lately.
    pub active: bool,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// The volume.
    pub id: u32,
    /// Live objects.
    pub objects: u64,
    /// Bytes of live files.
    pub bytes: u64,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// `living`, `destroyed`, `ended` or `going`.
    #[serde(default)]
    pub state: String,
}

fn volume_status(id: VolumeId, counts: VolumeCounts, past: Option<&VolumePast>) -> VolumeStatus {
    // While a clone is counted, more may have been taken away than was counted.
    let shown = |count: u64| if i64::try_from(count).is_ok() { count } else { 0 };
    VolumeStatus {
        id: id.0,
        objects: shown(counts.objects),
        bytes: shown(counts.bytes),
        name: past.map_or(String::new(), |past| past.name.to_string()),
        state: past.map_or("", |past| volumes::state_name(past.stage)).into(),
    }
}

impl NodeStatus {
    /// What `node` says now.
    pub fn of<E: Engine>(node: &Node<E>, clock: Clock, handle: &NodeHandle) -> NodeStatus {
        let quorum = node.server.quorum_status();
        let state = node.server.state();
        let silent = node.session.without_quorum_ns(clock.now);
        let waits_for = node.waits_for();
        let (pending, pending_bytes) = {
            let pending = handle.pending.lock();
            (pending.accepted() - pending.landed(), pending.bytes() as u64)
        };
        let (groups, abandoned) = state.staged.len();
        NodeStatus {
            node: quorum.id.0,
            role: match quorum.role.role {
                Role::Leader => "leader",
                Role::Follower => "follower",
                Role::Candidate => "candidate",
            }
            .into(),
            leader: quorum.role.leader.map(|leader| leader.0),
            term: quorum.role.term.0,
            commit: quorum.commit.0,
            applied: state.applied.0,
            tid: state.tid.0,
            catching_up: node.server.is_catching_up(),
            quorum: silent.is_none() && quorum.role.leader.is_some(),
            without_quorum_ms: silent.map(|ns| ns / 1_000_000),
            session: node.session.id().map(|session| session.0),
            sessions: state
                .sessions
                .iter()
                .map(|(id, session)| SessionStatus {
                    id: id.0,
                    node: session.node.0,
                    requests: session.next.0 - 1,
                    leases: state.leases.held_by(*id).ranges().len() as u64,
                    term_ms: session.term_ms,
                    exclusive: state.leases.held_exclusively_by(*id).ranges().len() as u64,
                    waited_for: waits_for.get(id).copied().unwrap_or(0) as u64,
                })
                .collect(),
            clock: match node.server.clock_verdict() {
                gavel_server::clocks::Verdict::Trusted => "trusted".into(),
                gavel_server::clocks::Verdict::Unknown => "unknown".into(),
                gavel_server::clocks::Verdict::Far(ns) => format!("{} ms", ns / 1_000_000),
            },
            peers: quorum
                .peers
                .iter()
                .map(|peer| PeerStatus { node: peer.id.0, matched: peer.matched.0, active: peer.recently_active })
                .collect(),
            volumes: state.volumes.iter().map(|(id, counts)| volume_status(*id, *counts, state.past.of(*id))).collect(),
            failure: node.server.failure().map(ToString::to_string),
            leases: LeaseStatus {
                ranges: state.leases.len() as u64,
                may_answer_ms: Some(handle.usable.read().left_ns(clock.now) / 1_000_000).filter(|left| *left > 0),
                reads_leased: handle.reads_leased.load(Ordering::Relaxed),
                reads_confirmed: handle.reads_confirmed.load(Ordering::Relaxed),
                blocked: node.blocked() as u64,
                answered_behind: handle.answered_behind.load(Ordering::Relaxed),
                pending,
                pending_bytes,
                lost: handle.lost.load(Ordering::Relaxed),
            },
            locks: LockStatus { held: state.locks.len() as u64, waiting: state.locks.waiters() as u64 },
            behind: BehindStatus {
                recovered: handle.recovered.load(Ordering::Relaxed),
                offered: node.offers() as u64,
                conflicts: handle.conflicts.len() as u64,
                conflicts_beyond: handle.conflicts.beyond(),
            },
            staged: StagedStatus { groups: groups as u64, abandoned: abandoned as u64 },
            clients: node.clients() as u64,
        }
    }
}
