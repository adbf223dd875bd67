//! What a replica is told about its group, and the ticks that follow from it.

use crate::codec::MESSAGE_BYTES_MAX;
use crate::entry::ENTRY_OVERHEAD_BYTES;
use crate::error::StartError;
use crate::pace::TICKS_AT_ONCE_MAX;
use gavel_types::NodeId;
use gavel_types::limits::ENTRY_BYTES_MAX;
use std::collections::BTreeSet;

/// Most members (voters and learners) of a group.
pub const NODES_MAX: usize = 64;

/// Ticks in a heartbeat interval: the grain of election jitter is a quarter of it.
pub(crate) const HEARTBEAT_TICKS: usize = 4;

/// An election timeout must survive the loss of this many heartbeats less one.
const HEARTBEATS_PER_ELECTION_MIN: u64 = 3;
/// Past this the jitter's grain is lost in it, and counters of ticks would be needlessly long.
const HEARTBEATS_PER_ELECTION_MAX: u64 = 1000;

/// How one replica takes part in its group. Membership is the same on every node and given from outside.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Nodes that vote. 1 to 64 together with the learners.
    pub voters: Vec<NodeId>,
    /// Nodes that keep the log and do not vote.
    pub learners: Vec<NodeId>,
    /// A follower campaigns when it has not heard of a leader for one to two times this long, in ns.
    pub election_timeout_ns: u64,
    /// A leader is heard at least this often, in ns. At least 4; at most a third of the election timeout.
    pub heartbeat_ns: u64,
    /// Appends are filled up to this many bytes; a single larger entry travels alone. 1 KiB to 16 MiB.
    pub max_message_bytes: u64,
    /// Appends under way to one follower before the leader waits for it. 1 to 65,536.
    pub max_inflight: usize,
    /// A leader refuses proposals while this many bytes of them are not committed. At least
    /// `max_message_bytes`.
    pub uncommitted_bytes_max: u64,
    /// Compaction keeps the newest entries up to this many bytes, for followers that were away briefly.
    pub retained_bytes_max: u64,
    /// No entry is taken while the window holds this many bytes. Above `retained_bytes_max` by two entries
    /// of the largest size at least.
    pub window_bytes_max: u64,
    /// Seeds the election jitter; must differ between nodes.
    pub seed: u64,
}

impl Config {
    /// A group of `voters` with the defaults: elections after 1 to 2 s, heartbeats every 100 ms, 1 MiB
    /// appends, 64 MiB retained.
    pub fn new(id: NodeId, voters: Vec<NodeId>, seed: u64) -> Config {
        Config {
            id,
            voters,
            learners: Vec::new(),
            election_timeout_ns: 1_000_000_000,
            heartbeat_ns: 100_000_000,
            max_message_bytes: 1 << 20,
            max_inflight: 256,
            uncommitted_bytes_max: 32 << 20,
            retained_bytes_max: 64 << 20,
            window_bytes_max: 256 << 20,
            seed,
        }
    }

    /// Refuses values outside of the ranges that the fields document.
    pub fn validate(&self) -> Result<(), StartError> {
        self.validate_members()?;
        let election_min = self.heartbeat_ns.saturating_mul(HEARTBEATS_PER_ELECTION_MIN);
        let election_max = self.heartbeat_ns.saturating_mul(HEARTBEATS_PER_ELECTION_MAX);
        let window_min = self.retained_bytes_max.saturating_add(2 * (ENTRY_BYTES_MAX as u64 + ENTRY_OVERHEAD_BYTES));
        let checks = [
            ("heartbeat_ns", self.heartbeat_ns, self.heartbeat_ns >= HEARTBEAT_TICKS as u64, "at least 4"),
            (
                "election_timeout_ns",
                self.election_timeout_ns,
                (election_min..=election_max).contains(&self.election_timeout_ns),
                "3 to 1000 times heartbeat_ns",
            ),
            (
                "max_message_bytes",
                self.max_message_bytes,
                (1 << 10..=MESSAGE_BYTES_MAX as u64).contains(&self.max_message_bytes),
                "1 KiB to 16 MiB",
            ),
            ("max_inflight", self.max_inflight as u64, (1..=65_536).contains(&self.max_inflight), "1 to 65536"),
            (
                "uncommitted_bytes_max",
                self.uncommitted_bytes_max,
                self.uncommitted_bytes_max >= self.max_message_bytes,
                "at least max_message_bytes",
            ),
            (
                "window_bytes_max",
                self.window_bytes_max,
                self.window_bytes_max >= window_min,
                "at least retained_bytes_max and two largest entries",
            ),
        ];
        match checks.into_iter().find(|check| !check.2) {
            Some((key, value, _, range)) => Err(StartError::Config { key, value, range }),
            None => Ok(()),
        }
    }

    fn validate_members(&self) -> Result<(), StartError> {
        let members: BTreeSet<NodeId> = self.members().collect();
        if self.voters.is_empty() {
            return Err(StartError::Members("no voters"));
        }
        if members.len() != self.voters.len() + self.learners.len() {
            return Err(StartError::Members("a node is listed twice"));
        }
        if members.len() > NODES_MAX {
            return Err(StartError::Members("more than 64 members"));
        }
        if members.contains(&NodeId(0)) {
            return Err(StartError::Members("0 is not a node id"));
        }
        if !members.contains(&self.id) {
            return Err(StartError::Members("this node is not a member"));
        }
        Ok(())
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }

    /// Length of a tick, in ns.
    pub(crate) fn tick_ns(&self) -> u64 {
        self.heartbeat_ns / HEARTBEAT_TICKS as u64
    }

    /// For how long a replica that has heard its leader helps nobody else to lead, in ns of its clock; 0 if elections are too quick for that. It stands for
    /// election itself no earlier: up to so many ticks may have passed before the heartbeat, and are counted behind it.
    pub(crate) fn promise_ns(&self) -> u64 {
        let uncertain = TICKS_AT_ONCE_MAX + 1;
        (self.election_ticks() as u64).saturating_sub(uncertain) * self.tick_ns()
    }

    /// Base election timeout, in ticks.
    pub(crate) fn election_ticks(&self) -> usize {
        self.election_timeout_ns.div_ceil(self.tick_ns()) as usize
    }
}
