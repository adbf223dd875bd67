//! What transactions do to the rows of clones.
//!
//! Plans are expanded over what views show. In a clone that is not what is stored: some of it is inherited, and of some it is stored that nothing
//! is inherited. Here what a transaction has come to is turned into what becomes of the rows.

use crate::overlay::Overlay;
use crate::past::Past;
use gavel_types::{Key, ObjectId, Origin, Tid, VolumeId};
use gavel_wire::{Change, Ended, Record, Version, ViewError};

/// The records that a transaction finds.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    /// As they were before the entry.
    pub(crate) base: &'a dyn Ended,
    /// With what the entry has done so far.
    pub(crate) view: &'a Overlay<'a>,
    pub(crate) past: &'a Past,
}

impl Found<'_> {
    fn origin(&self, key: &Key) -> Option<Origin> {
        let volume: VolumeId = key.volume();
        self.past.of(volume).and_then(|past| past.origin).filter(|_| key.object() != ObjectId::VOLUME)
    }

    /// The changes of one transaction, as they are stored.
    pub(crate) fn stored(self, changes: Vec<Change>) -> Result<Vec<Change>, ViewError> {
        if self.past.origins().next().is_none() {
            return Ok(changes);
        }
        let stored = changes.into_iter().map(|change| match self.origin(&change.key) {
            Some(origin) => self.stored_in_clone(change, origin),
            None => Ok(Some(change)),
        });
        stored.filter_map(Result::transpose).collect()
    }

    fn stored_in_clone(&self, change: Change, origin: Origin) -> Result<Option<Change>, ViewError> {
        let Change { tid, key, new, .. } = change;
        let old = match self.view.laid(&key) {
            Some(laid) => laid.cloned(),
            None => self.base.own(&key)?,
        };
        let new = match new {
            Some(new) => Some(new),
            None => self.inherits(&key, origin)?.then(|| gone(tid)),
        };
        Ok((old.is_some() || new.is_some()).then_some(Change { tid, key, old, new }))
    }

    /// Nothing is written to a clone in the entry that makes it, so its origin is in the base.
    fn inherits(&self, key: &Key, origin: Origin) -> Result<bool, ViewError> {
        Ok(self.base.past(origin.at).get(&key.in_volume(origin.volume))?.is_some())
    }
}

fn gone(tid: Tid) -> Version {
    Version { create: tid, firm: tid, record: Record::Gone }
}
