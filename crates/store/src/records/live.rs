//! The newest state of a replica.

use super::rows;
use super::{RecordsError, changes};
use crate::engine::{EngineError, Snapshot};
use gavel_types::{Key, KeyRange, Tid};
use gavel_wire::{Live, Version, View, ViewError};

/// The newest state as it was when the view was taken.
#[derive(Clone, Debug)]
pub struct LiveView<S> {
    snapshot: S,
    tid: Tid,
}

impl<S: Snapshot> LiveView<S> {
    pub(super) fn new(snapshot: S, tid: Tid) -> LiveView<S> {
        LiveView { snapshot, tid }
    }

    pub(super) fn snapshot(&self) -> &S {
        &self.snapshot
    }
}

/// The live version of `key`.
pub(super) fn get<S: Snapshot>(snapshot: &S, key: &Key) -> Result<Option<Version>, RecordsError> {
    let value = snapshot.get(&rows::live(key))?;
    value.map(|value| rows::parse_version(key, &value)).transpose()
}

/// The live versions in `range`, in the order of keys.
pub(super) fn range<'s, S: Snapshot>(
    snapshot: &'s S,
    range: &KeyRange,
) -> impl Iterator<Item = Result<(Key, Version), RecordsError>> + use<'s, S> {
    let (start, end) = rows::live_within(range);
    snapshot.range(&start, &end).map(parse::<S>)
}

/// The live versions in `range`, from the last key to the first.
pub(super) fn range_back<'s, S: Snapshot>(
    snapshot: &'s S,
    range: &KeyRange,
) -> impl Iterator<Item = Result<(Key, Version), RecordsError>> + use<'s, S> {
    let (start, end) = rows::live_within(range);
    snapshot.range(&start, &end).rev().map(parse::<S>)
}

fn parse<S: Snapshot>(row: Result<(S::Bytes, S::Bytes), EngineError>) -> Result<(Key, Version), RecordsError> {
    let (row, value) = row?;
    let key = rows::parse_live(&row)?;
    let version = rows::parse_version(&key, &value)?;
    Ok((key, version))
}

impl<S: Snapshot> View for LiveView<S> {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(get(&self.snapshot, key)?)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        Ok(self::range(&self.snapshot, range).take(limit).collect::<Result<_, _>>()?)
    }
}

impl<S: Snapshot> Live for LiveView<S> {
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError> {
        for row in changes::index(&self.snapshot, after, Tid::MAX) {
            if range.contains(&row?.key) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
