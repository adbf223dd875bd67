//! One log entry, item by item; the commit rule.
//!
//! A commit applies if and only if
//! 1. its session is open and its number is the session's next one (`admit`);
//! 2. no other session holds a lease that overlaps what it writes, nor an exclusive one that overlaps what it read ([`gavel_lease`]);
//! 3. each of its guards holds ([`holds`]), and none asks what has changed since a state before the volume's horizon.
//!
//! A repeated number finds the recorded outcome and changes nothing. A request whose session has ended, or whose
//! number is not the next, changes nothing and has no outcome: its node sees the session end, or sends it again.

use crate::expand::{Counted, ExpandError, Expansion, PLAN_MUTATIONS_MAX, volumes_of};
use crate::overlay::Overlay;
use crate::prune_step;
use crate::state::{Session, State};
use gavel_lease::range::guarded;
use gavel_lease::table::Existing;
use gavel_types::limits::{NOTE_BYTES_MAX, OBJECT_BLOCK, SESSION_WINDOW_MAX, SESSIONS_MAX};
use gavel_types::{Key, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, Timestamp, VolumeId};
use gavel_wire::{
    Attr, Author, Change, Committed, Ended, Entry, Firm, Guard, Item, Kind, Live, Mode, Mutation, Orphan, Outcome,
    Plan, Record, Refusal, Removal, Request, RequestBody, Version, View, ViewError, Want,
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
    /// The lease table has changed.
    pub leases: bool,
    /// Locks that stood in line and are held now.
    pub granted: Vec<gavel_wire::lock::Waiter>,
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
    let mut run = Run { state, base, view, out, reap_left: REAP_RECORDS_MAX, swept: false };
    if let Some(entry) = entry
        && entry.tid > run.state.tid
    {
        for (i, item) in entry.items.iter().enumerate() {
            let tid = Tid(entry.tid.0 + i as u64);
            run.state.tid = tid;
            run.item(tid, item)?;
        }
    }
    let out = run.out;
    state.applied = index;
    state.keep_digest();
    Ok(out)
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
}

impl Run<'_> {
    fn item(&mut self, tid: Tid, item: &Item) -> Result<(), ViewError> {
        match item {
            Item::Request(request) => self.request(tid, request),
            Item::SessionOpen { node, incarnation, term_ms } => self.open_session(tid, *node, *incarnation, *term_ms),
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
                let _ = self.state.past.prune(tid, *volume);
                Ok(())
            }
            Item::Sweep { volume, rows } => self.sweep(*volume, *rows),
        }
    }

    /// One step of the volume's sweep, if one is under way.
    fn sweep(&mut self, volume: VolumeId, rows: u32) -> Result<(), ViewError> {
        let state = &mut *self.state;
        let Some(past) = state.past.of(volume) else { return Ok(()) };
        let Some(pass) = past.pass.as_ref().filter(|_| !self.swept) else { return Ok(()) };
        let step = prune_step::step(past.readable(), pass, (volume, rows), self.base, &mut state.records)?;
        self.swept = true;
        state.past.swept(volume, step.next, !step.removals.is_empty());
        self.out.removals = step.removals;
        Ok(())
    }

    fn request(&mut self, tid: Tid, request: &Request) -> Result<(), ViewError> {
        let Some(session) = self.state.sessions.get_mut(&request.session) else { return Ok(()) };
        if !admit(session, request) {
            return Ok(());
        }
        let outcome = match &request.body {
            RequestBody::Commit { guards, plan, author } => {
                let session = (request.session, session.node);
                self.commit(tid, session, guards, plan, author)?
            }
            RequestBody::AllocateObjects => self.allocate(tid, request.session),
            RequestBody::Release { orphans } => {
                for (volume, object) in orphans {
                    self.release(tid, *volume, *object, request.session)?;
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
            RequestBody::SetRetention { volume, policy } => done(tid, self.state.past.set_policy(*volume, policy)),
            RequestBody::Prune { volume } => done(tid, self.state.past.prune(tid, *volume)),
            RequestBody::Pin { volume, at } => done(tid, self.state.past.pin(tid, *volume, *at, request.session)),
            RequestBody::Unpin { volume, at } => done(tid, self.state.past.unpin(*volume, *at, request.session)),
        };
        if let Some(session) = self.state.sessions.get_mut(&request.session) {
            session.outcomes.insert(request.seq, outcome.clone());
        }
        self.out.outcomes.push((request.session, request.seq, outcome));
        Ok(())
    }

    /// Grants what can be granted.
    fn lease(&mut self, tid: Tid, session: SessionId, wants: &[Want]) -> Outcome {
        let others = self.state.sessions.iter().filter(|(other, _)| **other != session);
        let blocks = others.flat_map(|(_, other)| &other.blocks);
        let theirs: Vec<_> = blocks.map(|first| (*first, ObjectId(first.0 + OBJECT_BLOCK - 1))).collect();
        let objects = Existing { first_free: self.state.next_object, theirs: &theirs };
        for want in wants.iter().take(LEASE_RANGES_MAX) {
            let granted = self.state.leases.grant(session, want, tid, objects);
            self.out.leases |= granted.is_ok();
        }
        Outcome::Committed { tid }
    }

    fn commit(
        &mut self,
        tid: Tid,
        (session, node): (SessionId, NodeId),
        guards: &[Guard],
        plan: &Plan,
        author: &Author,
    ) -> Result<Outcome, ViewError> {
        let bad_plan = Ok(Outcome::Refused { refusal: Refusal::BadPlan });
        if guards.len() > GUARDS_MAX || plan.mutations.len() > PLAN_MUTATIONS_MAX || author.note.len() > NOTE_BYTES_MAX
        {
            return bad_plan;
        }
        if !self.is_free(session, guards, plan) {
            return Ok(Outcome::Refused { refusal: Refusal::Leased });
        }
        for (number, guard) in guards.iter().enumerate() {
            if !self.can_judge(guard) || !holds(&self.view, guard)? {
                return Ok(Outcome::Refused { refusal: Refusal::Conflict { guard: number as u32 } });
            }
        }
        let volumes = volumes_of(&plan.mutations);
        if volumes.iter().any(|volume| !self.state.volumes.contains_key(volume)) {
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
                sign(tid, node, author, &volumes, &mut done.0);
                self.take(tid, done);
                Ok(Outcome::Committed { tid })
            }
            Err(ExpandError::BadPlan(_)) => bad_plan,
            Err(ExpandError::View(error)) => Err(error),
        }
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
        leases.is_empty()
            || (gavel_lease::written(plan).iter().all(|range| leases.is_free(session, range, Mode::Exclusive))
                && guards.iter().all(|guard| leases.is_free(session, &guarded(guard), Mode::Shared)))
    }

    fn expand(&self, tid: Tid, plan: &Plan, sessions: &[SessionId]) -> Result<Expanded, ExpandError> {
        let mut expansion = Expansion::new(&self.view, tid);
        for mutation in &plan.mutations {
            expansion.mutate(mutation, sessions)?;
        }
        expansion.check_plan()?;
        let done = expansion.finish()?;
        for (volume, counted) in &done.1 {
            let before = self.state.volumes.get(volume).copied().unwrap_or_default();
            if before.bytes.checked_add_signed(counted.bytes).is_none() {
                return Err(ExpandError::BadPlan("bytes of a volume"));
            }
        }
        Ok(done)
    }

    fn take(&mut self, tid: Tid, (changes, counted): Expanded) {
        for change in &changes {
            self.state.records.add(tid, &change.key, change.new.as_ref());
        }
        for (volume, counted) in counted {
            let counts = self.state.volumes.entry(volume).or_default();
            counts.objects = counts.objects.saturating_add_signed(counted.objects);
            counts.bytes = counts.bytes.saturating_add_signed(counted.bytes);
        }
        self.view.lay(tid, &changes);
        self.out.changes.extend(changes);
    }

    /// What the session will make there it need not ask for. (Nothing can be in the way but a full table: then it asks.)
    fn lease_block(&mut self, tid: Tid, session: SessionId, first: ObjectId) {
        let last = ObjectId(first.0 + OBJECT_BLOCK - 1);
        let objects = Existing { first_free: self.state.next_object, theirs: &[] };
        for volume in self.state.volumes.keys() {
            let range = KeyRange::objects(*volume, first, last);
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

    fn open_session(&mut self, tid: Tid, node: NodeId, incarnation: u64, term_ms: u32) -> Result<(), ViewError> {
        let latest = self.state.incarnations.get(&node);
        let known = latest.is_some() || self.state.incarnations.len() < NODES_MAX;
        // An earlier life may have asked, and its question come late: it must not end the session of the one that lives.
        if latest.is_some_and(|latest| incarnation < *latest) || !known {
            return Ok(());
        }
        let mine: Vec<(SessionId, u64)> = self
            .state
            .sessions
            .iter()
            .filter(|(_, session)| session.node == node)
            .map(|(id, session)| (*id, session.incarnation))
            .collect();
        for (id, other) in mine {
            if other == incarnation {
                self.out.opened.push((id, node, incarnation));
                return Ok(());
            }
            self.end_session(tid, id)?;
        }
        if self.state.sessions.len() < SESSIONS_MAX {
            let id = SessionId(tid.0);
            let (blocks, outcomes) = (Vec::new(), BTreeMap::new());
            let term_ms = term_ms.clamp(TERM_MS_MIN, TERM_MS_MAX);
            let session = Session { node, incarnation, term_ms, blocks, next: Seq(1), outcomes };
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
        let volumes: Vec<VolumeId> = self.state.volumes.keys().copied().collect();
        for volume in volumes {
            let mut from = ObjectId(0);
            loop {
                let page = self.view.scan(&KeyRange::orphans_from(volume, from), ORPHAN_PAGE)?;
                for (key, version) in &page {
                    let gavel_types::KeyParts::Orphan { object } = key.parts() else { continue };
                    from = ObjectId(object.0 + 1);
                    if matches!(&version.record, Record::Orphan(orphan) if orphan.holders.contains(&session)) {
                        self.release(tid, volume, object, session)?;
                    }
                }
                if page.len() < ORPHAN_PAGE {
                    break;
                }
            }
        }
        Ok(())
    }

    /// `session` does not hold the orphan. If nobody does, its records end.
    ///
    /// Nothing happens if the session is not among the holders: an orphan that one item names twice would otherwise
    /// get two versions at one Tid, and every needless release would start one more line of reaping.
    fn release(&mut self, tid: Tid, volume: VolumeId, object: ObjectId, session: SessionId) -> Result<(), ViewError> {
        let Some(mut orphan) = self.orphan(volume, object)? else { return Ok(()) };
        if !orphan.holders.contains(&session) {
            return Ok(());
        }
        orphan.holders.retain(|holder| *holder != session);
        if orphan.holders.is_empty() {
            return self.erase(tid, volume, object, Marked::Held);
        }
        let mut expansion = Expansion::new(&self.view, tid);
        let done = expansion.set_record(&Key::orphan(volume, object), Record::Orphan(orphan));
        let done = sound(done.and_then(|()| expansion.finish()))?;
        self.take(tid, done);
        Ok(())
    }

    fn reap(&mut self, tid: Tid, volume: VolumeId, object: ObjectId) -> Result<(), ViewError> {
        match self.orphan(volume, object)? {
            Some(orphan) if orphan.holders.is_empty() => self.erase(tid, volume, object, Marked::Free),
            _ => Ok(()),
        }
    }

    fn orphan(&self, volume: VolumeId, object: ObjectId) -> Result<Option<Orphan>, ViewError> {
        Ok(match self.view.get(&Key::orphan(volume, object))?.map(|version| version.record) {
            Some(Record::Orphan(orphan)) => Some(orphan),
            _ => None,
        })
    }

    /// Ends records of an orphan that nobody holds any more, as many as this entry may still end. Its mark stays, with
    /// no holder, until the last one has ended.
    fn erase(&mut self, tid: Tid, volume: VolumeId, object: ObjectId, marked: Marked) -> Result<(), ViewError> {
        let key = Key::orphan(volume, object);
        let mut expansion = Expansion::new(&self.view, tid);
        let ended = sound(expansion.erase(volume, object, self.reap_left))?;
        let more = ended == self.reap_left;
        let mark = match (more, marked) {
            (true, Marked::Held) => expansion.set_record(&key, Record::Orphan(Orphan { holders: Vec::new() })),
            (true, Marked::Free) => Ok(()),
            (false, _) => expansion.end_record(&key),
        };
        let done = sound(mark.and_then(|()| expansion.finish()))?;
        self.take(tid, done);
        self.reap_left -= ended;
        if more {
            self.out.to_reap.push((volume, object));
        }
        Ok(())
    }

    fn create_volume(&mut self, tid: Tid, volume: VolumeId, mode: u16, uid: u32, gid: u32) -> Result<(), ViewError> {
        if volume.0 == 0 || self.state.volumes.contains_key(&volume) {
            return Ok(());
        }
        self.state.volumes.insert(volume, Default::default());
        self.state.past.begin(tid, volume);
        let now = Timestamp::of_tid(tid);
        let (kind, parent) = (Kind::Directory, ObjectId::ROOT);
        let firm = Firm { kind, mode: mode & 0o7777, uid, gid, rdev: 0, parent, birth: now };
        let root = Attr { firm, nlink: 2, size: 0, allocated: 0, atime: now, mtime: now, ctime: now };
        let mut expansion = Expansion::new(&self.view, tid);
        let done = expansion.set_record(&Key::attr(volume, ObjectId::ROOT), Record::Attr(root));
        self.take(tid, sound(done.and_then(|()| expansion.finish()))?);
        Ok(())
    }
}

/// Says who made a commit, once for each volume that it changed.
fn sign(tid: Tid, node: NodeId, author: &Author, volumes: &BTreeSet<VolumeId>, changes: &mut Vec<Change>) {
    for volume in volumes.iter().copied() {
        if !changes.iter().any(|change| change.key.volume() == volume) {
            continue;
        }
        let record = Record::Commit(Committed { node, uid: author.uid, note: author.note.clone() });
        let new = Some(Version { create: tid, firm: tid, record });
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
    if request.seq != session.next || request.seq.0 >= window {
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
