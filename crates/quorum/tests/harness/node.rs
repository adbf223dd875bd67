//! One node: the state machine, its log's disk and its store, with what a crash leaves of them.

use gavel_quorum::{Config, LogMark, PendingSnapshot, Persist, Quorum, Recovered, Status};
use gavel_types::{LogIndex, Moment, Term};
use std::collections::{BTreeMap, VecDeque};

pub struct Node {
    pub config: Config,
    pub quorum: Option<Quorum>,
    /// Counts starts, so that events of an earlier life are ignored.
    pub life: u64,
    /// What the log's disk holds for certain.
    pub durable: Recovered,
    pub unsynced: VecDeque<Persist>,
    /// What was handed out, applied, and flushed to the store's disk.
    pub delivered: LogMark,
    pub applied: LogMark,
    pub flushed: LogMark,
    pub marks: BTreeMap<LogIndex, Term>,
    pub fetching: Option<PendingSnapshot>,
}

impl Node {
    pub fn new(config: Config) -> Node {
        Node {
            config,
            quorum: None,
            life: 0,
            durable: Recovered::default(),
            unsynced: VecDeque::new(),
            delivered: LogMark::default(),
            applied: LogMark::default(),
            flushed: LogMark::default(),
            marks: BTreeMap::new(),
            fetching: None,
        }
    }

    pub fn start(&mut self, now: Moment) {
        self.life += 1;
        let recovered = Recovered { applied: self.flushed, ..self.durable.clone() };
        self.quorum = Some(Quorum::new(self.config.clone(), recovered, now).expect("an honest disk is accepted"));
        self.delivered = self.flushed;
        self.applied = self.flushed;
    }

    /// Of the unsynced writes a random prefix survives.
    pub fn crash(&mut self, survivors: u64) {
        let survivors = survivors as usize % (self.unsynced.len() + 1);
        let writes: Vec<Persist> = self.unsynced.drain(..).take(survivors).collect();
        writes.into_iter().for_each(|write| self.write(write));
        self.life += 1;
        self.quorum = None;
        self.fetching = None;
        self.marks.clear();
    }

    pub fn status(&self) -> Option<Status> {
        self.quorum.as_ref().map(Quorum::status)
    }

    pub fn on_durable(&mut self, ticket: u64) {
        while self.unsynced.front().is_some_and(|write| write.ticket <= ticket) {
            let write = self.unsynced.pop_front().expect("just seen");
            self.write(write);
        }
        self.quorum.as_mut().expect("alive").on_persisted(ticket);
    }

    fn write(&mut self, write: Persist) {
        let durable = &mut self.durable;
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= durable.hard_state.term, "terms never go back");
            durable.hard_state = hard_state;
        }
        if let Some(mark) = write.snapshot {
            durable.compacted = mark;
            durable.entries.clear();
        }
        if let Some(first) = write.append.first() {
            durable.entries.retain(|entry| entry.index < first.index);
            durable.entries.extend(write.append);
        }
    }

    pub fn apply(&mut self, index: LogIndex) {
        if index > self.applied.index {
            let term = self.marks[&index];
            self.applied = LogMark { index, term };
            self.quorum.as_mut().expect("alive").on_applied(index);
        }
    }

    pub fn flush(&mut self) {
        self.flushed = self.applied;
        let quorum = self.quorum.as_mut().expect("alive");
        let first = quorum.compact(self.flushed.index);
        let compacted = quorum.status().compacted;
        assert_eq!(compacted.index.0 + 1, first.0);
        // The disk trims only what it has; a restart of the log at a snapshot is yet to be written.
        let durable = &mut self.durable;
        if durable.entries.iter().any(|entry| entry.mark() == compacted) {
            durable.entries.retain(|entry| entry.index >= first);
            durable.compacted = compacted;
        }
    }

    /// The records are at the pending snapshot's position (unless the fetch failed), and durable there;
    /// whether it was installed. A crash may come before the log hears of it.
    pub fn finish_fetch(&mut self, fails: bool, crashes: bool) -> bool {
        let Some(pending) = self.fetching.take() else { return false };
        let quorum = self.quorum.as_mut().expect("alive");
        if fails {
            quorum.drop_snapshot();
            return false;
        }
        assert_eq!(pending.data, format!("state at {}", pending.mark.index));
        assert!(pending.mark.index > self.delivered.index, "a snapshot of the past was offered");
        (self.applied, self.delivered) = (pending.mark, pending.mark);
        self.marks.insert(pending.mark.index, pending.mark.term);
        self.flushed = self.applied;
        if crashes {
            return false;
        }
        assert_eq!(quorum.install_snapshot(), Some(pending.mark));
        true
    }
}
