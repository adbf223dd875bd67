//! Retention policies: which past states of a volume stay, by their age.
//!
//! `keep everything 24h; hourly 7d; daily 60d; snapshots`: every state of the last 24 hours, the last state of each hour
//! of the last 7 days, that of each day of the last 60, and what has a name. `docs/operations/retention.md` has the grammar.

use crate::Tid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;
pub(crate) const WEEK: u64 = 7 * DAY;
/// The first Monday of the epoch: weeks begin on Mondays, days and hours as UTC has them.
const FIRST_MONDAY: u64 = 4 * DAY;

/// How long everything is kept at least, in nanoseconds: what a node answered a moment ago must find what it has read
/// unpruned when it is committed.
pub const WHOLE_NS_MIN: u64 = 10 * SECOND;
/// Most rules of a policy.
pub const RULES_MAX: usize = 8;
/// Most states that a policy keeps beside those that are whole.
pub const POLICY_STATES_MAX: u64 = 4096;
/// Most policies of a volume beside its own.
pub const CLASSES_MAX: u8 = 15;

/// Which of its volume's policies an object has. What is made in a directory takes that of the directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Class(pub u8);

impl Class {
    /// The volume's own policy.
    pub const VOLUME: Class = Class(0);
}

/// Most states that the policies of all volumes keep beside those that are whole: the replicated state holds them, and must
/// fit into a snapshot (10 bytes each).
pub const POLICY_STATES_ALL_MAX: u64 = 131_072;

/// Which past states stay.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Retention {
    /// How long every state stays, in nanoseconds; none: for ever.
    pub whole_ns: Option<u64>,
    /// What stays of what is older.
    pub rules: Vec<Rule>,
}

/// The last state of each period stays for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// The period, in nanoseconds.
    pub every_ns: u64,
    /// How long its last state stays, in nanoseconds.
    pub for_ns: u64,
}

/// A text that is no policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is no retention policy: {cause}")]
pub struct RetentionError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub cause: &'static str,
}

impl Retention {
    /// Everything, for ever.
    pub const EVERYTHING: Retention = Retention { whole_ns: None, rules: Vec::new() };

    /// No history, but for what has a name: what is older than [`WHOLE_NS_MIN`] goes.
    pub fn nothing() -> Retention {
        Retention { whole_ns: Some(WHOLE_NS_MIN), rules: Vec::new() }
    }

    /// How many states it keeps beside those that are whole, at most.
    pub fn states(&self) -> u64 {
        let states = |rule: &Rule| rule.for_ns.checked_div(rule.every_ns).unwrap_or(u64::MAX);
        self.rules.iter().map(states).fold(0, u64::saturating_add)
    }

    /// How long a state stays at most, in nanoseconds; none: for ever.
    pub fn longest_ns(&self) -> Option<u64> {
        let rules = self.rules.iter().map(|rule| rule.for_ns).max().unwrap_or(0);
        Some(self.whole_ns?.max(rules))
    }

    /// Is it within its bounds?
    pub fn is_bounded(&self) -> bool {
        self.rules.len() <= RULES_MAX
            && self.states() <= POLICY_STATES_MAX
            && (self.whole_ns.is_some() || self.rules.is_empty())
    }

    /// From which state on all stay, if it is `now`; none if all do.
    pub fn horizon(&self, now: Tid) -> Option<Tid> {
        Some(Tid(now.0.saturating_sub(self.whole_ns?)))
    }

    /// The states before `horizon` that the rules keep if it is `now`, the oldest first: the last nanosecond of each period,
    /// so that a period has the same one whenever it is asked for. [`POLICY_STATES_MAX`] and one for each rule at most.
    pub fn kept(&self, now: Tid, horizon: Tid) -> Vec<Tid> {
        let mut kept: Vec<Tid> = self.rules.iter().flat_map(|rule| rule.kept(now, horizon)).collect();
        kept.sort_unstable();
        kept.dedup();
        kept
    }

    /// By how much the horizon should have moved, in nanoseconds, before it is worth looking through the history again:
    /// a sixteenth of what stays whole, an hour at most.
    pub fn step_ns(&self) -> u64 {
        self.whole_ns.map_or(u64::MAX, |whole| (whole / 16).clamp((whole / 2).clamp(1, WHOLE_NS_MIN), HOUR))
    }
}

impl Rule {
    fn kept(&self, now: Tid, horizon: Tid) -> impl Iterator<Item = Tid> + use<> {
        let every = self.every_ns.max(1);
        let offset = offset_of(every);
        let oldest = now.0.saturating_sub(self.for_ns);
        let first = (oldest.saturating_sub(offset) / every + 1).saturating_mul(every).saturating_add(offset);
        let most = usize::try_from(self.for_ns / every).map_or(usize::MAX, |most| most.saturating_add(1));
        let ends = std::iter::successors(Some(first), move |end| end.checked_add(every));
        ends.map(|end| Tid(end - 1)).take_while(move |tid| *tid < horizon).take(most)
    }
}

impl FromStr for Retention {
    type Err = RetentionError;

    fn from_str(text: &str) -> Result<Retention, RetentionError> {
        let refused = |cause| RetentionError { text: text.into(), cause };
        let mut parts: Vec<Vec<&str>> = text.split(';').map(|part| part.split_whitespace().collect()).collect();
        // A semicolon may stand behind the last part.
        if parts.last().is_some_and(Vec::is_empty) {
            parts.pop();
        }
        let mut policy = match parts.first().map(|first| &first[..]) {
            Some(["nohistory"]) => Retention::nothing(),
            Some(["keep", "everything"]) => Retention::EVERYTHING,
            Some(["keep", "everything", age]) => {
                let whole = age_of(age).ok_or_else(|| refused("an age is a number with s, m, h, d or w behind it"))?;
                Retention { whole_ns: Some(whole), rules: Vec::new() }
            }
            _ => return Err(refused("it begins with `keep everything`, `keep everything AGE` or `nohistory`")),
        };
        for part in &parts[1..] {
            match part[..] {
                // What has a name always stays.
                ["snapshots"] => {}
                [period, age] => {
                    let every = period_of(period).ok_or_else(|| {
                        refused(
                            "a period is `hourly`, `daily`, `weekly`, or an age such as 15m: the last state of each",
                        )
                    })?;
                    let age =
                        age_of(age).ok_or_else(|| refused("an age is a number with s, m, h, d or w behind it"))?;
                    policy.rules.push(Rule { every_ns: every, for_ns: age });
                }
                _ => return Err(refused("a part is `PERIOD AGE`, such as `hourly 7d`, or `snapshots`")),
            }
        }
        if policy.whole_ns.is_some_and(|whole| whole < WHOLE_NS_MIN) {
            return Err(refused("everything is kept for 10s at least"));
        }
        if policy.whole_ns.is_none() && !policy.rules.is_empty() {
            return Err(refused(
                "`keep everything` without an age keeps all for ever: there is nothing to keep beside it",
            ));
        }
        if policy.rules.iter().any(|rule| rule.for_ns < rule.every_ns) {
            return Err(refused("a rule that is shorter than its period keeps nothing"));
        }
        if !policy.is_bounded() {
            return Err(refused("it keeps too many states: 8 rules and 4,096 states at most"));
        }
        Ok(policy)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.whole_ns {
            None => return write!(f, "keep everything"),
            Some(WHOLE_NS_MIN) if self.rules.is_empty() => return write!(f, "nohistory"),
            Some(whole) => write!(f, "keep everything {}", Age(whole))?,
        }
        for rule in &self.rules {
            match rule.every_ns {
                HOUR => write!(f, "; hourly {}", Age(rule.for_ns))?,
                DAY => write!(f, "; daily {}", Age(rule.for_ns))?,
                WEEK => write!(f, "; weekly {}", Age(rule.for_ns))?,
                every => write!(f, "; {} {}", Age(every), Age(rule.for_ns))?,
            }
        }
        write!(f, "; snapshots")
    }
}

/// When the first period of this length began, in nanoseconds since the epoch.
pub(crate) fn offset_of(every_ns: u64) -> u64 {
    if every_ns.is_multiple_of(WEEK) { FIRST_MONDAY } else { 0 }
}

/// A span of time as people write it, in the largest unit that gives a whole number; seconds are cut off.
pub(crate) struct Age(pub(crate) u64);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(DAY, "d"), (HOUR, "h"), (MINUTE, "m")];
        let unit = units.into_iter().find(|(unit, _)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        let (unit, name) = unit.unwrap_or((SECOND, "s"));
        write!(f, "{}{name}", self.0 / unit)
    }
}

fn period_of(text: &str) -> Option<u64> {
    match text {
        "hourly" => Some(HOUR),
        "daily" => Some(DAY),
        "weekly" => Some(WEEK),
        age => age_of(age).filter(|every| *every > 0),
    }
}

pub(crate) fn age_of(text: &str) -> Option<u64> {
    match text.parse() {
        Ok(crate::At::Age(ns)) => Some(ns),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(text: &str) -> Retention {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn policies_are_read_and_printed() {
        for (text, printed) in [
            ("keep everything", "keep everything"),
            ("keep everything; snapshots;", "keep everything"),
            ("nohistory", "nohistory"),
            ("nohistory; snapshots", "nohistory"),
            ("keep everything 10s", "nohistory"),
            (
                "keep everything 24h; hourly 7d; daily 60d; snapshots",
                "keep everything 1d; hourly 7d; daily 60d; snapshots",
            ),
            ("  keep  everything 90s ;15m 2h", "keep everything 90s; 15m 2h; snapshots"),
            ("keep everything 1w; weekly 52w", "keep everything 7d; weekly 364d; snapshots"),
        ] {
            assert_eq!(policy(text).to_string(), printed);
            assert_eq!(policy(printed), policy(text), "{printed}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ";",
            "snapshots",
            "keep",
            "keep all",
            "keep everything 9s",
            "keep everything 24",
            "keep everything 24h hourly 7d",
            "keep everything; hourly 7d",
            "keep everything 24h; hourly",
            "keep everything 24h; monthly 7d",
            "keep everything 24h; 0s 7d",
            "keep everything 24h; daily 7h",
            "keep everything 24h; 1s 7d",
            "keep everything 24h;; daily 7d",
            "keep everything 99999999999999w",
            "keep everything 1h; 1h 1h; 1h 1h; 1h 1h; 1h 1h; 1h 1h; 1h 1h; 1h 1h; 1h 1h; 1h 1h",
        ] {
            assert!(text.parse::<Retention>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_last_state_of_each_period_stays() {
        let policy = policy("keep everything 2h; hourly 5h; daily 3d");
        let now = Tid(10 * DAY + 5 * HOUR + 7);
        let horizon = policy.horizon(now).unwrap();
        assert_eq!(horizon, Tid(10 * DAY + 3 * HOUR + 7));
        let hours = [10 * DAY + HOUR, 10 * DAY + 2 * HOUR, 10 * DAY + 3 * HOUR];
        let ends = [8 * DAY, 9 * DAY, 10 * DAY].into_iter().chain(hours);
        assert_eq!(policy.kept(now, horizon), ends.map(|end| Tid(end - 1)).collect::<Vec<_>>());
        assert_eq!(Retention::EVERYTHING.horizon(now), None);
    }

    #[test]
    fn weeks_begin_on_mondays() {
        let policy = policy("keep everything 1d; weekly 2w");
        // 2026-11-28, a Saturday; the week ended with Sunday the 22nd.
        let now = Tid(1_795_860_000 * SECOND);
        let kept = policy.kept(now, policy.horizon(now).unwrap());
        let last = crate::Timestamp::of_tid(*kept.last().unwrap()).to_string();
        assert_eq!(last, "2026-11-22T23:59:59Z");
    }

    #[test]
    fn the_horizon_moves_in_steps_worth_the_work() {
        assert_eq!(policy("keep everything 24h").step_ns(), HOUR);
        assert_eq!(policy("keep everything 4h").step_ns(), 15 * MINUTE);
        assert_eq!(policy("nohistory").step_ns(), 5 * SECOND);
        assert_eq!(policy("keep everything").step_ns(), u64::MAX);
    }

    fn bounded() -> impl Strategy<Value = Retention> {
        let rule =
            (1u64..1_000_000, 1u64..1000).prop_map(|(every, times)| Rule { every_ns: every, for_ns: every * times });
        (0u64..1_000_000, prop::collection::vec(rule, 0..4))
            .prop_map(|(whole, rules)| Retention { whole_ns: Some(whole), rules })
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(keep everything|nohistory)?[ 0-9smhdw;a-z]{0,30}") {
            if let Ok(policy) = text.parse::<Retention>() {
                prop_assert!(policy.is_bounded());
                prop_assert_eq!(policy.to_string().parse::<Retention>(), Ok(policy));
            }
        }

        /// What stays later was among what stayed before, or was whole then: else a policy would name states that are gone.
        #[test]
        fn time_only_takes_states_away(policy in bounded(), now in 0u64..u64::MAX / 2, later in 0u64..10_000_000) {
            let (now, later) = (Tid(now), Tid(now + later));
            let (before, after) = (policy.horizon(now).unwrap(), policy.horizon(later).unwrap());
            let (had, has) = (policy.kept(now, before), policy.kept(later, after));
            prop_assert!(has.iter().all(|tid| *tid < after && (*tid >= before || had.contains(tid))));
            prop_assert!(has.is_sorted() && has.len() as u64 <= POLICY_STATES_MAX + RULES_MAX as u64);
        }
    }
}
