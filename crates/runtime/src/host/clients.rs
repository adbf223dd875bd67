//! What a node answers clients that have no replica: `docs/protocols/client.md`.

use crate::host::blobs::Blobs;
use crate::host::node::{Input, LockInput, NodeHandle, Replica, WaitError};
use crate::host::tree::VolumeTree;
use crate::host::volumes;
use crate::net::BulkFailure;
use bytes::Bytes;
use gavel_client::remote::{Question, Transcript};
use gavel_client::{NoState, TreeError};
use gavel_node::clients::ClientAsk;
use gavel_types::{KeyRange, NodeId, SessionId, Tid, VolumeId, VolumeRef};
use gavel_wire::client::{WatchAsk, decode, encode};
use gavel_wire::lock::{Lock, LockFile, LockKind, LockOwner, Span};
use gavel_wire::{DecodeError, ViewError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bulk request: run an operation and say what it reads: a [`ReadAsk`]; the answer is [`Answered`] with a transcript.
pub const READ: u8 = 3;
/// Bulk request: have leases given up that are in the way of a commit: a [`ClearAsk`]; the answer is [`Answered`] with nothing.
pub const CLEAR: u8 = 4;
/// Bulk request: news of the client's session: a [`WatchAsk`]; the answer is a `WatchAnswer`.
pub const WATCH: u8 = 5;
/// Bulk request: which lock is in the way of one: a [`LockAsk`]; the answer is [`Answered`] with the lock, if there is one.
pub const TEST_LOCK: u8 = 7;
/// Bulk request: run a read over a past state and say what it reads: a [`PastAsk`]; the answer is [`Answered`] with a transcript, or why
/// there is no such state.
pub const PAST: u8 = 8;
/// Bulk request: which state is called so: a [`ResolveAsk`]; the answer is [`Answered`] with its Tid, or why there is none.
pub const RESOLVE: u8 = 9;
/// Bulk request: a volume, by its name or number: a [`VolumeRef`] as text; the answer is [`Answered`] with an [`About`].
pub const ABOUT: u8 = 6;

/// See [`READ`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReadAsk {
    /// The client's session; 0 if it has none.
    pub session: SessionId,
    /// The state must have applied this.
    pub since: Tid,
    /// The state must be current for these ranges.
    pub current: Option<Vec<KeyRange>>,
    /// What is to be read.
    pub question: Question,
}

/// See [`CLEAR`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClearAsk {
    /// The client's session.
    pub session: SessionId,
    /// As late as this.
    pub since: Tid,
    /// Nobody else may hold these exclusively.
    pub reads: Vec<KeyRange>,
    /// Nobody else may hold these.
    pub writes: Vec<KeyRange>,
}

/// See [`TEST_LOCK`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LockAsk {
    /// The client's session.
    pub session: SessionId,
    /// As late as this.
    pub since: Tid,
    /// On which file.
    pub file: LockFile,
    /// Whose it would be.
    pub owner: u64,
    /// Of which bytes.
    pub span: Span,
    /// To do what.
    pub kind: LockKind,
}

/// See [`PAST`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PastAsk {
    /// The state.
    pub at: Tid,
    /// What is to be read.
    pub question: Question,
}

/// See [`RESOLVE`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ResolveAsk {
    /// The volume.
    pub volume: VolumeId,
    /// The name, as a person would write it.
    pub at: String,
}

/// An answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Answered<T> {
    /// This.
    Done(T),
    /// Not yet: ask again, here or elsewhere.
    NotYet,
    /// The volume is not used.
    NoVolume,
    /// The records can't be read here.
    Unreadable(String),
}

/// See [`ABOUT`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct About {
    /// Its number.
    pub volume: VolumeId,
    /// It is a mirror.
    pub is_mirror: bool,
    /// Live objects, and bytes of live extents.
    pub objects: u64,
    /// The same.
    pub bytes: u64,
    /// Room on the disk of the node that answers, in bytes.
    pub bytes_free: u64,
}

/// Answers clients.
pub struct Clients {
    node: Arc<NodeHandle>,
    blobs: Arc<Blobs>,
    data_dir: PathBuf,
}

fn malformed(error: DecodeError) -> BulkFailure {
    BulkFailure(error.to_string())
}

fn done<T: Serialize>(answer: &T) -> Result<Bytes, BulkFailure> {
    Ok(Bytes::from(encode(answer)))
}

impl Clients {
    /// For a node with its data in `data_dir`.
    pub fn new(node: Arc<NodeHandle>, blobs: Arc<Blobs>, data_dir: PathBuf) -> Clients {
        Clients { node, blobs, data_dir }
    }

    /// Answers a client's request.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn answer(&self, from: NodeId, kind: u8, payload: Bytes) -> Result<Bytes, BulkFailure> {
        match kind {
            READ => done(&self.read(decode("question of a client", &payload).map_err(malformed)?).await?),
            CLEAR => {
                let ClearAsk { session, since, reads, writes } =
                    decode("question of a client", &payload).map_err(malformed)?;
                let ask = ClientAsk { session, since, current: false, reads, writes };
                done(&self.state(ask).await?.map_or(Answered::NotYet, |_| Answered::Done(())))
            }
            WATCH => {
                let ask: WatchAsk = decode("question of a client", &payload).map_err(malformed)?;
                let (reply, answer) = oneshot::channel();
                self.node.inbox.push(Input::Watch(from, ask, reply));
                done(&answer.await.map_err(|_| BulkFailure("the node is shutting down".into()))?)
            }
            TEST_LOCK => self.test_lock(decode("question of a client", &payload).map_err(malformed)?).await,
            PAST => done(&self.past(decode("question of a client", &payload).map_err(malformed)?).await),
            RESOLVE => done(&self.resolve(decode("question of a client", &payload).map_err(malformed)?).await),
            ABOUT => self.about(&payload).await,
            other => Err(BulkFailure(format!("no request of a client has kind {other}"))),
        }
    }

    async fn read(&self, ask: ReadAsk) -> Result<Answered<Transcript>, BulkFailure> {
        let ReadAsk { session, since, current, question } = ask;
        // What lies behind the boundary of a mirror may be half of a step.
        if !self.node.is_used(question.volume()) || self.node.is_mirror(question.volume()) {
            return Ok(Answered::NoVolume);
        }
        let (current, reads) = (current.is_some(), current.unwrap_or_default());
        let ask = ClientAsk { session, since, current, reads, writes: Vec::new() };
        let Some(replica) = self.state(ask).await? else { return Ok(Answered::NotYet) };
        // It may be long, and others share this thread.
        let observed = tokio::task::spawn_blocking(move || question.observe(&replica)).await;
        Ok(match observed {
            Ok(Ok(transcript)) => Answered::Done(transcript),
            Ok(Err(error)) => Answered::Unreadable(error.to_string()),
            Err(error) => Answered::Unreadable(error.to_string()),
        })
    }

    async fn past(&self, ask: PastAsk) -> Answered<Result<Transcript, NoState>> {
        let PastAsk { at, question } = ask;
        let volume = question.volume();
        if !self.node.is_used(volume) {
            return Answered::NoVolume;
        }
        if at > self.node.tid() {
            return Answered::NotYet;
        }
        if let Err(error) = self.node.check_state(volume, at) {
            return Answered::Done(Err(error));
        }
        let records = self.node.records.clone();
        let observed = tokio::task::spawn_blocking(move || question.observe(&records.kept_at(at))).await;
        // Asked behind the read: what was removed meanwhile was announced before.
        if !self.node.records.is_whole(volume, at) {
            return Answered::Done(Err(NoState::Pruned));
        }
        match observed {
            Ok(Ok(transcript)) => Answered::Done(Ok(transcript)),
            Ok(Err(ViewError::Pruned { .. })) => Answered::Done(Err(NoState::Pruned)),
            Ok(Err(error)) => Answered::Unreadable(error.to_string()),
            Err(error) => Answered::Unreadable(error.to_string()),
        }
    }

    async fn resolve(&self, ask: ResolveAsk) -> Answered<Result<Tid, NoState>> {
        let ResolveAsk { volume, at } = ask;
        if !self.node.is_used(volume) {
            return Answered::NoVolume;
        }
        let Ok(at) = at.parse() else { return Answered::Done(Err(NoState::Unnamed)) };
        let (node, blobs, dir) = (self.node.clone(), self.blobs.clone(), self.data_dir.clone());
        let tree = VolumeTree::new(volume, true, node, blobs, dir, tokio::runtime::Handle::current());
        match tree.state_at(&at).await {
            Ok(tid) => Answered::Done(Ok(tid)),
            Err(TreeError::NoState(error)) => Answered::Done(Err(error)),
            Err(TreeError::NoQuorum { .. }) => Answered::NotYet,
            Err(error) => Answered::Unreadable(error.to_string()),
        }
    }

    /// A state of the replica; none if there was none in time.
    async fn state(&self, ask: ClientAsk) -> Result<Option<Replica>, BulkFailure> {
        let (reply, answer) = oneshot::channel();
        self.node.inbox.push(Input::Client(ask, reply));
        match answer.await {
            Ok(Ok(replica)) => Ok(Some(replica)),
            Ok(Err(WaitError::NoQuorum | WaitError::Unknown)) => Ok(None),
            Ok(Err(WaitError::Stopped(cause))) => Err(BulkFailure(cause)),
            Err(_) => Err(BulkFailure("the node is shutting down".into())),
        }
    }

    async fn test_lock(&self, ask: LockAsk) -> Result<Bytes, BulkFailure> {
        let LockAsk { session, since, file, owner, span, kind } = ask;
        let state = ClientAsk { session, since, current: true, ..ClientAsk::default() };
        if self.state(state).await?.is_none() {
            return done(&Answered::<Option<Lock>>::NotYet);
        }
        let (reply, answer) = oneshot::channel();
        let whose = LockOwner { session, id: owner };
        self.node.inbox.push(Input::Lock(LockInput::TestFor { file, whose, span, kind, reply }));
        done(&Answered::Done(answer.await.map_err(|_| BulkFailure("the node is shutting down".into()))?))
    }

    async fn about(&self, payload: &[u8]) -> Result<Bytes, BulkFailure> {
        let text: String = decode("name of a volume", payload).map_err(malformed)?;
        let volume: VolumeRef = text.parse().map_err(|error| BulkFailure(format!("{text:?}: {error}")))?;
        let found = match volumes::living(&self.node, &volume) {
            Ok(found) => found,
            Err(_) => {
                // It may have been made through another node a moment ago.
                volumes::confirm(&self.node).await;
                match volumes::living(&self.node, &volume) {
                    Ok(found) => found,
                    Err(error) => return done(&Answered::<About>::Unreadable(error)),
                }
            }
        };
        let (reply, status) = oneshot::channel();
        self.node.inbox.push(Input::Status(reply));
        let status = status.await.map_err(|_| BulkFailure("the node is shutting down".into()))?;
        let counts = status.volumes.iter().find(|volume| volume.id == found.0);
        let (objects, bytes) = counts.map_or((0, 0), |volume| (volume.objects, volume.bytes));
        let disk = rustix::fs::statvfs(&self.data_dir).map_err(|error| BulkFailure(error.to_string()))?;
        let is_mirror = self.node.past.read().is_mirror(found);
        let bytes_free = disk.f_bavail * disk.f_frsize;
        done(&Answered::Done(About { volume: found, is_mirror, objects, bytes, bytes_free }))
    }
}
