//! A tree that fails, is slow, or is changed by others between two requests.

use crate::fixture::{Fixture, eventually, has_program, is_root, shell};
use crate::ram::RamTree;
use gavel_client::tree::{Answered, Forget, Tree, TreeError, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::Caller;
use gavel_types::{ObjectId, VolumeId};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

type Between = dyn Fn(&RamTree, &TreeRequest, Answered) -> Option<Answered> + Send + Sync;

/// A tree in memory with something between it and the mount: what that does not keep for itself goes on.
struct Tampered {
    inner: Arc<RamTree>,
    between: Box<Between>,
}

impl Tree for Tampered {
    fn attach(&self, front: Weak<dyn Forget>) {
        self.inner.attach(front);
    }

    fn volume(&self) -> VolumeId {
        self.inner.volume()
    }

    fn submit(&self, caller: Caller, request: TreeRequest, answered: Answered) {
        if let Some(answered) = (self.between)(&self.inner, &request, answered) {
            self.inner.submit(caller, request, answered);
        }
    }

    fn opened(&self, object: ObjectId) {
        self.inner.opened(object);
    }

    fn closed(&self, object: ObjectId) {
        self.inner.closed(object);
    }
}

pub fn tampered(
    between: impl Fn(&RamTree, &TreeRequest, Answered) -> Option<Answered> + Send + Sync + 'static,
) -> Option<Fixture> {
    tampered_with(between, |_| {})
}

pub fn tampered_with(
    between: impl Fn(&RamTree, &TreeRequest, Answered) -> Option<Answered> + Send + Sync + 'static,
    change: impl FnOnce(&mut gavel_mount::MountOptions),
) -> Option<Fixture> {
    let inner = RamTree::with_thread();
    Fixture::of(inner.clone(), Arc::new(Tampered { inner, between: Box::new(between) }), change)
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_file_that_another_node_made_first_is_opened_with_its_own_permissions() {
    // Between the look-up that finds nothing and the request to create, another node makes the file.
    let made = |tree: &RamTree, request: &TreeRequest, answered| {
        if let TreeRequest::Operation(Operation::Create { parent, name, .. }) = request {
            let (parent, name) = (*parent, name.clone());
            let exclusive = true;
            let faster = Operation::Create { parent, name, mode: 0o600, umask: 0, exclusive, truncate: false };
            tree.submit(Caller::default(), TreeRequest::Operation(faster), Box::new(|_| ()));
        }
        Some(answered)
    };
    let Some(fixture) = tampered(made) else { return };
    fs::set_permissions(fixture.dir.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    fs::write(fixture.path("ours"), "x").expect("opens what is there");
    let exclusive = fs::File::create_new(fixture.path("exclusive"));
    assert_eq!(errno(exclusive), Some(libc::EEXIST));
    if is_root() && has_program("setpriv") {
        let script = "setpriv --reuid 65534 --clear-groups sh -c ': > theirs' 2>&1 || true";
        assert!(shell(fixture.dir.path(), script).contains("Permission denied"));
    }
    fixture.finish();
}

#[test]
fn failures_reach_programs_and_turn_nothing_off() {
    let cause = || "a test".to_string();
    let failures = [
        (TreeError::NoQuorum { cause: cause() }, libc::ETIMEDOUT),
        (TreeError::Unknown { cause: cause() }, libc::EIO),
        (TreeError::Storage { cause: cause(), full: true }, libc::ENOSPC),
        (TreeError::Storage { cause: cause(), full: false }, libc::EIO),
        (TreeError::Closed, libc::ESHUTDOWN),
    ];
    let failing: Arc<Mutex<Option<TreeError>>> = Arc::default();
    let now = failing.clone();
    let Some(fixture) = tampered(move |_, request, answered| match (&*now.lock().expect("sound"), request) {
        (Some(error), TreeRequest::Write { .. } | TreeRequest::Sync { .. }) => {
            answered(Err(error.clone()));
            None
        }
        _ => Some(answered),
    }) else {
        return;
    };
    let path = fixture.path("file");
    for (error, expected) in failures {
        *failing.lock().expect("sound") = Some(error.clone());
        assert_eq!(errno(fs::write(&path, "x")), Some(expected), "{error}");
        let file = fs::File::open(&path).expect("opens");
        assert_eq!(errno(file.sync_all()), Some(expected), "{error}");
        *failing.lock().expect("sound") = None;
        fs::write(&path, "x").expect("writes again");
        file.sync_all().expect("fsync again");
    }
    fixture.finish();
}

#[test]
fn a_write_to_a_file_that_is_open_for_synchronous_writes_waits_until_it_is_durable() {
    let synced = Arc::new(AtomicBool::new(false));
    let seen = synced.clone();
    let Some(fixture) = tampered(move |_, request, answered| match request {
        TreeRequest::Sync { .. } => {
            seen.store(true, Ordering::SeqCst);
            answered(Err(TreeError::Unknown { cause: "a test".into() }));
            None
        }
        _ => Some(answered),
    }) else {
        return;
    };
    for (flags, waits) in [(0, false), (libc::O_APPEND, false), (libc::O_DSYNC, true), (libc::O_SYNC, true)] {
        synced.store(false, Ordering::SeqCst);
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).custom_flags(flags);
        let mut file = options.open(fixture.path("file")).expect("opens");
        let written = file.write(b"x");
        assert_eq!((errno(written), synced.load(Ordering::SeqCst)), (waits.then_some(libc::EIO), waits), "{flags:#o}");
    }
    fixture.finish();
}

#[test]
fn a_request_that_the_tree_loses_is_answered_all_the_same() {
    let lose = Arc::new(AtomicBool::new(false));
    let losing = lose.clone();
    let Some(fixture) =
        tampered(move |_, _, answered| if losing.load(Ordering::SeqCst) { None } else { Some(answered) })
    else {
        return;
    };
    fs::write(fixture.path("file"), "x").expect("writes");
    lose.store(true, Ordering::SeqCst);
    assert_eq!(errno(fs::metadata(fixture.path("file"))), Some(libc::EIO));
    lose.store(false, Ordering::SeqCst);
    assert_eq!(fs::read_to_string(fixture.path("file")).expect("reads"), "x");
    fixture.finish();
}

/// Requests that nobody has answered yet. Dropped, they are answered with EIO: a thread that waited for ever would keep
/// this process, and with it the mount, from ending.
#[derive(Default)]
struct Held(Arc<Mutex<Vec<Answered>>>);

impl Held {
    fn len(&self) -> usize {
        self.0.lock().expect("sound").len()
    }

    fn take(&self) -> Vec<Answered> {
        std::mem::take(&mut *self.0.lock().expect("sound"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.take());
    }
}

#[test]
fn requests_that_wait_keep_no_thread_from_the_others() {
    const WAITING: usize = 50;
    const SLOW: &str = "user.slow";
    let held = Held::default();
    let holder = held.0.clone();
    let Some(fixture) = tampered(move |_, request, answered| match request {
        TreeRequest::Operation(Operation::Getxattr { name, .. }) if **name == *SLOW.as_bytes() => {
            holder.lock().expect("sound").push(answered);
            None
        }
        _ => Some(answered),
    }) else {
        return;
    };
    let path = fixture.path("file");
    fs::write(&path, "x").expect("writes");
    std::thread::scope(|scope| {
        let held = held; // dropped, and all requests answered, before the scope waits for its threads
        let readers: Vec<_> = (0..WAITING).map(|_| scope.spawn(|| rustix::fs::getxattr_query(&path, SLOW))).collect();
        eventually("all of them wait", || held.len() == WAITING);
        fs::write(fixture.path("other"), "y").expect("others go on");
        assert_eq!(fs::read_to_string(&path).expect("the same file, too"), "x");
        held.take().into_iter().for_each(|answered| answered(Err(TreeError::Closed)));
        for reader in readers {
            assert_eq!(reader.join().expect("ends"), Err(rustix::io::Errno::SHUTDOWN));
        }
    });
    fixture.finish();
}
