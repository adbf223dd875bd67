//! `gavel retention`: which past states of a volume stay.

use crate::output::print_json;
use crate::target::Target;
use clap::{Args, Subcommand};
use gavel_runtime::host::control::{Reply, Request};
use gavel_runtime::host::retention::{Preview, RetentionAsk, RetentionStatus};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Which past states of a volume stay. By default all do, for ever.
#[derive(Subcommand)]
#[command(
    after_help = "A policy is `keep everything AGE`, and what stays of what is older: the last state of each hour,\n\
day or week (`hourly AGE`, `daily AGE`, `weekly AGE`, or a period such as `15m AGE`). Snapshots always stay.\n\
`nohistory` keeps nothing else, `keep everything` all.\n\n\
Exit status: 0 done; 1 could not be done; 2 wrong command line.\n\n\
Example:\n  gavel retention set /srv/shared 'keep everything 24h; hourly 7d; daily 60d; snapshots' --dry-run\n  \
gavel retention set /srv/shared 'keep everything 24h; hourly 7d; daily 60d; snapshots'\n  gavel retention show /srv/shared"
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
    /// For programs: everything, as JSON
    #[arg(long)]
    json: bool,
}

/// Sets the policy. What it does not keep goes from then on, and does not come back.
#[derive(Args)]
pub struct Set {
    /// The mount of the volume, or any path in it
    path: PathBuf,
    /// The policy
    policy: String,
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
        let (path, about, json) = match self {
            Retention::Show(Show { path, json }) => (path, RetentionAsk::Show {}, json),
            Retention::Set(Set { path, policy, dry_run, json }) => (path, RetentionAsk::Set { policy, dry_run }, json),
            Retention::Prune(Prune { path, dry_run, json }) => (path, RetentionAsk::Prune { dry_run }, json),
        };
        let status = ask(&path, about)?;
        if json {
            print_json(&status)?;
        } else {
            tell(&status);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn ask(path: &Path, about: RetentionAsk) -> anyhow::Result<RetentionStatus> {
    let target = Target::of(path)?;
    match target.ask(&Request::Retention { volume: target.volume, about })? {
        Reply::Retention(status) => Ok(*status),
        _ => Err(anyhow::anyhow!("the daemon did not say what stays")),
    }
}

fn tell(status: &RetentionStatus) {
    println!("policy:    {}", status.policy);
    println!("whole:     every state since {} ({})", status.horizon_time, status.horizon);
    println!("kept:      {} before that", count(status.kept, "state"));
    println!("needed:    {}, {} by mounts", count(status.snapshots, "snapshot"), count(status.pins, "state"));
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
    println!("not yet:   {} bytes in blobs that these name, which are not collected yet", preview.blob_bytes);
    println!("Nothing was changed.");
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
