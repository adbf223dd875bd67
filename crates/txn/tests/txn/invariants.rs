//! What must hold after each entry: the invariants of the crate.

use super::memory::Memory;
use gavel_txn::{Digest, Stage, State, VolumeCounts};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Attr, Record, View};
use std::collections::BTreeMap;

#[derive(Default)]
struct Object {
    attr: Option<Attr>,
    bytes: u64,
    behind: u64,
    records: u64,
    /// The holders, if it is an orphan.
    mark: Option<usize>,
}

/// # Panics
/// If an invariant does not hold.
pub fn check(state: &State, memory: &Memory) {
    state.check_invariants();
    let mut digest = Digest::default();
    for row in memory.changes_after(Tid::ZERO) {
        assert!(row.tid <= state.tid, "{:?} changed in the future", row.key);
        digest.add(row.tid, &row.key, row.version.as_ref());
    }
    assert_eq!(digest, state.records, "the digest is that of all changes");
    let objects = gather(state, memory);
    let whole = |volume: &VolumeId| {
        let past = state.past.of(*volume).unwrap();
        !past.is_being_counted() && matches!(past.stage, Stage::Living | Stage::Destroyed { .. })
    };
    let known: BTreeMap<VolumeId, VolumeCounts> =
        state.volumes.iter().filter(|(volume, _)| whole(volume)).map(|(volume, counts)| (*volume, *counts)).collect();
    let mut counts: BTreeMap<VolumeId, VolumeCounts> = known.keys().map(|v| (*v, Default::default())).collect();
    for ((volume, id), object) in &objects {
        let Some(counts) = counts.get_mut(volume) else { continue };
        counts.bytes += object.bytes;
        counts.objects += u64::from(object.attr.is_some());
        // What was staged and abandoned loses its attributes before its bytes.
        if object.attr.is_some() || !state.staged.holds(*volume, *id) {
            check_object(*id, object);
        }
    }
    assert_eq!(counts, known);
}

fn check_object(id: ObjectId, object: &Object) {
    match (&object.attr, object.mark) {
        (Some(attr), mark) => {
            assert_eq!(attr.allocated, object.bytes, "invariant 5: allocated bytes of {id}");
            assert_eq!(attr.nlink == 0, mark.is_some(), "invariant 6: {id} has names, or is an orphan");
            assert!(attr.firm.birth.nanos < 1_000_000_000 && attr.mtime.nanos < 1_000_000_000);
        }
        (None, Some(holders)) => assert_eq!(holders, 0, "{id} is held, and has no attributes"),
        (None, None) => assert_eq!(object.bytes, 0, "{id} has bytes, but no attributes"),
    }
}

fn gather(state: &State, memory: &Memory) -> BTreeMap<(VolumeId, ObjectId), Object> {
    let mut objects: BTreeMap<(VolumeId, ObjectId), Object> = BTreeMap::new();
    for (key, version) in memory.live() {
        let stored_in = state.past.of(key.volume());
        let past = stored_in.unwrap_or_else(|| panic!("records in volume {}, which is none", key.volume()));
        assert!(!version.is_gone() || past.origin.is_some(), "{key:?} says that nothing is inherited, in no clone");
    }
    let view = memory.at(state.tid);
    let rows = |volume: &VolumeId| view.scan(&KeyRange::volume(*volume), usize::MAX).unwrap();
    let mut all = state.volumes.keys().filter(|volume| state.past.of(**volume).unwrap().stage != Stage::Going);
    for (key, version) in all.by_ref().flat_map(rows) {
        assert!(version.firm <= version.create && version.create <= state.tid, "{key:?}: {version:?}");
        let id = match key.parts() {
            KeyParts::Orphan { object } => object,
            KeyParts::Commit { tid } => {
                assert!(tid == version.create && matches!(version.record, Record::Commit(_)), "{key:?}: {version:?}");
                continue;
            }
            KeyParts::Boundary => continue,
            _ => key.object(),
        };
        assert_ne!(id, ObjectId::VOLUME, "{key:?}");
        let object = objects.entry((key.volume(), id)).or_default();
        object.records += 1;
        take(object, state, &key, &version.record);
    }
    objects
}

fn take(object: &mut Object, state: &State, key: &Key, record: &Record) {
    match (key.parts(), record) {
        (KeyParts::Attr, Record::Attr(attr)) => object.attr = Some(*attr),
        (KeyParts::Extent { end }, Record::Extent(extent)) => {
            let start = end.checked_sub(extent.len).unwrap_or_else(|| panic!("{key:?} starts before the file"));
            assert!(extent.len > 0 && start >= object.behind, "invariant 5: {key:?} overlaps");
            object.behind = end;
            object.bytes += extent.len;
        }
        (KeyParts::Orphan { .. }, Record::Orphan(orphan)) => {
            for holder in &orphan.holders {
                assert!(state.sessions.contains_key(holder), "{key:?} is held by {holder}, which has ended");
            }
            object.mark = Some(orphan.holders.len());
        }
        (KeyParts::Dirent { .. }, Record::Dirent(_))
        | (KeyParts::Xattr { .. }, Record::Xattr(_))
        | (KeyParts::Target, Record::Target(_)) => {}
        other => panic!("{key:?} holds {other:?}"),
    }
}
