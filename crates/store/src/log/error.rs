//! What can go wrong with the log, and what to do about it.

use super::LogIdentity;
use crate::disk::DiskError;

/// A log that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed. What was appended and not yet synced is in doubt until the log is opened again.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An earlier failure left it open what is durable. Nothing was done; only opening the log again helps.
    #[error("the log stopped after an error and must be opened again: {cause}")]
    Stopped {
        /// The first failure.
        cause: String,
    },
    /// There is no log here, and none was to be made.
    #[error(
        "{directory}: there is no log here. Hint: a node that has run before must not start with an empty log; \
         rebuild this replica under a new node id"
    )]
    NoLog {
        /// Where it was looked for.
        directory: String,
    },
    /// Bytes that were once durable are not what was written. Cutting them off could lose what was
    /// acknowledged to the quorum, so nothing is.
    #[error(
        "{file}: damaged at offset {offset}: {what}. Hint: nothing was changed; rebuild this replica from the \
         others under a new node id"
    )]
    Damaged {
        /// The segment's file.
        file: String,
        /// Where, in bytes from the file's start.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A segment that must be there is not.
    #[error(
        "{file}: this segment of the log is missing. Hint: put it back, or rebuild this replica under a new node id"
    )]
    Missing {
        /// The file that should be there.
        file: String,
    },
    /// Written in a format that this program does not know.
    #[error("{file}: log format {found}, and this program reads {known}. Hint: run the release that wrote it")]
    Version {
        /// The segment's file.
        file: String,
        /// The version found.
        found: u32,
        /// The version that this program reads and writes.
        known: u32,
    },
    /// Another cluster's or another node's log.
    #[error("{file}: belongs to {found}, and this is {expected}. Hint: check the data directory")]
    WrongOwner {
        /// The segment's file.
        file: String,
        /// Whose it is.
        found: LogIdentity,
        /// Who opened it.
        expected: LogIdentity,
    },
    /// Larger than the log takes. Nothing was done.
    #[error("{what} has {bytes} bytes, and at most {max} are taken")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A batch that contradicts the log: a mistake of the caller. Nothing was done.
    #[error("refused by the log: {0}")]
    Contradiction(&'static str),
}
