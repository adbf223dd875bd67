//! Log entries, messages, record versions and keys.

use gavel_types::{
    BlobId, Class, ClusterId, Key, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Term, Tid, Timestamp, VolumeId,
};
use gavel_wire::{
    Attr, AttrDelta, Author, ChangeRow, Committed, Content, Dirent, Entry, Extent, Firm, Guard, Item, Kind, Message,
    Mutation, Orphan, Plan, Record, Request, RequestBody, Version,
};

const VOLUME: VolumeId = VolumeId(1);
const OBJECT: ObjectId = ObjectId(300);

/// Decodes `bytes` as each of them.
///
/// # Panics
/// If a decoder panics, or a value that it accepted does not survive being written and read again.
pub fn run(bytes: &[u8]) -> bool {
    let entry = Entry::decode(bytes).inspect(|entry| {
        assert_eq!(Entry::decode(&entry.encode()).as_ref(), Ok(entry));
    });
    let message = Message::decode(bytes).inspect(|message| {
        assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(message));
    });
    let version = Version::decode(bytes).inspect(|version| {
        assert_eq!(Version::decode(&version.encode()).as_ref(), Ok(version));
    });
    let key = Key::from_bytes(bytes).inspect(|key| check_key(key, bytes));
    let id = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<ClusterId>().ok()).inspect(|id| {
        assert_eq!(id.to_string().parse::<ClusterId>().as_ref(), Ok(id));
    });
    entry.is_ok() || message.is_ok() || version.is_ok() || key.is_ok() || id.is_some()
}

fn check_key(key: &Key, bytes: &[u8]) {
    assert_eq!(key.as_bytes(), bytes, "a key is its bytes");
    // Neither says anything that could be wrong; they must not panic.
    let _ = (key.parts(), format!("{key:?}"));
    assert!(KeyRange::one(key).contains(key));
    assert!(KeyRange::object(key.volume(), key.object()).contains(key));
}

/// One of everything.
pub fn seeds() -> Vec<Vec<u8>> {
    let keys = keys();
    let mut seeds = vec![entry().encode(), ClusterId([7; 16]).to_string().into_bytes()];
    seeds.extend(messages().iter().map(Message::encode));
    seeds.extend(records().into_iter().map(|record| version(record).encode()));
    seeds.extend(keys.iter().map(|key| key.as_bytes().to_vec()));
    seeds
}

fn keys() -> Vec<Key> {
    vec![
        Key::attr(VOLUME, OBJECT),
        Key::dirent(VOLUME, OBJECT, b"name"),
        Key::extent(VOLUME, OBJECT, 4096),
        Key::xattr(VOLUME, OBJECT, b"user.colour"),
        Key::target(VOLUME, OBJECT),
        Key::orphan(VOLUME, OBJECT),
    ]
}

fn version(record: Record) -> Version {
    Version { create: Tid(0x0102), firm: Tid(5), record }
}

fn attr() -> Attr {
    let time = |secs| Timestamp { secs, nanos: 7 };
    let firm = Firm {
        kind: Kind::File,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        rdev: 0,
        parent: OBJECT,
        birth: time(-1),
        class: Class::VOLUME,
    };
    Attr { firm, nlink: 1, size: 300, allocated: 300, atime: time(1), mtime: time(2), ctime: time(64) }
}

fn records() -> Vec<Record> {
    let blob = Content::Blob { id: BlobId([0xab; 32]), blob_len: 70_000, offset: 4096 };
    vec![
        Record::Attr(attr()),
        Record::Dirent(Dirent { object: OBJECT, kind: Kind::Directory }),
        Record::Extent(Extent { len: 3, content: Content::Inline((*b"abc").into()) }),
        Record::Extent(Extent { len: 300, content: blob }),
        Record::Extent(Extent { len: 300, content: Content::Zeros }),
        Record::Xattr(Box::new(*b"value")),
        Record::Target(Box::new(*b"../target")),
        Record::Orphan(Orphan { holders: vec![SessionId(7)] }),
        Record::Commit(Committed { node: NodeId(3), uid: 1000, note: "a note".into(), staged: vec![Tid(7)] }),
    ]
}

fn commit() -> RequestBody {
    let (volume, object) = (VOLUME, OBJECT);
    let delta = AttrDelta { nlink: -1, size: 1, size_min: 9, mtime: Some(Timestamp::COMMIT), ..AttrDelta::default() };
    let mutations = vec![
        Mutation::Put { key: Key::attr(volume, object), record: Record::Attr(attr()) },
        Mutation::Delete { key: Key::target(volume, object) },
        Mutation::Adjust { volume, object, delta },
        Mutation::Carve { volume, object, start: 1, end: 2 },
        Mutation::Orphan { volume, object },
    ];
    let guards = vec![
        Guard::Unchanged { key: Key::attr(volume, object), at: Tid(1) },
        Guard::Firm { key: Key::attr(volume, object), at: Tid(2) },
        Guard::Empty { range: KeyRange::one(&Key::target(volume, object)) },
        Guard::Stable { range: KeyRange::xattrs(volume, object), at: Tid(3) },
    ];
    RequestBody::Commit { guards, plan: Plan { mutations }, author: Author::user(1000), stored_as_of: Tid(70) }
}

fn requests() -> Vec<Request> {
    let release = RequestBody::Release { orphans: vec![(VOLUME, OBJECT)] };
    let request = |body| Request { session: SessionId(7), seq: Seq(8), seen: Seq(6), body };
    [commit(), RequestBody::AllocateObjects, release].map(request).into()
}

/// An entry with one of each item.
pub(crate) fn entry() -> Entry {
    let mut items: Vec<Item> = requests().into_iter().map(Item::Request).collect();
    items.extend([
        Item::SessionOpen { node: NodeId(2), incarnation: 0x1234, term_ms: 5_000, instead_of: None },
        Item::SessionExpire { session: SessionId(7) },
        Item::CreateVolume { volume: VOLUME, mode: 0o755, uid: 0, gid: 0 },
        Item::Reap { volume: VOLUME, object: OBJECT },
        Item::Checkpoint { index: LogIndex(300), digest: [9; 32] },
    ]);
    Entry { tid: Tid(0x0102), items }
}

fn messages() -> Vec<Message> {
    let row = |key: Key, version| ChangeRow { tid: Tid(4), key, version };
    let made = row(Key::attr(VOLUME, OBJECT), Some(version(Record::Attr(attr()))));
    let session = SessionId(7);
    vec![
        Message::Log(vec![1, 2, 3].into()),
        Message::Clock { wall_ns: 1 << 60 },
        Message::Submit(requests()),
        Message::SubmitGap { session, expected: Seq(9) },
        Message::OpenSession { node: NodeId(2), incarnation: 300, term_ms: 5_000, instead_of: None },
        Message::Refresh { session, ticket: 1 },
        Message::Refreshed { session, ticket: 1, wall_ns: 300 },
        Message::ConfirmRead { ticket: 1 },
        Message::ReadConfirmed { ticket: 1, index: LogIndex(300) },
        Message::NotLeader { leader: Some(NodeId(2)) },
        Message::ScanChanges {
            ticket: 1,
            after: Tid(2),
            upto: Tid(300),
            skip: 4,
            index: LogIndex(5),
            term: Term(6),
            sweeps: 7,
        },
        Message::Changes { ticket: 1, changes: vec![made, row(Key::target(VOLUME, OBJECT), None)], done: true },
        Message::ScanRefused { ticket: 1, sweeps: 300 },
    ]
}
