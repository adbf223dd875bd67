//! What the kernel may know: inodes, and pages of files.
//!
//! The kernel answers "forget this inode" with "I do not have it", and may still be about to take it from a reply that
//! it has not looked at yet. Its own count of look-ups settles that: each reply that brings an inode is counted before it is
//! written, and taken back when the kernel says that it has dropped the inode. What is not counted is nowhere.

mod arrivals;
mod passing;
mod streams;

pub(super) use arrivals::Arrival;
pub(super) use passing::Passing;

use arrivals::{Made, ReplyNo};
use gavel_client::tree::{Kept, Tree};
use gavel_types::ObjectId;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Replies about different objects seldom meet in one of these.
const SHARDS: usize = 64;

/// Inodes by object. Grows and shrinks with the kernel's own cache of inodes, and takes a tenth of its room.
pub(super) struct Known {
    /// How often something had to be forgotten.
    forgets: AtomicU64,
    /// May names and attributes be kept at all? Not before the kernel has shown how it forgets them.
    keeps: AtomicBool,
    /// The connection has ended: the kernel keeps nothing.
    ended: AtomicBool,
    /// Replies that were numbered: see `arrivals`.
    replies: AtomicU64,
    /// The latest listing of each open directory, by its handle, until the kernel has taken it in for sure.
    listings: Mutex<BTreeMap<u64, Arrival>>,
    /// How often names had to be forgotten.
    names_forgotten: AtomicU64,
    /// Directories that are open so that the kernel keeps what they list, by their handles.
    streams: Mutex<BTreeMap<u64, ObjectId>>,
    /// Whose pages are being dropped.
    dropping: Mutex<Option<ObjectId>>,
    /// Who is told that what the kernel has may be open, where the kernel does not say what is.
    opens: OnceLock<Arc<dyn Tree>>,
    shards: [Mutex<BTreeMap<ObjectId, Inode>>; SHARDS],
    /// A request that was to be waited for was answered, or the connection has ended.
    released: [Condvar; SHARDS],
}

#[derive(Default)]
struct Inode {
    /// Replies that brought it, less those that the kernel has given back.
    lookups: u64,
    /// Requests under way during which the kernel holds locks of its pages.
    holding: u64,
    /// The tree was told that it is open, because the kernel has it.
    open: bool,
    /// The kernel may have bytes of it: some were asked for, or written through pages, since they were dropped.
    has_bytes: bool,
    pages: Pages,
    /// Bytes on their way that nobody vouches for.
    unvouched: Option<Box<passing::Unvouched>>,
    /// Writes under way that may hold a page, and what is to be done behind them.
    writing: Option<Box<passing::Writing>>,
    /// The last reply that made it, or a name of it, until the kernel has taken that in for sure.
    made: Option<Made>,
    /// As a directory: replies about what is in it with smaller numbers were taken in.
    taken_in: ReplyNo,
    /// As a directory: what the kernel has of its listing, if that is good.
    listing: Option<streams::Good>,
    /// As a directory: the kernel may have a listing, good or not.
    has_listing: bool,
}

/// What the kernel has of a file's bytes because it was opened so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Pages {
    /// Nothing (mappings aside, which have the pages that they touch however the file is open).
    #[default]
    Uncached,
    /// Pages that may be kept.
    Kept,
    /// They had to be forgotten since. A file that is open since before still brings new ones, which nobody vouches for.
    Revoked,
}

/// A moment in the row of forgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moment(u64);

impl Known {
    pub(super) fn new() -> Known {
        let known = Known {
            forgets: AtomicU64::new(0),
            keeps: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            replies: AtomicU64::new(0),
            listings: Mutex::default(),
            names_forgotten: AtomicU64::new(0),
            streams: Mutex::default(),
            dropping: Mutex::default(),
            opens: OnceLock::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            released: std::array::from_fn(|_| Condvar::new()),
        };
        // The kernel has it without being told, and never gives it back.
        known.looked_up(ObjectId::ROOT, known.moment());
        known
    }

    /// Now. Taken before a request is given to the tree.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.forgets.load(Ordering::SeqCst))
    }

    /// Has nothing had to be forgotten since?
    fn undisturbed(&self, since: Moment) -> bool {
        self.moment() == since
    }

    /// May names and attributes be kept?
    pub(super) fn keeps(&self) -> bool {
        self.keeps.load(Ordering::SeqCst)
    }

    /// They may: the kernel can forget them.
    pub(super) fn allow(&self) {
        self.keeps.store(true, Ordering::SeqCst);
    }

    /// A reply that brings the object is about to be written. True if the attributes in it may be kept.
    pub(super) fn looked_up(&self, object: ObjectId, since: Moment) -> bool {
        let mut shard = self.shard(object).lock();
        let inode = shard.entry(object).or_default();
        self.count(object, inode);
        let vouched = inode.unvouched.is_none();
        drop(shard);
        // Counted first: who forgets after this look sees the count, and waits for the inode to appear. What was
        // forgotten before it may be older than the answer, or not: no matter, it is not kept.
        self.undisturbed(since) && vouched
    }

    /// From now on `tree` is told that an object is open for as long as the kernel has it: the kernel opens files without asking.
    pub(super) fn count_as_open(&self, tree: Arc<dyn Tree>) {
        // It is agreed on once.
        let _ = self.opens.set(tree);
    }

    /// Is it?
    pub(super) fn counts_as_open(&self) -> bool {
        self.opens.get().is_some()
    }

    /// One more look-up of the object.
    fn count(&self, object: ObjectId, inode: &mut Inode) {
        inode.lookups += 1;
        if let Some(tree) = self.opens.get().filter(|_| !inode.open && !self.ended()) {
            inode.open = true;
            tree.opened(object);
        }
    }

    /// The kernel does not have the object any more, and so cannot have it open.
    fn is_gone(&self, object: ObjectId, inode: &mut Inode) {
        if let Some(tree) = self.opens.get().filter(|_| std::mem::take(&mut inode.open)) {
            tree.closed(object);
        }
    }

    /// The kernel gives `lookups` of them back.
    pub(super) fn dropped(&self, object: ObjectId, lookups: u64) {
        let mut shard = self.shard(object).lock();
        if let Some(inode) = shard.get_mut(&object) {
            inode.lookups = inode.lookups.saturating_sub(lookups);
            if inode.lookups == 0 {
                self.is_gone(object, inode);
            }
            if inode.is_unused() {
                shard.remove(&object);
            }
        }
    }

    /// Bytes are asked for: until the answer the kernel holds the locks of their pages.
    pub(super) fn hold(&self, object: ObjectId) {
        let mut shard = self.shard(object).lock();
        let inode = shard.entry(object).or_default();
        inode.holding += 1;
        inode.has_bytes = true;
    }

    /// It was answered.
    pub(super) fn release(&self, object: ObjectId) {
        let mut shard = self.shard(object).lock();
        if let Some(inode) = shard.get_mut(&object) {
            inode.holding = inode.holding.saturating_sub(1);
            if inode.is_unused() {
                shard.remove(&object);
            }
        }
        self.released[place(object)].notify_all();
    }

    /// Waits until no such request is under way. The kernel would wait for them as well, but there a process that is killed
    /// meanwhile could not end, nor its mount.
    pub(super) fn wait_for_answers(&self, object: ObjectId) {
        let mut shard = self.shard(object).lock();
        while !self.ended() && shard.get(&object).is_some_and(|inode| inode.holding > 0) {
            self.released[place(object)].wait(&mut shard);
        }
    }

    /// Can the kernel have the object, or come to have it from a reply that is written?
    pub(super) fn holds(&self, object: ObjectId) -> bool {
        !self.ended() && self.shard(object).lock().get(&object).is_some_and(|inode| inode.lookups > 0)
    }

    /// Gives the object up as one that the kernel never came to have.
    pub(super) fn give_up(&self, object: ObjectId) {
        if let Some(inode) = self.shard(object).lock().get_mut(&object) {
            inode.lookups = 0;
            self.is_gone(object, inode);
        }
    }

    /// The object is being opened by who was told that bytes may be kept. If they may: are those that the kernel has
    /// kept already still good? They are not if they came in while nobody vouched for them.
    pub(super) fn open_cached(&self, object: ObjectId, since: Moment) -> Option<bool> {
        let mut shard = self.shard(object).lock();
        let inode = shard.get_mut(&object)?;
        // Under the lock: a forget that this does not see comes to the lock behind it, and revokes.
        self.undisturbed(since).then(|| std::mem::replace(&mut inode.pages, Pages::Kept) == Pages::Kept)
    }

    pub(super) fn pages(&self, object: ObjectId) -> Pages {
        self.shard(object).lock().get(&object).map_or(Pages::Uncached, |inode| inode.pages)
    }

    /// These have to be forgotten: answers that are under way bring no more of them.
    pub(super) fn forget(&self, kept: &[Kept]) {
        self.forgets.fetch_add(1, Ordering::SeqCst);
        for kept in kept {
            let (Kept::Object(object) | Kept::Attributes(object)) = kept else {
                self.names_forgotten.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            if let Some(inode) = self.shard(*object).lock().get_mut(object) {
                inode.listing = None;
                if inode.pages == Pages::Kept && matches!(kept, Kept::Object(_)) {
                    inode.pages = Pages::Revoked;
                }
            }
        }
    }

    /// The connection to the kernel has ended.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        for (shard, released) in self.shards.iter().zip(&self.released) {
            // Who is about to wait has looked at `ended` under this lock.
            let mut shard = shard.lock();
            let mut waiting = Vec::new();
            for (object, inode) in shard.iter_mut() {
                self.is_gone(*object, inode);
                waiting.push((inode.unvouched.take(), inode.writing.take()));
            }
            drop(shard);
            // What waits there may have the last hold on all of this.
            drop(waiting);
            released.notify_all();
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    fn shard(&self, object: ObjectId) -> &Mutex<BTreeMap<ObjectId, Inode>> {
        &self.shards[place(object)]
    }
}

impl Inode {
    fn is_unused(&self) -> bool {
        self.lookups == 0 && self.holding == 0 && self.unvouched.is_none() && self.writing.is_none()
    }
}

/// The object's shard. Objects made together have neighbouring numbers.
fn place(object: ObjectId) -> usize {
    (object.0 % SHARDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: ObjectId = ObjectId(20);

    #[test]
    fn an_answer_that_was_under_way_when_something_was_forgotten_keeps_nothing() {
        let known = Known::new();
        let before = known.moment();
        assert!(known.looked_up(FILE, before));
        known.forget(&[Kept::Names]);
        assert!(!known.looked_up(FILE, before));
        assert_eq!(known.open_cached(FILE, before), None);
        assert_eq!(known.pages(FILE), Pages::Uncached);
        assert!(known.looked_up(FILE, known.moment()));
    }

    #[test]
    fn an_inode_is_held_until_the_kernel_has_given_every_look_up_back() {
        let known = Known::new();
        assert!(!known.holds(FILE));
        for _ in 0..3 {
            known.looked_up(FILE, known.moment());
        }
        known.dropped(FILE, 2);
        assert!(known.holds(FILE));
        known.dropped(FILE, 1);
        assert!(!known.holds(FILE));
        known.dropped(ObjectId(21), 1); // never counted
        known.looked_up(FILE, known.moment());
        known.end();
        assert!(!known.holds(FILE), "a kernel that is gone holds nothing");
    }

    /// A tree that notes what it is told is open.
    #[derive(Default)]
    struct Told(Mutex<Vec<(u64, bool)>>);

    impl Tree for Told {
        fn attach(&self, _: std::sync::Weak<dyn gavel_client::tree::Forget>) {}

        fn volume(&self) -> gavel_types::VolumeId {
            unreachable!("nobody asks")
        }

        fn submit(
            &self,
            _: gavel_fs::operation::Caller,
            _: gavel_client::tree::TreeRequest,
            _: gavel_client::tree::Answered,
        ) {
            unreachable!("nobody asks")
        }

        fn opened(&self, object: ObjectId) {
            self.0.lock().push((object.0, true));
        }

        fn closed(&self, object: ObjectId) {
            self.0.lock().push((object.0, false));
        }
    }

    #[test]
    fn where_the_kernel_opens_unasked_an_object_is_open_for_as_long_as_it_is_known() {
        let (known, told) = (Known::new(), Arc::new(Told::default()));
        known.count_as_open(told.clone());
        let news = || std::mem::take(&mut *told.0.lock());
        known.looked_up(FILE, known.moment());
        known.made(FILE, ObjectId::ROOT, known.moment());
        assert_eq!(news(), [(20, true)], "once");
        known.dropped(FILE, 1);
        assert_eq!(news(), []);
        known.hold(FILE);
        known.dropped(FILE, 1);
        assert_eq!(news(), [(20, false)], "whatever is under way");
        known.release(FILE);
        known.looked_up(FILE, known.moment());
        known.give_up(FILE);
        known.looked_up(ObjectId(21), known.moment());
        assert_eq!(news(), [(20, true), (20, false), (21, true)]);
        known.end();
        known.end();
        known.looked_up(FILE, known.moment());
        assert_eq!(news(), [(21, false)], "a connection that has ended has nothing open");
    }

    #[test]
    fn what_was_made_is_taken_in_when_a_request_shows_it() {
        const DIRECTORY: ObjectId = ObjectId(30);
        let known = Known::new();
        known.looked_up(DIRECTORY, known.moment());
        known.made(FILE, DIRECTORY, known.moment());
        assert!(known.arriving(FILE).is_some());
        known.named(FILE);
        assert!(known.arriving(FILE).is_none(), "nothing else has brought it");
        known.made(FILE, DIRECTORY, known.moment());
        known.named(FILE);
        let arrival = known.arriving(FILE).expect("it may be known by its other name");
        known.took_in(DIRECTORY, known.numbered());
        assert!(known.arriving(FILE).is_none() && known.has_taken_in(arrival));
        let before = known.moment();
        known.forget(&[Kept::Names]);
        assert!(!known.made(FILE, DIRECTORY, before) && !known.lists(1, DIRECTORY, before));
        known.dropped(DIRECTORY, 1);
        assert!(known.arriving(FILE).is_none(), "a kernel that has given the directory back does nothing in it");
    }

    #[test]
    fn a_listing_is_kept_if_all_of_it_may_be() {
        const DIRECTORY: ObjectId = ObjectId(30);
        const LONG: std::time::Duration = std::time::Duration::from_secs(1000);
        let known = Known::new();
        known.looked_up(DIRECTORY, known.moment());
        assert_eq!(known.open_listing(DIRECTORY, 1), None, "the kernel cannot forget yet");
        known.allow();
        let forgets = [&[Kept::Object(DIRECTORY)], &[Kept::Attributes(DIRECTORY)], &[Kept::Names]];
        for (handle, forget) in (1..).zip(forgets) {
            let since = known.moment();
            assert_eq!(known.open_listing(DIRECTORY, handle), Some(false), "what is there is dropped");
            known.listed(DIRECTORY, since, LONG);
            assert!(known.may_complete(DIRECTORY, handle));
            assert_eq!(known.open_listing(DIRECTORY, 10 + handle), Some(true));
            known.forget(forget);
            assert!(!known.may_complete(DIRECTORY, handle) && known.take_listing(DIRECTORY));
            known.listed(DIRECTORY, since, LONG);
            assert!(!known.may_complete(DIRECTORY, handle), "an answer from before");
        }
        known.open_listing(DIRECTORY, 20);
        known.listed(DIRECTORY, known.moment(), std::time::Duration::ZERO);
        assert!(!known.may_complete(DIRECTORY, 20), "a part of it may not be kept");
        known.close_listing(20);
        assert!(known.may_complete(DIRECTORY, 20), "the kernel keeps nothing of it");
        known.lists(21, DIRECTORY, known.moment());
        assert_eq!(known.open_listing(DIRECTORY, 22), None, "another's reply may come in behind it");
        known.lists_on(21);
        assert_eq!(known.open_listing(DIRECTORY, 22), Some(false));
    }

    #[test]
    fn requests_under_way_are_waited_for() {
        let known = Known::new();
        known.hold(FILE);
        known.hold(FILE);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| known.wait_for_answers(FILE));
            known.release(FILE);
            assert!(!waiting.is_finished());
            known.release(FILE);
            waiting.join().expect("ends");
            known.hold(FILE);
            let waiting = scope.spawn(|| known.wait_for_answers(FILE));
            known.end();
            waiting.join().expect("ends with the connection");
        });
        assert!(!known.holds(FILE), "only look-ups bring inodes");
    }

    #[test]
    fn kept_pages_are_good_until_they_are_revoked() {
        let known = Known::new();
        assert_eq!(known.open_cached(FILE, known.moment()), None, "not an inode of the kernel's");
        known.looked_up(FILE, known.moment());
        assert_eq!(known.open_cached(FILE, known.moment()), Some(false), "a mapping may have left some");
        assert_eq!(known.open_cached(FILE, known.moment()), Some(true));
        known.forget(&[Kept::Object(FILE)]);
        assert_eq!(known.pages(FILE), Pages::Revoked);
        assert_eq!(known.open_cached(FILE, known.moment()), Some(false));
        assert_eq!(known.pages(FILE), Pages::Kept);
    }
}
