//! The door for mounts: operations on their way through this node.

use crate::host::blobs::{Blobs, BlobsError};
use crate::host::fronts::ON_ITS_WAY;
use crate::host::node::{Input, NodeHandle, Opening, WaitError};
use gavel_client::tree::Answered;
use gavel_client::{Answer, Forget, Keep, Leased, Run, Space, Step, Tree, TreeError, TreeRequest};
use gavel_fs::FsError;
use gavel_fs::operation::{Caller, Operation, Reply};
use gavel_types::{KeyRange, ObjectId, VolumeId};
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How long an operation waits for the quorum before its caller gets an error.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One volume through this node.
pub struct VolumeTree {
    inner: Arc<Inner>,
    tokio: Handle,
}

struct Inner {
    volume: VolumeId,
    node: Arc<NodeHandle>,
    blobs: Arc<Blobs>,
    data_dir: PathBuf,
}

impl VolumeTree {
    /// The volume `volume` through `node`; operations run on `tokio`.
    pub fn new(
        volume: VolumeId,
        node: Arc<NodeHandle>,
        blobs: Arc<Blobs>,
        data_dir: PathBuf,
        tokio: Handle,
    ) -> VolumeTree {
        VolumeTree { inner: Arc::new(Inner { volume, node, blobs, data_dir }), tokio }
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
        let asked = match request {
            TreeRequest::Statfs => Asked::Space,
            TreeRequest::Sync { .. } => Asked::Sync,
            request => match UnderWay::new(self.inner.volume, caller, request) {
                Ok(under_way) => Asked::Operation(Box::new(under_way)),
                Err(error) => return answered(Err(error)),
            },
        };
        let Some((asked, answered)) = self.inner.answer_leased(asked, answered) else { return };
        let inner = self.inner.clone();
        self.tokio.spawn(async move {
            let mut pin = Pin { node: inner.node.clone(), object: None };
            answered(inner.answer(asked, &mut pin).await);
        });
    }

    fn opened(&self, object: ObjectId) {
        self.inner.node.count_open(object, Opening::More);
    }

    fn closed(&self, object: ObjectId) {
        self.inner.node.count_open(object, Opening::Less);
    }
}

/// What is asked for.
enum Asked {
    Space,
    Sync,
    Operation(Box<UnderWay>),
}

/// An operation, as far as it has come.
struct UnderWay {
    caller: Caller,
    run: Run,
    /// It makes a file and opens it.
    creates: bool,
    /// The file that it opens.
    opens: Option<(ObjectId, TreeRequest)>,
    /// The file that it reads bytes of.
    reads: Option<ObjectId>,
    /// Leases that would have answered it.
    lacking: Vec<KeyRange>,
    /// What it needs next, if that is known already.
    next: Option<Step>,
}

impl UnderWay {
    fn new(volume: VolumeId, caller: Caller, request: TreeRequest) -> Result<UnderWay, TreeError> {
        let creates = matches!(request, TreeRequest::Operation(Operation::Create { .. }));
        let opens = match &request {
            TreeRequest::Operation(Operation::Open { object, .. }) => Some((*object, request.clone())),
            _ => None,
        };
        let reads = match &request {
            TreeRequest::Read { object, .. } => Some(*object),
            _ => None,
        };
        let run = Run::new(volume, caller, request)?;
        Ok(UnderWay { caller, run, creates, opens, reads, lacking: Vec::new(), next: None })
    }
}

impl Inner {
    /// Answers on this thread, if the node may answer without asking anybody. Gives back what it could not answer.
    fn answer_leased(&self, mut asked: Asked, answered: Answered) -> Option<(Asked, Answered)> {
        let Asked::Operation(under_way) = &mut asked else { return Some((asked, answered)) };
        let UnderWay { run, opens, reads, lacking, next, .. } = &mut **under_way;
        if !run.is_fresh_read() {
            return Some((asked, answered));
        }
        // In this order: the view holds everything up to the grants that were seen.
        // (A front may ask while it is given an answer: then this thread holds the lock already.)
        let usable = self.node.usable.read_recursive();
        let now = self.node.clocks.now();
        let view = self.node.latest();
        // Said before the bytes are looked at: whoever has the file's bytes forgotten meanwhile must know.
        let kept = reads.is_some_and(|object| self.node.fronts.reading(self.volume, object));
        let mut step = match run.step_leased(&view, &usable, now) {
            Leased::Step(step) => step,
            Leased::Lacks(ranges) => {
                *lacking = ranges;
                return Some((asked, answered));
            }
            Leased::No => return Some((asked, answered)),
        };
        if let Step::Fetch(ids) = &step
            && let Some(found) = self.blobs.in_memory(ids)
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
        let described = result.as_ref().ok().and_then(Answer::object);
        let keeps = matches!(&result, Ok(answer) if answer.keep != Keep::default()) || kept;
        answered(result);
        // This process may have stood still before the answer was out: then its time to live began too late.
        if keeps && self.node.clocks.now().since_ns(now) > ON_ITS_WAY.as_nanos() as u64 {
            self.node.fronts.forget_all();
            if let Some(object) = described {
                self.node.fronts.forget_object(self.volume, object);
            }
        }
        None
    }

    async fn answer(&self, asked: Asked, pin: &mut Pin) -> Result<Answer, TreeError> {
        match asked {
            Asked::Space => self.statfs().await,
            // Every operation is durable on a majority before it is answered: there is nothing left to wait for.
            Asked::Sync => Ok(empty()),
            Asked::Operation(under_way) => {
                let (reads, leased) = (under_way.reads, under_way.next.is_some());
                let mut under_way = *under_way;
                let lacking = std::mem::take(&mut under_way.lacking);
                let result = self.operate(under_way, pin).await;
                if !lacking.is_empty() {
                    self.node.reads_confirmed.fetch_add(1, Ordering::Relaxed);
                    self.node.inbox.push(Input::Want(lacking));
                }
                if let Some(object) = reads.filter(|_| !leased) {
                    self.drop_bytes_soon(object);
                }
                result
            }
        }
    }

    /// Bytes that were read with no lease are not to stay in a front that keeps this file's bytes. (It drops them when it has
    /// the answer, which it is waiting for.)
    fn drop_bytes_soon(&self, object: ObjectId) {
        if self.node.fronts.reading(self.volume, object) {
            self.node.fronts.forget_object(self.volume, object);
        }
    }

    async fn operate(&self, under_way: UnderWay, pin: &mut Pin) -> Result<Answer, TreeError> {
        let UnderWay { caller, mut run, creates, mut opens, mut next, .. } = under_way;
        let mut view = self.node.latest();
        loop {
            let step = next.take().unwrap_or_else(|| run.step(&view));
            match step {
                Step::Store(bytes) => {
                    let stored = within(self.blobs.store_on_majority(bytes)).await?;
                    stored.map_err(|error| self.store_error(error))?;
                    run.stored();
                    view = self.node.latest();
                }
                Step::Confirm => {
                    view = self.ask(Input::Confirm).await.map_err(not_sent)?;
                    run.confirmed();
                }
                Step::NeedObjectId => {
                    let object = self.ask(Input::ObjectId).await.map_err(not_sent)?;
                    if creates {
                        pin.hold(object);
                    }
                    run.fresh_id(object);
                }
                Step::Commit { guards, plan } => {
                    let shipped = self.ask(|reply| Input::Commit { guards, plan, reply }).await;
                    let (outcome, newer) = shipped.map_err(outcome_unknown)?;
                    view = newer;
                    run.outcome(outcome)?;
                }
                Step::Fetch(ids) => {
                    let mut found = gavel_client::Blobs::new();
                    for id in ids {
                        let fetched = within(self.blobs.fetch(id)).await?;
                        found.insert(id, fetched.map_err(|error| self.store_error(error))?);
                    }
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

/// Keeps a file that is being created open for this node until the mount has counted it as open itself: otherwise an
/// unlink elsewhere, applied between the creation and its answer, would find nobody holding it.
struct Pin {
    node: Arc<NodeHandle>,
    object: Option<ObjectId>,
}

impl Pin {
    fn hold(&mut self, object: ObjectId) {
        self.release();
        self.node.count_open(object, Opening::More);
        self.object = Some(object);
    }

    fn release(&mut self) {
        if let Some(object) = self.object.take() {
            self.node.count_open(object, Opening::Less);
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.release();
    }
}

enum Waited {
    Error(WaitError),
    TooLong,
}

/// The question was a read, or was refused before it was sent: nothing has changed.
fn not_sent(waited: Waited) -> TreeError {
    match waited {
        Waited::Error(WaitError::Stopped(cause)) => storage(cause),
        Waited::Error(error) => TreeError::NoQuorum { cause: error.to_string() },
        Waited::TooLong => TreeError::NoQuorum { cause: format!("no answer within {} s", PATIENCE.as_secs()) },
    }
}

/// A commit was shipped: without an answer nobody knows.
fn outcome_unknown(waited: Waited) -> TreeError {
    match waited {
        Waited::Error(error @ WaitError::NoQuorum) => TreeError::NoQuorum { cause: error.to_string() },
        Waited::Error(error) => TreeError::Unknown { cause: error.to_string() },
        Waited::TooLong => TreeError::Unknown { cause: format!("no outcome within {} s", PATIENCE.as_secs()) },
    }
}

async fn within<T>(future: impl Future<Output = T>) -> Result<T, TreeError> {
    let late = |_| TreeError::NoQuorum { cause: format!("no answer within {} s", PATIENCE.as_secs()) };
    tokio::time::timeout(PATIENCE, future).await.map_err(late)
}

fn storage(cause: String) -> TreeError {
    TreeError::Storage { cause, full: false }
}

fn empty() -> Answer {
    Answer { reply: Reply::Empty, attr: None, listed: Vec::new(), data: Vec::new(), space: None, keep: Keep::default() }
}
