//! What only the leader does: line up requests, confirm reads, watch sessions, reap, checkpoint, prune.
//!
//! All of it is forgotten when leadership ends: whoever waits asks again. Nothing here is needed for safety; the commit
//! rule judges every request where it is applied.

use crate::clocks::Verdict;
use crate::collecting::Collecting;
use crate::line::Line;
use crate::server::Server;
use gavel_quorum::{Confirmation, PeerState, ProposeError};
use gavel_store::engine::Engine;
use gavel_txn::{Applied, VolumePast};
use gavel_types::limits::SESSION_WINDOW_MAX;
use gavel_types::{KeyParts, KeyRange, LogIndex, Moment, NodeId, ObjectId, Seq, SessionId, Term, Tid, VolumeId};
use gavel_wire::{Entry, Item, Message, Record, Request, View};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Entries proposed and not yet applied: more requests join the next entry meanwhile.
const ENTRIES_UNDER_WAY_MAX: usize = 8;
/// Reads and refreshes waiting to be confirmed.
const READS_MAX: usize = 65_536;
/// A leader looks so often whether a state is to get a name, as a schedule says: so late it may be. What it has lined up it may line up again.
const SCHEDULE_LOOK_NS: u64 = 1_000_000_000;
/// A session that was lined up and is not open by then is lined up once more.
const OPENING_NS: u64 = 2_000_000_000;
/// A node hands leadership away at most this often: as often as nodes tell each other their clocks.
const HAND_OVER_NS: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// Orphans looked at in one step when leadership begins.
const ORPHAN_PAGE: usize = 1024;
/// While there is always something in the line, a sweep joins it once in so many paces: pruning must not fall behind for ever.
const SWEEP_PACES_MAX: u64 = 20;
/// A sweep that was lined up and is not applied by then is lined up once more.
const SWEEP_PATIENCE_NS: u64 = 10_000_000_000;

/// Who waits for a confirmation, and what for.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    Read { node: NodeId, ticket: u64 },
    Refresh { node: NodeId, session: SessionId, ticket: u64 },
}

/// What a leader remembers.
#[derive(Debug)]
pub struct Leading {
    term: Term,
    /// Everything before this term is applied: requests can be lined up.
    pub(crate) established: bool,
    /// The last Tid that was given out.
    tid: Tid,
    pub(crate) line: Line,
    /// Last Tids of the entries proposed and not yet applied.
    pub(crate) under_way: VecDeque<Tid>,
    /// The number that a session's next request must have to be lined up.
    expected: BTreeMap<SessionId, Seq>,
    /// When a session was last answered.
    heard: BTreeMap<SessionId, Moment>,
    /// Sessions and nodes for which an item is in the line or under way.
    expiring: BTreeSet<SessionId>,
    opening: BTreeMap<(NodeId, u64, Option<SessionId>), Moment>,
    /// A step of reaping what was staged is in the line or under way.
    reaping_staged: bool,
    waiters: BTreeMap<u64, Waiter>,
    next_ticket: u64,
    checkpointed: LogIndex,
    /// When it last looked whether something is to be pruned.
    looked_at: Option<Moment>,
    /// When it last looked whether a state is to get a name.
    scheduled_at: Option<Moment>,
    /// When the last sweep was lined up, and how many were applied before.
    swept: Option<(Moment, u64)>,
    /// Blobs that may have to be collected.
    pub(crate) collecting: Collecting,
    /// Which volume it was of: volumes take turns, for one that is pruned all the time must not hold up the others.
    swept_volume: VolumeId,
}

impl Leading {
    /// The beginning of a leadership.
    pub fn new(term: Term) -> Leading {
        Leading {
            term,
            established: false,
            tid: Tid::ZERO,
            line: Line::default(),
            under_way: VecDeque::new(),
            expected: BTreeMap::new(),
            heard: BTreeMap::new(),
            expiring: BTreeSet::new(),
            opening: BTreeMap::new(),
            reaping_staged: false,
            waiters: BTreeMap::new(),
            next_ticket: 1,
            checkpointed: LogIndex(0),
            looked_at: None,
            scheduled_at: None,
            swept: None,
            collecting: Collecting::default(),
            swept_volume: VolumeId::default(),
        }
    }
}

impl<E: Engine> Server<E> {
    /// A question that only a leader answers.
    pub(crate) fn on_question(&mut self, from: NodeId, message: Message) {
        if !self.leading.as_ref().is_some_and(|leading| leading.established) {
            let leader = self.leader.filter(|leader| *leader != self.id());
            return self.answer(from, Message::NotLeader { leader });
        }
        match message {
            Message::Submit(requests) => self.line_up(from, requests),
            Message::OpenSession { node, incarnation, term_ms, instead_of } if node == from => {
                self.line_up_session(node, incarnation, term_ms, instead_of);
            }
            Message::Refresh { session, ticket } => {
                self.confirm(from, Waiter::Refresh { node: from, session, ticket });
            }
            Message::Unnamed { blobs } => self.add_candidates(blobs),
            Message::ConfirmRead { ticket } => self.confirm(from, Waiter::Read { node: from, ticket }),
            _ => {}
        }
    }

    fn line_up(&mut self, from: NodeId, requests: Vec<Request>) {
        for request in requests {
            let Some(session) = self.state.sessions.get(&request.session) else { continue };
            let Some(leading) = &mut self.leading else { return };
            if session.node != from {
                continue;
            }
            let expected = leading.expected.entry(request.session).or_insert(session.next);
            let ahead = request.seq > *expected || request.seq.0 >= request.seen.0.saturating_add(SESSION_WINDOW_MAX);
            if ahead || leading.line.is_full() {
                let answer = Message::SubmitGap { session: request.session, expected: *expected };
                return self.answer(from, answer);
            }
            if request.seq < *expected {
                continue;
            }
            *expected = Seq(expected.0 + 1);
            leading.line.push(Item::Request(request));
        }
    }

    fn line_up_session(&mut self, node: NodeId, incarnation: u64, term_ms: u32, instead_of: Option<SessionId>) {
        let now = self.clock.now;
        let Some(leading) = &mut self.leading else { return };
        // Opening twice does no harm, and an opening that found no room must be tried again some time.
        let opening = (node, incarnation, instead_of);
        let under_way = leading.opening.get(&opening);
        if under_way.is_none_or(|since| now.since_ns(*since) >= OPENING_NS) {
            leading.opening.insert(opening, now);
            leading.line.push(Item::SessionOpen { node, incarnation, term_ms, instead_of });
        }
    }

    fn confirm(&mut self, from: NodeId, waiter: Waiter) {
        let Some(leading) = &mut self.leading else { return };
        let ticket = leading.next_ticket;
        leading.next_ticket += 1;
        // A session's term begins anew only if a majority has been there since it asked.
        let by = match &waiter {
            Waiter::Read { .. } => Confirmation::Lease,
            Waiter::Refresh { .. } => Confirmation::Round,
        };
        if leading.waiters.len() >= READS_MAX || self.quorum.confirm_read(self.clock.now, ticket, by).is_err() {
            return self.answer(from, Message::NotLeader { leader: None });
        }
        leading.waiters.insert(ticket, waiter);
    }

    /// The quorum has confirmed some reads, and given up on others.
    pub(crate) fn on_reads(&mut self, confirmed: Vec<(u64, LogIndex)>, failed: &[u64]) {
        for (ticket, index) in confirmed {
            let waiter = self.leading.as_mut().and_then(|leading| leading.waiters.remove(&ticket));
            match waiter {
                None => {}
                Some(Waiter::Read { node, ticket }) => self.answer(node, Message::ReadConfirmed { ticket, index }),
                Some(Waiter::Refresh { node, session, ticket }) => self.refreshed(node, session, ticket),
            }
        }
        for ticket in failed {
            let waiter = self.leading.as_mut().and_then(|leading| leading.waiters.remove(ticket));
            if let Some(Waiter::Read { node, .. } | Waiter::Refresh { node, .. }) = waiter {
                self.answer(node, Message::NotLeader { leader: None });
            }
        }
    }

    /// A refresh counts: a quorum has confirmed this leader since it arrived.
    fn refreshed(&mut self, node: NodeId, session: SessionId, ticket: u64) {
        let open = self.state.sessions.get(&session).is_some_and(|session| session.node == node);
        let Some(leading) = &mut self.leading else { return };
        if open && !leading.expiring.contains(&session) {
            leading.heard.insert(session, self.clock.now);
            let wall_ns = self.clock.wall_ns;
            self.answer(node, Message::Refreshed { session, ticket, wall_ns });
        }
    }

    /// Proposes what is in the line.
    pub(crate) fn propose(&mut self) {
        let Some(leading) = &mut self.leading else { return };
        if !leading.established || leading.line.is_empty() || leading.under_way.len() >= ENTRIES_UNDER_WAY_MAX {
            return;
        }
        match self.clocks.verdict(self.clock) {
            Verdict::Trusted => {}
            Verdict::Unknown => return,
            Verdict::Far(_) => return self.hand_over(|server, peer| server.clocks.would_trust(server.clock, peer)),
        }
        let entry = Entry { tid: leading.tid.advance(self.clock.wall_ns), items: leading.line.take() };
        match self.quorum.propose(entry.encode().into()) {
            Ok(()) => {
                leading.tid = Tid(entry.tid.0 + entry.items.len() as u64 - 1);
                leading.under_way.push_back(leading.tid);
            }
            Err(ProposeError::Busy) => leading.line.put_back(entry.items),
            // Leadership is over (the role change is on its way), or the entry is of no use: whoever waits asks again.
            Err(ProposeError::NotLeader { .. } | ProposeError::Size { .. }) => {}
        }
    }

    /// Hands leadership to the voter with the most complete log among those that may have it; of several, to another one than the last
    /// time. Seldom: just after a clock has jumped, two nodes may each think that the other should lead.
    pub(crate) fn hand_over(&mut self, may: impl Fn(&Server<E>, NodeId) -> bool) {
        let now = self.clock.now;
        if self.handed_over.is_some_and(|(at, _)| now.since_ns(at) < HAND_OVER_NS) {
            return;
        }
        let (status, me, last) = (self.quorum.status(), self.id(), self.handed_over.map(|(_, to)| to));
        let best = status
            .peers
            .iter()
            .filter(|peer| peer.voter && peer.recently_active && peer.id != me && may(self, peer.id))
            .max_by_key(|peer| (peer.matched, Some(peer.id) != last));
        if let Some(peer) = best {
            self.handed_over = Some((now, peer.id));
            // A transfer that fails is tried again.
            let _ = self.quorum.transfer_leader(peer.id);
        }
    }

    /// An entry was applied: what it means for a leader.
    pub(crate) fn lead_after(&mut self, entry_term: Term, applied: &Applied) {
        let tid = self.state.tid;
        let Some(leading) = &mut self.leading else { return };
        while leading.under_way.front().is_some_and(|last| *last <= tid) {
            leading.under_way.pop_front();
        }
        for (session, node, incarnation) in &applied.opened {
            leading.opening.retain(|(of, life, _), _| (of, life) != (node, incarnation));
            leading.heard.insert(*session, self.clock.now);
        }
        for session in &applied.ended {
            leading.heard.remove(session);
            leading.expiring.remove(session);
            leading.expected.remove(session);
        }
        leading.collecting.add(applied.blobs.unnamed.iter().copied());
        for (volume, object) in &applied.to_reap {
            leading.line.push(Item::Reap { volume: *volume, object: *object });
        }
        leading.reaping_staged &= !applied.reaped_staged;
        if !leading.established && entry_term == leading.term {
            self.establish();
        }
        self.reap_staged();
        self.checkpoint();
    }

    /// Everything before this term is applied: the leader knows where each session is, and gives each a fresh term.
    fn establish(&mut self) {
        let (now, tid) = (self.clock.now, self.state.tid);
        let reapable = self.reapable_orphans();
        let Some(leading) = &mut self.leading else { return };
        leading.established = true;
        leading.tid = tid;
        leading.heard = self.state.sessions.keys().map(|session| (*session, now)).collect();
        if self.state.past.last_volume() == VolumeId::default() {
            leading.line.push(Item::CreateVolume { volume: VolumeId::FIRST, mode: 0o755, uid: 0, gid: 0 });
        }
        for (volume, object) in reapable {
            leading.line.push(Item::Reap { volume, object });
        }
    }

    /// Orphans that nobody holds, whose reaping an earlier leader has left unfinished.
    fn reapable_orphans(&self) -> Vec<(VolumeId, ObjectId)> {
        let live = self.records.live(self.state.tid);
        let mut found = Vec::new();
        for volume in self.state.volumes.keys() {
            let mut from = ObjectId(0);
            while let Ok(page) = live.scan(&KeyRange::orphans_from(*volume, from), ORPHAN_PAGE) {
                for (key, version) in &page {
                    if let (KeyParts::Orphan { object }, Record::Orphan(orphan)) = (key.parts(), &version.record) {
                        from = ObjectId(object.0 + 1);
                        if orphan.holders.is_empty() {
                            found.push((*volume, object));
                        }
                    }
                }
                if page.len() < ORPHAN_PAGE {
                    break;
                }
            }
        }
        found
    }

    /// Proposes the next step of reaping what was staged and abandoned: one at a time.
    fn reap_staged(&mut self) {
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.established) else { return };
        if self.state.staged.has_abandoned() && !leading.reaping_staged {
            leading.reaping_staged = true;
            leading.line.push(Item::ReapStaged);
        }
    }

    fn checkpoint(&mut self) {
        let (Some(leading), Some((index, digest))) = (&mut self.leading, self.state.digests.back()) else { return };
        if leading.established && *index > leading.checkpointed {
            leading.checkpointed = *index;
            leading.line.push(Item::Checkpoint { index: *index, digest: *digest });
        }
    }

    /// Ends the sessions that have not been heard of for a term.
    pub(crate) fn tick_leading(&mut self) {
        let now = self.clock.now;
        let (drift_ns, sessions) = (self.config.drift_ns, &self.state.sessions);
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.established) else { return };
        let life_ns = |session| sessions.get(session).map_or(0, |open| u64::from(open.term_ms) * MS + drift_ns);
        let silent = leading.heard.iter().filter(|(session, at)| now.since_ns(**at) > life_ns(session));
        let silent: Vec<SessionId> = silent.map(|(session, _)| *session).collect();
        for session in silent {
            if leading.expiring.insert(session) {
                leading.line.push(Item::SessionExpire { session });
            }
        }
    }

    /// Proposes to name the states whose time has come.
    pub(crate) fn tick_schedules(&mut self) {
        let now = self.clock.now;
        let (tid, past) = (Tid(self.clock.wall_ns).max(self.state.tid), &self.state.past);
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.established) else { return };
        if leading.scheduled_at.is_some_and(|at| now.since_ns(at) < SCHEDULE_LOOK_NS) {
            return;
        }
        leading.scheduled_at = Some(now);
        for (volume, _) in past.volumes().filter(|(_, past)| past.is_snapshot_due(tid)) {
            leading.line.push(Item::NameScheduled { volume });
        }
    }

    /// Proposes to prune what is due, and to sweep what is pruned: one sweep at a time, when there is not much else to do.
    pub(crate) fn tick_pruning(&mut self) {
        let now = self.clock.now;
        let (tid, past) = (Tid(self.clock.wall_ns).max(self.state.tid), &self.state.past);
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.established) else { return };
        if leading.looked_at.is_none_or(|at| now.since_ns(at) >= self.config.prune_look_ns) {
            leading.looked_at = Some(now);
            for (volume, _) in past.volumes().filter(|(_, past)| past.is_due(tid)) {
                leading.line.push(Item::Prune { volume });
            }
        }
        let (pace, steps) = (self.config.sweep_pace_ns, past.steps());
        let busy = !leading.line.is_empty() || !leading.under_way.is_empty();
        let waits = leading.swept.is_some_and(|(at, before)| match now.since_ns(at) {
            waited if before == steps => waited < SWEEP_PATIENCE_NS,
            waited => waited < if busy { pace * SWEEP_PACES_MAX } else { pace },
        });
        let last = leading.swept_volume;
        let due = |(volume, past): (VolumeId, &VolumePast)| past.pass.is_some().then_some(volume);
        let next = past.volumes().filter_map(due).find(|volume| *volume > last);
        let Some(volume) = next.or_else(|| past.volumes().find_map(due)).filter(|_| !waits) else { return };
        if self.are_all_in_step()
            && let Some(leading) = &mut self.leading
        {
            leading.swept = Some((now, steps));
            leading.swept_volume = volume;
            leading.line.push(Item::Sweep { volume, rows: self.config.sweep_rows });
        }
    }

    /// Does every peer that can be heard take entries as they come? One that copies records must not find them swept meanwhile.
    fn are_all_in_step(&self) -> bool {
        let (status, me) = (self.quorum.status(), self.id());
        let others = status.peers.iter().filter(|peer| peer.id != me && peer.recently_active);
        others.into_iter().all(|peer| peer.state == PeerState::Replicate)
    }

    /// A snapshot that was offered before a sweep leads to records that nobody has any more.
    ///
    /// It is replaced before the leadership is established, too: if the peer that is to copy is needed for a majority, nothing of this
    /// term is committed before it has a snapshot that it can reach. A state that is itself being caught up with is no offer.
    pub(crate) fn refresh_offer(&mut self) {
        let is_stale = self.offered_sweeps.is_some_and(|sweeps| sweeps != self.state.past.sweeps());
        if is_stale && self.leading.is_some() && self.catch_up.is_none() && !self.are_all_in_step() {
            self.offer_snapshot();
        }
    }
}
