//! A mount that nobody else changes: the kernel opens files without asking, and has their locks to itself. (The latter can be had on any mount.)

use crate::fixture::{Fixture, eventually, shell};
use crate::ram::kept::ALL;
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

fn private() -> Option<Fixture> {
    let fixture = Fixture::with(|options| options.private = true)?;
    fixture.tree.keep(ALL);
    Some(fixture)
}

#[test]
fn nobody_is_asked_to_open_what_is_known() {
    let Some(fixture) = private() else { return };
    let file = fixture.path("file");
    fs::write(&file, b"bytes").expect("writes");
    // (The kernel asks for attributes once more when it has asked for bytes: a local filesystem would have noted the time.)
    for _ in 0..2 {
        assert_eq!(fs::read(&file).expect("reads"), b"bytes");
    }
    let kinds = ["lookup", "getattr", "open", "read", "lock", "other"];
    let before = kinds.map(|kind| fixture.tree.asked(kind));
    for _ in 0..100 {
        assert_eq!(fs::read(&file).expect("reads"), b"bytes");
    }
    assert_eq!(kinds.map(|kind| fixture.tree.asked(kind)), before);
    assert_eq!(fixture.tree.asked("open"), 0);
    fs::remove_file(&file).expect("removes");
    fixture.finish();
}

#[test]
fn what_is_open_stays_when_its_name_is_gone_and_goes_with_the_last_close() {
    let Some(fixture) = private() else { return };
    let objects = fixture.tree.objects();
    let mut made = File::create_new(fixture.path("made")).expect("makes");
    made.write_all(b"one").expect("writes");
    fs::write(fixture.path("written"), b"two").expect("writes");
    let read = OpenOptions::new().read(true).append(true).open(fixture.path("written")).expect("opens");
    fs::rename(fixture.path("made"), fixture.path("written")).expect("takes its place");
    fs::remove_file(fixture.path("written")).expect("removes");
    (&read).write_all(b" and more").expect("appends");
    made.write_all(b" and more").expect("writes");
    let mut bytes = [0; 32];
    let len = read.read_at(&mut bytes, 0).expect("reads");
    assert_eq!(&bytes[..len], b"two and more");
    assert_eq!(fixture.tree.objects(), objects + 2);
    drop(read);
    eventually("the first is gone", || fixture.tree.objects() == objects + 1);
    drop(made);
    eventually("the second is gone", || fixture.tree.objects() == objects);
    fixture.finish();
}

#[test]
fn files_are_truncated_when_they_are_opened_so() {
    let Some(fixture) = private() else { return };
    let file = fixture.path("file");
    fs::write(&file, vec![b'.'; 10_000]).expect("writes");
    assert_eq!(fs::read(&file).expect("reads").len(), 10_000);
    let mut again = OpenOptions::new().read(true).write(true).truncate(true).open(&file).expect("opens");
    assert_eq!(again.metadata().expect("is there").len(), 0);
    again.write_all(b"short").expect("writes");
    let mut all = String::new();
    File::open(&file).expect("opens").read_to_string(&mut all).expect("reads");
    assert_eq!(all, "short");
    drop(again);
    fs::remove_file(&file).expect("removes");
    fixture.finish();
}

#[test]
fn locks_hold_among_the_programs_of_the_mount_and_the_tree_does_not_hear_of_them() {
    let Some(fixture) = private() else { return };
    have_locks(&fixture);
    assert_eq!(fixture.tree.asked("open"), 0);
    fixture.finish();
}

#[test]
fn local_locks_are_the_same_where_opens_are_asked_for() {
    let Some(fixture) = Fixture::with(|options| options.local_locks = true) else { return };
    have_locks(&fixture);
    assert!(fixture.tree.asked("open") > 0);
    fixture.finish();
}

fn have_locks(fixture: &Fixture) {
    let file = fixture.path("file");
    let one = File::create(&file).expect("makes");
    let other = File::open(&file).expect("opens");
    flock(&one, FlockOperation::LockExclusive).expect("is free");
    flock(&other, FlockOperation::NonBlockingLockShared).expect_err("is taken");
    drop(one);
    flock(&other, FlockOperation::NonBlockingLockExclusive).expect("goes with the close");
    let writer = OpenOptions::new().write(true).open(&file).expect("opens");
    fcntl_lock(&writer, FlockOperation::LockExclusive).expect("is free");
    let script = "import fcntl, sys
f = open('file', 'r+')
try:
    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print('free')
except OSError:
    print('taken')";
    let ask = || shell(fixture.dir.path(), &format!("python3 -c \"{script}\""));
    assert_eq!(ask(), "taken\n");
    drop(other);
    assert_eq!(ask(), "free\n", "whichever descriptor of it the process closes");
    assert_eq!(fixture.tree.asked("lock"), 0);
    drop(writer);
    fs::remove_file(&file).expect("removes");
}
