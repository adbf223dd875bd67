//! Measures what history costs: reads of live and of past states, with 1, 100 and 10,000 versions behind each key. Run it by hand:
//! `cargo test --release -p gavel-store --test records_history_measure -- --ignored --nocapture`.
//! Its numbers of November 2026 are in `docs/benchmarks.md`.
#![allow(clippy::unwrap_used)]

mod records_support;

use gavel_store::engine::{LsmConfig, LsmEngine};
use gavel_store::records::{Identity, Records};
use gavel_types::{Class, ClusterId, Key, KeyParts, KeyRange, NodeId, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, Change, Dirent, Firm, Kind, Record, Version, View};
use records_support::Dice;
use std::collections::BTreeMap;
use std::time::Instant;

const V: VolumeId = VolumeId::FIRST;
/// Versions behind each name of a directory; there is one directory for each.
const VERSIONS: [u64; 3] = [1, 100, 10_000];
/// Names in each directory.
const NAMES: u64 = 100;
/// Transactions: the names of a directory change so evenly over them that the last version of each is its `VERSIONS`th.
const ROUNDS: u64 = VERSIONS[2];
/// Transactions in a cut.
const CUT: u64 = 500;
const GETS: u64 = 20_000;
const SCANS: u64 = 400;
const REPEATS: usize = 5;

fn directory(group: usize) -> ObjectId {
    ObjectId(100 + group as u64)
}

fn name(group: usize, number: u64) -> Key {
    Key::dirent(V, directory(group), format!("file-{number:06}.txt").as_bytes())
}

/// The Tid of a round; between two there are more.
fn tid(round: u64) -> Tid {
    Tid((round + 1) * 1000)
}

fn attributes(tid: Tid) -> Attr {
    let time = Timestamp { secs: tid.0 as i64, nanos: 0 };
    let (kind, parent) = (Kind::Directory, ObjectId::ROOT);
    let firm =
        Firm { kind, mode: 0o755, uid: 0, gid: 0, rdev: 0, parent, birth: Timestamp::default(), class: Class::VOLUME };
    Attr { firm, nlink: 2, size: NAMES, allocated: 0, atime: time, mtime: time, ctime: time }
}

struct Filled {
    records: Records<LsmEngine>,
    live: BTreeMap<Key, Version>,
}

impl Filled {
    /// Writes all versions, flushed and compacted.
    fn new(engine: LsmEngine) -> Filled {
        let identity = Identity { cluster: ClusterId([1; 16]), node: NodeId(1) };
        let (records, _) = Records::open(engine, identity).unwrap();
        let mut filled = Filled { records, live: BTreeMap::new() };
        // The versions that are there behind the first one of each key.
        for round in 0..=ROUNDS {
            let due = |versions: u64| round % (ROUNDS / versions) == 0;
            let groups = (0..VERSIONS.len()).filter(|group| due(VERSIONS[*group]));
            // No name changes without the attributes of its directory.
            let changed = |group| {
                std::iter::once(Key::attr(V, directory(group))).chain((0..NAMES).map(move |number| name(group, number)))
            };
            let keys: Vec<Key> = groups.flat_map(changed).collect();
            filled.change(tid(round), keys);
            if round % CUT == 0 || round == ROUNDS {
                filled.records.seal(&[]).unwrap();
                filled.records.flush().unwrap();
                while filled.records.maintain().unwrap() {}
            }
        }
        filled
    }

    fn change(&mut self, tid: Tid, keys: Vec<Key>) {
        let change = |key: Key| {
            let record = match key.parts() {
                KeyParts::Attr => Record::Attr(attributes(tid)),
                _ => Record::Dirent(Dirent { object: ObjectId(tid.0), kind: Kind::File }),
            };
            let version = Version { create: tid, firm: tid, record };
            let old = self.live.insert(key.clone(), version.clone());
            Change { tid, key, old, new: Some(version) }
        };
        let changes: Vec<Change> = keys.into_iter().map(change).collect();
        self.records.apply(&changes, &[]).unwrap();
    }

    /// Microseconds for a read of one record, and for a row of a listing.
    fn read(&self, view: &dyn View, group: usize) -> (f64, f64) {
        let mut dice = Dice::new(group as u64);
        let mut found = 0;
        let began = Instant::now();
        for _ in 0..GETS {
            found += u64::from(view.get(&name(group, dice.next() % NAMES)).unwrap().is_some());
        }
        let get = began.elapsed().as_secs_f64() * 1e6 / GETS as f64;
        assert_eq!(found, GETS, "every name is there from the first round on");
        let began = Instant::now();
        for _ in 0..SCANS {
            assert_eq!(view.scan(&KeyRange::dirents(V, directory(group)), usize::MAX).unwrap().len(), NAMES as usize);
        }
        (get, began.elapsed().as_secs_f64() * 1e6 / (SCANS * NAMES) as f64)
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[test]
#[ignore = "a measurement, not a test"]
fn what_history_costs() {
    let dir = tempfile::tempdir().unwrap();
    let filled = Filled::new(LsmEngine::open(dir.path(), LsmConfig::default()).unwrap());
    println!("{:?}", filled.records.stats());
    // What is looked at: the live state, and past ones.
    let states = [
        ("live", None),
        ("the last", Some(ROUNDS)),
        ("late", Some(ROUNDS * 9 / 10)),
        ("middle", Some(ROUNDS / 2)),
        ("first", Some(0)),
    ];
    let mut took: BTreeMap<(usize, usize), Vec<(f64, f64)>> = BTreeMap::new();
    for _ in 0..REPEATS {
        for (place, (_, round)) in states.iter().enumerate() {
            for group in 0..VERSIONS.len() {
                let read = match round {
                    None => filled.read(&filled.records.live(tid(ROUNDS)), group),
                    Some(round) => filled.read(&filled.records.at(Tid(tid(*round).0 + 500)), group),
                };
                took.entry((place, group)).or_default().push(read);
            }
        }
    }
    let medians = |place, group| -> (f64, f64) {
        let (gets, scans) = took[&(place, group)].iter().copied().unzip();
        (median(gets), median(scans))
    };
    for (group, versions) in VERSIONS.iter().enumerate() {
        let (base_get, base_scan) = medians(0, 0);
        let (live_get, live_scan) = medians(0, group);
        for (place, (state, _)) in states.iter().enumerate() {
            let (get, scan) = medians(place, group);
            println!(
                "{versions:6} versions, {state:8}: get {get:6.2} us ({:.2} of live, {:.2} of live with 1), listing {scan:6.2} us a row ({:.2}, {:.2})",
                get / live_get,
                get / base_get,
                scan / live_scan,
                scan / base_scan,
            );
        }
    }
}
