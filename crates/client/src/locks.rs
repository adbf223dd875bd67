//! Locks of this node's programs on their way: what was asked for, what waits in line, and who has lost what with a session.
//!
//! States of a call: sent -> (waiting ->) answered. The host's answer comes from an outcome, from [`News::granted`](gavel_wire::News),
//! or from the end of the session. `docs/protocols/locks.md` has the whole.
//!
//! Invariants (checked by [`Locks::check_invariants`]):
//! 1. Each number in line is that of a call for a lock that has the outcome `Waits`, and of one.
//! 2. Who has lost locks of a file with a session takes none of it until it was told: by an unlock that fails, or by closing.

use crate::session::Token;
use gavel_types::Seq;
use gavel_wire::lock::{LockFile, LockKind, Span};
use gavel_wire::{Outcome, Refusal, RequestBody};
use std::collections::BTreeMap;

/// What a program wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockCall {
    /// A lock, in place of what the owner has of these bytes.
    Lock {
        /// On what.
        file: LockFile,
        /// For whom: the kernel's number.
        owner: u64,
        /// Which bytes.
        span: Span,
        /// To do what.
        kind: LockKind,
        /// The process.
        pid: u32,
        /// Wait in line if somebody is in the way.
        wait: bool,
    },
    /// To have nothing of these bytes any more.
    Unlock {
        /// On what.
        file: LockFile,
        /// Who.
        owner: u64,
        /// Which bytes.
        span: Span,
        /// The file is being closed: nobody would hear of an error.
        closing: bool,
    },
}

impl LockCall {
    /// On what.
    pub fn file(&self) -> LockFile {
        self.whose().0
    }

    fn whose(&self) -> Whose {
        match self {
            LockCall::Lock { file, owner, .. } | LockCall::Unlock { file, owner, .. } => (*file, *owner),
        }
    }

    fn body(&self) -> RequestBody {
        match *self {
            LockCall::Lock { file, owner, span, kind, pid, wait } => {
                RequestBody::Lock { file, owner, span, kind, pid, wait }
            }
            LockCall::Unlock { file, owner, span, .. } => RequestBody::Unlock { file, owner, span },
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockAnswer {
    /// As was asked.
    Done,
    /// Somebody is in the way, and it was not to wait.
    Locked,
    /// It would wait for somebody who waits for its owner.
    Deadlock,
    /// There are too many locks.
    NoLocks,
    /// It was cancelled while it waited: nothing has changed.
    Cancelled,
    /// The session that its owner's locks of this file were held by has ended: they are gone.
    Lost,
    /// What became of an earlier call of this owner, which took too long, is not known yet: it could still change what this one gets.
    Unsettled,
}

/// What is to be done at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Ship it.
    Ship(RequestBody),
    /// Answer.
    Answer(LockAnswer),
    /// Nothing: it waits, or nobody wants to know.
    Nothing,
}

/// An owner, and what it has locks on.
type Whose = (LockFile, u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// It may have locks.
    Holds,
    /// It had some, of a session that has ended, and was not told.
    Lost,
}

#[derive(Clone, Debug)]
struct Call {
    what: LockCall,
    /// The number under which it stands in line.
    in_line: Option<Seq>,
    cancelled: bool,
    /// Its program has its answer already (that it took too long): a lock that comes of it is given back, unless its owner
    /// may know of others.
    abandoned: bool,
}

/// All of one node. See the module's documentation.
#[derive(Debug, Default)]
pub struct Locks {
    calls: BTreeMap<Token, Call>,
    in_line: BTreeMap<Seq, Token>,
    owners: BTreeMap<Whose, Standing>,
}

impl Locks {
    /// How many calls are on their way.
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Has this owner lost locks of this file, and was not told yet?
    pub fn has_lost(&self, file: LockFile, owner: u64) -> bool {
        self.owners.get(&(file, owner)) == Some(&Standing::Lost)
    }

    /// Does this call stand in line?
    pub fn is_in_line(&self, token: Token) -> bool {
        self.calls.get(&token).is_some_and(|call| call.in_line.is_some())
    }

    /// The numbers of the requests that stand in line.
    pub fn in_line(&self) -> impl Iterator<Item = Seq> + '_ {
        self.in_line.keys().copied()
    }

    /// A call.
    pub(crate) fn begin(&mut self, token: Token, what: LockCall) -> Next {
        let whose = what.whose();
        let standing = self.owners.get(&whose);
        match what {
            LockCall::Lock { .. } if standing == Some(&Standing::Lost) => return Next::Answer(LockAnswer::Lost),
            LockCall::Lock { .. } if self.calls.values().any(|call| call.abandoned && call.what.whose() == whose) => {
                return Next::Answer(LockAnswer::Unsettled);
            }
            LockCall::Unlock { closing, .. } if standing == Some(&Standing::Lost) => {
                self.owners.remove(&whose);
                return Next::Answer(if closing { LockAnswer::Done } else { LockAnswer::Lost });
            }
            LockCall::Unlock { .. }
                if standing.is_none() && !self.calls.values().any(|call| call.what.whose() == whose) =>
            {
                return Next::Answer(LockAnswer::Done);
            }
            _ => {}
        }
        self.calls.insert(token, Call { what, in_line: None, cancelled: false, abandoned: false });
        Next::Ship(what.body())
    }

    /// The program does not want to wait any more. What becomes of the call is still told by its answer.
    pub(crate) fn cancel(&mut self, token: Token) -> Next {
        let Some(call) = self.calls.get_mut(&token) else { return Next::Nothing };
        let first = !std::mem::replace(&mut call.cancelled, true);
        match call.in_line.filter(|_| first) {
            Some(seq) => Next::Ship(RequestBody::CancelLock { seq }),
            None => Next::Nothing,
        }
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn abandon(&mut self, token: Token) -> Next {
        if let Some(call) = self.calls.get_mut(&token) {
            call.abandoned = true;
        }
        self.cancel(token)
    }

    /// The call was never sent, and is not going to be.
    pub(crate) fn withdraw(&mut self, token: Token) {
        self.calls.remove(&token);
    }

    /// What became of a call that was shipped as request `seq`.
    pub(crate) fn settled(&mut self, token: Token, seq: Seq, outcome: &Outcome) -> Next {
        let Some(call) = self.calls.get_mut(&token) else { return Next::Nothing };
        match outcome {
            Outcome::Waits => {
                call.in_line = Some(seq);
                self.in_line.insert(seq, token);
                let cancel = RequestBody::CancelLock { seq };
                if call.cancelled { Next::Ship(cancel) } else { Next::Nothing }
            }
            Outcome::Committed { .. } | Outcome::Allocated { .. } => self.done(token),
            Outcome::Refused { refusal } => {
                let answer = match refusal {
                    Refusal::Locked => LockAnswer::Locked,
                    Refusal::Deadlock => LockAnswer::Deadlock,
                    _ => LockAnswer::NoLocks,
                };
                self.calls.remove(&token);
                Next::Answer(answer)
            }
        }
    }

    /// What became of a cancellation. Refused: the lock was granted before, and that is told by [`Locks::granted`].
    pub(crate) fn cancel_settled(&mut self, token: Token, outcome: &Outcome) -> Next {
        if matches!(outcome, Outcome::Refused { .. }) || !self.leave_line(token) {
            return Next::Nothing;
        }
        self.calls.remove(&token);
        Next::Answer(LockAnswer::Cancelled)
    }

    /// The session's request `seq` does not stand in line any more: it holds its lock.
    pub(crate) fn granted(&mut self, seq: Seq) -> Option<(Token, Next)> {
        let token = self.in_line.get(&seq).copied()?;
        self.leave_line(token);
        Some((token, self.done(token)))
    }

    /// The replica has skipped a part of the log: which of the numbers in line have left it?
    pub(crate) fn not_waiting(&self, waits: impl Fn(Seq) -> bool) -> Vec<Seq> {
        self.in_line.keys().copied().filter(|seq| !waits(*seq)).collect()
    }

    /// The session has ended, and all its locks and waiters with it. Gives what is to be shipped again with the next one, and the answers.
    pub(crate) fn lose(&mut self) -> Vec<(Token, Next)> {
        self.in_line.clear();
        self.owners.values_mut().for_each(|standing| *standing = Standing::Lost);
        let calls = std::mem::take(&mut self.calls);
        calls.into_iter().map(|(token, call)| (token, self.again(token, call))).collect()
    }

    fn again(&mut self, token: Token, call: Call) -> Next {
        match (call.what, call.abandoned, call.cancelled) {
            // What there was to give back is gone with the session.
            (_, true, _) => Next::Nothing,
            (LockCall::Lock { .. }, false, true) => Next::Answer(LockAnswer::Cancelled),
            _ => self.begin(token, call.what),
        }
    }

    fn done(&mut self, token: Token) -> Next {
        let Some(call) = self.calls.remove(&token) else { return Next::Nothing };
        let whose = call.what.whose();
        match call.what {
            LockCall::Lock { file, owner, span, .. } => {
                let others = self.calls.values().any(|other| other.what.whose() == whose);
                if call.abandoned && !others && !self.owners.contains_key(&whose) {
                    return Next::Ship(RequestBody::Unlock { file, owner, span });
                }
                self.owners.insert(whose, Standing::Holds);
            }
            LockCall::Unlock { span, .. } if span == Span::ALL => {
                self.owners.remove(&whose);
            }
            LockCall::Unlock { .. } => {}
        }
        if call.abandoned { Next::Nothing } else { Next::Answer(LockAnswer::Done) }
    }

    fn leave_line(&mut self, token: Token) -> bool {
        let seq = self.calls.get_mut(&token).and_then(|call| call.in_line.take());
        seq.is_some_and(|seq| self.in_line.remove(&seq).is_some())
    }

    /// Asserts the invariants that can be seen.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        let in_line: BTreeMap<Seq, Token> =
            self.calls.iter().filter_map(|(token, call)| Some((call.in_line?, *token))).collect();
        assert_eq!(self.in_line, in_line, "who stands in line is listed wrongly");
        for call in self.calls.values() {
            let locks = matches!(call.what, LockCall::Lock { wait: true, .. });
            assert!(locks || call.in_line.is_none(), "{call:?} waits");
            let (file, owner) = call.what.whose();
            assert!(!locks || !self.has_lost(file, owner), "{call:?} of one who has lost locks");
        }
    }
}

#[cfg(test)]
mod tests;
