//! What opens and closes objects.
//!
//! The tree is told of an open before the request that makes it, so that an unlink on another node that comes between
//! the two finds the object held. Only the answer names what `create` has made: there the tree is told from within
//! the callback, before the kernel hears of the object.

use super::keeping::{self, NO_TIME};
use super::past::Node;
use super::replies::{self, GENERATION};
use super::{Front, bytes_of, caller};
use crate::attr::permissions;
use crate::errno;
use fuser::{Errno, FileHandle, FopenFlags, INodeNo, OpenFlags, ReplyCreate, ReplyEmpty, ReplyOpen, Request};
use gavel_client::tree::{Answer, TreeRequest};
use gavel_fs::Operation;
use gavel_types::ObjectId;
use std::ffi::OsStr;
use std::sync::atomic::Ordering;

/// Pages are kept for opens with none of these.
const CACHED_OPEN_MASK: i32 = libc::O_ACCMODE | libc::O_TRUNC | libc::O_DIRECT;

impl Front {
    pub(super) fn open_file(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let Node::Live(id) = self.node(ino) else { return self.open_past(flags, reply) };
        let (door, agreed) = (self.door.clone(), self.agreed);
        let since = self.door.known().moment();
        let may_cache = agreed.caches() && flags.0 & CACHED_OPEN_MASK == libc::O_RDONLY;
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let operation = Operation::Open { object: id, truncate, kill_suidgid: truncate && loses_suidgid(req) };
        door.opens.open(id);
        self.operate(req, operation, move |answered| match answered {
            Ok(answer) => {
                let cached = if may_cache && answer.keep.bytes { door.known().open_cached(id, since) } else { None };
                reply.opened(door.locking.handle(), agreed.open(cached));
            }
            Err(errno) => {
                door.opens.close(id);
                reply.error(errno);
            }
        });
    }

    /// A file of the past is not held, and what the kernel has of it stays good.
    fn open_past(&self, flags: OpenFlags, reply: ReplyOpen) {
        match flags.0 & libc::O_ACCMODE == libc::O_RDONLY && flags.0 & libc::O_TRUNC == 0 {
            true => reply.opened(self.door.locking.handle(), self.agreed.open_past()),
            false => reply.error(errno::READ_ONLY),
        }
    }

    pub(super) fn create_file(
        &self,
        req: &Request,
        (parent, name): (ObjectId, &OsStr),
        (mode, umask): (u32, u32),
        flags: i32,
        reply: ReplyCreate,
    ) {
        let exclusive = flags & libc::O_EXCL != 0;
        // Always exclusive: the kernel asks for this only where it saw no such name, and checks no permissions of what
        // it believes to be new. What another node has made meanwhile must go through its checks first.
        let operation = Operation::Create {
            parent,
            name: bytes_of(name),
            mode: permissions(mode),
            umask: permissions(umask),
            exclusive: true,
            truncate: false,
        };
        let (door, agreed) = (self.door.clone(), self.agreed);
        door.known().changing(parent);
        let since = door.known().moment();
        self.operate(req, operation, move |answered| {
            let keep = replies::keep(&answered);
            match answered.and_then(replies::found_live) {
                Ok((id, attr)) => {
                    // Where opens are not asked for, there is no release: the look-up that this is counts instead.
                    if !agreed.unasked_opens {
                        door.opens.open(id);
                    }
                    let undisturbed = door.known().made(id, parent, since);
                    // fuser has one time for the name and the attributes here.
                    let time = if undisturbed { keeping::both(door.known(), keep) } else { NO_TIME };
                    reply.created(&time, &attr, GENERATION, door.locking.handle(), agreed.open(None));
                }
                Err(Errno::EEXIST) if !exclusive => reply.error(errno::WALK_AGAIN),
                Err(errno) => reply.error(errno),
            }
        });
    }

    pub(super) fn open_directory(&self, ino: INodeNo, reply: ReplyOpen) {
        // No request: the kernel has looked the directory up just now, and a listing says if it is gone.
        let handle = self.door.handles.fetch_add(1, Ordering::Relaxed);
        let kept = match self.node(ino) {
            Node::Live(directory) => {
                self.door.opens.open(directory);
                self.door.known().open_listing(directory, handle)
            }
            Node::Past(_) => Some(true),
        };
        let flags = match kept {
            None => FopenFlags::empty(),
            Some(false) => FopenFlags::FOPEN_CACHE_DIR,
            Some(true) => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        };
        reply.opened(FileHandle(handle), flags);
    }

    pub(super) fn close_directory(&self, ino: INodeNo, handle: FileHandle, reply: ReplyEmpty) {
        if let Some(directory) = self.live(ino) {
            self.door.known().lists_on(handle.0);
            self.door.known().close_listing(handle.0);
            self.door.opens.close(directory);
        }
        reply.ok();
    }

    pub(super) fn close(&self, file: ObjectId, reply: ReplyEmpty) {
        self.door.known().named(file);
        self.door.opens.close(file);
        reply.ok();
    }

    pub(super) fn sync(&self, req: &Request, ino: INodeNo, reply: ReplyEmpty) {
        let Some(object) = self.live(ino) else { return reply.ok() };
        let request = TreeRequest::Sync { object };
        self.door.start(caller(req), request, 0, move |answered: Result<Answer, Errno>| {
            replies::empty(reply, answered);
        });
    }
}

/// Does a truncation by this caller take set-user-id and set-group-id away? The kernel decides that by CAP_FSETID and
/// says so with the request, but fuser 0.18 does not pass it on; who is not root is taken to lack it.
pub(super) fn loses_suidgid(req: &Request) -> bool {
    req.uid() != 0
}

const _: () = assert!(ObjectId::ROOT.0 == INodeNo::ROOT.0);
