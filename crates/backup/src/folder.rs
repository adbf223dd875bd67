//! What a folder must be able to do.

use crate::error::BackupError;
use crate::name::{Kind, Name};

/// What is told of each file that is there, with its length in bytes.
pub type Each<'e> = &'e mut dyn FnMut(Name, u64) -> Result<(), BackupError>;

/// A folder of files: a directory, or one in memory.
pub trait Folder {
    /// The bytes of a file; none if it is not there.
    ///
    /// # Errors
    /// [`BackupError::Io`]; [`BackupError::Damaged`] if it is longer than a file can be.
    fn read(&self, name: Name) -> Result<Option<Vec<u8>>, BackupError>;

    /// Is the file there?
    ///
    /// # Errors
    /// [`BackupError::Io`].
    fn has(&self, name: Name) -> Result<bool, BackupError>;

    /// Writes a file. It can be read at once; it is durable, under its name, behind the next [`settle`](Folder::settle), and is there whole or not at all
    /// before. One that is there is replaced.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    fn write(&self, name: Name, bytes: &[u8]) -> Result<(), BackupError>;

    /// All that was written and removed is durable.
    ///
    /// # Errors
    /// [`BackupError::Io`]: what was written since the last time may be there or not.
    fn settle(&self) -> Result<(), BackupError>;

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// [`BackupError::Io`].
    fn remove(&self, name: Name) -> Result<(), BackupError>;

    /// Tells of each file of a kind, those of backups in the order of their Tids.
    ///
    /// # Errors
    /// [`BackupError::Io`], and what `each` says.
    fn list(&self, kind: Kind, each: Each<'_>) -> Result<(), BackupError>;
}
