//! Writing before the commit what does not fit into it. `docs/protocols/transactions.md`, "Staging", has the protocol; `gavel_client::transaction::staging`
//! decides what is done next.

use super::Open;
use crate::host::node::{Input, NodeHandle, WaitError};
use gavel_client::transaction::split::Part;
use gavel_client::transaction::staging::{Next, NotStaged, Staging, WAIT_MS};
use gavel_types::{SessionId, Tid};
use gavel_wire::{Outcome, RequestBody};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Most stages of this node that are on their way, of all its transactions: so many bytes others' requests are behind at most. With one, a stage waits for
/// the disks of a majority before the next is sent.
pub const STAGES_UNDER_WAY_MAX: usize = 1;
/// How long it is tried to say that a group is not needed any more. A session that ends says so itself.
const UNSTAGE_PATIENCE: Duration = Duration::from_secs(60);
const UNSTAGE_AGAIN: Duration = Duration::from_millis(500);

static UNDER_WAY: Semaphore = Semaphore::const_new(STAGES_UNDER_WAY_MAX);
/// The next group's number: none is used twice in this node's life, and no session outlives it.
static GROUPS: AtomicU64 = AtomicU64::new(1);

/// Stages the parts, in as many tries as it takes. All blobs that they name were on a majority as of `stored_as_of`. Gives the group.
///
/// # Errors
/// [`NotStaged`]: nothing of it stays.
pub(super) async fn stage(open: &Open, staging: &mut Staging, stored_as_of: Tid) -> Result<u64, NotStaged> {
    loop {
        let next = staging.next(session_of(&open.node).await, || GROUPS.fetch_add(1, Ordering::Relaxed));
        unstage(&open.node, staging);
        let (group, part) = match next {
            Next::Ship { group, part } => (group, part),
            Next::Wait => {
                tokio::time::sleep(Duration::from_millis(WAIT_MS)).await;
                continue;
            }
            Next::Adopt(group) => return Ok(group),
            Next::End(not) => return Err(not),
        };
        let parts = staging.parts().clone();
        match ship(open, group, &parts[part], stored_as_of).await {
            Ok(outcome) => staging.on_outcome(session_of(&open.node).await, outcome.as_ref()),
            Err(WaitError::Unknown) => staging.on_unknown(),
            Err(error @ (WaitError::NoQuorum | WaitError::Stopped(_))) => {
                staging.give_up();
                unstage(&open.node, staging);
                return Err(NotStaged::Ever(error.to_string()));
            }
        }
    }
}

/// The session that the node has: no older one than that of any outcome that came before.
async fn session_of(node: &NodeHandle) -> Option<SessionId> {
    let (reply, status) = oneshot::channel();
    node.inbox.push(Input::Status(reply));
    status.await.ok().and_then(|status| status.session).map(SessionId)
}

async fn ship(open: &Open, group: u64, part: &Part, stored_as_of: Tid) -> Result<Option<Outcome>, WaitError> {
    let stopping = || WaitError::Stopped("the node is shutting down".into());
    let _permit = UNDER_WAY.acquire().await.map_err(|_| stopping())?;
    let (runs, plan) = (part.runs.clone(), part.plan.clone());
    let (reply, answer) = oneshot::channel();
    let body = RequestBody::Stage { group, volume: open.volume, runs, plan, stored_as_of };
    open.node.inbox.push(Input::Request { body, reply });
    answer.await.map_err(|_| stopping())?.map(|(outcome, _)| outcome)
}

/// Says of all groups that are not needed that they are not, beside everything else. Nothing happens if they are gone already.
pub(super) fn unstage(node: &Arc<NodeHandle>, staging: &mut Staging) {
    staging.take_unneeded().into_iter().for_each(|group| abandon(node.clone(), group));
}

fn abandon(node: Arc<NodeHandle>, group: u64) {
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
