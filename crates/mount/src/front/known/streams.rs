//! Listings that the kernel keeps.
//!
//! The kernel keeps what a directory lists in pages of the directory, for opens that say so, and lists from there only when an empty
//! reply has told it that this was all. So what it keeps is good if, since it began anew, every reply could be kept and nothing was
//! to be forgotten. If not, its pages are dropped before the empty reply goes out: all others have been taken in by then, for
//! the same program has asked for more.
//!
//! ```text
//!   nothing ──open──> good, until then ──reply that may not be kept, forget──> nothing
//! ```

use super::{Known, Moment};
use gavel_types::ObjectId;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What the kernel has of a listing may be kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Good {
    /// Until names were forgotten more often than that.
    names: u64,
    /// Not known before the first reply.
    until: Option<Instant>,
}

impl Known {
    /// A directory is being opened as `handle`. None: nothing that it lists may be kept. Otherwise: is what the kernel has still good?
    pub(in crate::front) fn open_listing(&self, directory: ObjectId, handle: u64) -> Option<bool> {
        if !self.keeps() {
            return None;
        }
        // What others were told may still come in, behind what is dropped with this open.
        let others = self.arriving_listings().iter().any(|arrival| arrival.directory == directory);
        // Before the look at what was forgotten: who forgets names after that sees it.
        self.streams.lock().insert(handle, directory);
        let names = self.names_forgotten.load(Ordering::SeqCst);
        let mut shard = self.shard(directory).lock();
        let Some(inode) = shard.get_mut(&directory).filter(|inode| !others || inode.good(names)) else {
            self.close_listing(handle);
            return None;
        };
        inode.has_listing = true;
        let good = inode.good(names);
        if !good {
            inode.listing = Some(Good { names, until: None });
        }
        Some(good)
    }

    pub(in crate::front) fn close_listing(&self, handle: u64) {
        self.streams.lock().remove(&handle);
    }

    /// Names of a directory are about to be told, to be kept for `time` (if not zero).
    pub(in crate::front) fn listed(&self, directory: ObjectId, since: Moment, time: Duration) {
        let mut shard = self.shard(directory).lock();
        let Some(inode) = shard.get_mut(&directory) else { return };
        let kept = !time.is_zero() && self.undisturbed(since);
        inode.listing = inode.listing.filter(|_| kept).map(|good| {
            let until = Instant::now() + time;
            Good { until: Some(good.until.map_or(until, |before| before.min(until))), ..good }
        });
    }

    /// It is about to be told that this was all. False if the kernel has to drop what it was told before.
    pub(in crate::front) fn may_complete(&self, directory: ObjectId, handle: u64) -> bool {
        let names = self.names_forgotten.load(Ordering::SeqCst);
        if !self.streams.lock().contains_key(&handle) {
            return true;
        }
        self.shard(directory).lock().get(&directory).is_some_and(|inode| inode.good(names))
    }

    /// Directories that are open, of which the kernel may keep listings.
    pub(in crate::front) fn open_listings(&self) -> std::collections::BTreeSet<ObjectId> {
        self.streams.lock().values().copied().collect()
    }

    /// May the kernel have a listing of it? It is about to drop it.
    pub(in crate::front) fn take_listing(&self, object: ObjectId) -> bool {
        self.shard(object).lock().get_mut(&object).is_some_and(|inode| std::mem::take(&mut inode.has_listing))
    }
}

impl super::Inode {
    fn good(&self, names: u64) -> bool {
        let now = Instant::now();
        self.listing.is_some_and(|good| good.names == names && good.until.is_none_or(|until| now < until))
    }
}
