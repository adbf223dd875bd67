//! Transactions of users: many changes through plain paths, by any program, that become one commit or nothing. `docs/protocols/transactions.md` has the
//! protocol; what a transaction is, is in `gavel_client::transaction`.
//!
//! ```text
//!   begin ──> open ──commit──> committing ──> ended (committed)
//!              │ ^                 └── it collides, or there is no quorum ──> open again; of `gavel txn run`: ended (nothing happened)
//!              └─┴── abort, or its `gavel txn run` is gone ──> ended (nothing happened)
//!   of `gavel txn begin`, when the node ends: left ──> when it starts: open again, ended (committed), or lost
//! ```
//!
//! - `tree`: what its mount shows
//! - `commit`: making one commit of it, and finding out what became of that; moving it to the present
//! - `staging`: writing before the commit what does not fit into it
//! - `report`: what it collides with
//! - `past`: how it differs from its start
//! - `kept`: the journal of one of `gavel txn begin`, as a file
//! - `reopen`: such ones when the node ends and starts
//! - `line`: how one is, for people and programs
//! - `run`: the daemon's side of `gavel txn run`
//! - `namespace`: the processes of such a run

mod commit;
mod kept;
mod line;
pub mod namespace;
mod past;
mod reopen;
mod report;
mod run;
mod staging;
mod tree;

pub use line::{TxnLine, TxnState};
use namespace::Namespace;
pub(super) use reopen::open_again;
pub use report::{Collision, There};
pub(super) use run::run;

use crate::config::{MountConfig, MountOption};
use crate::host::blobs::Blobs;
use crate::host::daemon::Daemon;
use crate::host::node::NodeHandle;
use crate::host::tree::VolumeTree;
use crate::host::{retention, volumes};
use gavel_client::transaction::journal::Header;
use gavel_client::{Forget, Transaction};
use gavel_history::diff::{DiffLine, End, Way, diff};
use gavel_types::limits::NOTE_BYTES_MAX;
use gavel_types::{BlobId, ObjectId, Tid, VolumeId, VolumeRef};
use kept::Kept;
use parking_lot::Mutex;
use reopen::Left;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
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
        /// Also if its journal is damaged, and only a part of what was done is left.
        #[serde(default)]
        incomplete: bool,
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
    /// Why it shows only a part of what was done in it, and takes no changes.
    damaged: Option<String>,
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
    /// Where what is done is written; none of a run, nor of one that takes no changes.
    kept: Option<Kept>,
    /// Why nothing more can be done in it before the node starts again.
    broken: Option<String>,
    /// What whoever looks at it should know.
    notices: Vec<String>,
}

impl State {
    fn new(transaction: Transaction, kept: Option<Kept>) -> State {
        State {
            transaction,
            phase: Phase::Open,
            opens: BTreeMap::new(),
            storing: BTreeMap::new(),
            storing_bytes: 0,
            held: BTreeSet::new(),
            stored_as_of: Tid::MAX,
            full: None,
            namespaces: Vec::new(),
            ids: VecDeque::new(),
            kept,
            broken: None,
            notices: Vec::new(),
        }
    }

    /// See [`Open::take_to_end`].
    fn take_to_end(&mut self, id: &str) -> Result<(), String> {
        if let Some(cause) = &self.broken {
            return Err(format!("transaction {id}: {cause}"));
        }
        match self.phase {
            Phase::Open => {
                self.phase = Phase::Committing;
                Ok(())
            }
            Phase::Committing => Err(format!("transaction {id} is being committed or ended already")),
            Phase::Ended => Err(format!("transaction {id} has ended")),
        }
    }
}

/// Those that are open on this node.
pub struct Transactions {
    places: PathBuf,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: BTreeMap<String, Arc<Open>>,
    /// Those that are not open again yet, or will not be.
    left: BTreeMap<String, Left>,
    ended: VecDeque<(String, String)>,
    last_ns: u64,
}

impl Transactions {
    /// The states that open transactions began at: they must not be pruned.
    pub fn starts(&self) -> Vec<(VolumeId, Tid)> {
        let table = self.table.lock();
        let open = table.open.values().map(|open| (open.volume, open.state.lock().transaction.at()));
        open.chain(table.left.values().filter_map(Left::start)).collect()
    }

    /// Those that are open.
    pub fn list(&self, daemon: &Daemon) -> Vec<TxnLine> {
        let table = self.table.lock();
        let open = table.open.values().map(|open| open.line(daemon));
        open.chain(table.left.iter().map(|(id, left)| left.line(id, daemon))).collect()
    }

    fn find(&self, id: &str) -> Result<Arc<Open>, String> {
        let table = self.table.lock();
        if let Some(open) = table.open.get(id) {
            return Ok(open.clone());
        }
        if let Some((_, how)) = table.ended.iter().rev().find(|(ended, _)| ended == id) {
            return Err(format!("transaction {id} has ended: {how}"));
        }
        if let Some((id, left)) = table.left(id)? {
            return Err(left.refusal(id));
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

    /// How one is; whoever hears so that one was committed is told by this.
    fn status(&self, daemon: &Daemon, id: &str) -> Result<TxnLine, String> {
        let left = {
            let table = self.table.lock();
            table.left(id)?.map(|(id, left)| left.line(id, daemon))
        };
        match left {
            Some(line) => Ok(self.tell(vec![line]).remove(0)),
            None => Ok(self.find(id)?.line(daemon)),
        }
    }

    /// The daemon ends: runs are given up, others are left to be opened again.
    pub async fn leave_all(&self, daemon: &Daemon) {
        let open: Vec<Arc<Open>> = self.table.lock().open.values().cloned().collect();
        for open in open {
            match open.run {
                true => open.end(daemon, "its node was stopped, and nothing was written").await,
                false => open.leave(daemon).await,
            }
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
        TxnAsk::List {} => Ok(TxnAnswer::List(transactions.tell(transactions.list(daemon)))),
        TxnAsk::Status { id } => Ok(TxnAnswer::List(vec![transactions.status(daemon, &id)?])),
        TxnAsk::Diff { id } => {
            let open = transactions.find(&id)?;
            blocking(move || open.differences()).await.map(TxnAnswer::Diff)
        }
        TxnAsk::Commit { id, message, incomplete } => {
            let open = transactions.find(&id)?;
            open.check_complete(incomplete)?;
            let message = message.unwrap_or_else(|| open.message.clone());
            check_message(&message)?;
            commit::commit(daemon, open, message).await.map(TxnAnswer::Ended)
        }
        TxnAsk::Abort { id } => {
            if transactions.drop_lost(daemon, &id)? {
                return Ok(TxnAnswer::Ended(TxnEnd::Aborted {}));
            }
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
    if daemon.transactions.table.lock().len() >= TRANSACTIONS_MAX {
        return Err(format!(
            "{TRANSACTIONS_MAX} transactions are open on this node\nHint: `gavel txn list` shows them, `gavel txn abort` ends one"
        ));
    }
    let tree = daemon.tree(volume, false);
    let start = tree.landed().await.map_err(|error| format!("no transaction can begin: {error}"))?;
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
    let header = Header {
        id: id.as_str().into(),
        volume,
        start,
        place: place.as_os_str().as_bytes().into(),
        own_place,
        uid: begin.uid,
        began_ns: daemon.node.cluster_ns(),
        message: begin.message.into(),
        anew: false,
    };
    let mut transaction = Transaction::new(volume, start);
    let kept = match run {
        true => None,
        false => {
            transaction.keep_events();
            let (places, header) = (places.clone(), header.clone());
            let kept = blocking(move || Kept::begin(&places, header).map_err(|error| error.to_string())).await;
            Some(kept.map_err(|error| {
                drop_place(&daemon.transactions.places.join(&id), own_place);
                format!("{}: no transaction can begin: {error}", daemon.transactions.places.display())
            })?)
        }
    };
    let open = Arc::new(Open::new(daemon, &header, run, None, State::new(transaction, kept)));
    daemon.transactions.table.lock().open.insert(id.clone(), open.clone());
    // Every state stays whole for some seconds, so this need not be waited for; what keeps pins tries again.
    let pinning = daemon.clone();
    tokio::spawn(async move {
        if let Err(error) = retention::pin(&pinning, volume, start).await {
            tracing::warn!(%error, %start, "the start of a transaction is not kept");
        }
    });
    if let Err(error) = open.mount(daemon).await {
        open.end(daemon, "it could not be mounted").await;
        return Err(error);
    }
    Ok(open)
}

/// The place of a transaction's mount goes with it.
fn drop_place(place: &Path, own_place: bool) {
    let removed = if own_place { std::fs::remove_dir(place) } else { std::fs::remove_file(place) };
    if let Err(error) = removed {
        tracing::warn!(path = %place.display(), %error, "the place of a transaction stays behind");
    }
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
    fn new(daemon: &Daemon, header: &Header, run: bool, damaged: Option<String>, state: State) -> Open {
        Open {
            id: header.id.to_string(),
            volume: header.volume,
            uid: header.uid,
            began_ns: header.began_ns,
            message: header.message.to_string(),
            place: PathBuf::from(OsStr::from_bytes(&header.place)),
            own_place: header.own_place,
            run,
            damaged,
            node: daemon.node.clone(),
            blobs: daemon.blobs.clone(),
            tree: daemon.tree(header.volume, false),
            state: Mutex::new(state),
            stored: tokio::sync::Notify::new(),
            front: Mutex::default(),
        }
    }

    /// Mounts it at its place.
    async fn mount(self: &Arc<Self>, daemon: &Arc<Daemon>) -> Result<(), String> {
        let tree = Arc::new(TxnTree { open: self.clone(), tokio: Handle::current() });
        let mut options = options(daemon, self.volume);
        options.extend(self.damaged.is_some().then_some(MountOption::ReadOnly));
        let mount = MountConfig { path: self.place.clone(), volume: self.volume.into(), options, at: None };
        let socket = daemon.config.control_socket.display();
        let (mounter, control) = (daemon.mounter.clone(), format!("{CONTROL_PREFIX}{} {socket}", self.id));
        blocking(move || mounter.mount_private(tree, &mount, &control)).await
    }

    /// A part of what was done is committed only if that is meant.
    fn check_complete(&self, incomplete: bool) -> Result<(), String> {
        match &self.damaged {
            Some(cause) if !incomplete => Err(format!(
                "transaction {} is not whole: {cause}\nHint: `gavel txn diff` shows what is left; `gavel txn commit --incomplete` commits that, `gavel txn abort` gives it up",
                self.id
            )),
            _ => Ok(()),
        }
    }

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
        self.state.lock().take_to_end(&self.id)
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
            state.kept = None;
            std::mem::take(&mut state.held)
        };
        if !self.run
            && let Err(error) = kept::remove(&daemon.transactions.places, &self.id)
        {
            tracing::error!(transaction = %self.id, %error, how, "its journal can't be removed: it will seem to be open when the node starts");
        }
        held.into_iter().for_each(|blob| self.blobs.in_use.let_go(blob));
        self.stored.notify_waiters();
        self.umount(daemon).await;
        tracing::debug!(transaction = %self.id, how, "a transaction has ended");
        drop_place(&daemon.transactions.places.join(&self.id), self.own_place);
        let mut table = daemon.transactions.table.lock();
        table.open.remove(&self.id);
        table.remember(&self.id, how.to_owned());
    }

    /// It may never have been mounted, or somebody has taken it off.
    async fn umount(&self, daemon: &Daemon) {
        let (mounter, place) = (daemon.mounter.clone(), self.place.clone());
        let ended = tokio::task::spawn_blocking(move || mounter.umount(&place)).await;
        tracing::debug!(transaction = %self.id, ?ended, "taken off");
    }
}

impl Table {
    /// How many there are.
    fn len(&self) -> usize {
        self.open.len() + self.left.len()
    }

    fn remember(&mut self, id: &str, how: String) {
        self.ended.push_back((id.to_owned(), how));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }

    /// One that is not open, by its id, a beginning of it, or a path in its place.
    fn left(&self, id: &str) -> Result<Option<(&str, &Left)>, String> {
        let path = Path::new(id);
        let means = |name: &str, left: &Left| {
            let within = path.is_absolute() && left.place().is_some_and(|place| path.starts_with(place));
            within || !id.is_empty() && name.starts_with(id)
        };
        if self.open.contains_key(id) {
            return Ok(None);
        }
        let mut found = self.left.iter().filter(|(name, left)| means(name, left));
        match (found.next(), found.next()) {
            (Some((name, left)), None) => Ok(Some((name, left))),
            (Some(_), Some(_)) => Err(format!("{id}: several transactions begin so")),
            _ => Ok(None),
        }
    }
}
