//! Transactions of `gavel txn begin` when their node ends and starts: left, and opened again from their journals.

use super::commit::GONE;
use super::kept::{self, Kept};
use super::{Open, PLACES_DIR, Phase, State, Transactions};
use crate::config::Config;
use crate::host::blobs::Blobs;
use crate::host::daemon::{Daemon, Mounter};
use crate::host::node::Input;
use crate::host::retention;
use gavel_client::transaction::commit::find;
use gavel_client::transaction::journal::{Entry, Glimpse, Header, Journal, Replayed, Stage, glimpse, replay};
use gavel_types::{BlobId, Tid, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What can't be done yet is tried again after this.
const AGAIN: Duration = Duration::from_millis(200);

/// Why one is not open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// It will be: what it waits for.
    Waits(String),
    /// It can't be, and can only be given up.
    Lost(String),
    /// It was committed, and nobody was told.
    Committed(Tid),
}

/// One of an earlier life of the node.
pub(super) struct Left {
    /// None if its journal can't be read.
    pub(super) header: Option<Header>,
    held: BTreeSet<BlobId>,
    pub(super) why: Why,
}

impl Left {
    /// What its journal says. What it has stored is held from now on.
    fn found(places: &Path, id: &str, blobs: &Blobs) -> Left {
        let lost = |cause| Left { header: None, held: BTreeSet::new(), why: Why::Lost(cause) };
        let seen = match kept::read(&kept::path(places, id)).map(|bytes| glimpse(&bytes)) {
            Ok(Ok(seen)) if *seen.header.id == *id => seen,
            Ok(Ok(seen)) => return lost(format!("its journal is that of transaction {}", seen.header.id)),
            Ok(Err(error)) => return lost(error.to_string()),
            Err(error) => return lost(format!("its journal can't be read: {error}")),
        };
        seen.held.iter().for_each(|blob| blobs.in_use.hold(*blob));
        let why = match seen.stage {
            Stage::Committed(tid) => Why::Committed(tid),
            _ => Why::Waits("the node has started, and has to hear from a majority of the cluster first".into()),
        };
        Left { header: Some(seen.header), held: seen.held, why }
    }

    /// The state that must not be pruned for it.
    pub(super) fn start(&self) -> Option<(VolumeId, Tid)> {
        let header = self.header.as_ref().filter(|_| matches!(self.why, Why::Waits(_)))?;
        Some((header.volume, header.start))
    }

    /// Where it is, or was, mounted.
    pub(super) fn place(&self) -> Option<&Path> {
        Some(Path::new(OsStr::from_bytes(&self.header.as_ref()?.place)))
    }

    /// What is said to whoever wants something of it.
    pub(super) fn refusal(&self, id: &str) -> String {
        match &self.why {
            Why::Waits(cause) => format!("transaction {id} is not open again yet: {cause}"),
            Why::Lost(cause) => format!(
                "transaction {id} is lost, and nothing of it was written: {cause}\nHint: `gavel txn abort {id}` forgets it"
            ),
            Why::Committed(tid) => format!("transaction {id} has ended: it was committed at {tid}"),
        }
    }
}

impl Transactions {
    /// None is open yet. Those that an earlier life has left are found, and what they have stored is held; what else it has left mounted is taken off.
    ///
    /// # Errors
    /// If the directory of their places can't be made or read.
    pub(in crate::host) fn start(
        config: &Config,
        mounter: &dyn Mounter,
        blobs: &Blobs,
    ) -> std::io::Result<Transactions> {
        let places = config.data_dir.join(PLACES_DIR);
        std::fs::create_dir_all(&places)?;
        let (mut left, mut others) = (BTreeMap::new(), Vec::new());
        for entry in std::fs::read_dir(&places)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Some(name) if kept::is_unfinished(name) => std::fs::remove_file(entry.path())?,
                Some(name) => match kept::id_of(name) {
                    Some(id) => drop(left.insert(id.to_owned(), Left::found(&places, id, blobs))),
                    None => others.push((name.to_owned(), entry.path())),
                },
                None => others.push((String::new(), entry.path())),
            }
        }
        // The dead mount of one that is opened again keeps others out of its directory until then.
        let waits = |name: &String| left.get(name).is_some_and(|left| matches!(left.why, Why::Waits(_)));
        for (_, path) in others.iter().filter(|(name, _)| !waits(name)) {
            clear_place(mounter, path);
        }
        let transactions = Transactions { places, table: parking_lot::Mutex::default() };
        transactions.table.lock().left = left;
        Ok(transactions)
    }

    /// Somebody was told that it was committed.
    pub(super) fn forget_committed(&self, id: &str) {
        let mut table = self.table.lock();
        if let Some(Left { why: Why::Committed(tid), .. }) = table.left.get(id) {
            let how = format!("it was committed at {tid}");
            table.left.remove(id);
            table.remember(id, how);
            if let Err(error) = kept::remove(&self.places, id) {
                tracing::warn!(transaction = id, %error, "its journal can't be removed: its end will be told again");
            }
        }
    }

    /// Gives up one that is lost. False if there is none of this name.
    ///
    /// # Errors
    /// If its journal can't be removed, or several begin so.
    pub(super) fn drop_lost(&self, daemon: &Daemon, id: &str) -> Result<bool, String> {
        let mut table = self.table.lock();
        let id = match table.left(id)? {
            Some((id, Left { why: Why::Lost(_), .. })) => id.to_owned(),
            _ => return Ok(false),
        };
        let journal = kept::path(&self.places, &id);
        kept::remove(&self.places, &id).map_err(|error| format!("{}: {error}", journal.display()))?;
        if let Some(left) = table.left.remove(&id) {
            left.held.into_iter().for_each(|blob| daemon.blobs.in_use.let_go(blob));
        }
        table.remember(&id, "it was lost, and given up; nothing was written".into());
        Ok(true)
    }
}

/// Takes off what was mounted at a place of an earlier life, and removes the place.
fn clear_place(mounter: &dyn Mounter, path: &Path) {
    let removed = match std::fs::read_to_string(path) {
        // Where one was mounted that somebody had named a place for.
        Ok(place) => {
            mounter.clear(Path::new(place.trim_end_matches('\n')));
            std::fs::remove_file(path)
        }
        Err(_) => {
            mounter.clear(path);
            std::fs::remove_dir(path)
        }
    };
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "the place of a transaction stays behind");
    }
}

/// Opens those again that an earlier life has left.
pub(in crate::host) fn open_again(daemon: &Arc<Daemon>) {
    let left: Vec<String> = daemon.transactions.table.lock().left.keys().cloned().collect();
    for id in left {
        tokio::spawn(until_known(daemon.clone(), id));
    }
}

/// Why it is not open yet, or will not be.
enum Not {
    Yet(String),
    Lost(String),
    Committed(Tid),
}

async fn until_known(daemon: Arc<Daemon>, id: String) {
    loop {
        let header = match daemon.transactions.table.lock().left.get(&id) {
            Some(Left { header: Some(header), why: Why::Waits(_), .. }) => header.clone(),
            _ => return,
        };
        let why = match again(&daemon, &header).await {
            Ok(()) => return,
            Err(Not::Yet(cause)) => Why::Waits(cause),
            Err(Not::Lost(cause)) => Why::Lost(cause),
            Err(Not::Committed(tid)) => Why::Committed(tid),
        };
        if daemon.node.failure().is_some() || *daemon.stop.borrow() {
            return;
        }
        let waits = matches!(why, Why::Waits(_));
        if !waits {
            tracing::info!(transaction = %id, ?why, "a transaction of an earlier life of the node is not opened again");
            let (mounter, place) = (daemon.mounter.clone(), daemon.transactions.places.join(&id));
            let _ = tokio::task::spawn_blocking(move || clear_place(&*mounter, &place)).await;
        }
        if let Some(left) = daemon.transactions.table.lock().left.get_mut(&id) {
            left.why = why;
        }
        if !waits {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Opens one, if it goes on.
async fn again(daemon: &Arc<Daemon>, header: &Header) -> Result<(), Not> {
    let (reply, status) = oneshot::channel();
    daemon.node.inbox.push(Input::Status(reply));
    // With a session of this life those of earlier ones have ended: what they had shipped was done, or never will be.
    let session = status.await.ok().and_then(|status| status.session);
    session.ok_or_else(|| Not::Yet("the node has no session with a majority of the cluster yet".into()))?;
    let tree = daemon.tree(header.volume, false);
    let last = tree.last().await.map_err(|error| Not::Yet(error.to_string()))?;
    retention::pin(daemon, header.volume, header.start).await.map_err(|_| Not::Lost(GONE.into()))?;
    let (taking_up, header) = (daemon.clone(), header.clone());
    let taken_up = tokio::task::spawn_blocking(move || take_up(&taking_up, &header, last)).await;
    let (header, damaged, state) = taken_up.map_err(|error| Not::Yet(error.to_string()))??;
    let open = Arc::new(Open::new(daemon, &header, false, damaged, state));
    let storing: Vec<_> = {
        let state = open.state.lock();
        state.held.iter().for_each(|blob| open.blobs.in_use.hold(*blob));
        state.storing.iter().map(|(id, (bytes, _))| (*id, bytes.clone())).collect()
    };
    {
        let mut table = daemon.transactions.table.lock();
        table.open.insert(open.id.clone(), open.clone());
        if let Some(left) = table.left.remove(&open.id) {
            left.held.into_iter().for_each(|blob| daemon.blobs.in_use.let_go(blob));
        }
    }
    for (id, bytes) in storing {
        tokio::spawn(open.clone().store(id, bytes));
    }
    if let Err(error) = mount_again(daemon, &open).await {
        tracing::error!(transaction = %open.id, place = %open.place.display(), %error, "opened again, and not mounted");
        open.state.lock().notices.push(format!("it is not mounted: {error}"));
    }
    Ok(())
}

/// What its journal makes of it. Of what was not whole at the end nothing is left.
fn take_up(daemon: &Daemon, header: &Header, last: Tid) -> Result<(Header, Option<String>, State), Not> {
    let (node, places, id) = (&daemon.node, &daemon.transactions.places, &*header.id);
    let bytes = kept::read(&kept::path(places, id)).map_err(|error| Not::Yet(format!("its journal: {error}")))?;
    let seen = glimpse(&bytes).map_err(|error| Not::Lost(error.to_string()))?;
    let header = seen.header.clone();
    if seen.stage != Stage::Open || seen.rest > 0 {
        let range = (header.start, last);
        let found = find(&node.records.live(last), header.volume, range, &format!("[txn {id}]"));
        if let Some(tid) = found.map_err(|error| Not::Yet(error.to_string()))? {
            note_committed(places, &header, &bytes, tid);
            return Err(Not::Committed(tid));
        }
    }
    let replayed = replay(&bytes, &node.records.at(header.start));
    if !node.records.is_whole(header.volume, header.start) {
        return Err(Not::Lost(GONE.into()));
    }
    let replayed = replayed.map_err(|error| Not::Lost(error.to_string()))?;
    drop(bytes);
    let damaged = seen.damaged.then(|| {
        format!(
            "its journal is damaged behind byte {}: what was done then is lost, {} bytes of it",
            seen.whole, seen.rest
        )
    });
    let state =
        taken_up(places, &header, &seen, replayed).map_err(|error| Not::Yet(format!("its journal: {error}")))?;
    Ok((header, damaged, state))
}

/// So that it is told, also if the node ends before.
fn note_committed(places: &Path, header: &Header, bytes: &[u8], tid: Tid) {
    let noted = Journal::open(bytes).map_err(|error| error.to_string()).and_then(|mut journal| {
        journal.by_ref().for_each(drop);
        let kept = Kept::open(places, header.clone(), journal.position(), journal.writer());
        kept.and_then(|mut kept| kept.append(&Entry::Committed { tid })).map_err(|error| error.to_string())
    });
    if let Err(error) = noted {
        tracing::warn!(transaction = %header.id, %tid, %error, "that it was committed will be found out again");
    }
}

fn taken_up(places: &Path, header: &Header, seen: &Glimpse, replayed: Replayed) -> std::io::Result<State> {
    let Replayed { mut transaction, storing, held, stored_as_of, whole, writer } = replayed;
    let kept = if seen.damaged {
        None
    } else {
        let mut kept = Kept::open(places, header.clone(), whole, writer)?;
        if seen.stage == Stage::Committing {
            kept.append(&Entry::Open)?;
        }
        transaction.keep_events();
        transaction.forget_all_nameless();
        let events = transaction.take_events();
        if !events.is_empty() {
            kept.append(&Entry::Did { events, store: Box::default() })?;
        }
        Some(kept)
    };
    let mut state = State::new(transaction, kept);
    state.storing_bytes = storing.values().map(bytes::Bytes::len).sum();
    state.storing = storing.into_iter().map(|(id, bytes)| (id, (bytes, 1))).collect();
    state.held = held;
    // Of what is damaged not all is known.
    state.stored_as_of = if seen.damaged { Tid::ZERO } else { stored_as_of };
    if seen.rest > 0 && !seen.damaged {
        state.notices.push(format!(
            "the last {} bytes of its journal were not whole and are left out: what was done last and not synced may be missing",
            seen.rest
        ));
    }
    Ok(state)
}

/// The dead mount goes, and it is mounted there.
async fn mount_again(daemon: &Arc<Daemon>, open: &Arc<Open>) -> Result<(), String> {
    let (mounter, place, own_place) = (daemon.mounter.clone(), open.place.clone(), open.own_place);
    let cleared = tokio::task::spawn_blocking(move || {
        mounter.clear(&place);
        match own_place {
            true => std::fs::create_dir_all(&place),
            false => Ok(()),
        }
    });
    cleared.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    open.mount(daemon).await
}

impl Open {
    /// Which transaction it is, for its journal.
    fn header(&self) -> Header {
        Header {
            id: self.id.as_str().into(),
            volume: self.volume,
            start: self.state.lock().transaction.at(),
            place: self.place.as_os_str().as_bytes().into(),
            own_place: self.own_place,
            uid: self.uid,
            began_ns: self.began_ns,
            message: self.message.as_str().into(),
            anew: false,
        }
    }

    /// The node ends: when it starts, this is opened again.
    pub(super) async fn leave(&self, daemon: &Daemon) {
        let kept = {
            let mut state = self.state.lock();
            state.phase = Phase::Ended;
            state.kept.take()
        };
        if let Some(kept) = kept {
            let file = kept.file();
            match tokio::task::spawn_blocking(move || file.sync_data()).await {
                Ok(Ok(())) => {}
                failed => tracing::error!(transaction = %self.id, ?failed, "its journal could not be synced"),
            }
        }
        self.stored.notify_waiters();
        self.umount(daemon).await;
        daemon.transactions.table.lock().open.remove(&self.id);
    }

    /// Nobody can say whether it was committed: that is found out, as after a start of the node.
    pub(super) async fn leave_uncertain(&self, daemon: &Arc<Daemon>, cause: &str) {
        let (header, held) = (self.header(), std::mem::take(&mut self.state.lock().held));
        self.leave(daemon).await;
        let left = Left { header: Some(header), held, why: Why::Waits(cause.to_owned()) };
        daemon.transactions.table.lock().left.insert(self.id.clone(), left);
        tokio::spawn(until_known(daemon.clone(), self.id.clone()));
    }

    /// From here on it may be committed: its journal says so, durably.
    ///
    /// # Errors
    /// If that can't be written, in words.
    pub(super) async fn committing(&self) -> Result<(), String> {
        let file = {
            let mut state = self.state.lock();
            let Some(kept) = &mut state.kept else { return Ok(()) };
            kept.append(&Entry::Committing).map_err(|error| format!("its journal: {error}"))?;
            kept.file()
        };
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        synced.map_err(|error| error.to_string())?.map_err(|error| format!("its journal: {error}"))
    }

    /// It was not committed, and takes operations again.
    pub(super) fn not_committed(&self) {
        let mut state = self.state.lock();
        if state.phase != Phase::Committing || self.run {
            return;
        }
        state.phase = Phase::Open;
        if let Some(kept) = &mut state.kept
            && let Err(error) = kept.append(&Entry::Open)
        {
            // Then it is found out once more when the node starts.
            tracing::warn!(transaction = %self.id, %error, "its journal");
        }
    }
}
