//! `gavel snapshot schedule`: snapshots that the cluster makes by itself.

use crate::output::{print_json, table};
use crate::target::Target;
use clap::{Args, Subcommand};
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::snapshots::{RuleLine, ScheduleAsk, ScheduleStatus};
use std::path::PathBuf;

/// Snapshots that the cluster makes by itself, at the beginning of each hour, day or week, and how many of them stay.
#[derive(Subcommand)]
#[command(
    after_help = "A schedule is `hourly keep N`, `daily keep N`, `weekly keep N` or `every AGE keep N` (10s at least), with `;` between.\n\
Hours and days are those of UTC, weeks begin on Mondays. What somebody has made or renamed is never taken away.\n\n\
Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Example:\n  gavel snapshot schedule set /srv/shared 'hourly keep 24; daily keep 7; weekly keep 4'\n  \
gavel snapshot schedule show /srv/shared\n  ls /srv/shared/@@daily-2026-11-28"
)]
pub enum Schedule {
    /// Say which there is, and what it has made
    Show(Show),
    /// Set it
    Set(Set),
    /// Make no more; what was made stays
    Clear(Clear),
}

/// Says which schedule there is, and what it has made.
#[derive(Args)]
pub struct Show {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Sets the schedule. The first snapshot of a rule is made when its next period begins.
#[derive(Args)]
pub struct Set {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// The schedule
    schedule: String,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Makes no more snapshots by itself. What was made stays until it is deleted.
#[derive(Args)]
pub struct Clear {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

impl Schedule {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<()> {
        let (path, about, json) = match self {
            Schedule::Show(Show { path, json }) => (path, ScheduleAsk::Show {}, json),
            Schedule::Set(Set { path, schedule, json }) => (path, ScheduleAsk::Set { schedule }, json),
            Schedule::Clear(Clear { path, json }) => (path, ScheduleAsk::Clear {}, json),
        };
        let target = Target::of(&path)?;
        let Reply::Schedule(status) = target.ask(&Request::Schedule { volume: target.volume, about })? else {
            return Err(anyhow::anyhow!("the daemon did not say which schedule there is"));
        };
        if json {
            return print_json(&status);
        }
        tell(status);
        Ok(())
    }
}

fn tell(status: ScheduleStatus) {
    if status.rules.is_empty() {
        println!("No snapshots are made by themselves.");
        return;
    }
    let missed = status.rules.iter().any(|rule| rule.missed);
    let row = |rule: RuleLine| {
        let newest = rule.newest.unwrap_or_default();
        vec![rule.rule, rule.made.to_string(), newest, if rule.missed { "no room" } else { "" }.into(), rule.next]
    };
    let heads = ["rule", "there are", "newest", "last", "next"];
    println!("{}", table(&heads, status.rules.into_iter().map(row).collect()));
    if missed {
        println!(
            "There were too many snapshots in the cluster to make another one: delete some (gavel snapshot list)."
        );
    }
}
