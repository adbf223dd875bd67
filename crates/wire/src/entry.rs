//! What the replicated log carries.

use crate::follow::Follow;
use crate::lease::Want;
use crate::lock::{LockFile, LockKind, Span, Waiter};
use crate::plan::{Author, Guard, Plan};
use crate::record::Record;
use gavel_types::{
    BlobId, Key, KeyRange, LogIndex, MirrorSource, NodeId, ObjectId, Retention, Schedule, Selection, Seq, SessionId,
    Tid, VolumeId,
};
use serde::{Deserialize, Serialize};

/// One log entry: many items, each a transaction of its own. Item `i` has Tid `tid + i`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The Tid of the first item: greater than every Tid before.
    pub tid: Tid,
    /// The items, in order.
    pub items: Vec<Item>,
}

/// One thing to apply.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Item {
    /// A session's request.
    Request(Request),
    /// Opens a session; its id is the item's Tid. Older sessions of the same node that belong to another
    /// incarnation end at once: a node has one incarnation at a time, for its data directory is locked.
    SessionOpen {
        /// The node.
        node: NodeId,
        /// Which life of that node: greater than that of every life before. What comes from an earlier life is passed over.
        incarnation: u64,
        /// How long the session lives without a refresh, in milliseconds.
        term_ms: u32,
        /// A session of this life that is broken, and which the node knows to be: it ends.
        instead_of: Option<SessionId>,
    },
    /// Ends a session: nothing it sends from now on is applied.
    SessionExpire {
        /// The session.
        session: SessionId,
    },
    /// Makes a volume with an empty root directory. Nothing happens if there was one of this number or a greater one.
    CreateVolume {
        /// The volume.
        volume: VolumeId,
        /// Permission bits of the root.
        mode: u16,
        /// Owner of the root.
        uid: u32,
        /// Group of the root.
        gid: u32,
    },
    /// Ends (a bounded part of) the records of an orphan that nobody holds open. Nothing happens if it is
    /// held again, or gone.
    Reap {
        /// The volume.
        volume: VolumeId,
        /// The object.
        object: ObjectId,
    },
    /// The digest of the state behind entry `index`. A replica whose digest differs stops serving.
    Checkpoint {
        /// The entry.
        index: LogIndex,
        /// The digest of the state after it.
        digest: [u8; 32],
    },
    /// Past states of a volume go, as its policy says now. Nothing happens if none would.
    Prune {
        /// The volume.
        volume: VolumeId,
    },
    /// Removes (a bounded part of) what no state of the volume shows any more that can be read. Nothing happens if all is gone.
    Sweep {
        /// The volume.
        volume: VolumeId,
        /// How many rows to look at.
        rows: u32,
    },
    /// States of a volume get names, as its schedule says. Nothing happens if none is due.
    NameScheduled {
        /// The volume.
        volume: VolumeId,
    },
    /// Marks blobs that no version of a record names.
    Condemn {
        /// Some of which may be named by now.
        blobs: Vec<BlobId>,
    },
    /// Blobs that are still marked, and that no version names, are gone as of this transaction: replicas let go of what they took before.
    Collect {
        /// Some of which may be named by now.
        blobs: Vec<BlobId>,
    },
    /// Ends (a bounded part of) the records of the first abandoned group of staged objects. Nothing happens if there is none.
    ReapStaged,
}

/// A request of a session, numbered so that it is applied once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The session.
    pub session: SessionId,
    /// The request's number: the session's requests are applied in this order, without gaps.
    pub seq: Seq,
    /// The session has seen the outcomes of all requests before this number: they may be forgotten.
    pub seen: Seq,
    /// What is asked for.
    pub body: RequestBody,
}

/// What a session can ask for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RequestBody {
    /// Write the plan if the guards hold.
    Commit {
        /// What was read.
        guards: Vec<Guard>,
        /// What to write.
        plan: Plan,
        /// For whom.
        author: Author,
        /// A majority had, or took, the blobs that the plan names when it had applied this transaction; of no meaning if it names none.
        stored_as_of: Tid,
    },
    /// Hand out a block of object ids.
    AllocateObjects,
    /// The session holds none of these orphans open (any more).
    Release {
        /// The orphans.
        orphans: Vec<(VolumeId, ObjectId)>,
    },
    /// Grant leases, or more than that. What can't be granted is passed over: nobody waits in the log.
    Lease {
        /// What is wanted.
        wants: Vec<Want>,
    },
    /// The session has stopped using its leases over these ranges.
    Yield {
        /// The ranges.
        ranges: Vec<KeyRange>,
        /// Somebody else is writing there: nothing is to be granted for a while.
        cool: bool,
    },
    /// The session's exclusive leases over these ranges become shared ones: all that it answered under them is in the log before
    /// this. With `cool`, somebody else reads there: no exclusive lease is to be granted for a while.
    Downgrade {
        /// The ranges.
        ranges: Vec<KeyRange>,
        /// Because of others.
        cool: bool,
    },
    /// Take a lock, in place of what its owner has of these bytes.
    Lock {
        /// On what.
        file: LockFile,
        /// For whom on the session's node.
        owner: u64,
        /// Which bytes.
        span: Span,
        /// To do what.
        kind: LockKind,
        /// For those who ask who is in their way.
        pid: u32,
        /// If somebody is in the way, stand in line.
        wait: bool,
    },
    /// Give back what an owner has of these bytes.
    Unlock {
        /// On what.
        file: LockFile,
        /// Of whom on the session's node.
        owner: u64,
        /// Which bytes.
        span: Span,
    },
    /// The session's request of this number does not stand in line any more.
    CancelLock {
        /// Its number.
        seq: Seq,
    },
    /// Give a state of a volume a name.
    Snapshot {
        /// The volume.
        volume: VolumeId,
        /// The name.
        name: Box<str>,
        /// What for.
        note: Box<str>,
        /// The state; none: the one that this request finds.
        at: Option<Tid>,
    },
    /// Take a state's name away.
    DropSnapshot {
        /// The volume.
        volume: VolumeId,
        /// The name.
        name: Box<str>,
    },
    /// Give a snapshot another name.
    RenameSnapshot {
        /// The volume.
        volume: VolumeId,
        /// The name.
        from: Box<str>,
        /// The other name.
        to: Box<str>,
    },
    /// Which past states of a volume are to stay.
    SetRetention {
        /// The volume.
        volume: VolumeId,
        /// The policy.
        policy: Retention,
    },
    /// The same as [`Item::Prune`], now.
    Prune {
        /// The volume.
        volume: VolumeId,
    },
    /// The session needs a past state: it is not to be pruned while the session lives.
    Pin {
        /// The volume.
        volume: VolumeId,
        /// The state.
        at: Tid,
    },
    /// The session does not need it any more.
    Unpin {
        /// The volume.
        volume: VolumeId,
        /// The state.
        at: Tid,
    },
    /// When states of a volume are to get names by themselves.
    SetSchedule {
        /// The volume.
        volume: VolumeId,
        /// The schedule; without a rule: never.
        schedule: Schedule,
    },
    /// A number for a policy that directories of a volume may have.
    DefineClass {
        /// The volume.
        volume: VolumeId,
        /// The policy.
        policy: Retention,
    },
    /// Make a volume with an empty root directory, of the next number.
    CreateVolume {
        /// What it is called.
        name: Box<str>,
        /// Permission bits of the root.
        mode: u16,
        /// Owner of the root.
        uid: u32,
        /// Group of the root.
        gid: u32,
    },
    /// Make a volume, of the next number, that begins with what another one shows.
    CloneVolume {
        /// The other one.
        from: VolumeId,
        /// Which state of it; none: the one that this request finds.
        at: Option<Tid>,
        /// What the new one is called.
        name: Box<str>,
    },
    /// Give a volume another name.
    RenameVolume {
        /// The volume.
        volume: VolumeId,
        /// The other name.
        name: Box<str>,
    },
    /// A volume is not to be used any more.
    DestroyVolume {
        /// The volume.
        volume: VolumeId,
        /// It cannot be restored: all of it goes.
        now: bool,
    },
    /// A volume that was destroyed is to be used again.
    RestoreVolume {
        /// The volume.
        volume: VolumeId,
        /// What it is called; none: as before.
        name: Option<Box<str>>,
    },
    /// Write records of objects that no name leads to yet, as a part of what a later [`RequestBody::Adopt`] commits.
    Stage {
        /// Names what belongs together; chosen by the session.
        group: u64,
        /// The volume.
        volume: VolumeId,
        /// The objects that belong to the group from now on: runs of ids, the first and the last of each, upwards.
        runs: Vec<(ObjectId, ObjectId)>,
        /// What to write, of the group's objects only.
        plan: Plan,
        /// As in a commit.
        stored_as_of: Tid,
    },
    /// As [`RequestBody::Commit`]; with it, what was staged as this group becomes a part of the volume. If it is refused, and not as
    /// [`Refusal::Leased`], the group is abandoned.
    Adopt {
        /// The group.
        group: u64,
        /// As in a commit.
        guards: Vec<Guard>,
        /// As in a commit.
        plan: Plan,
        /// As in a commit.
        author: Author,
        /// As in a commit.
        stored_as_of: Tid,
    },
    /// What was staged as this group is not needed any more.
    Unstage {
        /// The group.
        group: u64,
    },
    /// Make a volume, of the next number, that is to be a mirror of another cluster's.
    CreateMirror {
        /// What it is called.
        name: Box<str>,
        /// What it copies.
        source: MirrorSource,
        /// Which part of that.
        selection: Selection,
    },
    /// Take a mirror on, towards a later state of its source.
    MirrorStep(MirrorStep),
    /// A mirror is a volume as any other from now on.
    PromoteMirror {
        /// The mirror.
        volume: VolumeId,
    },
    /// Admit a mirror in another cluster to the stream of a volume.
    AdmitFollower {
        /// The volume.
        volume: VolumeId,
        /// What the mirror is called here.
        name: Box<str>,
        /// The hash of its key.
        key: [u8; 32],
        /// The volume's history waits for it so long, in nanoseconds; none: for ever.
        keep_for_ns: Option<u64>,
        /// Which part of the volume it may read.
        selection: Selection,
    },
    /// A mirror is not admitted any more.
    DismissFollower {
        /// The volume.
        volume: VolumeId,
        /// The mirror's name here.
        name: Box<str>,
    },
    /// A mirror has come to a state of the volume.
    FollowerReached {
        /// The volume.
        volume: VolumeId,
        /// The mirror's name here.
        name: Box<str>,
        /// When that mirror was admitted: the name may be another one's by now.
        admitted: Tid,
        /// The state.
        at: Tid,
    },
    /// Where a mirror's stream comes from by itself; none: from nowhere.
    FollowMirror {
        /// The mirror.
        volume: VolumeId,
        /// What it follows.
        follow: Option<Box<Follow>>,
    },
    /// Say what a snapshot is for.
    NoteSnapshot {
        /// The volume.
        volume: VolumeId,
        /// The snapshot's name.
        name: Box<str>,
        /// What for.
        note: Box<str>,
    },
    /// A volume is a mirror from now on, of one that was its mirror until that was promoted.
    DemoteMirror(Demotion),
}

/// What makes a volume a mirror of one that departed from it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Demotion {
    /// The volume.
    pub volume: VolumeId,
    /// What it copies from now on.
    pub source: MirrorSource,
    /// The last of its own states that the source has had.
    pub own: Tid,
    /// The same, as of the source's Tids.
    pub state: Tid,
    /// A clone of what it is now gets this name; none: there is nothing behind `own`.
    pub save: Option<Box<str>>,
    /// That there is nothing was found out as of this transaction; of no meaning if a clone is made.
    pub as_of: Tid,
}

/// A part of what takes a mirror from one state of its source to a later one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MirrorStep {
    /// The mirror.
    pub volume: VolumeId,
    /// The state of the source that its boundary is.
    pub from: Tid,
    /// The state of the source that the step leads to; `from`: back to the boundary.
    pub to: Tid,
    /// Which part of the step this is, from 0 on.
    pub part: u32,
    /// It is the last one: `to` is the boundary.
    pub last: bool,
    /// The step is one transaction of the source.
    pub single: bool,
    /// Of the first part of a whole copy: what has come of the step under way stays, and is gone on with.
    pub resumes: Option<UnderWay>,
    /// Records of the mirror that are put, or end, in this order.
    pub rows: Vec<(Key, Option<Record>)>,
    /// For whom the source made the commit.
    pub author: Author,
    /// A majority had, or took, the blobs that the rows name when it had applied this transaction; of no meaning if they name none.
    pub stored_as_of: Tid,
}

/// A step of a mirror, as far as it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnderWay {
    /// To which state of the source.
    pub to: Tid,
    /// So many of its parts are in.
    pub parts: u32,
}

impl RequestBody {
    /// Does this outcome of it break its session? A commit without guards was answered before it was shipped, and those behind it stand on it.
    pub fn breaks_session(&self, outcome: &Outcome) -> bool {
        let collected = Outcome::Refused { refusal: Refusal::Collected };
        matches!(self, RequestBody::Commit { guards, .. } if guards.is_empty()) && *outcome == collected
    }
}

/// What became of a request. Recorded in the session until it is acknowledged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// Applied at this Tid.
    Committed {
        /// The commit's Tid.
        tid: Tid,
    },
    /// Object ids handed out.
    Allocated {
        /// The first id.
        first: ObjectId,
        /// How many.
        count: u64,
    },
    /// Not applied, and never will be.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// The lock stands in line. [`News::granted`] says when it is held.
    Waits,
}

/// Why a request was not applied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// A guard did not hold: what was read has changed. Run the operation again.
    Conflict {
        /// Which of the request's guards.
        guard: u32,
    },
    /// The plan breaks a rule of the record space (wrong kind of record for its key, counter out of range, too large).
    BadPlan,
    /// Another session holds a lease over something that the plan writes, or an exclusive one over something that was read. Recall
    /// it, and run the operation again.
    Leased,
    /// Somebody has a lock that is in the way, and the request was not to wait.
    Locked,
    /// Whoever is in the way waits for the owner of the request.
    Deadlock,
    /// There are too many locks.
    NoLocks,
    /// The request that was to be cancelled does not stand in line: it was granted, if it ever did.
    NotWaiting,
    /// The name is taken; or an object that was to be staged is there.
    Exists,
    /// There is no such volume, or no such name.
    Missing,
    /// There are too many.
    Full,
    /// The state is not one that can be read: it was pruned, or is older than the volume, or has not come yet.
    Pruned,
    /// The name is none, or the note is too long.
    BadName,
    /// The policy or the schedule has too many rules, or keeps too many states.
    BadPolicy,
    /// A blob that the plan names may have been collected since it was stored. Store its bytes anew, and try again. If the commit had no guards, its
    /// session is broken ([`RequestBody::breaks_session`]).
    Collected,
    /// Nothing is staged as the group that was to be adopted: the session that staged it has ended. Stage it anew.
    NotStaged,
    /// The volume is a mirror: only its source changes it.
    ReadOnly,
    /// The volume is no mirror, or not any more.
    NotMirror,
    /// The mirror is not where this begins: it has gone on, or another step is under way.
    Behind,
}

/// What an applied entry means for this node's own session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// The last Tid that views see.
    pub tid: Tid,
    /// The last entry that views see.
    pub index: LogIndex,
    /// Outcomes of requests, this node's and others'.
    pub outcomes: Vec<(SessionId, Seq, Outcome)>,
    /// Sessions of this node that were opened, with their incarnation.
    pub opened: Vec<(SessionId, u64)>,
    /// Sessions that ended.
    pub ended: Vec<SessionId>,
    /// Objects that lost their last name.
    pub orphaned: Vec<(VolumeId, ObjectId)>,
    /// The lease table has changed.
    pub leases: bool,
    /// Locks that stood in line and are held now.
    pub granted: Vec<Waiter>,
    /// What has become of blobs.
    pub blobs: BlobNews,
}

/// What an applied entry means for blobs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BlobNews {
    /// Those that were marked because nothing names them.
    pub condemned: Vec<BlobId>,
    /// Those that are not marked any more: named again, or collected.
    pub released: Vec<BlobId>,
    /// Those that were collected, and as of which transaction.
    pub collected: Vec<(BlobId, Tid)>,
    /// Blobs of versions that a sweep removed: others may still name them.
    pub unnamed: Vec<BlobId>,
}

impl BlobNews {
    /// Nothing has become of any.
    pub fn is_empty(&self) -> bool {
        self.condemned.is_empty() && self.released.is_empty() && self.collected.is_empty() && self.unnamed.is_empty()
    }
}
