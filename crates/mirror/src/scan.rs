//! Rows of a state, some at a time.

use crate::order::is_named;
use crate::source::Read;
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Attr, Record, Version, View, ViewError};
use std::collections::VecDeque;

/// Rows of a state that are read at a time.
pub(crate) const PAGE_ROWS: usize = 256;

/// A walk over a range of keys of one state.
#[derive(Debug)]
pub(crate) struct Scan {
    /// What was not read yet.
    range: KeyRange,
    scanned: VecDeque<(Key, Version)>,
    over: bool,
}

impl Scan {
    pub(crate) fn new(range: KeyRange) -> Scan {
        Scan { range, scanned: VecDeque::new(), over: false }
    }

    /// The next row of the state as of `at`.
    pub(crate) fn next(
        &mut self,
        past: &dyn Past,
        at: Tid,
        read: &mut Read,
    ) -> Result<Option<(Key, Version)>, ViewError> {
        if self.scanned.is_empty() && !self.over {
            self.scanned = past.at(at).scan(&self.range, PAGE_ROWS)?.into();
            read.rows += self.scanned.len() as u64;
            self.over = self.scanned.len() < PAGE_ROWS;
            if let Some((last, _)) = self.scanned.back() {
                self.range.start = KeyRange::one(last).end;
            }
        }
        Ok(self.scanned.pop_front())
    }

    /// The row is not taken: it comes next.
    pub(crate) fn put_back(&mut self, row: (Key, Version)) {
        self.scanned.push_front(row);
    }
}

/// Attributes of an object, if it has a name.
pub(crate) fn named_attr(
    state: &dyn View,
    (volume, object): (VolumeId, ObjectId),
    read: &mut Read,
) -> Result<Option<Attr>, ViewError> {
    read.records += 1;
    Ok(state.get(&Key::attr(volume, object))?.and_then(|version| match version.record {
        Record::Attr(attr) => Some(attr).filter(is_named),
        _ => None,
    }))
}

/// Takes an object into runs of ids, of each the first and the last. It is behind all that are in there.
pub(crate) fn run_on(runs: &mut Vec<(ObjectId, ObjectId)>, object: ObjectId) {
    match runs.last_mut() {
        Some((_, last)) if last.0 + 1 == object.0 => *last = object,
        _ => runs.push((object, object)),
    }
}
