//! The folder's own file, and that of each backup.

use crate::error::BackupError;
use crate::name::Name;
use crate::seal::Keys;
use gavel_types::{ClusterId, MirrorSource, Selection, Tid, VolumeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Most backups in a folder.
pub const BACKUPS_MAX: usize = 65_536;
/// Most memory that a folder may ask for to make a key of a passphrase, in KiB.
pub const MEMORY_KIB_MAX: u32 = 1024 * 1024;
/// Most passes over it.
pub const PASSES_MAX: u32 = 64;

/// What the folder says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FolderHead {
    /// Its own id: the keys of two folders differ, though they may be made of one secret.
    pub id: [u8; 16],
    /// How its files are sealed.
    pub protection: Protection,
}

/// How the files of a folder are sealed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Protection {
    /// They are not.
    None,
    /// With what is in a file that somebody keeps elsewhere.
    KeyFile {
        /// What tells the key from others.
        check: [u8; 16],
    },
    /// With what Argon2id (RFC 9106) makes of a passphrase, in one lane.
    Passphrase {
        /// What goes into it beside the passphrase.
        salt: [u8; 16],
        /// How much memory it takes, in KiB.
        memory_kib: u32,
        /// How many passes.
        passes: u32,
        /// What tells the key from others.
        check: [u8; 16],
    },
}

impl FolderHead {
    /// Takes what a file holds.
    ///
    /// # Errors
    /// [`BackupError::Damaged`].
    pub fn from_content(content: &[u8]) -> Result<FolderHead, BackupError> {
        let head: FolderHead = parse(Name::Folder, content)?;
        let is_bounded = match head.protection {
            Protection::Passphrase { memory_kib, passes, .. } => {
                (8..=MEMORY_KIB_MAX).contains(&memory_kib) && (1..=PASSES_MAX).contains(&passes)
            }
            Protection::None | Protection::KeyFile { .. } => true,
        };
        if !is_bounded {
            return Err(BackupError::Damaged {
                file: Name::Folder,
                what: "its passphrase would take too much to check",
            });
        }
        Ok(head)
    }

    /// Are these the keys of this folder?
    ///
    /// # Errors
    /// [`BackupError::NeedsKey`], [`BackupError::WrongKey`], [`BackupError::NotEncrypted`].
    pub fn check(&self, keys: Option<&Keys>) -> Result<(), BackupError> {
        let wanted = match &self.protection {
            Protection::None => None,
            Protection::KeyFile { check } => Some((check, "by a key file")),
            Protection::Passphrase { check, .. } => Some((check, "by a passphrase")),
        };
        match (wanted, keys) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(BackupError::NotEncrypted),
            (Some((_, how)), None) => Err(BackupError::NeedsKey(how)),
            (Some((check, _)), Some(keys)) if keys.check() == *check => Ok(()),
            (Some(_), Some(_)) => Err(BackupError::WrongKey),
        }
    }
}

/// What a state has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links, devices, pipes, sockets.
    pub others: u64,
    /// Bytes of the files, as they say how long they are.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
}

/// What a backup added to its folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct New {
    /// Rows that had changed.
    pub rows: u64,
    /// Files that were written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One backup: a state of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backup {
    /// The volume.
    pub source: MirrorSource,
    /// What it was called.
    pub name: Box<str>,
    /// The state.
    pub tid: Tid,
    /// The backup that was there before; [`Tid::ZERO`]: everything was read.
    pub base: Tid,
    /// The hash of the root of its tree of rows; none if it has none.
    pub root: Option<[u8; 32]>,
    /// What the state has.
    pub counts: Counts,
    /// What was added for it.
    pub new: New,
    /// When it was made, in nanoseconds since the epoch, by the clock of who made it.
    pub made_ns: u64,
    /// Which part of the volume it has.
    pub selection: Selection,
}

#[derive(Serialize, Deserialize)]
struct BackupBytes {
    cluster: ClusterId,
    volume: VolumeId,
    made: Tid,
    name: Box<str>,
    tid: Tid,
    base: Tid,
    root: Option<[u8; 32]>,
    counts: Counts,
    new: New,
    made_ns: u64,
    selection: Selection,
}

impl Backup {
    /// What its file holds.
    pub fn to_content(&self) -> Vec<u8> {
        let Backup { source, name, tid, base, root, counts, new, made_ns, selection } = self.clone();
        let MirrorSource { cluster, volume, made } = source;
        write(&BackupBytes { cluster, volume, made, name, tid, base, root, counts, new, made_ns, selection })
    }

    /// Takes what the file of a backup holds.
    ///
    /// # Errors
    /// [`BackupError::Damaged`].
    pub fn from_content(tid: Tid, content: &[u8]) -> Result<Backup, BackupError> {
        let bytes: BackupBytes = parse(Name::Backup(tid), content)?;
        let damaged = |what| Err(BackupError::Damaged { file: Name::Backup(tid), what });
        if bytes.tid != tid {
            return damaged("it is the backup of another state than its name says");
        }
        if !bytes.selection.is_sound() {
            return damaged("what it says that it has a part of makes no sense");
        }
        let BackupBytes { cluster, volume, made, name, tid, base, root, counts, new, made_ns, selection } = bytes;
        let source = MirrorSource { cluster, volume, made };
        Ok(Backup { source, name, tid, base, root, counts, new, made_ns, selection })
    }
}

pub(crate) fn write(value: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(value, Vec::new()).expect("postcard writes every value of our types to a growing buffer")
}

fn parse<T: DeserializeOwned>(file: Name, content: &[u8]) -> Result<T, BackupError> {
    match postcard::take_from_bytes(content) {
        Ok((value, [])) => Ok(value),
        _ => Err(BackupError::Damaged { file, what: "it does not hold what its kind says" }),
    }
}
