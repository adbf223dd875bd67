//! Blobs that were collected: nobody finds what was taken before, and their space comes back; nothing else goes.

use super::*;
use crate::disk::Chance;
use std::collections::{BTreeMap, BTreeSet};

const ALL: usize = usize::MAX;

fn nobody(_: BlobId) -> bool {
    false
}

fn collect(store: &BlobStore, numbers: impl Iterator<Item = u64>, tid: u64) {
    store.collect(&numbers.map(|number| (blob(number).0, Tid(tid))).collect::<Vec<_>>());
    store.applied(Tid(tid));
}

/// Rewrites whatever is worth it.
fn compact_all(store: &BlobStore) -> u64 {
    let mut returned = 0;
    for _ in 0..1000 {
        let done = store.compact(&BTreeSet::new(), |_| true).unwrap();
        assert_eq!(done.damaged, []);
        returned += done.returned;
        if done.segment.is_none() {
            return returned;
        }
    }
    panic!("rewriting does not end");
}

fn on_disk(disk: &SimDisk) -> usize {
    disk.names().iter().map(|name| disk.contents(name).unwrap().len()).sum()
}

#[test]
fn what_is_collected_is_gone_its_space_comes_back_and_the_rest_stays() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..200);
    store.sync().unwrap();
    let before = on_disk(&disk);
    collect(&store, (0..200).filter(|number| number % 10 > 1), 5);
    assert_eq!(store.bury(ALL, &nobody).unwrap(), 160);
    assert!((0..200).all(|number| has(&store, number) == (number % 10 <= 1)));
    assert!(compact_all(&store) > 0);
    assert!(on_disk(&disk) < before / 3, "{} of {before}", on_disk(&disk));
    drop(store);
    disk.crash(7);
    let store = open(&disk);
    assert!((0..200).filter(|number| number % 10 <= 1).all(|number| has(&store, number)));
    let gone = (0..200).filter(|number| number % 10 > 1 && !has(&store, *number)).count();
    assert!(gone > 120, "only marks of segments that were not worth it are forgotten: {gone}");
}

#[test]
fn who_puts_behind_a_collection_does_not_count_on_an_older_copy() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..3);
    collect(&store, 0..1, 9);
    let (id, bytes) = blob(0);
    assert!(!store.contains(id).unwrap(), "it is told, though it is not buried");
    assert_eq!(store.put_many(&[Blob::of(bytes)]).unwrap(), Tid(9));
    assert_eq!(store.bury(ALL, &nobody).unwrap(), 1);
    assert!(has(&store, 0) && has(&store, 1));
    assert_eq!(store.taken_as_of(id).unwrap(), Some(Tid(9)));
    compact_all(&store);
    assert!(has(&store, 0));
}

#[test]
fn a_collection_is_not_buried_before_everybody_who_puts_can_know_of_it() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..1);
    store.collect(&[(blob(0).0, Tid(9))]);
    assert_eq!(store.bury(ALL, &nobody).unwrap(), 0);
    store.applied(Tid(9));
    assert_eq!((store.bury(ALL, &nobody).unwrap(), store.unburied()), (1, 0));
}

#[test]
fn what_is_in_use_is_kept_as_of_the_collection() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..60);
    collect(&store, 0..60, 9);
    let used = blob(7).0;
    store.bury(ALL, &|id| id == used).unwrap();
    compact_all(&store);
    assert!((0..60).all(|number| has(&store, number) == (number == 7)));
    assert_eq!(store.taken_as_of(used).unwrap(), Some(Tid(9)));
    drop(store);
    disk.crash(3);
    assert!(has(&open(&disk), 7), "it was made durable");
}

#[test]
fn a_collection_that_is_applied_again_in_a_later_life_leaves_what_was_put_since() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..2);
    collect(&store, 0..2, 9);
    store.bury(ALL, &nobody).unwrap();
    put(&store, 0..1);
    store.sync().unwrap();
    drop(store);
    disk.crash(1);
    let store = open(&disk);
    collect(&store, 0..2, 9);
    store.bury(ALL, &nobody).unwrap();
    assert!(has(&store, 0) && !has(&store, 1));
}

#[test]
fn a_collection_that_was_passed_over_is_never_carried_out() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..2);
    store.sync().unwrap();
    store.pass_over(Tid(9)).unwrap();
    drop(store);
    disk.crash(1);
    let store = open(&disk);
    collect(&store, 0..1, 9);
    collect(&store, 1..2, 10);
    store.bury(ALL, &nobody).unwrap();
    assert!(has(&store, 0) && !has(&store, 1));
}

#[test]
fn a_segment_with_something_that_cannot_be_read_stays_until_that_is_replaced() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..40);
    store.sync().unwrap();
    let file = disk.contents("0000000000000001.blob").unwrap();
    // Nearly all of the first segment but one, which is damaged.
    let (id, good) = blob(1);
    let at = file.windows(32).position(|window| window == id.0).unwrap() + 48;
    disk.flip_bit("0000000000000001.blob", at as u64 * 8);
    collect(&store, (0..40).filter(|number| *number != 1), 5);
    store.bury(ALL, &nobody).unwrap();
    let mut stuck = BTreeSet::new();
    loop {
        let done = store.compact(&stuck, |_| true).unwrap();
        let Some(segment) = done.segment else { break };
        if !done.damaged.is_empty() {
            assert_eq!(done.damaged, [id]);
            stuck.insert(segment);
        }
    }
    assert_eq!(stuck.len(), 1);
    assert!(matches!(store.get(id), Err(BlobError::Damaged { .. })), "it is reported, not absent");
    store.replace(&Blob::of(good)).unwrap();
    store.sync().unwrap();
    compact_all(&store);
    assert!(has(&store, 1) && !disk.names().iter().any(|name| name.starts_with("0000000000000001")));
}

#[test]
fn the_names_of_all_that_counts_are_listed() {
    let disk = SimDisk::new(1);
    let store = open(&disk);
    put(&store, 0..50);
    collect(&store, 0..20, 5);
    store.bury(ALL, &nobody).unwrap();
    let (mut listed, mut cursor) = (BTreeSet::new(), Some(Cursor::default()));
    while let Some(at) = cursor {
        let (some, next) = store.listed_from(at).unwrap();
        listed.extend(some.into_iter().map(|(id, _)| id));
        cursor = next;
    }
    assert_eq!(listed, (20..50).map(|number| blob(number).0).collect());
}

/// Lives in which a replica applies the same log again and again, from wherever its records were durable.
struct World {
    disk: SimDisk,
    chance: Chance,
    /// What was collected, and as of when; the log that is applied again.
    log: Vec<(BlobId, Tid)>,
    now: u64,
    /// Up to here the records are durable.
    cut: u64,
    /// Of each number, as of when it was said to be durable last.
    said: BTreeMap<u64, u64>,
}

impl World {
    /// What was said to be here as of a collection or later, is.
    fn check(&self, store: &BlobStore, seed: u64) {
        for (number, said) in &self.said {
            let id = blob(*number).0;
            let collected = self.log.iter().filter(|(of, _)| *of == id).map(|(_, tid)| tid.0).max().unwrap_or(0);
            if *said >= collected {
                let found = store.get(id).unwrap();
                assert_eq!(found.as_deref(), Some(&blob(*number).1[..]), "seed {seed}: blob {number} is lost");
            }
        }
    }

    fn live(&mut self, store: &BlobStore, seed: u64) -> Result<(), BlobError> {
        store.pass_over(Tid(self.cut))?;
        store.applied(Tid(self.cut));
        // The log behind the cut.
        for (id, tid) in self.log.iter().filter(|(_, tid)| tid.0 > self.cut) {
            store.collect(&[(*id, *tid)]);
            store.applied(*tid);
        }
        store.applied(Tid(self.now));
        for _ in 0..self.chance.below(30) {
            let number = self.chance.below(60);
            match self.chance.below(9) {
                0..3 => {
                    let numbers: Vec<u64> = (0..1 + self.chance.below(4)).map(|_| self.chance.below(60)).collect();
                    let as_of = store.put_many(&numbers.iter().map(|number| named(*number)).collect::<Vec<_>>())?;
                    store.sync()?;
                    self.said.extend(numbers.iter().map(|number| (*number, as_of.0)));
                }
                3 | 4 => {
                    self.now += 1;
                    let gone = (blob(number).0, Tid(self.now));
                    self.log.push(gone);
                    store.collect(&[gone]);
                    store.applied(Tid(self.now));
                }
                5 => drop(store.bury(self.chance.below(5) as usize, &nobody)?),
                6 => {
                    let mut left = self.chance.below(10);
                    store.compact(&BTreeSet::new(), |_| {
                        left = left.saturating_sub(1);
                        left > 0
                    })?;
                }
                7 => self.cut = self.now,
                // A part of the log is skipped.
                _ if self.chance.one_in(3) => {
                    self.now += 1;
                    self.log.push((blob(number).0, Tid(self.now)));
                    store.pass_over(Tid(self.now))?;
                    store.applied(Tid(self.now));
                    // Whoever has it may go on counting on what is here.
                    self.log.pop();
                    self.cut = self.now;
                }
                _ => {}
            }
            self.check(store, seed);
        }
        Ok(())
    }
}

fn run(seed: u64) -> u64 {
    let (disk, chance) = (SimDisk::new(seed), Chance::new(seed));
    let mut world = World { disk, chance, log: Vec::new(), now: 1, cut: 1, said: BTreeMap::new() };
    let mut failures = 0;
    for _ in 0..8 {
        let store = (0..8).find_map(|_| try_open(world.disk.mount().unwrap()).ok()).unwrap();
        world.check(&store, seed);
        if world.chance.one_in(2) {
            let ops =
                [DiskOp::Write, DiskOp::SyncData, DiskOp::SyncDir, DiskOp::Create, DiskOp::Rename, DiskOp::Remove];
            let kind = if world.chance.one_in(3) { ErrorKind::StorageFull } else { ErrorKind::Other };
            world.disk.fail_after(world.chance.below(8), ops[world.chance.below(6) as usize], kind);
        }
        failures += u64::from(world.live(&store, seed).is_err());
        drop(store);
        world.disk.crash(world.chance.draw());
    }
    failures
}

#[test]
fn killed_at_any_point_of_a_collection_what_was_said_to_be_here_is() {
    let failures: u64 = (0..60).map(run).sum();
    assert!(failures > 30, "{failures}");
}
