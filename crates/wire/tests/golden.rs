//! Golden bytes of what reaches a disk or a network. If one of these changes, the format byte of its kind must change
//! with it, and the old bytes must stay readable or be refused: old nodes and old disks hold them.
#![allow(clippy::unwrap_used)]

use gavel_types::retention::{Retention, Rule};
use gavel_types::schedule::{Every, Schedule};
use gavel_types::{
    BlobId, Class, ClusterId, Key, KeyRange, LogIndex, MirrorSource, NodeId, ObjectId, Selection, Seq, SessionId, Term,
    Tid, Timestamp, VolumeId,
};
use gavel_wire::codec::{ENTRY_FORMAT, MESSAGE_FORMAT, VERSION_FORMAT};
use gavel_wire::lock::{Family, LockFile, LockKind, Span};
use gavel_wire::{
    Attr, AttrDelta, Author, Boundary, ChangeRow, Committed, Content, DecodeError, Demotion, Dirent, Entry, Extent,
    Firm, Follow, FollowKey, Guard, Item, Kind, Message, MirrorStep, Mode, Mutation, Orphan, Plan, Record, Request,
    RequestBody, UnderWay, Version, Want,
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
    let firm = Firm {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 1000,
        gid: 100,
        rdev: 0,
        parent: O,
        birth: time(-1),
        class: Class(5),
    };
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
            Mutation::Append { volume: V, object: O, len: 2, content: Content::Inline(b"hi"[..].into()) },
        ],
    }
}

fn selection() -> Selection {
    Selection::new(&["a/b"], &["*.o"]).unwrap()
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

fn source() -> MirrorSource {
    MirrorSource { cluster: ClusterId([5; 16]), volume: V, made: Tid(300) }
}

fn mirror_step() -> MirrorStep {
    let rows = vec![(Key::target(V, O), Some(Record::Target(Box::new(*b"t")))), (Key::attr(V, O), None)];
    let (author, stored_as_of) = (author(), Tid(70));
    let (from, to) = (Tid(7), Tid(300));
    let resumes = Some(UnderWay { to, parts: 3 });
    MirrorStep { volume: V, from, to, part: 0, last: true, single: false, resumes, rows, author, stored_as_of }
}

fn entry() -> Entry {
    let file = LockFile { volume: V, object: O, family: Family::Posix };
    let span = Span { first: 1, last: 300 };
    let policy = Retention { whole_ns: Some(300), rules: vec![Rule { every_ns: 1, for_ns: 2 }] };
    let schedule = Schedule { rules: vec![Every { every_ns: 300, keep: 200 }] };
    let items = vec![
        Item::Request(request(RequestBody::Commit {
            guards: guards(),
            plan: plan(),
            author: author(),
            stored_as_of: Tid(70),
        })),
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
        Item::Request(request(RequestBody::SetSchedule { volume: V, schedule })),
        Item::Request(request(RequestBody::DefineClass { volume: V, policy: Retention::nothing() })),
        Item::Request(request(RequestBody::CreateVolume { name: "n".into(), mode: 0o755, uid: 300, gid: 2 })),
        Item::Request(request(RequestBody::CloneVolume { from: V, at: Some(Tid(300)), name: "n".into() })),
        Item::Request(request(RequestBody::RenameVolume { volume: V, name: "n".into() })),
        Item::Request(request(RequestBody::DestroyVolume { volume: V, now: true })),
        Item::Request(request(RequestBody::RestoreVolume { volume: V, name: Some("n".into()) })),
        Item::Request(request(RequestBody::Stage {
            group: 300,
            volume: V,
            runs: vec![(ObjectId(299), O)],
            plan: Plan { mutations: vec![Mutation::Delete { key: Key::target(V, O) }] },
            stored_as_of: Tid(300),
        })),
        Item::Request(request(RequestBody::Adopt {
            group: 300,
            guards: vec![Guard::Firm { key: Key::attr(V, O), at: Tid(5) }],
            plan: Plan { mutations: vec![Mutation::Orphan { volume: V, object: O }] },
            author: Author { uid: 1000, note: "n".into() },
            stored_as_of: Tid(300),
        })),
        Item::Request(request(RequestBody::Unstage { group: 300 })),
        Item::Request(request(RequestBody::CreateMirror {
            name: "n".into(),
            source: source(),
            selection: selection(),
        })),
        Item::Request(request(RequestBody::MirrorStep(mirror_step()))),
        Item::Request(request(RequestBody::PromoteMirror { volume: V })),
        Item::Request(request(RequestBody::AdmitFollower {
            volume: V,
            name: "n".into(),
            key: [7; 32],
            keep_for_ns: Some(300),
            selection: selection(),
        })),
        Item::Request(request(RequestBody::DismissFollower { volume: V, name: "n".into() })),
        Item::Request(request(RequestBody::FollowerReached {
            volume: V,
            name: "n".into(),
            admitted: Tid(300),
            at: Tid(301),
        })),
        Item::Request(request(RequestBody::FollowMirror { volume: V, follow: Some(Box::new(follow())) })),
        Item::Request(request(RequestBody::NoteSnapshot { volume: V, name: "n".into(), note: "F".into() })),
        Item::Request(request(RequestBody::DemoteMirror(Demotion {
            volume: V,
            source: source(),
            own: Tid(300),
            state: Tid(301),
            save: Some("n".into()),
            as_of: Tid(302),
        }))),
        Item::SessionOpen { node: NodeId(2), incarnation: 0x1234, term_ms: 5_000, instead_of: None },
        Item::SessionExpire { session: SessionId(7) },
        Item::Reap { volume: V, object: O },
        Item::Checkpoint { index: LogIndex(300), digest: [9; 32] },
        Item::Prune { volume: V },
        Item::Sweep { volume: V, rows: 512 },
        Item::NameScheduled { volume: V },
        Item::Condemn { blobs: vec![BlobId([0xab; 32])] },
        Item::Collect { blobs: vec![BlobId([0xcd; 32])] },
        Item::ReapStaged,
    ];
    Entry { tid: Tid(0x0102), items }
}

fn follow() -> Follow {
    let (authority, name) = ("pem".into(), "n".into());
    Follow { peers: vec![(NodeId(2), "h:1".into())], authority, name, key: FollowKey([8; 32]), paused: true }
}

fn messages() -> Vec<Message> {
    let change = ChangeRow { tid: Tid(4), key: Key::target(V, O), version: None };
    vec![
        Message::Log(vec![1, 2, 3].into()),
        Message::Submit(vec![request(RequestBody::AllocateObjects)]),
        Message::SubmitGap { session: SessionId(7), expected: Seq(9) },
        Message::OpenSession { node: NodeId(2), incarnation: 300, term_ms: 5_000, instead_of: None },
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
        Message::Unnamed { blobs: vec![BlobId([0xab; 32])] },
        Message::Land { session: SessionId(7), ticket: 300 },
        Message::AllLanded { session: SessionId(7), ticket: 300, index: LogIndex(301) },
    ]
}

#[test]
fn versions() {
    let blob = Content::Blob { id: BlobId([0xab; 32]), blob_len: 70_000, offset: 4096 };
    let golden = [
        (Record::Attr(attr()), "048202050001ed03e8076400ac0201070502ac020002070407800107"),
        (Record::Dirent(Dirent { object: O, kind: Kind::File }), "0482020501ac0200"),
        (Record::Extent(Extent { len: 3, content: Content::Inline((*b"abc").into()) }), "0482020502030003616263"),
        (
            Record::Extent(Extent { len: 300, content: blob }),
            "0482020502ac0201ababababababababababababababababababababababababababababababababf0a2048020",
        ),
        (Record::Extent(Extent { len: 300, content: Content::Zeros }), "0482020502ac0202"),
        (Record::Xattr(Box::new(*b"v")), "04820205030176"),
        (Record::Target(Box::new(*b"t")), "04820205040174"),
        (Record::Orphan(Orphan { holders: vec![SessionId(7)] }), "04820205050107"),
        (
            Record::Commit(Committed { node: NodeId(3), uid: 1000, note: "n".into(), staged: vec![Tid(300)] }),
            "048202050603e807016e01ac02",
        ),
        (Record::Gone, "0482020507"),
        (
            Record::Boundary(Boundary { source: Tid(300), local: Tid(7), to: Tid(301), single: true }),
            "0482020508ac0207ad0201",
        ),
    ];
    assert_eq!(VERSION_FORMAT, 4);
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
        "0882022a000708060004000d00000001000000000000012c0101010d00000001000000000000012c0102020d000000010000",
        "00000000012c050e00000001000000000000012c0500030d00000001000000000000012c040d00000001000000000000012c",
        "050306000d00000001000000000000012c010001ed03e8076400ac0201070502ac020002070407800107010d000000010000",
        "00000000012c050201ac020102090001feffffffffffffffff01ffffffff0f000301ac0201020401ac020501ac0202000268",
        "69e807016e46000708060100070806020101ac020007080603020c00000001000000000000012c0c00000001000000000000",
        "012d00000c00000001000000000000012c0c00000001000000000000012d01010007080604010c0000000100000000000001",
        "2c0c00000001000000000000012d010007080605010c00000001000000000000012c0c00000001000000000000012d000007",
        "08060601ac0200ac0201ac02010901000708060701ac0200ac0200ffffffffffffffff7f000708060807000708060c0101ac",
        "02010102000708060d01000708060e01ac02000708060f01ac0200070806100101ac02c8010007080611010180c8afa02500",
        "0007080612016eed03ac020200070806130101ac02016e000708061401016e0007080615010100070806160101016e000708",
        "0617ac020101ab02ac0201010d00000001000000000000012c05ac020007080618ac0201010d00000001000000000000012c",
        "0105010401ac02e807016eac020007080619ac02000708061a016e0505050505050505050505050505050501ac0201042f61",
        "2f6201032a2e6f000708061b0107ac0200010001ac0203020d00000001000000000000012c05010401740d00000001000000",
        "000000012c0100e807016e46000708061c01000708061d01016e070707070707070707070707070707070707070707070707",
        "070707070707070701ac0201042f612f6201032a2e6f000708061e01016e000708061f01016eac02ad020007080620010101",
        "0203683a310370656d016e080808080808080808080808080808080808080808080808080808080808080801000708062101",
        "016e01460007080622010505050505050505050505050505050501ac02ac02ad0201016eae020102b42488270002070401ac",
        "0205ac02090909090909090909090909090909090909090909090909090909090909090906010701800408010901abababab",
        "abababababababababababababababababababababababababababab0a01cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
        "cdcdcdcdcdcdcdcdcdcdcdcd0b",
    );
    assert_eq!(ENTRY_FORMAT, 8);
    let encoded = entry().encode();
    assert_eq!(hex(&encoded), golden);
    assert_eq!(Entry::decode(&encoded).unwrap(), entry());
}

#[test]
fn messages_between_nodes() {
    let golden = [
        "080003010203",
        "08020107080601",
        "08030709",
        "080402ac02882700",
        "08050701",
        "08060701ac02",
        "080701",
        "080801ac02",
        "08090102",
        "080a0102ac02040506ac02",
        "080c01ac02",
        "080b0101040d00000001000000000000012c050001",
        "080d07010c00000001000000000000012c0c00000001000000000000012d01ac02",
        "080e01abababababababababababababababababababababababababababababababab",
        "080f07ac02",
        "081007ac02ad02",
    ];
    assert_eq!(MESSAGE_FORMAT, 8);
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
    assert!(matches!(Entry::decode(&newer), Err(DecodeError::UnknownFormat { found: 9, known: 8, .. })));
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
