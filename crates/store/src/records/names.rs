//! Which versions name a blob: "is it named?" is one look at the rows of its name.
//!
//! The rows follow from the versions: they come and go in the same batches.

use super::{Records, RecordsError, live, past, rows};
use crate::engine::{Engine, Snapshot};
use gavel_types::{BlobId, Key, ObjectId, Tid, VolumeId};
use gavel_wire::past::Lived;

/// Versions that name a blob, of which it is looked whether a state shows one.
const NAMES_LOOKED_AT_MAX: usize = 64;

/// Does a version name the blob, live or ended?
pub(super) fn is_named<S: Snapshot>(snapshot: &S, blob: BlobId) -> Result<bool, RecordsError> {
    let (start, end) = rows::names_of(blob);
    Ok(snapshot.range(&start, &end).next().transpose()?.is_some())
}

/// Does the version of `key` that `create` made name the blob?
pub(super) fn names<S: Snapshot>(snapshot: &S, blob: BlobId, key: &Key, create: Tid) -> Result<bool, RecordsError> {
    Ok(past::made_by(snapshot, key, create)?.is_some_and(|version| version.blob() == Some(blob)))
}

impl<E: Engine> Records<E> {
    /// Does a version name the blob, live or ended?
    ///
    /// # Errors
    /// The engine's.
    pub fn is_named(&self, blob: BlobId) -> Result<bool, RecordsError> {
        is_named(&self.engine.snapshot(), blob)
    }

    /// How many versions name the blob, up to `most`.
    ///
    /// # Errors
    /// The engine's.
    pub fn names(&self, blob: BlobId, most: usize) -> Result<usize, RecordsError> {
        let snapshot = self.engine.snapshot();
        let (start, end) = rows::names_of(blob);
        let mut found = 0;
        for row in snapshot.range(&start, &end).take(most) {
            row?;
            found += 1;
        }
        Ok(found)
    }

    /// The records of which some version names the blob, one after the other, those of several versions more than once; `each` ends it with `false`.
    ///
    /// # Errors
    /// [`RecordsError::Damaged`], the engine's.
    pub fn each_name_of(&self, blob: BlobId, mut each: impl FnMut(&Key) -> bool) -> Result<(), RecordsError> {
        let snapshot = self.engine.snapshot();
        let (start, end) = rows::names_of(blob);
        for row in snapshot.range(&start, &end) {
            if !each(&rows::parse_name(&row?.0)?.1) {
                break;
            }
        }
        Ok(())
    }

    /// Does a record of the volume name the blob, as of a state? Only some of those that name it are looked at: if it is named often, the answer may be no.
    ///
    /// # Errors
    /// [`RecordsError::Damaged`], the engine's.
    pub fn is_named_at(&self, blob: BlobId, volume: VolumeId, tid: Tid) -> Result<bool, RecordsError> {
        Ok(!self.objects_naming_at(blob, volume, tid, 1)?.is_empty())
    }

    /// Objects of the volume that name the blob, as of a state, `most` of them at most. Only some of the versions that name it are looked at: if it is named
    /// often, the answer may lack some.
    ///
    /// # Errors
    /// [`RecordsError::Damaged`], the engine's.
    pub fn objects_naming_at(
        &self,
        blob: BlobId,
        volume: VolumeId,
        tid: Tid,
        most: usize,
    ) -> Result<Vec<ObjectId>, RecordsError> {
        self.objects_naming(blob, volume, (tid, tid), |objects| objects.len() < most)
    }

    /// Does a record of an object before `before` name the blob, which was so as of a state, and is as of a later one, in one version? As
    /// [`Records::is_named_at`], the answer may be no.
    ///
    /// # Errors
    /// [`RecordsError::Damaged`], the engine's.
    pub fn is_named_throughout(
        &self,
        blob: BlobId,
        volume: VolumeId,
        states: (Tid, Tid),
        before: ObjectId,
    ) -> Result<bool, RecordsError> {
        let is_it = |object: &ObjectId| *object < before;
        let objects = self.objects_naming(blob, volume, states, |objects| !objects.iter().any(is_it))?;
        Ok(objects.iter().any(is_it))
    }

    /// Objects of which a version that names the blob was there from the first state to the second; as long as `goes_on` says so of those that were found.
    fn objects_naming(
        &self,
        blob: BlobId,
        volume: VolumeId,
        (from, to): (Tid, Tid),
        goes_on: impl Fn(&[ObjectId]) -> bool,
    ) -> Result<Vec<ObjectId>, RecordsError> {
        let snapshot = self.engine.snapshot();
        let mut objects = Vec::new();
        let (start, end) = rows::names_of(blob);
        for row in snapshot.range(&start, &end).take(NAMES_LOOKED_AT_MAX) {
            let (_, key, create) = rows::parse_name(&row?.0)?;
            if key.volume() != volume || create > from {
                continue;
            }
            let lives = live::get(&snapshot, &key)?.is_some_and(|version| version.create == create);
            if lives || past::ended_after(&snapshot, &key, to)?.is_some_and(|(_, version)| version.create == create) {
                objects.push(key.object());
                if !goes_on(&objects) {
                    break;
                }
            }
        }
        Ok(objects)
    }

    /// Every version that names a blob, in the order of blobs, then of keys; `each` ends it with `false`. Reads as it goes, from one state.
    ///
    /// # Errors
    /// [`RecordsError::Damaged`], the engine's.
    pub fn each_name(&self, mut each: impl FnMut(BlobId, Lived) -> bool) -> Result<(), RecordsError> {
        let snapshot = self.engine.snapshot();
        let (start, end) = rows::table(rows::BLOB);
        for row in snapshot.range(&start, &end) {
            let (blob, key, create) = rows::parse_name(&row?.0)?;
            let lived = match live::get(&snapshot, &key)?.filter(|version| version.create == create) {
                Some(version) => Lived { key, version, delete: None },
                None => match past::ended_after(&snapshot, &key, create)? {
                    Some((delete, version)) => Lived { key, version, delete: Some(delete) },
                    None => return Err(RecordsError::Damaged { what: format!("{key:?} of {create} (it is lost)") }),
                },
            };
            if !each(blob, lived) {
                break;
            }
        }
        Ok(())
    }
}
