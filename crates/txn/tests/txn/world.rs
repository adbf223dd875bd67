//! One replica in memory, with the log that made it.

use super::invariants;
use super::memory::Memory;
use gavel_txn::{Applied, State, apply};
use gavel_types::{BlobId, Class, Key, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, Timestamp, VolumeId};
use gavel_wire::Author;
use gavel_wire::{
    Attr, Content, Dirent, Entry, Extent, Firm, Guard, Item, Kind, Mutation, Outcome, Plan, Record, Refusal, Request,
    RequestBody, Version, View,
};

pub const V: VolumeId = VolumeId(1);
pub const ROOT: ObjectId = ObjectId::ROOT;
/// A file that every world has, without a name: names are the filesystem's affair.
pub const FILE: ObjectId = ObjectId(20);
pub const OTHER: ObjectId = ObjectId(21);
/// A day of the year 2024; the first Tid is a microsecond later.
pub const DAWN: Tid = Tid(1_720_000_000_000_000_000);

#[derive(Clone)]
pub struct World {
    pub state: State,
    pub memory: Memory,
    /// The first session that was opened.
    pub session: SessionId,
}

impl World {
    /// A replica that has applied nothing.
    pub fn empty() -> World {
        let state = State { tid: DAWN, ..State::default() };
        World { state, memory: Memory::default(), session: SessionId(0) }
    }

    /// A replica with a volume, a session, and two files of one link.
    pub fn new() -> World {
        let mut world = World::empty();
        world.session = world.open(1, 1);
        world.item(Item::CreateVolume { volume: V, mode: 0o755, uid: 0, gid: 0 });
        world.committed(vec![put_attr(FILE, file(1)), put_attr(OTHER, file(1))]);
        world
    }

    /// Applies one entry, its first Tid at the next microsecond.
    pub fn entry(&mut self, items: Vec<Item>) -> Applied {
        let tid = Tid(DAWN.0 + ((self.state.tid.0 - DAWN.0) / 1000 + 1) * 1000);
        self.apply(Some(&Entry { tid, items }))
    }

    /// Applies an entry and checks all invariants.
    pub fn apply(&mut self, entry: Option<&Entry>) -> Applied {
        let index = LogIndex(self.state.applied.0 + 1);
        let before = self.state.tid;
        let live = self.memory.at(before);
        let applied = apply(&mut self.state, &live, index, entry).unwrap();
        assert!(applied.changes.iter().all(|change| change.tid > before), "invariant 1");
        self.memory.remove(&applied.removals);
        self.memory.absorb(&applied.changes);
        self.memory.origins = self.state.past.origins().collect();
        invariants::check(&self.state, &self.memory);
        applied
    }

    pub fn item(&mut self, item: Item) -> Applied {
        self.entry(vec![item])
    }

    /// Opens a session.
    pub fn open(&mut self, node: u64, incarnation: u64) -> SessionId {
        let applied =
            self.item(Item::SessionOpen { node: NodeId(node), incarnation, term_ms: 5_000, instead_of: None });
        match applied.opened[..] {
            [(session, at, life)] if at == NodeId(node) && life == incarnation => session,
            _ => panic!("{applied:?}"),
        }
    }

    /// The next request of `session`.
    pub fn request(&self, session: SessionId, body: RequestBody) -> Item {
        let seq = self.state.sessions[&session].next;
        Item::Request(Request { session, seq, seen: seq, body })
    }

    pub fn commit(&mut self, guards: Vec<Guard>, mutations: Vec<Mutation>) -> (Outcome, Applied) {
        let request = self.request(self.session, commit(guards, mutations));
        let applied = self.item(request);
        assert_eq!(applied.outcomes.len(), 1, "{applied:?}");
        let outcome = applied.outcomes[0].2.clone();
        if matches!(outcome, Outcome::Refused { .. }) {
            assert_eq!(applied.changes, [], "invariant 3: refused, yet changed");
        }
        (outcome, applied)
    }

    /// Commits; tells what changed.
    pub fn committed(&mut self, mutations: Vec<Mutation>) -> Applied {
        let (outcome, applied) = self.commit(Vec::new(), mutations);
        assert_eq!(outcome, Outcome::Committed { tid: self.state.tid });
        applied
    }

    /// The plan must be refused as one that breaks a rule.
    #[track_caller]
    pub fn refuses(&mut self, mutations: Vec<Mutation>) {
        let (outcome, _) = self.commit(Vec::new(), mutations.clone());
        assert_eq!(outcome, Outcome::Refused { refusal: Refusal::BadPlan }, "{mutations:?}");
    }

    /// Does a commit with just this guard apply?
    pub fn guarded(&mut self, guard: Guard) -> bool {
        match self.commit(vec![guard], Vec::new()).0 {
            Outcome::Committed { .. } => true,
            Outcome::Refused { refusal: Refusal::Conflict { guard: 0 } } => false,
            other => panic!("{other:?}"),
        }
    }

    pub fn release(&mut self, session: SessionId, objects: &[ObjectId]) -> Applied {
        let orphans = objects.iter().map(|object| (V, *object)).collect();
        let request = self.request(session, RequestBody::Release { orphans });
        self.item(request)
    }

    pub fn version(&self, key: &Key) -> Option<Version> {
        self.memory.at(self.state.tid).get(key).unwrap()
    }

    pub fn attr(&self, object: ObjectId) -> Attr {
        match self.version(&Key::attr(V, object)).map(|version| version.record) {
            Some(Record::Attr(attr)) => attr,
            other => panic!("{object}: {other:?}"),
        }
    }

    /// Who holds the orphan; none if it is no orphan.
    pub fn holders(&self, object: ObjectId) -> Option<Vec<SessionId>> {
        match self.version(&Key::orphan(V, object)).map(|version| version.record) {
            Some(Record::Orphan(orphan)) => Some(orphan.holders),
            None => None,
            other => panic!("{object}: {other:?}"),
        }
    }

    /// The extents of a file, as `start..end text`.
    pub fn extents(&self, object: ObjectId) -> String {
        let range = gavel_types::KeyRange::extents_behind(V, object, 0);
        let rows = self.memory.at(self.state.tid).scan(&range, usize::MAX).unwrap();
        let rows = rows.iter().map(|(key, version)| match (key.parts(), &version.record) {
            (gavel_types::KeyParts::Extent { end }, Record::Extent(extent)) => {
                format!("{}..{end} {}", end - extent.len, text(&extent.content))
            }
            other => panic!("{other:?}"),
        });
        rows.collect::<Vec<_>>().join(", ")
    }
}

pub fn text(content: &Content) -> String {
    match content {
        Content::Inline(bytes) => bytes.escape_ascii().to_string(),
        Content::Blob { offset, .. } => format!("blob+{offset}"),
        Content::Zeros => "zeros".into(),
    }
}

pub fn commit(guards: Vec<Guard>, mutations: Vec<Mutation>) -> RequestBody {
    RequestBody::Commit { guards, plan: Plan { mutations }, author: Author::user(1000), stored_as_of: Tid::MAX }
}

/// Attributes of a file with so many links.
pub fn file(nlink: u32) -> Attr {
    let (uid, gid) = (1000, 1000);
    let birth = Timestamp::COMMIT;
    let firm = Firm {
        kind: Kind::File,
        mode: 0o644,
        uid,
        gid,
        rdev: 0,
        parent: ObjectId::VOLUME,
        birth,
        class: Class::VOLUME,
    };
    let now = Timestamp::COMMIT;
    Attr { firm, nlink, size: 0, allocated: 0, atime: now, mtime: now, ctime: now }
}

pub fn put(key: Key, record: Record) -> Mutation {
    Mutation::Put { key, record }
}

pub fn put_attr(object: ObjectId, attr: Attr) -> Mutation {
    put(Key::attr(V, object), Record::Attr(attr))
}

pub fn put_xattr(object: ObjectId, name: &str, value: &[u8]) -> Mutation {
    put(Key::xattr(V, object, name.as_bytes()), Record::Xattr(value.into()))
}

pub fn put_name(parent: ObjectId, name: &str, object: ObjectId) -> Mutation {
    put(Key::dirent(V, parent, name.as_bytes()), Record::Dirent(Dirent { object, kind: Kind::File }))
}

/// An extent that starts at `start`.
pub fn put_extent(object: ObjectId, start: u64, len: u64, content: Content) -> Mutation {
    put(Key::extent(V, object, start + len), Record::Extent(Extent { len, content }))
}

pub fn put_text(object: ObjectId, start: u64, text: &str) -> Mutation {
    put_extent(object, start, text.len() as u64, Content::Inline(text.as_bytes().into()))
}

pub fn blob(len: u32, offset: u32) -> Content {
    Content::Blob { id: BlobId::of(b"some bytes"), blob_len: len, offset }
}

pub fn append(object: ObjectId, text: &str) -> Mutation {
    let content = Content::Inline(text.as_bytes().into());
    Mutation::Append { volume: V, object, len: text.len() as u64, content }
}

pub fn carve(object: ObjectId, start: u64, end: u64) -> Mutation {
    Mutation::Carve { volume: V, object, start, end }
}

pub fn adjust(object: ObjectId, delta: gavel_wire::AttrDelta) -> Mutation {
    Mutation::Adjust { volume: V, object, delta }
}

pub fn orphan(object: ObjectId) -> Mutation {
    Mutation::Orphan { volume: V, object }
}

/// What unlinking the last name of a file amounts to, its name left aside.
pub fn unlink(object: ObjectId) -> Vec<Mutation> {
    vec![adjust(object, gavel_wire::AttrDelta { nlink: -1, ..Default::default() }), orphan(object)]
}

/// The number of the next request of a session.
pub fn next(world: &World, session: SessionId) -> Seq {
    world.state.sessions[&session].next
}

/// What becomes of a request of the first session.
pub fn ask(world: &mut World, body: RequestBody) -> Result<(), Refusal> {
    ask_as(world, world.session, body)
}

/// What becomes of a request of a session.
pub fn ask_as(world: &mut World, session: SessionId, body: RequestBody) -> Result<(), Refusal> {
    let item = world.request(session, body);
    match &world.item(item).outcomes[0].2 {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Refused { refusal } => Err(refusal.clone()),
        other => panic!("{other:?}"),
    }
}
