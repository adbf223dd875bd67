//! Volumes beside the first one: they are made, cloned, destroyed, restored and taken away while programs work in them, and each clone must
//! show what its origin showed where it began.
//!
//! Programs do in other volumes what they do in the first ([`Purpose::Aside`]); what they are answered there, nobody checks. What is checked is
//! what the records show: a model in plain memory ([`PastModel`]) has every version of every key, and works out what each volume shows as of any
//! state; origins it looks up in itself.

use crate::dice::Dice;
use crate::fsck::Tree;
use crate::machine::Life;
use crate::past_check::PastModel;
use crate::program::{Purpose, Task};
use crate::rest::VOLUME;
use crate::world::World;
use gavel_txn::past::VolumePast;
use gavel_txn::{Stage, State};
use gavel_types::{Key, KeyRange, ObjectId, Retention, Tid, VolumeId};
use gavel_wire::{RequestBody, Version, View};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// What volumes are called.
const NAMES: [&str; 6] = ["builds", "copy", "main", "scratch", "test", "try"];
/// So many times of a thousand ticks, somebody on a node asks for something.
const ASK_PERMILLE: u32 = 8;
/// So many of a thousand operations that nobody checks are done in another volume, if there is one.
const ASIDE_PERMILLE: u32 = 400;
/// States of each volume that are compared at the end.
const LAST_STATES: usize = 3;

/// Those who ask for volumes.
#[derive(Debug)]
pub(crate) struct Volumers {
    dice: Dice,
    on: bool,
}

impl Volumers {
    pub(crate) fn new(seed: u64, on: bool) -> Volumers {
        Volumers { dice: Dice::new(seed, "volumes", 0), on }
    }
}

fn is_there(past: &VolumePast) -> bool {
    matches!(past.stage, Stage::Living | Stage::Destroyed { .. })
}

/// One of the volumes that are such; not the first one, if it is to be another.
fn pick(dice: &mut Dice, state: &State, is_such: impl Fn(VolumeId, &VolumePast) -> bool) -> Option<VolumeId> {
    let such: Vec<VolumeId> =
        state.past.volumes().filter(|(volume, past)| is_such(*volume, past)).map(|(volume, _)| volume).collect();
    if such.is_empty() { None } else { Some(*dice.pick(&such)) }
}

fn draw(dice: &mut Dice, state: &State) -> Option<RequestBody> {
    let name = (*dice.pick(&NAMES)).into();
    let other = |volume: VolumeId, past: &VolumePast| volume != VOLUME && past.is_living();
    let destroyed = |_: VolumeId, past: &VolumePast| matches!(past.stage, Stage::Destroyed { .. });
    Some(match dice.below(16) {
        0 => RequestBody::CreateVolume { name, mode: 0o755, uid: 0, gid: 0 },
        1..7 => {
            let from = match dice.below(3) {
                0 => VOLUME,
                _ => pick(dice, state, |_, past| past.is_living())?,
            };
            let past = state.past.of(from)?;
            let back = Tid(past.made.0 + dice.below(state.tid.0 - past.made.0 + 1));
            let at = if dice.permille(400) { past.readable_at_or_before(back) } else { None };
            RequestBody::CloneVolume { from, at, name }
        }
        7 | 8 => RequestBody::DestroyVolume { volume: pick(dice, state, other)?, now: false },
        9 => RequestBody::DestroyVolume { volume: pick(dice, state, other)?, now: true },
        10 => RequestBody::DestroyVolume { volume: pick(dice, state, destroyed)?, now: true },
        11 | 12 => {
            let volume = pick(dice, state, destroyed)?;
            RequestBody::RestoreVolume { volume, name: Some(name).filter(|_| dice.permille(300)) }
        }
        13 => RequestBody::RenameVolume { volume: pick(dice, state, |_, past| past.is_living())?, name },
        14 => {
            let policy = Retention { whole_ns: Some(dice.between(50, 5000) * 1_000_000), rules: Vec::new() };
            RequestBody::SetRetention { volume: pick(dice, state, other)?, policy }
        }
        _ => RequestBody::Prune { volume: pick(dice, state, |volume, _| volume != VOLUME)? },
    })
}

impl Life {
    /// Is the volume used, or can it be restored, as far as this node knows?
    pub(crate) fn is_there(&self, volume: VolumeId) -> bool {
        self.node.server.state().past.of(volume).is_some_and(is_there)
    }
}

impl World {
    /// Somebody on this machine asks for a volume, perhaps. What is answered, the records will show.
    pub(crate) fn step_volumer(&mut self, machine: usize) {
        let on = self.volumers.on && self.setup_done.is_some() && self.calm.is_none();
        if !on || !self.volumers.dice.permille(ASK_PERMILLE) {
            return;
        }
        let Some(life) = &self.lives[machine] else { return };
        let Some(body) = draw(&mut self.volumers.dice, life.node.server.state()) else { return };
        self.note(|| format!("n{machine} asks for volumes: {body:?}"));
        self.ask(machine, body);
    }

    /// In which volume a program does something, and what for.
    pub(crate) fn volume_for(&mut self, machine: usize, task: &mut Task) -> VolumeId {
        let Purpose::Churn(_) = task.purpose else { return VOLUME };
        let Some(life) = &self.lives[machine] else { return VOLUME };
        if !self.volumers.on || !self.volumers.dice.permille(ASIDE_PERMILLE) {
            return VOLUME;
        }
        let other = |volume: VolumeId, past: &VolumePast| volume != VOLUME && past.is_living();
        let found = pick(&mut self.volumers.dice, life.node.server.state(), other);
        if let Some(volume) = found {
            task.purpose = Purpose::Aside(volume);
            self.cover.hit("worked_aside");
        }
        found.unwrap_or(VOLUME)
    }

    /// Every volume but the first is a whole tree, and counts what is in it; of those that have gone, nothing is left.
    pub(crate) fn check_other_volumes(&mut self, machine: usize) -> Result<(), String> {
        let Some(life) = &self.lives[machine] else { return Ok(()) };
        let state = life.node.server.state();
        let mut blobs = BTreeSet::new();
        let live = life.records.live(state.tid);
        let staged = self.judge.serial.staged(&self.judge.past)?;
        for (volume, past) in state.past.volumes().filter(|(volume, past)| *volume != VOLUME && is_there(past)) {
            let mut tree = Tree::read(&live, volume).map_err(|error| error.to_string())?;
            let counted = state.volumes.get(&volume).map(|counts| (counts.objects, counts.bytes));
            if !past.is_being_counted() && counted != Some(tree.counts()) {
                return Err(format!("volume {volume} counts {counted:?}, and has {:?}", tree.counts()));
            }
            blobs.extend(tree.blobs.iter().copied());
            let cut_off = |object: ObjectId| {
                let from = staged.get(&object);
                from.is_some_and(|from| self.judge.past.is_cut_off(volume, past.made, object, *from))
            };
            if tree.leave_out(cut_off) {
                self.cover.hit("staged_cloned");
            }
            let problems = tree.check();
            if !problems.is_empty() {
                return Err(format!("the tree of volume {volume} is not whole: {problems:?}"));
            }
        }
        let (rows, _) = life.records.changes(Tid::ZERO, Tid::MAX, 0, usize::MAX).map_err(|error| error.to_string())?;
        if let Some(row) = rows.iter().find(|row| state.past.of(row.key.volume()).is_none()) {
            return Err(format!("{:?} of {} is left of a volume that has gone", row.key, row.tid));
        }
        self.cover_volumes(machine);
        self.check_blobs(&blobs)
    }

    fn cover_volumes(&mut self, machine: usize) {
        let Some(life) = &self.lives[machine] else { return };
        let past = &life.node.server.state().past;
        let deep = past.volumes().any(|(volume, _)| past.depth(volume) > 1);
        let gone = past.last_volume().0 as usize > past.volumes().count();
        let ended = past.volumes().any(|(_, past)| matches!(past.stage, Stage::Ended { .. }));
        for (mark, reached) in [("cloned_a_clone", deep), ("volume_gone", gone), ("origin_ended", ended)] {
            if reached {
                self.cover.hit(mark);
            }
        }
    }
}

impl PastModel {
    /// May something be left in a clone that was made at `made` of an object that was staged, and committed at `from`? A clone of a state in the midst of a
    /// group that has ended since keeps what was staged: nobody can reach it, and nobody knows of it when the clone is made.
    fn is_cut_off(&self, volume: VolumeId, made: Tid, object: ObjectId, from: Option<Tid>) -> bool {
        let Some(origin) = self.origins.get(&volume) else { return false };
        if origin.volume != VOLUME {
            return self.is_cut_off(origin.volume, Tid::MAX, object, from);
        }
        let later = self.versions(&Key::attr(VOLUME, object)).iter().filter(|(tid, _)| *tid > origin.at);
        let reaped = later.filter(|(_, version)| version.is_none()).map(|(tid, _)| *tid).min();
        let ended = reaped.into_iter().chain(from).min();
        ended.is_some_and(|ended| origin.at < ended && ended <= made)
    }

    /// What a volume shows as of a Tid, but for marks of orphans and who made commits.
    fn shows(&self, volume: VolumeId, tid: Tid) -> BTreeMap<Key, Version> {
        let mut shown = match self.origins.get(&volume) {
            Some(origin) => self.shows(origin.volume, origin.at.min(tid)),
            None => BTreeMap::new(),
        };
        shown = shown.into_iter().map(|(key, version)| (key.in_volume(volume), version)).collect();
        for (key, version) in self.at(&KeyRange::of_objects(volume), tid) {
            match version.is_gone() {
                true => drop(shown.remove(key)),
                false => drop(shown.insert(key.clone(), version.clone())),
            }
        }
        // What was there and has ended in the clone itself says so with a version.
        shown
    }

    fn check_volume(&self, view: &dyn View, volume: VolumeId) -> Result<(), String> {
        let tid = view.tid();
        let expected = self.shows(volume, tid);
        let found = view.scan(&KeyRange::of_objects(volume), usize::MAX).map_err(|error| error.to_string())?;
        let differs = found.iter().zip(&expected).find(|((a, b), (c, d))| (a, b) != (*c, *d));
        match (differs, found.len() == expected.len()) {
            (None, true) => Ok(()),
            (differs, _) => Err(format!(
                "volume {volume} as of {tid} shows {} records instead of {}: {differs:?}",
                found.len(),
                expected.len()
            )),
        }
    }

    /// Some volume but the first, as of some state: all of it, a part, and a record.
    pub(crate) fn check_aside(&self, life: &Life, dice: &mut Dice) -> Result<(), String> {
        let state = life.node.server.state();
        let Some(volume) = pick(dice, state, |volume, past| volume != VOLUME && is_there(past)) else { return Ok(()) };
        let Some(past) = state.past.of(volume) else { return Ok(()) };
        if dice.permille(300) {
            self.check_volume(&life.records.live(state.tid), volume)?;
        }
        let drawn = Tid(past.made.0 + dice.below(state.tid.0 - past.made.0 + 1));
        let Some(tid) = past.readable_at_or_before(drawn) else { return Ok(()) };
        let view = life.records.at(tid);
        self.check_volume(&view, volume)?;
        let shown = self.shows(volume, tid);
        let limit = 1 + dice.below(10) as usize;
        let object = shown.keys().nth(dice.below(shown.len() as u64 + 1) as usize).map_or(ObjectId::ROOT, Key::object);
        let range = KeyRange { start: KeyRange::object(volume, object).start, end: KeyRange::volume(volume).end };
        let found = view.scan(&range, limit).map_err(|error| error.to_string())?;
        let bounds = (Bound::Included(&*range.start), Bound::Excluded(&*range.end));
        let wanted = shown.range::<[u8], _>(bounds).take(limit);
        if !wanted.eq(found.iter().map(|(key, version)| (key, version))) {
            return Err(format!("volume {volume} as of {tid} shows {found:?} from {object} on"));
        }
        for (key, _) in self.at(&KeyRange::of_objects(volume), Tid::MAX).take(3) {
            let found = view.get(key).map_err(|error| error.to_string())?;
            if found.as_ref() != shown.get(key) {
                return Err(format!("{key:?} as of {tid} is {found:?}, and was {:?}", shown.get(key)));
            }
        }
        Ok(())
    }

    /// All volumes but the first, as of some states.
    pub(crate) fn check_all_aside(&self, life: &Life, dice: &mut Dice) -> Result<(), String> {
        let state = life.node.server.state();
        for (volume, past) in state.past.volumes().filter(|(volume, past)| *volume != VOLUME && is_there(past)) {
            self.check_volume(&life.records.live(state.tid), volume)?;
            let drawn = (0..LAST_STATES).map(|_| Tid(past.made.0 + dice.below(state.tid.0 - past.made.0 + 1)));
            let states = drawn.chain([past.made]).filter_map(|tid| past.readable_at_or_before(tid));
            for tid in states.collect::<BTreeSet<Tid>>() {
                self.check_volume(&life.records.at(tid), volume)?;
            }
        }
        Ok(())
    }
}
