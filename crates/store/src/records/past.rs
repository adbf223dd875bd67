//! The state as of an earlier Tid: a version is visible at T when `create <= T < delete`.
//!
//! What is found out about history is found by opening ranges, and each costs as much as stepping over 10 to 20 rows or several look-ups of points.
//! So a scan of an object whose attributes have not changed since does without (invariant 4 of the [records](super)), and one of history steps over
//! a few rows that it has no use for, before it opens a range behind them. Attributes of then, which each operation reads, are remembered.

use super::{RecordsError, live, rows};
use crate::engine::Snapshot;
use gavel_types::{Key, KeyParts, KeyRange, Tid};
use gavel_wire::{Version, View, ViewError};
use std::iter::Peekable;
use std::sync::Arc;

/// Rows of one key's history that a scan has no use for, after which it opens a range behind them instead of stepping on.
/// That costs about as much as 10 to 20 steps over small rows.
const STEPS_MAX: usize = 16;
/// A row with a value of so many bytes counts as one step more: rows of 4 KiB have a block each, and are read one ahead, so that after the first of them
/// a range is opened behind the others.
const STEP_BYTES: usize = 256;

/// Most attributes of past states that are remembered.
const ATTRIBUTES_MAX: usize = 4096;

/// Attributes as of past states, of objects that have changed since. The past never changes, so they stay right; who may see a state is asked elsewhere.
pub(super) type Attributes = quick_cache::sync::Cache<(Tid, Key), Option<Version>>;

/// None are remembered yet.
pub(super) fn attributes() -> Arc<Attributes> {
    Arc::new(Attributes::new(ATTRIBUTES_MAX))
}

/// The state as of a Tid.
#[derive(Clone, Debug)]
pub struct PastView<S> {
    snapshot: S,
    tid: Tid,
    attributes: Option<Arc<Attributes>>,
}

impl<S: Snapshot> PastView<S> {
    pub(super) fn new(snapshot: S, tid: Tid) -> PastView<S> {
        PastView { snapshot, tid, attributes: None }
    }

    /// With attributes that are remembered from one view to the next, of the same records.
    pub(super) fn remembering(self, attributes: Arc<Attributes>) -> PastView<S> {
        PastView { attributes: Some(attributes), ..self }
    }

    fn get_visible(&self, key: &Key) -> Result<Option<Version>, RecordsError> {
        if let Some(version) = live::get(&self.snapshot, key)?.filter(|version| version.create <= self.tid) {
            return Ok(Some(version));
        }
        let found = || -> Result<_, RecordsError> {
            Ok(ended_after(&self.snapshot, key, self.tid)?.map(|(_, v)| v).filter(|v| v.create <= self.tid))
        };
        match &self.attributes {
            Some(known) if matches!(key.parts(), KeyParts::Attr) => {
                known.get_or_insert_with(&(self.tid, key.clone()), found)
            }
            _ => found(),
        }
    }

    /// Is everything in the range as it was? The attributes of the object that it is of say so.
    fn is_as_it_was(&self, range: &KeyRange) -> Result<bool, RecordsError> {
        let Some((volume, object)) = range.of_object() else { return Ok(false) };
        let attributes = live::get(&self.snapshot, &Key::attr(volume, object))?;
        Ok(attributes.is_some_and(|version| version.create <= self.tid))
    }

    fn scan_visible(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, RecordsError> {
        let was_there = |version: &Version| version.create <= self.tid;
        let live = live::range(&self.snapshot, range);
        if self.is_as_it_was(range)? {
            let of_then = live.filter(|row| row.as_ref().map_or(true, |(_, version)| was_there(version)));
            return of_then.take(limit).collect();
        }
        // Both sides are walked in the order of keys, and neither further than the other: what is behind the last row that is wanted may be much.
        let mut ended = Ended::new(&self.snapshot, range, self.tid);
        let mut live = live.peekable();
        let mut found = Vec::new();
        while found.len() < limit {
            let bound = live.peek().map(|row| row.as_ref().map(|(key, _)| key).map_err(Clone::clone)).transpose()?;
            if let Some(row) = ended.next_before(bound)? {
                found.push(row);
                continue;
            }
            // Of a key whose live version is younger, an ended one may be visible: it comes next.
            let Some(row) = live.next().transpose()? else { break };
            found.extend(was_there(&row.1).then_some(row));
        }
        Ok(found)
    }
}

/// The version of `key` that transaction `create` made, live or ended, if there is one.
pub(super) fn made_by<S: Snapshot>(snapshot: &S, key: &Key, create: Tid) -> Result<Option<Version>, RecordsError> {
    let is_it = |version: &Version| version.create == create;
    if let Some(version) = live::get(snapshot, key)?.filter(is_it) {
        return Ok(Some(version));
    }
    Ok(ended_after(snapshot, key, create)?.map(|(_, version)| version).filter(is_it))
}

/// The first version of `key` that ended after `at`, and when it ended.
pub(super) fn ended_after<S: Snapshot>(
    snapshot: &S,
    key: &Key,
    at: Tid,
) -> Result<Option<(Tid, Version)>, RecordsError> {
    let (start, end) = rows::history_after(key, at);
    let Some(row) = snapshot.range(&start, &end).next() else { return Ok(None) };
    let (row, value) = row?;
    let (_, delete) = rows::parse_history(&row)?;
    Ok(Some((delete, rows::parse_version(key, &value)?)))
}

/// Walks the history rows of a range and stops at those that are visible at a Tid.
struct Ended<'s, S: Snapshot> {
    snapshot: &'s S,
    range: &'s KeyRange,
    tid: Tid,
    end: Vec<u8>,
    rows: Peekable<HistoryRows<'s, S>>,
    /// The key of the last row.
    place: Option<Place>,
    /// Steps that the next key is given: keys of a range tend to have equally long histories.
    patience: usize,
}

type HistoryRows<'s, S> = Box<dyn Iterator<Item = EngineRow<S>> + 's>;
type EngineRow<S> = Result<(<S as Snapshot>::Bytes, <S as Snapshot>::Bytes), crate::engine::EngineError>;

/// Where a walk is among the rows of a key.
struct Place {
    key: Key,
    /// The rows that follow are of no use: the visible one was seen, or one that began later.
    is_behind: bool,
    /// Steps over rows that were of no use, since the last one that was.
    steps: usize,
}

impl<'s, S: Snapshot> Ended<'s, S> {
    fn new(snapshot: &'s S, range: &'s KeyRange, tid: Tid) -> Ended<'s, S> {
        let (start, end) = rows::history_within(range);
        let rows = open(snapshot, &start, &end);
        Ended { snapshot, range, tid, end, rows, place: None, patience: STEPS_MAX }
    }

    /// The next one that is visible, if its key is before that one.
    fn next_before(&mut self, bound: Option<&Key>) -> Result<Option<(Key, Version)>, RecordsError> {
        while let Some(row) = self.rows.peek() {
            let (row, _) = row.as_ref().map_err(Clone::clone)?;
            let (key, delete) = rows::parse_history(row)?;
            if bound.is_some_and(|bound| key >= *bound) {
                return Ok(None);
            }
            let Some((_, value)) = self.rows.next().transpose()? else { break };
            if !self.range.contains(&key) {
                self.skip_to(rows::history_after(&key, Tid::MAX).1);
                continue;
            }
            let (was_behind, steps) = self.arrive(&key);
            let mut is_behind = was_behind;
            if delete > self.tid && !was_behind {
                let version = rows::parse_version(&key, &value)?;
                if version.create <= self.tid {
                    self.place = Some(Place { key: key.clone(), is_behind: true, steps: 0 });
                    return Ok(Some((key, version)));
                }
                // This version began later, and all that follow of the key still later.
                is_behind = true;
            }
            let steps = steps + 1 + value.len() / STEP_BYTES;
            if steps >= self.patience {
                self.patience = (self.patience / 2).max(1);
                let (after, behind) = rows::history_after(&key, self.tid);
                self.skip_to(if is_behind { behind } else { after });
            }
            self.place = Some(Place { key, is_behind, steps });
        }
        Ok(None)
    }

    /// Comes to a row of `key`: is it behind what is of use, and how many steps over such rows were made?
    fn arrive(&mut self, key: &Key) -> (bool, usize) {
        match self.place.take() {
            Some(place) if place.key == *key => (place.is_behind, place.steps),
            Some(place) => {
                // The steps over the key before were enough.
                if place.steps < self.patience {
                    self.patience = (self.patience * 2).min(STEPS_MAX);
                }
                (false, 0)
            }
            None => (false, 0),
        }
    }

    fn skip_to(&mut self, start: Vec<u8>) {
        self.rows = open(self.snapshot, &start, &self.end);
    }
}

fn open<'s, S: Snapshot>(snapshot: &'s S, start: &[u8], end: &[u8]) -> Peekable<HistoryRows<'s, S>> {
    let rows: HistoryRows<'s, S> = Box::new(snapshot.range(start, end));
    rows.peekable()
}

impl<S: Snapshot> View for PastView<S> {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.get_visible(key)?)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        Ok(self.scan_visible(range, limit)?)
    }
}
