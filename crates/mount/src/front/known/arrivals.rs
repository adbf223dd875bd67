//! Replies that the kernel may not have taken in yet.
//!
//! The write of a reply returns when the kernel has copied it. The program that waits for it takes it in later: when its thread
//! is given a processor. If it was made to forget something in between, what it takes then is out of date. Against that the
//! kernel has a version for LOOKUP, GETATTR and SETATTR, and the epoch for names, but neither for
//!
//! - attributes that come with what was made: CREATE, MKNOD, MKDIR, SYMLINK, LINK;
//! - names that come with READDIRPLUS.
//!
//! All of these are sent *and* taken in under the lock of the directory. Such replies are numbered, and known to be taken in when
//!
//! - a request comes that the kernel sends with this lock held for itself alone ([`Known::changing`]);
//! - for what was made, a request comes about the very object, which nothing else has brought ([`Known::named`]);
//! - for a listing, the next request of the same open directory comes, or its release;
//! - somebody who asked for the lock was given it (the forgetting thread does, if it has to wait).

use super::{Inode, Known, Moment, place};
use gavel_types::ObjectId;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The number of a reply. They grow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(in crate::front) struct ReplyNo(u64);

/// A reply about what is in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::front) struct Arrival {
    pub(in crate::front) directory: ObjectId,
    reply: ReplyNo,
    /// The open directory that was listed.
    handle: Option<u64>,
}

/// The reply that has made an object, or one more name of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    arrival: Arrival,
    /// The kernel had the object from nowhere else.
    alone: bool,
}

impl Known {
    /// A reply that makes the object, or a name of it, in `directory` is about to be written. True if the attributes in it may be kept.
    pub(in crate::front) fn made(&self, object: ObjectId, directory: ObjectId, since: Moment) -> bool {
        let arrival = Arrival { directory, reply: self.number(), handle: None };
        let mut shard = self.shard(object).lock();
        let inode = shard.entry(object).or_default();
        inode.made = Some(Made { arrival, alone: inode.lookups == 0 });
        self.count(object, inode);
        let vouched = inode.unvouched.is_none();
        drop(shard);
        // As in `looked_up`: noted first.
        self.undisturbed(since) && vouched
    }

    /// A reply to the open directory `handle` is about to be written. True if what is listed may be kept.
    pub(in crate::front) fn lists(&self, handle: u64, directory: ObjectId, since: Moment) -> bool {
        let arrival = Arrival { directory, reply: self.number(), handle: Some(handle) };
        self.listings.lock().insert(handle, arrival);
        self.undisturbed(since)
    }

    /// The kernel goes on with the open directory `handle`, or closes it: it has taken in what it was told.
    pub(in crate::front) fn lists_on(&self, handle: u64) {
        let arrival = self.listings.lock().remove(&handle);
        if let Some(Arrival { directory, .. }) = arrival {
            // Who is about to wait for it has looked under this lock.
            drop(self.shard(directory).lock());
            self.released[place(directory)].notify_all();
        }
    }

    /// A request has come for which the kernel has locked the directory.
    pub(in crate::front) fn changing(&self, directory: ObjectId) {
        if let Some(inode) = self.shard(directory).lock().get_mut(&directory) {
            inode.taken_in = self.numbered();
            inode.named();
            self.released[place(directory)].notify_all();
        }
    }

    /// A request has come about the object.
    pub(in crate::front) fn named(&self, object: ObjectId) {
        if let Some(inode) = self.shard(object).lock().get_mut(&object) {
            inode.named();
        }
    }

    /// All replies so far: those with smaller numbers.
    pub(in crate::front) fn numbered(&self) -> ReplyNo {
        ReplyNo(self.replies.load(Ordering::SeqCst))
    }

    /// The kernel has taken in all replies about the directory with smaller numbers than this.
    pub(in crate::front) fn took_in(&self, directory: ObjectId, below: ReplyNo) {
        if let Some(inode) = self.shard(directory).lock().get_mut(&directory) {
            inode.taken_in = inode.taken_in.max(below);
        }
        self.released[place(directory)].notify_all();
    }

    /// The reply that made the object, if it may not have been taken in yet.
    pub(in crate::front) fn arriving(&self, object: ObjectId) -> Option<Arrival> {
        let made = self.shard(object).lock().get(&object)?.made?;
        (!self.has_taken_in(made.arrival)).then_some(made.arrival)
    }

    /// The latest listing of each open directory, if it may not have been taken in yet.
    pub(in crate::front) fn arriving_listings(&self) -> Vec<Arrival> {
        let listings: Vec<_> = self.listings.lock().values().copied().collect();
        listings.into_iter().filter(|arrival| !self.has_taken_in(*arrival)).collect()
    }

    pub(in crate::front) fn has_taken_in(&self, arrival: Arrival) -> bool {
        self.taken_in(self.shard(arrival.directory).lock().get(&arrival.directory), arrival)
    }

    /// Waits until the kernel has taken in a reply. False if it has not by `deadline`.
    pub(in crate::front) fn wait_for(&self, arrival: Arrival, deadline: Instant) -> bool {
        let directory = arrival.directory;
        let mut shard = self.shard(directory).lock();
        while !self.taken_in(shard.get(&directory), arrival) {
            if self.released[place(directory)].wait_until(&mut shard, deadline).timed_out() {
                return self.taken_in(shard.get(&directory), arrival);
            }
        }
        true
    }

    /// With the lock of the directory's shard held.
    fn taken_in(&self, directory: Option<&Inode>, arrival: Arrival) -> bool {
        // A kernel that has given the directory back does nothing in it.
        let passed = directory.is_none_or(|inode| arrival.reply < inode.taken_in);
        let gone_on = || match arrival.handle {
            None => false,
            Some(handle) => self.listings.lock().get(&handle) != Some(&arrival),
        };
        passed || self.ended() || gone_on()
    }

    fn number(&self) -> ReplyNo {
        ReplyNo(self.replies.fetch_add(1, Ordering::SeqCst))
    }
}

impl Inode {
    fn named(&mut self) {
        if self.made.is_some_and(|made| made.alone) && self.lookups == 1 {
            self.made = None;
        }
    }
}
