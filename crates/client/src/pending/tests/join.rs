//! Random operations, answered at once and committed in batches: what shows meanwhile is what each of them by itself would have left.

use super::*;
use crate::behind::Behind;
use crate::leases::Usable;
use crate::run::Run;
use crate::transaction::tests::{Base, Dice, SECOND, without_times};
use crate::tree::TreeRequest;
use gavel_lease::RangeSet;
use gavel_types::Moment;

const NOW: Moment = Moment(SECOND);

fn usable() -> Usable {
    let all = RangeSet::from_iter([KeyRange::volume(V)]);
    let (reads, keeps, writes) = (all.clone(), RangeSet::default(), all);
    Usable { reads, keeps, writes, until: Moment(2 * SECOND), time: (NOW, SECOND) }
}

/// All records, without what depends on when they were committed.
fn records(view: &dyn View) -> BTreeMap<Key, Record> {
    let all = view.scan(&KeyRange::volume(V), usize::MAX).unwrap();
    all.into_iter().map(|(key, version)| (key, without_times(version.record))).collect()
}

/// Runs of a file's bytes: where each starts, and its bytes.
type Runs = Vec<(u64, Vec<u8>)>;

/// The same with bytes that follow each other in one piece: how they are cut up is nobody's business.
fn shown(view: &dyn View) -> (BTreeMap<Key, Record>, BTreeMap<ObjectId, Runs>) {
    let (mut rest, mut files) = (BTreeMap::new(), BTreeMap::<ObjectId, Runs>::new());
    for (key, record) in records(view) {
        let (KeyParts::Extent { end }, Record::Extent(Extent { len, content })) = (key.parts(), &record) else {
            rest.insert(key, record);
            continue;
        };
        let zeros = vec![0; *len as usize];
        let bytes = match content {
            Content::Inline(bytes) => bytes,
            _ => &zeros[..],
        };
        let (start, runs) = (end - len, files.entry(key.object()).or_default());
        match runs.last_mut() {
            Some((first, run)) if *first + run.len() as u64 == start => run.extend_from_slice(bytes),
            _ => runs.push((start, bytes.to_vec())),
        }
    }
    (rest, files)
}

/// A program that unpacks: a file is made, written one piece behind the other, and given a mode.
fn unpack(dice: &mut Dice, written: &mut BTreeMap<ObjectId, u64>, view: &dyn View) -> TreeRequest {
    let last = written.keys().next_back().copied();
    match (dice.roll(8), last) {
        (0, _) | (_, None) => TreeRequest::Operation(Operation::Create {
            parent: ObjectId::ROOT,
            name: format!("{}", dice.roll(1 << 40)).into_bytes().into(),
            mode: 0o600,
            umask: 0,
            exclusive: true,
            truncate: false,
        }),
        (1, Some(_)) => dice.request(view),
        (2, Some(object)) => {
            let set = gavel_fs::operation::SetAttr { mode: Some(dice.roll(8) as u16), ..Default::default() };
            TreeRequest::Operation(Operation::Setattr { object, set })
        }
        (_, Some(object)) => {
            let len = [1, 100, 5_000][dice.roll(3) as usize] + dice.roll(3_000);
            let offset = *written.get(&object).unwrap();
            written.insert(object, offset + len);
            let data = (0..len).map(|_| dice.roll(256) as u8).collect();
            TreeRequest::Write { object, offset, append: false, data, kill_suidgid: dice.roll(2) == 0 }
        }
    }
}

#[test]
fn a_batch_leaves_what_its_plans_one_by_one_would_have() {
    let (mut pieces, mut extents) = (0, 0);
    for seed in 1..=40 {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let (mut pending, mut base, mut apart) = (Pending::default(), Base::new(), Base::new());
        pending.add_ids((100, 10_000));
        let mut written = BTreeMap::new();
        let mut in_flight = VecDeque::new();
        for step in 0..120 {
            let view = Layered::new(base.clone(), pending.layer().clone());
            let request = match seed % 2 {
                0 => dice.request(&view),
                _ => unpack(&mut dice, &mut written, &view),
            };
            // What is of different users is not joined, so that plans are behind the batch which is taken.
            let caller = Caller { uid: u32::from(step % 40 > 25), gid: 0 };
            let mut run = Run::new(V, caller, request.clone()).unwrap();
            match run.step_behind(&base, &mut pending, &usable(), NOW) {
                Behind::Done { accepted: Some(taken), .. } => {
                    taken.made.into_iter().for_each(|object| _ = written.insert(object, 0));
                    apart.commit(&pending.queue.back().unwrap().plan);
                    pieces += u32::from(matches!(request, TreeRequest::Write { .. }));
                }
                Behind::Done { .. } | Behind::No => {}
                other => panic!("seed {seed}, step {step}: {other:?}"),
            }
            if dice.roll(12) == 0 {
                in_flight.extend(pending.take_batch());
            }
            let before = records(&Layered::new(base.clone(), pending.layer().clone()));
            if dice.roll(6) == 0
                && let Some(Batch { last, plan, .. }) = in_flight.pop_front()
            {
                base.commit(&plan);
                pending.on_landed(last, base.tid);
                extents += plan.mutations.iter().filter(|mutation| is_extent(mutation)).count();
            }
            pending.check_invariants();
            let view = Layered::new(base.clone(), pending.layer().clone());
            assert!(records(&view) == before, "seed {seed}, step {step}: the layer had what the replica has now");
            assert!(shown(&view) == shown(&apart), "seed {seed}, step {step}");
        }
    }
    println!("{pieces} writes, {extents} extents committed");
    assert!(extents * 5 < pieces as usize * 3, "{pieces} writes were committed as {extents} extents");
}

fn is_extent(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::Put { record: Record::Extent(_), .. })
}

#[test]
fn what_makes_a_file_as_long_is_not_added_to() {
    let mut layer = Layer::default();
    let mut join = Join::new(&mut layer);
    let adjust = |delta| Plan { mutations: vec![Mutation::Adjust { volume: V, object: DIR, delta }] };
    let (at_least, longer) =
        (AttrDelta { size_min: 10, ..AttrDelta::default() }, AttrDelta { size: 5, ..AttrDelta::default() });
    for (number, delta) in (1..).zip([at_least, longer, longer, at_least]) {
        join.push(number, &adjust(delta));
    }
    let twice = AttrDelta { size: 10, size_min: 10, ..AttrDelta::default() };
    assert_eq!(join.finish().mutations, [at_least, twice].map(|delta| adjust(delta).mutations.remove(0)));
}

/// Asks for something that is answered at once.
fn ask(pending: &mut Pending, base: &Base, uid: u32, request: TreeRequest) {
    let mut run = Run::new(V, Caller { uid, gid: 0 }, request).unwrap();
    let behind = run.step_behind(base, pending, &usable(), NOW);
    assert!(matches!(behind, Behind::Done { accepted: Some(_), .. }), "{behind:?}");
}

fn create() -> TreeRequest {
    let (parent, name) = (ObjectId::ROOT, (*b"f").into());
    TreeRequest::Operation(Operation::Create { parent, name, mode: 0o600, umask: 0, exclusive: true, truncate: false })
}

fn write_at(offset: u64, len: usize) -> TreeRequest {
    let data = vec![7; len];
    TreeRequest::Write { object: ObjectId(100), offset, append: false, data, kill_suidgid: false }
}

#[test]
fn what_a_plan_behind_the_batch_has_cut_up_stays_in_pieces() {
    let (mut pending, mut base) = (Pending::default(), Base::new());
    pending.add_ids((100, 200));
    for (uid, request) in [(0, create()), (0, write_at(0, 100)), (0, write_at(100, 100)), (7, write_at(10, 10))] {
        ask(&mut pending, &base, uid, request);
    }
    let before = records(&Layered::new(base.clone(), pending.layer().clone()));
    for _ in 0..2 {
        let batch = pending.take_batch().unwrap();
        assert_eq!(records(&Layered::new(base.clone(), pending.layer().clone())), before);
        base.commit(&batch.plan);
        pending.on_landed(batch.last, base.tid);
    }
    assert_eq!(records(&base), before);
}

/// A file of three pieces with everything that unpacking does besides.
#[test]
fn a_file_that_is_unpacked_is_four_records() {
    let (mut pending, mut base) = (Pending::default(), Base::new());
    pending.add_ids((100, 200));
    let chmod = |mode| {
        let set = gavel_fs::operation::SetAttr { mode: Some(mode), ..Default::default() };
        TreeRequest::Operation(Operation::Setattr { object: ObjectId(100), set })
    };
    let pieces = [write_at(0, 4_000), write_at(4_000, 8_000), write_at(12_000, 384)];
    for request in [create()].into_iter().chain(pieces).chain([chmod(0o640), chmod(0o644)]) {
        ask(&mut pending, &base, 0, request);
    }
    let batch = pending.take_batch().unwrap();
    let puts: Vec<&Record> = batch.plan.mutations.iter().filter_map(put_record).collect();
    let [Record::Attr(attr), Record::Dirent(_), Record::Extent(extent)] = puts[..] else { panic!("{batch:?}") };
    assert_eq!((attr.size, attr.firm.mode, extent.len), (12_384, 0o644, 12_384));
    assert_eq!(batch.plan.mutations.len(), 5, "and the directory's times, and the bytes that may be there: {batch:?}");

    // What is written over is cut up, so that what a program may write over stays as it wrote it.
    base.commit(&batch.plan);
    pending.on_landed(batch.last, base.tid);
    [write_at(0, 4_000), write_at(4_000, 4_000)].into_iter().for_each(|request| ask(&mut pending, &base, 0, request));
    let batch = pending.take_batch().unwrap();
    assert_eq!(batch.plan.mutations.iter().filter(|mutation| is_extent(mutation)).count(), 2);
}

fn put_record(mutation: &Mutation) -> Option<&Record> {
    match mutation {
        Mutation::Put { record, .. } => Some(record),
        _ => None,
    }
}
