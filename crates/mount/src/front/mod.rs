//! The requests of the kernel: each becomes a request to the tree, with the reply in its callback.
//!
//! - `kernel`: the kernel's calls, one short method each
//! - `content`: bytes of files
//! - `opening`: what opens and closes objects
//! - `opens`: what the kernel holds open
//! - `locking`: locks of files and of their bytes
//! - `listing`: directories, page by page
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
mod replies;

pub(crate) use forget::Forgetter;

use crate::attr::object;
use crate::errno;
use crate::gate::Gate;
use crate::init::Agreed;
use fuser::{Errno, INodeNo, ReplyEntry, Request};
use gavel_client::tree::{Answer, Tree, TreeError, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::Caller;
use known::Known;
use listing::PageSize;
use locking::Locking;
use opens::Opens;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// What the event-loop threads share: all of it is fixed once mounted, but for counters.
pub(crate) struct Front {
    door: Arc<Door>,
    agreed: Agreed,
    readdirplus: bool,
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
    /// The next open directory's handle: never used twice.
    handles: AtomicU64,
    page: PageSize,
    page_plus: PageSize,
}

impl Front {
    /// The front of `tree`. `readdirplus`: listings bring attributes.
    pub(crate) fn new(tree: Arc<dyn Tree>, forgetter: Arc<Forgetter>, readdirplus: bool, control: Vec<u8>) -> Front {
        let gate = Arc::new(Gate::default());
        let (page, page_plus) = (PageSize::names(), PageSize::names_with_attributes());
        let opens = Opens::new(tree.clone());
        let (handles, locking) = (AtomicU64::new(1), Locking::default());
        let door = Door { tree, opens, locking, gate, forgetter, handles, page, page_plus };
        Front { door: Arc::new(door), agreed: Agreed::nothing(), readdirplus, control }
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
    fn make(&self, req: &Request, directory: INodeNo, operation: Operation, reply: ReplyEntry) {
        let (door, directory) = (self.door.clone(), object(directory));
        door.known().changing(directory);
        let since = door.known().moment();
        self.operate(req, operation, move |answered| replies::made(door.known(), directory, since, reply, answered));
    }
}

impl Door {
    fn known(&self) -> &Known {
        self.forgetter.known()
    }

    /// The connection to the kernel has ended.
    fn end(self: &Arc<Door>) {
        self.end_locks();
        self.opens.end();
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
