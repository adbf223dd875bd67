//! A backup, of the frames of a stream.

use crate::error::BackupError;
use crate::folder::Folder;
use crate::head::{Backup, Counts, New};
use crate::name::Kind;
use crate::repository::Repository;
use crate::tree::{Changes, change, record_bytes, row_key};
use gavel_mirror::{Frame, Header, Row};
use gavel_types::{BlobId, Tid};

/// Rows are gathered until they have so many bytes, about; then they go into the tree.
pub const CHANGES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A backup that is being made.
pub struct Creator<'r, F: Folder> {
    repository: &'r Repository<F>,
    /// What is built upon; none: the stream has everything.
    base: Option<Backup>,
    header: Option<Header>,
    /// The tree so far, and what it has.
    root: Option<[u8; 32]>,
    counts: Counts,
    changes: Changes,
    bytes: usize,
    /// The blob that was last found to be there.
    there: Option<BlobId>,
    rows: u64,
    end: Option<Tid>,
}

impl<'r, F: Folder> Creator<'r, F> {
    /// Upon `base`; without it, the stream must have everything, and files that are there are looked at, and replaced if they are damaged.
    pub fn new(repository: &'r Repository<F>, base: Option<Backup>) -> Creator<'r, F> {
        let (root, counts) = base.as_ref().map_or((None, Counts::default()), |base| (base.root, base.counts));
        let (changes, bytes, rows) = Default::default();
        Creator { repository, base, header: None, root, counts, changes, bytes, there: None, rows, end: None }
    }

    /// Takes the next frame, which a [decoder](gavel_mirror::Decoder) gave: it is in order.
    ///
    /// # Errors
    /// As the folder's; [`BackupError::Refused`] if the stream is not what this backup needs; [`BackupError::Incomplete`] if the folder lacks what the source
    /// takes to be there.
    pub fn take(&mut self, frame: Frame) -> Result<(), BackupError> {
        match frame {
            Frame::Header(header) => self.begin(header),
            Frame::Step(_) | Frame::StepEnd(_) | Frame::Reached(_) => Ok(()),
            Frame::Same(_) => Err(BackupError::Refused(
                "the stream compares with what is there, which a folder has no use for".into(),
            )),
            Frame::Blob(bytes) => {
                let hash = self.repository.store(Kind::Blob, &bytes, self.base.is_none())?;
                self.there = Some(BlobId(hash));
                Ok(())
            }
            Frame::Rows(rows) => rows.into_iter().try_for_each(|row| self.row(row)),
            Frame::End(tid) => {
                self.flush()?;
                self.end = Some(tid);
                Ok(())
            }
        }
    }

    fn begin(&mut self, header: Header) -> Result<(), BackupError> {
        let refused = |what: String| Err(BackupError::Refused(what));
        let from = self.base.as_ref().map_or(Tid::ZERO, |base| base.tid);
        if header.from != from {
            return refused(format!("the stream begins with state {}, and the last backup is of {from}", header.from));
        }
        if self.base.as_ref().is_some_and(|base| base.source != header.source) {
            return refused("the stream is of another volume than the backups".into());
        }
        if let Some(base) = self.base.as_ref().filter(|base| base.selection != header.selection) {
            return refused(format!("the stream has {}, and the last backup {}", header.selection, base.selection));
        }
        self.header = Some(header);
        Ok(())
    }

    fn row(&mut self, row: Row) -> Result<(), BackupError> {
        if let Some(blob) = row.record.as_ref().and_then(|record| record.blob())
            && self.there != Some(blob)
        {
            let file = self.repository.blob(blob);
            if !self.repository.folder().has(file)? {
                return Err(BackupError::Incomplete { file });
            }
            self.there = Some(blob);
        }
        let (key, record) = (row_key(&row.key), row.record.as_ref().map(record_bytes));
        self.rows += 1;
        self.bytes += key.len() + record.as_ref().map_or(0, |record| record.len());
        self.changes.insert(key, record);
        if self.bytes >= CHANGES_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    /// What was gathered goes into the tree.
    fn flush(&mut self) -> Result<(), BackupError> {
        let (changes, before) = (std::mem::take(&mut self.changes), (self.root, self.counts));
        self.bytes = 0;
        let changed = change(self.repository, before, changes, self.base.is_none());
        (self.root, self.counts) = changed.map_err(|error| match error {
            BackupError::Damaged { file, .. } | BackupError::Missing(file) if self.base.is_some() => {
                BackupError::Incomplete { file }
            }
            error => error,
        })?;
        Ok(())
    }

    /// The stream is over: the backup is added to the folder. `now_ns` is the time, in nanoseconds since the epoch.
    ///
    /// # Errors
    /// As the folder's; [`BackupError::Refused`] if the stream is not over.
    pub fn finish(self, now_ns: u64) -> Result<Backup, BackupError> {
        let (Some(header), Some(tid)) = (self.header, self.end) else {
            return Err(BackupError::Refused("the stream broke off: there is no new backup".into()));
        };
        let new = New { rows: self.rows, ..self.repository.new_files() };
        let backup = Backup {
            source: header.source,
            name: header.name,
            tid,
            base: header.from,
            root: self.root,
            counts: self.counts,
            new,
            made_ns: now_ns,
            selection: header.selection,
        };
        self.repository.add(&backup)?;
        Ok(backup)
    }
}
