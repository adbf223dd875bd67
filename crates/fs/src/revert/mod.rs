//! Makes a path what it was as of an earlier state: an undo, or a copy out of the past.
//!
//! It is a change like any other: plans with guards over the present, one after the other, each bounded. What is gone is made anew, with the same
//! contents and a new id (ids are never used twice). What is there and has changed is changed back, and what came later goes.
//!
//! [`Revert::step`] is a function of two views and of what is left to do; it makes the next plan. If the plan collides, the step is run again on a newer
//! view of the present: what is left to do has not moved.
//!
//! What is built up where nobody looks can be planned ahead ([`Revert::ahead`]): plans are made while those before them are still on their way. Such a plan
//! looks for nothing in the present that an earlier one makes, and says by guards that it must be there.
//!
//! - `step`: one plan in the making
//!
//! Invariants:
//! 1. A name of the present is removed only if it is what the plan's guards say; one that is made must be free.
//! 2. Behind each plan, directories count their names, and objects their links.
//! 3. Planned ahead, a plan whose predecessor was not committed is not committed either, as far as it needs what that one makes.

mod step;

use crate::Stop;
use gavel_types::{ObjectId, VolumeId};
use gavel_wire::{Dirent, Guard, Plan, View};
use std::collections::{BTreeMap, BTreeSet};
use step::Making;

/// Most mutations of one plan, but for the last object's: whoever applies it does nothing else meanwhile.
const STEP_MUTATIONS_MAX: usize = 16 * 1024;
/// Most bytes of one plan, roughly, but for the last object's.
const STEP_BYTES_MAX: usize = 1024 * 1024;
/// The same of a plan that is made ahead: nobody waits for each of them, and replicas are to have something to do early.
const AHEAD_BYTES_MAX: usize = 256 * 1024;
/// Most objects that one plan makes: a kernel may have to be told of each.
pub const STEP_OBJECTS_MAX: usize = 4096;
/// Names read of a directory at a time.
const NAMES_PAGE: usize = 1024;
/// Extents and attributes read at a time.
const ROWS_PAGE: usize = 256;

/// How many objects were made, changed back and removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reverted {
    /// Made anew; a further name of an object counts as one.
    pub made: u64,
    /// Changed back in place.
    pub changed: u64,
    /// Removed.
    pub removed: u64,
    /// Left as they are: the state has their names, but what they were is not kept.
    pub not_kept: u64,
}

/// Something left to do. What is done last is in front.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Work {
    /// A name becomes what it was. `of` is the directory that had it then, if that is made what it was, too.
    Name { parent: ObjectId, of: Option<ObjectId>, name: Box<[u8]>, then: Option<Dirent> },
    /// A name is made; what had it is gone.
    Make { parent: ObjectId, of: Option<ObjectId>, name: Box<[u8]>, then: Dirent },
    /// The names of a directory behind one of them: what it has now becomes what it, or another one, had then.
    Names { now: ObjectId, then: Option<ObjectId>, after: Option<Box<[u8]>> },
    /// The times of a directory become what they were.
    Times { now: ObjectId, then: ObjectId },
    /// A directory, by now without names, goes.
    Remove { parent: ObjectId, name: Box<[u8]>, object: ObjectId },
    /// The bytes of a file from here on become what they were.
    Bytes { now: ObjectId, then: ObjectId, from: u64 },
}

/// The way back, as far as it has been gone. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Revert {
    volume: VolumeId,
    work: Vec<Work>,
    /// Names of files that have changed and have other names: if one of these is changed back, they are links to it. Done when nothing else is left.
    links: Vec<Work>,
    /// Nothing else is left.
    late: bool,
    /// Objects of then with several names -> what stands for them now.
    made: BTreeMap<ObjectId, ObjectId>,
    /// Objects with several names that were changed back already, or need not be.
    settled: BTreeSet<ObjectId>,
    /// Planned ahead: the directories, and the files that lack bytes, that plans before this one make. None: plans see what those before them have done.
    built: Option<BTreeSet<ObjectId>>,
    reverted: Reverted,
}

/// What comes of a step.
#[derive(Clone, PartialEq, Debug)]
pub enum Reverting {
    /// Ship this. If it is committed, go on with [`Revert::step`]; if it collided, run this step again with the [`Revert`] from before it.
    Commit {
        /// What was read.
        guards: Vec<Guard>,
        /// What to write.
        plan: Plan,
        /// So many of the ids were taken.
        taken: usize,
    },
    /// More ids of objects are needed: run this step again with more.
    NeedObjectIds,
    /// It is as it was.
    Done,
}

impl Revert {
    /// Makes `name` in directory `parent` what `then` was; none: what was not there.
    pub fn new(volume: VolumeId, parent: ObjectId, name: &[u8], then: Option<Dirent>) -> Revert {
        let work = vec![Work::Name { parent, of: None, name: name.into(), then }];
        Revert { work, ..Revert::empty(volume) }
    }

    /// Makes the contents of directory `now` what those of `then` were: for a root, which has no name.
    pub fn contents(volume: VolumeId, now: ObjectId, then: ObjectId) -> Revert {
        let work = vec![Work::Times { now, then }, Work::Names { now, then: Some(then), after: None }];
        Revert { work, ..Revert::empty(volume) }
    }

    fn empty(volume: VolumeId) -> Revert {
        let (work, links, late, made, settled, built, reverted) = Default::default();
        Revert { volume, work, links, late, made, settled, built, reverted }
    }

    /// The same, but each plan may be made before those before it are committed. Only for what is gone, and is built up under a name of which nobody knows;
    /// the directory in which that is must be seen to be there when the first plan is made. If one plan collides, those behind it may have been committed in part:
    /// what was built has to be removed, and all begun anew.
    #[must_use]
    pub fn ahead(self) -> Revert {
        Revert { built: Some(BTreeSet::new()), ..self }
    }

    /// The next plan. `ids` are object ids that nobody has used; the first ones are taken, [`STEP_OBJECTS_MAX`] at most.
    ///
    /// # Errors
    /// [`Stop::View`], and [`Stop::Error`] if the directory that the path is in is not there.
    pub fn step(&mut self, now: &dyn View, then: &dyn View, ids: &[ObjectId]) -> Result<Reverting, Stop> {
        let before = self.clone();
        let mut making = Making::new(self, now, then, ids);
        let done = making.run();
        let (guards, plan, taken) = making.into_plan();
        if matches!(done, Err(Stop::NeedObjectId)) {
            *self = before;
            return Ok(Reverting::NeedObjectIds);
        }
        done?;
        Ok(if plan.mutations.is_empty() { Reverting::Done } else { Reverting::Commit { guards, plan, taken } })
    }

    /// Is nothing left to do behind the plan that was made last?
    pub fn is_last(&self) -> bool {
        self.work.is_empty() && self.links.is_empty()
    }

    /// What has been done, the plan that was made last included.
    pub fn reverted(&self) -> Reverted {
        self.reverted
    }
}
