//! For how long the kernel may keep what an answer says.

use super::known::Known;
use gavel_client::tree::Keep;
use std::time::Duration;

/// How long the kernel may keep what it must not keep.
pub(super) const NO_TIME: Duration = Duration::ZERO;
/// Longest time that is passed on.
pub(super) const KEEP_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The kernel counts ticks, and rounds up; 10 ms are the longest that it can be built with.
const TICK: Duration = Duration::from_millis(10);

/// How long names may be kept.
pub(super) fn names(known: &Known, keep: Keep) -> Duration {
    time(known, keep.names_ns)
}

/// How long attributes may be kept, by a kernel that has the inode already.
pub(super) fn attrs(known: &Known, keep: Keep) -> Duration {
    time(known, keep.attrs_ns)
}

/// How long both may be kept, where the kernel is told one time for them.
pub(super) fn both(known: &Known, keep: Keep) -> Duration {
    time(known, keep.names_ns.min(keep.attrs_ns))
}

/// How long what was true in a past state may be kept: nothing has to be forgotten in time.
pub(super) fn past(ns: u64) -> Duration {
    Duration::from_nanos(ns).min(KEEP_MAX)
}

fn time(known: &Known, ns: u64) -> Duration {
    if known.keeps() { Duration::from_nanos(ns).saturating_sub(TICK).min(KEEP_MAX) } else { NO_TIME }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_down_and_bounded() {
        let known = Known::new();
        assert_eq!(time(&known, u64::MAX), NO_TIME, "the kernel cannot forget yet");
        known.allow();
        assert_eq!(time(&known, 0), NO_TIME);
        assert_eq!(time(&known, 9_999_999), NO_TIME);
        assert_eq!(time(&known, 1_000_000_000), Duration::from_millis(990));
        assert_eq!(time(&known, u64::MAX), KEEP_MAX);
        assert_eq!(past(u64::MAX), KEEP_MAX);
    }
}
