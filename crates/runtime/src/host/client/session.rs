//! The task that hosts a client's session: inputs in one line, each worked through, effects carried out in order. What a node's thread
//! does for its own session, without a replica: what the log says comes from the peers.
//!
//! Invariants:
//! 1. News are taken in the order of their Tids, and only if they say all that the session does not know.
//! 2. [`Shared::tid`] is never behind what an outcome that was told came with.

use super::peers::Peers;
use super::{Input, LockInput, Shared, WATCH_PATIENCE};
use crate::host::clients::WATCH;
use crate::host::node::WaitError;
use bytes::Bytes;
use gavel_client::session::SessionConfig;
use gavel_client::{LockAnswer, LockId, Session, SessionEffect, ToForget, Token, Usable};
use gavel_types::{LogIndex, Moment, NodeId, ObjectId, Seq, Tid};
use gavel_wire::client::{SessionNews, WatchAnswer, WatchAsk, decode, encode, leases_digest};
use gavel_wire::{Message, Mode, News, Outcome, RequestBody};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

/// The session looks at the clock at least this often.
const TICK: Duration = Duration::from_millis(10);
/// Inputs worked through before effects are carried out.
const BATCH_MAX: usize = 512;
/// Whom nothing was heard of for so long, of what it was asked as the leader, is not asked any more.
const LEADER_PATIENCE_NS: u64 = 700_000_000;
/// A `WATCH` that has failed is sent again after this.
const WATCH_PAUSE: Duration = Duration::from_millis(50);
/// A process that goes on after it stood still has by then answered most of what the kernel asked meanwhile.
const TAKEN_UP: Duration = Duration::from_millis(50);

/// What was asked for and has no answer.
enum Wait {
    Commit(oneshot::Sender<Result<Option<Outcome>, WaitError>>),
    ObjectId(oneshot::Sender<Result<ObjectId, WaitError>>),
    Lock(Option<LockId>, oneshot::Sender<Result<LockAnswer, WaitError>>),
}

impl Wait {
    fn fail(self, error: WaitError) {
        // Whoever has stopped waiting does not care.
        match self {
            Wait::Commit(reply) => drop(reply.send(Err(error))),
            Wait::ObjectId(reply) => drop(reply.send(Err(error))),
            Wait::Lock(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// Who leads, as far as a client knows.
struct Leader {
    node: NodeId,
    /// Since when it has been asked for something, with nothing heard of it.
    asked_at: Option<Moment>,
}

/// See the module's documentation.
pub(super) struct SessionTask {
    session: Session,
    incarnation: u64,
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    inputs: UnboundedReceiver<Input>,
    term: Duration,
    next_token: Token,
    waits: BTreeMap<Token, Wait>,
    locks: BTreeMap<LockId, Token>,
    /// Commits that wait until this client's own fronts have forgotten what they change.
    unshipped: BTreeMap<Token, RequestBody>,
    leader: Leader,
    /// What the log said last: as of which Tid and entry, and what the session holds.
    tid: Tid,
    index: LogIndex,
    leases: [u8; 8],
    lapsed: bool,
    /// Who waits until news that they have brought are taken.
    told: Vec<oneshot::Sender<()>>,
}

impl SessionTask {
    pub(super) fn new(
        client: NodeId,
        incarnation: u64,
        config: SessionConfig,
        shared: Arc<Shared>,
        peers: Arc<Peers>,
        inputs: UnboundedReceiver<Input>,
    ) -> SessionTask {
        let now = shared.clocks.now();
        let leader = Leader { node: peers.ids()[0], asked_at: None };
        SessionTask {
            session: Session::new(client, incarnation, config, now),
            incarnation,
            shared,
            peers,
            inputs,
            term: Duration::from_nanos(config.term_ns),
            next_token: 0,
            waits: BTreeMap::new(),
            locks: BTreeMap::new(),
            unshipped: BTreeMap::new(),
            leader,
            tid: Tid::ZERO,
            index: LogIndex(0),
            leases: leases_digest(&[], &[]),
            lapsed: true,
            told: Vec::new(),
        }
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            // Nothing within a tick is an input as well: time has passed.
            if let Ok(0) = tokio::time::timeout(TICK, self.inputs.recv_many(&mut batch, BATCH_MAX)).await {
                break;
            }
            if batch.iter().any(|input| matches!(input, Input::Stop)) {
                break;
            }
            self.turn(&mut batch);
        }
        self.shared.usable.write().usable = Usable::default();
        let stopped = || WaitError::Stopped("the client is shutting down".into());
        std::mem::take(&mut self.waits).into_values().for_each(|wait| wait.fail(stopped()));
    }

    fn turn(&mut self, batch: &mut Vec<Input>) {
        self.shared.opens.tell(&mut self.session);
        // First of all: who has stood still must notice before it answers anybody.
        self.session.on_tick(self.shared.clocks.now());
        batch.drain(..).for_each(|input| self.take(input));
        loop {
            self.ship();
            let effects = self.session.take_effects(self.shared.clocks.now());
            if effects.is_empty() {
                break;
            }
            effects.into_iter().for_each(|effect| self.carry_out(effect));
        }
        self.look_for_lapse();
        self.look_for_leader();
        *self.shared.known.lock() = WatchAsk {
            incarnation: self.incarnation,
            session: self.session.id(),
            tid: self.tid,
            oldest: self.session.oldest(),
            leases: self.leases,
            in_line: self.session.locks().in_line().collect(),
        };
        // Those who ask for news ask with what is known now.
        self.told.drain(..).for_each(|known| known.send(()).unwrap_or_default());
    }

    fn add(&mut self, wait: Wait) -> Token {
        self.next_token += 1;
        self.waits.insert(self.next_token, wait);
        self.next_token
    }

    fn take(&mut self, input: Input) {
        let now = self.shared.clocks.now();
        match input {
            Input::Commit { body, writes, made, reply } => {
                let token = self.add(Wait::Commit(reply));
                made.into_iter().for_each(|object| self.session.will_make(object));
                self.session.write(now, token, &writes);
                self.unshipped.insert(token, body);
            }
            Input::ObjectId(reply) => {
                let token = self.add(Wait::ObjectId(reply));
                self.session.object_id(now, token);
            }
            Input::Holds(object, reply) => drop(reply.send(self.session.holds(object))),
            Input::HasLost(file, owner, reply) => drop(reply.send(self.session.locks().has_lost(file, owner))),
            Input::Want(ranges) => self.session.want(now, &ranges, Mode::Shared),
            Input::Forgotten(id) => self.session.forgotten(id),
            Input::Lock(input) => self.take_lock(now, input),
            Input::Watched { peer, ask, answer, known } => {
                self.on_watched(now, peer, &ask, *answer);
                self.told.push(known);
            }
            Input::Down(peer) => {
                if self.leader.node == peer {
                    self.another_leader(now);
                }
            }
            Input::Stop => {}
        }
    }

    fn take_lock(&mut self, now: Moment, input: LockInput) {
        match input {
            LockInput::Call { call, id, reply } => {
                let token = self.add(Wait::Lock(id, reply));
                if let Some(id) = id {
                    self.locks.insert(id, token);
                }
                self.session.lock(now, token, call);
            }
            LockInput::Cancel(id) => {
                if let Some(token) = self.locks.get(&id) {
                    self.session.cancel_lock(*token);
                }
            }
            LockInput::GiveUp(id) => {
                if let Some(token) = self.locks.get(&id).copied() {
                    self.session.abandon_lock(token);
                    self.fail(token, WaitError::Unknown);
                }
            }
        }
    }

    /// Ships the commits of which the fronts keep nothing any more.
    fn ship(&mut self) {
        let ready: Vec<Token> = self.unshipped.keys().copied().filter(|token| self.session.may_ship(*token)).collect();
        for token in ready {
            if let Some(body) = self.unshipped.remove(&token) {
                self.session.commit_as(self.shared.clocks.now(), token, body);
            }
        }
    }

    fn fail(&mut self, token: Token, error: WaitError) {
        if let Some(wait) = self.waits.remove(&token) {
            if let Wait::Lock(Some(id), _) = &wait {
                self.locks.remove(id);
            }
            wait.fail(error);
        }
    }

    fn carry_out(&mut self, effect: SessionEffect) {
        match effect {
            SessionEffect::Ship(message) => {
                // A message that can't be sent is a message lost; the session sends again.
                let _ = self.peers.sender().send(self.leader.node, message.encode().into());
                self.leader.asked_at.get_or_insert(self.shared.clocks.now());
            }
            SessionEffect::Outcome { token, outcome } => {
                if let Some(Wait::Commit(reply)) = self.waits.remove(&token) {
                    let _ = reply.send(Ok(outcome));
                }
            }
            SessionEffect::Unknown { token } => self.fail(token, WaitError::Unknown),
            SessionEffect::NoQuorum { token } => self.fail(token, WaitError::NoQuorum),
            SessionEffect::Id { token, object } => {
                if let Some(Wait::ObjectId(reply)) = self.waits.remove(&token) {
                    let _ = reply.send(Ok(object));
                }
            }
            SessionEffect::Lock { token, answer } => {
                if let Some(Wait::Lock(id, reply)) = self.waits.remove(&token) {
                    if let Some(id) = id {
                        self.locks.remove(&id);
                    }
                    let _ = reply.send(Ok(answer));
                }
            }
            SessionEffect::Usable(usable) => self.shared.put_in_force(usable, self.tid),
            SessionEffect::Forget(to_forget) => self.forget(to_forget),
            // Nothing is answered before it is committed.
            SessionEffect::ShipPending(id) => self.session.shipped(id),
            SessionEffect::Landed { .. } => {}
            SessionEffect::Lost { .. } => {
                tracing::warn!("the cluster has given this client up: it was not heard of for too long");
                self.shared.fronts.forget_all();
            }
            SessionEffect::Confirmed { .. } => unreachable!("a peer has reads confirmed, not the session of a client"),
            SessionEffect::AllLanded { .. } => unreachable!("nobody asks a client: it holds no exclusive leases"),
        }
    }

    fn forget(&self, to_forget: ToForget) {
        let (shared, term, id) = (self.shared.clone(), self.term, to_forget.id);
        let tokio = tokio::runtime::Handle::current();
        let runtime = tokio.clone();
        self.when_taken_up(&tokio, move || {
            let told = shared.clone();
            shared.fronts.forget(&to_forget, term, &runtime, move || told.tell(Input::Forgotten(id)));
        });
    }

    /// Has the fronts forget: at once, or in a moment if the right to answer has run out, perhaps because this process stood still.
    fn when_taken_up(&self, tokio: &tokio::runtime::Handle, forget: impl FnOnce() + Send + 'static) {
        if self.shared.left_ns() > 0 {
            return forget();
        }
        tokio.spawn(async move {
            tokio::time::sleep(TAKEN_UP).await;
            forget();
        });
    }

    /// When the right to answer has run out, nothing that is kept without a time to live is good any more.
    fn look_for_lapse(&mut self) {
        let lapsed = self.shared.left_ns() == 0;
        if lapsed && !self.lapsed {
            let fronts = self.shared.fronts.clone();
            self.when_taken_up(&tokio::runtime::Handle::current(), move || fronts.forget_all());
        }
        self.lapsed = lapsed;
    }

    fn look_for_leader(&mut self) {
        let now = self.shared.clocks.now();
        if self.leader.asked_at.is_some_and(|at| now.since_ns(at) >= LEADER_PATIENCE_NS) {
            self.another_leader(now);
        }
    }

    /// Whoever was asked as the leader does not answer.
    fn another_leader(&mut self, now: Moment) {
        let ids = self.peers.ids();
        let at = ids.iter().position(|id| *id == self.leader.node).unwrap_or(0);
        self.lead_by(now, ids[(at + 1) % ids.len()]);
    }

    fn lead_by(&mut self, now: Moment, node: NodeId) {
        self.leader = Leader { node, asked_at: None };
        self.session.on_leader(now);
    }

    fn on_watched(&mut self, now: Moment, peer: NodeId, ask: &WatchAsk, answer: WatchAnswer) {
        // First of all: a recall may be of what the peer's replica has, and this one did not know of.
        if let Some(news) = answer.news {
            self.on_news(now, ask, news);
        }
        for message in answer.messages {
            self.on_message(now, peer, message);
        }
    }

    fn on_message(&mut self, now: Moment, peer: NodeId, message: Message) {
        match message {
            Message::Recall { session, ranges, mode, at } => {
                if self.session.id() == Some(session) {
                    self.session.on_recall(now, &ranges, mode, at > self.index);
                }
            }
            Message::NotLeader { leader } => match leader.filter(|leader| self.peers.ids().contains(leader)) {
                // Another one has been found meanwhile.
                _ if self.leader.node != peer => {}
                Some(leader) => self.lead_by(now, leader),
                None => self.session.on_message(now, Message::NotLeader { leader: None }),
            },
            message => {
                if self.leader.node == peer {
                    self.leader.asked_at = None;
                }
                self.session.on_message(now, message);
            }
        }
    }

    /// What the log says of the session. `ask` is what it was asked with.
    fn on_news(&mut self, now: Moment, ask: &WatchAsk, news: SessionNews) {
        // What it leaves out is what it was asked with: that must be what is known now.
        let same = news.session.as_ref().is_none_or(|standing| standing.leases.is_some() || ask.leases == self.leases);
        // Nothing is newer in the same state; and no sign of a quorum.
        if news.tid <= self.tid || !same {
            return;
        }
        (self.tid, self.index) = (news.tid, news.index);
        self.shared.tid.store(news.tid.0, Ordering::Release);
        let id = news.session.as_ref().map(|standing| standing.id);
        if self.session.id().is_some() && self.session.id() != id {
            self.session.on_installed(now, None);
            self.leases = leases_digest(&[], &[]);
            self.session.on_leases(now, Default::default(), Default::default());
        }
        let Some(standing) = news.session else { return };
        if self.session.id() != id {
            let opened = vec![(standing.id, self.incarnation)];
            self.session.on_news(now, &News { tid: news.tid, index: news.index, opened, ..News::default() });
            self.leader.asked_at = None;
            tracing::info!(session = %standing.id, "a session was opened");
        }
        // It may be one that this client has given up itself.
        if self.session.id() != id {
            return;
        }
        let before = self.session.oldest();
        let outcomes: BTreeMap<Seq, Outcome> = standing.outcomes.into_iter().collect();
        self.session.on_installed(now, Some((standing.next, &outcomes)));
        if self.session.oldest() != before {
            self.leader.asked_at = None;
        }
        if ask.session == id {
            self.session.on_locks_installed(|seq| !standing.left_line.contains(&seq));
        }
        self.session.on_orphans(&news.orphaned);
        if let Some(leases) = standing.leases {
            self.leases = leases_digest(&leases.held, &leases.exclusive);
            self.session.on_leases(now, leases.held.into_iter().collect(), leases.exclusive.into_iter().collect());
        }
    }
}

/// Keeps a `WATCH` under way at a peer, for as long as the client runs.
pub(super) async fn watch(peer: NodeId, shared: Arc<Shared>, peers: Arc<Peers>) {
    while !shared.inbox.is_closed() {
        let ask = shared.known.lock().clone();
        let payload = Bytes::from(encode(&ask));
        let answer = peers.sender().bulk_request_within(peer, WATCH, payload, WATCH_PATIENCE).await;
        match answer
            .map_err(|error| error.to_string())
            .and_then(|answer| decode::<WatchAnswer>("answer of a peer", &answer).map_err(|error| error.to_string()))
        {
            Ok(answer) => {
                let (known, taken) = oneshot::channel();
                shared.tell(Input::Watched { peer, ask, answer: Box::new(answer), known });
                let _ = taken.await;
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "no news");
                tokio::time::sleep(WATCH_PAUSE).await;
            }
        }
    }
}
