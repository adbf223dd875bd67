//! What people ask.

use crate::world::*;
use gavel_history::diff::{End, Way, diff};
use gavel_history::transaction::What;
use gavel_history::{HistoryError, HistoryLine, Scope, history, removed};
use gavel_types::Tid;

fn told(world: &World, path: &str) -> Vec<HistoryLine> {
    history(&world.past(), V, path.as_bytes(), world.tid(), 100).unwrap().lines
}

fn words(lines: &[HistoryLine]) -> Vec<String> {
    lines.iter().map(|line| line.changes.iter().map(What::words).collect::<Vec<_>>().join(", ")).collect()
}

#[test]
fn a_rename_is_followed_to_the_name_before() {
    let mut world = World::new();
    let directory = world.made(mkdir(ROOT, "d"));
    let file = world.made(create(directory, "old"));
    world.uid = 7;
    world.run(write(file, 0, b"hello"));
    world.run(rename(directory, "old", ROOT, "new"));
    world.run(chmod(file, 0o600));
    world.run(setxattr(file, "user.a", "1"));
    world.run(truncate(file, 2));
    let lines = told(&world, "new");
    let wanted = ["truncated to 2", "xattr user.a", "mode 0644 -> 0600", "renamed d/old -> new", "written", "created"];
    assert_eq!(words(&lines), wanted);
    let paths: Vec<&str> = lines.iter().map(|line| &*line.path).collect();
    assert_eq!(paths, ["new", "new", "new", "new", "d/old", "d/old"]);
    assert_eq!(lines.iter().map(|line| line.size.unwrap()).collect::<Vec<_>>(), [2, 5, 5, 5, 5, 0]);
    assert_eq!(lines.iter().map(|line| line.uid.unwrap()).collect::<Vec<_>>(), [7, 7, 7, 7, 7, 0]);
    // The name before has a history, too, which ends with the rename.
    let lines = told(&world, "d/old");
    assert_eq!(words(&lines), ["renamed d/old -> new", "written", "created"]);
    assert_eq!((&*lines[0].path, lines[0].size), ("d/old", None));
}

#[test]
fn a_removed_file_in_a_removed_directory_is_found_by_name() {
    let mut world = World::new();
    let directory = world.made(mkdir(ROOT, "d"));
    let file = world.made(create(directory, "f"));
    world.run(write(file, 0, b"hello"));
    world.run(unlink(directory, "f"));
    world.run(rmdir(ROOT, "d"));
    // One of the same name that never had such a file is not in the way.
    world.made(mkdir(ROOT, "d"));
    assert_eq!(words(&told(&world, "d/f")), ["removed d/f", "written", "created"]);
    let error = history(&world.past(), V, b"d/g", world.tid(), 10).unwrap_err();
    assert_eq!(error, HistoryError::NeverThere { path: "d/g".into() });
    let error = history(&world.past(), V, b"../x", world.tid(), 10).unwrap_err();
    assert!(matches!(error, HistoryError::NotAPath { .. }));
}

#[test]
fn a_file_that_is_replaced_has_both_pasts() {
    let mut world = World::new();
    let first = world.made(create(ROOT, "f"));
    world.run(write(first, 0, b"one"));
    let second = world.made(create(ROOT, "f.tmp"));
    world.run(write(second, 0, b"two"));
    world.run(rename(ROOT, "f.tmp", ROOT, "f"));
    let wanted = [
        format!("renamed f.tmp -> f, replaced object {first}"),
        "written".into(),
        "created".into(),
        "written".into(),
        "created".into(),
    ];
    assert_eq!(words(&told(&world, "f")), wanted);
}

#[test]
fn names_of_a_directory_come_and_go() {
    let mut world = World::new();
    let directory = world.made(mkdir(ROOT, "d"));
    let file = world.made(create(directory, "a"));
    world.made(create(directory, "b"));
    world.run(link(file, directory, "c"));
    world.run(unlink(directory, "a"));
    let last = world.tid();
    world.run(rename(directory, "b", ROOT, "b"));
    world.run(rename(ROOT, "d", ROOT, "e"));
    let wanted = ["renamed d -> e", "- b (now b)", "- a", "+ c", "+ b", "+ a", "created"];
    assert_eq!(words(&told(&world, "e")), wanted);
    let (lines, more) = removed(&world.past(), V, b"e", world.tid(), 10).unwrap();
    let brief: Vec<_> = lines.iter().map(|line| (&*line.name, line.to.as_deref())).collect();
    assert_eq!((brief, more), (vec![("b", Some("b")), ("a", None)], false));
    assert_eq!(lines[1].last, Tid(last.0 - 1).to_string());
    assert!(removed(&world.past(), V, b"e", world.tid(), 1).unwrap().1);
    // As of then it was not gone yet.
    assert_eq!(removed(&world.past(), V, b"d", Tid(last.0 - 1), 10).unwrap().0, []);
}

#[test]
fn a_log_of_a_directory_has_what_was_done_below_it() {
    let mut world = World::new();
    let (inside, outside) = (world.made(mkdir(ROOT, "in")), world.made(mkdir(ROOT, "out")));
    let (mine, other) = (world.made(create(inside, "f")), world.made(create(outside, "f")));
    let mut wanted = vec![world.run(write(mine, 0, b"one"))];
    world.run(write(other, 0, b"two"));
    wanted.push(world.run(rename(outside, "f", inside, "g")));
    wanted.push(world.run(write(other, 0, b"two")));
    wanted.push(world.run(rename(ROOT, "in", outside, "in")));
    wanted.push(world.run(chmod(mine, 0o600)));
    wanted.push(world.run(rename(inside, "g", ROOT, "g")));
    world.run(write(other, 0, b"three"));
    let page =
        gavel_history::log::log(&world.past(), V, Scope::Directory(inside), (Tid::ZERO, world.tid()), 6).unwrap();
    let tids: Vec<String> = page.lines.iter().map(|line| line.tid.clone()).collect();
    assert_eq!(tids, wanted.iter().rev().map(Tid::to_string).collect::<Vec<_>>());
    let line = &page.lines[0].changes[0];
    assert_eq!((line.sign.as_char(), &*line.path, line.from.as_deref()), ('R', "g", Some("out/in/g")));
}

#[test]
fn a_file_that_keeps_its_path_while_its_directory_moves_is_told_of() {
    let mut world = World::new();
    let directory = world.made(mkdir(ROOT, "d"));
    world.made(create(directory, "f"));
    let old = world.tid();
    world.run(rename(ROOT, "d", ROOT, "e"));
    let other = world.made(mkdir(ROOT, "d"));
    world.run(rename(directory, "f", other, "f"));
    let end = |tid| End { tid, path: Vec::new() };
    for way in [Way::Index, Way::Trees] {
        let found = diff(&world.past(), V, &end(old), &end(world.tid()), way).unwrap();
        let brief = found.iter().map(|found| {
            let from = found.from.as_ref().map(|from| format!("{} -> ", from.escape_ascii())).unwrap_or_default();
            format!("{} {from}{}", found.sign.as_char(), found.path.escape_ascii())
        });
        assert_eq!(brief.collect::<Vec<_>>(), ["+ d", "R d/f -> d/f", "R d -> e"], "{way:?}");
    }
}
