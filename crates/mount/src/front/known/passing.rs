//! Bytes in the kernel's pages that nobody vouches for.
//!
//! Where the kernel opens files by itself, all bytes that are read and written go through its pages, and stay there. If somebody vouches for the file
//! ([`Tree::keep_bytes`](gavel_client::tree::Tree::keep_bytes)), they may. Otherwise they are dropped behind the answer, and
//! until that is done a reader could find them who began later than they were true. The kernel asks for attributes before it gives anything from pages,
//! if it has none that are good; so
//!
//! - an answer to GETATTR waits until all bytes have been dropped that were on their way when it was found;
//! - other answers bring attributes for no time while there are such bytes.
//!
//! What is on its way has a number, so that an answer does not wait for what came later.
//!
//! A write through pages may hold one until it is answered: where files are opened unasked, the page that it fills in part; of a mapping, those that
//! it writes back. It may be answered only when another node has given something up, which may wait for this kernel to forget the same page; and it
//! holds that before we hear of it, so nobody can look for writes first. So pages are dropped by a thread for which no other node waits. A
//! forgetting waits for that thread as long as no write of the file is known, and until they are dropped, pages count as on their way.

use super::{Inode, Known, Pages, place};
use gavel_types::ObjectId;
use parking_lot::MutexGuard;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often it is looked whether a write holds pages that are being dropped. Mostly they are dropped before the first look.
const LOOK: Duration = Duration::from_millis(1);

/// One request that brings bytes, or takes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::front) enum Passing {
    /// Somebody vouches for the file. If that ends before it is answered, what it brings is forgotten behind the answer.
    Vouched,
    /// Nobody does. Its number.
    Unvouched(u64),
}

/// Requests about one file that nobody vouches for.
#[derive(Default)]
pub(super) struct Unvouched {
    /// The next one's number.
    next: u64,
    /// Those whose bytes have not been dropped yet.
    passing: BTreeSet<u64>,
    /// Answers, and the number below which nothing may be passing.
    waiting: Vec<(u64, Then)>,
}

type Then = Box<dyn FnOnce() + Send>;

/// Writes of one file that are under way.
#[derive(Default)]
pub(super) struct Writing {
    writes: u64,
    /// What was to be dropped meanwhile.
    behind: Vec<Then>,
}

impl Known {
    /// A request begins. It is held, or known to write, already: who has its pages forgotten from now on waits for its answer, or defers that.
    pub(in crate::front) fn begins_to_pass(&self, object: ObjectId) -> Passing {
        let mut shard = self.shard(object).lock();
        let inode = shard.entry(object).or_default();
        if inode.pages == Pages::Kept { Passing::Vouched } else { inode.passes_unvouched() }
    }

    /// A write through pages begins: it may hold some until it is answered. Who waits for one of them to be dropped does so no longer.
    pub(in crate::front) fn begins_to_write(&self, object: ObjectId) {
        let mut shard = self.shard(object).lock();
        let inode = shard.entry(object).or_default();
        inode.writing.get_or_insert_default().writes += 1;
        inode.has_bytes = true;
        self.released[place(object)].notify_all();
    }

    /// It was answered. What has waited for that is done.
    pub(in crate::front) fn has_written(&self, object: ObjectId) {
        let mut shard = self.shard(object).lock();
        let Some(inode) = shard.get_mut(&object) else { return };
        let Some(writing) = inode.writing.as_mut() else { return };
        writing.writes -= 1;
        if writing.writes > 0 {
            return;
        }
        let behind = inode.writing.take().map(|writing| writing.behind).unwrap_or_default();
        if inode.is_unused() {
            shard.remove(&object);
        }
        drop(shard);
        behind.into_iter().for_each(|then| then());
    }

    /// The object's pages are to be dropped: what they are until that is done. None if the kernel has none of them.
    pub(in crate::front) fn begins_to_drop(&self, object: ObjectId) -> Option<Passing> {
        let mut shard = self.shard(object).lock();
        let inode = shard.get_mut(&object).filter(|inode| inode.has_bytes && !self.ended())?;
        inode.has_bytes = false;
        Some(inode.passes_unvouched())
    }

    /// The pages of an object are being dropped, or none are.
    pub(in crate::front) fn dropping(&self, object: Option<ObjectId>) {
        *self.dropping.lock() = object;
    }

    /// Waits until pages are dropped, unless a write may hold one of them, or of those that are being dropped before: that may wait for other
    /// nodes, and they for this. False if nothing of this has happened by `deadline`.
    pub(in crate::front) fn wait_for_drop(&self, object: ObjectId, passing: Passing, deadline: Instant) -> bool {
        let Passing::Unvouched(number) = passing else { return true };
        let is_passing = |inode: &Inode| inode.unvouched.as_ref().is_some_and(|all| all.passing.contains(&number));
        let mut shard = self.shard(object).lock();
        while shard.get(&object).is_some_and(|inode| is_passing(inode) && inode.writing.is_none()) {
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            // Nobody tells of a write of another file.
            self.released[place(object)].wait_until(&mut shard, deadline.min(now + LOOK));
            let is_held = || self.dropping.lock().is_some_and(|object| self.is_written(object));
            if self.ended() || MutexGuard::unlocked(&mut shard, is_held) {
                return true;
            }
        }
        true
    }

    /// Is a write under way that may hold a page?
    pub(in crate::front) fn is_written(&self, object: ObjectId) -> bool {
        !self.ended() && self.shard(object).lock().get(&object).is_some_and(|inode| inode.writing.is_some())
    }

    /// Calls `then` when no write of the object is under way.
    pub(in crate::front) fn behind_writes(&self, object: ObjectId, then: impl FnOnce() + Send + 'static) {
        let mut shard = self.shard(object).lock();
        match shard.get_mut(&object).and_then(|inode| inode.writing.as_mut()) {
            Some(writing) => writing.behind.push(Box::new(then)),
            None => {
                drop(shard);
                then();
            }
        }
    }

    /// Its bytes are where they may stay, or are dropped. Answers that have waited for that are given.
    pub(in crate::front) fn has_passed(&self, object: ObjectId, passing: Passing) {
        let Passing::Unvouched(number) = passing else { return };
        let mut shard = self.shard(object).lock();
        let Some(inode) = shard.get_mut(&object) else { return };
        let Some(unvouched) = inode.unvouched.as_mut() else { return };
        unvouched.passing.remove(&number);
        let first = unvouched.passing.first().copied().unwrap_or(u64::MAX);
        let due: Vec<Then> =
            unvouched.waiting.extract_if(.., |(below, _)| *below <= first).map(|(_, then)| then).collect();
        if unvouched.passing.is_empty() {
            inode.unvouched = None;
        }
        if inode.is_unused() {
            shard.remove(&object);
        }
        drop(shard);
        self.released[place(object)].notify_all();
        due.into_iter().for_each(|then| then());
    }

    /// Calls `then` when all that is passing now has passed; at once, if nothing is. It is told whether it had to wait.
    pub(in crate::front) fn behind_unvouched(&self, object: ObjectId, then: impl FnOnce(bool) + Send + 'static) {
        let mut shard = self.shard(object).lock();
        match shard.get_mut(&object).and_then(|inode| inode.unvouched.as_mut()).filter(|_| !self.ended()) {
            Some(unvouched) => {
                let below = unvouched.next;
                unvouched.waiting.push((below, Box::new(|| then(true))));
            }
            None => {
                drop(shard);
                then(false);
            }
        }
    }

    /// Are bytes of the object on their way that nobody vouches for?
    pub(in crate::front) fn is_unvouched(&self, object: ObjectId) -> bool {
        self.shard(object).lock().get(&object).is_some_and(|inode| inode.unvouched.is_some())
    }
}

impl Inode {
    fn passes_unvouched(&mut self) -> Passing {
        let unvouched = self.unvouched.get_or_insert_default();
        let number = unvouched.next;
        unvouched.next += 1;
        unvouched.passing.insert(number);
        Passing::Unvouched(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_client::tree::Kept;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const FILE: ObjectId = ObjectId(20);
    const OTHER: ObjectId = ObjectId(21);

    #[test]
    fn an_answer_waits_for_what_was_passing_when_it_was_found() {
        let known = Known::new();
        let given = Arc::new(AtomicUsize::new(0));
        let ask = |known: &Known| {
            let given = given.clone();
            known.behind_unvouched(FILE, move |waited| {
                _ = given.fetch_add(if waited { 100 } else { 1 }, Ordering::SeqCst)
            });
        };
        ask(&known);
        assert_eq!(given.load(Ordering::SeqCst), 1, "nothing is passing");
        let (first, second) = (known.begins_to_pass(FILE), known.begins_to_pass(FILE));
        assert!(known.is_unvouched(FILE) && !known.looked_up(FILE, known.moment()), "attributes are for no time");
        ask(&known);
        let third = known.begins_to_pass(FILE);
        known.has_passed(FILE, second);
        assert_eq!(given.load(Ordering::SeqCst), 1);
        known.has_passed(FILE, first);
        assert_eq!(given.load(Ordering::SeqCst), 101, "not for the third, which came later");
        known.has_passed(FILE, third);
        assert!(!known.is_unvouched(FILE) && known.looked_up(FILE, known.moment()));
    }

    #[test]
    fn what_somebody_vouches_for_passes_at_once() {
        let known = Known::new();
        known.looked_up(FILE, known.moment());
        let before = known.begins_to_pass(FILE);
        known.open_cached(FILE, known.moment());
        assert_eq!(known.begins_to_pass(FILE), Passing::Vouched);
        assert!(known.is_unvouched(FILE), "what began before is as it was");
        known.forget(&[Kept::Object(FILE)]);
        let after = known.begins_to_pass(FILE);
        assert_ne!(after, Passing::Vouched);
        [before, after].into_iter().for_each(|passing| known.has_passed(FILE, passing));
        known.dropped(FILE, 1);
        assert!(!known.holds(FILE) && !known.is_unvouched(FILE));
    }

    #[test]
    fn pages_are_waited_for_until_a_write_may_hold_them() {
        let known = Known::new();
        let long = Instant::now() + Duration::from_secs(1000);
        assert_eq!(known.begins_to_drop(FILE), None, "there is no such inode");
        known.looked_up(FILE, known.moment());
        assert_eq!(known.begins_to_drop(FILE), None, "there are no pages");
        known.hold(FILE);
        let passing = known.begins_to_drop(FILE).expect("some were asked for");
        assert!(!known.wait_for_drop(FILE, passing, Instant::now()), "not behind the deadline");
        let waits = |then: &dyn Fn()| {
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| known.wait_for_drop(FILE, passing, long));
                assert!(!waiting.is_finished());
                then();
                assert!(waiting.join().expect("ends"));
            })
        };
        waits(&|| known.begins_to_write(FILE));
        assert!(known.is_unvouched(FILE), "they are not dropped yet");
        known.has_written(FILE);
        known.dropping(Some(OTHER));
        waits(&|| known.begins_to_write(OTHER));
        known.has_written(OTHER);
        waits(&|| known.has_passed(FILE, passing));
        assert!(!known.is_unvouched(FILE));
        assert!(known.begins_to_drop(FILE).is_some(), "the write has left some");
    }

    #[test]
    fn the_end_of_the_connection_gives_up_what_waits() {
        let known = Known::new();
        let passing = known.begins_to_pass(FILE);
        let held = Arc::new(());
        let weak = Arc::downgrade(&held);
        known.behind_unvouched(FILE, move |_| drop(held));
        assert!(weak.upgrade().is_some());
        known.end();
        assert!(weak.upgrade().is_none());
        known.has_passed(FILE, passing);
    }
}
