//! The state machine: what comes in, what goes out, applying, flushing.

use crate::catch_up::CatchUp;
use crate::clocks::Clocks;
use crate::config::{Config, Sealed};
use crate::effect::{Effect, Failure};
use crate::leading::Leading;
use bytes::Bytes;
use gavel_quorum::{EntryKind, LogEntry, LogMark, Quorum, Recovered, Refused, Role};
use gavel_store::engine::Engine;
use gavel_store::records::{Records, Whole, WholeFrom};
use gavel_txn::prune::Readable;
use gavel_txn::{Applied, Digest, State, VolumePast};
use gavel_types::{LogIndex, Moment, NodeId, Term, Tid};
use gavel_wire::codec::DecodeError;
use gavel_wire::{Entry, Message, News};
use std::collections::VecDeque;
use std::sync::Arc;

/// How often a node tells the others its wall clock.
const CLOCK_INTERVAL_NS: u64 = 1_000_000_000;

/// What the clocks show when an input arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// The monotonic clock.
    pub now: Moment,
    /// The wall clock, in nanoseconds since the epoch. Used to number transactions, never to measure time.
    pub wall_ns: u64,
}

/// A server that can't start.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StartError {
    /// The sealed state can't be understood.
    #[error("the sealed state of this replica's records: {0}")]
    Sealed(#[from] DecodeError),
    /// The log can't be taken up again.
    #[error(transparent)]
    Quorum(#[from] gavel_quorum::StartError),
}

/// One replica. See the crate's documentation.
pub struct Server<E: Engine> {
    pub(crate) config: Config,
    pub(crate) quorum: Quorum,
    pub(crate) records: Arc<Records<E>>,
    pub(crate) state: State,
    /// The entry that `state` stands behind, with its term.
    pub(crate) mark: LogMark,
    pub(crate) clock: Clock,
    pub(crate) clocks: Clocks,
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: Term,
    pub(crate) leading: Option<Leading>,
    /// When this node last handed leadership away, and to whom.
    pub(crate) handed_over: Option<(Moment, NodeId)>,
    pub(crate) catch_up: Option<CatchUp>,
    pub(crate) effects: VecDeque<Effect>,
    /// Committed entries that are not applied yet.
    to_apply: Vec<LogEntry>,
    /// Something has become durable since effects were last taken.
    has_persisted: bool,
    /// How many sweeps had gone over the records of the last snapshot that was offered in this leadership.
    pub(crate) offered_sweeps: Option<u64>,
    /// The revision of the past that the records were told of last.
    told_past: Option<u64>,
    /// Where the records will durably stand when the flush under way is done.
    flushing: Option<LogMark>,
    /// Where a later cut stands, that is to be flushed after it.
    sealed_next: Option<LogMark>,
    flushed_at: Moment,
    log_bytes_since_flush: u64,
    clock_sent_at: Option<Moment>,
    failed: Option<Failure>,
}

impl<E: Engine> Server<E> {
    /// Takes up a replica where its disks left it. `sealed` is what the records' last durable cut was sealed with, none
    /// for a new replica and for one whose records are to be made anew; of `log`, `applied` is filled in from it.
    ///
    /// # Errors
    /// [`StartError`] if what the disks hold can't be understood or contradicts itself.
    pub fn new(
        config: Config,
        records: Arc<Records<E>>,
        sealed: Option<&[u8]>,
        mut log: Recovered,
        clock: Clock,
    ) -> Result<Server<E>, StartError> {
        let mut state = State::default();
        let mut mark = LogMark::default();
        let mut catch_up = None;
        match sealed.map(Sealed::decode).transpose()? {
            // The records were taken away to be made anew: what the log has let go of comes by a change scan.
            None if log.compacted.index > LogIndex(0) => {
                mark = log.compacted;
                state.applied = mark.index;
                catch_up = Some(CatchUp::resumed(Tid::ZERO, 0, Digest::default(), 0));
            }
            None => {}
            Some(Sealed::At { term, state: sealed }) => {
                mark = LogMark { index: sealed.applied, term };
                state = sealed;
            }
            Some(Sealed::CatchingUp { index, term, after, skip, records, sweeps }) => {
                mark = LogMark { index, term };
                state.applied = index;
                catch_up = Some(CatchUp::resumed(after, skip, records, sweeps));
            }
        }
        log.applied = mark;
        let voters = config.quorum.voters.len();
        let clocks = Clocks::new(voters, config.clock_skew_max_ns);
        let mut quorum = Quorum::new(config.quorum.clone(), log, clock.now)?;
        if catch_up.is_some() {
            quorum.request_snapshot();
        }
        let mut server = Server {
            config,
            quorum,
            records,
            state,
            mark,
            clock,
            clocks,
            leader: None,
            term: Term(0),
            leading: None,
            handed_over: None,
            catch_up,
            effects: VecDeque::new(),
            to_apply: Vec::new(),
            has_persisted: false,
            offered_sweeps: None,
            told_past: None,
            flushing: None,
            sealed_next: None,
            flushed_at: clock.now,
            log_bytes_since_flush: 0,
            clock_sent_at: None,
            failed: None,
        };
        server.tell_whole();
        Ok(server)
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.config.id()
    }

    /// The replicated state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The records.
    pub fn records(&self) -> &Arc<Records<E>> {
        &self.records
    }

    /// What the log's part is doing.
    pub fn quorum_status(&self) -> gavel_quorum::Status {
        self.quorum.status()
    }

    /// What the own clock is worth.
    pub fn clock_verdict(&self) -> crate::clocks::Verdict {
        self.clocks.verdict(self.clock)
    }

    /// Is a change scan under way? Then views are older than the log, and no commit of this node gets an answer.
    pub fn is_catching_up(&self) -> bool {
        self.catch_up.is_some()
    }

    /// Why it has stopped, if it has.
    pub fn failure(&self) -> Option<&Failure> {
        self.failed.as_ref()
    }

    /// Time passes.
    pub fn on_tick(&mut self, clock: Clock) {
        self.clock = clock;
        if self.failed.is_some() {
            return;
        }
        self.quorum.on_tick(clock.now);
        let due = self.clock_sent_at.is_none_or(|at| clock.now.since_ns(at) >= CLOCK_INTERVAL_NS);
        if due {
            self.clock_sent_at = Some(clock.now);
            self.broadcast(&Message::Clock { wall_ns: clock.wall_ns });
        }
        self.tick_leading();
        self.tick_schedules();
        self.refresh_offer();
        self.tick_pruning();
        self.tick_collecting();
        self.tick_catch_up();
    }

    /// A message of another node. What can't be used is refused; the connection may be closed for that.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn on_message(&mut self, clock: Clock, from: NodeId, message: Message) -> Result<(), Refused> {
        self.clock = clock;
        if self.failed.is_some() {
            return Ok(());
        }
        match message {
            Message::Log(bytes) => return self.on_log_message(from, &bytes),
            Message::Clock { wall_ns } => self.clocks.on_sample(clock.now, from, wall_ns),
            Message::ScanChanges { ticket, after, upto, skip, index, term, sweeps } => {
                self.quorum.learn_committed(LogMark { index, term });
                self.serve_scan(from, ticket, (after, skip, upto), sweeps);
            }
            Message::Changes { ticket, changes, done } => self.on_changes(ticket, &changes, done),
            Message::ScanRefused { ticket, sweeps } => self.on_scan_refused(ticket, sweeps),
            question @ (Message::Submit(_)
            | Message::OpenSession { .. }
            | Message::Refresh { .. }
            | Message::Unnamed { .. }
            | Message::ConfirmRead { .. }) => self.on_question(from, question),
            answer @ (Message::SubmitGap { .. }
            | Message::Refreshed { .. }
            | Message::ReadConfirmed { .. }
            | Message::Recall { .. }
            | Message::Land { .. }
            | Message::AllLanded { .. }
            | Message::NotLeader { .. }) => self.effects.push_back(Effect::Local(answer)),
        }
        Ok(())
    }

    /// A question of this node's own session; it goes to the leader, wherever that is.
    pub fn on_local(&mut self, clock: Clock, message: Message) {
        self.clock = clock;
        if self.failed.is_some() {
            return;
        }
        match self.leader {
            Some(leader) if leader != self.id() => self.effects.push_back(Effect::Send { to: leader, message }),
            _ => self.on_question(self.id(), message),
        }
    }

    /// The log write with this ticket, and all before it, are durable.
    pub fn on_persisted(&mut self, clock: Clock, ticket: u64) {
        self.clock = clock;
        if self.failed.is_none() {
            self.quorum.on_persisted(ticket);
            self.has_persisted = true;
        }
    }

    /// The flush that was asked for has ended.
    pub fn on_flushed(&mut self, clock: Clock, result: Result<(), String>) {
        self.clock = clock;
        let Some(durable) = self.flushing.take() else { return };
        match result {
            Err(cause) => self.fail(Failure::Flush { cause }),
            Ok(()) if self.failed.is_none() => {
                self.finish_catch_up(durable);
                let first = self.quorum.compact(durable.index);
                self.effects.push_back(Effect::TrimLog(LogIndex(first.0.saturating_sub(1))));
                if let Some(mark) = self.sealed_next.take() {
                    self.flush(mark);
                }
            }
            Ok(()) => {}
        }
    }

    /// Works through everything that the inputs started. If others wait for what is to be sent, what is committed is applied by the next call
    /// ([`Server::has_to_apply`]): to be called until it gives nothing.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        self.apply_committed();
        while self.failed.is_none() {
            self.propose();
            let ready = self.quorum.take_ready();
            if ready.is_empty() {
                break;
            }
            self.on_ready(ready);
            if self.has_to_apply() && self.is_awaited() {
                break;
            }
            self.apply_committed();
        }
        self.has_persisted = false;
        self.flush_if_due();
        self.effects.drain(..).collect()
    }

    /// Is there something that is committed, and to be applied when all that it gave has been sent?
    pub fn has_to_apply(&self) -> bool {
        !self.to_apply.is_empty()
    }

    /// Do others wait for what is to be sent? They do for what a leader says, and to hear that something is durable here.
    fn is_awaited(&self) -> bool {
        let speaks = self.leading.is_some() || self.has_persisted;
        speaks && self.effects.iter().any(|effect| matches!(effect, Effect::Send { .. }))
    }

    fn apply_committed(&mut self) {
        for entry in std::mem::take(&mut self.to_apply) {
            if self.failed.is_some() || self.catch_up.is_some() {
                break;
            }
            self.apply(&entry);
        }
    }

    fn on_log_message(&mut self, from: NodeId, bytes: &Bytes) -> Result<(), Refused> {
        self.quorum.set_lacking(self.catch_up.is_some());
        let result = self.quorum.on_message(self.clock.now, from, bytes);
        if let Err(error @ Refused::LogLost { .. }) = &result {
            self.fail(Failure::LogLost { cause: error.to_string() });
        }
        result
    }

    fn on_ready(&mut self, ready: gavel_quorum::Ready) {
        if let Some(role) = ready.role {
            self.on_role(role.role, role.leader, role.term);
            self.effects.push_back(Effect::Role(role));
        }
        let sends = ready.send.into_iter().map(|(to, bytes)| Effect::Send { to, message: Message::Log(bytes.into()) });
        self.effects.extend(sends);
        if let Some(persist) = ready.persist {
            self.effects.push_back(Effect::Persist(persist));
        }
        if let Some(snapshot) = ready.pending_snapshot {
            self.begin_catch_up(snapshot);
        }
        self.to_apply.extend(ready.committed);
        self.on_reads(ready.reads, &ready.failed_reads);
        if self.quorum.wants_snapshot() && self.catch_up.is_none() {
            self.offer_snapshot();
        }
    }

    fn on_role(&mut self, role: Role, leader: Option<NodeId>, term: Term) {
        self.leader = leader;
        self.term = term;
        self.leading = (role == Role::Leader).then(|| Leading::new(term));
        // An offer ends with its leadership.
        self.offered_sweeps = None;
    }

    pub(crate) fn offer_snapshot(&mut self) {
        self.offered_sweeps = Some(self.state.past.sweeps());
        // Refused only for a position that compaction has passed by, or for its size: the next one will do.
        let _ = self.quorum.offer_snapshot(self.mark.index, self.state.encode().into());
    }

    fn apply(&mut self, entry: &LogEntry) {
        let items = match (entry.kind, entry.is_noop()) {
            (EntryKind::Data, false) => match Entry::decode(&entry.data) {
                Ok(items) => Some(items),
                Err(error) => return self.fail(Failure::Entry { index: entry.index, cause: error.to_string() }),
            },
            _ => None,
        };
        let live = self.records.live(self.state.tid);
        let applied = match gavel_txn::apply(&mut self.state, &live, entry.index, items.as_ref()) {
            Ok(applied) => applied,
            Err(error) => return self.fail(Failure::Records { cause: error.to_string() }),
        };
        self.tell_whole();
        if let Err(error) = self.records.apply(&applied.changes, &applied.removals) {
            return self.fail(Failure::Records { cause: error.to_string() });
        }
        self.mark = entry.mark();
        self.log_bytes_since_flush += entry.data.len() as u64 + 64;
        self.quorum.on_applied(entry.index);
        if let Some(index) = applied.diverged {
            return self.fail(Failure::Diverged { index });
        }
        self.lead_after(entry.term, &applied);
        self.tell(applied);
    }

    /// Tells the records which past states are whole, if that may have changed: before a sweep takes others away.
    pub(crate) fn tell_whole(&mut self) {
        let past = &self.state.past;
        if self.told_past != Some(past.revision()) {
            self.told_past = Some(past.revision());
            // A volume that goes shows nothing: [`gavel_txn::VolumePast::readable`] says so.
            self.records.set_whole(past.volumes().map(|(volume, past)| (volume, whole(past))));
            self.records.set_origins(past.origins());
        }
    }

    fn tell(&mut self, applied: Applied) {
        let me = self.id();
        let news = News {
            tid: self.state.tid,
            index: self.state.applied,
            outcomes: applied.outcomes,
            opened: applied
                .opened
                .into_iter()
                .filter_map(|(session, node, incarnation)| (node == me).then_some((session, incarnation)))
                .collect(),
            ended: applied.ended,
            orphaned: applied.orphaned,
            leases: applied.leases,
            granted: applied.granted,
            blobs: applied.blobs,
        };
        self.effects.push_back(Effect::Applied(news));
    }

    fn flush_if_due(&mut self) {
        let due = self.log_bytes_since_flush >= self.config.flush_log_bytes
            || self.records.unsealed_bytes() >= self.config.flush_memory_bytes
            || (self.log_bytes_since_flush > 0
                && self.clock.now.since_ns(self.flushed_at) >= self.config.flush_interval_ns);
        if due && self.flushing.is_none() && self.catch_up.is_none() && self.failed.is_none() {
            self.seal(&Sealed::At { term: self.mark.term, state: self.state.clone() });
        }
    }

    /// Makes a cut of the records and asks for it to be made durable.
    pub(crate) fn seal(&mut self, sealed: &Sealed) {
        if let Err(error) = self.records.seal(&sealed.encode()) {
            return self.fail(Failure::Flush { cause: error.to_string() });
        }
        self.log_bytes_since_flush = 0;
        self.flushed_at = self.clock.now;
        match self.flushing {
            None => self.flush(self.mark),
            // A flush that has begun may have begun before this cut: it needs one of its own.
            Some(_) => self.sealed_next = Some(self.mark),
        }
    }

    fn flush(&mut self, mark: LogMark) {
        self.flushing = Some(mark);
        self.effects.push_back(Effect::Flush);
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        if self.failed.is_none() {
            self.leading = None;
            self.failed = Some(failure.clone());
            self.effects.push_back(Effect::Failed(failure));
        }
    }

    pub(crate) fn answer(&mut self, to: NodeId, message: Message) {
        self.effects.push_back(if to == self.id() { Effect::Local(message) } else { Effect::Send { to, message } });
    }

    fn broadcast(&mut self, message: &Message) {
        let me = self.id();
        let others: Vec<NodeId> = self.members().filter(|node| *node != me).collect();
        self.effects.extend(others.into_iter().map(|to| Effect::Send { to, message: message.clone() }));
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.config.quorum.voters.iter().chain(&self.config.quorum.learners).copied()
    }

    /// Asserts what one server can see of the invariants.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        if let Err(broken) = self.quorum.check_invariants() {
            panic!("the log: {broken}");
        }
        self.state.check_invariants();
        assert_eq!(self.mark.index, self.state.applied, "records and state stand behind one entry");
        assert!(self.leading.is_none() || self.failed.is_none(), "a server that has failed does not lead");
    }
}

/// What the records are told of a volume's past.
fn whole(past: &VolumePast) -> Whole {
    let from = |readable: Readable<'_>| WholeFrom { horizon: readable.horizon, kept: readable.kept.into() };
    let keeping = past.keeping();
    Whole { volume: from(keeping.volume), classes: keeping.classes.into_values().map(from).collect() }
}
