//! Changes that are laid over any view, and taken off again: what a node has answered and the log does not have yet.
//!
//! As [`crate::Overlay`], but it outlives its base, is copied at no cost, and forgets key by key.

use crate::overlay::scan_over;
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Change, Version, View, ViewError};
use imbl::OrdMap;
use std::ops::Bound;

#[derive(Clone, Debug)]
struct Laid {
    version: Option<Version>,
    /// Which transaction laid it.
    number: u64,
}

/// The newest version that some transactions left of each key that they touched. Transactions are numbered upwards by their owner.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    laid: OrdMap<Key, Laid>,
    /// Objects that one of the transactions made which are laid, and which one: all of such an object is here, and nothing of it has to be looked for in
    /// the base. What the base has of it, once it has the transaction, is here too until that is lifted.
    made: OrdMap<(VolumeId, ObjectId), u64>,
}

impl Layer {
    /// Lays the changes of transaction `number` over what is there: it is the newest that has touched these keys.
    pub fn lay(&mut self, number: u64, changes: Vec<Change>) {
        for change in changes {
            self.laid.insert(change.key, Laid { version: change.new, number });
        }
    }

    /// Transaction `number`, which was laid last, made the object: no record of it was in the base or laid before.
    pub fn made(&mut self, number: u64, volume: VolumeId, object: ObjectId) {
        self.made.insert((volume, object), number);
    }

    /// Is all of the object here, because a transaction that is laid has made it?
    pub fn has_all(&self, volume: VolumeId, object: ObjectId) -> bool {
        !self.made.is_empty() && self.made.contains_key(&(volume, object))
    }

    /// The transactions up to and with `number` are in the base now: of these keys, what is not newer is taken off.
    pub fn lift<'k>(&mut self, number: u64, keys: impl IntoIterator<Item = &'k Key>) {
        for key in keys {
            if self.laid.get(key).is_some_and(|laid| laid.number <= number) {
                self.laid.remove(key);
            }
            let object = (key.volume(), key.object());
            if self.made.get(&object).is_some_and(|made| *made <= number) {
                self.made.remove(&object);
            }
        }
    }

    /// Is nothing laid?
    pub fn is_empty(&self) -> bool {
        self.laid.is_empty() && self.made.is_empty()
    }

    /// Is anything laid in the range?
    pub fn touches(&self, range: &KeyRange) -> bool {
        self.within(range).next().is_some()
    }

    /// What is laid for a key, if anything: a version, or that there is none.
    pub fn get(&self, key: &Key) -> Option<Option<&Version>> {
        Some(self.laid.get(key)?.version.as_ref())
    }

    /// Which transaction laid what is laid for a key, if anything is.
    pub fn laid_by(&self, key: &Key) -> Option<u64> {
        self.laid.get(key).map(|laid| laid.number)
    }

    /// What is laid for the keys in the range, in their order.
    pub fn laid<'l>(&'l self, range: &KeyRange) -> impl Iterator<Item = (&'l Key, Option<&'l Version>)> + use<'l> {
        self.within(range).map(|(key, laid)| (key, laid.version.as_ref()))
    }

    fn within<'l>(&'l self, range: &KeyRange) -> impl Iterator<Item = (&'l Key, &'l Laid)> + use<'l> {
        let end = if range.is_empty() { &range.start } else { &range.end };
        self.laid.range::<_, [u8]>((Bound::Included(&*range.start), Bound::Excluded(&**end)))
    }
}

/// A view with a layer over it.
#[derive(Clone, Debug)]
pub struct Layered<V> {
    base: V,
    layer: Layer,
}

impl<V: View> Layered<V> {
    /// `layer` over `base`: the two must have been taken at one moment, so that each of the layer's transactions which the base holds is
    /// older than all of them that it does not hold.
    pub fn new(base: V, layer: Layer) -> Layered<V> {
        Layered { base, layer }
    }
}

impl<V: View> View for Layered<V> {
    fn tid(&self) -> Tid {
        self.base.tid()
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        match self.layer.laid.get(key) {
            Some(laid) => Ok(laid.version.clone()),
            None if self.layer.has_all(key.volume(), key.object()) => Ok(None),
            None => self.base.get(key),
        }
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let own = self.layer.within(range).filter_map(|(key, laid)| Some((key, laid.version.as_ref()?)));
        let has_all = |(volume, object)| self.layer.has_all(volume, object);
        if !self.layer.made.is_empty() && range.of_object().is_some_and(has_all) {
            return Ok(own.take(limit).map(|(key, version)| (key.clone(), version.clone())).collect());
        }
        if !self.layer.touches(range) {
            return self.base.scan(range, limit);
        }
        scan_over(&self.base, range, limit, |key, _| !self.layer.laid.contains_key(key), own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_wire::Record;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    const V: VolumeId = VolumeId(1);
    const MADE: ObjectId = ObjectId(7);

    /// Counts what it is asked.
    #[derive(Default)]
    struct Base {
        rows: BTreeMap<Key, Version>,
        asked: Cell<u32>,
    }

    impl View for Base {
        fn tid(&self) -> Tid {
            Tid(1)
        }

        fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
            self.asked.set(self.asked.get() + 1);
            Ok(self.rows.get(key).cloned())
        }

        fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
            self.asked.set(self.asked.get() + 1);
            let rows = self.rows.iter().filter(|(key, _)| range.contains(key)).take(limit);
            Ok(rows.map(|(key, version)| (key.clone(), version.clone())).collect())
        }
    }

    fn version(value: u8) -> Version {
        Version { create: Tid(1), firm: Tid(1), record: Record::Xattr([value].into()) }
    }

    fn change(name: &[u8], value: u8) -> Change {
        Change { tid: Tid(1), key: Key::xattr(V, MADE, name), old: None, new: Some(version(value)) }
    }

    #[test]
    fn of_what_was_made_the_base_is_asked_when_it_has_landed_and_not_before() {
        let (mut layer, mut base) = (Layer::default(), Base::default());
        let (first, second) = (change(b"a", 1), change(b"b", 2));
        let all = KeyRange::object(V, MADE);
        layer.lay(1, vec![first.clone()]);
        layer.made(1, V, MADE);
        layer.lay(2, vec![second.clone()]);
        let shown = |base: &Base, layer: &Layer| {
            let view = Layered::new(base, layer.clone());
            let rows = view.scan(&all, 10).unwrap();
            let got = [&first, &second].map(|change| view.get(&change.key).unwrap());
            assert!(rows.iter().map(|(_, version)| version).eq(got.iter().flatten()), "a scan shows other rows");
            assert_eq!(view.get(&Key::attr(V, MADE)), Ok(None));
            got
        };
        let both = [Some(version(1)), Some(version(2))];
        assert_eq!((shown(&base, &layer), base.asked.get()), (both.clone(), 0));
        let elsewhere = Key::attr(V, ObjectId(8));
        assert_eq!(Layered::new(&base, layer.clone()).get(&elsewhere), Ok(None));
        assert_eq!(base.asked.get(), 1, "of another object");

        // The first one lands; others may write there from now on.
        base.rows.insert(first.key.clone(), version(1));
        assert_eq!(shown(&base, &layer), both, "it is in both for a moment");
        layer.lift(1, [&first.key]);
        base.rows.insert(first.key.clone(), version(3));
        assert_eq!(shown(&base, &layer), [Some(version(3)), Some(version(2))]);
        layer.lift(2, [&second.key]);
        assert!(layer.is_empty());
        assert_eq!(shown(&base, &layer), [Some(version(3)), None]);
    }
}
