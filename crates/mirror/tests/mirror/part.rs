//! Copies of a part of a volume, against a model that walks the whole tree and matches by the simplest means.

use crate::world::*;
use gavel_fs::Operation;
use gavel_fs::operation::RenameMode;
use gavel_mirror::{
    Encoder, Frame, Header, NotTaken, Part, PartCompared, PartRows, Position, Read, Selector, StepHead, Totals,
};
use gavel_types::{BlobId, Key, KeyParts, ObjectId, Selection, Tid, VolumeId};
use gavel_wire::{Attr, Content, Kind, Record, RequestBody};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a state shows of a selection.
type Tree = BTreeMap<Key, Record>;

/// Does a pattern of `*`, `?` and plain bytes match all of a name?
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, _) => name.is_empty(),
        (Some((b'*', rest)), None) => matches(rest, name),
        (Some((b'*', rest)), Some((_, behind))) => matches(rest, name) || matches(pattern, behind),
        (Some((one, rest)), Some((first, behind))) => (*one == b'?' || one == first) && matches(rest, behind),
        (Some(_), None) => false,
    }
}

fn is_excluded(selection: &Selection, path: &[Vec<u8>], kind: Kind) -> bool {
    let is_match = |pattern: &str| {
        let inner = pattern.trim_end_matches('/');
        if inner != pattern && kind != Kind::Directory {
            return false;
        }
        match inner.strip_prefix('/') {
            None => matches(inner.as_bytes(), path.last().unwrap()),
            Some(inner) => {
                let names: Vec<&str> = inner.split('/').collect();
                names.len() == path.len() && names.iter().zip(path).all(|(one, name)| matches(one.as_bytes(), name))
            }
        }
    };
    selection.exclude().iter().any(|pattern| is_match(pattern))
}

/// Is it on the way only, or below?
fn is_inside(selection: &Selection, path: &[Vec<u8>]) -> bool {
    let at_or_below = |only: &str| {
        let names: Vec<&str> = only[1..].split('/').collect();
        path.len() >= names.len() && names.iter().zip(path).all(|(one, name)| one.as_bytes() == name)
    };
    selection.only().is_empty() || selection.only().iter().any(|only| at_or_below(only))
}

fn is_selected(selection: &Selection, path: &[Vec<u8>], kind: Kind) -> bool {
    let leads_on = |only: &str| {
        let names: Vec<&str> = only[1..].split('/').collect();
        path.len() < names.len() && names.iter().zip(path).all(|(one, name)| one.as_bytes() == name)
    };
    let is_on_the_way = kind == Kind::Directory && selection.only().iter().any(|only| leads_on(only));
    // The directories above were selected.
    !is_excluded(selection, path, kind) && (is_inside(selection, path) || is_on_the_way)
}

struct Model<'m> {
    selection: &'m Selection,
    all: &'m Tree,
    /// Names that are shown, how many each object has, which directories are on the way only.
    names: BTreeSet<Key>,
    links: BTreeMap<ObjectId, u32>,
    sizes: BTreeMap<ObjectId, (u64, u32)>,
    on_the_way: BTreeSet<ObjectId>,
}

impl Model<'_> {
    fn walk(&mut self, directory: ObjectId, path: &mut Vec<Vec<u8>>) {
        self.sizes.insert(directory, (0, 2));
        if !is_inside(self.selection, path) {
            self.on_the_way.insert(directory);
        }
        for (key, record) in self.all {
            let (KeyParts::Dirent { name, .. }, Record::Dirent(dirent)) = (key.parts(), record) else { continue };
            if key.object() != directory {
                continue;
            }
            path.push(name.to_vec());
            if is_selected(self.selection, path, dirent.kind) {
                self.names.insert(key.clone());
                *self.links.entry(dirent.object).or_default() += 1;
                let size = self.sizes.get_mut(&directory).unwrap();
                size.0 += 1;
                size.1 += u32::from(dirent.kind == Kind::Directory);
                if dirent.kind == Kind::Directory {
                    self.walk(dirent.object, path);
                }
            }
            path.pop();
        }
    }

    fn shows(&self, key: &Key) -> bool {
        let object = key.object();
        let is_there = object == ObjectId::ROOT || self.links.contains_key(&object);
        is_there
            && match key.parts() {
                KeyParts::Dirent { .. } => self.names.contains(key),
                KeyParts::Xattr { name } => !self.on_the_way.contains(&object) || name.starts_with(b"system."),
                _ => true,
            }
    }

    fn attr(&self, object: ObjectId, mut attr: Attr) -> Attr {
        match self.sizes.get(&object) {
            Some((size, nlink)) => (attr.size, attr.nlink) = (*size, *nlink),
            None => attr.nlink = self.links[&object],
        }
        attr
    }
}

fn model(world: &World, selection: &Selection, tid: Tid) -> Tree {
    if tid == Tid::ZERO {
        return Tree::new();
    }
    let all = world.shown(V, tid);
    let (names, links, sizes, on_the_way) = Default::default();
    let mut model = Model { selection, all: &all, names, links, sizes, on_the_way };
    model.walk(ObjectId::ROOT, &mut Vec::new());
    let shown = all.iter().filter(|(key, _)| model.shows(key));
    let shown = shown.map(|(key, record)| match record {
        Record::Attr(attr) => (key.clone(), Record::Attr(model.attr(key.object(), *attr))),
        record => (key.clone(), record.clone()),
    });
    shown.collect()
}

/// A sender of a part, and what it has left out because the copy has it.
struct Sender {
    selection: Selection,
    part: Option<Part>,
    ids_max: usize,
    page: usize,
    /// A blob, and the state in which the copy must have had it.
    relied_on: Vec<(Tid, BlobId)>,
    read: Read,
}

impl Sender {
    fn new(only: &[&str], exclude: &[&str]) -> Sender {
        let selection = Selection::new(only, exclude).unwrap();
        let selector = Arc::new(Selector::new(selection.clone()).unwrap());
        let part = Some(Part::new(V, selector));
        Sender { selection, part, ids_max: 1000, page: 300, relied_on: Vec::new(), read: Read::default() }
    }

    fn mirror(&self, source: &World) -> Mirror {
        Mirror::of_part(source.source(), self.selection.clone())
    }

    fn header(&self, source: &World, from: Tid, to: Tid) -> Header {
        let (source, name, selection) = (source.source(), "v".into(), self.selection.clone());
        Header { source, name, from, partial: None, to: Some(to), selection }
    }

    /// What `gavel mirror send --only ... --exclude ...` does.
    fn send(&mut self, source: &World, from: Tid, to: Tid) -> Vec<u8> {
        let (mut out, mut encoder) = (Vec::new(), Encoder::new());
        let (past, readable) = (source.past(), source.readable(V));
        out.extend(encoder.write(&Frame::Header(self.header(source, from, to))));
        let (mut at, mut told) = (from, from);
        while at < to {
            let step = match Position::behind(&past, V, &readable, (at, to), &mut self.read).unwrap() {
                Position::Step(step) => step,
                Position::Reached(tid) => {
                    at = tid;
                    continue;
                }
                Position::Gone => panic!("{at} is not kept: {readable:?}"),
            };
            let may_be_sent = [step.from, step.to].map(|tid| model(source, &self.selection, tid));
            let mut rows = PartRows::gathering(self.part.take().unwrap(), step, self.ids_max);
            let (mut totals, mut begun) = (Totals::default(), false);
            while let Some(page) = rows.page(&past, self.page).unwrap() {
                if !begun {
                    let head = StepHead { from: told, to: step.to, single: step.single, author: None };
                    out.extend(encoder.write(&Frame::Step(head)));
                    begun = true;
                }
                for row in &page {
                    let key = row.key.in_volume(VolumeId(1));
                    let is_shown = may_be_sent.iter().any(|tree| tree.contains_key(&key));
                    assert!(is_shown, "{row:?} is sent from {} to {}, and not selected in either", step.from, step.to);
                    if let Some(blob) = row.record.as_ref().and_then(Record::blob) {
                        let naming = source.naming(blob, V, step.from);
                        if naming.iter().any(|object| rows.had(&past, *object).unwrap()) {
                            self.relied_on.push((told, blob));
                        }
                    }
                }
                totals.rows += page.len() as u64;
                out.extend(encoder.write(&Frame::Rows(page)));
            }
            if begun {
                out.extend(encoder.write(&Frame::StepEnd(totals)));
                told = step.to;
            } else {
                assert_eq!(may_be_sent[0], may_be_sent[1], "no step from {} to {}", step.from, step.to);
            }
            self.read.add(rows.read);
            self.part = Some(rows.into_part());
            at = step.to;
        }
        out.extend(encoder.write(&Frame::End(to)));
        out
    }

    fn compare(&mut self, source: &World, from: Tid, to: Tid) -> (Vec<u8>, (usize, u64)) {
        let mut compared = PartCompared::new(self.part.take().unwrap(), from, to);
        let header = self.header(source, from, to);
        let stream = one_that_compares(header, || compared.page(&source.past(), self.page).unwrap());
        self.part = Some(compared.into_part());
        stream
    }

    /// All boundaries show what is selected of the source, and had the blobs that were not sent.
    #[track_caller]
    fn check(&mut self, source: &World, mirror: &Mirror, about: &str) {
        for (local, state) in &mirror.boundaries {
            let (wanted, found) = (model(source, &self.selection, *state), mirror.world.shown(mirror.volume, *local));
            assert_eq!(wanted, found, "{about}, as of {state} of the source, {local} of the mirror");
        }
        for (told, blob) in self.relied_on.drain(..) {
            let local = mirror.boundaries.iter().find(|(_, state)| *state == told).map(|(local, _)| *local);
            let local = local.unwrap_or_else(|| panic!("{about}: there is no boundary {told}"));
            assert!(!mirror.world.naming(blob, mirror.volume, local).is_empty(), "{about}: {blob} as of {told}");
        }
    }
}

type Chosen = (&'static [&'static str], &'static [&'static str]);

/// The names are a to d, and e to g for directories of [`rearrange`].
const SELECTIONS: [Chosen; 8] = [
    (&["a"], &[]),
    (&["e/f", "b"], &[]),
    (&["e/f/g", "f"], &["c"]),
    (&[], &["d", "f/"]),
    (&[], &["/e/?", "/f/g/a"]),
    (&["e"], &["/e/*/b", "g/"]),
    (&["f/e/g/a", "e/a"], &[]),
    (&["nothing"], &["*"]),
];

/// Owner, group and others, as the kernel writes them.
const ACCESS_LIST: [u8; 28] =
    [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255];

/// Directories are made, moved and linked into, across all borders.
fn rearrange(dice: &mut Dice, world: &mut World, times: usize) -> Vec<Tid> {
    let mut states = Vec::new();
    for _ in 0..times {
        let many = if dice.below(3) == 0 { 2 + dice.below(5) } else { 1 };
        let operations: Vec<Operation> = (0..many).map(|_| rearranged(dice, world)).collect();
        world.batch(&operations);
        if dice.below(4) == 0 {
            world.reap();
        }
        states.push(world.tid());
    }
    states
}

fn rearranged(dice: &mut Dice, world: &World) -> Operation {
    let shown = world.shown(V, world.tid());
    let kinds: Vec<(ObjectId, Kind)> = shown
        .iter()
        .filter_map(|(key, record)| match record {
            Record::Attr(attr) => Some((key.object(), attr.firm.kind)),
            _ => None,
        })
        .collect();
    let of = |wanted: Kind| kinds.iter().filter(|(_, kind)| *kind == wanted).map(|(id, _)| *id).collect::<Vec<_>>();
    let (directories, files) = (of(Kind::Directory), of(Kind::File));
    let dirents: Vec<(ObjectId, Box<[u8]>, Kind)> = shown
        .iter()
        .filter_map(|(key, record)| match (key.parts(), record) {
            (KeyParts::Dirent { name, .. }, Record::Dirent(dirent)) => Some((key.object(), name.into(), dirent.kind)),
            _ => None,
        })
        .collect();
    let place = *dice.pick(&directories);
    let directory_name: Box<[u8]> = [*dice.pick(b"efg")][..].into();
    let any_name: Box<[u8]> = [*dice.pick(b"abcdefg")][..].into();
    let moved: Vec<_> = dirents.iter().filter(|(.., kind)| *kind == Kind::Directory).collect();
    match dice.below(17) {
        0..3 => Operation::Mkdir { parent: place, name: directory_name, mode: 0o755, umask: 0 },
        3..7 if !moved.is_empty() => {
            let (parent, name, _) = (*dice.pick(&moved)).clone();
            let mode = if dice.below(4) == 0 { RenameMode::Exchange } else { RenameMode::Replace };
            let new_name = if mode == RenameMode::Exchange { any_name } else { directory_name };
            Operation::Rename { parent, name, new_parent: place, new_name, mode }
        }
        7 if !dirents.is_empty() => {
            let (parent, name, _) = dice.pick(&dirents).clone();
            Operation::Rename { parent, name, new_parent: place, new_name: any_name, mode: RenameMode::Replace }
        }
        8..10 if !files.is_empty() => Operation::Link { object: *dice.pick(&files), parent: place, name: any_name },
        10 => {
            let (name, value) = match dice.below(2) {
                0 => (b"system.posix_acl_default".to_vec(), ACCESS_LIST.into()),
                _ => (b"user.x".to_vec(), any_name),
            };
            Operation::Setxattr { object: place, name: name.into(), value, mode: Default::default() }
        }
        11..14 if !files.is_empty() => {
            // Few blobs, so that a copy often has what is written.
            let bytes = [dice.below(3) as u8; 30];
            let content = Content::Blob { id: BlobId::of(&bytes), blob_len: 30, offset: 0 };
            let (object, offset) = (*dice.pick(&files), dice.next() % 60);
            Operation::Write { object, offset, append: false, len: 30, content, kill_suidgid: false }
        }
        _ => operation(dice, world),
    }
}

/// One of the selections, and what it is called.
fn selection(seed: u64) -> (&'static [&'static str], &'static [&'static str], String) {
    let (only, exclude) = SELECTIONS[seed as usize % SELECTIONS.len()];
    (only, exclude, format!("seed {seed}, only {only:?}, without {exclude:?}"))
}

fn scene(seed: u64) -> (Dice, World) {
    let (mut dice, mut source) = (Dice(seed * 12 + 5), World::new(CLUSTER));
    rearrange(&mut dice, &mut source, 40);
    (dice, source)
}

#[test]
fn every_boundary_is_what_is_selected() {
    let (mut rows, mut relied_on) = (0, 0);
    for seed in 1..40 {
        let (only, exclude, about) = selection(seed);
        let (mut dice, mut source) = scene(seed);
        let mut sender = Sender::new(only, exclude);
        (sender.ids_max, sender.page) = ([1, 3, 1000][seed as usize % 3], [1, 200, 5000][seed as usize / 3 % 3]);
        let mut mirror = sender.mirror(&source);
        for round in 0..4 {
            if round > 0 {
                rearrange(&mut dice, &mut source, 12);
            }
            let bytes = sender.send(&source, mirror.at().1, source.tid());
            let receiver = mirror.receive(&bytes, 1 + dice.below(3000), || false).unwrap();
            rows += receiver.rows;
            relied_on += sender.relied_on.len();
            sender.check(&source, &mirror, &about);
        }
        assert_eq!(mirror.at().1, source.tid());
    }
    assert!(rows > 3000 && relied_on > 10, "{rows} rows, {relied_on} blobs that were there");
}

/// Many transactions at once: objects that go out and come back, directories that are moved several times.
#[test]
fn a_gap_is_crossed_by_what_is_selected_in_its_states() {
    for seed in 1..60 {
        let (only, exclude, about) = selection(seed);
        let (mut dice, mut source) = scene(seed + 500);
        let mut sender = Sender::new(only, exclude);
        sender.ids_max = [2, 1000][seed as usize % 2];
        let mut mirror = sender.mirror(&source);
        let bytes = sender.send(&source, Tid::ZERO, source.tid());
        mirror.receive(&bytes, 1000, || false).unwrap();
        let from = source.tid();
        let keep = |source: &mut World, name: &str| {
            let at = Some(source.tid());
            source.done(RequestBody::Snapshot { volume: V, name: name.into(), note: "".into(), at });
        };
        keep(&mut source, "start");
        rearrange(&mut dice, &mut source, 15);
        keep(&mut source, "middle");
        rearrange(&mut dice, &mut source, 15);
        source.prune(V);
        mirror.boundaries.clear();
        mirror.boundaries.push(mirror.at());
        let bytes = sender.send(&source, from, source.tid());
        mirror.receive(&bytes, 997, || false).unwrap();
        let readable = source.readable(V);
        mirror.boundaries.retain(|(_, state)| *state >= readable.horizon || readable.kept.contains(state));
        assert!(mirror.boundaries.len() >= 2, "{about}");
        sender.check(&source, &mirror, &about);
    }
}

#[test]
fn a_part_is_what_is_selected_behind_a_state_that_was_pruned() {
    let (mut anew, mut same) = (0, 0);
    for seed in 1..80 {
        let (only, exclude, about) = selection(seed);
        let (mut dice, mut source) = scene(seed + 900);
        play(&mut dice, &mut source, 40);
        let mut sender = Sender::new(only, exclude);
        let mut mirror = sender.mirror(&source);
        let bytes = sender.send(&source, Tid::ZERO, source.tid());
        mirror.receive(&bytes, 1000, || false).unwrap();
        let from = mirror.at().1;
        rearrange(&mut dice, &mut source, 4);
        source.prune(V);
        rearrange(&mut dice, &mut source, 2);
        assert!(from < source.readable(V).horizon);
        let (bytes, (sent, kept)) = sender.compare(&source, from, source.tid());
        (anew, same) = (anew + sent, same + kept);
        mirror.receive(&bytes, 997, || false).unwrap();
        mirror.boundaries = vec![mirror.at()];
        sender.relied_on.clear();
        sender.check(&source, &mirror, &about);
        // And on from there.
        let before = source.tid();
        rearrange(&mut dice, &mut source, 6);
        let bytes = sender.send(&source, before, source.tid());
        mirror.receive(&bytes, 1000, || false).unwrap();
        sender.check(&source, &mirror, &about);
    }
    assert!(anew > 60 && same > 60, "{anew} objects were sent anew, {same} were as they had been");
}

#[test]
fn another_part_is_refused() {
    let (_, source) = scene(3);
    let (mut one, mut other) = (Sender::new(&["e"], &[]), Sender::new(&["e"], &["b"]));
    let mut mirror = one.mirror(&source);
    let bytes = other.send(&source, Tid::ZERO, source.tid());
    let (name, found, wanted) = ("v".into(), other.selection.clone(), one.selection.clone());
    let refused = mirror.receive(&bytes, 1000, || false).err();
    assert_eq!(refused, Some(Failed::NotTaken(NotTaken::OtherPart { name, found, wanted })));
    let (all, _) = send(&source, Tid::ZERO, source.tid(), 300);
    assert!(matches!(mirror.receive(&all, 1000, || false).err(), Some(Failed::NotTaken(NotTaken::OtherPart { .. }))));
    let bytes = one.send(&source, Tid::ZERO, source.tid());
    mirror.receive(&bytes, 1000, || false).unwrap();
    one.check(&source, &mirror, "the right one");
}

fn make(parent: ObjectId, name: &str) -> Operation {
    let name = name.as_bytes().into();
    Operation::Mknod { parent, name, kind: Kind::File, mode: 0o600, umask: 0, rdev: 0 }
}

/// A directory with so many files. Gives its id.
fn filled(source: &mut World, parent: ObjectId, name: &str, files: u64) -> ObjectId {
    let directory = source.fresh;
    source.batch(&[Operation::Mkdir { parent, name: name.as_bytes().into(), mode: 0o755, umask: 0 }]);
    for block in 0..files.div_ceil(100) {
        let numbers = block * 100..files.min((block + 1) * 100);
        let all: Vec<Operation> = numbers.map(|number| make(directory, &format!("f{number}"))).collect();
        source.batch(&all);
    }
    directory
}

/// What is not selected is not read, and what has not changed is not.
#[test]
fn an_incremental_pass_reads_what_has_changed_and_what_crosses_the_border() {
    let mut source = World::new(CLUSTER);
    let root = ObjectId::ROOT;
    let inside = filled(&mut source, root, "a", 500);
    let outside = filled(&mut source, root, "z", 3000);
    let moved = filled(&mut source, inside, "sub", 300);
    let mut sender = Sender::new(&["a"], &["*.o"]);
    let mut mirror = sender.mirror(&source);
    let bytes = sender.send(&source, Tid::ZERO, source.tid());
    mirror.receive(&bytes, 1000, || false).unwrap();
    // Names, once to count and once to walk; then what there is of each object.
    assert!(sender.read.rows < 4500, "{:?}", sender.read);
    let mut pass = |source: &World, mirror: &mut Mirror| {
        let before = sender.read;
        let bytes = sender.send(source, mirror.at().1, source.tid());
        mirror.receive(&bytes, 1000, || false).unwrap();
        sender.check(source, mirror, "");
        let Read { changes, records, rows } = sender.read;
        (
            Read { changes: changes - before.changes, records: records - before.records, rows: rows - before.rows },
            bytes.len(),
        )
    };
    for number in 0..5 {
        source.batch(&[make(inside, &format!("new{number}"))]);
    }
    let (read, _) = pass(&source, &mut mirror);
    // Each file that is new is read as a whole: its attributes.
    assert!(read.rows <= 5 && read.changes <= 60 && read.records <= 200, "{read:?}");
    for number in 0..50 {
        source.batch(&[make(outside, &format!("new{number}"))]);
    }
    let (read, bytes) = pass(&source, &mut mirror);
    assert!(read.rows == 0 && read.records <= 600 && bytes < 300, "{read:?}, {bytes} bytes");
    let rename = |parent, name: &str, new_parent, new_name: &str| {
        let (name, new_name) = (name.as_bytes().into(), new_name.as_bytes().into());
        Operation::Rename { parent, name, new_parent, new_name, mode: RenameMode::Replace }
    };
    source.batch(&[rename(inside, "sub", inside, "sub2")]);
    let (read, _) = pass(&source, &mut mirror);
    assert!(read.rows == 0 && read.records <= 40, "it stands as it did: {read:?}");
    source.batch(&[rename(inside, "sub2", outside, "sub")]);
    let (read, _) = pass(&source, &mut mirror);
    assert!((600..2000).contains(&read.rows), "it went out: {read:?}");
    source.batch(&[rename(root, "a", root, "b"), rename(root, "z", root, "a")]);
    let (read, _) = pass(&source, &mut mirror);
    assert!(read.rows > 3000, "one directory is there in place of another: {read:?}");
    assert!(source.shown(V, source.tid()).contains_key(&Key::attr(VolumeId(1), moved)));
}
