//! Which records have changed between two states, object by object, in the order of keys.
//!
//! The change index has them in the order of transactions. So the next so many keys are gathered, and what has more is gone over again.

use crate::source::Read;
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::ViewError;
use gavel_wire::past::{Past, Rows, Touched};
use std::collections::{BTreeSet, VecDeque};

/// Keys that are gathered at a time, at most.
pub const KEYS_MAX: usize = 65_536;

/// What has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Changed {
    /// What this transaction has touched.
    By(Tid),
    /// What transactions behind the first one, up to the second, have touched.
    Between(Tid, Tid),
}

impl Changed {
    /// The rows of the change index of this; those of other volumes may be among them.
    pub(crate) fn touched<'p>(self, past: &'p dyn Past, range: &KeyRange) -> Rows<'p, Touched> {
        match self {
            Changed::By(tid) => past.touched_at(tid, range),
            Changed::Between(after, upto) => past.touched(after, upto),
        }
    }
}

/// The keys of an object that have changed, its attributes among them; none: more than can be gathered.
pub(crate) type Keys = Option<VecDeque<Key>>;

/// What has changed, as far as it was not taken.
#[derive(Debug)]
pub(crate) struct Gathered {
    volume: VolumeId,
    changed: Changed,
    /// Keys are gathered from here on, unless all were.
    next: Box<[u8]>,
    over: bool,
    keys: VecDeque<Key>,
    /// Of this one more has changed than can be gathered.
    large: Option<ObjectId>,
}

impl Gathered {
    pub(crate) fn new(volume: VolumeId, changed: Changed) -> Gathered {
        let next = KeyRange::of_objects(volume).start;
        Gathered { volume, changed, next, over: false, keys: VecDeque::new(), large: None }
    }

    /// The next object that has changed, without taking it.
    pub(crate) fn peek(&mut self, past: &dyn Past, read: &mut Read) -> Result<Option<ObjectId>, ViewError> {
        while self.keys.is_empty() && self.large.is_none() && !self.over {
            self.gather(past, read)?;
        }
        Ok(self.large.or_else(|| self.keys.front().map(Key::object)))
    }

    /// What of it has changed. It was peeked at.
    pub(crate) fn take(&mut self) -> Keys {
        if self.large.take().is_some() {
            return None;
        }
        let object = self.keys.front().map(Key::object);
        let behind = self.keys.partition_point(|key| Some(key.object()) == object);
        let rest = self.keys.split_off(behind);
        Some(std::mem::replace(&mut self.keys, rest))
    }

    /// Gathers the next keys that have changed, whole objects.
    fn gather(&mut self, past: &dyn Past, read: &mut Read) -> Result<(), ViewError> {
        let mut range = KeyRange::of_objects(self.volume);
        range.start = self.next.clone();
        let mut keys = BTreeSet::new();
        for touched in self.changed.touched(past, &range) {
            let touched = touched?;
            read.changes += 1;
            if range.contains(&touched.key) {
                keys.insert(touched.key);
            }
            if keys.len() > KEYS_MAX {
                keys.pop_last();
            }
        }
        let ends = keys.first().map(Key::object).zip(keys.last().map(Key::object));
        match ends {
            Some((first, last)) if keys.len() >= KEYS_MAX && first == last => {
                // It is sent anew.
                self.next = KeyRange::object(self.volume, first).end;
                self.large = Some(first);
                return Ok(());
            }
            Some((_, last)) if keys.len() >= KEYS_MAX => {
                keys.retain(|key| key.object() != last);
                self.next = KeyRange::object(self.volume, last).start;
            }
            _ => self.over = true,
        }
        self.keys = keys.into_iter().collect();
        Ok(())
    }
}
