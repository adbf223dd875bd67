//! What the last transactions changed, in memory, for who reads each of them right behind its commit.
//!
//! Such a reader asks for each record that a transaction touched what it was before and what it is now. Both were at hand when it was applied; to find them in
//! the records again takes longer than that did. Nothing is kept while nobody reads.

use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Tid, VolumeId};
use gavel_wire::past::{Lived, Past, Rows, Touched};
use gavel_wire::{Change, ChangeRow, Version, View, ViewError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes that are kept, about: what a busy source writes in some seconds, so that a mirror that stops for a moment is still fed from here.
pub const RECENT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a change takes beside its bytes, about.
const CHANGE_BYTES: usize = 256;

/// What one transaction changed.
#[derive(Debug)]
pub struct Transaction {
    tid: Tid,
    /// In the order of keys.
    changes: Box<[Change]>,
    bytes: usize,
}

impl Transaction {
    /// Its changes, which are all of one transaction.
    fn new(tid: Tid, changes: &[Change]) -> Transaction {
        let mut changes: Box<[Change]> = changes.into();
        changes.sort_by(|one, other| one.key.cmp(&other.key));
        let bytes = changes.iter().map(change_bytes).sum();
        Transaction { tid, changes, bytes }
    }

    /// The transaction.
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// Has it changed anything in this volume?
    pub fn is_in(&self, volume: VolumeId) -> bool {
        !self.within(&KeyRange::volume(volume)).is_empty()
    }

    /// Has it changed the attributes of all objects of which it has changed anything in this volume? (It has, unless one of them has no name.)
    pub fn has_attributes(&self, volume: VolumeId) -> bool {
        let mut objects =
            self.within(&KeyRange::of_objects(volume)).chunk_by(|one, next| one.key.object() == next.key.object());
        objects.all(|changes| changes.iter().any(|change| change.key.parts() == KeyParts::Attr))
    }

    fn within(&self, range: &KeyRange) -> &[Change] {
        let begin = self.changes.partition_point(|change| change.key.as_bytes() < &range.start[..]);
        let behind = &self.changes[begin..];
        &behind[..behind.partition_point(|change| range.contains(&change.key))]
    }

    fn of(&self, key: &Key) -> Option<&Change> {
        let at = self.changes.binary_search_by(|change| change.key.cmp(key)).ok()?;
        self.changes.get(at)
    }
}

fn change_bytes(change: &Change) -> usize {
    let held = |version: &Option<Version>| version.as_ref().map_or(0, |version| version.record.carried_bytes());
    CHANGE_BYTES + change.key.as_bytes().len() + held(&change.old) + held(&change.new)
}

/// The last transactions, while somebody reads them.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    readers: usize,
    /// Without a gap: every transaction behind this one.
    behind: Option<Tid>,
    transactions: VecDeque<Arc<Transaction>>,
    bytes: usize,
}

impl Recent {
    /// From now on transactions are kept, until this is dropped.
    pub fn reader(self: &Arc<Recent>) -> RecentReader {
        self.0.lock().readers += 1;
        RecentReader(self.clone())
    }

    /// These were applied, whole transactions in their order.
    pub(super) fn applied(&self, changes: &[Change]) {
        let mut kept = self.0.lock();
        if kept.readers == 0 {
            return;
        }
        for changes in changes.chunk_by(|one, next| one.tid == next.tid) {
            if let Some(Change { tid, .. }) = changes.first() {
                kept.push(Transaction::new(*tid, changes));
            }
        }
    }

    /// Something was written that is not known here.
    pub(super) fn forget(&self) {
        let mut kept = self.0.lock();
        *kept = Kept { readers: kept.readers, ..Kept::default() };
    }
}

impl Kept {
    fn push(&mut self, transaction: Transaction) {
        // Of what came before the first one, nothing is known.
        self.behind.get_or_insert(transaction.tid);
        self.bytes += transaction.bytes;
        self.transactions.push_back(Arc::new(transaction));
        while self.bytes > RECENT_BYTES_MAX
            && let Some(first) = self.transactions.pop_front()
        {
            self.bytes -= first.bytes;
            self.behind = Some(first.tid);
        }
    }
}

/// Somebody who reads the last transactions.
#[derive(Debug)]
pub struct RecentReader(Arc<Recent>);

impl RecentReader {
    /// The next transactions behind `at`, up to and with `upto`: all that there are, whatever volume they changed. None if it is not known here whether there
    /// was another one before them.
    pub fn behind(&self, at: Tid, upto: Tid) -> Option<Vec<Arc<Transaction>>> {
        let kept = self.0.0.lock();
        if kept.behind.is_none_or(|behind| at < behind) {
            return None;
        }
        let begin = kept.transactions.partition_point(|transaction| transaction.tid <= at);
        let behind = kept.transactions.range(begin..);
        Some(behind.take_while(|transaction| transaction.tid <= upto).cloned().collect())
    }
}

impl Drop for RecentReader {
    fn drop(&mut self) {
        let mut kept = self.0.0.lock();
        kept.readers -= 1;
        if kept.readers == 0 {
            *kept = Kept::default();
        }
    }
}

/// A past in which one transaction of a volume is in memory, with the state `from` before it, behind which it was the first one there. The volume is no clone.
pub struct JustApplied<'p> {
    past: &'p dyn Past,
    volume: VolumeId,
    from: Tid,
    transaction: &'p Transaction,
}

impl<'p> JustApplied<'p> {
    /// Over the whole past.
    pub fn new(past: &'p dyn Past, volume: VolumeId, from: Tid, transaction: &'p Transaction) -> JustApplied<'p> {
        JustApplied { past, volume, from, transaction }
    }
}

/// A state right before such a transaction, or right behind it.
struct Beside<'p> {
    past: &'p JustApplied<'p>,
    tid: Tid,
}

impl View for Beside<'_> {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        let transaction = self.past.transaction;
        match transaction.of(key).filter(|_| key.volume() == self.past.volume) {
            Some(change) if self.tid == transaction.tid => Ok(change.new.clone()),
            Some(change) => Ok(change.old.clone()),
            None => self.past.past.at(self.tid).get(key),
        }
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        self.past.past.at(self.tid).scan(range, limit)
    }
}

impl Past for JustApplied<'_> {
    fn tid(&self) -> Tid {
        self.past.tid()
    }

    fn has_all(&self, volume: VolumeId, tid: Tid) -> bool {
        self.past.has_all(volume, tid)
    }

    fn at(&self, tid: Tid) -> Box<dyn View + '_> {
        if (self.from..=self.transaction.tid).contains(&tid) {
            return Box::new(Beside { past: self, tid });
        }
        self.past.at(tid)
    }

    fn versions(&self, range: &KeyRange) -> Rows<'_, Lived> {
        self.past.versions(range)
    }

    fn changes(&self, after: Tid, upto: Tid) -> Rows<'_, ChangeRow> {
        self.past.changes(after, upto)
    }

    fn touched(&self, after: Tid, upto: Tid) -> Rows<'_, Touched> {
        self.past.touched(after, upto)
    }

    fn touched_at(&self, tid: Tid, range: &KeyRange) -> Rows<'_, Touched> {
        let within = range.within(&KeyRange::volume(self.volume));
        if tid != self.transaction.tid || within != *range {
            return self.past.touched_at(tid, range);
        }
        let touched = move |change: &Change| Ok(Touched { tid, key: change.key.clone(), made: change.new.is_some() });
        Box::new(self.transaction.within(range).iter().map(touched))
    }

    fn names_of(&self, volume: VolumeId, object: ObjectId) -> Rows<'_, Key> {
        self.past.names_of(volume, object)
    }

    fn live_back(&self, range: &KeyRange) -> Rows<'_, (Key, Version)> {
        self.past.live_back(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::MemEngine;
    use crate::records::{Identity, Records};
    use gavel_types::{ClusterId, NodeId};
    use gavel_wire::Record;

    const V: VolumeId = VolumeId(1);

    fn version(tid: u64) -> Option<Version> {
        Some(Version { create: Tid(tid), firm: Tid(tid), record: Record::Xattr(Box::new([tid as u8])) })
    }

    fn change(tid: u64, object: u64, old: Option<Version>, new: Option<Version>) -> Change {
        Change { tid: Tid(tid), key: Key::attr(V, ObjectId(object)), old, new }
    }

    fn records() -> Records<MemEngine> {
        let identity = Identity { cluster: ClusterId([1; 16]), node: NodeId(1) };
        Records::open(MemEngine::new(), identity).unwrap().0
    }

    fn tids(found: Option<Vec<Arc<Transaction>>>) -> Option<Vec<u64>> {
        found.map(|found| found.iter().map(|transaction| transaction.tid().0).collect())
    }

    #[test]
    fn what_is_told_has_no_gap() {
        let records = records();
        records.apply(&[change(5, 20, None, version(5))], &[]).unwrap();
        let reader = records.recent().reader();
        assert_eq!(tids(reader.behind(Tid(5), Tid(9))), None, "nobody knows what was applied before");
        records.apply(&[change(10, 20, version(5), version(10)), change(20, 21, None, version(20))], &[]).unwrap();
        records.apply(&[change(30, 21, version(20), None)], &[]).unwrap();
        assert_eq!(tids(reader.behind(Tid(5), Tid(30))), None);
        assert_eq!(tids(reader.behind(Tid(10), Tid(30))), Some(vec![20, 30]));
        assert_eq!(tids(reader.behind(Tid(10), Tid(29))), Some(vec![20]));
        assert_eq!(tids(reader.behind(Tid(30), Tid(40))), Some(vec![]));

        records.install(&[ChangeRow { tid: Tid(35), key: Key::attr(V, ObjectId(9)), version: None }]).unwrap_err();
        records
            .install(&[ChangeRow { tid: Tid(40), key: Key::xattr(V, ObjectId(20), b"a"), version: version(40) }])
            .unwrap();
        assert_eq!(tids(reader.behind(Tid(30), Tid(40))), None, "what a replica caught up with was not told");
        records.apply(&[change(50, 20, version(10), version(50))], &[]).unwrap();
        assert_eq!(tids(reader.behind(Tid(40), Tid(50))), None);
        drop(reader);
        assert_eq!(tids(records.recent().reader().behind(Tid(50), Tid(50))), None, "nothing is kept for nobody");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let records = records();
        let reader = records.recent().reader();
        let count = (RECENT_BYTES_MAX / CHANGE_BYTES) as u64;
        for tid in 1..=count {
            records.apply(&[change(tid, tid, None, version(tid))], &[]).unwrap();
        }
        assert!(reader.0.0.lock().bytes <= RECENT_BYTES_MAX);
        assert_eq!(tids(reader.behind(Tid(1), Tid(count))), None);
        let left = reader.0.0.lock().behind.unwrap();
        assert_eq!(tids(reader.behind(left, Tid(count))), Some((left.0 + 1..=count).collect()));
    }

    #[test]
    fn a_transaction_in_memory_is_read_as_from_the_records() {
        let records = records();
        let reader = records.recent().reader();
        records.apply(&[change(10, 20, None, version(10)), change(10, 22, None, version(10))], &[]).unwrap();
        let changes = [
            change(20, 22, version(10), None),
            change(20, 21, None, version(20)),
            change(20, 20, version(10), version(20)),
        ];
        records.apply(&changes, &[]).unwrap();
        records.apply(&[change(30, 20, version(20), version(30))], &[]).unwrap();
        let past = records.past(Tid(30));
        let found = reader.behind(Tid(10), Tid(20)).unwrap();
        let recent = JustApplied::new(&past, V, Tid(10), &found[0]);
        let object = |object| Key::attr(V, ObjectId(object));
        for at in [9, 10, 15, 20, 25, 30].map(Tid) {
            for key in [20, 21, 22, 23].map(object) {
                assert_eq!(recent.at(at).get(&key), past.at(at).get(&key), "{key:?} at {at}");
            }
        }
        for range in [KeyRange::volume(V), KeyRange::object(V, ObjectId(21)), KeyRange::volume(VolumeId(2))] {
            let rows = |past: &dyn Past| past.touched_at(Tid(20), &range).collect::<Result<Vec<_>, _>>().unwrap();
            assert_eq!(rows(&recent), rows(&past));
        }
        assert!(found[0].is_in(V) && !found[0].is_in(VolumeId(2)));
        assert!(found[0].has_attributes(V));
        let name = Change { key: Key::xattr(V, ObjectId(23), b"a"), ..change(40, 23, None, version(40)) };
        records.apply(&[change(40, 20, version(30), version(40)), name], &[]).unwrap();
        assert!(!reader.behind(Tid(30), Tid(40)).unwrap()[0].has_attributes(V));
    }
}
