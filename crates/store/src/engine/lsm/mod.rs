//! The engine on disk: one log-structured merge tree (crate `lsm-tree`, used directly) in one directory.
//!
//! How the promises of [`Engine`] are kept with what the crate gives (read in its version 3.1.10):
//!
//! - A batch has one sequence number; snapshots read below a number. The number that new snapshots get is moved only
//!   by `LsmEngine::publish`, after a whole batch is in the memtable. The crate's own "visible" counter would not
//!   do: a flush or a compaction moves it while a batch is half written.
//! - A key that is written again and again has its newest row beside the tree (`overwritten`), until the memtable is sealed: ranges would step over
//!   all its older ones otherwise.
//! - A cut is a sealed memtable. A flush writes all sealed memtables to table files and names these in one new
//!   version file, so several cuts become durable at once. Table files, their directory, the version file and
//!   `current` are each synced before the next step relies on them; what a crash leaves behind of the earlier steps is
//!   not named by `current`, and is removed when the tree is opened.
//! - Blocks (data, index, filter, properties) carry a 128-bit checksum that is verified when they are read. What is
//!   not verified, or makes the crate abort or start anew, is checked by `preflight` before the crate sees it.
//! - The crate may panic on damaged files. Every call that reads them goes through `fault::guarded`.
//! - Retrying a failed flush could overwrite the version file that `current` already names (the crate takes the same
//!   version number again). So a failure stops the engine.
//!
//! Known cost: the crate holds its version lock while it syncs a new version file and `current` (five syncs): all
//! reads and writes wait for these at the end of each flush and compaction.

mod fault;
mod overwritten;
mod preflight;
mod snapshot;

use super::{Batch, Engine, EngineError, Row, Stats};
use byteview::ByteView;
use fault::guarded;
use lsm_tree::{
    AbstractTree, AnyTree, Cache, DescriptorTable, InternalValue, Memtable, SeqNo, SequenceNumberCounter, Slice, Tree,
    ValueType,
};
use overwritten::Overwritten;
use parking_lot::Mutex;
use snapshot::Pins;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use snapshot::LsmSnapshot;

/// Size of a table file at which a compaction starts the next one, in bytes.
const TABLE_BYTES: u64 = 64 * 1024 * 1024;
/// Longest value that shares its memory with the rows that were written with it. Whichever of them is replaced first stays in memory until the others go
/// with the memtable, so that large ones are better by themselves.
const SHARED_VALUE_BYTES_MAX: usize = 512;
/// Runs in the first level at which they are merged into the next one.
const UNSORTED_RUNS_MAX: u8 = 4;

/// Bounds of an [`LsmEngine`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LsmConfig {
    /// Bytes of blocks kept in memory.
    pub block_cache_bytes: u64,
    /// Table files kept open.
    pub open_files_max: usize,
}

impl Default for LsmConfig {
    fn default() -> LsmConfig {
        LsmConfig { block_cache_bytes: 64 * 1024 * 1024, open_files_max: 256 }
    }
}

/// One tree in one directory. Its owner sees to it that no second process opens the directory.
pub struct LsmEngine {
    dir: PathBuf,
    tree: Tree,
    /// Counts batches, and the tree's versions too.
    counter: SequenceNumberCounter,
    /// Orders batches and seals: a seal never falls into a batch.
    writing: Mutex<Overwritten>,
    /// One flush or wipe at a time.
    flushing: Mutex<()>,
    pins: Pins,
    strategy: Arc<lsm_tree::compaction::Leveled>,
    /// The first failure of a flush, compaction or wipe.
    stopped: OnceLock<String>,
}

impl LsmEngine {
    /// Opens the tree in `dir` at its last durable cut; makes an empty one if the directory is empty or missing.
    /// What a crash left behind is removed.
    ///
    /// # Errors
    /// [`EngineError::Damaged`], naming the file if it can be found out; [`EngineError::Io`].
    pub fn open(dir: &Path, config: LsmConfig) -> Result<LsmEngine, EngineError> {
        preflight::check(dir)?;
        let counter = SequenceNumberCounter::default();
        let cache = Arc::new(Cache::with_capacity_bytes(config.block_cache_bytes));
        let files = Arc::new(DescriptorTable::new(config.open_files_max.max(1)));
        let opened = guarded(|| {
            lsm_tree::Config::new(dir, counter.clone(), SequenceNumberCounter::default())
                .use_cache(cache)
                .use_descriptor_table(Some(files))
                .open()
        });
        let tree = match opened {
            Ok(AnyTree::Standard(tree)) => tree,
            Ok(AnyTree::Blob(_)) => {
                return Err(damaged(dir, "it is a tree of another type"));
            }
            Err(fault) => return Err(fault.into_error("opening", || fault::first_bad_table(dir), dir)),
        };
        preflight::sync_parent(dir)?;
        // Numbers go on behind the highest one on disk. A snapshot at 0 would see nothing, so start at 1.
        counter.fetch_max(tree.get_highest_persisted_seqno().map_or(1, |highest| highest + 1));
        Ok(LsmEngine {
            dir: dir.to_path_buf(),
            pins: Pins::new(counter.get()),
            tree,
            counter,
            writing: Mutex::default(),
            flushing: Mutex::new(()),
            strategy: Arc::new(
                lsm_tree::compaction::Leveled::default()
                    .with_l0_threshold(UNSORTED_RUNS_MAX)
                    .with_table_target_size(TABLE_BYTES),
            ),
            stopped: OnceLock::new(),
        })
    }

    /// Gives new snapshots everything that was written so far. The caller holds `writing`: no batch is half written.
    fn publish(&self, overwritten: &Overwritten) {
        self.pins.advance(self.counter.get(), overwritten.rows());
    }

    fn check_running(&self) -> Result<(), EngineError> {
        match self.stopped.get() {
            Some(cause) => Err(EngineError::Stopped { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Runs something that changes files; a failure stops the engine.
    fn changing_files<T>(&self, doing: &str, work: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, EngineError> {
        guarded(work).map_err(|fault| {
            let error = fault.into_error(doing, || None, &self.dir);
            tracing::error!(%error, "the record engine stops");
            self.stopped.get_or_init(|| error.to_string());
            error
        })
    }

    /// Lets go of memtables and files that no snapshot can need any more.
    fn release_superseded(&self, doing: &str) -> Result<(), EngineError> {
        {
            let writing = self.writing.lock();
            self.publish(&writing);
        }
        let oldest = self.pins.oldest();
        self.changing_files(doing, || self.tree.get_version_history_lock().maintenance(&self.dir, oldest))
    }
}

/// What the tree calls by itself for each row, without looking its memtable up again: that changes under `writing` only.
fn insert(memtable: &Memtable, key: Slice, value: Option<Slice>, number: SeqNo) {
    memtable.insert(match value {
        Some(value) => InternalValue::from_components(key, value, number, ValueType::Value),
        None => InternalValue::new_tombstone(key, number),
    });
}

/// Rows as the tree keeps them: keys and small values are parts of one piece of memory, which lives as long as the last of them.
fn slices(rows: &[Row<'_>]) -> Vec<(Slice, Option<Slice>)> {
    let mut bytes = Vec::with_capacity(rows.iter().flat_map(shared_parts).map(<[u8]>::len).sum());
    rows.iter().flat_map(shared_parts).for_each(|part| bytes.extend_from_slice(part));
    let (whole, mut at) = (ByteView::from(bytes), 0);
    let mut next = |len: usize| {
        at += len;
        Slice::from(whole.slice(at - len..at))
    };
    let slice = |row: &Row<'_>| {
        let key = next(row.key.len());
        (key, row.value.map(|value| if is_small(value) { next(value.len()) } else { Slice::from(value) }))
    };
    rows.iter().map(slice).collect()
}

fn is_small(value: &[u8]) -> bool {
    value.len() <= SHARED_VALUE_BYTES_MAX
}

fn shared_parts<'b>(row: &Row<'b>) -> [&'b [u8]; 2] {
    [row.key, row.value.filter(|value| is_small(value)).unwrap_or_default()]
}

fn damaged(path: &Path, cause: &str) -> EngineError {
    EngineError::Damaged { what: path.display().to_string(), cause: cause.to_string() }
}

impl Engine for LsmEngine {
    type Snapshot = LsmSnapshot;

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut writing = self.writing.lock();
        self.check_running()?;
        if batch.is_empty() {
            return Ok(());
        }
        let number = self.counter.next();
        let memtable = self.tree.active_memtable();
        let rows = batch.rows();
        for ((key, value), row) in slices(&rows).into_iter().zip(&rows) {
            let to_tree = if row.is_new { Some((key, value)) } else { writing.take(key, value) };
            if let Some((key, value)) = to_tree {
                insert(&memtable, key, value, number);
            }
        }
        self.publish(&writing);
        Ok(())
    }

    fn snapshot(&self) -> LsmSnapshot {
        LsmSnapshot::new(self.tree.clone(), self.pins.newest())
    }

    fn seal(&self) -> Result<(), EngineError> {
        let mut writing = self.writing.lock();
        self.check_running()?;
        let number = self.counter.next();
        let memtable = self.tree.active_memtable();
        for (key, value) in writing.drain() {
            insert(&memtable, key, value, number);
        }
        self.tree.rotate_memtable();
        self.publish(&writing);
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        const DOING: &str = "flushing to";
        let _flushing = self.flushing.lock();
        self.check_running()?;
        let oldest = self.pins.oldest();
        let flushed = self.changing_files(DOING, || self.tree.flush(&self.tree.get_flush_lock(), oldest))?;
        if flushed.is_some() { self.release_superseded(DOING) } else { Ok(()) }
    }

    fn maintain(&self) -> Result<bool, EngineError> {
        const DOING: &str = "compacting in";
        self.check_running()?;
        let before = self.tree.current_version().id();
        let oldest = self.pins.oldest();
        self.changing_files(DOING, || self.tree.compact(self.strategy.clone(), oldest))?;
        let changed = self.tree.current_version().id() != before;
        if changed {
            self.release_superseded(DOING)?;
        }
        Ok(changed)
    }

    fn wipe(&self) -> Result<(), EngineError> {
        const DOING: &str = "wiping";
        let _flushing = self.flushing.lock();
        let mut writing = self.writing.lock();
        self.check_running()?;
        // `clear` alone would leave the files in place until the tree is opened again.
        self.changing_files(DOING, || self.tree.drop_range::<&[u8], _>(..))?;
        self.changing_files(DOING, || self.tree.clear())?;
        writing.drain();
        self.publish(&writing);
        Ok(())
    }

    fn unsealed_bytes(&self) -> u64 {
        self.tree.active_memtable().size() + self.writing.lock().bytes()
    }

    fn stats(&self) -> Stats {
        let sealed_cuts = self.tree.sealed_memtable_count();
        Stats {
            disk_bytes: self.tree.disk_space(),
            memory_bytes: self.tree.version_memtable_size_sum() + self.writing.lock().bytes(),
            sealed_cuts,
            tables: self.tree.table_count(),
            unsorted_runs: self.tree.l0_run_count(),
        }
    }
}
