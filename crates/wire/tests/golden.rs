//! Golden bytes of what reaches a disk or a network. If one of these changes, the format byte of its kind must change
//! with it, and the old bytes must stay readable or be refused: old nodes and old disks hold them.
#![allow(clippy::unwrap_used)]

use gavel_types::retention::{Retention, Rule};
use gavel_types::{BlobId, Key, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Term, Tid, Timestamp, VolumeId};
use gavel_wire::codec::{ENTRY_FORMAT, MESSAGE_FORMAT, VERSION_FORMAT};
use gavel_wire::lock::{Family, LockFile, LockKind, Span};
use gavel_wire::{
    Attr, AttrDelta, Author, ChangeRow, Committed, Content, DecodeError, Dirent, Entry, Extent, Firm, Guard, Item,
    Kind, Message, Mode, Mutation, Orphan, Plan, Record, Request, RequestBody, Version, Want,
};

const V: VolumeId = VolumeId(1);
const O: ObjectId = ObjectId(300);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn version(record: Record) -> Version {
    Version { create: Tid(0x0102), firm: Tid(5), record }
}

fn attr() -> Attr {
    let time = |secs| Timestamp { secs, nanos: 7 };
    let firm = Firm { kind: Kind::Directory, mode: 0o755, uid: 1000, gid: 100, rdev: 0, parent: O, birth: time(-1) };
    Attr { firm, nlink: 2, size: 300, allocated: 0, atime: time(1), mtime: time(2), ctime: time(64) }
}

fn plan() -> Plan {
    let delta = AttrDelta { nlink: -1, size: 1, size_min: 9, atime: None, mtime: Some(Timestamp::COMMIT), ctime: None };
    let put = Mutation::Put { key: Key::attr(V, O), record: Record::Attr(attr()) };
    Plan {
        mutations: vec![
            put,
            Mutation::Delete { key: Key::target(V, O) },
            Mutation::Adjust { volume: V, object: O, delta },
            Mutation::Carve { volume: V, object: O, start: 1, end: 2 },
            Mutation::Orphan { volume: V, object: O },
        ],
    }
}

fn author() -> Author {
    Author { uid: 1000, note: "n".into() }
}

fn guards() -> Vec<Guard> {
    vec![
        Guard::Unchanged { key: Key::attr(V, O), at: Tid(1) },
        Guard::Firm { key: Key::attr(V, O), at: Tid(2) },
        Guard::Empty { range: KeyRange::one(&Key::target(V, O)) },
        Guard::Stable { range: KeyRange::xattrs(V, O), at: Tid(3) },
    ]
}

fn request(body: RequestBody) -> Request {
    Request { session: SessionId(7), seq: Seq(8), seen: Seq(6), body }
}

fn wants() -> Vec<Want> {
    let want = |mode, urgent| Want { range: KeyRange::object(V, O), mode, urgent };
    vec![want(Mode::Shared, false), want(Mode::Exclusive, true)]
}

fn entry() -> Entry {
    let file = LockFile { volume: V, object: O, family: Family::Posix };
    let span = Span { first: 1, last: 300 };
    let policy = Retention { whole_ns: Some(300), rules: vec![Rule { every_ns: 1, for_ns: 2 }] };
    let items = vec![
        Item::Request(request(RequestBody::Commit { guards: guards(), plan: plan(), author: author() })),
        Item::Request(request(RequestBody::AllocateObjects)),
        Item::Request(request(RequestBody::Release { orphans: vec![(V, O)] })),
        Item::Request(request(RequestBody::Lease { wants: wants() })),
        Item::Request(request(RequestBody::Yield { ranges: vec![KeyRange::object(V, O)], cool: true })),
        Item::Request(request(RequestBody::Downgrade { ranges: vec![KeyRange::object(V, O)], cool: false })),
        Item::Request(request(RequestBody::Lock { file, owner: 300, span, kind: LockKind::Write, pid: 9, wait: true })),
        Item::Request(request(RequestBody::Unlock { file, owner: 300, span: Span::ALL })),
        Item::Request(request(RequestBody::CancelLock { seq: Seq(7) })),
        Item::Request(request(RequestBody::SetRetention { volume: V, policy })),
        Item::Request(request(RequestBody::Prune { volume: V })),
        Item::Request(request(RequestBody::Pin { volume: V, at: Tid(300) })),
        Item::Request(request(RequestBody::Unpin { volume: V, at: Tid(300) })),
        Item::SessionOpen { node: NodeId(2), incarnation: 0x1234, term_ms: 5_000 },
        Item::SessionExpire { session: SessionId(7) },
        Item::Reap { volume: V, object: O },
        Item::Checkpoint { index: LogIndex(300), digest: [9; 32] },
        Item::Prune { volume: V },
        Item::Sweep { volume: V, rows: 512 },
    ];
    Entry { tid: Tid(0x0102), items }
}

fn messages() -> Vec<Message> {
    let change = ChangeRow { tid: Tid(4), key: Key::target(V, O), version: None };
    vec![
        Message::Log(vec![1, 2, 3]),
        Message::Submit(vec![request(RequestBody::AllocateObjects)]),
        Message::SubmitGap { session: SessionId(7), expected: Seq(9) },
        Message::OpenSession { node: NodeId(2), incarnation: 300, term_ms: 5_000 },
        Message::Refresh { session: SessionId(7), ticket: 1 },
        Message::Refreshed { session: SessionId(7), ticket: 1, wall_ns: 300 },
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
            sweeps: 300,
        },
        Message::ScanRefused { ticket: 1, sweeps: 300 },
        Message::Changes { ticket: 1, changes: vec![change], done: true },
        Message::Recall {
            session: SessionId(7),
            ranges: vec![KeyRange::object(V, O)],
            mode: Mode::Exclusive,
            at: LogIndex(300),
        },
    ]
}

#[test]
fn versions() {
    let blob = Content::Blob { id: BlobId([0xab; 32]), blob_len: 70_000, offset: 4096 };
    let golden = [
        (Record::Attr(attr()), "028202050001ed03e8076400ac02010702ac020002070407800107"),
        (Record::Dirent(Dirent { object: O, kind: Kind::File }), "0282020501ac0200"),
        (Record::Extent(Extent { len: 3, content: Content::Inline(Box::new(*b"abc")) }), "0282020502030003616263"),
        (
            Record::Extent(Extent { len: 300, content: blob }),
            "0282020502ac0201ababababababababababababababababababababababababababababababababf0a2048020",
        ),
        (Record::Extent(Extent { len: 300, content: Content::Zeros }), "0282020502ac0202"),
        (Record::Xattr(Box::new(*b"v")), "02820205030176"),
        (Record::Target(Box::new(*b"t")), "02820205040174"),
        (Record::Orphan(Orphan { holders: vec![SessionId(7)] }), "02820205050107"),
        (Record::Commit(Committed { node: NodeId(3), uid: 1000, note: "n".into() }), "028202050603e807016e"),
    ];
    assert_eq!(VERSION_FORMAT, 2);
    for (record, bytes) in golden {
        let version = version(record);
        let encoded = version.encode();
        assert_eq!(hex(&encoded), bytes, "{version:?}");
        assert_eq!(Version::decode(&encoded).unwrap(), version);
    }
}

#[test]
fn entries() {
    let golden = concat!(
        "04820213000708060004000d00000001000000000000012c0101010d00000001000000000000012c0102020d000000010000",
        "00000000012c050e00000001000000000000012c0500030d00000001000000000000012c040d00000001000000000000012c",
        "050305000d00000001000000000000012c010001ed03e8076400ac02010702ac020002070407800107010d00000001000000",
        "000000012c050201ac020102090001feffffffffffffffff01ffffffff0f000301ac0201020401ac02e807016e000708060100070806",
        "020101ac020007080603020c00000001000000000000012c0c00000001000000000000012d00000c00000001000000000000",
        "012c0c00000001000000000000012d01010007080604010c00000001000000000000012c0c00000001000000000000012d01",
        "0007080605010c00000001000000000000012c0c00000001000000000000012d00000708060601ac0200ac0201ac02010901",
        "000708060701ac0200ac0200ffffffffffffffff7f000708060807000708060c0101ac02010102000708060d01000708060e",
        "01ac02000708060f01ac020102b424882702070401ac0205ac0209090909090909090909090909090909090909090909090909",
        "09090909090909060107018004",
    );
    assert_eq!(ENTRY_FORMAT, 4);
    let encoded = entry().encode();
    assert_eq!(hex(&encoded), golden);
    assert_eq!(Entry::decode(&encoded).unwrap(), entry());
}

#[test]
fn messages_between_nodes() {
    let golden = [
        "040003010203",
        "04020107080601",
        "04030709",
        "040402ac028827",
        "04050701",
        "04060701ac02",
        "040701",
        "040801ac02",
        "04090102",
        "040a0102ac02040506ac02",
        "040c01ac02",
        "040b0101040d00000001000000000000012c050001",
        "040d07010c00000001000000000000012c0c00000001000000000000012d01ac02",
    ];
    assert_eq!(MESSAGE_FORMAT, 4);
    assert_eq!(messages().len(), golden.len());
    for (message, bytes) in messages().into_iter().zip(golden) {
        let encoded = message.encode();
        assert_eq!(hex(&encoded), bytes, "{message:?}");
        assert_eq!(Message::decode(&encoded).unwrap(), message);
    }
}

#[test]
fn other_formats_and_torn_bytes_are_refused() {
    let bytes = entry().encode();
    assert!((0..bytes.len()).all(|len| Entry::decode(&bytes[..len]).is_err()), "a torn entry");
    assert!(Entry::decode(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
    let newer = [&[ENTRY_FORMAT + 1], &bytes[1..]].concat();
    assert!(matches!(Entry::decode(&newer), Err(DecodeError::UnknownFormat { found: 5, known: 4, .. })));
    for message in messages() {
        let bytes = message.encode();
        assert!((0..bytes.len()).all(|len| Message::decode(&bytes[..len]).is_err()), "a torn {message:?}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            // Another entry or a refusal: no panic, and no allocation without bound.
            let _ = Entry::decode(&flipped);
        }
    }
}
