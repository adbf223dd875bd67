//! Operations of a client that has no replica: what an operation reads is found out by a peer, and written down; the run goes on over that.
//!
//! An operation is a function of what it reads. A peer runs it over its replica ([`Question::observe`]) and gives what it looked at: a
//! [`Transcript`], which is a view. The client runs the same operation over that, and judges the result by itself.

use crate::run::{Run, Step};
use crate::tree::TreeError;
use gavel_fs::operation::{Caller, Cx, Operation};
use gavel_fs::{Reply, Stop};
use gavel_types::{Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Version, View, ViewError, codec};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Most bytes of records in a transcript: it is one answer of the transport, of 8 MiB at most.
pub const TRANSCRIPT_BYTES_MAX: usize = 7 << 20;

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Look {
    /// A record.
    Get(Key),
    /// Records of a range, so many at most.
    Scan(KeyRange, u64),
}

/// What a peer is to find out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Question {
    volume: VolumeId,
    caller: Caller,
    fresh: Option<ObjectId>,
    /// What this operation reads.
    operation: Option<Operation>,
    plus: bool,
    /// And this.
    also: Vec<Look>,
}

/// A range that was listed, how many rows at most, and what was found.
type Listing = (KeyRange, u64, Vec<(Key, Version)>);

/// What was read in one state: a view that knows just that.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Transcript {
    tid: Tid,
    gets: BTreeMap<Key, Option<Version>>,
    scans: Vec<Listing>,
    /// What was looked for and is not in it.
    #[serde(skip)]
    missed: RefCell<Vec<Look>>,
}

impl Transcript {
    /// What was looked for in vain since this was asked last.
    pub fn take_missed(&self) -> Vec<Look> {
        self.missed.take()
    }

    fn miss(&self, look: Look) -> ViewError {
        self.missed.borrow_mut().push(look);
        ViewError::Storage { cause: "it was not asked for".into() }
    }
}

impl View for Transcript {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.gets.get(key).cloned().ok_or_else(|| self.miss(Look::Get(key.clone())))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let limit = limit as u64;
        let found = self.scans.iter().find(|(of, most, _)| of == range && *most == limit);
        found.map(|(_, _, rows)| rows.clone()).ok_or_else(|| self.miss(Look::Scan(range.clone(), limit)))
    }
}

/// A view that writes down what it is asked.
struct Recording<'v> {
    view: &'v dyn View,
    gets: RefCell<BTreeMap<Key, Option<Version>>>,
    scans: RefCell<Vec<Listing>>,
    bytes: Cell<usize>,
}

impl Recording<'_> {
    fn weigh(&self, rows: usize, bytes: usize) -> Result<(), ViewError> {
        self.bytes.set(self.bytes.get() + bytes + 64 * (rows + 1));
        if self.bytes.get() <= TRANSCRIPT_BYTES_MAX {
            return Ok(());
        }
        let cause =
            format!("the operation reads more than {TRANSCRIPT_BYTES_MAX} bytes of records: do it through a node");
        Err(ViewError::Storage { cause })
    }
}

fn weight(key: &Key, version: &Version) -> usize {
    key.as_bytes().len() + codec::encode(0, version).len()
}

impl View for Recording<'_> {
    fn tid(&self) -> Tid {
        self.view.tid()
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        let found = self.view.get(key)?;
        self.weigh(1, key.as_bytes().len() + found.as_ref().map_or(0, |version| weight(key, version)))?;
        self.gets.borrow_mut().insert(key.clone(), found.clone());
        Ok(found)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let rows = self.view.scan(range, limit)?;
        self.weigh(rows.len(), rows.iter().map(|(key, version)| weight(key, version)).sum())?;
        let mut scans = self.scans.borrow_mut();
        if !scans.iter().any(|(of, most, _)| of == range && *most == limit as u64) {
            scans.push((range.clone(), limit as u64, rows.clone()));
        }
        Ok(rows)
    }
}

impl Question {
    /// Which volume it is about.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Finds out what is read, and writes it down.
    ///
    /// # Errors
    /// [`ViewError`] if the replica can't be read, or if it is more than [`TRANSCRIPT_BYTES_MAX`].
    pub fn observe(self, view: &dyn View) -> Result<Transcript, ViewError> {
        let recording = Recording { view, gets: RefCell::default(), scans: RefCell::default(), bytes: Cell::new(0) };
        for look in &self.also {
            match look {
                Look::Get(key) => drop(recording.get(key)?),
                Look::Scan(range, limit) => {
                    drop(recording.scan(range, usize::try_from(*limit).unwrap_or(usize::MAX))?);
                }
            }
        }
        if let Some(operation) = self.operation {
            let cx = Cx { volume: self.volume, caller: self.caller, fresh: self.fresh };
            Run::bare(cx, operation, self.plus).look_around(&recording)?;
        }
        let Recording { gets, scans, .. } = recording;
        let (tid, missed) = (view.tid(), RefCell::default());
        Ok(Transcript { tid, gets: gets.into_inner(), scans: scans.into_inner(), missed })
    }
}

impl Run {
    /// What a peer is to find out for the next step; `missed`: what the last transcript lacked. Nothing, if that step reads nothing.
    pub fn question(&self, missed: Vec<Look>) -> Question {
        let operation = self.is_evaluating().then(|| self.operation.clone());
        let Cx { volume, caller, fresh } = self.cx;
        Question { volume, caller, fresh, operation, plus: self.plus, also: missed }
    }

    /// Goes on over a transcript, as by [`Run::step`].
    ///
    /// # Errors
    /// What the transcript lacks; the run is as it was then.
    pub fn step_over(&mut self, transcript: &Transcript) -> Result<Step, Vec<Look>> {
        let before = self.clone();
        let step = self.step(transcript);
        match transcript.take_missed() {
            missed if missed.is_empty() => Ok(step),
            missed => {
                *self = before;
                Err(missed)
            }
        }
    }

    /// Answers a read from a transcript of a past state, as by [`Run::step_past`].
    ///
    /// # Errors
    /// What the transcript lacks; the run is as it was then.
    pub fn step_past_over(&mut self, transcript: &Transcript) -> Result<Step, Vec<Look>> {
        let before = self.clone();
        let step = self.step_past(transcript);
        match transcript.take_missed() {
            missed if missed.is_empty() => Ok(step),
            missed => {
                *self = before;
                Err(missed)
            }
        }
    }

    /// Reads what any step of the operation would read in this state.
    fn look_around(&mut self, view: &dyn View) -> Result<(), ViewError> {
        if let Some(mark) = self.orphan_to_avoid() {
            view.get(&mark)?;
        }
        let attempted = match self.only_reads() {
            true => gavel_fs::attempt(view, &self.cx, &self.operation).0,
            false => gavel_fs::attempt_to_ship(view, &self.cx, &self.operation).0,
        };
        let reply = match attempted {
            Err(Stop::View(error)) => return Err(error),
            Ok((None, reply)) => reply,
            // An error, or something to commit: its answer is filled in from a later state.
            _ => return Ok(()),
        };
        for object in self.described(&reply) {
            view.get(&Key::attr(self.cx.volume, object))?;
        }
        match (matches!(reply, Reply::Data(_)), &self.operation) {
            (false, Operation::Setattr { .. }) => match self.finish(view, reply) {
                Step::Done(Err(TreeError::Storage { cause, .. })) => Err(ViewError::Storage { cause }),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
