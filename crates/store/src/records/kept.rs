//! A past state, in volumes of which some objects keep less than others: what is not kept is refused, never shown as absent.
//!
//! Nothing of an object changes without its attributes, and a sweep takes these before anything else of it. So where the attributes
//! that a state showed are there, everything of the object is (`docs/protocols/history.md`, "Directories that keep less").

use super::{Inheriting, PastView, Records};
use crate::engine::Engine;
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Version, View, ViewError};

/// The state as of a Tid, as far as it is kept.
#[derive(Clone, Debug)]
pub struct KeptView<V> {
    view: V,
    /// Volumes that may lack objects as of then.
    less: Vec<VolumeId>,
}

impl<E: Engine> Records<E> {
    /// The state as of `tid`, which is not later than the last transaction that was applied. What is not kept of it is [`ViewError::Pruned`].
    pub fn kept_at(&self, tid: Tid) -> KeptView<Inheriting<PastView<E::Snapshot>, E::Snapshot>> {
        // In this order: what goes is announced before it goes.
        let view = self.at(tid);
        KeptView::new(view, self.whole.read().keeping_less(tid))
    }
}

impl<V: View> KeptView<V> {
    pub(super) fn new(view: V, less: Vec<VolumeId>) -> KeptView<V> {
        KeptView { view, less }
    }

    /// Is what the view has of this object all that there was?
    fn check(&self, volume: VolumeId, object: ObjectId) -> Result<(), ViewError> {
        if object == ObjectId::VOLUME || !self.less.contains(&volume) {
            return Ok(());
        }
        match self.view.get(&Key::attr(volume, object))? {
            Some(_) => Ok(()),
            None => Err(ViewError::Pruned { object, tid: self.view.tid() }),
        }
    }
}

impl<V: View> View for KeptView<V> {
    fn tid(&self) -> Tid {
        self.view.tid()
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.check(key.volume(), key.object())?;
        self.view.get(key)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        if let Some((volume, object)) = range.of_object() {
            self.check(volume, object)?;
        }
        self.view.scan(range, limit)
    }
}
