//! What a replica's work for one file of an unpacked tree costs, and for one that is removed: decoding the entry, the commit rule, the records, the flusher. Run it by hand:
//! `cargo test --release -p gavel-server --test apply_measure -- --ignored --nocapture`.
//! It counts the thread's processor time, so other work on the machine does not show much. Its numbers of November 2026 are in `docs/benchmarks.md`.
#![allow(clippy::unwrap_used)]

use gavel_store::engine::{Engine, LsmConfig, LsmEngine};
use gavel_store::records::{Identity, Records};
use gavel_txn::{State, apply};
use gavel_types::{
    Class, ClusterId, Key, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, Timestamp, VolumeId,
};
use gavel_wire::{
    Attr, AttrDelta, Author, Content, Dirent, Entry, Extent, Firm, Item, Kind, Mode, Mutation, Plan, Record, Request,
    RequestBody, Want,
};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;

const V: VolumeId = VolumeId::FIRST;
const WHO: Identity = Identity { cluster: ClusterId([7; 16]), node: NodeId(1) };
const DAWN: u64 = 1_720_000_000_000_000_000;
/// Time from one entry to the next, in nanoseconds.
const STEP: u64 = 5_000_000;
/// Files of one tree, and of one directory of it.
const FILES: u64 = 5_000;
const FILES_PER_DIRECTORY: u64 = 25;
/// Files whose plans become one commit.
const FILES_PER_COMMIT: u64 = 8;
/// Trees, one after the other: what the flusher does shows with the number of its passes.
const TREES: u64 = 8;
/// Nodes, each with a session that must let go of each removed file, and files that one request of theirs names.
const NODES: u64 = 3;
const FILES_PER_RELEASE: u64 = 64;
/// So much of the log is applied between two flushes, as `Config::flush_log_bytes` has it.
const FLUSH_LOG_BYTES: usize = 32 << 20;
/// Or so much is in memory, as `Config::flush_memory_bytes` has it.
const FLUSH_MEMORY_BYTES: u64 = 32 << 20;
/// Sizes of the files below, in turn: a mean of 4.6 KiB, as of those that have no blob in a tree with a mean of 10 kB.
const SIZES: [usize; 10] = [300, 700, 1_100, 1_800, 2_600, 3_500, 5_000, 7_000, 9_900, 15_000];

/// Processor time of parts of the work, in microseconds.
#[derive(Default)]
struct Spent {
    decode: f64,
    rule: f64,
    records: f64,
    seal: f64,
    flush: f64,
    maintain: f64,
}

fn spent<T>(sum: &mut f64, work: impl FnOnce() -> T) -> T {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
    };
    let began = now();
    let result = work();
    *sum += now() - began;
    result
}

/// Bytes that this process has given to the system to write.
fn written_bytes() -> u64 {
    let counters = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = counters.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    line.parse().unwrap()
}

struct Replica {
    records: Records<LsmEngine>,
    state: State,
    /// One for each node; the first one makes and removes.
    sessions: Vec<SessionId>,
    /// Bytes of the log since the last flush, and of all.
    unflushed: usize,
    log_bytes: usize,
    spent: Spent,
}

impl Replica {
    fn new(dir: &std::path::Path) -> Replica {
        let engine = LsmEngine::open(dir, LsmConfig::default()).unwrap();
        let (records, _) = Records::open(engine, WHO).unwrap();
        let (state, sessions) = (State { tid: Tid(DAWN), ..State::default() }, Vec::new());
        let mut replica = Replica { records, state, sessions, unflushed: 0, log_bytes: 0, spent: Spent::default() };
        for node in (1..=NODES).map(NodeId) {
            replica.item(Item::SessionOpen { node, incarnation: 1, term_ms: 5_000, instead_of: None });
            replica.sessions.push(SessionId(replica.state.tid.0));
        }
        replica.item(Item::CreateVolume { volume: V, mode: 0o755, uid: 0, gid: 0 });
        let range = KeyRange::of_objects(V);
        replica.ask(0, RequestBody::Lease { wants: vec![Want { range, mode: Mode::Exclusive, urgent: true }] });
        replica
    }

    fn item(&mut self, item: Item) {
        let index = LogIndex(self.state.applied.0 + 1);
        let bytes = Entry { tid: Tid(DAWN + index.0 * STEP), items: vec![item] }.encode();
        let Replica { records, state, spent: sums, .. } = self;
        let entry = spent(&mut sums.decode, || Entry::decode(&bytes).unwrap());
        let applied = spent(&mut sums.rule, || apply(state, &records.live(state.tid), index, Some(&entry)).unwrap());
        spent(&mut sums.records, || records.apply(&applied.changes, &applied.removals).unwrap());
        assert!(applied.outcomes.iter().all(|(.., outcome)| matches!(outcome, gavel_wire::Outcome::Committed { .. })));
        spent(&mut sums.decode, || drop(entry));
        spent(&mut sums.rule, || drop(applied));
        self.unflushed += bytes.len();
        self.log_bytes += bytes.len();
    }

    fn ask(&mut self, node: usize, body: RequestBody) {
        let session = self.sessions[node];
        let seq = self.state.sessions[&session].next;
        self.item(Item::Request(Request { session, seq, seen: seq, body }));
        assert_eq!(self.state.sessions[&session].next, Seq(seq.0 + 1), "the request was taken");
    }

    fn commit(&mut self, mutations: Vec<Mutation>) {
        let (plan, author) = (Plan { mutations }, Author::default());
        self.ask(0, RequestBody::Commit { guards: Vec::new(), plan, author, stored_as_of: Tid::MAX });
        if self.unflushed >= FLUSH_LOG_BYTES || self.records.unsealed_bytes() >= FLUSH_MEMORY_BYTES {
            self.unflushed = 0;
            let Replica { records, state, spent: sums, .. } = self;
            spent(&mut sums.seal, || records.seal(&state.encode()).unwrap());
            spent(&mut sums.flush, || records.flush().unwrap());
            spent(&mut sums.maintain, || records.maintain().unwrap());
        }
    }
}

/// The directory of a file, and the file.
fn place_of(number: u64) -> (ObjectId, ObjectId) {
    let directory = ObjectId(1_000_000 + number / FILES_PER_DIRECTORY * (FILES_PER_DIRECTORY + 1));
    (directory, ObjectId(directory.0 + 1 + number % FILES_PER_DIRECTORY))
}

fn name_of(number: u64) -> String {
    format!("file_{number:05}.c")
}

/// The plans of an unpacked file, as a node makes one commit of them.
fn unpacked(number: u64, mutations: &mut Vec<Mutation>) {
    let (directory, object) = place_of(number);
    if number.is_multiple_of(FILES_PER_DIRECTORY) {
        let name = format!("module_{:03}", number / FILES_PER_DIRECTORY);
        make(ObjectId::ROOT, directory, Kind::Directory, &name, mutations);
    }
    make(directory, object, Kind::File, &name_of(number), mutations);
    let len = SIZES[number as usize % SIZES.len()] as u64;
    let bytes: Arc<[u8]> = (0..len).map(|at| (at * 31 + number) as u8).collect();
    mutations.push(Mutation::Carve { volume: V, object, start: 0, end: len });
    let extent = Record::Extent(Extent { len, content: Content::Inline(bytes) });
    mutations.push(Mutation::Put { key: Key::extent(V, object, len), record: extent });
    mutations.push(Mutation::Delete { key: Key::xattr(V, object, b"security.capability") });
    let time = Some(Timestamp { secs: 1_700_000_000, nanos: number as u32 });
    let delta = AttrDelta { size_min: len, atime: time, mtime: time, ctime: time, ..AttrDelta::default() };
    mutations.push(Mutation::Adjust { volume: V, object, delta });
    let delta = AttrDelta { size_min: 0, ..delta };
    mutations.push(Mutation::Adjust { volume: V, object, delta });
}

fn make(parent: ObjectId, object: ObjectId, kind: Kind, name: &str, mutations: &mut Vec<Mutation>) {
    let now = Timestamp { secs: 1_720_000_000, nanos: 5 };
    let parent_of = if kind == Kind::Directory { parent } else { ObjectId::VOLUME };
    let firm = Firm { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, parent: parent_of, birth: now, class: Class::VOLUME };
    let nlink = if kind == Kind::Directory { 2 } else { 1 };
    let attr = Attr { firm, nlink, size: 0, allocated: 0, atime: now, mtime: now, ctime: now };
    mutations.push(Mutation::Put { key: Key::attr(V, object), record: Record::Attr(attr) });
    let dirent = Record::Dirent(Dirent { object, kind });
    mutations.push(Mutation::Put { key: Key::dirent(V, parent, name.as_bytes()), record: dirent });
    let nlink = i32::from(kind == Kind::Directory);
    let delta = AttrDelta { nlink, size: 1, mtime: Some(now), ctime: Some(now), ..AttrDelta::default() };
    mutations.push(Mutation::Adjust { volume: V, object: parent, delta });
}

/// The plans of a file that is removed.
fn removed(number: u64, mutations: &mut Vec<Mutation>) -> (VolumeId, ObjectId) {
    let (directory, object) = place_of(number);
    let now = Some(Timestamp { secs: 1_720_000_001, nanos: number as u32 });
    mutations.push(Mutation::Delete { key: Key::dirent(V, directory, name_of(number).as_bytes()) });
    let delta = AttrDelta { nlink: -1, ctime: now, ..AttrDelta::default() };
    mutations.push(Mutation::Adjust { volume: V, object, delta });
    mutations.push(Mutation::Orphan { volume: V, object });
    let delta = AttrDelta { size: -1, mtime: now, ctime: now, ..AttrDelta::default() };
    mutations.push(Mutation::Adjust { volume: V, object: directory, delta });
    (V, object)
}

/// Measures what is done for all files of a tree.
struct Measured {
    written: u64,
    log: usize,
}

impl Measured {
    fn begin(replica: &mut Replica) -> Measured {
        replica.spent = Spent::default();
        Measured { written: written_bytes(), log: replica.log_bytes }
    }

    fn end(self, what: &str, replica: &Replica) {
        let Spent { decode, rule, records, seal, flush, maintain } = replica.spent;
        let each = |sum: f64| sum / FILES as f64;
        let log = replica.log_bytes - self.log;
        let ratio = (written_bytes() - self.written) as f64 / log as f64;
        println!(
            "us a file {what}: decode {:.1}, rule {:.1}, records {:.1}, seal {:.1}: {:.1}; flush {:.1}, maintain {:.1}: {:.1}; wrote {ratio:.1} times the log ({:.0} MB); {:?}",
            each(decode),
            each(rule),
            each(records),
            each(seal),
            each(decode + rule + records + seal),
            each(flush),
            each(maintain),
            each(flush + maintain),
            log as f64 / 1e6,
            replica.records.engine().stats(),
        );
    }
}

fn unpack_tree(tree: u64, replica: &mut Replica) {
    let measured = Measured::begin(replica);
    for commit in 0..FILES / FILES_PER_COMMIT {
        let mut mutations = Vec::new();
        let first = tree * FILES + commit * FILES_PER_COMMIT;
        (first..first + FILES_PER_COMMIT).for_each(|number| unpacked(number, &mut mutations));
        replica.commit(mutations);
    }
    measured.end("unpacked", replica);
}

fn remove_tree(tree: u64, replica: &mut Replica) {
    let measured = Measured::begin(replica);
    let mut gone = Vec::new();
    for commit in 0..FILES / FILES_PER_COMMIT {
        let mut mutations = Vec::new();
        let first = tree * FILES + commit * FILES_PER_COMMIT;
        gone.extend((first..first + FILES_PER_COMMIT).map(|number| removed(number, &mut mutations)));
        replica.commit(mutations);
        if gone.len() as u64 >= FILES_PER_RELEASE || commit + 1 == FILES / FILES_PER_COMMIT {
            let orphans = std::mem::take(&mut gone);
            (0..NODES as usize).for_each(|node| replica.ask(node, RequestBody::Release { orphans: orphans.clone() }));
        }
    }
    measured.end("removed", replica);
}

#[test]
#[ignore = "a measurement, not a test"]
fn what_an_unpacked_file_costs() {
    let dir = tempfile::tempdir().unwrap();
    let mut replica = Replica::new(dir.path());
    (0..TREES).for_each(|tree| unpack_tree(tree, &mut replica));
    println!("digest {:?}", replica.state.records);
}

#[test]
#[ignore = "a measurement, not a test"]
fn what_a_removed_file_costs() {
    let dir = tempfile::tempdir().unwrap();
    let mut replica = Replica::new(dir.path());
    for tree in 0..TREES {
        unpack_tree(tree, &mut replica);
        remove_tree(tree, &mut replica);
    }
    assert_eq!(replica.state.volumes[&V].bytes, 0, "all that was removed has ended");
    println!("digest {:?}", replica.state.records);
}
