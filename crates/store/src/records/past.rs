//! The state as of an earlier Tid: a version is visible at T when `create <= T < delete`.

use super::{RecordsError, live, rows};
use crate::engine::Snapshot;
use gavel_types::{Key, KeyRange, Tid};
use gavel_wire::{Version, View, ViewError};

/// Rows of one key's history that ended too early, after which a scan looks the right row up instead of stepping on.
/// A look-up costs about as much as 10 to 20 steps over small rows.
const STEPS_MAX: usize = 16;
/// A row with a value of so many bytes counts as one step more: rows of 4 KiB have a block each, and a step to the next block costs about as
/// much as 6 steps within one.
const STEP_BYTES: usize = 800;

/// The state as of a Tid.
#[derive(Clone, Debug)]
pub struct PastView<S> {
    snapshot: S,
    tid: Tid,
}

impl<S: Snapshot> PastView<S> {
    pub(super) fn new(snapshot: S, tid: Tid) -> PastView<S> {
        PastView { snapshot, tid }
    }

    fn get_visible(&self, key: &Key) -> Result<Option<Version>, RecordsError> {
        match live::get(&self.snapshot, key)? {
            Some(version) if version.create <= self.tid => Ok(Some(version)),
            _ => Ok(ended_after(&self.snapshot, key, self.tid)?.map(|(_, v)| v).filter(|v| v.create <= self.tid)),
        }
    }

    /// The live versions that were there at the Tid already.
    fn still_live(&self, range: &KeyRange) -> impl Iterator<Item = Result<(Key, Version), RecordsError>> {
        let tid = self.tid;
        live::range(&self.snapshot, range)
            .filter(move |row| row.as_ref().map_or(true, |(_, version)| version.create <= tid))
    }

    fn scan_visible(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, RecordsError> {
        let mut live = self.still_live(range).peekable();
        let mut ended = Ended::new(&self.snapshot, range, self.tid);
        let mut next_ended = ended.next_visible()?;
        let mut found = Vec::new();
        while found.len() < limit {
            // A key has one visible version at most, so the two sides never tie.
            let ended_first = match (live.peek(), &next_ended) {
                (Some(Ok((live, _))), Some((ended, _))) => ended < live,
                (None, Some(_)) => true,
                _ => false,
            };
            if ended_first {
                found.extend(next_ended.take());
                next_ended = ended.next_visible()?;
            } else {
                match live.next() {
                    Some(row) => found.push(row?),
                    None => break,
                }
            }
        }
        Ok(found)
    }
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
    rows: HistoryRows<'s, S>,
    /// Steps that the next key is given: keys of a range tend to have equally long histories.
    patience: usize,
}

type HistoryRows<'s, S> = Box<dyn Iterator<Item = EngineRow<S>> + 's>;
type EngineRow<S> = Result<(<S as Snapshot>::Bytes, <S as Snapshot>::Bytes), crate::engine::EngineError>;

impl<'s, S: Snapshot> Ended<'s, S> {
    fn new(snapshot: &'s S, range: &'s KeyRange, tid: Tid) -> Ended<'s, S> {
        let (start, end) = rows::history_within(range);
        let rows = Box::new(snapshot.range(&start, &end));
        Ended { snapshot, range, tid, end, rows, patience: STEPS_MAX }
    }

    fn next_visible(&mut self) -> Result<Option<(Key, Version)>, RecordsError> {
        let mut stepping: Option<(Key, usize)> = None;
        while let Some(row) = self.rows.next() {
            let (row, value) = row?;
            let (key, delete) = rows::parse_history(&row)?;
            if !self.range.contains(&key) {
                self.skip_to(rows::history_after(&key, Tid::MAX).1);
                continue;
            }
            if delete > self.tid {
                let version = rows::parse_version(&key, &value)?;
                if version.create <= self.tid {
                    return Ok(Some((key, version)));
                }
                // This version began later, and all that follow of the key still later.
                self.skip_to(rows::history_after(&key, Tid::MAX).1);
                continue;
            }
            let before = match stepping.take() {
                Some((last, steps)) if last == key => steps,
                // The steps over the key before were enough.
                Some(_) => {
                    self.patience = (self.patience * 2).min(STEPS_MAX);
                    0
                }
                None => 0,
            };
            let steps = before + 1 + value.len() / STEP_BYTES;
            if steps >= self.patience {
                self.patience = (self.patience / 2).max(1);
                self.skip_to(rows::history_after(&key, self.tid).0);
            } else {
                stepping = Some((key, steps));
            }
        }
        Ok(None)
    }

    fn skip_to(&mut self, start: Vec<u8>) {
        self.rows = Box::new(self.snapshot.range(&start, &self.end));
    }
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
