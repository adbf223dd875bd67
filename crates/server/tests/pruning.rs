//! Pruning, where entries apply and rows are stored: commit rule and records together, on both engines.
#![allow(clippy::unwrap_used)]

use gavel_store::engine::{Engine, LsmConfig, LsmEngine, MemEngine, Snapshot};
use gavel_store::records::{Identity, Records, Whole, WholeFrom};
use gavel_txn::prune::Span;
use gavel_txn::{Digest, State, apply};
use gavel_types::retention::Rule;
use gavel_types::{
    ClusterId, Key, KeyParts, KeyRange, LogIndex, NodeId, ObjectId, Retention, Seq, SessionId, Tid, VolumeId,
};
use gavel_wire::{Author, Ended, Entry, Item, Mutation, Outcome, Plan, Record, Request, RequestBody, Version, View};
use std::sync::Arc;
use std::time::Instant;

const V: VolumeId = VolumeId(1);
const WHO: Identity = Identity { cluster: ClusterId([7; 16]), node: NodeId(1) };
/// Time from one entry to the next, in nanoseconds.
const STEP: u64 = 1000;
const DAWN: u64 = 1_720_000_000_000_000_000;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

struct Replica<E> {
    records: Records<E>,
    state: State,
    session: SessionId,
}

impl<E: Engine> Replica<E> {
    fn new(engine: E) -> Replica<E> {
        let (records, _) = Records::open(engine, WHO).unwrap();
        let state = State { tid: Tid(DAWN), ..State::default() };
        let mut replica = Replica { records, state, session: SessionId(0) };
        replica.item(Item::SessionOpen { node: NodeId(1), incarnation: 1, term_ms: 5_000, instead_of: None });
        replica.session = SessionId(replica.state.tid.0);
        replica.item(Item::CreateVolume { volume: V, mode: 0o755, uid: 0, gid: 0 });
        replica
    }

    fn entry(&mut self, items: Vec<Item>) -> Vec<Outcome> {
        let index = LogIndex(self.state.applied.0 + 1);
        let entry = Entry { tid: Tid(DAWN + index.0 * STEP), items };
        let live = self.records.live(self.state.tid);
        let applied = apply(&mut self.state, &live, index, Some(&entry)).unwrap();
        self.records.apply(&applied.changes, &applied.removals).unwrap();
        applied.outcomes.into_iter().map(|(.., outcome)| outcome).collect()
    }

    fn item(&mut self, item: Item) -> Vec<Outcome> {
        self.entry(vec![item])
    }

    fn ask(&mut self, body: RequestBody) {
        let seq = self.state.sessions[&self.session].next;
        let outcomes = self.item(Item::Request(Request { session: self.session, seq, seen: Seq(seq.0), body }));
        assert!(!outcomes.is_empty());
    }

    fn commit(&mut self, mutations: Vec<Mutation>) {
        let (plan, author) = (Plan { mutations }, Author::default());
        self.ask(RequestBody::Commit { guards: Vec::new(), plan, author, stored_as_of: Tid::MAX });
    }

    fn retain(&mut self, whole: u64, rules: Vec<Rule>) {
        let policy = Retention { whole_ns: Some(whole * STEP), rules };
        self.ask(RequestBody::SetRetention { volume: V, policy });
    }

    fn state_at(&self, at: Tid) -> Vec<(Key, Version)> {
        let mut rows = self.records.at(at).scan(&KeyRange::volume(V), usize::MAX).unwrap();
        rows.retain(|(key, _)| !matches!(key.parts(), KeyParts::Commit { .. }));
        rows
    }

    fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let snapshot = self.records.engine().snapshot();
        let rows = snapshot.range(b"A", b"M").map(|row| row.unwrap());
        rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    fn check(&self) {
        assert_eq!(self.records.check().unwrap().problems, Vec::<String>::new());
        let mut digest = Digest::default();
        let (rows, _) = self.records.changes(Tid::ZERO, Tid::MAX, 0, usize::MAX).unwrap();
        rows.iter().for_each(|row| digest.add(row.tid, &row.key, row.version.as_ref()));
        assert_eq!(digest, self.state.records, "the digest is the sum over the change index");
    }

    /// A copy by a change scan has the same rows.
    fn check_copy(&self) {
        let (copy, _) = Records::open(MemEngine::new(), WHO).unwrap();
        let (rows, _) = self.records.changes(Tid::ZERO, Tid::MAX, 0, usize::MAX).unwrap();
        rows.chunks(7).for_each(|part| drop(copy.install(part).unwrap()));
        let copy = Replica { records: copy, state: self.state.clone(), session: self.session };
        assert!(copy.rows() == self.rows(), "a copy has other rows");
        copy.check();
    }
}

fn key(number: u64) -> Key {
    match number % 3 {
        0 => Key::xattr(V, ObjectId(20 + number / 3 % 3), b"user.a"),
        1 => Key::dirent(V, ObjectId(20), &[b'a' + (number % 5) as u8]),
        _ => Key::target(V, ObjectId(30 + number % 4)),
    }
}

fn put(key: Key, value: u64) -> Mutation {
    let bytes = || value.to_be_bytes().into();
    let record = match key.parts() {
        KeyParts::Xattr { .. } => Record::Xattr(bytes()),
        KeyParts::Target => Record::Target(bytes()),
        _ => Record::Dirent(gavel_wire::Dirent { object: ObjectId(value), kind: gavel_wire::Kind::File }),
    };
    Mutation::Put { key, record }
}

/// Commits, policies, names, pins, prunings and sweeps in any order; whatever can be read is what it was.
fn random_life<E: Engine>(engine: E, seed: u64, steps: u64) {
    let (mut dice, mut replica) = (Dice(seed), Replica::new(engine));
    let mut seen = Vec::new();
    for _ in 0..steps {
        match dice.below(20) {
            0 => {
                let rule = Rule { every_ns: (1 + dice.below(6)) * STEP, for_ns: (6 + dice.below(40)) * STEP };
                replica.retain(dice.below(15), vec![rule]);
            }
            1 => replica.ask(RequestBody::Snapshot {
                volume: V,
                name: format!("s{}", dice.below(3)).into(),
                note: "".into(),
                at: Some(Tid(replica.state.tid.0 - dice.below(10) * STEP)),
            }),
            2 => replica.ask(RequestBody::DropSnapshot { volume: V, name: format!("s{}", dice.below(3)).into() }),
            3 => {
                let at = Tid(replica.state.tid.0 - dice.below(10) * STEP);
                replica.ask(RequestBody::Pin { volume: V, at });
            }
            4..6 => drop(replica.item(Item::Prune { volume: V })),
            6..10 => {
                let rows = 1 + dice.below(8) as u32;
                replica.item(Item::Sweep { volume: V, rows });
                replica.check();
            }
            10..12 => {
                replica.records.seal(&replica.state.encode()).unwrap();
                replica.records.flush().unwrap();
                replica.records.maintain().unwrap();
            }
            12 => replica.commit(vec![Mutation::Delete { key: key(dice.below(30)) }]),
            _ => {
                let keys: std::collections::BTreeSet<Key> = (0..=dice.below(3)).map(|_| key(dice.below(30))).collect();
                replica.commit(keys.into_iter().map(|key| put(key, dice.below(1000))).collect());
            }
        }
        seen.push((replica.state.tid, replica.state_at(replica.state.tid)));
        let past = replica.state.past.of(V).unwrap();
        let (at, was) = &seen[dice.below(seen.len() as u64) as usize];
        assert!(!past.can_read(*at) || replica.state_at(*at) == *was, "the state as of {at} has changed");
    }
    while replica.state.past.of(V).unwrap().pass.is_some() {
        replica.item(Item::Sweep { volume: V, rows: 5 });
    }
    let past = replica.state.past.of(V).unwrap();
    for (at, was) in seen.iter().filter(|(at, _)| past.can_read(*at)) {
        assert!(replica.state_at(*at) == *was, "the state as of {at} has changed");
    }
    let live = replica.records.live(replica.state.tid);
    for (key, delete, version) in live.ended_from(V, None, usize::MAX).unwrap() {
        let span = Span { create: version.create, delete: Some(delete) };
        assert!(past.readable().shows(span), "{key:?} {span:?} is left");
    }
    replica.check();
    replica.check_copy();
}

#[test]
fn readable_states_stay_whole_in_memory() {
    (0..60).for_each(|seed| random_life(MemEngine::new(), seed, 150));
}

#[test]
fn readable_states_stay_whole_on_disk() {
    for seed in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let small = LsmConfig { block_cache_bytes: 64 * 1024, open_files_max: 4 };
        random_life(LsmEngine::open(dir.path(), small).unwrap(), 1000 + seed, 150);
    }
}

/// A cut in the middle of a sweep is taken up where it was.
#[test]
fn the_power_fails_between_two_sweeps() {
    let engine = Arc::new(MemEngine::new());
    let mut replica = Replica::new(engine.clone());
    (0..40).for_each(|value| replica.commit(vec![put(key(value % 4), value)]));
    replica.retain(1, Vec::new());
    replica.item(Item::Prune { volume: V });
    replica.item(Item::Sweep { volume: V, rows: 9 });
    replica.records.seal(&replica.state.encode()).unwrap();
    replica.records.flush().unwrap();
    replica.item(Item::Sweep { volume: V, rows: 9 });
    engine.crash();
    let (records, sealed) = Records::open(engine, WHO).unwrap();
    let state = State::decode(&sealed.unwrap()).unwrap();
    let mut replica = Replica { records, state, session: replica.session };
    replica.check();
    assert_eq!(replica.state.past.sweeps(), 1);
    while replica.state.past.of(V).unwrap().pass.is_some() {
        replica.item(Item::Sweep { volume: V, rows: 9 });
        replica.check();
    }
}

fn whole(horizon: u64, kept: &[Tid]) -> Whole {
    Whole { volume: WholeFrom { horizon: Tid(horizon), kept: kept.into() }, classes: Vec::new() }
}

/// States that were announced as gone are not whole for whoever reads them, and none is while records are copied.
#[test]
fn readers_are_told_what_is_whole() {
    let records = Replica::new(MemEngine::new()).records;
    assert!(records.is_whole(V, Tid(5)));
    records.set_whole([(V, whole(10, &[Tid(3)]))].into_iter());
    let is_whole = |at: u64| records.is_whole(V, Tid(at));
    assert_eq!([2, 3, 4, 9, 10, 11].map(is_whole), [false, true, false, false, true, true]);
    records.clear_all().unwrap();
    assert!(!records.is_whole(V, Tid(11)) && records.is_being_copied());
    records.set_whole([(V, whole(11, &[]))].into_iter());
    assert!(records.is_whole(V, Tid(11)) && !records.is_being_copied());
}

/// What pruning costs and gives back. Run it by hand:
/// `cargo test --release -p gavel-server --test pruning -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn measure() {
    let dir = tempfile::tempdir().unwrap();
    let mut replica = Replica::new(LsmEngine::open(dir.path(), LsmConfig::default()).unwrap());
    let cut = |replica: &Replica<LsmEngine>| {
        replica.records.seal(&replica.state.encode()).unwrap();
        replica.records.flush().unwrap();
        replica.records.maintain().unwrap();
    };
    let (files, rounds) = (20_000u64, 20u64);
    for round in 0..rounds {
        for file in 0..files / 10 {
            let value =
                |n: u64| (0..20).flat_map(|i| (n * 31 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).collect();
            let write = |n: u64| Mutation::Put {
                key: Key::xattr(V, ObjectId(100 + n), b"user.a"),
                record: Record::Xattr(value(n + round)),
            };
            replica.commit((0..10).map(|n| write(file * 10 + n)).collect());
        }
        cut(&replica);
    }
    println!("{files} records of 160 bytes written {rounds} times: {:?}", replica.records.stats());
    replica.retain(0, Vec::new());
    replica.item(Item::Prune { volume: V });
    let (begun, mut slowest, mut sweeps) = (Instant::now(), 0.0f64, 0u64);
    while replica.state.past.of(V).unwrap().pass.is_some() {
        let one = Instant::now();
        replica.item(Item::Sweep { volume: V, rows: 512 });
        slowest = slowest.max(one.elapsed().as_secs_f64());
        sweeps += 1;
        if sweeps.is_multiple_of(200) {
            cut(&replica);
        }
    }
    let each = begun.elapsed().as_secs_f64() * 1e3 / sweeps as f64;
    println!("{sweeps} sweeps, {each:.2} ms each, the slowest {:.2} ms", slowest * 1e3);
    cut(&replica);
    println!("behind the sweeps: {:?}", replica.records.stats());
    for round in 1..=6 {
        cut(&replica);
        println!("behind {round} flushes more: {:?}", replica.records.stats());
    }
    let begun = Instant::now();
    while replica.records.maintain().unwrap() {}
    println!("compacted in {:?}: {:?}", begun.elapsed(), replica.records.stats());
    replica.check();
}
