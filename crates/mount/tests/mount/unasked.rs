//! A mount with local opens, of a tree that others change: the kernel opens files without asking.

use crate::fixture::{Fixture, eventually};
use crate::keeping::{chmod, inode, keeps_names, write};
use crate::mapping::PAGES;
use crate::ram::kept::ALL;
use gavel_client::tree::{Keep, Kept, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::{SetAttr, SetTime};
use gavel_types::{ObjectId, Timestamp};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

/// Can this kernel give up inodes (Linux 6.18)?
fn unasked() -> Option<Fixture> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 18) || !keeps_names() {
        eprintln!("skipped: this kernel asks for each open");
        return None;
    }
    Fixture::with(|options| options.local_opens = true)
}

/// Another node writes, and sets the time back: nothing but forgetting shows it.
fn rewrite(fixture: &Fixture, object: ObjectId, data: &[u8]) {
    fixture.tree.behind(write(object, 0, data));
    let mtime = Some(SetTime::At(Timestamp { secs: 1, nanos: 0 }));
    let set = SetAttr { mtime, ..SetAttr::default() };
    fixture.tree.behind(TreeRequest::Operation(Operation::Setattr { object, set }));
}

fn first(file: &File) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).expect("reads");
    byte[0]
}

#[test]
fn what_the_tree_vouches_for_is_read_once() {
    let Some(fixture) = unasked() else { return };
    let path = fixture.path("file");
    fs::write(&path, vec![b'.'; PAGES]).expect("writes");
    fixture.tree.keep(ALL);
    let id = inode(&path);
    for _ in 0..2 {
        assert_eq!(fs::read(&path).expect("reads").len(), PAGES);
    }
    let kinds = ["lookup", "getattr", "open", "read", "vouch"];
    let before = kinds.map(|kind| fixture.tree.asked(kind));
    for _ in 0..100 {
        assert_eq!(first(&File::open(&path).expect("opens")), b'.');
    }
    assert_eq!(kinds.map(|kind| fixture.tree.asked(kind)), before, "the kernel has it");
    assert_eq!(fixture.tree.asked("open"), 0);
    let open = File::open(&path).expect("opens");
    fixture.tree.forget(vec![Kept::Object(id), Kept::Names]);
    rewrite(&fixture, id, b"#");
    assert_eq!(first(&open), b'#');
    drop(open);
    fs::remove_file(&path).expect("removes");
    fixture.finish();
}

#[test]
fn what_nobody_vouches_for_is_used_once() {
    let Some(fixture) = unasked() else { return };
    let path = fixture.path("file");
    fs::write(&path, vec![b'.'; PAGES]).expect("writes");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("opens");
    let id = inode(&path);
    let front = fixture.tree.front().expect("is mounted");
    for step in 0..40u8 {
        // Whoever drops pages has other things to do first.
        front.forget((1_000_000..1_002_000).map(|other| Kept::Attributes(ObjectId(other))).collect(), Box::new(|| ()));
        rewrite(&fixture, id, &[step]);
        assert_eq!(first(&file), step);
        // The own write's page is not kept, either.
        file.write_all_at(b"x", 1).expect("writes");
        rewrite(&fixture, id, &[step.wrapping_add(100)]);
        assert_eq!(first(&file), step.wrapping_add(100));
    }
    drop(file);
    fs::remove_file(&path).expect("removes");
    fixture.finish();
}

#[test]
fn readers_of_what_others_write_see_each_change_that_was_made_before_they_began() {
    let Some(fixture) = unasked() else { return };
    let path = fixture.path("file");
    fs::write(&path, vec![0; PAGES]).expect("writes");
    let id = inode(&path);
    let done = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let file = File::open(&path).expect("opens");
                    for _ in 0..1500 {
                        let before = done.load(std::sync::atomic::Ordering::SeqCst);
                        let mut bytes = [0; 8];
                        file.read_exact_at(&mut bytes, 0).expect("reads");
                        let seen = u64::from_le_bytes(bytes);
                        assert!(seen >= before, "{seen} was read behind {before}");
                    }
                })
            })
            .collect();
        let mut number = 0u64;
        while readers.iter().any(|reader| !reader.is_finished()) {
            number += 1;
            // Vouched for now and then, as leases come and go.
            match number % 50 {
                10 => fixture.tree.keep(ALL),
                40 => fixture.tree.forget(vec![Kept::Object(id), Kept::Names]),
                _ => {}
            }
            if number % 50 < 10 || number % 50 >= 40 {
                rewrite(&fixture, id, &number.to_le_bytes());
                done.store(number, std::sync::atomic::Ordering::SeqCst);
            }
            std::thread::yield_now();
        }
        readers.into_iter().for_each(|reader| reader.join().expect("reads what there is"));
    });
    fixture.tree.keep(Keep::default());
    fs::remove_file(&path).expect("removes");
    fixture.finish();
}

#[test]
fn what_others_removed_goes_when_nobody_uses_it() {
    let Some(fixture) = unasked() else { return };
    fixture.tree.keep(ALL);
    let objects = fixture.tree.objects();
    fs::write(fixture.path("known"), b"bytes").expect("writes");
    fs::write(fixture.path("used"), b"bytes").expect("writes");
    let ids = ["known", "used"].map(|name| inode(&fixture.path(name)));
    let used = File::open(fixture.path("used")).expect("opens");
    for name in ["known", "used"] {
        let name = name.as_bytes().into();
        fixture.tree.behind(TreeRequest::Operation(Operation::Unlink { parent: ObjectId::ROOT, name }));
    }
    assert_eq!(fixture.tree.objects(), objects + 2, "what the kernel has counts as open");
    fixture.tree.forget(vec![Kept::Object(ids[0]), Kept::Object(ids[1]), Kept::Names]);
    fixture.tree.front().expect("is mounted").orphaned(ids.into());
    eventually("what is not open is gone", || fixture.tree.objects() == objects + 1);
    assert_eq!(first(&used), b'b');
    drop(used);
    eventually("what was open is asked for again", || fixture.tree.objects() == objects);
    fixture.finish();
}

#[test]
fn a_page_that_a_write_holds_is_not_waited_for() {
    let Some(fixture) = unasked() else { return };
    let path = fixture.path("file");
    fs::write(&path, b"short").expect("writes");
    fixture.tree.keep(ALL);
    let id = inode(&path);
    let file = OpenOptions::new().append(true).open(&path).expect("opens");
    let held = fixture.tree.hold_writes();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| (&file).write_all(b" and long").expect("writes"));
        eventually("the write is under way", || fixture.tree.held_writes() == 1);
        // As a recall of the file by a node whose own write that one waits for.
        fixture.tree.forget(vec![Kept::Object(id), Kept::Names]);
        assert!(!writing.is_finished());
        drop(held);
        writing.join().expect("writes");
    });
    rewrite(&fixture, id, b"S");
    assert_eq!(fs::read(&path).expect("reads"), b"Short and long");
    fixture.tree.behind(chmod(id, 0o600));
    drop(file);
    fs::remove_file(&path).expect("removes");
    fixture.finish();
}
