//! Schedules of snapshots: states that the cluster gives names to by itself, and how many of them stay.
//!
//! `hourly keep 24; daily keep 7; weekly keep 4`: a snapshot at the beginning of each hour, day and week, of which the newest
//! 24, 7 and 4 stay. `docs/operations/retention.md` has the grammar.

use crate::retention::{Age, DAY, HOUR, MINUTE, SECOND, WEEK, age_of, offset_of};
use crate::{Tid, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Shortest period that a text may name, in nanoseconds.
pub const PERIOD_NS_MIN: u64 = 10 * SECOND;
/// Most rules of a schedule.
pub const SCHEDULE_RULES_MAX: usize = 8;
/// Most snapshots that a schedule keeps.
pub const SCHEDULE_KEEP_MAX: u32 = 1024;

/// When states get names by themselves.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Schedule {
    /// One rule for each period.
    pub rules: Vec<Every>,
}

/// In each period a snapshot is made, and the newest ones stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Every {
    /// The period, in nanoseconds.
    pub every_ns: u64,
    /// So many of its snapshots stay.
    pub keep: u32,
}

/// A text that is no schedule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is no schedule: {cause}")]
pub struct ScheduleError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub cause: &'static str,
}

impl Schedule {
    /// Is it within its bounds?
    pub fn is_bounded(&self) -> bool {
        self.cause().is_none()
    }

    fn cause(&self) -> Option<&'static str> {
        let keep = self.rules.iter().fold(0u32, |sum, rule| sum.saturating_add(rule.keep));
        let twice =
            |(number, rule): (usize, &Every)| self.rules[..number].iter().any(|other| other.every_ns == rule.every_ns);
        if self.rules.len() > SCHEDULE_RULES_MAX || keep > SCHEDULE_KEEP_MAX {
            return Some("it keeps too many snapshots: 8 rules and 1,024 snapshots at most");
        }
        // What names cannot tell apart.
        if self.rules.iter().any(|rule| rule.every_ns == 0 || !rule.every_ns.is_multiple_of(SECOND)) {
            return Some("a period is a number of seconds");
        }
        if self.rules.iter().any(|rule| rule.keep == 0) {
            return Some("a rule that keeps nothing makes no snapshots");
        }
        self.rules.iter().enumerate().any(twice).then_some("there are two rules for one period")
    }
}

impl Every {
    /// The beginning of the period that `now` is in. Hours and days are those of UTC, weeks begin on Mondays.
    pub fn period(&self, now: Tid) -> Tid {
        let (every, offset) = (self.every_ns.max(1), offset_of(self.every_ns));
        Tid(now.0.saturating_sub(offset) / every * every + offset)
    }

    /// What the snapshot of the period is called that begins at `period`. Names of one rule sort as their periods do; none
    /// of them is another rule's.
    pub fn name(&self, period: Tid) -> String {
        // RFC 3339: 2026-11-28T10:00:00Z. There are no colons, for `host:path` means another machine to rsync and scp.
        let time = Timestamp::of_tid(period).to_string();
        let (date, clock) = time.split_once('T').unwrap_or((&time, ""));
        let clock: String = clock.chars().filter(char::is_ascii_digit).collect();
        let every = self.every_ns;
        let label = match every {
            HOUR => "hourly".to_owned(),
            DAY => "daily".to_owned(),
            WEEK => "weekly".to_owned(),
            every => format!("every-{}", Age(every)),
        };
        match every {
            every if every.is_multiple_of(DAY) => format!("{label}-{date}"),
            every if every.is_multiple_of(MINUTE) => format!("{label}-{date}T{}Z", clock.get(..4).unwrap_or_default()),
            _ => format!("{label}-{date}T{clock}Z"),
        }
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Schedule, ScheduleError> {
        let refused = |cause| ScheduleError { text: text.into(), cause };
        let mut parts: Vec<Vec<&str>> = text.split(';').map(|part| part.split_whitespace().collect()).collect();
        // A semicolon may stand behind the last part.
        if parts.last().is_some_and(Vec::is_empty) {
            parts.pop();
        }
        let mut schedule = Schedule::default();
        for part in parts {
            let (every_ns, keep) = match part[..] {
                ["hourly", "keep", keep] => (HOUR, keep),
                ["daily", "keep", keep] => (DAY, keep),
                ["weekly", "keep", keep] => (WEEK, keep),
                ["every", age, "keep", keep] => {
                    let age =
                        age_of(age).ok_or_else(|| refused("an age is a number with s, m, h, d or w behind it"))?;
                    (age, keep)
                }
                _ => {
                    return Err(refused(
                        "a rule is `hourly keep N`, `daily keep N`, `weekly keep N` or `every AGE keep N`",
                    ));
                }
            };
            let plain = keep.bytes().all(|digit| digit.is_ascii_digit());
            let keep = keep.parse().ok().filter(|_| plain).ok_or_else(|| refused("how many are kept is a number"))?;
            schedule.rules.push(Every { every_ns, keep });
        }
        match schedule.cause() {
            _ if schedule.rules.is_empty() => Err(refused("there is no rule in it")),
            _ if schedule.rules.iter().any(|rule| rule.every_ns < PERIOD_NS_MIN) => {
                Err(refused("a period is 10s at least"))
            }
            Some(cause) => Err(refused(cause)),
            None => Ok(schedule),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, rule) in self.rules.iter().enumerate() {
            let behind = if number > 0 { "; " } else { "" };
            match rule.every_ns {
                HOUR => write!(f, "{behind}hourly keep {}", rule.keep)?,
                DAY => write!(f, "{behind}daily keep {}", rule.keep)?,
                WEEK => write!(f, "{behind}weekly keep {}", rule.keep)?,
                every => write!(f, "{behind}every {} keep {}", Age(every), rule.keep)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::at::is_snapshot_name;
    use proptest::prelude::*;

    fn schedule(text: &str) -> Schedule {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn schedules_are_read_and_printed() {
        for (text, printed) in [
            ("hourly keep 24; daily keep 7; weekly keep 4", "hourly keep 24; daily keep 7; weekly keep 4"),
            (" every 1h  keep 3 ;", "hourly keep 3"),
            ("every 90s keep 2;every 2w keep 1", "every 90s keep 2; every 14d keep 1"),
            ("every 10s keep 1024", "every 10s keep 1024"),
        ] {
            assert_eq!(schedule(text).to_string(), printed);
            assert_eq!(schedule(printed), schedule(text), "{printed}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ";",
            "hourly",
            "hourly 24",
            "hourly keep",
            "hourly keep 0",
            "hourly keep -1",
            "hourly keep +1",
            "hourly keep 24 daily keep 7",
            "hourly keep 24;; daily keep 7",
            "hourly keep 1; every 60m keep 2",
            "every 9s keep 1",
            "every 10 keep 1",
            "monthly keep 1",
            "hourly keep 1024; daily keep 1",
            "hourly keep 99999999999",
            "every 11s keep 1; every 12s keep 1; every 13s keep 1; every 14s keep 1; every 15s keep 1; every 16s keep 1; every 17s keep 1; every 18s keep 1; every 19s keep 1",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_read_by_people() {
        // 2026-11-28T10:31:42Z, a Saturday.
        let now = Tid(1_795_861_902 * SECOND + 5);
        for (text, name) in [
            ("hourly keep 1", "hourly-2026-11-28T1000Z"),
            ("daily keep 1", "daily-2026-11-28"),
            ("weekly keep 1", "weekly-2026-11-23"),
            ("every 15m keep 1", "every-15m-2026-11-28T1030Z"),
            ("every 10s keep 1", "every-10s-2026-11-28T103140Z"),
            ("every 2d keep 1", "every-2d-2026-11-27"),
        ] {
            let rule = schedule(text).rules[0];
            assert_eq!(rule.name(rule.period(now)), name);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(hourly|every)? ?[ 0-9smhdw;a-z]{0,30}( keep 3)?") {
            if let Ok(schedule) = text.parse::<Schedule>() {
                prop_assert!(schedule.is_bounded());
                prop_assert_eq!(schedule.to_string().parse::<Schedule>(), Ok(schedule));
            }
        }

        /// Each moment is in one period, and periods have names of their own that sort as they do.
        #[test]
        fn periods_have_names_that_sort(secs in 10u64..2_000_000, at in 604_800u64 * SECOND..u64::MAX / 2, other in 604_800u64 * SECOND..u64::MAX / 2) {
            let rule = Every { every_ns: secs * SECOND, keep: 1 };
            let (one, two) = (rule.period(Tid(at)), rule.period(Tid(other)));
            prop_assert!(one.0 <= at && at - one.0 < rule.every_ns && rule.period(one) == one);
            prop_assert!(is_snapshot_name(&rule.name(one)), "{}", rule.name(one));
            prop_assert_eq!(rule.name(one).cmp(&rule.name(two)), one.cmp(&two));
        }
    }
}
