//! Measures what reads of one file cost right behind many writes of it, when nothing of them is flushed yet, and behind a flush. Run it by hand:
//! `cargo test --release -p gavel-store --test records_overwritten_measure -- --ignored --nocapture`.
//! Its numbers of November 2026 are in `docs/benchmarks.md`.
#![allow(clippy::unwrap_used)]

mod records_support;

use gavel_store::engine::{LsmConfig, LsmEngine};
use gavel_store::records::{Identity, Records};
use gavel_types::{Class, ClusterId, Key, KeyRange, NodeId, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, Change, Content, Extent, Firm, Kind, Record, Version, View};
use std::time::Instant;

const V: VolumeId = VolumeId::FIRST;
/// Versions of each file, in the order in which they are written: the last ones are those that were flushed least.
const VERSIONS: [u64; 3] = [1, 100, 10_000];
const READS: u64 = 2_000;
const ROUNDS: usize = 7;
const BLOCK: usize = 4096;

struct Rig {
    records: Records<LsmEngine>,
    /// The last transaction.
    tid: Tid,
}

fn file(group: usize) -> ObjectId {
    ObjectId(100 + group as u64)
}

fn attributes(tid: Tid) -> Record {
    let time = Timestamp { secs: tid.0 as i64, nanos: 0 };
    let (kind, parent) = (Kind::File, ObjectId::ROOT);
    let firm =
        Firm { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, parent, birth: Timestamp::default(), class: Class::VOLUME };
    let size = BLOCK as u64;
    Record::Attr(Attr { firm, nlink: 1, size, allocated: size, atime: time, mtime: time, ctime: time })
}

impl Rig {
    /// One write of 4 KiB: the attributes, and the extent.
    fn write(&mut self, group: usize, before: Option<Tid>) -> Tid {
        self.tid = Tid(self.tid.0 + 1000);
        let tid = self.tid;
        let block = |tid: Tid| {
            let content = Content::Inline(vec![tid.0 as u8; BLOCK].into());
            Record::Extent(Extent { len: BLOCK as u64, content })
        };
        let keys = [Key::attr(V, file(group)), Key::extent(V, file(group), BLOCK as u64)];
        let version = |at: usize, tid: Tid| {
            let record = if at == 0 { attributes(tid) } else { block(tid) };
            Version { create: tid, firm: tid, record }
        };
        let change = |(at, key): (usize, Key)| Change {
            tid,
            key,
            old: before.map(|before| version(at, before)),
            new: Some(version(at, tid)),
        };
        let changes: Vec<Change> = keys.into_iter().enumerate().map(change).collect();
        self.records.apply(&changes, &[]).unwrap();
        tid
    }

    /// All versions of a file; the first, the middle and the last Tid.
    fn fill(&mut self, group: usize) -> [Tid; 3] {
        let began = Instant::now();
        let mut tids = Vec::new();
        for _ in 0..VERSIONS[group] {
            let tid = self.write(group, tids.last().copied());
            tids.push(tid);
        }
        let each = began.elapsed().as_secs_f64() * 1e6 / VERSIONS[group] as f64;
        println!("{:6} writes: {each:.1} us each", VERSIONS[group]);
        [tids[0], tids[tids.len() / 2], tids[tids.len() - 1]]
    }

    /// Microseconds for the attributes, and for what a read of 4 KiB looks at; a view for each, as operations take one.
    fn read(&self, group: usize, at: Option<Tid>) -> (f64, f64) {
        let timed = |look: &dyn Fn(&dyn View)| {
            let began = Instant::now();
            for _ in 0..READS {
                match at {
                    None => look(&self.records.live(self.tid)),
                    Some(at) => look(&self.records.at(at)),
                }
            }
            began.elapsed().as_secs_f64() * 1e6 / READS as f64
        };
        let attributes = |view: &dyn View| assert!(view.get(&Key::attr(V, file(group))).unwrap().is_some());
        let extents = KeyRange::extents_behind(V, file(group), 0);
        let stat = timed(&attributes);
        let read = timed(&|view| {
            attributes(view);
            assert_eq!(view.scan(&extents, 1).unwrap().len(), 1);
        });
        (stat, read)
    }

    fn report(&self, what: &str, tids: &[[Tid; 3]]) {
        let mut took = vec![Vec::new(); VERSIONS.len() * 2];
        for _ in 0..ROUNDS {
            for (group, tids) in tids.iter().enumerate() {
                took[group * 2].push(self.read(group, None));
                took[group * 2 + 1].push(self.read(group, Some(tids[1])));
            }
        }
        let medians: Vec<(f64, f64)> = took
            .into_iter()
            .map(|all| {
                let (stats, reads): (Vec<f64>, Vec<f64>) = all.into_iter().unzip();
                (median(stats), median(reads))
            })
            .collect();
        for (group, versions) in VERSIONS.iter().enumerate() {
            let (base, live, past) = (medians[0], medians[group * 2], medians[group * 2 + 1]);
            println!(
                "{what}, {versions:6} versions: stat {:.2} us ({:.2} of that with 1), read {:.2} us ({:.2}); as of the middle: stat {:.2} us ({:.2} of live), read {:.2} us ({:.2})",
                live.0,
                live.0 / base.0,
                live.1,
                live.1 / base.1,
                past.0,
                past.0 / live.0,
                past.1,
                past.1 / live.1,
            );
        }
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[test]
#[ignore = "a measurement, not a test"]
fn what_is_not_flushed_costs() {
    let dir = tempfile::tempdir().unwrap();
    let engine = LsmEngine::open(dir.path(), LsmConfig::default()).unwrap();
    let identity = Identity { cluster: ClusterId([1; 16]), node: NodeId(1) };
    let (records, _) = Records::open(engine, identity).unwrap();
    let mut rig = Rig { records, tid: Tid(1000) };
    let tids: Vec<[Tid; 3]> = (0..VERSIONS.len()).map(|group| rig.fill(group)).collect();
    rig.report("not flushed", &tids);
    rig.records.seal(&[]).unwrap();
    rig.report("sealed", &tids);
    rig.records.flush().unwrap();
    while rig.records.maintain().unwrap() {}
    rig.report("flushed", &tids);
}
