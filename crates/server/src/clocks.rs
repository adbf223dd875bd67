//! Whether this node's wall clock can be trusted to number transactions.
//!
//! A Tid is also a time, and Tids only grow: a leader whose clock is a year ahead would drag all later Tids along.
//! Every node tells the others its wall clock about once a second. A leader numbers transactions only while its clock
//! is within a bound of the median of what a majority (itself included) has said lately.

use crate::server::Clock;
use gavel_types::{Moment, NodeId};
use std::collections::BTreeMap;

/// A sample older than this says nothing.
const SAMPLE_LIFE_NS: u64 = 10_000_000_000;

/// What is known of the others' clocks.
#[derive(Clone, Debug)]
pub struct Clocks {
    voters: usize,
    skew_max_ns: u64,
    /// When a sample came, and what the peer's clock showed. Not how far it was ahead of ours: ours may jump too.
    samples: BTreeMap<NodeId, (Moment, u64)>,
}

/// What to think of the own clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Close to the median of a majority's.
    Trusted,
    /// Too few have been heard lately.
    Unknown,
    /// This far ahead of the median (negative: behind), in nanoseconds.
    Far(i64),
}

impl Clocks {
    /// Among `voters` nodes, this one included.
    pub fn new(voters: usize, skew_max_ns: u64) -> Clocks {
        Clocks { voters, skew_max_ns, samples: BTreeMap::new() }
    }

    /// A voter says what its clock shows.
    pub fn on_sample(&mut self, now: Moment, from: NodeId, wall_ns: u64) {
        self.samples.insert(from, (now, wall_ns));
    }

    /// What to think of the own clock now.
    pub fn verdict(&self, clock: Clock) -> Verdict {
        let Some(medians) = self.medians(clock) else { return Verdict::Unknown };
        let off = off(0, medians);
        if off.unsigned_abs() <= self.skew_max_ns { Verdict::Trusted } else { Verdict::Far(off) }
    }

    /// Would `node` trust its clock, as far as can be told from here? Two leaders with clocks that are far could otherwise
    /// hand leadership to each other for ever.
    pub fn would_trust(&self, clock: Clock, node: NodeId) -> bool {
        let sample = self.fresh(clock).find(|(peer, _)| *peer == node);
        match (sample, self.medians(clock)) {
            (Some((_, ahead)), Some(medians)) => off(ahead, medians).unsigned_abs() <= self.skew_max_ns,
            _ => false,
        }
    }

    /// How far the lower and the upper median of what a majority said lately are ahead of ours.
    fn medians(&self, clock: Clock) -> Option<(i64, i64)> {
        let mut ahead: Vec<i64> = self.fresh(clock).map(|(_, ahead)| ahead).chain([0]).collect();
        if ahead.len() * 2 <= self.voters {
            return None;
        }
        ahead.sort_unstable();
        Some((ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]))
    }

    /// Of whom there is a fresh sample, and how far that clock is ahead of ours (negative: behind).
    fn fresh(&self, clock: Clock) -> impl Iterator<Item = (NodeId, i64)> {
        let fresh = self.samples.iter().map(move |(node, (at, wall_ns))| (*node, clock.now.since_ns(*at), *wall_ns));
        fresh.filter(|(_, age, _)| *age < SAMPLE_LIFE_NS).map(move |(node, age, wall_ns)| {
            let ahead = i128::from(wall_ns) + i128::from(age) - i128::from(clock.wall_ns);
            (node, ahead.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
        })
    }
}

/// How far a clock is ahead of the nearer median: of two clocks neither can tell which is wrong.
fn off(ahead: i64, (low, high): (i64, i64)) -> i64 {
    let (low, high) = (ahead.saturating_sub(low), ahead.saturating_sub(high));
    if low.unsigned_abs() < high.unsigned_abs() { low } else { high }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn clock(now_s: u64, wall_s: u64) -> Clock {
        Clock { now: Moment(now_s * SECOND), wall_ns: wall_s * SECOND }
    }

    #[test]
    fn a_majority_of_clocks_decides() {
        let now = Moment(20 * SECOND);
        let mut clocks = Clocks::new(3, SECOND);
        assert_eq!(clocks.verdict(clock(20, 100)), Verdict::Unknown);
        clocks.on_sample(now, NodeId(2), 100 * SECOND);
        assert_eq!(clocks.verdict(clock(20, 100)), Verdict::Trusted);
        clocks.on_sample(now, NodeId(3), 1);
        assert_eq!(clocks.verdict(clock(20, 100)), Verdict::Trusted, "one slow clock among three does not matter");
        clocks.on_sample(now, NodeId(2), 50 * SECOND);
        assert_eq!(clocks.verdict(clock(20, 100)), Verdict::Far(50 * SECOND as i64), "ours is the fast one");
        assert_eq!(clocks.verdict(clock(60, 140)), Verdict::Unknown, "old samples say nothing");
    }

    #[test]
    fn samples_stay_good_when_the_own_clock_jumps_back() {
        let mut clocks = Clocks::new(3, SECOND);
        for node in [2, 3] {
            clocks.on_sample(Moment(20 * SECOND), NodeId(node), 100 * SECOND);
        }
        assert_eq!(clocks.verdict(clock(20, 700)), Verdict::Far(600 * SECOND as i64));
        assert_eq!(clocks.verdict(clock(25, 105)), Verdict::Trusted);
    }

    #[test]
    fn a_far_clock_does_not_hand_over_to_another_far_clock() {
        let now = Moment(20 * SECOND);
        let mut clocks = Clocks::new(3, SECOND);
        clocks.on_sample(now, NodeId(2), 120 * SECOND);
        clocks.on_sample(now, NodeId(3), 140 * SECOND);
        let clock = clock(20, 100);
        assert_eq!(clocks.verdict(clock), Verdict::Far(-20 * SECOND as i64));
        assert!(clocks.would_trust(clock, NodeId(2)) && !clocks.would_trust(clock, NodeId(3)));
        assert!(!clocks.would_trust(clock, NodeId(4)), "nothing is known of it");
    }
}
