//! A backup, read as a tree of files and directories.

use crate::error::BackupError;
use crate::folder::Folder;
use crate::head::Backup;
use crate::repository::Repository;
use crate::tree::{Rows, VOLUME, row_key};
use gavel_types::{BlobId, Key, KeyParts, KeyRange, ObjectId};
use gavel_wire::{Attr, Dirent, Extent, Record};

/// Rows that are read at a time.
const PAGE_ROWS: usize = 256;

/// A name in a directory, and its row's key, behind which the next page begins.
pub struct Entry {
    /// The row's key.
    pub key: Key,
    /// The name.
    pub name: Vec<u8>,
    /// What has it.
    pub dirent: Dirent,
}

/// One backup.
pub struct BackupView<'r, F: Folder> {
    repository: &'r Repository<F>,
    rows: Rows<'r, F>,
}

impl<'r, F: Folder> BackupView<'r, F> {
    /// Of a backup of the folder.
    pub fn new(repository: &'r Repository<F>, backup: &Backup) -> BackupView<'r, F> {
        BackupView { repository, rows: Rows::new(repository, backup.root) }
    }

    /// The attributes of an object.
    ///
    /// # Errors
    /// As [`Rows::get`].
    pub fn attr(&self, object: ObjectId) -> Result<Option<Attr>, BackupError> {
        Ok(match self.rows.get(&Key::attr(VOLUME, object))? {
            Some(Record::Attr(attr)) => Some(attr),
            _ => None,
        })
    }

    /// The entry of a directory.
    ///
    /// # Errors
    /// As [`Rows::get`].
    pub fn lookup(&self, directory: ObjectId, name: &[u8]) -> Result<Option<Dirent>, BackupError> {
        Ok(match self.rows.get(&Key::dirent(VOLUME, directory, name))? {
            Some(Record::Dirent(dirent)) => Some(dirent),
            _ => None,
        })
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// As [`Rows::get`].
    pub fn target(&self, object: ObjectId) -> Result<Option<Vec<u8>>, BackupError> {
        Ok(match self.rows.get(&Key::target(VOLUME, object))? {
            Some(Record::Target(target)) => Some(target.into()),
            _ => None,
        })
    }

    /// Some of the entries of a directory, behind the one with this key. None are left if there are none.
    ///
    /// # Errors
    /// As [`Rows::scan`].
    pub fn entries(&self, directory: ObjectId, behind: Option<&Key>) -> Result<Vec<Entry>, BackupError> {
        let rows = self.page(&KeyRange::dirents(VOLUME, directory), behind)?;
        let entries = rows.into_iter().filter_map(|(key, record)| {
            let KeyParts::Dirent { name, .. } = key.parts() else { return None };
            let Record::Dirent(dirent) = record else { return None };
            Some(Entry { name: name.to_vec(), dirent, key })
        });
        Ok(entries.collect())
    }

    /// Tells of each extended attribute of an object.
    ///
    /// # Errors
    /// As [`Rows::scan`], and what `each` says.
    pub fn xattrs<E: From<BackupError>>(
        &self,
        object: ObjectId,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each(&KeyRange::xattrs(VOLUME, object), |key, record| match (key.parts(), record) {
            (KeyParts::Xattr { name }, Record::Xattr(value)) => each(name, &value),
            _ => Ok(()),
        })
    }

    /// Tells of each extent of a file: the offset of its first byte, and what it holds.
    ///
    /// # Errors
    /// As [`Rows::scan`], and what `each` says.
    pub fn extents<E: From<BackupError>>(
        &self,
        object: ObjectId,
        mut each: impl FnMut(u64, Extent) -> Result<(), E>,
    ) -> Result<(), E> {
        self.each(&KeyRange::extents_behind(VOLUME, object, 0), |key, record| match (key.parts(), record) {
            (KeyParts::Extent { end }, Record::Extent(extent)) if extent.len <= end => each(end - extent.len, extent),
            _ => Ok(()),
        })
    }

    /// The bytes of a blob.
    ///
    /// # Errors
    /// As [`Repository::read`].
    pub fn blob(&self, id: BlobId) -> Result<Vec<u8>, BackupError> {
        self.repository.read(self.repository.blob(id))
    }

    fn each<E: From<BackupError>>(
        &self,
        range: &KeyRange,
        mut each: impl FnMut(&Key, Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut last: Option<Key> = None;
        loop {
            let page = self.page(range, last.as_ref())?;
            let is_last = page.len() < PAGE_ROWS;
            for (key, record) in page {
                each(&key, record)?;
                last = Some(key);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn page(&self, range: &KeyRange, behind: Option<&Key>) -> Result<Vec<(Key, Record)>, BackupError> {
        let start = match behind {
            // The first that is greater.
            Some(key) => [&row_key(key)[..], &[0]].concat(),
            None => range.start[size_of_val(&VOLUME)..].to_vec(),
        };
        let end = range.end.get(size_of_val(&VOLUME)..).filter(|end| !end.is_empty());
        self.rows.scan((&start, end), PAGE_ROWS)
    }

    /// Some of all rows, behind the one with this key.
    ///
    /// # Errors
    /// As [`Rows::scan`].
    pub fn rows(&self, behind: Option<&Key>) -> Result<Vec<(Key, Record)>, BackupError> {
        self.page(&KeyRange::of_objects(VOLUME), behind)
    }
}
