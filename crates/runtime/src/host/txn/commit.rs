//! One commit of a transaction, and finding out what became of it.

use super::{Open, Phase, TxnEnd, blocking, report};
use crate::host::daemon::Daemon;
use crate::host::node::{Input, WaitError};
use gavel_client::transaction::commit::{TRIES_MAX, all_hold, find, note};
use gavel_client::transaction::fold::Folded;
use gavel_client::transaction::{COMMIT_BYTES_MAX, pack};
use gavel_client::tree::Kept;
use gavel_types::{BlobId, ObjectId, Tid, Timestamp};
use gavel_wire::{Author, Guard, Mutation, Outcome, Plan, Refusal, View};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long it is tried to find out what became of a commit whose session has ended.
const LOOK_PATIENCE: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long the bytes of a transaction may take to be on a majority.
const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// What became of what was shipped.
enum Shipped {
    Committed(Tid),
    Collided,
    /// Not done, and it will not be: why.
    Not(String),
    /// Nobody can say: why.
    Unknown(String),
}

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
    let shipped = ship(open, message).await;
    let again = || {
        let mut state = open.state.lock();
        if state.phase == Phase::Committing && !open.run {
            state.phase = Phase::Open;
        }
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
            again();
            if open.run {
                open.end(daemon, "it collided with others, and nothing was written").await;
            }
            let (collisions, more) = report?;
            Ok(TxnEnd::Collided { collisions, more })
        }
        Ok(Some(Shipped::Not(cause))) | Err(cause) => {
            again();
            if open.run {
                open.end(daemon, nothing).await;
            }
            Err(format!("nothing was written: {cause}"))
        }
        Ok(Some(Shipped::Unknown(cause))) => {
            open.end(daemon, "nobody could say whether it was committed").await;
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
    let bytes = gavel_wire::codec::encode(0, &(&folded.guards, &folded.plan)).len();
    if bytes > COMMIT_BYTES_MAX {
        return Err(format!("it has {bytes} bytes; a commit has room for {COMMIT_BYTES_MAX}"));
    }
    let note = note(message, &open.id);
    let author = Author { uid: open.uid, note: note.clone().into() };
    let shipped = ship_folded(open, &folded, &author, &note).await;
    if let Shipped::Committed(_) = shipped {
        let rewritten = folded.plan.mutations.iter().filter_map(|mutation| match mutation {
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

const GONE: &str = "the history it started from is gone: the state was pruned";

async fn ship_folded(open: &Open, folded: &Folded, author: &Author, note: &str) -> Shipped {
    // What it has not stored itself it found named where it began.
    let mut stored_as_of = {
        let state = open.state.lock();
        state.stored_as_of.min(state.transaction.at())
    };
    for _ in 0..TRIES_MAX {
        let (reply, outcome) = oneshot::channel();
        let (guards, plan) = (folded.guards.clone(), folded.plan.clone());
        open.node.inbox.push(Input::Commit { guards, plan, author: author.clone(), stored_as_of, reply });
        match outcome.await {
            Ok(Ok((Some(Outcome::Committed { tid }), _))) => return Shipped::Committed(tid),
            Ok(Ok((Some(Outcome::Refused { refusal: Refusal::Conflict { .. } }), view))) => {
                // A name that was there for a moment is gone again: then it can be tried once more.
                match still_holds(open, &folded.guards, view.tid()) {
                    Ok(true) => {}
                    Ok(false) => return Shipped::Collided,
                    Err(cause) => return Shipped::Not(cause),
                }
            }
            Ok(Ok((Some(Outcome::Refused { refusal: Refusal::Collected }), _))) => {
                match store_anew(open, &folded.plan).await {
                    Ok(as_of) => stored_as_of = as_of,
                    Err(cause) => return Shipped::Not(cause),
                }
            }
            Ok(Ok((Some(Outcome::Refused { refusal: Refusal::BadPlan }), _))) => {
                return Shipped::Not("its plan was refused; please report this".into());
            }
            // A lease was granted meanwhile, or the session ended before: it was not done.
            Ok(Ok(_)) => {}
            Ok(Err(WaitError::NoQuorum)) => return Shipped::Not(WaitError::NoQuorum.to_string()),
            // It was done, or never will be: the session that could have done it has ended.
            Ok(Err(WaitError::Unknown)) => match look(open, note).await {
                Ok(Some(tid)) => return Shipped::Committed(tid),
                Ok(None) => {}
                Err(cause) => return Shipped::Unknown(cause),
            },
            Ok(Err(error @ WaitError::Stopped(_))) => return Shipped::Unknown(error.to_string()),
            Err(_) => return Shipped::Unknown("the node is shutting down".into()),
        }
    }
    Shipped::Not(format!("others were in its way {TRIES_MAX} times"))
}

/// Stores anew all blobs that the plan names: some were collected since, for nothing named them. What the transaction has stored this node has kept. Gives as of
/// when they are on a majority: that alone counts from now on, for the start is behind the collection.
///
/// # Errors
/// What can't be stored, in words.
async fn store_anew(open: &Open, plan: &Plan) -> Result<Tid, String> {
    let mut all_as_of = Tid::MAX;
    for blob in plan.blobs().collect::<BTreeSet<BlobId>>() {
        let bytes = open.blobs.fetch(blob).await.map_err(|error| error.to_string())?;
        let as_of = open.blobs.store_on_majority(bytes).await.map_err(|error| error.to_string())?;
        all_as_of = all_as_of.min(as_of);
    }
    Ok(all_as_of)
}

fn still_holds(open: &Open, guards: &[Guard], tid: Tid) -> Result<bool, String> {
    all_hold(&open.node.records.live(tid), guards).map_err(|error| error.to_string())
}

/// Looks whether a commit with this note is there.
async fn look(open: &Open, note: &str) -> Result<Option<Tid>, String> {
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
    if found.is_none() && !open.node.records.is_whole_from(open.volume, start) {
        return Err(
            "the session ended during the commit, and the history in which it would be found was pruned since".into()
        );
    }
    Ok(found)
}

/// Moves a transaction to the present state, if nothing that it depends on has changed.
///
/// # Errors
/// Why it stays where it is, in words.
pub(super) async fn rebase(daemon: &Arc<Daemon>, open: Arc<Open>) -> Result<TxnEnd, String> {
    open.check_open().map_err(|_| format!("transaction {} is being committed or has ended", open.id))?;
    let last = open.tree.last().await.map_err(|error| error.to_string())?;
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
                state.transaction = moved;
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
