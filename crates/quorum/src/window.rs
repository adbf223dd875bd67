//! The entries in memory, as raft-rs' storage.
//!
//! The disk is written behind: an entry is in the window from the moment it is handed out to be persisted.
//! raft-rs keeps track of what is durable by the tickets that come back.

use crate::entry::{LogEntry, LogMark, Recovered, raft_bytes};
use bytes::Bytes;
use gavel_types::{LogIndex, Term};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use std::cell::Cell;
use std::collections::VecDeque;

/// A contiguous run of entries after a compacted position.
pub(crate) struct Window {
    hard_state: HardState,
    conf: ConfState,
    compacted: LogMark,
    entries: VecDeque<LogEntry>,
    bytes: u64,
    offered: Option<(LogMark, Bytes)>,
    /// raft-rs asked for a snapshot that is not there. A cell, because it asks through `&self`.
    wanted: Cell<bool>,
    /// One entry at a time is given out: see [`Window::set_frugal`].
    frugal: bool,
}

impl Window {
    /// While frugal, at most one entry is given out at a time. raft-rs sends a follower that lags an append at *every*
    /// heartbeat response, and each round of read confirmation is a heartbeat: with thousands of rounds a second, a
    /// follower that comes back would be sent the same full append thousands of times, and the leader would do nothing
    /// else. The plain heartbeats, and the follower's own answers, bring it full appends.
    pub(crate) fn set_frugal(&mut self, frugal: bool) {
        self.frugal = frugal;
    }

    /// `recovered` must have been checked.
    pub(crate) fn new(recovered: Recovered, conf: ConfState) -> Window {
        let mut hard_state = HardState::default();
        hard_state.term = recovered.hard_state.term.0;
        hard_state.vote = recovered.hard_state.vote.map_or(0, |id| id.0);
        hard_state.commit = recovered.hard_state.commit.0;
        let bytes = recovered.entries.iter().map(LogEntry::cost).sum();
        Window {
            hard_state,
            conf,
            compacted: recovered.compacted,
            entries: recovered.entries.into(),
            bytes,
            offered: None,
            wanted: Cell::new(false),
            frugal: false,
        }
    }

    pub(crate) fn compacted(&self) -> LogMark {
        self.compacted
    }

    pub(crate) fn last(&self) -> LogMark {
        self.entries.back().map_or(self.compacted, LogEntry::mark)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn conf(&self) -> &ConfState {
        &self.conf
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&LogEntry> {
        let offset = index.0.checked_sub(self.compacted.index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index { Some(self.compacted.term) } else { self.get(index).map(|entry| entry.term) }
    }

    /// Appends entries, replacing what is there from the first one's index on.
    pub(crate) fn append(&mut self, entries: &[LogEntry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            self.compacted.index < first.index && first.index.0 <= self.last().index.0 + 1,
            "append at {} to a log of ({}, {}]",
            first.index,
            self.compacted.index,
            self.last().index
        );
        while self.entries.back().is_some_and(|last| last.index >= first.index) {
            self.bytes -= self.entries.pop_back().map_or(0, |entry| entry.cost());
        }
        self.bytes += entries.iter().map(LogEntry::cost).sum::<u64>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Forgets everything: the log goes on after `mark`.
    pub(crate) fn reset(&mut self, mark: LogMark) {
        self.compacted = mark;
        self.entries.clear();
        self.bytes = 0;
        self.drop_stale_offer();
    }

    /// Lets go of entries up to `up_to` while more than `retained_bytes_max` bytes are held.
    pub(crate) fn compact(&mut self, up_to: LogIndex, retained_bytes_max: u64) {
        while self.bytes > retained_bytes_max && self.entries.front().is_some_and(|first| first.index <= up_to) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= entry.cost();
                self.compacted = entry.mark();
            }
        }
        self.drop_stale_offer();
    }

    /// A snapshot from before the start of the log leads nowhere: its receiver could not go on from it.
    fn drop_stale_offer(&mut self) {
        self.offered = self.offered.take().filter(|(mark, _)| mark.index >= self.compacted.index);
    }

    pub(crate) fn offer(&mut self, mark: LogMark, data: Bytes) {
        self.offered = Some((mark, data));
        self.wanted.set(false);
    }

    /// The leadership that it was made in has ended.
    pub(crate) fn withdraw_offer(&mut self) {
        self.offered = None;
    }

    pub(crate) fn wants_snapshot(&self) -> bool {
        self.wanted.get()
    }

    /// What is wrong with the window, if anything (invariant 5).
    pub(crate) fn broken(&self) -> Option<&'static str> {
        let mut last = self.compacted;
        for entry in &self.entries {
            if entry.index.0 != last.index.0 + 1 {
                return Some("entries are not contiguous");
            }
            if entry.term < last.term {
                return Some("terms fall");
            }
            last = entry.mark();
        }
        let bytes: u64 = self.entries.iter().map(LogEntry::cost).sum();
        (bytes != self.bytes).then_some("bytes are miscounted")
    }
}

impl Storage for Window {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.compacted.index.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last().index.0 + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let first = (low - self.compacted.index.0 - 1) as usize;
        let wanted = self.entries.iter().skip(first).take(high.saturating_sub(low) as usize);
        let fitting = wanted.enumerate().take_while(|(place, entry)| {
            bytes += entry.cost();
            *place == 0 || (bytes <= bytes_max && !self.frugal)
        });
        Ok(fitting.map(|(_, entry)| entry.to_raft()).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match self.term_at(LogIndex(index)) {
            Some(term) => Ok(term.0),
            None if index < self.compacted.index.0 => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.compacted.index.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index.0)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let Some((mark, data)) = self.offered.as_ref().filter(|(mark, _)| mark.index.0 >= request_index) else {
            self.wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = mark.index.0;
        metadata.term = mark.term.0;
        metadata.set_conf_state(self.conf.clone());
        snapshot.data = raft_bytes(data.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::EntryKind;

    fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<LogEntry> {
        let entry = |index| LogEntry {
            index: LogIndex(index),
            term: Term(term),
            kind: EntryKind::Data,
            data: Bytes::from(vec![0; 100]),
        };
        range.map(entry).collect()
    }

    fn window() -> Window {
        let mut window = Window::new(Recovered::default(), ConfState::default());
        window.append(&entries(1..=10, 1));
        window
    }

    #[test]
    fn an_append_replaces_the_suffix_from_its_first_index() {
        let mut window = window();
        window.append(&entries(8..=8, 2));
        assert_eq!(window.last(), LogMark { index: LogIndex(8), term: Term(2) });
        assert_eq!(window.broken(), None);
        assert_eq!(window.term_at(LogIndex(7)), Some(Term(1)));
        assert_eq!(window.term_at(LogIndex(9)), None);
    }

    #[test]
    fn a_frugal_window_gives_out_one_entry() {
        let mut window = window();
        let given = |window: &Window| window.entries(1, 11, None, GetEntriesContext::empty(false)).unwrap().len();
        assert_eq!(given(&window), 10);
        window.set_frugal(true);
        assert_eq!(given(&window), 1);
    }

    #[test]
    fn compaction_keeps_what_fits_and_what_is_not_applied() {
        let mut window = window();
        window.compact(LogIndex(10), 5 * entries(1..=1, 1)[0].cost());
        assert_eq!(window.compacted().index, LogIndex(5));
        window.compact(LogIndex(7), 0);
        assert_eq!(window.compacted(), LogMark { index: LogIndex(7), term: Term(1) });
        assert_eq!(window.broken(), None);
        assert!(matches!(window.term(6), Err(raft::Error::Store(StorageError::Compacted))));
    }

    #[test]
    fn a_snapshot_is_served_only_while_the_log_goes_on_from_it() {
        let mut window = window();
        assert!(window.snapshot(0, 2).is_err());
        assert!(window.wants_snapshot());
        window.offer(LogMark { index: LogIndex(4), term: Term(1) }, Bytes::from_static(b"four"));
        assert!(!window.wants_snapshot());
        assert_eq!(window.snapshot(4, 2).unwrap().get_metadata().index, 4);
        assert!(window.snapshot(5, 2).is_err(), "older than what the follower has");
        window.compact(LogIndex(5), 0);
        assert!(window.snapshot(0, 2).is_err(), "older than the start of the log");
        assert!(window.wants_snapshot());
    }
}
