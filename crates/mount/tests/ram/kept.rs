//! What the mount may keep, how often it asks, and what changes behind its back.
#![allow(dead_code)] // not every user of this module has a mount that keeps something

use super::RamTree;
use gavel_client::tree::{Answer, Forget, Keep, Kept, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::Caller;
use gavel_types::ObjectId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Everything, for longer than any test takes.
pub const ALL: Keep = Keep { names_ns: 600_000_000_000, attrs_ns: 600_000_000_000, bytes: true };

#[derive(Default)]
pub struct Keeping(Mutex<State>, Writes);

/// Writes that are held up.
#[derive(Default)]
struct Writes {
    gate: Mutex<()>,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    keep: Keep,
    front: Option<Weak<dyn Forget>>,
    asked: BTreeMap<&'static str, usize>,
}

impl Keeping {
    pub fn attach(&self, front: Weak<dyn Forget>) {
        self.0.lock().expect("sound").front = Some(front);
    }

    /// Until nobody holds writes up.
    pub fn wait_to_write(&self) {
        self.1.waiting.fetch_add(1, Ordering::SeqCst);
        drop(self.1.gate.lock().expect("sound"));
        self.1.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// May all bytes of a file be kept? Counted as well.
    pub fn vouches(&self, _: ObjectId) -> bool {
        let mut state = self.0.lock().expect("sound");
        *state.asked.entry("vouch").or_default() += 1;
        state.keep.bytes
    }

    /// Counts a request; gives what may be kept of its answer.
    pub fn count(&self, request: &TreeRequest) -> Keep {
        let mut state = self.0.lock().expect("sound");
        *state.asked.entry(kind(request)).or_default() += 1;
        state.keep
    }
}

fn kind(request: &TreeRequest) -> &'static str {
    match request {
        TreeRequest::Lookup { .. } => "lookup",
        TreeRequest::Read { .. } => "read",
        TreeRequest::Write { .. } => "write",
        TreeRequest::Past { .. } => "past",
        TreeRequest::Resolve { .. } => "resolve",
        TreeRequest::Operation(Operation::Getattr { .. }) => "getattr",
        TreeRequest::Operation(Operation::Readdir { .. }) => "readdir",
        TreeRequest::ReaddirPlus { .. } => "readdirplus",
        TreeRequest::Operation(Operation::Readlink { .. }) => "readlink",
        TreeRequest::Operation(Operation::Create { .. }) => "create",
        TreeRequest::Operation(Operation::Open { .. }) => "open",
        TreeRequest::Lock { .. } | TreeRequest::Unlock { .. } | TreeRequest::TestLock { .. } => "lock",
        _ => "other",
    }
}

impl RamTree {
    /// From now on the mount may keep so much.
    pub fn keep(&self, keep: Keep) {
        self.keeping.0.lock().expect("sound").keep = keep;
    }

    /// Writes of the mount are not answered while this lives.
    pub fn hold_writes(&self) -> MutexGuard<'_, ()> {
        self.keeping.1.gate.lock().expect("sound")
    }

    /// How many wait.
    pub fn held_writes(&self) -> usize {
        self.keeping.1.waiting.load(Ordering::SeqCst)
    }

    /// How often it was asked for this.
    pub fn asked(&self, kind: &str) -> usize {
        self.keeping.0.lock().expect("sound").asked.get(kind).copied().unwrap_or(0)
    }

    /// The front, if it lives.
    pub fn front(&self) -> Option<Arc<dyn Forget>> {
        self.keeping.0.lock().expect("sound").front.as_ref().and_then(Weak::upgrade)
    }

    /// Starts to take back what was given: nothing may be kept any more. It says when all is forgotten.
    pub fn take_back(&self, kept: Vec<Kept>) -> Receiver<()> {
        self.keep(Keep::default());
        let (sender, forgotten) = channel();
        let front = self.front().expect("it is mounted");
        front.forget(kept, Box::new(move || _ = sender.send(())));
        forgotten
    }

    /// Takes back what was given, and waits until it is forgotten.
    pub fn forget(&self, kept: Vec<Kept>) {
        self.take_back(kept).recv_timeout(PATIENCE).expect("is forgotten");
    }

    /// Does something as another node would: the mount does not see it.
    pub fn behind(&self, request: TreeRequest) -> Answer {
        Self::answer_from(&mut self.world(), Caller::default(), request).expect("it can be done")
    }
}
