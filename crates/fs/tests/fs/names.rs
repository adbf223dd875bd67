//! Names: making, finding, linking, moving, removing, listing.

use super::world::*;
use gavel_fs::operation::{Listed, RenameMode};
use gavel_fs::{Caller, Cx, FsError, Operation, Reply, Stop};
use gavel_types::limits::DEPTH_MAX;
use gavel_types::{Cookie, Key, ObjectId};
use gavel_wire::{Kind, Record, ViewError};

#[test]
fn an_object_needs_an_id_only_if_it_is_made() {
    let mut world = World::new();
    world.made(&file(ROOT, "a"));
    let cx = Cx { fresh: None, ..world.cx() };
    let run = |operation: &Operation| gavel_fs::run(&world.records, &cx, operation).map(|done| done.reply);
    assert_eq!(run(&file(ROOT, "b")), Err(Stop::NeedObjectId));
    assert_eq!(run(&mkdir(ROOT, "b")), Err(Stop::NeedObjectId));
    assert_eq!(run(&file(ROOT, "a")), Err(FsError::Exists.into()));
    assert!(matches!(run(&create(ROOT, "a", false, false)), Ok(Reply::Created { created: false, .. })));
}

#[test]
fn new_objects_belong_to_the_caller_and_take_the_group_of_a_setgid_directory() {
    let mut world = World::new();
    let dir = world.made(&mkdir(ROOT, "dir"));
    let gid = gavel_fs::operation::SetAttr { gid: Some(44), mode: Some(0o2775), ..Default::default() };
    world.run(&setattr(dir, gid)).unwrap();
    world.caller = Caller { uid: 5, gid: 6 };
    let made = |world: &mut World, operation: &Operation| {
        let object = world.made(operation);
        let firm = world.attr(object).firm;
        (firm.uid, firm.gid, firm.mode)
    };
    assert_eq!(made(&mut world, &file(ROOT, "f")), (5, 6, 0o644));
    assert_eq!(made(&mut world, &file(dir, "f")), (5, 44, 0o644));
    assert_eq!(made(&mut world, &mkdir(dir, "d")), (5, 44, 0o2755));
    assert_eq!(made(&mut world, &symlink(dir, "s", b"x")), (5, 44, 0o777));
    let masked = Operation::Mkdir { parent: ROOT, name: b"m"[..].into(), mode: 0o7777, umask: 0o027 };
    assert_eq!(made(&mut world, &masked), (5, 6, 0o1750));
}

#[test]
fn only_devices_keep_a_device_number() {
    let mut world = World::new();
    let mut rdev = |kind, name: &str| {
        let name = name.as_bytes().into();
        let object = world.made(&Operation::Mknod { parent: ROOT, name, kind, mode: 0o600, umask: 0, rdev: 259 });
        world.attr(object).firm.rdev
    };
    assert_eq!((rdev(Kind::Fifo, "p"), rdev(Kind::CharDevice, "c"), rdev(Kind::BlockDevice, "b")), (0, 259, 259));
    for kind in [Kind::Directory, Kind::Symlink] {
        assert_eq!(world.run(&mknod(ROOT, "x", kind)), Err(FsError::Invalid));
    }
}

#[test]
fn create_finds_what_somebody_else_made_first() {
    let mut world = World::new();
    let found = world.made(&create(ROOT, "f", true, false));
    world.run(&write(found, 0, b"bytes")).unwrap();
    assert_eq!(world.run(&create(ROOT, "f", true, false)), Err(FsError::Exists));
    assert_eq!(world.run(&create(ROOT, "f", false, false)), Ok(Reply::Created { object: found, created: false }));
    assert_eq!(world.attr(found).size, 5);
    world.run(&create(ROOT, "f", false, true)).unwrap();
    assert_eq!((world.attr(found).size, world.attr(found).allocated), (0, 0));
    world.made(&mkdir(ROOT, "d"));
    world.made(&symlink(ROOT, "s", b"f"));
    assert_eq!(world.run(&create(ROOT, "d", false, false)), Err(FsError::IsDirectory));
    assert_eq!(world.run(&create(ROOT, "s", false, false)), Err(FsError::Stale));
}

#[test]
fn names_and_targets_are_bounded() {
    let mut world = World::new();
    let longest = "x".repeat(255);
    world.made(&file(ROOT, &longest));
    assert!(world.run(&lookup(ROOT, &longest)).is_ok());
    assert_eq!(world.run(&file(ROOT, &"x".repeat(256))), Err(FsError::NameTooLong));
    for bad in ["", ".", "..", "a/b", "a\0b"] {
        for operation in [file(ROOT, bad), mkdir(ROOT, bad), lookup(ROOT, bad), unlink(ROOT, bad), rmdir(ROOT, bad)] {
            assert_eq!(world.run(&operation), Err(FsError::Invalid), "{operation:?}");
        }
        assert_eq!(world.run(&rename(ROOT, &longest, ROOT, bad)), Err(FsError::Invalid));
    }
    let target = [b'x'; 4095];
    let link = world.made(&symlink(ROOT, "s", &target));
    assert_eq!(world.run(&Operation::Readlink { object: link }), Ok(Reply::Bytes(target[..].into())));
    assert_eq!(world.attr(link).size, 4095);
    assert_eq!(world.run(&symlink(ROOT, "t", &[b'x'; 4096])), Err(FsError::NameTooLong));
    assert_eq!(world.run(&symlink(ROOT, "t", b"")), Err(FsError::NotFound));
    assert_eq!(world.run(&Operation::Readlink { object: ROOT }), Err(FsError::Invalid));
}

#[test]
fn a_file_without_names_lives_on_for_those_who_have_it_open() {
    let mut world = World::new();
    let f = world.made(&file(ROOT, "f"));
    world.run(&link(f, ROOT, "g")).unwrap();
    world.run(&unlink(ROOT, "f")).unwrap();
    assert!(!world.records.live.contains_key(&Key::orphan(V, f)));
    world.run(&unlink(ROOT, "g")).unwrap();
    assert!(world.records.live.contains_key(&Key::orphan(V, f)));
    world.run(&write(f, 0, b"still here")).unwrap();
    assert_eq!(world.read(f), b"still here");
    assert_eq!(world.run(&link(f, ROOT, "h")), Err(FsError::NotFound));
    assert_eq!(world.attr(f).nlink, 0);
}

#[test]
fn a_removed_directory_takes_no_names_and_has_none() {
    let mut world = World::new();
    let dir = world.made(&mkdir(ROOT, "d"));
    world.made(&file(ROOT, "f"));
    world.run(&rmdir(ROOT, "d")).unwrap();
    let into = [file(dir, "x"), mkdir(dir, "x"), create(dir, "x", false, false), symlink(dir, "x", b"y")];
    for operation in into.iter().chain(&[lookup(dir, "x"), unlink(dir, "x"), rename(ROOT, "f", dir, "x")]) {
        assert_eq!(world.run(operation), Err(FsError::NotFound), "{operation:?}");
    }
    let listing = world.run(&Operation::Readdir { object: dir, after: Cookie(0), limit: 10 });
    assert_eq!(listing, Ok(Reply::Listing { names: vec![], parent: dir, end: true }));
    assert!(world.run(&chmod(dir, 0o700)).is_ok());
}

#[test]
fn what_is_gone_is_stale_by_id_and_not_found_by_name() {
    let mut world = World::new();
    for operation in [file(NOWHERE, "x"), lookup(NOWHERE, "x"), rmdir(NOWHERE, "x"), rename(NOWHERE, "x", ROOT, "y")] {
        assert_eq!(world.run(&operation), Err(FsError::NotFound), "{operation:?}");
    }
    let by_id = [
        Operation::Getattr { object: NOWHERE },
        chmod(NOWHERE, 0),
        read(NOWHERE, 0, 1),
        write(NOWHERE, 0, b"x"),
        link(NOWHERE, ROOT, "y"),
        getxattr(NOWHERE, b"user.a"),
        Operation::Open { object: NOWHERE, truncate: false, kill_suidgid: false },
        Operation::Readdir { object: NOWHERE, after: Cookie(0), limit: 1 },
    ];
    for operation in &by_id {
        assert_eq!(world.run(operation), Err(FsError::Stale), "{operation:?}");
    }
}

/// The errors are those of ext4 (Linux 6.18), but for a target that is an ancestor of the source: the kernel
/// itself refuses that.
#[test]
fn rename_refuses_what_posix_refuses() {
    let mut world = World::new();
    let a = world.made(&mkdir(ROOT, "a"));
    let b = world.made(&mkdir(a, "b"));
    world.made(&mkdir(ROOT, "e"));
    world.made(&file(ROOT, "f"));
    use RenameMode::{Exchange, NoReplace};
    let refused = [
        (rename(ROOT, "e", ROOT, "f"), FsError::NotDirectory),
        (rename(ROOT, "f", ROOT, "e"), FsError::IsDirectory),
        (rename(ROOT, "e", ROOT, "a"), FsError::NotEmpty),
        (rename(ROOT, "a", b, "q"), FsError::Invalid),
        (rename(ROOT, "a", a, "q"), FsError::Invalid),
        (rename(ROOT, "nope", ROOT, "q"), FsError::NotFound),
        (rename_as(NoReplace, ROOT, "f", ROOT, "f"), FsError::Exists),
        (rename_as(NoReplace, ROOT, "f", ROOT, "e"), FsError::Exists),
        (rename_as(Exchange, ROOT, "f", ROOT, "nope"), FsError::NotFound),
        (rename_as(Exchange, ROOT, "a", a, "b"), FsError::Invalid),
        (rename_as(Exchange, a, "b", ROOT, "a"), FsError::Invalid),
    ];
    for (operation, error) in refused {
        assert_eq!(world.run(&operation), Err(error), "{operation:?}");
    }
}

#[test]
fn a_directory_moves_with_all_below_it() {
    let mut world = World::new();
    let (a, b) = (world.made(&mkdir(ROOT, "a")), world.made(&mkdir(ROOT, "b")));
    let sub = world.made(&mkdir(a, "sub"));
    let f = world.made(&file(sub, "f"));
    world.run(&rename(a, "sub", b, "moved")).unwrap();
    assert_eq!((world.attr(a).nlink, world.attr(b).nlink, world.attr(sub).firm.parent), (2, 3, b));
    assert_eq!(world.run(&lookup(sub, "f")), Ok(Reply::Object(f)));
    // Over an empty directory, which goes.
    let empty = world.made(&mkdir(a, "empty"));
    world.run(&rename(b, "moved", a, "empty")).unwrap();
    assert_eq!((world.attr(a).nlink, world.attr(b).nlink, world.attr(empty).nlink), (3, 2, 0));
    // Exchanged with a file of another directory.
    world.made(&file(b, "x"));
    world.run(&rename_as(RenameMode::Exchange, a, "empty", b, "x")).unwrap();
    assert_eq!((world.attr(a).nlink, world.attr(b).nlink, world.attr(sub).firm.parent), (2, 3, b));
}

#[test]
fn a_rename_follows_parents_no_further_than_the_limit() {
    let mut world = World::new();
    let mut at = ROOT;
    let mut chain = Vec::new();
    for _ in 0..DEPTH_MAX + 1 {
        let done = world.prepare(&mkdir(at, "d")).unwrap();
        let Reply::Object(object) = done.reply else { panic!() };
        world.finish(done).unwrap();
        chain.push(object);
        at = object;
    }
    let mut run = |operation: &Operation| {
        let done = world.prepare(operation)?;
        Ok(world.finish(done).unwrap())
    };
    assert!(run(&mkdir(ROOT, "other")).is_ok() && run(&file(ROOT, "f")).is_ok());
    assert_eq!(run(&rename(ROOT, "other", at, "x")), Err(FsError::TooDeep));
    assert_eq!(run(&rename(ROOT, "other", chain[DEPTH_MAX - 2], "x")), Ok(Reply::Empty));
    // A file can't come to lie above anything.
    assert_eq!(run(&rename(ROOT, "f", at, "x")), Ok(Reply::Empty));
    super::invariants::check(&world.records);
}

fn listing(world: &mut World, after: Cookie, limit: u32) -> (Vec<Listed>, bool) {
    match world.run(&Operation::Readdir { object: ROOT, after, limit }) {
        Ok(Reply::Listing { names, parent: ROOT, end }) => (names, end),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_together_list_every_name_once() {
    let mut world = World::new();
    assert_eq!(listing(&mut world, Cookie(0), 5), (vec![], true));
    let made: Vec<ObjectId> = (0..23).map(|i| world.made(&file(ROOT, &format!("n{i}")))).collect();
    let (mut found, mut after) = (Vec::new(), Cookie(0));
    for page in 1.. {
        let (names, end) = listing(&mut world, after, 5);
        assert_eq!(names.len(), if page == 5 { 3 } else { 5 });
        after = names.last().map(|name| name.cookie).unwrap();
        found.extend(names.iter().map(|name| name.object));
        assert_eq!(end, page == 5);
        if end {
            break;
        }
    }
    found.sort();
    assert_eq!(found, made);
    assert!(listing(&mut world, Cookie(0), 23).1);
    assert!(!listing(&mut world, Cookie(0), 22).1);
    assert_eq!(listing(&mut world, Cookie(0), 0).0.len(), 1);
    assert_eq!(listing(&mut world, Cookie::LAST, 10), (vec![], true));
}

#[test]
fn a_record_of_the_wrong_kind_is_refused_as_damaged() {
    let mut world = World::new();
    let f = world.made(&file(ROOT, "f"));
    world.run(&write(f, 0, b"123456789")).unwrap();
    let key = Key::dirent(V, ROOT, b"f");
    world.records.live.get_mut(&key).unwrap().record = Record::Target(b"x"[..].into());
    let found = gavel_fs::run(&world.records, &world.cx(), &lookup(ROOT, "f"));
    assert!(matches!(found, Err(Stop::View(ViewError::Damaged { .. }))), "{found:?}");
    let extent = gavel_wire::Extent { len: 9, content: gavel_wire::Content::Inline(b"short"[..].into()) };
    world.records.live.get_mut(&Key::extent(V, f, 9)).unwrap().record = Record::Extent(extent);
    let found = gavel_fs::run(&world.records, &world.cx(), &read(f, 2, 100));
    assert!(matches!(found, Err(Stop::View(ViewError::Damaged { .. }))), "{found:?}");
}
