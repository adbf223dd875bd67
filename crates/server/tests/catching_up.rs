//! A copy of the records that depends on which snapshot a leader offers.
#![allow(clippy::unwrap_used)]

use gavel_quorum::{Persist, Recovered};
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
    servers: BTreeMap<NodeId, Server<Arc<MemEngine>>>,
    /// Nodes that can be reached, and for which time passes.
    alive: BTreeSet<NodeId>,
    under_way: VecDeque<(NodeId, NodeId, Message)>,
    /// What each node's log holds.
    logs: BTreeMap<NodeId, Recovered>,
    engines: BTreeMap<NodeId, Arc<MemEngine>>,
    /// Questions for changes are lost that go on from such a Tid, or a later one.
    loses_scans_from: Option<Tid>,
    scans_lost: usize,
    sessions: Vec<SessionId>,
    written: u64,
    /// Asks for a session all the time.
    wants_session: Option<NodeId>,
    /// Whose wall clock is ahead, by how much.
    ahead_ns: BTreeMap<NodeId, u64>,
}

/// A server on what its disks hold. Answers to scans hold a row each, and each is sealed.
fn server_of(node: NodeId, engine: &Arc<MemEngine>, log: Recovered, clock: Clock) -> Server<Arc<MemEngine>> {
    let identity = Identity { cluster: ClusterId([7; 16]), node };
    let (records, sealed) = Records::open(Arc::clone(engine), identity).unwrap();
    let mut config = Config::new(gavel_quorum::Config::new(node, vec![FIRST, SECOND, BEHIND], node.0));
    config.quorum.retained_bytes_max = 2 << 10;
    config.flush_log_bytes = 1;
    config.prune_look_ns = 100 * MS;
    config.sweep_rows = 4;
    config.scan_bytes_max = 1;
    config.catch_up_seal_changes = 1;
    Server::new(config, Arc::new(records), sealed.as_deref(), log, clock).unwrap()
}

impl Group {
    fn new() -> Group {
        let clock = Clock { now: Moment(0), wall_ns: DAWN_NS };
        let members = [FIRST, SECOND, BEHIND];
        let engines = BTreeMap::from(members.map(|node| (node, Arc::new(MemEngine::new()))));
        Group {
            now_ms: 0,
            servers: members.map(|node| (node, server_of(node, &engines[&node], Recovered::default(), clock))).into(),
            engines,
            alive: BTreeSet::new(),
            under_way: VecDeque::new(),
            logs: members.map(|node| (node, Recovered::default())).into(),
            loses_scans_from: None,
            scans_lost: 0,
            sessions: Vec::new(),
            written: 0,
            wants_session: None,
            ahead_ns: BTreeMap::new(),
        }
    }

    fn clock(&self, node: NodeId) -> Clock {
        let ahead = self.ahead_ns.get(&node).copied().unwrap_or(0);
        Clock { now: Moment(self.now_ms * MS), wall_ns: DAWN_NS + self.now_ms * MS + ahead }
    }

    fn server(&mut self, node: NodeId) -> &mut Server<Arc<MemEngine>> {
        self.servers.get_mut(&node).unwrap()
    }

    fn sweeps(&self, node: NodeId) -> u64 {
        self.servers[&node].state().past.sweeps()
    }

    fn take_effects(&mut self, node: NodeId) {
        let clock = self.clock(node);
        loop {
            let effects = self.server(node).take_effects();
            if effects.is_empty() {
                return self.server(node).check_invariants();
            }
            for effect in effects {
                match effect {
                    Effect::Send { to, message } => self.under_way.push_back((node, to, message)),
                    Effect::Persist(write) => {
                        let (ticket, must_sync) = (write.ticket, write.must_sync);
                        self.write_log(node, write);
                        if must_sync {
                            self.server(node).on_persisted(clock, ticket);
                        }
                    }
                    Effect::TrimLog(up_to) => {
                        let log = self.logs.get_mut(&node).unwrap();
                        let gone = log.entries.iter().take_while(|entry| entry.index <= up_to).count();
                        log.compacted =
                            log.entries.drain(..gone).next_back().map_or(log.compacted, |entry| entry.mark());
                    }
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

    fn write_log(&mut self, node: NodeId, write: Persist) {
        let log = self.logs.get_mut(&node).unwrap();
        log.hard_state = write.hard_state.unwrap_or(log.hard_state);
        if let Some(mark) = write.snapshot {
            log.compacted = mark;
            log.entries.clear();
        }
        if let Some(first) = write.append.first() {
            log.entries.retain(|entry| entry.index < first.index);
        }
        log.entries.extend(write.append);
    }

    /// The power of a node fails, and it comes back without records.
    fn take_records(&mut self, node: NodeId) {
        self.engines.insert(node, Arc::new(MemEngine::new()));
        self.crash(node);
        assert!(self.servers[&node].is_catching_up());
    }

    /// The power of a node fails, and comes back.
    fn crash(&mut self, node: NodeId) {
        self.under_way.clear();
        self.engines[&node].crash();
        let server = server_of(node, &self.engines[&node], self.logs[&node].clone(), self.clock(node));
        self.servers.insert(node, server);
    }

    fn deliver(&mut self, from: NodeId, to: NodeId, message: Message) {
        let is_lost = |from: Tid| matches!(message, Message::ScanChanges { after, .. } if after >= from);
        if self.loses_scans_from.is_some_and(is_lost) {
            self.scans_lost += 1;
        } else if self.alive.contains(&from) && self.alive.contains(&to) {
            let clock = self.clock(to);
            self.server(to).on_message(clock, from, message).unwrap();
            self.take_effects(to);
        }
    }

    fn ask(&mut self, node: NodeId, question: Message) {
        let clock = self.clock(node);
        self.server(node).on_local(clock, question);
        self.take_effects(node);
    }

    fn open_session(&mut self, node: NodeId) {
        self.ask(node, Message::OpenSession { node, incarnation: 1, term_ms: 600_000, instead_of: None });
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
            for node in self.alive.clone() {
                let clock = self.clock(node);
                self.server(node).on_tick(clock);
                self.take_effects(node);
            }
            if let Some(node) = self.wants_session {
                self.open_session(node);
            }
        }
        condition(self)
    }

    fn leader_of(&self, node: NodeId) -> Option<NodeId> {
        self.servers[&node].quorum_status().role.leader
    }

    fn leads(&self, node: NodeId) -> bool {
        self.leader_of(node) == Some(node)
    }

    /// Who leads, and the others that can be reached, from the least.
    fn elect(&mut self) -> (NodeId, Vec<NodeId>) {
        let led = |group: &Group| group.alive.iter().copied().find(|node| group.leads(*node));
        let serves = |node: NodeId, group: &Group| group.servers[&node].state().volumes.contains_key(&VolumeId::FIRST);
        assert!(self.run_until(10_000, |group| led(group).is_some_and(|leader| serves(leader, group))));
        let leader = led(self).unwrap();
        (leader, self.alive.iter().copied().filter(|node| *node != leader).collect())
    }

    /// What a session does, until its node has applied it.
    fn commit(&mut self, node: NodeId, body: RequestBody) {
        if self.sessions.is_empty() {
            self.open_session(node);
            assert!(self.run_until(1_000, |group| !group.sessions.is_empty()));
        }
        let (session, seen) = (self.sessions[0], Seq(1));
        self.written += 1;
        self.ask(node, Message::Submit(vec![Request { session, seq: Seq(self.written), seen, body }]));
        let next = Seq(self.written + 1);
        let is_applied = move |group: &Group| group.servers[&node].state().sessions[&session].next == next;
        assert!(self.run_until(1_000, is_applied));
    }

    /// The same few bytes, again and again.
    fn overwrite(&mut self, node: NodeId, times: u8) {
        for number in 0..times {
            let key = Key::xattr(VolumeId::FIRST, ObjectId(20), b"user.a");
            let put = Mutation::Put { key, record: Record::Xattr(vec![number; 400].into()) };
            let (plan, author) = (Plan { mutations: vec![put] }, Author::default());
            self.commit(node, RequestBody::Commit { guards: Vec::new(), plan, author, stored_as_of: Tid::MAX });
        }
    }

    /// Waits until both have applied the same.
    fn settle(&mut self, one: NodeId, other: NodeId) {
        let are_equal = |group: &Group| group.servers[&one].state().tid == group.servers[&other].state().tid;
        assert!(self.run_until(1_000, are_equal));
    }

    /// A leader, and another node with the same records; their log does not begin at its first entry. The third was never there.
    fn of_two() -> (Group, NodeId, NodeId) {
        let mut group = Group::new();
        group.alive = [FIRST, SECOND].into();
        let (leader, others) = group.elect();
        group.overwrite(leader, 20);
        group.settle(leader, others[0]);
        (group, leader, others[0])
    }

    fn has_caught_up(&self, node: NodeId) -> bool {
        !self.servers[&node].is_catching_up() && self.servers[&node].state().tid > Tid::ZERO
    }
}

/// A leader that needs the node that copies for its majority has offered its state, and hears only then of a sweep that is committed:
/// nobody has the records of what it offered any more, and nothing of its term is committed before the other has reached a newer state.
#[test]
fn a_leader_that_has_committed_nothing_yet_replaces_an_offer_that_was_swept_past() {
    let (mut group, old, new) = Group::of_two();
    let policy = Retention { whole_ns: Some(0), rules: Vec::new() };
    group.commit(old, RequestBody::SetRetention { volume: VolumeId::FIRST, policy });
    assert!(group.run_until(20_000, |group| group.sweeps(old) > 0 && group.sweeps(new) == group.sweeps(old)));
    let before = group.sweeps(new);
    // The next sweep is in both logs, and only its leader knows that it is committed, when that is gone.
    assert!(group.run_until(1_000, |group| group.sweeps(old) > before));
    let swept = group.servers[&old].quorum_status();
    group.under_way.clear();
    assert_eq!((group.sweeps(new), group.servers[&new].quorum_status().last), (before, swept.applied));
    group.alive = [new, BEHIND].into();
    group.loses_scans_from = Some(Tid::ZERO);
    assert!(group.run_until(20_000, |group| group.leads(new) && group.scans_lost > 0), "it is offered a state");
    // What any other replica that copies would say.
    group.loses_scans_from = None;
    let (index, term) = (swept.applied, swept.role.term);
    let (after, upto, clock) = (Tid::ZERO, group.servers[&old].state().tid, group.clock(new));
    let scan = Message::ScanChanges { ticket: 1, after, upto, skip: 0, index, term, sweeps: before + 1 };
    group.server(new).on_message(clock, old, scan).unwrap();
    group.take_effects(new);
    assert_eq!(group.sweeps(new), before + 1);
    let is_there = |group: &Group| group.sweeps(BEHIND) > before && group.has_caught_up(BEHIND);
    assert!(group.run_until(30_000, is_there), "it waits for records that nobody has");
}

/// A node has copied nearly all from a leader that is gone for good then. The one that is left has the last entry in its log, does not know that
/// it is committed, and can't commit anything without the first: so it offers a state that is older than what was copied.
#[test]
fn what_was_copied_from_a_node_that_is_gone_is_given_up_for_what_is_left() {
    let (mut group, old, new) = Group::of_two();
    let known = group.servers[&new].state().tid;
    group.run_until(20, |_| false);
    group.overwrite(old, 1);
    let committed = group.servers[&old].quorum_status().applied;
    group.under_way.clear();
    assert_eq!((group.servers[&new].state().tid, group.servers[&new].quorum_status().last), (known, committed));
    group.alive = [old, BEHIND].into();
    group.loses_scans_from = Some(Tid(known.0 + 1));
    assert!(group.run_until(5_000, |group| group.scans_lost > 0), "it has begun with what only the leader knows");
    group.crash(BEHIND);
    group.alive = [new, BEHIND].into();
    assert!(group.run_until(60_000, |group| group.has_caught_up(BEHIND)), "it waits for a leader that is gone");
    assert!(group.run_until(5_000, |group| group.servers[&BEHIND].quorum_status().applied > committed));
    assert_eq!(group.servers[&BEHIND].state().tid, group.servers[&new].state().tid);
}

/// A node whose records were taken away has the longest log of those that are left. It must be elected, and can't lead: it hands over to
/// the one that has records.
#[test]
fn a_leader_without_records_hands_over_to_a_node_that_has_them() {
    let mut group = Group::new();
    group.alive = [FIRST, SECOND, BEHIND].into();
    let (old, others) = group.elect();
    let (short, long) = (others[0], others[1]);
    group.overwrite(old, 20);
    group.settle(short, old);
    group.alive.remove(&short);
    group.overwrite(old, 1);
    group.settle(long, old);
    group.take_records(long);
    group.alive = [short, long].into();
    assert!(group.run_until(10_000, |group| group.leads(long)), "its log is the longer one");
    assert!(group.run_until(30_000, |group| group.leads(short)), "it leads, and serves nobody");
    assert!(group.run_until(30_000, |group| group.has_caught_up(long)));
    group.settle(short, long);
}

/// One node has no records, one has no log either, and the one that has both has a wrong clock: it should not lead, and must until another
/// one can.
#[test]
fn a_node_with_a_wrong_clock_leads_until_another_one_has_records() {
    let (mut group, bare, whole) = Group::of_two();
    group.take_records(bare);
    group.alive = [bare, BEHIND].into();
    assert!(group.run_until(10_000, |group| group.leads(bare)), "nobody else can be elected by these two");
    group.ahead_ns.insert(whole, 20_000 * MS);
    group.wants_session = Some(whole);
    group.alive = [bare, BEHIND, whole].into();
    let is_done = |group: &Group| group.has_caught_up(bare) && group.has_caught_up(BEHIND);
    assert!(group.run_until(30_000, is_done), "nobody leads who has records");
}

/// It has been sent a snapshot, its log is as long as those of the others, and the copy takes long.
#[test]
fn a_leader_that_copies_hands_over_to_a_node_that_need_not() {
    let (mut group, whole, bare) = Group::of_two();
    assert!(group.run_until(1_000, |group| group.servers[&whole].state().tid == group.servers[&bare].state().tid));
    group.loses_scans_from = Some(Tid::ZERO);
    group.take_records(bare);
    assert!(group.run_until(30_000, |group| group.scans_lost > 0), "it is sent a snapshot");
    group.alive = [bare, BEHIND].into();
    assert!(group.run_until(10_000, |group| group.leads(bare)), "nobody else can be elected by these two");
    group.alive = [bare, BEHIND, whole].into();
    assert!(group.run_until(10_000, |group| group.leads(whole) && group.leader_of(bare) == Some(whole)));
}

/// Two nodes have no records, and logs as long as that of the third: whoever of them leads must not hand over to the other for ever.
#[test]
fn leaders_without_records_find_the_node_that_has_them() {
    for whole in [FIRST, SECOND, BEHIND] {
        let mut group = Group::new();
        group.alive = [FIRST, SECOND, BEHIND].into();
        let (old, _) = group.elect();
        group.overwrite(old, 20);
        let applied = group.servers[&old].quorum_status().applied;
        let are_equal = move |group: &Group| group.servers.values().all(|one| one.quorum_status().applied == applied);
        assert!(group.run_until(1_000, are_equal));
        let bare = group.alive.iter().copied().filter(|node| *node != whole).collect::<Vec<_>>();
        bare.iter().for_each(|node| group.take_records(*node));
        // The third is not heard of until one of them leads.
        group.alive.remove(&whole);
        assert!(group.run_until(10_000, |group| bare.iter().any(|node| group.leads(*node))));
        group.alive.insert(whole);
        assert!(group.run_until(30_000, |group| bare.iter().all(|node| group.has_caught_up(*node))), "{whole} has all");
    }
}
