//! Random operations: against the model, and stale plans against fresh ones.

use super::model::Model;
use super::steps::{Planned, Step, step};
use super::world::{ROOT, World};
use gavel_fs::operation::Piece;
use gavel_fs::{Done, FsError, Operation, Reply};
use gavel_types::{Key, KeyParts, ObjectId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;

/// All objects, with and without names. The later ones and the root are met more often.
fn objects(world: &World) -> Vec<ObjectId> {
    let is_attr = |key: &&Key| key.parts() == KeyParts::Attr;
    let mut objects: Vec<ObjectId> = world.records.live.keys().filter(is_attr).map(Key::object).collect();
    let recent = objects.len().saturating_sub(4);
    objects.extend_from_within(recent..);
    objects.extend([ROOT, ROOT]);
    objects
}

/// Pieces as the bytes that they stand for.
fn plain(world: &World, reply: Reply) -> Reply {
    match reply {
        Reply::Data(pieces) => match world.bytes(&pieces) {
            bytes if bytes.is_empty() => Reply::Data(vec![]),
            bytes => Reply::Data(vec![Piece::Bytes(bytes.into())]),
        },
        reply => reply,
    }
}

/// If the stale plan's guards hold, it must do and say just what the operation does when it is run again.
fn stale_is_as_good_as_fresh(world: &World, operation: &Operation, stale: &Done) -> bool {
    if !world.hold(&stale.guards) {
        return false;
    }
    let fresh = world.prepare(operation);
    let fresh = fresh.unwrap_or_else(|error| panic!("{operation:?} would now fail ({error}), its guards hold"));
    assert_eq!(plain(world, stale.reply.clone()), plain(world, fresh.reply.clone()), "{operation:?}");
    let (mut late, mut anew) = (world.clone(), world.clone());
    late.finish(stale.clone()).expect("its guards hold");
    anew.finish(fresh).expect("nothing was changed");
    assert_eq!(late.records, anew.records, "{operation:?}");
    true
}

/// Runs the steps in the world and in the model. Says which operations succeeded or failed, and how.
fn against_the_model(steps: &[Step]) -> Result<BTreeSet<String>, TestCaseError> {
    let mut world = World::new();
    let mut model = Model::new(world.attr(ROOT));
    let mut marks = BTreeSet::new();
    for step in steps {
        let objects = objects(&world);
        let planned = step.plan(&mut world, &objects);
        (world.caller, model.caller) = (planned.caller, planned.caller);
        (model.now, model.fresh) = (world.next_time(), world.fresh);
        let expected = model.run(&planned.operation, planned.bytes.as_deref());
        let found = world.run(&planned.operation).map(|reply| plain(&world, reply));
        marks.insert(mark(&planned.operation, &expected));
        prop_assert_eq!(found, expected, "{:?}", planned.operation);
        model.compare(&mut world);
    }
    Ok(marks)
}

/// Runs the steps, some of them late. Says which late ones still held, and which did not.
fn late_ones(steps: &[Step]) -> BTreeSet<String> {
    let mut world = World::new();
    // The last few operations, as they were prepared on older views, each with an object id of its own.
    let mut waiting: Vec<(Planned, ObjectId, Done)> = Vec::new();
    let mut marks = BTreeSet::new();
    for (step, id) in steps.iter().zip(world.fresh.0..) {
        let objects = objects(&world);
        let planned = step.plan(&mut world, &objects);
        (world.caller, world.fresh) = (planned.caller, ObjectId(id));
        if let Ok(done) = world.prepare(&planned.operation) {
            if step.commits() {
                world.finish(done).expect("nobody else changes anything");
            } else {
                waiting.push((planned, world.fresh, done));
            }
        }
        waiting.drain(..waiting.len().saturating_sub(6));
        for (planned, fresh, done) in &waiting {
            (world.caller, world.fresh) = (planned.caller, *fresh);
            let held = stale_is_as_good_as_fresh(&world, &planned.operation, done);
            marks.insert(format!("{} {held}", name_of(&planned.operation)));
        }
    }
    marks
}

fn name_of(operation: &Operation) -> String {
    let text = format!("{operation:?}");
    text.split(' ').next().expect("the name of the variant").to_string()
}

fn mark(operation: &Operation, answer: &Result<Reply, FsError>) -> String {
    match answer {
        Ok(_) => format!("{} ok", name_of(operation)),
        Err(error) => format!("{} {error:?}", name_of(operation)),
    }
}

proptest! {
    #[test]
    fn operations_do_what_the_model_does(steps in vec(step(), 1..80)) {
        against_the_model(&steps)?;
    }

    #[test]
    fn what_holds_its_guards_was_not_outdated(steps in vec(step(), 2..60)) {
        late_ones(&steps);
    }
}

const NAMES: [&str; 23] = [
    "Lookup",
    "Getattr",
    "Setattr",
    "Mknod",
    "Create",
    "Mkdir",
    "Symlink",
    "Readlink",
    "Link",
    "Unlink",
    "Rmdir",
    "Rename",
    "Open",
    "Read",
    "Write",
    "Fallocate",
    "Seek",
    "CopyRange",
    "Readdir",
    "Getxattr",
    "Setxattr",
    "Removexattr",
    "Listxattr",
];
const REFUSALS: [&str; 34] = [
    "Lookup NotFound",
    "Lookup NotDirectory",
    "Lookup Invalid",
    "Create Exists",
    "Create IsDirectory",
    "Create Stale",
    "Mkdir Exists",
    "Mkdir NotFound",
    "Mkdir NotDirectory",
    "Symlink Exists",
    "Link NotPermitted",
    "Link Exists",
    "Link NotFound",
    "Unlink IsDirectory",
    "Unlink NotFound",
    "Rmdir NotEmpty",
    "Rmdir NotDirectory",
    "Rename Invalid",
    "Rename Exists",
    "Rename NotEmpty",
    "Rename NotDirectory",
    "Rename IsDirectory",
    "Rename NotFound",
    "Open IsDirectory",
    "Write IsDirectory",
    "Write Invalid",
    "Seek NoData",
    "CopyRange Invalid",
    "Readdir NotDirectory",
    "Getxattr NoAttribute",
    "Setxattr AccessDenied",
    "Setxattr NotPermitted",
    "Setxattr Exists",
    "Setattr NotSupported",
];

/// The properties are worth as much as the steps: these are the same for every run.
#[test]
fn random_steps_reach_every_operation_and_its_refusals() {
    let mut runner = TestRunner::deterministic();
    let (mut answers, mut late) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..300 {
        let steps = vec(step(), 80).new_tree(&mut runner).expect("steps have no filters").current();
        answers.append(&mut against_the_model(&steps).expect("as the model"));
        late.append(&mut late_ones(&steps));
    }
    let reached = |mark: &str| answers.contains(mark);
    assert_eq!(REFUSALS.into_iter().find(|refusal| !reached(refusal)), None);
    for name in NAMES {
        assert!(reached(&format!("{name} ok")), "{name} never succeeded");
        assert!(late.contains(&format!("{name} true")), "a late {name} never held");
        // A target never changes.
        assert!(name == "Readlink" || late.contains(&format!("{name} false")), "a late {name} always held");
    }
}
