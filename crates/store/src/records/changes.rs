//! The change scan: what transactions after a Tid changed, in their order; and installing it on a replica that lags.

use super::rows::Indexed;
use super::{Records, RecordsError, Rows, live, past, put, rows};
use crate::engine::{Engine, Snapshot};
use gavel_types::{Domain, Key, KeyParts, KeyRange, Tid};
use gavel_wire::{Change, ChangeRow, Record, Version};
use std::collections::BTreeMap;

/// What a change row costs in a message beside its key and version, in bytes.
const ROW_OVERHEAD_BYTES: usize = 32;

/// The change index after `after`, up to and with `upto`, in the order of Tids, then keys.
pub(super) fn index<S: Snapshot>(
    snapshot: &S,
    after: Tid,
    upto: Tid,
) -> impl Iterator<Item = Result<Indexed, RecordsError>> + use<'_, S> {
    let (start, end) = rows::changes_between(after, upto);
    snapshot.range(&start, &end).map(|row| {
        let (row, value) = row?;
        rows::parse_change(&row, &value)
    })
}

/// The change index of one transaction, of the keys in `range`.
pub(super) fn index_within<'s, S: Snapshot>(
    snapshot: &'s S,
    tid: Tid,
    range: &KeyRange,
) -> impl Iterator<Item = Result<Indexed, RecordsError>> + use<'s, S> {
    let (start, end) = rows::changes_within(tid, range);
    snapshot.range(&start, &end).map(|row| {
        let (row, value) = row?;
        rows::parse_change(&row, &value)
    })
}

/// The version that the transaction made of the key; none if it deleted it.
pub(super) fn made_at<S: Snapshot>(snapshot: &S, change: &Indexed) -> Result<Option<Version>, RecordsError> {
    let Indexed { tid, key, made } = change;
    let lost = |what| Err(RecordsError::Damaged { what: format!("{key:?} (what {what} at {tid} is lost)") });
    if !made {
        let ended = snapshot.get(&rows::history(key, *tid))?;
        return if ended.is_some() { Ok(None) } else { lost("ended") };
    }
    match past::made_by(snapshot, key, *tid)? {
        Some(version) => Ok(Some(version)),
        None => lost("began"),
    }
}

impl<E: Engine> Records<E> {
    /// The changes after transaction `after`, up to and with `upto`, without the first `skip` of them: so many of the
    /// next transaction the asker has already, and a scan can go on in the middle of it. About `max_bytes` of them,
    /// one at least. True if none follows.
    ///
    /// # Errors
    /// [`RecordsError::Damaged`] and the engine's.
    pub fn changes(
        &self,
        after: Tid,
        upto: Tid,
        skip: u64,
        max_bytes: usize,
    ) -> Result<(Vec<ChangeRow>, bool), RecordsError> {
        let snapshot = self.engine.snapshot();
        let mut index = index(&snapshot, after, upto);
        for _ in 0..skip {
            match index.next() {
                Some(row) => row?,
                None => return Ok((Vec::new(), true)),
            };
        }
        let mut found = Vec::new();
        let mut bytes = 0;
        for row in index {
            if bytes >= max_bytes && !found.is_empty() {
                return Ok((found, false));
            }
            let change = row?;
            let version = made_at(&snapshot, &change)?;
            let Indexed { tid, key, .. } = change;
            bytes += key.as_bytes().len() + version.as_ref().map_or(0, payload_bytes) + ROW_OVERHEAD_BYTES;
            found.push(ChangeRow { tid, key, version });
        }
        Ok((found, true))
    }

    /// Installs rows of a change scan, in their order, in one batch. Rows that are here already are passed over, so
    /// the same rows may come again. Gives the changes that were made, for the owner's digest.
    ///
    /// # Errors
    /// [`RecordsError::Unfit`] if a row contradicts itself or what is here; the engine's. Nothing was installed then.
    pub fn install(&self, change_rows: &[ChangeRow]) -> Result<Vec<Change>, RecordsError> {
        let mut batch = self.writing.lock();
        let snapshot = self.engine.snapshot();
        let mut newest: BTreeMap<&Key, Option<Version>> = BTreeMap::new();
        let mut last = None;
        let mut made = Vec::new();
        for row in change_rows {
            let unfit = |cause| RecordsError::Unfit { key: row.key.clone(), tid: row.tid, cause };
            if last >= Some((row.tid, &row.key)) {
                return Err(unfit("the rows are not in order"));
            }
            last = Some((row.tid, &row.key));
            if snapshot.get(&rows::change(row.tid, &row.key))?.is_some() {
                continue;
            }
            let old = match newest.remove(&row.key) {
                Some(version) => version,
                None => live::get(&snapshot, &row.key)?,
            };
            check_fit(row, old.as_ref()).map_err(unfit)?;
            newest.insert(&row.key, row.version.clone());
            made.push(Change { tid: row.tid, key: row.key.clone(), old, new: row.version.clone() });
        }
        self.recent.forget();
        made.iter().for_each(|change| put(change, Rows::Any, &mut batch));
        self.write(&mut batch)?;
        Ok(made)
    }
}

fn check_fit(row: &ChangeRow, old: Option<&Version>) -> Result<(), &'static str> {
    match (&row.version, old) {
        (Some(new), _) if new.create != row.tid => Err("its version belongs to another transaction"),
        (Some(new), _) if new.firm > new.create => Err("its version changed firmly after it was made"),
        (Some(new), _) if !fits(&row.key, &new.record) => Err("its version is not of the kind that its key holds"),
        (None, None) => Err("it deletes what is not here: changes before it are missing"),
        (_, Some(old)) if old.create >= row.tid => Err("a later version is here already: changes were left out"),
        _ => Ok(()),
    }
}

/// Is `record` of the kind that the domain of `key` holds?
pub(super) fn fits(key: &Key, record: &Record) -> bool {
    let domain = match record {
        Record::Attr(_) => Domain::Attr,
        Record::Dirent(_) => Domain::Dirent,
        Record::Extent(_) => Domain::Extent,
        Record::Xattr(_) => Domain::Xattr,
        Record::Target(_) => Domain::Target,
        Record::Orphan(_) => Domain::Orphan,
        Record::Commit(_) => Domain::Commit,
        Record::Boundary(_) => Domain::Boundary,
        // In a clone, in place of any record of an object.
        Record::Gone => {
            return !matches!(key.parts(), KeyParts::Orphan { .. } | KeyParts::Commit { .. } | KeyParts::Boundary);
        }
    };
    // The byte behind volume and object; see the table of the key's format.
    key.as_bytes().get(12) == Some(&(domain as u8))
}

fn payload_bytes(version: &Version) -> usize {
    version.encode().len()
}
