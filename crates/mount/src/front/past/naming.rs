//! Which names lead to the past: `name@@AT`, `@@AT`, `.@@AT`.

use gavel_types::{At, Tid};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between the name and the state.
const MARK: &[u8; 2] = b"@@";
/// For so long an age stands for one state, on all of a mount.
const AGE_KEPT: Duration = Duration::from_secs(60);
/// So many ages are remembered; beyond that each look-up finds its own state.
const AGES_MAX: usize = 256;

/// A name that leads to the past, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::front) struct PastName {
    /// What was named so then, in the directory; none: the directory itself.
    pub(super) name: Option<Box<[u8]>>,
    /// When.
    pub(super) at: At,
}

impl PastName {
    /// None if the part behind the last `@@` says no time, or there is none.
    pub(in crate::front) fn of(name: &[u8]) -> Option<PastName> {
        let mark = name.windows(MARK.len()).rposition(|window| window == MARK)?;
        let (name, at) = (&name[..mark], &name[mark + MARK.len()..]);
        let at = std::str::from_utf8(at).ok()?.parse().ok()?;
        match name {
            b".." => None,
            b"" | b"." => Some(PastName { name: None, at }),
            name => Some(PastName { name: Some(name.into()), at }),
        }
    }
}

/// What ages stand for, for a while: one name shall mean one state while a program walks through it.
#[derive(Debug, Default)]
pub(in crate::front) struct Ages(Mutex<BTreeMap<u64, (Tid, Instant)>>);

impl Ages {
    /// The state that this age (in nanoseconds) stands for, and for how long it will.
    pub(super) fn get(&self, age_ns: u64, now: Instant) -> Option<(Tid, Duration)> {
        let (at, since) = *self.0.lock().get(&age_ns)?;
        left(since, now).map(|left| (at, left))
    }

    /// It stands for this state from now on, unless it stands for another already. Gives which, and for how long.
    pub(super) fn keep(&self, age_ns: u64, at: Tid, now: Instant) -> (Tid, Duration) {
        let mut ages = self.0.lock();
        ages.retain(|_, (_, since)| left(*since, now).is_some());
        if ages.len() >= AGES_MAX && !ages.contains_key(&age_ns) {
            return (at, Duration::ZERO);
        }
        let (at, since) = *ages.entry(age_ns).or_insert((at, now));
        (at, left(since, now).unwrap_or_default())
    }
}

/// How long an age still stands for what it was found to stand for at `since`.
fn left(since: Instant, now: Instant) -> Option<Duration> {
    AGE_KEPT.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_at_the_last_mark() {
        let past = |name: &str, at: &str| {
            let name = (!name.is_empty()).then(|| name.as_bytes().into());
            Some(PastName { name, at: at.parse().expect("a time") })
        };
        for (name, expected) in [
            ("f@@0x5", past("f", "0x5")),
            ("@@2h", past("", "2h")),
            (".@@2h", past("", "2h")),
            ("a@@b@@2026-11-28", past("a@@b", "2026-11-28")),
            ("a@@@2h", past("a@", "2h")),
            ("...@@snap", past("...", "snap")),
            ("..@@2h", None),
            ("f@2h", None),
            ("f@@", None),
            ("f@@2h ", None),
            ("@@", None),
            ("f", None),
            ("", None),
        ] {
            assert_eq!(PastName::of(name.as_bytes()), expected, "{name:?}");
        }
        assert_eq!(PastName::of(b"f@@\xff"), None);
        assert!(PastName::of(b"\xff@@2h").is_some(), "names are bytes");
    }

    #[test]
    fn an_age_is_one_state_for_a_minute() {
        let (ages, start) = (Ages::default(), Instant::now());
        assert_eq!(ages.get(5, start), None);
        assert_eq!(ages.keep(5, Tid(7), start), (Tid(7), AGE_KEPT));
        let later = start + Duration::from_secs(50);
        assert_eq!(ages.keep(5, Tid(8), later), (Tid(7), Duration::from_secs(10)));
        assert_eq!(ages.get(6, later), None);
        assert_eq!(ages.get(5, start + AGE_KEPT), None);
        assert_eq!(ages.keep(5, Tid(9), start + AGE_KEPT), (Tid(9), AGE_KEPT));
    }

    #[test]
    fn ages_are_bounded() {
        let (ages, start) = (Ages::default(), Instant::now());
        for age in 0..2 * AGES_MAX as u64 {
            ages.keep(age, Tid(age), start);
        }
        assert_eq!(ages.0.lock().len(), AGES_MAX);
        assert_eq!(ages.keep(1_000, Tid(1), start), (Tid(1), Duration::ZERO));
        assert_eq!(ages.keep(1_000, Tid(2), start + AGE_KEPT), (Tid(2), AGE_KEPT), "the old ones are gone");
    }
}
