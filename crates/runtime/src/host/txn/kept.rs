//! The journal of a transaction as a file: what was done is in it before it is answered. `docs/formats/transactions.md` has its bytes, and
//! `gavel_client::transaction::journal` makes them.

use gavel_client::transaction::journal::{Entry, GROWTH_BYTES, Header, JOURNAL_BYTES_MAX, JournalError, Whole, Writer};
use gavel_client::tree::TreeError;
use gavel_types::{BlobId, Tid};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the name of a journal ends with, behind the transaction's id.
const ENDING: &str = ".journal";
/// What the name of one ends with that is not finished.
const NEW: &str = ".journal.new";

/// Where the journal of a transaction is.
pub(super) fn path(places: &Path, id: &str) -> PathBuf {
    places.join(format!("{id}{ENDING}"))
}

/// Which transaction's journal has this name.
pub(super) fn id_of(name: &str) -> Option<&str> {
    name.strip_suffix(ENDING)
}

/// Is it one that was not finished?
pub(super) fn is_unfinished(name: &str) -> bool {
    name.ends_with(NEW)
}

/// The bytes of a journal.
///
/// # Errors
/// If it can't be read, or is larger than any can be.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata()?.len().min(JOURNAL_BYTES_MAX) as usize);
    file.take(JOURNAL_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > JOURNAL_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidData, format!("it has more than {JOURNAL_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Removes the journal of a transaction, durably.
///
/// # Errors
/// If it can't be.
pub(super) fn remove(places: &Path, id: &str) -> std::io::Result<()> {
    match std::fs::remove_file(path(places, id)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    File::open(places)?.sync_all()
}

/// See the module's documentation.
pub(super) struct Kept {
    path: PathBuf,
    file: Arc<File>,
    header: Header,
    writer: Writer,
    len: u64,
    /// How long it was when it was written anew.
    anew: u64,
}

impl Kept {
    /// The journal of a transaction that begins, durable.
    ///
    /// # Errors
    /// If it can't be written. Nothing is left of it then.
    pub(super) fn begin(places: &Path, header: Header) -> std::io::Result<Kept> {
        Kept::create(path(places, &header.id), header, &[])
    }

    /// That of one which is opened again. What lies behind its whole records is cut off; `writer` makes those behind.
    ///
    /// # Errors
    /// If it can't be opened, or cut off.
    pub(super) fn open(places: &Path, header: Header, whole: u64, writer: Writer) -> std::io::Result<Kept> {
        let path = path(places, &header.id);
        let file = File::options().read(true).write(true).open(&path)?;
        file.set_len(whole)?;
        Ok(Kept { path, file: Arc::new(file), header, writer, len: whole, anew: 0 })
    }

    fn create(path: PathBuf, header: Header, entries: &[Entry]) -> std::io::Result<Kept> {
        let new = path.with_extension("journal.new");
        let created = (|| {
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
            let (writer, bytes) = Writer::begin(&header).map_err(invalid)?;
            file.write_all_at(&bytes, 0)?;
            let len = bytes.len() as u64;
            let mut kept = Kept { path: path.clone(), file: Arc::new(file), header, writer, len, anew: 0 };
            entries.iter().try_for_each(|entry| kept.append(entry))?;
            kept.file.sync_all()?;
            std::fs::rename(&new, &path)?;
            if let Some(places) = path.parent() {
                File::open(places)?.sync_all()?;
            }
            kept.anew = kept.len;
            Ok(kept)
        })();
        if created.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        created
    }

    /// One more entry. A killed daemon does not lose it.
    ///
    /// # Errors
    /// If it can't be written: then it is not there.
    pub(super) fn append(&mut self, entry: &Entry) -> std::io::Result<()> {
        let bytes = self.writer.record(entry).map_err(invalid)?;
        let written = self.file.write_all_at(&bytes, self.len);
        if written.is_err() {
            // Half of a record at the end is none, and is overwritten by the next one.
            let _ = self.file.set_len(self.len);
        }
        written?;
        self.len += bytes.len() as u64;
        self.writer.written();
        Ok(())
    }

    /// Is it so long that it should be written anew?
    pub(super) fn is_long(&self) -> bool {
        self.len > 2 * self.anew + GROWTH_BYTES
    }

    /// It is written anew: all of the transaction, which begins at `start` now, what it has stored, and what is being stored.
    ///
    /// # Errors
    /// If it can't be written: then it is as it was.
    pub(super) fn write_anew(
        &mut self,
        start: Tid,
        whole: Whole,
        held: &BTreeSet<BlobId>,
        stored_as_of: Tid,
        storing: impl Iterator<Item = bytes::Bytes>,
    ) -> std::io::Result<()> {
        let header = Header { start, anew: true, ..self.header.clone() };
        let mut entries = vec![Entry::Whole(Box::new(whole)), Entry::Held(held.iter().copied().collect())];
        // As of when what it holds is on a majority: of which blob is not asked.
        let any = held.iter().next().copied().filter(|_| stored_as_of < Tid::MAX);
        entries.extend(any.map(|blob| Entry::Stored { blob, as_of: stored_as_of }));
        entries.extend(storing.map(|bytes| Entry::Did { events: Vec::new(), store: bytes[..].into() }));
        *self = Kept::create(self.path.clone(), header, &entries)?;
        Ok(())
    }

    /// Its bytes, up to the last entry.
    ///
    /// # Errors
    /// If they can't be read.
    pub(super) fn read_back(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// What is to be synced so that all of it is durable.
    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }
}

#[cfg(test)]
impl Kept {
    /// From now on it can't be synced: its file is one that the kernel refuses that for.
    pub(super) fn fail_syncs(&mut self) {
        let file = File::options().read(true).write(true).open("/dev/null");
        self.file = Arc::new(file.expect("every system has it"));
    }
}

fn invalid(error: JournalError) -> Error {
    Error::new(ErrorKind::InvalidInput, error)
}

/// What a program is told when a journal can't be written.
pub(super) fn failed(error: &Error) -> TreeError {
    let full = [Errno::NOSPC, Errno::DQUOT].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    TreeError::Storage { cause: format!("the journal of the transaction: {error}"), full }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use gavel_client::transaction::journal::{Stage, glimpse};
    use gavel_types::VolumeId;

    /// That of a transaction of volume 1, which began with state 7.
    pub(in crate::host::txn) fn header() -> Header {
        Header {
            id: "1-a".into(),
            volume: VolumeId(1),
            start: Tid(7),
            place: b"/mnt"[..].into(),
            own_place: false,
            uid: 0,
            began_ns: 7,
            message: "".into(),
            anew: false,
        }
    }

    #[test]
    fn what_was_appended_is_read_whatever_was_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = Kept::begin(dir.path(), header()).unwrap();
        kept.append(&Entry::Committing).unwrap();
        // The rest of a record that could not be written.
        kept.file.write_all_at(b"GTR1 and so on, longer than the next one", kept.len).unwrap();
        assert_eq!(glimpse(&kept.read_back().unwrap()).unwrap().stage, Stage::Committing);
        kept.append(&Entry::Open).unwrap();
        let seen = glimpse(&read(&path(dir.path(), "1-a")).unwrap()).unwrap();
        assert_eq!((seen.stage, seen.damaged), (Stage::Open, false));
        remove(dir.path(), "1-a").unwrap();
        remove(dir.path(), "1-a").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_can_not_be_begun_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1-a.journal")).unwrap();
        assert!(Kept::begin(dir.path(), header()).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
