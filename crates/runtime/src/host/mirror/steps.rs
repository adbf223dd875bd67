//! Steps of copies that have all of a volume, or a part of it.

use gavel_mirror::{Compared, Part, PartCompared, PartRows, Partial, Piece, Read, Row, Rows, Step};
use gavel_types::{ObjectId, Tid, VolumeId};
use gavel_wire::ViewError;
use gavel_wire::past::Past;

/// The rows of a step.
pub(super) enum StepRows {
    All(Box<Rows>),
    Part(Box<PartRows>),
}

impl StepRows {
    pub(super) fn new(volume: VolumeId, step: Step, part: Option<Part>) -> StepRows {
        match part {
            None => StepRows::All(Box::new(Rows::new(volume, step))),
            Some(part) => StepRows::Part(Box::new(PartRows::new(part, step))),
        }
    }

    pub(super) fn page(&mut self, past: &dyn Past, bytes_max: usize) -> Result<Option<Vec<Row>>, ViewError> {
        match self {
            StepRows::All(rows) => rows.page(past, bytes_max),
            StepRows::Part(rows) => rows.page(past, bytes_max),
        }
    }

    /// Was one of these objects in the copy before the step?
    pub(super) fn had_any(&mut self, past: &dyn Past, objects: &[ObjectId]) -> Result<bool, ViewError> {
        let StepRows::Part(rows) = self else { return Ok(!objects.is_empty()) };
        for object in objects {
            if rows.had(past, *object)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn read(&self) -> Read {
        match self {
            StepRows::All(rows) => rows.read,
            StepRows::Part(rows) => rows.read,
        }
    }

    pub(super) fn into_part(self) -> Option<Part> {
        match self {
            StepRows::All(_) => None,
            StepRows::Part(rows) => Some(rows.into_part()),
        }
    }
}

/// Which blobs a copy has.
#[derive(Clone, Copy)]
pub(super) enum Has {
    /// All that the volume names as of this state.
    State(Tid),
    /// What is there of a whole copy that broke off names them: what was so, and is as of the second state, it has got.
    Part(Partial, Tid),
}

/// What is said in a step that compares.
pub(super) enum Comparing {
    All(Compared, Has),
    Part(Box<PartCompared>),
}

impl Comparing {
    pub(super) fn new(volume: VolumeId, (from, to): (Tid, Tid), part: Option<Part>) -> Comparing {
        match part {
            None => Comparing::All(Compared::new(volume, from, to), Has::State(from)),
            Some(part) => Comparing::Part(Box::new(PartCompared::new(part, from, to))),
        }
    }

    /// With a whole copy that broke off.
    pub(super) fn partial(volume: VolumeId, partial: Partial, to: Tid) -> Comparing {
        Comparing::All(Compared::partial(volume, partial, to), Has::Part(partial, to))
    }

    pub(super) fn page(&mut self, past: &dyn Past, bytes_max: usize) -> Result<Option<Piece>, ViewError> {
        match self {
            Comparing::All(compared, _) => compared.page(past, bytes_max),
            Comparing::Part(compared) => compared.page(past, bytes_max),
        }
    }

    /// Which blobs the copy has. (Which part of the volume it had as of a state that is gone, nobody knows.)
    pub(super) fn has(&self) -> Has {
        match self {
            Comparing::All(_, has) => *has,
            Comparing::Part(_) => Has::State(Tid::ZERO),
        }
    }

    pub(super) fn read(&self) -> Read {
        match self {
            Comparing::All(compared, _) => compared.read,
            Comparing::Part(compared) => compared.read,
        }
    }

    pub(super) fn into_part(self) -> Option<Part> {
        match self {
            Comparing::All(..) => None,
            Comparing::Part(compared) => Some(compared.into_part()),
        }
    }
}
