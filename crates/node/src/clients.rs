//! What a peer does for clients, which have no replica: it tells them what the log says of their sessions, finds states that are
//! current for their reads, has leases of others given up for their commits, and keeps messages for them. `docs/protocols/client.md`
//! has the protocol.
//!
//! A client: unknown --it watches, or something is sent to it--> known --nothing heard of it for `CLIENT_GONE_NS`--> unknown
//!
//! What a client asks: (its read is being confirmed) -> waits for entries to be applied -> waits for leases of others -> answered, or
//! given up after `CLIENT_PATIENCE_NS`; it is asked again then.
//!
//! Invariants:
//! 1. A client is answered from what is applied, never from what this node has answered and not committed.
//! 2. News are as of one Tid, and hold everything of the session behind the Tid that was asked with.
//! 3. Nothing of a client is counted on: each question stands for itself, and may be asked of any peer.

use crate::blocked::Blocked;
use crate::{Node, NodeEffect};
use gavel_client::Token;
use gavel_server::Clock;
use gavel_store::engine::Engine;
use gavel_types::{KeyRange, LogIndex, Moment, NodeId, ObjectId, Seq, SessionId, Tid, VolumeId};
use gavel_wire::client::{HeldLeases, SessionNews, Standing, WatchAnswer, WatchAsk, leases_digest};
use gavel_wire::{Message, Mode, Outcome};
use std::collections::{BTreeMap, VecDeque};

/// Messages that wait for one client; with more, the oldest go: whoever sent them sends them again.
pub const OUTBOX_MAX: usize = 1024;
/// A client that has not asked for news for so long is forgotten, and what waits for it.
pub const CLIENT_GONE_NS: u64 = 10_000_000_000;
/// A client that asks for news is answered after this, if there is none.
pub const WATCH_NS: u64 = 1_000_000_000;
/// What a client asks for is answered within this, or it is to ask again.
pub const CLIENT_PATIENCE_NS: u64 = 1_200_000_000;
/// Objects without a name that are remembered; who is further behind is given all marks of its session.
pub const ORPHANED_MAX: usize = 65_536;
/// Most outcomes in one answer.
const OUTCOMES_MAX: usize = 1024;

/// What a client needs of a peer's replica.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientAsk {
    /// The client's session: its own leases are in nobody's way.
    pub session: SessionId,
    /// The replica must have applied this.
    pub since: Tid,
    /// It must be current, as of when this was asked.
    pub current: bool,
    /// Nobody else may hold these exclusively,
    pub reads: Vec<KeyRange>,
    /// or these at all.
    pub writes: Vec<KeyRange>,
}

#[derive(Debug)]
struct Asked {
    ask: ClientAsk,
    since: Moment,
    /// The entry that the replica must have applied; none while the quorum is being asked for it.
    index: Option<LogIndex>,
    /// It waits for leases.
    blocked: bool,
}

#[derive(Debug)]
struct Watch {
    token: Token,
    ask: WatchAsk,
    since: Moment,
    /// There was no news as of this entry.
    looked_at: Option<LogIndex>,
}

#[derive(Debug)]
struct Client {
    outbox: VecDeque<Message>,
    watch: Option<Watch>,
    heard_at: Moment,
}

/// All clients of a node.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    by_node: BTreeMap<NodeId, Client>,
    asked: BTreeMap<Token, Asked>,
    blocked: BTreeMap<SessionId, Blocked<()>>,
    /// Objects that lost their last name, in the order of the log.
    orphaned: VecDeque<(Tid, VolumeId, ObjectId)>,
    /// All that did behind this Tid are among them.
    orphaned_since: Tid,
    /// The leases of a session are looked at again if this is another one than when they were looked at last.
    tables: u64,
    digests: BTreeMap<SessionId, (u64, HeldLeases, [u8; 8])>,
}

impl Clients {
    pub(crate) fn post(&mut self, now: Moment, to: NodeId, message: Message) {
        let client = self.client(now, to);
        if client.outbox.len() >= OUTBOX_MAX {
            client.outbox.pop_front();
        }
        client.outbox.push_back(message);
    }

    fn client(&mut self, now: Moment, node: NodeId) -> &mut Client {
        self.by_node.entry(node).or_insert(Client { outbox: VecDeque::new(), watch: None, heard_at: now })
    }

    /// Who holds what has changed.
    pub(crate) fn on_leases(&mut self) {
        self.tables += 1;
        self.blocked.values_mut().for_each(Blocked::on_change);
    }

    pub(crate) fn on_orphaned(&mut self, tid: Tid, orphaned: &[(VolumeId, ObjectId)]) {
        self.orphaned.extend(orphaned.iter().map(|(volume, object)| (tid, *volume, *object)));
        while self.orphaned.len() > ORPHANED_MAX {
            self.orphaned_since = self.orphaned.pop_front().map_or(tid, |(tid, _, _)| tid);
        }
    }

    /// The replica is at `tid`, and what was before is not known.
    pub(crate) fn skip(&mut self, tid: Tid) {
        self.orphaned.clear();
        self.orphaned_since = tid;
    }

    /// A read of a client is current from this entry on. False if it is none of theirs.
    pub(crate) fn on_confirmed(&mut self, token: Token, index: LogIndex) -> bool {
        let asked = self.asked.get_mut(&token);
        asked.map(|asked| asked.index = Some(index)).is_some()
    }

    /// What a client asked for is given up. False if it is none of theirs.
    pub(crate) fn give_up(&mut self, token: Token) -> bool {
        self.asked.remove(&token).is_some()
    }

    /// How many clients are known.
    pub(crate) fn len(&self) -> usize {
        self.by_node.len()
    }
}

impl WatchedSession<'_> {
    /// Is there something that the client does not know?
    fn is_news(&self, ask: &WatchAsk, digest: [u8; 8], left: &[Seq], orphaned: bool) -> bool {
        self.id != ask.session
            || (self.id.is_some() && (self.next > ask.oldest || digest != ask.leases || !left.is_empty() || orphaned))
    }
}

/// What is looked at of a client's session.
struct WatchedSession<'s> {
    id: Option<SessionId>,
    next: Seq,
    outcomes: Option<&'s BTreeMap<Seq, Outcome>>,
}

impl<E: Engine> Node<E> {
    /// A client wants to hear of its session. Answered by [`NodeEffect::Watched`]; a question that it asked before is answered at once, with nothing.
    pub fn watch(&mut self, clock: Clock, token: Token, from: NodeId, ask: WatchAsk) {
        let client = self.clients.client(clock.now, from);
        client.heard_at = clock.now;
        if let Some(before) = client.watch.replace(Watch { token, ask, since: clock.now, looked_at: None }) {
            self.effects.push_back(NodeEffect::Watched { token: before.token, answer: Box::default() });
        }
    }

    /// A client needs a state. Answered by [`NodeEffect::Confirmed`] when this replica is in such a state, or by [`NodeEffect::NoQuorum`].
    pub fn ask_for_client(&mut self, clock: Clock, token: Token, ask: ClientAsk) {
        let index = (!ask.current).then_some(LogIndex(0));
        if ask.current {
            self.session.confirm_read(clock.now, token);
        }
        self.clients.asked.insert(token, Asked { ask, since: clock.now, index, blocked: false });
    }

    /// How many clients this node knows of.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn tick_clients(&mut self, now: Moment) {
        let late = |asked: &Asked| now.since_ns(asked.since) >= CLIENT_PATIENCE_NS;
        let given_up: Vec<Token> =
            self.clients.asked.iter().filter(|(_, asked)| late(asked)).map(|(token, _)| *token).collect();
        for token in given_up {
            self.clients.asked.remove(&token);
            self.effects.push_back(NodeEffect::NoQuorum { token });
        }
        for blocked in self.clients.blocked.values_mut() {
            // Who waited has been told above, or is in a moment.
            blocked.on_tick(now, CLIENT_PATIENCE_NS);
        }
        self.clients.blocked.retain(|_, blocked| blocked.len() > 0);
        let sessions = &self.server.state().sessions;
        self.clients.digests.retain(|session, _| sessions.contains_key(session));
        self.clients
            .by_node
            .retain(|_, client| client.watch.is_some() || now.since_ns(client.heard_at) < CLIENT_GONE_NS);
    }

    /// Answers what can be answered. True if this node's own session has something to do for it.
    pub(crate) fn serve_clients(&mut self, clock: Clock) -> bool {
        if self.server.is_catching_up() {
            return false;
        }
        self.block_clients(clock.now);
        let mut recalled = false;
        let state = self.server.state();
        let mut recalls: BTreeMap<(SessionId, Mode), Vec<KeyRange>> = BTreeMap::new();
        for (session, blocked) in &mut self.clients.blocked {
            for wait in blocked.take_free(&state.leases, *session, |_| true) {
                if self.clients.asked.remove(&wait.token).is_some() {
                    self.effects.push_back(NodeEffect::Confirmed { token: wait.token, index: state.applied });
                }
            }
            for (whose, ranges) in blocked.take_recalls(&state.leases, *session, clock.now) {
                recalls.entry(whose).or_default().extend(ranges);
            }
        }
        if let Some(own) = self.session.id() {
            for mode in [Mode::Shared, Mode::Exclusive] {
                if let Some(ranges) = recalls.remove(&(own, mode)) {
                    self.session.on_recall(clock.now, &ranges, mode, false);
                    recalled = true;
                }
            }
        }
        self.send_recalls(clock.now, recalls);
        self.tell_clients(clock.now);
        recalled
    }

    /// Those whose entry is applied wait for leases from now on.
    fn block_clients(&mut self, now: Moment) {
        let state = self.server.state();
        for (token, asked) in &mut self.clients.asked {
            let applied = asked.index.is_some_and(|index| index <= state.applied) && asked.ask.since <= state.tid;
            if !applied || std::mem::replace(&mut asked.blocked, true) {
                continue;
            }
            let (reads, writes) = (std::mem::take(&mut asked.ask.reads), std::mem::take(&mut asked.ask.writes));
            let blocked = self.clients.blocked.entry(asked.ask.session).or_default();
            blocked.push(now, *token, (), reads, writes);
        }
    }

    fn tell_clients(&mut self, now: Moment) {
        let nodes: Vec<NodeId> = self.clients.by_node.keys().copied().collect();
        for node in nodes {
            let applied = self.server.state().applied;
            let Some(client) = self.clients.by_node.get_mut(&node) else { continue };
            let must = |watch: &Watch| !client.outbox.is_empty() || now.since_ns(watch.since) >= WATCH_NS;
            let may = |watch: &Watch| watch.looked_at != Some(applied) || must(watch);
            let Some(mut watch) = client.watch.take_if(|watch| may(watch)) else { continue };
            let must = must(&watch);
            let (news, is_news) = self.news_for(node, &watch.ask);
            let Some(client) = self.clients.by_node.get_mut(&node) else { continue };
            client.heard_at = now;
            if !is_news && !must {
                watch.looked_at = Some(applied);
                client.watch = Some(watch);
                continue;
            }
            let messages = client.outbox.drain(..).collect();
            let answer = Box::new(WatchAnswer { news: Some(news), messages });
            self.effects.push_back(NodeEffect::Watched { token: watch.token, answer });
        }
    }

    /// What the state says of a client's session, and whether the client does not know it.
    fn news_for(&mut self, node: NodeId, ask: &WatchAsk) -> (SessionNews, bool) {
        let state = self.server.state();
        let mine = |session: &gavel_txn::Session| session.node == node && session.incarnation == ask.incarnation;
        let known = ask.session.and_then(|id| state.sessions.get_key_value(&id)).filter(|(_, session)| mine(session));
        let found = known.or_else(|| state.sessions.iter().find(|(_, session)| mine(session)));
        let watched = WatchedSession {
            id: found.map(|(id, _)| *id),
            next: found.map_or(Seq(1), |(_, session)| session.next),
            outcomes: found.map(|(_, session)| &session.outcomes),
        };
        let id = watched.id.unwrap_or_default();
        let left_line: Vec<Seq> = match watched.id == ask.session {
            true => ask.in_line.iter().copied().filter(|seq| !state.locks.waits((id, *seq))).collect(),
            false => Vec::new(),
        };
        let tables = self.clients.tables;
        let looked_at = self.clients.digests.get(&id).is_some_and(|(table, ..)| *table == tables);
        if watched.id.is_some() && !looked_at {
            let held = state.leases.held_by(id).ranges().to_vec();
            let exclusive = state.leases.held_exclusively_by(id).ranges().to_vec();
            let digest = leases_digest(&held, &exclusive);
            self.clients.digests.insert(id, (tables, HeldLeases { held, exclusive }, digest));
        }
        let (leases, digest) = match self.clients.digests.get(&id) {
            Some((_, leases, digest)) if watched.id.is_some() => (leases.clone(), *digest),
            _ => (HeldLeases::default(), ask.leases),
        };
        let orphaned = match ask.tid >= self.clients.orphaned_since {
            true => {
                let later = self.clients.orphaned.iter().rev().take_while(|(tid, ..)| *tid > ask.tid);
                later.map(|(_, volume, object)| (*volume, *object)).collect()
            }
            false => self.orphans_of(watched.id),
        };
        let is_news = watched.is_news(ask, digest, &left_line, !orphaned.is_empty());
        let of_session = ask.session == watched.id;
        let outcomes = watched.outcomes.into_iter().flatten().filter(|(seq, _)| !of_session || **seq >= ask.oldest);
        let outcomes = outcomes.take(OUTCOMES_MAX).map(|(seq, outcome)| (*seq, outcome.clone())).collect();
        let leases = (digest != ask.leases).then_some(leases);
        let next = watched.next;
        let session = watched.id.map(|id| Standing { id, next, outcomes, leases, left_line });
        (SessionNews { tid: state.tid, index: state.applied, session, orphaned }, is_news)
    }
}

/// What a client may send.
pub(crate) fn may_send(message: &Message) -> bool {
    use Message as M;
    matches!(message, M::Submit(_) | M::OpenSession { .. } | M::Refresh { .. } | M::ConfirmRead { .. })
}
