mod join;

use super::*;
use gavel_types::{Blob, Class, Timestamp, VolumeId};
use gavel_wire::{Attr, AttrDelta, Dirent, Extent, Firm, Kind, Version, ViewError};

const V: VolumeId = VolumeId(1);
const DIR: ObjectId = ObjectId(20);

/// A replica that holds an empty directory, or what was put into it.
#[derive(Default)]
struct Replica(BTreeMap<Key, Version>);

impl View for Replica {
    fn tid(&self) -> Tid {
        Tid(100)
    }

    fn get(&self, key: &Key) -> Result<Option<Version>, ViewError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<(Key, Version)>, ViewError> {
        let within = self.0.iter().filter(|(key, _)| range.contains(key)).take(limit);
        Ok(within.map(|(key, version)| (key.clone(), version.clone())).collect())
    }
}

fn attr(kind: Kind, nlink: u32) -> Attr {
    let time = Timestamp::COMMIT;
    let firm =
        Firm { kind, mode: 0o644, uid: 0, gid: 0, rdev: 0, parent: ObjectId::ROOT, birth: time, class: Class::VOLUME };
    Attr { firm, nlink, size: 0, allocated: 0, atime: time, mtime: time, ctime: time }
}

fn replica() -> Replica {
    let mut directory = attr(Kind::Directory, 2);
    let old = Timestamp { secs: 1, nanos: 0 };
    (directory.firm.birth, directory.atime, directory.mtime, directory.ctime) = (old, old, old, old);
    let version = Version { create: Tid(7), firm: Tid(7), record: Record::Attr(directory) };
    Replica(BTreeMap::from([(Key::attr(V, DIR), version)]))
}

fn object(number: u64) -> ObjectId {
    ObjectId(1000 + number)
}

fn make(number: u64) -> Plan {
    let name = format!("f{number}");
    let time = Some(Timestamp::COMMIT);
    let delta = AttrDelta { size: 1, mtime: time, ctime: time, ..AttrDelta::default() };
    Plan {
        mutations: vec![
            Mutation::Put { key: Key::attr(V, object(number)), record: Record::Attr(attr(Kind::File, 1)) },
            Mutation::Put {
                key: Key::dirent(V, DIR, name.as_bytes()),
                record: Record::Dirent(Dirent { object: object(number), kind: Kind::File }),
            },
            Mutation::Adjust { volume: V, object: DIR, delta },
        ],
    }
}

fn write(number: u64, id: BlobId, len: u32) -> Plan {
    let extent = Extent { len: u64::from(len), content: Content::Blob { id, blob_len: len, offset: 0 } };
    let key = Key::extent(V, object(number), u64::from(len));
    Plan { mutations: vec![Mutation::Put { key, record: Record::Extent(extent) }] }
}

fn accept(pending: &mut Pending, plan: Plan, blob: Option<(BlobId, Bytes)>) -> u64 {
    let time = pending.next_time(0, Tid(100));
    let number = pending.accept(&replica(), time, plan, Vec::new(), blob, asked).unwrap();
    pending.check_invariants();
    number
}

fn asked() -> Asked {
    let operation = Operation::Getattr { object: DIR };
    Asked { volume: V, caller: Caller::default(), operation }
}

fn directory(pending: &Pending) -> Attr {
    let view = Layered::new(replica(), pending.layer().clone());
    let Some(Version { record: Record::Attr(attr), .. }) = view.get(&Key::attr(V, DIR)).unwrap() else { panic!() };
    attr
}

#[test]
fn what_is_accepted_shows_at_once_and_lands_in_order_as_one_commit() {
    let mut pending = Pending::default();
    assert!((1..=3).all(|number| accept(&mut pending, make(number), None) == number));
    assert_eq!(directory(&pending).size, 3);
    let batch = pending.take_batch().unwrap();
    assert_eq!(batch.last, 3);
    let adjusts: Vec<&Mutation> =
        batch.plan.mutations.iter().filter(|mutation| matches!(mutation, Mutation::Adjust { .. })).collect();
    let [Mutation::Adjust { delta, .. }] = adjusts[..] else { panic!("{adjusts:?}") };
    assert_eq!((delta.size, delta.mtime), (3, Some(Timestamp::of_tid(Tid(103)))), "the directory is changed once");
    assert_eq!(pending.take_batch(), None);
    accept(&mut pending, make(4), None);
    pending.on_landed(3, Tid(200));
    pending.check_invariants();
    let view = Layered::new(replica(), pending.layer().clone());
    assert!(view.get(&Key::attr(V, object(3))).unwrap().is_none(), "the replica has it, or should have");
    assert!(view.get(&Key::attr(V, object(4))).unwrap().is_some());
    assert_eq!(directory(&pending).size, 4, "a newer plan has laid this: it stays");
    assert_eq!(pending.take_batch().unwrap().last, 4);
    pending.on_landed(4, Tid(201));
    assert!(pending.layer().is_empty() && pending.bytes() == 0);
}

#[test]
fn times_are_the_clusters_and_only_go_forward() {
    let mut pending = Pending::default();
    assert_eq!(pending.next_time(500, Tid(100)), Tid(500));
    assert_eq!(pending.next_time(400, Tid(100)), Tid(501), "the clock was set back");
    assert_eq!(pending.next_time(400, Tid(900)), Tid(901), "others are ahead");
}

#[test]
fn nothing_passes_by_a_plan_whose_bytes_are_not_stored() {
    let mut pending = Pending::default();
    let bytes = Bytes::from_static(b"bytes of a file");
    let id = BlobId::of(&bytes);
    accept(&mut pending, make(1), None);
    let number = accept(&mut pending, write(1, id, bytes.len() as u32), Some((id, bytes.clone())));
    accept(&mut pending, make(2), None);
    pending.mark(77);
    assert_eq!(pending.take_batch().map(|batch| batch.last), Some(1));
    assert_eq!((pending.take_batch(), pending.take_shipped()), (None, vec![]));
    assert_eq!(pending.blob(&id), Some(bytes), "it can be read meanwhile");
    pending.stored(number, Tid(5));
    assert_eq!(pending.take_batch().map(|batch| batch.last), Some(3));
    assert_eq!(pending.take_shipped(), [77]);
    pending.on_landed(3, Tid(200));
    assert_eq!(pending.blob(&id), None);
}

#[test]
fn a_batch_says_as_of_when_its_bytes_are_stored_and_what_is_lost_has_its_bytes() {
    let mut pending = Pending::default();
    let bytes = Bytes::from_static(b"bytes of a file");
    let id = BlobId::of(&bytes);
    accept(&mut pending, make(1), None);
    assert_eq!(pending.take_batch().map(|batch| batch.stored_as_of), Some(Tid::MAX), "it names none");
    let number = accept(&mut pending, write(1, id, bytes.len() as u32), Some((id, bytes.clone())));
    pending.stored(number, Tid(5));
    assert_eq!(pending.take_batch().map(|batch| batch.stored_as_of), Some(Tid(5)));
    let lost = pending.lose().pop().unwrap();
    assert_eq!(lost.blob, Some((id, bytes)), "though they were stored: they may be collected before it is offered");
    assert!(lost.is_to_be_stored());
}

#[test]
fn what_is_lost_says_what_may_have_happened() {
    let mut pending = Pending::default();
    accept(&mut pending, make(1), None);
    pending.take_batch();
    accept(&mut pending, make(2), None);
    pending.mark(5);
    let lost = pending.lose();
    assert_eq!(lost.iter().map(|lost| (lost.number, lost.shipped)).collect::<Vec<_>>(), [(1, true), (2, false)]);
    assert!(written(&lost[1].plan).contains(&KeyRange::one(&Key::attr(V, object(2)))));
    assert!(pending.layer().is_empty());
    pending.check_invariants();
    assert_eq!(pending.take_shipped(), [5], "whoever waits for it to be shipped waits no more");
    assert_eq!(accept(&mut pending, make(3), None), 3, "no number is used twice");
}

#[test]
fn a_plan_that_can_not_be_applied_leaves_nothing() {
    let mut pending = Pending::default();
    let time = pending.next_time(0, Tid(100));
    let bytes = write(1, BlobId([1; 32]), 10);
    assert!(
        pending.accept(&replica(), time, bytes, Vec::new(), None, asked).is_err(),
        "bytes of a file that is not there"
    );
    assert!(pending.layer().is_empty() && pending.accepted() == 0);
    pending.check_invariants();
}

#[test]
fn a_batch_has_bounds() {
    let mut pending = Pending::default();
    for number in 0..2 * BATCH_MUTATIONS_MAX as u64 / 3 {
        accept(&mut pending, make(number), None);
    }
    let batch = pending.take_batch().unwrap();
    assert!(batch.plan.mutations.len() <= BATCH_MUTATIONS_MAX);
    assert!(batch.last < pending.accepted() && pending.take_batch().is_some());
}

#[test]
fn ids_that_others_have_leases_around_are_passed_by_if_there_are_better_ones() {
    let mut pending = Pending::default();
    pending.add_ids((100, 110));
    pending.add_ids((1000, 1200));
    assert_eq!(pending.take_id(|_| true), Some(ObjectId(100)));
    assert_eq!(pending.take_id(|_| false), Some(ObjectId(101)), "one that is not good is better than none");
    assert_eq!(pending.take_id(|id| id.0 >= 1088), Some(ObjectId(1088)), "the first multiple of 64 that is good");
    assert_eq!(pending.take_id(|_| true), Some(ObjectId(1089)), "those before are not used any more");
    pending.put_back_id(ObjectId(1089));
    assert_eq!(pending.take_id(|_| true), Some(ObjectId(1089)));
    assert_eq!((0..).map_while(|_| pending.take_id(|_| true)).last(), Some(ObjectId(1199)));
}

#[test]
fn what_a_batch_has_made_it_does_not_take_back() {
    let mut pending = Pending::default();
    let unlink = |number: u64| {
        let name = format!("f{number}");
        let delta = AttrDelta { nlink: -1, ..AttrDelta::default() };
        Plan {
            mutations: vec![
                Mutation::Delete { key: Key::dirent(V, DIR, name.as_bytes()) },
                Mutation::Adjust { volume: V, object: object(number), delta },
                Mutation::Orphan { volume: V, object: object(number) },
            ],
        }
    };
    let truncate = |number| {
        let (object, start, end) = (object(number), 0, FILE_BYTES_MAX);
        Plan { mutations: vec![Mutation::Carve { volume: V, object, start, end }] }
    };
    for plan in [make(1), make(2), unlink(1), truncate(2), make(3)] {
        accept(&mut pending, plan, None);
    }
    let batches: Vec<u64> = std::iter::from_fn(|| pending.take_batch()).map(|batch| batch.last).collect();
    assert_eq!(batches, [2, 5], "a state with both files, and one without");
    for plan in [make(6), unlink(2), unlink(3), make(7)] {
        accept(&mut pending, plan, None);
    }
    let batches: Vec<u64> = std::iter::from_fn(|| pending.take_batch()).map(|batch| batch.last).collect();
    assert_eq!(batches, [6, 9], "what was before removals begin is a state of its own");
    // Whose plans are joined is one user.
    let other = || Asked { caller: Caller { uid: 7, gid: 7 }, ..asked() };
    accept(&mut pending, make(4), None);
    let time = pending.next_time(0, Tid(100));
    pending.accept(&replica(), time, make(5), Vec::new(), None, other).unwrap();
    let authors: Vec<u32> = std::iter::from_fn(|| pending.take_batch()).map(|batch| batch.author.uid).collect();
    assert_eq!(authors, [0, 7]);
}

/// A write that was stored to be shipped, and is then answered at once under a lease: its bytes are stored once more, and what it relied on does not count.
#[test]
fn bytes_that_were_stored_to_be_shipped_are_stored_again_when_they_are_answered_behind() {
    use crate::{Run, Step, TreeRequest};
    let data = vec![7; 20_000];
    let request =
        TreeRequest::Write { object: object(1), offset: 0, append: false, data: data.clone(), kill_suidgid: false };
    let mut run = Run::new(V, Caller::default(), request).unwrap();
    assert_eq!(run.step(&replica()), Step::Store(Bytes::from(data.clone())));
    assert_eq!(run.blob_to_store(), Some(Blob::of(Bytes::from(data.clone()))));
    run.stored(Tid(5));
    assert_eq!(
        run.blob_to_store(),
        Some(Blob::of(Bytes::from(data))),
        "whoever commits it later must not rely on Tid 5"
    );
}

/// Nanoseconds that this thread has had a processor.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// `cargo test -p gavel-client what_accepting_costs -- --ignored --nocapture`: files of 10 KiB are made and written, 100 of them pending.
#[test]
#[ignore = "a measurement, not a test"]
fn what_accepting_costs() {
    let (mut pending, base, files) = (Pending::default(), replica(), 2_000);
    let bytes = vec![7u8; 10 * 1024];
    let began = cpu_ns();
    for number in 0..files {
        let content = Content::Inline(bytes.clone().into());
        let extent = Record::Extent(Extent { len: bytes.len() as u64, content });
        let put = Mutation::Put { key: Key::extent(V, object(number), bytes.len() as u64), record: extent };
        for plan in [make(number), Plan { mutations: vec![put] }] {
            let time = pending.next_time(0, Tid(100));
            pending.accept(&base, time, plan, Vec::new(), None, asked).unwrap();
        }
        if number % 10 == 9 {
            while pending.take_batch().is_some() {}
            let last = pending.accepted().saturating_sub(200);
            pending.on_landed(last, Tid(100));
        }
    }
    println!("{:.1} us of CPU a file", (cpu_ns() - began) as f64 / 1e3 / files as f64);
}
