//! `AT`: what a state of the past is called. `docs/protocols/history.md` has the forms.

use crate::limits::SNAPSHOT_NAME_BYTES_MAX;
use crate::{Tid, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime, UtcDateTime};

const NANOS: u64 = 1_000_000_000;

/// A name for a state of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum At {
    /// As of this transaction.
    Tid(Tid),
    /// The last state that is not later than this time, which is written as the Tid of its nanosecond.
    Time(Tid),
    /// The last state that is at least so many nanoseconds old.
    Age(u64),
    /// The state that has this snapshot's name.
    Snapshot(Box<str>),
}

/// A text that names no state.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{text:?} is neither a transaction (0x18c4...), nor a time (2026-11-28T06:30:00Z, 2026-11-28), nor an age (90s, 15m, 2h, 3d, 2w), nor a snapshot's name"
)]
pub struct AtError {
    /// The text.
    pub text: String,
}

impl FromStr for At {
    type Err = AtError;

    fn from_str(text: &str) -> Result<At, AtError> {
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => tid(digits).map(At::Tid),
            None if is_snapshot_name(text) => Some(At::Snapshot(text.into())),
            None => age(text).or_else(|| time_of(text)),
        };
        parsed.ok_or_else(|| AtError { text: text.into() })
    }
}

/// A text that is no transaction.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is no transaction (0x18c4...)")]
pub struct TidError {
    /// The text.
    pub text: String,
}

impl FromStr for Tid {
    type Err = TidError;

    fn from_str(text: &str) -> Result<Tid, TidError> {
        text.strip_prefix("0x").and_then(tid).ok_or_else(|| TidError { text: text.into() })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Tid(tid) => write!(f, "{tid}"),
            At::Time(tid) => write!(f, "{}", Timestamp::of_tid(*tid)),
            At::Age(ns) => write!(f, "{}s", ns / NANOS),
            At::Snapshot(name) => write!(f, "{name}"),
        }
    }
}

/// May a snapshot have this name? It begins with a letter or `_`, so that it looks like no other form; what follows are letters, digits, and `-`, `_` and `.`.
pub fn is_snapshot_name(name: &str) -> bool {
    let starts = name.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_');
    starts
        && name.len() <= SNAPSHOT_NAME_BYTES_MAX
        && name.chars().all(|char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.'))
}

fn tid(digits: &str) -> Option<Tid> {
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten().map(Tid)
}

fn age(text: &str) -> Option<At> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let secs = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    let plain = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    let number: u64 = plain.then(|| number.parse().ok()).flatten()?;
    number.checked_mul(secs)?.checked_mul(NANOS).map(At::Age)
}

fn time_of(text: &str) -> Option<At> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(|| {
        // A date begins at midnight, UTC.
        let mut parts = text.split('-');
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let plain = digits && parts.next().is_none() && (year.len(), month.len(), day.len()) == (4, 2, 2);
        let month: u8 = month.parse().ok().filter(|_| plain)?;
        let date = Date::from_calendar_date(year.parse().ok()?, month.try_into().ok()?, day.parse().ok()?);
        Some(date.ok()?.midnight().assume_utc())
    })?;
    // Before the first Tid nothing was, and behind the last one nothing will be.
    Some(At::Time(Tid(u64::try_from(time.unix_timestamp_nanos().max(0)).unwrap_or(u64::MAX))))
}

/// As RFC 3339 has it, in UTC and to the second; the seconds since the epoch if there is no such date.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(time) = UtcDateTime::from_unix_timestamp(self.secs) else { return write!(f, "{}", self.secs) };
        let (date, clock) = (time.date(), time.time());
        let (year, month, day) = date.to_calendar_date();
        let (month, hour, minute, second) = (u8::from(month), clock.hour(), clock.minute(), clock.second());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_forms_are_read() {
        let tid = |secs: u64| Tid(secs * NANOS);
        for (text, at) in [
            ("0x10", At::Tid(Tid(16))),
            ("0xffffffffffffffff", At::Tid(Tid::MAX)),
            ("90s", At::Age(90 * NANOS)),
            ("2h", At::Age(7_200 * NANOS)),
            ("3d", At::Age(259_200 * NANOS)),
            ("2w", At::Age(1_209_600 * NANOS)),
            ("1970-01-02", At::Time(tid(86_400))),
            ("1969-12-31", At::Time(Tid(0))),
            ("2999-01-01", At::Time(Tid::MAX)),
            ("2000-02-29T00:00:01Z", At::Time(tid(951_782_401))),
            ("2000-02-29T01:00:01+01:00", At::Time(tid(951_782_401))),
            ("1970-01-01T00:00:00.000000005Z", At::Time(Tid(5))),
            ("before-upgrade", At::Snapshot("before-upgrade".into())),
            ("täglich.2026-11-28", At::Snapshot("täglich.2026-11-28".into())),
        ] {
            assert_eq!(text.parse(), Ok(at), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let long = "x".repeat(SNAPSHOT_NAME_BYTES_MAX + 1);
        for text in [
            "",
            "0x",
            "0x+1",
            "0xg",
            "0x10000000000000000",
            "-2h",
            "+2h",
            "2",
            "2y",
            "2.5h",
            "99999999999999w",
            "2000-02-30",
            "2000-2-3",
            "+200-01-01",
            "a/b",
            "a@@b",
            "a b",
            ".a",
            "-a",
            "2000-02-29T00:00:01",
            &long,
        ] {
            assert!(text.parse::<At>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_are_dates() {
        let date = |secs| Timestamp { secs, nanos: 5 }.to_string();
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date(-1), "1969-12-31T23:59:59Z");
        assert_eq!(date(i64::MAX), i64::MAX.to_string());
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(tid in any::<u64>(), secs in 0u64..4_000_000_000) {
            for at in [At::Tid(Tid(tid)), At::Time(Tid(secs * NANOS)), At::Age(secs * NANOS)] {
                prop_assert_eq!(at.to_string().parse(), Ok(at));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            if let Ok(at) = text.parse::<At>() {
                let _ = at.to_string();
            }
        }
    }
}
