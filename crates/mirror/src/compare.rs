//! A step from a state that the source has no more: what is there is compared with what the copy has.
//!
//! What was changed since a state that was pruned, the change index does not say: what was made and removed since has left no trace. But nothing of an object
//! changes without its attributes. So of each object that is there the source knows whether it is as it was, and says so ([`Compared`]); the others it sends
//! anew. What the copy has and the source says nothing of is gone there; what of an object that comes anew was there before, the copy knows itself
//! ([`Ends`]).
//!
//! A whole copy that was broken off is gone on with in the same way ([`Partial`]): its rows came in the order of keys, so all objects before the last one
//! that is there are what they were as of the state that it was a copy of.
//!
//! The source reads a whole state for it, and sends what has changed, object by object, and nothing else but runs of ids.

use crate::order::is_named;
use crate::scan::{Scan, run_on};
use crate::source::Read;
use crate::stream::{RUNS_MAX, Row, row_bytes};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::Past;
use gavel_wire::{Record, ViewError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What the source says of the state `to`, to a copy that is what it was as of `at`.
#[derive(Debug)]
pub struct Compared {
    volume: VolumeId,
    at: Tid,
    to: Tid,
    /// The copy may have nothing of the objects from this one on.
    before: ObjectId,
    scan: Scan,
    /// The object that the next rows are of, if they are to be given out.
    object: Option<ObjectId>,
    /// What was read so far.
    pub read: Read,
}

/// What is there of a whole copy that was broken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Partial {
    /// The state that it was a copy of, when it was begun.
    pub since: Tid,
    /// All objects before this one are there. Of this one a part may be, of those behind it nothing.
    pub before: ObjectId,
}

impl fmt::Display for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", self.since, self.before)
    }
}

impl FromStr for Partial {
    type Err = ();

    fn from_str(text: &str) -> Result<Partial, ()> {
        let (since, before) = text.split_once('~').ok_or(())?;
        let before = ObjectId(before.parse().map_err(|_| ())?);
        Ok(Partial { since: since.parse().map_err(|_| ())?, before })
    }
}

/// Some of that, in the order of ids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// All objects with these ids are there, as they were: runs, the first and the last of each.
    Same(Vec<(ObjectId, ObjectId)>),
    /// All that is there of some objects.
    Rows(Vec<Row>),
}

impl Compared {
    /// Of a volume, for a copy that is what the volume was as of `at`.
    pub fn new(volume: VolumeId, at: Tid, to: Tid) -> Compared {
        let scan = Scan::new(KeyRange::of_objects(volume));
        let before = ObjectId(u64::MAX);
        Compared { volume, at, to, before, scan, object: None, read: Read::default() }
    }

    /// Of a volume, for a copy that was broken off.
    pub fn partial(volume: VolumeId, partial: Partial, to: Tid) -> Compared {
        Compared { before: partial.before, ..Compared::new(volume, partial.since, to) }
    }

    /// The next piece: rows of about `bytes_max`, or up to [`RUNS_MAX`] runs. None at the end.
    ///
    /// # Errors
    /// As the past's.
    pub fn page(&mut self, past: &dyn Past, bytes_max: usize) -> Result<Option<Piece>, ViewError> {
        let (mut runs, mut rows, mut bytes) = (Vec::<(ObjectId, ObjectId)>::new(), Vec::new(), 0);
        while bytes < bytes_max {
            let Some((key, version)) = self.scan.next(past, self.to, &mut self.read)? else { break };
            debug_assert_eq!(key.volume(), self.volume);
            let object = key.object();
            let is_same = match &version.record {
                Record::Attr(attr) => {
                    let is_same = version.create <= self.at && object < self.before;
                    self.object = (is_named(attr) && !is_same).then_some(object);
                    is_named(attr) && is_same
                }
                _ => false,
            };
            let is_row = self.object == Some(object);
            // Rows and runs take turns, in the order of ids.
            if is_same && !rows.is_empty() || is_row && !runs.is_empty() || is_same && runs.len() >= RUNS_MAX {
                self.scan.put_back((key, version));
                break;
            }
            if is_same {
                run_on(&mut runs, object);
            }
            if is_row {
                let row = Row { key, record: Some(version.record) };
                bytes += row_bytes(&row);
                rows.push(row);
            }
        }
        Ok(match (runs.is_empty(), rows.is_empty()) {
            (true, true) => None,
            (false, _) => Some(Piece::Same(runs)),
            (true, false) => Some(Piece::Rows(rows)),
        })
    }
}

/// The ends of what a copy has, as rows of a step: of some objects, or of all of one object but for its attributes.
#[derive(Debug)]
pub struct Ends {
    local: Tid,
    scan: Scan,
    /// The objects end, too: their attributes come first, and their end last.
    whole: bool,
    /// The attributes of the object that is ending.
    ending: Option<Key>,
    read: Read,
}

impl Ends {
    /// Of all objects from `from` on and before `before` that the copy has as of `local`.
    pub fn of_objects(volume: VolumeId, local: Tid, from: ObjectId, before: ObjectId) -> Ends {
        let mut range = KeyRange::of_objects(volume);
        range.start = KeyRange::object(volume, from).start.max(range.start);
        range.end = KeyRange::object(volume, before).start.min(range.end);
        Ends { local, scan: Scan::new(range), whole: true, ending: None, read: Read::default() }
    }

    /// Of what belongs to one object, which stays.
    pub fn of_parts(volume: VolumeId, local: Tid, object: ObjectId) -> Ends {
        let scan = Scan::new(KeyRange::object(volume, object));
        Ends { local, scan, whole: false, ending: None, read: Read::default() }
    }

    /// The next rows: about `bytes_max`. None at the end.
    ///
    /// # Errors
    /// As the past's.
    pub fn page(&mut self, past: &dyn Past, bytes_max: usize) -> Result<Option<Vec<Row>>, ViewError> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max {
            let Some((key, version)) = self.scan.next(past, self.local, &mut self.read)? else {
                rows.extend(self.ending.take().map(|key| Row { key, record: None }));
                break;
            };
            if key.parts() == KeyParts::Attr {
                if !self.whole {
                    continue;
                }
                let before = self.ending.replace(key.clone());
                rows.extend(before.map(|key| Row { key, record: None }));
                rows.push(Row { key, record: Some(version.record) });
            } else {
                rows.push(Row { key, record: None });
            }
            bytes += rows.last().map_or(0, row_bytes);
        }
        Ok(Some(rows).filter(|rows| !rows.is_empty()))
    }
}
