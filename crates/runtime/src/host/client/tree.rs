//! The door for a client's mount: operations on their way, over what peers have read for them.

use super::blobs::ClientBlobs;
use super::cache::Cache;
use super::peers::{AskError, Pace, Peers};
use super::{InForce, Input, LockInput, Shared};
use crate::host::blobs::BlobsError;
use crate::host::clients::{
    ABOUT, About, CLEAR, ClearAsk, LockAsk, PAST, PastAsk, READ, RESOLVE, ReadAsk, ResolveAsk, TEST_LOCK,
};
use crate::host::fronts::ON_ITS_WAY;
use crate::host::node::WaitError;
use crate::host::opens::Pin;
use crate::host::tree::locks::{Reply as LockReply, is_about_locks, is_of_one_node, locked, unlocked};
use crate::host::tree::{PATIENCE, Waited, empty, not_sent, outcome_unknown, storage, within};
use gavel_client::remote::{Look, Question, Transcript};
use gavel_client::tree::Answered;
use gavel_client::{
    Answer, Forget, Keep, Leased, LockCall, LockError, LockId, NoState, Run, Space, Step, Tree, TreeError, TreeRequest,
};
use gavel_fs::FsError;
use gavel_fs::operation::{Caller, Operation};
use gavel_lease::range::guarded;
use gavel_types::{At, BlobId, KeyRange, Moment, ObjectId, SessionId, Tid, VolumeId, VolumeRef};
use gavel_wire::client::{decode, encode};
use gavel_wire::lock::{LockFile, LockKind, Span};
use gavel_wire::{Outcome, Refusal, RequestBody, View};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// One volume through a client.
pub struct ClientTree {
    inner: Arc<Inner>,
    tokio: Handle,
}

struct Inner {
    volume: VolumeId,
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    blobs: Arc<ClientBlobs>,
    past: Arc<Cache>,
}

impl ClientTree {
    pub(super) fn new(
        volume: VolumeId,
        shared: Arc<Shared>,
        peers: Arc<Peers>,
        blobs: Arc<ClientBlobs>,
        past: Arc<Cache>,
        tokio: Handle,
    ) -> ClientTree {
        ClientTree { inner: Arc::new(Inner { volume, shared, peers, blobs, past }), tokio }
    }
}

impl Tree for ClientTree {
    fn attach(&self, front: Weak<dyn Forget>) {
        self.inner.shared.fronts.attach(self.inner.volume, front);
    }

    fn volume(&self) -> VolumeId {
        self.inner.volume
    }

    fn submit(&self, caller: Caller, request: TreeRequest, answered: Answered) {
        let inner = self.inner.clone();
        match request {
            // Nothing is answered before it is committed.
            TreeRequest::Sync { .. } => answered(Ok(empty())),
            TreeRequest::Statfs => drop(self.tokio.spawn(async move { answered(inner.statfs().await) })),
            request if is_about_locks(&request) => self.lock(request, answered),
            TreeRequest::Past { at, request } => {
                self.tokio.spawn(async move { answered(inner.read_past(caller, at, *request).await) });
            }
            TreeRequest::Resolve { at } => drop(self.tokio.spawn(async move { answered(inner.resolve(&at).await) })),
            request => match UnderWay::new(self.inner.volume, caller, request) {
                Ok(under_way) => drop(self.tokio.spawn(async move { inner.answer(under_way, answered).await })),
                Err(error) => answered(Err(error)),
            },
        }
    }

    fn opened(&self, object: ObjectId) {
        self.inner.shared.opens.opened(object);
    }

    fn closed(&self, object: ObjectId) {
        self.inner.shared.opens.closed(object);
    }
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
        Ok(UnderWay { caller, run, creates, opens, reads })
    }
}

/// What comes of trying to answer under leases.
enum Tried {
    /// The answer; what of it may be kept is to be found out when it is handed over, by this.
    Answered(Box<(Result<Answer, TreeError>, Basis)>),
    /// Leases over these ranges are lacking; this is what was read.
    Lacks(Vec<KeyRange>, Transcript),
    /// Something else.
    No,
}

/// What an answer under leases stands on.
struct Basis {
    /// What might be answered when the read began, and when that was.
    began: (InForce, Moment),
    /// The run as it was before it was answered, and over what.
    run: Run,
    transcript: Transcript,
}

fn not_answered(error: AskError) -> TreeError {
    match error {
        AskError::TooLong(_) => TreeError::NoQuorum { cause: error.to_string() },
        AskError::NoVolume => FsError::Stale.into(),
        AskError::Unreadable(cause) => storage(cause),
    }
}

impl Inner {
    fn session(&self) -> SessionId {
        self.shared.known.lock().session.unwrap_or_default()
    }

    async fn answer(self: Arc<Self>, mut under_way: UnderWay, answered: Answered) {
        let mut lacking = Vec::new();
        let mut first = None;
        if under_way.run.is_fresh_read() {
            match self.try_leased(&under_way).await {
                Ok(Tried::Answered(found)) => {
                    let (result, basis) = *found;
                    self.shared.reads_leased.fetch_add(1, Ordering::Relaxed);
                    return self.hand_over(&under_way, result, &basis, answered);
                }
                Ok(Tried::Lacks(ranges, transcript)) => (lacking, first) = (ranges, Some(transcript)),
                Ok(Tried::No) => {}
                Err(error) => return answered(Err(error)),
            }
            self.shared.reads_confirmed.fetch_add(1, Ordering::Relaxed);
        }
        let bytes_of = under_way.reads;
        let mut pin = Pin::new(&self.shared.opens);
        let result = self.operate(&mut under_way, first, &mut pin).await;
        if !lacking.is_empty() {
            self.shared.tell(Input::Want(lacking));
        }
        if let Some(object) = bytes_of {
            self.shared.fronts.drop_bytes_soon(self.volume, object);
        }
        answered(result);
    }

    /// Answers a read under what may be answered for at this moment, from a state that is as late as all that is known at it.
    async fn try_leased(&self, under_way: &UnderWay) -> Result<Tried, TreeError> {
        let began = (self.shared.usable.read().clone(), self.shared.clocks.now());
        let (in_force, now) = &began;
        if in_force.usable.left_ns(*now) == 0 {
            return Ok(Tried::No);
        }
        // Said before the bytes are looked at: whoever has the file's bytes forgotten meanwhile must know.
        if let Some(object) = under_way.reads {
            self.shared.fronts.reading(self.volume, object);
        }
        let mut transcript = self.read(&under_way.run, Vec::new(), None).await?;
        loop {
            let mut run = under_way.run.clone();
            let tried = run.step_leased(&transcript, &in_force.usable, *now);
            let missed = transcript.take_missed();
            if !missed.is_empty() {
                transcript = self.read(&under_way.run, missed, None).await?;
                continue;
            }
            let step = match tried {
                Leased::Step(step) => step,
                Leased::Lacks(ranges) => return Ok(Tried::Lacks(ranges, transcript)),
                Leased::No => return Ok(Tried::No),
            };
            let result = match step {
                Step::Fetch(ids) => match run.fetched(&self.fetch_all(ids).await?) {
                    Step::Done(result) => result,
                    other => unreachable!("a run that has its blobs is done, not {other:?}"),
                },
                Step::Done(result) => result,
                _ => return Ok(Tried::No),
            };
            let basis = Basis { began, run: under_way.run.clone(), transcript };
            return Ok(Tried::Answered(Box::new((result, basis))));
        }
    }

    /// Gives an answer to whoever may keep it. What may be kept is judged while what is in force stays so.
    fn hand_over(&self, under_way: &UnderWay, result: Result<Answer, TreeError>, basis: &Basis, answered: Answered) {
        let in_force = self.shared.usable.read_recursive();
        let now = self.shared.clocks.now();
        let (keep, is_covered) = match &result {
            Ok(answer) => self.keep(answer.keep, basis, &in_force, now),
            Err(_) => (Keep::default(), true),
        };
        let opened = under_way.opens.as_ref().map(|(object, _)| *object);
        let result =
            result.map(|answer| Answer { keep: self.shared.fronts.hand_out(self.volume, opened, keep), ..answer });
        let described = result.as_ref().ok().and_then(Answer::object);
        let is_kept = matches!(&result, Ok(answer) if answer.keep != Keep::default());
        let bytes_kept = under_way.reads.is_some_and(|object| self.shared.fronts.reading(self.volume, object));
        answered(result);
        let late = self.shared.clocks.now().since_ns(now) > ON_ITS_WAY.as_nanos() as u64;
        drop(in_force);
        if late && (is_kept || bytes_kept) {
            self.shared.fronts.was_late(self.volume, described);
        }
        if let Some(object) = under_way.reads.filter(|_| !is_covered) {
            self.shared.fronts.drop_bytes_soon(self.volume, object);
        }
    }

    /// What of an answer may be kept under what is in force now, and whether it is still covered.
    fn keep(&self, at_first: Keep, basis: &Basis, in_force: &InForce, now: Moment) -> (Keep, bool) {
        let (began, then) = &basis.began;
        // Nothing was taken away since: nobody else has changed what was read.
        if began.losses == in_force.losses {
            let passed = now.since_ns(*then);
            let less = |ns: u64| ns.saturating_sub(passed);
            let keep = Keep { names_ns: less(at_first.names_ns), attrs_ns: less(at_first.attrs_ns), ..at_first };
            return (keep, true);
        }
        // It may have been given up and granted again: then what was read must be as late as that.
        if basis.transcript.tid() < in_force.tid {
            return (Keep::default(), false);
        }
        match basis.run.clone().step_leased(&basis.transcript, &in_force.usable, now) {
            Leased::Step(Step::Done(Ok(answer))) => (answer.keep, true),
            Leased::Step(_) => (Keep::default(), true),
            _ => (Keep::default(), false),
        }
    }

    /// What the next step of a run reads.
    async fn read(
        &self,
        run: &Run,
        missed: Vec<Look>,
        current: Option<Vec<KeyRange>>,
    ) -> Result<Transcript, TreeError> {
        let pace = if current.is_some() { Pace::Waiting } else { Pace::Quick };
        let ask =
            ReadAsk { session: self.session(), since: self.shared.tid(), current, question: run.question(missed) };
        self.peers.ask(READ, pace, &ask, PATIENCE).await.map_err(not_answered)
    }

    async fn operate(
        &self,
        under_way: &mut UnderWay,
        first: Option<Transcript>,
        pin: &mut Pin,
    ) -> Result<Answer, TreeError> {
        let UnderWay { caller, run, creates, opens, .. } = under_way;
        let mut transcript = first.unwrap_or_default();
        let mut current = None;
        let (mut stored_again, mut in_the_way) = (false, false);
        loop {
            let step = match run.step_over(&transcript) {
                Ok(step) => step,
                Err(missed) => {
                    transcript = self.read(run, missed, current.clone()).await?;
                    continue;
                }
            };
            match step {
                Step::Store(bytes) => {
                    // If it has to be stored once more, then by those who have applied what was in the way.
                    let again = std::mem::replace(&mut stored_again, true);
                    let since = if again { self.shared.tid() } else { Tid::ZERO };
                    run.stored(self.store(bytes, since).await?);
                    transcript = Transcript::default();
                }
                Step::Confirm(reads) => {
                    current = Some(reads);
                    transcript = self.read(run, Vec::new(), current.clone()).await?;
                    run.confirmed();
                }
                Step::NeedObjectId => {
                    let object = self.ask(Input::ObjectId).await.map_err(not_sent)?;
                    if *creates {
                        pin.hold(object);
                    }
                    run.fresh_id(object);
                }
                Step::Commit { guards, plan, author, stored_as_of, made } => {
                    let (reads, writes) = (guards.iter().map(guarded).collect(), gavel_lease::written(&plan));
                    if std::mem::take(&mut in_the_way) {
                        self.clear(reads, writes.clone()).await?;
                    }
                    let body = RequestBody::Commit { guards, plan, author, stored_as_of };
                    self.shared.commits.fetch_add(1, Ordering::Relaxed);
                    let outcome = self.ask(|reply| Input::Commit { body, writes, made, reply }).await;
                    let outcome = outcome.map_err(outcome_unknown)?;
                    in_the_way = outcome == Some(Outcome::Refused { refusal: Refusal::Leased });
                    run.outcome(outcome)?;
                    transcript = Transcript::default();
                }
                Step::Fetch(ids) => match run.fetched(&self.fetch_all(ids).await?) {
                    Step::Done(result) => return result,
                    other => unreachable!("a run that has its blobs is done, not {other:?}"),
                },
                Step::Done(result) => {
                    let stale = matches!(result, Err(TreeError::Fs(FsError::Stale)));
                    match opens.take() {
                        // It has lost its last name: only who has it open already can open it once more.
                        Some((object, request)) if stale && self.holds(object).await? => {
                            *run = Run::new(self.volume, *caller, request)?;
                            run.held();
                            transcript = Transcript::default();
                        }
                        _ => return result,
                    }
                }
            }
        }
    }

    /// Has others give up what is in the way of a commit.
    async fn clear(&self, reads: Vec<KeyRange>, writes: Vec<KeyRange>) -> Result<(), TreeError> {
        let ask = ClearAsk { session: self.session(), since: self.shared.tid(), reads, writes };
        self.peers.ask(CLEAR, Pace::Waiting, &ask, PATIENCE).await.map_err(not_answered)
    }

    async fn store(&self, bytes: bytes::Bytes, since: Tid) -> Result<Tid, TreeError> {
        let stored = async {
            loop {
                match self.blobs.store(bytes.clone(), since).await {
                    Ok(as_of) => return as_of,
                    Err(error) => tracing::debug!(%error, "bytes are not on a majority yet"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        within(stored).await
    }

    async fn fetch_all(&self, ids: Vec<BlobId>) -> Result<gavel_client::Blobs, TreeError> {
        let mut found = gavel_client::Blobs::new();
        for id in ids {
            let fetched = within(self.blobs.fetch(id)).await?;
            found.insert(id, fetched.map_err(|error: BlobsError| storage(error.to_string()))?);
        }
        Ok(found)
    }

    async fn holds(&self, object: ObjectId) -> Result<bool, TreeError> {
        let (reply, answer) = oneshot::channel();
        self.shared.tell(Input::Holds(object, reply));
        answer.await.map_err(|_| TreeError::Closed)
    }

    /// Asks the session's task, and waits for the answer as long as operations wait.
    async fn ask<T>(&self, input: impl FnOnce(oneshot::Sender<Result<T, WaitError>>) -> Input) -> Result<T, Waited> {
        let (reply, answer) = oneshot::channel();
        self.shared.tell(input(reply));
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(result))) => Ok(result),
            Ok(Ok(Err(error))) => Err(Waited::Error(error)),
            Ok(Err(_)) => Err(Waited::Error(WaitError::Stopped("the client is shutting down".into()))),
            Err(_) => Err(Waited::TooLong),
        }
    }

    async fn statfs(&self) -> Result<Answer, TreeError> {
        let volume = VolumeRef::from(self.volume).to_string();
        let about: About = self.peers.ask(ABOUT, Pace::Quick, &volume, PATIENCE).await.map_err(not_answered)?;
        let About { objects, bytes, bytes_free, .. } = about;
        Ok(Answer { space: Some(Space { bytes_total: bytes + bytes_free, bytes_free, objects }), ..empty() })
    }
}

// ---- The past: it does not change, so what was read of it is kept.

impl Inner {
    async fn read_past(&self, caller: Caller, at: Tid, request: TreeRequest) -> Result<Answer, TreeError> {
        let mut run = Run::new(self.volume, caller, request)?;
        let mut transcript = Transcript::default();
        loop {
            let step = match run.step_past_over(&transcript) {
                Ok(step) => step,
                Err(missed) => {
                    transcript = self.past_transcript(at, run.question(missed)).await?;
                    continue;
                }
            };
            return match step {
                Step::Done(result) => result,
                Step::Fetch(ids) => match run.fetched(&self.fetch_all(ids).await?) {
                    Step::Done(result) => result,
                    other => unreachable!("a run that has its blobs is done, not {other:?}"),
                },
                other => unreachable!("a read of the past asks for blobs at most, not {other:?}"),
            };
        }
    }

    /// What a peer has read of a past state, or had.
    async fn past_transcript(&self, at: Tid, question: Question) -> Result<Transcript, TreeError> {
        let ask = PastAsk { at, question };
        let name = BlobId::of(&encode(&ask));
        let past = self.past.clone();
        let cached = tokio::task::spawn_blocking(move || past.get(name)).await.ok().flatten();
        if let Some(transcript) = cached.and_then(|bytes| decode("cached answer", &bytes).ok()) {
            return Ok(transcript);
        }
        self.shared.past_asked.fetch_add(1, Ordering::Relaxed);
        let found: Result<Transcript, NoState> =
            self.peers.ask(PAST, Pace::Quick, &ask, PATIENCE).await.map_err(not_answered)?;
        let transcript = found?;
        let (past, bytes) = (self.past.clone(), encode(&transcript));
        tokio::task::spawn_blocking(move || past.put(name, &bytes));
        Ok(transcript)
    }

    async fn resolve(&self, at: &At) -> Result<Answer, TreeError> {
        let ask = ResolveAsk { volume: self.volume, at: at.to_string() };
        let found: Result<Tid, NoState> =
            self.peers.ask(RESOLVE, Pace::Waiting, &ask, PATIENCE).await.map_err(not_answered)?;
        Ok(Answer { at: Some(found?), ..empty() })
    }
}

// ---- Locks: as on a node, through the client's own session.

impl ClientTree {
    fn lock(&self, request: TreeRequest, answered: Answered) {
        let inner = self.inner.clone();
        let of_one_node = is_of_one_node(&request);
        match request {
            TreeRequest::Lock { object, family, owner, span, kind, pid, id, wait } => {
                let file = LockFile { volume: inner.volume, object, family };
                let call = LockCall::Lock { file, owner, span, kind, pid, wait };
                if of_one_node {
                    self.tokio.spawn(async move {
                        if let Err(error) = inner.not_held_elsewhere(file, owner, span).await {
                            return answered(Err(error));
                        }
                        let reply = inner.call(call, Some(id));
                        let give_up = move || inner.shared.tell(Input::Lock(LockInput::GiveUp(id)));
                        answered(locked(wait, reply, give_up).await);
                    });
                    return;
                }
                let reply = inner.call(call, Some(id));
                let give_up = move || inner.shared.tell(Input::Lock(LockInput::GiveUp(id)));
                self.tokio.spawn(async move { answered(locked(wait, reply, give_up).await) });
            }
            TreeRequest::Unlock { object, family, owner, span, closing } => {
                let file = LockFile { volume: inner.volume, object, family };
                let reply = inner.call(LockCall::Unlock { file, owner, span, closing }, None);
                self.tokio.spawn(async move { answered(unlocked(closing, reply).await) });
            }
            TreeRequest::TestLock { object, family, owner, span, kind } => {
                let file = LockFile { volume: inner.volume, object, family };
                self.tokio.spawn(async move {
                    let (session, since) = (inner.session(), inner.shared.tid());
                    let ask = LockAsk { session, since, file, owner, span, kind };
                    answered(inner.test_lock(file, owner, &ask).await);
                });
            }
            TreeRequest::CancelLock { id } => {
                inner.shared.tell(Input::Lock(LockInput::Cancel(id)));
                self.tokio.spawn(async move {
                    tokio::time::sleep(PATIENCE).await;
                    inner.shared.tell(Input::Lock(LockInput::GiveUp(id)));
                });
                answered(Ok(empty()));
            }
            other => unreachable!("{other:?} is not about locks"),
        }
    }
}

impl Inner {
    fn call(&self, call: LockCall, id: Option<LockId>) -> LockReply {
        let (reply, answer) = oneshot::channel();
        self.shared.tell(Input::Lock(LockInput::Call { call, id, reply }));
        answer
    }

    async fn not_held_elsewhere(&self, file: LockFile, owner: u64, span: Span) -> Result<(), TreeError> {
        let (session, since) = (self.session(), self.shared.tid());
        let ask = LockAsk { session, since, file, owner, span, kind: LockKind::Write };
        match self.test_lock(file, owner, &ask).await?.lock {
            Some(lock) if lock.owner.session != session => Err(LockError::Locked.into()),
            _ => Ok(()),
        }
    }

    async fn test_lock(&self, file: LockFile, owner: u64, ask: &LockAsk) -> Result<Answer, TreeError> {
        let lock = self.peers.ask(TEST_LOCK, Pace::Waiting, ask, PATIENCE).await.map_err(not_answered)?;
        let (reply, lost) = oneshot::channel();
        self.shared.tell(Input::HasLost(file, owner, reply));
        match lost.await {
            Ok(false) => Ok(Answer { lock, ..empty() }),
            Ok(true) => Err(LockError::Lost.into()),
            Err(_) => Err(TreeError::Closed),
        }
    }
}
