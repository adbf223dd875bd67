//! Ticks from injected time, and election jitter from our own generator.
//!
//! raft-rs draws its election timeout from the thread's random generator at every reset of its state. So
//! that one seed gives one history, [`Jitter`] draws again from its own generator whenever term or role
//! changed (every reset changes one of them), and puts its own value over raft-rs' after every input.

use crate::config::HEARTBEAT_TICKS;
use gavel_types::Moment;
use raft::{Raft, StateRole, Storage};

/// Most ticks that one call lets pass. A node that slept for a minute must listen before it campaigns: its
/// leader may be well. Time beyond this is forgotten.
pub(crate) const TICKS_AT_ONCE_MAX: u64 = 2 * HEARTBEAT_TICKS as u64;

/// Counts ticks.
#[derive(Debug)]
pub(crate) struct Pace {
    tick_ns: u64,
    last: Moment,
    /// Ticks since the start.
    pub(crate) ticks: u64,
}

impl Pace {
    pub(crate) fn new(tick_ns: u64, now: Moment) -> Pace {
        Pace { tick_ns, last: now, ticks: 0 }
    }

    /// How many ticks have passed at `now`.
    pub(crate) fn advance(&mut self, now: Moment) -> u64 {
        let passed = now.since_ns(self.last) / self.tick_ns;
        if passed > TICKS_AT_ONCE_MAX {
            self.last = now;
        } else {
            self.last = self.last.after_ns(passed * self.tick_ns);
        }
        passed.min(TICKS_AT_ONCE_MAX)
    }

    pub(crate) fn next(&self) -> Moment {
        self.last.after_ns(self.tick_ns)
    }
}

/// Chooses election timeouts.
#[derive(Debug)]
pub(crate) struct Jitter {
    state: u64,
    election_ticks: usize,
    timeout: usize,
    epoch: Option<(u64, StateRole)>,
}

impl Jitter {
    pub(crate) fn new(seed: u64, election_ticks: usize) -> Jitter {
        Jitter { state: seed, election_ticks, timeout: election_ticks, epoch: None }
    }

    /// Puts our timeout over raft-rs' own; a new one if its state was reset.
    pub(crate) fn impose<S: Storage>(&mut self, raft: &mut Raft<S>) {
        let epoch = Some((raft.term, raft.state));
        if self.epoch != epoch {
            self.epoch = epoch;
            self.timeout = self.election_ticks + (self.draw() % self.election_ticks as u64) as usize;
        }
        if raft.randomized_election_timeout() != self.timeout {
            raft.set_randomized_election_timeout(self.timeout);
        }
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_jumps_passes_a_bounded_number_of_ticks() {
        let mut pace = Pace::new(10, Moment(0));
        assert_eq!(pace.advance(Moment(9)), 0);
        assert_eq!(pace.advance(Moment(25)), 2);
        assert_eq!(pace.next(), Moment(30));
        assert_eq!(pace.advance(Moment(1_000_000)), TICKS_AT_ONCE_MAX);
        assert_eq!(pace.advance(Moment(1_000_009)), 0);
        assert_eq!(pace.advance(Moment(500)), 0, "a clock that goes back passes no time");
    }

    #[test]
    fn one_seed_draws_one_sequence() {
        let draws = |seed| {
            let mut jitter = Jitter::new(seed, 10);
            [jitter.draw(), jitter.draw(), jitter.draw()]
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }
}
