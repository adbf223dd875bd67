//! Timestamps of files, and the injected monotonic clock.

use crate::Tid;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A file's time: seconds since the Unix epoch (may be negative) and nanoseconds (0 to 999,999,999).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub secs: i64,
    /// Nanoseconds within the second; `u32::MAX` only in [`Timestamp::COMMIT`].
    pub nanos: u32,
}

impl Timestamp {
    /// In a plan: "the time of the commit". Replaced by the commit's Tid when it is applied, so that
    /// all nodes agree on it and it never goes back. Never stored.
    pub const COMMIT: Timestamp = Timestamp { secs: i64::MAX, nanos: u32::MAX };

    /// The time that a Tid stands for.
    pub fn of_tid(tid: Tid) -> Timestamp {
        Timestamp { secs: (tid.0 / NANOS) as i64, nanos: (tid.0 % NANOS) as u32 }
    }

    /// This time, or the commit's where it stands for the commit's.
    pub fn resolve(self, tid: Tid) -> Timestamp {
        if self == Timestamp::COMMIT { Timestamp::of_tid(tid) } else { self }
    }
}

const NANOS: u64 = 1_000_000_000;

/// A reading of a monotonic clock, in nanoseconds from an arbitrary start. Given to the state
/// machines from outside; comparable only within one run of one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// Nanoseconds from `earlier` to here; 0 if `earlier` is later.
    pub fn since_ns(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `ns` nanoseconds later.
    pub fn after_ns(self, ns: u64) -> Moment {
        Moment(self.0.saturating_add(ns))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / NANOS, self.0 % NANOS)
    }
}
