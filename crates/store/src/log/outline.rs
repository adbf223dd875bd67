//! What the log holds, without the bytes: the rules that every batch must keep, when it is appended and
//! again when it is read back.
//!
//! Invariants:
//! 1. `compacted.index <= last.index`, and the terms of entries never fall with the index.
//! 2. The hard state's term never goes back, nor its commit; within one term a vote is never changed.
//! 3. What is committed is never overwritten with another term's entry.
//! 4. `hard_state.commit <= last.index`.

use super::{EntryId, HardState, LogBatch};
use gavel_types::{LogIndex, Term};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub(super) struct Outline {
    pub(super) hard_state: HardState,
    pub(super) compacted: EntryId,
    pub(super) last: EntryId,
    /// First index of each run of entries with one term, above `compacted`.
    runs: BTreeMap<LogIndex, Term>,
}

impl Outline {
    /// The outline that a segment's header tells of. The terms between `compacted` and `last` are not known.
    pub(super) fn resume(hard_state: HardState, compacted: EntryId, last: EntryId) -> Outline {
        Outline { hard_state, compacted, last, runs: BTreeMap::new() }
    }

    /// The term of the entry at `index`, if the log has (or has just compacted) it.
    pub(super) fn term_of(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index == self.last.index {
            return Some(self.last.term);
        }
        if index < self.compacted.index || index > self.last.index {
            return None;
        }
        self.runs.range(..=index).next_back().map(|(_, term)| *term)
    }

    /// Takes a batch in, or says which rule it breaks and changes nothing.
    pub(super) fn take(&mut self, batch: &LogBatch) -> Result<(), &'static str> {
        let mut next = Changes { compacted: self.compacted, last: self.last, restarted: false };
        if let Some(mark) = batch.snapshot_mark {
            next.restart(mark)?;
        }
        self.check_entries(batch, &mut next)?;
        let hard_state = batch.hard_state.unwrap_or(self.hard_state);
        self.check_hard_state(&hard_state, next.last)?;
        if next.restarted {
            self.runs.clear();
        }
        if let Some(first) = batch.entries.first() {
            self.runs.split_off(&first.index);
        }
        for entry in &batch.entries {
            if self.runs.values().next_back() != Some(&entry.term) {
                self.runs.insert(entry.index, entry.term);
            }
        }
        self.compacted = next.compacted;
        self.last = next.last;
        self.hard_state = hard_state;
        Ok(())
    }

    fn check_entries(&self, batch: &LogBatch, next: &mut Changes) -> Result<(), &'static str> {
        let Some(first) = batch.entries.first() else { return Ok(()) };
        if first.index <= next.compacted.index {
            return Err("an entry at or below the compacted index");
        }
        if first.index.0 > next.last.index.0.saturating_add(1) {
            return Err("an entry that leaves a gap after the last one");
        }
        let before = LogIndex(first.index.0 - 1);
        let before_term = if next.restarted { Some(next.last.term) } else { self.term_of(before) };
        let mut previous = EntryId { index: before, term: before_term.unwrap_or_default() };
        for entry in &batch.entries {
            if previous.index.0.checked_add(1) != Some(entry.index.0) {
                return Err("entries that do not follow each other");
            }
            if entry.term < previous.term {
                return Err("an entry whose term is below the one before");
            }
            let committed = !next.restarted && entry.index <= self.hard_state.commit;
            if committed && self.term_of(entry.index).is_some_and(|term| term != entry.term) {
                return Err("an entry in place of a committed one");
            }
            previous = EntryId { index: entry.index, term: entry.term };
        }
        if previous.index < self.hard_state.commit && !next.restarted {
            return Err("entries that cut off committed ones");
        }
        next.last = previous;
        Ok(())
    }

    fn check_hard_state(&self, state: &HardState, last: EntryId) -> Result<(), &'static str> {
        let old = &self.hard_state;
        if state.term < old.term || state.commit < old.commit {
            return Err("a hard state that goes back");
        }
        if state.term == old.term && old.vote.is_some() && state.vote != old.vote {
            return Err("a second vote in one term");
        }
        if state.commit > last.index {
            return Err("a commit index behind the last entry");
        }
        Ok(())
    }

    /// The log is not needed up to `mark`.
    pub(super) fn compact(&mut self, mark: EntryId) -> Result<(), &'static str> {
        if mark.index < self.compacted.index {
            return Err("a compaction that goes back");
        }
        if mark.index > self.last.index {
            return Err("a compaction behind the last entry");
        }
        if self.term_of(mark.index).is_some_and(|term| term != mark.term) {
            return Err("a compaction mark of another term than its entry");
        }
        let after = LogIndex(mark.index.0.saturating_add(1));
        let rest = self.runs.split_off(&after);
        if mark.index < self.last.index
            && let Some(term) = self.runs.values().next_back()
        {
            let term = *term;
            self.runs = rest;
            self.runs.entry(after).or_insert(term);
        } else {
            self.runs = rest;
        }
        self.compacted = mark;
        Ok(())
    }
}

/// What a batch makes of the log's ends.
struct Changes {
    compacted: EntryId,
    last: EntryId,
    restarted: bool,
}

impl Changes {
    fn restart(&mut self, mark: EntryId) -> Result<(), &'static str> {
        if mark.index < self.compacted.index || mark.term < self.compacted.term {
            return Err("a snapshot older than the compacted log");
        }
        *self = Changes { compacted: mark, last: mark, restarted: true };
        Ok(())
    }
}
