//! Which operations collide: the first is committed, then the second one, which was prepared on the same view.

use super::world::*;
use gavel_fs::operation::{Allocate, RenameMode, SetAttr, SetTime};
use gavel_fs::{Operation, Reply};
use gavel_types::{Cookie, ObjectId, Timestamp};

/// A world with some objects, to be asked for by name.
struct Scene {
    world: World,
    dir: ObjectId,
    sub: ObjectId,
    empty: ObjectId,
    file: ObjectId,
    other: ObjectId,
}

fn scene() -> Scene {
    let mut world = World::new();
    let dir = world.made(&mkdir(ROOT, "dir"));
    let sub = world.made(&mkdir(dir, "sub"));
    let empty = world.made(&mkdir(ROOT, "empty"));
    let file = world.made(&file(dir, "file"));
    let other = world.made(&create(ROOT, "other", true, false));
    world.run(&write(file, 0, &[7; 100])).unwrap();
    Scene { world, dir, sub, empty, file, other }
}

/// Do these collide? Their replies and plans are those as of one view; each has an object id of its own.
fn collide(scene: &Scene, first: &Operation, second: &Operation) -> bool {
    let mut world = scene.world.clone();
    let one = world.prepare(first).unwrap();
    world.fresh.0 += 1;
    let two = world.prepare(second).unwrap();
    world.fresh.0 -= 1;
    world.finish(one).unwrap();
    world.fresh = ObjectId(scene.world.fresh.0 + 1);
    let collided = world.finish(two).is_err();
    super::invariants::check(&world.records);
    collided
}

fn assert_all(expected: bool, pairs: Vec<(Operation, Operation)>, scene: &Scene) {
    for (first, second) in &pairs {
        assert_eq!(collide(scene, first, second), expected, "{first:?}\nthen {second:?}");
    }
}

#[test]
fn what_merges_does_not_collide() {
    let s = scene();
    let touch = SetAttr { atime: Some(SetTime::At(Timestamp::default())), ..SetAttr::default() };
    let punch = |offset, len| Operation::Fallocate { object: s.file, offset, len, how: Allocate::PunchHole };
    let pairs = vec![
        // Different names in one directory.
        (file(s.dir, "a"), file(s.dir, "b")),
        (mkdir(s.dir, "a"), mkdir(s.dir, "b")),
        (create(s.dir, "a", true, false), symlink(s.dir, "b", b"x")),
        (unlink(s.dir, "file"), file(s.dir, "b")),
        (rmdir(s.dir, "sub"), mkdir(s.dir, "b")),
        (rename(s.dir, "file", ROOT, "a"), file(s.dir, "b")),
        (rename(s.dir, "file", ROOT, "a"), rename(ROOT, "other", s.dir, "b")),
        (rename(ROOT, "other", s.sub, "x"), rmdir(ROOT, "empty")),
        (link(s.file, ROOT, "a"), link(s.file, ROOT, "b")),
        (write(s.file, 0, b"xx"), link(s.file, ROOT, "b")),
        // Content: whatever overlaps.
        (write(s.file, 10, b"xxxx"), write(s.file, 12, b"yyyy")),
        (write(s.file, 10, b"xxxx"), write(s.file, 500, b"yyyy")),
        (append(s.file, b"xxxx"), write(s.file, 50, b"yyyy")),
        (punch(0, 20), write(s.file, 10, b"x")),
        (write(s.file, 10, b"x"), punch(0, 20)),
        (setattr(s.file, touch), write(s.file, 0, b"x")),
        (write(s.file, 0, b"x"), setattr(s.file, touch)),
        (write(s.file, 0, b"x"), rename(s.dir, "file", s.dir, "a")),
        // Directories: the counters of one change, the other only needs it to be there.
        (file(s.dir, "a"), rename(ROOT, "empty", s.dir, "b")),
        (file(s.sub, "a"), rename(ROOT, "empty", s.dir, "b")),
        (setxattr(s.file, b"user.a", b"1"), setxattr(s.file, b"user.b", b"1")),
        (write(s.file, 0, b"x"), setxattr(s.file, b"user.b", b"1")),
        // Reads.
        (file(s.dir, "a"), lookup(s.dir, "sub")),
        (write(s.file, 0, b"x"), lookup(s.dir, "file")),
    ];
    assert_all(false, pairs, &s);
}

#[test]
fn what_depends_on_the_other_collides() {
    let s = scene();
    let reserve =
        Operation::Fallocate { object: s.file, offset: 0, len: 300, how: Allocate::Reserve { keep_size: true } };
    let copy = Operation::CopyRange { from: s.file, from_offset: 0, to: s.other, to_offset: 0, len: 50 };
    let listing = Operation::Readdir { object: s.dir, after: Cookie(0), limit: 100 };
    let exchange = rename_as(RenameMode::Exchange, s.dir, "file", ROOT, "other");
    let acl_default = [&[2u8, 0, 0, 0][..], &acl_entry(1, 7), &acl_entry(4, 5), &acl_entry(0x20, 0)].concat();
    let pairs = vec![
        // One name.
        (file(s.dir, "a"), mkdir(s.dir, "a")),
        (file(s.dir, "a"), create(s.dir, "a", false, false)),
        (unlink(s.dir, "file"), unlink(s.dir, "file")),
        (unlink(s.dir, "file"), rename(s.dir, "file", ROOT, "a")),
        (rename(s.dir, "file", ROOT, "a"), file(ROOT, "a")),
        (file(ROOT, "a"), rename(s.dir, "file", ROOT, "a")),
        (exchange.clone(), unlink(ROOT, "other")),
        (unlink(ROOT, "other"), exchange),
        (unlink(s.dir, "file"), create(s.dir, "file", false, false)),
        // A directory goes, or stays.
        (rmdir(ROOT, "empty"), file(s.empty, "a")),
        (file(s.empty, "a"), rmdir(ROOT, "empty")),
        (rmdir(ROOT, "empty"), rename(ROOT, "other", s.empty, "a")),
        (rename(ROOT, "other", s.empty, "a"), rmdir(ROOT, "empty")),
        (rename(s.dir, "sub", ROOT, "empty"), mkdir(s.empty, "a")),
        (mkdir(s.empty, "a"), rename(s.dir, "sub", ROOT, "empty")),
        (rmdir(s.dir, "sub"), rename(ROOT, "empty", s.sub, "x")),
        // Two moves that would make a loop.
        (rename(ROOT, "dir", s.empty, "x"), rename(ROOT, "empty", s.sub, "y")),
        (rename(ROOT, "empty", s.sub, "y"), rename(ROOT, "dir", s.empty, "x")),
        // The last link.
        (link(s.file, ROOT, "a"), unlink(s.dir, "file")),
        (unlink(s.dir, "file"), link(s.file, ROOT, "a")),
        // Sizes.
        (append(s.file, b"x"), append(s.file, b"y")),
        (write(s.file, 90, &[1; 20]), append(s.file, b"y")),
        (write(s.file, 90, &[1; 20]), truncate(s.file, 10)),
        (truncate(s.file, 10), append(s.file, b"y")),
        (write(s.file, 200, &[1; 20]), reserve.clone()),
        (truncate(s.file, 10), reserve),
        (write(s.file, 10, b"x"), copy.clone()),
        (truncate(s.file, 10), copy),
        // Reads.
        (unlink(s.dir, "file"), lookup(s.dir, "file")),
        (write(s.file, 0, b"x"), read(s.file, 0, 10)),
        (write(s.file, 0, b"x"), Operation::Getattr { object: s.file }),
        (file(s.dir, "a"), listing.clone()),
        (unlink(s.dir, "file"), listing),
        (setxattr(s.file, b"user.a", b"1"), Operation::Listxattr { object: s.file }),
        // What is inherited.
        (chmod(s.dir, 0o2775), file(s.dir, "a")),
        (setxattr(s.dir, b"system.posix_acl_default", &acl_default), file(s.dir, "a")),
        (chmod(s.file, 0o600), chmod(s.file, 0o700)),
    ];
    assert_all(true, pairs, &s);
}

fn acl_entry(tag: u8, permissions: u8) -> [u8; 8] {
    [tag, 0, permissions, 0, 255, 255, 255, 255]
}

#[test]
fn a_reservation_depends_on_the_holes_it_fills() {
    let mut s = scene();
    s.world.run(&write(s.other, 10, &[1; 90])).unwrap();
    let reserve =
        |len| Operation::Fallocate { object: s.other, offset: 0, len, how: Allocate::Reserve { keep_size: false } };
    let pairs = vec![
        (write(s.other, 0, b"hole"), reserve(50)),
        (write(s.other, 0, b"hole"), reserve(500)),
        (write(s.other, 60, b"data"), reserve(500)),
    ];
    assert_all(true, pairs, &s);
    assert_all(false, vec![(append(s.other, b"behind"), reserve(50))], &s);
}

#[test]
fn a_page_of_names_depends_on_the_next_one() {
    let s = scene();
    let page = |limit| Operation::Readdir { object: s.dir, after: Cookie(0), limit };
    let (first, second) = if Cookie::of(b"file") < Cookie::of(b"sub") { ("file", "sub") } else { ("sub", "file") };
    let remove = |name| if name == "sub" { rmdir(s.dir, name) } else { unlink(s.dir, name) };
    assert_all(true, vec![(remove(first), page(1)), (remove(second), page(1)), (remove(second), page(2))], &s);
    // What comes behind the next name does not matter.
    let behind =
        (0..).map(|i| format!("n{i}")).find(|name| Cookie::of(name.as_bytes()) > Cookie::of(second.as_bytes()));
    let behind = file(s.dir, &behind.unwrap());
    assert_all(false, vec![(behind.clone(), page(1))], &s);
    assert_all(true, vec![(behind, page(2))], &s);
}

#[test]
fn the_loser_runs_again_and_sees_the_winner() {
    let mut s = scene();
    let stale = s.world.prepare(&create(s.dir, "a", false, false)).unwrap();
    s.world.fresh.0 += 1;
    let winner = s.world.made(&create(s.dir, "a", false, false));
    assert_eq!(s.world.finish(stale), Err(Conflict));
    let again = s.world.run(&create(s.dir, "a", false, false));
    assert_eq!(again, Ok(Reply::Created { object: winner, created: false }));
}

#[test]
fn appends_that_are_shipped_collide_with_no_write() {
    let s = scene();
    let appended = |world: &World, bytes: &[u8]| world.prepare_to_ship(&append(s.file, bytes)).unwrap();
    for (other, then) in [
        (append(s.file, b"one"), [vec![7; 100], b"onetwo".to_vec()].concat()),
        (write(s.file, 99, b"one"), [vec![7; 99], b"onetwo".to_vec()].concat()),
        (write(s.file, 0, b"o"), [b"o".to_vec(), vec![7; 99], b"two".to_vec()].concat()),
        (truncate(s.file, 2), [vec![7; 2], b"two".to_vec()].concat()),
    ] {
        let mut world = s.world.clone();
        let (first, second) = (world.prepare_to_ship(&other).unwrap(), appended(&world, b"two"));
        world.finish(first).unwrap();
        assert!(matches!(world.finish(second), Ok(Reply::Appended { len: 3 })), "{other:?}");
        assert_eq!(world.read(s.file), then, "{other:?}");
        super::invariants::check(&world.records);
    }
    // What decides about it collides: the mode, and that it is a file. Privileges go with the write.
    let mut world = s.world.clone();
    let late = appended(&world, b"two");
    world.run(&chmod(s.file, 0o4755)).unwrap();
    assert!(world.finish(late).is_err(), "whether privileges go depends on the mode");
    let kills = Operation::Write {
        object: s.file,
        offset: 0,
        append: true,
        len: 3,
        content: gavel_wire::Content::Inline(b"two"[..].into()),
        kill_suidgid: true,
    };
    let kills = world.prepare_to_ship(&kills).unwrap();
    world.finish(kills).unwrap();
    let attr = world.attr(s.file);
    assert_eq!((attr.firm.mode, attr.size), (0o755, 103));
    // Near the longest that a file can be, whether there is room depends on the size.
    world.run(&truncate(s.file, gavel_types::limits::FILE_BYTES_MAX)).unwrap();
    let full = world.prepare_to_ship(&append(s.file, b"x")).map(|done| done.reply);
    assert_eq!(full, Err(gavel_fs::FsError::TooLarge));
}
