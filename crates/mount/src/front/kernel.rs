//! The kernel's calls, one short method each. `docs/protocols/mount.md` has them as a table.

use super::locking::Asked;
use super::opening::loses_suidgid;
use super::past::Node;
use super::{Front, bytes_of, caller, replies};
use crate::attr::{kind_to_make, permissions, set_time};
use crate::{CONTROL_XATTR, errno, init};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, RequestId, TimeOrNow, WriteFlags,
};
use gavel_client::tree::TreeRequest;
use gavel_fs::Operation;
use gavel_fs::operation::{Allocate, RenameMode, Seek, SetAttr, XattrMode};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

/// Longest copy of one request: its reply counts in 32 bits. Whole pages, so that a long copy stays aligned.
const COPY_BYTES_MAX: u64 = 1 << 31;

impl Filesystem for Front {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.agreed = init::agree(config, self.terms);
        if self.agreed.unasked_opens {
            self.door.known().count_as_open(self.door.tree.clone());
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.door.end();
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.node(parent) {
            Node::Live(directory) => self.door.look_up(caller(req), directory, bytes_of(name), reply),
            Node::Past(directory) => self.door.look_up_past(caller(req), directory, bytes_of(name), reply),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.door.dropped(ino, lookups);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (node, door) = (self.node(ino), self.door.clone());
        self.observe(req, &node.clone(), Operation::Getattr { object: node.object() }, move |answered| match node {
            Node::Past(_) => replies::attr(door.known(), &node, reply, answered),
            Node::Live(object) => {
                door.answer_attributes(object, answered, move |door, answered| {
                    replies::attr(door.known(), &node, reply, answered);
                });
            }
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let Some(id) = self.live(ino) else { return reply.error(errno::READ_ONLY) };
        let set = SetAttr {
            mode: mode.map(permissions),
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            // A change of owner takes them away whoever asks, a truncation only from who may not set them.
            kill_suidgid: uid.is_some() || gid.is_some() || (size.is_some() && loses_suidgid(req)),
        };
        let door = self.door.clone();
        door.known().named(id);
        self.operate(req, Operation::Setattr { object: id, set }, move |answered| {
            replies::attr(door.known(), &Node::Live(id), reply, answered);
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let node = self.node(ino);
        let operation = Operation::Readlink { object: node.object() };
        self.observe(req, &node, operation, move |answered| replies::bytes(reply, answered));
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let Some(parent) = self.live(parent) else { return reply.error(errno::READ_ONLY) };
        let Some(kind) = kind_to_make(mode) else { return reply.error(errno::INVALID) };
        let (mode, umask, name) = (permissions(mode), permissions(umask), bytes_of(name));
        let operation = Operation::Mknod { parent, name, kind, mode, umask, rdev };
        self.make(req, parent, operation, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let Some(parent) = self.live(parent) else { return reply.error(errno::READ_ONLY) };
        let (mode, umask) = (permissions(mode), permissions(umask));
        let operation = Operation::Mkdir { parent, name: bytes_of(name), mode, umask };
        self.make(req, parent, operation, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(parent) = self.live(parent) else { return reply.error(errno::READ_ONLY) };
        self.remove(req, parent, name, Operation::Unlink { parent, name: bytes_of(name) }, reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(parent) = self.live(parent) else { return reply.error(errno::READ_ONLY) };
        self.remove(req, parent, name, Operation::Rmdir { parent, name: bytes_of(name) }, reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let Some(parent) = self.live(parent) else { return reply.error(errno::READ_ONLY) };
        let target = target.as_os_str().as_bytes().into();
        let operation = Operation::Symlink { parent, name: bytes_of(name), target };
        self.make(req, parent, operation, reply);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            none if none.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(errno::INVALID),
        };
        let (Some(parent), Some(new_parent)) = (self.live(parent), self.live(newparent)) else {
            return reply.error(errno::READ_ONLY);
        };
        self.move_name(req, (parent, name), (new_parent, newname), mode, reply);
    }

    fn link(&self, req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (Some(object), Some(parent)) = (self.live(ino), self.live(newparent)) else {
            return reply.error(errno::READ_ONLY);
        };
        self.make(req, parent, Operation::Link { object, parent, name: bytes_of(newname) }, reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.agreed.unasked_opens {
            return reply.error(errno::NOT_IMPLEMENTED); // the kernel opens it by itself, and does not ask again
        }
        self.open_file(req, ino, flags, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let Some(parent) = self.live(parent) else { return reply.error(errno::READ_ONLY) };
        self.create_file(req, (parent, name), (mode, umask), flags, reply);
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_bytes(req, &self.node(ino), offset, len, reply);
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(object) = self.live(ino) else { return reply.error(errno::READ_ONLY) };
        // Pages of a mapping know where they belong, however the file is open.
        let from_mapping = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let request = TreeRequest::Write {
            object,
            offset,
            append: flags.0 & libc::O_APPEND != 0 && !from_mapping,
            data: data.to_vec(),
            kill_suidgid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        let sync = flags.0 & (libc::O_SYNC | libc::O_DSYNC) != 0;
        self.write_bytes(req, object, request, data.len(), !from_mapping, sync, reply);
    }

    fn flush(&self, _: &Request, ino: INodeNo, _: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        if self.agreed.local_locks {
            return reply.error(errno::NOT_IMPLEMENTED); // a close gives nothing back
        }
        let Some(file) = self.live(ino) else { return reply.ok() };
        self.flush_locks(file, owner, reply);
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        first: u64,
        last: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        // Nobody writes to the past, so nobody is in anybody's way there.
        let Some(file) = self.live(ino) else { return reply.locked(first, last, libc::F_UNLCK, 0) };
        let asked = Asked { file, handle, owner, first, last, kind, pid, flock: false };
        self.get_lock(req, &asked, reply);
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        first: u64,
        last: u64,
        kind: i32,
        pid: u32,
        wait: bool,
        flock: bool,
        reply: ReplyEmpty,
    ) {
        let Some(file) = self.live(ino) else { return reply.ok() };
        let asked = Asked { file, handle, owner, first, last, kind, pid, flock };
        self.set_lock(req, &asked, wait, reply);
    }

    fn interrupt(&self, _: &Request, unique: RequestId) -> bool {
        self.interrupted(unique.0);
        true
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        flock: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let Some(file) = self.live(ino) else { return reply.ok() };
        self.release_locks(file, handle, flock);
        self.close(file, reply);
    }

    fn fsync(&self, req: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(req, ino, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.open_directory(ino, reply);
    }

    fn readdir(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(req, (ino, fh), offset, reply);
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        self.list_plus(req, (ino, fh), offset, reply);
    }

    fn releasedir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.close_directory(ino, fh, reply);
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(req, ino, reply);
    }

    fn statfs(&self, req: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.door.start(caller(req), TreeRequest::Statfs, 0, move |answered| replies::statfs(reply, answered));
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(object) = self.live(ino) else { return reply.error(errno::READ_ONLY) };
        let mode = match flags {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(errno::INVALID),
        };
        let operation = Operation::Setxattr { object, name: bytes_of(name), value: value.into(), mode };
        self.operate(req, operation, move |answered| replies::empty(reply, answered));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if name == CONTROL_XATTR {
            return replies::xattr_value(size, reply, Ok(&self.control));
        }
        let node = self.node(ino);
        let operation = Operation::Getxattr { object: node.object(), name: bytes_of(name) };
        self.observe(req, &node, operation, move |answered| replies::xattr(size, reply, answered));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let node = self.node(ino);
        let operation = Operation::Listxattr { object: node.object() };
        self.observe(req, &node, operation, move |answered| replies::xattr(size, reply, answered));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(object) = self.live(ino) else { return reply.error(errno::READ_ONLY) };
        let operation = Operation::Removexattr { object, name: bytes_of(name) };
        self.operate(req, operation, move |answered| replies::empty(reply, answered));
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(errno::NOT_IMPLEMENTED); // the kernel checks permissions itself
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(errno::NOT_IMPLEMENTED);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(errno::NO_IOCTL);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(errno::NOT_IMPLEMENTED); // always ready, says the kernel then
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(object) = self.live(ino) else { return reply.error(errno::READ_ONLY) };
        let Some(how) = allocation(mode) else { return reply.error(errno::NOT_SUPPORTED) };
        let operation = Operation::Fallocate { object, offset, len: length, how };
        self.operate(req, operation, move |answered| replies::empty(reply, answered));
    }

    fn lseek(&self, req: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(errno::INVALID),
        };
        // The kernel refuses an offset before the file with the errno for one behind it.
        let Ok(offset) = u64::try_from(offset) else { return reply.error(errno::NO_SUCH_OFFSET) };
        let node = self.node(ino);
        let operation = Operation::Seek { object: node.object(), offset, what };
        self.observe(req, &node, operation, move |answered| replies::offset(reply, answered));
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let Some(to) = self.live(ino_out) else { return reply.error(errno::READ_ONLY) };
        let Some(from) = self.live(ino_in) else { return reply.error(errno::OTHER_STATE) };
        let operation = Operation::CopyRange {
            from,
            from_offset: offset_in,
            to,
            to_offset: offset_out,
            len: len.min(COPY_BYTES_MAX),
        };
        self.operate(req, operation, move |answered| replies::written(reply, answered));
    }
}

fn allocation(mode: i32) -> Option<Allocate> {
    const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP_SIZE;
    const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_RANGE_KEEP_SIZE: i32 = ZERO_RANGE | KEEP_SIZE;
    Some(match mode {
        0 => Allocate::Reserve { keep_size: false },
        KEEP_SIZE => Allocate::Reserve { keep_size: true },
        PUNCH_HOLE => Allocate::PunchHole,
        ZERO_RANGE => Allocate::ZeroRange { keep_size: false },
        ZERO_RANGE_KEEP_SIZE => Allocate::ZeroRange { keep_size: true },
        _ => return None,
    })
}
