//! What the owner is asked to do.

use super::Quorum;
use crate::entry::{HardState, LogEntry, LogMark};
use crate::reads::ROUNDS_MAX;
use crate::ready::{Persist, Ready, Role, RoleChange};
use gavel_types::{LogIndex, NodeId, Term};
use raft::StateRole;
use raft::eraftpb;

/// Bytes of entries that one `take_ready` hands out (one entry at least).
const COMMITTED_BYTES_MAX: u64 = 16 << 20;

impl Quorum {
    /// Whether `take_ready` has something to give.
    pub fn has_ready(&self) -> bool {
        self.opening.is_some()
            || self.raft.has_ready()
            || self.outbox.has_released()
            || self.reads.has_outcome()
            || self.can_start_round()
            || self.may_hand_out()
            || self.held.as_ref().is_some_and(|held| !held.shown)
            || self.reported != Some(self.role_now())
    }

    /// The effects of what came in so far. Call until `has_ready` is false.
    pub fn take_ready(&mut self) -> Ready {
        let mut ready = Ready::default();
        if self.can_start_round() {
            let context = self.reads.start_round(self.lease.now);
            self.raft.read_index(context.to_vec());
        }
        ready.persist = self.opening.take();
        // The opening write stands alone: it comes before anything that raft-rs wants written.
        if ready.persist.is_none() && self.raft.has_ready() {
            self.take_from_raft(&mut ready);
        }
        self.settle();
        ready.committed = self.hand_out();
        ready.send = self.outbox.take_released();
        ready.reads = self.reads.take_confirmed();
        ready.failed_reads = self.reads.take_failed();
        ready.pending_snapshot = self.show_snapshot();
        let role = self.role_now();
        if self.reported != Some(role) {
            self.reported = Some(role);
            ready.role = Some(role);
        }
        ready
    }

    /// A leader that has not committed in its term does not know what is committed: its reads wait.
    fn can_start_round(&self) -> bool {
        self.reads.has_waiting()
            && self.leads()
            && self.core().commit_to_current_term()
            && self.core().pending_read_count() < ROUNDS_MAX
    }

    fn take_from_raft(&mut self, ready: &mut Ready) {
        let mut raw = self.raft.ready();
        let (now, after) = (raw.take_messages(), raw.take_persisted_messages());
        for state in raw.take_read_states() {
            let began = self.reads.on_confirmed(&state.request_ctx, LogIndex(state.index));
            began.into_iter().for_each(|began| self.lease.on_round(began));
        }
        ready.persist = self.take_write(&mut raw);
        if let Some(last) = raw.take_committed_entries().last() {
            self.available = self.available.max(LogIndex(last.index));
        }
        // A lone voter has no other disk to lean on, so its messages to learners are promises, too.
        let alone = self.config.voters.len() == 1;
        let append_bytes_max = self.config.max_message_bytes;
        let at = self.lease.now;
        for (message, waits) in
            now.into_iter().map(|message| (message, alone)).chain(after.into_iter().map(|message| (message, true)))
        {
            if !self.acknowledged.says_again(at, &message) {
                self.outbox.push(message, waits, append_bytes_max);
            }
        }
        self.raft.advance_append_async(raw);
        if !self.outbox.is_writing() {
            self.raft.on_persist_ready(u64::MAX);
        }
    }

    fn take_write(&mut self, raw: &mut raft::Ready) -> Option<Persist> {
        let append: Vec<LogEntry> = raw.take_entries().into_iter().map(LogEntry::from_raft).collect();
        let hard_state = raw.hs().map(our_hard_state);
        let metadata = raw.snapshot().get_metadata();
        let mark = LogMark { index: LogIndex(metadata.index), term: Term(metadata.term) };
        let snapshot = Some(mark).filter(|mark| mark.index.0 > 0);
        if let Some(mark) = snapshot {
            self.raft.mut_store().reset(mark);
        }
        self.raft.mut_store().append(&append);
        if hard_state.is_none() && snapshot.is_none() && append.is_empty() {
            return None;
        }
        let must_sync = raw.must_sync();
        let ticket = self.outbox.issue(Some(raw.number()).filter(|_| must_sync));
        Some(Persist { ticket, hard_state, snapshot, append, must_sync })
    }

    fn may_hand_out(&self) -> bool {
        self.held.is_none() && self.delivered < self.available
    }

    /// Entries come from the window and not from raft-rs, so that they share their bytes, and so that they
    /// can wait while a snapshot is held.
    fn hand_out(&mut self) -> Vec<LogEntry> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while self.may_hand_out() {
            let next = LogIndex(self.delivered.0 + 1);
            let entry = self.raft.store().get(next).expect("entries stay in the window until they are applied");
            bytes += entry.cost();
            if bytes > COMMITTED_BYTES_MAX && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
            self.delivered = next;
        }
        entries
    }

    pub(super) fn role_now(&self) -> RoleChange {
        let role = match self.core().state {
            StateRole::Leader => Role::Leader,
            StateRole::Follower => Role::Follower,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
        };
        RoleChange { role, leader: self.leader(), term: Term(self.core().term) }
    }
}

fn our_hard_state(state: &eraftpb::HardState) -> HardState {
    HardState {
        term: Term(state.term),
        vote: Some(NodeId(state.vote)).filter(|id| id.0 != 0),
        commit: LogIndex(state.commit),
    }
}
