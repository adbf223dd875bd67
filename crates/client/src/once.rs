//! A view that is asked once for each record. An operation is evaluated, its plan applied and its answer filled in, one after the other on one view, and each asks
//! for the same few attributes and names; a look-up in a replica costs more than all else about it.

use gavel_types::{Key, KeyRange, Tid};
use gavel_wire::{Version, View, ViewError};
use std::cell::RefCell;

/// So many records are remembered: an operation asks for fewer, unless it walks somewhere.
const REMEMBERED_MAX: usize = 16;

/// See the module's documentation.
pub(crate) struct Once<'v> {
    view: &'v dyn View,
    found: RefCell<Vec<(Key, Option<Version>)>>,
}

impl<'v> Once<'v> {
    /// Asks `view`.
    pub(crate) fn new(view: &'v dyn View) -> Once<'v> {
        Once { view, found: RefCell::default() }
    }
}

impl View for Once<'_> {
    fn tid(&self) -> Tid {
        self.view.tid()
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        if let Some((_, version)) = self.found.borrow().iter().find(|(found, _)| found == key) {
            return Ok(version.clone());
        }
        let version = self.view.get(key)?;
        let mut found = self.found.borrow_mut();
        if found.len() < REMEMBERED_MAX {
            found.push((key.clone(), version.clone()));
        }
        Ok(version)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        self.view.scan(range, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::{ObjectId, VolumeId};
    use std::cell::Cell;

    /// Counts how often it is asked.
    #[derive(Default)]
    struct Counting(Cell<usize>);

    impl View for Counting {
        fn tid(&self) -> Tid {
            Tid(7)
        }

        fn get(&self, _: &Key) -> Result<Option<Version>, ViewError> {
            self.0.set(self.0.get() + 1);
            Ok(None)
        }

        fn scan(&self, _: &KeyRange, _: usize) -> Result<Vec<(Key, Version)>, ViewError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn each_record_is_asked_for_once() {
        let view = Counting::default();
        let once = Once::new(&view);
        for _ in 0..3 {
            for object in 0..REMEMBERED_MAX as u64 {
                assert_eq!(once.get(&Key::attr(VolumeId(1), ObjectId(object))), Ok(None));
            }
        }
        assert_eq!(view.0.get(), REMEMBERED_MAX);
        (0..2).for_each(|_| drop(once.get(&Key::attr(VolumeId(1), ObjectId(99)))));
        assert_eq!(view.0.get(), REMEMBERED_MAX + 2, "there is an end to what is remembered");
    }
}
