//! What is to be done about each frame of a stream, for a mirror that stands at a boundary.
//!
//! What comes out is to be done in this order. It may be under way while the next frame is taken: a part that is not applied has all behind it refused.

use crate::compare::Partial;
use crate::parts::{PART_ROWS_MAX, Parts};
use crate::stream::{Frame, Header, Row, StepHead};
use gavel_types::{KeyParts, MirrorSource, ObjectId, Selection, Tid, VolumeId};
use gavel_wire::{MirrorStep, UnderWay};

/// A state that is the same as the boundary moves it only if it is later by so much.
const REACHED_NS: u64 = 30_000_000_000;

/// Where a mirror stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The mirror.
    pub volume: VolumeId,
    /// What it copies.
    pub source: MirrorSource,
    /// Which part of that.
    pub selection: Selection,
    /// The state of the source that its boundary is.
    pub at: Tid,
    /// The step that is under way.
    pub step: Option<Broken>,
}

/// A step that was broken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// How far it has come.
    pub at: UnderWay,
    /// What has come of it is of this state of the source, or of a later one.
    pub since: Tid,
    /// The last object that is there; none if the mirror shows something, or nothing is there.
    pub last: Option<ObjectId>,
}

impl Broken {
    /// What of a whole copy is there, if it is one.
    pub fn partial(&self) -> Option<Partial> {
        self.last.map(|before| Partial { since: self.since, before })
    }
}

/// Why a sound stream is not taken. Nothing of it was.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotTaken {
    /// It is of another volume.
    #[error(
        "the stream is of volume {name} ({} of cluster {}, made at {}), and the mirror is of volume {} of cluster {}, made at {}",
        found.volume, found.cluster, found.made, wanted.volume, wanted.cluster, wanted.made
    )]
    OtherVolume {
        /// What the stream's volume was called.
        name: Box<str>,
        /// That volume.
        found: MirrorSource,
        /// The mirror's source.
        wanted: MirrorSource,
    },
    /// It is of another part of the volume.
    #[error("the stream has {found} of volume {name}, and the mirror has {wanted} of it")]
    OtherPart {
        /// What the volume was called.
        name: Box<str>,
        /// What the stream has.
        found: Selection,
        /// What the mirror has.
        wanted: Selection,
    },
    /// It is a whole copy, and does not say what of the mirror is not there any more.
    #[error("the stream is a whole copy, and the mirror has come to {at} already")]
    Whole {
        /// The mirror's boundary.
        at: Tid,
    },
    /// It goes on with what is not there.
    #[error("the stream goes on with a whole copy that was broken off, of which {wanted} must be there; {}", there(*found))]
    Partial {
        /// What must be there.
        wanted: Partial,
        /// What is.
        found: Option<Partial>,
    },
    /// It begins too late.
    #[error("the stream begins with state {from} of the source, and the mirror has come to {at} only")]
    Gap {
        /// Where it begins.
        from: Tid,
        /// The mirror's boundary.
        at: Tid,
    },
    /// It begins too early with a step of several transactions: what was made and removed among them may be in the mirror, and not in the step.
    #[error("the stream goes from state {from} of the source over a gap, and the mirror has come to {at} already")]
    Across {
        /// Where the step begins.
        from: Tid,
        /// The mirror's boundary.
        at: Tid,
    },
}

fn there(found: Option<Partial>) -> String {
    found.map_or("nothing is".into(), |found| format!("{found} is"))
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// Store these bytes on a majority.
    Store(Vec<u8>),
    /// Ship this part of a step. What it names was stored, or is named by the mirror.
    Part(MirrorStep),
    /// Take these rows into the step that is under way ([`Receiver::row`]).
    Rows(Vec<Row>),
    /// Take in the ends of all objects from the first on and before the second that the mirror has ([`Ends::of_objects`]).
    ///
    /// [`Ends::of_objects`]: crate::Ends::of_objects
    EndObjects(ObjectId, ObjectId),
    /// Take in the ends of all that belongs to this object ([`Ends::of_parts`]).
    ///
    /// [`Ends::of_parts`]: crate::Ends::of_parts
    EndParts(ObjectId),
    /// The step is complete: ship its last part ([`Receiver::close`]).
    Close,
    /// A step to another state is under way: go back to the boundary first.
    GoBack,
    /// What the mirror has is not its boundary, but all that is there now: ends are of that.
    Resume,
    /// The stream is over.
    End(Tid),
}

/// What a stream has been, so far.
#[derive(Debug)]
pub struct Receiver {
    standing: Standing,
    /// Most rows of a part.
    part_rows: usize,
    parts: Option<Parts>,
    /// Where the stream says that the step begins.
    from: Tid,
    /// What of a whole copy is there, with which the stream goes on.
    partial: Option<Partial>,
    /// Of a step that compares: the first id that it has not spoken of.
    compared: Option<ObjectId>,
    /// Steps that the mirror has had already.
    pub passed_over: u64,
    /// Steps that were complete.
    pub steps: u64,
    /// Rows of steps.
    pub rows: u64,
}

impl Receiver {
    /// For a mirror that stands so.
    pub fn new(standing: Standing) -> Receiver {
        let (parts, partial, compared) = (None, None, None);
        let (part_rows, from) = (PART_ROWS_MAX, Tid::ZERO);
        Receiver { standing, part_rows, parts, from, partial, compared, passed_over: 0, steps: 0, rows: 0 }
    }

    /// The same, in parts of so many rows at most instead of [`PART_ROWS_MAX`].
    pub fn in_parts_of(self, part_rows: usize) -> Receiver {
        Receiver { part_rows, ..self }
    }

    /// The state of the source to which all that came out leads, when it is done.
    pub fn at(&self) -> Tid {
        self.standing.at
    }

    /// What is to be done about the next frame.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn take(&mut self, frame: Frame) -> Result<Vec<Act>, NotTaken> {
        Ok(match frame {
            Frame::Header(header) => {
                self.check(header)?;
                Vec::new()
            }
            Frame::Step(head) => self.begin(head)?,
            Frame::Rows(rows) => {
                let Some(parts) = &mut self.parts else { return Ok(Vec::new()) };
                self.rows += rows.len() as u64;
                match self.compared {
                    None => rows.into_iter().filter_map(|row| parts.row(row)).map(Act::Part).collect(),
                    Some(_) => self.compare(rows),
                }
            }
            Frame::Same(runs) => self.same(&runs)?,
            Frame::Blob(bytes) => self.parts.iter().map(|_| Act::Store(bytes.clone())).collect(),
            Frame::StepEnd(_) => match self.compared.take() {
                None => self.close().map(Act::Part).into_iter().collect(),
                Some(next) => vec![Act::EndObjects(next, ObjectId(u64::MAX)), Act::Close],
            },
            // While nothing changes, there is nothing to be written down each time.
            Frame::Reached(tid) if tid.0 < self.standing.at.0.saturating_add(REACHED_NS) => Vec::new(),
            Frame::Reached(tid) => self.reach(tid)?,
            Frame::End(tid) => {
                let mut acts = self.reach(tid)?;
                acts.push(Act::End(tid));
                acts
            }
        })
    }

    fn check(&mut self, header: Header) -> Result<(), NotTaken> {
        let Standing { source, at, step, .. } = self.standing;
        if header.source != source {
            return Err(NotTaken::OtherVolume { name: header.name, found: header.source, wanted: source });
        }
        let wanted = &self.standing.selection;
        if header.selection != *wanted {
            return Err(NotTaken::OtherPart { name: header.name, found: header.selection, wanted: wanted.clone() });
        }
        if header.from > at {
            return Err(NotTaken::Gap { from: header.from, at });
        }
        if let Some(wanted) = header.partial {
            let found = step.and_then(|step| step.partial());
            if found.is_none_or(|found| found.since != wanted.since || found.before < wanted.before) {
                return Err(NotTaken::Partial { wanted, found });
            }
            // It sends anew what it does not know to be there.
            self.partial = found;
        }
        Ok(())
    }

    fn begin(&mut self, head: StepHead) -> Result<Vec<Act>, NotTaken> {
        let at = self.standing.at;
        if head.to <= at {
            self.passed_over += 1;
            return Ok(Vec::new());
        }
        if head.from == Tid::ZERO && at != Tid::ZERO {
            return Err(NotTaken::Whole { at });
        }
        if head.from < at && !head.single {
            return Err(NotTaken::Across { from: head.from, at });
        }
        // One transaction may begin before the boundary: nothing else has changed since that state.
        self.from = head.from;
        let head = StepHead { from: at, ..head };
        let broken = self.standing.step.take();
        let resumes = broken.filter(|_| self.partial.is_some()).map(|broken| broken.at);
        let act = match broken {
            Some(_) if resumes.is_some() => Some(Act::Resume),
            Some(broken) if (broken.at.to, broken.since) != (head.to, head.to) => Some(Act::GoBack),
            _ => None,
        };
        self.parts = Some(Parts::new(self.standing.volume, head).resuming(resumes).of_rows(self.part_rows));
        Ok(act.into_iter().collect())
    }

    /// Objects that are as they were. What lies before them, and was not spoken of, is gone.
    fn same(&mut self, runs: &[(ObjectId, ObjectId)]) -> Result<Vec<Act>, NotTaken> {
        let Some(parts) = &self.parts else { return Ok(Vec::new()) };
        let at = parts.head().from;
        if self.from < at {
            return Err(NotTaken::Across { from: self.from, at });
        }
        let mut next = self.compared.unwrap_or(ObjectId::VOLUME);
        let mut acts = Vec::new();
        for (first, last) in runs {
            if next < *first {
                acts.push(Act::EndObjects(next, *first));
            }
            next = ObjectId(last.0.saturating_add(1));
        }
        self.compared = Some(next);
        Ok(acts)
    }

    /// Rows of objects that come anew.
    fn compare(&mut self, rows: Vec<Row>) -> Vec<Act> {
        let mut acts = Vec::new();
        for row in rows {
            let object = row.key.object();
            let begins = row.key.parts() == KeyParts::Attr;
            // Behind what is there of a whole copy, nothing has to end.
            if let (Some(partial), Some(next)) = (self.partial, self.compared)
                && begins
                && object > partial.before
            {
                if next <= partial.before {
                    acts.push(Act::EndObjects(next, ObjectId(partial.before.0.saturating_add(1))));
                }
                self.compared = Some(object);
                match acts.last_mut() {
                    Some(Act::Rows(rows)) => rows.push(row),
                    _ => acts.push(Act::Rows(vec![row])),
                }
                continue;
            }
            if begins {
                acts.extend(self.compared.filter(|next| *next < object).map(|next| Act::EndObjects(next, object)));
                self.compared = Some(ObjectId(object.0.saturating_add(1)));
            }
            match acts.last_mut() {
                Some(Act::Rows(rows)) if !begins => rows.push(row),
                _ => acts.push(Act::Rows(vec![row])),
            }
            if begins {
                acts.push(Act::EndParts(object));
            }
        }
        acts
    }

    /// Takes a row into the step that is under way. Gives a part if one is complete.
    pub fn row(&mut self, row: Row) -> Option<MirrorStep> {
        self.parts.as_mut().and_then(|parts| parts.row(row))
    }

    /// The last part of the step that is under way.
    pub fn close(&mut self) -> Option<MirrorStep> {
        let mut parts = self.parts.take()?;
        self.standing.at = parts.head().to;
        self.partial = None;
        self.steps += 1;
        Some(parts.end())
    }

    /// Nothing has changed up to there: a step without rows.
    fn reach(&mut self, tid: Tid) -> Result<Vec<Act>, NotTaken> {
        if tid <= self.standing.at {
            return Ok(Vec::new());
        }
        let head = StepHead { from: self.standing.at, to: tid, single: true, author: None };
        let mut acts = self.begin(head)?;
        acts.extend(self.close().map(Act::Part));
        Ok(acts)
    }
}
