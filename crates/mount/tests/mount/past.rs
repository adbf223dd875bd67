//! Past states through plain paths: `name@@AT`, `@@AT`, `.@@AT`.

use crate::fixture::{Fixture, drops_caches, eventually, has_program, is_root, needs_caches, shell};
use crate::ram::kept::ALL;
use gavel_client::tree::Kept;
use gavel_types::{ObjectId, Tid};
use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const BLOB_BYTES: usize = 100_000;

fn at(name: &str, state: Tid) -> String {
    format!("{name}@@{state}")
}

fn ino(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).ino()
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_io_error(&result.expect_err("is refused")).expect("an errno")
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("lists").map(|entry| entry.expect("reads").file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().expect("text")).collect();
    names.sort();
    names
}

/// A directory `d` with all kinds of things in it; everything in it is changed after the state that is given.
fn changed(change: impl FnOnce(&mut gavel_mount::MountOptions)) -> Option<(Fixture, Tid)> {
    let fixture = Fixture::with(change)?;
    let d = fixture.path("d");
    fs::create_dir_all(d.join("sub/deeper")).expect("makes");
    fs::write(d.join("file"), "before").expect("writes");
    fs::write(d.join("blob"), vec![b'.'; BLOB_BYTES]).expect("writes");
    fs::write(d.join("sub/deeper/leaf"), "leaf").expect("writes");
    fs::hard_link(d.join("file"), d.join("sub/second")).expect("links");
    symlink("file", d.join("link")).expect("links");
    fs::set_permissions(d.join("blob"), fs::Permissions::from_mode(0o640)).expect("chmod");
    rustix::fs::setxattr(d.join("file"), "user.colour", b"red", XattrFlags::empty()).expect("sets");
    let state = fixture.tree.tid();
    fs::write(d.join("file"), "after!").expect("writes");
    rustix::fs::setxattr(d.join("file"), "user.colour", b"blue", XattrFlags::empty()).expect("sets");
    fs::remove_file(d.join("blob")).expect("removes");
    fs::rename(d.join("sub"), d.join("moved")).expect("renames");
    fs::write(d.join("moved/deeper/leaf"), "").expect("truncates");
    fs::remove_file(d.join("link")).expect("removes");
    fs::write(d.join("new"), "").expect("writes");
    Some((fixture, state))
}

#[test]
fn a_directory_is_as_it_was() {
    for readdirplus in [false, true] {
        let Some((fixture, state)) = changed(|options| options.readdirplus = readdirplus) else { return };
        let then = fixture.path(&at("d", state));
        for _ in 0..2 {
            assert_eq!(names(&then), ["blob", "file", "link", "sub"]);
            assert_eq!(names(&then.join("sub")), ["deeper", "second"]);
            assert_eq!(fs::read(then.join("file")).expect("reads"), b"before");
            assert_eq!(fs::read(then.join("link")).expect("follows"), b"before");
            assert_eq!(fs::read(then.join("blob")).expect("reads"), vec![b'.'; BLOB_BYTES]);
            assert_eq!(fs::read(then.join("sub/deeper/leaf")).expect("reads"), b"leaf");
        }
        assert_eq!(fs::metadata(then.join("blob")).expect("is there").permissions().mode() & 0o7777, 0o640);
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(then.join("file"), "user.colour", &mut value).expect("is there");
        assert_eq!(&value[..len], b"red");
        assert_eq!(errno(fs::metadata(then.join("new"))), Errno::NOENT);
        // Two names of one file, as then; and no live file has its number.
        let meta = fs::metadata(then.join("file")).expect("is there");
        assert_eq!((meta.nlink(), meta.ino()), (2, ino(&then.join("sub/second"))));
        assert_ne!(meta.ino(), ino(&fixture.path("d/file")));
        assert!(meta.ino() >> 63 == 1 && ino(&fixture.path("d/file")) >> 63 == 0);
        // What listings say of inodes is what stat says.
        for entry in fs::read_dir(&then).expect("lists") {
            let entry = entry.expect("reads");
            assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), ino(&entry.path()));
        }
        fixture.finish();
    }
}

#[test]
fn all_forms_name_the_same() {
    let Some((fixture, state)) = changed(|_| {}) else { return };
    fixture.tree.name_state("first", Some(state));
    let forms = [
        at("d", state),
        at("d/", state),
        at("d/.", state),
        at("", state) + "/d",
        "d@@first".into(),
        "@@first/d".into(),
        ".@@first/d".into(),
    ];
    let mut seen = BTreeSet::new();
    for form in &forms {
        let path = fixture.path(form);
        assert_eq!(names(&path), ["blob", "file", "link", "sub"], "{form}");
        assert_eq!(fs::read(path.join("sub/deeper/leaf")).expect("reads"), b"leaf", "{form}");
        seen.insert((ino(&path), ino(&path.join("file"))));
    }
    assert_eq!(seen.len(), 1, "one state: one number, whatever the entrance");
    // All are open at once, each in its place in the tree of names.
    let open = forms.each_ref().map(|form| File::open(fixture.path(form).join("sub/deeper")).expect("opens"));
    for forgets in [false, true] {
        if forgets {
            // Each name is looked up again, finds the node that is open, and takes its place.
            fixture.tree.forget(vec![Kept::Names]);
            for form in &forms {
                assert_eq!(names(&fixture.path(form).join("sub/deeper")), ["leaf"], "{form}");
            }
        }
        for (file, form) in open.iter().zip(&forms) {
            use std::os::fd::AsRawFd;
            let here = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("reads");
            let path: PathBuf = fixture.dir.path().canonicalize().expect("is there").join(form).join("sub/deeper");
            assert_eq!(here, path.components().collect::<PathBuf>());
        }
    }
    drop(open);
    // What was removed, and what had another name.
    assert_eq!(fs::read(fixture.path(&at("d/blob", state))).expect("reads").len(), BLOB_BYTES);
    assert_eq!(fs::read_link(fixture.path("d/link@@first")).expect("reads"), Path::new("file"));
    assert_eq!(errno(fs::metadata(fixture.path("d/moved@@first"))), Errno::NOENT);
    assert_eq!(fs::read(fixture.path("d/moved/@@first/second")).expect("the directory, whatever its name"), b"before");
    fixture.finish();
}

#[test]
fn a_real_name_wins() {
    let Some((fixture, state)) = changed(|_| {}) else { return };
    let path = fixture.path(&at("d/file", state));
    assert_eq!(fs::read(&path).expect("reads"), b"before");
    assert_eq!(errno(fs::create_dir(&path)), Errno::EXIST);
    assert_eq!(errno(OpenOptions::new().write(true).create(true).truncate(true).open(&path)), Errno::ROFS);
    let hidden = fixture.path(&at("d/hidden", state));
    assert_eq!(errno(fs::metadata(&hidden)), Errno::NOENT);
    fs::write(&hidden, "real").expect("no past is in the way");
    assert_eq!(fs::read(&hidden).expect("reads"), b"real");
    let name = hidden.file_name().expect("a name").to_str().expect("text").to_owned();
    assert_eq!(names(&fixture.path("d")), ["file".to_owned(), name, "moved".into(), "new".into()]);
    // Behind the mount's back, while the kernel has the past.
    let file = File::open(&path).expect("opens");
    let make = gavel_fs::Operation::Symlink {
        parent: ObjectId(ino(&fixture.path("d"))),
        name: at("file", state).into_bytes().into(),
        target: (*b"real").into(),
    };
    fixture.tree.behind(gavel_client::tree::TreeRequest::Operation(make));
    fixture.tree.forget(vec![Kept::Names]);
    assert_eq!(fs::read_link(&path).expect("reads"), Path::new("real"));
    let mut bytes = [0; 6];
    file.read_exact_at(&mut bytes, 0).expect("what is open goes on working");
    assert_eq!(&bytes, b"before");
    fs::rename(&hidden, &path).expect("a real name is replaced");
    assert_eq!(fs::read(&path).expect("reads"), b"real");
    fs::remove_file(&path).expect("removes");
    assert_eq!(fs::read(&path).expect("the past is back"), b"before");
    drop(file);
    fixture.finish();
}

#[test]
fn nothing_of_the_past_can_be_changed() {
    let Some((fixture, state)) = changed(|_| {}) else { return };
    let (d, live) = (fixture.path(&at("d", state)), fixture.path("d"));
    let (file, sub) = (d.join("file"), d.join("sub"));
    let open = |options: &mut OpenOptions| options.open(&file).map(drop);
    let result = |result: Result<(), Errno>| result.map_err(io::Error::from);
    let reader = File::open(&file).expect("opens");
    let refused = [
        ("write", open(OpenOptions::new().write(true))),
        ("append", open(OpenOptions::new().append(true))),
        ("truncate", open(OpenOptions::new().write(true).truncate(true))),
        ("create", fs::write(d.join("fresh"), "")),
        ("mkdir", fs::create_dir(d.join("fresh"))),
        ("symlink", symlink("x", d.join("fresh"))),
        ("mkfifo", result(rustix::fs::mkfifoat(rustix::fs::CWD, d.join("fresh"), Mode::RWXU))),
        ("unlink", fs::remove_file(&file)),
        ("unlink the entrance", fs::remove_file(fixture.path(&at("d/file", state)))),
        ("rmdir", fs::remove_dir(&sub)),
        ("rmdir the entrance", fs::remove_dir(&d)),
        ("chmod", fs::set_permissions(&file, fs::Permissions::from_mode(0o600))),
        ("chown", std::os::unix::fs::chown(&file, Some(1), None)),
        ("utimes", reader.set_modified(std::time::UNIX_EPOCH)),
        ("setxattr", result(rustix::fs::setxattr(&file, "user.x", b"y", XattrFlags::empty()))),
        ("removexattr", result(rustix::fs::removexattr(&file, "user.colour"))),
        ("link within", fs::hard_link(&file, d.join("fresh"))),
        ("link out", fs::hard_link(&file, live.join("fresh"))),
        ("link in", fs::hard_link(live.join("file"), d.join("fresh"))),
        ("rename within", fs::rename(&file, d.join("fresh"))),
        ("rename out", fs::rename(&file, live.join("fresh"))),
        ("rename in", fs::rename(live.join("new"), d.join("fresh"))),
        ("rename the entrance", fs::rename(fixture.path(&at("d/file", state)), live.join("fresh"))),
        ("rename over the entrance", fs::rename(live.join("new"), fixture.path(&at("d/file", state)))),
        ("exchange", {
            let (from, to) = (live.join("new"), fixture.path(&at("d/file", state)));
            let (cwd, flags) = (rustix::fs::CWD, RenameFlags::EXCHANGE);
            result(rustix::fs::renameat_with(cwd, from, cwd, to, flags))
        }),
    ];
    for (what, result) in refused {
        assert_eq!(errno(result), Errno::ROFS, "{what}");
    }
    assert_eq!(errno(result(rustix::fs::fallocate(&reader, FallocateFlags::empty(), 0, 10))), Errno::BADF);
    assert_eq!(
        (names(&d), names(&live)),
        (["blob", "file", "link", "sub"].map(str::to_owned).into(), ["file", "moved", "new"].map(str::to_owned).into(),)
    );
    drop(reader);
    fixture.finish();
}

#[test]
fn what_only_looks_works() {
    let Some((fixture, state)) = changed(|options| options.control = b"who".to_vec()) else { return };
    let d = fixture.path(&at("d", state));
    let file = File::open(d.join("blob")).expect("opens");
    for operation in [FlockOperation::LockShared, FlockOperation::LockExclusive, FlockOperation::Unlock] {
        rustix::fs::flock(&file, operation).expect("nobody is in the way");
    }
    for operation in [FlockOperation::NonBlockingLockShared, FlockOperation::Unlock] {
        rustix::fs::fcntl_lock(&file, operation).expect("nobody is in the way");
    }
    assert_eq!(fixture.tree.locks.counts(), (0, 0), "the tree was told of none");
    file.sync_all().expect("it is durable");
    rustix::fs::fsync(File::open(&d).expect("opens")).expect("so is a directory");
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).expect("seeks"), BLOB_BYTES as u64);
    assert!(rustix::fs::statvfs(&d).expect("counts").f_blocks > 0);
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(d.join("blob"), gavel_mount::CONTROL_XATTR, &mut value).expect("says");
    assert_eq!(&value[..len], b"who");
    assert_eq!(rustix::fs::listxattr(d.join("file"), &mut value).expect("lists"), "user.colour\0".len());
    assert_eq!(fixture.tree.open_objects(), 0, "objects of the past are not held");
    rustix::fs::accessat(rustix::fs::CWD, d.join("blob"), rustix::fs::Access::READ_OK, AtFlags::empty())
        .expect("may be read");
    drop(file);
    fixture.finish();
}

#[test]
fn a_file_and_its_past_are_compared_and_copied() {
    let Some((fixture, state)) = changed(|_| {}) else { return };
    let (file, blob) = (at("file", state), at("blob", state));
    let here = fixture.path("d");
    assert_eq!(shell(&here, &format!("cmp -s file {file} && echo same || echo differs")), "differs\n");
    let differences = shell(&here, &format!("diff file {file} || true"));
    assert!(differences.contains("< after!") && differences.contains("> before"), "{differences}");
    shell(&here, &format!("cp -a {file} file && cp {blob} blob && cp -r {} copy", at("moved/", state)));
    assert_eq!(fs::read(here.join("file")).expect("reads"), b"before");
    assert_eq!(fs::read(here.join("blob")).expect("reads"), vec![b'.'; BLOB_BYTES]);
    assert_eq!(names(&here.join("copy")), ["deeper", "second"]);
    // The kernel falls back to reading and writing.
    let (from, to) = (File::open(here.join(&blob)).expect("opens"), File::create(here.join("to")).expect("makes"));
    let copied = rustix::fs::copy_file_range(&from, None, &to, None, BLOB_BYTES).expect("copies");
    assert_eq!(copied, BLOB_BYTES);
    assert_eq!(fs::read(here.join("to")).expect("reads"), vec![b'.'; BLOB_BYTES]);
    drop((from, to));
    if has_program("tar") {
        let tar = format!("tar cf - {} | cksum", at("d", state));
        assert_eq!(shell(fixture.dir.path(), &tar), shell(fixture.dir.path(), &tar));
    }
    fixture.finish();
}

#[test]
fn what_is_no_state_is_said_so() {
    let Some((fixture, state)) = changed(|_| {}) else { return };
    let refused = |name: &str| errno(fs::metadata(fixture.path(name)));
    for (name, expected) in [
        ("d@@unknown", Errno::NOENT),
        ("d@@2h30", Errno::NOENT),
        ("d@@", Errno::NOENT),
        ("d@@2500-01-01", Errno::INVAL),
        ("d@@0xffffffffffffffff", Errno::INVAL),
        ("d@@0x5", Errno::NOENT),
        ("d@@2000-01-01", Errno::NOENT),
        ("d@@9w", Errno::NOENT),
    ] {
        assert_eq!(refused(name), expected, "{name}");
    }
    assert_eq!(refused(&at("absent", state)), Errno::NOENT);
    assert_eq!(refused(&at("..", state)), Errno::NOENT);
    assert_eq!(
        refused(&format!("{}/{}", at("d", state), at("file", state))),
        Errno::NOENT,
        "names below are what they were"
    );
    // What means no state there is a name like any other.
    fs::write(fixture.path("new@@9w"), "text").expect("makes");
    assert_eq!(fs::read(fixture.path("new@@9w")).expect("reads"), b"text");
    fs::remove_file(fixture.path("new@@9w")).expect("removes");
    // A directory that was not there yet.
    fs::create_dir(fixture.path("young")).expect("makes");
    assert_eq!(refused(&at("young/x", state)), Errno::NOENT);
    assert_eq!(refused(&at("young/", state)), Errno::NOENT);
    // Names that cannot be: only what is before the mark counts.
    let long = "x".repeat(250);
    fs::write(fixture.path(&long), "long").expect("writes");
    let name = at(&long, fixture.tree.tid());
    assert_eq!(fs::read(fixture.path(&name)).expect("reads"), b"long");
    fixture.finish();
}

#[test]
fn a_name_that_may_come_to_mean_something_is_looked_up_again() {
    let Some((fixture, state)) = changed(|_| {}) else { return };
    fixture.tree.keep(ALL);
    let path = fixture.path("d/file@@snap");
    assert_eq!(errno(fs::metadata(&path)), Errno::NOENT);
    fixture.tree.name_state("snap", Some(state));
    assert_eq!(fs::read(&path).expect("at once"), b"before");
    fixture.tree.name_state("snap", Some(fixture.tree.tid()));
    let began = Instant::now();
    eventually("the name leads to the other state", || fs::read(&path).expect("reads") == b"after!");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    fixture.tree.name_state("snap", None);
    eventually("the name is gone", || fs::metadata(&path).is_err());
    fixture.finish();
}

#[test]
fn an_age_is_one_state_while_it_is_used() {
    let Some((fixture, _)) = changed(|_| {}) else { return };
    fs::write(fixture.path("d/ticking"), "1").expect("writes");
    std::thread::sleep(Duration::from_millis(1_100));
    let path = fixture.path("d/ticking@@1s");
    assert_eq!(fs::read(&path).expect("reads"), b"1");
    fs::write(fixture.path("d/ticking"), "2").expect("writes");
    std::thread::sleep(Duration::from_millis(1_100));
    let number = ino(&path);
    fixture.tree.forget(vec![Kept::Names]);
    assert_eq!((fs::read(&path).expect("reads"), ino(&path)), (b"1".to_vec(), number));
    assert_eq!(fs::read(fixture.path("d/@@1s/ticking")).expect("reads"), b"1", "on all of the mount");
    fixture.finish();
}

#[test]
fn the_kernel_keeps_the_past() {
    let _caches = needs_caches();
    for readdirplus in [false, true] {
        let Some((fixture, state)) = changed(|options| options.readdirplus = readdirplus) else { return };
        fixture.tree.keep(ALL);
        let then = fixture.path(&at("d", state));
        let look = || {
            assert_eq!(names(&then.join("sub")), ["deeper", "second"]);
            assert_eq!(fs::read(then.join("blob")).expect("reads").len(), BLOB_BYTES);
            assert_eq!(fs::read_link(then.join("link")).expect("reads"), Path::new("file"));
            assert_eq!(errno(fs::metadata(then.join("new"))), Errno::NOENT);
            assert_eq!(ino(&then.join("sub/deeper/leaf")) >> 63, 1);
        };
        // The kernel asks for attributes once more when it has read bytes: a read might have changed the time of access.
        (0..2).for_each(|_| look());
        let asked = || ["lookup", "resolve", "past"].map(|kind| fixture.tree.asked(kind));
        let before = asked();
        (0..5).for_each(|_| look());
        if fixture.tree.front().is_some() && crate::keeping::keeps_names() {
            assert_eq!(asked(), before, "nothing is asked again");
        }
        // A right that ran out: names are looked up again, and lead to the same.
        let held = File::open(then.join("sub")).expect("opens");
        fixture.tree.forget(vec![Kept::Names]);
        look();
        drop(held);
        fixture.finish();
    }
}

/// A kernel that cannot be made to forget all names keeps none of the live ones; what is below an entrance it keeps.
#[test]
fn the_past_needs_no_forgetting() {
    let _caches = needs_caches();
    let Some((fixture, state)) = changed(|options| options.keep_names = false) else { return };
    fixture.tree.keep(ALL);
    let then = File::open(fixture.path(&at("d", state))).expect("opens");
    let look = || {
        use std::os::fd::AsRawFd;
        let then = PathBuf::from(format!("/proc/self/fd/{}", then.as_raw_fd()));
        assert_eq!(fs::read(then.join("sub/deeper/leaf")).expect("reads"), b"leaf");
        assert_eq!(errno(fs::metadata(then.join("new"))), Errno::NOENT);
    };
    // The kernel asks for attributes once more when it has read bytes: a read might have changed the time of access.
    (0..2).for_each(|_| look());
    let asked = || ["lookup", "past"].map(|kind| fixture.tree.asked(kind));
    let before = asked();
    (0..5).for_each(|_| look());
    assert_eq!(asked(), before);
    drop(then);
    fixture.finish();
}

#[test]
fn bytes_of_the_past_are_read_in_every_way() {
    let Some((fixture, state)) = changed(|_| {}) else { return };
    let path = fixture.path(&at("d", state)).join("blob");
    let mapped = File::open(&path).expect("opens");
    let mapping = crate::mapping::Mapping::reading(&mapped);
    assert_eq!([mapping.byte(0), mapping.byte(5_000)], [b'.'; 2]);
    use std::os::unix::fs::OpenOptionsExt;
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).expect("opens");
    let mut bytes = [0; 4096];
    assert_eq!(direct.read_at(&mut bytes, 4096).expect("reads"), 4096);
    assert_eq!(bytes, [b'.'; 4096]);
    assert_eq!(direct.read_at(&mut bytes, BLOB_BYTES as u64).expect("reads"), 0, "the end");
    drop((mapping, mapped, direct));
    fixture.finish();
}

/// Look-ups come in while the kernel gives the same inodes back, again and again.
#[test]
fn many_look_while_the_kernel_forgets() {
    let _caches = drops_caches();
    const ROUNDS: usize = 30;
    for readdirplus in [false, true] {
        let Some((fixture, state)) = changed(|options| options.readdirplus = readdirplus) else { return };
        if !is_root() {
            return fixture.finish();
        }
        let forms = [at("d", state), at("d/", state), at("", state) + "/d", at("d/.", state)];
        let done = std::sync::atomic::AtomicBool::new(false);
        let rounds: usize = std::thread::scope(|scope| {
            let lookers = forms.iter().cycle().take(8).map(|form| {
                let (path, done) = (fixture.path(form), &done);
                scope.spawn(move || {
                    let mut rounds = 0;
                    while !done.load(std::sync::atomic::Ordering::SeqCst) {
                        assert_eq!(names(&path), ["blob", "file", "link", "sub"]);
                        assert_eq!(fs::read(path.join("sub/deeper/leaf")).expect("reads"), b"leaf");
                        assert_eq!(ino(&path.join("file")), ino(&path.join("sub/second")));
                        rounds += 1;
                    }
                    rounds
                })
            });
            let lookers: Vec<_> = lookers.collect();
            for _ in 0..ROUNDS {
                fs::write("/proc/sys/vm/drop_caches", "2").expect("root may");
                fixture.tree.forget(vec![Kept::Names]);
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            lookers.into_iter().map(|looker| looker.join().expect("saw what it must")).sum()
        });
        assert!(rounds >= forms.len(), "{rounds} rounds");
        eventually("nothing is left", || {
            fs::write("/proc/sys/vm/drop_caches", "2").expect("root may");
            fixture.mounted.as_ref().expect("mounted").past_inodes() == 0
        });
        fixture.finish();
    }
}

#[test]
fn nothing_is_remembered_that_the_kernel_has_given_back() {
    let _caches = drops_caches();
    for readdirplus in [false, true] {
        let Some((fixture, state)) = changed(|options| options.readdirplus = readdirplus) else { return };
        if !is_root() {
            return fixture.finish();
        }
        let inodes = || fixture.mounted.as_ref().expect("mounted").past_inodes();
        assert_eq!(inodes(), 0);
        let then = fixture.path(&at("d", state));
        let held = File::open(then.join("sub/second")).expect("opens");
        for _ in 0..3 {
            shell(&then, "ls -lR . && cat file blob > /dev/null");
            fixture.tree.forget(vec![Kept::Names]);
        }
        // Other tests may make the kernel drop what it keeps, just now.
        eventually("all that was listed is known", || {
            shell(fixture.dir.path(), &format!("ls -lR {}", at("d/", state)));
            inodes() >= 12
        });
        let drop_caches = || fs::write("/proc/sys/vm/drop_caches", "2").expect("root may");
        eventually("only what is open is left, and its directories", || {
            drop_caches();
            (1..=3).contains(&inodes())
        });
        let mut bytes = [0; 6];
        held.read_exact_at(&mut bytes, 0).expect("what is open goes on working");
        assert_eq!(&bytes, b"before");
        drop(held);
        eventually("nothing is left", || {
            drop_caches();
            inodes() == 0
        });
        fixture.finish();
    }
}
