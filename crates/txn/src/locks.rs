//! Requests for locks: who may ask for what. What becomes of it is the lock table's affair.

use crate::state::State;
use gavel_lock::Locking;
use gavel_types::Tid;
use gavel_wire::lock::{Lock, LockOwner, Waiter};
use gavel_wire::{Outcome, Refusal, RequestBody};

/// Applies a request for locks, `name`d by its session and number. Who is granted something by it is added to `granted`.
pub(crate) fn apply(
    state: &mut State,
    tid: Tid,
    name: Waiter,
    body: &RequestBody,
    granted: &mut Vec<Waiter>,
) -> Outcome {
    let (session, seq) = name;
    let done = Outcome::Committed { tid };
    let refused = |refusal| Outcome::Refused { refusal };
    match body {
        RequestBody::Lock { file, span, .. } | RequestBody::Unlock { file, span, .. }
            if !span.is_sound() || !state.volumes.contains_key(&file.volume) =>
        {
            refused(Refusal::BadPlan)
        }
        RequestBody::Lock { file, owner, span, kind, pid, wait } => {
            let owner = LockOwner { session, id: *owner };
            let lock = Lock { owner, span: *span, kind: *kind, pid: *pid };
            match state.locks.lock(*file, lock, wait.then_some(seq), granted) {
                Locking::Granted => done,
                Locking::Waits => Outcome::Waits,
                Locking::Locked => refused(Refusal::Locked),
                Locking::Deadlock => refused(Refusal::Deadlock),
                Locking::Full => refused(Refusal::NoLocks),
            }
        }
        RequestBody::Unlock { file, owner, span } => {
            match state.locks.unlock(*file, LockOwner { session, id: *owner }, *span, granted) {
                true => done,
                false => refused(Refusal::NoLocks),
            }
        }
        RequestBody::CancelLock { seq } if state.locks.cancel((session, *seq), granted) => done,
        _ => refused(Refusal::NotWaiting),
    }
}
