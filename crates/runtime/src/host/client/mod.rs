//! A mount without a replica: `docs/protocols/client.md` has the protocol.
//!
//! - [`session`]: the task that hosts the client's session
//! - [`tree`]: the door for the mount: operations on their way
//! - [`peers`]: asking one peer after the other
//! - `control`: the socket at which it can be asked
//! - [`blobs`], [`cache`]: blobs on the peers, in memory, and on the client's disk
//!
//! Invariants:
//! 1. Nothing is answered before it is committed.
//! 2. Nothing is stored here that can't be had from the peers.

pub mod blobs;
pub mod cache;
mod control;
pub mod peers;
mod session;
pub mod tree;

use crate::config::{ClientConfig, MountConfig, MountOption};
use crate::host::clients::{ABOUT, About};
use crate::host::daemon::{Mounter, next_life};
use crate::host::fronts::Fronts;
use crate::host::node::{Clocks, WaitError};
use crate::host::opens::Opens;
use crate::net::{BulkFailure, Handler, LinkChange, Listen, Transport, TransportConfig};
use blobs::ClientBlobs;
use bytes::Bytes;
use cache::{Cache, CacheStatus, What};
use gavel_client::session::SessionConfig;
use gavel_client::{LockAnswer, LockCall, LockId, Usable};
use gavel_lease::RangeSet;
use gavel_types::{KeyRange, NodeId, ObjectId, Tid, VolumeRef};
use gavel_wire::client::{WatchAnswer, WatchAsk, leases_digest};
use gavel_wire::lock::LockFile;
use gavel_wire::{Outcome, RequestBody};
use parking_lot::{Mutex, RwLock};
use peers::{Pace, Peers};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tree::ClientTree;

/// Locked by a client that runs, in its data directory.
const LOCK_FILE: &str = "lock";
/// How long a peer may take to say that there is no news.
const WATCH_PATIENCE: Duration = Duration::from_secs(3);
/// Answers about past states may take this part of what blobs may, beside them.
const PAST_SHARE: u64 = 16;
/// How often it is looked whether anything is mounted still.
const LOOK: Duration = Duration::from_millis(200);
/// How long a mount waits for a peer that knows the volume.
const MOUNT_PATIENCE: Duration = Duration::from_secs(15);

/// A client that can't be brought up. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Another process runs with the same data directory.
    #[error("{0}: another process uses it: does this client run already?")]
    Running(String),
    /// Something else.
    #[error("{what}: {cause}")]
    Failed {
        /// What was being done.
        what: String,
        /// What went wrong, and what to do.
        cause: String,
    },
}

fn failing<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> ClientError {
    let what = what.into();
    move |cause| ClientError::Failed { what, cause: cause.to_string() }
}

/// What the session's task is told.
enum Input {
    /// Ship a plan that writes these ranges.
    Commit {
        body: RequestBody,
        writes: Vec<KeyRange>,
        /// What it makes, if nothing of that was shipped before.
        made: Option<ObjectId>,
        reply: oneshot::Sender<Result<Option<Outcome>, WaitError>>,
    },
    /// A fresh object id.
    ObjectId(oneshot::Sender<Result<ObjectId, WaitError>>),
    /// Does the session hold this object open, although it has no name any more?
    Holds(ObjectId, oneshot::Sender<bool>),
    /// Has this owner lost its locks of the file?
    HasLost(LockFile, u64, oneshot::Sender<bool>),
    /// Leases over these ranges would be useful.
    Want(Vec<KeyRange>),
    /// The fronts have forgotten.
    Forgotten(u64),
    /// Locks of files.
    Lock(LockInput),
    /// A peer has answered what it was asked with.
    Watched { peer: NodeId, ask: WatchAsk, answer: Box<WatchAnswer>, known: oneshot::Sender<()> },
    /// Messages to this peer do not reach it any more.
    Down(NodeId),
    /// Stop.
    Stop,
}

enum LockInput {
    /// Take one, or give one back.
    Call { call: LockCall, id: Option<LockId>, reply: oneshot::Sender<Result<LockAnswer, WaitError>> },
    /// The program does not want to wait any more.
    Cancel(LockId),
    /// It has taken too long: whoever waits is told so.
    GiveUp(LockId),
}

/// What a client may answer for, and since when.
#[derive(Clone, Default)]
struct InForce {
    usable: Usable,
    /// Counts how often something was taken away.
    losses: u64,
    /// Whoever else has changed what it covers, did so before this.
    tid: Tid,
}

/// What the tasks of a client share.
struct Shared {
    inbox: UnboundedSender<Input>,
    clocks: Clocks,
    /// How far the log is, as far as this client knows.
    tid: AtomicU64,
    /// What may be answered for. Whoever hands over what is kept holds the read side meanwhile.
    usable: RwLock<InForce>,
    fronts: Arc<Fronts>,
    opens: Opens,
    /// What peers are asked for news with.
    known: Mutex<WatchAsk>,
    reads_leased: AtomicU64,
    reads_confirmed: AtomicU64,
    commits: AtomicU64,
    past_asked: AtomicU64,
}

impl Shared {
    fn new(inbox: UnboundedSender<Input>, incarnation: u64) -> Shared {
        let known = WatchAsk {
            incarnation,
            session: None,
            tid: Tid::ZERO,
            oldest: gavel_types::Seq(1),
            leases: leases_digest(&[], &[]),
            in_line: Vec::new(),
        };
        Shared {
            inbox,
            clocks: Clocks::new(),
            tid: AtomicU64::new(0),
            usable: RwLock::default(),
            fronts: Arc::default(),
            opens: Opens::default(),
            known: Mutex::new(known),
            reads_leased: AtomicU64::new(0),
            reads_confirmed: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            past_asked: AtomicU64::new(0),
        }
    }

    fn tell(&self, input: Input) {
        // A client that has stopped wants to know nothing.
        let _ = self.inbox.send(input);
    }

    fn tid(&self) -> Tid {
        Tid(self.tid.load(Ordering::Acquire))
    }

    fn left_ns(&self) -> u64 {
        self.usable.read().usable.left_ns(self.clocks.now())
    }

    /// Waits for every answer that is being handed over under what was usable before.
    fn put_in_force(&self, usable: Usable, tid: Tid) {
        let covers = |new: &RangeSet, old: &RangeSet| old.ranges().iter().all(|range| new.covers(range));
        let mut in_force = self.usable.write();
        let before = &in_force.usable;
        let lost = !covers(&usable.reads, &before.reads) || !covers(&usable.keeps, &before.keeps);
        *in_force = InForce { usable, losses: in_force.losses + u64::from(lost), tid };
    }
}

/// What comes from the transport: links, for nobody dials a client.
struct Links(Arc<Shared>);

impl Handler for Links {
    fn on_message(&self, _from: NodeId, _payload: Bytes) {}

    async fn on_bulk(&self, _from: NodeId, _kind: u8, _payload: Bytes) -> Result<Bytes, BulkFailure> {
        Err(BulkFailure("a client answers nothing".into()))
    }

    fn on_link(&self, peer: NodeId, change: LinkChange) {
        if change == LinkChange::Down {
            self.0.tell(Input::Down(peer));
        }
    }
}

/// What a client says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientStatus {
    /// The release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// The cluster.
    pub cluster: String,
    /// The client.
    pub client: u64,
    /// Its name.
    pub name: String,
    /// Its session, if it has one.
    pub session: Option<u64>,
    /// How far the log is, as far as it knows.
    pub tid: u64,
    /// The peer that it asks first.
    pub peer: u64,
    /// How often it took another one.
    pub switches: u64,
    /// For how many milliseconds it may answer without the quorum; none if it may not.
    pub may_answer_ms: Option<u64>,
    /// Reads that were answered under leases.
    pub reads_leased: u64,
    /// Reads that had to be confirmed by the quorum.
    pub reads_confirmed: u64,
    /// Changes that were shipped.
    pub commits: u64,
    /// Blobs that were fetched from peers.
    pub blobs_fetched: u64,
    /// The cache of blobs on its disk.
    pub cache: CacheStatus,
    /// Questions about past states that peers were asked.
    pub past_asked: u64,
    /// The cache of their answers on its disk.
    pub past: CacheStatus,
    /// Where volumes are mounted.
    pub mounts: Vec<std::path::PathBuf>,
}

/// A running client.
pub struct Client {
    config: ClientConfig,
    shared: Arc<Shared>,
    peers: Arc<Peers>,
    blobs: Arc<ClientBlobs>,
    past: Arc<Cache>,
    mounter: Arc<dyn Mounter>,
    transport: Mutex<Option<Transport>>,
    stop: tokio::sync::watch::Sender<bool>,
    _lock: File,
}

impl Client {
    /// Brings a client up. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`]; nothing is left running.
    pub fn start(config: ClientConfig, mounter: Arc<dyn Mounter>) -> Result<Arc<Client>, ClientError> {
        let trust = config.load_trust(SystemTime::now()).map_err(failing("loading the client's certificates"))?;
        let lock = lock(&config.data_dir)?;
        let cache =
            |what, bytes_max| Cache::open(&config.data_dir, what, bytes_max).map_err(failing("opening the cache"));
        let past = Arc::new(cache(What::Past, config.cache_bytes / PAST_SHARE)?);
        let cache = cache(What::Blobs, config.cache_bytes)?;
        let incarnation = next_life(&config.data_dir).map_err(failing("numbering this life of the client"))?;
        let (inbox, inputs) = unbounded_channel();
        let shared = Arc::new(Shared::new(inbox, incarnation));
        let transport = TransportConfig {
            trust,
            incarnation,
            listen: Listen::Nowhere,
            peers: config.peer_addresses(),
            limits: config.transport_limits(),
        };
        let transport = Transport::start(transport, Arc::new(Links(shared.clone()))).map_err(failing("connecting"))?;
        let ids: Vec<NodeId> = config.peers.iter().map(|peer| peer.id).collect();
        let peers = Arc::new(Peers::new(transport.sender(), ids.clone(), config.client.0));
        let blobs = Arc::new(ClientBlobs::new(peers.clone(), cache));
        let (term_ns, patience_ns) = (config.tuning.term_ms * 1_000_000, config.tuning.election_ms * 5_000_000);
        let session = SessionConfig { term_ns, patience_ns };
        let task =
            session::SessionTask::new(config.client, incarnation, session, shared.clone(), peers.clone(), inputs);
        tokio::spawn(task.run());
        for peer in ids {
            tokio::spawn(session::watch(peer, shared.clone(), peers.clone()));
        }
        let transport = Mutex::new(Some(transport));
        let stop = tokio::sync::watch::Sender::new(false);
        let client = Arc::new(Client { config, shared, peers, blobs, past, mounter, transport, stop, _lock: lock });
        control::start(&client).map_err(failing("opening the control socket"))?;
        Ok(client)
    }

    /// Mounts a volume; waits until the kernel has taken it.
    ///
    /// # Errors
    /// What went wrong and what to do, in words.
    pub async fn mount(&self, mut mount: MountConfig) -> Result<(), String> {
        if mount.at.is_some() {
            return Err("a client mounts the present; mount a past state at a node".into());
        }
        let about = self.about(&mount.volume).await?;
        if about.is_mirror {
            return Err(format!("volume {} is a mirror; mount it at a node", mount.volume));
        }
        mount.volume = about.volume.into();
        mount.options.push(MountOption::Sync);
        // What an earlier life has left there.
        let (mounter, dir) = (self.mounter.clone(), mount.path.clone());
        let _ = tokio::task::spawn_blocking(move || mounter.clear(&dir)).await;
        let tokio = tokio::runtime::Handle::current();
        let (peers, blobs, past) = (self.peers.clone(), self.blobs.clone(), self.past.clone());
        let tree = ClientTree::new(about.volume, self.shared.clone(), peers, blobs, past, tokio);
        let (mounter, control) = (self.mounter.clone(), self.config.control_socket());
        let mounted = tokio::task::spawn_blocking(move || mounter.mount(Arc::new(tree), &mount, &control)).await;
        mounted.map_err(|error| error.to_string()).and_then(|mounted| mounted)
    }

    async fn about(&self, volume: &VolumeRef) -> Result<About, String> {
        let asked = self.peers.ask(ABOUT, Pace::Quick, &volume.to_string(), MOUNT_PATIENCE).await;
        asked.map_err(|error| error.to_string())
    }

    /// What it says of itself.
    pub fn status(&self) -> ClientStatus {
        let shared = &self.shared;
        let session = shared.known.lock().session;
        let (peer, switches) = self.peers.current();
        let (blobs_fetched, cache) = self.blobs.status();
        let left_ns = shared.left_ns();
        ClientStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            cluster: self.config.cluster.to_string(),
            client: self.config.client.0,
            name: self.config.name.clone(),
            session: session.map(|session| session.0),
            tid: shared.tid().0,
            peer: peer.0,
            switches,
            may_answer_ms: (left_ns > 0).then_some(left_ns / 1_000_000),
            reads_leased: shared.reads_leased.load(Ordering::Relaxed),
            reads_confirmed: shared.reads_confirmed.load(Ordering::Relaxed),
            commits: shared.commits.load(Ordering::Relaxed),
            blobs_fetched,
            cache,
            past_asked: shared.past_asked.load(Ordering::Relaxed),
            past: self.past.status(),
            mounts: self.mounter.mounts().into_iter().map(|mount| mount.path).collect(),
        }
    }

    /// Waits until it is told to stop, or nothing is mounted any more.
    pub async fn stopped(&self) {
        let mut told = self.stop.subscribe();
        while !self.mounts().is_empty() {
            if let Ok(Ok(_)) = tokio::time::timeout(LOOK, told.wait_for(|stop| *stop)).await {
                return;
            }
        }
    }

    /// Tells it to stop; whoever waits in [`Client::stopped`] shuts it down.
    pub fn tell_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Its configuration.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// What it has mounted.
    pub fn mounts(&self) -> Vec<MountConfig> {
        self.mounter.mounts()
    }

    /// Ends the mounts, and everything else.
    pub async fn shut_down(&self) {
        for mount in self.mounter.mounts() {
            let mounter = self.mounter.clone();
            let ended = tokio::task::spawn_blocking(move || mounter.umount(&mount.path));
            if let Ok(Err(error)) = ended.await {
                tracing::warn!(%error, "a mount could not be ended");
            }
        }
        self.shared.tell(Input::Stop);
        let transport = self.transport.lock().take();
        if let Some(transport) = transport {
            transport.shutdown().await;
        }
        let _ = std::fs::remove_file(self.config.control_socket());
    }
}

/// One process at a time works with a client's data.
fn lock(data_dir: &Path) -> Result<File, ClientError> {
    let what = || format!("opening {}", data_dir.display());
    std::fs::create_dir_all(data_dir).map_err(failing(what()))?;
    let file = File::create(data_dir.join(LOCK_FILE)).map_err(failing(what()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ClientError::Running(data_dir.display().to_string())),
        Err(error) => Err(failing(what())(error)),
    }
}
