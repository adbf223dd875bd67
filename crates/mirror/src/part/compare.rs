//! A step of a copy that has a part of its source, from a state that the source has no more: what is there is compared with what the copy has.
//!
//! As in [`crate::compare`]. But an object that has not changed may be in the copy only now, if a directory above it was moved. So it is as it was if each
//! name on each of its paths is so, too.

use super::walk::{IDS_MAX, Ids};
use super::{Part, names};
use crate::compare::Piece;
use crate::scan::run_on;
use crate::source::Read;
use crate::stream::RUNS_MAX;
use crate::work::{Page, Queue};
use gavel_types::limits::DEPTH_MAX;
use gavel_types::{Key, ObjectId, Tid};
use gavel_wire::ViewError;
use gavel_wire::past::Past;
use std::collections::BTreeMap;

/// Directories of which it is remembered whether they are where they were.
const SETTLED_MAX: usize = 65_536;

/// What the source says of the state `to`, to a copy of a part that is what it was as of `at`.
#[derive(Debug)]
pub struct PartCompared {
    part: Part,
    at: Tid,
    to: Tid,
    ids: Ids,
    queue: Queue,
    /// Directories, and whether no name on their paths was put later than `at`.
    settled: BTreeMap<ObjectId, bool>,
    /// What was read so far.
    pub read: Read,
}

impl PartCompared {
    /// Of a part, for a copy that is what the part was as of `at`.
    pub fn new(part: Part, at: Tid, to: Tid) -> PartCompared {
        let ids = Ids::new(vec![ObjectId::ROOT], vec![to], IDS_MAX);
        let queue = Queue::new(part.volume, (Tid::ZERO, to), Some(part.selector.clone()));
        PartCompared { part, at, to, ids, queue, settled: BTreeMap::new(), read: Read::default() }
    }

    /// What was found out of the part, for the next step.
    pub fn into_part(self) -> Part {
        self.part
    }

    /// The next piece: rows of about `bytes_max`, or up to [`RUNS_MAX`] runs. None at the end.
    ///
    /// # Errors
    /// As the past's.
    pub fn page(&mut self, past: &dyn Past, bytes_max: usize) -> Result<Option<Piece>, ViewError> {
        let (mut runs, mut page) = (Vec::<(ObjectId, ObjectId)>::new(), Page::new(bytes_max));
        while !page.is_full() {
            if self.queue.go_on(past, &mut page, &mut self.read)? {
                continue;
            }
            let Some(object) = self.ids.peek(past, &mut self.part, &mut self.read)? else { break };
            let is_same = self.is_same(past, object)?;
            // Rows and runs take turns, in the order of ids.
            if is_same && !page.rows.is_empty() || !is_same && !runs.is_empty() || runs.len() >= RUNS_MAX {
                break;
            }
            self.ids.take();
            if is_same {
                run_on(&mut runs, object);
            } else if let Some(shown) = self.part.shown(past, self.to, object, &mut self.read)? {
                self.queue.attr(object, Some(shown.attr));
                self.queue.put_all(object, shown.footing);
            }
        }
        Ok(if runs.is_empty() { page.some().map(Piece::Rows) } else { Some(Piece::Same(runs)) })
    }

    fn is_same(&mut self, past: &dyn Past, object: ObjectId) -> Result<bool, ViewError> {
        self.read.records += 1;
        let found = past.at(self.to).get(&Key::attr(self.part.volume, object))?;
        if found.is_none_or(|version| version.create > self.at) {
            return Ok(false);
        }
        for (key, since) in names(past, (self.part.volume, object), self.to, &mut self.read)? {
            if since > self.at || !self.is_settled(past, key.object())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Is a directory where it was?
    fn is_settled(&mut self, past: &dyn Past, directory: ObjectId) -> Result<bool, ViewError> {
        let (mut way, mut here) = (Vec::new(), directory);
        let is_settled = loop {
            if here == ObjectId::ROOT {
                break true;
            }
            if let Some(known) = self.settled.get(&here) {
                break *known;
            }
            way.push(here);
            let name = names(past, (self.part.volume, here), self.to, &mut self.read)?.pop();
            match name {
                Some((key, since)) if since <= self.at && way.len() <= DEPTH_MAX => here = key.object(),
                _ => break false,
            }
        };
        if self.settled.len() + way.len() > SETTLED_MAX {
            self.settled.clear();
        }
        self.settled.extend(way.into_iter().map(|directory| (directory, is_settled)));
        Ok(is_settled)
    }
}
