//! Rows of a step, as requests to the mirror's log.

use crate::stream::{Row, StepHead, row_bytes};
use gavel_types::{Key, KeyParts, Tid, VolumeId};
use gavel_wire::{Author, MirrorStep, Record, UnderWay};

/// Rows of a part have so many bytes, about.
pub const PART_BYTES_MAX: usize = 1024 * 1024;
/// Most rows of a part.
pub const PART_ROWS_MAX: usize = 4096;

/// A step that is being divided into parts.
#[derive(Debug)]
pub struct Parts {
    volume: VolumeId,
    head: StepHead,
    part: u32,
    rows: Vec<(Key, Option<Record>)>,
    bytes: usize,
    /// The attributes of the object that the last row is of.
    attr: Option<(Key, Record)>,
    /// The first part goes on with this.
    resumes: Option<UnderWay>,
    rows_max: usize,
}

impl Parts {
    /// A step of `volume`, the mirror.
    pub fn new(volume: VolumeId, head: StepHead) -> Parts {
        Parts { volume, head, part: 0, rows: Vec::new(), bytes: 0, attr: None, resumes: None, rows_max: PART_ROWS_MAX }
    }

    /// The same, and it goes on with a whole copy of which so much is there.
    pub(crate) fn resuming(self, resumes: Option<UnderWay>) -> Parts {
        Parts { resumes, ..self }
    }

    /// The same, in parts of so many rows at most.
    pub(crate) fn of_rows(self, rows_max: usize) -> Parts {
        Parts { rows_max, ..self }
    }

    /// The step.
    pub fn head(&self) -> &StepHead {
        &self.head
    }

    /// The next row. Gives a part if one is complete.
    pub fn row(&mut self, row: Row) -> Option<MirrorStep> {
        let full = (self.bytes >= PART_BYTES_MAX || self.rows.len() >= self.rows_max).then(|| self.cut(false));
        let is_attr = row.key.parts() == KeyParts::Attr;
        let key = row.key.in_volume(self.volume);
        if is_attr {
            self.attr = row.record.clone().map(|record| (key.clone(), record));
        } else if self.rows.is_empty()
            && let Some((key, record)) = &self.attr
        {
            // Nothing of an object changes without its attributes.
            self.rows.push((key.clone(), Some(record.clone())));
        }
        self.bytes += row_bytes(&row);
        self.rows.push((key, row.record));
        full
    }

    /// The step is complete: its last part.
    pub fn end(&mut self) -> MirrorStep {
        self.cut(true)
    }

    fn cut(&mut self, last: bool) -> MirrorStep {
        let part = self.part;
        (self.part, self.bytes) = (part + 1, 0);
        MirrorStep {
            volume: self.volume,
            from: self.head.from,
            to: self.head.to,
            part,
            last,
            single: self.head.single,
            resumes: self.resumes.take(),
            rows: std::mem::take(&mut self.rows),
            author: self.head.author.clone().unwrap_or_else(|| Author::user(0)),
            stored_as_of: Tid::MAX,
        }
    }
}
