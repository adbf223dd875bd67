//! The narrow door to a disk: one directory of named files, as the log and the blobs need it.
//!
//! What it is: [`Disk`] and [`DiskFile`], synchronous and small enough that a simulator can stand
//! behind them ([`SimDisk`]) with the very code that runs on a real directory ([`RealDisk`]).
//! What it is not: a filesystem (no subdirectories), a cache, or a scheduler; the caller decides which
//! thread waits.
//!
//! What a caller may rely on, and no more:
//! 1. Bytes are durable after [`DiskFile::sync_data`] returned `Ok`, and so is the file's length.
//! 2. Names (created, renamed, removed) are durable after [`Disk::sync_dir`] returned `Ok`.
//! 3. Before that, each [`SECTOR_BYTES`] sector and each change of a name survives a crash or does not,
//!    independently of all others. A sector is never half old and half new.
//! 4. After `sync_data` failed, bytes that read back may not be durable, and a later `sync_data` that
//!    succeeds does not change that: only writing them again does.
//! 5. A renamed file is found under its old name or under its new one.
//! 6. What passes the machine's cache by ([`DiskFile::write_past_cache`], [`DiskFile::read_past_cache`]) differs in cost
//!    only: whoever reads sees what was written last, in whichever way, and it is durable after a sync, not before.

mod aligned;
mod real;
mod sim;

pub use aligned::AlignedBuffer;
pub use real::RealDisk;
#[cfg(test)]
pub(crate) use sim::Chance;
pub use sim::{SimDisk, SimDiskUse};

use std::fmt;
use std::io;
use std::sync::Arc;

/// The unit that a crash keeps or loses whole, in bytes. Larger sectors are multiples of it.
pub const SECTOR_BYTES: usize = 512;

/// What passes the machine's cache by begins and ends at multiples of this many bytes, in the file and in memory. No disk in use asks for more.
pub const DIRECT_ALIGN: usize = 4096;

const _: () = assert!(DIRECT_ALIGN.is_multiple_of(SECTOR_BYTES));

/// The name that [`Disk`] keeps for its lock; no caller can create or list it.
pub const LOCK_NAME: &str = "LOCK";

/// Longest name of a file in a [`Disk`], in bytes.
pub const FILE_NAME_BYTES_MAX: usize = 64;

/// One directory of named files, held by one process at a time.
///
/// Names are 1 to [`FILE_NAME_BYTES_MAX`] bytes of `a-z`, `0-9`, `-`, `_` and `.`, and do not start with a dot.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes an empty file. Refused if the name is taken.
    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError>;
    /// Opens a file that is there for reading and writing.
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError>;
    /// The names of all files, in order.
    fn list(&self) -> Result<Vec<String>, DiskError>;
    /// Removes a name. Files that are open stay readable.
    fn remove(&self, name: &str) -> Result<(), DiskError>;
    /// Removes a name, if there is one.
    fn remove_if_there(&self, name: &str) -> Result<(), DiskError> {
        match self.remove(name) {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }
    /// Gives a file another name, and replaces what was there.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Makes all changes of names so far durable.
    fn sync_dir(&self) -> Result<(), DiskError>;
    /// How a person would find the file: for error messages.
    fn describe(&self, name: &str) -> String;
}

/// An open file of a [`Disk`]. Reads and writes at offsets do not disturb each other.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Fills `buffer` from `offset`. Returns how many bytes there were: fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError>;
    /// Writes all of `bytes` at `offset`, and makes the file longer where needed. After an error, any
    /// sectors of it may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// As [`DiskFile::read_at`], for bytes that are not expected to be read again soon: where the machine can, they do not take room in its cache. Only
    /// between multiples of [`DIRECT_ALIGN`], in the file and in memory ([`AlignedBuffer`]), is anything gained.
    fn read_past_cache(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.read_at(offset, buffer)
    }
    /// As [`DiskFile::write_at`], with the gain of [`DiskFile::read_past_cache`], on its terms.
    fn write_past_cache(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.write_at(offset, bytes)
    }
    /// Reserves space for the first `length` bytes and makes the file at least that long; what was not
    /// written reads as zeros. Where it
    /// pays, zeros are written behind the file's end, so that later syncs of what is written there are quick.
    fn allocate(&self, length: u64) -> Result<(), DiskError>;
    /// Makes the file exactly `length` bytes long; what is added reads as zeros.
    fn truncate(&self, length: u64) -> Result<(), DiskError>;
    /// Makes the bytes and the length durable. Do not try again after an error: see the module's page.
    fn sync_data(&self) -> Result<(), DiskError>;
    /// The file's length in bytes.
    fn length(&self) -> Result<u64, DiskError>;
}

/// What a [`Disk`] was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // each is the function of the same name
pub enum DiskOp {
    Lock,
    Create,
    Open,
    List,
    Remove,
    Rename,
    SyncDir,
    Read,
    Write,
    Allocate,
    Truncate,
    SyncData,
    Length,
}

impl fmt::Display for DiskOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskOp::Lock => "lock",
            DiskOp::Create => "create",
            DiskOp::Open => "open",
            DiskOp::List => "list",
            DiskOp::Remove => "remove",
            DiskOp::Rename => "rename",
            DiskOp::SyncDir => "sync directory",
            DiskOp::Read => "read",
            DiskOp::Write => "write",
            DiskOp::Allocate => "reserve space",
            DiskOp::Truncate => "set length",
            DiskOp::SyncData => "sync",
            DiskOp::Length => "get length",
        })
    }
}

/// A disk that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{file}: cannot {op}: {cause}")]
pub struct DiskError {
    /// The file, as a person would find it.
    pub file: String,
    /// What was asked.
    pub op: DiskOp,
    /// What the system said.
    pub cause: io::Error,
}

impl DiskError {
    /// The file is not there.
    pub fn is_missing(&self) -> bool {
        self.cause.kind() == io::ErrorKind::NotFound
    }

    /// There is no space left (or the quota is used up).
    pub fn is_full(&self) -> bool {
        matches!(self.cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Another process, or another part of this one, holds the directory.
    pub fn is_locked(&self) -> bool {
        self.op == DiskOp::Lock && self.cause.kind() == io::ErrorKind::WouldBlock
    }
}

/// Refuses a name that a [`Disk`] does not take.
fn check_name(name: &str) -> Result<(), io::Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let fits = (1..=FILE_NAME_BYTES_MAX).contains(&name.len());
    if fits && !name.starts_with('.') && name.bytes().all(plain) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name for a file of a disk"))
}

#[cfg(test)]
mod tests;
