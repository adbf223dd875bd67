//! What is under way while the kernel is made to forget.

use crate::failures::tampered_with;
use crate::fixture::{Fixture, drops_caches, eventually};
use crate::keeping::{chmod, inode, rename, write};
use crate::mapping::{Mapping, PAGES};
use crate::ram::RamTree;
use crate::ram::kept::ALL;
use gavel_client::tree::{Answered, Keep, Kept, Tree, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::Caller;
use gavel_types::ObjectId;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Wanted = (Way, fn(&TreeRequest) -> bool);
type Delivery = Box<dyn FnOnce(&RamTree) + Send>;

/// What is on its way: requests to the tree, or its answers.
#[derive(Clone, Default)]
struct Late {
    wanted: Arc<Mutex<Option<Wanted>>>,
    held: Arc<Mutex<Vec<Delivery>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Not asked yet.
    There,
    /// Answered.
    Back,
}

impl Late {
    /// The next such request is held.
    fn hold(&self, way: Way, wanted: fn(&TreeRequest) -> bool) {
        *self.wanted.lock().expect("sound") = Some((way, wanted));
    }

    fn between(&self, request: &TreeRequest, answered: Answered) -> Option<Answered> {
        let mut wanted = self.wanted.lock().expect("sound");
        let Some((way, _)) = wanted.take_if(|(_, wanted)| wanted(request)) else { return Some(answered) };
        let held = self.held.clone();
        let hold = move |delivery| held.lock().expect("sound").push(delivery);
        if way == Way::Back {
            return Some(Box::new(move |result| hold(Box::new(|_| answered(result)))));
        }
        let request = request.clone();
        hold(Box::new(|tree| tree.submit(Caller::default(), request, answered)));
        None
    }

    fn wait(&self) {
        eventually("something is on its way", || !self.held.lock().expect("sound").is_empty());
    }

    fn deliver(&self, fixture: &Fixture) {
        for delivery in std::mem::take(&mut *self.held.lock().expect("sound")) {
            delivery(&fixture.tree);
        }
    }
}

fn late() -> Option<(Fixture, Late)> {
    late_with(|_| {})
}

fn late_with(change: impl FnOnce(&mut gavel_mount::MountOptions)) -> Option<(Fixture, Late)> {
    let late = Late::default();
    let between = late.clone();
    let fixture = tampered_with(move |_, request, answered| between.between(request, answered), change)?;
    fs::write(fixture.path("file"), vec![b'.'; PAGES]).expect("writes");
    Some((fixture, late))
}

fn is_lookup(request: &TreeRequest) -> bool {
    matches!(request, TreeRequest::Lookup { .. })
}

fn is_getattr(request: &TreeRequest) -> bool {
    matches!(request, TreeRequest::Operation(Operation::Getattr { object }) if *object != ObjectId::ROOT)
}

fn is_read(request: &TreeRequest) -> bool {
    matches!(request, TreeRequest::Read { .. })
}

/// The kernel drops the inodes that nobody uses (as root; otherwise it may still have them).
fn evict() {
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap_or_else(|error| eprintln!("cannot drop caches: {error}"));
}

#[test]
fn a_look_up_that_was_under_way_leaves_no_old_name() {
    let Some((fixture, late)) = late() else { return };
    for absent in [false, true] {
        let (old, new) = if absent { ("moved", "file") } else { ("file", "moved") };
        fixture.tree.forget(vec![Kept::Names]);
        fixture.tree.keep(ALL);
        late.hold(Way::Back, is_lookup);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| fixture.path("file").exists());
            late.wait();
            fixture.tree.behind(rename(old, new));
            fixture.tree.forget(vec![Kept::Names, Kept::Object(ObjectId::ROOT)]);
            late.deliver(&fixture);
            assert_eq!(looking.join().expect("ends"), !absent, "as of when it was asked");
        });
        assert_eq!(fixture.path("file").exists(), absent, "the old name was kept");
    }
    fixture.finish();
}

#[test]
fn attributes_that_were_under_way_are_not_kept() {
    let Some((fixture, late)) = late() else { return };
    let path = fixture.path("file");
    let (id, open) = (inode(&path), File::open(&path).expect("opens"));
    for round in [0o600, 0o640, 0o604] {
        fixture.tree.forget(vec![Kept::Object(id)]);
        fixture.tree.keep(ALL);
        late.hold(Way::Back, is_getattr);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| open.metadata().expect("is open"));
            late.wait();
            fixture.tree.behind(chmod(id, round));
            fixture.tree.forget(vec![Kept::Object(id)]);
            late.deliver(&fixture);
            asking.join().expect("ends");
        });
        assert_eq!(open.metadata().expect("is open").permissions().mode() & 0o7777, u32::from(round));
    }
    drop(open);
    fixture.finish();
}

fn is_mkdir(request: &TreeRequest) -> bool {
    matches!(request, TreeRequest::Operation(Operation::Mkdir { .. }))
}

fn is_create(request: &TreeRequest) -> bool {
    matches!(request, TreeRequest::Operation(Operation::Create { .. }))
}

fn is_listing(request: &TreeRequest) -> bool {
    matches!(request, TreeRequest::ReaddirPlus { .. })
}

fn find(fixture: &Fixture, name: &str) -> ObjectId {
    let lookup = Operation::Lookup { parent: ObjectId::ROOT, name: name.as_bytes().into() };
    let found = fixture.tree.behind(TreeRequest::Operation(lookup)).reply;
    let gavel_fs::Reply::Object(id) = found else { panic!("{found:?}") };
    id
}

#[test]
fn attributes_of_what_this_mount_changes_and_makes_are_not_kept_if_they_were_to_be_forgotten() {
    let Some((fixture, late)) = late() else { return };
    let (path, made) = (fixture.path("file"), fixture.path("made"));
    fixture.tree.keep(ALL);
    let open = File::open(&path).expect("opens");
    let id = inode(&path);
    late.hold(Way::Back, |request| matches!(request, TreeRequest::Operation(Operation::Setattr { .. })));
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| open.set_permissions(fs::Permissions::from_mode(0o611)).expect("chmod"));
        late.wait();
        fixture.tree.behind(chmod(id, 0o622));
        fixture.tree.forget(vec![Kept::Object(id)]);
        fixture.tree.keep(ALL);
        late.deliver(&fixture);
        changing.join().expect("ends");
    });
    assert_eq!(open.metadata().expect("is open").permissions().mode() & 0o7777, 0o622);
    for (name, wanted) in [("made", is_mkdir as fn(&TreeRequest) -> bool), ("file too", is_create)] {
        let made = fixture.path(name);
        late.hold(Way::Back, wanted);
        std::thread::scope(|scope| {
            let making = scope.spawn(|| match name {
                "made" => fs::create_dir(&made).expect("makes"),
                _ => drop(File::create(&made).expect("makes")),
            });
            late.wait();
            let id = find(&fixture, name);
            fixture.tree.behind(chmod(id, 0o733));
            fixture.tree.forget(vec![Kept::Object(id)]);
            fixture.tree.keep(ALL);
            late.deliver(&fixture);
            making.join().expect("ends");
        });
        assert_eq!(fs::metadata(&made).expect("is there").permissions().mode() & 0o7777, 0o733, "{name}");
    }
    fs::remove_dir(made).expect("removes");
    drop(open);
    fixture.finish();
}

#[test]
fn names_that_are_being_made_and_listed_leave_no_old_ones() {
    let Some((fixture, late)) = late_with(|options| options.readdirplus = true) else { return };
    for (name, wanted) in [("dir", is_mkdir as fn(&TreeRequest) -> bool), ("new", is_create), ("file", is_listing)] {
        fixture.tree.forget(vec![Kept::Names]);
        fixture.tree.keep(ALL);
        late.hold(Way::Back, wanted);
        std::thread::scope(|scope| {
            let working = scope.spawn(|| match name {
                "dir" => fs::create_dir(fixture.path(name)).expect("makes"),
                "new" => drop(File::create(fixture.path(name)).expect("creates")),
                _ => assert!(fs::read_dir(fixture.dir.path()).expect("lists").count() >= 1),
            });
            late.wait();
            fixture.tree.behind(rename(name, "moved"));
            fixture.tree.forget(vec![Kept::Names, Kept::Object(ObjectId::ROOT)]);
            fixture.tree.keep(ALL);
            late.deliver(&fixture);
            working.join().expect("ends");
        });
        assert!(!fixture.path(name).exists(), "the old name of {name} was kept");
        fixture.tree.behind(rename("moved", name));
        fixture.tree.forget(vec![Kept::Names, Kept::Object(ObjectId::ROOT)]);
    }
    fixture.finish();
}

/// What others do before an answer goes out that does not show it, and what is to be forgotten as soon as it is out.
type Behind = Box<dyn FnOnce() -> Delivery + Send>;

/// The kernel is made to forget what a reply says while it is about to take that in.
#[test]
fn what_was_answered_just_before_it_was_to_be_forgotten_is_forgotten() {
    let next: Arc<Mutex<Option<Behind>>> = Arc::default();
    let behind = next.clone();
    let between = move |_: &RamTree, request: &TreeRequest, answered: Answered| {
        let wanted = matches!(request, TreeRequest::Operation(Operation::Link { .. }));
        let Some(behind) = behind.lock().expect("sound").take_if(|_| wanted) else { return Some(answered) };
        let answered: Answered = Box::new(move |result| {
            let forget = behind();
            answered(result);
            forget(&RamTree::new());
        });
        Some(answered)
    };
    let Some(fixture) = tampered_with(between, |options| options.readdirplus = true) else { return };
    fs::write(fixture.path("file"), "").expect("writes");
    let id = inode(&fixture.path("file"));
    let mode_of = |name: &str| fs::metadata(fixture.path(name)).expect("is there").permissions().mode() & 0o7777;
    for round in 0..200u16 {
        let mode = 0o600 | (round & 0o177);
        let (begun, begins) = channel();
        let tree = fixture.tree.clone();
        *next.lock().expect("sound") = Some(Box::new(move || {
            tree.behind(chmod(id, mode));
            Box::new(move |_| begun.send(tree.take_back(vec![Kept::Attributes(id)])).expect("is heard"))
        }));
        fixture.tree.keep(ALL);
        fs::hard_link(fixture.path("file"), fixture.path("link")).expect("links");
        let forgotten = begins.recv_timeout(Duration::from_secs(10)).expect("is to be forgotten");
        forgotten.recv_timeout(Duration::from_secs(10)).expect("is forgotten");
        assert_eq!((mode_of("file"), mode_of("link")), (mode.into(), mode.into()), "round {round}");
        fs::remove_file(fixture.path("link")).expect("removes");
    }
    fixture.finish();
}

#[test]
fn forgetting_waits_for_no_request_that_waits_for_forgetting() {
    let Some((fixture, late)) = late() else { return };
    fixture.tree.keep(ALL);
    fs::create_dir(fixture.path("made")).expect("makes");
    let id = inode(&fixture.path("made"));
    // The kernel has locked the directory for it, and it is answered when all is forgotten.
    late.hold(Way::There, is_create);
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| drop(File::create(fixture.path("new")).expect("creates")));
        late.wait();
        let started = Instant::now();
        fixture.tree.behind(chmod(id, 0o711));
        fixture.tree.forget(vec![Kept::Names, Kept::Object(id)]);
        assert!(started.elapsed() < Duration::from_secs(1), "it was waited for");
        late.deliver(&fixture);
        creating.join().expect("ends");
    });
    assert_eq!(fs::metadata(fixture.path("made")).expect("is there").permissions().mode() & 0o7777, 0o711);
    fixture.finish();
}

#[test]
fn attributes_of_an_inode_that_the_kernel_did_not_have_yet_are_not_kept() {
    let _caches = drops_caches();
    let Some((fixture, late)) = late() else { return };
    let path = fixture.path("file");
    let id = inode(&path);
    for round in [0o600, 0o640, 0o604] {
        fixture.tree.forget(vec![Kept::Names]);
        evict();
        fixture.tree.keep(ALL);
        late.hold(Way::Back, is_lookup);
        let open = std::thread::scope(|scope| {
            let opening = scope.spawn(|| File::open(&path).expect("opens"));
            late.wait();
            fixture.tree.behind(chmod(id, round));
            fixture.tree.forget(vec![Kept::Object(id)]);
            late.deliver(&fixture);
            opening.join().expect("ends")
        });
        assert_eq!(open.metadata().expect("is open").permissions().mode() & 0o7777, u32::from(round));
    }
    fixture.finish();
}

#[test]
fn bytes_that_were_under_way_are_waited_for_and_dropped() {
    let Some((fixture, late)) = late() else { return };
    let path = fixture.path("file");
    fixture.tree.keep(ALL);
    let id = inode(&path);
    let open = File::open(&path).expect("opens");
    let read = || {
        let mut byte = [0];
        open.read_exact_at(&mut byte, 0).expect("reads");
        byte[0]
    };
    late.hold(Way::Back, is_read);
    std::thread::scope(|scope| {
        let reading = scope.spawn(read);
        late.wait();
        fixture.tree.behind(write(id, 0, b"!"));
        let forgotten = fixture.tree.take_back(vec![Kept::Object(id)]);
        // Not this file: attributes with a new mtime make the kernel drop its pages, and whoever brings them waits too.
        fs::write(fixture.path("other"), "x").expect("others go on while it waits for the page");
        assert!(forgotten.try_recv().is_err(), "the page is still to come");
        late.deliver(&fixture);
        reading.join().expect("ends"); // with the page, or if that is gone again, with a new one
        forgotten.recv_timeout(Duration::from_secs(10)).expect("is forgotten");
    });
    assert_eq!(read(), b'!');
    drop(open);
    fixture.finish();
}

#[test]
fn a_page_that_was_fetched_before_a_write_of_this_mount_does_not_outlive_it() {
    let Some((fixture, late)) = late() else { return };
    let path = fixture.path("file");
    fixture.tree.keep(ALL);
    let reader = File::open(&path).expect("opens");
    let mapping = Mapping::reading(&reader);
    let writer = OpenOptions::new().write(true).open(&path).expect("opens");
    for round in *b"abc" {
        // The kernel drops the page and sends the write; before that is committed, the page comes back.
        late.hold(Way::There, |request| matches!(request, TreeRequest::Write { .. }));
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write_all_at(&[round], 8).expect("writes"));
            late.wait();
            assert_ne!(mapping.byte(8), round, "it is not committed");
            late.deliver(&fixture);
            writing.join().expect("ends");
        });
        assert_eq!(mapping.byte(8), round, "the write has returned");
        let mut byte = [0];
        reader.read_exact_at(&mut byte, 8).expect("reads");
        assert_eq!(byte[0], round);
    }
    drop((mapping, reader, writer));
    fixture.finish();
}

/// How long a thread of the stress may stand still. Its system calls take microseconds.
const STALL: Duration = Duration::from_secs(5);
const STRESS: Duration = Duration::from_secs(20);
const WORKERS: usize = 8;

#[test]
fn forgetting_goes_on_among_everything_that_takes_the_kernels_locks() {
    let Some(fixture) = Fixture::new() else { return };
    let dirs: Vec<_> = (0..3).map(|i| fixture.path(&format!("dir{i}"))).collect();
    dirs.iter().for_each(|dir| fs::create_dir(dir).expect("makes"));
    fixture.tree.keep(ALL);
    let ids: Vec<_> = dirs.iter().map(|dir| inode(dir)).collect();
    let (end, forgets) = (AtomicBool::new(false), AtomicU64::new(0));
    let steps: Vec<AtomicU64> = (0..WORKERS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for (i, steps) in steps.iter().enumerate() {
            let (dirs, end) = (&dirs, &end);
            scope.spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    work(dirs, i, steps.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                let files = (0..20).map(|i| Kept::Object(ObjectId(ids[0].0 + i)));
                let kept = files.chain([Kept::Names, Kept::Object(ids[1]), Kept::Object(ObjectId::ROOT)]).collect();
                fixture.tree.forget(kept);
                fixture.tree.keep(ALL);
                forgets.fetch_add(1, Ordering::Relaxed);
            }
        });
        watch(&steps, &forgets);
        end.store(true, Ordering::Relaxed);
    });
    let all: u64 = steps.iter().map(|steps| steps.load(Ordering::Relaxed)).sum();
    println!("{all} rounds of work, {} times forgotten", forgets.load(Ordering::Relaxed));
    fixture.tree.keep(Keep::default());
    drop(dirs);
    fixture.finish();
}

/// Ends the process if one stands still: threads that wait in the kernel for each other cannot be joined.
fn watch(steps: &[AtomicU64], forgets: &AtomicU64) {
    let read = || steps.iter().chain([forgets]).map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let started = Instant::now();
    let mut last: Vec<_> = read().into_iter().map(|count| (count, started)).collect();
    while started.elapsed() < STRESS {
        std::thread::park_timeout(Duration::from_millis(100));
        for (i, (now, last)) in read().into_iter().zip(&mut last).enumerate() {
            if now != last.0 {
                *last = (now, Instant::now());
            } else if last.1.elapsed() > STALL {
                eprintln!("thread {i} stands still (the last one is who forgets): {:?}", read());
                std::process::abort();
            }
        }
    }
}

fn work(dirs: &[std::path::PathBuf], worker: usize, step: u64) {
    let dir = &dirs[(step % 3) as usize];
    let (name, other) = (dir.join(format!("f{}", step % 5)), dirs[1].join(format!("g{worker}")));
    // All of them may fail: others remove and rename what this one looks at.
    match (worker + step as usize) % 8 {
        0 => drop(fs::write(&name, "data")),
        1 => drop(fs::metadata(&name)),
        2 => drop(fs::rename(&name, &other)),
        3 => drop(fs::read_dir(dir).map(Iterator::count)),
        4 => drop(fs::read(&name)),
        5 => drop(fs::metadata(dir.join("absent"))),
        6 => drop(fs::remove_file(&other)),
        _ => {
            drop(fs::create_dir(dir.join("d")));
            drop(fs::remove_dir(dir.join("d")));
        }
    }
}
