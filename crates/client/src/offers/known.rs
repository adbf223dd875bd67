//! What has become of what the plans of a generation wrote: what those behind them may stand on.

use super::{Collision, GUARDS_MAX};
use crate::pending::LostPlan;
use gavel_lease::RangeSet;
use gavel_types::{Key, KeyRange, Tid};
use gavel_wire::{Guard, Mutation, Plan, View};
use std::collections::{BTreeMap, BTreeSet};

/// Up to and without which key, and by which commit.
type Written = (Box<[u8]>, Tid);

/// The generation read the state as of `at`, and upon it what its own earlier plans wrote. Where these are committed, nobody else has changed anything up to
/// their commits: their guards have said so. So a guard of a later plan on what they wrote holds from their commit on, not from `at`.
///
/// Where they are conflicts, the state that a later plan read is none that there ever was, though nobody has changed it: its guard would
/// hold, and must not. (A link of a file that is a conflict has not counted the file up; an unlink behind it would count it down.)
#[derive(Debug, Default)]
pub(super) struct Known {
    at: Tid,
    /// What own plans have written, and their commit: from a key up to and without another. Ranges do not overlap.
    own: BTreeMap<Box<[u8]>, Written>,
    /// What plans that are conflicts would have replaced.
    failed: RangeSet,
    /// Attributes whose counters and times they would have changed, and not the firm half.
    failed_counters: BTreeSet<Key>,
}

impl Known {
    pub(super) fn new(at: Tid) -> Known {
        Known { at, ..Known::default() }
    }

    /// The guards that say: nothing that the plan read, or replaces, has been changed by anybody else.
    ///
    /// An operation asks only for what decides its answer: a write does not care which bytes it replaces. But who wrote these meanwhile was
    /// answered later than the plan, and must not lose them to it.
    pub(super) fn guards(&self, lost: &LostPlan) -> Result<Vec<Guard>, Collision> {
        if lost.guards.iter().any(|guard| self.stands_on_what_failed(guard)) {
            return Err(Collision::Depends);
        }
        let mut guards = Vec::new();
        for guard in &lost.guards {
            match guard {
                Guard::Unchanged { key, .. } => guards.push(Guard::Unchanged { key: key.clone(), at: self.since(key) }),
                Guard::Firm { key, .. } => guards.push(Guard::Firm { key: key.clone(), at: self.since(key) }),
                // It names no time: if it holds, what was read is what there is.
                Guard::Empty { .. } => guards.push(guard.clone()),
                Guard::Stable { range, .. } => self.stable(range, &mut guards),
            }
        }
        let empty: RangeSet = lost.guards.iter().filter_map(free).collect();
        for range in replaced(&lost.plan).ranges().iter().filter(|range| !empty.covers(range)) {
            self.stable(range, &mut guards);
        }
        if guards.len() > GUARDS_MAX { Err(Collision::TooMany) } else { Ok(guards) }
    }

    /// The plan is committed; `before` is the state just before it.
    pub(super) fn committed(&mut self, plan: &Plan, tid: Tid, before: &dyn View) {
        // Counters merge with others' changes, and no guard of the plan asked about those: they are looked for here. What another
        // has changed keeps its time, and fails those who built on the counters.
        for key in counted(plan) {
            let untouched = matches!(before.get(&key), Ok(Some(version)) if version.create <= self.since(&key));
            if untouched {
                self.set(&KeyRange::one(&key), tid);
            }
        }
        for range in replaced(plan).ranges() {
            self.set(range, tid);
        }
    }

    /// The plan is a conflict, or nobody knows.
    pub(super) fn failed(&mut self, plan: &Plan) {
        for range in replaced(plan).ranges() {
            self.failed.insert(range.clone());
        }
        self.failed_counters.extend(counted(plan));
    }

    fn stands_on_what_failed(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Unchanged { key, .. } => {
                self.failed.touches(&KeyRange::one(key)) || self.failed_counters.contains(key)
            }
            Guard::Firm { key, .. } => self.failed.touches(&KeyRange::one(key)),
            Guard::Empty { .. } => false,
            Guard::Stable { range, .. } => {
                self.failed.touches(range) || self.failed_counters.iter().any(|key| range.contains(key))
            }
        }
    }

    /// From when on the key is as the generation left it.
    fn since(&self, key: &Key) -> Tid {
        let upto: Box<[u8]> = key.as_bytes().into();
        match self.own.range(..=upto).next_back() {
            Some((_, (end, tid))) if **end > *key.as_bytes() => *tid,
            _ => self.at,
        }
    }

    /// Guards that say that the range is as the generation left it.
    fn stable(&self, range: &KeyRange, guards: &mut Vec<Guard>) {
        let mut from = range.start.clone();
        let mut piece = |start: Box<[u8]>, end: &[u8], at: Tid| {
            let range = KeyRange { start, end: end.into() };
            if !range.is_empty() && guards.len() <= GUARDS_MAX {
                guards.push(Guard::Stable { range, at });
            }
        };
        for (start, (end, tid)) in self.meeting(range) {
            let start = start.clone().max(range.start.clone());
            let end = end.clone().min(range.end.clone());
            piece(from, &start, self.at);
            piece(start, &end, *tid);
            from = end;
        }
        piece(from, &range.end, self.at);
    }

    fn meeting(&self, range: &KeyRange) -> impl Iterator<Item = (&Box<[u8]>, &Written)> {
        let before = self.own.range(..range.start.clone()).next_back();
        let first = before.filter(|(_, (end, _))| *end > range.start);
        let behind = (!range.is_empty()).then(|| self.own.range(range.start.clone()..range.end.clone()));
        first.into_iter().chain(behind.into_iter().flatten())
    }

    fn set(&mut self, range: &KeyRange, tid: Tid) {
        let met: Vec<_> = self.meeting(range).map(|(start, (end, tid))| (start.clone(), end.clone(), *tid)).collect();
        for (start, end, earlier) in met {
            self.own.remove(&start);
            if end > range.end {
                self.own.insert(range.end.clone(), (end, earlier));
            }
            if start < range.start {
                self.own.insert(start, (range.start.clone(), earlier));
            }
        }
        self.own.insert(range.start.clone(), (range.end.clone(), tid));
    }
}

fn free(guard: &Guard) -> Option<KeyRange> {
    match guard {
        Guard::Empty { range } => Some(range.clone()),
        _ => None,
    }
}

/// What the plan writes without regard to what is there.
fn replaced(plan: &Plan) -> RangeSet {
    let replaced = plan.mutations.iter().filter_map(|mutation| match mutation {
        Mutation::Put { key, .. } | Mutation::Delete { key } => Some(KeyRange::one(key)),
        Mutation::Carve { volume, object, start, .. } => Some(KeyRange::extents_behind(*volume, *object, *start)),
        Mutation::Orphan { volume, object } => Some(KeyRange::one(&Key::orphan(*volume, *object))),
        Mutation::Adjust { .. } | Mutation::Append { .. } => None,
    });
    replaced.collect()
}

/// The attributes that the plan adds to.
fn counted(plan: &Plan) -> BTreeSet<Key> {
    let counted = plan.mutations.iter().filter_map(|mutation| match mutation {
        Mutation::Adjust { volume, object, .. } | Mutation::Append { volume, object, .. } => {
            Some(Key::attr(*volume, *object))
        }
        _ => None,
    });
    counted.collect()
}
