//! Mirrors in other clusters, and the history that waits for them.

use super::world::*;
use gavel_txn::past::VolumePast;
use gavel_types::limits::FOLLOWERS_MAX;
use gavel_types::{NodeId, Retention, Selection, Tid, VolumeId};
use gavel_wire::follow::{FOLLOW_AUTHORITY_BYTES_MAX, FOLLOW_PEERS_MAX};
use gavel_wire::{Follow, FollowKey, Item, Refusal, RequestBody};

/// Time from one entry to the next, in nanoseconds.
const STEP: u64 = 1000;

fn past(world: &World) -> &VolumePast {
    world.state.past.of(V).unwrap()
}

/// Admits one; gives when.
fn admit(world: &mut World, name: &str, keep_steps: Option<u64>) -> Result<Tid, Refusal> {
    let keep_for_ns = keep_steps.map(|steps| steps * STEP);
    ask(
        world,
        RequestBody::AdmitFollower {
            volume: V,
            name: name.into(),
            key: [7; 32],
            keep_for_ns,
            selection: Selection::default(),
        },
    )?;
    Ok(world.state.tid)
}

fn reached(world: &mut World, name: &str, admitted: Tid, at: Tid) -> Result<(), Refusal> {
    ask(world, RequestBody::FollowerReached { volume: V, name: name.into(), admitted, at })
}

fn write(world: &mut World, times: u8) {
    for value in 0..times {
        world.committed(vec![put_xattr(FILE, "user.a", &[value])]);
    }
}

fn prune(world: &mut World) {
    world.item(Item::Prune { volume: V });
    while past(world).pass.is_some() {
        world.item(Item::Sweep { volume: V, rows: 1_000_000 });
    }
}

fn keep(world: &mut World, steps: u64) {
    let policy = Retention { whole_ns: Some(steps * STEP), rules: Vec::new() };
    assert_eq!(ask(world, RequestBody::SetRetention { volume: V, policy }), Ok(()));
}

#[test]
fn history_waits_for_a_follower_up_to_its_limit() {
    let mut world = World::new();
    keep(&mut world, 3);
    let admitted = admit(&mut world, "copy", Some(40)).unwrap();
    write(&mut world, 10);
    // One that has told of no state begins with a whole copy: it needs no history.
    prune(&mut world);
    assert!(past(&world).horizon > Tid(world.state.tid.0 - 8 * STEP));
    let at = world.state.tid;
    assert_eq!(reached(&mut world, "copy", admitted, at), Ok(()));
    write(&mut world, 20);
    prune(&mut world);
    assert_eq!((past(&world).horizon, past(&world).held_from(world.state.tid)), (at, Some(at)));
    assert!(past(&world).can_read(at) && past(&world).can_read(Tid(at.0 + STEP)), "all states from there on");
    // An earlier state, told late through another node, takes nothing back.
    assert_eq!(reached(&mut world, "copy", admitted, Tid(at.0 - STEP)), Ok(()));
    assert_eq!(past(&world).followers["copy"].at, at);
    write(&mut world, 30);
    assert_eq!(past(&world).held_from(world.state.tid), None, "away for longer than its limit");
    prune(&mut world);
    assert!(past(&world).horizon > Tid(world.state.tid.0 - 8 * STEP) && !past(&world).can_read(at));
    // It tells of a state that is gone: nothing comes back, and what is there is held from now on.
    let held = past(&world).horizon;
    assert_eq!(reached(&mut world, "copy", admitted, held), Ok(()));
    write(&mut world, 10);
    prune(&mut world);
    assert_eq!(past(&world).horizon, held);
}

#[test]
fn what_a_dismissed_follower_held_goes() {
    let mut world = World::new();
    keep(&mut world, 3);
    let admitted = admit(&mut world, "copy", None).unwrap();
    let at = world.state.tid;
    reached(&mut world, "copy", admitted, at).unwrap();
    write(&mut world, 100);
    prune(&mut world);
    assert_eq!(past(&world).horizon, at, "without a limit it is waited for, for ever");
    assert_eq!(ask(&mut world, RequestBody::DismissFollower { volume: V, name: "copy".into() }), Ok(()));
    prune(&mut world);
    assert!(past(&world).horizon > at);
    let missing = Err(Refusal::Missing);
    assert_eq!(ask(&mut world, RequestBody::DismissFollower { volume: V, name: "copy".into() }), missing);
    // What comes late of the one before is not the next one's.
    let again = admit(&mut world, "copy", None).unwrap();
    let now = world.state.tid;
    assert_eq!(reached(&mut world, "copy", admitted, now), missing);
    assert_eq!((past(&world).followers["copy"].at, past(&world).followers["copy"].admitted), (Tid::ZERO, again));
}

#[test]
fn followers_are_bounded_and_named() {
    let mut world = World::new();
    assert_eq!(admit(&mut world, "2h", None), Err(Refusal::BadName));
    let admitted = admit(&mut world, "copy", None).unwrap();
    assert_eq!(admit(&mut world, "copy", None), Err(Refusal::Exists));
    let ahead = Tid(world.state.tid.0 + 100 * STEP);
    assert_eq!(reached(&mut world, "copy", admitted, ahead), Err(Refusal::Pruned), "a state that has not come");
    for number in 1..FOLLOWERS_MAX {
        admit(&mut world, &format!("copy-{number}"), None).unwrap();
    }
    assert_eq!(admit(&mut world, "one-too-many", None), Err(Refusal::Full));
    assert_eq!(past(&world).followers.len(), FOLLOWERS_MAX);
}

#[test]
fn what_is_followed_is_bounded_and_only_a_mirror_follows() {
    let mut world = World::new();
    let source = gavel_types::MirrorSource { cluster: gavel_types::ClusterId([9; 16]), volume: V, made: Tid(5) };
    ask(&mut world, RequestBody::CreateMirror { name: "copy".into(), source, selection: Selection::default() })
        .unwrap();
    let volume = VolumeId(2);
    let good = Follow {
        peers: vec![(NodeId(1), "h:1".into())],
        authority: "pem".into(),
        name: "n".into(),
        key: FollowKey([8; 32]),
        paused: false,
    };
    let follow = |world: &mut World, volume, follow: Option<&Follow>| {
        ask(world, RequestBody::FollowMirror { volume, follow: follow.cloned().map(Box::new) })
    };
    let of = |world: &World| world.state.past.of(volume).unwrap().mirror.as_ref().unwrap().follow.is_some();
    assert_eq!(follow(&mut world, V, Some(&good)), Err(Refusal::NotMirror));
    assert_eq!(follow(&mut world, volume, Some(&Follow { peers: Vec::new(), ..good.clone() })), Err(Refusal::Full));
    let many = vec![(NodeId(1), "h:1".into()); FOLLOW_PEERS_MAX + 1];
    assert_eq!(follow(&mut world, volume, Some(&Follow { peers: many, ..good.clone() })), Err(Refusal::Full));
    let long = Follow { authority: "x".repeat(FOLLOW_AUTHORITY_BYTES_MAX + 1).into(), ..good.clone() };
    assert_eq!(follow(&mut world, volume, Some(&long)), Err(Refusal::Full));
    assert_eq!((follow(&mut world, volume, Some(&good)), of(&world)), (Ok(()), true));
    assert_eq!((follow(&mut world, volume, None), of(&world)), (Ok(()), false));
    follow(&mut world, volume, Some(&good)).unwrap();
    // A mirror has mirrors, too; one that is promoted follows nobody.
    let admitted = ask(
        &mut world,
        RequestBody::AdmitFollower {
            volume,
            name: "n".into(),
            key: [7; 32],
            keep_for_ns: None,
            selection: Selection::default(),
        },
    );
    assert_eq!(admitted, Ok(()));
    ask(&mut world, RequestBody::PromoteMirror { volume }).unwrap();
    assert!(!of(&world));
}
