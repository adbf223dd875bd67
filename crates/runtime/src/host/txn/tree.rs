//! What a transaction's mount shows: the volume as of its start, with its own changes over it.

use super::kept::{self, Kept};
use super::{Open, State};
use crate::host::node::Input;
use gavel_client::transaction::journal::{Entry, replay};
use gavel_client::tree::Answered;
use gavel_client::{Answer, Blobs, Forget, NoState, Run, Step, Stepped, Transaction, Tree, TreeError, TreeRequest};
use gavel_fs::Reply;
use gavel_fs::operation::Caller;
use gavel_txn::Layered;
use gavel_types::{BlobId, ObjectId, Tid, VolumeId};
use gavel_wire::View;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How long an operation waits for the quorum before its caller gets an error.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a transaction that are not on a majority yet; who writes beyond waits.
const STORING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Ids that it takes at a time. What others make on this node meanwhile has others.
const IDS_AT_ONCE: usize = 64;

/// A transaction as a tree, for a mount of its own.
pub(super) struct TxnTree {
    pub(super) open: Arc<Open>,
    pub(super) tokio: Handle,
}

impl Tree for TxnTree {
    fn attach(&self, front: Weak<dyn Forget>) {
        *self.open.front.lock() = Some(front);
    }

    fn volume(&self) -> VolumeId {
        self.open.volume
    }

    fn submit(&self, caller: Caller, request: TreeRequest, answered: Answered) {
        match request {
            TreeRequest::Statfs | TreeRequest::Resolve { .. } | TreeRequest::Past { .. } => {
                return self.open.tree.submit(caller, request, answered);
            }
            TreeRequest::Sync { .. } => {
                let open = self.open.clone();
                self.tokio.spawn(async move { answered(open.sync().await.map(|()| Answer::of(Reply::Empty))) });
                return;
            }
            _ => {}
        }
        let writes = matches!(&request, TreeRequest::Write { .. });
        let run = match Run::new(self.open.volume, caller, request) {
            Ok(run) => run,
            Err(error) => return answered(Err(error)),
        };
        let crowded = writes && self.open.state.lock().storing_bytes > STORING_BYTES_MAX;
        match (crowded, self.open.step(run)) {
            (false, Next::Done(result, store)) => {
                answered(result);
                store.into_iter().for_each(|(id, bytes)| drop(self.tokio.spawn(self.open.clone().store(id, bytes))));
            }
            // What was found while it was crowded is done and answered late: that holds its program back.
            (true, Next::Done(result, store)) => {
                let open = self.open.clone();
                store.into_iter().for_each(|(id, bytes)| drop(self.tokio.spawn(self.open.clone().store(id, bytes))));
                self.tokio.spawn(async move {
                    open.wait_for_room().await;
                    answered(result);
                });
            }
            (_, next) => {
                let open = self.open.clone();
                self.tokio.spawn(async move { answered(open.go_on(next).await) });
            }
        }
    }

    fn opened(&self, object: ObjectId) {
        *self.open.state.lock().opens.entry(object).or_default() += 1;
    }

    fn closed(&self, object: ObjectId) {
        let mut state = self.open.state.lock();
        if let Some(count) = state.opens.get_mut(&object) {
            *count -= 1;
            if *count == 0 {
                state.opens.remove(&object);
                state.transaction.forget_nameless(object);
                let base = self.open.node.records.whole_at(state.transaction.at());
                if let Err(error) = state.record(&base, &[]) {
                    tracing::warn!(transaction = %self.open.id, %error, "a file that was closed");
                }
            }
        }
    }
}

/// What an operation needs.
pub(super) enum Next {
    /// The answer, and bytes that are to be stored.
    Done(Result<Answer, TreeError>, Vec<(BlobId, bytes::Bytes)>),
    ObjectId(Run),
    Blobs(Run, Vec<BlobId>),
}

impl Open {
    pub(super) fn check_open(&self) -> Result<(), TreeError> {
        match self.state.lock().phase {
            super::Phase::Open => Ok(()),
            super::Phase::Committing | super::Phase::Ended => Err(TreeError::Closed),
        }
    }

    fn step(&self, mut run: Run) -> Next {
        let mut state = self.state.lock();
        if state.phase != super::Phase::Open {
            return Next::Done(Err(TreeError::Closed), Vec::new());
        }
        if let Err(error) = state.ready() {
            return Next::Done(Err(error), Vec::new());
        }
        let base = self.node.records.whole_at(state.transaction.at());
        let loses = run.loses_name(&Layered::new(&base, state.transaction.layer().clone()));
        let now_ns = self.node.cluster_ns();
        let mut stepped = run.step_transaction(&mut state.transaction, &base, now_ns);
        if matches!(stepped.step, Step::NeedObjectId) {
            let Some(id) = self.take_id(&mut state) else { return Next::ObjectId(run) };
            run.fresh_id(id);
            stepped = run.step_transaction(&mut state.transaction, &base, now_ns);
        }
        if let Some(object) = loses.filter(|object| !state.opens.contains_key(object)) {
            state.transaction.forget_nameless(object);
        }
        let Stepped { step, store } = stepped;
        let spilled = state.transaction.spill_if_due().into_iter().map(|bytes| (BlobId::of(&bytes), bytes));
        let store: Vec<_> = store.into_iter().chain(spilled).collect();
        if let Err(error) = state.record(&base, &store) {
            return Next::Done(Err(error), Vec::new());
        }
        for (id, bytes) in &store {
            let place = state.storing.entry(*id).or_insert((bytes.clone(), 0));
            place.1 += 1;
            state.storing_bytes += bytes.len();
            self.hold(&mut state, *id);
        }
        if let Step::Done(Err(TreeError::Storage { full: true, cause })) = &step {
            state.full = Some(cause.clone());
        }
        // Asked behind the read: what is removed is announced before.
        if !self.node.records.is_whole(self.volume, state.transaction.at()) {
            return Next::Done(Err(NoState::Pruned.into()), store);
        }
        match step {
            Step::Done(result) => Next::Done(result, store),
            Step::Fetch(ids) => {
                let found = ids.iter().map(|id| {
                    let storing = || state.storing.get(id).map(|(bytes, _)| bytes.clone());
                    Some((*id, storing().or_else(|| self.blobs.in_memory(id))?))
                });
                match found.collect::<Option<Blobs>>() {
                    Some(found) => match run.fetched(&found) {
                        Step::Done(result) => Next::Done(result, store),
                        other => unreachable!("a run that has its blobs is done, not {other:?}"),
                    },
                    None => Next::Blobs(run, ids),
                }
            }
            other => unreachable!("an operation of a transaction needs no {other:?}"),
        }
    }

    fn take_id(&self, state: &mut super::State) -> Option<ObjectId> {
        if state.ids.is_empty() {
            let mut pending = self.node.pending.lock();
            state.ids.extend((0..IDS_AT_ONCE).map_while(|_| pending.take_id(|_| true)));
        }
        state.ids.pop_front()
    }

    /// Does what the operation needs, until it has its answer.
    async fn go_on(self: Arc<Self>, mut next: Next) -> Result<Answer, TreeError> {
        loop {
            next = match next {
                Next::Done(result, store) => {
                    store.into_iter().for_each(|(id, bytes)| drop(tokio::spawn(self.clone().store(id, bytes))));
                    return result;
                }
                Next::ObjectId(mut run) => {
                    let (reply, answer) = oneshot::channel();
                    self.node.inbox.push(Input::ObjectId(reply));
                    let late = || TreeError::NoQuorum { cause: "no object id could be had in time".into() };
                    let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| late())?;
                    run.fresh_id(answer.map_err(|_| TreeError::Closed)?.map_err(|_| late())?);
                    self.step(run)
                }
                Next::Blobs(mut run, ids) => {
                    let found = self.fetch(ids).await?;
                    match run.fetched(&found) {
                        Step::Done(result) => return result,
                        other => unreachable!("a run that has its blobs is done, not {other:?}"),
                    }
                }
            };
        }
    }

    async fn fetch(&self, ids: Vec<BlobId>) -> Result<Blobs, TreeError> {
        let mut found = Blobs::new();
        for id in ids {
            let storing = self.state.lock().storing.get(&id).map(|(bytes, _)| bytes.clone());
            let bytes = match storing {
                Some(bytes) => bytes,
                None => {
                    let late = |_| TreeError::NoQuorum { cause: format!("blob {id} could not be had in time") };
                    let fetched = tokio::time::timeout(PATIENCE, self.blobs.fetch(id)).await.map_err(late)?;
                    fetched.map_err(|error| TreeError::Storage { cause: error.to_string(), full: false })?
                }
            };
            found.insert(id, bytes);
        }
        Ok(found)
    }

    /// Stores bytes on a majority, for as long as it takes, or until the transaction has ended.
    pub(super) async fn store(self: Arc<Self>, id: BlobId, bytes: bytes::Bytes) {
        let whose = format!("of transaction {}", self.id);
        let given_up = || self.state.lock().phase == super::Phase::Ended || self.node.failure().is_some();
        let as_of = self.blobs.store_until(bytes.clone(), &whose, given_up).await.unwrap_or(Tid::ZERO);
        let mut state = self.state.lock();
        state.stored_as_of = state.stored_as_of.min(as_of);
        if as_of > Tid::ZERO
            && let Some(kept) = &mut state.kept
            && let Err(error) = kept.append(&Entry::Stored { blob: id, as_of })
        {
            // Then it is stored once more when the node starts.
            tracing::debug!(transaction = %self.id, %error, "its journal");
        }
        state.storing_bytes -= bytes.len();
        if let Some((_, times)) = state.storing.get_mut(&id) {
            *times -= 1;
            if *times == 0 {
                state.storing.remove(&id);
            }
        }
        drop(state);
        self.stored.notify_waiters();
    }

    async fn wait_for_room(&self) {
        loop {
            let stored = self.stored.notified();
            if self.state.lock().storing_bytes <= STORING_BYTES_MAX || self.check_open().is_err() {
                return;
            }
            stored.await;
        }
    }

    /// Returns when all bytes that were written are on a majority.
    pub(super) async fn all_stored(&self) {
        loop {
            let stored = self.stored.notified();
            if self.state.lock().storing.is_empty() {
                return;
            }
            stored.await;
        }
    }
}

impl Open {
    /// All that was done is durable; of a run, nothing is before it is committed.
    async fn sync(&self) -> Result<(), TreeError> {
        self.check_open()?;
        let Some(file) = self.state.lock().kept.as_ref().map(Kept::file) else { return Ok(()) };
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        let synced = synced.map_err(std::io::Error::other).and_then(|synced| synced);
        self.state.lock().on_synced(synced)
    }
}

impl State {
    /// The journal was synced, or could not be. Then nobody knows what of it is on the disk, and to try again would not tell.
    fn on_synced(&mut self, synced: std::io::Result<()>) -> Result<(), TreeError> {
        synced.map_err(|error| {
            let cause = format!(
                "its journal could not be synced: {error}; what the disk has of it shows when the node starts again"
            );
            self.broken = Some(cause);
            kept::failed(&error)
        })
    }

    /// An operation can begin: its journal has room.
    fn ready(&mut self) -> Result<(), TreeError> {
        if let Some(cause) = &self.broken {
            return Err(TreeError::Storage { cause: cause.clone(), full: false });
        }
        let Some(kept) = self.kept.as_mut().filter(|kept| kept.is_long()) else { return Ok(()) };
        let storing = self.storing.values().map(|(bytes, _)| bytes.clone());
        let (at, whole) = (self.transaction.at(), self.transaction.to_whole());
        let anew = kept.write_anew(at, whole, &self.held, self.stored_as_of, storing);
        anew.map_err(|error| self.refused(&error))
    }

    /// What an operation did is in the journal, or it is taken back.
    fn record(&mut self, base: &dyn View, store: &[(BlobId, bytes::Bytes)]) -> Result<(), TreeError> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let events = self.transaction.take_events();
        if events.is_empty() && store.is_empty() {
            return Ok(());
        }
        // Bytes come before what names them.
        let (last, first) = store.split_last().map_or((None, &[][..]), |(last, first)| (Some(last), first));
        let of = |stored: &(BlobId, bytes::Bytes)| Box::from(&stored.1[..]);
        let alone = first.iter().map(|stored| Entry::Did { events: Vec::new(), store: of(stored) });
        let did = Entry::Did { events, store: last.map_or_else(Box::default, of) };
        let Err(error) = alone.chain([did]).try_for_each(|entry| kept.append(&entry)) else { return Ok(()) };
        let replayed = kept.read_back().map_err(|error| error.to_string());
        match replayed.and_then(|bytes| replay(&bytes, base).map_err(|error| error.to_string())) {
            Ok(replayed) => {
                self.transaction = replayed.transaction;
                self.transaction.keep_events();
            }
            Err(cause) => self.broken = Some(format!("its journal can't be written nor read: {error}; {cause}")),
        }
        Err(self.refused(&error))
    }

    fn refused(&mut self, error: &std::io::Error) -> TreeError {
        let refused = kept::failed(error);
        if let TreeError::Storage { cause, full: true } = &refused {
            self.full = Some(cause.clone());
        }
        refused
    }

    /// It begins at a later state.
    ///
    /// # Errors
    /// If that can't be written, in words: then nothing has changed.
    pub(super) fn move_to(&mut self, mut moved: Transaction) -> Result<(), String> {
        if let Some(kept) = &mut self.kept {
            let storing = self.storing.values().map(|(bytes, _)| bytes.clone());
            let anew = kept.write_anew(moved.at(), moved.to_whole(), &self.held, self.stored_as_of, storing);
            anew.map_err(|error| format!("its journal: {error}"))?;
            moved.keep_events();
        }
        self.transaction = moved;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::txn::kept::tests::header;
    use gavel_client::Transaction;
    use gavel_types::VolumeId;

    #[test]
    fn behind_a_failed_sync_nothing_is_done_in_it_nor_is_it_committed() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = Kept::begin(dir.path(), header()).unwrap();
        kept.fail_syncs();
        let synced = kept.file().sync_data();
        let mut state = State::new(Transaction::new(VolumeId(1), Tid(7)), Some(kept));
        state.ready().unwrap();
        assert!(matches!(state.on_synced(synced), Err(TreeError::Storage { full: false, .. })));
        let Err(TreeError::Storage { cause, full: false }) = state.ready() else { panic!("it goes on") };
        assert!(cause.contains("could not be synced") && cause.contains("when the node starts again"), "{cause}");
        // A later sync that succeeds does not make it good.
        state.on_synced(Ok(())).unwrap();
        assert!(state.ready().is_err());
        let refused = state.take_to_end("1-a").unwrap_err();
        assert!(refused.contains("transaction 1-a: its journal could not be synced"), "{refused}");
    }
}
