//! The node's standing with the quorum: numbered requests, confirmed reads, object ids, orphans.
//!
//! States: closed (asking for a session) -> open -> closed (the quorum ended it) -> ...
//!
//! Everything that is sent may be lost: requests are sent again from the first one without an outcome, reads are asked
//! again in a new round. The outcomes come with the log, through the node's own replica, in the order of the requests.

use crate::landing::Landings;
use crate::leases::{Leases, Next, ToForget, Usable};
use crate::locks::{self, LockAnswer, LockCall, Locks};
use crate::pending::Batch;
use gavel_lease::RangeSet;
use gavel_types::limits::{REQUEST_BYTES_MAX, SESSION_WINDOW_MAX};
use gavel_types::{KeyRange, LogIndex, Moment, NodeId, ObjectId, Seq, SessionId, Tid, VolumeId};
use gavel_wire::codec::MESSAGE_BYTES_MAX;
use gavel_wire::{Author, Guard, Message, Mode, News, Outcome, Plan, Refusal, Request, RequestBody};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Names a wait of an operation; chosen by the operation's host, unique within the node's life.
pub type Token = u64;

/// What is not answered by then is sent again; requests then wait twice as long for the next time, as long as none of them has an outcome: a slow
/// link must not be filled with what is on it already.
const RESEND_NS: u64 = 300_000_000;
/// The longest time until requests are sent again.
const RESEND_MAX_NS: u64 = 2_400_000_000;
/// A node that ticks as seldom as that has stood still.
const PAUSE_NS: u64 = 500_000_000;
/// What nobody could answer is asked again after this.
const RETRY_NS: u64 = 20_000_000;
/// Released orphans are gathered for so long.
const RELEASE_DELAY_NS: u64 = 20_000_000;
/// Most orphans in one release.
const RELEASE_MAX: usize = 1024;
/// Most requests in one message.
const SUBMIT_REQUESTS_MAX: usize = 256;
/// Encoded bytes of requests in one message, unless there is only one.
const SUBMIT_BYTES_MAX: usize = 1024 * 1024;
/// Encoded bytes of requests that are sent and have no outcome, unless there is only one: as much may be sent again.
const WINDOW_BYTES_MAX: usize = 4 * 1024 * 1024;

const _: () = assert!(REQUEST_BYTES_MAX < MESSAGE_BYTES_MAX && SUBMIT_BYTES_MAX < MESSAGE_BYTES_MAX);
/// Rounds of read confirmation under way at once.
const ROUNDS_MAX: usize = 4;
/// Object ids are asked for when fewer are left.
const IDS_LOW: u64 = 1024;
/// Requests that may wait for a place in the session's window.
pub const BACKLOG_MAX: usize = 65_536;

/// What a session wants done, or has to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionEffect {
    /// Send it to the leader.
    Ship(Message),
    /// A commit has its outcome. `None`: the session ended before it was applied; it never will be: run the operation again.
    Outcome {
        /// Whose.
        token: Token,
        /// The outcome.
        outcome: Option<Outcome>,
    },
    /// The session ended while this replica was not looking: the commit was applied, or never will be.
    Unknown {
        /// Whose.
        token: Token,
    },
    /// A view that has applied `index` holds everything that was committed when the question was asked.
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
        /// The id; nobody else was given it.
        object: ObjectId,
    },
    /// No quorum has been heard of for too long: refused before anything was sent.
    NoQuorum {
        /// Whose.
        token: Token,
    },
    /// What the node may answer for has changed. To be put in force before any effect behind this one; every answer that was given under
    /// what was in force before has been handed over then.
    Usable(Usable),
    /// Tell the fronts to forget, then call [`Session::forgotten`].
    Forget(ToForget),
    /// What became of a [`LockCall`].
    Lock {
        /// Whose.
        token: Token,
        /// How it ended.
        answer: LockAnswer,
    },
    /// Give everything that was accepted so far to [`Session::commit_behind`], then call [`Session::shipped`] with this number.
    ShipPending(u64),
    /// A batch is committed, and this replica has it.
    Landed {
        /// The number of its last plan.
        last: u64,
        /// The commit.
        tid: Tid,
    },
    /// All that had been answered when a node asked with [`Session::land`] has landed here.
    AllLanded {
        /// Who asked.
        to: NodeId,
        /// Which question.
        ticket: u64,
    },
    /// Nothing that was accepted and has not landed will land: the session has ended, or (a fault) the log refused it.
    Lost {
        /// Why.
        cause: LostBecause,
    },
}

/// Why accepted plans are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LostBecause {
    /// The session has ended: what was shipped was not applied, and never will be.
    SessionEnded,
    /// The session has ended while this replica was not looking: what was shipped may have been applied.
    Unknown,
    /// The log refused a batch. No honest node builds one that it would refuse.
    Refused,
}

/// Times of a session, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// How long the quorum keeps a session that it does not hear of. It is refreshed three times as often.
    pub term_ns: u64,
    /// With no sign of a quorum for so long, new questions are refused at once.
    pub patience_ns: u64,
}

/// Who is told what became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owner {
    /// An operation.
    Operation(Token),
    /// Nobody; it is the session's own.
    Session,
    /// A request for leases.
    Want,
    /// What a recall gave up.
    Recall(u64),
    /// Plans that were answered already, up to this one.
    Behind(u64),
    /// A program that wants a lock, or gives one back.
    Lock(Token),
    /// A lock that its program does not wait for any more.
    CancelLock(Token),
}

impl Owner {
    fn token(self) -> Option<Token> {
        match self {
            Owner::Operation(token) => Some(token),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct InFlight {
    request: Request,
    /// Its encoded size.
    bytes: usize,
    owner: Owner,
    /// When it was sent last; none if it is to be sent now.
    sent_at: Option<Moment>,
    /// Whether it was ever sent.
    sent: bool,
}

#[derive(Clone, Debug)]
struct Round {
    asked_at: Moment,
    tokens: Vec<Token>,
}

/// A node's session. See the module's documentation.
#[derive(Debug)]
pub struct Session {
    node: NodeId,
    incarnation: u64,
    config: SessionConfig,
    id: Option<SessionId>,
    /// The last one that it lost: it is not taken up again.
    left: Option<SessionId>,
    next: Seq,
    /// Requests without an outcome, in order.
    in_flight: VecDeque<InFlight>,
    /// After so long without an outcome they are sent again.
    resend_ns: u64,
    /// Requests that have no place in the window yet.
    backlog: VecDeque<(Owner, RequestBody)>,
    reads_waiting: Vec<Token>,
    rounds: BTreeMap<u64, Round>,
    next_ticket: u64,
    ids: VecDeque<(u64, u64)>,
    ids_waiting: VecDeque<Token>,
    ids_asked: bool,
    /// What the next commit makes.
    will_make: Option<ObjectId>,
    /// How often each object is open on this node.
    open: BTreeMap<ObjectId, u32>,
    held: BTreeSet<(VolumeId, ObjectId)>,
    /// Those of them that nobody has been told of.
    held_since: BTreeSet<(VolumeId, ObjectId)>,
    to_release: BTreeSet<(VolumeId, ObjectId)>,
    release_since: Option<Moment>,
    opening_since: Option<Moment>,
    refreshed_at: Option<Moment>,
    /// Refreshes without an answer: when they were sent.
    refreshes: BTreeMap<u64, Moment>,
    leases: Leases,
    landings: Landings,
    /// A request for leases is on its way.
    wanting: bool,
    locks: Locks,
    /// The last sign of a quorum, or as long ago as that if the node has stood still since.
    heard_at: Moment,
    ticked_at: Moment,
    effects: VecDeque<SessionEffect>,
}

impl Session {
    /// A node that has no session yet.
    pub fn new(node: NodeId, incarnation: u64, config: SessionConfig, now: Moment) -> Session {
        Session {
            node,
            incarnation,
            config,
            id: None,
            left: None,
            next: Seq(1),
            in_flight: VecDeque::new(),
            resend_ns: RESEND_NS,
            backlog: VecDeque::new(),
            reads_waiting: Vec::new(),
            rounds: BTreeMap::new(),
            // An answer to a question of this node's life before must not be taken for one to a question of this life.
            next_ticket: incarnation,
            ids: VecDeque::new(),
            ids_waiting: VecDeque::new(),
            ids_asked: false,
            will_make: None,
            open: BTreeMap::new(),
            held: BTreeSet::new(),
            held_since: BTreeSet::new(),
            to_release: BTreeSet::new(),
            release_since: None,
            opening_since: None,
            refreshed_at: None,
            refreshes: BTreeMap::new(),
            leases: Leases::default(),
            landings: Landings::default(),
            wanting: false,
            locks: Locks::default(),
            heard_at: now,
            ticked_at: now,
            effects: VecDeque::new(),
        }
    }

    /// The open session, if there is one.
    pub fn id(&self) -> Option<SessionId> {
        self.id
    }

    /// The number of its oldest request without an outcome, or of the next one.
    pub fn oldest(&self) -> Seq {
        self.in_flight.front().map_or(self.next, |wait| wait.request.seq)
    }

    /// For how long no quorum has been heard of, in nanoseconds, if that is longer than the session is patient.
    pub fn without_quorum_ns(&self, now: Moment) -> Option<u64> {
        let silent = now.since_ns(self.heard_at);
        (silent > self.config.patience_ns).then_some(silent)
    }

    /// Ships a plan, of which the blobs were stored as of a transaction. Answered by `Outcome` or `NoQuorum`.
    pub fn commit(
        &mut self,
        now: Moment,
        token: Token,
        guards: Vec<Guard>,
        plan: Plan,
        author: Author,
        stored_as_of: Tid,
    ) {
        self.commit_as(now, token, RequestBody::Commit { guards, plan, author, stored_as_of });
    }

    /// Ships a request that writes records: a commit, or what stages or adopts a part of one. Answered by `Outcome` or `NoQuorum`.
    pub fn commit_as(&mut self, now: Moment, token: Token, body: RequestBody) {
        if self.without_quorum_ns(now).is_some() || self.backlog.len() >= BACKLOG_MAX {
            self.leases.written(token);
            return self.effects.push_back(SessionEffect::NoQuorum { token });
        }
        self.backlog.push_back((Owner::Operation(token), body));
    }

    /// Ships a request that is neither about records nor about leases nor locks. Answered by `Outcome` or `NoQuorum`.
    pub fn request(&mut self, now: Moment, token: Token, body: RequestBody) {
        if self.without_quorum_ns(now).is_some() || self.backlog.len() >= BACKLOG_MAX {
            return self.effects.push_back(SessionEffect::NoQuorum { token });
        }
        self.backlog.push_back((Owner::Operation(token), body));
    }

    /// Ships plans that were answered already: without guards, for this session's leases have kept them good. Answered by `Landed` or `Lost`.
    pub fn commit_behind(&mut self, now: Moment, batch: Batch) {
        self.leases.used(now);
        let Batch { last, plan, author, stored_as_of } = batch;
        let body = RequestBody::Commit { guards: Vec::new(), plan, author, stored_as_of };
        self.backlog.push_back((Owner::Behind(last), body));
    }

    /// How many more requests have a place in the session's window now.
    pub fn room(&self) -> usize {
        (SESSION_WINDOW_MAX as usize).saturating_sub(self.in_flight.len() + self.backlog.len() + 1)
    }

    /// Object ids that nobody waits for, from the first up to and without the second, `most` of them at most.
    pub fn take_ids(&mut self, most: u64) -> Option<(u64, u64)> {
        let (first, end) = self.ids.front_mut().filter(|_| self.ids_waiting.is_empty())?;
        let taken = (*first, (*end).min(*first + most));
        *first = taken.1;
        if first == end {
            self.ids.pop_front();
        }
        Some(taken)
    }

    /// Ids before this one are not used any more.
    pub fn skip_ids(&mut self, floor: ObjectId) {
        crate::pending::skip_ids(&mut self.ids, floor);
    }

    /// Asks from which entry on a view is current. Answered by `Confirmed` or `NoQuorum`.
    pub fn confirm_read(&mut self, now: Moment, token: Token) {
        if self.without_quorum_ns(now).is_some() || self.reads_waiting.len() >= BACKLOG_MAX {
            return self.effects.push_back(SessionEffect::NoQuorum { token });
        }
        self.reads_waiting.push(token);
    }

    /// Asks for a fresh object id. Answered by `Id` or `NoQuorum`.
    pub fn object_id(&mut self, now: Moment, token: Token) {
        if self.ids.is_empty() && self.without_quorum_ns(now).is_some() {
            return self.effects.push_back(SessionEffect::NoQuorum { token });
        }
        self.ids_waiting.push_back(token);
    }

    /// Takes a lock, or gives one back. Answered by `Lock` or `NoQuorum`.
    pub fn lock(&mut self, now: Moment, token: Token, call: LockCall) {
        let stuck = self.without_quorum_ns(now).is_some() || self.locks.len() >= BACKLOG_MAX;
        if stuck && matches!(call, LockCall::Lock { .. }) {
            return self.effects.push_back(SessionEffect::NoQuorum { token });
        }
        let next = self.locks.begin(token, call);
        self.go_on_locking(token, next);
    }

    /// The program does not want to wait for its lock any more; its call is answered all the same.
    pub fn cancel_lock(&mut self, token: Token) {
        // What was never sent needs no cancelling.
        let waiting = self.backlog.len();
        self.backlog.retain(|(owner, _)| *owner != Owner::Lock(token));
        if self.backlog.len() < waiting {
            self.locks.withdraw(token);
            return self.effects.push_back(SessionEffect::Lock { token, answer: LockAnswer::Cancelled });
        }
        let next = self.locks.cancel(token);
        self.go_on_locking(token, next);
    }

    /// Nobody waits for the answer to this call any more.
    pub fn abandon_lock(&mut self, token: Token) {
        let next = self.locks.abandon(token);
        self.go_on_locking(token, next);
    }

    /// Locks on their way.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// The replica has skipped a part of the log: `waits` says which of this session's requests stand in line.
    pub fn on_locks_installed(&mut self, waits: impl Fn(Seq) -> bool) {
        let granted = self.locks.not_waiting(waits);
        self.on_granted(granted.into_iter());
    }

    fn on_granted(&mut self, granted: impl Iterator<Item = Seq>) {
        for seq in granted {
            if let Some((token, next)) = self.locks.granted(seq) {
                self.go_on_locking(token, next);
            }
        }
    }

    fn go_on_locking(&mut self, token: Token, next: locks::Next) {
        match next {
            locks::Next::Ship(body @ RequestBody::CancelLock { .. }) => {
                self.backlog.push_back((Owner::CancelLock(token), body))
            }
            locks::Next::Ship(body) => self.backlog.push_back((Owner::Lock(token), body)),
            locks::Next::Answer(answer) => self.effects.push_back(SessionEffect::Lock { token, answer }),
            locks::Next::Nothing => {}
        }
    }

    /// An object is open once more.
    pub fn opened(&mut self, object: ObjectId) {
        *self.open.entry(object).or_default() += 1;
    }

    /// Does the object, which has no name any more, stay because this session has it open?
    pub fn holds(&self, object: ObjectId) -> bool {
        self.held.iter().any(|(_, held)| *held == object)
    }

    /// An object is open once less.
    pub fn closed(&mut self, object: ObjectId) {
        let Some(count) = self.open.get_mut(&object) else { return };
        *count -= 1;
        if *count == 0 {
            self.open.remove(&object);
            let mine: Vec<_> = self.held.iter().filter(|(_, held)| *held == object).copied().collect();
            for orphan in mine {
                self.held.remove(&orphan);
                self.held_since.remove(&orphan);
                self.to_release.insert(orphan);
            }
        }
    }

    /// These objects have no name any more, and this session is among those that may hold them.
    pub fn on_orphans(&mut self, orphans: &[(VolumeId, ObjectId)]) {
        for (volume, object) in orphans {
            if !self.open.contains_key(object) {
                self.to_release.insert((*volume, *object));
            } else if self.held.insert((*volume, *object)) {
                self.held_since.insert((*volume, *object));
            }
        }
    }

    /// Objects without a name that are held since this was asked last.
    pub fn take_held(&mut self) -> BTreeSet<(VolumeId, ObjectId)> {
        std::mem::take(&mut self.held_since)
    }

    /// An answer of the leader.
    pub fn on_message(&mut self, now: Moment, message: Message) {
        match message {
            Message::ReadConfirmed { ticket, index } => {
                self.heard_at = now;
                let round = self.rounds.remove(&ticket);
                let tokens = round.map(|round| round.tokens).unwrap_or_default();
                self.effects.extend(tokens.into_iter().map(|token| SessionEffect::Confirmed { token, index }));
            }
            Message::Refreshed { session, ticket, wall_ns } if Some(session) == self.id => {
                self.on_refreshed(now, ticket, wall_ns);
            }
            Message::SubmitGap { session, expected } if Some(session) == self.id => self.resend_from(now, expected),
            Message::NotLeader { .. } => self.ask_again_soon(now),
            _ => {}
        }
    }

    /// The log has moved on.
    pub fn on_news(&mut self, now: Moment, news: &News) {
        self.heard_at = now;
        // In this order: one entry may hold the last outcomes of a session, its end, and the beginning of the next.
        for (session, seq, outcome) in &news.outcomes {
            if Some(*session) == self.id {
                self.settle(now, *seq, outcome.clone());
            }
        }
        let granted = news.granted.iter().filter(|(session, _)| Some(*session) == self.id).map(|(_, seq)| *seq);
        self.on_granted(granted.collect::<Vec<_>>().into_iter());
        if self.id.is_some_and(|id| news.ended.contains(&id)) {
            self.lose(LostBecause::SessionEnded);
        }
        for (id, incarnation) in &news.opened {
            // One that was asked for again and has ended in the same entry, ended last: none comes back.
            let lives = !news.ended.contains(id) && self.left != Some(*id);
            if lives && *incarnation == self.incarnation && self.id != Some(*id) {
                self.open_as(*id);
            }
        }
        if self.id.is_some() {
            self.on_orphans(&news.orphaned);
        }
    }

    /// The replica has skipped a part of the log: what the replicated state says of this session, `None` if it is not
    /// open any more. Orphans have to be given to [`Session::on_orphans`] after this.
    pub fn on_installed(&mut self, now: Moment, known: Option<(Seq, &BTreeMap<Seq, Outcome>)>) {
        self.heard_at = now;
        match known {
            None => self.lose_unseen(),
            Some((next, outcomes)) => {
                for seq in self.in_flight.iter().map(|wait| wait.request.seq).collect::<Vec<_>>() {
                    if let Some(outcome) = outcomes.get(&seq).filter(|_| seq < next) {
                        self.settle(now, seq, outcome.clone());
                    }
                }
            }
        }
    }

    /// The replicated table has this session hold just these ranges now, some of them exclusively.
    pub fn on_leases(&mut self, now: Moment, held: RangeSet, exclusive: RangeSet) {
        self.leases.on_table(now, held, exclusive);
    }

    /// Something that read these ranges, or wrote them, had to go through the quorum: leases over them would be useful.
    pub fn want(&mut self, now: Moment, ranges: &[KeyRange], mode: Mode) {
        if self.id.is_some() {
            self.leases.want(now, ranges, mode);
        }
    }

    /// The fronts have forgotten what [`SessionEffect::Forget`] told them to.
    pub fn forgotten(&mut self, id: u64) {
        let next = self.leases.forgotten(id);
        self.follow(id, next);
    }

    /// Everything that was accepted when [`SessionEffect::ShipPending`] was given has been given to [`Session::commit_behind`].
    pub fn shipped(&mut self, id: u64) {
        let next = self.leases.shipped(id);
        self.follow(id, next);
        let last = || {
            let line = self.in_flight.iter().map(|wait| wait.owner).chain(self.backlog.iter().map(|(owner, _)| *owner));
            line.filter_map(|owner| if let Owner::Behind(last) = owner { Some(last) } else { None }).max()
        };
        let told = self.landings.shipped(id, last);
        self.effects.extend(told.map(|(to, ticket)| SessionEffect::AllLanded { to, ticket }));
    }

    /// A node asks when all has landed that this session has answered until now. Answered by `AllLanded`, unless the session ends before.
    pub fn land(&mut self, by: NodeId, ticket: u64) {
        let id = self.leases.fresh_id();
        if self.landings.begin(id, by, ticket) {
            self.effects.push_back(SessionEffect::ShipPending(id));
        }
    }

    /// Somebody needs these ranges in this mode. `unseen`: see [`Leases::recall`].
    pub fn on_recall(&mut self, now: Moment, ranges: &[KeyRange], mode: Mode, unseen: bool) {
        let next = self.leases.recall(now, ranges, mode, unseen);
        self.follow(0, next);
    }

    /// This node is about to [`Session::commit`] what writes these ranges: to be called first, and waited for until
    /// [`Session::may_ship`].
    pub fn write(&mut self, now: Moment, token: Token, writes: &[KeyRange]) {
        let made = self.will_make.take();
        for next in self.leases.write(now, token, writes, |object| Some(object) == made) {
            self.follow(0, Some(next));
        }
    }

    /// The next [`Session::write`] is about a commit that makes this object: its id was given to one operation alone, and nothing of it was shipped or answered
    /// before, so that nobody can keep anything of it.
    pub fn will_make(&mut self, object: ObjectId) {
        self.will_make = Some(object);
    }

    /// Does what has to happen next. `id` names the recall that it is about, if the log is to be told something.
    fn follow(&mut self, id: u64, next: Option<Next>) {
        let effect = match next {
            None => return,
            Some(Next::Tell(body)) => return self.backlog.push_back((Owner::Recall(id), body)),
            Some(Next::Forget(to_forget)) => SessionEffect::Forget(to_forget),
            Some(Next::Ship(id)) => SessionEffect::ShipPending(id),
        };
        // What may not be kept or written any more is out of use before the fronts begin to forget, and before what was written is shipped.
        self.effects.extend(self.leases.news().map(SessionEffect::Usable));
        self.effects.push_back(effect);
    }

    /// Have the fronts forgotten what the commit will change?
    pub fn may_ship(&self, token: Token) -> bool {
        self.leases.may_ship(token)
    }

    /// The commit will not be shipped.
    pub fn give_up_write(&mut self, token: Token) {
        self.leases.written(token);
    }

    /// The session lives a term from when the refresh was *sent*, less a margin for clocks that run at different rates.
    fn on_refreshed(&mut self, now: Moment, ticket: u64, wall_ns: u64) {
        self.heard_at = now;
        if let Some(sent_at) = self.refreshes.remove(&ticket) {
            let term_ns = self.config.term_ns;
            // The leader looked at its clock between the two; in the middle, for want of anything better.
            let looked_at = Moment(sent_at.0 + now.since_ns(sent_at) / 2);
            self.leases.live_until(Moment(sent_at.0 + term_ns - term_ns / 10), (looked_at, wall_ns));
        }
    }

    fn ask_leases(&mut self) {
        if self.wanting || self.id.is_none() {
            return;
        }
        let wants = self.leases.take_wants();
        if !wants.is_empty() {
            self.wanting = true;
            self.backlog.push_back((Owner::Want, RequestBody::Lease { wants }));
        }
    }

    /// Another node leads, or this one: what the last one was asked may be lost.
    pub fn on_leader(&mut self, now: Moment) {
        self.ask_again_soon(now);
    }

    /// Time passes: what was not answered is sent again.
    pub fn on_tick(&mut self, now: Moment) {
        self.notice_pause(now);
        self.tick_session(now);
        let next = self.leases.on_tick(now);
        self.follow(0, next);
        let unanswered = |at: Moment| now.since_ns(at) >= RESEND_NS;
        let late = |at: Moment| now.since_ns(at) >= self.resend_ns;
        if self.in_flight.front().and_then(|wait| wait.sent_at).is_some_and(late) {
            self.in_flight.iter_mut().for_each(|wait| wait.sent_at = None);
            self.resend_ns = (2 * self.resend_ns).min(RESEND_MAX_NS);
        }
        let late: Vec<u64> =
            self.rounds.iter().filter(|(_, round)| unanswered(round.asked_at)).map(|(t, _)| *t).collect();
        for ticket in late {
            let tokens = self.rounds.remove(&ticket).map(|round| round.tokens).unwrap_or_default();
            self.reads_waiting.extend(tokens);
        }
    }

    /// A node that stood still itself has not waited for the quorum meanwhile: whoever asks now is to be patient first.
    fn notice_pause(&mut self, now: Moment) {
        let since = now.since_ns(std::mem::replace(&mut self.ticked_at, now));
        if since > PAUSE_NS {
            self.heard_at = Moment(now.0.min(self.heard_at.0 + since));
        }
    }

    /// Everything that is to be sent or told now.
    pub fn take_effects(&mut self, now: Moment) -> Vec<SessionEffect> {
        self.hand_out_ids();
        self.release(now);
        self.ask_leases();
        self.fill_window();
        // What is not in use any more must be so before the others are told.
        if let Some(usable) = self.leases.news() {
            self.effects.push_back(SessionEffect::Usable(usable));
        }
        self.submit(now);
        self.ask_reads(now);
        self.effects.drain(..).collect()
    }

    fn open_as(&mut self, id: SessionId) {
        self.id = Some(id);
        self.next = Seq(1);
        self.opening_since = None;
        self.ids_asked = false;
    }

    /// The quorum has ended the session: what has no outcome was not applied and never will be.
    fn lose(&mut self, cause: LostBecause) {
        self.left = self.id.take().or(self.left);
        self.opening_since = None;
        self.refreshed_at = None;
        self.refreshes.clear();
        self.leases.lose();
        self.landings.lose();
        self.wanting = false;
        self.ids_asked = false;
        self.held.clear();
        self.held_since.clear();
        self.to_release.clear();
        // In this order: nothing more is accepted, then what was is lost.
        self.effects.extend(self.leases.news().map(SessionEffect::Usable));
        self.effects.push_back(SessionEffect::Lost { cause });
        let lost = std::mem::take(&mut self.in_flight);
        let lost: Vec<Token> = lost.into_iter().filter_map(|wait| wait.owner.token()).collect();
        lost.iter().for_each(|token| self.leases.written(*token));
        self.effects.extend(lost.into_iter().map(|token| SessionEffect::Outcome { token, outcome: None }));
        let waiting = std::mem::take(&mut self.backlog);
        self.backlog = waiting.into_iter().filter(|(owner, _)| owner.token().is_some()).collect();
        for (token, next) in self.locks.lose() {
            self.go_on_locking(token, next);
        }
    }

    /// The quorum has ended the session in a part of the log that this replica has skipped.
    fn lose_unseen(&mut self) {
        for wait in &mut self.in_flight {
            if let Some(token) = wait.owner.token().filter(|_| wait.sent) {
                wait.owner = Owner::Session;
                self.leases.written(token);
                self.effects.push_back(SessionEffect::Unknown { token });
            }
        }
        self.lose(LostBecause::Unknown);
    }

    fn settle(&mut self, now: Moment, seq: Seq, outcome: Outcome) {
        // Outcomes come in the order of the requests; one that is not in front was settled before.
        if self.in_flight.front().is_none_or(|wait| wait.request.seq != seq) {
            return;
        }
        let Some(wait) = self.in_flight.pop_front() else { return };
        self.resend_ns = RESEND_NS;
        let breaks = wait.request.body.breaks_session(&outcome);
        if let Outcome::Allocated { first, count } = &outcome {
            self.ids.push_back((first.0, first.0 + count));
            self.ids_asked = false;
        }
        match wait.owner {
            Owner::Operation(token) => {
                self.leases.written(token);
                self.effects.push_back(SessionEffect::Outcome { token, outcome: Some(outcome) });
            }
            Owner::Want => self.wanting = false,
            Owner::Recall(id) if matches!(outcome, Outcome::Refused { .. }) => {
                let whole = self.leases.give_up_whole(now, id);
                self.follow(0, whole);
            }
            Owner::Behind(last) => match outcome {
                Outcome::Committed { tid } => {
                    self.effects.push_back(SessionEffect::Landed { last, tid });
                    let told = self.landings.landed(last);
                    self.effects.extend(told.map(|(to, ticket)| SessionEffect::AllLanded { to, ticket }));
                }
                Outcome::Refused { refusal: Refusal::Collected } => {}
                _ => self.effects.push_back(SessionEffect::Lost { cause: LostBecause::Refused }),
            },
            Owner::Recall(id) => self.leases.yielded(id),
            Owner::Lock(token) => {
                let next = self.locks.settled(token, seq, &outcome);
                self.go_on_locking(token, next);
            }
            Owner::CancelLock(token) => {
                let next = self.locks.cancel_settled(token, &outcome);
                self.go_on_locking(token, next);
            }
            Owner::Session => {}
        }
        if breaks {
            // What it answered is offered again by the next one.
            self.lose(LostBecause::SessionEnded);
        }
    }

    fn tick_session(&mut self, now: Moment) {
        match self.id {
            None if self.opening_since.is_none_or(|at| now.since_ns(at) >= RESEND_NS) => {
                self.opening_since = Some(now);
                let (node, incarnation) = (self.node, self.incarnation);
                let term_ms = (self.config.term_ns / 1_000_000) as u32;
                let instead_of = self.left;
                let open = Message::OpenSession { node, incarnation, term_ms, instead_of };
                self.effects.push_back(SessionEffect::Ship(open));
            }
            Some(_) if self.leases.is_stuck(now, self.config.term_ns) => {}
            Some(session) if self.refreshed_at.is_none_or(|at| now.since_ns(at) >= self.config.term_ns / 3) => {
                self.refreshed_at = Some(now);
                let ticket = self.next_ticket;
                self.next_ticket = self.next_ticket.wrapping_add(1);
                self.refreshes.retain(|_, sent_at| now.since_ns(*sent_at) < self.config.term_ns);
                self.refreshes.insert(ticket, now);
                self.effects.push_back(SessionEffect::Ship(Message::Refresh { session, ticket }));
            }
            _ => {}
        }
    }

    fn hand_out_ids(&mut self) {
        while let (Some((first, end)), Some(token)) = (self.ids.front_mut(), self.ids_waiting.front()) {
            let (token, object) = (*token, ObjectId(*first));
            *first += 1;
            if first == end {
                self.ids.pop_front();
            }
            self.ids_waiting.pop_front();
            self.effects.push_back(SessionEffect::Id { token, object });
        }
        let left: u64 = self.ids.iter().map(|(first, end)| end - first).sum();
        let low = left < IDS_LOW || !self.ids_waiting.is_empty();
        if low && !self.ids_asked && self.id.is_some() {
            self.ids_asked = true;
            self.backlog.push_back((Owner::Session, RequestBody::AllocateObjects));
        }
    }

    fn release(&mut self, now: Moment) {
        if self.to_release.is_empty() || self.id.is_none() {
            self.release_since = None;
            return;
        }
        let since = *self.release_since.get_or_insert(now);
        if self.to_release.len() >= RELEASE_MAX || now.since_ns(since) >= RELEASE_DELAY_NS {
            let orphans: Vec<_> = self.to_release.iter().take(RELEASE_MAX).copied().collect();
            self.to_release.retain(|orphan| !orphans.contains(orphan));
            self.release_since = None;
            self.backlog.push_back((Owner::Session, RequestBody::Release { orphans }));
        }
    }

    fn fill_window(&mut self) {
        let Some(session) = self.id else { return };
        while self.in_flight.len() + 1 < SESSION_WINDOW_MAX as usize {
            let Some((owner, body)) = self.backlog.pop_front() else { return };
            let seq = self.next;
            self.next = Seq(seq.0 + 1);
            let seen = self.in_flight.front().map_or(seq, |wait| wait.request.seq);
            let request = Request { session, seq, seen, body };
            self.in_flight.push_back(InFlight {
                bytes: postcard::experimental::serialized_size(&request).unwrap_or(REQUEST_BYTES_MAX),
                request,
                owner,
                sent_at: None,
                sent: false,
            });
        }
    }

    fn submit(&mut self, now: Moment) {
        let (mut requests, mut bytes, mut under_way) = (Vec::new(), 0, 0);
        for wait in &mut self.in_flight {
            under_way += wait.bytes;
            if under_way > WINDOW_BYTES_MAX && under_way > wait.bytes {
                break;
            }
            if wait.sent_at.is_some() {
                continue;
            }
            let full = requests.len() == SUBMIT_REQUESTS_MAX || bytes + wait.bytes > SUBMIT_BYTES_MAX;
            if full && !requests.is_empty() {
                self.effects.push_back(SessionEffect::Ship(Message::Submit(std::mem::take(&mut requests))));
                bytes = 0;
            }
            wait.sent_at = Some(now);
            wait.sent = true;
            bytes += wait.bytes;
            requests.push(wait.request.clone());
        }
        if !requests.is_empty() {
            self.effects.push_back(SessionEffect::Ship(Message::Submit(requests)));
        }
    }

    fn ask_reads(&mut self, now: Moment) {
        if self.reads_waiting.is_empty() || self.rounds.len() >= ROUNDS_MAX {
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let tokens = std::mem::take(&mut self.reads_waiting);
        self.rounds.insert(ticket, Round { asked_at: now, tokens });
        self.effects.push_back(SessionEffect::Ship(Message::ConfirmRead { ticket }));
    }

    fn resend_from(&mut self, now: Moment, expected: Seq) {
        let again = Moment(now.0.saturating_sub(self.resend_ns - RETRY_NS));
        for wait in self.in_flight.iter_mut().filter(|wait| wait.request.seq >= expected) {
            wait.sent_at = wait.sent_at.map(|at| at.min(again));
        }
        // The front decides when the line is sent again.
        if let Some(front) = self.in_flight.front_mut() {
            front.sent_at = front.sent_at.map(|at| at.min(again));
        }
    }

    /// Nobody answered: all questions are asked again in a moment.
    fn ask_again_soon(&mut self, now: Moment) {
        self.resend_ns = RESEND_NS;
        self.resend_from(now, Seq(0));
        let again = Moment(now.0.saturating_sub(RESEND_NS - RETRY_NS));
        self.rounds.values_mut().for_each(|round| round.asked_at = round.asked_at.min(again));
        self.opening_since = self.opening_since.map(|at| at.min(again));
        let due = Moment(now.0.saturating_sub(self.config.term_ns / 3 - RETRY_NS));
        self.refreshed_at = self.refreshed_at.map(|at| at.min(due));
    }

    /// Asserts what a session can see of its invariants.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        let seqs: Vec<u64> = self.in_flight.iter().map(|wait| wait.request.seq.0).collect();
        assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "requests in flight have gaps: {seqs:?}");
        assert!(seqs.last().is_none_or(|last| last + 1 == self.next.0), "the next number does not follow");
        assert!(self.in_flight.is_empty() || self.id.is_some(), "requests in flight without a session");
        assert!(self.rounds.len() <= ROUNDS_MAX);
        self.leases.check_invariants();
        self.locks.check_invariants();
    }
}

#[cfg(test)]
mod tests;
