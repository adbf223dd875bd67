//! What people ask of the replicated state beside records, such as snapshots and policies: one request, one outcome.

use crate::host::node::{Input, NodeHandle, NodeView, WaitError};
use gavel_types::Tid;
use gavel_wire::{Author, Guard, Outcome, Plan, Refusal, RequestBody};
use std::time::Duration;
use tokio::sync::oneshot;

/// Why a request was not carried out.
pub(super) enum Asked {
    /// The log refused it.
    Refused(Refusal),
    /// Something else, in words.
    Failed(String),
}

/// Ships a request and waits for its outcome. `look` is the command that shows whether it was done after all, if that is not known in time.
///
/// # Errors
/// [`Asked`].
pub(super) async fn request(node: &NodeHandle, body: RequestBody, patience: Duration, look: &str) -> Result<(), Asked> {
    let (reply, answer) = oneshot::channel();
    node.inbox.push(Input::Request { body, reply });
    let failed = |cause: &str| Asked::Failed(cause.to_owned());
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(Ok((Some(Outcome::Committed { .. }), _)))) => Ok(()),
        Ok(Ok(Ok((Some(Outcome::Refused { refusal }), _)))) => Err(Asked::Refused(refusal)),
        Ok(Ok(Ok(_))) => Err(failed("the cluster gave this node up meanwhile; it was not done: try again")),
        Ok(Ok(Err(error))) => Err(failed(&error.to_string())),
        Ok(Err(_)) => Err(failed("the node is shutting down")),
        Err(_) => Err(failed(&format!("no quorum answered in time; it may be done yet: {look}"))),
    }
}

/// A commit on its way.
pub(super) struct Coming(oneshot::Receiver<Result<(Option<Outcome>, NodeView), WaitError>>);

/// Ships a plan. What it names was stored, or found named, as of `stored_as_of`.
pub(super) fn ship(node: &NodeHandle, guards: Vec<Guard>, plan: Plan, author: Author, stored_as_of: Tid) -> Coming {
    let (reply, outcome) = oneshot::channel();
    node.inbox.push(Input::Commit { guards, plan, author, stored_as_of, made: None, reply });
    Coming(outcome)
}

impl Coming {
    /// Waits for what becomes of it. False if it collided, or a blob that it names has to be stored anew.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub(super) async fn outcome(self, patience: Duration) -> Result<bool, String> {
        match tokio::time::timeout(patience, self.0).await {
            Ok(Ok(Ok((Some(Outcome::Committed { .. }), _)))) => Ok(true),
            Ok(Ok(Ok((Some(Outcome::Refused { refusal: Refusal::BadPlan }), _)))) => {
                Err("the plan was refused; please report this".into())
            }
            Ok(Ok(Ok((Some(Outcome::Refused { refusal: Refusal::ReadOnly }), _)))) => {
                Err("the volume is a mirror: only its source changes it (`gavel mirror promote` ends that)".into())
            }
            Ok(Ok(Ok(_))) => Ok(false),
            Ok(Ok(Err(error))) => Err(error.to_string()),
            Ok(Err(_)) => Err("the node is shutting down".into()),
            Err(_) => Err("no quorum answered in time".into()),
        }
    }
}

/// Commits a plan: [`ship`], and [`Coming::outcome`].
///
/// # Errors
/// As [`Coming::outcome`].
pub(super) async fn commit(
    node: &NodeHandle,
    guards: Vec<Guard>,
    plan: Plan,
    author: Author,
    stored_as_of: Tid,
    patience: Duration,
) -> Result<bool, String> {
    ship(node, guards, plan, author, stored_as_of).outcome(patience).await
}
