//! Why something could not be done with a folder.

use crate::name::Name;

/// Why something could not be done with a folder.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The folder's disk said so. What was being done may be begun again.
    #[error("{path}: {cause}")]
    Io {
        /// The file or directory.
        path: String,
        /// What it said.
        cause: std::io::Error,
    },
    /// A file is not what was written.
    #[error("{file}: {what}")]
    Damaged {
        /// The file.
        file: Name,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A file that something refers to is not there.
    #[error("{0}: the file is missing")]
    Missing(Name),
    /// There is no folder of backups.
    #[error("no folder of backups: it has no file {}", Name::Folder)]
    NoFolder,
    /// Another version wrote it.
    #[error(
        "{file}: it has version {found}; this version of Gavel knows version {} (upgrade it?)",
        crate::file::VERSION
    )]
    UnknownVersion {
        /// The file.
        file: Name,
        /// Its version.
        found: u8,
    },
    /// It is encrypted, and no key was given.
    #[error("the backups are encrypted: {0}")]
    NeedsKey(&'static str),
    /// The key is not the folder's.
    #[error("this is not the key of these backups")]
    WrongKey,
    /// A key was given, and the folder is not encrypted.
    #[error("the backups are not encrypted")]
    NotEncrypted,
    /// The stream is not what can be backed up here. Nothing of it is a backup.
    #[error("{0}")]
    Refused(String),
    /// The backup that is built upon lacks something: what is needed must be read anew.
    #[error("{file}, which the last backup needs, is missing or damaged")]
    Incomplete {
        /// The file.
        file: Name,
    },
}

impl BackupError {
    /// Is it about what a file holds, or that it is not there? Then other files may be good.
    pub fn is_damage(&self) -> bool {
        matches!(self, BackupError::Damaged { .. } | BackupError::Missing(_) | BackupError::UnknownVersion { .. })
    }
}
