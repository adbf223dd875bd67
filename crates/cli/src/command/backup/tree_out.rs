//! Writes what a backup holds into a directory.
//!
//! One directory is open at a time: the way back up is `..`, and must lead where it came from. Files that have more than one name are also linked into a
//! hidden directory under their numbers while the rest is written, so that what is remembered does not follow their count.

use anyhow::Context;
use gavel_backup::view::{BackupView, Entry};
use gavel_backup::{BackupError, Folder};
use gavel_types::limits::DEPTH_MAX;
use gavel_types::{BlobId, Key, ObjectId, Timestamp};
use gavel_wire::{Attr, Content, Extent, Kind};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fallocate,
    fchmod, fchown, fsetxattr, fstat, ftruncate, futimens, linkat, lsetxattr, makedev, mkdirat, mknodat, openat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};
use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const ACL_PREFIX: &[u8] = b"system.posix_acl_";
/// Levels that keep the entries which they have read: those below read them again.
const PAGES_MAX: usize = 64;
/// What will hit all that follows, too.
const FATAL: [Errno; 3] = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS];

/// Something that is not as it was.
pub struct Problem {
    path: PathBuf,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

/// What was written.
#[derive(Clone, Copy, Default)]
pub struct Written {
    /// Objects: files, directories and the rest.
    pub objects: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Objects that have another owner.
    pub unowned: u64,
}

/// Why an object could not be written, or not all of it.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Backup(#[from] BackupError),
    #[error("{0}")]
    Kernel(#[from] Errno),
    #[error("extended attribute {0}: {1}")]
    Xattr(String, Errno),
    #[error("{0}")]
    Nonsense(&'static str),
}

/// A directory that is being written.
struct Level {
    object: ObjectId,
    attr: Attr,
    name: Vec<u8>,
    /// Which directory it is here: device and inode.
    here: (u64, u64),
    page: std::vec::IntoIter<Entry>,
    /// The last entry that was taken.
    behind: Option<Key>,
}

/// Writes a tree.
pub struct TreeOut<'v, 'r, F: Folder, B: FnMut(u64), P: FnMut(Problem)> {
    view: &'v BackupView<'r, F>,
    bytes: B,
    problem: P,
    written: Written,
    levels: Vec<Level>,
    links: Option<(String, OwnedFd)>,
    to: PathBuf,
    blob: Option<(BlobId, Vec<u8>)>,
}

impl<'v, 'r, F: Folder, B: FnMut(u64), P: FnMut(Problem)> TreeOut<'v, 'r, F, B, P> {
    /// Tells how many bytes were written, and what is not as it was.
    pub fn new(view: &'v BackupView<'r, F>, bytes: B, problem: P) -> Self {
        let (written, levels) = (Written::default(), Vec::new());
        TreeOut { view, bytes, problem, written, levels, links: None, to: PathBuf::new(), blob: None }
    }

    /// Writes an object that is no directory into the directory `to`.
    ///
    /// # Errors
    /// Why it could not be written at all.
    pub fn alone(&mut self, object: ObjectId, to: &Path, name: &[u8]) -> anyhow::Result<Written> {
        self.to = to.to_owned();
        let fd = openat(CWD, to, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?;
        let attr = self.view.attr(object)?.context("what the name leads to is missing in the backup")?;
        let made = self.object(&fd, name, object, Attr { nlink: 1, ..attr });
        self.told(name, made)?;
        Ok(self.written)
    }

    /// Writes all that is in a directory into the directory `to`, which becomes what that one was.
    ///
    /// # Errors
    /// Why it was not gone on with.
    pub fn directory(&mut self, object: ObjectId, to: &Path) -> anyhow::Result<Written> {
        self.to = to.to_owned();
        let attr = self.view.attr(object)?.context("the directory is missing in the backup")?;
        let root = openat(CWD, to, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?;
        // What is closed to others must not be open while its directories are not complete.
        fchmod(&root, Mode::RWXU)?;
        let links = self.links_name(object)?;
        mkdirat(&root, &links, Mode::RWXU)?;
        self.links = Some((links.clone(), openat(&root, &links, DIRECTORY, Mode::empty())?));
        let mut fd = root.try_clone().context("one more file")?;
        self.enter(&fd, object, attr, Vec::new())?;
        while let Some(level) = self.levels.last() {
            match self.next_entry(level.object)? {
                Some(entry) => self.entry(&mut fd, entry)?,
                None if self.levels.len() == 1 => {
                    // Before its times are set.
                    self.remove_links(&root, &links)?;
                    self.leave(&mut fd)?;
                }
                None => self.leave(&mut fd)?,
            }
        }
        Ok(self.written)
    }

    /// A name that nothing in a directory of the backup has.
    fn links_name(&self, directory: ObjectId) -> Result<String, BackupError> {
        let mut name = ".gavel-restore".to_owned();
        while self.view.lookup(directory, name.as_bytes())?.is_some() && name.len() < 200 {
            name.push('-');
        }
        Ok(name)
    }

    fn remove_links(&mut self, root: &OwnedFd, name: &str) -> anyhow::Result<()> {
        let Some((_, links)) = self.links.take() else { return Ok(()) };
        let path = self.to.join(name);
        for entry in std::fs::read_dir(&path).with_context(|| path.display().to_string())? {
            unlinkat(&links, entry?.file_name(), AtFlags::empty())?;
        }
        unlinkat(root, name, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    /// The next entry of the directory that is being written.
    fn next_entry(&mut self, object: ObjectId) -> anyhow::Result<Option<Entry>> {
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else { return Ok(None) };
        if level.page.len() == 0 {
            match self.view.entries(object, level.behind.as_ref()) {
                Ok(page) => level.page = page.into_iter(),
                Err(error) if error.is_damage() => {
                    self.told(b"", Err(error.into()))?;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let entry = level.page.next();
        if depth > PAGES_MAX {
            level.page = Vec::new().into_iter();
        }
        if let Some(entry) = &entry {
            level.behind = Some(entry.key.clone());
        }
        Ok(entry)
    }

    fn entry(&mut self, fd: &mut OwnedFd, entry: Entry) -> anyhow::Result<()> {
        let Entry { name, dirent, .. } = entry;
        if name.contains(&b'/') || name == b"." || name == b".." {
            return self.told(b"", Err(Failed::Nonsense("a name that no file can have")));
        }
        let attr = match self.view.attr(dirent.object) {
            Ok(Some(attr)) => attr,
            Ok(None) => {
                return self.told(&name, Err(Failed::Nonsense("what the name leads to is missing in the backup")));
            }
            Err(error) => return self.told(&name, Err(error.into())),
        };
        if attr.firm.kind != Kind::Directory {
            let made = self.object(fd, &name, dirent.object, attr);
            return self.told(&name, made);
        }
        // A directory is in one directory: so there is no circle.
        let above = self.levels.last().map(|level| level.object);
        if Some(attr.firm.parent) != above || self.levels.len() >= DEPTH_MAX {
            return self.told(&name, Err(Failed::Nonsense("a directory that is not where it says it is, or too deep")));
        }
        let made = mkdirat(&*fd, OsStr::from_bytes(&name), Mode::RWXU)
            .and_then(|()| openat(&*fd, OsStr::from_bytes(&name), DIRECTORY, Mode::empty()));
        match made {
            Ok(below) => {
                *fd = below;
                self.enter(fd, dirent.object, attr, name)
            }
            Err(error) => self.told(&name, Err(error.into())),
        }
    }

    fn enter(&mut self, fd: &OwnedFd, object: ObjectId, attr: Attr, name: Vec<u8>) -> anyhow::Result<()> {
        let stat = fstat(fd)?;
        let (here, page) = ((stat.st_dev, stat.st_ino), Vec::new().into_iter());
        self.levels.push(Level { object, attr, name, here, page, behind: None });
        Ok(())
    }

    /// A directory is complete: it becomes what it was, and the one above is gone on with.
    fn leave(&mut self, fd: &mut OwnedFd) -> anyhow::Result<()> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let (object, attr) = (level.object, level.attr);
        let above = match self.levels.len().checked_sub(2).and_then(|above| self.levels.get(above)) {
            Some(above) => {
                let parent = openat(&*fd, "..", DIRECTORY, Mode::empty())?;
                let stat = fstat(&parent)?;
                anyhow::ensure!((stat.st_dev, stat.st_ino) == above.here, "somebody moved directories meanwhile");
                Some(parent)
            }
            None => None,
        };
        let made = self.make_it(fd, object, &attr);
        self.told(b"", made)?;
        self.levels.pop();
        self.written.objects += 1;
        if let Some(above) = above {
            *fd = above;
        }
        Ok(())
    }

    /// What went wrong with one object is told, and the rest is gone on with, unless that will not go better.
    fn told(&mut self, name: &[u8], made: Result<(), Failed>) -> anyhow::Result<()> {
        let Err(error) = made else { return Ok(()) };
        let names = self.levels.iter().map(|level| &level.name[..]).chain([name]);
        let mut path = self.to.clone();
        names.filter(|name| !name.is_empty()).for_each(|name| path.push(OsStr::from_bytes(name)));
        match error {
            Failed::Kernel(errno) if FATAL.contains(&errno) => {
                Err(std::io::Error::from(errno)).context(path.display().to_string())
            }
            Failed::Backup(error) if !error.is_damage() => Err(error.into()),
            error => {
                (self.problem)(Problem { path, what: error.to_string() });
                Ok(())
            }
        }
    }

    /// Makes an object that is no directory.
    fn object(&mut self, fd: &OwnedFd, name: &[u8], object: ObjectId, attr: Attr) -> Result<(), Failed> {
        let (place, number) = (OsStr::from_bytes(name), object.0.to_string());
        if attr.nlink > 1
            && let Some((_, links)) = &self.links
        {
            match linkat(links, &number, fd, place, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                linked => return Ok(linked?),
            }
        }
        self.written.objects += 1;
        let made = match attr.firm.kind {
            Kind::File => self.file(fd, place, object, &attr),
            Kind::Symlink => {
                let target = self.view.target(object)?.ok_or(Failed::Nonsense("a symbolic link without a target"))?;
                symlinkat(OsStr::from_bytes(&target), fd, place)?;
                self.make_named(fd, place, object, &attr)
            }
            kind => {
                mknodat(fd, place, file_type(kind), Mode::RUSR, device(attr.firm.rdev))?;
                self.make_named(fd, place, object, &attr)
            }
        };
        if attr.nlink > 1
            && let Some((_, links)) = &self.links
        {
            linkat(fd, place, links, &number, AtFlags::empty())?;
        }
        made
    }

    fn file(&mut self, fd: &OwnedFd, name: &OsStr, object: ObjectId, attr: &Attr) -> Result<(), Failed> {
        let file = openat(fd, name, NEW_FILE, Mode::RUSR | Mode::WUSR)?;
        ftruncate(&file, attr.size)?;
        let (view, mut damaged) = (self.view, None);
        let read = view.extents(object, |start, extent| match self.extent(&file, attr.size, start, extent) {
            Err(Failed::Backup(error)) if error.is_damage() => {
                damaged.get_or_insert(error);
                Ok(())
            }
            written => written,
        });
        // What is good of it stays, and becomes what it was.
        let made = self.make_it(&file, object, attr);
        match (read, damaged) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(error)) => Err(error.into()),
            (Ok(()), None) => made,
        }
    }

    fn extent(&mut self, file: &OwnedFd, size: u64, start: u64, extent: Extent) -> Result<(), Failed> {
        let len = extent.len.min(size.saturating_sub(start));
        match extent.content {
            Content::Inline(bytes) => write(file, start, &bytes[..bytes.len().min(len as usize)])?,
            Content::Blob { id, offset, .. } => {
                if self.blob.as_ref().is_none_or(|(last, _)| *last != id) {
                    self.blob = Some((id, self.view.blob(id)?));
                }
                let bytes = self.blob.as_ref().map_or(&[][..], |(_, bytes)| bytes);
                let end = u64::from(offset).saturating_add(len) as usize;
                let bytes =
                    bytes.get(offset as usize..end).ok_or(Failed::Nonsense("bytes that its blob does not have"))?;
                write(file, start, bytes)?;
            }
            Content::Zeros => match fallocate(file, FallocateFlags::empty(), start, len) {
                // A hole reads the same.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::INVAL) => return Ok(()),
                Err(error) => return Err(error.into()),
            },
        }
        self.written.bytes += len;
        (self.bytes)(len);
        Ok(())
    }

    /// Owner, extended attributes, mode and times of what is open.
    fn make_it(&mut self, fd: &OwnedFd, object: ObjectId, attr: &Attr) -> Result<(), Failed> {
        let owned = self.owned(fchown(fd, Some(Uid::from_raw(attr.firm.uid)), Some(Gid::from_raw(attr.firm.gid))))?;
        let set = |name: &[u8], value: &[u8]| fsetxattr(fd, OsStr::from_bytes(name), value, XattrFlags::empty());
        let others = self.set_xattrs(object, false, set);
        fchmod(fd, mode(attr, owned))?;
        // A mode changes an access list: so that comes last.
        let lists = self.set_xattrs(object, true, set);
        futimens(fd, &times(attr))?;
        others.and(lists)
    }

    /// The same, of what has a name and can't be opened.
    fn make_named(&mut self, fd: &OwnedFd, name: &OsStr, object: ObjectId, attr: &Attr) -> Result<(), Failed> {
        let (uid, gid) = (Uid::from_raw(attr.firm.uid), Gid::from_raw(attr.firm.gid));
        let owned = self.owned(rustix::fs::chownat(fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
        let path = Path::new("/proc/self/fd").join(fd.as_fd().as_raw_fd().to_string()).join(name);
        let set = |name: &[u8], value: &[u8]| lsetxattr(&path, OsStr::from_bytes(name), value, XattrFlags::empty());
        let others = self.set_xattrs(object, false, set);
        if attr.firm.kind != Kind::Symlink {
            rustix::fs::chmodat(fd, name, mode(attr, owned), AtFlags::empty())?;
        }
        let lists = self.set_xattrs(object, true, set);
        utimensat(fd, name, &times(attr), AtFlags::SYMLINK_NOFOLLOW)?;
        others.and(lists)
    }

    fn owned(&mut self, done: Result<(), Errno>) -> Result<bool, Failed> {
        match done {
            Ok(()) => Ok(true),
            Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {
                self.written.unowned += 1;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the access lists, or all the others. All are tried; the first that can't be set is told of.
    fn set_xattrs(
        &self,
        object: ObjectId,
        lists: bool,
        set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
    ) -> Result<(), Failed> {
        let mut first = Ok(());
        self.view.xattrs(object, |name, value| {
            if name.starts_with(ACL_PREFIX) == lists
                && let Err(error) = set(name, value)
                && first.is_ok()
            {
                first = Err(Failed::Xattr(name.escape_ascii().to_string(), error));
            }
            Ok::<(), Failed>(())
        })?;
        first
    }
}

fn write(file: &OwnedFd, mut at: u64, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = pwrite(file, bytes, at)?;
        (at, bytes) = (at + written as u64, &bytes[written..]);
    }
    Ok(())
}

/// Without an owner that was set, nobody else's rights are given away.
fn mode(attr: &Attr, owned: bool) -> Mode {
    let mode = Mode::from_raw_mode(u32::from(attr.firm.mode));
    if owned { mode } else { mode.difference(Mode::SUID | Mode::SGID) }
}

fn times(attr: &Attr) -> Timestamps {
    let time = |time: Timestamp| Timespec { tv_sec: time.secs, tv_nsec: time.nanos.min(999_999_999).into() };
    Timestamps { last_access: time(attr.atime), last_modification: time(attr.mtime) }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// A device number, from the kernel's encoding in 32 bits.
fn device(rdev: u32) -> rustix::fs::Dev {
    makedev((rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}
