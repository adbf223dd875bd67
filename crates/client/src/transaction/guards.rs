//! What a transaction depends on, as guards about its start: few and small.
//!
//! Everything that an operation reads it reads of the base with the transaction's own changes over it. A guard is judged against the base, so
//! each is turned into one about that:
//!
//! | read of the two together | of the base at the start |
//! |---|---|
//! | anything of an object that the transaction made | nothing: nobody else knows its id |
//! | a version that only the transaction made | nothing: what its making read is recorded |
//! | a version that the base has (whatever the transaction has made of it since) | unchanged |
//! | no record, and the base has none | empty |
//! | no record, and the base has one (which the transaction ended) | that one is unchanged |
//! | nothing in a range, nor in the base | empty |
//! | nothing in a range of which the base has something, or a list of a range | the object's attributes are unchanged |
//!
//! The last line, and what [`Guards`] leaves out, rest on one invariant of the operations: nothing of an object changes without its attributes (a
//! name of a directory changes the directory's). So who depends on all of an object's attributes depends on its names, extents and extended
//! attributes, too, with one guard that is looked up instead of one that reads the change index.

use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Guard, View, ViewError};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// What a guard weighs beside its keys, in bytes: a Tid, and what tells guards apart.
const GUARD_BYTES: usize = 14;
/// Bytes of the key of attributes.
const ATTR_KEY_BYTES: usize = 13;

/// How much of an object's attributes is depended on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Depends {
    Firm,
    Whole,
}

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guards {
    volume: VolumeId,
    attrs: BTreeMap<ObjectId, Depends>,
    /// Single records, and whether the base has them.
    keys: BTreeMap<Key, bool>,
    /// Ranges of one object each in which the base has nothing.
    empty: BTreeSet<KeyRange>,
    bytes: usize,
}

impl Guards {
    /// Nothing was read yet.
    pub fn new(volume: VolumeId) -> Guards {
        Guards { volume, attrs: BTreeMap::new(), keys: BTreeMap::new(), empty: BTreeSet::new(), bytes: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.attrs.len() + self.keys.len() + self.empty.len()
    }

    /// Was nothing read?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that they take in a request, no fewer than they do.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// An operation read `guard` of the base with the transaction's changes over it. `made` are the objects that the transaction made. False if that was depended
    /// on already.
    ///
    /// # Errors
    /// As the view's.
    pub fn add(&mut self, guard: &Guard, base: &dyn View, made: &BTreeSet<ObjectId>) -> Result<bool, ViewError> {
        match guard {
            Guard::Firm { key, .. } => self.add_firm(key, base, made),
            Guard::Unchanged { key, .. } => {
                Ok(!made.contains(&owner(key)) && base.get(key)?.is_some() && self.add_key(key, true))
            }
            Guard::Empty { range } => match Key::from_bytes(&range.start) {
                Ok(key) if *range == KeyRange::one(&key) => {
                    Ok(!made.contains(&owner(&key)) && self.add_key(&key, base.get(&key)?.is_some()))
                }
                _ => self.add_range(range, base.scan(range, 1)?.is_empty(), base, made),
            },
            Guard::Stable { range, .. } => self.add_range(range, false, base, made),
        }
    }

    fn add_firm(&mut self, key: &Key, base: &dyn View, made: &BTreeSet<ObjectId>) -> Result<bool, ViewError> {
        let object = key.object();
        if made.contains(&object) || self.attrs.contains_key(&object) || base.get(key)?.is_none() {
            return Ok(false);
        }
        self.attrs.insert(object, Depends::Firm);
        self.bytes += ATTR_KEY_BYTES + GUARD_BYTES;
        Ok(true)
    }

    fn add_key(&mut self, key: &Key, there: bool) -> bool {
        match key.parts() {
            KeyParts::Attr if there => return self.add_whole(key.object()),
            KeyParts::Attr | KeyParts::Orphan { .. } => {}
            _ if self.attrs.get(&key.object()) == Some(&Depends::Whole) => return false,
            _ => {}
        }
        let known = self.keys.insert(key.clone(), there);
        if known.is_none() {
            self.bytes += key_bytes(key);
        }
        known != Some(there)
    }

    fn add_range(
        &mut self,
        range: &KeyRange,
        empty: bool,
        base: &dyn View,
        made: &BTreeSet<ObjectId>,
    ) -> Result<bool, ViewError> {
        let object = object_of(range).expect("an operation lists what is filed under one object");
        let attr = Key::attr(self.volume, object);
        if made.contains(&object) || self.attrs.get(&object) == Some(&Depends::Whole) {
            return Ok(false);
        }
        Ok(match (empty, base.get(&attr)?) {
            (false, Some(_)) => self.add_whole(object),
            (false, None) => self.add_key(&attr, false),
            (true, _) => self.add_empty(range.clone()),
        })
    }

    fn add_empty(&mut self, range: KeyRange) -> bool {
        let bytes = range_bytes(&range);
        let new = self.empty.insert(range);
        if new {
            self.bytes += bytes;
        }
        new
    }

    /// Depends on all of an object's attributes, and so on all that is filed under it.
    fn add_whole(&mut self, object: ObjectId) -> bool {
        match self.attrs.insert(object, Depends::Whole) {
            Some(Depends::Whole) => return false,
            Some(Depends::Firm) => {}
            None => self.bytes += ATTR_KEY_BYTES + GUARD_BYTES,
        }
        let all = KeyRange::object(self.volume, object);
        let bounds = (Bound::Included(&*all.start), Bound::Excluded(&*all.end));
        let keys: Vec<Key> = self.keys.range::<[u8], _>(bounds).map(|(key, _)| key.clone()).collect();
        for key in keys.iter().filter(|key| !matches!(key.parts(), KeyParts::Attr | KeyParts::Orphan { .. })) {
            self.keys.remove(key);
            self.bytes -= key_bytes(key);
        }
        let within: Vec<KeyRange> = self.empty.iter().filter(|range| all.overlaps(range)).cloned().collect();
        for range in within {
            self.empty.remove(&range);
            self.bytes -= range_bytes(&range);
        }
        true
    }

    /// What [`Guards::to_guards`] told.
    pub(super) fn restored(volume: VolumeId, told: &[Guard]) -> Guards {
        let mut guards = Guards::new(volume);
        for guard in told {
            match guard {
                Guard::Firm { key, .. } => {
                    if guards.attrs.insert(key.object(), Depends::Firm).is_none() {
                        guards.bytes += ATTR_KEY_BYTES + GUARD_BYTES;
                    }
                }
                Guard::Unchanged { key, .. } => drop(guards.add_key(key, true)),
                Guard::Empty { range } | Guard::Stable { range, .. } => match Key::from_bytes(&range.start) {
                    Ok(key) if *range == KeyRange::one(&key) => drop(guards.add_key(&key, false)),
                    _ => drop(guards.add_empty(range.clone())),
                },
            }
        }
        guards
    }

    /// Does it depend on the record: is it just before the commit what it was at the start?
    pub fn has(&self, key: &Key) -> bool {
        self.is_whole(key.object()) || self.keys.contains_key(key) || self.empty.iter().any(|range| range.contains(key))
    }

    /// Does it depend on all attributes of the object?
    pub fn is_whole(&self, object: ObjectId) -> bool {
        self.attrs.get(&object) == Some(&Depends::Whole)
    }

    /// The objects of which no more than the firm half is depended on.
    pub fn firm_only(&self) -> impl Iterator<Item = ObjectId> {
        self.attrs.iter().filter(|(_, depends)| **depends == Depends::Firm).map(|(object, _)| *object)
    }

    /// Makes them fewer until they are at most `count` and `bytes`: single names of the directory that has the most of them become all of
    /// its names. False if that does not do.
    pub fn shrink(&mut self, count: usize, bytes: usize) -> bool {
        while self.len() > count || self.bytes > bytes {
            let mut names: BTreeMap<ObjectId, usize> = BTreeMap::new();
            for key in self.keys.keys().filter(|key| matches!(key.parts(), KeyParts::Dirent { .. })) {
                *names.entry(key.object()).or_default() += 1;
            }
            match names.into_iter().max_by_key(|(_, count)| *count) {
                Some((directory, 2..)) => drop(self.add_whole(directory)),
                _ => return false,
            }
        }
        true
    }

    /// The guards, as of `at`, in the order of objects.
    pub fn to_guards(&self, at: Tid) -> Vec<Guard> {
        let attrs = self.attrs.iter().map(|(object, depends)| {
            let key = Key::attr(self.volume, *object);
            match depends {
                Depends::Firm => Guard::Firm { key, at },
                Depends::Whole => Guard::Unchanged { key, at },
            }
        });
        let keys = self.keys.iter().map(|(key, there)| match there {
            true => Guard::Unchanged { key: key.clone(), at },
            false => Guard::Empty { range: KeyRange::one(key) },
        });
        attrs.chain(keys).chain(self.empty.iter().map(|range| Guard::Empty { range: range.clone() })).collect()
    }
}

fn key_bytes(key: &Key) -> usize {
    2 * key.as_bytes().len() + GUARD_BYTES
}

fn range_bytes(range: &KeyRange) -> usize {
    range.start.len() + range.end.len() + GUARD_BYTES
}

/// The object that a record is about.
pub(super) fn owner(key: &Key) -> ObjectId {
    match key.parts() {
        KeyParts::Orphan { object } => object,
        _ => key.object(),
    }
}

/// The object under which all of a range is filed, if it is one.
pub(super) fn object_of(range: &KeyRange) -> Option<ObjectId> {
    let (volume, object) = (range.start.get(..4)?, range.start.get(4..12)?);
    let volume = VolumeId(u32::from_be_bytes(volume.try_into().ok()?));
    let object = ObjectId(u64::from_be_bytes(object.try_into().ok()?));
    (range.end <= KeyRange::object(volume, object).end).then_some(object)
}
