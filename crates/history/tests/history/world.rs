//! One replica in memory, on which operations are run as a node runs them, and the simplest model that tells what they did.

use gavel_fs::operation::{Piece, RenameMode, SetAttr};
use gavel_fs::{Caller, Cx, Operation, Reply, Stop};
use gavel_store::engine::MemEngine;
use gavel_store::records::{Identity, Inheriting, Records, WholePast};
use gavel_txn::{Layer, Layered, State, apply};
use gavel_types::{ClusterId, Key, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, VolumeId};
use gavel_wire::{
    Attr, Author, Content, Dirent, Entry, Guard, Item, Kind, Mutation, Outcome, Past, Plan, Record, Request,
    RequestBody, View,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub const V: VolumeId = VolumeId(7);
pub const ROOT: ObjectId = ObjectId::ROOT;
const WHO: Identity = Identity { cluster: ClusterId([3; 16]), node: NodeId(5) };

type MemSnapshot = <MemEngine as gavel_store::engine::Engine>::Snapshot;
pub type MemPast = Inheriting<WholePast<MemSnapshot>, MemSnapshot>;

pub struct World {
    records: Records<Arc<MemEngine>>,
    state: State,
    session: SessionId,
    next_seq: u64,
    /// The next object that is made.
    pub fresh: ObjectId,
    pub uid: u32,
}

impl World {
    pub fn new() -> World {
        let records = Records::open(Arc::new(MemEngine::new()), WHO).unwrap().0;
        let mut world = World {
            records,
            state: State { tid: Tid(5_000_000_000), ..State::default() },
            session: SessionId(0),
            next_seq: 1,
            fresh: ObjectId(100),
            uid: 0,
        };
        world.item(Item::SessionOpen { node: NodeId(5), incarnation: 1, term_ms: 5_000, instead_of: None });
        world.session = SessionId(world.tid().0);
        world.item(Item::CreateVolume { volume: V, mode: 0o755, uid: 0, gid: 0 });
        world.request(RequestBody::AllocateObjects);
        world
    }

    fn request(&mut self, body: RequestBody) -> Vec<Outcome> {
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        self.item(Item::Request(Request { session: self.session, seq, seen: seq, body }))
    }

    pub fn tid(&self) -> Tid {
        self.state.tid
    }

    pub fn past(&self) -> MemPast {
        self.records.past(self.tid())
    }

    fn item(&mut self, item: Item) -> Vec<Outcome> {
        let entry = Entry { tid: Tid(self.state.tid.0 + 1000), items: vec![item] };
        let index = LogIndex(self.state.applied.0 + 1);
        let live = self.records.live(self.state.tid);
        let applied = apply(&mut self.state, &live, index, Some(&entry)).unwrap();
        self.records.apply(&applied.changes, &applied.removals).unwrap();
        applied.outcomes.into_iter().map(|(_, _, outcome)| outcome).collect()
    }

    fn commit(&mut self, guards: Vec<Guard>, mutations: Vec<Mutation>) {
        let author = Author { uid: self.uid, note: "".into() };
        let body = RequestBody::Commit { guards, plan: Plan { mutations }, author, stored_as_of: Tid::MAX };
        let outcomes = self.request(body);
        assert!(matches!(&outcomes[..], [Outcome::Committed { .. }]), "{outcomes:?}");
    }

    /// Runs operations one after the other, and commits all that they do as one transaction, as write-behind does. Gives the replies of those
    /// that could be done; the transaction's Tid is [`World::tid`] then, if any of them changed something.
    pub fn batch(&mut self, operations: &[Operation]) -> Vec<Option<Reply>> {
        let (replies, _, mutations) = self.operate(operations);
        if !mutations.is_empty() {
            self.commit(Vec::new(), mutations);
        }
        replies
    }

    /// The same, but what can be is staged before. Gives the states between the stages.
    pub fn batch_in_parts(&mut self, operations: &[Operation]) -> Vec<Tid> {
        let (_, layer, mutations) = self.operate(operations);
        let base = self.records.live(self.tid());
        let parts = Parts::of(&base, &layer, mutations);
        if parts.stages.is_empty() {
            if !parts.last.is_empty() {
                self.commit(Vec::new(), parts.last);
            }
            return Vec::new();
        }
        let mut between = Vec::new();
        for (number, mutations) in parts.stages.into_iter().enumerate() {
            let runs = if number == 0 { parts.made.iter().map(|object| (*object, *object)).collect() } else { vec![] };
            let plan = Plan { mutations };
            let body = RequestBody::Stage { group: 1, volume: V, runs, plan, stored_as_of: Tid::MAX };
            let outcomes = self.request(body);
            assert!(matches!(&outcomes[..], [Outcome::Committed { .. }]), "{outcomes:?}");
            between.push(self.tid());
        }
        let author = Author { uid: self.uid, note: "".into() };
        let plan = Plan { mutations: parts.last };
        let body = RequestBody::Adopt { group: 1, guards: Vec::new(), plan, author, stored_as_of: Tid::MAX };
        let outcomes = self.request(body);
        assert!(matches!(&outcomes[..], [Outcome::Committed { .. }]), "{outcomes:?}");
        between
    }

    fn operate(&mut self, operations: &[Operation]) -> (Vec<Option<Reply>>, Layer, Vec<Mutation>) {
        let (mut layer, mut mutations, mut replies) = (Layer::default(), Vec::new(), Vec::new());
        for (number, operation) in operations.iter().enumerate() {
            let view = Layered::new(self.records.live(self.tid()), layer.clone());
            let cx = Cx { volume: V, caller: Caller { uid: self.uid, gid: 0 }, fresh: Some(self.fresh) };
            let done = match gavel_fs::run(&view, &cx, operation) {
                Ok(done) => done,
                Err(Stop::Error(_)) => {
                    replies.push(None);
                    continue;
                }
                Err(other) => panic!("{operation:?}: {other}"),
            };
            replies.push(Some(done.reply));
            let Some(mut plan) = done.plan else { continue };
            plan.settle_times(Tid(self.tid().0 + 1 + number as u64));
            let mut expansion = gavel_txn::expand::Expansion::new(&view, Tid(self.tid().0 + 1));
            plan.mutations.iter().for_each(|mutation| expansion.mutate(mutation, &[self.session]).unwrap());
            layer.lay(number as u64, expansion.finish().unwrap().0);
            mutations.extend(plan.mutations);
            if Layered::new(self.records.live(self.tid()), layer.clone())
                .get(&Key::attr(V, self.fresh))
                .unwrap()
                .is_some()
            {
                self.fresh.0 += 1;
            }
        }
        (replies, layer, mutations)
    }

    /// One operation, which must be possible. Gives its transaction.
    pub fn run(&mut self, operation: Operation) -> Tid {
        assert!(self.batch(std::slice::from_ref(&operation))[0].is_some(), "{operation:?}");
        self.tid()
    }

    pub fn made(&mut self, operation: Operation) -> ObjectId {
        match self.batch(std::slice::from_ref(&operation)).pop() {
            Some(Some(Reply::Object(object) | Reply::Created { object, .. })) => object,
            other => panic!("{operation:?}: {other:?}"),
        }
    }
}

/// What some operations come to, if what they made is staged: as a node does it, said once more.
struct Parts {
    made: BTreeSet<ObjectId>,
    stages: Vec<Vec<Mutation>>,
    last: Vec<Mutation>,
}

impl Parts {
    fn of(base: &dyn View, layer: &Layer, mutations: Vec<Mutation>) -> Parts {
        let whole = KeyRange::objects(V, ROOT, ObjectId(u64::MAX - 1));
        let rows = || layer.laid(&whole).filter_map(|(key, version)| Some((key, &version?.record)));
        let made: BTreeMap<ObjectId, Attr> = rows()
            .filter_map(|(key, record)| match record {
                Record::Attr(attr) if base.get(key).unwrap().is_none() => Some((key.object(), *attr)),
                _ => None,
            })
            .collect();
        let named = |object: &ObjectId| made.get(object).is_some_and(|attr| attr.nlink > 0);
        let directory = |object: ObjectId| made[&object].firm.kind == Kind::Directory;
        let put = |(key, record): (&Key, &Record)| Mutation::Put { key: key.clone(), record: record.clone() };
        let (mut directories, mut files): (Vec<Mutation>, BTreeMap<ObjectId, Vec<Mutation>>) = Default::default();
        let (mut last, mut touched) = (Vec::new(), BTreeSet::new());
        for mutation in mutations {
            let object = match &mutation {
                Mutation::Put { key, .. } | Mutation::Delete { key } => key.object(),
                Mutation::Adjust { object, .. } | Mutation::Carve { object, .. } => *object,
                Mutation::Orphan { object, .. } | Mutation::Append { object, .. } => *object,
            };
            if !made.contains_key(&object) {
                last.push(mutation);
            }
        }
        for row in rows() {
            let about = row.0.object();
            let about = match row.1 {
                Record::Dirent(dirent) if named(&dirent.object) && named(&about) => dirent.object,
                Record::Dirent(dirent) if named(&about) => {
                    touched.insert(about);
                    assert!(!made.contains_key(&dirent.object));
                    last.push(put(row));
                    continue;
                }
                Record::Dirent(dirent) => {
                    touched.extend(Some(dirent.object).filter(named));
                    continue;
                }
                _ => about,
            };
            match () {
                () if !named(&about) => {}
                () if directory(about) => directories.push(put(row)),
                () => files.entry(about).or_default().push(put(row)),
            }
        }
        let touch = |object| Mutation::Adjust { volume: V, object, delta: Default::default() };
        last.extend(touched.into_iter().map(touch));
        let mut stages: Vec<Vec<Mutation>> = [directories].into_iter().chain(files.into_values()).collect();
        stages.retain(|stage| !stage.is_empty());
        for stage in &mut stages {
            stage.sort_by_key(|mutation| !matches!(mutation, Mutation::Put { record: Record::Attr(_), .. }));
        }
        Parts { made: made.into_keys().collect(), stages, last }
    }
}

/// What a file looks like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    pub object: ObjectId,
    pub attr: Attr,
    pub bytes: Vec<u8>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Look {
    /// All that a difference is told of.
    pub fn told(&self) -> Told<'_> {
        let attr = &self.attr;
        let mtime = (attr.firm.kind != Kind::Directory).then_some(attr.mtime);
        let firm = (attr.firm.kind, attr.firm.mode, attr.firm.uid);
        Told { firm, mtime, bytes: &self.bytes, xattrs: &self.xattrs }
    }
}

#[derive(PartialEq, Eq, Debug)]
pub struct Told<'l> {
    firm: (Kind, u16, u32),
    mtime: Option<gavel_types::Timestamp>,
    bytes: &'l [u8],
    xattrs: &'l [(Vec<u8>, Vec<u8>)],
}

pub type Tree = BTreeMap<Vec<u8>, Look>;

/// All that is below a directory as of a state, by path.
pub fn tree(past: &MemPast, top: ObjectId, tid: Tid) -> Tree {
    let view = past.at(tid);
    let mut all = Tree::new();
    let mut left = vec![(Vec::new(), top)];
    while let Some((path, object)) = left.pop() {
        let look = look(&*view, object);
        if look.attr.firm.kind == Kind::Directory {
            for (key, version) in view.scan(&gavel_types::KeyRange::dirents(V, object), usize::MAX).unwrap() {
                let (gavel_types::KeyParts::Dirent { name, .. }, Record::Dirent(Dirent { object, .. })) =
                    (key.parts(), version.record)
                else {
                    panic!("{key:?}")
                };
                left.push((gavel_history::text::joined(&path, name), object));
            }
        }
        all.insert(path, look);
    }
    all
}

fn look(view: &dyn View, object: ObjectId) -> Look {
    let Some(Record::Attr(attr)) = view.get(&Key::attr(V, object)).unwrap().map(|version| version.record) else {
        panic!("{object} has no attributes")
    };
    let cx = Cx { volume: V, caller: Caller::default(), fresh: None };
    let mut bytes = Vec::new();
    match attr.firm.kind {
        Kind::File => {
            let Reply::Data(pieces) =
                gavel_fs::run(view, &cx, &Operation::Read { object, offset: 0, len: u32::MAX }).unwrap().reply
            else {
                panic!("no bytes of {object}")
            };
            for piece in pieces {
                match piece {
                    Piece::Bytes(piece) => bytes.extend_from_slice(&piece),
                    Piece::Zeros(len) => bytes.resize(bytes.len() + len as usize, 0),
                    Piece::Blob { .. } => panic!("there are no blobs here"),
                }
            }
        }
        Kind::Symlink => {
            if let Some(Record::Target(target)) = view.get(&Key::target(V, object)).unwrap().map(|found| found.record) {
                bytes.extend_from_slice(&target);
            }
        }
        _ => {}
    }
    let xattrs = view.scan(&gavel_types::KeyRange::xattrs(V, object), usize::MAX).unwrap();
    let xattrs = xattrs.into_iter().map(|(key, version)| match (key.parts(), version.record) {
        (gavel_types::KeyParts::Xattr { name }, Record::Xattr(value)) => (name.to_vec(), value.to_vec()),
        other => panic!("{other:?}"),
    });
    Look { object, attr, bytes, xattrs: xattrs.collect() }
}

pub fn create(parent: ObjectId, name: &str) -> Operation {
    Operation::Mknod { parent, name: name.as_bytes().into(), kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 }
}

pub fn mkdir(parent: ObjectId, name: &str) -> Operation {
    Operation::Mkdir { parent, name: name.as_bytes().into(), mode: 0o755, umask: 0 }
}

pub fn symlink(parent: ObjectId, name: &str, target: &str) -> Operation {
    Operation::Symlink { parent, name: name.as_bytes().into(), target: target.as_bytes().into() }
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

pub fn rename(parent: ObjectId, name: &str, new_parent: ObjectId, new_name: &str) -> Operation {
    rename_as(RenameMode::Replace, parent, name, new_parent, new_name)
}

pub fn rename_as(mode: RenameMode, parent: ObjectId, name: &str, new_parent: ObjectId, new_name: &str) -> Operation {
    Operation::Rename { parent, name: name.as_bytes().into(), new_parent, new_name: new_name.as_bytes().into(), mode }
}

pub fn write(object: ObjectId, offset: u64, bytes: &[u8]) -> Operation {
    let content = Content::Inline(bytes.into());
    Operation::Write { object, offset, append: false, len: bytes.len() as u32, content, kill_suidgid: false }
}

pub fn chmod(object: ObjectId, mode: u16) -> Operation {
    Operation::Setattr { object, set: SetAttr { mode: Some(mode), ..SetAttr::default() } }
}

pub fn truncate(object: ObjectId, size: u64) -> Operation {
    Operation::Setattr { object, set: SetAttr { size: Some(size), ..SetAttr::default() } }
}

pub fn setxattr(object: ObjectId, name: &str, value: &str) -> Operation {
    let (name, value) = (name.as_bytes().into(), value.as_bytes().into());
    Operation::Setxattr { object, name, value, mode: Default::default() }
}
