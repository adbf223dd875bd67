//! One machine: disks and clocks that outlive the node, and the life of the node that runs on them. Hosts a
//! [`Node`] as the runtime does: the same order of effects, the real log and blob store over disks in memory.

use crate::clock::Clocks;
use crate::dice::Dice;
use crate::leased::Kernel;
use gavel_client::session::SessionConfig;
use gavel_client::{LostBecause, LostPlan, Pending, Usable};
use gavel_node::Node;
use gavel_quorum::{EntryKind, HardState, LogEntry, LogMark, Persist, Recovered};
use gavel_server::{Clock, Config};
use gavel_store::blob::BlobStore;
use gavel_store::disk::SimDisk;
use gavel_store::engine::MemEngine;
use gavel_store::log::{self, Log, LogBatch, LogError, LogIdentity, LogOptions, SEGMENT_BYTES_MIN};
use gavel_store::records::{Identity, Records};
use gavel_types::{ClusterId, LogIndex, NodeId, Term, Tid};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;

/// The cluster's name.
const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Bytes of a blob segment: small, so that there are several.
const BLOB_SEGMENT_BYTES: u64 = 256 * 1024;

/// The engine of all replicas here.
pub type Engine = Arc<MemEngine>;

/// Something for the log's disk, in order.
#[derive(Debug)]
pub enum LogWork {
    /// Make durable.
    Persist(Persist),
    /// Let go of the entries up to this one.
    Trim(LogIndex),
}

/// What is left of a machine when its node does not run.
#[derive(Debug)]
pub struct Machine {
    /// Its number, from 0.
    pub number: usize,
    /// The log's disk.
    pub log_disk: SimDisk,
    /// The blobs' disk.
    pub blob_disk: SimDisk,
    /// The records' engine.
    pub engine: Engine,
    /// Its clocks.
    pub clocks: Clocks,
    /// Lives so far.
    pub lives: u64,
    /// Draws incarnations, and what a crash leaves of unsynced writes.
    pub dice: Dice,
    /// A bit of its log was turned over.
    pub flipped: bool,
    /// Why it can never start again.
    pub ruined: Option<String>,
    /// Everything its disks do takes so many times as long.
    pub disk_times: u64,
    /// A disk fault waits to strike: the node may fail.
    pub may_fail: bool,
    /// Its log's disk is full.
    pub full: bool,
}

/// A node that runs.
pub struct Life {
    /// Its number on this machine.
    pub number: u64,
    /// The node.
    pub node: Node<Engine>,
    /// Its records.
    pub records: Arc<Records<Engine>>,
    /// Its log.
    pub log: Log,
    /// Its blobs.
    pub blobs: BlobStore,
    /// Waits for the log's disk.
    pub line: VecDeque<LogWork>,
    /// Being written.
    pub writing: Vec<LogWork>,
    /// A flush is under way; whether it is carried out already.
    pub flushing: Option<bool>,
    /// Blobs written, to be acknowledged behind the next sync: to whom, which.
    pub unsynced_blobs: Vec<(usize, u64, gavel_types::BlobId, Tid)>,
    /// Blobs that are about to be collected, unless a commit names them.
    pub condemned: BTreeSet<gavel_types::BlobId>,
    /// A sync of blobs is under way.
    pub blob_syncing: bool,
    /// What this log holds, by index.
    pub shadow: BTreeMap<u64, (Term, bytes::Bytes)>,
    /// The last applied entry that was looked at.
    pub seen: LogIndex,
    /// It was catching up when it was looked at last.
    pub catching_up: bool,
    /// It leads.
    pub leads: bool,
    /// Inputs so far.
    pub inputs: u64,
    /// What it may answer for.
    pub usable: Usable,
    /// What its machine's kernel keeps.
    pub kernel: Kernel,
    /// What it has answered, and the log does not have.
    pub pending: Pending,
    /// When each plan of that was accepted.
    pub accepted_at: BTreeMap<u64, u64>,
    /// Plans that were lost with a session, and wait for their blobs; the oldest session first.
    pub lost: VecDeque<(LostBecause, Vec<LostPlan>)>,
    /// Plans that were accepted, and of which nothing was said since: neither that they landed, nor what came of their offer.
    pub unreported: BTreeSet<u64>,
}

/// Why a node could not start.
#[derive(Debug)]
pub enum Refusal {
    /// The disk failed: it may be tried again.
    Disk(String),
    /// The log is damaged.
    Damaged(String),
    /// Anything else: never right here.
    Wrong(String),
}

impl Machine {
    /// A new machine.
    pub fn new(seed: u64, number: usize, drift_ppm: u32) -> Machine {
        let mut dice = Dice::new(seed, "machine", number as u64);
        let drift = dice.below(2 * u64::from(drift_ppm) + 1) as i64 - i64::from(drift_ppm);
        let clocks = Clocks::new(drift, dice.below(1 << 40));
        Machine {
            number,
            log_disk: SimDisk::new(dice.roll()),
            blob_disk: SimDisk::new(dice.roll()),
            engine: Arc::new(MemEngine::new()),
            clocks,
            lives: 0,
            dice,
            flipped: false,
            ruined: None,
            disk_times: 1,
            may_fail: false,
            full: false,
        }
    }

    /// Its node's id.
    pub fn id(&self) -> NodeId {
        NodeId(self.number as u64 + 1)
    }

    /// What its clocks show.
    pub fn clock(&self, now_ns: u64) -> Clock {
        self.clocks.read(now_ns)
    }

    /// Starts a node on what the disks hold.
    pub fn start(&mut self, now_ns: u64, config: Config, session: SessionConfig) -> Result<(Life, bool), Refusal> {
        let wrong = |what: &dyn std::fmt::Display| Refusal::Wrong(what.to_string());
        let identity = Identity { cluster: CLUSTER, node: self.id() };
        let (records, sealed) = Records::open(Arc::clone(&self.engine), identity).map_err(|error| wrong(&error))?;
        let records = Arc::new(records);
        let (log, recovered) = self.open_log()?;
        let blob_disk = self.blob_disk.mount().map_err(|error| Refusal::Disk(error.to_string()))?;
        let blobs = BlobStore::open_with(blob_disk, BLOB_SEGMENT_BYTES).map_err(|error| wrong(&error))?;
        let torn = recovered.cut.is_some();
        let recovered = taken_up(recovered);
        let shadow = recovered.entries.iter().map(|entry| (entry.index.0, (entry.term, entry.data.clone()))).collect();
        let incarnation = (self.lives << 32) | (self.dice.roll() >> 32);
        let clock = self.clock(now_ns);
        let node = Node::new(config, session, incarnation, Arc::clone(&records), sealed.as_deref(), recovered, clock)
            .map_err(|error| wrong(&error))?;
        self.lives += 1;
        let seen = node.server.state().applied;
        let catching_up = node.server.is_catching_up();
        let begins_at = node.server.state().tid;
        blobs.pass_over(begins_at).map_err(|error| wrong(&error))?;
        blobs.applied(begins_at);
        let condemned = node.server.state().collection.condemned().keys().copied().collect();
        let life = Life {
            number: self.lives,
            node,
            records,
            log,
            blobs,
            line: VecDeque::new(),
            writing: Vec::new(),
            flushing: None,
            unsynced_blobs: Vec::new(),
            condemned,
            blob_syncing: false,
            shadow,
            seen,
            catching_up,
            leads: false,
            inputs: 0,
            usable: Usable::default(),
            kernel: Kernel::default(),
            pending: Pending::default(),
            accepted_at: BTreeMap::new(),
            lost: VecDeque::new(),
            unreported: BTreeSet::new(),
        };
        Ok((life, torn))
    }

    fn open_log(&self) -> Result<(Log, log::Recovered), Refusal> {
        let disk = self.log_disk.mount().map_err(|error| Refusal::Disk(error.to_string()))?;
        let identity = LogIdentity { cluster: CLUSTER, node: self.id() };
        // A node that has run before must not forget its votes.
        let mut options = LogOptions::new(identity, self.lives == 0);
        options.segment_bytes = SEGMENT_BYTES_MIN * 2;
        Log::open(disk, options).map_err(|error| match error {
            LogError::Disk(error) => Refusal::Disk(error.to_string()),
            // A flipped bit can make any version of any.
            error @ (LogError::Damaged { .. } | LogError::Missing { .. } | LogError::Version { .. }) => {
                Refusal::Damaged(error.to_string())
            }
            error => Refusal::Wrong(error.to_string()),
        })
    }

    /// The power fails. What was being written is not there, is torn, or is there and nobody heard of it.
    pub fn crash(&mut self, life: Option<Life>) {
        if let Some(mut life) = life {
            match self.dice.below(3) {
                0 => {}
                torn => {
                    if torn == 1 {
                        self.log_disk.fail_next(gavel_store::disk::DiskOp::SyncData, std::io::ErrorKind::Other);
                    }
                    // It fails, or nobody is left to hear that it did not.
                    let _ = life.carry_out_writing();
                }
            }
            if life.flushing == Some(false) && self.dice.permille(300) {
                let _ = life.records.flush();
            }
        }
        // Faults that were waiting to strike are gone with the life.
        self.may_fail = self.full;
        self.engine.crash();
        self.log_disk.crash(self.dice.roll());
        self.blob_disk.crash(self.dice.roll());
    }

    /// Its records are taken away.
    pub fn wipe(&mut self) {
        self.engine = Arc::new(MemEngine::new());
    }

    /// There is room on the log's disk again.
    pub fn free(&mut self) {
        self.full = false;
        self.log_disk.set_capacity(None);
    }

    /// Nothing of it fails any more.
    pub fn mend(&mut self) {
        self.clocks.set_wrong(0);
        self.free();
        self.log_disk.mend();
        self.engine.mend();
        self.disk_times = 1;
    }

    /// Turns over a bit of the log.
    pub fn flip_bit(&mut self, place: u64) -> bool {
        let names = self.log_disk.names();
        if names.is_empty() {
            return false;
        }
        let name = &names[(place % names.len() as u64) as usize];
        let bytes = self.log_disk.contents(name).unwrap_or_default();
        // Most of a new segment is zeros that nobody looks at.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        let flipped = used > 0 && self.log_disk.flip_bit(name, (place >> 8) % (used.max(1) * 8));
        self.flipped |= flipped;
        flipped
    }
}

impl Life {
    /// Does what the log's disk was told to, with one sync. Gives the last ticket that is durable now, if any.
    pub fn carry_out_writing(&mut self) -> Result<Option<u64>, LogError> {
        let mut ticket = None;
        for work in std::mem::take(&mut self.writing) {
            match work {
                LogWork::Persist(persist) => {
                    if persist.must_sync {
                        ticket = Some(persist.ticket);
                    }
                    self.log.append(&batch(persist))?;
                }
                LogWork::Trim(index) => self.log.compact(index)?,
            }
        }
        if ticket.is_some() {
            self.log.sync()?;
        }
        // If it cannot be made, it is made when it is needed.
        if let Some(order) = self.log.order_spare() {
            self.log.take_spare(order.make().ok());
        }
        Ok(ticket)
    }

    /// What the log holds behind `index`, up to `last`, which is not before it.
    pub fn entries(&self, index: u64, last: u64) -> Vec<(u64, (Term, bytes::Bytes))> {
        self.shadow.range((Excluded(index), Included(last))).map(|(index, entry)| (*index, entry.clone())).collect()
    }

    /// Remembers what the log is told to hold.
    pub fn note(&mut self, persist: &Persist) {
        if persist.snapshot.is_some() {
            self.shadow.clear();
        }
        if let Some(first) = persist.append.first() {
            self.shadow.split_off(&first.index.0);
        }
        for entry in &persist.append {
            self.shadow.insert(entry.index.0, (entry.term, entry.data.clone()));
        }
    }
}

fn batch(persist: Persist) -> LogBatch {
    let hard_state =
        persist.hard_state.map(|state| log::HardState { term: state.term, vote: state.vote, commit: state.commit });
    let entries = persist
        .append
        .into_iter()
        .map(|entry| log::LogEntry { index: entry.index, term: entry.term, data: entry.data.to_vec() })
        .collect();
    let snapshot_mark = persist.snapshot.map(|mark| log::EntryId { index: mark.index, term: mark.term });
    LogBatch { hard_state, entries, snapshot_mark }
}

fn taken_up(recovered: log::Recovered) -> Recovered {
    let state = recovered.hard_state;
    Recovered {
        hard_state: HardState { term: state.term, vote: state.vote, commit: state.commit },
        compacted: LogMark { index: recovered.compacted.index, term: recovered.compacted.term },
        entries: recovered
            .entries
            .into_iter()
            .map(|entry| LogEntry {
                index: entry.index,
                term: entry.term,
                kind: EntryKind::Data,
                data: entry.data.into(),
            })
            .collect(),
        applied: LogMark::default(),
    }
}

/// A hash for comparing within one run.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        crate::dice::mix(sum ^ u64::from_le_bytes(word))
    })
}
