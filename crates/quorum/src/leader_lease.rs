//! The leader lease (Ongaro: Consensus: Bridging Theory and Practice, 2014, section 6.4.1): for a while after a round of heartbeats that a majority answered,
//! nobody else can be elected, and the leader confirms reads without asking.
//!
//! Whoever takes a heartbeat of its leader promises to vote for nobody else for [`promise_ns`](crate::Config), by its own clock, and to stand for election no
//! earlier. A majority that has answered the heartbeats of a round has promised since the round began, at the earliest. So the leader counts from there, by its
//! clock, and stops earlier by what two clocks may differ. docs/protocols/quorum.md has the whole argument.

use gavel_types::Moment;

/// Of a promise, so many percent are relied on: two clocks whose rates are off by 5 percent, the one slow and the other fast.
pub(crate) const RELIED_PERCENT: u64 = 90;
const _: () = assert!(RELIED_PERCENT * 105 <= 95 * 100);

/// One replica's part: what it has promised, and what it was promised.
#[derive(Debug)]
pub(crate) struct LeaderLease {
    promise_ns: u64,
    /// It votes for nobody before then.
    promised_until: Moment,
    /// It leads for certain before then.
    leads_until: Moment,
    /// It has begun to hand over this leadership: whoever takes it over needs no promise to have run out.
    is_given_up: bool,
    /// The latest that any input has said.
    pub(crate) now: Moment,
}

impl LeaderLease {
    /// A replica that starts may have promised something in an earlier life.
    pub(crate) fn new(promise_ns: u64, now: Moment) -> LeaderLease {
        let promised_until = now.after_ns(promise_ns);
        LeaderLease { promise_ns, promised_until, leads_until: Moment(0), is_given_up: false, now }
    }

    /// An input came.
    pub(crate) fn pass(&mut self, now: Moment) {
        self.now = self.now.max(now);
    }

    /// A heartbeat of the leader was taken.
    pub(crate) fn promise(&mut self) {
        self.promised_until = self.promised_until.max(self.now.after_ns(self.promise_ns));
    }

    /// May another one be voted for?
    pub(crate) fn is_bound(&self) -> bool {
        self.now < self.promised_until
    }

    /// A majority has answered the heartbeats of a round that began then.
    pub(crate) fn on_round(&mut self, began: Moment) {
        self.leads_until = self.leads_until.max(began.after_ns(self.promise_ns / 100 * RELIED_PERCENT));
    }

    /// Does this replica lead for certain, if it leads at all?
    pub(crate) fn leads(&self) -> bool {
        !self.is_given_up && self.now < self.leads_until
    }

    /// Leadership is being handed over.
    pub(crate) fn give_up(&mut self) {
        self.is_given_up = true;
    }

    /// A leadership has ended, or begun.
    pub(crate) fn end(&mut self) {
        self.leads_until = Moment(0);
        self.is_given_up = false;
    }
}
