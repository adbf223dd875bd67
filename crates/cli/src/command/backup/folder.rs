//! A folder of backups that is a directory.
//!
//! A file is written in `tmp`, synced, and renamed; the directories that names came into, or went from, are synced when all is to be durable. Whatever is in
//! `tmp` when nobody writes is left over from somebody who was killed.

use gavel_backup::file::FILE_BYTES_MAX;
use gavel_backup::folder::Each;
use gavel_backup::{BackupError, Folder, Kind, Name};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// So many files, or bytes of them, are synced together.
const PENDING_FILES_MAX: usize = 64;
const PENDING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// So many are synced at a time: the disk does several at the cost of one.
const SYNCS_AT_A_TIME: usize = 8;

/// What is in a backup was not for everybody where it comes from.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Whoever writes to the folder locks this one.
const WRITING: &str = "LOCK";
/// Whoever reads from it shares this one; whoever removes something has it alone.
const READING: &str = "READING";
const TMP: &str = "tmp";
/// What the kernel says of a file that is not as it was written, whoever is to blame.
const UNREADABLE: [Errno; 3] = [Errno::IO, Errno::BADMSG, Errno::ISDIR];

/// What is meant to be done with the folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Backups are listed.
    Look,
    /// Files are read.
    Read,
    /// Files are added.
    Add,
    /// Files are removed.
    Remove,
}

/// A directory with backups.
pub struct Directory {
    path: PathBuf,
    pending: RefCell<Pending>,
    /// Directories that are not synced.
    changed: RefCell<BTreeSet<PathBuf>>,
    _locks: Vec<File>,
}

#[derive(Default)]
struct Pending {
    files: BTreeMap<Name, (PathBuf, File)>,
    bytes: usize,
    next: u64,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> BackupError + '_ {
    move |cause| BackupError::Io { path: path.display().to_string(), cause }
}

impl Directory {
    /// Opens a directory.
    ///
    /// # Errors
    /// [`BackupError::Io`]; [`BackupError::Refused`] if somebody else is at work, or if something else than backups is there.
    pub fn open(path: &Path, purpose: Purpose) -> Result<Directory, BackupError> {
        let is_new = !path.exists();
        if purpose == Purpose::Add {
            DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path).map_err(io(path))?;
            check_kind(path)?;
        }
        let (mut locks, mut changed) = (Vec::new(), BTreeSet::new());
        if is_new {
            changed.extend(path.parent().filter(|above| !above.as_os_str().is_empty()).map(Path::to_owned));
        }
        if matches!(purpose, Purpose::Add | Purpose::Remove) {
            locks.extend(lock(path, WRITING, FlockOperation::NonBlockingLockExclusive)?);
        }
        match purpose {
            Purpose::Read => locks.extend(lock(path, READING, FlockOperation::NonBlockingLockShared)?),
            Purpose::Remove => locks.extend(lock(path, READING, FlockOperation::NonBlockingLockExclusive)?),
            Purpose::Look | Purpose::Add => {}
        }
        let (path, pending, changed) = (path.to_owned(), RefCell::default(), RefCell::new(changed));
        let directory = Directory { path, pending, changed, _locks: locks };
        if matches!(purpose, Purpose::Add | Purpose::Remove) {
            directory.remove_left_over()?;
        }
        Ok(directory)
    }

    fn remove_left_over(&self) -> Result<(), BackupError> {
        let tmp = self.path.join(TMP);
        let entries = match std::fs::read_dir(&tmp) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(io(&tmp))?,
        };
        for entry in entries {
            let path = entry.map_err(io(&tmp))?.path();
            std::fs::remove_file(&path).map_err(io(&path))?;
        }
        Ok(())
    }

    fn file(&self, name: Name) -> PathBuf {
        self.path.join(name.to_string())
    }

    /// Makes a directory, if it is not there.
    fn make(&self, directory: &Path) -> Result<(), BackupError> {
        if self.changed.borrow().contains(directory) {
            return Ok(());
        }
        match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            Ok(()) => {
                let above = directory.parent().unwrap_or(&self.path).to_owned();
                self.changed.borrow_mut().insert(above);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound && directory != self.path => {
                self.make(directory.parent().unwrap_or(&self.path))?;
                self.make(directory)
            }
            Err(error) => Err(io(directory)(error)),
        }
    }

    /// Files that were written are synced, and get their names.
    fn publish(&self) -> Result<(), BackupError> {
        let Pending { files, next, .. } = self.pending.take();
        self.pending.borrow_mut().next = next;
        let files: Vec<_> = files.into_iter().collect();
        for some in files.chunks(SYNCS_AT_A_TIME) {
            std::thread::scope(|scope| {
                let sync = |(path, file): &'_ (PathBuf, File)| file.sync_all().map_err(io(path));
                let syncs: Vec<_> = some.iter().map(|(_, file)| scope.spawn(move || sync(file))).collect();
                syncs
                    .into_iter()
                    .try_for_each(|sync| sync.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })?;
        }
        for (name, (tmp, _)) in files {
            let path = self.file(name);
            let above = path.parent().unwrap_or(&self.path).to_owned();
            self.make(&above)?;
            std::fs::rename(&tmp, &path).map_err(io(&path))?;
            self.changed.borrow_mut().insert(above);
        }
        Ok(())
    }

    fn each_in(&self, directory: &Path, each: Each<'_>) -> Result<(), BackupError> {
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(io(directory))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io(directory))?;
            let path = entry.path();
            let within = path.strip_prefix(&self.path).ok().and_then(Path::to_str);
            // What is called otherwise is not ours.
            let Some(name) = within.and_then(Name::of_path) else { continue };
            let len = entry.metadata().map_err(io(&path))?.len();
            found.push((name, len));
        }
        found.sort_unstable();
        found.into_iter().try_for_each(|(name, len)| each(name, len))
    }
}

/// Is it a folder of backups, or one that could become one?
fn check_kind(path: &Path) -> Result<(), BackupError> {
    if path.join(Name::Folder.to_string()).exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(io(path))? {
        let name = entry.map_err(io(path))?.file_name();
        if ![WRITING, READING, TMP].iter().any(|ours| name == *ours) {
            let what = format!("{}: no folder of backups, and it is not empty: name another one", path.display());
            return Err(BackupError::Refused(what));
        }
    }
    Ok(())
}

/// Locks one of the folder's lock files; none if there is none and none can be made: then nobody can write there.
fn lock(folder: &Path, name: &str, operation: FlockOperation) -> Result<Option<File>, BackupError> {
    let path = folder.join(name);
    let mut open = OpenOptions::new();
    let file = match open.mode(FILE_MODE).read(true).write(true).create(true).truncate(false).open(&path) {
        Ok(file) => file,
        Err(_) if operation == FlockOperation::NonBlockingLockShared => match File::open(&path) {
            Ok(file) => file,
            Err(_) => return Ok(None),
        },
        Err(error) => return Err(io(&path)(error)),
    };
    match rustix::fs::flock(&file, operation) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Err(BackupError::Refused(format!(
            "{}: another `gavel backup` is at work in this folder: wait until it is done",
            folder.display()
        ))),
        Err(error) => Err(io(&path)(error.into())),
    }
}

impl Folder for Directory {
    fn read(&self, name: Name) -> Result<Option<Vec<u8>>, BackupError> {
        let pending = self.pending.borrow().files.get(&name).map(|(tmp, _)| tmp.clone());
        let path = pending.unwrap_or_else(|| self.file(name));
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io(&path))?,
        };
        let mut bytes = Vec::new();
        // One byte more than a file can have tells that it is no such file.
        match file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if UNREADABLE.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) => {
                Err(BackupError::Damaged { file: name, what: "the disk can't read the file" })
            }
            Err(error) => Err(io(&path)(error)),
        }
    }

    fn has(&self, name: Name) -> Result<bool, BackupError> {
        if self.pending.borrow().files.contains_key(&name) {
            return Ok(true);
        }
        let path = self.file(name);
        path.try_exists().map_err(io(&path))
    }

    fn write(&self, name: Name, bytes: &[u8]) -> Result<(), BackupError> {
        let tmp = self.path.join(TMP);
        self.make(&tmp)?;
        let is_full = {
            let mut pending = self.pending.borrow_mut();
            let path = tmp.join(pending.next.to_string());
            let mut open = OpenOptions::new();
            let file = open.write(true).create_new(true).mode(FILE_MODE).open(&path);
            let mut file = file.map_err(io(&path))?;
            file.write_all(bytes).map_err(io(&path))?;
            pending.next += 1;
            pending.bytes += bytes.len();
            pending.files.insert(name, (path, file));
            pending.files.len() >= PENDING_FILES_MAX || pending.bytes >= PENDING_BYTES_MAX
        };
        if is_full { self.publish() } else { Ok(()) }
    }

    fn settle(&self) -> Result<(), BackupError> {
        self.publish()?;
        for directory in self.changed.take() {
            let synced = File::open(&directory).and_then(|directory| directory.sync_all());
            synced.map_err(io(&directory))?;
        }
        Ok(())
    }

    fn remove(&self, name: Name) -> Result<(), BackupError> {
        let path = self.file(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.map_err(io(&path))?,
        }
        self.changed.borrow_mut().extend(path.parent().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, kind: Kind, each: Each<'_>) -> Result<(), BackupError> {
        self.publish()?;
        match kind {
            Kind::Folder => self.each_in(&self.path, each),
            Kind::Backup => self.each_in(&self.path.join("backups"), each),
            Kind::Node | Kind::Blob => {
                let directory = self.path.join(if kind == Kind::Node { "tree" } else { "blobs" });
                (0..=255u8).try_for_each(|first| self.each_in(&directory.join(format!("{first:02x}")), each))
            }
        }
    }
}
