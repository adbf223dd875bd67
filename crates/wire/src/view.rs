//! The one way to read records, and the recorder that turns reads into guards.

use crate::plan::Guard;
use crate::record::{Attr, Firm, Record, Version};
use gavel_types::{BlobId, Key, KeyRange, ObjectId, Tid, VolumeId};
use std::cell::RefCell;

/// Why a view could not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ViewError {
    /// A record is there but its bytes are not what was written. The replica must be repaired; nothing was changed.
    #[error("record {what} is damaged on this replica; repair it from another replica")]
    Damaged {
        /// Which, and where.
        what: String,
    },
    /// A past state is not kept for this object, though it is for others: its directory keeps less than the volume.
    #[error("what object {object} was as of {tid} is not kept: its directory keeps less history than its volume")]
    Pruned {
        /// The object.
        object: ObjectId,
        /// The state.
        tid: Tid,
    },
    /// The storage below failed.
    #[error("reading records failed: {cause}")]
    Storage {
        /// What the storage said.
        cause: String,
    },
}

/// Something that records can be read from, as of one Tid: a replica's snapshot, that with changes laid over
/// it, a past state. It does not change while it is read.
pub trait View {
    /// As of when. Everything committed up to and with this Tid is seen, and nothing after.
    fn tid(&self) -> Tid;

    /// The version of `key` that is visible.
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError>;

    /// The visible versions in `range`, in the order of keys, `limit` of them at most.
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError>;
}

impl<V: View + ?Sized> View for &V {
    fn tid(&self) -> Tid {
        (**self).tid()
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        (**self).get(key)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        (**self).scan(range, limit)
    }
}

impl<V: View + ?Sized> View for Box<V> {
    fn tid(&self) -> Tid {
        (**self).tid()
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        (**self).get(key)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        (**self).scan(range, limit)
    }
}

/// The newest state of a replica: what commits are judged against.
pub trait Live: View {
    /// Was anything in `range` written or deleted after `after`? Answered from the change index: the cost follows the
    /// number of changes since then, not the size of the range.
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError>;
}

/// The versions that have ended, and what transactions changed: what a sweep looks at.
pub trait Ended: Live {
    /// Versions of a volume's keys that have ended, in the order of keys, those of a key from the first to the last; those
    /// behind the version of `after`'s key that ended at `after`'s Tid (none: from the beginning), `limit` of them at most.
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn ended_from(
        &self,
        volume: VolumeId,
        after: Option<(&Key, Tid)>,
        limit: usize,
    ) -> Result<Vec<(Key, Tid, Version)>, ViewError>;

    /// The version of `key` that ended last.
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn last_ended(&self, key: &Key) -> Result<Option<Version>, ViewError>;

    /// The version of `key` that ended at `delete`.
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn ended_at(&self, key: &Key, delete: Tid) -> Result<Option<Version>, ViewError>;

    /// Did transaction `tid` change another record of the volume than `key`, as far as the change index knows?
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn changed_beside(&self, volume: VolumeId, tid: Tid, key: &Key) -> Result<bool, ViewError>;

    /// Does a version of any record name the blob, live or ended?
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn names(&self, blob: BlobId) -> Result<bool, ViewError>;
    /// The live version that is stored under `key` itself: as `get`, but what a clone inherits is not there, and what says that it does
    /// not inherit is.
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn own(&self, key: &Key) -> Result<Option<Version>, ViewError>;

    /// The live versions in `range` that are stored there: as `scan`, with the difference that `own` has.
    ///
    /// # Errors
    /// [`ViewError`] if the storage below is damaged or fails.
    fn own_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError>;

    /// The state as of `tid`, which is not later than this one's.
    fn past(&self, tid: Tid) -> Box<dyn View + '_>;
}

/// Reads a view on behalf of one operation and remembers what the operation came to depend on.
///
/// Every read that decides what the operation does must go through here: what is not recorded is not guarded.
pub struct Recorder<'v> {
    view: &'v dyn View,
    guards: RefCell<Vec<Guard>>,
}

impl<'v> Recorder<'v> {
    /// Records reads of `view`.
    pub fn new(view: &'v dyn View) -> Recorder<'v> {
        Recorder { view, guards: RefCell::new(Vec::new()) }
    }

    /// As of when the view is.
    pub fn tid(&self) -> Tid {
        self.view.tid()
    }

    /// The view, for reads that nothing depends on (such as filling in a reply).
    pub fn unguarded(&self) -> &'v dyn View {
        self.view
    }

    /// The guards so far, without repetitions.
    pub fn into_guards(self) -> Vec<Guard> {
        self.guards.into_inner()
    }

    fn record(&self, guard: Guard) {
        let mut guards = self.guards.borrow_mut();
        if !guards.contains(&guard) {
            guards.push(guard);
        }
    }

    /// Reads a record; depends on just this version, or on its absence.
    ///
    /// # Errors
    /// As the view's.
    pub fn get(&self, key: &Key) -> Result<Option<Record>, ViewError> {
        let found = self.view.get(key)?;
        self.record(match &found {
            Some(_) => Guard::Unchanged { key: key.clone(), at: self.tid() },
            None => Guard::Empty { range: KeyRange::one(key) },
        });
        Ok(found.map(|version| version.record))
    }

    /// Reads the attributes of an object; depends on all of them, counters and times too.
    ///
    /// # Errors
    /// As the view's.
    pub fn attr(&self, volume: VolumeId, object: ObjectId) -> Result<Option<Attr>, ViewError> {
        Ok(self.get(&Key::attr(volume, object))?.and_then(as_attr))
    }

    /// Reads the firm half of an object's attributes; does not depend on counters and times.
    ///
    /// # Errors
    /// As the view's.
    pub fn firm(&self, volume: VolumeId, object: ObjectId) -> Result<Option<Firm>, ViewError> {
        let key = Key::attr(volume, object);
        let found = self.view.get(&key)?;
        self.record(match &found {
            Some(_) => Guard::Firm { key, at: self.tid() },
            None => Guard::Empty { range: KeyRange::one(&key) },
        });
        Ok(found.and_then(|version| as_attr(version.record)).map(|attr| attr.firm))
    }

    /// Is nothing in the range? Depends on its emptiness; if something is there, on the first version found.
    ///
    /// # Errors
    /// As the view's.
    pub fn is_empty(&self, range: &KeyRange) -> Result<bool, ViewError> {
        let first = self.view.scan(range, 1)?.into_iter().next();
        let empty = first.is_none();
        self.record(match first {
            None => Guard::Empty { range: range.clone() },
            Some((key, _)) => Guard::Unchanged { key, at: self.tid() },
        });
        Ok(empty)
    }

    /// Lists a range; depends on nothing in it (as far as it was read) being written, added or removed.
    ///
    /// # Errors
    /// As the view's.
    pub fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Record)>, ViewError> {
        let found = self.view.scan(range, limit)?;
        let seen = match found.last() {
            Some((last, _)) if found.len() == limit => {
                KeyRange { start: range.start.clone(), end: KeyRange::one(last).end }
            }
            _ => range.clone(),
        };
        self.record(Guard::Stable { range: seen, at: self.tid() });
        Ok(found.into_iter().map(|(key, version)| (key, version.record)).collect())
    }
}

fn as_attr(record: Record) -> Option<Attr> {
    match record {
        Record::Attr(attr) => Some(attr),
        _ => None,
    }
}
