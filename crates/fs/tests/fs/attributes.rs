//! Modes, owners, times, extended attributes, ACLs.

use super::world::*;
use gavel_fs::operation::{SetAttr, SetTime, XattrMode};
use gavel_fs::{Caller, FsError, Operation, Reply};
use gavel_types::limits::{XATTR_LIST_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use gavel_types::{ObjectId, Timestamp};
use gavel_wire::Kind;

const NOTHING: SetAttr =
    SetAttr { mode: None, uid: None, gid: None, size: None, atime: None, mtime: None, kill_suidgid: false };

fn with_file() -> (World, ObjectId) {
    let mut world = World::new();
    let f = world.made(&file(ROOT, "f"));
    (world, f)
}

fn mode_after(world: &mut World, object: ObjectId, mode: u16, operation: &Operation) -> u16 {
    world.run(&chmod(object, mode)).unwrap();
    world.run(operation).unwrap();
    world.attr(object).firm.mode
}

/// As measured on ext4 (Linux 6.18).
#[test]
fn a_change_of_owner_takes_privileges() {
    let (mut world, f) = with_file();
    let chown = setattr(f, SetAttr { uid: Some(1), gid: Some(2), ..NOTHING });
    assert_eq!(mode_after(&mut world, f, 0o6755, &chown), 0o755);
    assert_eq!(mode_after(&mut world, f, 0o6745, &chown), 0o2745);
    assert_eq!((world.attr(f).firm.uid, world.attr(f).firm.gid), (1, 2));
    world.run(&setxattr(f, b"security.capability", b"caps")).unwrap();
    world.run(&chown).unwrap();
    assert_eq!(world.run(&getxattr(f, b"security.capability")), Err(FsError::NoAttribute));
    let dir = world.made(&mkdir(ROOT, "d"));
    let chown_dir = setattr(dir, SetAttr { uid: Some(1), ..NOTHING });
    assert_eq!(mode_after(&mut world, dir, 0o6755, &chown_dir), 0o6755);
    assert_eq!(world.run(&setattr(f, SetAttr { uid: Some(u32::MAX), ..NOTHING })), Err(FsError::Invalid));
}

#[test]
fn a_change_of_content_takes_privileges() {
    let (mut world, f) = with_file();
    let write_by = |kill_suidgid| Operation::Write {
        object: f,
        offset: 0,
        append: false,
        len: 1,
        content: gavel_wire::Content::Inline([1].into()),
        kill_suidgid,
    };
    assert_eq!(mode_after(&mut world, f, 0o6755, &write_by(false)), 0o6755);
    assert_eq!(mode_after(&mut world, f, 0o6755, &write_by(true)), 0o755);
    assert_eq!(mode_after(&mut world, f, 0o6745, &write_by(true)), 0o2745);
    let cut = setattr(f, SetAttr { size: Some(0), kill_suidgid: true, ..NOTHING });
    assert_eq!(mode_after(&mut world, f, 0o6755, &cut), 0o755);
    let open = Operation::Open { object: f, truncate: true, kill_suidgid: true };
    assert_eq!(mode_after(&mut world, f, 0o6755, &open), 0o755);
    for operation in [write_by(false), truncate(f, 0), create(ROOT, "f", false, true)] {
        world.run(&setxattr(f, b"security.capability", b"caps")).unwrap();
        world.run(&operation).unwrap();
        assert_eq!(world.run(&getxattr(f, b"security.capability")), Err(FsError::NoAttribute), "{operation:?}");
    }
}

#[test]
fn times_are_set_as_asked_and_ctime_always_moves() {
    let (mut world, f) = with_file();
    let past = Timestamp { secs: -5, nanos: 6 };
    let now = world.next_time();
    let set = SetAttr { atime: Some(SetTime::At(past)), mtime: Some(SetTime::Now), ..NOTHING };
    world.run(&setattr(f, set)).unwrap();
    let attr = world.attr(f);
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (past, now, now));
    let now = world.next_time();
    world.run(&setattr(f, NOTHING)).unwrap();
    assert_eq!((world.attr(f).atime, world.attr(f).mtime, world.attr(f).ctime), (past, attr.mtime, now));
    let both = SetAttr { size: Some(7), mtime: Some(SetTime::At(past)), ..NOTHING };
    world.run(&setattr(f, both)).unwrap();
    assert_eq!((world.attr(f).mtime, world.attr(f).size), (past, 7));
    let commit = SetAttr { mtime: Some(SetTime::At(Timestamp::COMMIT)), ..NOTHING };
    assert_eq!(world.run(&setattr(f, commit)), Err(FsError::Invalid));
}

#[test]
fn a_symlink_has_no_mode_to_change() {
    let mut world = World::new();
    let link = world.made(&symlink(ROOT, "s", b"x"));
    assert_eq!(world.run(&chmod(link, 0o600)), Err(FsError::NotSupported));
    assert!(world.run(&setattr(link, SetAttr { uid: Some(5), ..NOTHING })).is_ok());
    assert_eq!(world.attr(link).firm.mode, 0o777);
}

/// The errors are those of ext4 (Linux 6.18).
#[test]
fn extended_attributes_live_in_their_namespaces() {
    let (mut world, f) = with_file();
    let s = world.made(&symlink(ROOT, "s", b"x"));
    let p = world.made(&mknod(ROOT, "p", Kind::Fifo));
    for special in [s, p] {
        assert_eq!(world.run(&setxattr(special, b"user.a", b"1")), Err(FsError::NotPermitted));
        assert_eq!(world.run(&removexattr(special, b"user.a")), Err(FsError::NotPermitted));
        assert_eq!(world.run(&getxattr(special, b"user.a")), Err(FsError::NoAttribute));
        assert_eq!(world.run(&setxattr(special, b"trusted.a", b"1")), Ok(Reply::Empty));
    }
    assert_eq!(world.run(&setxattr(f, b"user.", b"1")), Err(FsError::Invalid));
    assert_eq!(world.run(&setxattr(f, b"foo.a", b"1")), Err(FsError::NotSupported));
    assert_eq!(world.run(&setxattr(f, b"", b"1")), Err(FsError::Invalid));
    assert_eq!(world.run(&setxattr(f, &[b'x'; 300], b"1")), Err(FsError::Invalid));
    assert_eq!(world.run(&removexattr(f, b"user.a")), Err(FsError::NoAttribute));
    world.run(&setxattr(f, b"trusted.b", b"1")).unwrap();
    world.run(&setxattr(f, b"user.a", b"")).unwrap();
    let list = Operation::Listxattr { object: f };
    assert_eq!(world.run(&list), Ok(Reply::Bytes(b"trusted.b\0user.a\0"[..].into())));
    world.caller = Caller { uid: 5, gid: 6 };
    assert_eq!(world.run(&list), Ok(Reply::Bytes(b"user.a\0"[..].into())));
}

#[test]
fn extended_attributes_are_made_or_replaced_as_asked() {
    let (mut world, f) = with_file();
    let set =
        |value: &[u8], mode| Operation::Setxattr { object: f, name: b"user.a"[..].into(), value: value.into(), mode };
    assert_eq!(world.run(&set(b"1", XattrMode::Replace)), Err(FsError::NoAttribute));
    assert_eq!(world.run(&set(b"1", XattrMode::Create)), Ok(Reply::Empty));
    assert_eq!(world.run(&set(b"2", XattrMode::Create)), Err(FsError::Exists));
    assert_eq!(world.run(&set(b"3", XattrMode::Replace)), Ok(Reply::Empty));
    assert_eq!(world.run(&getxattr(f, b"user.a")), Ok(Reply::Bytes(b"3"[..].into())));
    let too_large = vec![0; XATTR_VALUE_BYTES_MAX + 1];
    assert_eq!(world.run(&set(&too_large, XattrMode::Set)), Err(FsError::AttributeTooLarge));
    assert_eq!(world.run(&set(&too_large[1..], XattrMode::Set)), Ok(Reply::Empty));
}

#[test]
fn the_list_of_attributes_has_a_limit() {
    let (mut world, f) = with_file();
    let name = |i: usize| format!("user.{i:0>250}").into_bytes();
    for i in 0..XATTR_LIST_BYTES_MAX / 256 {
        let done = world.prepare(&setxattr(f, &name(i), b"")).unwrap();
        world.finish(done).unwrap();
    }
    assert_eq!(world.run(&setxattr(f, &name(99_999), b"")), Err(FsError::AttributeTooLarge));
    assert_eq!(world.run(&setxattr(f, b"user.x", b"")), Err(FsError::AttributeTooLarge));
    assert_eq!(world.run(&setxattr(f, &name(3), b"again")), Ok(Reply::Empty));
    // The last place is given once.
    world.run(&removexattr(f, &name(3))).unwrap();
    let (one, two) = (world.prepare(&setxattr(f, b"user.x", b"")), world.prepare(&setxattr(f, &name(3), b"")));
    world.finish(one.unwrap()).unwrap();
    assert_eq!(world.finish(two.unwrap()), Err(Conflict));
    match world.run(&Operation::Listxattr { object: f }) {
        Ok(Reply::Bytes(list)) => assert!(list.len() <= XATTR_LIST_BYTES_MAX),
        other => panic!("{other:?}"),
    }
}

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn extended(user: u16, mask: u16, other: u16) -> Vec<u8> {
    let none = u32::MAX;
    acl(&[(1, user, none), (2, 7, 1000), (4, 4, none), (0x10, mask, none), (0x20, other, none)])
}

fn minimal(user: u16, group: u16, other: u16) -> Vec<u8> {
    acl(&[(1, user, u32::MAX), (4, group, u32::MAX), (0x20, other, u32::MAX)])
}

/// The numbers are those of ext4 (Linux 6.18).
#[test]
fn mode_and_access_acl_follow_each_other() {
    let (mut world, f) = with_file();
    world.run(&setxattr(f, ACCESS, &extended(6, 6, 0))).unwrap();
    assert_eq!(world.attr(f).firm.mode, 0o660);
    world.run(&chmod(f, 0o741)).unwrap();
    assert_eq!(world.run(&getxattr(f, ACCESS)), Ok(Reply::Bytes(extended(7, 4, 1).into())));
    world.run(&setxattr(f, ACCESS, &minimal(7, 5, 1))).unwrap();
    assert_eq!(world.attr(f).firm.mode, 0o751);
    assert_eq!(world.run(&getxattr(f, ACCESS)), Err(FsError::NoAttribute));
    assert_eq!(world.run(&removexattr(f, ACCESS)), Ok(Reply::Empty));
    world.run(&setxattr(f, ACCESS, &extended(6, 6, 0))).unwrap();
    assert_eq!(world.run(&setxattr(f, ACCESS, &acl(&[]))), Ok(Reply::Empty));
    assert_eq!((world.run(&getxattr(f, ACCESS)), world.attr(f).firm.mode), (Err(FsError::NoAttribute), 0o660));
}

/// The errors are those of ext4 (Linux 6.18).
#[test]
fn acls_are_refused_where_they_make_no_sense() {
    let (mut world, f) = with_file();
    let s = world.made(&symlink(ROOT, "s", b"x"));
    let good = extended(6, 6, 0);
    assert_eq!(world.run(&setxattr(f, DEFAULT, &good)), Err(FsError::AccessDenied));
    assert_eq!(world.run(&setxattr(f, DEFAULT, &acl(&[]))), Ok(Reply::Empty));
    for operation in [setxattr(s, ACCESS, &good), getxattr(s, ACCESS), removexattr(s, ACCESS)] {
        assert_eq!(world.run(&operation), Err(FsError::NotSupported), "{operation:?}");
    }
    assert_eq!(world.run(&setxattr(f, ACCESS, b"\x01\0\0\0")), Err(FsError::NotSupported));
    assert_eq!(world.run(&setxattr(f, ACCESS, &good[..20])), Err(FsError::Invalid));
}

/// The numbers are those of ext4 (Linux 6.18).
#[test]
fn a_default_acl_is_inherited_instead_of_the_umask() {
    let mut world = World::new();
    let dir = world.made(&mkdir(ROOT, "d"));
    let make = |name: &str, mode| Operation::Create {
        parent: dir,
        name: name.as_bytes().into(),
        mode,
        umask: 0o077,
        exclusive: true,
        truncate: false,
    };
    world.run(&setxattr(dir, DEFAULT, &minimal(7, 5, 1))).unwrap();
    let x = world.made(&make("x", 0o666));
    assert_eq!((world.attr(x).firm.mode, world.run(&getxattr(x, ACCESS))), (0o640, Err(FsError::NoAttribute)));
    world.run(&setxattr(dir, DEFAULT, &extended(6, 6, 0))).unwrap();
    let y = world.made(&make("y", 0o644));
    assert_eq!(world.attr(y).firm.mode, 0o640);
    assert_eq!(world.run(&getxattr(y, ACCESS)), Ok(Reply::Bytes(extended(6, 4, 0).into())));
    assert_eq!(world.run(&getxattr(y, DEFAULT)), Err(FsError::NoAttribute));
    let z = world.made(&mkdir(dir, "z"));
    assert_eq!(world.run(&getxattr(z, DEFAULT)), Ok(Reply::Bytes(extended(6, 6, 0).into())));
    let s = world.made(&symlink(dir, "s", b"x"));
    assert_eq!(
        (world.attr(s).firm.mode, world.run(&Operation::Listxattr { object: s })),
        (0o777, Ok(Reply::Bytes([].into())))
    );
}

#[test]
fn a_stranger_who_sets_an_acl_loses_setgid() {
    let (mut world, f) = with_file();
    world.run(&setattr(f, SetAttr { mode: Some(0o2755), uid: None, ..NOTHING })).unwrap();
    world.caller = Caller { uid: 5, gid: 6 };
    world.run(&setxattr(f, ACCESS, &minimal(7, 5, 5))).unwrap();
    assert_eq!(world.attr(f).firm.mode, 0o755);
}
