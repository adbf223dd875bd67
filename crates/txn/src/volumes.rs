//! Volumes that are made, cloned, called something else, destroyed, restored, and that go: what of it is replicated state, beside their
//! counts and their records.
//!
//! `docs/protocols/volumes.md` has the whole of it.
//!
//! Invariants (checked by [`Past::check_volumes`]):
//! 1. There are [`VOLUMES_MAX`] volumes at most, none with a number that is greater than the last one that was given.
//! 2. Each living volume has a name that a volume may have, and no other one has the same.
//! 3. Each origin is there, knows its clones, and shows the states that they begin with; no clone has more than [`CLONE_DEPTH_MAX`] behind it.
//! 4. A volume that goes has no clone.

use crate::past::{Past, VolumePast};
use crate::prune::Readable;
use crate::prune_step::Pass;
use gavel_types::limits::{CLONE_DEPTH_MAX, VOLUMES_MAX};
use gavel_types::retention::POLICY_STATES_ALL_MAX;
use gavel_types::volume::{FIRST_NAME, Origin, is_volume_name};
use gavel_types::{Retention, Tid, VolumeId};
use gavel_wire::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What may be done with a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// It is used.
    Living,
    /// It is not used, and can be restored.
    Destroyed {
        /// Since then.
        at: Tid,
    },
    /// It cannot be restored. What clones begin with stays.
    Ended {
        /// Since then.
        at: Tid,
    },
    /// All of it is being removed.
    Going,
}

impl Past {
    /// The living volume that is called so.
    pub fn named(&self, name: &str) -> Option<VolumeId> {
        self.volumes().find(|(_, past)| past.stage == Stage::Living && *past.name == *name).map(|(volume, _)| volume)
    }

    /// The greatest number that a volume was given; 0 if there never was one.
    pub fn last_volume(&self) -> VolumeId {
        self.last
    }

    /// Was there ever a volume of this number?
    pub(crate) fn was_given(&self, volume: VolumeId) -> bool {
        volume > VolumeId::default() && volume <= self.last
    }

    /// The volumes that are clones, and where they come from.
    pub fn origins(&self) -> impl Iterator<Item = (VolumeId, Origin)> {
        self.volumes().filter_map(|(volume, past)| Some((volume, past.origin?)))
    }

    /// How many origins lie behind a volume.
    pub fn depth(&self, volume: VolumeId) -> usize {
        let origin = |volume: &VolumeId| Some(self.of(*volume)?.origin?.volume);
        // A chain that goes round is damage: it is not followed for ever.
        std::iter::successors(Some(volume), origin).take(VOLUMES_MAX).count() - 1
    }

    /// How many states all policies keep at most.
    pub(crate) fn policy_states(&self) -> u64 {
        let all = self.volumes().flat_map(|(_, past)| past.policies());
        all.map(Retention::states).fold(0, u64::saturating_add)
    }

    /// The volume, if it lives.
    pub(crate) fn living(&mut self, volume: VolumeId) -> Result<&mut VolumePast, Refusal> {
        self.volumes.get_mut(&volume).filter(|past| past.stage == Stage::Living).ok_or(Refusal::Missing)
    }

    /// May plans be committed there?
    pub(crate) fn takes_commits(&self, volume: VolumeId) -> bool {
        self.of(volume).is_some_and(|past| matches!(past.stage, Stage::Living | Stage::Destroyed { .. }))
    }

    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        match self.named(name) {
            _ if !is_volume_name(name) => Err(Refusal::BadName),
            Some(_) => Err(Refusal::Exists),
            None => Ok(()),
        }
    }

    /// The number of a volume that is to be made, with this name.
    pub(crate) fn next_volume(&self, name: &str) -> Result<VolumeId, Refusal> {
        self.check_name(name)?;
        match self.last.0.checked_add(1) {
            Some(next) if self.volumes.len() < VOLUMES_MAX => Ok(VolumeId(next)),
            _ => Err(Refusal::Full),
        }
    }

    /// A volume was made at `tid`. Without a name: the first one, or one that the log itself made.
    pub(crate) fn begin(&mut self, tid: Tid, volume: VolumeId, name: Option<&str>) {
        let own = match volume {
            VolumeId::FIRST => FIRST_NAME.into(),
            other => format!("volume-{other}"),
        };
        let past = VolumePast {
            made: tid,
            name: name.map_or(own.into(), Into::into),
            stage: Stage::Living,
            origin: None,
            clones: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            schedule: Vec::new(),
            policy: Retention::EVERYTHING,
            horizon: tid,
            kept: Vec::new(),
            classes: BTreeMap::new(),
            pins: BTreeMap::new(),
            mirror: None,
            followers: BTreeMap::new(),
            pass: None,
        };
        self.volumes.insert(volume, past);
        self.last = self.last.max(volume);
        self.revision += 1;
    }

    /// Where a clone of `from` comes from that is made at `tid`, and the number that it will have. `applied` is the last transaction of the
    /// entries before: a past state must be one of them.
    pub(crate) fn next_clone(
        &self,
        (tid, applied): (Tid, Tid),
        from: VolumeId,
        at: Option<Tid>,
        name: &str,
    ) -> Result<(VolumeId, Origin), Refusal> {
        let past = self.of(from).filter(|past| past.stage == Stage::Living).ok_or(Refusal::Missing)?;
        let volume = self.next_volume(name)?;
        let states = self.policy_states().saturating_add(past.policy.states());
        if self.depth(from) >= CLONE_DEPTH_MAX || states > POLICY_STATES_ALL_MAX {
            return Err(Refusal::Full);
        }
        // Where some objects keep less than the volume, it is not enough that the state can be read.
        if at.is_some_and(|at| at > applied || !past.is_whole(at)) {
            return Err(Refusal::Pruned);
        }
        Ok((volume, Origin { volume: from, at: at.unwrap_or(tid) }))
    }

    /// A clone was made at `tid`. `counted`: what is in it is known.
    pub(crate) fn begin_clone(&mut self, tid: Tid, volume: VolumeId, origin: Origin, name: &str, counted: bool) {
        self.begin(tid, volume, Some(name));
        let policy = self.of(origin.volume).map(|past| past.policy.clone());
        if let Some(past) = self.volumes.get_mut(&volume) {
            past.origin = Some(origin);
            past.policy = policy.unwrap_or_default();
            past.pass = (!counted).then_some(Pass::COUNT);
        }
        if let Some(past) = self.volumes.get_mut(&origin.volume) {
            past.clones.entry(origin.at).or_default().insert(volume);
        }
    }

    pub(crate) fn rename_volume(&mut self, volume: VolumeId, name: &str) -> Result<(), Refusal> {
        if !is_volume_name(name) {
            return Err(Refusal::BadName);
        }
        self.living(volume)?;
        self.check_name(name)?;
        self.living(volume)?.name = name.into();
        self.revision += 1;
        Ok(())
    }

    /// `tid` is now. With `now`, it cannot be restored.
    pub(crate) fn destroy(&mut self, tid: Tid, volume: VolumeId, now: bool) -> Result<(), Refusal> {
        let past = self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?;
        match past.stage {
            Stage::Living => past.stage = Stage::Destroyed { at: tid },
            Stage::Destroyed { .. } if now => {}
            _ => return Err(Refusal::Missing),
        }
        self.revision += 1;
        if now {
            past.end(tid);
            return self.prune(tid, volume);
        }
        Ok(())
    }

    pub(crate) fn restore(&mut self, volume: VolumeId, name: Option<&str>) -> Result<(), Refusal> {
        let past = self.of(volume).ok_or(Refusal::Missing)?;
        let Stage::Destroyed { .. } = past.stage else { return Err(Refusal::Missing) };
        let name: Box<str> = name.unwrap_or(&past.name).into();
        self.check_name(&name)?;
        if let Some(past) = self.volumes.get_mut(&volume) {
            (past.stage, past.name) = (Stage::Living, name);
            self.revision += 1;
        }
        Ok(())
    }

    /// All of a volume has gone.
    pub(crate) fn forget(&mut self, volume: VolumeId) {
        let origin = self.volumes.remove(&volume).and_then(|past| past.origin);
        if let Some(Origin { volume: from, at }) = origin
            && let Some(past) = self.volumes.get_mut(&from)
        {
            past.clones.get_mut(&at).map(|clones| clones.remove(&volume));
            past.clones.retain(|_, clones| !clones.is_empty());
        }
        self.revision += 1;
    }

    /// Asserts the invariants that the module's documentation numbers.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_volumes(&self) {
        assert!(self.volumes.len() <= VOLUMES_MAX, "{} volumes", self.volumes.len());
        let mut names = BTreeSet::new();
        for (volume, past) in self.volumes() {
            assert!(volume.0 > 0 && volume <= self.last, "volume {volume} has a number that was not given");
            assert!(is_volume_name(&past.name), "volume {volume} is called {:?}", past.name);
            assert!(past.stage != Stage::Living || names.insert(&past.name), "two volumes are called {}", past.name);
            assert!(past.stage != Stage::Going || past.clones.is_empty(), "volume {volume} goes, and has clones");
            assert!(self.depth(volume) <= CLONE_DEPTH_MAX, "{} origins behind volume {volume}", self.depth(volume));
            let Some(Origin { volume: from, at }) = past.origin else { continue };
            let shown = self.of(from).is_some_and(|origin| {
                origin.can_read(at) && origin.clones.get(&at).is_some_and(|clones| clones.contains(&volume))
            });
            assert!(shown && at <= past.made, "volume {volume} begins as volume {from} as of {at}, which is not there");
        }
        let known = |(at, clone): (&Tid, &VolumeId)| {
            self.of(*clone).is_some_and(|past| past.origin.is_some_and(|o| o.at == *at))
        };
        let clones = self.volumes.values().flat_map(|past| &past.clones);
        let mut clones = clones.flat_map(|(at, clones)| clones.iter().map(move |clone| (at, clone)));
        assert!(clones.all(known), "a volume is needed by a clone that is not there");
    }
}

impl VolumePast {
    /// Is it used?
    pub fn is_living(&self) -> bool {
        self.stage == Stage::Living
    }

    /// Is not known yet how much is in it?
    pub fn is_being_counted(&self) -> bool {
        matches!(self.pass, Some(Pass::Count { .. }))
    }

    /// Until when it can be restored, if it was destroyed at `at`; none: until somebody says that it is to go.
    pub fn restorable_until(&self, at: Tid) -> Option<Tid> {
        Some(Tid(at.0.saturating_add(self.policy.longest_ns()?)))
    }

    /// Was it destroyed, and is it too late to restore it?
    pub(crate) fn has_ended(&self, now: Tid) -> bool {
        match self.stage {
            Stage::Destroyed { at } => self.restorable_until(at).is_some_and(|until| now > until),
            _ => false,
        }
    }

    /// From now on it cannot be restored.
    pub(crate) fn end(&mut self, now: Tid) {
        self.stage = Stage::Ended { at: now };
        self.snapshots.clear();
        self.pins.clear();
        self.followers.clear();
    }

    /// Which states can be read: none if it goes.
    pub fn readable(&self) -> Readable<'_> {
        match self.stage {
            Stage::Going => Readable { horizon: Tid::MAX, kept: &[] },
            _ => Readable { horizon: self.horizon, kept: &self.kept },
        }
    }

    /// What an ended volume keeps: what clones begin with.
    pub(crate) fn plan_of_ended(&self, at: Tid) -> (Tid, Vec<Tid>) {
        let horizon = self.horizon.max(at);
        let needed = self.clones.keys().copied();
        (horizon, needed.filter(|tid| *tid < horizon && self.can_read(*tid)).collect())
    }
}
