//! Ways back: whatever happened since, a path becomes what it was.

use super::steps::step;
use super::world::*;
use gavel_fs::revert::{Revert, Reverted, Reverting};
use gavel_types::{Key, KeyParts, KeyRange, ObjectId, Timestamp};
use gavel_wire::{Attr, Dirent, Extent, Guard, Kind, Plan, Record, View};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What a path shows of an object, but for its id and its time of change. Objects with several names are told by the first of them.
#[derive(Clone, PartialEq, Debug)]
struct Shown {
    attr: (Kind, u16, u32, u32, u32, u32, u64),
    times: (Timestamp, Timestamp),
    xattrs: Vec<(Vec<u8>, Record)>,
    target: Option<Record>,
    extents: Vec<(u64, Extent)>,
    first_name: Vec<u8>,
}

type Tree = BTreeMap<Vec<u8>, Shown>;

fn tree(records: &Records, root: ObjectId) -> Tree {
    let (mut tree, mut names) = (Tree::new(), BTreeMap::new());
    gather(records, root, b"", &mut names, &mut tree);
    tree
}

fn gather(records: &Records, object: ObjectId, path: &[u8], names: &mut BTreeMap<ObjectId, Vec<u8>>, tree: &mut Tree) {
    let rows = records.scan(&KeyRange::object(V, object), usize::MAX).unwrap();
    let (mut xattrs, mut extents, mut target, mut attr, mut below) = (vec![], vec![], None, None, vec![]);
    for (key, version) in rows {
        match (key.parts(), version.record) {
            (KeyParts::Attr, Record::Attr(found)) => attr = Some(found),
            (KeyParts::Xattr { name }, record) => xattrs.push((name.to_vec(), record)),
            (KeyParts::Target, record) => target = Some(record),
            (KeyParts::Extent { end }, Record::Extent(extent)) => extents.push((end, extent)),
            (KeyParts::Dirent { name, .. }, Record::Dirent(dirent)) => below.push((name.to_vec(), dirent.object)),
            other => panic!("{other:?}"),
        }
    }
    let Attr { firm, nlink, size, atime, mtime, .. } = attr.unwrap();
    let first_name = names.entry(object).or_insert_with(|| path.to_vec()).clone();
    // Of a root, nobody can say when it was read.
    let attr = (firm.kind, firm.mode, firm.uid, firm.gid, firm.rdev, nlink, size);
    let shown = Shown { attr, times: (atime, mtime), xattrs, target, extents, first_name };
    tree.insert(path.to_vec(), shown);
    for (name, object) in below {
        gather(records, object, &[path, b"/", &name[..]].concat(), names, tree);
    }
}

/// Goes all the way back, and checks all invariants on it.
fn go_back(world: &mut World, then: &Records, mut revert: Revert) -> (Reverted, usize) {
    let mut ids: Vec<ObjectId> = Vec::new();
    let mut commits = 0;
    loop {
        assert!(commits < 1000, "there is no end");
        match revert.step(&world.records, then, &ids).unwrap() {
            Reverting::Done => return (revert.reverted(), commits),
            Reverting::NeedObjectIds => {
                ids.extend((0..100).map(|next| ObjectId(world.fresh.0 + next)));
                world.fresh.0 += 100;
            }
            Reverting::Commit { guards, plan, taken } => {
                ids.drain(..taken);
                world.commit(guards, plan).expect("nobody else changes anything");
                commits += 1;
                super::invariants::check(&world.records);
            }
        }
    }
}

fn named(records: &Records, parent: ObjectId, name: &str) -> Option<Dirent> {
    match records.get(&Key::dirent(V, parent, name.as_bytes())).unwrap()?.record {
        Record::Dirent(dirent) => Some(dirent),
        other => panic!("{other:?}"),
    }
}

fn undo(world: &mut World, then: &Records, name: &str) -> (Reverted, usize) {
    let revert = Revert::new(V, ROOT, name.as_bytes(), named(then, ROOT, name));
    go_back(world, then, revert)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_happened_the_tree_becomes_what_it_was(before in vec(step(), 0..40), after in vec(step(), 0..40)) {
        let mut world = World::new();
        let play = |world: &mut World, steps: &[super::steps::Step]| for step in steps {
            let is_attr = |key: &&Key| key.parts() == KeyParts::Attr;
            let mut objects: Vec<ObjectId> = world.records.live.keys().filter(is_attr).map(Key::object).collect();
            objects.extend([ROOT, ROOT]);
            let planned = step.plan(world, &objects);
            world.caller = planned.caller;
            let _ = world.run(&planned.operation);
        };
        play(&mut world, &before);
        let then = world.records.clone();
        play(&mut world, &after);
        let later = world.records.clone();
        go_back(&mut world, &then, Revert::contents(V, ROOT, ROOT));
        let without_mode = |mut tree: Tree| {
            // The root's own mode, owner and attributes are not among its contents.
            if let Some(root) = tree.get_mut(&b""[..]) {
                (root.attr.1, root.attr.2, root.attr.3) = (0, 0, 0);
                root.xattrs.clear();
            }
            tree
        };
        prop_assert_eq!(without_mode(tree(&world.records, ROOT)), without_mode(tree(&then, ROOT)));
        // An undo is a change, and can be undone.
        go_back(&mut world, &later, Revert::contents(V, ROOT, ROOT));
        prop_assert_eq!(without_mode(tree(&world.records, ROOT)), without_mode(tree(&later, ROOT)));
    }
}

#[test]
fn a_removed_file_comes_back_with_all_that_it_had() {
    let mut world = World::new();
    let object = world.made(&file(ROOT, "a"));
    world.run(&write(object, 0, b"some bytes")).unwrap();
    world.run(&setxattr(object, b"user.colour", b"blue")).unwrap();
    world.run(&chmod(object, 0o4711)).unwrap();
    world.run(&link(object, ROOT, "b")).unwrap();
    let then = world.records.clone();
    world.run(&unlink(ROOT, "a")).unwrap();
    world.run(&unlink(ROOT, "b")).unwrap();
    assert_eq!(undo(&mut world, &then, "a"), (Reverted { made: 1, ..Reverted::default() }, 1));
    let back = named(&world.records, ROOT, "a").unwrap().object;
    assert_ne!(back, object, "ids are not used twice");
    assert_eq!(world.read(back), b"some bytes");
    assert_eq!((world.attr(back).nlink, world.attr(back).firm.mode), (1, 0o4711));
    assert_eq!(world.attr(back).mtime, then_attr(&then, object).mtime);
}

fn then_attr(then: &Records, object: ObjectId) -> Attr {
    match then.get(&Key::attr(V, object)).unwrap().unwrap().record {
        Record::Attr(attr) => attr,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_further_name_of_a_file_that_is_as_it_was_is_a_link() {
    let mut world = World::new();
    let object = world.made(&file(ROOT, "a"));
    world.run(&link(object, ROOT, "b")).unwrap();
    let then = world.records.clone();
    world.run(&unlink(ROOT, "b")).unwrap();
    undo(&mut world, &then, "b");
    assert_eq!(named(&world.records, ROOT, "b").unwrap().object, object);
    world.run(&unlink(ROOT, "b")).unwrap();
    world.run(&write(object, 0, b"changed")).unwrap();
    undo(&mut world, &then, "b");
    let back = named(&world.records, ROOT, "b").unwrap().object;
    assert_ne!(back, object, "the file has changed: its name of then must not show that");
    assert_eq!((world.read(back), world.read(object)), (vec![], b"changed".to_vec()));
}

#[test]
fn what_came_in_its_place_goes() {
    let mut world = World::new();
    let object = world.made(&file(ROOT, "a"));
    world.run(&write(object, 0, b"one")).unwrap();
    let then = world.records.clone();
    world.run(&unlink(ROOT, "a")).unwrap();
    let directory = world.made(&mkdir(ROOT, "a"));
    let below = world.made(&mkdir(directory, "below"));
    world.made(&file(below, "deep"));
    world.made(&file(directory, "flat"));
    let expected = tree(&then, ROOT);
    let (reverted, commits) = undo(&mut world, &then, "a");
    assert_eq!((reverted, commits), (Reverted { made: 1, removed: 4, ..Reverted::default() }, 1));
    let found = tree(&world.records, ROOT);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert_eq!(found[&b"/a"[..]], expected[&b"/a"[..]]);
}

#[test]
fn a_path_that_was_not_there_goes() {
    let mut world = World::new();
    let then = world.records.clone();
    world.made(&file(ROOT, "a"));
    assert_eq!(undo(&mut world, &then, "a").0, Reverted { removed: 1, ..Reverted::default() });
    assert_eq!(named(&world.records, ROOT, "a"), None);
}

#[test]
fn a_large_directory_comes_back_in_several_plans() {
    let mut world = World::new();
    let directory = world.made(&mkdir(ROOT, "d"));
    for number in 0..3000 {
        let object = world.made(&file(directory, &format!("f{number}")));
        let done = world.prepare(&write(object, 0, &[7; 900])).unwrap();
        world.finish(done).unwrap();
    }
    let then = world.records.clone();
    for number in 0..3000 {
        let done = world.prepare(&unlink(directory, &format!("f{number}"))).unwrap();
        world.finish(done).unwrap();
    }
    world.run(&rmdir(ROOT, "d")).unwrap();
    let (reverted, commits) = undo(&mut world, &then, "d");
    assert_eq!(reverted.made, 3001);
    assert!((2..10).contains(&commits), "{commits}");
    let mut expected = tree(&then, ROOT);
    expected.insert(vec![], tree(&world.records, ROOT)[&b""[..]].clone());
    assert!(tree(&world.records, ROOT) == expected);
}

/// A tree that takes several plans to come back: directories in each other, files with several names, one of them with many extents.
fn plant(world: &mut World) {
    let top = world.made(&mkdir(ROOT, "d"));
    let mut directory = top;
    for number in 0..600 {
        if number % 20 == 0 {
            let parent = if number % 80 == 0 { top } else { directory };
            directory = world.made(&mkdir(parent, &format!("d{number}")));
        }
        let object = world.made(&file(directory, &format!("f{number}")));
        let done = world.prepare(&write(object, 0, &[7; 900])).unwrap();
        world.finish(done).unwrap();
        if number % 50 == 0 {
            world.run(&link(object, top, &format!("other{number}"))).unwrap();
            world.run(&setxattr(object, b"user.colour", b"blue")).unwrap();
        }
    }
    let large = world.made(&file(directory, "large"));
    for extent in 0..300 {
        let done = world.prepare(&write(large, extent * 8192, &[8; 4000])).unwrap();
        world.finish(done).unwrap();
    }
}

/// The tree under the name `d` goes.
fn fell(world: &mut World) {
    let records = world.records.clone();
    go_back(world, &records, Revert::new(V, ROOT, b"d", None));
}

/// All plans, made before any of them is committed.
fn planned_ahead(world: &mut World, then: &Records) -> Vec<(Vec<Guard>, Plan)> {
    let mut revert = Revert::new(V, ROOT, b"d", named(then, ROOT, "d")).ahead();
    let mut ids: Vec<ObjectId> = (0..4096).map(|next| ObjectId(world.fresh.0 + next)).collect();
    world.fresh.0 += 4096;
    let mut plans = Vec::new();
    loop {
        match revert.step(&world.records, then, &ids).unwrap() {
            Reverting::Done => return plans,
            Reverting::NeedObjectIds => panic!("there are enough"),
            Reverting::Commit { guards, plan, taken } => {
                ids.drain(..taken);
                plans.push((guards, plan));
            }
        }
    }
}

fn but_for_the_root(records: &Records) -> Tree {
    let mut tree = tree(records, ROOT);
    tree.remove(&b""[..]);
    tree
}

#[test]
fn planned_ahead_it_is_the_same() {
    let mut world = World::new();
    plant(&mut world);
    let then = world.records.clone();
    fell(&mut world);
    let plans = planned_ahead(&mut world, &then);
    assert!(plans.len() >= 6, "{}", plans.len());
    for (guards, plan) in plans {
        assert!(guards.len() < 200, "{} guards", guards.len());
        world.commit(guards, plan).expect("nobody else changes anything");
        super::invariants::check(&world.records);
    }
    assert!(but_for_the_root(&world.records) == but_for_the_root(&then));
}

#[test]
fn planned_ahead_what_needs_a_plan_that_collided_collides_too() {
    let mut felled = World::new();
    plant(&mut felled);
    let then = felled.records.clone();
    fell(&mut felled);
    let plans = planned_ahead(&mut felled, &then);
    let before = tree(&felled.records, ROOT).len();
    for lost in [0, 1, plans.len() / 2, plans.len() - 1] {
        let mut world = felled.clone();
        let mut collided = 0;
        for (number, (guards, plan)) in plans.iter().enumerate() {
            let is_refused = number == lost || world.commit(guards.clone(), plan.clone()).is_err();
            collided += usize::from(is_refused);
        }
        // Each plan goes on in a directory that the one before has made or filled, or at least below the top.
        assert!(lost > 0 || collided == plans.len(), "without the top there is nothing: {collided}");
        super::invariants::check(&world.records);
        if named(&world.records, ROOT, "d").is_some() {
            fell(&mut world);
        }
        assert_eq!(tree(&world.records, ROOT).len(), before, "what was built is gone");
        undo(&mut world, &then, "d");
        assert!(but_for_the_root(&world.records) == but_for_the_root(&then));
    }
}

#[test]
fn planned_ahead_nothing_is_put_over_what_somebody_has_made() {
    let mut world = World::new();
    plant(&mut world);
    let then = world.records.clone();
    fell(&mut world);
    let mut plans = planned_ahead(&mut world, &then).into_iter();
    let (guards, plan) = plans.next().unwrap();
    world.commit(guards, plan).unwrap();
    // Somebody has found it, and makes every name at the top that is still to come.
    let top = named(&world.records, ROOT, "d").unwrap().object;
    for number in 0..600 {
        let _ = world.run(&file(top, &format!("d{number}")));
        let _ = world.run(&file(top, &format!("other{number}")));
    }
    let collided = plans.filter(|(guards, plan)| world.commit(guards.clone(), plan.clone()).is_err()).count();
    assert!(collided > 0, "names were made twice");
    super::invariants::check(&world.records);
}

#[test]
fn a_collision_changes_nothing_and_the_step_can_be_run_again() {
    let mut world = World::new();
    let object = world.made(&file(ROOT, "a"));
    let then = world.records.clone();
    world.run(&write(object, 0, b"later")).unwrap();
    let revert = Revert::new(V, ROOT, b"a", named(&then, ROOT, "a"));
    let mut first = revert.clone();
    let Reverting::Commit { guards, plan, .. } = first.step(&world.records, &then, &[]).unwrap() else { panic!() };
    world.run(&append(object, b" still")).unwrap();
    assert_eq!(world.commit(guards, plan), Err(Conflict));
    assert_eq!(world.read(object), b"later still");
    go_back(&mut world, &then, revert);
    assert_eq!(world.read(object), b"");
}
