//! Past states: what they are called, and reads of them.

use super::{Inner, VolumeTree, Waited, empty, not_sent, storage, within};
use crate::host::mirror::states as mirror;
use crate::host::node::{Input, NodeHandle};
use gavel_client::past::PAST_KEPT_NS;
use gavel_client::tree::Answered;
use gavel_client::{Answer, Blobs, Forget, Keep, NoState, Run, Step, Tree, TreeError, TreeRequest};
use gavel_fs::operation::Caller;
use gavel_fs::{FsError, Operation};
use gavel_types::{At, ObjectId, Tid, VolumeId};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// A time that is no further ahead than this is taken for now: clocks differ by a little.
const AHEAD_MAX: Duration = Duration::from_secs(1);

/// So long fronts keep what a state shows that is at its end, or that some objects do not keep: a program that walks a tree does not ask for
/// everything again.
const PAST_KEPT_NS_MIN: u64 = 1_000_000_000;

impl VolumeTree {
    /// Reads as of a past state: on this thread, unless blobs are to be fetched.
    pub(in crate::host) fn past(&self, caller: Caller, at: Tid, request: TreeRequest, answered: Answered) {
        let inner = self.inner.clone();
        if !inner.node.is_used(inner.volume) {
            return answered(Err(FsError::Stale.into()));
        }
        let mut run = match inner.past_run(caller, at, request) {
            Ok(run) => run,
            Err(error) => return answered(Err(error)),
        };
        let mut step = run.step_past(&inner.node.records.kept_at(at));
        if let Step::Fetch(ids) = &step
            && let Some(found) = inner.at_hand(ids)
        {
            step = run.fetched(&found);
        }
        // Asked behind the read: what was removed meanwhile was announced before.
        if let Err(error) = inner.check_whole(at) {
            return answered(Err(error));
        }
        let keep_ns = inner.node.past_kept_ns(inner.volume, at);
        let answered: Answered = Box::new(move |result| answered(result.map(|answer| kept_for(keep_ns, answer))));
        match step {
            Step::Done(result) => answered(result),
            Step::Fetch(ids) => {
                self.inner.tokio.spawn(async move {
                    answered(match inner.fetch_all(ids).await {
                        Ok(found) => match run.fetched(&found) {
                            Step::Done(result) => result,
                            other => unreachable!("a run that has its blobs is done, not {other:?}"),
                        },
                        Err(error) => Err(error),
                    });
                });
            }
            other => unreachable!("a read of the past asks for blobs at most, not {other:?}"),
        }
    }

    /// The state that the volume shows, if it is a mirror.
    pub(in crate::host) fn boundary(&self) -> Option<Tid> {
        let node = &self.inner.node;
        let boundary = node.past.read().of(self.inner.volume)?.boundary()?;
        mirror::wait_for(node, boundary);
        Some(boundary)
    }

    /// Which state is called so?
    pub(super) fn resolve(&self, at: At, answered: Answered) {
        let inner = self.inner.clone();
        self.inner.tokio.spawn(async move {
            let state = inner.resolve(&at).await;
            answered(state.map(|at| Answer { at: Some(at), ..empty() }));
        });
    }

    /// Which state of the volume is called so? It can be read on this node when this returns.
    ///
    /// # Errors
    /// [`TreeError::NoState`]; [`TreeError::NoQuorum`] if it is later than what this node has applied, and nobody confirms it.
    pub async fn state_at(&self, at: &At) -> Result<Tid, TreeError> {
        self.inner.resolve(at).await
    }

    /// The same, as a person has written it.
    ///
    /// # Errors
    /// What is wrong, in words that begin with what was written.
    pub async fn state_named(&self, text: &str) -> Result<Tid, String> {
        let at: At = text.parse().map_err(|error: gavel_types::at::AtError| error.to_string())?;
        self.state_at(&at).await.map_err(|error| format!("{text}: {error}"))
    }

    /// The present: what is committed now, with what this node has answered; without a quorum, what is known here.
    ///
    /// # Errors
    /// As [`VolumeTree::last`], but not [`TreeError::NoQuorum`].
    pub async fn present(&self) -> Result<Tid, TreeError> {
        // Not the state of this moment: what was answered before it is committed behind it.
        match self.last().await {
            Err(TreeError::NoQuorum { .. }) => Ok(self.inner.node.tid()),
            state => state,
        }
    }

    /// The last transaction of the cluster, which holds all that this node has answered, and which this node has applied.
    ///
    /// # Errors
    /// [`TreeError::NoQuorum`].
    pub async fn last(&self) -> Result<Tid, TreeError> {
        self.inner.confirm_all().await
    }

    /// The same, and it holds all that any node has answered in this volume before this was called. Takes as long as sessions of nodes that do not answer take to
    /// end, if these hold exclusive leases in the volume.
    ///
    /// # Errors
    /// [`TreeError::NoQuorum`].
    pub async fn landed(&self) -> Result<Tid, TreeError> {
        self.inner.confirm_landed().await
    }

    /// Reads as of a past state, and waits for the answer.
    ///
    /// # Errors
    /// As [`Tree::submit`] answers.
    pub async fn read_past(&self, at: Tid, request: TreeRequest) -> Result<Answer, TreeError> {
        let (reply, answer) = oneshot::channel();
        self.past(Caller::default(), at, request, Box::new(move |answer| drop(reply.send(answer))));
        answer.await.unwrap_or(Err(TreeError::Closed))
    }
}

/// The answer, to be kept for so long at most.
fn kept_for(ns: u64, answer: Answer) -> Answer {
    let Keep { names_ns, attrs_ns, bytes } = answer.keep;
    Answer { keep: Keep { names_ns: names_ns.min(ns), attrs_ns: attrs_ns.min(ns), bytes }, ..answer }
}

impl Inner {
    fn past_run(&self, caller: Caller, at: Tid, request: TreeRequest) -> Result<Run, TreeError> {
        if at > self.node.tid() {
            return Err(storage(format!("this node has not applied all that was committed up to {at}")));
        }
        self.node.check_state(self.volume, at)?;
        Run::new(self.volume, caller, request)
    }

    fn check_whole(&self, at: Tid) -> Result<(), TreeError> {
        match self.node.records.is_whole(self.volume, at) {
            true => Ok(()),
            false => Err(NoState::Pruned.into()),
        }
    }

    async fn resolve(&self, at: &At) -> Result<Tid, TreeError> {
        if let Some(state) = mirror::resolve(&self.node, self.volume, at) {
            match state {
                // It may have been received a moment ago.
                Err(TreeError::NoState(NoState::NotReceived)) => drop(self.confirm_all().await?),
                state => return state,
            }
            if let Some(state) = mirror::resolve(&self.node, self.volume, at) {
                return state;
            }
        }
        let wanted = match at {
            At::Snapshot(name) => match self.node.snapshot(self.volume, name) {
                Some(state) => state,
                None => {
                    // It may have got its name a moment ago.
                    self.confirm_all().await?;
                    self.node.snapshot(self.volume, name).ok_or(NoState::Unnamed)?
                }
            },
            At::Tid(tid) | At::Time(tid) => *tid,
            At::Age(ns) => Tid(self.node.cluster_ns().saturating_sub(*ns)),
        };
        if wanted.0 > self.node.cluster_ns().saturating_add(AHEAD_MAX.as_nanos() as u64) && wanted > self.node.tid() {
            return Err(NoState::Future.into());
        }
        let state = match wanted > self.node.tid() {
            // Tids only grow: what is committed later than this has a later one.
            true => self.confirm_all().await?.min(wanted),
            false => wanted,
        };
        let state = match at {
            // The last state that is there and not later; a transaction or a name means just that one.
            At::Time(_) | At::Age(_) => self.node.readable(self.volume, state),
            At::Tid(_) | At::Snapshot(_) => state,
        };
        self.node.check_state(self.volume, state)?;
        Ok(state)
    }

    /// Commits what this node has answered; the last transaction of the cluster, which this replica has applied.
    async fn confirm_all(&self) -> Result<Tid, TreeError> {
        // What can't be committed is reported where it was answered.
        let _ = within(self.node.sync()).await?;
        self.ask(|reply| Input::Confirm(Vec::new(), reply)).await.map_err(not_sent)?;
        Ok(self.node.tid())
    }

    /// The same, with what all other nodes have answered in this volume.
    async fn confirm_landed(&self) -> Result<Tid, TreeError> {
        let _ = within(self.node.sync()).await?;
        let (reply, answer) = oneshot::channel();
        self.node.inbox.push(Input::ConfirmLanded(self.volume, reply));
        // The node has its own patience with those who do not answer.
        match answer.await {
            Ok(Ok(_)) => Ok(self.node.tid()),
            Ok(Err(error)) => Err(not_sent(Waited::Error(error))),
            Err(_) => Err(TreeError::Closed),
        }
    }

    pub(super) async fn fetch_all(&self, ids: Vec<gavel_types::BlobId>) -> Result<Blobs, TreeError> {
        let mut found = Blobs::new();
        for id in ids {
            match self.at_hand(&[id]) {
                Some(at_hand) => found.extend(at_hand),
                None => {
                    let fetched = within(self.blobs.fetch(id)).await?;
                    found.insert(id, fetched.map_err(|error| self.store_error(error))?);
                }
            }
        }
        Ok(found)
    }
}

impl NodeHandle {
    /// Nanoseconds since the epoch by the cluster's clock, as far as this node knows it.
    pub fn cluster_ns(&self) -> u64 {
        let clock = self.clocks.read();
        let usable = self.usable.read();
        // Without a right to answer, nobody has told it.
        if usable.time.1 == 0 { clock.wall_ns } else { usable.cluster_ns(clock.now) }
    }

    fn snapshot(&self, volume: VolumeId, name: &str) -> Option<Tid> {
        Some(self.past.read().of(volume)?.snapshots.get(name)?.tid)
    }

    /// The newest state that can be read and is not later; the same one if there is none.
    fn readable(&self, volume: VolumeId, state: Tid) -> Tid {
        let past = self.past.read();
        past.of(volume).and_then(|past| past.readable_at_or_before(state)).unwrap_or(state)
    }

    /// For how long fronts may keep what a past state shows. What has been pruned is not shown for longer than that.
    fn past_kept_ns(&self, volume: VolumeId, at: Tid) -> u64 {
        let past = self.past.read();
        let stays = past.of(volume).map_or(0, |past| past.stays_ns(at, Tid(self.cluster_ns())));
        stays.clamp(PAST_KEPT_NS_MIN, PAST_KEPT_NS)
    }

    /// Is this a state that can be read?
    pub(in crate::host) fn check_state(&self, volume: VolumeId, state: Tid) -> Result<(), NoState> {
        let past = self.past.read();
        match past.of(volume) {
            Some(past) if past.can_read(state) => Ok(()),
            Some(past) if state >= past.made => Err(NoState::Pruned),
            Some(past) if past.origin.is_some() => Err(NoState::BeforeClone),
            _ => Err(NoState::BeforeVolume),
        }
    }
}

/// One state of a volume, for a mount of its own. Nothing can be changed there, and nothing is ever to be forgotten.
pub struct PastTree {
    tree: Arc<VolumeTree>,
    at: Tid,
}

impl PastTree {
    /// The state `at` of the volume of `tree`: one that [`VolumeTree::state_at`] gave.
    pub fn new(tree: Arc<VolumeTree>, at: Tid) -> PastTree {
        PastTree { tree, at }
    }
}

/// Answers what does not depend on which state a read-only tree shows; `read` answers the rest.
pub(in crate::host) fn answer_read_only(
    tree: &VolumeTree,
    caller: Caller,
    request: TreeRequest,
    answered: Answered,
    read: impl FnOnce(TreeRequest, Answered),
) {
    match request {
        TreeRequest::Statfs | TreeRequest::Resolve { .. } | TreeRequest::Past { .. } => {
            tree.submit(caller, request, answered);
        }
        TreeRequest::Sync { .. } => answered(Ok(empty())),
        // Nobody writes here, so nobody is in anybody's way.
        TreeRequest::Lock { .. } | TreeRequest::Unlock { .. } | TreeRequest::TestLock { .. } => answered(Ok(empty())),
        TreeRequest::CancelLock { .. } | TreeRequest::Write { .. } => answered(Err(FsError::ReadOnly.into())),
        TreeRequest::Operation(Operation::Open { truncate: true, .. }) => answered(Err(FsError::ReadOnly.into())),
        request => read(request, answered),
    }
}

impl Tree for PastTree {
    fn attach(&self, _: Weak<dyn Forget>) {}

    fn volume(&self) -> VolumeId {
        self.tree.volume()
    }

    fn submit(&self, caller: Caller, request: TreeRequest, answered: Answered) {
        answer_read_only(&self.tree, caller, request, answered, |request, answered| {
            self.tree.past(caller, self.at, request, answered);
        });
    }

    fn opened(&self, _: ObjectId) {}

    fn closed(&self, _: ObjectId) {}
}
