//! Past states that go: policies, names and pins that are asked for, and whether what stays is whole at the end.
//!
//! The log is applied once more to a replica that never sweeps. Every state that the others can read must be what it is
//! there; and what no such state shows must be gone once a sweep has come to its end.

use crate::clock::MS;
use crate::fsck::everything;
use crate::machine::Life;
use crate::rest::VOLUME;
use crate::script::{Fault, What};
use crate::world::World;
use gavel_fs::{Reclass, Reclassing};
use gavel_store::engine::MemEngine;
use gavel_store::records::{Identity, Records};
use gavel_txn::prune::Span;
use gavel_txn::{Digest, State, VolumePast};
use gavel_types::retention::Rule;
use gavel_types::schedule::Every;
use gavel_types::{
    BlobId, Class, ClusterId, Key, KeyParts, KeyRange, LogIndex, NodeId, ObjectId, Retention, Schedule, Tid, VolumeId,
};
use gavel_wire::past::Past;
use gavel_wire::{Author, Ended, Entry, Item, Live, Record, RequestBody, Version, View, ViewError};
use std::collections::BTreeMap;

/// What the names of states begin with that faults name.
pub(crate) const NAMES: &str = "pruning-";
/// Most states from a horizon on that are compared.
const STATES_MAX: usize = 6;

/// How many rows a sweep looks at, if the fault says so.
pub(crate) fn sweep_rows(fault: &Fault) -> Option<u32> {
    match fault.what {
        What::Retain { rows, .. } => Some(rows),
        _ => None,
    }
}

impl World {
    /// A node asks for what a fault of the past is about.
    pub(crate) fn ask_of_past(&mut self, what: What) {
        let nodes = self.machines.len();
        let (node, body) = match what {
            What::Retain { node, whole_ms, every_ms, for_ms, .. } => {
                let rule = Rule { every_ns: every_ms * MS, for_ns: for_ms * MS };
                let rules = if every_ms > 0 { vec![rule] } else { Vec::new() };
                (
                    node,
                    RequestBody::SetRetention {
                        volume: VOLUME,
                        policy: Retention { whole_ns: Some(whole_ms * MS), rules },
                    },
                )
            }
            What::Name { node, number, away: true, .. } => {
                (node, RequestBody::DropSnapshot { volume: VOLUME, name: format!("{NAMES}{number}").into() })
            }
            What::Name { node, number, ago_ms, .. } => {
                let name = format!("{NAMES}{number}").into();
                let at = self.state_of(node % nodes, ago_ms).filter(|_| ago_ms > 0);
                (node, RequestBody::Snapshot { volume: VOLUME, name, note: "".into(), at })
            }
            What::Schedule { node, every_s, keep } => {
                let rules = [(every_s, keep), (3 * every_s, 1)];
                let rules = rules.map(|(every_s, keep)| Every { every_ns: every_s * 1000 * MS, keep });
                let schedule = Schedule { rules: rules.to_vec() };
                (node, RequestBody::SetSchedule { volume: VOLUME, schedule })
            }
            What::Pin { node, ago_ms, .. } => {
                let Some(at) = self.state_of(node % nodes, ago_ms) else { return };
                self.cover.hit("pinned");
                (node, RequestBody::Pin { volume: VOLUME, at })
            }
            _ => return,
        };
        self.ask(node % nodes, body);
    }

    /// An object keeps less than the volume from now on, or as much again.
    pub(crate) fn keep_less(&mut self, node: usize, place: u64, whole_ms: u64) {
        let machine = node % self.machines.len();
        let Some(life) = &self.lives[machine] else { return };
        let state = life.node.server.state();
        let policy = Retention { whole_ns: Some(whole_ms * MS), rules: Vec::new() };
        let Some(past) = state.past.of(VOLUME) else { return };
        let class = match whole_ms {
            0 => Class::VOLUME,
            _ => match past.class_of(&policy) {
                Some(class) => class,
                None => {
                    self.ask(machine, RequestBody::DefineClass { volume: VOLUME, policy });
                    return;
                }
            },
        };
        let live = life.records.live(state.tid);
        let keys = live.scan(&everything(VOLUME), usize::MAX).unwrap_or_default().into_iter().map(|(key, _)| key);
        let objects: Vec<ObjectId> = keys.filter(|key| key.parts() == KeyParts::Attr).map(|key| key.object()).collect();
        let Some(object) = objects.get(place.checked_rem(objects.len() as u64).unwrap_or(0) as usize) else { return };
        let step = Reclass::new(VOLUME, *object, class).step(&live);
        if let Ok(Reclassing::Commit { guards, plan }) = step
            && !plan.mutations.is_empty()
        {
            self.cover.hit("kept_less");
            let clock = self.machines[machine].clock(self.now);
            let token = self.fresh();
            if let Some(life) = &mut self.lives[machine] {
                life.node.commit(clock, token, guards, plan, Author::user(0), Tid::MAX);
                self.pump(machine);
            }
        }
    }

    /// A session does not need any more what it has pinned.
    pub(crate) fn unpin(&mut self, machine: usize) {
        let Some(life) = &self.lives[machine] else { return };
        let session = life.node.session.id().unwrap_or_default();
        let pins = life.node.server.state().past.of(VOLUME).map(|past| &past.pins);
        let mine = pins.into_iter().flatten().find(|(_, sessions)| sessions.contains(&session));
        if let Some(at) = mine.map(|(at, _)| *at) {
            self.ask(machine, RequestBody::Unpin { volume: VOLUME, at });
        }
    }

    pub(crate) fn ask(&mut self, machine: usize, body: RequestBody) {
        let clock = self.machines[machine].clock(self.now);
        let token = self.fresh();
        if let Some(life) = &mut self.lives[machine] {
            life.node.request(clock, token, body);
            self.pump(machine);
        }
    }

    /// The newest state that a node can read and that is so old.
    fn state_of(&self, machine: usize, ago_ms: u64) -> Option<Tid> {
        let state = self.lives[machine].as_ref()?.node.server.state();
        let wanted = Tid(state.tid.0.saturating_sub(ago_ms * MS));
        state.past.of(VOLUME)?.readable_at_or_before(wanted)
    }

    /// Every state that can be read is what it ever was, and the digest is that of the rows that are left.
    pub(crate) fn check_pruned(&mut self) -> Result<(), String> {
        if !self.script.faults.iter().any(|fault| matches!(fault.what, What::Retain { .. })) {
            return Ok(());
        }
        let unpruned = self.apply_without_sweeps(|_, _, _| Ok(()))?;
        for (machine, life) in self.lives.iter().enumerate() {
            let Some(life) = life else { continue };
            let state = life.node.server.state();
            for (volume, past) in state.past.volumes().filter(|(_, past)| past.is_living()) {
                for at in states(past, state.tid) {
                    let lost = lost((volume, past), &life.records.at(at), &unpruned, at);
                    let lost = lost.map_err(|error| error.to_string())?;
                    match lost.map_err(|what| format!("n{machine}: volume {volume} as of {at} {what}"))? {
                        0 => {}
                        _ => self.cover.hit("pruned_less"),
                    }
                }
                check_gone(life, volume, past).map_err(|what| format!("n{machine}: {what}"))?;
            }
            check_digest(life).map_err(|what| format!("n{machine}: {what}"))?;
        }
        let past = self.lives.iter().flatten().find_map(|life| life.node.server.state().past.of(VOLUME));
        if let Some((swept, kept)) = past.map(|past| (past.pass.is_none() && past.horizon > past.made, past.kept.len()))
        {
            if swept {
                self.cover.hit("pruned_all_gone");
            }
            if kept > 0 {
                self.cover.hit("pruned_kept");
            }
        }
        Ok(())
    }

    /// Applies the log once more, and tells of the past before each entry, of the entry, and of the past behind it.
    pub(crate) fn apply_without_sweeps(
        &self,
        mut applied: impl FnMut(Option<&VolumePast>, &Entry, Option<&VolumePast>) -> Result<(), String>,
    ) -> Result<Records<MemEngine>, String> {
        let identity = Identity { cluster: ClusterId([7; 16]), node: NodeId(77) };
        let (records, _) = Records::open(MemEngine::new(), identity).map_err(|error| error.to_string())?;
        let (swept, _) = Records::open(MemEngine::new(), identity).map_err(|error| error.to_string())?;
        let (mut state, mut state_swept) = (State::default(), State::default());
        for (index, (_, data)) in self.judge.committed() {
            let entry = match data.is_empty() {
                true => None,
                false => Some(Entry::decode(data).map_err(|error| error.to_string())?),
            };
            if *index != state.applied.0 + 1 {
                return Err(format!("nobody was seen to apply entry {}", state.applied.0 + 1));
            }
            let live = swept.live(state_swept.tid);
            // Which blobs are named is a matter of what was swept; nothing else may be.
            let unswept = Unswept { live: records.live(state.tid), swept: swept.live(state.tid) };
            let (last, before) = (state.tid, state.past.of(VOLUME).cloned());
            let done = gavel_txn::apply(&mut state_swept, &live, LogIndex(*index), entry.as_ref());
            let done = done.map_err(|error| error.to_string())?;
            swept.apply(&done.changes, &done.removals).map_err(|error| error.to_string())?;
            swept.set_origins(state_swept.past.origins());
            let entry = entry.map(|entry| without_sweeps(entry, &state));
            let done = gavel_txn::apply(&mut state, &unswept, LogIndex(*index), entry.as_ref());
            let done = done.map_err(|error| error.to_string())?;
            records.set_origins(state.past.origins());
            records.apply(&done.changes, &[]).map_err(|error| error.to_string())?;
            if let Some(entry) = entry.filter(|entry| entry.tid > last) {
                applied(before.as_ref(), &entry, state.past.of(VOLUME))?;
            }
        }
        Ok(records)
    }
}

/// A replica that never sweeps, but for which blobs it names.
struct Unswept<V> {
    live: V,
    swept: V,
}

impl<V: Ended> View for Unswept<V> {
    fn tid(&self) -> Tid {
        self.live.tid()
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.live.get(key)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        self.live.scan(range, limit)
    }
}

impl<V: Ended> Live for Unswept<V> {
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError> {
        self.live.changed_after(range, after)
    }
}

impl<V: Ended> Ended for Unswept<V> {
    fn ended_from(
        &self,
        volume: VolumeId,
        after: Option<(&Key, Tid)>,
        limit: usize,
    ) -> Result<Vec<(Key, Tid, Version)>, ViewError> {
        self.live.ended_from(volume, after, limit)
    }

    fn ended_at(&self, key: &Key, delete: Tid) -> Result<Option<Version>, ViewError> {
        self.live.ended_at(key, delete)
    }

    fn changed_beside(&self, volume: VolumeId, tid: Tid, key: &Key) -> Result<bool, ViewError> {
        self.live.changed_beside(volume, tid, key)
    }

    fn last_ended(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.live.last_ended(key)
    }

    fn names(&self, blob: BlobId) -> Result<bool, ViewError> {
        self.swept.names(blob)
    }

    fn own(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.live.own(key)
    }

    fn own_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        self.live.own_scan(range, limit)
    }

    fn past(&self, tid: Tid) -> Box<dyn View + '_> {
        self.live.past(tid)
    }
}

/// The same entry, with items in place of the sweeps that do nothing: places in an entry are Tids. What only counts stays.
fn without_sweeps(mut entry: Entry, state: &State) -> Entry {
    let counts = |volume: VolumeId| state.past.of(volume).is_some_and(VolumePast::is_being_counted);
    for item in &mut entry.items {
        if let Item::Sweep { volume, .. } = item
            && !counts(*volume)
        {
            *volume = VolumeId(u32::MAX);
        }
    }
    entry
}

/// States that can be read: all that are kept, and some from the horizon on.
fn states(past: &VolumePast, last: Tid) -> Vec<Tid> {
    let step = (last.0 - past.horizon.0) / STATES_MAX as u64 + 1;
    let whole = (past.horizon.0..=last.0).step_by(step as usize).map(Tid);
    past.kept.iter().copied().chain(whole).chain([last]).collect()
}

/// The digest of the records is the sum over the rows of the change index.
fn check_digest(life: &Life) -> Result<(), String> {
    let (rows, _) = life.records.changes(Tid::ZERO, Tid::MAX, 0, usize::MAX).map_err(|error| error.to_string())?;
    let mut digest = Digest::default();
    rows.iter().for_each(|row| digest.add(row.tid, &row.key, row.version.as_ref()));
    match digest == life.node.server.state().records {
        true => Ok(()),
        false => Err("the digest is not that of the change index".into()),
    }
}

/// Behind the end of a sweep there is nothing left that no state shows.
fn check_gone(life: &Life, volume: VolumeId, past: &VolumePast) -> Result<(), String> {
    if past.pass.is_some() {
        return Ok(());
    }
    let live = life.records.live(life.node.server.state().tid);
    let ended = live.ended_from(volume, None, usize::MAX).map_err(|error| error.to_string())?;
    // Of what keeps less than the volume, more may be left: its class may have changed behind the sweep.
    let left = ended
        .into_iter()
        .find(|(_, delete, version)| !past.readable().shows(Span { create: version.create, delete: Some(*delete) }));
    match left {
        Some((key, delete, version)) => Err(format!("{key:?} [{}, {delete}) was not swept", version.create)),
        None => Ok(()),
    }
}

/// Is what a replica shows as of a state what was there then? All of it, but for objects that have kept less than the volume at some time: of
/// these all or nothing. Says how many such objects are not there, or, in words, what is wrong.
fn lost(
    (volume, past): (VolumeId, &VolumePast),
    view: &dyn View,
    unpruned: &Records<MemEngine>,
    at: Tid,
) -> Result<Result<usize, String>, ViewError> {
    // Who made which commit is no part of a state.
    let rows = |view: &dyn View| -> Result<BTreeMap<ObjectId, Vec<(Key, Version)>>, ViewError> {
        let mut objects: BTreeMap<ObjectId, Vec<(Key, Version)>> = BTreeMap::new();
        for (key, version) in view.scan(&everything(volume), usize::MAX)? {
            if !matches!(key.parts(), KeyParts::Commit { .. }) {
                objects.entry(key.object()).or_default().push((key, version));
            }
        }
        Ok(objects)
    };
    let (mut found, mut lacking) = (rows(view)?, 0);
    for (object, was) in rows(&unpruned.at(at))? {
        let is = found.remove(&object).unwrap_or_default();
        let has_attr = is.iter().any(|(key, _)| key.parts() == KeyParts::Attr);
        if is == was {
            continue;
        }
        if has_attr || object == ObjectId::VOLUME || !may_lack((volume, past), unpruned, object, at)? {
            return Ok(Err(format!("has {is:?} of {object}, where {was:?} was")));
        }
        lacking += 1;
    }
    match found.into_iter().next() {
        Some((object, is)) => Ok(Err(format!("has {is:?} of {object}, which was not there"))),
        None => Ok(Ok(lacking)),
    }
}

/// Has the object ever had a class of which the state is not kept?
fn may_lack(
    (volume, past): (VolumeId, &VolumePast),
    unpruned: &Records<MemEngine>,
    object: ObjectId,
    at: Tid,
) -> Result<bool, ViewError> {
    let keeping = past.keeping();
    for row in unpruned.past(Tid::MAX).versions(&KeyRange::one(&Key::attr(volume, object))) {
        if let Record::Attr(attr) = row?.version.record
            && !keeping.of(attr.firm.class).has(at)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
