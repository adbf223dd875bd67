//! Every version that ever was. Nothing is fast; everything is plain.

use gavel_types::{BlobId, Key, KeyRange, Origin, Tid, VolumeId};
use gavel_wire::inherit;
use gavel_wire::{Change, ChangeRow, Ended, Live, Removal, Version, View, ViewError};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Key -> Tid of a change -> the version made, none for an end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    rows: BTreeMap<Key, BTreeMap<Tid, Option<Version>>>,
    /// Where clones come from.
    pub origins: BTreeMap<VolumeId, Origin>,
}

/// The state as of a Tid.
#[derive(Clone, Copy)]
pub struct At<'m> {
    memory: &'m Memory,
    tid: Tid,
}

/// The rows of a state as they are stored.
#[derive(Clone, Copy)]
pub struct Rows<'m>(At<'m>);

impl Memory {
    pub fn at(&self, tid: Tid) -> At<'_> {
        At { memory: self, tid }
    }

    /// Takes in what one entry did.
    ///
    /// # Panics
    /// If a change is not one step from what is there, or is one of two steps of a key at one Tid.
    pub fn absorb(&mut self, changes: &[Change]) {
        for Change { tid, key, old, new } in changes {
            assert!(old.is_some() || new.is_some(), "a change of {key:?} that changes nothing");
            assert_eq!(
                old.as_ref(),
                newest(self.rows.get(key), Tid::MAX).as_ref(),
                "{key:?} starts from what is there"
            );
            if let Some(new) = new {
                assert!(new.create == *tid && new.firm <= *tid, "{key:?} at {tid}: {new:?}");
            }
            let versions = self.rows.entry(key.clone()).or_default();
            assert!(versions.keys().all(|before| before < tid), "{key:?} changes twice at {tid}, or in the past");
            versions.insert(*tid, new.clone());
        }
    }

    /// Takes away what a sweep removes. Versions follow from the steps here, so that rows of the change index that do not fit to them
    /// would show.
    ///
    /// # Panics
    /// If something is to go that is not there, or what goes and what stays do not fit together.
    pub fn remove(&mut self, removals: &[Removal]) {
        let mut gone: Vec<(Key, Tid)> = Vec::new();
        let before = self.ended();
        for removal in removals {
            match removal {
                Removal::Ended { key, delete } => gone.push((key.clone(), *delete)),
                Removal::Live { key } => {
                    assert!(newest(self.rows.get(key), Tid::MAX).is_some(), "{key:?} is not there")
                }
                Removal::Change { tid, key } => {
                    let step = self.rows.get_mut(key).and_then(|steps| steps.remove(tid));
                    assert!(step.is_some(), "{key:?} did not change at {tid}");
                }
                Removal::Name { blob, key, create } => {
                    let named = before.iter().any(|(of, _, version)| {
                        of == key && version.create == *create && version.blob() == Some(*blob)
                    });
                    assert!(named, "{key:?} of {create} does not name {blob}");
                }
                Removal::Place { object, key, create } => {
                    let named = before.iter().any(|(of, _, version)| {
                        of == key && version.create == *create && version.record.names() == Some(*object)
                    });
                    assert!(named, "{key:?} of {create} does not name {object}");
                }
                Removal::Made { tid, key } => {
                    let step = self.rows.get_mut(key).and_then(|steps| steps.insert(*tid, None));
                    assert!(matches!(step, Some(Some(_))), "{key:?} was not made at {tid}");
                }
            }
        }
        self.rows.retain(|_, steps| !steps.is_empty());
        let left: Vec<_> =
            before.into_iter().filter(|(key, delete, _)| !gone.contains(&(key.clone(), *delete))).collect();
        assert_eq!(self.ended(), left, "the change index does not fit to the versions that stay");
    }

    /// All versions that have ended, in the order of keys, then of their ends.
    pub fn ended(&self) -> Vec<(Key, Tid, Version)> {
        let of_key = |(key, steps): (&Key, &BTreeMap<Tid, Option<Version>>)| {
            let steps: Vec<_> = steps.iter().collect();
            let ended = steps.windows(2).filter_map(|pair| Some((key.clone(), *pair[1].0, pair[0].1.clone()?)));
            ended.collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of_key).collect()
    }

    /// The change index after `after`, as a replica that lags is sent it.
    pub fn changes_after(&self, after: Tid) -> Vec<ChangeRow> {
        let rows = self.rows.iter().flat_map(|(key, versions)| versions.iter().map(move |step| (key, step)));
        let rows = rows.filter(|(_, (tid, _))| **tid > after);
        let mut rows: Vec<ChangeRow> = rows
            .map(|(key, (tid, version))| ChangeRow { tid: *tid, key: key.clone(), version: version.clone() })
            .collect();
        rows.sort_by(|a, b| (a.tid, &a.key).cmp(&(b.tid, &b.key)));
        rows
    }

    /// The live rows, as they are stored.
    pub fn live(&self) -> BTreeMap<Key, Version> {
        let newest = |(key, versions)| Some((Key::clone(key), newest(Some(versions), Tid::MAX)?));
        self.rows.iter().filter_map(newest).collect()
    }
}

fn newest(versions: Option<&BTreeMap<Tid, Option<Version>>>, at: Tid) -> Option<Version> {
    versions?.range(..=at).next_back()?.1.clone()
}

impl At<'_> {
    fn within(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &BTreeMap<Tid, Option<Version>>)> {
        let end = if range.is_empty() { &range.start } else { &range.end };
        self.memory.rows.range::<[u8], _>((Bound::Included(&*range.start), Bound::Excluded(&**end)))
    }
}

impl View for Rows<'_> {
    fn tid(&self) -> Tid {
        self.0.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(newest(self.0.memory.rows.get(key), self.0.tid))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let visible = |(key, versions)| Some((Key::clone(key), newest(Some(versions), self.0.tid)?));
        Ok(self.0.within(range).filter_map(visible).take(limit).collect())
    }
}

impl View for At<'_> {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        match self.memory.origins.get(&key.volume()) {
            None => Rows(*self).get(key),
            Some(origin) => inherit::get(&Rows(*self), key, *origin, || Box::new(self.memory.at(origin.at))),
        }
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let volume = VolumeId(u32::from_be_bytes(*range.start.first_chunk().unwrap()));
        match self.memory.origins.get(&volume) {
            None => Rows(*self).scan(range, limit),
            Some(origin) => {
                let inherited = || -> Box<dyn View + '_> { Box::new(self.memory.at(origin.at)) };
                inherit::scan(&Rows(*self), (volume, range), limit, *origin, inherited)
            }
        }
    }
}

impl Live for At<'_> {
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError> {
        Ok(self.within(range).any(|(_, versions)| versions.keys().any(|tid| *tid > after && *tid <= self.tid)))
    }
}

impl Ended for At<'_> {
    fn ended_from(
        &self,
        volume: VolumeId,
        after: Option<(&Key, Tid)>,
        limit: usize,
    ) -> Result<Vec<(Key, Tid, Version)>, ViewError> {
        let ended = self.memory.ended().into_iter().filter(|(key, ..)| key.volume() == volume);
        Ok(ended.filter(|(key, delete, _)| after.is_none_or(|after| (key, *delete) > after)).take(limit).collect())
    }

    fn last_ended(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.memory.ended().into_iter().rfind(|(of, ..)| of == key).map(|(.., version)| version))
    }

    fn ended_at(&self, key: &Key, delete: Tid) -> Result<Option<Version>, ViewError> {
        Ok(self.memory.ended().into_iter().find(|(of, at, _)| of == key && *at == delete).map(|(.., version)| version))
    }

    fn changed_beside(&self, volume: VolumeId, tid: Tid, key: &Key) -> Result<bool, ViewError> {
        let others = self.memory.rows.iter().filter(|(of, _)| of.volume() == volume && *of != key);
        Ok(others.into_iter().any(|(_, steps)| steps.contains_key(&tid)))
    }

    fn names(&self, blob: BlobId) -> Result<bool, ViewError> {
        let mut versions = self.memory.rows.values().flat_map(|steps| steps.values());
        Ok(versions.any(|version| version.as_ref().and_then(Version::blob) == Some(blob)))
    }

    fn own(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Rows(*self).get(key)
    }

    fn own_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        Rows(*self).scan(range, limit)
    }

    fn past(&self, tid: Tid) -> Box<dyn View + '_> {
        Box::new(self.memory.at(tid))
    }
}
