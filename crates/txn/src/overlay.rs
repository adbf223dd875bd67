//! A view with changes laid over it.

use gavel_types::{Key, KeyRange, Tid};
use gavel_wire::{Change, Live, Version, View, ViewError};
use std::collections::BTreeMap;
use std::ops::Bound;

/// What the overlay knows of a key.
#[derive(Clone, Debug)]
struct Laid {
    /// The version below the whole overlay.
    version: Option<Version>,
    /// The last transaction that touched it.
    tid: Tid,
}

/// A live view with the changes of some transactions laid over it. Reads see them.
pub struct Overlay<'v> {
    base: &'v dyn Live,
    tid: Tid,
    laid: BTreeMap<Key, Laid>,
}

impl<'v> Overlay<'v> {
    /// Nothing over `base` yet.
    pub fn new(base: &'v dyn Live) -> Overlay<'v> {
        Overlay { base, tid: base.tid(), laid: BTreeMap::new() }
    }

    /// Lays the changes of one transaction over what is there.
    pub fn lay(&mut self, tid: Tid, changes: &[Change]) {
        for change in changes {
            self.laid.insert(change.key.clone(), Laid { version: change.new.clone(), tid });
        }
        self.tid = tid;
    }

    fn laid_in(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &Laid)> {
        let end = if range.is_empty() { &range.start } else { &range.end };
        self.laid.range::<[u8], _>((Bound::Included(&*range.start), Bound::Excluded(&**end)))
    }
}

impl View for Overlay<'_> {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        match self.laid.get(key) {
            Some(laid) => Ok(laid.version.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        // Each hidden version of the base can cost one row of the answer: ask for so many more.
        let hidden = self.laid_in(range).filter(|(_, laid)| laid.version.is_none()).count();
        let base = self.base.scan(range, limit.saturating_add(hidden))?;
        let mut merged: BTreeMap<Key, Version> = base.into_iter().collect();
        for (key, laid) in self.laid_in(range) {
            match &laid.version {
                Some(version) => drop(merged.insert(key.clone(), version.clone())),
                None => drop(merged.remove(key)),
            }
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

impl Live for Overlay<'_> {
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError> {
        Ok(self.laid_in(range).any(|(_, laid)| laid.tid > after) || self.base.changed_after(range, after)?)
    }
}
