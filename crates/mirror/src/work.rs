//! Rows that are to be given out, page by page.

use crate::part::select::{Footing, Selector};
use crate::scan::PAGE_ROWS;
use crate::source::Read;
use crate::stream::{Row, row_bytes};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Attr, Record, View, ViewError};
use std::collections::VecDeque;
use std::sync::Arc;

/// What is to be given out next. Of a directory that shows a part of its records, where it stands says which.
#[derive(Debug)]
pub(crate) enum Work {
    /// This row.
    Ready(Row),
    /// The ends of these records.
    End(VecDeque<Key>),
    /// What these records are in the new state; if they are not there, and it says so, their ends.
    Put(VecDeque<Key>, bool, Option<Footing>),
    /// The ends of all records of an object that the old state shows, but for its attributes.
    EndAll(KeyRange, Option<Footing>),
    /// All records of an object that the new state shows, but for its attributes.
    PutAll(KeyRange, Option<Footing>),
}

/// Work in its order, between two states.
#[derive(Debug)]
pub(crate) struct Queue {
    volume: VolumeId,
    old: Tid,
    new: Tid,
    /// Without it, all is shown.
    selector: Option<Arc<Selector>>,
    work: VecDeque<Work>,
}

impl Queue {
    pub(crate) fn new(volume: VolumeId, (old, new): (Tid, Tid), selector: Option<Arc<Selector>>) -> Queue {
        Queue { volume, old, new, selector, work: VecDeque::new() }
    }

    /// The attributes of an object; none: their end.
    pub(crate) fn attr(&mut self, object: ObjectId, attr: Option<Attr>) {
        let row = Row { key: Key::attr(self.volume, object), record: attr.map(Record::Attr) };
        self.work.push_back(Work::Ready(row));
    }

    /// The object is in the copy, with all that it has now.
    pub(crate) fn put_all(&mut self, object: ObjectId, footing: Option<Footing>) {
        self.work.push_back(Work::PutAll(KeyRange::object(self.volume, object), footing));
    }

    /// All that the object had ends, but for its attributes.
    pub(crate) fn end_all(&mut self, object: ObjectId, footing: Option<Footing>) {
        self.work.push_back(Work::EndAll(KeyRange::object(self.volume, object), footing));
    }

    /// These records of an object are what they are now. If it was in the copy before, those that are not there end.
    pub(crate) fn put(&mut self, keys: VecDeque<Key>, was_there: bool, footing: Option<Footing>) {
        let extents = || keys.iter().filter(|key| matches!(key.parts(), KeyParts::Extent { .. }));
        // One that is put may overlap another that was there: all go first. One alone takes the place of itself at most.
        if was_there && extents().nth(1).is_some() {
            self.work.push_back(Work::End(extents().cloned().collect()));
        }
        self.work.push_back(Work::Put(keys, was_there, footing));
    }

    /// Gives out some rows of the next piece of work. False if there is none.
    pub(crate) fn go_on(&mut self, past: &dyn Past, page: &mut Page, read: &mut Read) -> Result<bool, ViewError> {
        let Some(work) = self.work.pop_front() else { return Ok(false) };
        let left = match work {
            Work::Ready(row) => {
                page.push(row.key, row.record);
                None
            }
            Work::End(mut keys) => {
                while !page.is_full()
                    && let Some(key) = keys.pop_front()
                {
                    page.push(key, None);
                }
                Some(Work::End(keys)).filter(|_| page.is_full())
            }
            Work::Put(keys, ends, footing) => self.go_on_put(past, page, (keys, ends, footing), read)?,
            Work::EndAll(range, footing) => {
                let left = self.scan(&*past.at(self.old), range, footing, read, |key, _| page.push(key, None))?;
                left.map(|left| Work::EndAll(left, footing))
            }
            Work::PutAll(range, footing) => {
                let put = |key, record| page.push(key, Some(record));
                let left = self.scan(&*past.at(self.new), range, footing, read, put)?;
                left.map(|left| Work::PutAll(left, footing))
            }
        };
        left.into_iter().for_each(|left| self.work.push_front(left));
        Ok(true)
    }

    fn go_on_put(
        &self,
        past: &dyn Past,
        page: &mut Page,
        (mut keys, ends, footing): (VecDeque<Key>, bool, Option<Footing>),
        read: &mut Read,
    ) -> Result<Option<Work>, ViewError> {
        let state = past.at(self.new);
        while !page.is_full()
            && let Some(key) = keys.pop_front()
        {
            read.records += 1;
            let found = state.get(&key)?.map(|version| version.record);
            match found.filter(|record| self.shows(footing, &key, record)) {
                Some(record) => page.push(key, Some(record)),
                None if ends => page.push(key, None),
                None => {}
            }
        }
        Ok(Some(Work::Put(keys, ends, footing)).filter(|_| page.is_full()))
    }

    /// One page of a range, without attributes; what is left of the range.
    fn scan(
        &self,
        state: &dyn View,
        mut range: KeyRange,
        footing: Option<Footing>,
        read: &mut Read,
        mut each: impl FnMut(Key, Record),
    ) -> Result<Option<KeyRange>, ViewError> {
        let found = state.scan(&range, PAGE_ROWS)?;
        read.rows += found.len() as u64;
        let is_last = found.len() < PAGE_ROWS;
        for (key, version) in found {
            range.start = KeyRange::one(&key).end;
            if key.parts() != KeyParts::Attr && self.shows(footing, &key, &version.record) {
                each(key, version.record);
            }
        }
        Ok(Some(range).filter(|_| !is_last))
    }

    fn shows(&self, footing: Option<Footing>, key: &Key, record: &Record) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.shows(footing, key, record))
    }
}

/// Rows that are given out at once.
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    bytes: usize,
    bytes_max: usize,
}

impl Page {
    /// Of about so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Page {
        Page { rows: Vec::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn push(&mut self, key: Key, record: Option<Record>) {
        let row = Row { key, record };
        self.bytes += row_bytes(&row);
        self.rows.push(row);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// The rows, if there are any.
    pub(crate) fn some(self) -> Option<Vec<Row>> {
        Some(self.rows).filter(|rows| !rows.is_empty())
    }
}
