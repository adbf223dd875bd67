//! Looking up: live names, names that lead to the past, and names of the past.
//!
//! ```text
//!   LOOKUP in a live directory ──> a real name? ──yes──> that
//!                                      └──no, and it reads as NAME@@AT──> which state? ──> NAME in this directory as of it
//! ```
//!
//! What leads to the past is kept no longer than that there is no real name may be, and is forgotten with the other names of the directory.

use super::{Node, PastName, PastNode};
use crate::errno;
use crate::front::replies::{self, Answered, GENERATION};
use crate::front::{Door, keeping};
use fuser::{Errno, ReplyEntry};
use gavel_client::tree::{Answer, Keep, TreeRequest};
use gavel_fs::Operation;
use gavel_fs::operation::Caller;
use gavel_types::{At, ObjectId, Tid};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For so long a name stands for a state that may be given to another: a snapshot's name, or a time that is not over yet.
const MOVABLE_KEPT: Duration = Duration::from_secs(1);

/// What a name that leads to the past has led to.
struct Found {
    at: Tid,
    /// For how long the name leads there.
    time: Duration,
    answer: Answer,
}

impl Door {
    /// Answers LOOKUP in a live directory.
    pub(in crate::front) fn look_up(
        self: &Arc<Door>,
        caller: Caller,
        directory: ObjectId,
        name: Box<[u8]>,
        reply: ReplyEntry,
    ) {
        let (door, since) = (self.clone(), self.known().moment());
        let past = PastName::of(&name).map(|past| (past, name.clone()));
        self.start(caller, TreeRequest::Lookup { parent: directory, name }, 0, move |answered| match past {
            Some((past, name)) if is_absent(&answered) => {
                let keep = replies::keep(&answered);
                door.enter(caller, directory, (name, past), keep, reply);
            }
            _ => replies::looked_up(door.known(), since, reply, answered),
        });
    }

    /// Answers LOOKUP in a directory of the past. Names are what they were: none leads further back.
    pub(in crate::front) fn look_up_past(
        self: &Arc<Door>,
        caller: Caller,
        directory: PastNode,
        name: Box<[u8]>,
        reply: ReplyEntry,
    ) {
        let door = self.clone();
        let node = Node::Past(directory.clone());
        let request = node.request(TreeRequest::Lookup { parent: directory.object, name });
        self.start(caller, request, 0, move |answered| match answered {
            Ok(answer) if answer.attr.is_none() => {
                replies::absent_for(keeping::past(answer.keep.names_ns), reply);
            }
            Ok(answer) => {
                let time = keeping::past(answer.keep.names_ns);
                door.reply_past(|object| directory.with(object), time, answer, reply);
            }
            Err(errno) => reply.error(errno),
        });
    }

    /// Does the directory show something of the past under this name? (A real one is none.)
    pub(in crate::front) fn shows_past(
        self: &Arc<Door>,
        caller: Caller,
        directory: ObjectId,
        name: &[u8],
        then: impl FnOnce(bool) + Send + 'static,
    ) {
        let Some(past) = PastName::of(name) else { return then(false) };
        let door = self.clone();
        self.start(caller, TreeRequest::Lookup { parent: directory, name: name.into() }, 0, move |answered| {
            match is_absent(&answered) {
                true => door.find(caller, directory, past, |found| then(matches!(found, Ok(Some(_))))),
                false => then(false),
            }
        });
    }

    /// There is no real name. `keep`: of that.
    fn enter(
        self: &Arc<Door>,
        caller: Caller,
        directory: ObjectId,
        (name, past): (Box<[u8]>, PastName),
        keep: Keep,
        reply: ReplyEntry,
    ) {
        let door = self.clone();
        self.find(caller, directory, past, move |found| match found {
            Ok(Some(Found { at, time, answer })) => {
                let time = time.min(keeping::names(door.known(), keep));
                door.reply_past(|object| PastNode::new(directory, &name, at, object), time, answer, reply);
            }
            // Not kept: a snapshot may be given this name.
            Ok(None) => reply.error(errno::NO_SUCH_NAME),
            Err(errno) => reply.error(errno),
        });
    }

    fn reply_past(&self, node: impl FnOnce(ObjectId) -> PastNode, names: Duration, answer: Answer, reply: ReplyEntry) {
        let attrs = keeping::past(answer.keep.attrs_ns);
        match replies::found(answer) {
            Ok((object, attr)) => {
                let node = node(object);
                let attr = crate::attr::file_attr(node.ino(), &attr);
                let id = self.past.looked_up(&node);
                reply.entry_of_node(id, &attrs, &names, &attr, GENERATION);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// What a name that leads to the past leads to, if anything.
    fn find(
        self: &Arc<Door>,
        caller: Caller,
        directory: ObjectId,
        PastName { name, at }: PastName,
        found: impl FnOnce(Result<Option<Found>, Errno>) + Send + 'static,
    ) {
        let door = self.clone();
        self.resolve(caller, at, move |resolved| {
            let (at, time) = match resolved {
                Ok(resolved) => resolved,
                Err(errno) => return found(Err(errno)),
            };
            let request = match name {
                Some(name) => TreeRequest::Lookup { parent: directory, name },
                None => TreeRequest::Operation(Operation::Getattr { object: directory }),
            };
            let request = TreeRequest::Past { at, request: Box::new(request) };
            door.start(caller, request, 0, move |answered| match answered {
                Ok(answer) if replies::names_nothing(&answer) => found(Ok(None)),
                Ok(answer) => found(Ok(Some(Found { at, time, answer }))),
                // The state can be read; so it is the directory that was not there yet.
                Err(errno) if errno == errno::stale() => found(Ok(None)),
                Err(errno) => found(Err(errno)),
            });
        });
    }

    /// Which state is called so, and for how long will it be?
    fn resolve(
        self: &Arc<Door>,
        caller: Caller,
        at: At,
        then: impl FnOnce(Result<(Tid, Duration), Errno>) + Send + 'static,
    ) {
        if let At::Age(ns) = at
            && let Some(kept) = self.ages.get(ns, Instant::now())
        {
            return then(Ok(kept));
        }
        let door = self.clone();
        self.start(caller, TreeRequest::Resolve { at: at.clone() }, 0, move |answered| {
            let state = answered.and_then(|answer| answer.at.ok_or_else(|| replies::unexpected(&answer.reply)));
            then(state.map(|state| match at {
                At::Age(ns) => door.ages.keep(ns, state, Instant::now()),
                At::Tid(tid) | At::Time(tid) if tid == state => (state, keeping::KEEP_MAX),
                // It is later than all that was committed: there may be another one yet that is not later.
                At::Tid(_) | At::Time(_) | At::Snapshot(_) => (state, MOVABLE_KEPT),
            }));
        });
    }
}

/// Is there no real name? A name that is too long for one may be that of something shorter.
fn is_absent(answered: &Answered) -> bool {
    match answered {
        Ok(answer) => replies::names_nothing(answer),
        Err(errno) => *errno == Errno::ENAMETOOLONG,
    }
}
