//! Lives of a node that end at any point, against a model that keeps every state it may come back to.

use super::*;
use crate::disk::Chance;

/// What the log should hold; and what it held after each batch since the last moment that is durable for sure.
struct Model {
    states: Vec<Recovered>,
    /// The first of `states` that the log may come back to.
    synced: usize,
}

impl Model {
    fn now(&self) -> &Recovered {
        self.states.last().unwrap()
    }

    fn last(&self) -> EntryId {
        let now = self.now();
        now.entries.last().map_or(now.compacted, |entry| EntryId { index: entry.index, term: entry.term })
    }

    fn push(&mut self, change: impl FnOnce(&mut Recovered)) {
        let mut next = self.now().clone();
        change(&mut next);
        next.hard_state.commit = next.hard_state.commit.max(next.compacted.index);
        self.states.push(next);
    }

    fn take(&mut self, batch: &LogBatch) {
        self.push(|state| {
            if let Some(mark) = batch.snapshot_mark {
                state.entries.clear();
                state.compacted = mark;
            }
            if let Some(first) = batch.entries.first() {
                state.entries.retain(|entry| entry.index < first.index);
                state.entries.extend(batch.entries.iter().cloned());
            }
            state.hard_state = batch.hard_state.unwrap_or(state.hard_state);
        });
    }

    fn compact(&mut self, mark: EntryId) {
        self.push(|state| {
            state.entries.retain(|entry| entry.index > mark.index);
            state.compacted = mark;
        });
    }

    fn sync(&mut self) {
        self.synced = self.states.len() - 1;
    }

    /// The log came back as `recovered`, which must be one of the states that it may be in.
    fn come_back(&mut self, recovered: Recovered, seed: u64) {
        let recovered = Recovered { cut: None, ..recovered };
        let known = self.states[self.synced..].contains(&recovered);
        assert!(known, "seed {seed}: {recovered:?} is none of {:?}", &self.states[self.synced..]);
        *self = Model { states: vec![recovered], synced: 0 };
    }

    fn random_batch(&self, chance: &mut Chance) -> LogBatch {
        let now = self.now();
        let (mut last, mut state) = (self.last(), now.hard_state);
        let mut batch = LogBatch::default();
        if chance.one_in(4) {
            state.term.0 = state.term.0.max(last.term.0) + 1;
            state.vote = chance.one_in(2).then_some(NodeId(1 + chance.below(3)));
        }
        if chance.one_in(25) {
            last = id(last.index.0.max(state.commit.0) + chance.below(3), last.term.0);
            batch.snapshot_mark = Some(last);
        } else if chance.one_in(4) {
            // A new leader's entries take the place of a suffix that is not committed.
            let back = chance.below(1 + last.index.0.saturating_sub(state.commit.0));
            state.term.0 = state.term.0.max(last.term.0) + 1;
            state.vote = None;
            last = id(last.index.0 - back, state.term.0);
        }
        let term = state.term.0.max(last.term.0);
        let first = last.index.0 + 1;
        let count = chance.below(5);
        let sizes = [0, 3, 200, 500, 511, 1024, 3000];
        let entry = |index| entry(index, term, sizes[(index * 7 + term) as usize % sizes.len()]);
        batch.entries = (first..first + count).map(entry).collect();
        let unchanged = batch.entries.is_empty() && batch.snapshot_mark.is_none();
        let end = if unchanged { self.last().index.0 } else { last.index.0 + count };
        let floor = batch.snapshot_mark.map_or(0, |mark| mark.index.0).max(state.commit.0).max(now.compacted.index.0);
        if floor < end && chance.one_in(2) {
            state.commit = LogIndex(floor + chance.below(end - floor + 1));
        }
        state.commit.0 = state.commit.0.max(floor);
        batch.hard_state = (state != now.hard_state).then_some(state);
        batch
    }
}

/// Opens until the disk lets it; a fault that was meant for the last life may still be waiting.
fn open_at_last(disk: &SimDisk) -> (Log, Recovered) {
    for _ in 0..8 {
        match open(disk) {
            Err(LogError::Disk(_)) => {}
            other => return other.unwrap(),
        }
    }
    panic!("the disk has more faults than it was given");
}

/// Works until the disk fails or the life is long enough.
fn live(log: &mut Log, model: &mut Model, chance: &mut Chance) -> Result<(), LogError> {
    let mut order = None;
    for _ in 0..chance.below(30) {
        order = order.or_else(|| log.order_spare());
        // It takes a while, or until the end.
        if chance.one_in(2)
            && let Some(order) = order.take()
        {
            log.take_spare(order.make().ok());
        }
        match chance.below(8) {
            0..5 => {
                let batch = model.random_batch(chance);
                model.take(&batch);
                log.append(&batch)?;
            }
            5..7 => {
                log.sync()?;
                model.sync();
            }
            _ => {
                let now = model.now();
                let span = now.hard_state.commit.0 - now.compacted.index.0;
                let index = LogIndex(now.compacted.index.0 + chance.below(span + 1));
                let Some(term) = now.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term) else {
                    continue;
                };
                model.compact(EntryId { index, term });
                log.compact(index)?;
                model.sync();
            }
        }
        assert_eq!(log.ends().2, model.last());
    }
    Ok(())
}

fn run(seed: u64, lives: u32) -> (u64, u64) {
    let mut chance = Chance::new(seed);
    let disk = SimDisk::new(seed);
    let mut model = Model { states: vec![Recovered::default()], synced: 0 };
    let (mut cuts, mut failures) = (0, 0);
    for _ in 0..lives {
        let (mut log, recovered) = open_at_last(&disk);
        cuts += u64::from(recovered.cut.is_some());
        model.come_back(recovered, seed);
        if chance.one_in(4) {
            drop(log);
            disk.crash(chance.draw());
            let (again, recovered) = open_at_last(&disk);
            assert_eq!(recovered.cut, None, "seed {seed}: opening left something torn");
            model.come_back(recovered, seed);
            log = again;
        }
        if chance.one_in(2) {
            let ops = [
                DiskOp::Write,
                DiskOp::SyncData,
                DiskOp::SyncDir,
                DiskOp::Create,
                DiskOp::Remove,
                DiskOp::Allocate,
                DiskOp::Rename,
            ];
            disk.fail_after(chance.below(6), ops[chance.below(7) as usize], ErrorKind::Other);
        }
        match live(&mut log, &mut model, &mut chance) {
            Ok(()) => {}
            Err(LogError::Disk(_)) => failures += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
        drop(log);
        if !chance.one_in(4) {
            disk.crash(chance.draw());
        }
    }
    (cuts, failures)
}

#[test]
fn killed_and_failing_at_any_point_the_log_comes_back_to_a_batch_boundary() {
    let (mut cuts, mut failures) = (0, 0);
    for seed in 0..300 {
        let (cut, failed) = run(seed, 8);
        cuts += cut;
        failures += failed;
    }
    // Or the test does not test what it says.
    assert!(cuts > 100 && failures > 100, "{cuts} torn tails, {failures} failures");
}

#[test]
#[ignore = "minutes: as the one above, with many more seeds"]
fn killed_and_failing_at_any_point_for_long() {
    for seed in 1_000..50_000 {
        run(seed, 8);
    }
}
