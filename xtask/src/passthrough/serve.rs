//! The requests: each is one or a few calls on the directory behind.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RawDir, SeekFrom, Uid};
use rustix::io::Errno;

use super::attr::{attributes, kind, nothing, timestamps};
use super::nodes::{Node, Nodes, ROOT};
use super::syncs::Syncs;

/// How long the kernel may keep names and attributes: a day, longer than any benchmark.
const KEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// The largest write that is taken in one request.
const WRITE_BYTES_MAX: u32 = 1 << 20;

/// Requests that the kernel may send ahead (readahead, writeback).
const BACKGROUND_REQUESTS_MAX: u16 = 64;

/// Bytes of directory entries that are read from behind at a time.
const LISTING_BYTES: usize = 32 * 1024;

/// Never reused while the kernel knows the inode (invariant 1), so one generation does.
const GENERATION: Generation = Generation(0);

/// A tree, served.
pub(super) struct Passthrough {
    nodes: Nodes,
    syncs: Syncs,
    kernel_passthrough: bool,
}

/// Answers `$reply` with the error, or goes on with the value.
macro_rules! or_reply {
    ($result:expr, $reply:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return $reply.error(errno(error)),
        }
    };
}

fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error())
}

fn answer_entry(reply: ReplyEntry, entry: Result<FileAttr, Errno>) {
    match entry {
        Ok(attr) => reply.entry(&KEEP, &attr, GENERATION),
        Err(error) => reply.error(errno(error)),
    }
}

fn io_errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl Passthrough {
    pub(super) fn new(nodes: Nodes, syncs: Syncs, kernel_passthrough: bool) -> Self {
        Self { nodes, syncs, kernel_passthrough }
    }

    fn entry(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let parent = self.nodes.get(parent.0)?;
        let (_, stat) = self.nodes.look_up(&parent, name)?;
        Ok(attributes(self.nodes.number(stat.st_ino), &stat))
    }

    /// Looks up what was just made, and gives it to whom the request came from.
    fn made(&self, request: &Request, parent: &Node, name: &OsStr) -> Result<FileAttr, Errno> {
        let (uid, gid) = (request.uid(), request.gid());
        if uid != 0 || gid != 0 {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let (_, stat) = self.nodes.look_up(parent, name)?;
        Ok(attributes(self.nodes.number(stat.st_ino), &stat))
    }

    fn set_attributes(&self, number: u64, wanted: &Wanted) -> Result<FileAttr, Errno> {
        let node = self.nodes.get(number)?;
        let path = node.proc_path();
        if let Some(mode) = wanted.mode {
            rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(mode & 0o7777))?;
        }
        if wanted.uid.is_some() || wanted.gid.is_some() {
            let (uid, gid) = (wanted.uid.map(Uid::from_raw), wanted.gid.map(Gid::from_raw));
            rustix::fs::chownat(&node, c"", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(size) = wanted.size {
            rustix::fs::ftruncate(node.bytes()?, size)?;
        }
        if wanted.atime.is_some() || wanted.mtime.is_some() {
            rustix::fs::utimensat(CWD, path.as_str(), &timestamps(wanted.atime, wanted.mtime), AtFlags::empty())?;
        }
        Ok(attributes(number, &node.stat()?))
    }

    /// Opens directory `number` for listing from `offset`.
    fn listing(&self, number: u64, offset: u64) -> Result<(std::sync::Arc<Node>, OwnedFd), Errno> {
        let node = self.nodes.get(number)?;
        let directory =
            rustix::fs::openat(&node, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if offset > 0 {
            rustix::fs::seek(&directory, SeekFrom::Start(offset))?;
        }
        Ok((node, directory))
    }
}

/// What a SETATTR asks for, without what only other systems have.
struct Wanted {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
}

/// How a file is answered to be open where the kernel cannot pass through.
const OPEN_KEPT: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

impl Filesystem for Passthrough {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let useful = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            // Else the kernel asks for security.capability before each first write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for flag in useful {
            // A kernel without it is slower, not wrong.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_readahead(WRITE_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        let can = self.kernel_passthrough
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        self.kernel_passthrough = can;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.entry(parent, name) {
            Ok(attr) => reply.entry(&KEEP, &attr, GENERATION),
            // Inode 0: nothing there, and that may be kept too.
            Err(Errno::NOENT) => reply.entry(&KEEP, &nothing(), GENERATION),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        self.nodes.forget(number.0, lookups);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let stat = or_reply!(self.nodes.get(number.0).and_then(|node| node.stat()), reply);
        reply.attr(&KEEP, &attributes(number.0, &stat));
    }

    fn setattr(
        &self,
        _request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let wanted = Wanted { mode, uid, gid, size, atime, mtime };
        let attr = or_reply!(self.set_attributes(number.0, &wanted), reply);
        reply.attr(&KEEP, &attr);
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        let node = or_reply!(self.nodes.get(number.0), reply);
        let target = or_reply!(rustix::fs::readlinkat(&node, c"", Vec::new()), reply);
        reply.data(target.as_bytes());
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let parent = or_reply!(self.nodes.get(parent.0), reply);
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let made = rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(mode), rdev.into())
            .and_then(|()| self.made(request, &parent, name));
        answer_entry(reply, made);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let parent = or_reply!(self.nodes.get(parent.0), reply);
        let made = rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode))
            .and_then(|()| self.made(request, &parent, name));
        answer_entry(reply, made);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let parent = or_reply!(self.nodes.get(parent.0), reply);
        let made = rustix::fs::symlinkat(target, &parent, name).and_then(|()| self.made(request, &parent, name));
        answer_entry(reply, made);
    }

    fn link(&self, _request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let node = or_reply!(self.nodes.get(number.0), reply);
        let directory = or_reply!(self.nodes.get(parent.0), reply);
        or_reply!(rustix::fs::linkat(CWD, node.proc_path().as_str(), &directory, name, AtFlags::SYMLINK_FOLLOW), reply);
        answer_entry(reply, self.entry(parent, name));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let parent = or_reply!(self.nodes.get(parent.0), reply);
        or_reply!(rustix::fs::unlinkat(&parent, name, AtFlags::empty()), reply);
        reply.ok();
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let parent = or_reply!(self.nodes.get(parent.0), reply);
        or_reply!(rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR), reply);
        reply.ok();
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = or_reply!(self.nodes.get(parent.0), reply);
        let to = or_reply!(self.nodes.get(new_parent.0), reply);
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        or_reply!(rustix::fs::renameat_with(&from, name, &to, new_name, flags), reply);
        reply.ok();
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let parent = or_reply!(self.nodes.get(parent.0), reply);
        let regular = rustix::fs::FileType::RegularFile;
        let attr = match rustix::fs::mknodat(&parent, name, regular, Mode::from_raw_mode(mode), 0) {
            Err(Errno::EXIST) if flags & libc::O_EXCL == 0 => {
                self.nodes.look_up(&parent, name).map(|(_, stat)| attributes(self.nodes.number(stat.st_ino), &stat))
            }
            made => made.and_then(|()| self.made(request, &parent, name)),
        };
        let attr = or_reply!(attr, reply);
        let node = or_reply!(self.nodes.get(attr.ino.0), reply);
        let backing = self.kernel_passthrough.then(|| node.backing(|path| reply.open_backing(path))).flatten();
        match backing {
            Some(id) => {
                reply.created_passthrough(&KEEP, &attr, GENERATION, FileHandle(0), FopenFlags::empty(), id);
            }
            None => {
                or_reply!(node.bytes(), reply);
                reply.created(&KEEP, &attr, GENERATION, FileHandle(0), OPEN_KEPT);
            }
        }
    }

    fn open(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let node = or_reply!(self.nodes.get(number.0), reply);
        let backing = self.kernel_passthrough.then(|| node.backing(|path| reply.open_backing(path))).flatten();
        match backing {
            Some(id) => reply.opened_passthrough(FileHandle(0), FopenFlags::empty(), id),
            None => {
                or_reply!(node.bytes(), reply);
                reply.opened(FileHandle(0), OPEN_KEPT);
            }
        }
    }

    fn read(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let node = or_reply!(self.nodes.get(number.0), reply);
        let file = or_reply!(node.bytes(), reply);
        let mut bytes = vec![0; size as usize];
        let read = or_reply!(file.read_at(&mut bytes, offset).map_err(io_errno), reply);
        reply.data(&bytes[..read]);
    }

    fn write(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let node = or_reply!(self.nodes.get(number.0), reply);
        let file = or_reply!(node.bytes(), reply);
        or_reply!(file.write_all_at(bytes, offset).map_err(io_errno), reply);
        reply.written(bytes.len() as u32);
    }

    fn flush(&self, _request: &Request, _number: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        // Nothing is held back here; told so once, the kernel never asks again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _request: &Request, number: INodeNo, _handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let node = or_reply!(self.nodes.get(number.0), reply);
        self.syncs.wait(move || {
            let file = or_reply!(node.bytes(), reply);
            or_reply!(if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }, reply);
            reply.ok();
        });
    }

    fn opendir(&self, _request: &Request, _number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel opens directories by itself from now on, and keeps listings.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (_, directory) = or_reply!(self.listing(number.0, offset), reply);
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BYTES];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = or_reply!(entry, reply);
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let number = INodeNo(self.nodes.number(entry.ino()));
            if reply.add(number, entry.next_entry_cookie(), kind(entry.file_type()), name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (parent, directory) = or_reply!(self.listing(number.0, offset), reply);
        let mut buffer = vec![MaybeUninit::uninit(); LISTING_BYTES];
        let mut entries = RawDir::new(directory, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = or_reply!(entry, reply);
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let cookie = entry.next_entry_cookie();
            if name == "." || name == ".." {
                // The kernel looks neither up: inode 0 says that nothing was.
                let attr = FileAttr { ino: INodeNo(entry.ino()), kind: kind(entry.file_type()), ..nothing() };
                if reply.add(INodeNo(0), cookie, name, &Duration::ZERO, &attr, GENERATION) {
                    break;
                }
                continue;
            }
            // Removed since, or mounted over: not in the listing.
            let Ok((_, stat)) = self.nodes.look_up(&parent, name) else { continue };
            let found = self.nodes.number(stat.st_ino);
            if reply.add(INodeNo(found), cookie, name, &KEEP, &attributes(found, &stat), GENERATION) {
                self.nodes.forget(found, 1);
                break;
            }
        }
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, number: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        let (_, directory) = or_reply!(self.listing(number.0, 0), reply);
        self.syncs.wait(move || {
            or_reply!(rustix::fs::fsync(&directory), reply);
            reply.ok();
        });
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let root = or_reply!(self.nodes.get(ROOT), reply);
        let s = or_reply!(rustix::fs::statvfs(root.proc_path().as_str()), reply);
        let (block, name) = (s.f_bsize as u32, s.f_namemax as u32);
        reply.statfs(s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, block, name, s.f_frsize as u32);
    }

    fn getxattr(&self, _request: &Request, _number: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _request: &Request, _number: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _request: &Request,
        _number: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let node = or_reply!(self.nodes.get(number.0), reply);
        let file = or_reply!(node.bytes(), reply);
        let mode = rustix::fs::FallocateFlags::from_bits_retain(mode as u32);
        or_reply!(rustix::fs::fallocate(file, mode, offset, length), reply);
        reply.ok();
    }

    fn lseek(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        // The kernel answers SEEK_DATA and SEEK_HOLE from the size then.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        from: INodeNo,
        _from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let source = or_reply!(self.nodes.get(from.0), reply);
        let target = or_reply!(self.nodes.get(to.0), reply);
        let (source, target) = (or_reply!(source.bytes(), reply), or_reply!(target.bytes(), reply));
        let (mut read_at, mut write_at) = (from_offset, to_offset);
        let length = length.min(1 << 30) as usize;
        let copied = rustix::fs::copy_file_range(source, Some(&mut read_at), target, Some(&mut write_at), length);
        let copied = or_reply!(copied, reply);
        reply.written(copied as u32);
    }
}
