//! What a commit costs. `cargo test --release -p gavel-txn -- --ignored --nocapture what_a_create_costs`

use super::world::{ROOT, V, commit, file, put, put_attr, put_name};
use gavel_txn::expand::Expansion;
use gavel_txn::{Digest, Overlay, State, apply};
use gavel_types::{BlobId, Key, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, Timestamp, VolumeId};
use gavel_wire::{
    AttrDelta, Change, Ended, Entry, Guard, Item, Live, Mutation, Outcome, Record, Request, RequestBody, Version, View,
    ViewError,
};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// Live versions only, at the speed of a map.
#[derive(Default)]
struct Plain {
    tid: Tid,
    live: BTreeMap<Key, Version>,
}

impl View for Plain {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.live.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let bounds = (Bound::Included(&*range.start), Bound::Excluded(&*range.end));
        let rows = self.live.range::<[u8], _>(bounds);
        Ok(rows.take(limit).map(|(key, version)| (key.clone(), version.clone())).collect())
    }
}

impl Live for Plain {
    fn changed_after(&self, _: &KeyRange, _: Tid) -> Result<bool, ViewError> {
        Ok(false)
    }
}

/// Nothing is pruned here.
impl Ended for Plain {
    fn ended_from(&self, _: VolumeId, _: Option<(&Key, Tid)>, _: usize) -> Result<Vec<(Key, Tid, Version)>, ViewError> {
        Ok(Vec::new())
    }

    fn last_ended(&self, _: &Key) -> Result<Option<Version>, ViewError> {
        Ok(None)
    }

    fn ended_at(&self, _: &Key, _: Tid) -> Result<Option<Version>, ViewError> {
        Ok(None)
    }

    fn changed_beside(&self, _: VolumeId, _: Tid, _: &Key) -> Result<bool, ViewError> {
        Ok(false)
    }

    fn names(&self, _: BlobId) -> Result<bool, ViewError> {
        Ok(true)
    }

    fn own(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.get(key)
    }

    fn own_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        self.scan(range, limit)
    }

    fn past(&self, _: Tid) -> Box<dyn View + '_> {
        Box::new(self)
    }
}

impl Plain {
    fn absorb(&mut self, tid: Tid, changes: Vec<Change>) {
        self.tid = tid;
        for change in changes {
            match change.new {
                Some(version) => drop(self.live.insert(change.key, version)),
                None => drop(self.live.remove(&change.key)),
            }
        }
    }
}

const DIRECTORIES: u64 = 100;

/// What creating a file asks for, in one of a hundred directories.
fn create(tid: Tid, number: u64) -> (Vec<Guard>, Vec<Mutation>) {
    let (object, parent) = (ObjectId(1_000_000 + number), ObjectId(100 + number % DIRECTORIES));
    let name = format!("file-{number:08}.txt");
    let empty = |key: Key| Guard::Empty { range: KeyRange::one(&key) };
    let guards = vec![
        empty(Key::dirent(V, parent, name.as_bytes())),
        Guard::Firm { key: Key::attr(V, parent), at: tid },
        empty(Key::xattr(V, parent, b"system.posix_acl_default")),
    ];
    let now = Some(Timestamp::COMMIT);
    let delta = AttrDelta { size: 1, mtime: now, ctime: now, ..Default::default() };
    let counted = Mutation::Adjust { volume: V, object: parent, delta };
    (guards, vec![put_attr(object, file(1)), put_name(parent, &name, object), counted])
}

struct Bench {
    state: State,
    live: Plain,
    session: SessionId,
    made: u64,
}

impl Bench {
    fn new() -> Bench {
        let mut bench = Bench { state: State::default(), live: Plain::default(), session: SessionId(0), made: 0 };
        bench.apply(vec![Item::SessionOpen { node: NodeId(1), incarnation: 1, term_ms: 5_000, instead_of: None }]);
        bench.session = SessionId(bench.state.tid.0);
        for node in 2..6 {
            bench.apply(vec![Item::SessionOpen {
                node: NodeId(node),
                incarnation: 1,
                term_ms: 5_000,
                instead_of: None,
            }]);
        }
        bench.apply(vec![Item::CreateVolume { volume: V, mode: 0o755, uid: 0, gid: 0 }]);
        let directories = (0..DIRECTORIES).map(|i| put_attr(ObjectId(100 + i), file(2)));
        let names = (0..DIRECTORIES).map(|i| put_name(ROOT, &format!("d{i}"), ObjectId(100 + i)));
        let plan = directories.chain(names).collect();
        bench.apply(vec![bench.request(0, commit(vec![], plan))]);
        for _ in 0..100 {
            bench.creates(1000);
        }
        bench
    }

    fn request(&self, ahead: u64, body: RequestBody) -> Item {
        let seq = Seq(self.state.sessions[&self.session].next.0 + ahead);
        Item::Request(Request { session: self.session, seq, seen: seq, body })
    }

    /// Applies an entry; tells how long that took.
    fn apply(&mut self, items: Vec<Item>) -> Duration {
        let entry = Entry { tid: Tid(self.state.tid.0 + 1_000_000), items };
        let (index, asked) = (LogIndex(self.state.applied.0 + 1), entry.items.len());
        let began = Instant::now();
        let applied = apply(&mut self.state, &self.live, index, Some(&entry)).unwrap();
        let took = began.elapsed();
        let done = |(_, _, outcome): &_| matches!(outcome, Outcome::Committed { .. });
        assert!(applied.outcomes.iter().all(done) && (applied.outcomes.len() == asked || applied.outcomes.is_empty()));
        self.live.absorb(self.state.tid, applied.changes);
        took
    }

    fn creates(&mut self, batch: u64) -> Duration {
        let item = |i| {
            let (guards, plan) = create(self.live.tid, self.made + i);
            self.request(i, commit(guards, plan))
        };
        let items = (0..batch).map(item).collect();
        self.made += batch;
        self.apply(items)
    }
}

/// The median, in microseconds, each entry having done so much: other work on the machine does not show in it.
fn median(mut took: Vec<Duration>, each: u64) -> f64 {
    took.sort_unstable();
    took[took.len() / 2].as_secs_f64() * 1e6 / each as f64
}

#[test]
#[ignore = "a measurement, not a test"]
fn what_a_create_costs() {
    let mut bench = Bench::new();
    println!("{} live records", bench.live.live.len());
    for batch in [1, 16, 256] {
        let took = (0..20_000 / batch).map(|_| bench.creates(batch)).collect();
        println!("batches of {batch}: {:.2} us a commit", median(took, batch));
    }
    parts(&bench);
}

/// The same work, a part at a time, each on its own.
fn parts(bench: &Bench) {
    const EACH: u64 = 64;
    let tid = Tid(bench.live.tid.0 + 1000);
    let (mut guards, mut plans, mut digests, mut overlays, mut encodings) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..200 {
        let creates: Vec<_> = (0..EACH).map(|i| create(bench.live.tid, bench.made + round * EACH + i)).collect();
        let mut view = Overlay::new(&bench.live);
        guards.push(timed(|| {
            let mut all = creates.iter().flat_map(|(guards, _)| guards);
            assert!(all.all(|guard| gavel_txn::apply::holds(&view, guard).unwrap()));
        }));
        let mut changes: Vec<Vec<Change>> = Vec::new();
        plans.push(timed(|| changes.extend(creates.iter().map(|(_, plan)| expand(&view, tid, plan)))));
        digests.push(timed(|| {
            let mut digest = Digest::default();
            changes.iter().flatten().for_each(|change| digest.add(tid, &change.key, change.new.as_ref()));
            std::hint::black_box(digest);
        }));
        encodings.push(timed(|| {
            let versions = changes.iter().flatten().filter_map(|change| change.new.as_ref());
            std::hint::black_box(versions.map(|version| version.encode().len()).sum::<usize>());
        }));
        overlays.push(timed(|| changes.iter().for_each(|changes| view.lay(tid, changes))));
    }
    println!("  guards   {:.2} us", median(guards, EACH));
    println!("  plan     {:.2} us", median(plans, EACH));
    println!("  digest   {:.2} us, encoding the versions for it {:.2}", median(digests, EACH), median(encodings, EACH));
    println!("  overlay  {:.2} us", median(overlays, EACH));
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn expand(view: &Overlay<'_>, tid: Tid, plan: &[Mutation]) -> Vec<Change> {
    let mut expansion = Expansion::new(view, tid);
    plan.iter().for_each(|mutation| expansion.mutate(mutation, &[]).unwrap());
    expansion.check_plan().unwrap();
    expansion.finish().unwrap().0
}

#[test]
#[ignore = "a measurement, not a test"]
fn what_an_overwrite_costs() {
    let mut bench = Bench::new();
    let object = ObjectId(1_000_000);
    let bytes: std::sync::Arc<[u8]> = vec![7; 16 * 1024].into();
    let write = |i: u64| {
        let content = gavel_wire::Content::Inline(bytes.clone());
        let (len, start) = (bytes.len() as u64, i * bytes.len() as u64);
        let extent = Record::Extent(gavel_wire::Extent { len, content });
        let carve = Mutation::Carve { volume: V, object, start, end: start + len };
        vec![carve, put(Key::extent(V, object, start + len), extent)]
    };
    for i in 0..1000 {
        bench.apply(vec![bench.request(0, commit(vec![], write(i)))]);
    }
    let took = (0..1000).map(|i| bench.apply(vec![bench.request(0, commit(vec![], write(i * 7 % 1000)))])).collect();
    println!("16 KiB in a file of 1000 extents: {:.2} us a commit", median(took, 1));
    let many = |bench: &Bench| (0..256).map(|i| bench.request(i, commit(vec![], write(i * 7 % 1000)))).collect();
    let took = (0..20).map(|_| bench.apply(many(&bench))).collect();
    println!("the same, 256 in an entry: {:.2} us a commit", median(took, 256));
}
