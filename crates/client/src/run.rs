//! One operation on its way: evaluated, shipped, evaluated again until it has an answer.
//!
//! States: (storing bytes) -> evaluating -> confirming or committing -> evaluating ... -> fetching -> done.
//!
//! The host calls [`Run::step`] with a view, does what the [`Step`] says, tells the result to the run and calls again, with a
//! view that is at least as new as the result says.

use crate::tree::{Answer, TreeError, TreeRequest};
use bytes::Bytes;
use gavel_fs::operation::{Caller, Cx, Listed, Operation, Piece, Reply};
use gavel_fs::{FsError, Stop};
use gavel_lease::RangeSet;
use gavel_lease::range::guarded;
use gavel_types::limits::{INLINE_BYTES_MAX, WRITE_BYTES_MAX};
use gavel_types::{Blob, BlobId, Key, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{Attr, Author, Content, Guard, Outcome, Plan, Record, Refusal, View};
use std::collections::BTreeMap;

/// An operation that has collided so often gives up: something is wrong, or it is hopelessly slower than its rivals.
const CONFLICTS_MAX: u32 = 1000;

/// Bytes of blobs that a read needs, by name.
pub type Blobs = BTreeMap<BlobId, Bytes>;

/// What the run needs next.
#[derive(Clone, PartialEq, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "every step is taken apart at once; a box would be an allocation for each operation"
)]
pub enum Step {
    /// Store these bytes as a blob on a majority, then call [`Run::stored`].
    Store(Bytes),
    /// Ask the quorum from which entry on a view is current, and that nobody holds these ranges exclusively as of it; then step again with
    /// such a view, after [`Run::confirmed`].
    Confirm(Vec<KeyRange>),
    /// A fresh object id, for [`Run::fresh_id`].
    NeedObjectId,
    /// Ship this; then [`Run::outcome`], and step again with a view that holds the commit.
    Commit {
        /// What was read.
        guards: Vec<Guard>,
        /// What to write.
        plan: Plan,
        /// For whom.
        author: Author,
        /// As of when the blobs that it names were stored, or found.
        stored_as_of: Tid,
        /// The object that it makes, if this is the first time that it is shipped: [`Session::will_make`](crate::Session::will_make).
        made: Option<ObjectId>,
    },
    /// Fetch these blobs, then [`Run::fetched`].
    Fetch(Vec<BlobId>),
    /// The answer.
    Done(Result<Answer, TreeError>),
}

#[derive(Clone, PartialEq, Debug)]
enum Phase {
    /// The bytes of a write wait to be stored.
    Storing(Blob<Bytes>),
    Evaluating,
    /// Waits for the outcome of what was shipped; the reply is good once it is committed.
    Committing(Reply),
    /// Committed: the answer is filled in from a view that holds the commit.
    Committed(Reply),
    /// Waits for blobs.
    Fetching(Vec<Piece>),
}

/// One operation on its way. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Run {
    pub(crate) cx: Cx,
    pub(crate) operation: Operation,
    pub(crate) plus: bool,
    /// That there is no such name is an answer, not an error.
    pub(crate) absence_is_an_answer: bool,
    phase: Phase,
    /// The next view is current for these ranges.
    confirmed: Option<RangeSet>,
    /// What was asked to be confirmed.
    confirming: Vec<KeyRange>,
    /// The bytes of a write that are stored, and as of when.
    stored: Option<(Blob<Bytes>, Tid)>,
    /// This node holds the object open, name or no name.
    held: bool,
    /// It was shipped before.
    shipped: bool,
    conflicts: u32,
}

impl Run {
    /// An operation that begins. [`TreeRequest::Sync`], [`TreeRequest::Statfs`], [`TreeRequest::Resolve`] and locks are their host's own affair; of [`TreeRequest::Past`], what it
    /// holds is run, by [`Run::step_past`].
    ///
    /// # Errors
    /// [`TreeError`] if the request can't be an operation at all.
    pub fn new(volume: VolumeId, caller: Caller, request: TreeRequest) -> Result<Run, TreeError> {
        let mut phase = Phase::Evaluating;
        let mut plus = false;
        let mut absence_is_an_answer = false;
        let operation = match request {
            TreeRequest::Operation(operation) => operation,
            TreeRequest::Lookup { parent, name } => {
                absence_is_an_answer = true;
                Operation::Lookup { parent, name }
            }
            TreeRequest::Read { object, offset, len } => Operation::Read { object, offset, len },
            TreeRequest::ReaddirPlus { object, after, limit } => {
                plus = true;
                Operation::Readdir { object, after, limit }
            }
            TreeRequest::Write { object, offset, append, data, kill_suidgid } => {
                if data.len() > WRITE_BYTES_MAX {
                    return Err(FsError::Invalid.into());
                }
                let len = data.len() as u32;
                let content = if data.len() <= INLINE_BYTES_MAX {
                    Content::Inline(data.into())
                } else {
                    let blob = Blob::of(Bytes::from(data));
                    let id = blob.id();
                    phase = Phase::Storing(blob);
                    Content::Blob { id, blob_len: len, offset: 0 }
                };
                Operation::Write { object, offset, append, len, content, kill_suidgid }
            }
            TreeRequest::Sync { object } => Operation::Getattr { object },
            TreeRequest::Statfs
            | TreeRequest::Past { .. }
            | TreeRequest::Resolve { .. }
            | TreeRequest::Lock { .. }
            | TreeRequest::Unlock { .. }
            | TreeRequest::TestLock { .. }
            | TreeRequest::CancelLock { .. } => return Err(FsError::NotSupported.into()),
        };
        let cx = Cx { volume, caller, fresh: None };
        Ok(Run { absence_is_an_answer, phase, ..Run::bare(cx, operation, plus) })
    }

    /// An operation as it is evaluated, and nothing else of a run.
    pub(crate) fn bare(cx: Cx, operation: Operation, plus: bool) -> Run {
        let (confirmed, confirming, stored) = (None, Vec::new(), None);
        let (absence_is_an_answer, held, shipped, conflicts, phase) = (false, false, false, 0, Phase::Evaluating);
        Run {
            cx,
            operation,
            plus,
            absence_is_an_answer,
            phase,
            confirmed,
            confirming,
            stored,
            held,
            shipped,
            conflicts,
        }
    }

    /// Does the next step evaluate the operation?
    pub(crate) fn is_evaluating(&self) -> bool {
        matches!(self.phase, Phase::Evaluating)
    }

    /// Goes on, as far as it can with this view.
    pub fn step(&mut self, view: &dyn View) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Evaluating) {
            Phase::Storing(blob) => {
                let bytes = blob.bytes().clone();
                self.phase = Phase::Storing(blob);
                Step::Store(bytes)
            }
            Phase::Evaluating => self.evaluate(view),
            Phase::Committed(reply) => self.finish(view, reply),
            phase @ (Phase::Committing(_) | Phase::Fetching(_)) => {
                unreachable!("a run that waits ({phase:?}) is told what it waits for before it is stepped again")
            }
        }
    }

    /// The bytes of the write are stored on a majority, each member of which had applied this transaction.
    pub fn stored(&mut self, as_of: Tid) {
        if let Phase::Storing(blob) = std::mem::replace(&mut self.phase, Phase::Evaluating) {
            self.stored = Some((blob, as_of));
        }
    }

    /// The next view is current as of a moment after the run began, for all that [`Step::Confirm`] named.
    pub fn confirmed(&mut self) {
        self.confirmed = Some(std::mem::take(&mut self.confirming).into_iter().collect());
    }

    /// Leases over what it has read here are lacking.
    pub(crate) fn will_ask(&mut self, read: Vec<KeyRange>) {
        self.confirming = read;
    }

    /// The next step of a read that was found to lack leases ([`Leased::Lacks`](crate::Leased::Lacks)): what it read there is to be confirmed. The same as to evaluate
    /// it once more.
    pub fn ask(&mut self) -> Step {
        let read = std::mem::take(&mut self.confirming);
        self.confirm(read)
    }

    /// This node's session holds the object ([`Session::holds`](crate::Session::holds)): it can be opened although it
    /// has no name any more.
    pub fn held(&mut self) {
        self.held = true;
    }

    /// A fresh object id.
    pub fn fresh_id(&mut self, object: ObjectId) {
        self.cx.fresh = Some(object);
    }

    /// What became of the commit; `None` if it was lost with its session.
    ///
    /// # Errors
    /// [`TreeError`] if the run has to end here.
    pub fn outcome(&mut self, outcome: Option<Outcome>) -> Result<(), TreeError> {
        let Phase::Committing(reply) = std::mem::replace(&mut self.phase, Phase::Evaluating) else {
            unreachable!("only a run that has shipped something gets an outcome")
        };
        match outcome {
            // What is left of it is evaluated.
            Some(Outcome::Committed { .. }) if reply == Reply::Partly => {}
            Some(Outcome::Committed { .. }) => self.phase = Phase::Committed(reply),
            Some(Outcome::Refused { refusal: Refusal::BadPlan }) => {
                let cause = format!("the plan of {:?} was refused; please report this", self.operation);
                return Err(TreeError::Storage { cause, full: false });
            }
            Some(Outcome::Refused { refusal: Refusal::ReadOnly }) => return Err(FsError::ReadOnly.into()),
            Some(Outcome::Refused { .. } | Outcome::Allocated { .. } | Outcome::Waits) | None => {
                let collected = outcome == Some(Outcome::Refused { refusal: Refusal::Collected });
                if let Some((blob, _)) = self.stored.take_if(|_| collected) {
                    self.phase = Phase::Storing(blob);
                }
                self.conflicts += 1;
                if self.conflicts > CONFLICTS_MAX {
                    let cause = format!("collided with other nodes {CONFLICTS_MAX} times; nothing was changed");
                    return Err(TreeError::NoQuorum { cause });
                }
            }
        }
        Ok(())
    }

    /// The blobs that were asked for.
    pub fn fetched(&mut self, blobs: &Blobs) -> Step {
        let Phase::Fetching(pieces) = std::mem::replace(&mut self.phase, Phase::Evaluating) else {
            unreachable!("only a run that has asked for blobs gets them")
        };
        Step::Done(assemble(&pieces, blobs).map(|data| Answer { data, ..Answer::of(Reply::Empty) }))
    }

    /// The blob that the write's bytes become, if they do.
    pub fn blob(&self) -> Option<BlobId> {
        match &self.operation {
            Operation::Write { content: Content::Blob { id, .. }, .. } => Some(*id),
            _ => None,
        }
    }

    /// A read that has not been confirmed, nor been anything else.
    pub fn is_fresh_read(&self) -> bool {
        matches!(self.phase, Phase::Evaluating) && self.only_reads() && self.confirmed.is_none()
    }

    /// A change that has not been shipped.
    pub(crate) fn may_be_behind(&self) -> bool {
        matches!(self.phase, Phase::Evaluating | Phase::Storing(_)) && !self.only_reads() && !self.held
    }

    /// The bytes that [`Step::Store`] would have stored, or has: whoever commits them later can't rely on when that was.
    pub(crate) fn blob_to_store(&self) -> Option<Blob<Bytes>> {
        match &self.phase {
            Phase::Storing(blob) => Some(blob.clone()),
            _ => self.stored.as_ref().map(|(blob, _)| blob.clone()),
        }
    }

    pub(crate) fn only_reads(&self) -> bool {
        use Operation as O;
        match &self.operation {
            O::Lookup { .. } | O::Getattr { .. } | O::Readlink { .. } | O::Read { .. } | O::Seek { .. } => true,
            O::Readdir { .. } | O::Getxattr { .. } | O::Listxattr { .. } => true,
            O::Open { truncate, kill_suidgid, .. } => !truncate && !kill_suidgid,
            _ => false,
        }
    }

    fn evaluate(&mut self, view: &dyn View) -> Step {
        let orphan = self.orphan_to_avoid();
        let orphaned = match orphan.as_ref().map_or(Ok(None), |key| view.get(key)) {
            Ok(found) => found.is_some(),
            Err(error) => return Step::Done(Err(error.into())),
        };
        let (evaluated, mut guards) = if orphaned {
            (Err(Stop::Error(FsError::Stale)), Vec::new())
        } else {
            gavel_fs::attempt_to_ship(view, &self.cx, &self.operation)
        };
        guards.extend(orphan.map(|key| Guard::Empty { range: KeyRange::one(&key) }));
        match evaluated {
            Ok((Some(plan), reply)) => {
                self.phase = Phase::Committing(reply);
                // What it copies was named in this view.
                let stored_as_of = self.stored.as_ref().map_or(view.tid(), |(_, as_of)| view.tid().min(*as_of));
                let made = self.cx.fresh.filter(|_| !std::mem::replace(&mut self.shipped, true));
                Step::Commit { guards, plan, author: Author::user(self.cx.caller.uid), stored_as_of, made }
            }
            Err(Stop::NeedObjectId) => Step::NeedObjectId,
            Err(Stop::View(error)) => Step::Done(Err(error.into())),
            Ok((None, reply)) => match self.unconfirmed(&guards, &self.described(&reply)) {
                Some(ranges) => self.confirm(ranges),
                None => self.finish(view, reply),
            },
            Err(Stop::Error(error)) => match self.unconfirmed(&guards, &[]) {
                Some(ranges) => self.confirm(ranges),
                None if error == FsError::NotFound && self.absence_is_an_answer => {
                    Step::Done(Ok(Answer::of(Reply::Empty)))
                }
                None => Step::Done(Err(error.into())),
            },
        }
    }

    /// What was read, unless this view is current for all of it.
    fn unconfirmed(&self, guards: &[Guard], described: &[ObjectId]) -> Option<Vec<KeyRange>> {
        let described = described.iter().map(|object| KeyRange::one(&Key::attr(self.cx.volume, *object)));
        let read: Vec<KeyRange> = guards.iter().map(guarded).chain(described).collect();
        let is_current =
            self.confirmed.as_ref().is_some_and(|confirmed| read.iter().all(|range| confirmed.covers(range)));
        (!is_current).then_some(read)
    }

    fn confirm(&mut self, ranges: Vec<KeyRange>) -> Step {
        self.conflicts += 1;
        if self.conflicts > CONFLICTS_MAX {
            let cause = format!("what it reads was changed by other nodes {CONFLICTS_MAX} times; nothing was changed");
            return Step::Done(Err(TreeError::NoQuorum { cause }));
        }
        self.confirming = ranges.clone();
        Step::Confirm(ranges)
    }

    /// The mark that must not be there if the object is to be opened. One that has lost its last name may still be there,
    /// because others have it open; this node has said, or will say, that it does not hold it, and cannot take that back.
    pub(crate) fn orphan_to_avoid(&self) -> Option<Key> {
        match &self.operation {
            Operation::Open { object, .. } if !self.held => Some(Key::orphan(self.cx.volume, *object)),
            _ => None,
        }
    }

    /// The reply is good: what else the answer holds comes from the view.
    pub(crate) fn finish(&mut self, view: &dyn View, reply: Reply) -> Step {
        if let Reply::Data(pieces) = reply {
            return self.gather(pieces);
        }
        let mut answer = Answer::of(reply);
        let filled = self.fill(view, &mut answer);
        Step::Done(filled.map(|()| answer))
    }

    fn fill(&self, view: &dyn View, answer: &mut Answer) -> Result<(), TreeError> {
        match &answer.reply {
            Reply::Attr(_, attr) => answer.attr = Some(*attr),
            Reply::Object(object) | Reply::Created { object, .. } => answer.attr = self.attr(view, *object)?,
            Reply::Listing { names, .. } if self.plus => {
                let attrs = names.iter().map(|name: &Listed| self.attr(view, name.object));
                answer.listed = attrs.collect::<Result<_, _>>()?;
            }
            _ => {
                if let Operation::Setattr { object, .. } = &self.operation {
                    answer.attr = self.attr(view, *object)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn attr(&self, view: &dyn View, object: ObjectId) -> Result<Option<Attr>, TreeError> {
        let found = view.get(&Key::attr(self.cx.volume, object));
        Ok(found?.and_then(|version| match version.record {
            Record::Attr(attr) => Some(attr),
            _ => None,
        }))
    }

    fn gather(&mut self, pieces: Vec<Piece>) -> Step {
        let mut wanted: Vec<BlobId> = pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Blob { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.phase = Phase::Fetching(pieces);
        if wanted.is_empty() { self.fetched(&Blobs::new()) } else { Step::Fetch(wanted) }
    }
}

/// The bytes of a read. Those of one blob are not copied.
fn assemble(pieces: &[Piece], blobs: &Blobs) -> Result<Bytes, TreeError> {
    if let [Piece::Blob { id, offset, len, .. }] = pieces {
        return part(blobs, *id, *offset, *len);
    }
    let mut data = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => data.extend_from_slice(bytes),
            Piece::Zeros(len) => data.resize(data.len() + *len as usize, 0),
            Piece::Blob { id, offset, len, .. } => data.extend_from_slice(&part(blobs, *id, *offset, *len)?),
        }
    }
    Ok(data.into())
}

/// `len` bytes of a blob, from `offset` on.
fn part(blobs: &Blobs, id: BlobId, offset: u32, len: u32) -> Result<Bytes, TreeError> {
    let (from, to) = (offset as usize, offset as usize + len as usize);
    let blob = blobs.get(&id).filter(|blob| to <= blob.len());
    let lacking = || TreeError::Storage { cause: format!("blob {id} is missing or too short"), full: false };
    blob.map(|blob| blob.slice(from..to)).ok_or_else(lacking)
}
