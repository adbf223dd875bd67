//! Changes that are answered under exclusive leases, and committed in a moment: write-behind.

use crate::leases::Usable;
use crate::once::Once;
use crate::pending::{Asked, Pending};
use crate::run::{Run, Step};
use crate::tree::{Answer, Keep, TreeError};
use bytes::Bytes;
use gavel_fs::{FsError, Operation, Reply, Stop};
use gavel_lease::range::{guarded, lease_range_of, written};
use gavel_txn::Layered;
use gavel_types::{Blob, Key, KeyRange, Moment, ObjectId};
use gavel_wire::{Guard, Mutation, Plan, Record, View};
use std::collections::BTreeSet;

/// What comes of trying to answer a change at once.
#[derive(Clone, PartialEq, Debug)]
#[allow(clippy::large_enum_variant, reason = "taken apart at once; a box would be an allocation for each operation")]
pub enum Behind {
    /// The answer.
    Done {
        /// What the caller is told.
        result: Result<Answer, TreeError>,
        /// The plan that was accepted for it, if it changes anything.
        accepted: Option<Taken>,
    },
    /// Leases are lacking: shared ones to read these, exclusive ones to write those.
    Lacks {
        /// What is read.
        reads: Vec<KeyRange>,
        /// What is written.
        writes: Vec<KeyRange>,
    },
    /// Too much is pending: it can be tried again when something has landed.
    Full,
    /// It must be committed first.
    No,
}

/// A plan that [`Pending`] has accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Its number.
    pub number: u64,
    /// The object that it made, if it made one.
    pub made: Option<ObjectId>,
    /// The bytes that have to be stored on a majority before it can be shipped: then call [`Pending::stored`].
    pub store: Option<Blob<Bytes>>,
}

/// What has been found out about an operation.
struct Found {
    plan: Option<Plan>,
    reply: Result<Reply, FsError>,
    guards: Vec<Guard>,
    reads: Vec<KeyRange>,
}

impl Run {
    /// Tries to answer a change from `base`, the replica, and what is pending. The caller has looked at `usable` first, and keeps it in force until
    /// the answer is handed over; it took `base` while it held `pending`.
    pub fn step_behind(&mut self, base: &dyn View, pending: &mut Pending, usable: &Usable, now: Moment) -> Behind {
        let left_ns = usable.left_ns(now);
        if left_ns == 0 || !self.may_be_behind() {
            return Behind::No;
        }
        if pending.is_full() {
            return Behind::Full;
        }
        let had_id = self.cx.fresh.is_some();
        let base = &Once::new(base);
        let behind = match self.evaluate_with_id(base, pending, usable) {
            Some(found) => self.accept(base, pending, usable, now, found),
            None => Behind::No,
        };
        // What is shipped instead keeps the id: whoever has a lease in its neighbourhood is recalled for it, not for others.
        if matches!(behind, Behind::Done { accepted: None, .. }) && !had_id {
            self.cx.fresh.take().into_iter().for_each(|id| pending.put_back_id(id));
        }
        behind
    }

    /// The id that the object which the operation makes will have, if it has one already.
    pub fn id(&self) -> Option<ObjectId> {
        self.cx.fresh
    }

    fn evaluate_with_id(&mut self, base: &dyn View, pending: &mut Pending, usable: &Usable) -> Option<Found> {
        let view = Layered::new(base, pending.layer().clone());
        let (mut attempted, mut guards) = gavel_fs::attempt(&view, &self.cx, &self.operation);
        if matches!(attempted, Err(Stop::NeedObjectId)) {
            let volume = self.cx.volume;
            self.cx.fresh = Some(pending.take_id(|id| usable.writes.covers(&KeyRange::object(volume, id)))?);
            (attempted, guards) = gavel_fs::attempt(&view, &self.cx, &self.operation);
        }
        let (plan, reply) = match attempted {
            Ok((plan, Reply::Partly)) => return plan.and(None),
            Ok((plan, reply)) => (plan, Ok(reply)),
            Err(Stop::Error(error)) => (None, Err(error)),
            Err(_) => return None,
        };
        let mut reads: Vec<KeyRange> = guards.iter().map(guarded).collect();
        let orphan = self.orphan_to_avoid();
        if let Some(key) = &orphan {
            reads.push(lease_range_of(key));
            guards.push(Guard::Empty { range: KeyRange::one(key) });
        }
        let described: Vec<ObjectId> = reply.as_ref().map(|reply| self.described(reply)).unwrap_or_default();
        // What becomes of an object without a name, the quorum decides without asking those who hold leases.
        let written = plan.as_ref().map(objects_of).unwrap_or_default();
        let made = self.cx.fresh;
        let nameless = |object: &ObjectId| Some(*object) != made && self.is_without_name(&view, *object);
        let avoided = orphan.is_some_and(|key| !matches!(view.get(&key), Ok(None)));
        if avoided || written.iter().chain(&described).any(nameless) {
            return None;
        }
        reads.extend(described.iter().map(|object| KeyRange::one(&Key::attr(self.cx.volume, *object))));
        Some(Found { plan, reply, guards, reads })
    }

    fn accept(&mut self, base: &dyn View, pending: &mut Pending, usable: &Usable, now: Moment, found: Found) -> Behind {
        let Found { plan, reply, guards, reads } = found;
        let writes = plan.as_ref().map(written).unwrap_or_default();
        let lacking = |ranges: &[KeyRange], held: &gavel_lease::RangeSet| -> Vec<KeyRange> {
            ranges.iter().filter(|range| !held.covers(range)).cloned().collect()
        };
        let (no_reads, no_writes) = (lacking(&reads, &usable.reads), lacking(&writes, &usable.writes));
        if !no_reads.is_empty() || !no_writes.is_empty() {
            return Behind::Lacks { reads: no_reads, writes: no_writes };
        }
        let mut accepted = None;
        if let Some(plan) = plan {
            let time = pending.next_time(usable.cluster_ns(now), base.tid());
            let store = self.blob_to_store();
            let blob = store.as_ref().map(|blob| (blob.id(), blob.bytes().clone()));
            // What can't be applied is judged, and reported, where all such is.
            let asked = || self.give_away();
            let Ok(number) = pending.accept(base, time, plan, guards, blob, asked) else { return Behind::No };
            accepted = Some(Taken { number, made: self.cx.fresh, store });
        }
        let keeps = reads.iter().chain(&writes).all(|range| usable.keeps.covers(range));
        let left_ns = if keeps { usable.left_ns(now) } else { 0 };
        let view = Layered::new(base, pending.layer().clone());
        let result = match reply.map(|reply| self.finish(&view, reply)) {
            Ok(Step::Done(Ok(answer))) => {
                Ok(Answer { keep: Keep { names_ns: left_ns, attrs_ns: left_ns, bytes: false }, ..answer })
            }
            Ok(Step::Done(Err(error))) => Err(error),
            Err(FsError::NotFound) if self.absence_is_an_answer => Ok(Answer::of(Reply::Empty)),
            Err(error) => Err(error.into()),
            Ok(other) => unreachable!("what changes something is not answered with bytes of a file: {other:?}"),
        };
        Behind::Done { result, accepted }
    }

    /// What was asked for. Of the operation, what [`Run::finish`] looks at stays here.
    fn give_away(&mut self) -> Asked {
        let rest = match &self.operation {
            Operation::Setattr { object, set } => Operation::Setattr { object: *object, set: *set },
            _ => Operation::Getattr { object: ObjectId::ROOT },
        };
        let operation = std::mem::replace(&mut self.operation, rest);
        Asked { volume: self.cx.volume, caller: self.cx.caller, operation }
    }
}

/// The objects that a plan writes, but for directories' counters: these have names, or the plan could not be.
fn objects_of(plan: &Plan) -> BTreeSet<ObjectId> {
    let written = plan.mutations.iter().filter_map(|mutation| match mutation {
        Mutation::Put { record: Record::Dirent(_), .. } => None,
        Mutation::Put { key, .. } => Some(key.object()),
        Mutation::Delete { .. } => None,
        Mutation::Adjust { object, .. } | Mutation::Carve { object, .. } => Some(*object),
        Mutation::Orphan { object, .. } | Mutation::Append { object, .. } => Some(*object),
    });
    written.collect()
}
