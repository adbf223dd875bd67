//! The requests of the kernel: each becomes a request to the tree, with the reply in its callback.
//!
//! - `kernel`: the kernel's calls, one short method each
//! - `content`: bytes of files
//! - `opening`: what opens and closes objects
//! - `opens`: what the kernel holds open
//! - `locking`: locks of files and of their bytes
//! - `listing`: directories, page by page
//! - `past`: past states, and what decides whether an inode is of one
//! - `replies`: the tree's answers in the kernel's forms
//! - `keeping`: for how long the kernel may keep them
//! - `known`: what the kernel may know, and what of it is still on its way
//! - `forget`: making it forget

mod content;
mod forget;
mod keeping;
mod kernel;
mod known;
mod listing;
mod locking;
mod opening;
mod opens;
mod past;
mod replies;

pub(crate) use forget::Forgetter;
pub(crate) use past::PastNodes;

use crate::MountOptions;
use crate::attr::object;
use crate::errno;
use crate::gate::Gate;
use crate::init::{Agreed, Terms};
use fuser::{Errno, INodeNo, ReplyEmpty, ReplyEntry, Request};
use gavel_client::tree::{Answer, Tree, TreeError, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::{Caller, RenameMode};
use gavel_types::ObjectId;
use known::Known;
use listing::PageSize;
use locking::Locking;
use opens::Opens;
use past::{Ages, Node, PastName};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What the event-loop threads share: all of it is fixed once mounted, but for counters.
pub(crate) struct Front {
    door: Arc<Door>,
    terms: Terms,
    agreed: Agreed,
    /// See [`MountOptions::control`](crate::MountOptions::control).
    control: Vec<u8>,
}

/// What a callback needs to ask the tree for more.
struct Door {
    tree: Arc<dyn Tree>,
    opens: Opens,
    locking: Locking,
    gate: Arc<Gate>,
    forgetter: Arc<Forgetter>,
    past: Arc<PastNodes>,
    ages: Ages,
    /// The next open directory's handle: never used twice.
    handles: AtomicU64,
    page: PageSize,
    page_plus: PageSize,
}

impl Front {
    /// The front of `tree`.
    pub(crate) fn new(
        tree: Arc<dyn Tree>,
        forgetter: Arc<Forgetter>,
        past: Arc<PastNodes>,
        options: &MountOptions,
    ) -> Front {
        let gate = Arc::new(Gate::default());
        let (page, page_plus) = (PageSize::names(), PageSize::names_with_attributes());
        let opens = Opens::new(tree.clone());
        let (handles, locking) = (AtomicU64::new(1), Locking::default());
        let ages = Ages::default();
        let terms = Terms {
            readdirplus: options.readdirplus,
            local_locks: options.private || options.local_locks || options.local_opens,
            unasked_opens: options.private || (options.local_opens && tree.vouches()),
            shared: !options.private,
        };
        let door = Door { tree, opens, locking, gate, forgetter, past, ages, handles, page, page_plus };
        Front { door: Arc::new(door), terms, agreed: Agreed::nothing(), control: options.control.clone() }
    }

    /// Does the tree say of each file what may be kept of it, as the kernel opens it unasked?
    fn vouches(&self) -> bool {
        self.agreed.unasked_opens && self.terms.shared
    }

    /// What the kernel speaks of.
    fn node(&self, ino: INodeNo) -> Node {
        self.door.past.node(ino)
    }

    /// The object that is to be changed; none if it is of the past.
    fn live(&self, ino: INodeNo) -> Option<ObjectId> {
        match self.node(ino) {
            Node::Live(object) => Some(object),
            Node::Past(_) => None,
        }
    }

    /// Starts an operation that reads.
    fn observe(
        &self,
        req: &Request,
        node: &Node,
        operation: Operation,
        answered: impl FnOnce(Result<Answer, Errno>) + Send + 'static,
    ) {
        self.door.start(caller(req), node.request(TreeRequest::Operation(operation)), 0, answered);
    }

    /// Starts an operation that carries no file bytes.
    fn operate(
        &self,
        req: &Request,
        operation: Operation,
        answered: impl FnOnce(Result<Answer, Errno>) + Send + 'static,
    ) {
        self.door.start(caller(req), TreeRequest::Operation(operation), 0, answered);
    }

    /// Starts an operation that makes a name in `directory`.
    fn make(&self, req: &Request, directory: ObjectId, operation: Operation, reply: ReplyEntry) {
        let door = self.door.clone();
        door.known().changing(directory);
        let since = door.known().moment();
        self.operate(req, operation, move |answered| replies::made(door.known(), directory, since, reply, answered));
    }

    /// Starts an operation that takes a name out of `directory`.
    fn remove(&self, req: &Request, directory: ObjectId, name: &OsStr, operation: Operation, reply: ReplyEmpty) {
        self.door.known().changing(directory);
        let names_past = PastName::of(name.as_bytes()).is_some();
        self.operate(req, operation, move |answered| replies::removed(names_past, reply, answered));
    }

    /// Moves a name. What is shown of the past can neither be moved nor replaced.
    fn move_name(
        &self,
        req: &Request,
        (parent, name): (ObjectId, &OsStr),
        (new_parent, new_name): (ObjectId, &OsStr),
        mode: RenameMode,
        reply: ReplyEmpty,
    ) {
        self.door.known().changing(parent);
        self.door.known().changing(new_parent);
        let names_past = PastName::of(name.as_bytes()).is_some();
        let (door, caller, target) = (self.door.clone(), caller(req), bytes_of(new_name));
        let operation = Operation::Rename { parent, name: bytes_of(name), new_parent, new_name: target.clone(), mode };
        self.door.shows_past(caller, new_parent, &target, move |shown| match shown {
            true => reply.error(errno::READ_ONLY),
            false => door.start(caller, TreeRequest::Operation(operation), 0, move |answered| {
                replies::removed(names_past, reply, answered);
            }),
        });
    }
}

impl Door {
    /// The kernel gives `lookups` of an inode back.
    fn dropped(&self, ino: INodeNo, lookups: u64) {
        if !self.past.dropped(ino, lookups) {
            self.known().dropped(object(ino), lookups);
        }
    }

    fn known(&self) -> &Known {
        self.forgetter.known()
    }

    /// The connection to the kernel has ended.
    fn end(self: &Arc<Door>) {
        self.end_locks();
        self.opens.end();
        self.past.end();
        self.forgetter.end();
    }

    /// Starts a request; `bytes` is what it writes or asks to read. `answered` is called exactly once.
    fn start(
        &self,
        caller: Caller,
        request: TreeRequest,
        bytes: usize,
        answered: impl FnOnce(Result<Answer, Errno>) + Send + 'static,
    ) {
        let Some(pass) = self.gate.enter(bytes) else {
            tracing::warn!("too many requests are under way on this mount: refused one");
            return answered(Err(errno::CROWDED));
        };
        let done = move |result: Result<Answer, TreeError>| {
            let result = result.map_err(|error| {
                report(&error);
                errno::of(&error)
            });
            answered(result);
            drop(pass);
        };
        self.tree.submit(caller, request, Box::new(done));
    }
}

/// An errno forgets its cause: this is the last place that knows it.
fn report(error: &TreeError) {
    match error {
        TreeError::Fs(_) | TreeError::Closed | TreeError::Lock(_) | TreeError::NoState(_) => {}
        TreeError::NoQuorum { .. } => tracing::debug!(%error, "a request failed"),
        TreeError::Unknown { .. } | TreeError::Storage { .. } => tracing::warn!(%error, "a request failed"),
    }
}

fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

fn bytes_of(name: &OsStr) -> Box<[u8]> {
    name.as_bytes().into()
}
