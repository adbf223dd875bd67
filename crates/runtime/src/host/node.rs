//! The queue and the thread of the node: inputs in one line, each worked through, effects carried out in order.
//!
//! The thread is a tokio runtime of its own, on which the connections with the peers run too: a message is read, worked
//! through and answered without a change of threads, which on a small machine costs more than all the rest.

mod locks;

pub use locks::{LockInput, LockWait};

use crate::host::blobs::Blobs;
use crate::host::conflicts::{Conflicts, keeper};
use crate::host::fronts::Fronts;
use crate::host::journal::{Order, Unwritten};
use crate::host::opens::Opens;
use crate::host::status::NodeStatus;
use crate::host::wants::Wants;
use crate::net::Sender as Peers;
use gavel_client::{Collision, LockId, LostBecause, LostPlan, OfferEffect, Pending, Token, Usable};
use gavel_lease::range::whole_objects;
use gavel_node::clients::ClientAsk;
use gavel_node::{Node, NodeEffect};
use gavel_quorum::Persist;
use gavel_server::Clock;
use gavel_store::engine::{Engine, LsmEngine};
use gavel_store::records::{self, Records};
use gavel_txn::{Layered, Past, VolumePast};
use gavel_types::{BlobId, KeyRange, Moment, NodeId, ObjectId, Tid, VolumeId};
use gavel_wire::client::{WatchAnswer, WatchAsk};
use gavel_wire::{Author, Guard, Message, Mode, Outcome, Plan, RequestBody};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// The node looks at the clock at least this often.
const TICK: Duration = Duration::from_millis(10);
/// A process that goes on after it stood still has by then answered most of what the kernel asked meanwhile: attributes that meet
/// with a forgetting on their way are dropped by the kernel.
const TAKEN_UP: Duration = Duration::from_millis(50);
/// Inputs that may wait. Peers' messages beyond are dropped (they are sent again); this node's own operations are bounded
/// where they come from.
const INBOX_MAX: usize = 16 * 1024;
/// Inputs worked through before effects are carried out: what comes together is committed together.
const BATCH_MAX: usize = 512;

/// What is accepted waits so long for more, so that they become one commit.
const GATHER: Duration = Duration::from_millis(5);
/// Beyond so many plans that are not shipped, nothing is waited for.
pub const GATHERED_MAX: u64 = 256;
/// Objects of lost plans that are remembered, so that an `fsync` of them fails.
const LOST_OBJECTS_MAX: usize = 64 * 1024;

/// This node's replica.
pub type Replica = records::Replica<<LsmEngine as Engine>::Snapshot>;

/// A view of this node's replica, and of what it has answered over it.
pub type NodeView = Layered<Replica>;

/// Why a wait ended without a result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WaitError {
    /// Refused before anything was sent.
    #[error("no majority of the cluster has answered for a while")]
    NoQuorum,
    /// The session ended; nobody can say whether the commit was applied.
    #[error("this node was away for too long to know whether the change was made")]
    Unknown,
    /// The node has stopped.
    #[error("{0}")]
    Stopped(String),
}

/// What the node's thread is told.
pub enum Input {
    /// A message of a peer.
    Message(NodeId, bytes::Bytes),
    /// The log is durable up to this ticket.
    Persisted(u64),
    /// A flush has ended.
    Flushed(Result<(), String>),
    /// A disk failed: the node stops.
    StorageFailed {
        /// What happened.
        cause: String,
        /// For lack of room?
        full: bool,
    },
    /// Ship a plan.
    Commit {
        /// What was read.
        guards: Vec<Guard>,
        /// What to write.
        plan: Plan,
        /// For whom.
        author: Author,
        /// As of when the blobs that it names were stored, or found.
        stored_as_of: Tid,
        /// The object that it makes, if nothing of that was shipped or answered before.
        made: Option<ObjectId>,
        /// Gets the outcome, and a view that holds the commit.
        reply: oneshot::Sender<Result<(Option<Outcome>, NodeView), WaitError>>,
    },
    /// Ship a request that is neither about records nor about leases nor locks.
    Request {
        /// What is asked for.
        body: RequestBody,
        /// Gets the outcome, and a view that holds it.
        reply: oneshot::Sender<Result<(Option<Outcome>, NodeView), WaitError>>,
    },
    /// Confirm a read of these ranges.
    Confirm(Vec<KeyRange>, oneshot::Sender<Result<NodeView, WaitError>>),
    /// Confirm a view with all that any other node has answered in this volume.
    ConfirmLanded(VolumeId, oneshot::Sender<Result<NodeView, WaitError>>),
    /// A fresh object id.
    ObjectId(oneshot::Sender<Result<ObjectId, WaitError>>),
    /// Does the session hold this object open, although it has no name any more?
    Holds(ObjectId, oneshot::Sender<bool>),
    /// What is the node doing?
    Status(oneshot::Sender<NodeStatus>),
    /// Leases over these ranges would be useful: something there had to go through the quorum.
    Want(Vec<KeyRange>, Mode),
    /// There is much to ship, or something whose blob is stored now.
    Ship,
    /// Ship what was accepted up to this plan; answered when it has landed, or is lost.
    Sync(u64, oneshot::Sender<Result<(), WaitError>>),
    /// The fronts have forgotten.
    Forgotten(u64),
    /// Locks of files.
    Lock(LockInput),
    /// What a session lost because of this can be offered again.
    Offer(LostBecause, Vec<LostPlan>),
    /// The bytes of a lost plan are stored once more.
    OfferStored(u64, Tid),
    /// These blobs have been here for long, and no version names them.
    Unnamed(Vec<BlobId>),
    /// What collided is written down.
    Kept,
    /// A client needs a state of the replica.
    Client(ClientAsk, oneshot::Sender<Result<Replica, WaitError>>),
    /// A client wants to hear of its session.
    Watch(NodeId, WatchAsk, oneshot::Sender<WatchAnswer>),
    /// Stop.
    Stop,
}

/// The way into the node's queue.
#[derive(Clone)]
pub struct Inbox {
    sender: UnboundedSender<Input>,
    waiting: Arc<AtomicUsize>,
}

/// The other end of the node's queue.
pub struct Inputs {
    receiver: UnboundedReceiver<Input>,
    waiting: Arc<AtomicUsize>,
}

impl Inbox {
    /// Makes a queue.
    pub fn new() -> (Inbox, Inputs) {
        let (sender, receiver) = unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        (Inbox { sender, waiting: waiting.clone() }, Inputs { receiver, waiting })
    }

    /// Puts an input in line. Nothing happens if the node has stopped.
    pub fn push(&self, input: Input) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.sender.send(input);
    }

    /// Puts an input in line unless the line is full or the node has stopped.
    pub fn offer(&self, input: Input) -> bool {
        if self.waiting.load(Ordering::Relaxed) >= INBOX_MAX {
            return false;
        }
        self.push(input);
        !self.sender.is_closed()
    }
}

impl Inputs {
    /// Waits for inputs, for one tick at most, and takes a batch of them. False if none can come any more.
    async fn take(&mut self, batch: &mut Vec<Input>) -> bool {
        match tokio::time::timeout(TICK, self.receiver.recv_many(batch, BATCH_MAX)).await {
            Ok(taken) => {
                self.waiting.fetch_sub(taken, Ordering::Relaxed);
                taken > 0
            }
            Err(_) => true,
        }
    }
}

/// What others know of the node while it runs.
pub struct NodeHandle {
    /// The way in.
    pub inbox: Inbox,
    /// The runtime of the node's thread: what waits for the node, and has little to do then, goes on there without a change of threads.
    pub near: tokio::runtime::Handle,
    /// The records, to read views from.
    pub records: Arc<Records<LsmEngine>>,
    published: AtomicU64,
    /// Told of each Tid that views see from then on.
    pub news: tokio::sync::watch::Sender<Tid>,
    /// The clocks of this node.
    pub clocks: Clocks,
    /// What may be answered for without asking. Whoever answers under it holds the read side until the answer is handed over.
    pub usable: RwLock<Usable>,
    /// Who keeps answers.
    pub fronts: Arc<Fronts>,
    /// Opens and closes that the session has not heard of. It hears of them before any input that came after them: most need
    /// not wake the node's thread for that.
    /// What fronts open and close.
    pub opens: Opens,
    /// Of which leases that would be useful the session has heard.
    pub wants: Wants,
    /// Reads that were answered under leases.
    pub reads_leased: AtomicU64,
    /// Reads that had to be confirmed by the quorum.
    pub reads_confirmed: AtomicU64,
    /// What this node has answered, and the log does not have yet. Taken while `usable` is held, never the other way round.
    pub pending: Mutex<Pending>,
    /// Told when something has landed: there is room for more.
    pub room: tokio::sync::Notify,
    /// Changes that were answered before they were committed.
    pub answered_behind: AtomicU64,
    /// Of these, how many were not committed after all.
    pub lost: AtomicU64,
    /// How many were lost with a session, and committed by a later one.
    pub recovered: AtomicU64,
    /// What was lost with a session is being offered again. Changed, and looked at by who syncs, while `pending` is held.
    offering: AtomicBool,
    /// Changes that were answered and could not be committed.
    pub conflicts: Arc<Conflicts>,
    /// The objects that lost plans wrote, until somebody was told.
    lost_objects: Mutex<BTreeSet<ObjectId>>,
    /// Which past states can be read, and what they are called, as of the last entry that views see or later.
    pub past: RwLock<Past>,
    /// Some volume there is not used, or is a mirror, or was demoted or promoted.
    special: AtomicBool,
    /// Why the node has stopped, if it has.
    pub stopped: tokio::sync::watch::Sender<Option<String>>,
    /// Who leads, if this node knows.
    pub leader: tokio::sync::watch::Sender<Option<NodeId>>,
}

impl NodeHandle {
    /// A node that is about to run.
    pub fn new(
        inbox: Inbox,
        near: tokio::runtime::Handle,
        records: Arc<Records<LsmEngine>>,
        conflicts: Arc<Conflicts>,
    ) -> NodeHandle {
        let stopped = tokio::sync::watch::Sender::new(None);
        NodeHandle {
            inbox,
            near,
            records,
            published: AtomicU64::new(0),
            news: tokio::sync::watch::Sender::new(Tid::ZERO),
            clocks: Clocks::new(),
            usable: RwLock::default(),
            fronts: Arc::default(),
            opens: Opens::default(),
            wants: Wants::default(),
            reads_leased: AtomicU64::new(0),
            reads_confirmed: AtomicU64::new(0),
            pending: Mutex::default(),
            room: tokio::sync::Notify::new(),
            answered_behind: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            recovered: AtomicU64::new(0),
            offering: AtomicBool::new(false),
            conflicts,
            lost_objects: Mutex::default(),
            past: RwLock::default(),
            special: AtomicBool::new(false),
            stopped,
            leader: tokio::sync::watch::Sender::new(None),
        }
    }

    /// A view of the replica as it is: good to plan a change on, for the commit rule will judge it; not good for an answer.
    pub fn latest(&self) -> NodeView {
        let pending = self.pending.lock();
        Layered::new(self.replica(), pending.layer().clone())
    }

    /// The replica alone. Taken while `pending` is held, it does not hold what was accepted later than that.
    pub fn replica(&self) -> Replica {
        self.records.live(self.tid())
    }

    /// Is the volume used? Not if it was destroyed.
    pub fn is_used(&self, volume: VolumeId) -> bool {
        !self.special.load(Ordering::Acquire) || self.past.read().of(volume).is_some_and(VolumePast::is_living)
    }

    /// Is it used, and has it been neither demoted nor promoted since `turned` was known first? If it is not known yet, it is noted.
    pub fn is_as_before(&self, volume: VolumeId, turned: &OnceLock<Tid>) -> bool {
        let special = self.special.load(Ordering::Acquire);
        if !special && turned.get().is_some() {
            return true;
        }
        let past = self.past.read();
        let Some(past) = past.of(volume) else { return !special };
        past.is_living() && *turned.get_or_init(|| past.turned()) == past.turned()
    }

    /// Is the volume a mirror?
    pub fn is_mirror(&self, volume: VolumeId) -> bool {
        self.special.load(Ordering::Acquire) && self.past.read().is_mirror(volume)
    }

    /// Was anything lost that this node had answered about the object? Says so once.
    pub fn take_lost(&self, object: ObjectId) -> bool {
        self.lost_objects.lock().remove(&object)
    }

    /// Everything that was accepted so far is on a majority when this returns without an error.
    ///
    /// # Errors
    /// [`WaitError`] if some of it is lost, or the node has stopped.
    pub async fn sync(&self) -> Result<(), WaitError> {
        let last = {
            let pending = self.pending.lock();
            if pending.accepted() == pending.landed() && !self.offering.load(Ordering::Acquire) {
                return Ok(());
            }
            pending.accepted()
        };
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Input::Sync(last, reply));
        answer.await.unwrap_or_else(|_| Err(WaitError::Stopped("the node is shutting down".into())))
    }

    /// The last Tid that views of this replica see.
    pub fn tid(&self) -> Tid {
        Tid(self.published.load(Ordering::Acquire))
    }

    /// Why the node has stopped, if it has.
    pub fn failure(&self) -> Option<String> {
        self.stopped.borrow().clone()
    }
}

/// Reads the clocks.
pub struct Clocks {
    start_ns: u64,
}

impl Clocks {
    /// Time begins now.
    pub fn new() -> Clocks {
        // Starts at one second, so that "long ago" can be expressed in the first moments too.
        Clocks { start_ns: since_boot_ns().saturating_sub(1_000_000_000) }
    }

    /// What the clocks show.
    pub fn read(&self) -> Clock {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock { now: self.now(), wall_ns: wall.as_nanos() as u64 }
    }

    /// The monotonic clock.
    pub fn now(&self) -> Moment {
        Moment(since_boot_ns().saturating_sub(self.start_ns))
    }
}

/// Goes on while the machine is suspended: rights that run out must do so meanwhile.
fn since_boot_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Default for Clocks {
    fn default() -> Clocks {
        Clocks::new()
    }
}

/// The objects that a plan writes.
fn written_objects(lost: &LostPlan) -> BTreeSet<(VolumeId, ObjectId)> {
    let written = gavel_lease::written(&lost.plan);
    written.iter().filter_map(whole_objects).map(|(volume, first, _)| (volume, first)).collect()
}

enum Wait {
    Commit(oneshot::Sender<Result<(Option<Outcome>, NodeView), WaitError>>),
    Confirm(oneshot::Sender<Result<NodeView, WaitError>>),
    ObjectId(oneshot::Sender<Result<ObjectId, WaitError>>),
    Lock(LockWait),
    Client(oneshot::Sender<Result<Replica, WaitError>>),
    Watch(oneshot::Sender<WatchAnswer>),
}

impl Wait {
    fn fail(self, error: WaitError) {
        // Whoever has stopped waiting does not care.
        match self {
            Wait::Commit(reply) => drop(reply.send(Err(error))),
            Wait::Confirm(reply) => drop(reply.send(Err(error))),
            Wait::ObjectId(reply) => drop(reply.send(Err(error))),
            Wait::Lock(wait) => wait.end(Err(error)),
            Wait::Client(reply) => drop(reply.send(Err(error))),
            // It is asked again.
            Wait::Watch(reply) => drop(reply),
        }
    }
}

/// The node's thread. See the module's documentation.
pub struct NodeThread {
    /// The node.
    pub node: Node<LsmEngine>,
    /// What others see of it.
    pub handle: Arc<NodeHandle>,
    /// Its inputs.
    pub inputs: Inputs,
    /// For how long anything may be kept at most.
    pub term: Duration,
    /// For timers.
    pub tokio: tokio::runtime::Handle,
    /// The other nodes.
    pub peers: Peers,
    /// The log's thread.
    pub journal: Sender<Order>,
    /// The flushing thread.
    pub flusher: Sender<()>,
    /// Who keeps what is lost.
    pub keeper: UnboundedSender<keeper::Order>,
    /// The blobs.
    pub blobs: Arc<Blobs>,
    /// What was lost and is not offered yet: how often.
    pub preparing: usize,
    /// Some of what is being offered was lost for good.
    pub collided: bool,
    /// The runtime's context, which waits are answered in.
    pub waits: Waits,
    /// The right to answer has run out, and the fronts have been told.
    pub lapsed: bool,
    /// When something that was accepted was shipped last.
    pub shipped_at: Moment,
    /// It is not to be waited for more.
    pub ship_now: bool,
    /// How far the log is committed, if that is not written yet.
    pub unwritten: Unwritten,
}

/// Operations that wait.
#[derive(Default)]
pub struct Waits {
    next: Token,
    by_token: BTreeMap<Token, Wait>,
    /// Who waits until what was accepted up to a plan has landed.
    syncs: BTreeMap<u64, Vec<oneshot::Sender<Result<(), WaitError>>>>,
    /// Requests for locks, by the names that their fronts gave them.
    locks: BTreeMap<LockId, Token>,
    /// The same, and until it is known what becomes of what was lost.
    offered: Vec<(u64, oneshot::Sender<Result<(), WaitError>>)>,
}

impl Waits {
    fn add(&mut self, wait: Wait) -> Token {
        self.next += 1;
        self.by_token.insert(self.next, wait);
        self.next
    }
}

impl NodeThread {
    /// Runs until told to stop, or until the node fails. Says why in the handle.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let cause = loop {
            if !self.inputs.take(&mut batch).await {
                break "the node was dropped".into();
            }
            if let Err(cause) = self.turn(&mut batch).await {
                break self.told_before(&mut batch).await.unwrap_or(cause);
            }
        };
        let _ = self.write_commit_index();
        // A node that has stopped, for whatever it found, answers for nothing.
        *self.handle.usable.write() = Usable::default();
        for (_, wait) in std::mem::take(&mut self.waits.by_token) {
            wait.fail(WaitError::Stopped(cause.clone()));
        }
        let offered = std::mem::take(&mut self.waits.offered).into_iter().map(|(_, reply)| reply);
        for reply in std::mem::take(&mut self.waits.syncs).into_values().flatten().chain(offered) {
            let _ = reply.send(Err(WaitError::Stopped(cause.clone())));
        }
        self.handle.stopped.send_replace(Some(cause.clone()));
        self.refuse_the_rest(&cause, batch).await;
    }

    /// Takes a batch of inputs and carries out what follows. The error is why the node stops; the batch then holds what
    /// was not taken.
    /// Why a disk's thread has stopped, if one has: it has said so before, and that may wait in the queue still.
    async fn told_before(&mut self, batch: &mut Vec<Input>) -> Option<String> {
        for _ in 0..=INBOX_MAX / BATCH_MAX {
            let told = batch.iter().find_map(|input| match input {
                Input::StorageFailed { cause, .. } => Some(cause.clone()),
                _ => None,
            });
            if told.is_some() || !self.inputs.take(batch).await {
                return told;
            }
        }
        None
    }

    async fn turn(&mut self, batch: &mut Vec<Input>) -> Result<(), String> {
        self.handle.opens.tell(&mut self.node.session);
        // First of all: a node that has stood still must notice before it answers anybody.
        self.node.on_tick(self.handle.clocks.read());
        batch.reverse();
        while let Some(input) = batch.pop() {
            self.take(input)?;
        }
        self.ship_if_due();
        loop {
            let mut effects = self.node.take_effects(self.handle.clocks.read());
            if effects.is_empty() {
                break;
            }
            // What was accepted must not hide what is newer, from those who look at what is published.
            effects.sort_by_key(|effect| !matches!(effect, NodeEffect::Landed { .. }));
            let ships = effects.iter().any(|effect| matches!(effect, NodeEffect::ShipPending(_)));
            self.carry_out_all(effects).await?;
            if ships {
                self.ship();
            }
        }
        let held = self.node.session.take_held();
        if !held.is_empty() {
            self.handle.fronts.orphaned(held);
        }
        self.look_for_lapse();
        if self.unwritten.is_due(self.handle.clocks.now()) {
            self.write_commit_index()?;
        }
        Ok(())
    }

    /// What others wait for is on its way before this node's disk begins to write, and before it applies what is committed.
    async fn carry_out_all(&mut self, effects: Vec<NodeEffect>) -> Result<(), String> {
        let mut sent = false;
        for effect in effects {
            if sent && matches!(&effect, NodeEffect::Persist(persist) if persist.must_sync) {
                // The connections run on this thread, too: they write now.
                tokio::task::yield_now().await;
                sent = false;
            }
            sent |= matches!(effect, NodeEffect::Send { .. });
            self.carry_out(effect)?;
        }
        if sent && self.node.server.has_to_apply() {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn write(&mut self, persist: Persist) -> Result<(), String> {
        let write = self.unwritten.join(self.handle.clocks.now(), persist);
        write.map_or(Ok(()), |persist| self.order(Order::Write(persist)))
    }

    fn write_commit_index(&mut self) -> Result<(), String> {
        self.unwritten.take().map_or(Ok(()), |persist| self.order(Order::Write(persist)))
    }

    fn order(&mut self, order: Order) -> Result<(), String> {
        self.journal.send(order).map_err(|_| "the journal thread has stopped".into())
    }

    /// Ships what was accepted, unless a moment more would bring more.
    fn ship_if_due(&mut self) {
        let now = self.handle.clocks.now();
        let waited = now.since_ns(self.shipped_at) >= GATHER.as_nanos() as u64;
        if self.ship_now || waited {
            self.ship();
        }
    }

    fn ship(&mut self) {
        let clock = self.handle.clocks.read();
        let mut pending = self.handle.pending.lock();
        if self.node.ship_pending(clock, &mut pending) {
            self.shipped_at = clock.now;
        }
        self.ship_now = false;
    }

    fn on_landed(&mut self, last: u64, tid: Tid) {
        self.handle.pending.lock().on_landed(last, tid);
        self.handle.room.notify_waiters();
        let later = self.waits.syncs.split_off(&(last + 1));
        for reply in std::mem::replace(&mut self.waits.syncs, later).into_values().flatten() {
            let _ = reply.send(Ok(()));
        }
    }

    /// What was accepted and has not landed is lost, and offered again. Whoever answers has been stopped before.
    fn on_lost(&mut self, cause: LostBecause) {
        let lost = {
            let mut pending = self.handle.pending.lock();
            let lost = pending.lose();
            if !lost.is_empty() {
                self.handle.offering.store(true, Ordering::Release);
            }
            lost
        };
        self.handle.room.notify_waiters();
        let syncs = std::mem::take(&mut self.waits.syncs);
        let waiting = syncs.into_iter().flat_map(|(last, replies)| replies.into_iter().map(move |reply| (last, reply)));
        self.waits.offered.extend(waiting);
        if lost.is_empty() {
            return self.answer_syncs();
        }
        tracing::warn!(
            ?cause,
            changes = lost.len(),
            "changes that were answered are lost with the session, and offered to the next one"
        );
        let objects: BTreeSet<_> = lost.iter().flat_map(written_objects).collect();
        self.handle.fronts.forget_all();
        for (volume, object) in objects {
            self.handle.fronts.forget_object(volume, object);
        }
        self.preparing += 1;
        let _ = self.keeper.send(keeper::Order::Prepare(cause, lost));
    }

    /// A change that was answered is not committed.
    fn on_conflict(&mut self, lost: Box<LostPlan>, why: Collision) {
        self.collided = true;
        self.handle.lost.fetch_add(1, Ordering::Relaxed);
        let mut told = self.handle.lost_objects.lock();
        for (_, object) in written_objects(&lost) {
            if told.len() < LOST_OBJECTS_MAX {
                told.insert(object);
            }
        }
        drop(told);
        let _ = self.keeper.send(keeper::Order::Keep(lost, why));
    }

    /// Nothing that was lost is left to be offered, if nothing more was lost meanwhile.
    fn end_offering(&mut self) {
        if self.preparing == 0 && self.node.offers() == 0 {
            let _pending = self.handle.pending.lock();
            self.handle.offering.store(false, Ordering::Release);
        }
        self.answer_syncs();
    }

    /// Answers who waited to know what becomes of what was lost, if that is known.
    fn answer_syncs(&mut self) {
        if self.handle.offering.load(Ordering::Acquire) {
            return;
        }
        let collided = std::mem::take(&mut self.collided);
        let landed = self.handle.pending.lock().landed();
        for (last, reply) in std::mem::take(&mut self.waits.offered) {
            if collided {
                let _ = reply.send(Err(WaitError::Unknown));
            } else if landed >= last {
                let _ = reply.send(Ok(()));
            } else {
                self.waits.syncs.entry(last).or_default().push(reply);
            }
        }
    }

    /// Has the fronts forget: at once, or in a moment if the right to answer has run out, perhaps because this process stood still.
    fn when_taken_up(&self, forget: impl FnOnce() + Send + 'static) {
        if self.handle.usable.read().left_ns(self.handle.clocks.now()) > 0 {
            return forget();
        }
        self.tokio.spawn(async move {
            tokio::time::sleep(TAKEN_UP).await;
            forget();
        });
    }

    /// When the right to answer has run out, nothing that is kept without a time to live is good any more.
    fn look_for_lapse(&mut self) {
        let lapsed = self.handle.usable.read().left_ns(self.handle.clocks.now()) == 0;
        if lapsed && !std::mem::replace(&mut self.lapsed, lapsed) {
            let fronts = self.handle.fronts.clone();
            self.when_taken_up(move || fronts.forget_all());
        }
        self.lapsed = lapsed;
    }

    fn take(&mut self, input: Input) -> Result<(), String> {
        let clock = self.handle.clocks.read();
        match input {
            Input::Message(from, payload) => self.take_message(clock, from, &payload),
            Input::Persisted(ticket) => self.node.server.on_persisted(clock, ticket),
            Input::Flushed(result) => self.node.server.on_flushed(clock, result),
            Input::StorageFailed { cause, .. } => return Err(cause),
            Input::Commit { guards, plan, author, stored_as_of, made, reply } => {
                let token = self.waits.add(Wait::Commit(reply));
                made.into_iter().for_each(|object| self.node.session.will_make(object));
                self.node.commit(clock, token, guards, plan, author, stored_as_of);
            }
            Input::Request { body, reply } => {
                let token = self.waits.add(Wait::Commit(reply));
                self.node.request(clock, token, body);
            }
            Input::Confirm(reads, reply) => {
                let token = self.waits.add(Wait::Confirm(reply));
                self.node.confirm_read(clock, token, reads);
            }
            Input::ConfirmLanded(volume, reply) => {
                let token = self.waits.add(Wait::Confirm(reply));
                self.node.confirm_landed(clock, token, volume);
            }
            Input::ObjectId(reply) => {
                let token = self.waits.add(Wait::ObjectId(reply));
                self.node.session.object_id(clock.now, token);
            }
            Input::Holds(object, reply) => drop(reply.send(self.node.session.holds(object))),
            Input::Status(reply) => drop(reply.send(NodeStatus::of(&self.node, clock, &self.handle))),
            Input::Want(ranges, mode) => self.node.session.want(clock.now, &ranges, mode),
            Input::Ship => self.ship_now = true,
            Input::Sync(last, reply) => {
                self.ship_now = true;
                if self.handle.offering.load(Ordering::Acquire) {
                    self.waits.offered.push((last, reply));
                } else if self.handle.pending.lock().landed() >= last {
                    let _ = reply.send(Ok(()));
                } else {
                    self.waits.syncs.entry(last).or_default().push(reply);
                }
            }
            Input::Forgotten(id) => self.node.forgotten(id),
            Input::Lock(input) => self.take_lock(clock, input),
            Input::Offer(cause, lost) => {
                self.preparing -= 1;
                self.node.offer_again(cause, lost);
            }
            Input::OfferStored(number, as_of) => self.node.offer_stored(number, as_of),
            Input::Unnamed(blobs) => self.node.unnamed(clock, blobs),
            Input::Kept => self.end_offering(),
            Input::Client(ask, reply) => {
                let token = self.waits.add(Wait::Client(reply));
                self.node.ask_for_client(clock, token, ask);
            }
            Input::Watch(from, ask, reply) => {
                let token = self.waits.add(Wait::Watch(reply));
                self.node.watch(clock, token, from, ask);
            }
            Input::Stop => return Err("the node was stopped".into()),
        }
        Ok(())
    }

    fn take_message(&mut self, clock: Clock, from: NodeId, payload: &bytes::Bytes) {
        let result = match Message::decode_shared(payload) {
            Ok(message) => self.node.on_message(clock, from, message).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = result {
            tracing::warn!(%from, %error, "refused a message");
        }
    }

    fn carry_out(&mut self, effect: NodeEffect) -> Result<(), String> {
        match effect {
            // A message that can't be sent is a message lost; the protocol sends again.
            NodeEffect::Send { to, message } => {
                // What is lost is sent again; what can't be sent would be lost each time.
                if let Err(error) = self.peers.send(to, message.encode().into()) {
                    tracing::error!(peer = to.0, %error, "a message could not be sent; please report this");
                }
            }
            NodeEffect::Persist(persist) => self.write(persist)?,
            NodeEffect::TrimLog(index) => {
                self.write_commit_index()?;
                self.order(Order::Trim(index))?;
            }
            NodeEffect::Flush => self.flusher.send(()).map_err(|_| "the flusher thread has stopped")?,
            NodeEffect::Blobs(news) => self.blobs.on_news(&news),
            NodeEffect::BlobsSkipped(tid) => {
                let condemned = self.node.server.state().collection.condemned();
                self.blobs.skip(tid, condemned).map_err(|error| error.to_string())?;
            }
            NodeEffect::Published { tid, .. } => self.publish(tid),
            NodeEffect::Role(role) => {
                tracing::info!(role = ?role.role, leader = ?role.leader, term = %role.term, "role");
                self.handle.leader.send_replace(role.leader);
            }
            NodeEffect::Failed(failure) => return Err(failure.to_string()),
            NodeEffect::Outcome { token, outcome } => {
                if let Some(Wait::Commit(reply)) = self.waits.by_token.remove(&token) {
                    let view = self.view();
                    let _ = reply.send(Ok((outcome, view)));
                }
            }
            NodeEffect::Confirmed { token, .. } => match self.waits.by_token.remove(&token) {
                Some(Wait::Confirm(reply)) => drop(reply.send(Ok(self.view()))),
                // Without what this node has answered and not committed.
                Some(Wait::Client(reply)) => {
                    let replica = self.handle.records.live(self.node.server.state().tid);
                    drop(reply.send(Ok(replica)));
                }
                _ => {}
            },
            NodeEffect::Watched { token, answer } => {
                if let Some(Wait::Watch(reply)) = self.waits.by_token.remove(&token) {
                    let _ = reply.send(*answer);
                }
            }
            NodeEffect::Id { token, object } => {
                if let Some(Wait::ObjectId(reply)) = self.waits.by_token.remove(&token) {
                    let _ = reply.send(Ok(object));
                }
            }
            NodeEffect::NoQuorum { token } => self.fail(token, WaitError::NoQuorum),
            // Taking the lock waits for every answer that is being given under what was usable before.
            NodeEffect::Usable(usable) => *self.handle.usable.write() = usable,
            NodeEffect::Forget(to_forget) => {
                let (inbox, fronts, term) = (self.handle.inbox.clone(), self.handle.fronts.clone(), self.term);
                let (id, tokio) = (to_forget.id, self.tokio.clone());
                let forget = move || fronts.forget(&to_forget, term, &tokio, move || inbox.push(Input::Forgotten(id)));
                self.when_taken_up(forget);
            }
            NodeEffect::Unknown { token } => self.fail(token, WaitError::Unknown),
            NodeEffect::ShipPending(id) => self.handle.pending.lock().mark(id),
            NodeEffect::Landed { last, tid } => self.on_landed(last, tid),
            NodeEffect::Lost { cause } => self.on_lost(cause),
            NodeEffect::Lock { token, answer } => self.answer_lock(token, answer),
            NodeEffect::Offer(OfferEffect::Committed { .. }) => {
                self.handle.recovered.fetch_add(1, Ordering::Relaxed);
            }
            NodeEffect::Offer(OfferEffect::Conflict { lost, why }) => self.on_conflict(lost, why),
            NodeEffect::Offer(OfferEffect::Store { number, bytes }) => {
                let _ = self.keeper.send(keeper::Order::Store(number, bytes));
            }
            // Whoever waits is told when all is written down.
            NodeEffect::Offer(OfferEffect::Done) => drop(self.keeper.send(keeper::Order::Say)),
        }
        Ok(())
    }

    fn publish(&mut self, tid: Tid) {
        let past = &self.node.server.state().past;
        if self.handle.past.read().revision() != past.revision() {
            let floor = past.all_ids_from();
            self.publish_past(past);
            // Before anybody can make something in a mirror that was promoted: it is published below.
            if floor > ObjectId::VOLUME {
                self.node.session.skip_ids(floor);
                self.handle.pending.lock().skip_ids(floor);
            }
        }
        self.blobs.applied(tid);
        self.handle.published.store(tid.0, Ordering::Release);
        self.handle.news.send_replace(tid);
    }

    fn publish_past(&self, past: &Past) {
        let turned = |past: &Past| -> BTreeMap<VolumeId, Tid> {
            let living = past.volumes().filter(|(_, past)| past.is_living());
            living.map(|(volume, past)| (volume, past.turned())).collect()
        };
        let before = turned(&self.handle.past.read());
        let now = turned(past);
        let plain = |past: &VolumePast| past.is_living() && !past.is_mirror() && past.turned() == past.made;
        let special = past.volumes().any(|(_, past)| !plain(past));
        *self.handle.past.write() = past.clone();
        self.handle.special.store(special, Ordering::Release);
        // Nothing is answered there any more by whom it was, so nothing is handed out behind this.
        let gone = before.iter().filter(|(volume, turned)| now.get(volume) != Some(turned));
        gone.for_each(|(volume, _)| self.handle.fronts.forget_volume(*volume));
    }

    fn fail(&mut self, token: Token, error: WaitError) {
        if let Some(wait) = self.waits.by_token.remove(&token) {
            if let Wait::Lock(LockWait { id: Some(id), .. }) = &wait {
                self.waits.locks.remove(id);
            }
            wait.fail(error);
        }
    }

    /// A view as of the last entry that was applied. Never called in the middle of a catch-up.
    fn view(&self) -> NodeView {
        let pending = self.handle.pending.lock();
        Layered::new(self.handle.records.live(self.node.server.state().tid), pending.layer().clone())
    }

    /// The node has stopped: whoever still asks is told so, until the owner of the queue tells it to stop or drops it.
    async fn refuse_the_rest(&mut self, cause: &str, mut batch: Vec<Input>) {
        let stopped = || WaitError::Stopped(cause.to_owned());
        loop {
            for input in batch.drain(..) {
                match input {
                    Input::Commit { reply, .. } | Input::Request { reply, .. } => drop(reply.send(Err(stopped()))),
                    Input::Confirm(_, reply) => drop(reply.send(Err(stopped()))),
                    Input::Sync(_, reply) => drop(reply.send(Err(stopped()))),
                    Input::ObjectId(reply) => drop(reply.send(Err(stopped()))),
                    Input::Lock(input) => input.refuse(stopped()),
                    Input::Client(_, reply) => drop(reply.send(Err(stopped()))),
                    Input::Status(reply) => {
                        let mut status = NodeStatus::of(&self.node, self.handle.clocks.read(), &self.handle);
                        status.failure = Some(cause.to_owned());
                        let _ = reply.send(status);
                    }
                    Input::Stop => return,
                    _ => {}
                }
            }
            if Arc::strong_count(&self.handle) == 1 || !self.inputs.take(&mut batch).await {
                return;
            }
        }
    }
}
