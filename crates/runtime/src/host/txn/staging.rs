//! Writing before the commit what does not fit into it. `docs/protocols/transactions.md`, "Staging", has the protocol.

use super::Open;
use crate::host::node::{Input, NodeHandle, WaitError};
use gavel_client::transaction::split::Part;
use gavel_types::Tid;
use gavel_wire::{Outcome, Refusal, RequestBody};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

/// Most stages of this node that are on their way, of all its transactions: so many bytes others' requests are behind at most. With one, a stage waits for
/// the disks of a majority before the next is sent.
pub const STAGES_UNDER_WAY_MAX: usize = 1;
/// So often it is tried to stage a transaction: a lease was granted meanwhile, or the session has ended.
const TRIES_MAX: u32 = 20;
/// How long it is tried to say that a group is not needed any more. A session that ends says so itself.
const UNSTAGE_PATIENCE: Duration = Duration::from_secs(60);
const UNSTAGE_AGAIN: Duration = Duration::from_millis(500);

static UNDER_WAY: Semaphore = Semaphore::const_new(STAGES_UNDER_WAY_MAX);
/// The next group's number: none is used twice in this node's life, and no session outlives it.
static GROUPS: AtomicU64 = AtomicU64::new(1);

/// Why a group is not staged. Nothing of it stays.
pub(super) enum NotStaged {
    /// Some of what the transaction has stored was collected.
    Collected,
    /// It can't be done: why.
    Ever(String),
}

/// Why a part is not staged.
enum Not {
    /// It can be tried again.
    Yet,
    End(NotStaged),
}

type Answer = oneshot::Receiver<Result<(Option<Outcome>, crate::host::node::NodeView), WaitError>>;

/// Stages these parts as a new group, in as many tries as it takes. All blobs that they name were on a majority as of `stored_as_of`. Gives the group.
///
/// # Errors
/// [`NotStaged`].
pub(super) async fn stage(open: &Open, parts: &Arc<[Part]>, stored_as_of: Tid) -> Result<u64, NotStaged> {
    for _ in 0..TRIES_MAX {
        let group = GROUPS.fetch_add(1, Ordering::Relaxed);
        let not = match all(open, parts, group, stored_as_of).await {
            Ok(()) => return Ok(group),
            Err(not) => not,
        };
        unstage(&open.node, group);
        if let Not::End(not) = not {
            return Err(not);
        }
    }
    Err(NotStaged::Ever(format!("others were in the way of its parts {TRIES_MAX} times")))
}

async fn all(open: &Open, parts: &[Part], group: u64, stored_as_of: Tid) -> Result<(), Not> {
    let mut under_way: VecDeque<(Answer, SemaphorePermit<'static>)> = VecDeque::new();
    let mut failed = None;
    for part in parts {
        while failed.is_none() && (part.waits || under_way.len() >= STAGES_UNDER_WAY_MAX) && !under_way.is_empty() {
            failed = first(&mut under_way).await.err();
        }
        if failed.is_some() {
            break;
        }
        let Ok(permit) = UNDER_WAY.acquire().await else { break };
        let (reply, answer) = oneshot::channel();
        let body = RequestBody::Stage {
            group,
            volume: open.volume,
            runs: part.runs.clone(),
            plan: part.plan.clone(),
            stored_as_of,
        };
        open.node.inbox.push(Input::Request { body, reply });
        under_way.push_back((answer, permit));
    }
    // What is on its way comes to an end before the group is given up.
    while !under_way.is_empty() {
        let end = first(&mut under_way).await.err();
        failed = failed.or(end);
    }
    failed.map_or(Ok(()), Err)
}

/// Waits for the stage that was sent first.
async fn first(under_way: &mut VecDeque<(Answer, SemaphorePermit<'static>)>) -> Result<(), Not> {
    let Some((answer, _permit)) = under_way.pop_front() else { return Ok(()) };
    let ever = |cause: &str| Err(Not::End(NotStaged::Ever(cause.into())));
    match answer.await {
        Ok(Ok((Some(Outcome::Committed { .. }), _))) => Ok(()),
        Ok(Ok((Some(Outcome::Refused { refusal: Refusal::Collected }), _))) => Err(Not::End(NotStaged::Collected)),
        Ok(Ok((Some(Outcome::Refused { refusal: Refusal::Full }), _))) => {
            ever("too many large transactions are being committed in the cluster; try again later")
        }
        Ok(Ok((Some(Outcome::Refused { refusal: Refusal::Missing }), _))) => {
            ever("its volume was destroyed; `gavel volume restore` brings it back")
        }
        Ok(Ok((Some(Outcome::Refused { refusal: Refusal::BadPlan | Refusal::Exists }), _))) => {
            ever("a part of its plan was refused; please report this")
        }
        // A lease was granted meanwhile; or the session has ended, and its groups with it, whether this was applied or not.
        Ok(Ok(_)) | Ok(Err(WaitError::Unknown)) => Err(Not::Yet),
        Ok(Err(error @ (WaitError::NoQuorum | WaitError::Stopped(_)))) => ever(&error.to_string()),
        Err(_) => ever("the node is shutting down"),
    }
}

/// What was staged as this group is not needed. Says so to the quorum, beside everything else, and nothing happens if it is gone already.
pub(super) fn unstage(node: &Arc<NodeHandle>, group: u64) {
    let node = node.clone();
    tokio::spawn(async move {
        let until = tokio::time::Instant::now() + UNSTAGE_PATIENCE;
        while tokio::time::Instant::now() < until {
            let (reply, answer) = oneshot::channel();
            node.inbox.push(Input::Request { body: RequestBody::Unstage { group }, reply });
            match answer.await {
                Ok(Err(WaitError::NoQuorum)) => tokio::time::sleep(UNSTAGE_AGAIN).await,
                _ => return,
            }
        }
        tracing::warn!(
            group,
            "what was written of a transaction before its commit stays until this node's session ends"
        );
    });
}

impl Open {
    /// As of when all that it names was on a majority. What it has not stored itself it found named where it began.
    pub(super) fn stored_as_of(&self) -> Tid {
        let state = self.state.lock();
        state.stored_as_of.min(state.transaction.at())
    }
}
