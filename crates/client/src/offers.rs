//! Plans that were answered, and lost with their session, are offered again: committed by the next session if nothing that they read or replace was
//! changed since. `docs/protocols/write-behind.md` has the protocol.
//!
//! States: waiting -> offered -> committed, or a conflict; offered -> waiting (no quorum, a lease in the way, the session ended again).
//!
//! All plans that one session lost are a *generation*. That session held leases over all that they read and write until it ended, so what they stand on is
//! one state of the tree: that of [`LostPlan::at`], with the plans of the generation before them. What has become of the latter is [`Known`].
//!
//! Invariants (checked by [`Offers::check_invariants`]):
//! 1. One plan is under way at a time, the first one: what becomes of it decides the guards of those behind it.
//! 2. Plans are in the order in which they were accepted.
//! 3. Of each plan that is taken up, it is said once that it was committed, or that it is a conflict; behind the last one, that all are done.

mod known;

use crate::pending::{LostPlan, PENDING_PLANS_MAX};
use crate::session::{LostBecause, Token};
use bytes::Bytes;
use gavel_types::{KeyRange, Tid};
use gavel_wire::{Author, Guard, Outcome, Plan, Refusal, View};
use known::Known;
use std::collections::VecDeque;

/// Tokens of offers have this bit; those that hosts choose never do.
pub const OFFER_TOKENS: Token = 1 << 62;
/// Most lost plans that wait to be offered; what is lost beyond is a conflict at once.
pub const OFFERS_MAX: usize = PENDING_PLANS_MAX;
/// Most guards of one offer: what was read and is replaced may be known in as many pieces as plans wrote it.
pub const GUARDS_MAX: usize = 1024;

/// Why a plan that was answered is not committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Collision {
    /// This was changed by another node since: the plan read it, or replaces it.
    Changed(KeyRange),
    /// It stands on a change of this node that is a conflict itself.
    Depends,
    /// It was on its way when the session ended, and nobody can say whether it was applied.
    Unknown,
    /// The log refused it: a fault of the program.
    Refused,
    /// Too many were lost, or what it stands on is in too many pieces.
    TooMany,
}

/// A plan to commit with these guards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offered {
    /// Names it.
    pub token: Token,
    /// What must not have changed.
    pub guards: Vec<Guard>,
    /// The plan.
    pub plan: Plan,
    /// For whom.
    pub author: Author,
    /// As of when the blobs that it names were stored, or found.
    pub stored_as_of: Tid,
}

/// What has become of an offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OfferEffect {
    /// The plan of this number is committed.
    Committed {
        /// The plan.
        number: u64,
        /// The commit.
        tid: Tid,
    },
    /// The plan was not committed, or nobody knows; it will not be offered again.
    Conflict {
        /// The plan.
        lost: Box<LostPlan>,
        /// Why.
        why: Collision,
    },
    /// The bytes of the plan of this number are to be stored on a majority once more, then [`Offers::stored`] is to be called.
    Store {
        /// The plan.
        number: u64,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Nothing is left to offer.
    Done,
}

#[derive(Debug)]
struct Offer {
    generation: u64,
    lost: LostPlan,
    /// It is a conflict, whatever else.
    doomed: Option<Collision>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Offers {
    queue: VecDeque<Offer>,
    /// Generations so far.
    generations: u64,
    /// What has become of the plans of the generation in front.
    known: Known,
    known_of: u64,
    /// The guards of the first plan, which is under way.
    under_way: Option<Vec<Guard>>,
    /// The last token that was given out, without [`OFFER_TOKENS`].
    token: Token,
    /// It was tried in vain: to be tried again at the next tick.
    resting: bool,
    effects: VecDeque<OfferEffect>,
}

impl Offers {
    /// Takes up what a session lost, oldest first, because of `cause`.
    pub fn take_up(&mut self, cause: LostBecause, lost: Vec<LostPlan>) {
        if lost.is_empty() {
            return;
        }
        self.generations += 1;
        for lost in lost {
            let doomed = match cause {
                // The session goes on: what is in its line behind the batch that was refused may be applied yet.
                LostBecause::Refused | LostBecause::Unknown if lost.shipped => Some(Collision::Unknown),
                LostBecause::Refused => Some(Collision::Refused),
                _ if self.queue.len() >= OFFERS_MAX => Some(Collision::TooMany),
                _ => None,
            };
            self.queue.push_back(Offer { generation: self.generations, lost, doomed });
        }
        self.say_what_is_doomed();
    }

    /// Is anything still to be offered, or to be said?
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.effects.is_empty()
    }

    /// How many plans wait, or are under way.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next plan to commit, if it is time for one. To be asked only while the node has a session, and does not catch up.
    pub fn take_offer(&mut self) -> Option<Offered> {
        while !self.resting && self.under_way.is_none() {
            let front = self.queue.front().filter(|front| !front.lost.is_to_be_stored())?;
            match self.known.guards(&front.lost) {
                Ok(guards) => {
                    self.token += 1;
                    self.under_way = Some(guards.clone());
                    return Some(Offered {
                        token: OFFER_TOKENS | self.token,
                        guards,
                        plan: front.lost.plan.clone(),
                        author: Author::user(front.lost.asked.caller.uid),
                        stored_as_of: front.lost.stored_as_of.unwrap_or(front.lost.at),
                    });
                }
                Err(why) => self.fail(why),
            }
        }
        None
    }

    /// Time passes.
    pub fn on_tick(&mut self) {
        self.resting = false;
    }

    /// The plan could not be tried: no quorum, for example.
    pub fn on_nothing(&mut self, token: Token) {
        if self.is_under_way(token) {
            (self.under_way, self.resting) = (None, true);
        }
    }

    /// Nobody can say any more whether the plan was applied.
    pub fn on_unknown(&mut self, token: Token) {
        if self.is_under_way(token) {
            self.fail(Collision::Unknown);
        }
    }

    /// The plan has its outcome; none if it was lost with its session. `before` is the state just before it, if it was committed.
    pub fn on_outcome(&mut self, token: Token, outcome: Option<Outcome>, before: &dyn View) {
        if !self.is_under_way(token) {
            return;
        }
        match outcome {
            Some(Outcome::Committed { tid }) => {
                self.under_way = None;
                if let Some(Offer { lost, .. }) = self.queue.pop_front() {
                    self.known.committed(&lost.plan, tid, before);
                    self.effects.push_back(OfferEffect::Committed { number: lost.number, tid });
                }
                self.say_what_is_doomed();
            }
            Some(Outcome::Refused { refusal: Refusal::Conflict { guard } }) => {
                let guard = self.under_way.as_ref().and_then(|guards| guards.get(guard as usize));
                let range = guard.map_or(KeyRange { start: [].into(), end: [].into() }, named);
                self.fail(Collision::Changed(range));
            }
            // One of a volume that is a mirror by now would be refused for ever.
            Some(Outcome::Refused { refusal: Refusal::BadPlan | Refusal::ReadOnly }) => self.fail(Collision::Refused),
            Some(Outcome::Refused { refusal: Refusal::Collected }) => {
                self.on_nothing(token);
                self.store_again();
            }
            // A lease in the way, or the session has ended. (The rest is not said of commits.)
            Some(Outcome::Refused { .. } | Outcome::Allocated { .. } | Outcome::Waits) | None => {
                self.on_nothing(token);
            }
        }
    }

    /// What the first plan names may have been collected since it was stored.
    fn store_again(&mut self) {
        let Some(Offer { lost, .. }) = self.queue.front_mut() else { return };
        if let Some((_, bytes)) = &lost.blob {
            lost.stored_as_of = None;
            self.effects.push_back(OfferEffect::Store { number: lost.number, bytes: bytes.clone() });
        }
    }

    /// The bytes of this plan are on a majority, each member of which had applied this transaction.
    pub fn stored(&mut self, number: u64, as_of: Tid) {
        if let Some(Offer { lost, .. }) = self.queue.front_mut().filter(|offer| offer.lost.number == number) {
            lost.stored_as_of = Some(as_of);
        }
    }

    /// What has become of offers since this was asked last.
    pub fn take_effects(&mut self) -> impl Iterator<Item = OfferEffect> {
        std::mem::take(&mut self.effects).into_iter()
    }

    fn is_under_way(&self, token: Token) -> bool {
        self.under_way.is_some() && token == OFFER_TOKENS | self.token
    }

    /// The first plan is a conflict.
    fn fail(&mut self, why: Collision) {
        self.under_way = None;
        if let Some(Offer { lost, .. }) = self.queue.pop_front() {
            self.known.failed(&lost.plan);
            self.effects.push_back(OfferEffect::Conflict { lost: Box::new(lost), why });
        }
        self.say_what_is_doomed();
    }

    /// Another plan has come to the front: those that can't be offered are put aside.
    fn say_what_is_doomed(&mut self) {
        while self.under_way.is_none()
            && let Some(front) = self.queue.front_mut()
        {
            if front.generation != self.known_of {
                (self.known, self.known_of) = (Known::new(front.lost.at), front.generation);
            }
            let Some(why) = front.doomed.take() else { return };
            if let Some(Offer { lost, .. }) = self.queue.pop_front() {
                self.known.failed(&lost.plan);
                self.effects.push_back(OfferEffect::Conflict { lost: Box::new(lost), why });
            }
        }
        if self.queue.is_empty() {
            self.effects.push_back(OfferEffect::Done);
        }
    }

    /// Asserts the invariants that the module's documentation numbers.
    ///
    /// # Panics
    /// If one does not hold: a programming error.
    pub fn check_invariants(&self) {
        assert!(self.under_way.is_none() || !self.queue.is_empty(), "nothing is under way");
        assert!(!self.resting || !self.queue.is_empty() || self.under_way.is_none());
        let order = |a: &Offer, b: &Offer| (a.generation, a.lost.number) < (b.generation, b.lost.number);
        assert!(self.queue.iter().zip(self.queue.iter().skip(1)).all(|(a, b)| order(a, b)), "plans out of order");
        assert!(self.queue.front().is_none_or(|front| front.generation == self.known_of));
    }
}

/// The keys that a guard is about.
fn named(guard: &Guard) -> KeyRange {
    match guard {
        Guard::Unchanged { key, .. } | Guard::Firm { key, .. } => KeyRange::one(key),
        Guard::Empty { range } | Guard::Stable { range, .. } => range.clone(),
    }
}

#[cfg(test)]
mod tests;
