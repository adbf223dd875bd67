//! The state machine: what comes in, and what raft-rs is told of it.

mod effects;
mod invariants;
mod recovery;
mod snapshots;
pub mod status;

use crate::acknowledged::Acknowledged;
use crate::admission::{self, Facts, Verdict};
use crate::codec;
use crate::config::Config;
use crate::entry::raft_bytes;
use crate::error::{ProposeError, ReadError, Refused, TransferError};
use crate::leader_lease::LeaderLease;
use crate::outbox::Outbox;
use crate::pace::{Jitter, Pace};
use crate::reads::{Reads, TICKETS_MAX};
use crate::ready::{Persist, RoleChange};
use crate::window::Window;
use bytes::Bytes;
use gavel_types::limits::ENTRY_BYTES_MAX;
use gavel_types::{LogIndex, Moment, NodeId};
use invariants::HighWater;
use raft::eraftpb::{Message, MessageType};
use raft::{Raft, RawNode, StateRole};
use snapshots::{HeldSnapshot, Transfers};

/// What a leader may confirm a read by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Confirmation {
    /// That nobody else can have been elected since the last round; by a round if that may be.
    Lease,
    /// A round of heartbeats that begins after the question.
    Round,
}

/// One replica's part in one group. Drive it with `on_*`, then take the effects until there are none:
/// `while quorum.has_ready() { let ready = quorum.take_ready(); ... }`.
pub struct Quorum {
    raft: RawNode<Window>,
    config: Config,
    pace: Pace,
    jitter: Jitter,
    outbox: Outbox,
    acknowledged: Acknowledged,
    lease: LeaderLease,
    reads: Reads,
    transfers: Transfers,
    held: Option<HeldSnapshot>,
    /// See [`Quorum::set_lacking`].
    lacking: bool,
    /// To be written before anything else: the log restarts after the store's position.
    opening: Option<Persist>,
    /// raft-rs has released entries up to here.
    available: LogIndex,
    /// The owner has been given entries, or a snapshot, up to here.
    delivered: LogIndex,
    /// The owner has applied up to here. raft-rs hears of it once it is durable in the log, too.
    applied: LogIndex,
    /// The owner's last word on role, leader and term.
    reported: Option<RoleChange>,
    high: HighWater,
}

impl Quorum {
    /// Lets time pass. More than a few ticks at once are forgotten: a replica that slept listens first.
    pub fn on_tick(&mut self, now: Moment) {
        self.lease.pass(now);
        for _ in 0..self.pace.advance(now) {
            self.pace.ticks += 1;
            // Otherwise raft-rs may campaign, and panic (see `may_campaign`).
            if self.raft.raft.state == StateRole::Leader || self.may_campaign() {
                self.raft.tick();
                self.settle();
            }
        }
        let election_ticks = self.config.election_ticks() as u64;
        self.reads.expire(self.pace.ticks.saturating_sub(2 * election_ticks));
        self.retry_lost_snapshots();
    }

    /// When `on_tick` has something to do next.
    pub fn next_tick(&self) -> Moment {
        self.pace.next()
    }

    /// Takes a message that `from` sent (the transport vouches for who that is), and that was there at `now`. An error means that it was
    /// refused and nothing has changed; no bytes whatever make this panic. Large entries go on sharing `bytes`.
    pub fn on_message(&mut self, now: Moment, from: NodeId, bytes: &Bytes) -> Result<(), Refused> {
        self.lease.pass(now);
        let message = codec::decode(bytes)?;
        let facts = self.facts();
        let is_member = |id: NodeId| self.raft.raft.prs().get(id.0).is_some();
        let has_asked = |campaign| self.outbox.has_asked(campaign);
        match admission::judge(&message, from, &facts, is_member, has_asked)? {
            Verdict::Step => self.step(message),
            Verdict::Drop => {}
            Verdict::Hold => self.hold_snapshot(message)?,
        }
        Ok(())
    }

    /// Appends `data` (1 byte to 8 MiB) to the log, if this node leads. That it was taken does not mean that
    /// it will be committed: a change of leader may lose it.
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        if data.is_empty() || data.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::Size { bytes: data.len(), max: ENTRY_BYTES_MAX });
        }
        if !self.leads() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        if self.raft.store().bytes() > self.config.window_bytes_max {
            return Err(ProposeError::Busy);
        }
        let proposed = self.raft.propose(Vec::new(), raft_bytes(data));
        self.settle();
        proposed.map_err(|_| ProposeError::Busy)
    }

    /// Asks for confirmation that this node leads at `now`, at which the question was there, so that a view as new as the index that comes back
    /// with `ticket` has everything that was committed before. Ends in `Ready::reads` or
    /// `Ready::failed_reads`, within three election timeouts.
    pub fn confirm_read(&mut self, now: Moment, ticket: u64, by: Confirmation) -> Result<(), ReadError> {
        self.lease.pass(now);
        if !self.leads() {
            return Err(ReadError::NotLeader { leader: self.leader() });
        }
        if by == Confirmation::Lease && self.lease.leads() && self.core().commit_to_current_term() {
            self.reads.confirm(ticket, LogIndex(self.core().raft_log.committed));
            return Ok(());
        }
        if self.reads.count() >= TICKETS_MAX {
            return Err(ReadError::Busy { waiting: self.reads.count() });
        }
        self.reads.push(ticket, self.pace.ticks);
        Ok(())
    }

    /// The writes up to `ticket` are durable. Panics if no such ticket was given out.
    pub fn on_persisted(&mut self, ticket: u64) {
        assert!(ticket <= self.outbox.tickets(), "persisted ticket {ticket} of {}", self.outbox.tickets());
        if let Some(number) = self.outbox.on_durable(ticket) {
            self.raft.on_persist_ready(number);
        }
        if !self.outbox.is_writing() {
            // Records of what needed no write; raft-rs keeps each until it hears of it.
            self.raft.on_persist_ready(u64::MAX);
        }
        self.push_applied();
        self.settle();
    }

    /// The owner has applied the entries up to `index`. Panics if they were not handed out.
    pub fn on_applied(&mut self, index: LogIndex) {
        assert!(index <= self.delivered, "applied {index}, handed out {}", self.delivered);
        self.applied = self.applied.max(index);
        self.push_applied();
        self.settle();
    }

    /// The owner has everything up to `durable` safely in its store: older entries may go, except the newest
    /// that fit into `retained_bytes_max`. Gives the first index that is still in the log; what lies before
    /// it can be removed from the log's disk.
    pub fn compact(&mut self, durable: LogIndex) -> LogIndex {
        let up_to = durable.min(LogIndex(self.raft.raft.raft_log.applied));
        let retained = self.config.retained_bytes_max;
        self.raft.mut_store().compact(up_to, retained);
        LogIndex(self.raft.store().compacted().index.0 + 1)
    }

    /// Begins to hand leadership to `target`. Proposals are refused until it took over, or for an election
    /// timeout at most.
    pub fn transfer_leader(&mut self, target: NodeId) -> Result<(), TransferError> {
        if !self.leads() {
            return Err(TransferError::NotLeader { leader: self.leader() });
        }
        if target == self.config.id || !self.config.voters.contains(&target) {
            return Err(TransferError::NotAVoter(target));
        }
        self.lease.give_up();
        self.raft.transfer_leader(target.0);
        self.settle();
        Ok(())
    }

    /// The owner's store is not whole, or is again. A replica that lacks something votes, and is elected if it must be, for its log may
    /// be whole; but it takes no leadership that is handed over to it.
    pub fn set_lacking(&mut self, lacking: bool) {
        self.lacking = lacking;
    }

    /// Messages to `node` are being lost: it is probed before more is sent.
    pub fn report_unreachable(&mut self, node: NodeId) {
        self.raft.report_unreachable(node.0);
        self.settle();
    }

    pub(crate) fn leads(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        Some(NodeId(self.raft.raft.leader_id)).filter(|id| id.0 != 0)
    }

    fn core(&self) -> &Raft<Window> {
        &self.raft.raft
    }

    fn facts(&self) -> Facts {
        let core = self.core();
        Facts {
            me: self.config.id,
            state: core.state,
            term: core.term,
            leader: core.leader_id,
            last_index: core.raft_log.last_index(),
            holds_snapshot: self.held.is_some(),
            window_bytes: self.raft.store().bytes(),
            window_bytes_max: self.config.window_bytes_max,
            may_take_over: self.may_campaign() && !self.lacking,
            is_bound: self.lease.is_bound(),
        }
    }

    /// raft-rs reads all entries after the last applied one when it campaigns, and panics if the log starts
    /// later, as it does between a snapshot's installation and its durability. A lone voter moreover wins
    /// at once, and raft-rs asserts that its log is durable then.
    fn may_campaign(&self) -> bool {
        let log = &self.core().raft_log;
        let whole = log.unstable.snapshot.is_some() || log.applied + 1 >= log.first_index();
        whole && !(self.config.voters.len() == 1 && self.has_unwritten())
    }

    fn has_unwritten(&self) -> bool {
        self.opening.is_some() || self.outbox.is_writing() || !self.core().raft_log.unstable_entries().is_empty()
    }

    fn step(&mut self, message: Message) {
        let confirms = message.get_msg_type() == MessageType::MsgHeartbeatResponse && !message.context.is_empty();
        self.raft.mut_store().set_frugal(confirms);
        let heartbeat = (message.get_msg_type() == MessageType::MsgHeartbeat).then_some((message.from, message.term));
        self.end_request(&message);
        // The errors that are left say that the message is of no consequence.
        let _ = self.raft.step(message);
        self.raft.mut_store().set_frugal(false);
        if heartbeat == Some((self.core().leader_id, self.core().term)) {
            self.lease.promise();
        }
        self.settle();
    }

    /// Another replica knows that the entry at `mark` is committed. If it is in this log, too, it is committed here.
    ///
    /// A leader does not know that of entries of earlier terms until it has committed one of its own, for which it may need just the
    /// replica that is waiting for it to get so far.
    pub fn learn_committed(&mut self, mark: crate::LogMark) {
        let log = &mut self.raft.raft.raft_log;
        if mark.index.0 <= log.last_index() && log.match_term(mark.index.0, mark.term.0) {
            log.commit_to(mark.index.0);
            if mark.term.0 < self.core().term {
                self.high.inherit(mark.index.0);
            }
            self.settle();
        }
    }

    /// Follows up on whatever raft-rs did.
    fn settle(&mut self) {
        self.jitter.impose(&mut self.raft.raft);
        let leadership = self.leads().then_some(self.core().term);
        if self.high.leadership() != leadership {
            self.reads.fail_all();
            self.lease.end();
            self.transfers.clear();
            // The owner's state moves on while others lead; raft-rs would send what was offered before that again and again.
            self.raft.mut_store().withdraw_offer();
        }
        let core = &self.raft.raft;
        self.high.observe(leadership, core.term, core.raft_log.committed);
    }

    /// Tells raft-rs what is applied, as far as it can know it: up to what is committed and durable.
    fn push_applied(&mut self) {
        let log = &self.core().raft_log;
        let known = self.applied.0.min(log.committed).min(log.persisted);
        if known > log.applied {
            self.raft.advance_apply_to(known);
        }
    }
}
