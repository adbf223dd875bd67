//! What is written before the commit of a large transaction, part by part, and what becomes of it: decided here, so that both worlds do the same.
//!
//! ```text
//!   Ship ──outcome──> Ship the next part ──...──> Adopt ──outcome──> (none: committed, or abandoned by the refusal)
//!     ^ ├─ a lease was in the way ──> Ship the same part      └─ a lease was in the way, or there was no quorum ──> Adopt
//!     │ ├─ the session has ended, and what was staged with it ──┐
//!     └─┴─ what was staged of it before is still there ──> Wait ┴──> Ship
//!   and from everywhere: End, or `give_up`
//! ```
//!
//! One part of a transaction is under way at a time. `docs/protocols/transactions.md`, "Staging", has the protocol.
//!
//! All parts belong to one session. When it ends, what was applied of them is abandoned; a part that is shipped under the next one would be refused, or begin
//! a group without the parts before it. So the host says which session it has, whenever it asks and whenever it tells: not an older one than that under which
//! the last outcome came. A group of another session is begun anew.
//!
//! Invariant: a group that the cluster may have is [`Staging::group`], until it is adopted, or [`Staging::take_unneeded`] has given it.

use super::split::Part;
use gavel_types::SessionId;
use gavel_wire::{Outcome, Refusal};
use std::sync::Arc;

/// So often a part is shipped again that met a lease which was granted meanwhile, or was lost with its session.
pub const STAGING_TRIES_MAX: u32 = 20;
/// So often the host waits ([`Next::Wait`]) until what was staged before is reaped: at [`WAIT_MS`] each, for a minute.
pub const WAITS_MAX: u32 = 600;
/// How long the host waits, in milliseconds.
pub const WAIT_MS: u64 = 100;

/// Why a group is not staged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotStaged {
    /// Some of what the transaction has stored was collected: it is to be stored anew.
    Collected,
    /// It can't be done: why.
    Ever(String),
}

/// What its host does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Ship this part for this group, then call [`Staging::on_outcome`] or [`Staging::on_unknown`].
    Ship {
        /// The group's number.
        group: u64,
        /// Which part.
        part: usize,
    },
    /// Wait [`WAIT_MS`], then ask again.
    Wait,
    /// All of it is staged as this group: the commit is to adopt it.
    Adopt(u64),
    /// It is not staged.
    End(NotStaged),
}

/// The parts of a transaction on their way.
#[derive(Clone, Debug)]
pub struct Staging {
    parts: Arc<[Part]>,
    /// The group, if the cluster may have it.
    group: Option<u64>,
    /// The session that the host had when the group was begun.
    session: Option<SessionId>,
    /// Groups that are not needed, of which the cluster was not told.
    unneeded: Vec<u64>,
    /// Parts of the group that were applied.
    staged: usize,
    tries: u32,
    waits: u32,
    /// It is to be waited before the next part is shipped.
    waiting: bool,
    ended: Option<NotStaged>,
}

impl Staging {
    /// Of these parts nothing is staged yet.
    pub fn new(parts: Arc<[Part]>) -> Staging {
        Staging {
            parts,
            group: None,
            session: None,
            unneeded: Vec::new(),
            staged: 0,
            tries: 0,
            waits: 0,
            waiting: false,
            ended: None,
        }
    }

    /// The parts.
    pub fn parts(&self) -> &Arc<[Part]> {
        &self.parts
    }

    /// The group that the cluster may have.
    pub fn group(&self) -> Option<u64> {
        self.group
    }

    /// What to do next. `session` is that of the host, if it has one; `fresh` gives a number for a group that no session of this life has used.
    pub fn next(&mut self, session: Option<SessionId>, fresh: impl FnOnce() -> u64) -> Next {
        if let Some(ended) = self.ended.take() {
            return Next::End(ended);
        }
        if std::mem::take(&mut self.waiting) {
            return Next::Wait;
        }
        if self.group.is_some() && self.session != session {
            self.give_up();
            self.try_again();
            if let Some(ended) = self.ended.take() {
                return Next::End(ended);
            }
        }
        if self.group.is_none() {
            self.session = session;
        }
        let group = *self.group.get_or_insert_with(fresh);
        match self.staged < self.parts.len() {
            true => Next::Ship { group, part: self.staged },
            false => Next::Adopt(group),
        }
    }

    /// The part that was shipped has its outcome; none: it was lost with a session that ended before.
    pub fn on_outcome(&mut self, session: Option<SessionId>, outcome: Option<&Outcome>) {
        let ever = |cause: &str| NotStaged::Ever(cause.into());
        let refusal = match outcome {
            Some(Outcome::Committed { .. }) => {
                (self.staged, self.tries, self.waits) = (self.staged + 1, 0, 0);
                return;
            }
            Some(Outcome::Refused { refusal }) => refusal,
            _ => return self.on_unknown(),
        };
        match refusal {
            // It was shipped under another session than the parts before it.
            _ if self.session != session => {
                self.give_up();
                self.try_again();
            }
            Refusal::Leased => self.try_again(),
            // What was staged of it before belongs to a group that was abandoned, and is being reaped.
            Refusal::Exists => self.wait(),
            Refusal::Collected => self.end(NotStaged::Collected),
            Refusal::Full => {
                self.end(ever("too many large transactions are being committed in the cluster; try again later"));
            }
            Refusal::Missing => self.end(ever("its volume was destroyed; `gavel volume restore` brings it back")),
            Refusal::ReadOnly => self.end(ever("its volume is a mirror now: only its source changes it")),
            _ => self.end(ever("a part of its plan was refused; please report this")),
        }
    }

    /// Nobody can say what became of the part that was shipped: its session has ended, and its groups with it.
    pub fn on_unknown(&mut self) {
        (self.group, self.staged) = (None, 0);
        self.try_again();
    }

    /// The commit that was to adopt it has this outcome; none: it was lost with a session that ended before.
    pub fn on_adopted(&mut self, outcome: Option<&Outcome>) {
        // A lease was in the way: the group is as it was. Otherwise it was adopted, or abandoned by the refusal, or with the session.
        if !matches!(outcome, Some(Outcome::Refused { refusal: Refusal::Leased })) {
            (self.group, self.staged, self.tries, self.waits) = (None, 0, 0, 0);
        }
    }

    /// It is not needed any more: what the cluster may have of it is to be abandoned.
    pub fn give_up(&mut self) {
        self.unneeded.extend(self.group.take());
        self.staged = 0;
    }

    /// Groups that the cluster may have and that are to be abandoned ([`gavel_wire::RequestBody::Unstage`]), once.
    pub fn take_unneeded(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.unneeded)
    }

    fn end(&mut self, why: NotStaged) {
        self.give_up();
        self.ended = Some(why);
    }

    fn try_again(&mut self) {
        self.tries += 1;
        if self.tries >= STAGING_TRIES_MAX {
            self.end(NotStaged::Ever(format!("others were in the way of its parts {STAGING_TRIES_MAX} times")));
        }
    }

    fn wait(&mut self) {
        self.waits += 1;
        self.waiting = true;
        if self.waits >= WAITS_MAX {
            let cause = "what was written of it by an earlier try is still being removed; try again later";
            self.end(NotStaged::Ever(cause.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gavel_types::Tid;

    const S: Option<SessionId> = Some(SessionId(5));
    const DONE: Outcome = Outcome::Committed { tid: Tid(9) };

    fn staging(parts: usize) -> Staging {
        Staging::new(vec![Part::default(); parts].into())
    }

    fn refused(refusal: Refusal) -> Outcome {
        Outcome::Refused { refusal }
    }

    /// One of two parts, as group 1.
    fn half() -> Staging {
        let mut staging = staging(2);
        assert_eq!(staging.next(S, || 1), Next::Ship { group: 1, part: 0 });
        staging.on_outcome(S, Some(&DONE));
        assert_eq!(staging.next(S, || 2), Next::Ship { group: 1, part: 1 });
        staging
    }

    #[test]
    fn all_parts_are_staged_as_one_group_before_it_is_adopted() {
        let mut staging = half();
        staging.on_outcome(S, Some(&DONE));
        assert_eq!(staging.next(S, || 2), Next::Adopt(1));
        staging.on_adopted(Some(&refused(Refusal::Leased)));
        assert_eq!(staging.next(S, || 2), Next::Adopt(1), "it is staged as before");
        staging.on_adopted(Some(&DONE));
        staging.give_up();
        assert_eq!(staging.take_unneeded(), [], "it is a part of the volume");
    }

    #[test]
    fn what_was_staged_under_a_session_that_has_ended_is_staged_anew() {
        for outcome in [None, Some(refused(Refusal::NotStaged)), Some(refused(Refusal::Collected))] {
            let mut staging = half();
            staging.on_outcome(S, Some(&DONE));
            staging.on_adopted(outcome.as_ref());
            assert_eq!(staging.next(S, || 2), Next::Ship { group: 2, part: 0 });
            assert_eq!(staging.take_unneeded(), []);
        }
        let mut staging = half();
        staging.on_unknown();
        assert_eq!(staging.next(S, || 2), Next::Ship { group: 2, part: 0 });
    }

    /// The outcome of a part came, and then its session ended: the next part would be shipped under another one.
    #[test]
    fn no_part_follows_parts_of_another_session() {
        let later = Some(SessionId(6));
        let mut staging = half();
        staging.on_outcome(S, Some(&DONE));
        assert_eq!(staging.next(later, || 2), Next::Ship { group: 2, part: 0 }, "all were staged, and are gone");
        assert_eq!(staging.take_unneeded(), [1]);
        // It ended between the question and the shipping.
        let mut staging = half();
        staging.on_outcome(later, Some(&refused(Refusal::BadPlan)));
        assert_eq!(staging.next(later, || 2), Next::Ship { group: 2, part: 0 });
        let mut staging = half();
        staging.on_outcome(S, Some(&refused(Refusal::BadPlan)));
        assert!(matches!(staging.next(S, || 2), Next::End(NotStaged::Ever(_))));
    }

    /// The group of the session that has ended is reaped by the leader, which takes entries of the log.
    #[test]
    fn a_part_whose_objects_are_still_being_reaped_is_shipped_again_later() {
        let mut staging = half();
        staging.on_unknown();
        for _ in 1..WAITS_MAX {
            assert_eq!(staging.next(S, || 2), Next::Ship { group: 2, part: 0 });
            staging.on_outcome(S, Some(&refused(Refusal::Exists)));
            assert_eq!(staging.next(S, || 3), Next::Wait);
        }
        staging.on_outcome(S, Some(&refused(Refusal::Exists)));
        assert!(matches!(staging.next(S, || 3), Next::End(NotStaged::Ever(_))));
        assert_eq!(staging.take_unneeded(), [2]);
    }

    #[test]
    fn a_lease_in_the_way_is_no_reason_to_begin_anew() {
        let mut staging = half();
        for _ in 1..STAGING_TRIES_MAX {
            staging.on_outcome(S, Some(&refused(Refusal::Leased)));
            assert_eq!(staging.next(S, || 2), Next::Ship { group: 1, part: 1 });
        }
        staging.on_outcome(S, Some(&refused(Refusal::Leased)));
        assert!(matches!(staging.next(S, || 2), Next::End(NotStaged::Ever(_))));
        assert_eq!(staging.take_unneeded(), [1]);
    }

    #[test]
    fn what_is_refused_for_good_is_abandoned() {
        for refusal in [Refusal::Collected, Refusal::Full, Refusal::Missing, Refusal::ReadOnly, Refusal::BadPlan] {
            let mut staging = half();
            let collected = refusal == Refusal::Collected;
            staging.on_outcome(S, Some(&refused(refusal)));
            let Next::End(why) = staging.next(S, || 2) else { panic!() };
            assert_eq!(why == NotStaged::Collected, collected);
            assert_eq!((staging.take_unneeded(), staging.group()), (vec![1], None));
            // Once the bytes are stored anew, it begins again.
            assert_eq!(staging.next(S, || 2), Next::Ship { group: 2, part: 0 });
        }
    }
}
