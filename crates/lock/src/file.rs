//! One file in one family: its locks, and its line of waiters.

use gavel_types::{Seq, SessionId};
use gavel_wire::lock::{Lock, LockKind, LockOwner, Span, Waiter};
use serde::{Deserialize, Serialize};

/// So often is a waiter passed by what is granted although it conflicts with it; those who come later wait behind it then.
///
/// Local kernels let everybody pass, so that a writer can starve. Nobody passing would hang programs that work everywhere else: who
/// has a shared lock, starts another that takes a shared lock, and waits for it, while a third waits for an exclusive one.
/// (Tests of this room get to it sooner.)
pub const PASSED_MAX: u32 = if cfg!(test) { 2 } else { 64 };

/// A request that waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// The number of its request.
    pub(crate) seq: Seq,
    pub(crate) lock: Lock,
    /// How often it was passed.
    pub(crate) passed: u32,
}

impl Waiting {
    pub(crate) fn name(&self) -> Waiter {
        (self.lock.owner.session, self.seq)
    }
}

/// One file in one family.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct File {
    /// By owner, then by first byte.
    pub(crate) held: Vec<Lock>,
    /// The oldest first.
    pub(crate) line: Vec<Waiting>,
}

impl File {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.line.is_empty()
    }

    /// The locks of one owner, in order.
    pub(crate) fn of(&self, owner: LockOwner) -> &[Lock] {
        let first = self.held.partition_point(|lock| lock.owner < owner);
        let end = self.held.partition_point(|lock| lock.owner <= owner);
        &self.held[first..end]
    }

    /// The owner's locks are these from now on.
    pub(crate) fn set(&mut self, owner: LockOwner, locks: Vec<Lock>) {
        let first = self.held.partition_point(|lock| lock.owner < owner);
        let end = self.held.partition_point(|lock| lock.owner <= owner);
        self.held.splice(first..end, locks);
    }

    /// The locks of others that `lock` cannot be held with.
    pub(crate) fn in_the_way<'a>(&'a self, lock: &'a Lock) -> impl Iterator<Item = &'a Lock> {
        self.held.iter().filter(|held| held.conflicts(lock))
    }

    /// Those in the first `places` of the line that `lock` must not pass.
    pub(crate) fn not_to_pass<'a>(&'a self, lock: &'a Lock, places: usize) -> impl Iterator<Item = &'a Waiting> {
        self.line[..places].iter().filter(|waiting| {
            let patient = waiting.passed < PASSED_MAX || !waiting.lock.conflicts(lock);
            // Who waits for this very owner would have it wait for itself.
            !patient && !self.of(lock.owner).iter().any(|held| held.conflicts(&waiting.lock))
        })
    }

    /// Can `lock` be had, behind the first `places` of the line?
    pub(crate) fn is_free(&self, lock: &Lock, places: usize) -> bool {
        self.in_the_way(lock).next().is_none() && self.not_to_pass(lock, places).next().is_none()
    }

    /// Something conflicts with these and was granted nevertheless.
    pub(crate) fn pass(&mut self, lock: &Lock, places: usize) {
        for waiting in self.line[..places].iter_mut().filter(|waiting| waiting.lock.conflicts(lock)) {
            waiting.passed = waiting.passed.saturating_add(1);
        }
    }

    /// Forgets a session. True if it was there.
    pub(crate) fn end(&mut self, session: SessionId) -> bool {
        let before = (self.held.len(), self.line.len());
        self.held.retain(|lock| lock.owner.session != session);
        self.line.retain(|waiting| waiting.lock.owner.session != session);
        before != (self.held.len(), self.line.len())
    }
}

/// What is left of an owner's locks, in order, when it has none of `span` any more.
pub(crate) fn without(locks: &[Lock], span: Span) -> Vec<Lock> {
    let mut left = Vec::with_capacity(locks.len() + 1);
    for lock in locks {
        if !lock.span.overlaps(span) {
            left.push(*lock);
            continue;
        }
        if lock.span.first < span.first {
            left.push(Lock { span: Span { last: span.first - 1, ..lock.span }, ..*lock });
        }
        if lock.span.last > span.last {
            left.push(Lock { span: Span { first: span.last + 1, ..lock.span }, ..*lock });
        }
    }
    left
}

/// An owner's locks, in order, with `new` in place of what it had of these bytes.
pub(crate) fn with(locks: &[Lock], new: Lock) -> Vec<Lock> {
    let mut all = without(locks, new.span);
    let place = all.partition_point(|lock| lock.span.first < new.span.first);
    all.insert(place, new);
    // Neighbours of one kind are one lock.
    all.dedup_by(|later, before| {
        let one = later.kind == before.kind && before.span.last + 1 == later.span.first;
        if one {
            before.span.last = later.span.last;
            before.pid = new.pid;
        }
        one
    });
    all
}

/// Is this what one owner can have?
pub(crate) fn is_tidy(locks: &[Lock]) -> bool {
    locks.windows(2).all(|pair| {
        let touch = pair[0].span.last + 1 == pair[1].span.first;
        pair[0].span.last < pair[1].span.first && !(touch && pair[0].kind == pair[1].kind)
    })
}

/// Can these be held at once?
pub(crate) fn is_peaceful(held: &[Lock]) -> bool {
    let writes = held.iter().filter(|lock| lock.kind == LockKind::Write);
    writes.into_iter().all(|write| !held.iter().any(|other| other.conflicts(write)))
}
