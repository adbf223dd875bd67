//! Messages of the replicated log, in a replica that has started.
//!
//! An input is a sequence of parts (see [`crate::parts`]). The first byte of a part says what happens: a message of node 2
//! or 3 arrives (its bytes follow), or time passes.

use crate::parts;
use bytes::Bytes;
use gavel_quorum::{Config, Confirmation, Quorum, Ready, Recovered, Role};
use gavel_types::{LogIndex, Moment, NodeId};
use std::collections::VecDeque;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const MS: u64 = 1_000_000;
/// Parts of an input that are looked at.
const PARTS_MAX: usize = 200;
/// Effects of one input settle within so many rounds.
const ROUNDS_MAX: usize = 100;
const TICK: u8 = 0;

/// A replica with its owner: all writes are durable at once, all entries applied at once.
struct Replica {
    quorum: Quorum,
    now: u64,
    handed: LogIndex,
}

impl Replica {
    fn new(id: NodeId) -> Replica {
        let mut config = Config::new(id, NODES.into(), id.0);
        (config.election_timeout_ns, config.heartbeat_ns) = (300 * MS, 50 * MS);
        config.retained_bytes_max = 1 << 10;
        let quorum = Quorum::new(config, Recovered::default(), Moment(0)).expect("a fresh replica starts");
        Replica { quorum, now: 0, handed: LogIndex(0) }
    }

    fn tick(&mut self) {
        self.now += 60 * MS;
        self.quorum.on_tick(Moment(self.now));
    }

    /// Does what the state machine wants; gives what it wants sent.
    fn settle(&mut self) -> Vec<(NodeId, Vec<u8>)> {
        let mut sent = Vec::new();
        for _ in 0..ROUNDS_MAX {
            self.quorum.check_invariants().expect("invariants hold");
            if !self.quorum.has_ready() {
                return sent;
            }
            let ready = self.quorum.take_ready();
            self.carry_out(ready, &mut sent);
        }
        panic!("ready for ever");
    }

    fn carry_out(&mut self, ready: Ready, sent: &mut Vec<(NodeId, Vec<u8>)>) {
        sent.extend(ready.send);
        if let Some(write) = ready.persist {
            self.quorum.on_persisted(write.ticket);
        }
        if ready.pending_snapshot.is_some()
            && let Some(mark) = self.quorum.install_snapshot()
        {
            self.handed = self.handed.max(mark.index);
        }
        for entry in ready.committed {
            assert_eq!(entry.index.0, self.handed.0 + 1, "handed out of order");
            self.handed = entry.index;
        }
        self.quorum.on_applied(self.handed);
        self.quorum.compact(self.handed);
        if self.quorum.wants_snapshot() {
            // It may have become too old in between: then it is asked for again.
            let _ = self.quorum.offer_snapshot(self.handed, Bytes::from_static(b"state"));
        }
    }
}

/// Lets the messages of `bytes` arrive at node 1.
///
/// # Panics
/// If that panics, breaks an invariant of the replica, or keeps it busy for ever.
pub fn run(bytes: &[u8]) -> bool {
    let mut replica = Replica::new(NODES[0]);
    let mut accepted = false;
    for part in parts::split(bytes).take(PARTS_MAX) {
        match part.split_first() {
            None | Some((&TICK, _)) => replica.tick(),
            Some((from, message)) => {
                let from = NODES[1 + usize::from(*from % 2)];
                accepted |=
                    replica.quorum.on_message(Moment(replica.now), from, &Bytes::copy_from_slice(message)).is_ok();
            }
        }
        drop(replica.settle());
    }
    accepted
}

/// What node 1 hears while a group of three elects leaders, commits entries and brings a node up to date that was away.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut group = Group::default();
    group.run(20, None);
    group.run(40, Some(NODES[0]));
    group.run(20, None);
    let leader = group.leader().unwrap_or(NODES[1]);
    group.run(30, Some(leader));
    group.run(20, None);
    let mut seeds: Vec<Vec<u8>> =
        group.heard.chunks(12).filter(|heard| heard.iter().any(|part| *part != [TICK])).map(seed).collect();
    seeds.insert(0, seed(&group.heard));
    seeds
}

fn seed(heard: &[Vec<u8>]) -> Vec<u8> {
    parts::join(heard.iter().map(Vec::as_slice).take(PARTS_MAX))
}

/// Three replicas that hear each other at once.
struct Group {
    replicas: Vec<Replica>,
    /// What happened to node 1, as parts of an input.
    heard: Vec<Vec<u8>>,
}

impl Default for Group {
    fn default() -> Group {
        Group { replicas: NODES.map(Replica::new).into(), heard: Vec::new() }
    }
}

impl Group {
    fn leader(&self) -> Option<NodeId> {
        let leads = |replica: &Replica| replica.quorum.status().role.role == Role::Leader;
        NODES.into_iter().zip(&self.replicas).find(|(_, replica)| leads(replica)).map(|(id, _)| id)
    }

    /// Lets `ticks` pass, with a proposal and a read at each, while nobody hears from or of `away`.
    fn run(&mut self, ticks: u64, away: Option<NodeId>) {
        for tick in 0..ticks {
            for replica in &mut self.replicas {
                replica.tick();
                // Only a leader takes these.
                let _ = replica.quorum.propose(Bytes::from(vec![tick as u8; 200]));
                let _ = replica.quorum.confirm_read(Moment(replica.now), tick, Confirmation::Round);
            }
            self.heard.push(vec![TICK]);
            self.deliver(away);
        }
    }

    fn deliver(&mut self, away: Option<NodeId>) {
        let mut under_way = VecDeque::new();
        for (id, replica) in NODES.into_iter().zip(&mut self.replicas) {
            under_way.extend(replica.settle().into_iter().map(|(to, bytes)| (id, to, bytes)));
        }
        while let Some((from, to, bytes)) = under_way.pop_front() {
            if away == Some(from) || away == Some(to) {
                continue;
            }
            if to == NODES[0] {
                self.heard.push([&[if from == NODES[1] { 2 } else { 3 }], &bytes[..]].concat());
            }
            let Some(replica) = self.replicas.get_mut(to.0 as usize - 1) else { continue };
            replica.quorum.on_message(Moment(replica.now), from, &bytes.into()).expect("an honest message");
            under_way.extend(replica.settle().into_iter().map(|(next, bytes)| (to, next, bytes)));
        }
    }
}
