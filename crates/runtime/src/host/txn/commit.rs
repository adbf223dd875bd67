//! One commit of a transaction, and finding out what became of it.

use super::{Open, TxnEnd, blocking, report, staging};
use crate::host::daemon::Daemon;
use crate::host::node::{Input, WaitError};
use gavel_client::transaction::commit::{Next, Shipped, Shipping, all_hold, find, note};
use gavel_client::transaction::fold::Folded;
use gavel_client::transaction::split::{self, Part, Split};
use gavel_client::transaction::staging::{NotStaged, Staging};
use gavel_client::transaction::{COMMIT_BYTES_MAX, pack};
use gavel_client::tree::Kept;
use gavel_txn::Stage;
use gavel_types::{BlobId, Key, ObjectId, Tid, Timestamp};
use gavel_wire::{Author, Guard, Mutation, Outcome, RequestBody, View};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long it is tried to find out what became of a commit whose session has ended.
const LOOK_PATIENCE: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long the bytes of a transaction may take to be on a majority.
const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// Commits a transaction. It goes on if that can't be done, unless it is a run.
///
/// # Errors
/// Why it is not committed, in words. Nothing was written.
pub(super) async fn commit(daemon: &Arc<Daemon>, open: Arc<Open>, message: String) -> Result<TxnEnd, String> {
    // Whoever has asked may go away: what was begun here comes to an end all the same.
    let daemon = daemon.clone();
    let committing = tokio::spawn(async move { commit_to_the_end(&daemon, &open, &message).await });
    committing.await.map_err(|error| error.to_string())?
}

async fn commit_to_the_end(daemon: &Arc<Daemon>, open: &Arc<Open>, message: &str) -> Result<TxnEnd, String> {
    open.take_to_end()?;
    open.end_processes().await;
    let shipped = match open.committing().await {
        Ok(()) => ship(open, message).await,
        Err(cause) => Err(cause),
    };
    let nothing = "it could not be committed, and nothing was written";
    match shipped {
        Ok(None) => {
            open.end(daemon, "it had changed nothing").await;
            Ok(TxnEnd::Committed { tid: None, time: None })
        }
        Ok(Some(Shipped::Committed(tid))) => {
            open.end(daemon, &format!("it was committed at {tid}")).await;
            Ok(TxnEnd::Committed { tid: Some(tid.to_string()), time: Some(Timestamp::of_tid(tid).to_string()) })
        }
        Ok(Some(Shipped::Collided)) => {
            let reported = open.clone();
            let report = blocking(move || report::report(&reported, reported.node.tid())).await;
            open.not_committed();
            if open.run {
                open.end(daemon, "it collided with others, and nothing was written").await;
            }
            let (collisions, more) = report?;
            Ok(TxnEnd::Collided { collisions, more })
        }
        Ok(Some(Shipped::Not(cause))) | Err(cause) => {
            open.not_committed();
            if open.run {
                open.end(daemon, nothing).await;
            }
            Err(format!("nothing was written: {cause}"))
        }
        Ok(Some(Shipped::Unknown(cause))) => {
            match open.run {
                true => open.end(daemon, "nobody could say whether it was committed").await,
                false => open.leave_uncertain(daemon, &cause).await,
            }
            Ok(TxnEnd::Unknown { cause })
        }
    }
}

/// Ships what the transaction folds to; none if it has changed nothing.
async fn ship(open: &Arc<Open>, message: &str) -> Result<Option<Shipped>, String> {
    let stored = tokio::time::timeout(STORE_PATIENCE, open.all_stored()).await;
    stored.map_err(|_| "its bytes are not on a majority; check the other nodes and the network".to_owned())?;
    let folding = open.clone();
    let mut folded = blocking(move || fold(&folding)).await?;
    if folded.plan.mutations.is_empty() {
        return Ok(None);
    }
    for bytes in pack::pack(&mut folded.plan) {
        open.hold(&mut open.state.lock(), BlobId::of(&bytes));
        let as_of = open.blobs.store_on_majority(bytes).await.map_err(|error| error.to_string())?;
        let mut state = open.state.lock();
        state.stored_as_of = state.stored_as_of.min(as_of);
    }
    let splitting = open.clone();
    let (parts, last) = blocking(move || in_parts(&splitting, folded)).await?;
    let author = Author { uid: open.uid, note: note(message, &open.id).into() };
    let mut commit = Commit { open, staging: Staging::new(parts), last, author };
    let shipped = commit.run().await;
    commit.give_up();
    if let Shipped::Committed(_) = shipped {
        let rewritten = commit.last.plan.mutations.iter().filter_map(|mutation| match mutation {
            Mutation::Carve { object, .. } => Some(*object),
            _ => None,
        });
        // Bytes that this node's mounts keep of them are not what they were.
        for object in rewritten.collect::<BTreeSet<ObjectId>>() {
            open.node.fronts.forget_object(open.volume, object);
        }
    }
    Ok(Some(shipped))
}

fn fold(open: &Open) -> Result<Folded, String> {
    let state = open.state.lock();
    let at = state.transaction.at();
    let folded = state.transaction.fold(&open.node.records.at(at)).map_err(|error| error.to_string())?;
    if !open.node.records.is_whole(open.volume, at) {
        return Err(GONE.into());
    }
    Ok(folded)
}

pub(super) const GONE: &str = "the history it started from is gone: the state was pruned";

/// What is written before the commit, if it does not fit into one request; and the commit.
fn in_parts(open: &Open, folded: Folded) -> Result<(Arc<[Part]>, Folded), String> {
    if split::is_small(&folded, COMMIT_BYTES_MAX) {
        return Ok((Arc::new([]), folded));
    }
    let Split { parts, last } = split::split(open.volume, folded, open.state.lock().transaction.made());
    if !split::is_small(&last, COMMIT_BYTES_MAX) {
        let bytes = split::bytes(&last.guards, &last.plan);
        return Err(format!(
            "what it changes of what was there before, and what it has read, has {bytes} bytes; a commit has room for {COMMIT_BYTES_MAX}"
        ));
    }
    Ok((parts.into(), last))
}

/// A commit on its way, with what is staged before it.
struct Commit<'a> {
    open: &'a Open,
    staging: Staging,
    last: Folded,
    author: Author,
}

impl Commit<'_> {
    /// Does what is to be done until it is known how it ended.
    async fn run(&mut self) -> Shipped {
        let mut shipping = Shipping::new(self.open.stored_as_of());
        let (mut next, mut seen) = (Next::Ship, Tid::ZERO);
        loop {
            let done = match next {
                Next::Ship => self.ship(&mut shipping, &mut seen).await,
                Next::Judge => {
                    let hold = still_holds(self.open, &self.last.guards, seen).map_err(Shipped::Not);
                    hold.map(|hold| shipping.on_judged(hold))
                }
                Next::StoreAnew => {
                    let stored = self.store_anew().await.map_err(Shipped::Not);
                    stored.map(|as_of| shipping.on_stored_anew(as_of))
                }
                Next::Look => {
                    let looked = look(self.open, &self.author.note).await.map_err(Shipped::Unknown);
                    looked.map(|(found, whole)| shipping.on_looked(found, whole))
                }
                Next::End(shipped) => return shipped,
            };
            next = done.unwrap_or_else(Next::End);
        }
    }

    /// Stages what is to be, and ships the last request. `seen`: a state behind its outcome.
    async fn ship(&mut self, shipping: &mut Shipping, seen: &mut Tid) -> Result<Next, Shipped> {
        let stored_as_of = shipping.stored_as_of();
        let group = match self.staging.parts().is_empty() {
            true => None,
            false => match staging::stage(self.open, &mut self.staging, stored_as_of).await {
                Ok(group) => Some(group),
                Err(NotStaged::Collected) => return Ok(Next::StoreAnew),
                Err(NotStaged::Ever(cause)) => return Err(Shipped::Not(cause)),
            },
        };
        let (guards, plan) = (self.last.guards.clone(), self.last.plan.clone());
        let author = self.author.clone();
        let body = match group {
            Some(group) => RequestBody::Adopt { group, guards, plan, author, stored_as_of },
            None => RequestBody::Commit { guards, plan, author, stored_as_of },
        };
        let (reply, outcome) = oneshot::channel();
        self.open.node.inbox.push(Input::Request { body, reply });
        let answered = outcome.await;
        match &answered {
            Ok(Ok((outcome, _))) => self.staging.on_adopted(outcome.as_ref()),
            // It was never sent: what is staged stays so.
            Ok(Err(WaitError::NoQuorum)) => {}
            _ => self.staging.on_adopted(None),
        }
        match answered {
            Ok(Ok((outcome, view))) => {
                *seen = view.tid();
                if let Some(Outcome::Committed { tid }) = outcome
                    && was_passed_over(self.open, *seen, tid)
                {
                    return Err(Shipped::Not("its volume was destroyed for good".into()));
                }
                Ok(shipping.on_outcome(outcome.as_ref()))
            }
            Ok(Err(WaitError::Unknown)) => Ok(shipping.on_unknown()),
            Ok(Err(error @ WaitError::NoQuorum)) => Err(Shipped::Not(error.to_string())),
            Ok(Err(error @ WaitError::Stopped(_))) => Err(Shipped::Unknown(error.to_string())),
            Err(_) => Err(Shipped::Unknown("the node is shutting down".into())),
        }
    }

    /// Stores anew all blobs that it names: some were collected since, for nothing named them. What the transaction has stored this node has kept. Gives as of
    /// when they are on a majority: that alone counts from now on, for the start is behind the collection.
    async fn store_anew(&self) -> Result<Tid, String> {
        let plans = self.staging.parts().iter().map(|part| &part.plan).chain([&self.last.plan]);
        let mut all_as_of = Tid::MAX;
        for blob in plans.flat_map(|plan| plan.blobs()).collect::<BTreeSet<BlobId>>() {
            let bytes = self.open.blobs.fetch(blob).await.map_err(|error| error.to_string())?;
            let as_of = self.open.blobs.store_on_majority(bytes).await.map_err(|error| error.to_string())?;
            all_as_of = all_as_of.min(as_of);
        }
        Ok(all_as_of)
    }

    /// What is staged of it is not needed.
    fn give_up(&mut self) {
        self.staging.give_up();
        staging::unstage(&self.open.node, &mut self.staging);
    }
}

/// What is about a volume of which all goes is left out of a commit, and nothing said of it: such a commit leaves no record of who made it.
fn was_passed_over(open: &Open, seen: Tid, tid: Tid) -> bool {
    let stage = open.node.past.read().of(open.volume).map(|past| past.stage);
    let stays = matches!(stage, Some(Stage::Living | Stage::Destroyed { .. }));
    !stays && !matches!(open.node.records.live(seen).get(&Key::commit(open.volume, tid)), Ok(Some(_)))
}

fn still_holds(open: &Open, guards: &[Guard], tid: Tid) -> Result<bool, String> {
    all_hold(&open.node.records.live(tid), guards).map_err(|error| error.to_string())
}

/// Looks for the commit with this note, and whether nothing was removed of what came behind the start.
async fn look(open: &Open, note: &str) -> Result<(Option<Tid>, bool), String> {
    let until = tokio::time::Instant::now() + LOOK_PATIENCE;
    let last = loop {
        match open.tree.last().await {
            Ok(last) => break last,
            Err(error) if tokio::time::Instant::now() > until => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    };
    let start = open.state.lock().transaction.at();
    let found =
        find(&open.node.records.live(last), open.volume, (start, last), note).map_err(|error| error.to_string())?;
    // Asked behind the look: what is removed is announced before.
    Ok((found, open.node.records.is_whole_from(open.volume, start)))
}

/// Moves a transaction to the present state, if nothing that it depends on has changed.
///
/// # Errors
/// Why it stays where it is, in words.
pub(super) async fn rebase(daemon: &Arc<Daemon>, open: Arc<Open>) -> Result<TxnEnd, String> {
    open.check_open().map_err(|_| format!("transaction {} is being committed or has ended", open.id))?;
    open.check_complete(false)?;
    let last = open.tree.landed().await.map_err(|error| error.to_string())?;
    let moving = open.clone();
    let end = blocking(move || {
        let guards = {
            let mut state = moving.state.lock();
            let transaction = &state.transaction;
            let at = transaction.at();
            let guards = transaction.guards().to_guards(at);
            if still_holds(&moving, &guards, last)? {
                let (base, later) = (moving.node.records.at(at), moving.node.records.at(last));
                let moved = transaction.rebased(&base, &later, moving.node.cluster_ns());
                let moved = moved.map_err(|error| error.to_string())?;
                if !moving.node.records.is_whole(moving.volume, at) {
                    return Err(GONE.into());
                }
                state.move_to(moved)?;
                None
            } else {
                Some(())
            }
        };
        match guards {
            Some(()) => {
                let (collisions, more) = report::report(&moving, last)?;
                Ok(TxnEnd::Collided { collisions, more })
            }
            None => {
                forget_counters(&moving);
                Ok(TxnEnd::Rebased { start: last.to_string() })
            }
        }
    });
    let end = end.await?;
    if matches!(end, TxnEnd::Rebased { .. }) {
        let _ = crate::host::retention::pin(daemon, open.volume, last).await;
    }
    Ok(end)
}

/// All that the kernel keeps is as it was, for the transaction depends on it, but for counters and times of directories.
fn forget_counters(open: &Open) {
    let front = open.front.lock().as_ref().and_then(std::sync::Weak::upgrade);
    let kept: Vec<Kept> = open.state.lock().transaction.guards().firm_only().map(Kept::Attributes).collect();
    if let Some(front) = front {
        front.forget(kept, Box::new(|| ()));
    }
}
