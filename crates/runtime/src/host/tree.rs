//! The door for mounts: operations on their way through this node.

mod ahead;
pub(in crate::host) mod locks;
mod past;

use ahead::Ahead;
pub use past::PastTree;
pub(super) use past::answer_read_only;

use crate::host::blobs::{Blobs, BlobsError};
use crate::host::fronts::ON_ITS_WAY;
use crate::host::mirror;
use crate::host::node::{GATHERED_MAX, Input, NodeHandle, WaitError};
use crate::host::opens::Pin;
use gavel_client::tree::Answered;
use gavel_client::{
    Answer, Behind, Forget, Keep, Leased, LookUp, Run, Space, Step, Taken, Tree, TreeError, TreeRequest,
};
use gavel_fs::FsError;
use gavel_fs::operation::{Caller, Operation, Reply};
use gavel_types::limits::INLINE_BYTES_MAX;
use gavel_types::{Blob, BlobId, KeyRange, Moment, ObjectId, Tid, VolumeId};
use gavel_wire::Mode;
use parking_lot::Mutex;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How long an operation waits for the quorum before its caller gets an error.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// With less room than this on the disk nothing is answered before it is committed: whoever writes is to be told that there is no room.
const ROOM_MIN_BYTES: u64 = 64 << 20;
/// How often that is looked at.
const ROOM_LOOK: Duration = Duration::from_millis(200);

/// One volume through this node.
pub struct VolumeTree {
    inner: Arc<Inner>,
}

struct Inner {
    volume: VolumeId,
    /// Since when the volume is what it is, as far as that is known. Whoever holds this is to begin anew when it is demoted, or promoted.
    turned: OnceLock<Tid>,
    /// Nothing is answered before it is committed.
    sync: bool,
    node: Arc<NodeHandle>,
    blobs: Arc<Blobs>,
    data_dir: PathBuf,
    /// When it was looked whether there is room on the disk, and what was found.
    room: Mutex<(Moment, bool)>,
    ahead: Ahead,
    tokio: Handle,
}

impl VolumeTree {
    /// The volume `volume` through `node`; operations run on `tokio`. `sync`: no change is answered before it is committed.
    pub fn new(
        volume: VolumeId,
        sync: bool,
        node: Arc<NodeHandle>,
        blobs: Arc<Blobs>,
        data_dir: PathBuf,
        tokio: Handle,
    ) -> VolumeTree {
        let (turned, room) = (OnceLock::new(), Mutex::new((Moment(0), true)));
        // If it is known already, it is noted.
        node.is_as_before(volume, &turned);
        let ahead = Ahead::new();
        let inner = Inner { volume, turned, sync, node, blobs, data_dir, room, ahead, tokio };
        VolumeTree { inner: Arc::new(inner) }
    }
}

impl VolumeTree {
    /// Is the volume used, and was it neither demoted nor promoted since this was made?
    pub(super) fn is_as_before(&self) -> bool {
        self.inner.is_as_before()
    }
}

impl Tree for VolumeTree {
    fn attach(&self, front: Weak<dyn Forget>) {
        self.inner.node.fronts.attach(self.inner.volume, front);
    }

    fn volume(&self) -> VolumeId {
        self.inner.volume
    }

    fn submit(&self, caller: Caller, request: TreeRequest, answered: Answered) {
        // Whoever has a lock gives it up, whatever the volume is by now.
        if matches!(request, TreeRequest::Unlock { .. } | TreeRequest::CancelLock { .. }) {
            return self.lock(request, answered);
        }
        if !self.inner.is_as_before() {
            return answered(Err(FsError::Stale.into()));
        }
        // It may be mounted by who did not know yet what it is.
        if !is_about_states(&request) && self.inner.node.is_mirror(self.inner.volume) {
            return mirror::submit(self, caller, request, answered);
        }
        let asked = match request {
            TreeRequest::Statfs => Asked::Space,
            TreeRequest::Sync { object } => Asked::Sync(object),
            request if locks::is_about_locks(&request) => return self.lock(request, answered),
            TreeRequest::Past { at, request } => return self.past(caller, at, *request, answered),
            TreeRequest::Resolve { at } => return self.resolve(at, answered),
            request => match UnderWay::new(self.inner.volume, caller, request) {
                Ok(under_way) => Asked::Operation(Box::new(under_way)),
                Err(error) => return answered(Err(error)),
            },
        };
        let Some((asked, answered)) = self.inner.answer_leased(asked, answered) else { return };
        let Some((asked, answered)) = self.inner.answer_behind(asked, answered) else { return };
        let inner = self.inner.clone();
        let near = asked.is_short();
        self.inner.begin(near, async move {
            let mut owed = Owed(Some(answered));
            let Some(mut asked) = inner.answer_when_there_is_room(asked, &mut owed).await else { return };
            let mut pin = Pin::new(&inner.node.opens);
            let look_up = asked.take_look_up();
            let answer = inner.answer(asked, &mut pin).await;
            // What was read meanwhile may be half of a step.
            let stale = !inner.is_as_before() || inner.node.is_mirror(inner.volume);
            match (answer, look_up) {
                _ if stale => owed.give(Err(FsError::Stale.into())),
                (Ok(answer), Some(look_up)) => inner.give_looked_up(owed, &look_up, answer),
                (answer, _) => owed.give(answer),
            }
        });
    }

    fn opened(&self, object: ObjectId) {
        self.inner.node.opens.opened(object);
    }

    fn closed(&self, object: ObjectId) {
        self.inner.node.opens.closed(object);
    }

    fn vouches(&self) -> bool {
        true
    }

    fn keep_bytes(&self, object: ObjectId, kept: &mut dyn FnMut()) {
        let Inner { volume, node, .. } = &*self.inner;
        // Who takes away what may be kept waits for this, and then has it forgotten. (A front may ask while it is given an answer.)
        let usable = node.usable.read_recursive();
        let may = usable.left_ns(node.clocks.now()) > 0 && usable.keeps.covers(&KeyRange::object(*volume, object));
        let keep = Keep { bytes: may && self.inner.is_as_before(), ..Keep::default() };
        if node.fronts.hand_out(*volume, Some(object), keep).bytes {
            kept();
        }
    }
}

/// An answer that somebody waits for. It is given even if the runtime ends before whoever was to find it.
struct Owed(Option<Answered>);

impl Owed {
    fn give(mut self, result: Result<Answer, TreeError>) {
        if let Some(answered) = self.0.take() {
            answered(result);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(answered) = self.0.take() {
            answered(Err(TreeError::Closed));
        }
    }
}

/// Is it no question about the volume's present?
fn is_about_states(request: &TreeRequest) -> bool {
    matches!(request, TreeRequest::Statfs | TreeRequest::Resolve { .. } | TreeRequest::Past { .. })
}

/// What is asked for.
enum Asked {
    Space,
    Sync(ObjectId),
    Operation(Box<UnderWay>),
}

impl Asked {
    /// Is there little to do but to wait for the node?
    fn is_short(&self) -> bool {
        match self {
            Asked::Space => false,
            Asked::Sync(_) => true,
            Asked::Operation(under_way) => under_way.short,
        }
    }

    /// The name that it looks up, if leases might cover that, and did not cover all of the answer.
    fn take_look_up(&mut self) -> Option<LookUp> {
        match self {
            Asked::Operation(under_way) => under_way.look_up.take(),
            _ => None,
        }
    }
}

/// Is there little to do for it but to wait for the node? Not where many bytes or many names are read or written.
fn is_short(request: &TreeRequest) -> bool {
    use Operation as O;
    match request {
        TreeRequest::Lookup { .. } => true,
        TreeRequest::Write { data, .. } => data.len() <= INLINE_BYTES_MAX,
        TreeRequest::Operation(operation) => match operation {
            O::Read { .. } | O::Write { .. } | O::Readdir { .. } | O::Fallocate { .. } | O::Seek { .. } => false,
            O::Setattr { set, .. } => set.size.is_none(),
            O::Open { truncate, .. } | O::Create { truncate, .. } => !truncate,
            _ => true,
        },
        _ => false,
    }
}

/// An operation, as far as it has come.
struct UnderWay {
    caller: Caller,
    run: Run,
    /// See [`is_short`].
    short: bool,
    /// It makes a file and opens it.
    creates: bool,
    /// The file that it opens.
    opens: Option<(ObjectId, TreeRequest)>,
    /// The file that it reads bytes of, and which.
    reads: Option<(ObjectId, Range<u64>)>,
    /// Leases that would have answered it: to read, and to write.
    lacking: (Vec<KeyRange>, Vec<KeyRange>),
    /// The name that it looks up, if leases were lacking.
    look_up: Option<LookUp>,
    /// It waits for room among what is pending.
    crowded: bool,
    /// What it needs next, if that is known already.
    next: Option<Step>,
}

impl UnderWay {
    fn new(volume: VolumeId, caller: Caller, request: TreeRequest) -> Result<UnderWay, TreeError> {
        let short = is_short(&request);
        let creates = matches!(request, TreeRequest::Operation(Operation::Create { .. }));
        let opens = match &request {
            TreeRequest::Operation(Operation::Open { object, .. }) => Some((*object, request.clone())),
            _ => None,
        };
        let reads = match &request {
            TreeRequest::Read { object, offset, len } => {
                Some((*object, *offset..offset.saturating_add(u64::from(*len))))
            }
            _ => None,
        };
        let run = Run::new(volume, caller, request)?;
        let (lacking, look_up, crowded, next) = Default::default();
        Ok(UnderWay { caller, run, short, creates, opens, reads, lacking, look_up, crowded, next })
    }
}

impl Inner {
    fn is_as_before(&self) -> bool {
        self.node.is_as_before(self.volume, &self.turned)
    }

    /// Carries a task as far as it comes without waiting, on this thread: nobody is waited for before the node has been asked. The rest is done on the node's
    /// thread (`near`), which gives the answer without a change of threads then, or by the daemon's runtime.
    fn begin(&self, near: bool, task: impl Future<Output = ()> + Send + 'static) {
        let tokio = if near { &self.node.near } else { &self.tokio };
        let mut task = Box::pin(task);
        let is_over = {
            let _runtime = tokio.enter();
            // Whatever wakes it before it was spawned is seen then: the runtime asks it at once.
            task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        if !is_over {
            tokio.spawn(task);
        }
    }

    /// Answers on this thread, if the node may answer without asking anybody. Gives back what it could not answer.
    fn answer_leased(self: &Arc<Self>, mut asked: Asked, answered: Answered) -> Option<(Asked, Answered)> {
        let Asked::Operation(under_way) = &mut asked else { return Some((asked, answered)) };
        let UnderWay { caller, run, opens, reads, lacking, look_up, next, .. } = &mut **under_way;
        if !run.is_fresh_read() {
            return Some((asked, answered));
        }
        // In this order: the view holds everything up to the grants that were seen.
        // (A front may ask while it is given an answer: then this thread holds the lock already.)
        let usable = self.node.usable.read_recursive();
        let now = self.node.clocks.now();
        let view = self.node.latest();
        // Said before the bytes are looked at: whoever has the file's bytes forgotten meanwhile must know.
        let kept = reads.as_ref().is_some_and(|(object, _)| self.node.fronts.reading(self.volume, *object));
        let mut step = match run.step_leased(&view, &usable, now) {
            Leased::Step(step) => step,
            Leased::Lacks(ranges) => {
                lacking.0 = ranges;
                *look_up = run.look_up();
                *next = Some(run.ask());
                return Some((asked, answered));
            }
            Leased::No => return Some((asked, answered)),
        };
        if let (Step::Fetch(_), Some((object, part))) = (&step, &*reads) {
            self.read_ahead(*caller, *object, part.clone());
        }
        if let Step::Fetch(ids) = &step
            && let Some(found) = self.at_hand(ids)
        {
            step = run.fetched(&found);
        }
        let Step::Done(result) = step else {
            *next = Some(step);
            return Some((asked, answered));
        };
        self.node.reads_leased.fetch_add(1, Ordering::Relaxed);
        let opened = opens.as_ref().map(|(object, _)| *object);
        let result =
            result.map(|answer| Answer { keep: self.node.fronts.hand_out(self.volume, opened, answer.keep), ..answer });
        let keeps = matches!(&result, Ok(answer) if answer.keep != Keep::default()) || kept;
        self.hand_over(now, keeps, answered, result);
        None
    }

    /// Gives the answer to a look-up that was confirmed: its name may be kept, if leases cover that.
    fn give_looked_up(&self, owed: Owed, look_up: &LookUp, answer: Answer) {
        let usable = self.node.usable.read_recursive();
        let now = self.node.clocks.now();
        let keep = look_up.keep(&answer, &self.node.latest(), &usable, now);
        let keep = self.node.fronts.hand_out(self.volume, None, keep);
        let answered = Box::new(move |result| owed.give(result));
        self.hand_over(now, keep != Keep::default(), answered, Ok(Answer { keep, ..answer }));
    }

    /// Gives an answer to whoever may keep it. `now` is when it was found out for how long.
    fn hand_over(&self, now: Moment, keeps: bool, answered: Answered, result: Result<Answer, TreeError>) {
        let described = result.as_ref().ok().and_then(Answer::object);
        answered(result);
        // This process may have stood still before the answer was out: then its time to live began too late.
        if keeps && self.node.clocks.now().since_ns(now) > ON_ITS_WAY.as_nanos() as u64 {
            self.node.fronts.was_late(self.volume, described);
        }
    }

    /// These blobs, if all of them are in memory.
    fn at_hand(&self, ids: &[BlobId]) -> Option<gavel_client::Blobs> {
        let found = ids.iter().map(|id| {
            let pending = || self.node.pending.lock().blob(id);
            Some((*id, pending().or_else(|| self.blobs.in_memory(id))?))
        });
        found.collect()
    }

    /// Answers a change on this thread, if leases allow that; it is committed in a moment. Gives back what could not be answered so.
    fn answer_behind(self: &Arc<Self>, mut asked: Asked, answered: Answered) -> Option<(Asked, Answered)> {
        let Asked::Operation(under_way) = &mut asked else { return Some((asked, answered)) };
        // A second front of this node would have to forget first.
        if under_way.run.is_fresh_read()
            || self.sync
            || self.is_condemned(&under_way.run)
            || self.node.fronts.count(self.volume) > 1
        {
            return Some((asked, answered));
        }
        under_way.crowded = false;
        let usable = self.node.usable.read_recursive();
        let now = self.node.clocks.now();
        if !self.has_room(now) {
            return Some((asked, answered));
        }
        let mut pending = self.node.pending.lock();
        let behind = under_way.run.step_behind(&self.node.replica(), &mut pending, &usable, now);
        let many = pending.accepted() - pending.shipped() > GATHERED_MAX;
        drop(pending);
        let (result, accepted) = match behind {
            Behind::Done { result, accepted } => (result, accepted),
            Behind::Lacks { reads, writes } => {
                under_way.lacking = (reads, writes);
                return Some((asked, answered));
            }
            Behind::Full => {
                under_way.crowded = true;
                return Some((asked, answered));
            }
            Behind::No => return Some((asked, answered)),
        };
        let mut pin = Pin::new(&self.node.opens);
        if let Some(Taken { number, made, store }) = accepted {
            self.node.answered_behind.fetch_add(1, Ordering::Relaxed);
            made.filter(|_| under_way.creates).into_iter().for_each(|object| pin.hold(object));
            if let Some(blob) = store {
                self.tokio.spawn(self.clone().store_behind(number, blob));
            }
            if many {
                self.node.inbox.push(Input::Ship);
            }
        }
        let result =
            result.map(|answer| Answer { keep: self.node.fronts.hand_out(self.volume, None, answer.keep), ..answer });
        let keeps = matches!(&result, Ok(answer) if answer.keep != Keep::default());
        self.hand_over(now, keeps, answered, result);
        None
    }

    /// Are the bytes of a write there already, and about to be collected? Then they are committed before it is answered: what is answered must not be
    /// refused.
    fn is_condemned(&self, run: &Run) -> bool {
        run.blob().is_some_and(|blob| self.blobs.is_condemned(blob))
    }

    /// Is there room on the disk, as far as is known?
    fn has_room(&self, now: Moment) -> bool {
        let mut room = self.room.lock();
        if now.since_ns(room.0) >= ROOM_LOOK.as_nanos() as u64 {
            let free = rustix::fs::statvfs(&self.data_dir).map(|disk| disk.f_bavail * disk.f_frsize);
            *room = (now, free.is_ok_and(|free| free >= ROOM_MIN_BYTES));
        }
        room.1
    }

    /// If what is pending leaves no room, waits until there is some, and tries again. Gives what is not answered so.
    async fn answer_when_there_is_room(self: &Arc<Self>, mut asked: Asked, owed: &mut Owed) -> Option<Asked> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let room = self.node.room.notified();
            let crowded = matches!(&asked, Asked::Operation(under_way) if under_way.crowded);
            let Some(answered) = owed.0.take_if(|_| crowded) else { return Some(asked) };
            let (again, answered) = self.answer_behind(asked, answered)?;
            (asked, owed.0) = (again, Some(answered));
            let crowded = matches!(&asked, Asked::Operation(under_way) if under_way.crowded);
            if crowded && tokio::time::timeout_at(until, room).await.is_err() {
                return Some(asked);
            }
        }
    }

    /// Stores the blob of a plan that was accepted, for as long as it takes, or until the plan is lost.
    async fn store_behind(self: Arc<Self>, number: u64, blob: Blob<bytes::Bytes>) {
        let given_up = || self.node.pending.lock().landed() >= number || self.node.failure().is_some();
        let Some(as_of) = self.blobs.store_until(blob, "that were answered", given_up).await else { return };
        self.node.pending.lock().stored(number, as_of);
        self.node.inbox.push(Input::Ship);
    }

    async fn sync(&self, object: ObjectId) -> Result<Answer, TreeError> {
        let lost = || TreeError::Unknown { cause: "changes of it were answered, and could not be committed".into() };
        let synced = within(self.node.sync()).await?;
        if self.node.take_lost(object) {
            return Err(lost());
        }
        match synced {
            Ok(()) => Ok(empty()),
            Err(WaitError::Stopped(cause)) => Err(storage(cause)),
            Err(_) => Err(lost()),
        }
    }

    async fn answer(self: &Arc<Self>, asked: Asked, pin: &mut Pin) -> Result<Answer, TreeError> {
        match asked {
            Asked::Space => self.statfs().await,
            Asked::Sync(object) => self.sync(object).await,
            Asked::Operation(under_way) => {
                let bytes_of = under_way.reads.as_ref().map(|(object, _)| *object);
                let leased = matches!(under_way.next, Some(Step::Fetch(_)));
                let mut under_way = *under_way;
                let lacking = std::mem::take(&mut under_way.lacking);
                let result = self.operate(under_way, pin).await;
                let (reads, writes) = lacking;
                if !reads.is_empty() {
                    self.node.reads_confirmed.fetch_add(1, Ordering::Relaxed);
                }
                self.want(reads, Mode::Shared);
                self.want(writes, Mode::Exclusive);
                if let Some(object) = bytes_of.filter(|_| !leased) {
                    self.node.fronts.drop_bytes_soon(self.volume, object);
                }
                result
            }
        }
    }

    /// Leases over these ranges would have answered an operation.
    fn want(&self, ranges: Vec<KeyRange>, mode: Mode) {
        let news = self.node.wants.news(self.node.clocks.now(), ranges, mode);
        if !news.is_empty() {
            self.node.inbox.push(Input::Want(news, mode));
        }
    }

    async fn operate(self: &Arc<Self>, under_way: UnderWay, pin: &mut Pin) -> Result<Answer, TreeError> {
        let UnderWay { caller, mut run, creates, mut opens, mut reads, mut next, .. } = under_way;
        // Then it was seen already.
        reads.take_if(|_| matches!(next, Some(Step::Fetch(_))));
        run.id().filter(|_| creates).into_iter().for_each(|object| pin.hold(object));
        let mut view = self.node.latest();
        let mut again = false;
        loop {
            let step = next.take().unwrap_or_else(|| run.step(&view));
            match step {
                Step::Store(bytes) => {
                    // If it has to be stored once more, then by those who have applied what was in the way.
                    let since = if std::mem::replace(&mut again, true) { self.node.tid() } else { Tid::ZERO };
                    let stored = within(self.blobs.store_on_majority_since(bytes, since)).await?;
                    run.stored(stored.map_err(|error| self.store_error(error))?);
                    view = self.node.latest();
                }
                Step::Confirm(reads) => {
                    view = self.ask(|reply| Input::Confirm(reads, reply)).await.map_err(not_sent)?;
                    run.confirmed();
                }
                Step::NeedObjectId => {
                    let object = self.ask(Input::ObjectId).await.map_err(not_sent)?;
                    if creates {
                        pin.hold(object);
                    }
                    run.fresh_id(object);
                }
                Step::Commit { guards, plan, author, stored_as_of, made } => {
                    let commit = |reply| Input::Commit { guards, plan, author, stored_as_of, made, reply };
                    let shipped = self.ask(commit).await;
                    let (outcome, newer) = shipped.map_err(outcome_unknown)?;
                    view = newer;
                    run.outcome(outcome)?;
                }
                Step::Fetch(ids) => {
                    if let Some((object, part)) = reads.take() {
                        self.read_ahead(caller, object, part);
                    }
                    let found = self.fetch_all(ids).await?;
                    match run.fetched(&found) {
                        Step::Done(result) => return result,
                        other => unreachable!("a run that has its blobs is done, not {other:?}"),
                    }
                }
                Step::Done(result) => {
                    let stale = matches!(result, Err(TreeError::Fs(FsError::Stale)));
                    match opens.take() {
                        // It has lost its last name: only a node that has it open already can open it once more.
                        Some((object, request)) if stale && self.holds(object).await? => {
                            run = Run::new(self.volume, caller, request)?;
                            run.held();
                            view = self.node.latest();
                        }
                        _ => return result,
                    }
                }
            }
        }
    }

    /// Does this node have the object open, although it has no name any more?
    async fn holds(&self, object: ObjectId) -> Result<bool, TreeError> {
        let (reply, answer) = oneshot::channel();
        self.node.inbox.push(Input::Holds(object, reply));
        answer.await.map_err(|_| TreeError::Closed)
    }

    /// Asks the node's thread, and waits for the answer as long as operations wait.
    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<Result<T, WaitError>>) -> Input) -> Result<T, Waited> {
        let (reply, answer) = oneshot::channel();
        self.node.inbox.push(input(reply));
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(result))) => Ok(result),
            Ok(Ok(Err(error))) => Err(Waited::Error(error)),
            Ok(Err(_)) => Err(Waited::Error(WaitError::Stopped("the node is shutting down".into()))),
            Err(_) => Err(Waited::TooLong),
        }
    }

    async fn statfs(&self) -> Result<Answer, TreeError> {
        let (reply, status) = oneshot::channel();
        self.node.inbox.push(Input::Status(reply));
        let status = status.await.map_err(|_| TreeError::Closed)?;
        let counts = status.volumes.iter().find(|volume| volume.id == self.volume.0);
        let (objects, used) = counts.map_or((0, 0), |volume| (volume.objects, volume.bytes));
        let disk = rustix::fs::statvfs(&self.data_dir).map_err(|error| storage(error.to_string()))?;
        let bytes_free = disk.f_bavail * disk.f_frsize;
        let space = Space { bytes_total: used + bytes_free, bytes_free, objects };
        Ok(Answer { space: Some(space), ..empty() })
    }

    fn store_error(&self, error: BlobsError) -> TreeError {
        match error {
            BlobsError::NoMajority { .. } => {
                let disk = rustix::fs::statvfs(&self.data_dir);
                let full = disk.is_ok_and(|disk| disk.f_bavail * disk.f_frsize < (1 << 20));
                if full {
                    TreeError::Storage { cause: error.to_string(), full }
                } else {
                    TreeError::NoQuorum { cause: error.to_string() }
                }
            }
            BlobsError::Unavailable { .. } => storage(error.to_string()),
        }
    }
}

pub(in crate::host) enum Waited {
    Error(WaitError),
    TooLong,
}

/// The question was a read, or was refused before it was sent: nothing has changed.
pub(in crate::host) fn not_sent(waited: Waited) -> TreeError {
    match waited {
        Waited::Error(WaitError::Stopped(cause)) => storage(cause),
        Waited::Error(error) => TreeError::NoQuorum { cause: error.to_string() },
        Waited::TooLong => TreeError::NoQuorum { cause: format!("no answer within {} s", PATIENCE.as_secs()) },
    }
}

/// A commit was shipped: without an answer nobody knows.
pub(in crate::host) fn outcome_unknown(waited: Waited) -> TreeError {
    match waited {
        Waited::Error(error @ WaitError::NoQuorum) => TreeError::NoQuorum { cause: error.to_string() },
        Waited::Error(error) => TreeError::Unknown { cause: error.to_string() },
        Waited::TooLong => TreeError::Unknown { cause: format!("no outcome within {} s", PATIENCE.as_secs()) },
    }
}

pub(in crate::host) async fn within<T>(future: impl Future<Output = T>) -> Result<T, TreeError> {
    let late = |_| TreeError::NoQuorum { cause: format!("no answer within {} s", PATIENCE.as_secs()) };
    tokio::time::timeout(PATIENCE, future).await.map_err(late)
}

pub(in crate::host) fn storage(cause: String) -> TreeError {
    TreeError::Storage { cause, full: false }
}

pub(in crate::host) fn empty() -> Answer {
    Answer::of(Reply::Empty)
}
