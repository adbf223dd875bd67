//! Names: links, renames, kinds, lengths.

use crate::fixture::{Fixture, is_root};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use rustix::io::Errno;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

#[test]
fn renames_replace_refuse_and_exchange() {
    let Some(fixture) = Fixture::new() else { return };
    let (a, b) = (fixture.path("a"), fixture.path("b"));
    fs::write(&a, "a").expect("writes");
    fs::write(&b, "b").expect("writes");
    let rename = |flags| renameat_with(CWD, &a, CWD, &b, flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename(RenameFlags::EXCHANGE).expect("exchanges");
    assert_eq!(
        (fs::read_to_string(&a).expect("reads"), fs::read_to_string(&b).expect("reads")),
        ("b".into(), "a".into())
    );
    assert_eq!(rename(RenameFlags::WHITEOUT), Err(Errno::INVAL));
    rename(RenameFlags::empty()).expect("replaces");
    assert_eq!(fs::read_to_string(&b).expect("reads"), "b");
    assert!(!a.exists());
    fs::create_dir_all(fixture.path("d/e")).expect("makes");
    let below = fs::rename(fixture.path("d"), fixture.path("d/e/f")).expect_err("below itself");
    assert_eq!(below.raw_os_error(), Some(libc::EINVAL));
    fixture.finish();
}

#[test]
fn every_kind_of_object_is_made_and_told() {
    let Some(fixture) = Fixture::new() else { return };
    fs::write(fixture.path("file"), "x").expect("writes");
    symlink("file", fixture.path("link")).expect("links");
    assert_eq!(fs::read_link(fixture.path("link")).expect("reads").to_str(), Some("file"));
    assert_eq!(fs::read_to_string(fixture.path("link")).expect("follows"), "x");
    fs::hard_link(fixture.path("file"), fixture.path("other")).expect("links");
    assert_eq!(fs::metadata(fixture.path("file")).expect("is there").nlink(), 2);
    mknodat(CWD, fixture.path("fifo"), FileType::Fifo, Mode::from(0o600), 0).expect("makes");
    let kind = |name| fs::symlink_metadata(fixture.path(name)).expect("is there").file_type();
    assert!(kind("fifo").is_fifo() && kind("link").is_symlink());
    let listener = UnixListener::bind(fixture.path("socket")).expect("binds");
    assert!(kind("socket").is_socket());
    UnixStream::connect(fixture.path("socket")).expect("connects");
    drop(listener);
    if is_root() {
        let null = rustix::fs::makedev(1, 3);
        mknodat(CWD, fixture.path("null"), FileType::CharacterDevice, Mode::from(0o666), null).expect("makes");
        assert_eq!(fs::metadata(fixture.path("null")).expect("is there").rdev(), null);
        assert_eq!(fs::read(fixture.path("null")).expect("reads the device"), b"");
        let disk = rustix::fs::makedev(259, 70_000);
        mknodat(CWD, fixture.path("disk"), FileType::BlockDevice, Mode::from(0o600), disk).expect("makes");
        assert_eq!(fs::metadata(fixture.path("disk")).expect("is there").rdev(), disk, "a large minor number");
    }
    fixture.finish();
}

#[test]
fn names_are_bytes_up_to_255_of_them() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let Some(fixture) = Fixture::new() else { return };
    let names: [&[u8]; 4] = [&[b'n'; 255], b"not \xff\xfe UTF-8", b"with\nnewline", "grüße".as_bytes()];
    for name in names {
        let path = fixture.dir.path().join(OsStr::from_bytes(name));
        fs::write(&path, name).expect("writes");
        assert_eq!(fs::read(&path).expect("reads"), name);
    }
    let mut listed: Vec<_> =
        fs::read_dir(fixture.dir.path()).expect("lists").map(|entry| entry.expect("reads").file_name()).collect();
    let mut expected: Vec<_> = names.map(|name| OsStr::from_bytes(name).to_owned()).into();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    let long = fs::write(fixture.path(&"n".repeat(256)), "").expect_err("too long");
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
    fixture.finish();
}

#[test]
fn a_removed_directory_that_is_open_is_empty() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.path("dir");
    fs::create_dir(&path).expect("makes");
    let open = fs::File::open(&path).expect("opens");
    fs::write(path.join("name"), "").expect("writes");
    assert_eq!(fs::remove_dir(&path).expect_err("not empty").raw_os_error(), Some(libc::ENOTEMPTY));
    fs::remove_file(path.join("name")).expect("unlinks");
    fs::remove_dir(&path).expect("removes");
    assert_eq!(open.metadata().expect("fstat").nlink(), 0);
    let made =
        rustix::fs::openat(&open, "name", rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY, Mode::from(0o600));
    assert_eq!(made.expect_err("nothing is made in it"), Errno::NOENT);
    drop(open);
    fixture.finish();
}
