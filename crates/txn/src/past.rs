//! Which past states of the volumes can be read, and the names that some of them have: a part of the replicated state.
//!
//! `docs/protocols/history.md` has the whole of it.
//!
//! Invariants (checked by [`Past::check_invariants`]):
//! 1. The state of a snapshot, and one that a session has pinned, can be read: it is not before its volume, and not later than the
//!    last transaction.
//! 2. There are [`SNAPSHOTS_MAX`] snapshots at most, each with a name that a snapshot may have, and [`PINS_MAX`] pins.
//! 3. A horizon is not before its volume, and not later than the last transaction; the kept states are before it, in order,
//!    and [`KEPT_MAX`] at most.

use crate::prune::Readable;
use crate::prune_step::Pass;
use gavel_types::at::is_snapshot_name;
use gavel_types::limits::{NOTE_BYTES_MAX, PINS_MAX, SNAPSHOTS_MAX};
use gavel_types::retention::{POLICY_STATES_MAX, RULES_MAX};
use gavel_types::{KeyRange, Retention, SessionId, Tid, VolumeId};
use gavel_wire::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most states before a horizon that stay.
pub const KEPT_MAX: usize = SNAPSHOTS_MAX + PINS_MAX + POLICY_STATES_MAX as usize + RULES_MAX;

/// The past of all volumes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Past {
    volumes: BTreeMap<VolumeId, VolumePast>,
    /// Grows with each change, but for where sweeps have come to.
    revision: u64,
    /// Sweeps that were applied.
    steps: u64,
    /// Those of them that removed something.
    sweeps: u64,
}

/// The past of one volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumePast {
    /// When the volume was made: it has no state before.
    pub made: Tid,
    /// Names for states.
    pub snapshots: BTreeMap<Box<str>, Snapshot>,
    /// Which states are to stay.
    pub policy: Retention,
    /// Every state from here on is whole.
    pub horizon: Tid,
    /// The states before the horizon that are whole, too, the oldest first.
    pub kept: Vec<Tid>,
    /// States that sessions need: they are whole.
    pub pins: BTreeMap<Tid, BTreeSet<SessionId>>,
    /// Where the sweep has come to that removes what horizon and kept states do not show; none if all of it is gone.
    pub pass: Option<Pass>,
}

/// A name for a state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The state.
    pub tid: Tid,
    /// When it got its name.
    pub named: Tid,
    /// What for.
    pub note: Box<str>,
}

impl Past {
    /// A volume's.
    pub fn of(&self, volume: VolumeId) -> Option<&VolumePast> {
        self.volumes.get(&volume)
    }

    /// How often this has changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All of them.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeId, &VolumePast)> {
        self.volumes.iter().map(|(volume, past)| (*volume, past))
    }

    /// How many sweeps were applied, whether they found something to remove or not.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// How many sweeps have removed something. Replicas whose records were gone over by equally many were gone over by the same ones.
    pub fn sweeps(&self) -> u64 {
        self.sweeps
    }

    /// Can it be told what has changed in `range` after `at`? Not if some of it was pruned.
    pub fn knows_changes(&self, range: &KeyRange, at: Tid) -> bool {
        let pruned = |(volume, past): (VolumeId, &VolumePast)| {
            past.horizon > past.made && at < past.horizon && KeyRange::volume(volume).overlaps(range)
        };
        !self.volumes().any(pruned)
    }

    /// A volume was made at `tid`.
    pub(crate) fn begin(&mut self, tid: Tid, volume: VolumeId) {
        let past = VolumePast {
            made: tid,
            snapshots: BTreeMap::new(),
            policy: Retention::EVERYTHING,
            horizon: tid,
            kept: Vec::new(),
            pins: BTreeMap::new(),
            pass: None,
        };
        self.volumes.insert(volume, past);
        self.revision += 1;
    }

    pub(crate) fn set_policy(&mut self, volume: VolumeId, policy: &Retention) -> Result<(), Refusal> {
        if !policy.is_bounded() {
            return Err(Refusal::BadPolicy);
        }
        self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?.policy = policy.clone();
        self.revision += 1;
        Ok(())
    }

    /// States go, as the volume's policy says if it is `now`. If some do, a sweep begins.
    pub(crate) fn prune(&mut self, now: Tid, volume: VolumeId) -> Result<(), Refusal> {
        let past = self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?;
        if let Some((horizon, kept)) = past.plan(now)
            && (horizon, &kept) != (past.horizon, &past.kept)
        {
            past.horizon = horizon;
            past.kept = kept;
            past.pass = Some(Pass::BEGIN);
            self.revision += 1;
        }
        Ok(())
    }

    /// A sweep was applied.
    pub(crate) fn swept(&mut self, volume: VolumeId, next: Option<Pass>, removed: bool) {
        let Some(past) = self.volumes.get_mut(&volume) else { return };
        self.revision += u64::from(next.is_none());
        self.steps += 1;
        self.sweeps += u64::from(removed);
        past.pass = next;
    }

    /// `session` needs the state as of `at`; `tid` is now.
    pub(crate) fn pin(&mut self, tid: Tid, volume: VolumeId, at: Tid, session: SessionId) -> Result<(), Refusal> {
        let full = self.pins() >= PINS_MAX;
        let past = self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?;
        if at > tid || !past.can_read(at) {
            return Err(Refusal::Pruned);
        }
        let known = past.pins.get(&at).is_some_and(|sessions| sessions.contains(&session));
        if full && !known {
            return Err(Refusal::Full);
        }
        past.pins.entry(at).or_default().insert(session);
        self.revision += 1;
        Ok(())
    }

    pub(crate) fn unpin(&mut self, volume: VolumeId, at: Tid, session: SessionId) -> Result<(), Refusal> {
        let past = self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?;
        let sessions = past.pins.get_mut(&at).ok_or(Refusal::Missing)?;
        if !sessions.remove(&session) {
            return Err(Refusal::Missing);
        }
        past.pins.retain(|_, sessions| !sessions.is_empty());
        self.revision += 1;
        Ok(())
    }

    /// `session` has ended: it needs nothing any more.
    pub(crate) fn unpin_all(&mut self, session: SessionId) {
        let before = self.pins();
        for past in self.volumes.values_mut() {
            past.pins.values_mut().for_each(|sessions| {
                sessions.remove(&session);
            });
            past.pins.retain(|_, sessions| !sessions.is_empty());
        }
        self.revision += u64::from(self.pins() != before);
    }

    /// The sessions that have pinned a state.
    pub(crate) fn pinning(&self) -> impl Iterator<Item = SessionId> {
        self.volumes.values().flat_map(|past| past.pins.values().flatten().copied())
    }

    fn pins(&self) -> usize {
        self.volumes.values().flat_map(|past| past.pins.values()).map(BTreeSet::len).sum()
    }

    fn count(&self) -> usize {
        self.volumes.values().map(|past| past.snapshots.len()).sum()
    }

    /// Names the state as of `at`, or that of `tid`, which is now.
    pub(crate) fn name(
        &mut self,
        tid: Tid,
        volume: VolumeId,
        name: &str,
        note: &str,
        at: Option<Tid>,
    ) -> Result<(), Refusal> {
        if !is_snapshot_name(name) || note.len() > NOTE_BYTES_MAX {
            return Err(Refusal::BadName);
        }
        let full = self.count() >= SNAPSHOTS_MAX;
        let past = self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?;
        if past.snapshots.contains_key(name) {
            return Err(Refusal::Exists);
        }
        if full {
            return Err(Refusal::Full);
        }
        let state = at.unwrap_or(tid);
        if state > tid || !past.can_read(state) {
            return Err(Refusal::Pruned);
        }
        past.snapshots.insert(name.into(), Snapshot { tid: state, named: tid, note: note.into() });
        self.revision += 1;
        Ok(())
    }

    pub(crate) fn drop_name(&mut self, volume: VolumeId, name: &str) -> Result<(), Refusal> {
        let past = self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?;
        past.snapshots.remove(name).ok_or(Refusal::Missing)?;
        self.revision += 1;
        Ok(())
    }

    pub(crate) fn rename(&mut self, volume: VolumeId, from: &str, to: &str) -> Result<(), Refusal> {
        if !is_snapshot_name(to) {
            return Err(Refusal::BadName);
        }
        let past = self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?;
        if !past.snapshots.contains_key(from) {
            return Err(Refusal::Missing);
        }
        if past.snapshots.contains_key(to) {
            return Err(Refusal::Exists);
        }
        if let Some(snapshot) = past.snapshots.remove(from) {
            past.snapshots.insert(to.into(), snapshot);
            self.revision += 1;
        }
        Ok(())
    }

    /// Asserts the invariants that the module's documentation numbers; `tid` is the last transaction.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self, tid: Tid) {
        assert!(self.count() <= SNAPSHOTS_MAX, "{} snapshots", self.count());
        assert!(self.pins() <= PINS_MAX, "{} pins", self.pins());
        for past in self.volumes.values() {
            for (name, snapshot) in &past.snapshots {
                assert!(is_snapshot_name(name), "a snapshot is called {name:?}");
                assert!(past.can_read(snapshot.tid) && snapshot.tid <= tid, "snapshot {name} is of no state");
            }
            for (at, sessions) in &past.pins {
                assert!(past.can_read(*at) && *at <= tid && !sessions.is_empty(), "the pin of {at} holds nothing");
            }
            assert!(past.made <= past.horizon && past.horizon <= tid, "the horizon {} is no state", past.horizon);
            assert!(past.kept.is_sorted_by(|a, b| a < b) && past.kept.len() <= KEPT_MAX, "kept: {:?}", past.kept);
            let kept = past.kept.first().is_none_or(|first| *first >= past.made);
            assert!(kept && past.kept.last().is_none_or(|last| *last < past.horizon), "kept: {:?}", past.kept);
        }
    }
}

impl VolumePast {
    /// Which states can be read.
    pub fn readable(&self) -> Readable<'_> {
        Readable { horizon: self.horizon, kept: &self.kept }
    }

    /// Can the state as of `tid` be read, if it has come?
    pub fn can_read(&self, tid: Tid) -> bool {
        self.readable().has(tid)
    }

    /// The newest state that can be read and is not later than `tid`.
    pub fn readable_at_or_before(&self, tid: Tid) -> Option<Tid> {
        self.readable().at_or_before(tid)
    }

    /// Horizon and kept states as the policy would have them if it is `now`; none if everything stays.
    pub fn plan(&self, now: Tid) -> Option<(Tid, Vec<Tid>)> {
        self.plan_of(&self.policy, now)
    }

    /// The same, of another policy.
    pub fn plan_of(&self, policy: &Retention, now: Tid) -> Option<(Tid, Vec<Tid>)> {
        let horizon = policy.horizon(now)?.max(self.horizon);
        let named = self.snapshots.values().map(|snapshot| snapshot.tid);
        let needed = named.chain(self.pins.keys().copied());
        let mut kept = policy.kept(now, horizon);
        kept.extend(needed.filter(|tid| *tid < horizon));
        // What is gone does not come back.
        kept.retain(|tid| self.can_read(*tid));
        kept.sort_unstable();
        kept.dedup();
        Some((horizon, kept))
    }

    /// Is there so much to prune that it is worth the while?
    pub fn is_due(&self, now: Tid) -> bool {
        let Some((horizon, kept)) = self.plan(now).filter(|_| self.pass.is_none()) else { return false };
        let moved = horizon.0 - self.horizon.0 >= self.policy.step_ns();
        moved || self.kept.iter().any(|tid| kept.binary_search(tid).is_err())
    }
}
