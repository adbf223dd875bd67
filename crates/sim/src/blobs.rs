//! Blobs on their way: stored on a majority before the commit that names them, fetched from whoever has them.

use crate::clock::MS;
use crate::jobs::{ASK_AGAIN_NS, Job, Wait};
use crate::network::Packet;
use crate::world::{Event, World};
use bytes::Bytes;
use gavel_client::Step;
use gavel_client::run::Blobs;
use gavel_store::blob::Cursor;
use gavel_types::{Blob, BlobId, LogIndex, Tid};
use gavel_wire::BlobNews;
use std::collections::{BTreeMap, BTreeSet};

/// Of a thousand ticks, so many are followed by each kind of a step of collection.
const COLLECT_PERMILLE: u32 = 120;
/// What was stored so long ago, and is not named, may be collected: shorter than many a commit waits, so that they meet.
const UNNAMED_AGE_NS: u64 = 50 * MS;

/// Bytes that are being placed on a majority.
#[derive(Debug)]
pub(crate) struct Placing {
    id: BlobId,
    bytes: Bytes,
    /// Who has stored it, and as of which transaction.
    stored: BTreeMap<usize, Tid>,
    asked_at: u64,
}

impl Placing {
    fn new(bytes: Bytes, now: u64) -> Placing {
        Placing { id: BlobId::of(&bytes), bytes, stored: BTreeMap::new(), asked_at: now }
    }
}

/// Whose bytes are being stored.
#[derive(Clone, Debug)]
enum Whose {
    /// Those of a plan that was accepted.
    Plan(u64),
    /// Those of a program's transaction, of this id.
    Transaction(usize, String),
}

/// Bytes that nobody waits for at once.
#[derive(Debug)]
pub(crate) struct Storing {
    machine: usize,
    life: u64,
    whose: Whose,
    placing: Placing,
}

impl World {
    /// The bytes of an accepted plan are to be stored on a majority.
    pub(crate) fn store_behind(&mut self, machine: usize, number: u64, bytes: Bytes) {
        self.store_aside(machine, Whose::Plan(number), bytes);
    }

    /// The bytes of a transaction are to be stored on a majority.
    pub(crate) fn store_for_txn(&mut self, machine: usize, program: usize, id: String, bytes: Bytes) {
        self.store_aside(machine, Whose::Transaction(program, id), bytes);
    }

    fn store_aside(&mut self, machine: usize, whose: Whose, bytes: Bytes) {
        let token = self.fresh();
        let placing = Placing::new(bytes, self.now);
        let Some(life) = self.lives[machine].as_ref().map(|life| life.number) else { return };
        self.storing.insert(token, Storing { machine, life, whose, placing });
        self.put_everywhere(token);
    }

    fn placing(&mut self, token: u64) -> Option<(usize, &mut Placing)> {
        if let Some(Storing { machine, placing, .. }) = self.storing.get_mut(&token) {
            return Some((*machine, placing));
        }
        match self.jobs.get_mut(&token) {
            Some(Job { machine, wait: Wait::Store(placing), .. }) => Some((*machine, placing)),
            _ => None,
        }
    }

    /// A job's bytes are to be stored on a majority.
    pub(crate) fn store_blob(&mut self, token: u64, bytes: Bytes) {
        let now = self.now;
        if let Some(job) = self.jobs.get_mut(&token) {
            job.wait = Wait::Store(Placing::new(bytes, now));
        }
        self.put_everywhere(token);
    }

    fn put_everywhere(&mut self, token: u64) {
        let now = self.now;
        let Some((machine, placing)) = self.placing(token) else { return };
        placing.asked_at = now;
        let (id, bytes, stored) = (placing.id, placing.bytes.clone(), placing.stored.clone());
        for to in (0..self.machines.len()).filter(|to| !stored.contains_key(to)) {
            let packet = Packet::BlobPut { wait: token, id, bytes: bytes.clone() };
            if to == machine { self.deliver_blob(machine, to, packet) } else { self.send(machine, to, packet) }
        }
    }

    /// A job needs these blobs.
    pub(crate) fn fetch_blobs(&mut self, token: u64, ids: Vec<BlobId>) {
        let Some(machine) = self.jobs.get(&token).map(|job| job.machine) else { return };
        let (mut got, mut left) = (Blobs::new(), Vec::new());
        let program = self.jobs.get(&token).map_or(0, |job| job.program);
        for id in ids {
            let held = self.programs[program].txn.as_ref().and_then(|txn| txn.held(&id));
            match held.or_else(|| self.own_blob(machine, id)) {
                Some(bytes) => drop(got.insert(id, bytes)),
                None => left.push(id),
            }
        }
        let now = self.now;
        if let Some(job) = self.jobs.get_mut(&token) {
            job.wait = Wait::Fetch { left, got, asked: machine, asked_at: now };
        }
        self.ask_for_blobs(token);
    }

    pub(crate) fn own_blob(&mut self, machine: usize, id: BlobId) -> Option<Bytes> {
        match self.lives[machine].as_ref()?.blobs.get(id) {
            Ok(found) => found,
            Err(error) => {
                self.wrong(format!("n{machine}: {error}"));
                None
            }
        }
    }

    /// Asks the next node for what is missing, or lets the job go on.
    fn ask_for_blobs(&mut self, token: u64) {
        let (now, nodes) = (self.now, self.machines.len());
        let Some(job) = self.jobs.get_mut(&token) else { return };
        let machine = job.machine;
        let Wait::Fetch { left, got, asked, asked_at } = &mut job.wait else { return };
        if left.is_empty() {
            let step = job.run.fetched(&std::mem::take(got));
            job.wait = Wait::Session;
            match step {
                Step::Done(result) => self.job_done(token, result),
                other => self.wrong(format!("a run that had its blobs went on with {other:?}")),
            }
            return;
        }
        *asked = (*asked + 1) % nodes;
        if *asked == machine {
            *asked = (*asked + 1) % nodes;
        }
        *asked_at = now;
        let (to, ids) = (*asked, left.clone());
        if to == machine {
            return self.wrong(format!("blob {} is nowhere", ids[0]));
        }
        for id in ids {
            self.send(machine, to, Packet::BlobGet { wait: token, id });
        }
    }

    /// A packet about a blob arrives.
    pub(crate) fn deliver_blob(&mut self, from: usize, to: usize, packet: Packet) {
        match packet {
            Packet::BlobPut { wait, id, bytes } => {
                let Some(life) = &mut self.lives[to] else { return };
                let blob = Blob::of(bytes);
                assert_eq!(blob.id(), id, "packets are not changed on their way");
                match life.blobs.put_many(&[blob]) {
                    Ok(as_of) => life.unsynced_blobs.push((from, wait, id, as_of)),
                    Err(error) => return self.wrong(format!("n{to}: {error}")),
                }
                self.sync_blobs(to);
            }
            Packet::BlobStored { wait, id, as_of } => self.blob_stored(wait, from, id, as_of),
            Packet::BlobGet { wait, id } => {
                let bytes = self.own_blob(to, id);
                self.send(to, from, Packet::BlobData { wait, id, bytes });
            }
            Packet::BlobData { wait, id, bytes } => self.blob_came(wait, id, bytes),
            Packet::Node(_) => {}
        }
    }

    fn sync_blobs(&mut self, machine: usize) {
        let times = self.machines[machine].disk_times;
        let Some(life) = &mut self.lives[machine] else { return };
        if life.blob_syncing || life.unsynced_blobs.is_empty() {
            return;
        }
        life.blob_syncing = true;
        let number = life.number;
        let delay = self.delays.between(MS / 2, 5 * MS) * times;
        self.at(delay, Event::BlobsDone { machine, life: number });
    }

    /// Blobs that were written are durable now.
    pub(crate) fn blobs_done(&mut self, machine: usize, number: u64) {
        let Some(life) = self.life(machine, number) else { return };
        life.blob_syncing = false;
        let synced = life.blobs.sync();
        let told = std::mem::take(&mut life.unsynced_blobs);
        if let Err(error) = synced {
            return self.wrong(format!("n{machine}: {error}"));
        }
        for (to, wait, id, as_of) in told {
            if to == machine {
                self.blob_stored(wait, machine, id, as_of);
            } else {
                self.send(machine, to, Packet::BlobStored { wait, id, as_of });
            }
        }
    }

    fn blob_stored(&mut self, token: u64, by: usize, stored_id: BlobId, as_of: Tid) {
        let nodes = self.machines.len();
        let Some((machine, placing)) = self.placing(token).filter(|(_, placing)| placing.id == stored_id) else {
            return;
        };
        // A later answer of the same node says no less.
        placing.stored.entry(by).or_insert(as_of);
        if placing.stored.len() * 2 <= nodes {
            return;
        }
        let as_of = placing.stored.values().copied().min().unwrap_or_default();
        self.cover.hit("blob_stored");
        if let Some(Storing { life, whose, .. }) = self.storing.remove(&token) {
            let Some(life) = self.life(machine, life) else { return };
            match whose {
                Whose::Plan(number) => {
                    life.pending.stored(number, as_of);
                    self.stored_lost(machine, number, as_of);
                    self.ship(machine);
                }
                Whose::Transaction(program, id) => self.stored_within(program, &id, as_of),
            }
        } else if let Some(job) = self.jobs.get_mut(&token) {
            job.run.stored(as_of);
            job.wait = Wait::View(LogIndex(0));
        }
        self.pump(machine);
    }

    fn blob_came(&mut self, token: u64, id: BlobId, bytes: Option<Bytes>) {
        let Some(job) = self.jobs.get_mut(&token) else { return };
        let machine = job.machine;
        let Wait::Fetch { left, got, .. } = &mut job.wait else { return };
        let Some(bytes) = bytes.filter(|_| left.contains(&id)) else { return };
        left.retain(|missing| *missing != id);
        got.insert(id, bytes);
        if left.is_empty() {
            self.cover.hit("blob_fetched");
            self.ask_for_blobs(token);
            self.pump(machine);
        }
    }

    /// What was not answered is asked again.
    pub(crate) fn retry_blobs(&mut self, machine: usize) {
        let now = self.now;
        let late = |asked_at: u64| now - asked_at >= ASK_AGAIN_NS;
        let lives: Vec<Option<u64>> = self.lives.iter().map(|life| life.as_ref().map(|life| life.number)).collect();
        self.storing.retain(|_, storing| lives[storing.machine] == Some(storing.life));
        let behind = self.storing.iter().filter(|(_, one)| one.machine == machine && late(one.placing.asked_at));
        let behind: Vec<(u64, bool)> = behind.map(|(token, _)| (*token, true)).collect();
        let jobs = self.jobs.iter().filter(|(_, job)| job.machine == machine);
        let jobs = jobs.filter_map(|(token, job)| match &job.wait {
            Wait::Store(placing) if late(placing.asked_at) => Some((*token, true)),
            Wait::Fetch { asked_at, .. } if late(*asked_at) => Some((*token, false)),
            _ => None,
        });
        for (token, stores) in behind.into_iter().chain(jobs.collect::<Vec<_>>()) {
            if stores { self.put_everywhere(token) } else { self.ask_for_blobs(token) }
        }
    }

    /// What an entry has made of blobs.
    pub(crate) fn blob_news(&mut self, machine: usize, news: &BlobNews) {
        let Some(life) = &mut self.lives[machine] else { return };
        life.condemned.extend(&news.condemned);
        for blob in &news.released {
            life.condemned.remove(blob);
        }
        life.blobs.collect(&news.collected);
        let collected = !news.collected.is_empty();
        for (mark, hit) in [
            ("condemned", !news.condemned.is_empty()),
            ("rescued", news.released.len() > news.collected.len()),
            ("collected", collected),
        ] {
            if hit {
                self.cover.hit(mark);
            }
        }
        if collected {
            self.note(|| format!("n{machine}: collected {:?}", news.collected));
        }
    }

    /// The replica has skipped a part of the log.
    pub(crate) fn blobs_skipped(&mut self, machine: usize, tid: Tid) {
        let Some(life) = &mut self.lives[machine] else { return };
        life.condemned = life.node.server.state().collection.condemned().keys().copied().collect();
        if let Err(error) = life.blobs.pass_over(tid) {
            return self.wrong(format!("n{machine}: {error}"));
        }
        self.cover.hit("collection_passed");
    }

    pub(crate) fn blobs_applied(&mut self, machine: usize, tid: Tid) {
        if let Some(life) = &self.lives[machine] {
            life.blobs.applied(tid);
        }
    }

    /// Now and then a machine buries, rewrites a segment or a part of it, and looks for what nothing names.
    pub(crate) fn collect_blobs(&mut self, machine: usize) {
        let bury = self.delays.permille(COLLECT_PERMILLE).then(|| 1 + self.delays.below(8) as usize);
        let copies = self.delays.permille(COLLECT_PERMILLE).then(|| self.delays.below(12));
        let walk = self.delays.permille(COLLECT_PERMILLE);
        if let Err(what) = self.try_to_collect(machine, bury, copies, walk) {
            self.wrong(format!("n{machine}: {what}"));
        }
    }

    fn try_to_collect(
        &mut self,
        machine: usize,
        bury: Option<usize>,
        copies: Option<u64>,
        walk: bool,
    ) -> Result<(), String> {
        let clock = self.machines[machine].clock(self.now);
        let Some(life) = &mut self.lives[machine] else { return Ok(()) };
        if let Some(most) = bury {
            let pending = &life.pending;
            life.blobs.bury(most, &|blob| pending.blob(&blob).is_some()).map_err(|error| error.to_string())?;
        }
        if let Some(mut left) = copies {
            let go_on = |_| {
                left = left.saturating_sub(1);
                left > 0
            };
            let done = life.blobs.compact(&BTreeSet::new(), go_on).map_err(|error| error.to_string())?;
            if !done.damaged.is_empty() {
                return Err(format!("{:?} cannot be read, though its disk is good", done.damaged));
            }
            if done.returned > 0 {
                self.cover.hit("blobs_compacted");
            }
        }
        if walk {
            let unnamed = self.unnamed_blobs(machine)?;
            let Some(life) = &mut self.lives[machine] else { return Ok(()) };
            let old = |blob: &BlobId| {
                let taken = life.blobs.taken_as_of(*blob).ok().flatten();
                taken.is_some_and(|taken| clock.wall_ns.saturating_sub(taken.0) >= UNNAMED_AGE_NS)
            };
            let old: Vec<BlobId> = unnamed.into_iter().filter(old).collect();
            if !old.is_empty() {
                life.node.unnamed(clock, old);
                self.cover.hit("collected_unnamed");
                self.pump(machine);
            }
        }
        Ok(())
    }

    /// The blobs in a machine's store that its replica does not name.
    pub(crate) fn unnamed_blobs(&self, machine: usize) -> Result<Vec<BlobId>, String> {
        let Some(life) = &self.lives[machine] else { return Ok(Vec::new()) };
        let (mut cursor, mut unnamed) = (Some(Cursor::default()), Vec::new());
        while let Some(at) = cursor {
            let (listed, next) = life.blobs.listed_from(at).map_err(|error| error.to_string())?;
            for (blob, _) in listed {
                if !life.records.is_named(blob).map_err(|error| error.to_string())? {
                    unnamed.push(blob);
                }
            }
            cursor = next;
        }
        Ok(unnamed)
    }
}
