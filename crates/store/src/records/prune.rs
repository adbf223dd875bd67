//! What a sweep reads, how its rows are removed, and which states are whole.
//!
//! A sweep says which rows go; here they are taken away in the batch of their entry. Whoever reads a past state meanwhile takes a
//! view first, and asks [`Records::is_whole`] when it has read: what goes is announced before it goes.

use super::live::LiveView;
use super::{PastView, Records, RecordsError, names, rows};
use crate::engine::{Batch, Engine, Snapshot};
use gavel_types::{BlobId, Key, KeyRange, Tid, VolumeId};
use gavel_wire::{Ended, Removal, Version, View, ViewError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which states of each volume are whole.
#[derive(Debug, Default)]
pub(super) enum WholeStates {
    /// All of all: nothing was told yet.
    #[default]
    Untold,
    /// None of any: the records are being copied.
    None,
    /// Those that were told; none of a volume of which nothing was, for it has gone.
    Of(BTreeMap<VolumeId, Whole>),
}

/// Which states of a volume are whole, and which of them are so even for those of its objects that keep the least.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Whole {
    /// For those that keep what the volume keeps.
    pub volume: WholeFrom,
    /// For each class of those that keep less.
    pub classes: Vec<WholeFrom>,
}

/// All states from a horizon on, and some before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WholeFrom {
    /// The horizon.
    pub horizon: Tid,
    /// Those before it, the oldest first.
    pub kept: Box<[Tid]>,
}

impl WholeFrom {
    fn has(&self, tid: Tid) -> bool {
        tid >= self.horizon || self.kept.binary_search(&tid).is_ok()
    }
}

impl WholeStates {
    /// Volumes of which views that were taken before this may lack objects, as of `tid`: what keeps less than the volume.
    pub(super) fn keeping_less(&self, tid: Tid) -> Vec<VolumeId> {
        match self {
            WholeStates::Untold | WholeStates::None => Vec::new(),
            WholeStates::Of(volumes) => {
                let less = volumes.iter().filter(|(_, whole)| whole.classes.iter().any(|class| !class.has(tid)));
                less.map(|(volume, _)| *volume).collect()
            }
        }
    }
}

impl<E: Engine> Records<E> {
    /// From now on, states of these volumes may be taken away: all but these. To be called before the entry is applied that takes the first row away.
    pub fn set_whole(&self, volumes: impl Iterator<Item = (VolumeId, Whole)>) {
        *self.whole.write() = Arc::new(WholeStates::Of(volumes.collect()));
    }

    /// Are the records being copied, from their beginning? Then rows that were here may not be here yet again.
    pub fn is_being_copied(&self) -> bool {
        matches!(&**self.whole.read(), WholeStates::None)
    }

    /// Did views that were taken before this call show the whole state of the volume as of `tid`, if it has come?
    pub fn is_whole(&self, volume: VolumeId, tid: Tid) -> bool {
        match &**self.whole.read() {
            WholeStates::Untold => true,
            WholeStates::None => false,
            WholeStates::Of(volumes) => volumes.get(&volume).is_some_and(|whole| whole.volume.has(tid)),
        }
    }

    /// Did views that were taken before this call show all states of the volume from `tid` on, and all changes between them?
    pub fn is_whole_from(&self, volume: VolumeId, tid: Tid) -> bool {
        match &**self.whole.read() {
            WholeStates::Untold => true,
            WholeStates::None => false,
            WholeStates::Of(volumes) => volumes.get(&volume).is_some_and(|whole| tid >= whole.volume.horizon),
        }
    }
}

pub(super) fn remove(removals: &[Removal], batch: &mut Batch) {
    for removal in removals {
        match removal {
            Removal::Ended { key, delete } => batch.delete(&rows::history(key, *delete)),
            Removal::Live { key } => batch.delete(&rows::live(key)),
            Removal::Change { tid, key } => batch.delete(&rows::change(*tid, key)),
            Removal::Name { blob, key, create } => batch.delete(&rows::name(*blob, key, *create)),
            Removal::Place { object, key, create } => batch.delete(&rows::place(*object, key, *create)),
            Removal::Made { tid, key } => batch.put(&rows::change(*tid, key), &rows::change_value(false)),
        }
    }
}

impl<S: Snapshot> Ended for LiveView<S> {
    fn ended_from(
        &self,
        volume: VolumeId,
        after: Option<(&Key, Tid)>,
        limit: usize,
    ) -> Result<Vec<(Key, Tid, Version)>, ViewError> {
        let (mut start, end) = rows::history_within(&KeyRange::volume(volume));
        if let Some((key, delete)) = after {
            start = [&rows::history(key, delete)[..], &[0]].concat();
        }
        let parse = |row: Result<(S::Bytes, S::Bytes), _>| -> Result<_, RecordsError> {
            let (row, value) = row?;
            let (key, delete) = rows::parse_history(&row)?;
            let version = rows::parse_version(&key, &value)?;
            Ok((key, delete, version))
        };
        Ok(self.snapshot().range(&start, &end).take(limit).map(parse).collect::<Result<_, _>>()?)
    }

    fn last_ended(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        let (start, end) = rows::history_after(key, Tid::ZERO);
        let Some(row) = self.snapshot().range(&start, &end).next_back() else { return Ok(None) };
        let (_, value) = row.map_err(RecordsError::from)?;
        Ok(Some(rows::parse_version(key, &value)?))
    }

    fn ended_at(&self, key: &Key, delete: Tid) -> Result<Option<Version>, ViewError> {
        let value = self.snapshot().get(&rows::history(key, delete)).map_err(RecordsError::from)?;
        Ok(value.map(|value| rows::parse_version(key, &value)).transpose()?)
    }

    fn changed_beside(&self, volume: VolumeId, tid: Tid, key: &Key) -> Result<bool, ViewError> {
        let (start, end) = rows::changes_within(tid, &KeyRange::volume(volume));
        for row in self.snapshot().range(&start, &end) {
            let (row, value) = row.map_err(RecordsError::from)?;
            if rows::parse_change(&row, &value)?.key != *key {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn names(&self, blob: BlobId) -> Result<bool, ViewError> {
        Ok(names::is_named(self.snapshot(), blob)?)
    }

    fn own(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.get(key)
    }

    fn own_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        self.scan(range, limit)
    }

    fn past(&self, tid: Tid) -> Box<dyn View + '_> {
        Box::new(PastView::new(self.snapshot().clone(), tid))
    }
}
