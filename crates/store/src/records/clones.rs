//! Views in which clones show what they inherit. `docs/protocols/volumes.md`, "Clones", has the whole of it.
//!
//! The rows of a clone are its own; the views below this room see just those. Here each is wrapped, so that what is not among them is looked
//! for in the origin. Which volumes are clones, the owner says ([`Records::set_origins`]); a view knows what was said when it was taken.

use super::{LiveView, PastView, Records, WholePast};
use crate::engine::{Engine, Snapshot};
use gavel_types::{BlobId, Key, KeyRange, ObjectId, Origin, Tid, VolumeId};
use gavel_wire::inherit::{self, Pages};
use gavel_wire::past::{Lived, Past, Rows, Touched};
use gavel_wire::{ChangeRow, Ended, Live, Version, View, ViewError};
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::sync::Arc;

/// Where each clone comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(Option<Arc<BTreeMap<VolumeId, Origin>>>);

impl Origins {
    fn of(&self, volume: VolumeId) -> Option<Origin> {
        self.0.as_ref()?.get(&volume).copied()
    }

    /// The clones that a range touches, the first ones first.
    fn clones_in(&self, range: &KeyRange) -> Vec<(VolumeId, Origin)> {
        let Some(origins) = self.0.as_ref().filter(|_| !range.is_empty()) else { return Vec::new() };
        let touched = |volume: &VolumeId| KeyRange::volume(*volume).overlaps(range);
        match whole_volume(range) {
            Some(volume) => origins.get(&volume).map(|origin| (volume, *origin)).into_iter().collect(),
            None => origins.iter().filter(|(volume, _)| touched(volume)).map(|(of, origin)| (*of, *origin)).collect(),
        }
    }
}

/// The volume in which a range lies, if it is one.
fn whole_volume(range: &KeyRange) -> Option<VolumeId> {
    let volume = VolumeId(u32::from_be_bytes(*range.start.first_chunk()?));
    (range.end <= KeyRange::volume(volume).end).then_some(volume)
}

impl<E: Engine> Records<E> {
    /// Which volumes are clones. To be called when that has changed, before a view is taken in which the new ones are read.
    pub fn set_origins(&self, clones: impl Iterator<Item = (VolumeId, Origin)>) {
        let clones: BTreeMap<VolumeId, Origin> = clones.collect();
        let clones = (!clones.is_empty()).then(|| Arc::new(clones));
        *self.origins.write() = Origins(clones);
    }
}

/// A view in which clones show what they inherit.
#[derive(Clone, Debug)]
pub struct Inheriting<V, S> {
    own: V,
    /// What `own` is a view of.
    snapshot: S,
    origins: Origins,
}

impl<V, S: Snapshot> Inheriting<V, S> {
    pub(super) fn new(own: V, snapshot: S, origins: Origins) -> Inheriting<V, S> {
        Inheriting { own, snapshot, origins }
    }

    /// The same over another view of the same snapshot.
    pub(super) fn map(self, own: impl FnOnce(V) -> V) -> Inheriting<V, S> {
        Inheriting { own: own(self.own), ..self }
    }

    /// The state as of `tid` of the same snapshot.
    fn at(&self, tid: Tid) -> Inheriting<PastView<S>, S> {
        let view = PastView::new(self.snapshot.clone(), tid);
        Inheriting::new(view, self.snapshot.clone(), self.origins.clone())
    }

    /// What a clone inherits as of `tid`. Before it was made, it was what its origin was.
    fn inherited<'v>(&self, origin: Origin, tid: Tid) -> Box<dyn View + 'v>
    where
        S: 'v,
    {
        Box::new(self.at(origin.at.min(tid)))
    }

    /// What of `range` lies before, in, and behind each clone in it.
    fn parts(&self, range: &KeyRange) -> Vec<(KeyRange, Option<(VolumeId, Origin)>)> {
        let mut from = range.start.clone();
        let mut parts = Vec::new();
        for (volume, origin) in self.origins.clones_in(range) {
            let clone = KeyRange::volume(volume);
            let part = range.within(&clone);
            parts.push((KeyRange { start: from, end: part.start.clone() }, None));
            from = part.end.clone();
            parts.push((part, Some((volume, origin))));
        }
        parts.push((KeyRange { start: from, end: range.end.clone() }, None));
        parts.retain(|(part, _)| !part.is_empty());
        parts
    }
}

impl<V: View, S: Snapshot> View for Inheriting<V, S> {
    fn tid(&self) -> Tid {
        self.own.tid()
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        match self.origins.of(key.volume()) {
            None => self.own.get(key),
            Some(origin) => inherit::get(&self.own, key, origin, || self.inherited(origin, self.own.tid())),
        }
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        if self.origins.clones_in(range).is_empty() {
            return self.own.scan(range, limit);
        }
        let mut found = Vec::new();
        for (part, clone) in self.parts(range) {
            let left = limit - found.len();
            found.extend(match clone {
                None => self.own.scan(&part, left)?,
                Some((volume, origin)) => {
                    inherit::scan(&self.own, (volume, &part), left, origin, || self.inherited(origin, self.own.tid()))?
                }
            });
            if found.len() >= limit {
                break;
            }
        }
        Ok(found)
    }
}

impl<V: Live, S: Snapshot> Live for Inheriting<V, S> {
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError> {
        // What is inherited never changes.
        self.own.changed_after(range, after)
    }
}

impl<S: Snapshot> Ended for Inheriting<LiveView<S>, S> {
    fn ended_from(
        &self,
        volume: VolumeId,
        after: Option<(&Key, Tid)>,
        limit: usize,
    ) -> Result<Vec<(Key, Tid, Version)>, ViewError> {
        self.own.ended_from(volume, after, limit)
    }

    fn last_ended(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.own.last_ended(key)
    }

    fn ended_at(&self, key: &Key, delete: Tid) -> Result<Option<Version>, ViewError> {
        self.own.ended_at(key, delete)
    }

    fn names(&self, blob: BlobId) -> Result<bool, ViewError> {
        self.own.names(blob)
    }

    fn changed_beside(&self, volume: VolumeId, tid: Tid, key: &Key) -> Result<bool, ViewError> {
        self.own.changed_beside(volume, tid, key)
    }

    fn own(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.own.get(key)
    }

    fn own_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        self.own.scan(range, limit)
    }

    fn past(&self, tid: Tid) -> Box<dyn View + '_> {
        Box::new(self.at(tid))
    }
}

impl<S: Snapshot> Inheriting<WholePast<S>, S> {
    fn is_in_clone(&self, key: &Key) -> bool {
        key.object() != ObjectId::VOLUME && self.origins.of(key.volume()).is_some()
    }

    /// A row of the change index of a clone made nothing if what it made says that nothing is there.
    fn seen(&self, touched: Result<Touched, ViewError>) -> Result<Touched, ViewError> {
        let touched = touched?;
        if !touched.made || !self.is_in_clone(&touched.key) {
            return Ok(touched);
        }
        let made = PastView::new(self.snapshot.clone(), touched.tid).get(&touched.key)?;
        Ok(Touched { made: made.is_none_or(|version| !version.is_gone()), ..touched })
    }
}

impl<S: Snapshot> Past for Inheriting<WholePast<S>, S> {
    fn tid(&self) -> Tid {
        self.own.tid()
    }

    fn has_all(&self, volume: VolumeId, tid: Tid) -> bool {
        self.own.has_all(volume, tid)
    }

    fn at(&self, tid: Tid) -> Box<dyn View + '_> {
        Box::new(Inheriting::at(self, tid))
    }

    /// Of a clone, what was inherited comes before what became of it.
    fn versions(&self, range: &KeyRange) -> Rows<'_, Lived> {
        if self.origins.clones_in(range).is_empty() {
            return self.own.versions(range);
        }
        let parts = self.parts(range).into_iter().map(|(part, clone)| -> Rows<'_, Lived> {
            let own = self.own.versions(&part);
            let Some((volume, origin)) = clone else { return own };
            let objects = part.within(&KeyRange::of_objects(volume));
            let theirs = objects.in_volume(volume, origin.volume);
            let theirs = Pages::new(self.inherited(origin, Tid::MAX), theirs, 1);
            Box::new(Lineage { clone: volume, own: own.peekable(), theirs })
        });
        Box::new(parts.flatten())
    }

    fn changes(&self, after: Tid, upto: Tid) -> Rows<'_, ChangeRow> {
        let rows = self.own.changes(after, upto);
        Box::new(rows.map(|row| row.map(|row| ChangeRow { version: row.version.filter(|v| !v.is_gone()), ..row })))
    }

    fn touched(&self, after: Tid, upto: Tid) -> Rows<'_, Touched> {
        Box::new(self.own.touched(after, upto).map(|row| self.seen(row)))
    }

    /// What a clone inherited, a transaction of its origin did.
    fn touched_at(&self, tid: Tid, range: &KeyRange) -> Rows<'_, Touched> {
        if let [(volume, origin)] = self.origins.clones_in(range)[..]
            && tid <= origin.at
        {
            let objects = range.within(&KeyRange::of_objects(volume));
            let theirs = self.touched_at(tid, &objects.in_volume(volume, origin.volume));
            let ours = move |row: Touched| Touched { key: row.key.in_volume(volume), ..row };
            return Box::new(theirs.map(move |row| row.map(ours)));
        }
        Box::new(self.own.touched_at(tid, range).map(|row| self.seen(row)))
    }

    /// Of a clone, its own names and those that its origin knows: what a state shows of them, is asked there.
    fn names_of(&self, volume: VolumeId, object: ObjectId) -> Rows<'_, Key> {
        let own = self.own.names_of(volume, object);
        let Some(origin) = self.origins.of(volume) else { return own };
        let theirs = self.names_of(origin.volume, object).map(move |key| key.map(|key| key.in_volume(volume)));
        match own.chain(theirs).collect::<Result<BTreeSet<Key>, _>>() {
            Ok(names) => Box::new(names.into_iter().map(Ok)),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    /// Of a clone, its own rows: what it inherits is in no order of Tids, for which this is asked.
    fn live_back(&self, range: &KeyRange) -> Rows<'_, (Key, Version)> {
        let rows = self.own.live_back(range);
        Box::new(rows.filter(|row| row.as_ref().map_or(true, |(_, version)| !version.is_gone())))
    }
}

/// All versions of some keys of a clone: of each, what it inherited, and then its own.
struct Lineage<'a> {
    clone: VolumeId,
    own: Peekable<Rows<'a, Lived>>,
    theirs: Pages<Box<dyn View + 'a>>,
}

impl Lineage<'_> {
    fn step(&mut self) -> Result<Option<Lived>, ViewError> {
        loop {
            let own = match self.own.peek() {
                Some(Ok(lived)) => Some((&lived.key, lived.version.create)),
                Some(Err(error)) => return Err(error.clone()),
                None => None,
            };
            let theirs = self.theirs.peek()?.map(|(key, _)| key.in_volume(self.clone));
            // What is inherited ends where the first row of its own begins.
            let inherits = match (own, &theirs) {
                (_, None) => false,
                (None, Some(_)) => true,
                (Some((own, _)), Some(theirs)) => theirs <= own,
            };
            if !inherits {
                match self.own.next().transpose()? {
                    Some(lived) if lived.version.is_gone() => continue,
                    lived => return Ok(lived),
                }
            }
            let delete = own.filter(|(own, _)| Some(*own) == theirs.as_ref()).map(|(_, create)| create);
            if let (Some(key), Some((_, version))) = (theirs, self.theirs.next()) {
                return Ok(Some(Lived { key, version, delete }));
            }
        }
    }
}

impl Iterator for Lineage<'_> {
    type Item = Result<Lived, ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MemEngine;
    use crate::records::Identity;
    use gavel_types::{ClusterId, NodeId};
    use gavel_wire::{Change, Record};

    const ORIGIN: VolumeId = VolumeId(1);
    const CLONE: VolumeId = VolumeId(2);
    const OF_CLONE: VolumeId = VolumeId(3);
    const OBJECT: ObjectId = ObjectId(20);

    fn version(tid: u64, record: Record) -> Version {
        Version { create: Tid(tid), firm: Tid(tid), record }
    }

    fn xattr(tid: u64) -> Version {
        version(tid, Record::Xattr(Box::new([tid as u8])))
    }

    fn key(volume: VolumeId, name: &str) -> Key {
        Key::xattr(volume, OBJECT, name.as_bytes())
    }

    /// `a` of the origin is written at 10, 20 and 40, `b` at 12. A clone is made as of 30: there `a` goes at 50 and comes back at 60, `b` is written
    /// at 55. A clone of that is made as of 52.
    fn records() -> Records<MemEngine> {
        let identity = Identity { cluster: ClusterId([1; 16]), node: NodeId(1) };
        let records = Records::open(MemEngine::new(), identity).unwrap().0;
        let change =
            |tid: u64, key: Key, old: Option<Version>, new: Option<Version>| Change { tid: Tid(tid), key, old, new };
        let gone = version(50, Record::Gone);
        let changes = [
            change(10, key(ORIGIN, "a"), None, Some(xattr(10))),
            change(12, key(ORIGIN, "b"), None, Some(xattr(12))),
            change(20, key(ORIGIN, "a"), Some(xattr(10)), Some(xattr(20))),
            change(40, key(ORIGIN, "a"), Some(xattr(20)), Some(xattr(40))),
            change(50, key(CLONE, "a"), None, Some(gone.clone())),
            change(55, key(CLONE, "b"), None, Some(xattr(55))),
            change(60, key(CLONE, "a"), Some(gone), Some(xattr(60))),
        ];
        records.apply(&changes, &[]).unwrap();
        let origins =
            [(CLONE, Origin { volume: ORIGIN, at: Tid(30) }), (OF_CLONE, Origin { volume: CLONE, at: Tid(52) })];
        records.set_origins(origins.into_iter());
        records
    }

    #[test]
    fn a_clone_shows_what_it_inherits_and_its_origin_shows_nothing_of_it() {
        let records = records();
        let shown = |tid: u64, volume| -> Vec<(Key, u64)> {
            let rows = records.at(Tid(tid)).scan(&KeyRange::volume(volume), 9).unwrap();
            rows.into_iter().map(|(key, version)| (key.in_volume(ORIGIN), version.create.0)).collect()
        };
        let (a, b) = (key(ORIGIN, "a"), key(ORIGIN, "b"));
        assert_eq!(shown(45, CLONE), [(a.clone(), 20), (b.clone(), 12)]);
        assert_eq!(shown(50, CLONE), [(b.clone(), 12)]);
        assert_eq!(shown(70, CLONE), [(a.clone(), 60), (b.clone(), 55)]);
        assert_eq!(shown(70, ORIGIN), [(a.clone(), 40), (b.clone(), 12)]);
        assert_eq!(shown(70, OF_CLONE), [(b.clone(), 12)], "as of 52");
        assert_eq!(shown(15, CLONE), [(a.clone(), 10), (b.clone(), 12)], "before it was made it was its origin");
        let everything = KeyRange { start: KeyRange::volume(ORIGIN).start, end: KeyRange::volume(OF_CLONE).end };
        let all = records.live(Tid(70)).scan(&everything, 99).unwrap();
        assert_eq!(all.len(), 5, "over several volumes: {all:?}");
        assert_eq!(records.live(Tid(70)).scan(&everything, 3).unwrap(), all[..3]);
    }

    #[test]
    fn the_past_of_a_clone_begins_with_what_it_inherits() {
        let records = records();
        let past = records.past(Tid(70));
        let versions = |volume| -> Vec<(u64, Option<u64>)> {
            let rows = past.versions(&KeyRange::object(volume, OBJECT)).map(Result::unwrap);
            rows.map(|row| (row.version.create.0, row.delete.map(|tid| tid.0))).collect()
        };
        assert_eq!(versions(ORIGIN), [(10, Some(20)), (20, Some(40)), (40, None), (12, None)]);
        assert_eq!(versions(CLONE), [(20, Some(50)), (60, None), (12, Some(55)), (55, None)]);
        assert_eq!(versions(OF_CLONE), [(12, None)]);
        let touched = |tid: u64, volume| -> Vec<(Key, bool)> {
            let rows = past.touched_at(Tid(tid), &KeyRange::object(volume, OBJECT)).map(Result::unwrap);
            rows.map(|row| (row.key, row.made)).collect()
        };
        assert_eq!(touched(50, CLONE), [(key(CLONE, "a"), false)], "nothing is there any more");
        assert_eq!(touched(60, CLONE), [(key(CLONE, "a"), true)]);
        assert_eq!(touched(12, OF_CLONE), [(key(OF_CLONE, "b"), true)], "what its origin's origin did");
        assert_eq!(touched(40, CLONE), []);
        let changes: Vec<_> = past.changes(Tid(45), Tid(52)).map(|row| row.unwrap().version).collect();
        assert_eq!(changes, [None]);
    }

    #[test]
    fn a_clone_knows_the_names_that_its_origin_gave() {
        let records = records();
        let name = |volume, name: &str| Key::dirent(volume, ObjectId::ROOT, name.as_bytes());
        let dirent =
            |tid| version(tid, Record::Dirent(gavel_wire::Dirent { object: OBJECT, kind: gavel_wire::Kind::File }));
        let change = |tid: u64, key: Key, old, new| Change { tid: Tid(tid), key, old, new };
        let changes = [
            change(11, name(ORIGIN, "x"), None, Some(dirent(11))),
            change(45, name(ORIGIN, "x"), Some(dirent(11)), None),
            change(46, name(ORIGIN, "x"), None, Some(dirent(46))),
            change(51, name(CLONE, "y"), None, Some(dirent(51))),
        ];
        records.apply(&changes, &[]).unwrap();
        let past = records.past(Tid(70));
        let names = |volume| past.names_of(volume, OBJECT).collect::<Result<Vec<_>, _>>().unwrap();
        assert_eq!(names(ORIGIN), [name(ORIGIN, "x")], "two versions of one name");
        let mut both = [name(CLONE, "x"), name(CLONE, "y")];
        both.sort();
        assert_eq!(names(CLONE), both);
        assert_eq!(past.names_of(ORIGIN, ObjectId(21)).count(), 0);
        assert_eq!(records.check().unwrap().problems, Vec::<String>::new());
        assert_eq!(records.check().unwrap().places, 3);
    }

    #[test]
    fn marks_and_authors_are_not_inherited() {
        let records = records();
        let mark = Key::orphan(ORIGIN, OBJECT);
        let orphan = version(25, Record::Orphan(gavel_wire::Orphan { holders: Vec::new() }));
        let change = Change { tid: Tid(25), key: mark.clone(), old: None, new: Some(orphan) };
        records.apply(&[change], &[]).unwrap();
        let live = records.live(Tid(70));
        assert!(live.get(&mark).unwrap().is_some() && live.get(&mark.in_volume(CLONE)).unwrap().is_none());
        assert_eq!(live.scan(&KeyRange::orphans_from(CLONE, ObjectId(0)), 9), Ok(Vec::new()));
        assert_eq!(records.check().unwrap().problems, Vec::<String>::new());
    }
}
