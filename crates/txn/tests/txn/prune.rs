//! Which past states go, and what goes with them.

use super::world::*;
use gavel_txn::past::VolumePast;
use gavel_txn::prune::{Readable, Span};
use gavel_types::retention::Rule;
use gavel_types::{Key, KeyParts, KeyRange, Retention, Tid, VolumeId};
use gavel_wire::{Guard, Item, Refusal, RequestBody, Version, View};
use proptest::prelude::*;

/// Time from one entry to the next, in nanoseconds.
const STEP: u64 = 1000;

fn policy(world: &mut World, whole: u64, rules: &[(u64, u64)]) {
    let rules = rules.iter().map(|(every, keep)| Rule { every_ns: every * STEP, for_ns: keep * STEP }).collect();
    let policy = Retention { whole_ns: Some(whole * STEP), rules };
    assert_eq!(ask(world, RequestBody::SetRetention { volume: V, policy }), Ok(()));
}

fn past(world: &World) -> &VolumePast {
    world.state.past.of(V).unwrap()
}

/// Prunes, and sweeps to the end.
fn prune(world: &mut World) {
    world.item(Item::Prune { volume: V });
    sweep(world);
}

fn sweep(world: &mut World) {
    for _ in 0..1000 {
        if past(world).pass.is_none() {
            return;
        }
        world.item(Item::Sweep { volume: V, rows: 1_000_000 });
    }
    panic!("a sweep without end");
}

/// What a state shows, without who made commits: those are no part of it.
fn state(world: &World, at: Tid) -> Vec<(Key, Version)> {
    let mut rows = world.memory.at(at).scan(&KeyRange::volume(V), usize::MAX).unwrap();
    rows.retain(|(key, _)| !matches!(key.parts(), KeyParts::Commit { .. }));
    rows
}

fn write(world: &mut World, times: u8) -> Vec<Tid> {
    let one = |value: u8| {
        world.committed(vec![put_xattr(FILE, "user.a", &[value])]);
        world.state.tid
    };
    (0..times).map(one).collect()
}

#[test]
fn without_a_policy_nothing_goes() {
    let mut world = World::new();
    write(&mut world, 5);
    let revision = world.state.past.revision();
    world.item(Item::Prune { volume: V });
    world.item(Item::Prune { volume: VolumeId(77) });
    world.item(Item::Sweep { volume: V, rows: 1_000_000 });
    assert_eq!((world.state.past.revision(), world.state.past.steps()), (revision, 0));
    assert_eq!(past(&world).horizon, past(&world).made);
}

#[test]
fn what_no_state_shows_goes_with_its_commits() {
    let mut world = World::new();
    let tids = write(&mut world, 8);
    policy(&mut world, 0, &[]);
    world.item(Item::Prune { volume: V });
    assert!(!past(&world).can_read(tids[6]) && past(&world).can_read(world.state.tid));
    sweep(&mut world);
    assert!(world.memory.ended().iter().all(|(key, ..)| key.volume() != V), "{:?}", world.memory.ended());
    let commits = world.memory.live().into_keys().filter(|key| matches!(key.parts(), KeyParts::Commit { .. }));
    assert_eq!(commits.count(), 2, "one made the files, the last one what the attribute is");
    assert_eq!(past(&world).readable_at_or_before(tids[6]), None);
}

#[test]
fn snapshots_and_pins_keep_their_states() {
    let mut world = World::new();
    let other = world.open(2, 1);
    let tids = write(&mut world, 6);
    let (named, pinned, lost) = (tids[1], tids[3], tids[4]);
    let (was_named, was_pinned) = (state(&world, named), state(&world, pinned));
    assert_eq!(
        ask(&mut world, RequestBody::Snapshot { volume: V, name: "a".into(), note: "".into(), at: Some(named) }),
        Ok(())
    );
    assert_eq!(ask_as(&mut world, other, RequestBody::Pin { volume: V, at: pinned }), Ok(()));
    policy(&mut world, 1, &[]);
    prune(&mut world);
    assert_eq!((state(&world, named), state(&world, pinned)), (was_named, was_pinned.clone()));
    assert_eq!(past(&world).kept, [named, pinned]);
    assert_eq!(past(&world).readable_at_or_before(lost), Some(pinned));
    assert_eq!(ask(&mut world, RequestBody::Pin { volume: V, at: lost }), Err(Refusal::Pruned));
    let again = RequestBody::Snapshot { volume: V, name: "b".into(), note: "".into(), at: Some(lost) };
    assert_eq!(ask(&mut world, again), Err(Refusal::Pruned));
    // What only a snapshot kept goes with the next pruning behind it, and a pin's with its session.
    assert_eq!(ask(&mut world, RequestBody::DropSnapshot { volume: V, name: "a".into() }), Ok(()));
    assert!(past(&world).can_read(named));
    prune(&mut world);
    assert!(!past(&world).can_read(named));
    assert_eq!(state(&world, pinned), was_pinned);
    world.item(Item::SessionExpire { session: other });
    prune(&mut world);
    assert_eq!(past(&world).kept, []);
}

#[test]
fn how_long_a_state_stays_is_known() {
    let mut world = World::new();
    let tids = write(&mut world, 6);
    let (now, named) = (world.state.tid, tids[1]);
    assert_eq!(past(&world).stays_ns(named, now), u64::MAX, "everything is kept");
    assert_eq!(
        ask(&mut world, RequestBody::Snapshot { volume: V, name: "a".into(), note: "".into(), at: Some(named) }),
        Ok(())
    );
    policy(&mut world, 4, &[]);
    let state = |world: &World, ago: u64| Tid(world.state.tid.0 - ago * STEP);
    assert_eq!(past(&world).stays_ns(state(&world, 1), world.state.tid), 3 * STEP);
    assert_eq!(
        past(&world).stays_ns(state(&world, 9), world.state.tid),
        0,
        "it is time for it, though it is there yet"
    );
    prune(&mut world);
    assert_eq!(past(&world).stays_ns(tids[0], world.state.tid), 0, "it has gone");
    assert_eq!(past(&world).stays_ns(named, world.state.tid), u64::MAX, "a snapshot has a name for it");
    // A class that keeps less shortens it for all.
    let less = Retention { whole_ns: Some(2 * STEP), rules: Vec::new() };
    assert_eq!(ask(&mut world, RequestBody::DefineClass { volume: V, policy: less }), Ok(()));
    assert_eq!(past(&world).stays_ns(state(&world, 1), world.state.tid), STEP);
}

#[test]
fn a_longer_policy_brings_nothing_back() {
    let mut world = World::new();
    write(&mut world, 20);
    policy(&mut world, 2, &[]);
    prune(&mut world);
    let horizon = past(&world).horizon;
    policy(&mut world, 2, &[(3, 1000)]);
    write(&mut world, 10);
    prune(&mut world);
    assert!(past(&world).kept.iter().all(|tid| *tid >= horizon) && !past(&world).kept.is_empty());
    let (horizon, kept) = (past(&world).horizon, past(&world).kept.clone());
    policy(&mut world, 1000, &[(3, 1000)]);
    prune(&mut world);
    assert_eq!((past(&world).horizon, &past(&world).kept), (horizon, &kept), "a horizon never goes back");
    assert_eq!(ask(&mut world, RequestBody::SetRetention { volume: V, policy: Retention::EVERYTHING }), Ok(()));
    prune(&mut world);
    assert_eq!((past(&world).horizon, &past(&world).kept), (horizon, &kept), "who keeps everything keeps these");
}

#[test]
fn policies_and_pins_are_judged() {
    let mut world = World::new();
    let rules = vec![Rule { every_ns: 1, for_ns: 5000 }];
    let policy = Retention { whole_ns: Some(0), rules };
    assert_eq!(ask(&mut world, RequestBody::SetRetention { volume: V, policy }), Err(Refusal::BadPolicy));
    let nowhere = RequestBody::SetRetention { volume: VolumeId(77), policy: Retention::EVERYTHING };
    assert_eq!(ask(&mut world, nowhere), Err(Refusal::Missing));
    assert_eq!(ask(&mut world, RequestBody::Pin { volume: V, at: Tid::MAX }), Err(Refusal::Pruned));
    let at = world.state.tid;
    assert_eq!(ask(&mut world, RequestBody::Unpin { volume: V, at }), Err(Refusal::Missing));
    assert_eq!(ask(&mut world, RequestBody::Pin { volume: V, at }), Ok(()));
    assert_eq!(ask(&mut world, RequestBody::Pin { volume: V, at }), Ok(()));
    assert_eq!(ask(&mut world, RequestBody::Unpin { volume: V, at }), Ok(()));
    assert_eq!(ask(&mut world, RequestBody::Unpin { volume: V, at }), Err(Refusal::Missing));
}

/// An attribute comes and goes, and the rows that told of it are swept: nobody can say any more that the range was not touched.
#[test]
fn what_changed_since_a_pruned_state_is_not_known() {
    let mut world = World::new();
    let range = KeyRange::xattrs(V, FILE);
    let before = world.state.tid;
    assert!(world.guarded(Guard::Stable { range: range.clone(), at: before }));
    write(&mut world, 1);
    world.committed(vec![gavel_wire::Mutation::Delete { key: Key::xattr(V, FILE, b"user.a") }]);
    assert!(!world.guarded(Guard::Stable { range: range.clone(), at: before }));
    policy(&mut world, 1, &[]);
    prune(&mut world);
    assert!(!world.guarded(Guard::Stable { range: range.clone(), at: before }));
    let now = world.state.tid;
    assert!(world.guarded(Guard::Stable { range, at: now }));
    assert!(world.guarded(Guard::Empty { range: KeyRange::xattrs(V, FILE) }));
}

#[test]
fn one_entry_sweeps_once() {
    let mut world = World::new();
    write(&mut world, 9);
    policy(&mut world, 1, &[]);
    world.item(Item::Prune { volume: V });
    world.entry(vec![Item::Sweep { volume: V, rows: 1_000_000 }, Item::Sweep { volume: V, rows: 1_000_000 }]);
    assert_eq!((world.state.past.steps(), world.state.past.sweeps()), (1, 1));
    sweep(&mut world);
}

/// Sweeps and commits in one entry do not get in each other's way.
#[test]
fn an_entry_sweeps_what_it_ends() {
    let mut world = World::new();
    write(&mut world, 9);
    policy(&mut world, 0, &[]);
    let write = world.request(world.session, commit(Vec::new(), vec![put_xattr(FILE, "user.a", b"x")]));
    world.entry(vec![write, Item::Prune { volume: V }, Item::Sweep { volume: V, rows: 1_000_000 }]);
    sweep(&mut world);
    prune(&mut world);
    assert!(world.memory.ended().iter().all(|(key, ..)| key.volume() != V), "{:?}", world.memory.ended());
}

#[test]
fn a_record_with_many_versions_is_swept_in_steps() {
    let mut world = World::new();
    for n in 0..300u32 {
        world.committed(vec![put_xattr(FILE, "user.a", &n.to_be_bytes())]);
    }
    let kept = world.state.tid;
    let was = state(&world, kept);
    write(&mut world, 2);
    assert_eq!(ask(&mut world, RequestBody::Pin { volume: V, at: kept }), Ok(()));
    policy(&mut world, 0, &[]);
    world.item(Item::Prune { volume: V });
    let most = 64;
    while past(&world).pass.is_some() {
        let applied = world.item(Item::Sweep { volume: V, rows: most as u32 });
        assert!(applied.removals.len() <= 3 * most + 2);
    }
    assert!(world.state.past.sweeps() > 3);
    assert_eq!(state(&world, kept), was);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Snapshot(u8),
    Drop(u8),
    Pin(u8),
    Unpin(u8),
    Policy(u8, u8, u8),
    Prune,
    Sweep(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..4, any::<u8>()).prop_map(|(name, value)| Step::Put(name, value)),
        3 => (0u8..4).prop_map(Step::Delete),
        1 => any::<u8>().prop_map(Step::Snapshot),
        1 => (0u8..4).prop_map(Step::Drop),
        1 => any::<u8>().prop_map(Step::Pin),
        1 => any::<u8>().prop_map(Step::Unpin),
        1 => (0u8..12, 1u8..6, 1u8..40).prop_map(|(whole, every, keep)| Step::Policy(whole, every, keep)),
        2 => Just(Step::Prune),
        4 => (0u8..6).prop_map(Step::Sweep),
    ]
}

fn act(world: &mut World, step: &Step, number: usize, tids: &[Tid]) {
    let name = |name: &u8| format!("user.{name}");
    let some = |at: &u8| tids[usize::from(*at) % tids.len()];
    let body = match step {
        Step::Put(name_, value) => commit(Vec::new(), vec![put_xattr(FILE, &name(name_), &[*value])]),
        Step::Delete(name_) => {
            let key = Key::xattr(V, FILE, name(name_).as_bytes());
            commit(Vec::new(), vec![gavel_wire::Mutation::Delete { key }])
        }
        Step::Snapshot(at) => RequestBody::Snapshot {
            volume: V,
            name: format!("s{}", number % 4).into(),
            note: "".into(),
            at: Some(some(at)),
        },
        Step::Drop(name) => RequestBody::DropSnapshot { volume: V, name: format!("s{name}").into() },
        Step::Pin(at) => RequestBody::Pin { volume: V, at: some(at) },
        Step::Unpin(at) => RequestBody::Unpin { volume: V, at: some(at) },
        Step::Policy(whole, every, keep) => {
            return policy(world, (*whole).into(), &[((*every).into(), (*keep).into())]);
        }
        Step::Prune => return drop(world.item(Item::Prune { volume: V })),
        Step::Sweep(rows) => return drop(world.item(Item::Sweep { volume: V, rows: (*rows).into() })),
    };
    let _ = ask(world, body);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens, a state that can be read shows what it showed as the present; a state is readable once more only if it
    /// never ceased to be; and in the end nothing is left that no state shows.
    #[test]
    fn readable_states_stay_what_they_were(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        let mut seen = vec![(world.state.tid, state(&world, world.state.tid), true)];
        for (number, step) in steps.iter().enumerate() {
            let tids: Vec<Tid> = seen.iter().map(|(tid, ..)| *tid).collect();
            act(&mut world, step, number, &tids);
            let past = past(&world);
            for (tid, was, readable) in &mut seen {
                let can = past.can_read(*tid);
                prop_assert!(*readable || !can, "{} has come back", tid);
                *readable = can;
                prop_assert!(!can || state(&world, *tid) == *was, "{} has changed", tid);
            }
            let now = world.state.tid;
            seen.push((now, state(&world, now), true));
        }
        sweep(&mut world);
        let past = past(&world);
        let readable = Readable { horizon: past.horizon, kept: &past.kept };
        for (key, delete, version) in world.memory.ended() {
            prop_assert!(
                key.volume() != V || readable.shows(Span { create: version.create, delete: Some(delete) }),
                "{:?} [{}, {}) is left", key, version.create, delete
            );
        }
    }
}
