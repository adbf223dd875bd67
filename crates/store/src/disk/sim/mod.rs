//! A directory that was never there: in memory, with the faults of real disks, the same for the same seed.
//!
//! The [`SimDisk`] is the platter and outlives crashes; [`SimDisk::mount`] gives the [`Disk`] of one life
//! of the machine. After [`SimDisk::crash`] the handles of that life only give errors, as they would be
//! gone with the process.

mod chance;
mod file;

use super::{Disk, DiskError, DiskFile, DiskOp, check_name};
#[cfg(test)]
pub(crate) use chance::Chance;
#[cfg(not(test))]
use chance::Chance;
use file::Node;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// A simulated directory: what is durable and what is only written are kept apart, per sector of
/// [`super::SECTOR_BYTES`], and so are names.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

/// What a [`SimDisk`] was asked to do since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimDiskUse {
    /// Calls that write bytes.
    pub writes: u64,
    /// Calls that sync a file.
    pub syncs: u64,
    /// Calls that sync the directory.
    pub dir_syncs: u64,
    /// Calls that read bytes.
    pub reads: u64,
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    /// Changes of names since the last sync of the directory, in order.
    changes: Vec<Change>,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    /// Counts crashes: handles of an earlier life are dead.
    life: u64,
    locked: bool,
    chance: Chance,
    used: SimDiskUse,
}

#[derive(Debug)]
enum Change {
    Create(String, u64),
    Remove(String, u64),
    Rename(String, String, u64),
}

#[derive(Debug)]
struct Fault {
    op: DiskOp,
    skip: u64,
    kind: io::ErrorKind,
}

impl SimDisk {
    /// An empty directory. `seed` decides what is left of writes and syncs that are made to fail.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            nodes: BTreeMap::new(),
            next_node: 1,
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            changes: Vec::new(),
            faults: Vec::new(),
            capacity: None,
            life: 0,
            locked: false,
            chance: Chance::new(seed),
            used: SimDiskUse::default(),
        })))
    }

    /// Opens the directory and locks it until the result is dropped or the machine crashes.
    ///
    /// # Errors
    /// [`DiskError::is_locked`] if it is mounted already.
    pub fn mount(&self) -> Result<Arc<dyn Disk>, DiskError> {
        let mut state = self.0.lock();
        if state.locked {
            return Err(failed("", DiskOp::Lock, io::ErrorKind::WouldBlock));
        }
        state.locked = true;
        Ok(Arc::new(SimDir { state: Arc::clone(&self.0), life: state.life }))
    }

    /// Stops the machine: unsynced sectors, lengths and names each survive or do not, as `seed` decides.
    pub fn crash(&self, seed: u64) {
        self.0.lock().crash(seed);
    }

    /// Turns over one bit of a file, counted from its first byte's lowest bit. False if it has no such bit.
    pub fn flip_bit(&self, name: &str, bit: u64) -> bool {
        let mut state = self.0.lock();
        let Some(node) = state.names.get(name).copied() else { return false };
        state.nodes.get_mut(&node).is_some_and(|node| node.flip(bit))
    }

    /// Makes the next call of this kind fail.
    pub fn fail_next(&self, op: DiskOp, kind: io::ErrorKind) {
        self.fail_after(0, op, kind);
    }

    /// Lets `skip` calls of this kind pass, and makes the one after them fail.
    pub fn fail_after(&self, skip: u64, op: DiskOp, kind: io::ErrorKind) {
        self.0.lock().faults.push(Fault { op, skip, kind });
    }

    /// Calls that were to fail do not.
    pub fn mend(&self) {
        self.0.lock().faults.clear();
    }

    /// Makes the disk hold at most `bytes` (`None`: no bound). Writes past it fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// The names of all files as a reader sees them, in order.
    pub fn names(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// A file's bytes as a reader sees them.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let node = state.nodes.get(state.names.get(name)?)?;
        let mut bytes = vec![0; node.length() as usize];
        node.read(0, &mut bytes);
        Some(bytes)
    }

    /// Puts a durable file there from outside, as a person with a root shell would; `None` removes it.
    pub fn tamper(&self, name: &str, contents: Option<&[u8]>) {
        let mut state = self.0.lock();
        state.names.remove(name);
        state.names_durable.remove(name);
        if let Some(bytes) = contents {
            let number = state.new_node();
            if let Some(node) = state.nodes.get_mut(&number) {
                node.write(0, bytes, || true);
                node.sync();
            }
            state.names.insert(name.to_owned(), number);
            state.names_durable.insert(name.to_owned(), number);
        }
    }

    /// What the disk was asked to do so far.
    pub fn used(&self) -> SimDiskUse {
        self.0.lock().used
    }
}

impl State {
    fn new_node(&mut self) -> u64 {
        let number = self.next_node;
        self.next_node += 1;
        self.nodes.insert(number, Node::default());
        number
    }

    fn crash(&mut self, seed: u64) {
        let mut chance = Chance::new(seed);
        let odds = [0, 1, 4, 7, 8][chance.below(5) as usize];
        let mut names = std::mem::take(&mut self.names_durable);
        for change in std::mem::take(&mut self.changes) {
            if chance.one_in(2) {
                change.apply(&mut names);
            }
        }
        self.nodes.retain(|number, _| names.values().any(|held| held == number));
        for node in self.nodes.values_mut() {
            node.crash(&mut chance, odds);
        }
        self.names_durable = names.clone();
        self.names = names;
        self.faults.clear();
        self.life += 1;
        self.locked = false;
    }

    /// Whether this call is one that must fail.
    fn fault(&mut self, op: DiskOp) -> Option<io::ErrorKind> {
        for at in 0..self.faults.len() {
            if self.faults[at].op != op {
                continue;
            }
            if self.faults[at].skip == 0 {
                return Some(self.faults.remove(at).kind);
            }
            self.faults[at].skip -= 1;
        }
        None
    }

    /// How many bytes from `offset` on fit, when `node` is to reach `end`.
    fn room(&self, node: u64, end: u64) -> u64 {
        let Some(capacity) = self.capacity else { return end };
        let held = |number: &u64| self.nodes.get(number).map_or(0, |node| node.allocated);
        let others: u64 = self.names.values().filter(|number| **number != node).map(held).sum();
        end.min(capacity.saturating_sub(others).max(held(&node)))
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Change::Create(name, node) => {
                names.insert(name.clone(), *node);
            }
            Change::Remove(name, node) => {
                if names.get(name) == Some(node) {
                    names.remove(name);
                }
            }
            Change::Rename(from, to, node) => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

fn failed(name: &str, op: DiskOp, kind: io::ErrorKind) -> DiskError {
    DiskError { file: format!("sim:{name}"), op, cause: kind.into() }
}

/// A [`Disk`] for one life of the machine.
#[derive(Debug)]
struct SimDir {
    state: Arc<Mutex<State>>,
    life: u64,
}

impl SimDir {
    /// Runs `act` unless this life is over, the name is none, or the call must fail.
    fn with<T>(
        &self,
        name: &str,
        op: DiskOp,
        act: impl FnOnce(&mut State) -> Result<T, io::ErrorKind>,
    ) -> Result<T, DiskError> {
        let mut state = self.state.lock();
        if state.life != self.life {
            return Err(failed(name, op, io::ErrorKind::NotConnected));
        }
        if let Some(kind) = state.fault(op) {
            return Err(failed(name, op, kind));
        }
        act(&mut state).map_err(|kind| failed(name, op, kind))
    }

    fn file(&self, name: &str, node: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { state: Arc::clone(&self.state), life: self.life, name: name.to_owned(), node })
    }
}

impl Drop for SimDir {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.life == self.life {
            state.locked = false;
        }
    }
}

fn named(state: &State, name: &str) -> Result<u64, io::ErrorKind> {
    check_name(name).map_err(|error| error.kind())?;
    state.names.get(name).copied().ok_or(io::ErrorKind::NotFound)
}

impl Disk for SimDir {
    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let node = self.with(name, DiskOp::Create, |state| {
            check_name(name).map_err(|error| error.kind())?;
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists);
            }
            let node = state.new_node();
            state.change(Change::Create(name.to_owned(), node));
            Ok(node)
        })?;
        Ok(self.file(name, node))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        let node = self.with(name, DiskOp::Open, |state| named(state, name))?;
        Ok(self.file(name, node))
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.with("", DiskOp::List, |state| Ok(state.names.keys().cloned().collect()))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.with(name, DiskOp::Remove, |state| {
            let node = named(state, name)?;
            state.change(Change::Remove(name.to_owned(), node));
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.with(from, DiskOp::Rename, |state| {
            check_name(to).map_err(|error| error.kind())?;
            let node = named(state, from)?;
            state.change(Change::Rename(from.to_owned(), to.to_owned(), node));
            Ok(())
        })
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.with("", DiskOp::SyncDir, |state| {
            state.used.dir_syncs += 1;
            state.changes.clear();
            state.names_durable = state.names.clone();
            Ok(())
        })
    }

    fn describe(&self, name: &str) -> String {
        format!("sim:{name}")
    }
}

#[derive(Debug)]
struct SimFile {
    state: Arc<Mutex<State>>,
    life: u64,
    name: String,
    node: u64,
}

impl SimFile {
    /// Runs `act` on the state unless this life is over; it gets the failure that this call must show, if any.
    fn with<T>(
        &self,
        op: DiskOp,
        act: impl FnOnce(&mut State, Option<io::ErrorKind>) -> Result<T, io::ErrorKind>,
    ) -> Result<T, DiskError> {
        let mut state = self.state.lock();
        if state.life != self.life || !state.nodes.contains_key(&self.node) {
            return Err(failed(&self.name, op, io::ErrorKind::NotConnected));
        }
        let fault = state.fault(op);
        act(&mut state, fault).map_err(|kind| failed(&self.name, op, kind))
    }

    /// As [`SimFile::with`], for calls that do nothing when they must fail.
    fn with_node<T>(&self, op: DiskOp, act: impl FnOnce(&mut Node) -> T) -> Result<T, DiskError> {
        self.with(op, |state, fault| match (fault, state.nodes.get_mut(&self.node)) {
            (None, Some(node)) => Ok(act(node)),
            (fault, _) => Err(fault.unwrap_or(io::ErrorKind::NotConnected)),
        })
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.state.lock().used.reads += 1;
        self.with_node(DiskOp::Read, |node| node.read(offset, buffer))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.with(DiskOp::Write, |state, fault| {
            state.used.writes += 1;
            let room = state.room(self.node, offset + bytes.len() as u64);
            let fits = room.saturating_sub(offset).min(bytes.len() as u64) as usize;
            let mut chance = state.chance.clone();
            let node = state.nodes.get_mut(&self.node).ok_or(io::ErrorKind::NotConnected)?;
            node.write(offset, &bytes[..fits], || fault.is_none() || chance.one_in(2));
            state.chance = chance;
            match fault {
                Some(kind) => Err(kind),
                None if fits < bytes.len() => Err(io::ErrorKind::StorageFull),
                None => Ok(()),
            }
        })
    }

    fn allocate(&self, length: u64) -> Result<(), DiskError> {
        self.with(DiskOp::Allocate, |state, fault| {
            if let Some(kind) = fault {
                return Err(kind);
            }
            if state.room(self.node, length) < length {
                return Err(io::ErrorKind::StorageFull);
            }
            state.nodes.get_mut(&self.node).ok_or(io::ErrorKind::NotConnected)?.allocate(length);
            Ok(())
        })
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.with_node(DiskOp::Truncate, |node| node.truncate(length))
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.with(DiskOp::SyncData, |state, fault| {
            state.used.syncs += 1;
            let mut chance = state.chance.clone();
            let node = state.nodes.get_mut(&self.node).ok_or(io::ErrorKind::NotConnected)?;
            match fault {
                Some(_) => node.sync_failed(&mut chance),
                None => node.sync(),
            }
            state.chance = chance;
            fault.map_or(Ok(()), Err)
        })
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.with_node(DiskOp::Length, |node| node.length())
    }
}
