//! The engine: an ordered map of bytes with atomic batches, snapshots and durable cuts.
//!
//! It knows nothing of records, and it has no journal: the replicated log is the write-ahead log. What it
//! promises is small and exact:
//!
//! 1. A [`Batch`] is visible whole or not at all, to every snapshot taken after [`Engine::write`] returned.
//! 2. A snapshot does not change, whatever is written, flushed, compacted or wiped behind it.
//! 3. What is written is volatile. [`Engine::seal`] makes a *cut* of everything written so far; [`Engine::flush`]
//!    makes all cuts that were sealed before it began durable, at once. After a crash the engine holds exactly the
//!    newest cut that a flush made durable: never a part of one, never a write behind it.
//! 4. Bytes that come back are the bytes that were written. What the disk has changed is refused as
//!    [`EngineError::Damaged`]; it is never returned, and never passed off as absent.
//! 5. A flush or a compaction that failed leaves the engine [`EngineError::Stopped`]: what is on disk is then
//!    uncertain, and only opening it again finds out. Snapshots can still be read.
//!
//! - [`lsm`]: the real one: one log-structured merge tree in one directory
//! - [`memory`]: its twin in memory, with crashes and faults on demand

pub mod lsm;
pub mod memory;

use std::ops::{Deref, Range};
use std::sync::Arc;

pub use lsm::{LsmConfig, LsmEngine};
pub use memory::{FlushFault, MemEngine};

/// Longest key of an engine, in bytes (the tree's files count it in 16 bits).
pub const ENGINE_KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Longest value of an engine, in bytes: what one log entry can carry is far below.
pub const ENGINE_VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why an engine could not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    /// Bytes on disk are not what was written. Nothing was returned for them. Retrying does not help.
    #[error("{what} is damaged ({cause}); rebuild this replica's records from another replica")]
    Damaged {
        /// The file, as far as it could be found out.
        what: String,
        /// What gave it away.
        cause: String,
    },
    /// The operating system refused.
    #[error("{doing}: {cause}")]
    Io {
        /// What was being done, and on what.
        doing: String,
        /// What the system said.
        cause: String,
    },
    /// A flush or a compaction has failed before; nothing was done now.
    #[error("the record engine has stopped, because {cause}; open it again to go on from its last durable cut")]
    Stopped {
        /// The first failure.
        cause: String,
    },
}

/// Puts and deletes that become visible together. Of several for one key the last one counts.
///
/// All bytes are in one buffer, which is kept when the batch is cleared: a commit writes dozens of rows, and an allocation for each key and value, here and
/// in the engine, was a fifth of what writing them cost.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    rows: Vec<Written>,
}

/// A row, by where its bytes are.
#[derive(Clone, Debug)]
struct Written {
    key: Range<usize>,
    value: Option<Range<usize>>,
    is_new: bool,
}

/// A row of a batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Row<'b> {
    /// Its key.
    pub key: &'b [u8],
    /// The new value, or none for a delete.
    pub value: Option<&'b [u8]>,
    /// The key was never written before.
    pub is_new: bool,
}

/// A cleared batch keeps a buffer of so many bytes at most.
const BATCH_BYTES_KEPT: usize = 1024 * 1024;

impl Batch {
    /// Nothing yet.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// The key has this value from now on.
    ///
    /// # Panics
    /// If the key is empty, or key or value are longer than [`ENGINE_KEY_BYTES_MAX`] and [`ENGINE_VALUE_BYTES_MAX`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_with(key, |bytes| bytes.extend_from_slice(value));
    }

    /// The same; `value` writes it behind what is in the buffer.
    ///
    /// # Panics
    /// As [`Batch::put`], and if `value` takes something away.
    pub fn put_with(&mut self, key: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
        let key = self.key(key);
        value(&mut self.bytes);
        let value = key.end..self.bytes.len();
        assert!(value.len() <= ENGINE_VALUE_BYTES_MAX, "a value of {} bytes", value.len());
        self.rows.push(Written { key, value: Some(value), is_new: false });
    }

    /// As [`Batch::put_with`], of a key that has never been written: the engine need not be ready for it to be written again and again.
    ///
    /// # Panics
    /// As [`Batch::put_with`].
    pub fn put_new_with(&mut self, key: &[u8], value: impl FnOnce(&mut Vec<u8>)) {
        self.put_with(key, value);
        if let Some(row) = self.rows.last_mut() {
            row.is_new = true;
        }
    }

    /// The key has no value from now on.
    ///
    /// # Panics
    /// If the key is empty or longer than [`ENGINE_KEY_BYTES_MAX`].
    pub fn delete(&mut self, key: &[u8]) {
        let key = self.key(key);
        self.rows.push(Written { key, value: None, is_new: false });
    }

    fn key(&mut self, key: &[u8]) -> Range<usize> {
        assert!(!key.is_empty() && key.len() <= ENGINE_KEY_BYTES_MAX, "a key of {} bytes", key.len());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        start..self.bytes.len()
    }

    /// Does it change nothing?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Nothing again.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.bytes.clear();
        self.bytes.shrink_to(BATCH_BYTES_KEPT);
        self.rows.shrink_to(BATCH_BYTES_KEPT / size_of::<Written>());
    }

    /// The rows in the order of keys.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let part = |range: &Range<usize>| &self.bytes[range.clone()];
        let row = |row: &Written| Row { key: part(&row.key), value: row.value.as_ref().map(part), is_new: row.is_new };
        let mut rows: Vec<Row<'_>> = self.rows.iter().map(row).collect();
        rows.sort_by_key(|row| row.key);
        // Of equal keys the one that was written last stays, in the place of the first.
        rows.dedup_by(|later, earlier| {
            let same = later.key == earlier.key;
            if same {
                *earlier = *later;
            }
            same
        });
        rows
    }
}

/// What an engine occupies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Bytes written and not yet flushed, about.
    pub memory_bytes: u64,
    /// Cuts that are sealed and not flushed.
    pub sealed_cuts: usize,
    /// Table files.
    pub tables: usize,
    /// Sorted runs that a read of any key may have to look into before the levels: the debt of compaction.
    pub unsorted_runs: usize,
}

/// A stable view of an engine: cheap to take and to clone. Holding one keeps memory and files that newer states no
/// longer need, so hold it for an operation, not for a user.
pub trait Snapshot: Clone + Send + Sync + 'static {
    /// Bytes of a key or a value.
    type Bytes: Deref<Target = [u8]> + Clone + Send;

    /// The value of `key`.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] and [`EngineError::Io`].
    fn get(&self, key: &[u8]) -> Result<Option<Self::Bytes>, EngineError>;

    /// The rows from `start` up to and without `end`, in the order of keys; `rev()` for the other order. Nothing if
    /// `start >= end`. Behind an error nothing follows.
    fn range<'s>(
        &'s self,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Self::Bytes, Self::Bytes), EngineError>> + use<'s, Self>;
}

/// See the module's promises. All methods may be called from several threads at once; `flush`, `maintain` and
/// `wipe` do I/O and wait for each other where they must.
pub trait Engine: Send + Sync + 'static {
    /// Its snapshots.
    type Snapshot: Snapshot;

    /// Makes the batch visible. Volatile.
    ///
    /// # Errors
    /// [`EngineError::Stopped`]; nothing was written then.
    fn write(&self, batch: &Batch) -> Result<(), EngineError>;

    /// A view of what is visible now.
    fn snapshot(&self) -> Self::Snapshot;

    /// Makes a cut of everything visible now.
    ///
    /// # Errors
    /// [`EngineError::Stopped`].
    fn seal(&self) -> Result<(), EngineError>;

    /// Makes every cut durable that was sealed before this call. Does I/O; one at a time.
    ///
    /// # Errors
    /// Any; after [`EngineError::Damaged`] and [`EngineError::Io`] it is unknown whether the newest or an older cut is
    /// durable, and the engine stops.
    fn flush(&self) -> Result<(), EngineError>;

    /// Does one bounded piece of upkeep (a compaction). True if there may be more to do. Does I/O.
    ///
    /// # Errors
    /// Any; the engine stops after [`EngineError::Damaged`] and [`EngineError::Io`].
    fn maintain(&self) -> Result<bool, EngineError>;

    /// Ends all rows, durably. Open snapshots keep theirs. Does I/O.
    ///
    /// # Errors
    /// Any; the engine stops after [`EngineError::Damaged`] and [`EngineError::Io`], and holds what it held or nothing.
    fn wipe(&self) -> Result<(), EngineError>;

    /// Bytes in memory that were written since the last cut, about: of keys and values, and 64 for each row.
    fn unsealed_bytes(&self) -> u64;

    /// What it occupies.
    fn stats(&self) -> Stats;
}

impl<E: Engine> Engine for Arc<E> {
    type Snapshot = E::Snapshot;

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        (**self).write(batch)
    }

    fn snapshot(&self) -> E::Snapshot {
        (**self).snapshot()
    }

    fn seal(&self) -> Result<(), EngineError> {
        (**self).seal()
    }

    fn flush(&self) -> Result<(), EngineError> {
        (**self).flush()
    }

    fn maintain(&self) -> Result<bool, EngineError> {
        (**self).maintain()
    }

    fn wipe(&self) -> Result<(), EngineError> {
        (**self).wipe()
    }

    fn unsealed_bytes(&self) -> u64 {
        (**self).unsealed_bytes()
    }

    fn stats(&self) -> Stats {
        (**self).stats()
    }
}
