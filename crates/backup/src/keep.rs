//! Which backups stay.

use gavel_types::{Retention, Tid};
use std::collections::BTreeSet;

const WEEK_NS: u64 = 7 * 24 * 3600 * 1_000_000_000;
/// The first Monday of the epoch: weeks begin on Mondays.
const FIRST_MONDAY_NS: u64 = 4 * 24 * 3600 * 1_000_000_000;

/// What says which backups stay. The newest one always does: the next one is built upon it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Keep {
    /// All.
    All,
    /// The newest ones, so many.
    Last(usize),
    /// What a policy says, at a time: all that are not older than it keeps everything, and of those that are, the last of each period.
    Policy(Retention, Tid),
}

impl Keep {
    /// Which of these backups stay? They are in their order, the oldest first.
    pub fn of(&self, backups: &[Tid]) -> BTreeSet<Tid> {
        let newest = backups.last().copied();
        let kept: BTreeSet<Tid> = match self {
            Keep::All => backups.iter().copied().collect(),
            Keep::Last(count) => backups.iter().rev().take(*count).copied().collect(),
            Keep::Policy(policy, now) => by_policy(policy, *now, backups),
        };
        kept.into_iter().chain(newest).collect()
    }
}

fn by_policy(policy: &Retention, now: Tid, backups: &[Tid]) -> BTreeSet<Tid> {
    let Some(horizon) = policy.horizon(now) else { return backups.iter().copied().collect() };
    let mut kept: BTreeSet<Tid> = backups.iter().copied().filter(|tid| *tid >= horizon).collect();
    for rule in &policy.rules {
        let oldest = Tid(now.0.saturating_sub(rule.for_ns));
        let every = rule.every_ns.max(1);
        let offset = if every.is_multiple_of(WEEK_NS) { FIRST_MONDAY_NS } else { 0 };
        let period = |tid: &Tid| tid.0.saturating_sub(offset) / every;
        let in_time = backups.iter().filter(|tid| **tid >= oldest);
        // The last one of each period.
        let last: std::collections::BTreeMap<u64, Tid> = in_time.map(|tid| (period(tid), *tid)).collect();
        kept.extend(last.into_values());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3600 * 1_000_000_000;
    const DAY: u64 = 24 * HOUR;

    fn policy(text: &str) -> Retention {
        text.parse().expect("a policy")
    }

    #[test]
    fn the_last_backup_of_each_period_stays() {
        let backups: Vec<Tid> = (0..40 * 4).map(|quarter| Tid(quarter * 6 * HOUR)).collect();
        let now = Tid(40 * DAY - 6 * HOUR);
        let kept = Keep::Policy(policy("keep everything 1d; daily 5d; weekly 3w"), now).of(&backups);
        let days: Vec<u64> = kept.iter().map(|tid| tid.0 / (6 * HOUR)).collect();
        // Weeks end on Sundays: the days 24, 31 and 38 of the epoch come before a Monday. A day has four backups.
        assert_eq!(days, [99, 127, 139, 143, 147, 151, 155, 156, 157, 158, 159]);
    }

    #[test]
    fn the_newest_stays_whatever_is_said() {
        let backups = [Tid(1), Tid(2), Tid(3)];
        assert_eq!(Keep::Last(0).of(&backups), BTreeSet::from([Tid(3)]));
        assert_eq!(Keep::Last(2).of(&backups), BTreeSet::from([Tid(2), Tid(3)]));
        assert_eq!(Keep::Policy(policy("nohistory"), Tid(900 * DAY)).of(&backups), BTreeSet::from([Tid(3)]));
        assert_eq!(Keep::All.of(&backups).len(), 3);
    }

    proptest! {
        #[test]
        fn what_went_once_would_not_be_kept_later(
            backups in prop::collection::btree_set(0u64..400, 1..60), later in 0u64..200,
        ) {
            let backups: Vec<Tid> = backups.into_iter().map(|hours| Tid(hours * HOUR)).collect();
            let policy = policy("keep everything 1d; daily 5d; weekly 3w");
            let now = 400 * HOUR;
            let first = Keep::Policy(policy.clone(), Tid(now)).of(&backups);
            let again: Vec<Tid> = first.iter().copied().collect();
            let then = Tid(now + later * HOUR);
            let kept = |backups: &[Tid]| Keep::Policy(policy.clone(), then).of(backups);
            prop_assert_eq!(kept(&again), kept(&backups));
        }
    }
}
