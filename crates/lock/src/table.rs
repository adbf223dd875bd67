//! Files, locks and waiters.

use crate::file::{self, File, Waiting};
use gavel_types::{Seq, SessionId};
use gavel_wire::lock::{Family, Lock, LockFile, LockOwner, Span, Waiter};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub use crate::deadlock::OWNERS_MAX;
pub use crate::file::PASSED_MAX;

/// Most locks of all files.
pub const LOCKS_MAX: usize = 64 * 1024;
/// Most locks of one session.
pub const SESSION_LOCKS_MAX: usize = 16 * 1024;
/// Most locks of one file, in one family.
pub const FILE_LOCKS_MAX: usize = 4096;
/// Most requests that wait.
pub const WAITERS_MAX: usize = 8 * 1024;
/// Most requests of one session that wait.
pub const SESSION_WAITERS_MAX: usize = 1024;
/// Most requests that wait for one file, in one family.
pub const FILE_WAITERS_MAX: usize = 256;

const _: () = assert!(FILE_LOCKS_MAX <= SESSION_LOCKS_MAX && SESSION_LOCKS_MAX < LOCKS_MAX);
const _: () = assert!(FILE_WAITERS_MAX <= SESSION_WAITERS_MAX && SESSION_WAITERS_MAX < WAITERS_MAX);

/// What became of a request for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Locking {
    /// It is held.
    Granted,
    /// It stands in line.
    Waits,
    /// Somebody is in the way, and it was not to wait.
    Locked,
    /// It would wait for somebody who waits for its owner.
    Deadlock,
    /// A bound is reached.
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Counts {
    locks: u32,
    waiters: u32,
}

/// The lock table. See the crate's documentation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LockTable {
    pub(crate) files: BTreeMap<LockFile, File>,
    /// Where each waiter stands.
    pub(crate) waiting: BTreeMap<Waiter, LockFile>,
    /// What each session has.
    counts: BTreeMap<SessionId, Counts>,
    /// Locks of all files.
    locks: u32,
}

impl LockTable {
    /// Is nothing locked?
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How many locks there are, of all files.
    pub fn len(&self) -> usize {
        self.locks as usize
    }

    /// How many requests wait.
    pub fn waiters(&self) -> usize {
        self.waiting.len()
    }

    /// The sessions that have locks, or wait.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.counts.keys().copied()
    }

    /// Does this request wait?
    pub fn waits(&self, waiter: Waiter) -> bool {
        self.waiting.contains_key(&waiter)
    }

    /// The locks of a file, by owner and first byte.
    pub fn held(&self, file: &LockFile) -> &[Lock] {
        self.files.get(file).map(|file| file.held.as_slice()).unwrap_or_default()
    }

    /// The lock with the lowest first byte among those in the way of `lock`. Waiters are in nobody's way here.
    pub fn in_the_way(&self, file: &LockFile, lock: &Lock) -> Option<Lock> {
        let file = self.files.get(file)?;
        file.in_the_way(lock).min_by_key(|held| (held.span.first, held.owner)).copied()
    }

    /// Takes `lock`, in place of what its owner has of these bytes. If somebody is in the way, it waits in line under the number
    /// `wait`, or is refused. Who is granted something by this (by a weaker lock that replaces a stronger one) is added to `granted`.
    pub fn lock(&mut self, file: LockFile, lock: Lock, wait: Option<Seq>, granted: &mut Vec<Waiter>) -> Locking {
        let lock = match file.family {
            Family::Posix => lock,
            Family::Flock => Lock { span: Span::ALL, ..lock },
        };
        // A flock of another kind is given back first, and is gone whatever comes of the new one.
        if file.family == Family::Flock && self.of(&file, lock.owner).iter().any(|held| held.kind != lock.kind) {
            self.set(file, lock.owner, Vec::new());
            self.settle(file, granted);
        }
        let locking = self.try_lock(file, lock, wait);
        self.settle(file, granted);
        locking
    }

    fn try_lock(&mut self, file: LockFile, lock: Lock, wait: Option<Seq>) -> Locking {
        let entry = self.files.entry(file).or_default();
        let places = entry.line.len();
        if entry.is_free(&lock, places) {
            let locks = file::with(entry.of(lock.owner), lock);
            if !self.has_room(&file, lock.owner, locks.len()) {
                return Locking::Full;
            }
            self.set(file, lock.owner, locks);
            self.pass(file, &lock, places);
            return Locking::Granted;
        }
        let Some(seq) = wait else { return Locking::Locked };
        // The room is not kept for it: what waiters are granted may go beyond the bounds, by two each.
        let room = self.has_room(&file, lock.owner, file::with(self.of(&file, lock.owner), lock).len());
        if file.family == Family::Posix && self.would_deadlock(&file, &lock) {
            return Locking::Deadlock;
        }
        let counts = self.counts.entry(lock.owner.session).or_default();
        let full = !room || places >= FILE_WAITERS_MAX || self.waiting.len() >= WAITERS_MAX;
        if full || counts.waiters as usize >= SESSION_WAITERS_MAX {
            self.forget_if_idle(lock.owner.session);
            return Locking::Full;
        }
        counts.waiters += 1;
        self.waiting.insert((lock.owner.session, seq), file);
        self.files.entry(file).or_default().line.push(Waiting { seq, lock, passed: 0 });
        Locking::Waits
    }

    /// The owner has nothing of these bytes any more.
    ///
    /// False: the table has no room for the two ends of a lock whose middle was to go; nothing has changed. That never happens to the whole of
    /// a file.
    #[must_use]
    pub fn unlock(&mut self, file: LockFile, owner: LockOwner, span: Span, granted: &mut Vec<Waiter>) -> bool {
        let span = if file.family == Family::Flock { Span::ALL } else { span };
        let Some(found) = self.files.get(&file) else { return true };
        let left = file::without(found.of(owner), span);
        if left.len() > found.of(owner).len() && !self.has_room(&file, owner, left.len()) {
            return false;
        }
        self.set(file, owner, left);
        self.settle(file, granted);
        true
    }

    /// The request waits no more. False if it did not wait.
    pub fn cancel(&mut self, waiter: Waiter, granted: &mut Vec<Waiter>) -> bool {
        let Some(file) = self.waiting.get(&waiter).copied() else { return false };
        self.leave_line(file, waiter);
        self.settle(file, granted);
        true
    }

    /// The session has ended: it has no locks, and waits for none.
    pub fn end(&mut self, session: SessionId, granted: &mut Vec<Waiter>) {
        if self.counts.remove(&session).is_none() {
            return;
        }
        self.waiting.retain(|(of, _), _| *of != session);
        let mut changed = Vec::new();
        for (name, file) in &mut self.files {
            let before = file.held.len();
            if file.end(session) {
                self.locks -= (before - file.held.len()) as u32;
                changed.push(*name);
            }
        }
        for file in changed {
            self.settle(file, granted);
        }
    }

    fn of(&self, file: &LockFile, owner: LockOwner) -> &[Lock] {
        self.files.get(file).map(|file| file.of(owner)).unwrap_or_default()
    }

    /// Would so many locks of this owner fit, in place of those that it has of the file?
    fn has_room(&self, file: &LockFile, owner: LockOwner, locks: usize) -> bool {
        let (held, of) = self.files.get(file).map_or((0, 0), |file| (file.held.len(), file.of(owner).len()));
        let session = self.counts.get(&owner.session).map_or(0, |counts| counts.locks as usize);
        held - of + locks <= FILE_LOCKS_MAX
            && session - of + locks <= SESSION_LOCKS_MAX
            && self.len() - of + locks <= LOCKS_MAX
    }

    fn set(&mut self, file: LockFile, owner: LockOwner, locks: Vec<Lock>) {
        let entry = self.files.entry(file).or_default();
        let (before, after) = (entry.of(owner).len() as u32, locks.len() as u32);
        entry.set(owner, locks);
        let counts = self.counts.entry(owner.session).or_default();
        counts.locks = counts.locks + after - before;
        self.locks = self.locks + after - before;
        self.forget_if_idle(owner.session);
    }

    fn pass(&mut self, file: LockFile, lock: &Lock, places: usize) {
        if let Some(file) = self.files.get_mut(&file) {
            file.pass(lock, places);
        }
    }

    fn leave_line(&mut self, file: LockFile, waiter: Waiter) {
        self.waiting.remove(&waiter);
        if let Some(file) = self.files.get_mut(&file) {
            file.line.retain(|waiting| waiting.name() != waiter);
        }
        if let Some(counts) = self.counts.get_mut(&waiter.0) {
            counts.waiters -= 1;
        }
        self.forget_if_idle(waiter.0);
    }

    fn forget_if_idle(&mut self, session: SessionId) {
        if self.counts.get(&session).is_some_and(|counts| *counts == Counts::default()) {
            self.counts.remove(&session);
        }
    }

    /// Grants what can be granted, the oldest first.
    ///
    /// From the start after each, for what is granted can make room too: a read lock takes the place of its owner's write lock.
    fn settle(&mut self, name: LockFile, granted: &mut Vec<Waiter>) {
        while let Some((place, waiter, lock)) = self.next_to_grant(&name) {
            self.leave_line(name, waiter);
            let locks = file::with(self.of(&name, lock.owner), lock);
            self.set(name, lock.owner, locks);
            self.pass(name, &lock, place);
            granted.push(waiter);
        }
        if self.files.get(&name).is_some_and(File::is_empty) {
            self.files.remove(&name);
        }
    }

    /// The first waiter that can have its lock, and its place in line.
    fn next_to_grant(&self, name: &LockFile) -> Option<(usize, Waiter, Lock)> {
        let file = self.files.get(name)?;
        let (place, waiting) =
            file.line.iter().enumerate().find(|(place, waiting)| file.is_free(&waiting.lock, *place))?;
        Some((place, waiting.name(), waiting.lock))
    }

    /// Asserts the invariants that the crate's documentation numbers.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        let mut counts: BTreeMap<SessionId, Counts> = BTreeMap::new();
        let mut waiting = BTreeMap::new();
        for (name, file) in &self.files {
            assert!(!file.is_empty(), "{name:?} is empty");
            assert!(file.held.len() <= FILE_LOCKS_MAX + 2 * FILE_WAITERS_MAX, "{name:?} is too full");
            assert!(file.line.len() <= FILE_WAITERS_MAX, "{name:?} is too full");
            let owners: BTreeSet<LockOwner> = file.held.iter().map(|lock| lock.owner).collect();
            assert!(file.held.is_sorted_by_key(|lock| (lock.owner, lock.span.first)), "{name:?}: {:?}", file.held);
            for owner in owners {
                let locks = file.of(owner);
                assert!(file::is_tidy(locks) && locks.iter().all(|lock| lock.span.is_sound()), "{name:?}: {locks:?}");
                let whole = locks.len() == 1 && locks[0].span == Span::ALL;
                assert!(name.family == Family::Posix || whole, "{name:?}: {locks:?}");
                counts.entry(owner.session).or_default().locks += locks.len() as u32;
            }
            assert!(file::is_peaceful(&file.held), "{name:?}: {:?}", file.held);
            for (place, waits) in file.line.iter().enumerate() {
                assert!(!file.is_free(&waits.lock, place), "{name:?}: {waits:?} could be granted");
                counts.entry(waits.lock.owner.session).or_default().waiters += 1;
                assert!(waiting.insert(waits.name(), *name).is_none(), "{waits:?} waits twice");
            }
        }
        assert_eq!(self.counts, counts, "the counts are wrong");
        assert_eq!(self.waiting, waiting, "the waiters are listed wrongly");
        assert_eq!(self.locks, counts.values().map(|counts| counts.locks).sum::<u32>());
        assert!(self.len() <= LOCKS_MAX + 2 * WAITERS_MAX && self.waiting.len() <= WAITERS_MAX);
        let locks_max = SESSION_LOCKS_MAX + 2 * SESSION_WAITERS_MAX;
        let full = |of: &Counts| of.locks as usize > locks_max || of.waiters as usize > SESSION_WAITERS_MAX;
        assert!(!counts.values().any(full), "a session has too much");
    }
}

#[cfg(test)]
mod tests;
