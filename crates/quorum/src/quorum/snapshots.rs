//! Snapshots: offered by the owner, asked for by raft-rs, held until the records are here.

use super::Quorum;
use crate::codec::{SNAPSHOT_BYTES_MAX, sender, snapshot_data};
use crate::entry::LogMark;
use crate::error::{OfferError, Refused};
use crate::ready::PendingSnapshot;
use bytes::Bytes;
use gavel_types::{LogIndex, NodeId, Term};
use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{ProgressState, SnapshotStatus, StateRole};
use std::collections::BTreeMap;

/// A snapshot that was sent is sent again if its receiver shows no progress for this many election
/// timeouts: the message may be lost, and raft-rs sends that follower nothing until it hears of it.
const SNAPSHOT_RETRY_ELECTIONS: u64 = 5;

/// A snapshot message that raft-rs has not seen yet.
pub(super) struct HeldSnapshot {
    message: Message,
    /// The owner has been told of it.
    pub(super) shown: bool,
}

impl HeldSnapshot {
    fn mark(&self) -> LogMark {
        mark_of(&self.message)
    }
}

fn mark_of(message: &Message) -> LogMark {
    let metadata = message.get_snapshot().get_metadata();
    LogMark { index: LogIndex(metadata.index), term: Term(metadata.term) }
}

/// Since when (in ticks) a leader waits for followers to install snapshots.
#[derive(Default)]
pub(super) struct Transfers(BTreeMap<NodeId, u64>);

impl Transfers {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Quorum {
    /// A follower needs a snapshot and there is none to give it: `offer_snapshot` at the applied index.
    pub fn wants_snapshot(&self) -> bool {
        self.leads() && self.raft.store().wants_snapshot()
    }

    /// Gives what a follower that is too far behind is to be told: an opaque text (at most 16 MiB) that
    /// stands for the state at `index`, which must be applied and not before the start of the log. Kept
    /// until the log is compacted past it, or the leadership ends.
    pub fn offer_snapshot(&mut self, index: LogIndex, data: Bytes) -> Result<(), OfferError> {
        if data.len() > SNAPSHOT_BYTES_MAX {
            return Err(OfferError::Size { bytes: data.len(), max: SNAPSHOT_BYTES_MAX });
        }
        let first = self.raft.store().compacted().index;
        let applied = LogIndex(self.core().raft_log.applied);
        match self.raft.store().term_at(index) {
            Some(term) if index <= applied && index.0 > 0 => {
                self.raft.mut_store().offer(LogMark { index, term }, data);
                Ok(())
            }
            _ => Err(OfferError::Position { index, first, applied }),
        }
    }

    /// Asks the leader for a snapshot although the log is whole, because the store is not. True if the
    /// request was sent: there must be a leader, of the same term as the last entry.
    pub fn request_snapshot(&mut self) -> bool {
        let requested = self.raft.request_snapshot().is_ok();
        self.settle();
        requested
    }

    /// A request ends with the term of the leader that was asked. The next one may not have the entry that it names, and it can't
    /// be sent any as long as the request stands: raft-rs answers each append with it.
    pub(super) fn end_request(&mut self, message: &Message) {
        if message.term > self.core().term && message.get_msg_type() != MessageType::MsgRequestPreVote {
            self.raft.raft.pending_request_snapshot = raft::INVALID_INDEX;
        }
    }

    /// How sending a snapshot to `node` went. Report a failure as soon as it is known; report success only
    /// for a snapshot that is installed, not for one that was merely received.
    pub fn report_snapshot(&mut self, node: NodeId, ok: bool) {
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raft.report_snapshot(node.0, status);
        self.transfers.0.remove(&node);
        self.settle();
    }

    /// The records are at the held snapshot's position, and durable there: the log restarts after it. None
    /// if no snapshot is held. (If the log restarted after a position that the store could lose again, a
    /// crash would leave entries that are in neither: `StartError::StoreBehindLog`.)
    ///
    /// What is installed is committed, whatever became of the leader that sent it; so this succeeds in any
    /// role and term. Entries up to the position are not handed out any more.
    pub fn install_snapshot(&mut self) -> Option<LogMark> {
        let mut held = self.held.take()?;
        let mark = held.mark();
        if held.message.term >= self.core().term {
            self.step(held.message);
        } else if !self.leads() {
            self.restore_past_its_term(&mut held.message);
        }
        // A leader has been elected since: its log contains the position, and commits it by itself.
        self.available = self.available.max(mark.index);
        self.delivered = self.delivered.max(mark.index);
        self.applied = self.applied.max(mark.index);
        self.push_applied();
        self.settle();
        Some(mark)
    }

    /// raft-rs ignores messages of an old term; what the snapshot stands for is committed all the same.
    fn restore_past_its_term(&mut self, message: &mut Message) {
        let core = &mut self.raft.raft;
        if core.state != StateRole::Follower {
            core.become_follower(core.term, raft::INVALID_ID);
        }
        core.restore(message.take_snapshot());
    }

    /// The records could not be brought to the held snapshot's position. The leader will send another.
    pub fn drop_snapshot(&mut self) {
        self.held = None;
    }

    pub(super) fn hold_snapshot(&mut self, message: Message) -> Result<(), Refused> {
        let theirs = message.get_snapshot().get_metadata().get_conf_state();
        if !same_members(theirs, self.raft.store().conf()) {
            return Err(Refused::Malformed("snapshot of a group with other members"));
        }
        let mark = mark_of(&message);
        let (log, requested) = (&self.core().raft_log, self.core().pending_request_snapshot);
        if mark.index.0 < requested {
            // From before the request: the log would lose entries behind it that are acknowledged.
            return Ok(());
        }
        let has_it = log.match_term(mark.index.0, mark.term.0);
        if requested == 0 && (mark.index.0 <= log.committed || has_it) {
            // No records are needed: raft-rs commits up to it, or answers that it is further.
            self.step(message);
        } else {
            self.held = Some(HeldSnapshot { message, shown: false });
        }
        Ok(())
    }

    pub(super) fn show_snapshot(&mut self) -> Option<PendingSnapshot> {
        let held = self.held.as_mut().filter(|held| !held.shown)?;
        held.shown = true;
        Some(PendingSnapshot { from: sender(&held.message), mark: held.mark(), data: snapshot_data(&held.message) })
    }

    pub(super) fn retry_lost_snapshots(&mut self) {
        if !self.leads() {
            return;
        }
        let (now, patience) = (self.pace.ticks, SNAPSHOT_RETRY_ELECTIONS * self.config.election_ticks() as u64);
        let members: Vec<NodeId> = self.config.members().collect();
        for node in members {
            let progress = self.core().prs().get(node.0);
            if progress.is_none_or(|progress| progress.state != ProgressState::Snapshot) {
                self.transfers.0.remove(&node);
            } else if now - *self.transfers.0.entry(node).or_insert(now) > patience {
                self.report_snapshot(node, false);
            }
        }
    }
}

fn same_members(one: &ConfState, other: &ConfState) -> bool {
    let sorted = |members: &[u64]| {
        let mut members = members.to_vec();
        members.sort_unstable();
        members
    };
    sorted(one.get_voters()) == sorted(other.get_voters()) && sorted(one.get_learners()) == sorted(other.get_learners())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::entry::Recovered;
    use crate::ready::Role;
    use gavel_types::Moment;
    use raft::eraftpb::{Entry, Snapshot};

    fn message(kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.to, message.from, message.term) = (1, 2, 1);
        message
    }

    fn snapshot(quorum: &Quorum, index: u64) -> Message {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, 1);
        metadata.set_conf_state(quorum.raft.store().conf().clone());
        let mut message = message(MessageType::MsgSnapshot);
        message.set_snapshot(snapshot);
        message
    }

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
        range.map(|index| Entry { index, term, data: vec![1].into(), ..Entry::default() }).collect()
    }

    /// Its log has entries up to 10, all acknowledged; its records are not whole, and it has asked for a snapshot.
    fn requesting() -> Quorum {
        let config = Config::new(NodeId(1), [1, 2, 3].map(NodeId).into(), 1);
        let mut quorum = Quorum::new(config, Recovered::default(), Moment(0)).expect("a fresh replica");
        let mut append = message(MessageType::MsgAppend);
        append.set_entries(entries(1..=10, 1).into());
        quorum.step(append);
        let written = quorum.take_ready().persist.expect("ten entries to write").ticket;
        quorum.on_persisted(written);
        assert!(quorum.request_snapshot());
        quorum
    }

    #[test]
    fn a_snapshot_from_before_the_request_takes_no_acknowledged_entry_away() {
        let mut quorum = requesting();
        quorum.hold_snapshot(snapshot(&quorum, 5)).expect("of this group");
        assert!(quorum.held.is_none());
        quorum.hold_snapshot(snapshot(&quorum, 10)).expect("of this group");
        assert!(quorum.held.is_some());
    }

    /// It has an entry in place of the last one that was asked about, and could send nothing else.
    #[test]
    fn the_next_leader_is_not_asked_for_what_it_may_not_have() {
        let mut quorum = requesting();
        let mut append = message(MessageType::MsgAppend);
        (append.from, append.term, append.index, append.log_term) = (3, 2, 9, 1);
        append.set_entries(entries(10..=10, 2).into());
        quorum.step(append);
        assert_eq!(quorum.status().last, LogIndex(10));
        assert_eq!(quorum.core().raft_log.last_term(), 2, "it takes what the new leader sends");
        assert!(quorum.request_snapshot(), "and asks anew");
    }

    /// Its leader has a wrong clock, and would hand over to it again and again.
    #[test]
    fn who_lacks_records_takes_no_leadership_that_is_handed_over() {
        let mut quorum = requesting();
        let call = crate::codec::encode(message(MessageType::MsgTimeoutNow), u64::MAX).remove(0).into();
        quorum.set_lacking(true);
        quorum.on_message(Moment(0), NodeId(2), &call).expect("of its leader");
        assert_eq!(quorum.status().role.role, Role::Follower);
        quorum.set_lacking(false);
        quorum.on_message(Moment(0), NodeId(2), &call).expect("of its leader");
        assert_eq!(quorum.status().role.role, Role::Candidate);
    }
}
