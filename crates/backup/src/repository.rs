//! An opened folder: files by what they hold.

use crate::error::BackupError;
use crate::file;
use crate::folder::Folder;
use crate::head::{BACKUPS_MAX, Backup, FolderHead, New, write};
use crate::name::{Kind, Name};
use crate::seal::Keys;
use gavel_types::{BlobId, Tid};
use std::cell::Cell;

/// An opened folder.
pub struct Repository<F: Folder> {
    folder: F,
    keys: Option<Keys>,
    new: Cell<New>,
}

/// The folder's own file; none if there is no folder of backups yet.
///
/// # Errors
/// As the folder's; [`BackupError::Damaged`].
pub fn head(folder: &impl Folder) -> Result<Option<FolderHead>, BackupError> {
    let Some(bytes) = folder.read(Name::Folder)? else { return Ok(None) };
    FolderHead::from_content(&file::from_bytes(Name::Folder, None, &bytes)?).map(Some)
}

impl<F: Folder> Repository<F> {
    /// Begins a folder.
    ///
    /// # Errors
    /// As the folder's; what [`FolderHead::check`] says.
    pub fn begin(folder: F, head: &FolderHead, keys: Option<Keys>) -> Result<Repository<F>, BackupError> {
        head.check(keys.as_ref())?;
        folder.write(Name::Folder, &file::to_bytes(Name::Folder, None, &write(head)))?;
        folder.settle()?;
        Ok(Repository { folder, keys, new: Cell::default() })
    }

    /// Opens a folder that is there.
    ///
    /// # Errors
    /// As the folder's; [`BackupError::NoFolder`]; what [`FolderHead::check`] says.
    pub fn open(folder: F, keys: Option<Keys>) -> Result<Repository<F>, BackupError> {
        head(&folder)?.ok_or(BackupError::NoFolder)?.check(keys.as_ref())?;
        Ok(Repository { folder, keys, new: Cell::default() })
    }

    /// The folder itself.
    pub fn folder(&self) -> &F {
        &self.folder
    }

    /// What was added since it was opened.
    pub fn new_files(&self) -> New {
        self.new.get()
    }

    /// The file of a node with this hash.
    pub fn node(&self, hash: &[u8; 32]) -> Name {
        Name::Node(self.hidden(hash))
    }

    /// The file of a blob.
    pub fn blob(&self, id: BlobId) -> Name {
        Name::Blob(self.hidden(&id.0))
    }

    fn hidden(&self, hash: &[u8; 32]) -> [u8; 32] {
        self.keys.as_ref().map_or(*hash, |keys| keys.name(hash))
    }

    /// What a file holds.
    ///
    /// # Errors
    /// As the folder's; [`BackupError::Missing`]; [`BackupError::Damaged`], also if its name is not that of its content.
    pub fn read(&self, name: Name) -> Result<Vec<u8>, BackupError> {
        let bytes = self.folder.read(name)?.ok_or(BackupError::Missing(name))?;
        let content = file::from_bytes(name, self.keys.as_ref(), &bytes)?;
        match name {
            Name::Node(hash) | Name::Blob(hash) if self.hidden(blake3::hash(&content).as_bytes()) != hash => {
                Err(BackupError::Damaged { file: name, what: "its content has another name" })
            }
            _ => Ok(content),
        }
    }

    /// Stores the file of a node or a blob, if it is not there. If `again`, what is there is looked at, and replaced if it is not good.
    ///
    /// # Errors
    /// As the folder's.
    pub fn store(&self, kind: Kind, content: &[u8], again: bool) -> Result<[u8; 32], BackupError> {
        let hash = *blake3::hash(content).as_bytes();
        let name = match kind {
            Kind::Node => self.node(&hash),
            _ => self.blob(BlobId(hash)),
        };
        let is_there = if again {
            match self.read(name) {
                Ok(_) => true,
                Err(error) if error.is_damage() => false,
                Err(error) => return Err(error),
            }
        } else {
            self.folder.has(name)?
        };
        if !is_there {
            self.write(name, content)?;
        }
        Ok(hash)
    }

    fn write(&self, name: Name, content: &[u8]) -> Result<(), BackupError> {
        let bytes = file::to_bytes(name, self.keys.as_ref(), content);
        self.folder.write(name, &bytes)?;
        let mut new = self.new.get();
        new.files += 1;
        new.bytes += bytes.len() as u64;
        self.new.set(new);
        Ok(())
    }

    /// Adds a backup: all that it needs is durable first.
    ///
    /// # Errors
    /// As the folder's: it may be there or not.
    pub fn add(&self, backup: &Backup) -> Result<(), BackupError> {
        self.folder.settle()?;
        let name = Name::Backup(backup.tid);
        self.folder.write(name, &file::to_bytes(name, self.keys.as_ref(), &backup.to_content()))?;
        self.folder.settle()
    }

    /// The states that there are backups of, in their order.
    ///
    /// # Errors
    /// As the folder's; if there are more than [`BACKUPS_MAX`].
    pub fn tids(&self) -> Result<Vec<Tid>, BackupError> {
        let mut tids = Vec::new();
        self.folder.list(Kind::Backup, &mut |name, _| {
            if let Name::Backup(tid) = name {
                tids.push(tid);
            }
            if tids.len() > BACKUPS_MAX {
                return Err(BackupError::Refused(format!("there are more than {BACKUPS_MAX} backups: prune some")));
            }
            Ok(())
        })?;
        Ok(tids)
    }

    /// One backup.
    ///
    /// # Errors
    /// As the folder's; [`BackupError::Missing`], [`BackupError::Damaged`].
    pub fn backup(&self, tid: Tid) -> Result<Backup, BackupError> {
        Backup::from_content(tid, &self.read(Name::Backup(tid))?)
    }
}
