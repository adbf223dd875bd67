//! Transactions that were written in parts: what was staged is told as done by the commit that adopted it.
//!
//! The records of objects that a large transaction made have create Tids from before its commit. No name led to them then. The commit says which
//! transactions staged what it adopted.

use crate::transaction::author;
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Past, Record, Version, ViewError};

/// How long behind a stage, in nanoseconds, the commit that adopted it is looked for: staging takes seconds, or minutes on slow disks.
pub const ADOPTED_WITHIN: u64 = 3600 * 1_000_000_000;
/// Most commits that are looked at to find it.
pub const COMMITS_LOOKED_AT_MAX: usize = 65_536;
/// Commits read in one step.
const PAGE: usize = 1024;

/// The transactions that staged what `tid` adopted.
///
/// # Errors
/// As the view's.
pub fn stages(past: &dyn Past, volume: VolumeId, tid: Tid) -> Result<Vec<Tid>, ViewError> {
    Ok(author(past, volume, tid)?.map(|committed| committed.staged).unwrap_or_default())
}

/// The commit that adopted what `tid` staged; none if it was no stage, or nothing adopted it.
///
/// # Errors
/// As the view's.
pub fn adopter(past: &dyn Past, volume: VolumeId, tid: Tid) -> Result<Option<Tid>, ViewError> {
    if author(past, volume, tid)?.is_some() {
        return Ok(None);
    }
    let view = past.at(past.tid());
    let mut range = KeyRange::commits(volume, tid, Tid(tid.0.saturating_add(ADOPTED_WITHIN)).min(past.tid()));
    for _ in 0..COMMITS_LOOKED_AT_MAX / PAGE {
        let page = view.scan(&range, PAGE)?;
        for (key, version) in &page {
            if let (KeyParts::Commit { tid: commit }, Record::Commit(committed)) = (key.parts(), &version.record)
                && committed.staged.binary_search(&tid).is_ok()
            {
                return Ok(Some(commit));
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => range.start = KeyRange::one(last).end,
            _ => break,
        }
    }
    Ok(None)
}

/// The attributes of an object just before `tid`, if a name could lead to it then: not if `tid` adopted it.
///
/// # Errors
/// As the view's.
pub fn attr_before(
    past: &dyn Past,
    volume: VolumeId,
    object: ObjectId,
    tid: Tid,
) -> Result<Option<Version>, ViewError> {
    let found = past.at(crate::names::before(tid)).get(&Key::attr(volume, object))?;
    match found {
        Some(version) if stages(past, volume, tid)?.binary_search(&version.create).is_err() => Ok(Some(version)),
        _ => Ok(None),
    }
}
