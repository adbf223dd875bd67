//! Transactions of users: many changes through plain paths, by any program, that become one commit or nothing. `docs/protocols/transactions.md` has the
//! protocol; what a transaction is, is in `gavel_client::transaction`.
//!
//! ```text
//!   begin ──> open ──commit──> committing ──> ended (committed)
//!              │ ^                 └── it collides, or there is no quorum ──> open again; of `gavel txn run`: ended (nothing happened)
//!              └─┴── abort, or its `gavel txn run` is gone ──> ended (nothing happened)
//! ```
//!
//! - `tree`: what its mount shows
//! - `commit`: making one commit of it, and finding out what became of that; moving it to the present
//! - `staging`: writing before the commit what does not fit into it
//! - `report`: what it collides with
//! - `past`: how it differs from its start
//! - `run`: the daemon's side of `gavel txn run`
//! - `namespace`: the processes of such a run

mod commit;
pub mod namespace;
mod past;
mod report;
mod run;
mod staging;
mod tree;

use namespace::Namespace;
pub use report::{Collision, There};
pub(super) use run::run;

use crate::config::{Config, MountConfig, MountOption};
use crate::host::blobs::Blobs;
use crate::host::daemon::{Daemon, Mounter};
use crate::host::node::NodeHandle;
use crate::host::tree::VolumeTree;
use crate::host::{retention, volumes};
use gavel_client::{Forget, Transaction};
use gavel_history::diff::{DiffLine, End, Way, diff};
use gavel_types::limits::NOTE_BYTES_MAX;
use gavel_types::{BlobId, ObjectId, Tid, Timestamp, VolumeId, VolumeRef};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use tree::TxnTree;

/// Most transactions that are open on a node: each has a mount, and may hold 64 MiB of small files and as much that is being stored.
pub const TRANSACTIONS_MAX: usize = 64;
/// So many that have ended are remembered, for whoever asks about them again.
const ENDED_MAX: usize = 256;
/// Longest message: the note of a commit, less what says which transaction it was.
pub const MESSAGE_BYTES_MAX: usize = NOTE_BYTES_MAX - 64;
/// The directory of the mounts that nobody has named a place for, within the data directory.
const PLACES_DIR: &str = "transactions";
/// What the extended attribute of a transaction's mount begins with; its id and the daemon's socket follow.
pub const CONTROL_PREFIX: &str = "txn ";

/// What to begin with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TxnBegin {
    /// In which volume.
    pub volume: VolumeRef,
    /// For which user.
    pub uid: u32,
    /// What for.
    pub message: String,
    /// Where to mount it; none: at a place of the daemon's.
    pub dir: Option<PathBuf>,
}

/// What is asked about transactions. Each is named by its id, by a beginning of it that no other has, or by a path in its mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TxnAsk {
    /// Begin one, that stays open until it is committed or aborted.
    Begin(TxnBegin),
    /// Which are open?
    List {},
    /// How is it?
    Status {
        /// Which.
        id: String,
    },
    /// What has it changed?
    Diff {
        /// Which.
        id: String,
    },
    /// Commit it.
    Commit {
        /// Which.
        id: String,
        /// What for; none: as was said when it began.
        message: Option<String>,
    },
    /// Give it up.
    Abort {
        /// Which.
        id: String,
    },
    /// Move it to the present.
    Rebase {
        /// Which.
        id: String,
    },
    /// The command of a run is in this mount namespace: all that is in there ends with the transaction.
    Entered {
        /// Which.
        id: String,
        /// The process that has made it, and becomes the command.
        pid: u32,
    },
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnAnswer {
    /// It has begun.
    Started(TxnStarted),
    /// Those that are open.
    List(Vec<TxnLine>),
    /// What it has changed.
    Diff(Vec<DiffLine>),
    /// How it ended, or that it goes on.
    Ended(TxnEnd),
    /// Done.
    Done {},
}

/// A transaction that has begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TxnStarted {
    /// Its id.
    pub id: String,
    /// The state that it begins at.
    pub start: String,
    /// Where it is mounted.
    pub place: PathBuf,
    /// Where this node has the volume mounted for reading and writing.
    pub over: Vec<PathBuf>,
}

/// A transaction that is open. Part of the machine-readable output: fields are only added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TxnLine {
    /// Its id.
    pub id: String,
    /// Its volume.
    pub volume: u32,
    /// For which user.
    pub uid: u32,
    /// When it began, to the second.
    pub time: String,
    /// How many seconds ago.
    pub age_secs: u64,
    /// The state that it began at, or was moved to: it stays as long as this is open.
    pub start: String,
    /// Where it is mounted.
    pub place: PathBuf,
    /// Is it a `gavel txn run`?
    pub run: bool,
    /// What for.
    pub message: String,
    /// How many records it has changed.
    pub changes: u64,
    /// How many it depends on.
    pub guards: u64,
    /// How much of the room that a commit has it takes, in bytes, no less than it does.
    pub bytes: u64,
    /// How much room a commit has.
    pub bytes_max: u64,
    /// Why an operation was refused for lack of room, if one was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub full: Option<String>,
}

/// How a transaction ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnEnd {
    /// It is committed.
    Committed {
        /// At which transaction; none if it had changed nothing.
        tid: Option<String>,
        /// The same as a time.
        time: Option<String>,
    },
    /// Nothing was written: others have changed what it depends on.
    Collided {
        /// What.
        collisions: Vec<Collision>,
        /// How many more.
        more: u64,
    },
    /// It begins at a later state now.
    Rebased {
        /// The state.
        start: String,
    },
    /// Nothing was written.
    Aborted {},
    /// Nobody can say whether it was committed.
    Unknown {
        /// Why.
        cause: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Open,
    Committing,
    Ended,
}

/// A transaction that is open.
pub(super) struct Open {
    id: String,
    volume: VolumeId,
    uid: u32,
    /// By the cluster's clock.
    began_ns: u64,
    message: String,
    place: PathBuf,
    /// The place is a directory of the daemon's, which goes with it.
    own_place: bool,
    run: bool,
    node: Arc<NodeHandle>,
    blobs: Arc<Blobs>,
    tree: Arc<VolumeTree>,
    state: Mutex<State>,
    /// Told when bytes are on a majority.
    stored: tokio::sync::Notify,
    front: Mutex<Option<Weak<dyn Forget>>>,
}

struct State {
    transaction: Transaction,
    phase: Phase,
    /// How often each object is open.
    opens: BTreeMap<ObjectId, u32>,
    /// Bytes that are not on a majority yet, and how often they are being stored.
    storing: BTreeMap<BlobId, (bytes::Bytes, u32)>,
    storing_bytes: usize,
    /// What it has stored: this node keeps it until the transaction has ended, whether anything names it or not.
    held: BTreeSet<BlobId>,
    /// As of when all of that was on a majority.
    stored_as_of: Tid,
    /// Why an operation was refused for lack of room.
    full: Option<String>,
    /// Mount namespaces whose processes belong to it.
    namespaces: Vec<Namespace>,
    /// Ids for what it makes: so many together that they are few runs.
    ids: VecDeque<ObjectId>,
}

/// Those that are open on this node.
pub struct Transactions {
    places: PathBuf,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: BTreeMap<String, Arc<Open>>,
    ended: VecDeque<(String, String)>,
    last_ns: u64,
}

impl Transactions {
    /// None is open yet; what an earlier life has left mounted is taken off.
    ///
    /// # Errors
    /// If the directory of their places can't be made.
    pub(super) fn start(config: &Config, mounter: &dyn Mounter) -> std::io::Result<Transactions> {
        let places = config.data_dir.join(PLACES_DIR);
        std::fs::create_dir_all(&places)?;
        for entry in std::fs::read_dir(&places)?.flatten() {
            let path = entry.path();
            match std::fs::read_to_string(&path) {
                // Where one was mounted that somebody had named a place for.
                Ok(place) => {
                    mounter.clear(Path::new(place.trim_end_matches('\n')));
                    std::fs::remove_file(&path)?;
                }
                Err(_) => {
                    mounter.clear(&path);
                    if let Err(error) = std::fs::remove_dir(&path) {
                        tracing::warn!(path = %path.display(), %error, "the place of a transaction stays behind");
                    }
                }
            }
        }
        Ok(Transactions { places, table: Mutex::default() })
    }

    /// The states that open transactions began at: they must not be pruned.
    pub fn starts(&self) -> Vec<(VolumeId, Tid)> {
        let table = self.table.lock();
        table.open.values().map(|open| (open.volume, open.state.lock().transaction.at())).collect()
    }

    /// Those that are open.
    pub fn list(&self, daemon: &Daemon) -> Vec<TxnLine> {
        self.table.lock().open.values().map(|open| open.line(daemon)).collect()
    }

    fn find(&self, id: &str) -> Result<Arc<Open>, String> {
        let table = self.table.lock();
        if let Some(open) = table.open.get(id) {
            return Ok(open.clone());
        }
        if let Some((_, how)) = table.ended.iter().rev().find(|(ended, _)| ended == id) {
            return Err(format!("transaction {id} has ended: {how}"));
        }
        let path = Path::new(id);
        let mut found = table.open.values().filter(|open| {
            if path.is_absolute() { path.starts_with(&open.place) } else { !id.is_empty() && open.id.starts_with(id) }
        });
        match (found.next(), found.next()) {
            (Some(open), None) => Ok(open.clone()),
            (Some(_), Some(_)) => Err(format!("{id}: several transactions begin so")),
            _ => Err(format!(
                "there is no open transaction {id} on this node\nHint: `gavel txn list` says which there are"
            )),
        }
    }

    /// Gives all of them up: the daemon ends.
    pub async fn abort_all(&self, daemon: &Daemon) {
        let open: Vec<Arc<Open>> = self.table.lock().open.values().cloned().collect();
        for open in open {
            open.end(daemon, "its node was stopped, and nothing was written").await;
        }
    }

    fn next_id(&self, daemon: &Daemon) -> String {
        let mut table = self.table.lock();
        table.last_ns = daemon.node.cluster_ns().max(table.last_ns + 1);
        format!("{}-{}", daemon.config.node.0, base36(table.last_ns))
    }
}

/// A number in digits and letters.
fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}

/// Answers what is asked.
///
/// # Errors
/// What went wrong and what to do, in words.
pub(super) async fn answer(daemon: &Arc<Daemon>, ask: TxnAsk) -> Result<TxnAnswer, String> {
    let transactions = &daemon.transactions;
    match ask {
        TxnAsk::Begin(begin) => {
            let open = self::begin(daemon, begin, false).await?;
            Ok(TxnAnswer::Started(open.started(daemon)))
        }
        TxnAsk::List {} => Ok(TxnAnswer::List(transactions.list(daemon))),
        TxnAsk::Status { id } => Ok(TxnAnswer::List(vec![transactions.find(&id)?.line(daemon)])),
        TxnAsk::Diff { id } => {
            let open = transactions.find(&id)?;
            blocking(move || open.differences()).await.map(TxnAnswer::Diff)
        }
        TxnAsk::Commit { id, message } => {
            let open = transactions.find(&id)?;
            let message = message.unwrap_or_else(|| open.message.clone());
            check_message(&message)?;
            commit::commit(daemon, open, message).await.map(TxnAnswer::Ended)
        }
        TxnAsk::Abort { id } => {
            let open = transactions.find(&id)?;
            open.take_to_end()?;
            open.end(daemon, "it was aborted, and nothing was written").await;
            Ok(TxnAnswer::Ended(TxnEnd::Aborted {}))
        }
        TxnAsk::Rebase { id } => commit::rebase(daemon, transactions.find(&id)?).await.map(TxnAnswer::Ended),
        TxnAsk::Entered { id, pid } => {
            let namespace = Namespace::of(pid)?;
            transactions.find(&id)?.state.lock().namespaces.push(namespace);
            Ok(TxnAnswer::Done {})
        }
    }
}

fn check_message(message: &str) -> Result<(), String> {
    match message.len() <= MESSAGE_BYTES_MAX {
        true => Ok(()),
        false => Err(format!("the message has {} bytes; at most {MESSAGE_BYTES_MAX} are allowed", message.len())),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// Begins a transaction at the present state, and mounts it.
async fn begin(daemon: &Arc<Daemon>, begin: TxnBegin, run: bool) -> Result<Arc<Open>, String> {
    check_message(&begin.message)?;
    let volume = volumes::living(&daemon.node, &begin.volume)?;
    if daemon.transactions.table.lock().open.len() >= TRANSACTIONS_MAX {
        return Err(format!(
            "{TRANSACTIONS_MAX} transactions are open on this node\nHint: `gavel txn list` shows them, `gavel txn abort` ends one"
        ));
    }
    let tree = daemon.tree(volume, false);
    let start = tree.last().await.map_err(|error| format!("no transaction can begin: {error}"))?;
    let id = daemon.transactions.next_id(daemon);
    let places = &daemon.transactions.places;
    let (place, own_place) = match begin.dir {
        Some(dir) => {
            let dir = dir.canonicalize().map_err(|error| format!("{}: {error}", dir.display()))?;
            let note = std::fs::write(places.join(&id), format!("{}\n", dir.display()));
            note.map_err(|error| format!("{}: {error}", places.display()))?;
            (dir, false)
        }
        None => (places.join(&id), true),
    };
    if own_place {
        std::fs::create_dir(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    let state = State {
        transaction: Transaction::new(volume, start),
        phase: Phase::Open,
        opens: BTreeMap::new(),
        storing: BTreeMap::new(),
        storing_bytes: 0,
        held: BTreeSet::new(),
        stored_as_of: Tid::MAX,
        full: None,
        namespaces: Vec::new(),
        ids: VecDeque::new(),
    };
    let open = Arc::new(Open {
        id: id.clone(),
        volume,
        uid: begin.uid,
        began_ns: daemon.node.cluster_ns(),
        message: begin.message,
        place: place.clone(),
        own_place,
        run,
        node: daemon.node.clone(),
        blobs: daemon.blobs.clone(),
        tree,
        state: Mutex::new(state),
        stored: tokio::sync::Notify::new(),
        front: Mutex::default(),
    });
    daemon.transactions.table.lock().open.insert(id.clone(), open.clone());
    // Every state stays whole for some seconds, so this need not be waited for; what keeps pins tries again.
    let pinning = daemon.clone();
    tokio::spawn(async move {
        if let Err(error) = retention::pin(&pinning, volume, start).await {
            tracing::warn!(%error, %start, "the start of a transaction is not kept");
        }
    });
    let tree = Arc::new(TxnTree { open: open.clone(), tokio: Handle::current() });
    let mount = MountConfig { path: place, volume: volume.into(), options: options(daemon, volume), at: None };
    let (mounter, control) =
        (daemon.mounter.clone(), format!("{CONTROL_PREFIX}{id} {}", daemon.config.control_socket.display()));
    if let Err(error) = blocking(move || mounter.mount_private(tree, &mount, &control)).await {
        open.end(daemon, "it could not be mounted").await;
        return Err(error);
    }
    Ok(open)
}

/// What programs on the volume's mounts may not do, they may not do on this one.
fn options(daemon: &Daemon, volume: VolumeId) -> Vec<MountOption> {
    let mounts = daemon.mounter.mounts();
    let options = mounts.iter().filter(|mount| mount.volume == volume.into()).flat_map(|mount| mount.options.clone());
    let mut options: Vec<MountOption> =
        options.filter(|option| !matches!(option, MountOption::ReadOnly | MountOption::Sync)).collect();
    options.sort_unstable();
    options.dedup();
    options
}

impl Open {
    fn started(&self, daemon: &Daemon) -> TxnStarted {
        let places: BTreeSet<PathBuf> =
            daemon.transactions.table.lock().open.values().map(|open| open.place.clone()).collect();
        let mounts = daemon.mounter.mounts().into_iter();
        let over = mounts.filter(|mount| {
            let writes = mount.at.is_none() && !mount.options.contains(&MountOption::ReadOnly);
            mount.volume == self.volume.into() && writes && !places.contains(&mount.path)
        });
        TxnStarted {
            id: self.id.clone(),
            start: self.state.lock().transaction.at().to_string(),
            place: self.place.clone(),
            over: over.map(|mount| mount.path).collect(),
        }
    }

    fn line(&self, daemon: &Daemon) -> TxnLine {
        let state = self.state.lock();
        TxnLine {
            id: self.id.clone(),
            volume: self.volume.0,
            uid: self.uid,
            time: Timestamp::of_tid(Tid(self.began_ns)).to_string(),
            age_secs: daemon.node.cluster_ns().saturating_sub(self.began_ns) / 1_000_000_000,
            start: state.transaction.at().to_string(),
            place: self.place.clone(),
            run: self.run,
            message: self.message.clone(),
            changes: state.transaction.changes() as u64,
            guards: state.transaction.guards().len() as u64,
            bytes: state.transaction.bytes() as u64,
            bytes_max: gavel_client::transaction::COMMIT_BYTES_MAX as u64,
            full: state.full.clone(),
        }
    }

    fn past(&self) -> past::TxnPast {
        let state = self.state.lock();
        past::TxnPast {
            records: self.node.records.clone(),
            past: self.node.records.past(self.node.tid()),
            volume: self.volume,
            start: state.transaction.at(),
            layer: state.transaction.layer().clone(),
        }
    }

    fn differences(&self) -> Result<Vec<DiffLine>, String> {
        let past = self.past();
        let end = |tid| End { tid, path: Vec::new() };
        let found = diff(&past, self.volume, &end(past.start), &end(past::NOW), Way::Index);
        Ok(found.map_err(|error| error.to_string())?.iter().map(DiffLine::from).collect())
    }

    /// Of bytes that it names nobody else may know yet.
    fn hold(&self, state: &mut State, blob: BlobId) {
        if state.held.insert(blob) {
            self.blobs.in_use.hold(blob);
        }
    }

    /// From now on nothing more becomes a part of it.
    fn take_to_end(&self) -> Result<(), String> {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Open => {
                state.phase = Phase::Committing;
                Ok(())
            }
            Phase::Committing => Err(format!("transaction {} is being committed or ended already", self.id)),
            Phase::Ended => Err(format!("transaction {} has ended", self.id)),
        }
    }

    /// Ends the processes of its run.
    async fn end_processes(&self) {
        let namespaces = std::mem::take(&mut self.state.lock().namespaces);
        if namespaces.is_empty() {
            return;
        }
        let ended = tokio::task::spawn_blocking(move || namespaces.into_iter().for_each(Namespace::end));
        if let Err(error) = ended.await {
            tracing::error!(%error, "the processes of a transaction may go on");
        }
    }

    /// Nothing is left of it but what was committed. `how` is told to who asks for it later.
    async fn end(&self, daemon: &Daemon, how: &str) {
        self.end_processes().await;
        let held = {
            let mut state = self.state.lock();
            state.phase = Phase::Ended;
            std::mem::take(&mut state.held)
        };
        held.into_iter().for_each(|blob| self.blobs.in_use.let_go(blob));
        self.stored.notify_waiters();
        let (mounter, place) = (daemon.mounter.clone(), self.place.clone());
        // It may never have been mounted, or somebody has taken it off.
        let ended = tokio::task::spawn_blocking(move || mounter.umount(&place)).await;
        tracing::debug!(transaction = %self.id, ?ended, how, "a transaction has ended");
        let place = daemon.transactions.places.join(&self.id);
        let removed = if self.own_place { std::fs::remove_dir(&place) } else { std::fs::remove_file(&place) };
        if let Err(error) = removed {
            tracing::warn!(path = %place.display(), %error, "the place of a transaction stays behind");
        }
        let mut table = daemon.transactions.table.lock();
        table.open.remove(&self.id);
        table.ended.push_back((self.id.clone(), how.to_owned()));
        if table.ended.len() > ENDED_MAX {
            table.ended.pop_front();
        }
    }
}
