//! Blobs that no version of a record names any more: a part of the replicated state.
//!
//! `docs/protocols/collection.md` has the whole of it. Of a blob: nothing is said -> condemned -> collected -> forgotten; a commit that names a condemned
//! one takes the mark away. Whether something names a blob, the caller knows.
//!
//! Invariants (checked by [`Collection::check_invariants`]):
//! 1. There are [`CONDEMNED_MAX`] marks at most, none from the future.
//! 2. The last collections are remembered in their order, [`COLLECTED_KEPT`] at most; what was forgotten was not later than any of them.

use gavel_types::{BlobId, Tid};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Most blobs that are marked at a time. With the grace, this is how many are collected in one: 8,192 writes of 128 KiB are 1 GiB.
pub const CONDEMNED_MAX: usize = 8192;
/// So many collections are remembered: a commit whose blobs were stored before the last one that was forgotten is refused.
pub const COLLECTED_KEPT: usize = 8192;
/// Most blobs of one item; those beyond are passed over. Each is looked up where it is applied.
pub const COLLECT_BLOBS_MAX: usize = 128;

// What is marked when a collection begins is remembered behind its end.
const _: () = assert!(COLLECTED_KEPT >= CONDEMNED_MAX);

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Collection {
    /// Blobs that nothing named when they were marked, and since when they are.
    condemned: BTreeMap<BlobId, Tid>,
    /// The last collections, the oldest first.
    collected: VecDeque<(Tid, BlobId)>,
    /// Nothing later than this was forgotten.
    forgotten: Tid,
    /// Items of collection that were applied.
    steps: u64,
}

impl Collection {
    /// The marked blobs, and since when they are.
    pub fn condemned(&self) -> &BTreeMap<BlobId, Tid> {
        &self.condemned
    }

    /// How many more can be marked.
    pub fn room(&self) -> usize {
        CONDEMNED_MAX - self.condemned.len()
    }

    /// How many `Condemn` and `Collect` items were applied.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Does a copy of the blob that was taken as of `as_of` perhaps not count any more?
    pub fn may_be_gone(&self, blob: BlobId, as_of: Tid) -> bool {
        let since = self.collected.iter().rev().take_while(|(tid, _)| *tid > as_of);
        as_of < self.forgotten || since.into_iter().any(|(_, collected)| *collected == blob)
    }

    /// An item of collection is applied.
    pub(crate) fn step(&mut self) {
        self.steps += 1;
    }

    /// Marks a blob that nothing names. False if it was marked before, or there is no room.
    pub(crate) fn condemn(&mut self, tid: Tid, blob: BlobId) -> bool {
        if self.room() == 0 || self.condemned.contains_key(&blob) {
            return false;
        }
        self.condemned.insert(blob, tid);
        true
    }

    /// The blob is named. True if it was marked.
    pub(crate) fn rescue(&mut self, blob: BlobId) -> bool {
        self.condemned.remove(&blob).is_some()
    }

    /// A blob that nothing names is collected, if it is marked.
    pub(crate) fn collect(&mut self, tid: Tid, blob: BlobId) -> bool {
        if self.condemned.remove(&blob).is_none() {
            return false;
        }
        self.collected.push_back((tid, blob));
        if self.collected.len() > COLLECTED_KEPT
            && let Some((oldest, _)) = self.collected.pop_front()
        {
            self.forgotten = oldest;
        }
        true
    }

    /// Asserts the invariants that the module's documentation numbers; `tid` is the last transaction.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self, tid: Tid) {
        assert!(self.condemned.len() <= CONDEMNED_MAX, "{} marks", self.condemned.len());
        assert!(self.condemned.values().all(|since| *since <= tid), "a mark is from the future");
        assert!(self.collected.len() <= COLLECTED_KEPT, "{} collections", self.collected.len());
        assert!(self.collected.iter().is_sorted_by_key(|(tid, _)| *tid), "collections are not in order");
        assert!(self.collected.front().is_none_or(|(first, _)| self.forgotten <= *first));
        assert!(self.collected.back().is_none_or(|(last, _)| *last <= tid), "a collection is from the future");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u64) -> BlobId {
        BlobId::of(&number.to_be_bytes())
    }

    #[test]
    fn what_is_not_marked_is_not_collected_and_a_mark_goes_with_a_name() {
        let mut collection = Collection::default();
        assert!(!collection.collect(Tid(5), blob(1)));
        assert!(collection.condemn(Tid(6), blob(1)) && !collection.condemn(Tid(7), blob(1)));
        assert_eq!(collection.condemned()[&blob(1)], Tid(6), "the first mark counts");
        assert!(collection.rescue(blob(1)) && !collection.rescue(blob(1)));
        assert!(!collection.collect(Tid(8), blob(1)));
        assert!(!collection.may_be_gone(blob(1), Tid(0)));
    }

    #[test]
    fn copies_from_before_a_collection_are_gone_and_later_ones_are_not() {
        let mut collection = Collection::default();
        assert!(collection.condemn(Tid(6), blob(1)) && collection.collect(Tid(9), blob(1)));
        assert!(collection.may_be_gone(blob(1), Tid(8)));
        assert!(!collection.may_be_gone(blob(1), Tid(9)), "who had applied the collection took it anew");
        assert!(!collection.may_be_gone(blob(2), Tid(8)));
        collection.check_invariants(Tid(9));
    }

    #[test]
    fn what_the_ring_has_forgotten_counts_for_all() {
        let mut collection = Collection::default();
        for number in 0..COLLECTED_KEPT as u64 + 1 {
            let tid = Tid(10 + number);
            assert!(collection.condemn(tid, blob(number)) && collection.collect(tid, blob(number)));
            collection.check_invariants(tid);
        }
        assert!(collection.may_be_gone(blob(u64::MAX), Tid(9)), "the first one, at 10, is forgotten");
        assert!(!collection.may_be_gone(blob(u64::MAX), Tid(10)));
        assert!(collection.may_be_gone(blob(1), Tid(10)) && !collection.may_be_gone(blob(1), Tid(11)));
    }

    #[test]
    fn there_is_room_for_so_many_marks() {
        let mut collection = Collection::default();
        let marked = (0..CONDEMNED_MAX as u64 + 5).filter(|number| collection.condemn(Tid(1), blob(*number))).count();
        assert_eq!((marked, collection.room()), (CONDEMNED_MAX, 0));
        collection.check_invariants(Tid(1));
    }
}
