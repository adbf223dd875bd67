//! What becomes of a transaction's commit that was shipped, and what its host does about it: decided here, so that both worlds do the same.
//!
//! ```text
//!   Ship ──outcome──> End
//!     ^ ├─ it collided ──> Judge: do the guards hold now? ── no ──> End
//!     │ ├─ bytes are gone ──> StoreAnew
//!     │ ├─ nobody can say ──> Look: is there a commit with its note? ── yes, or its history is gone ──> End
//!     └─┴── otherwise it was not done: once more, `TRIES_MAX` times
//! ```

use gavel_types::{KeyParts, KeyRange, Tid, VolumeId};
use gavel_wire::{Guard, Live, Outcome, Record, Refusal, View, ViewError};

/// So often a commit is shipped again that met a lease which was granted meanwhile, or was lost with its session.
pub const TRIES_MAX: u32 = 100;
/// Commits that are looked at in one step.
const PAGE: usize = 1024;

/// What became of what was shipped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shipped {
    /// It is committed.
    Committed(Tid),
    /// Others have changed what it depends on: it was not done.
    Collided,
    /// Not done, and it will not be: why.
    Not(String),
    /// Nobody can say: why.
    Unknown(String),
}

/// What its host does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Ship it, again.
    Ship,
    /// Look whether its guards hold in a view behind the outcome ([`all_hold`]), then call [`Shipping::on_judged`].
    Judge,
    /// Store all blobs that its plan names anew, whoever has stored them before, then call [`Shipping::on_stored_anew`].
    StoreAnew,
    /// Have the present confirmed, [`find`] the commit in it, then call [`Shipping::on_looked`].
    Look,
    /// That is how it ended.
    End(Shipped),
}

/// A commit on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shipping {
    tries: u32,
    stored_as_of: Tid,
}

impl Shipping {
    /// One that is to be shipped. All blobs that its plan names were on a majority as of `stored_as_of`, or named then.
    pub fn new(stored_as_of: Tid) -> Shipping {
        Shipping { tries: 0, stored_as_of }
    }

    /// What goes with it: see [`gavel_wire::RequestBody::Commit`].
    pub fn stored_as_of(&self) -> Tid {
        self.stored_as_of
    }

    /// All blobs that its plan names are on a majority once more. What holds from here on is that alone: the start, and what was stored before, are behind a
    /// collection for ever.
    pub fn on_stored_anew(&mut self, stored_as_of: Tid) -> Next {
        self.stored_as_of = stored_as_of;
        self.again()
    }

    /// It has its outcome; none: it was lost with a session that ended before, and was not done.
    pub fn on_outcome(&mut self, outcome: Option<&Outcome>) -> Next {
        match outcome {
            Some(Outcome::Committed { tid }) => Next::End(Shipped::Committed(*tid)),
            Some(Outcome::Refused { refusal: Refusal::Conflict { .. } }) => Next::Judge,
            Some(Outcome::Refused { refusal: Refusal::Collected }) => Next::StoreAnew,
            Some(Outcome::Refused { refusal: Refusal::BadPlan }) => {
                Next::End(Shipped::Not("its plan was refused; please report this".into()))
            }
            Some(Outcome::Refused { refusal: Refusal::Missing }) => {
                Next::End(Shipped::Not("its volume was destroyed; `gavel volume restore` brings it back".into()))
            }
            Some(Outcome::Refused { refusal: Refusal::ReadOnly }) => {
                Next::End(Shipped::Not("its volume is a mirror now: only its source changes it".into()))
            }
            // A lease was granted meanwhile, or the session ended before: it was not done.
            _ => self.again(),
        }
    }

    /// Nobody can say any more whether it was applied: it was, or never will be, for the session that could have done it has ended.
    pub fn on_unknown(&self) -> Next {
        Next::Look
    }

    /// It collided. Do its guards hold now? A name that was there for a moment is gone again: then it can be tried once more.
    pub fn on_judged(&mut self, hold: bool) -> Next {
        if hold { self.again() } else { Next::End(Shipped::Collided) }
    }

    /// It was looked for in the present. `whole`: nothing was removed of what came behind its start. Otherwise its author's record may be gone with the
    /// state that it led to, and that it is not found says nothing.
    pub fn on_looked(&mut self, found: Option<Tid>, whole: bool) -> Next {
        match found {
            Some(tid) => Next::End(Shipped::Committed(tid)),
            None if whole => self.again(),
            None => Next::End(Shipped::Unknown(
                "the session ended during the commit, and the history in which it would be found was pruned since"
                    .into(),
            )),
        }
    }

    /// It was not done: once more.
    fn again(&mut self) -> Next {
        self.tries += 1;
        match self.tries < TRIES_MAX {
            true => Next::Ship,
            false => Next::End(Shipped::Not(format!("others were in its way {TRIES_MAX} times"))),
        }
    }
}

/// The note of the commit: what was said, and which transaction it was. By that it is found again.
pub fn note(message: &str, id: &str) -> String {
    if message.is_empty() { format!("[txn {id}]") } else { format!("{message} [txn {id}]") }
}

/// The commit whose note ends with this, behind `after` and up to `upto`, if there is one.
///
/// # Errors
/// As the view's.
pub fn find(
    view: &dyn View,
    volume: VolumeId,
    (after, upto): (Tid, Tid),
    note: &str,
) -> Result<Option<Tid>, ViewError> {
    let mut range = KeyRange::commits(volume, Tid(after.0 + 1), upto);
    loop {
        let page = view.scan(&range, PAGE)?;
        for (key, version) in &page {
            if let (KeyParts::Commit { tid }, Record::Commit(committed)) = (key.parts(), &version.record)
                && committed.note.ends_with(note)
            {
                return Ok(Some(tid));
            }
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => range.start = KeyRange::one(key).end,
            _ => return Ok(None),
        }
    }
}

/// Do all guards hold in this state?
///
/// # Errors
/// As the view's.
pub fn all_hold(live: &dyn Live, guards: &[Guard]) -> Result<bool, ViewError> {
    for guard in guards {
        if !gavel_txn::apply::holds(live, guard)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_found_is_shipped_again_only_if_it_would_be_found() {
        let mut shipping = Shipping::new(Tid(5));
        assert_eq!(shipping.on_unknown(), Next::Look);
        assert_eq!(shipping.on_looked(Some(Tid(7)), false), Next::End(Shipped::Committed(Tid(7))));
        assert_eq!(shipping.on_looked(None, true), Next::Ship);
        assert!(matches!(shipping.on_looked(None, false), Next::End(Shipped::Unknown(_))));
    }

    #[test]
    fn bytes_that_were_stored_anew_are_not_as_old_as_the_start() {
        let mut shipping = Shipping::new(Tid(5));
        let collected = Outcome::Refused { refusal: Refusal::Collected };
        assert_eq!(shipping.on_outcome(Some(&collected)), Next::StoreAnew);
        assert_eq!((shipping.on_stored_anew(Tid(9)), shipping.stored_as_of()), (Next::Ship, Tid(9)));
    }

    #[test]
    fn it_is_tried_so_often_and_no_more() {
        let mut shipping = Shipping::new(Tid(5));
        for _ in 1..TRIES_MAX {
            assert_eq!(shipping.on_outcome(None), Next::Ship);
        }
        assert!(matches!(shipping.on_outcome(None), Next::End(Shipped::Not(_))));
    }
}
