//! One step of a sweep: looks at some versions that have ended, and says which rows go.
//!
//! A step reads the records as they are before its entry. What the entry's other items change has later Tids, and no row
//! of theirs is one that a step touches.

use crate::digest::Digest;
use crate::prune::{Readable, Span, implied};
use gavel_types::{Key, KeyRange, Tid, VolumeId};
use gavel_wire::{Ended, Removal, Version, ViewError};
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
    },
    /// Who made which commit, from this one on.
    Commits {
        /// The next one to look at.
        from: Tid,
    },
}

impl Pass {
    /// Before everything.
    pub const BEGIN: Pass = Pass::Versions { after: None };
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
    readable: Readable<'_>,
    pass: &Pass,
    (volume, rows): (VolumeId, u32),
    base: &dyn Ended,
    digest: &mut Digest,
) -> Result<Step, ViewError> {
    let rows = rows as usize;
    match pass {
        Pass::Versions { after } => {
            versions(readable, after.as_ref(), (volume, rows.clamp(1, SWEEP_ROWS_MAX)), base, digest)
        }
        Pass::Commits { from } => commits(readable, *from, (volume, rows.clamp(1, SWEEP_COMMITS_MAX)), base, digest),
    }
}

fn versions(
    readable: Readable<'_>,
    after: Option<&(Key, Tid)>,
    (volume, rows_max): (VolumeId, usize),
    base: &dyn Ended,
    digest: &mut Digest,
) -> Result<Step, ViewError> {
    let after = after.map(|(key, tid)| (key, *tid));
    let mut rows = base.ended_from(volume, after, rows_max + 1)?;
    // The one beyond is only looked at as what follows the last.
    let beyond = if rows.len() > rows_max { rows.pop() } else { None };
    let mut removals = Vec::new();
    for of_key in rows.chunk_by(|a, b| a.0 == b.0) {
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
            _ => base.get(key)?.map(|version| Span { create: version.create, delete: None }),
        };
        let neighbours = (before, behind.filter(|behind| behind.create == last.1));
        sweep_key(readable, key, of_key, neighbours, digest, &mut removals);
    }
    let next = match (beyond, rows.pop()) {
        (Some(_), Some((key, delete, _))) => Pass::Versions { after: Some((key, delete)) },
        _ => Pass::Commits { from: Tid::ZERO },
    };
    Ok(Step { next: Some(next), removals })
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
    removals.extend(gone.map(|(_, delete, _)| Removal::Ended { key: key.clone(), delete: *delete }));
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
    use gavel_types::ObjectId;
    use gavel_wire::{Live, Orphan, Record, View};
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

        fn ended_at(&self, key: &Key, delete: Tid) -> Result<Option<Version>, ViewError> {
            Ok(self.ended.get(&(key.clone(), delete)).cloned())
        }

        fn changed_beside(&self, _: VolumeId, _: Tid, _: &Key) -> Result<bool, ViewError> {
            Ok(true)
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
                    let step = versions(readable, after.as_ref(), (V, rows_max), &store, &mut digest).unwrap();
                    store.remove(step.removals);
                    prop_assert_eq!(&store.changes, &store.implied());
                    prop_assert_eq!(digest, store.digest());
                    match step.next {
                        Some(Pass::Versions { after: next }) => after = next,
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
}
