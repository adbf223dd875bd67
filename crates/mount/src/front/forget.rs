//! Making the kernel forget.
//!
//! Three threads for each mount do it, and nothing else: the kernel waits in there for the locks of pages, and those are held by
//! requests that other threads of this process have to answer. They hold no lock of ours meanwhile. One forgets, for which other nodes wait.
//! One drops pages of files, which writes may hold that wait for other nodes. One drops pages of listings, for which a program waits that has locked the directory.
//!
//! ```text
//!   node ──forget──> [forgets] ──batch──> names: INC_EPOCH ──> objects: INVAL_INODE, each until it is certain ──> forgotten
//!                                         (each behind what the kernel has still to take in: see `known::arrivals`)
//!                                                          └──bytes──> [pages], waited for unless a write may hold some
//!   request ──what it has left in pages──> [pages] ──behind the object's writes──> INVAL_INODE ──> then
//!   end of the mount ──> the device is closed, and everything is forgotten at once
//! ```
//!
//! `docs/protocols/mount.md` has the argument why nothing comes back.

use super::known::{Arrival, Known, Passing};
use gavel_client::tree::{Forget, Kept};
use gavel_types::ObjectId;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Most jobs that are done as one.
const BATCH_MAX: usize = 4096;
/// How often, and how long apart, the kernel is asked for an inode that it must have seen or given back soon: 2 s in all. Its
/// threads need microseconds, unless the machine is overloaded.
const TRIES_MAX: u32 = 2000;
const PAUSE: Duration = Duration::from_millis(1);
/// How long a reply may take to be taken in by the kernel, where that cannot be seen at once. Its threads need microseconds.
const TAKE_IN_MAX: Duration = Duration::from_secs(2);
/// How long pages are waited for that no write is known to hold. It takes microseconds, unless the machine is overloaded.
const DROP_MAX: Duration = Duration::from_secs(2);
/// Directories whose locks are asked for at a time. Nearly always one: others wait for programs that change them.
const PASSING_MAX: usize = 16;

/// `FUSE_NOTIFY_INVAL_INODE`: attributes and a range of pages.
const NOTIFY_INVAL_INODE: u32 = 2;
/// `FUSE_NOTIFY_INVAL_ENTRY`: a name, under the lock of its directory.
const NOTIFY_INVAL_ENTRY: u32 = 3;
/// `FUSE_EXPIRE_ONLY` (Linux 6.2): the name is looked up again before it is used, and that is all.
const EXPIRE_ONLY: u32 = 1;
/// A name that nobody uses; should it be used all the same, it is looked up once more.
const NOWHERE: &[u8; 2] = b"\x01\0";
/// `FUSE_NOTIFY_INC_EPOCH` (Linux 6.16): all names. fuser 0.18 does not know it.
const NOTIFY_INC_EPOCH: u32 = 8;
/// `FUSE_NOTIFY_PRUNE` (Linux 6.18): inodes. fuser 0.18 does not know it.
const NOTIFY_PRUNE: u32 = 9;
/// Their number, and room for more to be said.
const PRUNE_HEAD_BYTES: usize = 16;
/// Most inodes in one message.
const PRUNE_MAX: usize = 512;
/// How long apart inodes are asked for that are in use.
const PRUNE_AGAIN: Duration = Duration::from_secs(1);
/// Where the pages begin that go with an object's attributes.
const ALL_PAGES: i64 = 0;
const NO_PAGES: i64 = -1;
const HEADER_BYTES: usize = 16;
const INVAL_INODE_BYTES: usize = HEADER_BYTES + 24;
const INVAL_ENTRY_BYTES: usize = HEADER_BYTES + 16 + NOWHERE.len();

type Then = Box<dyn FnOnce() + Send>;

enum Job {
    Forget {
        kept: Vec<Kept>,
        forgotten: Then,
    },
    /// Pages of a range, and then something else.
    Pages {
        object: ObjectId,
        offset: u64,
        len: u64,
        then: Then,
    },
    /// These have lost their last name: they are to be given back, if nobody uses them.
    Prune(Vec<ObjectId>),
    /// The connection has ended.
    End,
}

/// What a node tells a mount to forget.
pub(crate) struct Forgetter {
    known: Arc<Known>,
    forgets: Sender<Job>,
    /// Pages of files. A write may hold them until another node has given something up.
    pages: Arc<Sender<Job>>,
    /// Pages of listings. Somebody has locked the directory meanwhile, so these must not wait behind who waits for that.
    listings: Sender<Job>,
}

/// Jobs that nobody works on yet.
pub(crate) struct Jobs {
    forgets: Receiver<Job>,
    pages: Receiver<Job>,
    listings: Receiver<Job>,
}

impl Forget for Forgetter {
    fn forget(&self, kept: Vec<Kept>, forgotten: Then) {
        self.known.forget(&kept);
        send(&self.forgets, Job::Forget { kept, forgotten });
    }

    fn orphaned(&self, objects: Vec<ObjectId>) {
        if self.known.counts_as_open() {
            send(&self.forgets, Job::Prune(objects));
        }
    }
}

impl Forgetter {
    pub(crate) fn new() -> (Arc<Forgetter>, Jobs) {
        let (forgets, forgets_receiver) = channel();
        let (pages, pages_receiver) = channel();
        let (listings, listings_receiver) = channel();
        let (known, pages) = (Arc::new(Known::new()), Arc::new(pages));
        let jobs = Jobs { forgets: forgets_receiver, pages: pages_receiver, listings: listings_receiver };
        (Arc::new(Forgetter { known, forgets, pages, listings }), jobs)
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// Names and attributes may be kept whether the kernel can forget all names at once or not.
    pub(crate) fn keep_all(&self) {
        self.known.allow();
    }

    /// Has the kernel drop pages of a range, if it has any; `then` is called behind that. Never waits.
    pub(super) fn drop_pages(&self, object: ObjectId, offset: u64, len: u64, then: Then) {
        send(&self.pages, Job::Pages { object, offset, len, then });
    }

    /// Has the kernel drop what it has of the listing of a directory; `then` is called behind that. Never waits.
    pub(super) fn drop_listing(&self, directory: ObjectId, then: Then) {
        send(&self.listings, Job::Pages { object: directory, offset: 0, len: 0, then });
    }

    /// Starts the threads. `device` is the connection to the kernel. Unless `keep`, or if the kernel cannot forget all
    /// names at once, names and attributes are never kept.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(crate) fn start(&self, jobs: Jobs, device: OwnedFd, keep: bool) -> std::io::Result<()> {
        match keep.then(|| device.inc_epoch()) {
            None => {}
            Some(Ok(())) => self.known.allow(),
            Some(Err(errno)) => tracing::info!(
                %errno,
                "the kernel cannot forget all names at once (Linux 6.16 can): it keeps no names and attributes"
            ),
        }
        let device = Arc::new(device);
        let Jobs { forgets, pages, listings } = jobs;
        for (name, jobs) in [("gavel-forget", forgets), ("gavel-pages", pages), ("gavel-listings", listings)] {
            let (known, passing) = (self.known.clone(), Arc::default());
            let pages = Arc::downgrade(&self.pages);
            let worker = Worker { device: Some(device.clone()), known, passing, pages, orphans: BTreeSet::new() };
            std::thread::Builder::new().name(name.into()).spawn(move || worker.run(&jobs))?;
        }
        Ok(())
    }

    /// The connection to the kernel has ended.
    pub(super) fn end(&self) {
        self.known.end();
        [&self.forgets, &self.pages, &self.listings].into_iter().for_each(|jobs| send(jobs, Job::End));
    }
}

fn send(jobs: &Sender<Job>, job: Job) {
    // The threads live as long as the senders, unless they never started: then there is no mount, and nothing is kept.
    if let Err(std::sync::mpsc::SendError(Job::Forget { forgotten: then, .. } | Job::Pages { then, .. })) =
        jobs.send(job)
    {
        then();
    }
}

/// The kernel's end of a connection.
trait Kernel: Send + Sync + 'static {
    /// All names, and all absences of names, that the kernel has or is about to take from replies to requests that it has
    /// sent already.
    fn inc_epoch(&self) -> Result<(), Errno>;

    /// Attributes of an object, and its pages from `offset` on, `len` bytes (all if 0), none if `offset` is negative. False if the kernel has no such inode.
    fn inval_inode(&self, object: ObjectId, offset: i64, len: i64) -> Result<bool, Errno>;

    /// Waits for the lock of a directory, if the kernel has it.
    fn pass(&self, directory: ObjectId) -> Result<(), Errno>;

    /// Has the inodes of these given back that nobody uses.
    fn prune(&self, objects: &[ObjectId]) -> Result<(), Errno>;
}

struct Worker<K> {
    /// None when the connection has ended.
    device: Option<Arc<K>>,
    known: Arc<Known>,
    /// Threads that wait for the locks of directories.
    passing: Arc<AtomicUsize>,
    /// For pages that others may hold.
    pages: Weak<Sender<Job>>,
    /// Objects without a name that the kernel was asked to give back, and has not.
    orphans: BTreeSet<ObjectId>,
}

impl<K: Kernel> Worker<K> {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = match self.orphans.is_empty() {
                true => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => jobs.recv_timeout(PRUNE_AGAIN),
            };
            match first {
                Ok(first) => {
                    let batch = std::iter::once(first).chain(jobs.try_iter().take(BATCH_MAX - 1)).collect();
                    self.work(batch);
                }
                Err(RecvTimeoutError::Timeout) => self.prune(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Has what lost its name given back. What somebody uses, it is asked for again later.
    fn prune(&mut self) {
        let known = &self.known;
        self.orphans.retain(|object| known.holds(*object));
        let Some(device) = &self.device else { return };
        for objects in self.orphans.iter().copied().collect::<Vec<_>>().chunks(PRUNE_MAX) {
            if let Err(errno) = unless_ended(device.prune(objects)) {
                tracing::error!(%errno, "the kernel does not give back what has no name any more");
            }
        }
    }

    fn work(&mut self, batch: Vec<Job>) {
        if batch.iter().any(|job| matches!(job, Job::End)) {
            self.device = None;
        }
        let names = |job: &Job| matches!(job, Job::Forget { kept, .. } if kept.contains(&Kept::Names));
        // All jobs of the batch came before this: one epoch is enough for them.
        let names = if batch.iter().any(names) { self.forget_names() } else { Ok(()) };
        let mut done = BTreeSet::new();
        for job in batch {
            match job {
                Job::Forget { kept, forgotten } => match self.forget(&kept, names, &mut done) {
                    Ok(()) => forgotten(),
                    // Not called: the node must not believe it. It lets its right run out instead.
                    Err(errno) => tracing::error!(%errno, "the kernel does not forget what it may no longer keep"),
                },
                Job::Pages { object, offset, len, then } => {
                    if self.known.is_written(object) {
                        let pages = self.pages.clone();
                        let again = move || drop_pages_soon(&pages, object, (offset, len), then);
                        self.known.behind_writes(object, again);
                        continue;
                    }
                    if let Err(errno) = self.drop_pages(object, offset, len) {
                        tracing::error!(%errno, %object, "the kernel does not drop pages that were written");
                    }
                    then();
                }
                Job::Prune(objects) => {
                    self.orphans.extend(objects);
                    self.prune();
                }
                Job::End => {}
            }
        }
    }

    fn forget(&self, kept: &[Kept], names: Result<(), Errno>, done: &mut BTreeSet<ObjectId>) -> Result<(), Errno> {
        let mut dropping = Vec::new();
        for kept in kept {
            match kept {
                Kept::Names => names?,
                Kept::Object(object) | Kept::Attributes(object) if done.contains(object) => {}
                Kept::Object(object) => {
                    dropping.extend(self.forget_all_of(*object)?);
                    done.insert(*object);
                }
                Kept::Attributes(object) => {
                    let pages = if self.known.take_listing(*object) { ALL_PAGES } else { NO_PAGES };
                    self.forget_object(*object, pages)?;
                }
            }
        }
        let deadline = Instant::now() + DROP_MAX;
        for (object, passing) in dropping {
            if !self.known.wait_for_drop(object, passing, deadline) {
                tracing::warn!(%object, "the kernel is slow to drop pages");
            }
        }
        Ok(())
    }

    fn forget_names(&self) -> Result<(), Errno> {
        match &self.device {
            Some(device) if self.known.keeps() => {
                self.known.arriving_listings().into_iter().for_each(|listing| self.settle(listing));
                unless_ended(device.inc_epoch())?;
                // Those that are not open are dropped with the next open.
                self.known.open_listings().into_iter().try_for_each(|open| self.forget_object(open, ALL_PAGES))
            }
            _ => Ok(()), // none were kept
        }
    }

    /// Attributes, and a listing. Bytes are dropped by the thread for that: see `known::passing`. Gives which, if there are any.
    fn forget_all_of(&self, object: ObjectId) -> Result<Option<(ObjectId, Passing)>, Errno> {
        if self.known.take_listing(object) {
            return self.forget_object(object, ALL_PAGES).map(|()| None);
        }
        let passing = self.known.begins_to_drop(object);
        let forgotten = self.forget_object(object, NO_PAGES);
        if let Some(passing) = passing {
            let known = self.known.clone();
            drop_pages_soon(&self.pages, object, (0, 0), Box::new(move || known.has_passed(object, passing)));
        }
        forgotten.map(|()| passing.map(|passing| (object, passing)))
    }

    fn forget_object(&self, object: ObjectId, pages_from: i64) -> Result<(), Errno> {
        let Some(device) = &self.device else { return Ok(()) };
        if let Some(arrival) = self.known.arriving(object) {
            self.settle(arrival);
        }
        for _ in 0..TRIES_MAX {
            // Looked at before: a kernel that has it then shows it now, or gives it back.
            let held = self.known.holds(object);
            if pages_from != NO_PAGES {
                self.known.wait_for_answers(object);
            }
            if unless_ended(device.inval_inode(object, pages_from, 0))? || !held {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        tracing::warn!(%object, "the kernel neither has this inode nor gives it back");
        self.known.give_up(object);
        Ok(())
    }

    /// Waits until the kernel has taken in a reply. Another thread asks for the lock of the directory meanwhile: who holds
    /// it may be waiting for an answer that waits for this one. (Then a request comes that says so, in nearly all cases.)
    fn settle(&self, arrival: Arrival) {
        let Some(device) = &self.device else { return };
        if self.known.has_taken_in(arrival) {
            return;
        }
        if self.passing.fetch_add(1, Ordering::SeqCst) < PASSING_MAX {
            let (device, known, passing) = (device.clone(), self.known.clone(), self.passing.clone());
            let pass = move || {
                let below = known.numbered();
                match unless_ended(device.pass(arrival.directory)) {
                    Ok(()) => known.took_in(arrival.directory, below),
                    Err(errno) => tracing::error!(%errno, "the kernel does not let its locks be waited for"),
                }
                passing.fetch_sub(1, Ordering::SeqCst);
            };
            if let Err(error) = std::thread::Builder::new().name("gavel-pass".into()).spawn(pass) {
                tracing::warn!(%error, "no thread to wait for a directory");
                self.passing.fetch_sub(1, Ordering::SeqCst);
            }
        } else {
            self.passing.fetch_sub(1, Ordering::SeqCst);
        }
        if !self.known.wait_for(arrival, Instant::now() + TAKE_IN_MAX) {
            tracing::warn!(object = %arrival.directory, "the kernel is slow to take in what is in this directory");
        }
    }

    fn drop_pages(&self, object: ObjectId, offset: u64, len: u64) -> Result<(), Errno> {
        let Some(device) = &self.device else { return Ok(()) };
        // To the end of the file for ranges that the kernel cannot say: lengths of 0 mean that.
        let (offset, len) = match (i64::try_from(offset), i64::try_from(len)) {
            (Ok(offset), Ok(len)) if offset.checked_add(len).is_some() => (offset, len),
            (Ok(offset), _) => (offset, 0),
            _ => (0, 0),
        };
        self.known.wait_for_answers(object);
        self.known.dropping(Some(object));
        let dropped = unless_ended(device.inval_inode(object, offset, len));
        self.known.dropping(None);
        dropped.map(|_| ())
    }
}

fn drop_pages_soon(pages: &Weak<Sender<Job>>, object: ObjectId, (offset, len): (u64, u64), then: Then) {
    match pages.upgrade() {
        Some(pages) => send(&pages, Job::Pages { object, offset, len, then }),
        None => then(),
    }
}

/// The end of a connection is as good as forgetting all.
fn unless_ended<T: Default>(result: Result<T, Errno>) -> Result<T, Errno> {
    match result {
        Err(Errno::NODEV | Errno::NOTCONN | Errno::PERM) => Ok(T::default()),
        result => result,
    }
}

impl Kernel for OwnedFd {
    fn inc_epoch(&self) -> Result<(), Errno> {
        notify(self, &header(HEADER_BYTES, NOTIFY_INC_EPOCH))
    }

    fn inval_inode(&self, object: ObjectId, offset: i64, len: i64) -> Result<bool, Errno> {
        let mut message = [0; INVAL_INODE_BYTES];
        message[..HEADER_BYTES].copy_from_slice(&header(INVAL_INODE_BYTES, NOTIFY_INVAL_INODE));
        message[16..24].copy_from_slice(&object.0.to_ne_bytes());
        message[24..32].copy_from_slice(&offset.to_ne_bytes());
        message[32..40].copy_from_slice(&len.to_ne_bytes());
        match notify(self, &message) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn prune(&self, objects: &[ObjectId]) -> Result<(), Errno> {
        notify(self, &prune_message(objects))
    }

    fn pass(&self, directory: ObjectId) -> Result<(), Errno> {
        match notify(self, &inval_entry(directory)) {
            // No such name, or no such directory any more: then nothing is under way in it.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

fn inval_entry(directory: ObjectId) -> [u8; INVAL_ENTRY_BYTES] {
    let mut message = [0; INVAL_ENTRY_BYTES];
    message[..HEADER_BYTES].copy_from_slice(&header(INVAL_ENTRY_BYTES, NOTIFY_INVAL_ENTRY));
    message[16..24].copy_from_slice(&directory.0.to_ne_bytes());
    message[24..28].copy_from_slice(&(NOWHERE.len() as u32 - 1).to_ne_bytes());
    message[28..32].copy_from_slice(&EXPIRE_ONLY.to_ne_bytes());
    message[32..].copy_from_slice(NOWHERE);
    message
}

fn prune_message(objects: &[ObjectId]) -> Vec<u8> {
    let bytes = HEADER_BYTES + PRUNE_HEAD_BYTES + size_of_val(objects);
    let mut message = header(bytes, NOTIFY_PRUNE).to_vec();
    message.extend((objects.len() as u32).to_ne_bytes());
    message.resize(HEADER_BYTES + PRUNE_HEAD_BYTES, 0);
    objects.iter().for_each(|object| message.extend(object.0.to_ne_bytes()));
    message
}

/// The head of a message that answers nothing: its length, which notification it is, and 0 for the request.
fn header(bytes: usize, code: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&(bytes as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&code.to_ne_bytes());
    header
}

fn notify(device: &OwnedFd, message: &[u8]) -> Result<(), Errno> {
    loop {
        match rustix::io::write(device, message) {
            Err(Errno::INTR) => {}
            result => return result.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn without_a_kernel_everything_is_forgotten_on_the_forgetting_thread() {
        let (forgetter, jobs) = Forgetter::new();
        let (sender, told) = channel();
        let nowhere = rustix::fs::open("/dev/null", rustix::fs::OFlags::WRONLY, rustix::fs::Mode::empty());
        forgetter.start(jobs, nowhere.expect("opens"), false).expect("starts");
        forgetter.end();
        for kept in [vec![Kept::Names], vec![Kept::Object(ObjectId(20)), Kept::Names], Vec::new()] {
            let sender = sender.clone();
            forgetter.forget(kept, Box::new(move || sender.send(std::thread::current().id()).expect("is heard")));
            let by = told.recv_timeout(Duration::from_secs(10)).expect("is forgotten");
            assert_ne!(by, std::thread::current().id());
        }
        assert!(!forgetter.known().keeps());
    }

    const FILE: ObjectId = ObjectId(20);

    /// A kernel that has some inodes, and notes what it is told. All directories have one lock.
    #[derive(Clone, Default)]
    struct Noted(Arc<Mutex<(BTreeSet<ObjectId>, Vec<String>)>>, Arc<Mutex<()>>);

    impl Kernel for Noted {
        fn inc_epoch(&self) -> Result<(), Errno> {
            self.0.lock().1.push("epoch".into());
            Ok(())
        }

        fn inval_inode(&self, object: ObjectId, offset: i64, len: i64) -> Result<bool, Errno> {
            let mut noted = self.0.lock();
            noted.1.push(format!("{} {offset}+{len}", object.0));
            Ok(noted.0.contains(&object))
        }

        fn pass(&self, directory: ObjectId) -> Result<(), Errno> {
            self.0.lock().1.push(format!("pass {}", directory.0));
            drop(self.1.lock());
            Ok(())
        }

        fn prune(&self, objects: &[ObjectId]) -> Result<(), Errno> {
            self.0.lock().1.push(format!("prune {}", objects.len()));
            Ok(())
        }
    }

    fn worker() -> (Worker<Noted>, Noted) {
        let noted = Noted::default();
        let known = Arc::new(Known::new());
        known.allow();
        let device = Some(Arc::new(noted.clone()));
        (Worker { device, known, passing: Arc::default(), pages: Weak::new(), orphans: BTreeSet::new() }, noted)
    }

    #[test]
    fn what_is_wanted_often_is_done_once() {
        let (mut worker, noted) = worker();
        let (sender, told) = channel();
        let job = |kept: &[Kept]| {
            let sender = sender.clone();
            Job::Forget { kept: kept.into(), forgotten: Box::new(move || sender.send(()).expect("is heard")) }
        };
        let file = || Kept::Object(FILE);
        let attributes = || Kept::Attributes(FILE);
        worker.work(vec![job(&[attributes()]), job(&[file()]), job(&[Kept::Names, file(), attributes()]), job(&[])]);
        assert_eq!(noted.0.lock().1, ["epoch", "20 -1+0", "20 -1+0"]);
        assert_eq!(told.try_iter().count(), 4);
    }

    #[test]
    fn an_inode_that_a_reply_is_bringing_is_waited_for() {
        for brought in [true, false] {
            let (worker, noted) = worker();
            worker.known.looked_up(FILE, worker.known.moment());
            let known = worker.known.clone();
            std::thread::scope(|scope| {
                let forgetting = scope.spawn(|| worker.forget_object(FILE, ALL_PAGES));
                while noted.0.lock().1.len() < 3 {
                    std::thread::yield_now();
                }
                assert!(!forgetting.is_finished(), "the reply may still bring what is to be forgotten");
                match brought {
                    true => drop(noted.0.lock().0.insert(FILE)),
                    false => known.dropped(FILE, 1),
                }
                assert_eq!(forgetting.join().expect("ends"), Ok(()));
            });
            assert_eq!(known.holds(FILE), brought);
        }
    }

    #[test]
    fn what_is_still_to_be_taken_in_is_waited_for_before_it_is_forgotten() {
        const DIRECTORY: ObjectId = ObjectId(30);
        let (mut worker, noted) = worker();
        noted.0.lock().0.extend([FILE, DIRECTORY]);
        let known = worker.known.clone();
        known.looked_up(DIRECTORY, known.moment());
        let mut forget = |kept: Kept| {
            worker.work(vec![Job::Forget { kept: vec![kept], forgotten: Box::new(|| ()) }]);
            std::mem::take(&mut noted.0.lock().1)
        };
        assert!(known.made(FILE, DIRECTORY, known.moment()));
        assert_eq!(forget(Kept::Attributes(FILE)), ["pass 30", "20 -1+0"]);
        assert_eq!(forget(Kept::Object(FILE)), ["20 -1+0"], "once is enough");
        known.made(FILE, DIRECTORY, known.moment());
        known.changing(DIRECTORY);
        assert_eq!(forget(Kept::Object(FILE)), ["20 -1+0"], "a request has come that shows it");
        assert!(known.lists(7, DIRECTORY, known.moment()));
        assert_eq!(forget(Kept::Names), ["pass 30", "epoch"]);
        known.lists(7, DIRECTORY, known.moment());
        known.lists_on(7);
        assert_eq!(forget(Kept::Names), ["epoch"], "the program has gone on");
    }

    #[test]
    fn who_has_locked_the_directory_and_waits_is_not_waited_for() {
        const DIRECTORY: ObjectId = ObjectId(30);
        let (worker, noted) = worker();
        noted.0.lock().0.insert(FILE);
        let known = worker.known.clone();
        known.looked_up(DIRECTORY, known.moment());
        known.made(FILE, DIRECTORY, known.moment());
        let locked = noted.1.lock();
        std::thread::scope(|scope| {
            let forgetting = scope.spawn(|| worker.forget_object(FILE, ALL_PAGES));
            while !noted.0.lock().1.contains(&"pass 30".into()) {
                std::thread::yield_now();
            }
            assert!(!forgetting.is_finished());
            known.changing(DIRECTORY);
            assert_eq!(forgetting.join().expect("ends"), Ok(()));
        });
        drop(locked);
    }

    #[test]
    fn no_forgetting_waits_for_pages_that_a_write_may_hold() {
        const DIRECTORY: ObjectId = ObjectId(30);
        let (mut worker, noted) = worker();
        let (pages, jobs) = channel();
        let pages = Arc::new(pages);
        worker.pages = Arc::downgrade(&pages);
        noted.0.lock().0.extend([FILE, DIRECTORY]);
        let known = worker.known.clone();
        [FILE, DIRECTORY].into_iter().for_each(|object| _ = known.looked_up(object, known.moment()));
        known.open_listing(DIRECTORY, 1);
        let mut work = |job: Job| {
            worker.work(vec![job]);
            std::mem::take(&mut noted.0.lock().1)
        };
        let forget = |object| Job::Forget { kept: vec![Kept::Object(object)], forgotten: Box::new(|| ()) };
        let told = |told: &[&str]| told.iter().map(|told| told.to_string()).collect::<Vec<_>>();
        assert_eq!(work(forget(FILE)), told(&["20 -1+0"]), "there are no pages");
        known.begins_to_write(FILE);
        assert_eq!(work(forget(FILE)), told(&["20 -1+0"]));
        assert!(known.is_unvouched(FILE), "who asks for attributes waits");
        assert_eq!(work(jobs.try_recv().expect("pages are to be dropped")), told(&[]), "behind the write");
        assert!(jobs.try_recv().is_err() && known.is_unvouched(FILE));
        known.has_written(FILE);
        assert_eq!(work(jobs.try_recv().expect("the write has ended")), told(&["20 0+0"]));
        assert!(!known.is_unvouched(FILE));
        assert_eq!(work(forget(FILE)), told(&["20 -1+0"]), "they are dropped");
        assert_eq!(work(forget(DIRECTORY)), told(&["30 0+0"]), "nobody is asked before a listing is used");
        assert!(jobs.try_recv().is_err());
    }

    #[test]
    fn ranges_that_the_kernel_cannot_say_reach_to_the_end() {
        let (worker, noted) = worker();
        for (offset, len) in [(5, 7), (u64::MAX, 1), (5, u64::MAX), (i64::MAX as u64, 1)] {
            worker.drop_pages(FILE, offset, len).expect("is told");
        }
        assert_eq!(noted.0.lock().1, ["20 5+7", "20 0+0", "20 5+0", "20 9223372036854775807+0"]);
    }

    #[test]
    fn messages_are_laid_out_as_the_kernel_reads_them() {
        let header = header(HEADER_BYTES, NOTIFY_INC_EPOCH);
        assert_eq!(header[..4], 16u32.to_ne_bytes());
        assert_eq!(header[4..8], 8i32.to_ne_bytes());
        assert_eq!(header[8..], [0; 8]);
        let entry = inval_entry(FILE);
        assert_eq!((&entry[..4], &entry[4..8]), (&34u32.to_ne_bytes()[..], &3u32.to_ne_bytes()[..]));
        assert_eq!((&entry[16..24], &entry[32..]), (&20u64.to_ne_bytes()[..], &b"\x01\0"[..]));
        assert_eq!((&entry[24..28], &entry[28..32]), (&1u32.to_ne_bytes()[..], &1u32.to_ne_bytes()[..]));
    }
}
