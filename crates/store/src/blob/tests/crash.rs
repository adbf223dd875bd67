//! Lives of a node that end at any point: what was synced is there, and nothing is ever wrong.

use super::*;
use crate::disk::Chance;
use std::collections::BTreeSet;

struct World {
    disk: SimDisk,
    chance: Chance,
    /// Numbers of blobs that must be there.
    synced: BTreeSet<u64>,
    /// Put in this life, not synced yet.
    unsynced: BTreeSet<u64>,
}

impl World {
    fn open_at_last(&mut self) -> BlobStore {
        for _ in 0..8 {
            match try_open(self.disk.mount().unwrap()) {
                Err(BlobError::Disk(_)) => {}
                other => return other.unwrap(),
            }
        }
        panic!("the disk has more faults than it was given");
    }

    fn check(&self, store: &BlobStore, seed: u64) {
        for number in 0..120 {
            let (id, bytes) = blob(number);
            match store.get(id) {
                Ok(Some(found)) => assert_eq!(found, bytes, "seed {seed}"),
                Ok(None) | Err(BlobError::Damaged { .. }) => {
                    assert!(!self.synced.contains(&number), "seed {seed}: blob {number} was synced");
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
    }

    fn live(&mut self, store: &BlobStore) -> Result<(), BlobError> {
        for _ in 0..self.chance.below(25) {
            match self.chance.below(6) {
                0..3 => {
                    let numbers: Vec<u64> = (0..1 + self.chance.below(4)).map(|_| self.chance.below(120)).collect();
                    store.put_many(&numbers.iter().map(|number| named(*number)).collect::<Vec<_>>())?;
                    self.unsynced.extend(numbers);
                }
                3 => {
                    let number = self.chance.below(120);
                    store.replace(&named(number))?;
                    self.unsynced.insert(number);
                }
                _ => {
                    store.sync()?;
                    self.synced.append(&mut self.unsynced);
                }
            }
            let number = self.chance.below(120);
            let found = store.get(blob(number).0);
            if self.synced.contains(&number) || self.unsynced.contains(&number) {
                assert_eq!(found.unwrap().unwrap(), blob(number).1);
            }
        }
        Ok(())
    }
}

fn run(seed: u64, lives: u32) -> u64 {
    let (disk, chance) = (SimDisk::new(seed), Chance::new(seed));
    let mut world = World { disk, chance, synced: BTreeSet::new(), unsynced: BTreeSet::new() };
    let mut failures = 0;
    for _ in 0..lives {
        let store = world.open_at_last();
        world.check(&store, seed);
        if world.chance.one_in(2) {
            let ops =
                [DiskOp::Write, DiskOp::SyncData, DiskOp::SyncDir, DiskOp::Create, DiskOp::Rename, DiskOp::Remove];
            let kind = if world.chance.one_in(3) { ErrorKind::StorageFull } else { ErrorKind::Other };
            world.disk.fail_after(world.chance.below(8), ops[world.chance.below(6) as usize], kind);
        }
        match world.live(&store) {
            Ok(()) => {}
            Err(BlobError::Disk(_)) => failures += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
        drop(store);
        world.unsynced.clear();
        if !world.chance.one_in(4) {
            world.disk.crash(world.chance.draw());
        }
    }
    failures
}

#[test]
fn killed_and_failing_at_any_point_what_was_synced_is_there() {
    let failures: u64 = (0..200).map(|seed| run(seed, 8)).sum();
    // Or the test does not test what it says.
    assert!(failures > 100, "{failures}");
}

#[test]
#[ignore = "minutes: as the one above, with many more seeds"]
fn killed_and_failing_at_any_point_for_long() {
    for seed in 1_000..20_000 {
        run(seed, 8);
    }
}
