//! Transactions for users: many operations that become one commit, or nothing. `docs/protocols/transactions.md` has the protocol.
//!
//! A transaction: open -> folded -> (its host commits that); or dropped. It does no I/O: its host gives it a view of its start, object ids and the
//! time, stores bytes, and commits what it folds to.
//!
//! - `step`: one operation of it ([`Run::step_transaction`](crate::Run::step_transaction))
//! - [`guards`]: what it depends on
//! - [`fold`]: what it comes to: one plan
//! - [`pack`]: small contents of files go to blobs together; [`spill`]: so they do while it goes on
//! - [`split`]: what is staged, if it does not fit into one request
//! - [`staging`]: what its host does until that is written
//! - [`commit`]: what its host does until it knows how its commit ended
//! - [`journal`]: what was done in it, as bytes, from which it comes to be again
//!
//! Invariants:
//! 1. The layer holds what its operations left behind of each record that they changed, and nothing else.
//! 2. If all its guards hold, then each of its operations would read just before the commit what it has read, but for counters and times of
//!    directories that it has only looked at.
//! 3. What it folds to, applied to the base at its start, gives what the layer shows (but for objects that have no name any more).
//! 4. What it folds to, without the records of objects that it made, is no larger than a request may be; and those are no more than can be staged.

pub mod commit;
pub mod fold;
pub mod guards;
pub mod journal;
pub mod pack;
mod runs;
pub mod spill;
pub mod split;
pub mod staging;
mod step;
mod weight;

pub use fold::Folded;
pub use guards::Guards;
pub use journal::Event;
pub use step::Stepped;

use self::runs::Runs;
use self::weight::Weighed;
use gavel_txn::apply::GUARDS_MAX;
use gavel_txn::expand::{ExpandError, Expansion, PLAN_MUTATIONS_MAX};
use gavel_txn::staged::RUNS_OF_GROUP_MAX;
use gavel_txn::{Layer, Layered};
use gavel_types::limits::{NOTE_BYTES_MAX, REQUEST_BYTES_MAX};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::{AttrDelta, Change, Mutation, Plan, Record, Version, View};
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes that guards and plan of a transaction take in its last request, without what can be staged: what is left holds the author and what is around
/// them.
pub const COMMIT_BYTES_MAX: usize = REQUEST_BYTES_MAX - 16 * 1024;
/// Most bytes of small contents (up to 16 KiB each) that a transaction holds in memory.
pub const INLINE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most records of objects that a transaction made. Each takes some 700 bytes of memory when it is folded and split: 100,000 empty files, 150 MiB.
pub const MADE_CHANGES_MAX: usize = 1_000_000;
/// Most bytes of these, without contents that go to blobs.
pub const MADE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most records that a transaction changes of what was there before, and runs of bytes that it writes to files that were: each is a mutation at most.
pub const CHANGES_MAX: usize = PLAN_MUTATIONS_MAX - 1024;
/// A run of bytes that is cut out.
const RUN_BYTES: usize = 32;
const _: () = assert!(COMMIT_BYTES_MAX + NOTE_BYTES_MAX < REQUEST_BYTES_MAX);
// Parts are filled to a half at least.
const _: () = assert!(MADE_BYTES_MAX * 2 <= gavel_txn::staged::STAGES_OF_GROUP_MAX * split::STAGE_BYTES_MAX);

/// Why an operation could not become a part of a transaction. Nothing of it was done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransactionError {
    /// The transaction would be too large.
    #[error("the transaction is full: {0}")]
    Full(String),
    /// The plan can't be applied, or the records could not be read.
    #[error(transparent)]
    Expand(#[from] ExpandError),
}

impl From<gavel_wire::ViewError> for TransactionError {
    fn from(error: gavel_wire::ViewError) -> TransactionError {
        ExpandError::View(error).into()
    }
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Transaction {
    volume: VolumeId,
    at: Tid,
    layer: Layer,
    /// Plans that were accepted.
    plans: u64,
    guards: Guards,
    /// Objects that it made, and how many runs their ids are.
    made: BTreeSet<ObjectId>,
    made_runs: usize,
    /// Which bytes it wrote to files that were there.
    written: BTreeMap<ObjectId, Runs>,
    runs: usize,
    /// Which times it set of objects that were there, as operations say it (what is to be the commit's time is not settled), and how long its writes
    /// make them at least.
    merging: BTreeMap<ObjectId, AttrDelta>,
    /// The last time that was given out.
    time: Tid,
    /// What the layer holds.
    weighed: Weighed,
    /// Bytes of small contents that were left when they were spilled last.
    spilled_at: usize,
    /// What it was told since that was last taken, if somebody keeps a journal of it.
    events: Option<Vec<Event>>,
}

impl Transaction {
    /// A transaction that begins at the state `at` of the volume.
    pub fn new(volume: VolumeId, at: Tid) -> Transaction {
        Transaction {
            volume,
            at,
            layer: Layer::default(),
            plans: 0,
            guards: Guards::new(volume),
            made: BTreeSet::new(),
            made_runs: 0,
            written: BTreeMap::new(),
            runs: 0,
            merging: BTreeMap::new(),
            time: at,
            weighed: Weighed::default(),
            spilled_at: 0,
            events: None,
        }
    }

    /// From now on [`Transaction::take_events`] gives what it was told.
    pub fn keep_events(&mut self) {
        self.events = Some(Vec::new());
    }

    /// What it was told since this was last asked: enough to make the same of it again.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The state that it began at.
    pub fn at(&self) -> Tid {
        self.at
    }

    /// Its own changes, to be laid over a view of its start.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// What it depends on.
    pub fn guards(&self) -> &Guards {
        &self.guards
    }

    /// Has it changed nothing?
    pub fn is_unchanged(&self) -> bool {
        self.layer.is_empty()
    }

    /// Records that it has changed.
    pub fn changes(&self) -> usize {
        self.weighed.changes + self.weighed.made_changes
    }

    /// How much of the room that its last request has it takes, in bytes, no less than it does.
    pub fn bytes(&self) -> usize {
        self.guards.bytes() + self.weighed.bytes + self.runs * RUN_BYTES
    }

    /// What the records of objects that it made take beside, in bytes, no less than they do.
    pub fn made_bytes(&self) -> usize {
        self.weighed.made_bytes
    }

    /// The objects that it made, those among them that have no name any more.
    pub fn made(&self) -> &BTreeSet<ObjectId> {
        &self.made
    }

    /// Bytes of small contents that it holds in memory.
    pub fn inline_bytes(&self) -> usize {
        self.weighed.inline
    }

    /// Takes in the plan of an operation that was run on `base` with the layer over it. `now_ns` is the cluster's clock.
    ///
    /// # Errors
    /// [`TransactionError`]. Nothing has changed then.
    pub fn accept(&mut self, base: &dyn View, plan: Plan, now_ns: u64) -> Result<(), TransactionError> {
        let asked = self.events.is_some().then(|| plan.clone());
        let guards = self.guards.len();
        let taken_in = self.take_in(base, plan, now_ns);
        // To make room, guards are made fewer, and stay so.
        if let (Some(events), Some(plan)) = (&mut self.events, asked)
            && (taken_in.is_ok() || self.guards.len() != guards)
        {
            events.push(Event::Wrote { plan, now_ns, refused: taken_in.is_err() });
        }
        taken_in
    }

    fn take_in(&mut self, base: &dyn View, mut plan: Plan, now_ns: u64) -> Result<(), TransactionError> {
        let time = self.time.max(self.at).advance(now_ns);
        let (asked, mut runs) = (plan.clone(), self.written.clone_of(&plan));
        plan.settle_times(time);
        let view = Layered::new(base, self.layer.clone());
        let mut expansion = Expansion::new(&view, time);
        for mutation in &plan.mutations {
            expansion.mutate(mutation, &[])?;
        }
        expansion.check_plan()?;
        let (changes, _) = expansion.finish()?;
        let mut made = BTreeSet::new();
        for change in &changes {
            let object = change.key.object();
            if matches!(change.key.parts(), KeyParts::Attr) && self.is_fresh(base, object)? {
                made.extend(Some(object).filter(|object| !self.made.contains(object)));
            }
        }
        let weighed = self.weigh(&changes, &made);
        for mutation in &asked.mutations {
            if let Some((object, start, end)) = bytes_of(mutation)
                && !self.is_fresh(base, object)?
            {
                runs.entry(object).or_default().add(start, end);
            }
        }
        let before: usize = runs.keys().filter_map(|object| self.written.get(object)).map(Runs::len).sum();
        let run_count = self.runs - before + runs.values().map(Runs::len).sum::<usize>();
        let made_runs = self.runs_with(&made);
        self.make_room(&weighed, run_count);
        self.check_room(&weighed, run_count, made_runs)?;
        let times = asked.mutations.iter().filter_map(|mutation| times_of(mutation, &view));
        let times: Vec<(ObjectId, AttrDelta)> = times.collect();
        self.made.extend(made);
        self.made_runs = made_runs;
        for (object, set) in times.into_iter().filter(|(object, _)| !self.made.contains(object)) {
            let merging = self.merging.entry(object).or_default();
            merging.size_min = merging.size_min.max(set.size_min);
            merging.atime = set.atime.or(merging.atime);
            merging.mtime = set.mtime.or(merging.mtime);
            merging.ctime = set.ctime.or(merging.ctime);
        }
        self.plans += 1;
        self.layer.lay(self.plans, changes);
        self.written.extend(runs);
        self.runs = run_count;
        self.weighed = weighed;
        self.time = time;
        Ok(())
    }

    /// Is there no such object at the start?
    fn is_fresh(&self, base: &dyn View, object: ObjectId) -> Result<bool, TransactionError> {
        Ok(self.made.contains(&object) || base.get(&Key::attr(self.volume, object))?.is_none())
    }

    /// How many runs the ids of what it made are, with these.
    fn runs_with(&self, made: &BTreeSet<ObjectId>) -> usize {
        let has = |object: ObjectId| self.made.contains(&object) || made.contains(&object);
        let of_new = made.iter().map(|object| {
            // Each begins a run, unless the one before it is there; and joins what is behind it, if that was there before.
            let begins = object.0.checked_sub(1).is_none_or(|before| !has(ObjectId(before)));
            let joins = self.made.contains(&ObjectId(object.0.saturating_add(1)));
            isize::from(begins) - isize::from(joins)
        });
        self.made_runs.saturating_add_signed(of_new.sum())
    }

    /// If what it changes and what it has read would not fit into a request together: what it has read takes less when it is told more coarsely.
    fn make_room(&mut self, weighed: &Weighed, runs: usize) {
        let room = COMMIT_BYTES_MAX.saturating_sub(weighed.bytes + runs * RUN_BYTES);
        if self.guards.bytes() > room && !self.guards.shrink(GUARDS_MAX, room / 4 * 3) {
            self.guards.shrink(GUARDS_MAX, room);
        }
    }

    fn check_room(&self, weighed: &Weighed, runs: usize, made_runs: usize) -> Result<(), TransactionError> {
        let full = |what: String| Err(TransactionError::Full(what));
        if weighed.inline > INLINE_BYTES_MAX {
            return full(format!("it holds {INLINE_BYTES_MAX} bytes of small files"));
        }
        if weighed.changes + runs > CHANGES_MAX {
            return full(format!("it changes {CHANGES_MAX} records of what was there before"));
        }
        if weighed.made_changes > MADE_CHANGES_MAX {
            return full(format!("what it makes is {MADE_CHANGES_MAX} records"));
        }
        if weighed.made_bytes > MADE_BYTES_MAX {
            return full(format!("what it makes takes {MADE_BYTES_MAX} bytes"));
        }
        if made_runs > RUNS_OF_GROUP_MAX {
            return full(format!("what it makes has object ids in {RUNS_OF_GROUP_MAX} places"));
        }
        let bytes = self.guards.bytes() + weighed.bytes + runs * RUN_BYTES;
        if bytes > COMMIT_BYTES_MAX {
            return full(format!(
                "what it changes of what was there before, and what it has read, would take {bytes} bytes of {COMMIT_BYTES_MAX}"
            ));
        }
        Ok(())
    }

    /// Takes in what an operation has read.
    ///
    /// # Errors
    /// [`TransactionError::Full`]: the answer must not be given.
    fn depend(&mut self, base: &dyn View, guards: &[gavel_wire::Guard]) -> Result<(), TransactionError> {
        let mut new = Vec::new();
        let added = guards.iter().try_for_each(|guard| {
            if self.guards.add(guard, base, &self.made)? && self.events.is_some() {
                new.push(guard.clone());
            }
            Ok::<(), gavel_wire::ViewError>(())
        });
        if let Some(events) = self.events.as_mut().filter(|_| !new.is_empty()) {
            events.push(Event::Read(new));
        }
        added?;
        let room = COMMIT_BYTES_MAX.saturating_sub(self.weighed.bytes + self.runs * RUN_BYTES);
        if self.guards.len() <= GUARDS_MAX && self.guards.bytes() <= room {
            return Ok(());
        }
        // To less than there is room for: or the next read would make it shrink again.
        if self.guards.shrink(GUARDS_MAX / 4 * 3, room / 4 * 3) || self.guards.shrink(GUARDS_MAX, room) {
            return Ok(());
        }
        Err(TransactionError::Full(format!("it has read {} records that are not in one directory", self.guards.len())))
    }

    /// Forgets an object that it made and that has no name any more, when nobody has it open.
    pub fn forget_nameless(&mut self, object: ObjectId) {
        let attr = Key::attr(self.volume, object);
        let nameless = |version: Option<&Version>| matches!(version, Some(Version { record: Record::Attr(attr), .. }) if attr.nlink == 0);
        if !self.made.contains(&object) || !self.layer.get(&attr).is_some_and(nameless) {
            return;
        }
        if let Some(events) = &mut self.events {
            events.push(Event::Forgot(object));
        }
        let mark = KeyRange::one(&Key::orphan(self.volume, object));
        for range in [KeyRange::object(self.volume, object), mark] {
            let laid: Vec<Key> = self.layer.laid(&range).map(|(key, _)| key.clone()).collect();
            laid.iter().for_each(|key| self.lift(key));
        }
    }

    /// Forgets all objects that it made and that have no name: nobody has any open.
    pub fn forget_all_nameless(&mut self) {
        self.nameless().into_iter().for_each(|object| self.forget_nameless(object));
    }

    /// Goes on from a later state, in which all that it depends on is as it was: `base` is the view at its start, `later` that of the later state.
    ///
    /// # Errors
    /// [`TransactionError`]: nothing has changed.
    pub fn rebased(&self, base: &dyn View, later: &dyn View, now_ns: u64) -> Result<Transaction, TransactionError> {
        let folded = self.fold(base)?;
        let gone: Vec<Key> = folded.plan.mutations.iter().filter_map(ends).cloned().collect();
        let mut moved = Transaction::new(self.volume, later.tid());
        moved.time = self.time;
        moved.guards = self.guards.clone();
        moved.made = self.made.clone();
        moved.accept(later, folded.plan, now_ns)?;
        moved.made = self.made.clone();
        moved.written = self.written.clone();
        moved.runs = self.runs;
        moved.merging = self.merging.clone();
        // What has no name any more may still be open: what it made is not in the plan, and of what was there not all.
        let mut kept: Vec<Change> = self
            .layer
            .laid(&KeyRange::volume(self.volume))
            .filter(|(key, _)| self.is_nameless(guards::owner(key)))
            .map(|(key, version)| Change { tid: moved.time, key: key.clone(), old: None, new: version.cloned() })
            .collect();
        // What is to be gone and is not there now may come to be there before the commit.
        let gone = gone.into_iter().filter(|key| moved.layer.get(key).is_none());
        kept.extend(gone.map(|key| Change { tid: moved.time, key, old: None, new: None }));
        moved.made_runs = self.made_runs;
        let weighed = moved.weigh(&kept, &BTreeSet::new());
        moved.check_room(&weighed, moved.runs, moved.made_runs)?;
        moved.weighed = weighed;
        moved.plans += 1;
        moved.layer.lay(moved.plans, kept);
        Ok(moved)
    }
}

/// The record that a mutation ends.
fn ends(mutation: &Mutation) -> Option<&Key> {
    match mutation {
        Mutation::Delete { key } => Some(key),
        _ => None,
    }
}

/// The bytes of a file that a mutation writes, or cuts out.
fn bytes_of(mutation: &Mutation) -> Option<(ObjectId, u64, u64)> {
    match mutation {
        Mutation::Carve { object, start, end, .. } => Some((*object, *start, *end)),
        Mutation::Put { key, record: Record::Extent(extent) } => match key.parts() {
            KeyParts::Extent { end } => Some((key.object(), end.saturating_sub(extent.len), end)),
            _ => None,
        },
        _ => None,
    }
}

/// The times of an object that a mutation sets.
fn times_of(mutation: &Mutation, before: &dyn View) -> Option<(ObjectId, AttrDelta)> {
    match mutation {
        Mutation::Adjust { object, delta, .. } => Some((*object, *delta)),
        Mutation::Put { key, record: Record::Attr(attr) } => {
            let Record::Attr(was) = before.get(key).ok()??.record else { return None };
            let set = |was, is| (was != is).then_some(is);
            let delta = AttrDelta {
                atime: set(was.atime, attr.atime),
                mtime: set(was.mtime, attr.mtime),
                ctime: set(was.ctime, attr.ctime),
                ..AttrDelta::default()
            };
            Some((key.object(), delta))
        }
        _ => None,
    }
}

trait CloneOf {
    /// What was written so far to the files that a plan writes.
    fn clone_of(&self, plan: &Plan) -> BTreeMap<ObjectId, Runs>;
}

impl CloneOf for BTreeMap<ObjectId, Runs> {
    fn clone_of(&self, plan: &Plan) -> BTreeMap<ObjectId, Runs> {
        let objects = plan.mutations.iter().filter_map(|mutation| Some(bytes_of(mutation)?.0));
        objects.filter_map(|object| Some((object, self.get(&object)?.clone()))).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests;
