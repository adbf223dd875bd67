//! A cluster of one, in memory: the replicated state and the live records, changed by the commit rule itself.

use gavel_client::tree::{Answer, NoState, TreeError, TreeRequest};
use gavel_client::{Run, Step};
use gavel_fs::operation::{Caller, Cx, Piece};
use gavel_fs::{Operation, Reply, Stop, run};
use gavel_txn::State;
use gavel_types::{
    At, BlobId, Key, KeyRange, LogIndex, NodeId, ObjectId, Seq, SessionId, Tid, VolumeId, limits::INLINE_BYTES_MAX,
};
use gavel_wire::{
    Attr, Author, Content, Ended, Entry, Item, Live, Outcome, Record, Request, RequestBody, Version, View, ViewError,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

/// The volume that is mounted.
pub const VOLUME: VolumeId = VolumeId::FIRST;
/// Changes that `changed_after` can look back on.
const RECENT_MAX: usize = 64 * 1024;

/// What a key held from which transaction on; nothing from some.
type Lived = Vec<(Tid, Option<Version>)>;

/// The live records.
#[derive(Default)]
struct Records {
    tid: Tid,
    live: BTreeMap<Box<[u8]>, (Key, Version)>,
    recent: std::collections::VecDeque<(Tid, Key)>,
    /// What each key ever held, the oldest first.
    lived: BTreeMap<Box<[u8]>, (Key, Lived)>,
}

/// The records as they were.
struct AsOf<'a> {
    records: &'a Records,
    at: Tid,
}

impl AsOf<'_> {
    fn of(&self, lived: &[(Tid, Option<Version>)]) -> Option<Version> {
        lived.iter().rev().find(|(tid, _)| *tid <= self.at).and_then(|(_, version)| version.clone())
    }
}

impl View for AsOf<'_> {
    fn tid(&self) -> Tid {
        self.at
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.records.lived.get(key.as_bytes()).and_then(|(_, lived)| self.of(lived)))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let all = self.records.lived.range(range.start.clone()..range.end.clone());
        let there = all.filter_map(|(_, (key, lived))| Some((key.clone(), self.of(lived)?)));
        Ok(there.take(limit).collect())
    }
}

impl View for Records {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.live.get(key.as_bytes()).map(|(_, version)| version.clone()))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        Ok(self
            .live
            .range(range.start.clone()..range.end.clone())
            .take(limit)
            .map(|(_, found)| found.clone())
            .collect())
    }
}

impl Live for Records {
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError> {
        let inside = |key: &Key| *key.as_bytes() >= *range.start && *key.as_bytes() < *range.end;
        Ok(self.recent.iter().rev().take_while(|(tid, _)| *tid > after).any(|(_, key)| inside(key)))
    }
}

/// Nothing has a past here.
impl Ended for Records {
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

/// The whole cluster.
pub struct World {
    state: State,
    records: Records,
    blobs: BTreeMap<BlobId, Box<[u8]>>,
    session: SessionId,
    ids: std::ops::Range<u64>,
    open: BTreeMap<ObjectId, u64>,
    orphans: BTreeSet<ObjectId>,
    /// When the volume was made.
    made: Tid,
    snapshots: BTreeMap<Box<str>, Tid>,
}

impl World {
    pub fn new() -> World {
        let mut world = World {
            state: State::default(),
            records: Records::default(),
            blobs: BTreeMap::new(),
            session: SessionId(0),
            ids: 0..0,
            open: BTreeMap::new(),
            orphans: BTreeSet::new(),
            made: Tid(0),
            snapshots: BTreeMap::new(),
        };
        let applied =
            world.apply(Item::SessionOpen { node: NodeId(1), incarnation: 1, term_ms: 5_000, instead_of: None });
        world.session = applied.opened[0].0;
        world.apply(Item::CreateVolume { volume: VOLUME, mode: 0o755, uid: 0, gid: 0 });
        world.made = world.tid();
        world
    }

    /// Runs one operation; what it writes is committed when this returns.
    pub fn operate(&mut self, caller: Caller, operation: &Operation) -> Result<Reply, Stop> {
        let mut cx = Cx { volume: VOLUME, caller, fresh: None };
        let done = match run(&self.records, &cx, operation) {
            Err(Stop::NeedObjectId) => {
                cx.fresh = Some(self.object_id());
                run(&self.records, &cx, operation)?
            }
            other => other?,
        };
        if let Some(plan) = done.plan {
            match self.request(RequestBody::Commit {
                guards: done.guards,
                plan,
                author: Author::default(),
                stored_as_of: Tid::MAX,
            }) {
                Outcome::Committed { .. } => {}
                // Nobody else writes: a guard that fails, or a plan that breaks a rule, is a defect.
                other => panic!("{operation:?} on its own view: {other:?}"),
            }
        }
        Ok(done.reply)
    }

    /// The last transaction.
    pub fn tid(&self) -> Tid {
        self.state.tid
    }

    /// Gives a state a name, or takes the name away.
    pub fn name_state(&mut self, name: &str, state: Option<Tid>) {
        match state {
            Some(state) => drop(self.snapshots.insert(name.into(), state)),
            None => drop(self.snapshots.remove(name)),
        }
    }

    /// Which state is called so?
    pub fn resolve(&self, at: &At) -> Result<Tid, NoState> {
        let wall = now_ns();
        let wanted = match at {
            At::Tid(tid) | At::Time(tid) => *tid,
            At::Age(ns) => Tid(wall.saturating_sub(*ns)),
            At::Snapshot(name) => *self.snapshots.get(name).ok_or(NoState::Unnamed)?,
        };
        match wanted {
            wanted if wanted.0 > wall && wanted > self.tid() => Err(NoState::Future),
            wanted if wanted < self.made => Err(NoState::BeforeVolume),
            wanted => Ok(wanted.min(self.tid())),
        }
    }

    /// Answers a request that reads, as of a past state: as a node does.
    pub fn past(&self, caller: Caller, at: Tid, request: TreeRequest) -> Result<Answer, TreeError> {
        if at < self.made {
            return Err(NoState::BeforeVolume.into());
        }
        let mut run = Run::new(VOLUME, caller, request)?;
        let step = match run.step_past(&AsOf { records: &self.records, at }) {
            Step::Fetch(ids) => {
                let found = ids.iter().map(|id| (*id, self.blobs[id].to_vec().into())).collect();
                run.fetched(&found)
            }
            step => step,
        };
        match step {
            Step::Done(answered) => answered,
            other => panic!("a read of the past asks for blobs at most, not {other:?}"),
        }
    }

    pub fn attr(&self, object: ObjectId) -> Option<Attr> {
        match self.records.get(&Key::attr(VOLUME, object)).expect("memory").map(|version| version.record) {
            Some(Record::Attr(attr)) => Some(attr),
            _ => None,
        }
    }

    /// Bytes as an operation takes them.
    pub fn store(&mut self, data: Vec<u8>) -> Content {
        if data.len() <= INLINE_BYTES_MAX {
            return Content::Inline(data.into());
        }
        let (id, blob_len) = (BlobId::of(&data), data.len() as u32);
        self.blobs.insert(id, data.into());
        Content::Blob { id, blob_len, offset: 0 }
    }

    pub fn bytes(&self, pieces: &[Piece]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Bytes(run) => bytes.extend_from_slice(run),
                Piece::Zeros(len) => bytes.resize(bytes.len() + *len as usize, 0),
                Piece::Blob { id, offset, len, .. } => {
                    let from = *offset as usize;
                    bytes.extend_from_slice(&self.blobs[id][from..from + *len as usize]);
                }
            }
        }
        bytes
    }

    /// Live objects, and bytes of their extents.
    pub fn counts(&self) -> (u64, u64) {
        self.state.volumes.get(&VOLUME).map_or((0, 0), |counts| (counts.objects, counts.bytes))
    }

    pub fn opened(&mut self, object: ObjectId) {
        *self.open.entry(object).or_default() += 1;
    }

    pub fn closed(&mut self, object: ObjectId) {
        let count = self.open.get_mut(&object).expect("closed more often than opened");
        *count -= 1;
        if *count == 0 {
            self.open.remove(&object);
            if self.orphans.remove(&object) {
                self.release(object);
            }
        }
    }

    /// How many objects are open.
    pub fn open_objects(&self) -> usize {
        self.open.len()
    }

    fn object_id(&mut self) -> ObjectId {
        if self.ids.is_empty() {
            let Outcome::Allocated { first, count } = self.request(RequestBody::AllocateObjects) else {
                panic!("no object ids");
            };
            self.ids = first.0..first.0 + count;
        }
        ObjectId(self.ids.next().expect("just filled"))
    }

    fn request(&mut self, body: RequestBody) -> Outcome {
        let seq = self.state.sessions[&self.session].next;
        let request = Request { session: self.session, seq, seen: Seq(seq.0), body };
        let applied = self.apply(Item::Request(request));
        for (_, object) in applied.orphaned {
            if self.open.contains_key(&object) {
                self.orphans.insert(object);
            } else {
                self.release(object);
            }
        }
        let outcome = applied.outcomes.into_iter().next().expect("a new request has an outcome").2;
        for (volume, object) in applied.to_reap {
            while !self.apply(Item::Reap { volume, object }).to_reap.is_empty() {}
        }
        outcome
    }

    fn release(&mut self, object: ObjectId) {
        self.request(RequestBody::Release { orphans: vec![(VOLUME, object)] });
    }

    fn apply(&mut self, item: Item) -> gavel_txn::Applied {
        let entry = Entry { tid: self.state.tid.advance(now_ns()), items: vec![item] };
        let index = LogIndex(self.state.applied.0 + 1);
        let applied = gavel_txn::apply(&mut self.state, &self.records, index, Some(&entry)).expect("memory");
        for change in &applied.changes {
            let bytes: Box<[u8]> = change.key.as_bytes().into();
            let lived = self.records.lived.entry(bytes.clone()).or_insert_with(|| (change.key.clone(), Vec::new()));
            lived.1.push((change.tid, change.new.clone()));
            match &change.new {
                Some(version) => drop(self.records.live.insert(bytes, (change.key.clone(), version.clone()))),
                None => drop(self.records.live.remove(&bytes)),
            }
            self.records.recent.push_back((change.tid, change.key.clone()));
        }
        let surplus = self.records.recent.len().saturating_sub(RECENT_MAX);
        self.records.recent.drain(..surplus);
        self.records.tid = self.state.tid;
        applied
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}
