//! Which state of its source a mirror is, and was.
//!
//! Boundary rows say it, as of each state of the mirror that can be read. Both kinds of Tids only grow, so the state that is looked for is found by
//! halves. Of a volume that was demoted, what is earlier than the state that it had in common with its source is its own past.

use crate::host::node::NodeHandle;
use gavel_client::{NoState, TreeError};
use gavel_txn::{Former, VolumePast};
use gavel_types::{At, Key, Tid, VolumeId};
use gavel_wire::{Boundary, Record, View, ViewError};
use std::time::Duration;

/// Between the moment in which the past is told and that in which views see it, a thread may be put aside.
const SEEN_TRIES: u32 = 5_000;
const SEEN_PAUSE: Duration = Duration::from_micros(200);

/// Which state of the mirror is called so? None if the volume is no mirror, or if the name means the mirror's own state.
pub fn resolve(node: &NodeHandle, volume: VolumeId, at: &At) -> Option<Result<Tid, TreeError>> {
    let past = node.past.read().of(volume).filter(|past| past.is_mirror()).cloned()?;
    let (wanted, exact) = match at {
        At::Snapshot(_) => return None,
        At::Tid(tid) => (*tid, true),
        At::Time(tid) => (*tid, false),
        At::Age(ns) => (Tid(node.cluster_ns().saturating_sub(*ns)), false),
    };
    wait_for(node, past.boundary()?);
    let states = States { node, volume, past: &past };
    Some(states.find(wanted, exact))
}

/// Waits until views see `tid`, which the node's past knows of already: that takes a moment at most.
pub fn wait_for(node: &NodeHandle, tid: Tid) {
    for _ in 0..SEEN_TRIES {
        if node.tid() >= tid {
            return;
        }
        std::thread::sleep(SEEN_PAUSE);
    }
}

struct States<'a> {
    node: &'a NodeHandle,
    volume: VolumeId,
    past: &'a VolumePast,
}

impl States<'_> {
    /// The state of the mirror that is the source's as of `wanted`. If it is not `exact`, the last one that is not later.
    fn find(&self, wanted: Tid, exact: bool) -> Result<Tid, TreeError> {
        let Some(now) = self.past.mirror.as_ref().map(|mirror| mirror.boundary()) else {
            return Err(NoState::Pruned.into());
        };
        if wanted >= now.source {
            let later = exact && wanted > now.source;
            return if later { Err(NoState::NotReceived.into()) } else { Ok(now.local) };
        }
        if let Some(former) = self.former()
            && wanted < former.state
        {
            return self.find_own(former, wanted, exact);
        }
        // What is behind the boundary is the boundary's, or half of a step.
        let (first, last) = (self.past.horizon.max(self.since()), now.local);
        if first <= last && self.look(first)?.source <= wanted {
            let (mut low, mut high) = (first.0, last.0);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                match self.look(Tid(middle))?.source <= wanted {
                    true => low = middle,
                    false => high = middle - 1,
                }
            }
            let (found, next) = (self.look(Tid(low))?, self.look(Tid(low + 1))?);
            if found.source == Tid::ZERO || exact && found.source != wanted && !next.single {
                return Err(none_such(found).into());
            }
            return self.shown(found, Tid(low));
        }
        self.find_kept(wanted, exact)
    }

    /// What the volume was before it was demoted.
    fn former(&self) -> Option<Former> {
        self.past.mirror.as_ref()?.former
    }

    /// Since when rows say which state of the source this is.
    fn since(&self) -> Tid {
        self.former().map_or(self.past.made, |former| former.at)
    }

    /// A state that the volume had before it was demoted, and that its source has had.
    fn find_own(&self, former: Former, wanted: Tid, exact: bool) -> Result<Tid, TreeError> {
        if exact && wanted > former.own {
            return Err(NoState::NeverReceived.into());
        }
        let own = wanted.min(former.own);
        let state = if exact { Some(own) } else { self.past.readable_at_or_before(own) };
        let state = match state {
            Some(state) if self.past.can_read(state) => state,
            _ if own < self.past.made => return Err(NoState::BeforeVolume.into()),
            _ => return Err(NoState::Pruned.into()),
        };
        // It may have been a mirror then, too, and within a step.
        let then = self.look(state)?;
        match then.is_within_step() {
            false => Ok(state),
            true if !exact && self.past.can_read(then.local) => Ok(then.local),
            true => Err(NoState::NeverReceived.into()),
        }
    }

    /// The same, among the states before the horizon.
    fn find_kept(&self, wanted: Tid, exact: bool) -> Result<Tid, TreeError> {
        let kept = &self.past.kept[self.past.kept.partition_point(|kept| *kept < self.since())..];
        let (mut low, mut high) = (0, kept.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.look(kept[middle])?.source <= wanted {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        for kept in kept[..low].iter().rev() {
            let found = self.look(*kept)?;
            if found.source == Tid::ZERO {
                return Err(none_such(found).into());
            }
            // What came next may have been pruned.
            if exact && found.source != wanted {
                return Err(NoState::Pruned.into());
            }
            match self.shown(found, *kept) {
                Err(TreeError::NoState(NoState::Pruned)) => {}
                shown => return shown,
            }
        }
        // The state that it had in common with its source is its own.
        match self.former() {
            Some(former) if (!exact || wanted == former.state) && self.past.can_read(former.own) => Ok(former.own),
            _ => Err(NoState::Pruned.into()),
        }
    }

    /// A state that shows a boundary, which is the one as of `seen`.
    fn shown(&self, boundary: Boundary, seen: Tid) -> Result<Tid, TreeError> {
        let horizon = self.past.horizon;
        let is_that = |tid: Tid| -> Result<bool, TreeError> {
            let there = self.look(tid)?;
            Ok(there.source == boundary.source && !there.is_within_step())
        };
        if self.past.can_read(boundary.local) {
            Ok(boundary.local)
        } else if horizon > boundary.local && horizon <= seen && is_that(horizon)? {
            Ok(horizon)
        } else if self.past.can_read(seen) && is_that(seen)? {
            Ok(seen)
        } else {
            Err(NoState::Pruned.into())
        }
    }

    /// Which state of the source the mirror was as of `tid`.
    fn look(&self, tid: Tid) -> Result<Boundary, TreeError> {
        let found: Result<_, ViewError> = self.node.records.at(tid).get(&Key::boundary(self.volume));
        Ok(match found?.map(|version| version.record) {
            Some(Record::Boundary(boundary)) => boundary,
            _ => Boundary { source: Tid::ZERO, local: self.past.made, to: Tid::ZERO, single: false },
        })
    }
}

/// There is no such state: the mirror was empty then, or passed it by.
fn none_such(found: Boundary) -> NoState {
    if found.source == Tid::ZERO { NoState::BeforeVolume } else { NoState::NeverReceived }
}
