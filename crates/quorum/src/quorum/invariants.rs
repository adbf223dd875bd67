//! The invariants of the crate's head, as far as one replica can see them.

use super::Quorum;
use gavel_types::LogIndex;

/// The highest term and commit index seen, kept beside raft-rs' own.
pub(super) struct HighWater {
    term: u64,
    commit: u64,
    fell: bool,
    /// The term that this node leads.
    leadership: Option<u64>,
    /// What was committed when that began, or was learnt from others since: by earlier leaders.
    inherited: u64,
}

impl HighWater {
    pub(super) fn new(term: u64, commit: u64) -> HighWater {
        HighWater { term, commit, fell: false, leadership: None, inherited: 0 }
    }

    pub(super) fn leadership(&self) -> Option<u64> {
        self.leadership
    }

    /// An earlier leader has committed this, as another replica knows.
    pub(super) fn inherit(&mut self, commit: u64) {
        self.inherited = self.inherited.max(commit);
    }

    pub(super) fn observe(&mut self, leadership: Option<u64>, term: u64, commit: u64) {
        self.fell |= term < self.term || commit < self.commit;
        if self.leadership != leadership {
            self.leadership = leadership;
            // Committed under earlier leaders, whose majorities this one does not know.
            self.inherited = self.commit;
        }
        self.term = self.term.max(term);
        self.commit = self.commit.max(commit);
    }
}

impl Quorum {
    /// Checks what this replica can see of the invariants in the crate's head; an error names the number of
    /// the broken one. Costs time proportional to the window; for tests and the simulator.
    pub fn check_invariants(&self) -> Result<(), String> {
        let log = &self.core().raft_log;
        let broken = |number: u8, what: String| Err(format!("quorum invariant {number}: {what}"));
        if self.high.fell || log.committed < self.high.commit || self.core().term < self.high.term {
            return broken(1, format!("term {} or commit {} went back", self.core().term, log.committed));
        }
        if self.delivered > self.available {
            return broken(2, format!("handed out {} of {}", self.delivered, self.available));
        }
        let installing = self.applied == self.delivered;
        if !installing && self.delivered.0 > log.committed.min(log.persisted) {
            let (handed, durable) = (self.delivered, log.persisted);
            return broken(3, format!("handed out {handed}, committed {}, durable {durable}", log.committed));
        }
        let compacted = self.raft.store().compacted().index;
        if self.applied > self.delivered || compacted > self.applied.max(LogIndex(log.applied)) {
            return broken(
                4,
                format!("compacted {compacted}, applied {}, handed out {}", self.applied, self.delivered),
            );
        }
        if let Some(what) = self.raft.store().broken() {
            return broken(5, what.into());
        }
        if self.leads() && log.committed > self.high.inherited && log.committed > self.durable_on_majority() {
            return broken(6, format!("committed {}, on a majority {}", log.committed, self.durable_on_majority()));
        }
        if let Some(what) = self.outbox.broken() {
            return broken(7, what.into());
        }
        match self.reads.broken(self.leads()) {
            Some(what) => broken(8, what.into()),
            None => Ok(()),
        }
    }

    fn durable_on_majority(&self) -> u64 {
        let progress = self.core().prs();
        let matched = |id: &gavel_types::NodeId| progress.get(id.0).map_or(0, |progress| progress.matched);
        let mut durable: Vec<u64> = self.config.voters.iter().map(matched).collect();
        durable.sort_unstable_by(|one, other| other.cmp(one));
        durable[durable.len() / 2]
    }
}
