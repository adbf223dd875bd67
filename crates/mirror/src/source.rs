//! The steps from one state of a volume to a later one, and their rows.
//!
//! Everything is read through [`Past`], some rows at a time: between two pages nothing is held but a [`Rows`], and so the records may be read anew. What a
//! step reads must stay as it is meanwhile: whoever asks has pinned the states that it lies between.

use crate::changed::{Changed, Gathered};
use crate::order::is_named;
use crate::scan::{Scan, named_attr};
use crate::stream::Row;
use crate::work::{Page, Queue};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Attr, Record, View, ViewError};
use serde::{Deserialize, Serialize};

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
    /// None: there was nothing before.
    changed: Option<Gathered>,
    queue: Queue,
    /// Of a whole state: what was not given out, and the object of the last row, if it is part of the copy.
    whole: Scan,
    in_copy: Option<ObjectId>,
    /// What was read so far.
    pub read: Read,
}

impl Rows {
    /// The rows of a step.
    pub fn new(volume: VolumeId, step: Step) -> Rows {
        Rows::between(volume, (step.from, step.to), changed_by(step))
    }

    /// The way back: from the state as of `now` to the earlier one as of `to`.
    pub fn back(volume: VolumeId, now: Tid, to: Tid) -> Rows {
        Rows::between(volume, (now, to), Some(Changed::Between(to, now)))
    }

    fn between(volume: VolumeId, (old, new): (Tid, Tid), changed: Option<Changed>) -> Rows {
        let (whole, queue) = (Scan::new(KeyRange::of_objects(volume)), Queue::new(volume, (old, new), None));
        let changed = changed.map(|changed| Gathered::new(volume, changed));
        Rows { volume, old, new, changed, queue, whole, in_copy: None, read: Read::default() }
    }

    /// The next rows: about `bytes_max` of them, one at least. None at the end.
    ///
    /// # Errors
    /// As the past's.
    pub fn page(&mut self, past: &dyn Past, bytes_max: usize) -> Result<Option<Vec<Row>>, ViewError> {
        let mut page = Page::new(bytes_max);
        while !page.is_full() {
            if self.queue.go_on(past, &mut page, &mut self.read)? {
                continue;
            }
            let is_there = match self.changed {
                None => self.next_of_whole(past, &mut page)?,
                Some(_) => self.next_object(past)?,
            };
            if !is_there {
                break;
            }
        }
        Ok(page.some())
    }

    /// The next row of the new state, in the order of keys. False if there is none.
    fn next_of_whole(&mut self, past: &dyn Past, page: &mut Page) -> Result<bool, ViewError> {
        let Some((key, version)) = self.whole.next(past, self.new, &mut self.read)? else { return Ok(false) };
        if let Record::Attr(attr) = &version.record {
            self.in_copy = is_named(attr).then(|| key.object());
        }
        if self.in_copy == Some(key.object()) {
            page.push(key, Some(version.record));
        }
        Ok(true)
    }

    fn attr(&mut self, state: &dyn View, object: ObjectId) -> Result<Option<Attr>, ViewError> {
        named_attr(state, (self.volume, object), &mut self.read)
    }

    /// What is to be done for the next object that has changed. False if there is none.
    fn next_object(&mut self, past: &dyn Past) -> Result<bool, ViewError> {
        let Some(changed) = &mut self.changed else { return Ok(false) };
        let Some(object) = changed.peek(past, &mut self.read)? else { return Ok(false) };
        let keys = changed.take();
        // What it is in both states, as far as it is part of the copy.
        let (old, new) = (self.attr(&*past.at(self.old), object)?, self.attr(&*past.at(self.new), object)?);
        match (new, keys) {
            (Some(new), Some(mut keys)) => {
                keys.retain(|key| key.parts() != KeyParts::Attr);
                self.queue.attr(object, Some(new));
                self.queue.put(keys, old.is_some(), None);
            }
            // It is part of the copy with all that it has now, whatever it had.
            (Some(new), None) => {
                self.queue.attr(object, Some(new));
                if old.is_some() {
                    self.queue.end_all(object, None);
                }
                self.queue.put_all(object, None);
            }
            (None, _) if old.is_some() => {
                self.queue.attr(object, old);
                self.queue.end_all(object, None);
                self.queue.attr(object, None);
            }
            (None, _) => {}
        }
        Ok(true)
    }
}

/// What has changed in a step; none: all is new.
pub(crate) fn changed_by(step: Step) -> Option<Changed> {
    match step {
        Step { from: Tid::ZERO, .. } => None,
        Step { single: true, to, .. } => Some(Changed::By(to)),
        Step { from, to, .. } => Some(Changed::Between(from, to)),
    }
}
