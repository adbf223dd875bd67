//! A source and a mirror, each a replica in memory with the real commit rule.

use gavel_fs::operation::{RenameMode, SetAttr};
use gavel_fs::{Caller, Cx, Operation, Stop};
use gavel_mirror::parts::PART_ROWS_MAX;
use gavel_mirror::source::Readable;
use gavel_mirror::{
    Act, Broken, Compared, Decoder, Encoder, Ends, Frame, Header, NotTaken, Partial, Parts, Piece, Position, Read,
    Receiver, Row, Rows, Standing, StepHead, StreamError, Totals,
};
use gavel_store::engine::MemEngine;
use gavel_store::records::{Identity, Inheriting, Records, WholePast};
use gavel_txn::{Layer, Layered, State, apply};
use gavel_types::{
    BlobId, ClusterId, Key, KeyParts, KeyRange, LogIndex, MirrorSource, NodeId, ObjectId, Retention, Selection, Seq,
    SessionId, Tid, VolumeId,
};
use gavel_wire::past::Past;
use gavel_wire::{
    Author, Boundary, Content, Entry, Item, Kind, MirrorStep, Outcome, Plan, Record, Refusal, Request, RequestBody,
    View,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The source's volume.
pub const V: VolumeId = VolumeId(7);
pub const CLUSTER: ClusterId = ClusterId([3; 16]);
const SECOND: u64 = 1_000_000_000;

type MemSnapshot = <MemEngine as gavel_store::engine::Engine>::Snapshot;
pub type MemPast = Inheriting<WholePast<MemSnapshot>, MemSnapshot>;

/// A replica with one session.
pub struct World {
    records: Records<Arc<MemEngine>>,
    pub state: State,
    session: SessionId,
    next_seq: u64,
    pub fresh: ObjectId,
    pub uid: u32,
    orphaned: Vec<(VolumeId, ObjectId)>,
    to_reap: Vec<(VolumeId, ObjectId)>,
    /// The volume that operations work on.
    pub volume: VolumeId,
}

impl World {
    pub fn new(cluster: ClusterId) -> World {
        let records = Records::open(Arc::new(MemEngine::new()), Identity { cluster, node: NodeId(5) }).unwrap().0;
        let state = State { tid: Tid(5_000 * SECOND), ..State::default() };
        let (session, fresh) = (SessionId(0), ObjectId(100));
        let (orphaned, to_reap) = Default::default();
        let mut world = World { records, state, session, next_seq: 1, fresh, uid: 0, orphaned, to_reap, volume: V };
        world.item(Item::SessionOpen { node: NodeId(5), incarnation: 1, term_ms: 5_000, instead_of: None });
        world.session = SessionId(world.tid().0);
        world.item(Item::CreateVolume { volume: V, mode: 0o755, uid: 0, gid: 0 });
        world
    }

    pub fn tid(&self) -> Tid {
        self.state.tid
    }

    pub fn past(&self) -> MemPast {
        self.records.past(self.tid())
    }

    pub fn item(&mut self, item: Item) -> Vec<Outcome> {
        let entry = Entry { tid: Tid(self.state.tid.0 + 1000), items: vec![item] };
        let index = LogIndex(self.state.applied.0 + 1);
        let live = self.records.live(self.state.tid);
        let applied = apply(&mut self.state, &live, index, Some(&entry)).unwrap();
        self.records.apply(&applied.changes, &applied.removals).unwrap();
        self.records.set_origins(self.state.past.origins());
        self.orphaned.extend(applied.orphaned);
        self.to_reap.extend(applied.to_reap);
        self.state.check_invariants();
        applied.outcomes.into_iter().map(|(_, _, outcome)| outcome).collect()
    }

    pub fn ask(&mut self, body: RequestBody) -> Outcome {
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        self.item(Item::Request(Request { session: self.session, seq, seen: seq, body })).pop().unwrap()
    }

    pub fn done(&mut self, body: RequestBody) {
        let said = format!("{body:?}");
        let outcome = self.ask(body);
        assert!(matches!(outcome, Outcome::Committed { .. }), "{said}: {outcome:?}");
    }

    /// Runs operations one after the other, and commits what they do as one transaction.
    pub fn batch(&mut self, operations: &[Operation]) {
        let (mut layer, mut mutations) = (Layer::default(), Vec::new());
        for (number, operation) in operations.iter().enumerate() {
            let view = Layered::new(self.records.live(self.tid()), layer.clone());
            let cx = Cx { volume: self.volume, caller: Caller { uid: 0, gid: 0 }, fresh: Some(self.fresh) };
            let done = match gavel_fs::run(&view, &cx, operation) {
                Ok(done) => done,
                Err(Stop::Error(_)) => continue,
                Err(other) => panic!("{operation:?}: {other}"),
            };
            let Some(mut plan) = done.plan else { continue };
            plan.settle_times(Tid(self.tid().0 + 1 + number as u64));
            let mut expansion = gavel_txn::expand::Expansion::new(&view, Tid(self.tid().0 + 1));
            plan.mutations.iter().for_each(|mutation| expansion.mutate(mutation, &[self.session]).unwrap());
            layer.lay(number as u64, expansion.finish().unwrap().0);
            mutations.extend(plan.mutations);
            let laid = Layered::new(self.records.live(self.tid()), layer.clone());
            if laid.get(&Key::attr(self.volume, self.fresh)).unwrap().is_some() {
                self.fresh.0 += 1;
            }
        }
        if !mutations.is_empty() {
            let author = Author { uid: self.uid, note: "a note".into() };
            let (guards, plan) = (Vec::new(), Plan { mutations });
            self.done(RequestBody::Commit { guards, plan, author, stored_as_of: Tid::MAX });
        }
    }

    /// Nobody has removed files open any more: their records end.
    pub fn reap(&mut self) {
        let orphans = std::mem::take(&mut self.orphaned);
        if !orphans.is_empty() {
            self.done(RequestBody::Release { orphans });
        }
    }

    /// What nobody can reach any more goes.
    pub fn reap_rest(&mut self) {
        while let Some((volume, object)) = self.to_reap.pop() {
            self.item(Item::Reap { volume, object });
        }
    }

    /// All goes that is older than ten seconds, but for what is named.
    pub fn prune(&mut self, volume: VolumeId) {
        self.state.tid.0 += 60 * SECOND;
        self.done(RequestBody::SetRetention { volume, policy: Retention::nothing() });
        self.done(RequestBody::Prune { volume });
        while self.state.past.of(volume).unwrap().pass.is_some() {
            self.item(Item::Sweep { volume, rows: 100 });
        }
    }

    pub fn readable(&self, volume: VolumeId) -> Readable {
        let past = self.state.past.of(volume).unwrap();
        Readable { horizon: past.horizon, kept: past.kept.clone() }
    }

    pub fn source(&self) -> MirrorSource {
        self.source_of(V)
    }

    pub fn source_of(&self, volume: VolumeId) -> MirrorSource {
        MirrorSource { cluster: CLUSTER, volume, made: self.state.past.of(volume).unwrap().made }
    }

    /// Objects of a volume that name a blob, as of a state.
    pub fn naming(&self, blob: BlobId, volume: VolumeId, tid: Tid) -> Vec<ObjectId> {
        self.records.objects_naming_at(blob, volume, tid, 64).unwrap()
    }

    /// All records of what has a name, as of a state, without their volume.
    pub fn shown(&self, volume: VolumeId, tid: Tid) -> BTreeMap<Key, Record> {
        let rows = self.past().at(tid).scan(&KeyRange::of_objects(volume), usize::MAX).unwrap();
        let named = rows.iter().filter_map(|(key, version)| match &version.record {
            Record::Attr(attr) if attr.nlink > 0 => Some(key.object()),
            _ => None,
        });
        let named: BTreeSet<ObjectId> = named.collect();
        let rows = rows.into_iter().filter(|(key, _)| named.contains(&key.object()));
        rows.map(|(key, version)| (key.in_volume(VolumeId(1)), version.record)).collect()
    }
}

/// What `gavel mirror send` does.
pub fn send(world: &World, from: Tid, to: Tid, page: usize) -> (Vec<u8>, Read) {
    send_of(world, V, from, to, page)
}

/// The same, of any volume, which may be a mirror.
pub fn send_of(world: &World, volume: VolumeId, from: Tid, to: Tid, page: usize) -> (Vec<u8>, Read) {
    let (mut out, mut encoder, mut read) = (Vec::new(), Encoder::new(), Read::default());
    let (past, readable) = (world.past(), world.readable(volume));
    let behind = match world.state.past.is_mirror(volume) {
        true => Position::behind_boundary,
        false => Position::behind,
    };
    let source = world.source_of(volume);
    let header =
        Header { source, name: "v".into(), from, partial: None, to: Some(to), selection: Selection::default() };
    out.extend(encoder.write(&Frame::Header(header)));
    let mut at = from;
    while at < to {
        match behind(&past, volume, &readable, (at, to), &mut read).unwrap() {
            Position::Step(step) => {
                let mut rows = Rows::new(volume, step);
                let mut totals = Totals::default();
                let mut begun = false;
                while let Some(rows) = rows.page(&past, page).unwrap() {
                    if !begun {
                        let author = step.single.then(|| Author { uid: 7, note: "n".into() });
                        let head = StepHead { from: at, to: step.to, single: step.single, author };
                        out.extend(encoder.write(&Frame::Step(head)));
                        begun = true;
                    }
                    totals.rows += rows.len() as u64;
                    out.extend(encoder.write(&Frame::Rows(rows)));
                }
                let end = if begun { Frame::StepEnd(totals) } else { Frame::Reached(step.to) };
                out.extend(encoder.write(&end));
                read.add(rows.read);
                at = step.to;
            }
            Position::Reached(tid) => at = tid,
            Position::Gone => panic!("{at} is not kept: {readable:?}"),
        }
    }
    out.extend(encoder.write(&Frame::End(to)));
    (out, read)
}

/// One step that compares, from a state that the source has no more; and how many objects it sends anew, and says are as they were.
pub fn compare(world: &World, from: Tid, to: Tid, page: usize) -> (Vec<u8>, (usize, u64)) {
    compared(world, (from, None), to, page)
}

/// The same, from what is there of a whole copy that was broken off.
pub fn go_on(world: &World, partial: Partial, to: Tid, page: usize) -> (Vec<u8>, (usize, u64)) {
    compared(world, (Tid::ZERO, Some(partial)), to, page)
}

fn compared(world: &World, (from, partial): (Tid, Option<Partial>), to: Tid, page: usize) -> (Vec<u8>, (usize, u64)) {
    let source = world.source_of(world.volume);
    let header = Header { source, name: "v".into(), from, partial, to: Some(to), selection: Selection::default() };
    let mut compared = match partial {
        Some(partial) => Compared::partial(world.volume, partial, to),
        None => Compared::new(world.volume, from, to),
    };
    one_that_compares(header, || compared.page(&world.past(), page).unwrap())
}

/// A stream of one step that compares; and how many objects it sends anew, and says are as they were.
pub fn one_that_compares(header: Header, mut next: impl FnMut() -> Option<Piece>) -> (Vec<u8>, (usize, u64)) {
    let (mut out, mut encoder, mut totals) = (Vec::new(), Encoder::new(), Totals::default());
    let (from, to) = (header.from, header.to.unwrap());
    out.extend(encoder.write(&Frame::Header(header)));
    out.extend(encoder.write(&Frame::Step(StepHead { from, to, single: false, author: None })));
    out.extend(encoder.write(&Frame::Same(Vec::new())));
    let (mut anew, mut same) = (0, 0);
    while let Some(piece) = next() {
        let frame = match piece {
            Piece::Same(runs) => {
                same += runs.iter().map(|(first, last)| last.0 - first.0 + 1).sum::<u64>();
                Frame::Same(runs)
            }
            Piece::Rows(rows) => {
                totals.rows += rows.len() as u64;
                anew += rows.iter().filter(|row| row.key.parts() == KeyParts::Attr).count();
                Frame::Rows(rows)
            }
        };
        out.extend(encoder.write(&frame));
    }
    out.extend(encoder.write(&Frame::StepEnd(totals)));
    out.extend(encoder.write(&Frame::End(to)));
    (out, (anew, same))
}

#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    Stream(StreamError),
    NotTaken(NotTaken),
    Refused(Refusal),
    /// The receiver was killed.
    Killed,
}

/// A mirror of `source`.
pub struct Mirror {
    pub world: World,
    pub volume: VolumeId,
    /// All boundaries: local Tid, source Tid.
    pub boundaries: Vec<(Tid, Tid)>,
    /// Most rows of a part.
    pub part_rows: usize,
}

impl Mirror {
    pub fn of(source: MirrorSource) -> Mirror {
        Mirror::of_part(source, Selection::default())
    }

    pub fn of_part(source: MirrorSource, selection: Selection) -> Mirror {
        let mut world = World::new(ClusterId([4; 16]));
        world.done(RequestBody::CreateMirror { name: "copy".into(), source, selection });
        let volume = world.state.past.named("copy").unwrap();
        Mirror { world, volume, boundaries: Vec::new(), part_rows: PART_ROWS_MAX }
    }

    pub fn at(&self) -> (Tid, Tid) {
        let mirror = self.world.state.past.of(self.volume).unwrap().mirror.clone().unwrap();
        (mirror.local, mirror.state)
    }

    pub fn standing(&self) -> Standing {
        let mirror = self.world.state.past.of(self.volume).unwrap().mirror.clone().unwrap();
        let step = mirror.step.map(|step| {
            let nothing = mirror.state == Tid::ZERO;
            let rows = nothing.then(|| self.world.past().live_back(&KeyRange::of_objects(self.volume)).next().unwrap());
            let last = rows.map(|row| row.unwrap().0.object()).filter(|last| *last > ObjectId::ROOT);
            Broken { at: step.at, since: step.since, last: last.filter(|_| mirror.selection.is_all()) }
        });
        let (volume, selection) = (self.volume, mirror.selection);
        Standing { volume, source: mirror.source, selection, at: mirror.state, step }
    }

    /// What of a whole copy is there, if that was broken off.
    pub fn partial(&self) -> Option<Partial> {
        self.standing().step.and_then(|step| step.partial())
    }

    fn ship(&mut self, step: MirrorStep) -> Result<(), Failed> {
        let last = step.last;
        match self.world.ask(RequestBody::MirrorStep(step)) {
            Outcome::Committed { .. } => {
                if last {
                    self.boundaries.push(self.at());
                }
                Ok(())
            }
            Outcome::Refused { refusal } => Err(Failed::Refused(refusal)),
            other => panic!("{other:?}"),
        }
    }

    pub fn go_back(&mut self) -> Result<(), Failed> {
        let (local, state) = self.at();
        let mut rows = Rows::back(self.volume, self.world.tid(), local);
        let mut parts = Parts::new(self.volume, StepHead { from: state, to: state, single: false, author: None });
        let past = self.world.past();
        while let Some(page) = rows.page(&past, 500).unwrap() {
            for row in page {
                if let Some(part) = parts.row(row) {
                    self.ship(part)?;
                }
            }
        }
        self.ship(parts.end())
    }

    fn rows(&mut self, receiver: &mut Receiver, rows: Vec<Row>) -> Result<(), Failed> {
        rows.into_iter()
            .filter_map(|row| receiver.row(row))
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|part| self.ship(part))
    }

    fn ends(&mut self, receiver: &mut Receiver, mut ends: Ends) -> Result<(), Failed> {
        while let Some(rows) = ends.page(&self.world.past(), 300).unwrap() {
            self.rows(receiver, rows)?;
        }
        Ok(())
    }

    /// What `gavel mirror receive` does with bytes in pieces. `dies` is asked before each part.
    pub fn receive(&mut self, bytes: &[u8], piece: usize, mut dies: impl FnMut() -> bool) -> Result<Receiver, Failed> {
        let mut decoder = Decoder::new();
        let mut receiver = Receiver::new(self.standing()).in_parts_of(self.part_rows);
        let mut ends_of = self.at().0;
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            while let Some(frame) = decoder.read().map_err(Failed::Stream)? {
                for act in receiver.take(frame).map_err(Failed::NotTaken)? {
                    if dies() {
                        return Err(Failed::Killed);
                    }
                    match act {
                        Act::Store(_) | Act::End(_) => {}
                        Act::GoBack => self.go_back()?,
                        Act::Resume => ends_of = self.world.tid(),
                        Act::Part(part) => self.ship(part)?,
                        Act::Rows(rows) => self.rows(&mut receiver, rows)?,
                        Act::EndObjects(from, before) => {
                            let ends = Ends::of_objects(self.volume, ends_of, from, before);
                            self.ends(&mut receiver, ends)?;
                        }
                        Act::EndParts(object) => {
                            let ends = Ends::of_parts(self.volume, ends_of, object);
                            self.ends(&mut receiver, ends)?;
                        }
                        Act::Close => self.ship(receiver.close().unwrap())?,
                    }
                }
            }
        }
        decoder.finish().map_err(Failed::Stream)?;
        Ok(receiver)
    }

    /// The mirror's boundary shows what the source shows, and so do all boundaries before it.
    #[track_caller]
    pub fn check(&self, source: &World) {
        for (local, state) in &self.boundaries {
            let (wanted, found) = (source.shown(V, *state), self.world.shown(self.volume, *local));
            assert_eq!(wanted, found, "as of {state} of the source, {local} of the mirror");
            let row = self.world.past().at(*local).get(&Key::boundary(self.volume)).unwrap().unwrap();
            let Record::Boundary(boundary) = row.record else { panic!("{row:?}") };
            assert_eq!(boundary, Boundary { source: *state, local: *local, to: *state, single: boundary.single });
        }
    }
}

pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A random operation on what there is.
pub fn operation(dice: &mut Dice, world: &World) -> Operation {
    let shown = world.shown(world.volume, world.tid());
    let of_kind = |kind| {
        let objects = shown.iter().filter_map(move |(key, record)| match record {
            Record::Attr(attr) if attr.firm.kind == kind => Some(key.object()),
            _ => None,
        });
        objects.collect::<Vec<_>>()
    };
    let (directories, files) = (of_kind(Kind::Directory), of_kind(Kind::File));
    let (parent, new_parent) = (*dice.pick(&directories), *dice.pick(&directories));
    let name: Box<[u8]> = dice.pick(&NAMES).as_bytes().into();
    let new_name: Box<[u8]> = dice.pick(&NAMES).as_bytes().into();
    let file = if files.is_empty() { None } else { Some(*dice.pick(&files)) };
    match (dice.below(20), file) {
        (0..4, _) | (_, None) => Operation::Mknod { parent, name, kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 },
        (4, _) => Operation::Mkdir { parent, name, mode: 0o755, umask: 0 },
        (5, _) => Operation::Symlink { parent, name, target: new_name },
        (6..8, _) => Operation::Unlink { parent, name },
        (8, _) => Operation::Rmdir { parent, name },
        (9..11, _) => Operation::Rename { parent, name, new_parent, new_name, mode: RenameMode::Replace },
        (11, _) => Operation::Rename { parent, name, new_parent, new_name, mode: RenameMode::Exchange },
        (12, Some(object)) => Operation::Link { object, parent, name },
        (13..17, Some(object)) => {
            let len = 1 + dice.below(40);
            let bytes = vec![dice.next() as u8; len];
            let content = match dice.below(3) {
                0 => Content::Blob { id: BlobId::of(&bytes), blob_len: len as u32, offset: 0 },
                _ => Content::Inline(bytes.into()),
            };
            let offset = dice.next() % 60;
            Operation::Write { object, offset, append: false, len: len as u32, content, kill_suidgid: false }
        }
        (17, Some(object)) => {
            Operation::Setattr { object, set: SetAttr { size: Some(dice.next() % 80), ..SetAttr::default() } }
        }
        (18, Some(object)) => {
            let name = [b"user.", &name[..]].concat().into();
            Operation::Setxattr { object, name, value: new_name, mode: Default::default() }
        }
        (_, Some(object)) => {
            let mode = Some(0o600 + dice.below(3) as u16);
            Operation::Setattr { object, set: SetAttr { mode, ..SetAttr::default() } }
        }
    }
}

/// Random transactions; the states behind them.
pub fn play(dice: &mut Dice, world: &mut World, steps: usize) -> Vec<Tid> {
    let mut states = Vec::new();
    for _ in 0..steps {
        let many = if dice.below(3) == 0 { 1 + dice.below(8) } else { 1 };
        world.uid = dice.below(3) as u32;
        let operations: Vec<Operation> = (0..many).map(|_| operation(dice, world)).collect();
        world.batch(&operations);
        if dice.below(4) == 0 {
            world.reap();
        }
        states.push(world.tid());
    }
    states
}
