//! Brings a node up: disks, threads, transport, control socket, mounts; and down again.

use crate::config::{Config, MountConfig, MountOption};
use crate::host::blobs::{self, Blobs};
use crate::host::clients::Clients;
use crate::host::collector;
use crate::host::conflicts::{Conflicts, keeper};
use crate::host::mirror::{self, Followers, Following, MirrorTree, Sending};
use crate::host::node::{Inbox, Input, NodeHandle, NodeThread};
use crate::host::retention;
use crate::host::tree::{PastTree, VolumeTree};
use crate::host::txn::{self, Transactions};
use crate::host::{control, flusher, journal, volumes};
use crate::net::{BulkFailure, Guest, Handler, Listen, Transport, TransportConfig};
use bytes::Bytes;
use gavel_client::Tree;
use gavel_client::session::SessionConfig;
use gavel_node::Node;
use gavel_store::blob::BlobStore;
use gavel_store::disk::RealDisk;
use gavel_store::engine::{LsmConfig, LsmEngine};
use gavel_store::log::{Log, LogIdentity, LogOptions};
use gavel_store::records::{Identity, Records};
use gavel_types::{At, Moment, NodeId, VolumeId, VolumeRef};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A daemon that ends waits so long until what it has answered is committed.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);

/// A node keeps its log for followers that were away briefly, up to this many bytes, all of it in memory. Beside it is what was applied since the last flush
/// (`Config::flush_log_bytes`, 32 MiB). Who was away for longer asks what has changed instead.
const LOG_RETAINED_BYTES: u64 = 16 << 20;
/// No entry is taken while the log has so much in memory: the disk is so slow that flushes do not keep up.
const LOG_WINDOW_BYTES: u64 = 128 << 20;
/// Holds the number of the node's latest life. Without it, the node has never run.
const BORN_FILE: &str = "born";

/// Where the log is, within the data directory; its lock stands for the whole node.
const LOG_DIR: &str = "log";
/// Where the blobs are, within the data directory.
const BLOBS_DIR: &str = "blobs";
/// Where the records are, within the data directory.
pub const RECORDS_DIR: &str = "records";

/// A node that can't be brought up. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct DaemonError {
    /// What was being done.
    pub what: String,
    /// What went wrong, and what to do.
    pub cause: String,
}

fn failing<E: Display>(what: impl Into<String>) -> impl FnOnce(E) -> DaemonError {
    let what = what.into();
    move |cause| DaemonError { what, cause: cause.to_string() }
}

/// Makes mounts for a daemon. The runtime knows no kernel; whoever starts the daemon does.
pub trait Mounter: Send + Sync + 'static {
    /// Mounts `tree` as `mount` says. `control` is the socket at which its daemon can be asked.
    ///
    /// # Errors
    /// What went wrong and what to do, in words.
    fn mount(&self, tree: Arc<dyn Tree>, mount: &MountConfig, control: &Path) -> Result<(), String>;

    /// Mounts a tree that nobody changes but through this mount. `control` is what its extended attribute says.
    ///
    /// # Errors
    /// What went wrong and what to do, in words.
    fn mount_private(&self, tree: Arc<dyn Tree>, mount: &MountConfig, control: &str) -> Result<(), String>;

    /// Takes off what an earlier life of this daemon has left mounted at `dir` and below.
    fn clear(&self, dir: &Path);

    /// Ends the mount at `path`. Programs that use it keep what they have open, as long as the daemon lives.
    ///
    /// # Errors
    /// What went wrong and what to do, in words.
    fn umount(&self, path: &Path) -> Result<(), String>;

    /// What is mounted now.
    fn mounts(&self) -> Vec<MountConfig>;
}

/// A running node.
pub struct Daemon {
    /// The node.
    pub node: Arc<NodeHandle>,
    /// Its blobs.
    pub blobs: Arc<Blobs>,
    pub(super) config: Config,
    pub(super) transport: Transport,
    pub(super) mounter: Arc<dyn Mounter>,
    /// Transactions of users that are open.
    pub transactions: Transactions,
    /// States that streams to mirrors are made from.
    pub(super) sending: Sending,
    /// Mirrors in other clusters that follow through this node.
    pub(super) followers: Followers,
    /// Mirrors whose following this node carries.
    pub(super) following: Following,
    pub(super) stop: tokio::sync::watch::Sender<bool>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What peers send, handed to the node's queue or the blobs.
struct Incoming {
    inbox: Inbox,
    blobs: OnceLock<Arc<Blobs>>,
    clients: OnceLock<Clients>,
    daemon: OnceLock<Weak<Daemon>>,
    tokio: Handle,
}

impl Incoming {
    fn new(inbox: Inbox) -> Incoming {
        let (blobs, clients, daemon) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Incoming { inbox, blobs, clients, daemon, tokio: Handle::current() }
    }
}

impl Handler for Incoming {
    fn on_message(&self, from: NodeId, payload: Bytes) {
        if !self.inbox.offer(Input::Message(from, payload)) {
            tracing::debug!(%from, "the node's queue is full: dropped a message");
        }
    }

    fn on_guest(&self, guest: Guest) {
        // One that comes too early tries again.
        if let Some(daemon) = self.daemon.get().and_then(Weak::upgrade) {
            self.tokio.spawn(mirror::serve(daemon, guest));
        }
    }

    async fn on_bulk(&self, from: NodeId, kind: u8, payload: Bytes) -> Result<Bytes, BulkFailure> {
        if kind == mirror::CARRIED
            && let Some(daemon) = self.daemon.get().and_then(Weak::upgrade)
        {
            return mirror::carried(&daemon);
        }
        match (self.blobs.get(), self.clients.get()) {
            (Some(blobs), _) if matches!(kind, blobs::PUT | blobs::GET) => blobs.answer(kind, payload).await,
            (_, Some(clients)) if from.is_client() => clients.answer(from, kind, payload).await,
            (Some(_), Some(_)) => Err(BulkFailure(format!("no request of a node has kind {kind}"))),
            _ => Err(BulkFailure("the node is still starting".into())),
        }
    }
}

impl Daemon {
    /// Brings the node up and makes the mounts of its configuration. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`DaemonError`]; nothing is left running.
    pub async fn start(config: Config, mounter: Arc<dyn Mounter>) -> Result<Arc<Daemon>, DaemonError> {
        let trust = config.load_trust(SystemTime::now()).map_err(failing("loading the node's certificates"))?;
        let disks = open_disks(&config)?;
        let (inbox, inputs) = Inbox::new();
        let incoming = Arc::new(Incoming::new(inbox.clone()));
        let incarnation = next_life(&config.data_dir).map_err(failing("numbering this life of the node"))?;
        let (runtime, begin, thread) = node_thread().map_err(failing("starting the node's thread"))?;
        let inside = runtime.enter();
        let transport = Transport::start(
            TransportConfig {
                trust,
                incarnation,
                listen: Listen::Address(config.listen),
                peers: config.peer_addresses(),
                limits: config.transport_limits(),
            },
            incoming.clone(),
        );
        let transport = transport.map_err(failing(format!("listening on {}", config.listen)))?;
        drop(inside);
        let others = config.peers.iter().map(|peer| peer.id).filter(|id| *id != config.node).collect();
        let blobs = Blobs::start(disks.blobs, transport.sender(), others).map_err(failing("starting a thread"))?;
        incoming.blobs.get_or_init(|| blobs.clone());
        let records = Arc::new(disks.records);
        let conflicts = Arc::new(Conflicts::open(&config.data_dir).map_err(failing("opening the conflicts"))?);
        let node = Arc::new(NodeHandle::new(inbox.clone(), runtime.clone(), records.clone(), conflicts));
        incoming.clients.get_or_init(|| Clients::new(node.clone(), blobs.clone(), config.data_dir.clone()));
        let (server, session) = tuned(&config, random()?);
        let machine = Node::new(
            server,
            session,
            incarnation,
            records.clone(),
            disks.sealed.as_deref(),
            disks.log,
            node.clocks.read(),
        )
        .map_err(failing("taking up the replica"))?;
        blobs.begin(machine.server.state()).map_err(failing("taking up the blobs"))?;
        // What they have stored is held before anything can be collected.
        let transactions =
            Transactions::start(&config, &*mounter, &blobs).map_err(failing("looking for transactions"))?;
        let (journal, _) = journal::start(disks.journal, inbox.clone()).map_err(failing("starting a thread"))?;
        let (flusher, _) = flusher::start(records, inbox).map_err(failing("starting a thread"))?;
        let node_thread = NodeThread {
            node: machine,
            handle: node.clone(),
            inputs,
            term: Duration::from_millis(config.tuning.term_ms),
            tokio: Handle::current(),
            peers: transport.sender(),
            journal,
            flusher,
            keeper: keeper::start(&node, blobs.clone()),
            blobs: blobs.clone(),
            preparing: 0,
            collided: false,
            waits: Default::default(),
            lapsed: true,
            shipped_at: Moment(0),
            ship_now: false,
            unwritten: Default::default(),
        };
        // Without a thread to receive it there is a panic in the log already.
        let _ = begin.send(node_thread);
        let thread = std::sync::Mutex::new(Some(thread));
        collector::start(&blobs, &node).map_err(failing("starting a thread"))?;
        tokio::spawn(blobs.clone().fill(node.clone(), config.data_dir.join(BLOBS_DIR)));
        let stop = tokio::sync::watch::Sender::new(false);
        let (sending, followers, following) = Default::default();
        let daemon = Daemon {
            node,
            blobs,
            config,
            transport,
            mounter,
            transactions,
            sending,
            followers,
            following,
            stop,
            thread,
        };
        let daemon = Arc::new(daemon);
        incoming.daemon.get_or_init(|| Arc::downgrade(&daemon));
        daemon.clone().serve().await?;
        Ok(daemon)
    }

    async fn serve(self: Arc<Self>) -> Result<(), DaemonError> {
        control::start(self.clone())
            .map_err(failing(format!("control socket {}", self.config.control_socket.display())))?;
        tokio::spawn(retention::keep_pins(Arc::downgrade(&self)));
        tokio::spawn(mirror::carry(Arc::downgrade(&self)));
        txn::open_again(&self);
        for mount in self.config.mounts.clone() {
            let path = mount.path.clone();
            // What else a volume is that is not the first one, this node does not know yet.
            if mount.volume.number() != Some(VolumeId::FIRST) {
                tokio::spawn(self.clone().mount_when_known(mount));
                continue;
            }
            if let Err(error) = self.mount(mount).await {
                self.shut_down().await;
                return Err(failing(format!("mounting {}", path.display()))(error));
            }
        }
        Ok(())
    }

    /// One volume through this node. `sync`: no change is answered before it is committed.
    pub fn tree(&self, volume: VolumeId, sync: bool) -> Arc<VolumeTree> {
        let tokio = tokio::runtime::Handle::current();
        let data_dir = self.config.data_dir.clone();
        Arc::new(VolumeTree::new(volume, sync, self.node.clone(), self.blobs.clone(), data_dir, tokio))
    }

    /// The node's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Mounts what the configuration calls by its name, when this node knows which volumes there are. A node that can't mount one serves the others.
    async fn mount_when_known(self: Arc<Self>, mount: MountConfig) {
        let mut news = self.node.news.subscribe();
        while self.node.past.read().last_volume() == VolumeId::default() {
            if news.changed().await.is_err() || self.node.failure().is_some() {
                return;
            }
        }
        let (path, volume) = (mount.path.clone(), mount.volume.clone());
        if let Err(error) = self.mount(mount).await {
            tracing::error!(path = %path.display(), %volume, %error, "not mounted; `gavel mount` mounts it when that is mended");
        }
    }

    /// The volume that a mount means. One that goes by its number is taken as it is before this node knows which volumes there are.
    fn volume_of(&self, mount: &MountConfig) -> Result<VolumeId, String> {
        let unknown = self.node.past.read().last_volume() == VolumeId::default();
        match mount.volume {
            VolumeRef::Number(number) if unknown => Ok(number),
            _ => volumes::living(&self.node, &mount.volume),
        }
    }

    /// Mounts a volume, or a state of it; waits until the kernel has taken it.
    ///
    /// # Errors
    /// What went wrong and what to do, in words.
    pub async fn mount(&self, mut mount: MountConfig) -> Result<(), String> {
        let volume = match self.volume_of(&mount) {
            Ok(volume) => volume,
            Err(_) => {
                // It may have been made through another node a moment ago.
                volumes::confirm(&self.node).await;
                self.volume_of(&mount)?
            }
        };
        mount.volume = volume.into();
        let tree = self.tree(volume, mount.options.contains(&MountOption::Sync));
        let is_mirror = self.node.past.read().is_mirror(volume);
        let tree: Arc<dyn Tree> = match &mount.at {
            None if is_mirror => {
                mount.options.push(MountOption::ReadOnly);
                Arc::new(MirrorTree::new(tree))
            }
            None => tree,
            Some(at) => {
                let state = tree.state_at(at).await.map_err(|error| format!("{at}: {error}"))?;
                mount.at = Some(At::Tid(state));
                retention::pin(self, volume, state).await.map_err(|error| format!("{state}: {error}"))?;
                mount.options.push(MountOption::ReadOnly);
                Arc::new(PastTree::new(tree, state))
            }
        };
        let (mounter, control) = (self.mounter.clone(), self.config.control_socket.clone());
        let mounted = tokio::task::spawn_blocking(move || mounter.mount(tree, &mount, &control)).await;
        mounted.map_err(|error| error.to_string()).and_then(|mounted| mounted)
    }

    /// Waits until the daemon is told to stop, or its node has failed; says why it failed.
    pub async fn stopped(&self) -> Option<String> {
        let mut told = self.stop.subscribe();
        let mut failed = self.node.stopped.subscribe();
        tokio::select! {
            _ = told.wait_for(|stop| *stop) => None,
            _ = failed.wait_for(Option::is_some) => self.node.failure(),
        }
    }

    /// Tells the daemon to stop; whoever waits in [`Daemon::stopped`] shuts it down.
    pub fn tell_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until all that was answered is on a majority, or it seems that it will not be.
    pub async fn sync(&self) {
        match tokio::time::timeout(SYNC_PATIENCE, self.node.sync()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "changes that were answered may be lost"),
            Err(_) => tracing::error!("changes that were answered could not be committed in time, and may be lost"),
        }
    }

    /// Ends the mounts, the node and its threads, in this order.
    pub async fn shut_down(&self) {
        self.transactions.leave_all(self).await;
        for mount in self.mounter.mounts() {
            let mounter = self.mounter.clone();
            let ended = tokio::task::spawn_blocking(move || mounter.umount(&mount.path));
            if let Ok(Err(error)) = ended.await {
                tracing::warn!(%error, "a mount could not be ended");
            }
        }
        self.sync().await;
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        let inbox = self.node.inbox.clone();
        let ended = tokio::task::spawn_blocking(move || {
            inbox.push(Input::Stop);
            inbox.push(Input::Stop);
            thread.map(std::thread::JoinHandle::join)
        });
        if let Ok(Some(Err(_))) = ended.await {
            tracing::error!("the node's thread has panicked");
        }
        let _ = std::fs::remove_file(&self.config.control_socket);
    }
}

/// Starts the thread on which the node and its connections run, with a runtime of its own. It ends when the node does, or
/// when it is not given one.
fn node_thread() -> std::io::Result<(Handle, oneshot::Sender<NodeThread>, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (begin, node) = oneshot::channel::<NodeThread>();
    let run = async {
        if let Ok(node) = node.await {
            node.run().await;
        }
    };
    let thread = std::thread::Builder::new().name("gavel-node".into()).spawn(move || runtime.block_on(run))?;
    Ok((handle, begin, thread))
}

struct Disks {
    journal: Log,
    log: gavel_quorum::Recovered,
    blobs: Arc<BlobStore>,
    records: Records<LsmEngine>,
    sealed: Option<Vec<u8>>,
}

/// Holds the lock of a node's data for as long as the result lives.
///
/// # Errors
/// If the node runs, or its log's directory can't be opened.
pub fn lock_data(config: &Config) -> Result<Arc<RealDisk>, DaemonError> {
    open_disk(config.data_dir.join(LOG_DIR))
}

fn open_disk(dir: PathBuf) -> Result<Arc<RealDisk>, DaemonError> {
    let what = format!("opening {}", dir.display());
    RealDisk::open(dir).map_err(|error| {
        let hint = if error.is_locked() { "; another process uses it: does this node run already?" } else { "" };
        DaemonError { what, cause: format!("{error}{hint}") }
    })
}

/// Opens everything that the node stores. Only a data directory that has never been used gets a new log.
fn open_disks(config: &Config) -> Result<Disks, DaemonError> {
    let dir = &config.data_dir;
    let at = |name: &str| -> PathBuf { dir.join(name) };
    let born = at(BORN_FILE).exists();
    let log_disk = open_disk(at(LOG_DIR))?;
    let blob_disk = open_disk(at(BLOBS_DIR))?;
    let identity = LogIdentity { cluster: config.cluster, node: config.node };
    let (journal, recovered) =
        Log::open(log_disk, LogOptions::new(identity, !born)).map_err(failing("opening the log"))?;
    if let Some(cut) = &recovered.cut {
        tracing::info!(file = %cut.file, offset = cut.offset, "cut off a half-written record at the end of the log");
    }
    let log = journal::recovered(recovered).map_err(|index| DaemonError {
        what: "reading the log".into(),
        cause: format!("entry {index} is of no known kind; rebuild this replica from the others"),
    })?;
    let blobs = Arc::new(BlobStore::open(blob_disk).map_err(failing("opening the blobs"))?);
    let engine = LsmEngine::open(&at(RECORDS_DIR), LsmConfig::default()).map_err(failing("opening the records"))?;
    let identity = Identity { cluster: config.cluster, node: config.node };
    let (records, sealed) = Records::open(engine, identity).map_err(failing("opening the records"))?;
    Ok(Disks { journal, log, blobs, records, sealed })
}

/// The number of this life of the node: greater than that of every life before, for what comes late from an earlier life must be told from
/// what comes from the living one. It is the wall clock's, in nanoseconds, unless that went back. Written to the data directory, durably;
/// that marks the directory as used, too.
pub(super) fn next_life(dir: &Path) -> std::io::Result<u64> {
    let (file, new) = (dir.join(BORN_FILE), dir.join(format!("{BORN_FILE}.new")));
    let before: u64 = match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().map_err(|_| {
            let cause = format!("{} does not hold a number; rebuild this replica from the others", file.display());
            std::io::Error::new(std::io::ErrorKind::InvalidData, cause)
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let life = u64::max(before.saturating_add(1), wall.as_nanos() as u64);
    std::fs::write(&new, format!("{life}\n"))?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, &file)?;
    std::fs::File::open(dir)?.sync_all()?;
    Ok(life)
}

fn tuned(config: &Config, seed: u64) -> (gavel_server::Config, SessionConfig) {
    const MS: u64 = 1_000_000;
    let voters = config.peers.iter().map(|peer| peer.id).collect();
    let mut quorum = gavel_quorum::Config::new(config.node, voters, seed);
    quorum.election_timeout_ns = config.tuning.election_ms * MS;
    quorum.heartbeat_ns = config.tuning.heartbeat_ms * MS;
    quorum.retained_bytes_max = LOG_RETAINED_BYTES;
    quorum.window_bytes_max = LOG_WINDOW_BYTES;
    let mut server = gavel_server::Config::new(quorum);
    server.collect_grace_ns = config.tuning.collect_grace_ms * MS;
    let patience_ns = config.tuning.election_ms * MS * 5;
    (server, SessionConfig { term_ns: config.tuning.term_ms * MS, patience_ns })
}

fn random() -> Result<u64, DaemonError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(failing("drawing a random number"))?;
    Ok(u64::from_le_bytes(bytes))
}
