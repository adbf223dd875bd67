//! `gavel backup prune`: removes backups, and what only they needed.

use super::folder::Purpose;
use super::key::KeyArgs;
use super::{now_ns, open, told};
use crate::output::{hinted, print_json, spinner};
use clap::Args;
use gavel_backup::keep::Keep;
use gavel_backup::prune::prune;
use gavel_types::{At, Retention, Tid};
use indicatif::HumanBytes;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Removes backups, and what only they needed. The newest one always stays: the next is built upon it.
#[derive(Args)]
#[command(
    after_help = "Without --keep, --keep-last or --remove, only what no backup needs goes: what was left over.\n\n\
Examples:\n  gavel backup prune /backups/main --keep 'keep everything 2d; daily 30d; weekly 52w' --dry-run\n  \
gavel backup prune /backups/main --keep-last 7\n  gavel backup prune /backups/main --remove 0x18c4a3f0a1b2c3d4"
)]
pub struct Prune {
    /// The folder
    dir: PathBuf,
    #[command(flatten)]
    key: KeyArgs,
    /// Which stay: a policy as `gavel retention` has them, by the age of each backup's state
    #[arg(long, value_name = "POLICY", conflicts_with_all = ["keep_last", "remove"])]
    keep: Option<Retention>,
    /// Which stay: the newest ones, so many
    #[arg(long, value_name = "N", conflicts_with = "remove")]
    keep_last: Option<usize>,
    /// Which goes; may be given more than once
    #[arg(long, value_name = "BACKUP")]
    remove: Vec<At>,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Part of the machine-readable output: fields are only added.
#[derive(Serialize)]
struct Line {
    dry_run: bool,
    kept: Vec<String>,
    removed: Vec<String>,
    /// Files that went, those of backups among them, and their bytes.
    files: u64,
    bytes: u64,
}

impl Prune {
    /// # Errors
    /// Why nothing, or not all, was removed.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let repository = open(&self.dir, Purpose::Remove, &self.key)?;
        let tids = repository.tids().map_err(told)?;
        let keep = match (&self.keep, self.keep_last) {
            (Some(policy), _) => Keep::Policy(policy.clone(), Tid(now_ns())),
            (None, Some(count)) => Keep::Last(count),
            (None, None) => Keep::All,
        };
        let mut keep = keep.of(&tids);
        for at in &self.remove {
            let At::Tid(tid) = at else {
                return Err(hinted(format!("{at:?}: no backup"), "name it by its state: 0x..."));
            };
            if !keep.remove(tid) {
                let hint = "gavel backup list DIR says which there are";
                return Err(hinted(format!("there is no backup of state {tid}"), hint));
            }
        }
        let spinner = spinner("looking at what the backups need");
        let pruned = prune(&repository, &keep, self.dry_run);
        spinner.finish_and_clear();
        let pruned = pruned.map_err(|error| match error.is_damage() {
            true => hinted(
                format!("{error}; a backup that is to stay needs it: nothing was removed"),
                "gavel backup verify DIR says which backups are damaged; gavel backup prune DIR --remove BACKUP --remove BACKUP ... removes those",
            ),
            false => told(error),
        })?;
        let texts = |tids: &[Tid]| tids.iter().map(ToString::to_string).collect();
        let line = Line {
            dry_run: self.dry_run,
            kept: texts(&pruned.kept),
            removed: texts(&pruned.removed),
            files: pruned.files,
            bytes: pruned.bytes,
        };
        if self.json {
            print_json(&line)?;
        } else {
            tell(&line);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(line: &Line) {
    let went = if line.dry_run { "would go" } else { "went" };
    line.removed.iter().for_each(|backup| println!("{backup} {went}"));
    let (kept, removed) = (line.kept.len(), line.removed.len());
    println!("{removed} backups {went}, {kept} stay; {} files, {} {went}", line.files, HumanBytes(line.bytes));
    if line.dry_run {
        println!("Nothing was changed.");
    }
}
