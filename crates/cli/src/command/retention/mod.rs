//! `gavel retention`: which past states of a volume stay.

use crate::output::print_json;
use crate::target::Target;
use clap::{Args, Subcommand};
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::retention::{Preview, RetentionAsk, RetentionStatus};
use std::path::PathBuf;
use std::process::ExitCode;

/// What says that a path keeps what its volume keeps.
const AS_THE_VOLUME: &str = "volume";

/// Which past states of a volume stay. By default all do, for ever.
#[derive(Subcommand)]
#[command(
    after_help = "A policy is `keep everything AGE`, and what stays of what is older: the last state of each hour,\n\
day or week (`hourly AGE`, `daily AGE`, `weekly AGE`, or a period such as `15m AGE`). Snapshots always stay.\n\
`nohistory` keeps nothing else, `keep everything` all. With --dir, it is about a directory (or file) and all that lies\n\
below it, which may keep less than the volume; what is made there later goes on like that. `volume` takes that back.\n\n\
Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Example:\n  gavel retention set /srv/shared 'keep everything 24h; hourly 7d; daily 60d; snapshots' --dry-run\n  \
gavel retention set /srv/shared 'keep everything 24h; hourly 7d; daily 60d; snapshots'\n  gavel retention show /srv/shared\n  gavel retention set --dir /srv/shared/build nohistory"
)]
pub enum Retention {
    /// Say what stays
    Show(Show),
    /// Set the policy
    Set(Set),
    /// Prune now, as the policy says
    Prune(Prune),
}

/// Says what stays.
#[derive(Args)]
pub struct Show {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// Only of this path
    #[arg(long)]
    dir: bool,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Sets the policy. What it does not keep goes from then on, and does not come back.
#[derive(Args)]
pub struct Set {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// The policy; with --dir also `volume`
    policy: String,
    /// Only of this path and what lies below it
    #[arg(long)]
    dir: bool,
    /// Only say how much would go
    #[arg(long)]
    dry_run: bool,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Prunes now, as the policy says. (It happens by itself, too.)
#[derive(Args)]
pub struct Prune {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// Only say how much would go
    #[arg(long)]
    dry_run: bool,
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

impl Retention {
    /// # Errors
    /// Why it could not be done.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let (path, json) = match &self {
            Retention::Show(Show { path, json, .. })
            | Retention::Set(Set { path, json, .. })
            | Retention::Prune(Prune { path, json, .. }) => (path, *json),
        };
        let target = Target::of(path)?;
        let within = target.path.clone();
        let about = match self {
            Retention::Show(Show { dir: true, .. }) => RetentionAsk::ShowOf { path: within },
            Retention::Show(_) => RetentionAsk::Show {},
            Retention::Set(Set { dir: true, policy, dry_run, .. }) => {
                let policy = Some(policy).filter(|policy| policy != AS_THE_VOLUME);
                let uid = rustix::process::geteuid().as_raw();
                RetentionAsk::SetOf { path: within, policy, dry_run, uid }
            }
            Retention::Set(Set { policy, dry_run, .. }) => RetentionAsk::Set { policy, dry_run },
            Retention::Prune(Prune { dry_run, .. }) => RetentionAsk::Prune { dry_run },
        };
        let status = ask(&target, about)?;
        if json {
            print_json(&status)?;
        } else {
            tell(&status);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn ask(target: &Target, about: RetentionAsk) -> anyhow::Result<RetentionStatus> {
    match target.ask(&Request::Retention { volume: target.volume, about })? {
        Reply::Retention(status) => Ok(*status),
        _ => Err(anyhow::anyhow!("the daemon did not say what stays")),
    }
}

fn tell(status: &RetentionStatus) {
    println!("policy:    {}", status.policy);
    println!("whole:     every state since {} ({})", status.horizon_time, status.horizon);
    println!("kept:      {} before that", count(status.kept, "state"));
    status.others.iter().for_each(|policy| println!("some keep: {policy}"));
    if let Some(changed) = status.changed {
        println!("changed:   {}", count(changed, "object"));
    }
    println!("needed:    {}, {} by mounts", count(status.snapshots, "snapshot"), count(status.pins, "state"));
    status.waits_for.iter().for_each(|mirror| println!("waits for: mirror {mirror}"));
    match &status.preview {
        Some(preview) => tell_preview(preview),
        None if status.sweeping => println!("pruning:   what was pruned is being removed"),
        None => println!("pruning:   nothing is left to remove"),
    }
}

fn tell_preview(preview: &Preview) {
    let least = if preview.partial { "at least " } else { "" };
    println!("would be:  every state since {}, {} before that", preview.horizon_time, count(preview.kept, "state"));
    println!(
        "would go:  {least}{} of {} ({} bytes)",
        count(preview.versions, "version"),
        preview.looked_at,
        preview.bytes
    );
    println!("in blobs:  {} bytes that only these name: they come back a few minutes later", preview.blob_bytes);
    println!("Nothing was changed.");
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
