//! Locks of the tree in memory: the real table, with one session for all.

use gavel_client::tree::{Answer, Answered, LockError, LockId, TreeError, TreeRequest};
use gavel_lock::{LockTable, Locking};
use gavel_types::{ObjectId, Seq, SessionId};
use gavel_wire::lock::{Family, Lock, LockFile, LockOwner, Waiter};
use std::collections::BTreeMap;
use std::sync::Mutex;

const SESSION: SessionId = SessionId(1);

#[derive(Default)]
pub struct Locks {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    table: LockTable,
    waiting: BTreeMap<LockId, Answered>,
}

pub fn is_about_locks(request: &TreeRequest) -> bool {
    use TreeRequest as R;
    matches!(request, R::Lock { .. } | R::Unlock { .. } | R::TestLock { .. } | R::CancelLock { .. })
}

impl Locks {
    /// How many locks there are, and how many requests wait.
    #[allow(dead_code)] // not every user of this module counts
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.inner.lock().expect("no request panics");
        (inner.table.len(), inner.table.waiters())
    }

    pub fn submit(&self, request: TreeRequest, answered: Answered) {
        let mut granted = Vec::new();
        let mut inner = self.inner.lock().expect("no request panics");
        let (answered, result) = inner.take(request, answered, &mut granted);
        inner.table.check_invariants();
        let woken: Vec<_> = granted.iter().filter_map(|(_, seq)| inner.waiting.remove(&LockId(seq.0))).collect();
        drop(inner);
        woken.into_iter().for_each(|answered| answered(Ok(done())));
        if let Some(answered) = answered {
            answered(result);
        }
    }
}

impl Inner {
    /// Gives back whom to answer now, and what.
    fn take(
        &mut self,
        request: TreeRequest,
        answered: Answered,
        granted: &mut Vec<Waiter>,
    ) -> (Option<Answered>, Result<Answer, TreeError>) {
        let result = match request {
            TreeRequest::Lock { object, family, owner, span, kind, pid, id, wait } => {
                let lock = Lock { owner: named(owner), span, kind, pid };
                match self.table.lock(file(object, family), lock, wait.then_some(Seq(id.0)), granted) {
                    Locking::Granted => Ok(done()),
                    Locking::Waits => {
                        self.waiting.insert(id, answered);
                        return (None, Ok(done()));
                    }
                    Locking::Locked => Err(LockError::Locked),
                    Locking::Deadlock => Err(LockError::Deadlock),
                    Locking::Full => Err(LockError::NoLocks),
                }
            }
            TreeRequest::Unlock { object, family, owner, span, .. } => {
                let done_so = self.table.unlock(file(object, family), named(owner), span, granted);
                if done_so { Ok(done()) } else { Err(LockError::NoLocks) }
            }
            TreeRequest::TestLock { object, family, owner, span, kind } => {
                let lock = Lock { owner: named(owner), span, kind, pid: 0 };
                Ok(Answer { lock: self.table.in_the_way(&file(object, family), &lock), ..done() })
            }
            TreeRequest::CancelLock { id } => {
                if self.table.cancel((SESSION, Seq(id.0)), granted)
                    && let Some(waiting) = self.waiting.remove(&id)
                {
                    answered(Ok(done()));
                    return (Some(waiting), Err(LockError::Cancelled.into()));
                }
                Ok(done())
            }
            other => panic!("{other:?} is not about locks"),
        };
        (Some(answered), result.map_err(TreeError::from))
    }
}

fn named(id: u64) -> LockOwner {
    LockOwner { session: SESSION, id }
}

fn file(object: ObjectId, family: Family) -> LockFile {
    LockFile { volume: super::world::VOLUME, object, family }
}

fn done() -> Answer {
    Answer::of(gavel_fs::Reply::Empty)
}
