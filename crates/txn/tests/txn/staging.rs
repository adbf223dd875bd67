//! Parts of a commit that are written before it: what they may write, how they are adopted, and what becomes of those that are not.

use super::world::*;
use gavel_txn::apply::{REAP_RECORDS_MAX, REAP_STAGED_MAX};
use gavel_txn::{Applied, Stage};
use gavel_types::limits::OBJECT_BLOCK;
use gavel_types::{BlobId, Key, KeyRange, NodeId, ObjectId, SessionId, Tid, VolumeId};
use gavel_wire::{
    Author, Content, Guard, Item, Mode, Mutation, Outcome, Plan, Record, Refusal, RequestBody, View, Want,
};
use std::collections::{BTreeMap, BTreeSet};

/// A world in which a block of ids was given to the first session; one of them, with many behind it.
fn world() -> (World, u64) {
    let mut world = World::new();
    let request = world.request(world.session, RequestBody::AllocateObjects);
    let applied = world.item(request);
    match applied.outcomes[0].2 {
        // Behind the files that every world has.
        Outcome::Allocated { first, .. } => (world, first.0 + 100),
        ref other => panic!("{other:?}"),
    }
}

fn stage_in(volume: VolumeId, group: u64, runs: &[(u64, u64)], mutations: Vec<Mutation>) -> RequestBody {
    let runs = runs.iter().map(|(first, last)| (ObjectId(*first), ObjectId(*last))).collect();
    RequestBody::Stage { group, volume, runs, plan: Plan { mutations }, stored_as_of: Tid::MAX }
}

fn stage(group: u64, runs: &[(u64, u64)], mutations: Vec<Mutation>) -> RequestBody {
    stage_in(V, group, runs, mutations)
}

fn adopt(group: u64, guards: Vec<Guard>, mutations: Vec<Mutation>) -> RequestBody {
    let author = Author { uid: 1000, note: "all of it".into() };
    RequestBody::Adopt { group, guards, plan: Plan { mutations }, author, stored_as_of: Tid::MAX }
}

/// A request of a session, and what became of it.
fn ask_as(world: &mut World, session: SessionId, body: RequestBody) -> (Outcome, Applied) {
    let request = world.request(session, body);
    let applied = world.item(request);
    (applied.outcomes[0].2.clone(), applied)
}

fn ask(world: &mut World, body: RequestBody) -> Outcome {
    ask_as(world, world.session, body).0
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused { refusal }
}

#[track_caller]
fn done(world: &mut World, body: RequestBody) -> Tid {
    match ask(world, body) {
        Outcome::Committed { tid } => tid,
        other => panic!("{other:?}"),
    }
}

fn made(object: u64) -> Vec<Mutation> {
    let object = ObjectId(object);
    vec![put_attr(object, file(1)), put_text(object, 0, "text")]
}

/// Reaps until nothing is left to be; tells in how many entries.
fn reap(world: &mut World) -> usize {
    let mut entries = 0;
    while world.state.staged.has_abandoned() {
        let applied = world.item(Item::ReapStaged);
        assert!(applied.reaped_staged && applied.changes.len() <= REAP_STAGED_MAX);
        entries += 1;
        assert!(entries < 1000, "it does not come to an end: {:?}", world.state.staged);
    }
    entries
}

fn rows(world: &World, volume: VolumeId, first: u64, last: u64) -> usize {
    let range = KeyRange::objects(volume, ObjectId(first), ObjectId(last));
    world.memory.at(world.state.tid).scan(&range, usize::MAX).unwrap().len()
}

#[test]
fn what_is_staged_and_adopted_is_one_transaction() {
    let (mut world, id) = world();
    let first = done(&mut world, stage(1, &[(id, id + 1)], [made(id), made(id + 1)].concat()));
    // More of an object that is staged already: its own runs need not be named again.
    let more = vec![put_text(ObjectId(id), 4, "more"), put_xattr(ObjectId(id), "user.a", b"1")];
    let second = done(&mut world, stage(1, &[], more));
    assert!(world.version(&Key::commit(V, first)).is_none(), "a stage is nobody's transaction");
    let names = vec![put_name(ROOT, "a", ObjectId(id)), put_name(ROOT, "b", ObjectId(id + 1))];
    let tid = done(&mut world, adopt(1, vec![], names));
    let Some(Record::Commit(by)) = world.version(&Key::commit(V, tid)).map(|version| version.record) else { panic!() };
    assert_eq!((by.node, by.uid, &*by.note, by.staged), (NodeId(1), 1000, "all of it", vec![first, second]));
    assert!(world.state.staged.is_empty());
    assert_eq!(world.extents(ObjectId(id)), "0..4 text, 4..8 more");
    assert_eq!(ask(&mut world, adopt(1, vec![], vec![])), refused(Refusal::NotStaged), "a group is adopted once");
}

#[test]
fn a_stage_writes_objects_of_its_own_group_and_nothing_else() {
    let (mut world, id) = world();
    done(&mut world, stage(1, &[(id, id)], made(id)));
    let bad = |world: &mut World, runs: &[(u64, u64)], mutations| {
        assert_eq!(ask(world, stage(2, runs, mutations)), refused(Refusal::BadPlan));
        assert_eq!(world.state.staged.len(), (1, 0));
    };
    bad(&mut world, &[(id + 5, id + 6)], made(id + 7));
    bad(&mut world, &[(id + 5, id + 6)], made(id));
    bad(&mut world, &[(id + 5, id + 6)], vec![put_attr(FILE, file(2))]);
    bad(&mut world, &[(id + 5, id + 6)], vec![put_name(ROOT, "a", ObjectId(id + 5))]);
    bad(&mut world, &[(id + 5, id + 6)], vec![orphan(ObjectId(id + 5))]);
    let elsewhere = put(Key::attr(VolumeId(2), ObjectId(id + 5)), Record::Attr(file(1)));
    bad(&mut world, &[(id + 5, id + 6)], vec![elsewhere]);
    // Runs: not given out, backwards, overlapping, of the quorum's own.
    let behind = world.state.next_object.0;
    for runs in [&[(behind, behind)][..], &[(id + 9, id + 8)], &[(id + 8, id + 9), (id + 9, id + 9)], &[(1, 1)]] {
        bad(&mut world, runs, vec![]);
    }
    // Bytes without attributes: a rule of the record space.
    bad(&mut world, &[(id + 5, id + 5)], vec![put_text(ObjectId(id + 5), 0, "text")]);
}

#[test]
fn what_is_there_is_not_staged() {
    let (mut world, id) = world();
    world.committed(vec![put_attr(ObjectId(id + 1), file(1))]);
    assert_eq!(ask(&mut world, stage(1, &[(id, id + 2)], made(id))), refused(Refusal::Exists));
    done(&mut world, stage(1, &[(id, id), (id + 2, id + 2)], made(id)));
    assert_eq!(ask(&mut world, stage(2, &[(id + 2, id + 3)], made(id + 3))), refused(Refusal::Exists), "another group");
    done(&mut world, RequestBody::Unstage { group: 1 });
    assert_eq!(ask(&mut world, stage(2, &[(id, id)], made(id))), refused(Refusal::Exists), "not reaped yet");
    reap(&mut world);
    done(&mut world, stage(2, &[(id, id)], made(id)));
}

#[test]
fn a_group_belongs_to_one_session_and_one_volume() {
    let (mut world, id) = world();
    let other = world.open(2, 1);
    done(&mut world, stage(1, &[(id, id)], made(id)));
    let (outcome, _) = ask_as(&mut world, other, adopt(1, vec![], vec![put_name(ROOT, "a", ObjectId(id))]));
    assert_eq!(outcome, refused(Refusal::NotStaged));
    let (outcome, _) = ask_as(&mut world, other, RequestBody::Unstage { group: 1 });
    assert!(matches!(outcome, Outcome::Committed { .. }), "nothing happens");
    done(&mut world, RequestBody::CreateVolume { name: "b".into(), mode: 0o755, uid: 0, gid: 0 });
    let key = Key::attr(VolumeId(2), ObjectId(id + 1));
    let there = stage_in(VolumeId(2), 1, &[(id + 1, id + 1)], vec![put(key, Record::Attr(file(1)))]);
    assert_eq!(ask(&mut world, there), refused(Refusal::Missing));
    assert_eq!(world.state.staged.len(), (1, 0));
}

#[test]
fn what_is_refused_as_leased_stays_and_what_collides_is_reaped() {
    let (mut world, id) = world();
    let other = world.open(2, 1);
    let range = KeyRange::object(V, ROOT);
    let wants = vec![Want { range: range.clone(), mode: Mode::Shared, urgent: true }];
    ask_as(&mut world, other, RequestBody::Lease { wants });
    done(&mut world, stage(1, &[(id, id)], made(id)));
    let names = vec![put_name(ROOT, "a", ObjectId(id))];
    assert_eq!(ask(&mut world, adopt(1, vec![], names.clone())), refused(Refusal::Leased));
    assert_eq!(world.state.staged.len(), (1, 0), "it is asked again");
    ask_as(&mut world, other, RequestBody::Yield { ranges: vec![range], cool: false });
    let guard = Guard::Empty { range: KeyRange::one(&Key::attr(V, FILE)) };
    assert_eq!(ask(&mut world, adopt(1, vec![guard], names)), refused(Refusal::Conflict { guard: 0 }));
    assert_eq!(world.state.staged.len(), (0, 1));
    assert!(rows(&world, V, id, id) > 0);
    reap(&mut world);
    assert_eq!((rows(&world, V, id, id), world.state.staged.is_empty()), (0, true));
}

#[test]
fn a_stage_waits_for_leases_like_any_commit() {
    let (mut world, id) = world();
    let other = world.open(2, 1);
    // What the first session was given it holds; then somebody else does.
    let block = KeyRange::objects(V, ObjectId(id), ObjectId(id + OBJECT_BLOCK / 2));
    let request = RequestBody::Yield { ranges: vec![block.clone()], cool: false };
    done(&mut world, request);
    let wants = vec![Want { range: KeyRange::object(V, ObjectId(id)), mode: Mode::Exclusive, urgent: true }];
    ask_as(&mut world, other, RequestBody::Lease { wants });
    let held = world.state.leases.held_by(other).touches(&block);
    let outcome = ask(&mut world, stage(1, &[(id, id)], made(id)));
    assert_eq!(outcome == refused(Refusal::Leased), held);
    assert!(held, "or this test shows nothing");
}

#[test]
fn a_large_group_is_reaped_in_steps_and_leaves_room_for_others() {
    let (mut world, id) = world();
    let before = world.state.volumes[&V];
    let (count, each) = (5, 600);
    for object in id..id + count {
        let mut plan = vec![put_attr(ObjectId(object), file(1))];
        plan.extend((0..each).map(|i| put_extent(ObjectId(object), i * 2, 1, Content::Zeros)));
        done(&mut world, stage(1, &[(object, object)], plan));
    }
    // Objects that it was given and never wrote.
    done(&mut world, stage(1, &[(id + 100, id + 900)], vec![]));
    assert_eq!(world.state.volumes[&V].objects, before.objects + count);
    let ended = world.item(Item::SessionExpire { session: world.session });
    assert!(ended.changes.is_empty(), "that alone takes no time");
    let entries = reap(&mut world);
    assert_eq!(entries as u64, count * (each + 1) / REAP_STAGED_MAX as u64 + 1);
    assert_eq!((rows(&world, V, id, id + 900), world.state.volumes[&V]), (0, before));
    assert!(world.item(Item::ReapStaged).changes.is_empty());
    const { assert!(REAP_STAGED_MAX <= REAP_RECORDS_MAX) };
}

#[test]
fn a_new_life_of_a_node_has_nothing_staged() {
    let (mut world, id) = world();
    done(&mut world, stage(1, &[(id, id)], made(id)));
    world.open(1, 2);
    assert_eq!(world.state.staged.len(), (0, 1));
}

#[test]
fn what_is_staged_goes_with_its_volume() {
    let (mut world, id) = world();
    done(&mut world, RequestBody::CreateVolume { name: "b".into(), mode: 0o755, uid: 0, gid: 0 });
    let volume = VolumeId(2);
    let attr = |object| put(Key::attr(volume, ObjectId(object)), Record::Attr(file(1)));
    done(&mut world, stage_in(volume, 1, &[(id, id)], vec![attr(id)]));
    done(&mut world, stage_in(volume, 2, &[(id + 1, id + 1)], vec![attr(id + 1)]));
    done(&mut world, RequestBody::Unstage { group: 1 });
    done(&mut world, RequestBody::DestroyVolume { volume, now: true });
    assert_eq!(world.state.past.of(volume).unwrap().stage, Stage::Going);
    assert_eq!(ask(&mut world, stage_in(volume, 2, &[], vec![])), refused(Refusal::Missing));
    assert_eq!(ask(&mut world, adopt(2, vec![], vec![])), refused(Refusal::Missing));
    assert!(world.item(Item::ReapStaged).changes.is_empty());
    while world.state.past.of(volume).is_some() {
        world.item(Item::Sweep { volume, rows: 100 });
    }
    assert!(world.state.staged.is_empty());
}

#[test]
fn a_clone_does_not_keep_what_was_staged_in_its_origin() {
    let (mut world, id) = world();
    done(&mut world, stage(1, &[(id, id)], made(id)));
    done(&mut world, RequestBody::CloneVolume { from: V, at: None, name: "c".into() });
    let clone = VolumeId(2);
    assert_eq!(world.state.staged.len(), (1, 1));
    assert!(rows(&world, clone, id, id) > 0, "it shows what its origin showed");
    reap(&mut world);
    assert_eq!(rows(&world, clone, id, id), 0);
    assert!(rows(&world, V, id, id) > 0, "in its origin it is as it was");
    let tid = done(&mut world, adopt(1, vec![], vec![put_name(ROOT, "a", ObjectId(id))]));
    assert!(world.version(&Key::commit(V, tid)).is_some());
    assert_eq!(world.state.volumes[&clone].objects + 1, world.state.volumes[&V].objects);
}

#[test]
fn a_blob_that_a_staged_row_names_is_not_collected() {
    let (mut world, id) = world();
    let object = ObjectId(id);
    done(&mut world, stage(1, &[(id, id)], vec![put_attr(object, file(1)), put_extent(object, 0, 10, blob(10, 0))]));
    let named: BlobId = match world.version(&Key::extent(V, object, 10)).and_then(|version| version.blob()) {
        Some(blob) => blob,
        None => panic!("it names a blob"),
    };
    let applied = world.item(Item::Condemn { blobs: vec![named] });
    assert!(applied.blobs.condemned.is_empty());
    // One that is gone: the stage is refused, and its session goes on.
    done(&mut world, RequestBody::Unstage { group: 1 });
    let before = Tid(world.state.tid.0);
    let gone = BlobId([9; 32]);
    world.item(Item::Condemn { blobs: vec![gone] });
    world.item(Item::Collect { blobs: vec![gone] });
    let content = Content::Blob { id: gone, blob_len: 10, offset: 0 };
    let plan =
        Plan { mutations: vec![put_attr(ObjectId(id + 1), file(1)), put_extent(ObjectId(id + 1), 0, 10, content)] };
    let runs = vec![(ObjectId(id + 1), ObjectId(id + 1))];
    let body = RequestBody::Stage { group: 2, volume: V, runs, plan, stored_as_of: before };
    assert_eq!(ask(&mut world, body), refused(Refusal::Collected));
    assert!(world.state.sessions.contains_key(&world.session));
}

/// xorshift64*: (Vigna, 2014).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }
}

/// Random stages, adoptions, ends of sessions and reaping, many in an entry: in the end what was adopted is there, whole, and nothing else.
#[test]
fn what_is_adopted_is_there_and_nothing_else_is() {
    for seed in 1..60 {
        let mut dice = Dice(seed);
        let (mut world, mut id) = world();
        let (mut life, mut adopted, mut tried) = (1, BTreeMap::new(), BTreeSet::new());
        let mut written: BTreeMap<(SessionId, u64), Vec<(u64, u64)>> = BTreeMap::new();
        for step in 0..60 {
            let session = world.session;
            let group = dice.roll(4);
            match dice.roll(10) {
                0..=4 => {
                    let (count, texts) = (1 + dice.roll(3), if dice.roll(40) == 0 { 1100 } else { 1 + dice.roll(3) });
                    let first = id + dice.roll(2);
                    id = first + count;
                    let mut plan = Vec::new();
                    for object in first..first + count {
                        plan.push(put_attr(ObjectId(object), file(1)));
                        plan.extend((0..texts).map(|i| put_extent(ObjectId(object), i * 2, 1, Content::Zeros)));
                    }
                    done(&mut world, stage(group, &[(first, first + count - 1)], plan));
                    let objects = (first..first + count).map(|object| (object, texts));
                    tried.extend(first..first + count);
                    written.entry((session, group)).or_default().extend(objects);
                }
                5 | 6 => {
                    let mine = written.remove(&(session, group));
                    let name = |(object, _): &(u64, u64)| put_name(ROOT, &format!("{object}"), ObjectId(*object));
                    let names = mine.iter().flatten().map(name).collect();
                    let collides = dice.roll(3) == 0;
                    let guard = Guard::Empty { range: KeyRange::one(&Key::attr(V, FILE)) };
                    let guards = if collides { vec![guard] } else { vec![] };
                    match (ask(&mut world, adopt(group, guards, names)), mine) {
                        (Outcome::Committed { .. }, Some(mine)) if !collides => adopted.extend(mine),
                        (Outcome::Refused { refusal: Refusal::Conflict { .. } }, Some(_)) if collides => {}
                        (Outcome::Refused { refusal: Refusal::NotStaged }, None) => {}
                        (other, mine) => panic!("seed {seed}, step {step}: {other:?} of {mine:?}"),
                    }
                }
                7 => {
                    written.remove(&(session, group));
                    done(&mut world, RequestBody::Unstage { group });
                }
                8 => {
                    life += 1;
                    world.session = world.open(1, life);
                    written.clear();
                }
                _ => drop(world.entry(vec![Item::ReapStaged; 1 + dice.roll(4) as usize])),
            }
        }
        world.item(Item::SessionExpire { session: world.session });
        reap(&mut world);
        assert!(world.state.staged.is_empty(), "seed {seed}");
        for object in tried {
            let texts = adopted.get(&object).map_or(0, |texts| 1 + *texts as usize);
            assert_eq!(rows(&world, V, object, object), texts, "seed {seed}: {object}");
        }
    }
}
