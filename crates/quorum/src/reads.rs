//! Read tickets and the leadership rounds that confirm them.
//!
//! A ticket is confirmed by a round of heartbeats that started after the ticket came: all tickets that
//! wait when a round starts share it. raft-rs repeats the newest open round with every heartbeat, and an
//! answer to it closes all earlier ones, so lost messages delay a round by a heartbeat interval. What lasts
//! longer than two election timeouts all the same is failed, and the end of the leadership fails everything.

use gavel_types::{LogIndex, Moment};
use std::collections::{BTreeMap, VecDeque};

/// Most rounds under way; tickets that come meanwhile share the next.
pub(crate) const ROUNDS_MAX: usize = 4;
/// Most tickets that wait for a round or in one.
pub(crate) const TICKETS_MAX: usize = 65_536;

struct Ticket {
    ticket: u64,
    /// When it came, in ticks.
    since: u64,
}

struct Round {
    began: Moment,
    tickets: Vec<Ticket>,
}

/// The tickets of the present leadership.
#[derive(Default)]
pub(crate) struct Reads {
    waiting: VecDeque<Ticket>,
    rounds: BTreeMap<u64, Round>,
    started: u64,
    count: usize,
    confirmed: Vec<(u64, LogIndex)>,
    failed: Vec<u64>,
}

impl Reads {
    /// Tickets that are neither confirmed nor failed.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn push(&mut self, ticket: u64, since: u64) {
        self.waiting.push_back(Ticket { ticket, since });
        self.count += 1;
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// This one needs no round.
    pub(crate) fn confirm(&mut self, ticket: u64, index: LogIndex) {
        self.confirmed.push((ticket, index));
    }

    /// Starts a round for all that wait; gives the context that its heartbeats carry.
    pub(crate) fn start_round(&mut self, began: Moment) -> [u8; 8] {
        self.started += 1;
        self.rounds.insert(self.started, Round { began, tickets: self.waiting.drain(..).collect() });
        self.started.to_le_bytes()
    }

    /// A majority followed the leader after the round with this context started. Gives when that was.
    pub(crate) fn on_confirmed(&mut self, context: &[u8], index: LogIndex) -> Option<Moment> {
        let round = context.try_into().ok().map(u64::from_le_bytes)?;
        let Round { began, tickets } = self.rounds.remove(&round)?;
        self.count -= tickets.len();
        self.confirmed.extend(tickets.into_iter().map(|ticket| (ticket.ticket, index)));
        Some(began)
    }

    /// Fails what came before `oldest` ticks.
    pub(crate) fn expire(&mut self, oldest: u64) {
        let Reads { waiting, rounds, failed, count, .. } = self;
        let mut keep = |ticket: &Ticket| {
            if ticket.since < oldest {
                failed.push(ticket.ticket);
                *count -= 1;
            }
            ticket.since >= oldest
        };
        waiting.retain(&mut keep);
        rounds.values_mut().for_each(|round| round.tickets.retain(&mut keep));
        rounds.retain(|_, round| !round.tickets.is_empty());
    }

    /// Fails everything: the leadership that the tickets were given to has ended.
    pub(crate) fn fail_all(&mut self) {
        self.expire(u64::MAX);
    }

    pub(crate) fn has_outcome(&self) -> bool {
        !self.confirmed.is_empty() || !self.failed.is_empty()
    }

    pub(crate) fn take_confirmed(&mut self) -> Vec<(u64, LogIndex)> {
        std::mem::take(&mut self.confirmed)
    }

    pub(crate) fn take_failed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.failed)
    }

    /// What is wrong with the tickets, if anything (invariant 8).
    pub(crate) fn broken(&self, leads: bool) -> Option<&'static str> {
        let count = self.waiting.len() + self.rounds.values().map(|round| round.tickets.len()).sum::<usize>();
        if count != self.count {
            return Some("tickets are miscounted");
        }
        (count > 0 && !leads).then_some("tickets wait at a node that does not lead")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_never_confirmed_by_a_round_that_started_before_it() {
        let mut reads = Reads::default();
        reads.push(1, 0);
        let first = reads.start_round(Moment(7));
        reads.push(2, 0);
        assert_eq!(reads.on_confirmed(&first, LogIndex(5)), Some(Moment(7)));
        assert_eq!(reads.take_confirmed(), [(1, LogIndex(5))]);
        let second = reads.start_round(Moment(8));
        assert_eq!(reads.on_confirmed(&first, LogIndex(6)), None);
        assert!(reads.take_confirmed().is_empty(), "an answer to the first round is late");
        reads.on_confirmed(&second, LogIndex(7));
        assert_eq!(reads.take_confirmed(), [(2, LogIndex(7))]);
    }

    #[test]
    fn every_ticket_has_exactly_one_end() {
        let mut reads = Reads::default();
        reads.push(1, 0);
        let round = reads.start_round(Moment(0));
        reads.push(2, 3);
        reads.push(3, 4);
        reads.expire(4);
        assert_eq!(reads.take_failed(), [2, 1]);
        reads.on_confirmed(&round, LogIndex(1));
        assert!(reads.take_confirmed().is_empty());
        reads.fail_all();
        assert_eq!(reads.take_failed(), [3]);
        assert_eq!((reads.count(), reads.broken(false)), (0, None));
    }
}
