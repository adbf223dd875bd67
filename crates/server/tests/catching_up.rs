//! A copy of the records that depends on which snapshot a leader offers.
#![allow(clippy::unwrap_used)]

use gavel_server::{Clock, Config, Effect, Server};
use gavel_store::engine::MemEngine;
use gavel_store::records::{Identity, Records};
use gavel_types::{ClusterId, Key, Moment, NodeId, ObjectId, Retention, Seq, SessionId, Tid, VolumeId};
use gavel_wire::{Author, Message, Mutation, Plan, Record, Request, RequestBody};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const MS: u64 = 1_000_000;
const DAWN_NS: u64 = 1_720_000_000_000_000_000;
const FIRST: NodeId = NodeId(1);
const SECOND: NodeId = NodeId(2);
const BEHIND: NodeId = NodeId(3);

/// Three servers on engines in memory: writes and flushes are done at once, messages arrive in their order.
struct Group {
    now_ms: u64,
    servers: BTreeMap<NodeId, Server<MemEngine>>,
    /// Nodes that can be reached, and for which time passes.
    alive: BTreeSet<NodeId>,
    under_way: VecDeque<(NodeId, NodeId, Message)>,
    loses_scans: bool,
    scans_lost: usize,
    sessions: Vec<SessionId>,
}

impl Group {
    fn new() -> Group {
        let members = vec![FIRST, SECOND, BEHIND];
        let server = |node: NodeId| {
            let identity = Identity { cluster: ClusterId([7; 16]), node };
            let records = Arc::new(Records::open(MemEngine::new(), identity).unwrap().0);
            let mut config = Config::new(gavel_quorum::Config::new(node, members.clone(), node.0));
            config.quorum.retained_bytes_max = 2 << 10;
            config.flush_log_bytes = 1;
            config.prune_look_ns = 100 * MS;
            config.sweep_rows = 4;
            let clock = Clock { now: Moment(0), wall_ns: DAWN_NS };
            (node, Server::new(config, records, None, Default::default(), clock).unwrap())
        };
        Group {
            now_ms: 0,
            servers: members.iter().map(|node| server(*node)).collect(),
            alive: BTreeSet::new(),
            under_way: VecDeque::new(),
            loses_scans: false,
            scans_lost: 0,
            sessions: Vec::new(),
        }
    }

    fn clock(&self) -> Clock {
        Clock { now: Moment(self.now_ms * MS), wall_ns: DAWN_NS + self.now_ms * MS }
    }

    fn server(&mut self, node: NodeId) -> &mut Server<MemEngine> {
        self.servers.get_mut(&node).unwrap()
    }

    fn sweeps(&self, node: NodeId) -> u64 {
        self.servers[&node].state().past.sweeps()
    }

    fn take_effects(&mut self, node: NodeId) {
        let clock = self.clock();
        loop {
            let effects = self.server(node).take_effects();
            if effects.is_empty() {
                return self.server(node).check_invariants();
            }
            for effect in effects {
                match effect {
                    Effect::Send { to, message } => self.under_way.push_back((node, to, message)),
                    Effect::Persist(write) if write.must_sync => self.server(node).on_persisted(clock, write.ticket),
                    Effect::Flush => {
                        self.server(node).records().flush().unwrap();
                        self.server(node).on_flushed(clock, Ok(()));
                    }
                    Effect::Applied(news) => self.sessions.extend(news.opened.iter().map(|(session, _)| *session)),
                    Effect::Failed(failure) => panic!("{node}: {failure}"),
                    _ => {}
                }
            }
        }
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        if self.loses_scans && matches!(message, Message::ScanChanges { .. }) {
            self.scans_lost += 1;
        } else if self.alive.contains(&from) && self.alive.contains(&to) {
            let clock = self.clock();
            self.server(to).on_message(clock, from, message).unwrap();
            self.take_effects(to);
        }
    }

    fn ask(&mut self, node: NodeId, question: Message) {
        let clock = self.clock();
        self.server(node).on_local(clock, question);
        self.take_effects(node);
    }

    /// Until the condition holds, which is looked at behind each event; whether it came to hold.
    fn run_until(&mut self, ms: u64, condition: impl Fn(&Group) -> bool) -> bool {
        let end = self.now_ms + ms;
        while self.now_ms < end && !condition(self) {
            if let Some((from, to, message)) = self.under_way.pop_front() {
                self.deliver(from, to, message);
                continue;
            }
            self.now_ms += 10;
            let clock = self.clock();
            for node in self.alive.clone() {
                self.server(node).on_tick(clock);
                self.take_effects(node);
            }
        }
        condition(self)
    }

    fn leads(&self, node: NodeId) -> bool {
        self.servers[&node].quorum_status().role.leader == Some(node)
    }

    /// What a session does: it overwrites much, of which nothing is to be kept.
    fn overwrite_much(&mut self, node: NodeId) {
        self.ask(node, Message::OpenSession { node, incarnation: 1, term_ms: 60_000, instead_of: None });
        assert!(self.run_until(1_000, |group| !group.sessions.is_empty()));
        let (session, seen) = (self.sessions[0], Seq(1));
        let write = |number: u64| {
            let key = Key::xattr(VolumeId::FIRST, ObjectId(20), b"user.a");
            let put = Mutation::Put { key, record: Record::Xattr(vec![number as u8; 400].into()) };
            let (plan, author) = (Plan { mutations: vec![put] }, Author::default());
            RequestBody::Commit { guards: Vec::new(), plan, author, stored_as_of: Tid::MAX }
        };
        let policy = Retention { whole_ns: Some(0), rules: Vec::new() };
        let forget = RequestBody::SetRetention { volume: VolumeId::FIRST, policy };
        for (seq, body) in (1..).zip((0..20).map(write).chain([forget])) {
            self.ask(node, Message::Submit(vec![Request { session, seq: Seq(seq), seen, body }]));
            let next = Seq(seq + 1);
            let is_applied = move |group: &Group| group.servers[&node].state().sessions[&session].next == next;
            assert!(self.run_until(1_000, is_applied));
        }
    }
}

/// A leader that needs the node that copies for its majority has offered its state, and hears only then of a sweep that is committed:
/// nobody has the records of what it offered any more, and nothing of its term is committed before the other has reached a newer state.
#[test]
fn a_leader_that_has_committed_nothing_yet_replaces_an_offer_that_was_swept_past() {
    let mut group = Group::new();
    group.alive = [FIRST, SECOND].into();
    assert!(group.run_until(10_000, |group| [FIRST, SECOND].into_iter().any(|node| group.leads(node))));
    let (old, new) = if group.leads(FIRST) { (FIRST, SECOND) } else { (SECOND, FIRST) };
    assert!(group.run_until(1_000, |group| group.servers[&old].state().volumes.contains_key(&VolumeId::FIRST)));
    group.overwrite_much(old);
    assert!(group.run_until(20_000, |group| group.sweeps(old) > 0 && group.sweeps(new) == group.sweeps(old)));
    let before = group.sweeps(new);
    // The next sweep is in both logs, and only its leader knows that it is committed, when that is gone.
    assert!(group.run_until(1_000, |group| group.sweeps(old) > before));
    let swept = group.servers[&old].quorum_status();
    group.under_way.clear();
    assert_eq!((group.sweeps(new), group.servers[&new].quorum_status().last), (before, swept.applied));
    group.alive = [new, BEHIND].into();
    group.loses_scans = true;
    assert!(group.run_until(20_000, |group| group.leads(new) && group.scans_lost > 0), "it is offered a state");
    // What any other replica that copies would say.
    group.loses_scans = false;
    let (index, term) = (swept.applied, swept.role.term);
    let (after, upto, clock) = (Tid::ZERO, group.servers[&old].state().tid, group.clock());
    let scan = Message::ScanChanges { ticket: 1, after, upto, skip: 0, index, term, sweeps: before + 1 };
    group.server(new).on_message(clock, old, scan).unwrap();
    group.take_effects(new);
    assert_eq!(group.sweeps(new), before + 1);
    let is_there = |group: &Group| group.sweeps(BEHIND) > before && !group.servers[&BEHIND].is_catching_up();
    assert!(group.run_until(30_000, is_there), "it waits for records that nobody has");
}
