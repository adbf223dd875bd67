//! Volumes that are made, cloned, destroyed, and that go.

use super::world::*;
use gavel_txn::Stage;
use gavel_txn::apply::BLOCK_VOLUMES_MAX;
use gavel_txn::past::VolumePast;
use gavel_types::limits::{CLONE_DEPTH_MAX, VOLUMES_MAX};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Retention, Tid, VolumeId};
use gavel_wire::{Guard, Item, Mutation, Outcome, Refusal, RequestBody, Version, View};

const CLONE: VolumeId = VolumeId(2);
const SECOND: u64 = 1_000_000_000;

fn make(world: &mut World, name: &str) -> Result<(), Refusal> {
    ask(world, RequestBody::CreateVolume { name: name.into(), mode: 0o755, uid: 1, gid: 2 })
}

fn clone(world: &mut World, from: VolumeId, at: Option<Tid>, name: &str) -> Result<(), Refusal> {
    ask(world, RequestBody::CloneVolume { from, at, name: name.into() })
}

fn destroy(world: &mut World, volume: VolumeId, now: bool) -> Result<(), Refusal> {
    ask(world, RequestBody::DestroyVolume { volume, now })
}

fn restore(world: &mut World, volume: VolumeId, name: Option<&str>) -> Result<(), Refusal> {
    ask(world, RequestBody::RestoreVolume { volume, name: name.map(Into::into) })
}

fn past(world: &World, volume: VolumeId) -> &VolumePast {
    world.state.past.of(volume).unwrap()
}

/// Sweeps until nothing is left to do.
fn sweep(world: &mut World, rows: u32) {
    for _ in 0..10_000 {
        let Some((volume, _)) = world.state.past.volumes().find(|(_, past)| past.pass.is_some()) else { return };
        world.item(Item::Sweep { volume, rows });
    }
    panic!("a sweep without end");
}

/// What a volume shows, as if it were `V`, without who made commits and marks.
fn state(world: &World, volume: VolumeId, at: Tid) -> Vec<(Key, Version)> {
    let rows = world.memory.at(at).scan(&KeyRange::of_objects(volume), usize::MAX).unwrap();
    rows.into_iter().map(|(key, version)| (key.in_volume(V), version)).collect()
}

fn now(world: &World, volume: VolumeId) -> Vec<(Key, Version)> {
    state(world, volume, world.state.tid)
}

/// The mutations, of another volume.
fn of(volume: VolumeId, mutations: Vec<Mutation>) -> Vec<Mutation> {
    let moved = |mutation| match mutation {
        Mutation::Put { key, record } => Mutation::Put { key: key.in_volume(volume), record },
        Mutation::Delete { key } => Mutation::Delete { key: key.in_volume(volume) },
        Mutation::Adjust { object, delta, .. } => Mutation::Adjust { volume, object, delta },
        Mutation::Carve { object, start, end, .. } => Mutation::Carve { volume, object, start, end },
        Mutation::Orphan { object, .. } => Mutation::Orphan { volume, object },
        Mutation::Append { object, len, content, .. } => Mutation::Append { volume, object, len, content },
    };
    mutations.into_iter().map(moved).collect()
}

fn xattr(volume: VolumeId) -> Key {
    Key::xattr(volume, FILE, b"user.a")
}

fn remove_xattr(volume: VolumeId) -> Vec<Mutation> {
    vec![Mutation::Delete { key: xattr(volume) }]
}

fn gone(world: &World, key: &Key) -> bool {
    world.memory.live().get(key).is_some_and(Version::is_gone)
}

#[test]
fn names_are_unique_among_the_living_and_numbers_are_given_once() {
    let mut world = World::new();
    assert_eq!(*past(&world, V).name, *"main");
    assert_eq!(make(&mut world, "main"), Err(Refusal::Exists));
    for bad in ["", "2", "a/b", &"x".repeat(65)] {
        assert_eq!(make(&mut world, bad), Err(Refusal::BadName), "{bad}");
    }
    assert_eq!(make(&mut world, "a"), Ok(()));
    assert_eq!(world.state.past.named("a"), Some(VolumeId(2)));
    assert_eq!(ask(&mut world, RequestBody::RenameVolume { volume: V, name: "a".into() }), Err(Refusal::Exists));
    assert_eq!(ask(&mut world, RequestBody::RenameVolume { volume: VolumeId(2), name: "b".into() }), Ok(()));
    assert_eq!(destroy(&mut world, VolumeId(2), false), Ok(()));
    assert_eq!(make(&mut world, "b"), Ok(()), "of one that is destroyed");
    assert_eq!(restore(&mut world, VolumeId(2), None), Err(Refusal::Exists));
    assert_eq!(restore(&mut world, VolumeId(2), Some("main")), Err(Refusal::Exists));
    assert_eq!(restore(&mut world, VolumeId(2), Some("c")), Ok(()));
    assert_eq!(restore(&mut world, VolumeId(2), Some("c")), Err(Refusal::Missing), "it lives");
    assert_eq!(destroy(&mut world, VolumeId(3), true), Ok(()));
    sweep(&mut world, 1);
    assert!(world.state.past.of(VolumeId(3)).is_none() && !world.state.volumes.contains_key(&VolumeId(3)));
    assert_eq!(make(&mut world, "d"), Ok(()));
    assert_eq!(world.state.past.named("d"), Some(VolumeId(4)), "3 is not given again");
    assert_eq!(destroy(&mut world, VolumeId(3), true), Err(Refusal::Missing));
}

#[test]
fn there_are_so_many_volumes_at_most_and_blocks_are_leased_in_a_few() {
    let mut world = World::new();
    for number in 2..=VOLUMES_MAX {
        assert_eq!(make(&mut world, &format!("v{number}")), Ok(()));
    }
    assert_eq!(make(&mut world, "more"), Err(Refusal::Full));
    assert_eq!(clone(&mut world, V, None, "more"), Err(Refusal::Full));
    assert_eq!(destroy(&mut world, VolumeId(9), false), Ok(()));
    assert_eq!(make(&mut world, "more"), Err(Refusal::Full), "it is still there");
    assert_eq!(destroy(&mut world, VolumeId(9), true), Ok(()));
    sweep(&mut world, 100);
    assert_eq!(make(&mut world, "more"), Ok(()));
    let request = world.request(world.session, RequestBody::AllocateObjects);
    world.item(request);
    assert!(world.state.leases.len() <= BLOCK_VOLUMES_MAX);
    let bytes = world.state.encode();
    assert_eq!(gavel_txn::State::decode(&bytes), Ok(world.state.clone()));
}

#[test]
fn a_clone_begins_as_its_origin_and_each_goes_its_way() {
    let mut world = World::new();
    world.committed(vec![put_xattr(FILE, "user.a", b"1"), put_text(FILE, 0, "abcdef")]);
    assert_eq!(clone(&mut world, V, None, "copy"), Ok(()));
    let begun = now(&world, V);
    assert_eq!(now(&world, CLONE), begun);
    assert_eq!(world.state.volumes[&CLONE], world.state.volumes[&V]);
    world.committed(vec![put_xattr(FILE, "user.a", b"2"), put_text(FILE, 0, "ABCDEF")]);
    assert_eq!(now(&world, CLONE), begun, "the origin has changed");
    let theirs = now(&world, V);
    let mut mutations = vec![carve(FILE, 2, 4)];
    mutations.extend(remove_xattr(V));
    mutations.push(put_attr(ObjectId(99), file(1)));
    world.committed(of(CLONE, mutations));
    assert_eq!(now(&world, V), theirs, "the clone has changed");
    assert!(gone(&world, &xattr(CLONE)) && !gone(&world, &xattr(V)));
    let clone_now = now(&world, CLONE);
    assert!(!clone_now.iter().any(|(key, version)| *key == xattr(V) || version.is_gone()));
    // Written again, and removed again.
    world.committed(of(CLONE, vec![put_xattr(FILE, "user.a", b"3")]));
    world.committed(remove_xattr(CLONE));
    assert!(gone(&world, &xattr(CLONE)));
    // What is not inherited leaves nothing behind.
    let own = Key::xattr(CLONE, FILE, b"user.b");
    world.committed(of(CLONE, vec![put_xattr(FILE, "user.b", b"1")]));
    world.committed(vec![Mutation::Delete { key: own.clone() }]);
    assert!(!world.memory.live().contains_key(&own));
}

#[test]
fn guards_see_what_a_clone_shows() {
    let mut world = World::new();
    world.committed(vec![put_xattr(FILE, "user.a", b"1")]);
    assert_eq!(clone(&mut world, V, None, "copy"), Ok(()));
    let at = world.state.tid;
    let unchanged = Guard::Unchanged { key: xattr(CLONE), at };
    let stable = Guard::Stable { range: KeyRange::xattrs(CLONE, FILE), at };
    let empty = Guard::Empty { range: KeyRange::xattrs(CLONE, FILE) };
    assert!(!world.guarded(empty.clone()));
    world.committed(vec![put_xattr(FILE, "user.a", b"2")]);
    assert!(world.guarded(unchanged.clone()) && world.guarded(stable.clone()), "that was the origin");
    world.committed(remove_xattr(CLONE));
    assert!(!world.guarded(unchanged) && !world.guarded(stable) && world.guarded(empty));
}

#[test]
fn a_clone_of_a_past_state_is_counted_while_it_is_used() {
    let mut world = World::new();
    // Ids that nobody was given are not looked up.
    let request = world.request(world.session, RequestBody::AllocateObjects);
    world.item(request);
    world.committed(vec![put_text(FILE, 0, "abcdef")]);
    let (then, begun) = (world.state.tid, now(&world, V));
    world.committed(vec![carve(FILE, 0, 100), put_attr(ObjectId(99), file(1))]);
    assert_eq!(clone(&mut world, V, Some(Tid(then.0 + 1)), "copy"), Ok(()));
    assert_eq!(now(&world, CLONE), begun);
    assert!(past(&world, CLONE).is_being_counted());
    // More is taken away than has been counted.
    world.committed(of(CLONE, vec![carve(FILE, 0, 100)]));
    assert_eq!(clone(&mut world, CLONE, None, "copy-of-copy"), Ok(()));
    assert_eq!(ask(&mut world, RequestBody::Prune { volume: CLONE }), Ok(()));
    assert!(past(&world, CLONE).is_being_counted());
    // The world compares what is counted when all is.
    sweep(&mut world, 1);
    assert_eq!((world.state.volumes[&CLONE].objects, world.state.volumes[&CLONE].bytes), (3, 0));
    assert_eq!(world.state.volumes[&VolumeId(3)], world.state.volumes[&CLONE]);
    for at in [Tid(1), Tid(world.state.tid.0 + 5000)] {
        assert_eq!(clone(&mut world, V, Some(at), "other"), Err(Refusal::Pruned));
    }
}

#[test]
fn chains_of_clones_are_bounded() {
    let mut world = World::new();
    world.committed(vec![put_xattr(FILE, "user.a", b"1")]);
    let values = |world: &World, volume| {
        let rows = now(world, volume).into_iter();
        rows.map(|(key, version)| (key, version.record)).collect::<Vec<_>>()
    };
    let begun = values(&world, V);
    for depth in 0..CLONE_DEPTH_MAX as u32 {
        assert_eq!(clone(&mut world, VolumeId(1 + depth), None, &format!("c{depth}")), Ok(()));
        let last = VolumeId(2 + depth);
        assert_eq!(values(&world, last), begun);
        // Of each second one, the next is made of what it has removed and written anew.
        if depth % 2 == 1 {
            world.committed(remove_xattr(last));
            world.committed(of(last, vec![put_xattr(FILE, "user.a", b"1")]));
        }
    }
    let last = VolumeId(1 + CLONE_DEPTH_MAX as u32);
    assert_eq!(clone(&mut world, last, None, "more"), Err(Refusal::Full));
    assert_eq!(world.state.past.depth(last), CLONE_DEPTH_MAX);
    assert!((1..=last.0).all(|volume| values(&world, VolumeId(volume)) == begun));
}

#[test]
fn what_had_no_name_is_reaped_in_the_clone() {
    let mut world = World::new();
    world.committed(vec![put_text(FILE, 0, "abcdef")]);
    let named = world.state.tid;
    world.committed(unlink(FILE));
    assert_eq!(clone(&mut world, V, None, "copy"), Ok(()));
    assert_eq!(clone(&mut world, V, Some(named), "earlier"), Ok(()));
    assert!(world.memory.at(world.state.tid).get(&Key::orphan(CLONE, FILE)).unwrap().is_some());
    world.item(Item::Reap { volume: CLONE, object: FILE });
    let left = |volume| now(&world, volume).into_iter().filter(|(key, _)| key.object() == FILE).count();
    assert_eq!((left(CLONE), left(VolumeId(3)), left(V)), (0, 2, 2));
    assert_eq!(world.state.volumes[&CLONE].bytes, 0);
    world.release(world.session, &[FILE]);
}

#[test]
fn nothing_is_written_to_a_clone_in_its_own_entry() {
    let mut world = World::new();
    let body = RequestBody::CloneVolume { from: V, at: None, name: "copy".into() };
    let make = world.request(world.session, body);
    let Item::Request(mut write) =
        world.request(world.session, commit(Vec::new(), of(CLONE, vec![put_xattr(FILE, "user.a", b"1")])))
    else {
        panic!()
    };
    write.seq.0 += 1;
    let first = world.request(world.session, commit(Vec::new(), vec![put_xattr(FILE, "user.a", b"0")]));
    let Item::Request(mut make) = make else { panic!() };
    make.seq.0 += 1;
    write.seq.0 += 1;
    let applied = world.entry(vec![first, Item::Request(make), Item::Request(write)]);
    assert_eq!(applied.outcomes[2].2, Outcome::Refused { refusal: Refusal::BadPlan });
    assert_eq!(now(&world, CLONE), now(&world, V), "what the entry did before is in it");
}

#[test]
fn a_clone_keeps_what_it_began_with_whatever_becomes_of_its_origin() {
    let mut world = World::new();
    world.committed(vec![put_xattr(FILE, "user.a", b"1")]);
    assert_eq!(clone(&mut world, V, None, "copy"), Ok(()));
    let begun = now(&world, CLONE);
    world.committed(vec![put_xattr(FILE, "user.a", b"2")]);
    world.committed(vec![put_xattr(FILE, "user.a", b"3")]);
    let policy = Retention { whole_ns: Some(100), rules: Vec::new() };
    assert_eq!(ask(&mut world, RequestBody::SetRetention { volume: V, policy }), Ok(()));
    world.item(Item::Prune { volume: V });
    sweep(&mut world, 2);
    assert_eq!(past(&world, V).kept.len(), 1);
    assert_eq!(now(&world, CLONE), begun, "pruned");
    assert_eq!(destroy(&mut world, V, true), Ok(()));
    sweep(&mut world, 2);
    assert!(matches!(past(&world, V).stage, Stage::Ended { .. }));
    assert_eq!(now(&world, CLONE), begun, "destroyed");
    let guard = Guard::Empty { range: KeyRange::volume(V) };
    let mut both = vec![put_xattr(FILE, "user.a", b"4")];
    both.extend(of(CLONE, vec![put_xattr(FILE, "user.z", b"4")]));
    let (outcome, applied) = world.commit(vec![guard], both);
    assert_eq!(outcome, Outcome::Committed { tid: world.state.tid });
    assert!(
        applied.changes.iter().all(|change| change.key.volume() == CLONE),
        "what is about an ended volume is passed over"
    );
    // The clone goes, and then its origin can go, too.
    assert_eq!(destroy(&mut world, CLONE, true), Ok(()));
    sweep(&mut world, 2);
    assert!(world.state.past.of(CLONE).is_none() && past(&world, V).is_due(world.state.tid));
    world.item(Item::Prune { volume: V });
    sweep(&mut world, 2);
    assert!(world.state.past.of(V).is_none() && world.state.volumes.is_empty());
    assert!(world.memory.live().is_empty() && world.memory.ended().is_empty());
    assert_eq!(world.state.records, gavel_txn::Digest::default());
    world.item(Item::CreateVolume { volume: V, mode: 0, uid: 0, gid: 0 });
    assert!(world.state.volumes.is_empty(), "a number is given once");
}

#[test]
fn a_destroyed_volume_comes_back_whole_until_its_retention_has_passed() {
    let mut world = World::new();
    world.committed(vec![put_xattr(FILE, "user.a", b"1")]);
    let (then, shown) = (world.state.tid, now(&world, V));
    assert_eq!(
        ask(&mut world, RequestBody::Snapshot { volume: V, name: "s".into(), note: "".into(), at: None }),
        Ok(())
    );
    let policy = Retention { whole_ns: Some(20 * SECOND), rules: Vec::new() };
    assert_eq!(ask(&mut world, RequestBody::SetRetention { volume: V, policy }), Ok(()));
    assert_eq!(destroy(&mut world, V, false), Ok(()));
    assert_eq!(destroy(&mut world, V, false), Err(Refusal::Missing));
    // What a node has answered before it knew of it.
    world.committed(vec![put_xattr(FILE, "user.a", b"2")]);
    for body in [
        RequestBody::Pin { volume: V, at: then },
        RequestBody::RenameVolume { volume: V, name: "x".into() },
        RequestBody::DropSnapshot { volume: V, name: "s".into() },
        RequestBody::CloneVolume { from: V, at: None, name: "x".into() },
    ] {
        assert_eq!(ask(&mut world, body.clone()), Err(Refusal::Missing), "{body:?}");
    }
    let later = |world: &mut World, seconds: u64| {
        let tid = Tid(world.state.tid.0 + seconds * SECOND);
        world.apply(Some(&gavel_wire::Entry { tid, items: vec![Item::Prune { volume: V }] }));
    };
    later(&mut world, 15);
    assert_eq!(restore(&mut world, V, None), Ok(()));
    assert_eq!(state(&world, V, then), shown);
    assert!(past(&world, V).snapshots.contains_key("s"));
    assert_eq!(destroy(&mut world, V, false), Ok(()));
    later(&mut world, 21);
    assert_eq!(past(&world, V).stage, Stage::Going);
    assert_eq!(restore(&mut world, V, None), Err(Refusal::Missing));
    sweep(&mut world, 3);
    assert!(world.state.volumes.is_empty() && world.memory.live().is_empty());
}

#[test]
fn a_volume_that_keeps_everything_stays_until_somebody_says_so() {
    let mut world = World::new();
    assert_eq!(destroy(&mut world, V, false), Ok(()));
    let tid = Tid(world.state.tid.0 + 1_000_000 * SECOND);
    world.apply(Some(&gavel_wire::Entry { tid, items: vec![Item::Prune { volume: V }] }));
    assert!(matches!(past(&world, V).stage, Stage::Destroyed { .. }));
    assert_eq!(destroy(&mut world, V, true), Ok(()));
    assert_eq!(past(&world, V).stage, Stage::Going);
}

#[test]
fn sessions_end_and_orphans_are_released_while_a_volume_goes() {
    let mut world = World::new();
    world.committed(unlink(FILE));
    let other = world.open(2, 1);
    assert_eq!(destroy(&mut world, V, true), Ok(()));
    world.item(Item::Sweep { volume: V, rows: 1 });
    world.release(world.session, &[FILE]);
    world.item(Item::Reap { volume: V, object: FILE });
    world.item(Item::SessionExpire { session: other });
    sweep(&mut world, 1);
    assert!(world.memory.live().is_empty() && world.memory.ended().is_empty());
}

#[test]
fn what_the_entry_did_before_a_volume_goes_goes_too() {
    let mut world = World::new();
    world.committed(vec![put_xattr(FILE, "user.a", b"1")]);
    let policy = Retention { whole_ns: Some(100), rules: Vec::new() };
    assert_eq!(ask(&mut world, RequestBody::SetRetention { volume: V, policy }), Ok(()));
    world.item(Item::Prune { volume: V });
    let write = world.request(world.session, commit(Vec::new(), vec![put_xattr(FILE, "user.a", b"2")]));
    let Item::Request(mut destroy) = world.request(world.session, RequestBody::DestroyVolume { volume: V, now: true })
    else {
        panic!()
    };
    destroy.seq.0 += 1;
    world.entry(vec![write, Item::Request(destroy), Item::Sweep { volume: V, rows: 100 }]);
    sweep(&mut world, 100);
    assert!(world.memory.live().is_empty() && world.memory.ended().is_empty());
    assert!(!world.memory.live().keys().any(|key| matches!(key.parts(), KeyParts::Commit { .. })));
}
