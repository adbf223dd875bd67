//! Which names objects have: from an object to the directories that it is in, without a search.
//!
//! The rows follow from the versions of names: they come and go in the same batches. A row says that a version gives the object this name; whether a state
//! shows that version, the state says.

use super::{RecordsError, past, rows};
use crate::engine::Snapshot;
use gavel_types::{Key, ObjectId, Tid, VolumeId};

/// Does the version of `key` that `create` made name the object?
pub(super) fn is_place<S: Snapshot>(
    snapshot: &S,
    object: ObjectId,
    key: &Key,
    create: Tid,
) -> Result<bool, RecordsError> {
    Ok(past::made_by(snapshot, key, create)?.is_some_and(|version| version.record.names() == Some(object)))
}

/// The keys of the names that versions give an object, live or ended, each once, in the order of keys.
pub(super) fn of<S: Snapshot>(
    snapshot: &S,
    volume: VolumeId,
    object: ObjectId,
) -> impl Iterator<Item = Result<Key, RecordsError>> + use<'_, S> {
    let (start, end) = rows::places_of(volume, object);
    let mut last: Option<Key> = None;
    snapshot.range(&start, &end).filter_map(move |row| {
        let parsed = row.map_err(RecordsError::from).and_then(|(row, _)| rows::parse_place(&row));
        match parsed {
            Ok((_, key, _)) if last.as_ref() == Some(&key) => None,
            Ok((_, key, _)) => {
                last = Some(key.clone());
                Some(Ok(key))
            }
            Err(error) => Some(Err(error)),
        }
    })
}
