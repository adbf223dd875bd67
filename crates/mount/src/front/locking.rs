//! Locks of files and of their bytes.
//!
//! The tree decides. What is kept here is what the kernel does not tell again: which owners may have POSIX locks of a file, so that a
//! close of a file that nobody has locked costs no request; and which requests wait, so that they can be interrupted.
//!
//! - *A close* (FLUSH) ends all POSIX locks that its process has of the file.
//! - *The last close* of an open file (RELEASE) ends its flock, of which the kernel speaks, and its open file description locks, of which it
//!   does not: those are what was taken through this open file by owners that never sent a FLUSH through it.

use super::{Door, Front, caller, replies};
use crate::errno;
use fuser::{Errno, FileHandle, LockOwner, ReplyEmpty, ReplyLock, Request};
use gavel_client::tree::{Answer, LockId, TreeRequest};
use gavel_fs::operation::Caller;
use gavel_types::ObjectId;
use gavel_wire::lock::{Family, LockKind, Span};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// So many interrupts of requests that are not known (yet) are remembered: another thread may be about to make them known.
const EARLY_MAX: usize = 256;

/// Names of requests are unique over all mounts of the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What the kernel asks for in one request.
pub(super) struct Asked {
    pub(super) file: ObjectId,
    pub(super) handle: FileHandle,
    pub(super) owner: LockOwner,
    pub(super) first: u64,
    pub(super) last: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(super) kind: i32,
    pub(super) pid: u32,
    /// As by `flock(2)`.
    pub(super) flock: bool,
}

impl Asked {
    fn family(&self) -> Family {
        if self.flock { Family::Flock } else { Family::Posix }
    }

    fn span(&self) -> Span {
        Span { first: self.first, last: self.last }
    }
}

/// What one mount remembers of locks.
#[derive(Default)]
pub(super) struct Locking {
    /// Open files are told apart by these.
    handles: AtomicU64,
    /// How many owners are in `Known::posix`: most closes need not look.
    posix: AtomicUsize,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Who may have POSIX locks of a file, and through which open files they were taken.
    posix: BTreeMap<(ObjectId, u64), BTreeSet<u64>>,
    /// Who may have a flock of a file.
    flocks: BTreeSet<(ObjectId, u64)>,
    /// Requests that can be interrupted, by the kernel's number.
    waiting: BTreeMap<u64, Waiting>,
    /// Interrupts of requests that were not known; the oldest first.
    early: VecDeque<u64>,
}

#[derive(Clone, Copy)]
struct Waiting {
    id: LockId,
    /// The tree knows of it.
    submitted: bool,
    interrupted: bool,
}

impl Locking {
    /// A handle for a file that is being opened.
    pub(super) fn handle(&self) -> FileHandle {
        FileHandle(self.handles.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn takes(&self, file: ObjectId, asked: &Asked) {
        let mut known = self.known.lock();
        if asked.flock {
            known.flocks.insert((file, asked.owner.0));
        } else {
            known.posix.entry((file, asked.owner.0)).or_default().insert(asked.handle.0);
            self.posix.store(known.posix.len(), Ordering::Release);
        }
    }

    /// May the owner have POSIX locks of the file? It is not known any more from now on.
    fn closes(&self, file: ObjectId, owner: u64) -> bool {
        // The kernel asks for a lock before it says that its owner closes the file.
        if self.posix.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut known = self.known.lock();
        let found = known.posix.remove(&(file, owner)).is_some();
        self.posix.store(known.posix.len(), Ordering::Release);
        found
    }

    /// Which owners have POSIX locks that end with this open file?
    fn releases(&self, file: ObjectId, handle: u64) -> Vec<u64> {
        if self.posix.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut known = self.known.lock();
        let mut ended = Vec::new();
        for ((_, owner), handles) in known.posix.range_mut((file, 0)..=(file, u64::MAX)) {
            if handles.remove(&handle) && handles.is_empty() {
                ended.push(*owner);
            }
        }
        ended.iter().for_each(|owner| drop(known.posix.remove(&(file, *owner))));
        self.posix.store(known.posix.len(), Ordering::Release);
        ended
    }

    fn begins_to_wait(&self, unique: u64, id: LockId) {
        let mut known = self.known.lock();
        let early = known.early.iter().position(|early| *early == unique);
        let interrupted = early.is_some_and(|place| known.early.remove(place).is_some());
        known.waiting.insert(unique, Waiting { id, submitted: false, interrupted });
    }

    /// The tree knows of it. Gives its name if it was interrupted before.
    fn is_submitted(&self, unique: u64) -> Option<LockId> {
        let mut known = self.known.lock();
        let waiting = known.waiting.get_mut(&unique)?;
        waiting.submitted = true;
        waiting.interrupted.then_some(waiting.id)
    }

    /// Which request is to be cancelled?
    fn interrupts(&self, unique: u64) -> Option<LockId> {
        let mut known = self.known.lock();
        let Some(waiting) = known.waiting.get_mut(&unique) else {
            known.early.push_back(unique);
            if known.early.len() > EARLY_MAX {
                known.early.pop_front();
            }
            return None;
        };
        waiting.interrupted = true;
        waiting.submitted.then_some(waiting.id)
    }

    fn waits_no_more(&self, unique: u64) {
        self.known.lock().waiting.remove(&unique);
    }

    /// Everything that was taken, and that waits.
    fn end(&self) -> (Vec<(ObjectId, u64, Family)>, Vec<LockId>) {
        let mut known = self.known.lock();
        let posix = std::mem::take(&mut known.posix).into_keys().map(|(file, owner)| (file, owner, Family::Posix));
        let mut taken: Vec<_> = posix.collect();
        let flocks = std::mem::take(&mut known.flocks);
        taken.extend(flocks.into_iter().map(|(file, owner)| (file, owner, Family::Flock)));
        (taken, known.waiting.values().map(|waiting| waiting.id).collect())
    }
}

impl Front {
    pub(super) fn set_lock(&self, req: &Request, asked: &Asked, wait: bool, reply: ReplyEmpty) {
        let (file, span, family, owner) = (asked.file, asked.span(), asked.family(), asked.owner.0);
        if !span.is_sound() {
            return reply.error(errno::INVALID);
        }
        if asked.kind == libc::F_UNLCK {
            let request = TreeRequest::Unlock { object: file, family, owner, span, closing: false };
            return self.door.start(caller(req), request, 0, move |answered| replies::empty(reply, answered));
        }
        let Some(kind) = kind_of(asked.kind) else { return reply.error(errno::INVALID) };
        self.door.locking.takes(file, asked);
        let id = LockId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let request = TreeRequest::Lock { object: file, family, owner, span, kind, pid: asked.pid, id, wait };
        if !wait {
            return self.door.start(caller(req), request, 0, move |answered| replies::empty(reply, answered));
        }
        let (door, unique) = (self.door.clone(), req.unique().0);
        door.locking.begins_to_wait(unique, id);
        self.door.start(caller(req), request, 0, move |answered| {
            door.locking.waits_no_more(unique);
            replies::empty(reply, answered);
        });
        if let Some(id) = self.door.locking.is_submitted(unique) {
            self.door.cancel(id);
        }
    }

    pub(super) fn get_lock(&self, req: &Request, asked: &Asked, reply: ReplyLock) {
        let (object, span, family, owner) = (asked.file, asked.span(), asked.family(), asked.owner.0);
        let Some(kind) = kind_of(asked.kind).filter(|_| span.is_sound()) else { return reply.error(errno::INVALID) };
        let request = TreeRequest::TestLock { object, family, owner, span, kind };
        self.door.start(caller(req), request, 0, move |answered: Result<Answer, Errno>| match answered {
            Err(errno) => reply.error(errno),
            Ok(answer) => match answer.lock {
                None => reply.locked(span.first, span.last, libc::F_UNLCK, 0),
                Some(found) => reply.locked(found.span.first, found.span.last, number_of(found.kind), found.pid),
            },
        });
    }

    pub(super) fn interrupted(&self, unique: u64) {
        if let Some(id) = self.door.locking.interrupts(unique) {
            self.door.cancel(id);
        }
    }

    /// A close: the POSIX locks of its process end.
    pub(super) fn flush_locks(&self, file: ObjectId, owner: LockOwner, reply: ReplyEmpty) {
        if !self.door.locking.closes(file, owner.0) {
            return reply.ok();
        }
        self.door.give_back(file, owner.0, Family::Posix, move || reply.ok());
    }

    /// The last close of an open file. Before the file is told to be closed, or what is left of it could end before its locks do.
    pub(super) fn release_locks(&self, file: ObjectId, handle: FileHandle, flock: Option<LockOwner>) {
        for owner in self.door.locking.releases(file, handle.0) {
            self.door.give_back(file, owner, Family::Posix, || ());
        }
        if let Some(owner) = flock {
            self.door.locking.known.lock().flocks.remove(&(file, owner.0));
            self.door.give_back(file, owner.0, Family::Flock, || ());
        }
    }
}

impl Door {
    fn cancel(&self, id: LockId) {
        self.tree.submit(Caller::default(), TreeRequest::CancelLock { id }, Box::new(|_| ()));
    }

    /// All that the owner has of the file. The closing of files is not held back by the gate.
    fn give_back(&self, object: ObjectId, owner: u64, family: Family, done: impl FnOnce() + Send + 'static) {
        let request = TreeRequest::Unlock { object, family, owner, span: Span::ALL, closing: true };
        self.tree.submit(Caller::default(), request, Box::new(move |_| done()));
    }

    /// The connection to the kernel has ended: nobody is there who could have locks through it.
    pub(super) fn end_locks(self: &Arc<Door>) {
        let (taken, waiting) = self.locking.end();
        waiting.into_iter().for_each(|id| self.cancel(id));
        taken.into_iter().for_each(|(file, owner, family)| self.give_back(file, owner, family, || ()));
    }
}

fn kind_of(number: i32) -> Option<LockKind> {
    match number {
        libc::F_RDLCK => Some(LockKind::Read),
        libc::F_WRLCK => Some(LockKind::Write),
        _ => None,
    }
}

fn number_of(kind: LockKind) -> i32 {
    match kind {
        LockKind::Read => libc::F_RDLCK,
        LockKind::Write => libc::F_WRLCK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: ObjectId = ObjectId(7);

    fn asked(owner: u64, handle: u64) -> Asked {
        let (owner, handle) = (LockOwner(owner), FileHandle(handle));
        Asked { file: FILE, handle, owner, first: 0, last: 9, kind: libc::F_WRLCK, pid: 1, flock: false }
    }

    #[test]
    fn a_close_ends_what_its_process_has_and_the_last_one_what_nobody_closed() {
        let locking = Locking::default();
        assert!(!locking.closes(FILE, 1));
        // A process with two open files, and an open file description of its own name.
        [(1, 10), (1, 11), (2, 12)].into_iter().for_each(|(owner, handle)| locking.takes(FILE, &asked(owner, handle)));
        assert!(!locking.closes(ObjectId(8), 1));
        assert!(locking.closes(FILE, 1) && !locking.closes(FILE, 1));
        assert_eq!(locking.releases(FILE, 10), []);
        assert_eq!(locking.releases(FILE, 12), [2]);
        assert_eq!(locking.releases(FILE, 12), []);
        assert_eq!(locking.posix.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_interrupt_finds_its_request_whichever_comes_first() {
        let locking = Locking::default();
        assert_eq!(locking.interrupts(1), None, "not known yet");
        locking.begins_to_wait(1, LockId(11));
        assert_eq!(locking.is_submitted(1), Some(LockId(11)));
        locking.begins_to_wait(2, LockId(12));
        assert_eq!(locking.interrupts(2), None, "the tree does not know it yet");
        assert_eq!(locking.is_submitted(2), Some(LockId(12)));
        locking.begins_to_wait(3, LockId(13));
        assert_eq!((locking.is_submitted(3), locking.interrupts(3)), (None, Some(LockId(13))));
        locking.waits_no_more(3);
        assert_eq!(locking.is_submitted(3), None, "it was answered before it was said to be submitted");
        (0..2 * EARLY_MAX as u64).for_each(|unique| assert_eq!(locking.interrupts(1000 + unique), None));
        assert_eq!(locking.known.lock().early.len(), EARLY_MAX);
    }
}
