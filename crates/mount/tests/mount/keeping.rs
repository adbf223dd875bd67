//! What the kernel keeps, and that it forgets it.

use crate::fixture::{Fixture, eventually, is_root, shell};
use crate::mapping::{Mapping, PAGES};
use crate::ram::kept::ALL;
use gavel_client::tree::{Kept, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::{RenameMode, SetAttr};
use gavel_types::ObjectId;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Can this kernel forget all names at once?
pub fn keeps_names() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let keeps = version >= (6, 16);
    if !keeps {
        eprintln!("skipped: this kernel cannot forget all names at once");
    }
    keeps
}

/// A mount with a file in it, and everything may be kept from now on.
fn keeping() -> Option<(Fixture, ObjectId)> {
    let fixture = Fixture::new().filter(|_| keeps_names())?;
    fs::write(fixture.path("file"), vec![b'.'; PAGES]).expect("writes");
    fixture.tree.keep(ALL);
    let id = inode(&fixture.path("file"));
    Some((fixture, id))
}

pub fn inode(path: &Path) -> ObjectId {
    ObjectId(fs::metadata(path).expect("is there").ino())
}

pub fn rename(from: &str, to: &str) -> TreeRequest {
    let (parent, new_parent) = (ObjectId::ROOT, ObjectId::ROOT);
    let (name, new_name) = (from.as_bytes().into(), to.as_bytes().into());
    TreeRequest::Operation(Operation::Rename { parent, name, new_parent, new_name, mode: RenameMode::Replace })
}

pub fn chmod(object: ObjectId, mode: u16) -> TreeRequest {
    let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
    TreeRequest::Operation(Operation::Setattr { object, set })
}

pub fn write(object: ObjectId, offset: u64, data: &[u8]) -> TreeRequest {
    TreeRequest::Write { object, offset, append: false, data: data.into(), kill_suidgid: false }
}

fn byte(file: &File, offset: usize) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset as u64).expect("reads");
    byte[0]
}

/// How often the tree was asked for each of these by `what`.
fn asked<const N: usize>(fixture: &Fixture, kinds: [&str; N], what: impl FnOnce()) -> [usize; N] {
    let before = kinds.map(|kind| fixture.tree.asked(kind));
    what();
    std::array::from_fn(|i| fixture.tree.asked(kinds[i]) - before[i])
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").permissions().mode() & 0o7777
}

#[test]
fn names_are_kept_until_they_are_forgotten() {
    let Some((fixture, id)) = keeping() else { return };
    let (file, moved) = (fixture.path("file"), fixture.path("moved"));
    assert!(file.exists() && !moved.exists());
    let kept = asked(&fixture, ["lookup", "getattr"], || {
        for _ in 0..10 {
            assert!(file.exists() && !moved.exists());
        }
    });
    assert_eq!(kept, [0, 0], "both the name and the absence of the other");
    fixture.tree.behind(rename("file", "moved"));
    assert!(file.exists() && !moved.exists(), "nothing was forgotten yet");
    fixture.tree.forget(vec![Kept::Names, Kept::Object(ObjectId::ROOT)]);
    assert!(!file.exists());
    assert_eq!(inode(&moved), id);
    let asked = asked(&fixture, ["lookup"], || assert!(moved.exists() && moved.exists()));
    assert_eq!(asked, [2], "nothing is kept any more");
    fixture.finish();
}

#[test]
fn attributes_are_kept_until_they_are_forgotten() {
    let Some((fixture, id)) = keeping() else { return };
    let (path, root) = (fixture.path("file"), fixture.dir.path());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
    assert_eq!((mode(&path), mode(root)), (0o640, 0o755));
    let requests = asked(&fixture, ["lookup", "getattr"], || {
        assert_eq!((mode(&path), mode(root)), (0o640, 0o755));
    });
    assert_eq!(requests, [0, 0]);
    let open = File::open(&path).expect("opens");
    fixture.tree.behind(chmod(id, 0o600));
    fixture.tree.behind(chmod(ObjectId::ROOT, 0o711));
    assert_eq!((mode(&path), mode(root)), (0o640, 0o755), "nothing was forgotten yet");
    fixture.tree.forget(vec![Kept::Object(id), Kept::Object(ObjectId::ROOT), Kept::Object(ObjectId(1 << 40))]);
    assert_eq!(open.metadata().expect("is open").permissions().mode() & 0o7777, 0o600);
    assert_eq!((mode(&path), mode(root)), (0o600, 0o711));
    drop(open);
    fixture.finish();
}

#[test]
fn what_this_mount_changes_shows_at_once() {
    let Some((fixture, _)) = keeping() else { return };
    let (path, other) = (fixture.path("file"), fixture.path("other"));
    assert!(!other.exists());
    let nlink = || fs::metadata(&path).expect("is there").nlink();
    let size = || fs::metadata(&path).expect("is there").len();
    let root_size = || fs::metadata(fixture.dir.path()).expect("is there").len();
    assert_eq!((nlink(), size(), root_size()), (1, PAGES as u64, 1));
    fs::hard_link(&path, &other).expect("links");
    assert_eq!((nlink(), root_size(), inode(&other)), (2, 2, inode(&path)));
    fs::set_permissions(&other, fs::Permissions::from_mode(0o604)).expect("chmod");
    assert_eq!(mode(&path), 0o604);
    let writer = OpenOptions::new().append(true).open(&other).expect("opens");
    io::Write::write_all(&mut &writer, b"more").expect("writes");
    assert_eq!(size(), PAGES as u64 + 4);
    writer.set_len(3).expect("truncates");
    assert_eq!((size(), fs::read(&path).expect("reads")), (3, b"...".to_vec()));
    fs::rename(&other, fixture.path("third")).expect("renames");
    assert!(!other.exists() && fixture.path("third").exists());
    fs::remove_file(fixture.path("third")).expect("removes");
    assert_eq!((nlink(), root_size()), (1, 1));
    drop(writer);
    for name in ["made", "made again"] {
        fs::create_dir(&other).expect(name);
        assert!(other.is_dir(), "{name}");
        fs::remove_dir(&other).expect(name);
        assert!(!other.exists(), "{name}");
    }
    fixture.finish();
}

#[test]
fn times_of_what_this_mount_changes_show_at_once() {
    let Some((fixture, id)) = keeping() else { return };
    let path = fixture.path("file");
    fs::hard_link(&path, fixture.path("other")).expect("links");
    let shown = || fs::metadata(&path).map(|found| (found.ctime(), found.ctime_nsec(), found.mode(), found.nlink()));
    let mut wrong = Vec::new();
    let mut check = |what: &str| {
        let is = fixture.tree.behind(TreeRequest::Operation(Operation::Getattr { object: id })).attr.expect("is there");
        let is = (is.ctime.secs, i64::from(is.ctime.nanos), u32::from(is.firm.mode & 0o7777), u64::from(is.nlink));
        let shown = shown().expect("is there");
        if (shown.0, shown.1, shown.2 & 0o7777, shown.3) != is {
            wrong.push(format!("{what}: {shown:?} {is:?}"));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).expect("chmod");
        _ = fs::metadata(&path);
    };
    check("link");
    fs::rename(fixture.path("other"), fixture.path("third")).expect("renames");
    check("rename of another name");
    fs::remove_file(fixture.path("third")).expect("removes");
    check("unlink");
    fs::rename(&path, fixture.path("x")).and_then(|()| fs::rename(fixture.path("x"), &path)).expect("renames");
    check("rename");
    rustix::fs::setxattr(&path, "user.a", b"b", rustix::fs::XattrFlags::empty()).expect("sets");
    check("setxattr");
    rustix::fs::removexattr(&path, "user.a").expect("removes");
    check("removexattr");
    OpenOptions::new().write(true).open(&path).expect("opens").write_all_at(b"x", 3).expect("writes");
    check("write");
    fs::hard_link(&path, fixture.path("other")).expect("links");
    fs::write(fixture.path("new"), "").expect("writes");
    fs::rename(fixture.path("new"), fixture.path("other")).expect("renames");
    check("replaced by rename");
    assert_eq!(wrong, Vec::<String>::new());
    fixture.finish();
}

#[test]
fn bytes_are_kept_until_they_are_forgotten() {
    let Some((fixture, id)) = keeping() else { return };
    let path = fixture.path("file");
    assert_eq!(fs::read(&path).expect("reads"), vec![b'.'; PAGES]);
    let again = |expected: u8| assert!(fs::read(&path).expect("reads").iter().all(|byte| *byte == expected));
    // Pages of the first open were let in by it: only opens behind that know them to be good.
    again(b'.');
    let requests = asked(&fixture, ["read"], || (0..10).for_each(|_| again(b'.')));
    assert_eq!(requests, [0], "over ten opens");
    let open = File::open(&path).expect("opens");
    let mapping = Mapping::reading(&open);
    assert_eq!((byte(&open, 9), mapping.byte(9000)), (b'.', b'.'));
    fixture.tree.behind(write(id, 0, &[b'!'; PAGES]));
    assert_eq!((byte(&open, 9), mapping.byte(9000)), (b'.', b'.'), "nothing was forgotten yet");
    fixture.tree.forget(vec![Kept::Object(id)]);
    assert_eq!((byte(&open, 9), mapping.byte(9000)), (b'!', b'!'));
    again(b'!');
    // The file that is open since before lets pages in that nobody vouches for.
    for round in *b"abc" {
        fixture.tree.behind(write(id, 0, &[round; PAGES]));
        // First: a read of the file would find the new mtime, and drop the page.
        eventually("its mapping shows it", || mapping.byte(9000) == round);
        assert_eq!(byte(&open, 9), round);
        again(round);
    }
    drop((mapping, open));
    fixture.finish();
}

/// Attributes that chmod changes, by path.
fn modes<const N: usize>(fixture: &Fixture, names: [&str; N]) -> [u32; N] {
    names.map(|name| fs::symlink_metadata(fixture.path(name)).expect(name).permissions().mode() & 0o7777)
}

#[test]
fn what_this_mount_makes_is_kept_until_it_is_forgotten() {
    let Some((fixture, _)) = keeping() else { return };
    let names = ["made", "dir", "fifo", "link", "second"];
    let file = File::create(fixture.path("made")).expect("creates");
    fs::create_dir(fixture.path("dir")).expect("makes");
    rustix::fs::mkfifoat(rustix::fs::CWD, fixture.path("fifo"), rustix::fs::Mode::RWXU).expect("makes");
    std::os::unix::fs::symlink("made", fixture.path("link")).expect("links");
    fs::hard_link(fixture.path("file"), fixture.path("second")).expect("links");
    // The directory itself was changed: the kernel asks for its attributes.
    assert_eq!(mode(fixture.dir.path()), 0o755);
    let requests = asked(&fixture, ["lookup", "getattr"], || {
        assert_eq!(modes(&fixture, names), [0o644, 0o755, 0o700, 0o777, 0o644]);
        assert_eq!(file.metadata().expect("is open").len(), 0);
        assert_eq!(fs::metadata(fixture.path("file")).expect("is there").nlink(), 2);
    });
    assert_eq!(requests, [0, 0]);
    let ids = names.map(|name| ObjectId(fs::symlink_metadata(fixture.path(name)).expect(name).ino()));
    // A symlink has no mode of its own.
    for id in ids.into_iter().filter(|id| *id != ids[3]) {
        fixture.tree.behind(chmod(id, 0o601));
    }
    assert_eq!(modes(&fixture, names)[0], 0o644, "nothing was forgotten yet");
    fixture.tree.forget(ids.map(Kept::Object).into());
    assert_eq!(file.metadata().expect("is open").permissions().mode() & 0o7777, 0o601);
    assert_eq!(modes(&fixture, names), [0o601, 0o601, 0o601, 0o777, 0o601]);
    fixture.tree.keep(ALL);
    fs::create_dir(fixture.path("another")).expect("makes");
    fixture.tree.behind(rename("another", "renamed"));
    fixture.tree.behind(rename("made", "made too"));
    assert!(fixture.path("another").exists(), "nothing was forgotten yet");
    fixture.tree.forget(vec![Kept::Names]);
    assert_eq!(
        ["another", "made", "renamed", "made too"].map(|name| fixture.path(name).exists()),
        [false, false, true, true]
    );
    drop(file);
    fixture.finish();
}

#[test]
fn attributes_that_this_mount_sets_are_kept_until_they_are_forgotten() {
    let Some((fixture, id)) = keeping() else { return };
    let path = fixture.path("file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
    OpenOptions::new().write(true).open(&path).expect("opens").set_len(7).expect("truncates");
    let look =
        || fs::metadata(&path).map(|found| (found.len(), found.permissions().mode() & 0o7777)).expect("is there");
    assert_eq!(asked(&fixture, ["lookup", "getattr"], || assert_eq!(look(), (7, 0o640))), [0, 0]);
    fixture.tree.behind(chmod(id, 0o604));
    assert_eq!(look(), (7, 0o640), "nothing was forgotten yet");
    fixture.tree.forget(vec![Kept::Attributes(id)]);
    assert_eq!(look(), (7, 0o604));
    fixture.finish();
}

#[test]
fn listings_bring_names_and_attributes_that_are_kept() {
    let Some(fixture) = Fixture::with(|options| options.readdirplus = true).filter(|_| keeps_names()) else { return };
    let names: Vec<_> = (0..300).map(|i| format!("name {i}")).collect();
    names.iter().for_each(|name| fs::write(fixture.path(name), "text").expect("writes"));
    fixture.tree.forget(vec![Kept::Names]);
    fixture.tree.keep(ALL);
    let list = || fs::read_dir(fixture.dir.path()).expect("lists").count();
    let [listed, lookups, gets] = asked(&fixture, ["readdirplus", "lookup", "getattr"], || {
        assert_eq!(list(), 300);
        for name in &names {
            assert_eq!(fs::metadata(fixture.path(name)).expect("is there").len(), 4);
        }
    });
    // The kernel asks for attributes only if it has seen that they are of use.
    assert!(listed >= 1 && lookups + gets < 300, "{listed} listings, {lookups} look-ups, {gets} times attributes");
    assert_eq!(list(), 300);
    let again = asked(&fixture, ["lookup", "getattr"], || {
        names.iter().for_each(|name| assert_eq!(fs::metadata(fixture.path(name)).expect("is there").len(), 4));
    });
    assert_eq!(again, [0, 0]);
    let ids = ["name 3", "name 7"].map(|name| inode(&fixture.path(name)));
    fixture.tree.behind(rename("name 3", "moved"));
    fixture.tree.behind(chmod(ids[1], 0o611));
    assert!(fixture.path("name 3").exists() && mode(&fixture.path("name 7")) != 0o611, "nothing was forgotten yet");
    fixture.tree.forget(vec![Kept::Names, Kept::Object(ids[0]), Kept::Object(ids[1])]);
    assert!(!fixture.path("name 3").exists());
    assert_eq!((mode(&fixture.path("name 7")), inode(&fixture.path("moved"))), (0o611, ids[0]));
    fixture.finish();
}

fn names_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("lists").map(|entry| entry.expect("reads").file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().expect("text")).collect();
    names.sort();
    names
}

fn make(parent: ObjectId, name: &str) -> TreeRequest {
    TreeRequest::Operation(Operation::Mkdir { parent, name: name.as_bytes().into(), mode: 0o755, umask: 0 })
}

#[test]
fn listings_are_kept_until_they_are_forgotten() {
    for readdirplus in [false, true] {
        let Some(fixture) = Fixture::with(|options| options.readdirplus = readdirplus).filter(|_| keeps_names()) else {
            return;
        };
        let path = fixture.path("dir");
        fs::create_dir(&path).expect("makes");
        (0..500).for_each(|i| fs::write(path.join(format!("name {i}")), "").expect("writes"));
        let list = || names_in(&path).len();
        assert_ne!(asked(&fixture, ["readdir", "readdirplus"], || assert_eq!(list(), 500)), [0, 0], "not to be kept");
        fixture.tree.keep(ALL);
        let (id, mtime) = (inode(&path), fs::metadata(&path).expect("is there").modified().expect("has a time"));
        // Neither size nor time shows it: only what is forgotten does.
        let behind = |name: &str| {
            fixture.tree.behind(make(id, name));
            let since = mtime.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            let mtime = gavel_types::Timestamp { secs: since.as_secs() as i64, nanos: since.subsec_nanos() };
            let set = SetAttr { mtime: Some(gavel_fs::operation::SetTime::At(mtime)), ..SetAttr::default() };
            fixture.tree.behind(TreeRequest::Operation(Operation::Setattr { object: id, set }));
        };
        assert_eq!((list(), list()), (500, 500));
        let requests = ["readdir", "readdirplus", "lookup", "getattr"];
        assert_eq!(asked(&fixture, requests, || assert_eq!((list(), list()), (500, 500))), [0; 4]);
        let open = File::open(&path).expect("opens");
        let mut stream = rustix::fs::Dir::read_from(&open).expect("lists");
        let mut again = || {
            stream.rewind();
            stream.by_ref().inspect(|entry| assert!(entry.is_ok(), "reads")).count() - 2
        };
        assert_eq!(again(), 500);
        behind("a");
        assert_eq!((list(), again()), (500, 500), "nothing was forgotten yet");
        fixture.tree.forget(vec![Kept::Names, Kept::Object(id)]);
        assert_eq!((list(), again(), list(), again()), (501, 501, 501, 501));
        // Nobody vouches for it any more, and nothing is forgotten.
        behind("b");
        assert_eq!((again(), list(), again(), list()), (502, 502, 502, 502));
        fixture.tree.keep(ALL);
        assert_eq!((list(), again(), list(), again()), (502, 502, 502, 502));
        for (name, kept) in [("c", Kept::Attributes(id)), ("d", Kept::Names)] {
            let before = list();
            assert_eq!(again(), before);
            let requests = asked(&fixture, requests, || assert_eq!((list(), again()), (before, before)));
            assert_eq!(requests, [0; 4], "it is kept again");
            behind(name);
            fixture.tree.forget(vec![kept]);
            assert_eq!((again(), list(), again()), (before + 1, before + 1, before + 1), "{name}");
            fixture.tree.keep(ALL);
            assert_eq!((list(), again(), list()), (before + 1, before + 1, before + 1));
        }
        fs::write(path.join("mine"), "").expect("writes");
        assert_eq!((list(), again()), (505, 505));
        fs::remove_file(path.join("mine")).expect("removes");
        assert_eq!((list(), again()), (504, 504));
        drop((stream, open));
        fixture.finish();
    }
}

#[test]
fn listings_that_are_not_open_are_not_kept_beyond_names() {
    let Some((fixture, _)) = keeping() else { return };
    let list = || names_in(fixture.dir.path());
    assert_eq!((list(), list()), (vec!["file".to_owned()], vec!["file".to_owned()]));
    assert_eq!(asked(&fixture, ["readdir"], || drop(list())), [0]);
    // A right that runs out names no directories.
    fixture.tree.forget(vec![Kept::Names]);
    fixture.tree.keep(ALL);
    assert_ne!(asked(&fixture, ["readdir"], || drop(list())), [0]);
    assert_eq!(asked(&fixture, ["readdir"], || drop(list())), [0]);
    fixture.finish();
}

#[test]
fn listings_show_what_others_made() {
    let Some((fixture, _)) = keeping() else { return };
    let list = || shell(fixture.dir.path(), "ls");
    assert_eq!((list(), list()), ("file\n".into(), "file\n".into()));
    fixture.tree.behind(rename("file", "moved"));
    fixture.tree.forget(vec![Kept::Names, Kept::Object(ObjectId::ROOT)]);
    assert_eq!(list(), "moved\n");
    fixture.finish();
}

#[test]
fn a_writer_and_a_reader_that_keeps_pages_have_one_file_open_at_once() {
    let Some((fixture, id)) = keeping() else { return };
    let path = fixture.path("file");
    drop(File::open(&path).expect("opens"));
    let reader = File::open(&path).expect("opens");
    let mapping = Mapping::reading(&reader);
    let writer = OpenOptions::new().read(true).write(true).open(&path).expect("opens while pages are kept");
    for round in *b"xyz" {
        assert_eq!(byte(&reader, 5000), byte(&writer, 5000));
        writer.write_all_at(&[round; PAGES / 2], 4096).expect("writes while pages are kept");
        assert_eq!([byte(&reader, 5000), byte(&writer, 5000), mapping.byte(5000)], [round; 3]);
        let late = File::open(&path).expect("opens");
        assert_eq!((byte(&late, 5000), byte(&late, 1)), (round, b'.'));
    }
    std::thread::scope(|scope| {
        for round in 0..4u8 {
            let (writer, path) = (&writer, &path);
            scope.spawn(move || {
                for i in 0..200 {
                    writer.write_all_at(&[round], i).expect("writes");
                    drop(File::open(path).expect("opens among writes"));
                }
            });
        }
    });
    let ends = fs::read(&path).expect("reads");
    assert_eq!((0..200).map(|i| byte(&reader, i)).collect::<Vec<_>>(), ends[..200]);
    assert_eq!((0..200).map(|i| mapping.byte(i)).collect::<Vec<_>>(), ends[..200]);
    fixture.tree.behind(write(id, 5000, b"?"));
    fixture.tree.forget(vec![Kept::Object(id)]);
    assert_eq!([byte(&reader, 5000), byte(&writer, 5000), mapping.byte(5000)], [b'?'; 3]);
    drop((mapping, reader, writer));
    fixture.finish();
}

#[test]
fn targets_of_symlinks_are_kept() {
    let Some((fixture, _)) = keeping() else { return };
    std::os::unix::fs::symlink("file", fixture.path("link")).expect("links");
    let read = || assert_eq!(fs::read_link(fixture.path("link")).expect("reads"), Path::new("file"));
    read();
    assert_eq!(asked(&fixture, ["readlink"], || (0..5).for_each(|_| read())), [0]);
    fixture.tree.forget(vec![Kept::Names]);
    read();
    fixture.finish();
}

#[test]
fn a_kernel_that_cannot_forget_names_keeps_none() {
    let Some(fixture) = Fixture::with(|options| options.keep_names = false) else { return };
    fs::write(fixture.path("file"), "x").expect("writes");
    fixture.tree.keep(ALL);
    let look = || assert!(fixture.path("file").exists() && !fixture.path("moved").exists());
    look();
    assert_eq!(asked(&fixture, ["lookup"], look), [2]);
    let id = inode(&fixture.path("file"));
    fixture.tree.behind(rename("file", "moved"));
    assert!(!fixture.path("file").exists());
    assert_eq!(inode(&fixture.path("moved")), id);
    fixture.tree.forget(vec![Kept::Names, Kept::Object(id)]);
    fixture.finish();
}

#[test]
fn after_the_end_of_a_mount_everything_is_forgotten() {
    let Some((fixture, id)) = keeping() else { return };
    let (tree, front) = (fixture.tree.clone(), fixture.tree.front().expect("it is mounted"));
    fixture.finish();
    let (sender, forgotten) = std::sync::mpsc::channel();
    front.forget(vec![Kept::Names, Kept::Object(id)], Box::new(move || sender.send(()).expect("is heard")));
    forgotten.recv_timeout(std::time::Duration::from_secs(1)).expect("at once");
    drop(front);
    eventually("the front is gone with the mount", || tree.front().is_none());
}

#[test]
fn the_working_directory_stays_known_by_its_name() {
    let Some((fixture, _)) = keeping() else { return };
    fs::create_dir_all(fixture.path("a/b/c")).expect("makes");
    let open = File::open(fixture.path("a/b/c")).expect("opens");
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", open.as_raw_fd());
    let here = fixture.dir.path().canonicalize().expect("is there").join("a/b/c");
    assert_eq!(fs::read_link(&link).expect("reads"), here);
    fixture.tree.forget(vec![Kept::Names]);
    assert_eq!(fs::read_link(&link).expect("reads"), here);
    assert!(fixture.path("a/b/c").exists());
    assert_eq!(fs::read_link(&link).expect("reads"), here);
    drop(open);
    fixture.finish();
}

/// What the kernel does, not what we would like: `MountOptions::keep_names` says so.
#[test]
fn the_kernel_takes_off_what_is_mounted_inside_when_names_are_forgotten() {
    let Some((fixture, _)) = keeping() else { return };
    if !is_root() {
        return;
    }
    let inside = fixture.path("inside");
    fs::create_dir(&inside).expect("makes");
    assert!(inside.exists());
    let mounted = || fs::read_to_string("/proc/self/mountinfo").expect("reads").contains(&*inside.to_string_lossy());
    shell(fixture.dir.path(), "mount -t tmpfs tmpfs inside");
    assert!(mounted());
    fixture.tree.forget(vec![Kept::Names]);
    assert!(inside.exists());
    let taken_off = !mounted();
    if !taken_off {
        shell(fixture.dir.path(), "umount inside");
    }
    assert!(taken_off, "the kernel has changed: the warning in the documents can go");
    fixture.finish();
}
