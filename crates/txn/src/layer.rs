//! Changes that are laid over any view, and taken off again: what a node has answered and the log does not have yet.
//!
//! As [`crate::Overlay`], but it outlives its base, is copied at no cost, and forgets key by key.

use crate::overlay::scan_over;
use gavel_types::{Key, KeyRange, Tid};
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
}

impl Layer {
    /// Lays the changes of transaction `number`, the newest, over what is there.
    pub fn lay(&mut self, number: u64, changes: Vec<Change>) {
        for change in changes {
            self.laid.insert(change.key, Laid { version: change.new, number });
        }
    }

    /// The transactions up to and with `number` are in the base now: of these keys, what is not newer is taken off.
    pub fn lift<'k>(&mut self, number: u64, keys: impl IntoIterator<Item = &'k Key>) {
        for key in keys {
            if self.laid.get(key).is_some_and(|laid| laid.number <= number) {
                self.laid.remove(key);
            }
        }
    }

    /// Is nothing laid?
    pub fn is_empty(&self) -> bool {
        self.laid.is_empty()
    }

    /// Is anything laid in the range?
    pub fn touches(&self, range: &KeyRange) -> bool {
        self.within(range).next().is_some()
    }

    /// What is laid for a key, if anything: a version, or that there is none.
    pub fn get(&self, key: &Key) -> Option<Option<&Version>> {
        Some(self.laid.get(key)?.version.as_ref())
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
            None => self.base.get(key),
        }
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        if !self.layer.touches(range) {
            return self.base.scan(range, limit);
        }
        let own = self.layer.within(range).filter_map(|(key, laid)| Some((key, laid.version.as_ref()?)));
        scan_over(&self.base, range, limit, |key, _| !self.layer.laid.contains_key(key), own)
    }
}
