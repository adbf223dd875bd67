//! Whether this node's wall clock can be trusted to number transactions.
//!
//! A Tid is also a time, and Tids only grow: a leader whose clock is a year ahead would drag all later Tids along.
//! Every node tells the others its wall clock about once a second. A leader numbers transactions only while its clock
//! is within a bound of the median of what a majority (itself included) has said lately.

use gavel_types::{Moment, NodeId};
use std::collections::BTreeMap;

/// A sample older than this says nothing.
const SAMPLE_LIFE_NS: u64 = 10_000_000_000;

/// What is known of the others' clocks.
#[derive(Clone, Debug)]
pub struct Clocks {
    voters: usize,
    skew_max_ns: u64,
    /// When a sample came, and how far the peer's clock was ahead of ours (negative: behind).
    samples: BTreeMap<NodeId, (Moment, i64)>,
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
    pub fn on_sample(&mut self, now: Moment, from: NodeId, wall_ns: u64, own_wall_ns: u64) {
        let ahead = i128::from(wall_ns) - i128::from(own_wall_ns);
        let ahead = ahead.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
        self.samples.insert(from, (now, ahead));
    }

    /// What to think of the own clock now.
    pub fn verdict(&self, now: Moment) -> Verdict {
        let fresh = self.samples.values().filter(|(at, _)| now.since_ns(*at) < SAMPLE_LIFE_NS);
        let mut ahead: Vec<i64> = fresh.map(|(_, ahead)| *ahead).chain([0]).collect();
        if ahead.len() * 2 <= self.voters {
            return Verdict::Unknown;
        }
        ahead.sort_unstable();
        // The lower and the upper median must both be far: of two clocks neither can tell which is wrong.
        let (low, high) = (ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]);
        let near = if low.unsigned_abs() < high.unsigned_abs() { low } else { high };
        if near.unsigned_abs() <= self.skew_max_ns { Verdict::Trusted } else { Verdict::Far(near.saturating_neg()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_majority_of_clocks_decides() {
        let now = Moment(20 * SECOND);
        let mut clocks = Clocks::new(3, SECOND);
        assert_eq!(clocks.verdict(now), Verdict::Unknown);
        clocks.on_sample(now, NodeId(2), 100 * SECOND, 100 * SECOND);
        assert_eq!(clocks.verdict(now), Verdict::Trusted);
        clocks.on_sample(now, NodeId(3), 1, 100 * SECOND);
        assert_eq!(clocks.verdict(now), Verdict::Trusted, "one slow clock among three does not matter");
        clocks.on_sample(now, NodeId(2), 50 * SECOND, 100 * SECOND);
        assert_eq!(clocks.verdict(now), Verdict::Far(50 * SECOND as i64), "ours is the fast one");
        assert_eq!(clocks.verdict(Moment(60 * SECOND)), Verdict::Unknown, "old samples say nothing");
    }
}
