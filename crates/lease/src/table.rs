//! Ranges, modes and holders.

use crate::set::RangeSet;
use gavel_types::key::KEY_BYTES_MAX;
use gavel_types::{KeyRange, ObjectId, SessionId, Tid, VolumeId};
use gavel_wire::{Mode, Want};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};

/// Most ranges behind a grant. One request may cut ranges beyond it; then nothing is granted, and nothing cut any more.
pub const LEASES_MAX: usize = 4096;
/// Most holders of all ranges together.
pub const HOLDERS_MAX: usize = 64 * 1024;
/// A range that was yielded because of a recall is not granted again for so long, in nanoseconds; one that was downgraded because of
/// one, not exclusively.
pub const COOLING_NS: u64 = 1_000_000_000;
/// Objects that were numbered together, a power of two: so far is a grant widened among those that another session is
/// making.
const NEAR: u64 = 64;
/// Most ranges that cool; the oldest is forgotten for a new one.
const COOLING_MAX: usize = 1024;

/// Which objects grants are not widened over.
#[derive(Clone, Copy, Debug)]
pub struct Existing<'a> {
    /// Nobody was given this object id yet, nor any behind it.
    pub first_free: ObjectId,
    /// Ids, from the first to the last of each run, that were given to others lately: they are making objects there, and would
    /// have to recall them one by one.
    pub theirs: &'a [(ObjectId, ObjectId)],
}

/// Why a lease was not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Another session's lease is in the way.
    Held,
    /// The range is cooling, and the want is not urgent.
    Cooling,
    /// The table is full.
    Full,
    /// The range is empty or of no volume.
    Nonsense,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Row {
    end: Box<[u8]>,
    mode: Mode,
    /// In order.
    holders: Vec<SessionId>,
}

impl Row {
    fn conflicts(&self, session: SessionId, mode: Mode) -> bool {
        let exclusive = self.mode == Mode::Exclusive || mode == Mode::Exclusive;
        exclusive && self.holders.iter().any(|holder| *holder != session)
    }
}

/// A range that others want to write, or to read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Cooling {
    range: KeyRange,
    until: Tid,
    /// What is not granted there meanwhile: [`Mode::Shared`], and so nothing; or [`Mode::Exclusive`].
    refused: Mode,
}

impl Cooling {
    fn refuses(&self, mode: Mode) -> bool {
        self.refused == Mode::Shared || mode == Mode::Exclusive
    }
}

/// The lease table. See the crate's documentation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LeaseTable {
    /// By the start of the range.
    rows: BTreeMap<Box<[u8]>, Row>,
    /// Ranges that were recalled lately; the oldest first.
    cooling: VecDeque<Cooling>,
}

impl LeaseTable {
    /// How many ranges are leased.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Is nothing leased?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The ranges with their modes and holders, in the order of their keys.
    pub fn rows(&self) -> impl Iterator<Item = (KeyRange, Mode, &[SessionId])> {
        self.rows.iter().map(|(start, row)| {
            (KeyRange { start: start.clone(), end: row.end.clone() }, row.mode, row.holders.as_slice())
        })
    }

    /// What `session` holds, in any mode.
    pub fn held_by(&self, session: SessionId) -> RangeSet {
        self.rows().filter(|(_, _, holders)| holders.contains(&session)).map(|(range, _, _)| range).collect()
    }

    /// What `session` holds exclusively.
    pub fn held_exclusively_by(&self, session: SessionId) -> RangeSet {
        let mine = |mode: Mode, holders: &[SessionId]| mode == Mode::Exclusive && holders.contains(&session);
        self.rows().filter(|(_, mode, holders)| mine(*mode, holders)).map(|(range, _, _)| range).collect()
    }

    /// Who else holds a lease that `session` would need away to get `range` in `mode`; to commit a change of it is to get it
    /// exclusively. In order, nobody twice.
    pub fn in_the_way(&self, session: SessionId, range: &KeyRange, mode: Mode) -> Vec<SessionId> {
        let rows = self.overlapping(range).filter(|(_, row)| row.conflicts(session, mode));
        let mut holders: Vec<SessionId> = rows.flat_map(|(_, row)| row.holders.iter().copied()).collect();
        holders.retain(|holder| *holder != session);
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Is there anybody in the way? As [`LeaseTable::in_the_way`], but quick.
    pub fn is_free(&self, session: SessionId, range: &KeyRange, mode: Mode) -> bool {
        !self.overlapping(range).any(|(_, row)| row.conflicts(session, mode))
    }

    /// Grants `want` at `now`: if it is urgent, as it is; otherwise widened as far as nothing conflicts, within the objects that exist.
    /// Gives the range that is held now.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub fn grant(
        &mut self,
        session: SessionId,
        want: &Want,
        now: Tid,
        existing: Existing<'_>,
    ) -> Result<KeyRange, Refused> {
        let sound = !want.range.is_empty() && is_short(&want.range);
        let Some((volume, _, _)) = crate::range::whole_objects(&want.range).filter(|_| sound) else {
            return Err(Refused::Nonsense);
        };
        while self.cooling.front().is_some_and(|cooling| cooling.until <= now) {
            self.cooling.pop_front();
        }
        if !self.is_free(session, &want.range, want.mode) {
            return Err(Refused::Held);
        }
        let cooling = self.cooling.iter().any(|one| one.refuses(want.mode) && one.range.overlaps(&want.range));
        let range = match (want.urgent, cooling) {
            (true, _) => want.range.clone(),
            (false, true) => return Err(Refused::Cooling),
            (false, false) => self.widened(session, want, volume, existing),
        };
        let before = self.rows.clone();
        self.give(session, &range, want.mode);
        let holders: usize = self.rows.values().map(|row| row.holders.len()).sum();
        if self.rows.len() > LEASES_MAX.max(before.len()) || holders > HOLDERS_MAX {
            self.rows = before;
            return Err(Refused::Full);
        }
        Ok(range)
    }

    /// `session` gives up what it holds of `ranges`. With `cool_from`, these ranges are not granted for a while after that
    /// Tid.
    ///
    /// # Errors
    /// [`Refused::Full`] if the table has no room for what would be left of ranges that are cut. Nothing has changed then; whole
    /// ranges can always be given up.
    pub fn give_up(&mut self, session: SessionId, ranges: &[KeyRange], cool_from: Option<Tid>) -> Result<(), Refused> {
        let before = (self.rows.len() > LEASES_MAX).then(|| self.rows.clone());
        for range in ranges.iter().filter(|range| !range.is_empty() && is_short(range)) {
            self.give_up_one(session, range);
        }
        if let Some(before) = before.filter(|before| self.rows.len() > before.len()) {
            self.rows = before;
            return Err(Refused::Full);
        }
        if let Some(from) = cool_from {
            self.cool(ranges, from, Mode::Shared);
        }
        Ok(())
    }

    /// What `session` holds exclusively of `ranges` it shares from now on. With `cool_from`, nobody is granted them exclusively for a
    /// while after that Tid.
    ///
    /// # Errors
    /// As [`LeaseTable::give_up`].
    pub fn downgrade(
        &mut self,
        session: SessionId,
        ranges: &[KeyRange],
        cool_from: Option<Tid>,
    ) -> Result<(), Refused> {
        let before = (self.rows.len() > LEASES_MAX).then(|| self.rows.clone());
        for range in ranges.iter().filter(|range| !range.is_empty() && is_short(range)) {
            self.cut(&range.start);
            self.cut(&range.end);
            let mine: Vec<Box<[u8]>> = self.overlapping(range).map(|(start, _)| start.clone()).collect();
            for start in mine {
                if let Some(row) = self.rows.get_mut(&start).filter(|row| row.holders == [session]) {
                    row.mode = Mode::Shared;
                }
            }
            self.join(range);
        }
        if let Some(before) = before.filter(|before| self.rows.len() > before.len()) {
            self.rows = before;
            return Err(Refused::Full);
        }
        if let Some(from) = cool_from {
            self.cool(ranges, from, Mode::Exclusive);
        }
        Ok(())
    }

    fn cool(&mut self, ranges: &[KeyRange], from: Tid, refused: Mode) {
        for range in ranges.iter().filter(|range| is_short(range)) {
            let within = |other: &Cooling| range.start <= other.range.start && other.range.end <= range.end;
            self.cooling.retain(|other| !(within(other) && (other.refused == refused || refused == Mode::Shared)));
            let until = Tid(from.0.saturating_add(COOLING_NS));
            self.cooling.push_back(Cooling { range: range.clone(), until, refused });
            if self.cooling.len() > COOLING_MAX {
                self.cooling.pop_front();
            }
        }
    }

    fn give_up_one(&mut self, session: SessionId, range: &KeyRange) {
        self.cut(&range.start);
        self.cut(&range.end);
        let starts: Vec<Box<[u8]>> = self.overlapping(range).map(|(start, _)| start.clone()).collect();
        self.drop_holder(session, &starts);
        self.join(range);
    }

    /// `session` has ended: it holds nothing.
    pub fn end(&mut self, session: SessionId) {
        let starts: Vec<Box<[u8]>> = self
            .rows
            .iter()
            .filter(|(_, row)| row.holders.contains(&session))
            .map(|(start, _)| start.clone())
            .collect();
        self.drop_holder(session, &starts);
        if !starts.is_empty() {
            self.join(&KeyRange { start: [].into(), end: [0xff; 16].into() });
        }
    }

    /// Asserts the invariants that the crate's documentation numbers.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        let rows: Vec<_> = self.rows().collect();
        for (range, mode, holders) in &rows {
            assert!(!range.is_empty(), "an empty lease {range:?}");
            assert!(holders.windows(2).all(|pair| pair[0] < pair[1]), "holders of {range:?}: {holders:?}");
            assert!(
                !holders.is_empty() && (*mode == Mode::Shared || holders.len() == 1),
                "{range:?}: {mode:?} {holders:?}"
            );
        }
        for pair in rows.windows(2) {
            let ((a, a_mode, a_holders), (b, b_mode, b_holders)) = (&pair[0], &pair[1]);
            assert!(a.end <= b.start, "leases {a:?} and {b:?} overlap");
            let differ = a_mode != b_mode || a_holders != b_holders;
            assert!(a.end < b.start || differ, "leases {a:?} and {b:?} are one");
        }
        assert!(self.cooling.len() <= COOLING_MAX);
        assert!(self.rows.values().map(|row| row.holders.len()).sum::<usize>() <= 2 * HOLDERS_MAX);
    }

    /// The rows that have a key in common with `range`.
    fn overlapping(&self, range: &KeyRange) -> impl Iterator<Item = (&Box<[u8]>, &Row)> {
        let before = self.rows.range::<[u8], _>((Unbounded, Included(&*range.start))).next_back();
        let before = before.filter(|(start, row)| row.end > range.start && *start < &range.start);
        let bounds = (range.start.clone(), range.end.clone());
        let within = (bounds.0 < bounds.1).then(|| self.rows.range(bounds.0..bounds.1));
        before.filter(|_| !range.is_empty()).into_iter().chain(within.into_iter().flatten())
    }

    /// The largest range around `want` over which nothing conflicts.
    fn widened(&self, session: SessionId, want: &Want, volume: VolumeId, existing: Existing<'_>) -> KeyRange {
        let all = KeyRange::volume(volume);
        let mut start = all.start;
        let mut end = KeyRange::object(volume, existing.first_free).start.max(want.range.end.clone());
        for (row_start, row) in self.rows.range::<[u8], _>((Unbounded, Excluded(&*want.range.start))).rev() {
            if row.conflicts(session, want.mode) {
                start = start.max(row.end.clone());
                break;
            }
            if *row_start <= start {
                break;
            }
        }
        for (row_start, row) in self.rows.range::<[u8], _>((Included(&*want.range.end), Unbounded)) {
            if *row_start >= end {
                break;
            }
            if row.conflicts(session, want.mode) {
                end = row_start.clone();
                break;
            }
        }
        for Cooling { range, .. } in self.cooling.iter().filter(|one| one.refuses(want.mode)) {
            if range.end <= want.range.start {
                start = start.max(range.end.clone());
            } else {
                end = end.min(range.start.clone()).max(want.range.end.clone());
            }
        }
        // Where others are making objects, a few around those that are wanted.
        let near = crate::range::whole_objects(&want.range).map(|(_, first, last)| {
            KeyRange::objects(volume, ObjectId(first.0 & !(NEAR - 1)), ObjectId(last.0 | (NEAR - 1)))
        });
        for theirs in existing.theirs.iter().map(|(first, last)| KeyRange::objects(volume, *first, *last)) {
            if theirs.end <= want.range.start {
                start = start.max(theirs.end);
            } else if theirs.start >= want.range.end {
                end = end.min(theirs.start);
            } else if let Some(near) = &near {
                start = start.max(near.start.clone());
                end = end.min(near.end.clone()).max(want.range.end.clone());
            }
        }
        KeyRange { start, end }
    }

    /// Makes `session` a holder of all of `range`, which nobody conflicts with.
    fn give(&mut self, session: SessionId, range: &KeyRange, mode: Mode) {
        self.cut(&range.start);
        self.cut(&range.end);
        if mode == Mode::Exclusive {
            self.rows.retain(|start, _| *start < range.start || *start >= range.end);
        }
        let mut at = range.start.clone();
        let met = self.overlapping(range).map(|(start, row)| (start.clone(), row.end.clone()));
        let met: Vec<_> = met.collect();
        for (start, end) in met.into_iter().chain([(range.end.clone(), range.end.clone())]) {
            if at < start {
                let row = Row { end: start.clone(), mode, holders: vec![session] };
                self.rows.insert(at, row);
            }
            if let Some(row) = self.rows.get_mut(&start).filter(|_| start < range.end)
                && let Err(place) = row.holders.binary_search(&session)
            {
                row.holders.insert(place, session);
            }
            at = end;
        }
        self.join(range);
    }

    /// Makes two rows of the one that `at` lies in.
    fn cut(&mut self, at: &[u8]) {
        let Some((_, row)) = self.rows.range_mut::<[u8], _>((Unbounded, Excluded(at))).next_back() else { return };
        if *row.end > *at {
            let behind = Row { end: std::mem::replace(&mut row.end, at.into()), ..row.clone() };
            self.rows.insert(at.into(), behind);
        }
    }

    fn drop_holder(&mut self, session: SessionId, starts: &[Box<[u8]>]) {
        for start in starts {
            if let Some(row) = self.rows.get_mut(start) {
                row.holders.retain(|holder| *holder != session);
                if row.holders.is_empty() {
                    self.rows.remove(start);
                }
            }
        }
    }

    /// Makes one row of neighbours that are alike, in `range` and where it touches others.
    fn join(&mut self, range: &KeyRange) {
        let first = self
            .rows
            .range::<[u8], _>((Unbounded, Excluded(&*range.start)))
            .next_back()
            .map(|(start, _)| start.clone());
        let from = first.unwrap_or_else(|| range.start.clone());
        let starts: Vec<Box<[u8]>> = self
            .rows
            .range(from..)
            .take_while(|(start, _)| **start <= range.end)
            .map(|(start, _)| start.clone())
            .collect();
        let mut last: Option<Box<[u8]>> = None;
        for start in starts {
            let joins = last.as_ref().and_then(|last| Some((self.rows.get(last)?, self.rows.get(&start)?)));
            let alike = joins.is_some_and(|(a, b)| a.end == start && a.mode == b.mode && a.holders == b.holders);
            match last.as_ref().filter(|_| alike) {
                Some(last) => {
                    if let Some(row) = self.rows.remove(&start)
                        && let Some(joined) = self.rows.get_mut(last)
                    {
                        joined.end = row.end;
                    }
                }
                None => last = Some(start),
            }
        }
    }
}

/// Are the ends of the range as long as keys can be? Longer ones would only fill the table.
fn is_short(range: &KeyRange) -> bool {
    range.start.len().max(range.end.len()) <= KEY_BYTES_MAX + 1
}

#[cfg(test)]
mod tests;
