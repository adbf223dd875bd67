//! Which past states of the volumes can be read, and the names that some of them have: a part of the replicated state.
//!
//! `docs/protocols/history.md` has the whole of it.
//!
//! Invariants (checked by [`Past::check_invariants`]):
//! 1. A snapshot's state can be read: it is not before its volume, and not later than the last transaction.
//! 2. There are [`SNAPSHOTS_MAX`] snapshots at most, each with a name that a snapshot may have.

use gavel_types::at::is_snapshot_name;
use gavel_types::limits::{NOTE_BYTES_MAX, SNAPSHOTS_MAX};
use gavel_types::{Tid, VolumeId};
use gavel_wire::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The past of all volumes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Past {
    volumes: BTreeMap<VolumeId, VolumePast>,
    /// Grows with each change.
    revision: u64,
}

/// The past of one volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumePast {
    /// When the volume was made: it has no state before.
    pub made: Tid,
    /// Names for states.
    pub snapshots: BTreeMap<Box<str>, Snapshot>,
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

    /// A volume was made at `tid`.
    pub(crate) fn begin(&mut self, tid: Tid, volume: VolumeId) {
        self.volumes.insert(volume, VolumePast { made: tid, snapshots: BTreeMap::new() });
        self.revision += 1;
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
        for past in self.volumes.values() {
            for (name, snapshot) in &past.snapshots {
                assert!(is_snapshot_name(name), "a snapshot is called {name:?}");
                assert!(past.can_read(snapshot.tid) && snapshot.tid <= tid, "snapshot {name} is of no state");
            }
        }
    }
}

impl VolumePast {
    /// Can the state as of `tid` be read, if it has come?
    pub fn can_read(&self, tid: Tid) -> bool {
        tid >= self.made
    }
}
