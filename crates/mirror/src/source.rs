//! The steps from one state of a volume to a later one, and their rows.
//!
//! Everything is read through [`Past`], some rows at a time: between two pages nothing is held but a [`Rows`], and so the records may be read anew. What a
//! step reads must stay as it is meanwhile: whoever asks has pinned the states that it lies between.

use crate::order::is_named;
use crate::stream::{Row, row_bytes};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Attr, Record, Version, View, ViewError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// Keys that are gathered at a time, at most.
pub const KEYS_MAX: usize = 65_536;
/// Rows of a state that are read at a time.
const PAGE_ROWS: usize = 256;
/// Rows of the change index that a look for the next step goes over, at most: they may all be other volumes'.
pub const LOOKED_AT_MAX: usize = 65_536;

/// What was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Read {
    /// Rows of the change index.
    pub changes: u64,
    /// Records that were looked up.
    pub records: u64,
    /// Rows of whole states.
    pub rows: u64,
}

impl Read {
    /// Adds what another one has read.
    pub fn add(&mut self, other: Read) {
        self.changes += other.changes;
        self.records += other.records;
        self.rows += other.rows;
    }
}

/// Which states of a volume are whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Readable {
    /// All from here on.
    pub horizon: Tid,
    /// Those before, the oldest first.
    pub kept: Vec<Tid>,
}

/// From one state to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What the copy is; [`Tid::ZERO`]: nothing.
    pub from: Tid,
    /// What it is to be.
    pub to: Tid,
    /// Only this transaction has changed anything between.
    pub single: bool,
}

/// What comes next behind a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// This step.
    Step(Step),
    /// Nothing that changes the volume, up to this state.
    Reached(Tid),
    /// Nobody knows: the state is not kept.
    Gone,
}

impl Position {
    /// What comes behind state `at` of the volume, up to and with `upto`, which can be read.
    ///
    /// # Errors
    /// As the past's.
    pub fn behind(
        past: &dyn Past,
        volume: VolumeId,
        readable: &Readable,
        (at, upto): (Tid, Tid),
        read: &mut Read,
    ) -> Result<Position, ViewError> {
        if at == Tid::ZERO {
            return Ok(Position::Step(Step { from: at, to: upto, single: false }));
        }
        if at >= readable.horizon {
            return next_transaction(past, volume, (at, upto), read);
        }
        let Ok(place) = readable.kept.binary_search(&at) else { return Ok(Position::Gone) };
        let to = readable.kept.get(place + 1).copied().unwrap_or(readable.horizon).min(upto);
        Ok(Position::Step(Step { from: at, to, single: false }))
    }

    /// As [`Position::behind`], of a mirror: its states are its boundaries. `at` and `upto` are boundaries, and so are all that `readable` keeps.
    ///
    /// # Errors
    /// As the past's.
    pub fn behind_boundary(
        past: &dyn Past,
        volume: VolumeId,
        readable: &Readable,
        (at, upto): (Tid, Tid),
        read: &mut Read,
    ) -> Result<Position, ViewError> {
        if at < readable.horizon {
            return Position::behind(past, volume, readable, (at, upto), read);
        }
        let (mut first, key) = (None, Key::boundary(volume));
        for (looked_at, touched) in past.touched(at, upto).enumerate() {
            let touched = touched?;
            read.changes += 1;
            if touched.key.volume() != volume {
                if first.is_none() && looked_at >= LOOKED_AT_MAX {
                    return Ok(Position::Reached(Tid(touched.tid.0 - 1)));
                }
                continue;
            }
            let first = *first.get_or_insert(touched.tid);
            if touched.key == key && is_boundary(past, volume, touched.tid)? {
                return Ok(Position::Step(Step { from: at, to: touched.tid, single: first == touched.tid }));
            }
        }
        // What is half of a step leads to no state: `upto` was none.
        Ok(if first.is_none() { Position::Reached(upto) } else { Position::Gone })
    }
}

/// Does a mirror show a whole state of its source, as of `tid`?
///
/// # Errors
/// As the past's.
pub fn is_boundary(past: &dyn Past, volume: VolumeId, tid: Tid) -> Result<bool, ViewError> {
    let found = past.at(tid).get(&Key::boundary(volume))?;
    Ok(matches!(found.map(|version| version.record), Some(Record::Boundary(boundary)) if !boundary.is_within_step()))
}

fn next_transaction(
    past: &dyn Past,
    volume: VolumeId,
    (at, upto): (Tid, Tid),
    read: &mut Read,
) -> Result<Position, ViewError> {
    for (looked_at, touched) in past.touched(at, upto).enumerate() {
        let touched = touched?;
        read.changes += 1;
        if touched.key.volume() == volume {
            return Ok(Position::Step(Step { from: at, to: touched.tid, single: true }));
        }
        if looked_at >= LOOKED_AT_MAX {
            // All before it was other volumes'.
            return Ok(Position::Reached(Tid(touched.tid.0 - 1)));
        }
    }
    Ok(Position::Reached(upto))
}

/// The rows of a step, as far as they were given out.
#[derive(Debug)]
pub struct Rows {
    volume: VolumeId,
    /// The states that rows are taken from: what the copy has, what it is to have.
    old: Tid,
    new: Tid,
    changed: Changed,
    /// Keys are gathered from here on.
    next: Box<[u8]>,
    gathered: VecDeque<Key>,
    work: VecDeque<Work>,
    /// Of a whole state: rows that were read and not given out, and whether the object that they begin in is part of the copy.
    scanned: VecDeque<(Key, Version)>,
    in_copy: Option<ObjectId>,
    /// What was read so far.
    pub read: Read,
}

/// What has changed between the states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Changed {
    /// There was nothing before.
    All,
    /// What this transaction has touched.
    By(Tid),
    /// What transactions behind the first one, up to the second, have touched.
    Between(Tid, Tid),
}

/// What is to be given out next.
#[derive(Debug)]
enum Work {
    /// These rows.
    Ready(VecDeque<Row>),
    /// The ends of these records.
    End(VecDeque<Key>),
    /// What these records are in the new state; if they are not there, and it says so, their ends.
    Put(VecDeque<Key>, bool),
    /// The ends of all records of an object that the old state shows, but for its attributes.
    EndAll(KeyRange),
    /// All records of an object that the new state shows, but for its attributes.
    PutAll(KeyRange),
}

impl Rows {
    /// The rows of a step.
    pub fn new(volume: VolumeId, step: Step) -> Rows {
        let changed = match step {
            Step { from: Tid::ZERO, .. } => Changed::All,
            Step { single: true, to, .. } => Changed::By(to),
            Step { from, to, .. } => Changed::Between(from, to),
        };
        Rows::between(volume, (step.from, step.to), changed)
    }

    /// The way back: from the state as of `now` to the earlier one as of `to`.
    pub fn back(volume: VolumeId, now: Tid, to: Tid) -> Rows {
        Rows::between(volume, (now, to), Changed::Between(to, now))
    }

    fn between(volume: VolumeId, (old, new): (Tid, Tid), changed: Changed) -> Rows {
        let next = KeyRange::of_objects(volume).start;
        let (gathered, work, scanned) = Default::default();
        Rows { volume, old, new, changed, next, gathered, work, scanned, in_copy: None, read: Read::default() }
    }

    /// The next rows: about `bytes_max` of them, one at least. None at the end.
    ///
    /// # Errors
    /// As the past's.
    pub fn page(&mut self, past: &dyn Past, bytes_max: usize) -> Result<Option<Vec<Row>>, ViewError> {
        let mut page = Page { rows: Vec::new(), bytes: 0, bytes_max };
        if self.changed == Changed::All {
            return self.whole(past, page);
        }
        while !page.is_full() {
            if let Some(work) = self.work.pop_front() {
                let rest = self.go_on(past, work, &mut page)?;
                rest.into_iter().for_each(|rest| self.work.push_front(rest));
            } else if !self.gathered.is_empty() {
                self.next_object(past)?;
            } else if !self.gather(past)? {
                return Ok(Some(page.rows).filter(|rows| !rows.is_empty()));
            }
        }
        Ok(Some(page.rows))
    }

    /// All rows of the new state, in the order of keys.
    fn whole(&mut self, past: &dyn Past, mut page: Page) -> Result<Option<Vec<Row>>, ViewError> {
        while !page.is_full() {
            let Some((key, version)) = self.scanned.pop_front() else {
                if self.scan_on(past)? {
                    continue;
                }
                return Ok(Some(page.rows).filter(|rows| !rows.is_empty()));
            };
            if let Record::Attr(attr) = &version.record {
                self.in_copy = is_named(attr).then(|| key.object());
            }
            if self.in_copy == Some(key.object()) {
                page.push(key, Some(version.record));
            }
        }
        Ok(Some(page.rows))
    }

    /// Reads the next rows of the new state. False if there are none.
    fn scan_on(&mut self, past: &dyn Past) -> Result<bool, ViewError> {
        let mut range = KeyRange::of_objects(self.volume);
        range.start = self.next.clone();
        self.scanned = past.at(self.new).scan(&range, PAGE_ROWS)?.into();
        self.read.rows += self.scanned.len() as u64;
        if let Some((last, _)) = self.scanned.back() {
            self.next = KeyRange::one(last).end;
        }
        Ok(!self.scanned.is_empty())
    }

    /// Gathers the next keys that have changed, whole objects. False if there are none.
    fn gather(&mut self, past: &dyn Past) -> Result<bool, ViewError> {
        let mut range = KeyRange::of_objects(self.volume);
        range.start = self.next.clone();
        let mut keys = BTreeSet::new();
        let touched = match self.changed {
            Changed::All => return Ok(false),
            Changed::By(tid) => past.touched_at(tid, &range),
            Changed::Between(after, upto) => past.touched(after, upto),
        };
        for touched in touched {
            let touched = touched?;
            self.read.changes += 1;
            if range.contains(&touched.key) {
                keys.insert(touched.key);
            }
            if keys.len() > KEYS_MAX {
                keys.pop_last();
            }
        }
        let Some(last) = keys.last() else { return Ok(false) };
        let (first, last) = (keys.first().map_or(last.object(), Key::object), last.object());
        if keys.len() < KEYS_MAX {
            self.next = range.end;
        } else if first == last {
            // More than can be gathered has changed of one object: it is sent anew.
            self.next = KeyRange::object(self.volume, first).end;
            return self.anew(past, first).map(|()| true);
        } else {
            keys.retain(|key| key.object() != last);
            self.next = KeyRange::object(self.volume, last).start;
        }
        self.gathered = keys.into_iter().collect();
        Ok(true)
    }

    fn attr(&mut self, state: &dyn View, object: ObjectId) -> Result<Option<Attr>, ViewError> {
        self.read.records += 1;
        let found = state.get(&Key::attr(self.volume, object))?;
        Ok(found.and_then(named))
    }

    /// What the object is in both states, as far as it is part of the copy.
    fn attrs(&mut self, past: &dyn Past, object: ObjectId) -> Result<(Option<Attr>, Option<Attr>), ViewError> {
        Ok((self.attr(&*past.at(self.old), object)?, self.attr(&*past.at(self.new), object)?))
    }

    fn next_object(&mut self, past: &dyn Past) -> Result<(), ViewError> {
        let Some(object) = self.gathered.front().map(Key::object) else { return Ok(()) };
        let behind = self.gathered.partition_point(|key| key.object() == object);
        let rest = self.gathered.split_off(behind);
        let keys = std::mem::replace(&mut self.gathered, rest);
        let (old, new) = self.attrs(past, object)?;
        let Some(new) = new else {
            self.dying(object, old);
            return Ok(());
        };
        self.ready(object, Some(new));
        let others = keys.into_iter().filter(|key| key.parts() != KeyParts::Attr);
        let others: VecDeque<Key> = others.collect();
        let extents = || others.iter().filter(|key| matches!(key.parts(), KeyParts::Extent { .. }));
        let ends = old.is_some();
        // One that is put may overlap another that was there: all go first. One alone takes the place of itself at most.
        if ends && extents().nth(1).is_some() {
            self.work.push_back(Work::End(extents().cloned().collect()));
        }
        self.work.push_back(Work::Put(others, ends));
        Ok(())
    }

    /// The object is not to be part of the copy any more.
    fn dying(&mut self, object: ObjectId, old: Option<Attr>) {
        if old.is_none() {
            return;
        }
        self.ready(object, old);
        self.work.push_back(Work::EndAll(KeyRange::object(self.volume, object)));
        self.ready(object, None);
    }

    /// The object is part of the copy with all that it has now, whatever it had.
    fn anew(&mut self, past: &dyn Past, object: ObjectId) -> Result<(), ViewError> {
        let (old, new) = self.attrs(past, object)?;
        if new.is_none() {
            self.dying(object, old);
            return Ok(());
        }
        self.ready(object, new);
        if old.is_some() {
            self.work.push_back(Work::EndAll(KeyRange::object(self.volume, object)));
        }
        self.work.push_back(Work::PutAll(KeyRange::object(self.volume, object)));
        Ok(())
    }

    fn ready(&mut self, object: ObjectId, attr: Option<Attr>) {
        let row = Row { key: Key::attr(self.volume, object), record: attr.map(Record::Attr) };
        self.work.push_back(Work::Ready(VecDeque::from([row])));
    }

    /// Gives out some of the rows of a piece of work, and what is left of it.
    fn go_on(&mut self, past: &dyn Past, work: Work, page: &mut Page) -> Result<Option<Work>, ViewError> {
        match work {
            Work::Ready(mut rows) => {
                page.rows_of(rows.drain(..).map(|row| (row.key, row.record)));
                Ok(None)
            }
            Work::End(mut keys) => {
                while !page.is_full()
                    && let Some(key) = keys.pop_front()
                {
                    page.push(key, None);
                }
                Ok(Some(Work::End(keys)).filter(|_| page.is_full()))
            }
            Work::Put(mut keys, ends) => {
                let state = past.at(self.new);
                while !page.is_full()
                    && let Some(key) = keys.pop_front()
                {
                    self.read.records += 1;
                    match state.get(&key)? {
                        Some(version) => page.push(key, Some(version.record)),
                        None if ends => page.push(key, None),
                        None => {}
                    }
                }
                Ok(Some(Work::Put(keys, ends)).filter(|_| page.is_full()))
            }
            Work::EndAll(range) => {
                let left = self.scan(&*past.at(self.old), range, |key, _| page.push(key, None))?;
                Ok(left.map(Work::EndAll))
            }
            Work::PutAll(range) => {
                let left = self.scan(&*past.at(self.new), range, |key, record| page.push(key, Some(record)))?;
                Ok(left.map(Work::PutAll))
            }
        }
    }

    /// One page of a range, without attributes; what is left of the range.
    fn scan(
        &mut self,
        state: &dyn View,
        mut range: KeyRange,
        mut each: impl FnMut(Key, Record),
    ) -> Result<Option<KeyRange>, ViewError> {
        let found = state.scan(&range, PAGE_ROWS)?;
        self.read.rows += found.len() as u64;
        let is_last = found.len() < PAGE_ROWS;
        for (key, version) in found {
            range.start = KeyRange::one(&key).end;
            if key.parts() != KeyParts::Attr {
                each(key, version.record);
            }
        }
        Ok(Some(range).filter(|_| !is_last))
    }
}

/// Attributes of what is part of a copy.
fn named(version: Version) -> Option<Attr> {
    match version.record {
        Record::Attr(attr) => Some(attr).filter(is_named),
        _ => None,
    }
}

struct Page {
    rows: Vec<Row>,
    bytes: usize,
    bytes_max: usize,
}

impl Page {
    fn push(&mut self, key: Key, record: Option<Record>) {
        let row = Row { key, record };
        self.bytes += row_bytes(&row);
        self.rows.push(row);
    }

    fn rows_of(&mut self, rows: impl Iterator<Item = (Key, Option<Record>)>) {
        rows.for_each(|(key, record)| self.push(key, record));
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }
}
