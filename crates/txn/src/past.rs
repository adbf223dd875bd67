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
//! 4. A rule of a schedule has one snapshot in a period at most, and none of its periods begins after the last transaction.
//! 5. A class can read nothing that its volume cannot.
//! 6. All policies together keep [`POLICY_STATES_ALL_MAX`] states beside those that are whole.

use crate::followers::Follower;
use crate::mirrors::Mirror;
use crate::prune::{Keeping, Readable};
use crate::prune_step::Pass;
use crate::volumes::Stage;
use gavel_types::at::is_snapshot_name;
use gavel_types::limits::{FOLLOWERS_MAX, NOTE_BYTES_MAX, PINS_MAX, SNAPSHOTS_MAX, VOLUMES_MAX};
use gavel_types::retention::{CLASSES_MAX, POLICY_STATES_ALL_MAX, POLICY_STATES_MAX, RULES_MAX};
use gavel_types::schedule::Every;
use gavel_types::{Class, KeyRange, Origin, Retention, Schedule, SessionId, Tid, VolumeId};
use gavel_wire::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most states before a horizon that stay.
pub const KEPT_MAX: usize = SNAPSHOTS_MAX + PINS_MAX + VOLUMES_MAX + 1 + POLICY_STATES_MAX as usize + RULES_MAX;

/// The past of all volumes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Past {
    pub(crate) volumes: BTreeMap<VolumeId, VolumePast>,
    /// The greatest number that a volume was given.
    pub(crate) last: VolumeId,
    /// Grows with each change, but for where sweeps have come to.
    pub(crate) revision: u64,
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
    /// What it is called.
    pub name: Box<str>,
    /// What may be done with it.
    pub stage: Stage,
    /// Where it comes from, if it is a clone.
    pub origin: Option<Origin>,
    /// States that clones begin with: they are whole as long as the clones are there.
    pub clones: BTreeMap<Tid, BTreeSet<VolumeId>>,
    /// Names for states.
    pub snapshots: BTreeMap<Box<str>, Snapshot>,
    /// When states get names by themselves.
    pub schedule: Vec<Scheduled>,
    /// Which states are to stay.
    pub policy: Retention,
    /// Every state from here on is whole.
    pub horizon: Tid,
    /// The states before the horizon that are whole, too, the oldest first.
    pub kept: Vec<Tid>,
    /// Of objects that keep less than the volume, by their class.
    pub classes: BTreeMap<Class, ClassPast>,
    /// States that sessions need: they are whole.
    pub pins: BTreeMap<Tid, BTreeSet<SessionId>>,
    /// What it copies, if it is or was a mirror.
    pub mirror: Option<Mirror>,
    /// Mirrors of it in other clusters, by their names.
    pub followers: BTreeMap<Box<str>, Follower>,
    /// Where the sweep has come to that removes what horizon and kept states do not show; none if all of it is gone.
    pub pass: Option<Pass>,
}

/// Which states can be read of the objects of one class.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClassPast {
    /// Which are to stay.
    pub policy: Retention,
    /// Every state from here on.
    pub horizon: Tid,
    /// Those before the horizon, the oldest first.
    pub kept: Vec<Tid>,
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
    /// The schedule has made it: the period of its rule, in nanoseconds. None: somebody has made it, or renamed it.
    pub every_ns: Option<u64>,
}

/// A rule of a schedule, and how far it has come.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scheduled {
    /// The rule.
    pub rule: Every,
    /// When the last period began that needs no snapshot any more.
    pub last: Tid,
    /// There was no room for that period's.
    pub missed: bool,
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

    /// Can it be told what has changed in `range` after `at`? Not if some of it was pruned; but since a state that is kept, it can.
    pub fn knows_changes(&self, range: &KeyRange, at: Tid) -> bool {
        let pruned = |(volume, past): (VolumeId, &VolumePast)| {
            at >= past.made && !past.is_whole(at) && KeyRange::volume(volume).overlaps(range)
        };
        !self.volumes().any(pruned)
    }

    pub(crate) fn set_policy(&mut self, volume: VolumeId, policy: &Retention) -> Result<(), Refusal> {
        let own = self.of(volume).map_or(0, |past| past.policy.states());
        self.check_policy(policy, own)?;
        self.living(volume)?.policy = policy.clone();
        self.revision += 1;
        Ok(())
    }

    /// A number for a policy, if it has none yet. Not in a clone: where a version of its own is gone, it would show what it inherits.
    pub(crate) fn define(&mut self, volume: VolumeId, policy: &Retention) -> Result<(), Refusal> {
        self.check_policy(policy, 0)?;
        let past = self.living(volume)?;
        if past.class_of(policy).is_some() {
            return Ok(());
        }
        if past.origin.is_some() || past.is_mirror() {
            return Err(Refusal::BadPolicy);
        }
        let free = (1..=CLASSES_MAX).map(Class).find(|class| !past.classes.contains_key(class));
        let class = ClassPast { policy: policy.clone(), horizon: past.horizon, kept: past.kept.clone() };
        past.classes.insert(free.ok_or(Refusal::Full)?, class);
        self.revision += 1;
        Ok(())
    }

    /// May there be another policy, in place of one that keeps so many states?
    fn check_policy(&self, policy: &Retention, instead: u64) -> Result<(), Refusal> {
        let states = self.policy_states() - instead + policy.states();
        if policy.is_bounded() && states <= POLICY_STATES_ALL_MAX { Ok(()) } else { Err(Refusal::BadPolicy) }
    }

    /// States go, as the volume's policies say if it is `now`. If some do, a sweep begins. A volume that was destroyed ends, if it is time,
    /// and goes if no clone needs it.
    pub(crate) fn prune(&mut self, now: Tid, volume: VolumeId) -> Result<(), Refusal> {
        let past = self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?;
        if past.has_ended(now) {
            past.end(now);
            self.revision += 1;
        }
        match past.stage {
            Stage::Ended { .. } if past.clones.is_empty() => {
                past.stage = Stage::Going;
                past.pass = Some(Pass::BEGIN);
                self.revision += 1;
                return Ok(());
            }
            Stage::Going => return Ok(()),
            // There is nothing to prune before it is counted.
            Stage::Living | Stage::Destroyed { .. } if past.is_being_counted() => return Ok(()),
            _ => {}
        }
        let pruned = past.pruned(now);
        if pruned != *past {
            *past = VolumePast { pass: Some(Pass::BEGIN), ..pruned };
            self.revision += 1;
        }
        Ok(())
    }

    /// A sweep was applied. A volume that goes is forgotten by who applies it when the sweep is done.
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
        let past = self.living(volume)?;
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
        let past = self.living(volume)?;
        if past.snapshots.contains_key(name) {
            return Err(Refusal::Exists);
        }
        if full {
            return Err(Refusal::Full);
        }
        let state = at.or(past.boundary()).unwrap_or(tid);
        if state > tid || !past.can_read(state) {
            return Err(Refusal::Pruned);
        }
        past.snapshots.insert(name.into(), Snapshot { tid: state, named: tid, note: note.into(), every_ns: None });
        self.revision += 1;
        Ok(())
    }

    /// From `tid` on, which is now, states get names at the beginnings of these periods. What a rule has made stays with the rule.
    pub(crate) fn set_schedule(&mut self, tid: Tid, volume: VolumeId, schedule: &Schedule) -> Result<(), Refusal> {
        if !schedule.is_bounded() {
            return Err(Refusal::BadPolicy);
        }
        let past = self.volumes.get_mut(&volume).ok_or(Refusal::Missing)?;
        let before = std::mem::take(&mut past.schedule);
        let known = |rule: &Every| before.iter().find(|scheduled| scheduled.rule.every_ns == rule.every_ns);
        let begin = |rule: &Every| match known(rule) {
            Some(known) => Scheduled { rule: *rule, ..known.clone() },
            None => Scheduled { rule: *rule, last: rule.period(tid), missed: false },
        };
        past.schedule = schedule.rules.iter().map(begin).collect();
        self.revision += 1;
        Ok(())
    }

    /// The present state, which is that of `tid`, gets the names that are due. Of each rule that has made one, the oldest beyond those that
    /// it keeps go. Whoever asks twice in a period, or asks late, makes no second one.
    pub(crate) fn name_scheduled(&mut self, tid: Tid, volume: VolumeId) {
        let mut count = self.count();
        let Some(past) = self.volumes.get_mut(&volume) else { return };
        for number in past.due(tid) {
            let Scheduled { rule, .. } = past.schedule[number];
            let period = rule.period(tid);
            let name = rule.name(period);
            let free = !past.snapshots.contains_key(&*name);
            // The new one counts.
            count -= past.drop_oldest(rule.every_ns, rule.keep as usize - usize::from(free));
            let missed = count >= SNAPSHOTS_MAX;
            if free && !missed {
                let state = past.boundary().unwrap_or(tid);
                let snapshot = Snapshot { tid: state, named: tid, note: "".into(), every_ns: Some(rule.every_ns) };
                past.snapshots.insert(name.into(), snapshot);
                count += 1;
            }
            past.schedule[number] = Scheduled { rule, last: period, missed: free && missed };
            self.revision += 1;
        }
    }

    pub(crate) fn drop_name(&mut self, volume: VolumeId, name: &str) -> Result<(), Refusal> {
        let past = self.living(volume)?;
        past.snapshots.remove(name).ok_or(Refusal::Missing)?;
        self.revision += 1;
        Ok(())
    }

    pub(crate) fn rename(&mut self, volume: VolumeId, from: &str, to: &str) -> Result<(), Refusal> {
        if !is_snapshot_name(to) {
            return Err(Refusal::BadName);
        }
        let past = self.living(volume)?;
        if !past.snapshots.contains_key(from) {
            return Err(Refusal::Missing);
        }
        if past.snapshots.contains_key(to) {
            return Err(Refusal::Exists);
        }
        if let Some(mut snapshot) = past.snapshots.remove(from) {
            // Somebody wants it: no rule takes it away any more.
            snapshot.every_ns = None;
            past.snapshots.insert(to.into(), snapshot);
            self.revision += 1;
        }
        Ok(())
    }

    pub(crate) fn note(&mut self, volume: VolumeId, name: &str, note: &str) -> Result<(), Refusal> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(Refusal::BadName);
        }
        let snapshot = self.living(volume)?.snapshots.get_mut(name).ok_or(Refusal::Missing)?;
        snapshot.note = note.into();
        self.revision += 1;
        Ok(())
    }

    /// Asserts the invariants that the module's documentation numbers; `tid` is the last transaction.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self, tid: Tid) {
        assert!(self.count() <= SNAPSHOTS_MAX, "{} snapshots", self.count());
        assert!(self.pins() <= PINS_MAX, "{} pins", self.pins());
        self.check_volumes();
        for past in self.volumes.values() {
            for (name, snapshot) in &past.snapshots {
                assert!(is_snapshot_name(name), "a snapshot is called {name:?}");
                assert!(past.can_read(snapshot.tid) && snapshot.tid <= tid, "snapshot {name} is of no state");
            }
            past.check_schedule(tid);
            for (at, sessions) in &past.pins {
                assert!(past.can_read(*at) && *at <= tid && !sessions.is_empty(), "the pin of {at} holds nothing");
            }
            assert!(past.made <= past.horizon && past.horizon <= tid, "the horizon {} is no state", past.horizon);
            assert!(past.kept.is_sorted_by(|a, b| a < b) && past.kept.len() <= KEPT_MAX, "kept: {:?}", past.kept);
            let kept = past.kept.first().is_none_or(|first| *first >= past.made);
            assert!(kept && past.kept.last().is_none_or(|last| *last < past.horizon), "kept: {:?}", past.kept);
            past.check_classes(tid);
            past.check_mirror(tid);
            past.check_followers(tid);
        }
        assert!(self.followers() <= FOLLOWERS_MAX, "{} followers", self.followers());
        assert!(self.policy_states() <= POLICY_STATES_ALL_MAX, "the policies keep {} states", self.policy_states());
    }
}

impl VolumePast {
    /// Which states can be read, by the class of an object.
    pub fn keeping(&self) -> Keeping<'_> {
        let classes = self.classes.iter();
        Keeping { volume: self.readable(), classes: classes.map(|(class, past)| (*class, past.readable())).collect() }
    }

    /// Can the state as of `tid` be read, if it has come? Perhaps not of objects that keep less than the volume.
    pub fn can_read(&self, tid: Tid) -> bool {
        self.readable().has(tid)
    }

    /// Can the state as of `tid` be read of every object?
    pub fn is_whole(&self, tid: Tid) -> bool {
        self.can_read(tid) && self.classes.values().all(|class| class.readable().has(tid))
    }

    /// For how many nanoseconds from `now` on the state as of `at` stays whole, by the policies as they are: until the first of the horizons reaches it.
    /// [`u64::MAX`] where none will, and of what is kept by itself (its name may be taken away at any time); 0 if some objects do not keep it.
    pub fn stays_ns(&self, at: Tid, now: Tid) -> u64 {
        let stays = |policy: &Retention, readable: Readable<'_>| match policy.whole_ns {
            _ if !readable.has(at) => 0,
            Some(whole) if at >= readable.horizon => at.0.saturating_add(whole).saturating_sub(now.0),
            _ => u64::MAX,
        };
        let classes = self.classes.values().map(|class| stays(&class.policy, class.readable()));
        classes.fold(stays(&self.policy, self.readable()), u64::min)
    }

    /// The newest state that can be read and is not later than `tid`.
    pub fn readable_at_or_before(&self, tid: Tid) -> Option<Tid> {
        self.readable().at_or_before(tid)
    }

    /// Is a snapshot to be made if it is `now`, as the schedule says?
    pub fn is_snapshot_due(&self, now: Tid) -> bool {
        !self.due(now).is_empty()
    }

    /// The numbers of the rules whose period has begun without a snapshot.
    fn due(&self, now: Tid) -> Vec<usize> {
        let rules = self.schedule.iter().enumerate();
        rules.filter(|(_, scheduled)| scheduled.rule.period(now) > scheduled.last).map(|(number, _)| number).collect()
    }

    /// Of the snapshots that a rule has made, all but the newest `keep` go. Gives how many these are.
    fn drop_oldest(&mut self, every_ns: u64, keep: usize) -> usize {
        let made = self.snapshots.iter().filter(|(_, snapshot)| snapshot.every_ns == Some(every_ns));
        let mut made: Vec<(Tid, Box<str>)> = made.map(|(name, snapshot)| (snapshot.tid, name.clone())).collect();
        made.sort_unstable();
        let too_many = made.len().saturating_sub(keep);
        for (_, name) in &made[..too_many] {
            self.snapshots.remove(name);
        }
        too_many
    }

    fn check_schedule(&self, tid: Tid) {
        for Scheduled { rule, last, .. } in &self.schedule {
            assert!(rule.keep > 0 && *last <= rule.period(tid), "a snapshot of {last} would be made before its time");
            let made = self.snapshots.values().filter(|snapshot| snapshot.every_ns == Some(rule.every_ns));
            let mut periods = BTreeSet::new();
            let twice = made.map(|snapshot| rule.period(snapshot.named)).find(|period| !periods.insert(*period));
            assert!(twice.is_none(), "two snapshots of {rule:?} in the period from {twice:?} on");
        }
    }

    /// The class that stands for a policy.
    pub fn class_of(&self, policy: &Retention) -> Option<Class> {
        self.classes.iter().find(|(_, past)| past.policy == *policy).map(|(class, _)| *class)
    }

    pub(crate) fn policies(&self) -> impl Iterator<Item = &Retention> {
        std::iter::once(&self.policy).chain(self.classes.values().map(|class| &class.policy))
    }

    /// As the policies would have it if it is `now`. What is gone does not come back.
    pub fn pruned(&self, now: Tid) -> VolumePast {
        let names = self.snapshots.values().map(|snapshot| snapshot.tid);
        let mut needed: Vec<Tid> = names.chain(self.pins.keys().copied()).chain(self.clones.keys().copied()).collect();
        needed.extend(self.boundary());
        needed.sort_unstable();
        let held = self.held_from(now).unwrap_or(Tid::MAX);
        let mut pruned = self.clone();
        match (self.stage, self.policy.horizon(now)) {
            (Stage::Going, _) => return pruned,
            (Stage::Ended { at }, _) => (pruned.horizon, pruned.kept) = self.plan_of_ended(at),
            (Stage::Living | Stage::Destroyed { .. }, None) => {}
            (Stage::Living | Stage::Destroyed { .. }, Some(horizon)) => {
                pruned.horizon = horizon.min(held).max(self.horizon);
                let of_policy = self.policy.kept(now, pruned.horizon);
                pruned.kept = kept(of_policy.iter().chain(&needed), pruned.horizon, |tid| self.can_read(tid));
            }
        }
        for (class, past) in &self.classes {
            let pruned_class = past.pruned((now, held), pruned.readable(), &needed);
            pruned.classes.insert(*class, pruned_class);
        }
        pruned
    }

    /// Is there so much to prune that it is worth the while?
    pub fn is_due(&self, now: Tid) -> bool {
        if self.has_ended(now) || matches!(self.stage, Stage::Ended { .. }) && self.clones.is_empty() {
            return true;
        }
        if self.pass.is_some() {
            return false;
        }
        let pruned = self.pruned(now);
        let due = |was: Readable<'_>, is: Readable<'_>, policy: &Retention| {
            let moved = is.horizon.0 - was.horizon.0 >= policy.step_ns();
            moved || was.kept.iter().any(|tid| is.kept.binary_search(tid).is_err())
        };
        due(self.readable(), pruned.readable(), &self.policy)
            || self.classes.iter().any(|(class, past)| due(past.readable(), pruned.keeping().of(*class), &past.policy))
    }

    fn check_classes(&self, tid: Tid) {
        for (class, past) in &self.classes {
            assert!((1..=CLASSES_MAX).contains(&class.0), "there is a class {}", class.0);
            assert!(
                past.horizon >= self.horizon && past.horizon <= tid,
                "class {} begins at {}",
                class.0,
                past.horizon
            );
            assert!(past.kept.is_sorted_by(|a, b| a < b) && past.kept.len() <= KEPT_MAX, "kept: {:?}", past.kept);
            let kept = past.kept.iter().all(|at| *at < past.horizon && self.can_read(*at));
            assert!(kept, "class {} keeps {:?} of {:?}", class.0, past.kept, self.readable());
        }
    }
}

impl ClassPast {
    fn readable(&self) -> Readable<'_> {
        Readable { horizon: self.horizon, kept: &self.kept }
    }

    /// As its policy would have it if it is `now`, of what its volume keeps then. Followers hold all states from `held` on.
    fn pruned(&self, (now, held): (Tid, Tid), volume: Readable<'_>, needed: &[Tid]) -> ClassPast {
        let begins = self.policy.horizon(now).unwrap_or(Tid::ZERO).min(held);
        let horizon = begins.max(self.horizon).max(volume.horizon);
        let of_policy = self.policy.kept(now, horizon);
        // What the volume keeps of what the policy would keep whole.
        let whole = &volume.kept[volume.kept.partition_point(|tid| *tid < begins)..];
        let all = of_policy.iter().chain(needed).chain(whole);
        let kept = kept(all, horizon, |tid| self.readable().has(tid) && volume.has(tid));
        ClassPast { policy: self.policy.clone(), horizon, kept }
    }
}

/// Those of some states that are before a horizon and can be read, in order.
fn kept<'t>(states: impl Iterator<Item = &'t Tid>, horizon: Tid, can_read: impl Fn(Tid) -> bool) -> Vec<Tid> {
    let mut kept: Vec<Tid> = states.copied().filter(|tid| *tid < horizon && can_read(*tid)).collect();
    kept.sort_unstable();
    kept.dedup();
    kept
}
