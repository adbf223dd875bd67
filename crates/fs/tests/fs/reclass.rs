//! Classes: what has one, what is made in it, and how a whole tree is given another.

use super::world::*;
use gavel_fs::reclass::{Reclass, Reclassing, STEP_OBJECTS_MAX};
use gavel_types::{Class, Key, KeyParts, ObjectId};
use gavel_wire::{Record, View};
use std::collections::BTreeMap;

const LESS: Class = Class(3);

fn class(world: &World, object: ObjectId) -> Class {
    match world.records.get(&Key::attr(V, object)).unwrap().unwrap().record {
        Record::Attr(attr) => attr.firm.class,
        other => panic!("{other:?}"),
    }
}

/// Goes all the way. `meanwhile` happens behind each plan. Answers with how many objects were changed, and by how many plans.
fn go(world: &mut World, top: ObjectId, class: Class, mut meanwhile: impl FnMut(&mut World, usize)) -> (u64, usize) {
    let mut reclass = Reclass::new(V, top, class);
    let mut commits = 0;
    loop {
        match reclass.step(&world.records).unwrap() {
            Reclassing::Done => return (reclass.changed(), commits),
            Reclassing::Commit { guards, plan } => {
                assert!(plan.mutations.len() <= STEP_OBJECTS_MAX + 256, "{} at once", plan.mutations.len());
                if !plan.mutations.is_empty() {
                    world.commit(guards, plan).expect("nobody else changes these");
                    commits += 1;
                }
                meanwhile(world, commits);
            }
        }
    }
}

/// The class of each object that has a name.
fn classes(world: &World) -> BTreeMap<ObjectId, Class> {
    let keys = world.records.live.keys().filter(|key| key.parts() == KeyParts::Attr);
    keys.map(|key| (key.object(), class(world, key.object()))).collect()
}

#[test]
fn a_whole_tree_is_given_a_class_and_nothing_beside_it() {
    let mut world = World::new();
    let (top, beside) = (world.made(&mkdir(ROOT, "top")), world.made(&mkdir(ROOT, "beside")));
    let outside = world.made(&file(beside, "f"));
    let mut inside = vec![top];
    for directory in 0..30 {
        let directory = world.made(&mkdir(top, &format!("d{directory}")));
        inside.push(directory);
        inside.extend((0..60).map(|number| world.made(&file(directory, &format!("f{number}")))));
    }
    // Of two names, one is elsewhere: the file has one class.
    world.run(&link(inside[2], beside, "link")).unwrap();
    world.run(&link(inside[2], top, "link")).unwrap();
    let (changed, commits) = go(&mut world, top, LESS, |_, _| ());
    assert_eq!(changed, inside.len() as u64);
    assert!(commits > 2, "{commits}");
    for (object, found) in classes(&world) {
        assert_eq!(found, if inside.contains(&object) { LESS } else { Class::VOLUME }, "{object}");
    }
    super::invariants::check(&world.records);
    // What is made there goes on like that; what is moved keeps what it had.
    let made = world.made(&file(top, "new"));
    let below = world.made(&mkdir(top, "dir"));
    assert_eq!((class(&world, made), class(&world, below)), (LESS, LESS));
    world.run(&rename(beside, "f", top, "moved")).unwrap();
    world.run(&rename(top, "new", beside, "new")).unwrap();
    assert_eq!((class(&world, outside), class(&world, made)), (Class::VOLUME, LESS));
    // A second time, there is nothing to do but for what was moved in; and it can be taken back.
    assert_eq!(go(&mut world, top, LESS, |_, _| ()), (1, 1));
    go(&mut world, ROOT, Class::VOLUME, |_, _| ());
    assert!(classes(&world).values().all(|class| *class == Class::VOLUME));
}

#[test]
fn what_is_made_meanwhile_is_not_missed() {
    let mut world = World::new();
    let top = world.made(&mkdir(ROOT, "top"));
    let deep = world.made(&mkdir(top, "deep"));
    let mut made = Vec::new();
    go(&mut world, top, LESS, |world, commits| {
        if commits < 3 {
            made.push(world.made(&file(deep, &format!("f{}", made.len()))));
            made.push(world.made(&file(top, &format!("f{}", made.len()))));
        }
    });
    assert!(made.len() >= 4);
    for object in made {
        assert_eq!(class(&world, object), LESS, "{object}");
    }
}
