//! States that get names by themselves, and whether each period had one, whatever leaders came and went.
//!
//! The log is applied once more, and what each entry did to the names is looked at.

use crate::rest::VOLUME;
use crate::script::What;
use crate::world::World;
use gavel_txn::VolumePast;
use gavel_types::Tid;
use gavel_types::schedule::Every;
use gavel_wire::{Entry, Item, RequestBody};
use std::collections::BTreeSet;

/// A name that is given later than this behind the beginning of its period, in nanoseconds, was given by a leader that came late.
const LATE_NS: u64 = 1_500_000_000;

/// What was made, and how.
#[derive(Default)]
struct Made {
    /// Every period that ever had a name, also one that is gone.
    periods: BTreeSet<(u64, Tid)>,
    late: bool,
    dropped: bool,
}

impl World {
    /// Each period has one name at most, it is given in that period, and to the state of that moment. Only a rule's own oldest names go for
    /// newer ones, and as many stay as the rule says. What was due when it was asked for was made.
    pub(crate) fn check_schedules(&mut self) -> Result<(), String> {
        if !self.script.faults.iter().any(|fault| matches!(fault.what, What::Schedule { .. })) {
            return Ok(());
        }
        let mut made = Made::default();
        self.apply_without_sweeps(|before, entry, after| match (before, after) {
            (Some(before), Some(after)) => made.look(before, entry, after),
            _ => Ok(()),
        })?;
        let marks = [
            ("snapshot_scheduled", !made.periods.is_empty()),
            ("schedule_late", made.late),
            ("schedule_dropped", made.dropped),
        ];
        marks.into_iter().filter(|(_, hit)| *hit).for_each(|(mark, _)| self.cover.hit(mark));
        Ok(())
    }
}

impl Made {
    fn look(&mut self, before: &VolumePast, entry: &Entry, after: &VolumePast) -> Result<(), String> {
        self.look_at_new(before, entry, after)?;
        for (name, snapshot) in before.snapshots.iter().filter(|(name, _)| !after.snapshots.contains_key(*name)) {
            if requests(entry).any(|body| takes_away(body, name)) {
                continue;
            }
            let Some(every_ns) = snapshot.every_ns else {
                return Err(format!("{name} is gone, which nobody has taken away: {entry:?}"));
            };
            self.dropped = true;
            let stay: Vec<Tid> = of_rule(after, every_ns).map(|(tid, _)| tid).collect();
            let rules = before.schedule.iter().chain(&after.schedule);
            let mut keep = rules.filter(|scheduled| scheduled.rule.every_ns == every_ns).map(|some| some.rule.keep);
            if !keep.any(|keep| stay.len() == keep as usize) || stay.iter().any(|tid| *tid <= snapshot.tid) {
                return Err(format!("{name} of {} is gone, and what stays is {stay:?}", snapshot.tid));
            }
        }
        if requests(entry).any(|body| matches!(body, RequestBody::SetSchedule { .. })) {
            return Ok(());
        }
        for (number, item) in entry.items.iter().enumerate() {
            let now = Tid(entry.tid.0 + number as u64);
            let due = matches!(item, Item::NameScheduled { volume } if *volume == VOLUME);
            let rules = before.schedule.iter().filter(|scheduled| due && scheduled.rule.period(now) > scheduled.last);
            for scheduled in rules {
                let period = scheduled.rule.period(now);
                if !self.periods.contains(&(scheduled.rule.every_ns, period)) {
                    return Err(format!("{:?} has no name for the period from {period} on", scheduled.rule));
                }
            }
        }
        Ok(())
    }

    fn look_at_new(&mut self, before: &VolumePast, entry: &Entry, after: &VolumePast) -> Result<(), String> {
        let tids = entry.tid.0..entry.tid.0 + entry.items.len() as u64;
        for (name, snapshot) in after.snapshots.iter().filter(|(name, _)| !before.snapshots.contains_key(*name)) {
            let Some(every_ns) = snapshot.every_ns else { continue };
            let rule = Every { every_ns, keep: 1 };
            let period = rule.period(snapshot.tid);
            if !tids.contains(&snapshot.tid.0) || **name != *rule.name(period) {
                return Err(format!("{name} is of {}, made by {entry:?}", snapshot.tid));
            }
            if !self.periods.insert((every_ns, period)) {
                return Err(format!("{name}: this period had its name before"));
            }
            self.late |= snapshot.tid.0 - period.0 > LATE_NS;
        }
        Ok(())
    }
}

fn requests(entry: &Entry) -> impl Iterator<Item = &RequestBody> {
    entry.items.iter().filter_map(|item| match item {
        Item::Request(request) => Some(&request.body),
        _ => None,
    })
}

fn takes_away(body: &RequestBody, gone: &str) -> bool {
    match body {
        RequestBody::DropSnapshot { name, .. } => **name == *gone,
        RequestBody::RenameSnapshot { from, .. } => **from == *gone,
        _ => false,
    }
}

fn of_rule(past: &VolumePast, every_ns: u64) -> impl Iterator<Item = (Tid, &str)> {
    let made = past.snapshots.iter().filter(move |(_, snapshot)| snapshot.every_ns == Some(every_ns));
    made.map(|(name, snapshot)| (snapshot.tid, &**name))
}
