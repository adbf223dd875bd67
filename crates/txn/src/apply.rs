//! One log entry, item by item; the commit rule.
//!
//! A commit applies if and only if
//! 1. its session is open and its number is the session's next one (`admit`);
//! 2. no other session holds a lease that overlaps what it writes, nor an exclusive one that overlaps what it read ([`gavel_lease`]);
//! 3. each of its guards holds ([`holds`]), and none asks what has changed since a state before the volume's horizon;
//! 4. none of the blobs that it names may have been collected since it was stored ([`crate::collect`]).
//!
//! A repeated number finds the recorded outcome and changes nothing. A request whose session has ended, or whose
//! number is not the next, changes nothing and has no outcome: its node sees the session end, or sends it again.

mod mirror;
mod staging;

pub use staging::REAP_STAGED_MAX;

use crate::clones::Found;
use crate::collect::COLLECT_BLOBS_MAX;
use crate::expand::{Counted, ExpandError, Expansion, PLAN_MUTATIONS_MAX, object_of, volume_of, volumes_of};
use crate::overlay::Overlay;
use crate::past::VolumePast;
use crate::prune_step::{self, Pass};
use crate::state::{Session, State, VolumeCounts};
use crate::volume_step;
use crate::volumes::Stage;
use gavel_lease::range::guarded;
use gavel_lease::table::Existing;
use gavel_types::limits::{NOTE_BYTES_MAX, OBJECT_BLOCK, SESSION_WINDOW_MAX, SESSIONS_MAX};
use gavel_types::{
    BlobId, Class, Key, KeyRange, LogIndex, NodeId, ObjectId, Origin, Seq, SessionId, Tid, Timestamp, VolumeId,
};
use gavel_wire::{
    Attr, Author, BlobNews, Change, Committed, Ended, Entry, Firm, Guard, Item, Kind, Live, Mode, Mutation, Orphan,
    Outcome, Plan, Record, Refusal, Removal, Request, RequestBody, Version, View, ViewError, Want,
};
use std::collections::{BTreeMap, BTreeSet};

/// Most records of orphans that end by one log entry, however many items of it would end some: one entry must not stop
/// all replicas for long, nor fill their memory (with 16 KiB in each of these, 64 MiB). What is left over is reaped
/// by later entries.
pub const REAP_RECORDS_MAX: usize = 4096;
/// Most ranges of one request for leases, and of one that gives leases up; those beyond are passed over.
pub const LEASE_RANGES_MAX: usize = 1024;
/// Range of a session's term, in milliseconds.
const TERM_MS_MIN: u32 = 100;
const TERM_MS_MAX: u32 = 60_000;
/// Most nodes that ever had a session.
pub const NODES_MAX: usize = 4096;
/// So many of a session's blocks of object ids are remembered: it asks for the next one before the last is used up.
const BLOCKS_KEPT: usize = 2;
/// A session is leased the objects of its blocks in so many volumes at most: each is a row of the table.
pub const BLOCK_VOLUMES_MAX: usize = 8;
/// Most objects without names in a state that a volume is cloned from: the clone's entry marks each.
pub const CLONE_ORPHANS_MAX: usize = 16_384;
/// Most guards of one request.
pub const GUARDS_MAX: usize = 64 * 1024;
/// Orphans looked at in one step when a session ends.
const ORPHAN_PAGE: usize = 1024;

/// What applying one entry did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Changes of records, in the order in which they happened.
    pub changes: Vec<Change>,
    /// Rows that go beside; none of them is one that a change of the same entry makes.
    pub removals: Vec<Removal>,
    /// Outcomes of requests that were new.
    pub outcomes: Vec<(SessionId, Seq, Outcome)>,
    /// Sessions that were opened, or asked for again.
    pub opened: Vec<(SessionId, NodeId, u64)>,
    /// Sessions that ended.
    pub ended: Vec<SessionId>,
    /// Objects that lost their last name: each session must say that it does not hold them.
    pub orphaned: Vec<(VolumeId, ObjectId)>,
    /// Orphans that nobody holds but whose records have not all ended: the leader must go on reaping.
    pub to_reap: Vec<(VolumeId, ObjectId)>,
    /// A step was taken to reap what was staged and abandoned.
    pub reaped_staged: bool,
    /// The lease table has changed.
    pub leases: bool,
    /// Locks that stood in line and are held now.
    pub granted: Vec<gavel_wire::lock::Waiter>,
    /// What has become of blobs.
    pub blobs: BlobNews,
    /// This replica's state is not the one that the leader had: it must not serve.
    pub diverged: Option<LogIndex>,
}

/// Applies `entry` (none: an entry of the log's own) at `index`. The caller stores the changes.
///
/// # Errors
/// [`ViewError`] if the live records could not be read. `state` is then half changed and must be thrown away: this
/// replica cannot go on until it is repaired and has read its state back.
///
/// # Panics
/// If `index` does not follow the last one: a programming error.
pub fn apply(
    state: &mut State,
    base: &dyn Ended,
    index: LogIndex,
    entry: Option<&Entry>,
) -> Result<Applied, ViewError> {
    assert_eq!(index.0, state.applied.0 + 1, "entries apply in the order of the log");
    let (view, out) = (Overlay::new(base), Applied::default());
    let (named, begun) = Default::default();
    let reap_left = REAP_RECORDS_MAX;
    let mut run = Run { state, base, view, out, reap_left, swept: false, named, begun, is_last: false };
    if let Some(entry) = entry
        && entry.tid > run.state.tid
    {
        for (i, item) in entry.items.iter().enumerate() {
            let tid = Tid(entry.tid.0 + i as u64);
            run.state.tid = tid;
            run.is_last = i + 1 == entry.items.len();
            run.item(tid, item)?;
        }
    }
    let out = run.out;
    state.applied = index;
    state.keep_digest();
    Ok(out)
}

/// A commit that is to be judged.
struct Judged<'a> {
    guards: &'a [Guard],
    plan: &'a Plan,
    author: &'a Author,
    stored_as_of: Tid,
    /// The transactions that have staged what it adopts.
    staged: &'a [Tid],
}

/// What a transaction does.
type Expanded = (Vec<Change>, BTreeMap<VolumeId, Counted>);

struct Run<'a> {
    state: &'a mut State,
    /// The records as they were before this entry.
    base: &'a dyn Ended,
    view: Overlay<'a>,
    out: Applied,
    /// Records of orphans that may still end by this entry.
    reap_left: usize,
    /// This entry has swept: a second step would not see what the first one removed.
    swept: bool,
    /// Blobs that this entry has named.
    named: BTreeSet<BlobId>,
    /// Clones that this entry has made, and volumes that go since this entry: what the entry did before is not in `base`, where a clone's
    /// origin and what a sweep removes are looked for.
    begun: BTreeSet<VolumeId>,
    /// No item comes behind this one.
    is_last: bool,
}

impl Run<'_> {
    fn item(&mut self, tid: Tid, item: &Item) -> Result<(), ViewError> {
        match item {
            Item::Request(request) => self.request(tid, request),
            Item::SessionOpen { node, incarnation, term_ms, instead_of } => {
                self.open_session(tid, (*node, *incarnation), *term_ms, *instead_of)
            }
            Item::SessionExpire { session } => self.end_session(tid, *session),
            Item::CreateVolume { volume, mode, uid, gid } => self.create_volume(tid, *volume, *mode, *uid, *gid),
            Item::Reap { volume, object } => self.reap(tid, *volume, *object),
            Item::Checkpoint { index, digest } => {
                let kept = self.state.digests.iter().find(|(at, _)| at == index);
                if kept.is_some_and(|(_, ours)| ours != digest) {
                    self.out.diverged = Some(*index);
                }
                Ok(())
            }
            Item::Prune { volume } => {
                // A volume that is not there has nothing to prune.
                let _ = self.prune(tid, *volume);
                Ok(())
            }
            Item::NameScheduled { volume } => {
                self.state.past.name_scheduled(tid, *volume);
                Ok(())
            }
            Item::Sweep { volume, rows } => self.sweep(*volume, *rows),
            Item::Condemn { blobs } => self.condemn(tid, blobs),
            Item::Collect { blobs } => self.collect(tid, blobs),
            Item::ReapStaged => self.reap_staged(tid),
        }
    }

    /// Marks those that nothing names.
    fn condemn(&mut self, tid: Tid, blobs: &[BlobId]) -> Result<(), ViewError> {
        self.state.collection.step();
        for blob in blobs.iter().take(COLLECT_BLOBS_MAX) {
            if !self.is_named(*blob)? && self.state.collection.condemn(tid, *blob) {
                self.out.blobs.condemned.push(*blob);
            }
        }
        Ok(())
    }

    /// Those that are marked and that nothing names are gone.
    fn collect(&mut self, tid: Tid, blobs: &[BlobId]) -> Result<(), ViewError> {
        self.state.collection.step();
        for blob in blobs.iter().take(COLLECT_BLOBS_MAX) {
            if self.is_named(*blob)? {
                self.rescue(*blob);
            } else if self.state.collection.collect(tid, *blob) {
                self.out.blobs.released.push(*blob);
                self.out.blobs.collected.push((*blob, tid));
            }
        }
        Ok(())
    }

    fn rescue(&mut self, blob: BlobId) {
        if self.state.collection.rescue(blob) {
            self.out.blobs.released.push(blob);
        }
    }

    /// What this entry's sweep removes still counts: it is another entry's candidate.
    fn is_named(&self, blob: BlobId) -> Result<bool, ViewError> {
        Ok(self.named.contains(&blob) || self.base.names(blob)?)
    }

    /// Are the blobs that something names where they were when they were stored?
    fn blobs_are_there(&self, blobs: impl Iterator<Item = BlobId>, stored_as_of: Tid) -> Result<bool, ViewError> {
        for blob in blobs {
            if self.state.collection.may_be_gone(blob, stored_as_of) && !self.is_named(blob)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One step of the volume's sweep, if one is under way.
    fn sweep(&mut self, volume: VolumeId, rows: u32) -> Result<(), ViewError> {
        let state = &mut *self.state;
        let Some(past) = state.past.of(volume).filter(|_| !self.begun.contains(&volume)) else { return Ok(()) };
        let Some(pass) = past.pass.as_ref().filter(|_| !self.swept) else { return Ok(()) };
        if let (Pass::Count { from }, Some(origin)) = (pass, past.origin) {
            let from = *from;
            return self.count(volume, from, origin);
        }
        let mut step = prune_step::step(past.keeping(), pass, (volume, rows), self.base, &mut state.records)?;
        let goes = past.stage == Stage::Going;
        if goes && matches!(step.next, Some(Pass::Commits { .. })) {
            step.next = Some(Pass::Live { after: None });
        }
        self.swept = true;
        let gone = goes && step.next.is_none();
        state.past.swept(volume, step.next, !step.removals.is_empty());
        self.out.blobs.unnamed.extend(step.removals.iter().filter_map(|removal| match removal {
            Removal::Name { blob, .. } => Some(*blob),
            _ => None,
        }));
        self.out.removals = step.removals;
        if gone {
            self.forget(volume);
        }
        Ok(())
    }

    /// All of a volume has gone.
    fn forget(&mut self, volume: VolumeId) {
        self.state.past.forget(volume);
        self.state.staged.forget(volume);
        self.state.volumes.remove(&volume);
        let sessions: Vec<SessionId> = self.state.sessions.keys().copied().collect();
        for session in sessions {
            // A whole volume leaves nothing of a range that is cut: there is room for that.
            let _ = self.state.leases.give_up(session, &[KeyRange::volume(volume)], None);
        }
        self.out.leases = true;
    }

    /// Counts some of what a clone begins with.
    fn count(&mut self, volume: VolumeId, from: ObjectId, origin: Origin) -> Result<(), ViewError> {
        let (next, counted) = volume_step::count(from, self.state.next_object, origin, self.base)?;
        self.swept = true;
        self.add(volume, counted);
        self.state.past.swept(volume, next.map(|from| Pass::Count { from }), false);
        Ok(())
    }

    fn prune(&mut self, tid: Tid, volume: VolumeId) -> Result<(), Refusal> {
        self.state.past.prune(tid, volume)?;
        self.note_going(volume);
        Ok(())
    }

    fn note_going(&mut self, volume: VolumeId) {
        if self.state.past.of(volume).is_some_and(|past| past.stage == Stage::Going) {
            self.begun.insert(volume);
        }
    }

    fn request(&mut self, tid: Tid, request: &Request) -> Result<(), ViewError> {
        let Some(session) = self.state.sessions.get_mut(&request.session) else { return Ok(()) };
        if !admit(session, request) {
            return Ok(());
        }
        let outcome = match &request.body {
            RequestBody::Commit { guards, plan, author, stored_as_of } => {
                let judged = Judged { guards, plan, author, stored_as_of: *stored_as_of, staged: &[] };
                self.commit(tid, request.session, &judged)?
            }
            body @ (RequestBody::Stage { .. } | RequestBody::Adopt { .. } | RequestBody::Unstage { .. }) => {
                self.stage_request(tid, request.session, body)?
            }
            RequestBody::AllocateObjects => self.allocate(tid, request.session),
            RequestBody::Release { orphans } => {
                // Of files that were made one after the other, and removed together, the records lie side by side.
                for run in orphans.chunk_by(|one, next| one.0 == next.0 && follows(one.1, next.1)) {
                    self.release(tid, run, request.session)?;
                }
                Outcome::Committed { tid }
            }
            RequestBody::Lease { wants } => self.lease(tid, request.session, wants),
            RequestBody::Yield { ranges, cool } => {
                let ranges = &ranges[..ranges.len().min(LEASE_RANGES_MAX)];
                self.out.leases = true;
                given_up(tid, self.state.leases.give_up(request.session, ranges, cool.then_some(tid)))
            }
            RequestBody::Downgrade { ranges, cool } => {
                let ranges = &ranges[..ranges.len().min(LEASE_RANGES_MAX)];
                self.out.leases = true;
                given_up(tid, self.state.leases.downgrade(request.session, ranges, cool.then_some(tid)))
            }
            body @ (RequestBody::Lock { .. } | RequestBody::Unlock { .. } | RequestBody::CancelLock { .. }) => {
                crate::locks::apply(self.state, tid, (request.session, request.seq), body, &mut self.out.granted)
            }
            RequestBody::Snapshot { volume, name, note, at } => {
                done(tid, self.state.past.name(tid, *volume, name, note, *at))
            }
            RequestBody::DropSnapshot { volume, name } => done(tid, self.state.past.drop_name(*volume, name)),
            RequestBody::RenameSnapshot { volume, from, to } => done(tid, self.state.past.rename(*volume, from, to)),
            RequestBody::NoteSnapshot { volume, name, note } => done(tid, self.state.past.note(*volume, name, note)),
            RequestBody::SetRetention { volume, policy } => done(tid, self.state.past.set_policy(*volume, policy)),
            RequestBody::SetSchedule { volume, schedule } => {
                done(tid, self.state.past.set_schedule(tid, *volume, schedule))
            }
            RequestBody::DefineClass { volume, policy } => done(tid, self.state.past.define(*volume, policy)),
            RequestBody::Prune { volume } => done(tid, self.prune(tid, *volume)),
            RequestBody::Pin { volume, at } => done(tid, self.state.past.pin(tid, *volume, *at, request.session)),
            RequestBody::Unpin { volume, at } => done(tid, self.state.past.unpin(*volume, *at, request.session)),
            body @ (RequestBody::CreateVolume { .. }
            | RequestBody::CloneVolume { .. }
            | RequestBody::RenameVolume { .. }
            | RequestBody::DestroyVolume { .. }
            | RequestBody::RestoreVolume { .. }
            | RequestBody::CreateMirror { .. }
            | RequestBody::PromoteMirror { .. }) => done(tid, self.volume_request(tid, body)?),
            RequestBody::DemoteMirror(demotion) => done(tid, self.demote(tid, request.session, demotion)?),
            body @ (RequestBody::AdmitFollower { .. }
            | RequestBody::DismissFollower { .. }
            | RequestBody::FollowerReached { .. }
            | RequestBody::FollowMirror { .. }) => done(tid, self.state.past.follow_request(tid, body)),
            RequestBody::MirrorStep(step) => {
                let node = session.node;
                self.mirror_step(tid, node, step)?
            }
        };
        if let Some(session) = self.state.sessions.get_mut(&request.session) {
            session.outcomes.insert(request.seq, outcome.clone());
        }
        let breaks = request.body.breaks_session(&outcome);
        self.out.outcomes.push((request.session, request.seq, outcome));
        // What comes behind it in the session's line stands on it.
        if breaks && let Some(session) = self.state.sessions.get_mut(&request.session) {
            session.broken = true;
        }
        Ok(())
    }

    /// Grants what can be granted.
    fn lease(&mut self, tid: Tid, session: SessionId, wants: &[Want]) -> Outcome {
        let others = self.state.sessions.iter().filter(|(other, _)| **other != session);
        let blocks = others.flat_map(|(_, other)| &other.blocks);
        let theirs: Vec<_> = blocks.map(|first| (*first, ObjectId(first.0 + OBJECT_BLOCK - 1))).collect();
        let objects = Existing { first_free: self.state.next_object, theirs: &theirs };
        let past = &self.state.past;
        let mirrors = past.volumes().filter(|(_, past)| past.is_mirror());
        let mirrors: Vec<KeyRange> = mirrors.map(|(volume, _)| KeyRange::volume(volume)).collect();
        for want in wants.iter().take(LEASE_RANGES_MAX) {
            if mirrors.iter().any(|mirror| mirror.overlaps(&want.range)) {
                continue;
            }
            let granted = self.state.leases.grant(session, want, tid, objects);
            self.out.leases |= granted.is_ok();
        }
        Outcome::Committed { tid }
    }

    fn commit(&mut self, tid: Tid, session: SessionId, judged: &Judged<'_>) -> Result<Outcome, ViewError> {
        let Judged { guards, plan, author, stored_as_of, staged } = *judged;
        if !self.blobs_are_there(plan.blobs(), stored_as_of)? {
            return Ok(Outcome::Refused { refusal: Refusal::Collected });
        }
        let bad_plan = Ok(Outcome::Refused { refusal: Refusal::BadPlan });
        if guards.len() > GUARDS_MAX || plan.mutations.len() > PLAN_MUTATIONS_MAX || author.note.len() > NOTE_BYTES_MAX
        {
            return bad_plan;
        }
        let volumes = volumes_of(&plan.mutations);
        let left = self.without_ended(guards, plan, &volumes);
        let (guards, plan) = left.as_ref().map_or((guards, plan), |(guards, plan)| (&guards[..], plan));
        if !self.is_free(session, guards, plan) {
            return Ok(Outcome::Refused { refusal: Refusal::Leased });
        }
        for (number, guard) in guards.iter().enumerate() {
            if !self.can_judge(guard) || !holds(&self.view, guard)? {
                return Ok(Outcome::Refused { refusal: Refusal::Conflict { guard: number as u32 } });
            }
        }
        let volumes = volumes_of(&plan.mutations);
        // One that never was, or a clone of this entry.
        let takes = |volume: &VolumeId| self.state.past.takes_commits(*volume) && !self.begun.contains(volume);
        if !volumes.iter().all(takes) {
            return bad_plan;
        }
        if volumes.iter().any(|volume| self.state.past.is_mirror(*volume)) {
            return Ok(Outcome::Refused { refusal: Refusal::ReadOnly });
        }
        if self.makes_mirrored_id(plan)? {
            return bad_plan;
        }
        let orphaned = plan.mutations.iter().filter_map(|mutation| match mutation {
            Mutation::Orphan { volume, object } => Some((*volume, *object)),
            _ => None,
        });
        let orphaned: Vec<_> = orphaned.collect();
        let sessions = if orphaned.is_empty() { Vec::new() } else { self.state.sessions.keys().copied().collect() };
        match self.expand(tid, plan, &sessions) {
            Ok(mut done) => {
                self.out.orphaned.extend(orphaned);
                let node = self.state.sessions.get(&session).map(|session| session.node).unwrap_or_default();
                let by = Committed { node, uid: author.uid, note: author.note.clone(), staged: staged.to_vec() };
                sign(tid, &by, &volumes, &mut done.0);
                let changes = self.count_in(tid, done)?;
                // Nobody reads behind the last item.
                if !self.is_last {
                    self.view.lay(tid, &changes);
                }
                self.out.changes.extend(changes);
                Ok(Outcome::Committed { tid })
            }
            Err(ExpandError::BadPlan(_)) => bad_plan,
            Err(ExpandError::View(error)) => Err(error),
        }
    }

    /// What is left of a commit without what is about volumes that have ended; none if it is all. A batch of several volumes must not be lost
    /// because somebody has had one of them go.
    fn without_ended(&self, guards: &[Guard], plan: &Plan, volumes: &BTreeSet<VolumeId>) -> Option<(Vec<Guard>, Plan)> {
        let past = &self.state.past;
        let ended = |volume: VolumeId| past.was_given(volume) && !past.takes_commits(volume);
        let about = |guard: &&Guard| read_volume(guard).is_none_or(|volume| !ended(volume));
        if !volumes.iter().copied().any(ended) && guards.iter().all(|guard| about(&guard)) {
            return None;
        }
        let left = plan.mutations.iter().filter(|mutation| !ended(volume_of(mutation)));
        Some((guards.iter().filter(about).cloned().collect(), Plan { mutations: left.cloned().collect() }))
    }

    /// Pruning takes rows of the change index away: what has changed since a state before the horizon, nobody knows.
    fn can_judge(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Stable { range, at } => range.is_empty() || self.state.past.knows_changes(range, *at),
            Guard::Unchanged { .. } | Guard::Firm { .. } | Guard::Empty { .. } => true,
        }
    }

    /// Rule 2. What another session holds exclusively it may have changed already, and commit later: what was read there, nobody can judge.
    fn is_free(&self, session: SessionId, guards: &[Guard], plan: &Plan) -> bool {
        let leases = &self.state.leases;
        let is_free = |range: &KeyRange| leases.is_free(session, range, Mode::Exclusive);
        leases.is_empty()
            || ((written_objects(plan).all(|object| is_free(&object))
                || gavel_lease::written(plan).iter().all(is_free))
                && guards.iter().all(|guard| leases.is_free(session, &guarded(guard), Mode::Shared)))
    }

    fn expand(&self, tid: Tid, plan: &Plan, sessions: &[SessionId]) -> Result<Expanded, ExpandError> {
        let mut expansion = Expansion::new(&self.view, tid);
        for mutation in &plan.mutations {
            expansion.mutate(mutation, sessions)?;
        }
        expansion.check_plan()?;
        let done = expansion.finish()?;
        self.check_bytes(&done)?;
        Ok(done)
    }

    fn check_bytes(&self, done: &Expanded) -> Result<(), ExpandError> {
        for (volume, counted) in &done.1 {
            let before = self.state.volumes.get(volume).copied().unwrap_or_default();
            let known = self.state.past.of(*volume).is_none_or(|past| !past.is_being_counted());
            if known && before.bytes.checked_add_signed(counted.bytes).is_none() {
                return Err(ExpandError::BadPlan("bytes of a volume"));
            }
        }
        Ok(())
    }

    fn take(&mut self, tid: Tid, done: Expanded) -> Result<(), ViewError> {
        let changes = self.count_in(tid, done)?;
        self.view.lay(tid, &changes);
        self.out.changes.extend(changes);
        Ok(())
    }

    /// Takes into the state what a transaction has come to. Gives its changes as they are stored.
    fn count_in(&mut self, tid: Tid, (changes, counted): Expanded) -> Result<Vec<Change>, ViewError> {
        let found = Found { base: self.base, view: &self.view, past: &self.state.past };
        let changes = found.stored(changes)?;
        for change in &changes {
            self.state.records.add(tid, &change.key, change.new.as_ref());
            if let Some(blob) = change.new.as_ref().and_then(Version::blob) {
                self.named.insert(blob);
                self.rescue(blob);
            }
        }
        for (volume, counted) in counted {
            self.add(volume, counted);
        }
        Ok(changes)
    }

    /// While a clone is being counted, more may be taken away than has been counted yet: at the end the sum is right.
    fn add(&mut self, volume: VolumeId, counted: Counted) {
        let counts = self.state.volumes.entry(volume).or_default();
        counts.objects = counts.objects.wrapping_add_signed(counted.objects);
        counts.bytes = counts.bytes.wrapping_add_signed(counted.bytes);
    }

    /// Where a session works: in all volumes, if they are few; otherwise in the first of those in which it holds leases.
    fn volumes_of_session(&self, session: SessionId) -> Vec<VolumeId> {
        // In a mirror nobody makes anything.
        let living =
            |volume: &VolumeId| self.state.past.of(*volume).is_some_and(|past| past.is_living() && !past.is_mirror());
        let all = self.state.volumes.keys().copied().filter(living);
        if self.state.volumes.len() <= BLOCK_VOLUMES_MAX {
            return all.collect();
        }
        let held = self.state.leases.held_by(session);
        all.filter(|volume| held.touches(&KeyRange::volume(*volume))).take(BLOCK_VOLUMES_MAX).collect()
    }

    /// What the session will make there it need not ask for. (Nothing can be in the way but a full table: then it asks.)
    fn lease_block(&mut self, tid: Tid, session: SessionId, first: ObjectId) {
        let last = ObjectId(first.0 + OBJECT_BLOCK - 1);
        let objects = Existing { first_free: self.state.next_object, theirs: &[] };
        for volume in self.volumes_of_session(session) {
            let range = KeyRange::objects(volume, first, last);
            // Urgent: not wider than asked for.
            let want = Want { range, mode: Mode::Exclusive, urgent: true };
            self.out.leases |= self.state.leases.grant(session, &want, tid, objects).is_ok();
        }
    }

    fn allocate(&mut self, tid: Tid, session: SessionId) -> Outcome {
        let first = self.state.next_object;
        if let Some(session) = self.state.sessions.get_mut(&session) {
            session.blocks.push(first);
            if session.blocks.len() > BLOCKS_KEPT {
                session.blocks.remove(0);
            }
        }
        self.state.next_object = ObjectId(first.0 + OBJECT_BLOCK);
        self.lease_block(tid, session, first);
        Outcome::Allocated { first, count: OBJECT_BLOCK }
    }

    fn open_session(
        &mut self,
        tid: Tid,
        (node, incarnation): (NodeId, u64),
        term_ms: u32,
        instead_of: Option<SessionId>,
    ) -> Result<(), ViewError> {
        let latest = self.state.incarnations.get(&node);
        let known = latest.is_some() || self.state.incarnations.len() < NODES_MAX;
        // An earlier life may have asked, and its question come late: it must not end the session of the one that lives.
        if latest.is_some_and(|latest| incarnation < *latest) || !known {
            return Ok(());
        }
        let mine = self.state.sessions.iter().filter(|(_, session)| session.node == node);
        let mine: Vec<(SessionId, bool)> = mine
            .map(|(id, session)| {
                let left = session.broken && instead_of == Some(*id);
                (*id, session.incarnation == incarnation && !left)
            })
            .collect();
        for (id, stays) in mine {
            if stays {
                self.out.opened.push((id, node, incarnation));
                return Ok(());
            }
            self.end_session(tid, id)?;
        }
        if self.state.sessions.len() < SESSIONS_MAX {
            let id = SessionId(tid.0);
            let (blocks, outcomes) = (Vec::new(), BTreeMap::new());
            let term_ms = term_ms.clamp(TERM_MS_MIN, TERM_MS_MAX);
            let session = Session { node, incarnation, term_ms, blocks, next: Seq(1), outcomes, broken: false };
            self.state.sessions.insert(id, session);
            self.state.incarnations.insert(node, incarnation);
            self.out.opened.push((id, node, incarnation));
        }
        Ok(())
    }

    fn end_session(&mut self, tid: Tid, session: SessionId) -> Result<(), ViewError> {
        if self.state.sessions.remove(&session).is_none() {
            return Ok(());
        }
        self.out.ended.push(session);
        self.state.leases.end(session);
        self.out.leases = true;
        self.state.locks.end(session, &mut self.out.granted);
        self.state.past.unpin_all(session);
        self.state.staged.end(session);
        let goes = |volume: &VolumeId| self.state.past.of(*volume).is_some_and(|past| past.stage == Stage::Going);
        let volumes: Vec<VolumeId> = self.state.volumes.keys().copied().filter(|volume| !goes(volume)).collect();
        for volume in volumes {
            let mut from = ObjectId(0);
            loop {
                let page = self.view.scan(&KeyRange::orphans_from(volume, from), ORPHAN_PAGE)?;
                for (key, version) in &page {
                    let gavel_types::KeyParts::Orphan { object } = key.parts() else { continue };
                    from = ObjectId(object.0 + 1);
                    if matches!(&version.record, Record::Orphan(orphan) if orphan.holders.contains(&session)) {
                        self.release(tid, &[(volume, object)], session)?;
                    }
                }
                if page.len() < ORPHAN_PAGE {
                    break;
                }
            }
        }
        Ok(())
    }

    /// `session` does not hold these orphans, each of which has the id behind that of the one before. The records of those that nobody holds end.
    ///
    /// Nothing happens to one that the session is not among the holders of: an orphan that one item names twice would otherwise
    /// get two versions at one Tid, and every needless release would start one more line of reaping.
    fn release(&mut self, tid: Tid, run: &[(VolumeId, ObjectId)], session: SessionId) -> Result<(), ViewError> {
        let (mut held, mut free) = (Vec::new(), Vec::new());
        for (volume, object) in run.iter().copied() {
            let Some((mut orphan, found)) = self.orphan(volume, object)? else { continue };
            if !orphan.holders.contains(&session) {
                continue;
            }
            orphan.holders.retain(|holder| *holder != session);
            if orphan.holders.is_empty() {
                free.push((volume, object, found));
                continue;
            }
            // One record, of which is known what it was: there is nothing to expand.
            let new = Version { create: tid, firm: tid, record: Record::Orphan(orphan) };
            held.push(Change { tid, key: Key::orphan(volume, object), old: Some(found), new: Some(new) });
        }
        if !held.is_empty() {
            self.take(tid, (held, BTreeMap::new()))?;
        }
        for run in free.chunk_by(|one, next| follows(one.1, next.1)) {
            self.erase(tid, run, Marked::Held)?;
        }
        Ok(())
    }

    fn reap(&mut self, tid: Tid, volume: VolumeId, object: ObjectId) -> Result<(), ViewError> {
        match self.orphan(volume, object)? {
            Some((orphan, found)) if orphan.holders.is_empty() => {
                self.erase(tid, &[(volume, object, found)], Marked::Free)
            }
            _ => Ok(()),
        }
    }

    /// The mark of an orphan, and the version that it is. Of a volume that goes, the sweep removes everything.
    fn orphan(&self, volume: VolumeId, object: ObjectId) -> Result<Option<(Orphan, Version)>, ViewError> {
        if self.state.past.of(volume).is_some_and(|past| past.stage == Stage::Going) {
            return Ok(None);
        }
        let found = self.view.get(&Key::orphan(volume, object))?;
        Ok(found.and_then(|found| match &found.record {
            Record::Orphan(orphan) => Some((orphan.clone(), found)),
            _ => None,
        }))
    }

    /// Ends records of orphans that nobody holds any more, as many as this entry may still end. Each has the id behind that of the one before, and comes with
    /// its mark, which stays, with no holder, until the last record has ended.
    fn erase(&mut self, tid: Tid, run: &[(VolumeId, ObjectId, Version)], marked: Marked) -> Result<(), ViewError> {
        let (Some((volume, first, _)), Some((_, last, _))) = (run.first(), run.last()) else { return Ok(()) };
        let mut expansion = Expansion::new(&self.view, tid);
        let ended = sound(expansion.erase(&KeyRange::objects(*volume, *first, *last), self.reap_left))?;
        // There may be more of the last one that was found, and of all behind it.
        let more_from = (ended.records == self.reap_left).then(|| ended.last.unwrap_or(*first));
        for (volume, object, mark) in run {
            let key = Key::orphan(*volume, *object);
            let more = more_from.is_some_and(|from| *object >= from);
            match (more, marked) {
                (true, Marked::Held) => {
                    sound(expansion.set_record(&key, Record::Orphan(Orphan { holders: Vec::new() })))?;
                }
                (true, Marked::Free) => {}
                (false, _) => expansion.end_found(&key, mark.clone()),
            }
            if more {
                self.out.to_reap.push((*volume, *object));
            }
        }
        let done = sound(expansion.finish())?;
        self.take(tid, done)?;
        self.reap_left -= ended.records;
        Ok(())
    }

    /// What a session asks about volumes.
    fn volume_request(&mut self, tid: Tid, body: &RequestBody) -> Result<Result<(), Refusal>, ViewError> {
        Ok(match body {
            RequestBody::CreateVolume { name, mode, uid, gid } => match self.state.past.next_volume(name) {
                Ok(volume) => Ok(self.make_volume(tid, volume, Some(name), (*mode, *uid, *gid))?),
                Err(refusal) => Err(refusal),
            },
            RequestBody::CloneVolume { from, at, name } => {
                // What a mirror holds beyond its boundary may be half of a step.
                let at = at.or(self.state.past.of(*from).and_then(VolumePast::boundary));
                self.clone_volume(tid, *from, at, name)?
            }
            RequestBody::RenameVolume { volume, name } => self.state.past.rename_volume(*volume, name),
            RequestBody::DestroyVolume { volume, now } => {
                let destroyed = self.state.past.destroy(tid, *volume, *now);
                self.note_going(*volume);
                destroyed
            }
            RequestBody::RestoreVolume { volume, name } => self.state.past.restore(*volume, name.as_deref()),
            RequestBody::CreateMirror { name, source, selection } => {
                self.create_mirror(tid, name, (*source, selection))?
            }
            RequestBody::PromoteMirror { volume } => self.promote(tid, *volume),
            _ => unreachable!("nothing else is asked about volumes"),
        })
    }

    fn create_volume(&mut self, tid: Tid, volume: VolumeId, mode: u16, uid: u32, gid: u32) -> Result<(), ViewError> {
        if volume <= self.state.past.last_volume() {
            return Ok(());
        }
        self.make_volume(tid, volume, None, (mode, uid, gid))
    }

    fn make_volume(
        &mut self,
        tid: Tid,
        volume: VolumeId,
        name: Option<&str>,
        (mode, uid, gid): (u16, u32, u32),
    ) -> Result<(), ViewError> {
        self.state.volumes.insert(volume, Default::default());
        self.state.past.begin(tid, volume, name);
        let now = Timestamp::of_tid(tid);
        let (kind, parent) = (Kind::Directory, ObjectId::ROOT);
        let firm = Firm { kind, mode: mode & 0o7777, uid, gid, rdev: 0, parent, birth: now, class: Class::VOLUME };
        let root = Attr { firm, nlink: 2, size: 0, allocated: 0, atime: now, mtime: now, ctime: now };
        let mut expansion = Expansion::new(&self.view, tid);
        let done = expansion.set_record(&Key::attr(volume, ObjectId::ROOT), Record::Attr(root));
        let done = sound(done.and_then(|()| expansion.finish()))?;
        self.take(tid, done)
    }

    fn clone_volume(
        &mut self,
        tid: Tid,
        from: VolumeId,
        at: Option<Tid>,
        name: &str,
    ) -> Result<Result<(), Refusal>, ViewError> {
        let (volume, origin) = match self.state.past.next_clone((tid, self.base.tid()), from, at, name) {
            Ok(next) => next,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // What this entry made of the origin is not in the base: the clone would not inherit it if its views looked there now. They do from
        // the next entry on.
        let orphans = match at {
            None => orphans_of(&self.view, from)?,
            Some(at) => orphans_of(&*self.base.past(at), from)?,
        };
        let Some(orphans) = orphans else { return Ok(Err(Refusal::Full)) };
        if !self.state.staged.clone_abandoned(from, origin.at, volume) {
            return Ok(Err(Refusal::Full));
        }
        let counts = self.state.volumes.get(&from).copied().unwrap_or_default();
        let counted = at.is_none() && self.state.past.of(from).is_some_and(|past| !past.is_being_counted());
        self.state.volumes.insert(volume, if counted { counts } else { VolumeCounts::default() });
        self.state.past.begin_clone(tid, volume, origin, name, counted);
        self.begun.insert(volume);
        // Nobody can reach in the clone what had no name in its origin: it is reaped.
        let mut expansion = Expansion::new(&self.view, tid);
        for object in &orphans {
            let mark = Record::Orphan(Orphan { holders: Vec::new() });
            sound(expansion.set_record(&Key::orphan(volume, *object), mark))?;
        }
        let done = sound(expansion.finish())?;
        self.take(tid, done)?;
        self.out.to_reap.extend(orphans.into_iter().map(|object| (volume, object)));
        Ok(Ok(()))
    }
}

/// The objects of a volume that have no names; none if there are more than [`CLONE_ORPHANS_MAX`].
fn orphans_of(view: &dyn View, volume: VolumeId) -> Result<Option<Vec<ObjectId>>, ViewError> {
    let found = view.scan(&KeyRange::orphans_from(volume, ObjectId(0)), CLONE_ORPHANS_MAX + 1)?;
    let orphans = found.iter().filter_map(|(key, _)| match key.parts() {
        gavel_types::KeyParts::Orphan { object } => Some(object),
        _ => None,
    });
    Ok(Some(orphans.collect()).filter(|_| found.len() <= CLONE_ORPHANS_MAX))
}

/// The objects that a plan writes to, some more than once: what it writes lies within them, as far as leases are concerned. They are fewer than the
/// ranges that it writes, and nobody else holds anything of most.
fn written_objects(plan: &Plan) -> impl Iterator<Item = KeyRange> {
    let mut last = None;
    plan.mutations.iter().filter_map(move |mutation| {
        let object = (volume_of(mutation), object_of(mutation));
        (last.replace(object) != Some(object)).then(|| KeyRange::object(object.0, object.1))
    })
}

/// The volume in which a guard's range begins.
fn read_volume(guard: &Guard) -> Option<VolumeId> {
    match guard {
        Guard::Unchanged { key, .. } | Guard::Firm { key, .. } => Some(key.volume()),
        Guard::Empty { range } | Guard::Stable { range, .. } => {
            Some(VolumeId(u32::from_be_bytes(*range.start.first_chunk()?)))
        }
    }
}

/// Says who made a commit, once for each volume that it changed.
fn sign(tid: Tid, by: &Committed, volumes: &BTreeSet<VolumeId>, changes: &mut Vec<Change>) {
    for volume in volumes.iter().copied() {
        if !changes.iter().any(|change| change.key.volume() == volume) {
            continue;
        }
        let new = Some(Version { create: tid, firm: tid, record: Record::Commit(by.clone()) });
        changes.push(Change { tid, key: Key::commit(volume, tid), old: None, new });
    }
}

fn done(tid: Tid, done: Result<(), Refusal>) -> Outcome {
    match done {
        Ok(()) => Outcome::Committed { tid },
        Err(refusal) => Outcome::Refused { refusal },
    }
}

fn given_up(tid: Tid, done: Result<(), gavel_lease::Refused>) -> Outcome {
    match done {
        Ok(()) => Outcome::Committed { tid },
        Err(_) => Outcome::Refused { refusal: Refusal::Leased },
    }
}

/// Is the second id the one behind the first?
fn follows(one: ObjectId, next: ObjectId) -> bool {
    one.0.checked_add(1) == Some(next.0)
}

/// What the mark of an orphan that nobody holds says so far.
#[derive(Clone, Copy)]
enum Marked {
    /// That somebody held it.
    Held,
    /// That nobody holds it.
    Free,
}

/// The quorum's own changes break no rule of the record space, unless the records that they start from are damaged.
fn sound<T>(done: Result<T, ExpandError>) -> Result<T, ViewError> {
    done.map_err(|error| match error {
        ExpandError::View(error) => error,
        ExpandError::BadPlan(what) => ViewError::Damaged { what: format!("counters of an object ({what})") },
    })
}

/// Rule 1. Takes the request's number if it is the next one; forgets outcomes that the session has seen.
fn admit(session: &mut Session, request: &Request) -> bool {
    let window = request.seen.0.saturating_add(SESSION_WINDOW_MAX);
    if session.broken || request.seq != session.next || request.seq.0 >= window {
        return false;
    }
    session.outcomes = session.outcomes.split_off(&request.seen);
    session.next = Seq(request.seq.0 + 1);
    true
}

/// Rule 3, for one guard.
///
/// # Errors
/// As the view's.
pub fn holds(live: &dyn Live, guard: &Guard) -> Result<bool, ViewError> {
    Ok(match guard {
        Guard::Unchanged { key, at } => live.get(key)?.is_some_and(|version| version.create <= *at),
        Guard::Firm { key, at } => live.get(key)?.is_some_and(|version| version.firm <= *at),
        Guard::Empty { range } => range.is_empty() || live.scan(range, 1)?.is_empty(),
        Guard::Stable { range, at } => range.is_empty() || !live.changed_after(range, *at)?,
    })
}
