//! Locks of files: calls that may wait for longer than anything else does.

use super::{Inner, Owed, PATIENCE, VolumeTree, Waited, empty, not_sent, outcome_unknown, within};
use crate::host::node::{Input, LockInput, WaitError};
use gavel_client::tree::Answered;
use gavel_client::{Answer, LockAnswer, LockCall, LockError, LockId, TreeError, TreeRequest};
use gavel_types::ObjectId;
use gavel_wire::lock::{Family, LockFile, LockKind, Span};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The byte of its WAL index that SQLite has a shared lock of as long as it has the index mapped (`UNIX_SHM_DMS` in its `os_unix.c`). Its processes agree over
/// that mapping, which holds on one node only. So no two nodes have a lock of this byte at once: SQLite says "locking protocol" then.
const WAL_INDEX: Span = Span { first: 128, last: 128 };

pub(in crate::host) type Reply = oneshot::Receiver<Result<LockAnswer, WaitError>>;

pub(in crate::host) fn is_about_locks(request: &TreeRequest) -> bool {
    use TreeRequest as R;
    matches!(request, R::Lock { .. } | R::Unlock { .. } | R::TestLock { .. } | R::CancelLock { .. })
}

/// Is it for a lock that only programs of one node may share?
pub(in crate::host) fn is_of_one_node(request: &TreeRequest) -> bool {
    use TreeRequest as R;
    matches!(request, R::Lock { family: Family::Posix, kind: LockKind::Read, span: WAL_INDEX, wait: false, .. })
}

impl VolumeTree {
    /// Starts a request about locks. A call for a lock is in the node's queue before this returns, so that what cancels it finds it.
    pub(super) fn lock(&self, request: TreeRequest, answered: Answered) {
        let inner = self.inner.clone();
        let of_one_node = is_of_one_node(&request);
        match request {
            TreeRequest::Lock { object, family, owner, span, kind, pid, id, wait } if of_one_node => {
                let file = inner.lock_file(object, family);
                let owed = Owed(Some(answered));
                self.inner.begin(true, async move {
                    if let Err(error) = inner.not_held_elsewhere(file, owner, span).await {
                        return owed.give(Err(error));
                    }
                    let reply = inner.call(LockCall::Lock { file, owner, span, kind, pid, wait }, Some(id));
                    let give_up = move || inner.node.inbox.push(Input::Lock(LockInput::GiveUp(id)));
                    owed.give(locked(wait, reply, give_up).await);
                });
            }
            TreeRequest::Lock { object, family, owner, span, kind, pid, id, wait } => {
                let file = inner.lock_file(object, family);
                let reply = inner.call(LockCall::Lock { file, owner, span, kind, pid, wait }, Some(id));
                let give_up = move || inner.node.inbox.push(Input::Lock(LockInput::GiveUp(id)));
                let owed = Owed(Some(answered));
                self.inner.begin(true, async move { owed.give(locked(wait, reply, give_up).await) });
            }
            TreeRequest::Unlock { object, family, owner, span, closing } => {
                let file = inner.lock_file(object, family);
                let owed = Owed(Some(answered));
                self.inner.begin(true, async move {
                    // What was written under the lock is committed before somebody else has it. If that fails, it is told elsewhere.
                    let _ = within(inner.node.sync()).await;
                    let reply = inner.call(LockCall::Unlock { file, owner, span, closing }, None);
                    owed.give(unlocked(closing, reply).await);
                });
            }
            TreeRequest::TestLock { object, family, owner, span, kind } => {
                let file = inner.lock_file(object, family);
                let owed = Owed(Some(answered));
                self.inner.begin(true, async move { owed.give(inner.test_lock(file, owner, span, kind).await) });
            }
            TreeRequest::CancelLock { id } => {
                inner.node.inbox.push(Input::Lock(LockInput::Cancel(id)));
                self.inner.tokio.spawn(give_up_late(inner, id));
                answered(Ok(empty()));
            }
            other => unreachable!("{other:?} is not about locks"),
        }
    }
}

impl Inner {
    fn lock_file(&self, object: ObjectId, family: Family) -> LockFile {
        LockFile { volume: self.volume, object, family }
    }

    fn call(&self, call: LockCall, id: Option<LockId>) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.node.inbox.push(Input::Lock(LockInput::Call { call, id, reply }));
        answer
    }

    async fn not_held_elsewhere(&self, file: LockFile, owner: u64, span: Span) -> Result<(), TreeError> {
        drop(self.ask(|reply| Input::Confirm(Vec::new(), reply)).await.map_err(not_sent)?);
        let held = |reply| Input::Lock(LockInput::HeldElsewhere { file, owner, span, reply });
        match self.ask(held).await.map_err(not_sent)? {
            true => Err(LockError::Locked.into()),
            false => Ok(()),
        }
    }

    async fn test_lock(&self, file: LockFile, owner: u64, span: Span, kind: LockKind) -> Result<Answer, TreeError> {
        // The replica holds what was committed before, from here on.
        drop(self.ask(|reply| Input::Confirm(Vec::new(), reply)).await.map_err(not_sent)?);
        let test = |reply| Input::Lock(LockInput::Test { file, owner, span, kind, reply });
        let found = self.ask(test).await.map_err(not_sent)?;
        let lock = found.ok_or(LockError::Lost)?;
        Ok(Answer { lock, ..empty() })
    }
}

/// A program that has been interrupted waits for what becomes of its lock as long as operations wait.
async fn give_up_late(inner: Arc<Inner>, id: LockId) {
    tokio::time::sleep(PATIENCE).await;
    inner.node.inbox.push(Input::Lock(LockInput::GiveUp(id)));
}

/// Waits for a lock as long as it takes if that was asked for, otherwise as long as operations wait; then it is given up.
pub(in crate::host) async fn locked(wait: bool, reply: Reply, give_up: impl FnOnce()) -> Result<Answer, TreeError> {
    if wait {
        return answer(reply.await);
    }
    match tokio::time::timeout(PATIENCE, reply).await {
        Ok(result) => answer(result),
        Err(_) => {
            give_up();
            Err(outcome_unknown(Waited::TooLong))
        }
    }
}

/// What is given back is given back, sooner or later: nobody who closes a file need wait for it for ever, nor hear of it.
pub(in crate::host) async fn unlocked(closing: bool, reply: Reply) -> Result<Answer, TreeError> {
    match tokio::time::timeout(PATIENCE, reply).await {
        Ok(result) if !closing => answer(result),
        Err(_) if !closing => Err(outcome_unknown(Waited::TooLong)),
        _ => Ok(empty()),
    }
}

fn answer(result: Result<Result<LockAnswer, WaitError>, oneshot::error::RecvError>) -> Result<Answer, TreeError> {
    match result {
        Ok(Ok(LockAnswer::Done)) => Ok(empty()),
        Ok(Ok(LockAnswer::Locked)) => Err(LockError::Locked.into()),
        Ok(Ok(LockAnswer::Deadlock)) => Err(LockError::Deadlock.into()),
        Ok(Ok(LockAnswer::NoLocks)) => Err(LockError::NoLocks.into()),
        Ok(Ok(LockAnswer::Cancelled)) => Err(LockError::Cancelled.into()),
        Ok(Ok(LockAnswer::Lost)) => Err(LockError::Lost.into()),
        Ok(Ok(LockAnswer::Unsettled)) => {
            let cause = "an earlier request for a lock has no outcome yet".into();
            Err(TreeError::Unknown { cause })
        }
        Ok(Err(error)) => Err(outcome_unknown(Waited::Error(error))),
        Err(_) => Err(TreeError::Closed),
    }
}
