//! `gavel snapshot`: names for states of a volume.

mod schedule;

use crate::output::{print_json, table};
use crate::target::Target;
use clap::{Args, Subcommand};
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::snapshots::{SnapshotChange, SnapshotLine};
use std::path::PathBuf;
use std::process::ExitCode;

/// Names for states of a volume. Making one takes no time and no space; what it shows is kept until it is deleted.
#[derive(Subcommand)]
#[command(after_help = "Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Example:\n  gavel snapshot create /srv/shared before-upgrade --note 'last good state'\n  ls /srv/shared/@@before-upgrade\n  \
gavel snapshot delete /srv/shared before-upgrade")]
pub enum Snapshot {
    /// Name the present state, or an earlier one
    Create(Create),
    /// Say which there are
    List(List),
    /// Give one another name
    Rename(Rename),
    /// Say anew what one is for
    Note(Note),
    /// Take a name away; what only it kept may be pruned
    Delete(Delete),
    /// Have the cluster make some by itself
    #[command(subcommand)]
    Schedule(schedule::Schedule),
}

/// Names a state.
#[derive(Args)]
pub struct Create {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// The name: letters, digits, `-`, `_` and `.`, beginning with a letter or `_`
    name: String,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    note: String,
    /// Which state: a transaction (0x...), a time (RFC 3339), an age (2h), another snapshot; by default the present
    #[arg(long, value_name = "AT")]
    at: Option<String>,
}

/// Says which snapshots there are, oldest state first.
#[derive(Args)]
pub struct List {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Gives a snapshot another name.
#[derive(Args)]
pub struct Rename {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// The name
    from: String,
    /// The other name
    to: String,
}

/// Says anew what a snapshot is for.
#[derive(Args)]
pub struct Note {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// The name
    name: String,
    /// What it is for; empty: nothing is said
    note: String,
}

/// Takes a snapshot's name away.
#[derive(Args)]
pub struct Delete {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// The name
    name: String,
}

impl Snapshot {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Snapshot::Create(Create { path, name, note, at }) => {
                if let Reply::Snapshot(made) = change(&path, SnapshotChange::Create { name, note, at })? {
                    println!("{} is {} ({})", made.name, made.tid, made.time);
                }
            }
            Snapshot::List(list) => list.run()?,
            Snapshot::Schedule(schedule) => schedule.run()?,
            Snapshot::Rename(Rename { path, from, to }) => {
                change(&path, SnapshotChange::Rename { from, to })?;
            }
            Snapshot::Note(Note { path, name, note }) => {
                change(&path, SnapshotChange::Note { name, note })?;
            }
            Snapshot::Delete(Delete { path, name }) => {
                change(&path, SnapshotChange::Delete { name })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn change(path: &std::path::Path, change: SnapshotChange) -> anyhow::Result<Reply> {
    let target = Target::of(path)?;
    target.ask(&Request::Snapshot { volume: target.volume, change })
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let target = Target::of(&self.path)?;
        let Reply::Snapshots(lines) = target.ask(&Request::Snapshots { volume: target.volume })? else {
            return Err(anyhow::anyhow!("the daemon did not say which snapshots there are"));
        };
        if self.json {
            return print_json(&lines);
        }
        if lines.is_empty() {
            println!("There are no snapshots.");
            return Ok(());
        }
        let row = |line: SnapshotLine| vec![line.name, line.time, line.tid, line.named, line.note];
        println!("{}", table(&["name", "state", "transaction", "made", "note"], lines.into_iter().map(row).collect()));
        Ok(())
    }
}
