//! What a clone shows: its own rows, and behind them what its origin shows as of the clone's beginning.
//!
//! `docs/protocols/volumes.md`, "Clones", has the whole of it. Here is how two views become one; which volumes are clones, and how an
//! origin is read, the caller knows.

use crate::record::{Record, Version};
use crate::view::{View, ViewError};
use gavel_types::volume::Origin;
use gavel_types::{Key, KeyRange, ObjectId, VolumeId};

/// Rows read at a time, at most.
const PAGE_MAX: usize = 1024;

impl Version {
    /// Does it say that nothing is there?
    pub fn is_gone(&self) -> bool {
        matches!(self.record, Record::Gone)
    }
}

/// What a clone shows at `key`. `own` is a view of its own rows as they are, `inherited` one of the origin as of the clone's beginning.
///
/// # Errors
/// As the views'.
pub fn get<'v, V: View + ?Sized>(
    own: &V,
    key: &Key,
    origin: Origin,
    inherited: impl FnOnce() -> Box<dyn View + 'v>,
) -> Result<Option<Version>, ViewError> {
    match own.get(key)? {
        Some(version) => Ok(Some(version).filter(|version| !version.is_gone())),
        None if key.object() == ObjectId::VOLUME => Ok(None),
        None => inherited().get(&key.in_volume(origin.volume)),
    }
}

/// What a clone shows in `range`, which lies within `volume`: the clone. The rest as [`get`].
///
/// # Errors
/// As the views'.
pub fn scan<'v, V: View + ?Sized>(
    own: &V,
    (volume, range): (VolumeId, &KeyRange),
    limit: usize,
    origin: Origin,
    inherited: impl FnOnce() -> Box<dyn View + 'v>,
) -> Result<Vec<(Key, Version)>, ViewError> {
    let of_objects = range.within(&KeyRange::of_objects(volume));
    if of_objects.is_empty() {
        return own.scan(range, limit);
    }
    let theirs = of_objects.in_volume(volume, origin.volume);
    let mut own = Pages::new(own, range.clone(), limit);
    let mut theirs = Pages::new(inherited(), theirs, limit);
    let mut found = Vec::new();
    while found.len() < limit {
        let their_key = theirs.peek()?.map(|(key, _)| key.in_volume(volume));
        let own_key = own.peek()?.map(|(key, _)| key);
        let (take_own, skip_theirs) = match (own_key, &their_key) {
            (None, None) => break,
            (Some(_), None) => (true, false),
            (None, Some(_)) => (false, true),
            (Some(own), Some(theirs)) => (own <= theirs, own >= theirs),
        };
        let inherited = if skip_theirs { theirs.next() } else { None };
        if take_own {
            found.extend(own.next().filter(|(_, version)| !version.is_gone()));
        } else if let (Some(key), Some((_, version))) = (their_key, inherited) {
            found.push((key, version));
        }
    }
    Ok(found)
}

/// The rows of a range, read some at a time: no further than is needed.
pub struct Pages<V> {
    view: V,
    range: KeyRange,
    page_len: usize,
    page: std::vec::IntoIter<(Key, Version)>,
    is_last: bool,
}

impl<V: View> Pages<V> {
    /// The rows of `range` in `view`; about `limit` of them will be needed.
    pub fn new(view: V, range: KeyRange, limit: usize) -> Pages<V> {
        Pages { view, range, page_len: limit.clamp(1, PAGE_MAX), page: Vec::new().into_iter(), is_last: false }
    }

    /// The next row, which stays the next one.
    ///
    /// # Errors
    /// As the view's.
    pub fn peek(&mut self) -> Result<Option<&(Key, Version)>, ViewError> {
        if self.page.as_slice().is_empty() && !self.is_last {
            let page = self.view.scan(&self.range, self.page_len)?;
            self.is_last = page.len() < self.page_len;
            if let Some((last, _)) = page.last() {
                self.range.start = KeyRange::one(last).end;
            }
            self.page_len = (self.page_len * 2).min(PAGE_MAX);
            self.page = page.into_iter();
        }
        Ok(self.page.as_slice().first())
    }
}

/// The rows that were looked at: ends where [`Pages::peek`] has not looked yet.
impl<V> Iterator for Pages<V> {
    type Item = (Key, Version);

    fn next(&mut self) -> Option<(Key, Version)> {
        self.page.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Content, Extent};
    use gavel_types::Tid;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const CLONE: VolumeId = VolumeId(7);
    const ORIGIN: Origin = Origin { volume: VolumeId(3), at: Tid(9) };

    #[derive(Clone)]
    struct Rows(BTreeMap<Key, Version>);

    impl View for Rows {
        fn tid(&self) -> Tid {
            Tid(9)
        }

        fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
            let within = self.0.iter().filter(|(key, _)| range.contains(key));
            Ok(within.take(limit).map(|(key, version)| (key.clone(), version.clone())).collect())
        }
    }

    fn version(record: Record) -> Version {
        Version { create: Tid(1), firm: Tid(1), record }
    }

    fn bytes(len: u64) -> Version {
        version(Record::Extent(Extent { len, content: Content::Zeros }))
    }

    proptest! {
        #[test]
        fn a_clone_shows_its_own_rows_and_behind_them_those_of_its_origin(
            own in prop::collection::btree_map((0u64..4, 1u64..12), 0u8..3, 0..24),
            theirs in prop::collection::btree_set((0u64..4, 1u64..12), 0..24),
            (first, last) in (0u64..4, 0u64..4),
            limit in 0usize..20,
        ) {
            let key = |volume, (object, end): (u64, u64)| Key::extent(volume, ObjectId(object), end);
            // Of an object that is none, nothing is inherited, and so nothing is said to be gone.
            let is_sound = |(place, what): &((u64, u64), u8)| place.0 > 0 || *what > 0;
            let own: BTreeMap<(u64, u64), u8> = own.into_iter().filter(is_sound).collect();
            let record = |what: u8| if what == 0 { version(Record::Gone) } else { bytes(1) };
            let rows = Rows(own.iter().map(|(place, what)| (key(CLONE, *place), record(*what))).collect());
            let origin = Rows(theirs.iter().map(|place| (key(ORIGIN.volume, *place), bytes(2))).collect());
            let mut shown: BTreeMap<Key, Version> =
                theirs.iter().filter(|place| place.0 > 0).map(|place| (key(CLONE, *place), bytes(2))).collect();
            for (place, what) in &own {
                match what {
                    0 => drop(shown.remove(&key(CLONE, *place))),
                    _ => drop(shown.insert(key(CLONE, *place), bytes(1))),
                }
            }
            let inherited = || -> Box<dyn View> { Box::new(origin.clone()) };
            let range = KeyRange::objects(CLONE, ObjectId(first), ObjectId(last));
            let found = scan(&rows, (CLONE, &range), limit, ORIGIN, inherited).unwrap();
            let wanted = shown.iter().filter(|(key, _)| range.contains(key)).take(limit);
            prop_assert_eq!(found, wanted.map(|(key, version)| (key.clone(), version.clone())).collect::<Vec<_>>());
            for place in own.keys().chain(&theirs) {
                let key = key(CLONE, *place);
                prop_assert_eq!(get(&rows, &key, ORIGIN, inherited).unwrap(), shown.get(&key).cloned());
            }
        }
    }
}
