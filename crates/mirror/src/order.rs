//! Which frame may follow which.
//!
//! ```text
//!   nothing --header--> between --step--> within --step's end--> between --end--> over
//!                         | ^               | ^
//!                         +-+ reached       +-+ rows, blob, same
//! ```

use crate::compare::Partial;
use crate::stream::{Frame, RUNS_MAX, Row, StepHead, Totals};
use gavel_types::limits::{BLOB_BYTES_MAX, NOTE_BYTES_MAX};
use gavel_types::{KeyParts, ObjectId, Tid};
use gavel_wire::{Attr, Record};

/// How far a stream has come.
#[derive(Debug, Default)]
pub struct Order {
    place: Place,
    /// The last state that the stream has led to.
    at: Tid,
    /// The state that it is to end with.
    to: Option<Tid>,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Nothing,
    Between,
    Within(Within),
    Over,
}

#[derive(Debug)]
struct Within {
    to: Tid,
    totals: Totals,
    /// The object of the last row, and whether it may have more.
    object: ObjectId,
    open: bool,
    /// It compares: it has begun with a [`Frame::Same`].
    compares: bool,
}

impl Order {
    /// Was the last frame taken?
    pub fn is_over(&self) -> bool {
        matches!(self.place, Place::Over)
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// Why it may not come here.
    pub fn take(&mut self, frame: &Frame) -> Result<(), &'static str> {
        let place = std::mem::take(&mut self.place);
        self.place = match (place, frame) {
            (Place::Nothing, Frame::Header(header)) => {
                (self.at, self.to) = (header.from, header.to);
                if header.to.is_some_and(|to| to < header.from) {
                    return Err("it ends before it begins");
                }
                if !header.selection.is_sound() {
                    return Err("what it says that it has a part of makes no sense");
                }
                let is_later = |partial: Partial| header.to.is_some_and(|to| to < partial.since);
                let whole = header.from == Tid::ZERO && header.selection.is_all();
                if header.partial.is_some_and(|partial| !whole || is_later(partial)) {
                    return Err("what it goes on with is no part of a whole copy, or a later state");
                }
                Place::Between
            }
            (Place::Between, Frame::Step(head)) => self.begin(head)?,
            (Place::Within(mut within), Frame::Rows(rows)) => {
                rows.iter().try_for_each(|row| within.row(row))?;
                within.totals.rows += rows.len() as u64;
                Place::Within(within)
            }
            (Place::Within(mut within), Frame::Same(runs)) => {
                within.same(runs)?;
                Place::Within(within)
            }
            (Place::Within(mut within), Frame::Blob(bytes)) => {
                if bytes.is_empty() || bytes.len() > BLOB_BYTES_MAX {
                    return Err("a blob of no size that a blob has");
                }
                within.totals.blobs += 1;
                Place::Within(within)
            }
            (Place::Within(within), Frame::StepEnd(totals)) if within.totals == *totals => {
                self.at = within.to;
                Place::Between
            }
            (Place::Within(_), Frame::StepEnd(_)) => return Err("the step has had other rows and blobs than it says"),
            (Place::Between, Frame::Reached(tid)) => {
                self.reach(*tid)?;
                Place::Between
            }
            (Place::Between, Frame::End(tid)) => {
                self.reach(*tid)?;
                if self.to.is_some_and(|to| to != *tid) {
                    return Err("it ends with another state than it says at its beginning");
                }
                Place::Over
            }
            _ => return Err("such a frame does not come here"),
        };
        Ok(())
    }

    fn begin(&self, head: &StepHead) -> Result<Place, &'static str> {
        if head.from != self.at || head.to <= head.from {
            return Err("the step does not begin where the one before has ended");
        }
        if self.to.is_some_and(|to| head.to > to) {
            return Err("the step leads behind the end of the stream");
        }
        if head.author.as_ref().is_some_and(|author| author.note.len() > NOTE_BYTES_MAX) {
            return Err("a note is too long");
        }
        let (totals, object) = (Totals::default(), ObjectId::VOLUME);
        Ok(Place::Within(Within { to: head.to, totals, object, open: false, compares: false }))
    }

    fn reach(&mut self, tid: Tid) -> Result<(), &'static str> {
        if tid < self.at {
            return Err("it goes back");
        }
        self.at = tid;
        Ok(())
    }
}

impl Within {
    fn same(&mut self, runs: &[(ObjectId, ObjectId)]) -> Result<(), &'static str> {
        if !self.compares && self.totals != Totals::default() {
            return Err("a step compares that did not begin so");
        }
        if runs.len() > RUNS_MAX {
            return Err("there are too many runs");
        }
        self.compares = true;
        for (first, last) in runs {
            if *first <= self.object || last < first {
                return Err("runs are out of order");
            }
            self.object = *last;
        }
        self.open = false;
        Ok(())
    }

    fn row(&mut self, row: &Row) -> Result<(), &'static str> {
        let (object, parts) = (row.key.object(), row.key.parts());
        if let KeyParts::Orphan { .. } | KeyParts::Commit { .. } | KeyParts::Boundary = parts {
            return Err("a row of no object");
        }
        if self.compares && row.record.is_none() {
            return Err("an end, in a step that compares");
        }
        match (&row.record, parts) {
            (Some(Record::Attr(attr)), KeyParts::Attr) if object > self.object && is_named(attr) => {
                (self.object, self.open) = (object, true);
                Ok(())
            }
            (None, KeyParts::Attr) if object == self.object && self.open => {
                self.open = false;
                Ok(())
            }
            (_, KeyParts::Attr) => Err("attributes are out of order, or none of a file that can be found"),
            _ if object == self.object && self.open => Ok(()),
            _ => Err("a row is not behind its object's attributes"),
        }
    }
}

/// Does the object have a name, or is it a root?
pub(crate) fn is_named(attr: &Attr) -> bool {
    attr.nlink > 0
}
