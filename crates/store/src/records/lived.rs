//! The whole past of a replica: all versions of keys, and what transactions changed.

use super::prune::WholeStates;
use super::{Inheriting, PastView, Records, RecordsError, changes, live, places, rows};
use crate::engine::{Engine, Snapshot};
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::{Lived, Past, Rows, Touched};
use gavel_wire::{ChangeRow, Version, View, ViewError};
use std::iter::Peekable;
use std::sync::Arc;

/// The past as it was when this was taken.
#[derive(Clone, Debug)]
pub struct WholePast<S> {
    snapshot: S,
    tid: Tid,
    whole: Arc<WholeStates>,
}

impl<E: Engine> Records<E> {
    /// The whole past; `tid` is that of the last transaction that was applied, which the caller knows.
    pub fn past(&self, tid: Tid) -> Inheriting<WholePast<E::Snapshot>, E::Snapshot> {
        // In this order: what goes is announced before it goes.
        let snapshot = self.engine.snapshot();
        let own = WholePast { snapshot: snapshot.clone(), tid, whole: self.whole.read().clone() };
        Inheriting::new(own, snapshot, self.origins.read().clone())
    }
}

/// The history rows of a range and its live rows, merged.
struct Merged<H: Iterator, L: Iterator> {
    ended: Peekable<H>,
    live: Peekable<L>,
}

type EndedRow = Result<(Key, Tid, Version), RecordsError>;
type LiveRow = Result<(Key, Version), RecordsError>;

impl<H: Iterator<Item = EndedRow>, L: Iterator<Item = LiveRow>> Iterator for Merged<H, L> {
    type Item = Result<Lived, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        // What lives is behind what has ended of the same key. An error comes out at once.
        let ended_first = match (self.ended.peek(), self.live.peek()) {
            (Some(Ok((ended, ..))), Some(Ok((live, _)))) => ended <= live,
            (Some(_), _) => true,
            (None, _) => false,
        };
        if ended_first {
            let row = self.ended.next()?;
            return Some(row.map(|(key, delete, version)| Lived { key, version, delete: Some(delete) }));
        }
        Some(self.live.next()?.map(|(key, version)| Lived { key, version, delete: None }))
    }
}

fn touched(row: Result<rows::Indexed, RecordsError>) -> Result<Touched, ViewError> {
    let rows::Indexed { tid, key, made } = row?;
    Ok(Touched { tid, key, made })
}

impl<S: Snapshot> Past for WholePast<S> {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn has_all(&self, volume: VolumeId, tid: Tid) -> bool {
        !self.whole.keeping_less(tid).contains(&volume)
    }

    fn at(&self, tid: Tid) -> Box<dyn View + '_> {
        Box::new(PastView::new(self.snapshot.clone(), tid))
    }

    fn versions(&self, range: &KeyRange) -> Rows<'_, Lived> {
        let (start, end) = rows::history_within(range);
        let within = range.clone();
        let ended = self.snapshot.range(&start, &end).map(|row| -> EndedRow {
            let (row, value) = row?;
            let (key, delete) = rows::parse_history(&row)?;
            let version = rows::parse_version(&key, &value)?;
            Ok((key, delete, version))
        });
        let ended = ended.filter(move |row| row.as_ref().map_or(true, |(key, ..)| within.contains(key)));
        let live = live::range(&self.snapshot, range);
        Box::new(Merged { ended: ended.peekable(), live: live.peekable() }.map(|row| Ok(row?)))
    }

    fn changes(&self, after: Tid, upto: Tid) -> Rows<'_, ChangeRow> {
        Box::new(changes::index(&self.snapshot, after, upto).map(|change| {
            let change = change?;
            let version = changes::made_at(&self.snapshot, &change)?;
            Ok(ChangeRow { tid: change.tid, key: change.key, version })
        }))
    }

    fn touched(&self, after: Tid, upto: Tid) -> Rows<'_, Touched> {
        Box::new(changes::index(&self.snapshot, after, upto).map(touched))
    }

    fn touched_at(&self, tid: Tid, range: &KeyRange) -> Rows<'_, Touched> {
        Box::new(changes::index_within(&self.snapshot, tid, range).map(touched))
    }

    fn names_of(&self, volume: VolumeId, object: ObjectId) -> Rows<'_, Key> {
        Box::new(places::of(&self.snapshot, volume, object).map(|row| Ok(row?)))
    }

    fn live_back(&self, range: &KeyRange) -> Rows<'_, (Key, Version)> {
        Box::new(live::range_back(&self.snapshot, range).map(|row| Ok(row?)))
    }
}
