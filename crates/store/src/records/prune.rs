//! What a sweep reads, how its rows are removed, and which states are whole.
//!
//! A sweep says which rows go; here they are taken away in the batch of their entry. Whoever reads a past state meanwhile takes a
//! view first, and asks [`Records::is_whole`] when it has read: what goes is announced before it goes.

use super::live::LiveView;
use super::{Records, RecordsError, rows};
use crate::engine::{Batch, Engine, Snapshot};
use gavel_types::{Key, KeyRange, Tid, VolumeId};
use gavel_wire::{Ended, Removal, Version, ViewError};
use std::collections::BTreeMap;

/// Which states of each volume are whole.
#[derive(Debug)]
pub(super) enum WholeStates {
    /// None of any: the records are being copied.
    None,
    /// Those that were told; all of a volume of which nothing was.
    Of(BTreeMap<VolumeId, (Tid, Box<[Tid]>)>),
}

impl Default for WholeStates {
    fn default() -> WholeStates {
        WholeStates::Of(BTreeMap::new())
    }
}

impl<E: Engine> Records<E> {
    /// From now on, states of these volumes may be taken away: all but those from a horizon on, and those that are kept before it, the
    /// oldest first. To be called before the entry is applied that takes the first row away.
    pub fn set_whole<'a>(&self, volumes: impl Iterator<Item = (VolumeId, Tid, &'a [Tid])>) {
        let volumes = volumes.map(|(volume, horizon, kept)| (volume, (horizon, kept.into())));
        *self.whole.write() = WholeStates::Of(volumes.collect());
    }

    /// Are the records being copied, from their beginning? Then rows that were here may not be here yet again.
    pub fn is_being_copied(&self) -> bool {
        matches!(&*self.whole.read(), WholeStates::None)
    }

    /// Did views that were taken before this call show the whole state of the volume as of `tid`, if it has come?
    pub fn is_whole(&self, volume: VolumeId, tid: Tid) -> bool {
        match &*self.whole.read() {
            WholeStates::None => false,
            WholeStates::Of(volumes) => {
                volumes.get(&volume).is_none_or(|(horizon, kept)| tid >= *horizon || kept.binary_search(&tid).is_ok())
            }
        }
    }
}

pub(super) fn remove(removals: &[Removal], batch: &mut Batch) {
    for removal in removals {
        match removal {
            Removal::Ended { key, delete } => batch.delete(rows::history(key, *delete)),
            Removal::Live { key } => batch.delete(rows::live(key)),
            Removal::Change { tid, key } => batch.delete(rows::change(*tid, key)),
            Removal::Made { tid, key } => batch.put(rows::change(*tid, key), rows::change_value(false)),
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
            start = rows::history(key, delete);
            start.push(0);
        }
        let parse = |row: Result<(S::Bytes, S::Bytes), _>| -> Result<_, RecordsError> {
            let (row, value) = row?;
            let (key, delete) = rows::parse_history(&row)?;
            let version = rows::parse_version(&key, &value)?;
            Ok((key, delete, version))
        };
        Ok(self.snapshot().range(&start, &end).take(limit).map(parse).collect::<Result<_, _>>()?)
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
}
