//! Past states that go: policies, names and pins that are asked for, and whether what stays is whole at the end.
//!
//! The log is applied once more to a replica that never sweeps. Every state that the others can read must be what it is
//! there; and what no such state shows must be gone once a sweep has come to its end.

use crate::clock::MS;
use crate::dice::mix;
use crate::fsck::everything;
use crate::machine::{Life, hash};
use crate::rest::VOLUME;
use crate::script::{Fault, What};
use crate::world::World;
use gavel_store::engine::MemEngine;
use gavel_store::records::{Identity, Records};
use gavel_txn::prune::Span;
use gavel_txn::{Digest, State, VolumePast};
use gavel_types::retention::Rule;
use gavel_types::{ClusterId, KeyParts, LogIndex, NodeId, Retention, Tid, VolumeId};
use gavel_wire::{Ended, Entry, Item, RequestBody, View, ViewError};

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
            What::Pin { node, ago_ms, .. } => {
                let Some(at) = self.state_of(node % nodes, ago_ms) else { return };
                self.cover.hit("pinned");
                (node, RequestBody::Pin { volume: VOLUME, at })
            }
            _ => return,
        };
        self.ask(node % nodes, body);
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

    fn ask(&mut self, machine: usize, body: RequestBody) {
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
        let unpruned = self.apply_without_sweeps()?;
        for (machine, life) in self.lives.iter().enumerate() {
            let Some(life) = life else { continue };
            let state = life.node.server.state();
            let Some(past) = state.past.of(VOLUME) else { continue };
            for at in states(past, state.tid) {
                let sum = |records: &Records<_>| fingerprint(&records.at(at)).map_err(|error| error.to_string());
                if sum(&life.records)? != fingerprint(&unpruned.at(at)).map_err(|error| error.to_string())? {
                    return Err(format!("n{machine}: the state as of {at} has lost something to pruning"));
                }
            }
            check_digest(life).map_err(|what| format!("n{machine}: {what}"))?;
            check_gone(life, past).map_err(|what| format!("n{machine}: {what}"))?;
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

    fn apply_without_sweeps(&self) -> Result<Records<MemEngine>, String> {
        let identity = Identity { cluster: ClusterId([7; 16]), node: NodeId(77) };
        let (records, _) = Records::open(MemEngine::new(), identity).map_err(|error| error.to_string())?;
        let mut state = State::default();
        for (index, (_, data)) in self.judge.committed() {
            let entry = match data.is_empty() {
                true => None,
                false => Some(without_sweeps(Entry::decode(data).map_err(|error| error.to_string())?)),
            };
            if *index != state.applied.0 + 1 {
                return Err(format!("nobody was seen to apply entry {}", state.applied.0 + 1));
            }
            let live = records.live(state.tid);
            let applied = gavel_txn::apply(&mut state, &live, LogIndex(*index), entry.as_ref());
            let applied = applied.map_err(|error| error.to_string())?;
            records.apply(&applied.changes, &[]).map_err(|error| error.to_string())?;
        }
        Ok(records)
    }
}

/// The same entry, with items in place of the sweeps that do nothing: places in an entry are Tids.
fn without_sweeps(mut entry: Entry) -> Entry {
    for item in &mut entry.items {
        if let Item::Sweep { volume, .. } = item {
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
fn check_gone(life: &Life, past: &VolumePast) -> Result<(), String> {
    if past.pass.is_some() {
        return Ok(());
    }
    let live = life.records.live(life.node.server.state().tid);
    let ended = live.ended_from(VOLUME, None, usize::MAX).map_err(|error| error.to_string())?;
    let left = ended
        .into_iter()
        .find(|(_, delete, version)| !past.readable().shows(Span { create: version.create, delete: Some(*delete) }));
    match left {
        Some((key, delete, version)) => Err(format!("{key:?} [{}, {delete}) was not swept", version.create)),
        None => Ok(()),
    }
}

/// A hash of everything that a view sees, but for who made which commit: that is no part of a state.
fn fingerprint(view: &dyn View) -> Result<u64, ViewError> {
    let mut found = view.scan(&everything(VOLUME), usize::MAX)?;
    found.retain(|(key, _)| !matches!(key.parts(), KeyParts::Commit { .. }));
    Ok(found
        .iter()
        .fold(0, |sum, (key, version)| mix(sum ^ hash(key.as_bytes()) ^ hash(&version.encode()).rotate_left(1))))
}
