//! Reads of past states: nothing changes there, so they need neither leases nor the quorum.

use crate::run::{Run, Step};
use crate::tree::{Answer, Keep};
use gavel_fs::{FsError, Reply, Stop};
use gavel_wire::View;

/// How long a front may keep what it was told of a past state, at most: it will not change, but the state may be pruned. The host, who knows when that
/// can be, gives less. What a kernel asks again once a minute costs nothing that can be measured.
pub const PAST_KEPT_NS: u64 = 60 * 1_000_000_000;

impl Run {
    /// Answers a read from a past state. `view` is as of a Tid that the replica has gone past.
    pub fn step_past(&mut self, view: &dyn View) -> Step {
        if !self.only_reads() {
            return Step::Done(Err(FsError::ReadOnly.into()));
        }
        let keep = Keep { names_ns: PAST_KEPT_NS, attrs_ns: PAST_KEPT_NS, bytes: true };
        match gavel_fs::attempt(view, &self.cx, &self.operation).0 {
            Ok((None, reply)) => self.finish(view, reply).keeping(keep),
            Ok((Some(_), _)) | Err(Stop::NeedObjectId) => Step::Done(Err(FsError::ReadOnly.into())),
            Err(Stop::Error(FsError::NotFound)) if self.absence_is_an_answer => {
                Step::Done(Ok(Answer::of(Reply::Empty))).keeping(keep)
            }
            Err(Stop::Error(error)) => Step::Done(Err(error.into())),
            Err(Stop::View(error)) => Step::Done(Err(error.into())),
        }
    }
}
