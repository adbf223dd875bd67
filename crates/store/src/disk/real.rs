//! A directory of this machine.

use super::{AlignedBuffer, DIRECT_ALIGN, Disk, DiskError, DiskFile, DiskOp, LOCK_NAME, check_name};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// A [`Disk`] in a directory of the machine, locked (`flock` on its `LOCK` file) until it is dropped.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    directory: File,
    /// Held, never read: the kernel lets go of the lock when it is closed, however the process ends.
    _lock: File,
}

impl RealDisk {
    /// Opens the directory `path`, makes it if it is not there, and locks it.
    ///
    /// # Errors
    /// [`DiskError::is_locked`] if another process (or another `RealDisk`) has it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Arc<RealDisk>, DiskError> {
        let path = path.into();
        let failed = |op, cause| DiskError { file: path.display().to_string(), op, cause };
        if !path.is_dir() {
            std::fs::create_dir_all(&path).map_err(|cause| failed(DiskOp::Create, cause))?;
            sync_parent(&path).map_err(|cause| failed(DiskOp::SyncDir, cause))?;
        }
        let directory = File::open(&path).map_err(|cause| failed(DiskOp::Open, cause))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_NAME))
            .map_err(|cause| failed(DiskOp::Lock, cause))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| failed(DiskOp::Lock, errno.into()))?;
        Ok(Arc::new(RealDisk { path, directory, _lock: lock }))
    }

    fn failed(&self, name: &str, op: DiskOp) -> impl Fn(io::Error) -> DiskError {
        let file = self.describe(name);
        move |cause| DiskError { file: file.clone(), op, cause }
    }

    fn open_with(&self, name: &str, op: DiskOp, options: &OpenOptions) -> Result<Arc<dyn DiskFile>, DiskError> {
        let failed = self.failed(name, op);
        check_name(name).map_err(&failed)?;
        let path = self.path.join(name);
        let file = options.open(&path).map_err(&failed)?;
        Ok(Arc::new(RealFile { file, path, direct: OnceLock::new(), refuses_direct: AtomicBool::new(false) }))
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.open_with(name, DiskOp::Create, OpenOptions::new().read(true).write(true).create_new(true))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.open_with(name, DiskOp::Open, OpenOptions::new().read(true).write(true))
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let failed = self.failed("", DiskOp::List);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            // A name that is not text is nothing that we made: it is none of ours.
            if let Ok(name) = entry.file_name().into_string()
                && check_name(&name).is_ok()
                && entry.file_type().map_err(&failed)?.is_file()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let failed = self.failed(name, DiskOp::Remove);
        check_name(name).map_err(&failed)?;
        std::fs::remove_file(self.path.join(name)).map_err(failed)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let failed = self.failed(from, DiskOp::Rename);
        check_name(from).and_then(|()| check_name(to)).map_err(&failed)?;
        std::fs::rename(self.path.join(from), self.path.join(to)).map_err(failed)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        self.directory.sync_all().map_err(self.failed("", DiskOp::SyncDir))
    }

    fn describe(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// Makes the entry of a new directory durable in the directory above it.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Bytes of zeros that are written at a time.
const ZEROS_BYTES: usize = 256 * 1024;

#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
    /// The same file once more, opened for direct I/O when that is first asked for; none where the filesystem has no such thing (tmpfs before Linux 6.6).
    direct: OnceLock<Option<File>>,
    /// It could be opened, but not be used.
    refuses_direct: AtomicBool,
}

impl RealFile {
    fn failed(&self, op: DiskOp) -> impl Fn(io::Error) -> DiskError + '_ {
        move |cause| DiskError { file: self.path.display().to_string(), op, cause }
    }

    /// The file for direct I/O of these bytes, if there can be any.
    fn direct(&self, offset: u64, bytes: &[u8]) -> Option<&File> {
        let aligned = (offset | bytes.as_ptr().addr() as u64 | bytes.len() as u64).is_multiple_of(DIRECT_ALIGN as u64);
        if !aligned || self.refuses_direct.load(Ordering::Relaxed) {
            return None;
        }
        // Not by its name, which may be another file's by now, or nobody's.
        let same = || format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(OFlags::DIRECT.bits() as i32);
            options
        };
        self.direct.get_or_init(|| options().open(same()).ok()).as_ref()
    }

    /// Writes zeros past the page cache, as far as whole blocks go and that can be done. What is only reserved is marked as such in the filesystem: a sync behind
    /// the first write to a block has to change that, through the filesystem's journal, and takes four times as long (ext4, 2 cores, 300 syncs of 4 KiB, the
    /// quickest tenth: 0.45 and 0.1 ms; three files at once 0.5 and 0.2 ms).
    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        let zeros = AlignedBuffer::new(ZEROS_BYTES);
        let mut offset = range.start.next_multiple_of(DIRECT_ALIGN as u64);
        loop {
            let left = range.end.saturating_sub(offset).min(ZEROS_BYTES as u64) as usize;
            let bytes = &zeros.as_slice()[..left / DIRECT_ALIGN * DIRECT_ALIGN];
            let Some(file) = self.direct(offset, bytes).filter(|_| !bytes.is_empty()) else { return Ok(()) };
            let Some(written) = self.unless_refused(file.write_all_at(bytes, offset)) else { return Ok(()) };
            written?;
            offset += bytes.len() as u64;
        }
    }

    /// Gives back what direct I/O has come to; none if the filesystem has refused it, and it has to be done otherwise.
    fn unless_refused<T>(&self, done: io::Result<T>) -> Option<io::Result<T>> {
        let refused = done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput);
        if refused {
            self.refuses_direct.store(true, Ordering::Relaxed);
        }
        (!refused).then_some(done)
    }
}

/// Fills `buffer` as far as the file goes.
fn read_all(file: &File, offset: u64, buffer: &mut [u8], direct: bool) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Here the file ends; asking on from there would be refused.
        if direct && !done.is_multiple_of(DIRECT_ALIGN) {
            break;
        }
    }
    Ok(done)
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        read_all(&self.file, offset, buffer, false).map_err(self.failed(DiskOp::Read))
    }

    fn read_past_cache(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        if let Some(file) = self.direct(offset, buffer)
            && let Some(read) = self.unless_refused(read_all(file, offset, buffer, true))
        {
            return read.map_err(self.failed(DiskOp::Read));
        }
        self.read_at(offset, buffer)
    }

    fn write_past_cache(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        if let Some(file) = self.direct(offset, bytes)
            && let Some(written) = self.unless_refused(file.write_all_at(bytes, offset))
        {
            return written.map_err(self.failed(DiskOp::Write));
        }
        self.write_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(bytes, offset).map_err(self.failed(DiskOp::Write))
    }

    fn allocate(&self, length: u64) -> Result<(), DiskError> {
        let before = self.length()?;
        let reserved = rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length);
        match reserved {
            // A filesystem that cannot reserve says so; the length is still what callers rely on.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                if before < length {
                    self.truncate(length)?;
                }
                Ok(())
            }
            Err(errno) => Err(self.failed(DiskOp::Allocate)(errno.into())),
            Ok(()) => self.write_zeros(before..length).map_err(self.failed(DiskOp::Allocate)),
        }
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.file.set_len(length).map_err(self.failed(DiskOp::Truncate))
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(self.failed(DiskOp::SyncData))
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.file.metadata().map(|data| data.len()).map_err(self.failed(DiskOp::Length))
    }
}
