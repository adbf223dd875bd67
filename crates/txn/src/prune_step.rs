//! One step of a sweep: looks at some versions that have ended, and says which rows go.
//!
//! A step reads the records as they are before its entry. What the entry's other items change has later Tids, and no row
//! of theirs is one that a step touches.

use crate::digest::Digest;
use crate::prune::{Keeping, Readable, Span, implied};
use crate::volume_step;
use gavel_types::{Class, Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Ended, Record, Removal, Version, ViewError};
use serde::{Deserialize, Serialize};

/// Most versions that one step looks at. It holds up whatever else is applied: 512 of them, nearly all removed, took 9 ms each on the
/// LSM (two cores with five times as much to do; `crates/server/tests/pruning.rs`, `measure`).
pub const SWEEP_ROWS_MAX: usize = 256;
/// Most commits that one step looks at: each is a look into the change index.
pub const SWEEP_COMMITS_MAX: usize = 128;

/// Where a sweep has come to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Pass {
    /// The versions that have ended, behind this one: a key, and when the version ended.
    Versions {
        /// The last one that was looked at.
        after: Option<(Key, Tid)>,
        /// What the class of its object was when the sweep came to it; none if none of its attributes were left. It holds for all of its rows.
        class: Option<Class>,
    },
    /// Who made which commit, from this one on.
    Commits {
        /// The next one to look at.
        from: Tid,
    },
    /// The live rows of a volume that goes, behind this one.
    Live {
        /// The last one that was removed.
        after: Option<Key>,
    },
    /// What a clone begins with is being counted, from this object on.
    Count {
        /// The next one to count.
        from: ObjectId,
    },
}

impl Pass {
    /// Before everything.
    pub const BEGIN: Pass = Pass::Versions { after: None, class: None };
    /// Before the first object.
    pub const COUNT: Pass = Pass::Count { from: ObjectId::VOLUME };
}

/// What one step came to.
pub(crate) struct Step {
    /// Where it goes on; none if the sweep is done.
    pub(crate) next: Option<Pass>,
    /// What goes.
    pub(crate) removals: Vec<Removal>,
}

type EndedVersion = (Key, Tid, Version);

/// Looks at the next `rows` of `volume`, within bounds. What goes is taken from `digest`.
pub(crate) fn step(
    keeping: Keeping<'_>,
    pass: &Pass,
    (volume, rows): (VolumeId, u32),
    base: &dyn Ended,
    digest: &mut Digest,
) -> Result<Step, ViewError> {
    let rows = rows as usize;
    match pass {
        Pass::Versions { after, class } => {
            versions(&keeping, (after.as_ref(), *class), (volume, rows.clamp(1, SWEEP_ROWS_MAX)), base, digest)
        }
        Pass::Commits { from } => {
            commits(keeping.volume, *from, (volume, rows.clamp(1, SWEEP_COMMITS_MAX)), base, digest)
        }
        Pass::Live { after } => {
            let rows = rows.clamp(1, SWEEP_ROWS_MAX);
            let (last, removals) = volume_step::remove_live(after.as_ref(), (volume, rows), base, digest)?;
            Ok(Step { next: last.map(|key| Pass::Live { after: Some(key) }), removals })
        }
        // Removes nothing: whoever applies the entry counts.
        Pass::Count { .. } => Ok(Step { next: None, removals: Vec::new() }),
    }
}

fn versions(
    keeping: &Keeping<'_>,
    (after, class): (Option<&(Key, Tid)>, Option<Class>),
    (volume, rows_max): (VolumeId, usize),
    base: &dyn Ended,
    digest: &mut Digest,
) -> Result<Step, ViewError> {
    let after = after.map(|(key, tid)| (key, *tid));
    let mut rows = base.ended_from(volume, after, rows_max + 1)?;
    // The one beyond is only looked at as what follows the last.
    let beyond = if rows.len() > rows_max { rows.pop() } else { None };
    let mut removals = Vec::new();
    let mut at = (after.map(|(key, _)| key.object()), class);
    for of_key in rows.chunk_by(|a, b| a.0 == b.0) {
        let object = of_key[0].0.object();
        if at.0 != Some(object) {
            at = (Some(object), class_of(base, keeping, volume, object)?);
        }
        let readable = at.1.map_or(Readable::NONE, |class| keeping.of(class));
        if of_key.iter().all(|row| readable.shows(span(row))) {
            continue;
        }
        let (key, first, last) = (&of_key[0].0, &of_key[0], &of_key[of_key.len() - 1]);
        let before = match after {
            Some((at, _)) if at == key => base.ended_at(key, first.2.create)?.map(|version| version.create),
            _ => None,
        };
        let before = before.map(|create| Span { create, delete: Some(first.2.create) });
        let behind = match &beyond {
            Some(beyond) if beyond.0 == *key => Some(span(beyond)),
            _ => base.own(key)?.map(|version| Span { create: version.create, delete: None }),
        };
        let neighbours = (before, behind.filter(|behind| behind.create == last.1));
        sweep_key(readable, key, of_key, neighbours, digest, &mut removals);
    }
    let next = match (beyond, rows.pop()) {
        (Some(_), Some((key, delete, _))) => Pass::Versions { after: Some((key, delete)), class: at.1 },
        _ => Pass::Commits { from: Tid::ZERO },
    };
    Ok(Step { next: Some(next), removals })
}

/// Which states show an object of a volume. If none of its attributes are left, none does.
///
/// # Errors
/// As the view's.
pub fn readable_of<'k>(
    base: &dyn Ended,
    keeping: &Keeping<'k>,
    volume: VolumeId,
    object: ObjectId,
) -> Result<Readable<'k>, ViewError> {
    Ok(class_of(base, keeping, volume, object)?.map_or(Readable::NONE, |class| keeping.of(class)))
}

/// The class of an object: that of its live attributes, or of the last ones that ended; none if none are left.
fn class_of(
    base: &dyn Ended,
    keeping: &Keeping<'_>,
    volume: VolumeId,
    object: ObjectId,
) -> Result<Option<Class>, ViewError> {
    if keeping.classes.is_empty() || object == ObjectId::VOLUME {
        return Ok(Some(Class::VOLUME));
    }
    let key = Key::attr(volume, object);
    let newest = match base.get(&key)? {
        Some(live) => Some(live),
        None => base.last_ended(&key)?,
    };
    Ok(newest.and_then(|version| match version.record {
        Record::Attr(attr) => Some(attr.firm.class),
        _ => None,
    }))
}

fn span((_, delete, version): &EndedVersion) -> Span {
    Span { create: version.create, delete: Some(*delete) }
}

/// Some versions of one key, in a row. The neighbours (those that end where the first begins, and begin where the last
/// ends) stay as they are: the one before has been looked at, the one behind will be.
fn sweep_key(
    readable: Readable<'_>,
    key: &Key,
    versions: &[EndedVersion],
    (before, behind): (Option<Span>, Option<Span>),
    digest: &mut Digest,
    removals: &mut Vec<Removal>,
) {
    let with_neighbours = |inner: &mut dyn Iterator<Item = Span>| -> Vec<Span> {
        before.into_iter().chain(inner).chain(behind).collect()
    };
    let there = implied(&with_neighbours(&mut versions.iter().map(span)));
    let stays = implied(&with_neighbours(&mut versions.iter().map(span).filter(|span| readable.shows(*span))));
    let gone = versions.iter().filter(|row| !readable.shows(span(row)));
    for (_, delete, version) in gone {
        removals.push(Removal::Ended { key: key.clone(), delete: *delete });
        removals.extend(named(key, version));
    }
    for (tid, made) in there {
        let still = stays.get(&tid).copied();
        if still == Some(made) {
            continue;
        }
        let version = versions.iter().find(|(.., version)| made && version.create == tid).map(|(.., version)| version);
        digest.subtract(tid, key, version);
        removals.push(match still {
            Some(_) => {
                digest.add(tid, key, None);
                Removal::Made { tid, key: key.clone() }
            }
            None => Removal::Change { tid, key: key.clone() },
        });
    }
}

/// What says that a version names a blob or an object, if it does: it goes with the version.
pub(crate) fn named(key: &Key, version: &Version) -> Option<Removal> {
    let create = version.create;
    let of_object = || version.record.names().map(|object| Removal::Place { object, key: key.clone(), create });
    version.blob().map(|blob| Removal::Name { blob, key: key.clone(), create }).or_else(of_object)
}

fn commits(
    readable: Readable<'_>,
    from: Tid,
    (volume, rows_max): (VolumeId, usize),
    base: &dyn Ended,
    digest: &mut Digest,
) -> Result<Step, ViewError> {
    let bound = |tid| Key::commit(volume, tid).as_bytes().into();
    let range = KeyRange { start: bound(from), end: bound(readable.horizon.max(from)) };
    let page = base.scan(&range, rows_max)?;
    let mut removals = Vec::new();
    for (key, version) in &page {
        let tid = version.create;
        if !base.changed_beside(volume, tid, key)? {
            digest.subtract(tid, key, Some(version));
            removals.push(Removal::Live { key: key.clone() });
            removals.push(Removal::Change { tid, key: key.clone() });
        }
    }
    let more = page.len() == rows_max;
    let next = page.last().filter(|_| more).map(|(_, version)| Pass::Commits { from: Tid(version.create.0 + 1) });
    Ok(Step { next, removals })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::Timestamp;
    use gavel_types::{BlobId, ObjectId};
    use gavel_wire::{Attr, Firm, Kind, Live, Orphan, View};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const V: VolumeId = VolumeId(1);

    /// Rows as a store has them.
    #[derive(Clone, Default)]
    struct Store {
        live: BTreeMap<Key, Version>,
        ended: BTreeMap<(Key, Tid), Version>,
        changes: BTreeMap<(Tid, Key), bool>,
    }

    impl View for Store {
        fn tid(&self) -> Tid {
            Tid::MAX
        }

        fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
            Ok(self.live.get(key).cloned())
        }

        fn scan(&self, _: &KeyRange, _: usize) -> Result<Vec<(Key, Version)>, ViewError> {
            Ok(Vec::new())
        }
    }

    impl Live for Store {
        fn changed_after(&self, _: &KeyRange, _: Tid) -> Result<bool, ViewError> {
            Ok(true)
        }
    }

    impl Ended for Store {
        fn ended_from(
            &self,
            _: VolumeId,
            after: Option<(&Key, Tid)>,
            limit: usize,
        ) -> Result<Vec<EndedVersion>, ViewError> {
            let rows = self.ended.iter().filter(|((key, tid), _)| after.is_none_or(|after| (key, *tid) > after));
            Ok(rows.take(limit).map(|((key, tid), version)| (key.clone(), *tid, version.clone())).collect())
        }

        fn last_ended(&self, key: &Key) -> Result<Option<Version>, ViewError> {
            Ok(self.ended.iter().rfind(|((of, _), _)| of == key).map(|(_, version)| version.clone()))
        }

        fn ended_at(&self, key: &Key, delete: Tid) -> Result<Option<Version>, ViewError> {
            Ok(self.ended.get(&(key.clone(), delete)).cloned())
        }

        fn changed_beside(&self, _: VolumeId, _: Tid, _: &Key) -> Result<bool, ViewError> {
            Ok(true)
        }

        fn names(&self, blob: BlobId) -> Result<bool, ViewError> {
            let versions = self.live.values().chain(self.ended.values());
            Ok(versions.into_iter().any(|version| version.blob() == Some(blob)))
        }

        fn own(&self, key: &Key) -> Result<Option<Version>, ViewError> {
            self.get(key)
        }

        fn own_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
            self.scan(range, limit)
        }

        fn past(&self, _: Tid) -> Box<dyn View + '_> {
            Box::new(self)
        }
    }

    fn version(create: Tid) -> Version {
        Version { create, firm: create, record: Record::Orphan(Orphan { holders: Vec::new() }) }
    }

    impl Store {
        /// One version from each Tid to the next; the last one lives or not.
        fn add(&mut self, key: &Key, bounds: &BTreeSet<u64>, lives: bool) {
            let bounds: Vec<Tid> = bounds.iter().copied().map(Tid).collect();
            for pair in bounds.windows(2) {
                self.ended.insert((key.clone(), pair[1]), version(pair[0]));
            }
            if let Some(last) = bounds.last().filter(|_| lives) {
                self.live.insert(key.clone(), version(*last));
            }
            self.changes = self.implied();
        }

        fn implied(&self) -> BTreeMap<(Tid, Key), bool> {
            let keys: BTreeSet<&Key> = self.live.keys().chain(self.ended.keys().map(|(key, _)| key)).collect();
            let of_key = |key: &Key| {
                let ended = self.ended.iter().filter(|((of, _), _)| of == key);
                let mut spans: Vec<Span> =
                    ended.map(|((_, tid), version)| Span { create: version.create, delete: Some(*tid) }).collect();
                spans.extend(self.live.get(key).map(|version| Span { create: version.create, delete: None }));
                implied(&spans).into_iter().map(|(tid, made)| ((tid, key.clone()), made)).collect::<Vec<_>>()
            };
            keys.into_iter().flat_map(of_key).collect()
        }

        fn digest(&self) -> Digest {
            let mut digest = Digest::default();
            for ((tid, key), made) in &self.changes {
                digest.add(*tid, key, made.then(|| version(*tid)).as_ref());
            }
            digest
        }

        fn remove(&mut self, removals: Vec<Removal>) {
            for removal in removals {
                let was_there = match removal {
                    Removal::Ended { key, delete } => self.ended.remove(&(key, delete)).is_some(),
                    Removal::Live { key } => self.live.remove(&key).is_some(),
                    Removal::Change { tid, key } => self.changes.remove(&(tid, key)).is_some(),
                    Removal::Made { tid, key } => self.changes.insert((tid, key), false) == Some(true),
                    Removal::Name { .. } | Removal::Place { .. } => unreachable!("nothing here names anything"),
                };
                assert!(was_there);
            }
        }

        /// What is visible of a key, at each of some Tids.
        fn seen(&self, key: &Key, at: Tid) -> Option<Tid> {
            let ended = self.ended.iter().filter(|((of, delete), _)| of == key && *delete > at);
            let all = ended.map(|(_, version)| version).chain(self.live.get(key));
            all.map(|version| version.create).find(|create| *create <= at)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Behind each step, however many versions it looks at, the change index is what the versions imply; in the end what
        /// a readable state shows is there, and nothing else.
        #[test]
        fn each_step_leaves_rows_that_fit(
            keys in prop::collection::vec((prop::collection::btree_set(1u64..60, 1..16), any::<bool>()), 1..4),
            prunes in prop::collection::vec((0u64..60, prop::collection::btree_set(0u64..60, 0..4)), 1..3),
            rows_max in 1usize..5,
        ) {
            let mut store = Store::default();
            let key = |number| Key::attr(V, ObjectId(number as u64 + 10));
            for (number, (bounds, lives)) in keys.iter().enumerate() {
                store.add(&key(number), bounds, *lives || bounds.len() == 1);
            }
            let mut digest = store.digest();
            let (mut horizon, mut readable_before): (u64, BTreeSet<u64>) = (0, (0..61).collect());
            for (ahead, kept) in prunes {
                horizon = horizon.max(ahead);
                let kept: Vec<Tid> =
                    kept.iter().filter(|at| **at < horizon && readable_before.contains(at)).copied().map(Tid).collect();
                let readable = Readable { horizon: Tid(horizon), kept: &kept };
                readable_before.retain(|at| readable.has(Tid(*at)));
                let before = store.clone();
                let mut after = None;
                loop {
                    let keeping = Keeping { volume: readable, classes: BTreeMap::new() };
                    let at = (after.as_ref(), Some(Class::VOLUME));
                    let step = versions(&keeping, at, (V, rows_max), &store, &mut digest).unwrap();
                    store.remove(step.removals);
                    prop_assert_eq!(&store.changes, &store.implied());
                    prop_assert_eq!(digest, store.digest());
                    match step.next {
                        Some(Pass::Versions { after: next, .. }) => after = next,
                        _ => break,
                    }
                }
                for number in 0..keys.len() {
                    for at in &readable_before {
                        prop_assert_eq!(store.seen(&key(number), Tid(*at)), before.seen(&key(number), Tid(*at)), "{}", at);
                    }
                }
                let shown = |((_, delete), version): (&(Key, Tid), &Version)| {
                    readable.shows(Span { create: version.create, delete: Some(*delete) })
                };
                prop_assert!(store.ended.iter().all(shown));
            }
        }
    }

    /// The attributes of an object, of this class.
    fn attr(create: Tid, class: Class) -> Version {
        let time = Timestamp::of_tid(create);
        let (kind, parent) = (Kind::File, ObjectId::VOLUME);
        let firm = Firm { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, parent, birth: time, class };
        let attr = Attr { firm, nlink: 1, size: 0, allocated: 0, atime: time, mtime: time, ctime: time };
        Version { create, firm: create, record: Record::Attr(attr) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Of an object that keeps less, a state shows all or nothing, wherever its sweep has come to and whatever becomes of its class; and it
        /// shows what its class keeps.
        #[test]
        fn an_object_that_keeps_less_is_there_as_a_whole_or_not(
            bounds in prop::collection::btree_set(1u64..60, 2..20),
            of_others in prop::collection::vec(prop::collection::vec(any::<bool>(), 20), 1..4),
            lives in any::<bool>(),
            horizons in (0u64..40, 0u64..30),
            kept in prop::collection::btree_set(0u64..60, 0..4),
            rows_max in 1usize..8,
            flips in prop::collection::vec(any::<bool>(), 40),
        ) {
            let (object, less) = (ObjectId(9), Class(1));
            let key = Key::attr(V, object);
            let mut store = Store::default();
            store.add(&key, &bounds, lives);
            // Nothing else of it changes without its attributes.
            for (number, changes) in of_others.iter().enumerate() {
                let changed = bounds.iter().zip(changes).filter(|(_, changes)| **changes);
                let bounds = changed.map(|(tid, _)| *tid).collect();
                store.add(&Key::extent(V, object, number as u64 + 1), &bounds, false);
            }
            let of_attr = store.ended.iter_mut().filter(|((of, _), _)| *of == key);
            of_attr.for_each(|(_, version)| *version = attr(version.create, less));
            store.live.values_mut().for_each(|version| *version = attr(version.create, less));
            let kept: Vec<Tid> = kept.into_iter().filter(|at| *at < horizons.0).map(Tid).collect();
            let readable = Readable { horizon: Tid(horizons.0 + horizons.1), kept: &kept };
            let volume = Readable { horizon: Tid(horizons.0), kept: &kept };
            let keeping = Keeping { volume, classes: [(less, readable)].into() };
            let (before, mut digest) = (store.clone(), store.digest());
            let others = |store: &Store, at| -> Vec<Option<Tid>> {
                let others = (1..=of_others.len() as u64).map(|end| Key::extent(V, object, end));
                others.map(|key| store.seen(&key, at)).collect()
            };
            let (mut pass, mut flips) = (Some(Pass::BEGIN), flips.into_iter());
            while let Some(Pass::Versions { after, class }) = pass {
                let step = versions(&keeping, (after.as_ref(), class), (V, rows_max), &store, &mut digest).unwrap();
                store.remove(step.removals);
                pass = step.next;
                // Somebody gives it another class.
                if flips.next() == Some(true) {
                    let flip = |version: &mut Version| if let Record::Attr(attr) = &mut version.record {
                        attr.firm.class = if attr.firm.class == less { Class::VOLUME } else { less };
                    };
                    store.live.values_mut().for_each(flip);
                    digest = store.digest();
                }
                prop_assert_eq!(&store.changes, &store.implied());
                for at in (0..61).map(Tid) {
                    match (store.seen(&key, at), before.seen(&key, at)) {
                        (Some(_), _) => prop_assert_eq!(others(&store, at), others(&before, at), "{}", at),
                        (None, Some(_)) => prop_assert!(!readable.has(at), "{}", at),
                        (None, None) => {}
                    }
                }
            }
        }
    }
}
