//! Records over an engine: the newest version of every key, the versions that ended, and what each transaction
//! changed. `docs/formats/records.md` describes the bytes.
//!
//! This room applies changes that were already decided; it judges nothing. One thread applies; any number reads.
//!
//! Invariants ([`Records::check`] verifies them):
//! 1. A key has at most one live version. Versions of one key do not overlap: each ends (its delete Tid) no later
//!    than the next one begins (its create Tid), and begins before it ends.
//! 2. The versions of a key and its rows in the change index imply each other: one "made" at each create Tid, one "ended" at each
//!    delete Tid that is no create Tid. (Between two versions there may be a gap, where others were pruned.)
//! 3. Each version that names a blob, live or ended, has a row among the names of that blob, and there are no others. In the same way, each version that is
//!    a name has one among the places of the object that it names.
//! 4. All rows of one log entry become visible together, and a cut holds whole entries and the owner's state behind
//!    the last of them.
//! 4. Nothing of an object changes without its attributes: no row of it, live or ended, begins or ends later than its live attributes begin. (Whoever applies
//!    changes sees to that; every operation does.)
//!
//! - [`live`]: the newest state
//! - [`past`]: the state as of an earlier Tid; [`ahead`]: the same, for whoever reads much of it
//! - [`kept`]: the same, where some objects keep less than others
//! - [`clones`]: these views, with what clones inherit
//! - [`lived`]: all versions, and what transactions changed
//! - [`changes`]: the change scan, and installing its rows on a replica that lags
//! - [`names`]: which versions name a blob
//! - [`places`]: which names objects have
//! - [`recent`]: what the last transactions changed, in memory
//! - [`prune`]: what a sweep reads and removes, and which states are whole
//! - [`check`]: fsck of the structure
//! - [`rows`]: bytes of the rows

pub mod ahead;
pub mod changes;
pub mod check;
pub mod clones;
pub mod kept;
pub mod live;
pub mod lived;
pub mod names;
pub mod past;
pub mod places;
pub mod prune;
pub mod recent;
pub mod rows;

use crate::engine::{Batch, Engine, EngineError, Snapshot, Stats};
use gavel_types::{ClusterId, Key, NodeId, Tid};
use gavel_wire::{Change, Removal, ViewError};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;

pub use ahead::{AheadView, ReadAhead};
pub use check::CheckReport;
pub use clones::Inheriting;
pub use kept::KeptView;
pub use live::LiveView;
pub use lived::WholePast;
pub use past::PastView;
pub use prune::{Whole, WholeFrom};
pub use recent::{JustApplied, Recent, RecentReader};
pub use rows::RECORDS_LAYOUT;

/// Whose records these are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// Why records could not be opened, read or changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordsError {
    /// The engine below.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A row is there, passed the engine's checks, and is not what a row is.
    #[error("record {what} is damaged; rebuild this replica's records from another replica")]
    Damaged {
        /// Which.
        what: String,
    },
    /// Written by another version of Gavel. Nothing was changed.
    #[error("the records have layout {found}; this version of Gavel knows layout {known} (upgrade it?)")]
    UnknownLayout {
        /// The layout on disk.
        found: u32,
        /// The layout that is known.
        known: u32,
    },
    /// The directory belongs to somebody else. Nothing was changed.
    #[error(
        "the records belong to node {} of cluster {}, not to node {} of cluster {}; was the wrong directory mounted?",
        found.node, found.cluster, wanted.node, wanted.cluster
    )]
    ForeignIdentity {
        /// Whose the records are.
        found: Identity,
        /// Whose they should be.
        wanted: Identity,
    },
    /// A row of a change scan does not fit on what this replica has. Nothing of its batch was installed.
    #[error("a change of {key:?} at {tid} cannot be installed: {cause}; scan again from this replica's last Tid")]
    Unfit {
        /// The key.
        key: Key,
        /// The transaction.
        tid: Tid,
        /// What is wrong with it.
        cause: &'static str,
    },
}

impl From<RecordsError> for ViewError {
    fn from(error: RecordsError) -> ViewError {
        match error {
            RecordsError::Damaged { what } => ViewError::Damaged { what },
            RecordsError::Engine(EngineError::Damaged { what, cause }) => {
                ViewError::Damaged { what: format!("in {what} ({cause})") }
            }
            other => ViewError::Storage { cause: other.to_string() },
        }
    }
}

/// The records of one replica.
#[derive(Debug)]
pub struct Records<E> {
    engine: E,
    identity: Identity,
    /// Orders what writes: a seal's state row and its cut belong together, and an install reads what it replaces. What is written is put together here.
    writing: Mutex<Batch>,
    /// Which past states are whole.
    whole: RwLock<Arc<prune::WholeStates>>,
    /// Which volumes are clones.
    origins: RwLock<clones::Origins>,
    /// Attributes of then that were read.
    attributes: Arc<past::Attributes>,
    recent: Arc<Recent>,
}

/// The newest state, as it is read.
pub type Replica<S> = Inheriting<LiveView<S>, S>;

impl<E: Engine> Records<E> {
    /// Opens the records in `engine`; the second value is the state that was given to [`Records::seal`] for the cut
    /// that the engine holds (none if it holds none yet). An empty engine becomes this identity's.
    ///
    /// # Errors
    /// [`RecordsError::UnknownLayout`], [`RecordsError::ForeignIdentity`], [`RecordsError::Damaged`], and the engine's.
    pub fn open(engine: E, identity: Identity) -> Result<(Records<E>, Option<Vec<u8>>), RecordsError> {
        let snapshot = engine.snapshot();
        let state = match snapshot.get(&rows::layout())? {
            Some(layout) => {
                check_layout(&layout)?;
                check_identity(snapshot.get(&rows::identity())?.as_deref(), identity)?;
                snapshot.get(&rows::state())?.map(|state| state.to_vec())
            }
            None => {
                // No row of ours has a larger prefix.
                if let Some(row) = snapshot.range(&[0], &[u8::MAX]).next() {
                    let what = format!("{} (there are rows, but no layout)", row?.0.escape_ascii());
                    return Err(RecordsError::Damaged { what });
                }
                engine.write(&birth_certificate(identity))?;
                None
            }
        };
        let (whole, origins) = (RwLock::default(), RwLock::default());
        let (attributes, recent) = (past::attributes(), Arc::default());
        Ok((Records { engine, identity, writing: Mutex::default(), whole, origins, attributes, recent }, state))
    }

    /// Applies the changes of one log entry, in their order, and takes away what its sweep removes, in one batch.
    ///
    /// # Errors
    /// The engine's; nothing was applied then.
    ///
    /// # Panics
    /// If a change makes a version whose create Tid is not the change's, or neither ends nor makes one.
    pub fn apply(&self, changes: &[Change], removals: &[Removal]) -> Result<(), RecordsError> {
        let mut batch = self.writing.lock();
        prune::remove(removals, &mut batch);
        changes.iter().for_each(|change| put(change, Rows::New, &mut batch));
        self.write(&mut batch)?;
        self.recent.applied(changes);
        Ok(())
    }

    fn write(&self, batch: &mut Batch) -> Result<(), RecordsError> {
        let written = self.engine.write(batch);
        batch.clear();
        Ok(written?)
    }

    /// Makes a cut: all that was applied so far, with `state`, which [`Records::open`] gives back for it. Volatile
    /// until flushed.
    ///
    /// # Errors
    /// The engine's.
    pub fn seal(&self, state: &[u8]) -> Result<(), RecordsError> {
        let _writing = self.writing.lock();
        let mut batch = Batch::new();
        batch.put(&rows::state(), state);
        self.engine.write(&batch)?;
        Ok(self.engine.seal()?)
    }

    /// Makes all cuts that were sealed before durable. Does I/O; may run beside everything else.
    ///
    /// # Errors
    /// The engine's; see [`Engine::flush`].
    pub fn flush(&self) -> Result<(), RecordsError> {
        Ok(self.engine.flush()?)
    }

    /// One bounded piece of upkeep; true if there may be more. Does I/O; may run beside everything else.
    ///
    /// # Errors
    /// The engine's; see [`Engine::maintain`].
    pub fn maintain(&self) -> Result<bool, RecordsError> {
        Ok(self.engine.maintain()?)
    }

    /// Ends everything, durably, so that the replica can be rebuilt from another one. The identity stays, and no past state is
    /// whole until [`Records::set_whole`] says so. Does I/O.
    ///
    /// # Errors
    /// The engine's; see [`Engine::wipe`].
    pub fn clear_all(&self) -> Result<(), RecordsError> {
        let _writing = self.writing.lock();
        *self.whole.write() = Arc::new(prune::WholeStates::None);
        self.recent.forget();
        self.engine.wipe()?;
        Ok(self.engine.write(&birth_certificate(self.identity))?)
    }

    /// The newest state; `tid` is that of the last transaction that was applied, which the caller knows.
    pub fn live(&self, tid: Tid) -> Replica<E::Snapshot> {
        let snapshot = self.engine.snapshot();
        Inheriting::new(LiveView::new(snapshot.clone(), tid), snapshot, self.origins.read().clone())
    }

    /// The state as of `tid`, which is not later than the last transaction that was applied, as far as it is there.
    pub fn at(&self, tid: Tid) -> Inheriting<PastView<E::Snapshot>, E::Snapshot> {
        let snapshot = self.engine.snapshot();
        let past = PastView::new(snapshot.clone(), tid);
        Inheriting::new(past, snapshot, self.origins.read().clone())
    }

    /// The same, of a state of which nothing was taken away, nor is while the view is in use: one that is pinned, say. Attributes of then that
    /// were read before are remembered.
    pub fn whole_at(&self, tid: Tid) -> Inheriting<PastView<E::Snapshot>, E::Snapshot> {
        self.remembering(self.at(tid))
    }

    fn remembering<S: Snapshot>(&self, view: Inheriting<PastView<S>, S>) -> Inheriting<PastView<S>, S> {
        view.map(|past| past.remembering(self.attributes.clone()))
    }

    /// What was applied last.
    pub fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// Bytes in memory that were applied since the last cut, about: see [`Engine::unsealed_bytes`].
    pub fn unsealed_bytes(&self) -> u64 {
        self.engine.unsealed_bytes()
    }

    /// What the engine occupies.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// The engine below.
    pub fn engine(&self) -> &E {
        &self.engine
    }
}

/// What is known of the rows of a change that have its Tid in their keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// They were never here: Tids only grow.
    New,
    /// They may have been here, and have been taken away.
    Any,
}

/// Adds the rows of a change.
fn put(change: &Change, rows: Rows, batch: &mut Batch) {
    let Change { tid, key, old, new } = change;
    assert!(old.is_some() || new.is_some(), "a change of {key:?} at {tid} that changes nothing");
    let dated = |batch: &mut Batch, row: rows::RowKey, value: &dyn Fn(&mut Vec<u8>)| match rows {
        Rows::New => batch.put_new_with(&row, value),
        Rows::Any => batch.put_with(&row, value),
    };
    if let Some(old) = old {
        dated(batch, rows::history(key, *tid), &|bytes| old.encode_to(bytes));
    }
    match new {
        Some(new) => {
            assert_eq!(new.create, *tid, "a version of {key:?} has its transaction's Tid");
            if let Some(blob) = new.blob() {
                dated(batch, rows::name(blob, key, *tid), &|_| {});
            }
            if let Some(object) = new.record.names() {
                dated(batch, rows::place(object, key, *tid), &|_| {});
            }
            batch.put_with(&rows::live(key), |bytes| new.encode_to(bytes));
        }
        None => batch.delete(&rows::live(key)),
    }
    dated(batch, rows::change(*tid, key), &|bytes| bytes.extend(rows::change_value(new.is_some())));
}

fn birth_certificate(identity: Identity) -> Batch {
    let mut batch = Batch::new();
    batch.put(&rows::layout(), &RECORDS_LAYOUT.to_be_bytes());
    batch.put(&rows::identity(), &rows::identity_value(identity.cluster, identity.node));
    batch
}

fn check_layout(value: &[u8]) -> Result<(), RecordsError> {
    let found: [u8; 4] = value.try_into().map_err(|_| RecordsError::Damaged { what: "layout".into() })?;
    match u32::from_be_bytes(found) {
        RECORDS_LAYOUT => Ok(()),
        found => Err(RecordsError::UnknownLayout { found, known: RECORDS_LAYOUT }),
    }
}

fn check_identity(value: Option<&[u8]>, wanted: Identity) -> Result<(), RecordsError> {
    let found = value.and_then(rows::parse_identity);
    let (cluster, node) = found.ok_or_else(|| RecordsError::Damaged { what: "identity".into() })?;
    let found = Identity { cluster, node };
    if found == wanted { Ok(()) } else { Err(RecordsError::ForeignIdentity { found, wanted }) }
}
