//! Directories, page by page.
//!
//! A directory offset is the cookie of the name before it: it stays valid for ever and on every node, so nothing is remembered of an
//! open directory but what the kernel may still have to take in (`known::arrivals`). `.` has offset 1 and `..` offset 2.
//!
//! Names with the same cookie: a reply that ends between two of them would lose the rest, because going on behind the
//! cookie skips it. All but the last of such names carry the offset just before their cookie, so that going on there
//! lists them again: a name twice (once in 2^63 names) instead of never.

use super::keeping::{self, NO_TIME};
use super::known::Moment;
use super::past::Node;
use super::replies::GENERATION;
use super::{Door, Front, caller};
use crate::attr::{bare_directory, file_attr, file_type, inode};
use crate::errno;
use fuser::{Errno, FileAttr, FileHandle, INodeNo, ReplyDirectory, ReplyDirectoryPlus, Request};
use gavel_client::tree::{Answer, Keep, TreeRequest};
use gavel_fs::operation::{Caller, Listed};
use gavel_fs::{Operation, Reply};
use gavel_types::{Cookie, ObjectId};
use gavel_wire::Attr;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const OFFSET_START: u64 = 0;
const OFFSET_SELF: u64 = 1;
const OFFSET_PARENT: u64 = 2;
const _: () = assert!(OFFSET_PARENT < Cookie::FIRST.0);

/// Most names that are asked for at a time.
const PAGE_NAMES_MAX: u32 = 1024;
const PAGE_NAMES_MIN: u32 = 16;

/// How many names to ask for. fuser does not tell how large the kernel's buffer is (4 KiB before 6.13 or so, what the
/// program gave since), so this follows what fitted lately. All listings of a mount share it; a race costs some names
/// read in vain.
#[derive(Debug)]
pub(super) struct PageSize(AtomicU32);

impl PageSize {
    /// 4 KiB hold 128 short names.
    pub(super) fn names() -> PageSize {
        PageSize(AtomicU32::new(128))
    }

    /// 4 KiB hold 25 short names with attributes.
    pub(super) fn names_with_attributes() -> PageSize {
        PageSize(AtomicU32::new(32))
    }

    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn learn(&self, fitted: usize, full: bool, more: bool) {
        let fitted = u32::try_from(fitted).unwrap_or(PAGE_NAMES_MAX);
        let wanted = match (full, more) {
            (true, _) => fitted.saturating_add(fitted / 4),
            (false, true) => fitted.saturating_mul(2),
            (false, false) => return,
        };
        self.0.store(wanted.clamp(PAGE_NAMES_MIN, PAGE_NAMES_MAX), Ordering::Relaxed);
    }
}

/// An open directory, and where its listing goes on.
#[derive(Clone)]
struct Place {
    directory: Node,
    handle: u64,
    offset: u64,
}

/// What a page lists, and for how long the kernel may keep it.
struct Keeping<'a> {
    door: &'a Door,
    directory: &'a Node,
    since: Moment,
    time: Duration,
}

impl Keeping<'_> {
    /// A name with its attributes is about to be told: the kernel counts it as a look-up. Gives the node id, and for how long both may be kept.
    fn bring(&self, object: ObjectId) -> (INodeNo, Duration) {
        match self.directory {
            Node::Live(_) if self.door.known().looked_up(object, self.since) => (inode(object), self.time),
            Node::Live(_) => (inode(object), NO_TIME),
            Node::Past(directory) => (self.door.past.looked_up(&directory.with(object)), self.time),
        }
    }
}

/// A reply that takes names until it is full.
trait Page: Send + 'static {
    /// Adds a directory of which only the inode number matters; true if it did not fit.
    fn add_directory(&mut self, ino: INodeNo, offset: u64, name: &str) -> bool;
    /// Adds a name with its attributes, as far as they were asked for; true if it did not fit.
    fn add_name(&mut self, keeping: &Keeping, name: &Listed, attr: Option<&Attr>, offset: u64) -> bool;
    fn send(self);
    fn refuse(self, errno: Errno);
    /// Are attributes asked for?
    const PLUS: bool;
}

impl Page for ReplyDirectory {
    const PLUS: bool = false;

    fn add_directory(&mut self, ino: INodeNo, offset: u64, name: &str) -> bool {
        self.add(ino, offset, fuser::FileType::Directory, name)
    }

    fn add_name(&mut self, keeping: &Keeping, name: &Listed, _: Option<&Attr>, offset: u64) -> bool {
        self.add(keeping.directory.ino_of(name.object), offset, file_type(name.kind), OsStr::from_bytes(&name.name))
    }

    fn send(self) {
        self.ok();
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Page for ReplyDirectoryPlus {
    const PLUS: bool = true;

    fn add_directory(&mut self, ino: INodeNo, offset: u64, name: &str) -> bool {
        // The kernel takes nothing of it but the inode number.
        self.add(ino, offset, name, &NO_TIME, &bare_directory(ino), GENERATION)
    }

    fn add_name(&mut self, keeping: &Keeping, name: &Listed, attr: Option<&Attr>, offset: u64) -> bool {
        let Some(attr) = attr else { return false }; // it vanished: it is no longer a name of this directory
        let attr: FileAttr = file_attr(keeping.directory.ino_of(name.object), attr);
        let (node, time) = keeping.bring(name.object);
        let full = self.add(node, offset, OsStr::from_bytes(&name.name), &time, &attr, GENERATION);
        if full {
            keeping.door.dropped(node, 1);
        }
        full
    }

    fn send(self) {
        self.ok();
    }

    fn refuse(self, errno: Errno) {
        self.error(errno);
    }
}

impl Front {
    pub(super) fn list(&self, req: &Request, open: (INodeNo, FileHandle), offset: u64, reply: ReplyDirectory) {
        self.list_page(req, open, offset, reply);
    }

    pub(super) fn list_plus(&self, req: &Request, open: (INodeNo, FileHandle), offset: u64, reply: ReplyDirectoryPlus) {
        self.list_page(req, open, offset, reply);
    }

    fn list_page<P: Page>(&self, req: &Request, (ino, handle): (INodeNo, FileHandle), offset: u64, reply: P) {
        self.door.known().lists_on(handle.0);
        let place = Place { directory: self.node(ino), handle: handle.0, offset };
        list(self.door.clone(), caller(req), place, reply);
    }
}

fn list<P: Page>(door: Arc<Door>, caller: Caller, place: Place, reply: P) {
    let limit = if P::PLUS { door.page_plus.get() } else { door.page.get() };
    let (object, after) = (place.directory.object(), Cookie(place.offset.max(OFFSET_PARENT)));
    let request = place.directory.request(if P::PLUS {
        TreeRequest::ReaddirPlus { object, after, limit }
    } else {
        TreeRequest::Operation(Operation::Readdir { object, after, limit })
    });
    let next = door.clone();
    let since = door.known().moment();
    door.start(caller, request, 0, move |answered| match answered {
        Ok(answer) => fill(next, caller, place, since, reply, answer),
        Err(errno) if errno == errno::stale() => refuse_stale(&next, caller, &place.directory, reply),
        Err(errno) => reply.refuse(errno),
    });
}

/// A directory that was removed lists as on a local filesystem. Programs take that for the end of the listing: so not if its state was pruned, and not if
/// the whole volume is gone, of which no name may seem to be left.
fn refuse_stale<P: Page>(door: &Arc<Door>, caller: Caller, directory: &Node, reply: P) {
    match directory {
        Node::Past(_) => reply.refuse(errno::stale()),
        Node::Live(_) => {
            let root = TreeRequest::Operation(Operation::Getattr { object: ObjectId::ROOT });
            door.start(caller, root, 0, move |answered| {
                reply.refuse(answered.map_or_else(|errno| errno, |_| errno::DIRECTORY_GONE));
            });
        }
    }
}

fn fill<P: Page>(door: Arc<Door>, caller: Caller, place: Place, since: Moment, mut reply: P, answer: Answer) {
    let Place { directory, handle, offset } = place.clone();
    let Reply::Listing { names, parent, end } = answer.reply else {
        tracing::error!(reply = ?answer.reply, "the tree gave an answer to another question");
        return reply.refuse(errno::NOT_AN_ANSWER);
    };
    let time = match directory {
        Node::Live(directory) => lists(&door, directory, handle, since, answer.keep),
        Node::Past(_) => keeping::past(answer.keep.names_ns.min(answer.keep.attrs_ns)),
    };
    let keeping = Keeping { door: &door, directory: &directory, since, time };
    let mut added = 0;
    let mut full = false;
    if offset == OFFSET_START {
        full = reply.add_directory(directory.ino(), OFFSET_SELF, ".");
        added += usize::from(!full);
    }
    if offset < OFFSET_PARENT && !full {
        full = reply.add_directory(directory.ino_of(parent), OFFSET_PARENT, "..");
        added += usize::from(!full);
    }
    let dots = added;
    for (i, name) in names.iter().enumerate() {
        let attr = answer.listed.get(i).and_then(Option::as_ref);
        full = full || reply.add_name(&keeping, name, attr, offset_behind(&names, i));
        if full {
            break;
        }
        added += usize::from(!P::PLUS || attr.is_some());
    }
    let page = if P::PLUS { &door.page_plus } else { &door.page };
    page.learn(added - dots, full, !end);
    match names.last() {
        // An empty reply says "this is the end": a page of which every name has vanished does not mean that.
        Some(last) if added == 0 && !full && !end => {
            list(door.clone(), caller, Place { offset: last.cookie.0, ..place }, reply);
        }
        _ if added == 0 && full => reply.refuse(errno::INVALID),
        _ if added == 0 => complete(&door, &directory, handle, reply),
        _ => reply.send(),
    }
}

/// Names of a live directory are about to be told. Gives for how long they and their attributes may be kept.
fn lists(door: &Door, directory: ObjectId, handle: u64, since: Moment, keep: Keep) -> Duration {
    let known = door.known();
    let undisturbed = known.lists(handle, directory, since);
    known.listed(directory, since, keeping::names(known, keep));
    if undisturbed { keeping::both(known, keep) } else { NO_TIME }
}

/// Tells that this was all. What came before has been taken in, for the program has asked for more; and this brings nothing.
fn complete<P: Page>(door: &Door, directory: &Node, handle: u64, reply: P) {
    let Node::Live(directory) = directory else { return reply.send() };
    door.known().lists_on(handle);
    match door.known().may_complete(*directory, handle) {
        true => reply.send(),
        false => door.forgetter.drop_listing(*directory, Box::new(move || reply.send())),
    }
}

/// Where listing goes on behind the name at `i`; see the module on names with the same cookie.
fn offset_behind(names: &[Listed], i: usize) -> u64 {
    let cookie = names[i].cookie.0;
    match names.get(i + 1) {
        Some(next) if next.cookie.0 == cookie => cookie - 1,
        _ => cookie,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_wire::Kind;

    fn listed(cookie: u64, name: &str) -> Listed {
        Listed { cookie: Cookie(cookie), name: name.as_bytes().into(), object: ObjectId(16), kind: Kind::File }
    }

    #[test]
    fn a_reply_cut_between_names_of_one_cookie_goes_on_with_them() {
        let names = [listed(7, "a"), listed(9, "b"), listed(9, "c"), listed(9, "d"), listed(12, "e")];
        let offsets: Vec<u64> = (0..names.len()).map(|i| offset_behind(&names, i)).collect();
        assert_eq!(offsets, [7, 8, 8, 9, 12]);
        for cut in 0..names.len() {
            let rest: Vec<_> = names.iter().filter(|name| name.cookie.0 > offsets[cut]).collect();
            assert!(names[cut + 1..].iter().all(|name| rest.contains(&name)), "cut behind {cut}");
        }
    }

    #[test]
    fn pages_follow_the_kernels_buffer() {
        let page = PageSize::names();
        page.learn(128, false, true);
        assert_eq!(page.get(), 256);
        page.learn(100, true, true);
        assert_eq!(page.get(), 125);
        page.learn(3, false, false);
        assert_eq!(page.get(), 125, "a short directory says nothing");
        page.learn(1_000_000, false, true);
        assert_eq!(page.get(), PAGE_NAMES_MAX);
    }
}
