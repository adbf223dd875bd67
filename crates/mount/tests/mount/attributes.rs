//! Attributes: modes, owners, times, extended attributes, ACLs, room.

use crate::fixture::{Fixture, has_program, is_root, shell};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, utimensat};
use rustix::io::Errno;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

#[test]
fn times_are_set_kept_and_taken_from_the_commit() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.path("file");
    fs::write(&path, "").expect("writes");
    let set = |atime, mtime| {
        let times = Timestamps { last_access: atime, last_modification: mtime };
        utimensat(CWD, &path, &times, AtFlags::empty()).expect("sets");
        let metadata = fs::metadata(&path).expect("is there");
        ((metadata.atime(), metadata.atime_nsec()), (metadata.mtime(), metadata.mtime_nsec()))
    };
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let (omit, now) = (time(0, UTIME_OMIT), time(0, UTIME_NOW));
    assert_eq!(set(time(-2, 500_000_000), time(1 << 33, 1)), ((-2, 500_000_000), (1 << 33, 1)));
    assert_eq!(set(omit, time(-1_000_000_000_000, 0)), ((-2, 500_000_000), (-1_000_000_000_000, 0)));
    let before = fs::metadata(&path).expect("is there").ctime();
    let (atime, _) = set(now, omit);
    assert!(atime.0 >= before, "now is not before {before}: {atime:?}");
    fixture.finish();
}

#[test]
fn umask_and_set_group_id_directories_shape_what_is_made() {
    let Some(fixture) = Fixture::new() else { return };
    let modes = shell(fixture.dir.path(), "umask 027; : > f; mkdir d; mkfifo p; stat -c %a f d p");
    assert_eq!(modes, "640\n750\n640\n");
    if is_root() {
        let script = "mkdir s; chown 0:12 s; chmod 2777 s; umask 0; : > s/f; mkdir s/d; stat -c '%g %a' s/f s/d";
        assert_eq!(shell(fixture.dir.path(), script), "12 666\n12 2777\n");
    }
    fixture.finish();
}

#[test]
fn privileges_go_when_somebody_else_writes_or_truncates() {
    let Some(fixture) = Fixture::new() else { return };
    if !is_root() || !has_program("setpriv") {
        return;
    }
    fs::set_permissions(fixture.dir.path(), Permissions::from_mode(0o777)).expect("chmod");
    for change in ["echo >> f", ": > f", "truncate -s 1 f", "dd if=/dev/zero of=f conv=notrunc status=none count=1"] {
        let script = format!(
            "rm -f f; echo x > f; chmod 6777 f; setpriv --reuid 65534 --clear-groups sh -c '{change}'; stat -c %a f"
        );
        assert_eq!(shell(fixture.dir.path(), &script), "777\n", "{change}");
    }
    assert_eq!(
        shell(fixture.dir.path(), "chmod 6777 f; echo > f; stat -c %a f; chown 1 f; stat -c %a f"),
        "6777\n777\n"
    );
    fixture.finish();
}

#[test]
fn extended_attributes_are_set_sized_listed_and_removed() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.path("file");
    fs::write(&path, "").expect("writes");
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    set("user.colour", b"blue", XattrFlags::CREATE).expect("sets");
    assert_eq!(set("user.colour", b"red", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("user.size", b"1", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(set("strange.name", b"1", XattrFlags::empty()), Err(Errno::OPNOTSUPP));
    set("user.empty", b"", XattrFlags::empty()).expect("sets");
    let length = |name: &str| rustix::fs::getxattr_query(&path, name);
    let mut buffer = [0; 64];
    assert_eq!(length("user.colour"), Ok(4));
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut buffer[..3]), Err(Errno::RANGE));
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut buffer), Ok(4));
    assert_eq!(&buffer[..4], b"blue");
    assert_eq!(rustix::fs::getxattr(&path, "user.empty", &mut buffer), Ok(0));
    assert_eq!(rustix::fs::listxattr_query(&path), Ok(23));
    let len = rustix::fs::listxattr(&path, &mut buffer).expect("lists");
    assert_eq!(&buffer[..len], b"user.colour\0user.empty\0".map(|byte| byte as _).as_slice());
    let large = vec![9; 64 * 1024];
    set("user.large", &large, XattrFlags::empty()).expect("sets 64 KiB");
    assert_eq!(set("user.larger", &vec![9; 64 * 1024 + 1], XattrFlags::empty()), Err(Errno::TOOBIG));
    let mut back = vec![0; large.len()];
    assert_eq!(rustix::fs::getxattr(&path, "user.large", &mut back[..]), Ok(large.len()));
    assert!(back == large);
    rustix::fs::removexattr(&path, "user.colour").expect("removes");
    assert_eq!(rustix::fs::getxattr(&path, "user.colour", &mut buffer), Err(Errno::NODATA));
    fixture.finish();
}

#[test]
fn the_kernel_enforces_access_control_lists() {
    let Some(fixture) = Fixture::new() else { return };
    if !is_root() || !has_program("setfacl") || !has_program("setpriv") {
        return;
    }
    let dir = fixture.dir.path();
    let as_nobody = |script: &str| {
        format!("setpriv --reuid 65534 --clear-groups sh -c '{script}' 2>/dev/null && echo yes || echo no")
    };
    shell(dir, "chmod 755 .; echo secret > f; chmod 600 f");
    assert_eq!(shell(dir, &as_nobody("cat f >/dev/null")), "no\n");
    shell(dir, "setfacl -m u:65534:r f");
    assert_eq!(shell(dir, &as_nobody("cat f >/dev/null")), "yes\n");
    assert_eq!(shell(dir, &as_nobody("echo x > f")), "no\n");
    assert_eq!(shell(dir, "stat -c %a f"), "640\n", "the mask shows in the mode");
    shell(dir, "chmod g= f");
    assert_eq!(shell(dir, &as_nobody("cat f >/dev/null")), "no\n", "chmod narrows the mask");
    shell(dir, "mkdir d; setfacl -d -m u:65534:rwx,o::--- d; umask 077; : > d/f; mkdir d/d");
    let acl = shell(dir, "getfacl -cn d/f d/d");
    assert!(acl.contains("user:65534:rwx") && acl.contains("default:user:65534:rwx"), "{acl}");
    assert_eq!(shell(dir, "stat -c %a d/f"), "660\n", "a default ACL takes the umask's place");
    fixture.finish();
}

#[test]
fn room_is_counted_in_bytes_and_objects() {
    let Some(fixture) = Fixture::new() else { return };
    let before = rustix::fs::statvfs(fixture.dir.path()).expect("statfs");
    assert_eq!((before.f_namemax, before.f_bsize), (255, 4096));
    assert_eq!(before.f_blocks, 1 << 28);
    fs::write(fixture.path("file"), vec![1; 1 << 20]).expect("writes");
    let after = rustix::fs::statvfs(fixture.dir.path()).expect("statfs");
    assert_eq!(before.f_bfree - after.f_bfree, 256);
    assert_eq!(before.f_bavail, before.f_bfree);
    assert_eq!(fs::metadata(fixture.path("file")).expect("is there").blocks(), 2048);
    let used = |stat: &rustix::fs::StatVfs| stat.f_files - stat.f_ffree;
    assert_eq!(used(&after) - used(&before), 1);
    fixture.finish();
}
