//! A transaction as two states, its start and what it shows now, for questions about the past: how do they differ?

use gavel_store::engine::{Engine, LsmEngine};
use gavel_store::records::{Inheriting, Records, WholePast};
use gavel_txn::{Layer, Layered};
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::message::ChangeRow;
use gavel_wire::past::{Lived, Rows, Touched};
use gavel_wire::{Past, Version, View};
use std::sync::Arc;

type Snapshot = <LsmEngine as Engine>::Snapshot;

/// The state that a transaction shows: behind all that there are.
pub(super) const NOW: Tid = Tid(u64::MAX - 1);

/// See the module's documentation.
pub(super) struct TxnPast {
    pub(super) records: Arc<Records<LsmEngine>>,
    pub(super) past: Inheriting<WholePast<Snapshot>, Snapshot>,
    pub(super) volume: VolumeId,
    pub(super) start: Tid,
    pub(super) layer: Layer,
}

impl TxnPast {
    fn laid(&self, range: &KeyRange) -> Vec<(Key, Option<Version>)> {
        let laid = self.layer.laid(range);
        laid.map(|(key, version)| {
            let version = version.map(|version| Version { create: NOW, ..version.clone() });
            (key.clone(), version)
        })
        .collect()
    }

    fn rows(&self, range: &KeyRange) -> Vec<Touched> {
        let rows = self.laid(range).into_iter();
        rows.map(|(key, version)| Touched { tid: NOW, key, made: version.is_some() }).collect()
    }
}

impl Past for TxnPast {
    fn tid(&self) -> Tid {
        NOW
    }

    fn has_all(&self, volume: VolumeId, tid: Tid) -> bool {
        self.past.has_all(volume, tid.min(self.start))
    }

    fn at(&self, tid: Tid) -> Box<dyn View + '_> {
        if tid < NOW {
            return self.past.at(tid.min(self.start));
        }
        Box::new(Layered::new(self.records.whole_at(self.start), self.layer.clone()))
    }

    fn versions(&self, range: &KeyRange) -> Rows<'_, Lived> {
        let start = self.start;
        let base = self.past.versions(range).filter_map(move |lived| match lived {
            Ok(lived) if lived.version.create > start => None,
            Ok(lived) => {
                let ended = lived.delete.filter(|delete| *delete <= start);
                let ended = ended.or_else(|| self.layer.get(&lived.key).map(|_| NOW));
                Some(Ok(Lived { delete: ended, ..lived }))
            }
            Err(error) => Some(Err(error)),
        });
        let own = self
            .laid(range)
            .into_iter()
            .filter_map(|(key, version)| Some(Ok(Lived { key, version: version?, delete: None })));
        let mut all: Vec<_> = base.chain(own).collect();
        // Errors first: whoever meets one stops.
        all.sort_by_key(|lived| lived.as_ref().ok().map(|lived| (lived.key.clone(), lived.version.create)));
        Box::new(all.into_iter())
    }

    fn changes(&self, after: Tid, upto: Tid) -> Rows<'_, ChangeRow> {
        let own = if after < NOW && upto >= NOW { self.laid(&KeyRange::volume(self.volume)) } else { Vec::new() };
        let own = own.into_iter().map(|(key, version)| Ok(ChangeRow { tid: NOW, key, version }));
        Box::new(self.past.changes(after.min(self.start), upto.min(self.start)).chain(own))
    }

    fn touched(&self, after: Tid, upto: Tid) -> Rows<'_, Touched> {
        let own = if after < NOW && upto >= NOW { self.rows(&KeyRange::volume(self.volume)) } else { Vec::new() };
        Box::new(self.past.touched(after.min(self.start), upto.min(self.start)).chain(own.into_iter().map(Ok)))
    }

    fn touched_at(&self, tid: Tid, range: &KeyRange) -> Rows<'_, Touched> {
        match tid {
            NOW => Box::new(self.rows(range).into_iter().map(Ok)),
            tid if tid <= self.start => self.past.touched_at(tid, range),
            _ => Box::new(std::iter::empty()),
        }
    }

    fn names_of(&self, volume: VolumeId, object: ObjectId) -> Rows<'_, Key> {
        let names = |version: &Version| version.record.names() == Some(object);
        let laid = self.laid(&KeyRange::volume(volume)).into_iter();
        let own = laid.filter(move |(_, version)| version.as_ref().is_some_and(names)).map(|(key, _)| Ok(key));
        let mut all: Vec<_> = self.past.names_of(volume, object).chain(own).collect();
        // Errors first: whoever meets one stops.
        all.sort_by_key(|key| key.as_ref().ok().cloned());
        all.dedup();
        Box::new(all.into_iter())
    }

    fn live_back(&self, _: &KeyRange) -> Rows<'_, (Key, Version)> {
        // Who made commits, which a transaction has none of.
        Box::new(std::iter::empty())
    }
}
