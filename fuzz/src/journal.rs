//! The journal of a transaction, replayed over a small state.
//!
//! If the first byte of an input is odd, the checksums are made good first.

use crate::seal;
use gavel_client::transaction::journal::{Entry, Header, Journal, Writer, glimpse, replay};
use gavel_client::{Run, Step, Transaction, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::Caller;
use gavel_types::{BlobId, Cookie, Key, KeyRange, ObjectId, Tid, Timestamp, VolumeId};
use gavel_wire::{Attr, Firm, Kind, Record, Version, View, ViewError};
use std::collections::BTreeMap;

const V: VolumeId = VolumeId(1);
const START: Tid = Tid(5_000_000_000);

struct Base(BTreeMap<Key, Version>);

impl View for Base {
    fn tid(&self) -> Tid {
        START
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let within = self.0.iter().filter(|(key, _)| range.contains(key)).take(limit);
        Ok(within.map(|(key, version)| (key.clone(), version.clone())).collect())
    }
}

/// A root directory.
fn base() -> Base {
    let now = Timestamp { secs: 1, nanos: 0 };
    let firm = Firm {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        parent: ObjectId::ROOT,
        birth: now,
        class: gavel_types::Class::VOLUME,
    };
    let root = Attr { firm, nlink: 2, size: 0, allocated: 0, atime: now, mtime: now, ctime: now };
    let version = Version { create: START, firm: START, record: Record::Attr(root) };
    Base(BTreeMap::from([(Key::attr(V, ObjectId::ROOT), version)]))
}

/// Reads the journal, replays it, and writes it anew.
///
/// # Panics
/// If that panics, or what is written anew does not replay to the same.
pub fn run(bytes: &[u8]) -> bool {
    let Some((first, rest)) = bytes.split_first() else { return false };
    let mut file = rest.to_vec();
    if first % 2 == 1 {
        seal::journal(&mut file);
    }
    let Ok(seen) = glimpse(&file) else { return false };
    assert!(seen.whole + seen.rest == file.len() as u64);
    let base = base();
    let Ok(found) = replay(&file, &base) else { return true };
    assert_eq!((found.whole, &found.held), (seen.whole, &seen.held));
    let whole = found.transaction.to_whole();
    let header = Header { anew: true, ..seen.header };
    let (writer, mut anew) = Writer::begin(&header).expect("it was read");
    anew.extend(writer.record(&Entry::Whole(Box::new(whole.clone()))).expect("it was read"));
    let again = replay(&anew, &base).expect("what is written can be read");
    assert_eq!(again.transaction.to_whole(), whole);
    let _ = found.transaction.fold(&base);
    true
}

/// One with all kinds of entries, and one that was written anew.
pub fn seeds() -> Vec<Vec<u8>> {
    let header = Header {
        id: "1-abc".into(),
        volume: V,
        start: START,
        place: b"/mnt/work"[..].into(),
        own_place: false,
        uid: 1000,
        began_ns: 7,
        message: "why".into(),
        anew: false,
    };
    let mut transaction = Transaction::new(V, START);
    transaction.keep_events();
    let (mut writer, mut file) = Writer::begin(&header).expect("it is small");
    let mut append = |file: &mut Vec<u8>, entry: Entry| {
        file.extend(writer.record(&entry).expect("it is small"));
        writer.written();
    };
    for (number, request) in requests().into_iter().enumerate() {
        operate(&mut transaction, request);
        let store = if number == 1 { b"a blob"[..].into() } else { Box::default() };
        append(&mut file, Entry::Did { events: transaction.take_events(), store });
    }
    for entry in [
        Entry::Stored { blob: BlobId::of(b"a blob"), as_of: START },
        Entry::Committing,
        Entry::Open,
        Entry::Held(vec![BlobId([3; 32])]),
        Entry::Committed { tid: Tid(9) },
    ] {
        append(&mut file, entry);
    }
    assert!(Journal::open(&file).is_ok_and(|journal| journal.count() == requests().len() + 5));
    let (writer, mut anew) = Writer::begin(&Header { anew: true, ..header }).expect("it is small");
    anew.extend(writer.record(&Entry::Whole(Box::new(transaction.to_whole()))).expect("it is small"));
    [file, anew].into_iter().flat_map(|file| [0, 1].map(|first| [&[first], &*file].concat())).collect()
}

fn requests() -> Vec<TreeRequest> {
    let name = |name: &[u8]| name.into();
    let (root, file) = (ObjectId::ROOT, ObjectId(100));
    let made =
        Operation::Create { parent: root, name: name(b"a"), mode: 0o644, umask: 0, exclusive: true, truncate: false };
    vec![
        TreeRequest::Operation(made),
        TreeRequest::Write { object: file, offset: 3, append: false, data: b"bytes".to_vec(), kill_suidgid: false },
        TreeRequest::Operation(Operation::Readdir { object: root, after: Cookie(0), limit: 9 }),
        TreeRequest::Lookup { parent: root, name: name(b"none") },
        TreeRequest::Operation(Operation::Link { object: file, parent: root, name: name(b"b") }),
        TreeRequest::Operation(Operation::Unlink { parent: root, name: name(b"a") }),
    ]
}

fn operate(transaction: &mut Transaction, request: TreeRequest) {
    let (base, now_ns) = (base(), START.0 + 1);
    let mut run = Run::new(V, Caller::default(), request).expect("it is within all limits");
    if run.step_transaction(transaction, &base, now_ns).step == Step::NeedObjectId {
        run.fresh_id(ObjectId(100));
        let _ = run.step_transaction(transaction, &base, now_ns);
    }
}
