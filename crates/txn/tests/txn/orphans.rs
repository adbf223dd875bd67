//! Objects without a name: who holds them, and how their records end.

use super::world::*;
use gavel_txn::Applied;
use gavel_txn::apply::REAP_RECORDS_MAX;
use gavel_types::{Key, NodeId, ObjectId, SessionId};
use gavel_wire::{Content, Guard, Item, Mutation, RequestBody};

const MANY: u64 = REAP_RECORDS_MAX as u64 + 10;

/// A file of so many extents, with an attribute, without a name.
fn orphaned(world: &mut World, object: ObjectId, extents: u64) {
    let mut plan = vec![put_attr(object, file(1)), put_xattr(object, "user.a", b"1")];
    plan.extend((0..extents).map(|i| put_extent(object, i * 2, 1, Content::Zeros)));
    world.committed(plan);
    let applied = world.committed(unlink(object));
    assert_eq!(applied.orphaned, [(V, object)]);
}

fn reap(object: ObjectId) -> Item {
    Item::Reap { volume: V, object }
}

/// Applies reaping until none is asked for; tells how many entries that took.
fn reap_all(world: &mut World, mut applied: Applied) -> usize {
    let mut entries = 0;
    while !applied.to_reap.is_empty() {
        entries += 1;
        let items = applied.to_reap.iter().take(4096).map(|(_, object)| reap(*object)).collect();
        let rest = applied.to_reap.split_off(applied.to_reap.len().min(4096));
        applied = world.entry(items);
        applied.to_reap.extend(rest);
    }
    entries
}

#[test]
fn an_orphan_stays_until_its_last_holder_lets_go() {
    let mut world = World::new();
    let other = world.open(2, 1);
    orphaned(&mut world, FILE, 1);
    assert_eq!(world.holders(FILE), Some(vec![world.session, other]));
    world.release(other, &[FILE]);
    assert_eq!(world.holders(FILE), Some(vec![world.session]));
    assert_eq!(world.attr(FILE).nlink, 0);
    let applied = world.release(world.session, &[FILE]);
    assert_eq!((world.holders(FILE), applied.to_reap), (None, vec![]));
    assert_eq!(world.version(&Key::attr(V, FILE)), None);
    assert_eq!(world.extents(FILE), "");
}

#[test]
fn an_orphan_can_be_written_while_it_is_held() {
    let mut world = World::new();
    orphaned(&mut world, FILE, 1);
    world.committed(vec![carve(FILE, 0, 1), put_text(FILE, 0, "abc")]);
    world.committed(vec![put_attr(FILE, file(0))]);
    assert_eq!(world.attr(FILE).allocated, 3);
    world.release(world.session, &[FILE]);
    assert_eq!(world.state.volumes[&V].bytes, 0);
}

#[test]
fn the_end_of_a_session_lets_go_of_all_that_it_held() {
    let mut world = World::new();
    let other = world.open(2, 1);
    orphaned(&mut world, FILE, 3);
    orphaned(&mut world, OTHER, 3);
    world.release(world.session, &[FILE]);
    let applied = world.item(Item::SessionExpire { session: other });
    assert_eq!(applied.ended, [other]);
    assert_eq!((world.holders(FILE), world.holders(OTHER)), (None, Some(vec![world.session])));
}

#[test]
fn a_new_life_of_a_node_holds_nothing_of_the_old_one() {
    let mut world = World::new();
    orphaned(&mut world, FILE, 3);
    let applied = world.item(Item::SessionOpen { node: NodeId(1), incarnation: 2, term_ms: 5_000, instead_of: None });
    assert_eq!(applied.ended, [world.session]);
    assert_eq!(world.holders(FILE), None);
}

/// Before, the mark got two versions at one Tid, and a replica that caught up counted one of them.
#[test]
fn an_orphan_that_one_release_names_twice_is_released_once() {
    let mut world = World::new();
    world.open(2, 1);
    world.open(3, 1);
    orphaned(&mut world, FILE, 1);
    let applied = world.release(world.session, &[FILE, FILE, FILE]);
    assert_eq!(applied.changes.len(), 1);
    assert_eq!(world.holders(FILE).unwrap().len(), 2);
}

/// Before, the same for an orphan whose records do not end at once.
#[test]
fn a_long_orphan_that_one_release_names_twice_is_released_once() {
    let mut world = World::new();
    orphaned(&mut world, FILE, MANY);
    let applied = world.release(world.session, &[FILE, FILE]);
    assert_eq!(applied.to_reap, [(V, FILE)]);
    assert_eq!(world.holders(FILE), Some(vec![]));
}

#[test]
fn who_holds_nothing_releases_nothing() {
    let mut world = World::new();
    orphaned(&mut world, FILE, MANY);
    let other = world.open(2, 1);
    assert_eq!(world.release(other, &[FILE]).changes, [], "it was opened after the last name was gone");
    assert_eq!(world.release(world.session, &[OTHER]).changes, [], "not an orphan");
    assert_eq!(world.release(world.session, &[ObjectId(u64::MAX), ObjectId(0), ROOT]).changes, []);
    world.release(world.session, &[FILE]);
    let applied = world.release(other, &[FILE]);
    assert_eq!((applied.changes, applied.to_reap), (vec![], vec![]), "one line of reaping is enough");
}

#[test]
fn a_long_orphan_ends_in_steps() {
    let mut world = World::new();
    let bytes = world.state.volumes[&V].bytes;
    orphaned(&mut world, FILE, MANY);
    let applied = world.release(world.session, &[FILE]);
    assert_eq!(applied.changes.len(), REAP_RECORDS_MAX + 1, "records, and the mark");
    assert_eq!(applied.to_reap, [(V, FILE)]);
    assert_eq!(world.holders(FILE), Some(vec![]));
    assert_eq!(world.version(&Key::attr(V, FILE)), None, "the attributes go first");
    let applied = world.item(reap(FILE));
    assert_eq!(applied.to_reap, []);
    assert_eq!((world.holders(FILE), world.extents(FILE)), (None, String::new()));
    assert_eq!(world.state.volumes[&V].bytes, bytes);
    assert_eq!(world.item(reap(FILE)).changes, [], "reaped");
}

#[test]
fn an_orphan_of_just_one_step_is_marked_until_the_next() {
    let mut world = World::new();
    orphaned(&mut world, FILE, REAP_RECORDS_MAX as u64 - 2);
    let applied = world.release(world.session, &[FILE]);
    assert_eq!(applied.to_reap, [(V, FILE)]);
    let applied = world.item(reap(FILE));
    assert_eq!((applied.changes.len(), applied.to_reap), (1, vec![]));
}

#[test]
fn what_is_held_is_not_reaped() {
    let mut world = World::new();
    orphaned(&mut world, FILE, 1);
    assert_eq!(world.item(reap(FILE)).changes, []);
    assert_eq!(world.item(reap(OTHER)).changes, []);
    assert_eq!(world.item(Item::Reap { volume: gavel_types::VolumeId(9), object: FILE }).changes, []);
}

#[test]
fn two_lines_of_reaping_meet_in_one_end() {
    let mut world = World::new();
    orphaned(&mut world, FILE, 3 * MANY);
    world.release(world.session, &[FILE]);
    let applied = world.entry(vec![reap(FILE), reap(FILE)]);
    assert_eq!(applied.to_reap.len(), 2);
    reap_all(&mut world, applied);
    assert_eq!(world.holders(FILE), None);
}

/// Before, one entry could end any number of records: a session's end as many as it had orphans times the bound.
#[test]
fn one_entry_ends_a_bounded_number_of_records() {
    let mut world = World::new();
    let other = world.open(2, 1);
    let objects: Vec<ObjectId> = (100..100 + 64).map(ObjectId).collect();
    objects.iter().for_each(|object| orphaned(&mut world, *object, 200));
    world.release(world.session, &objects);
    let applied = world.item(Item::SessionExpire { session: other });
    assert!(applied.changes.len() <= REAP_RECORDS_MAX + objects.len(), "{}", applied.changes.len());
    let left = objects.iter().filter(|object| world.holders(**object).is_some()).count();
    assert_eq!(applied.to_reap.len(), left);
    assert!(left > 0 && objects.iter().all(|object| world.holders(*object).unwrap_or_default().is_empty()));
    let entries = reap_all(&mut world, applied);
    assert!(entries <= 5, "{entries}");
    assert!(objects.iter().all(|object| world.holders(*object).is_none()));
    assert_eq!(world.state.volumes[&V].bytes, 0);
}

#[test]
fn the_bound_is_shared_by_the_items_of_an_entry() {
    let mut world = World::new();
    let session = world.session;
    let objects = [ObjectId(100), ObjectId(101)];
    objects.iter().for_each(|object| orphaned(&mut world, *object, MANY));
    world.release(session, &[objects[0]]);
    let release = world.request(session, RequestBody::Release { orphans: vec![(V, objects[1])] });
    let applied = world.entry(vec![reap(objects[0]), release]);
    assert!(applied.changes.len() <= REAP_RECORDS_MAX + 2, "{}", applied.changes.len());
    assert_eq!(applied.to_reap, [(V, objects[1])]);
    reap_all(&mut world, applied);
    assert_eq!(world.state.volumes[&V].bytes, 0);
}

#[test]
fn steps_of_reaping_do_not_rewrite_the_mark() {
    let mut world = World::new();
    orphaned(&mut world, FILE, 3 * MANY);
    world.release(world.session, &[FILE]);
    let applied = world.item(reap(FILE));
    assert!(applied.changes.iter().all(|change| change.key != Key::orphan(V, FILE)));
}

#[test]
fn a_link_and_the_last_unlink_collide_whoever_comes_first() {
    let firm = |world: &World| Guard::Firm { key: Key::attr(V, FILE), at: world.state.tid };
    let named = || Guard::Empty { range: gavel_types::KeyRange::one(&Key::orphan(V, FILE)) };
    let one_more = gavel_wire::AttrDelta { nlink: 1, ..Default::default() };
    let mut world = World::new();
    let link = vec![firm(&world), named()];
    world.committed(unlink(FILE));
    assert!(!matches!(world.commit(link, vec![adjust(FILE, one_more)]).0, gavel_wire::Outcome::Committed { .. }));
    let mut world = World::new();
    let seen = Guard::Unchanged { key: Key::attr(V, FILE), at: world.state.tid };
    world.committed(vec![adjust(FILE, one_more)]);
    assert!(!matches!(world.commit(vec![seen], unlink(FILE)).0, gavel_wire::Outcome::Committed { .. }));
}

#[test]
fn ten_thousand_orphans_of_a_dead_session_all_end() {
    let mut world = World::new();
    let other = world.open(2, 1);
    let objects: Vec<ObjectId> = (1000..11_000).map(ObjectId).collect();
    for some in objects.chunks(2000) {
        let made = some.iter().flat_map(|object| [put_attr(*object, file(1)), put_xattr(*object, "user.a", b"")]);
        let gone = some.iter().flat_map(|object| unlink(*object));
        world.committed(made.chain(gone).collect::<Vec<Mutation>>());
        world.release(world.session, some);
    }
    assert_eq!(world.holders(objects[0]), Some(vec![other]));
    let applied = world.item(Item::SessionExpire { session: other });
    reap_all(&mut world, applied);
    assert!(objects.iter().all(|object| world.holders(*object).is_none()));
    let none: &[SessionId] = &[other];
    assert!(!world.state.sessions.contains_key(&none[0]));
}

/// Files that were made one after the other: their records lie side by side, and end together.
#[test]
fn neighbours_that_are_released_together_end_one_by_one() {
    const EACH: u64 = REAP_RECORDS_MAX as u64 / 2 - 50;
    let mut world = World::new();
    let other = world.open(2, 1);
    let files: Vec<ObjectId> = (0..5).map(|n| ObjectId(FILE.0 + n)).collect();
    // Before the middle one, another session keeps one; behind them lies one that has a name.
    files.iter().for_each(|file| orphaned(&mut world, *file, EACH));
    let named = ObjectId(FILE.0 + 5);
    world.committed(vec![put_attr(named, file(1)), put_extent(named, 0, 1, Content::Zeros)]);
    world.release(other, &files);
    let kept = files[1];
    assert!(files.iter().all(|file| world.holders(*file) == Some(vec![world.session])));

    let released: Vec<ObjectId> = files.iter().copied().filter(|file| *file != kept).collect();
    let mut applied = world.release(world.session, &released);
    // Two whole ones, and a few records of the next.
    assert_eq!(applied.to_reap, [(V, files[3]), (V, files[4])]);
    assert_eq!([0, 2].map(|at: usize| world.holders(files[at])), [None, None]);
    assert_eq!([3, 4].map(|at: usize| world.holders(files[at])), [Some(vec![]), Some(vec![])]);
    assert_eq!(world.version(&Key::attr(V, files[3])), None, "it is among what has ended");
    assert!(world.version(&Key::attr(V, files[4])).is_some());
    assert_eq!(world.holders(kept), Some(vec![world.session]));
    applied = world.entry(applied.to_reap.iter().map(|(_, object)| reap(*object)).collect());
    assert_eq!(applied.to_reap, []);
    assert!(released.iter().all(|file| world.holders(*file).is_none() && world.extents(*file).is_empty()));
    assert_eq!((world.attr(kept).nlink, world.attr(named).nlink), (0, 1));
    assert_eq!(world.state.volumes[&V].bytes, EACH + 1, "of the one that is kept, and the one that has a name");
}
