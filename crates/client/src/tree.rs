//! The door between a mount (or any other front) and a node.

use bytes::Bytes;
use gavel_fs::operation::Caller;
use gavel_fs::{FsError, Operation, Reply};
use gavel_types::{At, ObjectId, Tid, VolumeId};
use gavel_wire::lock::{Family, Lock, LockKind, Span};
use gavel_wire::{Attr, ViewError};
use serde::{Deserialize, Serialize};
use std::sync::Weak;

/// What a front asks of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeRequest {
    /// An operation that carries no file bytes (neither [`Operation::Read`] nor [`Operation::Write`]), and is not
    /// [`Operation::Lookup`].
    Operation(Operation),
    /// What a name names: as [`Operation::Lookup`], but that there is no such name is an answer like any other (one without
    /// attributes), which may be kept.
    Lookup {
        /// The directory.
        parent: ObjectId,
        /// The name.
        name: Box<[u8]>,
    },
    /// Bytes of a file; the answer holds them in [`Answer::data`].
    Read {
        /// The file.
        object: ObjectId,
        /// First byte.
        offset: u64,
        /// At most so many.
        len: u32,
    },
    /// Writes bytes to a file.
    Write {
        /// The file.
        object: ObjectId,
        /// Where; not looked at if `append`.
        offset: u64,
        /// At the end of the file, wherever that is when the write is committed.
        append: bool,
        /// The bytes, [`gavel_types::limits::WRITE_BYTES_MAX`] of them at most.
        data: Vec<u8>,
        /// Set-user-id and set-group-id go.
        kill_suidgid: bool,
    },
    /// Names of a directory with their attributes, for `readdirplus`: as [`Operation::Readdir`], and
    /// [`Answer::listed`] holds the attributes of each name (none for an object that vanished meanwhile).
    ReaddirPlus {
        /// The directory.
        object: ObjectId,
        /// Names behind this cookie.
        after: gavel_types::Cookie,
        /// So many at most.
        limit: u32,
    },
    /// All that this node has acknowledged for the object is durable on a majority.
    Sync {
        /// The object.
        object: ObjectId,
    },
    /// How much room there is.
    Statfs,
    /// Takes a lock, in place of what its owner has of these bytes.
    Lock {
        /// On which file.
        object: ObjectId,
        /// In which family.
        family: Family,
        /// For whom: unique on this node.
        owner: u64,
        /// Which bytes.
        span: Span,
        /// To do what.
        kind: LockKind,
        /// The process, for those who ask who is in their way.
        pid: u32,
        /// Names this request.
        id: LockId,
        /// If somebody is in the way, wait, for as long as it takes; [`TreeRequest::CancelLock`] ends that.
        wait: bool,
    },
    /// Gives back what the owner has of these bytes.
    Unlock {
        /// On which file.
        object: ObjectId,
        /// In which family.
        family: Family,
        /// Whose: unique on this node.
        owner: u64,
        /// Which bytes.
        span: Span,
        /// The file is being closed: that the locks were lost with a session is no error then.
        closing: bool,
    },
    /// Which lock would be in the way of this one? The answer is in [`Answer::lock`].
    TestLock {
        /// On which file.
        object: ObjectId,
        /// In which family.
        family: Family,
        /// For whom: unique on this node.
        owner: u64,
        /// Which bytes.
        span: Span,
        /// To do what.
        kind: LockKind,
    },
    /// A request that only reads, as of a past state: answered by this node whatever else it can reach, for nothing changes there.
    Past {
        /// The state: one that [`TreeRequest::Resolve`] gave.
        at: Tid,
        /// An [`Operation`] that changes nothing, `Lookup`, `Read` or `ReaddirPlus`.
        request: Box<TreeRequest>,
    },
    /// Which state is called so? The answer is in [`Answer::at`].
    Resolve {
        /// The name.
        at: At,
    },
    /// That [`TreeRequest::Lock`] is not waited for any more. It is answered with [`LockError::Cancelled`], or with success if the lock came first.
    CancelLock {
        /// Which.
        id: LockId,
    },
}

/// Names a request for a lock; unique in the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockId(pub u64);

/// Why a lock was not taken or given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody is in the way, and it was not to wait.
    #[error("locked by another")]
    Locked,
    /// It would wait for somebody who waits for its owner.
    #[error("would wait for itself")]
    Deadlock,
    /// There are too many locks.
    #[error("too many locks")]
    NoLocks,
    /// It was cancelled while it waited.
    #[error("cancelled while it waited")]
    Cancelled,
    /// What the owner had of this file is gone: the node's session has ended. An unlock that is answered so, or closing the file, makes good.
    #[error("the locks of this file were lost when the cluster gave this node up")]
    Lost,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What the operation says. `Reply::Data` never appears here: see `data`.
    pub reply: Reply,
    /// Attributes of the object that the reply names (looked up, made, linked, set, written), as of the commit or later.
    pub attr: Option<Attr>,
    /// Attributes of the names of a listing, in their order.
    pub listed: Vec<Option<Attr>>,
    /// The bytes of a read: short only at the end of the file.
    pub data: Bytes,
    /// For [`TreeRequest::Statfs`].
    pub space: Option<Space>,
    /// For [`TreeRequest::TestLock`]: the lock in the way, if there is one; its process is 0 if it belongs to another node.
    pub lock: Option<Lock>,
    /// For [`TreeRequest::Resolve`]: the state. It can be read on this node.
    pub at: Option<Tid>,
    /// What of this answer the front may keep, until it is told to forget it ([`Forget`]) or the time is up.
    pub keep: Keep,
}

impl Answer {
    /// This reply, and nothing else; a front may keep nothing of it.
    pub fn of(reply: Reply) -> Answer {
        Answer {
            reply,
            attr: None,
            listed: Vec::new(),
            data: Bytes::new(),
            space: None,
            lock: None,
            at: None,
            keep: Keep::default(),
        }
    }

    /// The object that the reply names, if it names one.
    pub fn object(&self) -> Option<ObjectId> {
        match &self.reply {
            Reply::Object(object) | Reply::Created { object, .. } | Reply::Attr(object, _) => Some(*object),
            _ => None,
        }
    }
}

/// How long a front may keep what it was told, in nanoseconds from the moment of the answer. Zero: not at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keep {
    /// Names: the one that was looked up or made (or its absence), or those of a listing.
    pub names_ns: u64,
    /// Attributes: the object's, or those of the names of a listing.
    pub attrs_ns: u64,
    /// For an open: bytes of the file that are read from now on may be kept until the front is told to forget them, and are still
    /// good if they were kept before. Otherwise none of them may be kept for as long as it is open.
    pub bytes: bool,
}

/// A part of what a front keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// All names, and all absences of names.
    Names,
    /// Attributes, bytes and the listing of one object.
    Object(ObjectId),
    /// Attributes of one object.
    Attributes(ObjectId),
}

/// What a node can tell its fronts.
pub trait Forget: Send + Sync + 'static {
    /// Forget these. `forgotten` is called when nothing of them is kept any more and no answer that was given before this call can still bring it
    /// back; on another thread, after a while: requests must go on being answered meanwhile.
    fn forget(&self, kept: Vec<Kept>, forgotten: Box<dyn FnOnce() + Send>);

    /// These have lost their last name, and stay because they are [open](Tree::opened). A front that counts as open what may
    /// be open finds out now what is.
    fn orphaned(&self, _objects: Vec<ObjectId>) {}
}

/// True figures of a volume, in bytes and objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    /// Bytes that the volume could hold: used and free ones.
    pub bytes_total: u64,
    /// Bytes that can still be written.
    pub bytes_free: u64,
    /// Live objects.
    pub objects: u64,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TreeError {
    /// The answer is an error of the filesystem.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// No majority can be reached: nothing was changed that is not reported. Waited as long as the node waits.
    #[error("no quorum: {cause}")]
    NoQuorum {
        /// What is missing.
        cause: String,
    },
    /// The outcome is unknown: the request may or may not have been applied.
    #[error("outcome unknown: {cause}")]
    Unknown {
        /// What happened.
        cause: String,
    },
    /// This replica can't serve (damaged, full, diverged); nothing was changed.
    #[error("this node cannot serve: {cause}")]
    Storage {
        /// What is wrong.
        cause: String,
        /// Is it for lack of room?
        full: bool,
    },
    /// The node is going down.
    #[error("the node is shutting down")]
    Closed,
    /// A lock was not taken or given back.
    #[error("lock: {0}")]
    Lock(#[from] LockError),
    /// There is no such state of the volume.
    #[error(transparent)]
    NoState(#[from] NoState),
}

impl From<ViewError> for TreeError {
    fn from(error: ViewError) -> TreeError {
        match error {
            ViewError::Pruned { .. } => NoState::Pruned.into(),
            ViewError::Damaged { .. } | ViewError::Storage { .. } => {
                TreeError::Storage { cause: error.to_string(), full: false }
            }
        }
    }
}

/// Why a state of the past can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum NoState {
    /// No snapshot has this name.
    #[error("no snapshot of the volume has this name")]
    Unnamed,
    /// It has not come yet.
    #[error("this time is in the future")]
    Future,
    /// The volume was made later.
    #[error("the volume was made later than that")]
    BeforeVolume,
    /// The volume was cloned from another one later.
    #[error(
        "the volume was cloned from another one later than that, which has this state: `gavel volume list` says from which"
    )]
    BeforeClone,
    /// It was pruned.
    #[error("this state was pruned: the volume's retention policy did not keep it")]
    Pruned,
    /// The volume is a mirror that has not come so far.
    #[error("the mirror has not received this state of its source yet: `gavel mirror list` says how far it is")]
    NotReceived,
    /// The volume is a mirror that went from an earlier state to a later one at once.
    #[error("the mirror never had this state of its source: it went from an earlier one to a later one at once")]
    NeverReceived,
}

/// Called once with the answer, on any thread. Must be quick.
pub type Answered = Box<dyn FnOnce(Result<Answer, TreeError>) + Send>;

/// One volume of the cluster, as seen through one node.
pub trait Tree: Send + Sync + 'static {
    /// A front that keeps answers from now on, for as long as it lives. A front that has not said so keeps nothing.
    fn attach(&self, front: Weak<dyn Forget>);

    /// Which volume.
    fn volume(&self) -> VolumeId;

    /// Starts a request. Never waits: `answered` is called when there is an answer, perhaps before this returns.
    fn submit(&self, caller: Caller, request: TreeRequest, answered: Answered);

    /// An object is open once more on this node. Called before the request that opens it, so that an unlink elsewhere
    /// leaves it in place; taken back with [`Tree::closed`] if that request fails.
    fn opened(&self, object: ObjectId);

    /// An object is open once less on this node.
    fn closed(&self, object: ObjectId);

    /// Can it say by [`Tree::keep_bytes`] what may be kept of a file that it was not told to open?
    fn vouches(&self) -> bool {
        false
    }

    /// Calls `kept` if the front may keep whatever it is given of the bytes of this file from now on, and writes to it, until it is told to forget
    /// them. Asks nobody, and waits for nothing. What may be kept is not taken back while `kept` is called.
    fn keep_bytes(&self, _object: ObjectId, _kept: &mut dyn FnMut()) {}
}
