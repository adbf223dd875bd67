//! A node: a server and its own session, joined; what both worlds host.
//!
//! This room only passes messages between the two beings. All decisions are made in `gavel-server` and `gavel-client`;
//! all effects on the outside are given to the host (`gavel-runtime` or `gavel-sim`).

mod blocked;
pub mod clients;
mod landing;

use blocked::Blocked;
use clients::Clients;
use gavel_client::offers::{OFFER_TOKENS, Offered};
use gavel_client::pending::IDS_READY;
use gavel_client::session::BACKLOG_MAX;
use gavel_client::session::SessionConfig;
use gavel_client::{
    LockAnswer, LostBecause, LostPlan, OfferEffect, Offers, Pending, Session, SessionEffect, ToForget, Token, Usable,
};
use gavel_lease::RangeSet;
use gavel_lease::range::{every_object, guarded, whole_objects};
use gavel_quorum::{Persist, Recovered, Refused, RoleChange};
use gavel_server::{Clock, Config, Effect, Failure, Server, StartError};
use gavel_store::engine::Engine;
use gavel_store::records::Records;
use gavel_types::{BlobId, KeyParts, KeyRange, LogIndex, Moment, NodeId, ObjectId, SessionId, Tid, VolumeId};
use gavel_wire::lock::{Lock, LockFile, LockKind, LockOwner, Span};
use gavel_wire::{Author, BlobNews, Guard, Message, Mode, Outcome, Plan, Record, RequestBody, View};
use landing::Landing;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Orphans looked at in one step.
const ORPHAN_PAGE: usize = 1024;

/// What a node wants done outside.
#[derive(Clone, Debug)]
pub enum NodeEffect {
    /// Send it; it may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Make it durable in the log, then call `on_persisted`.
    Persist(Persist),
    /// Flush the records, then call `on_flushed`.
    Flush,
    /// The log may be forgotten up to and with this entry.
    TrimLog(LogIndex),
    /// Views from now on see everything up to this entry and Tid.
    Published {
        /// The Tid.
        tid: Tid,
        /// The entry.
        index: LogIndex,
    },
    /// What has become of blobs, behind an entry. To be carried out before the [`NodeEffect::Published`] that follows.
    Blobs(BlobNews),
    /// The replica has skipped a part of the log, up to and with this Tid: collections in it were not told, and which blobs are condemned has to be looked up.
    /// To be carried out before the [`NodeEffect::Published`] that follows.
    BlobsSkipped(Tid),
    /// Who leads has changed.
    Role(RoleChange),
    /// The node has failed for good.
    Failed(Failure),
    /// A commit has its outcome; see [`SessionEffect::Outcome`].
    Outcome {
        /// Whose.
        token: Token,
        /// The outcome.
        outcome: Option<Outcome>,
    },
    /// Nobody can say any more whether a commit was applied; see [`SessionEffect::Unknown`].
    Unknown {
        /// Whose.
        token: Token,
    },
    /// A view with this entry, which is applied, is current for the asker.
    Confirmed {
        /// Whose.
        token: Token,
        /// The entry.
        index: LogIndex,
    },
    /// A fresh object id.
    Id {
        /// Whose.
        token: Token,
        /// The id.
        object: ObjectId,
    },
    /// Refused before anything was sent: there is no quorum.
    NoQuorum {
        /// Whose.
        token: Token,
    },
    /// See [`SessionEffect::Usable`].
    Usable(Usable),
    /// See [`SessionEffect::Forget`]; then call [`Node::forgotten`].
    Forget(ToForget),
    /// What became of a lock; see [`SessionEffect::Lock`].
    Lock {
        /// Whose.
        token: Token,
        /// How it ended.
        answer: LockAnswer,
    },
    /// See [`SessionEffect::ShipPending`]: [`Pending::mark`] it, then [`Node::ship_pending`].
    ShipPending(u64),
    /// See [`SessionEffect::Landed`]. To be carried out before any other effect: what was accepted must not hide what is newer.
    Landed {
        /// The number of the last plan.
        last: u64,
        /// The commit.
        tid: Tid,
    },
    /// See [`SessionEffect::Lost`]; what [`Pending::lose`] gives then is for [`Node::offer_again`].
    Lost {
        /// Why.
        cause: LostBecause,
    },
    /// What has become of plans that were given to [`Node::offer_again`].
    Offer(OfferEffect),
    /// What a client is told that asked by [`Node::watch`].
    Watched {
        /// Whose.
        token: Token,
        /// What.
        answer: Box<gavel_wire::client::WatchAnswer>,
    },
}

/// What a request read, and the ranges that it writes, if it writes records.
fn read_and_written(body: &RequestBody) -> (&[Guard], Option<Vec<KeyRange>>) {
    match body {
        RequestBody::Commit { guards, plan, .. } | RequestBody::Adopt { guards, plan, .. } => {
            (guards, Some(gavel_lease::written(plan)))
        }
        RequestBody::Stage { plan, .. } => (&[], Some(gavel_lease::written(plan))),
        // Nobody is to answer for anything of it any more.
        RequestBody::DemoteMirror(demotion) => (&[], Some(vec![every_object(demotion.volume)])),
        _ => (&[], None),
    }
}

/// More ranges than this are told by their objects, neighbours together.
const RANGES_MAX: usize = 256;

/// The same ranges, or more than them, but few: who holds leases holds them over whole objects, and what a plan makes is numbered together.
fn by_objects(ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    if ranges.len() <= RANGES_MAX {
        return ranges;
    }
    let objects = |range| whole_objects(range).map(|(volume, first, last)| KeyRange::objects(volume, first, last));
    let runs: Option<RangeSet> = ranges.iter().map(objects).collect();
    runs.map_or(ranges, |runs| runs.ranges().to_vec())
}

/// A server and its own session.
pub struct Node<E: Engine> {
    /// The server.
    pub server: Server<E>,
    /// The session.
    pub session: Session,
    effects: VecDeque<NodeEffect>,
    /// What sessions before have lost.
    offers: Offers,
    /// Commits in the way of which others' leases are.
    blocked: Blocked<RequestBody>,
    /// What reads read that are being confirmed.
    confirming: BTreeMap<Token, Vec<KeyRange>>,
    /// Reads that are confirmed from an entry on that is not applied yet.
    confirmed: Vec<(LogIndex, Token)>,
    /// Reads of what others hold exclusively.
    reads: Blocked<()>,
    /// Questions when all that others have answered has landed.
    landing: Landing,
    /// Who holds what has changed since the session was last told.
    leases_changed: bool,
    /// The replica is not catching up.
    whole: bool,
    /// Clients without a replica.
    clients: Clients,
}

impl<E: Engine> Node<E> {
    /// Takes up a node where its disks left it. `incarnation` names this life of it: a number never used before.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub fn new(
        config: Config,
        session: SessionConfig,
        incarnation: u64,
        records: Arc<Records<E>>,
        sealed: Option<&[u8]>,
        log: Recovered,
        clock: Clock,
    ) -> Result<Node<E>, StartError> {
        let session = Session::new(config.id(), incarnation, session, clock.now);
        let server = Server::new(config, records, sealed, log, clock)?;
        let mut clients = Clients::default();
        clients.skip(server.state().tid);
        Ok(Node {
            clients,
            server,
            session,
            effects: VecDeque::new(),
            offers: Offers::default(),
            blocked: Blocked::default(),
            confirming: BTreeMap::new(),
            confirmed: Vec::new(),
            reads: Blocked::default(),
            landing: Landing::new(incarnation),
            leases_changed: true,
            whole: true,
        })
    }

    /// Time passes.
    pub fn on_tick(&mut self, clock: Clock) {
        self.server.on_tick(clock);
        self.session.on_tick(clock.now);
        self.offers.on_tick();
        let terms = self.server.state().sessions.values().map(|session| session.term_ms);
        let is_cut_off = self.session.without_quorum_ns(clock.now).is_some();
        let patience_ns = blocked::patience_ns(terms.max().unwrap_or(0), is_cut_off);
        for token in self.blocked.on_tick(clock.now, patience_ns) {
            self.session.give_up_write(token);
            self.no_quorum(token);
        }
        let reads = self.reads.on_tick(clock.now, patience_ns).into_iter();
        for token in reads.chain(self.landing.on_tick(clock.now, patience_ns)) {
            self.effects.push_back(NodeEffect::NoQuorum { token });
        }
        self.tick_clients(clock.now);
    }

    /// Ships a plan, of which the blobs were stored as of a transaction, once no lease of another session is in its way. Answered by `Outcome`, `Unknown` or
    /// `NoQuorum`.
    pub fn commit(
        &mut self,
        clock: Clock,
        token: Token,
        guards: Vec<Guard>,
        plan: Plan,
        author: Author,
        stored_as_of: Tid,
    ) {
        self.commit_as(clock, token, RequestBody::Commit { guards, plan, author, stored_as_of });
    }

    fn commit_as(&mut self, clock: Clock, token: Token, body: RequestBody) {
        if self.session.without_quorum_ns(clock.now).is_some() || self.blocked.len() >= BACKLOG_MAX {
            return self.no_quorum(token);
        }
        let (guards, written) = read_and_written(&body);
        let writes = by_objects(written.unwrap_or_default());
        let reads = guards.iter().map(guarded).collect();
        self.session.write(clock.now, token, &writes);
        self.blocked.push(clock.now, token, body, reads, writes);
    }

    /// Ships a request that is neither about leases nor locks, such as one for a snapshot, or to stage a part of a commit: what writes records waits
    /// for leases as a commit does. Answered by `Outcome`, `Unknown` or `NoQuorum`.
    pub fn request(&mut self, clock: Clock, token: Token, body: RequestBody) {
        match read_and_written(&body) {
            (_, Some(_)) => self.commit_as(clock, token, body),
            (_, None) => self.session.request(clock.now, token, body),
        }
    }

    /// Asks for a view that is current as of now, for a read of these ranges. Answered by `Confirmed` or `NoQuorum`.
    pub fn confirm_read(&mut self, clock: Clock, token: Token, reads: Vec<KeyRange>) {
        self.confirming.insert(token, reads);
        self.session.confirm_read(clock.now, token);
    }

    /// Asks for a view that holds all that any other node has answered in the volume until now, committed or not. Answered by `Confirmed` or `NoQuorum`.
    pub fn confirm_landed(&mut self, clock: Clock, token: Token, volume: VolumeId) {
        self.landing.begin(clock.now, token, volume);
        self.session.confirm_read(clock.now, token);
    }

    /// Ships what was accepted, as far as it can be, and keeps ids ready for what will be. True if there was something.
    pub fn ship_pending(&mut self, clock: Clock, pending: &mut Pending) -> bool {
        let before = (pending.shipped(), pending.lacks_ids());
        while self.session.id().is_some()
            && self.session.room() > 0
            && let Some(batch) = pending.take_batch()
        {
            self.session.commit_behind(clock.now, batch);
        }
        if pending.lacks_ids()
            && let Some(ids) = self.session.take_ids(IDS_READY)
        {
            pending.add_ids(ids);
        }
        let marks = pending.take_shipped();
        for id in &marks {
            self.session.shipped(*id);
            self.blocked.on_change();
        }
        !marks.is_empty() || before != (pending.shipped(), pending.lacks_ids())
    }

    /// Plans that a session lost because of `cause`, oldest first, are committed by the next one, if that can be. Their blobs are on a majority, unless
    /// they can't be offered anyway. Answered by [`NodeEffect::Offer`].
    pub fn offer_again(&mut self, cause: LostBecause, lost: Vec<LostPlan>) {
        self.offers.take_up(cause, lost);
    }

    /// The bytes of a lost plan, that [`OfferEffect::Store`] was about, are on a majority as of a transaction.
    pub fn offer_stored(&mut self, number: u64, as_of: Tid) {
        self.offers.stored(number, as_of);
    }

    /// These blobs have been stored here for long, and the replica does not name them: the leader may have them collected.
    pub fn unnamed(&mut self, clock: Clock, blobs: Vec<BlobId>) {
        self.server.on_local(clock, Message::Unnamed { blobs });
    }

    /// How many lost plans wait to be committed.
    pub fn offers(&self) -> usize {
        self.offers.len()
    }

    fn offer(&mut self, clock: Clock) {
        if self.session.id().is_some() && !self.server.is_catching_up() {
            while let Some(offered) = self.offers.take_offer() {
                let Offered { token, guards, plan, author, stored_as_of } = offered;
                self.commit(clock, token, guards, plan, author, stored_as_of);
            }
        }
        self.effects.extend(self.offers.take_effects().map(NodeEffect::Offer));
    }

    /// A commit was refused before anything was sent.
    fn no_quorum(&mut self, token: Token) {
        if token & OFFER_TOKENS != 0 {
            return self.offers.on_nothing(token);
        }
        self.effects.push_back(NodeEffect::NoQuorum { token });
    }

    /// An offer has its outcome.
    fn on_offer_outcome(&mut self, token: Token, outcome: Option<Outcome>) {
        let before = match &outcome {
            Some(Outcome::Committed { tid }) => Tid(tid.0.saturating_sub(1)),
            _ => Tid::ZERO,
        };
        let before = self.server.records().at(before);
        self.offers.on_outcome(token, outcome, &before);
    }

    /// How many commits wait until leases of others are out of their way.
    pub fn blocked(&self) -> usize {
        self.blocked.len()
    }

    /// How many commits and reads of this node wait for leases of each session.
    pub fn waits_for(&self) -> BTreeMap<SessionId, usize> {
        let session = self.session.id().unwrap_or_default();
        let table = &self.server.state().leases;
        let mut waits = self.blocked.in_the_way(table, session);
        for (holder, reads) in self.reads.in_the_way(table, session).into_iter().chain(self.landing.waits_for()) {
            *waits.entry(holder).or_default() += reads;
        }
        waits
    }

    /// The fronts have forgotten what [`NodeEffect::Forget`] told them to.
    pub fn forgotten(&mut self, id: u64) {
        self.session.forgotten(id);
        self.blocked.on_change();
    }

    /// Which lock is in the way of this one, by the replica as it is? Good for an answer if a confirmed read came before. Processes of other
    /// nodes are told as 0. None at all: `owner` has lost its locks of the file with a session.
    pub fn test_lock(&self, file: LockFile, owner: u64, span: Span, kind: LockKind) -> Option<Option<Lock>> {
        if self.session.locks().has_lost(file, owner) {
            return None;
        }
        // Without a session, nothing is held by this node.
        let session = self.session.id().unwrap_or(SessionId(0));
        Some(self.lock_in_the_way(file, LockOwner { session, id: owner }, span, kind))
    }

    /// The same, for a session that need not be this node's.
    pub fn lock_in_the_way(&self, file: LockFile, owner: LockOwner, span: Span, kind: LockKind) -> Option<Lock> {
        let lock = Lock { owner, span, kind, pid: 0 };
        let found = self.server.state().locks.in_the_way(&file, &lock);
        found.map(|found| Lock { pid: if found.owner.session == owner.session { found.pid } else { 0 }, ..found })
    }

    /// Ships what is not blocked any more, and recalls what still is in the way of the rest.
    fn unblock(&mut self, clock: Clock) {
        let Some(session) = self.session.id() else { return };
        let state = self.server.state();
        let may_ship = |token| self.session.may_ship(token);
        for wait in self.blocked.take_free(&state.leases, session, may_ship) {
            self.session.commit_as(clock.now, wait.token, wait.what);
        }
        let recalls = self.blocked.take_recalls(&state.leases, session, clock.now);
        self.send_recalls(clock.now, recalls);
    }

    fn send_recalls(&mut self, now: Moment, recalls: BTreeMap<(SessionId, Mode), Vec<KeyRange>>) {
        for ((holder, mode), ranges) in recalls {
            if let Some(node) = self.node_of(holder) {
                let at = self.server.state().applied;
                self.send(now, node, Message::Recall { session: holder, ranges, mode, at });
            }
        }
    }

    /// The other node that has this session. (One of this node's life before ends when this life's begins.)
    fn node_of(&self, session: SessionId) -> Option<NodeId> {
        let session = self.server.state().sessions.get(&session)?;
        Some(session.node).filter(|node| *node != self.server.id())
    }

    /// Clients are not dialled: they fetch what is for them.
    fn send(&mut self, now: Moment, to: NodeId, message: Message) {
        match to.is_client() {
            true => self.clients.post(now, to, message),
            false => self.effects.push_back(NodeEffect::Send { to, message }),
        }
    }

    /// Answers the reads whose entry is applied, unless another session holds exclusively what they read: it may have answered changes that the log
    /// does not have. What is answered here is as of just this state: nothing is applied behind it before the host takes its views.
    fn answer_reads(&mut self, clock: Clock) {
        if self.server.is_catching_up() {
            return;
        }
        let applied = self.server.state().applied;
        let (ready, later) = std::mem::take(&mut self.confirmed).into_iter().partition(|(index, _)| *index <= applied);
        self.confirmed = later;
        let ready: Vec<(LogIndex, Token)> = ready;
        for (_, token) in ready {
            let reads = self.confirming.remove(&token).unwrap_or_default();
            self.reads.push(clock.now, token, (), reads, Vec::new());
        }
        // With no session, everybody else's are in the way.
        let session = self.session.id().unwrap_or_default();
        let state = self.server.state();
        for wait in self.reads.take_free(&state.leases, session, |_| true) {
            self.effects.push_back(NodeEffect::Confirmed { token: wait.token, index: applied });
        }
        for token in self.landing.take_landed(&state.leases, session, applied) {
            self.effects.push_back(NodeEffect::Confirmed { token, index: applied });
        }
        let recalls = self.reads.take_recalls(&state.leases, session, clock.now);
        self.send_recalls(clock.now, recalls);
        for (holder, ticket) in self.landing.take_questions(clock.now) {
            if let Some(node) = self.node_of(holder) {
                self.send(clock.now, node, Message::Land { session: holder, ticket });
            }
        }
    }

    /// Tells the session what it holds, if that may have changed.
    fn tell_leases(&mut self, clock: Clock) {
        // While a replica catches up, its records are between two states: there is nothing to answer from.
        let whole = !self.server.is_catching_up();
        if std::mem::replace(&mut self.whole, whole) != whole || std::mem::take(&mut self.leases_changed) {
            let state = self.server.state();
            let session = self.session.id().filter(|_| whole);
            let held = session.map(|session| state.leases.held_by(session)).unwrap_or_default();
            let exclusive = session.map(|session| state.leases.held_exclusively_by(session)).unwrap_or_default();
            self.session.on_leases(clock.now, held, exclusive);
            self.blocked.on_change();
            self.reads.on_change();
            self.landing.on_leases();
            self.clients.on_leases();
        }
    }

    /// A message of another node.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn on_message(&mut self, clock: Clock, from: NodeId, message: Message) -> Result<(), Refused> {
        if from.is_client() && !clients::may_send(&message) {
            return Err(Refused::Stranger(from));
        }
        match message {
            Message::Land { session, ticket } if self.session.id() == Some(session) => self.session.land(from, ticket),
            message => return self.server.on_message(clock, from, message),
        }
        Ok(())
    }

    /// Works through everything that the inputs started, as far as nobody else waits for what is to be sent: to be called until it gives nothing.
    pub fn take_effects(&mut self, clock: Clock) -> Vec<NodeEffect> {
        loop {
            let from_server = self.server.take_effects();
            let quiet = from_server.is_empty();
            for effect in from_server {
                self.pass_on(clock, effect);
            }
            self.tell_leases(clock);
            self.offer(clock);
            self.unblock(clock);
            let from_session = self.session.take_effects(clock.now);
            if quiet && from_session.is_empty() {
                self.answer_reads(clock);
                if !self.serve_clients(clock) {
                    return self.effects.drain(..).collect();
                }
            }
            for effect in from_session {
                self.take_from_session(clock, effect);
            }
            if self.server.has_to_apply() {
                return self.effects.drain(..).collect();
            }
        }
    }

    fn pass_on(&mut self, clock: Clock, effect: Effect) {
        let effect = match effect {
            Effect::Send { to, message } => return self.send(clock.now, to, message),
            Effect::Persist(persist) => NodeEffect::Persist(persist),
            Effect::Flush => NodeEffect::Flush,
            Effect::TrimLog(index) => NodeEffect::TrimLog(index),
            Effect::Failed(failure) => NodeEffect::Failed(failure),
            Effect::Local(Message::Recall { session, ranges, mode, at }) => {
                if self.session.id() == Some(session) {
                    let unseen = at > self.server.state().applied;
                    self.session.on_recall(clock.now, &ranges, mode, unseen);
                }
                return;
            }
            Effect::Local(Message::AllLanded { session, ticket, index }) => {
                return self.landing.on_landed(session, ticket, index);
            }
            Effect::Local(message) => return self.session.on_message(clock.now, message),
            Effect::Role(role) => {
                self.session.on_leader(clock.now);
                NodeEffect::Role(role)
            }
            Effect::Applied(news) => {
                let before = self.session.id();
                self.session.on_news(clock.now, &news);
                self.leases_changed |= news.leases || self.session.id() != before;
                if self.session.id().is_some() && self.session.id() != before {
                    // The session may be older than this news, if a catch-up has skipped its beginning; so may be
                    // orphans of it, which nobody else would ever release.
                    let orphans = self.own_orphans();
                    self.session.on_orphans(&orphans);
                }
                self.clients.on_orphaned(news.tid, &news.orphaned);
                if !news.blobs.is_empty() {
                    self.effects.push_back(NodeEffect::Blobs(news.blobs));
                }
                NodeEffect::Published { tid: news.tid, index: news.index }
            }
            Effect::Installed { tid, index } => {
                self.after_install(clock);
                self.clients.skip(tid);
                self.effects.push_back(NodeEffect::BlobsSkipped(tid));
                NodeEffect::Published { tid, index }
            }
        };
        self.effects.push_back(effect);
    }

    /// The replica has skipped a part of the log: the session learns what it missed from the replicated state.
    fn after_install(&mut self, clock: Clock) {
        self.leases_changed = true;
        let id = self.session.id();
        let known = id.and_then(|id| self.server.state().sessions.get(&id));
        self.session.on_installed(clock.now, known.map(|session| (session.next, &session.outcomes)));
        if let Some(id) = self.session.id() {
            let locks = &self.server.state().locks;
            self.session.on_locks_installed(|seq| locks.waits((id, seq)));
        }
        if self.session.id().is_some() {
            let orphans = self.own_orphans();
            self.session.on_orphans(&orphans);
        }
    }

    fn own_orphans(&self) -> Vec<(VolumeId, ObjectId)> {
        self.orphans_of(self.session.id())
    }

    /// The objects without a name that a session holds.
    fn orphans_of(&self, session: Option<SessionId>) -> Vec<(VolumeId, ObjectId)> {
        let Some(id) = session else { return Vec::new() };
        let state = self.server.state();
        let live = self.server.records().live(state.tid);
        let mut mine = Vec::new();
        for volume in state.volumes.keys() {
            let mut from = ObjectId(0);
            while let Ok(page) = live.scan(&KeyRange::orphans_from(*volume, from), ORPHAN_PAGE) {
                for (key, version) in &page {
                    let (KeyParts::Orphan { object }, Record::Orphan(orphan)) = (key.parts(), &version.record) else {
                        continue;
                    };
                    from = ObjectId(object.0 + 1);
                    if orphan.holders.contains(&id) {
                        mine.push((*volume, object));
                    }
                }
                if page.len() < ORPHAN_PAGE {
                    break;
                }
            }
        }
        mine
    }

    fn take_from_session(&mut self, clock: Clock, effect: SessionEffect) {
        self.effects.push_back(match effect {
            SessionEffect::Ship(message) => return self.server.on_local(clock, message),
            SessionEffect::Outcome { token, outcome } if token & OFFER_TOKENS != 0 => {
                return self.on_offer_outcome(token, outcome);
            }
            SessionEffect::Unknown { token } if token & OFFER_TOKENS != 0 => return self.offers.on_unknown(token),
            SessionEffect::Outcome { token, outcome } => NodeEffect::Outcome { token, outcome },
            SessionEffect::Unknown { token } => NodeEffect::Unknown { token },
            SessionEffect::Confirmed { token, index } if self.clients.on_confirmed(token, index) => return,
            SessionEffect::Confirmed { token, index } if self.landing.on_confirmed(token, index) => return,
            SessionEffect::Confirmed { token, index } => return self.confirmed.push((index, token)),
            SessionEffect::Id { token, object } => NodeEffect::Id { token, object },
            SessionEffect::NoQuorum { token } => {
                self.confirming.remove(&token);
                self.landing.give_up(token);
                self.clients.give_up(token);
                return self.no_quorum(token);
            }
            SessionEffect::Usable(usable) => NodeEffect::Usable(usable),
            SessionEffect::Forget(to_forget) => NodeEffect::Forget(to_forget),
            SessionEffect::ShipPending(id) => NodeEffect::ShipPending(id),
            SessionEffect::Landed { last, tid } => NodeEffect::Landed { last, tid },
            SessionEffect::AllLanded { to, ticket } => {
                let Some(session) = self.session.id() else { return };
                let index = self.server.state().applied;
                return self.send(clock.now, to, Message::AllLanded { session, ticket, index });
            }
            SessionEffect::Lost { cause } => NodeEffect::Lost { cause },
            SessionEffect::Lock { token, answer } => NodeEffect::Lock { token, answer },
        });
    }

    /// Asserts what one node can see of the invariants.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        self.server.check_invariants();
        self.session.check_invariants();
        self.offers.check_invariants();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::Key;

    #[test]
    fn many_ranges_are_told_by_runs_of_objects() {
        let volume = VolumeId(1);
        let attr = |object| KeyRange::one(&Key::attr(volume, ObjectId(object)));
        let few: Vec<KeyRange> = (0..10).map(|object| attr(100 + object * 2)).collect();
        assert_eq!(by_objects(few.clone()), few);
        let made = (1000..1000 + RANGES_MAX as u64)
            .flat_map(|object| [attr(object), KeyRange::mark(volume, ObjectId(object))]);
        let mut many: Vec<KeyRange> =
            made.chain([attr(7), KeyRange::dirents(volume, ObjectId(7)), attr(u64::MAX)]).collect();
        many.sort();
        let runs = by_objects(many.clone());
        let objects = |first, last| KeyRange::objects(volume, ObjectId(first), ObjectId(last));
        let last = 1000 + RANGES_MAX as u64 - 1;
        assert_eq!(runs, [objects(7, 7), objects(1000, last), objects(u64::MAX, u64::MAX)]);
        let covered = |range: &KeyRange| runs.iter().any(|run| run.start <= range.start && range.end <= run.end);
        assert!(many.iter().all(covered));
    }
}
