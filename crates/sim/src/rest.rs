//! The end of a world: everything comes to rest, and what is left is looked at as a whole.

use crate::clock::MS;
use crate::fsck::Tree;
use crate::linear::Interval;
use crate::models::{Ask, Said, Subject};
use crate::world::{Event, REST_NS_MAX, SETUP_NS_MAX, World};
use gavel_store::engine::{Engine, Snapshot};
use gavel_types::{BlobId, Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::Lived;
use gavel_wire::{Content, Record, View};
use std::collections::BTreeSet;

/// The world is looked at so often.
const LOOK_NS: u64 = 100 * MS;
/// Behind the last fault, somebody leads within this: twelve election timeouts.
const LEADER_NS_MAX: u64 = 12_000 * MS;
pub(crate) const VOLUME: VolumeId = VolumeId::FIRST;
/// The engine's rows that are each replica's own (identity, sealed state) begin with this.
const META: u8 = b'M';

/// All rows of a replica.
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

impl World {
    /// Looks at the whole. True if it has come to rest.
    pub(crate) fn look(&mut self) -> bool {
        self.at(LOOK_NS, Event::Look);
        if self.setup_done.is_none() && self.now > SETUP_NS_MAX {
            self.wrong("the programs could not begin");
        }
        self.check_past_now_and_then();
        if self.running().any(|(_, life)| life.node.server.state().staged.groups().next().is_some()) {
            self.cover.hit("staged_shown");
        }
        let Some(calm) = self.calm else { return false };
        self.close_all();
        let Err(restless) = self.is_at_rest() else { return true };
        let leads = self.lives.iter().flatten().any(|life| life.leads);
        if !leads && self.now - calm > LEADER_NS_MAX {
            self.wrong(format!("nobody leads {} ms after the last fault", (self.now - calm) / MS));
        }
        if self.now - calm > REST_NS_MAX {
            self.wrong(format!("no rest {} ms after the last fault: {restless}", (self.now - calm) / MS));
        }
        false
    }

    fn is_at_rest(&self) -> Result<(), String> {
        if let Some((token, job)) = self.jobs.first_key_value() {
            return Err(format!("job {token} on n{} waits for {:?}", job.machine, job.wait));
        }
        self.lockers_rest()?;
        self.namers_rest()?;
        self.transactions_rest()?;
        let mut states = Vec::new();
        for machine in &self.machines {
            let Some(life) = &self.lives[machine.number] else {
                if machine.ruined.is_some() {
                    continue;
                }
                return Err(format!("n{} is down", machine.number));
            };
            if self.is_frozen(machine.number) || life.node.server.is_catching_up() {
                return Err(format!("n{} is catching up", machine.number));
            }
            if life.node.session.id().is_none() {
                return Err(format!("n{} has no session", machine.number));
            }
            if life.pending.accepted() != life.pending.landed() {
                return Err(format!("n{} has pending plans", machine.number));
            }
            if !life.lost.is_empty() || life.node.offers() > 0 {
                return Err(format!("n{} has plans to offer again", machine.number));
            }
            // A leader's clock was ahead, and so are Tids: what is marked is collected when clocks have caught up with them.
            let ahead = life.node.server.state().tid.0 > machine.clock(self.now).wall_ns;
            let left = if ahead { Vec::new() } else { self.unnamed_blobs(machine.number)? };
            if !left.is_empty() || life.blobs.unburied() > 0 {
                return Err(format!("n{} has blobs that nothing names: {left:?}", machine.number));
            }
            let state = life.node.server.state();
            let live = life.records.live(state.tid);
            for (volume, past) in state.past.volumes() {
                // What is being removed is looked at by no one.
                if past.stage == gavel_txn::Stage::Going {
                    continue;
                }
                let orphans = live.scan(&KeyRange::orphans_from(volume, ObjectId(0)), 1);
                if orphans.as_ref().map_or(true, |orphans| !orphans.is_empty()) {
                    return Err(format!("there are orphans in volume {volume} on n{}: {orphans:?}", machine.number));
                }
            }
            if !state.staged.is_empty() {
                return Err(format!(
                    "something is staged, or was not reaped, on n{}: {:?}",
                    machine.number, state.staged
                ));
            }
            if !state.locks.is_empty() {
                return Err(format!("there are locks on n{}: {:?}", machine.number, state.locks));
            }
            states.push((machine.number, state.applied, state.digest()));
        }
        match states.windows(2).find(|pair| (pair[0].1, pair[0].2) != (pair[1].1, pair[1].2)) {
            Some(pair) => Err(format!("n{} is at {}, n{} at {}", pair[0].0, pair[0].1, pair[1].0, pair[1].1)),
            None => Ok(()),
        }
    }

    /// Looks at everything that is left. Gives how many histories could not be decided.
    pub(crate) fn final_checks(&mut self) -> u64 {
        let checked = self.check_reported().and_then(|()| self.check_replicas()).and_then(|first| {
            self.check_pruned()?;
            self.check_schedules()?;
            self.check_tree(first)?;
            self.check_other_volumes(first)?;
            self.check_commits(first)?;
            self.judge.serial.check(&self.judge.past)?;
            Ok(self.check_names(first)? + self.check_answers(first)?)
        });
        if checked.is_ok() {
            self.check_whole_past();
        }
        checked.unwrap_or_else(|what| {
            self.wrong(what);
            0
        })
    }

    fn running(&self) -> impl Iterator<Item = (usize, &crate::machine::Life)> {
        self.lives.iter().enumerate().filter_map(|(machine, life)| Some((machine, life.as_ref()?)))
    }

    /// Whatever a node that lives has answered has landed, was committed when it was offered again, or is a conflict.
    fn check_reported(&self) -> Result<(), String> {
        match self.running().find(|(_, life)| !life.unreported.is_empty()) {
            Some((machine, life)) => Err(format!("n{machine} never said what became of plans {:?}", life.unreported)),
            None => Ok(()),
        }
    }

    /// All replicas hold the same rows. Gives the first one that runs.
    fn check_replicas(&self) -> Result<usize, String> {
        let mut first: Option<(usize, Rows)> = None;
        for (machine, life) in self.running() {
            let snapshot = life.records.engine().snapshot();
            let rows: Result<Vec<_>, _> = snapshot
                .range(&[0], &[u8::MAX])
                .filter(|row| row.as_ref().map_or(true, |(key, _)| key[0] != META))
                .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect();
            let rows = rows.map_err(|error| format!("n{machine}: {error}"))?;
            match &first {
                None => {
                    let report = life.records.check().map_err(|error| format!("n{machine}: {error}"))?;
                    if !report.problems.is_empty() {
                        return Err(format!("records of n{machine}: {:?}", report.problems));
                    }
                    first = Some((machine, rows));
                }
                Some((other, theirs)) if *theirs != rows => {
                    let differs = rows.iter().zip(theirs).find(|(ours, theirs)| ours != theirs);
                    return Err(format!("n{machine} and n{other} hold other records: {differs:?}"));
                }
                Some(_) => {}
            }
        }
        first.map(|(machine, _)| machine).ok_or_else(|| "no node runs".into())
    }

    fn check_tree(&mut self, machine: usize) -> Result<(), String> {
        let Some(life) = &self.lives[machine] else { return Ok(()) };
        let state = life.node.server.state();
        let tree = Tree::read(&life.records.live(state.tid), VOLUME).map_err(|error| error.to_string())?;
        let counted = state.volumes.get(&VOLUME).map(|counts| (counts.objects, counts.bytes));
        if counted != Some(tree.counts()) {
            return Err(format!("the volume counts {counted:?}, and has {:?}", tree.counts()));
        }
        let mut blobs = tree.blobs.clone();
        blobs.extend(named_blobs(life)?);
        let problems = tree.check();
        if !problems.is_empty() {
            return Err(format!("the tree is not whole: {problems:?}"));
        }
        self.check_blobs(&blobs)
    }

    /// Every blob that a version names is on a majority of the disks.
    pub(crate) fn check_blobs(&mut self, blobs: &BTreeSet<BlobId>) -> Result<(), String> {
        for id in blobs {
            let holds = |life: &crate::machine::Life| matches!(life.blobs.get(*id), Ok(Some(_)));
            let held = self.running().filter(|(_, life)| holds(life)).count();
            let ruined = self.machines.iter().filter(|machine| machine.ruined.is_some()).count();
            if (held + ruined) * 2 <= self.machines.len() || held == 0 {
                let named = self.running().next().map(|(_, life)| namers(life, *id)).transpose()?;
                return Err(format!("blob {id} is on {held} nodes only, and is named by {named:?}"));
            }
        }
        Ok(())
    }

    /// What a program was told is committed is in the history.
    fn check_commits(&mut self, machine: usize) -> Result<(), String> {
        let Some(life) = &self.lives[machine] else { return Ok(()) };
        let (rows, _) = life.records.changes(Tid::ZERO, Tid::MAX, 0, usize::MAX).map_err(|error| error.to_string())?;
        let tids: BTreeSet<Tid> = rows.iter().map(|row| row.tid).collect();
        let reaped = rows.iter().any(|row| row.version.is_none() && matches!(row.key.parts(), KeyParts::Orphan { .. }));
        let horizon = life.node.server.state().past.of(VOLUME).map_or(Tid::ZERO, |past| past.horizon);
        let known = self.judge.acknowledged.range(horizon..);
        let lost = |tid: &&Tid| !tids.contains(tid) && !self.judge.past.is_elsewhere(**tid);
        if let Some(lost) = known.into_iter().find(lost) {
            return Err(format!("commit {lost} was acknowledged, and is not in the history"));
        }
        if reaped {
            self.cover.hit("orphan_reaped");
        }
        Ok(())
    }

    /// Every object could have given the answers that it gave.
    fn check_answers(&mut self, machine: usize) -> Result<u64, String> {
        let subjects: Vec<Subject> = self.judge.history.subjects().copied().collect();
        for subject in subjects {
            let Some(last) = self.last_answer(machine, &subject)? else { continue };
            let (called, returned) = (self.fresh(), Some(self.fresh()));
            self.judge.history.add(subject, Interval { called, returned, call: last }, None);
        }
        self.judge.history.check().map_err(|subject| {
            let calls: Vec<String> = self.judge.history.of(&subject).iter().map(in_words).collect();
            format!("no order of its calls explains the answers of {subject:?}:\n    {}", calls.join("\n    "))
        })
    }

    /// What a program would be told that asked now.
    fn last_answer(&self, machine: usize, subject: &Subject) -> Result<Option<(Ask, Option<Said>)>, String> {
        let Some(life) = &self.lives[machine] else { return Ok(None) };
        let view = life.records.live(life.node.server.state().tid);
        let get = |key: Key| view.get(&key).map(|found| found.map(|version| version.record)).map_err(|e| e.to_string());
        Ok(Some(match subject {
            Subject::Name(directory, number) => match get(Key::dirent(VOLUME, *directory, &[b'a' + number]))? {
                Some(Record::Dirent(dirent)) => (Ask::Find, Some(Said::Object(dirent.object))),
                _ => (Ask::Find, Some(Said::Absent)),
            },
            Subject::Register(object, 0) => {
                let words = self.words(machine, &view, *object)?;
                (Ask::Get, Some(Said::Value(words.first().copied().unwrap_or(0))))
            }
            Subject::Register(object, number) => {
                let name = format!("user.{number}");
                let value = match get(Key::xattr(VOLUME, *object, name.as_bytes()))? {
                    Some(Record::Xattr(value)) => value.first_chunk().map_or(0, |word| u64::from_le_bytes(*word)),
                    _ => 0,
                };
                (Ask::Get, Some(Said::Value(value)))
            }
            Subject::Journal(object) => (Ask::List, Some(Said::Values(self.words(machine, &view, *object)?))),
        }))
    }

    /// A file's bytes, read extent by extent, with none of the code that reads for programs.
    fn words(&self, machine: usize, view: &dyn View, file: ObjectId) -> Result<Vec<u64>, String> {
        let mut bytes = Vec::new();
        let extents = view.scan(&KeyRange::extents_behind(VOLUME, file, 0), usize::MAX);
        for (key, version) in extents.map_err(|error| error.to_string())? {
            let Record::Extent(extent) = version.record else { return Err(format!("{key:?} is no extent")) };
            match extent.content {
                Content::Inline(inline) => bytes.extend_from_slice(&inline),
                Content::Zeros => bytes.resize(bytes.len() + extent.len as usize, 0),
                Content::Blob { id, offset, .. } => {
                    let blob = self
                        .running()
                        .chain(self.running().take(machine))
                        .find_map(|(_, life)| life.blobs.get(id).ok().flatten());
                    let blob = blob.ok_or_else(|| format!("blob {id} is nowhere"))?;
                    let run = blob.get(offset as usize..offset as usize + extent.len as usize);
                    bytes.extend_from_slice(run.ok_or_else(|| format!("blob {id} is too short"))?);
                }
            }
        }
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }
}

fn in_words(interval: &Interval<(Ask, Option<Said>)>) -> String {
    let Interval { called, returned, call: (ask, said) } = interval;
    match (returned, said) {
        (Some(returned), Some(said)) => format!("{called}..{returned} {ask:?} -> {said:?}"),
        _ => format!("{called}.. {ask:?} -> unknown"),
    }
}

/// The blobs that the past names, and the present.
fn named_blobs(life: &crate::machine::Life) -> Result<Vec<BlobId>, String> {
    let (rows, _) = life.records.changes(Tid::ZERO, Tid::MAX, 0, usize::MAX).map_err(|error| error.to_string())?;
    Ok(rows.iter().filter_map(|row| row.version.as_ref()?.blob()).collect())
}

/// The versions that name a blob.
fn namers(life: &crate::machine::Life, blob: BlobId) -> Result<Vec<Lived>, String> {
    let mut found = Vec::new();
    let each = |id: BlobId, lived: Lived| {
        if id == blob {
            found.push(lived);
        }
        true
    };
    life.records.each_name(each).map_err(|error| error.to_string())?;
    Ok(found)
}
