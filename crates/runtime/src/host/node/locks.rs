//! Locks on the node's thread: calls of fronts in, their answers out.

use super::{NodeThread, Wait, WaitError};
use gavel_client::{LockAnswer, LockCall, LockId, Token};
use gavel_server::Clock;
use gavel_wire::lock::{Lock, LockFile, LockKind, LockOwner, Span};
use tokio::sync::oneshot;

/// What the node's thread is told of locks.
pub enum LockInput {
    /// Take one, or give one back.
    Call {
        /// What.
        call: LockCall,
        /// Its name, if it may be cancelled.
        id: Option<LockId>,
        /// Gets the answer.
        reply: oneshot::Sender<Result<LockAnswer, WaitError>>,
    },
    /// The program does not want to wait any more.
    Cancel(LockId),
    /// It has taken too long: whoever waits is told so.
    GiveUp(LockId),
    /// Which lock is in the way of this one, by the replica as it is? To be asked after a confirmed read.
    Test {
        /// On what.
        file: LockFile,
        /// For whom.
        owner: u64,
        /// Which bytes.
        span: Span,
        /// To do what.
        kind: LockKind,
        /// Gets the answer; none if the owner has lost its locks of the file.
        reply: oneshot::Sender<Result<Option<Option<Lock>>, WaitError>>,
    },
    /// Does another session hold any of these bytes, by the replica as it is? To be asked after a confirmed read.
    HeldElsewhere {
        /// Of what.
        file: LockFile,
        /// Who asks.
        owner: u64,
        /// Which bytes.
        span: Span,
        /// Gets the answer.
        reply: oneshot::Sender<Result<bool, WaitError>>,
    },
    /// As [`LockInput::Test`], for a client's program.
    TestFor {
        /// On what.
        file: LockFile,
        /// For whom.
        whose: LockOwner,
        /// Which bytes.
        span: Span,
        /// To do what.
        kind: LockKind,
        /// Gets the answer.
        reply: oneshot::Sender<Option<Lock>>,
    },
}

impl LockInput {
    /// The node has stopped.
    pub fn refuse(self, error: WaitError) {
        match self {
            LockInput::Call { reply, .. } => drop(reply.send(Err(error))),
            LockInput::Test { reply, .. } => drop(reply.send(Err(error))),
            LockInput::HeldElsewhere { reply, .. } => drop(reply.send(Err(error))),
            LockInput::Cancel(_) | LockInput::GiveUp(_) | LockInput::TestFor { .. } => {}
        }
    }
}

/// A call that has no answer yet.
pub struct LockWait {
    pub(super) id: Option<LockId>,
    reply: oneshot::Sender<Result<LockAnswer, WaitError>>,
}

impl LockWait {
    pub(super) fn end(self, result: Result<LockAnswer, WaitError>) {
        // Whoever has stopped waiting does not care.
        drop(self.reply.send(result));
    }
}

impl NodeThread {
    pub(super) fn take_lock(&mut self, clock: Clock, input: LockInput) {
        match input {
            LockInput::Call { call, id, reply } => {
                let token = self.waits.add(Wait::Lock(LockWait { id, reply }));
                if let Some(id) = id {
                    self.waits.locks.insert(id, token);
                }
                self.node.session.lock(clock.now, token, call);
            }
            LockInput::Cancel(id) => {
                if let Some(token) = self.waits.locks.get(&id) {
                    self.node.session.cancel_lock(*token);
                }
            }
            LockInput::GiveUp(id) => {
                if let Some(token) = self.waits.locks.get(&id).copied() {
                    self.node.session.abandon_lock(token);
                    self.fail(token, WaitError::Unknown);
                }
            }
            LockInput::Test { file, owner, span, kind, reply } => {
                drop(reply.send(Ok(self.node.test_lock(file, owner, span, kind))));
            }
            LockInput::HeldElsewhere { file, owner, span, reply } => {
                let found = self.node.test_lock(file, owner, span, LockKind::Write).flatten();
                let own = self.node.session.id();
                drop(reply.send(Ok(found.is_some_and(|lock| Some(lock.owner.session) != own))));
            }
            LockInput::TestFor { file, whose, span, kind, reply } => {
                let _ = reply.send(self.node.lock_in_the_way(file, whose, span, kind));
            }
        }
    }

    pub(super) fn answer_lock(&mut self, token: Token, answer: LockAnswer) {
        if let Some(Wait::Lock(wait)) = self.waits.by_token.remove(&token) {
            if let Some(id) = wait.id {
                self.waits.locks.remove(&id);
            }
            wait.end(Ok(answer));
        }
    }
}
