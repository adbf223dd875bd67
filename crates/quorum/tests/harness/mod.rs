//! A group in one thread: virtual time, a network that loses, delays and doubles, disks whose unsynced
//! writes a crash may take, and the checks that every step must pass.

#![allow(dead_code)]

mod node;

use bytes::Bytes;
use gavel_quorum::{Confirmation, LogEntry, Ready, Role};
use gavel_types::{LogIndex, Moment, NodeId, Term};
pub use node::Node;
use std::collections::{BTreeMap, BTreeSet};

pub const MS: u64 = 1_000_000;
pub const ELECTION_NS: u64 = 300 * MS;
const HEARTBEAT_NS: u64 = 50 * MS;

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the network and the disks do.
#[derive(Clone, Copy)]
pub struct Faults {
    pub lost_percent: u64,
    pub doubled_percent: u64,
    pub delay_ms_max: u64,
    pub sync_ms_max: u64,
    pub fetch_fails_percent: u64,
}

pub const CALM: Faults =
    Faults { lost_percent: 0, doubled_percent: 0, delay_ms_max: 2, sync_ms_max: 3, fetch_fails_percent: 0 };
pub const ROUGH: Faults =
    Faults { lost_percent: 8, doubled_percent: 8, delay_ms_max: 30, sync_ms_max: 40, fetch_fails_percent: 30 };

enum Event {
    Tick,
    Message(NodeId, Vec<u8>),
    Durable(u64),
    Apply(LogIndex),
    Flush,
    Fetched,
}

pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub faults: Faults,
    pub nodes: BTreeMap<u64, Node>,
    /// Directed links that carry nothing.
    pub cuts: BTreeSet<(u64, u64)>,
    queue: BTreeMap<(u64, u64), (u64, u64, Event)>,
    events: u64,
    /// Every entry that any replica handed out, by index.
    pub committed: BTreeMap<u64, LogEntry>,
    leaders: BTreeMap<Term, NodeId>,
    /// Reads under way: (node, ticket) to (when asked, what was committed then).
    asked: BTreeMap<(u64, u64), (u64, u64)>,
    tickets: u64,
    pub reads_confirmed: u64,
    pub reads_failed: u64,
    /// Fetches do not end by themselves.
    pub holds_fetches: bool,
    pub snapshots_installed: u64,
    pub digest: u64,
    /// Messages as they were sent, if they are wanted.
    pub captured: Option<Vec<(u64, u64, Vec<u8>)>>,
    proposals: u64,
    /// Which node has which clock.
    clocks: usize,
}

impl World {
    pub fn new(seed: u64, voters: u64, learners: u64, retained_bytes_max: u64) -> World {
        let mut world = World {
            now: 1,
            rng: Rng(seed),
            faults: CALM,
            nodes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            queue: BTreeMap::new(),
            events: 0,
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            asked: BTreeMap::new(),
            tickets: 0,
            reads_confirmed: 0,
            reads_failed: 0,
            holds_fetches: false,
            snapshots_installed: 0,
            digest: 0,
            captured: None,
            proposals: 0,
            clocks: seed as usize % 3,
        };
        for id in 1..=voters + learners {
            let mut config = gavel_quorum::Config::new(NodeId(id), (1..=voters).map(NodeId).collect(), seed ^ id);
            config.learners = (voters + 1..=voters + learners).map(NodeId).collect();
            config.election_timeout_ns = ELECTION_NS;
            config.heartbeat_ns = HEARTBEAT_NS;
            config.max_message_bytes = 4096;
            config.uncommitted_bytes_max = 1 << 20;
            config.retained_bytes_max = retained_bytes_max;
            config.window_bytes_max = retained_bytes_max + (17 << 20);
            world.nodes.insert(id, Node::new(config));
            world.start(id);
        }
        world
    }

    pub fn start(&mut self, id: u64) {
        let now = self.clock(id);
        let node = self.node(id);
        if node.quorum.is_none() {
            node.start(now);
            self.after(id, 1, Event::Tick);
            self.after(id, 50 * MS, Event::Flush);
            self.take_effects(id);
        }
    }

    pub fn crash(&mut self, id: u64) {
        let survivors = self.rng.draw();
        self.node(id).crash(survivors);
        self.asked.retain(|(node, _), _| *node != id);
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the world")
    }

    /// What a node's clock shows. Their rates differ by as much as they may: 5 percent this way and that.
    fn clock(&self, id: u64) -> Moment {
        Moment(self.now / 100 * [95, 100, 105][(id as usize + self.clocks) % 3])
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &Node| node.status().filter(|status| status.role.role == Role::Leader);
        let leaders = self.nodes.values().filter_map(leads);
        leaders.max_by_key(|status| status.role.term).map(|status| status.id.0)
    }

    pub fn isolate(&mut self, id: u64) {
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.cuts.extend([(id, other), (other, id)]);
        }
    }

    pub fn last_committed(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(index, _)| *index)
    }

    fn after(&mut self, id: u64, delay: u64, event: Event) {
        self.events += 1;
        let life = self.nodes[&id].life;
        self.queue.insert((self.now + delay, self.events), (id, life, event));
    }

    /// Runs until `until_ns` of virtual time from now have passed.
    pub fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        while let Some(next) = self.queue.first_entry().filter(|next| next.key().0 <= end) {
            let ((at, _), (id, life, event)) = next.remove_entry();
            self.now = at;
            self.handle(id, life, event);
        }
        self.now = end;
        let patience = 3 * ELECTION_NS + HEARTBEAT_NS;
        let late = self.asked.iter().find(|(_, (at, _))| self.now > at + patience);
        assert!(late.is_none(), "a read hangs: {late:?} at {}", self.now);
    }

    /// Runs until `condition` holds, for at most `ns`; whether it came to hold.
    pub fn run_until(&mut self, ns: u64, condition: impl Fn(&World) -> bool) -> bool {
        let end = self.now + ns;
        while self.now < end && !condition(self) {
            self.run(5 * MS);
        }
        condition(self)
    }

    fn handle(&mut self, id: u64, life: u64, event: Event) {
        let now = self.clock(id);
        let node = self.node(id);
        if let Event::Message(from, bytes) = event {
            let cut = self.cuts.contains(&(from.0, id));
            if let Some(quorum) = self.node(id).quorum.as_mut().filter(|_| !cut) {
                quorum.on_message(now, from, &bytes.into()).expect("honest messages are not refused");
                self.take_effects(id);
            }
            return;
        }
        let Some(quorum) = node.quorum.as_mut().filter(|_| node.life == life) else { return };
        match event {
            Event::Tick => {
                quorum.on_tick(now);
                let next = quorum.next_tick().since_ns(now).max(1);
                self.after(id, next, Event::Tick);
            }
            Event::Durable(ticket) => node.on_durable(ticket),
            Event::Apply(index) => node.apply(index),
            Event::Flush => {
                node.flush();
                self.after(id, 50 * MS, Event::Flush);
            }
            Event::Fetched => self.fetched(id),
            Event::Message(..) => unreachable!("handled above"),
        }
        self.take_effects(id);
    }

    fn fetched(&mut self, id: u64) {
        let fails = self.rng.chance(self.faults.fetch_fails_percent);
        let crashes = self.rng.chance(self.faults.fetch_fails_percent);
        if self.node(id).finish_fetch(fails, crashes) {
            self.snapshots_installed += 1;
        }
        if crashes || self.rng.chance(self.faults.fetch_fails_percent) {
            self.crash(id);
            self.start(id);
        }
    }

    fn take_effects(&mut self, id: u64) {
        for _ in 0..1000 {
            let node = self.node(id);
            let Some(quorum) = node.quorum.as_mut() else { return };
            quorum.check_invariants().unwrap_or_else(|broken| panic!("node {id}: {broken}"));
            if quorum.wants_snapshot() {
                let index = quorum.status().applied;
                let _ = quorum.offer_snapshot(index, Bytes::from(format!("state at {index}")));
            }
            if !quorum.has_ready() {
                return;
            }
            let ready = quorum.take_ready();
            self.carry_out(id, ready);
        }
        panic!("node {id} is ready for ever");
    }

    fn carry_out(&mut self, id: u64, ready: Ready) {
        self.fold(id, &ready);
        self.send(id, ready.send);
        if let Some(write) = ready.persist {
            let delay = 1 + self.rng.below(self.faults.sync_ms_max * MS);
            if write.must_sync {
                self.after(id, delay, Event::Durable(write.ticket));
            }
            self.node(id).unsynced.push_back(write);
        }
        if let Some(role) = ready.role.filter(|role| role.role == Role::Leader) {
            let leader = *self.leaders.entry(role.term).or_insert(NodeId(id));
            assert_eq!(leader, NodeId(id), "two leaders of term {}", role.term);
        }
        self.deliver(id, ready.committed);
        for (ticket, index) in ready.reads {
            let (_, committed) = self.asked.remove(&(id, ticket)).expect("a read that was asked for");
            assert!(index.0 >= committed, "read {ticket} sees {index}, {committed} was committed before it");
            self.reads_confirmed += 1;
        }
        for ticket in ready.failed_reads {
            self.asked.remove(&(id, ticket)).expect("a read that was asked for");
            self.reads_failed += 1;
        }
        if let Some(snapshot) = ready.pending_snapshot {
            self.node(id).fetching = Some(snapshot);
            let delay = (1 + self.rng.below(40)) * MS;
            if !self.holds_fetches {
                self.after(id, delay, Event::Fetched);
            }
        }
    }

    fn send(&mut self, id: u64, messages: Vec<(NodeId, Vec<u8>)>) {
        for (to, bytes) in messages {
            if let Some(captured) = &mut self.captured {
                captured.push((id, to.0, bytes.clone()));
            }
            let copies = 1 + u64::from(self.rng.chance(self.faults.doubled_percent));
            for _ in 0..copies {
                if !self.rng.chance(self.faults.lost_percent) {
                    let delay = 1 + self.rng.below(self.faults.delay_ms_max * MS);
                    self.after(to.0, delay, Event::Message(NodeId(id), bytes.clone()));
                }
            }
        }
    }

    fn deliver(&mut self, id: u64, entries: Vec<LogEntry>) {
        let Some(last) = entries.last().map(|entry| entry.index) else { return };
        let node = self.node(id);
        assert!(node.fetching.is_none(), "node {id} was given entries while it fetches a snapshot");
        for entry in entries {
            let node = self.node(id);
            assert_eq!(entry.index.0, node.delivered.index.0 + 1, "node {id}: out of order");
            node.delivered = entry.mark();
            node.marks.insert(entry.index, entry.term);
            let first = self.committed.entry(entry.index.0).or_insert_with(|| entry.clone());
            assert_eq!(*first, entry, "node {id}: committed logs differ");
        }
        if self.rng.chance(50) {
            self.node(id).apply(last);
        } else {
            let delay = 1 + self.rng.below(5 * MS);
            self.after(id, delay, Event::Apply(last));
        }
    }

    /// Proposes something new at `id`; whether it was taken.
    pub fn propose(&mut self, id: u64) -> bool {
        self.proposals += 1;
        let mut data = self.proposals.to_le_bytes().to_vec();
        data.resize(8 + self.rng.below(600) as usize, 7);
        let Some(quorum) = self.node(id).quorum.as_mut() else { return false };
        let taken = quorum.propose(data.into()).is_ok();
        self.take_effects(id);
        taken
    }

    /// Asks `id` to confirm a read; whether it leads, as far as it knows.
    pub fn ask(&mut self, id: u64) -> bool {
        let by = if self.rng.chance(80) { Confirmation::Lease } else { Confirmation::Round };
        self.ask_by(id, by)
    }

    /// The same, by a lease or by a round.
    pub fn ask_by(&mut self, id: u64, by: Confirmation) -> bool {
        let committed = self.last_committed();
        self.tickets += 1;
        let ticket = self.tickets;
        let now = self.clock(id);
        let Some(quorum) = self.node(id).quorum.as_mut() else { return false };
        let taken = quorum.confirm_read(now, ticket, by).is_ok();
        if taken {
            self.asked.insert((id, ticket), (self.now, committed));
            self.take_effects(id);
        }
        taken
    }

    pub fn transfer(&mut self, to: u64) {
        if let Some(leader) = self.leader() {
            let _ = self.node(leader).quorum.as_mut().map(|quorum| quorum.transfer_leader(NodeId(to)));
            self.take_effects(leader);
        }
    }

    /// Everything works again; all nodes run.
    pub fn heal(&mut self) {
        self.faults = CALM;
        self.cuts.clear();
        for id in self.ids() {
            self.start(id);
        }
    }

    /// After a heal: a leader within 10 election timeouts, and everything that was ever committed, and
    /// something new, on every node.
    pub fn assert_recovers(&mut self) {
        assert!(self.run_until(10 * ELECTION_NS, |world| world.leader().is_some()), "no leader after healing");
        let before = self.last_committed();
        let new = |world: &World| world.last_committed() > before;
        let mut tries = 0;
        while !new(self) {
            let leader = self.leader();
            leader.map(|leader| self.propose(leader));
            self.run(20 * MS);
            tries += 1;
            assert!(tries < 200, "nothing new is committed after healing");
        }
        let everywhere = |world: &World| {
            let last = world.last_committed();
            world.nodes.values().all(|node| node.applied.index.0 == last)
        };
        let caught_up = self.run_until(30 * ELECTION_NS, everywhere);
        let statuses: Vec<_> = self.nodes.values().map(Node::status).collect();
        assert!(caught_up, "committed {}, nodes are at {statuses:#?}", self.last_committed());
    }

    fn fold(&mut self, id: u64, ready: &Ready) {
        let text = format!("{} {id} {ready:?}", self.now);
        for byte in text.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
