//! The transaction that the records of a journal make.

use super::{Entry, Event, Header, Journal, JournalError, Whole, Writer};
use crate::transaction::guards::{Guards, object_of};
use crate::transaction::runs::Runs;
use crate::transaction::{Transaction, TransactionError};
use bytes::Bytes;
use gavel_types::{BlobId, Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Change, Guard, View};
use std::collections::{BTreeMap, BTreeSet};

/// How far it had come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It goes on.
    Open,
    /// It may have been committed.
    Committing,
    /// It was committed.
    Committed(Tid),
}

/// What a journal says without the state that it begins at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glimpse {
    /// Which transaction it is.
    pub header: Header,
    /// Blobs that it has stored, or that must be.
    pub held: BTreeSet<BlobId>,
    /// How far it had come.
    pub stage: Stage,
    /// Bytes of whole records.
    pub whole: u64,
    /// Bytes behind them.
    pub rest: u64,
    /// These were not just never finished.
    pub damaged: bool,
}

/// What comes to be again.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The transaction. It keeps no events.
    pub transaction: Transaction,
    /// Bytes that are not on a majority.
    pub storing: BTreeMap<BlobId, Bytes>,
    /// All blobs that it has stored, or that must be.
    pub held: BTreeSet<BlobId>,
    /// As of when those that are on a majority were there.
    pub stored_as_of: Tid,
    /// Bytes of whole records.
    pub whole: u64,
    /// Makes the records behind them.
    pub writer: Writer,
}

/// Looks at a journal.
///
/// # Errors
/// If it has no header.
pub fn glimpse(bytes: &[u8]) -> Result<Glimpse, JournalError> {
    let mut journal = Journal::open(bytes)?;
    let (mut held, mut stage) = (BTreeSet::new(), Stage::Open);
    for entry in journal.by_ref() {
        match entry {
            Entry::Did { store, .. } if !store.is_empty() => drop(held.insert(BlobId::of(&store))),
            Entry::Held(blobs) => held.extend(blobs),
            Entry::Committing => stage = Stage::Committing,
            Entry::Open => stage = Stage::Open,
            Entry::Committed { tid } => stage = Stage::Committed(tid),
            Entry::Did { .. } | Entry::Stored { .. } | Entry::Whole(_) => {}
        }
    }
    let (whole, damaged) = (journal.position(), journal.is_damaged());
    Ok(Glimpse { header: journal.header().clone(), held, stage, whole, rest: bytes.len() as u64 - whole, damaged })
}

/// The transaction behind the last whole record. `base` is the view at its start.
///
/// # Errors
/// [`JournalError`]. What lies behind the last whole record is none.
pub fn replay(bytes: &[u8], base: &dyn View) -> Result<Replayed, JournalError> {
    let mut journal = Journal::open(bytes)?;
    let header = journal.header().clone();
    let mut transaction = Transaction::new(header.volume, header.start);
    let (mut storing, mut held, mut stored_as_of) = (BTreeMap::new(), BTreeSet::new(), Tid::MAX);
    let mut number = 0;
    for entry in journal.by_ref() {
        number += 1;
        if number == 1 && header.anew && !matches!(entry, Entry::Whole(_)) {
            return Err(JournalError::Beginning);
        }
        match entry {
            Entry::Did { events, store } => {
                let misfit = |cause: String| JournalError::Misfit { number, cause };
                events.into_iter().try_for_each(|event| transaction.again(base, event)).map_err(misfit)?;
                if !store.is_empty() {
                    let bytes = Bytes::from(store.into_vec());
                    held.insert(BlobId::of(&bytes));
                    storing.insert(BlobId::of(&bytes), bytes);
                }
            }
            Entry::Stored { blob, as_of } => {
                storing.remove(&blob);
                stored_as_of = stored_as_of.min(as_of);
            }
            Entry::Whole(whole) => {
                let misfit = |cause: String| JournalError::Misfit { number, cause };
                transaction = Transaction::of_whole(header.volume, header.start, *whole).map_err(misfit)?;
            }
            Entry::Held(blobs) => held.extend(blobs),
            Entry::Committing | Entry::Open | Entry::Committed { .. } => {}
        }
    }
    if number == 0 && header.anew {
        return Err(JournalError::Beginning);
    }
    let (whole, writer) = (journal.position(), journal.writer());
    Ok(Replayed { transaction, storing, held, stored_as_of, whole, writer })
}

impl Transaction {
    /// All of it.
    pub fn to_whole(&self) -> Whole {
        let runs = |(object, runs): (&ObjectId, &Runs)| (*object, runs.iter().collect());
        Whole {
            at: self.at,
            plans: self.plans,
            time: self.time,
            guards: self.guards.to_guards(self.at),
            made: self.made.iter().copied().collect(),
            written: self.written.iter().map(runs).collect(),
            merging: self.merging.iter().map(|(object, delta)| (*object, *delta)).collect(),
            layer: self
                .layer
                .laid(&KeyRange::volume(self.volume))
                .map(|(key, version)| (key.clone(), version.cloned()))
                .collect(),
        }
    }

    fn of_whole(volume: VolumeId, start: Tid, whole: Whole) -> Result<Transaction, String> {
        if whole.at != start || whole.time == Tid::MAX {
            return Err(format!("it begins at {}, and not at {start}", whole.at));
        }
        whole.guards.iter().try_for_each(|guard| check_guard(volume, guard))?;
        let mut transaction = Transaction::new(volume, start);
        transaction.plans = whole.plans;
        transaction.time = whole.time;
        transaction.guards = Guards::restored(volume, &whole.guards);
        let made: BTreeSet<ObjectId> = whole.made.into_iter().collect();
        transaction.made_runs = transaction.runs_with(&made);
        transaction.made = made;
        for (object, runs) in whole.written {
            let written = transaction.written.entry(object).or_default();
            runs.into_iter().for_each(|(first, end)| written.add(first, end));
        }
        transaction.runs = transaction.written.values().map(Runs::len).sum();
        transaction.merging = whole.merging.into_iter().collect();
        let all = KeyRange::volume(volume);
        let changes = whole.layer.into_iter().map(|(key, new)| Change { tid: whole.time, key, old: None, new });
        let changes: Vec<Change> = changes.collect();
        if let Some(change) = changes.iter().find(|change| !all.contains(&change.key)) {
            return Err(format!("{:?} is in another volume", change.key));
        }
        let distinct: BTreeSet<&Key> = changes.iter().map(|change| &change.key).collect();
        if distinct.len() != changes.len() {
            return Err("it has a record twice".into());
        }
        transaction.weighed = transaction.weigh(&changes, &BTreeSet::new());
        transaction.layer.lay(whole.plans, changes);
        Ok(transaction)
    }

    /// Is told what it was told before.
    fn again(&mut self, base: &dyn View, event: Event) -> Result<(), String> {
        match event {
            Event::Read(guards) => {
                guards.iter().try_for_each(|guard| check_guard(self.volume, guard))?;
                match self.depend(base, &guards) {
                    // Then as well: its operation was refused.
                    Ok(()) | Err(TransactionError::Full(_)) => Ok(()),
                    Err(error) => Err(error.to_string()),
                }
            }
            Event::Wrote { plan, now_ns, refused } => {
                if self.time.max(self.at) == Tid::MAX {
                    return Err("there are no times left".into());
                }
                match (self.accept(base, plan, now_ns), refused) {
                    (Ok(()), false) | (Err(TransactionError::Full(_)), true) => Ok(()),
                    (Ok(()), true) => Err("there was no room for it, and now there is".into()),
                    (Err(error), _) => Err(error.to_string()),
                }
            }
            Event::Forgot(object) => {
                self.forget_nameless(object);
                Ok(())
            }
            // The bytes have records of their own.
            Event::Spilled => {
                self.spill();
                Ok(())
            }
        }
    }
}

/// Is it one that an operation can have?
fn check_guard(volume: VolumeId, guard: &Guard) -> Result<(), String> {
    match guard {
        Guard::Unchanged { .. } | Guard::Firm { .. } => Ok(()),
        Guard::Empty { range } | Guard::Stable { range, .. } => {
            let all = KeyRange::volume(volume);
            let within = all.start <= range.start && range.start <= range.end && range.end <= all.end;
            let single = Key::from_bytes(&range.start).is_ok_and(|key| *range == KeyRange::one(&key));
            let one = single || object_of(range).is_some();
            if within && one { Ok(()) } else { Err(format!("{guard:?} is not about one object")) }
        }
    }
}
