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
        match self.whole.read().keeping_less(tid) {
            less if less.is_empty() => KeptView::new(self.remembering(view), less),
            // What is remembered may have gone.
            less => KeptView::new(view, less),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MemEngine;
    use crate::records::{Identity, Whole, WholeFrom};
    use gavel_types::{ClusterId, NodeId};
    use gavel_wire::{Change, Record, Removal};

    const V: VolumeId = VolumeId(1);
    const O: ObjectId = ObjectId(20);

    #[test]
    fn what_is_remembered_is_not_shown_when_it_has_gone() {
        let identity = Identity { cluster: ClusterId([1; 16]), node: NodeId(1) };
        let records = Records::open(MemEngine::new(), identity).unwrap().0;
        let version = |tid| Version { create: Tid(tid), firm: Tid(tid), record: Record::Xattr(Box::new([tid as u8])) };
        let (attr, bytes) = (Key::attr(V, O), Key::extent(V, O, 8));
        let change = |tid, key: &Key, old: Option<Version>, new: u64| {
            let new = Some(version(new));
            Change { tid: Tid(tid), key: key.clone(), old, new }
        };
        let changes = [
            change(10, &attr, None, 10),
            change(10, &bytes, None, 10),
            change(20, &attr, Some(version(10)), 20),
            change(20, &bytes, Some(version(10)), 20),
        ];
        records.apply(&changes, &[]).unwrap();
        let then = records.kept_at(Tid(15));
        assert_eq!(then.get(&attr), Ok(Some(version(10))));
        assert_eq!(then.scan(&KeyRange::object(V, O), 9).unwrap(), [(attr.clone(), version(10)), (bytes, version(10))]);

        let from = |horizon| WholeFrom { horizon: Tid(horizon), kept: Box::new([]) };
        records.set_whole([(V, Whole { volume: from(1), classes: vec![from(18)] })].into_iter());
        records.apply(&[], &[Removal::Ended { key: attr.clone(), delete: Tid(20) }]).unwrap();
        let pruned = ViewError::Pruned { object: O, tid: Tid(15) };
        assert_eq!(records.kept_at(Tid(15)).get(&attr), Err(pruned.clone()));
        assert_eq!(records.kept_at(Tid(15)).scan(&KeyRange::object(V, O), 9), Err(pruned));
        assert_eq!(records.at(Tid(15)).get(&attr), Ok(None));
    }
}
