//! One replica in memory.

use gavel_fs::operation::{Piece, SetAttr};
use gavel_fs::{Caller, Cx, Done, FsError, Operation, Reply, Stop};
use gavel_txn::{State, apply};
use gavel_types::{BlobId, Key, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, Timestamp, VolumeId};
use gavel_wire::Author;
use gavel_wire::{
    Attr, Content, Entry, Guard, Item, Kind, Live, Outcome, Plan, Record, Request, RequestBody, Version, View,
    ViewError,
};
use std::collections::BTreeMap;
use std::ops::Bound;

pub const V: VolumeId = VolumeId(7);
pub const ROOT: ObjectId = ObjectId::ROOT;
/// An object that never was.
pub const NOWHERE: ObjectId = ObjectId(999_999);

/// Live records, and when each key was last changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Records {
    pub tid: Tid,
    pub live: BTreeMap<Key, Version>,
    changed: BTreeMap<Key, Tid>,
}

fn within<'a, T>(map: &'a BTreeMap<Key, T>, range: &KeyRange) -> impl Iterator<Item = (&'a Key, &'a T)> {
    let end = if range.is_empty() { &range.start } else { &range.end };
    map.range::<[u8], _>((Bound::Included(&*range.start), Bound::Excluded(&**end)))
}

impl View for Records {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.live.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        Ok(within(&self.live, range).take(limit).map(|(key, version)| (key.clone(), version.clone())).collect())
    }
}

impl Live for Records {
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError> {
        Ok(within(&self.changed, range).any(|(_, tid)| *tid > after))
    }
}

/// Nothing has a past here.
impl gavel_wire::Ended for Records {
    fn ended_from(&self, _: VolumeId, _: Option<(&Key, Tid)>, _: usize) -> Result<Vec<(Key, Tid, Version)>, ViewError> {
        Ok(Vec::new())
    }

    fn last_ended(&self, _: &Key) -> Result<Option<Version>, ViewError> {
        Ok(None)
    }

    fn ended_at(&self, _: &Key, _: Tid) -> Result<Option<Version>, ViewError> {
        Ok(None)
    }

    fn changed_beside(&self, _: VolumeId, _: Tid, _: &Key) -> Result<bool, ViewError> {
        Ok(false)
    }

    fn names(&self, _: BlobId) -> Result<bool, ViewError> {
        Ok(true)
    }

    fn own(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        self.get(key)
    }

    fn own_scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        self.scan(range, limit)
    }

    fn past(&self, _: Tid) -> Box<dyn View + '_> {
        Box::new(self)
    }
}

#[derive(Clone)]
pub struct World {
    pub records: Records,
    pub blobs: BTreeMap<BlobId, Vec<u8>>,
    pub caller: Caller,
    state: State,
    session: SessionId,
    next_seq: u64,
    pub fresh: ObjectId,
}

/// A commit that found its guards broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict;

impl World {
    pub fn new() -> World {
        let mut world = World {
            records: Records { tid: Tid(5_000_000_000), ..Records::default() },
            blobs: BTreeMap::new(),
            caller: Caller { uid: 0, gid: 0 },
            state: State::default(),
            session: SessionId(0),
            next_seq: 1,
            fresh: ObjectId(100),
        };
        world.item(Item::SessionOpen { node: NodeId(1), incarnation: 1, term_ms: 5_000, instead_of: None });
        world.session = SessionId(world.records.tid.0);
        world.item(Item::CreateVolume { volume: V, mode: 0o755, uid: 0, gid: 0 });
        world
    }

    /// The time that the next commit will have.
    pub fn next_time(&self) -> Timestamp {
        Timestamp::of_tid(Tid(self.records.tid.0 + 1000))
    }

    fn item(&mut self, item: Item) -> Vec<Outcome> {
        let tid = Tid(self.records.tid.0 + 1000);
        let entry = Entry { tid, items: vec![item] };
        let index = LogIndex(self.state.applied.0 + 1);
        let applied = apply(&mut self.state, &self.records, index, Some(&entry)).unwrap();
        self.records.tid = tid;
        for change in applied.changes {
            self.records.changed.insert(change.key.clone(), tid);
            match change.new {
                Some(version) => drop(self.records.live.insert(change.key, version)),
                None => drop(self.records.live.remove(&change.key)),
            }
        }
        applied.outcomes.into_iter().map(|(_, _, outcome)| outcome).collect()
    }

    /// Commits a plan if the guards hold. Every plan must be acceptable.
    pub fn commit(&mut self, guards: Vec<Guard>, plan: Plan) -> Result<(), Conflict> {
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        let body =
            RequestBody::Commit { guards, plan: plan.clone(), author: Author::default(), stored_as_of: Tid::MAX };
        let outcomes = self.item(Item::Request(Request { session: self.session, seq, seen: seq, body }));
        match &outcomes[..] {
            [Outcome::Committed { .. }] => Ok(()),
            [Outcome::Refused { refusal: gavel_wire::Refusal::Conflict { .. } }] => Err(Conflict),
            other => panic!("{other:?} for {plan:?}"),
        }
    }

    /// Do these guards hold now?
    pub fn hold(&self, guards: &[Guard]) -> bool {
        guards.iter().all(|guard| gavel_txn::apply::holds(&self.records, guard).unwrap())
    }

    pub fn cx(&self) -> Cx {
        Cx { volume: V, caller: self.caller, fresh: Some(self.fresh) }
    }

    /// Runs an operation without committing it.
    pub fn prepare(&self, operation: &Operation) -> Result<Done, FsError> {
        match gavel_fs::run(&self.records, &self.cx(), operation) {
            Ok(done) => Ok(done),
            Err(Stop::Error(error)) => Err(error),
            Err(other) => panic!("{operation:?}: {other}"),
        }
    }

    /// As [`World::prepare`], for a plan that is shipped.
    pub fn prepare_to_ship(&self, operation: &Operation) -> Result<Done, FsError> {
        let (done, guards) = gavel_fs::attempt_to_ship(&self.records, &self.cx(), operation);
        match done {
            Ok((plan, reply)) => Ok(Done { plan, guards, reply }),
            Err(Stop::Error(error)) => Err(error),
            Err(other) => panic!("{operation:?}: {other}"),
        }
    }

    /// Commits what was prepared.
    pub fn finish(&mut self, done: Done) -> Result<Reply, Conflict> {
        match done.plan {
            Some(plan) => self.commit(done.guards, plan)?,
            None if self.hold(&done.guards) => {}
            None => return Err(Conflict),
        }
        if self.records.live.contains_key(&Key::attr(V, self.fresh)) {
            self.fresh.0 += 1;
        }
        Ok(done.reply)
    }

    /// Runs and commits an operation, and checks all invariants.
    pub fn run(&mut self, operation: &Operation) -> Result<Reply, FsError> {
        let done = self.prepare(operation)?;
        let reply = self.finish(done).expect("nobody else changes anything");
        super::invariants::check(&self.records);
        Ok(reply)
    }

    pub fn made(&mut self, operation: &Operation) -> ObjectId {
        match self.run(operation) {
            Ok(Reply::Object(object) | Reply::Created { object, .. }) => object,
            other => panic!("{operation:?}: {other:?}"),
        }
    }

    pub fn attr(&self, object: ObjectId) -> Attr {
        match self.records.live.get(&Key::attr(V, object)).map(|version| &version.record) {
            Some(Record::Attr(attr)) => *attr,
            other => panic!("{object}: {other:?}"),
        }
    }

    /// Bytes of `len` that are kept as a blob, a part of a larger one.
    pub fn blob(&mut self, bytes: &[u8]) -> Content {
        let whole = [b"...", bytes, b"...."].concat();
        let id = BlobId::of(&whole);
        let blob_len = whole.len() as u32;
        self.blobs.insert(id, whole);
        Content::Blob { id, blob_len, offset: 3 }
    }

    /// The bytes that a read's answer stands for.
    pub fn bytes(&self, pieces: &[Piece]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Bytes(piece) => bytes.extend_from_slice(piece),
                Piece::Zeros(len) => bytes.resize(bytes.len() + *len as usize, 0),
                Piece::Blob { id, blob_len, offset, len } => {
                    let blob = &self.blobs[id];
                    assert_eq!(blob.len(), *blob_len as usize);
                    bytes.extend_from_slice(&blob[*offset as usize..][..*len as usize]);
                }
            }
        }
        bytes
    }

    pub fn read(&mut self, object: ObjectId) -> Vec<u8> {
        match self.run(&read(object, 0, u32::MAX)) {
            Ok(Reply::Data(pieces)) => self.bytes(&pieces),
            other => panic!("{other:?}"),
        }
    }
}

pub fn mknod(parent: ObjectId, name: &str, kind: Kind) -> Operation {
    Operation::Mknod { parent, name: name.as_bytes().into(), kind, mode: 0o644, umask: 0, rdev: 0 }
}

pub fn file(parent: ObjectId, name: &str) -> Operation {
    mknod(parent, name, Kind::File)
}

pub fn mkdir(parent: ObjectId, name: &str) -> Operation {
    Operation::Mkdir { parent, name: name.as_bytes().into(), mode: 0o755, umask: 0 }
}

pub fn symlink(parent: ObjectId, name: &str, target: &[u8]) -> Operation {
    Operation::Symlink { parent, name: name.as_bytes().into(), target: target.into() }
}

pub fn create(parent: ObjectId, name: &str, exclusive: bool, truncate: bool) -> Operation {
    Operation::Create { parent, name: name.as_bytes().into(), mode: 0o644, umask: 0, exclusive, truncate }
}

pub fn lookup(parent: ObjectId, name: &str) -> Operation {
    Operation::Lookup { parent, name: name.as_bytes().into() }
}

pub fn link(object: ObjectId, parent: ObjectId, name: &str) -> Operation {
    Operation::Link { object, parent, name: name.as_bytes().into() }
}

pub fn unlink(parent: ObjectId, name: &str) -> Operation {
    Operation::Unlink { parent, name: name.as_bytes().into() }
}

pub fn rmdir(parent: ObjectId, name: &str) -> Operation {
    Operation::Rmdir { parent, name: name.as_bytes().into() }
}

pub fn rename_as(
    mode: gavel_fs::operation::RenameMode,
    parent: ObjectId,
    name: &str,
    new_parent: ObjectId,
    new_name: &str,
) -> Operation {
    Operation::Rename { parent, name: name.as_bytes().into(), new_parent, new_name: new_name.as_bytes().into(), mode }
}

pub fn rename(parent: ObjectId, name: &str, new_parent: ObjectId, new_name: &str) -> Operation {
    rename_as(Default::default(), parent, name, new_parent, new_name)
}

pub fn write(object: ObjectId, offset: u64, bytes: &[u8]) -> Operation {
    let content = Content::Inline(bytes.into());
    Operation::Write { object, offset, append: false, len: bytes.len() as u32, content, kill_suidgid: false }
}

pub fn append(object: ObjectId, bytes: &[u8]) -> Operation {
    let content = Content::Inline(bytes.into());
    Operation::Write { object, offset: 0, append: true, len: bytes.len() as u32, content, kill_suidgid: false }
}

pub fn read(object: ObjectId, offset: u64, len: u32) -> Operation {
    Operation::Read { object, offset, len }
}

pub fn setattr(object: ObjectId, set: SetAttr) -> Operation {
    Operation::Setattr { object, set }
}

pub fn chmod(object: ObjectId, mode: u16) -> Operation {
    setattr(object, SetAttr { mode: Some(mode), ..SetAttr::default() })
}

pub fn truncate(object: ObjectId, size: u64) -> Operation {
    setattr(object, SetAttr { size: Some(size), ..SetAttr::default() })
}

pub fn setxattr(object: ObjectId, name: &[u8], value: &[u8]) -> Operation {
    Operation::Setxattr { object, name: name.into(), value: value.into(), mode: Default::default() }
}

pub fn getxattr(object: ObjectId, name: &[u8]) -> Operation {
    Operation::Getxattr { object, name: name.into() }
}

pub fn removexattr(object: ObjectId, name: &[u8]) -> Operation {
    Operation::Removexattr { object, name: name.into() }
}
