//! Random operations: what a transaction folds to gives what it showed; and if its guards hold later, it would have done the same then.

mod journal;
mod spill;

use super::*;
use crate::run::{Run, Step};
use crate::tree::{Answer, TreeError, TreeRequest};
use gavel_fs::operation::{Allocate, Caller, RenameMode, SetAttr, SetTime, XattrMode};
use gavel_fs::{Operation, Reply};
use gavel_types::{BlobId, Cookie, Timestamp};
use gavel_wire::{Attr, Content, Extent, Firm, Guard, Kind, Live, ViewError};

pub(crate) const V: VolumeId = VolumeId(1);
const ROOT: ObjectId = ObjectId::ROOT;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Live records, and when each key was last changed.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) tid: Tid,
    live: BTreeMap<Key, Version>,
    changed: BTreeMap<Key, Tid>,
}

impl View for Base {
    fn tid(&self) -> Tid {
        self.tid
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.live.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let within = self.live.iter().filter(|(key, _)| range.contains(key)).take(limit);
        Ok(within.map(|(key, version)| (key.clone(), version.clone())).collect())
    }
}

impl Live for Base {
    fn changed_after(&self, range: &KeyRange, after: Tid) -> Result<bool, ViewError> {
        Ok(self.changed.iter().any(|(key, tid)| range.contains(key) && *tid > after))
    }
}

impl Base {
    pub(crate) fn new() -> Base {
        let now = Timestamp { secs: 1, nanos: 0 };
        let firm = Firm {
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            rdev: 0,
            parent: ROOT,
            birth: now,
            class: gavel_types::Class::VOLUME,
        };
        let root = Attr { firm, nlink: 2, size: 0, allocated: 0, atime: now, mtime: now, ctime: now };
        let tid = Tid(5 * SECOND);
        let version = Version { create: tid, firm: tid, record: Record::Attr(root) };
        Base { tid, live: BTreeMap::from([(Key::attr(V, ROOT), version)]), changed: BTreeMap::new() }
    }

    /// As the commit rule does it, one second later.
    pub(crate) fn commit(&mut self, plan: &Plan) {
        let tid = Tid(self.tid.0 + SECOND);
        let mut expansion = Expansion::new(&*self, tid);
        for mutation in &plan.mutations {
            expansion.mutate(mutation, &[]).unwrap_or_else(|error| panic!("{error}: {mutation:?} of {plan:?}"));
        }
        expansion.check_plan().unwrap_or_else(|error| panic!("{error}: {plan:?}"));
        let (changes, _) = expansion.finish().unwrap();
        for change in changes {
            self.changed.insert(change.key.clone(), tid);
            match change.new {
                Some(version) => drop(self.live.insert(change.key, version)),
                None => drop(self.live.remove(&change.key)),
            }
        }
        self.tid = tid;
    }

    fn broken(&self, guards: &[Guard]) -> Option<Guard> {
        guards.iter().find(|guard| !gavel_txn::apply::holds(self, guard).unwrap()).cloned()
    }

    /// Runs one operation as a transaction of its own.
    pub(crate) fn operate(&mut self, request: &TreeRequest, fresh: ObjectId) -> Result<Answer, TreeError> {
        let mut transaction = Transaction::new(V, self.tid);
        let answer = run(&mut transaction, self, request, fresh);
        let folded = transaction.fold(self).unwrap();
        assert_eq!(self.broken(&folded.guards), None, "nothing has changed since {request:?}");
        self.commit(&folded.plan);
        answer
    }
}

fn run(
    transaction: &mut Transaction,
    base: &Base,
    request: &TreeRequest,
    fresh: ObjectId,
) -> Result<Answer, TreeError> {
    let mut run = Run::new(V, Caller::default(), request.clone())?;
    loop {
        match run.step_transaction(transaction, base, base.tid.0 + SECOND / 2).step {
            Step::NeedObjectId => run.fresh_id(fresh),
            Step::Done(result) => return result,
            other => panic!("{other:?}: nothing here is in a blob"),
        }
    }
}

/// xorshift64*: (Vigna, 2014).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }

    fn name(&mut self) -> Box<[u8]> {
        [b'a' + self.roll(4) as u8].into()
    }

    fn object(&mut self, view: &dyn View, kind: Option<Kind>) -> ObjectId {
        let all = view.scan(&KeyRange::volume(V), usize::MAX).unwrap();
        let fits = |version: &Version| match &version.record {
            Record::Attr(attr) => kind.is_none_or(|kind| attr.firm.kind == kind),
            _ => false,
        };
        let all: Vec<ObjectId> = all.iter().filter(|(_, version)| fits(version)).map(|(key, _)| key.object()).collect();
        if all.is_empty() { ROOT } else { all[self.roll(all.len() as u64) as usize] }
    }

    /// Something to do, with what is there.
    pub(crate) fn request(&mut self, view: &dyn View) -> TreeRequest {
        let directory = self.object(view, Some(Kind::Directory));
        let (file, any) = (self.object(view, Some(Kind::File)), self.object(view, None));
        let (name, other) = (self.name(), self.name());
        let (offset, len) = (self.roll(60), 1 + self.roll(30));
        let at = Timestamp { secs: 100 + self.roll(5) as i64, nanos: 0 };
        let operation = match self.roll(24) {
            0 | 1 => Operation::Create {
                parent: directory,
                name,
                mode: 0o644,
                umask: 0,
                exclusive: self.roll(2) == 0,
                truncate: self.roll(2) == 0,
            },
            2 => Operation::Mkdir { parent: directory, name, mode: 0o755, umask: 0 },
            3 => Operation::Unlink { parent: directory, name },
            4 => Operation::Rmdir { parent: directory, name },
            5 | 6 => Operation::Rename {
                parent: directory,
                name,
                new_parent: self.object(view, Some(Kind::Directory)),
                new_name: other,
                mode: [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][self.roll(3) as usize],
            },
            7 => Operation::Link { object: file, parent: directory, name },
            8 => Operation::Symlink { parent: directory, name, target: other },
            9 => Operation::Setattr {
                object: any,
                set: SetAttr { mode: Some(self.roll(8) as u16), ..SetAttr::default() },
            },
            10 => Operation::Setattr { object: file, set: SetAttr { size: Some(offset), ..SetAttr::default() } },
            11 => {
                Operation::Setattr { object: any, set: SetAttr { mtime: Some(SetTime::At(at)), ..SetAttr::default() } }
            }
            12 => {
                let how = [
                    Allocate::PunchHole,
                    Allocate::Reserve { keep_size: false },
                    Allocate::ZeroRange { keep_size: true },
                ];
                Operation::Fallocate { object: file, offset, len, how: how[self.roll(3) as usize] }
            }
            13 => Operation::CopyRange {
                from: file,
                from_offset: offset,
                to: self.object(view, Some(Kind::File)),
                to_offset: self.roll(60),
                len,
            },
            14 => Operation::Setxattr {
                object: file,
                name: [b"user.", &*name].concat().into(),
                value: other,
                mode: XattrMode::Set,
            },
            15 => Operation::Removexattr { object: file, name: [b"user.", &*name].concat().into() },
            16 => Operation::Listxattr { object: file },
            17 => Operation::Getattr { object: any },
            18 => Operation::Readdir { object: directory, after: Cookie(0), limit: 1 + self.roll(3) as u32 },
            19 => return TreeRequest::Lookup { parent: directory, name },
            20 => return TreeRequest::Read { object: file, offset, len: len as u32 },
            _ => {
                let data = vec![b'0' + self.roll(10) as u8; len as usize];
                let append = self.roll(3) == 0;
                return TreeRequest::Write { object: file, offset, append, data, kill_suidgid: false };
            }
        };
        TreeRequest::Operation(operation)
    }
}

/// What is shown of a state, but for what has no name (which nobody can come to), and for times: those of what merges are the commit's.
fn shown(view: &dyn View) -> BTreeMap<Key, Record> {
    let all = view.scan(&KeyRange::volume(V), usize::MAX).unwrap();
    let nameless: BTreeSet<ObjectId> = all
        .iter()
        .filter(|(_, version)| matches!(version.record, Record::Attr(attr) if attr.nlink == 0))
        .map(|(key, _)| key.object())
        .collect();
    let named = all.into_iter().filter(|(key, _)| !nameless.contains(&guards::owner(key)));
    named.map(|(key, version)| (key, without_times(version.record))).collect()
}

pub(crate) fn without_times(record: Record) -> Record {
    let none = Timestamp { secs: 0, nanos: 0 };
    match record {
        Record::Attr(mut attr) => {
            (attr.firm.birth, attr.atime, attr.mtime, attr.ctime) = (none, none, none, none);
            Record::Attr(attr)
        }
        record => record,
    }
}

/// An answer, but for what a transaction may be told of a directory without depending on it, and for times.
fn comparable(answer: Result<Answer, TreeError>) -> Result<Answer, TreeError> {
    let less = |attr: Attr| {
        let Record::Attr(mut attr) = without_times(Record::Attr(attr)) else { unreachable!() };
        if attr.firm.kind == Kind::Directory {
            (attr.nlink, attr.size) = (0, 0);
        }
        attr
    };
    answer.map(|mut answer| {
        answer.attr = answer.attr.map(less);
        if let Reply::Attr(object, attr) = answer.reply {
            answer.reply = Reply::Attr(object, less(attr));
        }
        answer
    })
}

/// A tree, and the next object id.
fn tree(dice: &mut Dice) -> (Base, u64) {
    let (mut base, mut next) = (Base::new(), 100);
    for _ in 0..25 {
        let request = dice.request(&base);
        let _ = base.operate(&request, ObjectId(next));
        next += 1;
    }
    (base, next)
}

#[test]
fn what_it_folds_to_gives_what_it_showed() {
    for seed in 1..400 {
        let mut dice = Dice(seed);
        let (base, mut next) = tree(&mut dice);
        let mut transaction = Transaction::new(V, base.tid);
        for _ in 0..dice.roll(40) {
            let request = dice.request(&Layered::new(&base, transaction.layer().clone()));
            let _ = run(&mut transaction, &base, &request, ObjectId(next));
            next += 1;
        }
        let folded = transaction.fold(&base).unwrap();
        assert_eq!(base.broken(&folded.guards), None, "seed {seed}: nothing has changed");
        let encoded = gavel_wire::codec::encode(0, &(&folded.guards, &folded.plan));
        let weight = transaction.bytes() + transaction.made_bytes();
        assert!(encoded.len() <= weight + 16, "seed {seed}: {} {weight}", encoded.len());
        assert!(folded.plan.mutations.len() <= transaction.changes() + transaction.runs * 2, "seed {seed}");
        let mut after = base.clone();
        after.commit(&folded.plan);
        assert_eq!(shown(&after), shown(&Layered::new(&base, transaction.layer().clone())), "seed {seed}: {folded:#?}");
        let part_bytes = 1 + dice.roll(2000) as usize;
        let split = split::split_into(part_bytes, V, folded, transaction.made());
        let last = split::bytes(&split.last.guards, &split.last.plan);
        assert!(last <= transaction.bytes() + 16, "seed {seed}: {last} {}", transaction.bytes());
        assert_eq!(shown(&staged(&base, &transaction, split, seed)), shown(&after), "seed {seed}");
    }
}

/// What a transaction in parts comes to, where each part is a commit. Nothing of a part is seen before the last.
fn staged(base: &Base, transaction: &Transaction, split: split::Split, seed: u64) -> Base {
    let (mut after, mut group) = (base.clone(), BTreeSet::new());
    for part in &split.parts {
        let ids = |(first, last): &(ObjectId, ObjectId)| (first.0..=last.0).map(ObjectId);
        let new: Vec<ObjectId> = part.runs.iter().flat_map(ids).collect();
        assert!(new.iter().all(|object| transaction.made().contains(object)), "seed {seed}: nobody else's");
        assert!(new.iter().all(|object| group.insert(*object)), "seed {seed}: each once");
        let mut touched = BTreeSet::new();
        for mutation in &part.plan.mutations {
            let (about, named) = match mutation {
                Mutation::Put { key, record: Record::Dirent(dirent) } => (key.object(), dirent.object),
                Mutation::Put { key, .. } => (key.object(), key.object()),
                Mutation::Adjust { object, .. } => (*object, *object),
                other => panic!("seed {seed}: {other:?}"),
            };
            if matches!(mutation, Mutation::Adjust { .. })
                || matches!(mutation, Mutation::Put { key, .. } if matches!(key.parts(), KeyParts::Attr))
            {
                touched.insert(about);
            }
            assert!(group.contains(&about) || about != named, "seed {seed}: {mutation:?}");
            assert!(
                touched.contains(&named),
                "seed {seed}: the attributes change along with a name, before: {mutation:?}"
            );
        }
        let before = seen(&after);
        after.commit(&part.plan);
        assert_eq!(seen(&after), before, "seed {seed}: nobody comes there");
    }
    after.commit(&split.last.plan);
    after
}

/// All that names lead to.
fn seen(view: &dyn View) -> BTreeMap<Key, Record> {
    let (mut seen, mut to_see, mut known) = (BTreeMap::new(), vec![ROOT], BTreeSet::new());
    while let Some(object) = to_see.pop() {
        if known.insert(object) {
            for (key, version) in view.scan(&KeyRange::object(V, object), usize::MAX).unwrap() {
                if let Record::Dirent(dirent) = &version.record {
                    to_see.push(dirent.object);
                }
                seen.insert(key, version.record);
            }
        }
    }
    seen
}

#[test]
fn directories_come_before_what_is_in_them() {
    let base = Base::new();
    let mut transaction = Transaction::new(V, base.tid);
    let mkdir = |parent: u64, name: &str| {
        let name = name.as_bytes().into();
        TreeRequest::Operation(Operation::Mkdir { parent: ObjectId(parent), name, mode: 0o755, umask: 0 })
    };
    // 100 is made first, and moved below 101, which lies in 102.
    for (parent, name, id) in [(1, "a", 100), (1, "b", 101), (1, "c", 102)] {
        run(&mut transaction, &base, &mkdir(parent, name), ObjectId(id)).unwrap();
    }
    for (object, into) in [("b", 102), ("a", 101)] {
        let mode = RenameMode::NoReplace;
        let (name, new_name) = (object.as_bytes().into(), object.as_bytes().into());
        let rename = Operation::Rename { parent: ROOT, name, new_parent: ObjectId(into), new_name, mode };
        run(&mut transaction, &base, &TreeRequest::Operation(rename), ROOT).unwrap();
    }
    let folded = transaction.fold(&base).unwrap();
    let split = split::split_into(1, V, folded, transaction.made());
    let begun: Vec<_> = split.parts.iter().flat_map(|part| part.runs.clone()).collect();
    assert_eq!(begun, [102, 101, 100].map(|id| (ObjectId(id), ObjectId(id))));
}

#[test]
fn ids_of_what_has_come_and_gone_are_in_the_runs() {
    let base = Base::new();
    let mut transaction = Transaction::new(V, base.tid);
    (100..110).for_each(|id| created(&mut transaction, &base, &format!("{id}"), id));
    for name in ["101", "102", "105", "109"] {
        let unlink = Operation::Unlink { parent: ROOT, name: name.as_bytes().into() };
        run(&mut transaction, &base, &TreeRequest::Operation(unlink), ROOT).unwrap();
    }
    assert_eq!(transaction.made_runs, 1);
    let folded = transaction.fold(&base).unwrap();
    let split = split::split(V, folded, transaction.made());
    assert_eq!(split.parts.len(), 1);
    assert_eq!(split.parts[0].runs, [(ObjectId(100), ObjectId(109))]);
    created(&mut transaction, &base, "x", 112);
    created(&mut transaction, &base, "y", 111);
    assert_eq!(transaction.made_runs, 2);
    created(&mut transaction, &base, "z", 110);
    assert_eq!(transaction.made_runs, 1);
}

#[test]
fn a_hundred_thousand_files_fit_if_their_directory_is_new() {
    let base = Base::new();
    let mut transaction = Transaction::new(V, base.tid);
    let mkdir = Operation::Mkdir { parent: ROOT, name: b"d"[..].into(), mode: 0o755, umask: 0 };
    run(&mut transaction, &base, &TreeRequest::Operation(mkdir), ObjectId(100)).unwrap();
    for id in 101..100_101 {
        let (parent, name) = (ObjectId(100), format!("file-{id}").into_bytes().into());
        let create = Operation::Create { parent, name, mode: 0o644, umask: 0, exclusive: true, truncate: false };
        run(&mut transaction, &base, &TreeRequest::Operation(create), ObjectId(id)).unwrap();
    }
    assert!(transaction.bytes() < 1000, "{}", transaction.bytes());
    let folded = transaction.fold(&base).unwrap();
    assert!(!split::is_small(&folded, COMMIT_BYTES_MAX));
    let split = split::split(V, folded, transaction.made());
    assert!(split::is_small(&split.last, 1000));
    assert!(split.parts.len() > 30, "{}", split.parts.len());
    for part in &split.parts {
        let bytes = split::bytes(&[], &part.plan);
        assert!(bytes <= split::STAGE_BYTES_MAX, "{bytes}");
    }
}

#[test]
fn if_its_guards_hold_it_would_have_done_the_same_later() {
    let (mut held, mut collided) = (0, 0);
    for seed in 1..3000 {
        let mut dice = Dice(seed);
        let (base, mut next) = tree(&mut dice);
        let mut transaction = Transaction::new(V, base.tid);
        let mut steps = Vec::new();
        for _ in 0..=dice.roll(6) {
            let request = dice.request(&Layered::new(&base, transaction.layer().clone()));
            let answer = run(&mut transaction, &base, &request, ObjectId(next));
            steps.push((request, ObjectId(next), answer));
            next += 1;
        }
        let mut later = base.clone();
        for _ in 0..=dice.roll(3) {
            let request = dice.request(&later);
            let _ = later.operate(&request, ObjectId(next));
            next += 1;
        }
        let folded = transaction.fold(&base).unwrap();
        if later.broken(&folded.guards).is_some() {
            collided += 1;
            continue;
        }
        held += 1;
        let mut again = Transaction::new(V, later.tid);
        for (request, id, answer) in steps {
            let now = run(&mut again, &later, &request, id);
            assert_eq!(comparable(now), comparable(answer), "seed {seed}: {request:?}");
        }
        let (mut one, mut other) = (later.clone(), later.clone());
        one.commit(&folded.plan);
        other.commit(&again.fold(&later).unwrap().plan);
        assert_eq!(shown(&one), shown(&other), "seed {seed}");
        // A rebase is the same, too, and shows what is there afterwards.
        let moved = transaction.rebased(&base, &later, later.tid.0 + SECOND).unwrap();
        let mut third = later.clone();
        third.commit(&moved.fold(&later).unwrap().plan);
        assert_eq!(shown(&third), shown(&one), "seed {seed}");
        assert_eq!(shown(&Layered::new(&later, moved.layer().clone())), shown(&one), "seed {seed}");
    }
    assert!(held > 500 && collided > 300, "{held} held, {collided} collided");
}

fn created(transaction: &mut Transaction, base: &Base, name: &str, id: u64) {
    let name = name.as_bytes().into();
    let operation = Operation::Create { parent: ROOT, name, mode: 0o644, umask: 0, exclusive: true, truncate: false };
    run(transaction, base, &TreeRequest::Operation(operation), ObjectId(id)).unwrap();
}

#[test]
fn different_names_in_one_directory_do_not_collide_unless_it_was_listed() {
    for listed in [false, true] {
        let mut base = Base::new();
        let (mut a, mut b) = (Transaction::new(V, base.tid), Transaction::new(V, base.tid));
        created(&mut a, &base, "a", 100);
        created(&mut b, &base, "b", 101);
        run(&mut b, &base, &TreeRequest::Operation(Operation::Getattr { object: ROOT }), ROOT).unwrap();
        if listed {
            let list = Operation::Readdir { object: ROOT, after: Cookie(0), limit: 10 };
            run(&mut b, &base, &TreeRequest::Operation(list), ROOT).unwrap();
        }
        let (a, b) = (a.fold(&base).unwrap(), b.fold(&base).unwrap());
        base.commit(&a.plan);
        assert_eq!(base.broken(&b.guards).is_some(), listed);
        base.commit(&b.plan);
        let root = base.live.get(&Key::attr(V, ROOT)).unwrap();
        assert!(matches!(root.record, Record::Attr(attr) if attr.size == 2), "both are counted");
    }
}

#[test]
fn what_was_not_there_is_a_guard() {
    let mut base = Base::new();
    let mut transaction = Transaction::new(V, base.tid);
    let lookup = TreeRequest::Lookup { parent: ROOT, name: b"a"[..].into() };
    assert_eq!(run(&mut transaction, &base, &lookup, ROOT).unwrap().attr, None);
    let mut other = Transaction::new(V, base.tid);
    created(&mut other, &base, "a", 100);
    let other = other.fold(&base).unwrap();
    base.commit(&other.plan);
    assert!(base.broken(&transaction.guards().to_guards(transaction.at())).is_some());
}

#[test]
fn a_file_that_came_and_went_is_no_part_of_it() {
    let base = Base::new();
    let mut transaction = Transaction::new(V, base.tid);
    created(&mut transaction, &base, "a", 100);
    let (object, data) = (ObjectId(100), b"bytes".to_vec());
    let write = TreeRequest::Write { object, offset: 0, append: false, data, kill_suidgid: false };
    run(&mut transaction, &base, &write, ROOT).unwrap();
    let unlink = Operation::Unlink { parent: ROOT, name: b"a"[..].into() };
    run(&mut transaction, &base, &TreeRequest::Operation(unlink), ROOT).unwrap();
    let read = TreeRequest::Read { object, offset: 0, len: 10 };
    assert_eq!(run(&mut transaction, &base, &read, ROOT).unwrap().data, b"bytes"[..], "while it is open");
    let plan = transaction.fold(&base).unwrap().plan;
    assert!(
        plan.mutations.iter().all(|mutation| matches!(mutation, Mutation::Adjust { object: ROOT, .. })),
        "{plan:?}"
    );
    transaction.forget_nameless(object);
    assert_eq!(transaction.inline_bytes(), 0);
    assert_eq!(transaction.fold(&base).unwrap().plan, plan);
}

#[test]
fn a_full_transaction_refuses_and_stays_as_it_was() {
    let base = Base::new();
    let mut transaction = Transaction::new(V, base.tid);
    let mut made = 0;
    let full = loop {
        let name = format!("{made:0200}").into_bytes().into();
        let operation =
            Operation::Create { parent: ROOT, name, mode: 0o644, umask: 0, exclusive: true, truncate: false };
        match run(&mut transaction, &base, &TreeRequest::Operation(operation), ObjectId(100 + made)) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&full, TreeError::Storage { full: true, cause } if cause.contains("full")), "{full}");
    assert!(made > 2_000, "{made} names of 200 bytes");
    let folded = transaction.fold(&base).unwrap();
    let mut after = base.clone();
    let split = split::split(V, folded, transaction.made());
    assert!(split::is_small(&split.last, COMMIT_BYTES_MAX));
    split.parts.iter().for_each(|part| after.commit(&part.plan));
    after.commit(&split.last.plan);
    assert_eq!(after.live.keys().filter(|key| matches!(key.parts(), KeyParts::Attr)).count() as u64, made + 1);
}

#[test]
fn contents_of_many_small_files_are_packed() {
    let sizes = [10, 63, 64, 5000, 16 * 1024];
    let contents: Vec<Vec<u8>> = (0..400).map(|i| vec![i as u8; sizes[i % sizes.len()]]).collect();
    let mutations = contents.iter().zip(100..).map(|(bytes, id)| {
        let len = bytes.len() as u64;
        let extent = Extent { len, content: Content::Inline(bytes.clone().into()) };
        Mutation::Put { key: Key::extent(V, ObjectId(id), len), record: Record::Extent(extent) }
    });
    let mut plan = Plan { mutations: mutations.collect() };
    let blobs = pack::pack(&mut plan);
    assert!(blobs.len() > 1 && blobs.iter().all(|blob| blob.len() <= pack::PACK_BLOB_BYTES_MAX));
    let blobs: BTreeMap<BlobId, bytes::Bytes> = blobs.into_iter().map(|blob| (BlobId::of(&blob), blob)).collect();
    for (mutation, bytes) in plan.mutations.iter().zip(&contents) {
        let Mutation::Put { record: Record::Extent(extent), .. } = mutation else { unreachable!() };
        let found = match &extent.content {
            Content::Inline(inline) => inline,
            Content::Blob { id, blob_len, offset } => {
                assert_eq!(blobs[id].len(), *blob_len as usize);
                &blobs[id][*offset as usize..*offset as usize + extent.len as usize]
            }
            Content::Zeros => unreachable!(),
        };
        assert_eq!(found, bytes);
    }
    let mut small = Plan { mutations: plan.mutations[..1].to_vec() };
    assert!(pack::pack(&mut small).is_empty(), "few bytes stay where they are");
}

fn file(base: &mut Base, name: &str, id: u64) -> ObjectId {
    let name = name.as_bytes().into();
    let operation = Operation::Create { parent: ROOT, name, mode: 0o644, umask: 0, exclusive: true, truncate: false };
    base.operate(&TreeRequest::Operation(operation), ObjectId(id)).unwrap();
    ObjectId(id)
}

/// An attribute is set, which depends on nothing, and removed again: that is not nothing, for somebody else may have set it meanwhile.
#[test]
fn what_is_as_at_the_start_is_put_so_unless_it_is_depended_on() {
    let mut base = Base::new();
    let object = file(&mut base, "f", 20);
    let name: Box<[u8]> = b"user.x"[..].into();
    let set = |value: &[u8]| {
        let (name, value) = (name.clone(), value.into());
        TreeRequest::Operation(Operation::Setxattr { object, name, value, mode: XattrMode::Set })
    };
    let mut transaction = Transaction::new(V, base.tid);
    run(&mut transaction, &base, &set(b"mine"), ObjectId(30)).unwrap();
    let remove = TreeRequest::Operation(Operation::Removexattr { object, name: name.clone() });
    run(&mut transaction, &base, &remove, ObjectId(30)).unwrap();
    // A transaction that was moved while it was not there removes it all the same.
    let mut now = base.clone();
    file(&mut now, "other", 21);
    let moved = transaction.rebased(&base, &now, now.tid.0 + SECOND).unwrap();
    let moved = moved.fold(&now).unwrap();
    let mut moved_later = now.clone();
    moved_later.operate(&set(b"theirs"), ObjectId(30)).unwrap();
    assert_eq!(moved_later.broken(&moved.guards), None);
    moved_later.commit(&moved.plan);
    assert_eq!(moved_later.get(&Key::xattr(V, object, &name)), Ok(None));
    let folded = transaction.fold(&base).unwrap();
    let mut later = base.clone();
    later.operate(&set(b"theirs"), ObjectId(30)).unwrap();
    if later.broken(&folded.guards).is_none() {
        later.commit(&folded.plan);
        assert_eq!(later.get(&Key::xattr(V, object, &name)), Ok(None), "it was removed last");
    }
}

/// A file that was there loses its last name, is written to by who has it open, and the transaction is moved to the present.
#[test]
fn a_file_that_has_lost_its_name_keeps_its_bytes_when_its_transaction_is_moved() {
    let mut base = Base::new();
    let object = file(&mut base, "f", 20);
    let mut transaction = Transaction::new(V, base.tid);
    let unlink = TreeRequest::Operation(Operation::Unlink { parent: ROOT, name: b"f"[..].into() });
    run(&mut transaction, &base, &unlink, ObjectId(30)).unwrap();
    let data = b"still open".to_vec();
    let write = TreeRequest::Write { object, offset: 0, append: false, data: data.clone(), kill_suidgid: false };
    run(&mut transaction, &base, &write, ObjectId(30)).unwrap();
    let mut later = base.clone();
    file(&mut later, "other", 21);
    let mut moved = transaction.rebased(&base, &later, later.tid.0 + SECOND).unwrap();
    let read = TreeRequest::Read { object, offset: 0, len: 100 };
    assert_eq!(run(&mut moved, &later, &read, ObjectId(30)).unwrap().data, data);
}

/// Others may have it open: what they see of its bytes and of its attributes is of one moment.
#[test]
fn a_file_that_was_there_and_loses_its_name_has_the_bytes_that_its_attributes_say() {
    let mut base = Base::new();
    let object = file(&mut base, "f", 20);
    let write = |data: &[u8]| {
        let data = data.to_vec();
        TreeRequest::Write { object, offset: 0, append: false, data, kill_suidgid: false }
    };
    base.operate(&write(b"as it was"), ObjectId(30)).unwrap();
    let name: Box<[u8]> = b"user.x"[..].into();
    let mut transaction = Transaction::new(V, base.tid);
    let truncate = SetAttr { size: Some(0), ..SetAttr::default() };
    let set = Operation::Setxattr { object, name: name.clone(), value: b"x"[..].into(), mode: XattrMode::Set };
    for operation in
        [Operation::Setattr { object, set: truncate }, set, Operation::Unlink { parent: ROOT, name: b"f"[..].into() }]
    {
        run(&mut transaction, &base, &TreeRequest::Operation(operation), ObjectId(30)).unwrap();
    }
    run(&mut transaction, &base, &write(b"new"), ObjectId(30)).unwrap();
    let folded = transaction.fold(&base).unwrap();
    let mut after = base.clone();
    after.commit(&folded.plan);
    let Some(Record::Attr(attr)) = after.get(&Key::attr(V, object)).unwrap().map(|version| version.record) else {
        panic!("it is gone")
    };
    assert_eq!((attr.nlink, attr.size, attr.allocated), (0, 3, 3));
    let extents = after.scan(&KeyRange::extents_behind(V, object, 0), 10).unwrap();
    assert_eq!(extents.len(), 1, "{extents:?}");
    assert_eq!(extents[0].0, Key::extent(V, object, 3));
    let xattr = after.get(&Key::xattr(V, object, &name)).unwrap().map(|version| version.record);
    assert_eq!(xattr, Some(Record::Xattr(b"x"[..].into())));
}
